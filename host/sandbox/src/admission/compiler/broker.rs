//! The server's side of the broker.

use std::io::{self, ErrorKind, Write};
use std::ops::RangeInclusive;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::protocol::{Answer, Answers, Exceeded, MAX_COMPILED_COMPONENT_BYTES, Request};
use super::terms::Terms;
use super::timed::Timed;
use super::{BROKER_VERB, CompilerLimits, Confinement, supervisor};
use crate::error::{CompileLimit, SandboxError};
use crate::instance::engine::Metering;

/// How much longer than a worker may take its broker is waited for, to start it and to take the answer along.
pub(crate) const BROKER_GRACE: Duration = Duration::from_secs(5);

/// Native code that a worker of our own broker made. Only [`Broker::compile`] makes one.
pub(crate) struct Compiled(Vec<u8>);

impl Compiled {
    pub(crate) fn code(&self) -> &[u8] {
        &self.0
    }
}

/// Why there is no broker.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// The program cannot be started.
    #[error("cannot start the process that compiles optimizers: {0}")]
    Start(#[from] io::Error),
    /// A limit is out of range.
    #[error("compiler.{name} is {value}; it must be from {} to {}", range.start(), range.end())]
    OutOfRange {
        /// The limit.
        name: &'static str,
        /// What was configured.
        value: u64,
        /// What is taken.
        range: RangeInclusive<u64>,
    },
}

/// A process that has components compiled by other processes, one at a time. It ends with this value, and when this
/// process ends.
///
/// It should be started before this process gives up the right to start others: it keeps that right. One that has died is
/// started anew by the next request, if that is still possible.
#[derive(Debug)]
pub struct Broker {
    program: PathBuf,
    terms: Terms,
    running: Mutex<Option<Running>>,
    /// Of the last one that was started.
    process_id: AtomicU32,
}

impl Broker {
    /// Starts a broker of this process's own executable, which must call [`compile_process`](crate::compile_process)
    /// first of all.
    ///
    /// # Errors
    /// A limit is out of range, or the system starts no process.
    pub fn start(limits: CompilerLimits, confinement: Confinement) -> Result<Self, BrokerError> {
        Self::start_program(&supervisor::own_program()?, limits, confinement)
    }

    /// Starts a broker of another executable, which must be of the same version.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub fn start_program(
        program: &Path,
        limits: CompilerLimits,
        confinement: Confinement,
    ) -> Result<Self, BrokerError> {
        if let Some((name, value, range)) = limits.out_of_range() {
            return Err(BrokerError::OutOfRange { name, value, range });
        }
        let terms = Terms { limits, confinement };
        let running = Running::start(program, &terms)?;
        let process_id = AtomicU32::new(running.process.id());
        Ok(Self { program: program.to_owned(), terms, running: Mutex::new(Some(running)), process_id })
    }

    /// What compiling a component may take.
    pub fn limits(&self) -> CompilerLimits {
        self.terms.limits
    }

    /// What a worker gives up beside its limits, as one says that is started to be asked, or why it does not.
    ///
    /// # Errors
    /// No worker answers.
    pub fn probe(&self) -> Result<Result<String, String>, SandboxError> {
        let stack_bytes = crate::limits::DEFAULT_STACK_BYTES;
        match self.ask(&Request { metering: Metering::default(), stack_bytes, component: &[][..] })? {
            Answer::Confined(how) => Ok(Ok(how)),
            Answer::Unconfined(reason) => Ok(Err(reason)),
            Answer::Failed(reason) | Answer::Killed(reason) | Answer::Invalid(reason) => {
                Err(SandboxError::Compiler(reason))
            }
            Answer::Code(_) | Answer::Limit(_) => {
                Err(SandboxError::Compiler("a worker that was to compile nothing has taken too much".into()))
            }
        }
    }

    /// The broker's process; the last one, where it has been started anew.
    pub fn process_id(&self) -> u32 {
        self.process_id.load(Ordering::Relaxed)
    }

    /// Has a component compiled.
    pub(crate) fn compile(
        &self,
        metering: Metering,
        stack_bytes: u64,
        component: &[u8],
    ) -> Result<Compiled, SandboxError> {
        if component.len() as u64 > MAX_COMPILED_COMPONENT_BYTES {
            let (declared, limit) = (component.len() as u64, MAX_COMPILED_COMPONENT_BYTES);
            return Err(SandboxError::Oversized { what: "a number of bytes of", declared, limit });
        }
        if component.is_empty() {
            return Err(SandboxError::Invalid("it is empty".into()));
        }
        let limits = self.terms.limits;
        match self.ask(&Request { metering, stack_bytes, component })? {
            Answer::Code(code) => Ok(Compiled(code)),
            Answer::Invalid(reason) => Err(SandboxError::Invalid(reason)),
            Answer::Limit(exceeded) => Err(SandboxError::CompileLimit(match exceeded {
                Exceeded::Memory => CompileLimit::Memory { bytes: limits.memory_bytes },
                Exceeded::ProcessorTime => CompileLimit::ProcessorTime { seconds: limits.processor_seconds },
                Exceeded::Deadline => CompileLimit::Deadline { milliseconds: limits.deadline_milliseconds },
                Exceeded::Code => CompileLimit::Code { bytes: limits.code_bytes },
                Exceeded::Stack => CompileLimit::Stack,
            })),
            Answer::Killed(by) => Err(SandboxError::CompilerKilled(by)),
            Answer::Failed(reason) => Err(SandboxError::Compiler(reason)),
            Answer::Confined(_) | Answer::Unconfined(_) => {
                Err(SandboxError::Compiler("a worker has answered what was not asked".into()))
            }
        }
    }

    /// Asks the broker; one that turns out to be gone is started anew, once.
    ///
    /// One that only does not answer in time is kept, since this process may have given up the right to start another: its
    /// answer is waited for first, next time, and thrown away.
    fn ask(&self, request: &Request<&[u8]>) -> Result<Answer, SandboxError> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut started_anew = false;
        loop {
            let mut broker = match running.take() {
                Some(broker) => broker,
                None => {
                    started_anew = true;
                    self.start_anew().map_err(|error| {
                        SandboxError::Compiler(format!(
                            "the process that starts compilers has ended and cannot be started anew ({error}); restart \
                             the server"
                        ))
                    })?
                }
            };
            // What has been silent for as long as two requests may take had better be replaced, if that can be done.
            if let Err(error) = broker.settle(self.terms.limits) {
                match self.start_anew() {
                    Ok(another) => broker = another,
                    Err(_) if error.kind() == ErrorKind::TimedOut => {
                        *running = Some(broker);
                        return Err(silent());
                    }
                    Err(_) => {}
                }
            }
            match broker.ask(request, self.terms.limits) {
                Ok(answer) => {
                    *running = Some(broker);
                    return Ok(answer);
                }
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    let process = broker.process.id();
                    tracing::warn!(process, "the process that starts compilers does not answer in time");
                    *running = Some(broker);
                    return Err(silent());
                }
                Err(error) => {
                    tracing::warn!(%error, process = broker.process.id(), "the process that starts compilers is lost");
                    if started_anew {
                        return Err(SandboxError::Compiler(format!(
                            "the process that starts compilers was lost: {error}"
                        )));
                    }
                }
            }
        }
    }

    fn start_anew(&self) -> io::Result<Running> {
        let broker = Running::start(&self.program, &self.terms)?;
        self.process_id.store(broker.process.id(), Ordering::Relaxed);
        Ok(broker)
    }
}

