//! The journal's queue and thread: records are queued, then written and synced in groups.
//!
//! Lines get their numbers and chain values in the order in which they are written. While one sync is under
//! way the next records gather, so that one sync serves them all. Lines that cannot be written are kept and
//! tried again.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use uuid::Uuid;

use crate::chain::ChainHead;
use crate::checkpoint::{
    CheckpointPlace, CheckpointSettings, Checkpointer, SignedCheckpoint, Signing, SigningState,
};
use crate::line::Record;
use crate::note::{NoteSignature, SignedNote};
use crate::segment::JournalFolder;
use crate::tree::Frontier;
use crate::writer::Writer;
use crate::{index, recovery};

/// Settings of a journal.
#[derive(Debug)]
pub struct JournalSettings {
    /// Folder that holds the journal; created with owner-only access, and written by one process alone.
    pub folder: PathBuf,
    /// Size in bytes at which a segment is followed by a new one.
    pub segment_bytes: u64,
    /// Age at which a segment is followed by a new one.
    pub segment_age: Duration,
    /// Limit: records that are queued or reserved space for.
    pub records_max: usize,
    /// Members that the program adds to the line about its start.
    pub facts: Map<String, Value>,
    /// Settings of signed checkpoints, if there are to be any.
    pub checkpoints: Option<CheckpointSettings>,
}

/// Receives what a journal has to report to the program that writes it, such as for metrics.
pub trait JournalObserver: std::fmt::Debug + Send + Sync + 'static {
    /// A sync to disk succeeded and took this long.
    fn synced(&self, took: Duration);
    /// A write failed, and is tried again.
    fn write_failed(&self);
    /// The journal was found cut, deleted or not as it was written.
    fn damaged(&self);
    /// An exchange was found open at the start, left by a crash.
    fn left_unfinished(&self);
    /// Checkpoints are signed, or are not any more.
    fn signing(&self, is_on: bool);
    /// A checkpoint was signed at this time, in seconds since 1970.
    fn checkpoint(&self, at_s: i64);
    /// A checkpoint could not be kept in a place of this kind.
    fn checkpoint_failed(&self, place: CheckpointPlace);
}

/// Error returned when the journal cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{}: the audit journal cannot be opened: {error}", path.display())]
pub struct JournalError {
    path: PathBuf,
    error: io::Error,
}

/// Error returned when not all queued lines could be written to disk for now; they are kept and tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the journal cannot be written for now, or has ended")]
pub struct FlushError;

/// Effect of a record on the exchanges that the journal knows to be open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordEvent {
    /// The record opens an exchange that another record will close. Its event is `opened`.
    Opened(Uuid),
    /// The record closes an opened exchange. Its event is `closed`.
    Closed(Uuid),
    /// The record does neither.
    Other,
}

/// Time for which records gather before they are written, unless a caller waits: one wake-up for many lines.
const GATHER: Duration = Duration::from_millis(40);
/// Pause between two attempts at a write that fails.
const RETRY: Duration = Duration::from_millis(200);
/// Longest sleep of the thread while nothing is queued.
const REST: Duration = Duration::from_secs(60);
/// Limit: time at the end in which the last checkpoint is kept.
const CHECKPOINTS_END: Duration = Duration::from_secs(1);

/// Handle of a journal, through which records are written. Cheap to clone; the journal ends once all handles
/// and reserved places are dropped, or at [`Journal::stop`].
#[derive(Clone, Debug)]
pub struct Journal(Arc<JournalState>);

#[derive(Debug)]
struct JournalState {
    shared: Arc<Shared>,
    room: Arc<Semaphore>,
    records_max: usize,
    signing: Arc<Signing>,
    lines_at_start: u64,
}

impl Drop for JournalState {
    fn drop(&mut self) {
        self.shared.change(|queue| queue.is_left = true);
    }
}

/// Reserved space in the queue for one record. Dropped without use, it is free again.
#[derive(Debug)]
pub struct ReservedRecord {
    permit: OwnedSemaphorePermit,
    journal: Journal,
}

