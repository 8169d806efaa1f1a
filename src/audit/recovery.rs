//! Recovery at a start: where the journal ended, and what a crash left incomplete.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use super::chain::ChainValue;
use super::index::Index;
use super::line::LastLine;
use super::read::{
    self, LineKeys, SegmentFile, SegmentPart, SegmentReader, TornTail, UnfinishedExchange,
    ValidLine,
};

/// State of the journal as a start finds it.
#[derive(Debug)]
pub(super) struct RecoveredState {
    /// The last complete line.
    pub(super) last: LastLine,
    pub(super) torn: Option<TornTail>,
    /// Exchanges that were opened and never closed, in order.
    pub(super) unfinished: Vec<UnfinishedExchange>,
    /// Segment and number of the first line found that is not as it was written, if there is one.
    pub(super) damaged: Option<String>,
    /// Index to write for the last segment, if it has none.
    pub(super) index: Option<(SegmentFile, Index)>,
}

/// Limit: unfinished exchanges that are kept; no more can be open at once.
const UNFINISHED_MAX: usize = 1_000_000;

/// Reads the last segment, and those before it back to the one in which its oldest open exchange began.
///
/// # Errors
/// Returns an error if a segment cannot be read.
pub(super) fn scan(folder: &Path) -> io::Result<RecoveredState> {
    let segments = read::segments(folder)?;
    let mut scan = RecoveryScan::default();
    let mut torn = None;
    // A segment without a complete line was begun just before a crash: the one before it counts as the last.
    let mut last = segments.len();
    while let Some(at) = last.checked_sub(1) {
        last = at;
        let Some(segment) = segments.get(at) else { break };
        let head = scan.begin(segment)?;
        if let Some(oldest_open) = head {
            let first = oldest_open.map_or(at, |seq| {
                segments.partition_point(|segment| segment.first <= seq).saturating_sub(1)
            });
            for segment in segments.iter().take(at + 1).skip(first.min(at)) {
                scan.segment(segment)?;
            }
            torn = scan.torn.take().or(torn);
            break;
        }
        scan.segment(segment)?;
        torn = scan.torn.take();
    }
    let mut unfinished: Vec<_> = scan.open.into_values().collect();
    unfinished.sort_by_key(|exchange| exchange.seq);
    let index = scan.index.zip(scan.named).map(|(index, named)| (named, index));
    Ok(RecoveredState { last: scan.last, torn, unfinished, damaged: scan.damaged, index })
}

#[derive(Default)]
struct RecoveryScan {
    last: LastLine,
    open: HashMap<String, UnfinishedExchange>,
    torn: Option<TornTail>,
    damaged: Option<String>,
    named: Option<SegmentFile>,
    index: Option<Index>,
}

impl RecoveryScan {
    /// Returns the number of the oldest open exchange as a segment's first line states it; the outer `None`
    /// means that the segment has no complete line.
    fn begin(&self, segment: &SegmentFile) -> io::Result<Option<Option<u64>>> {
        let mut reader = SegmentReader::open(&segment.path)?;
        while let Some(text) = reader.next()? {
            if let Some(formed) = ValidLine::from(&text) {
                return Ok(Some(formed.read.oldest_open));
            }
        }
        Ok(None)
    }

    fn note_damage(&mut self, segment: &SegmentFile, line: u64) {
        self.damaged.get_or_insert_with(|| format!("{}, line {line}", segment.name()));
    }

    fn segment(&mut self, segment: &SegmentFile) -> io::Result<()> {
        let mut index = Index::default();
        let mut before: Option<ChainValue> = None;
        self.torn = None;
        read::walk(segment, |number, piece| match piece {
            SegmentPart::NotALine(_) => self.note_damage(segment, number),
            SegmentPart::Half(torn) => self.torn = Some(torn),
            SegmentPart::Line(text, ValidLine { read, body, link }) => {
                let previous = before.or_else(|| read.previous.and_then(|hex| hex.parse().ok()));
                if previous.is_none_or(|previous| previous.next(body) != link) {
                    self.note_damage(segment, number);
                }
                before = Some(link);
                self.last = LastLine { seq: read.seq, link };
                index.add(&read, text.at);
                self.exchange(&read, text.bytes);
            }
        })?;
        self.index = Index::is_missing(segment).then_some(index);
        self.named = Some(segment.clone());
        Ok(())
    }

    fn exchange(&mut self, read: &LineKeys<'_>, line: &[u8]) {
        match (read.event, read.id) {
            ("opened", Some(id)) if self.open.len() < UNFINISHED_MAX => {
                if let Ok(exchange) = serde_json::from_slice(line) {
                    self.open.insert(id.to_owned(), exchange);
                }
            }
            ("closed" | "unfinished", Some(id)) => drop(self.open.remove(id)),
            _ => {}
        }
    }
}
