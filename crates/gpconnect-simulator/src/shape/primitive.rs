//! Primitive types of FHIR STU3, and their syntax.

use jiff::civil::{Date, Time};
use serde_json::{Number, Value};

use super::super::local_time::has_pattern;
use super::super::markup::is_char;

/// A primitive type of FHIR STU3.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Primitive {
    Base64,
    Boolean,
    Code,
    Date,
    DateTime,
    Decimal,
    Id,
    Instant,
    Integer,
    Positive,
    Text,
    Time,
    Unsigned,
    Uri,
}

/// Limit: characters of an id.
const ID_MAX: usize = 64;
/// Limit: hours of a time zone's offset.
const ZONE_HOURS_MAX: &str = "14";

impl Primitive {
    /// Returns the flaw of a JSON value of this type, if any.
    pub(super) fn fault(self, value: &Value) -> Option<&'static str> {
        let number =
            |least: i64| value.as_i64().is_some_and(|n| n >= least && n <= i32::MAX.into());
        let (is_valid, flaw) = match self {
            Self::Boolean => (value.is_boolean(), "is not a boolean"),
            Self::Decimal => (value.is_number(), "is not a number"),
            Self::Integer => (number(i32::MIN.into()), "is not an integer"),
            Self::Unsigned => (number(0), "is not an integer of at least 0"),
            Self::Positive => (number(1), "is not an integer of at least 1"),
            Self::Base64 => (text(value, is_base64), "is not base64"),
            Self::Code => (text(value, is_code), "is not a code"),
            Self::Date => (text(value, is_date), "is not a date"),
            Self::DateTime => (text(value, is_date_time), "is not a dateTime"),
            Self::Id => (text(value, is_id), "is not an id"),
            Self::Instant => (text(value, is_instant), "is not an instant"),
            Self::Time => (text(value, is_time), "is not a time"),
            Self::Text => (text(value, |_| true), "is not a string"),
            Self::Uri => (text(value, |_| true), "is not a uri"),
        };
        match value.as_str() {
            Some("") => Some("is empty"),
            Some(text) if !text.chars().all(is_char) => Some("has a character that is not allowed"),
            _ => (!is_valid).then_some(flaw),
        }
    }

    /// Converts a value in XML to JSON; returns `None` if it is not of this type.
    pub(in super::super) fn read(self, text: &str) -> Option<Value> {
        match self {
            Self::Boolean => text.parse::<bool>().ok().map(Value::Bool),
            Self::Decimal | Self::Integer | Self::Positive | Self::Unsigned => {
                number(text).map(Value::Number)
            }
            Self::Base64
            | Self::Code
            | Self::Date
            | Self::DateTime
            | Self::Id
            | Self::Instant
            | Self::Text
            | Self::Time
            | Self::Uri => Some(Value::String(text.to_owned())),
        }
    }
}

fn text(value: &Value, rule: impl Fn(&str) -> bool) -> bool {
    value.as_str().is_some_and(rule)
}

/// Parses a number without an exponent; a very long one loses its last digits.
fn number(text: &str) -> Option<Number> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let size = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = size.split_once('.').unwrap_or((size, "0"));
    if !digits(whole) || !digits(fraction) || (whole.len() > 1 && whole.starts_with('0')) {
        return None;
    }
    let signed = || text.parse::<i64>().ok().map(Number::from);
    let unsigned = || text.parse::<u64>().ok().map(Number::from);
    let real = || text.parse::<f64>().ok().and_then(Number::from_f64);
    signed().or_else(unsigned).or_else(real)
}

fn is_base64(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=\r\n\t ".contains(&byte);
    text.bytes().all(is_allowed)
}

fn is_code(text: &str) -> bool {
    text.split(' ').all(|part| !part.is_empty() && !part.contains(char::is_whitespace))
}

fn is_id(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    text.len() <= ID_MAX && text.bytes().all(is_allowed)
}

fn is_day(text: &str) -> bool {
    has_pattern(text, "0000-00-00") && text.parse::<Date>().is_ok()
}

/// Returns true if the text is a year, a month or a day.
fn is_date(text: &str) -> bool {
    match text.len() {
        4 => is_day(&format!("{text}-01-01")),
        7 => is_day(&format!("{text}-01")),
        _ => is_day(text),
    }
}

