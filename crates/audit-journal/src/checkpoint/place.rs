//! Places in which checkpoints are kept.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};

use super::files::append;
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

impl Place {
    pub(super) fn start(
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
