//! NHS numbers, tokens, queries and bodies appear in no refusal, log line, record or metric, even at log
//! level trace.

use serde_json::json;

use testkit::process::serve;
use testkit::{ProviderAction, Received, TestBed, TestRequest};

/// Invented, with valid check digits; each is planted in one place.
const QUERY: &str = "9990000018";
const PATH: &str = "9990000026";
const HEADER: &str = "9990000034";
const CLAIM: &str = "9990000042";
const BODY: &str = "9990000050";
const SPACED: &str = "999 000 0069";
const TARGET: &str = "9990000077";
const MARKERS: [&str; 7] = [QUERY, PATH, HEADER, CLAIM, BODY, SPACED, TARGET];

fn planted(call: TestRequest) -> TestRequest {
    let target = format!("{}{}identifier={QUERY}", call.target, joint(&call.target));
    let target = target.replace("/Patient/1", &format!("/Patient/{PATH}"));
    call.target(&target)
        .with("X-Patient", HEADER)
        .with("User-Agent", &format!("consumer {HEADER}"))
        .claim("iss", json!(format!("https://consumer.example.nhs.uk/{CLAIM}")))
        .claim("patient", json!(CLAIM))
        .claim("requested_record", json!({"identifier": [{"value": SPACED}]}))
}

fn joint(target: &str) -> char {
    if target.contains('?') { '&' } else { '?' }
}

/// One call for every place a marker could leak from: passed on, refused at each step, failed.
fn calls() -> Vec<TestRequest> {
    let patient = || TestRequest::to("read:patient-1", "GET", "/Patient/1");
    let book = || TestRequest::book().body(format!("{{\"nhs\":\"{BODY}\"}}").as_bytes());
    let mut calls = vec![
        patient(),
        book(),
        patient().http2(),
        patient().certificate("none"),
        patient().certificate("stranger"),
        patient().set("Ssp-From", "200000009999"),
        patient().set("Ssp-From", HEADER),
        patient().set("Ssp-TraceID", HEADER),
        patient().set("Ssp-InteractionID", &format!("urn:{HEADER}")),
        patient().method("DELETE"),
        patient().method(QUERY),
        patient().set("Host", &format!("{HEADER}.example.nhs.uk")),
        patient().target(&format!("/https://provider.example.nhs.uk/{TARGET}/Patient/1")),
        patient().target(&format!("/{TARGET}/STU3/1/gpconnect/Patient/1")),
        patient().target(&format!("/https://{TARGET}.example.nhs.uk/Patient/1")),
        patient().target(&format!("/{TARGET}")),
        patient().claim("sub", json!(CLAIM)),
        patient().claim("aud", json!(CLAIM)),
        patient().claim("requested_scope", json!(CLAIM)),
        patient().claim("reason_for_request", json!(CLAIM)),
        patient().token(&format!("Bearer {CLAIM}.{CLAIM}.")),
        patient().set("Ssp-To", "918999198995"),
    ];
    calls = calls.into_iter().map(planted).collect();
    let practitioner = json!({"resourceType": "Practitioner", "id": CLAIM, "identifier": [
        {"system": "https://fhir.nhs.uk/Id/sds-user-id", "value": CLAIM},
        {"system": "https://fhir.nhs.uk/Id/sds-role-profile-id", "value": SPACED}]});
    let subject = planted(patient()).claim("sub", json!(CLAIM));
    calls.push(subject.claim("requesting_practitioner", practitioner));
    calls
}

#[tokio::test(flavor = "multi_thread")]
async fn personal_data_in_a_request_appears_in_no_output() {
    let bed = TestBed::new().await;
    let script = |received: &Received| match received.start.starts_with("POST") {
        true => ProviderAction::CloseAfterHead,
        false => ProviderAction::ok(),
    };
    let served = serve(&bed);
    let at = served.address;
    let mut heard = String::new();
    for (round, calls) in [calls(), calls()].into_iter().enumerate() {
        if round == 1 {
            bed.provider.set_script(script);
        }
        for call in calls {
            let answer = call.send_to(&bed, at).await;
            if answer.token().is_some() {
                heard.push_str(&format!("{:?}{}", answer.headers, answer.text()));
            }
        }
    }
    assert!(
        heard.contains("outcome") || heard.contains("not sent"),
        "a failed write is among them"
    );
    let metrics = served.metrics().await;
    assert!(metrics.contains("spine_proxy_refusals_total"));
    served.signal("TERM");
    let mut served = served;
    assert!(served.child.wait().unwrap().success());
    let log = loop {
        if let Ok(log) = std::fs::read_to_string(bed.path("own.log")) {
            break log;
        }
        tokio::task::yield_now().await;
    };
    assert!(log.contains("\"trace_id\""), "the log has spans");
    let records = bed.journal("own");
    assert!(records.lines().count() > 40);
    for (place, text) in
        [("answers", heard), ("metrics", metrics), ("log", log), ("records", records)]
    {
        for marker in MARKERS {
            assert!(!text.contains(marker), "{marker} is in the {place}");
        }
        assert!(!text.contains("eyJ"), "a token is in the {place}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_nhs_number_in_any_notation_is_masked_in_the_journal() {
    let bed = TestBed::new().await;
    let forms = [
        "9990000069",
        "999 000 0069",
        "999/000/0069",
        "999 0000069",
        "999%20000%200069",
        "999  000  0069",
        "999, 000, 0069",
        "999\u{a0}000\u{a0}0069",
        "９９９ ０００ ００６９",
        "0999 000 0069",
    ];
    for (number, form) in forms.into_iter().enumerate() {
        let practitioner =
            json!({"resourceType": "Practitioner", "id": form, "name": [{"family": form}]});
        let call = TestRequest::slots()
            .claim("iss", json!(format!("https://consumer.example.nhs.uk/{form}/x")))
            .claim("sub", json!(form))
            .claim("requesting_practitioner", practitioner);
        assert_eq!(bed.send(call).await.status, 200, "{form}");
        let claims = bed.wait_for_closed_line(number + 1).await["claims"].clone();
        assert_eq!(claims["issuer"], "https://consumer.example.nhs.uk/[masked]/x", "{form}");
        for claim in ["subject", "user_name"] {
            assert_eq!(claims[claim], "[masked]", "{claim} {form}");
        }
    }
    let user = "98ed4f78-814d-4266-8d5b-cd9434765919";
    let device = json!({"resourceType": "Device", "version": "2026-11-28T01:12:36"});
    let practitioner = json!({"resourceType": "Practitioner", "id": user});
    let call = TestRequest::slots().claim("sub", json!(user)).claim("requesting_device", device);
    bed.send(call.claim("requesting_practitioner", practitioner)).await;
    let claims = bed.wait_for_closed_line(forms.len() + 1).await["claims"].clone();
    assert_eq!(
        (&claims["subject"], &claims["device_version"]),
        (&json!(user), &json!("2026-11-28T01:12:36"))
    );
}
