//! `stepbox serve`: runs a server until it is told to stop.

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;
use stepbox_server::{Config, Server};
use tracing_subscriber::EnvFilter;

use crate::output::{Failure, Format, Report};

/// Run a server
#[derive(Args)]
#[command(after_help = "\
Once it listens it prints `listening on ADDRESS` on standard output (with --json {\"listening\": \"ADDRESS\"}); it logs to
standard error, as much as RUST_LOG says (such as RUST_LOG=warn or RUST_LOG=stepbox_server=debug; info unless set).
SIGTERM and SIGINT end it in good order; SIGHUP has it read certificates, revocation lists and rights again. docs/cli.md describes the configuration.

Example:
  stepbox serve --config server.toml")]
pub(crate) struct Serve {
    /// The configuration (TOML); relative paths in it are relative to its folder
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Compile every optimizer anew and keep nothing of it on disk, whatever the configuration says
    #[arg(long)]
    no_cache: bool,

    /// How a line of the log looks
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

impl Serve {
    pub(crate) fn run(&self, format: Format) -> Result<(), Failure> {
        start_logging(self.log_format)?;
        let about = |error: &dyn std::error::Error| {
            Failure::here("configuration", error.to_string()).about(self.config.display())
        };
        let mut config = Config::load(&self.config).map_err(|error| about(&error))?;
        config.cache.enabled &= !self.no_cache;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::here("runtime", format!("cannot start: {error}")))?;
        runtime.block_on(async {
            // From before anybody is told that the server listens: who reads that may already want it to stop.
            let stop = stop_signal()?;
            let mut hang_ups = hang_ups()?;
            let server = Server::bind(config).await.map_err(|error| about(&error))?;
            let reloader = server.reloader();
            tokio::spawn(async move {
                while hang_ups.next().await {
                    reloader.reload();
                }
            });
            format.print(&Listening { listening: server.local_address() })?;
            server.run(stop).await;
            Ok(())
        })
    }
}

fn start_logging(format: LogFormat) -> Result<(), Failure> {
    let wrong = |reason: String| Failure::here("log", reason);
    let filter = match std::env::var("RUST_LOG") {
        Ok(text) => EnvFilter::try_new(&text)
            .map_err(|error| wrong(format!("RUST_LOG is `{text}`, which is no filter: {error}")))?,
        Err(_) => EnvFilter::new("info"),
    };
    // https://no-color.org: set and not empty.
    let wants_no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let logging = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && !wants_no_colour);
    let started = match format {
        LogFormat::Text => logging.try_init(),
        LogFormat::Json => logging.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| wrong(format!("cannot start logging: {error}")))
}

/// Ends with the first signal that asks the process to stop.
#[cfg(unix)]
fn stop_signal() -> Result<impl Future<Output = ()>, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(|error| Failure::here("signal", format!("cannot watch signals: {error}")));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn stop_signal() -> Result<impl Future<Output = ()>, Failure> {
    Ok(async {
        // Where it cannot be watched it never comes, and the process ends without ceremony.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}

/// Comes whenever SIGHUP does: the signal to read files again.
#[cfg(unix)]
struct HangUps(tokio::signal::unix::Signal);

#[cfg(unix)]
impl HangUps {
    async fn next(&mut self) -> bool {
        self.0.recv().await.is_some()
    }
}

#[cfg(unix)]
fn hang_ups() -> Result<HangUps, Failure> {
    let signal = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup());
    signal.map(HangUps).map_err(|error| Failure::here("signal", format!("cannot watch signals: {error}")))
}

/// There is no such signal.
#[cfg(not(unix))]
struct HangUps;

#[cfg(not(unix))]
impl HangUps {
    async fn next(&mut self) -> bool {
        false
    }
}

#[cfg(not(unix))]
fn hang_ups() -> Result<HangUps, Failure> {
    Ok(HangUps)
}

#[derive(Serialize)]
struct Listening {
    listening: SocketAddr,
}

impl Report for Listening {
    fn text(&self) -> String {
        format!("listening on {}", self.listening)
    }
}