/// Record that waits to be written; its members are kept separately.
#[derive(Debug)]
struct QueuedRecord {
    /// Length of its members in bytes.
    bytes: usize,
    event: RecordEvent,
    /// Sender for the line's number and chain value once it is on disk.
    on_disk: Option<oneshot::Sender<ChainHead>>,
}

/// Records that wait to be written, oldest first.
///
/// Their members stand one after another in one buffer, so that no thread frees what another has allocated.
#[derive(Debug, Default)]
struct RecordBatch {
    members: Vec<u8>,
    records: Vec<QueuedRecord>,
}

/// Queue between the program and the journal's thread.
#[derive(Debug, Default)]
struct Queue {
    batch: RecordBatch,
    /// Callers to notify of the last line once everything queued before is on disk.
    flushes: Vec<oneshot::Sender<ChainHead>>,
    /// Caller to notify once the journal has ended.
    stop: Option<oneshot::Sender<()>>,
    /// True if the thread must not wait for more records.
    is_urgent: bool,
    /// Event that the thread waits for, if it does.
    awaited: Awaited,
    /// True once no handle is left that could queue anything.
    is_left: bool,
    /// True once the thread has ended: nothing is queued any more.
    has_ended: bool,
}

/// Event that the journal's thread waits for.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    /// None: the thread is at work, and looks at the queue when it is done.
    #[default]
    Nothing,
    /// Anything in the queue.
    Any,
    /// A reason not to wait for more records.
    Urgency,
}

impl Queue {
    /// Returns true if the thread waits for what is in the queue now.
    fn is_awaited(&self) -> bool {
        match self.awaited {
            Awaited::Nothing => false,
            Awaited::Any => !self.is_empty(),
            Awaited::Urgency => self.is_urgent(),
        }
    }

    fn is_empty(&self) -> bool {
        self.batch.records.is_empty()
            && self.flushes.is_empty()
            && self.stop.is_none()
            && !self.is_left
    }

    fn is_urgent(&self) -> bool {
        self.is_urgent || !self.flushes.is_empty() || self.stop.is_some() || self.is_left
    }
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    health: WriteHealth,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails all callers that wait, and those still to come.
    fn end(&self) {
        let mut queue = self.queue();
        *queue = Queue { has_ended: true, ..Queue::default() };
    }

    /// Changes the queue, and wakes the thread if it waits for that: a needless wake-up costs a system call.
    fn change(&self, change: impl FnOnce(&mut Queue)) {
        let mut queue = self.queue();
        if queue.has_ended {
            return;
        }
        change(&mut queue);
        let wake = queue.is_awaited();
        if wake {
            queue.awaited = Awaited::Nothing;
        }
        drop(queue);
        if wake {
            self.wake.notify_one();
        }
    }
}

