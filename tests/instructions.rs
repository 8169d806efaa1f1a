//! What a request costs, in instructions of the program: however its head is filled, it costs a stated multiple
//! of a usual request at most.

use crate::support::heads::{Filled, answers, filled};
use crate::support::valgrind::{self, Counted};
use crate::support::{Act, Call, Stage, missing};

/// Limit: usual requests that the costliest head may cost. In a build without optimisation, as the tests'
/// is, the steps over each byte weigh more than in a release: there it is about half.
const USUAL_REQUESTS_MAX: u64 = 60;

#[tokio::test(flavor = "multi_thread")]
async fn a_head_costs_a_few_usual_requests_however_it_is_filled() {
    if !valgrind::is_installed() {
        return missing("valgrind");
    }
    let stage = Stage::new().await;
    let mut counted = Counted::start(&stage);
    let usual = counted.least(&stage, &Call::slots(), 5).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_costs_a_few_usual_requests_however_it_is_filled() {
    if !valgrind::is_installed() {
        return missing("valgrind");
    }
    let stage = Stage::new().await;
    let mut counted = Counted::start(&stage);
    let usual = counted.least(&stage, &Call::slots(), 5).await;
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
