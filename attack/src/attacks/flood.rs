//! Who wants the server to have no time and no room for anybody else.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use stepbox_wire::{FramePrefix, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Attack;
use crate::answer::{ACCEPTED, Answer, CLOSED};
use crate::arena::{Arena, Compromised, When};
use crate::in_time;
use crate::raw::{RawPeer, dial};
use crate::threat::Threat::Flood;

/// Connections of a flood, less than the files that a process may usually have open.
const CONNECTIONS: usize = 400;

/// Requests of a flood, more than may wait for their answers by default.
const REQUESTS: usize = 20_000;

/// Handshakes that are begun from as many networks: more than `limits.half_open`.
const HALF_OPEN: u16 = 600;

/// In which the server answers a few hundred requests at its default rate of reports, and not all of them.
const SOON: Duration = Duration::from_secs(1);

/// More requests than may wait on a connection by default, and few enough that what is answered at once fits the sockets'
/// buffers.
const WAITING_REQUESTS: usize = 8_500;

/// More connections than an identity may have by default.
const CONNECTIONS_OF_ONE: usize = 64;

/// How long a connection without a handshake may last until it is looked at more closely: several times the server's limit.
const ACCEPTED_BY: Duration = Duration::from_secs(60);

/// Between two bytes of somebody who dribbles.
const DRIBBLE: Duration = Duration::from_millis(200);

pub(super) fn attacks() -> Vec<Attack> {
    vec![
        Attack::new(Flood, "400 connections that say nothing", &[CLOSED], |arena| {
            Box::pin(async move { connections(arena.address()?, &[]).await })
        }),
        Attack::new(Flood, "400 connections that say nonsense", &[CLOSED], |arena| {
            Box::pin(async move { connections(arena.address()?, &[0x5a; 512]).await })
        }),
        Attack::new(Flood, "a handshake that dribbles", &[CLOSED], |arena| {
            Box::pin(async move { dribbled_handshake(arena.address()?).await })
        }),
        Attack::new(Flood, "a frame that dribbles", &[CLOSED], |arena| Box::pin(dribbled_frame(arena))),
        Attack::new(
            Flood,
            "400 handshakes with a good certificate, which wait for their turn",
            &["welcome"],
            |arena| Box::pin(handshakes(arena)),
        ),
        Attack::new(Flood, "more connections of one identity than it may have", &["rate-limited"], |arena| {
            Box::pin(too_many_connections(arena))
        }),
        unread("20,000 statuses that nobody reads", Request::Status { weights_digest: false }),
        unread("20,000 pages of keys that nobody reads", Request::Keys { after: None }),
        unread("20,000 pages of workers that nobody reads", Request::Workers { after: None }),
        Attack::new(
            Flood,
            "600 unfinished handshakes from as many networks, and somebody who was there before",
            &["welcome"],
            |arena| Box::pin(many_networks(arena)),
        ),
        Attack::new(Flood, "more waiting requests than a connection may have", &["busy"], |arena| {
            Box::pin(async move {
                arena.mischief(When::BeforePush, |worker, _, _| Box::pin(waiting_requests(worker))).await
            })
        }),
        Attack::new(Flood, "50 oversized announcements, each on a new connection", &["oversized"], |arena| {
            Box::pin(announcements(arena))
        }),
    ]
}

/// Opens many at once, has each say something, and waits until the server has ended every one.
async fn connections(address: SocketAddr, say: &'static [u8]) -> Result<Answer> {
    let mut all = JoinSet::new();
    for _ in 0..CONNECTIONS {
        all.spawn(async move {
            let Ok(mut stream) = dial(address).await else { return Ok(0) };
            // A server that has closed takes nothing.
            let _ = stream.write_all(say).await;
            let mut said = Vec::new();
            if timeout(ACCEPTED_BY, (&mut stream).take(4096).read_to_end(&mut said)).await.is_err() {
                // Where the system's queue was full, the server never saw the connection, and only this end believes in
                // it. A byte more is then answered with a reset; one that is open stays open.
                let _ = stream.write_all(&[0]).await;
                let _ = in_time((&mut stream).take(4096).read_to_end(&mut said)).await?;
            }
            Ok::<_, anyhow::Error>(said.len())
        });
    }
    let mut answered = 0;
    for bytes in all.join_all().await {
        answered = answered.max(bytes?);
    }
    // An alert of TLS has seven bytes.
    Ok(match answered {
        0..=7 => Answer::new(CLOSED, format!("all {CONNECTIONS} were ended, with {answered} bytes at most")),
        _ => Answer::new(ACCEPTED, format!("one was answered with {answered} bytes")),
    })
}

