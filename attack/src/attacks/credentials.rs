//! Who has no certificate, or not the right one; who listens in; who gets at files.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use stepbox_client::{Client, ClientError};
use stepbox_wire::PROTOCOL_VERSION;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::{Attack, Attempting};
use crate::answer::{ACCEPTED, Answer, CLOSED};
use crate::arena::{Arena, Credentials, Process, Wanted};
use crate::in_time;
use crate::raw::{self, RawPeer, dial, hello};
use crate::threat::Threat::{Credentials as Keys, Impersonation, Plaintext, SingleTarget, Unauthenticated};

/// The identity that attackers would like to be.
const COVETED: &str = "worker-0";

pub(super) fn attacks() -> Vec<Attack> {
    vec![
        Attack::new(Unauthenticated, "no certificate", &["alert CertificateRequired"], |arena| {
            Box::pin(async move { handshake(arena, None).await })
        }),
        with(
            Unauthenticated,
            "a certificate of another authority",
            &["alert UnknownCA", "alert DecryptError"],
            |arena| arena.cast.stranger.issue(COVETED),
        ),
        with(Unauthenticated, "a certificate that has expired", &["alert CertificateExpired"], |arena| {
            arena.cast.authority.issue_as("expired", Wanted::in_years(COVETED, (2020, 2021)))
        }),
        with(
            Unauthenticated,
            "a certificate that is not valid yet",
            &["alert CertificateExpired", "alert BadCertificate"],
            |arena| arena.cast.authority.issue_as("early", Wanted::in_years(COVETED, (2110, 2120))),
        ),
        with(Unauthenticated, "a server's certificate as a client's", NO_PURPOSE, |arena| {
            Ok(arena.cast.credentials("server"))
        }),
        with(Impersonation, "a certificate that a worker has signed", UNFIT, |arena| {
            arena.cast.authority.issued_by_client("worker-2", &arena.cast.credentials("worker-2"), Wanted::new(COVETED))
        }),
        with(Impersonation, "another's certificate without its key", &["alert DecryptError"], |arena| {
            let (coveted, own) = (arena.cast.credentials(COVETED), arena.cast.credentials("insider"));
            Ok(Credentials { certificate: coveted.certificate, key: own.key })
        }),
        with(Impersonation, "a name that differs in case", &["forbidden"], |arena| {
            arena.cast.authority.issue_as("case", Wanted::new("Worker-0"))
        }),
        with(Impersonation, "a name with a space behind it", REFUSED_NAMES, |arena| {
            arena.cast.authority.issue_as("space", Wanted::new("worker-0 "))
        }),
        with(Impersonation, "a name with a zero byte in it", REFUSED_NAMES, |arena| {
            arena.cast.authority.issue_as("zero", Wanted::new("worker-0\0"))
        }),
        Attack::new(Unauthenticated, "a false server with a stranger's certificate", &["tls"], |arena| {
            Box::pin(async move {
                let credentials =
                    arena.cast.stranger.issue_as("server", Wanted { is_server: true, ..Wanted::new("server") })?;
                false_server(arena, &credentials).await
            })
        }),
        Attack::new(Unauthenticated, "a worker that poses as the server", &["tls"], |arena| {
            Box::pin(async move { false_server(arena, &arena.cast.credentials("worker-2")).await })
        }),
        Attack::new(Plaintext, "a request in plain text", NOT_TLS, |arena| {
            Box::pin(plain(arena, b"GET / HTTP/1.1\r\nHost: server\r\n\r\n"))
        }),
        Attack::new(Plaintext, "the protocol without TLS", NOT_TLS, |arena| {
            Box::pin(async move { plain(arena, &stepbox_wire::encode_request(1, &hello(PROTOCOL_VERSION), 0)).await })
        }),
        Attack::new(Plaintext, "TLS 1.2", &["alert protocol_version", "alert handshake_failure"], |arena| {
            Box::pin(plain(arena, &TLS_1_2))
        }),
        Attack::new(Plaintext, "listening in on a deployment", &["ciphertext"], |arena| {
            Box::pin(async move { listened_in(arena).await })
        }),
        Attack::new(Plaintext, "a bit flipped on the wire", &[CLOSED, "tls"], |arena| {
            Box::pin(async move { flipped_on_the_wire(arena).await })
        }),
        Attack::new(Keys, "a server key that others may read", &["configuration"], |arena| {
            Box::pin(async move { open_key(arena).await })
        }),
        Attack::new(Keys, "a signing key that others may read", &["key"], |arena| {
            Box::pin(async move { open_signing_key(arena).await })
        }),
        Attack::new(SingleTarget, "a damaged ledger of versions", &["configuration"], |arena| {
            Box::pin(async move { damaged_ledger(arena).await })
        }),
    ]
}

