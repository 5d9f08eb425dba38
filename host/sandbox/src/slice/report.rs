//! What is said of a slice that was changed outside its own steps.

use crate::contract::declarations::Granularity;
use crate::error::{Found, TamperedPart, Tampering};
use crate::slice::BoundSlice;
use crate::slice::seals::BrokenSeal;

impl BoundSlice {
    /// What to say of a slice that is not as it was left.
    pub(crate) fn tampering(&self, optimizer: &str, broken: BrokenSeal, found: Found) -> Tampering {
        let unit = broken.unit as u64;
        let is_whole = self.parts().nth(broken.part).is_none_or(|part| part.unit.is_none());
        Tampering {
            optimizer: optimizer.to_owned(),
            key: self.tensor.name.clone(),
            slice_start: self.start,
            what: match broken.part.checked_sub(1) {
                None => "the parameters".into(),
                Some(slot) => format!("slot {}", self.plan.slots[slot].name),
            },
            place: match self.plan.granularity {
                _ if is_whole => TamperedPart::Shared,
                Granularity::TouchedRows => TamperedPart::Row(unit),
                Granularity::Elements | Granularity::Tensor => TamperedPart::Chunk(unit),
            },
            found,
        }
    }
}
