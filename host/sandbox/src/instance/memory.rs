//! Linear memories that the host allocates itself, so that it knows where they are.
//!
//! Components do not show their memory to the embedder. Stepbox keeps parameters and slots in it and writes gradients
//! into it, so it supplies the memory through wasmtime's `MemoryCreator` and keeps a handle on it. This is the only
//! module of the crate with unsafe code. What makes it sound:
//!
//! - A [`Mapping`] reserves address space once and never moves; only its accessible length grows. It lives as long as
//!   the longest-lived of the instance and the host's [`GuestMemory`].
//! - A mapping belongs to one instance. [`Guest`] holds its [`GuestMemory`] beside the `Store`; the store can only be
//!   used through `&mut Guest`, so no Rust reference into the memory exists while the guest runs. Host functions that
//!   the guest calls reach the memory through the store's data ([`CallMemory`]), which is borrowed by the same call.
//! - Every access is checked against the accessible length at that moment, never against what a guest said earlier.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ffi::c_void;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[cfg(target_os = "linux")]
use rustix::mm::{Advice, madvise};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use wasmtime::component::{Instance, InstancePre};
use wasmtime::{LinearMemory, MemoryCreator, MemoryType, Store};

use crate::error::NotInMemory;

/// Address space of one linear memory: `reserved` bytes of which the first `accessible` can be used, then guard pages.
struct Mapping {
    base: NonNull<u8>,
    reserved: usize,
    total: usize,
    accessible: AtomicUsize,
}

// SAFETY: a mapping is an address range, not tied to the thread that made it; who may touch the bytes when is the
// business of `GuestMemory` (by `&mut`) and of wasmtime's `Store`.
unsafe impl Send for Mapping {}
// SAFETY: through a shared reference only the atomic length and the address can be read.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(reserved: usize, guard: usize, accessible: usize) -> Result<Self, String> {
        let total = reserved.checked_add(guard).ok_or("the address space asked for overflows")?;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches no existing memory.
        let base = unsafe {
            mmap_anonymous(std::ptr::null_mut(), total, ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE)
        }
        .map_err(|error| format!("cannot reserve {total} bytes of address space: {error}"))?;
        let base = NonNull::new(base.cast()).ok_or("the kernel mapped memory at address 0")?;
        let mapping = Self { base, reserved, total, accessible: AtomicUsize::new(0) };
        mapping.ask_for_huge_pages();
        mapping.make_accessible(accessible)?;
        Ok(mapping)
    }

    fn make_accessible(&self, bytes: usize) -> Result<(), String> {
        if bytes > self.reserved {
            return Err(format!("{bytes} bytes exceed the {} reserved", self.reserved));
        }
        if bytes > 0 {
            // SAFETY: the range lies within this mapping, which nothing else owns. WebAssembly pages are multiples
            // of the system's, so no byte beyond `bytes` becomes accessible.
            unsafe { mprotect(self.base.as_ptr().cast::<c_void>(), bytes, MprotectFlags::READ | MprotectFlags::WRITE) }
                .map_err(|error| format!("cannot make {bytes} bytes accessible: {error}"))?;
        }
        self.accessible.store(bytes, Ordering::Release);
        Ok(())
    }

    /// Parameters and slots are streamed through: pages of 2 MiB spare most of the misses in the translation of addresses.
    /// A wish: a kernel that has none goes on without.
    fn ask_for_huge_pages(&self) {
        #[cfg(target_os = "linux")]
        {
            // SAFETY: advice on a range of this mapping, which changes none of its contents.
            let _ = unsafe { madvise(self.base.as_ptr().cast::<c_void>(), self.reserved, Advice::LinuxHugepage) };
        }
    }

    fn accessible(&self) -> usize {
        self.accessible.load(Ordering::Acquire)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `new` mapped; the last owner is gone, so no one refers into it.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast::<c_void>(), self.total) };
        debug_assert!(unmapped.is_ok(), "unmapping our own mapping failed: {unmapped:?}");
    }
}

thread_local! {
    /// Memories created on this thread for the instance that is being made: instantiation runs on the caller's thread.
    static CREATED: RefCell<Vec<Arc<Mapping>>> = const { RefCell::new(Vec::new()) };
}

/// Makes linear memories for wasmtime.
pub(crate) struct HostMemoryCreator;

