//! Request pipeline, from a request's head to the provider's response.
//!
//! Each step takes values and returns a value or a [`Refusal`]. Modules that decide do no I/O. The last decision yields a permit, and only a permit can be forwarded.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::request::Parts;
use http::{Method, Request, Response, Version};
use hyper::body::{Body as _, Incoming};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::audit::{Entry, RegistrationOrigin, Trail, Transfer};
use crate::breaker::CircuitChange;
use crate::claims::{self, Signature};
use crate::consumers::Consumer;
use crate::directory::{Directory, Payer};
use crate::forward::{
    BodyPace, ConsumerHop, Forwarder, Paced, ProviderBody, RequestTerms, Unanswered, Upload,
};
use crate::metrics::{Conflict, ForcedLookupResult, Metrics, Phase};
use crate::policy::{self, OtherAudience, Permit, RequestFacts};
use crate::refusal::{ErrorFamily, Refusal};
use crate::registry::ProviderRegistration;
use crate::request::{HeadRules, SspHeaders, SspRequest, TraceIdRule};
use crate::throttle::{HeartbeatHandle, MemoryLimit, OutcomeReport, ProviderTurn, Throttle};
use crate::tls::{Alarms, Peer, Trust};
use spine_types::Asid;
use spine_types::interaction::{AllowedInteractions, Effect, Interaction};

mod answer;
#[cfg(feature = "lab")]
mod forced;
mod connection;
mod diagnosis;
mod dry_run;
mod negotiation;
mod steps;

pub use answer::AnswerBody;
pub use connection::{ConsumerAddress, ConsumerConnection};
pub use dry_run::{
    BodyToJudge, ClientCertificate, DryRun, JudgedRequest, RecordToJudge, RequestToJudge,
};

use answer::RefusalFormat;

/// State in force that a reload replaces as a whole.
#[derive(Debug)]
pub struct InForce {
    /// Certificates, authorities and revocation lists.
    pub trust: Arc<Trust>,
    /// Rules that the decisions about a request follow.
    pub rules: Arc<DecisionRules>,
    /// Rate limits and limits of concurrent exchanges.
    pub throttle: Arc<Throttle>,
    /// Alarms for operators about faults of the loaded files.
    pub alarms: Arc<Alarms>,
    /// Memory that the process may use, as read at the start or the last reload; `None` if unknown.
    pub memory: Option<MemoryLimit>,
}

/// Rules that the decisions about a request follow, made from the configuration.
#[derive(Debug)]
pub struct DecisionRules {
    /// Rules for the head of a request.
    pub head: HeadRules,
    /// Interactions that this proxy forwards.
    pub allowed: AllowedInteractions,
    /// Deviations from the specification that are allowed, by the consumer's ASID.
    pub compatibility: HashMap<Asid, Compatibility>,
    /// Base URLs of this proxy, without a final slash.
    pub bases: Vec<String>,
    /// URL of the page about refusals, which `Link` names with the token as fragment.
    pub help: Option<String>,
    /// True if refusals may be forced.
    #[cfg(feature = "lab")]
    pub lab: bool,
    /// Name of this proxy in `Via`, `Forwarded` and `Proxy-Status`.
    pub proxy: String,
    /// Minimum pace at which a consumer's body must arrive.
    pub pace: BodyPace,
}

/// Deviations from the specification that are allowed for one consumer.
#[derive(Debug, Clone)]
pub struct Compatibility {
    /// Audiences that are accepted besides the registered service root.
    pub audiences: Vec<OtherAudience>,
    /// Time by which a token's `iat` may be ahead of this proxy's clock.
    pub clock_ahead_max: Duration,
    /// Lab: treatment of a token's third part, the signature.
    pub signature: Signature,
    /// Lab: form that a trace id may have.
    pub trace_ids: TraceIdRule,
    /// Lab: family of bodies that its refusals have.
    pub errors: ErrorFamily,
}

impl DecisionRules {
    /// Returns the deviations allowed for the consumer that `Ssp-From` names.
    ///
    /// Security: the name is not verified yet; no deviation lets a request in by itself.
    fn compatibility(&self, headers: &SspHeaders<'_>) -> &Compatibility {
        static STRICT: Compatibility = Compatibility {
            audiences: Vec::new(),
            clock_ahead_max: claims::CLOCK_AHEAD_MAX,
            signature: Signature::Refused,
            trace_ids: TraceIdRule::Uuid,
            errors: ErrorFamily::Documented,
        };
        let from = headers.from.as_ref().ok();
        from.and_then(|from| self.compatibility.get(from)).unwrap_or(&STRICT)
    }
}

