//! Which folders the server's process may use. A mistake in the configuration is found here, whatever the kernel can
//! do.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use stepbox_server::{Config, ConfiguredPath};

use crate::output::Failure;

/// Never opened as a whole: everything on the machine, and everybody's settings.
const NEVER_OPENED: [&str; 2] = ["/", "/etc"];

/// Links in these belong to the system's own layout, such as `/var/run`. Nobody switches them while a server runs.
const SYSTEM_FOLDERS: [&str; 2] = ["/", "/var"];

/// Links that are followed in one path; the kernel follows as many.
const MAX_LINKS: usize = 40;

/// Folders by what the process may do in them.
#[derive(Debug)]
pub(super) struct Folders {
    /// Read, with what is below them.
    pub read: BTreeSet<PathBuf>,
    /// Read and written.
    pub written: BTreeSet<PathBuf>,
    /// Symbolic links that configured paths lead through, and that the process cannot follow once they are switched.
    pub frozen: Vec<FrozenLink>,
}

/// A link to a folder of which only the present target is opened.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FrozenLink {
    /// The link.
    pub link: PathBuf,
    /// The folder that its target is in.
    pub above: PathBuf,
    /// The fields whose paths lead through it.
    pub fields: Vec<String>,
}

/// Makes the directories that are written to.
pub(super) fn make(config: &Config) -> Result<(), Failure> {
    for directory in config.directories_written() {
        fs::create_dir_all(&directory.path).map_err(|error| {
            let hint = "name one that the server's user can make, or make it for that user";
            mistake(&directory.field, &format!("cannot make {}: {error}; {hint}", directory.path.display()))
        })?;
    }
    Ok(())
}

impl Folders {
    /// Those of this configuration, as they are now.
    pub fn of(config: &Config, configuration: &Path) -> Result<Self, Failure> {
        let mut files = config.files_read();
        files.push(ConfiguredPath { field: "--config".into(), path: configuration.to_owned() });
        let mut read = BTreeSet::new();
        for ConfiguredPath { field, path } in &files {
            read.insert(usable(field, folder_of(path))?);
            // A link leads to another folder. A file that is not there yet may still come.
            match path.canonicalize() {
                Ok(target) => drop(read.insert(usable(field, folder_of(&target))?)),
                Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => {}
                Err(error) => return Err(mistake(field, &format!("cannot follow {}: {error}", path.display()))),
            }
        }
        for ConfiguredPath { field, path } in config.directories_read() {
            read.insert(usable(&field, path)?);
        }
        let mut written = BTreeSet::new();
        for ConfiguredPath { field, path } in config.directories_written() {
            written.insert(usable(&field, path)?);
        }
        let frozen = frozen(&files, read.iter().chain(&written));
        Ok(Self { read, written, frozen })
    }
}

/// A folder that is there and may be opened.
fn usable(field: &str, folder: PathBuf) -> Result<PathBuf, Failure> {
    let real = folder
        .canonicalize()
        .and_then(|real| if real.is_dir() { Ok(real) } else { Err(io::ErrorKind::NotADirectory.into()) });
    let real = real.map_err(|error| mistake(field, &format!("cannot use the folder {}: {error}", folder.display())))?;
    if NEVER_OPENED.iter().any(|never| real == Path::new(never)) {
        let reason = format!(
            "the sandbox opens whole folders, and {} would be open to whoever takes the server over: use a folder of \
             its own, such as /etc/stepbox",
            real.display()
        );
        return Err(mistake(field, &reason));
    }
    Ok(folder)
}

/// The links on the way to these files whose next target may lie outside the opened folders.
fn frozen<'a>(files: &[ConfiguredPath], opened: impl Iterator<Item = &'a PathBuf>) -> Vec<FrozenLink> {
    let opened: Vec<_> = opened.filter_map(|folder| folder.canonicalize().ok()).collect();
    let mut frozen = BTreeMap::<PathBuf, FrozenLink>::new();
    for ConfiguredPath { field, path } in files {
        for link in folder_links(path) {
            let Some(above) = link.canonicalize().ok().and_then(|target| Some(target.parent()?.to_owned())) else {
                continue;
            };
            let is_the_systems =
                link.parent().is_some_and(|parent| SYSTEM_FOLDERS.iter().any(|it| parent == Path::new(it)));
            if is_the_systems || opened.iter().any(|folder| above.starts_with(folder)) {
                continue;
            }
            let link = frozen.entry(link.clone()).or_insert_with(|| FrozenLink { link, above, fields: Vec::new() });
            if !link.fields.contains(field) {
                link.fields.push(field.clone());
            }
        }
    }
    frozen.into_values().collect()
}

