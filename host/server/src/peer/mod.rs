//! A peer's identity and rights: TLS, certificates and keys, and access to a job.

mod access;
mod certificate_watch;
mod own_certificate;
mod pem_file;
mod secret_file;
mod tls;

pub(crate) use access::Access;
pub(crate) use certificate_watch::CertificateWatch;
pub(crate) use own_certificate::{NOTICE_SECONDS, in_time, moment};
pub use pem_file::TlsError;
pub(crate) use tls::{Renewed, Tls, own_name};
