//! The queue of log lines, and the thread that writes them.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use stepbox_server::LogHealth;

use super::throttle::LogThrottle;

/// Bytes of lines that wait to be written: thousands of lines, for a reader that falls behind for a moment. Further ones
/// are lost, and counted.
const MAX_QUEUED_LOG_BYTES: usize = 1 << 20;

/// Between two lines that say how many were lost, so that a slow reader gets other lines, too.
const LOST_LINES_INTERVAL: Duration = Duration::from_secs(1);

/// How long a process that ends waits for the last lines to be written: a reader that reads takes them at once.
const FLUSH: Duration = Duration::from_secs(1);

/// How long a standard error that does not block, and is full, rests before it is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(20);

/// Lines that wait to be written.
#[derive(Default)]
pub(super) struct LogQueue {
    state: Mutex<State>,
    changed: Condvar,
    health: Arc<LogHealth>,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    is_closed: bool,
    /// Nothing is written any more.
    has_ended: bool,
}

/// What the thread does next.
enum Next {
    Write(Vec<u8>),
    /// Nothing came before the deadline.
    Idle,
    End,
}

impl LogQueue {
    pub(super) fn health(&self) -> Arc<LogHealth> {
        Arc::clone(&self.health)
    }

    /// Takes one line, in one write, and never fails or blocks.
    pub(super) fn writer(self: &Arc<Self>, escape: fn(&str) -> String) -> LineWriter {
        LineWriter { queue: Arc::clone(self), escape }
    }

    /// Waits until all lines are written, or for [`FLUSH`].
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        self.changed.notify_all();
        let until = Instant::now() + FLUSH;
        while !state.has_ended {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn push(&self, line: Vec<u8>) {
        let mut state = self.lock();
        if state.bytes + line.len() > MAX_QUEUED_LOG_BYTES {
            self.health.line_lost();
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line);
        self.changed.notify_all();
    }

    fn next(&self, deadline: Option<Instant>) -> Next {
        let mut state = self.lock();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.len();
                return Next::Write(line);
            }
            if state.is_closed {
                return Next::End;
            }
            let Some(deadline) = deadline else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Next::Idle;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A thread that panics while it holds the lock leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the formatter writes a line.
pub(super) struct LineWriter {
    queue: Arc<LogQueue>,
    escape: fn(&str) -> String,
}

impl Write for LineWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queue.push((self.escape)(&String::from_utf8_lossy(line)).into_bytes());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts the thread that writes the lines.
pub(super) fn start(queue: Arc<LogQueue>, throttle: Arc<LogThrottle>, output: File) -> io::Result<()> {
    let mut output = LineOutput { output, is_in_line: false };
    let write_all = move || {
        let (mut reported, mut report_from, mut works, mut is_ending) = (0, Instant::now(), true, false);
        loop {
            let unreported = works && queue.health.lost_lines() > reported;
            match queue.next([throttle.next_end(), unreported.then_some(report_from)].into_iter().flatten().min()) {
                Next::Write(line) => {
                    queue.health.write_begins(Instant::now());
                    let written = output.write(&line);
                    works = written.is_ok();
                    queue.health.write_ended(written.map_err(|error| error.to_string()));
                }
                Next::Idle => {}
                Next::End if is_ending => break,
                // What is counted is told once more.
                Next::End => is_ending = true,
            }
            let now = Instant::now();
            throttle.report_suppressed((!is_ending).then_some(now));
            let lost = queue.health.lost_lines();
            if works && lost > reported && report_from <= now {
                (reported, report_from) = (lost, now + LOST_LINES_INTERVAL);
                tracing::warn!(
                    lost_since_start = lost,
                    "log lines were lost: standard error took them too slowly or not at all"
                );
            }
        }
        queue.lock().has_ended = true;
        queue.changed.notify_all();
    };
    thread::Builder::new().name("log".into()).spawn(write_all).map(drop)
}

/// Standard error, line by line.
struct LineOutput<Output> {
    output: Output,
    /// A write has failed in the middle of a line.
    is_in_line: bool,
}

impl<Output: Write> LineOutput<Output> {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_in_line {
            self.write_part(b"\n")?;
        }
        self.write_part(line)
    }

    fn write_part(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.output.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.is_in_line = bytes[written - 1] != b'\n';
                    bytes = &bytes[written..];
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Somebody who shares it has made it so.
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(FULL_PAUSE),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes, and then an error; then everything.
    struct Full {
        room: usize,
        taken: Vec<u8>,
    }

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room);
            if count == 0 {
                self.room = usize::MAX;
                return Err(ErrorKind::StorageFull.into());
            }
            self.room -= count;
            self.taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_was_cut_off_does_not_run_into_the_next() {
        let mut output = LineOutput { output: Full { room: 5, taken: Vec::new() }, is_in_line: false };
        assert!(output.write(b"one\n").is_ok());
        assert!(output.write(b"two\n").is_err());
        assert!(output.write(b"three\n").is_ok());
        assert!(output.write(b"four\n").is_ok());
        assert_eq!(String::from_utf8_lossy(&output.output.taken), "one\nt\nthree\nfour\n");
    }

    #[test]
    fn a_queue_that_nobody_empties_is_bounded_and_counts_what_it_loses() {
        let queue = Arc::new(LogQueue::default());
        let mut writer = queue.writer(str::to_owned);
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        (0..2 * MAX_QUEUED_LOG_BYTES / line.len()).for_each(|_| writer.write_all(&line).expect("it never fails"));
        assert_eq!(queue.lock().bytes, MAX_QUEUED_LOG_BYTES);
        assert_eq!(queue.health.lost_lines(), (MAX_QUEUED_LOG_BYTES / line.len()) as u64);
    }
}
