//! Every refusal from outside: the answer, the record, and no request at the provider.
#![expect(clippy::print_stdout, reason = "a row that fails is named by the last line printed")]

use base64_simd::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use spine_proxy::{claims, refusal};

use testkit::files::Files;
use testkit::request::Version;
use testkit::test_bed::{
    APART_ROOT, APART_TO, CLINIC, CLINIC_ODS, OTHER_ROOT, OTHER_TO, ROOT, TO, now_s,
};
use testkit::{TestBed, TestRequest};

const URN: &str = "urn:nhs:names:services:gpconnect:";

/// Refusals whose cause lies with the provider, the journal, a certificate or a consumer that goes
/// away: told elsewhere.
const ELSEWHERE: [&str; 24] = [
    "gateway_full",
    "plain_http",
    "provider_circuit_open",
    "audit_unavailable",
    "directory_unavailable",
    "lookups_exceeded",
    "receiver_not_found",
    "provider_busy",
    "provider_not_reached",
    "outcome_unknown",
    "provider_failed",
    "provider_not_reached_in_time",
    "outcome_unknown_in_time",
    "provider_timed_out",
    "body_timed_out",
    "body_cut",
    "consumer_gone",
    "consumer_busy",
    "overloaded",
    "internal",
    "certificate_expired",
    "certificate_revoked",
    "certificate_status_unknown",
    "certificate_invalid",
];

/// A limit of one request a second, and the refusal of the second request.
const THROTTLED: [(&str, &str); 2] = [
    ("certificate-per-second = 1", "certificate_rate_limited"),
    ("consumer-per-second = 1", "quota_exceeded"),
];

struct Row {
    what: &'static str,
    call: TestRequest,
    token: &'static str,
    versions: &'static [Version],
}

fn both(what: &'static str, token: &'static str, call: TestRequest) -> Row {
    Row { what, call, token, versions: &[Version::Http1, Version::Http2] }
}

/// A row that HTTP/2 cannot express, or that an HTTP/2 library does not send.
fn http1(what: &'static str, token: &'static str, call: TestRequest) -> Row {
    Row { what, call, token, versions: &[Version::Http1] }
}

fn slots() -> TestRequest {
    TestRequest::slots()
}

fn rows() -> Vec<Row> {
    let mut rows = http_rows();
    rows.extend(header_rows());
    rows.extend(token_rows());
    rows.extend(policy_rows());
    rows
}

fn http_rows() -> Vec<Row> {
    let chunked = |coding: &str, body: &[u8]| {
        TestRequest::book().without_content_length().with("Transfer-Encoding", coding).body(body)
    };
    let chunked_get = slots().without_content_length().with("Transfer-Encoding", "chunked");
    let crowd = (0..101).fold(slots(), |call, _| call.with("X-Many", "1"));
    let long = format!("/{}/Slot?a={}", ROOT, "a".repeat(33 * 1024));
    vec![
        both("no certificate", "certificate_missing", slots().certificate("none")),
        both("a stranger's certificate", "certificate_unknown", slots().certificate("stranger")),
        both("DELETE", "method_not_allowed", slots().method("DELETE")),
        both("PATCH with a body", "method_not_allowed", TestRequest::book().method("PATCH")),
        both("OPTIONS", "method_not_allowed", slots().method("OPTIONS")),
        both("TRACE", "method_not_allowed", slots().method("TRACE")),
        both("a method in lower case", "method_unknown", slots().method("get")),
        both("TRACK", "method_unknown", slots().method("TRACK")),
        both("a second Host", "host_invalid", slots().with("host", "hub.example.nhs.uk")),
        http1("no Host", "host_invalid", slots().without("Host")),
        both("another's Host", "host_not_ours", slots().set("Host", "evil.example.nhs.uk")),
        both("33 KiB of target", "target_too_long", slots().target(&long)),
        both("no target", "target_malformed", slots().target("/")),
        both("66 KiB of header", "head_too_large", slots().with("X-Big", &"a".repeat(66 * 1024))),
        both("over a hundred headers", "head_too_large", crowd),
        both("an underscore", "header_underscore", slots().with("Ssp_To", TO)),
        both("our own Via", "loop_detected", slots().with("Via", "1.0 a, 2.0 spine-proxy")),
        http1(
            "Connection names Ssp-From",
            "connection_names_header",
            slots().with("Connection", "close, ssp-from"),
        ),
        http1("a name without a value", "head_malformed", slots().with("X Odd", "1")),
        http1("another version", "version_unknown", slots().target("/ HTTP/2.0\r\nX-Rest: x")),
        http1("chunked twice", "framing_ambiguous", chunked("chunked, chunked", b"0\r\n\r\n")),
        http1("gzip", "transfer_coding_unknown", chunked("gzip, chunked", b"0\r\n\r\n")),
        both("Expect: junk", "expectation_unknown", slots().with("Expect", "junk")),
        both("GET with a body", "body_on_get", slots().body(b"x")),
        http1("GET with a chunk", "body_on_get", chunked_get.body(b"1\r\nx\r\n0\r\n\r\n")),
    ]
}

