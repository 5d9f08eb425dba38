//! One digest over everything that decides what the components' bytes are.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// Files and folders, relative to the workspace's root, that go into the components. `xtask/src/guests` is the recipe.
const INPUTS: [&str; 9] = [
    "Cargo.toml",
    "Cargo.lock",
    "wit",
    "guest-sdk",
    "optimizers",
    "tests/hostile",
    "tests/hostile-kit",
    "benches/guests",
    "xtask/src/guests",
];

/// The digest of the inputs' paths and contents, the toolchain and the compiler's flags, in hexadecimal.
pub fn of_inputs(root: &Path, toolchain: &str, flags: &[String]) -> Result<String> {
    let mut digest = Sha256::new();
    for input in INPUTS {
        absorb_path(&mut digest, root, Path::new(input))?;
    }
    absorb(&mut digest, toolchain.as_bytes());
    for flag in flags {
        absorb(&mut digest, flag.as_bytes());
    }
    Ok(hexadecimal(&digest.finalize()))
}

/// SHA-256 of these bytes, in hexadecimal.
pub fn of_bytes(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// Adds a file, or a folder's files in the order of their names. What does not exist adds nothing.
fn absorb_path(digest: &mut Sha256, root: &Path, relative: &Path) -> Result<()> {
    let path = root.join(relative);
    if path.is_dir() {
        let entries = fs::read_dir(&path).with_context(|| format!("cannot list {}", path.display()))?;
        let mut names = entries.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
        names.sort();
        for name in names {
            absorb_path(digest, root, &relative.join(name))?;
        }
    } else if path.exists() {
        let contents = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        absorb(digest, relative.as_os_str().as_encoded_bytes());
        absorb(digest, &contents);
    }
    Ok(())
}

/// Adds bytes with their length before them, so that no two sequences of parts give the same stream.
fn absorb(digest: &mut Sha256, bytes: &[u8]) {
    digest.update((bytes.len() as u64).to_le_bytes());
    digest.update(bytes);
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(name: &str) -> std::path::PathBuf {
        let root = std::env::temp_dir().join(format!("stepbox-fingerprint-{name}-{}", std::process::id()));
        fs::create_dir_all(root.join("optimizers/sgd/src")).unwrap();
        fs::write(root.join("Cargo.lock"), "lock").unwrap();
        fs::write(root.join("optimizers/sgd/src/lib.rs"), "body").unwrap();
        root
    }

    #[test]
    fn it_depends_on_contents_paths_toolchain_and_flags_and_on_nothing_else() {
        let root = tree("inputs");
        let flags = ["-Ctarget-feature=+simd128".to_string()];
        let first = of_inputs(&root, "rustc 1.95.0", &flags).unwrap();

        fs::create_dir_all(root.join("host")).unwrap();
        fs::write(root.join("host/lib.rs"), "not an input").unwrap();
        assert_eq!(of_inputs(&root, "rustc 1.95.0", &flags).unwrap(), first);

        assert_ne!(of_inputs(&root, "rustc 1.96.0", &flags).unwrap(), first);
        assert_ne!(of_inputs(&root, "rustc 1.95.0", &[]).unwrap(), first);

        let body = root.join("optimizers/sgd/src/lib.rs");
        fs::write(&body, "other").unwrap();
        assert_ne!(of_inputs(&root, "rustc 1.95.0", &flags).unwrap(), first);
        fs::write(&body, "body").unwrap();
        assert_eq!(of_inputs(&root, "rustc 1.95.0", &flags).unwrap(), first);
        fs::rename(&body, root.join("optimizers/sgd/src/main.rs")).unwrap();
        assert_ne!(of_inputs(&root, "rustc 1.95.0", &flags).unwrap(), first);

        fs::remove_dir_all(root).unwrap();
    }
}
