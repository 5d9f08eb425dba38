//! TLS 1.3 with a certificate on both sides, and nothing less.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{RootCertStore, version};
use stepbox_tls::{Connector, pem};

use crate::config::ClientConfig;
use crate::error::ClientError;

/// Reads the credentials `config` names.
pub(crate) fn connector(config: &ClientConfig) -> Result<Connector, ClientError> {
    let mut roots = RootCertStore::empty();
    for certificate in read("the authority's certificate", &config.authority, pem::certificates)? {
        roots.add(certificate).map_err(|error| credential("the authority's certificate", &config.authority, error))?;
    }
    let chain = read("this client's certificate", &config.certificate, pem::certificate_chain)?;
    let key = read("this client's key", &config.key, pem::private_key)?;
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(stepbox_tls::provider()))
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|error| ClientError::Tls { reason: error.to_string() })?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|error| {
            let reason = format!(
                "with key {}: {error}. Keys may be ECDSA on P-256 or P-384, Ed25519, or RSA of 2048 to 8192 bits",
                config.key.display()
            );
            credential("this client's certificate and key", &config.certificate, reason)
        })?;
    Ok(Connector::new(tls))
}

/// The name the server's certificate must be for.
pub(crate) fn server_name(config: &ClientConfig) -> Result<ServerName<'static>, ClientError> {
    let name = config.expected_name();
    ServerName::try_from(name.to_owned()).map_err(|_| ClientError::ServerName { name: name.to_owned() })
}

/// Reads a file of which everything must be understood.
fn read<T>(what: &'static str, path: &Path, parse: fn(&[u8]) -> Result<T, pem::PemError>) -> Result<T, ClientError> {
    let content = pem::read(path).map_err(|error| credential(what, path, error))?;
    parse(&content).map_err(|error| credential(what, path, error))
}

fn credential(what: &'static str, path: &Path, reason: impl ToString) -> ClientError {
    ClientError::Credential { what, path: path.to_owned(), reason: reason.to_string() }
}
