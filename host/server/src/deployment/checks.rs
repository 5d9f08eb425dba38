//! What is asked of a component before any key is: signature, publisher, version, the sandbox's rules, its settings.

use std::sync::Arc;

use stepbox_sandbox::{AdmittedComponent, Fault, SandboxError};
use stepbox_trust::{TrustError, VerifiedComponent};
use stepbox_wire::{DeployOptions, ErrorCode, OptimizerStatus};

use super::archive::{Kept, check_options};
use super::{Wanted, no_previous, revocation, unknown_component};
use crate::groups::Groups;
use crate::job::Job;
use crate::refusal::{Answered, Refusal};

/// Past all checks that need no key.
pub(super) struct Accepted {
    pub verified: VerifiedComponent,
    pub component: AdmittedComponent,
    pub groups: Groups,
    pub options: DeployOptions,
    /// Where it goes back to what was deployed before.
    pub former: Option<Kept>,
}

/// Checks what is to be deployed. Returns beside it what an audit event calls it, as far as that is known.
pub(super) fn check(
    job: &Arc<Job>,
    wanted: Wanted,
    mut about: OptimizerStatus,
) -> (OptimizerStatus, Answered<Accepted>) {
    let outcome = check_all(job, wanted, &mut about);
    (about, outcome)
}

fn check_all(job: &Arc<Job>, wanted: Wanted, about: &mut OptimizerStatus) -> Answered<Accepted> {
    let limit = job.config.limits.component_bytes;
    let is_kept = !matches!(wanted, Wanted::File { .. });
    let (bytes, options, former) = match wanted {
        Wanted::File { component, options } => (component, options, None),
        Wanted::Submitted { digest, options } => {
            let archive = job.archive.lock();
            if archive.submission(&digest).is_none() {
                return Err(unknown_component(&digest));
            }
            (archive.read(&digest, limit).map_err(|error| lost(&digest, &error))?, options, None)
        }
        Wanted::Former { to } => {
            // From one that is not trusted any more there is no going back to its own deployments with other options.
            revocation::refresh(job);
            let revoked = job.deployments.read().newest().map(|newest| Arc::clone(&newest.optimizer));
            let revoked = revoked.filter(|newest| newest.revocation.read().is_some());
            let archive = job.archive.lock();
            let is_wanted = |kept: &&Kept| match &to {
                Some(digest) => *digest == kept.optimizer.digest,
                None => revoked.as_ref().is_none_or(|newest| newest.status.digest != kept.optimizer.digest),
            };
            let kept = archive.previous().iter().find(is_wanted).ok_or_else(|| no_previous(to.as_deref()))?.clone();
            about.clone_from(&kept.optimizer);
            let bytes = archive.read(&about.digest, limit).map_err(|error| lost(&about.digest, &error))?;
            (bytes, kept.options.clone(), Some(kept))
        }
    };
    let verified = verify(job, bytes)?;
    if is_kept && verified.digest().to_string() != about.digest {
        let message = format!("the file kept for {} is another one; it was replaced on the server", about.digest);
        return Err(Refusal::new(ErrorCode::Untrusted, message).because("digest-mismatch"));
    }
    *about = status(&verified);
    match &former {
        None => check_version(job, &verified)?,
        Some(_) if job.ledger.lock().was_deployed(&verified) => {}
        Some(_) => {
            let message = format!(
                "the version ledger does not know that {} {} was deployed with this content, so there is no going back \
                 to it",
                verified.manifest().name,
                verified.manifest().version
            );
            return Err(Refusal::new(ErrorCode::Untrusted, message).because("not-deployed-before"));
        }
    }
    check_options(&options).map_err(|reason| Refusal::new(ErrorCode::Hyperparameter, reason))?;
    let component = admit(job, &verified)?;
    let groups = Groups::new(&component, &options)
        .map_err(|error| Refusal::new(ErrorCode::Hyperparameter, error.to_string()))?;
    Ok(Accepted { verified, component, groups, options, former })
}

/// Signature and publisher, by the trust file as it is now.
pub(super) fn verify(job: &Arc<Job>, component: Vec<u8>) -> Answered<VerifiedComponent> {
    // Whoever has just written a revocation into it need not wait.
    revocation::refresh(job);
    job.trust.store_for_deployment()?.verify(component).map_err(|error| untrusted(&error))
}

/// That its version is not below what was deployed, and no other file of the same.
pub(super) fn check_version(job: &Job, verified: &VerifiedComponent) -> Answered<()> {
    job.ledger.lock().check(verified).map_err(|error| untrusted(&error))
}

/// The sandbox's rules, and that the component calls itself what it was signed as.
pub(super) fn admit(job: &Job, verified: &VerifiedComponent) -> Answered<AdmittedComponent> {
    let component = job.sandbox.admit(verified.bytes()).map_err(|error| not_admitted(&error))?;
    let (signed, own) = (&verified.manifest().name, &component.description().name);
    if verified.manifest().own_name() != own {
        let message = format!(
            "the component calls itself `{own}` and was signed as `{signed}`; its publisher must sign it as `{own}`, with \
             a namespace before it or without"
        );
        return Err(Refusal::new(ErrorCode::NotAdmitted, message).because("signed-as-another"));
    }
    Ok(component)
}

/// What is told of it.
pub(super) fn status(verified: &VerifiedComponent) -> OptimizerStatus {
    OptimizerStatus {
        name: verified.manifest().name.clone(),
        version: verified.manifest().version.to_string(),
        publisher: verified.publisher().to_string(),
        digest: verified.digest().to_string(),
    }
}

/// The answer to a sandbox's refusal, by who has to act.
pub(crate) fn not_admitted(error: &SandboxError) -> Refusal {
    let code = match error.fault() {
        Fault::Publisher => ErrorCode::NotAdmitted,
        Fault::Operator => ErrorCode::Busy,
        // Only a step can fail so.
        Fault::Worker => ErrorCode::NotFinite,
        Fault::Server => ErrorCode::Internal,
    };
    Refusal::new(code, error.to_string()).because(error.name())
}

fn untrusted(error: &TrustError) -> Refusal {
    Refusal::new(ErrorCode::Untrusted, error.to_string()).because(error.name())
}

fn lost(digest: &str, error: &std::io::Error) -> Refusal {
    let message =
        format!("the file kept for {digest} cannot be read on the server ({error}); deploy or submit it again");
    Refusal::new(ErrorCode::UnknownComponent, message).because("component-lost")
}
