//! A folder with everything: `results.json`, `results.md`, and a chart in each SVG.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::table::markdown;
use crate::{BenchError, Findings, Machine, Row};

/// When, with what and on what figures were taken.
#[derive(Debug, Clone, Serialize)]
pub struct About {
    /// Day and time, in UTC.
    pub date: String,
    /// The program and its version.
    pub stepbox: String,
    /// The commit that it was built from, where that is known.
    pub commit: Option<String>,
    /// Whether it was a quick run, whose figures say little.
    pub quick: bool,
    /// The machine.
    pub machine: Machine,
}

#[derive(Serialize)]
struct Results<'a> {
    about: &'a About,
    rows: &'a [Row],
    notes: &'a [String],
}

/// Writes the folder; makes it if it is not there, and replaces what an earlier run has left.
///
/// # Errors
/// A file cannot be written.
pub fn write(folder: &Path, about: &About, findings: &Findings) -> Result<(), BenchError> {
    let write = |name: &str, content: &str| {
        let path = folder.join(name);
        fs::write(&path, content).map_err(BenchError::system(format!("write {}", path.display())))
    };
    fs::create_dir_all(folder).map_err(BenchError::system(format!("make the folder {}", folder.display())))?;
    let results = Results { about, rows: &findings.rows, notes: &findings.notes };
    let json =
        serde_json::to_string_pretty(&results).map_err(|error| BenchError::system("write JSON")(error.into()))?;
    write("results.json", &(json + "\n"))?;
    for chart in &findings.charts {
        write(&format!("{}.svg", chart.file), &chart.svg())?;
    }
    // Where the documentation is, it has a page on them.
    let readme = folder.join("README.md").exists();
    write("results.md", &page(about, findings, readme))
}

fn page(about: &About, findings: &Findings, readme: bool) -> String {
    let commit = about.commit.as_ref().map_or(String::new(), |commit| format!(" (commit {commit})"));
    let quick = if about.quick { "\nA quick run on small sizes: these figures say little.\n" } else { "" };
    let readme = if readme { "; [how to read them](README.md)" } else { "" };
    let mut page = format!(
        "# Figures\n\nMade by `stepbox bench` and not to be edited{readme}.\n\n\
         {}{commit}, {}, on {}.\n{quick}\n",
        about.stepbox,
        about.date,
        about.machine.line()
    );
    for note in &findings.notes {
        page += &format!("- {note}\n");
    }
    if !findings.notes.is_empty() {
        page.push('\n');
    }
    for chart in &findings.charts {
        page += &format!("![{}]({}.svg)\n\n", chart.title, chart.file);
    }
    page + &markdown(&findings.rows) + "\n"
}
