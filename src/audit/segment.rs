//! One file of the journal, and the folder it lies in.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{Advice, fadvise};

use super::read::{Named, TORN_BYTES_KEPT};

/// The journal's folder, held by this process alone.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    /// Locked; and what makes a file's name last.
    handle: File,
}

impl Folder {
    /// Opens the folder, made if need be, with access for its owner alone.
    ///
    /// # Errors
    /// It cannot be made or is held by another process.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if path.is_file() {
            return Err(io::Error::other("this is a file; the journal is a folder"));
        }
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let handle = File::open(path)?;
        match handle.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), handle }),
            Err(TryLockError::WouldBlock) => {
                Err(io::Error::other("another process writes this journal"))
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Makes the names in it last.
    fn sync(&self) -> io::Result<()> {
        self.handle.sync_all()
    }
}

/// The file that is written now.
#[derive(Debug)]
pub(super) struct Segment {
    file: File,
    pub(super) named: Named,
    /// Device and inode.
    identity: (u64, u64),
    /// Bytes that are on disk for certain.
    synced: u64,
    /// Bytes that were handed over.
    length: u64,
    began: Instant,
}

/// Where a segment is found after it was synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Under its name.
    InPlace,
    /// Under another: somebody has moved it. All of it is there.
    Moved,
}

impl Segment {
    /// A new file for the lines from `first` on. Half a line that a crash has left under this name was
    /// read before and makes way.
    ///
    /// # Errors
    /// It cannot be made, or more than half a line stands there.
    pub(super) fn create(folder: &Folder, first: u64) -> io::Result<Self> {
        let named = Named::new(&folder.path, first);
        let file = open(&named.path)?;
        if file.metadata()?.len() > length(&[0; TORN_BYTES_KEPT]) {
            let why = format!("{} is damaged: move it away, and keep it", named.name());
            return Err(io::Error::other(why));
        }
        file.set_len(0)?;
        folder.sync()?;
        let identity = identity(&file.metadata()?);
        Ok(Self { file, named, identity, synced: 0, length: 0, began: Instant::now() })
    }

    /// Bytes handed over so far.
    pub(super) const fn length(&self) -> u64 {
        self.length
    }

    /// When it was begun.
    pub(super) const fn began(&self) -> Instant {
        self.began
    }

    /// Hands bytes over. After an error, [`Segment::settle`].
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.length += length(bytes);
        Ok(())
    }

    /// Returns once all that was handed over is on disk, in a file that can still be found.
    ///
    /// # Errors
    /// It is not, or somebody has deleted or cut the file. After an error, [`Segment::settle`].
    pub(super) fn sync(&mut self) -> io::Result<Standing> {
        self.file.sync_data()?;
        let held = self.file.metadata()?;
        if held.nlink() == 0 {
            return Err(io::Error::other("somebody has deleted the segment"));
        }
        if held.len() != self.length {
            return Err(io::Error::other("somebody has changed the segment's length"));
        }
        // What is on disk is not read again, and its pages are of more use for what comes next. Not every
        // file system takes the advice.
        fadvise(&self.file, self.synced, None, Advice::DontNeed).unwrap_or_default();
        self.synced = self.length;
        match fs::symlink_metadata(&self.named.path) {
            Ok(named) if identity(&named) == self.identity => Ok(Standing::InPlace),
            _ => Ok(Standing::Moved),
        }
    }

    /// After an error: opens the file again and makes sure that `unsynced`, what was handed over since
    /// it was last synced, stands at its end, once, and is on disk. Security: what was not synced is not
    /// trusted; a system that failed to write a page may have forgotten that it should.
    ///
    /// # Errors
    /// It still cannot be written.
    pub(super) fn settle(&mut self, folder: &Folder, unsynced: &[u8]) -> io::Result<Settled> {
        let mut file = open(&self.named.path)?;
        let found = file.metadata()?;
        let is_ours = identity(&found) == self.identity && found.len() >= self.synced;
        let base = if is_ours {
            file.set_len(self.synced)?;
            self.synced
        } else if ends_in(&mut file, found.len(), unsynced)? {
            found.len() - length(unsynced)
        } else {
            found.len()
        };
        if base + length(unsynced) != file.metadata()?.len() {
            file.write_all(unsynced)?;
        }
        file.sync_data()?;
        folder.sync()?;
        (self.file, self.identity) = (file, identity(&found));
        self.length = base + length(unsynced);
        self.synced = self.length;
        Ok(if is_ours { Settled::Whole } else { Settled::Bereft })
    }
}

/// What [`Segment::settle`] has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// Nothing is missing.
    Whole,
    /// Lines that were on disk are gone: somebody has deleted or cut the file.
    Bereft,
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

fn ends_in(file: &mut File, bytes: u64, end: &[u8]) -> io::Result<bool> {
    let Some(at) = bytes.checked_sub(length(end)) else { return Ok(false) };
    file.seek(SeekFrom::Start(at))?;
    let mut tail = Vec::new();
    file.take(length(end)).read_to_end(&mut tail)?;
    Ok(tail == end)
}
