//! The only way in: TLS 1.3 with certificates on both sides.
//!
//! There is no plaintext mode and no older version to fall back to.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use stepbox_tls::Acceptor;
use thiserror::Error;

use crate::config::TlsConfig;
use crate::identity::Identity;

/// Why the server has no TLS to offer. The operator's to mend.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A PEM file cannot be read or holds nothing of the kind.
    #[error("cannot read {what} from {}: {reason}", path.display())]
    Pem {
        /// `the authority's certificates`, say.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Others than its owner can read the private key.
    #[error("the server's private key {} has mode {mode:04o}: run `chmod 600` on it, and have a new certificate issued \
             if somebody else could use this machine", path.display())]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The files can be read, but do not fit together.
    #[error("the TLS configuration does not hold together: {0}")]
    Unusable(String),
}

/// Reads the certificates and sets up the accepting side.
pub(crate) fn acceptor(config: &TlsConfig) -> Result<Acceptor, TlsError> {
    let provider = Arc::new(stepbox_tls::provider());

    let mut authority = RootCertStore::empty();
    for certificate in certificates("the authority's certificates", &config.ca)? {
        authority.add(certificate).map_err(|error| TlsError::Pem {
            what: "the authority's certificates",
            path: config.ca.clone(),
            reason: error.to_string(),
        })?;
    }
    // Without `allow_unauthenticated`: a peer that has no certificate ends in the handshake.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authority), Arc::clone(&provider))
        .build()
        .map_err(|error| TlsError::Unusable(error.to_string()))?;

    let chain = certificates("the server's certificate", &config.certificate)?;
    refuse_open_modes(&config.key)?;
    let key = PrivateKeyDer::from_pem_file(&config.key).map_err(|error| TlsError::Pem {
        what: "the server's private key",
        path: config.key.clone(),
        reason: error.to_string(),
    })?;

    let tls = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|builder| builder.with_client_cert_verifier(verifier).with_single_cert(chain, key))
        .map_err(|error| TlsError::Unusable(error.to_string()))?;
    Ok(Acceptor::new(tls))
}

/// The server's own name, as its certificate has it.
pub(crate) fn own_name(config: &TlsConfig) -> Result<String, TlsError> {
    let chain = certificates("the server's certificate", &config.certificate)?;
    // One with several names, or none, is as good as any: clients look at its subject alternative names.
    Ok(Identity::of(&chain).map_or_else(|_| "stepbox".to_owned(), |identity| identity.to_string()))
}

/// As the signing keys are: whoever reads this key can pose as the server.
#[cfg(unix)]
fn refuse_open_modes(path: &Path) -> Result<(), TlsError> {
    use std::os::unix::fs::PermissionsExt;
    let wrong = |error: std::io::Error| TlsError::Pem {
        what: "the server's private key",
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let mode = std::fs::metadata(path).map_err(wrong)?.permissions().mode() & 0o777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(TlsError::TooOpen { path: path.to_owned(), mode }) }
}

#[cfg(not(unix))]
fn refuse_open_modes(_: &Path) -> Result<(), TlsError> {
    Ok(())
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |reason: String| TlsError::Pem { what, path: path.to_owned(), reason };
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(error.to_string()))?;
    if certificates.is_empty() {
        return Err(wrong("no certificate in it".into()));
    }
    Ok(certificates)
}