fn header_rows() -> Vec<Row> {
    let more = |name: &str| {
        let value = slots().headers.into_iter().find(|(n, _)| n == name).unwrap().1;
        slots().with(name, &value)
    };
    let missing = |name: &str| slots().without(name);
    vec![
        both("no trace id", "trace_id_missing", missing("Ssp-TraceID")),
        both("no sender", "from_missing", missing("Ssp-From")),
        both("no receiver", "to_missing", missing("Ssp-To")),
        both("no interaction", "interaction_id_missing", missing("Ssp-InteractionID")),
        both("an empty sender", "from_missing", slots().set("Ssp-From", "")),
        both("two trace ids", "trace_id_repeated", more("Ssp-TraceID")),
        both("two senders", "from_repeated", more("Ssp-From")),
        both("two receivers", "to_repeated", more("Ssp-To")),
        both("two interactions", "interaction_id_repeated", more("Ssp-InteractionID")),
        both("a trace id of words", "trace_id_invalid", slots().set("Ssp-TraceID", "not-a-uuid")),
        both("a long trace id", "trace_id_invalid", slots().set("Ssp-TraceID", &"a".repeat(10240))),
        both("a sender of 11 digits", "from_invalid", slots().set("Ssp-From", "20000000035")),
        both("a receiver with a letter", "to_invalid", slots().set("Ssp-To", "91899919899x")),
        both("no ASCII", "interaction_id_invalid", slots().set("Ssp-InteractionID", "urn:é")),
    ]
}

