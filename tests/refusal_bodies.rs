//! Format of refusals, and whether their connection is kept.

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use testkit::raw_connection::RawConnection;
use testkit::request::read_answer;
use testkit::test_bed;
use testkit::{Answer, ProviderAction, TestBed, TestRequest};

const PROFILE: &str = "https://fhir.nhs.uk/STU3/StructureDefinition/GPConnect-OperationOutcome-1";
const SPINE_CODES: &str = "https://fhir.nhs.uk/STU3/CodeSystem/Spine-ErrorOrWarningCode-1";

fn slots() -> TestRequest {
    TestRequest::slots()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_json_or_xml_by_parameter_then_accept_then_content_type() {
    let bed = TestBed::new().await;
    let (json, xml) = (Some("application/fhir+json"), Some("application/fhir+xml"));
    for (parameter, accept, content, is_xml) in [
        (None, None, None, false),
        (None, None, xml, true),
        (None, xml, None, true),
        (None, json, xml, false),
        (None, xml, json, true),
        (None, Some("*/*"), xml, true),
        (None, Some("application/fhir+xml;q=0.1, application/fhir+json;q=0.9"), None, false),
        (None, Some("application/fhir+xml;q=0, */*"), xml, false),
        (Some("_format=application/fhir%2Bxml"), json, json, true),
        (Some("_format=xml"), json, json, true),
        (Some("_format=application/fhir+json"), xml, xml, false),
        (Some("_format=json"), xml, None, false),
        (Some("not_format=xml"), None, None, false),
    ] {
        let mut call =
            TestRequest::book().without("Ssp-From").without("Accept").without("Content-Type");
        if let Some(parameter) = parameter {
            call.target = format!("{}?{parameter}", call.target);
        }
        for (name, value) in [("Accept", accept), ("Content-Type", content)] {
            if let Some(value) = value {
                call = call.with(name, value);
            }
        }
        let kind = if is_xml { "application/fhir+xml" } else { "application/fhir+json" };
        for call in [call.clone(), call.http2()] {
            let answer = bed.expect_refusal(call, "from_missing").await;
            let expected = format!("{kind};charset=utf-8");
            assert_eq!(answer.header("content-type"), Some(&*expected), "{parameter:?} {accept:?}");
        }
    }
}

fn id_of(answer: &Answer) -> String {
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    assert!(uuid::Uuid::parse_str(&id).is_ok());
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_documented_refusal_is_the_live_proxys_body_with_plain_words() {
    let bed = TestBed::new().await;
    let other = format!("/{}/Slot?patient=9434765919", test_bed::OTHER_ROOT);
    for (call, token, status, issue, text, plain) in [
        (
            slots().set("Ssp-From", "200000000999"),
            "sender_unknown",
            403,
            "forbidden",
            "ASID_CHECK_FAILED_MESSAGESENDER_200000000999".to_owned(),
            "Ssp-From is not the ASID of a known consumer. Correct Ssp-From, or have it added to the directory.",
        ),
        (
            slots().target(&other),
            "target_not_receivers",
            400,
            "invalid",
            format!(
                "ENDPOINT_{}_CPAID_S000000000001_VARIES_FROM_TARGETURL_{}",
                test_bed::ROOT,
                test_bed::OTHER_ROOT
            ),
            "the target is not the service root of the system in Ssp-To. Begin the target with the service \
             root that the directory has for Ssp-To, and see docs/integrate/refusals.md#targets.",
        ),
    ] {
        let answer = bed.expect_refusal(call, token).await;
        let id = id_of(&answer);
        let expected = format!(
            r#"{{"resourceType":"OperationOutcome","id":"{id}","issue":[{{"code":"{issue}","severity":"error","details":{{"coding":[{{"code":"{status}","display":"{text}","system":"http://fhir.nhs.net/ValueSet/gpconnect-schedule-response-code-1-0"}}],"text":"{plain}"}},"diagnostics":"{text}"}}]}}"#
        );
        assert_eq!(answer.text(), expected);
        assert_eq!(
            bed.exchange_lines().await.last().unwrap()["id"],
            id,
            "the record has the same id"
        );
    }
    let answer = bed.expect_refusal(slots().method("DELETE"), "method_not_allowed").await;
    let id = id_of(&answer);
    let expected = format!(
        r#"{{"resourceType":"OperationOutcome","id":"{id}","issue":[{{"code":"forbidden","severity":"fatal","details":{{"coding":[{{"code":"405","display":"405: Method Not Allowed","system":"https://fhir.nhs.uk/StructureDefinition/spine-operationoutcome-1"}}],"text":"the method is not allowed. Use GET, POST or PUT."}}}}]}}"#
    );
    assert_eq!(answer.text(), expected);
    assert_eq!(bed.exchange_lines().await.last().unwrap()["id"], id, "the record has the same id");
}

fn is_gp_connect(answer: &Answer, code: &str) {
    id_of(answer);
    let body = answer.json();
    assert_eq!(body["meta"], json!({"profile": [PROFILE]}));
    let issue = &body["issue"][0];
    assert_eq!(issue["severity"], "error");
    assert_eq!(issue["details"]["coding"][0]["system"], SPINE_CODES);
    assert_eq!(issue["details"]["coding"][0]["code"], code);
    assert!(issue["diagnostics"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn other_refusals_are_gp_connect_bodies_and_in_the_lab_all_can_be() {
    let bed = TestBed::new().await;
    let unresourceful = slots().claim("requesting_device", json!({"resourceType": "Patient"}));
    is_gp_connect(&bed.expect_refusal(unresourceful, "claim_resource").await, "INVALID_RESOURCE");
    let bed = TestBed::with(|files| {
        files.prepend("lab = true");
        files.add("[compatibility.\"200000000359\"]\nerrors = \"gpconnect\"");
    });
    let bed = bed.await;
    let other = format!("/{}/Slot", test_bed::OTHER_ROOT);
    for (call, token, code) in [
        (slots().target(&other), "target_not_receivers", "BAD_REQUEST"),
        (slots().method("DELETE"), "method_not_allowed", "BAD_REQUEST"),
        (slots().without("Authorization"), "token_missing", "BAD_REQUEST"),
        (slots().certificate("clinic"), "certificate_not_senders", "ACCESS_DENIED"),
    ] {
        is_gp_connect(&bed.expect_refusal(call, token).await, code);
    }
    let clinic = slots().set("Ssp-From", test_bed::CLINIC);
    let answer = bed.expect_refusal(clinic, "sender_not_certificates").await;
    assert_eq!(answer.json().get("meta"), None, "the clinic has no such leniency");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_keeps_the_connection() {
    let bed = TestBed::new().await;
    for (refused, status) in [
        (slots().without("Ssp-From"), 400),
        (TestRequest::book().without("Ssp-From"), 400),
        (TestRequest::book().method("DELETE"), 405),
        (slots().body(b"x"), 400),
    ] {
        let mut wire = RawConnection::new(refused.connect(&bed).await.unwrap());
        wire.stream.write_all(&refused.bytes()).await.unwrap();
        let answer = read_answer(&mut wire).await.unwrap();
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("connection"), None);
        wire.stream.write_all(&TestRequest::book().bytes()).await.unwrap();
        assert_eq!(read_answer(&mut wire).await.unwrap().status, 200);
    }
    let head = slots().method("HEAD");
    let mut wire = RawConnection::new(head.connect(&bed).await.unwrap());
    wire.stream.write_all(&head.bytes()).await.unwrap();
    assert!(wire.head().await.unwrap().start.starts_with("HTTP/1.1 405 "));
    wire.stream.write_all(&slots().bytes()).await.unwrap();
    assert_eq!(read_answer(&mut wire).await.unwrap().status, 200, "no body after HEAD");
    let nobody = slots().certificate("none");
    let mut wire = RawConnection::new(nobody.connect(&bed).await.unwrap());
    wire.stream.write_all(&nobody.bytes()).await.unwrap();
    assert_eq!(read_answer(&mut wire).await.unwrap().status, 496);
    assert!(read_answer(&mut wire).await.is_none(), "without a certificate the connection ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_100_continue_is_sent_only_for_an_accepted_request() {
    let bed = TestBed::new().await;
    let call = TestRequest::book().with("Expect", "100-continue");
    let length = call.body.len();
    let head_of = |call: &TestRequest| call.bytes()[..call.bytes().len() - length].to_vec();

    let refused = call.clone().without("Authorization");
    let mut wire = RawConnection::new(refused.connect(&bed).await.unwrap());
    wire.stream.write_all(&head_of(&refused)).await.unwrap();
    let answer = read_answer(&mut wire).await.unwrap();
    assert_eq!((answer.status, answer.token()), (400, Some("token_missing")));
    assert!(
        read_answer(&mut wire).await.is_none(),
        "the connection is closed, as a body may or may not follow"
    );
    assert_eq!(bed.provider.received().len(), 0);

    let mut wire = RawConnection::new(call.connect(&bed).await.unwrap());
    wire.stream.write_all(&head_of(&call)).await.unwrap();
    assert_eq!(wire.head().await.unwrap().start, "HTTP/1.1 100 Continue");
    wire.stream.write_all(&call.body).await.unwrap();
    assert_eq!(read_answer(&mut wire).await.unwrap().status, 200);
    let received = bed.provider.received().pop().unwrap();
    assert_eq!(received.body, call.body);
    assert_eq!(received.header("expect"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_100_continue_is_not_sent_before_the_provider_is_ready() {
    let bed = TestBed::new().await;
    bed.make_provider_unreachable().await;
    let busy = TestBed::with(|files| {
        files.add("[throttle]\npractice-exchanges-max = 1\nwait = \"10ms\"");
    })
    .await;
    busy.provider.set_action(ProviderAction::Silence);
    let mut first = TestRequest::slots().connect(&busy).await.unwrap();
    first.write_all(&TestRequest::slots().bytes()).await.unwrap();
    busy.provider.wait_for_requests(1).await;
    for (bed, token) in [(&bed, "provider_not_reached"), (&busy, "provider_busy")] {
        let call = TestRequest::book().with("Expect", "100-continue").with("Content-Length", "2");
        let mut wire = RawConnection::new(call.connect(bed).await.unwrap());
        wire.stream.write_all(&call.body(b"").bytes()).await.unwrap();
        assert_eq!(read_answer(&mut wire).await.expect("an answer").token(), Some(token));
    }
    drop(first);
}

/// A booking whose head two parsers could read in two ways.
fn framed_twice() -> TestRequest {
    TestRequest::book().with("Content-Length", "3").with("Transfer-Encoding", "chunked")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_refused_on_its_bytes_is_answered_as_it_asks_and_recorded_with_its_trace_id() {
    let bed = TestBed::new().await;
    let call = framed_twice().set("Accept", "application/fhir+xml");
    let answer = bed.send(call.clone()).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.header("content-type"), Some("application/fhir+xml;charset=utf-8"));
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(answer.header("date").is_some() && answer.text().contains("<OperationOutcome"));
    let record = bed.wait_for_closed_line(1).await;
    let [trace_id, from] = ["Ssp-TraceID", "Ssp-From"].map(|name| {
        let (_, value) = call.headers.iter().find(|(header, _)| header == name).unwrap();
        json!(value)
    });
    assert_eq!(record["trace_id"], trace_id);
    assert_eq!(record["from"], from);
    assert_eq!((&record["outcome"], &record["method"]), (&json!("refused"), &json!("POST")));
    assert!(bed.provider.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_request_refused_on_its_bytes_is_answered_without_a_body() {
    let bed = TestBed::new().await;
    let call = framed_twice().method("HEAD");
    let mut stream = call.connect(&bed).await.unwrap();
    stream.write_all(&call.bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 400 Bad Request\r\n") && text.ends_with("\r\n\r\n"));
    assert_eq!(text.matches("\r\n\r\n").count(), 1, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_head_is_answered_after_earlier_answers_unless_one_closes_the_connection() {
    for (limits, first, refused) in [
        ("", TestRequest::slots(), true),
        ("", TestRequest::slots().with("Connection", "close"), false),
        ("requests-max = 1", TestRequest::slots(), false),
    ] {
        let bed = TestBed::with(|files| files.add(&format!("[listener.limits]\n{limits}"))).await;
        let mut wire = RawConnection::new(first.connect(&bed).await.unwrap());
        let both = [first.bytes(), framed_twice().bytes()].concat();
        wire.stream.write_all(&both).await.unwrap();
        assert_eq!(read_answer(&mut wire).await.unwrap().status, 200);
        let second = read_answer(&mut wire).await;
        assert_eq!(
            second.is_some_and(|answer| answer.status == 400),
            refused,
            "{limits} {first:?}"
        );
        assert!(!wire.read_more().await);
    }
}
