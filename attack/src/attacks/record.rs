//! Who would rather not stand in the audit log. The log is copied while the server writes it, and changed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use stepbox_trust::SigningRequest;

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

/// The log as it is at this moment: its head, which the copy is held against, before its files.
fn copied(arena: &Arena) -> Result<PathBuf> {
    let (log, copy) = (arena.server_folder().join("state/audit"), arena.cast.folder.join("audit-copy"));
    let _ = fs::remove_dir_all(&copy);
    fs::create_dir_all(&copy)?;
    // A head that is older than the log is one that the log has.
    let mut files = vec![log.join("audit.head"), log.join("audit.pub")];
    files.extend(log_files(&log)?);
    for file in files {
        let name = file.file_name().context("a file has a name")?;
        fs::copy(&file, copy.join(name)).with_context(|| file.display().to_string())?;
    }
    Ok(copy)
}

fn log_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    Ok(paths)
}

fn last_file(folder: &Path) -> Result<PathBuf> {
    log_files(folder)?.into_iter().max().context("there is no log")
}

/// An attempt has its line, with the digest of what was sent, before anything else happens.
async fn unrecorded(arena: &mut Arena) -> Result<Answer> {
    // Nobody else sends this one.
    let component = arena.cast.signed("adamax", "0.0.1")?;
    let digest =
        SigningRequest::new(&arena.cast.component("adamax")?, "adamax", "0.0.1", &arena.cast.publisher.public_key())?;
    let digest = digest.digest().to_string();
    let options = stepbox_client::DeployOptions { learning_rate: Some(f64::NAN), ..Default::default() };
    let refused = arena.deploy_with(component, &options).await?;
    ensure!(refused.code != ACCEPTED, "it was not to be taken");
    let path = arena.server_folder().join("state/audit");
    let text = fs::read_to_string(last_file(&path)?)?;
    let line = text.lines().find(|line| line.contains("\"attempted\"") && line.contains(&digest));
    Ok(match line {
        Some(line) => Answer::new("recorded", line),
        None => Answer::new(ACCEPTED, format!("no line of the log has {digest}")),
    })
}
