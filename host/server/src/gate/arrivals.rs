//! Connections whose peer is not known yet. All that is known of it is its address, so that is what is counted; and
//! because somebody else may have the same or any number of them, all addresses together are, too.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::Notify;

use super::rate::Rate;
use super::remembered::Remembered;
use crate::limits::Limits;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Where a connection comes from: an IPv4 address, or the network of 64 bits of an IPv6 address, within which its owner
/// has as many as he likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Source(IpAddr);

impl Source {
    fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
            address => address,
        })
    }
}

/// All connections whose handshake is not done, and what is remembered of where they came from.
#[derive(Debug)]
pub(crate) struct Arrivals {
    half_open: usize,
    half_open_per_address: usize,
    handshakes_per_second_per_address: u32,
    failures_per_minute: u32,
    shut_out: Duration,
    handshakes: Rate,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    sources: Remembered<Source, Arc<Known>>,
    /// The handshakes under way, oldest first.
    half_open: HashMap<Source, VecDeque<(u64, Arc<Notify>)>>,
    count: usize,
    next: u64,
}

/// What is remembered of a source.
#[derive(Debug)]
struct Known {
    handshakes: Rate,
    failures: Rate,
    shut_out_until: Mutex<Option<Instant>>,
}

/// Why a connection is closed before a byte of it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum NoEntry {
    /// It had too many failures.
    #[error(
        "too many failed handshakes from there (limits.failures_per_minute_per_address); shut out for {} s more",
        left.as_secs() + 1
    )]
    ShutOut {
        /// For how long it still is.
        left: Duration,
    },
    /// It has too many.
    #[error("too many unfinished handshakes from there (limits.half_open_per_address)")]
    OfAddress,
    /// All have too many, and none more than this.
    #[error("too many unfinished handshakes (limits.half_open)")]
    OfAll,
}

/// What a failure leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failed {
    /// Nothing yet.
    Noted,
    /// From now on and for so long nobody is let in from there.
    ShutOut(Duration),
    /// That is so already: of what had begun before, another one has failed.
    Again,
}

/// A connection from its acceptance on.
#[derive(Debug)]
pub(crate) struct Arrival {
    arrivals: Arc<Arrivals>,
    known: Arc<Known>,
    displaced: Arc<Notify>,
    /// While its handshake is not done.
    place: Option<(Source, u64)>,
}

impl Arrivals {
    pub(crate) fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            half_open: limits.half_open,
            half_open_per_address: limits.half_open_per_address,
            handshakes_per_second_per_address: limits.handshakes_per_second_per_address,
            failures_per_minute: limits.failures_per_minute_per_address,
            shut_out: limits.shut_out_seconds.duration(),
            handshakes: Rate::new(limits.handshakes_per_second.into(), SECOND, now),
            state: Mutex::new(State { sources: Remembered::new(), half_open: HashMap::new(), count: 0, next: 0 }),
        }
    }

    /// Lets a connection in, or not. Nothing of it has been read.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr, now: Instant) -> Result<Arrival, NoEntry> {
        let source = Source::of(address);
        let mut state = self.state.lock();
        let known = Arc::clone(state.sources.of(source, now, || {
            Arc::new(Known {
                handshakes: Rate::new(self.handshakes_per_second_per_address.into(), SECOND, now),
                failures: Rate::new(self.failures_per_minute.into(), MINUTE, now),
                shut_out_until: Mutex::new(None),
            })
        }));
        if let Some(left) = known.shut_out(now) {
            return Err(NoEntry::ShutOut { left });
        }
        let own = state.half_open.get(&source).map_or(0, VecDeque::len);
        if own >= self.half_open_per_address {
            return Err(NoEntry::OfAddress);
        }
        if state.count >= self.half_open && !state.displace_one_of_more_than(own + 1) {
            return Err(NoEntry::OfAll);
        }
        let displaced = Arc::new(Notify::new());
        state.next += 1;
        state.count += 1;
        let number = state.next;
        state.half_open.entry(source).or_default().push_back((number, Arc::clone(&displaced)));
        Ok(Arrival { arrivals: Arc::clone(self), known, displaced, place: Some((source, number)) })
    }

    fn leave(&self, source: Source, number: u64) {
        let mut state = self.state.lock();
        let Some(own) = state.half_open.get_mut(&source) else { return };
        // It may have been displaced.
        let Some(position) = own.iter().position(|(other, _)| *other == number) else { return };
        own.remove(position);
        if own.is_empty() {
            state.half_open.remove(&source);
        }
        state.count -= 1;
    }
}

impl State {
    /// The oldest handshake of the source that has most gives way, where those are more than `own`.
    fn displace_one_of_more_than(&mut self, own: usize) -> bool {
        let most = self.half_open.values_mut().max_by_key(|handshakes| handshakes.len());
        let Some(most) = most.filter(|most| most.len() > own) else { return false };
        if let Some((_, displaced)) = most.pop_front() {
            displaced.notify_one();
            self.count -= 1;
        }
        true
    }
}

