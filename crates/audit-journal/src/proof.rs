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
    /// The segments that follow the one that is read.
    segments: std::vec::IntoIter<SegmentFile>,
    segment: SegmentFile,
    reader: SegmentReader,
    /// The tree before the first leaf.
    start: Frontier,
    /// Number of leaves before the next one.
    size: u64,
}

impl Leaves {
    /// Begins with the segment that holds the line with this number, or with the last line before it; `None`
    /// if there is none, or it states no tree.
    ///
    /// # Errors
    /// Returns an error if a segment cannot be read.
    fn from_segment_of(folder: &Path, seq: u64) -> io::Result<Option<Self>> {
        let segments = read::segments(folder)?;
        let at = segments.partition_point(|segment| segment.first <= seq).checked_sub(1);
        let mut segments = segments.into_iter();
        let Some(segment) = at.and_then(|at| segments.nth(at)) else { return Ok(None) };
        let start = match SegmentReader::open(&segment.path)?.next()? {
            Some(text) => ValidLine::from(&text).and_then(|line| line.read.frontier()),
            None => None,
        };
        let Some(start) = start else { return Ok(None) };
        // From the beginning once more: the first line is a leaf too.
        let reader = SegmentReader::open(&segment.path)?;
        let size = start.size();
        Ok(Some(Self { segments, segment, reader, start, size }))
    }

    /// Begins where a proof ended; `None` if its segment is missing.
    fn after(folder: &Path, place: &TreePlace) -> io::Result<Option<Self>> {
        let mut segments = read::segments(folder)?.into_iter();
        let Some(segment) = segments.find(|segment| *segment == place.segment) else {
            return Ok(None);
        };
        let reader = SegmentReader::open_at(&segment.path, place.offset)?;
        let start = place.tree.clone();
        let size = start.size();
        Ok(Some(Self { segments, segment, reader, start, size }))
    }

    /// Makes something of the leaves of the segment with this line; or of those after it, if that was
    /// deleted.
    fn near<T>(
        folder: &Path,
        size: u64,
        make: impl Fn(Self) -> io::Result<Option<T>>,
    ) -> io::Result<Option<T>> {
        for seq in [size, size.saturating_add(1)] {
            if let Some(leaves) = Self::from_segment_of(folder, seq)?
                && let Some(made) = make(leaves)?
            {
                return Ok(Some(made));
            }
        }
        Ok(None)
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
        Self::near(folder, size, |mut leaves| {
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
        })
    }

    /// Returns the next leaf; `None` at the end of the journal, or where a segment is missing. Text that is no
    /// line is passed over.
    fn next(&mut self) -> io::Result<Option<TreeHash>> {
        loop {
            match self.reader.next()? {
                Some(text) => {
                    if let (true, Some((_, link))) = (text.is_whole, chain::split(text.bytes)) {
                        self.size += 1;
                        return Ok(Some(TreeHash::leaf(link.as_bytes())));
                    }
                }
                None => match self.segments.next() {
                    Some(segment) if segment.first == self.size + 1 => {
                        self.reader = SegmentReader::open(&segment.path)?;
                        self.segment = segment;
                    }
                    Some(_) | None => return Ok(None),
                },
            }
        }
    }

    /// Returns the hashes of these ranges of leaves; `None` if the journal does not hold them.
    fn hashes(&mut self, ranges: Vec<Range<u64>>) -> io::Result<Option<Proof>> {
        let end = ranges.iter().map(|range| range.end).max().unwrap_or_default();
        let Some(mut hasher) = RangeHasher::new(ranges, &self.start) else { return Ok(None) };
        let mut tree = self.start.clone();
        while self.size < end {
            let Some(leaf) = self.next()? else { return Ok(None) };
            hasher.push(leaf);
            tree.push(leaf);
        }
        let end = TreePlace { tree, segment: self.segment.clone(), offset: self.reader.offset() };
        Ok(hasher.finish().map(|hashes| Proof { hashes, end }))
    }
}

/// Tree over the first lines of a journal, and the place of the next line.
#[derive(Debug, Clone)]
pub struct TreePlace {
    tree: Frontier,
    segment: SegmentFile,
    /// Offset of the next line in the segment, in bytes.
    offset: u64,
}

impl TreePlace {
    /// Returns the number of lines.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.tree.size()
    }
}

/// Hashes that prove something of a tree, and where the leaves end that they were made of.
#[derive(Debug)]
pub struct Proof {
    /// Hashes in the order of the proof.
    pub hashes: Vec<TreeHash>,
    /// The tree over all lines that the hashes were made of.
    pub end: TreePlace,
}

/// Returns the inclusion proof of a line in the tree over the first `size` lines (RFC 9162, 2.1.3); `None` if
/// the journal does not hold enough to make it.
///
/// # Errors
/// Returns an error if a segment cannot be read.
pub(crate) fn inclusion(folder: &Path, seq: u64, size: u64) -> io::Result<Option<Vec<TreeHash>>> {
    let ranges = seq.checked_sub(1).and_then(|index| tree::inclusion_ranges(index, size));
    let (Some(ranges), Some(mut leaves)) = (ranges, Leaves::from_segment_of(folder, seq)?) else {
        return Ok(None);
    };
    Ok(leaves.hashes(ranges)?.map(|proof| proof.hashes))
}

/// Returns the proof that the tree over the first `size` lines extends the one over the first `old` (RFC
/// 9162, 2.1.4); `None` if the journal does not hold enough to make it.
///
/// `known` may be the end of an earlier proof. If it has `old` lines, only the lines after them are read.
///
/// # Errors
/// Returns an error if a segment cannot be read.
pub fn consistency(
    folder: &Path,
    old: u64,
    size: u64,
    known: Option<&TreePlace>,
) -> io::Result<Option<Proof>> {
    let Some(ranges) = tree::consistency_ranges(old, size) else { return Ok(None) };
    if let Some(known) = known.filter(|known| known.size() == old)
        && let Some(mut leaves) = Leaves::after(folder, known)?
        && let Some(proof) = leaves.hashes(ranges.clone())?
    {
        return Ok(Some(proof));
    }
    Leaves::near(folder, old, |mut leaves| leaves.hashes(ranges.clone()))
}
