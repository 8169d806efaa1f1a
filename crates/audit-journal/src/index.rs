//! Index of a finished segment: a table, in a file beside it, of the offsets of ids and trace ids.
//!
//! It makes searches fast and proves nothing: what it finds is checked in the segment, and it can be made anew
//! from the segment at any time.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use redb::backends::FileBackend;
use redb::{Builder, Durability, ReadOnlyDatabase, ReadableDatabase as _, TableDefinition};

use crate::query::member;
use crate::read::{self, SegmentFile, SegmentReader};

/// Members by which lines are found through the index.
pub(crate) const MEMBERS: [&str; 2] = ["id", "trace_id"];
/// Keys of ids, and the offsets at which their lines begin.
const LINES: TableDefinition<'_, (u64, u64), ()> = TableDefinition::new("lines");
/// Facts of the segment for which the index was made.
const FACTS: TableDefinition<'_, &str, u64> = TableDefinition::new("facts");
/// Fact: length of the segment in bytes.
const BYTES: &str = "bytes";
/// Limit: memory of an open index, in bytes.
const CACHE_BYTES: usize = 4 << 20;

/// Error of an index, which is then made anew or done without.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct IndexError(Box<dyn std::error::Error + Send + Sync>);

impl<E: Into<redb::Error>> From<E> for IndexError {
    fn from(error: E) -> Self {
        Self(Box::new(error.into()))
    }
}

fn io(error: std::io::Error) -> IndexError {
    IndexError(Box::new(error))
}

fn path(segment: &SegmentFile) -> PathBuf {
    segment.path.with_extension("index")
}

/// Makes the index of a finished segment, on a thread of its own.
pub(crate) fn build_later(segment: SegmentFile) {
    let started = std::thread::Builder::new().name("index".to_owned()).spawn(move || {
        if let Err(error) = build(&segment) {
            tracing::warn!(
                segment = segment.name(),
                %error,
                "the index of an audit segment could not be written: `audit query` scans the \
                 segment instead"
            );
        }
    });
    if let Err(error) = started {
        tracing::warn!(%error, "no thread could be started for the index of an audit segment: `audit query` scans the segment instead");
    }
}

