//! Check of tokens by the provider, for tests of a consumer without a proxy in between.
//!
//! Spec: the table of the cross-organisation audit claims. Where it gives no status, the public test
//! suite decides: 422 for a claim that is not a valid resource, 400 for anything else.

use base64_simd::URL_SAFE_NO_PAD;
use http::HeaderMap;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::reply::ReplyFault;
use super::{fhir, shape};
use spine_types::interaction::Interaction;

/// Spec: lifetime of a token in seconds, five minutes.
const LIFETIME_S: i64 = 300;

type TokenClaims = Map<String, Value>;

/// Checks the token of a request.
pub(super) fn judge(
    headers: &HeaderMap,
    interaction: &Interaction,
    now: Timestamp,
) -> Result<(), ReplyFault> {
    let claims = read(headers)?;
    for name in ["iss", "aud"] {
        text(&claims, name)?;
    }
    judge_times(&claims, now)?;
    if text(&claims, "reason_for_request")? != "directcare" {
        return Err(bad("reason_for_request is not directcare"));
    }
    if text(&claims, "requested_scope")? != interaction.scope {
        return Err(bad("requested_scope is not the scope of the interaction"));
    }
    if claims.contains_key("requested_record") {
        return Err(bad("requested_record is not a claim of this version"));
    }
    let device = judge_resource(&claims, "requesting_device", "Device")?;
    require_texts(device, "requesting_device", &["/identifier/0/value", "/model", "/version"])?;
    let organisation = judge_resource(&claims, "requesting_organization", "Organization")?;
    require_texts(organisation, "requesting_organization", &["/name", "/identifier/0/value"])?;
    let practitioner = judge_resource(&claims, "requesting_practitioner", "Practitioner")?;
    let named = ["/id", "/name/0/family", "/name/0/given/0", "/identifier/0/value"];
    require_texts(practitioner, "requesting_practitioner", &named)?;
    match fhir::text(practitioner, "/id") == Some(text(&claims, "sub")?) {
        true => Ok(()),
        false => Err(bad("sub is not the id of requesting_practitioner")),
    }
}

/// Returns the claims of an unsigned token.
fn read(headers: &HeaderMap) -> Result<TokenClaims, ReplyFault> {
    let sent = headers.get("authorization").and_then(|sent| sent.to_str().ok());
    let token = sent.and_then(|sent| {
        let (scheme, token) = sent.trim().split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    let token = token.ok_or_else(|| bad("Authorization is not a bearer token"))?;
    let mut parts = token.split('.');
    let mut part = || {
        let bytes = URL_SAFE_NO_PAD.decode_to_vec(parts.next()?.as_bytes()).ok()?;
        serde_json::from_slice::<TokenClaims>(&bytes).ok()
    };
    let header = part().ok_or_else(|| bad("the token's header is not valid base64 and JSON"))?;
    let exactly = json!({ "alg": "none", "typ": "JWT" });
    if Some(&header) != exactly.as_object() {
        return Err(bad("the token's header is not alg none and typ JWT"));
    }
    let claims = part().ok_or_else(|| bad("the token's claims are not valid base64 and JSON"))?;
    match (parts.next(), parts.next()) {
        (None | Some(""), None) => Ok(claims),
        _ => Err(bad("the token is signed")),
    }
}

/// Spec: `exp` is five minutes after `iat` and in the future; `iat` may be too, as clocks differ.
fn judge_times(claims: &TokenClaims, now: Timestamp) -> Result<(), ReplyFault> {
    let time = |name: &str| claims.get(name).and_then(Value::as_i64);
    let times = time("iat").zip(time("exp"));
    let (iat, exp) = times.ok_or_else(|| bad("iat or exp is missing or not a number"))?;
    if exp.checked_sub(iat) != Some(LIFETIME_S) {
        return Err(bad("exp is not five minutes after iat"));
    }
    if exp <= now.as_second() { Err(bad("the token has expired")) } else { Ok(()) }
}

fn text<'a>(claims: &'a TokenClaims, name: &'static str) -> Result<&'a str, ReplyFault> {
    let text = claims.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    text.ok_or_else(|| bad(format!("{name} is missing")))
}

/// Returns a claim that must be a valid resource of this type.
fn judge_resource<'a>(
    claims: &'a TokenClaims,
    name: &'static str,
    kind: &str,
) -> Result<&'a Value, ReplyFault> {
    let missing = || bad(format!("{name} is missing"));
    let claim = claims.get(name).filter(|claim| !claim.is_null()).ok_or_else(missing)?;
    let known = fhir::text(claim, "/resourceType") == Some(kind);
    match known && shape::fault(claim).is_none() {
        true => Ok(claim),
        false => Err(ReplyFault::resource(format!("{name} is not a valid {kind}"))),
    }
}

