//! Appends lines to the files, and takes up where another process has ended.
//!
//! A line is written whole or, as far as it depends on us, not at all: what a failed write has left is cut off again.
//! What a process that was killed has left stays as it is; the next line tells its length and hash.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use stepbox_trust::{Digest, PublicKey, SigningKey, replace_file};

use crate::directory;
use crate::error::AuditError;
use crate::head;
use crate::line::{self, Anchor, Line, MAX_LINE_BYTES, Repeated, Torn};
use crate::log::{AuditConfig, MIN_FILE_BYTES};
use crate::record::{Outcome, Record};

/// How long a line may be in the file before it is made sure that it is on disk.
pub const MAX_UNSYNCED: Duration = Duration::from_secs(1);

/// How much of a file's end is looked at for the last line.
const END_BYTES: u64 = 4 * MAX_LINE_BYTES as u64;

/// What a process finds wrong with the log that it takes up. It goes on, and the log has a line about it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// The log ends before a line that had been written.
    EndMissing {
        /// The last line that is there, 0 for none.
        last: u64,
        /// The line that had been written, as `audit.head` has it.
        written: u64,
    },
    /// Its last line is there, and is not the one that had been written under this number.
    EndChanged {
        /// The line's number.
        line: u64,
    },
    /// There are lines, and no head that says, signed, which is the newest.
    HeadMissing,
    /// Its last lines are not signed with the server's key, or cannot be read at all.
    NotOurs,
}

impl Damage {
    /// The line about it.
    pub(crate) fn record(&self) -> Record {
        let (code, reason) = match self {
            Self::EndMissing { last, written } => (
                "end-missing",
                format!(
                    "the log ended with line {last}, but line {written} had been written (audit.head): lines were removed"
                ),
            ),
            Self::EndChanged { line } => {
                ("end-changed", format!("line {line} is not the one that had been written (audit.head)"))
            }
            Self::HeadMissing => (
                "head-missing",
                "audit.head was not there, or not ours: whether lines were removed at the end cannot be told"
                    .to_owned(),
            ),
            Self::NotOurs => ("not-ours", "the log's last lines are not signed with the server's key".to_owned()),
        };
        Record { code: code.into(), reason, ..Record::new("audit", Outcome::Noted) }
    }
}

/// A log that is being written.
#[derive(Debug)]
pub(crate) struct Chain {
    config: AuditConfig,
    key: SigningKey,
    file: File,
    number: u64,
    /// Of the file, up to the last whole line.
    length: u64,
    /// A failed write has left something behind this length that could not be cut off.
    has_rest: bool,
    newest: Anchor,
    torn: Option<Torn>,
    is_synced: bool,
    _lock: File,
}

/// How a log ends.
struct End {
    newest: Option<Anchor>,
    torn: Option<Torn>,
    is_ours: bool,
}

