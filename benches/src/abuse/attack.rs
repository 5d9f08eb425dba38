//! Attackers, in a process of their own: they are told by lines on standard input when to go and when to stop.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, version};
use serde::{Deserialize, Serialize};
use stepbox_tls::{Connector, Established};
use stepbox_wire::{ElementType, FramePrefix, PROTOCOL_VERSION, Request, TensorType, encode_request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::BenchError;
use crate::server::NEIGHBOURS;

/// What a peer tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attack {
    /// Many connections, each of which sends its half of the TLS handshake a byte at a time.
    SlowHandshakes,
    /// Connections with nonsense in place of TLS, as fast as they come.
    Garbage,
    /// TLS handshakes with a good certificate, as fast as they come.
    Handshakes,
    /// Small requests with a good certificate, as fast as the server takes them.
    Requests,
    /// Requests that are refused, as fast as the server takes them.
    Refusals,
    /// Frames that announce more than there may be, and bodies of a gigabyte that do not come.
    Announcements,
    /// Many connections with good certificates, each of which sends a frame a byte at a time.
    SlowFrames,
    /// A thousand connections with good certificates that ask nothing.
    Idle,
    /// A worker of another job that comes and goes as fast as the server lets it, while another one waits with as many
    /// requests as it may have.
    Registrations,
    /// Workers of another job that pull versions which never come, as fast as the server takes them.
    FarPulls,
    /// Workers of another job that pull rows, with as many ids as the server takes, of a version that never comes.
    Rows,
    /// Workers of another job whose gradients are as large as a frame may be, and of the wrong shape.
    OversizedGradients,
}

/// Of the identities, so many are the workers of another job.
pub(super) const WORKERS: usize = 2;

impl Attack {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::SlowHandshakes,
        Self::Garbage,
        Self::Handshakes,
        Self::Requests,
        Self::Refusals,
        Self::Announcements,
        Self::SlowFrames,
        Self::Idle,
        Self::Registrations,
        Self::FarPulls,
        Self::Rows,
        Self::OversizedGradients,
    ];

    /// For command lines and rows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SlowHandshakes => "slow-handshakes",
            Self::Garbage => "garbage",
            Self::Handshakes => "handshakes",
            Self::Requests => "requests",
            Self::Refusals => "refusals",
            Self::Announcements => "announcements",
            Self::SlowFrames => "slow-frames",
            Self::Idle => "idle",
            Self::Registrations => "registrations",
            Self::FarPulls => "far-pulls",
            Self::Rows => "rows",
            Self::OversizedGradients => "oversized-gradients",
        }
    }

    /// The attack of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|attack| attack.name() == name)
    }
}

/// Who attacks whom.
#[derive(Debug, Clone)]
pub struct Attackers {
    /// What they do.
    pub attack: Attack,
    /// The server.
    pub server: SocketAddr,
    /// The folder of its authority, with certificates `peer-0` and so on.
    pub folder: PathBuf,
    /// How many such certificates there are.
    pub identities: usize,
}

/// What attackers did between going and stopping.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Done {
    /// Connections that were begun.
    pub connections: u64,
    /// Of those, TLS handshakes that were done.
    pub handshakes: u64,
    /// Requests that were sent.
    pub requests: u64,
}

/// Of each identity.
const CONNECTIONS: usize = 16;

/// The key of those who attack as workers.
const KEY: &str = "weights";

/// Addresses that attackers come from.
const ADDRESSES: u8 = 8;

/// Connections without a certificate that dribble, from each address: more than it may have.
const DRIBBLERS: usize = 160;

/// Between two bytes of a peer that dribbles.
const DRIBBLE: Duration = Duration::from_millis(500);

/// Tasks of a flood.
const FLOODERS: usize = 32;

/// Longest wait for connections that are to be there when an attack has begun.
const ESTABLISHED: Duration = Duration::from_secs(20);

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    handshakes: AtomicU64,
    requests: AtomicU64,
}

/// What all attackers share.
struct Means {
    about: Attackers,
    /// How often they went: each time from addresses of which nothing is remembered, as somebody has who has many.
    times: AtomicU8,
    connectors: Vec<Connector>,
    counts: Counts,
}

