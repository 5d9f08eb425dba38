//! The handshake, by rustls, which does no I/O of its own here.

use std::io;

use rustls::Error;
use rustls::unbuffered::{
    ConnectionState, EncodeError, InsufficientSizeError, UnbufferedConnectionCommon, UnbufferedStatus,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Room for what the peer sends, at first: all of a usual handshake.
const FIRST_BYTES: usize = 16 << 10;

/// Room for what the peer sends, at most: the longest message that rustls takes, 64 KiB of certificates, in its records.
const MOST_BYTES: usize = 128 << 10;

/// What the peer has sent behind its part of the handshake.
pub(crate) struct Rest {
    /// Already decrypted, and before the other.
    pub plaintext: Vec<u8>,
    /// The beginning of a record.
    pub records: Vec<u8>,
}

/// Does the handshake. `process` is the connection's own `process_tls_records`.
///
/// Where it fails, the peer has been told why, as far as it still listens.
pub(crate) async fn shake_hands<Side>(
    stream: &mut TcpStream,
    connection: &mut UnbufferedConnectionCommon<Side>,
    process: impl for<'c, 'i> Fn(&'c mut UnbufferedConnectionCommon<Side>, &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Side>,
) -> io::Result<Rest> {
    let (mut incoming, mut filled) = (vec![0; FIRST_BYTES], 0);
    let mut outgoing = Vec::new();
    let mut plaintext = Vec::new();
    let mut failure: Option<Error> = None;
    loop {
        let UnbufferedStatus { discard, state, .. } = process(connection, &mut incoming[..filled]);
        let mut is_blocked = false;
        match state {
            Ok(ConnectionState::EncodeTlsData(mut message)) => encode(&mut outgoing, |room| message.encode(room))?,
            Ok(ConnectionState::TransmitTlsData(message)) => {
                stream.write_all(&outgoing).await?;
                outgoing.clear();
                message.done();
            }
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    plaintext.extend_from_slice(record.map_err(invalid)?.payload);
                }
            }
            Ok(ConnectionState::WriteTraffic(_)) if failure.is_none() => {
                incoming.copy_within(discard..filled, 0);
                incoming.truncate(filled - discard);
                return Ok(Rest { plaintext, records: incoming });
            }
            Ok(ConnectionState::BlockedHandshake) if failure.is_none() => is_blocked = true,
            Ok(ConnectionState::PeerClosed | ConnectionState::Closed) if failure.is_none() => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // The first one counts. What rustls says to the peer about it comes out before it is repeated.
            Err(error) if failure.is_none() => failure = Some(error),
            _ => {
                // The peer may be gone; that is not why.
                let _ = stream.write_all(&outgoing).await;
                let unforeseen = || Error::General("the handshake has taken an unforeseen turn".into());
                return Err(invalid(failure.unwrap_or_else(unforeseen)));
            }
        }
        incoming.copy_within(discard..filled, 0);
        filled -= discard;
        if is_blocked {
            if filled == incoming.len() {
                if filled >= MOST_BYTES {
                    return Err(invalid(Error::General("the peer's handshake message is too long".into())));
                }
                incoming.resize(2 * filled, 0);
            }
            match stream.read(&mut incoming[filled..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
    }
}

fn encode(outgoing: &mut Vec<u8>, mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) -> io::Result<()> {
    let start = outgoing.len();
    loop {
        match encode(&mut outgoing[start..]) {
            Ok(written) => {
                outgoing.truncate(start + written);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => {
                outgoing.resize(start + required_size, 0);
            }
            Err(error @ EncodeError::AlreadyEncoded) => return Err(io::Error::other(error)),
        }
    }
}

pub(crate) fn invalid(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
