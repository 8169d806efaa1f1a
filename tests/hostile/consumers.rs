//! The hostile catalogue's sections D to F, as far as no bytes of a head show them: consumers that
//! are slow, greedy, gone, or say odd things in the right place.

use std::net::SocketAddr;

use gpconnect_simulator::pki::Leaf;
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use testkit::files::Files;
use testkit::provider::answer;
use testkit::raw_connection::RawConnection;
use testkit::request::read_answer;
use testkit::test_bed::now_s;
use testkit::{ProviderAction, TestBed, TestRequest};

async fn limited(limits: &str) -> TestBed {
    TestBed::with(|files| files.add(&format!("[listener.limits]\n{limits}"))).await
}

/// From an address of this machine's own.
async fn connect_from(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    socket.connect(to).await.unwrap()
}

async fn is_ended<S: tokio::io::AsyncRead + Unpin>(stream: S) {
    let mut wire = RawConnection::new(stream);
    while wire.read_more().await {}
}

/// D11 and H13.
#[tokio::test(flavor = "multi_thread")]
async fn what_could_mislead_a_reader_is_recorded_as_plain_ascii() {
    let bed = TestBed::new().await;
    let odd = "https://a/\u{1b}[31m\r\nseq\u{202e}\u{2066}\u{0}\",=\u{9b}\u{2028}";
    let call = TestRequest::book().claim("iss", json!(odd));
    assert_eq!(bed.send(call).await.status, 200);
    assert_eq!(bed.wait_for_closed_line(1).await["outcome"], "answered");
    let text = bed.journal("audit");
    assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n')), "{text:?}");
    assert_eq!(text.lines().count(), 3, "one record, one line");
    assert_eq!(bed.exchange_lines().await[0]["claims"]["issuer"], odd);
    let long = "https://".to_owned() + &"a".repeat(4000);
    assert_eq!(bed.send(TestRequest::book().claim("iss", json!(long))).await.status, 200);
    bed.wait_for_closed_line(2).await;
    let kept = bed.exchange_lines().await[2]["claims"]["issuer"].as_str().unwrap().len();
    assert_eq!(kept, 256);
}

/// H15: what a consumer chooses is no label.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_makes_a_series() {
    let bed = TestBed::new().await;
    let mut series = Vec::new();
    for number in 0..50 {
        bed.send(TestRequest::slots().method(&format!("ODD{number}"))).await;
        bed.send(TestRequest::slots().set("Ssp-From", &format!("{:012}", 1000 + number))).await;
        bed.send(TestRequest::slots().set("Ssp-InteractionID", &format!("urn:{number}"))).await;
        bed.send(TestRequest::slots().target(&format!("/https://h{number}.nhs.uk/Slot"))).await;
        bed.wait_until_idle().await;
        series.push(bed.server.metrics.text().0.lines().count());
    }
    // The first of each kind may show a series that was there unseen; the others show none.
    assert_eq!(series[1], series[49]);
}

/// F1 to F3: one address's share, which is nobody else's.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_its_share_of_the_listener_and_no_more() {
    for (limits, share) in [
        ("address-handshakes-max = 2", "address_handshakes"),
        ("address-connections-max = 2", "address_connections"),
        ("address-handshakes-per-second = 2", "address_rate"),
    ] {
        let bed = limited(limits).await;
        let mut silent = Vec::new();
        for _ in 0..2 {
            silent.push(connect_from("127.0.0.2", bed.address()).await);
        }
        // What is over is closed at once, and what was there before is not.
        is_ended(connect_from("127.0.0.2", bed.address()).await).await;
        let series = format!("connections_refused_total{{share=\"{share}\"}}");
        assert_eq!(bed.metric(&series), 1, "{share}");
        assert_eq!(bed.send(TestRequest::slots()).await.status, 200, "another address");
        drop(silent);
        bed.wait_until_idle().await;
    }
    let bed = limited("handshakes-max = 2").await;
    let first = connect_from("127.0.0.2", bed.address()).await;
    let second = connect_from("127.0.0.3", bed.address()).await;
    is_ended(connect_from("127.0.0.3", bed.address()).await).await;
    assert_eq!(bed.metric("connections_refused_total{share=\"handshakes\"}"), 1);
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200, "an address has one all the same");
    drop((first, second));
    bed.wait_until_idle().await;
}

