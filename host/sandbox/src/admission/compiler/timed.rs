//! Pipes that are not waited for longer than until a moment.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

/// A pipe with a deadline: reading and writing fail with [`io::ErrorKind::TimedOut`] when it has passed.
pub(super) struct Timed<'a, P> {
    pipe: P,
    until: Instant,
    /// A pipe from somebody without whom there is no reason to go on: once its other end is closed, reading and writing
    /// fail with [`io::ErrorKind::ConnectionAborted`].
    on_behalf_of: Option<BorrowedFd<'a>>,
}

impl<'a, P: AsFd> Timed<'a, P> {
    pub(super) fn new(pipe: P, until: Instant) -> io::Result<Self> {
        // What is set belongs to this end of the pipe alone.
        let flags = fcntl_getfl(&pipe)?;
        fcntl_setfl(&pipe, flags | OFlags::NONBLOCK)?;
        Ok(Self { pipe, until, on_behalf_of: None })
    }

    pub(super) fn on_behalf_of(self, client: BorrowedFd<'a>) -> Self {
        Self { on_behalf_of: Some(client), ..self }
    }

    fn wait(&self, events: PollFlags) -> io::Result<()> {
        loop {
            let left = self.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let timeout = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
            let mut waits = vec![PollFd::new(&self.pipe, events)];
            waits.extend(self.on_behalf_of.map(|client| PollFd::from_borrowed_fd(client, PollFlags::empty())));
            match poll(&mut waits, Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if waits.get(1).is_some_and(|client| client.revents().intersects(PollFlags::HUP | PollFlags::ERR)) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            if !waits[0].revents().is_empty() {
                return Ok(());
            }
        }
    }
}

impl<P: AsFd + Read> Read for Timed<'_, P> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.wait(PollFlags::IN)?;
            match self.pipe.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return outcome,
            }
        }
    }
}

impl<P: AsFd + Write> Write for Timed<'_, P> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.wait(PollFlags::OUT)?;
            match self.pipe.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return outcome,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pipe.flush()
    }
}
