//! Lines of the journal: records become lines when they get their number and chain value.

use std::io;

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter};
use serde_json::{Map, Value};

use crate::chain::{self, ChainValue};
use crate::read::TornTail;

/// JSON object in ASCII that becomes a line of the journal.
///
/// Its members `event` and `time` are text, and so are `id` and `trace_id` if it has them; none of them may
/// need an escape. `seq`, `chain`, `previous`, `tree`, `torn` and `oldest_open` are the journal's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record(Vec<u8>);

/// Error returned for a value that cannot be a line of the journal.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The value cannot be written as JSON.
    #[error("not writable as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The value is not an object with at least one member.
    #[error("not an object with members")]
    NotAnObject,
    /// The value is longer than a line may be.
    #[error("longer than {} bytes", RECORD_BYTES_MAX)]
    TooLong,
}

/// Limit: bytes of a record; number and chain value take less than the difference to a line's limit.
const RECORD_BYTES_MAX: usize = 60 * 1024;
/// Initial capacity in bytes for a record.
const RECORD_BYTES: usize = 2048;

impl Record {
    /// Writes a value as a record.
    ///
    /// # Errors
    /// Returns an error if the value is no object with members, or is too long.
    pub fn new(value: &impl Serialize) -> Result<Self, RecordError> {
        let mut text = Vec::with_capacity(RECORD_BYTES);
        serde_json::to_writer(&mut text, value)?;
        // Nearly all records need no escape, and looking at each text of them costs more.
        if !text.iter().all(|byte| matches!(byte, b' '..=b'~') && *byte != b'\\') {
            text.clear();
            let mut escaping = serde_json::Serializer::with_formatter(&mut text, AsciiFormatter);
            value.serialize(&mut escaping)?;
        }
        if !text.starts_with(b"{\"") {
            return Err(RecordError::NotAnObject);
        }
        if text.len() > RECORD_BYTES_MAX {
            return Err(RecordError::TooLong);
        }
        Ok(Self(text))
    }

    /// Returns the members as they stand in the object, without its braces.
    pub(crate) fn members(&self) -> &[u8] {
        self.0.strip_prefix(b"{").and_then(|text| text.strip_suffix(b"}")).unwrap_or_default()
    }
}

/// Writes JSON without white space and in ASCII: other characters are escaped.
///
/// Security: in a line of plain ASCII, neither control characters nor the direction of writing can mislead a
/// reader.
struct AsciiFormatter;

impl Formatter for AsciiFormatter {
    /// Writes an escaped character. A quotation mark is written without one, so that text cannot look like a
    /// member in a search.
    fn write_char_escape<W>(&mut self, out: &mut W, escape: CharEscape) -> io::Result<()>
    where
        W: ?Sized + io::Write,
    {
        if matches!(escape, CharEscape::Quote) {
            return out.write_all(b"\\u0022");
        }
        CompactFormatter.write_char_escape(out, escape)
    }

    fn write_string_fragment<W>(&mut self, out: &mut W, fragment: &str) -> io::Result<()>
    where
        W: ?Sized + io::Write,
    {
        // The DEL character needs no escape in JSON, but cannot be seen.
        if fragment.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return CompactFormatter.write_string_fragment(out, fragment);
        }
        for character in fragment.chars() {
            match character {
                ' '..='~' => out.write_all(&[u8::try_from(character).unwrap_or(b'?')])?,
                _ => character
                    .encode_utf16(&mut [0; 2])
                    .iter()
                    .try_for_each(|unit| write!(out, "\\u{unit:04x}"))?,
            }
        }
        Ok(())
    }
}

/// Returns a time in UTC to the microsecond, of constant length, so that text order is time order.
#[must_use]
pub fn time_text(at: Timestamp) -> String {
    const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(6));
    PRINTER.timestamp_to_string(&at)
}

/// Number of the last line, and the chain's value after it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LastLine {
    pub(crate) seq: u64,
    pub(crate) link: ChainValue,
}

impl LastLine {
    /// Appends the next line, of the members of a record.
    pub(crate) fn append(&mut self, members: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        self.seq += 1;
        out.extend_from_slice(SEQ);
        out.extend_from_slice(itoa::Buffer::new().format(self.seq).as_bytes());
        out.push(b',');
        out.extend_from_slice(members);
        // `out` only grows, so the line begins within it.
        let (_, line) = out.split_at(start);
        self.link = self.link.next(line);
        self.link.end(out);
    }
}

/// Beginning of each line.
pub(crate) const SEQ: &[u8] = b"{\"seq\":";

/// Returns the members of a line without its number and chain value; `None` if it is no line of a journal.
pub(crate) fn members(line: &[u8]) -> Option<&[u8]> {
    let (body, _) = chain::split(line)?;
    let rest = body.strip_prefix(SEQ)?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    rest.get(digits..)?.strip_prefix(b",")
}