/// F2: a hello that comes byte by byte has the same deadline as one that does not come.
#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_drips_is_ended() {
    let bed = limited("handshake = \"300ms\"").await;
    let stream = TcpStream::connect(bed.address()).await.unwrap();
    let (reader, mut writer) = stream.into_split();
    let dripping = async {
        for byte in b"\x16\x03\x01\x02\x00\x01".iter().cycle() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            if writer.write_all(&[*byte]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = is_ended(reader) => {}
        () = dripping => {}
    }
    bed.wait_until_idle().await;
    let ended = ["timed_out", "failed"]
        .map(|result| bed.metric(&format!("tls_handshakes_total{{result=\"{result}\"}}")));
    assert_eq!(ended.iter().sum::<u64>(), 1);
}

/// F6: taking a little now and then is not taking.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_takes_too_little_is_given_up() {
    let bed = limited("write-stall = \"300ms\"\nwrite-rate-min = 100000000").await;
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 268435456\r\n\r\n".to_vec();
    bed.provider.set_action(ProviderAction::Pour(head, 256 << 20));
    let call = TestRequest::slots();
    let mut stream = call.connect(&bed).await.unwrap();
    stream.write_all(&call.bytes()).await.unwrap();
    let mut wire = RawConnection::new(stream);
    while wire.read_more().await {
        wire.unread.clear();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let record = bed.wait_for_closed_line(1).await;
    assert_eq!((&record["outcome"], &record["ended_by"]), (&json!("aborted"), &json!("consumer")));
    bed.wait_until_idle().await;
    assert_eq!(bed.metric("connection_errors_total{reason=\"write_stalled\"}"), 1);
}

/// F8: a reset is noticed while the provider is waited for, and the provider is let go.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_resets_its_connection_lets_its_provider_go() {
    let bed = TestBed::new().await;
    bed.provider.set_action(ProviderAction::Silence);
    let call = TestRequest::slots();
    let mut stream = call.connect(&bed).await.unwrap();
    stream.write_all(&call.bytes()).await.unwrap();
    bed.provider.wait_for_requests(1).await;
    stream.get_ref().0.set_zero_linger().unwrap();
    drop(stream);
    bed.provider.wait_for_closed_connections(1).await;
    let record = bed.wait_for_closed_line(1).await;
    assert_eq!((&record["outcome"], &record["ended_by"]), (&json!("aborted"), &json!("consumer")));
    bed.wait_until_idle().await;
    assert_eq!(bed.metric("connection_errors_total{reason=\"reset\"}"), 1);
    // A booking goes on without its consumer.
    let told = std::sync::Arc::new(tokio::sync::Notify::new());
    let booked = answer("201 Created", "", "{}");
    bed.provider
        .set_action(ProviderAction::WriteWhenNotified(std::sync::Arc::clone(&told), booked));
    let call = TestRequest::book();
    let mut stream = call.connect(&bed).await.unwrap();
    stream.write_all(&call.bytes()).await.unwrap();
    bed.provider.wait_for_requests(2).await;
    stream.get_ref().0.set_zero_linger().unwrap();
    drop(stream);
    while bed.metric("connections") > 0 {
        tokio::task::yield_now().await;
    }
    told.notify_one();
    assert_eq!(bed.wait_for_closed_line(2).await["status"], 201);
}

