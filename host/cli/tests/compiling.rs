//! Components that take too much to compile are stopped, and the process that wanted them compiled goes on. Brokers and
//! workers are the real program's, ended by real signals.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use common::{Folder, component};
use stepbox_corpus::bombs;
use stepbox_sandbox::{
    Broker, CompileCache, CompileLimit, Compiler, CompilerLimits, Confinement, DEFAULT_CACHE_BYTES,
    DEFAULT_CACHE_ENTRIES, Fault, Forbidden, LocalTensor, LocalTraining, MIN_COMPILER_MEMORY_BYTES, Miss, Origin,
    Sandbox, SandboxConfig, SandboxError, StepContext, TensorDescription,
};
use stepbox_test_skip::skip;

const PROGRAM: &str = env!("CARGO_BIN_EXE_stepbox");

/// So much that only what is told otherwise is reached.
const PLENTY: CompilerLimits = CompilerLimits {
    memory_bytes: 16 << 30,
    processor_seconds: 3600,
    deadline_milliseconds: 3_600_000,
    code_bytes: 1 << 30,
};

fn broker(limits: CompilerLimits) -> Arc<Broker> {
    Arc::new(Broker::start_program(Path::new(PROGRAM), limits, Confinement::Try).unwrap())
}

fn sandbox(broker: &Arc<Broker>) -> Sandbox {
    Sandbox::new(SandboxConfig::default()).unwrap().with_compiler(Compiler::Broker(Arc::clone(broker)))
}

fn refused(sandbox: &Sandbox, component: &[u8]) -> SandboxError {
    match sandbox.admit(component) {
        Ok(_) => panic!("it was admitted"),
        Err(error) => error,
    }
}

/// The limit that is reached, after which an honest component is compiled by the same broker.
fn reached(limits: CompilerLimits, component: &[u8]) -> CompileLimit {
    let broker = broker(limits);
    let process = broker.process_id();
    let sandbox = sandbox(&broker);
    let error = refused(&sandbox, component);
    assert_eq!(error.fault(), Fault::Publisher, "{error}");
    let SandboxError::CompileLimit(limit) = error else { panic!("another error: {error}") };
    if !matches!(limit, CompileLimit::Code { .. } | CompileLimit::Deadline { .. }) {
        sandbox.admit(&common::component("sgd")).unwrap();
    }
    assert_eq!(broker.process_id(), process, "the broker goes on");
    limit
}

fn signal(process: u32, signal: &str) {
    assert!(Command::new("kill").args([signal, &process.to_string()]).status().unwrap().success());
}

/// The child of a process, once it has one.
fn child_of(parent: u32) -> u32 {
    let has_parent = |process: &u32| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        after_name.split_whitespace().nth(1) == Some(&parent.to_string())
    };
    loop {
        let mut processes =
            fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        if let Some(child) = processes.find(has_parent) {
            return child;
        }
        thread::yield_now();
    }
}

/// A worker that has limited itself, which it has before it reads: processes are what it takes from itself last.
fn worker_of(broker: u32) -> u32 {
    let worker = child_of(broker);
    let limited = || limits_of(worker).iter().any(|(name, soft)| name == "Max processes" && soft == "0");
    while !limited() {
        thread::yield_now();
    }
    worker
}

/// The soft limits of a process, by name.
fn limits_of(process: u32) -> Vec<(String, String)> {
    let text = fs::read_to_string(format!("/proc/{process}/limits")).unwrap_or_default();
    let row =
        |line: &str| Some((line.get(..25)?.trim().to_owned(), line.get(25..)?.split_whitespace().next()?.to_owned()));
    text.lines().skip(1).filter_map(row).collect()
}

fn has_ended(process: u32) -> bool {
    // A process that nobody has asked after yet is still listed, as a zombie.
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_none_or(|rest| rest.trim().is_empty() || rest.trim_start().starts_with('Z'))
}

fn trained(sandbox: &Sandbox) -> Vec<u32> {
    let admitted = sandbox.admit(&component("adamw")).unwrap();
    let settings = admitted.configure(None, &[]).unwrap();
    let description = TensorDescription { name: "weights".into(), shape: vec![5000], ..TensorDescription::default() };
    let tensor = LocalTensor { description, settings, parameters: vec![0.5; 5000] };
    let mut training = LocalTraining::new(&admitted, vec![tensor], 5000).unwrap();
    let gradient: Vec<f32> = (0..5000).map(|index| index as f32 / 5000.0 - 0.3).collect();
    for round in 1..=3 {
        let context = StepContext {
            step: round,
            tensor_step: round,
            learning_rate: 0.01,
            peak_learning_rate: 0.01,
            contributors: 1,
            staleness: 0,
            loss: None,
            seed: 0,
        };
        training.round(&context, &[&gradient]).unwrap();
    }
    training.parameters(0).unwrap().iter().map(|value| value.to_bits()).collect()
}

