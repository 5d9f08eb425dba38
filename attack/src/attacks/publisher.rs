//! Who sends optimizers that are not a trusted publisher's, or not any more.

use anyhow::{Context, Result, ensure};
use stepbox_client::DeployOptions;
use stepbox_trust::{SigningKey, add_signature, sign};

use super::{Attack, Attempting};
use crate::answer::Answer;
use crate::arena::{Arena, Cast, GOOD, GOOD_VERSION, GUARDED, MENDED};
use crate::in_time;
use crate::threat::Threat::{Forgery, HostileOptimizer, Pickle};

/// Above what is deployed, so that nothing but what is wrong with a file stands against it.
const NEWER: &str = "1.6.0";

const UNTRUSTED: &[&str] = &["untrusted"];

/// Length of a component's preamble; the signature's section comes next.
const PREAMBLE: usize = 8;

pub(super) fn attacks() -> Vec<Attack> {
    let pickle = || {
        Ok(b"\x80\x04\x95\x1f\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94."
            .to_vec())
    };
    vec![
        sent(Pickle, "a pickle that runs a command", move |_| pickle()),
        sent(Pickle, "a shared library", |_| Ok([b"\x7fELF\x02\x01\x01".to_vec(), vec![0; 4096]].concat())),
        sent(Pickle, "a core module instead of a component", |_| Ok(b"\0asm\x01\0\0\0".to_vec())),
        sent(Forgery, "unsigned", |cast| cast.component(GOOD)),
        Attack::new(Forgery, "nothing at all", &["wrong-length"], |arena| {
            Box::pin(async move { arena.deploy(Vec::new()).await })
        }),
        sent(Forgery, "signed by a stranger", |cast| signed(cast, &cast.forger)),
        sent(Forgery, "signed with a revoked key", |cast| signed(cast, &cast.revoked)),
        sent(Forgery, "signed with a key that has expired", |cast| signed(cast, &cast.expired)),
        sent(Forgery, "signed with a key that is not valid yet", |cast| signed(cast, &cast.early)),
        sent(Forgery, "signed by one publisher where two must sign", |cast| cast.signed(GUARDED, NEWER)),
        sent(Forgery, "signed by one of two publishers and by a stranger", |cast| {
            Ok(add_signature(&cast.signed(GUARDED, NEWER)?, &cast.forger)?)
        }),
        sent(Forgery, "a second publisher's signature of another version", |cast| {
            let other = add_signature(&cast.signed(GUARDED, "1.5.9")?, &cast.board)?;
            let (signed, bytes) = (cast.signed(GUARDED, NEWER)?, signature_section(&other)?.to_vec());
            let rest = &signed[PREAMBLE + signature_section(&signed)?.len()..];
            Ok([&signed[..PREAMBLE], &bytes, rest].concat())
        }),
        sent(Forgery, "below the lowest version of the trust file", |cast| cast.signed(MENDED, "1.9.9")),
        sent(Forgery, "signed by a publisher trusted for another name", |cast| signed(cast, &cast.narrow)),
        sent(Forgery, "another component under the publisher's signature", |cast| {
            let (signed, other) = (cast.good(), cast.component("sgd")?);
            let rest = other.get(PREAMBLE..).context("no component")?;
            Ok([&signed[..PREAMBLE], signature_section(&signed)?, rest].concat())
        }),
        sent(Forgery, "a stranger's signature with the publisher's key id", |cast| {
            under_another_key_id(signed(cast, &cast.forger)?, &cast.forger, &cast.publisher)
        }),
        sent(Forgery, "one bit flipped in the code", |cast| flipped(cast, |length| length / 2)),
        sent(Forgery, "one bit flipped in the signature", |cast| flipped(cast, |_| PREAMBLE + 60)),
        sent(Forgery, "one bit flipped in the last byte", |cast| flipped(cast, |length| length - 1)),
        Attack::new(Forgery, "one bit flipped in every 997th byte, one file after the other", UNTRUSTED, |arena| {
            Box::pin(many_flips(arena))
        }),
        sent(Forgery, "the last byte cut off", |cast| {
            cast.signed(GOOD, NEWER).map(|mut bytes| {
                bytes.pop();
                bytes
            })
        }),
        sent(Forgery, "cut off within the signature", |cast| {
            cast.signed(GOOD, NEWER).map(|mut bytes| {
                bytes.truncate(PREAMBLE + 40);
                bytes
            })
        }),
        sent(Forgery, "a byte appended", |cast| cast.signed(GOOD, NEWER).map(|bytes| [bytes, vec![0]].concat())),
        sent(Forgery, "a custom section appended", |cast| {
            Ok([cast.signed(GOOD, NEWER)?, b"\0\x05\x04more".to_vec()].concat())
        }),
        sent(Forgery, "the signature twice", |cast| {
            let bytes = cast.signed(GOOD, NEWER)?;
            let section = signature_section(&bytes)?.to_vec();
            Ok([&bytes[..PREAMBLE], &section, &bytes[PREAMBLE..]].concat())
        }),
        sent(Forgery, "downgraded to an older version", |cast| cast.signed(GOOD, "1.4.9")),
        sent(Forgery, "other code under a version already deployed", |cast| {
            Ok(sign(&cast.component("adam")?, GOOD, GOOD_VERSION, &cast.publisher)?)
        }),
        Attack::new(Forgery, "signed under another component's name", &["not-admitted"], |arena| {
            Box::pin(async move {
                let mislabelled = sign(&arena.cast.component("sgd")?, GOOD, NEWER, &arena.cast.publisher)?;
                arena.deploy(mislabelled).await
            })
        }),
        Attack::new(Forgery, "deployed while the trust file is damaged", &["internal", "untrusted"], |arena| {
            Box::pin(damaged_trust_file(arena))
        }),
        Attack::new(HostileOptimizer, "a learning rate out of its range", &["hyperparameter"], |arena| {
            Box::pin(async move {
                let options = DeployOptions { learning_rate: Some(f64::NAN), ..DeployOptions::default() };
                let component = arena.cast.signed(GOOD, NEWER)?;
                arena.deploy_with(component, &options).await
            })
        }),
        Attack::new(HostileOptimizer, "a hyperparameter out of its range", &["hyperparameter"], |arena| {
            Box::pin(async move {
                let hyperparameters = vec![("beta1".into(), "1.5".into())];
                let component = arena.cast.signed(GOOD, NEWER)?;
                arena.deploy_with(component, &DeployOptions { hyperparameters, ..DeployOptions::default() }).await
            })
        }),
    ]
}

