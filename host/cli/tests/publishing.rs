//! A publisher's way: key, sign, verify, inspect, as a person or a script walks it.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use common::{Folder, component, mode};

fn signed() -> Folder {
    let folder = Folder::new();
    folder.publisher("alice");
    folder.write("adamw.wasm", component("adamw"));
    folder.done("sign adamw.wasm --key alice.key --name adamw --version 1.0.0 --out signed.wasm");
    folder
}

#[test]
fn a_new_key_is_private_and_its_public_half_ready_to_paste() {
    let folder = Folder::new();
    let run = folder.done("key new --out alice.key");
    assert_eq!(mode(&folder.path("alice.key")), 0o600);
    let line = folder.read("alice.key.pub").lines().nth(1).unwrap().to_owned();
    let text = run.stdout();
    assert!(text.contains(&format!("public_key = \"{line}\"")), "{text}");
    let secret = folder.read("alice.key").lines().nth(1).unwrap().to_owned();
    assert!(!text.contains(&secret) && !run.stderr().contains(&secret));

    // The lines it printed are a trust file, but for its last line.
    folder.write("trust.toml", format!("{}[end]\n", &text[text.find("[[publisher]]").unwrap()..]));
    folder.write("adamw.wasm", component("adamw"));
    folder.done("sign adamw.wasm --key alice.key --name adamw --version 1.0.0 --out signed.wasm");
    folder.done("verify signed.wasm --trust trust.toml");
}

#[test]
fn a_key_is_never_overwritten() {
    let folder = Folder::new();
    folder.done("key new --out alice.key");
    let before = (folder.read("alice.key"), folder.read("alice.key.pub"));
    let again = folder.run("key new --out alice.key");
    assert_eq!(again.code(), 1);
    assert!(again.stderr().contains("alice.key"), "{}", again.stderr());
    // Nor half of it: the public half is gone, the signing key is still there.
    fs::remove_file(folder.path("alice.key.pub")).unwrap();
    assert_eq!(folder.run("key new --out alice.key").code(), 1);
    assert!(!folder.path("alice.key.pub").exists());
    assert_eq!(folder.read("alice.key"), before.0);
}

#[test]
fn what_sign_makes_verify_takes_and_says_the_same_of() {
    let folder = Folder::new();
    folder.publisher("alice");
    folder.write("adamw.wasm", component("adamw"));
    let made =
        folder.done("sign adamw.wasm --key alice.key --name adamw --version 1.0.0 --out signed.wasm --json").json();
    let verified = folder.done("verify signed.wasm --trust alice.toml --json").json();
    for field in ["name", "version", "publisher", "digest"] {
        assert_eq!(made[field], verified[field], "{field}");
    }
    assert_eq!(verified["publisher_name"], "alice");
    assert!(folder.done("verify signed.wasm --trust alice.toml").stdout().contains("adamw 1.0.0, signed by alice"));
}

#[test]
fn verify_refuses_with_a_reason_and_its_exit_code() {
    let folder = signed();
    folder.publisher("mallory");
    let mut damaged = fs::read(folder.path("signed.wasm")).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    folder.write("damaged.wasm", damaged);
    folder.write("text.wasm", "#!/bin/sh\n");
    for (file, trust, code, exit_code) in [
        ("adamw.wasm", "alice.toml", "unsigned", 11),
        ("damaged.wasm", "alice.toml", "bad-signature", 11),
        ("signed.wasm", "mallory.toml", "unknown-key", 13),
        ("text.wasm", "alice.toml", "not-webassembly", 15),
    ] {
        let run = folder.run(&format!("verify {file} --trust {trust} --json"));
        assert_eq!(run.code(), exit_code, "{file}");
        let error = &run.json()["error"];
        assert_eq!(error["code"], code);
        let message = error["message"].as_str().unwrap();
        assert!(message.starts_with(file), "{message}");
        assert!(run.stderr().contains(message), "{}", run.stderr());
    }
}

/// The signature is of the digest, which the file says it has: where the content has another, it is a signature of nothing.
#[test]
fn no_signature_of_a_changed_file_is_called_valid() {
    let folder = signed();
    let mut damaged = fs::read(folder.path("signed.wasm")).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    folder.write("damaged.wasm", damaged);
    for file in ["damaged.wasm", "signed.wasm"] {
        let run = folder.run(&format!("verify {file} --trust alice.toml"));
        let said = run.stdout() + &run.stderr();
        assert!(said.contains("signature key"), "{said}");
        assert_eq!(said.contains(": valid"), run.code() == 0, "{said}");
    }
}

