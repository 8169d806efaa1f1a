//! Message framing: each message is framed anew, and framing headers are not forwarded.

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt as _;

use testkit::provider::answer;
use testkit::raw_connection::{Message, RawConnection};
use testkit::request::read_answer;
use testkit::{ProviderAction, TestBed, TestRequest};

/// The values of `Content-Length`, then those of `Transfer-Encoding`.
fn framing(message: &Message) -> (Vec<&str>, Vec<&str>) {
    let values = |name: &str| {
        let lines = message.headers.iter().filter(|(header, _)| header.eq_ignore_ascii_case(name));
        lines.map(|(_, value)| value.as_str()).collect()
    };
    (values("content-length"), values("transfer-encoding"))
}

/// Sends a call's bytes and returns the answer as it comes.
async fn asks(bed: &TestBed, call: &TestRequest) -> Message {
    let mut wire = RawConnection::new(call.connect(bed).await.unwrap());
    wire.stream.write_all(&call.bytes()).await.unwrap();
    let mut message = wire.head().await.expect("an answer");
    wire.body(&mut message, false).await;
    message
}

/// A chunked body with extensions, then trailers that would be headers of the message.
const CHUNKED: &[u8] =
    b"2;a=b\r\n{ \r\n001 ;c\r\n}\r\n0;d\r\nX-Trailer: 1\r\nContent-Length: 9\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_framed_anew_for_its_provider() {
    let bed = TestBed::new().await;
    let with = |call: TestRequest, name: &str, value: &str, body: &[u8]| {
        call.without_content_length().with(name, value).body(body)
    };
    let chunked = [("transfer-encoding", "chunked")];
    let none: &[(&str, &str)] = &[];
    for (call, framed) in [
        (
            with(TestRequest::book(), "Content-Length", "0000002", b"{}"),
            &[("content-length", "2")][..],
        ),
        (with(TestRequest::book(), "Transfer-Encoding", "CHUNKED", CHUNKED), &chunked),
        (with(TestRequest::slots(), "Content-Length", "00", b""), none),
        (with(TestRequest::slots(), "Transfer-Encoding", "chunked", b"0;a\r\nX: 1\r\n\r\n"), none),
        (TestRequest::slots(), none),
    ] {
        assert_eq!(bed.send(call.clone()).await.status, 200);
        let received = bed.provider.received().pop().unwrap();
        let values = |wanted: &str| {
            let named = framed.iter().filter(|(name, _)| *name == wanted);
            named.map(|(_, value)| *value).collect::<Vec<_>>()
        };
        let due = (values("content-length"), values("transfer-encoding"));
        assert_eq!(framing(&received), due, "{call:?}");
        assert!(received.header("x-trailer").is_none() && received.complete);
        if framed == chunked {
            assert_eq!(received.body, b"{ }");
            assert!(received.framing.iter().all(|line| !line.contains([';', ':'])), "{received:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_framed_anew_for_its_consumer() {
    let bed = TestBed::new().await;
    bed.provider.set_action(ProviderAction::Write(
        b"HTTP/1.1 200 OK\r\nContent-Length: 0002\r\n\r\n{}".to_vec(),
    ));
    let sized = asks(&bed, &TestRequest::slots()).await;
    assert_eq!(framing(&sized), (vec!["2"], vec![]));
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: CHUNKED\r\nTrailer: X-Trailer\r\n\r\n";
    bed.provider.set_action(ProviderAction::Write([head, CHUNKED].concat()));
    let call = TestRequest::slots().with("TE", "trailers");
    let chunked = asks(&bed, &call).await;
    assert_eq!(framing(&chunked), (vec![], vec!["chunked"]));
    assert_eq!((chunked.body.as_slice(), chunked.complete), (&b"{ }"[..], true));
    assert!(chunked.framing.iter().all(|line| !line.contains([';', ':'])), "{chunked:?}");
    let call = TestRequest::slots().http2().with("TE", "trailers");
    let io = TokioIo::new(call.connect(&bed).await.unwrap());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let body = sender.send_request(call.request()).await.unwrap().into_body().collect().await;
    let body = body.unwrap();
    assert_eq!(body.trailers(), None);
    assert_eq!(body.to_bytes(), Bytes::from_static(b"{ }"));
}

#[tokio::test(flavor = "multi_thread")]
async fn chunk_extensions_and_trailers_of_an_answer_have_limits() {
    let bed = TestBed::new().await;
    let many: String = (0..10_000).map(|number| format!("X-{number}: 1\r\n")).collect();
    let long = "a".repeat(20_000);
    for body in [
        format!("2;{long}\r\n{{}}\r\n0\r\n\r\n"),
        format!("1;{}\r\na\r\n", "a".repeat(1000)).repeat(20) + "0\r\n\r\n",
        format!("2\r\n{{}}\r\n0\r\nX: {long}\r\n\r\n"),
        format!("2\r\n{{}}\r\n0\r\n{many}\r\n"),
    ] {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        bed.provider.set_action(ProviderAction::Write(format!("{head}{body}").into_bytes()));
        for call in [TestRequest::slots(), TestRequest::slots().http2()] {
            let answer = bed.send(call).await;
            assert!(!answer.complete, "{body:.20}: {answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_without_a_body_is_sent_with_a_length_of_nought() {
    let bed = TestBed::new().await;
    let book = TestRequest::book().body(b"");
    let amend = TestRequest::to("update:appointment-1", "PUT", "/Appointment/1");
    let sized = book.clone().with("Content-Length", "0");
    for call in [book.clone(), book.http2(), amend.clone(), amend.http2(), sized] {
        assert_eq!(bed.send(call.clone()).await.status, 200, "{call:?}");
        let received = bed.provider.received().pop().unwrap();
        assert_eq!(framing(&received), (vec!["0"], vec![]), "{call:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_of_a_read_is_sent_before_its_body_has_ended() {
    let bed = TestBed::with(|files| files.add("[provider.deadlines]\nbody-idle = \"200ms\"")).await;
    // An empty body, as far as it has come: its end has not.
    let call = TestRequest::slots().without_content_length().with("Transfer-Encoding", "chunked");
    let mut wire = RawConnection::new(call.connect(&bed).await.unwrap());
    wire.stream.write_all(&call.bytes()).await.unwrap();
    let answer = read_answer(&mut wire).await.expect("an answer");
    assert_eq!((answer.status, answer.token()), (408, Some("body_timed_out")));
    assert_eq!(bed.provider.accepted_connections(), 0);
    for length in [1, 100_000] {
        let body = format!("{length:x}\r\n{}\r\n0\r\n\r\n", " ".repeat(length));
        bed.expect_refusal(call.clone().body(body.as_bytes()), "body_on_get").await;
        bed.expect_refusal(TestRequest::slots().body(&vec![b' '; length]).http2(), "body_on_get")
            .await;
    }
    assert_eq!(bed.provider.accepted_connections(), 0);
}

/// Writes a call as HTTP/1.0.
async fn says(wire: &mut RawConnection<impl tokio::io::AsyncWrite + Unpin>, call: &TestRequest) {
    let text = String::from_utf8(call.bytes()).unwrap().replacen("HTTP/1.1", "HTTP/1.0", 1);
    wire.stream.write_all(text.as_bytes()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_of_http_1_0_gets_no_chunks_and_keeps_its_connection_if_it_asks_for_that() {
    let bed = TestBed::new().await;
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    bed.provider.set_action(ProviderAction::Write([&chunked[..], CHUNKED].concat()));
    for call in [TestRequest::slots(), TestRequest::slots().with("Connection", "keep-alive")] {
        let mut wire = RawConnection::new(call.connect(&bed).await.unwrap());
        says(&mut wire, &call).await;
        assert!(wire.ends_cleanly().await, "the end of the connection is that of the answer");
        let mut message = wire.head().await.unwrap();
        assert_eq!(message.start, "HTTP/1.0 200 OK");
        wire.body(&mut message, true).await;
        assert_eq!(framing(&message), (vec![], vec![]));
        assert_eq!(message.body, b"{ }");
    }
    bed.provider.set_action(ProviderAction::ok());
    let call = TestRequest::book().with("Connection", "keep-alive").with("Expect", "100-continue");
    let mut wire = RawConnection::new(call.connect(&bed).await.unwrap());
    for _ in 0..3 {
        says(&mut wire, &call).await;
        // An interim answer would be none to it.
        let answer = read_answer(&mut wire).await.expect("an answer");
        assert_eq!((answer.status, answer.complete), (200, true));
        assert_eq!(answer.header("connection"), Some("keep-alive"));
    }
    says(&mut wire, &TestRequest::slots()).await;
    assert_eq!(read_answer(&mut wire).await.unwrap().status, 200);
    assert!(wire.ends_cleanly().await && wire.unread.is_empty());
    assert!(bed.provider.received().iter().all(|request| request.start.ends_with(" HTTP/1.1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_http_1_0_is_passed_on_as_one_of_http_1_1() {
    let bed = TestBed::new().await;
    let sized = "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}";
    let until_the_end = "HTTP/1.0 200 OK\r\n\r\n{}";
    for (act, framed) in [
        (ProviderAction::Write(sized.into()), (vec!["2"], vec![])),
        (ProviderAction::WriteAndClose(sized.into()), (vec!["2"], vec![])),
        (ProviderAction::WriteAndClose(until_the_end.into()), (vec![], vec!["chunked"])),
    ] {
        bed.provider.set_action(act.clone());
        let message = asks(&bed, &TestRequest::slots()).await;
        assert_eq!(message.start, "HTTP/1.1 200 OK");
        assert_eq!(framing(&message), framed, "{act:?}");
        assert_eq!((message.body.as_slice(), message.complete), (&b"{}"[..], true));
        let answer = bed.send(TestRequest::book().http2()).await;
        assert_eq!((answer.status, answer.text().as_str(), answer.complete), (200, "{}", true));
    }
    assert_eq!(bed.provider.connections(), 6, "none was said to be kept");
    let kept = answer("200 OK", "Connection: keep-alive\r\n", "{}");
    let kept = String::from_utf8(kept).unwrap().replacen("HTTP/1.1", "HTTP/1.0", 1);
    bed.provider.set_action(ProviderAction::Write(kept.into()));
    for _ in 0..3 {
        let message = asks(&bed, &TestRequest::slots()).await;
        assert_eq!(message.start, "HTTP/1.1 200 OK");
        assert_eq!(message.header("connection"), None);
    }
    assert_eq!(bed.provider.connections(), 7, "one that was is");
}