/// Parts that the gateways of all workers share; cheap to clone.
#[derive(Debug, Clone)]
pub struct GatewayShared {
    /// Certificates, rules and limits, which a reload replaces.
    pub live: Arc<ArcSwap<InForce>>,
    /// Directory of consumers, practices and agreements.
    pub directory: Directory,
    /// Audit journal of all exchanges.
    pub trail: Trail,
    /// Counters and gauges of the process.
    pub metrics: Arc<Metrics>,
}

/// Gateway of one worker.
#[derive(Debug)]
pub struct Gateway {
    live: Arc<ArcSwap<InForce>>,
    directory: Directory,
    trail: Trail,
    metrics: Arc<Metrics>,
    forwarder: Forwarder,
    heartbeat: HeartbeatHandle,
    tasks: TaskTracker,
}

impl Gateway {
    /// Creates a worker's gateway from the shared parts, with a forwarder and a heartbeat of its own.
    #[must_use]
    pub fn new(shared: GatewayShared, forwarder: Forwarder, heartbeat: HeartbeatHandle) -> Self {
        let GatewayShared { live, directory, trail, metrics } = shared;
        Self { live, directory, trail, metrics, forwarder, heartbeat, tasks: TaskTracker::new() }
    }

    /// Returns the trust, rules and limits now in force.
    #[must_use]
    pub fn live(&self) -> Arc<InForce> {
        self.live.load_full()
    }

    /// Returns the tracker of this worker's connections and writes.
    #[must_use]
    pub const fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Returns the counters and gauges of the process.
    #[must_use]
    pub const fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Tells the journal that exchanges in flight are about to be cut off by the stop of the process.
    pub fn stops(&self) {
        self.trail.begin_shutdown();
    }

    /// Returns the heartbeat, which shows whether this worker is late.
    pub const fn heartbeat(&self) -> &HeartbeatHandle {
        &self.heartbeat
    }

    /// Closes provider connections that have been idle for too long, as long as it is polled.
    pub async fn remove_unused(&self) {
        self.forwarder.remove_unused().await;
    }

    /// Counts a request in plain HTTP on the TLS port, and returns the whole response as bytes.
    #[must_use]
    pub fn plain_http(&self) -> Vec<u8> {
        self.metrics.refused(Refusal::PlainHttp.row().token);
        let reply = RefusalFormat::before_head(&self.live.load().rules, Version::HTTP_11);
        reply.bytes(&Refusal::PlainHttp, Uuid::new_v4(), &Method::default())
    }

    /// Returns false if the directory certainly knows no consumer by the names of this certificate.
    #[must_use]
    pub fn may_be_registered(&self, peer: &Peer) -> bool {
        self.directory.may_know(peer.names())
    }

    /// Records a handshake that failed because of its client certificate.
    pub fn refused_handshake(&self, refusal: &Refusal, address: &ConsumerAddress) {
        // Without a place in the journal, the refusal is only counted.
        if let Ok(mut entry) = self.trail.open(&Method::default(), Timestamp::now()) {
            let balancer = address.balancer.map(|balancer| balancer.to_string().into());
            entry.client(&address.consumer.to_string().into(), balancer.as_ref());
            entry.refused_in_handshake(refusal);
        }
    }

    /// Records the refusal of a malformed head, of which `head` is the readable part, and returns the whole
    /// response as bytes. The connection ends after it.
    pub fn refuse_head(
        &self,
        connection: &ConsumerConnection,
        head: &Parts,
        refusal: Refusal,
    ) -> Vec<u8> {
        let live = self.live.load_full();
        let now = Timestamp::now();
        let reply = RefusalFormat::to(head, &live.rules);
        let mut entry = match self.open(&head.method, now, connection) {
            Ok(entry) => entry,
            Err(refusal) => return reply.bytes(&refusal, Uuid::new_v4(), &head.method),
        };
        entry.set_headers(&SspHeaders::read(&head.headers));
        entry.begin_trace(head);
        let refusal = admit_peer(connection, &live, now, &mut entry).err().unwrap_or(refusal);
        entry.refused(&refusal);
        reply.bytes(&refusal, entry.id(), &head.method)
    }

