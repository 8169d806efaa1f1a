//! Limit of concurrent exchanges of a practice, and when a place becomes free.

use std::collections::HashSet;
use std::sync::Arc;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::Notify;

use testkit::provider::answer;
use testkit::raw_connection::RawConnection;
use testkit::request::{Version, read_answer};
use testkit::test_bed::{self, OTHER_TO};
use testkit::{ProviderAction, TestBed, TestRequest};
use tokio::io::AsyncWriteExt as _;

const ONE: &str = "[throttle]\npractice-exchanges-max = 1\nwait = \"100ms\"";
const PATIENT: &str = "[throttle]\npractice-exchanges-max = 1\nwait = \"60s\"";

async fn one_at_a_time(more: &str) -> TestBed {
    TestBed::with(|files| files.add(&format!("{ONE}\n{more}"))).await
}

async fn assert_busy(bed: &TestBed) {
    let asked = bed.provider.received().len();
    let answer = bed.send(TestRequest::slots()).await;
    assert_eq!((answer.status, answer.token()), (503, Some("provider_busy")));
    assert_eq!(answer.header("retry-after"), Some("1"));
    answer.assert_refusal_form();
    assert_eq!(bed.provider.received().len(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_to_a_full_practice_is_refused_until_a_place_is_free() {
    let bed = one_at_a_time("").await;
    let told = Arc::new(Notify::new());
    bed.provider.set_action(ProviderAction::WriteWhenNotified(
        Arc::clone(&told),
        answer("200 OK", "", "{}"),
    ));
    let first = bed.send(TestRequest::slots());
    let rest = async {
        bed.provider.wait_for_requests(1).await;
        assert_busy(&bed).await;
        told.notify_one();
    };
    let (first, ()) = tokio::join!(first, rest);
    assert_eq!(first.status, 200);
    bed.provider.set_action(ProviderAction::ok());
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_a_place_and_gets_it() {
    let bed = TestBed::with(|files| files.add(PATIENT)).await;
    let told = Arc::new(Notify::new());
    bed.provider.set_action(ProviderAction::WriteWhenNotified(
        Arc::clone(&told),
        answer("200 OK", "", "{}"),
    ));
    let calls =
        async { tokio::join!(bed.send(TestRequest::slots()), bed.send(TestRequest::book())) };
    let rest = async {
        bed.provider.wait_for_requests(1).await;
        // Both requests are in flight, and the provider has received one of them.
        while bed.metric("http_requests_in_flight") < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(bed.provider.received().len(), 1);
        told.notify_one();
        bed.provider.wait_for_requests(2).await;
        told.notify_one();
    };
    let ((first, second), ()) = tokio::join!(calls, rest);
    assert_eq!((first.status, second.status), (200, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_practice_does_not_affect_another() {
    let bed = one_at_a_time("").await;
    bed.provider.set_script(|request| match request.header("ssp-to") {
        Some(OTHER_TO) => ProviderAction::ok(),
        _ => ProviderAction::Silence,
    });
    tokio::select! {
        answer = bed.send(TestRequest::slots()) => panic!("{answer:?}"),
        () = async {
            bed.provider.wait_for_requests(1).await;
            let call = TestRequest::slots().set("Ssp-To", OTHER_TO);
            let target = call.target.replace("A20047", "B82617");
            let audience = serde_json::json!(test_bed::OTHER_ROOT);
            let answer = bed.send(call.target(&target).claim("aud", audience)).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        } => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_freed_when_its_consumer_leaves() {
    let bed = one_at_a_time("").await;
    bed.provider.set_action(ProviderAction::Silence);
    tokio::select! {
        answer = bed.send(TestRequest::slots().http2()) => panic!("{answer:?}"),
        () = bed.provider.wait_for_requests(1) => {}
    }
    let record = bed.wait_for_closed_line(1).await;
    assert_eq!((&record["outcome"], &record["ended_by"]), (&"aborted".into(), &"consumer".into()));
    // The connection to the provider is closed, as its answer is not needed.
    bed.provider.wait_for_closed_connections(1).await;
    bed.provider.set_action(ProviderAction::ok());
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
    bed.wait_until_idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_of_a_consumer_that_left_over_http1_is_freed_by_a_deadline() {
    // A consumer may close its sending side and still wait, so the gateway does not notice that it left.
    let bed = one_at_a_time("[provider.deadlines]\nresponse-head = \"200ms\"").await;
    bed.provider.set_action(ProviderAction::Silence);
    tokio::select! {
        answer = bed.send(TestRequest::slots()) => panic!("{answer:?}"),
        () = bed.provider.wait_for_requests(1) => {}
    }
    bed.wait_for_closed_line(1).await;
    bed.provider.wait_for_closed_connections(1).await;
    bed.wait_until_idle().await;
    bed.provider.set_action(ProviderAction::ok());
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
}

/// Sends a request and cancels it once `is_waiting` completes: by dropping an HTTP/2 connection or by a reset.
async fn send_and_leave(bed: &TestBed, call: TestRequest, is_waiting: impl Future<Output = ()>) {
    if call.version == Version::Http2 {
        tokio::select! {
            answer = bed.send(call) => panic!("{answer:?}"),
            () = is_waiting => {}
        }
        return;
    }
    let mut stream = call.connect(bed).await.unwrap();
    stream.write_all(&call.bytes()).await.unwrap();
    is_waiting.await;
    stream.get_ref().0.set_zero_linger().unwrap();
}

/// Asserts that the record number `count` is of a read that ended because its consumer left.
async fn assert_cancelled(bed: &TestBed, count: usize, phase: &str) {
    let record = bed.wait_for_closed_line(count).await;
    assert_eq!((&record["outcome"], &record["ended_by"]), (&"aborted".into(), &"consumer".into()));
    assert_eq!(record["ended_in"], phase, "{record}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_whose_consumer_leaves_is_removed_from_the_queue() {
    let limits = "[throttle]\npractice-exchanges-max = 1\npractice-waiting-max = 1\nwait = \"10m\"";
    let bed = TestBed::with(|files| files.add(limits)).await;
    let told = Arc::new(Notify::new());
    bed.provider.set_action(ProviderAction::WriteWhenNotified(
        Arc::clone(&told),
        answer("200 OK", "", "{}"),
    ));
    let mut first = Box::pin(bed.send(TestRequest::slots()));
    tokio::select! {
        answer = &mut first => panic!("{answer:?}"),
        () = bed.provider.wait_for_requests(1) => {}
    }
    let two_in_flight = async || {
        while bed.metric("http_requests_in_flight") < 2 {
            tokio::task::yield_now().await;
        }
    };
    for (count, call) in
        [TestRequest::slots().http2(), TestRequest::slots()].into_iter().enumerate()
    {
        send_and_leave(&bed, call, two_in_flight()).await;
        assert_cancelled(&bed, count + 1, "queue").await;
    }
    // The only place in the queue is free again, and then the place at the practice.
    let mut last = Box::pin(bed.send(TestRequest::slots()));
    tokio::select! {
        answer = &mut last => panic!("{answer:?}"),
        () = two_in_flight() => {}
    }
    told.notify_one();
    assert_eq!(first.await.status, 200);
    told.notify_one();
    assert_eq!(last.await.status, 200);
    assert_eq!(bed.provider.received().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_whose_consumer_leaves_during_the_answer_ends_at_its_provider() {
    let bed = one_at_a_time("").await;
    let half = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_vec();
    bed.provider.set_action(ProviderAction::WriteAndStall(half));
    let call = TestRequest::slots();
    let mut wire = RawConnection::new(call.connect(&bed).await.unwrap());
    wire.stream.write_all(&call.bytes()).await.unwrap();
    assert!(wire.head().await.unwrap().start.contains(" 200 "));
    wire.stream.get_ref().0.set_zero_linger().unwrap();
    drop(wire);
    assert_cancelled(&bed, 1, "body").await;
    bed.provider.wait_for_closed_connections(1).await;
    // Over HTTP/2 only the stream is reset, and the connection stays open.
    let io = TokioIo::new(call.clone().http2().connect(&bed).await.unwrap());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let response = sender.send_request(call.http2().request()).await.unwrap();
    assert_eq!(response.status(), 200);
    drop(response);
    assert_cancelled(&bed, 2, "body").await;
    bed.provider.wait_for_closed_connections(2).await;
    bed.provider.set_action(ProviderAction::ok());
    let again = sender.send_request(TestRequest::slots().http2().request()).await.unwrap();
    assert_eq!(again.status(), 200, "the place is free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_whose_consumer_leaves_before_its_body_ends_is_cancelled() {
    let bed = TestBed::with(|files| files.add("[provider.deadlines]\nbody-idle = \"10m\"")).await;
    let call = TestRequest::slots().without_content_length().with("Transfer-Encoding", "chunked");
    send_and_leave(&bed, call, async {
        while bed.metric("http_requests_in_flight") < 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let record = bed.wait_for_closed_line(1).await;
    assert_eq!(record["ended_by"], "consumer", "{record}");
    bed.wait_until_idle().await;
    assert_eq!(bed.provider.accepted_connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_held_until_the_last_byte_of_the_body() {
    let bed = one_at_a_time("").await;
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n".to_vec();
    bed.provider.set_action(ProviderAction::Pour(head, 64 << 20));
    let call = TestRequest::slots();
    let mut wire = RawConnection::new(call.connect(&bed).await.unwrap());
    wire.stream.write_all(&call.bytes()).await.unwrap();
    wire.head().await.unwrap();
    assert_busy(&bed).await;
    assert_eq!(wire.drain(64 << 20).await, 64 << 20);
    bed.provider.set_action(ProviderAction::ok());
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_freed_when_its_provider_fails() {
    let bed = one_at_a_time("").await;
    let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut".to_vec();
    let acts = [
        ProviderAction::Close,
        ProviderAction::WriteAndClose(cut),
        ProviderAction::ok(),
        ProviderAction::ok(),
    ];
    let mut acts = acts.into_iter();
    bed.provider.set_script(move |_| acts.next().unwrap());
    assert_eq!(bed.send(TestRequest::book()).await.status, 502);
    assert!(!bed.send(TestRequest::slots()).await.complete);
    let call = TestRequest::slots();
    let mut wire = RawConnection::new(call.connect(&bed).await.unwrap());
    for _ in 0..2 {
        wire.stream.write_all(&call.bytes()).await.unwrap();
        assert_eq!(read_answer(&mut wire).await.unwrap().status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_consumer_left_while_it_waited_is_not_sent() {
    let bed = TestBed::with(|files| {
        files.add("[throttle]\npractice-exchanges-max = 1\nwait = \"10m\"");
    })
    .await;
    let told = Arc::new(Notify::new());
    bed.provider.set_action(ProviderAction::WriteWhenNotified(
        Arc::clone(&told),
        answer("201 Created", "", "{}"),
    ));
    let bed = Arc::new(bed);
    let send = |call: TestRequest| {
        let bed = Arc::clone(&bed);
        tokio::spawn(async move { bed.send(call).await })
    };
    let first = send(TestRequest::book());
    bed.provider.wait_for_requests(1).await;
    let second = send(TestRequest::book().http2());
    while bed.server.metrics.in_flight.get() < 2 {
        tokio::task::yield_now().await;
    }
    second.abort();
    while bed.metric("connections") > 1 {
        tokio::task::yield_now().await;
    }
    told.notify_one();
    assert_eq!(first.await.unwrap().status, 201);
    let closed = bed.wait_for_closed_line(2).await;
    assert_eq!(closed["refusal"], "consumer_gone");
    assert_eq!(closed["ended_by"], "consumer");
    assert_eq!(closed["sent_whole"], false);
    assert_eq!(bed.provider.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_beyond_the_limit_in_hand_is_refused_with_retry_after() {
    let bed = TestBed::with(|files| files.add("[listener.limits]\nin-hand-max = 1")).await;
    let told = Arc::new(Notify::new());
    bed.provider.set_action(ProviderAction::WriteWhenNotified(
        Arc::clone(&told),
        answer("200 OK", "", "{}"),
    ));
    let second = async {
        bed.provider.wait_for_requests(1).await;
        for call in [TestRequest::slots(), TestRequest::book().http2()] {
            let refused = bed.send(call).await;
            assert_eq!((refused.status, refused.token()), (503, Some("gateway_full")));
            assert_eq!(refused.header("retry-after"), Some("1"));
            refused.assert_refusal_form();
        }
        told.notify_one();
    };
    let (first, ()) = tokio::join!(bed.send(TestRequest::slots()), second);
    assert_eq!(first.status, 200);
    let lines = bed.exchange_lines().await;
    let ids: HashSet<_> = lines.iter().map(|line| &line["id"]).collect();
    assert_eq!(ids.len(), 1, "what was never in hand leaves no record");
    let closed = lines.iter().filter(|line| line["event"] == "closed");
    assert_eq!(closed.count(), 1);
    assert_eq!(bed.metric("refusals_total{token=\"gateway_full\"}"), 2);
    bed.provider.set_action(ProviderAction::ok());
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_consumer_cannot_take_all_the_places_of_a_practice() {
    let bed = TestBed::with(|files| {
        files.add(
            "[throttle]\npractice-exchanges-max = 3\npractice-consumer-max = 2\nwait = \"60s\"",
        );
        files.edit("directory.toml", |text| {
            text.replace("from = [\"200000000359\"]", "from = [\"200000000359\", \"200000000360\"]")
        });
    })
    .await;
    let told = Arc::new(Notify::new());
    bed.provider.set_action(ProviderAction::WriteWhenNotified(
        Arc::clone(&told),
        answer("200 OK", "", "{}"),
    ));
    let mut third = Box::pin(bed.send(TestRequest::slots()));
    let others = async {
        bed.provider.wait_for_requests(2).await;
        bed.provider.set_action(ProviderAction::ok());
        let mut other =
            TestRequest::slots().certificate("clinic").set("Ssp-From", test_bed::CLINIC);
        let organisation = test_bed::CLINIC_ODS.parse().unwrap();
        let (scope, now_s) = ("organization/*.read", test_bed::now_s());
        other.claims =
            spine_proxy::claims::example_claims(test_bed::ROOT, &organisation, scope, now_s);
        tokio::select! {
            biased;
            answer = &mut third => panic!("the third has no place yet: {answer:?}"),
            answer = bed.send(other) => assert_eq!(answer.status, 200, "another's first"),
        }
        told.notify_one();
        assert_eq!(third.await.status, 200);
        told.notify_one();
    };
    let (first, second, ()) =
        tokio::join!(bed.send(TestRequest::slots()), bed.send(TestRequest::slots()), others);
    assert_eq!((first.status, second.status), (200, 200));
}