impl Journal {
    /// Opens the journal, which may be a new one, and starts its thread.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be read or written, or another process holds it.
    pub fn open(
        mut settings: JournalSettings,
        observer: Arc<dyn JournalObserver>,
    ) -> Result<Self, JournalError> {
        let path = settings.folder.clone();
        let fault = |error| JournalError { path: path.clone(), error };
        let folder = JournalFolder::open(&path).map_err(fault)?;
        let found = recovery::scan(&path).map_err(fault)?;
        found.report(&*observer);
        let writer =
            Writer::begin(folder, &found, &settings, Arc::clone(&observer)).map_err(fault)?;
        let (checkpointer, signing) =
            Checkpointer::begin(settings.checkpoints.take(), &path, &found, Arc::clone(&observer))
                .map_err(fault)?;
        index::build_missing(path.clone(), writer.segment().first);
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            health: WriteHealth::new(),
        });
        let room = Arc::new(Semaphore::new(settings.records_max));
        let mut thread = JournalThread {
            writer,
            checkpointer,
            shared: Arc::clone(&shared),
            batch: RecordBatch::default(),
            room: Arc::clone(&room),
            signing: Arc::clone(&signing),
            observer,
        };
        let run = move || {
            let end =
                ThreadEnd { shared: Arc::clone(&thread.shared), room: Arc::clone(&thread.room) };
            if let Err(GivenUp) = thread.run() {
                tracing::error!(
                    "the audit journal's disk still fails at the end of the process: the last \
                     lines are lost"
                );
            }
            drop(end);
        };
        let named = std::thread::Builder::new().name("journal".to_owned());
        named.spawn(run).map_err(fault)?;
        let records_max = settings.records_max;
        let lines_at_start = found.last.seq;
        Ok(Self(Arc::new(JournalState { shared, room, records_max, signing, lines_at_start })))
    }

    /// Reserves space in the queue for one record; `None` if the queue is full.
    #[must_use]
    pub fn reserve(&self) -> Option<ReservedRecord> {
        let JournalState { shared, room, records_max, .. } = &*self.0;
        if room.available_permits() < records_max / 2 {
            shared.change(|queue| queue.is_urgent = true);
        }
        let permit = Arc::clone(room).try_acquire_owned().ok()?;
        Some(ReservedRecord { permit, journal: self.clone() })
    }

    /// Returns the number and chain value of the last line, once everything queued before is on disk.
    ///
    /// # Errors
    /// Returns an error if a write fails meanwhile, or the journal has ended.
    pub async fn flush(&self) -> Result<ChainHead, FlushError> {
        let (done, wait) = oneshot::channel();
        self.0.shared.change(|queue| {
            // Limit: callers that have stopped waiting, such as for a disk that does not answer, leave nothing.
            queue.flushes.retain(|other| !other.is_closed());
            queue.flushes.push(done);
        });
        wait.await.map_err(|_| FlushError)
    }

    /// Writes everything queued before and a last line, ends the thread, and unlocks the folder for the next
    /// process. Records queued afterwards are lost.
    pub async fn stop(&self) {
        let (done, wait) = oneshot::channel();
        self.0.shared.change(|queue| queue.stop = Some(done));
        wait.await.unwrap_or_default();
    }

    /// Returns a receiver that is notified whenever a write to disk begins.
    #[must_use]
    pub fn write_begins(&self) -> watch::Receiver<()> {
        self.0.shared.health.begins.subscribe()
    }

    /// Returns true while a write to disk is under way or failing.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        let health = &self.0.shared.health;
        health.has_failed.load(Ordering::Acquire) || health.began_ms.load(Ordering::Acquire) > 0
    }

    /// Returns true if the last write succeeded and none has been under way for longer than `wait`.
    #[must_use]
    pub fn is_healthy(&self, now: Instant, wait: Duration) -> bool {
        let health = &self.0.shared.health;
        !health.has_failed.load(Ordering::Acquire) && !health.is_late(now, wait)
    }

    /// Returns whether checkpoints of the journal are signed.
    #[must_use]
    pub fn signing(&self) -> SigningState {
        self.0.signing.gate.state()
    }

    /// Returns a receiver of the newest checkpoint; `None` until there is one.
    #[must_use]
    pub fn checkpoints(&self) -> watch::Receiver<Option<Arc<SignedCheckpoint>>> {
        self.0.signing.newest.subscribe()
    }

    /// Returns a signed checkpoint of the empty journal; `None` without a key.
    ///
    /// Every journal extends the empty one, so that a witness can be asked with it what it has seen.
    #[must_use]
    pub fn empty_checkpoint(&self) -> Option<&SignedNote> {
        self.0.signing.empty.as_ref()
    }

    /// Returns the number of lines that the journal had when it was opened.
    #[must_use]
    pub fn lines_at_start(&self) -> u64 {
        self.0.lines_at_start
    }

    /// Counts a witness that has seen no other history of this journal; signing begins with the last of those
    /// that the settings number.
    pub fn agreed(&self) {
        self.0.signing.gate.agreed();
    }

    /// Keeps the signatures that a witness gave for a checkpoint.
    pub fn keep_cosigned(&self, checkpoint: &SignedCheckpoint, signatures: Vec<NoteSignature>) {
        self.0.signing.keep_cosigned(checkpoint, signatures);
    }

    /// Stops signing for good, such as because a witness has seen another history of this journal.
    pub fn refuse_to_sign(&self, reason: String) {
        self.0.signing.gate.refuse(reason);
    }
}

