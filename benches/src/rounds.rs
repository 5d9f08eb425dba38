//! Whole rounds: workers push, the server takes the mean and runs AdamW in the sandbox, workers pull. All of it over TLS,
//! with a real server in a process of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use stepbox_client::{Client, Tensor};
use stepbox_guest::bench;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::report::{Axis, Chart, Series};
use crate::server::Server;
use crate::{BenchError, Components, Effort, Findings, Row, Spread};

const BENCH: &str = "rounds";

/// Workers, each a connection of its own.
const WORKERS: [usize; 3] = [1, 2, 4];

/// Parameters of the one key.
const PARAMETERS: [usize; 3] = [10_000, 1_000_000, 16_000_000];

/// Rounds before the clock counts.
const WARM_UP: usize = 2;

/// Parameters from which on the server's memory is told for each of them.
const MEMORY_FROM: usize = 1_000_000;

/// The key.
const KEY: &str = "weights";

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program `stepbox`, which the server is.
    pub program: PathBuf,
    /// Where components are.
    pub components: Components,
    /// Numbers of workers; those of the goals unless set.
    pub workers: Vec<usize>,
    /// Numbers of parameters; those of the goals unless set.
    pub parameters: Vec<usize>,
    /// Timed rounds of each cell; more for small ones unless set.
    pub rounds: Option<usize>,
}

/// What rounds took.
#[derive(Debug, Clone)]
pub struct RoundFigures {
    /// From the first worker's push to the last worker's weights, milliseconds, round by round.
    pub wall: Vec<f64>,
    /// Processor time of the server, milliseconds a round; `None` where the system does not tell.
    pub server_processor: Option<f64>,
    /// Memory of the server, bytes: the most it ever had, and what it has after the last round.
    pub server_memory: Option<(f64, f64)>,
}

/// Runs the benchmark.
///
/// # Errors
/// The server does not start, or fails.
pub fn measure(options: &Options, effort: &Effort<'_>) -> Result<Findings, BenchError> {
    let component = options.components.read("adamw")?;
    let chosen = |asked: &[usize], quick: &[usize], full: &[usize]| match asked {
        [] => effort.either(quick, full).to_vec(),
        asked => asked.to_vec(),
    };
    let workers = chosen(&options.workers, &WORKERS[..2], &WORKERS);
    let parameters = chosen(&options.parameters, &PARAMETERS[..1], &PARAMETERS);
    let mut findings = Findings::default();
    let mut bars: Vec<(usize, Vec<f64>)> = workers.iter().map(|workers| (*workers, Vec::new())).collect();
    for &parameters in &parameters {
        for (workers, bars) in &mut bars {
            let case = format!("W={workers}, {parameters} parameters");
            (effort.progress)(&format!("rounds, {case}"));
            let rounds = options.rounds.unwrap_or(match parameters {
                _ if effort.quick => 5,
                0..=100_000 => 301,
                100_001..=2_000_000 => 41,
                _ => 9,
            });
            let figures = run(&options.program, &component, *workers, parameters, rounds)?;
            bars.push(Spread::of(figures.wall.clone()).median);
            findings.rows.extend(figures.rows(&case, parameters));
        }
    }
    findings.charts.push(Chart {
        file: "rounds".into(),
        title: "A round of W workers: push, AdamW and pull, over TLS".into(),
        x: Axis::names("parameters", parameters.iter().map(usize::to_string).collect()),
        y: Axis::logarithmic("ms"),
        series: bars.into_iter().map(|(workers, times)| Series::bars(format!("W={workers}"), times)).collect(),
    });
    Ok(findings)
}