/// The symbolic links to folders on the way to a file, also on the way that they lead.
fn folder_links(file: &Path) -> Vec<PathBuf> {
    let Ok(file) = std::path::absolute(file) else { return Vec::new() };
    let mut links = Vec::new();
    let mut followed = 0;
    // The part that is resolved, and what is still to be walked, the next component last.
    let mut at = PathBuf::new();
    let mut ahead: Vec<_> = steps(&file);
    while let Some(step) = ahead.pop() {
        if step == Path::new("..") {
            at.pop();
            continue;
        }
        let next = at.join(step);
        match fs::read_link(&next) {
            Ok(target) if followed < MAX_LINKS => {
                followed += 1;
                if !ahead.is_empty() {
                    links.push(next);
                }
                ahead.extend(steps(&target));
                if target.is_absolute() {
                    at = PathBuf::new();
                }
            }
            _ => at = next,
        }
    }
    links
}

/// A path's components, the first last.
fn steps(path: &Path) -> Vec<PathBuf> {
    let steps = path.components().filter(|step| *step != Component::CurDir);
    let mut steps: Vec<_> = steps.map(|step| PathBuf::from(step.as_os_str())).collect();
    steps.reverse();
    steps
}

fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => ".".into(),
    }
}

fn mistake(field: &str, reason: &str) -> Failure {
    Failure::here("configuration", format!("`{field}`: {reason}"))
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Two releases with the same files, and a link to the first of them.
    fn releases() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("it is there");
        for release in ["releases/one", "releases/two"] {
            fs::create_dir_all(root.join(release)).expect("made");
            fs::write(root.join(release).join("ca.pem"), "").expect("written");
        }
        symlink("releases/one", root.join("current")).expect("a link");
        (folder, root)
    }

    fn path(field: &str, path: PathBuf) -> ConfiguredPath {
        ConfiguredPath { field: field.into(), path }
    }

    #[test]
    fn a_link_between_releases_is_found_unless_the_folder_above_them_is_opened() {
        let (_folder, root) = releases();
        let files = [path("tls.ca", root.join("current/ca.pem")), path("--config", root.join("current/server.toml"))];
        let present = root.join("releases/one");
        let [found] = &frozen(&files, [present.clone()].iter())[..] else { panic!("one link") };
        assert_eq!((&found.link, &found.above), (&root.join("current"), &root.join("releases")));
        assert_eq!(found.fields, ["tls.ca", "--config"]);
        assert_eq!(frozen(&files, [present, root.join("releases")].iter()), []);
    }

    #[test]
    fn links_of_mounted_secrets_and_renewed_certificates_need_no_more_folders() {
        let (_folder, root) = releases();
        // Kubernetes: the files lead through `..data`, which is switched within the mounted folder.
        let mounted = root.join("mounted");
        fs::create_dir_all(mounted.join("..2026")).expect("made");
        fs::write(mounted.join("..2026/ca.pem"), "").expect("written");
        symlink("..2026", mounted.join("..data")).expect("a link");
        symlink("..data/ca.pem", mounted.join("ca.pem")).expect("a link");
        assert_eq!(folder_links(&mounted.join("ca.pem")), [mounted.join("..data")]);
        assert_eq!(frozen(&[path("tls.ca", mounted.join("ca.pem"))], [mounted.clone()].iter()), []);
        // certbot: the file itself is a link into another folder.
        symlink("../releases/one/ca.pem", mounted.join("cert.pem")).expect("a link");
        assert_eq!(folder_links(&mounted.join("cert.pem")), Vec::<PathBuf>::new());
        // A circle ends.
        symlink("circle", root.join("circle")).expect("a link");
        assert!(folder_links(&root.join("circle/ca.pem")).len() <= MAX_LINKS);
    }

    #[test]
    fn the_root_and_etc_are_never_opened() {
        for folder in ["/", "/etc", "/usr/..", "/etc/."] {
            let refused = usable("tls.ca", folder.into()).expect_err("too much").to_string();
            assert!(refused.contains("`tls.ca`") && refused.contains("a folder of its own"), "{folder}: {refused}");
        }
    }
}
