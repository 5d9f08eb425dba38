//! Every instruction set against one naive oracle, bit for bit.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// The definition, written down.
fn oracle(gradients: &[Vec<f32>], mean: bool) -> Vec<f32> {
    let count = gradients.len() as f32;
    (0..gradients[0].len())
        .map(|index| {
            let sum = gradients[1..].iter().fold(gradients[0][index], |sum, gradient| sum + gradient[index]);
            if mean { sum / count } else { sum }
        })
        .collect()
}

/// The values' bytes, `misalignment` bytes into a buffer.
struct Buffer {
    bytes: Vec<u8>,
    misalignment: usize,
}

impl Buffer {
    fn new(values: &[f32], misalignment: usize) -> Self {
        let padding = std::iter::repeat_n(0xff, misalignment);
        Self { bytes: padding.chain(values.iter().flat_map(|value| value.to_le_bytes())).collect(), misalignment }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[self.misalignment..]
    }
}

/// Bits, with all NaNs made one.
fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() }).collect()
}

fn assert_equals_oracle(gradients: &[Vec<f32>], misalignment: usize) {
    let buffers: Vec<Buffer> =
        gradients.iter().enumerate().map(|(index, values)| Buffer::new(values, misalignment + index)).collect();
    let slices: Vec<&[u8]> = buffers.iter().map(Buffer::bytes).collect();
    for instruction_set in InstructionSet::available() {
        for (finish, mean) in [(Finish::Sum, false), (Finish::mean(slices.len()), true)] {
            let mut out = vec![f32::NAN; gradients[0].len()];
            reduce_into(instruction_set, &slices, finish, &mut out).expect("lengths agree");
            assert_eq!(bits(&out), bits(&oracle(gradients, mean)), "{instruction_set}, mean: {mean}");
        }
    }
}

/// Numbers of all magnitudes, and those that go wrong most easily.
fn value() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => any::<f32>(),
        4 => -1.0_f32..1.0,
        1 => prop::sample::select(vec![
            0.0,
            -0.0,
            f32::MIN_POSITIVE,
            f32::from_bits(1),
            -f32::from_bits(0x007f_ffff),
            f32::MAX,
            f32::MIN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
        ]),
    ]
}

fn gradients() -> impl Strategy<Value = Vec<Vec<f32>>> {
    (1_usize..12, 0_usize..300).prop_flat_map(|(count, length)| vec(vec(value(), length), count))
}

proptest! {
    #[test]
    fn every_instruction_set_equals_the_definition(gradients in gradients(), misalignment in 0_usize..4) {
        assert_equals_oracle(&gradients, misalignment);
    }

    #[test]
    fn finiteness_is_seen_at_every_place(
        mut values in vec(-1e38_f32..1e38, 1..700),
        place: prop::sample::Index,
        bad in prop::sample::select(vec![f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY]),
        misalignment in 0_usize..4,
    ) {
        let fine = Buffer::new(&values, misalignment);
        let index = place.index(values.len());
        values[index] = bad;
        let spoilt = Buffer::new(&values, misalignment);
        for instruction_set in InstructionSet::available() {
            prop_assert!(instruction_set.all_finite(elements(fine.bytes())), "{}", instruction_set);
            prop_assert!(!instruction_set.all_finite(elements(spoilt.bytes())), "{}", instruction_set);
        }
        prop_assert_eq!(first_not_finite(fine.bytes()), None);
        let found = first_not_finite(spoilt.bytes()).expect("one is not finite");
        prop_assert_eq!((found.index, found.value.to_bits()), (index, bad.to_bits()));
    }
}

/// Lengths around the block's, and counts with and without an exact reciprocal.
#[test]
fn lengths_and_counts_at_the_edges() {
    for count in 1..=9 {
        for length in [0, 1, 63, 64, 65, 127, 128, 129, 1000] {
            let gradient = |worker| (0..length).map(|index| ((index * 7 + worker * 13) as f32).sin()).collect();
            let gradients: Vec<Vec<f32>> = (0..count).map(gradient).collect();
            assert_equals_oracle(&gradients, 1);
        }
    }
}

#[test]
fn the_order_of_gradients_is_kept() {
    // 1 is lost beside 2^24 and not beside 0, so only one order gives 1.
    let big = 2.0_f32.powi(24);
    let buffers = [big, -big, 1.0].map(|value| Buffer::new(&[value], 0));
    let mut out = [0.0];
    sum_into(&[buffers[0].bytes(), buffers[1].bytes(), buffers[2].bytes()], &mut out).expect("lengths agree");
    assert_eq!(out, [1.0]);
    sum_into(&[buffers[2].bytes(), buffers[0].bytes(), buffers[1].bytes()], &mut out).expect("lengths agree");
    assert_eq!(out, [0.0]);
}

/// A mean that lies between two denormal numbers, where a reciprocal that is rounded would show.
#[test]
fn means_of_denormals_round_once() {
    let gradients: Vec<Vec<f32>> =
        (0..4).map(|worker| (1..200).map(|index| f32::from_bits(index * 5 + worker)).collect()).collect();
    assert_equals_oracle(&gradients, 0);
    assert_equals_oracle(&gradients[..3], 0);
}

#[test]
fn wrong_lengths_are_refused_and_nothing_is_written() {
    let mut out = [7.0; 3];
    assert_eq!(mean_into(&[], &mut out), Err(ReduceError::NoGradients));
    assert_eq!(sum_into(&[], &mut []), Err(ReduceError::NoGradients));
    for found in [0, 4, 11, 13, 16] {
        let (right, wrong) = (vec![0; 12], vec![0; found]);
        let refused = sum_into(&[&right, &wrong], &mut out);
        assert_eq!(refused, Err(ReduceError::Length { index: 1, found, elements: 3 }));
    }
    assert_eq!(out, [7.0; 3]);
}

#[test]
fn nothing_is_finite() {
    assert!(all_finite(&[]));
    assert!(all_finite(&[0xff; 3]), "less than an element");
    assert!(!all_finite(&[0xff; 4]));
}
