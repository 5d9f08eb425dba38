//! `cargo xtask guests`: every optimizer, every hostile guest of the tests and what benchmarks compare with, from source
//! to component.

mod component;
mod debian;
mod fingerprint;
mod toolchain;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use component::Guest;
use toolchain::{Search, Toolchain, Way};

pub use toolchain::TARGET;

use crate::workspace;

/// Where the code lies that is compiled for WebAssembly, relative to the workspace's root.
pub const SOURCES: [&str; 5] = ["guest-sdk", "optimizers", "tests/hostile", "tests/hostile-kit", "benches/guests"];

/// What to build and how.
#[derive(clap::Args, Default)]
pub struct Options {
    /// Build only these, e.g. `adamw` or `hostile/endless-loop` (comma-separated; default: all)
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// Come by the wasm toolchain in this way alone (default: the first of all that works)
    #[arg(long, value_enum, value_name = "WAY")]
    toolchain: Option<Way>,
    /// Print one JSON list of name, path, bytes and sha256 on standard output
    #[arg(long)]
    pub json: bool,
}

impl Options {
    /// These alone.
    pub fn only(names: &[&str]) -> Self {
        Self { only: names.iter().map(ToString::to_string).collect(), ..Self::default() }
    }
}

/// A component that was built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// `adamw`, `hostile/endless-loop`, or `benches/list-copying`.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Its digest, in hexadecimal.
    pub sha256: String,
}

/// What lies in the output folder, and what it was made from.
#[derive(Default, Serialize, Deserialize)]
struct Record {
    /// Digest of sources, toolchain and flags.
    fingerprint: String,
    components: Vec<Component>,
}

/// Builds what is not up to date. Progress goes to standard error.
pub fn build(options: &Options) -> Result<Vec<Component>> {
    let root = workspace::root()?;
    let cache = workspace::cache_folder()?;
    let output = Output::open(&root)?;
    let guests = chosen(component::all(&root)?, &options.only)?;
    let ways = options.toolchain.map_or(Way::ALL.to_vec(), |way| vec![way]);
    let search = Search { cache: &cache, ways: &ways };

    if let Some(toolchain) = search.ready()? {
        let record = output.record(&fingerprint_with(&root, &toolchain)?);
        if let Some(components) = output.up_to_date(&record, &guests) {
            eprintln!("guests: {} components are up to date", components.len());
            return Ok(components);
        }
    }
    let toolchain = search.prepare()?;
    let fingerprint = fingerprint_with(&root, &toolchain)?;
    let mut record = output.record(&fingerprint);
    for (index, guest) in guests.iter().enumerate() {
        let started = Instant::now();
        eprint!("guests: {} ({} of {}) ... ", guest.name, index + 1, guests.len());
        let component =
            component::build(&root, &output.build_folder(), &toolchain, guest).inspect_err(|_| eprintln!())?;
        let component = output.store(&mut record, guest, &component)?;
        eprintln!("{} bytes, {:.1} s", component.bytes, started.elapsed().as_secs_f32());
    }
    if fingerprint_with(&root, &toolchain)? != fingerprint {
        output.forget()?;
        bail!("sources changed while the guests were being built; run it again");
    }
    output.write(&record)?;
    if options.only.is_empty() {
        output.remove_all_but(&record)?;
    }
    output.up_to_date(&record, &guests).context("a component changed right after it was written")
}

/// Whether the toolchain that runs us compiles for WebAssembly by itself.
pub fn target_is_installed() -> Result<bool> {
    let search = Search { cache: &workspace::cache_folder()?, ways: &[Way::Installed] };
    Ok(search.ready()?.is_some())
}

fn fingerprint_with(root: &Path, toolchain: &Toolchain) -> Result<String> {
    // Flags that name this machine's paths keep them out of the components: they change nothing in them.
    fingerprint::of_inputs(root, &toolchain.identity, &component::portable_flags())
}

