//! The form of an entry, and the proof that it is one of ours.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `stepbox` and the format's number |
//! | 32 | HMAC-SHA256 (RFC 2104) of all other bytes, under the cache's key |
//! | 32 | SHA-256 of the component |
//! | 32 | SHA-256 of the conditions it was compiled and tried under |
//! | 32 | what its steps cost: four little-endian 64-bit numbers |
//! | the rest | native code, as `Component::serialize` gives it |
//!
//! Nothing behind the code's authentication is looked at before it.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::error::Miss;
use crate::instance::fuel::FuelModel;

const MAGIC: &[u8; 8] = b"stepbox\x01";
const TAG_BYTES: usize = 32;
const FUEL_BYTES: usize = 32;

/// Bytes of the key.
pub(super) const KEY_BYTES: usize = 32;

/// What entries are authenticated with. Wiped when dropped; never printed.
pub(super) struct Key(Zeroizing<[u8; KEY_BYTES]>);

impl Key {
    pub(super) fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    fn mac(&self, body: &[u8]) -> Hmac<Sha256> {
        let mac = Hmac::<Sha256>::new_from_slice(&self.0[..]).map(|mac| mac.chain_update(MAGIC).chain_update(body));
        match mac {
            Ok(mac) => mac,
            Err(_) => unreachable!("HMAC takes keys of any length"),
        }
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Key(..)")
    }
}

/// What an entry is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subject {
    /// SHA-256 of the component.
    pub(crate) component: [u8; 32],
    /// Of [`conditions`](super::conditions).
    pub(crate) conditions: [u8; 32],
}

impl Subject {
    /// Servers with other settings that share the directory have entries of their own.
    pub(super) fn file_name(&self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        format!("{}-{}{}", hex(&self.component), hex(&self.conditions[..8]), super::directory::ENTRY)
    }
}

/// What an authentic entry holds. Only [`open`] makes one.
pub(crate) struct Authentic<'a> {
    fuel: FuelModel,
    code: &'a [u8],
}

impl<'a> Authentic<'a> {
    pub(super) fn fuel(&self) -> FuelModel {
        self.fuel
    }

    pub(crate) fn code(&self) -> &'a [u8] {
        self.code
    }
}

/// An entry's bytes.
pub(super) fn seal(key: &Key, subject: &Subject, fuel: FuelModel, code: &[u8]) -> Vec<u8> {
    let fuel = fuel.numbers().map(u64::to_le_bytes);
    let body = [&subject.component[..], &subject.conditions, fuel.as_flattened(), code].concat();
    let tag = key.mac(&body).finalize().into_bytes();
    [&MAGIC[..], &tag, &body].concat()
}

/// Takes an entry apart, if it was sealed under this key for this subject.
pub(super) fn open<'a>(key: &Key, subject: &Subject, bytes: &'a [u8]) -> Result<Authentic<'a>, Miss> {
    let (magic, rest) = bytes.split_first_chunk::<8>().ok_or(Miss::NotAnEntry)?;
    if magic != MAGIC {
        return Err(Miss::OtherFormat);
    }
    let (tag, body) = rest.split_first_chunk::<TAG_BYTES>().ok_or(Miss::NotAnEntry)?;
    // In constant time.
    key.mac(body).verify_slice(tag).map_err(|_| Miss::NotAuthentic)?;

    let (component, rest) = body.split_first_chunk::<32>().ok_or(Miss::NotAnEntry)?;
    let (conditions, rest) = rest.split_first_chunk::<32>().ok_or(Miss::NotAnEntry)?;
    let (fuel, code) = rest.split_first_chunk::<FUEL_BYTES>().ok_or(Miss::NotAnEntry)?;
    if (Subject { component: *component, conditions: *conditions }) != *subject {
        return Err(Miss::OtherSubject);
    }
    let mut numbers = [0; 4];
    for (number, bytes) in numbers.iter_mut().zip(fuel.as_chunks::<8>().0) {
        *number = u64::from_le_bytes(*bytes);
    }
    Ok(Authentic { fuel: FuelModel::from_numbers(numbers), code })
}