/// A record is begun, and its bytes come one by one.
async fn dribbled_handshake(address: SocketAddr) -> Result<Answer> {
    let mut stream = dial(address).await?;
    let mut next = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3].into_iter().chain(std::iter::repeat(0x5a));
    let mut sent = 0;
    let mut said = [0; 64];
    let ended = in_time(async {
        loop {
            tokio::select! {
                read = stream.read(&mut said) => break read.unwrap_or(0),
                () = tokio::time::sleep(DRIBBLE) => {
                    // Where this fails the reading ends too.
                    let _ = stream.write_all(&[next.next().unwrap_or(0)]).await;
                    sent += 1;
                }
            }
        }
    });
    Ok(match ended.await? {
        0..=7 => Answer::new(CLOSED, format!("after {sent} bytes")),
        bytes => Answer::new(ACCEPTED, format!("the server answered {bytes} bytes")),
    })
}

/// After a good greeting a frame is begun, and its bytes come one by one.
async fn dribbled_frame(arena: &mut Arena) -> Result<Answer> {
    let mut peer = RawPeer::greeted(arena.address()?, arena.tls("insider")?).await?;
    peer.send(&FramePrefix { header_bytes: 4096, body_bytes: 0 }.encode()).await?;
    let dribbling = async {
        for sent in 0.. {
            if peer.send(&[1]).await.is_err() {
                return sent;
            }
            tokio::time::sleep(DRIBBLE).await;
        }
        0
    };
    let sent: u32 = in_time(dribbling).await?;
    Ok(Answer::new(CLOSED, format!("after {sent} bytes")))
}

/// One after the other, four at a time.
async fn handshakes(arena: &mut Arena) -> Result<Answer> {
    let (address, tls) = (arena.address()?, arena.tls("insider")?);
    let mut all = JoinSet::new();
    for _ in 0..4 {
        let tls = tls.clone();
        all.spawn(async move {
            let (mut welcome, mut turned_away) = (0, 0);
            for _ in 0..CONNECTIONS / 4 {
                match RawPeer::greeted(address, tls.clone()).await {
                    Ok(_) => welcome += 1,
                    Err(_) => turned_away += 1,
                }
            }
            (welcome, turned_away)
        });
    }
    let counts = all.join_all().await;
    let (welcome, turned_away) = counts.iter().fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
    let words = format!("{welcome} were welcome and {turned_away} turned away");
    Ok(Answer::new(if turned_away == 0 { "welcome" } else { CLOSED }, words))
}

/// Holds as many as one identity may have, and tries one more.
async fn too_many_connections(arena: &mut Arena) -> Result<Answer> {
    let (address, tls) = (arena.address()?, arena.tls("insider")?);
    let mut held = Vec::new();
    for number in 0..CONNECTIONS_OF_ONE {
        match RawPeer::connect(address, tls.clone()).await {
            Err(error) => {
                let Answer { code, words } = Answer::of_error(&error);
                return Ok(Answer::new(code, format!("connection {}: {words}", number + 1)));
            }
            Ok(mut peer) => {
                let Answer { code, words } =
                    peer.try_call(&crate::raw::hello(stepbox_wire::PROTOCOL_VERSION), &[]).await?;
                if code != ACCEPTED {
                    return Ok(Answer::new(code, format!("connection {}: {words}", number + 1)));
                }
                held.push(peer);
            }
        }
    }
    Ok(Answer::new(ACCEPTED, format!("{} connections are held", held.len())))
}

/// An insider asks for something again and again and takes no answer.
fn unread(name: &'static str, request: Request) -> Attack {
    let attack = Attack::new(Flood, name, &["held back", CLOSED], move |arena| {
        let request = request.clone();
        Box::pin(async move { unread_answers(arena, &request).await })
    });
    // Answers are made when they are sent, so that these cost what the requests do.
    Attack { memory_ceiling_bytes: 256 << 20, ..attack }
}

