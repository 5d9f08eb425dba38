//! `stepbox audit verify`: has anybody changed the log?

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use stepbox_audit::{Anchor, HEAD_FILE, Note, PUBLIC_KEY_FILE, Verified, verify};
use stepbox_trust::{KeyId, PublicKey};

use crate::output::{Failure, Format, Report, printable};

/// Find every edit, deletion, repetition, reordering and truncation
#[derive(Args)]
#[command(after_help = "\
Exits with 0 where the log is intact and with 23 where something was found. Without --public-key the key is audit.pub
beside the log, and without --head and --anchor the log's end is held against audit.head beside it: whoever could
replace the log could put an older one of these in its place too, so keep copies elsewhere. `stepbox status` prints an
anchor. In a script say --require-anchor: it does not pass without one.

Examples:
  stepbox audit verify state/audit
  stepbox audit verify state/audit --public-key kept/audit.pub --anchor 17:9f86d081884c7d65…
  stepbox audit verify --part audit-000007.jsonl --public-key audit.pub")]
pub(super) struct Verify {
    /// The log's directory, or its files in their order
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// The server's public key; again where the log goes on under another
    #[arg(long, value_name = "FILE")]
    public_key: Vec<PathBuf>,

    /// A line that was kept, such as a copy of audit.head: the log must have it
    #[arg(long, value_name = "FILE")]
    head: Vec<PathBuf>,

    /// The number and SHA-256 of a line that the log must have, as `stepbox status` prints them
    #[arg(long, value_name = "LINE:SHA256")]
    anchor: Vec<Anchor>,

    /// Exit with 23 unless the log has a line of --anchor or --head: what is cut off its end is found by these alone
    #[arg(long)]
    require_anchor: bool,

    /// The files are a part of the log and need not begin with its first line
    #[arg(long)]
    part: bool,
}

impl Verify {
    pub(super) fn run(&self, format: Format) -> Result<(), Failure> {
        let beside = |name| self.paths.first().map(|path| folder_of(path).join(name)).filter(|path| path.exists());
        // Before the log: what is written meanwhile is behind it.
        let mut anchors = self.anchor.clone();
        for head in &self.head {
            anchors.push(Anchor::load(head)?);
        }
        let is_anchor_given = !anchors.is_empty();
        let mut keys = Vec::new();
        for path in &self.public_key {
            keys.push(PublicKey::load(path)?);
        }
        let is_pinned = !keys.is_empty();
        if !is_pinned {
            let path = beside(PUBLIC_KEY_FILE)
                .ok_or_else(|| Failure::here("key", format!("no {PUBLIC_KEY_FILE} is beside the log: --public-key")))?;
            keys.push(PublicKey::load(path)?);
        }
        let mut is_head_missing = false;
        if let ([path], false, false) = (self.paths.as_slice(), is_anchor_given, self.part) {
            let head = Anchor::of_head(folder_of(path), &keys)?;
            is_head_missing = head.is_none() && path.is_dir();
            anchors.extend(head);
        }
        let verified = verify(&super::files(&self.paths)?, &keys, &anchors, self.part)?;
        let report = Checked {
            keys: keys.iter().map(PublicKey::id).collect(),
            is_key_given: is_pinned,
            is_anchor_given,
            complete_through: verified.anchored.filter(|_| is_anchor_given),
            verified: if is_head_missing { verified.without_head() } else { verified },
        };
        format.print(&report)?;
        if self.require_anchor && report.complete_through.is_none() && report.verified.finding_count == 0 {
            let message =
                "no anchor from elsewhere vouches for the log's end (--require-anchor): give --anchor or --head";
            return Err(Failure::tampered(message.to_owned()));
        }
        match report.verified.finding_count {
            0 => Ok(()),
            count => Err(Failure::tampered(format!("the audit log is not as the server wrote it: {count} found"))),
        }
    }
}

/// Of a directory itself.
fn folder_of(path: &Path) -> &Path {
    if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) }
}

#[derive(Serialize)]
struct Checked {
    keys: Vec<KeyId>,
    /// Whether it was named, and does not just lie beside the log.
    is_key_given: bool,
    is_anchor_given: bool,
    /// The line up to which an anchor from elsewhere shows that nothing was cut off the log's end. Where there is none, that
    /// cannot be excluded, though the log is intact as far as it goes.
    complete_through: Option<u64>,
    #[serde(flatten)]
    verified: Verified,
}

impl Report for Checked {
    fn text(&self) -> String {
        let Self { verified, .. } = self;
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name:<10} {value}");
        };
        let state = if verified.intact { "intact" } else { "CHANGED" };
        line("log", format!("{state}: {} lines in {} files", verified.lines, verified.files));
        if let Some(newest) = &verified.newest {
            line("newest", newest.to_string());
        }
        let beside = |given| if given { "" } else { ", which lies beside the log and is worth as little" };
        let cut = "that lines were cut off the end cannot be excluded";
        let keys: Vec<_> = self.keys.iter().map(KeyId::to_string).collect();
        line("key", format!("{}{}", keys.join(" "), beside(self.is_key_given)));
        let end = match verified.anchored {
            Some(sequence) if self.is_anchor_given => {
                format!("line {sequence} is there: up to it nothing was cut off")
            }
            Some(sequence) => {
                format!("line {sequence} is there, by {HEAD_FILE}, an older one of which could be in its place: {cut}")
            }
            None => format!("nothing vouches for the log's end: {cut}"),
        };
        line("anchor", end);
        for note in &verified.notes {
            line("note", describe(note));
        }
        for finding in &verified.findings {
            let file = finding.file.as_ref().map(|file| format!("{}:", file.display())).unwrap_or_default();
            let number = finding.line.map(|number| format!("{number}: ")).unwrap_or_default();
            line("FOUND", format!("{file}{number}{}", printable(&finding.message)));
        }
        if verified.finding_count > verified.findings.len() as u64 {
            line("FOUND", format!("{} more", verified.finding_count - verified.findings.len() as u64));
        }
        text.truncate(text.trim_end().len());
        text
    }
}

fn describe(note: &Note) -> String {
    match note {
        Note::Torn { file, bytes } => {
            format!(
                "{}: {bytes} bytes of a line that was not written to its end (a crash, a full disk)",
                file.display()
            )
        }
        Note::Killed { sequence } => format!("the server was not stopped in good order before line {sequence}"),
        Note::NotClosed => "the server still runs, or was not stopped in good order".to_owned(),
        Note::Retired { through } => format!("the server itself has removed the lines up to {through} (audit.files)"),
        Note::Lost { events } => format!("{events} events could not be recorded; the lines around say when"),
        Note::Part { first } => format!("the lines before {first} were not looked at"),
        _ => format!("{note:?}"),
    }
}
