//! bf16: the upper half of an `f32`, with the same range and eight bits of precision.

/// The nearest bf16, ties to even, as bits. Finite values beyond the largest bf16 become infinity; NaN stays NaN.
#[inline(always)]
pub fn from_f32(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet = (bits >> 16) | 0x40;
    (if value.is_nan() { quiet } else { rounded }) as u16
}

/// The value of a bf16 as `f32`. The conversion is exact.
#[inline(always)]
pub fn to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Rounds `value` to one of the two adjacent bf16 values, chosen by 16 random bits with probabilities proportional to
/// nearness, so that the mean over many roundings is the value itself.
#[inline(always)]
pub fn from_f32_stochastic(value: f32, random: u16) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(u32::from(random)) >> 16;
    (if value.is_finite() { rounded } else { (bits >> 16) | if value.is_nan() { 0x40 } else { 0 } }) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_to_nearest_and_ties_to_even() {
        assert_eq!(to_f32(from_f32(1.0)), 1.0);
        let unit = 1.0 / 128.0;
        assert_eq!(to_f32(from_f32(1.0 + 0.49 * unit)), 1.0);
        assert_eq!(to_f32(from_f32(1.0 + 0.51 * unit)), 1.0 + unit);
        assert_eq!(to_f32(from_f32(1.0 + 0.5 * unit)), 1.0);
        assert_eq!(to_f32(from_f32(1.0 + 1.5 * unit)), 1.0 + 2.0 * unit);
        assert_eq!(to_f32(from_f32(-0.0)).to_bits(), (-0.0_f32).to_bits());
        assert_eq!(to_f32(from_f32(f32::MAX)), f32::INFINITY);
        assert!(to_f32(from_f32(f32::from_bits(0x7f80_0001))).is_nan());
        assert!(to_f32(from_f32(f32::from_bits(0xffff_ffff))).is_nan());
        for bits in 0..=u16::MAX {
            let value = to_f32(bits);
            assert!(value.is_nan() || from_f32(value) == bits, "{bits:04x}");
        }
    }

    #[test]
    fn stochastic_rounding_keeps_the_mean() {
        let value = 1.0 + 0.3 / 128.0;
        let mean =
            (0..=u16::MAX).map(|random| f64::from(to_f32(from_f32_stochastic(value, random)))).sum::<f64>() / 65536.0;
        assert!((mean - f64::from(value)).abs() < 1e-6, "{mean}");
        assert_eq!(to_f32(from_f32_stochastic(1.0, u16::MAX)), 1.0);
        assert_eq!(to_f32(from_f32_stochastic(f32::INFINITY, u16::MAX)), f32::INFINITY);
        assert!(to_f32(from_f32_stochastic(f32::NAN, u16::MAX)).is_nan());
    }
}
