//! A booking is never sent twice, and its answer states truthfully whether it was sent.

use std::sync::Arc;

use gpconnect_simulator::pki::Leaf;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Notify;

use testkit::provider::{DRIP, answer};
use testkit::raw_connection::RawConnection;
use testkit::request::read_answer;
use testkit::test_bed::row;
use testkit::{Answer, ProviderAction, TestBed, TestRequest};

const CREATED: &str = r#"{"resourceType":"Appointment","id":"1"}"#;
/// More than sockets hold on the way: it cannot be sent whole unless the provider reads.
const LARGE: usize = 8 << 20;

fn large() -> TestRequest {
    TestRequest::book().body(&vec![b' '; LARGE])
}

fn created() -> Vec<u8> {
    answer("201 Created", "", CREATED)
}

/// A script that does each of these once, in order.
fn in_turn(bed: &TestBed, acts: Vec<ProviderAction>) {
    let mut acts = acts.into_iter();
    bed.provider.set_script(move |_| acts.next().expect("no request beyond the script"));
}

/// Sends a booking that must fail like this; the provider must have seen this many requests and
/// connections by then.
async fn fails(bed: &TestBed, call: TestRequest, token: &str, seen: (usize, usize)) {
    let closed = closed_count(bed).await;
    let answer = bed.send(call).await;
    assert_eq!(answer.token(), Some(token), "{answer:?}");
    let record = bed.wait_for_closed_line(closed + 1).await;
    tells_the_truth(&answer, &record);
    assert_eq!((bed.provider.received().len(), bed.provider.connections()), seen, "{token}");
}

async fn closed_count(bed: &TestBed) -> usize {
    bed.exchange_lines().await.iter().filter(|line| line["event"] == "closed").count()
}

