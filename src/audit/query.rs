//! Searches in the journal: through the segments' indexes if an id is given, line by line otherwise. Memory
//! is bounded whatever the journal's size.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use jiff::Timestamp;
use memchr::{memchr, memmem};

use super::chain;
use super::index::IndexTable;
use super::read::{self, LINE_BYTES_MAX, SegmentFile, SegmentReader};

/// Conditions on a line, all of which it must meet.
#[derive(Debug, Clone, Default)]
pub struct LineFilter {
    /// The trace id, in either case.
    pub trace_id: Option<String>,
    /// The exchange's id, in either case.
    pub id: Option<String>,
    /// The ASID of either side.
    pub asid: Option<String>,
    /// The sender's ASID.
    pub from: Option<String>,
    /// The receiver's ASID.
    pub to: Option<String>,
    /// ODS code of the practice.
    pub ods: Option<String>,
    /// The interaction's id, or the end of it.
    pub interaction: Option<String>,
    /// Outcome of the exchange: `answered`, `refused` or `aborted`.
    pub outcome: Option<String>,
    /// Tokens of refusals, one of which the line must have; any line matches if there are none.
    pub refusals: Vec<String>,
    /// Earliest time of a line, to the second.
    pub since: Option<Timestamp>,
    /// Time before which a line must be, to the second.
    pub until: Option<Timestamp>,
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
/// Returns an error if a segment cannot be read.
pub fn search(
    folder: &Path,
    filter: &LineFilter,
    how: SearchMethod,
    mut each: impl FnMut(&[u8]) -> ControlFlow<()>,
) -> io::Result<()> {
    let matcher = Matcher::new(filter);
    let segments = read::segments(folder)?;
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
        let flow = match (filter.id.as_ref().or(filter.trace_id.as_ref()), how) {
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

fn found(segment: &SegmentFile, id: &str) -> Option<Vec<u64>> {
    IndexTable::open(segment).ok().flatten()?.find(id).ok()
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
    let mut line = vec![0; usize::try_from(LINE_BYTES_MAX).unwrap_or_default()];
    for at in at {
        let read = file.read_at(&mut line, *at)?;
        let text = line.get(..read).unwrap_or_default();
        let text = memchr(b'\n', text).and_then(|end| text.get(..end)).unwrap_or_default();
        if matcher.fits(text) && each(text).is_break() {
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
        let LineFilter {
            trace_id, id, asid, from, to, ods, interaction, outcome, refusals, ..
        } = self.filter;
        let has = |name: &str, wanted: &str| {
            member(line, name).is_some_and(|said| said.eq_ignore_ascii_case(wanted.as_bytes()))
        };
        let is = |name: &str, wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| has(name, wanted))
        };
        let ends = |wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| {
                member(line, "interaction").is_some_and(|said| said.ends_with(wanted.as_bytes()))
            })
        };
        // Times have one length, the most significant digits first: text order is time order.
        let time = || member(line, "time").and_then(|time| time.get(..19)).unwrap_or_default();
        is("id", id)
            && is("trace_id", trace_id)
            && is("ods", ods)
            && is("from", from)
            && is("to", to)
            && is("outcome", outcome)
            && (refusals.is_empty() || refusals.iter().any(|token| has("refusal", token)))
            && ends(interaction)
            && (asid.is_none() || is("from", asid) || is("to", asid))
            && self.since.as_ref().is_none_or(|since| time() >= since.as_bytes())
            && self.until.as_ref().is_none_or(|until| time() < until.as_bytes())
    }
}

/// Returns the text of a member, as it is written.
///
/// Quotation marks inside text are always written as an escape without one, so what looks like a member is
/// one; and no name occurs twice in a line.
pub(super) fn member<'a>(line: &'a [u8], name: &str) -> Option<&'a [u8]> {
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
        let some = |text: &str| Some(text.to_owned());
        let at = |text: &str| Some(text.parse().unwrap());
        let none = LineFilter::default();
        for (filter, expected) in [
            (none.clone(), true),
            (LineFilter { id: some("AB-1"), ..none.clone() }, true),
            (LineFilter { id: some("zz"), ..none.clone() }, false),
            (LineFilter { trace_id: some("cd-2"), ods: some("a20047"), ..none.clone() }, true),
            (LineFilter { trace_id: some("cd-2"), ods: some("B1"), ..none.clone() }, false),
            (LineFilter { asid: some("1"), ..none.clone() }, true),
            (LineFilter { asid: some("2"), ..none.clone() }, true),
            (LineFilter { asid: some("3"), ..none.clone() }, false),
            (LineFilter { from: some("2"), ..none.clone() }, false),
            (LineFilter { to: some("2"), ..none.clone() }, true),
            (LineFilter { interaction: some("read:patient-1"), ..none.clone() }, true),
            (LineFilter { interaction: some("read:patient"), ..none.clone() }, false),
            (
                LineFilter {
                    outcome: some("refused"),
                    refusals: vec!["claim_missing".to_owned()],
                    ..none.clone()
                },
                true,
            ),
            (LineFilter { since: at("2026-11-22T17:43:53Z"), ..none.clone() }, true),
            (LineFilter { since: at("2026-11-22T17:43:54Z"), ..none.clone() }, false),
            (LineFilter { until: at("2026-11-22T17:43:53Z"), ..none.clone() }, false),
            (LineFilter { until: at("2026-11-22T17:43:54Z"), ..none }, true),
        ] {
            assert_eq!(fits(&filter), expected, "{filter:?}");
        }
    }
}
