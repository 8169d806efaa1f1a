//! Searches in the journal: through the segments' indexes if an id is given, line by line otherwise. Memory
//! is bounded whatever the journal's size.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use jiff::Timestamp;
use memchr::{memchr, memmem};

use crate::chain;
use crate::index::{self, IndexTable};
use crate::line;
use crate::read::{self, LINE_BYTES_MAX, SegmentFile, SegmentReader};

/// Conditions on a line, all of which it must meet. Letter case does not count in values.
#[derive(Debug, Clone, Default)]
pub struct LineFilter {
    /// Text members of the line and the values they must have.
    pub members: Vec<MemberFilter>,
    /// Earliest time of a line, to the second.
    pub since: Option<Timestamp>,
    /// Time before which a line must be, to the second.
    pub until: Option<Timestamp>,
}

/// Condition on the text members of a line: one of them must have one of the values.
#[derive(Debug, Clone)]
pub struct MemberFilter {
    /// Names of the members.
    pub names: Vec<&'static str>,
    /// Values, one of which is wanted.
    pub values: Vec<String>,
}

impl MemberFilter {
    /// Returns the condition that a member has this value.
    #[must_use]
    pub fn equal(name: &'static str, value: &str) -> Self {
        Self { names: vec![name], values: vec![value.to_owned()] }
    }

    fn fits(&self, line: &[u8]) -> bool {
        self.names
            .iter()
            .filter_map(|name| member(line, name))
            .any(|text| self.values.iter().any(|value| text.eq_ignore_ascii_case(value.as_bytes())))
    }

    /// Returns the id that the condition asks for, if the index has it.
    fn indexed(&self) -> Option<&str> {
        match (&*self.names, &*self.values) {
            ([name], [value]) if index::MEMBERS.contains(name) => Some(value),
            _ => None,
        }
    }
}

/// Method by which lines are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchMethod {
    /// Through the segments' indexes, where they exist.
    Indexed,
    /// By reading every line, since an index proves nothing.
    Everything,
}

/// Seconds by which a line may be earlier than the first of its segment: lines are written in the order in
/// which they come in, and bear the time at which their exchange was opened.
const SLACK_S: i64 = 15 * 60;

/// Passes every line that matches to `each`, in the journal's order, until that breaks off.
///
/// # Errors
/// Returns an error if a segment cannot be read, or the folder holds none that is not compressed.
pub fn search(
    folder: &Path,
    filter: &LineFilter,
    how: SearchMethod,
    mut each: impl FnMut(&[u8]) -> ControlFlow<()>,
) -> io::Result<()> {
    let matcher = Matcher::new(filter);
    let segments = segments(folder)?;
    for (at, segment) in segments.iter().enumerate() {
        // The first line of the next segment is later than all lines of this one.
        if let (Some(since), Some(next)) = (filter.since, segments.get(at + 1))
            && begins(next)?.is_some_and(|begins| begins.as_second() + SLACK_S < since.as_second())
        {
            continue;
        }
        if let Some(until) = filter.until
            && begins(segment)?
                .is_some_and(|begins| begins.as_second() - SLACK_S > until.as_second())
        {
            break;
        }
        let id = filter.members.iter().find_map(MemberFilter::indexed);
        let flow = match (id, how) {
            // An index that cannot be read counts as missing.
            (Some(id), SearchMethod::Indexed) => match found(segment, id) {
                Some(at) => listed(segment, &at, &matcher, &mut each)?,
                None => scanned(segment, &matcher, &mut each)?,
            },
            (_, SearchMethod::Everything) | (None, _) => scanned(segment, &matcher, &mut each)?,
        };
        if flow.is_break() {
            break;
        }
    }
    Ok(())
}

/// Returns the segments in a folder that can be searched; fails if there are none.
fn segments(folder: &Path) -> io::Result<Vec<SegmentFile>> {
    let fault = |why| io::Error::new(io::ErrorKind::InvalidData, why);
    let segments = read::segments(folder)?;
    match (segments.is_empty(), read::compressed_segments(folder)?) {
        (false, _) => Ok(segments),
        (true, 0) => Err(fault("it holds no segment of a journal (*.jsonl)")),
        (true, _) => Err(fault("it holds only compressed segments: decompress them first")),
    }
}

fn found(segment: &SegmentFile, id: &str) -> Option<Vec<u64>> {
    IndexTable::open(segment)?.find(id).ok()
}

