//! The requests.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use stepbox_wire::{
    ElementType, PROTOCOL_VERSION, Request, Response, Schedule, ScheduleStatus, ServerStatus, TensorType,
};
use tokio::net::TcpStream;

use crate::config::ClientConfig;
use crate::connection::{Answer, Connection};
use crate::error::{CONNECT, ClientError};
use crate::gradient::{Rows, WholeGradient, WithLoss, id_bytes, is_rows};
use crate::handshake;
use crate::progress::Progress;
use crate::tensor::Tensor;
use crate::tls;

/// A connection to a server. See the [crate's documentation](crate) for an example.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    identity: String,
    rank: OnceLock<u32>,
    /// The last barrier passed.
    barrier: AtomicU64,
    progress: Progress,
}

/// This worker's place in the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registration {
    /// Its position in the job's list of workers.
    pub rank: u32,
    /// How many workers the job has.
    pub workers: u32,
}

/// What became of an [`init`](Client::init).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Initialization {
    /// Rounds the key has been updated. Above 0, training went on before this worker came: pull before computing a
    /// gradient.
    pub version: u64,
    /// Whether this client's value became the key's first one.
    pub created: bool,
}

/// What became of a [`push`](Client::push).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Push {
    /// The round the gradient was pushed for.
    pub round: u64,
    /// Whether the server had this worker's gradient for the round already: the repetition is not counted.
    pub repeated: bool,
}

impl Client {
    /// Connects, authenticates both sides and greets the server. Must be called within a tokio runtime with I/O and
    /// time enabled.
    pub async fn connect(config: &ClientConfig) -> Result<Self, ClientError> {
        let connector = tls::connector(config)?;
        let name = tls::server_name(config)?;
        let connect = async {
            let unreachable = |source| ClientError::Unreachable { server: config.server.clone(), source };
            let stream = TcpStream::connect(&config.server).await.map_err(unreachable)?;
            // Requests are whole when they are written: waiting to fill a packet would only delay them.
            stream.set_nodelay(true).map_err(unreachable)?;
            let established =
                connector.connect(name, stream).await.map_err(|error| handshake::failed(config, &error))?;
            let connection =
                Connection::start((established.reader, established.writer), config.limits, config.request_timeout);
            let hello = Request::Hello { protocol: PROTOCOL_VERSION, job: config.job.clone() };
            let answer = connection.request(&hello, Bytes::new(), Vec::new()).await.map_err(|error| match error {
                // In TLS 1.3 the server judges the client's certificate after the client's part is done.
                ClientError::ConnectionLost { reason } => handshake::cut_off(config, connection.alert(), &reason),
                other => other,
            })?;
            let Response::Welcome { protocol: PROTOCOL_VERSION, identity } = answer.response else {
                return Err(unexpected("hello", &answer));
            };
            Ok(Self {
                connection,
                identity,
                rank: OnceLock::new(),
                barrier: AtomicU64::new(0),
                progress: Progress::default(),
            })
        };
        tokio::time::timeout(config.connect_timeout, connect)
            .await
            .map_err(|_| ClientError::TimedOut { request: CONNECT, after: config.connect_timeout })?
    }

    /// The identity the server read from this client's certificate.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Joins the job as the worker the certificate names.
    pub async fn register(&self) -> Result<Registration, ClientError> {
        let answer = self.ask(&Request::Register, Bytes::new()).await?;
        let Response::Registered { rank, workers, barrier } = answer.response else {
            return Err(unexpected("register", &answer));
        };
        // A worker's rank never changes; a second registration finds it set.
        self.rank.get_or_init(|| rank);
        self.barrier.fetch_max(barrier, Ordering::Relaxed);
        Ok(Registration { rank, workers })
    }

    /// Makes a key known with its type and first value. Every worker calls this with the same value; the value of the
    /// worker of rank 0 is the one that is sent and counts, and the others wait until the key exists.
    pub async fn init(&self, key: &str, value: &Tensor) -> Result<Initialization, ClientError> {
        self.init_tagged(key, value, &[]).await
    }

