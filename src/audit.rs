//! The audit trail: what happened to every request, written where no step can read it.
//!
//! An [`Entry`] is opened before a request is looked at and closes itself when dropped: with the
//! last byte of the answer, or when a consumer hangs up, a provider cuts, or a task panics. It has
//! setters only. It never holds a token, a query, a body or anything that could be an NHS number.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use http::{Method, Response};
use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use crate::claims::Claims;
use crate::consumers::Consumer;
use crate::interaction::Interaction;
use crate::metrics::{Metrics, Outcome, Phase};
use crate::policy::Permit;
use crate::refusal::Refusal;
use crate::request::SspHeaders;
use crate::spine::{Asid, CertificateName, OdsCode, TraceId, masked};
use crate::tls::Peer;

mod chain;
mod export;
mod followed;
mod index;
mod journal;
mod line;
mod query;
mod read;
mod recovery;
mod segment;
mod settings;
mod verify;
mod writer;

pub use chain::{Head, Link, NotAHead};
pub use export::{Record, SSP_COLUMNS, otlp, row};
pub use followed::Followed;
pub use index::SEGMENT_BYTES_MAX;
pub use journal::JournalError;
pub use query::{Filter, Search, search};
pub use read::Unfinished;
pub use settings::{Durability, Settings, WhenFailing};
pub use verify::{Fault, Verified, verify};

use journal::Desk;
use line::{End, Step, Who};

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
        if !self.may_go_on(method, started) {
            return Err(Refusal::AuditUnavailable);
        }
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            return Err(Refusal::GatewayFull);
        };
        if !desk.reserve(journal::LINES) {
            return Err(Refusal::AuditUnavailable);
        }
        metrics.in_flight.inc();
        Ok(Entry {
            trail: self.clone(),
            _place: place,
            was_opened: false,
            who: Who::new(Uuid::new_v4()),
            method: method.clone(),
            interaction: None,
            to: None,
            certificate: None,
            opened_at: now,
            started,
            phase: (Phase::Policy, started),
            spent: [Duration::ZERO; 5],
            status: None,
            refusal: None,
            ended: None,
            transfer: Arc::default(),
            bytes_out: 0,
        })
    }

    fn may_go_on(&self, method: &Method, now: Instant) -> bool {
        let Shared { desk, settings, .. } = &*self.0;
        let is_read = *method == Method::GET && settings.when_failing == WhenFailing::ServeReads;
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

/// What the sending side of an exchange has done, for the record and for the truth of a refusal.
#[derive(Debug, Default)]
pub struct Transfer {
    bytes_in: AtomicU64,
    whole: AtomicBool,
    waiting: AtomicBool,
    last: Mutex<Option<Instant>>,
}

impl Transfer {
    /// Bytes of a request body went towards the provider.
    pub fn sent(&self, bytes: usize) {
        self.bytes_in.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// When bytes last went towards the provider.
    #[must_use]
    pub fn last_sent(&self) -> Option<Instant> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The consumer is waited for, or no longer.
    pub fn waits(&self, waiting: bool) {
        self.waiting.store(waiting, Ordering::Release);
    }

    /// Whether it is the consumer that is waited for.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Acquire)
    }

    /// The last byte of a request went towards the provider.
    pub fn sent_whole(&self) {
        self.whole.store(true, Ordering::Release);
    }

    /// Not one byte was written after all.
    pub fn nothing_sent(&self) {
        self.whole.store(false, Ordering::Release);
    }

    /// Whether the last byte of a request went towards the provider.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Acquire)
    }
}

/// Who ended an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedBy {
    /// The gateway: the answer is complete, or it was a refusal.
    Gateway,
    /// The consumer hung up.
    Consumer,
    /// The provider cut its answer or fell silent.
    Provider,
    /// The gateway again: it was told to stop, and the drain deadline passed.
    Shutdown,
    /// A bug.
    Panic,
}

impl EndedBy {
    const fn label(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Consumer => "consumer",
            Self::Provider => "provider",
            Self::Shutdown => "shutdown",
            Self::Panic => "panic",
        }
    }
}

/// The record of one exchange while it happens. Setters only; it closes in `Drop`.
#[derive(Debug)]
pub struct Entry {
    trail: Trail,
    _place: OwnedSemaphorePermit,
    /// Whether its first line has been handed over.
    was_opened: bool,
    who: Who,
    method: Method,
    interaction: Option<&'static Interaction>,
    to: Option<Asid>,
    certificate: Option<CertificateName>,
    opened_at: Timestamp,
    started: Instant,
    phase: (Phase, Instant),
    spent: [Duration; 5],
    status: Option<u16>,
    refusal: Option<&'static str>,
    ended: Option<EndedBy>,
    transfer: Arc<Transfer>,
    bytes_out: u64,
}

/// Where the directory's answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// The source's name.
    pub origin: &'static str,
    /// Seconds since a live source said so.
    pub age_s: Option<u64>,
}