/// What a certificate for another purpose ends in.
const NO_PURPOSE: &[&str] = &["alert UnsupportedCertificate", "alert BadCertificate", "alert CertificateUnknown"];

/// What a chain that leads nowhere ends in.
const UNFIT: &[&str] = &["alert UnknownCA", "alert BadCertificate", "alert CertificateUnknown"];

/// What a name that is none ends in.
const REFUSED_NAMES: &[&str] = &["forbidden", CLOSED];

/// What somebody ends in who does not speak TLS 1.3.
const NOT_TLS: &[&str] = &[CLOSED, "alert decode_error", "alert unexpected_message", "alert protocol_version"];

/// A connection with a certificate made for the purpose.
fn with(
    threat: crate::threat::Threat,
    name: &'static str,
    expected: &[&'static str],
    credentials: impl Fn(&Arena) -> Result<Credentials> + Send + Sync + 'static,
) -> Attack {
    let credentials = Arc::new(credentials);
    Attack::new(threat, name, expected, move |arena| -> Attempting<'_> {
        let credentials = Arc::clone(&credentials);
        Box::pin(async move {
            let credentials = credentials(arena)?;
            handshake(arena, Some(&credentials)).await
        })
    })
}

/// Connects and says hello; what comes of it.
async fn handshake(arena: &Arena, credentials: Option<&Credentials>) -> Result<Answer> {
    let tls = raw::tls(&arena.cast.authority.certificate(), credentials)?;
    match RawPeer::connect(arena.address()?, tls).await {
        Ok(mut peer) => peer.try_call(&hello(PROTOCOL_VERSION), &[]).await,
        Err(error) => Ok(Answer::of_error(&error)),
    }
}

/// A `ClientHello` of TLS 1.2: no `supported_versions`, one suite.
const TLS_1_2: [u8; 52] = {
    let mut bytes = [0x5a; 52];
    // Record: handshake, 47 bytes. Message: client hello, 43 bytes, version 1.2; then 32 random bytes.
    let head = [0x16, 3, 1, 0, 47, 1, 0, 0, 43, 3, 3];
    let mut index = 0;
    while index < head.len() {
        bytes[index] = head[index];
        index += 1;
    }
    // No session, one suite (ECDHE-RSA-AES128-GCM-SHA256), no compression, no extensions.
    let tail = [0, 0, 2, 0xc0, 0x2f, 1, 0, 0, 0];
    let mut index = 0;
    while index < tail.len() {
        bytes[43 + index] = tail[index];
        index += 1;
    }
    bytes
};

/// Sends bytes without TLS and reads what comes until the connection ends.
async fn plain(arena: &Arena, bytes: &[u8]) -> Result<Answer> {
    let mut stream = dial(arena.address()?).await?;
    stream.write_all(bytes).await?;
    let mut said = Vec::new();
    // Whether it is closed or reset is the same to us.
    let _ = in_time((&mut stream).take(4096).read_to_end(&mut said)).await?;
    Ok(match said[..] {
        [] => Answer::new(CLOSED, "the server closed the connection without a word"),
        // A record of type alert: 21, its version and length, level and description.
        [21, 3, _, 0, 2, _, description] => {
            let name = match description {
                10 => "unexpected_message",
                22 => "record_overflow",
                40 => "handshake_failure",
                50 => "decode_error",
                70 => "protocol_version",
                _ => "of another kind",
            };
            Answer::new(format!("alert {name}"), format!("an alert of TLS, number {description}, and nothing else"))
        }
        _ => {
            let start = &said[..said.len().min(32)];
            Answer::new(ACCEPTED, format!("the server answered {} bytes: {start:?}", said.len()))
        }
    })
}

