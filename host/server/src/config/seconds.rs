//! Lengths of time in the configuration.

use std::time::Duration;

use serde::Deserialize;

/// Longest time that can be set anywhere, a week: longer is a typing error.
const MAX_SECONDS: f64 = 7.0 * 86_400.0;

/// A positive length of time, written as a number of seconds.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Deserialize)]
#[serde(try_from = "f64")]
pub struct Seconds(f64);

impl Seconds {
    pub(crate) const fn from_constant(seconds: f64) -> Self {
        Self(seconds)
    }

    /// As the standard library's type.
    pub fn duration(self) -> Duration {
        Duration::from_secs_f64(self.0)
    }
}

impl TryFrom<f64> for Seconds {
    type Error = String;

    fn try_from(seconds: f64) -> Result<Self, String> {
        if seconds > 0.0 && seconds <= MAX_SECONDS {
            Ok(Self(seconds))
        } else {
            Err(format!("{seconds} seconds are not a time-out: it must be above 0 and at most {MAX_SECONDS}"))
        }
    }
}
