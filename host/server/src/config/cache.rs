//! The section `[cache]`: compiled optimizers on disk, so that a restarted server need not compile them again.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use stepbox_sandbox::{CompileCache, DEFAULT_CACHE_BYTES, DEFAULT_CACHE_ENTRIES, Sandbox};

/// Where it is below the state directory, unless the configuration says otherwise.
const FOLDER: &str = "compiled";

/// Whether, where and how much. See [`CompileCache`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheConfig {
    /// Whether there is a cache at all.
    pub enabled: bool,
    /// Its directory, for this server's user alone; made if it is not there. `compiled` in the state directory where
    /// absent: like what else is there it belongs to this server, and no home directory is needed, which services often
    /// do not have. Servers of one user may share one.
    pub directory: Option<PathBuf>,
    /// Most entries.
    pub entries: usize,
    /// Most bytes of all entries.
    pub bytes: u64,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self { enabled: true, directory: None, entries: DEFAULT_CACHE_ENTRIES, bytes: DEFAULT_CACHE_BYTES }
    }
}

impl CacheConfig {
    /// Gives a sandbox its cache. Where it cannot be used the server does without, and the log says why: it is slower, not
    /// less safe.
    pub(crate) fn give_to(&self, sandbox: Sandbox, state_directory: &Path) -> Sandbox {
        if !self.enabled {
            return sandbox;
        }
        let directory = self.directory.clone().unwrap_or_else(|| state_directory.join(FOLDER));
        match CompileCache::open(directory, self.entries, self.bytes) {
            Ok(cache) => {
                tracing::info!(directory = %cache.path().display(), "compiled optimizers are kept");
                sandbox.with_cache(cache)
            }
            Err(error) => {
                tracing::warn!(%error, "the cache of compiled optimizers is not used");
                sandbox
            }
        }
    }
}
