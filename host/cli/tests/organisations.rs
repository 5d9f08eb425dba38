//! An organisation's way: several signers, a policy that is checked, keys kept by another program.

#![cfg(unix)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use common::{Folder, component};

/// Keys of a team and of a board, and the policy that asks for both.
fn organisation() -> Folder {
    let folder = Folder::new();
    folder.write("adamw.wasm", component("adamw"));
    let mut policy = "format = 1\n".to_owned();
    for (name, namespaces) in [("team", "['team-a/*']"), ("board", "[]")] {
        let made = folder.done(&format!("key new --out {name}.key --json")).json();
        let public_key = made["public_key"].as_str().unwrap();
        policy += &format!("[[publisher]]\nname = '{name}'\npublic_key = '{public_key}'\nnamespaces = {namespaces}\n");
    }
    policy += "[[rule]]\nnames = ['team-a/*']\nsigners = ['team', 'board']\nthreshold = 2\n[end]\n";
    folder.write("policy.toml", policy);
    folder
}

const SIGN: &str = "sign adamw.wasm --name team-a/adamw --version 1.0.0";

/// A program that signs with a key it keeps, by way of `openssl`; `None` where that is not installed.
fn signer_program(folder: &Folder) -> Option<String> {
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("SKIPPED: there is no `openssl` to run");
        return None;
    }
    let script =
        "#!/bin/sh\nset -e\ncat > \"$2.message\"\nexec openssl pkeyutl -sign -rawin -inkey \"$1\" -in \"$2.message\"\n";
    Some(program(folder, "signer", script))
}

/// A program of the folder's own, by its whole path.
fn program(folder: &Folder, name: &str, script: &str) -> String {
    folder.write(name, script);
    fs::set_permissions(folder.path(name), fs::Permissions::from_mode(0o700)).unwrap();
    folder.path(name).to_str().unwrap().to_owned()
}

#[test]
fn a_second_signer_completes_what_the_first_began() {
    let folder = organisation();
    let first = folder.done(&format!("{SIGN} --key team.key --out one.wasm --json")).json();
    let refused = folder.run("verify one.wasm --trust policy.toml --json");
    assert_eq!((refused.code(), &refused.json()["error"]["code"]), (13, &"threshold-not-met".into()));
    let details = &refused.json()["error"]["details"];
    assert_eq!(details["approval"]["signed_by"], serde_json::json!(["team"]));
    assert_eq!((&details["approval"]["rule"], &details["approval"]["threshold"]), (&"team-a/*".into(), &2.into()));
    assert_eq!(details["signatures"][0]["standing"], "valid");
    assert!(
        refused.stderr().contains("signature key") && refused.stderr().contains("asked for"),
        "{}",
        refused.stderr()
    );

    let second = folder.done("sign one.wasm --add --key board.key --out both.wasm --json").json();
    assert_eq!((&second["name"], &second["version"]), (&"team-a/adamw".into(), &"1.0.0".into()));
    assert_eq!((&second["signatures"], &second["digest"]), (&2.into(), &first["digest"]));
    assert_ne!(second["file_digest"], first["file_digest"]);
    let verified = folder.done("verify both.wasm --trust policy.toml --json").json();
    assert_eq!(verified["signatures"].as_array().unwrap().len(), 2);
    assert_eq!(verified["publisher_name"], "team");
    let text = folder.done("verify both.wasm --trust policy.toml").stdout();
    assert!(text.contains("rule `team-a/*`, 2 of 2 (team, board); signed by team, board"), "{text}");

    // Twice is once, and what others have signed is not renamed.
    assert_eq!(folder.run("sign both.wasm --add --key board.key --out x.wasm").code(), 1);
    assert_eq!(folder.run("sign one.wasm --add --key board.key --version 2.0.0 --out x.wasm").code(), 2);
    assert!(!folder.path("x.wasm").exists());
}

#[test]
fn verification_can_be_asked_for_another_day() {
    let folder = organisation();
    let key = folder.read("team.key.pub").lines().nth(1).unwrap().to_owned();
    folder.write(
        "dated.toml",
        format!("[[publisher]]\nname = 'team'\n[[publisher.key]]\npublic_key = '{key}'\nvalid_from = 2026-01-01\nvalid_until = 2026-12-31\n[end]\n"),
    );
    folder.done(&format!("{SIGN} --key team.key --out one.wasm"));
    folder.done("verify one.wasm --trust dated.toml --at 2026-12-31T23:59:59Z");
    for (date, code) in [("2025-12-31", "key-not-yet-valid"), ("2027-01-01", "expired-key")] {
        let run = folder.run(&format!("verify one.wasm --trust dated.toml --json --at {date}"));
        assert_eq!((run.code(), &run.json()["error"]["code"]), (13, &code.into()));
    }
    assert_eq!(folder.run("verify one.wasm --trust dated.toml --at tomorrow").code(), 2);
}

