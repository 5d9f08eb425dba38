//! Points in time as they stand in the log.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::{Date, Month, OffsetDateTime, Time};

/// A point in time in UTC with microseconds; as text RFC 3339, always of the same length, so that the order of texts is
/// the order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(OffsetDateTime);

impl Timestamp {
    /// Length of the text.
    const TEXT_BYTES: usize = "2026-01-31T12:00:00.000000Z".len();

    /// Now, as the machine's clock says.
    pub fn now() -> Self {
        Self::from(OffsetDateTime::now_utc())
    }

    fn read(text: &str) -> Option<Self> {
        if text.len() != Self::TEXT_BYTES || !text.is_ascii() {
            return None;
        }
        let number = |from: usize, to: usize| {
            text[from..to].bytes().all(|byte| byte.is_ascii_digit()).then(|| text[from..to].parse::<u32>().ok())?
        };
        let separators = [(4, '-'), (7, '-'), (10, 'T'), (13, ':'), (16, ':'), (19, '.'), (26, 'Z')];
        if !separators.iter().all(|&(at, character)| text[at..].starts_with(character)) {
            return None;
        }
        let byte = |from, to| number(from, to).and_then(|number| u8::try_from(number).ok());
        let month = Month::try_from(byte(5, 7)?).ok()?;
        let date = Date::from_calendar_date(i32::try_from(number(0, 4)?).ok()?, month, byte(8, 10)?).ok()?;
        let time = Time::from_hms_micro(byte(11, 13)?, byte(14, 16)?, byte(17, 19)?, number(20, 26)?).ok()?;
        Some(Self(OffsetDateTime::new_utc(date, time)))
    }
}

impl From<OffsetDateTime> for Timestamp {
    fn from(time: OffsetDateTime) -> Self {
        let time = time.to_offset(time::UtcOffset::UTC);
        Self(time.replace_nanosecond(time.microsecond() * 1000).unwrap_or(time))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (date, time) = (self.0.date(), self.0.time());
        write!(formatter, "{:04}-{:02}-{:02}", date.year(), u8::from(date.month()), date.day())?;
        write!(formatter, "T{:02}:{:02}:{:02}.{:06}Z", time.hour(), time.minute(), time.second(), time.microsecond())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::read(&text).ok_or_else(|| de::Error::custom(format!("`{text}` is no time of an audit log")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_time_are_each_others() {
        for text in ["2026-01-31T12:00:00.000001Z", "1999-12-31T23:59:59.999999Z"] {
            assert_eq!(Timestamp::read(text).expect("a time").to_string(), text);
        }
        let now = Timestamp::now();
        assert_eq!(Timestamp::read(&now.to_string()), Some(now));
        for text in ["", "2026-13-31T12:00:00.000001Z", "2026-01-31 12:00:00.000001Z", "2026-01-31T12:00:00.+00001Z"] {
            assert_eq!(Timestamp::read(text), None, "{text}");
        }
    }
}
