//! A worker: limits and confines itself, reads one component, compiles it, answers, ends.

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::process::ExitCode;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Confinement;
use super::protocol::{Answer, Exceeded, Request};
use super::terms::Terms;
use crate::error::Chain;
use crate::instance::engine::compiler_engine;
use crate::limits::Limits;

/// Descriptors a worker may have: its pipes, and some that the compiler's libraries open in passing.
pub(crate) const WORKER_DESCRIPTORS: u64 = 16;

/// Runs a worker; its arguments are the terms of its work.
pub(super) fn run(
    arguments: impl Iterator<Item = OsString>,
    confine: impl FnOnce() -> Result<String, String>,
) -> ExitCode {
    let Some(Terms { limits, confinement }) = Terms::from_arguments(arguments) else {
        eprintln!("this verb is for Stepbox itself: it compiles components for a server");
        return ExitCode::from(2);
    };
    // Before anything is read.
    let answer = match limit(limits.memory_bytes, limits.processor_seconds) {
        Ok(()) => answer(confine(), confinement, limits.code_bytes),
        Err(error) => Answer::Failed(format!("a worker cannot limit itself: {error}")),
    };
    match answer.write(&mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Takes from this process what compiling does not need. What has been taken cannot be had back.
fn limit(memory_bytes: u64, processor_seconds: u64) -> io::Result<()> {
    // Ends with the broker, whatever that one ends by.
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    for (resource, most) in [
        // Everything that is mapped counts, so also what a library maps without having been asked.
        (Resource::As, memory_bytes),
        (Resource::Cpu, processor_seconds),
        (Resource::Core, 0),
        (Resource::Fsize, 0),
        (Resource::Nofile, WORKER_DESCRIPTORS),
        // Neither processes nor threads. Does not hold for root, for whom the rest does.
        (Resource::Nproc, 0),
    ] {
        // Whoever started us may have set less already, which then stays.
        let least = getrlimit(resource).maximum.map_or(most, |maximum| maximum.min(most));
        // Processor time over the lower one is a signal that tells why, over the upper one it is SIGKILL.
        let maximum = if matches!(resource, Resource::Cpu) { least + 1 } else { least };
        let maximum = getrlimit(resource).maximum.map_or(maximum, |already| already.min(maximum));
        setrlimit(resource, Rlimit { current: Some(least), maximum: Some(maximum) })?;
    }
    Ok(())
}

/// Reads what is asked for, and does it unless that takes a confinement that there is not.
fn answer(confined: Result<String, String>, confinement: Confinement, code_bytes: u64) -> Answer {
    let failed = |reason: &dyn std::fmt::Display| Answer::Failed(format!("a worker cannot compile: {reason}"));
    let request = match Request::read(&mut io::stdin().lock()) {
        Ok(Some(request)) => request,
        Ok(None) => return failed(&"there is no request"),
        Err(error) if error.kind() == ErrorKind::OutOfMemory => return Answer::Limit(Exceeded::Memory),
        Err(error) => return failed(&error),
    };
    match (confined, confinement) {
        (Ok(how), _) if request.component.is_empty() => return Answer::Confined(how),
        (Err(reason), _) if request.component.is_empty() => return Answer::Unconfined(reason),
        (Err(reason), Confinement::Require) => {
            let reason = format!("the process that compiles could not be confined, which is required: {reason}");
            return Answer::Failed(reason);
        }
        (Ok(_), _) | (Err(_), Confinement::Try) => {}
    }
    let limits = Limits { stack_bytes: request.stack_bytes, ..Limits::default() };
    let engine = match compiler_engine(&limits, request.metering) {
        Ok(engine) => engine,
        Err(error) if is_out_of_memory(&error) => return Answer::Limit(Exceeded::Memory),
        Err(error) => return failed(&Chain(&error)),
    };
    match engine.precompile_component(&request.component) {
        Ok(code) if code.len() as u64 > code_bytes => Answer::Limit(Exceeded::Code),
        Ok(code) => Answer::Code(code),
        Err(error) if is_out_of_memory(&error) => Answer::Limit(Exceeded::Memory),
        Err(error) => Answer::Invalid(Chain(&error).to_string()),
    }
}

/// Whether memory was refused to somebody who could return an error. Most that need memory cannot, and end the process;
/// the broker knows them by what they say then.
fn is_out_of_memory(error: &wasmtime::Error) -> bool {
    let system = |cause: &(dyn Error + 'static)| {
        let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        io == Some(ErrorKind::OutOfMemory) || cause.downcast_ref::<Errno>() == Some(&Errno::NOMEM)
    };
    error.is::<wasmtime::OutOfMemory>() || error.chain().any(system)
}
