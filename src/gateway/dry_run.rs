//! Dry run of the request pipeline: judges a request as a gateway would, without forwarding it, and goes on
//! after a refusal with every step that does not depend on it.
//!
//! The checks are those of the path of a request, which `tests/explain.rs` compares for every refused request of
//! the behaviour suite. A dry run yields no permit.

use std::sync::Arc;

use http::HeaderName;
use http::request::Parts;
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;

use super::{Compatibility, DecisionRules, diagnosis, steps};
use crate::claims::{self, Audience, JudgedToken, TokenRules};
use crate::directory::{Directory, Payer};
use crate::policy::{self, RequestFacts};
use crate::refusal::{self, JudgedSteps, Refusal};
use crate::registry::{ProviderRegistration, Sender};
use crate::request::{self, HEAD_CHECKS, SspHeaders};
use crate::tls::{Peer, Trust};
use spine_types::interaction::{Effect, Interaction};
use spine_types::target::{Receiver, Target};
use spine_types::{Asid, OdsCode, SspHeader};

/// Limit: bytes that are shown of a header's value.
const SHOWN_BYTES_MAX: usize = 120;
/// Limit: bytes that are shown of an audience, which may be as long as a service root.
const AUDIENCE_BYTES_MAX: usize = 240;
/// Reason for steps that depend on the state of a running proxy.
const RUNNING: &str = "only the running proxy knows";
/// Reason for steps that need a part of the request that was refused.
const NEEDS_EARLIER: &str = "it needs a part of the request that is refused above";
/// Reason for steps that need a head that can be read.
const NEEDS_HEAD: &str = "the head cannot be read";

/// Rules, trust and directory by which requests are judged.
#[derive(Debug, Clone, Copy)]
pub struct DryRun<'a> {
    /// Rules for decisions.
    pub rules: &'a DecisionRules,
    /// Certificates, authorities and revocation lists.
    pub trust: &'a Trust,
    /// Directory of consumers and practices.
    pub directory: &'a Directory,
}

/// Client certificate of a request to judge.
#[derive(Debug, Clone)]
pub enum ClientCertificate {
    /// Chain as sent in the handshake, leaf first; empty if none was sent.
    Presented(Vec<CertificateDer<'static>>),
    /// Certificate that is not at hand and is taken to be valid and the sender's own.
    Assumed,
}

/// Request to judge.
#[derive(Debug, Clone, Copy)]
pub struct RequestToJudge<'a> {
    /// Head of the request, or its readable part if it has a fault.
    pub head: &'a Parts,
    /// Refusal of the head on its bytes.
    pub fault: Option<&'a Refusal>,
    /// Body, as far as it is known.
    pub body: BodyToJudge,
    /// Client certificate of the connection.
    pub certificate: &'a ClientCertificate,
    /// Time at which certificate and token are judged.
    pub now: Timestamp,
}

/// Body of a request to judge, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyToJudge {
    /// Body without content.
    Empty,
    /// Body with at least one byte of content.
    Content,
    /// Body whose framing is broken before any content.
    Broken,
    /// Body of which neither content nor the end is at hand.
    Unknown,
}

/// Result of a dry run.
#[derive(Debug, Default)]
pub struct JudgedRequest {
    /// Results of the steps, in the order in which a gateway takes them.
    pub steps: JudgedSteps,
    /// Registration of the provider that the request would go to.
    pub provider: Option<Arc<ProviderRegistration>>,
}

