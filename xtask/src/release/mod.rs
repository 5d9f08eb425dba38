//! `cargo xtask release`: what is handed out, with a bill of materials and digests.
//!
//! Nothing in these files depends on when or by whom they were made, besides the program itself, into which the compiler
//! writes where its sources lay.

mod bill;
mod packages;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{guests, workspace};

/// The program that is handed out, and the package it is made of.
const PROGRAM: &str = "stepbox";

/// Where optimizers go below the release's folder.
const OPTIMIZERS: &str = "optimizers";

/// The bill of materials. Tools know it by how its name ends.
const BILL: &str = "stepbox.cdx.json";

/// The digests of all other files, as `sha256sum` reads them.
const DIGESTS: &str = "SHA256SUMS";

/// Where and how.
#[derive(clap::Args)]
pub struct Options {
    /// The folder to write; what is in it is replaced
    #[arg(long, value_name = "DIR", default_value = "target/release-files")]
    output: PathBuf,
    /// Only these optimizers, and not the program: quick, to look at the bill of materials (comma-separated)
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// Print one JSON list of path, bytes and sha256 on standard output
    #[arg(long)]
    json: bool,
}

/// A file of the release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Released {
    /// Below the release's folder, with `/` between its parts.
    path: String,
    bytes: u64,
    sha256: String,
    /// The package it is made of, for the bill of materials.
    #[serde(skip)]
    package: String,
}

/// Builds everything and writes the folder.
pub fn run(options: &Options) -> Result<()> {
    let root = workspace::root()?;
    let components = guests::build(&guests::Options::only(&names(&options.only)))?;
    let is_whole = options.only.is_empty();
    if is_whole {
        workspace::build(&root, &[PROGRAM], "the program")?;
    }
    let output = root.join(&options.output);
    clear(&output)?;

    let mut released = Vec::new();
    if is_whole {
        let program = workspace::release_folder(&root).join(PROGRAM);
        released.push(copy(&program, &output, PROGRAM, PROGRAM, 0o755)?);
    }
    // The tests' and benchmarks' guests have names with a folder in them.
    for component in components.iter().filter(|component| !component.name.contains('/')) {
        let path = format!("{OPTIMIZERS}/{}.wasm", component.name);
        let package = format!("optimizer-{}", component.name);
        let copied = copy(&component.path, &output, &path, &package, 0o644)?;
        ensure!(copied.sha256 == component.sha256, "{path} is not what was built");
        released.push(copied);
    }
    let bill = bill::of(&root, &released)?;
    released.push(write(&output, BILL, &bill)?);

    let digests: String = released.iter().map(|file| format!("{}  {}\n", file.sha256, file.path)).collect();
    write(&output, DIGESTS, digests.as_bytes())?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&released)?);
    } else {
        println!("{} files in {}", released.len() + 1, output.display());
    }
    eprintln!(
        "\nTo check them, in that folder:\n  \
         sha256sum --check {DIGESTS}              the files are those listed\n  \
         cargo xtask guests --json               the same source gives the same optimizers: compare their digests\n  \
         any CycloneDX 1.5 tool on {BILL}   what is in them, for a scanner of vulnerabilities\n\
         The optimizers are not signed: a publisher signs them with `stepbox sign`. {DIGESTS} is for you to sign."
    );
    Ok(())
}

fn names(only: &[String]) -> Vec<&str> {
    only.iter().map(String::as_str).collect()
}

/// An empty folder. One with other things in it than a release is left alone.
fn clear(output: &Path) -> Result<()> {
    if output.exists() {
        ensure!(
            output.join(DIGESTS).is_file() || fs::read_dir(output)?.next().is_none(),
            "{} holds something else than a release; name another folder",
            output.display()
        );
        fs::remove_dir_all(output).with_context(|| format!("cannot clear {}", output.display()))?;
    }
    fs::create_dir_all(output.join(OPTIMIZERS)).with_context(|| format!("cannot make {}", output.display()))
}

fn copy(from: &Path, output: &Path, path: &str, package: &str, mode: u32) -> Result<Released> {
    let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    let released = write(output, path, &bytes)?;
    fs::set_permissions(output.join(path), fs::Permissions::from_mode(mode))?;
    Ok(Released { package: package.to_owned(), ..released })
}

fn write(output: &Path, path: &str, bytes: &[u8]) -> Result<Released> {
    let file = output.join(path);
    fs::write(&file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
    let sha256 = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Released { path: path.to_owned(), bytes: bytes.len() as u64, sha256, package: String::new() })
}
