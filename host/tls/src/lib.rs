//! TLS 1.3 connections as two halves, for reading and for writing, that share nothing on the way of the data.
//!
//! rustls does the handshake: certificates, signatures, key exchange, alerts. Then it hands over the traffic keys by the
//! interface it has for TLS in the kernel ([`rustls::kernel`]), and each half protects records (RFC 8446, section 5) with
//! rustls' own `MessageEncrypter` or `MessageDecrypter`. What that is for:
//!
//! - a push is decrypted while a pull is encrypted; rustls' usual connection is one value behind one lock;
//! - records are decrypted where they were received, and copied once, to where they belong; the usual connection keeps
//!   what it has decrypted in buffers of its own in between;
//! - sixteen records go to and come from the kernel with one system call.
//!
//! Nothing here decides about cryptography. Nonces, additional data, padding and content types are rustls'; this crate
//! counts the records, takes them apart, and follows the rules for what is no application data: `close_notify`, other
//! alerts, key updates (RFC 8446, sections 4.6.3 and 6). Keys are updated after as many records as the cipher suite
//! allows for.
//!
//! Stricter than the RFC: no more than 32 records in a row may come without application data, and a message that comes
//! after the handshake is to be in one record. Where what is read is refused, the reader's error says why, and stays;
//! the peer gets the alert (RFC 8446, section 6.2) when the writer is shut down, and none where it is dropped.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod connect;
mod fault;
mod handshake;
mod keys;
pub mod pem;
mod reader;
mod record;
mod writer;

pub use connect::{Acceptor, Connector, Established, provider};
pub use reader::TlsReader;
pub use writer::TlsWriter;
