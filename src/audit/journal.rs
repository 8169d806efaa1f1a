//! The journal's thread: lines are queued, then written and synced in groups.
//!
//! Lines get their numbers and chain values in the order in which they are written. While one sync is under
//! way the next lines gather, so that one sync serves them all. Lines that cannot be written are kept and
//! tried again; until they are written, no new exchange is opened.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, oneshot, watch};

use super::line::{ExchangeEnd, JournalNote};
use super::line_queue::{LineQueue, QueuePosition};
use super::record_fields::{ExchangeFacts, RecordFields, Step};
use super::segment::JournalFolder;
use super::settings::AuditSettings;
use super::writer::{SegmentLimits, Writer};
use super::{line, recovery};
use crate::metrics::Metrics;
use spine_types::Asid;

/// Error returned when the journal cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{}: the audit journal cannot be opened: {error}", path.display())]
pub struct JournalError {
    path: PathBuf,
    error: io::Error,
}

/// Limit: queued lines for each entry that may be open: two of its own, and two of an entry closed before it
/// whose lines are not written yet.
const LINES_PER_ENTRY: usize = 4;
/// Maximum number of lines of one entry.
pub(super) const LINES: u32 = 2;
/// Time for which lines gather before they are written, unless a caller waits: one wake-up for many lines.
///
/// An exchange still open then is given as long again to end, so that it needs one line only.
const GATHER: Duration = Duration::from_millis(40);
/// Pause between two attempts at a write that fails.
const RETRY: Duration = Duration::from_millis(200);
/// Interval at which refusals without a line of their own are summed in one, and at which the clock is read
/// while lines are written.
const TICK: Duration = Duration::from_secs(1);
/// Interval at which the head of the chain is logged, and at which the clock is read while nothing is
/// written.
const HEAD: Duration = Duration::from_secs(60);

/// Handle of the journal's thread.
#[derive(Debug)]
pub(super) struct JournalHandle {
    queue: Arc<Mutex<LineQueue>>,
    room: Arc<Semaphore>,
    /// Number of free places in the queue below which the thread does not wait for more lines.
    low: usize,
    thread: Thread,
    health: Arc<Health>,
}

fn locked(queue: &Mutex<LineQueue>) -> MutexGuard<'_, LineQueue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

impl JournalHandle {
    /// Opens the journal and starts its thread, which ends on [`JournalHandle::stop`] or once the handle is dropped.
    ///
    /// At most `entries_max` entries may be open at once.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be read or written, or another process holds it.
    pub(super) fn start(
        settings: &AuditSettings,
        entries_max: usize,
        metrics: Arc<Metrics>,
    ) -> Result<Self, JournalError> {
        let fault = |error| JournalError { path: settings.journal.clone(), error };
        let folder = JournalFolder::open(&settings.journal).map_err(fault)?;
        let found = recovery::scan(&folder.path).map_err(fault)?;
        let limits =
            SegmentLimits { bytes: settings.segment_size.as_u64(), age: settings.segment_age };
        let writer = Writer::begin(folder, found, limits, Arc::clone(&metrics)).map_err(fault)?;
        let queue = Arc::new(Mutex::new(LineQueue::default()));
        let lines_max = entries_max.saturating_mul(LINES_PER_ENTRY);
        let room = Arc::new(Semaphore::new(lines_max));
        let health = Arc::new(Health::new());
        let state = JournalThread {
            writer,
            queue: Arc::clone(&queue),
            batch: LineQueue::default(),
            room: Arc::clone(&room),
            health: Arc::clone(&health),
            ticked: Instant::now(),
            rests: false,
            ticked_at: 0,
            logged_head: None,
            metrics,
        };
        let thread = std::thread::Builder::new().name("journal".to_owned());
        let run = move || {
            if let Err(GivenUp) = state.run() {
                tracing::error!(
                    "the audit journal's disk still fails at the end of the process: the last \
                     lines are lost"
                );
            }
        };
        let thread = thread.spawn(run).map_err(fault)?;
        let low = lines_max / 2;
        Ok(Self { queue, room, low, thread: thread.thread().clone(), health })
    }

