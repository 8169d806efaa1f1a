//! The record of one exchange while it is under way.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use audit_journal::{Record, RecordEvent, ReservedRecord};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use super::record::{CallerFields, ExchangeEnd, ExchangeLine, RecordedClaims, TimeSpent};
use super::{Durability, Trail, TrailState, Transfer, resource};
use crate::claims::Claims;
use crate::consumers::Consumer;
use crate::metrics::{ExchangeOutcome, Phase};
use crate::policy::Permit;
use crate::refusal::{QuotaLeft, Refusal};
use crate::registry::ProviderRegistration;
use crate::request::{self, SspHeaders};
use crate::tls::Peer;
use crate::traces::{
    ExchangePhase, ExchangeTrace, OutgoingContext, TracedExchange, TracedProvider,
};
use crate::traffic::{DecisionReached, ExchangeSummary};
use spine_types::interaction::{Effect, Interaction};
use spine_types::target::Receiver;
use spine_types::{Asid, CertificateName, OdsCode, TraceId};

/// Party that ended an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
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
    /// Returns the party in one word.
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

/// Record of one exchange while it is under way. It has setters only, and closes in `Drop`.
#[derive(Debug)]
pub struct Entry {
    trail: Trail,
    _place: OwnedSemaphorePermit,
    /// Space in the journal's queue for the line that opens the exchange, if it is to have one.
    opened_line: Option<ReservedRecord>,
    /// Space in the journal's queue for the line that closes the exchange.
    closed_line: Option<ReservedRecord>,
    /// True once the opened line was queued.
    is_opened: bool,
    id: Uuid,
    opened_at: Timestamp,
    method: &'static str,
    trace_id: Option<TraceId>,
    from: Option<Asid>,
    to: Option<Asid>,
    ods: Option<OdsCode>,
    interaction: Option<&'static Interaction>,
    origin: Option<RegistrationOrigin>,
    /// Address and port of the consumer.
    client: Option<Arc<str>>,
    /// Address and port of the load balancer that named the consumer.
    balancer: Option<Arc<str>>,
    /// The verified certificate, which may have no usable name.
    peer: Option<Arc<Peer>>,
    /// ASID of the consumer, once it has been identified.
    consumer: Option<Asid>,
    /// Step of the decision that was reached.
    reached: DecisionReached,
    /// True if it was refused for exceeding a limit.
    is_limited: bool,
    certificate: Option<CertificateName>,
    /// Reason why the certificate was refused.
    certificate_fault: Option<String>,
    claims: Option<RecordedClaims>,
    /// Logical id of the appointment, with its version if it is known.
    resource: Option<String>,
    started: Instant,
    phase: (Phase, Instant),
    spent: [Duration; Phase::ALL.len()],
    status: Option<u16>,
    refusal: Option<&'static str>,
    ended: Option<EndedBy>,
    /// Cause of a failure on the way to the practice.
    cause: Option<String>,
    quota: Option<QuotaLeft>,
    transfer: Arc<Transfer>,
    bytes_out: u64,
    /// Trace of the exchange, if traces are on.
    trace: Option<Box<ExchangeTrace>>,
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
    /// Opens an entry; `None` if the journal's queue has no space for its lines.
    ///
    /// A write has two lines and a read has one, unless the journal waits for every request.
    pub(super) fn open(
        trail: &Trail,
        place: OwnedSemaphorePermit,
        method: &Method,
        opened_at: Timestamp,
    ) -> Option<Self> {
        let TrailState { journal, settings, .. } = &*trail.0;
        let has_two =
            settings.durability == Durability::EveryRequest || Effect::of(method) == Effect::Writes;
        let opened_line = if has_two { Some(journal.reserve()?) } else { None };
        let closed_line = Some(journal.reserve()?);
        let started = Instant::now();
        Some(Self {
            trail: trail.clone(),
            _place: place,
            opened_line,
            closed_line,
            is_opened: false,
            id: Uuid::new_v4(),
            opened_at,
            // A method that is not one of HTTP's own is text of the sender's choice, and is not recorded.
            method: request::known(method).unwrap_or("_OTHER"),
            trace_id: None,
            from: None,
            to: None,
            ods: None,
            reached: DecisionReached::Unidentified,
            interaction: None,
            origin: None,
            client: None,
            balancer: None,
            peer: None,
            consumer: None,
            is_limited: false,
            certificate: None,
            certificate_fault: None,
            claims: None,
            resource: None,
            started,
            phase: (Phase::Policy, started),
            spent: [Duration::ZERO; Phase::ALL.len()],
            status: None,
            refusal: None,
            ended: None,
            cause: None,
            quota: None,
            transfer: Arc::default(),
            bytes_out: 0,
            trace: None,
        })
    }

