//! Rules: how many of whom have to sign for a name.

use std::collections::BTreeSet;

use super::pattern::Pattern;

/// A rule names at most this many signers: as many as a component can have signatures.
pub const MAX_RULE_SIGNERS: usize = crate::signature::MAX_SIGNATURES;

/// Names, and how many of which publishers must have signed what is published under them.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) names: Vec<Pattern>,
    /// Positions among the publishers.
    pub(crate) signers: BTreeSet<usize>,
    /// Between one and the number of signers.
    pub(crate) threshold: usize,
}

/// The rule for a name, and the pattern that made it so: of all that take the name the one that says most about it. No
/// two rules have the same pattern, so there is no tie.
pub(crate) fn for_name<'a>(rules: &'a [Rule], name: &str) -> Option<(&'a Pattern, &'a Rule)> {
    rules
        .iter()
        .flat_map(|rule| rule.names.iter().map(move |pattern| (pattern, rule)))
        .filter(|(pattern, _)| pattern.takes(name))
        .max_by_key(|(pattern, _)| pattern.precision())
}