    /// Answers one request.
    ///
    /// A write runs in a task of its own. Once its last byte is sent, a consumer that hangs up does not
    /// cancel it, so that the record holds the provider's answer.
    pub async fn answer(
        self: Arc<Self>,
        connection: Arc<ConsumerConnection>,
        request: Request<Incoming>,
    ) -> Response<AnswerBody> {
        let live = self.live.load_full();
        let (gone, now) = (CancellationToken::new(), Timestamp::now());
        let entry = match self.open(request.method(), now, &connection) {
            Ok(entry) => entry,
            Err(refusal) => {
                let (head, body) = request.into_parts();
                let has_body = !body.is_end_stream();
                drop(body);
                body_is_dropped(has_body).await;
                return RefusalFormat::to(&head, &live.rules).refusal(&refusal, Uuid::new_v4());
            }
        };
        if !matches!(*request.method(), Method::POST | Method::PUT) {
            let arrival = Arrival { live: &live, connection: &connection, gone: &gone, now };
            return self.exchange(arrival, request, entry).await;
        }
        let _hung_up = gone.clone().drop_guard();
        let (tasks, metrics) = (self.tasks.clone(), Arc::clone(&self.metrics));
        let (reply, id) = (RefusalFormat::before_head(&live.rules, request.version()), entry.id());
        // Boxed once: the future is large, and would be copied several times on its way into a task.
        let exchange = Box::pin(async move {
            let arrival = Arrival { live: &live, connection: &connection, gone: &gone, now };
            self.exchange(arrival, request, entry).await
        });
        match tasks.spawn(exchange.in_current_span()).await {
            Ok(response) => response,
            Err(_) => {
                metrics.refused(Refusal::Internal.row().token);
                reply.refusal(&Refusal::Internal, id)
            }
        }
    }

    /// Opens a record; if the journal cannot take one, counts the refusal and returns it.
    fn open(
        &self,
        method: &Method,
        now: Timestamp,
        connection: &ConsumerConnection,
    ) -> Result<Entry, Refusal> {
        let mut entry = self
            .trail
            .open(method, now)
            .inspect_err(|refusal| self.metrics.refused_unrecorded(method.as_str(), refusal))?;
        entry.client(&connection.consumer, connection.balancer.as_ref());
        Ok(entry)
    }

    /// Handles the request, and closes its record with the outcome.
    async fn exchange(
        &self,
        arrival: Arrival<'_>,
        request: Request<Incoming>,
        mut entry: Entry,
    ) -> Response<AnswerBody> {
        let Arrival { live, connection, now, .. } = arrival;
        let (head, body) = request.into_parts();
        let has_body = !body.is_end_stream();
        let id = entry.id();
        let headers = SspHeaders::read(&head.headers);
        entry.set_headers(&headers);
        entry.begin_trace(&head);
        let trace_id = headers.trace_id.as_ref().ok().map(|trace_id| trace_id.printable());
        let span = tracing::info_span!("request", %id, trace_id = trace_id.as_deref());
        let _busy = connection.begins(now);
        let inbound = Inbound { arrival, head: &head };
        // Pinned in place: the future is large, and would be copied into the span.
        let handled = {
            let handling = pin!(self.handle(inbound, &headers, body, &mut entry));
            handling.instrument(span.clone()).await
        };
        match handled {
            Ok(mut response) => {
                response.body_mut().record(entry);
                response.map(|body| AnswerBody::Provider(Box::new(body)))
            }
            Err(refusal) => {
                entry.refused(&refusal);
                span.in_scope(|| tracing::debug!(token = refusal.row().token, "request refused"));
                if refusal.ends_connection() {
                    connection.close.cancel();
                }
                if !entry.is_identified() {
                    connection.refused_unidentified();
                }
                body_is_dropped(has_body).await;
                RefusalFormat::to(&head, &live.rules).refusal(&refusal, id)
            }
        }
    }

