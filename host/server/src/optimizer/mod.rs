//! Which optimizer updates the weights, and which one takes over at which round.
//!
//! A deployment names the round from which all keys update with the new optimizer. A key moves over when it is about to
//! run that round; until the last one has, the optimizer before is still in use. A deployment that comes in between
//! replaces the one under way: keys that have not moved go straight to the newest.

mod footprint;
mod groups;
mod rates;
mod schedule;

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};
use stepbox_sandbox::{AdmittedComponent, NumberRange, Plan, Preparation, SandboxError, TensorDescription};
use stepbox_trust::VerifiedComponent;
use stepbox_wire::{ErrorCode, OptimizerStatus};
use thiserror::Error;

use crate::names::{OptimizerId, Refusal, TensorId};
use crate::tensor::{Slice, cut};

pub use footprint::Footprint;
pub(crate) use groups::{Groups, Treatment};
pub use groups::{MAX_GROUP_NAME_BYTES, MAX_GROUP_PATTERNS, MAX_GROUPS, MAX_PATTERN_BYTES};
pub use rates::MAX_SCHEDULES;
pub(crate) use rates::{Rates, ScheduleId};
pub(crate) use schedule::Schedule;

/// A deployed component with its settings and its plans for the model's keys.
pub(crate) struct Optimizer {
    pub id: OptimizerId,
    pub status: OptimizerStatus,
    /// What is held against the trust file while it is deployed.
    pub verified: VerifiedComponent,
    /// Why it is not trusted any more.
    pub revocation: RwLock<Option<Revocation>>,
    pub component: AdmittedComponent,
    pub groups: Groups,
    pub rates: Mutex<Rates>,
    plans: Mutex<HashMap<TensorId, Arc<Planned>>>,
}

/// A key as it is before an optimizer has planned for it.
pub(crate) struct Unplanned<'a> {
    pub id: TensorId,
    pub description: &'a TensorDescription,
    /// The key's own cut.
    pub slices: &'a [Slice],
    pub shards: usize,
}

/// A key under one optimizer.
pub(crate) struct Planned {
    /// With the group that the optimizer's deployment puts it in.
    pub tensor: TensorDescription,
    pub treatment: Treatment,
    pub plan: Arc<Plan>,
    /// How it is cut under this plan.
    pub slices: Vec<Slice>,
}

impl Planned {
    /// Puts a tensor into its group and asks the component what it needs for it there.
    pub fn new(
        component: &AdmittedComponent,
        groups: &Groups,
        key: &Unplanned<'_>,
        budget: &Preparation,
    ) -> Result<Self, SandboxError> {
        let (tensor, treatment) = groups.place(key.description);
        let plan = Arc::new(component.plan_within(&treatment.settings, &tensor, budget)?);
        let slices = cut::for_plan(&plan, key.slices, key.shards, key.id);
        Ok(Self { tensor, treatment, plan, slices })
    }

    /// The shards that own slices of it, each once.
    pub fn shards(&self) -> Vec<usize> {
        cut::shards(&self.slices)
    }
}

impl Optimizer {
    pub fn new(
        id: OptimizerId,
        status: OptimizerStatus,
        verified: VerifiedComponent,
        component: AdmittedComponent,
        groups: Groups,
        rates: Rates,
        plans: HashMap<TensorId, Arc<Planned>>,
    ) -> Self {
        Self {
            id,
            status,
            verified,
            revocation: RwLock::default(),
            component,
            groups,
            rates: Mutex::new(rates),
            plans: Mutex::new(plans),
        }
    }

    pub fn plan(&self, key: TensorId) -> Option<Arc<Planned>> {
        self.plans.lock().get(&key).cloned()
    }

    pub fn add_plan(&self, key: TensorId, plan: Arc<Planned>) {
        self.plans.lock().insert(key, plan);
    }

    pub fn remove_plan(&self, key: TensorId) {
        self.plans.lock().remove(&key);
    }

    /// Whether state that `older` made for a key under the plan `former` goes on, or why not.
    pub fn keeps_state(&self, key: TensorId, older: &Self, former: &Planned) -> Result<(), String> {
        if self.status.name != older.status.name {
            return Err(format!("{} is not {}", self.status.name, older.status.name));
        }
        let planned = self.plan(key).ok_or_else(|| "it has no plan for the key".to_owned())?;
        planned.plan.keeps_state_of(&former.plan)?;
        if planned.slices == former.slices { Ok(()) } else { Err("the tensor is cut in another way".into()) }
    }
}

/// Why an optimizer that was deployed is not trusted any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Revocation {
    /// A stable name.
    pub reason: &'static str,
    /// The same for people.
    pub message: String,
    /// Whether no further round runs.
    pub pauses: bool,
}