impl DryRun<'_> {
    /// Judges a request.
    pub async fn judge(&self, request: RequestToJudge<'_>) -> JudgedRequest {
        let mut judged = JudgedRequest::default();
        let headers = SspHeaders::read(&request.head.headers);
        let mut walk =
            Walk { run: self, request, headers: &headers, steps: JudgedSteps::default() };
        let peer = walk.certificate();
        match request.fault {
            Some(fault) => walk.refused_head(fault),
            None => judged.provider = walk.readable_request(peer.as_deref()).await,
        }
        judged.steps = walk.steps;
        judged
    }

    /// Judges the part of a request that the journal records: sender, interaction, receiver and agreement.
    pub async fn judge_record(&self, record: RecordToJudge<'_>) -> JudgedSteps {
        let mut steps = JudgedSteps::default();
        let (Some(from), Some(interaction)) = (record.from, record.interaction) else {
            steps.skip("sender", "the journal records no readable Ssp-From or interaction");
            return steps;
        };
        let sender = self.directory.sender(from, Payer::Operator).await;
        let sender = known(&mut steps, "sender", Some(from.to_string()), sender);
        let is_allowed = match self.rules.allowed.holds(interaction) {
            true => Ok(()),
            false => Err(Refusal::InteractionNotAllowed(interaction)),
        };
        let shown = Some(interaction.id.to_owned());
        steps.judge("interaction", "one that this proxy forwards", shown, is_allowed);
        judge_registered(&mut steps, sender.as_deref(), interaction);
        let receiver = match (record.to, record.ods) {
            (Some(to), ods) => Receiver::System { asid: to.clone(), hint: ods.cloned() },
            (None, Some(ods)) => Receiver::Practice { ods: ods.clone(), asid: None },
            (None, None) => {
                steps.skip("provider", "the journal records no readable Ssp-To and no practice");
                return steps;
            }
        };
        let provider = self.directory.provider(&receiver, interaction, Payer::Operator).await;
        if record.ods.is_none() && provider == Err(Refusal::ReceiverNotFound) {
            let why =
                "the journal records no practice, and the directory cannot be searched for an ASID";
            steps.skip("provider", why);
            return steps;
        }
        let shown = record.to.map(Asid::as_str).or(record.ods.map(OdsCode::as_str));
        let shown = shown.map(str::to_owned);
        if let Some(provider) = known(&mut steps, "provider", shown, provider) {
            judge_agreement(&mut steps, self.directory, from, &provider);
        }
        steps
    }
}

/// Part of a request that the journal records, as far as it was readable.
#[derive(Debug, Clone, Copy)]
pub struct RecordToJudge<'a> {
    /// ASID of the consumer.
    pub from: Option<&'a Asid>,
    /// ASID of the practice's system.
    pub to: Option<&'a Asid>,
    /// ODS code of the practice.
    pub ods: Option<&'a OdsCode>,
    /// Interaction that the request names.
    pub interaction: Option<&'static Interaction>,
}

/// Dry run of one request under way.
struct Walk<'a> {
    run: &'a DryRun<'a>,
    request: RequestToJudge<'a>,
    headers: &'a SspHeaders<'a>,
    steps: JudgedSteps,
}

/// Parts of a head that later steps need, as far as they could be read.
struct Addressed<'a> {
    from: Option<&'a Asid>,
    target: Option<Target<'a>>,
    receiver: Option<Receiver>,
    interaction: Option<&'static Interaction>,
}

impl<'a> Walk<'a> {
    /// Judges the client certificate.
    fn certificate(&mut self) -> Option<Arc<Peer>> {
        #[cfg(feature = "lab")]
        if let Err(refusal) = super::forced::refuse(self.run.rules, &self.request.head.headers) {
            let expected = "no X-Spine-Proxy-Refuse";
            self.steps.judge::<()>("forced refusal", expected, None, Err(refusal));
        }
        let peer = match self.request.certificate {
            ClientCertificate::Presented(chain) => {
                let (trust, now_s) = (self.run.trust, self.request.now.as_second());
                let pending = trust.handshake().map_err(|_| Refusal::Internal);
                let peer =
                    pending.and_then(|pending| pending.finish(Some(chain)).peer(trust, now_s));
                let shown = match chain.len() {
                    0 => "none".to_owned(),
                    1 => "one certificate".to_owned(),
                    count => format!("a chain of {count} certificates"),
                };
                let expected = "a valid certificate of a configured authority";
                self.steps.judge("certificate", expected, Some(shown), peer)
            }
            ClientCertificate::Assumed => {
                self.steps
                    .skip("certificate", "none was given; taken to be valid and the sender's");
                None
            }
        };
        self.steps.skip("rate of the certificate", RUNNING);
        peer
    }

