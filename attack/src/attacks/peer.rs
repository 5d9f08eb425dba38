//! Who has a good certificate, and does what is not its part: some identity of the server's, or a worker of the job that the
//! attacker has taken over.

use anyhow::{Context, Result};
use stepbox_client::{Client, Schedule};
use stepbox_wire::{ElementType, FramePrefix, PROTOCOL_VERSION, Request, Response, TensorType, encode_request};

use super::{Attack, Attempting};
use crate::answer::Answer;
use crate::arena::{Arena, Compromised, Doing, KEYS, Key, When, bytes, push, push_as};
use crate::in_time;
use crate::raw::{RawPeer, hello, hello_to};
use crate::threat::Threat::{self, Flood, Impersonation, Manipulation, ModelStealing, Unauthorised};

const FORBIDDEN: &[&str] = &["forbidden"];
const NOT_FINITE: &[&str] = &["not-finite"];
const MALFORMED: &[&str] = &["malformed"];

pub(super) fn attacks() -> Vec<Attack> {
    [rights(), stealing(), conversation(), manipulation(), impersonation()].into_iter().flatten().collect()
}

fn rights() -> Vec<Attack> {
    vec![
        Attack::new(Unauthorised, "an identity with no part in the job", FORBIDDEN, |arena| {
            Box::pin(async move { arena.try_connect(&arena.cast.credentials("outsider")).await })
        }),
        greeting(Unauthorised, "a job that the server does not have", FORBIDDEN, hello_to("another")),
        Attack::new(Unauthorised, "a worker deploys an optimizer", FORBIDDEN, |arena| {
            Box::pin(async move {
                let component = arena.cast.signed("sgd", "1.0.0")?;
                let options = stepbox_wire::DeployOptions::default();
                as_worker(arena, When::BeforePush, Request::Deploy(options), component).await
            })
        }),
        Attack::new(Unauthorised, "a worker sets the learning rate", FORBIDDEN, |arena| {
            let set = Request::SetSchedule { learning_rate: Some(1e6), schedule: Schedule::default() };
            Box::pin(async move { as_worker(arena, When::BeforePush, set, Vec::new()).await })
        }),
        Attack::new(Unauthorised, "a worker reads the status", FORBIDDEN, |arena| {
            let status = Request::Status { weights_digest: false };
            Box::pin(async move { as_worker(arena, When::BeforePush, status, Vec::new()).await })
        }),
        through_client(Unauthorised, "an operator deploys an optimizer", FORBIDDEN, |arena, client| {
            Box::pin(async move {
                let component = arena.cast.signed("sgd", "1.0.0")?;
                Ok(Answer::of(in_time(client.deploy(component, &Arena::good_options())).await?))
            })
        }),
        through_client(Unauthorised, "an operator sets the learning rate", FORBIDDEN, |_, client| {
            Box::pin(async move { Ok(Answer::of(in_time(client.set_learning_rate(0.0)).await?)) })
        }),
        through_client(Unauthorised, "an operator registers as a worker", FORBIDDEN, |_, client| {
            Box::pin(async move { Ok(Answer::of(in_time(client.register()).await?)) })
        }),
        raw(Unauthorised, "an operator pushes a gradient", &["out-of-order", "forbidden"], |peer| {
            Box::pin(async move {
                let gradient = bytes(&KEYS[1].gradient(0, 1)?);
                peer.try_call(&push(KEYS[1], 1), &gradient).await
            })
        }),
        raw(Unauthorised, "an operator makes a key", &["out-of-order", "forbidden"], |peer| {
            Box::pin(async move {
                let tensor = TensorType { element: ElementType::F32, shape: vec![1] };
                peer.try_call(&Request::Init { key: "mine".into(), tensor, tags: Vec::new() }, &[0; 4]).await
            })
        }),
    ]
}

