//! The log of a real server on standard error, whatever standard error is and whatever is said to the server.

#![cfg(unix)]

mod common;

use std::fs::File;
use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Write, pipe};
use std::process::{Child, Command, Stdio};

use common::server::Scene;
use common::{Folder, component};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use serde_json::Value;
use stepbox_client::{Client, ClientConfig, ClientError, ErrorCode, Tensor};

/// The scene's server again, with these in place of standard output and standard error.
fn start_again(scene: &mut Scene, format: &str, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) {
    scene.stop();
    let before = starts(&scene.folder).len();
    let mut serve = scene.folder.command(["serve", "--config", "server.toml", "--log-format", format]);
    scene.server = serve.stdout(stdout).stderr(stderr).spawn().unwrap();
    // Standard output does not say where it listens; the audit log does.
    scene.address = loop {
        assert_eq!(scene.server.try_wait().unwrap(), None, "it does not start");
        if let [address] = &starts(&scene.folder)[before..] {
            break address.clone();
        }
    };
}

/// Where each run of the server has listened.
fn starts(folder: &Folder) -> Vec<String> {
    let lines = folder.done("audit tail state/audit --lines 10000 --json").stdout();
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let starts = lines.filter(|line| line["action"] == "start");
    starts.map(|line| line["details"]["address"].as_str().unwrap().to_owned()).collect()
}

fn status(scene: &Scene) -> Value {
    scene.folder.done(&format!("status {} --json", scene.connection("bob"))).json()
}

/// Why the log cannot be written. Whoever asks is logged, so one of the next answers knows.
fn failing(scene: &Scene) -> String {
    loop {
        if let Some(reason) = status(scene)["log"]["failing"].as_str() {
            return reason.to_owned();
        }
    }
}

/// Deploys, trains a round, and stops in good order.
fn works_to_its_end(scene: &mut Scene) {
    scene.folder.done(&format!("deploy adamw-1.1.0.wasm {}", scene.connection("alice")));
    in_runtime(async {
        let worker = worker(scene).await;
        let tensor = Tensor::new([2], vec![1.0, 2.0]).unwrap();
        worker.init("w", &tensor).await.unwrap();
        worker.push_pull("w", &tensor).await.unwrap();
        worker.leave().await.unwrap();
        worker.close().await;
    });
    assert_eq!(status(scene)["keys"][0]["version"], 1);
    terminate(&scene.server);
    assert_eq!(scene.server.wait().unwrap().code(), Some(0));
}

async fn worker(scene: &Scene) -> Client {
    let path = |name: &str| scene.folder.path(name);
    let config = ClientConfig::new(&scene.address, path("ca/ca.pem"), path("ca/worker-0.pem"), path("ca/worker-0.key"));
    let client = Client::connect(&config).await.unwrap();
    client.register().await.unwrap();
    client
}

fn in_runtime(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}

fn terminate(server: &Child) {
    assert!(Command::new("kill").args(["-TERM", &server.id().to_string()]).status().unwrap().success());
}

/// A pipe that takes nothing more until it is read.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    while writer.write(&[b'\n'; 4096]).map_err(|error| assert_eq!(error.kind(), ErrorKind::WouldBlock)).is_ok() {}
    fcntl_setfl(&writer, flags).unwrap();
    (reader, writer)
}

#[test]
fn a_full_disk_under_the_log_ends_nothing_and_the_status_counts_lost_lines() {
    let mut scene = Scene::new();
    let full = || File::options().write(true).open("/dev/full").unwrap();
    start_again(&mut scene, "text", full(), full());
    let reason = failing(&scene);
    assert!(reason.contains("No space left"), "{reason}");
    assert!(status(&scene)["log"]["lost_lines"].as_u64() > Some(0));
    let text = scene.folder.done(&format!("status {}", scene.connection("bob"))).stdout();
    assert!(text.contains("lines lost\n") && text.contains("cannot be written: No space left"), "{text}");
    works_to_its_end(&mut scene);
}

#[test]
fn a_reader_of_the_log_that_ends_ends_nothing_else() {
    let mut scene = Scene::new();
    let (reader, writer) = pipe().unwrap();
    start_again(&mut scene, "json", writer.try_clone().unwrap(), writer);
    drop(reader);
    let reason = failing(&scene);
    assert!(reason.contains("Broken pipe"), "{reason}");
    works_to_its_end(&mut scene);
}

