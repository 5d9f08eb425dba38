//! What the server's process gives up, so that who takes it over gains little: the rights of root, core dumps, files
//! that are not its own, other programs, system calls it does not need.
//!
//! In this order, because each step applies to what comes after it:
//!
//! 1. [`Hardening::begin`], before any secret is read: not as root, no core dumps, files for the server's user alone;
//! 2. [`Hardening::confine_files`], before any thread is started, since Landlock confines a thread and those it starts;
//! 3. [`Hardening::confine_calls`], when the server listens: no socket and no program from then on, in any thread.
//!
//! The processes that compile components for the server are started before all that, and keep less:
//! [`confine_compiler`].

mod calls;
mod compiler;
mod files;
mod folders;

pub(crate) use compiler::confine as confine_compiler;

use std::path::Path;

use rustix::process::{Resource, Rlimit};
use stepbox_server::{Config, ProcessSandbox, Protection};

use crate::output::Failure;
use folders::Folders;

/// Set to 1, it is `--allow-root`.
const ALLOW_ROOT: &str = "STEPBOX_ALLOW_ROOT";

/// Why there is no protection where none is wanted.
const OFF: &str = "process.sandbox = \"off\"";

/// What has been given up so far.
pub(crate) struct Hardening {
    sandbox: ProcessSandbox,
    protections: Vec<Protection>,
}

impl Hardening {
    /// Refuses to go on as root, and keeps the process's memory off the disk.
    pub(crate) fn begin(config: &Config, allow_root: bool) -> Result<Self, Failure> {
        let allowed =
            allow_root || config.process.allow_root || std::env::var_os(ALLOW_ROOT).is_some_and(|it| it == "1");
        let is_root = rustix::process::geteuid().is_root();
        if is_root && !allowed {
            return Err(Failure::here(
                "root",
                "a server that is taken over should not have the whole machine: run it as a user of its own, or say \
                 that root is meant (--allow-root, or process.allow_root = true in the configuration)",
            ));
        }
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        let mut hardening = Self { sandbox: config.process.sandbox, protections: Vec::new() };
        let user = if is_root { Err("it runs as root".into()) } else { Ok("not root".to_owned()) };
        hardening.note("user", user);
        hardening.note("core-dumps", no_core_dumps());
        Ok(hardening)
    }

    /// Keeps this thread, and those it starts, from files and ports that are not the server's, and from programs. A
    /// path that cannot be used is an error of the configuration, whatever `process.sandbox` says of the kernel.
    pub(crate) fn confine_files(&mut self, config: &Config, configuration: &Path) -> Result<(), Failure> {
        let at_fault = |failure: Failure| failure.about(configuration.display());
        folders::make(config).map_err(at_fault)?;
        if self.sandbox == ProcessSandbox::Off {
            self.note("landlock", Err(OFF.to_owned()));
            return Ok(());
        }
        let folders = Folders::of(config, configuration).map_err(at_fault)?;
        self.confine("landlock", || files::confine(&folders, config.listen.port()))?;
        let is_confined = self.protections.last().is_some_and(|protection| protection.active);
        for frozen in folders.frozen.iter().filter(|_| is_confined) {
            let (link, above) = (frozen.link.display(), frozen.above.display());
            tracing::warn!(
                %link,
                fields = frozen.fields.join(", "),
                "these paths lead through a symbolic link; once it is switched, Landlock keeps the server from reading \
                 there until a restart. For the server to follow it, set process.read_directories = [\"{above}\"], \
                 where nothing else is in that folder that it must not read"
            );
        }
        Ok(())
    }

    /// Keeps all threads from system calls that a server that listens does not need, and the memory that is in use
    /// from the swap space.
    pub(crate) fn confine_calls(&mut self) -> Result<(), Failure> {
        self.note("memory-lock", lock_memory());
        self.confine("seccomp", calls::confine)
    }

    /// What has been given up, and what not, and why not.
    pub(crate) fn into_protections(self) -> Vec<Protection> {
        self.protections
    }

    fn confine(&mut self, name: &str, how: impl FnOnce() -> Result<String, String>) -> Result<(), Failure> {
        let outcome = match self.sandbox {
            ProcessSandbox::Off => Err(OFF.to_owned()),
            _ => how(),
        };
        if let (ProcessSandbox::Require, Err(reason)) = (self.sandbox, &outcome) {
            let message = format!("{name} cannot be used, and process.sandbox is \"require\": {reason}");
            return Err(Failure::here("protection", message));
        }
        self.note(name, outcome);
        Ok(())
    }

    fn note(&mut self, name: &str, outcome: Result<String, String>) {
        let active = outcome.is_ok();
        let detail = outcome.unwrap_or_else(|reason| reason);
        if active {
            tracing::info!(protection = name, detail, "active");
        } else {
            tracing::warn!(protection = name, reason = detail, "not active");
        }
        self.protections.push(Protection { name: name.to_owned(), active, detail });
    }
}

/// A dump has the server's keys in it, and the weights. Nor may other processes of its user look into it.
fn no_core_dumps() -> Result<String, String> {
    let nothing = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, nothing).map_err(|error| format!("RLIMIT_CORE: {error}"))?;
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(|error| format!("PR_SET_DUMPABLE: {error}"))?;
    Ok("none, and no other process of its user may look into its memory".to_owned())
}

/// Of memory that is in use, the keys' among it: what is allocated later is much, and has no keys.
#[cfg(target_os = "linux")]
fn lock_memory() -> Result<String, String> {
    use rustix::mm::{MlockAllFlags, mlockall};
    match mlockall(MlockAllFlags::CURRENT | MlockAllFlags::ONFAULT) {
        Ok(()) => Ok("what is in memory at the start, the keys among it, is not swapped out".to_owned()),
        Err(error) => Err(format!("{error}; it takes a limit that is high enough (LimitMEMLOCK=infinity)")),
    }
}

#[cfg(not(target_os = "linux"))]
fn lock_memory() -> Result<String, String> {
    Err("not on this system".to_owned())
}
