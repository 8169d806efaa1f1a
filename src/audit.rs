//! The audit trail: a write-only record of every request.
//!
//! An [`Entry`] is opened before a request is looked at and closes itself when dropped: with the last byte of
//! the answer, or when a consumer disconnects, a provider breaks off, or a task panics. It has setters only.
//! It never holds a token, a query, a body or anything that could be an NHS number.
//!
//! A write has two lines, the first on disk before the provider is asked; a read has one, at its end. The
//! journal itself is the crate `audit-journal`.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use audit_journal::{
    ChainHead, CheckpointPlace, FlushError, Journal, JournalError, JournalObserver,
    JournalSettings, JournalSize, Record, RecordEvent, SigningState, time_text,
};
use http::{HeaderValue, Method};
use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use crate::metrics::{AuditMetrics, CheckpointKeeper, Metrics};
use crate::refusal::Refusal;
use crate::traces::Traces;
use crate::traffic::Traffic;

mod budgets;
mod entry;
mod export;
mod record;
mod resource;
mod settings;
mod transfer;
mod witness;

pub use entry::{EndedBy, Entry, RegistrationOrigin};
pub use export::{ExportedLine, SSP_COLUMNS, otlp, row};
pub use settings::{
    AuditSettings, CheckpointConfig, Durability, SEGMENT_BYTES_MAX, WhenFailing, WitnessConfig,
};
pub use transfer::Transfer;

use budgets::{LineBudgets, UnrecordedRefusals};
use witness::Witness;

/// Handle of the audit journal, through which exchanges write their records. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Trail(Arc<TrailState>);

#[derive(Debug)]
struct TrailState {
    journal: Journal,
    places: Arc<Semaphore>,
    settings: AuditSettings,
    budgets: LineBudgets,
    unrecorded: UnrecordedRefusals,
    /// True while the journal's file system has less free space than the reserve.
    disk_low: AtomicBool,
    /// Witnesses, until they are followed.
    witnesses: Mutex<Vec<Witness>>,
    stopping: AtomicBool,
    metrics: Arc<Metrics>,
    traffic: Traffic,
    /// Traces of the exchanges; `None` while they are off.
    traces: Option<Traces>,
}

/// Error returned when the audit trail cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum TrailError {
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A setting is wrong, such as a key that cannot be read.
    #[error("{0}")]
    Settings(String),
}

/// Limit: queued lines for each entry that may be open: two of its own, and two of an entry closed before it
/// whose lines are not written yet.
const LINES_PER_ENTRY: usize = 4;

impl Trail {
    /// Opens the journal and starts its thread; at most `entries_max` entries may be open at once.
    ///
    /// `facts` are members that the line about the start gets, such as the version and hashes of the
    /// configuration. Exchanges have spans if `traces` is given.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be read or written, another process holds it, or a key cannot be
    /// read.
    pub fn start(
        settings: &AuditSettings,
        entries_max: usize,
        mut facts: Map<String, Value>,
        metrics: Arc<Metrics>,
        traces: Option<Traces>,
    ) -> Result<Self, TrailError> {
        metrics.audit.signing_configured.set(settings.checkpoints.is_some().into());
        facts.insert("version".to_owned(), env!("CARGO_PKG_VERSION").into());
        let checkpoints = settings.checkpoints.as_ref().map(CheckpointConfig::load).transpose();
        let witnesses = settings.checkpoints.iter().flat_map(|wanted| &wanted.witnesses);
        let witnesses = witnesses
            .map(|witness| Witness::new(witness, settings.journal.clone()))
            .collect::<Result<_, _>>();
        let journal = JournalSettings {
            folder: settings.journal.clone(),
            segment_bytes: settings.segment_size.as_u64(),
            segment_age: settings.segment_age,
            records_max: entries_max.saturating_mul(LINES_PER_ENTRY),
            facts,
            checkpoints: checkpoints.map_err(TrailError::Settings)?,
        };
        Ok(Self(Arc::new(TrailState {
            journal: Journal::open(journal, Arc::new(Observer(Arc::clone(&metrics))))?,
            places: Arc::new(Semaphore::new(entries_max)),
            settings: settings.clone(),
            budgets: LineBudgets::new(settings),
            unrecorded: UnrecordedRefusals::default(),
            disk_low: AtomicBool::new(false),
            witnesses: Mutex::new(witnesses.map_err(TrailError::Settings)?),
            stopping: AtomicBool::new(false),
            metrics,
            traffic: Traffic::default(),
            traces,
        })))
    }

