//! Who would rather not stand in the audit log. The log is copied while the server writes it, and changed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::Attack;
use crate::answer::{ACCEPTED, Answer};
use crate::arena::Arena;
use crate::threat::Threat::NoRecord;

/// Lines that are cut off: more than are written while the log is copied.
const CUT_OFF: usize = 12;

/// What `stepbox audit verify` ends in where something was changed.
const FOUND: &[&str] = &["found"];

pub(super) fn attacks() -> Vec<Attack> {
    vec![
        changed("a letter of the audit log changed", |lines| {
            let line = lines.iter_mut().find(|line| line.contains("\"deploy\""));
            if let Some(line) = line {
                *line = line.replacen("deployer", "operator", 1);
            }
        }),
        changed("a line of the audit log removed", |lines| drop(lines.remove(lines.len() / 2))),
        changed("two lines of the audit log exchanged", |lines| lines.swap(2, 3)),
        changed("a line of the audit log repeated", |lines| lines.insert(3, lines[2].clone())),
        changed("the audit log cut off at its end", |lines| lines.truncate(lines.len() - CUT_OFF)),
        Attack::new(NoRecord, "an attack that nobody records", &["recorded"], |arena| Box::pin(unrecorded(arena))),
    ]
}

/// A copy of the log with something changed in it, and the copy's verification.
fn changed(name: &'static str, change: fn(&mut Vec<String>)) -> Attack {
    Attack::new(NoRecord, name, FOUND, move |arena| {
        Box::pin(async move {
            // What an operator has from the status, and keeps elsewhere.
            let newest = arena.status().await?.audit.context("the status knows of no audit log")?;
            let anchor = format!("{}:{}", newest.line, newest.head);
            let copy = copied(arena)?;
            let program = &arena.cast.program;
            let path = copy.to_str().context("the folder's name is not UTF-8")?;
            let verify = ["audit", "verify", path, "--anchor", &anchor];
            let (intact, said) = program.run(&arena.cast.folder, &verify).await?;
            ensure!(intact, "the copy is not intact: {said}");
            let file = last_file(&copy)?;
            let mut lines: Vec<String> = fs::read_to_string(&file)?.lines().map(str::to_owned).collect();
            ensure!(lines.len() > CUT_OFF, "there are {} lines", lines.len());
            let before = lines.clone();
            change(&mut lines);
            ensure!(lines != before, "nothing was changed");
            fs::write(&file, lines.join("\n") + "\n")?;
            let (intact, said) = program.run(&arena.cast.folder, &verify).await?;
            Ok(Answer::new(if intact { ACCEPTED } else { "found" }, said))
        })
    })
}

/// The log as it is at this moment: its files before its head, which the copy is held against.
fn copied(arena: &Arena) -> Result<PathBuf> {
    let (log, copy) = (arena.server_folder().join("state/audit"), arena.cast.folder.join("audit-copy"));
    let _ = fs::remove_dir_all(&copy);
    fs::create_dir_all(&copy)?;
    let mut names = fs::read_dir(&log)?.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
    // A head that is older than the log is one that the log has.
    names.sort_by_key(|name| name != "audit.head");
    for name in names {
        fs::copy(log.join(&name), copy.join(&name)).with_context(|| format!("{}", name.display()))?;
    }
    Ok(copy)
}

fn last_file(folder: &Path) -> Result<PathBuf> {
    let paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let logs = paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    logs.max().context("there is no log")
}

/// A refusal of each kind must be in the log by the time that it was answered, or soon after.
async fn unrecorded(arena: &mut Arena) -> Result<Answer> {
    let refused = arena.deploy(arena.cast.component("sgd")?).await?;
    let path = arena.server_folder().join("state/audit");
    let looking = async {
        loop {
            let text = fs::read_to_string(last_file(&path)?)?;
            if let Some(line) = text.lines().rfind(|line| line.contains("\"refused\"") && line.contains(&refused.code))
            {
                return Ok::<_, anyhow::Error>(line.to_owned());
            }
            tokio::task::yield_now().await;
        }
    };
    Ok(Answer::new("recorded", crate::in_time(looking).await??))
}
