//! State in one byte per element: block-wise dynamic quantization.
//!
//! Follows "8-bit Optimizers via Block-wise Quantization" (Dettmers, Lewis, Shleifer and Zettlemoyer, ICLR 2022,
//! arXiv:2110.02861). Each run of 256 elements is divided by its largest absolute value, and each quotient is replaced
//! with the nearest of 256 numbers that are dense near zero. They cover 7 decades, of which the finest has the fewest
//! steps. With [`Code::Signed`], decade 10^(i-6) has 2^i steps on either side of zero (i from 0 to 6), evenly spaced
//! between a tenth of it and the whole, and the numbers 0 and 1 are added; with [`Code::Unsigned`] there are twice as
//! many steps on the positive side.
//!
//! [`Slot::quantised`](crate::Slot::quantised) declares a slot of this kind, which updates see as `f32`. The functions
//! here are for optimizers that handle codes themselves.

use std::sync::LazyLock;

use crate::slot::Code;

/// Number of elements that share a scale.
pub const RUN: usize = 256;

struct Table {
    /// The numbers, ascending; a code is an index into them.
    values: [f32; 256],
    /// The midpoints between adjacent numbers.
    borders: [f32; 255],
}

static SIGNED: LazyLock<Table> = LazyLock::new(|| Table::new(Code::Signed));
static UNSIGNED: LazyLock<Table> = LazyLock::new(|| Table::new(Code::Unsigned));

impl Table {
    fn new(code: Code) -> Self {
        // Constants, because powers from a mathematics library may differ in the last place.
        const DECADES: [f64; 7] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];
        let mut positive = Vec::with_capacity(256);
        for (decade, power) in DECADES.into_iter().enumerate() {
            let steps = match code {
                Code::Signed => 1 << decade,
                Code::Unsigned => 2 << decade,
            };
            positive.extend((0..steps).map(|step| power * (0.1 + 0.9 * (f64::from(step) + 0.5) / f64::from(steps))));
        }
        let mut numbers = Vec::with_capacity(256);
        if code == Code::Signed {
            numbers.extend(positive.iter().rev().map(|number| -number));
        }
        numbers.push(0.0);
        numbers.extend(positive);
        numbers.push(1.0);
        let values = std::array::from_fn(|index| numbers[index] as f32);
        let borders = std::array::from_fn(|index| ((numbers[index] + numbers[index + 1]) / 2.0) as f32);
        Self { values, borders }
    }

    fn of(code: Code) -> &'static Self {
        match code {
            Code::Signed => &SIGNED,
            Code::Unsigned => &UNSIGNED,
        }
    }

    /// The code of the nearest number, found by bisection: eight comparisons without branches.
    #[inline(always)]
    fn nearest(&self, value: f32) -> u8 {
        let mut code = 0_usize;
        for half in [128, 64, 32, 16, 8, 4, 2, 1] {
            code += if value > self.borders[code + half - 1] { half } else { 0 };
        }
        code as u8
    }
}

/// Decodes numbers. `scales` has one element for each run of [`RUN`] codes, counted from the start; `numbers` has the
/// same length as `codes`.
pub fn decode(code: Code, codes: &[u8], scales: &[f32], numbers: &mut [f32]) {
    let table = Table::of(code);
    for ((codes, scale), numbers) in codes.chunks(RUN).zip(scales).zip(numbers.chunks_mut(RUN)) {
        for (number, code) in numbers.iter_mut().zip(codes) {
            *number = table.values[usize::from(*code)] * scale;
        }
    }
}

