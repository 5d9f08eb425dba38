//! What a real server's process has given up, as the kernel tells from outside.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::thread;

use common::server::{Scene, serve};
use common::{allow_root, mode};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use serde_json::Value;
use stepbox_test_skip::skip;

/// A field of `/proc/PID/status`.
fn field(process: u32, thread: Option<&str>, name: &str) -> String {
    let path = match thread {
        Some(thread) => format!("/proc/{process}/task/{thread}/status"),
        None => format!("/proc/{process}/status"),
    };
    let status = fs::read_to_string(path).unwrap();
    let line = status.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap_or_else(|| panic!("{status}"));
    line.split_once(':').unwrap().1.trim().to_owned()
}

fn is_active(status: &Value, name: &str) -> bool {
    let protections = status["protections"].as_array().unwrap();
    let protection = protections.iter().find(|protection| protection["name"] == name);
    protection.unwrap_or_else(|| panic!("{status}"))["active"].as_bool().unwrap()
}

#[test]
fn the_kernel_confirms_what_the_status_says() {
    let mut scene = Scene::new();
    let (alice, bob) = (scene.connection("alice"), scene.connection("bob"));
    let status = scene.folder.done(&format!("status {bob} --json")).json();
    let process = scene.server.id();
    assert_eq!(is_active(&status, "user"), allow_root().is_none());
    assert!(is_active(&status, "core-dumps"));
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");

    if !is_active(&status, "seccomp") {
        skip("this kernel has no seccomp: that it holds in every thread cannot be seen");
    } else {
        // Threads for this deployment start after the filter is in force.
        scene.folder.done(&format!("deploy adamw-1.0.0.wasm {alice}"));
        let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
        let threads: Vec<_> = threads.map(|thread| thread.unwrap().file_name().into_string().unwrap()).collect();
        assert!(threads.len() > 2, "{threads:?}");
        for thread in threads.iter().map(|thread| Some(thread.as_str())).chain([None]) {
            assert_eq!(field(process, thread, "Seccomp"), "2");
            assert_eq!(field(process, thread, "NoNewPrivs"), "1");
        }
    }
    let text = scene.folder.done(&format!("status {bob}")).stdout();
    assert!(text.contains("landlock:") && text.contains("seccomp:"), "{text}");
    assert_eq!(mode(&scene.folder.path("state")), 0o700);

    let (_, log) = scene.stop();
    let told = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let told: Vec<_> = told.filter_map(|line| line["protection"].as_str().map(str::to_owned)).collect();
    assert_eq!(told, ["user", "core-dumps", "compiler", "landlock", "memory-lock", "seccomp"]);
    let start = scene.folder.read("state/audit/audit-000001.jsonl");
    assert!(start.lines().next().unwrap().contains("\"protections\":\""), "{start}");
}

#[test]
fn a_confined_server_trains_reloads_its_files_and_starts_again() {
    let mut scene = Scene::configured("[process]\nsandbox = 'try'\n");
    let (alice, bob) = (scene.connection("alice"), scene.connection("bob"));
    scene.folder.done(&format!("deploy adamw-1.0.0.wasm {alice}"));
    // As an editor does it: a new file in the old one's place.
    let trust = scene.folder.read("publisher.toml");
    scene.folder.publisher("other");
    scene.folder.write("publisher.new", scene.folder.read("other.toml"));
    fs::rename(scene.folder.path("publisher.new"), scene.folder.path("publisher.toml")).unwrap();
    let deploy = format!("deploy adamw-1.1.0.wasm {alice}");
    assert_eq!(scene.folder.run(&deploy).code(), 13);
    scene.folder.write("publisher.new", trust);
    fs::rename(scene.folder.path("publisher.new"), scene.folder.path("publisher.toml")).unwrap();
    scene.folder.done(&deploy);

    let log = scene.restart(&[]);
    assert!(!log.contains("Permission denied") && !log.contains("os error"), "{log}");
    let (alice, status) = (scene.connection("alice"), scene.connection("bob"));
    scene.folder.done(&format!("deploy adamw-1.1.0.wasm {alice}"));
    let status = scene.folder.done(&format!("status {status} --json")).json();
    assert_eq!(status["optimizer"]["version"], "1.1.0");
    drop(bob);
}

