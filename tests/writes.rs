//! A booking never goes out twice, and its answer tells the truth about it.

use std::sync::Arc;

use gpconnect_simulator::pki::Leaf;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Notify;

use testkit::call::hear;
use testkit::provider::{DRIP, answer};
use testkit::stage::row;
use testkit::wire::Wire;
use testkit::{Act, Answer, Call, Stage};

const CREATED: &str = r#"{"resourceType":"Appointment","id":"1"}"#;
/// More than sockets hold on the way: it cannot be sent whole unless the provider reads.
const LARGE: usize = 8 << 20;

fn large() -> Call {
    Call::book().body(&vec![b' '; LARGE])
}

fn created() -> Vec<u8> {
    answer("201 Created", "", CREATED)
}

/// A script that does each of these once, in order.
fn in_turn(stage: &Stage, acts: Vec<Act>) {
    let mut acts = acts.into_iter();
    stage.provider.plays(move |_| acts.next().expect("no request beyond the script"));
}

/// Sends a booking that must fail like this; the provider must have seen this many requests and
/// connections by then.
async fn fails(stage: &Stage, call: Call, token: &str, seen: (usize, usize)) {
    let closed = closed_count(stage).await;
    let answer = stage.hears(call).await;
    assert_eq!(answer.token(), Some(token), "{answer:?}");
    let record = stage.closed(closed + 1).await;
    tells_the_truth(&answer, &record);
    assert_eq!((stage.provider.received().len(), stage.provider.connections()), seen, "{token}");
}

async fn closed_count(stage: &Stage) -> usize {
    stage.lines().await.iter().filter(|line| line["event"] == "closed").count()
}

