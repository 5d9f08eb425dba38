//! Publishers and their keys.

use crate::{Moment, PublicKey, Standing};

use super::pattern::Pattern;

/// A publisher has at most this many keys: one in use, one to come, and those of the past whose signatures still name
/// it.
pub const MAX_PUBLISHER_KEYS: usize = 16;

/// A publisher or a rule has at most this many patterns for names; a namespace needs one.
pub const MAX_PATTERNS: usize = 64;

/// A publisher's name is at most this long, so that it fits in a log line.
pub const MAX_PUBLISHER_NAME_BYTES: usize = 128;

/// Somebody who signs, by name; counts once, with however many keys.
#[derive(Debug, Clone)]
pub(crate) struct Publisher {
    pub(crate) name: String,
    /// The names it may publish under where no rule takes them; `None` for all.
    pub(crate) namespaces: Option<Vec<Pattern>>,
}

impl Publisher {
    /// The pattern that lets it use a name: the outer `None` where none does, the inner one where all names are its.
    pub(crate) fn namespace(&self, name: &str) -> Option<Option<&Pattern>> {
        match &self.namespaces {
            None => Some(None),
            Some(patterns) => patterns.iter().find(|pattern| pattern.takes(name)).map(Some),
        }
    }

    /// Whether no name is closed to it: it has no `namespaces`, or `*` among them.
    pub(crate) fn may_use_all_names(&self) -> bool {
        self.namespaces.as_ref().is_none_or(|patterns| patterns.iter().any(|pattern| pattern.as_str() == "*"))
    }

    /// The names it may use, for people.
    pub(crate) fn allowed(&self) -> String {
        match self.namespaces.as_deref() {
            None => "any name".to_owned(),
            Some([]) => "no name at all".to_owned(),
            Some(patterns) => {
                let patterns: Vec<_> = patterns.iter().map(|pattern| format!("`{pattern}`")).collect();
                patterns.join(", ")
            }
        }
    }
}

/// A key of a publisher.
#[derive(Debug, Clone)]
pub(crate) struct TrustedKey {
    pub(crate) key: PublicKey,
    /// Position among the publishers.
    pub(crate) publisher: usize,
    pub(crate) period: Period,
}

/// When a key is good: from the first moment to before the second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Period {
    pub(crate) from: Option<Moment>,
    pub(crate) until: Option<Moment>,
}

impl Period {
    pub(crate) fn standing(&self, now: Moment) -> Standing {
        match (self.from, self.until) {
            (Some(from), _) if now < from => Standing::NotYetValid { from },
            (_, Some(until)) if now >= until => Standing::Expired { until },
            _ => Standing::Valid,
        }
    }
}
