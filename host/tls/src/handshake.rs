//! The handshake, by rustls, which does no I/O of its own here.

use std::io;

use rustls::Error;
use rustls::unbuffered::{
    ConnectionState, EncodeError, InsufficientSizeError, UnbufferedConnectionCommon, UnbufferedStatus,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::record::announced_length;

/// Room for what the peer sends, at first: all of a usual handshake.
const FIRST_BYTES: usize = 16 << 10;

/// Room for what the peer sends, at most: the longest message that rustls takes, 64 KiB of certificates, in its records.
const MAX_HANDSHAKE_BYTES: usize = 128 << 10;

/// Does the handshake. `process` is the connection's own `process_tls_records`. Returns what the peer has sent behind its
/// part of the handshake: records, the last of them perhaps not all there.
///
/// Where it fails, the peer has been told why, as far as it still listens.
pub(crate) async fn shake_hands<Side>(
    stream: &mut TcpStream,
    connection: &mut UnbufferedConnectionCommon<Side>,
    process: impl for<'c, 'i> Fn(&'c mut UnbufferedConnectionCommon<Side>, &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Side>,
) -> io::Result<Vec<u8>> {
    let (mut incoming, mut filled) = (vec![0; FIRST_BYTES], 0);
    // Where the record ends that rustls is at. It is shown no other: what follows the handshake it would act upon, and
    // that would be lost with it where the keys are taken over (an answer to a key update, a `close_notify`).
    let mut end = 0;
    let mut outgoing = Vec::new();
    let mut failure: Option<Error> = None;
    loop {
        let UnbufferedStatus { discard, state, .. } = process(connection, &mut incoming[..filled.min(end)]);
        let mut is_blocked = false;
        match state {
            Ok(ConnectionState::EncodeTlsData(mut message)) => encode(&mut outgoing, |room| message.encode(room))?,
            Ok(ConnectionState::TransmitTlsData(message)) => {
                let sent = stream.write_all(&outgoing).await;
                // The peer may be gone; that is not why.
                if failure.is_none() {
                    sent?;
                }
                outgoing.clear();
                message.done();
            }
            Ok(ConnectionState::WriteTraffic(_)) if failure.is_none() => {
                incoming.copy_within(discard..filled, 0);
                incoming.truncate(filled - discard);
                return Ok(incoming);
            }
            Ok(ConnectionState::BlockedHandshake) if failure.is_none() => is_blocked = true,
            Ok(ConnectionState::PeerClosed | ConnectionState::Closed) if failure.is_none() => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // The first one counts. What rustls says to the peer about it comes out before it is repeated.
            Err(error) if failure.is_none() => failure = Some(error),
            _ => {
                let _ = stream.write_all(&outgoing).await;
                let unforeseen = || Error::General("the handshake has taken an unforeseen turn".into());
                return Err(invalid(failure.unwrap_or_else(unforeseen)));
            }
        }
        if discard > 0 {
            incoming.copy_within(discard..filled, 0);
            filled -= discard;
            end -= discard;
        }
        if is_blocked {
            if let Some(length) = incoming.get(end..filled).and_then(announced_length) {
                end += length;
                continue;
            }
            if filled == incoming.len() {
                if filled >= MAX_HANDSHAKE_BYTES {
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
