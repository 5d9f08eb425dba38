//! Every instruction set against one naive oracle, bit for bit.

use half::{bf16, f16};
use proptest::collection::vec;
use proptest::prelude::*;

use super::copy::copy_with;
use super::*;

/// The definition, written down: gradients as values, and what becomes of them.
#[derive(Debug, Clone, Copy)]
struct Case {
    aggregation: Aggregation,
    scale: f32,
    clip: f32,
}

impl Case {
    const MEAN: Self = Self { aggregation: Aggregation::Mean, scale: 1.0, clip: 1.0 };
    const SUM: Self = Self { aggregation: Aggregation::Sum, ..Self::MEAN };

    fn reduction(self) -> Reduction {
        Reduction::from(self.aggregation).scaled(self.scale).clipped(self.clip)
    }

    fn oracle(self, gradients: &[Vec<f32>]) -> Vec<f32> {
        let count = gradients.len() as f32;
        (0..gradients[0].len())
            .map(|index| {
                let sum = gradients[1..].iter().fold(gradients[0][index], |sum, gradient| sum + gradient[index]);
                let result = if self.aggregation == Aggregation::Mean { sum / count } else { sum };
                let result = result * self.scale * self.clip;
                if result.is_finite() { result } else { self.widened(gradients, index) }
            })
            .collect()
    }
}

impl Case {
    /// An element for which `f32` is too small on the way.
    fn widened(self, gradients: &[Vec<f32>], index: usize) -> f32 {
        let sum: f64 = gradients.iter().map(|gradient| f64::from(gradient[index])).sum();
        let count = if self.aggregation == Aggregation::Mean { gradients.len() as f64 } else { 1.0 };
        (sum / count * f64::from(self.scale) * f64::from(self.clip)) as f32
    }
}

/// Elements in a format, `misalignment` bytes into a buffer.
#[derive(Debug, Clone)]
struct Buffer {
    format: Format,
    bytes: Vec<u8>,
    misalignment: usize,
}

impl Buffer {
    fn new(format: Format, elements: impl IntoIterator<Item = u8>, misalignment: usize) -> Self {
        let padding = std::iter::repeat_n(0xff, misalignment);
        Self { format, bytes: padding.chain(elements).collect(), misalignment }
    }

    fn f32(values: &[f32], misalignment: usize) -> Self {
        Self::new(Format::F32, values.iter().flat_map(|value| value.to_le_bytes()), misalignment)
    }

    /// The values rounded to a format.
    fn rounded(format: Format, values: &[f32], misalignment: usize) -> Self {
        let bytes = values.iter().flat_map(|value| match format {
            Format::F32 => value.to_le_bytes().to_vec(),
            Format::Bf16 => bf16::from_f32(*value).to_le_bytes().to_vec(),
            Format::F16 => f16::from_f32(*value).to_le_bytes().to_vec(),
        });
        Self::new(format, bytes, misalignment)
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[self.misalignment..]
    }

    fn gradient(&self) -> Gradient<'_> {
        Gradient::new(self.format, self.bytes())
    }

    /// What another implementation takes the bytes for.
    fn values(&self) -> Vec<f32> {
        match self.format {
            Format::F32 => self.bytes().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            Format::Bf16 => {
                self.bytes().as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect()
            }
            Format::F16 => self.bytes().as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect(),
        }
    }
}

/// Bits, with all NaNs made one.
fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() }).collect()
}

fn assert_equals_oracle(buffers: &[Buffer], case: Case) {
    assert_equals_oracle_at(buffers, case, 0);
}

