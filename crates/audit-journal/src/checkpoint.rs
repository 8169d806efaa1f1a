//! Signed checkpoints of a journal: when they are signed, and where they are kept.
//!
//! A checkpoint is a signed note (C2SP tlog-checkpoint) that names the journal, the number of its lines and
//! the root of the tree over them. It covers only lines that are on disk. It is kept beside the segment, in
//! the log, and in the folders named as copies.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;

use crate::JournalObserver;
use crate::note::{
    Checkpoint, CheckpointSigner, NoteError, NoteSignature, SignedNote, VerifierKey,
};
use crate::read::SegmentFile;
use crate::recovery::RecoveredState;
use crate::tree::{Frontier, TreeHead};

mod comparison;
mod files;
mod gate;
mod place;

pub(crate) use files::{checkpoint_files, read_notes, stored_note};

pub use gate::SigningState;

use comparison::FoundJournal;
use gate::SigningGate;
use place::{FirstComparison, Place, PlaceTask};

/// Settings of the checkpoints of a journal.
#[derive(Debug)]
pub struct CheckpointSettings {
    signers: Vec<CheckpointSigner>,
    every: Duration,
    copies: Vec<PathBuf>,
    witnesses: usize,
}

/// Interval at which a checkpoint is signed although no line was added, so that silence is proven too.
pub const IDLE_EVERY: Duration = Duration::from_secs(600);

impl CheckpointSettings {
    /// Returns settings to sign with these keys, all of which sign each checkpoint; `None` without a key or
    /// if their names differ.
    ///
    /// A checkpoint is signed when lines were added, after the time `every` at the latest. Copies go to the
    /// folders `copies`. Nothing is signed before as many witnesses as `witnesses` have agreed, each by a call
    /// of [`Journal::agreed`](crate::Journal::agreed).
    #[must_use]
    pub fn new(
        signers: Vec<CheckpointSigner>,
        every: Duration,
        copies: Vec<PathBuf>,
        witnesses: usize,
    ) -> Option<Self> {
        let names = signers.windows(2).all(|pair| match pair {
            [one, other] => one.verifier().name() == other.verifier().name(),
            _ => true,
        });
        (names && !signers.is_empty()).then_some(Self { signers, every, copies, witnesses })
    }

    /// Returns the name of the journal in its checkpoints.
    #[must_use]
    pub fn origin(&self) -> &str {
        self.signers.first().map_or("", |signer| signer.verifier().name())
    }

    fn verifiers(&self) -> Vec<VerifierKey> {
        self.signers.iter().map(|signer| signer.verifier().clone()).collect()
    }

