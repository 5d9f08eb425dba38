//! `cargo xtask release`, without the program, whose build takes long and is tested elsewhere.

#![cfg(unix)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// Some optimizers stand for all.
const ONLY: &str = "adamw,sgd";

fn release(output: &Path, time: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["release", "--json", "--only", ONLY, "--output"]).arg(output);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()).env_remove("SOURCE_DATE_EPOCH");
    if let Some(time) = time {
        command.env("SOURCE_DATE_EPOCH", time);
    }
    command.output().unwrap()
}

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    folder
}

fn released(name: &str, time: Option<&str>) -> PathBuf {
    let folder = folder(name);
    let output = release(&folder, time);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder
}

fn bill(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("stepbox.cdx.json")).unwrap()).unwrap()
}

#[test]
fn a_release_can_be_checked_and_made_again_bit_for_bit() {
    let (one, other) = (released("release-1", None), released("release-2", None));
    for file in ["SHA256SUMS", "stepbox.cdx.json", "optimizers/adamw.wasm", "optimizers/sgd.wasm"] {
        assert_eq!(fs::read(one.join(file)).unwrap(), fs::read(other.join(file)).unwrap(), "{file}");
    }
    let check = || {
        let mut command = Command::new("sha256sum");
        command.args(["--check", "--strict", "SHA256SUMS"]).current_dir(&other).output().unwrap()
    };
    let checked = check();
    assert!(checked.status.success(), "{checked:?}");
    assert_eq!(String::from_utf8(checked.stdout).unwrap().lines().count(), 3);
    fs::write(other.join("optimizers/sgd.wasm"), "something else").unwrap();
    assert!(!check().status.success(), "a changed file is not noticed");
}

#[test]
fn the_bill_of_materials_names_every_file_and_package_and_no_time_of_its_own() {
    let bill = bill(&released("release-3", None));
    assert_eq!((&bill["bomFormat"], &bill["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    assert_eq!((&bill["serialNumber"], &bill["metadata"]["timestamp"]), (&Value::Null, &Value::Null));

    let components = bill["components"].as_array().unwrap();
    let references: Vec<&str> = components.iter().map(|component| component["bom-ref"].as_str().unwrap()).collect();
    for expected in ["optimizers/adamw.wasm", "optimizers/sgd.wasm"] {
        assert!(references.contains(&expected), "{expected}");
    }
    for dependency in bill["dependencies"].as_array().unwrap() {
        let names = dependency["dependsOn"].as_array().into_iter().flatten().chain([&dependency["ref"]]);
        for name in names {
            assert!(references.contains(&name.as_str().unwrap()), "{name} is no component of the bill");
        }
    }
    // Nothing of where it was made.
    let text = bill.to_string();
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    assert!(!text.contains(workspace.to_str().unwrap()), "the bill names a folder of ours");
}

#[test]
fn a_time_that_is_asked_for_stands_in_the_bill() {
    let bill = bill(&released("release-4", Some("951827696")));
    assert_eq!(bill["metadata"]["timestamp"], "2000-02-29T12:34:56Z");
    let output = release(&folder("release-5"), Some("yesterday"));
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("SOURCE_DATE_EPOCH"));
}

#[test]
fn a_folder_with_something_else_in_it_is_left_alone() {
    let folder = folder("release-6");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("thesis.tex"), "years of work").unwrap();
    let output = release(&folder, None);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("name another folder"), "{output:?}");
    assert_eq!(fs::read_to_string(folder.join("thesis.tex")).unwrap(), "years of work");
}