    /// Reserves queue space for this many lines, until they are written or it is given back with
    /// [`JournalHandle::give_back`]. Returns false if there is not enough.
    pub(super) fn reserve(&self, lines: u32) -> bool {
        if self.room.available_permits() < self.low {
            self.thread.unpark();
        }
        self.room.try_acquire_many(lines).map(tokio::sync::SemaphorePermit::forget).is_ok()
    }

    /// Gives back reserved space that is not needed.
    pub(super) fn give_back(&self, lines: usize) {
        self.room.add_permits(lines);
    }

    /// Queues the first line of an exchange, for which space was reserved.
    pub(super) fn open(&self, known: ExchangeFacts, fields: &RecordFields) -> QueuePosition {
        self.post(|queue| queue.push(known, fields, Step::First, None))
    }

    /// Queues the first line of an exchange, for which space was reserved. The receiver completes once it is
    /// on disk, and fails if it could not be written for now.
    pub(super) fn open_durably(
        &self,
        known: ExchangeFacts,
        fields: &RecordFields,
    ) -> (QueuePosition, oneshot::Receiver<()>) {
        let (done, wait) = oneshot::channel();
        let place = self.post(|queue| {
            queue.waiting.push(done);
            queue.push(known, fields, Step::First, None)
        });
        (place, wait)
    }

    /// Queues the end of an exchange, for which space was reserved.
    ///
    /// If its first line is still in the queue, the end is added to that one: two lines written together
    /// would say no more.
    pub(super) fn close(
        &self,
        known: ExchangeFacts,
        fields: &RecordFields,
        first: Option<QueuePosition>,
        end: ExchangeEnd,
    ) {
        let is_one = self.post(|queue| match (queue.at(first), first) {
            (Some(line), _) => {
                line.end = Some(end);
                true
            }
            (None, first) => {
                let step = if first.is_some() { Step::Second } else { Step::First };
                queue.push(known, fields, step, Some(end));
                first.is_none()
            }
        });
        if is_one {
            self.give_back(1);
        }
    }

    /// Returns a receiver that completes once everything queued before is on disk, and fails if it could not
    /// be written for now.
    pub(super) fn flush(&self) -> oneshot::Receiver<()> {
        let (done, wait) = oneshot::channel();
        self.post(|queue| queue.waiting.push(done));
        wait
    }

    /// Ends the thread once everything queued before is on disk. The receiver completes once the folder is
    /// unlocked for the next process.
    pub(super) fn stop(&self) -> oneshot::Receiver<()> {
        let (done, wait) = oneshot::channel();
        self.post(|queue| queue.end = Some(done));
        wait
    }

    fn post<T>(&self, into: impl FnOnce(&mut LineQueue) -> T) -> T {
        let mut queue = locked(&self.queue);
        let posted = into(&mut queue);
        // The thread polls by itself while lines come in; it is woken if it sleeps, or if a caller waits.
        let wake = queue.asleep || queue.is_urgent();
        queue.asleep = false;
        drop(queue);
        if wake {
            self.thread.unpark();
        }
        posted
    }

    /// Counts a refusal that has no line of its own.
    pub(super) fn unrecorded(&self, consumer: Option<Asid>, token: &'static str) {
        let mut sums = self.health.unrecorded();
        let is_first = sums.is_empty();
        // Limit: above it, further consumers are counted together with unidentified callers.
        let consumer =
            consumer.filter(|one| sums.len() < SUMS_MAX || sums.contains_key(&Some(one.clone())));
        *sums.entry(consumer).or_default().entry(token).or_default() += 1;
        drop(sums);
        if is_first {
            // The thread may sleep for longer than a sum may wait.
            self.thread.unpark();
        }
    }

    /// Returns a receiver that is notified whenever a write to disk begins.
    pub(super) fn asked(&self) -> watch::Receiver<()> {
        self.health.asked.subscribe()
    }

