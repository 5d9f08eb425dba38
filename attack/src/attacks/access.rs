//! Who has rights, and reaches for more of them: other keys, others' steps of a deployment, another job.

use anyhow::Result;
use stepbox_client::{Client, DeployOptions};
use stepbox_wire::Request;

use super::Attack;
use crate::answer::{ACCEPTED, Answer};
use crate::arena::{Arena, KEYS};
use crate::in_time;
use crate::raw::{RawPeer, hello_to};
use crate::threat::Threat::{ModelStealing, Unauthorised};

const FORBIDDEN: &[&str] = &["forbidden"];

/// The other job of the server.
const OTHER: &str = "other";

pub(super) fn attacks() -> Vec<Attack> {
    let pull = |index: usize| Request::Pull { key: KEYS[index].name.into(), version: 0, evaluation: false };
    vec![
        Attack::new(ModelStealing, "an evaluator pulls a key that is not its own", FORBIDDEN, move |arena| {
            Box::pin(async move {
                let mut peer = RawPeer::greeted(arena.address()?, arena.tls("evaluator")?).await?;
                // The one that is its own comes, or this shows nothing.
                let own = peer.try_call(&pull(1), &[]).await?;
                anyhow::ensure!(own.code == ACCEPTED, "its own key: {}: {}", own.code, own.words);
                peer.try_call(&pull(0), &[]).await
            })
        }),
        Attack::new(ModelStealing, "an evaluator asks whether a key exists", FORBIDDEN, |arena| {
            Box::pin(async move {
                let mut peer = RawPeer::greeted(arena.address()?, arena.tls("evaluator")?).await?;
                let nowhere = Request::Pull { key: "nowhere".into(), version: 0, evaluation: false };
                peer.try_call(&nowhere, &[]).await
            })
        }),
        as_client("who may submit deploys", "submitter", |arena, client| {
            Box::pin(async move { deployed(arena, client).await })
        }),
        as_client("who may submit activates", "submitter", |arena, client| {
            Box::pin(async move {
                let submitted = in_time(client.submit(arena.cast.signed("sgd", "1.0.0")?)).await?;
                let digest = match submitted {
                    Ok(submission) => submission.component.digest,
                    // There from an attack before.
                    Err(_) => "0".repeat(64),
                };
                Ok(Answer::of(in_time(client.activate(&digest, &DeployOptions::default())).await?))
            })
        }),
        as_client("who may submit rolls back", "submitter", |_, client| {
            Box::pin(async move { Ok(Answer::of(in_time(client.rollback(None)).await?)) })
        }),
        as_client("who may activate brings code of its own", "activator", |arena, client| {
            Box::pin(async move { deployed(arena, client).await })
        }),
        as_client("who may activate submits", "activator", |arena, client| {
            Box::pin(async move { Ok(Answer::of(in_time(client.submit(arena.cast.signed("adam", "1.0.0")?)).await?)) })
        }),
        as_client("an operator rolls back", "insider", |_, client| {
            Box::pin(async move { Ok(Answer::of(in_time(client.rollback(None)).await?)) })
        }),
        as_client("an evaluator lists what was submitted", "evaluator", |_, client| {
            Box::pin(async move { Ok(Answer::of(in_time(client.submissions()).await?)) })
        }),
        Attack::new(Unauthorised, "who deploys in another job reaches for this one", FORBIDDEN, |arena| {
            Box::pin(async move { arena.try_connect(&arena.cast.credentials("neighbour")).await })
        }),
        Attack::new(Unauthorised, "an operator of this job reaches for another one", FORBIDDEN, |arena| {
            Box::pin(async move {
                let mut peer = RawPeer::connect(arena.address()?, arena.tls("operator")?).await?;
                peer.try_call(&hello_to(OTHER), &[]).await
            })
        }),
        Attack::new(Unauthorised, "another job deploys, trains, and has a key of the same name", &["apart"], |arena| {
            Box::pin(beside(arena))
        }),
    ]
}

async fn deployed(arena: &Arena, client: &Client) -> Result<Answer> {
    let component = arena.cast.signed("sgd", "1.0.0")?;
    Ok(Answer::of(in_time(client.deploy(component, &DeployOptions::default())).await?))
}

type Acting<'a> = std::pin::Pin<Box<dyn Future<Output = Result<Answer>> + Send + 'a>>;

/// Something that somebody does with the client that everybody uses.
fn as_client(
    name: &'static str,
    identity: &'static str,
    act: impl for<'a> Fn(&'a Arena, &'a Client) -> Acting<'a> + Copy + Send + Sync + 'static,
) -> Attack {
    Attack::new(Unauthorised, name, FORBIDDEN, move |arena| {
        Box::pin(async move {
            let client = arena.client(identity).await?;
            act(arena, &client).await
        })
    })
}

/// The other job's only worker makes the first key anew, with other values, and trains it. This job's weights are compared
/// afterwards, as after each attack.
async fn beside(arena: &mut Arena) -> Result<Answer> {
    let mut config = arena.cast.reach(arena.address()?, &arena.cast.credentials("neighbour"));
    config.job = OTHER.into();
    let neighbour = Client::connect(&config).await?;
    let (key, mine) = (KEYS[0], KEYS[0].tensor(vec![7.5; KEYS[0].elements])?);
    neighbour.deploy(arena.cast.signed("adagrad", "1.0.0")?, &DeployOptions::default()).await?;
    neighbour.register().await?;
    let first = neighbour.init(key.name, &mine).await?;
    let own = neighbour.push_pull(key.name, &key.gradient(0, 1)?).await?;
    let seen = in_time(neighbour.status(false)).await??;
    let apart = own.values().iter().all(|value| (value - 7.5).abs() < 1.0) && seen.job == OTHER;
    let words = format!("{first:?}; its own weights came back, and the status is of job {}", seen.job);
    Ok(Answer::new(if apart { "apart" } else { ACCEPTED }, words))
}
