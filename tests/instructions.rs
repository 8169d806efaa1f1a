//! Cost of a request in instructions: with any head within the limits, at most a stated multiple of a usual
//! request.

use testkit::heads::{FilledHead, filled_answers, filled_requests};
use testkit::valgrind::{self, InstructionCounter};
use testkit::{ProviderAction, TestBed, TestRequest, report_missing};

/// Limit: usual requests that the costliest head may cost. In a build without optimisation, as the tests'
/// is, the steps over each byte weigh more than in a release: there it is about half.
const USUAL_REQUESTS_MAX: u64 = 60;

/// The program under valgrind, and the instructions of a usual request.
async fn counted() -> Option<(TestBed, InstructionCounter, u64)> {
    if !valgrind::is_installed() {
        report_missing("valgrind");
        return None;
    }
    let bed = TestBed::new().await;
    let mut counted = InstructionCounter::start(&bed);
    let usual = counted.smallest_count(&bed, &TestRequest::slots(), 5).await;
    Some((bed, counted, usual))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_costs_a_few_usual_requests_however_it_is_filled() {
    let Some((bed, mut counted, usual)) = counted().await else { return };
    let mut dear = Vec::new();
    for FilledHead { description, call, refusal } in filled_requests() {
        let (cost, answer) = counted.count(&bed, &call.bytes()).await;
        assert_eq!(
            (answer.token(), answer.status == 200),
            (refusal, refusal.is_none()),
            "{description}"
        );
        if cost > usual * USUAL_REQUESTS_MAX {
            dear.push((description, cost / usual));
        }
    }
    assert!(dear.is_empty(), "usual requests, {usual} instructions each: {dear:?}");
}

/// Over HTTP/2 a path in Huffman coding is followed bit by bit, which a debug build does slowly.
const USUAL_REQUESTS_MAX_HTTP2: u64 = 90;

/// Ways that HTTP/2 has too, and that it reads in another way.
const OVER_HTTP2: [&str; 8] = [
    "slashes",
    "escapes in the query",
    "cookies",
    "proxies in Via",
    "header lines",
    "long header lines",
    "long header names",
    "lines of cookies",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_head_costs_a_few_usual_requests_over_http2_too() {
    let Some((bed, mut counted, usual)) = counted().await else { return };
    let mut dear = Vec::new();
    for FilledHead { description, call, refusal } in filled_requests() {
        if !OVER_HTTP2.contains(&description) {
            continue;
        }
        let (cost, status) = counted.count_http2(&bed, &call).await;
        assert_eq!(status == 200, refusal.is_none(), "{description}: {status}");
        if cost > usual * USUAL_REQUESTS_MAX_HTTP2 {
            dear.push((description, cost / usual));
        }
    }
    assert!(dear.is_empty(), "usual requests, {usual} instructions each: {dear:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_costs_a_few_usual_requests_however_it_is_filled() {
    let Some((bed, mut counted, usual)) = counted().await else { return };
    let mut dear = Vec::new();
    for (way, answer) in filled_answers() {
        bed.provider.set_action(ProviderAction::Write(answer));
        let (cost, answer) = counted.count(&bed, &TestRequest::slots().bytes()).await;
        assert_eq!((answer.status, answer.token(), answer.complete), (200, None, true), "{way}");
        if cost > usual * USUAL_REQUESTS_MAX {
            dear.push((way, cost / usual));
        }
    }
    assert!(dear.is_empty(), "usual requests, {usual} instructions each: {dear:?}");
}