/// Lures a client that has an honest worker's configuration to a server of the attacker's.
async fn false_server(arena: &Arena, credentials: &Credentials) -> Result<Answer> {
    let chain = CertificateDer::pem_file_iter(&credentials.certificate)?.collect::<std::result::Result<Vec<_>, _>>()?;
    let tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(&credentials.key)?)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await?;
        let mut stream = TlsAcceptor::from(Arc::new(tls)).accept(stream).await?;
        stream.read_u8().await
    });
    let config = arena.cast.reach(address, &arena.cast.credentials("deployer"));
    let outcome = in_time(Client::connect(&config)).await?;
    let heard = in_time(serving).await??;
    Ok(match (outcome, heard) {
        (_, Ok(_)) => Answer::new(ACCEPTED, "the client spoke to the false server"),
        (Err(ClientError::Handshake { reason, .. }), Err(_)) => Answer::new("tls", format!("the client: {reason}")),
        (outcome, Err(_)) => Answer::of(outcome.map(|_| ())),
    })
}

/// Between a client and the server: hands on bytes, keeps them, and flips a bit of the client's byte number `flip`.
struct Relay {
    address: SocketAddr,
    kept: tokio::task::JoinHandle<Result<Vec<u8>>>,
}

impl Relay {
    async fn start(server: SocketAddr, flip: Option<usize>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let kept = tokio::spawn(async move {
            let (client, _) = listener.accept().await?;
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = TcpStream::connect(server).await?.into_split();
            let there = async move {
                let (mut all, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
                let all = loop {
                    let read = from_client.read(&mut buffer).await.unwrap_or(0);
                    if read == 0 {
                        break all;
                    }
                    let bytes = &mut buffer[..read];
                    if let Some(place) =
                        flip.and_then(|place| place.checked_sub(all.len())).filter(|place| *place < read)
                    {
                        bytes[place] ^= 1;
                    }
                    all.extend_from_slice(bytes);
                    if to_server.write_all(bytes).await.is_err() {
                        break all;
                    }
                };
                let _ = to_server.shutdown().await;
                all
            };
            let back = async {
                let mut all = Vec::new();
                let mut buffer = vec![0; 1 << 16];
                while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
                    all.extend_from_slice(&buffer[..read]);
                    if to_client.write_all(&buffer[..read]).await.is_err() {
                        break;
                    }
                }
                let _ = to_client.shutdown().await;
                all
            };
            let (there, back) = tokio::join!(there, back);
            Ok([there, back].concat())
        });
        Ok(Self { address, kept })
    }
}

/// Reads along while the good optimizer is deployed once more, and looks for what was sent.
async fn listened_in(arena: &mut Arena) -> Result<Answer> {
    let relay = Relay::start(arena.address()?, None).await?;
    let client = arena.cast.client(relay.address, "deployer").await?;
    let component = arena.cast.good();
    let words = component.len();
    client.deploy(component.clone(), &Arena::good_options()).await?;
    client.close().await;
    let heard = in_time(relay.kept).await???;
    ensure!(heard.len() > words, "the relay has heard too little");
    // Pieces of the component, and names that stand in each conversation.
    let middle = words / 2;
    let pieces: [&[u8]; 5] =
        [&component[..16], &component[middle..middle + 16], &component[words - 16..], b"adamw", b"weight_decay"];
    let found = pieces.iter().filter(|piece| heard.windows(piece.len()).any(|window| window == **piece)).count();
    Ok(match found {
        0 => Answer::new("ciphertext", format!("none of {} pieces is in {} bytes", pieces.len(), heard.len())),
        _ => Answer::new(ACCEPTED, format!("{found} of {} pieces were on the wire", pieces.len())),
    })
}

