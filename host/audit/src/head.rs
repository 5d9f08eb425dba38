//! Which line is the newest, signed, in a file beside the log.
//!
//! It has the form of a line and is none: what it says of the newest line nobody can take out of the log itself. So
//! whoever cuts off the end needs the server's key, or the head as it was when the log ended there.

use stepbox_trust::{PublicKey, SigningKey};

use crate::line::{self, Anchor, Line};
use crate::record::{Outcome, Record};

const ACTION: &str = "audit";
const CODE: &str = "head";

/// The file's content: the newest line's number is its own, and the hash of the line before it is the newest line's.
pub(crate) fn sign(newest: Anchor, server: &str, key: &SigningKey) -> Vec<u8> {
    let record = Record { code: CODE.into(), ..Record::new(ACTION, Outcome::Noted) };
    let Anchor { sequence, hash } = newest;
    let server = server.to_owned();
    Line { sequence, time: record.time, server, record, repeated: None, torn: None, previous: hash }.sign(key)
}

/// What it says, where one of these keys has signed it.
pub(crate) fn read(bytes: &[u8], keys: &[PublicKey]) -> Option<Anchor> {
    let content = bytes.strip_suffix(b"\n")?;
    line::is_signed(content, keys).then(|| read_line(&Line::read(content)?))?
}

/// What a line says that is a head.
pub(crate) fn read_line(line: &Line) -> Option<Anchor> {
    let is_head = line.record.action == ACTION && line.record.code == CODE;
    is_head.then_some(Anchor { sequence: line.sequence, hash: line.previous })
}