    /// Opens an entry and reserves queue space for its lines, so that none is lost to a full queue.
    ///
    /// A request refused here has no entry: it is counted, and summed in one journal line a second.
    ///
    /// # Errors
    /// Returns [`Refusal::AuditUnavailable`] if the queue is full or the journal fails, and
    /// [`Refusal::GatewayFull`] if the maximum number of entries is open.
    pub fn open(&self, method: &Method, now: Timestamp) -> Result<Entry, Refusal> {
        let opened = self.try_open(method, now);
        if let Err(refusal) = &opened {
            self.0.unrecorded.add(None, refusal.row().token);
        }
        opened
    }

    fn try_open(&self, method: &Method, now: Timestamp) -> Result<Entry, Refusal> {
        let TrailState { places, metrics, .. } = &*self.0;
        if !self.may_go_on(method.as_str(), Instant::now()) {
            return Err(Refusal::AuditUnavailable);
        }
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            return Err(Refusal::GatewayFull);
        };
        let entry = Entry::open(self, place, method, now).ok_or(Refusal::AuditUnavailable)?;
        metrics.in_flight.inc();
        Ok(entry)
    }

    /// Queues a line about the program itself; `members` are added to it. Dropped if the queue is full, which
    /// is logged.
    pub fn note(&self, event: &'static str, mut members: Map<String, Value>) {
        members.insert("time".to_owned(), time_text(Timestamp::now()).into());
        members.insert("event".to_owned(), event.into());
        match (self.0.journal.reserve(), Record::new(&members)) {
            (Some(place), Ok(record)) => place.append(&record, RecordEvent::Other),
            (None, _) | (_, Err(_)) => {
                tracing::error!(
                    event,
                    "the audit journal's queue has no space: a line about the proxy itself is left out"
                );
            }
        }
    }

    /// Returns what the parties of a write get as evidence of its opened line: the journal's name, the line's
    /// number and its chain value; `None` if they are to have none.
    fn receipt(&self, head: ChainHead) -> Option<HeaderValue> {
        let checkpoints = self.0.settings.checkpoints.as_ref().filter(|wanted| wanted.receipts)?;
        HeaderValue::try_from(format!("{} {head}", checkpoints.origin)).ok()
    }

    /// Returns whether checkpoints of the journal are signed.
    #[must_use]
    pub fn signing(&self) -> SigningState {
        self.0.journal.signing()
    }

    /// Returns the traffic since the start.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.0.traffic
    }

    /// Returns the journal's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0.settings.journal
    }

    fn may_go_on(&self, method: &str, now: Instant) -> bool {
        let is_read = method == Method::GET.as_str()
            && self.0.settings.when_failing == WhenFailing::ServeReads;
        // Reads served while the journal fails write lines too, and must not use up the reserve.
        let has_room = !self.0.disk_low.load(Ordering::Acquire);
        has_room && (is_read || self.is_healthy_at(now))
    }

    fn is_healthy_at(&self, now: Instant) -> bool {
        self.fault_at(now).is_none()
    }

    fn fault_at(&self, now: Instant) -> Option<&'static str> {
        let TrailState { journal, settings, disk_low, .. } = &*self.0;
        if disk_low.load(Ordering::Acquire) {
            return Some("the journal's file system has less free space than audit.disk-reserve");
        }
        (!journal.is_healthy(now, settings.wait)).then_some(NOT_WRITTEN)
    }

    /// Returns true if the last write succeeded, the disk answers in time and has free space.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.is_healthy_at(Instant::now())
    }

    /// Returns why new requests cannot be recorded; `None` if they can.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        self.fault_at(Instant::now())
    }

    /// Watches the journal's health and its disk's free space for as long as it is polled.
    ///
    /// It runs apart from requests, since a disk that does not answer reports nothing to those that wait for
    /// it.
    pub async fn watch(&self) {
        let witnesses = self.follow_witnesses();
        tokio::join!(self.watch_health(), self.watch_disk(), self.write_sums(), witnesses);
    }

    /// Has the checkpoints countersigned by each witness.
    async fn follow_witnesses(&self) {
        let TrailState { journal, metrics, .. } = &*self.0;
        let witnesses =
            std::mem::take(&mut *self.0.witnesses.lock().unwrap_or_else(PoisonError::into_inner));
        let followed = witnesses.into_iter().map(|witness| witness.follow(journal, metrics));
        futures_util::future::join_all(followed).await;
    }

    /// Writes the sums of refusals without a line of their own, once a second.
    async fn write_sums(&self) {
        let TrailState { unrecorded, journal, .. } = &*self.0;
        loop {
            unrecorded.added().await;
            tokio::time::sleep(SUM).await;
            while !unrecorded.write(journal) {
                tokio::time::sleep(SUM).await;
            }
        }
    }

    /// Measures the disk's free space on a blocking thread, so that a disk that does not answer holds up
    /// nothing else: every [`WATCH`] while lines are written, every [`REST`] otherwise.
    async fn watch_disk(&self) {
        let mut begins = self.0.journal.write_begins();
        let mut was_scarce = false;
        let mut measured: Option<Instant> = None;
        self.0.metrics.audit.reserve(self.0.settings.disk_reserve.as_u64());
        loop {
            begins.mark_unchanged();
            let this = self.clone();
            let measures = measured.is_none_or(|at| at.elapsed() >= REST);
            if measures {
                measured = Some(Instant::now());
            }
            let look = move || {
                if measures {
                    this.measure();
                }
                this.look_at_disk(was_scarce)
            };
            let looked = tokio::task::spawn_blocking(look).await;
            was_scarce = looked.unwrap_or(was_scarce);
            tokio::time::sleep(WATCH).await;
            // While space is low nothing is written, yet freed space must be noticed soon.
            if !self.0.disk_low.load(Ordering::Acquire) {
                drop(tokio::time::timeout(REST, begins.changed()).await);
            }
        }
    }

    async fn watch_health(&self) {
        let mut begins = self.0.journal.write_begins();
        let mut was_healthy = true;
        loop {
            begins.mark_unchanged();
            let is_healthy = self.is_healthy();
            self.0.metrics.audit.healthy.set(is_healthy.into());
            if was_healthy && !is_healthy {
                tracing::error!(
                    "the audit journal cannot be written: its disk is full, fails or does not \
                     answer in time; new writes are refused, and reads as audit.when-failing says"
                );
            }
            was_healthy = is_healthy;
            // Without a write under way the disk cannot become silent: wait for the next one.
            if is_healthy && !self.0.journal.is_writing() {
                drop(begins.changed().await);
            }
            tokio::time::sleep(WATCH).await;
        }
    }

    /// Measures the free space of the journal's file system; returns true if it is below [`SCARCE`] reserves.
    fn look_at_disk(&self, was_scarce: bool) -> bool {
        let TrailState { settings, disk_low, metrics, .. } = &*self.0;
        let disk = match rustix::fs::statvfs(&settings.journal) {
            Ok(disk) => disk,
            Err(error) => {
                tracing::warn!(%error, "the free space of the audit journal's file system cannot be measured: audit.disk-reserve is not applied");
                return was_scarce;
            }
        };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let reserve = settings.disk_reserve.as_u64();
        metrics.audit.free(free);
        let (is_low, was_low) = (free < reserve, disk_low.swap(free < reserve, Ordering::AcqRel));
        let is_scarce = free < reserve.saturating_mul(SCARCE);
        if is_low && !was_low {
            tracing::error!(
                free_bytes = free,
                reserve_bytes = reserve,
                "the journal's file system is nearly full: new requests are refused until there is \
                 more free space than audit.disk-reserve"
            );
        } else if is_scarce && !was_scarce {
            tracing::warn!(
                free_bytes = free,
                reserve_bytes = reserve,
                "the journal's file system is running full: free some space, or new requests are \
                 refused once less than audit.disk-reserve is left"
            );
        } else if was_low && !is_low {
            tracing::info!(
                free_bytes = free,
                "the journal's file system has enough free space again"
            );
        }
        is_scarce
    }

    /// Measures the size of the journal.
    fn measure(&self) {
        match audit_journal::size(&self.0.settings.journal) {
            Ok(JournalSize { segments, bytes }) => self.0.metrics.audit.holds(segments, bytes),
            Err(error) => {
                tracing::warn!(%error, "the size of the audit journal cannot be measured");
            }
        }
    }

    /// Records exchanges that break off from now on as ended by the gateway's shutdown.
    pub fn begin_shutdown(&self) {
        self.0.stopping.store(true, Ordering::Release);
    }

    /// Returns the number and chain value of the journal's last line, once every exchange that has ended is on
    /// disk, in a line of its own or in a sum.
    ///
    /// # Errors
    /// Returns an error if the journal cannot be written for now. A disk that does not answer is waited for.
    pub async fn flush(&self) -> Result<ChainHead, FlushError> {
        let TrailState { unrecorded, journal, .. } = &*self.0;
        // Sums that the queue has no space for follow once it has been written.
        while !unrecorded.write(journal) {
            journal.flush().await?;
        }
        journal.flush().await
    }

    /// Returns the time after which a disk that has not answered is treated as failed.
    #[must_use]
    pub fn wait(&self) -> Duration {
        self.0.settings.wait
    }

    /// Writes every queued line, ends the journal's thread and unlocks the folder for the next process.
    ///
    /// Exchanges that begin afterwards cannot be recorded.
    pub async fn finish(&self) {
        self.0.unrecorded.write(&self.0.journal);
        self.0.journal.stop().await;
    }
}

