//! The consumer's connection: deadlines, slots, many requests at once, and the end.

use std::io;
use std::sync::Arc;

use http_body_util::BodyExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use testkit::call::hear;
use testkit::process::{Served, serve_at};
use testkit::provider::answer;
use testkit::wire::Wire;
use testkit::{Act, Call, Stage};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

async fn limited(limits: &str) -> Stage {
    Stage::with(|files| files.add(&format!("[listener.limits]\n{limits}"))).await
}

/// Opens a connection and asks once on it.
async fn opened(
    stage: &Stage,
    certificate: &'static str,
) -> Option<Wire<tokio_rustls::client::TlsStream<TcpStream>>> {
    let call = Call::slots().certificate(certificate);
    let mut wire = Wire::new(call.connect(stage).await.ok()?);
    wire.stream.write_all(&call.bytes()).await.ok()?;
    hear(&mut wire).await.map(|_| wire)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_registered_nowhere_has_the_places_of_strangers_alone() {
    let mut stage = limited("unverified-max = 2\nconnections-max = 8").await;
    let issued = ["nobody.example.nhs.uk", "noone.example.nhs.uk"]
        .map(|name| stage.pki.issue(&gpconnect_simulator::pki::Leaf::named(name)).unwrap());
    let [nobody, noone] = issued;
    stage.issued.insert("nobody", nobody);
    stage.issued.insert("noone", noone);
    // They are refused once a request comes: so they hold their places without one.
    let mut held = Vec::new();
    for certificate in ["nobody", "noone"] {
        held.push(Call::slots().certificate(certificate).connect(&stage).await.unwrap());
    }
    while stage.counted("connections") < 2 {
        tokio::task::yield_now().await;
    }
    let third = Call::slots().certificate("nobody").connect(&stage).await;
    if let Ok(third) = third {
        assert!(is_closed(third).await.is_empty());
    }
    assert!(stage.counted("connection_errors_total{reason=\"no_slot\"}") >= 1);
    assert_eq!(stage.hears(Call::slots()).await.status, 200);
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_one_name_have_so_many_connections_and_no_more() {
    let stage = limited("certificate-connections-max = 2").await;
    let (first, second) = (opened(&stage, "hub").await, opened(&stage, "hub").await);
    assert!(first.is_some() && second.is_some());
    assert!(opened(&stage, "hub").await.is_none());
    assert!(opened(&stage, "clinic").await.is_some());
    let refused = "connections_refused_total{share=\"certificate_connections\"}";
    assert_eq!(stage.counted(refused), 1);
    drop((first, second));
    while opened(&stage, "hub").await.is_none() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_places_run_short_the_idlest_of_whoever_holds_most_is_closed() {
    let stage = limited("connections-max = 4\nidle = \"10m\"").await;
    let mut idlest = opened(&stage, "hub").await.unwrap();
    let others = [opened(&stage, "hub").await.unwrap(), opened(&stage, "hub").await.unwrap()];
    let mut alone = opened(&stage, "clinic").await.unwrap();
    let _late = opened(&stage, "clinic").await.unwrap();
    for mut other in others {
        other.stream.write_all(&Call::slots().bytes()).await.unwrap();
        assert!(hear(&mut other).await.is_some(), "who was used later is kept");
    }
    assert!(!idlest.more().await, "the first of the hub's is closed");
    let call = Call::slots().certificate("clinic");
    alone.stream.write_all(&call.bytes()).await.unwrap();
    assert!(hear(&mut alone).await.is_some(), "who holds fewer keeps them");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_after_some_requests_that_identify_nobody() {
    let stage = Stage::new().await;
    let (good, bad) = (Call::slots(), Call::slots().without("Ssp-From"));
    let mut wire = Wire::new(good.connect(&stage).await.unwrap());
    // One that is identified begins the count anew.
    for call in [&bad; 15].into_iter().chain([&good]).chain([&bad; 15]) {
        wire.stream.write_all(&call.bytes()).await.unwrap();
        assert!(hear(&mut wire).await.is_some());
    }
    wire.stream.write_all(&bad.bytes()).await.unwrap();
    assert_eq!(hear(&mut wire).await.unwrap().token(), Some("from_missing"));
    assert!(!wire.more().await);
}

/// Reads until the gateway ends the connection.
async fn is_closed<S: tokio::io::AsyncRead + Unpin>(stream: S) -> Vec<u8> {
    let mut wire = Wire::new(stream);
    while wire.more().await {}
    wire.unread
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_never_speaks_tls_is_closed() {
    let stage = limited("handshake = \"200ms\"").await;
    let silent = TcpStream::connect(stage.address()).await.unwrap();
    let mut halting = TcpStream::connect(stage.address()).await.unwrap();
    halting.write_all(b"\x16\x03\x01\x02").await.unwrap();
    assert!(is_closed(silent).await.is_empty());
    is_closed(halting).await;
    stage.is_calm().await;
    assert_eq!(stage.counted("tls_handshakes_total{result=\"timed_out\"}"), 2);
    assert_eq!(stage.hears(Call::slots()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_end_closes_its_connection() {
    let stage = limited("head = \"200ms\"").await;
    let call = Call::slots();
    let bytes = call.bytes();
    for part in [1, 20, bytes.len() - 1] {
        let mut stream = call.connect(&stage).await.unwrap();
        stream.write_all(&bytes[..part]).await.unwrap();
        is_closed(stream).await;
    }
    // The same after a first request.
    let mut wire = Wire::new(call.connect(&stage).await.unwrap());
    wire.stream.write_all(&bytes).await.unwrap();
    assert_eq!(hear(&mut wire).await.unwrap().status, 200);
    wire.stream.write_all(b"G").await.unwrap();
    is_closed(wire.stream).await;
    stage.is_calm().await;
    assert_eq!(stage.provider.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_request_is_closed() {
    let stage = limited("idle = \"200ms\"").await;
    let call = Call::slots();
    assert!(is_closed(call.connect(&stage).await.unwrap()).await.is_empty());
    let mut wire = Wire::new(call.connect(&stage).await.unwrap());
    wire.stream.write_all(&call.bytes()).await.unwrap();
    assert_eq!(hear(&mut wire).await.unwrap().status, 200);
    assert!(is_closed(wire.stream).await.is_empty());
    stage.is_calm().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_longer_than_the_idle_deadline_is_not_idle() {
    let stage = limited("idle = \"50ms\"\nhead = \"50ms\"").await;
    for call in [Call::slots(), Call::slots().http2()] {
        let told = Arc::new(Notify::new());
        stage.provider.does(Act::WriteWhenTold(Arc::clone(&told), answer("200 OK", "", "{}")));
        let asked = stage.provider.received().len();
        // Another connection lives and dies of idleness three times meanwhile.
        let (answer, ()) = tokio::join!(stage.hears(call.clone()), async {
            stage.provider.has_received(asked + 1).await;
            for _ in 0..3 {
                is_closed(Call::slots().connect(&stage).await.unwrap()).await;
            }
            told.notify_one();
        });
        assert_eq!((answer.status, answer.complete), (200, true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_connection_without_a_request_is_closed() {
    let stage = limited("head = \"200ms\"\nidle = \"200ms\"").await;
    let call = Call::slots().http2();
    is_closed(call.connect(&stage).await.unwrap()).await;
    let mut stream = call.connect(&stage).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    is_closed(stream).await;
    // The same after a first request.
    let stream = TokioIo::new(call.connect(&stage).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(call.request()).await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.into_body().collect().await.unwrap();
    connection.await.unwrap().unwrap();
    stage.is_calm().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_reads_nothing_is_given_up() {
    let limits =
        "[listener.limits]\nwrite-stall = \"300ms\"\n[throttle]\npractice-exchanges-max = 1";
    let stage = Stage::with(|files| files.add(limits)).await;
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 268435456\r\n\r\n".to_vec();
    stage.provider.does(Act::Pour(head, 256 << 20));
    let call = Call::slots();
    let mut stream = call.connect(&stage).await.unwrap();
    stream.write_all(&call.bytes()).await.unwrap();
    let record = stage.closed(1).await;
    assert_eq!((&record["outcome"], &record["ended_by"]), (&"aborted".into(), &"consumer".into()));
    assert_eq!(record["status"], 200);
    stage.is_calm().await;
    stage.provider.has_ended(1).await;
    stage.provider.does(Act::ok());
    assert_eq!(stage.hears(Call::slots()).await.status, 200);
    drop(stream);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_beyond_the_slots_waits_for_an_answer_under_way() {
    let stage = limited("connections-max = 1").await;
    let told = Arc::new(Notify::new());
    stage.provider.does(Act::WriteWhenTold(Arc::clone(&told), answer("200 OK", "", "{}")));
    let call = Call::slots();
    let mut first = Wire::new(call.connect(&stage).await.unwrap());
    first.stream.write_all(&call.bytes()).await.unwrap();
    stage.provider.has_received(1).await;
    stage.provider.does(Act::ok());
    let mut second = Box::pin(stage.hears(Call::slots()));
    let answered = async {
        // The second has been accepted, and asks for the first one's place.
        while stage.counted("connections") < 1 {
            tokio::task::yield_now().await;
        }
        told.notify_one();
        let answer = hear(&mut first).await.unwrap();
        (answer.status, first.more().await)
    };
    let (first, second) = tokio::join!(answered, &mut second);
    assert_eq!(first, (200, false), "answered, and then closed");
    assert_eq!(second.status, 200);
    drop(second);
    stage.is_calm().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_without_a_certificate_have_few_slots() {
    let stage = limited("unverified-max = 1").await;
    let stranger = Call::slots().certificate("none");
    let first = stranger.connect(&stage).await.unwrap();
    while stage.counted("tls_handshakes_total{result=\"no_certificate\"}") < 1 {
        tokio::task::yield_now().await;
    }
    if let Ok(mut second) = stranger.connect(&stage).await {
        drop(second.write_all(&stranger.bytes()).await);
        assert!(is_closed(second).await.is_empty());
    }
    assert_eq!(stage.counted("connection_errors_total{reason=\"no_slot\"}"), 1);
    assert_eq!(stage.hears(Call::slots()).await.status, 200);
    drop(first);
    stage.is_calm().await;
    assert_eq!(stage.hears(stranger).await.token(), Some("certificate_missing"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order() {
    let stage = Stage::new().await;
    stage.provider.plays(|request| Act::answer("200 OK", "", request.header("x-number").unwrap()));
    let numbers: Vec<String> = (0..100).map(|number: i32| number.to_string()).collect();
    let calls = numbers.iter().map(|number| Call::slots().with("X-Number", number).bytes());
    let bytes: Vec<u8> = calls.flatten().collect();
    let stream = Call::slots().connect(&stage).await.unwrap();
    let (reader, mut writer) = tokio::io::split(stream);
    let mut wire = Wire::new(reader);
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
    stage.is_calm().await;
}

/// More than the sockets on the way hold.
const PIPELINED_BYTES: usize = 48 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_not_read_far_ahead_of_the_answers() {
    let stage = Stage::new().await;
    let told = Arc::new(Notify::new());
    stage.provider.does(Act::WriteWhenTold(Arc::clone(&told), answer("200 OK", "", "{}")));
    let call = Call::slots().with("X-Fill", &"v".repeat(8_000));
    let (reader, mut writer) = tokio::io::split(call.connect(&stage).await.unwrap());
    let mut wire = Wire::new(reader);
    let bytes = call.bytes();
    let writing = async {
        for _ in 0..PIPELINED_BYTES / bytes.len() {
            writer.write_all(&bytes).await.unwrap();
        }
    };
    let others = async {
        stage.provider.has_received(1).await;
        stage.provider.does(Act::ok());
        for _ in 0..50 {
            assert_eq!(stage.hears(Call::slots()).await.status, 200);
        }
    };
    tokio::select! {
        () = writing => panic!("all of it was read while the first waits for its answer"),
        () = others => {}
    }
    told.notify_one();
    for _ in 0..50 {
        assert_eq!(hear(&mut wire).await.expect("an answer").status, 200);
    }
    drop((wire, writer));
    stage.is_calm().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_refused_before_its_body_has_come_ends_the_connection_and_says_so() {
    let stage = limited("linger = \"10ms\"").await;
    let refused = Call::book().without("Ssp-To").unframed();
    for call in [
        refused.clone().with("Content-Length", "900000"),
        refused.clone().with("Transfer-Encoding", "chunked"),
        refused.clone().method("PUT").with("Content-Length", "900000"),
        refused.with("Content-Length", "9").with("Expect", "100-continue"),
    ] {
        let mut wire = Wire::new(call.connect(&stage).await.unwrap());
        wire.stream.write_all(&call.body(b"").bytes()).await.unwrap();
        let answer = hear(&mut wire).await.expect("an answer");
        answer.is_a_proper_refusal();
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(wire.ends_cleanly().await && wire.unread.is_empty());
    }
    assert!(stage.provider.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_before_its_body_has_come_ends_the_connection_and_says_so_whatever_its_method()
 {
    let stage = limited("linger = \"10ms\"").await;
    for (method, framing) in [
        ("GET", ("Content-Length", "900000")),
        ("DELETE", ("Content-Length", "900000")),
        ("DELETE", ("Transfer-Encoding", "chunked")),
    ] {
        let call = Call::slots().method(method).with(framing.0, framing.1);
        let mut wire = Wire::new(call.connect(&stage).await.unwrap());
        // What could be a request follows in place of the body.
        wire.stream.write_all(&call.bytes()).await.unwrap();
        let answer = hear(&mut wire).await.expect("an answer");
        answer.is_a_proper_refusal();
        assert_eq!(answer.header("connection"), Some("close"), "{method}");
        drop(wire.stream.write_all(&Call::slots().bytes()).await);
        while wire.more().await {}
        assert!(wire.unread.is_empty(), "{method}: {:?}", String::from_utf8_lossy(&wire.unread));
    }
    assert!(stage.provider.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_does_not_end_its_side_is_not_lingered_for_long() {
    let stage = limited("linger = \"200ms\"").await;
    let call = Call::book().without("Ssp-To").unframed().with("Content-Length", "900000");
    let mut wire = Wire::new(call.connect(&stage).await.unwrap());
    wire.stream.write_all(&call.body(b"").bytes()).await.unwrap();
    assert_eq!(hear(&mut wire).await.expect("an answer").status, 400);
    // It neither sends nor goes.
    stage.is_calm().await;
    drop(wire);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_does_not_stop_sending_is_read_from_for_a_mebibyte_and_no_more() {
    let stage = limited("linger = \"10m\"").await;
    let call = Call::book().without("Ssp-To").unframed().with("Content-Length", "900000000");
    let (reader, mut writer) = tokio::io::split(call.connect(&stage).await.unwrap());
    let mut wire = Wire::new(reader);
    writer.write_all(&call.body(b"").bytes()).await.unwrap();
    assert_eq!(hear(&mut wire).await.expect("an answer").status, 400);
    assert!(wire.ends_cleanly().await, "no more is said");
    assert_eq!(stage.hears(Call::slots()).await.status, 200);
    let mut sent = 0_usize;
    while writer.write_all(&[b' '; 16 * 1024]).await.is_ok() && writer.flush().await.is_ok() {
        sent += 16 * 1024;
        assert!(sent < 256 << 20, "it is read from without an end");
    }
    assert!(sent >= 1 << 20, "after {sent} bytes");
    stage.is_calm().await;
}

/// Bytes that a process has written by `write` and `writev`. Sockets are written to by `send`, unless several
/// pieces are written at once.
fn written(served: &Served) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{}/io", served.0.id())).unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn several_pieces_of_an_answer_are_written_at_once() {
    let length = 10_000_000;
    let stage = Stage::new().await;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
    stage.provider.does(Act::Pour(head.into_bytes(), length));
    let program = std::process::Command::new(env!("CARGO_BIN_EXE_spine-proxy"));
    let text = stage.text("spine-proxy.toml").replace("\"audit\"", "\"own\"");
    let served = serve_at(program, &stage, &text, "info");
    let before = written(&served);
    let call = Call::slots();
    let mut wire = Wire::new(call.connect_to(&stage, served.1).await.unwrap());
    wire.stream.write_all(&call.bytes()).await.unwrap();
    assert!(wire.head().await.unwrap().start.contains(" 200 "));
    assert_eq!(wire.drain(length).await, length);
    let by_pieces = written(&served) - before;
    assert!(by_pieces >= u64::try_from(length).unwrap(), "{by_pieces} of {length} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_streams_of_one_connection_are_all_answered() {
    let stage = Stage::new().await;
    stage.provider.plays(|request| Act::answer("200 OK", "", request.header("x-number").unwrap()));
    let stream = TokioIo::new(Call::slots().http2().connect(&stage).await.unwrap());
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let exchanges: Vec<_> = (0..50)
        .map(|number: i32| {
            let mut sender = sender.clone();
            let call = Call::slots().http2().with("X-Number", &number.to_string());
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
    stage.is_calm().await;
    assert_eq!(stage.provider.received().len(), 50);
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
async fn the_second_port_says_how_it_is() {
    let stage = Stage::new().await;
    stage.hears(Call::slots()).await;
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
        let text = admin(stage.server.admin, method, path).await.unwrap();
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {text}");
        assert!(text.contains(part), "{path}: {text}");
        assert!(!text.contains("200000000359") && !text.contains("A20047"), "{path}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_end_in_time_is_counted() {
    let stage = limited("head = \"200ms\"").await;
    let mut wire = Wire::new(Call::slots().connect(&stage).await.unwrap());
    wire.stream.write_all(b"G").await.unwrap();
    assert!(!wire.more().await);
    drop(wire);
    stage.is_calm().await;
    assert_eq!(stage.counted("connection_errors_total{reason=\"head_timed_out\"}"), 1);
}
