//! Traces: the context that a consumer sends and a provider gets, and the spans that a receiver gets.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use spine_proxy::server::Prepared;
use testkit::leak_check::find_leak;
use testkit::provider::{Provider, answer};
use testkit::raw_connection::RawConnection;
use testkit::test_bed::{HUB, ODS, TO, server_tls};
use testkit::{ProviderAction, Received, TestBed, TestRequest};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A test bed with traces on, and the receiver of its spans.
struct Traced {
    bed: TestBed,
    receiver: Provider,
}

impl Traced {
    /// Starts both; every trace is sampled unless the settings say otherwise.
    async fn with(settings: &str) -> Self {
        let bed = TestBed::new().await;
        let receiver = Provider::start(server_tls(&bed.issued["server"])).await;
        let ratio = if settings.contains("ratio = ") { "" } else { "ratio = 1.0" };
        let port = receiver.address.port();
        let section = format!(
            "[traces]\nendpoint = \"https://127.0.0.1:{port}/v1/traces\"\nauthorities = [\"ca.pem\"]\n\
             delay = \"10ms\"\n{ratio}\n{settings}\n"
        );
        let config = format!("{}\n{section}", bed.text("spine-proxy.toml"));
        bed.replace("spine-proxy.toml", &config);
        receiver.set_action(taken());
        Self { bed: bed.restart().await, receiver }
    }

    /// Waits until this many spans have had this fate.
    async fn wait_for(&self, fate: &str, count: u64) {
        while self.count(fate) < count {
            tokio::task::yield_now().await;
        }
    }

    fn count(&self, fate: &str) -> u64 {
        self.bed.metric(&format!("trace_spans_total{{result=\"{fate}\"}}"))
    }

