//! Signed checkpoints of a journal: when they are signed, and where they are kept.
//!
//! A checkpoint is a signed note (C2SP tlog-checkpoint) that names the journal, the number of its lines and
//! the root of the tree over them. It covers only lines that are on disk. It is kept beside the segment, in
//! the log, and in the folders named as copies.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::JournalObserver;
use crate::line::time_text;
use crate::note::{
    Checkpoint, CheckpointSigner, NoteError, NoteSignature, SignedNote, VerifierKey,
};
use crate::proof::Leaves;
use crate::read::{CHECKPOINTS, SegmentFile, SegmentReader};
use crate::recovery::RecoveredState;
use crate::tree::{Frontier, TreeHead};

/// Settings of the checkpoints of a journal.
#[derive(Debug)]
pub struct CheckpointSettings {
    signers: Vec<CheckpointSigner>,
    every: Duration,
    copies: Vec<PathBuf>,
}

/// Interval at which a checkpoint is signed although no line was added, so that silence is proven too.
pub const IDLE_EVERY: Duration = Duration::from_secs(600);

impl CheckpointSettings {
    /// Returns settings to sign with these keys, all of which sign each checkpoint; `None` without a key or
    /// if their names differ.
    ///
    /// A checkpoint is signed when lines were added, after the time `every` at the latest. Copies go to the
    /// folders `copies`.
    #[must_use]
    pub fn new(
        signers: Vec<CheckpointSigner>,
        every: Duration,
        copies: Vec<PathBuf>,
    ) -> Option<Self> {
        let names = signers.windows(2).all(|pair| match pair {
            [one, other] => one.verifier().name() == other.verifier().name(),
            _ => true,
        });
        (names && !signers.is_empty()).then_some(Self { signers, every, copies })
    }

    /// Returns the name of the journal in its checkpoints.
    #[must_use]
    pub fn origin(&self) -> &str {
        self.signers.first().map_or("", |signer| signer.verifier().name())
    }

    fn verifiers(&self) -> Vec<VerifierKey> {
        self.signers.iter().map(|signer| signer.verifier().clone()).collect()
    }
}

/// A checkpoint and its signatures.
#[derive(Debug, Clone)]
pub struct SignedCheckpoint {
    /// Checkpoint that was signed.
    pub checkpoint: Checkpoint,
    /// The note with its signatures.
    pub note: SignedNote,
    /// The segment that holds its last line.
    segment: SegmentFile,
}

/// State of the signing of a journal's checkpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SigningState {
    /// No key was given.
    Off,
    /// Checkpoints are signed.
    On,
    /// The journal contradicts an earlier checkpoint or has no tree, as the text says: nothing is signed.
    Refused(String),
}

/// State of the signing, as other threads see it.
#[derive(Debug)]
pub(crate) struct Signing {
    state: Mutex<SigningState>,
    /// The newest checkpoint.
    pub(crate) newest: watch::Sender<Option<Arc<SignedCheckpoint>>>,
    places: Vec<Place>,
    observer: Arc<dyn JournalObserver>,
}

impl Signing {
    pub(crate) fn state(&self) -> SigningState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops signing for good.
    ///
    /// Security: two histories signed by one key would convict the key's owner, who did nothing wrong.
    pub(crate) fn refuse(&self, reason: String) {
        tracing::error!(
            reason,
            "the audit journal is not signed any more: keep it and its checkpoints, find out what \
             happened, and begin a new journal under a new audit.checkpoints.origin; requests are \
             served and recorded as before"
        );
        self.observer.signing(false);
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = SigningState::Refused(reason);
    }

    /// Keeps a checkpoint in all places.
    fn keep(&self, checkpoint: &SignedCheckpoint) {
        for place in &self.places {
            place.keep(checkpoint, &*self.observer);
        }
    }

    /// Keeps a checkpoint with the signatures of a witness added.
    pub(crate) fn keep_cosigned(
        &self,
        checkpoint: &SignedCheckpoint,
        signatures: Vec<NoteSignature>,
    ) {
        let mut cosigned = checkpoint.clone();
        match cosigned.note.add_signatures(signatures) {
            Ok(()) => self.keep(&cosigned),
            Err(error) => {
                tracing::error!(%error, "a witness's signature of a checkpoint of the audit journal could not be kept");
            }
        }
    }

    /// Waits until the notes given so far are kept, or the time is over.
    pub(crate) fn finish(&self, within: Duration) {
        let until = Instant::now() + within;
        for place in &self.places {
            let (done, wait) = mpsc::sync_channel(1);
            if place.tasks.try_send(PlaceTask::Report(done)).is_ok() {
                let left = until.saturating_duration_since(Instant::now());
                // A place that does not answer in time was reported when it failed.
                wait.recv_timeout(left).unwrap_or_default();
            }
        }
    }
}

/// Signs the checkpoints of one journal, on the journal's thread.
pub(crate) struct Checkpointer {
    settings: CheckpointSettings,
    signing: Arc<Signing>,
    /// Time of the last checkpoint, and the number of lines in it.
    last: Option<(Instant, u64)>,
}