#[test]
fn a_policy_is_checked_before_it_is_put_in_place() {
    let folder = organisation();
    let clean = folder.done("trust check policy.toml --json").json();
    assert_eq!((&clean["errors"], &clean["warnings"]), (&0.into(), &0.into()));
    let board = folder.done("sign adamw.wasm --name adamw --version 1.0.0 --key board.key --out b.wasm --json").json();
    let board = board["publisher"].as_str().unwrap();
    folder.write("revoked.toml", format!("revoked_keys = ['{board}']\n{}", folder.read("policy.toml")));
    let run = folder.run("trust check revoked.toml --json");
    assert_eq!((run.code(), &run.json()["error"]["code"]), (1, &"trust-policy".into()));
    let findings = run.json()["error"]["details"]["findings"].clone();
    let codes: Vec<_> = findings.as_array().unwrap().iter().map(|finding| finding["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["no-valid-key", "unreachable-threshold", "revoked-key-listed"]);
    assert!(run.stderr().contains("unreachable-threshold"), "{}", run.stderr());

    folder.publisher("anybody");
    assert!(folder.done("trust check anybody.toml").stdout().contains("warning"));
    assert_eq!(folder.run("trust check anybody.toml --strict").code(), 1);
    folder.write("newer.toml", "format = 2\n");
    let newer = folder.run("trust check newer.toml --json");
    assert_eq!((newer.code(), &newer.json()["error"]["code"]), (1, &"trust-file".into()));
}

#[test]
fn the_environment_names_the_file_of_the_key() {
    let folder = organisation();
    let words: Vec<&str> = SIGN.split(' ').chain(["--out", "environment.wasm"]).collect();
    let run = folder.command(&words).env("STEPBOX_SIGNING_KEY", "team.key").output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    folder.done(&format!("{SIGN} --key team.key --out option.wasm"));
    assert_eq!(fs::read(folder.path("environment.wasm")).unwrap(), fs::read(folder.path("option.wasm")).unwrap());
    let none = folder.command(&words).env_remove("STEPBOX_SIGNING_KEY").output().unwrap();
    assert_eq!(none.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&none.stderr).contains("STEPBOX_SIGNING_KEY"));
}

#[test]
fn a_program_that_has_the_key_signs() {
    let folder = organisation();
    let Some(signer) = signer_program(&folder) else { return };
    folder.done(&format!("{SIGN} --key team.key --out file.wasm"));
    // The key's file has a space in its name: words are split as in a shell, but no shell sees them.
    fs::copy(folder.path("team.key"), folder.path("the team's $HOME.key")).unwrap();
    let command = format!("{signer} \"the team's \\$HOME.key\"");
    let arguments = ["--public-key", "team.key.pub", "--out", "program.wasm", "--signer-argument", "of the test"];
    let words = SIGN.split(' ').chain(["--signer-command", &command]).chain(arguments);
    let run = folder.command(words).env("STEPBOX_SIGNING_KEY", "board.key").output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(fs::read(folder.path("program.wasm")).unwrap(), fs::read(folder.path("file.wasm")).unwrap());

    // Exactly what the documentation says went over: 42 bytes that anybody can make.
    let message = fs::read(folder.path("of the test.message")).unwrap();
    assert_eq!(folder.run("verify program.wasm --trust policy.toml").code(), 13, "the board has not signed yet");
    let file = fs::read(folder.path("program.wasm")).unwrap();
    assert_eq!(message[..10], *b"wasmsig\x01\x01\x01");
    assert_eq!((&message[10..], message.len()), (&file[27..59], 42));
}

#[test]
fn a_program_that_signs_wrongly_leaves_no_file() {
    let folder = organisation();
    let head = |bytes: &str| format!("#!/bin/sh\ncat > /dev/null\nhead -c {bytes} /dev/zero\n");
    let wrong_key = signer_program(&folder).map(|signer| format!("{signer} board.key x"));
    let cases = [
        (Some(program(&folder, "zeros", &head("64"))), "wrong-signature"),
        (wrong_key, "wrong-signature"),
        (Some(program(&folder, "short", &head("63"))), "signer"),
        (Some(program(&folder, "long", &head("1025"))), "signer"),
        (Some(program(&folder, "endless", "#!/bin/sh\nexec cat /dev/zero\n")), "signer"),
        (Some(program(&folder, "text", "#!/bin/sh\necho no token in slot 2\n")), "signer"),
        (Some(program(&folder, "fails", "#!/bin/sh\nhead -c 64 /dev/zero\nexit 7\n")), "signer"),
        (Some(program(&folder, "late", "#!/bin/sh\nexec sleep 600\n") + " --signer-timeout 1"), "signer"),
        (Some("no-such-program".to_owned()), "signer"),
        (Some("\"unfinished".to_owned()), "signer"),
    ];
    for (command, code) in cases {
        let Some(command) = command else { continue };
        let (command, options) = command.split_once(" --").unwrap_or((&command, ""));
        let options = if options.is_empty() { String::new() } else { format!("--{options}") };
        let words = SIGN
            .split(' ')
            .chain(["--signer-command", command, "--public-key", "team.key.pub", "--out", "x.wasm", "--json"])
            .chain(options.split_whitespace());
        let run = common::Run::of(folder.command(words));
        assert_eq!((run.code(), &run.json()["error"]["code"]), (1, &code.into()), "{command}: {}", run.stderr());
        assert!(!folder.path("x.wasm").exists(), "{command}");
    }
    // A program says nothing of which key it has.
    assert_eq!(folder.run(&format!("{SIGN} --signer-command zeros --out x.wasm")).code(), 2);
    assert_eq!(
        folder.run(&format!("{SIGN} --signer-command zeros --key team.key --public-key p --out x.wasm")).code(),
        2
    );
}