impl ReservedRecord {
    /// Queues a record. It is written within some 100 ms while the disk works.
    pub fn append(self, record: &Record, event: RecordEvent) {
        self.queue(record, event, None);
    }

    /// Queues a record, and has it written at once. The receiver completes once it is on disk, and fails if
    /// it could not be written for now; the record is kept and written later in any case.
    #[must_use]
    pub fn append_durably(
        self,
        record: &Record,
        event: RecordEvent,
    ) -> oneshot::Receiver<ChainHead> {
        let (done, wait) = oneshot::channel();
        self.queue(record, event, Some(done));
        wait
    }

    fn queue(
        self,
        record: &Record,
        event: RecordEvent,
        on_disk: Option<oneshot::Sender<ChainHead>>,
    ) {
        let Self { permit, journal } = self;
        // The thread frees the space once the line is on disk.
        permit.forget();
        let members = record.members();
        journal.0.shared.change(|queue| {
            queue.is_urgent |= on_disk.is_some();
            queue.batch.members.extend_from_slice(members);
            queue.batch.records.push(QueuedRecord { bytes: members.len(), event, on_disk });
        });
    }
}

/// State of the thread's writes, as other threads see it.
#[derive(Debug)]
struct WriteHealth {
    has_failed: AtomicBool,
    base: Instant,
    /// Start of the write under way, in milliseconds after `base`; 0 while there is none.
    began_ms: AtomicU64,
    begins: watch::Sender<()>,
}

impl WriteHealth {
    fn new() -> Self {
        Self {
            has_failed: AtomicBool::new(false),
            base: Instant::now(),
            began_ms: AtomicU64::new(0),
            begins: watch::Sender::default(),
        }
    }

    fn ms(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.base);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn begin(&self) {
        self.began_ms.store(self.ms(Instant::now()).max(1), Ordering::Release);
        self.begins.send_replace(());
    }

    fn end(&self) {
        self.began_ms.store(0, Ordering::Release);
    }

    fn is_late(&self, now: Instant, wait: Duration) -> bool {
        let began_ms = self.began_ms.load(Ordering::Acquire);
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        began_ms > 0 && self.ms(now).saturating_sub(began_ms) > wait_ms
    }
}

/// State of the journal's thread.
struct JournalThread {
    writer: Writer,
    checkpointer: Option<Checkpointer>,
    shared: Arc<Shared>,
    /// Records that are being written.
    batch: RecordBatch,
    room: Arc<Semaphore>,
    signing: Arc<Signing>,
    observer: Arc<dyn JournalObserver>,
}

/// Guard whose drop tells callers that the journal's thread has ended, by a panic too.
struct ThreadEnd {
    shared: Arc<Shared>,
    room: Arc<Semaphore>,
}

impl Drop for ThreadEnd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.health.has_failed.store(true, Ordering::Release);
            tracing::error!(
                "the thread of the audit journal has panicked: nothing is recorded any more; \
                 restart the process"
            );
        }
        self.room.close();
        self.shared.end();
    }
}

/// Requests to the thread that were taken from the queue with its records.
struct QueueRequests {
    flushes: Vec<oneshot::Sender<ChainHead>>,
    stop: Option<oneshot::Sender<()>>,
    is_left: bool,
}

/// Error returned when the disk fails and no handle is left that could wait for it.
struct GivenUp;

impl JournalThread {
    fn run(&mut self) -> Result<(), GivenUp> {
        loop {
            let QueueRequests { flushes, stop, is_left } = self.gather();
            self.write(flushes)?;
            if stop.is_some() || is_left {
                return self.finish(stop);
            }
            self.checkpoint_if_due();
            self.turn_if_due()?;
        }
    }

