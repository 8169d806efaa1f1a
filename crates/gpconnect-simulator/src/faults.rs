//! Faults to inject into one request, as words of the `X-Simulate` header or of a script.
//!
//! Words are separated by semicolons; each may be given once. A request is carried out as soon as it
//! has arrived, even if its response is delayed: `delay=2s` delays the response, not the effect.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use serde::de::IntoDeserializer as _;

use super::fault_response;
use super::reply::ReplyFault;
use spine_types::period;

/// Request header with the faults to inject into this request.
pub(super) const SIMULATE: &str = "x-simulate";
/// Limit: bytes of the words for one request.
const TEXT_MAX: usize = 1024;
/// Limit: pause before the head or before the body of a response.
const DELAY_MAX: Duration = Duration::from_secs(600);
/// Limit: pause before each byte of a body.
const DRIP_MAX: Duration = Duration::from_secs(10);
/// Limit: number of bytes in `cut` and `length`.
const BYTES_MAX: u64 = 1 << 40;
/// Limit: interim (1xx) responses before the final one.
const CONTINUES_MAX: u32 = 100;
/// Status of an early response if no `status` is given.
const EARLY: StatusCode = StatusCode::PAYLOAD_TOO_LARGE;

/// Every fault word, with the form of its value.
const WORDS: [&str; 23] = [
    "none",
    "delay=<duration>",
    "delay-body=<duration>",
    "status=<100..599>",
    "status-after=<100..599>",
    "html",
    "garbage",
    "reset",
    "reset-after",
    "stall",
    "stall-after",
    "early",
    "continue=<number>",
    "cut=<bytes>",
    "stall-body",
    "drip=<duration>",
    "bad-chunk",
    "no-content-length",
    "length=<bytes>",
    "no-content-type",
    "content-type=<text>",
    "head-junk",
    "close",
];

/// Groups of words of which at most one may be given, because they contradict each other.
const ONE_OF: [&[&str]; 6] = [
    &["status", "status-after", "html", "garbage", "reset", "reset-after", "stall", "stall-after"],
    &["early", "status-after", "reset-after", "stall-after"],
    &["cut", "stall-body", "drip"],
    &["cut", "stall-body", "bad-chunk", "length"],
    &["bad-chunk", "no-content-length", "length"],
    &["no-content-type", "content-type"],
];

/// Words that suppress the HTTP response.
const WITHOUT_RESPONSE: [&str; 5] = ["garbage", "reset", "reset-after", "stall", "stall-after"];
/// Words that may be combined with [`WITHOUT_RESPONSE`], because they act before the response.
const BEFORE_RESPONSE: [&str; 3] = ["delay", "continue", "early"];

/// Faults to inject into one request; none by default.
///
/// Parsed from words as in `X-Simulate`: `delay=2s; status=503`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    /// Words as they were written.
    text: String,
    pub(super) delay: Duration,
    pub(super) delay_body: Duration,
    pub(super) outcome: RequestOutcome,
    pub(super) early: bool,
    pub(super) continues: u32,
    pub(super) delivery: BodyDelivery,
    pub(super) framing: Framing,
    pub(super) content_type: ContentType,
    pub(super) head_junk: bool,
    pub(super) close: bool,
}

/// Outcome of a request: its effect, and the response that is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum RequestOutcome {
    #[default]
    Performed,
    /// Sends this status; the request is not carried out.
    Status(StatusCode),
    /// Sends this status although the request is carried out.
    StatusAfter(StatusCode),
    /// Sends a load balancer's error page; the request is not carried out.
    Html,
    /// Sends bytes that are not HTTP; the request is not carried out.
    Garbage,
    /// Resets the TCP connection; the request is not carried out.
    Reset,
    /// Resets the TCP connection although the request is carried out.
    ResetAfter,
    /// Sends nothing and keeps the connection open; the request is not carried out.
    Stall,
    /// Sends nothing and keeps the connection open although the request is carried out.
    StallAfter,
}

/// Amount and pace of the response body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum BodyDelivery {
    #[default]
    Whole,
    /// Sends this many bytes of the body, then closes the connection.
    Cut(usize),
    /// Sends half of the body, then nothing; the connection stays open.
    Half,
    /// Sends the body byte by byte, with this pause before each.
    Drip(Duration),
}