/// Flips one bit in the middle of a deployment.
async fn flipped_on_the_wire(arena: &mut Arena) -> Result<Answer> {
    let relay = Relay::start(arena.address()?, Some(50_000)).await?;
    let client = arena.cast.client(relay.address, "deployer").await?;
    let outcome = in_time(client.deploy(arena.cast.signed("adamw", "1.6.0")?, &Arena::good_options())).await?;
    drop(client);
    let _ = in_time(relay.kept).await?;
    Ok(Answer::of(outcome))
}

/// Starts another server of the same configuration whose key others may read.
async fn open_key(arena: &mut Arena) -> Result<Answer> {
    let key = arena.cast.credentials("server").key;
    let mode = |mode| fs::set_permissions(&key, PermissionsExt::from_mode(mode));
    mode(0o644)?;
    let started = Process::try_start(&arena.cast.program, &second_folder(arena)?, "server.toml").await;
    mode(0o600)?;
    answer_of_start(started?).await
}

/// Signs with a key that others may read.
async fn open_signing_key(arena: &mut Arena) -> Result<Answer> {
    let (program, folder) = (&arena.cast.program, &arena.cast.folder);
    let (made, said) = program.run(folder, &["key", "new", "--out", "open.key"]).await?;
    ensure!(made, "no key was made: {said}");
    fs::set_permissions(folder.join("open.key"), PermissionsExt::from_mode(0o644))?;
    let component = arena.cast.components.canonicalize()?.join("sgd.wasm");
    let component = component.to_str().context("the folder's name is not UTF-8")?;
    let sign = ["sign", component, "--key", "open.key", "--name", "sgd", "--version", "1.0.0", "--out", "open.wasm"];
    let (signed, said) = program.run(folder, &sign).await?;
    if signed {
        return Ok(Answer::new(ACCEPTED, said));
    }
    #[derive(serde::Deserialize)]
    struct Said {
        error: crate::arena::NotStarted,
    }
    Ok(serde_json::from_str::<Said>(&said)?.error.into())
}

/// Starts another server whose ledger is half of what it was.
async fn damaged_ledger(arena: &mut Arena) -> Result<Answer> {
    let folder = second_folder(arena)?;
    let ledger = fs::read(arena.server_folder().join("state/versions.toml"))?;
    let state = folder.join("state");
    fs::create_dir_all(&state)?;
    fs::write(state.join("versions.toml"), &ledger[..ledger.len() * 2 / 3])?;
    // Or that would be what is wrong.
    fs::set_permissions(&state, PermissionsExt::from_mode(0o700))?;
    fs::set_permissions(state.join("versions.toml"), PermissionsExt::from_mode(0o600))?;
    let answer = answer_of_start(Process::try_start(&arena.cast.program, &folder, "server.toml").await?).await?;
    ensure!(answer.words.contains("versions.toml is damaged"), "{}", answer.words);
    Ok(answer)
}

/// A folder with the server's configuration and trust file.
pub(super) fn second_folder(arena: &Arena) -> Result<std::path::PathBuf> {
    let folder = arena.cast.folder.join("second");
    fs::create_dir_all(&folder)?;
    for file in ["server.toml", "publishers.toml"] {
        fs::copy(arena.server_folder().join(file), folder.join(file))?;
    }
    Ok(folder)
}

pub(super) async fn answer_of_start(started: std::result::Result<Process, crate::arena::NotStarted>) -> Result<Answer> {
    match started {
        Err(not_started) => Ok(not_started.into()),
        Ok(process) => {
            process.kill().await?;
            Ok(Answer::new(ACCEPTED, "the server started"))
        }
    }
}
