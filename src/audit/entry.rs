//! The record of one exchange while it is under way.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::Method;
use jiff::Timestamp;
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use super::line::ExchangeEnd;
use super::line_queue::QueuePosition;
use super::record_fields::{ExchangeFacts, Field, RecordFields};
use super::{Trail, TrailState, Transfer};
use crate::claims::Claims;
use crate::consumers::Consumer;
use crate::metrics::{ExchangeOutcome, Phase};
use crate::policy::Permit;
use crate::refusal::Refusal;
use crate::request::{self, SspHeaders};
use crate::tls::Peer;
use spine_types::{Asid, CertificateName, TraceId};

/// Party that ended an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedBy {
    /// The gateway: the answer is complete, or it was a refusal.
    Gateway,
    /// The consumer: it closed its connection.
    Consumer,
    /// The provider: it broke off its answer or stopped sending.
    Provider,
    /// The gateway, at a shutdown: the drain deadline passed.
    Shutdown,
    /// A panic in the gateway, which is a bug.
    Panic,
}

impl EndedBy {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Consumer => "consumer",
            Self::Provider => "provider",
            Self::Shutdown => "shutdown",
            Self::Panic => "panic",
        }
    }
}

/// Record of one exchange while it is under way. It has setters only, and closes in `Drop`.
#[derive(Debug)]
pub struct Entry {
    trail: Trail,
    _place: OwnedSemaphorePermit,
    /// Position of its first line in the journal's queue, once it is there.
    first: Option<QueuePosition>,
    known: ExchangeFacts,
    fields: RecordFields,
    to: Option<Asid>,
    /// The verified certificate, which may have no usable name.
    peer: Option<Arc<Peer>>,
    /// ASID of the consumer, once it has been identified.
    consumer: Option<Asid>,
    /// True if it was refused for exceeding a limit.
    limited: bool,
    certificate: Option<CertificateName>,
    /// Reason why the certificate was refused.
    certificate_fault: Option<String>,
    started: Instant,
    phase: (Phase, Instant),
    spent: [Duration; Phase::ALL.len()],
    status: Option<u16>,
    refusal: Option<&'static str>,
    ended: Option<EndedBy>,
    transfer: Arc<Transfer>,
    bytes_out: u64,
}

/// Source of the directory's answer about a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegistrationOrigin {
    /// Name of the source.
    pub origin: &'static str,
    /// Seconds since a live source gave the answer; `None` for the directory file.
    pub age_s: Option<u64>,
}

/// Method of a record about a failed handshake, which has no request.
const HANDSHAKE: &str = "_HANDSHAKE";

impl Entry {
    pub(super) fn new(
        trail: Trail,
        place: OwnedSemaphorePermit,
        method: &Method,
        opened_at: Timestamp,
        started: Instant,
    ) -> Self {
        Self {
            trail,
            _place: place,
            first: None,
            known: ExchangeFacts {
                id: Uuid::new_v4(),
                opened_at,
                // A method that is not one of HTTP's own is text of the sender's choice, and is not recorded.
                method: request::known(method).unwrap_or("_OTHER"),
                interaction: None,
                origin: None,
            },
            fields: RecordFields::default(),
            to: None,
            peer: None,
            consumer: None,
            limited: false,
            certificate: None,
            certificate_fault: None,
            started,
            phase: (Phase::Policy, started),
            spent: [Duration::ZERO; Phase::ALL.len()],
            status: None,
            refusal: None,
            ended: None,
            transfer: Arc::default(),
            bytes_out: 0,
        }
    }

    /// Returns the exchange's id: the only part of its entry that an answer may contain.
    #[must_use]
    pub const fn id(&self) -> Uuid {
        self.known.id
    }

    /// Returns the progress of the transfer to the provider, as the sending side reports it.
    #[must_use]
    pub fn transfer(&self) -> Arc<Transfer> {
        Arc::clone(&self.transfer)
    }

