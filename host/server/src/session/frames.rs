//! Frames as they come in.

use std::io;
use std::time::Duration;

use stepbox_wire::{FrameError, FrameLimits, FramePrefix, PREFIX_BYTES};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use crate::config::Limits;

/// Bytes of a body taken at a time: what is done with them finds them in the processor's cache.
const PIECE_BYTES: usize = 256 << 10;

/// Reads frames one after the other. A body is read only when asked for; what has not been read of it when the next
/// frame is asked for is read and dropped, so the stream stays in step whatever became of a request.
pub(crate) struct FrameReader<Stream> {
    stream: Stream,
    limits: FrameLimits,
    pace: Limits,
    /// Of the current frame's body.
    unread: u64,
}

/// Why no frame, or not all of one, came.
#[derive(Debug, Error)]
pub(crate) enum ReadError {
    /// The peer has closed, between two frames.
    #[error("the connection was closed")]
    Closed,
    /// The connection ended within a frame.
    #[error("the connection ended within a frame")]
    Truncated,
    /// Nothing came for a while, and nothing was expected.
    #[error("nothing was asked for {} s (limits.idle_seconds); connect again to ask more", after.as_secs_f64())]
    Idle {
        /// For how long.
        after: Duration,
    },
    /// A frame came in too slowly.
    #[error(
        "a frame of {bytes} bytes did not come in time \
         (limits.frame_seconds, and its length at limits.bytes_per_second)"
    )]
    Slow {
        /// How long it was.
        bytes: u64,
    },
    /// It is no frame that is accepted.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
}

impl<Stream: AsyncRead + Unpin> FrameReader<Stream> {
    /// Reads frames from `stream`, at first only those that a peer not yet known may send.
    pub fn new(stream: Stream, pace: Limits) -> Self {
        Self { stream, limits: FrameLimits::GREETING, pace, unread: 0 }
    }

    /// From here on the peer may send whatever the configuration allows.
    pub fn lift_limits(&mut self) {
        self.limits = self.pace.frame();
    }

    /// Bytes of the current frame's body that were not read, and that the next frame comes behind.
    pub fn unread(&self) -> u64 {
        self.unread
    }

    /// The next frame's prefix and header. Waits for its first byte as long as it takes, for a worker that computes is
    /// silent, unless `may_end` says after `limits.idle_seconds` that nothing is expected.
    pub async fn next(&mut self, may_end: impl Fn() -> bool) -> Result<(FramePrefix, Vec<u8>), ReadError> {
        self.skip_body().await?;
        let mut prefix = [0; PREFIX_BYTES];
        let idle = self.pace.idle_seconds.duration();
        let first = loop {
            match timeout(idle, self.stream.read(&mut prefix)).await {
                Ok(Ok(0)) => return Err(ReadError::Closed),
                Ok(Ok(first)) => break first,
                // A peer that is killed does not say goodbye to TLS; it is gone all the same.
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(ReadError::Closed),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) if may_end() => return Err(ReadError::Idle { after: idle }),
                Err(_) => {}
            }
        };
        let rest = PREFIX_BYTES as u64;
        self.in_time(rest, async |stream| stream.read_exact(&mut prefix[first..]).await.map(drop)).await?;
        let prefix = FramePrefix::decode(&prefix, &self.limits)?;
        let mut header = vec![0; prefix.header_bytes as usize];
        let length = u64::from(prefix.header_bytes);
        self.in_time(length, async |stream| stream.read_exact(&mut header).await.map(drop)).await?;
        self.unread = prefix.body_bytes;
        Ok((prefix, header))
    }

    /// Fills `body` from the current frame's body, or with the next part of it, and shows it to `each` piece by piece as
    /// it comes in. Pieces start at multiples of four bytes.
    pub async fn body(&mut self, body: &mut [u8], each: impl FnMut(&[u8])) -> Result<(), ReadError> {
        self.pieces(std::iter::once(body), each).await
    }

    /// As [`body`](Self::body), into several chunks.
    pub async fn chunks(&mut self, chunks: &mut [Vec<u8>], each: impl FnMut(&[u8])) -> Result<(), ReadError> {
        self.pieces(chunks.iter_mut().map(Vec::as_mut_slice), each).await
    }

    async fn pieces<'a>(
        &mut self,
        chunks: impl Iterator<Item = &'a mut [u8]>,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), ReadError> {
        let chunks: Vec<_> = chunks.collect();
        let length = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        debug_assert!(length <= self.unread);
        let read = async |stream: &mut Stream| {
            for piece in chunks.into_iter().flat_map(|chunk| chunk.chunks_mut(PIECE_BYTES)) {
                stream.read_exact(piece).await?;
                each(piece);
            }
            Ok(())
        };
        self.in_time(length, read).await?;
        self.unread -= length;
        Ok(())
    }

    /// Reads and drops what is left of the current frame's body.
    async fn skip_body(&mut self) -> Result<(), ReadError> {
        let length = self.unread;
        if length > 0 {
            let skip = async |stream: &mut Stream| match discard(stream, length).await? {
                skipped if skipped < length => Err(io::ErrorKind::UnexpectedEof.into()),
                _ => Ok(()),
            };
            self.in_time(length, skip).await?;
            self.unread = 0;
        }
        Ok(())
    }

    /// Reads and drops whatever comes until the peer closes.
    pub async fn drain(&mut self) {
        // However it ends, the connection is over.
        let _ = discard(&mut self.stream, u64::MAX).await;
    }

    async fn in_time(
        &mut self,
        bytes: u64,
        read: impl AsyncFnOnce(&mut Stream) -> io::Result<()>,
    ) -> Result<(), ReadError> {
        match timeout(self.pace.time_for(bytes), read(&mut self.stream)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Err(ReadError::Truncated),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(ReadError::Slow { bytes }),
        }
    }
}

