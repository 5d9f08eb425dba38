//! Who may do what, in one job. Whoever is not named in the configuration may do nothing.
//!
//! A right is looked up when it is used, at every request: the operator may have changed it since the connection began.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::RwLock;
use stepbox_wire::ErrorCode;
use tokio::sync::watch;
use wildmatch::WildMatch;

use crate::config::{AccessConfig, JobConfig, Right};
use crate::names::{Answered, Identity, Rank, Refusal};

/// The keys that a right extends to.
#[derive(Debug, Clone, Default)]
struct KeySet {
    all: bool,
    patterns: Vec<WildMatch>,
}

impl KeySet {
    fn add(&mut self, keys: Option<&[String]>) {
        match keys {
            None => self.all = true,
            Some(patterns) => self.patterns.extend(patterns.iter().map(|pattern| WildMatch::new(pattern))),
        }
    }

    fn has(&self, key: &str) -> bool {
        self.all || self.patterns.iter().any(|pattern| pattern.matches(key))
    }
}

/// What one identity may do.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rights {
    /// Take part as the worker of this rank: register, meet at barriers, leave.
    pub worker: Option<Rank>,
    push: KeySet,
    pull: KeySet,
    others: HashSet<Right>,
}

impl Rights {
    fn add(&mut self, right: Right, keys: Option<&[String]>) {
        match right {
            Right::Push => self.push.add(keys),
            Right::Pull => self.pull.add(keys),
            other => drop(self.others.insert(other)),
        }
    }

    /// Whether it may do something that has nothing to do with a key.
    pub fn may(&self, right: Right) -> bool {
        self.others.contains(&right)
    }

    pub fn may_push(&self, key: &str) -> bool {
        self.worker.is_some() && self.push.has(key)
    }

    pub fn may_pull(&self, key: &str) -> bool {
        self.pull.has(key)
    }
}

/// What the configuration in force says of every identity that it names.
#[derive(Debug)]
pub(crate) struct Access {
    by_identity: RwLock<HashMap<String, Arc<Rights>>>,
    /// Told whenever the table is another.
    changes: watch::Sender<()>,
    /// Where the operator writes it, for messages: `[access]`, say.
    section: String,
}

impl Access {
    pub fn new(job: &JobConfig, access: &AccessConfig, section: String) -> Self {
        Self { by_identity: RwLock::new(table(job, access)), changes: watch::Sender::new(()), section }
    }

    /// From the next request on this holds. Connections of those who have no part in the job any more end.
    pub fn replace(&self, job: &JobConfig, access: &AccessConfig) {
        *self.by_identity.write() = table(job, access);
        self.changes.send_replace(());
    }

    /// Ends when an identity has no part in the job any more, with what it is told.
    pub async fn lost(&self, identity: &Identity) -> Refusal {
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            if let Err(refusal) = self.still_of(identity) {
                return refusal;
            }
            // It cannot end: the sender is this access's own.
            let _ = changes.changed().await;
        }
    }

    /// `None` for an identity that has no part in the job.
    pub fn of(&self, identity: &Identity) -> Option<Arc<Rights>> {
        self.by_identity.read().get(identity.as_str()).cloned()
    }

    /// As [`Access::of`], for somebody who had a part in the job when the connection began.
    pub fn still_of(&self, identity: &Identity) -> Answered<Arc<Rights>> {
        self.of(identity).ok_or_else(|| {
            self.forbidden(format!("`{identity}` has no part in this job any more; the operator has taken it away"))
        })
    }

    /// Lets an identity do something that has nothing to do with a key.
    pub fn require(&self, identity: &Identity, right: Right) -> Answered<()> {
        self.check(identity, right).map_err(|refusal| match right {
            Right::Activate => refusal.because("not-a-deployer"),
            Right::Submit => refusal.because("not-a-publisher"),
            _ => refusal,
        })
    }

    fn check(&self, identity: &Identity, right: Right) -> Answered<()> {
        if self.still_of(identity)?.may(right) {
            return Ok(());
        }
        let section = &self.section;
        let (verb, who) = match right {
            Right::Push => ("push", "workers"),
            Right::Pull => ("pull", "workers"),
            Right::Submit => ("bring optimizers", "publishers"),
            Right::Activate => ("deploy", "deployers"),
            Right::Schedule => ("set the learning rate", "schedulers"),
            Right::Status => ("see the status", "operators"),
        };
        Err(self.forbidden(format!("`{identity}` may not {verb}; the operator names {who} in [{section}]")))
    }

    /// Lets an identity push to a key.
    pub fn require_push(&self, identity: &Identity, key: &str) -> Answered<()> {
        let rights = self.still_of(identity)?;
        if rights.may_push(key) { Ok(()) } else { Err(self.no_key(identity, "push to", key)) }
    }

    /// Lets an identity read a key's weights.
    pub fn require_pull(&self, identity: &Identity, key: &str) -> Answered<()> {
        let rights = self.still_of(identity)?;
        if rights.may_pull(key) { Ok(()) } else { Err(self.no_key(identity, "pull", key)) }
    }

    fn no_key(&self, identity: &Identity, verb: &str, key: &str) -> Refusal {
        let section = &self.section;
        self.forbidden(format!(
            "`{identity}` may not {verb} key `{key}`; the operator gives rights in [[{section}.grant]]"
        ))
    }

    fn forbidden(&self, message: String) -> Refusal {
        Refusal::new(ErrorCode::Forbidden, message)
    }
}