    /// Records the SSP headers, as far as they are well formed.
    pub fn set_headers(&mut self, headers: &SspHeaders<'_>) {
        let trace_id = headers.trace_id.as_ref().ok().map(TraceId::printable);
        self.fields.optional(Field::TRACE_ID, trace_id.as_deref());
        self.fields.optional(Field::FROM, headers.from.as_ref().ok().map(Asid::as_str));
        self.known.interaction = headers.interaction();
        self.to = headers.to.as_ref().ok().cloned();
    }

    /// Records the verified certificate, under its first name until the registered one is known.
    pub fn peer(&mut self, peer: &Arc<Peer>) {
        self.peer = Some(Arc::clone(peer));
        self.certificate = peer.names().first().cloned();
    }

    /// Records the consumer, and the certificate name that it is registered with.
    pub fn consumer(&mut self, consumer: &Consumer) {
        self.consumer = Some(consumer.sender().asid.clone());
        if self.certificate.as_ref() != Some(consumer.name()) {
            self.certificate = Some(consumer.name().clone());
        }
    }

    /// Records the checked claims: a fixed list of fields, never others.
    pub fn claims(&mut self, claims: &Claims<'_>) {
        self.fields.claims(claims);
    }

    /// Awaits `future`, and counts the time as spent in this phase.
    ///
    /// After a failure the exchange is recorded as ended in this phase; after a success [`Phase::Policy`]
    /// follows. The future is pinned by the caller: moved in, it would be held twice.
    ///
    /// # Errors
    /// Returns the error of `future`.
    pub async fn during<T, E>(
        &mut self,
        phase: Phase,
        future: Pin<&mut impl Future<Output = Result<T, E>>>,
    ) -> Result<T, E> {
        self.enter(phase);
        let output = future.await?;
        self.enter(Phase::Policy);
        Ok(output)
    }

    /// Begins a phase, and ends the one before.
    fn enter(&mut self, phase: Phase) {
        let now = Instant::now();
        let (last, since) = std::mem::replace(&mut self.phase, (phase, now));
        let took = now - since;
        for (slot, of) in self.spent.iter_mut().zip(Phase::ALL) {
            if of == last {
                *slot += took;
            }
        }
    }

