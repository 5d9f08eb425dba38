//! Finds what has been changed in a log.
//!
//! What can be found depends on what the attacker has. Without the server's key nobody can change, remove, repeat, move
//! or add a line but at the end: every line has a signature, its number, and the hash of the one before. Lines removed
//! at the end are found by an anchor. With the server's key an attacker can write another log from any line on; only an
//! anchor kept elsewhere, or the lines themselves kept elsewhere, shows that.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;
use stepbox_trust::{Digest, PublicKey};

use crate::cut_off::is_cut_off;
use crate::directory::HEAD_FILE;
use crate::error::AuditError;
use crate::head;
use crate::line::{self, Anchor, Line, MAX_LINE_BYTES};
use crate::record::{START, STOP};
use crate::tail::{Lines, RawLine};

/// Findings that are listed; further ones are counted.
pub const MAX_FINDINGS: usize = 100;

/// The longest rest of a write that was cut off.
const MAX_REST_BYTES: usize = 8 * MAX_LINE_BYTES;

/// What is wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of thing.
    pub kind: FindingKind,
    /// In which file; none for what is nowhere.
    pub file: Option<PathBuf>,
    /// In which line of the file, counted from 1.
    pub line: Option<u64>,
    /// For people.
    pub message: String,
}

/// What kind of thing is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FindingKind {
    /// A line that none of the keys has signed: edited, added, or of another server.
    BadSignature,
    /// Lines between others are missing.
    Missing,
    /// A line stands where it does not belong, or stands there again.
    OutOfOrder,
    /// A line does not follow the one before: one of them is from another log.
    BrokenChain,
    /// The log does not begin with its first line, and the server has not removed what was before.
    BeginningMissing,
    /// The log ends before a line that an anchor knows.
    EndMissing,
    /// Nothing beside the log says, signed by the server, which line is the newest.
    HeadMissing,
    /// The line that an anchor knows is another one.
    AnchorMismatch,
    /// The server has found the log changed, when it started or while it wrote, and has said so in it.
    Recorded,
    /// There are no lines.
    Empty,
}

/// What one should know of a log, though nobody has to have done it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
#[non_exhaustive]
pub enum Note {
    /// The rest of a line that was not written to its end, by a server that was killed or a disk that was full.
    Torn {
        /// Where.
        file: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// The server did not end in good order before it was started again.
    Killed {
        /// Number of the line that the next run begins with.
        sequence: u64,
    },
    /// The server was not told to stop: it still runs, or was killed.
    NotClosed,
    /// Older lines were removed by the server itself.
    Retired {
        /// Up to this line.
        through: u64,
    },
    /// Events that could not be recorded.
    Lost {
        /// How many.
        events: u64,
    },
    /// Lines before the first one here were not looked at.
    Part {
        /// The first line here.
        first: u64,
    },
}

/// What a log was found to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Whether nothing was found.
    pub intact: bool,
    /// Files looked at.
    pub files: usize,
    /// Lines that are signed.
    pub lines: u64,
    /// Number of the first one.
    pub first: Option<u64>,
    /// The newest line: to be kept elsewhere, as an anchor for the next time.
    pub newest: Option<Anchor>,
    /// The highest line that an anchor vouches for: lines cut off behind it would not be missed.
    pub anchored: Option<u64>,
    /// What is wrong, at most [`MAX_FINDINGS`].
    pub findings: Vec<Finding>,
    /// How many things are wrong.
    pub finding_count: u64,
    /// What else there is to know.
    pub notes: Vec<Note>,
}

impl Verified {
    /// The same, and that nothing beside the log says which line is the newest.
    #[must_use]
    pub fn without_head(mut self) -> Self {
        let message = format!(
            "{HEAD_FILE} is not beside the log, or not signed by the server: it was taken away or replaced, and with it what \
             vouches for the log's end"
        );
        self.findings.push(Finding { kind: FindingKind::HeadMissing, file: None, line: None, message });
        Self { intact: false, finding_count: self.finding_count + 1, ..self }
    }
}

/// Looks at a log's files, given in their order.
///
/// `keys` are the server's, usually one; `anchors` are lines that the log must have. With `part` the files may begin
/// anywhere in the log.
///
/// # Errors
/// [`AuditError::File`] where a file cannot be read.
pub fn verify(files: &[PathBuf], keys: &[PublicKey], anchors: &[Anchor], part: bool) -> Result<Verified, AuditError> {
    let mut check = Check {
        keys,
        anchors: anchors.iter().filter(|anchor| anchor.sequence > 0).map(|a| (a.sequence, a.hash)).collect(),
        ..Check::new()
    };
    for path in files {
        let file = File::open(path).map_err(AuditError::file("open", path))?;
        for (number, line) in (1..).zip(Lines::new(file)) {
            check.line(path, number, &line.map_err(AuditError::file("read", path))?);
        }
    }
    Ok(check.end(files.len(), part))
}

