//! The server process.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

/// It listens within milliseconds, and ends as soon as it is told to; longer is a hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lines of the server's log that are shown when it does not start.
const SHOWN_LOG_LINES: usize = 20;

/// Tells the kernel to forget the highest resident memory so far (proc(5), `clear_refs`).
const FORGET_PEAK: &str = "5";

/// The program `stepbox`, and how it is started here.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    /// Whether `serve` must be told that it may run as root, which we are.
    allow_root: bool,
}

impl Program {
    /// Asks the program what it knows.
    ///
    /// # Errors
    /// It cannot be run.
    pub async fn new(path: &Path) -> Result<Self> {
        let path =
            path.canonicalize().with_context(|| format!("{}; cargo build -p stepbox makes it", path.display()))?;
        let help = Command::new(&path).args(["serve", "--help"]).output().await.context("cannot start stepbox")?;
        let knows = String::from_utf8_lossy(&help.stdout).contains("--allow-root");
        Ok(Self { path, allow_root: knows && rustix::process::geteuid().is_root() })
    }

    fn serve(&self, folder: &Path, configuration: &str) -> Command {
        let mut command = Command::new(&self.path);
        command.args(["--json", "serve", "--config", configuration]).current_dir(folder);
        if self.allow_root {
            command.arg("--allow-root");
        }
        command.env("RUST_LOG", "info").env("NO_COLOR", "1").stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs another verb with `--json`: whether it succeeded, and what it printed on standard output.
    ///
    /// # Errors
    /// It cannot be run, or does not end.
    pub async fn run(&self, folder: &Path, arguments: &[&str]) -> Result<(bool, String)> {
        let mut command = Command::new(&self.path);
        command.arg("--json").args(arguments).current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await.context("a verb does not end")??;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
    }
}

/// What a server says that does not start.
#[derive(Debug, Clone, Deserialize)]
pub struct NotStarted {
    /// For programs.
    pub code: String,
    /// For people.
    pub message: String,
}

/// A running `stepbox serve`. Dropping it kills it.
pub struct Process {
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
    log: PathBuf,
    /// Kept open, so that the server can go on printing.
    _stdout: BufReader<ChildStdout>,
}

impl Process {
    /// Starts a server that must start.
    ///
    /// # Errors
    /// It does not.
    pub async fn start(program: &Program, folder: &Path, configuration: &str) -> Result<Self> {
        match Self::try_start(program, folder, configuration).await? {
            Ok(process) => Ok(process),
            Err(NotStarted { code, message }) => bail!("`stepbox serve` does not start: {message} [{code}]"),
        }
    }

    /// Starts a server that may say that it does not want to. Its log is appended to `server.log` in the folder.
    ///
    /// # Errors
    /// It neither listens nor says why not.
    pub async fn try_start(
        program: &Program,
        folder: &Path,
        configuration: &str,
    ) -> Result<std::result::Result<Self, NotStarted>> {
        let log = folder.join("server.log");
        let written = File::options().create(true).append(true).open(&log).context("the server's log")?;
        let mut child = program
            .serve(folder, configuration)
            .stdout(Stdio::piped())
            .stderr(written)
            .spawn()
            .context("cannot start `stepbox serve`")?;
        let mut stdout = BufReader::new(child.stdout.take().context("the server has no standard output")?);
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, stdout.read_line(&mut line)).await;
        ensure!(matches!(read, Ok(Ok(1..))), "`stepbox serve` does not listen\n{}", tail(&log));
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Said {
            Listening(SocketAddr),
            Error(NotStarted),
        }
        match serde_json::from_str(&line).with_context(|| format!("`stepbox serve` printed `{}`", line.trim()))? {
            Said::Listening(address) => Ok(Ok(Self { address, child, log, _stdout: stdout })),
            Said::Error(not_started) => Ok(Err(not_started)),
        }
    }

    /// Whether it runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Its process id.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Everything it has logged since the log was so long.
    pub fn log_since(&self, length: u64) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(text.get(usize::try_from(length).unwrap_or(0)..).unwrap_or_default()).into_owned()
    }

    /// How long its log is.
    pub fn log_length(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |metadata| metadata.len())
    }

    /// Begins to measure [`peak_resident_bytes`](Self::peak_resident_bytes) anew. Where the system does not allow it, the
    /// peak is that of the whole life of the process, which can only be higher.
    pub fn forget_peak(&self) {
        if let Some(id) = self.id() {
            let _ = fs::write(format!("/proc/{id}/clear_refs"), FORGET_PEAK);
        }
    }

    /// The most memory that was resident at any moment since [`forget_peak`](Self::forget_peak), in bytes.
    ///
    /// # Errors
    /// The process has ended, or the system has no `/proc/PID/status`.
    pub fn peak_resident_bytes(&self) -> Result<u64> {
        let id = self.id().context("the server has ended")?;
        let status = fs::read_to_string(format!("/proc/{id}/status")).context("the server's memory")?;
        let line =
            status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("the server's peak of memory")?;
        let kibibytes: u64 = line.split_whitespace().next().context("an empty peak of memory")?.parse()?;
        Ok(kibibytes << 10)
    }

    /// The processes it has started, where the system tells.
    ///
    /// # Errors
    /// The system does not tell, or there are none.
    pub fn children(&self) -> Result<Vec<Pid>> {
        let parent = self.id().context("the server has ended")?.to_string();
        let is_child = |path: &Path| {
            let status = fs::read_to_string(path.join("status")).unwrap_or_default();
            status.lines().any(|line| line.strip_prefix("PPid:").is_some_and(|id| id.trim() == parent))
        };
        let processes =
            fs::read_dir("/proc").context("no list of processes")?.filter_map(|entry| Some(entry.ok()?.path()));
        let id = |path: PathBuf| Pid::from_raw(path.file_name()?.to_str()?.parse().ok()?);
        let children: Vec<Pid> = processes.filter(|path| is_child(path)).filter_map(id).collect();
        ensure!(!children.is_empty(), "the server has no processes of its own");
        Ok(children)
    }

    /// Kills it, as a machine that loses power does.
    ///
    /// # Errors
    /// It cannot be killed.
    pub async fn kill(mut self) -> Result<()> {
        self.child.kill().await.context("the server cannot be killed")
    }

    /// Tells it to stop, and waits until it has.
    ///
    /// # Errors
    /// It does not, or not in good order.
    pub async fn stop(mut self) -> Result<()> {
        let id = self.id().and_then(|id| Pid::from_raw(id.cast_signed())).context("the server has ended already")?;
        kill_process(id, Signal::TERM).context("the server cannot be told to stop")?;
        // What it prints is read, or it might wait for a reader.
        let mut rest = Vec::new();
        let ended = async { tokio::join!(self.child.wait(), self._stdout.read_to_end(&mut rest)).0 };
        let status = tokio::time::timeout(PATIENCE, ended).await.context("the server does not stop")??;
        ensure!(status.success(), "the server stopped in disorder ({status})\n{}", tail(&self.log));
        Ok(())
    }
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LOG_LINES)..].join("\n")
}
