//! Decoded query parameters of a search, and the dates in them.

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan};

use super::local_time::{self, has_pattern};
use super::reply::ReplyFault;

/// The parameters of a search in the order they were sent.
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Parses a query and decodes its percent escapes.
    ///
    /// A plus sign stays one: consumers send the offset of a time both as `%2B01:00` and as `+01:00`.
    pub(super) fn parse(query: &str) -> Result<Self, ReplyFault> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decoded(name)?, decoded(value)?))
        });
        let pairs: Option<Vec<_>> = pairs.collect();
        pairs
            .map(Self)
            .ok_or_else(|| ReplyFault::bad_request("the query has an invalid percent escape"))
    }

    /// Returns the name and the value of each parameter.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns all values of one parameter.
    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        let named = self.0.iter().filter(|(known, _)| known == name);
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// Returns true if the parameter was sent with this value.
    pub(super) fn contains(&self, name: &str, value: &str) -> bool {
        self.all(name).contains(&value)
    }

    /// Returns the value of a parameter that must be given exactly once.
    pub(super) fn one(&self, name: &str) -> Result<&str, ReplyFault> {
        match self.all(name).as_slice() {
            [value] => Ok(value),
            [] => Err(ReplyFault::bad_request(format!("parameter {name} is missing"))),
            _ => Err(ReplyFault::parameter(format!("parameter {name} is repeated"))),
        }
    }
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        plain.push(match byte {
            b'%' => u8::try_from(digit(bytes.next())? * 16 + digit(bytes.next())?).ok()?,
            _ => byte,
        });
    }
    String::from_utf8(plain).ok()
}

/// One end of a range: a whole day, or an instant with the offset of its day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DateBound {
    /// Day as `yyyy-MM-dd`.
    Day(Date),
    /// Instant as `yyyy-MM-ddTHH:mm:ss+00:00` or with `+01:00`.
    Instant(Timestamp),
}

impl DateBound {
    /// Parses a prefix and a date or time, such as `ge2026-03-25` for the prefix `ge`.
    pub(super) fn parse(value: &str, prefix: &str) -> Result<Self, ReplyFault> {
        let fault = || {
            ReplyFault::parameter(format!("{value:?} is not {prefix} followed by a date or a time"))
        };
        let text = value.strip_prefix(prefix).ok_or_else(fault)?;
        if has_pattern(text, "0000-00-00") {
            return text.parse().map(Self::Day).map_err(|_| fault());
        }
        if !has_pattern(text, "0000-00-00T00:00:00+00:00") {
            return Err(fault());
        }
        let at: Timestamp = text.parse().map_err(|_| fault())?;
        // Spec: the offset is the one the United Kingdom has on that day.
        if local_time::text(at) == text { Ok(Self::Instant(at)) } else { Err(fault()) }
    }

    /// Returns the day of the bound.
    pub(super) fn day(self) -> Date {
        match self {
            Self::Day(day) => day,
            Self::Instant(at) => local_time::day(at),
        }
    }

    /// Returns the first instant of a range that begins with this bound.
    pub(super) fn range_start(self) -> Timestamp {
        match self {
            Self::Day(day) => local_time::instant(day, 0, 0).unwrap_or(Timestamp::MAX),
            Self::Instant(at) => at,
        }
    }

    /// Returns the instant at which a range that ends with this bound is over.
    pub(super) fn range_end(self) -> Timestamp {
        match self {
            Self::Day(day) => day
                .checked_add(1.day())
                .ok()
                .and_then(|next| local_time::instant(next, 0, 0))
                .unwrap_or(Timestamp::MAX),
            Self::Instant(at) => at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded_and_a_plus_sign_stays() {
        let query = Parameters::parse("a=1%2B2&a=1+2&b=x%7Cy&_include:recurse=S%3AL&c").unwrap();
        assert_eq!(query.all("a"), ["1+2", "1+2"]);
        assert_eq!(query.one("b").unwrap(), "x|y");
        assert!(query.contains("_include:recurse", "S:L"));
        assert_eq!(query.one("c").unwrap(), "");
        assert!(query.one("a").is_err());
        assert!(query.one("d").is_err());
        for broken in ["a=%", "a=%2", "a=%zz", "a=%ff"] {
            assert!(Parameters::parse(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn a_bound_is_a_date_or_a_time_with_the_offset_of_its_day() {
        for good in ["ge2026-03-25", "ge2026-03-25T00:00:00+00:00", "ge2026-07-01T12:00:00+01:00"] {
            assert!(DateBound::parse(good, "ge").is_ok(), "{good}");
        }
        for bad in [
            "",
            "ge",
            "2026-03-25",
            "le2026-03-25",
            "eq2026-03-25",
            "ge2026",
            "ge2026-03",
            "ge2026-02-30",
            "ge20260325",
            "ge2026-03-25T10:00:00",
            "ge2026-03-25T10:00:00Z",
            "ge2026-03-25T10:00:00+01:00",
            "ge2026-07-01T10:00:00+00:00",
            "ge2026-03-25T10:00:00-00:00",
            "ge2026-03-25T25:00:00+00:00",
            "ge2026-03-25T10:00:00.000+00:00",
        ] {
            assert!(DateBound::parse(bad, "ge").is_err(), "{bad}");
        }
    }

    #[test]
    fn a_day_ends_when_the_next_begins() {
        let short = DateBound::parse("le2026-03-29", "le").unwrap();
        assert_eq!((short.range_end() - short.range_start()).get_seconds(), 23 * 3600);
    }
}
