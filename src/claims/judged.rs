//! Judgement of each part and claim of a token, by the checks that a request's token must pass.

use std::borrow::Cow;
use std::time::Duration;

use http::header::{self, HeaderMap};
use serde_json::Value;

use super::envelope::{TokenParts, bearer, check_algorithm, check_unsigned, decode_payload};
use super::{
    Audience, ClaimResource, JsonText, ROLE_PROFILE, Signature, TokenPayload, USER_ID, audience,
    check_lifetime, check_not_ahead, check_not_expired, check_reason, check_scope, check_subject,
    device, fault, organisation_claim, practitioner, text, times,
};
use crate::refusal::{self, JudgedSteps, Refusal};
use spine_types::OdsCode;
use spine_types::interaction::Interaction;

/// Limit: bytes that are shown of a claim.
const SHOWN_BYTES_MAX: usize = 256;
/// Limit: bytes that are shown of a token's first part.
const HEAD_BYTES_MAX: usize = 64;
/// Reason for which a claim that depends on the interaction is not judged.
const NO_INTERACTION: &str = "it depends on the interaction, which is not known";

/// Rules and time by which a token is judged.
#[derive(Debug, Clone, Copy)]
pub struct TokenRules {
    /// Treatment of the third part, the signature.
    pub signature: Signature,
    /// Time by which `iat` may be ahead of the clock.
    pub clock_ahead_max: Duration,
    /// Time of the judgement, in seconds since 1970, UTC.
    pub now_s: i64,
}

/// Results for the parts and claims of a token, with the values that later decisions need.
#[derive(Debug, Default)]
pub struct JudgedToken {
    /// Result for each part and claim, in the order of the checks of a request.
    pub steps: JudgedSteps,
    /// Claim `aud`, if it has an allowed form.
    pub audience: Option<Audience<'static>>,
    /// ODS code of `requesting_organization`, if it has one.
    pub organisation: Option<OdsCode>,
}

/// Judges the token of a request: every fault, not the first only.
#[must_use]
pub fn judge(
    headers: &HeaderMap,
    interaction: Option<&'static Interaction>,
    rules: TokenRules,
) -> JudgedToken {
    let mut judged = JudgedToken::default();
    let shown = headers.get(header::AUTHORIZATION);
    let shown = shown.map(|value| format!("{} bytes", value.len()));
    let expected = "Bearer and one token";
    if let Some(token) = judged.steps.judge("Authorization", expected, shown, bearer(headers)) {
        judged.token(token, interaction, rules);
    }
    judged
}

impl JudgedToken {
    /// Judges a token as it is sent after `Bearer`.
    fn token(&mut self, token: &str, interaction: Option<&'static Interaction>, rules: TokenRules) {
        let steps = &mut self.steps;
        let parts = TokenParts::of(token);
        let shown = Some(format!("{} full stops", token.matches('.').count()));
        let expected = "two parts in base64url, each with a full stop after it";
        let Some(parts) = steps.judge("token", expected, shown, parts) else { return };
        match rules.signature {
            Signature::Refused => {
                let shown = match parts.signature.is_empty() {
                    true => "none".to_owned(),
                    false => format!("{} bytes", parts.signature.len()),
                };
                steps.judge("signature", "none", Some(shown), check_unsigned(parts.signature));
                let shown = refusal::shown(&String::from_utf8_lossy(&parts.head), HEAD_BYTES_MAX);
                let expected = r#"{"alg":"none","typ":"JWT"}"#;
                steps.judge("alg", expected, Some(shown), check_algorithm(&parts.head));
            }
            Signature::Ignored => steps.skip("signature", "compatibility lets it be ignored"),
        }
        let payload = decode_payload(parts.payload);
        let Some(payload) = steps.judge("payload", "UTF-8 in base64url", None, payload) else {
            return;
        };
        self.claims(&payload, interaction, rules);
    }

