//! From the text of a policy to a [`TrustStore`], with everything checked that can be wrong with it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use toml::Value;

use crate::end_mark::has_end_mark;
use crate::manifest::is_name;
use crate::unseen::is_unseen;
use crate::{Moment, PublicKey};

use super::pattern::Pattern;
use super::publisher::{MAX_PATTERNS, MAX_PUBLISHER_KEYS, MAX_PUBLISHER_NAME_BYTES};
use super::revocation::MAX_REASON_BYTES;
use super::rule::MAX_RULE_SIGNERS;
use super::text::{Entry, FormatText, KeyText, PublisherText, RuleText, StoreText};
use super::{Period, Publisher, Revocation, Rule, TrustStore, TrustStoreError, TrustedKey};

/// The form of policies that this version reads.
const FORMAT: i64 = 1;

/// A policy has at most this many publishers: more than any one server has to do with.
pub const MAX_PUBLISHERS: usize = 1024;

/// A policy has at most this many rules: one for each publisher.
pub const MAX_RULES: usize = 1024;

/// A policy revokes at most this many keys, and as many digests; the file's own limit lies close.
pub const MAX_REVOCATIONS: usize = 16_384;

/// A policy has at most this many minimum versions: as many as a ledger has names.
pub const MAX_MINIMUM_VERSIONS: usize = crate::MAX_LEDGER_NAMES;

/// Texts of a file that errors quote are cut behind this many characters.
const QUOTED_CHARACTERS: usize = 80;

pub(super) fn read(text: &str) -> Result<TrustStore, TrustStoreError> {
    let FormatText { format } = toml::from_str(text).map_err(TrustStoreError::Toml)?;
    if let Some(format) = format.filter(|format| *format != FORMAT) {
        return Err(TrustStoreError::Format { format });
    }
    let is_complete = has_end_mark(text);
    let text: StoreText = toml::from_str(text).map_err(TrustStoreError::Toml)?;
    // After the syntax: the position of an error says more than that the end is missing.
    if !is_complete {
        return Err(TrustStoreError::Incomplete);
    }
    at_most(text.publisher.len(), MAX_PUBLISHERS, "publishers")?;
    at_most(text.rules.len(), MAX_RULES, "rules")?;
    at_most(text.revoked_keys.len().max(text.revoked_digests.len()), MAX_REVOCATIONS, "revocations")?;
    at_most(text.minimum_versions.len(), MAX_MINIMUM_VERSIONS, "minimum versions")?;

    let mut store = TrustStore::default();
    for publisher in text.publisher {
        add_publisher(&mut store, publisher)?;
    }
    let positions: BTreeMap<String, usize> =
        store.publishers.iter().enumerate().map(|(position, publisher)| (publisher.name.clone(), position)).collect();
    let mut patterns = HashSet::new();
    for (rule, number) in text.rules.into_iter().zip(1..) {
        let rule = read_rule(rule, number, &positions)?;
        if let Some(pattern) = rule.names.iter().find(|pattern| !patterns.insert((*pattern).clone())) {
            return Err(TrustStoreError::DuplicateRule { pattern: pattern.to_string() });
        }
        store.rules.push(rule);
    }
    for entry in text.revoked_keys {
        let (key, revocation) = match entry {
            Entry::Short(key) => (key, Revocation::default()),
            Entry::Long(long) => {
                (long.key, revocation(long.reason, long.date, || format!("revoked key {}", long.key))?)
            }
        };
        store.revoked_keys.insert(key, revocation);
    }
    for entry in text.revoked_digests {
        let (digest, revocation) = match entry {
            Entry::Short(digest) => (digest, Revocation::default()),
            Entry::Long(long) => {
                (long.digest, revocation(long.reason, long.date, || format!("revoked digest {}", long.digest))?)
            }
        };
        store.revoked_digests.insert(digest, revocation);
    }
    if let Some(name) = text.minimum_versions.keys().find(|name| !is_name(name)) {
        return Err(TrustStoreError::MinimumName { name: quoted(name) });
    }
    store.minimum_versions = text.minimum_versions;
    if store.publishers.is_empty() {
        return Err(TrustStoreError::NoPublishers);
    }
    Ok(store)
}

