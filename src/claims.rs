//! Bearer token: strict decoding, and checks of its claims.
//!
//! Spec: GP Connect tokens are unsigned (`alg` is `none`, the third part empty). They state on whose behalf a
//! system asks; they prove nothing, and no decision rests on them alone.

use std::borrow::Cow;
use std::time::Duration;

use http::header::HeaderMap;
use serde_json::value::RawValue;

use crate::refusal::{ClockDifference, Refusal, TimeUnit};
use spine_types::OdsCode;
use spine_types::interaction::Interaction;

mod envelope;
mod loose;
mod example;
mod judged;
mod strict;

pub use envelope::{Signature, payload};
pub use example::{example_claims, mint};
pub use judged::{JudgedToken, TokenRules, judge};

use loose::{Any, PractitionerName, Texts};
use strict::{JsonText, members};

/// Checked claims that a decision or a record needs, with their values as in the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims<'a> {
    /// `iss`, the URL of the consumer's system.
    pub issuer: Cow<'a, str>,
    /// `sub`, the user, equal to the practitioner's id.
    pub subject: Cow<'a, str>,
    /// `aud`, which is checked later against the directory.
    pub audience: Audience<'a>,
    /// ODS code of `requesting_organization`.
    pub organisation: OdsCode,
    /// `requested_scope`, with its marker if it was sent.
    pub scope: Cow<'a, str>,
    /// `reason_for_request`, such as `directcare`.
    pub reason: Cow<'a, str>,
    /// SDS user id of the practitioner, or `UNK`.
    pub user_id: Option<Cow<'a, str>>,
    /// SDS role profile id of the practitioner, or `UNK`.
    pub role_profile_id: Option<Cow<'a, str>>,
    /// Name of the practitioner.
    pub user_name: Option<String>,
    /// First identifier of the device.
    pub device: Option<Cow<'a, str>>,
    /// `iat`, in seconds since 1970.
    pub issued_s: i64,
    /// `exp`, in seconds since 1970.
    pub expires_s: i64,
    /// Model of the device.
    pub device_model: Option<Cow<'a, str>>,
    /// Version of the device.
    pub device_version: Option<Cow<'a, str>>,
}

/// Claim `aud` as sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience<'a> {
    /// One string, as the specification requires.
    One(Cow<'a, str>),
    /// An array of exactly one string.
    OneInArray(Cow<'a, str>),
}

impl Audience<'_> {
    /// Returns the audience without its borrow from the payload.
    fn into_owned(self) -> Audience<'static> {
        match self {
            Self::One(one) => Audience::One(one.into_owned().into()),
            Self::OneInArray(one) => Audience::OneInArray(one.into_owned().into()),
        }
    }
}

/// Checks everything in a token's [`payload`] that does not need the directory.
///
/// `now_s` is seconds since 1970, UTC; `ahead_max` is the time by which `iat` may be after it.
///
/// # Errors
/// Returns the refusal if the claims cannot be read or one of them is not allowed by the specification.
pub fn check<'a>(
    payload: &'a str,
    interaction: &'static Interaction,
    now_s: i64,
    ahead_max: Duration,
) -> Result<Claims<'a>, Refusal> {
    match serde_json::from_str::<TokenPayload<'_>>(payload) {
        Ok(token) => token.check(interaction, now_s, ahead_max),
        Err(_) => Err(fault(payload)),
    }
}

/// Returns the refusal for a payload that could not be read.
///
/// A claim that is present but not a resource is answered with 422, anything else with 400.
fn fault(payload: &str) -> Refusal {
    let Ok(claims) = serde_json::from_str::<RawClaims<'_>>(payload) else {
        return Refusal::TokenClaims;
    };
    let named = [
        ("requesting_device", "Device", claims.device),
        ("requesting_organization", "Organization", claims.organisation),
        ("requesting_practitioner", "Practitioner", claims.practitioner),
    ];
    let broken = |raw: &RawValue| serde_json::from_str::<ClaimResource<'_>>(raw.get()).is_err();
    let resource = named.into_iter().find_map(|(claim, resource_type, raw)| {
        raw.is_some_and(broken).then_some(Refusal::ClaimResource { claim, resource_type })
    });
    let fraction = |raw: &RawValue| serde_json::from_str::<i64>(raw.get()).is_err();
    let rule = "be a JSON number, the whole seconds since 1970";
    let time = [("iat", claims.issued_s), ("exp", claims.expires_s)].into_iter();
    let mut time = time.filter(|(_, raw)| raw.is_some_and(fraction));
    let time = || time.next().map(|(claim, _)| Refusal::ClaimInvalid { claim, rule });
    resource.or_else(time).unwrap_or(Refusal::TokenClaims)
}

