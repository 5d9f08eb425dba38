//! Certificates that are renewed, revoked or expire while the server runs and connections are open.

use std::fs;

use rcgen::{CertificateParams, SanType};
use stepbox_client::{Client, ClientError, ErrorCode};
use stepbox_tests::{Authority, Credentials, Options, RawPeer, TestServer, in_time, logged};
use stepbox_wire::{PROTOCOL_VERSION, Request, Response, UNADDRESSED};
use time::{Duration, OffsetDateTime};

use crate::{init, round, tensor};

const LISTS: &str = "revocation_lists = ['crl.pem']";

const LONG: Duration = Duration::days(30);

/// Starts a server with a revocation list, which must exist before the server starts.
fn server_with_list(name: &'static str, holds: Duration) -> TestServer {
    let mut server = TestServer::start(Options::new(name));
    server.authority.revoke(&[], holds);
    server.configure(|text| text.replace("[tls]", &format!("[tls]\n{LISTS}")));
    server.restart();
    server
}

/// Waits until the server ends a connection because its certificate is no longer valid, and returns the message.
async fn told_at_the_end(peer: &mut RawPeer) -> String {
    let (id, failure) = peer.refusal().await;
    assert_eq!((id, failure.code), (UNADDRESSED, ErrorCode::CertificateInvalid), "{}", failure.message);
    assert!(peer.receive().await.is_none(), "the connection is closed");
    failure.message
}