/// Reason why nothing can be recorded while the journal's disk fails.
pub const NOT_WRITTEN: &str =
    "the journal cannot be written: its disk fails, is full, or does not answer in time";
/// Multiple of the reserve below which a warning about free space is logged.
const SCARCE: u64 = 8;

/// Interval at which refusals without a line of their own are summed in one.
const SUM: Duration = Duration::from_secs(1);
/// Interval at which the journal's health and its disk's free space are checked while lines are written.
const WATCH: Duration = Duration::from_millis(500);
/// Interval at which free space is measured while nothing is written: other programs may use it up.
const REST: Duration = Duration::from_secs(60);

/// Passes on to the metrics what the journal reports.
#[derive(Debug)]
struct Observer(Arc<Metrics>);

impl Observer {
    fn metrics(&self) -> &AuditMetrics {
        &self.0.audit
    }
}

impl JournalObserver for Observer {
    fn synced(&self, took: Duration) {
        self.metrics().synced(took);
    }

    fn write_failed(&self) {
        self.metrics().failed();
    }

    fn damaged(&self) {
        self.metrics().damaged.inc();
    }

    fn left_unfinished(&self) {
        self.metrics().unfinished.inc();
    }

    fn signing(&self, is_on: bool) {
        self.metrics().signing.set(is_on.into());
    }

