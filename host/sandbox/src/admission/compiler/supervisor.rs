//! The broker's process: for each request a worker, which it ends when it takes too long.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::protocol::{Answer, Exceeded, Request, read_request_number, write_numbered};
use super::terms::Terms;
use super::timed::Timed;
use super::{CompilerLimits, WORKER_VERB, descriptors};

/// How much of what a worker says when it crashes is looked at.
const WORKER_LAST_WORDS_BYTES: u64 = 4096;

/// How often a worker that has closed its output is asked whether it has ended.
const REAP_PAUSE: Duration = Duration::from_millis(1);

const SIGKILL: i32 = 9;
const SIGABRT: i32 = 6;
const SIGXCPU: i32 = 24;

/// The program that this process runs, even where its file has been replaced since.
pub(super) fn own_program() -> io::Result<PathBuf> {
    let own = Path::new("/proc/self/exe");
    if own.exists() { Ok(own.to_owned()) } else { std::env::current_exe() }
}

/// Runs a broker until nobody asks it any more; its arguments are the terms of all that it has compiled.
pub(super) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(terms) = Terms::from_arguments(arguments) else {
        eprintln!("this verb is for Stepbox itself: it has components compiled for a server");
        return ExitCode::from(2);
    };
    if descriptors::keep_from_children().is_err() {
        return ExitCode::FAILURE;
    }
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    loop {
        let (number, request) = match read_request_number(&mut input) {
            Ok(None) => return ExitCode::SUCCESS,
            Ok(Some(number)) => match Request::read(&mut input) {
                Ok(Some(request)) => (number, request),
                Ok(None) | Err(_) => return ExitCode::FAILURE,
            },
            Err(_) => return ExitCode::FAILURE,
        };
        let answer = match compile(&request, &terms, &input) {
            Ok(answer) => answer,
            // The server has ended.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => return ExitCode::SUCCESS,
            Err(error) => Answer::Failed(format!("a worker cannot be run: {error}")),
        };
        if write_numbered(number, &answer, &mut output).is_err() {
            return ExitCode::SUCCESS;
        }
    }
}

/// Has a worker of its own compile a component.
fn compile(request: &Request<Vec<u8>>, terms: &Terms, server: &impl AsFd) -> io::Result<Answer> {
    let CompilerLimits { deadline_milliseconds, code_bytes, .. } = terms.limits;
    let until = Instant::now() + Duration::from_millis(deadline_milliseconds);
    let mut worker = Command::new(own_program()?)
        .arg0(format!("stepbox-{WORKER_VERB}"))
        .arg(WORKER_VERB)
        .args(terms.arguments())
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let answer = converse(&mut worker, request, until, server, code_bytes);
    let ended = match &answer {
        // It has said all that there is to say.
        Ok(_) => None,
        Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::ConnectionAborted) => None,
        // It has fallen silent in the middle: it is about to end, and how says why.
        Err(_) => ended_by(&mut worker, until)?,
    };
    // No more than a word to a process that has ended.
    let _ = worker.kill();
    worker.wait()?;
    match (answer, ended) {
        (Ok(answer), _) => Ok(answer),
        (Err(error), _) if error.kind() == ErrorKind::ConnectionAborted => Err(error),
        (Err(error), _) if error.kind() == ErrorKind::TimedOut => Ok(Answer::Limit(Exceeded::Deadline)),
        (Err(_), Some(status)) => Ok(cause(status, worker.stderr.take())),
        (Err(_), None) => Ok(Answer::Limit(Exceeded::Deadline)),
    }
}

/// Hands over the request and takes the answer.
fn converse(
    worker: &mut Child,
    request: &Request<Vec<u8>>,
    until: Instant,
    server: &impl AsFd,
    code_bytes: u64,
) -> io::Result<Answer> {
    let (Some(input), Some(output)) = (worker.stdin.take(), worker.stdout.take()) else {
        return Err(io::Error::other("it has no pipes"));
    };
    // A worker that ends before it has read everything may still have said why.
    let asked = request.write(&mut Timed::new(input, until)?.on_behalf_of(server.as_fd()));
    if let Err(error) = asked
        && error.kind() != ErrorKind::BrokenPipe
    {
        return Err(error);
    }
    Answer::read(&mut Timed::new(output, until)?.on_behalf_of(server.as_fd()), code_bytes)
}

/// How a worker has ended, if it has by then.
fn ended_by(worker: &mut Child, until: Instant) -> io::Result<Option<ExitStatus>> {
    loop {
        match worker.try_wait()? {
            None if Instant::now() < until => thread::sleep(REAP_PAUSE),
            ended => return Ok(ended),
        }
    }
}

/// Why a worker ended before it gave an answer.
fn cause(status: ExitStatus, stderr: Option<ChildStderr>) -> Answer {
    let mut said = Vec::new();
    // It has ended, and its end of the pipe with it.
    let _ = stderr.map(|stderr| stderr.take(WORKER_LAST_WORDS_BYTES).read_to_end(&mut said));
    let said = String::from_utf8_lossy(&said);
    match status.signal() {
        Some(SIGXCPU) => Answer::Limit(Exceeded::ProcessorTime),
        // What Rust's standard library says before it ends a process for these reasons.
        Some(SIGABRT) if said.contains("memory allocation of") => Answer::Limit(Exceeded::Memory),
        Some(SIGABRT) if said.contains("overflowed its stack") => Answer::Limit(Exceeded::Stack),
        Some(SIGKILL) => Answer::Killed("signal 9".into()),
        _ => Answer::Failed(format!("the compiler has crashed ({status}): {}", said.trim())),
    }
}
