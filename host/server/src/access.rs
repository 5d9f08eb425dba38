//! Who may do what. Whoever is not named in the configuration may do nothing.

use std::collections::{HashMap, HashSet};

use crate::config::{AccessConfig, JobConfig};
use crate::identity::Identity;

/// What the configuration says of every identity it names.
#[derive(Debug)]
pub(crate) struct Access {
    ranks: HashMap<String, u32>,
    publishers: HashSet<String>,
    deployers: HashSet<String>,
    schedulers: HashSet<String>,
    observers: HashSet<String>,
}

/// What one identity may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rights {
    /// Train: register, init, push, pull, meet at barriers, as the worker of this rank.
    pub worker: Option<u32>,
    /// Bring components.
    pub submit: bool,
    /// Replace the optimizer, by what was submitted; with the right to submit, by what is brought.
    pub deploy: bool,
    /// Set the learning rate.
    pub schedule: bool,
    /// See the status.
    pub observe: bool,
}

impl Access {
    pub(crate) fn new(job: &JobConfig, access: &AccessConfig) -> Self {
        let observers = [&access.deployers, &access.schedulers, &access.operators, &access.auditors];
        Self {
            ranks: (0..).zip(&job.workers).map(|(rank, identity)| (identity.clone(), rank)).collect(),
            publishers: access.publishers.iter().cloned().collect(),
            deployers: access.deployers.iter().cloned().collect(),
            schedulers: access.deployers.iter().chain(&access.schedulers).cloned().collect(),
            observers: observers.into_iter().flatten().cloned().collect(),
        }
    }

    /// `None` for an identity that is not named anywhere.
    pub(crate) fn of(&self, identity: &Identity) -> Option<Rights> {
        let name = identity.as_str();
        let rights = Rights {
            worker: self.ranks.get(name).copied(),
            submit: self.publishers.contains(name),
            deploy: self.deployers.contains(name),
            schedule: self.schedulers.contains(name),
            observe: self.observers.contains(name),
        };
        let any = rights.worker.is_some() || rights.submit || rights.deploy || rights.schedule || rights.observe;
        any.then_some(rights)
    }
}