/// Every server refuses such a one, when it has got through everything else.
#[test]
fn a_name_that_the_component_does_not_call_itself_is_not_signed() {
    let folder = Folder::new();
    folder.publisher("alice");
    folder.write("adamw.wasm", component("adamw"));
    let sign = |name: &str| format!("sign adamw.wasm --key alice.key --name {name} --version 1.0.0 --out signed.wasm");
    for wrong in ["adamw-2", "adamw/lion", "lion"] {
        let run = folder.run(&sign(wrong));
        assert_eq!(run.code(), 1, "{wrong}");
        assert!(run.stderr().contains("calls itself `adamw`"), "{}", run.stderr());
        assert!(!folder.path("signed.wasm").exists(), "{wrong}");
    }
    folder.done(&sign("team-a/adamw"));
    // Signed all the same, by another tool: `inspect` says what a server will.
    let key = stepbox_trust::SigningKey::load(folder.path("alice.key")).unwrap();
    folder.write("other.wasm", stepbox_trust::sign(&component("adamw"), "lion", "1.0.0", &key).unwrap());
    let text = folder.done("inspect other.wasm --trust alice.toml").stdout();
    assert!(text.contains("every server refuses it as `lion`"), "{text}");
    folder.publisher("bob");
    let run = folder.run("sign other.wasm --add --key bob.key --out more.wasm");
    assert!(run.code() == 1 && run.stderr().contains("calls itself `adamw`"), "{}", run.stderr());
}

#[test]
fn mistakes_of_the_caller_are_no_refusals() {
    let folder = signed();
    folder.write("wrong.toml", "[[publishers]]");
    for (arguments, code) in [
        ("verify none.wasm --trust alice.toml", 1),
        ("verify signed.wasm --trust none.toml", 1),
        ("verify signed.wasm --trust wrong.toml", 1),
        ("verify signed.wasm", 2),
        ("verfiy signed.wasm", 2),
        ("sign alice.toml --key alice.key --name adamw --version 1.0.0 --out x.wasm", 1),
        ("sign signed.wasm --key alice.key --name adamw --version 1.0.0 --out x.wasm", 1),
        ("sign adamw.wasm --key alice.key --name AdamW --version 1.0.0 --out x.wasm", 1),
        ("sign adamw.wasm --key alice.key --name adamw --version 1 --out x.wasm", 1),
        ("sign adamw.wasm --key alice.key.pub --name adamw --version 1.0.0 --out x.wasm", 1),
    ] {
        let run = folder.run(arguments);
        assert_eq!(run.code(), code, "{arguments}: {}", run.stderr());
        assert!(run.stdout().is_empty(), "{arguments}: {}", run.stdout());
        assert!(run.stderr().contains("error"), "{arguments}: {}", run.stderr());
        assert!(!folder.path("x.wasm").exists(), "{arguments}");
    }
}

