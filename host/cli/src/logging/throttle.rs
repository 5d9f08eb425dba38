//! Bounds how many lines of a kind are logged, since peers and optimizers can cause any number of some.
//!
//! A kind is a place in the code, with the action, code and identity that the line names: whoever causes many lines
//! keeps nobody else's out of the log. Lines that are suppressed are counted, and a line says how many there were. Lines
//! below `info` are not throttled: they are there only where an operator has asked for all of them (`RUST_LOG`).

use std::collections::HashMap;
use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines of a kind within [`LOG_WINDOW`]; further ones are counted. Enough for what a person reads, and for what starts.
const LOG_BURST: u64 = 32;

/// How long lines of a kind are counted for, from the first one on: with it a kind has 3 lines a second at most.
const LOG_WINDOW: Duration = Duration::from_secs(10);

/// Kinds that are told apart at a time; lines of further ones are counted together for each place in the code.
const MAX_LOG_KINDS: usize = 1024;

/// How much of a message names the lines that were suppressed.
const MAX_SUPPRESSED_MESSAGE_BYTES: usize = 128;

/// Counts lines by kind.
#[derive(Debug, Default)]
pub(super) struct LogThrottle(Mutex<HashMap<Kind, Window>>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Kind {
    place: Identifier,
    /// The fields that tell kinds apart, one after the other.
    caused_by: String,
}

#[derive(Debug)]
struct Window {
    ends: Instant,
    lines: u64,
    message: String,
}

/// Reads what a kind consists of.
#[derive(Default)]
struct KindVisitor {
    caused_by: String,
    message: String,
}

impl Visit for KindVisitor {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = match field.name() {
            "message" => &mut self.message,
            "identity" | "action" | "code" => &mut self.caused_by,
            _ => return,
        };
        // Writing to a string does not fail.
        let _ = writeln!(text, "{value:?}");
    }
}

impl LogThrottle {
    /// The layer that asks it.
    pub(super) fn layer<S: Subscriber>(self: Arc<Self>) -> impl Layer<S> {
        ThrottleLayer(self)
    }

    /// Whether a line may be logged.
    fn allows(&self, place: Identifier, visitor: KindVisitor, now: Instant) -> bool {
        let KindVisitor { caused_by, mut message } = visitor;
        let mut kinds = self.lock();
        let mut kind = Kind { place, caused_by };
        if kinds.len() >= MAX_LOG_KINDS && !kinds.contains_key(&kind) {
            kind.caused_by.clear();
        }
        let window = kinds.entry(kind).or_insert_with(|| {
            message.truncate(message.floor_char_boundary(MAX_SUPPRESSED_MESSAGE_BYTES));
            Window { ends: now + LOG_WINDOW, lines: 0, message: message.trim_end().to_owned() }
        });
        window.lines += 1;
        window.lines <= LOG_BURST
    }

    /// When the next window ends.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.lock().values().map(|window| window.ends).min()
    }

    /// Forgets the windows that are over by now, or all, and says how many lines were suppressed in them.
    pub(super) fn report_suppressed(&self, now: Option<Instant>) {
        for (message, suppressed) in self.take_suppressed(now) {
            tracing::warn!(suppressed, like = message, "lines of the log were suppressed: too many of one kind");
        }
    }

    fn take_suppressed(&self, now: Option<Instant>) -> Vec<(String, u64)> {
        let is_over = |window: &Window| now.is_none_or(|now| window.ends <= now);
        let ended = self.lock().extract_if(|_, window| is_over(window)).collect::<Vec<_>>();
        let suppressed = ended.into_iter().map(|(_, window)| (window.message, window.lines.saturating_sub(LOG_BURST)));
        suppressed.filter(|(_, count)| *count > 0).collect()
    }

    /// A thread that panics while it holds the lock leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, HashMap<Kind, Window>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct ThrottleLayer(Arc<LogThrottle>);

impl<S: Subscriber> Layer<S> for ThrottleLayer {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        // What the log says of itself is rare.
        if *metadata.level() > Level::INFO || metadata.target().starts_with(super::TARGET) {
            return true;
        }
        let mut visitor = KindVisitor::default();
        event.record(&mut visitor);
        self.0.allows(metadata.callsite(), visitor, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// Counts what is logged.
    #[derive(Clone, Default)]
    struct Counter(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Counter {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut visitor = KindVisitor::default();
            event.record(&mut visitor);
            self.0.lock().expect("no panic").push(visitor.message);
        }
    }

    #[test]
    fn a_flood_of_one_kind_is_counted_and_leaves_room_for_others() {
        let (throttle, logged) = (Arc::<LogThrottle>::default(), Counter::default());
        let subscriber = tracing_subscriber::registry().with(logged.clone()).with(Arc::clone(&throttle).layer());
        let count = || std::mem::take(&mut *logged.0.lock().expect("no panic")).len() as u64;
        let refuse = |identity: &str| tracing::warn!(target: "test", identity, "refused");
        tracing::subscriber::with_default(subscriber, || {
            (0..1000).for_each(|round| tracing::error!(target: "test", round, "a round has failed"));
            assert_eq!(count(), LOG_BURST);
            (0..1000).for_each(|_| refuse("mallory"));
            assert_eq!(count(), LOG_BURST);
            refuse("alice");
            assert_eq!(count(), 1);
        });
        assert_eq!(throttle.take_suppressed(Some(Instant::now())), []);
        let mut suppressed = throttle.take_suppressed(Some(Instant::now() + LOG_WINDOW));
        suppressed.sort();
        let expected = [("a round has failed", 1000 - LOG_BURST), ("refused", 1000 - LOG_BURST)];
        assert_eq!(suppressed, expected.map(|(message, count)| (message.to_owned(), count)));
        assert_eq!(throttle.next_end(), None, "nothing is remembered");
    }

    #[test]
    fn kinds_take_bounded_memory() {
        let throttle = Arc::<LogThrottle>::default();
        let subscriber = tracing_subscriber::registry().with(Arc::clone(&throttle).layer());
        tracing::subscriber::with_default(subscriber, || {
            (0..10 * MAX_LOG_KINDS)
                .for_each(|number| tracing::warn!(target: "test", identity = number, "{}", "x".repeat(10_000)));
        });
        assert_eq!(throttle.lock().len(), MAX_LOG_KINDS + 1);
        assert!(throttle.lock().values().all(|window| window.message.len() <= MAX_SUPPRESSED_MESSAGE_BYTES));
    }
}
