//! Index of a finished segment: a sorted table, in a file beside it, of the offsets of ids and trace ids. It
//! makes searches fast and proves nothing: what it finds is checked in the segment.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use bytesize::ByteSize;

use super::read::{LineKeys, SegmentFile};

/// Index under construction: keys of ids and offsets of their lines, 16 bytes each.
#[derive(Debug, Default)]
pub(super) struct Index(Vec<(u64, u32)>);

/// Limit: setting for the size of a segment, since offsets in its index have 32 bits.
pub const SEGMENT_BYTES_MAX: ByteSize = ByteSize::gib(2);

const MAGIC: &[u8; 8] = b"SPINEIX2";
/// Length of an index's head: magic number, the segment's length and the number of entries, both
/// little-endian.
const HEAD_BYTES: usize = 24;
/// Length of an entry: a key and an offset, both little-endian.
const ENTRY_BYTES: usize = 12;

impl Index {
    /// Adds the ids of a line that begins at this offset.
    pub(super) fn add(&mut self, line: &LineKeys<'_>, at: u64) {
        for id in [line.id, line.trace_id].into_iter().flatten() {
            self.add_id(id, at);
        }
    }

    /// Adds one id of a line that begins at this offset.
    pub(super) fn add_id(&mut self, id: &str, at: u64) {
        self.add_key(key(id.as_bytes()), at);
    }

    /// Adds the key of an id of a line that begins at this offset; ignored if the offset exceeds 32 bits.
    pub(super) fn add_key(&mut self, key: u64, at: u64) {
        if let Ok(at) = u32::try_from(at) {
            self.0.push((key, at));
        }
    }

    /// Writes the index beside its segment, whole or not at all.
    pub(super) fn write(mut self, segment: &SegmentFile) -> io::Result<()> {
        self.0.sort_unstable();
        let length = segment.path.metadata()?.len();
        let count = u64::try_from(self.0.len()).unwrap_or(u64::MAX);
        let (path, aside) = (path(segment), segment.path.with_extension("aside"));
        let mut options = OpenOptions::new();
        let file = options.create(true).write(true).truncate(true).mode(0o600).open(&aside)?;
        let mut out = BufWriter::new(file);
        out.write_all(MAGIC)?;
        out.write_all(&length.to_le_bytes())?;
        out.write_all(&count.to_le_bytes())?;
        for (key, at) in self.0 {
            out.write_all(&key.to_le_bytes())?;
            out.write_all(&at.to_le_bytes())?;
        }
        out.into_inner()?.sync_all()?;
        std::fs::rename(aside, path)
    }

    /// Returns true if a segment has no index, or one made when its length was different.
    pub(super) fn is_missing(segment: &SegmentFile) -> bool {
        !matches!(IndexTable::open(segment), Ok(Some(_)))
    }
}

/// Index of a segment, as read from its file.
#[derive(Debug)]
pub(super) struct IndexTable {
    file: File,
    count: u64,
}

impl IndexTable {
    /// Opens the index of a segment; `None` if there is none or the segment has changed since.
    pub(super) fn open(segment: &SegmentFile) -> io::Result<Option<Self>> {
        let file = match File::open(path(segment)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut head = [0; HEAD_BYTES];
        if file.read_exact_at(&mut head, 0).is_err() {
            return Ok(None);
        }
        let number = |at: usize| {
            let bytes = head.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
            u64::from_le_bytes(bytes.unwrap_or_default())
        };
        let entries = number(16).checked_mul(u64::try_from(ENTRY_BYTES).unwrap_or(u64::MAX));
        let length = entries.and_then(|bytes| bytes.checked_add(u64::try_from(HEAD_BYTES).ok()?));
        let fits = head.starts_with(MAGIC)
            && number(8) == segment.path.metadata()?.len()
            && length == Some(file.metadata()?.len());
        Ok(fits.then(|| Self { file, count: number(16) }))
    }

    /// Returns the offsets at which lines with this id may begin, in ascending order.
    pub(super) fn find(&self, id: &str) -> io::Result<Vec<u64>> {
        let wanted = key(id.as_bytes());
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.entry(middle)?.0 < wanted { low = middle + 1 } else { high = middle }
        }
        let mut found = Vec::new();
        while low < self.count
            && let (key, at) = self.entry(low)?
            && key == wanted
        {
            found.push(at.into());
            low += 1;
        }
        Ok(found)
    }

    fn entry(&self, number: u64) -> io::Result<(u64, u32)> {
        let mut entry = [0; ENTRY_BYTES];
        let bytes = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let at = number.saturating_mul(bytes(ENTRY_BYTES)).saturating_add(bytes(HEAD_BYTES));
        self.file.read_exact_at(&mut entry, at)?;
        let [a, b, c, d, e, f, g, h, i, j, k, l] = entry;
        Ok((u64::from_le_bytes([a, b, c, d, e, f, g, h]), u32::from_le_bytes([i, j, k, l])))
    }
}

fn path(segment: &SegmentFile) -> PathBuf {
    segment.path.with_extension("index")
}

/// Returns a 64-bit hash of an id in which letter case does not count, in the manner of FNV-1a, eight bytes a
/// step.
///
/// Ids with the same hash are told apart in the segment.
pub(super) fn key(id: &[u8]) -> u64 {
    /// Bits that turn capitals into small letters; digits and hyphens have them already.
    const SMALL: u64 = 0x2020_2020_2020_2020;
    let (steps, rest) = id.as_chunks();
    let mut last = [b' '; 8];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    let last = (!rest.is_empty()).then_some(&last);
    steps.iter().chain(last).fold(0xcbf2_9ce4_8422_2325, |key: u64, step| {
        let mixed = (key ^ (u64::from_le_bytes(*step) | SMALL)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 32)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_listed_is_found_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let segment = SegmentFile::new(folder.path(), 1);
        std::fs::write(&segment.path, [0; 3000]).unwrap();
        let mut index = Index::default();
        for at in 0..1000_u64 {
            index.add_id(&format!("id-{}", at % 500), at);
        }
        assert!(Index::is_missing(&segment));
        index.write(&segment).unwrap();
        assert!(!Index::is_missing(&segment));
        let table = IndexTable::open(&segment).unwrap().unwrap();
        for at in 0..500_u64 {
            assert_eq!(table.find(&format!("ID-{at}")).unwrap(), [at, at + 500]);
        }
        assert!(table.find("id-500").unwrap().is_empty());
        std::fs::write(&segment.path, [0; 3001]).unwrap();
        assert!(Index::is_missing(&segment), "the segment has changed");
    }
}