/// Spec: fails unless a claim has a text at each of these JSON pointers.
fn require_texts(claim: &Value, name: &'static str, places: &[&str]) -> Result<(), ReplyFault> {
    let empty = |place: &&&str| fhir::text(claim, place).is_none_or(str::is_empty);
    match places.iter().find(empty) {
        Some(place) => Err(bad(format!("{name} has no {}", place.trim_start_matches('/')))),
        None => Ok(()),
    }
}

fn bad(why: impl Into<std::borrow::Cow<'static, str>>) -> ReplyFault {
    ReplyFault::bad_request(why)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::stage::{claims, token_of};
    use super::*;
    use spine_types::interaction;

    const METADATA: &str = "urn:nhs:names:services:gpconnect:fhir:rest:read:metadata-1";

    fn judged(token: &str) -> Option<u16> {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", token.parse().unwrap());
        let interaction = interaction::by_id(METADATA).unwrap();
        let judged = judge(&headers, interaction, Timestamp::now());
        judged.err().map(|fault| fault.status().as_u16())
    }

    /// Returns the status for valid claims with one of them changed; null removes it.
    fn with(name: &str, value: Value) -> Option<u16> {
        let mut claims = claims(METADATA);
        let fields = claims.as_object_mut().unwrap();
        fields.retain(|known, _| known != name);
        fields.extend((!value.is_null()).then(|| (name.to_owned(), value)));
        judged(&format!("Bearer {}", token_of(&claims)))
    }

    #[test]
    fn a_claim_that_is_missing_or_wrong_is_refused() {
        let now = Timestamp::now().as_second();
        assert_eq!(with("nothing", Value::Null), None);
        for name in [
            "iss",
            "sub",
            "aud",
            "exp",
            "iat",
            "reason_for_request",
            "requested_scope",
            "requesting_device",
            "requesting_organization",
            "requesting_practitioner",
        ] {
            assert_eq!(with(name, Value::Null), Some(400), "{name}");
        }
        for (name, value, status) in [
            ("reason_for_request", json!("secondaryuses"), 400),
            ("requested_scope", json!("patient/*.read"), 400),
            ("sub", json!("2"), 400),
            ("requested_record", json!({ "resourceType": "Patient" }), 400),
            (
                "requesting_organization",
                json!({ "resourceType": "Organization", "name": "x" }),
                400,
            ),
            ("requesting_practitioner", json!({ "resourceType": "Practitioner", "id": "1" }), 400),
            ("requesting_device", json!({ "resourceType": "Device", "model": "m" }), 400),
            ("requesting_device", json!({ "resourceType": "Device", "model": 5 }), 422),
            ("exp", json!(now + 299), 400),
            ("exp", json!(now + 301), 400),
            ("exp", json!(now - 1), 400),
            ("exp", json!("soon"), 400),
            ("requesting_device", json!({ "resourceType": "Device", "colour": "red" }), 422),
            ("requesting_device", json!({ "resourceType": "Patient" }), 422),
            ("requesting_practitioner", json!({ "resourceType": "Patient", "id": "1" }), 422),
        ] {
            assert_eq!(with(name, value.clone()), Some(status), "{name}: {value}");
        }
    }

    #[test]
    fn a_token_may_be_issued_in_the_future_but_not_expired() {
        let at = |ahead: i64| {
            let mut claims = claims(METADATA);
            let now = Timestamp::now().as_second() + ahead;
            (claims["iat"], claims["exp"]) = (json!(now), json!(now + 300));
            judged(&format!("Bearer {}", token_of(&claims)))
        };
        assert_eq!((at(200), at(-200), at(-600)), (None, None, Some(400)));
    }

    #[test]
    fn a_header_without_an_unsigned_token_is_refused() {
        let good = token_of(&claims(METADATA));
        assert_eq!(judged(&format!("bearer {good}")), None);
        assert_eq!(judged(&format!("Bearer {}", good.trim_end_matches('.'))), None);
        for bad in [
            String::new(),
            good.clone(),
            format!("Basic {good}"),
            format!("Bearer {good}c2ln"),
            format!("Bearer {good}."),
            "Bearer e30.e30.".to_owned(),
            good.replacen("eyJ", "Bearer e30.eyJ", 1),
            "Bearer not.a.token".to_owned(),
        ] {
            assert_eq!(judged(&bad), Some(400), "{bad}");
        }
    }
}
