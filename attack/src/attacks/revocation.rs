//! What was good and is revoked while it is in use: the optimizer that runs, and the certificate of an open connection.

use std::time::Duration;

use anyhow::{Context, Result};
use stepbox_trust::{SigningRequest, add_signature, sign};
use stepbox_wire::{PROTOCOL_VERSION, Response};
use time::OffsetDateTime;

use super::Attack;
use crate::answer::{ACCEPTED, Answer, CLOSED};
use crate::arena::{Arena, Credentials, End, NARROW, Wanted};
use crate::in_time;
use crate::raw::{self, RawPeer, hello};
use crate::threat::Threat::{Credentials as Keys, Forgery};

/// Rounds after which somebody who should have been paused has trained on.
const ROUNDS: u64 = 400;

/// How long a certificate holds that ends while its connection is open: longer than a handshake takes.
const SHORT: Duration = Duration::from_secs(8);

pub(super) fn attacks() -> Vec<Attack> {
    vec![
        Attack::new(Forgery, "an optimizer that runs, signed with a key that is then revoked", &["paused"], |arena| {
            Box::pin(revoked_key(arena))
        }),
        Attack::new(Forgery, "an optimizer that runs and is then revoked by its digest", &["paused"], |arena| {
            Box::pin(revoked_digest(arena))
        }),
        Attack::new(Forgery, "a revoked optimizer under one more signature", &["untrusted"], |arena| {
            Box::pin(revoked_and_signed_again(arena))
        }),
        Attack::new(Forgery, "a rollback to an optimizer that was revoked since", &["untrusted"], |arena| {
            Box::pin(rollback_to_revoked(arena))
        }),
        Attack::new(Keys, "a certificate that is revoked while its connection is open", INVALID, |arena| {
            Box::pin(revoked_connection(arena))
        }),
        Attack::new(Keys, "a revoked certificate connects again", &["alert CertificateRevoked"], |arena| {
            Box::pin(revoked_certificate(arena))
        }),
        Attack::new(Keys, "a certificate that ends while its connection is open", INVALID, |arena| {
            Box::pin(expired_connection(arena))
        }),
    ]
}

/// What a connection ends in whose certificate is good no more.
const INVALID: &[&str] = &["certificate-invalid"];

async fn revoked_key(arena: &mut Arena) -> Result<Answer> {
    let component = sign(&arena.cast.component(NARROW)?, NARROW, "1.0.0", &arena.cast.narrow)?;
    let trust = arena.cast.trust_file(&[], &[&arena.cast.narrow]);
    revoked_in_use(arena, component, &trust).await
}

async fn revoked_digest(arena: &mut Arena) -> Result<Answer> {
    let component = sign(&arena.cast.component(NARROW)?, NARROW, "1.0.1", &arena.cast.narrow)?;
    let trust = arena.cast.trust_file(&[content_digest(arena, "1.0.1")?], &[]);
    revoked_in_use(arena, component, &trust).await
}

/// The digest that a revocation names: of what is signed, whoever signs it.
fn content_digest(arena: &Arena, version: &str) -> Result<String> {
    let publisher = arena.cast.narrow.public_key();
    let unsigned = SigningRequest::new(&arena.cast.component(NARROW)?, NARROW, version, &publisher)?;
    Ok(unsigned.digest().to_string())
}

/// Everybody trains with a good optimizer until it is revoked. Nobody may get a round out of it any more, and in the end the
/// optimizer of before takes over.
async fn revoked_in_use(arena: &mut Arena, component: Vec<u8>, trust: &str) -> Result<Answer> {
    let deployed = arena.deploy(component).await?;
    if deployed.code != ACCEPTED {
        return Ok(deployed);
    }
    let before = arena.replace_trust_file(trust)?;
    let end = arena.train_until_failure(ROUNDS).await;
    let again = arena.replace_optimizer().await;
    arena.replace_trust_file(&before)?;
    again?;
    Ok(match end? {
        End::Paused { message } => Answer::new("paused", message),
        End::Done => Answer::new(ACCEPTED, format!("it trained for {ROUNDS} rounds more")),
        End::OptimizerFailed { message, .. } => Answer::new("optimizer-failed", message),
    })
}

