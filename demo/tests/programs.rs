//! What the two programs say when they cannot do their work.

use std::net::TcpListener;
use std::process::{Command, Output};

fn worker(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_digits-worker")).args(arguments).output().unwrap()
}

fn demo(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_digits-demo")).args(arguments).output().unwrap()
}

fn error(output: &Output) -> String {
    assert!(output.stdout.is_empty(), "errors do not belong on standard output: {output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_worker_names_the_file_it_cannot_use() {
    let output = worker(&["--server", "localhost:1", "--ca", "nowhere.pem", "--certificate", "c", "--key", "k"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(error(&output).contains("nowhere.pem"), "{}", error(&output));
}

#[test]
fn a_worker_names_the_server_it_cannot_reach() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let made = rcgen::generate_simple_self_signed(["worker-0".to_owned()]).unwrap();
    let certificate = file("worker-0.pem", &made.cert.pem());
    let key = file("worker-0.key", &made.signing_key.serialize_pem());
    // Bound and dropped: nobody listens there.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let output = worker(&["--server", &address, "--ca", &certificate, "--certificate", &certificate, "--key", &key]);
    assert_eq!(output.status.code(), Some(1));
    assert!(error(&output).contains(&address), "{}", error(&output));
}

#[test]
fn wrong_usage_has_its_own_exit_code() {
    assert_eq!(worker(&[]).status.code(), Some(2));
    assert_eq!(demo(&["--rounds", "0"]).status.code(), Some(2));
}

#[test]
fn the_demonstration_says_what_is_missing_and_what_makes_it() {
    let output = demo(&["--components", "no-such-folder"]);
    assert_eq!(output.status.code(), Some(1));
    let text = error(&output);
    assert!(text.contains("no-such-folder/adamw.wasm") && text.contains("cargo xtask guests"), "{text}");
}
