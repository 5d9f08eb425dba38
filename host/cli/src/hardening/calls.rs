//! Seccomp: which system calls the process may make (<https://docs.kernel.org/userspace-api/seccomp_filter.html>).
//!
//! A list of what is allowed: what is not on it does not exist for the process. It has what the server was seen to use
//! under load (`strace`), and what the libraries below it use in its place on other systems, or when something fails.

#[cfg(target_os = "linux")]
pub(super) fn confine() -> Result<String, String> {
    let allowed = linux::allowed().map_err(|error| error.to_string())?;
    let count = allowed.len();
    linux::apply(allowed).map_err(|error| error.to_string())?;
    Ok(format!("{count} system calls are left; no new program, process or socket"))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn confine() -> Result<String, String> {
    Err("not on this system".to_owned())
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeMap;

    use libc::c_long;
    use seccompiler::{
        BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule, TargetArch, apply_filter_all_threads,
    };

    /// By system call, when it is allowed; always where there is no rule.
    type Rules = BTreeMap<i64, Vec<SeccompRule>>;

    /// Allowed with any arguments.
    const ALLOWED: &[c_long] = &[
        // Memory. Optimizers' native code is mapped and made executable.
        libc::SYS_brk,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_membarrier,
        libc::SYS_mincore,
        // Threads and time.
        libc::SYS_futex,
        libc::SYS_set_robust_list,
        libc::SYS_get_robust_list,
        libc::SYS_set_tid_address,
        libc::SYS_rseq,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_getcpu,
        libc::SYS_clock_gettime,
        libc::SYS_clock_getres,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
        libc::SYS_gettimeofday,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_restart_syscall,
        // Signals, of which traps of optimizers are some.
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_rt_sigtimedwait,
        libc::SYS_sigaltstack,
        // Who am I.
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_getppid,
        libc::SYS_getuid,
        libc::SYS_geteuid,
        libc::SYS_getgid,
        libc::SYS_getegid,
        libc::SYS_uname,
        libc::SYS_sysinfo,
        libc::SYS_getrusage,
        libc::SYS_getrandom,
        // Connections that are there, and those that come.
        libc::SYS_accept4,
        libc::SYS_accept,
        libc::SYS_recvfrom,
        libc::SYS_recvmsg,
        libc::SYS_sendto,
        libc::SYS_sendmsg,
        libc::SYS_shutdown,
        libc::SYS_getsockname,
        libc::SYS_getpeername,
        libc::SYS_getsockopt,
        libc::SYS_setsockopt,
        libc::SYS_epoll_ctl,
        libc::SYS_epoll_pwait,
        libc::SYS_epoll_pwait2,
        libc::SYS_epoll_create1,
        libc::SYS_eventfd2,
        libc::SYS_ppoll,
        libc::SYS_pselect6,
        // Files; which ones is Landlock's matter.
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_readv,
        libc::SYS_writev,
        libc::SYS_pread64,
        libc::SYS_pwrite64,
        libc::SYS_lseek,
        libc::SYS_close,
        libc::SYS_close_range,
        libc::SYS_openat,
        libc::SYS_fstat,
        libc::SYS_newfstatat,
        libc::SYS_statx,
        libc::SYS_statfs,
        libc::SYS_fstatfs,
        libc::SYS_faccessat,
        libc::SYS_faccessat2,
        libc::SYS_readlinkat,
        libc::SYS_getdents64,
        libc::SYS_getcwd,
        libc::SYS_fsync,
        libc::SYS_fdatasync,
        libc::SYS_ftruncate,
        libc::SYS_fallocate,
        libc::SYS_fcntl,
        libc::SYS_flock,
        libc::SYS_dup,
        libc::SYS_dup3,
        libc::SYS_pipe2,
        libc::SYS_renameat,
        libc::SYS_renameat2,
        libc::SYS_unlinkat,
        libc::SYS_mkdirat,
        libc::SYS_linkat,
        libc::SYS_fchmod,
        libc::SYS_fchmodat,
        libc::SYS_utimensat,
        libc::SYS_umask,
        libc::SYS_copy_file_range,
        libc::SYS_sendfile,
        // For a process that was started before.
        libc::SYS_wait4,
        libc::SYS_waitid,
    ];

    /// The older ones, which newer architectures do not have.
    #[cfg(target_arch = "x86_64")]
    const OLDER: &[c_long] = &[
        libc::SYS_arch_prctl,
        libc::SYS_open,
        libc::SYS_stat,
        libc::SYS_lstat,
        libc::SYS_access,
        libc::SYS_readlink,
        libc::SYS_rename,
        libc::SYS_unlink,
        libc::SYS_mkdir,
        libc::SYS_rmdir,
        libc::SYS_link,
        libc::SYS_chmod,
        libc::SYS_poll,
        libc::SYS_epoll_wait,
        libc::SYS_dup2,
        libc::SYS_pipe,
        libc::SYS_time,
    ];

    #[cfg(not(target_arch = "x86_64"))]
    const OLDER: &[c_long] = &[];

    /// Requests to devices that are none: whether it is a terminal, and not to wait for a socket.
    const REQUESTS: [libc::Ioctl; 4] = [libc::FIONBIO, libc::FIOCLEX, libc::TCGETS, libc::FIONREAD];

    /// What a thread may set of itself: its name, and names of its memory.
    const OPTIONS: [i32; 3] = [libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_VMA];

    pub(super) fn allowed() -> Result<Rules, BackendError> {
        let argument = |index, operator, value| {
            SeccompRule::new(vec![SeccompCondition::new(index, SeccompCmpArgLen::Qword, operator, value)?])
        };
        let word = |index, value: u64| {
            SeccompRule::new(vec![SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?])
        };
        let mut rules: Rules = ALLOWED.iter().chain(OLDER).map(|&call| (call, Vec::new())).collect();
        // Threads, and no processes. How clone3 does it cannot be looked at; without it the C library takes clone.
        let thread = libc::CLONE_THREAD as u64;
        rules.insert(libc::SYS_clone, vec![argument(0, SeccompCmpOp::MaskedEq(thread), thread)?]);
        rules.insert(
            libc::SYS_ioctl,
            REQUESTS.iter().map(|&request| word(1, u64::from(request as u32))).collect::<Result<_, _>>()?,
        );
        rules.insert(libc::SYS_prctl, OPTIONS.iter().map(|&option| word(0, option as u64)).collect::<Result<_, _>>()?);
        // Limits are read and not set.
        rules.insert(libc::SYS_prlimit64, vec![argument(2, SeccompCmpOp::Eq, 0)?]);
        // To end itself, and nobody else.
        let own = u64::from(std::process::id());
        rules.insert(libc::SYS_tgkill, vec![word(0, own)?]);
        rules.insert(libc::SYS_rt_tgsigqueueinfo, vec![word(0, own)?]);
        Ok(rules)
    }

    pub(super) fn apply(rules: Rules) -> Result<(), seccompiler::Error> {
        let architecture: TargetArch = std::env::consts::ARCH.try_into()?;
        let allow = SeccompAction::Allow;
        // An error and not the process's end: a library that tries something else first goes on without it.
        let absent = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
        let filter: BpfProgram = SeccompFilter::new(rules, absent, allow, architecture)?.try_into()?;
        apply_filter_all_threads(&filter)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn what_would_lead_out_of_the_process_is_not_on_the_list() {
            let rules = allowed().expect("rules");
            for call in [
                libc::SYS_execve,
                libc::SYS_execveat,
                libc::SYS_clone3,
                libc::SYS_ptrace,
                libc::SYS_process_vm_readv,
                libc::SYS_process_vm_writev,
                libc::SYS_kill,
                libc::SYS_tkill,
                libc::SYS_pidfd_open,
                libc::SYS_pidfd_getfd,
                libc::SYS_socket,
                libc::SYS_connect,
                libc::SYS_bind,
                libc::SYS_listen,
                libc::SYS_mount,
                libc::SYS_umount2,
                libc::SYS_open_tree,
                libc::SYS_move_mount,
                libc::SYS_pivot_root,
                libc::SYS_chroot,
                libc::SYS_unshare,
                libc::SYS_setns,
                libc::SYS_init_module,
                libc::SYS_finit_module,
                libc::SYS_delete_module,
                libc::SYS_kexec_load,
                libc::SYS_bpf,
                libc::SYS_perf_event_open,
                libc::SYS_keyctl,
                libc::SYS_add_key,
                libc::SYS_request_key,
                libc::SYS_userfaultfd,
                libc::SYS_io_uring_setup,
                libc::SYS_memfd_create,
                libc::SYS_setuid,
                libc::SYS_setgid,
                libc::SYS_capset,
                libc::SYS_personality,
                libc::SYS_reboot,
                libc::SYS_swapon,
                libc::SYS_symlinkat,
                libc::SYS_mknodat,
                libc::SYS_fchown,
                libc::SYS_open_by_handle_at,
                libc::SYS_quotactl,
                libc::SYS_settimeofday,
                libc::SYS_seccomp,
            ] {
                assert!(!rules.contains_key(&call), "system call {call}");
            }
        }
    }
}