    fn refused_head(&mut self, fault: &Refusal) {
        let expected = "a well-formed head of HTTP/1.1";
        self.steps.judge::<()>("bytes of the head", expected, None, Err(fault.clone()));
        self.steps.skip("all further steps", NEEDS_HEAD);
    }

    /// Judges everything of a request whose head can be read.
    async fn readable_request(&mut self, peer: Option<&Peer>) -> Option<Arc<ProviderRegistration>> {
        let compatibility = self.run.rules.compatibility(self.headers);
        let addressed = self.head(compatibility);
        let sender = self.sender(peer, &addressed).await;
        self.steps.skip("quota and load", RUNNING);
        let interaction = self.interaction(&addressed);
        let token = self.token(compatibility, interaction);
        match interaction {
            Some(interaction) => judge_registered(&mut self.steps, sender.as_deref(), interaction),
            None => self.steps.skip("sender's interactions", NEEDS_EARLIER),
        }
        self.organisation(sender.as_deref(), &token);
        let provider = match (&addressed, interaction) {
            (
                Addressed { target: Some(target), receiver: Some(receiver), .. },
                Some(interaction),
            ) => {
                let no_audience = Audience::One("".into());
                let facts = RequestFacts {
                    receiver,
                    target,
                    interaction,
                    audience: token.audience.as_ref().unwrap_or(&no_audience),
                    audiences: &compatibility.audiences,
                    bases: &self.run.rules.bases,
                };
                let has_audience = token.audience.is_some();
                self.provider(&facts, addressed.from, has_audience).await
            }
            _ => {
                self.steps.skip("provider", NEEDS_EARLIER);
                None
            }
        };
        self.body(interaction);
        self.steps.skip("load and circuit of the provider", RUNNING);
        self.steps.skip("journal", RUNNING);
        self.steps.skip("provider's answer", "nothing is sent");
        provider
    }

