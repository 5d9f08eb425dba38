//! The state of the process's log, for the status.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use stepbox_wire::LogStatus;

/// After this long in one write, the log's reader counts as stuck. A reader that is only busy takes a line sooner.
const STUCK_AFTER: Duration = Duration::from_secs(1);

/// How the process's log for people is doing: kept by whoever writes it, shown in the status. A server does not write
/// its own log, since it is a library; see [`Server::logging_to`](crate::Server::logging_to).
#[derive(Debug, Default)]
pub struct LogHealth(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    lost_lines: u64,
    error: Option<String>,
    writing_since: Option<Instant>,
}

impl LogHealth {
    /// Counts a line that was not written.
    pub fn line_lost(&self) {
        self.0.lock().lost_lines += 1;
    }

    /// A write begins, which may block for as long as the reader likes.
    pub fn write_begins(&self, now: Instant) {
        self.0.lock().writing_since = Some(now);
    }

    /// The write has ended: with an error the line is lost.
    pub fn write_ended(&self, outcome: Result<(), String>) {
        let mut state = self.0.lock();
        state.writing_since = None;
        state.error = outcome.err();
        state.lost_lines += u64::from(state.error.is_some());
    }

    /// Lines that were not written, since the start.
    pub fn lost_lines(&self) -> u64 {
        self.0.lock().lost_lines
    }

    pub(crate) fn status(&self, now: Instant) -> LogStatus {
        let state = self.0.lock();
        let stuck = state.writing_since.map(|since| now.saturating_duration_since(since));
        let stuck = stuck.filter(|time| *time >= STUCK_AFTER);
        let failing = match stuck {
            Some(time) => Some(format!("its reader has taken nothing for {} s; make it read on", time.as_secs())),
            None => state.error.clone(),
        };
        LogStatus { lost_lines: state.lost_lines, failing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_readers_that_do_not_read_show_until_a_line_is_written() {
        let (health, now) = (LogHealth::default(), Instant::now());
        health.write_begins(now);
        assert_eq!(health.status(now), LogStatus { lost_lines: 0, failing: None });
        let failing = health.status(now + 3 * STUCK_AFTER).failing.expect("it is stuck");
        assert!(failing.contains("3 s"), "{failing}");
        health.line_lost();
        health.write_ended(Err("no space".into()));
        assert_eq!(health.status(now), LogStatus { lost_lines: 2, failing: Some("no space".into()) });
        health.write_begins(now);
        health.write_ended(Ok(()));
        assert_eq!(health.status(now), LogStatus { lost_lines: 2, failing: None });
    }
}