fn stealing() -> Vec<Attack> {
    let pull = |key: Key| Request::Pull { key: key.name.into(), version: 0, evaluation: false };
    vec![
        raw(ModelStealing, "an operator pulls the weights", &["out-of-order", "forbidden"], move |peer| {
            Box::pin(async move { peer.try_call(&pull(KEYS[0]), &[]).await })
        }),
        raw(ModelStealing, "an operator pulls rows of the weights", &["out-of-order", "forbidden"], |peer| {
            let pull = Request::PullRows { key: KEYS[0].name.into(), version: 0, rows: 1 };
            Box::pin(async move { peer.try_call(&pull, &[0; 8]).await })
        }),
        raw(ModelStealing, "an operator pulls weights for evaluation", &["out-of-order", "forbidden"], |peer| {
            let pull = Request::Pull { key: KEYS[0].name.into(), version: 0, evaluation: true };
            Box::pin(async move { peer.try_call(&pull, &[]).await })
        }),
        Attack::new(
            ModelStealing,
            "a worker's certificate pulls without registering",
            &["out-of-order"],
            move |arena| {
                Box::pin(async move {
                    let mut peer = RawPeer::greeted(arena.address()?, arena.tls("worker-0")?).await?;
                    peer.try_call(&pull(KEYS[0]), &[]).await
                })
            },
        ),
    ]
}