/// Returns the organisation that a token names, unverified.
///
/// Security: used only to find out which of several mismatched values is the odd one, once a request is
/// already refused.
#[must_use]
pub fn organisation(headers: &HeaderMap) -> Option<OdsCode> {
    let payload = payload(headers, Signature::Ignored).ok()?;
    let token: TokenPayload<'_> = serde_json::from_str(&payload).ok()?;
    token.organisation?.organisation().ok()
}

/// Spec: `exp` is `iat` plus five minutes.
const LIFETIME_S: i64 = 300;
/// Limit: time by which a consumer's clock may be ahead, unless more is allowed; the public test suite sends 200 s.
pub const CLOCK_AHEAD_MAX: Duration = Duration::from_secs(300);

/// Namespace of identifiers, as `Identifier.system` of FHIR names it.
struct IdentifierSystem {
    /// URL that the specification gives it.
    url: &'static str,
    /// URL that release candidate 5 of the specification gave it, and that some consumers still send.
    rc5: Option<&'static str>,
    /// Last part of the path of `url` and `rc5`.
    name: &'static str,
}

const ODS: IdentifierSystem = IdentifierSystem {
    url: "https://fhir.nhs.uk/Id/ods-organization-code",
    rc5: Some("http://fhir.nhs.net/Id/ods-organization-code"),
    name: "ods-organization-code",
};
const USER_ID: IdentifierSystem =
    IdentifierSystem { url: "https://fhir.nhs.uk/Id/sds-user-id", rc5: None, name: "sds-user-id" };
const ROLE_PROFILE: IdentifierSystem = IdentifierSystem {
    url: "https://fhir.nhs.uk/Id/sds-role-profile-id",
    rc5: None,
    name: "sds-role-profile-id",
};

/// Payload of a token. Unknown members are ignored; a known one that is repeated or spelt in another case is
/// an error.
#[derive(Default)]
struct TokenPayload<'a> {
    issuer: Option<JsonText<'a>>,
    subject: Option<JsonText<'a>>,
    audience: Option<Any<Texts<'a>>>,
    expires_s: Option<i64>,
    issued_s: Option<i64>,
    reason: Option<JsonText<'a>>,
    scope: Option<JsonText<'a>>,
    device: Option<ClaimResource<'a>>,
    organisation: Option<ClaimResource<'a>>,
    practitioner: Option<ClaimResource<'a>>,
}

members!(
    TokenPayload,
    is_open: true,
    issuer: "iss",
    subject: "sub",
    audience: "aud",
    expires_s: "exp",
    issued_s: "iat",
    reason: "reason_for_request",
    scope: "requested_scope",
    device: "requesting_device",
    organisation: "requesting_organization",
    practitioner: "requesting_practitioner",
);

/// Claims of a payload as raw JSON, to find the one that is malformed.
#[derive(Default)]
struct RawClaims<'a> {
    issued_s: Option<&'a RawValue>,
    expires_s: Option<&'a RawValue>,
    device: Option<&'a RawValue>,
    organisation: Option<&'a RawValue>,
    practitioner: Option<&'a RawValue>,
}

members!(
    RawClaims,
    is_open: true,
    issued_s: "iat",
    expires_s: "exp",
    device: "requesting_device",
    organisation: "requesting_organization",
    practitioner: "requesting_practitioner",
);