#[test]
fn what_a_worker_compiles_trains_to_the_same_bits_as_what_this_process_compiles() {
    let in_process = Sandbox::new(SandboxConfig::default()).unwrap();
    assert_eq!(trained(&sandbox(&broker(CompilerLimits::default()))), trained(&in_process));
}

#[test]
fn a_component_that_takes_too_much_memory_to_compile_is_stopped() {
    let limits = CompilerLimits { memory_bytes: MIN_COMPILER_MEMORY_BYTES, ..PLENTY };
    assert_eq!(reached(limits, &bombs::endless()), CompileLimit::Memory { bytes: MIN_COMPILER_MEMORY_BYTES });
}

#[test]
fn a_component_that_takes_too_much_processor_time_to_compile_is_stopped() {
    let limits = CompilerLimits { processor_seconds: 1, ..PLENTY };
    assert_eq!(reached(limits, &bombs::endless()), CompileLimit::ProcessorTime { seconds: 1 });
}

#[test]
fn a_component_that_takes_too_long_to_compile_is_stopped() {
    let limits = CompilerLimits { deadline_milliseconds: 50, ..PLENTY };
    assert_eq!(reached(limits, &bombs::endless()), CompileLimit::Deadline { milliseconds: 50 });
}

#[test]
fn a_component_with_too_much_native_code_is_refused() {
    let limits = CompilerLimits { code_bytes: 100_000, ..PLENTY };
    assert_eq!(reached(limits, &component("adamw")), CompileLimit::Code { bytes: 100_000 });
}

#[test]
fn a_worker_that_is_killed_is_told_from_one_that_took_too_much() {
    let broker = broker(PLENTY);
    let sandbox = sandbox(&broker);
    let process = broker.process_id();
    let error = thread::scope(|scope| {
        let refusal = scope.spawn(|| refused(&sandbox, &bombs::endless()));
        signal(worker_of(process), "-KILL");
        refusal.join().unwrap()
    });
    assert!(matches!(error, SandboxError::CompilerKilled(_)), "{error}");
    assert_eq!(error.fault(), Fault::Operator);
    sandbox.admit(&component("sgd")).unwrap();
}

#[test]
fn a_broker_that_is_killed_takes_its_worker_along_and_is_started_anew() {
    let broker = broker(PLENTY);
    let sandbox = sandbox(&broker);
    let process = broker.process_id();
    thread::scope(|scope| {
        let refusal = scope.spawn(|| refused(&sandbox, &bombs::endless()));
        let worker = worker_of(process);
        signal(process, "-KILL");
        while !has_ended(worker) {
            thread::yield_now();
        }
        // The same request, in the hands of another broker.
        while broker.process_id() == process {
            thread::yield_now();
        }
        signal(worker_of(broker.process_id()), "-KILL");
        let error = refusal.join().unwrap();
        assert!(matches!(error, SandboxError::CompilerKilled(_)), "{error}");
    });
    sandbox.admit(&component("sgd")).unwrap();
    assert_ne!(broker.process_id(), process);
}

/// A broker whose program is not there any more: it cannot be started anew.
fn broker_without_program() -> Arc<Broker> {
    let folder = Folder::new();
    let program = folder.path("program");
    fs::copy(PROGRAM, &program).unwrap();
    Arc::new(Broker::start_program(&program, PLENTY, Confinement::Try).unwrap())
}

#[test]
fn a_replaced_program_goes_on_and_a_lost_broker_that_cannot_be_started_says_so() {
    let broker = broker_without_program();
    let sandbox = sandbox(&broker);
    // The broker starts workers of the program that it is, whatever has become of the file.
    sandbox.admit(&component("sgd")).unwrap();

    signal(broker.process_id(), "-KILL");
    let error = refused(&sandbox, &component("adamw"));
    assert_eq!(error.fault(), Fault::Server);
    assert!(error.to_string().contains("restart the server"), "{error}");
}

#[test]
fn what_is_forbidden_never_reaches_the_compiler() {
    let broker = broker_without_program();
    let sandbox = sandbox(&broker);
    signal(broker.process_id(), "-KILL");
    // There is no compiler any more, and none is missed.
    let error = refused(&sandbox, &bombs::nested_loops(10, 5_000));
    assert!(matches!(error, SandboxError::Forbidden(Forbidden::TooMany { limit: "block_depth", .. })), "{error}");
}