impl RoundFigures {
    fn rows(self, case: &str, parameters: usize) -> Vec<Row> {
        let one = |what: &str, unit: &str, value: f64| {
            Row::new(BENCH, format!("{case}, {what}"), unit, Spread::of(vec![value]))
        };
        let mut rows = vec![Row::of_turns(BENCH, format!("{case}, round"), "ms", self.wall)];
        rows.extend(self.server_processor.map(|time| one("server processor time a round", "ms", time)));
        // Of small ones it would be the server's own.
        if let Some((peak, resting)) = self.server_memory.filter(|_| parameters >= MEMORY_FROM) {
            rows.push(one("server memory at its peak", "B/parameter", peak / parameters as f64));
            rows.push(one("server memory at rest", "B/parameter", resting / parameters as f64));
        }
        rows
    }
}

/// Rounds of so many workers with one key of so many parameters, against a server of their own. Workers are tasks of this
/// process, each with its own connection.
///
/// # Errors
/// The server does not start, or fails.
pub fn run(
    program: &Path,
    component: &[u8],
    workers: usize,
    parameters: usize,
    rounds: usize,
) -> Result<RoundFigures, BenchError> {
    let server = Server::start(program, component, workers)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(BenchError::system("start a runtime"))?;
    runtime.block_on(async {
        let mut clients = Vec::new();
        for rank in 0..workers {
            clients.push(Arc::new(server.worker(rank).await?));
        }
        let weights = Tensor::new([parameters as u64], bench::parameters(parameters))?;
        with_all(&clients, |client| {
            let weights = weights.clone();
            async move { client.init(KEY, &weights).await.map(|_| ()) }
        })
        .await?;
        drop(weights);
        let gradient = Tensor::new([parameters as u64], bench::gradient(parameters))?;
        timed_rounds(&clients, &gradient, WARM_UP).await?;
        let before = server.processor_seconds();
        let wall = timed_rounds(&clients, &gradient, rounds).await?;
        let used = server.processor_seconds().zip(before).map(|(after, before)| after - before);
        let memory = server.memory();
        with_all(&clients, |client| async move { client.leave().await }).await?;
        Ok(RoundFigures {
            wall: wall.iter().map(|time| time.as_secs_f64() * 1e3).collect(),
            server_processor: used.map(|seconds| seconds * 1e3 / rounds as f64),
            server_memory: memory,
        })
    })
}

/// Does something with all clients at once.
async fn with_all<F>(clients: &[Arc<Client>], act: impl Fn(Arc<Client>) -> F) -> Result<(), BenchError>
where
    F: Future<Output = Result<(), stepbox_client::ClientError>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for client in clients {
        tasks.spawn(act(Arc::clone(client)));
    }
    for done in tasks.join_all().await {
        done?;
    }
    Ok(())
}

/// Runs rounds that all workers begin together, and returns how long each took.
async fn timed_rounds(clients: &[Arc<Client>], gradient: &Tensor, rounds: usize) -> Result<Vec<Duration>, BenchError> {
    let barrier = Arc::new(Barrier::new(clients.len()));
    let mut tasks = JoinSet::new();
    for client in clients {
        let (client, barrier, gradient) = (Arc::clone(client), Arc::clone(&barrier), gradient.clone());
        tasks.spawn(async move {
            let mut times = Vec::with_capacity(rounds);
            for _ in 0..rounds {
                barrier.wait().await;
                let since = Instant::now();
                // A worker that fails leaves the others at the barrier; the first error ends them all.
                client.push_pull(KEY, &gradient).await?;
                times.push((since, Instant::now()));
            }
            Ok::<_, stepbox_client::ClientError>(times)
        });
    }
    let mut of_workers = Vec::new();
    while let Some(times) = tasks.join_next().await {
        match times {
            Ok(times) => of_workers.push(times?),
            Err(error) => return Err(BenchError::system("run a worker")(std::io::Error::other(error))),
        }
    }
    let round = |round: usize| {
        let first = of_workers.iter().map(|times| times[round].0).min()?;
        let last = of_workers.iter().map(|times| times[round].1).max()?;
        Some(last - first)
    };
    Ok((0..rounds).filter_map(round).collect())
}
