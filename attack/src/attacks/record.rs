//! Who would rather not stand in the audit log. The log is copied while the server writes it, and changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use stepbox_trust::SigningRequest;

use super::Attack;
use crate::HANGS;
use crate::answer::{ACCEPTED, Answer};
use crate::arena::Arena;
use crate::threat::Threat::NoRecord;

/// Lines that are cut off: more than are written while the log is copied.
const CUT_OFF: usize = 12;

/// Refusals of one peer, far more than a person reads.
const REFUSALS: usize = 200;

/// What the server notes of the log's end, beside it.
const HEAD: &str = "audit.head";

/// How often the server's log is looked at.
const LOOK: Duration = Duration::from_millis(10);

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
        changed("a whole line without a signature added to the audit log", |lines| lines.push(forged(lines.len(), ""))),
        changed("a whole line with a made-up signature added to the audit log", |lines| {
            lines.push(forged(lines.len(), &format!(r#","signature":"{}==""#, "A".repeat(86))));
        }),
        changed("a whole line with more behind it, as if cut off, added to the audit log", |lines| {
            lines.push(forged(lines.len(), "") + "{\"sequence\":");
        }),
        Attack::new(NoRecord, "whole lines added to the audit log while the server is down", FOUND, |arena| {
            Box::pin(added_while_down(arena))
        }),
        Attack::new(
            NoRecord,
            "the file of the audit log moved away while the server writes it",
            &["noticed"],
            |arena| Box::pin(behind_its_back(arena, |file| fs::rename(file, file.with_extension("away")))),
        ),
        Attack::new(NoRecord, "the file of the audit log emptied while the server writes it", &["noticed"], |arena| {
            Box::pin(behind_its_back(arena, |file| fs::write(file, "")))
        }),
        Attack::new(
            NoRecord,
            "a key's name that rewrites the terminal of whoever reads the log",
            &["escaped"],
            |arena| Box::pin(misleading_name(arena)),
        ),
        Attack::new(
            NoRecord,
            "the same refusal again and again, to push others out of the log",
            &["throttled"],
            |arena| Box::pin(repeated_refusals(arena)),
        ),
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

/// A line that the server has not written.
fn forged(number: usize, signature: &str) -> String {
    let (sequence, previous) = (number + 1, "0".repeat(64));
    format!(
        r#"{{"sequence":{sequence},"time":"2026-01-31T12:00:00.000000Z","server":"server","action":"deploy","outcome":"allowed","identity":"operator","previous":"{previous}"{signature}}}"#
    )
}

/// The server goes on with a log that has more in it than it has written, and the log is verified.
async fn added_while_down(arena: &mut Arena) -> Result<Answer> {
    let log = arena.server_folder().join("state/audit");
    arena.server.take().context("the server does not run")?.kill().await?;
    let kept = kept(&log)?;
    let file = last_file(&log)?;
    let text = fs::read_to_string(&file)?;
    fs::write(&file, format!("{text}{}\n", forged(text.lines().count(), "")))?;
    arena.start_again().await?;
    let damaged = arena.status().await?.audit.and_then(|audit| audit.damaged).unwrap_or_default();
    let path = log.to_str().context("the folder's name is not UTF-8")?;
    let (intact, said) = arena.cast.program.run(&arena.cast.folder, &["audit", "verify", path]).await?;
    put_back(arena, &log, &kept).await?;
    let is_found = !intact && said.contains("bad-signature") && damaged.contains("not signed");
    Ok(Answer::new(if is_found { "found" } else { ACCEPTED }, format!("{damaged}; {said}")))
}

/// Somebody does something to the file that the server writes. What the status says of it, a request later.
async fn behind_its_back(arena: &mut Arena, act: fn(&Path) -> std::io::Result<()>) -> Result<Answer> {
    let log = arena.server_folder().join("state/audit");
    let kept = kept(&log)?;
    act(&last_file(&log)?)?;
    // Asking for the status has a line in the log. The next status knows what became of it.
    let mut damaged = None;
    for _ in 0..100 {
        damaged = arena.status().await?.audit.context("the status knows of no audit log")?.damaged;
        if damaged.is_some() {
            break;
        }
    }
    arena.server.take().context("the server does not run")?.kill().await?;
    put_back(arena, &log, &kept).await?;
    Ok(damaged.map_or_else(
        || Answer::new(ACCEPTED, "the status says nothing of it"),
        |damaged| Answer::new("noticed", damaged),
    ))
}

/// A copy of the log's folder, beside it.
fn kept(log: &Path) -> Result<PathBuf> {
    let kept = log.with_extension("kept");
    let _ = fs::remove_dir_all(&kept);
    fs::create_dir(&kept)?;
    // A head that is older than the log is one that the log has.
    fs::copy(log.join(HEAD), kept.join(HEAD))?;
    for entry in fs::read_dir(log)? {
        let path = entry?.path();
        let name = path.file_name().context("a file has a name")?;
        if name != HEAD {
            fs::copy(&path, kept.join(name))?;
        }
    }
    Ok(kept)
}

/// Puts the copy in the log's place, for the attacks that follow, and starts the server again.
async fn put_back(arena: &mut Arena, log: &Path, kept: &Path) -> Result<()> {
    if let Some(server) = arena.server.take() {
        server.kill().await?;
    }
    for entry in fs::read_dir(log)? {
        fs::remove_file(entry?.path())?;
    }
    for entry in fs::read_dir(kept)? {
        let path = entry?.path();
        fs::rename(&path, log.join(path.file_name().context("a file has a name")?))?;
    }
    fs::remove_dir(kept)?;
    arena.start_again().await
}

/// Waits until the server's log has said this since it was so long, and gives what it has said since.
async fn logged(arena: &Arena, since: u64, text: &str) -> Result<String> {
    let server = arena.server.as_ref().context("the server does not run")?;
    let said = async {
        loop {
            let log = server.log_since(since);
            if log.contains(text) {
                return log;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(HANGS, said).await.with_context(|| format!("the log does not say `{text}`"))
}

async fn misleading_name(arena: &mut Arena) -> Result<Answer> {
    let since = arena.server.as_ref().context("the server does not run")?.log_length();
    let name = "misleading\u{202e}\u{feff}\u{2028}ERROR  the server is lost";
    let client = arena.client("activator").await?;
    ensure!(client.pull(name).await.is_err(), "the key was not to be there");
    client.close().await;
    let log = logged(arena, since, "misleading").await?;
    let line = log.lines().find(|line| line.contains("misleading")).unwrap_or_default().to_owned();
    let is_escaped = !line.contains(stepbox_trust::is_unseen) && line.contains("ERROR");
    Ok(Answer::new(if is_escaped { "escaped" } else { ACCEPTED }, line.escape_debug().to_string()))
}

async fn repeated_refusals(arena: &mut Arena) -> Result<Answer> {
    let since = arena.server.as_ref().context("the server does not run")?.log_length();
    let (client, other) = (arena.client("activator").await?, arena.client("operator").await?);
    for number in 0..REFUSALS {
        ensure!(client.pull(&format!("flooded-{number}")).await.is_err(), "the key was not to be there");
    }
    // Somebody else's refusal is logged all the same, and behind those.
    ensure!(other.pull("not-flooded").await.is_err(), "the key was not to be there");
    client.close().await;
    other.close().await;
    let log = logged(arena, since, "not-flooded").await?;
    let lines = log.lines().filter(|line| line.contains("flooded-")).count();
    let is_throttled = lines < REFUSALS / 2;
    let words = format!("{lines} lines of {REFUSALS} refusals");
    Ok(Answer::new(if is_throttled { "throttled" } else { ACCEPTED }, words))
}

/// The log as it is at this moment: its head, which the copy is held against, before its files.
fn copied(arena: &Arena) -> Result<PathBuf> {
    let (log, copy) = (arena.server_folder().join("state/audit"), arena.cast.folder.join("audit-copy"));
    let _ = fs::remove_dir_all(&copy);
    fs::create_dir_all(&copy)?;
    // A head that is older than the log is one that the log has.
    let mut files = vec![log.join(HEAD), log.join("audit.pub")];
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
