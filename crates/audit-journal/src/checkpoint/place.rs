//! Places in which checkpoints are kept.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use super::comparison::FoundJournal;
use super::files::append;
use super::gate::SigningGate;
use super::{CheckpointPlace, SignedCheckpoint};
use crate::JournalObserver;

/// Limit: checkpoints that wait to be kept in one place.
const NOTES_MAX: usize = 64;

/// Place in which checkpoints are kept, with a thread of its own: one that does not answer holds up nothing.
#[derive(Debug)]
pub(super) struct Place {
    kind: CheckpointPlace,
    folder: PathBuf,
    pub(super) tasks: SyncSender<PlaceTask>,
    /// True while the place does not keep up.
    is_behind: AtomicBool,
}

/// Task for the thread of a place.
pub(super) enum PlaceTask {
    Keep(Box<SignedCheckpoint>),
    /// Report that all tasks before are done.
    Report(SyncSender<()>),
}

/// Comparison that a place's thread makes before the journal is signed.
#[derive(Clone)]
pub(super) struct FirstComparison {
    pub(super) found: FoundJournal,
    pub(super) gate: Arc<SigningGate>,
    /// Dropped after the first attempt.
    pub(super) attempt: SyncSender<()>,
}

/// Pause between two attempts to compare the journal with a folder that cannot be read.
const COMPARE_AGAIN: Duration = Duration::from_secs(1);

impl Place {
    /// Starts the thread of a place, which first compares the journal with the checkpoints there.
    pub(super) fn start(
        folder: PathBuf,
        kind: CheckpointPlace,
        observer: Arc<dyn JournalObserver>,
        first: Option<FirstComparison>,
    ) -> io::Result<Self> {
        let (tasks, todo) = mpsc::sync_channel(NOTES_MAX);
        let mut keeper = PlaceKeeper { folder: folder.clone(), kind, observer, has_failed: false };
        let thread = std::thread::Builder::new().name("checkpoints".to_owned());
        thread.spawn(move || {
            if let Some(first) = first {
                keeper.compare(first, &todo);
            }
            todo.iter().for_each(|task| keeper.run(task));
        })?;
        Ok(Self { kind, folder, tasks, is_behind: AtomicBool::new(false) })
    }

    pub(super) fn keep(&self, checkpoint: &SignedCheckpoint, observer: &dyn JournalObserver) {
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

/// State of a place's thread.
struct PlaceKeeper {
    folder: PathBuf,
    kind: CheckpointPlace,
    observer: Arc<dyn JournalObserver>,
    has_failed: bool,
}

impl PlaceKeeper {
    /// Compares the journal with the checkpoints in the folder, as soon as they can be read.
    fn compare(&self, first: FirstComparison, todo: &Receiver<PlaceTask>) {
        let FirstComparison { found, gate, attempt } = first;
        let mut attempt = Some(attempt);
        loop {
            match found.contradiction(&self.folder) {
                Ok(None) => return gate.agreed(),
                Ok(Some(reason)) => return gate.refuse(reason),
                Err(error) if attempt.take().is_some() => {
                    self.observer.checkpoint_failed(self.kind);
                    tracing::error!(
                        folder = %self.folder.display(),
                        %error,
                        "the audit journal cannot be compared with the checkpoints in a folder: it \
                         is not signed until that succeeds, which is tried every second"
                    );
                }
                Err(_) => {}
            }
            // Nothing is kept before this is done.
            match todo.recv_timeout(COMPARE_AGAIN) {
                Ok(PlaceTask::Report(done)) => done.try_send(()).unwrap_or_default(),
                Ok(PlaceTask::Keep(_)) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn run(&mut self, task: PlaceTask) {
        let checkpoint = match task {
            PlaceTask::Keep(checkpoint) => checkpoint,
            // The caller may have stopped waiting.
            PlaceTask::Report(done) => return done.try_send(()).unwrap_or_default(),
        };
        let kept = append(&self.folder, &checkpoint);
        if let Err(error) = &kept {
            self.observer.checkpoint_failed(self.kind);
            if !self.has_failed {
                tracing::error!(
                    folder = %self.folder.display(),
                    %error,
                    "a checkpoint of the audit journal could not be written: it is in the log, and \
                     the next ones are written as soon as that is possible"
                );
            }
        }
        self.has_failed = kept.is_err();
    }
}
