//! Who gets at the server's files and process.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use rustix::process::{Signal, kill_process};

use super::Attack;
use crate::answer::{ACCEPTED, Answer};
use crate::arena::{Arena, GOOD};
use crate::threat::Threat::{Forgery, SingleTarget};

pub(super) fn attacks() -> Vec<Attack> {
    vec![
        Attack::new(SingleTarget, "SIGKILL in the middle of rounds, and a restart", &["trains again"], |arena| {
            Box::pin(async move {
                arena.server.take().context("the server does not run")?.kill().await?;
                arena.start_again().await?;
                Ok(Answer::new("trains again", "from the beginning: there are no checkpoints yet"))
            })
        }),
        Attack::new(Forgery, "an older version after SIGKILL and a restart", &["untrusted"], |arena| {
            Box::pin(async move {
                arena.server.take().context("the server does not run")?.kill().await?;
                arena.start_again().await?;
                arena.deploy(arena.cast.signed(GOOD, "1.4.0")?).await
            })
        }),
        planted("native code in the cache of compiled optimizers, one bit flipped", |entry| {
            let middle = entry.len() / 2;
            entry[middle] ^= 1;
        }),
        planted("native code in the cache of compiled optimizers, cut off", |entry| entry.truncate(entry.len() / 2)),
        planted("a shared library in the cache of compiled optimizers", |entry| {
            *entry = [b"\x7fELF\x02\x01\x01".to_vec(), vec![0xcc; 65_536]].concat();
        }),
        Attack::new(
            SingleTarget,
            "SIGKILL of the processes that compile",
            &["internal, until a restart", "compiles again"],
            |arena| Box::pin(killed_compilers(arena)),
        ),
        Attack::new(SingleTarget, "the server's process, looked at from outside", &["confined"], |arena| {
            Box::pin(async move { confinement(arena).await })
        }),
        Attack::new(SingleTarget, "a cache directory that others may write to", &["not used"], |arena| {
            Box::pin(open_cache(arena))
        }),
    ]
}

/// Changes every entry while the server is down.
fn planted(name: &'static str, change: fn(&mut Vec<u8>)) -> Attack {
    Attack::new(SingleTarget, name, &["replaced"], move |arena| {
        Box::pin(async move {
            arena.server.take().context("the server does not run")?.kill().await?;
            let mut planted = Vec::new();
            for path in entries(arena)? {
                let mut entry = fs::read(&path)?;
                change(&mut entry);
                fs::write(&path, &entry)?;
                planted.push((path, entry));
            }
            ensure!(!planted.is_empty(), "there is nothing in the cache to change");
            // Deploys the good optimizer, which has its entry there.
            arena.start_again().await?;
            let replaced = planted.iter().filter(|(path, entry)| fs::read(path).is_ok_and(|now| now != *entry)).count();
            Ok(match replaced {
                0 => Answer::new("used", "no entry was replaced by one of the server's own"),
                _ => {
                    Answer::new("replaced", format!("{replaced} of {} by what the server compiled anew", planted.len()))
                }
            })
        })
    })
}

async fn open_cache(arena: &mut Arena) -> Result<Answer> {
    use std::os::unix::fs::PermissionsExt;
    arena.server.take().context("the server does not run")?.kill().await?;
    let folder = cache(arena);
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o777))?;
    arena.start_again().await?;
    let log = arena.server.as_ref().context("the server does not run")?.log_since(0);
    let line = log.lines().rfind(|line| line.contains("the cache of compiled optimizers is not used"));
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o700))?;
    Ok(match line {
        Some(line) => Answer::new("not used", line.split_once("not used").map_or(line, |(_, why)| why.trim())),
        None => Answer::new("used", "the log does not say that the cache is not used"),
    })
}

/// Kills whatever children the server has, and has it compile something that it has not seen yet.
async fn killed_compilers(arena: &mut Arena) -> Result<Answer> {
    let is_confined = arena.status().await?.protections.iter().any(|one| one.name == "seccomp" && one.active);
    let children = arena.server.as_ref().context("the server does not run")?.children()?;
    for child in &children {
        let _ = kill_process(*child, Signal::KILL);
    }
    // An honest one, which is in no cache.
    let component = arena.cast.signed("novograd", "1.0.0")?;
    let Answer { code, words } = arena.deploy(component.clone()).await?;
    arena.server.take().context("the server does not run")?.kill().await?;
    arena.start_again().await?;
    let again = arena.deploy(component).await?;
    arena.train_until_failure(1).await?;
    arena.replace_optimizer().await?;
    let code = match (code.as_str(), again.code.as_str()) {
        // A server that may still start programs has started another.
        (ACCEPTED, ACCEPTED) if !is_confined => "compiles again".to_owned(),
        (_, ACCEPTED) => format!("{code}, until a restart"),
        (_, other) => other.to_owned(),
    };
    Ok(Answer::new(code, format!("{} killed; then: {words}", children.len())))
}

/// What the kernel says of the process: what a thief of it would find.
async fn confinement(arena: &mut Arena) -> Result<Answer> {
    let id = arena.server.as_ref().and_then(crate::arena::Process::id).context("the server does not run")?;
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?").trim().to_owned();
    let seen = format!("Seccomp {}, NoNewPrivs {}", field("Seccomp:"), field("NoNewPrivs:"));
    let told = arena.status().await?.protections;
    let told: Vec<_> = told.iter().filter(|one| one.active).map(|one| one.name.as_str()).collect();
    // A kernel without one of them is the operator's choice, and is told of.
    let agrees = told.contains(&"seccomp") == (field("Seccomp:") == "2");
    let code = if agrees && told.contains(&"core-dumps") { "confined" } else { ACCEPTED };
    Ok(Answer::new(code, format!("{seen}; the status says {}", told.join(", "))))
}

fn cache(arena: &Arena) -> PathBuf {
    arena.server_folder().join("state/compiled")
}

fn entries(arena: &Arena) -> Result<Vec<PathBuf>> {
    let folder = cache(arena);
    let paths = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let paths = paths.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "native")).collect())
}
