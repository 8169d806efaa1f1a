//! What a start finds: where the journal stood, and what a crash has left undone.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use super::chain::Link;
use super::index::Index;
use super::line::Last;
use super::read::{self, Formed, Named, Piece, Read, Reader, Torn, Unfinished};

/// What was found.
#[derive(Debug)]
pub(super) struct Found {
    /// The last whole line.
    pub(super) last: Last,
    pub(super) torn: Option<Torn>,
    /// Exchanges that were opened and never closed, in their order.
    pub(super) unfinished: Vec<Unfinished>,
    /// The first line of the last segment that is not what was written, if one is not.
    pub(super) damaged: Option<String>,
    /// For the last segment, if it has no index of its own.
    pub(super) index: Option<(Named, Index)>,
}

/// Limit: unfinished exchanges that are remembered; no more can be open at once.
const UNFINISHED_MAX: usize = 1_000_000;

/// Reads the last segment, and those before it that its oldest open exchange began in.
///
/// # Errors
/// A segment cannot be read.
pub(super) fn scan(folder: &Path) -> io::Result<Found> {
    let segments = read::segments(folder)?;
    let mut scan = Scan::default();
    let mut torn = None;
    // A segment without a whole line was begun just before a crash: the one before it is the last.
    let mut last = segments.len();
    while let Some(at) = last.checked_sub(1) {
        last = at;
        let Some(segment) = segments.get(at) else { break };
        let head = scan.begin(segment)?;
        if let Some(oldest_open) = head {
            let first = oldest_open.map_or(at, |seq| {
                segments.partition_point(|segment| segment.first <= seq).saturating_sub(1)
            });
            for segment in segments.get(first.min(at)..=at).unwrap_or_default() {
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
    Ok(Found { last: scan.last, torn, unfinished, damaged: scan.damaged, index })
}

#[derive(Default)]
struct Scan {
    last: Last,
    open: HashMap<String, Unfinished>,
    torn: Option<Torn>,
    damaged: Option<String>,
    named: Option<Named>,
    index: Option<Index>,
}

impl Scan {
    /// What the first line of a segment says of the oldest exchange open then; nothing if the segment
    /// has no whole line.
    fn begin(&self, segment: &Named) -> io::Result<Option<Option<u64>>> {
        let mut reader = Reader::open(&segment.path)?;
        while let Some(text) = reader.next()? {
            if let Some(formed) = Formed::from(&text) {
                return Ok(Some(formed.read.oldest_open));
            }
        }
        Ok(None)
    }

    fn is_damaged(&mut self, segment: &Named, line: u64) {
        self.damaged.get_or_insert_with(|| format!("{}, line {line}", segment.name()));
    }

    fn segment(&mut self, segment: &Named) -> io::Result<()> {
        let mut index = Index::default();
        let mut before: Option<Link> = None;
        self.torn = None;
        read::walk(segment, |number, piece| match piece {
            Piece::NotALine(_) => self.is_damaged(segment, number),
            Piece::Half(torn) => self.torn = Some(torn),
            Piece::Line(text, Formed { read, body, link }) => {
                let previous = before.or_else(|| read.previous.and_then(|hex| hex.parse().ok()));
                if previous.is_none_or(|previous| previous.next(body) != link) {
                    self.is_damaged(segment, number);
                }
                before = Some(link);
                self.last = Last { seq: read.seq, link };
                index.add(&read, text.at);
                self.exchange(&read, text.bytes);
            }
        })?;
        self.index = Index::is_missing(segment).then_some(index);
        self.named = Some(segment.clone());
        Ok(())
    }

    fn exchange(&mut self, read: &Read<'_>, line: &[u8]) {
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
