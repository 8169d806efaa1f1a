//! Searches in the journal: through the segments' indexes if an id is given, line by line otherwise. Memory
//! is bounded whatever the journal's size.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    each: impl FnMut(&[u8]) -> ControlFlow<()>,
) -> io::Result<()> {
    JournalSearch::new(folder, filter, how).read_on(each).map(drop)
}

/// Search that can be continued: lines that are written later are found by reading on.
#[derive(Debug)]
pub struct JournalSearch<'a> {
    folder: &'a Path,
    matcher: Matcher<'a>,
    how: SearchMethod,
    /// Segment that was read last, and the offset in bytes up to which it was read.
    read_to: Option<(SegmentFile, u64)>,
    stop: Arc<AtomicBool>,
}

impl<'a> JournalSearch<'a> {
    /// Returns a search that begins with the journal's first line.
    #[must_use]
    pub fn new(folder: &'a Path, filter: &'a LineFilter, how: SearchMethod) -> Self {
        let matcher = Matcher::new(filter);
        Self { folder, matcher, how, read_to: None, stop: Arc::default() }
    }

    /// Has reading break off soon after `stop` becomes true.
    #[must_use]
    pub fn stopped_by(self, stop: Arc<AtomicBool>) -> Self {
        Self { stop, ..self }
    }

