//! Cost of a request, in instructions of the program: however its head is filled, it costs a stated multiple
//! of a usual request at most.

use testkit::heads::{Filled, answers, filled};
use testkit::valgrind::{self, Counted};
use testkit::{Act, Call, Stage, missing};

/// Limit: usual requests that the costliest head may cost. In a build without optimisation, as the tests'
/// is, the steps over each byte weigh more than in a release: there it is about half.
const USUAL_REQUESTS_MAX: u64 = 60;

/// The program under valgrind, and the instructions of a usual request.
async fn counted() -> Option<(Stage, Counted, u64)> {
    if !valgrind::is_installed() {
        missing("valgrind");
        return None;
    }
    let stage = Stage::new().await;
    let mut counted = Counted::start(&stage);
    let usual = counted.least(&stage, &Call::slots(), 5).await;
    Some((stage, counted, usual))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_costs_a_few_usual_requests_however_it_is_filled() {
    let Some((stage, mut counted, usual)) = counted().await else { return };
    let mut dear = Vec::new();
    for Filled { way, call, refusal } in filled() {
        let (cost, answer) = counted.count(&stage, &call.bytes()).await;
        assert_eq!((answer.token(), answer.status == 200), (refusal, refusal.is_none()), "{way}");
        if cost > usual * USUAL_REQUESTS_MAX {
            dear.push((way, cost / usual));
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
    let Some((stage, mut counted, usual)) = counted().await else { return };
    let mut dear = Vec::new();
    for Filled { way, call, refusal } in filled() {
        if !OVER_HTTP2.contains(&way) {
            continue;
        }
        let (cost, status) = counted.count_http2(&stage, &call).await;
        assert_eq!(status == 200, refusal.is_none(), "{way}: {status}");
        if cost > usual * USUAL_REQUESTS_MAX_HTTP2 {
            dear.push((way, cost / usual));
        }
    }
    assert!(dear.is_empty(), "usual requests, {usual} instructions each: {dear:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_costs_a_few_usual_requests_however_it_is_filled() {
    let Some((stage, mut counted, usual)) = counted().await else { return };
    let mut dear = Vec::new();
    for (way, answer) in answers() {
        stage.provider.does(Act::Write(answer));
        let (cost, answer) = counted.count(&stage, &Call::slots().bytes()).await;
        assert_eq!((answer.status, answer.token(), answer.complete), (200, None, true), "{way}");
        if cost > usual * USUAL_REQUESTS_MAX {
            dear.push((way, cost / usual));
        }
    }
    assert!(dear.is_empty(), "usual requests, {usual} instructions each: {dear:?}");
}