impl Known {
    fn shut_out(&self, now: Instant) -> Option<Duration> {
        let until = *self.shut_out_until.lock();
        until.map(|until| until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }
}

impl Arrival {
    /// Waits until its handshake may begin.
    pub(crate) async fn turn(&self) {
        self.known.handshakes.wait_for(1).await;
        self.arrivals.handshakes.wait_for(1).await;
    }

    /// Ends when it has to give way.
    pub(crate) async fn displaced(&self) {
        self.displaced.notified().await;
    }

    /// Its handshake is done: somebody else may begin one.
    pub(crate) fn is_known(&mut self) {
        if let Some((source, number)) = self.place.take() {
            self.arrivals.leave(source, number);
        }
    }

    /// It failed by its peer's fault.
    pub(crate) fn failed(&self, now: Instant) -> Failed {
        if self.known.failures.take(now).is_ok() {
            return Failed::Noted;
        }
        let mut until = self.known.shut_out_until.lock();
        let begins = until.is_none_or(|until| until <= now);
        *until = Some(now + self.arrivals.shut_out);
        if begins { Failed::ShutOut(self.arrivals.shut_out) } else { Failed::Again }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.is_known();
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn arrivals(now: Instant, half_open: usize, per_address: usize) -> Arc<Arrivals> {
        let limits = Limits {
            half_open,
            half_open_per_address: per_address,
            failures_per_minute_per_address: 3,
            ..Limits::default()
        };
        Arc::new(Arrivals::new(&limits, now))
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn is_displaced(arrival: &Arrival) -> bool {
        pin!(arrival.displaced()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn an_address_has_its_share_and_ended_ones_make_room() {
        let now = Instant::now();
        let arrivals = arrivals(now, 10, 2);
        let mut first = arrivals.enter(address(1), now).unwrap();
        let second = arrivals.enter(address(1), now).unwrap();
        assert_eq!(arrivals.enter(address(1), now).unwrap_err(), NoEntry::OfAddress);
        let other = arrivals.enter(address(2), now).unwrap();
        first.is_known();
        let third = arrivals.enter(address(1), now).unwrap();
        drop((first, second, third, other));
        let state = arrivals.state.lock();
        assert_eq!((state.count, state.half_open.len()), (0, 0), "nothing is left of them");
    }

    #[test]
    fn whoever_has_most_gives_way_to_who_has_few() {
        let now = Instant::now();
        let arrivals = arrivals(now, 4, 4);
        let many: Vec<_> = (0..3).map(|_| arrivals.enter(address(1), now).unwrap()).collect();
        let _one = arrivals.enter(address(2), now).unwrap();
        assert_eq!(arrivals.enter(address(1), now).unwrap_err(), NoEntry::OfAll);
        let _newcomer = arrivals.enter(address(3), now).unwrap();
        assert!(is_displaced(&many[0]) && !is_displaced(&many[1]));
        // Two, one and one: nobody has so much more that another should go.
        assert_eq!(arrivals.enter(address(2), now).unwrap_err(), NoEntry::OfAll);
        let _fourth = arrivals.enter(address(4), now).unwrap();
        assert_eq!(arrivals.enter(address(5), now).unwrap_err(), NoEntry::OfAll, "all have the same");
        drop(many);
        assert_eq!(arrivals.state.lock().count, 3);
    }

    #[test]
    fn failures_shut_an_address_out_for_a_while_and_no_other() {
        let now = Instant::now();
        let arrivals = arrivals(now, 10, 10);
        let arrival = arrivals.enter(address(1), now).unwrap();
        assert!((0..3).all(|_| arrival.failed(now) == Failed::Noted));
        assert_eq!(arrival.failed(now), Failed::ShutOut(MINUTE));
        assert_eq!(arrival.failed(now), Failed::Again);
        let left = |now| arrivals.enter(address(1), now).map(drop);
        assert_eq!(left(now), Err(NoEntry::ShutOut { left: MINUTE }));
        assert!(arrivals.enter(address(2), now).is_ok());
        assert!(left(now + MINUTE).is_ok());
    }

    #[test]
    fn addresses_of_one_customer_count_as_one() {
        let source = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff::9"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
    }

    #[test]
    fn however_many_addresses_come_what_is_kept_of_them_is_bounded() {
        let now = Instant::now();
        let arrivals = arrivals(now, 10, 10);
        for number in 0..20_000_u32 {
            drop(arrivals.enter(IpAddr::from(number.to_be_bytes()), now));
        }
        let mut state = arrivals.state.lock();
        assert_eq!(state.sources.len(), super::super::remembered::MAX_REMEMBERED);
        assert_eq!(state.half_open.len(), 0);
        state.sources.forget(now + 10 * MINUTE);
        assert_eq!(state.sources.len(), 0);
    }
}
