//! Table of wrong requests, with the answers that the specification and this program give them.

use http::Method;
use serde_json::{Value, json};

use super::super::super::call::client::CallRequest;
use super::super::{CaseEnd, Play};
use super::DocumentedAnswer::{self, Closed, Status};
use super::WrongRequest;
use super::requests::put;

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
const UNREACHED: &[DocumentedAnswer] = &[
    Status(502, "ERROR_COMMUNICATING_TO_ENDPOINT_URL"),
    Status(503, ""),
    Status(504, ""),
    Status(599, ""),
];
const OPEN: &[DocumentedAnswer] = &[];

impl Play {
    /// Returns the table for a proxy, or for a provider that is called without one.
    pub(super) fn rows(&self) -> Vec<WrongRequest> {
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
                // The second if others have found that out just before.
                &["provider_not_reached", "provider_circuit_open"],
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
}