    /// Signs a checkpoint of this tree with all keys.
    fn sign(&self, tree: &Frontier, now_s: i64) -> Result<(Checkpoint, SignedNote), NoteError> {
        let head = TreeHead { size: tree.size(), root: tree.root() };
        let checkpoint = Checkpoint::new(self.origin(), head)?;
        let (text, now_s) = (checkpoint.to_string(), u64::try_from(now_s).unwrap_or_default());
        let mut signatures = Vec::new();
        for signer in &self.signers {
            signatures.extend(signer.sign(&text, now_s)?);
        }
        Ok((checkpoint, SignedNote::new(&text, signatures)?))
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

/// Signing of a journal, as other threads see it.
#[derive(Debug)]
pub(crate) struct Signing {
    pub(crate) gate: Arc<SigningGate>,
    /// The newest checkpoint.
    pub(crate) newest: watch::Sender<Option<Arc<SignedCheckpoint>>>,
    /// Checkpoint of the empty journal, which every journal extends.
    pub(crate) empty: Option<SignedNote>,
    places: Vec<Place>,
    observer: Arc<dyn JournalObserver>,
}

impl Signing {
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

/// Limit: time for which a start waits for the comparison with the copies; a slower one goes on while the
/// journal is written.
const COMPARE_WITHIN: Duration = Duration::from_secs(5);

/// Interval at which the journal's thread looks whether the comparisons of a start are done.
const GATE_LOOK: Duration = Duration::from_secs(1);

/// Signs the checkpoints of one journal, on the journal's thread.
pub(crate) struct Checkpointer {
    settings: CheckpointSettings,
    signing: Arc<Signing>,
    /// Time of the last attempt to sign.
    attempted: Option<Instant>,
    /// Number of lines in the last checkpoint.
    signed: Option<u64>,
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
            gate: Arc::new(SigningGate::off(Arc::clone(&observer))),
            newest: watch::Sender::new(None),
            empty: None,
            places: Vec::new(),
            observer,
        };
        let Some(settings) = settings else { return Ok((None, Arc::new(signing))) };
        let comparisons = 1 + settings.copies.len() + settings.witnesses;
        let gate = Arc::new(SigningGate::new(comparisons, Arc::clone(&signing.observer)));
        let found = FoundJournal::new(settings.verifiers(), folder, found);
        let (attempt, attempts) = mpsc::sync_channel(0);
        let first = found.as_ref().ok().map(|found| FirstComparison {
            found: found.clone(),
            gate: Arc::clone(&gate),
            attempt,
        });
        // Beside the journal first: what a copy contradicts may follow from that.
        let own = match found.map(|found| found.contradiction(folder)) {
            Ok(Ok(None)) => {
                gate.agreed();
                None
            }
            Ok(Ok(Some(reason))) | Err(reason) => {
                gate.refuse(reason);
                None
            }
            Ok(Err(_)) => first.clone(),
        };
        let place = |folder: &Path, kind, first| {
            Place::start(folder.to_owned(), kind, Arc::clone(&signing.observer), first)
        };
        let mut places = vec![place(folder, CheckpointPlace::Journal, own)?];
        for copy in &settings.copies {
            places.push(place(copy, CheckpointPlace::Copy, first.clone())?);
        }
        drop(first);
        // Disconnected, and not timed out, once all copies were tried.
        if attempts.recv_timeout(COMPARE_WITHIN) == Err(RecvTimeoutError::Timeout) {
            signing.observer.checkpoint_failed(CheckpointPlace::Copy);
            tracing::error!(
                wait_s = COMPARE_WITHIN.as_secs(),
                "a folder with checkpoints of the audit journal does not answer: the journal is not \
                 signed until it was compared with them"
            );
        }
        (signing.gate, signing.places) = (gate, places);
        signing.empty = Some(settings.sign(&Frontier::new(), 0).map_err(io::Error::other)?.1);
        let signing = Arc::new(signing);
        let checkpointer =
            Self { settings, signing: Arc::clone(&signing), attempted: None, signed: None };
        Ok((Some(checkpointer), signing))
    }

    /// Returns the number of lines in the last checkpoint; `None` before the first.
    pub(crate) const fn signed(&self) -> Option<u64> {
        self.signed
    }

    /// Returns the time until a checkpoint is due for a journal of this many lines.
    pub(crate) fn due_in(&self, size: u64) -> Duration {
        match self.signing.gate.state() {
            SigningState::On => {}
            // One is due as soon as the comparisons are done.
            SigningState::Waiting(_) => return GATE_LOOK,
            SigningState::Off | SigningState::Refused(_) => return IDLE_EVERY,
        }
        let Some(attempted) = self.attempted else { return Duration::ZERO };
        let every = if self.signed == Some(size) { IDLE_EVERY } else { self.settings.every };
        every.saturating_sub(attempted.elapsed())
    }

    /// Signs a checkpoint of this tree, whose last line is in `segment`.
    pub(crate) fn sign(&mut self, tree: &Frontier, segment: &SegmentFile) {
        if self.signing.gate.state() != SigningState::On {
            return;
        }
        self.attempted = Some(Instant::now());
        let now_s = Timestamp::now().as_second();
        let (checkpoint, note) = match self.settings.sign(tree, now_s) {
            Ok(signed) => signed,
            Err(error) => {
                tracing::error!(%error, "a checkpoint of the audit journal could not be signed");
                self.signing.observer.checkpoint_failed(CheckpointPlace::Journal);
                return;
            }
        };
        self.signed = Some(tree.size());
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

/// Kind of place in which checkpoints are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointPlace {
    /// The folder of the journal.
    Journal,
    /// A folder named as a copy.
    Copy,
}
