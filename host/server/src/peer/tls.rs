//! The only way in: TLS 1.3 with certificates on both sides.
//!
//! There is no plaintext mode and no older version to fall back to.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::SingleCertAndKey;
use rustls::{RootCertStore, ServerConfig};
use stepbox_tls::{Acceptor, pem};
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::own_certificate::OwnCertificate;
use super::pem_file::{PemFile, TlsError, certificates};
use crate::config::{ExpiredLists, TlsConfig};
use crate::names::Identity;

/// Certificates, keys and revocation lists as they were read.
pub(crate) struct Tls {
    pub acceptor: Acceptor,
    peers: Peers,
    own: OwnCertificate,
}

/// Who may connect: the authority's certificates and revocation lists.
#[derive(Clone)]
struct Peers {
    verifier: Arc<dyn ClientCertVerifier>,
    lists_until: Option<i64>,
    /// The files that were read, to tell one that is cut off.
    files: Arc<[PemFile]>,
}

/// What reading all files again has brought. The two halves do not wait for each other: a certificate that is renewed
/// while its key is not must not keep a revocation out.
pub(crate) struct Renewed {
    /// What can be used, and what was in force where it cannot.
    pub tls: Tls,
    /// Whether the authority's certificates and the revocation lists can be used.
    pub peers: Result<(), TlsError>,
    /// Whether the server's certificate and key can.
    pub own: Result<(), TlsError>,
}

impl Tls {
    /// Reads all files and sets up the accepting side.
    pub fn load(config: &TlsConfig) -> Result<Self, TlsError> {
        Self::of(Peers::load(config)?, OwnCertificate::load(config)?)
    }

    /// Reads all files again.
    pub fn renewed(&self, config: &TlsConfig) -> Result<Renewed, TlsError> {
        let (new_peers, peers) = either(self.peers.followed_by(Peers::load(config)), &self.peers);
        let (new_own, own) = either(OwnCertificate::load(config), &self.own);
        Ok(Renewed { tls: Self::of(new_peers, new_own)?, peers, own })
    }

    fn of(peers: Peers, own: OwnCertificate) -> Result<Self, TlsError> {
        let tls = ServerConfig::builder_with_provider(Arc::new(stepbox_tls::provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| TlsError::Unusable(error.to_string()))?
            .with_client_cert_verifier(Arc::clone(&peers.verifier))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&own.certified))));
        Ok(Self { acceptor: Acceptor::new(tls), peers, own })
    }

    /// Whether a peer with these certificates could connect now.
    pub fn check(&self, chain: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let [own, intermediates @ ..] = chain else { return Err(rustls::Error::NoCertificatesPresented) };
        self.peers.verifier.verify_client_cert(own, intermediates, UnixTime::now()).map(drop)
    }

    /// Why clients refuse the server's certificate, at a moment in seconds since 1970, or will soon.
    pub fn own_warning(&self, now: i64) -> Option<String> {
        self.own.warning(now)
    }

    /// When the first of the revocation lists should have been followed by another.
    pub fn lists_until(&self) -> Option<i64> {
        self.peers.lists_until
    }
}

/// What was read, or what was in force.
fn either<T: Clone>(read: Result<T, TlsError>, before: &T) -> (T, Result<(), TlsError>) {
    match read {
        Ok(new) => (new, Ok(())),
        Err(error) => (before.clone(), Err(error)),
    }
}

impl Peers {
    fn load(config: &TlsConfig) -> Result<Self, TlsError> {
        let provider = Arc::new(stepbox_tls::provider());
        let mut authority = RootCertStore::empty();
        let mut ca = PemFile::read("the authority's certificates", &config.ca)?;
        let certificates = pem::certificates(&ca.content).map_err(|error| ca.wrong(&error))?;
        ca.blocks = certificates.len();
        for (certificate, number) in certificates.into_iter().zip(1..) {
            let unusable = |error| ca.wrong(&format!("certificate {number} cannot be an authority's: {error}"));
            authority.add(certificate).map_err(unusable)?;
        }
        let authorities = authority.len();
        // Without `allow_unauthenticated`: a peer that has no certificate ends in the handshake.
        let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authority), provider);
        let mut files = vec![ca];
        let mut lists = Vec::new();
        for path in &config.revocation_lists {
            let mut file = PemFile::read("revocation lists", path)?;
            let own = pem::revocation_lists(&file.content).map_err(|error| file.wrong(&error))?;
            file.blocks = own.len();
            lists.extend(own);
            files.push(file);
        }
        tracing::info!(authorities, revocation_lists = lists.len(), "read whom peers' certificates may be from");
        let lists_until = lists.iter().filter_map(|list| until(list)).min();
        if !lists.is_empty() {
            // Every certificate of a chain needs a list of its authority's: one that is missing is no permission.
            verifier = verifier.with_crls(lists);
            if config.expired_revocation_lists == ExpiredLists::Refuse {
                verifier = verifier.enforce_revocation_expiration();
            }
        }
        let verifier = verifier.build().map_err(|error| TlsError::Unusable(error.to_string()))?;
        Ok(Self { verifier, lists_until, files: files.into() })
    }

    /// Takes what was read after this, unless one of its files is only the beginning of the same file here. A bundle
    /// that is cut between two blocks looks like a smaller one, and would end the connections of the other authorities.
    fn followed_by(&self, next: Result<Self, TlsError>) -> Result<Self, TlsError> {
        let next = next?;
        let is_cut_off = |(next, before): &(&PemFile, &PemFile)| {
            next.blocks < before.blocks && before.content.starts_with(&next.content)
        };
        match next.files.iter().zip(&*self.files).find(is_cut_off) {
            None => Ok(next),
            Some((cut_off, _)) => Err(cut_off.wrong(
                &"it is the beginning of the file in force and has fewer blocks: it was cut off, or is still being \
                  written. If the last blocks were removed on purpose, add a comment behind the ones that stay, such as \
                  `# complete`",
            )),
        }
    }
}

fn until(list: &CertificateRevocationListDer<'_>) -> Option<i64> {
    let (_, list) = CertificateRevocationList::from_der(list).ok()?;
    Some(list.next_update()?.timestamp())
}

/// The server's own name, as its certificate has it.
pub(crate) fn own_name(config: &TlsConfig) -> Result<String, TlsError> {
    let chain = certificates("the server's certificate", &config.certificate)?;
    // One with several names, or none, is as good as any: clients look at its subject alternative names.
    Ok(Identity::of(&chain).map_or_else(|_| "stepbox".to_owned(), |identity| identity.to_string()))
}
