//! Landlock: which files and ports the process may use (<https://docs.kernel.org/userspace-api/landlock.html>).

use std::path::Path;

use stepbox_server::Config;

#[cfg(target_os = "linux")]
pub(super) fn confine(config: &Config, configuration: &Path) -> Result<String, String> {
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use landlock::{
        ABI, Access, AccessFs, AccessNet, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated,
        RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
    };

    /// Linux 6.12; on an older kernel as much of it as that has.
    const KNOWN: ABI = ABI::V6;

    let reads = AccessFs::ReadFile | AccessFs::ReadDir;
    let writes = reads
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer;

    let mut read = BTreeSet::new();
    for file in config.files_read().into_iter().chain([configuration]) {
        read.insert(folder_of(file));
        // A link leads to another folder.
        read.extend(file.canonicalize().ok().map(|file| folder_of(&file)));
    }
    let written: BTreeSet<PathBuf> = config.directories_written().into_iter().collect();
    for directory in &written {
        std::fs::create_dir_all(directory).map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
    }

    let restrict = || -> Result<RulesetStatus, RulesetError> {
        let mut ruleset: RulesetCreated = Ruleset::default()
            .handle_access(AccessFs::from_all(KNOWN))?
            .handle_access(AccessNet::from_all(KNOWN))?
            .scope(Scope::from_all(KNOWN))?
            .create()?
            .add_rule(NetPort::new(config.listen.port(), AccessNet::BindTcp))?;
        for (directories, access) in [(&read, reads), (&written, writes)] {
            for directory in directories {
                // One that is not there holds nothing to read, and what reads it says so.
                let Ok(directory) = PathFd::new(directory) else { continue };
                ruleset = ruleset.add_rule(PathBeneath::new(directory, access))?;
            }
        }
        Ok(ruleset.restrict_self()?.ruleset)
    };
    let list = |paths: &BTreeSet<PathBuf>| {
        let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
        paths.join(", ")
    };
    let what = format!("reads {}; writes {}; runs no program; no other TCP port", list(&read), list(&written));
    match restrict() {
        Ok(RulesetStatus::FullyEnforced) => Ok(what),
        Ok(RulesetStatus::PartiallyEnforced) => Ok(format!("{what}; as far as this kernel can")),
        Ok(RulesetStatus::NotEnforced) => Err("this kernel has no Landlock (Linux 5.13), or it is switched off".into()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(target_os = "linux")]
fn folder_of(file: &Path) -> std::path::PathBuf {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => ".".into(),
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn confine(_: &Config, _: &Path) -> Result<String, String> {
    Err("not on this system".to_owned())
}