#[test]
fn a_reader_of_the_log_that_stops_reading_stops_nothing_else_and_gets_the_log_when_it_reads_on() {
    let mut scene = Scene::new();
    let (mut reader, writer) = full_pipe();
    start_again(&mut scene, "json", writer.try_clone().unwrap(), writer);
    scene.folder.done(&format!("deploy adamw-1.0.0.wasm {}", scene.connection("alice")));
    // After a while it counts as stuck.
    let reason = failing(&scene);
    assert!(reason.contains("has taken nothing"), "{reason}");

    // All that was logged meanwhile was waiting.
    let reading = std::thread::spawn(move || {
        let mut log = String::new();
        reader.read_to_string(&mut log).unwrap();
        log
    });
    while !status(&scene)["log"]["failing"].is_null() {}
    assert_eq!(status(&scene)["log"]["lost_lines"], 0);
    works_to_its_end(&mut scene);
    let log = reading.join().unwrap();
    let events: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for message in ["listening", "admitted", "stopped"] {
        assert!(events.iter().any(|event| event["message"] == message), "{message}: {log}");
    }
}

#[test]
fn a_server_whose_log_nobody_reads_stops_all_the_same() {
    let mut scene = Scene::new();
    let (_reader, writer) = full_pipe();
    start_again(&mut scene, "text", writer.try_clone().unwrap(), writer);
    works_to_its_end(&mut scene);
}

#[test]
fn an_optimizer_that_fails_each_round_does_not_fill_the_log() {
    const ROUNDS: u64 = 500;
    let mut scene = Scene::new();
    scene.folder.write("trap.wasm", component("hostile/late-trap"));
    scene.folder.done("sign trap.wasm --key publisher.key --name late-trap --version 1.0.0 --out trap-1.0.0.wasm");
    scene.folder.done(&format!("deploy trap-1.0.0.wasm {}", scene.connection("alice")));
    in_runtime(async {
        let worker = worker(&scene).await;
        worker.init("w", &Tensor::new([1], vec![2e9]).unwrap()).await.unwrap();
        for _ in 0..ROUNDS {
            let failed = worker.push_pull("w", &Tensor::new([1], vec![0.0]).unwrap()).await;
            assert!(matches!(failed, Err(ClientError::Refused { code: ErrorCode::OptimizerFailed, .. })), "{failed:?}");
        }
        worker.close().await;
    });
    let (code, log) = scene.stop();
    assert_eq!(code, Some(0));
    let events: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let failures = events.iter().filter(|event| event["message"] == "a round has failed").count() as u64;
    let suppressed = events.iter().filter(|event| event["like"] == "a round has failed");
    let suppressed: Vec<_> = suppressed.map(|event| event["suppressed"].as_u64().unwrap()).collect();
    assert_eq!(failures + suppressed.iter().sum::<u64>(), ROUNDS, "{suppressed:?}");
    // More than one such line tells of them only where the test took longer than they are counted for.
    assert!(failures <= 32 * (suppressed.len() as u64 + 1), "{failures}, {suppressed:?}");
    assert!(!suppressed.is_empty());
}

#[test]
fn a_name_is_neither_a_line_of_the_status_nor_anything_to_a_terminal() {
    const NAME: &str = "w\u{202e}  [9]  version 7, 1 slices\u{feff}\u{2028}warning      none";
    let mut scene = Scene::new();
    let (mut reader, writer) = pipe().unwrap();
    let reading = std::thread::spawn(move || {
        let mut log = String::new();
        reader.read_to_string(&mut log).unwrap();
        log
    });
    start_again(&mut scene, "text", Stdio::null(), writer);
    scene.folder.done(&format!("deploy adamw-1.0.0.wasm {}", scene.connection("alice")));
    in_runtime(async {
        let worker = worker(&scene).await;
        worker.init(NAME, &Tensor::new([1], vec![0.0]).unwrap()).await.unwrap();
        assert!(worker.pull(&format!("{NAME}?")).await.is_err());
        worker.close().await;
    });
    let shown = r#""w\u{202e} \u{20}[9] \u{20}version 7, 1 slices\u{feff}\u{2028}warning \u{20}"#;
    let text = scene.folder.done(&format!("status {}", scene.connection("bob"))).stdout();
    assert!(text.contains(shown), "{text}");
    let json = scene.folder.done(&format!("status {} --json", scene.connection("bob")));
    assert_eq!(json.json()["keys"][0]["key"], NAME);
    terminate(&scene.server);
    scene.server.wait().unwrap();
    let log = reading.join().unwrap();
    assert!(log.contains(r"w\u{202e}  [9]  version"), "{log}");
    // A field that is not known is not there.
    assert!(log.contains("refused") && !log.contains("=\"\""), "{log}");
    for output in [text, json.stdout(), log] {
        assert!(!output.replace('\n', "").contains(stepbox_trust::is_unseen), "{output:?}");
    }
}
