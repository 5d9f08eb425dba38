//! Files that a running server reads again when they change: certificates, keys and revocation lists, and who may do what.
//!
//! They are looked at every few seconds, and at once where somebody asks ([`Reloader`], SIGHUP in `stepbox serve`). What
//! cannot be used leaves in force what was: the log says why, and the status that there is something to mend. Contents are
//! compared, not times, so a file that was replaced, linked or restored is seen as one that was written.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::audit::{Action, Event};
use crate::config::{AccessConfig, Config, ConfigError, settings};
use crate::job::{Jobs, Warnings};
use crate::peer::{NOTICE_SECONDS, Renewed, Tls, in_time, moment};

/// Has a running server read its files again, without waiting until it looks by itself.
#[derive(Debug, Clone)]
pub struct Reloader(watch::Sender<u64>);

impl Reloader {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    /// Returns at once; the server reads the files in a moment.
    pub fn reload(&self) {
        self.0.send_modify(|count| *count += 1);
    }

    pub(crate) fn requests(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

/// What has been read, and who is told when it is another.
pub(crate) struct Files {
    config: Config,
    jobs: Arc<Jobs>,
    tls: watch::Sender<Arc<Tls>>,
    access: BTreeMap<String, AccessConfig>,
    seen_tls: Fingerprint,
    seen_config: Fingerprint,
}

/// SHA-256 of files' contents; of one that cannot be read, why.
type Fingerprint = [u8; 32];

impl Files {
    /// The files of `config`, from which `tls` was read.
    pub fn new(config: Config, jobs: Arc<Jobs>, tls: watch::Sender<Arc<Tls>>) -> Result<Self, ConfigError> {
        let access = settings(&config)?.into_iter().map(|job| (job.name, job.access)).collect();
        // Not of what was read: a file that changed in between is read again at the first look.
        let (seen_tls, seen_config) = ([0; 32], [0; 32]);
        let files = Self { config, jobs, tls, access, seen_tls, seen_config };
        // Whoever asks first is to know already.
        files.warn_of_ends();
        Ok(files)
    }

    /// Looks again and again until the server stops.
    pub async fn watch(self, mut requests: watch::Receiver<u64>) {
        let interval = self.config.tls.reload_seconds.duration();
        let warnings = Arc::clone(&self.jobs.warnings);
        let files = Arc::new(Mutex::new(self));
        loop {
            let looking = Arc::clone(&files);
            match survived(&warnings, move || looking.lock().look()).await {
                Some(true) => {}
                // What it was in the middle of is done again.
                Some(false) => files.lock().forget(),
                // Where the runtime shuts down there is nothing left to do.
                None => return,
            }
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                asked = requests.changed() => if asked.is_err() { return } else { files.lock().forget() },
            }
        }
    }

    /// The next look takes all for changed.
    fn forget(&mut self) {
        (self.seen_tls, self.seen_config) = ([0; 32], [0; 32]);
    }

    fn look(&mut self) {
        let tls = fingerprint(self.config.tls.files());
        if tls != self.seen_tls {
            self.seen_tls = tls;
            self.take_tls();
        }
        self.warn_of_ends();
        let Some(origin) = &self.config.origin else { return };
        let config = fingerprint([&origin.path]);
        if config != self.seen_config {
            self.seen_config = config;
            self.take_access();
        }
    }

    fn take_tls(&self) {
        let before = Arc::clone(&self.tls.borrow());
        let (tls, peers, own) = match before.renewed(&self.config.tls) {
            Ok(Renewed { tls, peers, own }) => (Some(tls).filter(|_| peers.is_ok() || own.is_ok()), peers, own),
            Err(error) => (None, Err(error), Ok(())),
        };
        let mut faults = Vec::new();
        for (what, outcome) in [("authorities and revocation lists", peers), ("the server's certificate", own)] {
            match outcome {
                Ok(()) => self.jobs.audit.record(&Event::allowed(Action::Reload).about(what)),
                Err(error) => {
                    let reason = error.to_string();
                    tracing::error!(
                        what,
                        reason,
                        "this has changed and cannot be used; what was before stays in force"
                    );
                    self.jobs.audit.record(&Event::refused(Action::Reload, &reason).about(what));
                    faults.push(format!("{what} cannot be used as they are now, those before hold: {reason}"));
                }
            }
        }
        self.jobs.warnings.set("certificates", (!faults.is_empty()).then(|| faults.join("; ")));
        if let Some(tls) = tls {
            self.tls.send_replace(Arc::new(tls));
        }
    }

    fn take_access(&mut self) {
        let what = "configuration";
        let Some(origin) = &self.config.origin else { return };
        let read = self.config.load_again(&origin.path).and_then(|config| Ok((settings(&config)?, config)));
        let (jobs, config) = match read {
            Ok(read) => read,
            Err(error) => {
                let reason = error.to_string();
                tracing::error!(reason, "the configuration has changed and cannot be used; rights stay as they were");
                self.jobs.audit.record(&Event::refused(Action::Reload, &reason).about(what));
                // Not why: that may quote what another job's people should not see.
                let warning = "the configuration has changed and cannot be used, rights are those before: see the log";
                self.jobs.warnings.set(what, Some(warning.to_owned()));
                return;
            }
        };
        for settings in jobs {
            let Some(job) = self.jobs.named(&settings.name) else { continue };
            if self.access.get(&settings.name) != Some(&settings.access) {
                job.access.replace(&job.config.job, &settings.access);
                job.audit.record(&Event::allowed(Action::Rights).about(&settings.name));
                self.access.insert(settings.name, settings.access);
            }
        }
        let is_the_same = config.origin.as_ref().is_some_and(|new| new.is_alike_but_for_rights(origin));
        let warning = (!is_the_same).then(|| {
            tracing::warn!("the configuration has changed in more than rights, which needs a restart");
            "the configuration has changed in more than rights; the rest takes effect at a restart".to_owned()
        });
        self.jobs.warnings.set(what, warning);
    }

    fn warn_of_ends(&self) {
        let tls = Arc::clone(&self.tls.borrow());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs() as i64);
        self.jobs.warnings.tell("the certificate", tls.own_warning(now));
        let list = tls.lists_until().filter(|end| *end < now + NOTICE_SECONDS);
        let list = list.map(|end| match end < now {
            true => format!(
                "a revocation list has been overdue since {}; unless tls.expired_revocation_lists = \"accept\", nobody \
                 of its authority gets in: put its successor in its place",
                moment(end)
            ),
            false => format!("a revocation list ends {}: put its successor in its place before", in_time(end, now)),
        });
        self.jobs.warnings.tell("a revocation list's end", list);
    }
}

