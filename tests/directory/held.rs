//! Age of cached entries: when they are refreshed, and how long they are served in an outage.

use gpconnect_simulator::sds::{ReceivedSdsRequest, Records, SdsFault};
use spine_proxy::refusal::Refusal;

use super::{HOUR, MINUTE, NEW_ROOT, ROOT, SHORT, moved, practice};
use testkit::sds::{BOOK, PAYER, Registry, SLOTS, asid, by_asid, interaction, ods};

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_entry_is_served_while_it_is_refreshed() {
    // A request that waited for the source would wait for an hour.
    let patience = r#"deadlines = { attempt = "1h", waiting = "1h", background = "1h" }"#;
    let registry = Registry::new(practice(), patience).await;
    let directory = registry.directory("");
    registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    registry.wait_until_idle(&directory).await;
    registry.sds.set(None, SdsFault::NoResponse);
    registry.set_clock_ahead_s(20 * MINUTE);
    for _ in 0..100 {
        registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    }
    registry.wait_for_queries(4).await;
    assert_eq!(directory.sources_view().looking_up, 1);
    assert_eq!(registry.metric("directory_lookups_total{result=\"stale\"}"), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_an_outage_a_practice_is_served_for_half_a_day_and_no_longer() {
    let mut registry = Registry::new(practice(), SHORT).await;
    let directory = registry.directory("");
    registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    registry.wait_until_idle(&directory).await;
    registry.stop().await;
    for hours in [2, 4, 6, 11] {
        registry.set_clock_ahead_s(hours * HOUR);
        let found = registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
        assert_eq!(found.root.as_str(), ROOT, "after {hours} hours");
    }
    assert_eq!(registry.metric("directory_lookups_total{result=\"stale_error\"}"), 4);
    registry.set_clock_ahead_s(12 * HOUR);
    let refused = registry.look_up(&directory, "A20047", SLOTS).await;
    assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_by_ods_code_needs_a_fresh_answer_or_in_an_outage_a_recent_one() {
    let mut registry = Registry::new(practice(), SHORT).await;
    let directory = registry.directory("");
    registry.look_up(&directory, "A20047", BOOK).await.unwrap();
    registry.wait_until_idle(&directory).await;
    registry.sds.replace(moved());
    registry.set_clock_ahead_s(20 * MINUTE);
    let found = registry.look_up(&directory, "A20047", BOOK).await.unwrap();
    assert_eq!(found.root.as_str(), NEW_ROOT, "never to the former supplier");
    registry.wait_until_idle(&directory).await;
    registry.stop().await;
    registry.set_clock_ahead_s(79 * MINUTE);
    assert!(registry.look_up(&directory, "A20047", BOOK).await.is_ok());
    registry.set_clock_ahead_s(81 * MINUTE);
    let refused = registry.look_up(&directory, "A20047", BOOK).await;
    assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
    assert!(registry.look_up(&directory, "A20047", SLOTS).await.is_ok(), "a read goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_freshness_of_zero_every_request_queries_once() {
    let never = r#"freshness = { provider = "0s", provider-stale = "0s" }"#;
    let registry = Registry::new(practice(), never).await;
    let directory = registry.directory("");
    for round in 1..=3 {
        registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
        registry.wait_until_idle(&directory).await;
        assert_eq!(registry.query_count(), 3 * round);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_entry_survives_one_empty_answer_but_not_two() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    registry.wait_until_idle(&directory).await;
    registry.sds.replace(Records::default());
    registry.set_clock_ahead_s(2 * HOUR);
    // The first empty answer is not accepted; a second one a minute later is.
    registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    registry.set_clock_ahead_s(2 * HOUR + 59);
    registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    registry.set_clock_ahead_s(2 * HOUR + 61);
    let refused = registry.look_up(&directory, "A20047", SLOTS).await;
    assert_eq!(refused.unwrap_err(), Refusal::PracticeNotRegistered);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_practice_in_use_is_refreshed_before_it_is_stale() {
    let soon = r#"freshness = { provider = "1s", provider-stale = "1h" }"#;
    let registry = Registry::new(practice(), soon).await;
    let directory = registry.directory("");
    registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    let keeping = tokio::spawn({
        let directory = directory.clone();
        async move { directory.refresh_ahead().await }
    });
    registry.wait_for_queries(6).await;
    keeping.abort();
    registry.wait_until_idle(&directory).await;
    assert!(registry.metric("directory_refreshes_total{result=\"ok\",trigger=\"ahead\"}") >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_refresh_does_not_cause_a_permanent_refusal() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    registry.wait_until_idle(&directory).await;
    registry.sds.replace(moved());
    registry.sds.set(None, SdsFault::Status(503));
    let (new, code) = (asid("918999198777"), ods("A20047"));
    let receiver = &by_asid(&new, Some(&code));
    let ask = || directory.provider(receiver, interaction(SLOTS), PAYER);
    assert_eq!(ask().await.unwrap_err(), Refusal::DirectoryUnavailable);
    registry.sds.clear();
    // The next look-up is possible once the failure has expired, before the interval of forced look-ups ends.
    registry.set_clock_ahead_s(2);
    assert_eq!(ask().await.unwrap().root.as_str(), NEW_ROOT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_bypasses_intermediate_caches() {
    let registry = Registry::new(practice(), r#"freshness = { provider-stale = "0s" }"#).await;
    let directory = registry.directory("");
    let bypasses_caches = |queries: &[ReceivedSdsRequest]| {
        queries.iter().map(|query| query.headers.contains_key("cache-control")).collect::<Vec<_>>()
    };
    registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    registry.wait_until_idle(&directory).await;
    assert_eq!(bypasses_caches(&registry.sds.received()), [false; 3]);
    registry.set_clock_ahead_s(HOUR);
    registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    registry.wait_until_idle(&directory).await;
    assert_eq!(bypasses_caches(&registry.sds.received()[3..]), [true; 3]);
}
