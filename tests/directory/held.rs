//! How long an answer is held, when it is asked for again, and how long it serves in an outage.

use gpconnect_simulator::sds::{ReceivedSdsRequest, Records, SdsFault};
use spine_proxy::refusal::Refusal;

use super::{HOUR, MINUTE, NEW_ROOT, ROOT, SHORT, moved, practice};
use testkit::sds::{BOOK, PAYER, Registry, SLOTS, asid, by_asid, interaction, ods};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stale_is_served_while_it_is_asked_for_again() {
    // Whoever waited for the source would wait for an hour.
    let patience = r#"deadlines = { attempt = "1h", waiting = "1h", background = "1h" }"#;
    let registry = Registry::new(practice(), patience).await;
    let directory = registry.directory("");
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    registry.rests(&directory).await;
    registry.sds.set(None, SdsFault::NoResponse);
    registry.later_s(20 * MINUTE);
    for _ in 0..100 {
        registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    }
    registry.has_been_asked(4).await;
    assert_eq!(directory.sources_view().looking_up, 1);
    assert_eq!(registry.counted("directory_lookups_total{result=\"stale\"}"), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_an_outage_a_practice_is_served_for_half_a_day_and_no_longer() {
    let mut registry = Registry::new(practice(), SHORT).await;
    let directory = registry.directory("");
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    registry.rests(&directory).await;
    registry.closes().await;
    for hours in [2, 4, 6, 11] {
        registry.later_s(hours * HOUR);
        let found = registry.practice(&directory, "A20047", SLOTS).await.unwrap();
        assert_eq!(found.root.as_str(), ROOT, "after {hours} hours");
    }
    assert_eq!(registry.counted("directory_lookups_total{result=\"stale_error\"}"), 4);
    registry.later_s(12 * HOUR);
    let refused = registry.practice(&directory, "A20047", SLOTS).await;
    assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_by_ods_code_goes_by_fresh_answers_or_young_ones_in_an_outage() {
    let mut registry = Registry::new(practice(), SHORT).await;
    let directory = registry.directory("");
    registry.practice(&directory, "A20047", BOOK).await.unwrap();
    registry.rests(&directory).await;
    registry.sds.replace(moved());
    registry.later_s(20 * MINUTE);
    let found = registry.practice(&directory, "A20047", BOOK).await.unwrap();
    assert_eq!(found.root.as_str(), NEW_ROOT, "never to the former supplier");
    registry.rests(&directory).await;
    registry.closes().await;
    registry.later_s(79 * MINUTE);
    assert!(registry.practice(&directory, "A20047", BOOK).await.is_ok());
    registry.later_s(81 * MINUTE);
    let refused = registry.practice(&directory, "A20047", BOOK).await;
    assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
    assert!(registry.practice(&directory, "A20047", SLOTS).await.is_ok(), "a read goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_asked_twice_and_nothing_is_fresh_where_everything_is_asked_for() {
    let never = r#"freshness = { provider = "0s", provider-stale = "0s" }"#;
    let registry = Registry::new(practice(), never).await;
    let directory = registry.directory("");
    for round in 1..=3 {
        registry.practice(&directory, "A20047", SLOTS).await.unwrap();
        registry.rests(&directory).await;
        assert_eq!(registry.asked(), 3 * round);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_outlives_one_empty_answer_and_falls_to_the_second() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    registry.rests(&directory).await;
    registry.sds.replace(Records::default());
    registry.later_s(2 * HOUR);
    // The first denial is doubted, and a second one a minute later believed.
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    registry.later_s(2 * HOUR + 59);
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    registry.later_s(2 * HOUR + 61);
    let refused = registry.practice(&directory, "A20047", SLOTS).await;
    assert_eq!(refused.unwrap_err(), Refusal::PracticeNotRegistered);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_practice_in_use_is_asked_for_before_it_grows_stale() {
    let soon = r#"freshness = { provider = "1s", provider-stale = "1h" }"#;
    let registry = Registry::new(practice(), soon).await;
    let directory = registry.directory("");
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    let keeping = tokio::spawn({
        let directory = directory.clone();
        async move { directory.refresh_ahead().await }
    });
    registry.has_been_asked(6).await;
    keeping.abort();
    registry.rests(&directory).await;
    assert!(registry.counted("directory_refreshes_total{result=\"ok\",trigger=\"ahead\"}") >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_again_is_no_reason_to_say_no_for_good() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    registry.rests(&directory).await;
    registry.sds.replace(moved());
    registry.sds.set(None, SdsFault::Status(503));
    let (new, code) = (asid("918999198777"), ods("A20047"));
    let receiver = &by_asid(&new, Some(&code));
    let ask = || directory.provider(receiver, interaction(SLOTS), PAYER);
    assert_eq!(ask().await.unwrap_err(), Refusal::DirectoryUnavailable);
    registry.sds.clear();
    // Asked again once the failure is forgotten, not after the while between two forced look-ups.
    registry.later_s(2);
    assert_eq!(ask().await.unwrap().root.as_str(), NEW_ROOT);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_asked_for_again_past_every_cache() {
    let registry = Registry::new(practice(), r#"freshness = { provider-stale = "0s" }"#).await;
    let directory = registry.directory("");
    let fresh = |asked: &[ReceivedSdsRequest]| {
        asked.iter().map(|asked| asked.headers.contains_key("cache-control")).collect::<Vec<_>>()
    };
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    registry.rests(&directory).await;
    assert_eq!(fresh(&registry.sds.received()), [false; 3]);
    registry.later_s(HOUR);
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    registry.rests(&directory).await;
    assert_eq!(fresh(&registry.sds.received()[3..]), [true; 3]);
}
