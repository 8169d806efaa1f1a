//! The request function: from a request's head to the provider's response.
//!
//! Each step takes values and returns a value or a [`Refusal`]. Steps that decide do not wait; steps that
//! wait do not decide. The last decision yields a permit, and only a permit can be forwarded.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;

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
use crate::claims::{self, Signature};
use crate::consumers;
use crate::directory::{Caller, Directory, Payer};
use crate::forward::{
    BodyPace, ConsumerHop, Forwarder, Paced, ProviderBody, RequestTerms, Unanswered, Upload,
};
use crate::interaction::{self, AllowedInteractions, Effect, Interaction};
use crate::metrics::{Conflict, ForcedLookupResult, Metrics, Phase};
use crate::policy::{self, OtherAudience, Permit, ProviderRegistration, RequestFacts};
use crate::refusal::{ErrorFamily, Refusal};
use crate::request::{HeadRules, SspHeaders, SspRequest, TraceIdRule};
use crate::spine::Asid;
use crate::target::Target;
use crate::throttle::{HeartbeatHandle, MemoryLimit, OutcomeReport, ProviderTurn, Throttle};
use crate::tls::{Alarms, Peer, Trust};

mod answer;
mod connection;
mod diagnosis;

pub use answer::AnswerBody;
pub use connection::ConsumerConnection;

use answer::RefusalFormat;

/// What reload replaces, whole.
#[derive(Debug)]
pub struct InForce {
    /// Certificates, authorities and revocation lists.
    pub trust: Arc<Trust>,
    /// What the decisions are told.
    pub rulebook: Arc<DecisionRules>,
    /// Rates and caps.
    pub throttle: Arc<Throttle>,
    /// Faults of the files that are in force, for operators.
    pub alarms: Arc<Alarms>,
    /// Memory that the process may use, as read at the start or the last reload.
    pub memory: Option<MemoryLimit>,
}

/// What the configuration tells the decisions.
#[derive(Debug)]
pub struct DecisionRules {
    /// Rules for the head of a request.
    pub rules: HeadRules,
    /// Interactions that are forwarded.
    pub allowed: AllowedInteractions,
    /// Leniences, by consumer.
    pub compatibility: HashMap<Asid, Compatibility>,
    /// Base URLs of this proxy, without a final slash.
    pub bases: Vec<String>,
    /// The name in `Via`, `Forwarded` and `Proxy-Status`.
    pub proxy: String,
    /// How fast a consumer's body must come.
    pub pace: BodyPace,
}

/// What one consumer may do that the specification does not foresee; all off by default.
#[derive(Debug, Clone, Default)]
pub struct Compatibility {
    /// Audiences besides the registered service root.
    pub audiences: Vec<OtherAudience>,
    /// Lab: what is done with a token's third part.
    pub signature: Signature,
    /// Lab: what a trace id may look like.
    pub trace_ids: TraceIdRule,
    /// Lab: the family of bodies it is answered with.
    pub errors: ErrorFamily,
}

impl DecisionRules {
    /// What the consumer that a request claims to be from may do. It is the claim that counts:
    /// nothing here lets anybody in.
    fn leniences(&self, headers: &SspHeaders<'_>) -> &Compatibility {
        static STRICT: Compatibility = Compatibility {
            audiences: Vec::new(),
            signature: Signature::Refused,
            trace_ids: TraceIdRule::Uuid,
            errors: ErrorFamily::Documented,
        };
        let from = headers.from.as_ref().ok();
        from.and_then(|from| self.compatibility.get(from)).unwrap_or(&STRICT)
    }
}

/// Parts that the gateways of all workers share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct GatewayShared {
    /// Certificates, rules and limits, which a reload replaces.
    pub live: Arc<ArcSwap<InForce>>,
    /// Consumers, practices and agreements.
    pub directory: Directory,
    /// The audit journal.
    pub trail: Trail,
    /// Everything that is counted.
    pub metrics: Arc<Metrics>,
}

/// One worker's gateway.
#[derive(Debug)]
pub struct Gateway {
    live: Arc<ArcSwap<InForce>>,
    directory: Directory,
    trail: Trail,
    metrics: Arc<Metrics>,
    forwarder: Forwarder,
    pulse: HeartbeatHandle,
    tasks: TaskTracker,
}

