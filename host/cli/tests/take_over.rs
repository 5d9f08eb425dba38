//! What can be deployed after a take-over that failed at any of its steps, or was undone, and a restart.
#![cfg(unix)]

mod common;

use std::fs;
use std::process::Command;

use common::server::{Scene, serve};
use serde_json::Value;

const GOOD: &str = "adamw-1.0.0.wasm";
const LATER: &str = "adamw-1.1.0.wasm";

fn status(scene: &Scene) -> Value {
    scene.folder.done(&format!("status {} --json", scene.connection("bob"))).json()
}

fn deploy(scene: &Scene, file: &str) -> i32 {
    scene.folder.run(&format!("deploy {file} {}", scene.connection("alice"))).code()
}

fn roll_back(scene: &Scene) -> i32 {
    scene.folder.run(&format!("rollback {}", scene.connection("alice"))).code()
}

/// Ends the server as a machine that loses power does, and starts it again.
fn crash(scene: &mut Scene) {
    assert!(Command::new("kill").args(["-KILL", &scene.server.id().to_string()]).status().unwrap().success());
    scene.server.wait().unwrap();
    (scene.server, scene.address) = serve(&scene.folder, &[]);
}

fn version(scene: &Scene) -> String {
    status(scene)["optimizer"]["version"].as_str().unwrap_or("none").to_owned()
}

#[test]
fn what_was_gone_back_to_can_be_deployed_after_a_restart_and_no_other_older_version() {
    let mut scene = Scene::new();
    scene.folder.done("sign adamw.wasm --key publisher.key --name adamw --version 1.0.5 --out adamw-1.0.5.wasm");
    assert_eq!((deploy(&scene, GOOD), deploy(&scene, LATER), roll_back(&scene)), (0, 0, 0));
    scene.restart(&[]);
    // Nothing runs: the way back is to what ran last.
    assert_eq!(status(&scene)["optimizer"], Value::Null);
    assert_eq!(status(&scene)["deployment"]["previous"][0]["version"], "1.0.0", "{}", status(&scene));
    assert_eq!(deploy(&scene, GOOD), 0);
    assert_eq!(version(&scene), "1.0.0");
    assert_eq!(deploy(&scene, "adamw-1.0.5.wasm"), 14, "downgrades stay refused");
    scene.restart(&[]);
    assert_eq!(roll_back(&scene), 0);
    assert_eq!(version(&scene), "1.0.0");
}

#[test]
fn a_take_over_that_fails_at_any_step_keeps_nobody_from_what_ran_and_from_trying_again() {
    let digest = |scene: &Scene| {
        let verified = scene.folder.done(&format!("verify {LATER} --trust publisher.toml --json")).json();
        verified["digest"].as_str().unwrap().to_owned()
    };
    // A folder in the place of the file that a step writes first; whether the take-over happens all the same.
    type Place = fn(&str) -> String;
    let steps: [(&str, Place, bool); 3] = [
        ("the component's file", |digest| format!("state/components/{digest}.wasm.tmp"), false),
        ("the ledger", |_| "state/versions.toml.tmp".to_owned(), false),
        ("the index of components", |_| "state/components/index.toml.tmp".to_owned(), true),
    ];
    for (step, place, takes_effect) in steps {
        let mut scene = Scene::new();
        assert_eq!(deploy(&scene, GOOD), 0);
        let obstacle = scene.folder.path(&place(&digest(&scene)));
        fs::create_dir(&obstacle).unwrap();
        assert_eq!(deploy(&scene, LATER) == 0, takes_effect, "{step}");
        assert_eq!(version(&scene), if takes_effect { "1.1.0" } else { "1.0.0" }, "{step}");
        fs::remove_dir(&obstacle).unwrap();
        crash(&mut scene);
        // What ran before the take-over is there to go back to, and what was to take over can be tried again.
        assert_eq!(roll_back(&scene), 0, "{step}");
        assert_eq!(version(&scene), "1.0.0", "{step}");
        assert_eq!(deploy(&scene, LATER), 0, "{step}");
        assert_eq!(deploy(&scene, GOOD), 14, "{step}: what has taken effect is not undone by a file");
        crash(&mut scene);
        assert_eq!((deploy(&scene, GOOD), deploy(&scene, LATER)), (14, 0), "{step}");
    }
}
