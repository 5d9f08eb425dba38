//! TLS 1.3 with a certificate on both sides, and nothing less.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{RootCertStore, version};
use stepbox_tls::Connector;

use crate::config::ClientConfig;
use crate::error::ClientError;

/// Reads the credentials `config` names.
pub(crate) fn connector(config: &ClientConfig) -> Result<Connector, ClientError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("the authority's certificate", &config.authority)? {
        roots.add(certificate).map_err(|error| credential("the authority's certificate", &config.authority, error))?;
    }
    let chain = certificates("this client's certificate", &config.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&config.key)
        .map_err(|error| credential("this client's key", &config.key, error))?;
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(stepbox_tls::provider()))
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|error| ClientError::Tls { reason: error.to_string() })?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|error| credential("this client's certificate and key", &config.certificate, error))?;
    Ok(Connector::new(tls))
}

/// The name the server's certificate must be for.
pub(crate) fn server_name(config: &ClientConfig) -> Result<ServerName<'static>, ClientError> {
    let name = config.expected_name();
    ServerName::try_from(name.to_owned()).map_err(|_| ClientError::ServerName { name: name.to_owned() })
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| credential(what, path, error))?;
    if certificates.is_empty() {
        return Err(credential(what, path, "there is no `BEGIN CERTIFICATE` in it"));
    }
    Ok(certificates)
}

fn credential(what: &'static str, path: &Path, reason: impl ToString) -> ClientError {
    ClientError::Credential { what, path: path.to_owned(), reason: reason.to_string() }
}