impl<'a> TokenPayload<'a> {
    fn check(
        self,
        interaction: &'static Interaction,
        now_s: i64,
        ahead_max: Duration,
    ) -> Result<Claims<'a>, Refusal> {
        let issuer = text(self.issuer, "iss")?;
        let subject = text(self.subject, "sub")?;
        let audience = audience(self.audience)?;
        let (issued_s, expires_s) = times(self.issued_s, self.expires_s)?;
        check_lifetime(issued_s, expires_s)?;
        check_not_expired(expires_s, now_s)?;
        check_not_ahead(issued_s, now_s, ahead_max)?;
        let reason = text(self.reason, "reason_for_request")?;
        check_reason(&reason, interaction)?;
        let scope = text(self.scope, "requested_scope")?;
        check_scope(&scope, interaction)?;
        let device = device(self.device)?;
        let organisation = organisation_claim(self.organisation)?.organisation()?;
        let practitioner = practitioner(self.practitioner)?;
        check_subject(&subject, &practitioner)?;
        let text = |value: Any<Option<JsonText<'a>>>| value.0.map(|JsonText(text)| text);
        Ok(Claims {
            issuer,
            subject,
            audience,
            organisation,
            scope,
            reason,
            user_id: practitioner.staff_id(&USER_ID)?,
            role_profile_id: practitioner.staff_id(&ROLE_PROFILE)?,
            user_name: practitioner.name.0.0,
            device: device.first_identifier(),
            issued_s,
            expires_s,
            device_model: text(device.model),
            device_version: text(device.version),
        })
    }
}

fn text<'a>(claim: Option<JsonText<'a>>, name: &'static str) -> Result<Cow<'a, str>, Refusal> {
    match claim {
        Some(JsonText(text)) if !text.chars().all(char::is_whitespace) => Ok(text),
        _ => Err(Refusal::ClaimMissing(name)),
    }
}

