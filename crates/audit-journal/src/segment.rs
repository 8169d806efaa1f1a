//! One segment file of the journal, and the folder that holds them.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::read::{SegmentFile, TORN_BYTES_KEPT};

/// The journal's folder, locked by this process.
#[derive(Debug)]
pub(crate) struct JournalFolder {
    pub(crate) path: PathBuf,
    /// The open folder: it holds the lock, and syncing it makes file names durable.
    handle: File,
}

impl JournalFolder {
    /// Opens the folder, creating it if needed, with access for its owner alone.
    ///
    /// # Errors
    /// Returns an error if it cannot be created, or another process holds it.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        if path.is_file() {
            return Err(io::Error::other("this is a file; the journal must be a folder"));
        }
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        if let Some(parent) = path.parent().and_then(|parent| File::open(parent).ok()) {
            // Not every file system can sync a folder.
            parent.sync_all().unwrap_or_default();
        }
        let handle = File::open(path)?;
        match handle.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), handle }),
            Err(TryLockError::WouldBlock) => {
                Err(io::Error::other("another process writes this journal"))
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Makes the names of files in the folder durable.
    fn sync(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    /// Unlocks the folder at once.
    ///
    /// A process that is being started holds copies of all descriptors until it runs its own program, and
    /// closing ours would not unlock the folder before that.
    pub(crate) fn unlock(&self) {
        self.handle.unlock().unwrap_or_default();
    }
}

impl Drop for JournalFolder {
    fn drop(&mut self) {
        self.unlock();
    }
}

/// The segment file that is being written.
#[derive(Debug)]
pub(crate) struct Segment {
    file: File,
    pub(crate) named: SegmentFile,
    /// Device and inode of the file.
    identity: (u64, u64),
    /// Number of bytes that are known to be on disk.
    synced: u64,
    /// Number of bytes that were written, synced or not.
    length: u64,
    began: Instant,
}

/// Location of a segment after a sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SegmentPresence {
    /// Under its own name.
    InPlace,
    /// Under another name: it was moved away, and is complete.
    Moved,
}

impl Segment {
    /// Creates the file for the lines from `first` on.
    ///
    /// An incomplete line that a crash has left under this name was read before, and is discarded. A file
    /// that holds anything else is damaged: it is renamed and kept.
    ///
    /// # Errors
    /// Returns an error if the file cannot be created.
    pub(crate) fn create(folder: &JournalFolder, first: u64) -> io::Result<Self> {
        let named = SegmentFile::new(&folder.path, first);
        let mut file = open(&named.path)?;
        let mut torn = Vec::new();
        (&mut file).take(length(&[0; TORN_BYTES_KEPT]) + 1).read_to_end(&mut torn)?;
        if torn.len() > TORN_BYTES_KEPT || torn.contains(&b'\n') {
            move_aside(&named)?;
            file = open(&named.path)?;
        }
        file.set_len(0)?;
        if let Err(error) = folder.sync() {
            // Leaves no file behind for each attempt.
            fs::remove_file(&named.path).unwrap_or_default();
            return Err(error);
        }
        let identity = identity(&file.metadata()?);
        Ok(Self { file, named, identity, synced: 0, length: 0, began: Instant::now() })
    }

    /// Returns the number of bytes written so far.
    pub(crate) const fn length(&self) -> u64 {
        self.length
    }

    /// Returns the time at which the segment was begun.
    pub(crate) const fn began(&self) -> Instant {
        self.began
    }

