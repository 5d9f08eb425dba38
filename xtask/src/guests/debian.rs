//! A toolchain for guests out of Debian's packages, unpacked into the cache. Nothing on the system changes.
//!
//! `rustc-web` is the recent rustc that Debian builds for its browsers. Its compiler, its libraries and the source of
//! the standard library are three packages of one version; LLVM and what LLVM needs come from further ones.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::process::{is_available, output_of, run_within};

/// The folders of finished toolchains in the cache start with this; the version follows.
const PREFIX: &str = "guest-toolchain-";

/// For lists of packages, some 15 MB.
const UPDATE_LIMIT: Duration = Duration::from_secs(180);

/// For one package; the largest has some 50 MB.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(600);

/// For unpacking one package.
const UNPACK_LIMIT: Duration = Duration::from_secs(300);

/// The oldest rustc that compiles this workspace, as its `Cargo.toml` says.
const MINIMUM: &str = env!("CARGO_PKG_RUST_VERSION");

/// An unpacked rustc with its standard library's source.
pub struct UnpackedToolchain {
    folder: PathBuf,
    /// Where `rust-lld` lies, which Debian's packages leave out.
    linker_folder: Option<PathBuf>,
}

impl UnpackedToolchain {
    /// Takes the linker for WebAssembly from another toolchain, or from the search path.
    pub fn with_linker_of(mut self, sysroot: &Path, triple: &str) -> Result<Self> {
        let folder = sysroot.join("lib/rustlib").join(triple).join("bin");
        if folder.join("rust-lld").is_file() {
            self.linker_folder = Some(folder);
        } else if !is_available("rust-lld") {
            bail!("there is no `rust-lld` in {} nor on the search path to link guests with", folder.display());
        }
        Ok(self)
    }

    /// Makes `cargo` compile with it, and compile the standard library first.
    pub fn apply_to(&self, cargo: &mut Command) {
        // Stable cargo takes -Z only so; the library's own source needs it anyhow.
        cargo.arg("-Zbuild-std=std,panic_abort").env("RUSTC_BOOTSTRAP", "1").env("RUSTC", self.rustc());
        if let Some(folder) = &self.linker_folder {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let mut folders = std::env::split_paths(&path).collect::<Vec<_>>();
            folders.push(folder.clone());
            let path = std::env::join_paths(folders).unwrap_or_else(|_| OsString::from(folder));
            cargo.env("PATH", path);
        }
    }

    /// What the compiler says of itself.
    pub fn version(&self) -> Result<String> {
        output_of(Command::new(self.rustc()).arg("-vV"))
    }

    /// The folder above the standard library's source.
    pub fn library_source(&self) -> PathBuf {
        self.folder.join("usr/lib/rustlib/src/rust")
    }

    fn rustc(&self) -> PathBuf {
        self.folder.join("rustc")
    }
}

/// The newest finished toolchain in the cache that is recent enough.
pub fn cached(cache: &Path) -> Result<Option<UnpackedToolchain>> {
    let Ok(entries) = fs::read_dir(cache) else {
        return Ok(None);
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some(version) = name.strip_prefix(PREFIX).and_then(release) else { continue };
        if version >= minimum() {
            found.push((version, name));
        }
    }
    let newest = found.into_iter().max();
    Ok(newest.map(|(_, name)| UnpackedToolchain { folder: cache.join(name), linker_folder: None }))
}

/// Downloads the packages and unpacks them: into a folder beside the final one, which gets its name at the very end.
pub fn unpack(cache: &Path) -> Result<UnpackedToolchain> {
    for program in ["apt-get", "apt-cache", "dpkg", "dpkg-query"] {
        if !is_available(program) {
            bail!("there is no `{program}` on the search path: this is no Debian");
        }
    }
    fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let lock = fs::File::create(cache.join("guest-toolchain.lock"))?;
    lock.lock().context("cannot lock the cache")?;
    if let Some(done_meanwhile) = cached(cache)? {
        return Ok(done_meanwhile);
    }

    let working = cache.join("guest-toolchain.unpacking");
    if working.exists() {
        // Left by a run that was killed.
        fs::remove_dir_all(&working)?;
    }
    let folder = unpack_into(&working, cache)?;
    fs::rename(working.join("root"), &folder)
        .with_context(|| format!("cannot move the unpacked toolchain to {}", folder.display()))?;
    fs::remove_dir_all(&working)?;
    eprintln!("guests: unpacked into {}", folder.display());
    Ok(UnpackedToolchain { folder, linker_folder: None })
}