fn table(job: &JobConfig, access: &AccessConfig) -> HashMap<String, Arc<Rights>> {
    let mut table: HashMap<String, Rights> = HashMap::new();
    let mut give = |identities: &[String], rights: &[Right], keys: Option<&[String]>| {
        for identity in identities {
            let has = table.entry(identity.clone()).or_default();
            rights.iter().for_each(|right| has.add(*right, keys));
        }
    };
    give(&job.workers, &access.worker_rights, None);
    give(&access.publishers, &[Right::Submit], None);
    give(&access.deployers, &[Right::Activate, Right::Schedule, Right::Status], None);
    give(&access.schedulers, &[Right::Schedule, Right::Status], None);
    give(&access.operators, &[Right::Status], None);
    give(&access.auditors, &[Right::Status], None);
    for grant in &access.grant {
        give(&grant.identities, &grant.rights, grant.keys.as_deref());
    }
    for (rank, identity) in (0..).zip(&job.workers) {
        table.entry(identity.clone()).or_default().worker = Some(rank);
    }
    access.denied.iter().for_each(|identity| drop(table.remove(identity)));
    table.into_iter().map(|(identity, rights)| (identity, Arc::new(rights))).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, ConfigError, settings};

    fn parse(access: &str) -> Result<Access, ConfigError> {
        let text = format!(
            "listen = '127.0.0.1:0'
             state_directory = 'state'
             tls = {{ ca = 'ca.pem', certificate = 'server.pem', key = 'server.key' }}
             trust = {{ store = 'publishers.toml' }}
             job = {{ workers = ['w0', 'w1'] }}
             [access]\n{access}"
        );
        let config = Config::parse(&text, Path::new("/nowhere"))?;
        let job = settings(&config)?.remove(0);
        Ok(Access::new(&job.job, &job.access, "access".into()))
    }

    fn rights(access: &str, identity: &str) -> Option<Arc<Rights>> {
        parse(access).expect("a configuration").of(&Identity::new(identity).expect("a name"))
    }

    fn refused(access: &str) -> String {
        parse(access).expect_err("cannot be meant").to_string()
    }

    #[test]
    fn nobody_has_a_right_that_is_not_given() {
        assert!(rights("", "stranger").is_none());
        let worker = rights("", "w1").expect("a worker");
        assert_eq!(worker.worker, Some(1));
        assert!(worker.may_push("any") && worker.may_pull("any"));
        for right in [Right::Submit, Right::Activate, Right::Schedule, Right::Status] {
            assert!(!worker.may(right), "{right:?}");
        }
        let deployer = rights("deployers = ['alice']", "alice").expect("a deployer");
        assert!(deployer.may(Right::Activate) && !deployer.may(Right::Submit) && deployer.may(Right::Status));
        assert!(!deployer.may_pull("any") && !deployer.may_push("any") && deployer.worker.is_none());
        let publisher = rights("publishers = ['carol']", "carol").expect("a publisher");
        assert!(publisher.may(Right::Submit) && !publisher.may(Right::Activate) && !publisher.may(Right::Status));
    }

    #[test]
    fn grants_give_rights_to_some_keys_and_add_up() {
        let access = "
            worker_rights = ['push']
            [[access.grant]]
            identities = ['w0', 'evaluator']
            rights = ['pull']
            keys = ['encoder.*', 'bias?']
            [[access.grant]]
            identities = ['evaluator']
            rights = ['pull']
            keys = ['head']
            [[access.grant]]
            identities = ['evaluator']
            rights = ['status']
        ";
        let evaluator = rights(access, "evaluator").expect("named in a grant");
        let may: Vec<_> = ["encoder.w", "encoder.", "encoder", "bias1", "bias12", "head", "heads", ""]
            .into_iter()
            .filter(|key| evaluator.may_pull(key))
            .collect();
        assert_eq!(may, ["encoder.w", "encoder.", "bias1", "head"]);
        assert!(!evaluator.may_push("head") && evaluator.may(Right::Status) && evaluator.worker.is_none());
        let worker = rights(access, "w0").expect("a worker");
        assert!(worker.may_push("head") && worker.may_pull("encoder.w") && !worker.may_pull("head"));
        let other = rights(access, "w1").expect("a worker");
        assert!(other.may_push("head") && !other.may_pull("encoder.w"));
    }

    #[test]
    fn who_is_denied_has_nothing_whatever_else_is_said() {
        let access = "deployers = ['alice', 'bob']\ndenied = ['alice', 'w0']";
        assert!(rights(access, "alice").is_none() && rights(access, "w0").is_none());
        assert_eq!(rights(access, "w1").expect("another").worker, Some(1), "ranks are not moved up");
    }

    #[test]
    fn grants_that_cannot_be_meant_are_refused() {
        let grant = |fields: &str| refused(&format!("[[access.grant]]\n{fields}"));
        assert!(grant("identities = ['eve']\nrights = ['push']").contains("only workers push"));
        assert!(grant("identities = ['eve']\nrights = ['status']\nkeys = ['a']").contains("not bound to keys"));
        assert!(grant("identities = []\nrights = ['status']").contains("access.grant"));
        assert!(grant("identities = ['eve']\nrights = []").contains("access.grant"));
        assert!(grant("identities = ['eve']\nrights = ['pull']\nkeys = []").contains("access.grant.keys"));
        assert!(grant("identities = ['eve']\nrights = ['everything']").contains("everything"));
        assert!(grant("identities = ['']\nrights = ['pull']").contains("access.grant.identities"));
        assert!(refused("worker_rights = ['activate']").contains("access.worker_rights"));
        // An identity is no pattern: this names somebody who is called so.
        assert!(rights("operators = ['*']", "anybody").is_none());
    }
}