    /// Returns the exchange's id: the only part of its entry that an answer may contain.
    #[must_use]
    pub const fn id(&self) -> Uuid {
        self.id
    }

    /// Returns the progress of the transfer to the provider, as the sending side reports it.
    #[must_use]
    pub fn transfer(&self) -> Arc<Transfer> {
        Arc::clone(&self.transfer)
    }

    /// Records the address and port that the request came from, and those of the load balancer that named
    /// them in a PROXY protocol header.
    pub fn client(&mut self, client: &Arc<str>, balancer: Option<&Arc<str>>) {
        self.client = Some(Arc::clone(client));
        self.balancer = balancer.cloned();
    }

    /// Records the SSP headers, as far as they are well formed.
    pub fn set_headers(&mut self, headers: &SspHeaders<'_>) {
        self.trace_id = headers.trace_id.as_ref().ok().cloned();
        self.from = headers.from.as_ref().ok().cloned();
        self.to = headers.to.as_ref().ok().cloned();
        self.interaction = headers.interaction();
    }

    /// Begins or continues a trace with the request's head, if traces are on.
    pub fn begin_trace(&mut self, head: &Parts) {
        if let Some(traces) = &self.trail.0.traces {
            self.trace = Some(traces.begin(self.id, head));
        }
    }

    /// Returns the trace context that the provider gets, if traces are on.
    #[must_use]
    pub fn trace(&self) -> Option<OutgoingContext> {
        self.trace.as_deref().map(ExchangeTrace::to_provider)
    }

    /// Records the verified certificate, under its first name until the registered one is known.
    pub fn peer(&mut self, peer: &Arc<Peer>) {
        self.peer = Some(Arc::clone(peer));
        self.certificate = peer.names().first().cloned();
    }

    /// Records the consumer, and the certificate name that it is registered with.
    pub fn consumer(&mut self, consumer: &Consumer) {
        self.consumer = Some(consumer.sender().asid.clone());
        self.reached = DecisionReached::Identified;
        if self.certificate.as_ref() != Some(consumer.name()) {
            self.certificate = Some(consumer.name().clone());
        }
    }

    /// Records the checked claims: a fixed list of fields, never others.
    pub fn claims(&mut self, claims: &Claims<'_>) {
        self.claims = Some(RecordedClaims::of(claims));
    }

    /// Notes the quota that the consumer has left, and returns it. It is not recorded.
    pub const fn quota(&mut self, left: QuotaLeft) -> QuotaLeft {
        self.quota = Some(left);
        left
    }

    /// Records the practice that the target names by its ODS code.
    pub fn receiver(&mut self, receiver: &Receiver) {
        if let Receiver::Practice { ods, .. } = receiver {
            self.ods = Some(ods.clone());
        }
    }

    /// Records the practice that the request may be sent to, and returns its system.
    pub fn provider(&mut self, permit: &Permit) -> Arc<ProviderRegistration> {
        let provider = Arc::clone(permit.provider());
        (self.to, self.ods) = (Some(provider.asid.clone()), Some(provider.ods.clone()));
        self.reached = DecisionReached::Permitted;
        if let Some(trace) = &mut self.trace {
            let (host, port) = (Arc::clone(&provider.host), provider.root.port());
            trace.provider = Some(TracedProvider { host, port });
        }
        provider
    }