impl Anchor {
    /// Reads a file that was kept: a copy of `audit.head`, or of a line. Nothing of it is verified but that it can be read:
    /// who has kept it where others cannot write knows what it is worth.
    ///
    /// # Errors
    /// [`AuditError::File`] where it cannot be read, or holds no line.
    pub fn load(path: &Path) -> Result<Self, AuditError> {
        let read = || {
            let mut lines = Lines::new(File::open(path)?);
            let first = lines.next().transpose()?;
            let anchor = first.and_then(|raw| {
                let line = Line::read(&raw.content)?;
                let itself = || Self { sequence: line.sequence, hash: line::hash(&raw.content) };
                Some(head::read_line(&line).unwrap_or_else(itself))
            });
            anchor.ok_or_else(|| std::io::Error::other("it holds no line of an audit log"))
        };
        read().map_err(AuditError::file("read", path))
    }

    /// What `audit.head` beside a log says, if one of the server's keys has signed it. `None` where there is none such: the
    /// server keeps one from its first line on, so somebody has taken it away.
    ///
    /// # Errors
    /// [`AuditError::File`] where it is there and cannot be read.
    pub fn of_head(directory: &Path, keys: &[PublicKey]) -> Result<Option<Self>, AuditError> {
        let path = directory.join(HEAD_FILE);
        let read = || {
            let mut bytes = Vec::new();
            File::open(&path)?.take(MAX_LINE_BYTES as u64).read_to_end(&mut bytes)?;
            Ok(head::read(&bytes, keys))
        };
        match read() {
            Err(error) if std::io::Error::kind(&error) == std::io::ErrorKind::NotFound => Ok(None),
            read => read.map_err(AuditError::file("read", &path)),
        }
    }
}

/// Lines behind one another that nobody has signed.
#[derive(Default)]
struct Rest {
    bytes: Vec<u8>,
    lines: u64,
    findings: Vec<Finding>,
    first: Option<PathBuf>,
}

struct Check<'a> {
    keys: &'a [PublicKey],
    anchors: BTreeMap<u64, Digest>,
    /// The highest line so far.
    newest: Option<Anchor>,
    first: Option<u64>,
    anchored: Option<u64>,
    lines: u64,
    lost: u64,
    retired: u64,
    is_running: bool,
    rest: Rest,
    findings: Vec<Finding>,
    finding_count: u64,
    notes: Vec<Note>,
}

