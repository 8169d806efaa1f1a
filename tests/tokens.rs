//! Compatibility settings for tokens, each for one consumer and off by default.
#![expect(clippy::print_stdout, reason = "a row that fails is named by the last line printed")]

use serde_json::{Value, json};
use spine_proxy::claims;
use spine_proxy::config::Config;

use testkit::test_bed;
use testkit::{TestBed, TestRequest};

const PROXY: &str = "https://ssp.example.nhs.uk";
const TOKEN_URL: &str = "https://authorize.fhir.nhs.net/token";
const PUBLIC_ROOT: &str = "https://ssp.example.nhs.uk/A20047/STU3/1/gpconnect";

/// Each option, and the audiences that it and no other lets pass.
fn options() -> Vec<(&'static str, Vec<Value>)> {
    let root = test_bed::ROOT;
    vec![
        ("token-url", vec![json!(TOKEN_URL), json!(format!("{TOKEN_URL}/"))]),
        ("trailing-slash", vec![json!(format!("{root}/"))]),
        ("request-url", vec![json!(format!("{root}/Slot"))]),
        ("proxy-base", vec![json!(PROXY), json!(format!("{PROXY}/"))]),
        ("proxy-and-root", vec![json!(format!("{PROXY}/{root}"))]),
        ("proxy-and-request-url", vec![json!(format!("{PROXY}/{root}/Slot"))]),
        ("one-in-array", vec![json!([root])]),
        ("https://named.example.nhs.uk/fhir", vec![json!("https://named.example.nhs.uk/fhir")]),
    ]
}

/// Claims that no compatibility setting allows.
fn strange() -> Vec<Value> {
    let root = test_bed::ROOT;
    vec![
        json!(root.to_uppercase()),
        json!(format!("{root}//")),
        json!(format!("{root}/slot")),
        json!(format!("{root}?x=y")),
        json!(format!(" {root}")),
        json!(test_bed::OTHER_ROOT),
        json!(PUBLIC_ROOT),
        json!("https://evil.example.nhs.uk"),
        json!(format!("https://evil.example.nhs.uk/{root}")),
        json!([TOKEN_URL]),
        json!("token-url"),
    ]
}

fn hub(audience: &Value) -> TestRequest {
    TestRequest::slots().claim("aud", audience.clone())
}

/// The clinic has no agreement: an audience that is accepted brings it as far as that.
fn clinic(audience: &Value) -> TestRequest {
    let organisation = test_bed::CLINIC_ODS.parse().unwrap();
    let mut call = TestRequest::slots().certificate("clinic").set("Ssp-From", test_bed::CLINIC);
    call.claims = claims::example_claims(
        test_bed::ROOT,
        &organisation,
        "organization/*.read",
        test_bed::now_s(),
    );
    call.claim("aud", audience.clone())
}

