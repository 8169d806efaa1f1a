//! Files with checkpoints: one beside each segment, and its copies.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::SignedCheckpoint;
use crate::line::time_text;
use crate::note::SignedNote;
use crate::read::{CHECKPOINTS, SegmentReader};

/// One line of a file of checkpoints.
#[derive(Debug, Serialize, Deserialize)]
struct StoredNote {
    time: String,
    size: u64,
    note: String,
}

/// Appends a checkpoint to the file of its segment in a folder, and syncs it.
pub(super) fn append(folder: &Path, signed: &SignedCheckpoint) -> io::Result<()> {
    let SignedCheckpoint { checkpoint, note, segment } = signed;
    let path = segment.checkpoints();
    let path = folder.join(path.file_name().unwrap_or_default());
    let mut options = OpenOptions::new();
    // Security: somebody who may write in a copy must not lead the line into another file.
    let no_link = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
    options.create(true).append(true).read(true).mode(0o600).custom_flags(no_link);
    let mut file = options.open(path)?;
    let is_new = file.metadata()?.len() == 0;
    let (time, note) = (time_text(Timestamp::now()), note.to_string());
    let mut line = Vec::new();
    // A crash may have cut the last line.
    if let Some(last) = file.metadata()?.len().checked_sub(1) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, last)?;
        if byte != *b"\n" {
            line.push(b'\n');
        }
    }
    serde_json::to_writer(&mut line, &StoredNote { time, size: checkpoint.size, note })?;
    line.push(b'\n');
    file.write_all(&line)?;
    file.sync_data()?;
    if is_new { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Returns the files with checkpoints in a folder, oldest first. What is no regular file is ignored.
///
/// # Errors
/// Returns an error if the folder cannot be read.
pub(crate) fn checkpoint_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // Security: opening a pipe would wait for its other end.
        if !entry.file_type()?.is_file() {
            continue;
        }
        let path = entry.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.strip_suffix(CHECKPOINTS).is_some_and(|stem| stem.ends_with('.')) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Passes each note of a file to `each`: of a file of checkpoints, or of a file that is one note.
///
/// Lines that are no notes are skipped; returns their number.
///
/// # Errors
/// Returns an error if the file cannot be read.
pub(crate) fn read_notes(path: &Path, mut each: impl FnMut(SignedNote)) -> io::Result<u64> {
    let mut reader = SegmentReader::open(path)?;
    let mut skipped = 0;
    if let Some(note) = single_note(path)? {
        each(note);
        return Ok(0);
    }
    while let Some(text) = reader.next()? {
        match stored_note(text.bytes) {
            Some(note) => each(note),
            None => skipped += u64::from(!text.bytes.is_empty()),
        }
    }
    Ok(skipped)
}

/// Returns the note that a file is; `None` if it is no note.
fn single_note(path: &Path) -> io::Result<Option<SignedNote>> {
    let limit = u64::try_from(SignedNote::BYTES_MAX).unwrap_or(u64::MAX);
    let mut text = Vec::new();
    File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut text)?;
    Ok(String::from_utf8(text).ok().and_then(|text| text.parse().ok()))
}

/// Returns the note in a line of a file of checkpoints; `None` if it has none.
pub(crate) fn stored_note(line: &[u8]) -> Option<SignedNote> {
    serde_json::from_slice::<StoredNote>(line).ok()?.note.parse().ok()
}
