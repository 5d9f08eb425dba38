//! The whole demonstration, twice. Needs the program `stepbox` beside `digits-demo` and the built components, which
//! `cargo xtask test` sees to.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// What `cargo xtask demo` builds for it.
const GUESTS: &str = include_str!("../guests.txt");

/// Runs it with no other components than those that are built for it.
fn demonstrate() -> Value {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests/components");
    let components = tempfile::tempdir().unwrap();
    fs::create_dir(components.path().join("hostile")).unwrap();
    for guest in GUESTS.lines() {
        let file = format!("{guest}.wasm");
        fs::copy(built.join(&file), components.path().join(&file)).unwrap();
    }
    let output = Command::new(env!("CARGO_BIN_EXE_digits-demo"))
        .arg("--json")
        .arg("--components")
        .arg(components.path())
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{stdout}{stderr}");
    assert_eq!(stderr, "", "there is no progress display in a pipe");
    assert_eq!(stdout.lines().count(), 1, "one object on one line: {stdout}");
    serde_json::from_str(&stdout).unwrap()
}

#[test]
fn everything_holds_and_two_runs_give_the_same_bits() {
    let first = demonstrate();
    assert_eq!(first["ok"], true);
    assert!(first["accuracy"].as_f64().unwrap() >= 0.96);
    assert!(first["rounds_per_second"].as_f64().unwrap() > 0.0);
    assert!(first["update_ratio_to_native"].as_f64().unwrap() > 0.0);

    let refusals = first["refusals"].as_array().unwrap();
    // What each refusal must speak of.
    let expected = [
        ("unsigned", "not signed"),
        ("one flipped byte", "changed after it was signed"),
        ("unknown key", "does not know"),
        ("older version", "older than"),
        ("loop without end", "out of fuel"),
        ("memory bomb", "memory limit"),
        ("NaN output", "NaN"),
    ];
    assert_eq!(refusals.len(), expected.len());
    for (refusal, (attempt, reason)) in refusals.iter().zip(expected) {
        assert_eq!(refusal["attempt"], attempt);
        assert_eq!(refusal["refused"], true, "{refusal}");
        assert_eq!(refusal["model_unchanged"], true, "{refusal}");
        assert!(refusal["reason"].as_str().unwrap().contains(reason), "{refusal}");
    }

    let second = demonstrate();
    assert_eq!(first["weights_sha256"], second["weights_sha256"]);
    assert_eq!(first["accuracy"], second["accuracy"]);
}
