//! Files of keys and certificates: on a full disk, empty, another user's, in a form that is not supported.

#![cfg(unix)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use common::server::{Scene, serve};
use common::{Folder, Run, component};

/// Runs the program where no file can have a byte: what a full disk does to it, without one.
fn run_on_a_full_disk(folder: &Folder, arguments: &str) -> Run {
    let mut command = Command::new("sh");
    command
        .args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_stepbox")])
        .args(arguments.split_whitespace())
        .current_dir(folder.path("."))
        .envs(common::allow_root());
    Run::of(command)
}

fn files(folder: &Folder, directory: &str) -> Vec<String> {
    let entries = fs::read_dir(folder.path(directory)).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_full_disk_leaves_no_part_of_a_key_or_certificate() {
    let folder = Folder::new();
    let refused = |arguments: &str| {
        let run = run_on_a_full_disk(&folder, arguments);
        assert_eq!(run.code(), 1, "{arguments}: {}", run.stderr());
        assert!(run.stderr().contains("cannot write"), "{arguments}: {}", run.stderr());
    };
    refused("key new --out publisher.key");
    assert!(files(&folder, ".").is_empty(), "{:?}", files(&folder, "."));
    folder.done("key new --out publisher.key");
    refused("ca init --directory ca");
    assert!(files(&folder, "ca").is_empty(), "{:?}", files(&folder, "ca"));
    folder.done("ca init --directory ca");
    refused("ca issue --directory ca --name worker-0");
    refused("ca revoke --directory ca");
    assert_eq!(files(&folder, "ca"), ["ca.key", "ca.pem"]);
    folder.done("ca issue --directory ca --name worker-0");
    folder.done("ca revoke --directory ca");
    let list = folder.read("ca/crl.pem");
    refused("ca revoke --directory ca --name worker-0");
    assert_eq!(folder.read("ca/crl.pem"), list);
}

/// The same on a file system of 16 KiB that is full. It is mounted in a namespace of its own and goes with it.
#[test]
fn a_file_system_that_is_full_leaves_no_part_of_a_key() {
    let folder = Folder::new();
    fs::create_dir(folder.path("small")).unwrap();
    let script = "set -e
        mount -t tmpfs -o size=16384 tmpfs small
        cd small
        head -c 16384 /dev/zero > filler
        echo mounted
        \"$1\" key new --out publisher.key 2>&1 || echo refused
        ls -A
        rm filler
        \"$1\" key new --out publisher.key > /dev/null
        ls -A";
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_stepbox")])
        .current_dir(folder.path("."))
        .output();
    let output = output.map(|output| (output.status.success(), String::from_utf8(output.stdout).unwrap()));
    match output {
        Ok((true, text)) => {
            let lines: Vec<_> = text.lines().filter(|line| !line.starts_with("error: ")).collect();
            assert_eq!(lines, ["mounted", "refused", "filler", "publisher.key", "publisher.key.pub"], "{text}");
            assert!(text.contains("No space left"), "{text}");
        }
        Ok((false, text)) if text.contains("mounted") => panic!("{text}"),
        other => eprintln!("SKIPPED: a file system cannot be mounted here: {other:?}"),
    }
}

#[test]
fn a_server_whose_first_start_met_a_full_disk_starts_when_there_is_room() {
    let mut scene = Scene::new();
    scene.stop();
    fs::remove_dir_all(scene.folder.path("state")).unwrap();
    let run = run_on_a_full_disk(&scene.folder, "serve --config server.toml");
    assert_eq!(run.code(), 1, "{}", run.stderr());
    assert!(run.stderr().contains("audit.key"), "{}", run.stderr());
    assert!(!scene.folder.path("state/audit.key").exists(), "{:?}", files(&scene.folder, "state"));
    (scene.server, scene.address) = serve(&scene.folder, &[]);
    scene.stop();

    // As an older Stepbox has left it, in vain.
    fs::write(scene.folder.path("state/audit.key"), "").unwrap();
    let run = scene.folder.run("serve --config server.toml");
    assert_eq!(run.code(), 1);
    assert!(run.stderr().contains("audit.key is empty") && run.stderr().contains("remove it"), "{}", run.stderr());
    fs::remove_file(scene.folder.path("state/audit.key")).unwrap();
    (scene.server, scene.address) = serve(&scene.folder, &[]);
}

#[test]
fn empty_keys_and_keys_in_other_forms_are_told_apart() {
    let folder = Folder::new();
    folder.write("adamw.wasm", component("adamw"));
    folder.done("ca init --directory ca");
    folder.done("key new --out good.key");
    let good = folder.read("good.key");
    for (content, words) in [
        (String::new(), "bad.key is empty"),
        (good.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"), "openssl pkey -in FILE -out NEW"),
        (good.replace("PRIVATE KEY", "OPENSSH PRIVATE KEY"), "stepbox key new"),
        (folder.read("ca/ca.key"), "of another kind"),
        (folder.read("good.key.pub"), "it is a public key"),
    ] {
        folder.write("bad.key", content);
        fs::set_permissions(folder.path("bad.key"), fs::Permissions::from_mode(0o600)).unwrap();
        let run = folder.run("sign adamw.wasm --key bad.key --name adamw --version 1.0.0 --out x.wasm");
        assert_eq!(run.code(), 1, "{words}");
        assert!(run.stderr().contains(words) && run.stderr().contains("bad.key"), "{words}: {}", run.stderr());
    }
    folder.write("ca/ca.key", "");
    let run = folder.run("ca issue --directory ca --name worker-0");
    assert!(run.code() == 1 && run.stderr().contains("ca.key is empty"), "{}", run.stderr());
}

#[test]
fn another_users_key_signs_nothing() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can give a file to another user");
        return;
    }
    let folder = Folder::new();
    folder.write("adamw.wasm", component("adamw"));
    folder.done("key new --out publisher.key");
    folder.done("ca init --directory ca");
    for (file, arguments) in [
        ("publisher.key", "sign adamw.wasm --key publisher.key --name adamw --version 1.0.0 --out x.wasm"),
        ("ca/ca.key", "ca issue --directory ca --name worker-0"),
    ] {
        std::os::unix::fs::chown(folder.path(file), Some(12_345), None).unwrap();
        let run = folder.run(arguments);
        assert_eq!(run.code(), 1, "{file}");
        assert!(run.stderr().contains("belongs to user 12345"), "{file}: {}", run.stderr());
        std::os::unix::fs::chown(folder.path(file), Some(0), None).unwrap();
        folder.done(arguments);
    }
}

#[test]
fn a_certificate_that_is_elsewhere_is_asked_for() {
    let folder = Folder::new();
    folder.done("ca init --directory ca");
    folder.done("ca issue --directory ca --name worker-0 --out certificates");
    let run = folder.run("ca revoke --directory ca --name worker-0");
    assert_eq!(run.code(), 1);
    assert!(run.stderr().contains("--certificate FILE"), "{}", run.stderr());
    folder.done("ca revoke --directory ca --certificate certificates/worker-0.pem");
}

#[test]
fn two_servers_do_not_share_a_state_directory_also_without_an_audit_log() {
    let mut scene = Scene::configured("[audit]\nenabled = false");
    let run = scene.folder.run("serve --config server.toml");
    assert_eq!(run.code(), 1);
    assert!(run.stderr().contains("another server uses the state directory"), "{}", run.stderr());
    assert!(run.stderr().contains("state"), "{}", run.stderr());
    // Killed, it has given the directory back.
    scene.server.kill().unwrap();
    scene.server.wait().unwrap();
    (scene.server, scene.address) = serve(&scene.folder, &[]);
}
