//! Byte transparency: queries, header values and bodies arrive as they were sent, either way, and
//! the only headers added or taken away are the published ones.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use testkit::provider::answer;
use testkit::{Answer, ProviderAction, Received, TestBed, TestRequest};

/// Every byte a query may hold: visible ASCII but `"`, `#`, `<`, `>` and the backslash.
fn query() -> impl Strategy<Value = String> {
    let legal = "[!$%&'()*+,./0-9:;=?@A-Z\\[\\]^_`a-z{|}~-]";
    proptest::string::string_regex(&format!("{legal}{{0,200}}")).unwrap()
}

/// A header value as field content: visible bytes, and those above them.
fn value() -> impl Strategy<Value = String> {
    let visible = prop_oneof![0x21_u8..=0x7e, 0x80_u8..=0xff];
    prop::collection::vec(visible, 1..60)
        .prop_map(|bytes| bytes.into_iter().map(char::from).collect())
}

#[derive(Debug, Clone)]
struct Exchange {
    query: String,
    sent: String,
    returned: String,
    body: Vec<u8>,
    chunked: bool,
    http2: bool,
}

fn exchange() -> impl Strategy<Value = Exchange> {
    let body = prop::collection::vec(any::<u8>(), 0..20_000);
    (query(), value(), value(), body, any::<bool>(), any::<bool>()).prop_map(
        |(query, sent, returned, body, chunked, http2)| Exchange {
            query,
            sent,
            returned,
            body,
            chunked,
            http2,
        },
    )
}

impl Exchange {
    fn call(&self) -> TestRequest {
        let mut call = TestRequest::book();
        call.target = format!("{}?{}", call.target, self.query);
        let call = call.with("X-Sent", &self.sent).with("If-Match", "W/\"1\"");
        if !self.chunked || self.http2 {
            let call = call.body(&self.body);
            return if self.http2 { call.http2() } else { call };
        }
        let mut body = Vec::new();
        for piece in self.body.chunks(700) {
            body.extend(format!("{:x}\r\n", piece.len()).into_bytes());
            body.extend(piece);
            body.extend(b"\r\n");
        }
        body.extend(b"0\r\n\r\n");
        call.with("Transfer-Encoding", "chunked").body(&body).without_content_length()
    }

    /// The provider's answer: the same body back, sized or chunked, with a header of its own.
    fn script(&self) -> ProviderAction {
        let mut bytes = b"HTTP/1.1 201 Created\r\nETag: W/\"2\"\r\nX-Returned: ".to_vec();
        bytes.extend(self.returned.chars().map(|c| u8::try_from(u32::from(c)).unwrap()));
        if self.chunked {
            bytes.extend(b"\r\nTransfer-Encoding: chunked\r\n\r\n");
            for piece in self.body.chunks(900) {
                bytes.extend(format!("{:x}\r\n", piece.len()).into_bytes());
                bytes.extend(piece);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n\r\n");
        } else {
            bytes.extend(format!("\r\nContent-Length: {}\r\n\r\n", self.body.len()).into_bytes());
            bytes.extend(&self.body);
        }
        ProviderAction::Write(bytes)
    }

    fn check(&self, received: &Received, heard: &Answer) {
        let target = format!("/A20047/STU3/1/gpconnect/Appointment?{}", self.query);
        assert_eq!(received.start, format!("POST {target} HTTP/1.1"));
        assert_eq!(received.header("x-sent"), Some(&*self.sent));
        assert_eq!(received.header("if-match"), Some("W/\"1\""));
        assert_eq!(received.header("host"), Some("provider.example.nhs.uk"));
        assert!(received.complete && received.body == self.body, "the provider's body");
        assert_eq!(heard.status, 201);
        assert_eq!(heard.header("x-returned"), Some(&*self.returned));
        assert_eq!(heard.header("etag"), Some("W/\"2\""));
        assert!(heard.complete && heard.body == self.body, "the consumer's body");
    }
}

#[test]
fn any_request_and_any_answer_are_forwarded_unchanged() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let bed = runtime.block_on(TestBed::new());
    let mut runner =
        TestRunner::new(Config { cases: 48, failure_persistence: None, ..Config::default() });
    let ran = runner.run(&exchange(), |exchange| {
        let before = bed.provider.received().len();
        bed.provider.set_action(exchange.script());
        let heard = runtime.block_on(bed.send(exchange.call()));
        prop_assert_eq!(heard.status, 201, "{:?}", heard);
        exchange.check(&bed.provider.received()[before], &heard);
        Ok(())
    });
    ran.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn header_names_keep_their_spelling_and_only_the_published_ones_are_added() {
    let bed = TestBed::new().await;
    let call = TestRequest::book()
        .with("X-ODD-Spelling", "1")
        .with("Connection", "keep-alive, X-Hop")
        .with("X-Hop", "2")
        .with("Keep-Alive", "timeout=5")
        .with("TE", "trailers")
        .with("Upgrade", "h2c")
        .with("Forwarded", "for=192.0.2.1")
        .with("X-Forwarded-For", "192.0.2.1")
        .with("X-Forwarded-Prefix", "/other")
        .with("X-Original-URL", "/other")
        .with("X-HTTP-Method-Override", "DELETE")
        .with("Via", "1.1 before");
    assert_eq!(bed.send(call).await.status, 200);
    let received = bed.provider.received().remove(0);
    let mut names: Vec<_> = received.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_by_key(|name| name.to_ascii_lowercase());
    let expected = [
        "Accept",
        "Authorization",
        "Content-Length",
        "Content-Type",
        "Forwarded",
        "Host",
        "Ssp-From",
        "Ssp-InteractionID",
        "Ssp-To",
        "Ssp-TraceID",
        "Via",
        "X-ODD-Spelling",
    ];
    assert_eq!(names, expected);
    assert_eq!(received.header("via"), Some("1.1 before, 1.1 spine-proxy"));
    let forwarded = received.header("forwarded").unwrap();
    assert!(forwarded.starts_with("for=\"127.0.0.1:"), "{forwarded}");
    assert!(!forwarded.contains("192.0.2.1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_gets_host_first_and_exactly_one_via() {
    let bed = TestBed::new().await;
    let via =
        |call: TestRequest| call.with("Via", "1.0 first").with("Via", "1.1 second, 2.0 third");
    for (call, version) in [(TestRequest::slots(), "1.1"), (TestRequest::book().http2(), "2.0")] {
        assert_eq!(bed.send(via(call)).await.status, 200);
        let received = bed.provider.received().pop().unwrap();
        let (first, host) = &received.headers[0];
        assert!(first.eq_ignore_ascii_case("host"), "{:?}", received.headers);
        assert_eq!(host, "provider.example.nhs.uk");
        let lines = received.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("via"));
        let lines: Vec<_> = lines.map(|(_, value)| value.clone()).collect();
        let all = format!("1.0 first, 1.1 second, 2.0 third, {version} spine-proxy");
        assert_eq!(lines, [all]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_providers_refusals_pass_through_untouched() {
    let bed = TestBed::new().await;
    for status in ["304 Not Modified", "400 Bad", "403 No", "404 None", "409 Conflict", "500 Oh"] {
        let body = if status.starts_with("304") { "" } else { r#"{"issue":["provider's own"]}"# };
        bed.provider.set_action(ProviderAction::Write(answer(status, "Retry-After: 7\r\n", body)));
        let heard = bed.send(TestRequest::slots()).await;
        assert_eq!(heard.status.to_string(), status[..3]);
        assert_eq!(heard.text(), body);
        assert_eq!(heard.header("retry-after"), Some("7"));
        assert_eq!(heard.token(), None);
    }
}
