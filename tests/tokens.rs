//! Compatibility settings for tokens: each by name, for one consumer, off by default.
#![expect(clippy::print_stdout, reason = "a row that fails is named by the last line printed")]

use serde_json::{Value, json};
use spine_proxy::claims;
use spine_proxy::config::Config;

use testkit::stage;
use testkit::{Call, Stage};

const PROXY: &str = "https://ssp.example.nhs.uk";
const TOKEN_URL: &str = "https://authorize.fhir.nhs.net/token";
const PUBLIC_ROOT: &str = "https://ssp.example.nhs.uk/A20047/STU3/1/gpconnect";

/// Each option, and the audiences that it and no other lets pass.
fn options() -> Vec<(&'static str, Vec<Value>)> {
    let root = stage::ROOT;
    vec![
        ("token-url", vec![json!(TOKEN_URL), json!(format!("{TOKEN_URL}/"))]),
        ("trailing-slash", vec![json!(format!("{root}/"))]),
        ("request-url", vec![json!(format!("{root}/Slot"))]),
        ("proxy-base", vec![json!(PROXY), json!(format!("{PROXY}/"))]),
        ("proxy-and-root", vec![json!(format!("{PROXY}/{root}"))]),
        ("one-in-array", vec![json!([root])]),
        ("https://named.example.nhs.uk/fhir", vec![json!("https://named.example.nhs.uk/fhir")]),
    ]
}

/// What no option lets pass.
fn strange() -> Vec<Value> {
    let root = stage::ROOT;
    vec![
        json!(root.to_uppercase()),
        json!(format!("{root}//")),
        json!(format!("{root}/slot")),
        json!(format!("{root}?x=y")),
        json!(format!(" {root}")),
        json!(stage::OTHER_ROOT),
        json!(PUBLIC_ROOT),
        json!("https://evil.example.nhs.uk"),
        json!(format!("https://evil.example.nhs.uk/{root}")),
        json!([TOKEN_URL]),
        json!("token-url"),
    ]
}

fn hub(audience: &Value) -> Call {
    Call::slots().claim("aud", audience.clone())
}

/// The clinic has no agreement: an audience that is accepted brings it as far as that.
fn clinic(audience: &Value) -> Call {
    let organisation = stage::CLINIC_ODS.parse().unwrap();
    let mut call = Call::slots().certificate("clinic").set("Ssp-From", stage::CLINIC);
    call.claims =
        claims::example_claims(stage::ROOT, &organisation, "organization/*.read", stage::now_s());
    call.claim("aud", audience.clone())
}

