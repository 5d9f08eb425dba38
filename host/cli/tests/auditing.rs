//! The audit log of a real server, and what `audit verify` and `audit tail` say of it.

mod common;

use std::fs;
use std::process::{Command, Stdio};

use common::Folder;
use common::server::{Scene, serve};
use serde_json::Value;

/// The lines of the log, as `audit tail` gives them.
fn lines(folder: &Folder) -> Vec<Value> {
    let tail = folder.done("audit tail state/audit --lines 10000 --json").stdout();
    tail.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Fields of all lines with this action, each with its outcome.
fn of_action<'a>(lines: &'a [Value], action: &str) -> Vec<(&'a str, &'a Value)> {
    lines.iter().filter(|line| line["action"] == action).map(|line| (line["outcome"].as_str().unwrap(), line)).collect()
}

#[test]
fn every_decision_has_its_line() {
    let mut scene = Scene::new();
    let (alice, bob, worker) = (scene.connection("alice"), scene.connection("bob"), scene.connection("worker-0"));
    let deployed = scene.folder.done(&format!("deploy adamw-1.1.0.wasm {alice} --json")).json();
    scene.folder.done(&format!("schedule --set learning_rate=0.1 {alice}"));
    for (refused, code) in [
        (format!("deploy adamw-1.0.0.wasm {alice}"), 14),
        (format!("deploy adamw-1.1.0.wasm {bob}"), 20),
        (format!("schedule --set learning_rate=0.1 {bob}"), 20),
        (format!("status {worker}"), 20),
    ] {
        assert_eq!(scene.folder.run(&refused).code(), code, "{refused}");
    }
    // A stranger of another authority, and one of ours who has no part here.
    scene.folder.done("ca init --directory other");
    scene.folder.done("ca issue --directory other --name mallory");
    scene.folder.done("ca issue --directory ca --name nobody");
    let address = scene.address.clone();
    let other = "--ca ca/ca.pem --certificate other/mallory.pem --key other/mallory.key";
    assert_eq!(scene.folder.run(&format!("status --server {address} {other}")).code(), 4);
    assert_eq!(scene.folder.run(&format!("status {}", scene.connection("nobody"))).code(), 20);
    let status = scene.folder.done(&format!("status {bob} --json")).json();
    let anchor = format!("{}:{}", status["audit"]["line"], status["audit"]["head"].as_str().unwrap());
    scene.stop();

    let lines = lines(&scene.folder);
    let digest = &deployed["optimizer"]["digest"];
    let [(_, start)] = of_action(&lines, "start")[..] else { panic!("{lines:?}") };
    let configuration = stepbox_trust::Digest::of(scene.folder.read("server.toml").as_bytes()).to_string();
    assert_eq!(start["details"]["configuration"], configuration);
    assert_eq!((start["sequence"].as_u64(), start["server"].as_str()), (Some(1), Some("server")));
    assert_eq!(lines.last().unwrap()["action"], "stop");
    let deployments = of_action(&lines, "deploy");
    let outcomes: Vec<_> = deployments.iter().map(|(outcome, line)| (*outcome, line["identity"].as_str())).collect();
    let expected = [
        ("attempted", Some("alice")),
        ("allowed", Some("alice")),
        ("attempted", Some("alice")),
        ("refused", Some("alice")),
        ("refused", Some("bob")),
    ];
    assert_eq!(outcomes, expected);
    assert_eq!((&deployments[0].1["subject"], &deployments[1].1["subject"]), (digest, digest));
    assert_eq!(deployments[1].1["details"]["version"], "1.1.0");
    assert_eq!(deployments[3].1["code"], "untrusted");
    let schedules: Vec<_> = of_action(&lines, "schedule").iter().map(|(outcome, _)| *outcome).collect();
    assert_eq!(schedules, ["attempted", "allowed", "refused"]);
    let statuses: Vec<_> = of_action(&lines, "status").iter().map(|(outcome, _)| *outcome).collect();
    // A status is one question and one for each list that belongs to it.
    assert_eq!(statuses, ["refused", "allowed", "allowed", "allowed"]);
    let [(_, handshake)] = of_action(&lines, "handshake")[..] else { panic!("{lines:?}") };
    assert!(handshake["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    let connections = of_action(&lines, "connect");
    assert!(connections.iter().any(|(outcome, line)| *outcome == "refused" && line["identity"] == "nobody"));
    assert!(connections.iter().any(|(outcome, line)| *outcome == "allowed" && line["identity"] == "alice"));

    let verified = scene.folder.done(&format!("audit verify state/audit --anchor {anchor} --json")).json();
    assert_eq!((&verified["intact"], &verified["notes"]), (&true.into(), &Value::Array(Vec::new())));
    assert_eq!(verified["anchored"], status["audit"]["line"]);
}

#[test]
fn what_was_changed_is_refused_with_an_exit_code_of_its_own() {
    let mut scene = Scene::new();
    scene.folder.done(&format!("deploy adamw-1.0.0.wasm {}", scene.connection("alice")));
    scene.stop();
    let log = scene.folder.read("state/audit/audit-000001.jsonl");
    scene.folder.write("state/audit/audit-000001.jsonl", log.replace("\"alice\"", "\"mallory\""));
    let run = scene.folder.run("audit verify state/audit --json");
    assert_eq!(run.code(), 23, "{}", run.stderr());
    let report: Value = serde_json::from_str(run.stdout().lines().next().unwrap()).unwrap();
    assert_eq!(report["findings"][0]["kind"], "bad-signature");
    assert_eq!(scene.folder.run("audit verify state/audit").code(), 23);

    let whole: Vec<_> = log.lines().collect();
    scene.folder.write("state/audit/audit-000001.jsonl", whole[..whole.len() - 1].join("\n") + "\n");
    let run = scene.folder.run("audit verify state/audit");
    assert_eq!(run.code(), 23);
    assert!(run.stdout().contains("the anchor knows line"), "{}", run.stdout());
    // The head taken away, or the last line that is left in its place.
    let (path, head) = (scene.folder.path("state/audit/audit.head"), scene.folder.read("state/audit/audit.head"));
    std::fs::remove_file(&path).unwrap();
    for forged in [None, Some(whole[whole.len() - 2])] {
        if let Some(line) = forged {
            scene.folder.write("state/audit/audit.head", format!("{line}\n"));
        }
        let run = scene.folder.run("audit verify state/audit --json");
        assert_eq!(run.code(), 23, "{forged:?}: {}", run.stdout());
        assert!(run.stdout().contains("\"head-missing\""), "{}", run.stdout());
    }
    scene.folder.write("state/audit/audit.head", &head);
    scene.folder.write("state/audit/audit-000001.jsonl", &log);
    let run = scene.folder.done("audit verify state/audit");
    assert!(run.stdout().contains("cannot be excluded"), "{}", run.stdout());
    assert!(scene.folder.done("audit verify state/audit --json").json()["complete_through"].is_null());
    assert_eq!(scene.folder.run("audit verify state/audit --require-anchor").code(), 23);
    scene.folder.write("kept.head", head);
    let kept = scene.folder.done("audit verify state/audit --require-anchor --head kept.head --json").json();
    assert_eq!(kept["complete_through"], whole.len());
    assert_eq!(scene.folder.run("audit verify state").code(), 1);
    assert_eq!(scene.folder.run("audit verify state/audit --public-key publisher.key.pub").code(), 23);
}

#[test]
fn a_server_that_was_killed_leaves_a_log_that_holds_and_goes_on_with_it() {
    let mut scene = Scene::new();
    scene.folder.done(&format!("deploy adamw-1.0.0.wasm {}", scene.connection("alice")));
    let before = lines(&scene.folder);
    assert!(!of_action(&before, "deploy").is_empty());
    scene.server.kill().unwrap();
    scene.server.wait().unwrap();
    let report = scene.folder.done("audit verify state/audit --json").json();
    assert_eq!(report["notes"][0]["kind"], "not-closed");

    // In the middle of a line, as a power failure may leave it.
    let path = scene.folder.path("state/audit/audit-000001.jsonl");
    let mut log = fs::read(&path).unwrap();
    log.extend_from_slice(b"{\"sequence\":99,\"ti");
    fs::write(&path, &log).unwrap();
    (scene.server, scene.address) = serve(&scene.folder, &[]);
    scene.stop();
    let report = scene.folder.done("audit verify state/audit --json").json();
    let notes: Vec<_> = report["notes"].as_array().unwrap().iter().map(|note| note["kind"].as_str().unwrap()).collect();
    assert_eq!(notes, ["torn", "killed"]);
    assert!(fs::read(&path).unwrap().starts_with(&log));
}

#[test]
fn where_nothing_can_be_recorded_nothing_is_changed_and_the_server_goes_on() {
    let scene = Scene::configured("[audit]\nfile_bytes = 1000000000\n[cache]\nenabled = false\n");
    let (alice, bob) = (scene.connection("alice"), scene.connection("bob"));
    scene.folder.done(&format!("deploy adamw-1.0.0.wasm {alice}"));
    // As on a full disk: no file of this process may grow beyond what the log has now, and a little.
    let written = || std::fs::read_dir(scene.folder.path("state/audit")).unwrap().map(|file| file.unwrap().metadata());
    let size = written().map(|file| file.unwrap().len()).max().unwrap() + 2000;
    let process = scene.server.id().to_string();
    let limit = |bytes: &str| {
        let done = Command::new("prlimit").args([&format!("--fsize={bytes}:unlimited"), "--pid", &process]).status();
        assert!(done.unwrap().success());
    };
    limit(&size.to_string());
    let refused = loop {
        let run = scene.folder.run(&format!("schedule --set learning_rate=0.1 {alice} --json"));
        if run.code() != 0 {
            break run;
        }
    };
    assert_eq!((refused.code(), refused.json()["error"]["code"].as_str()), (21, Some("busy")));
    assert!(refused.stderr().contains("the audit log cannot be written"), "{}", refused.stderr());
    let run = scene.folder.run(&format!("deploy adamw-1.1.0.wasm {alice}"));
    assert_ne!(run.code(), 0, "{}", run.stderr());
    let status = scene.folder.done(&format!("status {bob} --json")).json();
    assert_eq!(status["optimizer"]["version"], "1.0.0");
    assert!(status["audit"]["failing"].is_string() && status["audit"]["lost"].as_u64() > Some(0), "{status}");
    scene.folder.done(&format!("status {bob}"));

    limit("unlimited");
    scene.folder.done(&format!("deploy adamw-1.1.0.wasm {alice}"));
    let status = scene.folder.done(&format!("status {bob} --json")).json();
    assert_eq!((&status["audit"]["failing"], &status["optimizer"]["version"]), (&Value::Null, &"1.1.0".into()));
    let report = scene.folder.done("audit verify state/audit --json").json();
    assert!(report["notes"].to_string().contains("lost"), "{report}");
}

#[test]
fn a_reader_follows_the_log_while_it_is_written() {
    let scene = Scene::new();
    let mut reader = scene.folder.command(["audit", "tail", "state/audit", "--follow", "--since", "1h"]);
    let mut reader = reader.stdout(Stdio::piped()).spawn().unwrap();
    let output = std::io::BufReader::new(reader.stdout.take().unwrap());
    scene.folder.done(&format!("deploy adamw-1.0.0.wasm {}", scene.connection("alice")));
    let found = std::io::BufRead::lines(output).any(|line| line.unwrap().contains("deploy by=alice"));
    assert!(found);
    reader.kill().unwrap();
    reader.wait().unwrap();
}
