//! Gives the crate a number that changes with its own source: what the compile cache keeps of an admission is good only
//! for the rules it was admitted under.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::Path;

fn main() -> io::Result<()> {
    let mut hasher = DefaultHasher::new();
    for folder in ["src", "../../wit/v0.1"] {
        println!("cargo:rerun-if-changed={folder}");
        hash(Path::new(folder), &mut hasher)?;
    }
    // Which versions of other crates take part in a trial. A crate that is built elsewhere has no such file.
    let versions = Path::new("../../Cargo.lock");
    if versions.exists() {
        println!("cargo:rerun-if-changed={}", versions.display());
        fs::read(versions)?.hash(&mut hasher);
    }
    println!("cargo:rustc-env=STEPBOX_SANDBOX_SOURCE={:016x}", hasher.finish());
    Ok(())
}

/// Names and content of a folder's files, in the order of names.
fn hash(folder: &Path, hasher: &mut DefaultHasher) -> io::Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        entry.file_name().hash(hasher);
        match entry.file_type()?.is_dir() {
            true => hash(&entry.path(), hasher)?,
            false => fs::read(entry.path())?.hash(hasher),
        }
    }
    Ok(())
}
