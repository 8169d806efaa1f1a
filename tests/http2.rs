//! HTTP/2 requests without an equivalent in HTTP/1.1: a body ended by a separate frame, a closed window.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt as _;

use testkit::frames::{
    self, ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, SETTINGS, WINDOW_UPDATE, frame,
};
use testkit::raw_connection::RawConnection;
use testkit::{ProviderAction, TestBed, TestRequest};

/// A body whose bytes are there long before its end is said: here, never.
struct Unended(Option<Bytes>);

impl Body for Unended {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.0.take() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None => Poll::Pending,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_whose_end_is_sent_late_is_never_reported_as_unsent() {
    let bed = TestBed::new().await;
    bed.provider.set_action(ProviderAction::WriteAndClose(Vec::new()));
    for body in [&br#"{"resourceType":"Appointment"}"#[..], b""] {
        let asked = bed.provider.received().len();
        let length = body.len().to_string();
        let call = TestRequest::book().http2().body(body).with("Content-Length", &length);
        let io = TokioIo::new(call.connect(&bed).await.unwrap());
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let piece = (!body.is_empty()).then(|| Bytes::copy_from_slice(body));
        let request = call.request().map(|_| Unended(piece));
        let response = sender.send_request(request).await.unwrap();
        let status = response.headers()["proxy-status"].to_str().unwrap();
        assert!(status.contains("outcome_unknown"), "{status}");
        assert!(response.headers().get("retry-after").is_none());
        let received = bed.provider.received().split_off(asked);
        assert_eq!(received.len(), 1);
        assert!(received[0].complete && received[0].body == body);
        assert_eq!(received[0].header("content-length"), Some(&*length));
        assert_eq!(bed.wait_for_closed_line(asked + 1).await["sent_whole"], true);
    }
}

/// A consumer that waits for `100 Continue` before its body is not kept waiting for a refusal; one that is
/// let through must send it (docs/evidence/limits.md).
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_does_not_wait_for_a_body_that_was_only_announced() {
    let bed = TestBed::with(|files| {
        files.add("[provider.deadlines]\nbody-idle = \"200ms\"");
    })
    .await;
    for (call, status) in
        [(TestRequest::book().set("Ssp-From", "no asid"), 400), (TestRequest::book(), 408)]
    {
        let call = call.http2().with("Expect", "100-continue");
        let io = TokioIo::new(call.connect(&bed).await.unwrap());
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let request = call.request().map(|_| Unended(None));
        assert_eq!(sender.send_request(request).await.unwrap().status(), status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_shuts_its_window_does_not_keep_its_place() {
    let bed = TestBed::with(|files| {
        files.add("[listener.limits]\nwrite-stall = \"200ms\"\n[throttle]\npractice-exchanges-max = 1\nwait = \"20s\"");
    })
    .await;
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n".to_vec();
    bed.provider.set_action(ProviderAction::Pour(head, 10_000_000));
    let call = TestRequest::slots().http2();
    let io = TokioIo::new(call.connect(&bed).await.unwrap());
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(0)
        .handshake(io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let response = sender.send_request(call.request()).await.unwrap();
    assert_eq!(response.status(), 200);
    bed.provider.set_action(ProviderAction::ok());
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200, "the place is free again");
    let closed = bed.wait_for_closed_line(1).await;
    assert_eq!(closed["outcome"], "aborted");
    assert_eq!(closed["ended_by"], "consumer");
    drop(response);
}

/// The last piece of an answer waits in the HTTP/2 library, and what the request holds must be held as long.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_taken_is_in_hand() {
    let bed = TestBed::with(|files| files.add("[listener.limits]\nin-hand-max = 3")).await;
    bed.provider.set_action(ProviderAction::answer("200 OK", "", &"x".repeat(20_000)));
    let io = TokioIo::new(TestRequest::slots().http2().connect(&bed).await.unwrap());
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1000)
        .handshake(io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut parked = Vec::new();
    for _ in 0..3 {
        let response = sender.send_request(TestRequest::slots().http2().request()).await.unwrap();
        assert_eq!(response.status(), 200);
        parked.push(response);
    }
    for call in [TestRequest::slots(), TestRequest::slots().http2()] {
        assert_eq!(bed.send(call).await.token(), Some("gateway_full"));
    }
    // Taken after all, they are whole, and there is room again.
    for response in parked {
        use http_body_util::BodyExt as _;
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), 20_000);
    }
    while bed.metric("http_requests_in_flight") > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
}

/// So much of an answer, and no more, waits for the window of each stream.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_handed_over_in_pieces_of_8_kib() {
    let bed = TestBed::new().await;
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n".to_vec();
    bed.provider.set_action(ProviderAction::Pour(head, 1_000_000));
    let mut wire = RawConnection::new(TestRequest::slots().http2().connect(&bed).await.unwrap());
    // Windows for all of it, and frames of a megabyte.
    let frame_bytes = [0, 5, 0, 0x10, 0, 0];
    let windows = [&[0, 4][..], &0x7fff_ffff_u32.to_be_bytes(), &frame_bytes].concat();
    let block = frames::block(&TestRequest::slots(), &[]);
    let bytes = [
        frames::PREFACE,
        &frame(SETTINGS, 0, 0, &windows),
        &frame(WINDOW_UPDATE, 0, 0, &0x7000_0000_u32.to_be_bytes()),
        &frame(HEADERS, END_HEADERS | END_STREAM, 1, &block),
    ];
    wire.stream.write_all(&bytes.concat()).await.unwrap();
    let (mut taken, mut longest) = (0, 0);
    loop {
        let frame = wire.frame().await.expect("all of the answer");
        if frame.kind == DATA {
            taken += frame.payload.len();
            longest = longest.max(frame.payload.len());
        }
        if frame.ends_stream() {
            break;
        }
    }
    assert_eq!((taken, longest), (1_000_000, 8 * 1024));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_request_of_a_connection_has_a_deadline_and_silence_after_it_another() {
    for (limits, asks_first) in
        [("head = \"200ms\"\nidle = \"10m\"", false), ("head = \"10m\"\nidle = \"200ms\"", true)]
    {
        let bed = TestBed::with(|files| files.add(&format!("[listener.limits]\n{limits}"))).await;
        let mut wire =
            RawConnection::new(TestRequest::slots().http2().connect(&bed).await.unwrap());
        let settings = frame(SETTINGS, 0, 0, &[]);
        wire.stream.write_all(&[frames::PREFACE, &settings].concat()).await.unwrap();
        if asks_first {
            let block = frames::block(&TestRequest::slots(), &[]);
            let asked = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block);
            wire.stream.write_all(&asked).await.unwrap();
            while !wire.frame().await.expect("an answer").ends_stream() {}
        }
        let mut was_told = false;
        while let Some(one) = wire.frame().await {
            was_told |= one.kind == GOAWAY;
            if one.kind == PING && one.flags & ACK == 0 {
                wire.stream.write_all(&frame(PING, ACK, 0, &one.payload)).await.unwrap();
            }
        }
        assert!(was_told, "{limits}");
        drop(wire);
        bed.wait_until_idle().await;
    }
}