/// With the result `before` elements into a buffer.
fn assert_equals_oracle_at(buffers: &[Buffer], case: Case, before: usize) {
    let values: Vec<Vec<f32>> = buffers.iter().map(Buffer::values).collect();
    let gradients: Vec<Gradient<'_>> = buffers.iter().map(Buffer::gradient).collect();
    let expected = case.oracle(&values);
    let not_finite = expected.iter().position(|value| !value.is_finite());
    for instruction_set in InstructionSet::available() {
        let mut room = vec![f32::NAN; expected.len() + before];
        let out = &mut room[before..];
        let outcome = case.reduction().reduce_with(instruction_set, &gradients, out);
        assert_eq!(bits(out), bits(&expected), "{instruction_set}, {case:?}");
        match (outcome, not_finite) {
            (Ok(()), None) => {}
            (Err(ReduceError::NotFinite(found)), Some(index)) => assert_eq!(found.index, index, "{instruction_set}"),
            (outcome, _) => panic!("{instruction_set}, {case:?}: {outcome:?}, first not finite {not_finite:?}"),
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

fn format() -> impl Strategy<Value = Format> {
    prop::sample::select(vec![Format::F32, Format::Bf16, Format::F16])
}

/// A gradient in some format; two bytes may be anything.
fn gradient(length: usize) -> impl Strategy<Value = Buffer> {
    prop_oneof![
        (format(), vec(value(), length), 0_usize..4).prop_map(|(format, values, misalignment)| Buffer::rounded(
            format,
            &values,
            misalignment
        )),
        (format(), vec(-10.0_f32..10.0, length), 0_usize..4)
            .prop_map(|(format, values, misalignment)| Buffer::rounded(format, &values, misalignment)),
        (prop::sample::select(vec![Format::Bf16, Format::F16]), vec(any::<[u8; 2]>(), length), 0_usize..4)
            .prop_map(|(format, halves, misalignment)| Buffer::new(format, halves.concat(), misalignment)),
    ]
}

fn gradients() -> impl Strategy<Value = Vec<Buffer>> {
    (1_usize..12, 0_usize..600).prop_flat_map(|(count, length)| vec(gradient(length), count))
}

fn case() -> impl Strategy<Value = Case> {
    let aggregation = prop::sample::select(vec![Aggregation::Mean, Aggregation::Sum]);
    let factor = || prop_oneof![3 => Just(1.0_f32), 2 => 1e-4_f32..2.0, 1 => value()];
    (aggregation, factor(), factor()).prop_map(|(aggregation, scale, clip)| Case { aggregation, scale, clip })
}

proptest! {
    #[test]
    fn every_instruction_set_equals_the_definition(gradients in gradients(), case in case(), before in 0_usize..17) {
        assert_equals_oracle_at(&gradients, case, before);
    }

    #[test]
    fn finiteness_is_seen_at_every_place(
        mut values in vec(-6e4_f32..6e4, 1..1500),
        format in format(),
        place: prop::sample::Index,
        bad in prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY]),
        misalignment in 0_usize..4,
    ) {
        let fine = Buffer::rounded(format, &values, misalignment);
        let index = place.index(values.len());
        values[index] = bad;
        let spoilt = Buffer::rounded(format, &values, misalignment);
        for instruction_set in InstructionSet::available() {
            prop_assert_eq!(format.search(instruction_set, fine.bytes()), None);
            let found = format.search(instruction_set, spoilt.bytes()).expect("one is not finite");
            prop_assert_eq!(found.index, index, "{}", instruction_set);
            prop_assert_eq!(bits(&[found.value]), bits(&[bad]));
        }
        prop_assert!(format.all_finite(fine.bytes()));
        prop_assert!(!format.all_finite(spoilt.bytes()));
    }

    #[test]
    fn copies_are_the_source_and_name_what_is_not_finite(
        values in vec(prop_oneof![20 => -1e30_f32..1e30, 1 => value()], 0..300),
        misalignment in 0_usize..4,
    ) {
        let source = Buffer::f32(&values, misalignment);
        let not_finite = values.iter().position(|value| !value.is_finite());
        for instruction_set in InstructionSet::available() {
            let mut from_bytes = vec![0xaa; source.bytes.len()];
            let mut from_values = from_bytes.clone();
            let (elements, _) = source.bytes().as_chunks::<4>();
            for outcome in [
                copy_with(instruction_set, elements, &mut from_bytes[misalignment..]),
                copy_with(instruction_set, &values, &mut from_values[misalignment..]),
            ] {
                match (outcome, not_finite) {
                    (Ok(()), None) => {}
                    (Err(CopyError::NotFinite(found)), Some(index)) => prop_assert_eq!(found.index, index),
                    (outcome, _) => prop_assert!(false, "{:?}, first not finite {:?}", outcome, not_finite),
                }
            }
            prop_assert_eq!(&from_bytes[misalignment..], source.bytes());
            prop_assert_eq!(&from_values[misalignment..], source.bytes());
        }
    }

    /// Cut where it may be, and with every instruction set, the sums of squares are those of the definition.
    #[test]
    fn norms_do_not_depend_on_the_cut(
        values in vec(-1e20_f32..1e20, 1..20_000),
        cuts in vec(1_usize..4, 1..6),
    ) {
        let chunk_sum = |chunk: &[f32]| {
            let mut lanes = [0.0_f64; 32];
            chunk.iter().enumerate().for_each(|(index, value)| lanes[index % 32] += f64::from(*value).powi(2));
            for width in [16, 8, 4, 2, 1] {
                (0..width).for_each(|lane| lanes[lane] += lanes[lane + width]);
            }
            lanes[0]
        };
        let total: f64 = values.chunks(NORM_CHUNK_ELEMENTS).map(chunk_sum).sum();
        for instruction_set in InstructionSet::available() {
            let mut whole = SquareSums::new();
            whole.append_with(instruction_set, &values);
            prop_assert_eq!(whole.total(), total, "{}", instruction_set);
            let (mut joined, mut rest) = (SquareSums::new(), &values[..]);
            for chunks in cuts.iter().chain([&usize::MAX]) {
                let (slice, after) = rest.split_at(rest.len().min(chunks.saturating_mul(NORM_CHUNK_ELEMENTS)));
                let mut sums = SquareSums::new();
                sums.append_with(instruction_set, slice);
                joined.join(&sums);
                rest = after;
            }
            prop_assert_eq!(&joined, &whole, "{}", instruction_set);
        }
    }
}

/// All of them, against another implementation.
#[test]
fn every_half_is_widened_exactly() {
    for format in [Format::Bf16, Format::F16] {
        let all = Buffer::new(format, (0..=u16::MAX).flat_map(u16::to_le_bytes), 1);
        assert_equals_oracle(std::slice::from_ref(&all), Case::SUM);
    }
}

/// Lengths around the block's, and counts with and without an exact reciprocal.
#[test]
fn lengths_and_counts_at_the_edges() {
    let formats = [Format::F32, Format::Bf16, Format::F16];
    for count in 1..=9 {
        for length in [0, 1, 15, 16, 17, 255, 256, 257, 271, 272, 273, 1000] {
            let values =
                |worker: usize| (0..length).map(|index: usize| ((index * 7 + worker * 13) as f32).sin()).collect();
            let values: Vec<Vec<f32>> = (0..count).map(values).collect();
            let in_f32: Vec<Buffer> = values.iter().map(|values| Buffer::f32(values, 1)).collect();
            let mixed: Vec<Buffer> = values
                .iter()
                .enumerate()
                .map(|(worker, values)| Buffer::rounded(formats[(worker + length) % 3], values, worker))
                .collect();
            for case in [Case::MEAN, Case::SUM, Case { scale: 1.0 / 3.0, clip: 0.7, ..Case::MEAN }] {
                assert_equals_oracle(&in_f32, case);
                assert_equals_oracle(&mixed, case);
            }
        }
    }
}

#[test]
fn the_order_of_gradients_is_kept() {
    // 1 is lost beside 2^24 and not beside 0, so only one order gives 1.
    let big = 2.0_f32.powi(24);
    let buffers = [big, -big, 1.0].map(|value| Buffer::f32(&[value], 0));
    let mut out = [0.0];
    sum_into(&[buffers[0].bytes(), buffers[1].bytes(), buffers[2].bytes()], &mut out).expect("lengths agree");
    assert_eq!(out, [1.0]);
    sum_into(&[buffers[2].bytes(), buffers[0].bytes(), buffers[1].bytes()], &mut out).expect("lengths agree");
    assert_eq!(out, [0.0]);
}

/// A mean that lies between two denormal numbers, where a reciprocal that is rounded would show.
#[test]
fn means_of_denormals_round_once() {
    let gradient = |worker: u32| (1..200).map(|index| f32::from_bits(index * 5 + worker)).collect::<Vec<_>>();
    let gradients: Vec<Buffer> = (0..4).map(|worker| Buffer::f32(&gradient(worker), 0)).collect();
    assert_equals_oracle(&gradients, Case::MEAN);
    assert_equals_oracle(&gradients[..3], Case::MEAN);
}

#[test]
fn negative_zeros_stay_negative() {
    let gradients = [-0.0_f32, -0.0].map(|value| Buffer::f32(&[value], 0));
    assert_equals_oracle(&gradients, Case::MEAN);
    assert_equals_oracle(&gradients[..1], Case::SUM);
}

#[test]
fn wrong_lengths_are_refused_and_nothing_is_written() {
    let mut out = [7.0; 3];
    assert_eq!(mean_into(&[], &mut out), Err(ReduceError::NoGradients));
    assert_eq!(sum_into(&[], &mut []), Err(ReduceError::NoGradients));
    let right = vec![0; 12];
    for (format, found) in [
        (Format::F32, 0),
        (Format::F32, 6),
        (Format::F32, 11),
        (Format::F32, 13),
        (Format::F32, 16),
        (Format::Bf16, 12),
        (Format::F16, 5),
        (Format::F16, 8),
    ] {
        let wrong = vec![0; found];
        let gradients = [Gradient::f32(&right), Gradient::new(format, &wrong)];
        let refused = ReduceError::Length { index: 1, format, found, elements: 3 };
        assert_eq!(Reduction::sum().reduce_into(&gradients, &mut out), Err(refused.clone()));
        let mut squares = SquareSums::new();
        assert_eq!(Reduction::sum().reduce_and_square_into(&gradients, &mut out, &mut squares), Err(refused));
        assert_eq!(squares, SquareSums::new());
    }
    assert_eq!(out, [7.0; 3]);
    let mut target = [7; 4];
    assert_eq!(copy_finite(&[0; 3], &mut target[..3]), Err(CopyError::Length { source_bytes: 3, target_bytes: 3 }));
    assert_eq!(copy_finite(&[0; 8], &mut target), Err(CopyError::Length { source_bytes: 8, target_bytes: 4 }));
    assert_eq!(copy_finite_values(&[], &mut target), Err(CopyError::Length { source_bytes: 0, target_bytes: 4 }));
    assert_eq!(target, [7; 4]);
}

#[test]
fn a_sum_that_overflows_is_named_and_so_is_one_that_overflows_in_the_rest_of_a_block() {
    for index in [0, 70, 511, 512, 599] {
        let mut values = vec![1.0_f32; 600];
        values[index] = f32::MAX;
        let bytes = Buffer::f32(&values, 1);
        let mut out = vec![0.0; 600];
        let refused = sum_into(&[bytes.bytes(), bytes.bytes()], &mut out);
        assert_eq!(refused, Err(ReduceError::NotFinite(NotFinite { index, value: f32::INFINITY })));
        assert_eq!(out[(index + 1) % 600], 2.0, "the others are there");
    }
}

/// A mean of finite gradients fits, and so does a sum that is scaled back.
#[test]
fn a_result_that_fits_is_right_where_the_sum_on_the_way_does_not_fit() {
    for index in [0, 70, 511, 512, 599] {
        let mut values = vec![1.0_f32; 600];
        values[index] = f32::MAX;
        let (all, less) = (Buffer::f32(&values, 1), Buffer::f32(&vec![-1.0; 600], 0));
        for (case, buffers, expected) in [
            (Case::MEAN, vec![all.clone(); 2], f32::MAX),
            (Case::MEAN, vec![all.clone(), all.clone(), less.clone()], (f64::from(f32::MAX) / 3.0 * 2.0) as f32),
            (Case { scale: 0.25, ..Case::SUM }, vec![all.clone(); 2], f32::MAX / 2.0),
        ] {
            assert_equals_oracle(&buffers, case);
            let gradients: Vec<_> = buffers.iter().map(Buffer::gradient).collect();
            let (mut out, mut on_the_way) = (vec![0.0; 600], vec![0.0; 600]);
            case.reduction().reduce_into(&gradients, &mut out).expect("it fits");
            assert_eq!(out[index], expected);
            let mut squares = SquareSums::new();
            case.reduction().reduce_and_square_into(&gradients, &mut on_the_way, &mut squares).expect("it fits");
            assert_eq!(out, on_the_way);
        }
    }
}

#[test]
fn the_largest_magnitude_is_that_of_the_definition_in_every_format_and_instruction_set() {
    let values: Vec<f32> = (0..1000_u32).map(|index| (index as f32 * 0.7).sin() * 100.0).collect();
    for format in [Format::F32, Format::Bf16, Format::F16] {
        for length in [0, 1, 31, 32, 33, 1000] {
            let buffer = Buffer::rounded(format, &values[..length], 1);
            let expected = buffer.values().iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            for instruction_set in InstructionSet::available() {
                assert_eq!(format.magnitude(instruction_set, buffer.bytes()), expected, "{format}, {instruction_set}");
            }
        }
        for wrong in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = values.clone();
            values[567] = wrong;
            let buffer = Buffer::rounded(format, &values, 0);
            assert_eq!(format.largest_magnitude(buffer.bytes()), f32::INFINITY, "{wrong} in {format}");
        }
    }
    assert_eq!(Format::F32.largest_magnitude(&(-f32::MAX).to_le_bytes()), f32::MAX);
}