impl Optimizer {
    /// The refusal of whatever needs a further round of it, or any other call into it, where it is paused.
    pub fn paused(&self) -> Option<Refusal> {
        let revocation = self.revocation.read();
        let Revocation { reason, message, .. } = revocation.as_ref().filter(|revocation| revocation.pauses)?;
        let OptimizerStatus { name, version, digest, .. } = &self.status;
        let message = format!(
            "{name} {version} ({digest}) is paused, since it is not trusted any more: {message}; training goes on when \
             another is deployed (`stepbox deploy`, `stepbox activate`) or the one before it takes over again \
             (`stepbox rollback`)"
        );
        Some(Refusal::new(ErrorCode::Paused, message).because(reason))
    }
}

/// Whether all rates that a schedule gives, in all groups, are within the component's range.
pub(crate) fn check_rates(
    component: &AdmittedComponent,
    groups: &Groups,
    schedule: &Schedule,
) -> Result<(), RateOutOfRange> {
    let range = component.description().learning_rate;
    for (group, multiplier) in groups.multipliers() {
        for (end, rate) in [(HIGHEST, schedule.peak()), ("lowest", schedule.lowest())] {
            let given = rate * multiplier;
            // As the optimizer will get it.
            let rate = f64::from(given as f32);
            let vanishes = end == HIGHEST && rate == 0.0 && given != 0.0;
            if vanishes || !range.contains(rate) {
                let group = if group.is_empty() { String::new() } else { format!(" in group {group}") };
                return Err(RateOutOfRange { end, group, given, rate, range });
            }
        }
    }
    Ok(())
}

/// Which rate of a schedule its peak is.
const HIGHEST: &str = "highest";

fn as_optimizers_get_it(given: f64, rate: f64) -> String {
    if given != 0.0 && rate == 0.0 {
        format!(
            ", which is 0 as the f32 that optimizers get (the least is {:e}; usual are rates such as 0.001),",
            f32::MIN_POSITIVE
        )
    } else if given.is_finite() && rate.is_infinite() {
        format!(", which is infinite as the f32 that optimizers get (the most is {:e}),", f32::MAX)
    } else {
        String::new()
    }
}

/// A schedule that leaves the range. The fault of whoever set it.
#[derive(Debug, Clone, PartialEq, Error)]
#[error(
    "learning_rate = {given}{} is out of range: {range}; it is the schedule's {end}{group}",
    as_optimizers_get_it(*given, *rate)
)]
pub(crate) struct RateOutOfRange {
    end: &'static str,
    group: String,
    given: f64,
    rate: f64,
    range: NumberRange,
}

/// The deployments that matter now.
#[derive(Default)]
pub(crate) struct Deployments {
    newest: Option<Deployed>,
    /// The one before the newest, as long as keys update with it.
    before: Option<Arc<Optimizer>>,
    /// Keys that have yet to move to the newest.
    waiting: usize,
    /// All that were deployed and are not gone yet: where a deployment comes before the one under way has reached all
    /// keys, some of them are in neither of the two above.
    known: Vec<Weak<Optimizer>>,
    /// The number the last schedule got.
    last_schedule: ScheduleId,
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

    /// All that keys may update with or will, and perhaps some that none will any more.
    pub fn known(&self) -> impl Iterator<Item = Arc<Optimizer>> {
        self.known.iter().filter_map(Weak::upgrade)
    }

    /// A number for a new schedule, higher than all before.
    pub fn number_schedule(&mut self) -> ScheduleId {
        self.last_schedule += 1;
        self.last_schedule
    }

    /// The optimizer that updates a key's round of this number: the newest from its round on, the one in whose instances
    /// the key is before that. Where the latter is paused and the newest is not, the key need not wait for the round.
    pub fn of_round(&self, here: Option<Arc<Optimizer>>, round: u64) -> Option<Arc<Optimizer>> {
        let Deployed { optimizer: newest, from_round } = self.newest.as_ref()?;
        let here = here.filter(|_| round < *from_round);
        let here = here.filter(|here| here.paused().is_none() || newest.paused().is_some());
        Some(here.unwrap_or_else(|| Arc::clone(newest)))
    }

    /// A new optimizer takes over; `keys` of them have to move.
    pub fn deploy(&mut self, deployed: Deployed, keys: usize) {
        self.before = self.in_use().cloned().filter(|_| keys > 0);
        self.known.retain(|known| known.strong_count() > 0);
        self.known.push(Arc::downgrade(&deployed.optimizer));
        self.newest = Some(deployed);
        self.waiting = keys;
    }

    /// A new key starts with this optimizer, which is not the newest.
    pub fn add_waiting(&mut self, with: &Arc<Optimizer>) {
        self.waiting += 1;
        self.before.get_or_insert_with(|| Arc::clone(with));
    }

    /// A key has moved to this optimizer. Returns whether it was the last one.
    pub fn moved(&mut self, to: OptimizerId) -> bool {
        if self.newest.as_ref().is_some_and(|newest| newest.optimizer.id == to) && self.waiting > 0 {
            self.waiting -= 1;
            if self.waiting == 0 {
                self.before = None;
                return true;
            }
        }
        false
    }
}