impl Gateway {
    /// A gateway over what all workers share, with a forwarder and a pulse of its own.
    #[must_use]
    pub fn new(shared: GatewayShared, forwarder: Forwarder, pulse: HeartbeatHandle) -> Self {
        let GatewayShared { live, directory, trail, metrics } = shared;
        Self { live, directory, trail, metrics, forwarder, pulse, tasks: TaskTracker::new() }
    }

    /// What is in force now.
    #[must_use]
    pub fn live(&self) -> Arc<InForce> {
        self.live.load_full()
    }

    /// Connections and writes under way.
    #[must_use]
    pub const fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// What is counted.
    #[must_use]
    pub const fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The exchanges still under way are about to be cut off.
    pub fn stops(&self) {
        self.trail.stops();
    }

    /// Shows that this worker is not late.
    pub const fn pulse(&self) -> &HeartbeatHandle {
        &self.pulse
    }

    /// Drops idle provider connections that are too old, for as long as it is polled.
    pub async fn keep_tidy(&self) {
        self.forwarder.keep_tidy().await;
    }

    /// What somebody is told who speaks HTTP without TLS: the whole answer, as bytes.
    #[must_use]
    pub fn plain_http(&self) -> Vec<u8> {
        self.metrics.refused(Refusal::PlainHttp.row().token);
        let reply = RefusalFormat::before_head(&self.live.load().rulebook, Version::HTTP_11);
        reply.bytes(&Refusal::PlainHttp, Uuid::new_v4(), &Method::default())
    }

    /// Tells that the directory may know a consumer by one of these names.
    #[must_use]
    pub fn may_be_registered(&self, peer: &Peer) -> bool {
        self.directory.may_know(peer.names())
    }

    /// Records a handshake that failed for its client certificate; there is no request to answer.
    pub fn refused_handshake(&self, refusal: &Refusal) {
        // If the journal cannot take it, it is counted among the refusals without a line.
        if let Ok(mut entry) = self.trail.open(&Method::default(), Timestamp::now()) {
            entry.refused_in_handshake(refusal);
        }
    }

    /// Answers a head that was refused on its bytes, which is what can be read of it, and records that:
    /// the whole response, after which its connection ends.
    pub fn refuse_head(
        &self,
        connection: &ConsumerConnection,
        head: &Parts,
        refusal: Refusal,
    ) -> Vec<u8> {
        let live = self.live.load_full();
        let now = Timestamp::now();
        let reply = RefusalFormat::to(head, &live.rulebook);
        let mut entry = match self.open(&head.method, now) {
            Ok(entry) => entry,
            Err(refusal) => return reply.bytes(&refusal, Uuid::new_v4(), &head.method),
        };
        entry.set_headers(&SspHeaders::read(&head.headers));
        let peer = connection.handshake.peer(&live.trust, now.as_second());
        let admitted = peer.and_then(|peer| {
            entry.peer(&peer);
            live.throttle.check_certificate_rate(&peer)
        });
        let refusal = admitted.err().unwrap_or(refusal);
        entry.refused(&refusal);
        reply.bytes(&refusal, entry.id(), &head.method)
    }

    /// Answers one request.
    ///
    /// A write runs in a task of its own: once its last byte is sent, a consumer who hangs up does
    /// not cancel it, and the record holds what the provider said.
    pub async fn answer(
        self: Arc<Self>,
        connection: Arc<ConsumerConnection>,
        request: Request<Incoming>,
    ) -> Response<AnswerBody> {
        let live = self.live.load_full();
        let gone = CancellationToken::new();
        if !matches!(*request.method(), Method::POST | Method::PUT) {
            return self.exchange(&live, &connection, request, &gone).await;
        }
        let _hung_up = gone.clone().drop_guard();
        let (tasks, metrics) = (self.tasks.clone(), Arc::clone(&self.metrics));
        let reply = RefusalFormat::before_head(&live.rulebook, request.version());
        // Boxed once: it is large, and would be copied on each step of its way to a task.
        let exchange =
            Box::pin(async move { self.exchange(&live, &connection, request, &gone).await });
        match tasks.spawn(exchange.in_current_span()).await {
            Ok(response) => response,
            Err(_) => {
                metrics.refused(Refusal::Internal.row().token);
                reply.refusal(&Refusal::Internal, Uuid::new_v4())
            }
        }
    }

