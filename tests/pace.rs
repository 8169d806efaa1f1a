//! Minimum speed of bodies and answers: only the time spent waiting for the sender counts against it.

use std::sync::Arc;
use std::time::Instant;

use tokio::io::AsyncWriteExt as _;
use tokio::sync::Notify;

use testkit::provider::answer;
use testkit::raw_connection::RawConnection;
use testkit::request::read_answer;
use testkit::{ProviderAction, TestBed, TestRequest};

/// A test bed on which [`TestBed::wait_idle_deadlines`] takes 300 ms each time, with these deadlines of the provider leg.
async fn bed(deadlines: &str) -> TestBed {
    TestBed::with(|files| {
        files.add("[listener.limits]\nidle = \"300ms\"");
        files.add(&format!("[provider.deadlines]\n{deadlines}"));
    })
    .await
}

/// More than the sockets on the way hold.
const LARGE: usize = 32 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_its_consumer_does_not_take_is_not_slow() {
    let bed = bed("body-idle = \"600ms\"").await;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
    bed.provider.set_action(ProviderAction::Pour(head.into_bytes(), LARGE));
    let call = TestRequest::slots();
    let mut wire = RawConnection::new(call.connect(&bed).await.unwrap());
    wire.stream.write_all(&call.bytes()).await.unwrap();
    assert!(wire.head().await.unwrap().start.contains(" 200 "));
    let mut taken = 0;
    for left in [LARGE / 2, 0] {
        bed.wait_idle_deadlines(3).await;
        taken += wire.drain(LARGE - left - taken).await;
        assert!(taken >= LARGE - left, "cut after {taken} bytes");
    }
    assert_eq!(bed.wait_for_closed_line(1).await["outcome"], "answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_its_provider_does_not_take_is_not_slow() {
    let bed = bed("body-idle = \"600ms\"").await;
    let told = Arc::new(Notify::new());
    bed.provider.set_action(ProviderAction::ReadWhenNotified(
        Arc::clone(&told),
        answer("201 Created", "", "{}"),
    ));
    let call = TestRequest::book()
        .without_content_length()
        .with("Content-Length", &LARGE.to_string())
        .body(b"");
    let (head, body) = (call.bytes(), vec![b' '; LARGE]);
    let exchange = async {
        let mut wire = RawConnection::new(call.connect(&bed).await.unwrap());
        wire.stream.write_all(&head).await.unwrap();
        wire.stream.write_all(&body).await.unwrap();
        wire.stream.flush().await.unwrap();
        read_answer(&mut wire).await.expect("an answer")
    };
    let rest = async {
        while bed.provider.connections() == 0 {
            tokio::task::yield_now().await;
        }
        bed.wait_idle_deadlines(3).await;
        told.notify_one();
    };
    let (answer, ()) = tokio::join!(exchange, rest);
    assert_eq!((answer.status, answer.complete), (201, true), "{answer:?}");
    assert_eq!(bed.provider.received()[0].body.len(), LARGE);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_piece_of_an_upload_has_the_time_for_a_piece() {
    let bed = bed("body-idle = \"2s\"\nbody-rate-min = 1").await;
    let call = TestRequest::book().without_content_length().with("Content-Length", "80");
    let mut wire = RawConnection::new(call.connect(&bed).await.unwrap());
    wire.stream.write_all(&call.body(b"").bytes()).await.unwrap();
    for _ in 0..8 {
        wire.stream.write_all(&[b' '; 10]).await.unwrap();
        wire.stream.flush().await.unwrap();
        bed.wait_idle_deadlines(1).await;
    }
    assert_eq!(read_answer(&mut wire).await.expect("an answer").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_for_an_answer_is_paused_while_its_consumer_is_slow() {
    let bed = bed("response-head = \"1s\"").await;
    bed.provider.set_action(ProviderAction::answer("201 Created", "", "{}"));
    let call = TestRequest::book().without_content_length().with("Content-Length", "20");
    let mut wire = RawConnection::new(call.connect(&bed).await.unwrap());
    wire.stream.write_all(&call.body(b"half of it").bytes()).await.unwrap();
    while bed.provider.connections() == 0 {
        tokio::task::yield_now().await;
    }
    bed.wait_idle_deadlines(5).await;
    wire.stream.write_all(b" the other").await.unwrap();
    let answer = read_answer(&mut wire).await.expect("an answer");
    assert_eq!(answer.status, 201, "{answer:?}");
    assert!(bed.provider.received()[0].complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_for_an_answer_runs_from_the_last_byte_that_was_sent() {
    let bed = bed("response-head = \"1s\"").await;
    bed.provider.set_action(ProviderAction::Silence);
    let call = TestRequest::book().without_content_length().with("Content-Length", "20");
    let mut wire = RawConnection::new(call.connect(&bed).await.unwrap());
    wire.stream.write_all(&call.body(b"half of it").bytes()).await.unwrap();
    while bed.provider.connections() == 0 {
        tokio::task::yield_now().await;
    }
    bed.wait_idle_deadlines(2).await;
    let last = Instant::now();
    wire.stream.write_all(b" the other").await.unwrap();
    let answer = read_answer(&mut wire).await.expect("an answer");
    assert_eq!(answer.token(), Some("outcome_unknown_in_time"), "{answer:?}");
    // No load can make it come sooner.
    assert!(last.elapsed().as_millis() >= 1000, "{:?}", last.elapsed());
}
