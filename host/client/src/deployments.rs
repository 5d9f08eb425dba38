//! The requests of publishers and deployers.

use bytes::Bytes;
use stepbox_wire::{DeployOptions, OptimizerStatus, Request, Response, ScheduleStatus, SubmissionStatus};

use crate::client::{Client, unexpected};
use crate::error::ClientError;

/// What became of a [`deploy`](Client::deploy), an [`activate`](Client::activate) or a [`rollback`](Client::rollback).
#[derive(Debug, Clone, PartialEq)]
pub struct Deployment {
    /// What was deployed.
    pub optimizer: OptimizerStatus,
    /// Keys update with it from this round on.
    pub from_round: u64,
    /// Whether the state of the optimizer before it is kept.
    pub state_kept: bool,
    /// The schedule of its learning rate, which started before where it goes on from the optimizer before.
    pub schedule: ScheduleStatus,
    /// The groups by name, each with how many of the keys known so far it has taken.
    pub groups: Vec<(String, u64)>,
}

impl Client {
    /// Deploys a signed component. It takes over at the boundary of a round. For whom the server's configuration gives
    /// the rights both to submit and to deploy.
    pub async fn deploy(
        &self,
        component: impl Into<Bytes>,
        options: &DeployOptions,
    ) -> Result<Deployment, ClientError> {
        self.deployed("deploy", &Request::Deploy(options.clone()), component.into()).await
    }

    /// Has the server verify, admit and keep a signed component, without deploying it.
    pub async fn submit(&self, component: impl Into<Bytes>) -> Result<SubmissionStatus, ClientError> {
        let answer = self.ask(&Request::Submit, component.into()).await?;
        let Response::Submitted(submission) = answer.response else {
            return Err(unexpected("submit", &answer));
        };
        Ok(*submission)
    }

    /// Deploys a component that was submitted, by its [digest](OptimizerStatus::digest).
    pub async fn activate(&self, digest: &str, options: &DeployOptions) -> Result<Deployment, ClientError> {
        let request = Request::Activate { digest: digest.to_owned(), options: options.clone() };
        self.deployed("activate", &request, Bytes::new()).await
    }

    /// Goes back to the optimizer that was deployed before the present one, with the options it had; or to the one of
    /// this digest, of those that [`DeploymentStatus::previous`](stepbox_wire::DeploymentStatus::previous) lists.
    pub async fn rollback(&self, to: Option<&str>) -> Result<Deployment, ClientError> {
        self.deployed("rollback", &Request::Rollback { to: to.map(str::to_owned) }, Bytes::new()).await
    }

    /// What was submitted, in order of submission.
    pub async fn submissions(&self) -> Result<Vec<SubmissionStatus>, ClientError> {
        let after = |last: Option<&SubmissionStatus>| Request::Submissions {
            after: last.map(|last| last.component.digest.clone()),
        };
        let page = |response| if let Response::Submissions(page) = response { Some(page) } else { None };
        self.list("submissions", after, page).await
    }

    /// Has the server forget a component that was submitted. For who submitted it, and for deployers.
    pub async fn withdraw(&self, digest: &str) -> Result<(), ClientError> {
        let answer = self.ask(&Request::Withdraw { digest: digest.to_owned() }, Bytes::new()).await?;
        let Response::Withdrawn = answer.response else {
            return Err(unexpected("withdraw", &answer));
        };
        Ok(())
    }

    async fn deployed(&self, name: &str, request: &Request, body: Bytes) -> Result<Deployment, ClientError> {
        let answer = self.ask(request, body).await?;
        let Response::Deployed { optimizer, from_round, state_kept, schedule, groups } = answer.response else {
            return Err(unexpected(name, &answer));
        };
        Ok(Deployment { optimizer, from_round, state_kept, schedule, groups })
    }
}