impl Chain {
    /// Opens a log, or begins one.
    pub(crate) fn open(mut config: AuditConfig, key: SigningKey) -> Result<(Self, Vec<Damage>), AuditError> {
        config.file_bytes = config.file_bytes.max(MIN_FILE_BYTES);
        config.files = config.files.max(2);
        directory::make(&config.directory)?;
        let lock = directory::lock(&config.directory)?;
        let public_key = key.public_key();
        publish(&config, &public_key)?;
        let mut damages = Vec::new();

        let numbers = directory::numbered(&config.directory)?;
        let mut end = End { newest: None, torn: None, is_ours: true };
        // The last file may have no line yet.
        for number in numbers.iter().rev() {
            end = end_of(&config, *number, &public_key, end.torn)?;
            if end.newest.is_some() || !end.is_ours {
                break;
            }
        }
        if !end.is_ours {
            damages.push(Damage::NotOurs);
        }
        let mut newest = end.newest.unwrap_or_else(nothing);
        let head = head(&config, &public_key);
        if let Some(head) = head {
            if head.sequence > newest.sequence {
                damages.push(Damage::EndMissing { last: newest.sequence, written: head.sequence });
                // A number is used once: who kept a removed line can show that it was there.
                newest.sequence = head.sequence;
            } else if head.sequence == newest.sequence && head.hash != newest.hash {
                damages.push(Damage::EndChanged { line: head.sequence });
            }
        } else if end.newest.is_some() && end.is_ours {
            damages.push(Damage::HeadMissing);
        }

        let number = numbers.last().copied().unwrap_or(1);
        let path = directory::path_of(&config.directory, number);
        let mut file = match numbers.is_empty() {
            true => directory::begin(&config.directory, number).map_err(AuditError::file("make", &path))?,
            false => directory::go_on(&path)?,
        };
        let length = end_with_line_feed(&mut file).map_err(AuditError::file("write", &path))?;
        let mut chain = Self {
            config,
            key,
            file,
            number,
            length,
            has_rest: false,
            newest,
            torn: end.torn,
            is_synced: true,
            _lock: lock,
        };
        // From the first line on there is one, so that one that is missing was taken away.
        let path = chain.config.directory.join(directory::HEAD_FILE);
        chain.is_synced = head.is_some_and(|head| head.sequence >= chain.newest.sequence);
        chain.sync().map_err(AuditError::file("write", &path))?;
        Ok((chain, damages))
    }

    /// The newest line.
    pub(crate) fn newest(&self) -> Anchor {
        self.newest
    }

    /// Whether everything is on disk.
    pub(crate) fn is_synced(&self) -> bool {
        self.is_synced
    }

    /// Appends a line for each of these, or none of them.
    pub(crate) fn append(&mut self, records: &[(Record, Option<Repeated>)]) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        if self.has_rest {
            self.torn = self.rest()?;
            self.length = end_with_line_feed(&mut self.file)?;
            self.has_rest = false;
        }
        if self.length > 0 && self.length >= self.config.file_bytes {
            self.rotate()?;
        }
        let (mut newest, mut torn) = (self.newest, self.torn.clone());
        let mut bytes = Vec::new();
        for (record, repeated) in records {
            let line = Line {
                sequence: newest.sequence + 1,
                time: record.time,
                server: self.config.server.clone(),
                record: record.clone().bounded(),
                repeated: repeated.clone(),
                torn: torn.take(),
                previous: newest.hash,
            }
            .sign(&self.key);
            newest = Anchor { sequence: newest.sequence + 1, hash: Digest::of(&line) };
            bytes.extend_from_slice(&line);
        }
        if let Err(error) = self.file.write_all(&bytes) {
            self.has_rest = self.file.set_len(self.length).is_err();
            return Err(error);
        }
        self.length += bytes.len() as u64;
        self.newest = newest;
        self.torn = torn;
        self.is_synced = false;
        Ok(())
    }

    /// Makes sure that everything is on disk, and notes the newest line as the log's head.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        if !self.is_synced {
            self.file.sync_data()?;
            let head = head::sign(self.newest, &self.config.server, &self.key);
            replace_file(&self.config.directory.join(directory::HEAD_FILE), &head)?;
            self.is_synced = true;
        }
        Ok(())
    }

    /// What a failed write has left.
    fn rest(&mut self) -> io::Result<Option<Torn>> {
        let length = self.file.metadata()?.len();
        let (rest, _) = directory::end_of(&mut self.file, length.saturating_sub(self.length))?;
        Ok(torn(&rest))
    }

    /// Goes on in a new file, and removes the oldest ones.
    fn rotate(&mut self) -> io::Result<()> {
        self.sync()?;
        let file = directory::begin(&self.config.directory, self.number + 1)?;
        (self.file, self.number, self.length) = (file, self.number + 1, 0);
        let numbers = directory::numbered(&self.config.directory).map_err(io::Error::other)?;
        let too_many = numbers.len().saturating_sub(self.config.files);
        for pair in numbers.windows(2).take(too_many) {
            let [oldest, next] = [pair[0], pair[1]].map(|number| directory::path_of(&self.config.directory, number));
            let through = first_sequence(&next)?.saturating_sub(1);
            let name = oldest.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let retired = Record { code: "retired".into(), subject: name, ..Record::new("audit", Outcome::Noted) };
            // On disk before the file is gone: a crash in between is not to look like tampering.
            self.append(&[(retired.with("through", through), None)])?;
            self.sync()?;
            fs::remove_file(&oldest)?;
            tracing::info!(file = %oldest.display(), through, "the oldest file of the audit log is removed (audit.files)");
        }
        Ok(())
    }
}

