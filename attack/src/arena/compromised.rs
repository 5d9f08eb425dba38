//! A worker of the job that the attacker has taken over: it does its duty, or no round would end, and more.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use rustls::ClientConfig;
use stepbox_wire::{ElementType, ErrorCode, Request, Response, TensorType};
use tokio::sync::{mpsc, oneshot};

use super::model::{KEYS, Key, bytes};
use super::training::{End, Versions};
use crate::answer::Answer;
use crate::raw::RawPeer;

/// Its rank.
pub const RANK: usize = super::model::WORKERS - 1;

/// When it acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Before it has pushed its gradient for the round.
    BeforePush,
    /// When the server has it.
    AfterPush,
}

/// Something it does besides its duty, in one round of one key.
pub struct Mischief {
    /// At what moment.
    pub when: When,
    /// What.
    pub act: Act,
    /// To whom it tells what came of it.
    pub told: oneshot::Sender<Result<Answer>>,
}

/// What it does: it is given the worker, the key and the number of the round that is open for it.
pub type Act = Box<dyn for<'a> FnOnce(&'a mut Compromised, Key, u64) -> Doing<'a> + Send>;

/// It at work.
pub type Doing<'a> = Pin<Box<dyn Future<Output = Result<Answer>> + Send + 'a>>;

/// The worker.
pub struct Compromised {
    /// Its connection.
    pub peer: RawPeer,
    address: SocketAddr,
    tls: ClientConfig,
    versions: Versions,
    orders: mpsc::Receiver<Mischief>,
}

/// A push of a whole `f32` gradient.
pub fn push(key: Key, round: u64) -> Request {
    push_as(key, round, ElementType::F32, vec![key.elements as u64])
}

/// A push of whatever type.
pub fn push_as(key: Key, round: u64, element: ElementType, shape: Vec<u64>) -> Request {
    Request::Push { key: key.name.into(), round, tensor: TensorType { element, shape }, loss: None }
}

impl Compromised {
    /// In its place, and waiting for the keys to come into being.
    ///
    /// # Errors
    /// The server does not want it.
    pub async fn new(address: SocketAddr, tls: ClientConfig, orders: mpsc::Receiver<Mischief>) -> Result<Self> {
        let mut peer = RawPeer::registered(address, tls.clone()).await?;
        for key in KEYS {
            let tensor = TensorType { element: ElementType::F32, shape: vec![key.elements as u64] };
            let init = Request::Init { key: key.name.into(), tensor, tags: Vec::new() };
            match peer.call(&init, &[]).await? {
                Some(Response::Initialized { .. }) => {}
                other => bail!("init of {} was answered {other:?}", key.name),
            }
        }
        Ok(Self { peer, address, tls, versions: Versions::default(), orders })
    }

    /// Comes back by a new connection.
    ///
    /// # Errors
    /// The server does not want it any more.
    pub async fn reconnect(&mut self) -> Result<()> {
        self.peer = RawPeer::registered(self.address, self.tls.clone()).await?;
        Ok(())
    }

    /// Does its duty up to and with round `goal` of each key, and what it is ordered to.
    pub(super) async fn train(&mut self, goal: &AtomicU64) -> Result<End> {
        let end = self.rounds(goal).await;
        // An order that came too late is not for the next stretch.
        while self.orders.try_recv().is_ok() {}
        end
    }

    async fn rounds(&mut self, goal: &AtomicU64) -> Result<End> {
        loop {
            let round = self.versions.iter().min().copied().unwrap_or(0) + 1;
            if round > goal.load(Ordering::SeqCst) {
                return Ok(End::Done);
            }
            for (index, key) in KEYS.into_iter().enumerate() {
                if self.versions[index] >= round {
                    continue;
                }
                let mut order = self.orders.try_recv().ok();
                self.act_if(&mut order, When::BeforePush, key, round).await;
                let gradient = bytes(&key.gradient(RANK, round)?);
                match self
                    .peer
                    .call(&push(key, round), &gradient)
                    .await?
                    .context("the attacker's connection is gone")?
                {
                    Response::Failed(failure) if failure.code == ErrorCode::Paused => {
                        return Ok(End::Paused { message: failure.message });
                    }
                    Response::Failed(failure) => {
                        bail!("the attacker's own push: {} [{}]", failure.message, failure.code)
                    }
                    _ => {}
                }
                self.act_if(&mut order, When::AfterPush, key, round).await;
                let pull = Request::Pull { key: key.name.into(), version: round, evaluation: false };
                match self.peer.call(&pull, &[]).await?.context("the attacker's connection is gone")? {
                    Response::Pulled { .. } => self.versions[index] = round,
                    Response::Failed(failure) if failure.code == ErrorCode::OptimizerFailed => {
                        return Ok(End::OptimizerFailed { message: failure.message, rolled_back: true });
                    }
                    Response::Failed(failure) if failure.code == ErrorCode::Paused => {
                        return Ok(End::Paused { message: failure.message });
                    }
                    other => bail!("the attacker's own pull was answered {other:?}"),
                }
            }
        }
    }

    async fn act_if(&mut self, order: &mut Option<Mischief>, when: When, key: Key, round: u64) {
        if let Some(Mischief { act, told, .. }) = order.take_if(|order| order.when == when) {
            let answer = act(self, key, round).await;
            // Whoever gave the order may have given up.
            let _ = told.send(answer);
        }
    }
}