fn for_hub(lines: &str) -> String {
    format!("[compatibility.\"{}\"]\n{lines}\n", test_bed::HUB)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audience_is_the_service_root_and_nothing_else_by_default() {
    let bed = TestBed::new().await;
    for call in [hub(&json!(test_bed::ROOT)), hub(&json!(test_bed::ROOT)).http2()] {
        assert_eq!(bed.send(call).await.status, 200);
    }
    let other = options().into_iter().flat_map(|(_, audiences)| audiences);
    for audience in other.chain(strange()) {
        println!("{audience}");
        bed.expect_refusal(hub(&audience), "audience_mismatch").await;
        bed.expect_refusal(hub(&audience).http2(), "audience_mismatch").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audience_option_lets_pass_its_own_for_its_consumer_alone() {
    for (option, _) in options() {
        let lines = for_hub(&format!("audience = [\"{option}\"]"));
        let bed = TestBed::with(|files| files.add(&lines)).await;
        assert_eq!(bed.send(hub(&json!(test_bed::ROOT))).await.status, 200);
        bed.expect_refusal(clinic(&json!(test_bed::ROOT)), "no_agreement").await;
        for (other, audiences) in options() {
            for audience in audiences {
                println!("{option}: {audience}");
                if other == option {
                    assert_eq!(bed.send(hub(&audience)).await.status, 200);
                    bed.expect_refusal(clinic(&audience), "audience_mismatch").await;
                } else {
                    bed.expect_refusal(hub(&audience), "audience_mismatch").await;
                }
            }
        }
        for audience in strange() {
            println!("{option}: {audience}");
            bed.expect_refusal(hub(&audience), "audience_mismatch").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn audience_options_add_up() {
    let lines = for_hub("audience = [\"one-in-array\", \"token-url\"]");
    let bed = TestBed::with(|files| files.add(&lines)).await;
    for audience in [json!([TOKEN_URL]), json!(TOKEN_URL), json!([test_bed::ROOT])] {
        assert_eq!(bed.send(hub(&audience)).await.status, 200, "{audience}");
    }
    bed.expect_refusal(hub(&json!([PROXY])), "audience_mismatch").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_practice_the_proxys_own_root_is_an_audience_too() {
    let bed = TestBed::new().await;
    let ask = |target: &str, audience: &str| {
        TestRequest::slots().target(&format!("{target}/Slot")).claim("aud", json!(audience))
    };
    let practice = "/A20047/STU3/1/gpconnect";
    for target in [practice, "/a20047/STU3/1/gpconnect"] {
        for audience in [PUBLIC_ROOT, test_bed::ROOT] {
            for call in [ask(target, audience), ask(target, audience).http2()] {
                assert_eq!(bed.send(call).await.status, 200, "{target} {audience}");
            }
        }
    }
    for audience in [
        "https://ssp.example.nhs.uk/A20047/STU3/1/gpconnect/",
        "https://ssp.example.nhs.uk/A20047/STU3/1/gpconnect/structured",
        "https://ssp.example.nhs.uk/A20047/STU3/1",
        "https://ssp.example.nhs.uk/B82617/STU3/1/gpconnect",
        "https://ssp.example.nhs.uk:443/A20047/STU3/1/gpconnect",
        "https://evil.example.nhs.uk/A20047/STU3/1/gpconnect",
        "http://ssp.example.nhs.uk/A20047/STU3/1/gpconnect",
        test_bed::OTHER_ROOT,
        PROXY,
        TOKEN_URL,
    ] {
        println!("{audience}");
        bed.expect_refusal(ask(practice, audience), "audience_mismatch").await;
    }
    let embedded = format!("/{}", test_bed::ROOT);
    bed.expect_refusal(ask(&embedded, PUBLIC_ROOT), "audience_mismatch").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumers_clock_may_be_further_ahead_where_this_is_allowed_and_no_more() {
    let root = json!(test_bed::ROOT);
    let ahead = |call: TestRequest, seconds: i64| {
        let issued_s = test_bed::now_s() + seconds;
        call.claim("iat", json!(issued_s)).claim("exp", json!(issued_s + 300))
    };
    let lines = for_hub("clock-ahead-max = \"30m\"");
    let bed = TestBed::with(|files| files.add(&lines)).await;
    assert_eq!(bed.send(ahead(hub(&root), 1_700)).await.status, 200);
    bed.expect_refusal(ahead(hub(&root), 1_900), "token_from_future").await;
    bed.expect_refusal(ahead(clinic(&root), 400), "token_from_future").await;

    let text = format!("{}\n{}", test_bed::CONFIG, for_hub("clock-ahead-max = \"61m\""));
    let refused = Config::parse(&text, "spine-proxy.toml".as_ref()).unwrap_err().to_string();
    assert!(refused.contains("clock-ahead-max must be at most 1h"), "{refused}");
}

#[test]
fn a_lab_switch_needs_the_lab() {
    for (key, line) in [
        ("signature", "signature = \"ignored\""),
        ("trace-id", "trace-id = \"any\""),
        ("errors", "errors = \"gpconnect\""),
    ] {
        let text = format!("{}\n{}", test_bed::CONFIG, for_hub(line));
        let refused = Config::parse(&text, "spine-proxy.toml".as_ref()).unwrap_err().to_string();
        let named = format!("compatibility.{}.{key} needs lab = true", test_bed::HUB);
        assert!(refused.contains(&named), "{refused}");
        let lab = format!("lab = true\n{text}");
        assert!(Config::parse(&lab, "spine-proxy.toml".as_ref()).is_ok(), "{key}");
    }
    let audience = format!("{}\n{}", test_bed::CONFIG, for_hub("audience = [\"token-url\"]"));
    assert!(Config::parse(&audience, "spine-proxy.toml".as_ref()).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_lab_one_consumers_signatures_and_trace_ids_are_not_looked_at() {
    let root = json!(test_bed::ROOT);
    let signed = |call: TestRequest| {
        let token = format!("Bearer {}c2ln", claims::mint(&call.claims));
        call.token(&token)
    };
    let named = |call: TestRequest| call.set("Ssp-TraceID", "not-a-uuid");
    let lab = |lines: &str| {
        let lines = for_hub(lines);
        TestBed::with(move |files| {
            files.prepend("lab = true");
            files.add(&lines);
        })
    };

    let bed = lab("signature = \"ignored\"").await;
    assert_eq!(bed.send(signed(hub(&root))).await.status, 200);
    assert_eq!(bed.send(hub(&root)).await.status, 200);
    bed.expect_refusal(signed(clinic(&root)), "token_signed").await;
    bed.expect_refusal(named(hub(&root)), "trace_id_invalid").await;
    bed.expect_refusal(signed(hub(&json!("x"))), "audience_mismatch").await;
    let future = signed(hub(&root).claim("exp", json!(test_bed::now_s() + 999)));
    bed.expect_refusal(future, "token_lifetime").await;

    let bed = lab("trace-id = \"any\"").await;
    assert_eq!(bed.send(named(hub(&root))).await.status, 200);
    bed.expect_refusal(named(clinic(&root)), "trace_id_invalid").await;
    bed.expect_refusal(signed(hub(&root)), "token_signed").await;
    bed.expect_refusal(hub(&root).set("Ssp-TraceID", "a b"), "trace_id_invalid").await;
}