    fn checkpoint(&self, at_s: i64) {
        self.metrics().checkpoint_s.set(at_s);
    }

    fn checkpoint_failed(&self, place: CheckpointPlace) {
        self.metrics().checkpoint_failed(match place {
            CheckpointPlace::Journal => CheckpointKeeper::Journal,
            CheckpointPlace::Copy => CheckpointKeeper::Copy,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(settings: &AuditSettings, entries_max: usize) -> Trail {
        Trail::start(settings, entries_max, Map::new(), Arc::new(Metrics::new()), None).unwrap()
    }

    #[tokio::test]
    async fn an_exchange_that_panics_leaves_its_record() {
        let folder = tempfile::tempdir().unwrap();
        let settings = AuditSettings::new(folder.path().join("audit"));
        let trail = start(&settings, 2);
        let exchange = trail.clone();
        let panicked = std::thread::spawn(move || {
            let _entry = exchange.open(&Method::GET, Timestamp::UNIX_EPOCH).unwrap();
            panic!("as planned");
        });
        assert!(panicked.join().is_err());
        trail.flush().await.unwrap();
        let text = std::fs::read_to_string(settings.journal.join("00000000000000000001.jsonl"));
        let text = text.unwrap();
        assert_eq!(text.lines().count(), 2);
        assert!(
            text.contains(r#""outcome":"aborted","ended_by":"panic","ended_in":"policy""#),
            "{text}"
        );
    }

    #[tokio::test]
    async fn an_entry_is_refused_when_too_many_are_open() {
        let folder = tempfile::tempdir().unwrap();
        let settings = AuditSettings::new(folder.path().join("audit"));
        let trail = start(&settings, 1);
        let open = || trail.open(&Method::GET, Timestamp::UNIX_EPOCH);
        let first = open().unwrap();
        assert_eq!(open().unwrap_err(), Refusal::GatewayFull);
        drop(first);
        trail.flush().await.unwrap();
        assert!(open().is_ok());
    }
}