/// Encodes numbers as the nearest codes, with the scale of each run; the counterpart of [`decode`].
///
/// With [`Code::Unsigned`] a number above 0 never becomes 0 but at least the smallest positive number, because steps
/// are divided by it. The scale of a run that contains a number that is not finite is NaN, so that the run cannot pass
/// as valid.
pub fn encode(code: Code, numbers: &[f32], codes: &mut [u8], scales: &mut [f32]) {
    let table = Table::of(code);
    // The least code that a number above 0 may have. Signed codes are not restricted.
    let least = match code {
        Code::Signed => 0,
        Code::Unsigned => 1,
    };
    for ((numbers, codes), scale) in numbers.chunks(RUN).zip(codes.chunks_mut(RUN)).zip(scales) {
        // As bits, absolute values have the same order, with infinity and NaN last.
        let largest = numbers.iter().fold(0, |most: u32, number| most.max(number.abs().to_bits()));
        let largest = f32::from_bits(largest);
        *scale = if largest.is_finite() { largest } else { f32::NAN };
        // A run of zeros stays zero for any divisor.
        let divisor = if largest > 0.0 { largest } else { 1.0 };
        for (number, code) in numbers.iter().zip(codes) {
            *code = table.nearest(number / divisor).max(if *number > 0.0 { least } else { 0 });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_paper() {
        let (signed, unsigned) = (Table::of(Code::Signed), Table::of(Code::Unsigned));
        assert!(signed.values.is_sorted() && unsigned.values.is_sorted());
        assert_eq!((signed.values[255], unsigned.values[255]), (1.0, 1.0));
        assert_eq!((signed.values[127], unsigned.values[0]), (0.0, 0.0));
        // Coarsest decade: 64 steps of 0.9/64; the lowest number is half a step above a tenth.
        assert_eq!(signed.values[255 - 64], (0.1 + 0.9 / 128.0) as f32);
        assert_eq!(signed.values[0], -((1.0 - 0.9 / 128.0) as f32));
        // Finest decade: one number for signed codes, two for unsigned.
        assert_eq!(signed.values[128], 0.55e-6);
        assert_eq!(unsigned.values[1], 0.325e-6);
    }

    #[test]
    fn every_code_survives_a_round_trip() {
        for code in [Code::Signed, Code::Unsigned] {
            let codes: Vec<u8> = (0..=255).collect();
            let (mut numbers, mut again, mut scale) = ([0.0; 256], [0; 256], [0.0]);
            decode(code, &codes, &[8.0], &mut numbers);
            encode(code, &numbers, &mut again, &mut scale);
            assert_eq!((codes.as_slice(), scale), (again.as_slice(), [8.0]));
        }
    }

    #[test]
    fn a_number_that_is_not_finite_spoils_the_scale_of_its_run_alone() {
        for number in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for code in [Code::Signed, Code::Unsigned] {
                let mut numbers = [1.0; 2 * RUN];
                numbers[RUN + 3] = number;
                let (mut codes, mut scales) = ([0; 2 * RUN], [0.0; 2]);
                encode(code, &numbers, &mut codes, &mut scales);
                assert!(scales[0] == 1.0 && scales[1].is_nan(), "{number}: {scales:?}");
            }
        }
    }

    #[test]
    fn without_signs_only_zero_becomes_zero() {
        let (mut codes, mut scales, mut decoded) = ([9; 3], [0.0], [0.0; 3]);
        encode(Code::Unsigned, &[1e30, 1e-30, 0.0], &mut codes, &mut scales);
        decode(Code::Unsigned, &codes, &scales, &mut decoded);
        assert_eq!((codes, decoded[1] > 0.0, decoded[2]), ([255, 1, 0], true, 0.0));
    }

    #[test]
    fn numbers_come_back_to_within_half_a_step_of_their_run() {
        let numbers: Vec<f32> = (0..1000).map(|index| (index as f32 * 0.1).sin() * (index / RUN + 1) as f32).collect();
        let (mut codes, mut scales, mut decoded) = (vec![0; 1000], vec![0.0; 4], vec![0.0; 1000]);
        encode(Code::Signed, &numbers, &mut codes, &mut scales);
        decode(Code::Signed, &codes, &scales, &mut decoded);
        for (index, (number, decoded)) in numbers.iter().zip(&decoded).enumerate() {
            assert!((number - decoded).abs() <= 0.0071 * scales[index / RUN], "{number} {decoded}");
        }
        encode(Code::Signed, &[0.0; 3], &mut codes[..3], &mut scales[..1]);
        decode(Code::Signed, &codes[..3], &scales[..1], &mut decoded[..3]);
        assert_eq!(decoded[..3], [0.0; 3]);
    }
}
