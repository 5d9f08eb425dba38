//! The trust file of a running server: read again when it changes, and held against what runs.
//!
//! An optimizer that is not trusted any more is paused, unless the operator has it finish: no further round runs in it.
//! A round that is being computed ends; the gradients of one that was not complete are discarded, as after a failure, so
//! that nothing of it is left for whatever is deployed next. Weights stay readable as they are. The next deployment that
//! is trusted takes all keys over at once; where one that is trusted is to come already, it takes over at once those keys
//! that are with one that is paused, and the gradients that they have are its.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use parking_lot::Mutex;
use serde::Deserialize;
use stepbox_trust::{Digest, MAX_TRUST_FILE_BYTES, TrustStore};
use stepbox_wire::{DeploymentStatus, ErrorCode, OptimizerStatus, RevokedOptimizer, Standing};
use tokio::sync::watch;

use crate::audit::{Action, Event};
use crate::config::TrustConfig;
use crate::job::Job;
use crate::limits::Limits;
use crate::move_over;
use crate::optimizer::{Optimizer, OptimizerId};
use crate::refusal::{Answered, Refusal};

/// Seconds after which the trust file is looked at again: a revocation should not wait for anybody, and reading a few
/// kilobytes costs nothing.
pub const DEFAULT_TRUST_RELOAD_SECONDS: f64 = 2.0;

/// What becomes of an optimizer that runs and is not trusted any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnRevocation {
    /// It runs no further round.
    #[default]
    Pause,
    /// It goes on until another is deployed.
    Finish,
}

/// The trust file as it was read last.
#[derive(Debug)]
pub(crate) struct Trust {
    path: PathBuf,
    most_component_bytes: usize,
    /// Held by whoever reads the file, so that an older content never takes the place of a newer one.
    looking: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The last that could be used.
    store: Arc<TrustStore>,
    /// Of the content that was looked at last, usable or not.
    content: Option<Digest>,
    /// Why what was looked at last cannot be used.
    fault: Option<String>,
}

/// What looking at the file has brought.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    Unchanged,
    Replaced,
    /// It cannot be used, and could before.
    Broke(String),
}

impl Trust {
    /// Reads the file. Where it cannot be used nobody is trusted until it can.
    pub fn new(config: &TrustConfig, limits: &Limits) -> Self {
        let most_component_bytes = usize::try_from(limits.component_bytes).unwrap_or(usize::MAX);
        let trust = Self {
            path: config.store.clone(),
            most_component_bytes,
            looking: Mutex::default(),
            state: Mutex::default(),
        };
        if let Look::Broke(fault) = trust.look() {
            tracing::error!(fault, "nobody is trusted");
        }
        trust
    }

    /// What is in force.
    fn store(&self) -> Arc<TrustStore> {
        Arc::clone(&self.state.lock().store)
    }

    /// What a deployment is verified with. While the file cannot be used nothing is deployed: what stood in it may have
    /// been a revocation.
    pub fn store_for_deployment(&self) -> Answered<Arc<TrustStore>> {
        let state = self.state.lock();
        match &state.fault {
            None => Ok(Arc::clone(&state.store)),
            Some(fault) => {
                let message = format!("nothing is deployed while the trust file cannot be used: {fault}");
                Err(Refusal::new(ErrorCode::Internal, message).because("trust-file"))
            }
        }
    }

