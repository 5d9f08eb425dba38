//! Memory of the component that the server addresses by offset.
//!
//! The server writes parameters, slots and gradients into this memory while no call is running, and passes their byte
//! offsets to calls. Offsets are looked up in the list of reservations and become ordinary, bounds-checked slices. The
//! SDK therefore needs no unsafe code, and a wrong offset results in an error instead of corruption.

use std::ops::Range;

/// Alignment in bytes of everything that the server places: a cache line, and the widest vector of any host.
pub(crate) const ALIGNMENT: usize = 64;

/// The unit in which memory is allocated: no slot's elements need a larger alignment.
type Word = u64;

const WORD: usize = size_of::<Word>();

/// One run of memory reserved for the server.
struct Reservation {
    storage: Vec<Word>,
    /// Number of words before the first aligned word.
    skipped: usize,
    /// Byte offset of the first aligned word.
    offset: u32,
}

impl Reservation {
    fn bytes(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.storage[self.skipped..])
    }

    fn length(&self) -> usize {
        (self.storage.len() - self.skipped) * WORD
    }
}

/// All memory reserved for the server.
#[derive(Default)]
pub(crate) struct Memory {
    reservations: Vec<Reservation>,
}

/// A range of bytes within a reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    reservation: usize,
    bytes: Range<usize>,
}

impl Place {
    /// The place of an empty view, in no reservation.
    pub(crate) const EMPTY: Self = Self { reservation: usize::MAX, bytes: 0..0 };
}

/// The bytes of several places.
pub(crate) type Views<'a> = Vec<&'a mut [u8]>;

impl Memory {
    /// Reserves `bytes` zeroed bytes and returns their byte offset. In WebAssembly one reservation is limited to 2 GiB:
    /// Rust has no larger slices.
    pub(crate) fn reserve(&mut self, bytes: u32) -> Result<u32, String> {
        let words = (bytes as usize).div_ceil(WORD) + ALIGNMENT / WORD;
        let mut storage = Vec::new();
        storage.try_reserve_exact(words).map_err(|_| format!("no {bytes} bytes are left in this instance"))?;
        storage.resize(words, 0);
        // The server writes through this address; exposing it tells the compiler so.
        let address = storage.as_mut_ptr().expose_provenance();
        let skipped = (address.next_multiple_of(ALIGNMENT) - address) / WORD;
        // Native addresses (in tests) can exceed 32 bits; their lower half is sufficient.
        let offset = (address + skipped * WORD) as u32;
        self.reservations.push(Reservation { storage, skipped, offset });
        Ok(offset)
    }

    /// The place of `elements` elements of `size` bytes each at a byte offset, which must be a multiple of `alignment`.
    pub(crate) fn place(&self, offset: u32, elements: usize, size: usize, alignment: usize) -> Result<Place, String> {
        if elements == 0 {
            return Ok(Place::EMPTY);
        }
        let bytes = elements as u64 * size as u64;
        for (index, reservation) in self.reservations.iter().enumerate() {
            let Some(relative) = offset.checked_sub(reservation.offset) else { continue };
            if u64::from(relative) + bytes <= reservation.length() as u64 {
                let start = relative as usize;
                if !start.is_multiple_of(alignment) {
                    return Err(format!("offset {offset} is not aligned to {alignment} bytes"));
                }
                return Ok(Place { reservation: index, bytes: start..start + bytes as usize });
            }
        }
        Err(format!("no reservation holds {bytes} bytes at offset {offset}"))
    }

    /// The bytes of places that share a reservation, in the order of `places`.
    pub(crate) fn views(&mut self, places: &[Place]) -> Result<Views<'_>, String> {
        let Some(reservation) = reservation(places)? else { return Ok(empty(places.len())) };
        split(self.reservations[reservation].bytes(), places)
    }

    /// The bytes of a slice's places, and of a call's scratch places, which must be in a different reservation.
    pub(crate) fn views_and_scratch(
        &mut self,
        places: &[Place],
        scratch: &[Place],
    ) -> Result<(Views<'_>, Views<'_>), String> {
        let (Some(state), Some(other)) = (reservation(places)?, reservation(scratch)?) else {
            return Ok((self.views(places)?, empty(scratch.len())));
        };
        let [state, other] = self
            .reservations
            .get_disjoint_mut([state, other])
            .map_err(|_| "the gradient lies in a reservation that holds a slice")?;
        Ok((split(state.bytes(), places)?, split(other.bytes(), scratch)?))
    }
}

