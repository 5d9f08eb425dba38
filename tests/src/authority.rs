//! Certificates for tests.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName, DnType,
    IsCa, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, X509Certificate};

/// A certificate authority with a temporary folder.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// The PEM files of a certificate and its key.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Path of the certificate.
    pub certificate: PathBuf,
    /// Path of the private key.
    pub key: PathBuf,
}

impl Authority {
    /// Creates an authority that nothing trusts yet.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    /// The authority's folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Path of the authority's certificate.
    pub fn certificate(&self) -> PathBuf {
        self.folder().join("ca.pem")
    }

    /// Issues a certificate for an identity, also valid for 127.0.0.1.
    pub fn issue(&self, identity: &str) -> Credentials {
        self.issue_with(identity, |_| {})
    }

    /// Issues a certificate for an identity, with further changes to its parameters.
    pub fn issue_with(&self, identity: &str, change: impl FnOnce(&mut CertificateParams)) -> Credentials {
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, identity);
        let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
        params.distinguished_name = subject;
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let file = |extension: &str| self.folder().join(format!("{identity}.{extension}"));
        let credentials = Credentials { certificate: file("pem"), key: file("key") };
        fs::write(&credentials.certificate, certificate.pem()).unwrap();
        fs::write(&credentials.key, key.serialize_pem()).unwrap();
        #[cfg(unix)]
        fs::set_permissions(&credentials.key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        credentials
    }
}

impl Authority {
    /// Writes the authority's revocation list, `crl.pem`, with these certificates. The list is valid for `holds`.
    pub fn revoke(&self, certificates: &[&Credentials], holds: Duration) {
        let now = OffsetDateTime::now_utc();
        let revoked = |credentials: &&Credentials| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&serial(&credentials.certificate)),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now - Duration::days(1),
            next_update: now + holds,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: certificates.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let pem = list.signed_by(&self.issuer).unwrap().pem().unwrap();
        replace(&self.folder().join("crl.pem"), &pem);
    }
}

fn serial(certificate: &Path) -> Vec<u8> {
    let der = CertificateDer::from_pem_file(certificate).unwrap();
    let (_, parsed) = X509Certificate::from_der(&der).unwrap();
    parsed.raw_serial().to_vec()
}

/// Replaces a file atomically: a server that reads it at any moment finds the old or the new content.
pub(crate) fn replace(path: &Path, content: &str) {
    let new = path.with_extension("new");
    fs::write(&new, content).unwrap();
    fs::rename(new, path).unwrap();
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}