    /// Appends bytes. After an error, call [`Segment::settle`].
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.length += length(bytes);
        Ok(())
    }

    /// Returns once all that was written is on disk, in a file that can still be found.
    ///
    /// # Errors
    /// Returns an error if it is not, or if the file was deleted or its length changed. Then call
    /// [`Segment::settle`].
    pub(crate) fn sync(&mut self) -> io::Result<SegmentPresence> {
        self.file.sync_data()?;
        let held = self.file.metadata()?;
        if held.nlink() == 0 {
            return Err(io::Error::other("another program deleted the journal's segment"));
        }
        if held.len() != self.length {
            return Err(io::Error::other(
                "another program changed the length of the journal's segment",
            ));
        }
        self.synced = self.length;
        match fs::symlink_metadata(&self.named.path) {
            Ok(named) if identity(&named) == self.identity => Ok(SegmentPresence::InPlace),
            _ => Ok(SegmentPresence::Moved),
        }
    }

    /// Recovers after an error: opens the file again, and makes sure that `unsynced`, the bytes written since
    /// the last sync, follow the synced ones and are on disk.
    ///
    /// Security: what was not synced is not trusted; a system that failed to write a page may have forgotten
    /// that it should.
    ///
    /// # Errors
    /// Returns an error if they still cannot be written.
    pub(crate) fn settle(&mut self, unsynced: &[u8]) -> io::Result<SyncCheck> {
        let mut file = match OpenOptions::new().append(true).read(true).open(&self.named.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(self.lost()),
            Err(error) => return Err(error),
        };
        let found = file.metadata()?;
        if identity(&found) != self.identity {
            return Ok(self.lost());
        }
        if !self.stands(&mut file, unsynced)? {
            // Bytes that were appended behind a cut go to another segment, and must not be in both.
            if ends_in(&mut file, unsynced)? {
                file.set_len(found.len() - length(unsynced))?;
            }
            return Ok(self.lost());
        }
        file.set_len(self.synced)?;
        self.file = file;
        self.length = self.synced;
        self.append(unsynced)?;
        self.file.sync_data()?;
        self.synced = self.length;
        Ok(SyncCheck::Whole)
    }

    /// Returns true if the synced bytes are followed by nothing but a beginning of `unsynced`.
    fn stands(&self, file: &mut File, unsynced: &[u8]) -> io::Result<bool> {
        if file.metadata()?.len() < self.synced {
            return Ok(false);
        }
        file.seek(SeekFrom::Start(self.synced))?;
        let mut behind = Vec::new();
        file.take(length(unsynced) + 1).read_to_end(&mut behind)?;
        Ok(unsynced.starts_with(&behind))
    }

    /// Returns [`SyncCheck::SegmentLost`]. A deleted file is emptied, since it takes up space for as long as it is
    /// open.
    fn lost(&self) -> SyncCheck {
        if self.file.metadata().is_ok_and(|held| held.nlink() == 0) {
            self.file.set_len(0).unwrap_or_default();
        }
        SyncCheck::SegmentLost
    }
}

/// Renames a damaged file, so that its name is free.
fn move_aside(damaged: &SegmentFile) -> io::Result<()> {
    let mut names =
        (0..=u32::MAX).map(|number| damaged.path.with_extension(format!("damaged-{number}")));
    let free = names.find(|path| !path.exists()).ok_or(io::ErrorKind::AlreadyExists)?;
    tracing::error!(
        file = damaged.name(),
        renamed = %free.display(),
        "a file in the audit journal's folder is damaged: it is renamed, keep it"
    );
    fs::rename(&damaged.path, free)
}

/// Result of [`Segment::settle`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SyncCheck {
    /// Everything is on disk.
    Whole,
    /// The file was deleted, cut or changed by another program: nothing more is written to it.
    SegmentLost,
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(path)
}

fn identity(of: &Metadata) -> (u64, u64) {
    (of.dev(), of.ino())
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn ends_in(file: &mut File, end: &[u8]) -> io::Result<bool> {
    let Some(at) = file.metadata()?.len().checked_sub(length(end)) else { return Ok(false) };
    file.seek(SeekFrom::Start(at))?;
    let mut tail = Vec::new();
    file.take(length(end)).read_to_end(&mut tail)?;
    Ok(tail == end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_let_go_can_be_opened_though_a_copy_of_its_descriptor_lives() {
        let folder = tempfile::tempdir().unwrap();
        let journal = JournalFolder::open(folder.path()).unwrap();
        let inherited = journal.handle.try_clone().unwrap();
        assert!(JournalFolder::open(folder.path()).is_err(), "one process at a time");
        drop(journal);
        JournalFolder::open(folder.path()).unwrap();
        drop(inherited);
    }
}
