//! Bytes of bodies under way.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// What bytes are counted in, so that a semaphore's permits suffice for every machine's memory; smaller bodies count
/// nothing.
const UNIT_BYTES: u64 = 4096;

/// Bytes that may be under way at once.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    units: Arc<Semaphore>,
    all: u32,
}

/// Bytes that are under way, until this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Held {
    _permits: [Option<OwnedSemaphorePermit>; 2],
}

/// Which way a body goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Receiving,
    Sending,
}

/// For bodies both ways, of an identity or of a job.
#[derive(Debug)]
pub(crate) struct Rooms {
    receiving: Room,
    sending: Room,
}

impl Rooms {
    pub(crate) fn new(receiving_bytes: u64, sending_bytes: u64) -> Self {
        Self { receiving: Room::new(receiving_bytes), sending: Room::new(sending_bytes) }
    }

    pub(crate) fn of(&self, direction: Direction) -> &Room {
        match direction {
            Direction::Receiving => &self.receiving,
            Direction::Sending => &self.sending,
        }
    }
}

impl Room {
    pub(crate) fn new(bytes: u64) -> Self {
        let all = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).max(1);
        // Below a semaphore's bound on any machine with 64 bits.
        Self { units: Arc::new(Semaphore::new((all as usize).min(Semaphore::MAX_PERMITS))), all }
    }

    /// Waits for room in both, the first one's first: who has taken much of its own waits without keeping from others
    /// what is theirs. What is larger than either has all of it. `None` where there was none in time.
    pub(crate) async fn hold(own: &Self, common: &Self, bytes: u64, at_most: Duration) -> Option<Held> {
        if bytes < UNIT_BYTES {
            return Some(Held::default());
        }
        if let (Some(first), Some(second)) = (own.try_take(bytes), common.try_take(bytes)) {
            return Some(Held { _permits: [Some(first), Some(second)] });
        }
        let both = async { Some(Held { _permits: [Some(own.take(bytes).await?), Some(common.take(bytes).await?)] }) };
        timeout(at_most, both).await.ok()?
    }

    fn units(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.all)
    }

    fn try_take(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.units).try_acquire_many_owned(self.units(bytes)).ok()
    }

    async fn take(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        Arc::clone(&self.units).acquire_many_owned(self.units(bytes)).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(1);
    const HANGS: Duration = Duration::from_secs(120);

    #[tokio::test]
    async fn each_has_its_own_and_all_have_the_common_room() {
        let (first, second, common) = (Room::new(2 << 20), Room::new(2 << 20), Room::new(3 << 20));
        let held = Room::hold(&first, &common, 2 << 20, SOON).await.expect("there is room");
        assert!(Room::hold(&first, &common, 1 << 20, SOON).await.is_none(), "it has all of its own");
        assert!(Room::hold(&second, &common, 2 << 20, SOON).await.is_none(), "not so much is left for all");
        let other = Room::hold(&second, &common, 1 << 20, SOON).await.expect("a megabyte is left");
        assert!(Room::hold(&first, &common, 10, SOON).await.is_some(), "what is small is not counted");
        let waits = tokio::spawn(async move { Room::hold(&second, &common, 2 << 20, HANGS).await.is_some() });
        drop((held, other));
        assert!(waits.await.expect("no panic"));
    }

    #[tokio::test]
    async fn what_is_larger_than_the_room_has_it_alone() {
        let (own, common) = (Room::new(1 << 20), Room::new(1 << 20));
        let held = Room::hold(&own, &common, 1 << 40, SOON).await.expect("all of it");
        assert!(Room::hold(&own, &common, UNIT_BYTES, SOON).await.is_none());
        drop(held);
        assert!(Room::hold(&own, &common, UNIT_BYTES, SOON).await.is_some());
    }
}
