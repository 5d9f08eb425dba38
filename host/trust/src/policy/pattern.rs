//! Patterns for optimizers' names.

use std::fmt;

use crate::manifest::{MAX_NAME_BYTES, is_name};

/// A name, or with a `*` at its end the names that begin so.
///
/// The `*` stands for the rest of one segment: `adam*` takes `adamw` and not `adam/w`, so that `team-a*` does not let
/// into the namespace `team-attacker/`. Behind a `/`, and alone, it stands for all that may follow.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Pattern(String);

impl Pattern {
    /// `None` where no name could ever fit, or where the `*` stands elsewhere.
    pub(crate) fn new(text: &str) -> Option<Self> {
        let fits = match text.strip_suffix('*') {
            // With something in the place of the `*` it must be a name.
            Some(beginning) => {
                is_name(&format!("{beginning}a")) || beginning.len() == MAX_NAME_BYTES && is_name(beginning)
            }
            None => is_name(text),
        };
        fits.then(|| Self(text.to_owned()))
    }

    pub(crate) fn takes(&self, name: &str) -> bool {
        match self.0.strip_suffix('*') {
            None => name == self.0,
            Some(beginning) if beginning.is_empty() || beginning.ends_with('/') => name.starts_with(beginning),
            Some(beginning) => name.strip_prefix(beginning).is_some_and(|rest| !rest.contains('/')),
        }
    }

    /// Of two patterns that take a name the greater one says more about it: a whole name most, then the longer
    /// beginning. Two different patterns that take the same name are never equal in this.
    pub(crate) fn precision(&self) -> (bool, usize) {
        (!self.0.ends_with('*'), self.0.len())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stays_in_its_segment_but_behind_a_slash() {
        let takes = |pattern: &str, name: &str| Pattern::new(pattern).unwrap().takes(name);
        for (pattern, name) in [
            ("adamw", "adamw"),
            ("adam*", "adamw"),
            ("adam*", "adam"),
            ("*", "adamw"),
            ("*", "team-a/adamw"),
            ("team-a/*", "team-a/adamw"),
            ("team-a/*", "team-a/vision/adamw"),
            ("team-a/adam*", "team-a/adamw"),
        ] {
            assert!(takes(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("adamw", "adamw-2"),
            ("adamw*", "adam"),
            ("adam*", "adam/w"),
            ("team-a*", "team-attacker/adamw"),
            ("team-a*", "team-a/adamw"),
            ("team-a/*", "team-a"),
            ("team-a/*", "team-ab/adamw"),
            ("team-a/*", "x/team-a/adamw"),
        ] {
            assert!(!takes(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn what_no_name_fits_is_no_pattern() {
        let long = "a".repeat(MAX_NAME_BYTES);
        for right in ["a", "*", "a*", "a/*", "a/b*", "a-*", &format!("{long}*")] {
            assert!(Pattern::new(right).is_some(), "{right}");
        }
        for wrong in ["", "**", "a*b", "*a", "A*", "/*", "a//*", "a/", "1*", "a b", "ä*", &format!("{long}a*")] {
            assert!(Pattern::new(wrong).is_none(), "{wrong}");
        }
    }
}
