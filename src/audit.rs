//! The audit trail: a write-only record of every request.
//!
//! An [`Entry`] is opened before a request is looked at and closes itself when dropped: with the last byte of
//! the answer, or when a consumer disconnects, a provider breaks off, or a task panics. It has setters only.
//! It never holds a token, a query, a body or anything that could be an NHS number.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use http::Method;
use jiff::Timestamp;
use tokio::sync::Semaphore;

use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::tls::Peer;
use spine_types::Asid;

mod chain;
mod entry;
mod export;
mod index;
mod journal;
mod line;
mod object;
mod line_queue;
mod query;
mod read;
mod recovery;
mod segment;
mod settings;
mod record_fields;
mod transfer;
mod verify;
mod writer;

pub use chain::{ChainHead, ChainValue, InvalidHead};
pub use entry::{EndedBy, Entry, RegistrationOrigin};
pub use export::{ExportedLine, SSP_COLUMNS, otlp, row};
pub use index::SEGMENT_BYTES_MAX;
pub use journal::JournalError;
pub use query::{LineFilter, SearchMethod, search};
pub use read::UnfinishedExchange;
pub use settings::{AuditSettings, Durability, WhenFailing};
pub use transfer::Transfer;
pub use verify::{Verified, VerifyFault, verify};

use journal::JournalHandle;

/// Handle of the audit journal, through which exchanges write their records. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Trail(Arc<TrailState>);

#[derive(Debug)]
struct TrailState {
    journal: JournalHandle,
    places: Arc<Semaphore>,
    settings: AuditSettings,
    lines: LineBudgets,
    /// True while the journal's file system has less free space than the reserve.
    disk_low: AtomicBool,
    stopping: AtomicBool,
    metrics: Arc<Metrics>,
}

impl Trail {
    /// Opens the journal and starts its thread; at most `entries_max` entries may be open at once.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be read or written, or another process holds it.
    pub fn start(
        settings: &AuditSettings,
        entries_max: usize,
        metrics: Arc<Metrics>,
    ) -> Result<Self, JournalError> {
        Ok(Self(Arc::new(TrailState {
            journal: JournalHandle::start(settings, entries_max, Arc::clone(&metrics))?,
            places: Arc::new(Semaphore::new(entries_max)),
            settings: settings.clone(),
            lines: LineBudgets::new(settings),
            disk_low: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            metrics,
        })))
    }

    /// Opens an entry and reserves queue space for both of its lines, so that neither is lost to a full
    /// queue.
    ///
    /// A request refused here has no entry: it is counted, and summed in one journal line a second.
    ///
    /// # Errors
    /// Returns [`Refusal::AuditUnavailable`] if the queue is full or the journal fails, and
    /// [`Refusal::GatewayFull`] if the maximum number of entries is open.
    pub fn open(&self, method: &Method, now: Timestamp) -> Result<Entry, Refusal> {
        let opened = self.try_open(method, now);
        if let Err(refusal) = &opened {
            self.0.journal.unrecorded(None, refusal.row().token);
        }
        opened
    }

    fn try_open(&self, method: &Method, now: Timestamp) -> Result<Entry, Refusal> {
        let TrailState { journal, places, metrics, .. } = &*self.0;
        let started = Instant::now();
        if !self.may_go_on(method.as_str(), started) {
            return Err(Refusal::AuditUnavailable);
        }
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            return Err(Refusal::GatewayFull);
        };
        if !journal.reserve(journal::LINES) {
            return Err(Refusal::AuditUnavailable);
        }
        metrics.in_flight.inc();
        Ok(Entry::new(self.clone(), place, method, now, started))
    }

    fn may_go_on(&self, method: &str, now: Instant) -> bool {
        let is_read = method == Method::GET.as_str()
            && self.0.settings.when_failing == WhenFailing::ServeReads;
        // Reads served while the journal fails write lines too, and must not use up the reserve.
        let has_room = !self.0.disk_low.load(Ordering::Acquire);
        has_room && (is_read || self.is_healthy_at(now))
    }

    fn is_healthy_at(&self, now: Instant) -> bool {
        let TrailState { journal, settings, disk_low, .. } = &*self.0;
        !disk_low.load(Ordering::Acquire) && journal.is_healthy(now, settings.wait)
    }

    /// Returns true if the last write succeeded, the disk answers in time and has free space.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.is_healthy_at(Instant::now())
    }

    /// Watches the journal's health and its disk's free space for as long as it is polled.
    ///
    /// It runs apart from requests, since a disk that does not answer reports nothing to those that wait for
    /// it.
    pub async fn watch(&self) {
        tokio::join!(self.watch_health(), self.watch_disk());
    }

    /// Measures the disk's free space on a blocking thread, so that a disk that does not answer holds up
    /// nothing else: every [`WATCH`] while lines are written, every [`REST`] otherwise.
    async fn watch_disk(&self) {
        let mut asked = self.0.journal.asked();
        let mut was_scarce = false;
        loop {
            asked.mark_unchanged();
            let this = self.clone();
            let looked = tokio::task::spawn_blocking(move || this.look_at_disk(was_scarce)).await;
            was_scarce = looked.unwrap_or(was_scarce);
            tokio::time::sleep(WATCH).await;
            // While space is low nothing is written, yet freed space must be noticed soon.
            if !self.0.disk_low.load(Ordering::Acquire) {
                drop(tokio::time::timeout(REST, asked.changed()).await);
            }
        }
    }

    async fn watch_health(&self) {
        let mut asked = self.0.journal.asked();
        let mut was_healthy = true;
        loop {
            asked.mark_unchanged();
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
            if is_healthy && !self.0.journal.is_asking() {
                drop(asked.changed().await);
            }
            tokio::time::sleep(WATCH).await;
        }
    }

    /// Measures the free space of the journal's file system; returns true if it is below [`SCARCE`] reserves.
    fn look_at_disk(&self, was_scarce: bool) -> bool {
        let TrailState { settings, disk_low, metrics, .. } = &*self.0;
        let Ok(disk) = rustix::fs::statvfs(&settings.journal) else { return was_scarce };
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

    /// Records exchanges that break off from now on as ended by the gateway's shutdown.
    pub fn begin_shutdown(&self) {
        self.0.stopping.store(true, Ordering::Release);
    }

    /// Returns once every line queued before is on disk, or could not be written.
    pub async fn flush(&self) {
        self.0.journal.flush().await.unwrap_or_default();
    }

    /// Writes every queued line, ends the journal's thread and unlocks the folder for the next process.
    ///
    /// Exchanges that begin afterwards cannot be recorded.
    pub async fn finish(&self) {
        self.0.journal.stop().await.unwrap_or_default();
    }
}

