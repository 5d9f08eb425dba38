//! What can be wrong with what the peer sends after the handshake.

use std::error;
use std::fmt::{self, Display, Formatter};
use std::io;

use rustls::{AlertDescription, Error, InvalidMessage, PeerMisbehaved};

use crate::reader::MAX_FRUITLESS_RECORDS;

/// Why nothing more is read. The peer's fault, or what happened to its bytes on the way.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// What rustls has a name for.
    Tls(Error),
    /// Too many records in a row without application data.
    Fruitless,
    /// A message after the handshake is not all in one record.
    Split,
}

/// What rustls says of a connection that has failed, in the handshake or after it; nothing where it is the network's.
pub fn tls_error(error: &io::Error) -> Option<&Error> {
    let inner = error.get_ref()?;
    match inner.downcast_ref::<Fault>() {
        Some(Fault::Tls(error)) => Some(error),
        Some(Fault::Fruitless | Fault::Split) => None,
        None => inner.downcast_ref(),
    }
}

impl Fault {
    /// What the peer is told of it (RFC 8446, section 6.2); nothing where it has said itself that it gives up.
    pub fn alert(&self) -> Option<AlertDescription> {
        match self {
            Self::Tls(Error::AlertReceived(_)) => None,
            Self::Tls(Error::DecryptError) => Some(AlertDescription::BadRecordMac),
            Self::Tls(Error::PeerSentOversizedRecord) => Some(AlertDescription::RecordOverflow),
            Self::Tls(Error::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::InvalidEmptyPayload,
            )) => Some(AlertDescription::UnexpectedMessage),
            Self::Tls(Error::InvalidMessage(error)) => Some((*error).into()),
            Self::Tls(
                Error::InappropriateMessage { .. }
                | Error::InappropriateHandshakeMessage { .. }
                | Error::PeerMisbehaved(_),
            )
            | Self::Fruitless => Some(AlertDescription::UnexpectedMessage),
            Self::Tls(_) | Self::Split => Some(AlertDescription::InternalError),
        }
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(error) => error.fmt(f),
            Self::Fruitless => write!(
                f,
                "the peer has sent more than {MAX_FRUITLESS_RECORDS} TLS records in a row without data: key updates, \
                 alerts, tickets or empty ones"
            ),
            Self::Split => write!(
                f,
                "the peer has sent a TLS message after the handshake that is not all in one record, which is not \
                 supported here"
            ),
        }
    }
}

impl error::Error for Fault {}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Tls(error)
    }
}

impl From<InvalidMessage> for Fault {
    fn from(error: InvalidMessage) -> Self {
        Self::Tls(error.into())
    }
}

impl From<PeerMisbehaved> for Fault {
    fn from(error: PeerMisbehaved) -> Self {
        Self::Tls(error.into())
    }
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> Self {
        Self::new(io::ErrorKind::InvalidData, fault)
    }
}