/// Leaves a complete toolchain in `working`/root and returns the name that it is to have.
fn unpack_into(working: &Path, cache: &Path) -> Result<PathBuf> {
    let packages = working.join("packages");
    let root = working.join("root");
    fs::create_dir_all(&packages)?;
    fs::create_dir_all(&root)?;

    let version = download_all(&packages, working)?;
    let mut files = fs::read_dir(&packages)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "deb"));
    files.sort();
    eprintln!("guests: unpacking {} packages", files.len());
    for file in files {
        let outcome = run_within(UNPACK_LIMIT, Command::new("dpkg").arg("-x").arg(&file).arg(&root))?;
        if !outcome.succeeded() {
            bail!("cannot unpack {}: {}", file.display(), outcome.reason(UNPACK_LIMIT));
        }
    }

    let (major, minor) = release(&version).with_context(|| format!("strange version of rustc-web: {version}"))?;
    let source = format!("../../../src/rustc-{major}.{minor}.0");
    let link = root.join("usr/lib/rustlib/src/rust");
    if !link.join("library/std").is_dir() {
        fs::create_dir_all(root.join("usr/lib/rustlib/src"))?;
        symlink(&source, &link).with_context(|| format!("cannot link {} to {source}", link.display()))?;
    }
    if !link.join("library/std").is_dir() {
        bail!("the package rust-web-src {version} does not hold the standard library where it is looked for");
    }
    write_wrapper(&root)?;
    let unpacked = UnpackedToolchain { folder: root, linker_folder: None };
    unpacked.version().context("the unpacked rustc does not run")?;

    let name = version.replace(|character: char| !character.is_ascii_alphanumeric() && character != '.', "-");
    Ok(cache.join(format!("{PREFIX}{name}")))
}

/// The unpacked rustc finds its libraries only through this script, wherever the folder is moved to.
fn write_wrapper(root: &Path) -> Result<()> {
    let libraries = root.join("usr/lib");
    let multiarch = fs::read_dir(&libraries)?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .find(|name| name.ends_with("-linux-gnu"))
        .with_context(|| format!("no folder of shared libraries in {}", libraries.display()))?;
    let script = format!(
        "#!/bin/sh\nhere=${{0%/*}}\nLD_LIBRARY_PATH=\"$here/usr/lib/{multiarch}:$here/lib/{multiarch}\"\n\
         export LD_LIBRARY_PATH\nexec \"$here/usr/bin/rustc\" \"$@\"\n"
    );
    let path = root.join("rustc");
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Downloads with the system's lists of packages; if these do not serve, with lists of our own, freshly fetched.
/// Returns the compiler's version.
fn download_all(into: &Path, working: &Path) -> Result<String> {
    let with_system_lists = Apt { options: Vec::new() }.download_toolchain(into);
    let first_error = match with_system_lists {
        Ok(version) => return Ok(version),
        Err(error) => error,
    };
    eprintln!("guests: {first_error:#}; fetching fresh lists of packages");
    Apt::with_own_lists(&working.join("apt"))?.download_toolchain(into)
}

/// apt, with or without lists of packages of our own.
struct Apt {
    options: Vec<OsString>,
}

impl Apt {
    fn with_own_lists(folder: &Path) -> Result<Self> {
        let mut options = Vec::new();
        for (setting, name) in [("Dir::State::Lists", "lists"), ("Dir::Cache", "cache")] {
            let path = folder.join(name);
            fs::create_dir_all(&path)?;
            let mut option = OsString::from(format!("{setting}="));
            option.push(path);
            options.extend([OsString::from("-o"), option]);
        }
        let apt = Self { options };
        let outcome = run_within(UPDATE_LIMIT, apt.command("apt-get").arg("update"))?;
        if !outcome.succeeded() {
            bail!("apt-get update: {}", outcome.reason(UPDATE_LIMIT));
        }
        Ok(apt)
    }

    /// Every package that is needed and not installed, each of the version that this returns where it is Rust's own.
    fn download_toolchain(&self, into: &Path) -> Result<String> {
        let version = self.candidate("rustc-web")?;
        let (major, minor) = release(&version).with_context(|| format!("strange version of rustc-web: {version}"))?;
        if (major, minor) < minimum() {
            bail!("apt offers rustc-web {version}, and {MINIMUM} is the oldest that compiles this workspace");
        }
        let runtime = format!("libstd-rust-web-{major}.{minor}");
        let rust = ["rustc-web", &runtime, "libstd-rust-web-dev", "rust-web-src"];
        let mut packages = rust.map(|package| format!("{package}={version}")).to_vec();
        packages.extend(self.missing_libraries(&format!("{runtime}={version}"))?);

        let count = packages.len();
        for (index, package) in packages.iter().enumerate() {
            eprintln!("guests: downloading {package} ({} of {count})", index + 1);
            let mut command = self.command("apt-get");
            command.current_dir(into).arg("download").arg(package);
            // Downloading needs no other user than ours, and another could not write into our folder.
            command.args(["-o", "APT::Sandbox::User=root"]);
            let outcome = run_within(DOWNLOAD_LIMIT, &mut command)?;
            if !outcome.succeeded() {
                bail!("apt-get download {package}: {}", outcome.reason(DOWNLOAD_LIMIT));
            }
        }
        Ok(version)
    }

    /// The version of a package that apt would install.
    fn candidate(&self, package: &str) -> Result<String> {
        let policy = output_of(self.command("apt-cache").args(["policy", package]))?;
        candidate_in(&policy).ok_or_else(|| anyhow!("apt knows no package {package}"))
    }

    /// The libraries that a package needs, directly or not, and that are not installed.
    fn missing_libraries(&self, package: &str) -> Result<BTreeSet<String>> {
        let mut missing = BTreeSet::new();
        let mut to_visit = vec![package.to_string()];
        while let Some(package) = to_visit.pop() {
            let description = output_of(self.command("apt-cache").args(["show", "--no-all-versions", &package]))?;
            for library in libraries_in(&description) {
                if !missing.contains(&library) && !is_installed(&library)? {
                    missing.insert(library.clone());
                    to_visit.push(library);
                }
            }
        }
        Ok(missing)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").args(&self.options);
        command
    }
}

fn is_installed(package: &str) -> Result<bool> {
    let mut query = Command::new("dpkg-query");
    let outcome = run_within(UNPACK_LIMIT, query.args(["-W", "-f", "${Status}", package]))?;
    Ok(outcome.succeeded() && outcome.output.contains("install ok installed"))
}

/// The candidate in what `apt-cache policy` prints.
fn candidate_in(policy: &str) -> Option<String> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_string())
}