// SAFETY: the memories are zero-filled (fresh anonymous mappings), have exactly the reservation and guard asked for,
// and never move.
unsafe impl MemoryCreator for HostMemoryCreator {
    fn new_memory(
        &self,
        ty: MemoryType,
        minimum: usize,
        _maximum: Option<usize>,
        reserved_size_in_bytes: Option<usize>,
        guard_size_in_bytes: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        if ty.is_shared() || ty.is_64() {
            return Err("shared and 64-bit memories are not offered".into());
        }
        let reserved = reserved_size_in_bytes.ok_or("memories without a fixed reservation are not offered")?;
        let mapping = Arc::new(Mapping::new(reserved, guard_size_in_bytes, minimum)?);
        CREATED.with_borrow_mut(|created| created.push(Arc::clone(&mapping)));
        Ok(Box::new(EngineMemory(mapping)))
    }
}

/// The engine's handle on a mapping.
struct EngineMemory(Arc<Mapping>);

// SAFETY: `as_ptr` is stable for the mapping's life, and `byte_size` bytes behind it are accessible.
unsafe impl LinearMemory for EngineMemory {
    fn byte_size(&self) -> usize {
        self.0.accessible()
    }

    fn byte_capacity(&self) -> usize {
        self.0.reserved
    }

    fn grow_to(&mut self, new_size: usize) -> wasmtime::Result<()> {
        self.0.make_accessible(new_size).map_err(wasmtime::Error::msg)
    }

    fn as_ptr(&self) -> *mut u8 {
        self.0.base.as_ptr()
    }
}

/// A store with one instance in it, and that instance's linear memory. The memory can be reached only while the store is
/// not in use, and it stays when the store is gone: what a trapped optimizer leaves behind can still be read.
pub(crate) struct Guest<T: 'static> {
    store: Option<Store<T>>,
    memory: GuestMemory,
}

impl<T> Guest<T> {
    /// Instantiates a component in a store of its own. `None` where it has no linear memory, or several.
    ///
    /// The memory is this store's: the thread's list is empty before, and nothing else is instantiated meanwhile.
    pub(crate) fn new(mut store: Store<T>, component: &InstancePre<T>) -> wasmtime::Result<Option<(Self, Instance)>> {
        CREATED.with_borrow_mut(Vec::clear);
        let instance = component.instantiate(&mut store);
        let mut created = CREATED.with_borrow_mut(std::mem::take);
        let instance = instance?;
        Ok(match (created.pop(), created.is_empty()) {
            (Some(mapping), true) => Some((Self { store: Some(store), memory: GuestMemory(mapping) }, instance)),
            _ => None,
        })
    }

    /// The store; `None` once it was evicted.
    pub(crate) fn store(&mut self) -> Option<&mut Store<T>> {
        self.store.as_mut()
    }

    /// Whether the store has not been evicted.
    pub(crate) fn has_store(&self) -> bool {
        self.store.is_some()
    }

    /// Drops the store and keeps the memory.
    pub(crate) fn drop_store(&mut self) {
        self.store = None;
    }

    /// The memory for host functions that the guest calls, to be kept in the store's data.
    pub(crate) fn call_memory(&self) -> CallMemory {
        CallMemory(GuestMemory(Arc::clone(&self.memory.0)))
    }

    pub(crate) fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    pub(crate) fn memory_mut(&mut self) -> &mut GuestMemory {
        &mut self.memory
    }
}

/// A second handle on an instance's memory, for the host functions that the guest calls.
///
/// It lives in the store's data and is taken out for the time of a host call: the guest stands still then, and since the
/// store is borrowed for the whole call into the guest, nobody holds a reference through [`Guest`].
pub(crate) struct CallMemory(GuestMemory);

impl CallMemory {
    /// The memory, during a host call.
    pub(crate) fn during_call(&mut self) -> &mut GuestMemory {
        &mut self.0
    }
}

/// The host's handle on an instance's linear memory.
pub(crate) struct GuestMemory(Arc<Mapping>);

impl GuestMemory {
    /// Bytes that are accessible now.
    pub(crate) fn len(&self) -> usize {
        self.0.accessible()
    }

