//! Functions that give the same bits in the sandbox and natively.
//!
//! The versions in `std` call the platform's mathematics library. These functions are compiled from the same source
//! (the `libm` crate, a port of musl's) on every platform.

/// `base` to the power of an integer, as in `1 - beta^step`.
pub fn power(base: f64, exponent: u64) -> f64 {
    libm::pow(base, exponent as f64)
}

/// `base` to the power of a real number.
pub fn powf(base: f64, exponent: f64) -> f64 {
    libm::pow(base, exponent)
}

/// e to the power of `x`.
pub fn exp(x: f64) -> f64 {
    libm::exp(x)
}

/// The natural logarithm of `x`.
pub fn ln(x: f64) -> f64 {
    libm::log(x)
}

/// The hyperbolic tangent of `x`.
pub fn tanh(x: f64) -> f64 {
    libm::tanh(x)
}

/// The sign of `x`: -1, 0 or 1. Zero (of either sign) and NaN give 0, as `torch.sign` does for zero; `f32::signum`
/// gives ±1 for zeros.
#[inline(always)]
pub fn sign(x: f32) -> f32 {
    let positive = if x > 0.0 { 1.0 } else { 0.0 };
    let negative = if x < 0.0 { 1.0 } else { 0.0 };
    positive - negative
}

#[cfg(test)]
mod tests {
    use super::sign;

    #[test]
    fn sign_of_zero_is_zero() {
        assert_eq!([sign(-3.0), sign(-0.0), sign(0.0), sign(1e-40)], [-1.0, 0.0, 0.0, 1.0]);
    }
}
