//! How the files of a log end: its last line, and what stands behind it.

use std::fs::File;
use std::io::{self, Read};

use stepbox_trust::{Digest, PublicKey};

use crate::cut_off::is_cut_off;
use crate::damage::Damage;
use crate::directory;
use crate::error::AuditError;
use crate::line::{self, Anchor, Line, MAX_LINE_BYTES, Torn};
use crate::log::AuditConfig;
use crate::tail::Lines;

/// How much of a file's end is looked at for the last line.
const END_BYTES: u64 = 4 * MAX_LINE_BYTES as u64;

/// How a log ends.
#[derive(Default)]
pub(crate) struct End {
    /// The last line that is signed with the server's key.
    pub(crate) newest: Option<Anchor>,
    /// The last line that another key may have signed, where none is found that ours has.
    foreign: Option<Anchor>,
    /// What stands behind the last signed line, as far as it was looked at.
    pub(crate) rest: Vec<u8>,
    /// There is more before it that was not looked at.
    is_part: bool,
}

impl End {
    /// Looks for the last signed line, from the end of the last file on: that may have no line yet.
    pub(crate) fn find(config: &AuditConfig, numbers: &[u64], key: &PublicKey) -> Result<Self, AuditError> {
        let mut end = Self::default();
        for number in numbers.iter().rev() {
            let path = directory::path_of(&config.directory, *number);
            let mut file = File::open(&path).map_err(AuditError::file("open", &path))?;
            let (bytes, is_all) = directory::end_of(&mut file, END_BYTES).map_err(AuditError::file("read", &path))?;
            end.add(&bytes, is_all, key);
            if end.is_part {
                // The server has stopped writing to the file not long after it had this length.
                let file = File::open(&path).map(|file| file.take(config.file_bytes.saturating_mul(2)));
                let last = file.and_then(|file| last_signed(file, key));
                end.newest = last.map_err(AuditError::file("read", &path))?;
            }
            if end.newest.is_some() || end.is_part {
                break;
            }
        }
        Ok(end)
    }

    /// Looks at the end of a file whose later ones have no signed line.
    fn add(&mut self, bytes: &[u8], is_all: bool, key: &PublicKey) {
        // The first may be the end of a line only.
        let skipped =
            if is_all { 0 } else { bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1) };
        let mut start = bytes.len();
        for line in bytes[skipped..].split_inclusive(|byte| *byte == b'\n').rev() {
            self.newest = signed(line, key);
            if self.newest.is_some() {
                break;
            }
            let content = line.strip_suffix(b"\n").unwrap_or(line);
            let read = || Line::read(content).map(|line| Anchor { sequence: line.sequence, hash: line::hash(content) });
            self.foreign = self.foreign.or_else(read);
            start -= line.len();
        }
        self.is_part = self.newest.is_none() && !is_all;
        let mut rest = bytes[start..].to_vec();
        if !rest.is_empty() && !self.rest.is_empty() {
            rest.pop_if(|last| *last == b'\n');
            rest.push(b'\n');
        }
        rest.append(&mut self.rest);
        self.rest = rest;
    }

    /// Which line is followed by the next, what the next vouches for, and what is wrong, given what the server has signed
    /// as the log's head.
    pub(crate) fn judge(self, head: Option<Anchor>) -> (Anchor, Option<Torn>, Vec<Damage>) {
        let nothing = Anchor { sequence: 0, hash: line::no_line() };
        let (ours, mut damages) = (self.newest.unwrap_or(nothing), Vec::new());
        // Where lines of another key are the last, or nothing of ours is in sight, ours may be before it.
        let is_ours = self.newest.is_some() || (self.foreign.is_none() && !self.is_part);
        let newest = match head {
            Some(head) if head.sequence > ours.sequence && is_ours => {
                damages.push(Damage::EndMissing { last: ours.sequence, written: head.sequence });
                // A number is used once: who kept a removed line can show that it was there.
                Anchor { sequence: head.sequence, ..ours }
            }
            Some(head) if !is_ours => head,
            Some(head) if head.sequence == ours.sequence && head.hash != ours.hash => {
                damages.push(Damage::EndChanged { line: head.sequence });
                ours
            }
            Some(_) => ours,
            None if is_ours => {
                damages.extend(self.newest.map(|_| Damage::HeadMissing));
                ours
            }
            // The line of another key's is gone on from, so that the chain at least is whole.
            None => self.foreign.unwrap_or(nothing),
        };
        if !is_ours && head.is_none() {
            damages.push(Damage::NotOurs);
            return (newest, None, damages);
        }
        let last = if is_ours { ours.sequence } else { newest.sequence };
        let (torn, damage) = torn_or_damage(&self.rest, last);
        damages.extend(damage);
        (newest, torn, damages)
    }
}

/// What a cut-off write has left behind line `last`, or what somebody else has put there.
pub(crate) fn torn_or_damage(rest: &[u8], last: u64) -> (Option<Torn>, Option<Damage>) {
    match rest {
        [] => (None, None),
        _ if is_cut_off(rest) => {
            let rest = rest.strip_suffix(b"\n").unwrap_or(rest);
            (Some(Torn { bytes: rest.len() as u64, sha256: Digest::of(rest) }), None)
        }
        _ => (None, Some(Damage::Unsigned { last, bytes: rest.len() as u64 })),
    }
}

fn last_signed(file: impl Read, key: &PublicKey) -> io::Result<Option<Anchor>> {
    let mut last = None;
    for line in Lines::new(file) {
        last = signed(&line?.content, key).or(last);
    }
    Ok(last)
}

/// A line that is signed with this key, given with or without its line feed.
pub(crate) fn signed(line: &[u8], key: &PublicKey) -> Option<Anchor> {
    let content = line.strip_suffix(b"\n").unwrap_or(line);
    let is_signed = line::is_signed(content, std::slice::from_ref(key));
    is_signed.then(|| Some(Anchor { sequence: Line::read(content)?.sequence, hash: line::hash(content) }))?
}
