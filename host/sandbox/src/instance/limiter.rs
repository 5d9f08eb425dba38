//! Memory and tables: how much an instance may have, and all instances together.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wasmtime::ResourceLimiter;

use crate::error::CallFailure;
use crate::instance::failure::LimitReached;
use crate::limits::{CORE_INSTANCES, TABLES};

/// Linear memory that all instances of a sandbox share.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    limit: u64,
    used: AtomicU64,
    /// Held by whoever has an instance twice that counts once.
    overdraft: Mutex<()>,
}

impl MemoryBudget {
    pub(crate) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicU64::new(0), overdraft: Mutex::new(()) })
    }

    fn take(&self, bytes: u64) -> Result<(), CallFailure> {
        self.used
            .try_update(Ordering::AcqRel, Ordering::Acquire, |used| {
                used.checked_add(bytes).filter(|used| *used <= self.limit)
            })
            .map(|_| ())
            .map_err(|_| CallFailure::TotalMemory { asked: bytes, limit: self.limit })
    }

    /// One at a time may have a trapped instance and its successor for the price of one.
    pub(crate) fn overdraft(&self) -> MutexGuard<'_, ()> {
        // Nothing is behind the lock that a panic could have left half done.
        self.overdraft.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
    }
}

/// What some memory takes of the budget, for as long as the memory is there. An instance's is not its limiter's, which goes
/// with the store: the memory of an instance that trapped stays until another has taken over its contents, and both are
/// there while it does.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<MemoryBudget>,
    bytes: AtomicU64,
}

impl Charge {
    pub(crate) fn new(budget: Arc<MemoryBudget>) -> Arc<Self> {
        Arc::new(Self { budget, bytes: AtomicU64::new(0) })
    }

    /// For memory of the server's own.
    pub(crate) fn of(budget: &Arc<MemoryBudget>, bytes: u64) -> Result<Arc<Self>, CallFailure> {
        let charge = Self::new(Arc::clone(budget));
        charge.raise(bytes)?;
        Ok(charge)
    }

    /// Raises it to this much. An instance that follows another under the same charge pays only for what it has more.
    fn raise(&self, bytes: u64) -> Result<(), CallFailure> {
        let growth = bytes.saturating_sub(self.bytes.load(Ordering::Acquire));
        self.budget.take(growth)?;
        self.bytes.fetch_add(growth, Ordering::AcqRel);
        Ok(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.give_back(*self.bytes.get_mut());
    }
}

/// Limits one instance: the sum over its memories, the sum over its tables.
#[derive(Debug)]
pub(crate) struct AggregateLimiter {
    charge: Arc<Charge>,
    memory_allowed: u64,
    memory: u64,
    table_elements_allowed: u64,
    table_elements: u64,
}

impl AggregateLimiter {
    pub(crate) fn new(charge: Arc<Charge>, memory_allowed: u64, table_elements_allowed: u64) -> Self {
        Self { charge, memory_allowed, memory: 0, table_elements_allowed, table_elements: 0 }
    }

    /// From now on the instance may have this much linear memory.
    pub(crate) fn allow_memory(&mut self, bytes: u64) {
        self.memory_allowed = bytes;
    }
}

impl ResourceLimiter for AggregateLimiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let growth = desired.saturating_sub(current) as u64;
        let asked = self.memory.saturating_add(growth);
        if asked > self.memory_allowed {
            let failure = CallFailure::Memory { asked, allowed: self.memory_allowed };
            return Err(LimitReached(failure).into());
        }
        self.charge.raise(asked).map_err(LimitReached)?;
        self.memory = asked;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let asked = self.table_elements.saturating_add(desired.saturating_sub(current) as u64);
        if asked > self.table_elements_allowed {
            let failure = CallFailure::Table { asked, allowed: self.table_elements_allowed };
            return Err(LimitReached(failure).into());
        }
        self.table_elements = asked;
        Ok(true)
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES
    }

    fn tables(&self) -> usize {
        TABLES
    }

    /// Offsets of the contract mean *the* linear memory: there must be one.
    fn memories(&self) -> usize {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_shared_and_given_back_when_the_memory_goes() {
        let budget = MemoryBudget::new(100);
        let charge = Charge::new(Arc::clone(&budget));
        let mut first = AggregateLimiter::new(Arc::clone(&charge), 80, 1);
        let mut second = AggregateLimiter::new(Charge::new(Arc::clone(&budget)), 80, 1);
        assert!(first.memory_growing(0, 60, None).is_ok());
        let asks_in_vain = |limiter: &mut AggregateLimiter| {
            let error = limiter.memory_growing(0, 60, None).unwrap_err();
            let LimitReached(failure) = error.downcast_ref::<LimitReached>().unwrap();
            assert_eq!(*failure, CallFailure::TotalMemory { asked: 60, limit: 100 });
        };
        asks_in_vain(&mut second);
        // The first instance traps: its memory is still there.
        drop(first);
        asks_in_vain(&mut second);
        drop(charge);
        assert!(second.memory_growing(0, 60, None).is_ok());
    }

    #[test]
    fn the_servers_own_memory_is_of_the_same_budget() {
        let budget = MemoryBudget::new(100);
        let own = Charge::of(&budget, 41).unwrap();
        assert_eq!(Charge::of(&budget, 60).unwrap_err(), CallFailure::TotalMemory { asked: 60, limit: 100 });
        drop(own);
        assert!(Charge::of(&budget, 60).is_ok());
    }

    #[test]
    fn growth_adds_up_over_several_memories_and_tables() {
        let mut limiter = AggregateLimiter::new(Charge::new(MemoryBudget::new(1000)), 100, 10);
        assert!(limiter.memory_growing(0, 60, None).is_ok());
        assert!(limiter.memory_growing(0, 60, None).is_err());
        assert!(limiter.table_growing(0, 6, None).is_ok());
        assert!(limiter.table_growing(0, 6, None).is_err());
    }
}