    /// Decides on one request and forwards it; the steps are listed in `docs/architecture.md`. Each step
    /// returns a value, or the refusal that ends the request.
    async fn handle(
        &self,
        inbound: Inbound<'_>,
        headers: &SspHeaders<'_>,
        body: Incoming,
        entry: &mut Entry,
    ) -> Result<Response<ProviderBody>, Refusal> {
        let Inbound { arrival: Arrival { live, connection, gone, now }, head } = inbound;
        let InForce { trust, rules, throttle, .. } = live;
        let compatibility = rules.compatibility(headers);
        #[cfg(feature = "lab")]
        forced::refuse(rules, &head.headers)?;
        let peer = admit_peer(connection, live, now, entry)?;
        let request = SspRequest::parse(head, headers, &rules.head, compatibility.trace_ids)?;
        let SspRequest { from, receiver, target, .. } = &request;
        entry.receiver(receiver);
        steps::check_known(&self.directory, &peer)?;
        let payer = Payer::Certificate(peer.fingerprint());
        let sender = entry.during(Phase::Directory, pin!(self.directory.sender(from, payer))).await;
        let consumer = steps::identify(&self.directory, sender, &peer, head)?;
        entry.consumer(&consumer);
        connection.identified();
        let effect = Effect::of(&head.method);
        let admission = entry.during(Phase::Queue, pin!(throttle.admit(from, effect))).await?;
        let allowance = entry.quota(admission.allowance);
        let interaction = request.interaction(&rules.allowed, &head.method)?;
        let payload = claims::payload(&head.headers, compatibility.signature)?;
        let ahead_max = compatibility.clock_ahead_max;
        let claims = claims::check(&payload, interaction, now.as_second(), ahead_max)?;
        entry.claims(&claims);
        policy::check_registered(consumer.sender(), interaction)?;
        steps::check_organisation(&self.directory, consumer.sender(), &claims.organisation)?;
        let facts = RequestFacts {
            receiver,
            target,
            interaction,
            audience: &claims.audience,
            audiences: &compatibility.audiences,
            bases: &rules.bases,
        };
        let permit = self.authorise(&consumer, &facts, entry).await?;
        let provider = entry.provider(&permit);
        let body = Paced::new(body, head.version, rules.pace);
        let transfer = entry.transfer();
        let upload = pin!(upload(interaction, body, Arc::clone(&transfer)));
        let upload = entry.during(Phase::Body, upload).await?;
        let ProviderTurn { place, health } = entry
            .during(Phase::Queue, pin!(throttle.provider(admission, from, &provider.asid)))
            .await?;
        let receipt = entry.opened(&permit, self.registration_origin(&provider)).await?;
        let (consumer, receipt) = (&connection.consumer, receipt.as_ref());
        let hop = ConsumerHop { consumer, proxy: &rules.proxy, receipt, trace: entry.trace() };
        let terms = RequestTerms { trust, hop, gone, transfer: &transfer, place };
        let answer = entry
            .during(Phase::Provider, pin!(self.forwarder.send(permit, head, upload, terms)))
            .await;
        self.learn(health, &answer, &provider, interaction);
        let mut response = answer.map_err(|none| entry.unanswered(none.refusal, none.cause))?;
        entry.answered(response.status(), response.headers(), target.path());
        answer::complete(&mut response, entry.id(), allowance, receipt);
        Ok(response)
    }

    /// Looks up the provider and decides whether the request may be sent to it.
    ///
    /// If the refusal could come from an outdated cache entry, such as when a practice has moved to another
    /// supplier, the provider is looked up again and the decision repeated once.
    async fn authorise(
        &self,
        consumer: &Consumer,
        facts: &RequestFacts<'_>,
        entry: &mut Entry,
    ) -> Result<Permit, Refusal> {
        let payer = Payer::Consumer(&consumer.sender().asid);
        let (receiver, interaction) = (facts.receiver, facts.interaction);
        let provider = entry
            .during(Phase::Directory, pin!(self.directory.provider(receiver, interaction, payer)))
            .await?;
        let agreements = self.directory.agreements();
        let verdict = policy::authorise(&agreements, consumer, facts, &provider);
        if !verdict.as_ref().is_err_and(|refusal| steps::may_be_outdated(refusal, facts.target)) {
            return verdict;
        }
        let refreshed = entry
            .during(Phase::Directory, pin!(self.directory.refreshed(receiver, interaction, payer)))
            .await?;
        let verdict = match refreshed {
            Some(provider) => policy::authorise(&agreements, consumer, facts, &provider),
            None => verdict,
        };
        self.metrics
            .directory
            .conflict(Conflict::Target, ForcedLookupResult::when(verdict.is_ok()));
        verdict.map_err(|refusal| diagnosis::target(&self.directory, refusal, facts.target))
    }

