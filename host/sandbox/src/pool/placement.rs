//! An instance with what the server placed in it, and the slices that live there.

use crate::contract::declarations::Granularity;
use crate::contract::plan::Plan;
use crate::contract::settings::Settings;
use crate::contract::tensor::TensorDescription;
use crate::error::{NotInMemory, SandboxError};
use crate::instance::Instance;
use crate::instance::preparation::Preparation;
use crate::limits::{CHUNK_ELEMENTS, Limits};
use crate::slice::SliceId;
use crate::slice::layout::{ALIGNMENT, COLOUR_SLACK, Layout, Reservations, first_colour};

/// An instance and what the server placed in it.
pub(crate) struct Placement {
    pub(crate) instance: Instance,
    places: Reservations,
    pub(crate) placed_bytes: u64,
    /// The most that any tensor here makes the optimizer allocate while it steps.
    pub(crate) work_bytes: u64,
    scratch: Option<Scratch>,
    /// The slice of the last call where it has no seals since: it was alone here, and nobody else was called that could
    /// have changed it. It is sealed before anybody is.
    pub(crate) open: Option<SliceId>,
    /// How many slices live here.
    pub(crate) slices: usize,
}

/// The room in an instance where gradients, and the numbers of the rows they belong to, are written block after block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scratch {
    /// Byte offset of the gradient.
    pub(crate) gradient: u32,
    /// Elements of gradient.
    pub(crate) elements: u32,
    /// Byte offset of the row numbers.
    pub(crate) rows: u32,
    /// How many row numbers there is room for.
    pub(crate) row_count: u32,
}

/// How much scratch a slice needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ScratchRequest {
    elements: u32,
    rows: u32,
}

impl ScratchRequest {
    /// A block, or less where slices are small; the whole of a tensor that is visited whole; at least a row. `None`
    /// where a 32-bit memory cannot hold it.
    pub(crate) fn of(plan: &Plan, slice_elements: u32, block_elements: u32) -> Option<Self> {
        let whole = slice_elements.checked_next_multiple_of(CHUNK_ELEMENTS)?;
        Some(match plan.granularity {
            Granularity::Elements => Self { elements: whole.min(block_elements), rows: 0 },
            Granularity::Tensor => Self { elements: whole, rows: 0 },
            Granularity::TouchedRows => {
                let columns = u32::try_from(plan.geometry.columns).ok()?.max(1);
                let elements = whole.min(block_elements).max(columns);
                Self { elements, rows: elements / columns }
            }
        })
    }

    /// As much as both.
    fn joined(self, scratch: Option<Scratch>) -> Self {
        let there = scratch.map_or(Self { elements: 0, rows: 0 }, |scratch| Self {
            elements: scratch.elements,
            rows: scratch.row_count,
        });
        Self { elements: self.elements.max(there.elements), rows: self.rows.max(there.rows) }
    }

    /// Bytes that hold it. `None` where a 32-bit memory cannot.
    pub(crate) fn bytes(&self) -> Option<u32> {
        let bytes = self.rows_at() + u64::from(self.rows) * size_of::<u32>() as u64;
        u32::try_from(bytes.next_multiple_of(ALIGNMENT) + COLOUR_SLACK).ok()
    }

    fn rows_at(&self) -> u64 {
        (u64::from(self.elements) * size_of::<f32>() as u64).next_multiple_of(ALIGNMENT)
    }
}

/// What to place in an instance.
pub(crate) struct SliceRequest<'a> {
    pub(crate) tensor: &'a TensorDescription,
    pub(crate) settings: &'a Settings,
    pub(crate) plan: &'a Plan,
    pub(crate) start: u64,
    /// From offset 0 on.
    pub(crate) layout: Layout,
    pub(crate) scratch: ScratchRequest,
}

impl SliceRequest<'_> {
    /// The most that placing it takes, if new scratch is needed.
    pub(crate) fn most_bytes(&self) -> u64 {
        u64::from(self.layout.bytes) + u64::from(self.scratch.bytes().unwrap_or(u32::MAX))
    }
}

impl Placement {
    pub(crate) fn new(instance: Instance) -> Self {
        Self {
            instance,
            places: Reservations::default(),
            placed_bytes: 0,
            work_bytes: 0,
            scratch: None,
            open: None,
            slices: 0,
        }
    }

    /// What the instance would hold with this slice in it, besides its own overhead.
    pub(crate) fn bytes_with(&self, request: &SliceRequest<'_>) -> u64 {
        let work = self.work_bytes.max(request.plan.work_bytes);
        let scratch = u64::from(request.scratch.joined(self.scratch).bytes().unwrap_or(u32::MAX));
        self.placed_bytes.saturating_add(u64::from(request.layout.bytes)).saturating_add(scratch).saturating_add(work)
    }

    /// Reserves room for a slice (and scratch, if what there is is too small) and binds it.
    pub(crate) fn place(
        &mut self,
        limits: &Limits,
        request: SliceRequest<'_>,
        preparation: &Preparation,
    ) -> Result<(u32, Layout), SandboxError> {
        self.work_bytes = self.work_bytes.max(request.plan.work_bytes);
        // Never less than before: the slices that are here need that.
        let wanted = request.scratch.joined(self.scratch);
        let fits = |scratch: Scratch| scratch.elements == wanted.elements && scratch.row_count == wanted.rows;
        if !self.scratch.is_some_and(fits) {
            let offset = self.reserve(limits, wanted.bytes().ok_or(NotInMemory)?, preparation)?;
            let offset = first_colour(offset).ok_or(NotInMemory)?;
            self.scratch = Some(Scratch {
                gradient: offset,
                elements: wanted.elements,
                rows: offset + wanted.rows_at() as u32,
                row_count: wanted.rows,
            });
        }
        let base = self.reserve(limits, request.layout.bytes, preparation)?;
        let layout = request.layout.at(base);
        let slice = layout.raw(request.tensor.raw(), request.start);
        let handle = self.instance.bind(&slice, request.settings.values(), preparation)?;
        self.slices += 1;
        Ok((handle, layout))
    }

    /// Where gradients are written. There is room once a slice is placed.
    pub(crate) fn scratch(&self) -> Result<Scratch, NotInMemory> {
        self.scratch.ok_or(NotInMemory)
    }

    fn reserve(&mut self, limits: &Limits, bytes: u32, preparation: &Preparation) -> Result<u32, SandboxError> {
        let allowed =
            (self.placed_bytes + u64::from(bytes) + limits.guest_overhead_bytes).saturating_add(self.work_bytes);
        let offset = self.instance.reserve(bytes, allowed.min(limits.instance_memory_bytes), preparation)?;
        self.places.claim(offset, bytes, self.instance.memory().len())?;
        self.placed_bytes += u64::from(bytes);
        Ok(offset)
    }
}