fn is_time(text: &str) -> bool {
    let (clock, fraction) = text.split_once('.').unwrap_or((text, "0"));
    has_pattern(clock, "00:00:00")
        && !clock.ends_with("60")
        && clock.parse::<Time>().is_ok()
        && !fraction.is_empty()
        && fraction.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_zone(text: &str) -> bool {
    let hours = text.get(1..3).is_some_and(|hours| hours <= ZONE_HOURS_MAX);
    let minutes = text.get(4..).is_some_and(|minutes| minutes < "60");
    (has_pattern(text, "+00:00") || has_pattern(text, "-00:00")) && hours && minutes
}

fn is_zoned(text: &str) -> bool {
    let split = || text.split_at_checked(text.len().checked_sub("+00:00".len())?);
    match text.strip_suffix('Z') {
        Some(time) => is_time(time),
        None => split().is_some_and(|(time, zone)| is_time(time) && is_zone(zone)),
    }
}

fn is_instant(text: &str) -> bool {
    text.split_once('T').is_some_and(|(day, time)| is_day(day) && is_zoned(time))
}

fn is_date_time(text: &str) -> bool {
    is_date(text) || is_instant(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Primitive::{Base64, Boolean, Code, DateTime, Decimal, Id, Instant, Integer};
    use super::*;

    #[test]
    fn each_type_accepts_only_its_own_values() {
        let long = "a".repeat(65);
        for (primitive, good, bad) in [
            (Boolean, vec![json!(true)], vec![json!("true"), json!(1), json!(null)]),
            (Integer, vec![json!(-5), json!(0)], vec![json!(1.5), json!(1u64 << 40), json!("1")]),
            (Primitive::Unsigned, vec![json!(0)], vec![json!(-1)]),
            (Primitive::Positive, vec![json!(1)], vec![json!(0)]),
            (Decimal, vec![json!(1), json!(-1.5)], vec![json!("1"), json!([])]),
            (Id, vec![json!("A-1.b")], vec![json!("a b"), json!("a_b"), json!(long), json!("")]),
            (Code, vec![json!("a"), json!("a b")], vec![json!(" a"), json!("a  b"), json!("a\tb")]),
            (Base64, vec![json!("QUJD\nRA==")], vec![json!("a-b")]),
            (Primitive::Text, vec![json!(" é\n")], vec![json!("a\u{0}"), json!({}), json!("")]),
        ] {
            good.iter().for_each(|value| assert_eq!(primitive.fault(value), None, "{value}"));
            bad.iter().for_each(|value| assert!(primitive.fault(value).is_some(), "{value}"));
        }
    }

    #[test]
    fn each_type_of_time_has_its_own_precision() {
        let day = ["2026", "2026-02", "2028-02-29"];
        let instant = [
            "2026-03-25T10:00:00Z",
            "2026-03-25T10:00:00.123456+01:00",
            "0001-01-01T00:00:00-14:00",
        ];
        let neither = [
            "26",
            "2026-13",
            "2026-02-29",
            "20260225",
            "2026-2-5",
            "2026-03-25T10:00",
            "2026-03-25T10:00:00",
            "2026-03-25T24:00:00Z",
            "2026-03-25T10:00:60Z",
            "2026-03-25T10:00:00+15:00",
            "2026-03-25T10:00:00+01:60",
            "2026-03-25T10:00:00.Z",
            "2026-03-25 10:00:00Z",
            "2026-03T10:00:00Z",
            "T",
            "é-01-01",
            "2026-03-25T10:00:00é1:00",
        ];
        let accepts = |primitive: Primitive, text: &str| primitive.fault(&json!(text)).is_none();
        for text in day {
            let expected = (true, true, false);
            let accepted =
                (accepts(Primitive::Date, text), accepts(DateTime, text), accepts(Instant, text));
            assert_eq!(accepted, expected, "{text}");
        }
        for text in instant {
            let expected = (false, true, true);
            let accepted =
                (accepts(Primitive::Date, text), accepts(DateTime, text), accepts(Instant, text));
            assert_eq!(accepted, expected, "{text}");
        }
        for text in neither {
            let accepted =
                accepts(Primitive::Date, text) || accepts(DateTime, text) || accepts(Instant, text);
            assert!(!accepted, "{text}");
        }
        assert!(accepts(Primitive::Time, "10:00:00.5"));
        assert!(!accepts(Primitive::Time, "10:00"));
    }

    #[test]
    fn a_number_in_xml_has_no_exponent() {
        for (text, value) in [
            ("0", json!(0)),
            ("-0", json!(0)),
            ("12", json!(12)),
            ("1.0", json!(1.0)),
            ("-0.25", json!(-0.25)),
            ("100000000000000000000", json!(1e20)),
        ] {
            assert_eq!(Decimal.read(text), Some(value), "{text}");
        }
        let huge = "9".repeat(400);
        for text in ["", "-", "+1", "01", ".5", "5.", "1e5", "NaN", "inf", "0x1", " 1", &huge] {
            assert_eq!(Decimal.read(text), None, "{text}");
        }
        assert_eq!(Boolean.read("True"), None);
    }
}