#[test]
fn a_confined_server_reads_each_file_wherever_its_folder_is() {
    let mut scene = Scene::configured("");
    scene.stop();
    scene.folder.done("ca revoke --directory ca --name carol");
    for (folder, file) in [("lists", "ca/crl.pem"), ("blue", "publisher.toml"), ("green", "publisher.toml")] {
        let folder = scene.folder.path(folder);
        fs::create_dir(&folder).unwrap();
        fs::copy(scene.folder.path(file), folder.join("file")).unwrap();
    }
    let configuration = scene.folder.read("server.toml");
    let configuration = configuration
        .replace("[tls]\n", "[tls]\nreload_seconds = 0.1\nrevocation_lists = ['lists/file']\n")
        .replace("[job]\n", "[job]\ntrust = { store = 'green/file' }\n");
    let blue = "[jobs.blue]\nworkers = ['worker-0']\n[jobs.blue.access]\npublishers = ['alice']\n\
                deployers = ['alice']\noperators = ['bob']\n[jobs.blue.trust]\nstore = 'blue/file'\n";
    scene.folder.write("server.toml", format!("{configuration}\n{blue}"));
    (scene.server, scene.address) = serve(&scene.folder, &[]);
    let (alice, bob) = (scene.connection("alice"), scene.connection("bob"));
    let carol = scene.folder.run(&format!("status {}", scene.connection("carol")));
    assert_eq!(carol.code(), 4, "she is on the list: {}", carol.stderr());
    let replace = |name: &str, content: &str| {
        scene.folder.write("new", content);
        fs::rename(scene.folder.path("new"), scene.folder.path(name)).unwrap();
    };
    scene.folder.publisher("other");
    for (job, store) in [("default", "green/file"), ("blue", "blue/file")] {
        let deploy = |version: &str| format!("deploy adamw-{version}.wasm {alice} --job {job}");
        scene.folder.done(&deploy("1.0.0"));
        // Read again, too.
        let trust = scene.folder.read(store);
        replace(store, &scene.folder.read("other.toml"));
        assert_eq!(scene.folder.run(&deploy("1.1.0")).code(), 13, "somebody else is trusted");
        replace(store, &trust);
        scene.folder.done(&deploy("1.1.0"));
    }
    let status = scene.folder.done(&format!("status {bob} --json")).json();
    assert_eq!(status["warnings"].as_array().map_or(0, Vec::len), 0, "{status}");
    let (_, log) = scene.stop();
    assert!(!log.contains("Permission denied"), "{log}");
}

#[test]
fn state_that_others_can_write_to_keeps_the_server_from_starting() {
    let mut scene = Scene::new();
    scene.folder.done(&format!("deploy adamw-1.0.0.wasm {}", scene.connection("alice")));
    scene.stop();
    for name in ["state", "state/audit", "state/versions.toml", "state/components", "state/components/index.toml"] {
        let path = scene.folder.path(name);
        let before = mode(&path);
        for exposed in [0o020, 0o002] {
            fs::set_permissions(&path, fs::Permissions::from_mode(before | exposed)).unwrap();
            let run = scene.folder.run("serve --config server.toml");
            assert_eq!(run.code(), 1, "{name}");
            assert!(run.stderr().contains("chmod go-w") && run.stderr().contains(name), "{name}: {}", run.stderr());
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(before)).unwrap();
    }
    (scene.server, scene.address) = serve(&scene.folder, &[]);
}

#[test]
fn who_takes_the_process_over_gets_no_further() {
    let scene = Scene::new();
    let run = scene.folder.run("protections --config server.toml --json");
    let report: Value = serde_json::from_str(run.stdout().lines().next().unwrap()).unwrap();
    if !(is_active(&report, "landlock") && is_active(&report, "seccomp")) {
        assert_eq!(run.code(), 1, "not prevented, and said so");
        return skip("this kernel has no Landlock or no seccomp");
    }
    assert_eq!(run.code(), 0, "{report}");
    let attempts = report["attempts"].as_array().unwrap();
    assert!(attempts.len() >= 7 && attempts.iter().all(|attempt| attempt["prevented"] == true), "{report}");

    // That these attempts succeed where nothing prevents them.
    let configuration = scene.folder.read("server.toml");
    scene.folder.write("off.toml", format!("{configuration}\n[process]\nsandbox = 'off'\n"));
    let run = scene.folder.run("protections --config off.toml --json");
    let report: Value = serde_json::from_str(run.stdout().lines().next().unwrap()).unwrap();
    assert_eq!(run.code(), 1);
    assert!(!is_active(&report, "landlock") && !is_active(&report, "seccomp"));
    let attempts = report["attempts"].as_array().unwrap();
    assert!(attempts.iter().all(|attempt| attempt["prevented"] == false), "{report}");
}

