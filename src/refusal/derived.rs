//! Facts that the text of a refusal may derive from a request: this file has all of them.
//!
//! Security: none repeats what was sent. Each is one of a fixed set, an interaction of the catalogue, or a
//! number with a limit.

use std::cmp::Ordering;
use std::fmt;

use http::Method;

use spine_types::interaction::{CATALOGUE, Interaction};
use spine_types::{Asid, InnerUrl, OdsCode, ServiceRoot, TraceId};

/// Kind of value that was probably sent in place of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ValueLikeness {
    /// An ODS code with at least one letter.
    #[error("this looks like an ODS code")]
    OdsCode,
    /// An ASID: twelve digits.
    #[error("this looks like an ASID")]
    Asid,
    /// A UUID in either case.
    #[error("this looks like a UUID")]
    Uuid,
    /// A URL or URN.
    #[error("this looks like a URL or a URN")]
    Url,
}

impl ValueLikeness {
    /// Returns the kind that a header's value looks like; `None` if it looks like none.
    #[must_use]
    pub fn of(value: &str) -> Option<Self> {
        let has_letter = value.bytes().any(|byte| byte.is_ascii_alphabetic());
        if has_letter && OdsCode::from_any_case(value).is_ok() {
            Some(Self::OdsCode)
        } else if value.parse::<Asid>().is_ok() {
            Some(Self::Asid)
        } else if value.parse::<TraceId>().is_ok_and(|id| id.is_uuid()) {
            Some(Self::Uuid)
        } else {
            let is_url =
                ["urn:", "http://", "https://"].iter().any(|start| value.starts_with(start));
            is_url.then_some(Self::Url)
        }
    }
}

/// Fault in the form of a bearer token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenForm {
    /// Two parts, as if the third, which is empty, had been cut off with its full stop.
    #[error("has two parts: the full stop at its end is missing")]
    NoFinalStop,
    /// One part, or more than three.
    #[error("does not have three parts")]
    Parts,
    /// A part that cannot be decoded.
    #[error("has a part that is not base64url without padding")]
    Encoding,
}

/// Difference between a time in a token and this proxy's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockDifference {
    seconds: u64,
}

impl ClockDifference {
    /// Limit: seconds that a text names; longer ones are `more than a day`.
    const SECONDS_MAX: u64 = 86_400;

    /// Returns the difference between two times in seconds since 1970.
    #[must_use]
    pub const fn between(one_s: i64, other_s: i64) -> Self {
        Self { seconds: one_s.abs_diff(other_s) }
    }
}

impl fmt::Display for ClockDifference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.seconds {
            seconds @ 0..=Self::SECONDS_MAX => write!(out, "{seconds} s"),
            _ => out.write_str("more than a day"),
        }
    }
}

/// Unit that times in a token are probably in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeUnit {
    /// Second, as is right.
    Second,
    /// Millisecond, or a smaller unit.
    Smaller,
}

impl TimeUnit {
    /// Least number that is taken for milliseconds: 1973 in milliseconds, the year 5138 in seconds.
    const MILLISECONDS_MIN: i64 = 100_000_000_000;

    /// Returns the unit that one of two times since 1970 is probably in.
    #[must_use]
    pub const fn of(one: i64, other: i64) -> Self {
        let is_small = one < Self::MILLISECONDS_MIN && other < Self::MILLISECONDS_MIN;
        if is_small { Self::Second } else { Self::Smaller }
    }

    /// Returns what is wrong with the unit.
    pub(super) const fn difference(self) -> Option<&'static str> {
        match self {
            Self::Second => None,
            Self::Smaller => Some("a time looks like milliseconds or a smaller unit"),
        }
    }
}

/// Kind of audience that was probably sent in place of the service root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AudienceLikeness {
    /// The service root with a final slash added or removed.
    #[error("this one differs by a slash at its end")]
    FinalSlash,
    /// The URL of the national token endpoint.
    #[error("this is the URL of the token endpoint")]
    TokenUrl,
    /// The URL of the request.
    #[error("this is the URL of the request, with the path after the service root")]
    RequestUrl,
    /// A URL of this proxy, with or without the service root.
    #[error("this begins with the URL of this proxy")]
    ProxyUrl,
    /// The service root after another URL, such as that of a proxy under a name that it does not know.
    #[error("this has another URL before the service root")]
    RootAfterUrl,
    /// The service root with another port, or with letters in another case.
    #[error("{0}")]
    Root(RootDifference),
    /// A URL in the form of a service root.
    #[error("this looks like another service root")]
    OtherRoot,
    /// An array instead of a string.
    #[error("this is an array, where one string is due")]
    Array,
}

