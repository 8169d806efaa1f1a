//! Header fields that are removed or rewritten, in requests and in answers.

use tokio::io::AsyncWriteExt as _;

use testkit::provider::{Provider, answer};
use testkit::raw_connection::RawConnection;
use testkit::test_bed::provider_tls;
use testkit::{ProviderAction, TestBed, TestRequest};

/// The values of every line of one header field.
fn lines<'a>(headers: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    let named = headers.iter().filter(|(header, _)| header.eq_ignore_ascii_case(name));
    named.map(|(_, value)| value.as_str()).collect()
}

async fn answers(headers: &str) -> TestBed {
    let bed = TestBed::new().await;
    bed.provider.set_action(ProviderAction::Write(answer("502 Bad Gateway", headers, "{}")));
    bed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_cannot_speak_in_the_proxys_name() {
    let ours = r#"spine-proxy; error=destination_unavailable; details="provider_not_reached""#;
    let theirs = r#"balancer;error=connection_refused;details="no, spine-proxy; error=x""#;
    for (sent, passed) in [
        (format!("Proxy-Status: {ours}\r\n"), None),
        (format!("Proxy-Status: Spine-Proxy;{ours}\r\n").replace(";spine-proxy;", ";"), None),
        (format!("Proxy-Status: \"spine-proxy\"; details=x, {ours}\r\n"), None),
        (format!("Proxy-Status: {theirs}\r\n"), Some(theirs)),
        (format!("Proxy-Status: {theirs}, {ours}\r\n"), Some(theirs)),
        (format!("Proxy-Status: {ours}\r\nproxy-status: {theirs}\r\n"), Some(theirs)),
        (format!("Proxy-Status: (a {ours})\r\n"), None),
        // A list that cannot be parsed is ignored as a whole (RFC 9651, section 4.2).
        (format!("Proxy-Status: balancer; details=\"{ours}\r\n"), None),
        (format!("Proxy-Status: {theirs}\r\nProxy-Status: ;;; {ours}\r\n"), None),
        ("Proxy-Status: balancer; details=\"caf\u{e9}\"\r\n".to_owned(), None),
        ("Proxy-Status:\r\n".to_owned(), None),
    ] {
        let bed = answers(&sent).await;
        for call in [TestRequest::slots(), TestRequest::book().http2()] {
            let answer = bed.send(call).await;
            assert_eq!(answer.status, 502, "the provider's own: {answer:?}");
            assert_eq!(lines(&answer.headers, "proxy-status"), Vec::from_iter(passed), "{sent}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_cannot_set_headers_that_apply_to_the_whole_origin() {
    let all = "Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nSet-Cookie2: c=3\r\n\
        Strict-Transport-Security: max-age=1\r\nAlt-Svc: h3=\":443\"\r\nRefresh: 0; url=/\r\n\
        Clear-Site-Data: \"*\"\r\nNEL: {}\r\nReport-To: {}\r\nReporting-Endpoints: a=\"/\"\r\n\
        Public-Key-Pins: x\r\nExpect-CT: max-age=1\r\nAccept-CH: DPR\r\nX-Own: 1\r\n";
    let bed = answers(all).await;
    for call in [TestRequest::slots(), TestRequest::slots().http2()] {
        let answer = bed.send(call).await;
        assert_eq!(answer.header_names(), ["content-length", "date", "x-own"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_cross_the_proxy_only_where_that_is_configured() {
    for (line, passes) in
        [("", false), ("pass-cookies = false", false), ("pass-cookies = true", true)]
    {
        let bed = TestBed::with(|files| files.set("provider", line)).await;
        let set = "Set-Cookie: a=1\r\nSet-Cookie: b=2, c\r\n";
        bed.provider.set_action(ProviderAction::Write(answer("200 OK", set, "{}")));
        for call in [TestRequest::slots(), TestRequest::slots().http2()] {
            let call = call.with("Cookie", "a=1").with("X-Own", "1").with("Cookie", "b=\"2\"");
            let answer = bed.send(call.clone()).await;
            let set: &[&str] = if passes { &["a=1", "b=2, c"] } else { &[] };
            assert_eq!(lines(&answer.headers, "set-cookie"), set);
            let received = bed.provider.received().pop().unwrap();
            let sent: &[&str] = match (passes, call.version) {
                (false, _) => &[],
                (true, testkit::request::Version::Http1) => &["a=1", "b=\"2\""],
                // Spec: RFC 9113, section 8.2.3.
                (true, testkit::request::Version::Http2) => &["a=1; b=\"2\""],
            };
            assert_eq!(lines(&received.headers, "cookie"), sent);
            assert_eq!(received.header("x-own"), Some("1"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn white_space_before_a_colon_of_an_answer_is_removed() {
    let bed = TestBed::new().await;
    let odd =
        b"HTTP/1.1 201 Created\r\nETag : W/\"1\"\r\nX-Odd \t: 1\r\nContent-Length : 2\r\n\r\n{}";
    bed.provider.set_action(ProviderAction::Write(odd.to_vec()));
    for call in [TestRequest::book(), TestRequest::slots(), TestRequest::book().http2()] {
        let answer = bed.send(call).await;
        assert_eq!((answer.status, answer.text().as_str()), (201, "{}"), "{answer:?}");
        assert_eq!(answer.header_names(), ["content-length", "date", "etag", "x-odd"]);
    }
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    bed.provider.set_action(ProviderAction::Write(chunked.into()));
    assert_eq!(bed.send(TestRequest::slots()).await.text(), "{}");
    assert_eq!(bed.provider.connections(), 1, "framing was understood");
}

/// E4.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_cannot_speak_for_a_proxy_in_front_of_a_provider() {
    let names = [
        "CF-Connecting-IP",
        "Client-Cert",
        "Client-Cert-Chain",
        "Fastly-Client-IP",
        "Forwarded",
        "NHSD-Client-Id",
        "NHSD-Session-URID",
        "SSL-Client-Cert",
        "SSL-Client-Verify",
        "True-Client-IP",
        "X-ARR-ClientCert",
        "X-ARR-SSL",
        "X-Amzn-Mtls-Clientcert",
        "X-Client-Cert",
        "X-Client-Cert-DN",
        "X-Client-IP",
        "X-Cluster-Client-IP",
        "X-Forwarded",
        "X-Forwarded-Client-Cert",
        "X-Forwarded-For",
        "X-Original-For",
        "X-Original-Host",
        "X-Original-URL",
        "X-Real-IP",
        "X-SSL-Cert",
        "X-SSL-Client-Cert",
        "X-SSL-Client-Verify",
    ];
    let bed = TestBed::new().await;
    for call in [TestRequest::slots(), TestRequest::book().http2()] {
        let call = names.iter().fold(call, |call, name| call.with(name, "forged"));
        let call = call.with("X-Own", "1").with("X-Client", "2").with("X-Originals", "3");
        assert_eq!(bed.send(call).await.status, 200);
        let received = bed.provider.received().pop().unwrap();
        let forged = received.headers.iter().filter(|(_, value)| value == "forged");
        assert_eq!(forged.count(), 0, "{:?}", received.headers);
        for (name, value) in [("x-own", "1"), ("x-client", "2"), ("x-originals", "3")] {
            assert_eq!(received.header(name), Some(value));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_status_line_has_a_reason_phrase_of_its_own_or_none() {
    let bed = TestBed::new().await;
    let first_line = async |call: TestRequest| {
        let mut wire = RawConnection::new(call.connect(&bed).await.unwrap());
        wire.stream.write_all(&call.bytes()).await.unwrap();
        wire.head().await.unwrap().start
    };
    let missing = first_line(TestRequest::slots().certificate("none")).await;
    assert_eq!(missing, "HTTP/1.1 496 SSL Certificate Required");
    let expired = first_line(TestRequest::slots().certificate("expired")).await;
    assert_eq!(expired, "HTTP/1.1 495 SSL Certificate Error");
    for (theirs, passed) in
        [("599 Theirs", "599 Theirs"), ("599 ", "599 "), ("200 Fine", "200 Fine"), ("404 ", "404 ")]
    {
        bed.provider.set_action(ProviderAction::Write(answer(theirs, "", "{}")));
        assert_eq!(first_line(TestRequest::slots()).await, format!("HTTP/1.1 {passed}"));
    }
}

/// A gateway whose provider is another gateway: each practice's root there is a target by ODS code.
async fn two_in_a_row(first: &str, second: &str) -> (TestBed, TestBed) {
    let named = |name: &str| format!("proxy-name = \"{name}\"");
    let behind = TestBed::with(|files| {
        files.edit("spine-proxy.toml", |text| text.replace(&named("spine-proxy"), &named(second)));
        files.edit("directory.toml", |text| text.replace("[\"hub.", "[\"gateway.ssp."));
    })
    .await;
    let front = TestBed::with(|files| {
        for name in ["ca.pem", "crl.pem", "gateway.pem", "gateway.key"] {
            files.put(&format!("second-{name}"), &behind.text(name));
        }
        files.edit("spine-proxy.toml", |text| {
            let (front, provider) = text.split_once("[provider-tls]").unwrap();
            let provider =
                provider.replace("\"ca.", "\"second-ca.").replace("\"crl.", "\"second-crl.");
            let provider = provider.replace("\"gateway.", "\"second-gateway.");
            let text = format!("{front}[provider-tls]{provider}");
            text.replace(&named("spine-proxy"), &named(first))
        });
        let dial = format!("dial = \"{}\"", behind.address());
        files.edit("directory.toml", |text| {
            let lines = text.lines().map(|line| match line.starts_with("dial") {
                true => dial.clone(),
                false => line.replace("https://provider.", "https://ssp."),
            });
            lines.collect::<Vec<_>>().join("\n")
        });
    })
    .await;
    (front, behind)
}

fn to_the_second(call: TestRequest) -> TestRequest {
    let root = testkit::test_bed::ROOT.replace("provider.", "ssp.");
    let target = call.target.replace(testkit::test_bed::ROOT, &root);
    call.target(&target).claim("aud", root.into())
}

/// C21.
#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_in_a_row_pass_requests_and_can_be_told_apart() {
    let (front, behind) = two_in_a_row("ssp-1", "ssp-2").await;
    for call in [TestRequest::slots(), TestRequest::book().http2()] {
        let version = if call.body.is_empty() { "1.1" } else { "2.0" };
        let answer = front.send(to_the_second(call)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let received = behind.provider.received().pop().unwrap();
        let via = format!("{version} ssp-1, 1.1 ssp-2");
        assert_eq!(received.header("via"), Some(&*via));
        assert!(received.header("forwarded").unwrap().contains(";by=_ssp-2;"));
    }
    let name = |answer: &testkit::Answer| {
        let status = answer.header("proxy-status").unwrap();
        status.split(';').next().unwrap().to_owned()
    };
    behind.provider.set_action(ProviderAction::Close);
    let answer = front.send(to_the_second(TestRequest::slots())).await;
    assert_eq!((answer.token(), &*name(&answer)), (Some("provider_failed"), "ssp-2"));
    behind.server.stop().await;
    let answer = front.send(to_the_second(TestRequest::slots())).await;
    assert_eq!((answer.token(), &*name(&answer)), (Some("provider_not_reached"), "ssp-1"));
    let (front, behind) = two_in_a_row("ssp-1", "SSP-1").await;
    let answer = front.send(to_the_second(TestRequest::slots())).await;
    assert_eq!(answer.status, 508, "{answer:?}");
    assert!(behind.provider.received().is_empty());
}

/// E8: what a reader could take for two fields does not come out of one.
#[tokio::test(flavor = "multi_thread")]
async fn no_header_of_a_provider_is_two() {
    for value in ["a\rset-cookie: b", "a\0b", "a\r\n set-cookie: b"] {
        let bed = TestBed::new().await;
        let odd = format!("X-Odd: {value}\r\n");
        bed.provider.set_action(ProviderAction::WriteAndClose(answer("200 OK", &odd, "{}")));
        for call in [TestRequest::slots(), TestRequest::slots().http2()] {
            let answer = bed.send(call).await;
            assert_eq!(answer.token(), Some("provider_failed"), "{value:?} {answer:?}");
        }
    }
}

/// B16: it is offered HTTP/1.1 alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_offers_http2_is_spoken_to_over_http1() {
    let bed = TestBed::new().await;
    let mut tls = (*provider_tls(&bed.pki, &bed.issued["provider"])).clone();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let provider = Provider::start(std::sync::Arc::new(tls)).await;
    bed.set_provider_address(provider.address).await;
    for call in [TestRequest::slots(), TestRequest::book().http2()] {
        assert_eq!(bed.send(call).await.status, 200);
    }
    assert!(provider.received().iter().all(|request| request.start.ends_with(" HTTP/1.1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_answer_has_the_id_of_its_record_whatever_the_provider_and_the_consumer_send() {
    let forged = "00000000-0000-4000-8000-000000000000";
    let bed =
        answers(&format!("Spine-Proxy-Exchange: {forged}\r\nSpine-Proxy-Exchange: x\r\n")).await;
    let calls = [TestRequest::slots(), TestRequest::slots().http2(), TestRequest::book()];
    for (number, call) in calls.into_iter().enumerate() {
        let answer = bed.send(call.with("Spine-Proxy-Exchange", forged)).await;
        let record = bed.wait_for_closed_line(number + 1).await;
        let id = record["id"].as_str().unwrap();
        assert_eq!(lines(&answer.headers, "spine-proxy-exchange"), [id]);
        assert_ne!(id, forged);
        let received = bed.provider.received().pop().unwrap();
        assert_eq!(received.header("spine-proxy-exchange"), None);
    }
}
