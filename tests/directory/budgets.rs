//! Concurrent look-ups, and the budgets for them.

use std::sync::Arc;

use gpconnect_simulator::sds::Records;
use spine_proxy::directory::Payer;
use spine_proxy::refusal::Refusal;

use super::{PINNED, ROOT, SHORT, practice};
use testkit::sds::{
    BOOK, PAYER, READ, Registry, SLOTS, asid, by_asid, by_practice, interaction, ods,
};

const CONFLICT: &str = "directory_conflicts_total{kind=\"receiver\",result=\"stands\"}";

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_concurrent_misses_make_three_queries() {
    let registry = Arc::new(Registry::new(practice(), "misses-per-minute = 2000").await);
    let directory = registry.directory("");
    let asking: Vec<_> = (0..1000)
        .map(|number| {
            let (registry, directory) = (Arc::clone(&registry), directory.clone());
            let id = [SLOTS, BOOK, READ][number % 3];
            tokio::spawn(async move { registry.look_up(&directory, "A20047", id).await })
        })
        .collect();
    for one in asking {
        assert_eq!(one.await.unwrap().unwrap().root.as_str(), ROOT);
    }
    registry.wait_until_idle(&directory).await;
    assert_eq!(registry.query_count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_does_not_cancel_a_look_up() {
    let registry = Arc::new(Registry::new(practice(), "").await);
    let directory = registry.directory("");
    let (first, there) = (Arc::clone(&registry), directory.clone());
    let first = tokio::spawn(async move { first.look_up(&there, "A20047", SLOTS).await });
    registry.wait_for_queries(1).await;
    first.abort();
    registry.wait_until_idle(&directory).await;
    registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    assert_eq!(registry.query_count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_look_up_is_not_forced_again_for_a_while() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    let (stranger, code) = (asid("918999198000"), ods("A20047"));
    registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    registry.wait_until_idle(&directory).await;
    for _ in 0..5 {
        let receiver = &by_asid(&stranger, Some(&code));
        directory.provider(receiver, interaction(SLOTS), PAYER).await.unwrap_err();
        directory.refreshed(receiver, interaction(SLOTS), PAYER).await.unwrap();
    }
    registry.wait_until_idle(&directory).await;
    assert_eq!(registry.query_count(), 6);
    assert_eq!(registry.metric(CONFLICT), 5);
    assert_eq!(registry.metric("directory_refreshes_total{result=\"ok\",trigger=\"conflict\"}"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_of_random_codes_uses_up_only_its_own_budget() {
    let registry = Registry::new(practice(), "misses-per-minute = 3").await;
    let directory = registry.directory("");
    for number in 0..5 {
        let refused = registry.look_up(&directory, &format!("Z{number:05}"), SLOTS).await;
        let expected = if number < 3 { Refusal::PracticeUnknown } else { Refusal::LookupsExceeded };
        assert_eq!(refused.unwrap_err(), expected);
    }
    let code = ods("A20047");
    let asker = Payer::Certificate("another certificate");
    let receiver = &by_practice(&code, None);
    assert!(directory.provider(receiver, interaction(SLOTS), asker).await.is_ok());
    registry.look_up(&directory, "A20047", SLOTS).await.expect("a cached entry costs nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn joining_a_look_up_costs_no_budget() {
    let registry = Arc::new(Registry::new(practice(), "misses-per-minute = 2").await);
    let directory = registry.directory("");
    let asking: Vec<_> = (0..100)
        .map(|_| {
            let (registry, directory) = (Arc::clone(&registry), directory.clone());
            tokio::spawn(async move { registry.look_up(&directory, "A20047", SLOTS).await })
        })
        .collect();
    for one in asking {
        one.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_for_one_practice_in_an_outage_use_up_no_budget() {
    let mut registry = Registry::new(practice(), &format!("{SHORT}\nmisses-per-minute = 2")).await;
    let directory = registry.directory("");
    registry.stop().await;
    for _ in 0..20 {
        let refused = registry.look_up(&directory, "A20047", SLOTS).await;
        assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_started_look_ups_finish_before_new_ones_start() {
    // A request waits long enough for twenty queries, which are enough for ten practices.
    let (registry, practices) = slow_registry(60, 4).await;
    let registry = Arc::new(registry);
    let directory = registry.directory("");
    let asking = practices.into_iter().map(|code| {
        let (registry, directory) = (Arc::clone(&registry), directory.clone());
        tokio::spawn(async move { registry.look_up(&directory, &code, SLOTS).await })
    });
    let mut served = 0;
    for one in Vec::from_iter(asking) {
        match one.await.unwrap() {
            Ok(_) => served += 1,
            Err(refusal) => assert_eq!(refusal, Refusal::DirectoryUnavailable),
        }
    }
    assert!(served >= 9, "{served} of sixty");
    assert!(!directory.sources_view().sources[0].circuit_open, "the source did nothing wrong");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_consumers_scan_does_not_starve_another_consumer() {
    let (registry, practices) = slow_registry(4, 4).await;
    let registry = Arc::new(registry);
    let directory = registry.directory("");
    // Sixty queries take fifteen seconds, and a request waits for five.
    let scan = (0..60).map(|number| {
        let (registry, directory) = (Arc::clone(&registry), directory.clone());
        let code = format!("Z{number:05}");
        tokio::spawn(async move { registry.look_up(&directory, &code, SLOTS).await })
    });
    let scan = Vec::from_iter(scan);
    registry.wait_for_queries(4).await;
    let asking = practices.into_iter().map(|code| {
        let directory = directory.clone();
        tokio::spawn(async move {
            let asker = Payer::Certificate("another certificate");
            let code = ods(&code);
            directory.provider(&by_practice(&code, None), interaction(SLOTS), asker).await
        })
    });
    for one in Vec::from_iter(asking) {
        one.await.unwrap().expect("eight queries in five seconds at half of four a second");
    }
    for one in scan {
        one.await.unwrap().unwrap_err();
    }
}

/// Returns a registry with this many practices and a limited rate of queries, and their ODS codes.
async fn slow_registry(practices: usize, queries_per_second: u32) -> (Registry, Vec<String>) {
    let codes = Vec::from_iter((0..practices).map(|number| format!("P{number:05}")));
    let records = codes.iter().zip(0..).map(|(ods, number)| {
        let root = format!("https://gp.example.nhs.uk/{ods}/STU3/1/gpconnect");
        Records::practice(ods, &format!("9181{number:08}"), &format!("{ods}-1"), &root, &[SLOTS])
    });
    let records = records.fold(Records::default(), Records::and);
    let mut registry = Registry::new(records, "misses-per-minute = 1000").await;
    registry.queries_per_second = queries_per_second;
    (registry, codes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fall_back_is_not_used_when_the_budget_is_used_up() {
    let registry = Registry::new(practice(), "misses-per-minute = 1").await;
    let directory = registry.directory(&format!("{PINNED}used = \"when-sources-fail\""));
    registry.look_up(&directory, "Z00001", SLOTS).await.unwrap_err();
    let refused = registry.look_up(&directory, "A20047", SLOTS).await;
    assert_eq!(refused.unwrap_err(), Refusal::LookupsExceeded);
}