    /// Returns the spans of the receiver's requests once one of them is of the `count`th exchange.
    async fn spans_of(&self, count: usize) -> Vec<Span> {
        loop {
            let spans = spans(&self.receiver.received());
            let exchanges = spans.iter().filter(|span| span.kind() == SpanKind::Server).count();
            if exchanges >= count {
                return spans;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Returns the values of a header that the provider got last.
    fn sent(&self, name: &str) -> Vec<String> {
        sent(&self.bed, name)
    }
}

fn sent(bed: &TestBed, name: &str) -> Vec<String> {
    let received = bed.provider.received().pop().unwrap();
    let named =
        received.headers.into_iter().filter(|(header, _)| header.eq_ignore_ascii_case(name));
    named.map(|(_, value)| value).collect()
}

/// An answer that takes all spans.
fn taken() -> ProviderAction {
    ProviderAction::answer("200 OK", "Content-Type: application/x-protobuf\r\n", "")
}

fn spans(requests: &[Received]) -> Vec<Span> {
    let mut spans = Vec::new();
    for request in requests {
        assert_eq!(request.start, "POST /v1/traces HTTP/1.1");
        assert_eq!(request.header("content-type"), Some("application/x-protobuf"));
        let request = ExportTraceServiceRequest::decode(&*request.body).unwrap();
        for of in request.resource_spans {
            let resource = values(&of.resource.unwrap().attributes);
            assert_eq!(resource["service.version"], env!("CARGO_PKG_VERSION"));
            assert!(resource.contains_key("service.name"));
            spans.extend(of.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }
    spans
}

fn values(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let value = |of: &KeyValue| {
        let value = of.value.clone().unwrap().value.unwrap();
        if let Value::IntValue(number) = value {
            return number.to_string();
        }
        let Value::StringValue(text) = value else { panic!("{value:?}") };
        text
    };
    attributes.iter().map(|of| (of.key.clone(), value(of))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn of_kind(spans: &[Span], kind: SpanKind) -> &Span {
    let mut of_kind = spans.iter().filter(|span| span.kind() == kind);
    let only = of_kind.next().unwrap();
    assert!(of_kind.next().is_none(), "{spans:?}");
    only
}

fn is_error(span: &Span) -> bool {
    span.status.as_ref().unwrap().code() == StatusCode::Error
}

fn took_us(span: &Span) -> u64 {
    (span.end_time_unix_nano - span.start_time_unix_nano) / 1000
}

fn continued(call: TestRequest) -> TestRequest {
    call.with("traceparent", &format!("00-{TRACE}-{PARENT}-01"))
}

/// Asserts the attributes of a booking's own span.
fn is_described(server: &Span, id: &str) {
    let mut attributes = values(&server.attributes);
    assert!(attributes.remove("client.port").unwrap().parse::<u16>().is_ok());
    let wanted = [
        ("client.address", "127.0.0.1"),
        ("http.request.method", "POST"),
        ("http.response.status_code", "201"),
        ("network.protocol.version", "1.1"),
        ("ssp.exchange_id", id),
        ("ssp.from_asid", HUB),
        ("ssp.interaction_id", "urn:nhs:names:services:gpconnect:fhir:rest:create:appointment-1"),
        ("ssp.outcome", "answered"),
        ("ssp.to_asid", TO),
        ("ssp.to_ods", ODS),
        ("ssp.trace_id", "09a01679-2564-4fb4-9129-aecc81ea2706"),
        ("url.scheme", "https"),
    ];
    let wanted = wanted.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(attributes, BTreeMap::from(wanted));
}

/// Asserts the attributes of the span of a booking's request to the provider on this port.
fn names_the_provider(client: &Span, port: u16) {
    let wanted = [
        ("http.request.method", "POST"),
        ("http.response.status_code", "201"),
        ("network.peer.address", "127.0.0.1"),
        ("network.peer.port", &port.to_string()),
        ("network.protocol.version", "1.1"),
        ("server.address", "provider.example.nhs.uk"),
        ("server.port", "443"),
        ("url.scheme", "https"),
    ];
    let wanted = wanted.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(values(&client.attributes), BTreeMap::from(wanted));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_has_a_span_for_itself_its_provider_and_each_phase_that_takes_time() {
    let traced = Traced::with("service-name = \"ssp\"").await;
    let bed = &traced.bed;
    bed.provider.set_action(ProviderAction::answer("201 Created", "", "{}"));
    let call = continued(TestRequest::book()).with("tracestate", "a=1");
    assert_eq!(bed.send(call.with("tracestate", "b=2")).await.status, 201);
    let line = bed.wait_for_closed_line(1).await;
    let spans = traced.spans_of(1).await;
    assert!(spans.iter().all(|span| hex(&span.trace_id) == TRACE));

    let server = of_kind(&spans, SpanKind::Server);
    assert_eq!(
        (&*server.name, &*hex(&server.parent_span_id)),
        ("POST fhir:rest:create:appointment-1", PARENT)
    );
    assert_eq!(server.flags, 0x301, "sampled, with a parent in another process");
    assert_eq!(took_us(server), line["duration_us"].as_u64().unwrap());
    is_described(server, line["id"].as_str().unwrap());

    let client = of_kind(&spans, SpanKind::Client);
    assert_eq!(client.name, "POST fhir:rest:create:appointment-1");
    assert_eq!(client.parent_span_id, server.span_id);
    assert_eq!(took_us(client), line["provider_us"].as_u64().unwrap());
    names_the_provider(client, bed.provider.address.port());
    let sent = format!("00-{TRACE}-{}-01", hex(&client.span_id));
    assert_eq!(traced.sent("traceparent"), [sent]);
    assert_eq!(traced.sent("tracestate"), ["a=1", "b=2"]);

    let audit_us = line["audit_us"].as_u64().unwrap();
    let audit = spans.iter().find(|span| span.name == "audit");
    assert_eq!(audit.map(took_us), (audit_us >= 100).then_some(audit_us));
    for span in &spans {
        assert!(!is_error(span), "{span:?}");
        assert!(span.start_time_unix_nano >= server.start_time_unix_nano);
        assert!(span.end_time_unix_nano <= server.end_time_unix_nano);
        let is_child = span.kind() != SpanKind::Server;
        assert!(!is_child || (span.parent_span_id == server.span_id && span.flags == 0x101));
    }
    let mut ids: Vec<_> = spans.iter().map(|span| &span.span_id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), spans.len());
    let body = traced.receiver.received().remove(0).body;
    let request = ExportTraceServiceRequest::decode(&*body).unwrap();
    let resource = request.resource_spans[0].resource.as_ref().unwrap();
    assert_eq!(values(&resource.attributes)["service.name"], "ssp");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_usable_context_begins_a_trace_with_the_id_of_its_exchange() {
    let traced = Traced::with("").await;
    let good = format!("00-{TRACE}-{PARENT}-01");
    let malformed = [
        None,
        Some("00-0-0-01".to_owned()),
        Some(good.to_uppercase()),
        Some(format!("ff{}", &good[2..])),
        Some(good.replace(TRACE, &"0".repeat(32))),
        Some(format!("{good}-more")),
    ];
    for (count, parent) in malformed.into_iter().enumerate() {
        let mut call = TestRequest::slots().http2().with("tracestate", "a=1");
        call.headers.extend(parent.map(|parent| ("traceparent".to_owned(), parent)));
        assert_eq!(traced.bed.send(call).await.status, 200);
        let line = traced.bed.wait_for_closed_line(count + 1).await;
        let trace_id = line["id"].as_str().unwrap().replace('-', "");
        let mut spans = traced.spans_of(count + 1).await;
        spans.retain(|span| hex(&span.trace_id) == trace_id);
        let server = of_kind(&spans, SpanKind::Server);
        assert_eq!((server.parent_span_id.len(), server.flags), (0, 0x101));
        assert_eq!(values(&server.attributes)["network.protocol.version"], "2");
        let client = hex(&of_kind(&spans, SpanKind::Client).span_id);
        assert_eq!(traced.sent("traceparent"), [format!("00-{trace_id}-{client}-01")]);
        assert_eq!(traced.sent("tracestate"), [""; 0], "it belongs to the context that is gone");
    }
    // Two contexts are none; a state beyond its limits does not end the trace.
    let twice = continued(continued(TestRequest::slots()));
    assert_eq!(traced.bed.send(twice).await.status, 200);
    assert!(!traced.sent("traceparent")[0].contains(TRACE));
    let long = continued(TestRequest::slots()).with("tracestate", &"a=1,".repeat(33));
    assert_eq!(traced.bed.send(long).await.status, 200);
    assert!(traced.sent("traceparent")[0].contains(TRACE));
    assert_eq!(traced.sent("tracestate"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_traces_are_off_the_headers_pass_as_they_are() {
    let bed = TestBed::new().await;
    for parent in [&format!("00-{TRACE}-{PARENT}-01"), "malformed"] {
        let call = TestRequest::slots().with("TraceParent", parent).with("tracestate", "a");
        assert_eq!(bed.send(call).await.status, 200);
        assert_eq!(sent(&bed, "traceparent"), [parent]);
        assert_eq!(sent(&bed, "tracestate"), ["a"]);
    }
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
    assert_eq!(sent(&bed, "traceparent"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_decides_whether_its_traces_are_exported_and_the_ratio_about_others() {
    let traced = Traced::with("ratio = 0.0").await;
    let unsampled = TestRequest::slots().with("traceparent", &format!("00-{TRACE}-{PARENT}-00"));
    for (call, begins) in
        [(TestRequest::slots(), "00-"), (unsampled.clone(), &format!("00-{TRACE}-"))]
    {
        assert_eq!(traced.bed.send(call).await.status, 200);
        let sent = traced.sent("traceparent").remove(0);
        assert!(sent.starts_with(begins) && sent.ends_with("-00"), "{sent}");
        assert!(!sent.contains(PARENT), "the provider's parent is a span of the proxy");
    }
    assert_eq!(traced.bed.send(continued(TestRequest::book())).await.status, 200);
    let spans = traced.spans_of(1).await;
    assert_eq!(of_kind(&spans, SpanKind::Server).name, "POST fhir:rest:create:appointment-1");
    drop(traced);

    let traced = Traced::with("ratio = 1").await;
    assert_eq!(traced.bed.send(unsampled).await.status, 200);
    assert_eq!(traced.bed.send(TestRequest::book()).await.status, 200);
    let spans = traced.spans_of(1).await;
    assert_eq!(of_kind(&spans, SpanKind::Server).name, "POST fhir:rest:create:appointment-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_in_its_spans_by_its_token() {
    let traced = Traced::with("").await;
    let bed = &traced.bed;
    let calls = [
        (
            TestRequest::slots().token("Bearer x.y."),
            "token_malformed",
            "GET fhir:rest:search:slot-1",
        ),
        (
            TestRequest::slots().certificate("stranger"),
            "certificate_unknown",
            "GET fhir:rest:search:slot-1",
        ),
        (TestRequest::slots().set("Ssp-InteractionID", "urn:x"), "interaction_unknown", "GET"),
        (TestRequest::slots().method("BREW"), "method_unknown", "HTTP fhir:rest:search:slot-1"),
    ];
    for (count, (call, token, name)) in calls.into_iter().enumerate() {
        let before = spans(&traced.receiver.received()).len();
        let answer = bed.send(call).await;
        let token = answer.token().filter(|found| *found == token).unwrap_or_else(|| {
            panic!("{token}: {answer:?}");
        });
        let spans = traced.spans_of(count + 1).await.split_off(before);
        let server = of_kind(&spans, SpanKind::Server);
        assert!(spans.iter().all(|span| span.kind() != SpanKind::Client), "nobody was asked");
        let attributes = values(&server.attributes);
        assert_eq!((&*attributes["error.type"], &*server.name), (token, name));
        assert_eq!(attributes["http.response.status_code"], answer.status.to_string());
        assert_eq!(attributes["ssp.outcome"], "refused");
        assert_eq!(is_error(server), answer.status >= 500, "{token}");
    }
    bed.make_provider_unreachable().await;
    let answer = bed.send(continued(TestRequest::book())).await;
    assert_eq!(answer.token(), Some("provider_not_reached"));
    let mut spans = traced.spans_of(5).await;
    spans.retain(|span| hex(&span.trace_id) == TRACE);
    for kind in [SpanKind::Server, SpanKind::Client] {
        let span = of_kind(&spans, kind);
        assert!(is_error(span));
        assert_eq!(values(&span.attributes)["error.type"], "provider_not_reached");
    }
    let client = values(&of_kind(&spans, SpanKind::Client).attributes);
    assert!(!client.contains_key("http.response.status_code"), "the status is the proxy's own");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_a_provider_are_in_its_span() {
    let traced = Traced::with("").await;
    for (action, status, client, server, outcome) in [
        (answer("422 X", "", "{}"), 422, Some("422"), None, "answered"),
        (answer("500 X", "", "{}"), 500, Some("500"), Some("500"), "answered"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{".to_vec(),
            200,
            None,
            Some("aborted_by_provider"),
            "aborted",
        ),
    ] {
        let before = traced.bed.exchange_lines().await.len();
        let seen = spans(&traced.receiver.received()).len();
        traced.bed.provider.set_action(ProviderAction::WriteAndClose(action));
        assert_eq!(traced.bed.send(TestRequest::slots()).await.status, status);
        traced.bed.wait_for_closed_line(before + 1).await;
        let spans = traced.spans_of(before + 1).await.split_off(seen);
        let error = |kind| values(&of_kind(&spans, kind).attributes).remove("error.type");
        assert_eq!(error(SpanKind::Client).as_deref(), client, "{outcome}");
        assert_eq!(error(SpanKind::Server).as_deref(), server, "{outcome}");
        assert_eq!(is_error(of_kind(&spans, SpanKind::Client)), client.is_some());
        assert_eq!(is_error(of_kind(&spans, SpanKind::Server)), server.is_some());
        let attributes = values(&of_kind(&spans, SpanKind::Server).attributes);
        assert_eq!(attributes["ssp.outcome"], outcome);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_patient_is_in_a_span() {
    const MARKER: &str = "9990000018";
    let traced = Traced::with("").await;
    let patient = || {
        let call =
            TestRequest::to("read:patient-1", "GET", &format!("/Patient/{MARKER}?nhs={MARKER}"));
        call.with("X-Patient", MARKER).with("User-Agent", MARKER).with("tracestate", "a=9990000018")
    };
    let calls = [
        continued(patient()),
        patient().http2(),
        patient().set("Ssp-TraceID", MARKER),
        patient().set("Ssp-From", MARKER),
        patient().set("Ssp-InteractionID", MARKER),
        patient().method(MARKER),
        patient().claim("aud", MARKER.into()),
        patient().claim("reason_for_request", MARKER.into()),
        patient().token(MARKER),
        patient().certificate("none"),
        TestRequest::book().body(MARKER.as_bytes()),
        patient().set("Host", MARKER),
    ];
    let count = calls.len();
    for call in calls {
        traced.bed.send(call).await;
    }
    traced.spans_of(count).await;
    for request in traced.receiver.received() {
        let text = String::from_utf8_lossy(&request.body);
        assert_eq!(find_leak(&text), None);
        assert!(!text.contains(MARKER) && !text.contains("/Patient"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_fails_holds_up_neither_requests_nor_the_stop() {
    let ok = |body: &str| ProviderAction::answer("200 OK", "", body);
    for (action, fate) in [
        (ProviderAction::Silence, "failed"),
        (ProviderAction::Close, "failed"),
        (ProviderAction::answer("500 Internal Server Error", "", "no"), "failed"),
        (ProviderAction::answer("401 Unauthorized", "", "no"), "failed"),
        (ProviderAction::answer("503 Service Unavailable", "", "no"), "failed"),
        (ProviderAction::WriteAndClose(b"220 smtp.example.nhs.uk ESMTP\r\n".to_vec()), "failed"),
        (ProviderAction::WriteForever(b"HTTP/1.1 500 X\r\nA: ".to_vec()), "failed"),
        (
            ProviderAction::Pour(
                b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n".to_vec(),
                99_999_999,
            ),
            "exported",
        ),
        (ok("what is this?"), "exported"),
    ] {
        let traced = Traced::with("wait = \"100ms\"").await;
        traced.receiver.set_action(action.clone());
        for call in [TestRequest::slots(), TestRequest::book()] {
            assert_eq!(traced.bed.send(call).await.status, 200);
        }
        traced.wait_for(fate, 4).await;
        let others = ["exported", "dropped", "failed"].into_iter().filter(|other| *other != fate);
        assert_eq!(others.map(|other| traced.count(other)).sum::<u64>(), 0, "{action:?}");
        // Afterwards spans are taken again.
        if fate == "failed" {
            traced.receiver.set_action(taken());
            assert_eq!(traced.bed.send(TestRequest::slots()).await.status, 200);
            traced.wait_for("exported", 2).await;
            traced.receiver.set_action(action);
        }
        assert_eq!(traced.bed.send(TestRequest::slots()).await.status, 200);
        traced.bed.server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_an_answer_that_does_not_come() {
    let traced = Traced::with("wait = \"60s\"").await;
    traced.receiver.set_action(ProviderAction::Silence);
    assert_eq!(traced.bed.send(TestRequest::slots()).await.status, 200);
    traced.receiver.wait_for_requests(1).await;
    assert_eq!(traced.bed.send(TestRequest::book()).await.status, 200);
    traced.bed.server.stop().await;
    assert_eq!(traced.receiver.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_may_be_taken_later_is_sent_again_and_what_is_left_is_sent_at_the_stop() {
    let traced = Traced::with("").await;
    let mut answers =
        vec![ProviderAction::answer("503 Service Unavailable", "", ""), ProviderAction::Close];
    traced.receiver.set_script(move |_| answers.pop().unwrap_or_else(taken));
    assert_eq!(traced.bed.send(TestRequest::slots()).await.status, 200);
    traced.wait_for("exported", 2).await;
    let bodies: Vec<_> = traced.receiver.received().into_iter().map(|sent| sent.body).collect();
    assert!(bodies.len() == 3 && bodies.iter().all(|body| *body == bodies[0]));
    assert_eq!(traced.count("failed"), 0);

    let traced = Traced::with("").await;
    let config = traced.bed.text("spine-proxy.toml").replace("delay = \"10ms\"", "delay = \"60s\"");
    traced.bed.replace("spine-proxy.toml", &config);
    let bed = traced.bed.restart().await;
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
    bed.server.stop().await;
    let spans = spans(&traced.receiver.received());
    assert_eq!(of_kind(&spans, SpanKind::Client).parent_span_id, spans[0].span_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_that_the_receiver_rejects_are_counted_as_failed() {
    let traced = Traced::with("").await;
    let partial = ExportTracePartialSuccess { rejected_spans: 1, ..Default::default() };
    let body = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
    let body = String::from_utf8(body).unwrap();
    traced.receiver.set_action(ProviderAction::answer("200 OK", "", &body));
    assert_eq!(traced.bed.send(continued(TestRequest::slots())).await.status, 200);
    traced.wait_for("failed", 1).await;
    let all = u64::try_from(spans(&traced.receiver.received()).len()).unwrap();
    assert_eq!(traced.count("exported"), all - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_headers_for_the_receiver_are_read_before_each_export() {
    let traced = Traced::with("").await;
    let config = traced
        .bed
        .text("spine-proxy.toml")
        .replace("[traces]", "[traces]\nheaders-file = \"traces.headers\"");
    traced.bed.replace("spine-proxy.toml", &config);
    traced.bed.replace("traces.headers", "Authorization: Bearer one\n\nX-Tenant: a: b\n");
    let traced = Traced { bed: traced.bed.restart().await, receiver: traced.receiver };
    for (count, (file, token)) in
        [(None, "Bearer one"), (Some("authorization: Bearer two"), "Bearer two")]
            .into_iter()
            .enumerate()
    {
        file.into_iter().for_each(|file| traced.bed.replace("traces.headers", file));
        assert_eq!(traced.bed.send(TestRequest::slots()).await.status, 200);
        traced.spans_of(count + 1).await;
        let received = traced.receiver.received();
        assert_eq!(received[count].header("authorization"), Some(token));
        assert_eq!(received[count].header("x-tenant"), (count == 0).then_some("a: b"));
    }
    let path = traced.bed.path("spine-proxy.toml");
    for wrong in [
        "",
        "a secret without a colon",
        "Host: secret without",
        "Authorization: \u{1}secret",
        &"a: b\n".repeat(17),
    ] {
        traced.bed.replace("traces.headers", wrong);
        let refused = Prepared::load(&path, 1).unwrap_err().to_string();
        assert!(refused.contains("traces.headers"), "{refused}");
        assert!(!refused.contains("secret without") && !refused.contains("\u{1}"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_are_sent_over_plain_http_where_the_endpoint_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
    let bed = TestBed::with(|files| {
        files.add(&format!("[traces]\nendpoint = \"{endpoint}\"\nratio = 1\ndelay = \"10ms\""));
    })
    .await;
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
    let (stream, _) = listener.accept().await.unwrap();
    let mut connection = RawConnection::new(stream);
    let mut message = connection.head().await.unwrap();
    connection.body(&mut message, false).await;
    let spans = spans(&[message]);
    assert_eq!(of_kind(&spans, SpanKind::Client).parent_span_id, spans[0].span_id);
    connection.stream.write_all(&answer("200 OK", "", "")).await.unwrap();
    let count = u64::try_from(spans.len()).unwrap();
    while bed.metric("trace_spans_total{result=\"exported\"}") < count {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_by_which_no_span_could_be_exported_are_refused() {
    let bed = TestBed::new().await;
    let config = bed.text("spine-proxy.toml");
    let path = bed.path("spine-proxy.toml");
    for (settings, why) in [
        ("", "missing field `endpoint`"),
        ("endpoint = \"collector:4317\"", "must begin with https:// or http://"),
        ("endpoint = \"https://collector/v1/traces\"", "traces.authorities is empty"),
        ("endpoint = \"http://me:secret@collector/v1/traces\"", "must not hold a user or password"),
        ("endpoint = \"http://collector\"\nheaders-file = \"x\"", "must begin with https:// where"),
        ("endpoint = \"http://[::1]:1\"\nheaders-file = \"absent\"", "absent"),
        ("endpoint = \"https://collector\"\nauthorities = [\"absent.pem\"]", "absent.pem"),
        (
            "endpoint = \"http://collector\"\nratio = 1.1",
            "traces.ratio is 1.1; it must be from 0 to 1",
        ),
        ("endpoint = \"http://collector\"\nratio = nan", "it must be from 0 to 1"),
        ("endpoint = \"http://collector\"\ndelay = \"1ms\"", "traces.delay"),
        ("endpoint = \"http://collector\"\nwait = \"61s\"", "traces.wait"),
        ("endpoint = \"http://collector\"\nservice-name = \"\"", "traces.service-name is empty"),
    ] {
        bed.replace("spine-proxy.toml", &format!("{config}\n[traces]\n{settings}\n"));
        let refused = Prepared::load(&path, 1).unwrap_err().to_string();
        assert!(refused.contains(why), "{settings}: {refused}");
    }
}
