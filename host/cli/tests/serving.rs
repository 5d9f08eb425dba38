//! A real server, run by `serve` and asked by `deploy` and `status`, over real TLS on a free port.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use common::server::{Scene, serve};
use serde_json::Value;
use stepbox_corpus::bombs;

#[test]
fn what_is_deployed_stands_in_the_status_and_in_the_log() {
    let mut scene = Scene::new();
    let (alice, bob) = (scene.connection("alice"), scene.connection("bob"));
    let status = scene.folder.done(&format!("status {bob} --json")).json();
    assert_eq!(status["optimizer"], Value::Null);
    assert_eq!(status["workers"][0]["identity"], "worker-0");

    let deploy = format!("deploy adamw-1.0.0.wasm {alice} --learning-rate 0.01 --set beta1=0.8 --json");
    let deployed = scene.folder.done(&deploy).json();
    assert_eq!(deployed["optimizer"]["name"], "adamw");
    assert_eq!(deployed["optimizer"]["version"], "1.0.0");
    let status = scene.folder.done(&format!("status {bob} --weights-digest --json")).json();
    assert_eq!(status["optimizer"], deployed["optimizer"]);
    assert_eq!(status["weights_digest"].as_str().unwrap().len(), 64);
    let text = scene.folder.done(&format!("status {bob}")).stdout();
    assert!(text.contains("adamw 1.0.0") && text.contains("worker-0"), "{text}");

    let (code, log) = scene.stop();
    assert_eq!(code, Some(0), "{log}");
    let events: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(events.iter().any(|event| event.to_string().contains("adamw")), "{log}");
}