#[test]
fn a_key_that_others_can_read_signs_nothing() {
    let folder = signed();
    fs::set_permissions(folder.path("alice.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let run = folder.run("sign adamw.wasm --key alice.key --name adamw --version 1.0.0 --out x.wasm");
    assert_eq!(run.code(), 1);
    assert!(run.stderr().contains("chmod 600"), "{}", run.stderr());
}

#[test]
fn a_signature_is_replaced_only_where_asked_for() {
    let folder = signed();
    folder.done("sign signed.wasm --key alice.key --name adamw --version 1.0.1 --out newer.wasm --replace");
    folder.done("sign adamw.wasm --key alice.key --name adamw --version 1.0.1 --out fresh.wasm");
    assert_eq!(fs::read(folder.path("newer.wasm")).unwrap(), fs::read(folder.path("fresh.wasm")).unwrap());
}

#[test]
fn inspect_tells_claims_from_facts() {
    let folder = signed();
    folder.publisher("mallory");
    let state = |arguments: &str| folder.done(arguments).json()["signature"]["state"].clone();
    assert_eq!(state("inspect adamw.wasm --json"), "unsigned");
    assert_eq!(state("inspect signed.wasm --json"), "unverified");
    assert_eq!(state("inspect signed.wasm --trust alice.toml --json"), "verified");
    assert_eq!(state("inspect signed.wasm --trust mallory.toml --json"), "refused");
    let text = folder.done("inspect signed.wasm").stdout();
    assert!(text.contains("claims to be adamw 1.0.0") && text.contains("NOT VERIFIED"), "{text}");
}

#[test]
fn inspect_shows_what_an_optimizer_is_and_asks_for() {
    let folder = signed();
    let report = folder.done("inspect signed.wasm --json").json();
    assert_eq!(report["imports"], serde_json::json!(["stepbox:optimizer/types@0.1.0"]));
    assert_eq!(report["exports"], serde_json::json!(["stepbox:optimizer/optimizer@0.1.0"]));
    let optimizer = &report["optimizer"];
    assert_eq!(optimizer["state"], "admitted");
    assert_eq!(optimizer["name"], "adamw");
    assert_eq!(optimizer["bytes_per_parameter"], 12.0);
    let beta1 = &optimizer["hyperparameters"][0];
    assert_eq!((&beta1["name"], &beta1["domain"]["number"]["default"]), (&"beta1".into(), &0.9.into()));
    let text = folder.done("inspect signed.wasm").stdout();
    assert!(text.contains("beta1  [0, 1), 0.9 unless set"), "{text}");
}

#[test]
fn inspect_predicts_the_memory_of_a_server() {
    let folder = signed();
    let memory = |options: &str| {
        let report = folder.done(&format!("inspect signed.wasm --json {options}")).json();
        report["optimizer"]["memory"].clone()
    };
    let usual = memory("");
    assert_eq!(usual["workers"], 4);
    assert_eq!(
        usual["per_parameter"],
        serde_json::json!({ "state": 12.0, "published": 4.0, "gradients": 16.0, "undo": 0.0 })
    );
    assert_eq!(
        (&usual["in_a_round_bytes_per_parameter"], &usual["parameters"]),
        (&32.0.into(), &serde_json::Value::Null)
    );
    let alone = memory("--workers 1 --shape 1024,1024");
    assert_eq!((&alone["in_a_round_bytes_per_parameter"], &alone["parameters"]), (&28.0.into(), &(1 << 20).into()));
    assert_eq!((&alone["before_rounds_mebibytes"], &alone["in_a_round_mebibytes"]), (&16.0.into(), &28.0.into()));
    let text = folder.done("inspect signed.wasm --parameters 2097152").stdout();
    assert!(text.contains("with 4 workers: 32.0 bytes for each parameter"), "{text}");
    assert!(text.contains("64.0 MiB for 2097152, 32.0 MiB of it before the first round"), "{text}");

    // Factored state depends on the shape.
    folder.write("adafactor.wasm", component("adafactor"));
    let state = |shape: &str| {
        let report = folder.done(&format!("inspect adafactor.wasm --json --shape {shape}")).json();
        report["optimizer"]["memory"]["per_parameter"]["state"].as_f64().unwrap()
    };
    assert!(state("256,256") < 4.1 && state("256") >= 8.0);
    for wrong in ["--workers 0", "--shape 0,4", "--shape 4x4", "--parameters 0"] {
        assert_eq!(folder.run(&format!("inspect signed.wasm {wrong}")).code(), 2, "{wrong}");
    }
}

#[test]
fn inspect_shows_what_a_server_would_not_admit() {
    let folder = Folder::new();
    folder.write("loop.wasm", component("hostile/endless-loop"));
    let report = folder.done("inspect loop.wasm --json").json();
    assert_eq!(report["optimizer"]["state"], "not-admitted");
    assert!(report["optimizer"]["reason"].as_str().unwrap().contains("fuel"), "{report}");
    // The smallest component there is.
    folder.write("empty.wasm", b"\0asm\x0d\0\x01\0");
    let report = folder.done("inspect empty.wasm --json").json();
    assert_eq!(report["optimizer"]["state"], "not-admitted");
    folder.write("module.wasm", b"\0asm\x01\0\0\0");
    assert_eq!(folder.run("inspect module.wasm").code(), 1);
}

#[test]
fn a_reader_that_stops_reading_is_no_error() {
    let folder = signed();
    let mut child = folder.command(["inspect", "signed.wasm"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn every_verb_explains_itself_with_an_example() {
    let folder = Folder::new();
    for verb in
        ["ca init", "ca issue", "key new", "sign", "verify", "trust check", "inspect", "serve", "deploy", "status"]
    {
        let help = folder.done(&format!("{verb} --help")).stdout();
        assert!(help.contains(&format!("  stepbox {verb}")), "{help}");
        assert!(help.contains("--json"), "{help}");
    }
    assert!(folder.done("--help").stdout().contains("Exit codes:"));
}

#[test]
fn the_shipped_optimizers_are_listed_for_people_and_for_scripts() {
    let folder = Folder::new();
    let list = folder.done("optimizers --json").json();
    let shipped = list.as_array().unwrap();
    for name in ["adamw", "lamb", "adafactor", "prodigy", "muon", "soap", "sgld", "adamw-8bit", "lazy-adam"] {
        let entry = shipped.iter().find(|entry| entry["name"] == name).unwrap_or_else(|| panic!("{name} is missing"));
        for text in ["class", "reference"] {
            assert!(entry[text].as_str().is_some_and(|text| !text.is_empty()), "{name}: {text}");
        }
        assert!(entry["bytes_per_parameter"].as_f64().unwrap() >= 4.0, "{name}");
        assert!(!entry["phases"].as_array().unwrap().is_empty() && entry["slots"].is_array(), "{name}");
    }
    let text = folder.done("optimizers").stdout();
    assert_eq!(text.lines().count(), shipped.len() + 1);

    // What the list says is what inspect finds in the component.
    folder.write("lamb.wasm", component("lamb"));
    let inspected = folder.done("inspect lamb.wasm --json").json();
    let lamb = shipped.iter().find(|entry| entry["name"] == "lamb").unwrap();
    let phases = inspected["optimizer"]["plan"]["phases"].as_array().unwrap();
    let names: Vec<_> = phases.iter().map(|phase| phase["name"].clone()).collect();
    assert_eq!(lamb["phases"].as_array().unwrap(), &names);
}
