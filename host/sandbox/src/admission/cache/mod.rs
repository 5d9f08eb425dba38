//! Native code of admitted components, on disk, so that a restarted server does not compile them again.
//!
//! Whoever can put native code into a process owns it, so the order is: read the file once, authenticate all of it
//! ([`entry`]), and only then look at it. Anything that is not as it must be ends in compiling anew ([`Miss`]), and the
//! entry is replaced. The key that entries are authenticated with is made by the server, lies in the same directory, and
//! is used only where nobody else can get at either ([`directory`]).
//!
//! An entry also holds what the trial at admission found. That is sound because the trial's outcome is a function of what
//! the entry is bound to and of nothing else: the component's bytes (they see no clock, entropy or input but the trial's
//! own, which is fixed), the engine's settings with wasmtime's version and the processor's features, the limits, the
//! WASI policy, and this crate's own source. Only trials that were passed are kept. What a component imports, exports,
//! declares and says of itself is asked again at every admission.

mod directory;
mod entry;

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use thiserror::Error;
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::error::Miss;
use crate::instance::fuel::FuelModel;
use crate::limits::SandboxConfig;
use directory::Directory;
use entry::Key;
pub use entry::fuzz_cache_entry;
pub(crate) use entry::{Authentic, Subject};

/// Entries that a cache keeps: two versions each of the 28 optimizers that come with the project.
pub const DEFAULT_CACHE_ENTRIES: usize = 64;

/// Bytes that a cache's entries may take together: an optimizer has about half a megabyte of native code.
pub const DEFAULT_CACHE_BYTES: u64 = 256 << 20;

/// A directory of compiled components. Servers may share one, if the same user runs them.
#[derive(Debug)]
pub struct CompileCache {
    directory: Directory,
    key: Key,
    entries: usize,
    bytes: u64,
}

impl CompileCache {
    /// Opens a cache, made if it is not there. It keeps at most this many entries and bytes; what was not used for the
    /// longest time goes first.
    ///
    /// # Errors
    /// The directory or the key in it cannot be used, or others than this process's user can get at them. A server then
    /// does without a cache.
    pub fn open(directory: impl AsRef<Path>, entries: usize, bytes: u64) -> Result<Self, CacheError> {
        let directory = Directory::open(directory.as_ref())?;
        let key = directory.key()?;
        Ok(Self { directory, key, entries, bytes })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The code for a component under the engine's conditions, and what its trial found.
    pub(crate) fn load(&self, engine: &Engine, subject: &Subject) -> Result<(Component, FuelModel), Miss> {
        let bytes = self.directory.read(&subject.file_name(), self.bytes)?;
        let entry = entry::open(&self.key, subject, &bytes)?;
        let component =
            crate::admission::native::cached(engine, &entry).map_err(|error| Miss::Rejected(error.to_string()))?;
        Ok((component, entry.fuel()))
    }

    /// Keeps a component that has passed its trial. What cannot be kept is compiled again next time.
    pub(crate) fn store(&self, subject: &Subject, fuel: FuelModel, component: &Component) {
        let stored = component.serialize().map_err(|error| error.to_string()).and_then(|code| {
            let bytes = entry::seal(&self.key, subject, fuel, &code);
            if bytes.len() as u64 > self.bytes {
                return Err(format!("it has {} bytes, all entries together may have {}", bytes.len(), self.bytes));
            }
            self.directory.replace(&subject.file_name(), &bytes).map_err(|error| error.to_string())
        });
        if let Err(reason) = stored {
            tracing::warn!(cache = %self.path().display(), reason, "the compiled component could not be kept");
        }
        if let Err(error) = self.directory.prune(self.entries, self.bytes) {
            tracing::warn!(cache = %self.path().display(), %error, "old entries could not be removed");
        }
    }
}

/// Everything but the component that code and trial depend on, in one digest.
pub(crate) fn conditions(engine: &Engine, config: &SandboxConfig) -> [u8; 32] {
    struct Feed(Sha256);
    impl std::hash::Hasher for Feed {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }

        fn finish(&self) -> u64 {
            0 // The digest is taken instead.
        }
    }
    let mut feed = Feed(Sha256::new());
    let own = (env!("CARGO_PKG_VERSION"), env!("STEPBOX_SANDBOX_SOURCE"), format!("{config:?}"));
    std::hash::Hash::hash(&own, &mut feed);
    // Target, processor features, compiler flags, WebAssembly features, metering, memory layout, wasmtime's version.
    std::hash::Hash::hash(&engine.precompile_compatibility_hash(), &mut feed);
    feed.0.finalize().into()
}

/// Why a cache cannot be used. The operator's to mend.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The system refuses.
    #[error("{}: {source}", path.display())]
    System {
        /// The directory or the key.
        path: PathBuf,
        /// What it says.
        source: std::io::Error,
    },
    /// Others can read or write.
    #[error(
        "{} has mode {mode:03o}, so that others than its owner could place code there that the server would run; delete \
         the directory, and the server makes it anew",
        path.display()
    )]
    Exposed {
        /// The directory or the key.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It belongs to another user.
    #[error("{} belongs to user {owner}, the server runs as user {user}", path.display())]
    Foreign {
        /// The directory or the key.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who this process is.
        user: u32,
    },
    /// A symbolic link, a pipe, or the like.
    #[error("{} is not {expected}; symbolic links are not followed", path.display())]
    NotPlain {
        /// The directory or the key.
        path: PathBuf,
        /// What it must be.
        expected: &'static str,
    },
    /// The key is none.
    #[error("{} is damaged; delete the directory, and the server makes it anew", path.display())]
    DamagedKey {
        /// The key.
        path: PathBuf,
    },
}