fn scanned(
    segment: &SegmentFile,
    matcher: &Matcher<'_>,
    each: &mut impl FnMut(&[u8]) -> ControlFlow<()>,
) -> io::Result<ControlFlow<()>> {
    let mut reader = SegmentReader::open(&segment.path)?;
    while let Some(text) = reader.next()? {
        if text.is_whole && matcher.fits(text.bytes) && each(text.bytes).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn listed(
    segment: &SegmentFile,
    at: &[u64],
    matcher: &Matcher<'_>,
    each: &mut impl FnMut(&[u8]) -> ControlFlow<()>,
) -> io::Result<ControlFlow<()>> {
    let file = File::open(&segment.path)?;
    let mut buffer = vec![0; usize::try_from(LINE_BYTES_MAX).unwrap_or_default()];
    for at in at {
        let read = file.read_at(&mut buffer, *at)?;
        let text = buffer.get(..read).unwrap_or_default();
        let text = memchr(b'\n', text).and_then(|end| text.get(..end)).unwrap_or_default();
        // A wrong index could lead into the middle of a line.
        let is_line = text.starts_with(line::SEQ);
        if is_line && matcher.fits(text) && each(text).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Returns the time in the first line of a segment; `None` if there is none.
fn begins(segment: &SegmentFile) -> io::Result<Option<Timestamp>> {
    let mut reader = SegmentReader::open(&segment.path)?;
    let Some(text) = reader.next()? else { return Ok(None) };
    let time = member(text.bytes, "time").and_then(|time| std::str::from_utf8(time).ok());
    Ok(time.and_then(|time| time.parse().ok()))
}

/// A filter prepared for matching lines.
struct Matcher<'a> {
    filter: &'a LineFilter,
    since: Option<String>,
    until: Option<String>,
}

impl<'a> Matcher<'a> {
    fn new(filter: &'a LineFilter) -> Self {
        let second = |at: &Timestamp| at.strftime("%Y-%m-%dT%H:%M:%S").to_string();
        let (since, until) = (filter.since.as_ref().map(second), filter.until.as_ref().map(second));
        Self { filter, since, until }
    }

    fn fits(&self, line: &[u8]) -> bool {
        // Text without a chain value was not written by this journal.
        if chain::split(line).is_none() {
            return false;
        }
        // Times have one length, the most significant digits first: text order is time order.
        let time = || member(line, "time").and_then(|time| time.get(..19)).unwrap_or_default();
        self.filter.members.iter().all(|wanted| wanted.fits(line))
            && self.since.as_ref().is_none_or(|since| time() >= since.as_bytes())
            && self.until.as_ref().is_none_or(|until| time() < until.as_bytes())
    }
}

/// Returns the text of a member, as it is written.
///
/// Quotation marks inside text are always written as an escape without one, so what looks like a member is
/// one; and no name occurs twice in a line.
pub(crate) fn member<'a>(line: &'a [u8], name: &str) -> Option<&'a [u8]> {
    const LONGEST: usize = 32;
    let mut key = [0; LONGEST];
    let length = name.len() + 4;
    let parts = b"\"".iter().chain(name.as_bytes()).chain(b"\":\"");
    for (to, from) in key.iter_mut().zip(parts) {
        *to = *from;
    }
    let at = memmem::find(line, key.get(..length)?)? + length;
    let rest = line.get(at..)?;
    rest.get(..memchr(b'"', rest)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] = br#"{"seq":7,"time":"2026-11-22T17:43:53.1Z","event":"closed","id":"ab-1","trace_id":"CD-2","from":"1","to":"2","ods":"A20047","interaction":"urn:x:read:patient-1","claims":{"user_id":"zz"},"outcome":"refused","refusal":"claim_missing"}"#;

    fn fits(filter: &LineFilter) -> bool {
        let mut line = LINE.strip_suffix(b"}").unwrap().to_vec();
        assert!(!Matcher::new(filter).fits(LINE), "it has no link");
        chain::ChainValue::ORIGIN.next(&line).end(&mut line);
        Matcher::new(filter).fits(line.strip_suffix(b"\n").unwrap())
    }

    #[test]
    fn a_line_must_say_all_that_is_asked() {
        let at = |text: &str| Some(text.parse().unwrap());
        let none = LineFilter::default();
        let one = |name, value: &str| LineFilter {
            members: vec![MemberFilter::equal(name, value)],
            ..LineFilter::default()
        };
        let two = |pairs: [(&'static str, &str); 2]| LineFilter {
            members: pairs.map(|(name, value)| MemberFilter::equal(name, value)).into(),
            ..LineFilter::default()
        };
        let any = |names: &[&'static str], values: &[&str]| LineFilter {
            members: vec![MemberFilter {
                names: names.to_vec(),
                values: values.iter().map(|value| (*value).to_owned()).collect(),
            }],
            ..LineFilter::default()
        };
        for (filter, expected) in [
            (none.clone(), true),
            (one("id", "AB-1"), true),
            (one("id", "zz"), false),
            (two([("trace_id", "cd-2"), ("ods", "a20047")]), true),
            (two([("trace_id", "cd-2"), ("ods", "B1")]), false),
            (any(&["from", "to"], &["1"]), true),
            (any(&["from", "to"], &["2"]), true),
            (any(&["from", "to"], &["3"]), false),
            (any(&["refusal"], &["x", "claim_missing"]), true),
            (LineFilter { since: at("2026-11-22T17:43:53Z"), ..none.clone() }, true),
            (LineFilter { since: at("2026-11-22T17:43:54Z"), ..none.clone() }, false),
            (LineFilter { until: at("2026-11-22T17:43:53Z"), ..none.clone() }, false),
            (LineFilter { until: at("2026-11-22T17:43:54Z"), ..none }, true),
        ] {
            assert_eq!(fits(&filter), expected, "{filter:?}");
        }
    }
}