async fn unread_answers(arena: &mut Arena, request: &Request) -> Result<Answer> {
    let mut peer = RawPeer::greeted(arena.address()?, arena.tls("insider")?).await?;
    let mut asked = 0;
    let asking = async {
        for _ in 0..REQUESTS {
            if peer.ask(request, &[]).await.is_err() {
                return false;
            }
            asked += 1;
        }
        true
    };
    // Longer than it takes to send them all to a server that reads them.
    match tokio::time::timeout(Duration::from_secs(10), asking).await {
        Err(_) => return Ok(Answer::new("held back", format!("the server stopped reading after {asked} requests"))),
        Ok(false) => {
            return Ok(Answer::new(CLOSED, format!("the server closed the connection after {asked} requests")));
        }
        Ok(true) => {}
    }
    // All are in somebody's buffers. The server has answered in order, and not yet the last one where it holds them back:
    // others are served meanwhile.
    for _ in 0..3 {
        arena.status().await?;
    }
    let (id, last) = peer.receive().await?.context("the server closed the connection without an answer")?;
    ensure!(!matches!(last, Response::Failed(_)), "request {id} was refused: {last:?}");
    let waiting = tokio::time::timeout(SOON, async {
        while peer.receive().await?.is_some_and(|(id, _)| id < asked) {}
        Ok::<_, anyhow::Error>(())
    });
    Ok(match waiting.await {
        Err(_) => Answer::new("held back", format!("not all of {asked} answers are there at once")),
        Ok(ended) => Answer::new(ACCEPTED, format!("all of {asked} answers were kept for who did not read: {ended:?}")),
    })
}

/// Handshakes are begun from more networks than there are places, and none is finished. Somebody who has been there from
/// another address connects again.
async fn many_networks(arena: &mut Arena) -> Result<Answer> {
    let (address, tls) = (arena.address()?, arena.tls("insider")?);
    drop(RawPeer::greeted(address, tls.clone()).await?);
    let mut flood = Vec::new();
    for number in 0..HALF_OPEN {
        let [high, low] = number.to_be_bytes();
        let socket = TcpSocket::new_v4()?;
        // Networks of 16 bits, from 127.128 on, and of 24 bits within them; one address where the machine has no others.
        let _ = socket.bind(SocketAddr::from(([127, 128 + (low & 127), 2 * high + (low >> 7), 1], 0)));
        // Some are turned away at once.
        if let Ok(stream) = socket.connect(address).await {
            flood.push(stream);
        }
    }
    let mut back = RawPeer::greeted(address, tls).await.context("who was there before does not get in")?;
    let answer = back.try_call(&Request::Status { weights_digest: false }, &[]).await?;
    ensure!(answer.code == ACCEPTED, "it is not served: {}: {}", answer.code, answer.words);
    Ok(Answer::new("welcome", format!("{} handshakes were begun and not finished", flood.len())))
}

/// The attacker's worker waits at a barrier, again and again, and then comes back by another connection.
async fn waiting_requests(worker: &mut Compromised) -> Result<Answer> {
    for _ in 0..WAITING_REQUESTS {
        worker.peer.ask(&Request::Barrier { number: 1 }, &[]).await?;
    }
    // The first ones wait for the other workers; what is answered is what had no room.
    let answer = worker.peer.outcome().await?;
    worker.reconnect().await?;
    Ok(answer)
}

/// Each is refused before anything is read.
async fn announcements(arena: &mut Arena) -> Result<Answer> {
    let (address, tls) = (arena.address()?, arena.tls("insider")?);
    let mut last = Answer::new("none", String::new());
    for number in 1..=50 {
        let Ok(mut peer) = RawPeer::greeted(address, tls.clone()).await else {
            return Ok(Answer::new(CLOSED, format!("connection {number} was turned away")));
        };
        let _ = peer.send(&FramePrefix { header_bytes: 10, body_bytes: u64::MAX }.encode()).await;
        last = peer.outcome().await?;
        ensure!(last.code != ACCEPTED, "announcement {number} was taken");
    }
    Ok(last)
}
