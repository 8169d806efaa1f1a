//! Sizes and durations in the configuration, each a number and a unit. A number alone and an unknown unit are
//! refused; the error shows the right form of the value.

use std::fmt;

use serde::de::{Deserializer, Error, Visitor};

/// Value as written in the configuration.
struct ConfigValue {
    text: String,
    is_number: bool,
}

impl ConfigValue {
    /// Splits a value into a number (digits with at most one decimal point between them) and a unit (ASCII
    /// letters, or empty).
    ///
    /// Returns `None` for any other value: a right form made from a part of it would have another meaning.
    fn split(&self) -> Option<(&str, &str)> {
        let text = self.text.trim();
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at_checked(end)?;
        let unit = unit.trim_start();
        let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let is_number = match number.split_once('.') {
            Some((whole, decimals)) => is_digits(whole) && is_digits(decimals),
            None => is_digits(number),
        };
        let is_unit = unit.bytes().all(|byte| byte.is_ascii_alphabetic());
        (is_number && is_unit).then_some((number, unit))
    }
}

/// Shows a value as it was written, with text in quotes.
impl fmt::Display for ConfigValue {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_number { out.write_str(&self.text) } else { write!(out, "{:?}", self.text) }
    }
}

/// Visitor that accepts text and numbers; `.0` describes the expected value.
struct UnitReader(&'static str);

impl Visitor<'_> for UnitReader {
    type Value = ConfigValue;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.0)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<ConfigValue, E> {
        Ok(ConfigValue { text: text.to_owned(), is_number: false })
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<ConfigValue, E> {
        Ok(ConfigValue { text: number.to_string(), is_number: true })
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<ConfigValue, E> {
        Ok(ConfigValue { text: number.to_string(), is_number: true })
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<ConfigValue, E> {
        Ok(ConfigValue { text: number.to_string(), is_number: true })
    }
}

fn read<'de, D: Deserializer<'de>, T>(
    from: D,
    wanted: &'static str,
    parse: impl Fn(&ConfigValue) -> Result<T, String>,
) -> Result<T, D::Error> {
    let written = from.deserialize_any(UnitReader(wanted))?;
    parse(&written).map_err(D::Error::custom)
}

/// Durations in the configuration, each a number and a unit, such as `10s`, `5m` or `250ms`.
pub mod period {
    use std::time::Duration;

    use serde::de::value::{Error, StrDeserializer};

    use super::ConfigValue;

    const WANTED: &str = "a period: a number and a unit, such as \"10s\"";

    /// Reads a duration from the configuration.
    pub fn deserialize<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        super::read(from, WANTED, parse)
    }

    /// Writes a duration, as the schema shows default values.
    pub fn serialize<S: serde::Serializer>(period: &Duration, to: S) -> Result<S::Ok, S::Error> {
        if period.subsec_millis() > 0 {
            return to.collect_str(&format_args!("{}ms", period.as_millis()));
        }
        jiff::fmt::serde::unsigned_duration::friendly::compact::required::serialize(period, to)
    }

    fn parse(written: &ConfigValue) -> Result<Duration, String> {
        let wrong = match (duration(&written.text), written) {
            (Ok(period), ConfigValue { is_number: false, .. }) => return Ok(period),
            (Ok(_), _) => None,
            (Err(error), _) => Some(error),
        };
        let split = written.split();
        if let Some((number, "")) = split {
            return Err(format!(
                "{written} has no unit; write \"{number}s\" (units are ms, s, m and h)"
            ));
        }
        let right = split.and_then(|(number, unit)| right_form(number, unit));
        let is_right = |right: &String| *right != written.text && duration(right).is_ok();
        if let Some(right) = right.filter(is_right) {
            return Err(format!("{written} has no known unit; write \"{right}\""));
        }
        let why = wrong.map(|error| format!(": {error}")).unwrap_or_default();
        Err(format!("{written} is not {WANTED} (units are ms, s, m and h){why}"))
    }

    fn duration(text: &str) -> Result<Duration, Error> {
        jiff::fmt::serde::unsigned_duration::required::deserialize(StrDeserializer::new(text))
    }

    /// Returns the duration that a number and an unknown unit probably mean.
    fn right_form(number: &str, unit: &str) -> Option<String> {
        let unit = unit.to_ascii_lowercase();
        if ["d", "day", "days"].contains(&&*unit) {
            let hours = number.parse::<u64>().ok()?.checked_mul(24)?;
            return Some(format!("{hours}h"));
        }
        // Long enough not to match other words, such as "million" and "hundred".
        let units = [
            ("millis", "ms"),
            ("mils", "ms"),
            ("msec", "ms"),
            ("sec", "s"),
            ("sek", "s"),
            ("minu", "m"),
            ("hour", "h"),
        ];
        let (_, right) = units.iter().find(|(start, _)| unit.starts_with(start))?;
        Some(format!("{number}{right}"))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn text(text: &str) -> Result<Duration, String> {
            parse(&ConfigValue { text: text.to_owned(), is_number: false })
        }

        #[test]
        fn a_period_is_a_number_and_a_unit() {
            for (written, millis) in
                [("250ms", 250), ("2.5s", 2500), ("5 m", 300_000), ("1h30m", 5_400_000), ("0s", 0)]
            {
                assert_eq!(text(written), Ok(Duration::from_millis(millis)), "{written}");
            }
        }

        #[test]
        fn a_period_in_a_wrong_form_is_refused_with_the_right_one() {
            for (written, words) in [
                ("2", "\"2\" has no unit; write \"2s\""),
                ("0", "\"0\" has no unit; write \"0s\""),
                ("2 sekunden", "\"2 sekunden\" has no known unit; write \"2s\""),
                ("250 milsec", "write \"250ms\""),
                ("5 minuten", "write \"5m\""),
                ("1 day", "\"1 day\" has no known unit; write \"24h\""),
                ("2 hourly", "write \"2h\""),
                ("soon", "\"soon\" is not a period: a number and a unit, such as \"10s\""),
                ("", "\"\" is not a period"),
                ("-2s", "\"-2s\" is not a period"),
                ("5 x", "\"5 x\" is not a period"),
                ("99999999999999999h", "\"99999999999999999h\" is not a period"),
                ("99999999999999999 hourly", "is not a period"),
            ] {
                let refused = text(written).unwrap_err();
                assert!(refused.contains(words), "{words} is not in {refused}");
            }
            let number = ConfigValue { text: "2".to_owned(), is_number: true };
            assert!(parse(&number).unwrap_err().starts_with("2 has no unit; write \"2s\""));
        }

        #[test]
        fn a_period_that_is_not_one_number_and_one_word_is_refused_without_another_value() {
            for written in [
                "1h30",
                "1h 30",
                "1 minute 30",
                "5 minuten 30 sekunden",
                "1,5 sekunden",
                "1_000 sekunden",
                "1e3 sekunden",
                "1.2.3",
                "5.",
                ".5",
                "5,",
                "2 decades",
                "2 dozen",
                "2 hundred",
                "2 million",
                "2 steps",
                "5 minutés",
                "1.5 days",
                "64 KiB",
            ] {
                let refused = text(written).unwrap_err();
                let words = format!("{written:?} is not a period: a number and a unit, such as");
                assert!(refused.starts_with(&words), "{refused}");
                assert!(!refused.contains("; write"), "{refused}");
            }
        }
    }
}

/// Sizes in the configuration, each a number and a unit, such as `64 KiB` or `1 GiB`.
pub mod size {
    use bytesize::ByteSize;

    use super::ConfigValue;

    const WANTED: &str = "a size: a number and a unit, such as \"64 KiB\"";

    /// Reads a size from the configuration.
    pub fn deserialize<'de, D: serde::Deserializer<'de>>(from: D) -> Result<ByteSize, D::Error> {
        super::read(from, WANTED, parse)
    }

    /// Writes a size, as the schema shows default values.
    pub fn serialize<S: serde::Serializer>(size: &ByteSize, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&size.to_string().replace(".0 ", " "))
    }

    /// Optional sizes in the configuration.
    pub mod optional {
        use super::ByteSize;

        /// Reads an optional size from the configuration.
        pub fn deserialize<'de, D: serde::Deserializer<'de>>(
            from: D,
        ) -> Result<Option<ByteSize>, D::Error> {
            super::deserialize(from).map(Some)
        }

        /// Writes an optional size, as the schema shows default values.
        pub fn serialize<S: serde::Serializer>(
            size: &Option<ByteSize>,
            to: S,
        ) -> Result<S::Ok, S::Error> {
            serde::Serialize::serialize(size, to)
        }
    }

    fn parse(written: &ConfigValue) -> Result<ByteSize, String> {
        let text = written.text.trim();
        if let (true, Ok(size)) = (text.ends_with(|c: char| c.is_ascii_alphabetic()), text.parse())
        {
            return Ok(size);
        }
        let other = || format!("{written} is not {WANTED} (units are B, KiB, MiB, GiB and TiB)");
        Err(match written.split() {
            Some((number, "")) => {
                format!("{written} has no unit; write \"{number} B\" or \"{number} KiB\"")
            }
            Some((number, unit)) => match unit_meant(unit) {
                Some(right) => format!("{written} has no known unit; write \"{number} {right}\""),
                None => other(),
            },
            None => other(),
        })
    }

    /// Returns the unit that an unknown one probably means.
    fn unit_meant(unit: &str) -> Option<&'static str> {
        let unit = unit.to_ascii_lowercase();
        match unit.strip_suffix('s').unwrap_or(&unit) {
            "byte" => Some("B"),
            "kilo" | "kbyte" | "kilobyte" | "kibibyte" => Some("KiB"),
            "meg" | "mega" | "mbyte" | "megabyte" | "mebibyte" => Some("MiB"),
            "gig" | "giga" | "gbyte" | "gigabyte" | "gibibyte" => Some("GiB"),
            "tera" | "tbyte" | "terabyte" | "tebibyte" => Some("TiB"),
            _ => None,
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn text(text: &str) -> Result<ByteSize, String> {
            parse(&ConfigValue { text: text.to_owned(), is_number: false })
        }

        #[test]
        fn a_size_is_a_number_and_a_unit() {
            for (written, bytes) in
                [("64 KiB", 65_536), ("1.5MiB", 1_572_864), ("64 kB", 64_000), ("0 B", 0)]
            {
                assert_eq!(text(written), Ok(ByteSize::b(bytes)), "{written}");
            }
        }

        #[test]
        fn a_size_in_a_wrong_form_is_refused_with_the_right_one() {
            for (written, words) in [
                ("64", "\"64\" has no unit; write \"64 B\" or \"64 KiB\""),
                ("0", "\"0\" has no unit; write \"0 B\""),
                ("64 kilobytes", "\"64 kilobytes\" has no known unit; write \"64 KiB\""),
                ("64 bytes", "write \"64 B\""),
                ("2 Megs", "write \"2 MiB\""),
                ("1 gig", "write \"1 GiB\""),
                ("1.5 Kbytes", "write \"1.5 KiB\""),
                ("2 terabytes", "write \"2 TiB\""),
                ("KiB", "\"KiB\" is not a size: a number and a unit, such as \"64 KiB\""),
                ("1.2.3 KiB", "\"1.2.3 KiB\" is not a size"),
                ("-1 KiB", "\"-1 KiB\" is not a size"),
            ] {
                let refused = text(written).unwrap_err();
                assert!(refused.contains(words), "{words} is not in {refused}");
            }
            let number = ConfigValue { text: "64".to_owned(), is_number: true };
            assert!(parse(&number).unwrap_err().starts_with("64 has no unit; write \"64 B\""));
        }

        #[test]
        fn a_size_that_is_not_one_number_and_one_word_is_refused_without_another_value() {
            for written in [
                "64,000 B",
                "64,000",
                "64_000 B",
                "64_000",
                "64 000 B",
                "1e3 B",
                "1.2.3",
                "1 KiB 512 bytes",
                "1 GiB/s",
                "1 minute",
                "1 month",
                "250 millis",
                "5 microseconds",
                "1 s",
                "10 Mbps",
                "10 megabits",
                "3 meters",
                "1 foot",
                "5.",
                "64 kilobytés",
            ] {
                let refused = text(written).unwrap_err();
                let words = format!("{written:?} is not a size: a number and a unit, such as");
                assert!(refused.starts_with(&words), "{refused}");
                assert!(!refused.contains("; write"), "{refused}");
            }
        }
    }
}
