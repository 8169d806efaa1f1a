//! Faults of a provider in its answers to reads, and answers that are forwarded unchanged.

use gpconnect_simulator::pki::Leaf;
use serde_json::json;
use testkit::link::{FaultyLink, LinkFault};
use testkit::provider::answer;
use testkit::request::is_gateways_header;
use testkit::test_bed::{ROOT, row};
use testkit::{ProviderAction, TestBed, TestRequest};

const NAME: &str = "provider.example.nhs.uk";

/// A read that must fail like this.
async fn fails(bed: &TestBed, token: &str) {
    for call in [TestRequest::slots(), TestRequest::slots().http2()] {
        let closed =
            bed.exchange_lines().await.iter().filter(|line| line["event"] == "closed").count();
        let answer = bed.send(call).await;
        assert_eq!(answer.token(), Some(token), "{answer:?}");
        assert_eq!(answer.status, row(token).status);
        answer.assert_refusal_form();
        let record = bed.wait_for_closed_line(closed + 1).await;
        assert_eq!(record["refusal"], token);
        assert_eq!(record["status"], row(token).status);
        assert_eq!(record["ods"], "A20047");
    }
}

/// An answer that is cut must be seen to be cut, in both versions of HTTP.
async fn is_seen_to_be_cut(bed: &TestBed) {
    for (before, call) in
        [TestRequest::slots(), TestRequest::slots().http2()].into_iter().enumerate()
    {
        let answer = bed.send(call).await;
        assert_eq!((answer.status, answer.complete), (200, false), "{answer:?}");
        let record = bed.wait_for_closed_line(before + 1).await;
        assert_eq!(record["status"], 200);
        assert_eq!(record["outcome"], "aborted");
        assert_eq!(record["ended_by"], "provider");
    }
    bed.wait_until_idle().await;
}

