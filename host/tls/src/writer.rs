//! The half that writes.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::crypto::cipher::OutboundChunks;
use rustls::{AlertDescription, ContentType, Error};
use tokio::io::AsyncWrite;
use tokio::net::tcp::OwnedWriteHalf;

use crate::handshake::invalid;
use crate::keys::Keys;
use crate::record::{MAX_CONTENT_BYTES, Sealer};

/// Records that are protected before they are sent, with one system call: they stay in the processor's second cache.
const SEALED_RECORDS: usize = 16;

/// An alert's level.
const WARNING: u8 = 1;

/// An alert's level.
const FATAL: u8 = 2;

/// `key_update`, one byte long: the peer need not follow.
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

/// What the peer is sent. Bytes are gathered into whole records, and records into large writes, until it is flushed.
/// Shutting it down says goodbye: `close_notify`, or the alert for what was wrong with what the other half has read. Then
/// nothing more can be written.
pub struct TlsWriter {
    stream: OwnedWriteHalf,
    sealer: Sealer,
    keys: Arc<Keys>,
    /// Less than a record.
    gathered: Vec<u8>,
    /// Records on their way.
    sealed: VecDeque<Vec<u8>>,
    /// Of the first of them.
    sent: usize,
    key_updates: u64,
    is_closed: bool,
}

impl TlsWriter {
    /// How often the keys were changed, because they had protected as much as they may or because the peer asked.
    pub fn key_updates(&self) -> u64 {
        self.key_updates
    }

    pub(crate) fn new(stream: OwnedWriteHalf, sealer: Sealer, keys: Arc<Keys>) -> Self {
        Self {
            stream,
            sealer,
            keys,
            gathered: Vec::new(),
            sealed: VecDeque::new(),
            sent: 0,
            key_updates: 0,
            is_closed: false,
        }
    }

    /// Protects what is gathered, and `more` of it, as one record.
    fn seal(&mut self, more: &[u8]) -> Result<(), Error> {
        if self.sealer.is_worn() || self.keys.was_asked() {
            let update = self.sealer.seal(ContentType::Handshake, OutboundChunks::Single(&KEY_UPDATE))?;
            self.sealed.push_back(update);
            self.sealer.rekey(self.keys.next_for_sending()?)?;
            self.key_updates += 1;
        }
        let chunks = [self.gathered.as_slice(), more];
        let content =
            if self.gathered.is_empty() { OutboundChunks::Single(more) } else { OutboundChunks::new(&chunks) };
        let record = self.sealer.seal(ContentType::ApplicationData, content)?;
        self.sealed.push_back(record);
        self.gathered.clear();
        Ok(())
    }

    /// Sends all records.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.sealed.is_empty() {
            let mut slices = [IoSlice::new(&[]); SEALED_RECORDS];
            let mut count = 0;
            for (slice, record) in slices.iter_mut().zip(&self.sealed) {
                *slice = IoSlice::new(if count == 0 { &record[self.sent..] } else { record });
                count += 1;
            }
            match ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..count]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.sent += written,
            }
            while let Some(first) = self.sealed.front()
                && first.len() <= self.sent
            {
                self.sent -= first.len();
                self.sealed.pop_front();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TlsWriter {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_closed {
            // The peer has been told that nothing follows.
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if this.sealed.len() >= SEALED_RECORDS {
            ready!(this.poll_send(cx))?;
        }
        let mut rest = bytes;
        while this.gathered.len() + rest.len() >= MAX_CONTENT_BYTES && this.sealed.len() < SEALED_RECORDS {
            let (record, behind) = rest.split_at(MAX_CONTENT_BYTES - this.gathered.len());
            this.seal(record).map_err(invalid)?;
            rest = behind;
        }
        if this.gathered.len() + rest.len() < MAX_CONTENT_BYTES {
            this.gathered.extend_from_slice(rest);
            rest = &[];
        }
        Poll::Ready(Ok(bytes.len() - rest.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.gathered.is_empty() {
            this.seal(&[]).map_err(invalid)?;
        }
        this.poll_send(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.is_closed {
            if !this.gathered.is_empty() {
                this.seal(&[]).map_err(invalid)?;
            }
            let farewell = this.keys.farewell();
            let level = if farewell == AlertDescription::CloseNotify { WARNING } else { FATAL };
            let alert = [level, farewell.into()];
            let record = this.sealer.seal(ContentType::Alert, OutboundChunks::Single(&alert)).map_err(invalid)?;
            this.sealed.push_back(record);
            this.is_closed = true;
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}