    /// Waits for records, and briefly for more of them unless a caller waits for its own; takes all that are
    /// queued.
    fn gather(&mut self) -> QueueRequests {
        let pause = self.pause();
        let shared = &self.shared;
        let mut queue = shared.queue();
        if queue.is_empty() {
            queue.awaited = Awaited::Any;
            let woken = shared.wake.wait_timeout_while(queue, pause, |queue| queue.is_empty());
            (queue, _) = woken.unwrap_or_else(PoisonError::into_inner);
        }
        if !queue.is_empty() && !queue.is_urgent() {
            queue.awaited = Awaited::Urgency;
            let woken = shared.wake.wait_timeout_while(queue, GATHER, |queue| !queue.is_urgent());
            (queue, _) = woken.unwrap_or_else(PoisonError::into_inner);
        }
        (queue.is_urgent, queue.awaited) = (false, Awaited::Nothing);
        // The two change places, so that no buffer is allocated anew.
        std::mem::swap(&mut queue.batch, &mut self.batch);
        QueueRequests {
            flushes: std::mem::take(&mut queue.flushes),
            stop: queue.stop.take(),
            is_left: queue.is_left,
        }
    }

    /// Returns the time until the thread has something to do although no record comes in.
    fn pause(&self) -> Duration {
        let turn = self.writer.turn_in();
        self.checkpoint_in().into_iter().chain(turn).fold(REST, Duration::min)
    }

    /// Writes the taken records as lines, and notifies the callers that wait for them.
    fn write(&mut self, mut flushes: Vec<oneshot::Sender<ChainHead>>) -> Result<(), GivenUp> {
        let mut waiting = Vec::new();
        let mut rest = self.batch.members.as_slice();
        for QueuedRecord { bytes, event, on_disk } in &mut self.batch.records {
            let members;
            (members, rest) = rest.split_at_checked(*bytes).unwrap_or((rest, &[]));
            self.writer.line(members, *event);
            if let Some(done) = on_disk.take() {
                waiting.push((done, self.writer.last()));
            }
        }
        self.put(|| {
            // Callers that wait learn of a failure at once.
            waiting.clear();
            flushes.clear();
        })?;
        self.room.add_permits(self.batch.records.len());
        self.batch.members.clear();
        self.batch.records.clear();
        for (done, head) in waiting {
            // The caller may have stopped waiting.
            done.send(head).unwrap_or_default();
        }
        let last = self.writer.last();
        for done in flushes {
            done.send(last).unwrap_or_default();
        }
        Ok(())
    }

    /// Writes the lines to disk, and tries again until that succeeds.
    fn put(&mut self, mut failed: impl FnMut()) -> Result<(), GivenUp> {
        if !self.writer.has_lines() {
            return Ok(());
        }
        let health = &self.shared.health;
        health.begin();
        let mut put = self.writer.put();
        while let Err(error) = put {
            if !health.has_failed.swap(true, Ordering::AcqRel) {
                tracing::error!(
                    %error,
                    "a write of the audit journal failed: its lines are kept and tried again five times a \
                     second; see whether its disk is full or faulty"
                );
            }
            self.observer.write_failed();
            failed();
            let mut queue = self.shared.queue();
            queue.flushes.clear();
            if queue.is_left {
                return Err(GivenUp);
            }
            drop(queue);
            std::thread::sleep(RETRY);
            put = self.writer.put_again();
        }
        health.end();
        if health.has_failed.swap(false, Ordering::AcqRel) {
            tracing::warn!("the audit journal can be written again");
        }
        Ok(())
    }

    /// Returns the time until a checkpoint is due; `None` if none is to be signed.
    fn checkpoint_in(&self) -> Option<Duration> {
        Some(self.checkpointer.as_ref()?.due_in(self.writer.tree()?.size()))
    }

    fn checkpoint_if_due(&mut self) {
        if self.checkpoint_in().is_some_and(|left| left.is_zero()) {
            self.checkpoint();
        }
    }

    /// Signs a checkpoint of everything that is on disk.
    fn checkpoint(&mut self) {
        if let (Some(tree), Some(checkpointer)) = (self.writer.tree(), &mut self.checkpointer) {
            checkpointer.sign(tree, self.writer.segment());
        }
    }