/// Makes the indexes that finished segments lack, on a thread of its own; the segment that begins with line
/// `current` is still being written.
pub(crate) fn build_missing(folder: PathBuf, current: u64) {
    let build_all = move || {
        let segments = read::segments(&folder).unwrap_or_default();
        for segment in segments.iter().filter(|segment| segment.first < current) {
            if IndexTable::open(segment).is_none()
                && let Err(error) = build(segment)
            {
                tracing::warn!(segment = segment.name(), %error, "the index of an audit segment could not be written: `audit query` scans the segment instead");
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("index".to_owned()).spawn(build_all) {
        tracing::warn!(%error, "no thread could be started for the indexes of audit segments: `audit query` scans the segments instead");
    }
}

/// Writes the index of a segment beside it, whole or not at all.
pub(crate) fn build(segment: &SegmentFile) -> Result<(), IndexError> {
    let aside = segment.path.with_extension("aside");
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true).mode(0o600);
    let file = options.open(&aside).map_err(io)?;
    // A process that is stopping may be making the same index; one that has finished has renamed the file.
    let is_free = file.try_lock().is_ok()
        && fs::metadata(&aside).is_ok_and(|named| {
            file.metadata().is_ok_and(|held| (held.dev(), held.ino()) == (named.dev(), named.ino()))
        });
    if !is_free {
        return Ok(());
    }
    file.set_len(0).map_err(io)?;
    let (entries, bytes) = entries(segment).map_err(io)?;
    let table =
        Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(FileBackend::new(file)?)?;
    let mut change = table.begin_write()?;
    change.set_durability(Durability::Immediate)?;
    {
        let mut lines = change.open_table(LINES)?;
        for entry in entries {
            lines.insert(entry, ())?;
        }
        change.open_table(FACTS)?.insert(BYTES, bytes)?;
    }
    change.commit()?;
    drop(table);
    fs::rename(aside, path(segment)).map_err(io)
}

/// Returns the entries of a segment's index in their order, and the segment's length.
fn entries(segment: &SegmentFile) -> std::io::Result<(Vec<(u64, u64)>, u64)> {
    let mut entries = Vec::new();
    let bytes = each_entry(segment, |entry| entries.push(entry))?;
    entries.sort_unstable();
    Ok((entries, bytes))
}

/// Passes each entry of a segment's index to `each`, in the order of its lines; returns the segment's length.
fn each_entry(segment: &SegmentFile, mut each: impl FnMut((u64, u64))) -> std::io::Result<u64> {
    let mut reader = SegmentReader::open(&segment.path)?;
    let mut bytes = 0;
    while let Some(text) = reader.next()? {
        let [id, trace_id] = MEMBERS.map(|name| member(text.bytes, name).map(key));
        let other = trace_id.filter(|key| Some(*key) != id);
        id.into_iter().chain(other).for_each(|key| each((key, text.at)));
        bytes = text.end();
    }
    Ok(bytes)
}

/// Sum over the entries of an index in any order, which differs for other entries except by a rare chance.
#[derive(Debug, Default, PartialEq, Eq)]
struct EntrySum {
    count: u64,
    keys: u128,
    products: u128,
}

impl EntrySum {
    fn add(&mut self, (key, at): (u64, u64)) {
        let (key, at) = (u128::from(key), u128::from(at) + 1);
        self.count += 1;
        self.keys = self.keys.wrapping_add(key);
        self.products = self.products.wrapping_add(key.wrapping_mul(at));
    }
}

/// Returns the key of an id: eight bytes of its SHA-256, in which letter case does not count. Ids with the
/// same key are told apart in the segment.
fn key(id: &[u8]) -> u64 {
    let hash = digest(&SHA256, &id.to_ascii_lowercase());
    hash.as_ref().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Open index of a segment.
pub(crate) struct IndexTable(ReadOnlyDatabase);

impl IndexTable {
    /// Opens the index of a segment; `None` if there is none that can be read and was made for the segment's
    /// length.
    pub(crate) fn open(segment: &SegmentFile) -> Option<Self> {
        let path = path(segment);
        if !path.exists() {
            return None;
        }
        let table = Builder::new().set_cache_size(CACHE_BYTES).open_read_only(path).ok()?;
        let facts = table.begin_read().ok()?.open_table(FACTS).ok()?;
        let bytes = facts.get(BYTES).ok()??.value();
        (segment.path.metadata().ok()?.len() == bytes).then_some(Self(table))
    }

    /// Returns the offsets at which lines with this id may begin, in ascending order.
    pub(crate) fn find(&self, id: &str) -> Result<Vec<u64>, IndexError> {
        let key = key(id.as_bytes());
        let lines = self.0.begin_read()?.open_table(LINES)?;
        let mut found = Vec::new();
        for entry in lines.range((key, 0)..=(key, u64::MAX))? {
            found.push(entry?.0.value().1);
        }
        Ok(found)
    }

    /// Returns true if the index has exactly the entries that its segment calls for.
    pub(crate) fn is_right(&self, segment: &SegmentFile) -> Result<bool, IndexError> {
        let (mut wanted, mut found) = (EntrySum::default(), EntrySum::default());
        each_entry(segment, |entry| wanted.add(entry)).map_err(io)?;
        let lines = self.0.begin_read()?.open_table(LINES)?;
        for entry in lines.range((0, 0)..)? {
            found.add(entry?.0.value());
        }
        Ok(found == wanted)
    }
}

/// Returns true if a segment has an index file, whatever it holds.
pub(crate) fn exists(segment: &SegmentFile) -> bool {
    Path::exists(&path(segment))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(folder: &Path, lines: u64) -> SegmentFile {
        let segment = SegmentFile::new(folder, 1);
        let line = |number| format!("{{\"seq\":{number},\"id\":\"Id-{}\"}}\n", number % 500);
        fs::write(&segment.path, (0..lines).map(line).collect::<String>()).unwrap();
        segment
    }

    #[test]
    fn lines_are_found_by_their_ids_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let segment = segment(folder.path(), 1000);
        assert!(IndexTable::open(&segment).is_none());
        build(&segment).unwrap();
        let table = IndexTable::open(&segment).unwrap();
        assert!(table.is_right(&segment).unwrap());
        let text = fs::read_to_string(&segment.path).unwrap();
        for number in 0..500_u64 {
            let found = table.find(&format!("iD-{number}")).unwrap();
            let seqs = found.iter().map(|at| text[usize::try_from(*at).unwrap()..].to_owned());
            let begins: Vec<_> =
                seqs.map(|line| line.split(',').next().unwrap().to_owned()).collect();
            assert_eq!(
                begins,
                [format!("{{\"seq\":{number}"), format!("{{\"seq\":{}", number + 500)]
            );
        }
        assert!(table.find("id-500").unwrap().is_empty());
    }

    #[test]
    fn an_index_for_another_length_or_with_other_entries_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let segment = segment(folder.path(), 10);
        build(&segment).unwrap();
        let text = fs::read_to_string(&segment.path).unwrap();
        fs::write(&segment.path, text.replace("Id-3", "Id-4")).unwrap();
        let table = IndexTable::open(&segment).unwrap();
        assert!(!table.is_right(&segment).unwrap());
        fs::write(&segment.path, text + "more\n").unwrap();
        assert!(IndexTable::open(&segment).is_none());
        fs::write(path(&segment), "no database").unwrap();
        assert!(IndexTable::open(&segment).is_none());
    }
}
