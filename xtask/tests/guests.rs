//! `cargo xtask guests` on a copy of the workspace in another place.

#![cfg(unix)]

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
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
fn the_authors_tutorial_gives_tested_components() {
    let _turn = COPY_IN_USE.lock();
    let copy = fresh_copy();
    let page = fs::read_to_string(copy.join("docs/tutorial-author.md")).unwrap();
    let shell = Shell::new(&copy);
    let (mut made, mut output) = (Vec::new(), String::new());
    for block in blocks(&page) {
        match block.kind {
            "toml" | "rust" => {
                let file = block.file.unwrap_or_else(|| panic!("line {}: in which file?", block.line));
                let path = copy.join(file);
                assert!(!path.exists(), "line {}: {file} is there already", block.line);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, block.text).unwrap();
                made.extend(file.strip_prefix("optimizers/").and_then(|file| file.strip_suffix("/src/lib.rs")));
            }
            "sh" => output = shell.run(block.text, block.line),
            "text" => {
                let mut printed = output.lines();
                for expected in block.text.lines() {
                    let found = printed.any(|line| fits(line, expected));
                    assert!(found, "line {}: not printed, or not here:\n{expected}\n{output}", block.line);
                }
            }
            other => panic!("line {}: a block of another kind, {other}", block.line),
        }
    }
    assert_eq!(made, ["my-rmsprop", "my-lamb", "my-muon"]);
    for name in made {
        let component = format!("target/guests/components/{name}.wasm");
        for file in [component, format!("{name}-1.0.0.wasm")] {
            let inspected = shell.run(&format!("cargo run --release -p stepbox -- inspect {file} --json"), 0);
            let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
            assert_eq!(inspected["optimizer"]["state"], "admitted", "{file}: {inspected}");
        }
    }
}

/// A fenced block of a page.
struct Block<'a> {
    line: usize,
    kind: &'a str,
    text: &'a str,
    /// What the line before it names, as in "`src/lib.rs`:".
    file: Option<&'a str>,
}

fn blocks(page: &str) -> Vec<Block<'_>> {
    let (mut blocks, mut position, mut before) = (Vec::new(), 0, "");
    while let Some(line) = page[position..].lines().next() {
        let next = position + line.len() + 1;
        let Some(kind) = line.strip_prefix("```") else {
            before = if line.is_empty() { before } else { line };
            position = next;
            continue;
        };
        let end = next + page[next..].find("\n```\n").expect("a block ends") + 1;
        let file = before.strip_prefix('`').and_then(|file| file.strip_suffix("`:"));
        blocks.push(Block { line: page[..next].lines().count(), kind, text: &page[next..end], file });
        (position, before) = (end + "```\n".len(), "");
    }
    blocks
}

/// Whether a line is as documented, where `…` stands for anything.
fn fits(line: &str, documented: &str) -> bool {
    match documented.split_once('…') {
        Some((start, end)) => line.len() >= start.len() + end.len() && line.starts_with(start) && line.ends_with(end),
        None => line == documented,
    }
}

#[test]
fn a_page_is_read_block_by_block() {
    let page = "Text.\n\n`a/b.rs`:\n\n```rust\nlet a;\n```\n```sh\nls\n```\nMore.\n";
    let read: Vec<_> = blocks(page).iter().map(|block| (block.line, block.kind, block.text, block.file)).collect();
    assert_eq!(read, [(5, "rust", "let a;\n", Some("a/b.rs")), (8, "sh", "ls\n", None)]);
    assert!(fits("1 passed; 0 failed", "1 passed; …") && fits("a b c", "a … c") && !fits("1 passed", "2 passed"));
}

/// What runs a page's commands as they stand: in a copy of the workspace, but `cargo xtask` and `cargo run -p stepbox`
/// are the programs built from the same sources here, or each run of the test would compile them once more.
struct Shell {
    copy: PathBuf,
    search_path: OsString,
    stepbox: PathBuf,
}

impl Shell {
    const CARGO: &str = r#"#!/bin/sh
case "$*" in
    "xtask "*) shift; exec "$TEST_XTASK" "$@" ;;
    "run --release -p stepbox -- "*) shift 5; exec "$TEST_STEPBOX" "$@" ;;
    *) exec "$TEST_CARGO" "$@" ;;
esac
"#;

    fn new(copy: &Path) -> Self {
        // With the packages that the tests are built with: alone, its dependencies' features would have them compiled anew.
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["test", "--release", "--locked", "--workspace", "--exclude", "xtask", "--no-run"]);
        cargo.args(["--message-format", "json"]);
        let built = cargo.current_dir(workspace()).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let messages = String::from_utf8(built.stdout).unwrap();
        let message = |line| serde_json::from_str::<serde_json::Value>(line).unwrap();
        let mut programs = messages.lines().map(message).filter_map(|it| it["executable"].as_str().map(PathBuf::from));
        let stepbox = programs.find(|program| program.file_stem().is_some_and(|stem| stem == "stepbox")).unwrap();

        let folder = copy.join("target/commands");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("cargo"), Self::CARGO).unwrap();
        fs::set_permissions(folder.join("cargo"), fs::Permissions::from_mode(0o755)).unwrap();
        let path = std::env::var_os("PATH").unwrap();
        let search_path = std::env::join_paths(std::iter::once(folder).chain(std::env::split_paths(&path))).unwrap();
        Self { copy: copy.to_owned(), search_path, stepbox }
    }

    /// What the commands print.
    fn run(&self, commands: &str, line: usize) -> String {
        let output = Command::new("sh")
            .args(["-c", &format!("exec 2>&1\nset -eu\n{commands}")])
            .current_dir(&self.copy)
            .env("PATH", &self.search_path)
            .env("CARGO_TARGET_DIR", self.copy.join("target"))
            .env("TEST_CARGO", env!("CARGO"))
            .env("TEST_XTASK", env!("CARGO_BIN_EXE_xtask"))
            .env("TEST_STEPBOX", &self.stepbox)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "line {line}:\n{commands}\n{text}");
        text
    }
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