impl Check<'_> {
    fn new() -> Self {
        Self {
            keys: &[],
            anchors: BTreeMap::new(),
            newest: None,
            first: None,
            anchored: None,
            lines: 0,
            lost: 0,
            retired: 0,
            is_running: false,
            rest: Rest::default(),
            findings: Vec::new(),
            finding_count: 0,
            notes: Vec::new(),
        }
    }

    fn find(&mut self, finding: Finding) {
        self.finding_count += 1;
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        }
    }

    fn line(&mut self, path: &Path, number: u64, raw: &RawLine) {
        let at = |kind, message: String| Finding { kind, file: Some(path.to_owned()), line: Some(number), message };
        let read = || line::is_signed(&raw.content, self.keys).then(|| Line::read(&raw.content))?;
        let Some(line) = (!raw.is_too_long).then(read).flatten() else {
            let claims = Line::read(&raw.content).map_or_else(
                || "no line of an audit log".to_owned(),
                |line| {
                    format!("line {} is not signed by the server: edited, added, or of another server", line.sequence)
                },
            );
            self.rest.take(path, raw, at(FindingKind::BadSignature, claims));
            return;
        };

        let rest = std::mem::take(&mut self.rest);
        let is_as_told = line.torn.as_ref().is_some_and(|torn| rest.is(torn.bytes, &torn.sha256));
        // A server that was fooled may have told of whole lines.
        let is_vouched = is_as_told && rest.is_cut_off();
        let mut unsigned = rest.lines;
        if is_vouched {
            unsigned = 0;
            self.notes.extend(rest.first.map(|file| Note::Torn { file, bytes: rest.bytes.len() as u64 }));
        } else {
            rest.findings.into_iter().for_each(|finding| self.find(finding));
            if let Some(torn) = line.torn.as_ref().filter(|_| !is_as_told) {
                let message = format!(
                    "line {} tells of {} bytes before it that a cut-off write had left; they are not as they were",
                    line.sequence, torn.bytes
                );
                self.find(at(FindingKind::BrokenChain, message));
            }
        }

        let anchor = Anchor { sequence: line.sequence, hash: line::hash(&raw.content) };
        self.lines += 1;
        if let Some(expected) = self.anchors.remove(&anchor.sequence) {
            if expected == anchor.hash {
                self.anchored = self.anchored.max(Some(anchor.sequence));
            } else {
                let message = format!("line {} is another one than the anchor's", anchor.sequence);
                self.find(at(FindingKind::AnchorMismatch, message));
            }
        }
        let (number, last) = (line.sequence, self.newest);
        match last {
            None => {
                self.first = Some(number);
                if number == 1 && line.previous != line::no_line() {
                    self.find(at(FindingKind::BrokenChain, "line 1 says that a line was before it".to_owned()));
                }
            }
            Some(last) if number <= last.sequence => {
                let message = format!("line {number} stands behind line {}", last.sequence);
                self.find(at(FindingKind::OutOfOrder, message));
                return;
            }
            Some(last) => {
                let missing = number - last.sequence - 1;
                if missing > unsigned {
                    let message = format!("lines {} to {} are not all there", last.sequence + 1, number - 1);
                    self.find(at(FindingKind::Missing, message));
                } else if missing == 0 && line.previous != last.hash {
                    let message = format!("line {number} does not follow the line {} that is there", last.sequence);
                    self.find(at(FindingKind::BrokenChain, message));
                }
            }
        }
        self.newest = Some(anchor);
        self.content(&line, &at);
    }

    /// What a line says of the log itself.
    fn content(&mut self, line: &Line, at: &dyn Fn(FindingKind, String) -> Finding) {
        let record = &line.record;
        let number = |name: &str| record.details.get(name).and_then(|value| value.parse().ok()).unwrap_or(0);
        match (record.action.as_str(), record.code.as_str()) {
            ("audit", "lost") => self.lost += number("events"),
            ("audit", "retired") => self.retired = self.retired.max(number("through")),
            ("audit", _) => {
                self.find(at(FindingKind::Recorded, format!("recorded by the server: {}", record.reason)));
            }
            (START, _) => {
                if self.is_running {
                    self.notes.push(Note::Killed { sequence: line.sequence });
                }
                self.is_running = true;
            }
            (STOP, _) => self.is_running = false,
            _ => {}
        }
    }

    fn end(mut self, files: usize, part: bool) -> Verified {
        let nowhere = |kind, message| Finding { kind, file: None, line: None, message };
        let rest = std::mem::take(&mut self.rest);
        // A line that has no end yet: being written, or cut off by the server's end.
        if rest.is_cut_off() {
            self.notes.extend(rest.first.map(|file| Note::Torn { file, bytes: rest.bytes.len() as u64 }));
        } else {
            rest.findings.into_iter().for_each(|finding| self.find(finding));
        }

        match self.first {
            None => self.find(nowhere(FindingKind::Empty, "there is no line that the server has signed".to_owned())),
            Some(first) if first > 1 && part => self.notes.push(Note::Part { first }),
            // The server may have been ended before it had removed all that it said it would.
            Some(first) if first > 1 && first <= self.retired.saturating_add(1) => {
                self.notes.push(Note::Retired { through: first - 1 });
            }
            Some(first) if first > 1 => {
                let message = format!("the log begins with line {first}, and the server has not removed those before");
                self.find(nowhere(FindingKind::BeginningMissing, message));
            }
            Some(_) => {}
        }
        let newest = self.newest.map_or(0, |newest| newest.sequence);
        let first = self.first.unwrap_or(1);
        for sequence in std::mem::take(&mut self.anchors).into_keys() {
            if sequence > newest {
                let message = format!("the log ends with line {newest}, and the anchor knows line {sequence}");
                self.find(nowhere(FindingKind::EndMissing, message));
            } else if sequence >= first {
                let message = format!("the anchor's line {sequence} is not there");
                self.find(nowhere(FindingKind::AnchorMismatch, message));
            }
        }
        if self.is_running {
            self.notes.push(Note::NotClosed);
        }
        if self.lost > 0 {
            self.notes.push(Note::Lost { events: self.lost });
        }
        Verified {
            intact: self.finding_count == 0,
            files,
            lines: self.lines,
            first: self.first,
            newest: self.newest,
            anchored: self.anchored,
            findings: self.findings,
            finding_count: self.finding_count,
            notes: self.notes,
        }
    }
}

impl Rest {
    fn take(&mut self, path: &Path, raw: &RawLine, finding: Finding) {
        if self.lines > 0 && self.bytes.len() <= MAX_REST_BYTES {
            self.bytes.push(b'\n');
        }
        if self.bytes.len() <= MAX_REST_BYTES {
            self.bytes.extend_from_slice(&raw.content);
        }
        self.lines += 1;
        self.first.get_or_insert_with(|| path.to_owned());
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        }
    }

    fn is(&self, bytes: u64, sha256: &Digest) -> bool {
        self.bytes.len() as u64 == bytes && Digest::of(&self.bytes) == *sha256
    }

    /// Whether a write that was cut off can have left it.
    fn is_cut_off(&self) -> bool {
        self.bytes.len() <= MAX_REST_BYTES && is_cut_off(&self.bytes)
    }
}