    /// [`init`](Self::init) with labels such as `embedding`, by which a deployment's groups can take the tensor. Those
    /// of the worker of rank 0 count.
    pub async fn init_tagged(&self, key: &str, value: &Tensor, tags: &[&str]) -> Result<Initialization, ClientError> {
        let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        let request = Request::Init { key: key.to_owned(), tensor: value.tensor_type(), tags };
        let body = if self.rank.get() == Some(&0) { value.wire_bytes() } else { Bytes::new() };
        let answer = self.ask(&request, body).await?;
        let Response::Initialized { version, created } = answer.response else {
            return Err(unexpected("init", &answer));
        };
        self.progress.saw(key, version);
        Ok(Initialization { version, created })
    }

    /// Sends this worker's gradient for the round after the version of the weights this client has last seen. Returns
    /// when the server has it; the round runs once all workers have pushed.
    ///
    /// The gradient is a `&Tensor` or a [`&HalfTensor`](crate::HalfTensor), or either
    /// [with its loss](Tensor::with_loss) for optimizers that use it.
    pub async fn push(&self, key: &str, gradient: impl Into<WholeGradient>) -> Result<Push, ClientError> {
        let round = self.progress.round(key)?;
        self.push_round(key, round, gradient.into()).await
    }

    /// [`push`](Self::push) of some rows of a tensor of at least two axes; the others' gradient is zero. Workers need
    /// not push the same rows, and some may push the whole tensor. The gradient is `&Rows`, or
    /// [with its loss](Rows::with_loss).
    pub async fn push_rows(&self, key: &str, gradient: impl Into<WithLoss<'_, Rows>>) -> Result<Push, ClientError> {
        let round = self.progress.round(key)?;
        self.push_rows_round(key, round, gradient.into()).await
    }

    /// The weights: those of the round of this client's last push, or newer ones.
    pub async fn pull(&self, key: &str) -> Result<Tensor, ClientError> {
        self.pull_version(key, self.progress.awaited(key)).await
    }

    /// [`pull`](Self::pull) into the memory of weights that are no longer needed, so that none has to be had from the
    /// system, which takes longer than to decrypt them. New memory is used where a clone of `weights` exists, or where
    /// they are smaller. After an error `weights` is empty.
    pub async fn pull_into(&self, key: &str, weights: &mut Tensor) -> Result<(), ClientError> {
        *weights = self.pull_to(key, self.progress.awaited(key), weights.take_room()).await?;
        Ok(())
    }

    /// The weights once the key has reached `version`; those that are there for 0.
    pub async fn pull_version(&self, key: &str, version: u64) -> Result<Tensor, ClientError> {
        self.pull_to(key, version, Vec::new()).await
    }

    async fn pull_to(&self, key: &str, version: u64, room: Vec<f32>) -> Result<Tensor, ClientError> {
        let (found, weights) = self.pull_weights(key, version, false, room).await?;
        self.progress.saw(key, found);
        Ok(weights)
    }

    /// As [`pull`](Self::pull), but weights to evaluate the model with, where the optimizer makes others than those it
    /// trains: averages, for example. Gradients must not be computed from them.
    pub async fn pull_evaluation(&self, key: &str) -> Result<Tensor, ClientError> {
        let (_, weights) = self.pull_weights(key, self.progress.awaited(key), true, Vec::new()).await?;
        Ok(weights)
    }

    /// As [`pull`](Self::pull), but only the rows with these ids, in this order; ids may repeat. The result's first
    /// extent is their number.
    pub async fn pull_rows(&self, key: &str, ids: &[u64]) -> Result<Tensor, ClientError> {
        self.pull_rows_version(key, self.progress.awaited(key), ids).await
    }

    /// [`push`](Self::push) and then [`pull`](Self::pull), without waiting for the first one's answer in between.
    pub async fn push_pull(&self, key: &str, gradient: impl Into<WholeGradient>) -> Result<Tensor, ClientError> {
        self.push_pull_to(key, gradient.into(), Vec::new()).await
    }

