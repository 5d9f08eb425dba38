//! Memory and tables: how much an instance may have, and all instances together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wasmtime::ResourceLimiter;

use crate::error::{CallFailure, LimitReached};
use crate::limits::{CORE_INSTANCES, TABLES};

/// Linear memory that all instances of a sandbox share.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    limit: u64,
    used: AtomicU64,
}

impl MemoryBudget {
    pub(crate) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicU64::new(0) })
    }

    fn take(&self, bytes: u64) -> Result<(), CallFailure> {
        self.used
            .try_update(Ordering::AcqRel, Ordering::Acquire, |used| {
                used.checked_add(bytes).filter(|used| *used <= self.limit)
            })
            .map(|_| ())
            .map_err(|_| CallFailure::TotalMemory { asked: bytes, limit: self.limit })
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
    }
}

/// Limits one instance: the sum over its memories, the sum over its tables.
#[derive(Debug)]
pub(crate) struct AggregateLimiter {
    budget: Arc<MemoryBudget>,
    memory_allowed: u64,
    memory: u64,
    table_elements_allowed: u64,
    table_elements: u64,
}

impl AggregateLimiter {
    pub(crate) fn new(budget: Arc<MemoryBudget>, memory_allowed: u64, table_elements_allowed: u64) -> Self {
        Self { budget, memory_allowed, memory: 0, table_elements_allowed, table_elements: 0 }
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
        self.budget.take(growth).map_err(LimitReached)?;
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

impl Drop for AggregateLimiter {
    fn drop(&mut self) {
        self.budget.give_back(self.memory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_shared_and_given_back() {
        let budget = MemoryBudget::new(100);
        let mut first = AggregateLimiter::new(Arc::clone(&budget), 80, 1);
        let mut second = AggregateLimiter::new(Arc::clone(&budget), 80, 1);
        assert!(first.memory_growing(0, 60, None).is_ok());
        let error = second.memory_growing(0, 60, None).unwrap_err();
        let LimitReached(failure) = error.downcast_ref::<LimitReached>().unwrap();
        assert_eq!(*failure, CallFailure::TotalMemory { asked: 60, limit: 100 });
        drop(first);
        assert!(second.memory_growing(0, 60, None).is_ok());
    }

    #[test]
    fn growth_adds_up_over_several_memories_and_tables() {
        let mut limiter = AggregateLimiter::new(MemoryBudget::new(1000), 100, 10);
        assert!(limiter.memory_growing(0, 60, None).is_ok());
        assert!(limiter.memory_growing(0, 60, None).is_err());
        assert!(limiter.table_growing(0, 6, None).is_ok());
        assert!(limiter.table_growing(0, 6, None).is_err());
    }
}