    /// Returns true while a write to disk is under way or failing.
    pub(super) fn is_asking(&self) -> bool {
        self.health.failed.load(Ordering::Acquire)
            || self.health.asked_ms.load(Ordering::Acquire) > 0
    }

    /// Returns true if the last write succeeded and none has been under way for longer than `wait`.
    pub(super) fn is_healthy(&self, now: Instant, wait: Duration) -> bool {
        !self.health.failed.load(Ordering::Acquire) && !self.health.is_silent(now, wait)
    }
}

impl Drop for JournalHandle {
    fn drop(&mut self) {
        self.post(|queue| queue.left = true);
    }
}

/// Number of refusals without a line of their own, by consumer (`None` if not identified) and token.
type Sums = BTreeMap<Option<Asid>, BTreeMap<&'static str, u64>>;

/// Limit: consumers whose refusals are counted separately within one second.
const SUMS_MAX: usize = 1024;

/// State of the thread's writes, as other threads see it.
#[derive(Debug)]
struct Health {
    failed: AtomicBool,
    base: Instant,
    /// Start of the write under way, in milliseconds after `base`; 0 while there is none.
    asked_ms: AtomicU64,
    /// Notifies watchers when a write to disk begins.
    asked: watch::Sender<()>,
    unrecorded: Mutex<Sums>,
}

impl Health {
    fn new() -> Self {
        Self {
            failed: AtomicBool::new(false),
            base: Instant::now(),
            asked_ms: AtomicU64::new(0),
            asked: watch::Sender::default(),
            unrecorded: Mutex::default(),
        }
    }

    fn ms(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.base);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn asks(&self) {
        self.asked_ms.store(self.ms(Instant::now()).max(1), Ordering::Release);
        self.asked.send_replace(());
    }

    fn is_answered(&self) {
        self.asked_ms.store(0, Ordering::Release);
    }

    fn is_silent(&self, now: Instant, wait: Duration) -> bool {
        let asked_ms = self.asked_ms.load(Ordering::Acquire);
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        asked_ms > 0 && self.ms(now).saturating_sub(asked_ms) > wait_ms
    }

    fn unrecorded(&self) -> MutexGuard<'_, Sums> {
        self.unrecorded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// State of the journal's thread.
struct JournalThread {
    writer: Writer,
    queue: Arc<Mutex<LineQueue>>,
    batch: LineQueue,
    room: Arc<Semaphore>,
    health: Arc<Health>,
    ticked: Instant,
    /// True if no line was written between the last two ticks.
    rests: bool,
    /// Number of the last line at the last tick.
    ticked_at: u64,
    /// Time at which the head was last logged, and the number of its line.
    logged_head: Option<(Instant, u64)>,
    metrics: Arc<Metrics>,
}

/// Error returned when the disk fails and no handle is left that could wait for it.
struct GivenUp;

impl JournalThread {
    fn run(mut self) -> Result<(), GivenUp> {
        loop {
            self.gather();
            let (end, left) = (self.batch.end.take(), self.batch.left);
            self.write()?;
            self.tick()?;
            if end.is_some() || left {
                return self.finish(end);
            }
        }
    }

    /// Waits for lines, and briefly for more of them unless a caller waits for its own.
    fn gather(&mut self) {
        let mut queue = locked(&self.queue);
        if queue.is_empty() {
            queue.asleep = true;
            drop(queue);
            std::thread::park_timeout(self.pause());
            queue = locked(&self.queue);
            queue.asleep = false;
        }
        if !queue.is_empty() && !queue.is_urgent() {
            drop(queue);
            std::thread::park_timeout(GATHER);
            queue = locked(&self.queue);
        }
        queue.take(&mut self.batch);
    }

    /// Returns the time until the clock must be read although no line comes in.
    fn pause(&self) -> Duration {
        if !self.rests || !self.health.unrecorded().is_empty() {
            return TICK.saturating_sub(self.ticked.elapsed());
        }
        let unlogged = self.logged_head.filter(|(_, logged)| *logged != self.writer.last().seq);
        let logged_in = unlogged.map_or(HEAD, |(at, _)| HEAD.saturating_sub(at.elapsed()));
        let turned_in = self.writer.turn_in().unwrap_or(HEAD);
        // Not before the next tick, which is when both are checked.
        logged_in.min(turned_in).max(TICK.saturating_sub(self.ticked.elapsed()))
    }

