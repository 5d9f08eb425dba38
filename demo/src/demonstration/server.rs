//! The server process.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout};
use tokio::sync::Mutex;

use super::Cast;
use super::stepbox::{Identity, Stepbox};

/// It listens within milliseconds; longer is a hang.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// It has nothing left to do when it is told to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// Lines of the server's log that are shown when it dies.
const SHOWN_LOG_LINES: usize = 20;

/// A running `stepbox serve`. Dropping it ends it.
pub(super) struct Server {
    address: String,
    log: PathBuf,
    process: Mutex<Child>,
    /// Kept open, so that the server can go on printing.
    _stdout: BufReader<ChildStdout>,
}

impl Server {
    /// Writes its configuration and trust file, starts it on a free port, and waits until it listens.
    pub(super) async fn start(stepbox: &Stepbox, cast: &Cast) -> Result<Self> {
        let folder = stepbox.folder();
        let write = |name: &str, text: String| fs::write(folder.join(name), text).with_context(|| name.to_owned());
        write("publishers.toml", toml::to_string(&TrustFile::of(&cast.publisher))? + "\n[end]\n")?;
        write("stepbox.toml", toml::to_string(&Configuration::of(cast))?)?;

        let log = folder.join("server.log");
        let mut process = stepbox
            .command(&["serve", "--json", "--config", "stepbox.toml"])
            .stdout(Stdio::piped())
            .stderr(File::create(&log).context("the server's log")?)
            .spawn()
            .context("cannot start `stepbox serve`")?;
        let mut stdout = BufReader::new(process.stdout.take().context("the server has no standard output")?);
        let mut line = String::new();
        let read = tokio::time::timeout(START_TIMEOUT, stdout.read_line(&mut line)).await;
        let address = match read {
            Ok(Ok(1..)) => address(&line).with_context(|| format!("`stepbox serve` printed `{}`", line.trim()))?,
            Ok(_) => {
                let status = process.wait().await?;
                return Err(anyhow!("`stepbox serve` ended ({status}) before it listened\n{}", tail(&log)));
            }
            Err(_) => return Err(anyhow!("`stepbox serve` does not listen after {START_TIMEOUT:?}\n{}", tail(&log))),
        };
        Ok(Self { address, log, process: Mutex::new(process), _stdout: stdout })
    }

    /// Where it listens, `host:port`.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Tells it to stop and waits until it has.
    ///
    /// # Errors
    /// It does not, or not in good order.
    pub(super) async fn stop(self) -> Result<()> {
        let mut process = self.process.into_inner();
        let id = process.id().and_then(|id| Pid::from_raw(id.cast_signed())).context("the server has ended already")?;
        kill_process(id, Signal::TERM).context("the server cannot be told to stop")?;
        let status = tokio::time::timeout(STOP_TIMEOUT, process.wait())
            .await
            .with_context(|| format!("the server does not stop within {STOP_TIMEOUT:?}\n{}", tail(&self.log)))??;
        ensure!(status.success(), "the server stopped in disorder ({status})\n{}", tail(&self.log));
        Ok(())
    }

    /// Waits for what must not happen: that the server ends by itself.
    pub(super) async fn died(&self) -> Error {
        let status = self.process.lock().await.wait().await;
        let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        anyhow!("the server ended ({how}); its log ends with\n{}", tail(&self.log))
    }
}

/// The address in the line that the server prints once it listens.
fn address(line: &str) -> Result<String> {
    #[derive(serde::Deserialize)]
    struct Listening {
        listening: String,
    }
    let listening: Listening = serde_json::from_str(line)?;
    Ok(listening.listening)
}

fn tail(log: &PathBuf) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LOG_LINES)..].join("\n")
}

/// The server's configuration.
#[derive(Serialize)]
struct Configuration<'a> {
    listen: &'static str,
    state_directory: &'static str,
    tls: Tls<'a>,
    job: Job<'a>,
    access: Access<'a>,
    trust: Trust,
}

#[derive(Serialize)]
struct Tls<'a> {
    ca: &'a PathBuf,
    certificate: &'a PathBuf,
    key: &'a PathBuf,
}

#[derive(Serialize)]
struct Job<'a> {
    workers: Vec<&'a str>,
}

#[derive(Serialize)]
struct Access<'a> {
    publishers: [&'a str; 1],
    deployers: [&'a str; 1],
}

#[derive(Serialize)]
struct Trust {
    store: &'static str,
}

impl<'a> Configuration<'a> {
    fn of(cast: &'a Cast) -> Self {
        let Identity { ca, certificate, key, .. } = &cast.server;
        Self {
            listen: "127.0.0.1:0",
            state_directory: "state",
            tls: Tls { ca, certificate, key },
            job: Job { workers: cast.workers.iter().map(|worker| worker.name.as_str()).collect() },
            access: Access { publishers: [&cast.deployer.name], deployers: [&cast.deployer.name] },
            trust: Trust { store: "publishers.toml" },
        }
    }
}

/// Whose optimizers the server takes.
#[derive(Serialize)]
struct TrustFile<'a> {
    publisher: [Publisher<'a>; 1],
}

#[derive(Serialize)]
struct Publisher<'a> {
    name: &'static str,
    public_key: &'a str,
}

impl<'a> TrustFile<'a> {
    fn of(public_key: &'a str) -> Self {
        Self { publisher: [Publisher { name: "Demonstration", public_key }] }
    }
}
