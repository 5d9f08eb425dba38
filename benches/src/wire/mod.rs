//! What the wire costs: a worker's pushes and pulls by a real server, with TLS and certificates on both sides, against a
//! raw rustls pipe that moves the same bytes, in turn.

mod pipe;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stepbox_client::Tensor;
use thiserror::Error;

use crate::job::{Job, JobError, on_workers};
use crate::{Goal, Row, Spread};
use pipe::Pipe;

/// Rounds before the clock counts.
const WARM_UP: usize = 2;

/// Small rounds before the clock counts.
const SMALL_WARM_UP: usize = 200;

/// Parameters of a small round.
const SMALL: usize = 10_000;

/// The key.
const KEY: &str = "weights";

/// Why a measurement was not possible.
#[derive(Debug, Error)]
pub enum MeasurementError {
    /// The server or a worker.
    #[error("{0}")]
    Job(#[from] JobError),
    /// The pipe's sockets.
    #[error("the raw pipe: {0}")]
    Io(#[from] io::Error),
    /// The pipe's TLS.
    #[error("the raw pipe: {0}")]
    Tls(#[from] rustls::Error),
    /// The pipe's certificates.
    #[error("the raw pipe: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// The pipe's check of its peer.
    #[error("the raw pipe: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

impl From<stepbox_client::ClientError> for MeasurementError {
    fn from(error: stepbox_client::ClientError) -> Self {
        Self::Job(error.into())
    }
}

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// Parameters of the key that is pushed and pulled against the pipe.
    pub parameters: Vec<usize>,
    /// Timed rounds of each size.
    pub rounds: usize,
    /// Numbers of workers that exchange 10,000 parameters.
    pub workers: Vec<usize>,
    /// Timed small rounds.
    pub small_rounds: usize,
}

/// Threads of the server for its network and as many for its shards.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Measures with `component`, which is to cost little: `sgd`, signed under this name.
///
/// # Errors
/// The server, a worker or the pipe does not come about.
pub fn measure(component: &[u8], name: &str, options: &Options) -> Result<Vec<Row>, MeasurementError> {
    let mut rows = Vec::new();
    for parameters in &options.parameters {
        rows.extend(large(component, name, *parameters, options.rounds)?);
    }
    for workers in &options.workers {
        rows.extend(small(component, name, *workers, options.small_rounds)?);
    }
    Ok(rows)
}

fn large(component: &[u8], name: &str, parameters: usize, rounds: usize) -> Result<Vec<Row>, MeasurementError> {
    let job = Job::start(1, threads())?;
    let bytes = parameters * size_of::<f32>();
    let mut pipe = Pipe::connect(bytes, &job.credentials("pipe-server")?, &job.credentials("pipe-client")?)?;
    let (mut push, mut pull, mut round, mut update, mut processor) = (vec![], vec![], vec![], vec![], vec![]);
    let (mut pipe_there, mut pipe_back) = (vec![], vec![]);
    Job::runtime()?.block_on(async {
        job.deploy(component, name, 1e-6).await?;
        let worker = job.worker(0).await?;
        // Of two axes, so that one row can be waited for.
        worker.init(KEY, &Tensor::new([1 << 8, parameters as u64 >> 8], vec![0.5; parameters])?).await?;
        let gradient = Tensor::new([1 << 8, parameters as u64 >> 8], vec![0.25; parameters])?;
        let mut weights = worker.pull(KEY).await?;
        for index in 0..WARM_UP + rounds {
            let (there, back) = (pipe.transfer()?, pipe.transfer()?);
            // Each way by itself, with the update in between.
            let since = Instant::now();
            worker.push(KEY, &gradient).await?;
            let pushed = since.elapsed();
            drop(worker.pull_rows(KEY, &[0]).await?);
            let since = Instant::now();
            worker.pull_into(KEY, &mut weights).await?;
            let pulled = since.elapsed();
            // As a worker does it.
            let (before, used_before) = (updated(&job).await?, Job::processor_time());
            let since = Instant::now();
            worker.push_pull_into(KEY, &gradient, &mut weights).await?;
            let whole = since.elapsed();
            let used_after = Job::processor_time();
            let updating = updated(&job).await?.saturating_sub(before);
            if index >= WARM_UP {
                pipe_there.push(there);
                pipe_back.push(back);
                push.push(pushed);
                pull.push(pulled);
                round.push(whole);
                update.push(updating);
                if let (Some(before), Some(after)) = (used_before, used_after) {
                    processor.push(after.saturating_sub(before));
                }
            }
        }
        Ok::<_, MeasurementError>(())
    })?;
    pipe.close()?;
    let case = |what: &str| format!("{what}, {parameters} parameters, 1 worker");
    let gigabytes = |ways: usize, times: &[Duration]| -> Vec<f64> {
        times.iter().map(|time| (ways * bytes) as f64 / time.as_nanos() as f64).collect()
    };
    let sums = |a: &[Duration], b: &[Duration]| -> Vec<Duration> { a.iter().zip(b).map(|(a, b)| *a + *b).collect() };
    let against = |what: &str, ways: usize, ours: &[Duration], pipe: &[Duration]| {
        let (ours, pipe) = (gigabytes(ways, ours), gigabytes(ways, pipe));
        let ratio = Spread::of(ours.iter().zip(&pipe).map(|(ours, pipe)| ours / pipe).collect());
        let row = Row::new("wire", case(what), "GB/s", Spread::of(ours));
        row.against("raw rustls pipe", Spread::of(pipe).median, ratio.median)
    };
    let both = sums(&pipe_there, &pipe_back);
    let mut rows = vec![
        against("push", 1, &push, &pipe_there),
        against("pull", 1, &pull, &pipe_back),
        against("push and pull, without the update", 2, &sums(&push, &pull), &both).goal(Goal::RatioAtLeast(0.8)),
        against(&format!("push and pull, with the update by {name}"), 2, &round, &both),
        Row::new("wire", case(&format!("the update by {name}")), "ms", milliseconds(&update)),
    ];
    if !processor.is_empty() {
        let what = case(&format!("server's processor time of push, update by {name} and pull"));
        rows.push(Row::new("wire", what, "ms", milliseconds(&processor)));
    }
    Ok(rows)
}

fn milliseconds(times: &[Duration]) -> Spread {
    Spread::of(times.iter().map(|time| time.as_secs_f64() * 1e3).collect())
}

/// Time that the server has spent on updates.
async fn updated(job: &Job) -> Result<Duration, MeasurementError> {
    let status = job.status().await?;
    Ok(Duration::from_secs_f64(status.updates as f64 * status.mean_update_microseconds / 1e6))
}

fn small(component: &[u8], name: &str, workers: usize, rounds: usize) -> Result<Vec<Row>, MeasurementError> {
    let job = Arc::new(Job::start(workers, threads())?);
    Job::runtime()?.block_on(job.deploy(component, name, 1e-6))?;
    let times = on_workers(&job, workers, move |_, worker| async move {
        worker.init(KEY, &Tensor::new([SMALL as u64], vec![0.5; SMALL])?).await?;
        let gradient = Tensor::new([SMALL as u64], vec![0.25; SMALL])?;
        let mut times = Vec::with_capacity(rounds);
        let mut weights = worker.pull(KEY).await?;
        let mut used = None;
        worker.barrier().await?;
        for round in 0..SMALL_WARM_UP + rounds {
            if round == SMALL_WARM_UP {
                used = Job::processor_time();
            }
            let since = Instant::now();
            worker.push_pull_into(KEY, &gradient, &mut weights).await?;
            if round >= SMALL_WARM_UP {
                times.push(since.elapsed().as_secs_f64() * 1e6);
            }
        }
        let used = used.and_then(|used| Some(Job::processor_time()?.saturating_sub(used)));
        worker.barrier().await?;
        Ok((times, used))
    })?;
    let case = |what: &str| format!("{what}, {SMALL} parameters, {workers} worker(s)");
    let (times, used) = times.into_iter().next().unwrap_or_default();
    let mut rows = vec![Row::new("wire", case(&format!("round with {name}")), "us", Spread::of(times))];
    if let Some(used) = used {
        let each = used.as_secs_f64() * 1e6 / rounds as f64;
        rows.push(Row::new("wire", case("server's processor time of a round"), "us", Spread::of(vec![each])));
    }
    Ok(rows)
}