/// The libraries among the dependencies in what `apt-cache show` prints; the first of alternatives.
fn libraries_in(description: &str) -> Vec<String> {
    let dependencies = description.lines().find_map(|line| line.strip_prefix("Depends: ")).unwrap_or_default();
    let names = dependencies.split(',').filter_map(|dependency| dependency.split_whitespace().next());
    names.filter(|name| name.starts_with("lib")).map(str::to_string).collect()
}

/// Major and minor number at the start of a version.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(['.', '+', '-', '~']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn minimum() -> (u32, u32) {
    release(MINIMUM).expect("Cargo.toml's rust-version is a version")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_candidate_is_read_from_apts_words() {
        let policy = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n  Version table:\n";
        assert_eq!(candidate_in(policy).as_deref(), Some("1.96.0+dfsg1-1~deb12u2"));
        assert_eq!(candidate_in("rustc-web:\n  Candidate: (none)\n"), None);
        assert_eq!(candidate_in(""), None);
    }

    #[test]
    fn only_libraries_are_taken_from_dependencies() {
        let description =
            "Package: rustc-web\nDepends: libc6 (>= 2.34), libfirst | libsecond, gcc, binutils (>= 2.26)\n";
        assert_eq!(libraries_in(description), ["libc6", "libfirst"]);
        assert!(libraries_in("Package: rust-web-src\n").is_empty());
    }

    #[test]
    fn releases_compare_as_numbers() {
        assert_eq!(release("1.96.0+dfsg1-1~deb12u2"), Some((1, 96)));
        assert!(release("1.100.0") > release("1.96.0"));
        assert_eq!(release("unpacking"), None);
    }

    #[test]
    fn only_finished_and_recent_enough_toolchains_count_and_the_newest_wins() {
        let cache = std::env::temp_dir().join(format!("stepbox-toolchains-{}", std::process::id()));
        assert!(cached(&cache).unwrap().is_none());
        for name in ["guest-toolchain-1.80.0-1", "guest-toolchain.unpacking", "guest-toolchain.lock"] {
            fs::create_dir_all(cache.join(name)).unwrap();
        }
        assert!(cached(&cache).unwrap().is_none());
        for name in ["guest-toolchain-1.99.0-1", "guest-toolchain-1.100.0-1"] {
            fs::create_dir_all(cache.join(name)).unwrap();
        }
        assert_eq!(cached(&cache).unwrap().unwrap().folder, cache.join("guest-toolchain-1.100.0-1"));
        fs::remove_dir_all(cache).unwrap();
    }
}
