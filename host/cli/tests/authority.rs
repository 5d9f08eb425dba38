//! Certificates from `stepbox ca`, tried in real TLS handshakes.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use common::{Folder, mode};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use x509_parser::pem::parse_x509_pem;

fn authority() -> Folder {
    let folder = Folder::new();
    folder.done("ca init --directory ca");
    folder.done("ca issue --directory ca --name server --server");
    folder.done("ca issue --directory ca --name worker-0");
    folder
}

fn roots(folder: &Folder) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.path("ca/ca.pem")).unwrap()).unwrap();
    Arc::new(roots)
}

fn identity(folder: &Folder, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_file_iter(folder.path(&format!("ca/{name}.pem"))).unwrap();
    let key = PrivateKeyDer::from_pem_file(folder.path(&format!("ca/{name}.key"))).unwrap();
    (chain.map(Result::unwrap).collect(), key)
}

/// A handshake in memory: a server with `server`'s certificate that wants certificates of its authority, and a client
/// that trusts the authority in `trusts`.
fn handshake(
    server: (&Folder, &str),
    client: (&Folder, &str),
    trusts: &Folder,
    host: &str,
) -> Result<(), rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(server.0), Arc::clone(&provider)).build().unwrap();
    let (chain, key) = identity(server.0, server.1);
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    let mut server = ServerConnection::new(Arc::new(config)).unwrap();

    let (chain, key) = identity(client.0, client.1);
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots(trusts))
        .with_client_auth_cert(chain, key)
        .unwrap();
    let mut client = ClientConnection::new(Arc::new(config), ServerName::try_from(host.to_owned()).unwrap()).unwrap();

    while client.is_handshaking() || server.is_handshaking() || client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        server.read_tls(&mut &*bytes).unwrap();
        server.process_new_packets()?;
        bytes.clear();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        client.read_tls(&mut &*bytes).unwrap();
        client.process_new_packets()?;
    }
    Ok(())
}

#[test]
fn certificates_of_one_authority_accept_each_other() {
    let folder = authority();
    for host in ["localhost", "127.0.0.1", "::1"] {
        handshake((&folder, "server"), (&folder, "worker-0"), &folder, host).unwrap();
    }
}

#[test]
fn certificates_of_another_authority_are_refused_on_both_sides() {
    let (ours, theirs) = (authority(), authority());
    handshake((&ours, "server"), (&theirs, "worker-0"), &ours, "localhost").unwrap_err();
    handshake((&theirs, "server"), (&ours, "worker-0"), &ours, "localhost").unwrap_err();
}

#[test]
fn a_worker_cannot_pass_for_a_server_nor_a_server_for_another_host() {
    let folder = authority();
    handshake((&folder, "worker-0"), (&folder, "worker-0"), &folder, "localhost").unwrap_err();
    handshake((&folder, "server"), (&folder, "worker-0"), &folder, "ps.example.com").unwrap_err();
    folder.done("ca issue --directory ca --name ps --server --host ps.example.com --host 10.0.0.7");
    for host in ["ps.example.com", "10.0.0.7"] {
        handshake((&folder, "ps"), (&folder, "worker-0"), &folder, host).unwrap();
    }
    handshake((&folder, "ps"), (&folder, "worker-0"), &folder, "localhost").unwrap_err();
}

#[test]
fn a_worker_cannot_sign_certificates() {
    let folder = authority();
    fs::create_dir(folder.path("forged")).unwrap();
    fs::copy(folder.path("ca/worker-0.pem"), folder.path("forged/ca.pem")).unwrap();
    fs::copy(folder.path("ca/worker-0.key"), folder.path("forged/ca.key")).unwrap();
    folder.done("ca issue --directory forged --name intruder --server");
    fs::copy(folder.path("forged/intruder.key"), folder.path("ca/intruder.key")).unwrap();
    // With the worker's certificate as the way to the authority.
    let chain = folder.read("forged/intruder.pem") + &folder.read("ca/worker-0.pem");
    folder.write("ca/intruder.pem", chain);
    handshake((&folder, "server"), (&folder, "intruder"), &folder, "localhost").unwrap_err();
    handshake((&folder, "intruder"), (&folder, "worker-0"), &folder, "localhost").unwrap_err();
}

#[test]
fn the_name_is_the_common_name_and_keys_are_private() {
    let folder = Folder::new();
    folder.done("ca init --directory new/ca");
    let issued = folder.done("ca issue --directory new/ca --name alice@example --json").json();
    let path = |field: &str| folder.path(issued[field].as_str().unwrap());
    let pem = fs::read(path("certificate")).unwrap();
    let (_, pem) = parse_x509_pem(&pem).unwrap();
    let certificate = pem.parse_x509().unwrap();
    let names: Vec<_> = certificate.subject().iter_common_name().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(names, ["alice@example"]);
    for key in [path("key"), folder.path("new/ca/ca.key")] {
        assert_eq!(mode(&key), 0o600, "{}", key.display());
    }
    assert_eq!(mode(&folder.path("new/ca")), 0o700);
}

#[test]
fn an_authority_whose_key_others_can_read_issues_nothing() {
    let folder = authority();
    fs::set_permissions(folder.path("ca/ca.key"), fs::Permissions::from_mode(0o640)).unwrap();
    let run = folder.run("ca issue --directory ca --name worker-1");
    assert_eq!(run.code(), 1);
    assert!(run.stderr().contains("chmod 600"), "{}", run.stderr());
    assert!(!folder.path("ca/worker-1.pem").exists());
}

#[test]
fn no_certificate_outlives_its_authority() {
    let folder = Folder::new();
    folder.done("ca init --directory ca --days 10");
    folder.done("ca issue --directory ca --name short --days 3");
    folder.done("ca issue --directory ca --name long --days 300");
    let end = |file: &str| {
        let pem = fs::read(folder.path(file)).unwrap();
        let (_, pem) = parse_x509_pem(&pem).unwrap();
        pem.parse_x509().unwrap().validity().not_after.timestamp()
    };
    assert_eq!(end("ca/long.pem"), end("ca/ca.pem"));
    assert!(end("ca/short.pem") < end("ca/ca.pem"));
}

#[test]
fn nothing_is_overwritten_and_no_name_leaves_the_folder() {
    let folder = authority();
    let before = (folder.read("ca/ca.pem"), folder.read("ca/worker-0.pem"));
    for (arguments, code) in [
        ("ca init --directory ca", 1),
        ("ca issue --directory ca --name worker-0", 1),
        ("ca issue --directory ca --name ca", 1),
        ("ca issue --directory ca --name ../outside", 1),
        ("ca issue --directory ca --name .hidden", 1),
        ("ca issue --directory none --name worker-1", 1),
        ("ca issue --directory ca --name worker-1 --days 0", 2),
        ("ca issue --directory ca --name worker-1 --host localhost", 2),
        ("ca issue --directory ca --name worker-1 --server --host not_a_host!/", 1),
    ] {
        let run = folder.run(arguments);
        assert_eq!(run.code(), code, "{arguments}: {}", run.stderr());
    }
    assert_eq!((folder.read("ca/ca.pem"), folder.read("ca/worker-0.pem")), before);
    let missing = folder.run("ca issue --directory none --name worker-1");
    assert!(missing.stderr().contains("stepbox ca init --directory none"), "{}", missing.stderr());
    assert!(!Path::new(&folder.path("outside.pem")).exists());
}