#[test]
fn a_restarted_server_does_not_compile_anew_unless_its_cache_is_open_to_others_or_switched_off() {
    let mut scene = Scene::new();
    let deploy = |scene: &Scene| scene.folder.done(&format!("deploy adamw-1.0.0.wasm {}", scene.connection("alice")));
    // Where the server says that its code and trial are from, and warnings.
    let told = |log: &str| -> (String, String) {
        let events: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let admitted = events.iter().find(|event| event["message"] == "admitted").unwrap_or_else(|| panic!("{log}"));
        // Of protections it warns too, where the machine or the user has not all of them.
        let warns = |event: &&Value| event["level"] == "WARN" && event["message"] != "not active";
        let warnings: Vec<_> = events.iter().filter(warns).map(Value::to_string).collect();
        (admitted["origin"].as_str().unwrap().to_owned(), warnings.join("\n"))
    };
    let compiled = "compiled, since there is no entry".to_owned();
    deploy(&scene);
    assert_eq!(told(&scene.restart(&[])), (compiled, String::new()));

    deploy(&scene);
    deploy(&scene);
    let log = scene.restart(&["--no-cache"]);
    assert_eq!(told(&log), ("cached".to_owned(), String::new()));
    assert!(log.contains("in use already"), "{log}");

    deploy(&scene);
    let key = scene.folder.path("state/compiled/key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(told(&scene.restart(&[])), ("compiled".to_owned(), String::new()));

    deploy(&scene);
    let (origin, warnings) = told(&scene.stop().1);
    assert_eq!(origin, "compiled");
    assert!(warnings.contains("has mode 644") && warnings.contains("is not used"), "{warnings}");
}

#[test]
fn refusals_have_exit_codes_of_their_kind_and_change_nothing() {
    let scene = Scene::new();
    let (alice, bob, worker) = (scene.connection("alice"), scene.connection("bob"), scene.connection("worker-0"));
    scene.folder.done(&format!("deploy adamw-1.1.0.wasm {alice}"));
    let before = scene.folder.done(&format!("status {bob} --json")).json();
    for (arguments, code, exit_code, words) in [
        (format!("deploy adamw.wasm {alice}"), "untrusted", 11, "not signed"),
        (format!("deploy adamw-1.0.0.wasm {alice}"), "untrusted", 14, "older"),
        (format!("deploy adamw-1.1.0.wasm {alice} --set gamma=1"), "hyperparameter", 19, "gamma"),
        (format!("deploy adamw-1.1.0.wasm {alice} --learning-rate -1"), "hyperparameter", 19, "learning_rate"),
        (format!("deploy adamw-1.1.0.wasm {bob}"), "forbidden", 20, "bob"),
        (format!("deploy adamw-1.1.0.wasm {worker}"), "forbidden", 20, "worker-0"),
    ] {
        let run = scene.folder.run(&format!("{arguments} --json"));
        assert_eq!(run.code(), exit_code, "{arguments}: {}", run.stderr());
        let error = run.json()["error"].clone();
        assert_eq!(error["code"], code, "{arguments}: {error}");
        assert!(error["message"].as_str().unwrap().contains(words), "{arguments}: {error}");
        assert!(run.stderr().contains(words), "{}", run.stderr());
    }
    let after = scene.folder.done(&format!("status {bob} --json")).json();
    assert_eq!(
        (&after["optimizer"], &after["pending_optimizer"]),
        (&before["optimizer"], &before["pending_optimizer"])
    );
}

#[test]
fn a_deployment_file_sets_what_it_says_and_options_count_more() {
    let scene = Scene::new();
    let (alice, bob) = (scene.connection("alice"), scene.connection("bob"));
    let file = "learning_rate = 0.5\n[schedule]\nkind = 'linear'\nrounds = 100\n[hyperparameters]\nbeta1 = 2\n\
                [groups.no-decay]\ntensors = { maximum_axes = 1 }\nhyperparameters = { weight_decay = 0 }\n";
    scene.folder.write("deployment.toml", file);
    let deploy = format!("deploy adamw-1.0.0.wasm {alice} --config deployment.toml --json");
    let refused = scene.folder.run(&deploy);
    assert_eq!((refused.code(), refused.json()["error"]["code"].as_str()), (19, Some("hyperparameter")));
    assert!(refused.stderr().contains("beta1 = 2 is out of range"), "{}", refused.stderr());

    let deployed = scene.folder.done(&format!("{deploy} --set beta1=0.8 --learning-rate 0.25")).json();
    assert_eq!(deployed["groups"][0]["name"], "no-decay");
    assert_eq!(deployed["schedule"]["learning_rate"], 0.25);
    assert_eq!(deployed["schedule"]["schedule"]["kind"]["linear"]["rounds"], 100);
    let shown = scene.folder.done(&format!("schedule --show {bob} --json")).json();
    assert_eq!((&shown["learning_rate"], &shown["schedule"]), (&0.25.into(), &deployed["schedule"]));

    scene.folder.write("unknown.toml", "[groups.all]\ntensors = { key = '*' }\n");
    let unknown = scene.folder.run(&format!("deploy adamw-1.0.0.wasm {alice} --config unknown.toml --json"));
    assert_eq!((unknown.code(), unknown.json()["error"]["code"].as_str()), (1, Some("deployment")));
    assert!(unknown.stderr().contains("unknown.toml") && unknown.stderr().contains("key"), "{}", unknown.stderr());
}

#[test]
fn one_submits_another_activates_and_one_command_goes_back() {
    let scene = Scene::new();
    let [alice, carol, dave] = ["alice", "carol", "dave"].map(|identity| scene.connection(identity));
    let refused = |arguments: &str, code: &str, reason: &str| {
        let run = scene.folder.run(&format!("{arguments} --json"));
        assert!(run.code() > 4, "{arguments}: {}", run.stderr());
        let error = run.json()["error"].clone();
        assert_eq!((&error["code"], &error["reason"]), (&code.into(), &reason.into()), "{arguments}: {error}");
    };
    refused(&format!("deploy adamw-1.0.0.wasm {dave}"), "forbidden", "not-a-publisher");
    let submitted = scene.folder.done(&format!("submit adamw-1.0.0.wasm {carol} --json")).json();
    assert_eq!((&submitted["component"]["version"], &submitted["submitted_by"]), (&"1.0.0".into(), &"carol".into()));
    let digest = submitted["component"]["digest"].as_str().unwrap();
    refused(&format!("activate {digest} {carol}"), "forbidden", "not-a-deployer");
    refused(&format!("activate {} {dave}", "0".repeat(64)), "unknown-component", "not-submitted");
    assert_eq!(scene.folder.run(&format!("activate adamw-1.0.0.wasm {dave}")).code(), 2);
    let listed = scene.folder.done(&format!("submissions {dave} --json")).json();
    assert_eq!(listed, Value::Array(vec![submitted.clone()]));
    let text = scene.folder.done(&format!("submissions {dave}")).stdout();
    assert!(text.contains(digest) && text.contains("adamw 1.0.0") && text.contains("by carol at 20"), "{text}");

    let activated = scene.folder.done(&format!("activate {digest} {dave} --learning-rate 0.25 --json")).json();
    assert_eq!(activated["optimizer"], submitted["component"]);
    scene.folder.done(&format!("deploy adamw-1.1.0.wasm {alice} --learning-rate 0.5"));
    let text = scene.folder.done(&format!("status {dave}")).stdout();
    assert!(text.contains(&format!("before       adamw 1.0.0, digest {digest}")), "{text}");
    refused(&format!("rollback {carol}"), "forbidden", "not-a-deployer");
    let back = scene.folder.done(&format!("rollback {dave} --json")).json();
    assert_eq!(back["optimizer"], submitted["component"]);
    assert_eq!(back["schedule"]["learning_rate"], 0.25, "with the options it had");
    refused(&format!("rollback {dave}"), "unknown-component", "no-previous-deployment");
    // What is in force can be deployed again, although a newer version was deployed before.
    scene.folder.done(&format!("deploy adamw-1.0.0.wasm {alice}"));
    assert_eq!(scene.folder.run(&format!("rollback --to 1.0.0 {dave}")).code(), 2);

    scene.folder.done(&format!("submissions --withdraw {digest} {carol}"));
    assert_eq!(scene.folder.done(&format!("submissions {carol}")).stdout(), "nothing is submitted\n");
}

#[test]
fn a_revocation_reaches_a_running_server_at_sighup_and_a_broken_file_stops_deployments() {
    let scene = Scene::configured("reload_seconds = 600000");
    let (alice, bob) = (scene.connection("alice"), scene.connection("bob"));
    let deployed = scene.folder.done(&format!("deploy adamw-1.0.0.wasm {alice} --json")).json();
    let trust = scene.folder.read("publisher.toml");
    // Writes the trust file, has the server look at it, and waits until its status has changed.
    let status_after = |text: String, field: &str, changed: &dyn Fn(&Value) -> bool| {
        scene.folder.write("publisher.toml", text);
        assert!(Command::new("kill").args(["-HUP", &scene.server.id().to_string()]).status().unwrap().success());
        loop {
            let status = scene.folder.done(&format!("status {bob} --json")).json();
            if changed(&status["deployment"][field]) {
                return status["deployment"].clone();
            }
        }
    };
    let revoked = format!("revoked_digests = [{}]\n{trust}", deployed["optimizer"]["digest"]);
    let status = status_after(revoked, "standing", &|standing| standing == "paused");
    assert_eq!(status["revoked"][0]["optimizer"], deployed["optimizer"]);
    assert_eq!(status["revoked"][0]["reason"], "revoked-digest");
    let text = scene.folder.done(&format!("status {bob}")).stdout();
    assert!(text.contains("paused       adamw 1.0.0: the component with digest"), "{text}");

    let status = status_after("revoked_digests = 1".to_owned(), "trust_error", &|error| !error.is_null());
    assert_eq!(status["standing"], "paused", "the file before is in force");
    let run = scene.folder.run(&format!("deploy adamw-1.1.0.wasm {alice} --json"));
    assert_eq!((run.code(), run.json()["error"]["reason"].as_str()), (3, Some("trust-file")), "{}", run.stderr());
    let status = status_after(trust.clone(), "trust_error", &Value::is_null);
    assert_eq!(status["standing"], "trusted");
    scene.folder.done(&format!("deploy adamw-1.1.0.wasm {alice}"));
}

#[test]
fn the_learning_rate_is_set_by_those_who_may() {
    let scene = Scene::new();
    let (alice, bob) = (scene.connection("alice"), scene.connection("bob"));
    let nothing = scene.folder.run(&format!("schedule --set learning_rate=0.1 {alice} --json"));
    assert_eq!((nothing.code(), nothing.json()["error"]["code"].as_str()), (3, Some("no-optimizer")));
    scene.folder.done(&format!("deploy adamw-1.0.0.wasm {alice}"));

    let cosine = "schedule --set kind=cosine --set rounds=50 --set learning_rate=0.1";
    let set = scene.folder.done(&format!("{cosine} {alice} --json")).json();
    assert_eq!((&set["learning_rate"], &set["from_round"]), (&0.1.into(), &1.into()));
    let text = scene.folder.done(&format!("status {bob}")).stdout();
    assert!(text.contains("0.1; cosine from 0.1 to 0 in 50 rounds, from round 1 on"), "{text}");

    for (arguments, code, words) in [
        (format!("{cosine} {bob}"), 20, "may not set the learning rate"),
        (format!("schedule --set learning_rate=-1 {alice}"), 19, "out of range"),
        (format!("schedule --set kind=cosine {alice}"), 1, "needs `rounds`"),
        (format!("schedule {alice}"), 2, "--show"),
    ] {
        let run = scene.folder.run(&arguments);
        assert_eq!(run.code(), code, "{arguments}: {}", run.stderr());
        assert!(run.stderr().contains(words), "{arguments}: {}", run.stderr());
    }
}

#[test]
fn an_older_version_stays_refused_after_a_restart() {
    let mut scene = Scene::new();
    let alice = scene.connection("alice");
    scene.folder.done(&format!("deploy adamw-1.1.0.wasm {alice}"));
    assert_eq!(scene.stop().0, Some(0));
    (scene.server, scene.address) = serve(&scene.folder, &[]);
    let alice = scene.connection("alice");
    let run = scene.folder.run(&format!("deploy adamw-1.0.0.wasm {alice}"));
    assert_eq!(run.code(), 14);
    assert!(run.stderr().contains("1.0.0") && run.stderr().contains("1.1.0"), "{}", run.stderr());
}

#[test]
fn strangers_and_absent_servers_are_exit_code_4() {
    let mut scene = Scene::new();
    scene.folder.done("ca init --directory other");
    scene.folder.done("ca issue --directory other --name alice");
    let address = scene.address.clone();
    // Whom the server does not know, and who does not know the server.
    for files in [
        "--ca ca/ca.pem --certificate other/alice.pem --key other/alice.key",
        "--ca other/ca.pem --certificate ca/alice.pem --key ca/alice.key",
    ] {
        let run = scene.folder.run(&format!("status --server {address} {files} --json"));
        assert_eq!(run.code(), 4, "{files}: {}", run.stderr());
        assert!(["handshake", "connection-lost"].contains(&run.json()["error"]["code"].as_str().unwrap()), "{files}");
    }
    let alice = scene.connection("alice");
    scene.stop();
    let run = scene.folder.run(&format!("status {alice} --json"));
    assert_eq!(run.code(), 4);
    assert_eq!(run.json()["error"]["code"], "unreachable");
}

#[test]
fn a_profile_stands_for_the_options_and_options_override_it() {
    let scene = Scene::new();
    let profile = format!(
        "ca = '../ca/ca.pem'\ncertificate = '../ca/bob.pem'\nkey = '../ca/bob.key'\nserver = '{}'\n",
        scene.address
    );
    fs::create_dir(scene.folder.path("stepbox")).unwrap();
    // `XDG_CONFIG_HOME` is the test's folder.
    scene.folder.write("stepbox/client.toml", &profile);
    scene.folder.done("status");
    assert_eq!(scene.folder.run("deploy adamw-1.0.0.wasm").code(), 20);
    scene.folder.done("deploy adamw-1.0.0.wasm --certificate ca/alice.pem --key ca/alice.key");

    fs::create_dir(scene.folder.path("alice")).unwrap();
    scene.folder.write("alice/profile.toml", profile.replace("bob", "alice"));
    scene.folder.done("deploy adamw-1.1.0.wasm --profile alice/profile.toml");

    scene.folder.write("wrong.toml", "sever = 'misspelt'");
    for arguments in ["status --profile wrong.toml", "status --profile none.toml"] {
        assert_eq!(scene.folder.run(arguments).code(), 1, "{arguments}");
    }
    fs::remove_file(scene.folder.path("stepbox/client.toml")).unwrap();
    let run = scene.folder.run("status");
    assert_eq!(run.code(), 1);
    assert!(run.stderr().contains("--server"), "{}", run.stderr());
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let scene = Scene::new();
    let configuration = scene.folder.read("server.toml");
    for (wrong, words) in [
        (configuration.replace("ca/server.pem", "none.pem"), "none.pem"),
        (configuration.replace("publisher.toml", "none.toml"), "none.toml"),
        (configuration.replace("127.0.0.1:0", &scene.address), "cannot listen"),
        (configuration.replace("workers", "werkers"), "werkers"),
    ] {
        // With the state directory of the server that runs, that would be what is wrong.
        scene.folder.write("wrong.toml", wrong.replace("'state'", "'other'"));
        let run = scene.folder.run("serve --config wrong.toml");
        assert_eq!(run.code(), 1, "{words}");
        assert!(run.stdout().is_empty(), "{}", run.stdout());
        assert!(run.stderr().contains(words) && run.stderr().contains("wrong.toml"), "{}", run.stderr());
    }
    let run = Command::new(env!("CARGO_BIN_EXE_stepbox"))
        .args(["serve", "--config"])
        .arg(scene.folder.path("server.toml"))
        .env("RUST_LOG", "no[filter")
        .output()
        .unwrap();
    assert_eq!(run.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&run.stderr).contains("RUST_LOG"));
}