/// Framing of the response body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Framing {
    #[default]
    Length,
    /// A `Content-Length` that may be wrong.
    Claimed(u64),
    Chunked,
    /// Chunked, with a second chunk that has an invalid size.
    BadChunk,
}

/// Treatment of the response's `Content-Type`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum ContentType {
    #[default]
    Right,
    Missing,
    Other(HeaderValue),
}

/// Error returned when fault words or a script are invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FaultWordsError(String);

impl FaultWordsError {
    pub(super) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl Faults {
    /// Returns true if there are no faults.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self { text: self.text.clone(), ..Self::default() }
    }

    /// Returns true if the request is carried out.
    pub(super) fn performs_request(&self) -> bool {
        match self.outcome {
            RequestOutcome::Performed => !self.early,
            RequestOutcome::StatusAfter(_)
            | RequestOutcome::ResetAfter
            | RequestOutcome::StallAfter => true,
            RequestOutcome::Status(_)
            | RequestOutcome::Html
            | RequestOutcome::Garbage
            | RequestOutcome::Reset
            | RequestOutcome::Stall => false,
        }
    }

    /// Returns the response that replaces the request's own, if any.
    pub(super) fn replacement(&self, head: &Parts) -> Option<Response<Bytes>> {
        let response = |status, why| fault_response(head, ReplyFault::simulated(status, why));
        match self.outcome {
            RequestOutcome::Status(status) | RequestOutcome::StatusAfter(status) => {
                Some(response(status, "injected fault: a response with this status"))
            }
            RequestOutcome::Html => Some(bad_gateway_page()),
            RequestOutcome::Performed if self.early => {
                Some(response(EARLY, "injected fault: a response before the body was read"))
            }
            RequestOutcome::Performed
            | RequestOutcome::Garbage
            | RequestOutcome::Reset
            | RequestOutcome::ResetAfter
            | RequestOutcome::Stall
            | RequestOutcome::StallAfter => None,
        }
    }

    /// Returns true if an HTTP response is sent.
    pub(super) fn sends_response(&self) -> bool {
        match self.outcome {
            RequestOutcome::Performed
            | RequestOutcome::Status(_)
            | RequestOutcome::StatusAfter(_)
            | RequestOutcome::Html => true,
            RequestOutcome::Garbage
            | RequestOutcome::Reset
            | RequestOutcome::ResetAfter
            | RequestOutcome::Stall
            | RequestOutcome::StallAfter => false,
        }
    }

    /// Applies one word; the combination of words has been checked before.
    fn apply(&mut self, name: &str, value: Option<&str>) -> Result<(), FaultWordsError> {
        let required = || value.filter(|value| !value.is_empty()).ok_or_else(|| needs_value(name));
        match name {
            "delay" => self.delay = duration(name, required()?, DELAY_MAX)?,
            "delay-body" => self.delay_body = duration(name, required()?, DELAY_MAX)?,
            "status" => self.outcome = RequestOutcome::Status(status(name, required()?)?),
            "status-after" => {
                self.outcome = RequestOutcome::StatusAfter(status(name, required()?)?);
            }
            "continue" => {
                let count = number(name, required()?, CONTINUES_MAX.into())?;
                self.continues = u32::try_from(count).unwrap_or(CONTINUES_MAX);
            }
            "cut" => {
                let bytes = number(name, required()?, BYTES_MAX)?;
                self.delivery = BodyDelivery::Cut(usize::try_from(bytes).unwrap_or(usize::MAX));
            }
            "drip" => self.delivery = BodyDelivery::Drip(duration(name, required()?, DRIP_MAX)?),
            "length" => self.framing = Framing::Claimed(number(name, required()?, BYTES_MAX)?),
            "content-type" => {
                let kind = HeaderValue::from_str(required()?);
                let kind = kind.map_err(|_| invalid_word(name, "is not a valid header value"))?;
                self.content_type = ContentType::Other(kind);
            }
            _ if value.is_some() => {
                return Err(invalid_word(name, "takes no value, or is not a fault word"));
            }
            "none" => {}
            "html" => self.outcome = RequestOutcome::Html,
            "garbage" => self.outcome = RequestOutcome::Garbage,
            "reset" => self.outcome = RequestOutcome::Reset,
            "reset-after" => self.outcome = RequestOutcome::ResetAfter,
            "stall" => self.outcome = RequestOutcome::Stall,
            "stall-after" => self.outcome = RequestOutcome::StallAfter,
            "early" => self.early = true,
            "stall-body" => self.delivery = BodyDelivery::Half,
            "bad-chunk" => self.framing = Framing::BadChunk,
            "no-content-length" => self.framing = Framing::Chunked,
            "no-content-type" => self.content_type = ContentType::Missing,
            "head-junk" => self.head_junk = true,
            "close" => self.close = true,
            _ => return Err(invalid_word(name, "is not a fault word")),
        }
        Ok(())
    }
}

