//! Which optimizer updates the weights, and which one takes over at which round.
//!
//! A deployment names the round from which all keys update with the new optimizer. A key moves over when it is about to
//! run that round; until the last one has, the optimizer before is still in use. A deployment that comes in between
//! replaces the one under way: keys that have not moved go straight to the newest.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use stepbox_sandbox::{AdmittedComponent, Plan, Settings};
use stepbox_wire::OptimizerStatus;

use crate::shard::KeyId;

/// Counts deployments.
pub(crate) type OptimizerId = u64;

/// A deployed component with its settings and its plans for the model's keys.
pub(crate) struct Optimizer {
    pub id: OptimizerId,
    pub status: OptimizerStatus,
    pub component: AdmittedComponent,
    pub settings: Settings,
    plans: Mutex<HashMap<KeyId, Arc<Plan>>>,
}

impl Optimizer {
    pub fn new(
        id: OptimizerId,
        status: OptimizerStatus,
        component: AdmittedComponent,
        settings: Settings,
        plans: HashMap<KeyId, Arc<Plan>>,
    ) -> Self {
        Self { id, status, component, settings, plans: Mutex::new(plans) }
    }

    pub fn plan(&self, key: KeyId) -> Option<Arc<Plan>> {
        self.plans.lock().get(&key).cloned()
    }

    pub fn add_plan(&self, key: KeyId, plan: Arc<Plan>) {
        self.plans.lock().insert(key, plan);
    }

    pub fn remove_plan(&self, key: KeyId) {
        self.plans.lock().remove(&key);
    }

    /// Whether state that `older` made for a key under this plan goes on, or why not.
    pub fn keeps_state(&self, key: KeyId, older: &Self, older_plan: &Plan) -> Result<(), String> {
        if self.status.name != older.status.name {
            return Err(format!("{} is not {}", self.status.name, older.status.name));
        }
        let plan = self.plan(key).ok_or_else(|| "it has no plan for the key".to_owned())?;
        plan.keeps_state_of(older_plan)
    }
}

/// The deployments that matter now.
#[derive(Default)]
pub(crate) struct Deployments {
    newest: Option<Deployed>,
    /// The one before the newest, as long as keys update with it.
    before: Option<Arc<Optimizer>>,
    /// Keys that have yet to move to the newest.
    waiting: usize,
}

/// An optimizer and when it takes over.
#[derive(Clone)]
pub(crate) struct Deployed {
    pub optimizer: Arc<Optimizer>,
    /// Keys update with it from this round on.
    pub from_round: u64,
}

impl Deployments {
    /// The optimizer that new rounds move to, if there is any at all.
    pub fn newest(&self) -> Option<&Deployed> {
        self.newest.as_ref()
    }

    /// The one that all keys, or all that have not moved, update with.
    pub fn in_use(&self) -> Option<&Arc<Optimizer>> {
        match (&self.before, &self.newest) {
            (None, Some(newest)) if self.waiting == 0 => Some(&newest.optimizer),
            (before, _) => before.as_ref(),
        }
    }

    /// The newest, where keys have yet to move to it.
    pub fn pending(&self) -> Option<&Deployed> {
        self.newest.as_ref().filter(|_| self.waiting > 0)
    }

    /// A new optimizer takes over; `keys` of them have to move.
    pub fn deploy(&mut self, deployed: Deployed, keys: usize) {
        self.before = self.in_use().cloned().filter(|_| keys > 0);
        self.newest = Some(deployed);
        self.waiting = keys;
    }

    /// A new key starts with this optimizer, which is not the newest.
    pub fn add_waiting(&mut self, with: &Arc<Optimizer>) {
        self.waiting += 1;
        self.before.get_or_insert_with(|| Arc::clone(with));
    }

    /// A key has moved to this optimizer.
    pub fn moved(&mut self, to: OptimizerId) {
        if self.newest.as_ref().is_some_and(|newest| newest.optimizer.id == to) && self.waiting > 0 {
            self.waiting -= 1;
            if self.waiting == 0 {
                self.before = None;
            }
        }
    }
}
