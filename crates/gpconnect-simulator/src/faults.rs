//! Faults to inject into one request, as words of the `X-Simulate` header or of a script.
//!
//! Words are separated by semicolons; each may be given once. A request is carried out as soon as it
//! has arrived, however late its response is: `delay=2s` delays the response, not the effect.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use serde::de::IntoDeserializer as _;

use super::refusal;
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
const WITHOUT_ANSWER: [&str; 5] = ["garbage", "reset", "reset-after", "stall", "stall-after"];
/// Words that may be combined with [`WITHOUT_ANSWER`], because they act before the response.
const BEFORE_ANSWER: [&str; 3] = ["delay", "continue", "early"];

/// Faults to inject into one request; none by default.
///
/// Parsed from words as in `X-Simulate`: `delay=2s; status=503`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    /// Words as they were written.
    text: String,
    pub(super) delay: Duration,
    pub(super) delay_body: Duration,
    pub(super) course: Course,
    pub(super) early: bool,
    pub(super) continues: u32,
    pub(super) manner: BodyDelivery,
    pub(super) framing: Framing,
    pub(super) content_type: ContentType,
    pub(super) head_junk: bool,
    pub(super) close: bool,
}

/// Outcome of a request: its effect, and the response that is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Course {
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
    /// Chunked, with a second chunk whose size is not a number.
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
    pub(super) fn are_none(&self) -> bool {
        *self == Self { text: self.text.clone(), ..Self::default() }
    }

    /// Returns true if the request is carried out.
    pub(super) fn perform(&self) -> bool {
        match self.course {
            Course::Performed => !self.early,
            Course::StatusAfter(_) | Course::ResetAfter | Course::StallAfter => true,
            Course::Status(_) | Course::Html | Course::Garbage | Course::Reset | Course::Stall => {
                false
            }
        }
    }

    /// Returns the response that replaces the request's own, if any.
    pub(super) fn instead(&self, head: &Parts) -> Option<Response<Bytes>> {
        let outcome = |status, why| refusal(head, ReplyFault::simulated(status, why));
        match self.course {
            Course::Status(status) | Course::StatusAfter(status) => {
                Some(outcome(status, "this status was asked for, and is simulated"))
            }
            Course::Html => Some(page()),
            Course::Performed if self.early => {
                Some(outcome(EARLY, "an early answer was asked for, and is simulated"))
            }
            Course::Performed
            | Course::Garbage
            | Course::Reset
            | Course::ResetAfter
            | Course::Stall
            | Course::StallAfter => None,
        }
    }

    /// Returns true if an HTTP response is sent.
    pub(super) fn answer(&self) -> bool {
        match self.course {
            Course::Performed | Course::Status(_) | Course::StatusAfter(_) | Course::Html => true,
            Course::Garbage
            | Course::Reset
            | Course::ResetAfter
            | Course::Stall
            | Course::StallAfter => false,
        }
    }

    /// Applies one word; the combination of words has been checked before.
    fn take(&mut self, name: &str, value: Option<&str>) -> Result<(), FaultWordsError> {
        let given = || value.filter(|value| !value.is_empty()).ok_or_else(|| needs_value(name));
        match name {
            "delay" => self.delay = pause(name, given()?, DELAY_MAX)?,
            "delay-body" => self.delay_body = pause(name, given()?, DELAY_MAX)?,
            "status" => self.course = Course::Status(status(name, given()?)?),
            "status-after" => self.course = Course::StatusAfter(status(name, given()?)?),
            "continue" => {
                let most = CONTINUES_MAX.into();
                self.continues = u32::try_from(number(name, given()?, most)?).unwrap_or_default();
            }
            "cut" => {
                let bytes = number(name, given()?, BYTES_MAX)?;
                self.manner = BodyDelivery::Cut(usize::try_from(bytes).unwrap_or(usize::MAX));
            }
            "drip" => self.manner = BodyDelivery::Drip(pause(name, given()?, DRIP_MAX)?),
            "length" => self.framing = Framing::Claimed(number(name, given()?, BYTES_MAX)?),
            "content-type" => {
                let kind = HeaderValue::from_str(given()?);
                let kind = kind.map_err(|_| unfit(name, "is no header"))?;
                self.content_type = ContentType::Other(kind);
            }
            _ if value.is_some() => return Err(unfit(name, "takes no value, or is no word here")),
            "none" => {}
            "html" => self.course = Course::Html,
            "garbage" => self.course = Course::Garbage,
            "reset" => self.course = Course::Reset,
            "reset-after" => self.course = Course::ResetAfter,
            "stall" => self.course = Course::Stall,
            "stall-after" => self.course = Course::StallAfter,
            "early" => self.early = true,
            "stall-body" => self.manner = BodyDelivery::Half,
            "bad-chunk" => self.framing = Framing::BadChunk,
            "no-content-length" => self.framing = Framing::Chunked,
            "no-content-type" => self.content_type = ContentType::Missing,
            "head-junk" => self.head_junk = true,
            "close" => self.close = true,
            _ => return Err(unfit(name, "is no word here")),
        }
        Ok(())
    }
}

