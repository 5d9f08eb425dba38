//! What the documentation says, done: its commands are run, its limits held against the code, its tests and links looked
//! for.

#![cfg(unix)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Folder, component};
use stepbox_server::Config;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn document(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

// Commands.

/// A fenced block of commands.
struct Step {
    line: usize,
    commands: String,
    /// What they must end with; `None` where they are not to be run.
    exit_code: Option<i32>,
    /// The block `text` that follows: what must be among the output, line by line and in this order.
    output: Vec<String>,
}

/// The blocks of a document that are to be run: `sh`, and `sh exit=N` where one must fail. Not those of `sh no-run`.
fn steps(document: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = document.lines().zip(1..);
    while let Some((line, number)) = lines.next() {
        let Some(kind) = line.strip_prefix("```") else { continue };
        let block: Vec<_> = lines.by_ref().map(|(line, _)| line.to_owned()).take_while(|line| line != "```").collect();
        let exit_code = match kind {
            "sh" => Some(0),
            "sh no-run" => None,
            "text" => {
                let step = steps.last_mut().unwrap_or_else(|| panic!("line {number}: the output of what?"));
                assert!(step.output.is_empty(), "line {number}: a second output of the commands at {}", step.line);
                step.output = block;
                continue;
            }
            _ => match kind.strip_prefix("sh exit=").map(str::parse) {
                Some(Ok(code)) => Some(code),
                _ => panic!("line {number}: a block of another kind, {kind}"),
            },
        };
        steps.push(Step { line: number, commands: block.join("\n"), exit_code, output: Vec::new() });
    }
    steps.retain(|step| step.exit_code.is_some());
    steps
}

/// Runs a document's commands in one shell and an empty folder, and compares what comes out.
fn follow(name: &str) {
    // Fails with what to do where the components have not been built.
    component("adamw");
    let program = Path::new(env!("CARGO_BIN_EXE_stepbox"));
    let worker = program.with_file_name("digits-worker");
    assert!(worker.exists(), "{}: run `cargo build --release -p stepbox-demo` first", worker.display());

    let steps = steps(&document(name));
    assert!(!steps.is_empty(), "{name} has nothing to run");
    let folder = Folder::new();
    // Grouping keeps variables and background jobs in the one shell.
    let mut script = String::from("set -eu\n");
    for (number, Step { commands, exit_code, .. }) in steps.iter().enumerate() {
        script += &match exit_code {
            Some(0) => format!("{{\n{commands}\n}} > output-{number} 2>&1\necho 0 > code-{number}\n"),
            _ => format!("set +e\n{{\n{commands}\n}} > output-{number} 2>&1\necho $? > code-{number}\nset -e\n"),
        };
    }
    let search_path = std::env::join_paths(
        std::iter::once(program.parent().unwrap().to_owned())
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    );
    let shell = Command::new("sh")
        .args(["-c", &script])
        .current_dir(folder.path(""))
        .env("PATH", search_path.unwrap())
        .env("components", root().join("target/guests/components"))
        .env("XDG_CONFIG_HOME", folder.path("configuration"))
        .env_remove("RUST_LOG")
        .envs(common::allow_root())
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let group = shell.id();
    let shell = shell.wait_with_output().unwrap();
    // Where a command failed, the server that an earlier one started still runs.
    let _ = Command::new("sh").args(["-c", &format!("kill -KILL -{group} 2>/dev/null")]).status();

    for (number, step) in steps.iter().enumerate() {
        let place = format!("{name}, commands at line {}:\n{}", step.line, step.commands);
        let output = fs::read_to_string(folder.path(&format!("output-{number}"))).unwrap_or_default();
        let code = fs::read_to_string(folder.path(&format!("code-{number}"))).unwrap_or_else(|_| {
            panic!("{place}\ndid not end well:\n{output}{}", String::from_utf8_lossy(&shell.stderr));
        });
        assert_eq!(code.trim().parse().ok(), step.exit_code, "{place}\n{output}");
        let mut printed = output.lines();
        for expected in &step.output {
            assert!(
                printed.any(|line| fits(line, expected)),
                "{place}\ndid not print, or not here,\n{expected}\n{output}"
            );
        }
    }
}

/// Whether a line is as documented, where `…` stands for anything.
fn fits(line: &str, documented: &str) -> bool {
    let mut parts = documented.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(position) = rest.find(part) else { return false };
        rest = &rest[position + part.len()..];
    }
    rest.ends_with(last)
}

