//! What is allowed in a policy and still not what its writer wants: keys that run out, rules nobody can meet.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::{KeyId, Moment, Standing};

use super::{Publisher, Rule, TrustStore, TrustedKey};

/// A key that runs out within this time, with no other of its publisher to follow, is worth a warning: 30 days, time
/// to have optimizers signed again.
pub const EXPIRY_NOTICE: Duration = Duration::from_secs(30 * 24 * 3600);

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth a look.
    Warning,
    /// Something in the policy has no effect.
    Error,
}

/// Something about a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Its stable name, for scripts: `expired-key`, `expiring-key`, `no-valid-key`, `unreachable-threshold`,
    /// `revoked-key-listed`, `future-revocation`, `all-names`.
    pub code: &'static str,
    /// What it is about: a publisher, a key, a rule, a digest.
    pub subject: String,
    /// What it is and what to do.
    pub message: String,
}

impl TrustStore {
    /// Looks a policy over, as of a time: errors first. Nothing found means that every publisher can sign and every
    /// rule can be met, for [`EXPIRY_NOTICE`] at least.
    pub fn findings(&self, now: SystemTime) -> Vec<Finding> {
        let now = Moment::from(now);
        let mut findings = Vec::new();
        for (position, publisher) in self.publishers.iter().enumerate() {
            self.look_at_publisher(position, publisher, now, &mut findings);
        }
        for rule in &self.rules {
            findings.extend(self.unreachable(rule, now));
        }
        findings.extend(self.future_revocations(now));
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        findings
    }

    fn look_at_publisher(&self, position: usize, publisher: &Publisher, now: Moment, findings: &mut Vec<Finding>) {
        let name = &publisher.name;
        let own = || self.keys.iter().filter(move |(_, key)| key.publisher == position);
        let can_sign = |at: Moment| own().any(|(id, key)| self.counts(*id, key, at));
        if !can_sign(now) {
            let message = format!("{name} has no key that is valid now: nothing it signs counts. Add its new key");
            findings.push(error("no-valid-key", name, message));
        } else if !can_sign(now + EXPIRY_NOTICE) {
            let end =
                own().filter(|(id, key)| self.counts(**id, key, now)).filter_map(|(_, key)| key.period.until).max();
            let end = end.map(|end| end.to_string()).unwrap_or_default();
            let message = format!(
                "the last key of {name} runs out at {end}: add its next key now and have what is in use signed with \
                 it too (`stepbox sign --add`)"
            );
            findings.push(warning("expiring-key", name, message));
        }
        for (id, key) in own() {
            if let Some(revocation) = self.revoked_keys.get(id) {
                let message = format!(
                    "key {id} of {name} is revoked{revocation} and still listed: that keeps it known as {name}'s, \
                     for what {name} signs again; remove it when nothing of the kind is in use"
                );
                findings.push(warning("revoked-key-listed", id, message));
            } else if let Standing::Expired { until } = key.period.standing(now) {
                let message = format!(
                    "key {id} of {name} was valid until {until}: its signatures no longer count; remove it when \
                     nothing signed with it is in use"
                );
                findings.push(warning("expired-key", id, message));
            }
        }
        if publisher.may_use_all_names() {
            let message = format!(
                "{name} may publish under every name that no rule takes: give it `namespaces`, such as \
                 [\"its-team/*\"]"
            );
            findings.push(warning("all-names", name, message));
        }
    }

    fn unreachable(&self, rule: &Rule, now: Moment) -> Option<Finding> {
        let able: BTreeSet<usize> = self
            .keys
            .iter()
            .filter(|(id, key)| rule.signers.contains(&key.publisher) && self.counts(**id, key, now))
            .map(|(_, key)| key.publisher)
            .collect();
        let pattern = rule.names.first().map(ToString::to_string).unwrap_or_default();
        (able.len() < rule.threshold).then(|| {
            let unable = self.names(rule.signers.difference(&able)).join(", ");
            let message = format!(
                "rule `{pattern}` asks for {} signers and {} of its {} have a valid key: nothing under it can be \
                 deployed. No valid key have: {unable}",
                rule.threshold,
                able.len(),
                rule.signers.len()
            );
            error("unreachable-threshold", &pattern, message)
        })
    }

    fn future_revocations(&self, now: Moment) -> Vec<Finding> {
        let keys = self.revoked_keys.iter().map(|(id, revocation)| (id.to_string(), revocation));
        let digests = self.revoked_digests.iter().map(|(digest, revocation)| (digest.to_string(), revocation));
        keys.chain(digests)
            .filter_map(|(subject, revocation)| {
                let date = revocation.date.filter(|date| *date > now)?;
                let message = format!("{subject} has a date of revocation to come, {date}: it is revoked already");
                Some(warning("future-revocation", &subject, message))
            })
            .collect()
    }

    fn counts(&self, id: KeyId, key: &TrustedKey, at: Moment) -> bool {
        !self.revoked_keys.contains_key(&id) && key.period.standing(at) == Standing::Valid
    }
}

fn error(code: &'static str, subject: impl ToString, message: String) -> Finding {
    Finding { severity: Severity::Error, code, subject: subject.to_string(), message }
}

fn warning(code: &'static str, subject: impl ToString, message: String) -> Finding {
    Finding { severity: Severity::Warning, code, subject: subject.to_string(), message }
}