/// For fuzzing: any bytes, as a file and as what stands behind a tag that is right, must end in an answer; and whatever is
/// sealed is no longer authentic when a bit of it has changed.
#[doc(hidden)]
pub fn fuzz_cache_entry(bytes: &[u8]) {
    let (key, subject) = (Key::new([7; KEY_BYTES]), Subject { component: [1; 32], conditions: [2; 32] });
    let _ = open(&key, &subject, bytes);
    let tag = key.mac(bytes).finalize().into_bytes();
    let tagged = [&MAGIC[..], &tag, bytes].concat();
    if let Ok(entry) = open(&key, &subject, &tagged) {
        assert!(bytes.starts_with(&[1; 32]) && bytes.ends_with(entry.code()), "another component's entry");
    }
    let fuel = FuelModel::from_numbers([1, 2, 3, 4]);
    let mut sealed = seal(&key, &subject, fuel, bytes);
    assert_eq!(open(&key, &subject, &sealed).map(|entry| entry.code().to_vec()), Ok(bytes.to_vec()));
    let bit = bytes.iter().fold(bytes.len(), |place, byte| place.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    let place = bit / 8 % sealed.len();
    sealed[place] ^= 1 << (bit % 8);
    assert!(open(&key, &subject, &sealed).is_err(), "a changed entry is taken");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SUBJECT: Subject = Subject { component: [1; 32], conditions: [2; 32] };
    const FUEL: FuelModel = FuelModel::from_numbers([3, 4, 5, u64::MAX]);

    fn key() -> Key {
        Key::new([7; KEY_BYTES])
    }

    fn miss(bytes: &[u8]) -> Miss {
        open(&key(), &SUBJECT, bytes).err().expect("an entry that must not be used")
    }

    #[test]
    fn what_was_sealed_opens() {
        let sealed = seal(&key(), &SUBJECT, FUEL, b"code");
        let entry = open(&key(), &SUBJECT, &sealed).expect("our own entry");
        assert_eq!((entry.fuel(), entry.code()), (FUEL, &b"code"[..]));
    }

    #[test]
    fn any_flipped_bit_and_any_truncation_or_extension_is_refused() {
        let sealed = seal(&key(), &SUBJECT, FUEL, &[0x5a; 64]);
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&key(), &SUBJECT, &changed).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(open(&key(), &SUBJECT, &sealed[..length]).is_err(), "{length} bytes");
        }
        assert_eq!(miss(&[&sealed[..], &[0]].concat()), Miss::NotAuthentic);
    }

    #[test]
    fn an_entry_serves_its_own_component_and_conditions_only() {
        for other in [Subject { component: [9; 32], ..SUBJECT }, Subject { conditions: [9; 32], ..SUBJECT }] {
            assert_eq!(miss(&seal(&key(), &other, FUEL, b"code")), Miss::OtherSubject);
        }
        assert_eq!(miss(&seal(&Key::new([8; KEY_BYTES]), &SUBJECT, FUEL, b"code")), Miss::NotAuthentic);
    }

    #[test]
    fn a_body_too_short_for_its_fields_is_refused_though_it_is_authentic() {
        for length in 0..32 * 2 + FUEL_BYTES {
            let body = vec![0; length];
            let tag = key().mac(&body).finalize().into_bytes();
            assert_eq!(miss(&[&MAGIC[..], &tag, &body].concat()), Miss::NotAnEntry, "{length}");
        }
    }

    #[test]
    fn the_key_is_not_printed() {
        assert_eq!(format!("{:?}", key()), "Key(..)");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic_or_pass(bytes in prop::collection::vec(any::<u8>(), 0..300), ours: bool) {
            let bytes = if ours { [&MAGIC[..], &bytes].concat() } else { bytes };
            prop_assert!(open(&key(), &SUBJECT, &bytes).is_err());
        }

        #[test]
        fn whatever_code_is_sealed_comes_back(
            code in prop::collection::vec(any::<u8>(), 0..300), numbers: [u64; 4], component: [u8; 32], secret: [u8; 32],
        ) {
            let (key, subject) = (Key::new(secret), Subject { component, ..SUBJECT });
            let sealed = seal(&key, &subject, FuelModel::from_numbers(numbers), &code);
            let entry = open(&key, &subject, &sealed).expect("our own entry");
            prop_assert_eq!((entry.fuel().numbers(), entry.code()), (numbers, &code[..]));
        }
    }
}