/// Squares that are taken on the way are those of the result, and so are the errors.
#[test]
fn reducing_and_squaring_is_one_after_the_other() {
    let values: Vec<f32> = (0..10_000_u32).map(|index| (index as f32).sin() * 3.0).collect();
    let buffers = [Buffer::f32(&values, 3), Buffer::rounded(Format::F16, &values, 1)];
    let gradients = [buffers[0].gradient(), buffers[1].gradient()];
    let (mut apart, mut together) = (vec![0.0; 10_000], vec![0.0; 10_000]);
    let (mut squares, mut on_the_way) = (SquareSums::new(), SquareSums::new());
    let reduction = Reduction::mean().scaled(0.5);
    reduction.reduce_into(&gradients, &mut apart).expect("finite");
    squares.append(&apart);
    reduction.reduce_and_square_into(&gradients, &mut together, &mut on_the_way).expect("finite");
    assert_eq!((together, on_the_way), (apart.clone(), squares.clone()));
    // Clipped in place or computed again, the bits are the same.
    let clip = clip_factor(squares.norm(), 1.0);
    let mut clipped = vec![0.0; 10_000];
    reduction.clipped(clip).reduce_into(&gradients, &mut clipped).expect("finite");
    apart.iter_mut().for_each(|value| *value *= clip);
    assert_eq!(clipped, apart);
    let mut squares = SquareSums::new();
    squares.append(&clipped);
    assert!((squares.norm() - 1.0).abs() < 1e-6, "{}", squares.norm());

    let huge = Buffer::f32(&vec![f32::MAX; 10_000], 0);
    let gradients = [huge.gradient(), huge.gradient()];
    let refused = Reduction::sum().reduce_and_square_into(&gradients, &mut clipped, &mut squares);
    assert_eq!(refused, Err(ReduceError::NotFinite(NotFinite { index: 0, value: f32::INFINITY })));
}

#[test]
fn gradients_within_the_bound_are_not_clipped() {
    assert_eq!(clip_factor(0.0, 1.0), 1.0);
    assert_eq!(clip_factor(1.0, 1.0), 1.0);
    assert_eq!(clip_factor(4.0, 1.0), 0.25);
    assert_eq!(clip_factor(2.0, 0.0), 0.0);
    assert!(clip_factor(f64::NAN, 1.0).is_nan());
    // The norm of the largest tensor of the largest numbers is a number.
    let mut squares = SquareSums::new();
    squares.append(&[f32::MAX; 9000]);
    assert!(squares.norm().is_finite());
    assert_eq!(SquareSums::new().norm(), 0.0);
}

#[test]
fn nothing_is_finite() {
    assert!(all_finite(&[]));
    assert!(all_finite(&[0xff; 3]), "less than an element");
    assert!(!all_finite(&[0xff; 4]));
    assert!(Format::F16.all_finite(&[0xff]), "less than an element");
    assert!(!Format::F16.all_finite(&[0xff; 2]));
    assert_eq!(first_not_finite(&[]), None);
}