impl Checkpointer {
    /// Prepares to sign the journal in this folder, unless it contradicts a checkpoint found beside it or in
    /// a copy.
    ///
    /// # Errors
    /// Returns an error if the journal cannot be read, or a thread cannot be started.
    pub(crate) fn begin(
        settings: Option<CheckpointSettings>,
        folder: &Path,
        found: &RecoveredState,
        observer: Arc<dyn JournalObserver>,
    ) -> io::Result<(Option<Self>, Arc<Signing>)> {
        let mut signing = Signing {
            state: Mutex::new(SigningState::Off),
            newest: watch::Sender::new(None),
            places: Vec::new(),
            observer,
        };
        let Some(settings) = settings else { return Ok((None, Arc::new(signing))) };
        signing.state = Mutex::new(SigningState::On);
        signing.observer.signing(true);
        let place = |folder: &Path, kind| {
            Place::start(folder.to_owned(), kind, Arc::clone(&signing.observer))
        };
        let mut places = vec![place(folder, CheckpointPlace::Journal)?];
        for copy in &settings.copies {
            places.push(place(copy, CheckpointPlace::Copy)?);
        }
        signing.places = places;
        if let Some(reason) = contradiction(&settings, folder, found)? {
            signing.refuse(reason);
        }
        let signing = Arc::new(signing);
        Ok((Some(Self { settings, signing: Arc::clone(&signing), last: None }), signing))
    }

    /// Returns the time until a checkpoint is due for a journal of this many lines.
    pub(crate) fn due_in(&self, size: u64) -> Duration {
        let Some((at, signed)) = self.last else { return Duration::ZERO };
        let every = if signed == size { IDLE_EVERY } else { self.settings.every };
        every.saturating_sub(at.elapsed())
    }

    /// Signs a checkpoint of this tree, whose last line is in `segment`.
    pub(crate) fn sign(&mut self, tree: &Frontier, segment: &SegmentFile) {
        if self.signing.state() != SigningState::On {
            self.last = Some((Instant::now(), tree.size()));
            return;
        }
        let now_s = Timestamp::now().as_second();
        let (checkpoint, note) = match self.note(tree, now_s) {
            Ok(signed) => signed,
            Err(error) => {
                tracing::error!(%error, "a checkpoint of the audit journal could not be signed");
                self.signing.observer.checkpoint_failed(CheckpointPlace::Journal);
                return;
            }
        };
        tracing::info!(
            note = note.to_string(),
            "checkpoint of the audit journal: keep it elsewhere, for `audit verify --checkpoints`"
        );
        let signed = SignedCheckpoint { checkpoint, note, segment: segment.clone() };
        self.signing.keep(&signed);
        self.signing.observer.checkpoint(now_s);
        self.last = Some((Instant::now(), tree.size()));
        self.signing.newest.send_replace(Some(Arc::new(signed)));
    }
}

impl Checkpointer {
    fn note(&self, tree: &Frontier, now_s: i64) -> Result<(Checkpoint, SignedNote), NoteError> {
        let head = TreeHead { size: tree.size(), root: tree.root() };
        let checkpoint = Checkpoint::new(self.settings.origin(), head)?;
        let (text, now_s) = (checkpoint.to_string(), u64::try_from(now_s).unwrap_or_default());
        let mut signatures = Vec::new();
        for signer in &self.settings.signers {
            signatures.extend(signer.sign(&text, now_s)?);
        }
        Ok((checkpoint, SignedNote::new(&text, signatures)?))
    }
}

/// Kind of place in which checkpoints are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointPlace {
    /// The folder of the journal.
    Journal,
    /// A folder named as a copy.
    Copy,
}

/// Limit: checkpoints that wait to be kept in one place.
const NOTES_MAX: usize = 64;

/// Place in which checkpoints are kept, with a thread of its own: one that does not answer holds up nothing.
#[derive(Debug)]
struct Place {
    kind: CheckpointPlace,
    folder: PathBuf,
    tasks: SyncSender<PlaceTask>,
    /// True while the place does not keep up.
    is_behind: AtomicBool,
}

enum PlaceTask {
    Keep(Box<SignedCheckpoint>),
    /// Report that all tasks before are done.
    Report(SyncSender<()>),
}

impl Place {
    fn start(
        folder: PathBuf,
        kind: CheckpointPlace,
        observer: Arc<dyn JournalObserver>,
    ) -> io::Result<Self> {
        let (tasks, todo) = mpsc::sync_channel(NOTES_MAX);
        let path = folder.clone();
        let thread = std::thread::Builder::new().name("checkpoints".to_owned());
        thread.spawn(move || keep_all(&path, kind, &todo, &*observer))?;
        Ok(Self { kind, folder, tasks, is_behind: AtomicBool::new(false) })
    }

    fn keep(&self, checkpoint: &SignedCheckpoint, observer: &dyn JournalObserver) {
        let is_behind = self.tasks.try_send(PlaceTask::Keep(Box::new(checkpoint.clone()))).is_err();
        let was_behind = self.is_behind.swap(is_behind, Ordering::Relaxed);
        if is_behind {
            observer.checkpoint_failed(self.kind);
        }
        if is_behind && !was_behind {
            tracing::error!(
                folder = %self.folder.display(),
                "a folder for checkpoints of the audit journal does not answer: checkpoints are \
                 missing there until it does"
            );
        }
    }
}