    /// Notes why the practice's system gave no answer, which is not recorded, and returns the refusal.
    pub fn unanswered(&mut self, refusal: Refusal, cause: Option<String>) -> Refusal {
        self.cause = cause;
        refusal
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
        if let Some(trace) = &mut self.trace {
            trace.passed(ExchangePhase { phase: last, began: since, took });
        }
    }

    /// Records the provider, and queues the opened line if the exchange has one, just before the request is
    /// forwarded. A request whose line must be durable waits here until it is on disk.
    ///
    /// Returns the receipt for consumer and practice, if they are to have one and the line is on disk.
    ///
    /// # Errors
    /// Returns [`Refusal::AuditUnavailable`] if the journal fails, or the line is not on disk in time.
    pub async fn opened(
        &mut self,
        permit: &Permit,
        origin: Option<RegistrationOrigin>,
    ) -> Result<Option<HeaderValue>, Refusal> {
        if !self.trail.may_go_on(self.method, Instant::now()) {
            return Err(Refusal::AuditUnavailable);
        }
        self.origin = origin;
        let Some(line) = self.opened_line.take() else { return Ok(None) };
        let Ok(record) = Record::new(&self.line("opened", None)) else {
            return Err(Refusal::AuditUnavailable);
        };
        self.is_opened = true;
        let event = RecordEvent::Opened(self.id);
        let TrailState { settings, .. } = &*self.trail.0;
        if !settings.durability.waits(permit.interaction().effect()) {
            line.append(&record, event);
            return Ok(None);
        }
        let (wait, on_disk) = (settings.wait, line.append_durably(&record, event));
        let in_time = pin!(async {
            match tokio::time::timeout(wait, on_disk).await {
                Ok(Ok(head)) => Ok(head),
                Ok(Err(_)) | Err(_) => Err(Refusal::AuditUnavailable),
            }
        });
        let head = self.during(Phase::Audit, in_time).await?;
        Ok(self.trail.receipt(head))
    }

    /// Records a handshake that failed because of its client certificate, and had no answer.
    pub fn refused_in_handshake(&mut self, refusal: &Refusal) {
        self.refused(refusal);
        self.method = HANDSHAKE;
        self.status = None;
    }

    /// Records and counts that the gateway refused the request.
    pub fn refused(&mut self, refusal: &Refusal) {
        let row = refusal.row();
        self.is_limited = matches!(
            refusal,
            Refusal::QuotaExceeded { .. } | Refusal::ConsumerBusy | Refusal::Overloaded
        );
        self.certificate_fault = refusal.certificate_fault().map(ToString::to_string);
        self.trail.0.metrics.refused(row.token);
        self.refusal = Some(row.token);
        self.status = Some(row.status);
        let theirs =
            matches!(refusal, Refusal::ConsumerGone | Refusal::BodyCut | Refusal::BodyTimedOut);
        self.ended = Some(if theirs { EndedBy::Consumer } else { EndedBy::Gateway });
    }

