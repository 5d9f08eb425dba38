//! What a deployment rests on: the rights of whoever asks for it, and the trust file. Both are looked at when it begins, and
//! again when it takes effect: a component can take a minute to be compiled, and either can end meanwhile.

use std::sync::Arc;
use std::time::SystemTime;

use stepbox_trust::VerifiedComponent;

use super::checks::untrusted;
use super::revocation::refresh;
use crate::config::Right;
use crate::job::Job;
use crate::names::{Answered, Identity};

/// Who asks, and the rights that it takes.
#[derive(Debug, Clone)]
pub(super) struct Mandate {
    pub by: Identity,
    pub rights: &'static [Right],
}

impl Mandate {
    /// Whether rights and trust still are what they must be, by the files as they were read last.
    pub fn check(&self, job: &Job, verified: &VerifiedComponent) -> Answered<()> {
        self.rights.iter().try_for_each(|right| job.access.require(&self.by, *right))?;
        let store = job.components.trust.store_for_deployment()?;
        store.recheck(verified, SystemTime::now()).map_err(|error| untrusted(&error))
    }

    /// The same after another look at the trust file: whoever has just written a revocation into it need not wait. Waits
    /// for the disk.
    pub fn check_anew(&self, job: &Arc<Job>, verified: &VerifiedComponent) -> Answered<()> {
        refresh(job);
        self.check(job, verified)
    }
}
