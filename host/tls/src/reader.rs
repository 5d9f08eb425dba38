//! The half that reads.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::{AlertDescription, ContentType, Error, InvalidMessage};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::tcp::OwnedReadHalf;

use crate::handshake::{Rest, invalid};
use crate::keys::Keys;
use crate::record::{MAX_RECORD_BYTES, Opener, record_length};

/// Room for records, at first: two of them, enough for a peer that has little to say.
const FIRST_BYTES: usize = 2 * MAX_RECORD_BYTES;

/// Room for records, at most: as much as one system call brings. It stays in the processor's second cache with what is
/// made of it.
const MOST_BYTES: usize = 16 * MAX_RECORD_BYTES;

/// A handshake message's type and length.
const MESSAGE_HEADER_BYTES: usize = 4;

/// `new_session_ticket`, which a client need not heed.
const NEW_SESSION_TICKET: u8 = 4;

/// `key_update`.
const KEY_UPDATE: u8 = 24;

/// What the peer sends. The stream ends where the peer says so; where the connection ends without a word, the error is
/// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof).
pub struct TlsReader {
    stream: OwnedReadHalf,
    opener: Opener,
    keys: Arc<Keys>,
    /// What was received and not yet taken: decrypted, then still encrypted, then room.
    buffer: Vec<u8>,
    /// What is decrypted and not yet taken.
    plaintext: Range<usize>,
    /// What is received and not yet decrypted.
    records: Range<usize>,
    is_closed: bool,
    /// Found behind what was good.
    failure: Option<io::Error>,
}

impl TlsReader {
    pub(crate) fn new(stream: OwnedReadHalf, opener: Opener, keys: Arc<Keys>, rest: Rest) -> Self {
        let Rest { plaintext, records } = rest;
        let mut buffer = plaintext;
        let plaintext = 0..buffer.len();
        buffer.extend(records);
        let records = plaintext.end..buffer.len();
        buffer.resize(buffer.len().max(FIRST_BYTES), 0);
        Self { stream, opener, keys, buffer, plaintext, records, is_closed: false, failure: None }
    }

    /// Hands over what is decrypted, and decrypts what is there, until there is nothing or `out` is full.
    fn take(&mut self, out: &mut ReadBuf<'_>) -> io::Result<()> {
        loop {
            let taken = self.plaintext.len().min(out.remaining());
            out.put_slice(&self.buffer[self.plaintext.start..][..taken]);
            self.plaintext.start += taken;
            if out.remaining() == 0 || self.is_closed || !self.open_next().map_err(invalid)? {
                return Ok(());
            }
        }
    }

    /// Opens the next record, if it is all there.
    fn open_next(&mut self) -> Result<bool, Error> {
        let received = &mut self.buffer[self.records.clone()];
        let Some(length) = record_length(received)?.filter(|length| *length <= received.len()) else {
            return Ok(false);
        };
        let (content_type, content) = self.opener.open(&mut received[..length])?;
        let content = self.records.start + content.start..self.records.start + content.end;
        self.records.start += length;
        match content_type {
            ContentType::ApplicationData => self.plaintext = content,
            ContentType::Alert => self.alert(content)?,
            ContentType::Handshake => self.messages(content)?,
            _ => return Err(InvalidMessage::InvalidContentType.into()),
        }
        Ok(true)
    }

    fn alert(&mut self, content: Range<usize>) -> Result<(), Error> {
        let &[_level, description] = &self.buffer[content] else {
            return Err(InvalidMessage::MessageTooLarge.into());
        };
        match AlertDescription::from(description) {
            AlertDescription::CloseNotify => self.is_closed = true,
            AlertDescription::UserCanceled => {}
            description => return Err(Error::AlertReceived(description)),
        }
        Ok(())
    }

    fn messages(&mut self, content: Range<usize>) -> Result<(), Error> {
        let mut messages = &self.buffer[content];
        while !messages.is_empty() {
            let Some((&[message_type, high, middle, low], rest)) = messages.split_first_chunk::<MESSAGE_HEADER_BYTES>()
            else {
                return Err(InvalidMessage::MessageTooShort.into());
            };
            let length = u32::from_be_bytes([0, high, middle, low]) as usize;
            let (body, rest) = rest.split_at_checked(length).ok_or(InvalidMessage::MessageTooShort)?;
            match (message_type, body, rest) {
                // The keys change behind it, so nothing may follow in the same record.
                (KEY_UPDATE, [request @ (0 | 1)], []) => {
                    self.opener.rekey(self.keys.next_for_receiving()?)?;
                    if *request == 1 {
                        self.keys.ask();
                    }
                }
                (NEW_SESSION_TICKET, ..) => {}
                _ => return Err(InvalidMessage::InvalidContentType.into()),
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
        if was_full && self.buffer.len() < MOST_BYTES {
            self.buffer.resize((2 * self.buffer.len()).min(MOST_BYTES), 0);
        }
    }
}

impl AsyncRead for TlsReader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = out.filled().len();
        loop {
            if let Some(failure) = this.failure.take() {
                return Poll::Ready(Err(failure));
            }
            let taken = this.take(out);
            if out.filled().len() > before {
                this.failure = taken.err();
                return Poll::Ready(Ok(()));
            }
            taken?;
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