fn nothing() -> Anchor {
    Anchor { sequence: 0, hash: line::no_line() }
}

fn torn(rest: &[u8]) -> Option<Torn> {
    let rest = rest.strip_suffix(b"\n").unwrap_or(rest);
    (!rest.is_empty()).then(|| Torn { bytes: rest.len() as u64, sha256: Digest::of(rest) })
}

/// Gives the length.
fn end_with_line_feed(file: &mut File) -> io::Result<u64> {
    let (last, _) = directory::end_of(file, 1)?;
    if !matches!(last.as_slice(), [] | [b'\n']) {
        file.write_all(b"\n")?;
    }
    Ok(file.metadata()?.len())
}

/// Finds the last line of a file that we have signed, and what lies behind it. `after` is what lies in files after it.
fn end_of(config: &AuditConfig, number: u64, key: &PublicKey, after: Option<Torn>) -> Result<End, AuditError> {
    let path = directory::path_of(&config.directory, number);
    let mut file = File::open(&path).map_err(AuditError::file("open", &path))?;
    let (bytes, is_all) = directory::end_of(&mut file, END_BYTES).map_err(AuditError::file("read", &path))?;
    // The first may be the end of a line only.
    let skipped =
        if is_all { 0 } else { bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1) };
    let mut end = bytes.len();
    let lines: Vec<&[u8]> = bytes[skipped..].split_inclusive(|byte| *byte == b'\n').collect();
    for line in lines.iter().rev() {
        let content = line.strip_suffix(b"\n").unwrap_or(line);
        if line::is_signed(content, std::slice::from_ref(key))
            && let Some(read) = Line::read(content)
        {
            let anchor = Anchor { sequence: read.sequence, hash: line::hash(content) };
            let rest = torn(&bytes[end..]).or(after);
            return Ok(End { newest: Some(anchor), torn: rest, is_ours: true });
        }
        end -= line.len();
    }
    // A line of another key's is gone on from, so that the chain at least is whole.
    let readable = lines.iter().rev().find_map(|line| {
        let content = line.strip_suffix(b"\n").unwrap_or(line);
        Line::read(content).map(|read| (read.sequence, content))
    });
    if let Some((sequence, content)) = readable {
        let anchor = Anchor { sequence, hash: line::hash(content) };
        return Ok(End { newest: Some(anchor), torn: None, is_ours: false });
    }
    Ok(End { newest: None, torn: torn(&bytes).or(after), is_ours: is_all })
}

/// The head that we have signed.
fn head(config: &AuditConfig, key: &PublicKey) -> Option<Anchor> {
    let bytes = fs::read(config.directory.join(directory::HEAD_FILE)).ok()?;
    head::read(&bytes, std::slice::from_ref(key))
}

/// Puts the public key beside the files.
fn publish(config: &AuditConfig, key: &PublicKey) -> Result<(), AuditError> {
    let path: PathBuf = config.directory.join(directory::PUBLIC_KEY_FILE);
    replace_file(&config.directory.join(directory::PUBLIC_KEY_FILE), key.to_pem().as_bytes())
        .map_err(AuditError::file("write", &path))
}

fn first_sequence(path: &std::path::Path) -> io::Result<u64> {
    for line in crate::tail::Lines::new(File::open(path)?) {
        // What lies before the first line is the rest of one that was not written to its end.
        if let Some(line) = Line::read(&line?.content) {
            return Ok(line.sequence);
        }
    }
    Ok(0)
}
