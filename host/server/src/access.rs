//! Who may do what. Whoever is not named in the configuration may do nothing.

use std::collections::{HashMap, HashSet};

use crate::config::{AccessConfig, JobConfig};
use crate::identity::Identity;

/// What the configuration says of every identity it names.
#[derive(Debug)]
pub(crate) struct Access {
    ranks: HashMap<String, u32>,
    deployers: HashSet<String>,
    schedulers: HashSet<String>,
    observers: HashSet<String>,
}

/// What one identity may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rights {
    /// Train: register, init, push, pull, meet at barriers, as the worker of this rank.
    pub worker: Option<u32>,
    /// Replace the optimizer.
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
            deploy: self.deployers.contains(name),
            schedule: self.schedulers.contains(name),
            observe: self.observers.contains(name),
        };
        (rights.worker.is_some() || rights.deploy || rights.schedule || rights.observe).then_some(rights)
    }
}