    /// Queues the opened line just before the request is forwarded. A request whose line must be durable
    /// waits here until it is on disk.
    ///
    /// # Errors
    /// Returns [`Refusal::AuditUnavailable`] if the journal fails, or the line is not on disk in time.
    pub async fn opened(
        &mut self,
        permit: &Permit,
        origin: Option<RegistrationOrigin>,
    ) -> Result<(), Refusal> {
        if !self.trail.may_go_on(self.known.method, Instant::now()) {
            return Err(Refusal::AuditUnavailable);
        }
        let provider = permit.provider();
        self.known.origin = origin;
        let (to, ods) = (Some(&provider.asid), Some(&provider.ods));
        self.fields.sides(to, ods, self.certificate.as_ref());
        let TrailState { journal, settings, .. } = &*self.trail.0;
        if !settings.durability.waits(permit.interaction().effect()) {
            self.first = Some(journal.open(self.known, &self.fields));
            return Ok(());
        }
        let (place, on_disk) = journal.open_durably(self.known, &self.fields);
        let wait = settings.wait;
        self.first = Some(place);
        let in_time = pin!(async {
            match tokio::time::timeout(wait, on_disk).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) | Err(_) => Err(Refusal::AuditUnavailable),
            }
        });
        self.during(Phase::Audit, in_time).await
    }

    /// Records a handshake that failed because of its client certificate, and had no answer.
    pub fn refused_in_handshake(&mut self, refusal: &Refusal) {
        self.refused(refusal);
        self.known.method = HANDSHAKE;
        self.status = None;
    }

    /// Records and counts that the gateway refused the request.
    pub fn refused(&mut self, refusal: &Refusal) {
        let row = refusal.row();
        self.limited = matches!(refusal, Refusal::QuotaExceeded { .. } | Refusal::ConsumerBusy);
        self.certificate_fault = refusal.certificate_fault().map(ToString::to_string);
        self.trail.0.metrics.refused(row.token);
        self.refusal = Some(row.token);
        self.status = Some(row.status);
        let theirs =
            matches!(refusal, Refusal::ConsumerGone | Refusal::BodyCut | Refusal::BodyTimedOut);
        self.ended = Some(if theirs { EndedBy::Consumer } else { EndedBy::Gateway });
    }

    /// Records the provider's status, even if the consumer is gone by then; the answer's body follows.
    pub fn answered(&mut self, status: u16) {
        self.enter(Phase::Body);
        self.status = Some(status);
    }

    /// Counts bytes of the answer's body that were handed to the consumer's connection.
    pub fn passed(&mut self, bytes: usize) {
        self.bytes_out += u64::try_from(bytes).unwrap_or(u64::MAX);
    }

    /// Records that the answer has ended: whole, or cut off by its provider.
    pub const fn ended(&mut self, by: EndedBy) {
        self.ended = Some(by);
    }

    /// Returns true once the consumer has been identified.
    #[must_use]
    pub const fn is_identified(&self) -> bool {
        self.consumer.is_some()
    }

    fn outcome(&self) -> ExchangeOutcome {
        match (self.refusal, self.ended) {
            (Some(_), _) => ExchangeOutcome::Refused,
            (None, Some(EndedBy::Gateway)) => ExchangeOutcome::Answered,
            (None, _) => ExchangeOutcome::Aborted,
        }
    }

    fn end(&self) -> ExchangeEnd {
        let unfinished = if std::thread::panicking() {
            EndedBy::Panic
        } else if self.trail.0.stopping.load(Ordering::Acquire) {
            EndedBy::Shutdown
        } else {
            EndedBy::Consumer
        };
        let [_tls, policy, queue, directory, audit, provider, body] = self.spent;
        ExchangeEnd {
            status: self.status,
            outcome: self.outcome().label(),
            refusal: self.refusal,
            ended_by: self.ended.unwrap_or(unfinished),
            ended_in: self.phase.0.label(),
            sent_whole: self.transfer.is_whole(),
            bytes_in: self.transfer.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out,
            duration: self.started.elapsed(),
            policy,
            queue,
            directory,
            audit,
            provider,
            body,
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let (last, _) = self.phase;
        self.enter(last);
        let end = self.end();
        let TrailState { journal, lines, metrics, .. } = &*self.trail.0;
        for (phase, spent) in Phase::ALL.into_iter().zip(self.spent) {
            if !spent.is_zero() {
                metrics.phase(phase, spent);
            }
        }
        metrics.in_flight.dec();
        let method = self.known.method;
        if method != HANDSHAKE {
            metrics.exchange(self.known.interaction, method, self.outcome(), end.duration);
        }
        // Security: refused callers must not be able to fill the disk.
        if let Some(token) = self.refusal {
            let has_line = match &self.consumer {
                None => lines.unidentified(self.peer.as_deref()),
                Some(consumer) => !self.limited || lines.limit(consumer),
            };
            if !has_line {
                journal.unrecorded(self.consumer.take(), token);
                journal.give_back(2);
                return;
            }
        }
        if let (Some(token), Some(fault)) = (self.refusal, &self.certificate_fault) {
            // Logged under the journal's budget: unidentified callers must not fill the log either.
            let id = self.known.id;
            tracing::info!(
                %id,
                token,
                fault,
                "a consumer was refused because of its client certificate"
            );
            self.fields.note(Field::CERTIFICATE_FAULT, fault);
        }
        if self.first.is_none() {
            self.fields.sides(self.to.as_ref(), None, self.certificate.as_ref());
        }
        journal.close(self.known, &self.fields, self.first, end);
    }
}