    /// Records the provider's status, even if the consumer is gone by then, and the appointment that it is
    /// about; the answer's body follows.
    pub fn answered(&mut self, status: StatusCode, headers: &HeaderMap, path: &str) {
        self.enter(Phase::Body);
        self.status = Some(status.as_u16());
        if let Some(interaction) = self.interaction {
            self.trail.0.metrics.provider_response(interaction, status);
        }
        if matches!(status, StatusCode::OK | StatusCode::CREATED) {
            self.resource = self.interaction.and_then(|of| resource::named(of, headers, path));
        }
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
    pub fn is_identified(&self) -> bool {
        self.reached != DecisionReached::Unidentified
    }

    fn outcome(&self) -> ExchangeOutcome {
        match (self.refusal, self.ended) {
            (Some(_), _) => ExchangeOutcome::Refused,
            (None, Some(EndedBy::Gateway)) => ExchangeOutcome::Answered,
            (None, _) => ExchangeOutcome::Aborted,
        }
    }

    fn ended_by(&self) -> EndedBy {
        self.ended.unwrap_or_else(|| {
            if std::thread::panicking() {
                EndedBy::Panic
            } else if self.trail.0.stopping.load(Ordering::Acquire) {
                EndedBy::Shutdown
            } else {
                EndedBy::Consumer
            }
        })
    }

    fn end(&self, duration_us: Duration) -> ExchangeEnd<'_> {
        let [_tls, policy_us, queue_us, directory_us, audit_us, provider_us, body_us] = self.spent;
        ExchangeEnd {
            status: self.status,
            outcome: self.outcome().label(),
            refusal: self.refusal,
            ended_by: self.ended_by(),
            ended_in: self.phase.0.label(),
            provider: self.transfer.provider(),
            resource: self.resource.as_deref(),
            sent_whole: self.transfer.is_whole(),
            bytes_in: self.transfer.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out,
            duration_us,
            spent: TimeSpent { policy_us, queue_us, directory_us, audit_us, provider_us, body_us },
        }
    }