/// Asserts that answer and record agree, and that the answer claims no more than is known.
fn tells_the_truth(answer: &Answer, record: &Value) {
    let token = answer.token().unwrap();
    answer.assert_refusal_form();
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
    let bed = TestBed::new().await;
    bed.make_provider_unreachable().await;
    fails(&bed, TestRequest::book(), "provider_not_reached", (0, 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_is_not_sent_to_a_provider_with_another_name() {
    let bed = TestBed::new().await;
    let impostor = bed.replace_provider(&Leaf::named("other.example.nhs.uk")).await;
    fails(&bed, TestRequest::book(), "provider_not_reached", (0, 0)).await;
    assert_eq!(impostor.accepted_connections(), 1);
    assert!(impostor.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_whose_connection_closes_before_it_is_read_was_not_sent() {
    let bed = TestBed::new().await;
    bed.provider.close_after_handshake();
    fails(&bed, large(), "provider_not_reached", (0, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_booking_whose_connection_closes_unread_is_not_sent_again() {
    let bed = TestBed::new().await;
    bed.provider.close_after_handshake();
    let answer = bed.send(TestRequest::book()).await;
    let record = bed.wait_for_closed_line(1).await;
    // The bytes may or may not have been sent when the close arrived; the answer must match the record.
    let token =
        if record["sent_whole"] == true { "outcome_unknown" } else { "provider_not_reached" };
    assert_eq!(answer.token(), Some(token));
    tells_the_truth(&answer, &record);
    assert_eq!(bed.provider.accepted_connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_cut_by_the_provider_in_its_body_was_not_sent() {
    let bed = TestBed::new().await;
    in_turn(&bed, vec![ProviderAction::CloseAfterHead]);
    fails(&bed, large(), "provider_not_reached", (1, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_has_an_unknown_outcome_once_it_was_sent_whole() {
    let deaths = [
        ProviderAction::Close,
        ProviderAction::WriteAndReset(b"H".to_vec()),
        ProviderAction::WriteAndClose(b"HTTP/1.1 201".to_vec()),
        ProviderAction::WriteAndClose(b"HTTP/1.1 two hundred\r\n\r\n".to_vec()),
        ProviderAction::WriteAndClose(b"220 smtp.example.nhs.uk ESMTP\r\n".to_vec()),
        ProviderAction::WriteAndClose(b"HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ProviderAction::WriteAndClose(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n".to_vec(),
        ),
    ];
    for death in deaths {
        for call in [TestRequest::book(), TestRequest::book().http2()] {
            let bed = TestBed::new().await;
            in_turn(&bed, vec![death.clone()]);
            fails(&bed, call, "outcome_unknown", (1, 1)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_met_with_silence_has_an_unknown_outcome() {
    let bed =
        TestBed::with(|files| files.add("[provider.deadlines]\nresponse-head = \"200ms\"")).await;
    in_turn(&bed, vec![ProviderAction::Silence]);
    fails(&bed, TestRequest::book(), "outcome_unknown_in_time", (1, 1)).await;
    // The connection of a request given up is not used again.
    bed.provider.wait_for_closed_connections(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_answered_with_half_a_body_is_seen_to_be_cut() {
    for call in [TestRequest::book(), TestRequest::book().http2()] {
        let bed = TestBed::new().await;
        let cut = b"HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\n{\"id\":".to_vec();
        in_turn(&bed, vec![ProviderAction::WriteAndClose(cut)]);
        let answer = bed.send(call).await;
        assert_eq!((answer.status, answer.complete), (201, false));
        assert_eq!(answer.token(), None);
        let record = bed.wait_for_closed_line(1).await;
        assert_eq!(record["status"], 201);
        assert_eq!(record["outcome"], "aborted");
        assert_eq!(record["ended_by"], "provider");
        assert_eq!(record["sent_whole"], true);
        assert_eq!(bed.provider.accepted_connections(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_may_refuse_a_booking_before_it_has_read_it() {
    let bed = TestBed::new().await;
    let refusal = answer("422 Unprocessable Entity", "Connection: close\r\n", "{}");
    bed.provider.set_action(ProviderAction::WriteAfterHead(refusal));
    let answer = bed.send(large()).await;
    assert_eq!((answer.status, answer.text().as_str()), (422, "{}"));
    let record = bed.wait_for_closed_line(1).await;
    assert_eq!(record["status"], 422);
    assert_eq!(record["sent_whole"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_during_an_upload_is_passed_on_and_its_connection_is_not_used_again() {
    let bed =
        TestBed::with(|files| files.add("[provider.deadlines]\nidle-for-writes = \"60s\"")).await;
    for round in 0..3 {
        // The provider reads on, and does not say that it will close.
        let refusal = answer("422 Unprocessable Entity", "", "{}");
        in_turn(&bed, vec![ProviderAction::WriteEarly(refusal), ProviderAction::ok()]);
        let call = TestRequest::book().without_content_length().with("Content-Length", "1000");
        let mut wire = RawConnection::new(call.connect(&bed).await.unwrap());
        wire.stream.write_all(&call.body(b"half of ").bytes()).await.unwrap();
        let heard = read_answer(&mut wire).await.expect("an answer");
        assert_eq!((heard.status, heard.text().as_str(), heard.complete), (422, "{}", true));
        let record = bed.wait_for_closed_line(2 * round + 1).await;
        assert_eq!((&record["status"], &record["sent_whole"]), (&422.into(), &false.into()));
        // While the rest may still come, and once it cannot.
        if round == 1 {
            drop(wire);
            bed.wait_until_idle().await;
        }
        assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
        assert_eq!(bed.provider.connections(), 2 + round, "round {round}");
        bed.wait_for_closed_line(2 * round + 2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_takes_a_kept_connection_only_while_it_is_young() {
    for (keep, connections) in [("60s", 1), ("0s", 2)] {
        let line = format!("[provider.deadlines]\nidle-for-writes = \"{keep}\"");
        let bed = TestBed::with(|files| files.add(&line)).await;
        bed.provider.set_action(ProviderAction::Write(created()));
        assert_eq!(bed.send(TestRequest::book()).await.status, 201);
        assert_eq!(bed.send(TestRequest::book()).await.status, 201);
        assert_eq!(bed.provider.connections(), connections, "{keep}");
        // A read may take what a booking may not.
        assert_eq!(bed.send(TestRequest::slots()).await.status, 201);
        assert_eq!(bed.provider.connections(), connections, "{keep}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_the_provider_closed_fails_no_booking() {
    let bed = TestBed::new().await;
    // It does not say that it will close.
    bed.provider.set_action(ProviderAction::WriteAndClose(created()));
    for round in 1..=5 {
        assert_eq!(bed.send(TestRequest::book()).await.status, 201);
        bed.provider.wait_for_closed_connections(round).await;
    }
    assert_eq!((bed.provider.received().len(), bed.provider.connections()), (5, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_on_a_kept_connection_that_closes_under_it_is_not_sent_again() {
    let bed =
        TestBed::with(|files| files.add("[provider.deadlines]\nidle-for-writes = \"60s\"")).await;
    in_turn(&bed, vec![ProviderAction::ok(), ProviderAction::Close]);
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
    fails(&bed, TestRequest::book(), "outcome_unknown", (2, 1)).await;
    assert_eq!(bed.metric("provider_retries_total"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_without_a_body_is_not_sent_again_either() {
    let deadlines = "[provider.deadlines]\nidle-for-writes = \"60s\"";
    let bodiless = TestRequest::book().body(b"");
    for call in [bodiless.clone(), bodiless.http2()] {
        let bed = TestBed::with(|files| files.add(deadlines)).await;
        in_turn(&bed, vec![ProviderAction::ok(), ProviderAction::Close]);
        assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
        fails(&bed, call, "outcome_unknown", (2, 1)).await;
        assert_eq!(bed.metric("provider_retries_total"), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_on_a_kept_connection_that_is_lost_after_more_than_a_second_is_not_sent_again() {
    let bed = TestBed::with(|files| files.add("[listener.limits]\nidle = \"1100ms\"")).await;
    let told = Arc::new(Notify::new());
    let lost = ProviderAction::WriteWhenNotified(Arc::clone(&told), b"no answer\r\n\r\n".to_vec());
    in_turn(&bed, vec![ProviderAction::ok(), lost, ProviderAction::ok()]);
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
    let rest = async {
        bed.provider.wait_for_requests(2).await;
        bed.wait_idle_deadlines(1).await;
        told.notify_one();
    };
    let (answer, ()) = tokio::join!(bed.send(TestRequest::slots()), rest);
    assert_eq!((answer.status, answer.token()), (502, Some("provider_failed")));
    assert_eq!(bed.provider.received().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_on_a_kept_connection_that_closes_under_it_is_sent_again_once() {
    let bed = TestBed::new().await;
    in_turn(&bed, vec![ProviderAction::ok(), ProviderAction::Close, ProviderAction::ok()]);
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
    assert_eq!((bed.provider.received().len(), bed.provider.connections()), (3, 2));
    assert_eq!(bed.metric("provider_retries_total"), 1);
    let [_, first, again] = bed.provider.received().try_into().unwrap();
    assert_eq!((first.start, first.headers), (again.start, again.headers));
    assert_eq!(closed_count(&bed).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_on_a_fresh_connection_that_closes_under_it_is_not_sent_again() {
    let bed = TestBed::new().await;
    in_turn(&bed, vec![ProviderAction::Close]);
    let answer = bed.send(TestRequest::slots()).await;
    assert_eq!((answer.status, answer.token()), (502, Some("provider_failed")));
    assert_eq!((bed.provider.received().len(), bed.provider.connections()), (1, 1));
    in_turn(&bed, vec![ProviderAction::ok(), ProviderAction::Close, ProviderAction::Close]);
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
    assert_eq!(bed.send(TestRequest::slots()).await.token(), Some("provider_failed"));
    assert_eq!((bed.provider.received().len(), bed.provider.connections()), (4, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_continues_after_its_consumer_leaves_and_its_answer_is_recorded() {
    for call in [TestRequest::book(), TestRequest::book().http2()] {
        let bed = TestBed::new().await;
        let told = Arc::new(Notify::new());
        in_turn(&bed, vec![ProviderAction::WriteWhenNotified(Arc::clone(&told), created())]);
        tokio::select! {
            answer = bed.send(call.clone()) => panic!("{answer:?}"),
            () = bed.provider.wait_for_requests(1) => {}
        }
        if call.version == testkit::request::Version::Http2 {
            // Here the gateway can detect that the consumer left.
            while bed.metric("connections") > 0 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(closed_count(&bed).await, 0);
        told.notify_one();
        let record = bed.wait_for_closed_line(1).await;
        assert_eq!(record["status"], 201);
        assert_eq!(record["sent_whole"], true);
        bed.wait_until_idle().await;
        assert_eq!((bed.provider.received().len(), bed.provider.accepted_connections()), (1, 1));
    }
}

/// Half of a booking, sent as far as the provider; then its consumer does what it does.
async fn half_sent(
    bed: &TestBed,
    chunked: bool,
) -> RawConnection<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static> {
    let begun = Arc::new(Notify::new());
    let heard = Arc::clone(&begun);
    bed.provider.set_script(move |_| {
        heard.notify_one();
        ProviderAction::Write(created())
    });
    let call = match chunked {
        true => TestRequest::book()
            .without_content_length()
            .with("Transfer-Encoding", "chunked")
            .body(b"8\r\nhalf of \r\n"),
        false => TestRequest::book()
            .without_content_length()
            .with("Content-Length", "1000")
            .body(b"half of "),
    };
    let mut wire = RawConnection::new(call.connect(bed).await.unwrap());
    wire.stream.write_all(&call.bytes()).await.unwrap();
    begun.notified().await;
    wire
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_booking_whose_consumer_hung_up_never_looks_whole() {
    for chunked in [false, true] {
        let bed = TestBed::new().await;
        drop(half_sent(&bed, chunked).await);
        let record = bed.wait_for_closed_line(1).await;
        assert_eq!(record["refusal"], "body_cut");
        assert_eq!(record["sent_whole"], false);
        bed.provider.wait_for_requests(1).await;
        assert!(!bed.provider.received()[0].complete, "{:?}", bed.provider.received());
        bed.wait_until_idle().await;
        assert_eq!(bed.provider.accepted_connections(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_booking_whose_consumer_stalls_is_given_up() {
    for chunked in [false, true] {
        let bed =
            TestBed::with(|files| files.add("[provider.deadlines]\nbody-idle = \"200ms\"")).await;
        let wire = half_sent(&bed, chunked).await;
        let mut wire = RawConnection::new(wire.stream);
        let head = wire.head().await.unwrap();
        assert!(head.start.contains("408"), "{head:?}");
        assert!(head.header("proxy-status").unwrap().contains("body_timed_out"));
        let record = bed.wait_for_closed_line(1).await;
        assert_eq!(record["refusal"], "body_timed_out");
        assert_eq!(record["sent_whole"], false);
        bed.provider.wait_for_requests(1).await;
        assert!(!bed.provider.received()[0].complete);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_that_only_drips_is_given_up() {
    for line in ["body-idle = \"150ms\"\nbody-rate-min = 1000", "body-total = \"150ms\""] {
        let bed = TestBed::with(|files| files.add(&format!("[provider.deadlines]\n{line}"))).await;
        let stream = half_sent(&bed, false).await.stream;
        let (read, mut write) = tokio::io::split(stream);
        let drips = tokio::spawn(async move {
            while write.write_all(b" ").await.is_ok() && write.flush().await.is_ok() {
                tokio::time::sleep(DRIP).await;
            }
        });
        let head = RawConnection::new(read).head().await.unwrap();
        assert!(head.start.contains("408"), "{head:?}");
        drips.abort();
        let record = bed.wait_for_closed_line(1).await;
        assert_eq!(record["refusal"], "body_timed_out");
        assert_eq!(record["sent_whole"], false);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_refused_early_leaves_no_second_request_in_its_body() {
    let bed = TestBed::new().await;
    let call = TestRequest::book().set("Ssp-From", "no asid");
    let mut wire = RawConnection::new(call.connect(&bed).await.unwrap());
    let inner = TestRequest::book().bytes();
    wire.stream.write_all(&call.body(&inner).bytes()).await.unwrap();
    assert_eq!(read_answer(&mut wire).await.unwrap().token(), Some("from_invalid"));
    drop(wire);
    bed.wait_until_idle().await;
    assert!(bed.provider.received().is_empty());
}