fn token_rows() -> Vec<Row> {
    let now_s = now_s();
    let minted = claims::mint(&slots().claims);
    let (head, rest) = minted.split_once('.').unwrap();
    let encode = |text: &str| URL_SAFE_NO_PAD.encode_to_string(text);
    let hs256 = encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let twice = slots().claims.to_string().replacen('{', r#"{"s\u0075b":"1","#, 1);
    let bearer = |token: &str| slots().token(&format!("Bearer {token}"));
    let claim = |name: &str, value: Value| slots().claim(name, value);
    let times = |iat_s: i64, exp_s: i64| claim("iat", json!(iat_s)).claim("exp", json!(exp_s));
    let patient = json!({"resourceType": "Patient"});
    vec![
        both("no token", "token_missing", slots().without("Authorization")),
        both("two tokens", "token_repeated", slots().with("Authorization", "Bearer x")),
        both("Basic", "authorization_malformed", slots().token("Basic abc")),
        both("9 KiB of token", "token_too_long", bearer(&"a".repeat(9 * 1024))),
        both("two parts", "token_malformed", bearer(minted.trim_end_matches('.'))),
        both("a padded part", "token_malformed", bearer(&format!("{head}=.{rest}"))),
        both("a signature", "token_signed", bearer(&format!("{minted}c2ln"))),
        both("another algorithm", "token_algorithm", bearer(&format!("{hs256}.{rest}"))),
        both("no JSON", "token_claims", bearer(&format!("{head}.{}.", encode("nonsense")))),
        both("a claim twice", "token_claims", bearer(&format!("{head}.{}.", encode(&twice)))),
        both("no issuer", "claim_missing", claim("iss", Value::Null)),
        both("no audience", "claim_missing", claim("aud", Value::Null)),
        both("another reason", "claim_invalid", claim("reason_for_request", json!("curiosity"))),
        both("another subject", "claim_invalid", claim("sub", json!("2"))),
        both("two audiences", "claim_invalid", claim("aud", json!([ROOT, "x"]))),
        both("a patient for a device", "claim_resource", claim("requesting_device", patient)),
        both("a long life", "token_lifetime", times(now_s, now_s + 301)),
        both("an old token", "token_expired", times(now_s - 400, now_s - 100)),
        both("a token from tomorrow", "token_from_future", times(now_s + 86400, now_s + 86700)),
        both(
            "a scope to write",
            "scope_mismatch",
            claim("requested_scope", json!("patient/*.write")),
        ),
    ]
}

fn policy_rows() -> Vec<Row> {
    let id = |short: &str| format!("{URN}{short}");
    let named = |short: &str| slots().set("Ssp-InteractionID", &id(short));
    let posted = TestRequest::book().set("Ssp-InteractionID", &id("fhir:rest:search:slot-1"));
    let binary = TestRequest::to(&id("documents:fhir:rest:read:binary-1"), "GET", "/Binary/1");
    let clinic = |call: TestRequest| call.certificate("clinic").set("Ssp-From", CLINIC);
    let read = TestRequest::to("read:appointment-1", "GET", "/Appointment/1");
    let practitioner = TestRequest::to("read:practitioner-1", "GET", "/Practitioner/1");
    let by_practice =
        |ods: &str, rest: &str| slots().target(&format!("/{ods}/STU3/1/gpconnect{rest}"));
    let of = |ods: &str| {
        let system = "https://fhir.nhs.uk/Id/ods-organization-code";
        let identifier = json!([{"system": system, "value": ods}]);
        let organisation = json!({"resourceType": "Organization", "identifier": identifier});
        slots().claim("requesting_organization", organisation)
    };
    let apart = slots()
        .target(&format!("/{APART_ROOT}/Slot"))
        .set("Ssp-To", APART_TO)
        .claim("aud", json!(APART_ROOT));
    let unregistered = "/A20047/STU3/1/gpconnect/Practitioner/1";
    let other = format!("/{OTHER_ROOT}/Slot");
    let stray = "/https://stray.example.nhs.uk/A20047/STU3/1/gpconnect/Slot";
    vec![
        both("an unknown sender", "sender_unknown", slots().set("Ssp-From", "200000000999")),
        both("another's ASID", "sender_not_certificates", slots().set("Ssp-From", CLINIC)),
        both("another's certificate", "certificate_not_senders", slots().certificate("clinic")),
        both("an unknown interaction", "interaction_unknown", named("fhir:rest:search:slot-2")),
        both("an interaction not forwarded", "interaction_not_allowed", binary),
        both("a search by POST", "interaction_method", posted),
        both("another's path", "interaction_path", named("fhir:rest:search:patient-1")),
        both("a sender of slots reads", "sender_not_registered", clinic(read)),
        both("another's organisation", "organisation_mismatch", of(CLINIC_ODS)),
        both("nobody's organisation", "organisation_unknown", of("Z99999")),
        both("an unknown receiver", "receiver_unknown", slots().set("Ssp-To", "918999198000")),
        both("an unknown practice", "practice_unknown", by_practice("Z99999", "/Slot")),
        both("not the receiver's interaction", "receiver_not_registered", practitioner.clone()),
        both(
            "not the practice's interaction",
            "practice_not_registered",
            practitioner.target(unregistered).without("Ssp-To"),
        ),
        both(
            "two providers for one practice",
            "receiver_ambiguous",
            by_practice("B82617", "/Slot").without("Ssp-To"),
        ),
        both(
            "another practice's receiver",
            "receiver_not_practices",
            by_practice("A20047", "/Slot").set("Ssp-To", OTHER_TO),
        ),
        both("another's endpoint", "target_not_receivers", slots().target(&other)),
        both("another's receiver", "receiver_not_targets", slots().set("Ssp-To", OTHER_TO)),
        both("nobody's endpoint", "target_unregistered", slots().target(stray)),
        both("another's audience", "audience_mismatch", slots().claim("aud", json!("x"))),
        both("no agreement", "no_agreement", apart),
    ]
}

/// A second system at the second practice, for the same interactions.
fn ambiguous(files: &mut Files) {
    let second = format!(
        r#"
[[provider]]
ods = "B82617"
asid = "918999198996"
party-key = "B82617-1000002"
cpa-id = "S000000000006"
root = "{OTHER_ROOT}"
interactions = ["appointments"]
"#
    );
    files.edit("directory.toml", |text| text + &second);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_request_is_refused_with_its_own_token() {
    let bed = TestBed::with(ambiguous).await;
    for Row { what, call, token, versions } in rows() {
        for version in versions {
            println!("{what} ({version:?}): {token}");
            let call = match version {
                Version::Http1 => call.clone(),
                Version::Http2 => call.clone().http2(),
            };
            let answer = bed.expect_refusal(call, token).await;
            assert_eq!(answer.header("retry-after"), None, "{what}: it would fail again");
        }
        assert!(bed.agreement.count(token) >= versions.len(), "{what}: not compared with explain");
    }
    assert_eq!(bed.provider.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_beyond_a_rate_is_refused_and_may_come_again() {
    for (limit, token) in THROTTLED {
        let bed = TestBed::with(|files| files.add(&format!("[throttle]\n{limit}"))).await;
        assert_eq!(bed.send(slots()).await.status, 200);
        for call in [slots(), slots().http2()] {
            let answer = bed.expect_refusal(call, token).await;
            assert_eq!(answer.header("retry-after"), Some("1"));
        }
    }
}

#[test]
fn every_token_is_provoked_somewhere() {
    let mut provoked: Vec<_> = rows().iter().map(|row| row.token).collect();
    provoked.extend(THROTTLED.map(|(_, token)| token));
    provoked.sort_unstable();
    provoked.dedup();
    assert!(ELSEWHERE.iter().all(|token| !provoked.contains(token)));
    provoked.extend(ELSEWHERE);
    provoked.sort_unstable();
    let mut every: Vec<_> = refusal::every().iter().map(|refusal| refusal.row().token).collect();
    every.sort_unstable();
    assert_eq!(provoked, every);
}

/// Lab: `X-Spine-Proxy-Refuse` forces every refusal, and passes by a proxy without `lab = true`.
#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_can_be_forced_in_a_lab_and_nowhere_else() {
    let forced = |token: &str| slots().with("X-Spine-Proxy-Refuse", token);
    let bed = TestBed::with(|files| files.prepend("lab = true")).await;
    for refusal in refusal::every() {
        let row = refusal.row();
        let answer = bed.send(forced(row.token)).await;
        assert_eq!((answer.status, answer.token()), (row.status, Some(row.token)));
        answer.assert_refusal_form();
    }
    assert!(bed.provider.received().is_empty());
    assert_eq!(bed.send(forced("no_refusal")).await.status, 200);
    let bed = TestBed::new().await;
    assert_eq!(bed.send(forced("overloaded")).await.status, 200);
}

/// The switch is one module, which only a build with the feature `lab` has.
#[test]
fn refusals_cannot_be_forced_in_a_production_build() {
    let text = std::fs::read_to_string(testkit::repository::root().join("src/gateway.rs")).unwrap();
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with("//"));
    let lines: Vec<_> = lines.collect();
    let uses: Vec<_> = lines.windows(2).filter(|two| two[1].contains("forced")).collect();
    assert_eq!(uses.len(), 2, "{uses:?}");
    assert!(uses.iter().all(|two| two[0] == "#[cfg(feature = \"lab\")]"), "{uses:?}");
}
