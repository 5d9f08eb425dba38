//! What honest workers keep of their rounds while somebody attacks the server they use.
//!
//! A real server in a process of its own, workers in this process, attackers in a third. Rounds are counted in windows of
//! time, in turn without and with the attack. The attackers' process has the lowest priority (`nice -n 19`), for
//! everything is on one machine: what they take of the processors by themselves is no harm that they do to a server. What
//! the server spends on them is measured, at its own priority.

mod attack;

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use stepbox_client::{Client, ClientError, Tensor};
use stepbox_guest::bench;
use tokio::task::JoinSet;

pub use attack::{Attack, Attackers, Done, obey};

use crate::row::Goal;
use crate::server::{Server, Setup};
use crate::{BenchError, Components, Effort, Findings, Row, Spread};

const BENCH: &str = "abuse";

/// Honest workers.
const WORKERS: usize = 2;

/// Parameters of their one key.
const PARAMETERS: usize = 100_000;

const KEY: &str = "weights";

/// Of the rounds, at least so much is kept.
const KEPT: f64 = 0.7;

/// By how much the server's memory may grow at most, whatever is attempted: 512 handshakes and a thousand connections,
/// each with buffers of some 100 KiB.
const GROWTH_MEBIBYTES: f64 = 192.0;

/// Before a window is counted, so that an attack is in full swing, or over.
const SETTLE: Duration = Duration::from_millis(200);

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program `stepbox`, which the server is, and the attackers.
    pub program: PathBuf,
    /// Where components are.
    pub components: Components,
    /// Attacks; all of them unless set.
    pub attacks: Vec<Attack>,
}

/// Runs the benchmark.
///
/// # Errors
/// The server does not start, or fails.
pub fn measure(options: &Options, effort: &Effort<'_>) -> Result<Findings, BenchError> {
    let component = options.components.read("adamw")?;
    let identities = effort.either(4, 63);
    let peers: Vec<String> = (0..identities).map(|number| format!("peer-{number}")).collect();
    // Those who attack as workers have a job of their own, so that the honest workers' rounds do not need theirs.
    let neighbours = &peers[..attack::WORKERS];
    let setup = Setup { workers: WORKERS, operators: &peers, neighbours, is_quiet: true };
    let server = Server::set_up(&options.program, &component, &setup)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(BenchError::system("start a runtime"))?;
    let workers = runtime.block_on(Workers::start(&server))?;
    let attacks = if options.attacks.is_empty() { Attack::ALL.to_vec() } else { options.attacks.clone() };
    let mut findings = Findings::default();
    for attack in attacks {
        (effort.progress)(&format!("abuse, {}", attack.name()));
        let about =
            Attackers { attack, server: server.socket_address()?, folder: server.folder().to_owned(), identities };
        let attackers = Process::start(&options.program, &about)?;
        let (pairs, window) = effort.either((1, Duration::from_millis(100)), (5, Duration::from_millis(500)));
        findings.rows.extend(under(attack, &server, &workers, attackers, pairs, window)?);
    }
    findings.notes.push(
        "abuse: the attackers' process runs at the lowest priority (nice 19), since it shares the processors with what \
         it attacks."
            .into(),
    );
    Ok(findings)
}

/// Windows without and with an attack, in turn.
fn under(
    attack: Attack,
    server: &Server,
    workers: &Workers,
    mut attackers: Process,
    pairs: usize,
    window: Duration,
) -> Result<Vec<Row>, BenchError> {
    let (mut free, mut attacked, mut spent, mut done) = (Vec::new(), Vec::new(), Vec::new(), Done::default());
    server.forget_peak_memory();
    let memory_before = server.memory();
    for pair in 0..pairs {
        let mut one = |with: bool| -> Result<(f64, Option<f64>), BenchError> {
            if with {
                attackers.go()?;
            }
            std::thread::sleep(SETTLE);
            let figures = workers.rounds_in(window, server)?;
            if with {
                let these = attackers.stop()?;
                done.connections += these.connections;
                done.handshakes += these.handshakes;
                done.requests += these.requests;
            }
            Ok(figures)
        };
        // Every other pair in the opposite order.
        let (without, with) = if pair % 2 == 0 {
            let without = one(false)?;
            (without, one(true)?)
        } else {
            let with = one(true)?;
            (one(false)?, with)
        };
        free.push(without.0);
        attacked.push(with.0);
        if let (Some(without_used), Some(with_used)) = (without.1, with.1) {
            // What rounds cost is known from the window without.
            let of_rounds = without_used / without.0.max(1.0) * with.0;
            spent.push(((with_used - of_rounds) * 1e3).max(0.0));
        }
    }
    let name = attack.name();
    let mut rows = vec![
        Row::of_turns(BENCH, format!("{name}, rounds while attacked"), "1/s", attacked.clone())
            .against_turns("the same workers in peace", &attacked, free)
            .goal(Goal::RatioAtLeast(KEPT)),
    ];
    let mut one = |what: &str, unit: &str, value: f64| {
        if value > 0.0 {
            rows.push(Row::new(BENCH, format!("{name}, {what}"), unit, Spread::of(vec![value])));
        }
    };
    one("connections tried", "count", done.connections as f64);
    one("handshakes done", "count", done.handshakes as f64);
    one("requests sent", "count", done.requests as f64);
    if !spent.is_empty() {
        one("server processor time for the attack", "ms/s", Spread::of(spent).median);
    }
    if let (Some((_, before)), Some((peak, _))) = (memory_before, server.memory()) {
        let mebibytes = |bytes: f64| bytes / f64::from(1 << 20);
        let growth = Row::new(
            BENCH,
            format!("{name}, growth of the server's memory at its peak"),
            "MiB",
            Spread::of(vec![mebibytes((peak - before).max(1.0))]),
        );
        rows.push(growth.goal(Goal::ValueAtMost(GROWTH_MEBIBYTES)));
    }
    Ok(rows)
}