    /// Returns a line of the exchange: with its end, or without one for the opened line. Only the first line
    /// says who called.
    fn line<'a>(&'a self, event: &'static str, end: Option<ExchangeEnd<'a>>) -> ExchangeLine<'a> {
        let took = end.as_ref().map(|end| end.duration_us).unwrap_or_default();
        let took = SignedDuration::try_from(took).unwrap_or_default();
        ExchangeLine {
            time: self.opened_at.saturating_add(took).unwrap_or(self.opened_at),
            event,
            id: self.id,
            trace_id: self.trace_id.as_ref().map(TraceId::printable),
            from: self.from.as_ref(),
            to: self.to.as_ref(),
            ods: self.ods.as_ref(),
            interaction: self.interaction.map(|interaction| interaction.id),
            method: self.method,
            caller: (!self.is_opened).then(|| self.caller()),
            end,
        }
    }

    fn caller(&self) -> CallerFields<'_> {
        let peer = self.peer.as_deref();
        CallerFields {
            client: self.client.as_deref(),
            balancer: self.balancer.as_deref(),
            certificate: self.certificate.as_ref(),
            certificate_sha256: peer.map(Peer::fingerprint),
            certificate_serial: peer.map(Peer::serial),
            certificate_issuer: peer.map(Peer::issuer),
            certificate_fault: self.certificate_fault.as_deref(),
            directory: self.origin.map(|origin| origin.origin),
            directory_age_s: self.origin.and_then(|origin| origin.age_s),
            claims: self.claims.as_ref(),
        }
    }

    /// Returns true if the exchange may have a line: refused callers must not be able to fill the disk.
    fn has_line(&self) -> bool {
        let budgets = &self.trail.0.budgets;
        match (self.refusal, &self.consumer) {
            (None, _) => true,
            (Some(_), None) => budgets.unidentified(self.peer.as_deref()),
            (Some(_), Some(consumer)) => !self.is_limited || budgets.limit(consumer),
        }
    }

    /// Counts the exchange.
    fn count(&self, duration: Duration) {
        let metrics = &self.trail.0.metrics;
        for (phase, spent) in Phase::ALL.into_iter().zip(self.spent) {
            if !spent.is_zero() {
                metrics.phase(phase, spent);
            }
        }
        metrics.in_flight.dec();
        if self.method != HANDSHAKE {
            metrics.exchange(self.interaction, self.method, self.outcome(), duration);
            metrics.example(self.interaction, duration, || {
                self.trace_id.as_ref().map(|trace_id| trace_id.printable().into_owned())
            });
        }
    }

    /// Queues the exchange's spans for export, if they are to be.
    fn end_trace(&mut self, duration: Duration) {
        let Some(trace) = self.trace.take().filter(|trace| trace.is_sampled) else { return };
        let Some(traces) = &self.trail.0.traces else { return };
        traces.end(TracedExchange {
            trace,
            id: self.id,
            opened_at: self.opened_at,
            started: self.started,
            took: duration,
            method: self.method,
            interaction: self.interaction,
            ssp_trace_id: self.trace_id.as_ref().map(|id| id.printable().into_owned()),
            from: self.from.clone(),
            to: self.to.clone(),
            ods: self.ods.clone(),
            client: self.client.clone(),
            provider_address: self.transfer.provider(),
            status: self.status,
            refusal: self.refusal,
            ended_in: self.phase.0,
            outcome: self.outcome(),
            aborted_by: self.ended_by().label(),
        });
    }

    /// Adds the exchange to the view that operators have of the traffic.
    fn summarize(&mut self, duration: Duration) {
        let outcome = self.outcome();
        let has_answer = self.refusal.is_none() && self.status.is_some();
        let broke_off = self.ended == Some(EndedBy::Provider);
        let is_bad = has_answer && self.status.is_some_and(|status| status >= 500);
        let exchange = ExchangeSummary {
            time: self.opened_at,
            id: self.id,
            trace_id: self.trace_id.as_ref().map(|trace_id| trace_id.printable().into_owned()),
            from: self.consumer.take().or_else(|| self.from.take()),
            reached: self.reached,
            ods: self.ods.take(),
            to: self.to.take(),
            interaction: self.interaction,
            method: self.method,
            status: self.status,
            outcome,
            refusal: self.refusal,
            has_failed: broke_off || is_bad || self.cause.is_some(),
            has_answer,
            cause: self.cause.take(),
            duration_us: u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
            quota: self.quota,
        };
        self.trail.0.traffic.add(exchange, self.peer.take());
    }

    /// Writes the line that closes the record, and ends its trace. A refusal without a line has no spans.
    fn close(&mut self, duration: Duration) {
        if !self.has_line() {
            if let Some(token) = self.refusal {
                self.trail.0.unrecorded.add(self.consumer.clone(), token);
            }
            return;
        }
        if let (Some(token), Some(fault)) = (self.refusal, &self.certificate_fault) {
            // Logged under the journal's budget: unidentified callers must not fill the log either.
            tracing::info!(
                id = %self.id,
                token,
                fault,
                client = self.client.as_deref(),
                "a consumer was refused because of its client certificate"
            );
        }
        if let Some(line) = self.closed_line.take() {
            let event = match self.is_opened {
                true => RecordEvent::Closed(self.id),
                false => RecordEvent::Other,
            };
            match Record::new(&self.line("closed", Some(self.end(duration)))) {
                Ok(record) => line.append(&record, event),
                Err(error) => {
                    tracing::error!(id = %self.id, %error, "the record of an exchange could not be composed, and is lost");
                }
            }
        }
        self.end_trace(duration);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let (last, _) = self.phase;
        self.enter(last);
        let duration = self.started.elapsed();
        // First of all: nothing that follows may lose the record.
        self.close(duration);
        self.count(duration);
        if self.ended == Some(EndedBy::Provider) && self.refusal.is_none() {
            self.trail.0.metrics.provider_answer_cut();
            tracing::warn!(
                id = %self.id,
                trace_id = self.trace_id.as_ref().map(TraceId::printable).as_deref(),
                ods = self.ods.as_ref().map(OdsCode::as_str),
                interaction = self.interaction.map(Interaction::short_id),
                status = self.status,
                bytes = self.bytes_out,
                "the provider broke off its answer, or stopped sending: the consumer got a part of it"
            );
        }
        self.summarize(duration);
    }
}