impl FromStr for Faults {
    type Err = FaultWordsError;

    fn from_str(text: &str) -> Result<Self, FaultWordsError> {
        if text.len() > TEXT_MAX {
            return Err(FaultWordsError(format!("more than {TEXT_MAX} bytes are not read")));
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
            faults.take(name, value)?;
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

/// Checks that no word is repeated and that the words can be combined.
fn judge(names: &[&str]) -> Result<(), FaultWordsError> {
    let contrary = |one: &str, other: &str| {
        Err(FaultWordsError(format!(
            "`{one}` and `{other}` cannot stand together; the words are {}",
            list()
        )))
    };
    let mut seen: Vec<&str> = Vec::new();
    for &name in names {
        if seen.contains(&name) {
            return Err(unfit(name, "stands there twice"));
        }
        for &before in &seen {
            let same = ONE_OF.iter().any(|row| row.contains(&name) && row.contains(&before));
            if same
                || name == "none"
                || before == "none"
                || is_without_effect(name, before)
                || is_without_effect(before, name)
            {
                return contrary(before, name);
            }
        }
        seen.push(name);
    }
    Ok(())
}

/// Returns true if `other` would change the response that `word` suppresses.
fn is_without_effect(word: &str, other: &str) -> bool {
    WITHOUT_ANSWER.contains(&word) && !BEFORE_ANSWER.contains(&other)
}

fn list() -> String {
    WORDS.join("; ")
}

fn unfit(name: &str, why: &str) -> FaultWordsError {
    FaultWordsError(format!("`{name}` {why}; the words are {}", list()))
}

fn needs_value(name: &str) -> FaultWordsError {
    unfit(name, "needs a value")
}

fn pause(name: &str, text: &str, most: Duration) -> Result<Duration, FaultWordsError> {
    let read: Result<Duration, serde::de::value::Error> =
        period::deserialize(text.into_deserializer());
    let period = read.map_err(|_| unfit(name, "needs a duration such as 250ms or 2s"))?;
    if period > most {
        return Err(unfit(name, &format!("is longer than {} seconds", most.as_secs())));
    }
    Ok(period)
}

fn number(name: &str, text: &str, most: u64) -> Result<u64, FaultWordsError> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let read = text.parse().ok().filter(|number| plain && *number <= most);
    read.ok_or_else(|| unfit(name, &format!("needs a number up to {most}")))
}

fn status(name: &str, text: &str) -> Result<StatusCode, FaultWordsError> {
    let read = u16::try_from(number(name, text, 599)?).ok();
    let status = read.and_then(|status| StatusCode::from_u16(status).ok());
    status.ok_or_else(|| unfit(name, "needs a status from 100 to 599"))
}

/// Returns the 502 page that a load balancer shows when no server is behind it.
fn page() -> Response<Bytes> {
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

    fn why(text: &str) -> String {
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
    fn every_word_of_the_list_is_read_and_says_something() {
        for word in WORDS {
            let faults = read(&example(word));
            assert_eq!(faults.are_none(), word == "none", "{word}");
            assert_eq!(faults.to_string(), example(word));
        }
        assert!(Faults::default().are_none());
        assert_eq!(Faults::default().to_string().parse::<Faults>().unwrap().to_string(), "none");
    }

    #[test]
    fn words_stand_together_in_any_order() {
        let faults = read(" delay = 250ms;status=503;  drip=1ms ;no-content-length; close");
        assert_eq!(faults.delay, Duration::from_millis(250));
        assert_eq!(faults.course, Course::Status(StatusCode::SERVICE_UNAVAILABLE));
        assert_eq!(faults.manner, BodyDelivery::Drip(Duration::from_millis(1)));
        assert_eq!(faults.framing, Framing::Chunked);
        assert!(faults.close && !faults.perform());
        assert!(read("reset-after; delay=1s; continue=2").perform());
        assert!(read("cut=3").perform() && !read("early").perform());
        let (head, ()) = http::Request::new(()).into_parts();
        assert_eq!(read("early").instead(&head).unwrap().status(), 413);
        assert_eq!(read("early; html").instead(&head).unwrap().status(), 502);
    }

    #[test]
    fn what_is_unknown_or_out_of_bounds_is_refused_with_the_list() {
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
            let why = why(text);
            assert!(why.ends_with(&WORDS.join("; ")), "{text}: {why}");
        }
        assert!(why(&"c".repeat(TEXT_MAX + 1)).contains("1024 bytes"));
    }

    #[test]
    fn what_contradicts_is_refused() {
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
        assert!(why("cut=1; length=1").starts_with("`cut` and `length` cannot stand together"));
    }
}
