//! Wrong requests, one of each kind, with the answers that the specification and this program give them.

use serde_json::{Value, json};

use super::super::call::client::{
    CallAnswer, CallRequest, Caller, CallerHeader, NoAnswer, SearchDays, TestConsumer, slots_query,
    text,
};
use super::{CaseEnd, CaseOutcome, Judgement, Play, PlayedCase, Tone, described};
use crate::claims;
use crate::failure::Failure;
use crate::refusal;
use crate::tls::KeyPair;
use http::Method;
use spine_types::Asid;

/// Answer that the specification, or its test suite, gives to a wrong request.
#[derive(Debug, Clone, Copy)]
enum DocumentedAnswer {
    /// This status, with an OperationOutcome of which a code or text holds this one, if it is not empty.
    Status(u16, &'static str),
    /// The connection ends without an answer.
    Closed,
}

use DocumentedAnswer::{Closed, Status};

/// Wrong request, and how it is answered.
struct WrongRequest {
    /// Sentence that is true if it is refused.
    name: &'static str,
    /// Answers that the specification documents; without any, it leaves the request open.
    documented: &'static [DocumentedAnswer],
    /// Tokens of which this program answers one; without any, the practice answers.
    tokens: &'static [&'static str],
    sent: Result<(Caller, CallRequest), CaseEnd>,
}

// Sources: the error page and the security pages of GP Connect 1.2.7, the scenarios of its provider test suite
// (SSP.feature, Security.feature, JWT.feature, Http.feature), and Spine Core 1.0 for 405, 497 and 502 to 504.
// Where they contradict each other, all their answers are here.
const CERTIFICATE: &[DocumentedAnswer] = &[Status(495, ""), Status(496, ""), Closed];
const SENDER: &[DocumentedAnswer] =
    &[Status(403, "ASID_CHECK_FAILED_MESSAGESENDER"), Status(495, "")];
const BAD: &[DocumentedAnswer] = &[Status(400, "")];
const BAD_AT_PROVIDER: &[DocumentedAnswer] = &[Status(400, "BAD_REQUEST")];
const BAD_TOKEN: &[DocumentedAnswer] = &[Status(400, ""), Status(401, "")];
const ENDPOINT: &[DocumentedAnswer] = &[Status(400, "VARIES_FROM_TARGETURL")];
const AGREEMENT: &[DocumentedAnswer] = &[Status(403, "FOT_CHECK_FAILED")];
const UNREACHED: &[DocumentedAnswer] =
    &[Status(502, "ERROR_COMMUNICATING_TO_ENDPOINT_URL"), Status(504, ""), Status(599, "")];
const OPEN: &[DocumentedAnswer] = &[];

impl Play {
    /// Sends every wrong request, if right ones are answered as expected.
    pub(super) async fn wrong_requests(&self, is_right: bool, cases: &mut Vec<PlayedCase>) {
        self.screen().line(Tone::Heading, "\nOne wrong request of each kind");
        for wrong in self.rows() {
            let name = wrong.name;
            let case = match is_right {
                true => self.case("refusals", name, self.refused(wrong)).await,
                false => self.case("refusals", name, async { Err(unjudged()) }).await,
            };
            match case.outcome {
                CaseOutcome::Passed => {}
                CaseOutcome::Failed(_) => {
                    self.screen().marked(Tone::Bad, "WRONG ", name);
                }
                CaseOutcome::Skipped(_) => {
                    self.screen().marked(Tone::Warn, "  --  ", name);
                }
            }
            self.show_end(&case);
            cases.push(case);
        }
    }

