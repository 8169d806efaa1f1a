//! How fast bodies and answers must come: only the time for which their sender is waited for counts against it.

use std::sync::Arc;
use std::time::Instant;

use tokio::io::AsyncWriteExt as _;
use tokio::sync::Notify;

use testkit::call::hear;
use testkit::provider::answer;
use testkit::wire::Wire;
use testkit::{Act, Call, Stage};

/// A stage on which [`Stage::lets_pass`] takes 300 ms each time, with these deadlines of the provider leg.
async fn stage(deadlines: &str) -> Stage {
    Stage::with(|files| {
        files.add("[listener.limits]\nidle = \"300ms\"");
        files.add(&format!("[provider.deadlines]\n{deadlines}"));
    })
    .await
}

/// More than the sockets on the way hold.
const LARGE: usize = 32 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_its_consumer_does_not_take_is_not_slow() {
    let stage = stage("body-idle = \"600ms\"").await;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
    stage.provider.does(Act::Pour(head.into_bytes(), LARGE));
    let call = Call::slots();
    let mut wire = Wire::new(call.connect(&stage).await.unwrap());
    wire.stream.write_all(&call.bytes()).await.unwrap();
    assert!(wire.head().await.unwrap().start.contains(" 200 "));
    let mut taken = 0;
    for left in [LARGE / 2, 0] {
        stage.lets_pass(3).await;
        taken += wire.drain(LARGE - left - taken).await;
        assert!(taken >= LARGE - left, "cut after {taken} bytes");
    }
    assert_eq!(stage.closed(1).await["outcome"], "answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_its_provider_does_not_take_is_not_slow() {
    let stage = stage("body-idle = \"600ms\"").await;
    let told = Arc::new(Notify::new());
    stage.provider.does(Act::ReadWhenTold(Arc::clone(&told), answer("201 Created", "", "{}")));
    let call = Call::book().unframed().with("Content-Length", &LARGE.to_string()).body(b"");
    let (head, body) = (call.bytes(), vec![b' '; LARGE]);
    let exchange = async {
        let mut wire = Wire::new(call.connect(&stage).await.unwrap());
        wire.stream.write_all(&head).await.unwrap();
        wire.stream.write_all(&body).await.unwrap();
        wire.stream.flush().await.unwrap();
        hear(&mut wire).await.expect("an answer")
    };
    let rest = async {
        while stage.provider.connections() == 0 {
            tokio::task::yield_now().await;
        }
        stage.lets_pass(3).await;
        told.notify_one();
    };
    let (answer, ()) = tokio::join!(exchange, rest);
    assert_eq!((answer.status, answer.complete), (201, true), "{answer:?}");
    assert_eq!(stage.provider.received()[0].body.len(), LARGE);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_piece_of_an_upload_has_the_time_for_a_piece() {
    let stage = stage("body-idle = \"2s\"\nbody-rate-min = 1").await;
    let call = Call::book().unframed().with("Content-Length", "80");
    let mut wire = Wire::new(call.connect(&stage).await.unwrap());
    wire.stream.write_all(&call.body(b"").bytes()).await.unwrap();
    for _ in 0..8 {
        wire.stream.write_all(&[b' '; 10]).await.unwrap();
        wire.stream.flush().await.unwrap();
        stage.lets_pass(1).await;
    }
    assert_eq!(hear(&mut wire).await.expect("an answer").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_for_an_answer_is_paused_while_its_consumer_is_slow() {
    let stage = stage("response-head = \"1s\"").await;
    stage.provider.does(Act::answer("201 Created", "", "{}"));
    let call = Call::book().unframed().with("Content-Length", "20");
    let mut wire = Wire::new(call.connect(&stage).await.unwrap());
    wire.stream.write_all(&call.body(b"half of it").bytes()).await.unwrap();
    while stage.provider.connections() == 0 {
        tokio::task::yield_now().await;
    }
    stage.lets_pass(5).await;
    wire.stream.write_all(b" the other").await.unwrap();
    let answer = hear(&mut wire).await.expect("an answer");
    assert_eq!(answer.status, 201, "{answer:?}");
    assert!(stage.provider.received()[0].complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_for_an_answer_runs_from_the_last_byte_that_was_sent() {
    let stage = stage("response-head = \"1s\"").await;
    stage.provider.does(Act::Silence);
    let call = Call::book().unframed().with("Content-Length", "20");
    let mut wire = Wire::new(call.connect(&stage).await.unwrap());
    wire.stream.write_all(&call.body(b"half of it").bytes()).await.unwrap();
    while stage.provider.connections() == 0 {
        tokio::task::yield_now().await;
    }
    stage.lets_pass(2).await;
    let last = Instant::now();
    wire.stream.write_all(b" the other").await.unwrap();
    let answer = hear(&mut wire).await.expect("an answer");
    assert_eq!(answer.token(), Some("outcome_unknown_in_time"), "{answer:?}");
    // No load can make it come sooner.
    assert!(last.elapsed().as_millis() >= 1000, "{:?}", last.elapsed());
}