    /// Judges each part of the head.
    fn head(&mut self, compatibility: &Compatibility) -> Addressed<'a> {
        let RequestToJudge { head, .. } = self.request;
        let headers = self.headers;
        for check in &HEAD_CHECKS {
            let shown = match check.name {
                "method" => Some(shown(head.method.as_str())),
                name => self.header(name),
            };
            let result = check.judge(head, &self.run.rules.head);
            self.steps.judge(check.name, check.expected, shown, result);
        }
        let trace_id = headers.trace_id(compatibility.trace_ids);
        self.ssp_header(SspHeader::TraceId, trace_id.map(drop));
        let from = headers.from.as_ref();
        self.ssp_header(SspHeader::From, from.map(drop).map_err(Refusal::clone));
        let target = request::target(head);
        let start = target.as_ref().ok().map(|target| {
            let interaction = headers.interaction();
            let start = interaction.and_then(|interaction| interaction.start_in(target.path()));
            target.printable(start.unwrap_or_default())
        });
        let expected = "/https://HOST/PATH… or /ODS/STU3/1/…";
        let target = self.steps.judge("target", expected, start, target);
        let receiver = match &target {
            Some(target) => {
                let receiver = headers.receiver(target);
                self.ssp_header(SspHeader::To, receiver.as_ref().map(drop).map_err(Refusal::clone));
                receiver.ok()
            }
            None => {
                let to = headers.to.as_ref().map(drop).map_err(Refusal::clone);
                self.ssp_header(SspHeader::To, to);
                None
            }
        };
        let id = headers.interaction_id.as_ref();
        self.ssp_header(SspHeader::InteractionId, id.map(drop).map_err(Refusal::clone));
        let interaction = headers.interaction();
        Addressed { from: from.ok(), target, receiver, interaction }
    }

    fn ssp_header(&mut self, which: SspHeader, result: Result<(), Refusal>) {
        let shown = self.header(which.name());
        self.steps.judge(which.name(), which.form(), shown, result);
    }

    /// Returns the first value of a header, masked and cut; `None` if the name is no header's or is not there.
    fn header(&self, name: &str) -> Option<String> {
        let name: HeaderName = name.parse().ok()?;
        let value = self.request.head.headers.get(name)?;
        Some(shown(&String::from_utf8_lossy(value.as_bytes())))
    }

    /// Judges the sender, and that the certificate is its own.
    async fn sender(
        &mut self,
        peer: Option<&Peer>,
        addressed: &Addressed<'_>,
    ) -> Option<Arc<Sender>> {
        let directory = self.run.directory;
        if let Some(peer) = peer {
            let names: Vec<_> = peer.names().iter().map(ToString::to_string).collect();
            let shown = Some(shown(&names.join(", ")));
            let known = steps::check_known(directory, peer);
            let expected = "a name of a registered consumer";
            self.steps.judge("names of the certificate", expected, shown, known);
        }
        let Some(from) = addressed.from else {
            self.steps.skip("sender", NEEDS_EARLIER);
            return None;
        };
        let sender = directory.sender(from, Payer::Operator).await;
        let found = sender.as_ref().ok().cloned();
        let sender = match peer {
            Some(_) if sender.as_ref().is_err_and(is_no_answer) => sender,
            Some(peer) => {
                steps::identify(directory, sender.clone(), peer, self.request.head).and(sender)
            }
            None => sender,
        };
        known(&mut self.steps, "sender", Some(from.to_string()), sender);
        found
    }

    /// Judges the interaction; returns it also if only method or path do not fit.
    fn interaction(&mut self, addressed: &Addressed<'_>) -> Option<&'static Interaction> {
        let (Ok(id), Some(target)) = (&self.headers.interaction_id, &addressed.target) else {
            self.steps.skip("interaction", NEEDS_EARLIER);
            return addressed.interaction;
        };
        let method = &self.request.head.method;
        let found = request::interaction(&self.run.rules.allowed, id, method, target.path());
        let expected = match addressed.interaction {
            Some(interaction) => format!("{} …{}", interaction.method, interaction.template()),
            None => "the id of an interaction that this proxy forwards".to_owned(),
        };
        let shown = match target.path().rsplit_once('/') {
            Some((_, last)) => format!("{} …/{}", shown(method.as_str()), shown(last)),
            None => shown(method.as_str()),
        };
        self.steps.judge("interaction", expected, Some(shown), found);
        addressed.interaction
    }

    fn token(
        &mut self,
        compatibility: &Compatibility,
        interaction: Option<&'static Interaction>,
    ) -> JudgedToken {
        let RequestToJudge { head, now, .. } = self.request;
        let rules = TokenRules {
            signature: compatibility.signature,
            clock_ahead_max: compatibility.clock_ahead_max,
            now_s: now.as_second(),
        };
        let mut token = claims::judge(&head.headers, interaction, rules);
        self.steps.append(std::mem::take(&mut token.steps));
        token
    }

    /// Judges the token's organisation.
    fn organisation(&mut self, sender: Option<&Sender>, token: &JudgedToken) {
        const NAME: &str = "token's organisation";
        let (Some(sender), Some(organisation)) = (sender, &token.organisation) else {
            return self.steps.skip(NAME, NEEDS_EARLIER);
        };
        let expected = format!("{}, the sender's", sender.ods);
        let result = steps::check_organisation(self.run.directory, sender, organisation);
        self.steps.judge(NAME, expected, Some(organisation.to_string()), result);
    }

    /// Judges the provider, the target, the audience and the agreement.
    async fn provider(
        &mut self,
        facts: &RequestFacts<'_>,
        from: Option<&Asid>,
        has_audience: bool,
    ) -> Option<Arc<ProviderRegistration>> {
        let directory = self.run.directory;
        let RequestFacts { receiver, interaction, target, .. } = *facts;
        let found = directory.provider(receiver, interaction, Payer::Operator).await;
        let shown = match receiver {
            Receiver::System { asid, .. } => asid.to_string(),
            Receiver::Practice { ods, .. } => ods.to_string(),
        };
        let mut provider = known(&mut self.steps, "provider", Some(shown), found)?;
        let verdict = policy::forwarded(facts, &provider).map(drop);
        let verdict = verdict.and_then(|()| policy::check_audience(facts, &provider));
        if verdict.is_err_and(|refusal| steps::may_be_outdated(&refusal, target))
            && let Ok(Some(again)) =
                directory.refreshed(receiver, interaction, Payer::Operator).await
        {
            provider = again;
        }
        let forwarded = policy::forwarded(facts, &provider).map(drop);
        let forwarded = forwarded.map_err(|refusal| diagnosis::target(directory, refusal, target));
        let start = interaction.start_in(target.path()).unwrap_or_default();
        let expected = provider.root.to_string();
        self.steps.judge("root of the target", expected, Some(target.printable(start)), forwarded);
        match has_audience {
            true => {
                let (Audience::One(audience) | Audience::OneInArray(audience)) = facts.audience;
                let (expected, shown) =
                    (provider.root.to_string(), Some(refusal::shown(audience, AUDIENCE_BYTES_MAX)));
                let result = policy::check_audience(facts, &provider);
                self.steps.judge("audience", expected, shown, result);
            }
            false => self.steps.skip("audience", NEEDS_EARLIER),
        }
        match from {
            Some(from) => judge_agreement(&mut self.steps, directory, from, &provider),
            None => self.steps.skip("agreement", NEEDS_EARLIER),
        }
        Some(provider)
    }

    /// Judges that a read has no body.
    fn body(&mut self, interaction: Option<&'static Interaction>) {
        if interaction.is_none_or(|interaction| interaction.effect() == Effect::Writes) {
            return self.steps.skip("body", "it is forwarded unread");
        }
        let (shown, result) = match self.request.body {
            BodyToJudge::Empty => ("none", Ok(())),
            BodyToJudge::Content => ("a body", Err(Refusal::BodyOnGet)),
            BodyToJudge::Broken => ("a chunk that is broken", Err(Refusal::BodyCut)),
            BodyToJudge::Unknown => {
                return self.steps.skip("body", "the request ends before it does");
            }
        };
        self.steps.judge("body", "none", Some(shown.to_owned()), result);
    }
}