    /// Returns the source and age of the registration by which this provider was chosen.
    fn registration_origin(
        &self,
        provider: &Arc<ProviderRegistration>,
    ) -> Option<RegistrationOrigin> {
        let (origin, age_s) = self.directory.origin(provider)?;
        Some(RegistrationOrigin { origin: origin.label(), age_s })
    }

    /// Reports the outcome of an exchange to the provider's circuit breaker, and has a provider that was not
    /// reached looked up again, since it may have moved.
    fn learn(
        &self,
        health: OutcomeReport,
        answer: &Result<Response<ProviderBody>, Unanswered>,
        provider: &ProviderRegistration,
        interaction: &'static Interaction,
    ) {
        if let Err(unanswered) = answer {
            log_unanswered(unanswered, provider, interaction);
        }
        let ods = &provider.ods;
        match health.judge(diagnosis::verdict(answer)) {
            CircuitChange::Opened(period) => {
                tracing::warn!(
                    %ods,
                    host = provider.root.host(),
                    seconds = period.as_secs(),
                    because = diagnosis::last_result(answer),
                    "circuit opened: the practice's system has failed too often, and requests to it are \
                     refused until one of them, sent after this period, is answered"
                );
                self.metrics.provider_circuit_opened();
            }
            CircuitChange::Closed(after) => tracing::info!(
                %ods,
                host = provider.root.host(),
                seconds = after.as_secs(),
                "circuit closed: the practice's system answers again"
            ),
            CircuitChange::Unchanged => {}
        }
        if answer.as_ref().is_err_and(|unanswered| unanswered.refusal.is_unreached()) {
            self.directory.unreached(provider, interaction);
        }
    }
}

/// Returns the owner of the client certificate, which is recorded, and counts the request against its rate.
fn admit_peer(
    connection: &ConsumerConnection,
    live: &InForce,
    now: Timestamp,
    entry: &mut Entry,
) -> Result<Arc<Peer>, Refusal> {
    let peer = connection.handshake.peer(&live.trust, now.as_second())?;
    entry.peer(&peer);
    live.throttle.check_certificate_rate(&peer)?;
    Ok(peer)
}

/// Logs that a provider gave no answer: an error if a write may have been carried out.
fn log_unanswered(
    unanswered: &Unanswered,
    provider: &ProviderRegistration,
    interaction: &'static Interaction,
) {
    let Some(cause) = &unanswered.cause else { return };
    let (ods, host) = (&provider.ods, provider.root.host());
    let (token, refusal) = (unanswered.refusal.row().token, &unanswered.refusal);
    let (method, interaction) = (&interaction.method, interaction.short_id());
    if refusal.is_outcome_unknown() {
        tracing::error!(
            token, %ods, host, %method, interaction, cause,
            "the outcome of a write is not known: the practice may or may not have carried it out, as \
             its consumer was told"
        );
    } else {
        tracing::warn!(
            token, %ods, host, %method, interaction, cause,
            "a provider gave no answer: the request was refused"
        );
    }
}

/// Consumer's connection on which a request has arrived, with the state in force while it is handled.
#[derive(Clone, Copy)]
struct Arrival<'a> {
    live: &'a InForce,
    connection: &'a ConsumerConnection,
    /// Token that is cancelled when the consumer hangs up.
    gone: &'a CancellationToken,
    now: Timestamp,
}

/// Head of a request, and the connection on which it has arrived.
struct Inbound<'a> {
    arrival: Arrival<'a>,
    head: &'a Parts,
}

/// Yields once, so that hyper notices that the body of a refused request has been dropped.
///
/// Hyper then consumes what has arrived of the body before it writes the response head, which announces the
/// end of the connection if more is to come.
async fn body_is_dropped(had_one: bool) {
    if had_one {
        tokio::task::yield_now().await;
    }
}

/// Prepares the body to forward: that of a read must end empty first; that of a write is streamed.
async fn upload(
    interaction: &Interaction,
    body: Paced,
    transfer: Arc<Transfer>,
) -> Result<Upload, Refusal> {
    match interaction.effect() {
        Effect::Reads => Upload::none(body).await,
        Effect::Writes => Ok(Upload::new(body, transfer)),
    }
}