/// Reads and drops up to `bytes`; returns how many came.
async fn discard(stream: &mut (impl AsyncRead + Unpin), bytes: u64) -> io::Result<u64> {
    tokio::io::copy(&mut stream.take(bytes), &mut tokio::io::sink()).await
}

#[cfg(test)]
mod tests {
    use stepbox_wire::{Request, decode_request, encode_request};

    use super::*;
    use crate::config::Seconds;

    fn reader(bytes: &[u8]) -> FrameReader<&[u8]> {
        let mut reader = FrameReader::new(bytes, Limits::default());
        reader.lift_limits();
        reader
    }

    fn pull(version: u64) -> Request {
        Request::Pull { key: "w".into(), version, evaluation: false }
    }

    #[tokio::test]
    async fn a_body_that_nobody_reads_leaves_the_stream_in_step() {
        let mut bytes = encode_request(1, &pull(1), 600_000);
        bytes.extend(vec![7; 600_000]);
        bytes.extend(encode_request(2, &pull(2), 4));
        bytes.extend([1, 2, 3, 4]);
        bytes.extend(encode_request(3, &pull(3), 0));
        let mut reader = reader(&bytes);
        let (_, header) = reader.next(|| false).await.expect("the first");
        assert_eq!(decode_request(&header), Ok((1, pull(1))));
        let (prefix, _) = reader.next(|| false).await.expect("the second");
        let mut body = vec![0; prefix.body_bytes as usize];
        reader.body(&mut body, |_| {}).await.expect("its body");
        assert_eq!(body, [1, 2, 3, 4]);
        let (_, header) = reader.next(|| false).await.expect("the third");
        assert_eq!(decode_request(&header), Ok((3, pull(3))));
        assert!(matches!(reader.next(|| false).await, Err(ReadError::Closed)));
    }

    #[tokio::test]
    async fn pieces_are_the_body_in_order() {
        let sent: Vec<u8> = (0..PIECE_BYTES * 2 + 8).map(|index| index as u8).collect();
        let mut bytes = encode_request(1, &pull(1), sent.len() as u64);
        bytes.extend(&sent);
        let mut reader = reader(&bytes);
        reader.next(|| false).await.expect("a frame");
        let (mut body, mut seen) = (vec![0; sent.len()], Vec::<u8>::new());
        reader.body(&mut body, |piece| seen.extend(piece)).await.expect("its body");
        assert_eq!(body, sent);
        assert_eq!(seen, sent);
    }

    #[tokio::test]
    async fn a_stream_that_ends_within_a_frame_is_told_from_one_that_ends_between() {
        let mut bytes = encode_request(1, &pull(1), 10);
        bytes.extend([0; 9]);
        for end in 1..bytes.len() - 9 {
            assert!(matches!(reader(&bytes[..end]).next(|| false).await, Err(ReadError::Truncated)), "{end}");
        }
        let mut reader = reader(&bytes);
        reader.next(|| false).await.expect("the header is whole");
        assert!(matches!(reader.next(|| false).await, Err(ReadError::Truncated)));
    }

    #[tokio::test]
    async fn a_frame_that_dribbles_ends_in_time() {
        let (mut peer, stream) = tokio::io::duplex(64);
        let pace = Limits { frame_seconds: Seconds::from_constant(0.01), ..Limits::default() };
        tokio::io::AsyncWriteExt::write_all(&mut peer, b"SBX1").await.expect("room for four bytes");
        let mut reader = FrameReader::new(stream, pace);
        assert!(matches!(reader.next(|| false).await, Err(ReadError::Slow { .. })));
    }

    #[tokio::test]
    async fn a_peer_not_yet_known_may_only_greet() {
        let bytes =
            encode_request(1, &Request::Push { key: "k".repeat(80), round: 1, tensor: tensor(), loss: None }, 4);
        let refused = FrameReader::new(&bytes[..], Limits::default()).next(|| false).await;
        assert!(matches!(refused, Err(ReadError::Frame(FrameError::HeaderTooLong { .. }))));
    }

    fn tensor() -> stepbox_wire::TensorType {
        stepbox_wire::TensorType { element: stepbox_wire::ElementType::F32, shape: vec![1] }
    }
}