/// F10: an answer is heard by who still sends.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_reaches_a_consumer_that_still_uploads() {
    let bed = limited("linger = \"20s\"").await;
    for refused in [
        TestRequest::book()
            .without("Ssp-To")
            .without_content_length()
            .with("Content-Length", "900000"),
        TestRequest::book()
            .without_content_length()
            .with("Content-Length", "900000")
            .with("Content-Length", "1"),
    ] {
        let stream = refused.connect(&bed).await.unwrap();
        let (reader, mut writer) = tokio::io::split(stream);
        let mut wire = RawConnection::new(reader);
        writer.write_all(&refused.body(b"").bytes()).await.unwrap();
        let half = [b' '; 450_000];
        let (uploaded, answer) = tokio::join!(writer.write_all(&half), read_answer(&mut wire));
        assert_eq!(answer.expect("the refusal").status, 400);
        uploaded.unwrap();
        assert!(wire.ends_cleanly().await, "no more is said");
        // Its connection has had the time to end since; what comes is read all the same, for a reset could
        // overtake the answer.
        bed.expect_refusal(TestRequest::slots().without("Ssp-To"), "to_missing").await;
        for piece in half.chunks(10_000) {
            writer.write_all(piece).await.unwrap();
            writer.flush().await.unwrap();
        }
        writer.shutdown().await.unwrap();
    }
    assert!(bed.provider.received().is_empty());
}

/// F11: nothing is asked before a handshake has ended.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_comes_in_early_data() {
    let bed = TestBed::new().await;
    let mut tls = (*bed.consumer_tls("hub", b"http/1.1")).clone();
    tls.enable_early_data = true;
    let tls = std::sync::Arc::new(tls);
    let name = ServerName::try_from("ssp.example.nhs.uk").unwrap();
    for resumed in [false, true] {
        let mut eager = rustls::ClientConnection::new(std::sync::Arc::clone(&tls), name.clone());
        assert!(eager.as_mut().unwrap().early_data().is_none(), "none is offered");
        let stream = TcpStream::connect(bed.address()).await.unwrap();
        let connector = TlsConnector::from(std::sync::Arc::clone(&tls));
        let mut wire = RawConnection::new(connector.connect(name.clone(), stream).await.unwrap());
        wire.stream.write_all(&TestRequest::slots().bytes()).await.unwrap();
        assert_eq!(read_answer(&mut wire).await.unwrap().status, 200);
        let kind = wire.stream.get_ref().1.handshake_kind().unwrap();
        assert_eq!(kind == rustls::HandshakeKind::Resumed, resumed);
    }
}

/// F12 and H22: a certificate may be odd, and cost no more for it.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_with_many_names_and_far_dates_are_judged_as_others_are() {
    let mut names: Vec<String> = (0..500).map(|n| format!("n{n}.example.nhs.uk")).collect();
    names.push("hub.example.nhs.uk".to_owned());
    let mut bed = TestBed::new().await;
    let crowd = Leaf { names, ..Leaf::named("hub.example.nhs.uk") };
    let far = Leaf { days: (-10_000, 30_000), ..Leaf::named("hub.example.nhs.uk") };
    bed.issued.insert("crowd", bed.pki.issue(&crowd).unwrap());
    bed.issued.insert("far", bed.pki.issue(&far).unwrap());
    for certificate in ["crowd", "far"] {
        let answer = bed.send(TestRequest::slots().certificate(certificate)).await;
        assert_eq!(answer.status, 200, "{certificate}: {answer:?}");
    }
}

/// C21: a registration that leads back here.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_back_is_refused() {
    let name = "provider.example.nhs.uk";
    let bed = TestBed::with(|files: &mut Files| {
        files.edit("spine-proxy.toml", |text| {
            text.replace("\"localhost\"", &format!("\"localhost\", \"{name}\""))
        });
    })
    .await;
    let names = ["ssp.example.nhs.uk", name].map(str::to_owned).to_vec();
    let both = bed.pki.issue(&Leaf { names, ..Leaf::named("ssp.example.nhs.uk") }).unwrap();
    bed.replace("server.pem", &both.chain);
    bed.replace("server.key", &both.key);
    bed.set_provider_address(bed.address()).await;
    let answer = bed.send(TestRequest::slots()).await;
    // It comes from a provider, in our name: so its Proxy-Status does not pass.
    assert_eq!((answer.status, answer.token()), (508, None));
    assert_eq!(answer.json()["resourceType"], "OperationOutcome");
    let tokens: Vec<_> =
        bed.exchange_lines().await.into_iter().map(|line| line["refusal"].clone()).collect();
    assert_eq!(tokens.iter().filter(|token| **token == "loop_detected").count(), 1, "one hop");
}