fn silent() -> SandboxError {
    SandboxError::Compiler(
        "the process that starts compilers does not answer in time; try again, and if that does not help restart the \
         server"
            .into(),
    )
}

/// A broker's process. Ends it when dropped.
#[derive(Debug)]
struct Running {
    /// With its pipes: requests go in, answers come out.
    process: Child,
    answers: Answers,
    /// The number of the last request.
    number: u64,
    /// What of that request has not been written.
    unsent: Vec<u8>,
    /// Whether its answer has not been read.
    is_owed: bool,
}

impl Running {
    fn start(program: &Path, terms: &Terms) -> io::Result<Self> {
        let process = Command::new(program)
            .arg0(format!("stepbox-{BROKER_VERB}"))
            .arg(BROKER_VERB)
            .args(terms.arguments())
            .env_clear()
            .current_dir("/")
            // A signal from the terminal is for the server, which still answers what it has begun.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { process, answers: Answers::default(), number: 0, unsent: Vec::new(), is_owed: false })
    }

    /// Waits for the answer to a request that was given up, which nobody wants any more. Nothing is asked before it is
    /// there: so no more than one is ever late.
    fn settle(&mut self, limits: CompilerLimits) -> io::Result<()> {
        if !self.is_owed {
            return Ok(());
        }
        self.converse(limits)?;
        tracing::info!(process = self.process.id(), "the process that starts compilers has answered late");
        Ok(())
    }

    fn ask(&mut self, request: &Request<&[u8]>, limits: CompilerLimits) -> io::Result<Answer> {
        self.number += 1;
        self.unsent = self.number.to_le_bytes().to_vec();
        request.write(&mut self.unsent)?;
        self.is_owed = true;
        self.converse(limits)
    }

    /// Sends what is left of the last request and takes its answer. Where that takes too long it can be gone on with.
    fn converse(&mut self, limits: CompilerLimits) -> io::Result<Answer> {
        let until = Instant::now() + Duration::from_millis(limits.deadline_milliseconds) + BROKER_GRACE;
        let (Some(requests), Some(answers)) = (&mut self.process.stdin, &mut self.process.stdout) else {
            return Err(io::Error::other("it has no pipes"));
        };
        let (mut requests, mut answers) = (Timed::new(requests, until)?, Timed::new(answers, until)?);
        let mut sent = 0;
        while sent < self.unsent.len() {
            match requests.write(&self.unsent[sent..]) {
                Ok(more) => sent += more,
                Err(error) => {
                    self.unsent.drain(..sent);
                    return Err(error);
                }
            }
        }
        self.unsent = Vec::new();
        let (number, answer) = self.answers.next(&mut answers, limits.code_bytes)?;
        if number != self.number {
            return Err(io::Error::new(ErrorKind::InvalidData, "it answers what was not asked"));
        }
        self.is_owed = false;
        Ok(answer)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already. Its worker ends with it.
        let _ = self.process.kill();
        // A process that has given up the right to signal others (landlock) has not ended it so: without pipes it ends by
        // itself. Waiting closes the one for requests.
        drop(self.process.stdout.take());
        let _ = self.process.wait();
    }
}