fn audience(claim: Option<Any<Texts<'_>>>) -> Result<Audience<'_>, Refusal> {
    const NOT_ONE: Refusal = Refusal::ClaimInvalid { claim: "aud", rule: "be one string" };
    match claim {
        None => Err(Refusal::ClaimMissing("aud")),
        Some(Any(Texts::One(JsonText(one)))) if one.is_empty() => Err(Refusal::ClaimMissing("aud")),
        Some(Any(Texts::One(JsonText(one)))) => Ok(Audience::One(one)),
        Some(Any(Texts::Many(texts))) => match <[_; 1]>::try_from(texts) {
            Ok([JsonText(one)]) => Ok(Audience::OneInArray(one)),
            Err(_) => Err(NOT_ONE),
        },
        Some(Any(Texts::Other)) => Err(NOT_ONE),
    }
}

/// Returns `iat` and `exp`, which are both required.
fn times(iat: Option<i64>, exp: Option<i64>) -> Result<(i64, i64), Refusal> {
    let iat = iat.ok_or(Refusal::ClaimMissing("iat"))?;
    Ok((iat, exp.ok_or(Refusal::ClaimMissing("exp"))?))
}

/// Spec: a token is valid for 300 s.
fn check_lifetime(iat: i64, exp: i64) -> Result<(), Refusal> {
    match exp.checked_sub(iat) {
        Some(LIFETIME_S) => Ok(()),
        _ => Err(Refusal::TokenLifetime { unit: TimeUnit::of(iat, exp) }),
    }
}

/// Spec: a token is not accepted at or after `exp`.
fn check_not_expired(exp: i64, now_s: i64) -> Result<(), Refusal> {
    match now_s >= exp {
        true => Err(Refusal::TokenExpired { ago: ClockDifference::between(now_s, exp) }),
        false => Ok(()),
    }
}

fn check_not_ahead(iat: i64, now_s: i64, ahead_max: Duration) -> Result<(), Refusal> {
    match u64::try_from(iat.saturating_sub(now_s))
        .is_ok_and(|ahead_s| ahead_s > ahead_max.as_secs())
    {
        true => Err(Refusal::TokenFromFuture { ahead: ClockDifference::between(iat, now_s) }),
        false => Ok(()),
    }
}

fn check_reason(reason: &str, interaction: &'static Interaction) -> Result<(), Refusal> {
    if reason == "directcare" || (interaction.migrates() && reason == "migration") {
        return Ok(());
    }
    let rule = match interaction.migrates() {
        true => "be directcare or migration",
        false => "be directcare",
    };
    Err(Refusal::ClaimInvalid { claim: "reason_for_request", rule })
}

/// Spec: the user is the practitioner.
fn check_subject(subject: &str, practitioner: &ClaimResource<'_>) -> Result<(), Refusal> {
    if practitioner.id.as_ref().is_some_and(|JsonText(id)| id == subject) {
        return Ok(());
    }
    Err(Refusal::ClaimInvalid { claim: "sub", rule: "equal requesting_practitioner.id" })
}

fn device(claim: Option<ClaimResource<'_>>) -> Result<ClaimResource<'_>, Refusal> {
    resource(claim, "requesting_device", "Device")
}

fn organisation_claim(claim: Option<ClaimResource<'_>>) -> Result<ClaimResource<'_>, Refusal> {
    resource(claim, "requesting_organization", "Organization")
}

fn practitioner(claim: Option<ClaimResource<'_>>) -> Result<ClaimResource<'_>, Refusal> {
    resource(claim, "requesting_practitioner", "Practitioner")
}

/// Spec: one scope, which GP Connect 1.6 allows a confidentiality marker to follow.
fn check_scope(scope: &str, interaction: &'static Interaction) -> Result<(), Refusal> {
    let mut parts = scope.split(' ');
    let fits = parts.next() == Some(interaction.scope);
    let marker = match parts.next() {
        None | Some("conf/N") => true,
        Some("conf/R") => interaction.migrates(),
        Some(_) => false,
    };
    let is_whole = parts.next().is_none();
    if fits && marker && is_whole { Ok(()) } else { Err(Refusal::ScopeMismatch(interaction)) }
}

/// Members of a claim's resource that are read.
#[derive(Default)]
struct ClaimResource<'a> {
    resource_type: JsonText<'a>,
    id: Option<JsonText<'a>>,
    identifier: Vec<ClaimIdentifier<'a>>,
    name: Any<PractitionerName>,
    model: Any<Option<JsonText<'a>>>,
    version: Any<Option<JsonText<'a>>>,
}

members!(
    ClaimResource,
    is_open: true,
    resource_type: "resourceType",
    id: "id",
    identifier: "identifier",
    name: "name",
    model: "model",
    version: "version",
);

#[derive(Default)]
struct ClaimIdentifier<'a> {
    system: Option<JsonText<'a>>,
    value: Option<JsonText<'a>>,
}

members!(ClaimIdentifier, is_open: true, system: "system", value: "value");

impl<'a> ClaimResource<'a> {
    /// Returns the value of the only identifier in a system.
    ///
    /// # Errors
    /// Returns an error if there are several in this system or in similar ones: a provider could read another
    /// one.
    fn identifier_in(
        &self,
        known: &IdentifierSystem,
    ) -> Result<Option<&Cow<'a, str>>, AmbiguousIdentifier> {
        let mut found = self.identifier.iter().filter(|identifier| identifier.is_like(known));
        let Some(ClaimIdentifier { system: Some(JsonText(system)), value }) = found.next() else {
            return Ok(None);
        };
        if found.next().is_some() {
            return Err(AmbiguousIdentifier);
        }
        let is_known = known.url == *system || known.rc5.is_some_and(|rc5| rc5 == *system);
        let value = value.as_ref().filter(|_| is_known);
        Ok(value.map(|JsonText(value)| value))
    }

    /// Returns the practitioner's identifier in a national system.
    fn staff_id(&self, system: &IdentifierSystem) -> Result<Option<Cow<'a, str>>, Refusal> {
        let id = self.identifier_in(system);
        let id = id.map_err(|AmbiguousIdentifier| Refusal::ClaimInvalid {
            claim: "requesting_practitioner",
            rule: "have at most one identifier of each national system",
        })?;
        Ok(id.cloned())
    }

    fn first_identifier(&self) -> Option<Cow<'a, str>> {
        self.identifier.first()?.value.as_ref().map(|JsonText(value)| value.clone())
    }

    fn organisation(&self) -> Result<OdsCode, Refusal> {
        let code = self.identifier_in(&ODS).unwrap_or_default();
        code.and_then(|code| OdsCode::from_any_case(code).ok()).ok_or(Refusal::ClaimInvalid {
            claim: "requesting_organization",
            rule: "have one identifier, an ODS code, in the system \
                       https://fhir.nhs.uk/Id/ods-organization-code",
        })
    }
}

/// Error returned when a resource has several identifiers where one is expected.
struct AmbiguousIdentifier;

impl ClaimIdentifier<'_> {
    /// Returns true if its system could be mistaken for the known one: the last part of the path is the same
    /// except for case and white space.
    fn is_like(&self, known: &IdentifierSystem) -> bool {
        let Some(JsonText(system)) = &self.system else { return false };
        let system = system.trim().trim_end_matches('/').as_bytes();
        let parts = system.len().checked_sub(known.name.len());
        let Some((before, last)) = parts.and_then(|at| system.split_at_checked(at)) else {
            return false;
        };
        last.eq_ignore_ascii_case(known.name.as_bytes()) && matches!(before, [] | [.., b'/'])
    }
}

