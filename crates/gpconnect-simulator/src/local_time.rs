//! Local time of practices: days and clock times in the United Kingdom.
//!
//! This module does not read a clock.

use std::sync::LazyLock;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// Time zone of the United Kingdom; without a time zone database, by the rule in force since 1996.
static LONDON: LazyLock<TimeZone> = LazyLock::new(|| {
    TimeZone::get("Europe/London")
        .or_else(|_| TimeZone::posix("GMT0BST,M3.5.0/1,M10.5.0"))
        .unwrap_or(TimeZone::UTC)
});

/// Converts an instant to the local time of a practice.
pub(super) fn local(at: Timestamp) -> Zoned {
    at.to_zoned(LONDON.clone())
}

/// Returns the local day of an instant at a practice.
#[must_use]
pub fn day(at: Timestamp) -> Date {
    local(at).date()
}

/// Returns the instant of a local time at a practice; `None` if it is out of range.
pub(super) fn instant(day: Date, hour: i8, minute: i8) -> Option<Timestamp> {
    let zoned = day.at(hour, minute, 0, 0).to_zoned(LONDON.clone()).ok()?;
    Some(zoned.timestamp())
}

/// Spec: `yyyy-MM-ddTHH:mm:ss` with `+00:00` in winter and `+01:00` in summer, never `Z`.
pub(super) fn text(at: Timestamp) -> String {
    local(at).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

/// A period of time, from its first instant to the instant at which it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TimePeriod {
    pub(super) start: Timestamp,
    pub(super) end: Timestamp,
}

/// Returns true if the text is the pattern with each `0` replaced by a digit.
pub(super) fn has_pattern(text: &str, pattern: &str) -> bool {
    text.len() == pattern.len()
        && text.bytes().zip(pattern.bytes()).all(|(byte, expected)| match expected {
            b'0' => byte.is_ascii_digit(),
            _ => byte == expected,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_carry_the_offset_of_their_day() {
        for (at, expected) in [
            ("2026-01-05T09:00:00Z", "2026-01-05T09:00:00+00:00"),
            ("2026-03-29T00:59:59Z", "2026-03-29T00:59:59+00:00"),
            ("2026-03-29T01:00:00Z", "2026-03-29T02:00:00+01:00"),
            ("2026-07-01T23:30:00Z", "2026-07-02T00:30:00+01:00"),
            ("2026-10-25T00:59:59Z", "2026-10-25T01:59:59+01:00"),
            ("2026-10-25T01:00:00Z", "2026-10-25T01:00:00+00:00"),
        ] {
            assert_eq!(text(at.parse().unwrap()), expected);
        }
    }

    #[test]
    fn nine_in_the_morning_is_an_hour_earlier_in_summer() {
        let at = |day: &str| instant(day.parse().unwrap(), 9, 0).unwrap().to_string();
        assert_eq!(at("2026-03-27"), "2026-03-27T09:00:00Z");
        assert_eq!(at("2026-03-30"), "2026-03-30T08:00:00Z");
    }
}