/// Runs a command as on a kernel without Landlock: the system call that looks for it is not there, by a filter that the
/// command inherits from the thread that starts it. `None` where the kernel has no seccomp for this.
fn without_landlock(mut command: Command) -> Option<Output> {
    let no_call = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let target = std::env::consts::ARCH.try_into().unwrap();
    let landlock = [(libc::SYS_landlock_create_ruleset, Vec::new())].into();
    let filter: BpfProgram =
        SeccompFilter::new(landlock, SeccompAction::Allow, no_call, target).unwrap().try_into().unwrap();
    thread::spawn(move || apply_filter(&filter).ok().map(|()| command.output().unwrap())).join().unwrap()
}

#[test]
fn what_is_required_and_can_be_had_is_in_force() {
    let scene = Scene::configured("[process]\nsandbox = 'require'\n");
    let status = scene.folder.done(&format!("status {} --json", scene.connection("bob"))).json();
    // The server has started, so it must have both, on any kernel.
    assert!(is_active(&status, "landlock") && is_active(&status, "seccomp"), "{status}");
    assert_eq!(field(scene.server.id(), None, "Seccomp"), "2");
}

#[test]
fn what_is_required_and_cannot_be_had_keeps_the_server_from_starting() {
    let scene = Scene::new();
    let configuration = scene.folder.read("server.toml");
    for (sandbox, name) in [("require", "required.toml"), ("try", "tried.toml")] {
        scene.folder.write(name, format!("{configuration}\n[process]\nsandbox = '{sandbox}'\n"));
    }
    match without_landlock(scene.folder.command(["serve", "--config", "required.toml"])) {
        None => skip("this kernel has no seccomp, by which a kernel without Landlock is imitated"),
        Some(run) => {
            assert_eq!(run.status.code(), Some(1), "{run:?}");
            let said = String::from_utf8_lossy(&run.stderr);
            assert!(said.contains("process.sandbox is \"require\": landlock: this kernel has none"), "{said}");
        }
    }
    // Tried, it goes on without, and the report says which protection is missing and why.
    if let Some(run) = without_landlock(scene.folder.command(["protections", "--config", "tried.toml", "--json"])) {
        let report: Value = serde_json::from_slice(run.stdout.split(|byte| *byte == b'\n').next().unwrap()).unwrap();
        assert!(!is_active(&report, "landlock"), "{report}");
        let reason = report["protections"].as_array().unwrap().iter().find(|it| it["name"] == "landlock").unwrap();
        assert!(reason["detail"].as_str().unwrap().contains("this kernel has no Landlock"), "{report}");
        assert_eq!(run.status.code(), Some(1), "what is not prevented is an error");
    }
    scene.folder.write("wrong.toml", format!("{configuration}\n[process]\nsandbox = 'perhaps'\n"));
    let run = scene.folder.run("serve --config wrong.toml");
    assert_eq!(run.code(), 1);
    assert!(run.stderr().contains("perhaps"), "{}", run.stderr());
}

#[test]
fn root_is_refused_unless_it_is_meant() {
    if allow_root().is_none() {
        return skip("only root is refused, and the tests do not run as root");
    }
    let mut scene = Scene::new();
    let mut server = scene.folder.command(["serve", "--config", "server.toml"]);
    let run = server.env_remove("STEPBOX_ALLOW_ROOT").output().unwrap();
    assert_eq!(run.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&run.stderr).contains("--allow-root"));
    scene.stop();

    let run = |arguments: &[&str]| {
        let mut command = scene.folder.command(["protections", "--config", "server.toml"]);
        let run = command.args(arguments).env_remove("STEPBOX_ALLOW_ROOT").output().unwrap();
        String::from_utf8_lossy(&run.stderr).contains("--allow-root")
    };
    assert!(run(&[]) && !run(&["--allow-root"]));
    let configuration = scene.folder.read("server.toml");
    scene.folder.write("server.toml", format!("{configuration}\n[process]\nallow_root = true\n"));
    assert!(!run(&[]));
}

#[test]
fn an_audit_log_that_others_could_read_is_the_servers_alone() {
    let mut scene = Scene::new();
    scene.folder.done(&format!("deploy adamw-1.0.0.wasm {}", scene.connection("alice")));
    scene.stop();
    for (path, expected) in [("state/audit.key", 0o600), ("state/audit", 0o700), ("state/versions.toml", 0o600)] {
        assert_eq!(mode(&scene.folder.path(path)), expected, "{path}");
    }
    fs::set_permissions(scene.folder.path("state/audit.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let run = scene.folder.run("serve --config server.toml");
    assert_eq!(run.code(), 1);
    assert!(run.stderr().contains("mode 0644"), "{}", run.stderr());
    fs::set_permissions(scene.folder.path("state/audit.key"), fs::Permissions::from_mode(0o600)).unwrap();
    (scene.server, scene.address) = serve(&scene.folder, &[]);
}