/// H11: other authorities, felt by every live connection.
#[tokio::test(flavor = "multi_thread")]
async fn another_authority_is_felt_by_the_next_request_of_every_connection() {
    let bed = TestBed::new().await;
    let call = TestRequest::slots();
    let mut lines = Vec::new();
    for _ in 0..20 {
        let mut wire = RawConnection::new(call.connect(&bed).await.unwrap());
        wire.stream.write_all(&call.bytes()).await.unwrap();
        assert_eq!(read_answer(&mut wire).await.unwrap().status, 200);
        lines.push(wire);
    }
    let other = gpconnect_simulator::pki::Pki::new(now_s()).unwrap();
    let text = bed.text("spine-proxy.toml");
    let tls = text.replacen(
        "authorities = [\"ca.pem\"]\ncrl = [\"crl.pem\"]",
        "authorities = [\"other.pem\"]\ncrl = \"none\"",
        1,
    );
    bed.replace("other.pem", &other.authority());
    bed.replace("spine-proxy.toml", &tls);
    bed.server.reload().await.unwrap();
    for mut wire in lines {
        wire.stream.write_all(&call.bytes()).await.unwrap();
        let answer = read_answer(&mut wire).await.unwrap();
        assert_eq!((answer.status, answer.token()), (495, Some("certificate_invalid")));
        assert!(!wire.read_more().await);
    }
    assert_eq!(bed.provider.received().len(), 20);
}

/// A32: TLS to the second port, which speaks none.
#[tokio::test(flavor = "multi_thread")]
async fn tls_to_the_second_port_is_nothing_to_it() {
    let bed = TestBed::new().await;
    let connector = TlsConnector::from(bed.consumer_tls("hub", b"http/1.1"));
    let stream = TcpStream::connect(bed.server.admin).await.unwrap();
    let name = ServerName::try_from("ssp.example.nhs.uk").unwrap();
    assert!(connector.connect(name, stream).await.is_err());
}

/// A30: a connection ends after as many requests as it may carry.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_carries_so_many_requests_and_no_more() {
    let bed = limited("requests-max = 3").await;
    let call = TestRequest::slots();
    let mut wire = RawConnection::new(call.connect(&bed).await.unwrap());
    wire.stream.write_all(&call.bytes().repeat(5)).await.unwrap();
    for number in 1..=3 {
        let answer = read_answer(&mut wire).await.unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("connection").is_some(), number == 3);
    }
    assert!(read_answer(&mut wire).await.is_none());
    assert_eq!(bed.provider.received().len(), 3);
    bed.wait_until_idle().await;
}

/// G14: a provider that closes each time is dialled each time, and asked once.
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_closes_each_time_is_dialled_each_time() {
    let bed = TestBed::new().await;
    let closing = answer("200 OK", "Connection: close\r\n", "{}");
    bed.provider.set_action(ProviderAction::Write(closing));
    for _ in 0..10 {
        assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
    }
    assert_eq!((bed.provider.connections(), bed.provider.received().len()), (10, 10));
}

/// C22: a provider's redirect is the consumer's to follow.
#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_passed_on_and_not_followed() {
    let bed = TestBed::new().await;
    let away = "Location: http://169.254.169.254/latest\r\n";
    bed.provider.set_action(ProviderAction::answer("302 Found", away, ""));
    let answer = bed.send(TestRequest::slots()).await;
    assert_eq!(answer.status, 302);
    assert_eq!(answer.header("location"), Some("http://169.254.169.254/latest"));
    assert_eq!(bed.provider.accepted_connections(), 1);
}