    /// Sends a wrong request and judges the answer.
    async fn refused(&self, wrong: WrongRequest) -> Result<(), CaseEnd> {
        let (caller, request) = wrong.sent?;
        let is_open = wrong.documented.is_empty();
        if is_open && self.settings.judgement == Judgement::Specification {
            return Err(CaseEnd::NotPlayed(super::OWN_RULE.to_owned()));
        }
        let answer = self.send(&caller, &request).await;
        let expected = || expected(wrong.documented, wrong.tokens, self.settings.judgement);
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) if is_closed(&failure) && wrong.documented.iter().any(is_closing) => {
                let what = format_args!("{}: the connection was closed", wrong.name);
                self.screen().marked(Tone::Good, "  ok  ", what);
                return Ok(());
            }
            Err(failure) => {
                return Err(CaseEnd::unexpected(expected(), failure.to_string()));
            }
        };
        let token = answer.refusal().map(|refusal| refusal.token);
        let is_token = match (&token, wrong.tokens) {
            (None, []) => true,
            (Some(token), tokens) => tokens.contains(&token.as_str()),
            (None, _) => false,
        };
        let is_own_status = || wrong.tokens.iter().any(|token| has_status(token, &answer));
        let is_documented = wrong.documented.iter().any(|one| fits(*one, &answer));
        let is_right = match (self.settings.judgement, is_open) {
            (Judgement::Own, true) => is_token,
            (Judgement::Own, false) => is_token && is_documented,
            (Judgement::Specification | Judgement::All, false) => is_documented,
            (Judgement::Specification | Judgement::All, true) => is_own_status(),
        };
        if !is_right {
            return Err(CaseEnd::unexpected(expected(), described(&answer)));
        }
        let by = token.unwrap_or_default();
        let what = format!("{}: {} {by}", wrong.name, answer.status.as_u16());
        self.screen().marked(Tone::Good, "  ok  ", what.trim_end());
        for said in answer.said() {
            self.screen().line(Tone::Faint, format_args!("      {said}"));
        }
        Ok(())
    }

    /// Returns the table for a proxy, or for a provider that is called without one.
    fn rows(&self) -> Vec<WrongRequest> {
        let mut rows = Vec::new();
        if !self.is_at_provider() {
            rows.extend(self.certificates());
            rows.extend(self.systems());
        }
        rows.extend(self.headers());
        rows.extend(self.tokens());
        rows.extend(self.left_to_the_practice());
        if !self.is_at_provider() {
            rows.extend(self.left_open());
        }
        rows
    }

    fn certificates(&self) -> Vec<WrongRequest> {
        let missing = || CaseEnd::NotPlayed("there is no such certificate".to_owned());
        let refused = |name| self.parties.refused_certificates.get(name).ok_or_else(missing);
        let with = |name| self.presenting(Some(refused(name)?.key_pair()));
        let row = |name, token: &'static [&'static str], sent| WrongRequest {
            name,
            documented: CERTIFICATE,
            tokens: token,
            sent,
        };
        const STRANGER: &[DocumentedAnswer] = &[
            Status(495, ""),
            Status(496, ""),
            Status(403, "ASID_CHECK_FAILED_MESSAGESENDER"),
            Closed,
        ];
        vec![
            WrongRequest {
                documented: &[
                    Status(497, ""),
                    Status(301, ""),
                    Status(302, ""),
                    Status(307, ""),
                    Status(308, ""),
                    Closed,
                ],
                ..row("A request without TLS is refused", &["plain_http"], self.without_tls())
            },
            row(
                "A request without a client certificate is refused",
                &["certificate_missing"],
                self.presenting(None),
            ),
            // The SDS API cannot be searched for the name of a certificate: one that nobody has is unknown there.
            WrongRequest {
                documented: STRANGER,
                ..row(
                    "A certificate that no consumer is registered with is refused",
                    &["certificate_unknown", "certificate_not_senders"],
                    with("stranger"),
                )
            },
            row(
                "A certificate that has expired is refused",
                &["certificate_expired"],
                with("expired"),
            ),
            row(
                "A certificate that is not valid yet is refused",
                &["certificate_expired"],
                with("not_yet_valid"),
            ),
            row(
                "A certificate that has been revoked is refused",
                &["certificate_revoked"],
                with("revoked"),
            ),
        ]
    }

    /// Returns the requests of or for a wrong system.
    fn systems(&self) -> Vec<WrongRequest> {
        let row = |name, documented, tokens, sent| WrongRequest { name, documented, tokens, sent };
        vec![
            row(
                "A method that the Spine Secure Proxy does not forward is refused",
                &[Status(405, "")],
                &["method_not_allowed"],
                self.slots().map(|(caller, request)| {
                    (caller, CallRequest { method: Some(Method::TRACE), ..request })
                }),
            ),
            row(
                "A sender with an ASID that nobody has is refused",
                SENDER,
                &["sender_unknown"],
                self.slots_with(&["Ssp-From: 200000009999"]),
            ),
            row(
                "A sender with the ASID of another consumer is refused",
                SENDER,
                &["sender_not_certificates"],
                self.as_another(),
            ),
            row(
                "An interaction that the sender is not registered for is refused",
                &[Status(403, "ASID_CHECK_FAILED_MESSAGESENDER")],
                &["sender_not_registered"],
                self.not_registered(),
            ),
            row(
                "A target with another practice's service root is refused",
                BAD,
                // The SDS API cannot be searched for an ASID: the receiver is sought at the other practice alone.
                &["receiver_not_found", "target_not_receivers"],
                self.at_another_root(),
            ),
            row(
                "A service root with the port written out is refused",
                ENDPOINT,
                &["target_unregistered", "target_not_receivers", "receiver_not_found"],
                self.with_port(),
            ),
            row(
                "A service root that is not registered is refused",
                BAD,
                &["target_unregistered", "target_not_receivers", "receiver_not_found"],
                self.slots_at("https://nobody.example.nhs.uk/Z99999/STU3/1/gpconnect"),
            ),
            row(
                "A consumer without an agreement with the practice is refused",
                AGREEMENT,
                &["no_agreement"],
                self.without_agreement(),
            ),
            row(
                "A practice whose system does not answer is reported",
                UNREACHED,
                &["provider_not_reached"],
                self.to_closed(),
            ),
        ]
    }

    /// Returns the documented answer to a bad request, which a proxy may give in a form of its own.
    fn bad(&self) -> &'static [DocumentedAnswer] {
        if self.is_at_provider() { BAD_AT_PROVIDER } else { BAD }
    }

    /// Returns the requests with a wrong header.
    fn headers(&self) -> Vec<WrongRequest> {
        let bad = self.bad();
        let row = |name, documented, token, header: &'static str| WrongRequest {
            name,
            documented,
            tokens: token,
            sent: self.slots_with(&[header]),
        };
        const UNKNOWN: &str =
            "Ssp-InteractionID: urn:nhs:names:services:gpconnect:fhir:rest:search:nothing-1";
        const OTHER: &str =
            "Ssp-InteractionID: urn:nhs:names:services:gpconnect:fhir:rest:read:metadata-1";
        vec![
            row(
                "A request without Ssp-TraceID is refused",
                bad,
                &["trace_id_missing"],
                "Ssp-TraceID:",
            ),
            row("A request without Ssp-From is refused", bad, &["from_missing"], "Ssp-From:"),
            row("A request without Ssp-To is refused", bad, &["to_missing"], "Ssp-To:"),
            row(
                "A request without Ssp-InteractionID is refused",
                bad,
                &["interaction_id_missing"],
                "Ssp-InteractionID:",
            ),
            row(
                "A receiver with an ASID that nobody has is refused",
                &[Status(400, ""), Status(403, "PARTYKEY_INTERACTION_CHECK_FAILED")],
                &["receiver_unknown", "receiver_not_found", "receiver_not_targets"],
                "Ssp-To: 123456789123",
            ),
            row(
                "An interaction that is not known is refused",
                &[Status(400, ""), Status(403, ""), Status(415, "")],
                &["interaction_unknown"],
                UNKNOWN,
            ),
            row(
                "An interaction that does not fit the path is refused",
                bad,
                &["interaction_path"],
                OTHER,
            ),
        ]
    }

    /// Returns the requests with a wrong token.
    fn tokens(&self) -> Vec<WrongRequest> {
        let row = |name, tokens: &'static [&'static str], sent| WrongRequest {
            name,
            documented: if self.is_at_provider() { BAD_AT_PROVIDER } else { BAD_TOKEN },
            tokens,
            sent,
        };
        let times = |from_now_s: i64, valid_s: i64| {
            move |claims: &mut Value| {
                let iat_s = claims.get("iat").and_then(Value::as_i64).unwrap_or_default();
                let iat_s = iat_s.saturating_add(from_now_s);
                put(claims, "iat", json!(iat_s));
                put(claims, "exp", json!(iat_s.saturating_add(valid_s)));
            }
        };
        vec![
            row(
                "A request without a token is refused",
                &["token_missing"],
                self.slots_with(&["Authorization:"]),
            ),
            row(
                "A token that is no token is refused",
                &["token_malformed"],
                self.slots_with(&["Authorization: Bearer nothing"]),
            ),
            row(
                "A token that has expired is refused",
                &["token_expired"],
                self.slots_claiming(times(-712, 300)),
            ),
            row(
                "A token that is valid for ten minutes is refused",
                &["token_lifetime"],
                self.slots_claiming(times(0, 600)),
            ),
            row(
                "A token without the claim requesting_device is refused",
                &["claim_missing"],
                self.slots_claiming(|claims| put(claims, "requesting_device", Value::Null)),
            ),
            row(
                "A token with the scope of a write is refused for a read",
                &["scope_mismatch"],
                self.slots_claiming(|claims| {
                    put(claims, "requested_scope", json!("patient/*.write"));
                }),
            ),
        ]
    }

    /// Returns the requests that only the practice's system can refuse.
    fn left_to_the_practice(&self) -> Vec<WrongRequest> {
        let caller = || self.practice(0).map(|practice| self.caller(practice));
        let unknown = || {
            let read = CallRequest::named("read:appointment", Some("8888888888"))?;
            Ok((caller()?, read))
        };
        let endless = || {
            let search = CallRequest::named("slots", None)?;
            Ok((caller()?, search.with_query("status=free&_include=Slot:schedule")))
        };
        let row = |name, documented, sent| WrongRequest { name, documented, tokens: &[], sent };
        vec![
            row(
                "An appointment that there is not is not found",
                &[Status(404, "NO_RECORD_FOUND"), Status(404, "REFERENCE_NOT_FOUND")],
                unknown(),
            ),
            row(
                "A search for slots without dates is refused",
                &[Status(400, "BAD_REQUEST"), Status(422, "INVALID_PARAMETER")],
                endless(),
            ),
        ]
    }

    /// Returns the requests that the specification does not say a proxy must refuse.
    fn left_open(&self) -> Vec<WrongRequest> {
        let row = |name, tokens: &'static [&'static str], sent| WrongRequest {
            name,
            documented: OPEN,
            tokens,
            sent,
        };
        let organisation = |claims: &mut Value| {
            let system = "https://fhir.nhs.uk/Id/ods-organization-code";
            let other = json!({
                "resourceType": "Organization",
                "identifier": [{ "system": system, "value": "Z99999" }],
                "name": "Invented organisation",
            });
            put(claims, "requesting_organization", other);
        };
        vec![
            row(
                "A token for another organisation is refused",
                &["organisation_mismatch", "organisation_unknown"],
                self.slots_claiming(organisation),
            ),
            row(
                "A token for another audience is refused",
                &["audience_mismatch"],
                self.slots_claiming(|claims| {
                    put(claims, "aud", json!("https://authorize.fhir.nhs.net/token"));
                }),
            ),
            row(
                "A trace id that is no UUID is refused",
                &["trace_id_invalid"],
                self.slots_with(&["Ssp-TraceID: request-1"]),
            ),
        ]
    }

    /// Returns a search for slots at the first practice, which is right.
    fn slots(&self) -> Result<(Caller, CallRequest), CaseEnd> {
        let caller = self.caller(self.practice(0)?);
        let query = slots_query(&caller, &SearchDays::fortnight(None)?);
        Ok((caller, CallRequest::named("slots", None)?.with_query(&query)))
    }

    fn slots_with(&self, headers: &[&str]) -> Result<(Caller, CallRequest), CaseEnd> {
        let (caller, request) = self.slots()?;
        let headers = headers.iter().map(|header| CallerHeader::parse(header));
        let headers = headers.collect::<Result<_, _>>()?;
        Ok((caller, CallRequest { headers, ..request }))
    }

    fn slots_claiming(
        &self,
        change: impl FnOnce(&mut Value),
    ) -> Result<(Caller, CallRequest), CaseEnd> {
        let (caller, request) = self.slots()?;
        let mut claims = caller.claims(request.interaction);
        change(&mut claims);
        self.slots_with(&[&format!("Authorization: Bearer {}", claims::mint(&claims))])
    }

    fn slots_at(&self, root: &str) -> Result<(Caller, CallRequest), CaseEnd> {
        let (caller, request) = self.slots()?;
        let target = Some(format!("/{root}{}", request.path));
        Ok((caller, CallRequest { target, ..request }))
    }

    fn presenting(&self, certificate: Option<KeyPair>) -> Result<(Caller, CallRequest), CaseEnd> {
        let (caller, request) = self.slots()?;
        Ok((caller.presenting(certificate)?, request))
    }

    fn without_tls(&self) -> Result<(Caller, CallRequest), CaseEnd> {
        let (mut caller, request) = self.slots()?;
        caller.server.is_https = false;
        Ok((caller, request))
    }

    fn with_port(&self) -> Result<(Caller, CallRequest), CaseEnd> {
        let practice = self.practice(0)?;
        let (host, path) = practice
            .root
            .strip_prefix("https://")
            .unwrap_or_default()
            .split_once('/')
            .unwrap_or_default();
        match host.contains(':') {
            true => Err(CaseEnd::NotPlayed("the service root has a port".to_owned())),
            false => self.slots_at(&format!("https://{host}:443/{path}")),
        }
    }

    fn at_another_root(&self) -> Result<(Caller, CallRequest), CaseEnd> {
        let (one, other) = (self.practice(0)?, self.practice(1)?);
        match one.root == other.root {
            true => Err(CaseEnd::NotPlayed("it needs two practices".to_owned())),
            false => self.slots_at(&other.root),
        }
    }

    fn as_another(&self) -> Result<(Caller, CallRequest), CaseEnd> {
        let missing = || CaseEnd::NotPlayed("it needs a second consumer".to_owned());
        let other = self.other_consumer(false).or_else(|| self.other_consumer(true));
        let asid: &Asid = &other.ok_or_else(missing)?.asid;
        self.slots_with(&[&format!("Ssp-From: {asid}")])
    }

    /// Returns the consumer without an agreement.
    fn outsider(&self) -> Result<&TestConsumer, CaseEnd> {
        let missing = || "it needs a consumer without an agreement".to_owned();
        self.other_consumer(false).ok_or_else(|| CaseEnd::NotPlayed(missing()))
    }

    fn without_agreement(&self) -> Result<(Caller, CallRequest), CaseEnd> {
        let outsider = self.outsider()?;
        let (caller, request) = self.slots()?;
        Ok((self.as_consumer(outsider, &caller)?, request))
    }

    fn not_registered(&self) -> Result<(Caller, CallRequest), CaseEnd> {
        let outsider = self.outsider()?;
        let metadata = CallRequest::named("metadata", None)?;
        let of = |name: &String| name == "foundations" || name == metadata.interaction.id;
        if outsider.interactions.iter().any(of) {
            let why = "it needs a consumer without the interaction read:metadata";
            return Err(CaseEnd::NotPlayed(why.to_owned()));
        }
        let caller = self.caller(self.practice(0)?);
        Ok((self.as_consumer(outsider, &caller)?, metadata))
    }

    fn to_closed(&self) -> Result<(Caller, CallRequest), CaseEnd> {
        let missing = || "it needs a practice whose system does not answer".to_owned();
        let closed = self.parties.practices.iter().find(|practice| !practice.answers);
        let closed = closed.ok_or_else(|| CaseEnd::NotPlayed(missing()))?;
        Ok((self.caller(closed), CallRequest::named("metadata", None)?))
    }

    /// Returns another consumer as it calls the same practice.
    pub(super) fn as_consumer(
        &self,
        consumer: &TestConsumer,
        caller: &Caller,
    ) -> Result<Caller, Failure> {
        let (asid, ods) = (consumer.asid.clone(), consumer.ods.clone());
        Caller { asid, consumer: ods, ..caller.clone() }.presenting(consumer.key_pair())
    }
}

