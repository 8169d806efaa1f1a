//! Example tokens for tests, the demonstration and the `token` command.

use base64_simd::URL_SAFE_NO_PAD;

use super::{LIFETIME_S, ODS, ROLE_PROFILE, USER_ID};
use spine_types::OdsCode;

/// Encodes claims as an unsigned token, as a consumer would send it.
#[must_use]
pub fn mint(claims: &serde_json::Value) -> String {
    let head = URL_SAFE_NO_PAD.encode_to_string(br#"{"alg":"none","typ":"JWT"}"#);
    format!("{head}.{}.", URL_SAFE_NO_PAD.encode_to_string(claims.to_string()))
}

/// Returns the claims of an invented user of `organisation`, issued at `now_s` (seconds since 1970) for
/// `audience`.
#[must_use]
pub fn example_claims(
    audience: &str,
    organisation: &OdsCode,
    scope: &str,
    now_s: i64,
) -> serde_json::Value {
    serde_json::json!({
        "iss": "https://consumer.example.nhs.uk/",
        "sub": "1",
        "aud": audience,
        "exp": now_s + LIFETIME_S,
        "iat": now_s,
        "reason_for_request": "directcare",
        "requested_scope": scope,
        "requesting_device": {
            "resourceType": "Device",
            "identifier": [{"system": "https://consumer.example.nhs.uk/Id/device", "value": "DESK-1"}],
            "model": "Invented consumer",
            "version": "1.0"
        },
        "requesting_organization": {
            "resourceType": "Organization",
            "identifier": [{"system": ODS.url, "value": organisation.as_str()}],
            "name": "Invented organisation"
        },
        "requesting_practitioner": {
            "resourceType": "Practitioner",
            "id": "1",
            "identifier": [
                {"system": USER_ID.url, "value": "111222333444"},
                {"system": ROLE_PROFILE.url, "value": "444555666777"},
                {"system": "https://consumer.example.nhs.uk/Id/user", "value": "invented-user"}
            ],
            "name": [{"family": "Invented", "given": ["Iris"], "prefix": ["Dr"]}]
        }
    })
}