    /// [`push_pull`](Self::push_pull) into the memory of the weights that the gradient was computed from, as
    /// [`pull_into`](Self::pull_into) does it: how a worker's loop allocates nothing.
    pub async fn push_pull_into(
        &self,
        key: &str,
        gradient: impl Into<WholeGradient>,
        weights: &mut Tensor,
    ) -> Result<(), ClientError> {
        *weights = self.push_pull_to(key, gradient.into(), weights.take_room()).await?;
        Ok(())
    }

    async fn push_pull_to(&self, key: &str, gradient: WholeGradient, room: Vec<f32>) -> Result<Tensor, ClientError> {
        let round = self.progress.round(key)?;
        // Polled in this order, hence sent in this order. A push that is refused ends the pull, which could only wait.
        let (_push, weights) =
            tokio::try_join!(biased; self.push_round(key, round, gradient), self.pull_to(key, round, room))?;
        Ok(weights)
    }

    /// [`push_rows`](Self::push_rows) and then [`pull_rows`](Self::pull_rows), without waiting in between. The rows that
    /// come back, those of the next batch for example, need not be those that go.
    pub async fn push_pull_rows(
        &self,
        key: &str,
        gradient: impl Into<WithLoss<'_, Rows>>,
        ids: &[u64],
    ) -> Result<Tensor, ClientError> {
        let round = self.progress.round(key)?;
        let push = self.push_rows_round(key, round, gradient.into());
        let (_push, rows) = tokio::try_join!(biased; push, self.pull_rows_version(key, round, ids))?;
        Ok(rows)
    }

    /// Waits until every worker of the job has come as far. One at a time: the workers' barriers are counted.
    pub async fn barrier(&self) -> Result<(), ClientError> {
        let number = self.barrier.load(Ordering::Relaxed) + 1;
        let answer = self.ask(&Request::Barrier { number }, Bytes::new()).await?;
        let Response::BarrierPassed = answer.response else {
            return Err(unexpected("barrier", &answer));
        };
        self.barrier.fetch_max(number, Ordering::Relaxed);
        Ok(())
    }

    /// Leaves the job on purpose: the server will not wait for this worker, nor count it as lost.
    pub async fn leave(&self) -> Result<(), ClientError> {
        let answer = self.ask(&Request::Leave, Bytes::new()).await?;
        let Response::Left = answer.response else {
            return Err(unexpected("leave", &answer));
        };
        Ok(())
    }

    /// Sets the learning rate: the same for all keys and rounds from the returned one on, whatever the schedule was. For
    /// whom the server's configuration gives the right to.
    pub async fn set_learning_rate(&self, learning_rate: f64) -> Result<ScheduleStatus, ClientError> {
        self.set_schedule(Some(learning_rate), Schedule::default()).await
    }

    /// Sets the learning rate's schedule, whose first round is the returned one for all keys. Its peak stays what it is
    /// where `peak` is absent.
    pub async fn set_schedule(&self, peak: Option<f64>, schedule: Schedule) -> Result<ScheduleStatus, ClientError> {
        let answer = self.ask(&Request::SetSchedule { learning_rate: peak, schedule }, Bytes::new()).await?;
        let Response::ScheduleSet(set) = answer.response else {
            return Err(unexpected("set schedule", &answer));
        };
        Ok(set)
    }

    /// How the server is. With `weights_digest` it hashes all weights, which takes a while for large models.
    pub async fn status(&self, weights_digest: bool) -> Result<ServerStatus, ClientError> {
        let answer = self.ask(&Request::Status { weights_digest }, Bytes::new()).await?;
        let Response::Status(status) = answer.response else {
            return Err(unexpected("status", &answer));
        };
        Ok(*status)
    }

    /// Sends what is under way and closes the connection. Dropping a client does the same in the background, as far as
    /// the runtime lives on. A registered worker that has not [left](Self::leave) counts as lost afterwards.
    pub async fn close(self) {
        self.connection.close().await;
    }