/// Looks, on a thread where that may wait for the disk. Returns whether it came to its end: where it has panicked an operator
/// is told so until a later look does not. `None` where the runtime shuts down.
async fn survived(warnings: &Warnings, look: impl FnOnce() + Send + 'static) -> Option<bool> {
    let about = "reading files again";
    match tokio::task::spawn_blocking(look).await {
        Ok(()) => {
            warnings.set(about, None);
            Some(true)
        }
        Err(panic) if panic.is_panic() => {
            tracing::error!(%panic, "reading certificates and rights again has failed; please report it with this log");
            let warning = "the server failed while it read certificates and rights again; it tries again: see the log";
            warnings.set(about, Some(warning.to_owned()));
            Some(false)
        }
        Err(_) => None,
    }
}

fn fingerprint<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> Fingerprint {
    let mut all = Sha256::new();
    for file in files {
        match std::fs::read(file) {
            Ok(content) => all.update(Sha256::digest(&content)),
            Err(error) => all.update(error.to_string()),
        }
        all.update([0]);
    }
    all.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_look_that_panics_is_told_of_until_one_does_not_and_is_not_the_last() {
        let warnings = Warnings::default();
        assert_eq!(survived(&warnings, || panic!("on purpose, to see that it is not the end")).await, Some(false));
        assert!(warnings.all()[0].contains("tries again"), "{:?}", warnings.all());
        assert_eq!(survived(&warnings, || ()).await, Some(true));
        assert!(warnings.all().is_empty());
    }
}
