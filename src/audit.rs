//! The audit trail: what happened to every request, written where no step can read it.
//!
//! An [`Entry`] is opened before a request is looked at and closes itself when dropped: with the
//! last byte of the answer, or when a consumer hangs up, a provider cuts, or a task panics. It has
//! setters only. It never holds a token, a query, a body or anything that could be an NHS number.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use http::Method;
use jiff::Timestamp;
use tokio::sync::Semaphore;

use crate::metrics::Metrics;
use crate::refusal::Refusal;

mod chain;
mod entry;
mod export;
mod followed;
mod index;
mod journal;
mod line;
mod object;
mod outbox;
mod query;
mod read;
mod recovery;
mod segment;
mod settings;
mod sheet;
mod transfer;
mod verify;
mod writer;

pub use chain::{Head, Link, NotAHead};
pub use entry::{EndedBy, Entry, Told};
pub use export::{Record, SSP_COLUMNS, otlp, row};
pub use followed::Followed;
pub use index::SEGMENT_BYTES_MAX;
pub use journal::JournalError;
pub use query::{Filter, Search, search};
pub use read::Unfinished;
pub use settings::{Durability, Settings, WhenFailing};
pub use transfer::Transfer;
pub use verify::{Fault, Verified, verify};

use journal::Desk;

/// Where records go. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Trail(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    desk: Desk,
    places: Arc<Semaphore>,
    settings: Settings,
    /// Lines for refusals of those without a verified certificate.
    unverified: DefaultDirectRateLimiter,
    stopping: AtomicBool,
    metrics: Arc<Metrics>,
}

impl Trail {
    /// Opens the journal and starts its thread; `entries_max` is how many entries may be open at once.
    ///
    /// # Errors
    /// The folder is not ours alone, cannot be read, or cannot be written.
    pub fn start(
        settings: &Settings,
        entries_max: usize,
        metrics: Arc<Metrics>,
    ) -> Result<Self, JournalError> {
        Ok(Self(Arc::new(Shared {
            desk: Desk::start(settings, entries_max, Arc::clone(&metrics))?,
            places: Arc::new(Semaphore::new(entries_max)),
            settings: settings.clone(),
            unverified: RateLimiter::direct(Quota::per_second(settings.unverified_per_second)),
            stopping: AtomicBool::new(false),
            metrics,
        })))
    }

    /// Opens an entry: room for both of its lines is reserved, so that neither can be lost to a full
    /// queue later. What is refused here has no entry; it is counted, and summed in one line a second.
    ///
    /// # Errors
    /// [`Refusal::AuditUnavailable`] when the queue is full or the journal fails;
    /// [`Refusal::GatewayFull`] when as many entries are open as may be.
    pub fn open(&self, method: &Method, now: Timestamp) -> Result<Entry, Refusal> {
        let opened = self.try_open(method, now);
        if let Err(refusal) = &opened {
            self.0.desk.unrecorded(refusal.row().token);
        }
        opened
    }

    fn try_open(&self, method: &Method, now: Timestamp) -> Result<Entry, Refusal> {
        let Shared { desk, places, metrics, .. } = &*self.0;
        let started = Instant::now();
        if !self.may_go_on(method.as_str(), started) {
            return Err(Refusal::AuditUnavailable);
        }
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            return Err(Refusal::GatewayFull);
        };
        if !desk.reserve(journal::LINES) {
            return Err(Refusal::AuditUnavailable);
        }
        metrics.in_flight.inc();
        Ok(Entry::new(self.clone(), place, method, (now, started)))
    }

    fn may_go_on(&self, method: &str, now: Instant) -> bool {
        let Shared { desk, settings, .. } = &*self.0;
        let is_read =
            method == Method::GET.as_str() && settings.when_failing == WhenFailing::ServeReads;
        is_read || desk.is_healthy(now, settings.wait)
    }

    /// Whether the last write succeeded, and the disk answers.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.0.desk.is_healthy(Instant::now(), self.0.settings.wait)
    }

    /// Tells how the journal is, for as long as it is polled: a disk that says nothing at all cannot
    /// be told of by whoever waits for it.
    pub async fn watch(&self) {
        let mut was_healthy = true;
        loop {
            let is_healthy = self.is_healthy();
            self.0.metrics.audit.healthy.set(is_healthy.into());
            if was_healthy && !is_healthy {
                tracing::error!("the audit journal fails, or its disk is silent");
            }
            was_healthy = is_healthy;
            tokio::time::sleep(WATCH).await;
        }
    }

    /// What is cut off from now on is cut off by the gateway.
    pub fn stops(&self) {
        self.0.stopping.store(true, Ordering::Release);
    }

    /// Returns when everything handed over before is on disk, or could not be written.
    pub async fn flush(&self) {
        self.0.desk.flush().await.unwrap_or_default();
    }

    /// Returns when everything handed over before is on disk and the journal is left to the next
    /// process. Nothing can be recorded after.
    pub async fn finish(&self) {
        self.0.desk.stop().await.unwrap_or_default();
    }
}

/// How often it is looked at how the journal is.
const WATCH: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_exchange_that_panics_leaves_its_record() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings::new(folder.path().join("audit"));
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
        let settings = Settings::new(folder.path().join("audit"));
        let trail = Trail::start(&settings, 1, Arc::new(Metrics::new())).unwrap();
        let open = || trail.open(&Method::GET, Timestamp::UNIX_EPOCH);
        let first = open().unwrap();
        assert_eq!(open().unwrap_err(), Refusal::GatewayFull);
        drop(first);
        trail.flush().await;
        assert!(open().is_ok());
    }
}