    /// Writes the gathered lines, and notifies the callers that wait for them.
    fn write(&mut self) -> Result<(), GivenUp> {
        let mut rest = self.batch.fields.as_slice();
        for posted in &self.batch.lines {
            let fields;
            (fields, rest) = rest.split_at_checked(posted.bytes).unwrap_or((rest, &[]));
            self.writer.line(posted, fields);
        }
        let lines = self.batch.lines.len();
        self.batch.fields.clear();
        self.batch.lines.clear();
        let mut waiting = std::mem::take(&mut self.batch.waiting);
        self.put(&mut waiting)?;
        self.room.add_permits(lines);
        for done in waiting {
            // The caller may have stopped waiting.
            done.send(()).unwrap_or_default();
        }
        Ok(())
    }

    /// Writes the composed lines to disk, and tries again until that succeeds. Callers that wait learn of a
    /// failure at once.
    fn put(&mut self, waiting: &mut Vec<oneshot::Sender<()>>) -> Result<(), GivenUp> {
        if !self.writer.has_work() {
            return Ok(());
        }
        self.health.asks();
        let mut put = self.writer.put();
        while let Err(error) = put {
            if !self.health.failed.swap(true, Ordering::AcqRel) {
                tracing::error!(
                    %error,
                    "a write of the audit journal failed: its lines are kept and tried again five times a \
                     second; see whether its disk is full or faulty"
                );
            }
            self.metrics.audit.failed();
            waiting.clear();
            if self.batch.left || locked(&self.queue).left {
                return Err(GivenUp);
            }
            std::thread::sleep(RETRY);
            put = self.writer.put_again();
        }
        self.health.is_answered();
        if self.health.failed.swap(false, Ordering::AcqRel) {
            tracing::warn!("the audit journal can be written again");
        }
        self.metrics.audit.healthy.set(1);
        Ok(())
    }

    /// Does the work of each second: sums refusals without a line of their own; and each minute logs the
    /// head.
    fn tick(&mut self) -> Result<(), GivenUp> {
        if self.ticked.elapsed() < TICK {
            return Ok(());
        }
        self.ticked = Instant::now();
        self.sum();
        self.put(&mut Vec::new())?;
        let seq = self.writer.last().seq;
        self.rests = std::mem::replace(&mut self.ticked_at, seq) == seq;
        if self.logged_head.is_none_or(|(at, logged)| logged != seq && at.elapsed() >= HEAD) {
            self.log_head();
        }
        Ok(())
    }

    fn sum(&mut self) {
        let sums = std::mem::take(&mut *self.health.unrecorded());
        for (from, refusals) in &sums {
            self.writer.note(&JournalNote::Unrecorded { from: from.as_ref(), refusals });
        }
    }

    /// Logs the head of the chain and sets its metrics.
    ///
    /// Security: a chain cannot show that its end was cut. A head that is kept elsewhere can.
    fn log_head(&mut self) {
        let line::LastLine { seq, link } = self.writer.last();
        tracing::info!(
            head = format!("{seq}:{link}"),
            "head of the audit journal's chain: keep it elsewhere, for `audit verify --head`"
        );
        self.metrics.audit.head(seq, link.number());
        self.logged_head = Some((Instant::now(), seq));
    }

    fn finish(mut self, end: Option<oneshot::Sender<()>>) -> Result<(), GivenUp> {
        self.sum();
        self.writer.note(&JournalNote::Stopped);
        self.put(&mut Vec::new())?;
        self.log_head();
        let missed = locked(&self.queue).lines.len();
        if missed > 0 {
            tracing::error!(
                missed,
                "audit lines arrived after the journal's thread had stopped: they are lost"
            );
        }
        self.writer.finish();
        if let Some(end) = end {
            end.send(()).unwrap_or_default();
        }
        Ok(())
    }
}
