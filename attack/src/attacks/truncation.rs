//! Files that were cut off, or are not understood. Whoever can stop a program that writes one, or fill its disk, must not
//! gain trust by it, nor end that of others.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use stepbox_client::Client;
use stepbox_trust::{SigningKey, SigningRequest, add_signature};
use stepbox_wire::{ServerStatus, Standing};

use super::Attack;
use super::credentials::{answer_of_start, second_folder};
use super::publisher::under_another_key_id;
use crate::answer::{ACCEPTED, Answer};
use crate::arena::{Arena, GUARDED, NARROW, Process, Wanted};
use crate::in_time;
use crate::threat::Threat::{Credentials, Forgery, SingleTarget};

/// What was before holds.
const IN_FORCE: &str = "stays in force";

pub(super) fn attacks() -> Vec<Attack> {
    vec![
        Attack::new(
            Forgery,
            "signed by one publisher, while the trust file ends before the rule that asks for two",
            &["internal"],
            |arena| Box::pin(without_rule(arena)),
        ),
        shortened("an empty trust file, while everybody trains", |_| String::new()),
        shortened("a trust file of its first line, while everybody trains", |_| "format = 1\n".to_owned()),
        shortened("a trust file without its last line, while everybody trains", |whole| whole.replace("[end]\n", "")),
        ledger("a ledger of no bytes", |_| String::new()),
        ledger("a ledger of its first line", |whole| whole.lines().take(1).collect()),
        ledger("a ledger without its last line", |whole| {
            whole.trim_end().rsplit_once('\n').map_or_else(String::new, |(before, _)| before.to_owned())
        }),
        Attack::new(SingleTarget, "a second server in the same state directory", &["configuration"], |arena| {
            Box::pin(second_server(arena))
        }),
        bundle("a byte order mark before the authority's certificate", |pem| format!("\u{feff}{pem}")),
        bundle("two authorities' certificates without a line break between them", |pem| {
            format!("{}{pem}", pem.trim_end())
        }),
        Attack::new(
            Credentials,
            "a revoked certificate, while the revocation list is half of what it was",
            &["alert CertificateRevoked"],
            |arena| Box::pin(half_a_revocation_list(arena)),
        ),
        Attack::new(
            Forgery,
            "garbage in the name of a key that the operator lists while the optimizer runs",
            &["goes on"],
            |arena| Box::pin(garbage_of_a_key_to_come(arena)),
        ),
    ]
}

async fn without_rule(arena: &mut Arena) -> Result<Answer> {
    let whole = arena.cast.trust_file(&[], &[]);
    let (beginning, _) = whole.split_once("[[rule]]").context("the trust file has no rule")?;
    let before = arena.replace_trust_file(beginning)?;
    let answer = arena.deploy(arena.cast.signed(GUARDED, "1.6.1")?).await;
    arena.replace_trust_file(&before)?;
    answer
}

/// Puts less than the whole trust file in place, and waits until the server has seen it.
fn shortened(name: &'static str, shorten: fn(&str) -> String) -> Attack {
    Attack::new(Forgery, name, &[IN_FORCE], move |arena| {
        Box::pin(async move {
            let operator = arena.client("operator").await?;
            let before = arena.replace_trust_file(&shorten(&arena.cast.trust_file(&[], &[])))?;
            let seen = until(&operator, |status| status.deployment.trust_error.is_some()).await;
            arena.replace_trust_file(&before)?;
            let seen = seen?.deployment;
            until(&operator, |status| status.deployment.trust_error.is_none()).await?;
            let words = seen.trust_error.unwrap_or_default();
            Ok(Answer::new(if seen.standing == Standing::Trusted { IN_FORCE } else { "paused" }, words))
        })
    })
}

/// Starts another server with less than the whole ledger.
fn ledger(name: &'static str, shorten: fn(&str) -> String) -> Attack {
    Attack::new(Forgery, name, &["configuration"], move |arena| {
        Box::pin(async move {
            let folder = second_folder(arena)?;
            let whole = fs::read_to_string(arena.server_folder().join("state/versions.toml"))?;
            let state = folder.join("state");
            fs::create_dir_all(&state)?;
            fs::write(state.join("versions.toml"), shorten(&whole))?;
            // Or that would be what is wrong.
            fs::set_permissions(&state, PermissionsExt::from_mode(0o700))?;
            fs::set_permissions(state.join("versions.toml"), PermissionsExt::from_mode(0o600))?;
            let answer =
                answer_of_start(Process::try_start(&arena.cast.program, &folder, "server.toml").await?).await?;
            ensure!(answer.code == ACCEPTED || answer.words.contains("versions.toml does not end"), "{}", answer.words);
            Ok(answer)
        })
    })
}

async fn second_server(arena: &mut Arena) -> Result<Answer> {
    let started = Process::try_start(&arena.cast.program, &arena.server_folder(), "server.toml").await?;
    let answer = answer_of_start(started).await?;
    ensure!(answer.code == ACCEPTED || answer.words.contains("another server"), "{}", answer.words);
    Ok(answer)
}

