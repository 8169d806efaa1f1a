//! How many exchanges a practice bears at once, and when a place is free again.

use std::collections::HashSet;
use std::sync::Arc;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::Notify;

use testkit::call::{Version, hear};
use testkit::provider::answer;
use testkit::stage::{self, OTHER_TO};
use testkit::wire::Wire;
use testkit::{Act, Call, Stage};
use tokio::io::AsyncWriteExt as _;

const ONE: &str = "[throttle]\npractice-exchanges-max = 1\nwait = \"100ms\"";
const PATIENT: &str = "[throttle]\npractice-exchanges-max = 1\nwait = \"60s\"";

async fn one_at_a_time(more: &str) -> Stage {
    Stage::with(|files| files.add(&format!("{ONE}\n{more}"))).await
}

async fn is_busy(stage: &Stage) {
    let asked = stage.provider.received().len();
    let answer = stage.hears(Call::slots()).await;
    assert_eq!((answer.status, answer.token()), (503, Some("provider_busy")));
    assert_eq!(answer.header("retry-after"), Some("1"));
    answer.is_a_proper_refusal();
    assert_eq!(stage.provider.received().len(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_request_to_a_full_practice_is_refused_and_a_third_is_not() {
    let stage = one_at_a_time("").await;
    let told = Arc::new(Notify::new());
    stage.provider.does(Act::WriteWhenTold(Arc::clone(&told), answer("200 OK", "", "{}")));
    let first = stage.hears(Call::slots());
    let rest = async {
        stage.provider.has_received(1).await;
        is_busy(&stage).await;
        told.notify_one();
    };
    let (first, ()) = tokio::join!(first, rest);
    assert_eq!(first.status, 200);
    stage.provider.does(Act::ok());
    assert_eq!(stage.hears(Call::slots()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_a_place_and_gets_it() {
    let stage = Stage::with(|files| files.add(PATIENT)).await;
    let told = Arc::new(Notify::new());
    stage.provider.does(Act::WriteWhenTold(Arc::clone(&told), answer("200 OK", "", "{}")));
    let calls = async { tokio::join!(stage.hears(Call::slots()), stage.hears(Call::book())) };
    let rest = async {
        stage.provider.has_received(1).await;
        // Both are under way, and the provider has one of them.
        while stage.counted("http_requests_in_flight") < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(stage.provider.received().len(), 1);
        told.notify_one();
        stage.provider.has_received(2).await;
        told.notify_one();
    };
    let ((first, second), ()) = tokio::join!(calls, rest);
    assert_eq!((first.status, second.status), (200, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_practice_is_no_other_practices_trouble() {
    let stage = one_at_a_time("").await;
    stage.provider.plays(|request| match request.header("ssp-to") {
        Some(OTHER_TO) => Act::ok(),
        _ => Act::Silence,
    });
    tokio::select! {
        answer = stage.hears(Call::slots()) => panic!("{answer:?}"),
        () = async {
            stage.provider.has_received(1).await;
            let call = Call::slots().set("Ssp-To", OTHER_TO);
            let target = call.target.replace("A20047", "B82617");
            let audience = serde_json::json!(stage::OTHER_ROOT);
            let answer = stage.hears(call.target(&target).claim("aud", audience)).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        } => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_free_again_when_its_consumer_hangs_up() {
    let stage = one_at_a_time("").await;
    stage.provider.does(Act::Silence);
    tokio::select! {
        answer = stage.hears(Call::slots().http2()) => panic!("{answer:?}"),
        () = stage.provider.has_received(1) => {}
    }
    let record = stage.closed(1).await;
    assert_eq!((&record["outcome"], &record["ended_by"]), (&"aborted".into(), &"consumer".into()));
    // The provider is told: nobody waits for its answer.
    stage.provider.has_ended(1).await;
    stage.provider.does(Act::ok());
    assert_eq!(stage.hears(Call::slots()).await.status, 200);
    stage.is_calm().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_of_a_consumer_that_left_over_http1_is_free_again_in_time() {
    // A consumer may close its side after a request and still wait, so leaving is not seen here.
    let stage = one_at_a_time("[provider.deadlines]\nresponse-head = \"200ms\"").await;
    stage.provider.does(Act::Silence);
    tokio::select! {
        answer = stage.hears(Call::slots()) => panic!("{answer:?}"),
        () = stage.provider.has_received(1) => {}
    }
    stage.closed(1).await;
    stage.provider.has_ended(1).await;
    stage.is_calm().await;
    stage.provider.does(Act::ok());
    assert_eq!(stage.hears(Call::slots()).await.status, 200);
}

/// A consumer that leaves over HTTP/2, or by a reset over HTTP/1.1.
async fn leaves(stage: &Stage, call: Call, is_waiting: impl Future<Output = ()>) {
    if call.version == Version::Http2 {
        tokio::select! {
            answer = stage.hears(call) => panic!("{answer:?}"),
            () = is_waiting => {}
        }
        return;
    }
    let mut stream = call.connect(stage).await.unwrap();
    stream.write_all(&call.bytes()).await.unwrap();
    is_waiting.await;
    stream.get_ref().0.set_zero_linger().unwrap();
}

/// The last record, of a read whose consumer is gone.
async fn is_given_up(stage: &Stage, count: usize, phase: &str) {
    let record = stage.closed(count).await;
    assert_eq!((&record["outcome"], &record["ended_by"]), (&"aborted".into(), &"consumer".into()));
    assert_eq!(record["ended_in"], phase, "{record}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_whose_consumer_hangs_up_while_it_waits_for_a_place_leaves_the_queue() {
    let limits = "[throttle]\npractice-exchanges-max = 1\npractice-waiting-max = 1\nwait = \"10m\"";
    let stage = Stage::with(|files| files.add(limits)).await;
    let told = Arc::new(Notify::new());
    stage.provider.does(Act::WriteWhenTold(Arc::clone(&told), answer("200 OK", "", "{}")));
    let mut first = Box::pin(stage.hears(Call::slots()));
    tokio::select! {
        answer = &mut first => panic!("{answer:?}"),
        () = stage.provider.has_received(1) => {}
    }
    let two_in_flight = async || {
        while stage.counted("http_requests_in_flight") < 2 {
            tokio::task::yield_now().await;
        }
    };
    for (count, call) in [Call::slots().http2(), Call::slots()].into_iter().enumerate() {
        leaves(&stage, call, two_in_flight()).await;
        is_given_up(&stage, count + 1, "queue").await;
    }
    // The one place in the queue is free again, and so is the provider's after that.
    let mut last = Box::pin(stage.hears(Call::slots()));
    tokio::select! {
        answer = &mut last => panic!("{answer:?}"),
        () = two_in_flight() => {}
    }
    told.notify_one();
    assert_eq!(first.await.status, 200);
    told.notify_one();
    assert_eq!(last.await.status, 200);
    assert_eq!(stage.provider.received().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_whose_consumer_hangs_up_while_its_answer_comes_lets_its_provider_go() {
    let stage = one_at_a_time("").await;
    let half = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_vec();
    stage.provider.does(Act::WriteAndStall(half));
    let call = Call::slots();
    let mut wire = Wire::new(call.connect(&stage).await.unwrap());
    wire.stream.write_all(&call.bytes()).await.unwrap();
    assert!(wire.head().await.unwrap().start.contains(" 200 "));
    wire.stream.get_ref().0.set_zero_linger().unwrap();
    drop(wire);
    is_given_up(&stage, 1, "body").await;
    stage.provider.has_ended(1).await;
    // Over HTTP/2 it is the stream that is reset, and the connection goes on.
    let io = TokioIo::new(call.clone().http2().connect(&stage).await.unwrap());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let response = sender.send_request(call.http2().request()).await.unwrap();
    assert_eq!(response.status(), 200);
    drop(response);
    is_given_up(&stage, 2, "body").await;
    stage.provider.has_ended(2).await;
    stage.provider.does(Act::ok());
    let again = sender.send_request(Call::slots().http2().request()).await.unwrap();
    assert_eq!(again.status(), 200, "the place is free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_whose_consumer_hangs_up_before_its_body_has_ended_is_given_up() {
    let stage = Stage::with(|files| files.add("[provider.deadlines]\nbody-idle = \"10m\"")).await;
    let call = Call::slots().unframed().with("Transfer-Encoding", "chunked");
    leaves(&stage, call, async {
        while stage.counted("http_requests_in_flight") < 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let record = stage.closed(1).await;
    assert_eq!(record["ended_by"], "consumer", "{record}");
    stage.is_calm().await;
    assert_eq!(stage.provider.dialled(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_held_until_the_last_byte_of_the_body() {
    let stage = one_at_a_time("").await;
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n".to_vec();
    stage.provider.does(Act::Pour(head, 64 << 20));
    let call = Call::slots();
    let mut wire = Wire::new(call.connect(&stage).await.unwrap());
    wire.stream.write_all(&call.bytes()).await.unwrap();
    wire.head().await.unwrap();
    is_busy(&stage).await;
    assert_eq!(wire.drain(64 << 20).await, 64 << 20);
    stage.provider.does(Act::ok());
    assert_eq!(stage.hears(Call::slots()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_free_again_when_its_provider_fails() {
    let stage = one_at_a_time("").await;
    let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut".to_vec();
    let acts = [Act::Close, Act::WriteAndClose(cut), Act::ok(), Act::ok()];
    let mut acts = acts.into_iter();
    stage.provider.plays(move |_| acts.next().unwrap());
    assert_eq!(stage.hears(Call::book()).await.status, 502);
    assert!(!stage.hears(Call::slots()).await.complete);
    let call = Call::slots();
    let mut wire = Wire::new(call.connect(&stage).await.unwrap());
    for _ in 0..2 {
        wire.stream.write_all(&call.bytes()).await.unwrap();
        assert_eq!(hear(&mut wire).await.unwrap().status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_consumer_left_while_it_waited_is_not_sent() {
    let stage = Stage::with(|files| {
        files.add("[throttle]\npractice-exchanges-max = 1\nwait = \"10m\"");
    })
    .await;
    let told = Arc::new(Notify::new());
    stage.provider.does(Act::WriteWhenTold(Arc::clone(&told), answer("201 Created", "", "{}")));
    let stage = Arc::new(stage);
    let send = |call: Call| {
        let stage = Arc::clone(&stage);
        tokio::spawn(async move { stage.hears(call).await })
    };
    let first = send(Call::book());
    stage.provider.has_received(1).await;
    let second = send(Call::book().http2());
    while stage.server.metrics.in_flight.get() < 2 {
        tokio::task::yield_now().await;
    }
    second.abort();
    while stage.counted("connections") > 1 {
        tokio::task::yield_now().await;
    }
    told.notify_one();
    assert_eq!(first.await.unwrap().status, 201);
    let closed = stage.closed(2).await;
    assert_eq!(closed["refusal"], "consumer_gone");
    assert_eq!(closed["ended_by"], "consumer");
    assert_eq!(closed["sent_whole"], false);
    assert_eq!(stage.provider.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_beyond_those_in_hand_is_refused_and_may_come_again() {
    let stage = Stage::with(|files| files.add("[listener.limits]\nin-hand-max = 1")).await;
    let told = Arc::new(Notify::new());
    stage.provider.does(Act::WriteWhenTold(Arc::clone(&told), answer("200 OK", "", "{}")));
    let second = async {
        stage.provider.has_received(1).await;
        for call in [Call::slots(), Call::book().http2()] {
            let refused = stage.hears(call).await;
            assert_eq!((refused.status, refused.token()), (503, Some("gateway_full")));
            assert_eq!(refused.header("retry-after"), Some("1"));
            refused.is_a_proper_refusal();
        }
        told.notify_one();
    };
    let (first, ()) = tokio::join!(stage.hears(Call::slots()), second);
    assert_eq!(first.status, 200);
    let lines = stage.lines().await;
    let ids: HashSet<_> = lines.iter().map(|line| &line["id"]).collect();
    assert_eq!(ids.len(), 1, "what was never in hand leaves no record");
    let closed = lines.iter().filter(|line| line["event"] == "closed");
    assert_eq!(closed.count(), 1);
    assert_eq!(stage.counted("refusals_total{token=\"gateway_full\"}"), 2);
    stage.provider.does(Act::ok());
    assert_eq!(stage.hears(Call::slots()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_consumer_cannot_take_all_the_places_of_a_practice() {
    let stage = Stage::with(|files| {
        files.add(
            "[throttle]\npractice-exchanges-max = 3\npractice-consumer-max = 2\nwait = \"60s\"",
        );
        files.edit("directory.toml", |text| {
            text.replace("from = [\"200000000359\"]", "from = [\"200000000359\", \"200000000360\"]")
        });
    })
    .await;
    let told = Arc::new(Notify::new());
    stage.provider.does(Act::WriteWhenTold(Arc::clone(&told), answer("200 OK", "", "{}")));
    let mut third = Box::pin(stage.hears(Call::slots()));
    let others = async {
        stage.provider.has_received(2).await;
        stage.provider.does(Act::ok());
        let mut other = Call::slots().certificate("clinic").set("Ssp-From", stage::CLINIC);
        let organisation = stage::CLINIC_ODS.parse().unwrap();
        let (scope, now_s) = ("organization/*.read", stage::now_s());
        other.claims =
            spine_proxy::claims::example_claims(stage::ROOT, &organisation, scope, now_s);
        tokio::select! {
            biased;
            answer = &mut third => panic!("the third has no place yet: {answer:?}"),
            answer = stage.hears(other) => assert_eq!(answer.status, 200, "another's first"),
        }
        told.notify_one();
        assert_eq!(third.await.status, 200);
        told.notify_one();
    };
    let (first, second, ()) =
        tokio::join!(stage.hears(Call::slots()), stage.hears(Call::slots()), others);
    assert_eq!((first.status, second.status), (200, 200));
}