impl FromStr for Faults {
    type Err = FaultWordsError;

    fn from_str(text: &str) -> Result<Self, FaultWordsError> {
        if text.len() > TEXT_MAX {
            return Err(FaultWordsError(format!(
                "the fault words are longer than {TEXT_MAX} bytes"
            )));
        }
        let words: Vec<(&str, Option<&str>)> = text
            .split(';')
            .map(|word| match word.split_once('=') {
                Some((name, value)) => (name.trim(), Some(value.trim())),
                None => (word.trim(), None),
            })
            .collect();
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        judge(&names)?;
        let mut faults = Self { text: text.trim().to_owned(), ..Self::default() };
        for (name, value) in words {
            faults.apply(name, value)?;
        }
        Ok(faults)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(if self.text.is_empty() { "none" } else { &self.text })
    }
}

impl serde::Serialize for Faults {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Faults {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for Faults {
    fn schema_name() -> Cow<'static, str> {
        "Faults".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "maxLength": TEXT_MAX,
            "description": format!("Fault words with semicolons between them, each at most once: {}.", word_list()),
            "examples": ["delay=2s; status=503"],
        })
    }
}

/// Checks that no word is repeated and that the words can be combined.
fn judge(names: &[&str]) -> Result<(), FaultWordsError> {
    let conflict = |one: &str, other: &str| {
        Err(FaultWordsError(format!(
            "`{one}` and `{other}` cannot be combined; the words are {}",
            word_list()
        )))
    };
    let mut seen: Vec<&str> = Vec::new();
    for &name in names {
        if seen.contains(&name) {
            return Err(invalid_word(name, "is given twice"));
        }
        for &before in &seen {
            let exclude_each_other =
                ONE_OF.iter().any(|row| row.contains(&name) && row.contains(&before));
            if exclude_each_other
                || name == "none"
                || before == "none"
                || has_no_effect(name, before)
                || has_no_effect(before, name)
            {
                return conflict(before, name);
            }
        }
        seen.push(name);
    }
    Ok(())
}

/// Returns true if `other` would change a response that `word` suppresses.
fn has_no_effect(word: &str, other: &str) -> bool {
    WITHOUT_RESPONSE.contains(&word) && !BEFORE_RESPONSE.contains(&other)
}

fn word_list() -> String {
    WORDS.join("; ")
}

fn invalid_word(name: &str, why: &str) -> FaultWordsError {
    FaultWordsError(format!("`{name}` {why}; the words are {}", word_list()))
}

fn needs_value(name: &str) -> FaultWordsError {
    invalid_word(name, "needs a value")
}

fn duration(name: &str, text: &str, max: Duration) -> Result<Duration, FaultWordsError> {
    let read: Result<Duration, serde::de::value::Error> =
        period::deserialize(text.into_deserializer());
    let period = read.map_err(|_| invalid_word(name, "needs a duration such as 250ms or 2s"))?;
    if period > max {
        return Err(invalid_word(name, &format!("is longer than {} seconds", max.as_secs())));
    }
    Ok(period)
}

fn number(name: &str, text: &str, max: u64) -> Result<u64, FaultWordsError> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let read = text.parse().ok().filter(|number| plain && *number <= max);
    read.ok_or_else(|| invalid_word(name, &format!("needs a number up to {max}")))
}