    fn claims(
        &mut self,
        payload: &str,
        interaction: Option<&'static Interaction>,
        rules: TokenRules,
    ) {
        let read = serde_json::from_str::<TokenPayload<'_>>(payload).map_err(|_| fault(payload));
        let expected = "a JSON object, each claim once and of its type";
        let Some(token) = self.steps.judge("claims", expected, None, read) else { return };
        let sent = SentClaims(serde_json::from_str(payload).unwrap_or_default());
        let steps = &mut self.steps;
        let not_empty = "text that is not empty";
        steps.judge("iss", not_empty, sent.shown("iss"), text(token.issuer, "iss"));
        let subject = steps.judge("sub", not_empty, sent.shown("sub"), text(token.subject, "sub"));
        let audience = audience(token.audience);
        let audience = steps.judge("aud", "one string", sent.shown("aud"), audience);
        self.audience = audience.map(Audience::into_owned);
        judge_times(steps, times(token.issued_s, token.expires_s), rules);
        let reason = text(token.reason, "reason_for_request");
        let scope = text(token.scope, "requested_scope");
        match interaction {
            Some(interaction) => judge_purpose(steps, interaction, &sent, (reason, scope)),
            None => {
                steps.skip("reason_for_request", NO_INTERACTION);
                steps.skip("requested_scope", NO_INTERACTION);
            }
        }
        let shown = sent.shown_type("requesting_device");
        steps.judge("requesting_device", "a Device", shown, device(token.device));
        let organisation = organisation_claim(token.organisation);
        let organisation = organisation.and_then(|organisation| organisation.organisation());
        let shown = match &organisation {
            Ok(ods) => Some(format!("Organization {ods}")),
            Err(_) => sent.shown_type("requesting_organization"),
        };
        let expected = "an Organization with one ODS code";
        self.organisation = steps.judge("requesting_organization", expected, shown, organisation);
        let shown = sent.shown_type("requesting_practitioner");
        let practitioner = practitioner(token.practitioner);
        let name = "requesting_practitioner";
        let practitioner = steps.judge(name, "a Practitioner", shown, practitioner);
        if let Some(practitioner) = practitioner {
            judge_practitioner(steps, subject.as_deref(), &practitioner);
        }
    }
}

/// Judges `iat` and `exp`, in seconds since 1970.
fn judge_times(steps: &mut JudgedSteps, times: Result<(i64, i64), Refusal>, rules: TokenRules) {
    let TokenRules { clock_ahead_max, now_s, .. } = rules;
    let (iat, exp) = match times {
        Ok(times) => times,
        Err(refusal) => {
            steps.judge::<()>("iat, exp", "both, 300 s apart", None, Err(refusal));
            return;
        }
    };
    let life = Some(format!("{} s apart", exp.saturating_sub(iat)));
    steps.judge("iat, exp", "both, 300 s apart", life, check_lifetime(iat, exp));
    let after = format!("after {}", time_text(now_s));
    steps.judge("exp", after, Some(time_text(exp)), check_not_expired(exp, now_s));
    let ahead_s = i64::try_from(clock_ahead_max.as_secs()).unwrap_or(i64::MAX);
    let latest = time_text(now_s.saturating_add(ahead_s));
    let latest = format!("at the latest {latest}");
    steps.judge("iat", latest, Some(time_text(iat)), check_not_ahead(iat, now_s, clock_ahead_max));
}

/// Returns a time in seconds since 1970 as text, or the number if it is outside of the calendar.
fn time_text(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |at| at.to_string())
}

/// Judges the claims that depend on the interaction.
fn judge_purpose(
    steps: &mut JudgedSteps,
    interaction: &'static Interaction,
    sent: &SentClaims,
    (reason, scope): (Result<Cow<'_, str>, Refusal>, Result<Cow<'_, str>, Refusal>),
) {
    let reason = reason.and_then(|reason| check_reason(&reason, interaction));
    let expected = if interaction.migrates() { "directcare or migration" } else { "directcare" };
    let name = "reason_for_request";
    steps.judge(name, expected, sent.shown(name), reason);
    let scope = scope.and_then(|scope| check_scope(&scope, interaction));
    let name = "requested_scope";
    steps.judge(name, interaction.scope, sent.shown(name), scope);
}

fn judge_practitioner(
    steps: &mut JudgedSteps,
    subject: Option<&str>,
    practitioner: &ClaimResource<'_>,
) {
    if let Some(subject) = subject {
        let id = practitioner.id.as_ref().map(|JsonText(id)| shown_text(id));
        let is_same = check_subject(subject, practitioner);
        steps.judge("requesting_practitioner.id", "the value of sub", id, is_same);
    }
    let staff = practitioner.staff_id(&USER_ID);
    let staff = staff.and_then(|_| practitioner.staff_id(&ROLE_PROFILE));
    let expected = "at most one of each national system";
    steps.judge("requesting_practitioner.identifier", expected, None, staff);
}

/// Claims as sent, to be shown.
struct SentClaims(Value);

impl SentClaims {
    /// Returns a claim as text, masked and cut.
    fn shown(&self, name: &str) -> Option<String> {
        let Self(claims) = self;
        let value = claims.get(name)?;
        Some(shown_text(&value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
    }

    /// Returns the type of the resource in a claim.
    fn shown_type(&self, name: &str) -> Option<String> {
        let Self(claims) = self;
        let resource = claims.get(name)?;
        let resource_type = resource.get("resourceType").and_then(Value::as_str);
        Some(resource_type.map_or_else(|| "no FHIR resource".to_owned(), shown_text))
    }
}

fn shown_text(text: &str) -> String {
    refusal::shown(text, SHOWN_BYTES_MAX)
}
