//! Certificates.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use tempfile::TempDir;

/// A certificate authority with a folder of its own.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// PEM files of somebody's certificate and key.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Authority {
    /// A new authority that nobody knows yet.
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

    /// The authority's own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.folder().join("ca.pem")
    }

    /// A certificate for an identity, valid for 127.0.0.1 too.
    pub fn issue(&self, identity: &str) -> Credentials {
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, identity);
        let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
        params.distinguished_name = subject;
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

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}
