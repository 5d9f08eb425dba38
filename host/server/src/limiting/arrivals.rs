//! Connections whose peer is not known yet. All that is known of it is its address, so that is what is counted; and
//! because somebody else may have the same or any number of them, all addresses together are, too.
//!
//! When all places are taken, a newcomer takes the place of whoever has most, compared by networks and then within them:
//! see [`source`](super::source). Strangers do not take the places of sources from which somebody was authenticated
//! lately, and such a source takes one of any stranger: however many networks a flood comes from, workers get back in.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::Notify;

use super::rate::Rate;
use super::remembered::{AUTHENTICATED, Remembered};
use super::source::{self, Source};
use crate::config::Limits;

/// All connections whose handshake is not done, and what is remembered of where they came from.
#[derive(Debug)]
pub(crate) struct Arrivals {
    half_open: usize,
    half_open_per_address: usize,
    handshakes_per_second_per_address: u32,
    failures_per_minute: u32,
    shut_out: Duration,
    handshakes: Rate,
    turned_away: Rate,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    sources: Remembered<Source, Arc<Known>>,
    /// Sources from which somebody has shown a good certificate. Apart, so that no flood from other sources makes the server
    /// forget them.
    authenticated: Remembered<Source, ()>,
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
    /// All have too many, and none, nor any network, more than this.
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
    source: Source,
    /// Its number, while its handshake is not done.
    place: Option<u64>,
    /// Whether its peer has shown a good certificate.
    is_authenticated: bool,
}

impl Arrivals {
    pub(crate) fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            half_open: limits.half_open,
            half_open_per_address: limits.half_open_per_address,
            handshakes_per_second_per_address: limits.handshakes_per_second_per_address,
            failures_per_minute: limits.failures_per_minute_per_address,
            shut_out: limits.shut_out_seconds.duration(),
            handshakes: Rate::a_second(limits.handshakes_per_second.into(), now),
            turned_away: Rate::a_second(limits.turned_away_per_second.into(), now),
            state: Mutex::new(State {
                sources: Remembered::new(),
                authenticated: Remembered::for_time(AUTHENTICATED),
                half_open: HashMap::new(),
                count: 0,
                next: 0,
            }),
        }
    }

    /// Lets a connection in, or not. Nothing of it has been read.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr, now: Instant) -> Result<Arrival, NoEntry> {
        let source = Source::of(address);
        let mut state = self.state.lock();
        let known = Arc::clone(state.sources.of(source, now, || {
            Arc::new(Known {
                handshakes: Rate::a_second(self.handshakes_per_second_per_address.into(), now),
                failures: Rate::a_minute(self.failures_per_minute.into(), now),
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
        if state.count >= self.half_open && !state.make_room_for(source, now) {
            return Err(NoEntry::OfAll);
        }
        let displaced = Arc::new(Notify::new());
        state.next += 1;
        state.count += 1;
        let number = state.next;
        state.half_open.entry(source).or_default().push_back((number, Arc::clone(&displaced)));
        let arrivals = Arc::clone(self);
        Ok(Arrival { arrivals, known, displaced, source, place: Some(number), is_authenticated: false })
    }

    /// Counts a connection that was closed at once. Returns for how long none should be accepted.
    pub(crate) fn turned_away(&self, now: Instant) -> Duration {
        self.turned_away.charge(1, now);
        self.turned_away.left(now)
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
    /// Has the oldest handshake of another source give way to one of this source. Returns whether one did.
    fn make_room_for(&mut self, source: Source, now: Instant) -> bool {
        let all = self.half_open.iter().map(|(other, handshakes)| (*other, handshakes.len()));
        let all: Vec<(Source, usize)> = all.filter(|(_, handshakes)| *handshakes > 0).collect();
        let is_stranger = |(other, _): &&(Source, usize)| !self.authenticated.knows(other, now);
        let strangers: Vec<_> = all.iter().filter(is_stranger).copied().collect();
        let heaviest = if self.authenticated.knows(&source, now) {
            source::heaviest(&strangers).or_else(|| source::heavier_than(source, &all))
        } else {
            source::heavier_than(source, &strangers)
        };
        let displaced = heaviest.and_then(|heaviest| self.half_open.get_mut(&heaviest)?.pop_front());
        let Some((_, displaced)) = displaced else { return false };
        displaced.notify_one();
        self.count -= 1;
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
        if let Some(number) = self.place.take() {
            self.arrivals.leave(self.source, number);
        }
    }

    /// Its peer has shown a good certificate. The source is remembered for that, from now on and from the end of the
    /// connection on.
    pub(crate) fn is_authenticated(&mut self) {
        self.is_authenticated = true;
        self.remember();
    }

    fn remember(&self) {
        self.arrivals.state.lock().authenticated.keep(self.source, (), Instant::now());
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
        if self.is_authenticated {
            self.remember();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

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

    fn network(number: u16, subnet: u16) -> IpAddr {
        IpAddr::from([0x2001, 0xdb8, number, subnet, 0, 0, 0, 1])
    }

    #[test]
    fn who_has_a_network_of_many_addresses_does_not_lock_out_the_others() {
        let now = Instant::now();
        let arrivals = arrivals(now, 512, 128);
        // A /48 has 65,536 networks of 64 bits: one handshake from each, and no source has more than another.
        let flood: Vec<_> = (0..512).map(|subnet| arrivals.enter(network(7, subnet), now).unwrap()).collect();
        assert_eq!(arrivals.enter(network(7, 600), now).unwrap_err(), NoEntry::OfAll);
        let _newcomer = arrivals.enter(address(1), now).unwrap();
        let _another = arrivals.enter(network(8, 1), now).unwrap();
        assert_eq!(flood.iter().filter(|arrival| is_displaced(arrival)).count(), 2);
    }

    #[test]
    fn who_has_authenticated_lately_gets_in_however_many_networks_a_flood_has() {
        let now = Instant::now();
        let arrivals = arrivals(now, 512, 128);
        let mut worker = arrivals.enter(address(1), now).unwrap();
        worker.is_known();
        worker.is_authenticated();
        drop(worker);
        // No two of them have anything in common, and they are more than are remembered.
        let far = |number: u32| IpAddr::from([(number >> 8) as u8 + 1, number as u8, 0, 1]);
        for number in 0..8192 {
            drop(arrivals.enter(far(number), now));
        }
        let flood: Vec<_> = (0..512).map(|number| arrivals.enter(far(number), now).unwrap()).collect();
        assert_eq!(arrivals.enter(address(2), now).unwrap_err(), NoEntry::OfAll);
        let back = arrivals.enter(address(1), now).unwrap();
        assert_eq!(flood.iter().filter(|arrival| is_displaced(arrival)).count(), 1);
        // And no newcomer takes its place.
        let _others: Vec<_> = (0..512).map(|number| arrivals.enter(far(600 + number), now)).collect();
        assert!(!is_displaced(&back));
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
