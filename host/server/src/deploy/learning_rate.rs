//! Who gives the learning rate: a deployment starts a schedule or goes on with the one before, and a request replaces it
//! while training runs.
//!
//! A schedule starts, like a deployment, at a round above all for which a gradient has been counted: all keys use the same
//! rate in the same round.

use stepbox_sandbox::AdmittedComponent;
use stepbox_wire::{DeployOptions, ErrorCode, ScheduleStatus};

use crate::config::Right;
use crate::job::{Job, no_optimizer_for};
use crate::names::{Answered, Identity, Refusal};
use crate::optimizer::{Groups, MAX_SCHEDULES, Optimizer, Rates, Schedule, ScheduleId, check_rates};

/// How an optimizer's learning rate begins.
pub(crate) enum Start {
    /// With a schedule of its own, in the round in which the optimizer takes over.
    Afresh(Rates),
    /// Where the optimizer before it is.
    GoesOn(Rates),
}

impl Start {
    pub fn rates(&self) -> &Rates {
        match self {
            Self::Afresh(rates) | Self::GoesOn(rates) => rates,
        }
    }
}

/// What a deployment's learning rate begins with. The structure's lock must be held, so that what is decided here still
/// holds when the deployment takes effect.
///
/// A new version of the same optimizer goes on with the schedule that runs, at the round where it is, if the deployment
/// sets neither learning rate nor schedule, or sets the same ones again. Otherwise the deployment's schedule starts from
/// its beginning, with the component's default where no learning rate is set.
pub(crate) fn start(
    job: &Job,
    name: &str,
    component: &AdmittedComponent,
    groups: &Groups,
    options: &DeployOptions,
) -> Answered<Start> {
    let mut deployments = job.deployments.write();
    let same_name = |optimizer: &Optimizer| optimizer.status.name == name;
    let running = deployments.newest().filter(|newest| same_name(&newest.optimizer));
    let running = running.map(|newest| newest.optimizer.rates.lock().clone());

    let own = checked(groups.learning_rate(), options.schedule.unwrap_or_default())?;
    let is_silent = options.learning_rate.is_none() && options.schedule.is_none();
    let start = match running {
        Some(rates) if is_silent || *rates.newest() == own => Start::GoesOn(rates),
        _ => Start::Afresh(Rates::new(deployments.number_schedule(), own)),
    };
    for schedule in start.rates().all() {
        check_rates(component, groups, schedule).map_err(|error| refused(&error))?;
    }
    Ok(start)
}

/// Replaces the schedule, if whoever asks for it still may, for all keys from the returned round on.
pub(crate) async fn set(
    job: &Job,
    by: &Identity,
    peak: Option<f64>,
    form: stepbox_wire::Schedule,
) -> Answered<ScheduleStatus> {
    let _structure = job.lock_structure().await?;
    // A deployment may have kept this waiting for long.
    job.access.require(by, Right::Schedule)?;
    let keys = job.model.all();
    // While this is held no gradient is counted.
    let mut deployments = job.deployments.write();
    let id = deployments.number_schedule();
    let newest = deployments.newest().ok_or_else(|| no_optimizer_for("a learning rate cannot be set"))?;
    let optimizer = &newest.optimizer;
    let mut rates = optimizer.rates.lock();

    let schedule = checked(peak.unwrap_or(rates.newest().peak()), form)?;
    check_rates(&optimizer.component, &optimizer.groups, &schedule).map_err(|error| refused(&error))?;
    let highest = keys.iter().map(|key| key.highest_pushed()).max().unwrap_or(0);
    let from_round = (highest + 1).max(newest.from_round);
    if let Some(lowest_open) = keys.iter().map(|key| key.version() + 1).min() {
        rates.forget_before(lowest_open);
    }
    if !rates.set(id, from_round, schedule) {
        let message = format!(
            "{MAX_SCHEDULES} schedules are kept already for a key that is far behind; set another when it has caught up"
        );
        return Err(Refusal::new(ErrorCode::Busy, message));
    }
    Ok(rates.newest_status())
}

/// The schedule that is in force for all keys, under an optimizer that a new key starts with.
pub(crate) fn in_force(job: &Job, optimizer: &Optimizer) -> ScheduleId {
    let lowest_open = job.model.all().iter().map(|key| key.version() + 1).min();
    let mut rates = optimizer.rates.lock();
    if let Some(lowest_open) = lowest_open {
        rates.forget_before(lowest_open);
    }
    rates.oldest()
}

fn checked(peak: f64, form: stepbox_wire::Schedule) -> Answered<Schedule> {
    Schedule::new(peak, form).map_err(|error| refused(&error))
}

fn refused(error: &impl ToString) -> Refusal {
    Refusal::new(ErrorCode::Hyperparameter, error.to_string())
}