#[test]
fn a_worker_has_no_environment_and_no_descriptors_but_its_pipes_and_has_limited_itself() {
    let folder = Folder::new();
    folder.write("hidden", "secret");
    let hidden = folder.path("hidden");
    // Whoever starts a server may leave descriptors open to it.
    let script = format!("#!/bin/sh\nexec 7<'{}'\nLEAK=1 exec '{PROGRAM}' \"$@\"\n", hidden.display());
    folder.write("leaking", script);
    fs::set_permissions(folder.path("leaking"), fs::Permissions::from_mode(0o755)).unwrap();
    let limits = CompilerLimits { memory_bytes: 3 << 30, processor_seconds: 4000, ..PLENTY };
    let broker = Arc::new(Broker::start_program(&folder.path("leaking"), limits, Confinement::Try).unwrap());
    let sandbox = sandbox(&broker);
    let process = broker.process_id();
    thread::scope(|scope| {
        let refusal = scope.spawn(|| refused(&sandbox, &bombs::endless()));
        let worker = worker_of(process);
        assert!(fs::read_link(format!("/proc/{process}/fd/7")).is_ok_and(|path| path == hidden), "the broker has it");
        let mut open: Vec<_> = fs::read_dir(format!("/proc/{worker}/fd"))
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let target = fs::read_link(entry.path()).unwrap();
                (entry.file_name().into_string().unwrap(), target.to_string_lossy().starts_with("pipe:"))
            })
            .collect();
        open.sort();
        assert_eq!(open, ["0", "1", "2"].map(|number| (number.to_owned(), true)));
        assert_eq!(fs::read(format!("/proc/{worker}/environ")).unwrap(), b"");
        assert_eq!(fs::read_link(format!("/proc/{worker}/cwd")).unwrap(), Path::new("/"));
        let held = limits_of(worker);
        for (name, limit) in [
            ("Max address space", "3221225472"),
            ("Max cpu time", "4000"),
            ("Max core file size", "0"),
            ("Max file size", "0"),
            ("Max open files", "16"),
            ("Max processes", "0"),
        ] {
            assert!(held.contains(&(name.to_owned(), limit.to_owned())), "{name}: {held:?}");
        }
        signal(worker, "-KILL");
        refusal.join().unwrap();
    });
}

/// A field of `/proc/PID/status`; `None` where the kernel does not have it, or the process is gone.
fn status_of(process: u32, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

#[test]
fn a_worker_has_confined_itself_before_it_compiles() {
    if status_of(std::process::id(), "Seccomp_filters").is_none() {
        return skip("this kernel has no seccomp, or does not count filters (before Linux 5.9)");
    }
    // One that never confines itself ends by this, and not by hand.
    let broker = broker(CompilerLimits { processor_seconds: 20, ..PLENTY });
    let sandbox = sandbox(&broker);
    thread::scope(|scope| {
        let refusal = scope.spawn(|| refused(&sandbox, &bombs::endless()));
        let worker = child_of(broker.process_id());
        // In a container all processes may have a filter already: it must have one more than this one.
        let filters = |process| status_of(process, "Seccomp_filters").and_then(|count| count.parse::<u32>().ok());
        let own = filters(std::process::id());
        let is_confined = || filters(worker).is_none_or(|count| own.is_none_or(|own| count > own));
        while !is_confined() {
            thread::yield_now();
        }
        assert!(filters(worker) > own, "{own:?}");
        assert_eq!(status_of(worker, "NoNewPrivs").as_deref(), Some("1"));
        signal(worker, "-KILL");
        let error = refusal.join().unwrap();
        assert!(matches!(error, SandboxError::CompilerKilled(_)), "{error}");
    });
}

/// Does something where the kernel has neither Landlock nor seccomp to offer to the processes that are started meanwhile.
/// `None` where even that takes a kernel with seccomp.
fn without_confinement<T: Send>(act: impl FnOnce() -> T + Send) -> Option<T> {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
    let absent = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let calls = [libc::SYS_landlock_create_ruleset, libc::SYS_seccomp].map(|call| (call, Vec::new()));
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(calls.into(), SeccompAction::Allow, absent, architecture).unwrap();
    let filter: BpfProgram = filter.try_into().unwrap();
    // It holds for this thread, and for what it starts.
    let confined = || apply_filter(&filter).is_ok().then(act);
    thread::scope(|scope| scope.spawn(confined).join().unwrap())
}

#[test]
fn what_cannot_be_confined_is_said_and_compiles_nothing_where_that_is_required() {
    let tried = without_confinement(|| {
        let start = |confinement| {
            Arc::new(Broker::start_program(Path::new(PROGRAM), CompilerLimits::default(), confinement).unwrap())
        };
        let (trying, requiring) = (start(Confinement::Try), start(Confinement::Require));
        for broker in [&trying, &requiring] {
            let reason = broker.probe().unwrap().unwrap_err();
            assert!(reason.contains("landlock") && reason.contains("seccomp"), "{reason}");
        }
        sandbox(&trying).admit(&component("sgd")).unwrap();
        let error = refused(&sandbox(&requiring), &component("sgd"));
        assert_eq!(error.fault(), Fault::Server);
        assert!(error.to_string().contains("required"), "{error}");
    });
    if tried.is_none() {
        eprintln!("not tried: this kernel has no seccomp to take away");
    }
}

#[test]
fn a_broker_has_its_limits_from_its_start_and_none_from_whoever_asks() {
    let run = |arguments: &[&str]| Command::new(PROGRAM).args(arguments).output().unwrap().status.code();
    let (bytes, code) = ((1_u64 << 30).to_string(), (1 << 20).to_string());
    for arguments in [
        &["compile-broker"][..],
        &["compile-broker", &bytes, "30", "60000", &code],
        &["compile-broker", "1", "30", "60000", &code, "try"],
        &["compile-broker", &bytes, "30", "60000", &code, "perhaps"],
    ] {
        assert_eq!(run(arguments), Some(2), "{arguments:?}");
    }
    // With all of them it waits for requests, of which none comes.
    assert_eq!(run(&["compile-broker", &bytes, "30", "60000", &code, "require"]), Some(0));
}

#[test]
fn a_confined_worker_compiles_every_optimizer_of_ours() {
    let broker = broker(CompilerLimits::default());
    let sandbox = sandbox(&broker);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests/components");
    let mut compiled = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "wasm") {
            let admitted = sandbox.admit(&fs::read(&path).unwrap());
            admitted.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            compiled += 1;
        }
    }
    assert!(compiled >= 28, "{compiled} optimizers; run `cargo xtask guests` first");
}