    /// Opens a record, or counts the refusal for want of one.
    fn open(&self, method: &Method, now: Timestamp) -> Result<Entry, Refusal> {
        let entry = self.trail.open(method, now);
        entry.inspect_err(|refusal| self.metrics.refused(refusal.row().token))
    }

    /// Opens the record, handles the request, and closes the record with what came of it.
    async fn exchange(
        &self,
        live: &InForce,
        connection: &ConsumerConnection,
        request: Request<Incoming>,
        gone: &CancellationToken,
    ) -> Response<AnswerBody> {
        let now = Timestamp::now();
        let (head, body) = request.into_parts();
        let has_body = !body.is_end_stream();
        let refuse =
            |refusal: &Refusal, id| RefusalFormat::to(&head, &live.rulebook).refusal(refusal, id);
        let mut entry = match self.open(&head.method, now) {
            Ok(entry) => entry,
            Err(refusal) => {
                drop(body);
                body_is_dropped(has_body).await;
                return refuse(&refusal, Uuid::new_v4());
            }
        };
        let id = entry.id();
        let headers = SspHeaders::read(&head.headers);
        entry.set_headers(&headers);
        let trace_id = headers.trace_id.as_ref().ok().map(|trace_id| trace_id.printable());
        let span = tracing::info_span!("request", %id, trace_id = trace_id.as_deref());
        let _busy = connection.begins(now);
        let inbound = Inbound { live, head: &head, connection, gone, now_s: now.as_second() };
        // Pinned where it is made: it is large, and would be copied into the span.
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
                span.in_scope(|| tracing::debug!(token = refusal.row().token, "refused"));
                if refusal.ends_connection() {
                    connection.close.cancel();
                }
                if !entry.is_identified() {
                    connection.refused_unidentified();
                }
                body_is_dropped(has_body).await;
                refuse(&refusal, id)
            }
        }
    }

    /// Decides on one request and forwards it. Each step returns a value, or the refusal that ends it.
    async fn handle(
        &self,
        inbound: Inbound<'_>,
        headers: &SspHeaders<'_>,
        body: Incoming,
        entry: &mut Entry,
    ) -> Result<Response<ProviderBody>, Refusal> {
        let Inbound { live, head, connection, gone, now_s } = inbound;
        let InForce { trust, rulebook, throttle, .. } = live;
        let leniences = rulebook.leniences(headers);
        let peer = connection.handshake.peer(trust, now_s)?;
        entry.peer(&peer);
        throttle.check_certificate_rate(&peer)?;
        let request = SspRequest::parse(head, headers, &rulebook.rules, leniences.trace_ids)?;
        let SspRequest { from, receiver, interaction_id, target, .. } = &request;
        if !self.directory.may_know(peer.names()) {
            return Err(Refusal::CertificateUnknown);
        }
        let asker = Caller { payer: Payer::Certificate(peer.fingerprint()), now_s };
        let sender = entry.during(Phase::Directory, pin!(self.directory.sender(from, asker))).await;
        let consumer =
            sender.and_then(|sender| consumers::identify(&peer, sender)).map_err(|refusal| {
                diagnosis::explain_receiver_mismatch(&self.directory, refusal, &peer, head)
            })?;
        entry.consumer(&consumer);
        connection.identified();
        let effect = Effect::of(&head.method);
        let admission = entry.during(Phase::Queue, pin!(throttle.admit(from, effect))).await?;
        let allowance = admission.allowance;
        let interaction =
            interaction::find(&rulebook.allowed, interaction_id, &head.method, target.path())?;
        let payload = claims::payload(&head.headers, leniences.signature)?;
        let claims = claims::check(&payload, interaction, now_s)?;
        entry.claims(&claims);
        let facts = RequestFacts {
            consumer: &consumer,
            receiver,
            target,
            interaction,
            claims: &claims,
            audiences: &leniences.audiences,
            bases: &rulebook.bases,
        };
        policy::may_send(&facts).map_err(|refusal| {
            diagnosis::explain_claim_mismatch(&self.directory, refusal, &claims)
        })?;
        let asker = Caller { payer: Payer::Consumer(from), now_s };
        let permit = self.authorise(&facts, asker, entry).await?;
        let provider = Arc::clone(permit.provider());
        let body = Paced::new(body, head.version, rulebook.pace);
        let transfer = entry.transfer();
        let upload = pin!(upload(interaction, body, Arc::clone(&transfer)));
        let upload = entry.during(Phase::Body, upload).await?;
        let ProviderTurn { place, health } = entry
            .during(Phase::Queue, pin!(throttle.provider(admission, from, &provider.asid)))
            .await?;
        entry.opened(&permit, self.registration_origin(&provider, now_s)).await?;
        let hop = ConsumerHop { consumer: &connection.consumer, proxy: &rulebook.proxy };
        let terms = RequestTerms { trust, hop, gone, transfer: &transfer, place };
        let answer = entry
            .during(Phase::Provider, pin!(self.forwarder.send(permit, head, upload, terms)))
            .await;
        self.learn(health, &answer, &provider, interaction);
        let mut response = answer.map_err(|unanswered| unanswered.refusal)?;
        entry.answered(response.status().as_u16());
        answer::complete(&mut response, allowance);
        Ok(response)
    }

    /// Looks up who is registered to be asked, and decides whether they may be; once more after a forced
    /// refresh where our cache could be what is wrong: a practice that moved supplier must not be refused
    /// out of it.
    async fn authorise(
        &self,
        facts: &RequestFacts<'_>,
        asker: Caller<'_>,
        entry: &mut Entry,
    ) -> Result<Permit, Refusal> {
        let (receiver, interaction) = (facts.receiver, facts.interaction);
        let provider = entry
            .during(Phase::Directory, pin!(self.directory.provider(receiver, interaction, asker)))
            .await?;
        let agreements = self.directory.agreements();
        let verdict = policy::authorise(&agreements, facts, &provider);
        let ours_may_be_old = match (&verdict, facts.target) {
            (Err(Refusal::TargetVaries { .. } | Refusal::ReceiverNotPractices), _) => true,
            // There it is the token alone that says which root its consumer knows.
            (Err(Refusal::AudienceMismatch), Target::Practice(_)) => true,
            _ => false,
        };
        if !ours_may_be_old {
            return verdict;
        }
        let refreshed = entry
            .during(Phase::Directory, pin!(self.directory.refreshed(receiver, interaction, asker)))
            .await?;
        let verdict = match refreshed {
            Some(provider) => policy::authorise(&agreements, facts, &provider),
            None => verdict,
        };
        self.metrics
            .directory
            .conflict(Conflict::Target, ForcedLookupResult::when(verdict.is_ok()));
        verdict.map_err(|refusal| {
            diagnosis::explain_target_mismatch(&self.directory, refusal, facts.target)
        })
    }

    /// Where it is known from that this provider is the one to ask.
    fn registration_origin(
        &self,
        provider: &Arc<ProviderRegistration>,
        now_s: i64,
    ) -> Option<RegistrationOrigin> {
        let (origin, age_s) = self.directory.origin(provider, now_s)?;
        Some(RegistrationOrigin { origin: origin.label(), age_s })
    }

    /// Reports how a provider did, for the next request: its circuit opens if it fails too often; looked up anew, if it
    /// was not reached, for it may have moved.
    fn learn(
        &self,
        health: OutcomeReport,
        answer: &Result<Response<ProviderBody>, Unanswered>,
        provider: &ProviderRegistration,
        interaction: &'static Interaction,
    ) {
        if health.judge(diagnosis::verdict(answer)) {
            tracing::warn!(ods = %provider.ods, "a practice's system fails too often: its circuit is open, and no request is sent to it");
            self.metrics.provider_circuit_opened();
        }
        if answer.as_ref().is_err_and(|unanswered| unanswered.refusal.is_unreached()) {
            self.directory.unreached(provider, interaction);
        }
    }
}

/// A request on a consumer's connection, and what is in force while it is handled.
struct Inbound<'a> {
    live: &'a InForce,
    head: &'a Parts,
    connection: &'a ConsumerConnection,
    /// Cancelled when the consumer hangs up.
    gone: &'a CancellationToken,
    now_s: i64,
}

/// Lets hyper see that the body of a refused request, if it had one, has been dropped: it takes what has come
/// of it and only then writes the head, which says that the connection ends if more is to come.
async fn body_is_dropped(had_one: bool) {
    if had_one {
        tokio::task::yield_now().await;
    }
}

/// A read's body must be empty before anything is sent; a write's is streamed.
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
