//! Modules import downwards only: within a crate, a folder or file at the root of `src` uses only its own modules and
//! those of the layers below it. `docs/architecture.md` shows the layers.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The layers of each crate, from the top down. Modules of one layer do not use each other.
const CRATES: [(&str, &[&[&str]]); 2] = [
    (
        "host/sandbox/src",
        &[
            &["admission", "fuzz"],
            &["local"],
            &["pool"],
            &["slice"],
            &["instance"],
            &["contract"],
            &["error", "limits"],
        ],
    ),
    (
        "host/server/src",
        &[
            &["listen"],
            &["session"],
            &["report"],
            &["deploy"],
            &["round"],
            &["job"],
            &["component", "model", "shard"],
            &["optimizer"],
            &["tensor"],
            &["audit", "limiting", "peer"],
            &["config", "logging"],
            &["names"],
        ],
    ),
];

/// The modules at the root of the crate that a source file names in its paths, as in `crate::module::Item` and
/// `crate::{module::Item, other}`.
fn modules_used(source: &str) -> BTreeSet<String> {
    let code: String =
        source.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    // Tests of a module may use what they like.
    let code = code.replace("pub(crate) mod ", "mod ");
    let code = code.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let is_of_name = |character: char| character.is_alphanumeric() || character == '_';
    let name = |text: &str| text.chars().take_while(|character| is_of_name(*character)).collect::<String>();
    let mut used = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|character| is_of_name(character) || character == '$') {
            continue;
        }
        let path = &code[at + "crate::".len()..];
        let Some(group) = path.strip_prefix('{') else {
            used.insert(name(path));
            continue;
        };
        let (mut depth, mut is_first) = (0, true);
        for (at, character) in group.char_indices() {
            match character {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => is_first = true,
                _ if is_first && is_of_name(character) => {
                    used.insert(name(&group[at..]));
                    is_first = false;
                }
                _ => {}
            }
        }
    }
    used
}

/// All Rust files in a folder and its subfolders.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] });
    files.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

#[test]
fn modules_import_downwards_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut wrong = Vec::new();
    for (krate, layers) in CRATES {
        let source = root.join(krate);
        let layer = |module: &str| layers.iter().position(|layer| layer.contains(&module));
        for path in files(&source) {
            let inner = path.strip_prefix(&source).unwrap();
            let module = inner.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
            if module == "lib" {
                continue;
            }
            let Some(own) = layer(module) else {
                wrong.push(format!("{krate}: `{module}` is in no layer"));
                continue;
            };
            for used in modules_used(&fs::read_to_string(&path).unwrap()) {
                // A name that is not a module is a macro or an item at the root of the crate.
                let is_above = layer(&used).is_some_and(|layer| layer < own || layer == own && used != module);
                if is_above {
                    wrong.push(format!("{}: uses `{used}`, which is not below `{module}`", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn paths_are_found_in_every_form() {
    let source = "use crate::one::{Two, three};\nuse crate::{four::Five, six::{seven, Eight}, nine};\n\
                  // use crate::ten;\nfn f() { crate::eleven::g(); $crate::macros!() }\n\
                  #[cfg(test)]\nmod tests { use crate::twelve; }";
    let expected = ["eleven", "four", "nine", "one", "six"].map(str::to_owned);
    assert_eq!(modules_used(source), expected.into());
}