#[test]
fn a_broker_that_answers_late_is_kept_and_its_late_answer_is_thrown_away() {
    let broker = broker(CompilerLimits { deadline_milliseconds: 10_000, ..PLENTY });
    let process = broker.process_id();
    let sandbox = sandbox(&broker);
    signal(process, "-STOP");
    let error = refused(&sandbox, &component("adamw"));
    assert_eq!(error.fault(), Fault::Server);
    assert!(error.to_string().contains("does not answer in time"), "{error}");
    signal(process, "-CONT");
    // What comes first is what the other component was compiled to.
    let admitted = sandbox.admit(&component("sgd")).unwrap();
    assert_eq!(admitted.description().name, "sgd");
    assert_eq!(broker.process_id(), process, "the same broker");
}

#[test]
fn what_a_worker_compiled_is_kept_and_a_planted_entry_is_compiled_anew() {
    let folder = Folder::new();
    let origin = || {
        let cache = CompileCache::open(folder.path("compiled"), DEFAULT_CACHE_ENTRIES, DEFAULT_CACHE_BYTES).unwrap();
        let sandbox = sandbox(&broker(CompilerLimits::default())).with_cache(cache);
        sandbox.admit(&component("sgd")).unwrap().admission().origin.clone()
    };
    assert_eq!(origin(), Origin::Compiled(Some(Miss::Absent)));
    assert_eq!(origin(), Origin::Cached);
    let mut entries = fs::read_dir(folder.path("compiled")).unwrap().map(|entry| entry.unwrap().path());
    let entry = entries.find(|path| path.extension().is_some_and(|name| name == "native")).unwrap();
    let mut bytes = fs::read(&entry).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&entry, bytes).unwrap();
    assert_eq!(origin(), Origin::Compiled(Some(Miss::NotAuthentic)));
}

#[test]
fn a_broker_with_a_limit_out_of_range_does_not_start() {
    for limits in [
        CompilerLimits { memory_bytes: MIN_COMPILER_MEMORY_BYTES - 1, ..PLENTY },
        CompilerLimits { processor_seconds: 0, ..PLENTY },
        CompilerLimits { deadline_milliseconds: u64::MAX, ..PLENTY },
    ] {
        let error = Broker::start_program(Path::new(PROGRAM), limits, Confinement::Try).unwrap_err().to_string();
        assert!(error.contains("compiler.") && error.contains("must be from"), "{error}");
    }
}
