//! The end of an HTTP/2 connection as frames: the answers under way, the `GOAWAY`, and what comes after it.

use std::sync::Arc;

use tokio::io::AsyncWriteExt as _;
use tokio::sync::Notify;

use super::http2::{Line, ask, connect};
use testkit::frames::{self, ACK, GOAWAY, PING, frame};
use testkit::process::get;
use testkit::provider::answer;
use testkit::{ProviderAction, TestBed, TestRequest};

/// Clients exist that give up what is under way when they are told to go.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_has_carried_enough_is_told_so_after_its_last_answer() {
    let limits = "[listener.limits]\nrequests-max = 1\nlinger = \"10ms\"";
    let bed = TestBed::with(|files| files.add(limits)).await;
    let block = frames::block(&TestRequest::slots(), &[]);
    // Many times: the order was once right most of the time.
    for round in 0..40 {
        let told = Arc::new(Notify::new());
        let held = answer("200 OK", "", "{}");
        bed.provider.set_action(ProviderAction::WriteWhenNotified(Arc::clone(&told), held));
        let mut wire = connect(&bed).await;
        wire.stream.write_all(&ask(1, &block)).await.unwrap();
        bed.provider.wait_for_requests(2 * round + 1).await;
        // One more than enough: it is answered while the first is under way.
        bed.provider.set_action(ProviderAction::ok());
        wire.stream.write_all(&ask(3, &block)).await.unwrap();
        let mut ends = Vec::new();
        while ends.len() < 3
            && let Some(one) = wire.frame().await
        {
            if one.ends_stream() && one.stream == 3 {
                told.notify_one();
            }
            if one.kind == GOAWAY || one.ends_stream() {
                ends.push((one.kind == GOAWAY, one.stream));
            }
        }
        assert_eq!(ends, [(false, 3), (false, 1), (true, 0)], "round {round}");
    }
}

/// A gateway, a connection with one request under way on stream 1, and what lets it be answered.
async fn under_way(limits: &str, call: &TestRequest) -> (TestBed, Line, Arc<Notify>) {
    let bed = TestBed::with(|files| files.add(&format!("[listener.limits]\n{limits}"))).await;
    let told = Arc::new(Notify::new());
    let held = answer("200 OK", "", "{}");
    bed.provider.set_action(ProviderAction::WriteWhenNotified(Arc::clone(&told), held));
    let mut wire = connect(&bed).await;
    wire.stream.write_all(&ask(1, &frames::block(call, &[]))).await.unwrap();
    bed.provider.wait_for_requests(1).await;
    (bed, wire, told)
}

/// The next frame that ends a stream, or the connection: whether it is a `GOAWAY`, and the stream.
async fn next_end(wire: &mut Line) -> Option<(bool, u32)> {
    loop {
        let one = wire.frame().await?;
        if one.kind == PING && one.flags & ACK == 0 {
            // The other side waits for this before it ends the connection.
            wire.stream.write_all(&frame(PING, ACK, 0, &one.payload)).await.unwrap();
        }
        if one.kind == GOAWAY || one.ends_stream() {
            return Some((one.kind == GOAWAY, one.stream));
        }
    }
}

