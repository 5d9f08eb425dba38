//! The log on standard error, for people.
//!
//! It must never end the server or hold it up, whatever standard error is: a full disk, a pipe whose reader has ended
//! or has stopped reading, a closed terminal. So a line goes into a bounded queue, and a thread of its own writes it.
//! Lines that are lost are counted, in the status and in the log itself once it can be written again.
//!
//! Nor can a peer or an optimizer fill the disk with it: lines of one kind are throttled ([`throttle`]). What they say
//! does nothing to a terminal: each value is escaped here, and nowhere else.

mod queue;
mod throttle;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::{self, Debug};
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::Arc;

use clap::ValueEnum;
use stepbox_server::LogHealth;
use stepbox_trust::printable;
use tracing::field::Field;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::output::{Failure, json_escaped};
use queue::LogQueue;
use throttle::LogThrottle;

/// Where the log's own lines come from.
const TARGET: &str = module_path!();

/// The form of a line.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// The process's log. Dropping it writes what is queued, for a moment.
pub(crate) struct Logging {
    queue: Arc<LogQueue>,
    throttle: Arc<LogThrottle>,
    output: Option<File>,
}

impl Logging {
    /// Takes all events of this process from now on. They are queued until [`start_writing`](Self::start_writing).
    pub(crate) fn start(format: LogFormat) -> Result<Self, Failure> {
        let wrong = |reason: String| Failure::here("log", reason);
        let filter = match std::env::var("RUST_LOG") {
            Ok(text) => EnvFilter::try_new(&text)
                .map_err(|error| wrong(format!("RUST_LOG is `{text}`, which is no filter: {error}")))?,
            Err(_) => EnvFilter::new("info"),
        };
        // What the log says of itself is always in it.
        let itself = format!("{TARGET}=info");
        let filter = filter.add_directive(itself.parse().map_err(|error| wrong(format!("{itself}: {error}")))?);
        // Written to directly: a write that blocks must not hold the lock of `io::stderr`.
        let output = io::stderr().as_fd().try_clone_to_owned();
        let output = output.map_err(|error| wrong(format!("cannot use standard error: {error}")))?;
        // https://no-color.org: set and not empty.
        let wants_no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let (queue, throttle) = (Arc::<LogQueue>::default(), Arc::<LogThrottle>::default());
        let lines = Arc::clone(&queue);
        let layer = tracing_subscriber::fmt::layer()
            .log_internal_errors(false)
            .with_ansi(io::stderr().is_terminal() && !wants_no_color);
        let layer = match format {
            LogFormat::Text => layer
                .with_writer(move || lines.writer(str::to_owned))
                .fmt_fields(debug_fn(write_field).delimited(" "))
                .boxed(),
            LogFormat::Json => layer.with_writer(move || lines.writer(json_escaped)).json().flatten_event(true).boxed(),
        };
        let subscriber = tracing_subscriber::registry().with(layer).with(filter).with(Arc::clone(&throttle).layer());
        subscriber.try_init().map_err(|error| wrong(format!("cannot start logging: {error}")))?;
        std::panic::set_hook(Box::new(log_panic));
        Ok(Self { queue, throttle, output: Some(output.into()) })
    }

    /// Starts the thread that writes: no earlier than this thread is confined, so that the other one is, too.
    pub(crate) fn start_writing(&mut self) -> Result<(), Failure> {
        let Some(output) = self.output.take() else { return Ok(()) };
        queue::start(Arc::clone(&self.queue), Arc::clone(&self.throttle), output)
            .map_err(|error| Failure::here("log", format!("cannot start the thread that writes it: {error}")))
    }

    /// What the status says of it.
    pub(crate) fn health(&self) -> Arc<LogHealth> {
        self.queue.health()
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        // Where the server did not start, the log says why. Where the thread cannot be started either, it is lost.
        if self.start_writing().is_ok() {
            self.queue.close();
        }
    }
}

/// Writes a field of a text line: its value may quote a peer, a file or an optimizer.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    let text = printable(&format!("{value:?}"));
    match field.name() {
        "message" => writer.write_str(&text),
        name if writer.has_ansi_escapes() => write!(writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m{text}"),
        name => write!(writer, "{name}={text}"),
    }
}

/// Panics are logged like anything else: the standard library's own hook would wait for a reader that does not read.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let location = panic.location().map(ToString::to_string);
    let reason = panic.payload_as_str().unwrap_or("not a text");
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(thread = thread.name(), location, reason, backtrace, "a thread has panicked; please report it");
}