    /// Begins a new segment if that is due, with a checkpoint at the end of the old one.
    fn turn_if_due(&mut self) -> Result<(), GivenUp> {
        if !self.writer.is_turn_due() {
            return Ok(());
        }
        // A segment that could not be begun is tried again, and its end is signed already.
        let size = self.writer.tree().map(Frontier::size);
        if self.checkpointer.as_ref().and_then(Checkpointer::signed) != size {
            self.checkpoint();
        }
        let finished = self.writer.turn();
        self.put(|| ())?;
        if let Some(segment) = finished {
            index::build_later(segment);
        }
        Ok(())
    }

    fn finish(&mut self, stop: Option<oneshot::Sender<()>>) -> Result<(), GivenUp> {
        self.writer.stopped();
        self.put(|| ())?;
        self.checkpoint();
        self.signing.finish(CHECKPOINTS_END);
        let missed = self.shared.queue().batch.records.len();
        if missed > 0 {
            tracing::error!(
                missed,
                "audit lines arrived after the journal's thread had stopped: they are lost"
            );
        }
        self.writer.unlock();
        if let Some(done) = stop {
            done.send(()).unwrap_or_default();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Observer that may panic on the journal's thread.
    #[derive(Debug)]
    struct TestObserver {
        panics: bool,
    }

    impl JournalObserver for TestObserver {
        fn synced(&self, _: Duration) {
            let is_journal = std::thread::current().name() == Some("journal");
            assert!(!(self.panics && is_journal), "the panic of a test");
        }
        fn write_failed(&self) {}
        fn damaged(&self) {}
        fn left_unfinished(&self) {}
        fn signing(&self, _: bool) {}
        fn checkpoint(&self, _: i64) {}
        fn checkpoint_failed(&self, _: CheckpointPlace) {}
    }

    fn open(folder: &Path, panics: bool) -> Journal {
        let settings = JournalSettings {
            folder: folder.to_owned(),
            segment_bytes: 1 << 20,
            segment_age: Duration::from_secs(3600),
            records_max: 10,
            facts: Map::new(),
            checkpoints: None,
        };
        Journal::open(settings, Arc::new(TestObserver { panics })).unwrap()
    }

    fn record() -> Record {
        Record::new(&serde_json::json!({"event": "opened"})).unwrap()
    }

    #[tokio::test]
    async fn a_flush_names_the_last_line_and_fails_for_as_long_as_it_cannot_be_written() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("journal");
        let journal = open(&folder, false);
        let first = journal.flush().await.unwrap();
        assert_eq!(first.seq, 1);
        journal.reserve().unwrap().append(&record(), RecordEvent::Other);
        let last = journal.flush().await.unwrap();
        assert_eq!(last.seq, 2);
        assert_ne!(last.link, first.link);
        // No segment can be written or begun in a folder that is gone.
        std::fs::remove_dir_all(&folder).unwrap();
        journal.reserve().unwrap().append(&record(), RecordEvent::Other);
        for _ in 0..3 {
            assert_eq!(journal.flush().await, Err(FlushError));
        }
        std::fs::create_dir(&folder).unwrap();
        let again = loop {
            if let Ok(last) = journal.flush().await {
                break last;
            }
        };
        // The new segment's own line comes first.
        assert_eq!(again.seq, 4);
        journal.stop().await;
        assert_eq!(journal.flush().await, Err(FlushError));
    }

    #[tokio::test]
    async fn a_panic_of_the_thread_fails_all_callers_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let journal = open(&folder.path().join("journal"), true);
        let record = record();
        if let Some(reserved) = journal.reserve() {
            let on_disk = reserved.append_durably(&record, RecordEvent::Other);
            on_disk.await.unwrap_err();
        }
        journal.flush().await.unwrap_err();
        assert!(!journal.is_healthy(Instant::now(), Duration::from_secs(60)));
        assert!(journal.reserve().is_none());
        journal.stop().await;
    }
}