#[test]
fn a_compile_bomb_is_refused_by_name_and_the_server_goes_on() {
    let mut scene = Scene::new();
    let configuration = scene.folder.read("server.toml");
    scene.folder.write("server.toml", format!("{configuration}[compiler]\nprocessor_seconds = 1\n"));
    let log = scene.restart(&[]);
    assert!(log.contains("a process for each component"), "{log}");
    let alice = scene.connection("alice");
    for (name, bytes) in [("bomb", bombs::endless()), ("forbidden", bombs::nested_loops(10, 5_000))] {
        scene.folder.write(&format!("{name}.wasm"), bytes);
        scene.folder.done(&format!(
            "sign {name}.wasm --key publisher.key --name adamw --version 2.0.0 --out {name}-signed.wasm"
        ));
    }
    for (name, code, reason) in
        [("bomb", 17, "compiler.processor_seconds = 1"), ("forbidden", 15, "sandbox.component.block_depth = 1000")]
    {
        let refused = scene.folder.run(&format!("deploy {name}-signed.wasm {alice} --json"));
        assert_eq!(refused.code(), code);
        assert_eq!(refused.json()["error"]["code"], "not-admitted");
        assert!(refused.stderr().contains(reason), "{}", refused.stderr());
    }
    scene.folder.done(&format!("deploy adamw-1.0.0.wasm {alice}"));
    let (code, _) = scene.stop();
    assert_eq!(code, Some(0));
}