/// Bytes that are no conversation. Each ends its own connection and nothing else.
fn conversation() -> Vec<Attack> {
    vec![
        greeting(Flood, "the first request is not hello", &["out-of-order"], Request::Register),
        greeting(Flood, "another version of the protocol", &["protocol-version"], hello(PROTOCOL_VERSION + 1)),
        greeting(Flood, "version 0 of the protocol", &["protocol-version"], hello(0)),
        sent(Flood, "HTTP within TLS", MALFORMED, || b"GET / HTTP/1.1\r\nHost: server\r\n\r\n".to_vec()),
        sent(Flood, "64 KiB of noise within TLS", MALFORMED, || {
            (0..65_536_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
        }),
        sent(Flood, "a frame whose header is no message", MALFORMED, || {
            [&FramePrefix { header_bytes: 4, body_bytes: 0 }.encode()[..], &[0xff; 4]].concat()
        }),
        sent(Flood, "a message that announces 2^64 entries", MALFORMED, || {
            // A request's id, the number of `Init`, a key of one letter, `f32`, and a shape without end.
            let header = [&[1, 2, 1, b'k', 0][..], &[0xff; 9], &[1]].concat();
            [&FramePrefix { header_bytes: header.len() as u32, body_bytes: 0 }.encode()[..], &header].concat()
        }),
        sent(Flood, "a header of 4 GiB announced", &["oversized"], || {
            FramePrefix { header_bytes: u32::MAX, body_bytes: 0 }.encode().to_vec()
        }),
        sent(Flood, "a body of 2^64 bytes announced", &["oversized"], || {
            FramePrefix { header_bytes: 10, body_bytes: u64::MAX }.encode().to_vec()
        }),
        Attack::new(Flood, "a component of 1 GiB announced", &["oversized", "untrusted"], |arena| {
            Box::pin(async move {
                let mut peer = RawPeer::greeted(arena.address()?, arena.tls("deployer")?).await?;
                let deploy = Request::Deploy(stepbox_wire::DeployOptions::default());
                peer.send(&encode_request(1, &deploy, 1 << 30)).await?;
                peer.outcome().await
            })
        }),
    ]
}

fn manipulation() -> Vec<Attack> {
    let poisoned = |value: f32| {
        move |key: Key, round: u64| {
            let mut gradient = key.gradient(2, round)?.into_values();
            gradient[key.elements / 2] = value;
            Ok((push(key, round), bytes(&key.tensor(gradient)?)))
        }
    };
    let typed = |element: ElementType, shape: fn(u64) -> Vec<u64>, body: fn(usize) -> usize| {
        move |key: Key, round: u64| {
            Ok((push_as(key, round, element, shape(key.elements as u64)), vec![0; body(key.elements)]))
        }
    };
    let whole = |bytes: usize| bytes * 4;
    let f32 = ElementType::F32;
    vec![
        as_pusher(Manipulation, "NaN in a gradient", NOT_FINITE, poisoned(f32::NAN)),
        as_pusher(Manipulation, "infinity in a gradient", NOT_FINITE, poisoned(f32::INFINITY)),
        as_pusher(Manipulation, "minus infinity in a gradient", NOT_FINITE, poisoned(f32::NEG_INFINITY)),
        as_pusher(Manipulation, "infinity in a half-precision gradient", NOT_FINITE, |key, round| {
            let body = [0x00, 0x7c].repeat(key.elements);
            Ok((push_as(key, round, ElementType::F16, vec![key.elements as u64]), body))
        }),
        as_pusher(Manipulation, "NaN in a bfloat16 gradient", NOT_FINITE, |key, round| {
            let body = [0xc0, 0x7f].repeat(key.elements);
            Ok((push_as(key, round, ElementType::Bf16, vec![key.elements as u64]), body))
        }),
        as_pusher(Manipulation, "NaN as the loss", &["not-finite", "malformed"], |key, round| {
            let tensor = TensorType { element: ElementType::F32, shape: vec![key.elements as u64] };
            let push = Request::Push { key: key.name.into(), round, tensor, loss: Some(f32::NAN) };
            Ok((push, bytes(&key.gradient(2, round)?)))
        }),
        as_pusher(Manipulation, "a longer gradient", &["wrong-shape"], typed(f32, |n| vec![n + 1], |n| n * 4 + 4)),
        as_pusher(Manipulation, "another shape", &["wrong-shape"], typed(f32, |n| vec![n / 2, 2], whole)),
        as_pusher(Manipulation, "one more axis", &["wrong-shape"], typed(f32, |n| vec![n, 1], whole)),
        as_pusher(Manipulation, "a single number as a gradient", &["wrong-shape"], typed(f32, |_| vec![], |_| 4)),
        as_pusher(Manipulation, "a gradient without elements", &["wrong-shape"], typed(f32, |_| vec![0], |_| 0)),
        as_pusher(Manipulation, "a shape that overflows", &["wrong-shape", "malformed"], {
            typed(f32, |_| vec![1 << 40, 1 << 40], whole)
        }),
        as_pusher(
            Manipulation,
            "integers as a gradient",
            &["wrong-element-type"],
            typed(ElementType::I32, |n| vec![n], whole),
        ),
        as_pusher(
            Manipulation,
            "a gradient that is too short",
            &["wrong-length"],
            typed(f32, |n| vec![n], |n| n * 4 - 4),
        ),
        as_pusher(Manipulation, "a gradient for a key that is not there", &["unknown-key"], |key, round| {
            let nowhere = Key { name: "nowhere", ..key };
            Ok((push(nowhere, round), bytes(&key.gradient(2, round)?)))
        }),
        Attack::new(Manipulation, "another first value for a key", &["not-created"], |arena| {
            Box::pin(async move {
                let tensor = TensorType { element: ElementType::F32, shape: vec![KEYS[1].elements as u64] };
                let init = Request::Init { key: KEYS[1].name.into(), tensor, tags: Vec::new() };
                as_worker(arena, When::BeforePush, init, vec![0; KEYS[1].elements * 4]).await
            })
        }),
    ]
}

fn impersonation() -> Vec<Attack> {
    vec![
        Attack::new(Impersonation, "a push repeated with other values", &["repeated"], |arena| {
            Box::pin(async move {
                arena.mischief(When::AfterPush, move |worker, key, round| doing(replay(worker, key, round, 0))).await
            })
        }),
        Attack::new(Impersonation, "a push of an older round replayed", &["wrong-round"], |arena| {
            Box::pin(async move {
                arena.mischief(When::AfterPush, move |worker, key, round| doing(replay(worker, key, round, 2))).await
            })
        }),
        as_pusher(Impersonation, "a push for a round that is not open yet", &["wrong-round"], |key, round| {
            Ok((push(key, round + 1), bytes(&key.gradient(2, round)?)))
        }),
        as_pusher(Impersonation, "a push for round 2^64 - 1", &["wrong-round"], |key, round| {
            Ok((push(key, u64::MAX), bytes(&key.gradient(2, round)?)))
        }),
        Attack::new(
            Impersonation,
            "a gradient cut off in its middle, and another connection",
            &["not counted"],
            |arena| {
                Box::pin(async move {
                    arena.mischief(When::BeforePush, |worker, key, round| doing(cut_off(worker, key, round))).await
                })
            },
        ),
    ]
}

/// Helps the compiler see a future as what orders are made of.
fn doing<'a>(future: impl Future<Output = Result<Answer>> + Send + 'a) -> Doing<'a> {
    Box::pin(future)
}