/// A file that the deployer sends, and that must not be trusted.
fn sent(
    threat: crate::threat::Threat,
    name: &'static str,
    file: impl Fn(&Cast) -> Result<Vec<u8>> + Send + Sync + 'static,
) -> Attack {
    let file = std::sync::Arc::new(file);
    Attack::new(threat, name, UNTRUSTED, move |arena| -> Attempting<'_> {
        let file = std::sync::Arc::clone(&file);
        Box::pin(async move {
            let component = file(&arena.cast)?;
            arena.deploy(component).await
        })
    })
}

/// The good optimizer in a new version, signed with a key.
fn signed(cast: &Cast, key: &SigningKey) -> Result<Vec<u8>> {
    Ok(sign(&cast.component(GOOD)?, GOOD, NEWER, key)?)
}

/// The same with one bit flipped at a place that is chosen by the file's length.
fn flipped(cast: &Cast, place: impl Fn(usize) -> usize) -> Result<Vec<u8>> {
    let mut bytes = cast.signed(GOOD, NEWER)?;
    let place = place(bytes.len());
    *bytes.get_mut(place).context("there is no such byte")? ^= 1;
    Ok(bytes)
}

/// The section behind the preamble: where the signature stands.
fn signature_section(file: &[u8]) -> Result<&[u8]> {
    let body = file.get(PREAMBLE..).context("no component")?;
    let (mut length, mut at) = (0_usize, 1);
    loop {
        let byte = *body.get(at).context("no section")?;
        length |= usize::from(byte & 0x7f) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    body.get(..at + length).context("the section ends early")
}

/// Puts one key's id in the place of another's.
pub(super) fn under_another_key_id(mut file: Vec<u8>, own: &SigningKey, other: &SigningKey) -> Result<Vec<u8>> {
    let bytes = |key: &SigningKey| -> Result<Vec<u8>> {
        let text = key.public_key().id().to_string();
        ensure!(text.is_ascii(), "{text} is no key id");
        let digits = (0..text.len()).step_by(2);
        digits.map(|at| Ok(u8::from_str_radix(&text[at..at + 2], 16)?)).collect()
    };
    let (own, other) = (bytes(own)?, bytes(other)?);
    let at = file.windows(own.len()).position(|window| window == own).context("the file does not name its key")?;
    file[at..at + other.len()].copy_from_slice(&other);
    Ok(file)
}

async fn many_flips(arena: &mut Arena) -> Result<Answer> {
    let good = arena.cast.signed(GOOD, NEWER)?;
    let deployer = arena.client("deployer").await?;
    let (mut files, mut last) = (0, Answer::new("none", "there was no byte to flip"));
    for place in (0..good.len()).step_by(997) {
        let mut bytes = good.clone();
        bytes[place] ^= 1;
        last = Answer::of(in_time(deployer.deploy(bytes, &DeployOptions::default())).await?);
        files += 1;
        if !UNTRUSTED.contains(&last.code.as_str()) {
            last.words = format!("byte {place}: {}", last.words);
            return Ok(last);
        }
    }
    last.words = format!("{files} files, the last one: {}", last.words);
    Ok(last)
}

/// An operator's editor has left half a trust file: who was not trusted must not be trusted now.
async fn damaged_trust_file(arena: &mut Arena) -> Result<Answer> {
    let whole = arena.cast.trust_file(&[], &[]);
    let before = arena.replace_trust_file(&format!("{}[[publisher", &whole[..whole.len() / 2]))?;
    let answer = arena.deploy(signed(&arena.cast, &arena.cast.forger)?).await;
    arena.replace_trust_file(&before)?;
    answer
}