/// Keeps checkpoints in one folder until no more can come.
fn keep_all(
    folder: &Path,
    kind: CheckpointPlace,
    todo: &Receiver<PlaceTask>,
    observer: &dyn JournalObserver,
) {
    let mut has_failed = false;
    for task in todo {
        let checkpoint = match task {
            PlaceTask::Keep(checkpoint) => checkpoint,
            PlaceTask::Report(done) => {
                // The caller may have stopped waiting.
                done.try_send(()).unwrap_or_default();
                continue;
            }
        };
        let kept = append(folder, &checkpoint);
        if let Err(error) = &kept {
            observer.checkpoint_failed(kind);
            if !has_failed {
                tracing::error!(
                    folder = %folder.display(),
                    %error,
                    "a checkpoint of the audit journal could not be written: it is in the log, and \
                     the next ones are written as soon as that is possible"
                );
            }
        }
        has_failed = kept.is_err();
    }
}

/// One line of a file of checkpoints.
#[derive(Debug, Serialize, Deserialize)]
struct StoredNote {
    time: String,
    size: u64,
    note: String,
}

fn append(folder: &Path, signed: &SignedCheckpoint) -> io::Result<()> {
    let SignedCheckpoint { checkpoint, note, segment } = signed;
    let path = segment.checkpoints();
    let path = folder.join(path.file_name().unwrap_or_default());
    let mut file =
        OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(path)?;
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
    file.sync_data()
}

/// Returns the files with checkpoints in a folder, oldest first; none if there is no such folder.
///
/// # Errors
/// Returns an error if the folder cannot be read.
pub(crate) fn checkpoint_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
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
    let mut is_first = true;
    while let Some(text) = reader.next()? {
        if std::mem::take(&mut is_first) && !text.bytes.starts_with(b"{") {
            return match fs::read_to_string(path)?.parse() {
                Ok(note) => {
                    each(note);
                    Ok(0)
                }
                Err(_) => Ok(1),
            };
        }
        let stored = serde_json::from_slice::<StoredNote>(text.bytes).ok();
        match stored.and_then(|stored| stored.note.parse().ok()) {
            Some(note) => each(note),
            None => skipped += u64::from(!text.bytes.is_empty()),
        }
    }
    Ok(skipped)
}

/// Returns the newest checkpoint in a folder that one of these keys has signed.
fn newest(folder: &Path, keys: &[VerifierKey]) -> io::Result<Option<TreeHead>> {
    for path in checkpoint_files(folder)?.iter().rev() {
        let mut found: Option<TreeHead> = None;
        let mut forged = 0_u64;
        read_notes(path, |note| {
            let Ok(checkpoint) = note.text().parse::<Checkpoint>() else { return };
            let is_newer = found.as_ref().is_none_or(|found| checkpoint.size >= found.size);
            if !is_newer || keys.iter().all(|key| key.name() != checkpoint.origin()) {
                return;
            }
            match keys.iter().any(|key| matches!(note.verified_by(key), Ok(Some(_)))) {
                true => found = Some(checkpoint.head()),
                false => forged += 1,
            }
        })?;
        if forged > 0 {
            tracing::error!(
                file = %path.display(),
                checkpoints = forged,
                "checkpoints in the name of this audit journal are not signed with its key: they \
                 are forged or belong to an older key, and are ignored"
            );
        }
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Compares a journal with the newest checkpoints beside it and in its copies; returns why it must not be
/// signed, `None` if it may be.
fn contradiction(
    settings: &CheckpointSettings,
    folder: &Path,
    found: &RecoveredState,
) -> io::Result<Option<String>> {
    let lines = found.last.seq;
    if found.tree.is_none() {
        return Ok(Some(format!(
            "the journal in {} is damaged, or an older version wrote it without a tree: move it \
             away, keep it, and begin a new one",
            folder.display()
        )));
    }
    let keys = settings.verifiers();
    for place in std::iter::once(folder).chain(settings.copies.iter().map(PathBuf::as_path)) {
        let Some(TreeHead { size, root }) = newest(place, &keys).unwrap_or_else(|error| {
            tracing::warn!(folder = %place.display(), %error, "a folder with checkpoints of the audit journal cannot be read: the journal is not compared with them");
            None
        }) else {
            continue;
        };
        let (at, from) = (folder.display(), place.display());
        if size > lines {
            return Ok(Some(format!(
                "the journal in {at} ends with line {lines}, but a checkpoint in {from} covers \
                 {size} lines: its end was removed, or an older copy took its place"
            )));
        }
        if Leaves::tree(folder, size)?.is_none_or(|tree| tree.root() != root) {
            return Ok(Some(format!(
                "the first {size} lines of the journal in {at} are not those of a checkpoint in \
                 {from}: they were rewritten, or another journal was signed with this key"
            )));
        }
    }
    Ok(None)
}