fn add_publisher(store: &mut TrustStore, text: PublisherText) -> Result<(), TrustStoreError> {
    let PublisherText { name, public_key, keys, namespaces } = text;
    if name.is_empty() || name.len() > MAX_PUBLISHER_NAME_BYTES || name.contains(is_unseen) {
        return Err(TrustStoreError::PublisherName { name: quoted(&name) });
    }
    let of = format!("publisher {name}");
    let short = public_key.map(|public_key| KeyText { public_key, valid_from: None, valid_until: None });
    let keys: Vec<KeyText> = short.into_iter().chain(keys).collect();
    at_most(keys.len(), MAX_PUBLISHER_KEYS, "keys of one publisher")?;
    if keys.is_empty() {
        return Err(TrustStoreError::NoKey { publisher: name });
    }
    for KeyText { public_key, valid_from, valid_until } in keys {
        let Ok(key) = public_key.parse::<PublicKey>() else {
            return Err(TrustStoreError::Key { publisher: name });
        };
        let id = key.id();
        let from = valid_from.map(|value| date(&value, "valid_from", &of, str::parse)).transpose()?;
        let until = valid_until.map(|value| date(&value, "valid_until", &of, Moment::end)).transpose()?;
        if from.zip(until).is_some_and(|(from, until)| until <= from) {
            return Err(TrustStoreError::NeverValid { key: id, publisher: name });
        }
        let trusted = TrustedKey { key, publisher: store.publishers.len(), period: Period { from, until } };
        if let Some(other) = store.keys.insert(id, trusted) {
            let publisher = store.publishers.get(other.publisher).map_or(name, |first| first.name.clone());
            return Err(TrustStoreError::Duplicate { key: id, publisher });
        }
    }
    if store.publishers.iter().any(|publisher| publisher.name == name) {
        return Err(TrustStoreError::DuplicatePublisher { publisher: name });
    }
    let namespaces = namespaces.map(|texts| patterns(&texts, &of)).transpose()?;
    store.publishers.push(Publisher { name, namespaces });
    Ok(())
}

fn read_rule(text: RuleText, number: usize, positions: &BTreeMap<String, usize>) -> Result<Rule, TrustStoreError> {
    let RuleText { names, signers, threshold } = text;
    let names = patterns(&names, &format!("rule {number}"))?;
    let Some(first) = names.first() else {
        return Err(TrustStoreError::NoNames { number });
    };
    let rule = || first.to_string();
    at_most(signers.len(), MAX_RULE_SIGNERS, "signers of one rule")?;
    let mut known = BTreeSet::new();
    for signer in signers {
        let Some(position) = positions.get(&signer) else {
            return Err(TrustStoreError::UnknownSigner { rule: rule(), signer: quoted(&signer) });
        };
        if !known.insert(*position) {
            return Err(TrustStoreError::DuplicateSigner { rule: rule(), signer });
        }
    }
    if !(1..=known.len()).contains(&threshold) {
        return Err(TrustStoreError::Threshold { rule: rule(), threshold, signers: known.len() });
    }
    Ok(Rule { names, signers: known, threshold })
}

fn patterns(texts: &[String], of: &str) -> Result<Vec<Pattern>, TrustStoreError> {
    at_most(texts.len(), MAX_PATTERNS, "patterns of one publisher or rule")?;
    let read = |text: &String| {
        Pattern::new(text).ok_or_else(|| TrustStoreError::Pattern { pattern: quoted(text), of: of.to_owned() })
    };
    texts.iter().map(read).collect()
}

fn revocation(
    reason: Option<String>,
    date_text: Option<Value>,
    of: impl Fn() -> String,
) -> Result<Revocation, TrustStoreError> {
    let wrong = |reason: &String| reason.len() > MAX_REASON_BYTES || reason.contains(is_unseen);
    if reason.as_ref().is_some_and(wrong) {
        return Err(TrustStoreError::Reason { of: of() });
    }
    let date = date_text.map(|value| date(&value, "date", &of(), str::parse)).transpose()?;
    Ok(Revocation { reason, date })
}

/// A date as a text or as TOML has it.
fn date(
    value: &Value,
    field: &'static str,
    of: &str,
    read: impl Fn(&str) -> Result<Moment, crate::MomentError>,
) -> Result<Moment, TrustStoreError> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Datetime(date) => date.to_string(),
        other => other.type_str().to_owned(),
    };
    read(&text).map_err(|error| TrustStoreError::Date { field, of: of.to_owned(), reason: error.to_string() })
}

fn at_most(number: usize, limit: usize, what: &'static str) -> Result<(), TrustStoreError> {
    if number <= limit { Ok(()) } else { Err(TrustStoreError::TooMany { what, limit }) }
}

fn quoted(text: &str) -> String {
    text.chars().take(QUOTED_CHARACTERS).flat_map(char::escape_default).collect()
}