/// The file has another digest then, and what is signed in it has not.
async fn revoked_and_signed_again(arena: &mut Arena) -> Result<Answer> {
    let component = sign(&arena.cast.component(NARROW)?, NARROW, "1.0.2", &arena.cast.narrow)?;
    let before = arena.replace_trust_file(&arena.cast.trust_file(&[content_digest(arena, "1.0.2")?], &[]))?;
    let answer = arena.deploy(add_signature(&component, &arena.cast.publisher)?).await;
    arena.replace_trust_file(&before)?;
    answer
}

async fn rollback_to_revoked(arena: &mut Arena) -> Result<Answer> {
    let component = sign(&arena.cast.component(NARROW)?, NARROW, "1.0.3", &arena.cast.narrow)?;
    let deployed = arena.deploy(component).await?;
    if deployed.code != ACCEPTED {
        return Ok(deployed);
    }
    arena.train_until_failure(2).await?;
    arena.replace_optimizer().await?;
    let digest = content_digest(arena, "1.0.3")?;
    let before = arena.replace_trust_file(&arena.cast.trust_file(std::slice::from_ref(&digest), &[]))?;
    let deployer = arena.client("deployer").await?;
    let answer = Answer::of(in_time(deployer.rollback(Some(&digest))).await?);
    arena.replace_trust_file(&before)?;
    Ok(answer)
}

/// An operator's certificate that was stolen.
fn stolen(arena: &Arena, file: &str) -> Result<Credentials> {
    arena.cast.authority.issue_as(file, Wanted::new("insider"))
}

async fn revoked_connection(arena: &mut Arena) -> Result<Answer> {
    let stolen = stolen(arena, "stolen-in-use")?;
    let tls = raw::tls(&arena.cast.authority.certificate(), Some(&stolen))?;
    let mut peer = RawPeer::greeted(arena.address()?, tls).await?;
    arena.cast.authority.revoke(&[&stolen])?;
    told_at_the_end(&mut peer).await
}

async fn revoked_certificate(arena: &mut Arena) -> Result<Answer> {
    let stolen = stolen(arena, "stolen")?;
    let tls = raw::tls(&arena.cast.authority.certificate(), Some(&stolen))?;
    let mut peer = RawPeer::greeted(arena.address()?, tls.clone()).await?;
    arena.cast.authority.revoke(&[&stolen])?;
    // As soon as this connection ends, the server knows the list.
    told_at_the_end(&mut peer).await?;
    match RawPeer::connect(arena.address()?, tls).await {
        Ok(mut peer) => peer.try_call(&hello(PROTOCOL_VERSION), &[]).await,
        Err(error) => Ok(Answer::of_error(&error)),
    }
}

async fn expired_connection(arena: &mut Arena) -> Result<Answer> {
    let now = OffsetDateTime::now_utc();
    let wanted = Wanted { times: (now - SHORT, now + SHORT), ..Wanted::new("insider") };
    let short = arena.cast.authority.issue_as("short", wanted)?;
    let tls = raw::tls(&arena.cast.authority.certificate(), Some(&short))?;
    let mut peer = RawPeer::greeted(arena.address()?, tls).await?;
    told_at_the_end(&mut peer).await
}

/// What the server says, unasked, before it ends a connection.
async fn told_at_the_end(peer: &mut RawPeer) -> Result<Answer> {
    Ok(match peer.receive().await.context("the connection does not end")? {
        Some((_, Response::Failed(failure))) => failure.into(),
        Some((_, other)) => Answer::new(ACCEPTED, format!("{other:?}")),
        None => Answer::new(CLOSED, "without a word"),
    })
}