/// Line that the journal writes about itself.
#[derive(Debug, Default, Serialize)]
pub(crate) struct JournalLine<'a> {
    time: String,
    event: &'static str,
    /// Chain value before the segment.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<String>,
    /// Frontier of the tree before the segment, so that the rest can be proven without older segments.
    #[serde(skip_serializing_if = "Option::is_none")]
    tree: Option<Vec<String>>,
    /// Number of the oldest `opened` line without an end.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_open: Option<u64>,
    /// Name of this journal in its checkpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clock: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    torn: Option<&'a TornTail>,
    #[serde(skip_serializing_if = "Option::is_none")]
    opened_seq: Option<u64>,
    #[serde(flatten)]
    more: Option<&'a Map<String, Value>>,
}

/// State of the journal at the beginning of a segment.
#[derive(Debug)]
pub(crate) struct SegmentStart<'a> {
    pub(crate) last: LastLine,
    pub(crate) tree: Option<&'a crate::tree::Frontier>,
    pub(crate) oldest_open: Option<u64>,
    pub(crate) origin: Option<&'a str>,
}

impl<'a> JournalLine<'a> {
    fn of(event: &'static str) -> Self {
        Self { time: time_text(Timestamp::now()), event, ..Self::default() }
    }

    fn begin(event: &'static str, start: &SegmentStart<'a>) -> Self {
        let SegmentStart { last, tree, oldest_open, origin } = *start;
        Self {
            previous: Some(last.link.to_string()),
            tree: tree.map(|tree| tree.nodes().iter().map(ToString::to_string).collect()),
            oldest_open,
            origin,
            clock: Some(clock_state()),
            ..Self::of(event)
        }
    }

    /// First line of a segment.
    pub(crate) fn segment(start: &SegmentStart<'a>) -> Self {
        Self::begin("segment", start)
    }

    /// First line after a start, which is also the first of a segment. `facts` are the program's own.
    pub(crate) fn started(
        start: &SegmentStart<'a>,
        torn: Option<&'a TornTail>,
        facts: &'a Map<String, Value>,
    ) -> Self {
        Self { torn, more: Some(facts), ..Self::begin("started", start) }
    }

    /// An exchange that was opened before the last start and never closed; `members` are those of its
    /// `opened` line.
    pub(crate) fn unfinished(opened_seq: u64, members: &'a Map<String, Value>) -> Self {
        Self { opened_seq: Some(opened_seq), more: Some(members), ..Self::of("unfinished") }
    }

    /// Last line before a clean end.
    pub(crate) fn stopped() -> Self {
        Self::of("stopped")
    }
}

/// File that exists while systemd knows that the clock follows a time source.
const SYNCHRONISED: &str = "/run/systemd/timesync/synchronized";

/// Returns whether the system's clock is known to follow a time source, as `synchronised` or `unknown`.
///
/// Source: systemd-time-wait-sync.service(8), which makes the file whatever program sets the clock.
fn clock_state() -> &'static str {
    if std::path::Path::new(SYNCHRONISED).exists() { "synchronised" } else { "unknown" }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::read::LINE_BYTES_MAX;

    proptest! {
        #[test]
        fn whatever_is_recorded_is_read_back_from_plain_ascii(text in any::<String>()) {
            let value = json!({"event": "x", "text": text, &text: 1});
            let record = Record::new(&value).unwrap();
            prop_assert!(record.0.iter().all(|byte| matches!(byte, b' '..=b'~')));
            let read: Value = serde_json::from_slice(&record.0).unwrap();
            let texts = read.as_object().unwrap().values().map(|value| 1 + usize::from(value.is_string()));
            let marks = record.0.iter().filter(|byte| **byte == b'"').count();
            prop_assert_eq!(marks, 2 * texts.sum::<usize>(), "no text has a quotation mark");
            prop_assert_eq!(read, value);
        }
    }

    #[test]
    fn a_record_is_an_object_with_members_that_fits_in_a_line() {
        assert!(matches!(Record::new(&json!({})), Err(RecordError::NotAnObject)));
        assert!(matches!(Record::new(&json!("{\"")), Err(RecordError::NotAnObject)));
        let long = json!({"text": "x".repeat(RECORD_BYTES_MAX)});
        assert!(matches!(Record::new(&long), Err(RecordError::TooLong)));
        assert!(u64::try_from(RECORD_BYTES_MAX).unwrap() + 200 < LINE_BYTES_MAX);
    }

    #[test]
    fn the_members_of_a_line_are_those_of_its_record() {
        let record = Record::new(&json!({"event": "x", "a": [1]})).unwrap();
        let (mut last, mut out) = (LastLine { seq: 99, ..LastLine::default() }, Vec::new());
        last.append(record.members(), &mut out);
        let line = out.strip_suffix(b"\n").unwrap();
        assert!(line.starts_with(b"{\"seq\":100,\"a\":[1],\"event\":\"x\",\"chain\":\""));
        let (mut again, mut same) = (LastLine { seq: 99, ..LastLine::default() }, Vec::new());
        again.append(members(line).unwrap(), &mut same);
        assert_eq!((again, same), (last, out.clone()));
        assert_eq!(members(b"{\"seq\":1}"), None);
    }
}
