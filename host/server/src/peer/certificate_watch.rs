//! Whether a peer's certificate is still good while its connection lasts.
//!
//! A handshake says that a certificate was good once. Connections last as long as training does: so the same check, with
//! the authorities and revocation lists in force, is made again whenever those change, when a certificate's time ends, and
//! every minute, which finds a revocation list that has become too old and a clock that was set.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, Error};
use tokio::sync::watch;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::tls::Tls;

/// Longest time between two checks. A check takes some hundred microseconds.
const RECHECK: Duration = Duration::from_secs(60);

/// A peer's certificates.
pub(crate) struct CertificateWatch {
    chain: Vec<CertificateDer<'static>>,
    /// In seconds since 1970: when the time of each ends.
    ends: Vec<i64>,
    tls: watch::Receiver<Arc<Tls>>,
}

impl CertificateWatch {
    pub fn new(chain: Vec<CertificateDer<'static>>, tls: watch::Receiver<Arc<Tls>>) -> Self {
        let end = |der: &CertificateDer<'_>| {
            let (_, certificate) = X509Certificate::from_der(der).ok()?;
            Some(certificate.validity().not_after.timestamp())
        };
        let ends = chain.iter().filter_map(end).collect();
        Self { chain, ends, tls }
    }

    /// Whether the certificate is good now, or why not.
    pub fn check(&self) -> Result<(), String> {
        let tls = Arc::clone(&self.tls.borrow());
        tls.check(&self.chain).map_err(|error| reason(&error))
    }

    /// Ends when the certificate is good no more, and says why.
    pub async fn lost(mut self) -> String {
        let mut server_stops = false;
        loop {
            self.tls.mark_unchanged();
            if let Err(reason) = self.check() {
                return reason;
            }
            tokio::select! {
                () = tokio::time::sleep(self.next_check()) => {}
                changed = self.tls.changed(), if !server_stops => server_stops = changed.is_err(),
            }
        }
    }

    fn next_check(&self) -> Duration {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Its last second belongs to a certificate.
        let over = |end: &i64| Duration::from_secs(u64::try_from(*end).unwrap_or(0) + 1);
        let next = self.ends.iter().map(over).filter(|over| *over > now).min();
        next.map_or(RECHECK, |next| next - now).min(RECHECK)
    }
}

fn reason(error: &Error) -> String {
    let Error::InvalidCertificate(error) = error else { return error.to_string() };
    match error {
        CertificateError::Revoked => "the certificate was revoked".into(),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "the certificate has expired".into(),
        CertificateError::ExpiredRevocationList | CertificateError::ExpiredRevocationListContext { .. } => {
            "the revocation list that would tell of the certificate is overdue; its authority must make a new one"
                .into()
        }
        CertificateError::UnknownRevocationStatus => {
            "no revocation list of the certificate's authority tells of it; the operator must add one".into()
        }
        CertificateError::UnknownIssuer => "the certificate's authority is trusted no more".into(),
        other => format!("the certificate is good no more: {other}"),
    }
}