    /// Passes every line that matches and has not been read yet to `each`, in the journal's order; returns a
    /// break if `each` or the stop has broken off. A line that is still being written is left for the next time.
    ///
    /// # Errors
    /// Returns an error if a segment cannot be read, or the folder holds none that is not compressed.
    pub fn read_on(
        &mut self,
        mut each: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> io::Result<ControlFlow<()>> {
        // A segment that has a successor here is complete.
        let segments = segments(self.folder)?;
        let read_before = self.read_to.as_ref().map_or(0, |(segment, _)| segment.first);
        for (at, segment) in segments.iter().enumerate() {
            if segment.first < read_before || self.is_before(segments.get(at + 1))? {
                continue;
            }
            if self.is_after(segment)? {
                break;
            }
            match self.read_segment(segment, &mut each) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(flow @ ControlFlow::Break(())) => return Ok(flow),
                // It was moved away since the folder was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Returns true if all lines of a segment are too early, given its successor: its first line is later.
    fn is_before(&self, next: Option<&SegmentFile>) -> io::Result<bool> {
        let (Some(since), Some(next)) = (self.matcher.filter.since, next) else { return Ok(false) };
        Ok(begins(next)?.is_some_and(|begins| begins.as_second() + SLACK_S < since.as_second()))
    }

    /// Returns true if all lines of a segment are too late.
    fn is_after(&self, segment: &SegmentFile) -> io::Result<bool> {
        let Some(until) = self.matcher.filter.until else { return Ok(false) };
        Ok(begins(segment)?.is_some_and(|begins| begins.as_second() - SLACK_S > until.as_second()))
    }

    fn read_segment(
        &mut self,
        segment: &SegmentFile,
        each: &mut impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> io::Result<ControlFlow<()>> {
        let read_before = self.read_to.take().filter(|(before, _)| before == segment);
        let id = self.matcher.filter.members.iter().find_map(MemberFilter::indexed);
        if let (Some(id), SearchMethod::Indexed, None) = (id, self.how, &read_before)
            // An index that cannot be read counts as missing. Only a finished segment has one.
            && let Some(at) = found(segment, id)
        {
            self.read_to = Some((segment.clone(), segment.path.metadata()?.len()));
            return listed(segment, &at, &self.matcher, each);
        }
        let from = read_before.map_or(0, |(_, offset)| offset);
        let (to, flow) = self.scanned(segment, from, each)?;
        self.read_to = Some((segment.clone(), to));
        Ok(flow)
    }

    /// Reads a segment line by line from an offset on; returns the end of the last whole line.
    fn scanned(
        &self,
        segment: &SegmentFile,
        from: u64,
        each: &mut impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> io::Result<(u64, ControlFlow<()>)> {
        let mut reader = SegmentReader::open_at(&segment.path, from)?;
        let mut to = from;
        while let Some(text) = reader.next()? {
            // A line that is too long to be one comes in parts.
            if text.is_last() {
                break;
            }
            to = text.end();
            let is_match = text.is_whole && self.matcher.fits(text.bytes);
            if (is_match && each(text.bytes).is_break()) || self.stop.load(Ordering::Relaxed) {
                return Ok((to, ControlFlow::Break(())));
            }
        }
        Ok((to, ControlFlow::Continue(())))
    }
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
#[derive(Debug)]
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

    /// Returns a line with a chain value and its line feed.
    fn chained(line: &str) -> Vec<u8> {
        let mut text = line.strip_suffix('}').unwrap().as_bytes().to_vec();
        chain::ChainValue::ORIGIN.next(&text).end(&mut text);
        text
    }

    fn write(path: &Path, lines: &[&str]) {
        let text: Vec<u8> = lines.iter().flat_map(|line| chained(line)).collect();
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.create(true).append(true).open(path).unwrap();
        io::Write::write_all(&mut file, &text).unwrap();
    }

    #[test]
    fn a_search_reads_on_through_lines_and_segments_that_are_written_later() {
        let folder = tempfile::tempdir().unwrap();
        let segment = |first: u64| SegmentFile::new(folder.path(), first).path;
        let line = |seq: u64| format!(r#"{{"seq":{seq},"event":"closed"}}"#);
        let filter = LineFilter::default();
        let mut search = JournalSearch::new(folder.path(), &filter, SearchMethod::Indexed);
        assert!(search.read_on(|_| ControlFlow::Continue(())).is_err(), "no segment yet");
        let mut next = || {
            let mut found = Vec::new();
            let each = |line: &[u8]| {
                let end = memchr(b',', line).unwrap();
                found.push(String::from_utf8_lossy(&line[b"{\"seq\":".len()..end]).into_owned());
                ControlFlow::Continue(())
            };
            assert!(search.read_on(each).unwrap().is_continue());
            found.join(" ")
        };
        write(&segment(1), &[&line(1), &line(2)]);
        assert_eq!(next(), "1 2");
        assert_eq!(next(), "");
        write(&segment(1), &[&line(3)]);
        let mut file = std::fs::OpenOptions::new().append(true).open(segment(1)).unwrap();
        let fourth = chained(&line(4));
        let (begin, rest) = fourth.split_at(20);
        io::Write::write_all(&mut file, begin).unwrap();
        assert_eq!(next(), "3");
        io::Write::write_all(&mut file, rest).unwrap();
        write(&segment(5), &[&line(5)]);
        write(&segment(6), &[&line(6)]);
        assert_eq!(next(), "4 5 6");
        std::fs::remove_file(segment(1)).unwrap();
        std::fs::remove_file(segment(5)).unwrap();
        write(&segment(6), &[&line(7)]);
        assert_eq!(next(), "7");
    }

    #[test]
    fn a_search_breaks_off_when_it_is_told_to_stop_and_reads_on_from_there() {
        let folder = tempfile::tempdir().unwrap();
        let lines = [1, 2, 3].map(|seq| format!(r#"{{"seq":{seq},"event":"closed"}}"#));
        write(&SegmentFile::new(folder.path(), 1).path, &lines.each_ref().map(String::as_str));
        let (filter, stop) = (LineFilter::default(), Arc::new(AtomicBool::new(true)));
        let search = JournalSearch::new(folder.path(), &filter, SearchMethod::Indexed);
        let mut search = search.stopped_by(Arc::clone(&stop));
        let mut count = 0;
        let mut each = |_: &[u8]| {
            count += 1;
            ControlFlow::Continue(())
        };
        assert!(search.read_on(&mut each).unwrap().is_break());
        stop.store(false, Ordering::Relaxed);
        assert!(search.read_on(&mut each).unwrap().is_continue());
        assert_eq!(count, 3);
    }
}