/// Answer and record say the same, and the answer says no more than is known.
fn tells_the_truth(answer: &Answer, record: &Value) {
    let token = answer.token().unwrap();
    answer.is_a_proper_refusal();
    assert_eq!(answer.status, row(token).status);
    assert_eq!(record["refusal"], token);
    assert_eq!(record["status"], row(token).status);
    assert_eq!(record["outcome"], "refused");
    let whole = token.starts_with("outcome_unknown");
    assert_eq!(record["sent_whole"], whole, "{record}");
    let text = answer.text();
    assert_eq!(text.contains("read the patient's appointments before booking again"), whole);
    assert_eq!(text.contains("not sent"), !whole, "{text}");
    let again = token.starts_with("provider_not_reached");
    assert_eq!(answer.header("retry-after"), again.then_some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_to_a_closed_port_was_not_sent() {
    let stage = Stage::new().await;
    stage.moves_away().await;
    fails(&stage, Call::book(), "provider_not_reached", (0, 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_is_not_sent_to_a_provider_with_another_name() {
    let stage = Stage::new().await;
    let impostor = stage.moves_to(&Leaf::named("other.example.nhs.uk")).await;
    fails(&stage, Call::book(), "provider_not_reached", (0, 0)).await;
    assert_eq!(impostor.dialled(), 1);
    assert!(impostor.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_whose_connection_closes_before_it_is_read_was_not_sent() {
    let stage = Stage::new().await;
    stage.provider.is_deaf();
    fails(&stage, large(), "provider_not_reached", (0, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_booking_whose_connection_closes_unread_is_not_sent_again() {
    let stage = Stage::new().await;
    stage.provider.is_deaf();
    let answer = stage.hears(Call::book()).await;
    let record = stage.closed(1).await;
    // Whether its bytes had left when the close arrived is chance; that we say so is not.
    let token =
        if record["sent_whole"] == true { "outcome_unknown" } else { "provider_not_reached" };
    assert_eq!(answer.token(), Some(token));
    tells_the_truth(&answer, &record);
    assert_eq!(stage.provider.dialled(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_cut_by_the_provider_in_its_body_was_not_sent() {
    let stage = Stage::new().await;
    in_turn(&stage, vec![Act::CloseAfterHead]);
    fails(&stage, large(), "provider_not_reached", (1, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_has_an_unknown_outcome_once_it_was_sent_whole() {
    let deaths = [
        Act::Close,
        Act::WriteAndReset(b"H".to_vec()),
        Act::WriteAndClose(b"HTTP/1.1 201".to_vec()),
        Act::WriteAndClose(b"HTTP/1.1 two hundred\r\n\r\n".to_vec()),
        Act::WriteAndClose(b"220 smtp.example.nhs.uk ESMTP\r\n".to_vec()),
        Act::WriteAndClose(b"HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n".to_vec()),
        Act::WriteAndClose(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n".to_vec()),
    ];
    for death in deaths {
        for call in [Call::book(), Call::book().http2()] {
            let stage = Stage::new().await;
            in_turn(&stage, vec![death.clone()]);
            fails(&stage, call, "outcome_unknown", (1, 1)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_met_with_silence_has_an_unknown_outcome() {
    let stage =
        Stage::with(|files| files.add("[provider.deadlines]\nresponse-head = \"200ms\"")).await;
    in_turn(&stage, vec![Act::Silence]);
    fails(&stage, Call::book(), "outcome_unknown_in_time", (1, 1)).await;
    // The connection of a request given up is not used again.
    stage.provider.has_ended(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_answered_with_half_a_body_is_seen_to_be_cut() {
    for call in [Call::book(), Call::book().http2()] {
        let stage = Stage::new().await;
        let cut = b"HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\n{\"id\":".to_vec();
        in_turn(&stage, vec![Act::WriteAndClose(cut)]);
        let answer = stage.hears(call).await;
        assert_eq!((answer.status, answer.complete), (201, false));
        assert_eq!(answer.token(), None);
        let record = stage.closed(1).await;
        assert_eq!(record["status"], 201);
        assert_eq!(record["outcome"], "aborted");
        assert_eq!(record["ended_by"], "provider");
        assert_eq!(record["sent_whole"], true);
        assert_eq!(stage.provider.dialled(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_may_refuse_a_booking_before_it_has_read_it() {
    let stage = Stage::new().await;
    let refusal = answer("422 Unprocessable Entity", "Connection: close\r\n", "{}");
    stage.provider.does(Act::WriteAfterHead(refusal));
    let answer = stage.hears(large()).await;
    assert_eq!((answer.status, answer.text().as_str()), (422, "{}"));
    let record = stage.closed(1).await;
    assert_eq!(record["status"], 422);
    assert_eq!(record["sent_whole"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_during_an_upload_is_passed_on_and_its_connection_is_not_used_again() {
    let stage =
        Stage::with(|files| files.add("[provider.deadlines]\nidle-for-writes = \"60s\"")).await;
    for round in 0..3 {
        // The provider reads on, and does not say that it will close.
        let refusal = answer("422 Unprocessable Entity", "", "{}");
        in_turn(&stage, vec![Act::WriteEarly(refusal), Act::ok()]);
        let call = Call::book().unframed().with("Content-Length", "1000");
        let mut wire = Wire::new(call.connect(&stage).await.unwrap());
        wire.stream.write_all(&call.body(b"half of ").bytes()).await.unwrap();
        let heard = hear(&mut wire).await.expect("an answer");
        assert_eq!((heard.status, heard.text().as_str(), heard.complete), (422, "{}", true));
        let record = stage.closed(2 * round + 1).await;
        assert_eq!((&record["status"], &record["sent_whole"]), (&422.into(), &false.into()));
        // While the rest may still come, and once it cannot.
        if round == 1 {
            drop(wire);
            stage.is_calm().await;
        }
        assert_eq!(stage.hears(Call::slots()).await.status, 200);
        assert_eq!(stage.provider.connections(), 2 + round, "round {round}");
        stage.closed(2 * round + 2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_takes_a_kept_connection_only_while_it_is_young() {
    for (keep, connections) in [("60s", 1), ("0s", 2)] {
        let line = format!("[provider.deadlines]\nidle-for-writes = \"{keep}\"");
        let stage = Stage::with(|files| files.add(&line)).await;
        stage.provider.does(Act::Write(created()));
        assert_eq!(stage.hears(Call::book()).await.status, 201);
        assert_eq!(stage.hears(Call::book()).await.status, 201);
        assert_eq!(stage.provider.connections(), connections, "{keep}");
        // A read may take what a booking may not.
        assert_eq!(stage.hears(Call::slots()).await.status, 201);
        assert_eq!(stage.provider.connections(), connections, "{keep}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_the_provider_closed_fails_no_booking() {
    let stage = Stage::new().await;
    // It does not say that it will close.
    stage.provider.does(Act::WriteAndClose(created()));
    for round in 1..=5 {
        assert_eq!(stage.hears(Call::book()).await.status, 201);
        stage.provider.has_ended(round).await;
    }
    assert_eq!((stage.provider.received().len(), stage.provider.connections()), (5, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_on_a_kept_connection_that_closes_under_it_is_not_sent_again() {
    let stage =
        Stage::with(|files| files.add("[provider.deadlines]\nidle-for-writes = \"60s\"")).await;
    in_turn(&stage, vec![Act::ok(), Act::Close]);
    assert_eq!(stage.hears(Call::slots()).await.status, 200);
    fails(&stage, Call::book(), "outcome_unknown", (2, 1)).await;
    assert_eq!(stage.counted("provider_retries_total"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_without_a_body_is_not_sent_again_either() {
    let deadlines = "[provider.deadlines]\nidle-for-writes = \"60s\"";
    let bodiless = Call::book().body(b"");
    for call in [bodiless.clone(), bodiless.http2()] {
        let stage = Stage::with(|files| files.add(deadlines)).await;
        in_turn(&stage, vec![Act::ok(), Act::Close]);
        assert_eq!(stage.hears(Call::slots()).await.status, 200);
        fails(&stage, call, "outcome_unknown", (2, 1)).await;
        assert_eq!(stage.counted("provider_retries_total"), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_on_a_kept_connection_that_is_lost_after_more_than_a_second_is_not_sent_again() {
    let stage = Stage::with(|files| files.add("[listener.limits]\nidle = \"1100ms\"")).await;
    let told = Arc::new(Notify::new());
    let lost = Act::WriteWhenTold(Arc::clone(&told), b"no answer\r\n\r\n".to_vec());
    in_turn(&stage, vec![Act::ok(), lost, Act::ok()]);
    assert_eq!(stage.hears(Call::slots()).await.status, 200);
    let rest = async {
        stage.provider.has_received(2).await;
        stage.lets_pass(1).await;
        told.notify_one();
    };
    let (answer, ()) = tokio::join!(stage.hears(Call::slots()), rest);
    assert_eq!((answer.status, answer.token()), (502, Some("provider_failed")));
    assert_eq!(stage.provider.received().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_on_a_kept_connection_that_closes_under_it_is_sent_again_once() {
    let stage = Stage::new().await;
    in_turn(&stage, vec![Act::ok(), Act::Close, Act::ok()]);
    assert_eq!(stage.hears(Call::slots()).await.status, 200);
    assert_eq!(stage.hears(Call::slots()).await.status, 200);
    assert_eq!((stage.provider.received().len(), stage.provider.connections()), (3, 2));
    assert_eq!(stage.counted("provider_retries_total"), 1);
    let [_, first, again] = stage.provider.received().try_into().unwrap();
    assert_eq!((first.start, first.headers), (again.start, again.headers));
    assert_eq!(closed_count(&stage).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_on_a_fresh_connection_that_closes_under_it_is_not_sent_again() {
    let stage = Stage::new().await;
    in_turn(&stage, vec![Act::Close]);
    let answer = stage.hears(Call::slots()).await;
    assert_eq!((answer.status, answer.token()), (502, Some("provider_failed")));
    assert_eq!((stage.provider.received().len(), stage.provider.connections()), (1, 1));
    in_turn(&stage, vec![Act::ok(), Act::Close, Act::Close]);
    assert_eq!(stage.hears(Call::slots()).await.status, 200);
    assert_eq!(stage.hears(Call::slots()).await.token(), Some("provider_failed"));
    assert_eq!((stage.provider.received().len(), stage.provider.connections()), (4, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_goes_on_without_its_consumer_and_its_answer_is_recorded() {
    for call in [Call::book(), Call::book().http2()] {
        let stage = Stage::new().await;
        let told = Arc::new(Notify::new());
        in_turn(&stage, vec![Act::WriteWhenTold(Arc::clone(&told), created())]);
        tokio::select! {
            answer = stage.hears(call.clone()) => panic!("{answer:?}"),
            () = stage.provider.has_received(1) => {}
        }
        if call.version == testkit::call::Version::Http2 {
            // Here the gateway can tell that nobody waits any more.
            while stage.counted("connections") > 0 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(closed_count(&stage).await, 0);
        told.notify_one();
        let record = stage.closed(1).await;
        assert_eq!(record["status"], 201);
        assert_eq!(record["sent_whole"], true);
        stage.is_calm().await;
        assert_eq!((stage.provider.received().len(), stage.provider.dialled()), (1, 1));
    }
}

/// Half of a booking, sent as far as the provider; then its consumer does what it does.
async fn half_sent(
    stage: &Stage,
    chunked: bool,
) -> Wire<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static> {
    let begun = Arc::new(Notify::new());
    let heard = Arc::clone(&begun);
    stage.provider.plays(move |_| {
        heard.notify_one();
        Act::Write(created())
    });
    let call = match chunked {
        true => {
            Call::book().unframed().with("Transfer-Encoding", "chunked").body(b"8\r\nhalf of \r\n")
        }
        false => Call::book().unframed().with("Content-Length", "1000").body(b"half of "),
    };
    let mut wire = Wire::new(call.connect(stage).await.unwrap());
    wire.stream.write_all(&call.bytes()).await.unwrap();
    begun.notified().await;
    wire
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_booking_whose_consumer_hung_up_never_looks_whole() {
    for chunked in [false, true] {
        let stage = Stage::new().await;
        drop(half_sent(&stage, chunked).await);
        let record = stage.closed(1).await;
        assert_eq!(record["refusal"], "body_cut");
        assert_eq!(record["sent_whole"], false);
        stage.provider.has_received(1).await;
        assert!(!stage.provider.received()[0].complete, "{:?}", stage.provider.received());
        stage.is_calm().await;
        assert_eq!(stage.provider.dialled(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_booking_whose_consumer_stalls_is_given_up() {
    for chunked in [false, true] {
        let stage =
            Stage::with(|files| files.add("[provider.deadlines]\nbody-idle = \"200ms\"")).await;
        let wire = half_sent(&stage, chunked).await;
        let mut wire = Wire::new(wire.stream);
        let head = wire.head().await.unwrap();
        assert!(head.start.contains("408"), "{head:?}");
        assert!(head.header("proxy-status").unwrap().contains("body_timed_out"));
        let record = stage.closed(1).await;
        assert_eq!(record["refusal"], "body_timed_out");
        assert_eq!(record["sent_whole"], false);
        stage.provider.has_received(1).await;
        assert!(!stage.provider.received()[0].complete);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_that_only_drips_is_given_up() {
    for line in ["body-idle = \"150ms\"\nbody-rate-min = 1000", "body-total = \"150ms\""] {
        let stage = Stage::with(|files| files.add(&format!("[provider.deadlines]\n{line}"))).await;
        let stream = half_sent(&stage, false).await.stream;
        let (read, mut write) = tokio::io::split(stream);
        let drips = tokio::spawn(async move {
            while write.write_all(b" ").await.is_ok() && write.flush().await.is_ok() {
                tokio::time::sleep(DRIP).await;
            }
        });
        let head = Wire::new(read).head().await.unwrap();
        assert!(head.start.contains("408"), "{head:?}");
        drips.abort();
        let record = stage.closed(1).await;
        assert_eq!(record["refusal"], "body_timed_out");
        assert_eq!(record["sent_whole"], false);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_refused_early_leaves_no_second_request_in_its_body() {
    let stage = Stage::new().await;
    let call = Call::book().set("Ssp-From", "no asid");
    let mut wire = Wire::new(call.connect(&stage).await.unwrap());
    let inner = Call::book().bytes();
    wire.stream.write_all(&call.body(&inner).bytes()).await.unwrap();
    assert_eq!(hear(&mut wire).await.unwrap().token(), Some("from_invalid"));
    drop(wire);
    stage.is_calm().await;
    assert!(stage.provider.received().is_empty());
}