impl Entry {
    /// The exchange's own id: the only thing an answer may take from its entry.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.who.id()
    }

    /// The sending side's account of itself.
    #[must_use]
    pub fn transfer(&self) -> Arc<Transfer> {
        Arc::clone(&self.transfer)
    }

    /// What the head says, as far as it is well formed.
    pub fn heard(&mut self, headers: &SspHeaders<'_>) {
        let trace_id = headers.trace_id.as_ref().ok().map(TraceId::printable);
        let from = headers.from.as_ref().ok();
        self.interaction = headers.interaction();
        self.to = headers.to.as_ref().ok().cloned();
        self.who.heard(&self.method, trace_id.as_deref(), from, self.interaction);
    }

    /// The certificate that was verified, by its first name until it is known which one counts.
    pub fn peer(&mut self, peer: &Peer) {
        self.certificate = peer.names().first().cloned();
    }

    /// The consumer that was identified, by the certificate name that it is registered with.
    pub fn consumer(&mut self, consumer: &Consumer) {
        if self.certificate.as_ref() != Some(consumer.name()) {
            self.certificate = Some(consumer.name().clone());
        }
    }

    /// The claims that were checked: from this list of fields, never others.
    pub fn claims(&mut self, claims: &Claims) {
        self.who.claims(claims);
    }

    /// Time is now spent on this.
    pub fn enter(&mut self, phase: Phase) {
        let now = Instant::now();
        let (last, since) = std::mem::replace(&mut self.phase, (phase, now));
        let took = now - since;
        for (slot, of) in self.spent.iter_mut().zip(Phase::ALL) {
            if of == last {
                *slot += took;
            }
        }
    }

    /// The request is about to be forwarded: its opened line goes to the journal first, and if it is
    /// one that waits for that, is on disk when this returns.
    ///
    /// # Errors
    /// [`Refusal::AuditUnavailable`] when the journal fails, or the line is not on disk in time.
    pub async fn opened(&mut self, permit: &Permit, told: Told) -> Result<(), Refusal> {
        let provider = permit.provider();
        let Shared { desk, settings, .. } = &*self.trail.0;
        if !self.trail.may_go_on(&self.method, Instant::now()) {
            return Err(Refusal::AuditUnavailable);
        }
        let certificate = self.certificate.as_ref();
        self.who.settles(Some(&provider.asid), Some(&provider.ods), certificate, Some(told));
        let line = self.who.opened(self.opened_at);
        self.was_opened = true;
        if !settings.durability.waits(permit.interaction().effect()) {
            desk.put(&line);
            return Ok(());
        }
        let (on_disk, wait) = (desk.put_durably(&line), settings.wait);
        self.enter(Phase::Audit);
        match tokio::time::timeout(wait, on_disk).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Refusal::AuditUnavailable),
        }
    }

    /// The gateway says no.
    pub fn refused(&mut self, refusal: &Refusal) {
        let row = refusal.row();
        self.trail.0.metrics.refused(row.token);
        self.refusal = Some(row.token);
        self.status = Some(row.status);
        let theirs =
            matches!(refusal, Refusal::ConsumerGone | Refusal::BodyCut | Refusal::BodyTimedOut);
        self.ended = Some(if theirs { EndedBy::Consumer } else { EndedBy::Gateway });
    }

    /// The provider has answered, whether or not the consumer is still there to hear it.
    pub fn answered(&mut self, status: u16) {
        self.enter(Phase::Policy);
        self.status = Some(status);
    }

    /// Ties the entry to an answer's body: it closes with the last byte.
    pub fn follow<B>(self, response: Response<B>) -> Response<Followed<B>> {
        response.map(|body| Followed { body, entry: self })
    }

    fn outcome(&self) -> Outcome {
        match (self.refusal, self.ended) {
            (Some(_), _) => Outcome::Refused,
            (None, Some(EndedBy::Gateway)) => Outcome::Answered,
            (None, _) => Outcome::Aborted,
        }
    }

    /// The phase it ended in: an answer's body is one of its own.
    fn ended_in(&self) -> &'static str {
        match (self.refusal, self.status, self.phase) {
            (None, Some(_), _) => "answer",
            (_, _, (phase, _)) => phase.label(),
        }
    }

    fn end(&self) -> End {
        let unfinished = if std::thread::panicking() {
            EndedBy::Panic
        } else if self.trail.0.stopping.load(Ordering::Acquire) {
            EndedBy::Shutdown
        } else {
            EndedBy::Consumer
        };
        let [_, policy, directory, audit, provider] = self.spent;
        End {
            status: self.status,
            outcome: self.outcome().label(),
            refusal: self.refusal,
            ended_by: self.ended.unwrap_or(unfinished),
            ended_in: self.ended_in(),
            sent_whole: self.transfer.is_whole(),
            bytes_in: self.transfer.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out,
            duration: self.started.elapsed(),
            policy,
            directory,
            audit,
            provider,
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let (last, _) = self.phase;
        self.enter(last);
        let end = self.end();
        let Shared { desk, unverified, metrics, .. } = &*self.trail.0;
        for (phase, spent) in Phase::ALL.into_iter().zip(self.spent) {
            if !spent.is_zero() {
                metrics.phase(phase, spent);
            }
        }
        metrics.in_flight.dec();
        metrics.exchange(self.interaction, &self.method, self.outcome(), end.duration);
        // Security: nobody without a certificate can fill the disk.
        if let (Some(token), None) = (self.refusal, &self.certificate)
            && unverified.check().is_err()
        {
            desk.unrecorded(token);
            desk.give_back(2);
            return;
        }
        let ended_at = jiff::SignedDuration::try_from(end.duration).unwrap_or_default();
        let time = self.opened_at.saturating_add(ended_at).unwrap_or(self.opened_at);
        if !self.who.is_heard() {
            self.who.heard(&self.method, None, None, None);
        }
        let step = if self.was_opened {
            Step::Closed
        } else {
            self.who.settles(self.to.as_ref(), None, self.certificate.as_ref(), None);
            desk.give_back(1);
            Step::Only
        };
        desk.put(&self.who.closed(step, time, &end));
    }
}

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
