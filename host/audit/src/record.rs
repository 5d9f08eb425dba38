//! What is recorded.
//!
//! Texts may quote what a peer or a component has said. They are bounded, and no character of them does anything to a
//! terminal, a log viewer or the direction of writing: such characters stand in the log as `\n`, `\u{1b}`, `\u{202e}`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stepbox_trust::is_unseen;

use crate::timestamp::Timestamp;

/// Longest text of a record, in bytes: a screenful.
pub const MAX_TEXT_BYTES: usize = 2048;

/// Longest identity, in bytes: a SPIFFE id has 2048 at most.
pub const MAX_IDENTITY_BYTES: usize = 2048;

/// Most details of a record.
pub const MAX_DETAILS: usize = 16;

/// The action of a run's first line.
pub const START: &str = "start";

/// The action of a run's last line, where the server was told to stop.
pub const STOP: &str = "stop";

/// What came of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was done.
    Allowed,
    /// It was not.
    Refused,
    /// It is about to be done; what came of it stands in a later line.
    Attempted,
    /// Nobody asked for it: something that happened to the server.
    Noted,
}

impl Outcome {
    /// As it stands in the log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Refused => "refused",
            Self::Attempted => "attempted",
            Self::Noted => "noted",
        }
    }
}

/// One event, as its line says it. Empty fields do not stand there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What somebody did or tried to do: a word that readers branch on.
    pub action: String,
    /// What came of it.
    pub outcome: Outcome,
    /// Who, as the certificate says.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub identity: String,
    /// From where.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub peer: String,
    /// Why it was refused: a word that readers branch on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub code: String,
    /// What it was about.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What else there is to say, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, String>,
    /// Whether many of this kind may become one line.
    #[serde(skip)]
    pub folds: bool,
    /// When it happened.
    #[serde(skip, default = "Timestamp::now")]
    pub time: Timestamp,
}

impl Record {
    /// A record that says no more than this.
    pub fn new(action: &str, outcome: Outcome) -> Self {
        Self {
            action: action.to_owned(),
            outcome,
            identity: String::new(),
            peer: String::new(),
            code: String::new(),
            subject: String::new(),
            reason: String::new(),
            details: BTreeMap::new(),
            folds: false,
            time: Timestamp::now(),
        }
    }

    /// Adds a detail.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.details.insert(name.to_owned(), value.to_string());
        self
    }

    /// The record with every text harmless and within its bound.
    pub(crate) fn bounded(mut self) -> Self {
        for text in [&mut self.action, &mut self.peer, &mut self.code, &mut self.subject, &mut self.reason] {
            *text = harmless(text, MAX_TEXT_BYTES);
        }
        self.identity = harmless(&self.identity, MAX_IDENTITY_BYTES);
        let detail = |(name, value): (String, String)| (harmless(&name, 64), harmless(&value, MAX_TEXT_BYTES));
        self.details = self.details.into_iter().take(MAX_DETAILS).map(detail).collect();
        self
    }
}

/// The text with everything escaped that is more than a character to look at, cut to at most `limit` bytes and a mark.
pub(crate) fn harmless(text: &str, limit: usize) -> String {
    let mut safe = String::with_capacity(text.len().min(limit));
    for character in text.chars() {
        let before = safe.len();
        if is_unseen(character) {
            safe.extend(character.escape_default());
        } else {
            safe.push(character);
        }
        if safe.len() > limit {
            safe.truncate(before);
            safe.push('…');
            break;
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_character_of_a_text_does_anything() {
        assert_eq!(harmless("a\nb\u{1b}[31m\u{202e}c\u{7f}\u{85}", 100), r"a\nb\u{1b}[31m\u{202e}c\u{7f}\u{85}");
        assert_eq!(harmless("Größe 漢字 “quoted”", 100), "Größe 漢字 “quoted”");
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(harmless("äää", 4), "ää…");
        assert_eq!(harmless("\n\n\n", 5), r"\n\n…");
        let record = Record { reason: "x".repeat(1 << 20), ..Record::new("request", Outcome::Refused) }.bounded();
        assert_eq!(record.reason.len(), MAX_TEXT_BYTES + '…'.len_utf8());
    }
}