/// Changes the authority's certificates on disk, and waits until the server has seen it.
fn bundle(name: &'static str, change: fn(&str) -> String) -> Attack {
    Attack::new(Credentials, name, &[IN_FORCE], move |arena| {
        Box::pin(async move {
            let operator = arena.client("operator").await?;
            let path = arena.cast.authority.certificate();
            let whole = fs::read_to_string(&path)?;
            replace(&path, &change(&whole))?;
            let seen = until(&operator, |status| told(status).is_some()).await;
            replace(&path, &whole)?;
            let words = told(&seen?).unwrap_or_default();
            until(&operator, |status| told(status).is_none()).await?;
            Ok(Answer::new(IN_FORCE, words))
        })
    })
}

async fn half_a_revocation_list(arena: &mut Arena) -> Result<Answer> {
    let operator = arena.client("operator").await?;
    let stolen = arena.cast.authority.issue_as("stolen-and-cut-off", Wanted::new("insider"))?;
    arena.cast.authority.revoke(&[&stolen])?;
    // In force once it is seen to be refused.
    let mut refused = arena.try_connect(&stolen).await?;
    while refused.code == ACCEPTED {
        refused = arena.try_connect(&stolen).await?;
    }
    let path = arena.cast.authority.revocation_list();
    let whole = fs::read_to_string(&path)?;
    replace(&path, &whole[..whole.len() / 2])?;
    let seen = until(&operator, |status| told(status).is_some()).await;
    let answer = arena.try_connect(&stolen).await;
    replace(&path, &whole)?;
    seen?;
    until(&operator, |status| told(status).is_none()).await?;
    answer
}

/// Anybody can add an entry to a file's signatures: of a key that nobody lists it says nothing, also later.
async fn garbage_of_a_key_to_come(arena: &mut Arena) -> Result<Answer> {
    let (publisher, new) = (arena.cast.publisher.public_key().id(), arena.cast.forger.public_key().id());
    // Signatures stand in the order of their key ids.
    let other = loop {
        let other = SigningKey::generate()?;
        if (other.public_key().id() < publisher) == (new < publisher) {
            break other;
        }
    };
    let unsigned = arena.cast.component(NARROW)?;
    let digest =
        SigningRequest::new(&unsigned, NARROW, "1.0.4", &arena.cast.publisher.public_key())?.digest().to_string();
    let signed = add_signature(&arena.cast.signed(NARROW, "1.0.4")?, &other)?;
    let deployed = arena.deploy(under_another_key_id(signed, &other, &arena.cast.forger)?).await?;
    if deployed.code != ACCEPTED {
        return Ok(deployed);
    }
    let operator = arena.client("operator").await?;
    arena.train_until_failure(2).await?;
    let listed = format!("[[publisher]]\nname = 'New'\npublic_key = '{}'\n[[rule]]", arena.cast.forger.public_key());
    let before = arena.replace_trust_file(&arena.cast.trust_file(&[], &[]).replace("[[rule]]", &listed))?;
    // A deployment has the server look at the file: this one is refused for another reason.
    let looked = arena.deploy(arena.cast.signed(GUARDED, "1.6.2")?).await;
    let running = in_time(operator.status(false)).await?;
    arena.replace_optimizer().await?;
    let deployer = arena.client("deployer").await?;
    let back = Answer::of(in_time(deployer.rollback(Some(&digest))).await?);
    arena.replace_trust_file(&before)?;
    arena.train_until_failure(1).await?;
    arena.replace_optimizer().await?;
    ensure!(looked?.code == "untrusted", "the server did not look at the trust file");
    Ok(match running?.deployment.standing {
        Standing::Trusted if back.code == ACCEPTED => Answer::new("goes on", "and can be gone back to"),
        Standing::Trusted => Answer::new("no rollback", back.words),
        standing => Answer::new("paused", format!("{standing:?}")),
    })
}

/// Why files that were read again cannot be used.
fn told(status: &ServerStatus) -> Option<String> {
    status.warnings.iter().find(|warning| warning.contains("cannot be used")).cloned()
}

/// Asks for the status until it is as wanted. Each answer is waited for; the server looks at its files by itself.
async fn until(client: &Client, is_so: impl Fn(&ServerStatus) -> bool) -> Result<ServerStatus> {
    let asking = async {
        loop {
            match client.status(false).await {
                Ok(status) if is_so(&status) => return Ok(status),
                Ok(_) => tokio::task::yield_now().await,
                Err(error) => bail!("no status: {error}"),
            }
        }
    };
    in_time(asking).await?
}

/// In one step, so that nobody reads anything but this.
fn replace(path: &Path, text: &str) -> Result<()> {
    let next = path.with_extension("replacement");
    fs::write(&next, text)?;
    Ok(fs::rename(next, path)?)
}
