//! A process that compiles one component for the server: it has read nothing yet, and needs nothing but its pipes.
//!
//! Its limits (`rlimit`) hold in any case, the rest as far as the kernel has it. Where it has not all of it, the server's
//! log and status say so, and with `process.sandbox = "require"` nothing is compiled.

/// No file, no port, no signal to others, and no system call but those that a compiler makes. Says what is in force, or
/// what of it is not and why; the rest is then in force all the same.
#[cfg(target_os = "linux")]
pub(crate) fn confine() -> Result<String, String> {
    let files = linux::no_files().map_err(|reason| format!("landlock: {reason}"));
    let calls = linux::few_calls().map_err(|error| format!("seccomp: {error}"));
    match (files, calls) {
        (Ok(files), Ok(())) => Ok(format!("{files}; few system calls")),
        (files, calls) => {
            let reasons: Vec<String> = files.err().into_iter().chain(calls.err()).collect();
            Err(reasons.join("; "))
        }
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn confine() -> Result<String, String> {
    Err("not on this system".to_owned())
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeMap;
    use std::error::Error;

    use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetError, RulesetStatus, Scope};
    use libc::c_long;
    use seccompiler::{
        BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule, apply_filter,
    };

    /// Linux 6.12; on an older kernel as much of it as that has.
    const KNOWN: ABI = ABI::V6;

    /// Allowed with any arguments.
    const ALLOWED: &[c_long] = &[
        // The pipes.
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_readv,
        libc::SYS_writev,
        libc::SYS_close,
        libc::SYS_fstat,
        libc::SYS_ppoll,
        // Memory.
        libc::SYS_brk,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        // Time, and locks that nobody else holds.
        libc::SYS_futex,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_clock_gettime,
        libc::SYS_gettimeofday,
        libc::SYS_getrandom,
        // Signals of its own: what overflows its stack, or gives up, says so and ends.
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_restart_syscall,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];

    /// Everything that Landlock can refuse, and no exception.
    pub(super) fn no_files() -> Result<&'static str, String> {
        let restrict = || -> Result<RulesetStatus, RulesetError> {
            let ruleset = Ruleset::default()
                .handle_access(AccessFs::from_all(KNOWN))?
                .handle_access(AccessNet::from_all(KNOWN))?
                .scope(Scope::from_all(KNOWN))?
                .create()?;
            Ok(ruleset.restrict_self()?.ruleset)
        };
        match restrict() {
            Ok(RulesetStatus::FullyEnforced) => Ok("no file and no port"),
            Ok(RulesetStatus::PartiallyEnforced) => Ok("no file and no port, as far as this kernel can"),
            Ok(RulesetStatus::NotEnforced) => Err("this kernel has none (Linux 5.13), or it is switched off".into()),
            Err(error) => Err(error.to_string()),
        }
    }

    pub(super) fn few_calls() -> Result<(), Box<dyn Error>> {
        let architecture = std::env::consts::ARCH.try_into()?;
        // An error and not the process's end: a library that tries something else first goes on without it.
        let absent = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
        let filter: BpfProgram =
            SeccompFilter::new(allowed()?, absent, SeccompAction::Allow, architecture)?.try_into()?;
        // There is one thread.
        Ok(apply_filter(&filter)?)
    }

    /// By system call, when it is allowed; always where there is no rule.
    fn allowed() -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
        let only = |index, operator, value| {
            let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)?;
            Ok::<_, BackendError>(vec![SeccompRule::new(vec![condition])?])
        };
        let mut rules: BTreeMap<_, _> = ALLOWED.iter().map(|&call| (call, Vec::new())).collect();
        // What it compiles it does not run: none of its memory becomes executable.
        let executable = libc::PROT_EXEC.unsigned_abs().into();
        for call in [libc::SYS_mmap, libc::SYS_mprotect] {
            rules.insert(call, only(2, SeccompCmpOp::MaskedEq(executable), 0)?);
        }
        // To end itself, and nobody else.
        rules.insert(libc::SYS_tgkill, only(0, SeccompCmpOp::Eq, std::process::id().into())?);
        Ok(rules)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_compiler_opens_starts_and_reaches_nothing() {
            let rules = allowed().expect("rules");
            for call in [
                libc::SYS_openat,
                libc::SYS_execve,
                libc::SYS_execveat,
                libc::SYS_clone,
                libc::SYS_clone3,
                libc::SYS_socket,
                libc::SYS_connect,
                libc::SYS_sendto,
                libc::SYS_ptrace,
                libc::SYS_kill,
                libc::SYS_prctl,
                libc::SYS_ioctl,
                libc::SYS_io_uring_setup,
                libc::SYS_memfd_create,
                libc::SYS_pkey_mprotect,
                libc::SYS_shmat,
                libc::SYS_process_vm_writev,
            ] {
                assert!(!rules.contains_key(&call), "system call {call}");
            }
            assert!(rules[&libc::SYS_mmap].len() == 1 && rules[&libc::SYS_mprotect].len() == 1, "with a condition");
        }
    }
}
