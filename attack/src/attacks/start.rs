//! A server that is started on files or a configuration that somebody has got at.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::Attack;
use super::credentials::{answer_of_start, second_folder};
use crate::answer::Answer;
use crate::arena::{Arena, Process};
use crate::threat::Threat;
use crate::threat::Threat::{Credentials, SingleTarget};

/// The answer where the attack takes rights that this program does not have.
const NOT_ROOT: &str = "not made: only root can give files to others";

pub(super) fn attacks() -> Vec<Attack> {
    vec![
        key("a server key that a group can change", &["configuration"], |key| mode(key, 0o660)),
        key("a server key that everybody can read and nobody else change", &["configuration"], |key| mode(key, 0o404)),
        key("a link in the place of the server's key to one that others can read", &["configuration"], |key| {
            let open = key.with_extension("open");
            fs::rename(key, &open)?;
            mode(&open, 0o604)?;
            symlink(&open, key)?;
            Ok(true)
        }),
        key("a server key that belongs to another user", &["configuration", NOT_ROOT], |key| {
            match chown(key, Some(54_321), None) {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(false),
                Err(error) => Err(error.into()),
            }
        }),
        configuration("a cache where none can be made, for the sandbox to be left out", "cache.directory", |text| {
            format!("{text}\n[cache]\ndirectory = 'server.toml/cache'\n")
        }),
        configuration("a trust file in /etc, for the sandbox to open all of it", "trust.store", |text| {
            text.replace("\"publishers.toml\"", "\"/etc/publishers.toml\"")
        }),
    ]
}

/// Starts a server on a copy of its key that somebody has got at. `false` where that takes other rights.
fn key(name: &'static str, expected: &[&'static str], change: fn(&Path) -> Result<bool>) -> Attack {
    Attack::new(Credentials, name, expected, move |arena| {
        Box::pin(async move {
            let (folder, own) = (second_folder(arena)?, arena.cast.credentials("server").key);
            let key = folder.join("copied.key");
            for left in [&key, &key.with_extension("open")] {
                if left.is_symlink() || left.exists() {
                    fs::remove_file(left)?;
                }
            }
            fs::copy(&own, &key)?;
            if !change(&key)? {
                return Ok(Answer::new(NOT_ROOT, ""));
            }
            let text = fs::read_to_string(folder.join("server.toml"))?;
            let own = own.to_str().context("the folder's name is not UTF-8")?;
            let answer = started(arena, folder, &text.replace(own, "copied.key")).await?;
            ensure!(answer.words.contains("copied.key"), "{}", answer.words);
            Ok(answer)
        })
    })
}

/// Starts a server on a configuration that somebody has got at.
fn configuration(name: &'static str, field: &'static str, change: fn(&str) -> String) -> Attack {
    let threat: Threat = SingleTarget;
    Attack::new(threat, name, &["configuration"], move |arena| {
        Box::pin(async move {
            let folder = second_folder(arena)?;
            let text = change(&fs::read_to_string(folder.join("server.toml"))?);
            let answer = started(arena, folder, &text).await?;
            ensure!(answer.words.contains(field), "{}", answer.words);
            Ok(answer)
        })
    })
}

async fn started(arena: &Arena, folder: PathBuf, configuration: &str) -> Result<Answer> {
    fs::write(folder.join("server.toml"), configuration)?;
    answer_of_start(Process::try_start(&arena.cast.program, &folder, "server.toml").await?).await
}

fn mode(path: &Path, mode: u32) -> Result<bool> {
    fs::set_permissions(path, PermissionsExt::from_mode(mode))?;
    Ok(true)
}
