//! Runs of memory that the server addresses by offset.
//!
//! The server writes parameters, slots and gradients into this memory while no call is running, and calls name them
//! by byte offset. Offsets are looked up in the list of reservations and become ordinary, bounds-checked slices: the
//! SDK needs no unsafe code, and a wrong offset is an error and no corruption.

use std::ops::Range;

/// Alignment of everything the server places, in bytes: a cache line, and the widest vector of any host.
pub(crate) const ALIGNMENT: usize = 64;

const ELEMENT: usize = size_of::<f32>();

/// One run of memory given to the server.
struct Reservation {
    storage: Vec<f32>,
    /// Elements before the first aligned one.
    skipped: usize,
    /// Byte offset of the first aligned element.
    offset: u32,
}

impl Reservation {
    fn values(&mut self) -> &mut [f32] {
        &mut self.storage[self.skipped..]
    }
}

/// All runs of memory given to the server.
#[derive(Default)]
pub(crate) struct Memory {
    reservations: Vec<Reservation>,
}

/// A run of `f32`s within a reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    reservation: usize,
    elements: Range<usize>,
}

impl Place {
    /// The part of it that starts at `start` and has `elements` elements; `None` where it is shorter.
    pub(crate) fn part(&self, start: usize, elements: usize) -> Option<Self> {
        let first = self.elements.start.checked_add(start)?;
        let end = first.checked_add(elements)?;
        (end <= self.elements.end).then_some(Self { reservation: self.reservation, elements: first..end })
    }
}

impl Memory {
    /// Room of `bytes` bytes, zeroed; its byte offset.
    pub(crate) fn reserve(&mut self, bytes: u32) -> Result<u32, String> {
        let elements = (bytes as usize).div_ceil(ELEMENT) + ALIGNMENT / ELEMENT;
        let mut storage = Vec::new();
        storage.try_reserve_exact(elements).map_err(|_| format!("no {bytes} bytes are left in this instance"))?;
        storage.resize(elements, 0.0);
        // The server writes through this address: exposing it tells the compiler that others may.
        let address = storage.as_mut_ptr().expose_provenance();
        let skipped = address.next_multiple_of(ALIGNMENT) - address;
        let skipped = skipped / ELEMENT;
        // Natively (in tests) an address can exceed 32 bits; its lower half serves as well.
        let offset = (address + skipped * ELEMENT) as u32;
        self.reservations.push(Reservation { storage, skipped, offset });
        Ok(offset)
    }

    /// The place of `elements` `f32`s at a byte offset.
    pub(crate) fn place(&self, offset: u32, elements: u32) -> Result<Place, String> {
        let bytes = u64::from(elements) * ELEMENT as u64;
        for (index, reservation) in self.reservations.iter().enumerate() {
            let length = ((reservation.storage.len() - reservation.skipped) * ELEMENT) as u64;
            let Some(relative) = offset.checked_sub(reservation.offset) else { continue };
            if u64::from(relative) + bytes <= length {
                if !(relative as usize).is_multiple_of(ALIGNMENT) {
                    return Err(format!("offset {offset} is not aligned to {ALIGNMENT} bytes"));
                }
                let start = relative as usize / ELEMENT;
                return Ok(Place { reservation: index, elements: start..start + elements as usize });
            }
        }
        Err(format!("no reservation holds {elements} elements at offset {offset}"))
    }

    /// The slices of a block: its slots and parameters, which share a reservation, and its gradient in another.
    pub(crate) fn block(
        &mut self,
        parameters: &Place,
        slots: &[Place],
        gradient: &Place,
        run: impl FnOnce(&mut [f32], &[f32], &mut [&mut [f32]]),
    ) -> Result<(), String> {
        let [state, scratch] = self
            .reservations
            .get_disjoint_mut([parameters.reservation, gradient.reservation])
            .map_err(|_| "the gradient lies in a reservation that holds a slice")?;
        let gradient = &scratch.values()[gradient.elements.clone()];

        // Cut the reservation from front to back; each run remembers which one it is.
        const PARAMETERS: usize = usize::MAX;
        let mut runs: Vec<(Range<usize>, usize)> = Vec::with_capacity(slots.len() + 1);
        runs.push((parameters.elements.clone(), PARAMETERS));
        for (index, slot) in slots.iter().enumerate() {
            if slot.reservation != parameters.reservation {
                return Err("a slot lies in another reservation than its parameters".into());
            }
            runs.push((slot.elements.clone(), index));
        }
        runs.sort_by_key(|(elements, _)| elements.start);

        let mut rest = state.values();
        let mut consumed = 0;
        let mut parameter_run = Default::default();
        let mut slot_runs: Vec<&mut [f32]> = slots.iter().map(|_| Default::default()).collect();
        for (elements, which) in runs {
            let gap = elements.start.checked_sub(consumed).ok_or("views overlap")?;
            let (head, tail) = rest.split_at_mut(gap + elements.len());
            rest = tail;
            consumed = elements.end;
            let head = &mut head[gap..];
            match which {
                PARAMETERS => parameter_run = head,
                slot => slot_runs[slot] = head,
            }
        }
        run(parameter_run, gradient, &mut slot_runs);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_reservations() -> (Memory, u32, u32) {
        let mut memory = Memory::default();
        let state = memory.reserve(4096).unwrap();
        let scratch = memory.reserve(1024).unwrap();
        (memory, state, scratch)
    }

    #[test]
    fn reservations_are_aligned() {
        let (_, state, scratch) = two_reservations();
        assert_eq!((state % 64, scratch % 64), (0, 0));
    }

    #[test]
    fn a_blocks_slices_are_the_places_asked_for() {
        let (mut memory, state, scratch) = two_reservations();
        let parameters = memory.place(state + 256, 16).unwrap();
        let slot = memory.place(state, 16).unwrap();
        let gradient = memory.place(scratch, 16).unwrap();
        memory
            .block(&parameters, std::slice::from_ref(&slot), &gradient, |parameters, gradient, slots| {
                assert_eq!(gradient.len(), 16);
                parameters.fill(1.0);
                slots[0].fill(2.0);
            })
            .unwrap();
        let values = memory.reservations[0].values();
        assert_eq!(values[0..16], [2.0; 16]);
        assert_eq!(values[64..80], [1.0; 16]);
        assert_eq!(values[16..64], [0.0; 48]);
    }

    #[test]
    fn a_part_of_a_place_does_not_leave_it() {
        let (memory, state, _) = two_reservations();
        let place = memory.place(state, 32).unwrap();
        assert_eq!(place.part(16, 16), memory.place(state + 64, 16).ok());
        assert_eq!(place.part(16, 17), None);
        assert_eq!(place.part(usize::MAX, 1), None);
    }

    #[test]
    fn offsets_outside_misaligned_or_overlapping_are_errors() {
        let (mut memory, state, scratch) = two_reservations();
        assert!(memory.place(state + 4, 4).is_err());
        assert!(memory.place(state, 1 << 20).is_err());
        let parameters = memory.place(state, 32).unwrap();
        let overlapping = memory.place(state + 64, 32).unwrap();
        let gradient = memory.place(scratch, 32).unwrap();
        let never = |_: &mut [f32], _: &[f32], _: &mut [&mut [f32]]| panic!("must not run");
        assert!(memory.block(&parameters, &[overlapping], &gradient, never).is_err());
        let other = memory.place(state + 1024, 32).unwrap();
        assert!(memory.block(&parameters, &[], &other, never).is_err());
        assert!(memory.block(&parameters, std::slice::from_ref(&gradient), &gradient, never).is_err());
    }
}
