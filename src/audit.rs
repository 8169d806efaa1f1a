//! The audit trail: what happened to every request, written where no step can read it.
//!
//! An [`Entry`] is opened before a request is looked at and closes itself when dropped: with the
//! last byte of the answer, or when a consumer hangs up, a provider cuts, or a task panics. It has
//! setters only. It never holds a token, a query, a body or anything that could be an NHS number.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{Method, Response};
use jiff::Timestamp;
use tokio::sync::mpsc::OwnedPermit;
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

mod followed;
mod journal;
mod line;

pub use followed::Followed;
pub use journal::{JournalError, Settings};

use journal::Message;
use line::{End, Line, Part, RecordedClaims, Who};

/// Where records go. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Trail {
    lines: tokio::sync::mpsc::Sender<Message>,
    places: Arc<Semaphore>,
    healthy: Arc<AtomicBool>,
    stopping: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
}

impl Trail {
    /// Opens an entry: places for both of its lines are reserved, so that neither can be lost to a
    /// full queue later.
    ///
    /// # Errors
    /// [`Refusal::AuditUnavailable`] when the queue is full or the last write failed;
    /// [`Refusal::GatewayFull`] when as many entries are open as may be.
    pub fn open(&self, method: &Method, now: Timestamp) -> Result<Entry, Refusal> {
        if !self.healthy.load(Ordering::Acquire) {
            return Err(Refusal::AuditUnavailable);
        }
        let Ok(in_hand) = Arc::clone(&self.places).try_acquire_owned() else {
            return Err(Refusal::GatewayFull);
        };
        let place = || self.lines.clone().try_reserve_owned();
        let (Ok(opened), Ok(closed)) = (place(), place()) else {
            return Err(Refusal::AuditUnavailable);
        };
        self.metrics.in_flight.inc();
        let started = Instant::now();
        Ok(Entry {
            places: Places { opened: Some(opened), closed: Some(closed), _in_hand: in_hand },
            who: Arc::new(Who::new(Uuid::new_v4(), method.clone())),
            opened_at: now,
            started,
            phase: (Phase::Policy, started),
            spent: [Duration::ZERO; 4],
            status: None,
            refusal: None,
            ended: None,
            transfer: Arc::default(),
            bytes_out: 0,
            stopping: Arc::clone(&self.stopping),
            metrics: Arc::clone(&self.metrics),
        })
    }

    /// Whether the last write succeeded.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Acquire)
    }

    /// What is cut off from now on is cut off by the gateway.
    pub fn stops(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Returns when everything handed over before has been written.
    pub async fn flush(&self) {
        let (done, wait) = tokio::sync::oneshot::channel();
        if self.lines.send(Message::Flush(done)).await.is_ok() {
            // A journal that ends first has written all it had.
            wait.await.unwrap_or_default();
        }
    }
}

#[derive(Debug)]
struct Places {
    opened: Option<OwnedPermit<Message>>,
    closed: Option<OwnedPermit<Message>>,
    _in_hand: OwnedSemaphorePermit,
}

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
    places: Places,
    who: Arc<Who>,
    opened_at: Timestamp,
    started: Instant,
    phase: (Phase, Instant),
    spent: [Duration; 4],
    status: Option<u16>,
    refusal: Option<&'static str>,
    ended: Option<EndedBy>,
    transfer: Arc<Transfer>,
    bytes_out: u64,
    stopping: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
}

