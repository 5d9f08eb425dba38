//! Why client and server do not accept each other, in words for whoever has to act.
//!
//! TLS names what is wrong with a certificate, but not whose it is: what this client finds is wrong with the server's,
//! and an alert that it receives tells what the server finds wrong with this client's.

use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{AlertDescription, CertificateError, Error};
use stepbox_tls::tls_error;
use x509_parser::prelude::{ASN1Time, FromDer, Validity, X509Certificate};

use crate::config::ClientConfig;
use crate::error::ClientError;

/// The handshake has failed.
pub(crate) fn failed(config: &ClientConfig, error: &io::Error) -> ClientError {
    let reason = match tls_error(error) {
        Some(Error::InvalidCertificate(fault)) => of_server(config, fault),
        Some(Error::AlertReceived(alert)) => of_client(config, *alert),
        Some(Error::InvalidMessage(fault)) => {
            format!("what answers there does not speak TLS 1.3 ({fault:?}); check the address and its port")
        }
        Some(other) => other.to_string(),
        None if is_end(error) => format!(
            "the server closed the connection before TLS was up ({error}). It does that where it has as many \
             connections or handshakes as it may (limits.connections, limits.half_open), after too many failures from \
             this address (limits.failures_per_minute_per_address), and while it stops; its log says which. Or it is \
             not a Stepbox server"
        ),
        None => error.to_string(),
    };
    disagreement(config, reason)
}

/// The connection has ended between the handshake's end on this side and the server's answer to the greeting. In TLS
/// 1.3 the server judges the client's certificate meanwhile.
pub(crate) fn cut_off(config: &ClientConfig, alert: Option<AlertDescription>, reason: &str) -> ClientError {
    disagreement(
        config,
        match alert {
            Some(alert) => of_client(config, alert),
            None => format!(
                "the connection ended before the server said whether it accepts this client ({reason}): the server is \
                 stopping, or TLS there has failed; its log says why"
            ),
        },
    )
}

fn disagreement(config: &ClientConfig, reason: String) -> ClientError {
    ClientError::Handshake { server: config.server.clone(), name: config.expected_name().to_owned(), reason }
}

fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// What is wrong with the server's certificate.
fn of_server(config: &ClientConfig, fault: &CertificateError) -> String {
    match fault {
        CertificateError::ExpiredContext { not_after, .. } => format!(
            "the server's certificate expired at {}; whoever runs the server must renew it",
            at(i64::try_from(not_after.as_secs()).unwrap_or(i64::MAX))
        ),
        CertificateError::NotValidYetContext { time, not_before } => {
            let at = |time: &UnixTime| at(i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
            format!(
                "the server's certificate is not valid before {}, and this machine's clock says {}; check the clock, \
                 or whoever runs the server must check theirs",
                at(not_before),
                at(time)
            )
        }
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            "the server's certificate is for no host name or address at all; whoever runs the server must have one \
             issued that names it"
                .to_owned()
        }
        CertificateError::NotValidForNameContext { presented, .. } => format!(
            "the server's certificate is not for `{}` but for {}; connect by one of these names, give it as the \
             server's name (server_name), or whoever runs the server must have a certificate issued for this one",
            config.expected_name(),
            presented.join(", ")
        ),
        // An authority that has the same name and another key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
            "the server's certificate is from an authority that is not in {}; check that this is the authority of that \
             server, and that the address is right",
            config.authority.display()
        ),
        CertificateError::InvalidPurposeContext { .. } | CertificateError::InvalidPurpose => {
            "the certificate that is shown there is not for servers; check the address, or whoever runs the server \
             must have one issued for servers"
                .to_owned()
        }
        other => format!("the server's certificate is not accepted: {other}; whoever runs the server must replace it"),
    }
}

/// What the server finds wrong with this client's certificate, by the alert that it has sent.
fn of_client(config: &ClientConfig, alert: AlertDescription) -> String {
    let own = config.certificate.display();
    let reason = match alert {
        AlertDescription::CertificateExpired => by_time(&config.certificate),
        AlertDescription::CertificateRevoked => {
            format!("the server refuses this client's certificate, {own}: it was revoked; have another one issued")
        }
        AlertDescription::UnknownCA => format!(
            "the server refuses this client's certificate, {own}: it does not trust the authority that has issued it, \
             or has no current revocation list of that authority. Have a certificate issued by the server's authority, \
             or whoever runs the server must look at tls.ca and tls.revocation_lists"
        ),
        AlertDescription::CertificateRequired => {
            "the server asks for a client's certificate, and none was sent".to_owned()
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::DecryptError => format!(
            "the server refuses this client's certificate, {own}: check that its authority is the server's, that it is \
             for clients, and that its key belongs to it"
        ),
        AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure => {
            "the server does not speak TLS 1.3 as this client does; check the address".to_owned()
        }
        _ => "the server has ended the handshake; its log says why".to_owned(),
    };
    format!("{reason} ({})", Error::AlertReceived(alert))
}

/// The alert is the same for a certificate that has expired and for one that is not valid yet.
fn by_time(certificate: &Path) -> String {
    let own = certificate.display();
    let Some(Validity { not_before, not_after }) = validity(certificate) else {
        return format!(
            "the server refuses this client's certificate, {own}: it has expired or is not valid yet; have another one \
             issued, or check the clocks"
        );
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    if not_after.timestamp() < now {
        format!("this client's certificate, {own}, expired at {not_after}; have another one issued")
    } else if not_before.timestamp() > now {
        format!("this client's certificate, {own}, is not valid before {not_before}; wait, or have another one issued")
    } else {
        format!(
            "the server refuses this client's certificate, {own}, as expired or not valid yet. It is valid from \
             {not_before} to {not_after}, and this machine's clock says {}: one of the two clocks is wrong, or one of \
             the certificates behind it has ended",
            at(now)
        )
    }
}

fn validity(certificate: &Path) -> Option<Validity> {
    let der = CertificateDer::from_pem_file(certificate).ok()?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    Some(certificate.validity().clone())
}

/// A time in seconds since 1970, for people.
fn at(seconds: i64) -> String {
    ASN1Time::from_timestamp(seconds).map_or_else(|_| format!("{seconds} s since 1970"), |time| time.to_string())
}
