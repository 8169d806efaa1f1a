//! Many who ask at once, and how much may be asked.

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
async fn a_thousand_who_miss_make_three_questions() {
    let registry = Arc::new(Registry::new(practice(), "misses-per-minute = 2000").await);
    let directory = registry.directory("");
    let asking: Vec<_> = (0..1000)
        .map(|number| {
            let (registry, directory) = (Arc::clone(&registry), directory.clone());
            let id = [SLOTS, BOOK, READ][number % 3];
            tokio::spawn(async move { registry.practice(&directory, "A20047", id).await })
        })
        .collect();
    for one in asking {
        assert_eq!(one.await.unwrap().unwrap().root.as_str(), ROOT);
    }
    registry.rests(&directory).await;
    assert_eq!(registry.asked(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_cancels_nothing_that_others_wait_for() {
    let registry = Arc::new(Registry::new(practice(), "").await);
    let directory = registry.directory("");
    let (first, there) = (Arc::clone(&registry), directory.clone());
    let first = tokio::spawn(async move { first.practice(&there, "A20047", SLOTS).await });
    registry.has_been_asked(1).await;
    first.abort();
    registry.rests(&directory).await;
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    assert_eq!(registry.asked(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_look_up_is_not_forced_again_for_a_while() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    let (stranger, code) = (asid("918999198000"), ods("A20047"));
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    registry.rests(&directory).await;
    for _ in 0..5 {
        let receiver = &by_asid(&stranger, Some(&code));
        directory.provider(receiver, interaction(SLOTS), PAYER).await.unwrap_err();
        directory.refreshed(receiver, interaction(SLOTS), PAYER).await.unwrap();
    }
    registry.rests(&directory).await;
    assert_eq!(registry.asked(), 6);
    assert_eq!(registry.counted(CONFLICT), 5);
    assert_eq!(
        registry.counted("directory_refreshes_total{result=\"ok\",trigger=\"conflict\"}"),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_of_random_codes_uses_up_its_own_budget() {
    let registry = Registry::new(practice(), "misses-per-minute = 3").await;
    let directory = registry.directory("");
    for number in 0..5 {
        let refused = registry.practice(&directory, &format!("Z{number:05}"), SLOTS).await;
        let expected = if number < 3 { Refusal::PracticeUnknown } else { Refusal::LookupsExceeded };
        assert_eq!(refused.unwrap_err(), expected);
    }
    let code = ods("A20047");
    let asker = Payer::Certificate("another certificate");
    let receiver = &by_practice(&code, None);
    assert!(directory.provider(receiver, interaction(SLOTS), asker).await.is_ok());
    registry.practice(&directory, "A20047", SLOTS).await.expect("what is held costs nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_a_look_up_pays_for_none() {
    let registry = Arc::new(Registry::new(practice(), "misses-per-minute = 2").await);
    let directory = registry.directory("");
    let asking: Vec<_> = (0..100)
        .map(|_| {
            let (registry, directory) = (Arc::clone(&registry), directory.clone());
            tokio::spawn(async move { registry.practice(&directory, "A20047", SLOTS).await })
        })
        .collect();
    for one in asking {
        one.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_uses_up_no_budget() {
    let mut registry = Registry::new(practice(), &format!("{SHORT}\nmisses-per-minute = 2")).await;
    let directory = registry.directory("");
    registry.closes().await;
    for _ in 0..20 {
        let refused = registry.practice(&directory, "A20047", SLOTS).await;
        assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_what_is_begun_is_finished_before_more_is_begun() {
    // Twenty questions fit into the time that a request waits: enough for ten practices.
    let (registry, practices) = slow_registry(60, 4).await;
    let registry = Arc::new(registry);
    let directory = registry.directory("");
    let asking = practices.into_iter().map(|code| {
        let (registry, directory) = (Arc::clone(&registry), directory.clone());
        tokio::spawn(async move { registry.practice(&directory, &code, SLOTS).await })
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
async fn one_consumers_scan_leaves_another_its_turns_at_the_source() {
    let (registry, practices) = slow_registry(4, 4).await;
    let registry = Arc::new(registry);
    let directory = registry.directory("");
    // Sixty questions are fifteen seconds' worth, and a request waits for five.
    let scan = (0..60).map(|number| {
        let (registry, directory) = (Arc::clone(&registry), directory.clone());
        let code = format!("Z{number:05}");
        tokio::spawn(async move { registry.practice(&directory, &code, SLOTS).await })
    });
    let scan = Vec::from_iter(scan);
    registry.has_been_asked(4).await;
    let asking = practices.into_iter().map(|code| {
        let directory = directory.clone();
        tokio::spawn(async move {
            let asker = Payer::Certificate("another certificate");
            let code = ods(&code);
            directory.provider(&by_practice(&code, None), interaction(SLOTS), asker).await
        })
    });
    for one in Vec::from_iter(asking) {
        one.await.unwrap().expect("eight questions in five seconds at half of four a second");
    }
    for one in scan {
        one.await.unwrap().unwrap_err();
    }
}

/// A registry of so many practices, and their codes.
async fn slow_registry(practices: usize, pace: u32) -> (Registry, Vec<String>) {
    let codes = Vec::from_iter((0..practices).map(|number| format!("P{number:05}")));
    let records = codes.iter().zip(0..).map(|(ods, number)| {
        let root = format!("https://gp.example.nhs.uk/{ods}/STU3/1/gpconnect");
        Records::practice(ods, &format!("9181{number:08}"), &format!("{ods}-1"), &root, &[SLOTS])
    });
    let records = records.fold(Records::default(), Records::and);
    let mut registry = Registry::new(records, "misses-per-minute = 1000").await;
    registry.pace = pace;
    (registry, codes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fall_back_is_not_for_who_has_used_up_a_budget() {
    let registry = Registry::new(practice(), "misses-per-minute = 1").await;
    let directory = registry.directory(&format!("{PINNED}used = \"when-sources-fail\""));
    registry.practice(&directory, "Z00001", SLOTS).await.unwrap_err();
    let refused = registry.practice(&directory, "A20047", SLOTS).await;
    assert_eq!(refused.unwrap_err(), Refusal::LookupsExceeded);
}
