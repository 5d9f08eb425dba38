//! The same training on a server of its own that nobody attacks.

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;

use anyhow::{Context, Result};
use stepbox_client::Tensor;
use tokio::task::JoinSet;

use super::model::WORKERS;
use super::process::Process;
use super::training::{End, Honest, Versions};
use super::{Arena, Cast};

/// The other server, and its workers.
pub struct Twin {
    process: Process,
    workers: Vec<Honest>,
    base: Versions,
}

impl Twin {
    /// Starts it with these weights, which have had so many rounds.
    pub(super) async fn start(cast: &Cast, folder: PathBuf, weights: &[Tensor], base: Versions) -> Result<Self> {
        let process = cast.start(&folder).await.context("the undisturbed server")?;
        cast.client(process.address, "deployer").await?.deploy(cast.good(), &Arena::good_options()).await?;
        let mut joining = JoinSet::new();
        for rank in 0..WORKERS {
            let client = cast.client(process.address, &Cast::worker(rank)).await?;
            let weights = weights.to_vec();
            joining.spawn(async move { Honest::new(client, rank, &weights).await });
        }
        let workers = joining.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(Self { process, workers, base })
    }

    /// Trains up to these rounds of the server that is attacked; returns the digest of the weights.
    pub(super) async fn digest_at(&mut self, cast: &Cast, versions: &Versions) -> Result<String> {
        // Keys are apart only where a round has just failed, and then nobody compares.
        let goal = versions.iter().copied().max().unwrap_or(0);
        let base = self.base;
        let mut running = JoinSet::new();
        for mut worker in self.workers.drain(..) {
            running.spawn(async move {
                let end = worker.train(&AtomicU64::new(goal), &AtomicU64::new(0), &base, false).await;
                (worker, end)
            });
        }
        for (worker, end) in running.join_all().await {
            anyhow::ensure!(end.context("the undisturbed run")? == End::Done, "the undisturbed run was disturbed");
            self.workers.push(worker);
        }
        let status = cast.client(self.process.address, "operator").await?.status(true).await?;
        status.weights_digest.context("the status has no digest")
    }

    /// Ends it.
    pub(super) async fn stop(self) -> Result<()> {
        drop(self.workers);
        self.process.stop().await
    }
}