/// Pushes other values for a round that is over, or for the open one that has a push of this worker already.
async fn replay(worker: &mut Compromised, key: Key, round: u64, back: u64) -> Result<Answer> {
    let other = vec![0x41; key.elements * 4];
    // In the first rounds there is none so far back.
    let round = round.checked_sub(back).context("there are no older rounds yet")?;
    worker.peer.try_call(&push(key, round), &other).await
}

/// Half a gradient, of other values than the right one; then a new connection. The push that follows must be the first.
async fn cut_off(worker: &mut Compromised, key: Key, round: u64) -> Result<Answer> {
    let whole = vec![0x41; key.elements * 4];
    let frame = [&encode_request(77, &push(key, round), whole.len() as u64)[..], &whole[..whole.len() / 2]].concat();
    worker.peer.send(&frame).await?;
    worker.reconnect().await?;
    // The right gradient: the worker's duty, done here to see whether the half one counts. It is repeated afterwards.
    let right = bytes(&key.gradient(2, round)?);
    match worker.peer.call(&push(key, round), &right).await? {
        Some(Response::Pushed { repeated: false }) => {
            Ok(Answer::new("not counted", "the whole gradient was the first"))
        }
        other => Ok(Answer::of_response(other)),
    }
}

/// The attacker's worker pushes what it should not, before it does its duty.
fn as_pusher(
    threat: Threat,
    name: &'static str,
    expected: &[&'static str],
    wrong: impl Fn(Key, u64) -> Result<(Request, Vec<u8>)> + Copy + Send + Sync + 'static,
) -> Attack {
    Attack::new(threat, name, expected, move |arena| {
        Box::pin(async move {
            arena
                .mischief(When::BeforePush, move |worker, key, round| doing(push_wrong(worker, wrong(key, round))))
                .await
        })
    })
}

async fn push_wrong(worker: &mut Compromised, wrong: Result<(Request, Vec<u8>)>) -> Result<Answer> {
    let (request, body) = wrong?;
    worker.peer.try_call(&request, &body).await
}

/// The attacker's worker asks for something besides its duty.
async fn as_worker(arena: &Arena, when: When, request: Request, body: Vec<u8>) -> Result<Answer> {
    arena.mischief(when, move |worker, _, _| doing(ask(worker, request, body))).await
}

async fn ask(worker: &mut Compromised, request: Request, body: Vec<u8>) -> Result<Answer> {
    worker.peer.try_call(&request, &body).await
}

/// A connection of an operator's that sends bytes of its own after a good greeting.
fn sent(threat: Threat, name: &'static str, expected: &[&'static str], bytes: fn() -> Vec<u8>) -> Attack {
    raw(threat, name, expected, move |peer| {
        Box::pin(async move {
            // The server may close before it has taken all of it; what it says then is what counts.
            let _ = peer.send(&bytes()).await;
            peer.outcome().await
        })
    })
}

/// A connection whose first request is another.
fn greeting(threat: Threat, name: &'static str, expected: &[&'static str], first: Request) -> Attack {
    Attack::new(threat, name, expected, move |arena| -> Attempting<'_> {
        let first = first.clone();
        Box::pin(async move {
            let mut peer = RawPeer::connect(arena.address()?, arena.tls("insider")?).await?;
            peer.try_call(&first, &[]).await
        })
    })
}

/// Something that an insider with an operator's rights does on a raw connection.
fn raw(
    threat: Threat,
    name: &'static str,
    expected: &[&'static str],
    act: impl for<'a> Fn(&'a mut RawPeer) -> Doing<'a> + Copy + Send + Sync + 'static,
) -> Attack {
    Attack::new(threat, name, expected, move |arena| {
        Box::pin(async move {
            let mut peer = RawPeer::greeted(arena.address()?, arena.tls("insider")?).await?;
            act(&mut peer).await
        })
    })
}

/// Something that an insider with an operator's rights does with the client that everybody uses.
fn through_client(
    threat: Threat,
    name: &'static str,
    expected: &[&'static str],
    act: impl for<'a> Fn(&'a Arena, &'a Client) -> Doing<'a> + Copy + Send + Sync + 'static,
) -> Attack {
    Attack::new(threat, name, expected, move |arena| {
        Box::pin(async move {
            let client = arena.client("insider").await?;
            act(arena, &client).await
        })
    })
}