/// Spec: a missing claim is answered with 400, one that is not a resource of its type with 422.
fn resource<'a>(
    claim: Option<ClaimResource<'a>>,
    name: &'static str,
    resource_type: &'static str,
) -> Result<ClaimResource<'a>, Refusal> {
    let resource = claim.ok_or(Refusal::ClaimMissing(name))?;
    if resource.resource_type.0 == resource_type {
        Ok(resource)
    } else {
        Err(Refusal::ClaimResource { claim: name, resource_type })
    }
}

#[cfg(test)]
mod tests {
    use base64_simd::URL_SAFE_NO_PAD;
    use http::header;
    use serde_json::{Value, json};

    use super::envelope::TOKEN_BYTES_MAX;
    use super::*;
    use crate::refusal::JudgedSteps;
    use crate::refusal::TokenForm;
    use spine_types::interaction::CATALOGUE;

    const NOW: i64 = 1_800_000_000;

    fn check_token(authorization: &[String]) -> Result<Claims<'static>, Refusal> {
        let mut headers = HeaderMap::new();
        for value in authorization {
            headers.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        let payload = payload(&headers, Signature::Refused)?;
        check(payload.leak(), &CATALOGUE[0], NOW, CLOCK_AHEAD_MAX)
    }

    fn good() -> Value {
        let organisation = "A20047".parse().unwrap();
        example_claims("https://p.nhs.uk/A", &organisation, "organization/*.read", NOW)
    }

