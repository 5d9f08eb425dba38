//! A Rust toolchain that can compile for `wasm32-unknown-unknown`: found, fetched or put together, in this order.
//!
//! 1. The target is installed in the toolchain that runs us.
//! 2. `rustup target add`, which cannot reach anything on some machines, and there hangs or fails.
//! 3. Debian's packages of rustc and of the standard library's source, unpacked into the cache and never installed.
//!    They carry no compiled library for this target: cargo builds it from the source.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use super::debian::{self, UnpackedToolchain};
use crate::process::{is_available, output_of, run_within};

/// What components are compiled for.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// How long rustup may take: a download of 20 MB takes seconds, and without a network it waits for ever.
const RUSTUP_LIMIT: Duration = Duration::from_secs(30);

/// How long a failure of rustup is remembered, so that not every run waits for it.
const RUSTUP_FAILURE_REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);

/// A way to come by the toolchain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Way {
    /// The target is installed already.
    Installed,
    /// `rustup target add wasm32-unknown-unknown`.
    Rustup,
    /// Debian packages, unpacked into the cache.
    Debian,
}

impl Way {
    /// In the order in which they are tried.
    pub const ALL: [Way; 3] = [Way::Installed, Way::Rustup, Way::Debian];

    /// What somebody could do by hand to make this way work.
    fn advice(self) -> &'static str {
        match self {
            Way::Installed => "install the target with your distribution's or your own Rust",
            Way::Rustup => "run `rustup target add wasm32-unknown-unknown` where the network allows it",
            Way::Debian => {
                "use a Debian (or derivative) whose apt sources offer `rustc-web` of a recent enough release"
            }
        }
    }
}

/// A toolchain that compiles guests.
pub struct Toolchain {
    /// Its compilers' versions in full: another identity may give other bytes.
    pub identity: String,
    /// The folder of the standard library's source, as paths in panic messages name it.
    pub library_source: PathBuf,
    unpacked: Option<UnpackedToolchain>,
}

impl Toolchain {
    /// Makes `cargo` compile with it.
    pub fn apply_to(&self, cargo: &mut Command) {
        cargo.args(["--target", TARGET]);
        if let Some(unpacked) = &self.unpacked {
            unpacked.apply_to(cargo);
        }
    }
}

/// Where to look.
pub struct Search<'a> {
    /// Our folder in the user's cache.
    pub cache: &'a Path,
    /// The ways to try, in order.
    pub ways: &'a [Way],
}

impl Search<'_> {
    /// What is ready for use on this machine, without fetching anything.
    pub fn ready(&self) -> Result<Option<Toolchain>> {
        let host = HostToolchain::ask()?;
        let installed = self.ways.iter().any(|way| *way != Way::Debian) && host.has_target();
        if installed {
            return Ok(Some(host.into_toolchain()));
        }
        match self.ways.contains(&Way::Debian) {
            true => Ok(debian::cached(self.cache)?.map(|unpacked| with_unpacked(unpacked, &host)).transpose()?),
            false => Ok(None),
        }
    }

    /// What is ready for use, or else the first way that works; an error names all of them and why each did not.
    pub fn prepare(&self) -> Result<Toolchain> {
        if let Some(ready) = self.ready()? {
            return Ok(ready);
        }
        first_that_works(self.ways, |way| {
            let host = HostToolchain::ask()?;
            match way {
                Way::Installed => bail!("{} has no {TARGET}", host.sysroot.display()),
                Way::Rustup => self.by_rustup(host),
                Way::Debian => with_unpacked(debian::unpack(self.cache)?, &host),
            }
        })
    }

    fn by_rustup(&self, host: HostToolchain) -> Result<Toolchain> {
        if !is_available("rustup") {
            bail!("there is no `rustup` on the search path");
        }
        let memory = FailureMemory { file: self.cache.join("rustup-target-add.failed") };
        if let Some(reason) = memory.recall(&host.sysroot, SystemTime::now()) {
            bail!("{reason} (remembered for a day; delete {} to have it tried again)", memory.file.display());
        }
        eprintln!("guests: trying `rustup target add {TARGET}`, for at most {} s", RUSTUP_LIMIT.as_secs());
        let outcome = run_within(RUSTUP_LIMIT, Command::new("rustup").args(["target", "add", TARGET]))?;
        if outcome.succeeded() && host.has_target() {
            return Ok(host.into_toolchain());
        }
        let reason = match outcome.succeeded() {
            true => format!("rustup reported success, but {} still has no {TARGET}", host.sysroot.display()),
            false => outcome.reason(RUSTUP_LIMIT),
        };
        memory.remember(&host.sysroot, &reason)?;
        bail!(reason)
    }
}

