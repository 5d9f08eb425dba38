//! Requests that submit, deploy and roll back components.

use std::sync::Arc;

use stepbox_wire::{DeployOptions, ErrorCode, Response};
use tokio::io::AsyncRead;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answers::Content;
use super::context::Context;
use super::requests::{Asked, Outstanding, Stopped};
use crate::config::Right;
use crate::deploy::{Wanted, deploy, submit, withdraw};
use crate::job::panicked;
use crate::names::{Answered, Refusal};

impl<Stream: AsyncRead + Unpin> Asked<'_, Stream> {
    pub(super) async fn deploy(mut self, options: DeployOptions) -> Result<Option<Content>, Stopped> {
        self.must_deploy()?;
        self.must_submit("; what was submitted you may activate (`stepbox activate`)")?;
        self.context.account.change()?;
        let permit = self.permit()?;
        let component = self.component().await?;
        let Context { job, identity, .. } = &**self.context;
        let turn = job.turns.deploy()?;
        let deployment = deploy(Arc::clone(job), identity.clone(), Wanted::File { component, options }, turn);
        self.in_its_own_task(permit, deployment)
    }

    pub(super) fn activate(self, digest: String, options: DeployOptions) -> Result<Option<Content>, Stopped> {
        self.must_deploy()?;
        self.context.account.change()?;
        let (turn, permit) = (self.context.job.turns.deploy()?, self.permit()?);
        let Context { job, identity, .. } = &**self.context;
        let wanted = Wanted::Submitted { digest: digest.to_ascii_lowercase(), options };
        let deployment = deploy(Arc::clone(job), identity.clone(), wanted, turn);
        self.in_its_own_task(permit, deployment)
    }

    pub(super) fn rollback(self, to: Option<String>) -> Result<Option<Content>, Stopped> {
        self.must_deploy()?;
        self.context.account.change()?;
        let permit = self.permit()?;
        let Context { job, identity, .. } = &**self.context;
        let (job, identity) = (Arc::clone(job), identity.clone());
        let wanted = Wanted::Former { to: to.map(|digest| digest.to_ascii_lowercase()) };
        self.in_its_own_task(permit, async move {
            let turn = job.turns.roll_back().await?;
            deploy(job, identity, wanted, turn).await
        })
    }

    pub(super) async fn submit(mut self) -> Result<Option<Content>, Stopped> {
        self.must_submit("")?;
        self.context.account.change()?;
        let permit = self.permit()?;
        let component = self.component().await?;
        let Context { job, identity, .. } = &**self.context;
        let turn = turn(&job.components.submitting)?;
        let submission = submit(Arc::clone(job), identity.clone(), component);
        self.in_its_own_task(permit, async move {
            let outcome = submission.await;
            drop(turn);
            outcome
        })
    }

    pub(super) fn withdraw(self, digest: String) -> Result<Option<Content>, Stopped> {
        let Context { job, identity, .. } = &**self.context;
        let rights = job.access.still_of(identity)?;
        if ![Right::Submit, Right::Activate].into_iter().any(|right| rights.may(right)) {
            let message = format!("`{identity}` may not withdraw; the operator names publishers in [access]");
            return Err(Refusal::new(ErrorCode::Forbidden, message).into());
        }
        self.context.account.change()?;
        let withdrawal =
            withdraw(Arc::clone(job), identity.clone(), rights.may(Right::Activate), digest.to_ascii_lowercase());
        self.later(String::new(), async move { withdrawal.await.map(Content::Message) })
    }

    fn must_deploy(&self) -> Answered<()> {
        let Context { job, identity, .. } = &**self.context;
        job.access.require(identity, Right::Activate)
    }

    fn must_submit(&self, instead: &str) -> Answered<()> {
        let Context { job, identity, .. } = &**self.context;
        let told = |refusal: Refusal| Refusal { message: format!("{}{instead}", refusal.message), ..refusal };
        job.access.require(identity, Right::Submit).map_err(told)
    }

    /// Reads the component that is the body.
    async fn component(&mut self) -> Result<Vec<u8>, Stopped> {
        let limit = self.context.job.config.limits.component_bytes;
        if self.body_bytes > limit {
            let message = format!("a component of {} bytes is above {limit} (limits.component_bytes)", self.body_bytes);
            return Err(Refusal::new(ErrorCode::Untrusted, message).because("too-large").into());
        }
        let _room = self.room().await?;
        let mut component = vec![0; self.body_bytes as usize];
        self.reader.body(&mut component, |_| {}).await?;
        tracing::info!(identity = %self.context.identity, bytes = component.len(), "a component has come");
        Ok(component)
    }

    /// Once begun, it is not undone by the connection's end.
    fn in_its_own_task(
        self,
        permit: Outstanding,
        work: impl Future<Output = Answered<Response>> + Send + 'static,
    ) -> Result<Option<Content>, Stopped> {
        let task = tokio::spawn(work);
        self.later_with(permit, String::new(), async move {
            task.await.unwrap_or_else(|panic| Err(panicked(&panic))).map(Content::Message)
        })
    }
}

/// One at a time: each holds a component and compiles it. Taken when the component is there, so that who sends one slowly
/// keeps nobody from anything.
fn turn(turns: &Arc<Semaphore>) -> Answered<OwnedSemaphorePermit> {
    Arc::clone(turns).try_acquire_owned().map_err(|_| {
        Refusal::new(ErrorCode::Busy, "another submission is under way; try again").because("deployment-under-way")
    })
}
