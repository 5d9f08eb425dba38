//! `stepbox serve`: runs a server until it is told to stop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use stepbox_sandbox::Compiler;
use stepbox_server::{Config, Reloader, Server};

use crate::hardening::{Hardening, start_broker};
use crate::logging::{LogFormat, Logging};
use crate::output::{Failure, Format, Report};

/// Run a server
#[derive(Args)]
#[command(after_help = "\
Once it listens it prints `listening on ADDRESS` on standard output (with --json {\"listening\": \"ADDRESS\"}); it logs to
standard error, as much as RUST_LOG says (such as RUST_LOG=warn or RUST_LOG=stepbox_server=debug; info unless set).
SIGTERM and SIGINT end it in good order; SIGHUP has it read trust files, certificates, revocation lists and rights again
at once. docs/cli.md describes the configuration.

Example:
  stepbox serve --config server.toml")]
pub(crate) struct Serve {
    /// The configuration (TOML); relative paths in it are relative to its folder
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Compile every optimizer anew and keep nothing of it on disk, whatever the configuration says
    #[arg(long)]
    no_cache: bool,

    /// Run as root, which otherwise is refused
    #[arg(long)]
    allow_root: bool,

    /// How a line of the log looks
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
}

impl Serve {
    pub(crate) fn run(&self, format: Format) -> Result<(), Failure> {
        let mut logging = Logging::start(self.log_format)?;
        let about = |error: &dyn std::error::Error| {
            Failure::here("configuration", error.to_string()).about(self.config.display())
        };
        let mut config = Config::load(&self.config).map_err(|error| about(&error))?;
        config.cache.enabled &= !self.no_cache;
        // Before there are threads, open files or rights given up: it goes on with what this process has now.
        let (broker, confined) = start_broker(&config)?;
        let compiler = Compiler::Broker(Arc::new(broker));
        make_room_for_connections(&config);
        // Counted while the files are there that it is counted by.
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        config.shard_threads = Some(config.shard_threads());
        let mut hardening = Hardening::begin(&config, self.allow_root)?;
        hardening.note_compiler(confined)?;
        hardening.confine_files(&config, &self.config)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(cores)
            .enable_all()
            .build()
            .map_err(|error| Failure::here("runtime", format!("cannot start: {error}")))?;
        runtime.block_on(async {
            // From before anybody is told that the server listens: who reads that may already want it to stop.
            let stop = stop_signal()?;
            // Confined by now, and no signal of a file that may not grow ends the process any more.
            logging.start_writing()?;
            let server = Server::bind_with(config, compiler).await.map_err(|error| about(&error))?;
            hardening.confine_calls()?;
            let server = server.protected_by(hardening.into_protections()).logging_to(logging.health());
            reload_on_signal(server.reloader())?;
            announce(Listening { listening: server.local_address() }, format)?;
            server.run(stop).await;
            Ok(())
        })
    }
}

/// Prints that the server listens, on a thread of its own: nobody may read standard output, or it may be full.
fn announce(listening: Listening, format: Format) -> Result<(), Failure> {
    let print = move || {
        if let Err(failure) = format.print(&listening) {
            tracing::warn!(reason = %failure, "where the server listens could not be printed");
        }
    };
    let thread = std::thread::Builder::new().name("announce".into()).spawn(print);
    thread.map(drop).map_err(|error| Failure::here("runtime", format!("cannot start a thread: {error}")))
}

/// Open files besides connections: the listener, the log, compiled optimizers, what a deployment reads.
const OTHER_FILES: u64 = 64;

/// Asks the system for as many open files as connections need, which is often more than it gives unasked.
#[cfg(unix)]
fn make_room_for_connections(config: &Config) {
    let needed = config.limits.connections as u64 + OTHER_FILES;
    // It gives what it may; the check is of what there is then.
    let open_files = rlimit::increase_nofile_limit(needed).or_else(|_| rlimit::Resource::NOFILE.get_soft());
    if let Ok(open_files) = open_files
        && open_files < needed
    {
        let hint = "raise the limit on open files (ulimit -n, LimitNOFILE) or lower limits.connections";
        tracing::warn!(open_files, needed, hint, "not all connections can be had");
    }
}

#[cfg(not(unix))]
fn make_room_for_connections(_: &Config) {}

/// Ends with the first signal that asks the process to stop.
#[cfg(unix)]
fn stop_signal() -> Result<impl Future<Output = ()>, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(|error| Failure::here("signal", format!("cannot watch signals: {error}")));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    // A file that may not grow any more is an error where it is written, and not the server's end.
    let too_large = listen(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?;
    Ok(async move {
        let _too_large = too_large;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Has the server look at its files whenever SIGHUP asks for it.
#[cfg(unix)]
fn reload_on_signal(reloader: Reloader) -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangup = signal(SignalKind::hangup())
        .map_err(|error| Failure::here("signal", format!("cannot watch signals: {error}")))?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            reloader.reload();
        }
    });
    Ok(())
}

#[cfg(not(unix))]
fn reload_on_signal(_: Reloader) -> Result<(), Failure> {
    Ok(())
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

#[derive(Serialize)]
struct Listening {
    listening: SocketAddr,
}

impl Report for Listening {
    fn text(&self) -> String {
        format!("listening on {}", self.listening)
    }
}