/// Tries ways in order; says of each why it did not work, as it happens and once more in the error if none did.
fn first_that_works<T>(ways: &[Way], mut attempt: impl FnMut(Way) -> Result<T>) -> Result<T> {
    let mut reasons = Vec::new();
    for way in ways {
        match attempt(*way) {
            Ok(found) => return Ok(found),
            Err(error) => {
                eprintln!("guests: toolchain by way of `{}`: {error:#}", name(*way));
                reasons.push(format!("  {}: {error:#}\n    to make it work: {}", name(*way), way.advice()));
            }
        }
    }
    bail!("no Rust toolchain for {TARGET}; tried in turn:\n{}", reasons.join("\n"))
}

fn name(way: Way) -> &'static str {
    match way {
        Way::Installed => "installed",
        Way::Rustup => "rustup",
        Way::Debian => "debian",
    }
}

fn with_unpacked(unpacked: UnpackedToolchain, host: &HostToolchain) -> Result<Toolchain> {
    let unpacked = unpacked.with_linker_of(&host.sysroot, &host.triple)?;
    Ok(Toolchain {
        identity: format!("{}\n{}", unpacked.version()?, host.version),
        library_source: unpacked.library_source(),
        unpacked: Some(unpacked),
    })
}

/// The toolchain that runs us.
struct HostToolchain {
    sysroot: PathBuf,
    triple: String,
    version: String,
}

impl HostToolchain {
    fn ask() -> Result<Self> {
        let sysroot = output_of(Command::new("rustc").args(["--print", "sysroot"]))?;
        let version = output_of(Command::new("rustc").arg("-vV"))?;
        let triple = version.lines().find_map(|line| line.strip_prefix("host: "));
        let triple = triple.context("`rustc -vV` does not name its host")?.to_string();
        Ok(Self { sysroot: PathBuf::from(sysroot.trim_end()), triple, version })
    }

    fn has_target(&self) -> bool {
        let Ok(libraries) = fs::read_dir(self.sysroot.join("lib/rustlib").join(TARGET).join("lib")) else {
            return false;
        };
        libraries.flatten().any(|library| library.file_name().to_string_lossy().starts_with("libstd-"))
    }

    fn into_toolchain(self) -> Toolchain {
        Toolchain { identity: self.version, library_source: self.sysroot.join("lib/rustlib/src/rust"), unpacked: None }
    }
}

/// A file that says that something failed for a toolchain, and how. Its age is the failure's age.
struct FailureMemory {
    file: PathBuf,
}

impl FailureMemory {
    fn remember(&self, sysroot: &Path, reason: &str) -> Result<()> {
        if let Some(folder) = self.file.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        fs::write(&self.file, format!("{}\n{reason}\n", sysroot.display()))
            .with_context(|| format!("cannot write {}", self.file.display()))
    }

    /// The reason, if it failed for this toolchain less than a day before `now`.
    fn recall(&self, sysroot: &Path, now: SystemTime) -> Option<String> {
        let failed_at = fs::metadata(&self.file).and_then(|metadata| metadata.modified()).ok()?;
        // A time in the future (a clock set back) counts as long ago.
        let age = now.duration_since(failed_at).ok()?;
        let text = fs::read_to_string(&self.file).ok()?;
        let (toolchain, reason) = text.split_once('\n')?;
        let applies = age < RUSTUP_FAILURE_REMEMBERED && Path::new(toolchain) == sysroot;
        applies.then(|| reason.trim_end().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_are_tried_in_order_and_none_after_the_first_that_works() {
        let mut tried = Vec::new();
        let found = first_that_works(&Way::ALL, |way| {
            tried.push(way);
            match way {
                Way::Installed => bail!("not there"),
                Way::Rustup => Ok("by rustup"),
                Way::Debian => Ok("by Debian"),
            }
        });
        assert_eq!(found.unwrap(), "by rustup");
        assert_eq!(tried, [Way::Installed, Way::Rustup]);
    }

    #[test]
    fn the_error_names_the_three_ways_and_why_each_failed() {
        let error = first_that_works(&Way::ALL, |way| -> Result<()> { bail!("reason of {way:?}") });
        let text = error.unwrap_err().to_string();
        for part in ["installed: reason of Installed", "rustup: reason of Rustup", "debian: reason of Debian"] {
            assert!(text.contains(part), "{part:?} is not in: {text}");
        }
    }

    #[test]
    fn a_failure_is_remembered_for_a_day_and_for_its_own_toolchain() {
        let folder = std::env::temp_dir().join(format!("stepbox-failure-memory-{}", std::process::id()));
        let memory = FailureMemory { file: folder.join("failed") };
        let sysroot = Path::new("/toolchains/1.95");
        let now = SystemTime::now();
        assert_eq!(memory.recall(sysroot, now), None);

        memory.remember(sysroot, "no answer").unwrap();
        let soon = SystemTime::now() + Duration::from_secs(60 * 60);
        assert_eq!(memory.recall(sysroot, soon).as_deref(), Some("no answer"));
        assert_eq!(memory.recall(Path::new("/toolchains/1.96"), soon), None);
        assert_eq!(memory.recall(sysroot, soon + RUSTUP_FAILURE_REMEMBERED), None);
        fs::remove_dir_all(folder).unwrap();
    }
}
