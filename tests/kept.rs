//! Kept connections to a provider that are lost all at once: a balancer fails over and knows none of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::Notify;

use crate::support::provider::answer;
use crate::support::way::{Mishap, Way};
use crate::support::{Act, Call, Stage};

/// As many kept connections as requests follow.
const COUNT: usize = 30;

/// A stage with connections that are kept and have just been lost, each by this mishap; new ones work.
async fn lost(mishap: Mishap) -> (Stage, Way) {
    // Only where an answer is waited for in vain; else a busy machine could be too slow.
    let head = if mishap == Mishap::BlackHole { "2s" } else { "1m" };
    let deadlines =
        "[provider.deadlines]\nidle = \"10m\"\nidle-for-writes = \"10m\"\nresponse-head";
    let mut way = None;
    // From the start: a reload would bring a new generation, which uses no connection of the old one.
    let stage = Stage::with(|files| {
        files.add(&format!("{deadlines} = \"{head}\""));
        files.edit("directory.toml", |text| {
            let (_, dial) = text.split_once("dial = \"").unwrap();
            let there = dial.split('"').next().unwrap();
            let new = way.insert(Way::to(there.parse().unwrap())).address;
            text.replace(there, &new.to_string())
        });
    })
    .await;
    let way = way.unwrap();
    let told = Arc::new(Notify::new());
    stage.provider.does(Act::WriteWhenTold(Arc::clone(&told), answer("200 OK", "", "{}")));
    let reads = join_all((0..COUNT).map(|_| stage.hears(Call::slots())));
    let answering = async {
        stage.provider.has_received(COUNT).await;
        loop {
            told.notify_waiters();
            tokio::task::yield_now().await;
        }
    };
    let reads = tokio::select! {
        reads = reads => reads,
        () = answering => unreachable!("it goes on until all have their answers"),
    };
    assert!(reads.iter().all(|read| read.status == 200));
    assert_eq!(stage.provider.connections(), COUNT);
    stage.provider.does(Act::ok());
    way.loses_connections(mishap);
    (stage, way)
}

/// Counts the outcomes of calls made one after the other: a refusal's token, or the status.
async fn one_by_one(stage: &Stage, call: Call) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..COUNT {
        let answer = stage.hears(call.clone()).await;
        let came_to = answer.token().map_or_else(|| answer.status.to_string(), str::to_owned);
        *counts.entry(came_to).or_default() += 1;
    }
    counts
}

fn counts(of: &[(&str, usize)]) -> BTreeMap<String, usize> {
    of.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kept_connections_are_lost_one_booking_has_an_unknown_outcome_and_the_rest_arrive() {
    for (mishap, token) in [
        (Mishap::Reset, "outcome_unknown"),
        (Mishap::HalfClose, "outcome_unknown"),
        (Mishap::BlackHole, "outcome_unknown_in_time"),
    ] {
        let (stage, _way) = lost(mishap).await;
        let came_to = one_by_one(&stage, Call::book()).await;
        assert_eq!(came_to, counts(&[("200", COUNT - 1), (token, 1)]), "{mishap:?}");
        assert_eq!(stage.provider.received().len(), COUNT + COUNT - 1);
        assert_eq!(stage.provider.connections(), COUNT + 1, "what is new is kept again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kept_connections_are_lost_every_read_is_answered() {
    for (mishap, failed) in [
        (Mishap::Reset, None),
        (Mishap::HalfClose, None),
        // The provider's side acknowledges what it swallows: it may be at work, and is not asked twice.
        (Mishap::BlackHole, Some(("provider_timed_out", 1))),
    ] {
        let (stage, _way) = lost(mishap).await;
        let came_to = one_by_one(&stage, Call::slots()).await;
        let failures = failed.map_or(0, |(_, count)| count);
        let expected = [("200", COUNT - failures)].into_iter().chain(failed).collect::<Vec<_>>();
        assert_eq!(came_to, counts(&expected), "{mishap:?}");
        let repeats = if mishap == Mishap::BlackHole { 0 } else { 1 };
        assert_eq!(stage.counted("provider_retries_total"), repeats);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_on_kept_connections_that_are_lost_under_all_of_them_are_all_repeated() {
    let (stage, _way) = lost(Mishap::Reset).await;
    let reads = join_all((0..COUNT).map(|_| stage.hears(Call::slots()))).await;
    let failed = reads.iter().filter(|read| read.status != 200).count();
    assert_eq!(failed, 0, "of {COUNT}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bookings_under_way_on_kept_connections_that_are_lost_spare_nobody() {
    let (stage, _way) = lost(Mishap::Reset).await;
    let bookings = join_all((0..COUNT).map(|_| stage.hears(Call::book()))).await;
    for booking in bookings {
        assert!(
            [None, Some("outcome_unknown")].contains(&booking.token()),
            "{:?}",
            booking.token()
        );
    }
    assert_eq!(stage.counted("providers_spared_total"), 0);
    assert_eq!(stage.hears(Call::book()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_drops_every_request_is_spared_though_some_were_on_kept_connections() {
    let stage = Stage::new().await;
    assert_eq!(stage.hears(Call::slots()).await.status, 200);
    stage.provider.does(Act::Close);
    for _ in 0..6 {
        let answer = stage.hears(Call::slots()).await;
        assert!(answer.status >= 502, "{:?}", answer.token());
    }
    assert_eq!(stage.counted("providers_spared_total"), 1);
}
