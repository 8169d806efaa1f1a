//! Leaves of the tree as the segments hold them, and proofs made of them.

use std::io;
use std::ops::Range;
use std::path::Path;

use crate::chain;
use crate::read::{self, SegmentFile, SegmentReader, ValidLine};
use crate::tree::{self, Frontier, RangeHasher, TreeHash};

/// Leaves of the tree in their order, read from the segments.
#[derive(Debug)]
pub(crate) struct Leaves {
    segments: std::vec::IntoIter<SegmentFile>,
    reader: SegmentReader,
    /// The tree before the first leaf.
    start: Frontier,
}

impl Leaves {
    /// Begins with the segment that holds the line with this number, or with the last line before it; `None`
    /// if there is none, or it states no tree.
    ///
    /// # Errors
    /// Returns an error if a segment cannot be read.
    pub(crate) fn from_segment_of(folder: &Path, seq: u64) -> io::Result<Option<Self>> {
        let segments = read::segments(folder)?;
        let at = segments.partition_point(|segment| segment.first <= seq).checked_sub(1);
        let mut segments = segments.into_iter().skip(at.unwrap_or(usize::MAX)).collect::<Vec<_>>();
        if segments.is_empty() {
            return Ok(None);
        }
        let first = segments.remove(0);
        let mut reader = SegmentReader::open(&first.path)?;
        let start = match reader.next()? {
            Some(text) => ValidLine::from(&text).and_then(|line| line.read.frontier()),
            None => None,
        };
        let Some(start) = start else { return Ok(None) };
        // From the beginning once more: the first line is a leaf too.
        let reader = SegmentReader::open(&first.path)?;
        Ok(Some(Self { segments: segments.into_iter(), reader, start }))
    }

    /// Returns the tree over the first `size` lines, and the one over the first `lines`; `None` if the journal
    /// does not hold enough to make them.
    ///
    /// # Errors
    /// Returns an error if a segment cannot be read.
    pub(crate) fn trees(
        folder: &Path,
        size: u64,
        lines: u64,
    ) -> io::Result<Option<(Frontier, Frontier)>> {
        // The segment with the last of these lines, or the one after it if that was deleted.
        let leaves = match Self::from_segment_of(folder, size)? {
            Some(leaves) => Some(leaves),
            None => Self::from_segment_of(folder, size.saturating_add(1))?,
        };
        let Some(mut leaves) = leaves else { return Ok(None) };
        let mut tree = leaves.start.clone();
        let mut then = (tree.size() == size).then(|| tree.clone());
        while tree.size() < lines {
            let Some(leaf) = leaves.next()? else { return Ok(None) };
            tree.push(leaf);
            if tree.size() == size {
                then = Some(tree.clone());
            }
        }
        Ok(then.map(|then| (then, tree)))
    }

    /// Returns the next leaf; `None` at the end of the journal. Text that is no line is passed over.
    fn next(&mut self) -> io::Result<Option<TreeHash>> {
        loop {
            match self.reader.next()? {
                Some(text) => {
                    if let (true, Some((_, link))) = (text.is_whole, chain::split(text.bytes)) {
                        return Ok(Some(TreeHash::leaf(link.as_bytes())));
                    }
                }
                None => match self.segments.next() {
                    Some(segment) => self.reader = SegmentReader::open(&segment.path)?,
                    None => return Ok(None),
                },
            }
        }
    }

    /// Returns the hashes of these ranges of leaves; `None` if the journal does not hold them.
    fn hashes(mut self, ranges: Vec<Range<u64>>) -> io::Result<Option<Vec<TreeHash>>> {
        let end = ranges.iter().map(|range| range.end).max().unwrap_or_default();
        let mut size = self.start.size();
        let Some(mut hasher) = RangeHasher::new(ranges, &self.start) else { return Ok(None) };
        while size < end {
            let Some(leaf) = self.next()? else { return Ok(None) };
            hasher.push(leaf);
            size += 1;
        }
        Ok(hasher.finish())
    }
}

/// Returns the inclusion proof of a line in the tree over the first `size` lines (RFC 9162, 2.1.3); `None` if
/// the journal does not hold enough to make it.
///
/// # Errors
/// Returns an error if a segment cannot be read.
pub(crate) fn inclusion(folder: &Path, seq: u64, size: u64) -> io::Result<Option<Vec<TreeHash>>> {
    let ranges = seq.checked_sub(1).and_then(|index| tree::inclusion_ranges(index, size));
    let (Some(ranges), Some(leaves)) = (ranges, Leaves::from_segment_of(folder, seq)?) else {
        return Ok(None);
    };
    leaves.hashes(ranges)
}

/// Returns the proof that the tree over the first `size` lines extends the one over the first `old` (RFC
/// 9162, 2.1.4); `None` if the journal does not hold enough to make it.
///
/// # Errors
/// Returns an error if a segment cannot be read.
pub fn consistency(folder: &Path, old: u64, size: u64) -> io::Result<Option<Vec<TreeHash>>> {
    let Some(ranges) = tree::consistency_ranges(old, size) else { return Ok(None) };
    let Some(leaves) = Leaves::from_segment_of(folder, old)? else { return Ok(None) };
    leaves.hashes(ranges)
}
