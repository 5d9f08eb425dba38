//! What is said of a slice that was changed outside its own steps.

use crate::contract::declarations::Granularity;
use crate::error::{Found, TamperedPart, Tampering};
use crate::slice::BoundSlice;
use crate::slice::parts::state_parts;
use crate::slice::seals::BrokenSeal;

/// What to say of a slice that is not as it was left.
pub(crate) fn tampering(optimizer: &str, slice: &BoundSlice, broken: BrokenSeal, found: Found) -> Tampering {
    let unit = broken.unit as u64;
    let is_whole = state_parts(slice).nth(broken.part).is_none_or(|part| part.unit.is_none());
    Tampering {
        optimizer: optimizer.to_owned(),
        key: slice.tensor.name.clone(),
        slice_start: slice.start,
        what: match broken.part.checked_sub(1) {
            None => "the parameters".into(),
            Some(slot) => format!("slot {}", slice.plan.slots[slot].name),
        },
        place: match slice.plan.granularity {
            _ if is_whole => TamperedPart::Shared,
            Granularity::TouchedRows => TamperedPart::Row(unit),
            Granularity::Elements | Granularity::Tensor => TamperedPart::Chunk(unit),
        },
        found,
    }
}