/// Has a connection closed for requests in a row that identify nobody, on streams 3 to 33; returns the
/// block of another.
async fn identifies_nobody(wire: &mut Line) -> Vec<u8> {
    let block = frames::block(&TestRequest::slots().without("Ssp-From"), &[]);
    for number in 1..=16 {
        wire.stream.write_all(&ask(2 * number + 1, &block)).await.unwrap();
        assert_eq!(next_end(wire).await, Some((false, 2 * number + 1)));
    }
    block
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_stop_the_answer_under_way_comes_first_and_then_the_goaway() {
    let (bed, mut wire, told) = under_way("linger = \"10ms\"", &TestRequest::slots()).await;
    let TestBed { server, folder: _folder, provider: _provider, .. } = bed;
    let admin = server.admin;
    let stopping = tokio::spawn(server.stop());
    while get(admin, "/readyz").await.starts_with("HTTP/1.1 200") {}
    told.notify_one();
    assert_eq!(next_end(&mut wire).await, Some((false, 1)));
    assert_eq!(next_end(&mut wire).await, Some((true, 0)));
    // Said once more with the number of the last stream.
    while let Some(end) = next_end(&mut wire).await {
        assert_eq!(end, (true, 0));
    }
    stopping.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_goaway_waits_for_an_answer_for_half_of_the_time_to_drain_and_no_longer() {
    for (stops, limits) in [
        (false, "requests-max = 1\ndrain = \"200ms\""),
        (true, "linger = \"10ms\"\ndrain = \"4s\""),
    ] {
        let (bed, mut wire, told) = under_way(limits, &TestRequest::slots()).await;
        let TestBed { server, folder: _folder, provider: _provider, .. } = bed;
        let stopping = async {
            if stops {
                server.stop().await;
            }
        };
        let hearing = async {
            assert_eq!(next_end(&mut wire).await, Some((true, 0)), "{limits}");
            told.notify_one();
            let mut ends = Vec::new();
            while let Some(end) = next_end(&mut wire).await {
                ends.push(end);
            }
            assert!(ends.contains(&(false, 1)), "it is answered all the same: {ends:?}");
        };
        tokio::join!(stopping, hearing);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_closed_for_what_was_asked_on_it_still_answers_what_is_under_way_first() {
    let (bed, mut wire, told) = under_way("linger = \"1m\"", &TestRequest::slots()).await;
    identifies_nobody(&mut wire).await;
    wire.stream.write_all(&frame(PING, 0, 0, &[7; 8])).await.unwrap();
    loop {
        let one = wire.frame().await.unwrap();
        assert_ne!(one.kind, GOAWAY, "an answer is under way");
        if one.kind == PING && one.flags & ACK != 0 {
            break;
        }
    }
    told.notify_one();
    assert_eq!(next_end(&mut wire).await, Some((false, 1)));
    assert_eq!(next_end(&mut wire).await, Some((true, 0)));
    drop((wire, bed));
}

/// A peer that neither minds a GOAWAY nor answers the PING after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_goes_on_after_a_goaway_is_cut() {
    let nobodys = TestRequest::slots().without("Ssp-From");
    for (limits, call) in [("", &nobodys), ("requests-max = 1", &TestRequest::slots())] {
        let limits = format!("[listener.limits]\nlinger = \"10ms\"\n{limits}");
        let bed = TestBed::with(|files| files.add(&limits)).await;
        let block = frames::block(call, &[]);
        let mut wire = connect(&bed).await;
        let mut was_told = false;
        for number in 0_u32.. {
            if wire.stream.write_all(&ask(2 * number + 1, &block)).await.is_err() {
                break;
            }
            let answered = loop {
                match wire.frame().await {
                    Some(one) if one.kind == GOAWAY => was_told = true,
                    Some(one) if one.ends_stream() => break true,
                    Some(_) => {}
                    None => break false,
                }
            };
            if !answered {
                break;
            }
            assert!(number < 20_000, "{limits}: it goes on for ever");
        }
        assert!(was_told, "{limits}");
        assert_eq!(bed.metric("connection_errors_total{reason=\"overstayed\"}"), 1, "{limits}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_closed_for_what_was_asked_on_it_is_told_so_once_it_asks_for_more() {
    let (bed, mut wire, told) = under_way("linger = \"1m\"", &TestRequest::slots()).await;
    let nobodys = identifies_nobody(&mut wire).await;
    wire.stream.write_all(&ask(35, &nobodys)).await.unwrap();
    let ends = [next_end(&mut wire).await.unwrap(), next_end(&mut wire).await.unwrap()];
    assert!(ends.contains(&(true, 0)), "the first request is under way: {ends:?}");
    told.notify_one();
    while next_end(&mut wire).await.unwrap() != (false, 1) {}
    drop((wire, bed));
}