fn unjudged() -> CaseEnd {
    CaseEnd::NotPlayed(
        "a right request is not answered as expected, see the first session".to_owned(),
    )
}

/// Sets a claim, or removes it if the value is null.
fn put(claims: &mut Value, name: &str, value: Value) {
    let Some(claims) = claims.as_object_mut() else { return };
    match value.is_null() {
        true => drop(claims.remove(name)),
        false => drop(claims.insert(name.to_owned(), value)),
    }
}

const fn is_closing(documented: &DocumentedAnswer) -> bool {
    matches!(documented, Closed)
}

/// Returns true if the connection failed or was closed before a complete answer, in time.
fn is_closed(failure: &Failure) -> bool {
    let Failure::Environment(error) = failure else { return false };
    error.downcast_ref::<NoAnswer>().is_some_and(|answer| !answer.is_late)
}

/// Returns true if an answer is the documented one.
fn fits(documented: DocumentedAnswer, answer: &CallAnswer) -> bool {
    let Status(status, part) = documented else { return false };
    let outcome = answer.json();
    let places = ["details/coding/0/code", "details/coding/0/display", "diagnostics"];
    let says = |place: &&str| {
        let said = outcome.pointer(&format!("/issue/0/{place}")).and_then(Value::as_str);
        said.is_some_and(|said| said.contains(part))
    };
    let is_outcome = text(&outcome, "resourceType") == "OperationOutcome";
    // Web servers answer these themselves, and redirects have no body.
    let needs_none = part.is_empty() && !matches!(status, 400 | 403);
    answer.status == status && (needs_none || is_outcome && places.iter().any(says))
}

/// Returns true if this program's refusal with a token has the status of an answer.
fn has_status(token: &str, answer: &CallAnswer) -> bool {
    let rows = refusal::every().into_iter().map(|refusal| refusal.row());
    rows.into_iter().any(|row| row.token == token && answer.status == row.status)
}

/// Returns the answers that are expected, in words.
fn expected(documented: &[DocumentedAnswer], tokens: &[&str], judgement: Judgement) -> String {
    let mut words: Vec<String> = Vec::new();
    for one in documented {
        words.push(match one {
            Status(status, "") => status.to_string(),
            Status(status, part) => format!("{status} with {part}"),
            Closed => "a closed connection".to_owned(),
        });
    }
    let by_status = words.join(", or ");
    match (judgement, tokens) {
        (Judgement::Specification, _) | (_, []) => by_status,
        (Judgement::All, _) if !documented.is_empty() => by_status,
        (Judgement::Own | Judgement::All, tokens) => {
            let tokens = format!("the refusal {}", tokens.join(" or "));
            if by_status.is_empty() { tokens } else { format!("{by_status}; {tokens}") }
        }
    }
}
