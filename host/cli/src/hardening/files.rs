//! Landlock: which files and ports the process may use (<https://docs.kernel.org/userspace-api/landlock.html>).

use super::folders::Folders;

/// Confines this thread, and those it starts, to these folders and this port. Returns what is allowed. The error says
/// what the kernel cannot do.
#[cfg(target_os = "linux")]
pub(super) fn confine(folders: &Folders, port: u16) -> Result<String, String> {
    use std::collections::BTreeSet;
    use std::error::Error;
    use std::path::PathBuf;

    use landlock::{
        ABI, Access, AccessFs, AccessNet, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated,
        RulesetCreatedAttr, RulesetStatus, Scope,
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

    let restrict = || -> Result<RulesetStatus, Box<dyn Error>> {
        let mut ruleset: RulesetCreated = Ruleset::default()
            .handle_access(AccessFs::from_all(KNOWN))?
            .handle_access(AccessNet::from_all(KNOWN))?
            .scope(Scope::from_all(KNOWN))?
            .create()?
            .add_rule(NetPort::new(port, AccessNet::BindTcp))?;
        for (directories, access) in [(&folders.read, reads), (&folders.written, writes)] {
            for directory in directories {
                ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(directory)?, access))?;
            }
        }
        Ok(ruleset.restrict_self()?.ruleset)
    };
    let list = |paths: &BTreeSet<PathBuf>| {
        let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
        paths.join(", ")
    };
    let mut what =
        format!("reads {}; writes {}; runs no program; no other TCP port", list(&folders.read), list(&folders.written));
    for frozen in &folders.frozen {
        what.push_str(&format!("; does not follow {} once it is switched", frozen.link.display()));
    }
    match restrict() {
        Ok(RulesetStatus::FullyEnforced) => Ok(what),
        Ok(RulesetStatus::PartiallyEnforced) => Ok(format!("{what}; as far as this kernel can")),
        Ok(RulesetStatus::NotEnforced) => Err("this kernel has no Landlock (Linux 5.13), or it is switched off".into()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn confine(_: &Folders, _: u16) -> Result<String, String> {
    Err("not on this system".to_owned())
}
