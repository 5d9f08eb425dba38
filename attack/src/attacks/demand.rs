//! Who has a place in a job, and asks for more than anybody needs: a worker that floods the others, keys whose rows take
//! more memory than they do, lists of what is none of its business.

use anyhow::{Context, Result, ensure};
use stepbox_client::{Client, Rows, Tensor};
use stepbox_wire::{ElementType, Request, Response, TensorType};

use super::Attack;
use crate::answer::{ACCEPTED, Answer};
use crate::arena::{Arena, Compromised, KEYS, Key, When, push};
use crate::in_time;
use crate::raw::RawPeer;
use crate::threat::Threat::{Flood, Manipulation, Unauthorised};

/// Registrations, and gradients that are no numbers, of a flood.
const REPETITIONS: u64 = 2000;

/// More pulls than may wait for a version far ahead.
const PULLS: u64 = 200;

/// More row ids than are held for an identity by default.
const ROW_IDS: usize = 9 << 20;

pub(super) fn attacks() -> Vec<Attack> {
    let forbidden = |name: &'static str, identity: &'static str, request: Request| {
        Attack::new(Unauthorised, name, &["forbidden"], move |arena| {
            let request = request.clone();
            Box::pin(async move {
                RawPeer::greeted(arena.address()?, arena.tls(identity)?).await?.try_call(&request, &[]).await
            })
        })
    };
    vec![
        Attack::new(Flood, "a worker registers 2,000 times", &["noticed once"], |arena| Box::pin(registrations(arena))),
        Attack::new(Flood, "a worker pulls 200 versions that never come", &["busy"], |arena| {
            Box::pin(async move {
                arena.mischief(When::BeforePush, |worker, key, _| Box::pin(pulls_ahead(worker, key))).await
            })
        }),
        Attack::new(Manipulation, "2,000 gradients of NaN in a row", &["not-finite"], |arena| {
            Box::pin(async move {
                arena.mischief(When::BeforePush, |worker, key, round| Box::pin(diverged(worker, key, round))).await
            })
        }),
        Attack::new(Manipulation, "a key named with a control character", &["invalid-name"], |arena| {
            let tensor = TensorType { element: ElementType::F32, shape: vec![1] };
            let init = Request::Init { key: "\u{1b}[2Jlayer".into(), tensor, tags: Vec::new() };
            Box::pin(
                async move { arena.mischief(When::BeforePush, move |worker, _, _| Box::pin(ask(worker, init))).await },
            )
        }),
        Attack::new(Flood, "rows of a key that has 2^40 and no elements", &["wrong-shape"], |arena| {
            Box::pin(async move {
                let neighbour = neighbour(arena).await?;
                in_time(neighbour.init("hollow", &Tensor::new([1 << 40, 0], Vec::new())?)).await??;
                let rows = Rows::new([1 << 39], Tensor::new([1, 0], Vec::new())?)?;
                Ok(Answer::of(in_time(neighbour.push_rows("hollow", &rows)).await?))
            })
        }),
        Attack::new(Flood, "9 Mi ids of a key of two rows", &["busy"], |arena| {
            Box::pin(async move {
                let neighbour = neighbour(arena).await?;
                in_time(neighbour.init("narrow", &Tensor::new([2, 1], vec![0.0; 2])?)).await??;
                Ok(Answer::of(in_time(neighbour.pull_rows("narrow", &vec![1; ROW_IDS])).await?))
            })
        }),
        forbidden("a worker lists the keys", "worker-0", Request::Keys { after: None }),
        forbidden("an evaluator lists the workers", "evaluator", Request::Workers { after: Some(0) }),
        forbidden(
            "an evaluator goes on with a list of submissions",
            "evaluator",
            Request::Submissions { after: Some("0".repeat(64)) },
        ),
    ]
}

/// The only worker of another job of this server, which may make keys.
async fn neighbour(arena: &Arena) -> Result<Client> {
    let mut config = arena.cast.reach(arena.address()?, &arena.cast.credentials("neighbour"));
    config.job = "other".into();
    let client = Client::connect(&config).await?;
    client.register().await?;
    Ok(client)
}

/// All are answered, and the log tells of none: the connection speaks for the worker already.
async fn registrations(arena: &mut Arena) -> Result<Answer> {
    let before = arena.server.as_ref().context("the server does not run")?.log_length();
    let answer = arena.mischief(When::BeforePush, |worker, _, _| Box::pin(register(worker))).await?;
    ensure!(answer.code == ACCEPTED, "{}: {}", answer.code, answer.words);
    let log = arena.server.as_ref().context("the server does not run")?.log_since(before);
    let noticed = log.lines().filter(|line| line.contains("registered")).count();
    let code = if noticed <= 1 { "noticed once" } else { ACCEPTED };
    Ok(Answer::new(code, format!("{noticed} lines in the log")))
}

async fn register(worker: &mut Compromised) -> Result<Answer> {
    let mut last = 0;
    for _ in 0..REPETITIONS {
        last = worker.peer.ask(&Request::Register, &[]).await?;
    }
    Ok(Answer::of_response(worker.peer.answer_to(last).await?))
}

/// Pulls that wait in vain, and then another connection.
async fn pulls_ahead(worker: &mut Compromised, key: Key) -> Result<Answer> {
    for version in 0..PULLS {
        let pull = Request::Pull { key: key.name.into(), version: u64::MAX - version, evaluation: false };
        worker.peer.ask(&pull, &[]).await?;
    }
    let answer = worker.peer.outcome().await?;
    worker.reconnect().await?;
    Ok(answer)
}

/// All for the smallest key, which has its turn before the last one.
async fn diverged(worker: &mut Compromised, turn: Key, round: u64) -> Result<Answer> {
    let (key, round) = (KEYS[1], round + u64::from(turn == KEYS[2]));
    let body = f32::NAN.to_le_bytes().repeat(key.elements);
    let mut asked = Vec::new();
    for _ in 0..REPETITIONS {
        asked.push(worker.peer.ask(&push(key, round), &body).await?);
    }
    let mut answer = None;
    for id in asked {
        answer = worker.peer.answer_to(id).await?;
        if !matches!(answer, Some(Response::Failed(_))) {
            break;
        }
    }
    Ok(Answer::of_response(answer))
}

async fn ask(worker: &mut Compromised, request: Request) -> Result<Answer> {
    worker.peer.try_call(&request, &[0; 4]).await
}