/// Attacks whenever standard input says `go`, until it says `stop`; says `going` once an attack has begun and what was
/// done when it was stopped. Ends with its input.
///
/// # Errors
/// The certificates cannot be used.
pub fn obey(about: &Attackers) -> Result<(), BenchError> {
    let connectors = (0..about.identities).map(|number| connector(&about.folder, number)).collect::<Result<_, _>>()?;
    let means =
        Arc::new(Means { about: about.clone(), times: AtomicU8::new(0), connectors, counts: Counts::default() });
    let failed = || BenchError::system("speak with the benchmark");
    // One thread: attackers on one core.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed())?;
    // Standard input is read by a thread, so that the runtime goes on meanwhile.
    let (lines, mut orders) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            if lines.blocking_send(line).is_err() {
                break;
            }
        }
    });
    runtime.block_on(async {
        let mut attacking = JoinSet::new();
        while let Some(order) = orders.recv().await {
            match order.as_str() {
                "go" => {
                    let _ = means.counts.take();
                    means.times.fetch_add(1, Ordering::Relaxed);
                    begin(&means, &mut attacking);
                    let _ = timeout(ESTABLISHED, means.established()).await;
                    say("going").map_err(failed())?;
                }
                "stop" => {
                    attacking.shutdown().await;
                    say(&serde_json::to_string(&means.counts.take()).unwrap_or_default()).map_err(failed())?;
                }
                _ => break,
            }
        }
        Ok(())
    })
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn connector(folder: &Path, number: usize) -> Result<Connector, BenchError> {
    let wrong = |error: &dyn std::fmt::Display| {
        BenchError::system("use an attacker's certificate")(io::Error::other(error.to_string()))
    };
    let file = |name: &str| folder.join(name);
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(file("ca.pem")).map_err(|error| wrong(&error))?;
    roots.add(authority).map_err(|error| wrong(&error))?;
    let certificate =
        CertificateDer::from_pem_file(file(&format!("peer-{number}.pem"))).map_err(|error| wrong(&error))?;
    let key = PrivateKeyDer::from_pem_file(file(&format!("peer-{number}.key"))).map_err(|error| wrong(&error))?;
    let tls = ClientConfig::builder_with_provider(Arc::new(stepbox_tls::provider()))
        .with_protocol_versions(&[&version::TLS13])
        .and_then(|builder| builder.with_root_certificates(roots).with_client_auth_cert(vec![certificate], key))
        .map_err(|error| wrong(&error))?;
    Ok(Connector::new(tls))
}

impl Counts {
    fn take(&self) -> Done {
        let take = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
        Done {
            connections: take(&self.connections),
            handshakes: take(&self.handshakes),
            requests: take(&self.requests),
        }
    }
}

fn begin(means: &Arc<Means>, attacking: &mut JoinSet<()>) {
    let identities = means.about.identities;
    let (peers, each): (usize, usize) = match means.about.attack {
        Attack::SlowHandshakes => (usize::from(ADDRESSES), DRIBBLERS),
        Attack::Garbage | Attack::Handshakes | Attack::Announcements => (FLOODERS, 1),
        // An identity that floods does so with all connections that it may have.
        Attack::Requests | Attack::Refusals => (1, CONNECTIONS),
        Attack::SlowFrames | Attack::Idle => (identities, CONNECTIONS),
        Attack::Registrations | Attack::FarPulls | Attack::Rows | Attack::OversizedGradients => (WORKERS, 1),
    };
    for peer in 0..peers {
        for _ in 0..each {
            let means = Arc::clone(means);
            attacking.spawn(async move {
                loop {
                    // However it ends, there is always another one; not so soon where not even a connection is had.
                    if means.once(peer).await.is_err() {
                        sleep(Duration::from_millis(2)).await;
                    }
                }
            });
        }
    }
}

