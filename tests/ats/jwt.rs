//! JWT: what a token may lack, and what it may not.

use serde_json::{Value, json};

use super::case::{Case, Expect, Feature, Given, ok, one, row, status};
use super::request::{Request, ask};
use super::resources::{SDS_USER, with};
use testkit::test_bed::{HUB_ODS, now_s};

pub(super) const FEATURE: Feature = Feature { name: "JWT", scenarios: 22, cases: 22, list };

const TOKEN: &str = "the proxy reads the token before anybody else does";

/// A request for the statement whose token was changed.
fn changed(
    scenario: &'static str,
    change: impl Fn(Request) -> Request + 'static,
    expect: Expect,
    token: Option<&'static str>,
) -> Case {
    let request = move |_: &_| change(ask("rest:read:metadata-1", "/metadata"));
    let row = row("metadata", Given::Nothing, request, expect.clone());
    one(
        scenario,
        match token {
            Some(token) => row.proxied(expect.token(token), TOKEN),
            None => row,
        },
    )
}

fn missing(scenario: &'static str, claim: &'static str) -> Case {
    let without = move |request: Request| request.claim(claim, Value::Null);
    changed(scenario, without, status(&[400]), Some("claim_missing"))
}

/// `exp` so many seconds after `iat`.
fn living(scenario: &'static str, lifetime_s: i64) -> Case {
    let change = move |request: Request| request.claim("exp", json!(now_s() + lifetime_s));
    changed(scenario, change, status(&[400]), Some("token_lifetime"))
}

/// A claim whose resource was changed at this place.
fn with_resource(request: Request, claim: &str, place: &str, value: Value) -> Request {
    let resource = with(request.claimed(claim), place, value);
    request.claim(claim, resource)
}

fn of_type(scenario: &'static str, claim: &'static str) -> Case {
    let change = move |request: Request| {
        with_resource(request, claim, "/resourceType", json!("InvalidResource"))
    };
    changed(scenario, change, status(&[422]), Some("claim_resource"))
}

/// A valid token all the same.
fn taken(scenario: &'static str, change: impl Fn(Request) -> Request + 'static) -> Case {
    changed(scenario, change, ok().kind("CapabilityStatement"), None)
}

fn issued_at(request: Request, iat: i64) -> Request {
    request.claim("iat", json!(iat)).claim("exp", json!(iat + 300))
}

fn practitioner(request: Request, identifiers: &Value) -> Request {
    with_resource(request, "requesting_practitioner", "/identifier", identifiers.clone())
}

fn list() -> Vec<Case> {
    let unknown = json!([
        { "system": SDS_USER, "value": "UNK" },
        { "system": "https://fhir.nhs.uk/Id/sds-role-profile-id", "value": "UNK" },
        { "system": "https://consumer.example.nhs.uk/Id/user", "value": "invented-user" },
    ]);
    let user_alone = json!([{ "system": SDS_USER, "value": "111222333444" }]);
    let rc5 =
        json!([{ "system": "http://fhir.nhs.net/Id/ods-organization-code", "value": HUB_ODS }]);
    vec![
        changed(
            "JWT - Bearer Token - not base 64 encoded",
            Request::no_token,
            status(&[400]),
            Some("token_missing"),
        ),
        missing("JWT - Requesting System URL - missing", "iss"),
        missing("JWT - Expiry Time - missing", "exp"),
        living("JWT - Expiry Time - greater than 300 seconds", 301),
        living("JWT - Expiry Time - less than 300 seconds", 299),
        living("JWT - Expiry Time - before Creation Time", -1),
        missing("JWT - Creation Time - missing", "iat"),
        taken("JWT - Creation Time - in the future", |request| issued_at(request, now_s() + 200)),
        missing("JWT - Reason For Request - missing", "reason_for_request"),
        missing("JWT - Authorization Server Token URL - missing", "aud"),
        missing("JWT - Requesting Device - missing", "requesting_device"),
        changed(
            "JWT - Requesting Device - invalid",
            |request| with_resource(request, "requesting_device", "/invalidField", json!("x")),
            status(&[422]),
            None,
        ),
        of_type("JWT - Requesting Device - Resource Type - invalid", "requesting_device"),
        missing("JWT - Requesting Identity - missing", "requesting_practitioner"),
        taken("JWT - Requesting Identity - UNK value", move |request| {
            practitioner(request, &unknown)
        }),
        taken("JWT - Missing sdsRoleProfile and guid", move |request| {
            practitioner(request, &user_alone)
        }),
        of_type("JWT - Requesting Identity - Resource Type - invalid", "requesting_practitioner"),
        missing("JWT - Requested Scope - missing", "requested_scope"),
        changed(
            "JWT - Requested Scope - Metadata - incorrect",
            |request| request.scope("organization/*.write"),
            status(&[400]),
            Some("scope_mismatch"),
        ),
        taken("JWT - Requesting Organization - Backward Compatability for RC5", move |request| {
            with_resource(request, "requesting_organization", "/identifier", rc5.clone())
        }),
        taken("JWT - Everything normal test", |request| request),
        changed(
            "JWT - Consumer clock is slow 600s",
            |request| issued_at(request, now_s() - 600),
            status(&[400]),
            Some("token_expired"),
        ),
    ]
}
