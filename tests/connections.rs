//! Connections of consumers: deadlines, connection limits, concurrent requests, and closing.

use std::io;
use std::sync::Arc;

use http_body_util::BodyExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use testkit::process::{GatewayProcess, serve_with_log_level};
use testkit::provider::answer;
use testkit::raw_connection::RawConnection;
use testkit::request::read_answer;
use testkit::{ProviderAction, TestBed, TestRequest};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

async fn limited(limits: &str) -> TestBed {
    TestBed::with(|files| files.add(&format!("[listener.limits]\n{limits}"))).await
}

/// Opens a connection and asks once on it.
async fn opened(
    bed: &TestBed,
    certificate: &'static str,
) -> Option<RawConnection<tokio_rustls::client::TlsStream<TcpStream>>> {
    let call = TestRequest::slots().certificate(certificate);
    let mut wire = RawConnection::new(call.connect(bed).await.ok()?);
    wire.stream.write_all(&call.bytes()).await.ok()?;
    read_answer(&mut wire).await.map(|_| wire)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_registered_nowhere_has_the_places_of_strangers_alone() {
    let mut bed = limited("unverified-max = 2\nconnections-max = 8").await;
    let issued = ["nobody.example.nhs.uk", "noone.example.nhs.uk"]
        .map(|name| bed.pki.issue(&gpconnect_simulator::pki::Leaf::named(name)).unwrap());
    let [nobody, noone] = issued;
    bed.issued.insert("nobody", nobody);
    bed.issued.insert("noone", noone);
    // They are refused once a request comes: so they hold their places without one.
    let mut held = Vec::new();
    for certificate in ["nobody", "noone"] {
        held.push(TestRequest::slots().certificate(certificate).connect(&bed).await.unwrap());
    }
    while bed.metric("connections") < 2 {
        tokio::task::yield_now().await;
    }
    let third = TestRequest::slots().certificate("nobody").connect(&bed).await;
    if let Ok(third) = third {
        assert!(is_closed(third).await.is_empty());
    }
    assert!(bed.metric("connection_errors_total{reason=\"no_slot\"}") >= 1);
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_one_name_have_so_many_connections_and_no_more() {
    let bed = limited("certificate-connections-max = 2").await;
    let (first, second) = (opened(&bed, "hub").await, opened(&bed, "hub").await);
    assert!(first.is_some() && second.is_some());
    assert!(opened(&bed, "hub").await.is_none());
    assert!(opened(&bed, "clinic").await.is_some());
    let refused = "connections_refused_total{share=\"certificate_connections\"}";
    assert_eq!(bed.metric(refused), 1);
    drop((first, second));
    while opened(&bed, "hub").await.is_none() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_connections_run_out_the_idlest_of_the_largest_holder_is_closed() {
    let bed = limited("connections-max = 4\nidle = \"10m\"").await;
    let mut idlest = opened(&bed, "hub").await.unwrap();
    let others = [opened(&bed, "hub").await.unwrap(), opened(&bed, "hub").await.unwrap()];
    let mut alone = opened(&bed, "clinic").await.unwrap();
    let _late = opened(&bed, "clinic").await.unwrap();
    for mut other in others {
        other.stream.write_all(&TestRequest::slots().bytes()).await.unwrap();
        assert!(read_answer(&mut other).await.is_some(), "who was used later is kept");
    }
    assert!(!idlest.read_more().await, "the first of the hub's is closed");
    let call = TestRequest::slots().certificate("clinic");
    alone.stream.write_all(&call.bytes()).await.unwrap();
    assert!(read_answer(&mut alone).await.is_some(), "who holds fewer keeps them");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_after_some_requests_without_an_identified_consumer() {
    let bed = TestBed::new().await;
    let (good, bad) = (TestRequest::slots(), TestRequest::slots().without("Ssp-From"));
    let mut wire = RawConnection::new(good.connect(&bed).await.unwrap());
    // One that is identified begins the count anew.
    for call in [&bad; 15].into_iter().chain([&good]).chain([&bad; 15]) {
        wire.stream.write_all(&call.bytes()).await.unwrap();
        assert!(read_answer(&mut wire).await.is_some());
    }
    wire.stream.write_all(&bad.bytes()).await.unwrap();
    assert_eq!(read_answer(&mut wire).await.unwrap().token(), Some("from_missing"));
    assert!(!wire.read_more().await);
}

/// Reads until the gateway ends the connection.
async fn is_closed<S: tokio::io::AsyncRead + Unpin>(stream: S) -> Vec<u8> {
    let mut wire = RawConnection::new(stream);
    while wire.read_more().await {}
    wire.unread
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_never_speaks_tls_is_closed() {
    let bed = limited("handshake = \"200ms\"").await;
    let silent = TcpStream::connect(bed.address()).await.unwrap();
    let mut halting = TcpStream::connect(bed.address()).await.unwrap();
    halting.write_all(b"\x16\x03\x01\x02").await.unwrap();
    assert!(is_closed(silent).await.is_empty());
    is_closed(halting).await;
    bed.wait_until_idle().await;
    assert_eq!(bed.metric("tls_handshakes_total{result=\"timed_out\"}"), 2);
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_end_closes_its_connection() {
    let bed = limited("head = \"200ms\"").await;
    let call = TestRequest::slots();
    let bytes = call.bytes();
    for part in [1, 20, bytes.len() - 1] {
        let mut stream = call.connect(&bed).await.unwrap();
        stream.write_all(&bytes[..part]).await.unwrap();
        is_closed(stream).await;
    }
    // The deadline applies after a first request too.
    let mut wire = RawConnection::new(call.connect(&bed).await.unwrap());
    wire.stream.write_all(&bytes).await.unwrap();
    assert_eq!(read_answer(&mut wire).await.unwrap().status, 200);
    wire.stream.write_all(b"G").await.unwrap();
    is_closed(wire.stream).await;
    bed.wait_until_idle().await;
    assert_eq!(bed.provider.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_request_is_closed() {
    let bed = limited("idle = \"200ms\"").await;
    let call = TestRequest::slots();
    assert!(is_closed(call.connect(&bed).await.unwrap()).await.is_empty());
    let mut wire = RawConnection::new(call.connect(&bed).await.unwrap());
    wire.stream.write_all(&call.bytes()).await.unwrap();
    assert_eq!(read_answer(&mut wire).await.unwrap().status, 200);
    assert!(is_closed(wire.stream).await.is_empty());
    bed.wait_until_idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_longer_than_the_idle_deadline_is_not_idle() {
    let bed = limited("idle = \"50ms\"\nhead = \"50ms\"").await;
    for call in [TestRequest::slots(), TestRequest::slots().http2()] {
        let told = Arc::new(Notify::new());
        bed.provider.set_action(ProviderAction::WriteWhenNotified(
            Arc::clone(&told),
            answer("200 OK", "", "{}"),
        ));
        let asked = bed.provider.received().len();
        // Another connection lives and dies of idleness three times meanwhile.
        let (answer, ()) = tokio::join!(bed.send(call.clone()), async {
            bed.provider.wait_for_requests(asked + 1).await;
            for _ in 0..3 {
                is_closed(TestRequest::slots().connect(&bed).await.unwrap()).await;
            }
            told.notify_one();
        });
        assert_eq!((answer.status, answer.complete), (200, true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_connection_without_a_request_is_closed() {
    let bed = limited("head = \"200ms\"\nidle = \"200ms\"").await;
    let call = TestRequest::slots().http2();
    is_closed(call.connect(&bed).await.unwrap()).await;
    let mut stream = call.connect(&bed).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    is_closed(stream).await;
    // The deadline applies after a first request too.
    let stream = TokioIo::new(call.connect(&bed).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(call.request()).await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.into_body().collect().await.unwrap();
    connection.await.unwrap().unwrap();
    bed.wait_until_idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_whose_consumer_does_not_read_is_closed() {
    let limits =
        "[listener.limits]\nwrite-stall = \"300ms\"\n[throttle]\npractice-exchanges-max = 1";
    let bed = TestBed::with(|files| files.add(limits)).await;
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 268435456\r\n\r\n".to_vec();
    bed.provider.set_action(ProviderAction::Pour(head, 256 << 20));
    let call = TestRequest::slots();
    let mut stream = call.connect(&bed).await.unwrap();
    stream.write_all(&call.bytes()).await.unwrap();
    let record = bed.wait_for_closed_line(1).await;
    assert_eq!((&record["outcome"], &record["ended_by"]), (&"aborted".into(), &"consumer".into()));
    assert_eq!(record["status"], 200);
    bed.wait_until_idle().await;
    bed.provider.wait_for_closed_connections(1).await;
    bed.provider.set_action(ProviderAction::ok());
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
    drop(stream);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_beyond_the_slots_waits_for_an_answer_under_way() {
    let bed = limited("connections-max = 1").await;
    let told = Arc::new(Notify::new());
    bed.provider.set_action(ProviderAction::WriteWhenNotified(
        Arc::clone(&told),
        answer("200 OK", "", "{}"),
    ));
    let call = TestRequest::slots();
    let mut first = RawConnection::new(call.connect(&bed).await.unwrap());
    first.stream.write_all(&call.bytes()).await.unwrap();
    bed.provider.wait_for_requests(1).await;
    bed.provider.set_action(ProviderAction::ok());
    let mut second = Box::pin(bed.send(TestRequest::slots()));
    let answered = async {
        // The second has been accepted, and asks for the first one's place.
        while bed.metric("connections") < 1 {
            tokio::task::yield_now().await;
        }
        told.notify_one();
        let answer = read_answer(&mut first).await.unwrap();
        (answer.status, first.read_more().await)
    };
    let (first, second) = tokio::join!(answered, &mut second);
    assert_eq!(first, (200, false), "answered, and then closed");
    assert_eq!(second.status, 200);
    drop(second);
    bed.wait_until_idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_without_a_certificate_have_few_slots() {
    let bed = limited("unverified-max = 1").await;
    let stranger = TestRequest::slots().certificate("none");
    let first = stranger.connect(&bed).await.unwrap();
    while bed.metric("tls_handshakes_total{result=\"no_certificate\"}") < 1 {
        tokio::task::yield_now().await;
    }
    if let Ok(mut second) = stranger.connect(&bed).await {
        drop(second.write_all(&stranger.bytes()).await);
        assert!(is_closed(second).await.is_empty());
    }
    assert_eq!(bed.metric("connection_errors_total{reason=\"no_slot\"}"), 1);
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
    drop(first);
    bed.wait_until_idle().await;
    assert_eq!(bed.send(stranger).await.token(), Some("certificate_missing"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order() {
    let bed = TestBed::new().await;
    bed.provider.set_script(|request| {
        ProviderAction::answer("200 OK", "", request.header("x-number").unwrap())
    });
    let numbers: Vec<String> = (0..100).map(|number: i32| number.to_string()).collect();
    let calls = numbers.iter().map(|number| TestRequest::slots().with("X-Number", number).bytes());
    let bytes: Vec<u8> = calls.flatten().collect();
    let stream = TestRequest::slots().connect(&bed).await.unwrap();
    let (reader, mut writer) = tokio::io::split(stream);
    let mut wire = RawConnection::new(reader);
    let answers = async {
        let mut heard = Vec::new();
        while heard.len() < numbers.len() {
            let mut message = wire.head().await.unwrap();
            wire.body(&mut message, false).await;
            heard.push(String::from_utf8(message.body).unwrap());
        }
        heard
    };
    let (written, heard) = tokio::join!(writer.write_all(&bytes), answers);
    written.unwrap();
    assert_eq!(heard, numbers);
    drop((wire, writer));
    bed.wait_until_idle().await;
}

/// More than the sockets on the way hold.
const PIPELINED_BYTES: usize = 48 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_not_read_far_ahead_of_the_answers() {
    let bed = TestBed::new().await;
    let told = Arc::new(Notify::new());
    bed.provider.set_action(ProviderAction::WriteWhenNotified(
        Arc::clone(&told),
        answer("200 OK", "", "{}"),
    ));
    let call = TestRequest::slots().with("X-Fill", &"v".repeat(8_000));
    let (reader, mut writer) = tokio::io::split(call.connect(&bed).await.unwrap());
    let mut wire = RawConnection::new(reader);
    let bytes = call.bytes();
    let writing = async {
        for _ in 0..PIPELINED_BYTES / bytes.len() {
            writer.write_all(&bytes).await.unwrap();
        }
    };
    let others = async {
        bed.provider.wait_for_requests(1).await;
        bed.provider.set_action(ProviderAction::ok());
        for _ in 0..50 {
            assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
        }
    };
    tokio::select! {
        () = writing => panic!("all of it was read while the first waits for its answer"),
        () = others => {}
    }
    told.notify_one();
    for _ in 0..50 {
        assert_eq!(read_answer(&mut wire).await.expect("an answer").status, 200);
    }
    drop((wire, writer));
    bed.wait_until_idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_refused_before_its_body_arrived_closes_the_connection() {
    let bed = limited("linger = \"10ms\"").await;
    let refused = TestRequest::book().without("Ssp-To").without_content_length();
    for call in [
        refused.clone().with("Content-Length", "900000"),
        refused.clone().with("Transfer-Encoding", "chunked"),
        refused.clone().method("PUT").with("Content-Length", "900000"),
        refused.with("Content-Length", "9").with("Expect", "100-continue"),
    ] {
        let mut wire = RawConnection::new(call.connect(&bed).await.unwrap());
        wire.stream.write_all(&call.body(b"").bytes()).await.unwrap();
        let answer = read_answer(&mut wire).await.expect("an answer");
        answer.assert_refusal_form();
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(wire.ends_cleanly().await && wire.unread.is_empty());
    }
    assert!(bed.provider.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_any_method_refused_before_its_body_arrived_closes_the_connection() {
    let bed = limited("linger = \"10ms\"").await;
    for (method, framing) in [
        ("GET", ("Content-Length", "900000")),
        ("DELETE", ("Content-Length", "900000")),
        ("DELETE", ("Transfer-Encoding", "chunked")),
    ] {
        let call = TestRequest::slots().method(method).with(framing.0, framing.1);
        let mut wire = RawConnection::new(call.connect(&bed).await.unwrap());
        // Bytes that look like another request follow in place of the body.
        wire.stream.write_all(&call.bytes()).await.unwrap();
        let answer = read_answer(&mut wire).await.expect("an answer");
        answer.assert_refusal_form();
        assert_eq!(answer.header("connection"), Some("close"), "{method}");
        drop(wire.stream.write_all(&TestRequest::slots().bytes()).await);
        while wire.read_more().await {}
        assert!(wire.unread.is_empty(), "{method}: {:?}", String::from_utf8_lossy(&wire.unread));
    }
    assert!(bed.provider.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_does_not_end_its_side_is_not_lingered_for_long() {
    let bed = limited("linger = \"200ms\"").await;
    let call = TestRequest::book()
        .without("Ssp-To")
        .without_content_length()
        .with("Content-Length", "900000");
    let mut wire = RawConnection::new(call.connect(&bed).await.unwrap());
    wire.stream.write_all(&call.body(b"").bytes()).await.unwrap();
    assert_eq!(read_answer(&mut wire).await.expect("an answer").status, 400);
    // It neither sends nor goes.
    bed.wait_until_idle().await;
    drop(wire);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_does_not_stop_sending_is_read_from_for_a_mebibyte_and_no_more() {
    let bed = limited("linger = \"10m\"").await;
    let call = TestRequest::book()
        .without("Ssp-To")
        .without_content_length()
        .with("Content-Length", "900000000");
    let (reader, mut writer) = tokio::io::split(call.connect(&bed).await.unwrap());
    let mut wire = RawConnection::new(reader);
    writer.write_all(&call.body(b"").bytes()).await.unwrap();
    assert_eq!(read_answer(&mut wire).await.expect("an answer").status, 400);
    assert!(wire.ends_cleanly().await, "no more is said");
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
    let mut sent = 0_usize;
    while writer.write_all(&[b' '; 16 * 1024]).await.is_ok() && writer.flush().await.is_ok() {
        sent += 16 * 1024;
        assert!(sent < 256 << 20, "it is read from without an end");
    }
    assert!(sent >= 1 << 20, "after {sent} bytes");
    bed.wait_until_idle().await;
}

/// Bytes that a process has written by `write` and `writev`. Sockets are written to by `send`, unless several
/// pieces are written at once.
fn written(served: &GatewayProcess) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{}/io", served.child.id())).unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn several_pieces_of_an_answer_are_written_at_once() {
    let length = 10_000_000;
    let bed = TestBed::new().await;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
    bed.provider.set_action(ProviderAction::Pour(head.into_bytes(), length));
    let program = std::process::Command::new(env!("CARGO_BIN_EXE_spine-proxy"));
    let text = bed.text("spine-proxy.toml").replace("\"audit\"", "\"own\"");
    let served = serve_with_log_level(program, &bed, &text, "info");
    let before = written(&served);
    let call = TestRequest::slots();
    let mut wire = RawConnection::new(call.connect_to(&bed, served.address).await.unwrap());
    wire.stream.write_all(&call.bytes()).await.unwrap();
    assert!(wire.head().await.unwrap().start.contains(" 200 "));
    assert_eq!(wire.drain(length).await, length);
    let by_pieces = written(&served) - before;
    assert!(by_pieces >= u64::try_from(length).unwrap(), "{by_pieces} of {length} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_streams_of_one_connection_are_all_answered() {
    let bed = TestBed::new().await;
    bed.provider.set_script(|request| {
        ProviderAction::answer("200 OK", "", request.header("x-number").unwrap())
    });
    let stream = TokioIo::new(TestRequest::slots().http2().connect(&bed).await.unwrap());
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let exchanges: Vec<_> = (0..50)
        .map(|number: i32| {
            let mut sender = sender.clone();
            let call = TestRequest::slots().http2().with("X-Number", &number.to_string());
            tokio::spawn(async move {
                let answer = sender.send_request(call.request()).await.unwrap();
                let body = answer.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(body, number.to_string());
            })
        })
        .collect();
    for exchange in exchanges {
        exchange.await.unwrap();
    }
    drop(sender);
    bed.wait_until_idle().await;
    assert_eq!(bed.provider.received().len(), 50);
}

/// Asks the second port.
async fn admin(address: std::net::SocketAddr, method: &str, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_port_reports_the_state() {
    let bed = TestBed::new().await;
    bed.send(TestRequest::slots()).await;
    for (method, path, status, part) in [
        ("GET", "/livez", 200, "ok\n"),
        ("GET", "/readyz", 200, "[+]accepting\n[+]audit\n"),
        ("GET", "/metrics", 200, "\nspine_proxy_http_requests_in_flight 0\n"),
        ("GET", "/", 404, "there are"),
        ("GET", "/directory", 403, "admin.token-file is not set"),
        ("POST", "/readyz", 405, "method not allowed"),
        ("POST", "/directory/flush", 403, "admin.token-file is not set"),
        ("GET", "/https://provider.example.nhs.uk/A20047/STU3/1/gpconnect/Slot", 404, "there are"),
    ] {
        let text = admin(bed.server.admin, method, path).await.unwrap();
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {text}");
        assert!(text.contains(part), "{path}: {text}");
        assert!(!text.contains("200000000359") && !text.contains("A20047"), "{path}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_end_in_time_is_counted() {
    let bed = limited("head = \"200ms\"").await;
    let mut wire = RawConnection::new(TestRequest::slots().connect(&bed).await.unwrap());
    wire.stream.write_all(b"G").await.unwrap();
    assert!(!wire.read_more().await);
    drop(wire);
    bed.wait_until_idle().await;
    assert_eq!(bed.metric("connection_errors_total{reason=\"head_timed_out\"}"), 1);
}