impl Means {
    /// Waits until the connections are there that an attack consists of.
    async fn established(&self) {
        let wanted = match self.about.attack {
            Attack::Idle | Attack::SlowFrames => self.about.identities * CONNECTIONS,
            Attack::Requests | Attack::Refusals => CONNECTIONS,
            Attack::Registrations | Attack::FarPulls | Attack::Rows | Attack::OversizedGradients => WORKERS,
            _ => 0,
        };
        while self.counts.handshakes.load(Ordering::Relaxed) < wanted as u64 {
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn once(&self, peer: usize) -> io::Result<()> {
        match self.about.attack {
            Attack::SlowHandshakes => {
                let mut stream = self.connect(peer).await?;
                // A record of a ClientHello that never comes to its end.
                for byte in [22_u8, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3].into_iter().chain(std::iter::repeat_n(7, 500)) {
                    stream.write_u8(byte).await?;
                    let mut answer = [0];
                    if let Ok(ended) = timeout(DRIBBLE, stream.read(&mut answer)).await {
                        return ended.map(drop);
                    }
                }
            }
            Attack::Garbage => {
                let mut stream = self.connect(peer).await?;
                stream.write_all(&[0x5a; 512]).await?;
                let mut answer = [0; 64];
                while stream.read(&mut answer).await? > 0 {}
            }
            Attack::Handshakes => {
                self.greeted(peer, false).await?;
            }
            Attack::Requests => self.flood(peer, &Request::Status { weights_digest: false }).await?,
            Attack::Refusals => {
                self.flood(peer, &Request::Pull { key: "weights".into(), version: 0, evaluation: false }).await?;
            }
            Attack::Announcements => self.announce(peer).await?,
            Attack::SlowFrames => {
                let Established { mut reader, mut writer, .. } = self.greeted(peer, true).await?;
                let announced = FramePrefix { header_bytes: 1 << 20, body_bytes: 1 << 20 }.encode();
                let dribble = async {
                    for byte in announced.into_iter().chain(std::iter::repeat(7)) {
                        writer.write_all(&[byte]).await?;
                        writer.flush().await?;
                        sleep(DRIBBLE).await;
                    }
                    io::Result::Ok(())
                };
                let mut answer = [0; 1024];
                tokio::select! {
                    _ = dribble => {}
                    _ = async { while reader.read(&mut answer).await.is_ok_and(|bytes| bytes > 0) {} } => {}
                }
            }
            Attack::Idle => {
                let Established { mut reader, writer, .. } = self.greeted(peer, true).await?;
                let mut answer = [0; 1024];
                while reader.read(&mut answer).await? > 0 {}
                drop(writer);
            }
            Attack::Registrations if peer == 0 => self.flood_as_worker(peer, &[Request::Barrier { number: 1 }]).await?,
            Attack::Registrations => self.flood_as_worker(peer, &[Request::Leave, Request::Register]).await?,
            Attack::FarPulls => {
                let pull = Request::Pull { key: KEY.into(), version: u64::MAX, evaluation: false };
                self.flood_as_worker(peer, &[pull]).await?;
            }
            Attack::Rows => self.pull_rows(peer).await?,
            Attack::OversizedGradients => self.push_oversized(peer).await?,
        }
        Ok(())
    }

    async fn connect(&self, peer: usize) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        let last = 1 + (peer % usize::from(ADDRESSES)) as u8;
        // Of its own where all of 127.0.0.0/8 is there, as on Linux.
        let attack = 1 + self.about.attack as u8;
        let address = IpAddr::V4(Ipv4Addr::new(127, attack, self.times.load(Ordering::Relaxed), last));
        let _ = socket.bind(SocketAddr::new(address, 0));
        self.counts.connections.fetch_add(1, Ordering::Relaxed);
        let stream = socket.connect(self.about.server).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// A connection with a certificate; welcomed by the server where `waits`.
    async fn greeted(&self, peer: usize, waits: bool) -> io::Result<Established> {
        self.greeted_in("", peer, waits).await
    }

    /// As [`greeted`](Self::greeted), in a job of this name.
    async fn greeted_in(&self, job: &str, peer: usize, waits: bool) -> io::Result<Established> {
        let stream = self.connect(peer).await?;
        let name = ServerName::IpAddress(self.about.server.ip().into());
        let mut established = self.connectors[peer % self.connectors.len()].connect(name, stream).await?;
        let hello = encode_request(1, &Request::Hello { protocol: PROTOCOL_VERSION, job: job.to_owned() }, 0);
        established.writer.write_all(&hello).await?;
        established.writer.flush().await?;
        if waits {
            let mut answer = [0; 1024];
            if established.reader.read(&mut answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        self.counts.handshakes.fetch_add(1, Ordering::Relaxed);
        Ok(established)
    }

    /// The same request, again and again, while answers are read and dropped.
    async fn flood(&self, peer: usize, request: &Request) -> io::Result<()> {
        self.repeat(self.greeted(peer, true).await?, std::slice::from_ref(request), &[]).await
    }

    /// As [`flood`](Self::flood), by a worker of another job, with several requests in turn.
    async fn flood_as_worker(&self, peer: usize, requests: &[Request]) -> io::Result<()> {
        self.repeat(self.registered(peer).await?, requests, &[]).await
    }

    /// Pulls of rows with many ids, which have to be held.
    async fn pull_rows(&self, peer: usize) -> io::Result<()> {
        /// Of one request.
        const IDS: usize = 64 << 10;
        let pull = Request::PullRows { key: KEY.into(), version: u64::MAX, rows: IDS as u64 };
        self.repeat(self.registered(peer).await?, &[pull], &vec![0; 8 * IDS]).await
    }

    /// Gradients as large as a frame may be, which are not what the key is.
    async fn push_oversized(&self, peer: usize) -> io::Result<()> {
        const BODY: usize = 1 << 30;
        let Established { mut reader, mut writer, .. } = self.registered(peer).await?;
        let tensor = TensorType { element: ElementType::F32, shape: vec![BODY as u64 / 4] };
        let push = Request::Push { key: KEY.into(), round: 1, tensor, loss: None };
        let piece = vec![0; 256 << 10];
        let send = async {
            for id in 10.. {
                writer.write_all(&encode_request(id, &push, BODY as u64)).await?;
                for _ in 0..BODY / piece.len() {
                    writer.write_all(&piece).await?;
                }
                writer.flush().await?;
                self.counts.requests.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        };
        let mut answers = vec![0; 64 << 10];
        let receive = async {
            while reader.read(&mut answers).await? > 0 {}
            Ok(())
        };
        tokio::select! {
            ended = send => ended,
            ended = receive => ended,
        }
    }

    /// A worker of another job, whose key is there or on its way.
    async fn registered(&self, peer: usize) -> io::Result<Established> {
        let mut established = self.greeted_in(NEIGHBOURS, peer, true).await?;
        let tensor = TensorType { element: ElementType::F32, shape: vec![4, 4] };
        let init = Request::Init { key: KEY.into(), tensor, tags: Vec::new() };
        // The first worker has the value.
        let value = if peer == 0 { &[0; 64][..] } else { &[] };
        let (register, init) = (encode_request(2, &Request::Register, 0), encode_request(3, &init, value.len() as u64));
        let frames = [&register[..], &init, value].concat();
        established.writer.write_all(&frames).await?;
        established.writer.flush().await?;
        Ok(established)
    }

    /// The same requests in turn, each with this body, again and again, while answers are read and dropped.
    async fn repeat(&self, established: Established, requests: &[Request], body: &[u8]) -> io::Result<()> {
        /// Bytes of one write, about.
        const TOGETHER: usize = 2048;
        let Established { mut reader, mut writer, .. } = established;
        let send = async {
            let mut ids = 10..;
            loop {
                let (mut frames, mut count) = (Vec::new(), 0);
                for (id, request) in ids.by_ref().zip(requests.iter().cycle()) {
                    frames.extend(encode_request(id, request, body.len() as u64));
                    frames.extend_from_slice(body);
                    count += 1;
                    if frames.len() >= TOGETHER && count % requests.len() == 0 {
                        break;
                    }
                }
                writer.write_all(&frames).await?;
                writer.flush().await?;
                self.counts.requests.fetch_add(count as u64, Ordering::Relaxed);
            }
        };
        let mut answers = vec![0; 64 << 10];
        let receive = async {
            while reader.read(&mut answers).await? > 0 {}
            Ok(())
        };
        tokio::select! {
            ended = send => ended,
            ended = receive => ended,
        }
    }

    /// A body of a gigabyte that does not come, and then a frame of more than there may be.
    async fn announce(&self, peer: usize) -> io::Result<()> {
        let Established { mut reader, mut writer, .. } = self.greeted(peer, true).await?;
        if peer.is_multiple_of(2) {
            let deploy = Request::Deploy(stepbox_client::DeployOptions::default());
            writer.write_all(&encode_request(2, &deploy, 1 << 30)).await?;
            writer.write_all(&[7; 4096]).await?;
        } else {
            writer.write_all(&FramePrefix { header_bytes: u32::MAX, body_bytes: u64::MAX }.encode()).await?;
        }
        writer.flush().await?;
        self.counts.requests.fetch_add(1, Ordering::Relaxed);
        let mut answer = [0; 1024];
        // One that is refused, and then the end where the connection is refused as a whole.
        reader.read(&mut answer).await.map(drop)
    }
}
