//! Pooled connections to a provider that are all lost at once, as when a load balancer fails over.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use http_body_util::BodyExt as _;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Notify;

use testkit::link::{FaultyLink, LinkFault};
use testkit::provider::answer;
use testkit::raw_connection::RawConnection;
use testkit::request::read_answer;
use testkit::{ProviderAction, TestBed, TestRequest};

/// As many kept connections as requests follow.
const COUNT: usize = 30;

/// A test bed with connections that are kept and have just been lost, each by this mishap; new ones work.
async fn lost(mishap: LinkFault) -> (TestBed, FaultyLink) {
    // Only where an answer is waited for in vain; else a busy machine could be too slow.
    let head = if mishap == LinkFault::BlackHole { "2s" } else { "1m" };
    let deadlines =
        "[provider.deadlines]\nidle = \"10m\"\nidle-for-writes = \"10m\"\nresponse-head";
    let mut way = None;
    // From the start: a reload would bring a new generation, which uses no connection of the old one.
    let bed = TestBed::with(|files| {
        files.add(&format!("{deadlines} = \"{head}\""));
        files.edit("directory.toml", |text| {
            let (_, dial) = text.split_once("dial = \"").unwrap();
            let there = dial.split('"').next().unwrap();
            let new = way.insert(FaultyLink::to(there.parse().unwrap())).address;
            text.replace(there, &new.to_string())
        });
    })
    .await;
    let way = way.unwrap();
    let told = Arc::new(Notify::new());
    bed.provider.set_action(ProviderAction::WriteWhenNotified(
        Arc::clone(&told),
        answer("200 OK", "", "{}"),
    ));
    let reads = join_all((0..COUNT).map(|_| bed.send(TestRequest::slots())));
    let answering = async {
        bed.provider.wait_for_requests(COUNT).await;
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
    assert_eq!(bed.provider.connections(), COUNT);
    bed.provider.set_action(ProviderAction::ok());
    way.set_fault_of_existing(mishap);
    (bed, way)
}

/// Counts the outcomes of calls made one after the other: a refusal's token, or the status.
async fn one_by_one(bed: &TestBed, call: TestRequest) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..COUNT {
        let answer = bed.send(call.clone()).await;
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
        (LinkFault::Reset, "outcome_unknown"),
        (LinkFault::HalfClose, "outcome_unknown"),
        (LinkFault::BlackHole, "outcome_unknown_in_time"),
    ] {
        let (bed, _way) = lost(mishap).await;
        let came_to = one_by_one(&bed, TestRequest::book()).await;
        assert_eq!(came_to, counts(&[("200", COUNT - 1), (token, 1)]), "{mishap:?}");
        assert_eq!(bed.provider.received().len(), COUNT + COUNT - 1);
        assert_eq!(bed.provider.connections(), COUNT + 1, "what is new is kept again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kept_connections_are_lost_every_read_is_answered() {
    for (mishap, failed) in [
        (LinkFault::Reset, None),
        (LinkFault::HalfClose, None),
        // The provider's side acknowledges what it swallows: it may be at work, and is not asked twice.
        (LinkFault::BlackHole, Some(("provider_timed_out", 1))),
    ] {
        let (bed, _way) = lost(mishap).await;
        let came_to = one_by_one(&bed, TestRequest::slots()).await;
        let failures = failed.map_or(0, |(_, count)| count);
        let expected = [("200", COUNT - failures)].into_iter().chain(failed).collect::<Vec<_>>();
        assert_eq!(came_to, counts(&expected), "{mishap:?}");
        let repeats = if mishap == LinkFault::BlackHole { 0 } else { 1 };
        assert_eq!(bed.metric("provider_retries_total"), repeats);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_on_kept_connections_that_are_lost_under_all_of_them_are_all_repeated() {
    let (bed, _way) = lost(LinkFault::Reset).await;
    let reads = join_all((0..COUNT).map(|_| bed.send(TestRequest::slots()))).await;
    let failed = reads.iter().filter(|read| read.status != 200).count();
    assert_eq!(failed, 0, "of {COUNT}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bookings_on_lost_pooled_connections_do_not_open_the_circuit() {
    let (bed, _way) = lost(LinkFault::Reset).await;
    let bookings = join_all((0..COUNT).map(|_| bed.send(TestRequest::book()))).await;
    for booking in bookings {
        assert!(
            [None, Some("outcome_unknown")].contains(&booking.token()),
            "{:?}",
            booking.token()
        );
    }
    assert_eq!(bed.metric("provider_circuits_opened_total"), 0);
    assert_eq!(bed.send(TestRequest::book()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_circuit_of_a_provider_that_drops_every_request_opens_though_some_were_on_kept_connections()
 {
    let bed = TestBed::new().await;
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
    bed.provider.set_action(ProviderAction::Close);
    for _ in 0..6 {
        let answer = bed.send(TestRequest::slots()).await;
        assert!(answer.status >= 502, "{:?}", answer.token());
    }
    assert_eq!(bed.metric("provider_circuits_opened_total"), 1);
}

/// A test bed with these lines in its provider section, and its deadlines there.
async fn keeping(lines: &str, deadlines: &str) -> TestBed {
    TestBed::with(|files| {
        files.set("provider", lines);
        files.add(&format!("[provider.deadlines]\n{deadlines}"));
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooled_connection_is_not_used_beyond_its_maximum_age_or_idle_time() {
    for (deadlines, connections) in [
        ("idle = \"10m\"\nconnection-age = \"10m\"", 1),
        ("idle = \"0s\"\nconnection-age = \"10m\"", 3),
        ("idle = \"10m\"\nconnection-age = \"0s\"", 3),
    ] {
        let bed = keeping("", deadlines).await;
        for _ in 0..3 {
            assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
        }
        assert_eq!(bed.provider.connections(), connections, "{deadlines}");
        // Connections that may not be used any more are closed without a request.
        bed.provider.wait_for_closed_connections(connections - 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooled_connection_is_closed_at_its_maximum_age_without_a_request() {
    for deadlines in ["idle = \"100ms\"", "idle = \"10m\"\nconnection-age = \"100ms\""] {
        let bed = keeping("", deadlines).await;
        assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
        bed.provider.wait_for_closed_connections(1).await;
        assert_eq!(bed.provider.connections(), 1, "{deadlines}");
    }
}

/// Asks so often at once, and has all answered once the provider has all of them.
async fn at_once(bed: &TestBed, count: usize) {
    let told = Arc::new(Notify::new());
    bed.provider.set_action(ProviderAction::WriteWhenNotified(
        Arc::clone(&told),
        answer("200 OK", "", "{}"),
    ));
    let asked = bed.provider.received().len();
    let reads = join_all((0..count).map(|_| bed.send(TestRequest::slots())));
    let answering = async {
        bed.provider.wait_for_requests(asked + count).await;
        loop {
            told.notify_waiters();
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        reads = reads => assert!(reads.iter().all(|read| read.status == 200)),
        () = answering => unreachable!("it goes on until all have their answers"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_connections_are_kept_to_a_host_than_are_configured() {
    let bed = keeping("idle-max = 2", "idle = \"10m\"").await;
    at_once(&bed, 6).await;
    bed.provider.wait_for_closed_connections(4).await;
    assert_eq!(bed.provider.connections(), 6);
    at_once(&bed, 4).await;
    bed.provider.wait_for_closed_connections(6).await;
    assert_eq!(bed.provider.connections(), 8, "two were kept and used");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_pools_no_more_connections_than_its_limit() {
    // Both ends of each connection are here.
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = rustix::process::Rlimit { current: files.maximum, ..files };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, most).unwrap();
    let beyond = 6;
    let count = spine_proxy::forward::IDLE_MAX + beyond;
    let bed = TestBed::with(|files| {
        files.set("provider", "idle-max = 5000");
        files.add("[provider.deadlines]\nidle = \"10m\"\nresponse-head = \"10m\"");
        files.add("[listener.limits]\nstreams-max = 1000\nin-hand-max = 5000");
        files.add(
            "[throttle]\ncertificate-per-second = 100000\nconsumer-per-second = 100000\n\
             consumer-exchanges-max = 5000\npractice-exchanges-max = 5000\n\
             practice-consumer-max = 5000",
        );
    })
    .await;
    let told = Arc::new(Notify::new());
    bed.provider.set_action(ProviderAction::WriteWhenNotified(
        Arc::clone(&told),
        answer("200 OK", "", "{}"),
    ));
    let call = TestRequest::slots().http2();
    let mut exchanges = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let io = TokioIo::new(call.connect(&bed).await.unwrap());
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        for _ in 0..count / 2 {
            let (mut sender, request) = (sender.clone(), call.request());
            exchanges.spawn(async move {
                let response = sender.send_request(request).await.unwrap();
                assert_eq!(response.status(), 200);
                response.into_body().collect().await.unwrap();
            });
        }
    }
    bed.provider.wait_for_requests(count).await;
    while !exchanges.is_empty() {
        told.notify_waiters();
        while let Some(done) = exchanges.try_join_next() {
            done.unwrap();
        }
        tokio::task::yield_now().await;
    }
    bed.provider.wait_for_closed_connections(beyond).await;
    assert_eq!(bed.provider.connections(), count);
}

/// Retries in hand at the start; and of ten requests, one earns another.
const RETRIES: u64 = 64;

#[tokio::test(flavor = "multi_thread")]
async fn retries_have_a_budget_that_requests_earn() {
    let bed = TestBed::with(|files| {
        files.add("[throttle]\npractice-failures-max = 1000000\npractice-failures-percent = 100");
        files.add("[provider.deadlines]\nidle = \"10m\"");
    })
    .await;
    // Each connection carries one request, and is lost under the next.
    let mut is_lost = true;
    bed.provider.set_script(move |_| {
        is_lost = !is_lost;
        if is_lost { ProviderAction::Close } else { ProviderAction::ok() }
    });
    let call = TestRequest::slots();
    let mut wire = RawConnection::new(call.connect(&bed).await.unwrap());
    let (mut asked, mut first_failed) = (0_u64, None);
    while asked < 300 {
        asked += 1;
        wire.stream.write_all(&call.bytes()).await.unwrap();
        match read_answer(&mut wire).await.expect("an answer") {
            answer if answer.status == 200 => {}
            answer => {
                assert_eq!(answer.token(), Some("provider_failed"));
                first_failed = first_failed.or(Some(asked));
            }
        }
    }
    // Each earns a tenth of the retry that it costs.
    let first_failed = first_failed.expect("retries come to an end");
    assert!((RETRIES..RETRIES * 10 / 9 + 3).contains(&first_failed), "the {first_failed}th");
    let retries = bed.metric("provider_retries_total");
    assert!((RETRIES + 20..=RETRIES + asked / 10).contains(&retries), "{retries} of {asked}");
}
