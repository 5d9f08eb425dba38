//! Points in time, to the second, as policies write them.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Length of a date, `2026-12-31`.
const DATE_CHARACTERS: usize = 10;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A point in time, in whole seconds of UTC.
///
/// [`FromStr`] reads RFC 3339 (`2026-12-31T12:00:00Z`, an offset is a must) and plain dates (`2026-12-31`, the moment
/// in which that day begins in UTC); [`fmt::Display`] writes RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Moment(i64);

impl Moment {
    /// What the system's clock says.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// Reads the end of a period: a plain date counts to its last second. What is returned is the first moment past
    /// the period.
    pub(crate) fn end(text: &str) -> Result<Self, MomentError> {
        let moment: Self = text.parse()?;
        Ok(if text.len() == DATE_CHARACTERS { moment + DAY } else { moment })
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Self;

    fn add(self, length: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(length.as_secs()).unwrap_or(i64::MAX)))
    }
}

impl From<SystemTime> for Moment {
    fn from(time: SystemTime) -> Self {
        let seconds = |length: Duration| i64::try_from(length.as_secs()).unwrap_or(i64::MAX);
        Self(match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => seconds(after),
            Err(before) => -seconds(before.duration()),
        })
    }
}

impl From<Moment> for SystemTime {
    /// Moments that the system cannot express become 1970.
    fn from(Moment(seconds): Moment) -> Self {
        let length = Duration::from_secs(seconds.unsigned_abs());
        let time =
            if seconds < 0 { Self::UNIX_EPOCH.checked_sub(length) } else { Self::UNIX_EPOCH.checked_add(length) };
        time.unwrap_or(Self::UNIX_EPOCH)
    }
}

impl FromStr for Moment {
    type Err = MomentError;

    fn from_str(text: &str) -> Result<Self, MomentError> {
        let parsed = if text.len() == DATE_CHARACTERS {
            OffsetDateTime::parse(&format!("{text}T00:00:00Z"), &Rfc3339)
        } else {
            OffsetDateTime::parse(text, &Rfc3339)
        };
        parsed
            .map(|time| Self(time.unix_timestamp()))
            .map_err(|_| MomentError(text.chars().take(40).flat_map(char::escape_default).collect()))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let written = OffsetDateTime::from_unix_timestamp(self.0).ok().and_then(|time| time.format(&Rfc3339).ok());
        match written {
            Some(text) => formatter.write_str(&text),
            None => write!(formatter, "{} s from 1970", self.0),
        }
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The text is no point in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no date: write 2026-12-31, or 2026-12-31T12:00:00Z with `Z` or an offset (RFC 3339)")]
pub struct MomentError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_times_are_read_in_utc() {
        let read = |text: &str| text.parse::<Moment>().unwrap().0;
        assert_eq!(read("1970-01-01"), 0);
        assert_eq!(read("1970-01-02"), 24 * 3600);
        assert_eq!(read("1970-01-01T01:00:00+01:00"), 0);
        assert_eq!(read("1969-12-31T23:59:59Z"), -1);
        assert_eq!(Moment::end("1970-01-01").unwrap().0, 24 * 3600);
        assert_eq!(Moment::end("1970-01-01T12:00:00Z").unwrap().0, 12 * 3600);
        for wrong in ["", "2026", "2026-13-01", "2026-02-30", "2026-01-01T00:00:00", "01/02/2026", "täglich, ä"] {
            assert!(wrong.parse::<Moment>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_clocks_time_and_back() {
        for seconds in [0, 1, -1, 4_000_000_000] {
            let moment = Moment(seconds);
            assert_eq!(Moment::from(SystemTime::from(moment)), moment);
            assert_eq!(moment.to_string().parse(), Ok(moment));
        }
        assert!(!Moment(i64::MAX).to_string().is_empty());
        assert_eq!(Moment(i64::MAX) + Duration::MAX, Moment(i64::MAX));
    }
}