    /// Judges a good token with one claim replaced (`null` removes it).
    fn with(claim: &str, value: Value) -> Result<Claims<'static>, Refusal> {
        let mut claims = good();
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(claim);
        } else {
            claims[claim] = value;
        }
        check_token(&[format!("Bearer {}", mint(&claims))])
    }

    /// Returns the claim that is named as not allowed when one claim is replaced.
    fn invalid(claim: &str, value: Value) -> &'static str {
        match with(claim, value) {
            Err(Refusal::ClaimInvalid { claim, .. }) => claim,
            other => panic!("{other:?}"),
        }
    }

    fn raw(payload: &str) -> Result<Claims<'static>, Refusal> {
        let head = URL_SAFE_NO_PAD.encode_to_string(br#"{"alg":"none","typ":"JWT"}"#);
        check_token(&[format!("Bearer {head}.{}.", URL_SAFE_NO_PAD.encode_to_string(payload))])
    }

    /// Judges a token with each check, and returns all refusals.
    fn judged(token: &str) -> Vec<Refusal> {
        let steps = steps(token);
        steps.each().iter().filter_map(|step| step.refusal().cloned()).collect()
    }

    fn steps(token: &str) -> JudgedSteps {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        let rules = TokenRules {
            signature: Signature::Refused,
            clock_ahead_max: CLOCK_AHEAD_MAX,
            now_s: NOW,
        };
        judge(&headers, Some(&CATALOGUE[0]), rules).steps
    }

    #[test]
    fn no_control_character_of_a_token_is_shown() {
        let mut claims = good();
        claims["iss"] = json!("https://c.nhs.uk/\u{1b}[2J");
        let payload = mint(&claims).split('.').nth(1).unwrap().to_owned();
        let head = URL_SAFE_NO_PAD.encode_to_string("{\"alg\":\"\u{1b}[2J\"}");
        let steps = steps(&format!("{head}.{payload}."));
        let received: String =
            steps.each().iter().filter_map(|step| step.received.as_deref()).collect();
        assert!(received.contains("?[2J\"}") && received.contains("nhs.uk/?[2J"), "{received}");
        assert!(!received.contains(char::is_control), "{received:?}");
    }

    #[test]
    fn every_fault_is_judged_and_the_first_is_that_of_a_request() {
        assert_eq!(judged(&mint(&good())), []);
        for (claim, value) in [
            ("iss", json!("")),
            ("sub", json!("2")),
            ("aud", json!([])),
            ("exp", json!(NOW + 301)),
            ("iat", Value::Null),
            ("reason_for_request", json!("x")),
            ("requested_scope", json!("x")),
            ("requesting_device", json!({"resourceType": "Patient"})),
            ("requesting_organization", json!("x")),
            ("requesting_practitioner", json!({"resourceType": "Practitioner"})),
            (
                "requesting_practitioner",
                json!({"resourceType": "Practitioner", "id": "1",
                "identifier": [{"system": USER_ID.url}, {"system": USER_ID.url}]}),
            ),
        ] {
            let mut claims = good();
            claims[claim] = value;
            let token = mint(&claims);
            let refused = check_token(&[format!("Bearer {token}")]).unwrap_err();
            assert_eq!(judged(&token), [refused], "{claim}");
        }
        let mut claims = good();
        (claims["iss"], claims["requested_scope"]) = ("".into(), "x".into());
        (claims["iat"], claims["exp"]) = ((NOW - 900).into(), (NOW - 500).into());
        let token = mint(&claims).replace("eyJhbGciOiJub25lI", "eyJhbGciOiJOb25lI");
        let ago = ClockDifference::between(NOW, NOW - 500);
        let all = [
            Refusal::TokenSigned,
            Refusal::TokenAlgorithm,
            Refusal::ClaimMissing("iss"),
            Refusal::TokenLifetime { unit: TimeUnit::Second },
            Refusal::TokenExpired { ago },
            Refusal::ScopeMismatch(&CATALOGUE[0]),
        ];
        assert_eq!(judged(&format!("{token}c2ln")), all);
    }

    #[test]
    fn a_good_token_gives_its_claims() {
        let claims = with("unknown", json!({"deep": [1]})).unwrap();
        assert_eq!(claims.organisation.as_str(), "A20047");
        assert_eq!(claims.audience, Audience::One("https://p.nhs.uk/A".into()));
        assert_eq!(claims.user_id.as_deref(), Some("111222333444"));
    }

    #[test]
    fn every_claim_is_required() {
        for claim in ["iss", "sub", "aud", "exp", "iat", "reason_for_request", "requested_scope"]
            .into_iter()
            .chain(["requesting_device", "requesting_organization", "requesting_practitioner"])
        {
            assert_eq!(with(claim, Value::Null), Err(Refusal::ClaimMissing(claim)), "{claim}");
        }
        assert_eq!(with("iss", json!("")), Err(Refusal::ClaimMissing("iss")));
        assert_eq!(with("iss", json!(7)), Err(Refusal::TokenClaims));
    }

    #[test]
    fn a_claimed_resource_has_its_type() {
        for (claim, resource_type) in [
            ("requesting_device", "Device"),
            ("requesting_organization", "Organization"),
            ("requesting_practitioner", "Practitioner"),
        ] {
            let wrong = json!({"resourceType": "Patient"});
            let refused = Err(Refusal::ClaimResource { claim, resource_type });
            assert_eq!(with(claim, wrong), refused);
            assert_eq!(with(claim, json!("Device")), refused);
        }
        let nameless = json!({"resourceType": "Organization", "identifier": []});
        assert_eq!(invalid("requesting_organization", nameless), "requesting_organization");
    }

    #[test]
    fn a_token_lives_for_three_hundred_seconds() {
        let times = |iat: i64, exp: i64| {
            let mut claims = good();
            (claims["iat"], claims["exp"]) = (iat.into(), exp.into());
            check_token(&[format!("Bearer {}", mint(&claims))]).map(drop)
        };
        assert_eq!(times(NOW - 299, NOW + 1), Ok(()));
        let ago = ClockDifference::between(0, 0);
        assert_eq!(times(NOW - 300, NOW), Err(Refusal::TokenExpired { ago }));
        assert_eq!(times(NOW + 300, NOW + 600), Ok(()));
        let ahead = ClockDifference::between(0, 301);
        assert_eq!(times(NOW + 301, NOW + 601), Err(Refusal::TokenFromFuture { ahead }));
        let lifetime = |unit| Err(Refusal::TokenLifetime { unit });
        for exp in [NOW + 299, NOW + 301, NOW - 1] {
            assert_eq!(times(NOW, exp), lifetime(TimeUnit::Second));
        }
        assert_eq!(times(i64::MIN, i64::MAX), lifetime(TimeUnit::Smaller));
        assert_eq!(times(NOW, (NOW + 300) * 1000), lifetime(TimeUnit::Smaller));
        let ms = NOW * 1000;
        assert_eq!(times(ms, ms + 300_000), lifetime(TimeUnit::Smaller));
        for odd in [json!("1"), json!(1.5), json!(1e20), json!([])] {
            assert_eq!(invalid("iat", odd.clone()), "iat");
            assert_eq!(invalid("exp", odd), "exp");
        }
    }

    #[test]
    fn a_scope_fits_its_interaction() {
        assert!(with("requested_scope", json!("organization/*.read conf/N")).is_ok());
        for scope in ["patient/*.read", "organization/*.write", "organization/*.read x", "x"] {
            let refused = with("requested_scope", json!(scope));
            assert_eq!(refused, Err(Refusal::ScopeMismatch(&CATALOGUE[0])), "{scope}");
        }
        assert_eq!(invalid("reason_for_request", json!("migration")), "reason_for_request");
    }

    #[test]
    fn the_subject_is_the_practitioner() {
        assert_eq!(invalid("sub", json!("2")), "sub");
    }

    #[test]
    fn an_audience_is_one_string_or_an_array_of_one() {
        let one = Audience::OneInArray("a".into());
        assert_eq!(with("aud", json!(["a"])).unwrap().audience, one);
        for aud in [json!([]), json!(["a", "b"]), json!({}), json!(1)] {
            assert_eq!(invalid("aud", aud), "aud");
        }
    }

    #[test]
    fn a_repeated_claim_is_refused_even_when_escaped() {
        let twice = good().to_string().replacen('{', r#"{"sub":"1","#, 1);
        assert_eq!(raw(&twice), Err(Refusal::TokenClaims));
        let escaped = good().to_string().replacen('{', r#"{"s\u0075b":"1","#, 1);
        assert_eq!(raw(&escaped), Err(Refusal::TokenClaims));
        assert_eq!(raw("nonsense"), Err(Refusal::TokenClaims));
        assert_eq!(raw(&"[".repeat(4000)), Err(Refusal::TokenClaims));
    }

    #[test]
    fn the_envelope_is_exact() {
        let token = mint(&good());
        let (head, rest) = token.split_once('.').unwrap();
        let claims = rest.strip_suffix('.').unwrap();
        let sent = |value: String| check_token(&[value]).map(drop);
        assert_eq!(check_token(&[]), Err(Refusal::TokenMissing));
        let two = format!("Bearer {token}");
        assert_eq!(check_token(&[two.clone(), two.clone()]), Err(Refusal::TokenRepeated));
        assert_eq!(sent(two), Ok(()));
        assert_eq!(sent(format!("bearer {token}")), Ok(()));
        assert_eq!(sent(format!("BEARER   {token}")), Ok(()));
        for bad in ["Basic abc".to_owned(), format!("Bearer{token}"), format!("Bearer {token} x")]
            .into_iter()
            .chain(["Bearer".to_owned(), "Bearer ".to_owned(), "Bearer   ".to_owned()])
        {
            assert_eq!(sent(bad.clone()), Err(Refusal::AuthorizationMalformed), "{bad}");
        }
        for (bad, form) in [
            (format!("{head}.{claims}"), TokenForm::NoFinalStop),
            (head.to_owned(), TokenForm::Parts),
            (format!("{token}."), TokenForm::Parts),
            (format!("{head}=.{claims}."), TokenForm::Encoding),
        ] {
            assert_eq!(sent(format!("Bearer {bad}")), Err(Refusal::TokenMalformed(form)), "{bad}");
        }
        assert_eq!(sent(format!("Bearer {token}c2ln")), Err(Refusal::TokenSigned));
        let long = format!("Bearer {}", "a".repeat(TOKEN_BYTES_MAX));
        assert_eq!(sent(long), Err(Refusal::TokenTooLong));
        for header in [
            r#"{"alg":"None","typ":"JWT"}"#,
            r#"{"alg":"HS256","typ":"JWT"}"#,
            r#"{"alg":"none"}"#,
            r#"{"alg":"none","typ":"JWT","jku":"https://evil.uk"}"#,
            r#"{"alg":"none","alg":"none","typ":"JWT"}"#,
        ] {
            let head = URL_SAFE_NO_PAD.encode_to_string(header);
            let refused = sent(format!("Bearer {head}.{claims}."));
            assert_eq!(refused, Err(Refusal::TokenAlgorithm), "{header}");
        }
    }
}