fn status(name: &str, text: &str) -> Result<StatusCode, FaultWordsError> {
    let read = u16::try_from(number(name, text, 599)?).ok();
    let status = read.and_then(|status| StatusCode::from_u16(status).ok());
    status.ok_or_else(|| invalid_word(name, "needs a status from 100 to 599"))
}

/// Returns the 502 page that a load balancer shows when no server is behind it.
fn bad_gateway_page() -> Response<Bytes> {
    let text = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n\
                <center><h1>502 Bad Gateway</h1></center>\r\n</body>\r\n</html>\r\n";
    faulty_response(StatusCode::BAD_GATEWAY, "text/html", text.to_owned())
}

fn faulty_response(status: StatusCode, kind: &'static str, body: String) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Faults {
        text.parse().unwrap()
    }

    fn error(text: &str) -> String {
        text.parse::<Faults>().unwrap_err().to_string()
    }

    /// Returns a word with a valid value, if it takes one.
    fn example(word: &str) -> String {
        let (name, form) = word.split_once('=').unwrap_or((word, ""));
        match form {
            "" => name.to_owned(),
            "<duration>" => format!("{name}=5ms"),
            "<text>" => format!("{name}=text/plain"),
            _ => format!("{name}=100"),
        }
    }

    #[test]
    fn every_fault_word_is_parsed_and_has_an_effect() {
        for word in WORDS {
            let faults = read(&example(word));
            assert_eq!(faults.is_empty(), word == "none", "{word}");
            assert_eq!(faults.to_string(), example(word));
        }
        assert!(Faults::default().is_empty());
        assert_eq!(Faults::default().to_string().parse::<Faults>().unwrap().to_string(), "none");
    }

    #[test]
    fn words_can_be_combined_in_any_order() {
        let faults = read(" delay = 250ms;status=503;  drip=1ms ;no-content-length; close");
        assert_eq!(faults.delay, Duration::from_millis(250));
        assert_eq!(faults.outcome, RequestOutcome::Status(StatusCode::SERVICE_UNAVAILABLE));
        assert_eq!(faults.delivery, BodyDelivery::Drip(Duration::from_millis(1)));
        assert_eq!(faults.framing, Framing::Chunked);
        assert!(faults.close && !faults.performs_request());
        assert!(read("reset-after; delay=1s; continue=2").performs_request());
        assert!(read("cut=3").performs_request() && !read("early").performs_request());
        let (head, ()) = http::Request::new(()).into_parts();
        assert_eq!(read("early").replacement(&head).unwrap().status(), 413);
        assert_eq!(read("early; html").replacement(&head).unwrap().status(), 502);
    }

    #[test]
    fn an_invalid_word_or_value_is_refused_with_the_list_of_words() {
        for text in [
            "",
            ";",
            "close;",
            "slow",
            "slow=1",
            "close=1",
            "none=1",
            "DELAY=1s",
            "delay",
            "delay=",
            "delay=2",
            "delay=-1s",
            "delay=601s",
            "delay-body=11m",
            "drip=11s",
            "status=99",
            "status=600",
            "status=+200",
            "status=abc",
            "status-after",
            "continue=101",
            "cut=-1",
            "cut=1e3",
            "length=1099511627777",
            "content-type",
            "content-type=a\u{7f}b",
        ] {
            let error = error(text);
            assert!(error.ends_with(&WORDS.join("; ")), "{text}: {error}");
        }
        assert!(error(&"c".repeat(TEXT_MAX + 1)).contains("1024 bytes"));
    }

    #[test]
    fn contradictory_words_are_refused() {
        for text in [
            "close; close",
            "delay=1s; delay=1s",
            "none; delay=1s",
            "close; none",
            "status=500; status-after=500",
            "html; reset",
            "stall; stall-after",
            "early; status-after=500",
            "early; reset-after",
            "cut=1; drip=1ms",
            "cut=1; length=1",
            "stall-body; bad-chunk",
            "no-content-length; length=4",
            "no-content-type; content-type=text/plain",
            "stall; drip=1ms",
            "close; reset",
            "garbage; delay-body=1s",
        ] {
            assert!(text.parse::<Faults>().is_err(), "{text}");
        }
        assert!(error("cut=1; length=1").starts_with("`cut` and `length` cannot be combined"));
    }
}
