//! Reads a log's lines, also while it is being written.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::directory;
use crate::error::AuditError;
use crate::line::{Line, MAX_LINE_BYTES};

/// A line as it lies in a file.
#[derive(Debug)]
pub(crate) struct RawLine {
    /// Without the line feed, and cut where it is longer than any line of ours.
    pub content: Vec<u8>,
    /// Whether it was cut.
    pub is_too_long: bool,
}

/// The lines of a file, each in bounded memory.
pub(crate) struct Lines<Source>(BufReader<Source>);

impl<Source: Read> Lines<Source> {
    pub(crate) fn new(source: Source) -> Self {
        Self(BufReader::with_capacity(64 << 10, source))
    }

    fn read(&mut self) -> io::Result<Option<RawLine>> {
        let mut content = Vec::new();
        (&mut self.0).take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut content)?;
        if content.is_empty() {
            return Ok(None);
        }
        let is_ended = content.pop_if(|last| *last == b'\n').is_some();
        let is_too_long = !is_ended && content.len() == MAX_LINE_BYTES;
        Ok(Some(RawLine { content, is_too_long }))
    }
}

impl<Source: Read> Iterator for Lines<Source> {
    type Item = io::Result<RawLine>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// A line of a [`Tail`].
#[derive(Debug, Clone)]
pub struct TailLine {
    /// As it stands in the file, without its line feed.
    pub text: Vec<u8>,
    /// What it says, where it says something.
    pub line: Option<Line>,
}

/// Reads the lines of a log one after the other, file after file. At its end it gives `None`, and goes on where more
/// has been written meanwhile. It checks nothing: [`crate::verify()`] does.
pub struct Tail {
    directory: PathBuf,
    number: u64,
    file: BufReader<File>,
    /// The beginning of a line whose end is not written yet.
    begun: Vec<u8>,
}

impl Tail {
    /// Begins with the oldest line.
    ///
    /// # Errors
    /// [`AuditError`] where there is no log, or it cannot be read.
    pub fn new(directory: &Path) -> Result<Self, AuditError> {
        let numbers = directory::numbered(directory)?;
        let number = *numbers.first().ok_or_else(|| AuditError::NoLog { path: directory.to_owned() })?;
        Ok(Self { directory: directory.to_owned(), number, file: open(directory, number)?, begun: Vec::new() })
    }

    /// The next line.
    ///
    /// # Errors
    /// [`AuditError::File`] where the log cannot be read.
    #[expect(clippy::should_implement_trait, reason = "an iterator that has ended does not go on")]
    pub fn next(&mut self) -> Result<Option<TailLine>, AuditError> {
        loop {
            let path = directory::path_of(&self.directory, self.number);
            let room = MAX_LINE_BYTES.saturating_sub(self.begun.len()).max(1) as u64;
            let read = (&mut self.file).take(room).read_until(b'\n', &mut self.begun);
            read.map_err(AuditError::file("read", &path))?;
            if self.begun.pop_if(|last| *last == b'\n').is_some() || self.begun.len() >= MAX_LINE_BYTES {
                let text = std::mem::take(&mut self.begun);
                let line = Line::read(&text);
                return Ok(Some(TailLine { text, line }));
            }
            let numbers = directory::numbered(&self.directory)?;
            let Some(next) = numbers.into_iter().find(|number| *number > self.number) else { return Ok(None) };
            // Nothing is appended to a file any more once there is a next, but something may have been just before.
            let more = self.file.fill_buf().map_err(AuditError::file("read", &path))?;
            if more.is_empty() {
                self.file = open(&self.directory, next)?;
                self.number = next;
                self.begun.clear();
            }
        }
    }
}

fn open(directory: &Path, number: u64) -> Result<BufReader<File>, AuditError> {
    let path = directory::path_of(directory, number);
    File::open(&path).map(BufReader::new).map_err(AuditError::file("open", &path))
}
