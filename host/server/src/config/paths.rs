//! Where the server listens and where its files are.

use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};

use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::{Config, ConfigError, wrong};

/// Reads an address with a port. Host names are not looked up: which of its addresses a server listens on must not
/// depend on somebody else's answer.
pub(super) fn listen_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| {
        D::Error::custom(format!(
            "`{}` is not an address to listen on; give an IP address and a port, such as \"127.0.0.1:7437\", \
             \"0.0.0.0:7437\" (every IPv4 address of this machine) or \"[::]:7437\" (every address)",
            text.escape_debug()
        ))
    })
}

/// Makes relative paths relative to `folder`.
pub(super) fn resolve(config: &mut Config, folder: &Path) -> Result<(), ConfigError> {
    for (field, path) in paths(config) {
        check(&field, path)?;
        // An absolute path replaces the folder.
        *path = folder.join(&*path);
    }
    Ok(())
}

/// Every path that a configuration can have, and its field.
fn paths(config: &mut Config) -> Vec<(String, &mut PathBuf)> {
    let tls = &mut config.tls;
    let mut paths = vec![
        ("state_directory".to_owned(), &mut config.state_directory),
        ("tls.ca".to_owned(), &mut tls.ca),
        ("tls.certificate".to_owned(), &mut tls.certificate),
        ("tls.key".to_owned(), &mut tls.key),
        ("trust.store".to_owned(), &mut config.trust.store),
    ];
    paths.extend(tls.revocation_lists.iter_mut().map(|list| ("tls.revocation_lists".to_owned(), list)));
    let named = config.jobs.iter_mut().map(|(name, job)| (format!("jobs.{name}"), job));
    for (section, job) in named.chain(config.job.iter_mut().map(|job| ("job".to_owned(), job))) {
        paths.extend(job.trust.as_mut().map(|trust| (format!("{section}.trust.store"), &mut trust.store)));
    }
    paths.extend(config.cache.directory.as_mut().map(|directory| ("cache.directory".to_owned(), directory)));
    paths.extend(config.audit.directory.as_mut().map(|directory| ("audit.directory".to_owned(), directory)));
    let read = config.process.read_directories.iter_mut();
    paths.extend(read.map(|directory| ("process.read_directories".to_owned(), directory)));
    paths
}

/// Refuses what a shell would replace and the server takes as it is: it would make a folder of that name.
fn check(field: &str, path: &Path) -> Result<(), ConfigError> {
    let shown = path.display();
    if path.as_os_str().is_empty() {
        return Err(wrong(field, "is empty; give a path, such as /var/lib/stepbox".into()));
    }
    let first = match path.components().next() {
        Some(Component::Normal(first)) => first.to_string_lossy(),
        _ => return Ok(()),
    };
    if first.starts_with('~') || first.starts_with('$') {
        let reason = format!(
            "`{shown}` is not expanded as a shell would; give the whole path, such as /home/stepbox/state, or one \
             relative to the configuration's folder. A folder that really has this name is `./{shown}`"
        );
        return Err(wrong(field, reason));
    }
    Ok(())
}
