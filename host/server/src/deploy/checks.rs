//! What is asked of a component before any key is: signature, publisher, version, the sandbox's rules, its settings.

use std::sync::Arc;

use stepbox_sandbox::{AdmittedComponent, Fault, SandboxError};
use stepbox_trust::{Claims, TrustError, VerifiedComponent};
use stepbox_wire::{DeployOptions, ErrorCode, OptimizerStatus};

use super::records::{no_previous, unknown_component};
use super::request::Wanted;
use super::revocation;
use crate::component::{Kept, check_options};
use crate::job::Job;
use crate::names::{Answered, Refusal};
use crate::optimizer::Groups;

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
    let (verified, options, former) = match wanted {
        Wanted::File { component, options } => (verify(job, component)?, options, None),
        Wanted::Submitted { digest, options } => {
            if job.components.archive.lock().submission(&digest).is_none() {
                return Err(unknown_component(&digest));
            }
            let kept = read_kept(job, &digest)?;
            revocation::refresh(job);
            let verified =
                job.components.trust.store_for_deployment()?.verify_stored(kept).map_err(|error| untrusted(&error))?;
            check_same(&verified, &digest)?;
            (verified, options, None)
        }
        Wanted::Former { to } => {
            let (verified, kept) = former(job, to.as_deref(), about)?;
            (verified, kept.options.clone(), Some(kept))
        }
    };
    *about = status(&verified);
    match &former {
        None => check_version(job, &verified)?,
        Some(_) if job.components.ledger.lock().was_deployed(&verified) => {}
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

/// What to go back to: the deployment of this digest, or the last before the present one that is trusted. `about` becomes
/// what is gone back to, or what an error is about.
fn former(job: &Arc<Job>, to: Option<&str>, about: &mut OptimizerStatus) -> Answered<(VerifiedComponent, Kept)> {
    revocation::refresh(job);
    let store = job.components.trust.store_for_deployment()?;
    let mut kept = job.components.archive.lock().previous().to_vec();
    kept.retain(|kept| to.is_none_or(|digest| digest == kept.optimizer.digest));
    let mut passed_over = None;
    for kept in kept {
        about.clone_from(&kept.optimizer);
        let bytes = read_kept(job, &about.digest)?;
        let is_itself = Claims::read(&bytes).is_ok_and(|claims| claims.digest.to_string() == about.digest);
        match store.verify_stored(bytes) {
            Ok(verified) => {
                check_same(&verified, &about.digest)?;
                return Ok((verified, kept));
            }
            Err(error) if to.is_none() && is_itself && has_ended(&error) => {
                tracing::warn!(digest = about.digest, %error, "a rollback goes past what is not trusted any more");
                passed_over.get_or_insert((kept.optimizer, untrusted(&error)));
            }
            Err(error) => return Err(untrusted(&error)),
        }
    }
    let Some((nearest, refusal)) = passed_over else { return Err(no_previous(to)) };
    *about = nearest;
    Err(refusal)
}

/// Whether an error says that a file, which is as it was deployed, is not trusted any more.
fn has_ended(error: &TrustError) -> bool {
    matches!(
        error,
        TrustError::UnknownKey { .. }
            | TrustError::RevokedKey { .. }
            | TrustError::ExpiredKey { .. }
            | TrustError::KeyNotYetValid { .. }
            | TrustError::RevokedDigest { .. }
            | TrustError::NameNotAllowed { .. }
            | TrustError::ThresholdNotMet(_)
            | TrustError::BelowMinimum { .. }
    )
}

/// The file that is kept under a digest, not verified yet.
fn read_kept(job: &Job, digest: &str) -> Answered<Vec<u8>> {
    let limit = job.config.limits.component_bytes;
    job.components.archive.lock().read(digest, limit).map_err(|error| {
        let message =
            format!("the file kept for {digest} cannot be read on the server ({error}); deploy or submit it again");
        Refusal::new(ErrorCode::UnknownComponent, message).because("component-lost")
    })
}

/// That the file kept under a digest has it.
fn check_same(verified: &VerifiedComponent, digest: &str) -> Answered<()> {
    if verified.digest().to_string() == digest {
        return Ok(());
    }
    let message = format!("the file kept for {digest} is another one; it was replaced on the server");
    Err(Refusal::new(ErrorCode::Untrusted, message).because("digest-mismatch"))
}

/// Signature and publisher, by the trust file as it is now.
pub(super) fn verify(job: &Arc<Job>, component: Vec<u8>) -> Answered<VerifiedComponent> {
    // Whoever has just written a revocation into it need not wait.
    revocation::refresh(job);
    job.components.trust.store_for_deployment()?.verify(component).map_err(|error| untrusted(&error))
}

/// That its version is not below what was deployed, and no other file of the same.
pub(super) fn check_version(job: &Job, verified: &VerifiedComponent) -> Answered<()> {
    job.components.ledger.lock().check(verified).map_err(|error| untrusted(&error))
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

pub(super) fn untrusted(error: &TrustError) -> Refusal {
    Refusal::new(ErrorCode::Untrusted, error.to_string()).because(error.name())
}
