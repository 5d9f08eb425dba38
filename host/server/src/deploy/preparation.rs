//! Preparing an optimizer for all keys: it plans for each, and each shard gets a pool of instances with room for its slices.
//!
//! Until an optimizer takes effect, its code is kept away from training. It plans and binds on one thread of its own,
//! whatever the number of shards, and no lock is held meanwhile: rounds run, keys come, and the learning rate can be set.
//! All of it together has one budget of fuel and time ([`Preparation`]). Between two calls the deployment looks whether it
//! is to go on: not after a rollback, not while the server stops, and not without the rights and the trust that it rests
//! on. When all keys are prepared, the shards are given the pools.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stepbox_sandbox::{AdmittedComponent, Preparation};
use stepbox_trust::VerifiedComponent;
use stepbox_wire::ErrorCode;
use tokio::sync::MutexGuard;

use super::checks::not_admitted;
use super::mandate::Mandate;
use crate::job::{Job, Progress, Structure, off_the_runtime};
use crate::model::Key;
use crate::names::{Answered, OptimizerId, Refusal, TensorId};
use crate::optimizer::{Groups, Planned};
use crate::shard::{Executor, new_slices};

/// How often it looks at rights and trust: signatures are verified for that, which takes a millisecond of large components.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What a deployment needs to be prepared, and to know whether it is to go on.
pub(super) struct Request<'a> {
    pub verified: &'a VerifiedComponent,
    pub component: &'a AdmittedComponent,
    pub groups: &'a Groups,
    pub mandate: &'a Mandate,
    pub progress: &'a Progress,
}

/// An optimizer's plans, and its instances by shard.
#[derive(Default)]
pub(super) struct Prepared {
    plans: HashMap<TensorId, Arc<Planned>>,
    executors: HashMap<usize, Executor>,
}

/// Prepares an optimizer for all keys. Returns with the lock on the job's structure held, so that no key is missing.
pub(super) async fn prepare<'job>(
    job: &'job Arc<Job>,
    request: &Request<'_>,
) -> Answered<(MutexGuard<'job, Structure>, Prepared)> {
    let mut work = Work {
        job: Arc::clone(job),
        component: request.component.clone(),
        groups: request.groups.clone(),
        verified: request.verified.clone(),
        mandate: request.mandate.clone(),
        progress: request.progress.clone(),
        budget: request.component.preparation(),
        prepared: Prepared::default(),
        next_look: Instant::now(),
    };
    loop {
        let structure = job.lock_structure().await?;
        let missing: Vec<_> =
            job.model.all().into_iter().filter(|key| !work.prepared.plans.contains_key(&key.id)).collect();
        if missing.is_empty() {
            return Ok((structure, work.prepared));
        }
        // Those that come while these are prepared are the next ones.
        drop(structure);
        work = off_the_runtime(move || {
            missing.iter().try_for_each(|key| work.add(key))?;
            Ok(work)
        })
        .await?;
    }
}

/// A preparation that goes from the runtime to its thread and back.
struct Work {
    job: Arc<Job>,
    component: AdmittedComponent,
    groups: Groups,
    verified: VerifiedComponent,
    mandate: Mandate,
    progress: Progress,
    budget: Preparation,
    prepared: Prepared,
    /// When rights and trust are looked at next.
    next_look: Instant,
}

impl Work {
    /// Plans for a key and makes room for its slices.
    fn add(&mut self, key: &Key) -> Answered<()> {
        self.check()?;
        let unplanned = key.unplanned(self.job.shards.count());
        let planned = Planned::new(&self.component, &self.groups, &unplanned, &self.budget);
        let planned = planned.map(Arc::new).map_err(|error| not_admitted(&error))?;
        for slice in new_slices(key.id, &planned) {
            self.check()?;
            let executor =
                self.prepared.executors.entry(slice.slice.shard).or_insert_with(|| Executor::new(&self.component));
            executor.bind(&slice, &self.budget).map_err(|error| not_admitted(&error))?;
        }
        self.prepared.plans.insert(key.id, planned);
        Ok(())
    }

    /// Whether it is to go on.
    fn check(&mut self) -> Answered<()> {
        self.progress.check()?;
        if self.job.is_stopping() {
            return Err(Refusal::new(ErrorCode::Busy, "the server is being shut down"));
        }
        if Instant::now() < self.next_look {
            return Ok(());
        }
        self.next_look = Instant::now() + LOOK_AGAIN;
        self.mandate.check(&self.job, &self.verified)
    }
}

impl Prepared {
    /// The plans, and the instances by shard.
    pub fn into_parts(self) -> (HashMap<TensorId, Arc<Planned>>, HashMap<usize, Executor>) {
        (self.plans, self.executors)
    }
}

/// Gives the shards their instances. On an error some may have been given.
pub(super) async fn hand_over(job: &Job, optimizer: OptimizerId, executors: HashMap<usize, Executor>) -> Answered<()> {
    for (shard, executor) in executors {
        // A matter of moving a pointer, behind the work that is queued before it.
        job.shards.call(shard, move |shard| shard.adopt(optimizer, executor)).await?;
    }
    Ok(())
}
