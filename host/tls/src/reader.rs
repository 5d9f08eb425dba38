//! The half that reads.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::{AlertDescription, ContentType, Error, HandshakeType, InvalidMessage, PeerMisbehaved};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::tcp::OwnedReadHalf;

use crate::fault::Fault;
use crate::keys::Keys;
use crate::record::{MAX_RECORD_BYTES, Opener, record_length};

/// Room for records, at first: two of them, enough for a peer that has little to say.
const FIRST_BYTES: usize = 2 * MAX_RECORD_BYTES;

/// Room for records, at most: as much as one system call brings. It stays in the processor's second cache with what is
/// made of it.
const MAX_RECEIVED_BYTES: usize = 16 * MAX_RECORD_BYTES;

/// Records in a row without application data, at most: key updates, tickets, empty records, alerts that end nothing.
/// A peer that means well sends one or two between its data; they cost it little and us a decryption or new keys each.
pub(crate) const MAX_FRUITLESS_RECORDS: u32 = 32;

/// A handshake message's type and length.
const MESSAGE_HEADER_BYTES: usize = 4;

/// `new_session_ticket`: from servers only, and a client need not heed it.
const NEW_SESSION_TICKET: u8 = 4;

/// `key_update`.
const KEY_UPDATE: u8 = 24;

/// Which side the peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Client,
    Server,
}

/// What the peer sends. The stream ends where the peer says so; where the connection ends without a word, the error is
/// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof). Where what comes is not as it should be, the error is
/// [`InvalidData`](io::ErrorKind::InvalidData), and so it is from then on: nothing behind it is read.
pub struct TlsReader {
    stream: OwnedReadHalf,
    opener: Opener,
    keys: Arc<Keys>,
    peer: Peer,
    /// What was received and not yet taken: decrypted, then still encrypted, then room.
    buffer: Vec<u8>,
    /// What is decrypted and not yet taken.
    plaintext: Range<usize>,
    /// What is received and not yet decrypted.
    records: Range<usize>,
    /// Records without application data since there was some.
    fruitless: u32,
    is_closed: bool,
    /// Found behind what was good.
    fault: Option<Fault>,
}

impl TlsReader {
    /// Of what the peer sends, `received` is already there.
    pub(crate) fn new(stream: OwnedReadHalf, opener: Opener, keys: Arc<Keys>, peer: Peer, received: Vec<u8>) -> Self {
        let mut buffer = received;
        let records = 0..buffer.len();
        buffer.resize(buffer.len().max(FIRST_BYTES), 0);
        let plaintext = 0..0;
        Self { stream, opener, keys, peer, buffer, plaintext, records, fruitless: 0, is_closed: false, fault: None }
    }

    /// Hands over what is decrypted, and decrypts what is there, until there is nothing or `out` is full.
    fn take(&mut self, out: &mut ReadBuf<'_>) -> Result<(), Fault> {
        loop {
            let taken = self.plaintext.len().min(out.remaining());
            out.put_slice(&self.buffer[self.plaintext.start..][..taken]);
            self.plaintext.start += taken;
            if out.remaining() == 0 || self.is_closed || !self.open_next()? {
                return Ok(());
            }
        }
    }

    /// Opens the next record, if it is all there.
    fn open_next(&mut self) -> Result<bool, Fault> {
        let received = &mut self.buffer[self.records.clone()];
        let Some(length) = record_length(received)?.filter(|length| *length <= received.len()) else {
            return Ok(false);
        };
        let (content_type, content) = self.opener.open(&mut received[..length])?;
        let content = self.records.start + content.start..self.records.start + content.end;
        self.records.start += length;
        self.fruitless += 1;
        match content_type {
            ContentType::ApplicationData if !content.is_empty() => {
                self.plaintext = content;
                self.fruitless = 0;
            }
            ContentType::ApplicationData => {}
            ContentType::Alert => self.alert(content)?,
            ContentType::Handshake => self.messages(content)?,
            _ => return Err(InvalidMessage::InvalidContentType.into()),
        }
        if self.fruitless > MAX_FRUITLESS_RECORDS && !self.is_closed { Err(Fault::Fruitless) } else { Ok(true) }
    }

    fn alert(&mut self, content: Range<usize>) -> Result<(), Fault> {
        let &[_level, description] = &self.buffer[content] else {
            return Err(InvalidMessage::MessageTooLarge.into());
        };
        match AlertDescription::from(description) {
            AlertDescription::CloseNotify => self.is_closed = true,
            AlertDescription::UserCanceled => {}
            description => return Err(Error::AlertReceived(description).into()),
        }
        Ok(())
    }

    fn messages(&mut self, content: Range<usize>) -> Result<(), Fault> {
        if content.is_empty() {
            return Err(InvalidMessage::InvalidEmptyPayload.into());
        }
        let mut messages = &self.buffer[content];
        while !messages.is_empty() {
            let Some((&[message_type, high, middle, low], rest)) = messages.split_first_chunk::<MESSAGE_HEADER_BYTES>()
            else {
                return Err(Fault::Split);
            };
            let length = u32::from_be_bytes([0, high, middle, low]) as usize;
            let (body, rest) = rest.split_at_checked(length).ok_or(Fault::Split)?;
            match (message_type, body) {
                // The keys change behind it, so nothing may follow in the same record.
                (KEY_UPDATE, _) if !rest.is_empty() => {
                    return Err(PeerMisbehaved::KeyEpochWithPendingFragment.into());
                }
                (KEY_UPDATE, [request @ (0 | 1)]) => {
                    self.opener.rekey(self.keys.next_for_receiving()?)?;
                    if *request == 1 {
                        self.keys.ask();
                    }
                }
                (KEY_UPDATE, _) => return Err(InvalidMessage::InvalidKeyUpdate.into()),
                (NEW_SESSION_TICKET, _) if self.peer == Peer::Server => {}
                _ => {
                    let expect_types = vec![HandshakeType::KeyUpdate];
                    return Err(
                        Error::InappropriateHandshakeMessage { expect_types, got_type: message_type.into() }.into()
                    );
                }
            }
            messages = rest;
        }
        Ok(())
    }

    /// Makes room behind what is received. All that is decrypted is taken.
    fn make_room(&mut self) {
        let held = self.records.len();
        let was_full = self.records.end == self.buffer.len();
        self.buffer.copy_within(self.records.clone(), 0);
        self.records = 0..held;
        self.plaintext = 0..0;
        // A system call that fills all there was would have brought more.
        if was_full && self.buffer.len() < MAX_RECEIVED_BYTES {
            self.buffer.resize((2 * self.buffer.len()).min(MAX_RECEIVED_BYTES), 0);
        }
    }
}

impl AsyncRead for TlsReader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = out.filled().len();
        loop {
            if this.fault.is_none()
                && let Err(fault) = this.take(out)
            {
                if let Some(alert) = fault.alert() {
                    this.keys.refuse(alert);
                }
                this.fault = Some(fault);
            }
            if out.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
            if let Some(fault) = &this.fault {
                return Poll::Ready(Err(fault.clone().into()));
            }
            if this.is_closed || out.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            this.make_room();
            let mut room = ReadBuf::new(&mut this.buffer[this.records.end..]);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut room))?;
            match room.filled().len() {
                0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                count => this.records.end += count,
            }
        }
    }
}
