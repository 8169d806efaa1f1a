//! Signed checkpoints of a journal: when they are signed, and where they are kept.
//!
//! A checkpoint is a signed note (C2SP tlog-checkpoint) that names the journal, the number of its lines and
//! the root of the tree over them. It covers only lines that are on disk. It is kept beside the segment, in
//! the log, and in the folders named as copies.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::fs::OFlags;
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
    /// Returns an error if a thread cannot be started.
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
        if let Some(reason) = contradiction(&settings, folder, found) {
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
        self.last = Some((Instant::now(), tree.size()));
        if self.signing.state() != SigningState::On {
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

/// Returns the newest checkpoint in a folder that one of these keys has signed.
fn newest(folder: &Path, keys: &[VerifierKey]) -> io::Result<Option<TreeHead>> {
    for path in checkpoint_files(folder)?.iter().rev() {
        let mut found: Option<TreeHead> = None;
        let mut forged = 0_u64;
        // Security: an older checkpoint in the file of a later segment must not pass for the newest.
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(first) = name.split('.').next().and_then(|first| first.parse::<u64>().ok()) else {
            continue;
        };
        read_notes(path, |note| {
            let Ok(checkpoint) = note.text().parse::<Checkpoint>() else { return };
            let is_newer = found.as_ref().is_none_or(|found| checkpoint.size >= found.size)
                && checkpoint.size >= first;
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

/// Limit: time to read the checkpoints in one folder at a start.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// Returns the newest checkpoint in a folder, as [`newest`] does; an error if the folder does not answer in
/// time, such as one on another machine.
fn newest_in_time(folder: &Path, keys: &[VerifierKey]) -> io::Result<Option<TreeHead>> {
    let (done, wait) = mpsc::sync_channel(1);
    let (path, keys) = (folder.to_owned(), keys.to_vec());
    let read = move || done.try_send(newest(&path, &keys)).unwrap_or_default();
    std::thread::Builder::new().name("checkpoints".to_owned()).spawn(read)?;
    wait.recv_timeout(READ_WITHIN).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Compares a journal with the newest checkpoints beside it and in its copies; returns why it must not be
/// signed, `None` if it may be.
fn contradiction(
    settings: &CheckpointSettings,
    folder: &Path,
    found: &RecoveredState,
) -> Option<String> {
    let Some(tree) = &found.tree else {
        return Some(format!(
            "the journal in {} is damaged, with lines missing, or an older version wrote it \
             without a tree: move it away, keep it, and begin a new one",
            folder.display()
        ));
    };
    let keys = settings.verifiers();
    for place in std::iter::once(folder).chain(settings.copies.iter().map(PathBuf::as_path)) {
        match newest_in_time(place, &keys) {
            Ok(Some(head)) => {
                if let Some(reason) = contradiction_to(head, place, folder, tree) {
                    return Some(reason);
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!(
                    folder = %place.display(),
                    %error,
                    "a folder with checkpoints of the audit journal cannot be read: the journal \
                     is signed without being compared with them"
                );
            }
        }
    }
    None
}

/// Compares a journal with one checkpoint, found in `place`. `tree` is the tree over all of the journal's
/// lines, as its last segment states it.
fn contradiction_to(
    head: TreeHead,
    place: &Path,
    folder: &Path,
    tree: &Frontier,
) -> Option<String> {
    let (at, from) = (folder.display(), place.display());
    let (size, lines) = (head.size, tree.size());
    if size > lines {
        return Some(format!(
            "the journal in {at} ends with line {lines}, but a checkpoint in {from} covers {size} \
             lines: its end was removed, or an older copy took its place"
        ));
    }
    match Leaves::trees(folder, size, lines) {
        Err(error) => Some(format!("the journal in {at} cannot be read: {error}")),
        Ok(Some((then, now))) if then.root() == head.root && now == *tree => None,
        Ok(Some((then, _))) if then.root() == head.root => Some(format!(
            "the last segment of the journal in {at} states another tree than that of the lines \
             before it: somebody wrote to it"
        )),
        Ok(Some(_) | None) => Some(format!(
            "the first {size} lines of the journal in {at} are not those of a checkpoint in \
             {from}: they were rewritten, or another journal was signed with this key"
        )),
    }
}
