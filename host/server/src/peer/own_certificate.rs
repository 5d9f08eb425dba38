//! The certificate by which clients know this server, and its key.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use stepbox_tls::pem;
use stepbox_trust::Moment;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::pem_file::{TlsError, certificates};
use super::secret_file;
use super::secret_file::{Exposure, SecretFileError};
use crate::config::{TlsConfig, unreadable};

/// How long before the end of a certificate or a revocation list an operator is warned: seven days.
pub(crate) const NOTICE_SECONDS: i64 = 7 * 86_400;

const HOUR: i64 = 3600;

/// The server's certificate and key.
#[derive(Clone)]
pub(crate) struct OwnCertificate {
    pub certified: Arc<CertifiedKey>,
    path: PathBuf,
    terms: Terms,
}

/// What a client holds against the certificate, besides who has issued it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Terms {
    /// Seconds since 1970 from which, and to which, it and all that certifies it are good.
    not_before: i64,
    not_after: i64,
    names_a_host: bool,
    is_for_servers: bool,
}

impl OwnCertificate {
    /// Reads both files, which must belong to each other.
    pub fn load(config: &TlsConfig) -> Result<Self, TlsError> {
        let chain = certificates("the server's certificate", &config.certificate)?;
        let terms = Terms::of(&chain);
        let key = key(&config.key)?;
        let certified = CertifiedKey::from_der(chain, key, &stepbox_tls::provider()).map_err(|error| {
            TlsError::Unusable(format!(
                "certificate {} with key {}: {error}. Keys may be ECDSA on P-256 or P-384, Ed25519, or RSA of 2048 to 8192 \
                 bits",
                config.certificate.display(),
                config.key.display()
            ))
        })?;
        Ok(Self { certified: Arc::new(certified), path: config.certificate.clone(), terms })
    }

    /// Why clients refuse the certificate, at the moment in seconds since 1970, or will soon.
    pub fn warning(&self, now: i64) -> Option<String> {
        let path = self.path.display();
        self.terms.fault(now).map(|fault| format!("the server's certificate, {path}, {fault}"))
    }
}

impl Terms {
    /// What cannot be read here is for rustls to judge.
    fn of(chain: &[CertificateDer<'_>]) -> Self {
        let mut terms = Self { not_before: i64::MIN, not_after: i64::MAX, names_a_host: true, is_for_servers: true };
        for (position, der) in chain.iter().enumerate() {
            let Ok((_, certificate)) = X509Certificate::from_der(der) else { continue };
            let validity = certificate.validity();
            terms.not_before = terms.not_before.max(validity.not_before.timestamp());
            terms.not_after = terms.not_after.min(validity.not_after.timestamp());
            if position == 0 {
                let names = certificate.subject_alternative_name().ok().flatten();
                let is_host =
                    |name: &GeneralName<'_>| matches!(name, GeneralName::DNSName(_) | GeneralName::IPAddress(_));
                terms.names_a_host = names.is_some_and(|names| names.value.general_names.iter().any(is_host));
                let purposes = certificate.extended_key_usage().ok().flatten();
                terms.is_for_servers = purposes.is_none_or(|usage| usage.value.server_auth);
            }
        }
        terms
    }

    fn fault(&self, now: i64) -> Option<String> {
        let renew = "renew it and put the new one in its place, where the server reads it without a restart";
        if self.not_after < now {
            Some(format!("has expired, at {}, and clients refuse it: {renew}", moment(self.not_after)))
        } else if self.not_before > now {
            Some(format!(
                "is not valid before {}, and clients refuse it until then: check this machine's clock, or wait",
                moment(self.not_before)
            ))
        } else if !self.names_a_host {
            Some(
                "names no host, and clients refuse it: it needs the server's DNS names or addresses among its subject \
                 alternative names (`stepbox ca issue --server --host ps.example.com`)"
                    .to_owned(),
            )
        } else if !self.is_for_servers {
            Some(
                "is not for servers by its extended key usage, and clients refuse it: have one issued for servers \
                 (`stepbox ca issue --server`)"
                    .to_owned(),
            )
        } else if self.not_after < now.saturating_add(NOTICE_SECONDS) {
            Some(format!("ends {}: {renew}", in_time(self.not_after, now)))
        } else {
            None
        }
    }
}

/// When something ends that has not ended yet, in words that change once a day, and every hour of the last two days.
pub(crate) fn in_time(end: i64, now: i64) -> String {
    let hours = (end - now) / HOUR;
    let (count, unit) = if hours < 48 { (hours, "hours") } else { (hours / 24, "days") };
    format!("in {count} {unit}, at {}", moment(end))
}

/// A time in seconds since 1970, for people.
pub(crate) fn moment(seconds: i64) -> Moment {
    let length = Duration::from_secs(seconds.unsigned_abs());
    let epoch = SystemTime::UNIX_EPOCH;
    let time = if seconds < 0 { epoch.checked_sub(length) } else { epoch.checked_add(length) };
    time.unwrap_or(epoch).into()
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let wrong = |reason: String| TlsError::Pem { what: "the server's private key", path: path.to_owned(), reason };
    let content = secret_file::read(path).map_err(|error| match error {
        SecretFileError::Io(error) => wrong(unreadable(&error)),
        SecretFileError::Exposed(Exposure::Mode(mode)) => TlsError::TooOpen { path: path.to_owned(), mode },
        SecretFileError::Exposed(Exposure::Owner { owner, user }) => {
            TlsError::Foreign { path: path.to_owned(), owner, user }
        }
    })?;
    pem::private_key(&content).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_796_000_000;

    #[test]
    fn what_clients_refuse_is_known_before_they_do() {
        let good =
            Terms { not_before: NOW - HOUR, not_after: NOW + 90 * 24 * HOUR, names_a_host: true, is_for_servers: true };
        assert_eq!(good.fault(NOW), None);
        let fault = |terms: Terms| terms.fault(NOW).expect("a fault");
        assert!(fault(Terms { not_after: NOW - 1, ..good.clone() }).starts_with("has expired, at 2026-11-30T"));
        assert!(fault(Terms { not_before: NOW + 1, ..good.clone() }).contains("not valid before 2026-11-30T"));
        assert!(fault(Terms { names_a_host: false, ..good.clone() }).contains("names no host"));
        assert!(fault(Terms { is_for_servers: false, ..good.clone() }).contains("not for servers"));
        assert!(fault(Terms { not_after: NOW + 5 * 24 * HOUR, ..good.clone() }).contains("in 5 days, at 2026-12-05T"));
        assert!(fault(Terms { not_after: NOW + 30 * HOUR, ..good }).contains("in 30 hours"));
    }
}