/// The guests with these names; all, if there are none.
fn chosen(mut guests: Vec<Guest>, names: &[String]) -> Result<Vec<Guest>> {
    if let Some(unknown) = names.iter().find(|name| guests.iter().all(|guest| guest.name != **name)) {
        let known = guests.iter().map(|guest| guest.name.as_str()).collect::<Vec<_>>().join(", ");
        bail!("there is no guest {unknown:?}; there are: {known}");
    }
    if !names.is_empty() {
        guests.retain(|guest| names.contains(&guest.name));
    }
    Ok(guests)
}

/// `target/guests`, held by this process alone for as long as this value lives.
struct Output {
    folder: PathBuf,
    _lock: fs::File,
}

impl Output {
    fn open(root: &Path) -> Result<Self> {
        let folder = root.join("target").join("guests");
        fs::create_dir_all(folder.join("components")).with_context(|| format!("cannot create {}", folder.display()))?;
        let lock = fs::File::create(folder.join("lock"))?;
        lock.lock().with_context(|| format!("cannot lock {}", folder.display()))?;
        Ok(Self { folder, _lock: lock })
    }

    /// Cargo's own folder for guests: apart from the workspace's, whose lock the caller may hold.
    fn build_folder(&self) -> PathBuf {
        self.folder.join("build")
    }

    fn record_path(&self) -> PathBuf {
        self.folder.join("components").join("components.json")
    }

    /// What was built from these inputs; an empty record if it was built from others or not at all.
    fn record(&self, fingerprint: &str) -> Record {
        let stored = fs::read(self.record_path()).ok();
        let stored = stored.and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
        match stored {
            Some(record) if record.fingerprint == fingerprint => record,
            _ => Record { fingerprint: fingerprint.to_string(), components: Vec::new() },
        }
    }

    /// These guests' components, if all are there with the bytes that were recorded.
    fn up_to_date(&self, record: &Record, guests: &[Guest]) -> Option<Vec<Component>> {
        let mut components = Vec::new();
        for guest in guests {
            let component = record.components.iter().find(|component| component.name == guest.name)?;
            let bytes = fs::read(&component.path).ok()?;
            if component.path != self.path(guest) || fingerprint::of_bytes(&bytes) != component.sha256 {
                return None;
            }
            components.push(component.clone());
        }
        Some(components)
    }

    /// Writes a component, whole or not at all, and records it.
    fn store(&self, record: &mut Record, guest: &Guest, bytes: &[u8]) -> Result<Component> {
        let path = self.path(guest);
        write_whole(&path, bytes)?;
        let component = Component {
            name: guest.name.clone(),
            path,
            bytes: bytes.len() as u64,
            sha256: fingerprint::of_bytes(bytes),
        };
        record.components.retain(|other| other.name != guest.name);
        record.components.push(component.clone());
        record.components.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(component)
    }

    fn write(&self, record: &Record) -> Result<()> {
        write_whole(&self.record_path(), &serde_json::to_vec_pretty(record)?)
    }

    fn forget(&self) -> Result<()> {
        match fs::remove_file(self.record_path()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Removes components whose sources are gone.
    fn remove_all_but(&self, record: &Record) -> Result<()> {
        let components = self.folder.join("components");
        for folder in [components.clone(), components.join("hostile"), components.join("benches")] {
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            for entry in entries {
                let path = entry?.path();
                let is_component = path.extension().is_some_and(|extension| extension == "wasm");
                if is_component && record.components.iter().all(|component| component.path != path) {
                    fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
                }
            }
        }
        Ok(())
    }

    fn path(&self, guest: &Guest) -> PathBuf {
        self.folder.join("components").join(format!("{}.wasm", guest.name))
    }
}

/// Writes beside the file and renames: a reader sees the old bytes or the new ones.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let cannot_write = || format!("cannot write {}", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(cannot_write)?;
    }
    let beside = path.with_extension("part");
    fs::write(&beside, bytes).with_context(cannot_write)?;
    fs::rename(&beside, path).with_context(cannot_write)
}
