//! The attacks' program, on a part of the attacks. Needs the program `stepbox` beside it and the built components, which
//! `cargo xtask test` sees to; all attacks are its stage `attack`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use stepbox_attack::threat::Threat;

fn components() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests/components")
}

fn attack(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stepbox-attack"));
    command.arg("--components").arg(components()).args(arguments).output().unwrap()
}

#[test]
fn every_attack_is_made_and_contained_and_its_row_says_so() {
    let names = ["one bit flipped in the last byte", "NaN in a gradient", "the guest slow-poison", "no certificate"];
    let output = attack(&["--json", "--only", &names.join(",")]);
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(0), "{stdout}{stderr}");
    assert_eq!(stderr, "", "there is no progress display in a pipe");
    let rows: Vec<Value> = serde_json::from_str(&stdout).unwrap();
    assert_eq!(rows.len(), names.len());
    for (name, code) in names.iter().zip(["untrusted", "not-finite", "optimizer-failed", "alert CertificateRequired"]) {
        let row = rows.iter().find(|row| row["attack"] == *name).unwrap_or_else(|| panic!("{name} is missing"));
        assert!(row["outcome"].as_str().unwrap().starts_with(code), "{row}");
        assert!(Threat::ALL.iter().any(|threat| row["threat"] == threat.words()), "{row}");
        assert!(row["rounds"].as_u64().unwrap() >= 4, "{row}");
        for field in ["contained", "server_healthy", "training_went_on", "memory_bounded"] {
            assert_eq!(row[field], true, "{row}");
        }
        let (peak, ceiling) = (&row["peak_resident_bytes"], &row["memory_ceiling_bytes"]);
        assert!((1 << 20..ceiling.as_u64().unwrap()).contains(&peak.as_u64().unwrap()), "{row}");
    }
}

#[test]
fn every_threat_has_attacks_or_a_reason_why_it_has_none() {
    let attacks = stepbox_attack::attacks::all();
    let attacked: BTreeSet<Threat> = attacks.iter().map(|attack| attack.threat).collect();
    for threat in Threat::ALL {
        assert_eq!(attacked.contains(&threat), threat.not_here().is_none(), "{threat}");
    }
    let names: BTreeSet<&str> = attacks.iter().map(|attack| attack.name.as_str()).collect();
    assert_eq!(names.len(), attacks.len(), "two attacks have the same name");
    assert!(attacks.iter().all(|attack| !attack.expected.is_empty()));
}

#[test]
fn wrong_usage_is_said() {
    assert_eq!(attack(&["--no-such-option"]).status.code(), Some(2));
    let output = attack(&["--only", "no such attack"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no such attack"), "{output:?}");
}