impl Entry {
    /// The exchange's own id: the only thing an answer may take from its entry.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.who.id
    }

    /// The sending side's account of itself.
    #[must_use]
    pub fn transfer(&self) -> Arc<Transfer> {
        Arc::clone(&self.transfer)
    }

    /// What the head says, as far as it is well formed.
    pub fn heard(&mut self, headers: &SspHeaders<'_>) {
        let who = self.who();
        who.trace_id = headers.trace_id.as_ref().ok().map(TraceId::printable);
        who.from = headers.from.as_ref().ok().cloned();
        who.to = headers.to.as_ref().ok().cloned();
        who.interaction = headers.interaction();
    }

    /// The certificate that was verified, by its first name until it is known which one counts.
    pub fn peer(&mut self, peer: &Peer) {
        self.who().certificate = peer.names().first().cloned();
    }

    /// The consumer that was identified, by the certificate name that it is registered with.
    pub fn consumer(&mut self, consumer: &Consumer) {
        self.who().certificate = Some(consumer.name().clone());
    }

    /// The claims that were checked: from this list of fields, never others.
    pub fn claims(&mut self, claims: &Claims) {
        let text = |text: &str| masked(text, line::CLAIM_BYTES_MAX);
        self.who().claims = Some(RecordedClaims {
            organisation: claims.organisation.clone(),
            issuer: text(&claims.issuer),
            subject: text(&claims.subject),
            reason: text(&claims.reason),
            scope: text(&claims.scope),
            user_id: claims.user_id.as_deref().map(text),
            role_profile_id: claims.role_profile_id.as_deref().map(text),
        });
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

    /// The request is about to be forwarded: its opened line goes to the journal first.
    ///
    /// # Errors
    /// [`Refusal::AuditUnavailable`] when the journal has failed since the entry was opened.
    pub fn opened(&mut self, permit: &Permit, trail: &Trail) -> Result<(), Refusal> {
        let provider = permit.provider();
        let who = self.who();
        who.to = Some(provider.asid.clone());
        who.ods = Some(provider.ods.clone());
        if !trail.is_healthy() {
            return Err(Refusal::AuditUnavailable);
        }
        if let Some(place) = self.places.opened.take() {
            let line =
                Line { time: self.opened_at, who: Arc::clone(&self.who), part: Part::Opened };
            drop(place.send(Message::Line(Box::new(line))));
        }
        Ok(())
    }

    /// The gateway says no.
    pub fn refused(&mut self, refusal: &Refusal) {
        let row = refusal.row();
        self.metrics.refused(row.token);
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

    /// Nobody shares this before the opened line is sent, and nothing is set after.
    fn who(&mut self) -> &mut Who {
        Arc::make_mut(&mut self.who)
    }

    fn outcome(&self) -> Outcome {
        match (self.refusal, self.ended) {
            (Some(_), _) => Outcome::Refused,
            (None, Some(EndedBy::Gateway)) => Outcome::Answered,
            (None, _) => Outcome::Aborted,
        }
    }

    fn end(&self) -> End {
        let unfinished = if std::thread::panicking() {
            EndedBy::Panic
        } else if self.stopping.load(Ordering::Acquire) {
            EndedBy::Shutdown
        } else {
            EndedBy::Consumer
        };
        let [_, policy, directory, provider] = self.spent;
        End {
            status: self.status,
            outcome: self.outcome().label(),
            refusal: self.refusal,
            ended_by: self.ended.unwrap_or(unfinished),
            sent_whole: self.transfer.is_whole(),
            bytes_in: self.transfer.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out,
            duration: self.started.elapsed(),
            policy,
            directory,
            provider,
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let (last, _) = self.phase;
        self.enter(last);
        let end = self.end();
        for (phase, spent) in Phase::ALL.into_iter().zip(self.spent) {
            if !spent.is_zero() {
                self.metrics.phase(phase, spent);
            }
        }
        self.metrics.in_flight.dec();
        let (interaction, method) = (self.who.interaction, &self.who.method);
        self.metrics.exchange(interaction, method, self.outcome(), end.duration);
        if let Some(place) = self.places.closed.take() {
            let ended_at = jiff::SignedDuration::try_from(end.duration).unwrap_or_default();
            let time = self.opened_at.saturating_add(ended_at).unwrap_or(self.opened_at);
            let part = match self.places.opened {
                Some(_) => Part::Only(end),
                None => Part::Closed(end),
            };
            let line = Line { time, who: Arc::clone(&self.who), part };
            drop(place.send(Message::Line(Box::new(line))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_exchange_that_panics_leaves_its_record() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { journal: folder.path().join("audit.jsonl") };
        let trail = Trail::start(&settings, 2, Arc::new(Metrics::new())).unwrap();
        let exchange = trail.clone();
        let panicked = std::thread::spawn(move || {
            let _entry = exchange.open(&Method::GET, Timestamp::UNIX_EPOCH).unwrap();
            panic!("as planned");
        });
        assert!(panicked.join().is_err());
        trail.flush().await;
        let text = std::fs::read_to_string(&settings.journal).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert!(text.contains(r#""outcome":"aborted","ended_by":"panic""#), "{text}");
    }

    #[tokio::test]
    async fn an_entry_is_refused_when_too_many_are_open() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { journal: folder.path().join("audit.jsonl") };
        let trail = Trail::start(&settings, 1, Arc::new(Metrics::new())).unwrap();
        let open = || trail.open(&Method::GET, Timestamp::UNIX_EPOCH);
        let first = open().unwrap();
        assert_eq!(open().unwrap_err(), Refusal::GatewayFull);
        drop(first);
        trail.flush().await;
        assert!(open().is_ok());
    }
}