#[test]
fn the_operators_tutorial_works() {
    follow("docs/tutorial-operator.md");
}

#[test]
fn the_sceptics_tutorial_works() {
    follow("docs/tutorial-sceptic.md");
}

#[test]
fn lines_fit_what_is_documented() {
    assert!(fits("a digest 0f, done", "a digest …, done"));
    assert!(fits("x", "…") && fits("", "") && fits("abab", "a…b"));
    assert!(!fits("a digest 0f, failed", "a digest …, done"));
    assert!(!fits("ab", "a") && !fits("a", "ab") && !fits("a", "a…a"));
}

// Limits.

/// The cells of all tables' rows whose first is a name in backquotes.
fn rows(document: &str) -> impl Iterator<Item = Vec<&str>> {
    document
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`')).collect())
}

/// `NAME` and value, as written, of all constants of the host's crates.
fn constants() -> Vec<(String, String)> {
    let mut files = Vec::new();
    sources(&root().join("host"), &mut files);
    let mut constants = Vec::new();
    for file in files {
        for line in fs::read_to_string(file).unwrap().lines() {
            if let Some((_, declaration)) = line.trim_start().split_once("const ")
                && let Some((name, rest)) = declaration.split_once(':')
                && let Some((_, value)) = rest.split_once(" = ")
            {
                constants.push((name.to_owned(), value.trim_end_matches(';').to_owned()));
            }
        }
    }
    constants
}

fn sources(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn limits_that_can_be_set_have_the_documented_names_and_defaults() {
    const SMALLEST: &str = "listen = '127.0.0.1:0'\nstate_directory = 's'\ntls.ca = 'a'\ntls.certificate = 'c'\n\
                            tls.key = 'k'\ntrust.store = 't'\n";
    let text = document("docs/limits.md");
    let constants = constants();
    let mut documented = String::from(SMALLEST);
    let mut settings = 0;
    for row in rows(&text) {
        let [key, constant, default, ..] = row[..] else { continue };
        let Some(constant) = constant.strip_prefix("DEFAULT_").map(|_| constant) else { continue };
        assert!(constants.iter().any(|(name, _)| name == constant), "there is no {constant}");
        let number = default.split(" (").next().unwrap();
        if let Some((_, size)) = default.split_once(" (") {
            assert_eq!(bytes(size.trim_end_matches(')')), number.parse().ok(), "{key}: {default}");
        }
        documented += &format!("{key} = {number}\n");
        settings += 1;
    }
    documented += "job.workers = ['w']\n";
    let documented = Config::parse(&documented, Path::new("")).unwrap_or_else(|error| panic!("{error}\n{documented}"));
    let code = Config::parse(&format!("{SMALLEST}job.workers = ['w']\n"), Path::new("")).unwrap();
    assert_eq!(documented.limits, code.limits);
    assert_eq!(documented.sandbox, code.sandbox);
    assert_eq!(documented.compiler, code.compiler);
    assert_eq!(documented.cache, code.cache);
    assert_eq!(documented.audit, code.audit);
    assert_eq!(documented.trust.reload_seconds, code.trust.reload_seconds);
    assert_eq!(documented.tls.reload_seconds, code.tls.reload_seconds);
    let (documented, code) = (documented.job.unwrap(), code.job.unwrap());
    assert_eq!(documented.round_timeout_seconds, code.round_timeout_seconds);
    assert_eq!(documented.reconnect_grace_seconds, code.reconnect_grace_seconds);
    assert!(settings > 20, "the tables were not found");
}

#[test]
fn the_command_line_shows_every_limit_that_can_be_set() {
    let text = document("docs/limits.md");
    let documented: BTreeSet<_> = rows(&text)
        .filter(|row| row.get(1).is_some_and(|constant| constant.starts_with("DEFAULT_")))
        .map(|row| row[0].to_owned())
        .filter(|name| name.contains('.'))
        .collect();
    let shown = Folder::new().done("limits --json").json();
    let shown: BTreeSet<_> =
        shown["limits"].as_array().unwrap().iter().map(|limit| limit["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(shown, documented);
}

/// A size such as `16 KiB`.
fn bytes(size: &str) -> Option<u64> {
    let (number, unit) = size.split_once(' ')?;
    let shift = ["B", "KiB", "MiB", "GiB"].iter().position(|name| *name == unit)?;
    Some(number.parse::<u64>().ok()? << (10 * shift))
}

#[test]
fn fixed_limits_have_the_documented_values_and_none_is_missing() {
    let text = document("docs/limits.md");
    let constants = constants();
    for row in rows(&text) {
        let [name, value, ..] = row[..] else { continue };
        if name.chars().all(|character| character.is_ascii_uppercase() || "_0123456789".contains(character)) {
            let values: Vec<_> = constants.iter().filter(|(other, _)| other == name).map(|(_, value)| value).collect();
            assert!(
                values.iter().any(|other| *other == value),
                "{name} is documented as {value}, the code has {values:?}"
            );
        }
    }
    for (name, _) in constants.iter().filter(|(name, _)| name.starts_with("MAX_") || name.starts_with("DEFAULT_")) {
        assert!(text.contains(&format!("`{name}`")), "docs/limits.md does not have {name}");
    }
}

// Tests and links.

/// Text and target of all links to files, as in `[text](target)`.
fn links(document: &str) -> Vec<(&str, &str)> {
    let mut links = Vec::new();
    for (position, _) in document.match_indices("](") {
        let text = &document[document[..position].rfind('[').unwrap() + 1..position];
        let target = &document[position + 2..];
        links.push((text, &target[..target.find(')').unwrap()]));
    }
    links.retain(|(_, target)| !target.contains("://"));
    links
}

fn documents() -> Vec<(PathBuf, String)> {
    let mut paths: Vec<_> = ["README.md", "SECURITY.md", "CHANGELOG.md"].map(|name| root().join(name)).into();
    for folder in ["docs", "docs/benchmarks"] {
        paths.extend(fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path()));
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    for (path, text) in documents() {
        for (_, target) in links(&text) {
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { path.clone() } else { path.with_file_name(file) };
            assert!(file.exists(), "{}: {target} is not there", path.display());
            if !heading.is_empty() {
                let text = fs::read_to_string(&file).unwrap();
                let mut headings = text.lines().filter(|line| line.starts_with('#')).map(anchor);
                assert!(headings.any(|other| other == heading), "{}: {target} has no such heading", path.display());
            }
        }
    }
}

/// What GitHub makes of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn every_test_that_the_documentation_names_exists() {
    let mut found = 0;
    for (path, text) in documents() {
        for (name, target) in links(&text) {
            let Some(name) = name.strip_prefix('`').and_then(|name| name.strip_suffix('`')) else { continue };
            if !target.ends_with(".rs") || name.contains(['/', '.']) {
                continue;
            }
            let file = path.with_file_name(target);
            let source = fs::read_to_string(&file).unwrap();
            assert!(
                is_a_test(&source, name) || is_an_attack(&file, name),
                "{}: {target} has no test {name}",
                path.display()
            );
            found += 1;
        }
    }
    assert!(found > 50, "the tests' names were not found");
}

/// Whether there is a function of this name, and the attributes above it make a test of it.
fn is_a_test(source: &str, name: &str) -> bool {
    let lines: Vec<_> = source.lines().map(str::trim).collect();
    let declaration = format!("fn {name}(");
    let position = lines
        .iter()
        .position(|line| line.trim_start_matches("pub ").trim_start_matches("async ").starts_with(&declaration));
    position.is_some_and(|position| {
        let attributes: Vec<_> = lines[..position].iter().rev().take_while(|line| line.starts_with("#[")).collect();
        let is_test = |line: &&&str| line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        attributes.iter().any(is_test) && !attributes.iter().any(|line| line.starts_with("#[ignore"))
    })
}

/// Whether the list of attacks, of each of which a test is made, has one of this name.
fn is_an_attack(file: &Path, name: &str) -> bool {
    let module = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let list = fs::read_to_string(file.with_file_name("main.rs")).unwrap_or_default();
    list.contains("attacks! {") && list.contains(&format!("    {module}::{name}: ["))
}

#[test]
fn tests_are_told_from_other_functions() {
    let source = "#[test]\npub fn a() {}\n\nfn b() {}\n#[tokio::test(flavor = \"multi_thread\")]\nasync fn c() {}\n\
                  #[cfg(test)]\nfn e() {}\n#[test]\n#[ignore = \"slow\"]\nfn f() {}\n";
    assert!(is_a_test(source, "a") && is_a_test(source, "c"));
    for name in ["b", "d", "e", "f"] {
        assert!(!is_a_test(source, name), "{name}");
    }
}