async fn greeted(server: &TestServer, credentials: &Credentials) -> std::io::Result<RawPeer> {
    let mut peer = RawPeer::connect(server, Some(credentials)).await?;
    peer.ask(1, &Request::Hello { protocol: PROTOCOL_VERSION, job: String::new() }, &[]).await;
    match peer.receive().await {
        Some((1, Response::Welcome { .. })) => Ok(peer),
        other => panic!("not accepted: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_revoked_certificate_ends_its_connection_and_opens_no_other() {
    let server = server_with_list("revoked", LONG);
    server.deploy("sgd", "1.0.0", &[]).await;
    let (lost, kept) = (server.credentials("worker-1"), server.credentials("worker-0"));
    let mut peer = greeted(&server, &lost).await.unwrap();
    let honest = Client::connect(&server.reach(&kept)).await.unwrap();
    honest.register().await.unwrap();

    server.authority.revoke(&[&lost], LONG);
    server.reload();
    let message = in_time(told_at_the_end(&mut peer)).await;
    assert!(message.contains("revoked"), "{message}");
    logged(&["WARN", "refused", "certificate", "revoked-worker-1", "certificate-invalid"]);
    let again = Client::connect(&server.reach(&lost)).await.expect_err("the certificate is revoked");
    assert!(matches!(again, ClientError::Handshake { .. }), "{again}");
    assert!(again.to_string().to_lowercase().contains("revoked"), "{again}");

    // Other peers are not affected, and the same worker can return with another certificate.
    let renewed = Client::connect(&server.reach(&server.credentials("worker-1"))).await.unwrap();
    renewed.register().await.unwrap();
    let workers = [honest, renewed];
    init(&workers, "w", &tensor(&[1.0])).await;
    round(&workers, "w", &tensor(&[1.0])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_is_revoked_between_handshake_and_hello_is_not_let_in() {
    let server = server_with_list("before-hello", LONG);
    let late = server.credentials("worker-1");
    let mut there = greeted(&server, &late).await.unwrap();
    let mut peer = RawPeer::connect(&server, Some(&late)).await.unwrap();
    server.authority.revoke(&[&late], LONG);
    server.reload();
    in_time(told_at_the_end(&mut there)).await;
    peer.ask(1, &Request::Hello { protocol: PROTOCOL_VERSION, job: String::new() }, &[]).await;
    let (id, failure) = peer.refusal().await;
    assert_eq!((id, failure.code), (1, ErrorCode::CertificateInvalid), "{}", failure.message);
    assert!(peer.receive().await.is_none());
}

/// During a renewal, the certificate and the key do not match; certificates revoked in the meantime must still be
/// refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_half_renewed_certificate_keeps_no_revocation_out() {
    let server = server_with_list("half-renewed", LONG);
    let folder = server.authority.folder();
    let operator = server.client("operator").await;
    let lost = server.credentials("worker-1");
    let mut peer = greeted(&server, &lost).await.unwrap();
    let first = peer.servers_certificate();
    let old_key = fs::read(folder.join("server.key")).unwrap();
    server.authority.issue("server");
    fs::write(folder.join("server.key"), &old_key).unwrap();
    server.authority.revoke(&[&lost], LONG);
    server.reload();
    in_time(told_at_the_end(&mut peer)).await;
    let again = Client::connect(&server.reach(&lost)).await.expect_err("the certificate is revoked");
    assert!(matches!(again, ClientError::Handshake { .. }), "{again}");
    let warnings = operator.status(false).await.unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("the server's certificate cannot be used")), "{warnings:?}");
    let peer = RawPeer::connect(&server, Some(&server.credentials("worker-0"))).await.unwrap();
    assert_eq!(peer.servers_certificate(), first, "the previous certificate, with its key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_list_that_is_too_old_or_another_authoritys_lets_nobody_in() {
    let server = server_with_list("stale", Duration::hours(1));
    let operator = server.client("operator").await;
    let warnings = operator.status(false).await.unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("revocation list")), "{warnings:?}");

    server.authority.revoke(&[], Duration::seconds(-1));
    server.reload();
    // The existing connection ends too.
    let ended = in_time(async {
        loop {
            if let Err(error) = operator.status(false).await {
                return error;
            }
        }
    });
    assert_eq!(ended.await.code(), Some(ErrorCode::CertificateInvalid));
    let new = Client::connect(&server.reach(&server.credentials("operator")))
        .await
        .expect_err("the certificate's status is unknown");
    assert!(matches!(new, ClientError::Handshake { .. }), "{new}");

    // With a newer list, peers are accepted again.
    server.authority.revoke(&[], LONG);
    server.reload();
    let connect = async || Client::connect(&server.reach(&server.credentials("operator"))).await;
    in_time(async { while connect().await.is_err() {} }).await;

    // Another authority's list does not apply to our certificates.
    let other = stepbox_tests::Authority::new();
    other.revoke(&[], LONG);
    fs::copy(other.folder().join("crl.pem"), server.authority.folder().join("crl.pem")).unwrap();
    server.reload();
    in_time(async { while connect().await.is_ok() {} }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_connection_ends_with_the_time_of_its_certificate() {
    let server = TestServer::start(Options::new("expiring"));
    // The shortest lifetime in which even a busy machine can connect.
    let mut life = Duration::SECOND;
    let mut peer = loop {
        let until = |params: &mut CertificateParams| params.not_after = OffsetDateTime::now_utc() + life;
        let short = server.authority.issue_with(&server.identity("operator"), until);
        let connected = Client::connect(&server.reach(&short)).await;
        if let (Ok(client), Ok(peer)) = (connected, RawPeer::connect(&server, Some(&short)).await) {
            client.close().await;
            let mut peer = peer;
            peer.ask(1, &Request::Hello { protocol: PROTOCOL_VERSION, job: String::new() }, &[]).await;
            if let Some((1, Response::Welcome { .. })) = peer.receive().await {
                break peer;
            }
        }
        life *= 2;
    };
    let message = in_time(told_at_the_end(&mut peer)).await;
    assert!(message.contains("expired"), "{message}");
    logged(&["WARN", "refused", "certificate", "expiring-operator"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_servers_certificate_is_renewed_without_a_restart_and_a_broken_one_is_not_taken() {
    let server = TestServer::start(Options::new("renewed"));
    let operator = server.client("operator").await;
    let folder = server.authority.folder();
    let of_server = async || {
        let peer = RawPeer::connect(&server, Some(&server.credentials("worker-0"))).await.unwrap();
        peer.servers_certificate()
    };
    let first = of_server().await;

    // A certificate without its key, as during a renewal; the previous certificate stays in force.
    let old_key = fs::read(folder.join("server.key")).unwrap();
    server.authority.issue("server");
    let new_key = fs::read(folder.join("server.key")).unwrap();
    fs::write(folder.join("server.key"), &old_key).unwrap();
    server.reload();
    in_time(async { while operator.status(false).await.unwrap().warnings.is_empty() {} }).await;
    let warnings = operator.status(false).await.unwrap().warnings;
    assert!(warnings[0].contains("cannot be used"), "{warnings:?}");
    assert_eq!(of_server().await, first);

    fs::write(folder.join("server.key"), &new_key).unwrap();
    server.reload();
    in_time(async { while !operator.status(false).await.unwrap().warnings.is_empty() {} }).await;
    assert_ne!(of_server().await, first);
    operator.status(false).await.expect("existing connections remain");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_spiffe_id_is_who_somebody_is() {
    let id = "spiffe://example.org/people/carol";
    let access = "auditors = ['spiffe://example.org/people/carol']";
    let server = TestServer::start(Options { access, ..Options::new("spiffe") });
    let with = |name: &str, uris: &[&str]| {
        let uris: Vec<_> = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        server.authority.issue_with(&server.identity(name), |params| params.subject_alt_names.extend(uris))
    };
    let carol = Client::connect(&server.reach(&with("carol", &[id]))).await.unwrap();
    assert_eq!(carol.identity(), id);
    carol.status(false).await.unwrap();

    // The common name of an identity with rights gives no rights to a certificate whose URI names a different identity.
    let other = with("operator", &["spiffe://example.org/people/mallory"]);
    let refused = Client::connect(&server.reach(&other)).await.expect_err("mallory has no rights");
    assert_eq!(refused.code(), Some(ErrorCode::Forbidden));
    for (name, uris) in [
        ("two", &[id, id][..]),
        ("both", &[id, "https://example.org"]),
        ("loud", &["SPIFFE://example.org/people/carol"]),
    ] {
        assert!(Client::connect(&server.reach(&with(name, uris))).await.is_err(), "{name}");
    }
    logged(&["WARN", "names nobody", "2 URIs"]);
    let imposter = server.authority.issue_with("x", |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, id);
    });
    assert!(Client::connect(&server.reach(&imposter)).await.is_err(), "a common name is not a SPIFFE ID");
}

/// If authorities were lost between two entries of a bundle, the connections of all peers that they certify would end.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_bundle_that_is_cut_off_or_not_understood_leaves_the_one_before_in_force() {
    let mut server = TestServer::start(Options::new("bundle"));
    let other = Authority::new();
    let [ours, theirs] = [&server.authority, &other].map(|one| fs::read_to_string(one.certificate()).unwrap());
    let (path, whole) = (server.authority.folder().join("bundle.pem"), format!("{ours}{theirs}"));
    let replace = |text: &str| {
        fs::write(path.with_extension("new"), text).unwrap();
        fs::rename(path.with_extension("new"), &path).unwrap();
    };
    replace(&whole);
    server.configure(|text| text.replace("ca = 'ca.pem'", "ca = 'bundle.pem'"));
    server.restart();
    // A peer certified by the second authority is connected, and sends requests.
    let visitor = other.issue(&server.identity("operator"));
    let operator = Client::connect(&server.reach(&visitor)).await.unwrap();
    let warned = async |wanted: bool| {
        loop {
            let warnings = operator.status(false).await.expect("the connection remains").warnings;
            let warning =
                warnings.into_iter().find(|warning| warning.contains("authorities and revocation lists cannot"));
            if warning.is_some() == wanted {
                return warning.unwrap_or_default();
            }
        }
    };
    for (bundle, words) in [
        (format!("{}{theirs}", ours.trim_end()), "without a line break"),
        (format!("{ours}\u{feff}{theirs}"), "byte order mark"),
        (format!("{ours}{}", theirs.replace("-----BEGIN", " -----BEGIN")), "indented"),
        (format!("{ours}{}", theirs.replace("CERTIFICATE", "TRUSTED CERTIFICATE")), "openssl x509"),
        (whole[..whole.len() - 100].to_owned(), "ends within a block"),
        (ours.clone(), "the beginning of the file in force"),
        (String::new(), "empty"),
    ] {
        replace(&bundle);
        server.reload();
        let warning = in_time(warned(true)).await;
        assert!(warning.contains(words) && warning.contains("bundle.pem"), "{warning}");
        Client::connect(&server.reach(&visitor)).await.expect("the authority is still trusted");
        replace(&whole);
        server.reload();
        in_time(warned(false)).await;
    }

    // An operator can remove it on purpose.
    replace(&format!("{ours}# complete\n"));
    server.reload();
    let ended = in_time(async {
        loop {
            if let Err(error) = operator.status(false).await {
                return error;
            }
        }
    });
    assert_eq!(ended.await.code(), Some(ErrorCode::CertificateInvalid));
}