    /// The bytes of a range, unless it leaves the memory.
    pub(crate) fn bytes(&self, range: Range<usize>) -> Result<&[u8], NotInMemory> {
        if range.start > range.end || range.end > self.len() {
            return Err(NotInMemory);
        }
        // SAFETY: in bounds and accessible by the check above; accessible memory never shrinks or moves. No guest
        // code runs while the reference lives (`Guest` lends out the one or the other), and writes need `&mut self`.
        Ok(unsafe { std::slice::from_raw_parts(self.0.base.as_ptr().add(range.start), range.len()) })
    }

    /// The bytes of a range, to be written, unless it leaves the memory.
    pub(crate) fn bytes_mut(&mut self, range: Range<usize>) -> Result<&mut [u8], NotInMemory> {
        if range.start > range.end || range.end > self.len() {
            return Err(NotInMemory);
        }
        // SAFETY: as in `bytes`, and `&mut self` excludes every other reference into this memory.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.0.base.as_ptr().add(range.start), range.len()) })
    }

    /// `elements` numbers at a byte offset, unless they leave the memory or the offset is not aligned for `f32`.
    pub(crate) fn floats(&self, offset: usize, elements: usize) -> Result<&[f32], NotInMemory> {
        let bytes = self.bytes(range_of_floats(offset, elements)?)?;
        // SAFETY: every bit pattern is an f32, and the whole run is taken only where its start is aligned.
        let (before, floats, _) = unsafe { bytes.align_to::<f32>() };
        before.is_empty().then_some(floats).ok_or(NotInMemory)
    }

    /// As [`floats`](Self::floats), to be written.
    pub(crate) fn floats_mut(&mut self, offset: usize, elements: usize) -> Result<&mut [f32], NotInMemory> {
        let bytes = self.bytes_mut(range_of_floats(offset, elements)?)?;
        // SAFETY: every bit pattern is an f32 and every f32 is bytes, and only an aligned start is taken.
        let (before, floats, _) = unsafe { bytes.align_to_mut::<f32>() };
        before.is_empty().then_some(floats).ok_or(NotInMemory)
    }
}

/// The bytes of so many `f32`s at an offset.
fn range_of_floats(offset: usize, elements: usize) -> Result<Range<usize>, NotInMemory> {
    let end = elements.checked_mul(size_of::<f32>()).and_then(|bytes| offset.checked_add(bytes));
    Ok(offset..end.ok_or(NotInMemory)?)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const PAGE: usize = 64 << 10;

    pub(crate) fn memory(accessible: usize) -> GuestMemory {
        GuestMemory(Arc::new(Mapping::new(16 * PAGE, PAGE, accessible).unwrap()))
    }

    #[test]
    fn memory_is_zero_and_grows_in_place() {
        let mut guest = memory(PAGE);
        let address = guest.bytes(0..1).unwrap().as_ptr();
        guest.bytes_mut(0..PAGE).unwrap().fill(7);
        guest.0.make_accessible(4 * PAGE).unwrap();
        assert_eq!(guest.bytes(0..1).unwrap().as_ptr(), address);
        assert_eq!(guest.bytes(PAGE - 1..PAGE + 2), Ok(&[7, 0, 0][..]));
        assert!(guest.0.make_accessible(17 * PAGE).is_err());
    }

    #[test]
    fn ranges_that_leave_the_memory_are_none() {
        let mut guest = memory(PAGE);
        assert!(guest.bytes(0..PAGE).is_ok());
        for range in [0..PAGE + 1, PAGE..PAGE + 1, usize::MAX - 1..usize::MAX] {
            assert!(guest.bytes(range.clone()).is_err(), "{range:?}");
            assert!(guest.bytes_mut(range).is_err());
        }
        #[expect(clippy::reversed_empty_ranges)]
        let reversed = 8..4;
        assert!(guest.bytes(reversed).is_err());
    }

    #[test]
    fn floats_must_fit_and_be_aligned() {
        let mut guest = memory(PAGE);
        assert_eq!(guest.floats(PAGE - 8, 2), Ok(&[0.0, 0.0][..]));
        assert!(guest.floats(PAGE - 8, 3).is_err());
        assert!(guest.floats(2, 1).is_err());
        assert!(guest.floats_mut(usize::MAX - 3, 1).is_err());
        assert!(guest.floats(0, usize::MAX).is_err());
        guest.floats_mut(64, 2).unwrap().copy_from_slice(&[1.0, -1.0]);
        assert_eq!(guest.bytes(64..68), Ok(&1.0_f32.to_le_bytes()[..]));
    }
}
