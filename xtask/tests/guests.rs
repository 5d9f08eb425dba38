//! `cargo xtask guests` on a copy of the workspace in another place.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::time::SystemTime;

use serde::Deserialize;

/// One optimizer stands for all: they are built alike.
const GUEST: &str = "adamw";

/// The tests share the copy, because what is compiled in it is most of their cost.
static COPY_IN_USE: Mutex<()> = Mutex::new(());

#[derive(Deserialize)]
struct Component {
    name: String,
    path: PathBuf,
    bytes: u64,
    sha256: String,
}

#[test]
fn the_same_source_gives_the_same_bytes_in_another_place() {
    let _turn = COPY_IN_USE.lock();
    let copy = fresh_copy();
    let here = build(&workspace());
    let there = build(&copy);
    assert_ne!(here.path, there.path);
    assert_eq!(here.sha256, there.sha256, "{} and {} differ", here.path.display(), there.path.display());
    assert_eq!(fs::read(&here.path).unwrap(), fs::read(&there.path).unwrap());

    let bytes = fs::read(&there.path).unwrap();
    assert_eq!(there.bytes, bytes.len() as u64);
    for place in [&workspace(), &copy] {
        let place = place.to_str().unwrap().as_bytes();
        assert!(!bytes.windows(place.len()).any(|window| window == place), "the component names a folder of ours");
    }
}

#[test]
fn only_what_changed_is_built_again() {
    let _turn = COPY_IN_USE.lock();
    let copy = fresh_copy();
    let first = build(&copy);
    let written = modified(&first.path);

    let output = run(&copy);
    assert!(String::from_utf8_lossy(&output.stderr).contains("up to date"));
    assert_eq!(modified(&first.path), written);

    // A component that is not what was built is not taken for it.
    let mut damaged = fs::read(&first.path).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(&first.path, &damaged).unwrap();
    assert_eq!(build(&copy).sha256, first.sha256);
    assert_ne!(fs::read(&first.path).unwrap(), damaged);

    // A change of the source is not overlooked, and undoing it leads back to the same bytes.
    let source = copy.join("optimizers").join(GUEST).join("src/lib.rs");
    let text = fs::read_to_string(&source).unwrap();
    let changed = text.replace("\"adamw\"", "\"adamv\"");
    assert_ne!(changed, text);
    fs::write(&source, changed).unwrap();
    assert_ne!(build(&copy).sha256, first.sha256);
    fs::write(&source, text).unwrap();
    assert_eq!(build(&copy).sha256, first.sha256);
}

#[test]
fn an_unknown_guest_is_refused_with_the_names_that_exist() {
    let output = xtask(&workspace()).args(["guests", "--only", "no-such-optimizer"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("no-such-optimizer") && message.contains(GUEST), "{message}");
}

#[test]
fn the_authors_tutorial_gives_a_tested_component() {
    let _turn = COPY_IN_USE.lock();
    let copy = fresh_copy();
    let tutorial = fs::read_to_string(copy.join("docs/tutorial-author.md")).unwrap();
    let folder = copy.join("optimizers/rmsprop");
    fs::create_dir_all(folder.join("src")).unwrap();
    fs::write(folder.join("Cargo.toml"), fenced(&tutorial, "toml")).unwrap();
    fs::write(folder.join("src/lib.rs"), fenced(&tutorial, "rust")).unwrap();

    let tests = Command::new(env!("CARGO"))
        .args(["test", "--release", "-p", "optimizer-rmsprop"])
        .current_dir(&copy)
        .env("CARGO_TARGET_DIR", copy.join("target"))
        .output()
        .unwrap();
    assert!(tests.status.success(), "{}", String::from_utf8_lossy(&tests.stderr));
    assert!(String::from_utf8_lossy(&tests.stdout).contains("1 passed"));
    assert!(build_guest(&copy, "rmsprop").bytes > 0);
}

/// The only fenced block of a language in a text.
fn fenced<'a>(text: &'a str, language: &str) -> &'a str {
    let mut blocks =
        text.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'));
    let block = blocks.next().unwrap();
    assert!(blocks.next().is_none(), "one {language} block");
    block
}

fn build(root: &Path) -> Component {
    build_guest(root, GUEST)
}

fn build_guest(root: &Path, guest: &str) -> Component {
    let output = run_for(root, guest);
    let mut components = serde_json::from_slice::<Vec<Component>>(&output.stdout).unwrap();
    assert_eq!(components.len(), 1);
    let component = components.remove(0);
    assert_eq!(component.name, guest);
    component
}

fn run(root: &Path) -> Output {
    run_for(root, GUEST)
}

fn run_for(root: &Path, guest: &str) -> Output {
    let output = xtask(root).args(["guests", "--json", "--only", guest]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn xtask(root: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.current_dir(root);
    command
}

fn modified(path: &Path) -> SystemTime {
    fs::metadata(path).unwrap().modified().unwrap()
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().canonicalize().unwrap()
}

/// The workspace's sources in a folder of other depth and name. What earlier runs compiled there stays, or a machine
/// without a compiled standard library for WebAssembly would compile one each time.
fn fresh_copy() -> PathBuf {
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("copy of the workspace");
    fs::create_dir_all(&copy).unwrap();
    for entry in fs::read_dir(&copy).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true if path.ends_with("target") => {}
            true => fs::remove_dir_all(path).unwrap(),
            false => fs::remove_file(path).unwrap(),
        }
    }
    copy_sources(&workspace(), &copy);
    copy.canonicalize().unwrap()
}

fn copy_sources(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_file() {
            fs::copy(&path, to.join(name)).unwrap();
        } else if path.is_dir() && name != "target" && name != ".git" {
            copy_sources(&path, &to.join(name));
        }
    }
}
