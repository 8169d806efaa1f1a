//! Recovery at a start: where the journal ended, and what a crash left incomplete.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::JournalObserver;
use crate::chain::ChainValue;
use crate::line::LastLine;
use crate::read::{
    self, ExchangeEvent, LineKeys, SegmentFile, SegmentPart, SegmentReader, TornTail, ValidLine,
};
use crate::tree::{Frontier, TreeHash};

/// State of the journal as a start finds it.
#[derive(Debug)]
pub(crate) struct RecoveredState {
    /// The last complete line.
    pub(crate) last: LastLine,
    /// The tree over all lines, as the last segment states it; `None` if lines are missing, or were written
    /// without a tree.
    pub(crate) tree: Option<Frontier>,
    pub(crate) torn: Option<TornTail>,
    /// Exchanges that were opened and never closed, in order.
    pub(crate) unfinished: Vec<UnfinishedExchange>,
    /// Segment and number of the first line found that is not as it was written, if there is one.
    pub(crate) damaged: Option<String>,
}

impl RecoveredState {
    /// Logs and reports what is not as it should be.
    pub(crate) fn report(&self, observer: &dyn JournalObserver) {
        if let Some(place) = &self.damaged {
            tracing::error!(
                place,
                "the audit journal is not as it was written: keep it, and run `spine-proxy audit \
                 verify`"
            );
            observer.damaged();
        }
        if let Some(TornTail { segment, bytes, .. }) = &self.torn {
            tracing::warn!(
                segment,
                bytes,
                "a crash left an incomplete line at the end of the audit journal: it is kept and \
                 recorded"
            );
        }
    }
}

/// An exchange that was opened and never closed.
#[derive(Debug)]
pub(crate) struct UnfinishedExchange {
    /// Number of its `opened` line.
    pub(crate) seq: u64,
    pub(crate) id: String,
    /// Members of its `opened` line, without those that belong to the line itself.
    pub(crate) members: Map<String, Value>,
}

/// Limit: unfinished exchanges that are kept; no more can be open at once.
const UNFINISHED_MAX: usize = 1_000_000;

/// Reads the last segment, and those before it back to the one in which its oldest open exchange began.
///
/// # Errors
/// Returns an error if a segment cannot be read.
pub(crate) fn scan(folder: &Path) -> io::Result<RecoveredState> {
    let segments = read::segments(folder)?;
    let mut scan = RecoveryScan { tree: Some(Frontier::new()), ..RecoveryScan::default() };
    let mut torn = None;
    // A segment without a complete line was begun just before a crash: the one before it counts as the last.
    let mut last = segments.len();
    while let Some(at) = last.checked_sub(1) {
        last = at;
        let Some(segment) = segments.get(at) else { break };
        if let Some(oldest_open) = oldest_open(segment)? {
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
    let unfinished = scan.unfinished()?;
    let tree = scan.tree.filter(|tree| tree.size() == scan.last.seq);
    Ok(RecoveredState { last: scan.last, tree, torn, unfinished, damaged: scan.damaged })
}

/// Returns the number of the oldest open exchange as a segment's first line states it; the outer `None` means
/// that the segment has no complete line.
fn oldest_open(segment: &SegmentFile) -> io::Result<Option<Option<u64>>> {
    let mut reader = SegmentReader::open(&segment.path)?;
    while let Some(text) = reader.next()? {
        if let Some(formed) = ValidLine::from(&text) {
            return Ok(Some(formed.read.oldest_open));
        }
    }
    Ok(None)
}

#[derive(Default)]
struct RecoveryScan {
    last: LastLine,
    tree: Option<Frontier>,
    open: HashMap<String, OpenedLine>,
    torn: Option<TornTail>,
    damaged: Option<String>,
}

/// Place of an `opened` line.
struct OpenedLine {
    seq: u64,
    segment: PathBuf,
    at: u64,
    bytes: usize,
}

impl RecoveryScan {
    fn note_damage(&mut self, segment: &SegmentFile, line: u64) {
        self.damaged.get_or_insert_with(|| format!("{}, line {line}", segment.name()));
    }

    fn segment(&mut self, segment: &SegmentFile) -> io::Result<()> {
        // Security: a killed process may have written lines and not synced them, and they are signed soon.
        File::open(&segment.path)?.sync_data()?;
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
                self.grow_tree(&read, before.is_none(), link);
                before = Some(link);
                self.last = LastLine { seq: read.seq, link };
                self.exchange(&read, || OpenedLine {
                    seq: read.seq,
                    segment: segment.path.clone(),
                    at: text.at,
                    bytes: text.bytes.len(),
                });
            }
        })
    }

    /// Adds a line to the tree, which a segment's first line states anew. A tree that does not fit the line
    /// is given up.
    fn grow_tree(&mut self, read: &LineKeys<'_>, is_first: bool, link: ChainValue) {
        if is_first {
            self.tree = read.frontier();
        }
        self.tree = self.tree.take().filter(|tree| tree.size() + 1 == read.seq);
        if let Some(tree) = &mut self.tree {
            tree.push(TreeHash::leaf(link.as_bytes()));
        }
    }

    fn exchange(&mut self, read: &LineKeys<'_>, place: impl Fn() -> OpenedLine) {
        match read.exchange() {
            Some((ExchangeEvent::Opened, id)) if self.open.len() < UNFINISHED_MAX => {
                self.open.insert(id.to_owned(), place());
            }
            Some((ExchangeEvent::Closed | ExchangeEvent::Unfinished, id)) => {
                self.open.remove(id);
            }
            Some((ExchangeEvent::Opened, _)) | None => {}
        }
    }

    /// Reads the `opened` lines of the exchanges that are still open.
    fn unfinished(&mut self) -> io::Result<Vec<UnfinishedExchange>> {
        let mut found = Vec::new();
        for (id, OpenedLine { seq, segment, at, bytes }) in self.open.drain() {
            let mut line = vec![0; bytes];
            File::open(segment)?.read_exact_at(&mut line, at)?;
            let Ok(mut members) = serde_json::from_slice::<Map<String, Value>>(&line) else {
                continue;
            };
            members.retain(|name, _| !matches!(&**name, "seq" | "time" | "event" | "chain"));
            found.push(UnfinishedExchange { seq, id, members });
        }
        found.sort_by_key(|exchange| exchange.seq);
        Ok(found)
    }
}
