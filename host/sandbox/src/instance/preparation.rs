//! What preparing an optimizer may use: fuel and time for all calls that plan and bind, together.
//!
//! Each of these calls has a budget of its own, but a deployment makes one or two for every tensor and slice of a model.
//! Without a bound on their sum, an optimizer that spends all of each budget would keep a large model waiting for minutes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::{CallError, CallFailure, SandboxError};
use crate::limits::Limits;

/// What a call may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallBudget {
    pub(crate) fuel: u64,
    pub(crate) deadline_milliseconds: u64,
}

/// The budget of one preparation: of a deployment for all keys of a job, or of a new key for the optimizers in use.
///
/// Several threads may share it. Each takes what it used after its call, so calls that run at the same time can together
/// use at most one call's budget each more than there is.
#[derive(Debug)]
pub struct Preparation {
    /// Fuel that is left.
    fuel: AtomicU64,
    until: Instant,
    limit_fuel: u64,
    limit_milliseconds: u64,
}

impl Preparation {
    /// A whole budget, whose time runs from now on.
    pub fn new(limits: &Limits) -> Self {
        let time = Duration::from_millis(limits.preparation_deadline_milliseconds);
        let now = Instant::now();
        Self {
            fuel: AtomicU64::new(limits.preparation_fuel),
            // A time that no clock can show is none.
            until: now.checked_add(time).unwrap_or(now + Duration::from_hours(24 * 365)),
            limit_fuel: limits.preparation_fuel,
            limit_milliseconds: limits.preparation_deadline_milliseconds,
        }
    }

    /// Makes a call with what is left of the budget, and no more than the call's own. Fuel in `proportional` is for work
    /// in proportion to the memory that the server asked for, and is not charged here. `call` also returns the fuel that
    /// it used.
    pub(crate) fn call<T>(
        &self,
        own: CallBudget,
        proportional: u64,
        call: impl FnOnce(CallBudget) -> (Result<T, CallError>, u64),
    ) -> Result<T, SandboxError> {
        let fuel = self.fuel.load(Ordering::Acquire);
        let time = self.until.saturating_duration_since(Instant::now());
        if fuel == 0 {
            return Err(self.out_of_fuel());
        }
        if time.is_zero() {
            return Err(self.out_of_time());
        }
        let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
        let budget = CallBudget {
            fuel: own.fuel.min(fuel.saturating_add(proportional)),
            deadline_milliseconds: own.deadline_milliseconds.min(milliseconds),
        };
        let (outcome, used) = call(budget);
        let used = used.saturating_sub(proportional);
        self.fuel.update(Ordering::AcqRel, Ordering::Acquire, |left| left.saturating_sub(used));
        outcome.map_err(|error| match error.failure {
            CallFailure::OutOfFuel { .. } if budget.fuel < own.fuel => self.out_of_fuel(),
            CallFailure::Deadline { .. } if budget.deadline_milliseconds < own.deadline_milliseconds => {
                self.out_of_time()
            }
            _ => error.into(),
        })
    }

    fn out_of_fuel(&self) -> SandboxError {
        SandboxError::PreparationFuel { limit: self.limit_fuel }
    }

    fn out_of_time(&self) -> SandboxError {
        SandboxError::PreparationTime { milliseconds: self.limit_milliseconds }
    }
}