/// Fault that a path probably has, if it does not end as its interaction's does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathLikeness {
    /// A slash at the end.
    #[error("the path ends in a slash")]
    FinalSlash,
    /// Two slashes next to each other.
    #[error("the path has a doubled slash")]
    DoubledSlash,
    /// The path of another interaction of the same method.
    #[error("the path is that of {}", .0.short_id())]
    Other(&'static Interaction),
}

impl PathLikeness {
    /// Returns the likely fault of a path that is not its interaction's.
    #[must_use]
    pub fn of(method: &Method, path: &str) -> Option<Self> {
        let fits = |known: &&Interaction| known.method == *method && known.start_in(path).is_some();
        Self::of_slashes(path).or_else(|| CATALOGUE.iter().find(fits).map(Self::Other))
    }

    /// Returns the likely fault of a path that ends as its interaction's does, with more before it.
    #[must_use]
    pub fn of_slashes(path: &str) -> Option<Self> {
        if path.ends_with('/') {
            Some(Self::FinalSlash)
        } else {
            path.contains("//").then_some(Self::DoubledSlash)
        }
    }
}

/// Difference of a target from the service root that it should begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RootDifference {
    /// More slashes than one between root and path.
    #[error("there is a slash too many after the service root")]
    Slash,
    /// A port that the root does not have, or another one.
    #[error("the port differs from that of the registered service root")]
    Port,
    /// Letters in another case.
    #[error("the case of the letters differs from that of the registered service root")]
    Case,
}

impl RootDifference {
    /// Returns the difference between the registered root and the printable part of a target before its
    /// interaction's path; `None` if it is none of these.
    #[must_use]
    pub fn between(root: &ServiceRoot, shown: &str) -> Option<Self> {
        let registered = InnerUrl::parse(root.as_str()).ok()?;
        let shown = InnerUrl::parse(shown).ok()?;
        let host = |authority: &str| authority.split(':').next().map(str::to_ascii_lowercase);
        let bare = |path: &str| path.trim_end_matches('/').to_ascii_lowercase();
        if host(registered.authority) != host(shown.authority)
            || bare(registered.path) != bare(shown.path)
        {
            None
        } else if !registered.authority.eq_ignore_ascii_case(shown.authority) {
            Some(Self::Port)
        } else {
            match registered.path.len().cmp(&shown.path.len()) {
                Ordering::Less => Some(Self::Slash),
                Ordering::Equal => Some(Self::Case),
                Ordering::Greater => None,
            }
        }
    }
}

/// Returns a fact as the continuation of a sentence: `; ` before it, or nothing if there is none.
pub(super) fn note(fact: Option<&impl fmt::Display>) -> String {
    fact.map(|fact| format!("; {fact}")).unwrap_or_default()
}

/// Returns the id of the nearest interaction as a continuation of a sentence.
pub(super) fn nearest_note(nearest: Option<&'static Interaction>) -> String {
    nearest.map(|known| format!("; the nearest is {}", known.id)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_likened_by_its_form_alone() {
        for (value, likeness) in [
            ("A20047", Some(ValueLikeness::OdsCode)),
            ("y12345", Some(ValueLikeness::OdsCode)),
            ("918999198993", Some(ValueLikeness::Asid)),
            ("09A01679-2564-0fb4-5129-aecc81ea2706", Some(ValueLikeness::Uuid)),
            ("urn:x", Some(ValueLikeness::Url)),
            ("999000001", None),
            ("9990000018", None),
            ("not-a-uuid", None),
        ] {
            assert_eq!(ValueLikeness::of(value), likeness, "{value}");
        }
    }

    #[test]
    fn a_difference_of_clocks_is_named_up_to_a_day() {
        assert_eq!(ClockDifference::between(1_000, 588).to_string(), "412 s");
        assert_eq!(ClockDifference::between(0, 86_400).to_string(), "86400 s");
        assert_eq!(ClockDifference::between(0, 86_401).to_string(), "more than a day");
        assert_eq!(ClockDifference::between(i64::MIN, i64::MAX).to_string(), "more than a day");
    }

    #[test]
    fn a_root_differs_by_slash_port_or_case() {
        let root: ServiceRoot = "https://p.nhs.uk/A/STU3".parse().unwrap();
        for (shown, difference) in [
            ("https://p.nhs.uk/A/STU3/", Some(RootDifference::Slash)),
            ("https://p.nhs.uk:443/A/STU3", Some(RootDifference::Port)),
            ("https://P.nhs.uk/a/STU3", Some(RootDifference::Case)),
            ("https://q.nhs.uk/A/STU3", None),
            ("https://p.nhs.uk/B/STU3", None),
            ("https://p.nhs.uk/[masked]", None),
        ] {
            assert_eq!(RootDifference::between(&root, shown), difference, "{shown}");
        }
        let root: ServiceRoot = "https://p.nhs.uk/A/STU3/".parse().unwrap();
        assert_eq!(RootDifference::between(&root, "https://p.nhs.uk/A/STU3"), None);
    }
}