fn for_hub(lines: &str) -> String {
    format!("[compatibility.\"{}\"]\n{lines}\n", stage::HUB)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audience_is_the_service_root_and_nothing_else_by_default() {
    let stage = Stage::new().await;
    for call in [hub(&json!(stage::ROOT)), hub(&json!(stage::ROOT)).http2()] {
        assert_eq!(stage.hears(call).await.status, 200);
    }
    let other = options().into_iter().flat_map(|(_, audiences)| audiences);
    for audience in other.chain(strange()) {
        println!("{audience}");
        stage.refuses(hub(&audience), "audience_mismatch").await;
        stage.refuses(hub(&audience).http2(), "audience_mismatch").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audience_option_lets_pass_its_own_for_its_consumer_alone() {
    for (option, _) in options() {
        let lines = for_hub(&format!("audience = [\"{option}\"]"));
        let stage = Stage::with(|files| files.add(&lines)).await;
        assert_eq!(stage.hears(hub(&json!(stage::ROOT))).await.status, 200);
        stage.refuses(clinic(&json!(stage::ROOT)), "no_agreement").await;
        for (other, audiences) in options() {
            for audience in audiences {
                println!("{option}: {audience}");
                if other == option {
                    assert_eq!(stage.hears(hub(&audience)).await.status, 200);
                    stage.refuses(clinic(&audience), "audience_mismatch").await;
                } else {
                    stage.refuses(hub(&audience), "audience_mismatch").await;
                }
            }
        }
        for audience in strange() {
            println!("{option}: {audience}");
            stage.refuses(hub(&audience), "audience_mismatch").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn audience_options_add_up() {
    let lines = for_hub("audience = [\"one-in-array\", \"token-url\"]");
    let stage = Stage::with(|files| files.add(&lines)).await;
    for audience in [json!([TOKEN_URL]), json!(TOKEN_URL), json!([stage::ROOT])] {
        assert_eq!(stage.hears(hub(&audience)).await.status, 200, "{audience}");
    }
    stage.refuses(hub(&json!([PROXY])), "audience_mismatch").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_practice_the_proxys_own_root_is_an_audience_too() {
    let stage = Stage::new().await;
    let ask = |target: &str, audience: &str| {
        Call::slots().target(&format!("{target}/Slot")).claim("aud", json!(audience))
    };
    let practice = "/A20047/STU3/1/gpconnect";
    for target in [practice, "/a20047/STU3/1/gpconnect"] {
        for audience in [PUBLIC_ROOT, stage::ROOT] {
            for call in [ask(target, audience), ask(target, audience).http2()] {
                assert_eq!(stage.hears(call).await.status, 200, "{target} {audience}");
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
        stage::OTHER_ROOT,
        PROXY,
        TOKEN_URL,
    ] {
        println!("{audience}");
        stage.refuses(ask(practice, audience), "audience_mismatch").await;
    }
    let embedded = format!("/{}", stage::ROOT);
    stage.refuses(ask(&embedded, PUBLIC_ROOT), "audience_mismatch").await;
}

#[test]
fn a_lab_switch_needs_the_lab() {
    for (key, line) in [
        ("signature", "signature = \"ignored\""),
        ("trace-id", "trace-id = \"any\""),
        ("errors", "errors = \"gpconnect\""),
    ] {
        let text = format!("{}\n{}", stage::CONFIG, for_hub(line));
        let refused = Config::parse(&text, "spine-proxy.toml".as_ref()).unwrap_err().to_string();
        let named = format!("compatibility.{}.{key} needs lab = true", stage::HUB);
        assert!(refused.contains(&named), "{refused}");
        let lab = format!("lab = true\n{text}");
        assert!(Config::parse(&lab, "spine-proxy.toml".as_ref()).is_ok(), "{key}");
    }
    let audience = format!("{}\n{}", stage::CONFIG, for_hub("audience = [\"token-url\"]"));
    assert!(Config::parse(&audience, "spine-proxy.toml".as_ref()).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_lab_one_consumers_signatures_and_trace_ids_are_not_looked_at() {
    let root = json!(stage::ROOT);
    let signed = |call: Call| {
        let token = format!("Bearer {}c2ln", claims::mint(&call.claims));
        call.token(&token)
    };
    let named = |call: Call| call.set("Ssp-TraceID", "not-a-uuid");
    let lab = |lines: &str| {
        let lines = for_hub(lines);
        Stage::with(move |files| {
            files.head("lab = true");
            files.add(&lines);
        })
    };

    let stage = lab("signature = \"ignored\"").await;
    assert_eq!(stage.hears(signed(hub(&root))).await.status, 200);
    assert_eq!(stage.hears(hub(&root)).await.status, 200);
    stage.refuses(signed(clinic(&root)), "token_signed").await;
    stage.refuses(named(hub(&root)), "trace_id_invalid").await;
    stage.refuses(signed(hub(&json!("x"))), "audience_mismatch").await;
    let future = signed(hub(&root).claim("exp", json!(stage::now_s() + 999)));
    stage.refuses(future, "token_lifetime").await;

    let stage = lab("trace-id = \"any\"").await;
    assert_eq!(stage.hears(named(hub(&root))).await.status, 200);
    stage.refuses(named(clinic(&root)), "trace_id_invalid").await;
    stage.refuses(signed(hub(&root)), "token_signed").await;
    stage.refuses(hub(&root).set("Ssp-TraceID", "a b"), "trace_id_invalid").await;
}
