//! `stepbox bench`: what scripts read, what the report folder holds, what is refused. No figure is held against anything.

mod common;

use std::path::{Path, PathBuf};

use common::Folder;
use serde_json::Value;

fn components() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests/components")
}

/// Checks a list of rows, and that their goals and verdicts fit their figures.
fn check(rows: &Value) -> &[Value] {
    let rows = rows.as_array().unwrap();
    assert!(!rows.is_empty());
    for row in rows {
        let number = |name: &str| row[name].as_f64();
        let (value, low, high) = (number("value").unwrap(), row["spread"][0].as_f64(), row["spread"][1].as_f64());
        assert!(value > 0.0 && low.unwrap() <= value && value <= high.unwrap(), "{row}");
        assert!(["bench", "case", "unit"].iter().all(|name| !row[*name].as_str().unwrap().is_empty()), "{row}");
        assert_eq!(number("ratio").is_some(), number("baseline").is_some(), "{row}");
        assert_eq!(number("baseline").is_some(), !row["against"].as_str().unwrap().is_empty(), "{row}");
        let ratio = number("ratio");
        let expected = row["goal"].as_object().map(|goal| match goal.iter().next().unwrap() {
            (kind, bound) if kind == "ratio_at_most" => ratio.unwrap() <= bound.as_f64().unwrap(),
            (kind, bound) if kind == "ratio_at_least" => ratio.unwrap() >= bound.as_f64().unwrap(),
            (kind, bound) if kind == "value_at_most" => value <= bound.as_f64().unwrap(),
            other => panic!("{other:?}"),
        });
        assert_eq!(row["met"].as_bool(), expected, "{row}");
    }
    rows
}

#[cfg(target_os = "linux")]
#[test]
fn honest_workers_train_on_while_a_server_is_attacked() {
    let folder = Folder::new();
    let components = components();
    let arguments = ["bench", "abuse", "--quick", "--attack", "refusals,garbage", "--json", "--components"];
    let output = folder.command(arguments).arg(&components).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = check(&rows);
    for attack in ["refusals", "garbage"] {
        let of = |what: &str| rows.iter().find(|row| row["case"] == format!("{attack}, {what}").as_str()).unwrap();
        assert_eq!(of("rounds while attacked")["goal"]["ratio_at_least"], 0.7);
        assert!(of("connections tried")["value"].as_f64().unwrap() >= 1.0);
        assert_eq!(of("growth of the server's memory at its peak")["met"], true);
    }
    assert_ne!(folder.run("bench abuse --attack nonsense").code(), 0);
    assert_ne!(folder.run("bench reduce --attack garbage").code(), 0);
}

#[test]
fn rows_are_for_scripts_and_the_folder_is_for_people() {
    let folder = Folder::new();
    let rows = folder.done("bench reduce --quick --json --output report").json();
    let rows = check(&rows);
    let goals: Vec<_> = rows.iter().filter(|row| !row["goal"].is_null()).collect();
    assert_eq!(goals.len(), 1, "{goals:?}");
    assert_eq!(goals[0]["goal"]["ratio_at_least"], 0.85);

    let results: Value = serde_json::from_str(&folder.read("report/results.json")).unwrap();
    assert_eq!(results["rows"].as_array().unwrap(), rows);
    assert_eq!(results["about"]["quick"], true);
    assert!(results["about"]["machine"]["cores"].as_u64().unwrap() > 0);
    let page = folder.read("report/results.md");
    let chart = page.split("](").nth(2).and_then(|rest| rest.split(')').next()).unwrap().to_owned();
    assert!(page.contains("## reduce") && page.contains("A quick run"), "{page}");
    for row in rows {
        assert!(page.contains(row["case"].as_str().unwrap()), "{page}");
    }
    let svg = folder.read(&format!("report/{chart}"));
    assert!(svg.starts_with("<svg") && svg.contains("GB/s"), "{chart}");
}

#[test]
fn a_component_of_ones_own_is_measured_and_what_it_is_compared_with_is_said() {
    let folder = Folder::new();
    let component = components().join("lion.wasm");
    let arguments = ["bench", "overhead", "--quick", "--json", "--component", component.to_str().unwrap()];
    let output = folder.command(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = check(&rows);
    assert!(rows.iter().all(|row| row["case"].as_str().unwrap().starts_with("lion,")), "{rows:?}");
    for against in ["native AdamW, another optimizer", "no metering"] {
        assert!(rows.iter().any(|row| row["against"] == against), "{against}: {rows:?}");
    }
    assert!(rows.iter().any(|row| row["unit"] == "µs"), "the cost of a call");
    // What a person should know is not among the rows.
    assert!(String::from_utf8_lossy(&output.stderr).contains("--native-crate"));
}

#[test]
fn rounds_are_run_with_a_server_of_their_own() {
    let folder = Folder::new();
    let components = components();
    let arguments = ["bench", "rounds", "--workers", "2", "--parameters", "5000,6000", "--rounds", "3", "--json"];
    let output = folder.command(arguments).arg("--components").arg(components).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = check(&rows);
    for case in ["W=2, 5000 parameters, round", "W=2, 6000 parameters, round"] {
        assert!(rows.iter().any(|row| row["case"] == case && row["unit"] == "ms"), "{rows:?}");
    }
}

#[test]
fn what_cannot_be_measured_is_refused_with_what_to_do() {
    let folder = Folder::new();
    let run = folder.run("bench overhead --quick --json");
    assert_eq!(run.code(), 1);
    assert_eq!(run.json()["error"]["code"], "file");
    assert!(run.stderr().contains("adamw.wasm") && run.stderr().contains("cargo xtask guests"), "{}", run.stderr());

    let run = folder.run("bench overhead --quick --component nowhere.wasm");
    assert_eq!(run.code(), 1);
    assert!(run.stderr().contains("nowhere.wasm"), "{}", run.stderr());

    let adamw = components().join("adamw.wasm");
    let run = folder.run(&format!("bench overhead --quick --component {} --native-crate .", adamw.display()));
    assert_eq!(run.code(), 1);
    assert!(run.stderr().contains("examples/native_bench.rs"), "{}", run.stderr());

    let run = folder.run("bench reduce --rounds 3");
    assert_eq!(run.code(), 1);
    assert!(run.stderr().contains("another benchmark's"), "{}", run.stderr());
    assert_eq!(folder.run("bench nonsense").code(), 2);
}