    /// Looks at the file and takes over what is new in it. Waits for the disk.
    fn look(&self) -> Look {
        let _looking = self.looking.lock();
        let read = File::open(&self.path).and_then(|file| {
            let mut bytes = Vec::new();
            file.take(MAX_TRUST_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
            if bytes.len() > MAX_TRUST_FILE_BYTES {
                let reason = format!("it has more than {MAX_TRUST_FILE_BYTES} bytes");
                return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
            }
            Ok(bytes)
        });
        // By its content: times and inodes can stay as they were.
        let content = read.as_ref().ok().map(|bytes| Digest::of(bytes));
        // Not before: rounds wait for whoever has this, and a disk can be slow.
        let mut state = self.state.lock();
        if content.is_some() && content == state.content {
            return Look::Unchanged;
        }
        state.content = content;
        let parsed = read.map_err(|error| error.to_string()).and_then(|bytes| {
            let text = String::from_utf8(bytes).map_err(|_| "it is not text".to_owned())?;
            TrustStore::parse(&text).map_err(|error| error.to_string())
        });
        match parsed {
            Ok(store) => {
                state.store = Arc::new(store.with_max_component_bytes(self.most_component_bytes));
                state.fault = None;
                Look::Replaced
            }
            Err(reason) => {
                let fault = format!("trust file {}: {reason}", self.path.display());
                let is_new = state.fault.as_ref() != Some(&fault);
                state.fault = Some(fault.clone());
                if is_new { Look::Broke(fault) } else { Look::Unchanged }
            }
        }
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

/// Looks at the trust file and holds what is deployed against it, also where it has not changed: the validity of a key
/// ends by itself. Waits for the disk. To be called within the runtime.
pub(crate) fn refresh(job: &Arc<Job>) {
    let path = job.config.trust.store.display().to_string();
    match job.trust.look() {
        Look::Unchanged => {}
        Look::Replaced => job.audit.record(&Event::allowed(Action::TrustReload).about(&path)),
        Look::Broke(fault) => {
            tracing::error!(fault, "the trust file read before stays in force, and nothing is deployed");
            job.audit.record(&Event::refused(Action::TrustReload, &fault).about(&path));
        }
    }
    enforce(job);
}

/// Holds the optimizers in use and to come against the trust file that is in force.
fn enforce(job: &Arc<Job>) {
    let pauses = job.config.trust.on_revocation == OnRevocation::Pause;
    let mut changes = Vec::new();
    let goes_on = {
        // While this is held no gradient is counted.
        let deployments = job.deployments.write();
        // Only now: somebody else may have read a newer file while this one waited.
        let (store, now) = (job.trust.store(), SystemTime::now());
        for optimizer in deployments.known() {
            let revocation = store.recheck(&optimizer.verified, now).err().map(|error| Revocation {
                reason: error.name(),
                message: error.to_string(),
                pauses,
            });
            let before = std::mem::replace(&mut *optimizer.revocation.write(), revocation.clone());
            if before != revocation {
                changes.push((optimizer, revocation));
            }
        }
        if pauses && changes.iter().any(|(_, revocation)| revocation.is_some()) {
            for key in job.model.all() {
                let optimizer = deployments.of_round(&key, key.next_round().0);
                if let Some(paused) = optimizer.and_then(|optimizer| optimizer.paused()) {
                    key.interrupt(&paused.message);
                }
            }
            let paused = changes.iter().filter(|(_, revocation)| revocation.is_some());
            paused.for_each(|(optimizer, _)| job.rendezvous.abandon_optimizer(optimizer.id));
        }
        deployments.newest().is_some_and(|newest| newest.optimizer.paused().is_none())
    };
    if goes_on && !changes.is_empty() {
        // Keys that are with one that is paused do not wait there for the round that the newest was to begin with.
        let job = Arc::clone(job);
        tokio::spawn(async move { move_over::all_due(&job).await });
    }
    for (optimizer, revocation) in changes {
        note(job, &optimizer, revocation.as_ref());
    }
}

fn note(job: &Job, optimizer: &Optimizer, revocation: Option<&Revocation>) {
    let OptimizerStatus { name, version, publisher, digest } = &optimizer.status;
    let details = [("name", name.as_str()), ("version", version), ("publisher", publisher)];
    let Some(Revocation { reason, message, pauses }) = revocation else {
        return job.audit.record(&Event::allowed(Action::Resume).about(digest).with(&details));
    };
    tracing::error!(name, version, digest, reason, pauses, "a deployed optimizer is not trusted any more");
    let revoked = Event::refused(Action::Revoke, message).about(digest).code(ErrorCode::Untrusted);
    job.audit.record(&revoked.with(&details));
    if *pauses {
        let paused = Event::refused(Action::Pause, message).about(digest).code(ErrorCode::Paused);
        job.audit.record(&paused.with(&details));
    }
}

/// Refreshes every now and then, and at every signal, until the server stops.
pub(crate) async fn watch(job: Weak<Job>, mut signals: watch::Receiver<u64>, mut shutdown: watch::Receiver<bool>) {
    let Some(period) = job.upgrade().map(|job| job.config.trust.reload_seconds.duration()) else { return };
    loop {
        tokio::select! {
            () = tokio::time::sleep(period) => {}
            Ok(()) = signals.changed() => {}
            _ = shutdown.wait_for(|stops| *stops) => return,
        }
        let Some(job) = job.upgrade() else { return };
        if let Err(panic) = tokio::task::spawn_blocking(move || refresh(&job)).await {
            tracing::error!(%panic, "the trust file could not be looked at");
        }
    }
}

/// For the status.
pub(crate) fn status(job: &Job) -> DeploymentStatus {
    let deployed = deployed(job);
    let mut revoked = Vec::new();
    let mut standing = if deployed.is_empty() { Standing::None } else { Standing::Trusted };
    for optimizer in deployed.into_values() {
        let Some(Revocation { reason, message, pauses }) = optimizer.revocation.read().clone() else { continue };
        if pauses {
            standing = Standing::Paused;
        } else if standing == Standing::Trusted {
            standing = Standing::Revoked;
        }
        revoked.push(RevokedOptimizer { optimizer: optimizer.status.clone(), reason: reason.to_owned(), message });
    }
    DeploymentStatus {
        standing,
        revoked,
        previous: job.previous.read().clone(),
        trust_error: job.trust.state.lock().fault.clone(),
    }
}

/// All that keys update with or will, in order of deployment.
fn deployed(job: &Job) -> BTreeMap<OptimizerId, Arc<Optimizer>> {
    let newest = job.deployments.read().newest().map(|newest| Arc::clone(&newest.optimizer));
    let residents = job.model.all().into_iter().filter_map(|key| key.resident());
    residents.chain(newest).map(|optimizer| (optimizer.id, optimizer)).collect()
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    #[test]
    fn what_cannot_be_used_leaves_the_file_before_in_force_and_stops_deployments_until_it_can() {
        let folder = std::env::temp_dir().join(format!("stepbox-trust-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let text = r#"
            listen = "127.0.0.1:0"
            state_directory = "state"
            tls = { ca = "ca.pem", certificate = "server.pem", key = "server.key" }
            job = { workers = ["worker-0"] }
            trust = { store = "publishers.toml" }
        "#;
        let config = Config::parse(text, Path::new(&folder)).expect("a configuration");
        let path = folder.join("publishers.toml");
        std::fs::write(&path, "revoked_keys = []").expect("written");
        let trust = Trust::new(&config.trust, &config.limits);
        assert_eq!(trust.look(), Look::Unchanged);
        assert!(trust.store_for_deployment().is_ok());

        std::fs::write(&path, "revoked_kyes = []").expect("written");
        assert!(matches!(trust.look(), Look::Broke(fault) if fault.contains("revoked_kyes")));
        assert_eq!(trust.look(), Look::Unchanged, "told once");
        let in_force = trust.store();
        assert_eq!(trust.store_for_deployment().map(drop).map_err(|refusal| refusal.reason), Err(Some("trust-file")));
        std::fs::remove_file(&path).expect("removed");
        assert!(matches!(trust.look(), Look::Broke(_)));
        assert_eq!(trust.look(), Look::Unchanged, "told once");
        assert!(Arc::ptr_eq(&in_force, &trust.store()));

        std::fs::write(&path, "revoked_keys = []").expect("written");
        assert_eq!(trust.look(), Look::Replaced);
        assert!(trust.store_for_deployment().is_ok());
        std::fs::remove_dir_all(&folder).expect("removed");
    }
}