/// Multiple of the reserve below which a warning about free space is logged.
const SCARCE: u64 = 8;

/// Rate limits on journal lines for refusals: refused callers must not be able to fill the disk.
#[derive(Debug)]
struct LineBudgets {
    /// Budget of all callers without a verified certificate together.
    unverified: DefaultDirectRateLimiter,
    /// Budgets of certificates whose callers were not identified: of each, by fingerprint, and of all
    /// together.
    by_certificate: DefaultKeyedRateLimiter<String>,
    certificates: DefaultDirectRateLimiter,
    /// Budgets of consumers refused for exceeding a limit, by ASID.
    by_consumer: DefaultKeyedRateLimiter<Asid>,
}

/// Multiple of one certificate's budget that all certificates have together.
const CERTIFICATES: u32 = 5;
/// Limit: lines per second for refusals of one consumer that exceeds a limit.
const LIMIT_REFUSALS_PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(4);
/// Number of certificates or consumers above which budgets without a recent refusal are dropped.
const BUDGETS_KEPT: usize = 4096;

impl LineBudgets {
    fn new(settings: &AuditSettings) -> Self {
        let each = settings.unverified_per_second;
        let all = each.saturating_mul(NonZeroU32::MIN.saturating_add(CERTIFICATES - 1));
        Self {
            unverified: RateLimiter::direct(Quota::per_second(each)),
            by_certificate: RateLimiter::keyed(Quota::per_second(each)),
            certificates: RateLimiter::direct(Quota::per_second(all)),
            by_consumer: RateLimiter::keyed(Quota::per_second(LIMIT_REFUSALS_PER_SECOND)),
        }
    }

    /// Takes a line for the refusal of an unidentified caller from the budgets; returns false if none is
    /// left.
    fn unidentified(&self, peer: Option<&Peer>) -> bool {
        let Some(peer) = peer else { return self.unverified.check().is_ok() };
        if self.by_certificate.len() > BUDGETS_KEPT {
            self.by_certificate.retain_recent();
        }
        self.by_certificate.check_key(&peer.fingerprint().to_owned()).is_ok()
            && self.certificates.check().is_ok()
    }

    /// Takes a line for the refusal of a consumer that exceeded a limit from its budget; returns false if
    /// none is left.
    fn limit(&self, consumer: &Asid) -> bool {
        if self.by_consumer.len() > BUDGETS_KEPT {
            self.by_consumer.retain_recent();
        }
        self.by_consumer.check_key(consumer).is_ok()
    }
}

/// Interval at which the journal's health and its disk's free space are checked while lines are written.
const WATCH: Duration = Duration::from_millis(500);
/// Interval at which free space is measured while nothing is written: other programs may use it up.
const REST: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_exchange_that_panics_leaves_its_record() {
        let folder = tempfile::tempdir().unwrap();
        let settings = AuditSettings::new(folder.path().join("audit"));
        let trail = Trail::start(&settings, 2, Arc::new(Metrics::new())).unwrap();
        let exchange = trail.clone();
        let panicked = std::thread::spawn(move || {
            let _entry = exchange.open(&Method::GET, Timestamp::UNIX_EPOCH).unwrap();
            panic!("as planned");
        });
        assert!(panicked.join().is_err());
        trail.flush().await;
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
        let trail = Trail::start(&settings, 1, Arc::new(Metrics::new())).unwrap();
        let open = || trail.open(&Method::GET, Timestamp::UNIX_EPOCH);
        let first = open().unwrap();
        assert_eq!(open().unwrap_err(), Refusal::GatewayFull);
        drop(first);
        trail.flush().await;
        assert!(open().is_ok());
    }
}