/// Returns true if the directory has not answered, so that nothing is decided.
const fn is_no_answer(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::DirectoryUnavailable | Refusal::LookupsExceeded)
}

/// Adds the result of a look-up.
fn known<T>(
    steps: &mut JudgedSteps,
    name: &'static str,
    received: Option<String>,
    result: Result<T, Refusal>,
) -> Option<T> {
    if result.as_ref().is_err_and(is_no_answer) {
        steps.unknown(name, "neither the directory file nor a cached answer decides it");
        return None;
    }
    steps.judge(name, "a registration in the directory", received, result)
}

/// Judges that the sender is registered for the interaction.
fn judge_registered(
    steps: &mut JudgedSteps,
    sender: Option<&Sender>,
    interaction: &'static Interaction,
) {
    const NAME: &str = "sender's interactions";
    match sender {
        Some(sender) => {
            let expected = format!("registered for {}", interaction.short_id());
            let shown = Some(format!("registered for {}", sender.interactions.len()));
            let result = policy::check_registered(sender, interaction);
            steps.judge(NAME, expected, shown, result);
        }
        None => steps.skip(NAME, NEEDS_EARLIER),
    }
}

fn judge_agreement(
    steps: &mut JudgedSteps,
    directory: &Directory,
    from: &Asid,
    provider: &ProviderRegistration,
) {
    let expected = format!("from {from} to {}", provider.asid);
    let result = policy::check_agreement(&directory.agreements(), from, provider);
    steps.judge("agreement", expected, None, result);
}

fn shown(text: &str) -> String {
    refusal::shown(text, SHOWN_BYTES_MAX)
}
