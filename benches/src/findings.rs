//! What a benchmark found, and how it is asked for.

use std::path::{Path, PathBuf};

use crate::report::Chart;
use crate::{BenchError, Row};

/// What a benchmark found.
#[derive(Debug, Default)]
pub struct Findings {
    /// The figures.
    pub rows: Vec<Row>,
    /// What a person should know of them besides, a sentence each.
    pub notes: Vec<String>,
    /// Pictures of them.
    pub charts: Vec<Chart>,
}

impl Findings {
    /// Adds what another benchmark found.
    pub fn add(&mut self, other: Self) {
        self.rows.extend(other.rows);
        self.notes.extend(other.notes);
        self.charts.extend(other.charts);
    }
}

/// How a benchmark is run.
pub struct Effort<'a> {
    /// Few repetitions on small sizes, to see that everything works; the figures say little.
    pub quick: bool,
    /// Told what is measured next.
    pub progress: &'a dyn Fn(&str),
}

impl Effort<'_> {
    /// One of two, by effort.
    pub fn either<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }
}

/// The folder of components that `cargo xtask guests` makes.
#[derive(Debug, Clone)]
pub struct Components(pub PathBuf);

impl Components {
    /// The bytes of a component, such as `adamw` or `benches/list-copying`.
    ///
    /// # Errors
    /// It is not there.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, BenchError> {
        read_component(&self.0.join(format!("{name}.wasm")))
    }
}

/// The bytes of a component's file.
pub(crate) fn read_component(path: &Path) -> Result<Vec<u8>, BenchError> {
    std::fs::read(path).map_err(|source| BenchError::NoComponent { path: path.to_owned(), source })
}

/// A number of parameters as people write it: `64 Ki`, `16 Mi`, `10000`.
pub fn count(parameters: usize) -> String {
    match parameters {
        0 => "0".into(),
        _ if parameters.is_multiple_of(1 << 20) => format!("{} Mi", parameters >> 20),
        _ if parameters.is_multiple_of(1 << 10) => format!("{} Ki", parameters >> 10),
        _ => parameters.to_string(),
    }
}