    async fn push_round(&self, key: &str, round: u64, pushed: WholeGradient) -> Result<Push, ClientError> {
        let WholeGradient { tensor, values, loss } = pushed;
        let request = Request::Push { key: key.to_owned(), round, tensor, loss };
        let answer = self.ask(&request, values).await?;
        self.counted(key, round, &answer)
    }

    async fn push_rows_round(&self, key: &str, round: u64, pushed: WithLoss<'_, Rows>) -> Result<Push, ClientError> {
        let WithLoss { gradient, loss } = pushed;
        let values = gradient.values().tensor_type();
        let request = Request::PushRows { key: key.to_owned(), round, values, loss };
        let answer = self.ask(&request, gradient.wire_bytes()).await?;
        self.counted(key, round, &answer)
    }

    fn counted(&self, key: &str, round: u64, answer: &Answer) -> Result<Push, ClientError> {
        let Response::Pushed { repeated } = answer.response else {
            return Err(unexpected("push", answer));
        };
        self.progress.pushed(key, round);
        Ok(Push { round, repeated })
    }

    async fn pull_weights(
        &self,
        key: &str,
        version: u64,
        evaluation: bool,
        room: Vec<f32>,
    ) -> Result<(u64, Tensor), ClientError> {
        let request = Request::Pull { key: key.to_owned(), version, evaluation };
        let answer = self.connection.request(&request, Bytes::new(), room).await?;
        let Response::Pulled { version: found, tensor } = answer.response else {
            return Err(unexpected("pull", &answer));
        };
        check_version(key, found, version)?;
        if tensor.element != ElementType::F32 {
            let reason = format!("it sends key `{key}` as {}, this client reads f32", tensor.element);
            return Err(ClientError::Protocol { reason });
        }
        Ok((found, Tensor::from_wire(tensor, answer.values)))
    }

    async fn pull_rows_version(&self, key: &str, version: u64, ids: &[u64]) -> Result<Tensor, ClientError> {
        let request = Request::PullRows { key: key.to_owned(), version, rows: ids.len() as u64 };
        let answer = self.ask(&request, id_bytes(ids).into()).await?;
        let Response::PulledRows { version: found, tensor } = answer.response else {
            return Err(unexpected("pull rows", &answer));
        };
        check_version(key, found, version)?;
        if !is_rows(&tensor, ids.len()) {
            let (rows, TensorType { element, shape }) = (ids.len(), tensor);
            let reason =
                format!("it sends {element} of shape {shape:?} where {rows} rows of key `{key}` were asked for");
            return Err(ClientError::Protocol { reason });
        }
        self.progress.saw(key, found);
        Ok(Tensor::from_wire(tensor, answer.values))
    }

    pub(crate) async fn ask(&self, request: &Request, body: Bytes) -> Result<Answer, ClientError> {
        self.connection.request(request, body, Vec::new()).await
    }
}

fn check_version(key: &str, found: u64, wanted: u64) -> Result<(), ClientError> {
    if found >= wanted {
        return Ok(());
    }
    let reason = format!("it sends version {found} of key `{key}`, asked for was {wanted} or later");
    Err(ClientError::Protocol { reason })
}

pub(crate) fn unexpected(request: &str, answer: &Answer) -> ClientError {
    let kind = match answer.response {
        Response::Welcome { protocol, .. } => {
            return ClientError::Protocol {
                reason: format!("it speaks version {protocol} of the protocol, this client {PROTOCOL_VERSION}"),
            };
        }
        Response::Registered { .. } => "registered",
        Response::Initialized { .. } => "initialized",
        Response::Pushed { .. } => "pushed",
        Response::Pulled { .. } => "pulled",
        Response::PulledRows { .. } => "pulled rows",
        Response::BarrierPassed => "barrier passed",
        Response::Left => "left",
        Response::Deployed { .. } => "deployed",
        Response::Status(_) => "status",
        Response::ScheduleSet(_) => "schedule set",
        Response::Submitted(_) => "submitted",
        Response::Submissions(_) => "submissions",
        Response::Withdrawn => "withdrawn",
        Response::Failed(_) => "failed",
    };
    ClientError::Protocol { reason: format!("its answer to `{request}` is `{kind}`") }
}