fn empty<'a>(count: usize) -> Views<'a> {
    (0..count).map(|_| Default::default()).collect()
}

/// The reservation that all nonempty places share; `None` if all places are empty.
fn reservation(places: &[Place]) -> Result<Option<usize>, String> {
    let mut reservations = places.iter().filter(|place| !place.bytes.is_empty()).map(|place| place.reservation);
    let Some(first) = reservations.next() else { return Ok(None) };
    if reservations.all(|reservation| reservation == first) {
        return Ok(Some(first));
    }
    Err("views that belong together lie in different reservations".into())
}

/// Splits the bytes of a reservation into the views of `places`.
fn split<'a>(bytes: &'a mut [u8], places: &[Place]) -> Result<Views<'a>, String> {
    let mut views = empty(places.len());
    let mut rest = bytes;
    let mut consumed = 0;
    let mut left = places.iter().filter(|place| !place.bytes.is_empty()).count();
    while left > 0 {
        // There are few places, mostly in order: searching for the next one is faster than sorting.
        let next =
            places.iter().enumerate().filter(|(index, place)| !place.bytes.is_empty() && views[*index].is_empty());
        let Some((index, place)) = next.min_by_key(|(_, place)| place.bytes.start) else { break };
        let gap = place.bytes.start.checked_sub(consumed).ok_or("views overlap")?;
        let (head, tail) = std::mem::take(&mut rest).split_at_mut(gap + place.bytes.len());
        rest = tail;
        consumed = place.bytes.end;
        views[index] = &mut head[gap..];
        left -= 1;
    }
    Ok(views)
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

    fn place(memory: &Memory, offset: u32, bytes: usize) -> Place {
        memory.place(offset, bytes, 1, ALIGNMENT).unwrap()
    }

    #[test]
    fn reservations_are_aligned() {
        let (_, state, scratch) = two_reservations();
        assert_eq!((state % 64, scratch % 64), (0, 0));
    }

    #[test]
    fn views_are_the_places_asked_for_in_their_order() {
        let (mut memory, state, scratch) = two_reservations();
        let places = [place(&memory, state + 256, 64), Place::EMPTY, place(&memory, state, 64)];
        let gradient = [place(&memory, scratch, 64)];
        let (views, scratch) = memory.views_and_scratch(&places, &gradient).unwrap();
        let [first, nothing, second] = <[&mut [u8]; 3]>::try_from(views).unwrap();
        first.fill(1);
        second.fill(2);
        assert_eq!((nothing.len(), scratch[0].len()), (0, 64));
        let bytes = memory.reservations[0].bytes();
        assert_eq!(bytes[0..64], [2; 64]);
        assert_eq!(bytes[256..320], [1; 64]);
        assert_eq!(bytes[64..256], [0; 192]);
        assert_eq!(memory.views(&places).unwrap()[0], [1; 64]);
        assert_eq!(memory.views(&[Place::EMPTY]).unwrap(), [&mut [0_u8; 0]]);
    }

    #[test]
    fn elements_of_every_type_find_their_alignment() {
        let (mut memory, state, _) = two_reservations();
        let places = [memory.place(state + 64, 8, 8, ALIGNMENT).unwrap()];
        let mut views = memory.views(&places).unwrap();
        bytemuck::cast_slice_mut::<u8, f64>(views[0])[7] = 1.0;
        assert_eq!(views[0][56..], 1.0_f64.to_ne_bytes());
    }

    #[test]
    fn offsets_outside_misaligned_or_overlapping_are_errors() {
        let (mut memory, state, scratch) = two_reservations();
        assert!(memory.place(state + 4, 4, 4, ALIGNMENT).is_err());
        assert!(memory.place(state + 4, 4, 4, 4).is_ok());
        assert!(memory.place(state, 1 << 20, 4, ALIGNMENT).is_err());
        assert!(memory.place(state, usize::MAX / 8, 8, ALIGNMENT).is_err());
        let parameters = place(&memory, state, 128);
        let overlapping = place(&memory, state + 64, 128);
        let gradient = place(&memory, scratch, 128);
        assert!(memory.views(&[parameters.clone(), overlapping]).is_err());
        let other = place(&memory, state + 1024, 128);
        assert!(memory.views_and_scratch(std::slice::from_ref(&parameters), &[other]).is_err());
        assert!(memory.views(&[parameters, gradient]).is_err());
    }
}