/// Workers that do rounds all the time, until this is dropped.
struct Workers {
    rounds: Arc<AtomicU64>,
    failed: Arc<AtomicBool>,
    _tasks: JoinSet<()>,
}

impl Workers {
    async fn start(server: &Server) -> Result<Self, BenchError> {
        let mut clients = Vec::new();
        for rank in 0..WORKERS {
            clients.push(server.worker(rank).await?);
        }
        let weights = Tensor::new([PARAMETERS as u64], bench::parameters(PARAMETERS))?;
        let gradient = Tensor::new([PARAMETERS as u64], bench::gradient(PARAMETERS))?;
        let mut workers = Self { rounds: Arc::default(), failed: Arc::default(), _tasks: JoinSet::new() };
        for (rank, client) in clients.into_iter().enumerate() {
            let (weights, gradient) = (weights.clone(), gradient.clone());
            let (rounds, failed) = (Arc::clone(&workers.rounds), Arc::clone(&workers.failed));
            workers._tasks.spawn(async move {
                let Err(_) = work(&client, weights, gradient, rank, &rounds).await;
                failed.store(true, Ordering::Relaxed);
            });
        }
        Ok(workers)
    }

    /// Rounds a second in a window of time, and the server's processor time in seconds a second.
    fn rounds_in(&self, window: Duration, server: &Server) -> Result<(f64, Option<f64>), BenchError> {
        let (since, before, used) = (Instant::now(), self.rounds.load(Ordering::Relaxed), server.processor_seconds());
        std::thread::sleep(window);
        let (time, after, used_after) =
            (since.elapsed().as_secs_f64(), self.rounds.load(Ordering::Relaxed), server.processor_seconds());
        if self.failed.load(Ordering::Relaxed) {
            let failed = std::io::Error::other("a round of an honest worker has failed; the server's log says why");
            return Err(BenchError::system("train under attack")(failed));
        }
        let used = used.zip(used_after).map(|(before, after)| (after - before) / time);
        Ok(((after - before) as f64 / time, used))
    }
}

async fn work(
    client: &Client,
    mut weights: Tensor,
    gradient: Tensor,
    rank: usize,
    rounds: &AtomicU64,
) -> Result<Infallible, ClientError> {
    client.init(KEY, &weights).await?;
    loop {
        client.push_pull_into(KEY, &gradient, &mut weights).await?;
        if rank == 0 {
            rounds.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The attackers' process, which is killed when it is dropped.
struct Process {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Process {
    fn start(program: &Path, about: &Attackers) -> Result<Self, BenchError> {
        let arguments = [
            "bench".into(),
            "abuse".into(),
            "--attack".into(),
            about.attack.name().to_owned(),
            "--target".into(),
            about.server.to_string(),
            "--identities".into(),
            about.identities.to_string(),
            "--credentials".into(),
        ];
        let mut command = Command::new("nice");
        command.args(["-n", "19"]).arg(program).args(arguments).arg(&about.folder);
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = started.map_err(BenchError::system("start the attackers with `nice`"))?;
        let (Some(orders), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("both were asked for")
        };
        Ok(Self { child, orders, answers: BufReader::new(answers) })
    }

    fn go(&mut self) -> Result<(), BenchError> {
        self.order("go").map(drop)
    }

    fn stop(&mut self) -> Result<Done, BenchError> {
        let line = self.order("stop")?;
        serde_json::from_str(&line).map_err(|error| BenchError::system("understand the attackers")(error.into()))
    }

    fn order(&mut self, order: &str) -> Result<String, BenchError> {
        let mut line = String::new();
        writeln!(self.orders, "{order}")
            .and_then(|()| self.orders.flush())
            .and_then(|()| self.answers.read_line(&mut line))
            .map_err(BenchError::system("speak with the attackers"))?;
        Ok(line)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It holds nothing that is needed any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