fn patience(line: &'static str) -> impl FnOnce(&mut testkit::files::Files) {
    move |files| files.add(&format!("[provider.deadlines]\n{line}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_does_not_listen_is_not_reached() {
    let bed = TestBed::new().await;
    bed.make_provider_unreachable().await;
    fails(&bed, "provider_not_reached").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_outside_the_networks_is_never_dialled() {
    let bed = TestBed::with(|files| {
        files.edit("spine-proxy.toml", |text| text.replace("127.0.0.0/8", "10.0.0.0/8"));
    })
    .await;
    fails(&bed, "provider_not_reached").await;
    assert_eq!(bed.provider.accepted_connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_outside_the_networks_is_never_dialled() {
    for (networks, reached) in [("127.0.0.0/8\", \"::1/128", true), ("10.0.0.0/8", false)] {
        let bed = TestBed::with(|files| {
            files.edit("spine-proxy.toml", |text| text.replace("127.0.0.0/8", networks));
        })
        .await;
        let issued = bed.pki.issue(&Leaf::named("localhost")).unwrap();
        let tls = testkit::test_bed::provider_tls(&bed.pki, &issued);
        let provider = testkit::provider::Provider::start(tls).await;
        let host = format!("localhost:{}", provider.address.port());
        let directory = bed.text("directory.toml").replace(NAME, &host);
        let directory = directory.lines().filter(|line| !line.starts_with("dial"));
        bed.replace("directory.toml", &directory.collect::<Vec<_>>().join("\n"));
        bed.server.reload().await.unwrap();
        let call = TestRequest::slots();
        let target = call.target.replace(NAME, &host);
        let call = call.target(&target).claim("aud", json!(ROOT.replace(NAME, &host)));
        let answer = bed.send(call).await;
        if reached {
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(provider.received()[0].header("host"), Some(host.as_str()));
        } else {
            assert_eq!(answer.token(), Some("provider_not_reached"));
            assert_eq!(provider.accepted_connections(), 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_does_not_prove_its_name_gets_no_request() {
    let bed = TestBed::with(|files| files.add("[throttle]\npractice-failures-max = 100")).await;
    let other = Leaf::named("other.example.nhs.uk");
    let leaves = [
        other.clone(),
        Leaf { names: other.names, ..Leaf::named(NAME) },
        Leaf { days: (-9, -1), ..Leaf::named(NAME) },
        Leaf { days: (1, 9), ..Leaf::named(NAME) },
    ];
    for leaf in leaves {
        let directory = bed.text("directory.toml");
        let provider = bed.replace_provider(&leaf).await;
        fails(&bed, "provider_not_reached").await;
        assert!(provider.received().is_empty(), "{leaf:?}");
        bed.replace("directory.toml", &directory);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_with_a_revoked_certificate_gets_no_request() {
    let bed = TestBed::new().await;
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
    let lists = bed.pki.revocation_lists(&[bed.issued["provider"].serial], 30).unwrap();
    bed.replace("crl.pem", &lists);
    bed.server.reload().await.unwrap();
    // The connection that was verified before is not used either.
    fails(&bed, "provider_not_reached").await;
    assert_eq!(bed.provider.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_of_a_foreign_authority_gets_no_request() {
    let bed = TestBed::new().await;
    let foreign = gpconnect_simulator::pki::Pki::new(testkit::test_bed::now_s()).unwrap();
    let issued = foreign.issue(&Leaf::named(NAME)).unwrap();
    let tls = testkit::test_bed::provider_tls(&bed.pki, &issued);
    let provider = testkit::provider::Provider::start(tls).await;
    bed.set_provider_address(provider.address).await;
    fails(&bed, "provider_not_reached").await;
    assert_eq!(provider.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_provider_is_abandoned_at_the_deadline() {
    let bed = TestBed::with(patience("response-head = \"200ms\"")).await;
    bed.provider.set_action(ProviderAction::Silence);
    fails(&bed, "provider_timed_out").await;
    bed.provider.wait_for_closed_connections(2).await;
    bed.provider.set_action(ProviderAction::WriteAndStall(b"HTTP/1.1 200 O".to_vec()));
    fails(&bed, "provider_timed_out").await;
    bed.provider.wait_for_closed_connections(4).await;
}

/// G9.
#[tokio::test(flavor = "multi_thread")]
async fn interim_responses_are_passed_over_as_long_as_they_are_few() {
    let bed = TestBed::new().await;
    let hint = b"HTTP/1.1 103 Early Hints\r\n\r\n".to_vec();
    bed.provider
        .set_action(ProviderAction::Write([hint.repeat(16), answer("200 OK", "", "{}")].concat()));
    for call in [TestRequest::slots(), TestRequest::book().http2()] {
        assert_eq!(bed.send(call).await.status, 200);
    }
    bed.provider.set_action(ProviderAction::WriteForever(hint));
    let told = bed.wait_for_closed_line(2).await;
    assert_eq!(told["outcome"], "answered");
    for (count, call) in
        [TestRequest::slots(), TestRequest::slots().http2()].into_iter().enumerate()
    {
        assert_eq!(bed.send(call).await.token(), Some("provider_failed"));
        assert_eq!(bed.wait_for_closed_line(count + 3).await["refusal"], "provider_failed");
    }
    assert_eq!(bed.send(TestRequest::book()).await.token(), Some("outcome_unknown"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_given_up_at_the_seventeenth_interim_response() {
    let bed = TestBed::new().await;
    let hint = b"HTTP/1.1 103 Early Hints\r\n\r\n".to_vec();
    // No more comes after them: it is their number that counts, not the time for an answer.
    bed.provider.set_action(ProviderAction::WriteAndStall(hint.repeat(17)));
    fails(&bed, "provider_failed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_never_finishes_its_handshake_is_given_up() {
    let bed = TestBed::with(patience("tls = \"200ms\"")).await;
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    bed.set_provider_address(mute.local_addr().unwrap()).await;
    fails(&bed, "provider_not_reached_in_time").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_http_is_not_forwarded() {
    let big = format!("HTTP/1.1 200 OK\r\nX-Big: {}\r\n\r\n", "x".repeat(600 * 1024));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X-One: 1\r\n".repeat(200));
    let heads = [
        "",
        "H",
        "hello",
        "HTTP/1.1 abc What\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 99 What\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 600 What\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nX-Nul: a\0b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-Two: a\r\n b\r\nContent-Length: 0\r\n\r\n",
        &big,
        &many,
    ];
    for head in heads {
        let bed = TestBed::new().await;
        bed.provider.set_action(ProviderAction::WriteAndClose(head.as_bytes().to_vec()));
        let answer = bed.send(TestRequest::slots()).await;
        let token = answer.token();
        assert_eq!(token, Some("provider_failed"), "{head:.80} {answer:?}");
        fails(&bed, "provider_failed").await;
        assert_eq!(bed.provider.received().len(), 3, "{head:.80}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stalls_is_cut() {
    for head in ["Content-Length: 100\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n4\r\n"] {
        let bed = TestBed::with(patience("body-idle = \"200ms\"")).await;
        let stalled = format!("HTTP/1.1 200 OK\r\n{head}half\r\n");
        bed.provider.set_action(ProviderAction::WriteAndStall(stalled.into_bytes()));
        is_seen_to_be_cut(&bed).await;
        bed.provider.wait_for_closed_connections(2).await;
    }
}

fn dripping() -> ProviderAction {
    ProviderAction::Drip(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n".to_vec(), 50)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_only_drips_is_cut() {
    for line in ["body-idle = \"150ms\"\nbody-rate-min = 1000", "body-total = \"150ms\""] {
        let bed = TestBed::with(patience(line)).await;
        bed.provider.set_action(dripping());
        is_seen_to_be_cut(&bed).await;
        bed.provider.wait_for_closed_connections(2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_body_that_keeps_its_rate_passes() {
    let bed = TestBed::with(patience("body-idle = \"150ms\"\nbody-rate-min = 1")).await;
    bed.provider.set_action(dripping());
    let answer = bed.send(TestRequest::slots()).await;
    assert_eq!((answer.status, answer.complete, answer.body.len()), (200, true, 50));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_ends_early_is_seen_to_be_cut() {
    let bodies = [
        "Content-Length: 100\r\n\r\nhalf",
        "Transfer-Encoding: chunked\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf",
        "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
        "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
    ];
    for body in bodies {
        let bed = TestBed::new().await;
        let cut = format!("HTTP/1.1 200 OK\r\n{body}");
        bed.provider.set_action(ProviderAction::WriteAndClose(cut.into_bytes()));
        is_seen_to_be_cut(&bed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_framed_twice_is_framed_once() {
    let bed = TestBed::new().await;
    let twice = "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n4\r\nbody\r\n0\r\n\r\n";
    bed.provider.set_action(ProviderAction::WriteAndClose(
        format!("HTTP/1.1 200 OK\r\n{twice}").into_bytes(),
    ));
    for call in [TestRequest::slots(), TestRequest::slots().http2()] {
        let answer = bed.send(call).await;
        assert_eq!((answer.text().as_str(), answer.complete), ("body", true));
        assert_eq!(answer.header("content-length"), None);
    }
    let twice = "Content-Length: 4\r\nContent-Length: 4\r\n\r\nbody";
    bed.provider.set_action(ProviderAction::WriteAndClose(
        format!("HTTP/1.1 200 OK\r\n{twice}").into_bytes(),
    ));
    let answer = bed.send(TestRequest::slots()).await;
    assert_eq!(answer.text(), "body");
    assert_eq!(answer.header_names(), ["content-length", "date"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsolicited_second_answer_is_not_forwarded() {
    let bed = TestBed::new().await;
    let mut two = answer("200 OK", "", "first");
    two.extend(answer("200 OK", "", "second"));
    bed.provider.set_action(ProviderAction::Write(two));
    for _ in 0..3 {
        assert_eq!(bed.send(TestRequest::slots()).await.text(), "first");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_the_providers_hop_stay_there() {
    let bed = TestBed::new().await;
    let hop = "Connection: close, odd\r\nConnection: Cache-Control, ETag\r\n\
        Odd: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\n\
        Trailer: x\r\nProxy-Connection: close\r\nCache-Control: no-store\r\nETag: W/\"1\"\r\n";
    bed.provider.set_action(ProviderAction::Write(answer("200 OK", hop, "{}")));
    for call in [TestRequest::slots(), TestRequest::slots().http2()] {
        let answer = bed.send(call).await;
        let names = ["cache-control", "content-length", "date", "etag"];
        assert_eq!(answer.header_names(), names);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_the_answer_pass_unchanged() {
    let bed = TestBed::new().await;
    let given = [
        ("ETag", "W/\"1\""),
        ("ETag", "W/\"2\""),
        ("X-Twice", "a=1"),
        ("X-Twice", "b=2, c"),
        ("Content-Encoding", "gzip"),
        ("Location", "https://provider.example.nhs.uk/A20047/STU3/1/gpconnect/Appointment/1"),
        ("Warning", "199 - \"caf\u{e9}\""),
        ("Via", "1.1 theirs"),
        ("X-Empty", ""),
        ("Server", "Theirs/1.0"),
        ("Date", "Mon, 02 Nov 2026 09:00:00 GMT"),
    ];
    let lines: String = given.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let text = format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 2\r\n\r\n\u{1f}\u{b}");
    let bytes: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
    bed.provider.set_action(ProviderAction::Write(bytes));
    for call in [TestRequest::slots(), TestRequest::slots().http2()] {
        let mut answer = bed.send(call).await;
        answer.headers.retain(|(name, _)| {
            !name.eq_ignore_ascii_case("content-length") && !is_gateways_header(name)
        });
        let sorted = |headers: Vec<(String, String)>| {
            let lower = |(name, value): (String, String)| (name.to_ascii_lowercase(), value);
            let mut headers: Vec<_> = headers.into_iter().map(lower).collect();
            headers.sort_by(|a, b| a.0.cmp(&b.0));
            headers
        };
        let expected = given.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        assert_eq!(sorted(answer.headers), sorted(expected));
        assert_eq!(answer.body, [0x1f, 0x0b]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_pass_through_untouched() {
    let statuses =
        ["400", "401", "403", "404", "406", "409", "410", "422", "429", "500", "501", "503", "599"];
    let bed = TestBed::new().await;
    for status in statuses {
        let body = format!("{{\"their\":{status}}}");
        let headers = "Retry-After: 120\r\nContent-Type: application/fhir+json\r\n";
        bed.provider.set_action(ProviderAction::answer(
            &format!("{status} Theirs"),
            headers,
            &body,
        ));
        for call in [TestRequest::slots(), TestRequest::book().http2()] {
            let answer = bed.send(call).await;
            assert_eq!(answer.status.to_string(), status);
            assert_eq!(answer.text(), body);
            let names = ["content-length", "content-type", "date", "retry-after"];
            assert_eq!(answer.header_names(), names);
            assert_eq!(answer.header("retry-after"), Some("120"));
        }
    }
    let requests = bed.provider.received().len();
    assert_eq!(requests, statuses.len() * 2, "nothing is repeated");
    assert_eq!(bed.provider.connections(), 1, "an error is no reason to close");
    let closed = bed.wait_for_closed_line(requests).await;
    assert_eq!((&closed["status"], &closed["outcome"]), (&json!(599), &json!("answered")));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_a_body_have_none() {
    let bed = TestBed::new().await;
    for (status, head) in [
        (304, "304 Not Modified\r\nETag: W/\"1\"\r\n\r\n"),
        (304, "304 Not Modified\r\nContent-Length: 100\r\n\r\n"),
        (204, "204 No Content\r\n\r\n"),
    ] {
        bed.provider.set_action(ProviderAction::Write(format!("HTTP/1.1 {head}").into_bytes()));
        for call in [TestRequest::slots().with("Connection", "close"), TestRequest::slots().http2()]
        {
            let answer = bed.send(call).await;
            assert_eq!(
                (answer.status, answer.text().as_str(), answer.complete),
                (status, "", true)
            );
        }
    }
    assert_eq!(bed.wait_for_closed_line(6).await["outcome"], "answered");
    assert_eq!(bed.provider.connections(), 1, "its connection is kept");
}

/// Each fault of the link to a provider, and the allowed answers to a read and to a booking.
#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_the_link_to_a_provider_is_reported_truthfully() {
    let late = LinkFault::Latency(std::time::Duration::from_millis(10));
    for (mishap, read, booking) in [
        (late, None, None),
        (LinkFault::Slice(1), None, None),
        (LinkFault::Reset, Some("provider_not_reached"), Some("outcome_unknown")),
        (LinkFault::HalfClose, Some("provider_not_reached"), Some("outcome_unknown")),
        (LinkFault::BlackHole, Some("provider_timed_out"), Some("outcome_unknown_in_time")),
    ] {
        for (call, token) in [(TestRequest::slots(), read), (TestRequest::book(), booking)] {
            let bed = TestBed::with(patience("response-head = \"400ms\"\ntls = \"400ms\"")).await;
            let way = FaultyLink::to(bed.provider.address);
            bed.set_provider_address(way.address).await;
            // On a connection that is there already, so that all of the request goes out.
            assert_eq!(bed.send(call.clone()).await.status, 200);
            way.set_fault(mishap);
            let answer = bed.send(call.clone()).await;
            assert_eq!(answer.token(), token, "{mishap:?}: {answer:?}");
            assert_eq!(bed.wait_for_closed_line(2).await["refusal"].as_str(), token, "{mishap:?}");
            way.set_fault(LinkFault::None);
            assert_eq!(bed.send(call).await.status, 200, "{mishap:?}: and then all is well");
            bed.wait_until_idle().await;
        }
    }
}
