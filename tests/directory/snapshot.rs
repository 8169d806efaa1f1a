//! Effects of a snapshot and of a flush on cached entries.

use gpconnect_simulator::sds::{Records, SdsFault};
use spine_proxy::directory::Directory;

use super::{HOUR, NEW_ROOT, SHORT, moved, practice};
use testkit::sds::{KEY, PAYER, READ, Registry, SLOTS, by_practice, interaction, ods};
use testkit::test_bed::now_s;

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_keeps_the_age_of_its_entries() {
    let mut registry = Registry::new(practice(), SHORT).await;
    let directory = registry.directory("");
    registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    registry.wait_until_idle(&directory).await;
    let path = registry.folder.path().join("held.json");
    directory.save(&path).unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains(KEY));
    registry.stop().await;
    let written: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (age_s, served) in [(0, true), (11 * HOUR, true), (12 * HOUR, false), (-HOUR, false)] {
        let mut aged = written.clone();
        for row in aged["practices"].as_array_mut().unwrap() {
            row["answered_s"] = (now_s() - age_s).into();
        }
        std::fs::write(&path, aged.to_string()).unwrap();
        let cold = registry.directory("");
        cold.load(&path).unwrap();
        for id in [SLOTS, READ] {
            let found = registry.look_up(&cold, "A20047", id).await;
            assert_eq!(found.is_ok(), served, "{id} after {age_s} s: {found:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_snapshot_is_an_error() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    let path = registry.folder.path().join("held.json");
    assert_eq!(directory.load(&path).unwrap(), 0, "there is none yet");
    for text in ["", "{}", r#"{"version":2,"practices":[],"senders":[]}"#] {
        std::fs::write(&path, text).unwrap();
        let error = directory.load(&path).unwrap_err().to_string();
        assert!(error.contains("held.json: directory snapshot"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_from_a_snapshot_is_refreshed() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    registry.wait_until_idle(&directory).await;
    let path = registry.folder.path().join("held.json");
    directory.save(&path).unwrap();
    let cold = registry.directory("");
    cold.load(&path).unwrap();
    registry.look_up(&cold, "A20047", SLOTS).await.unwrap();
    registry.wait_for_queries(6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flushed_entry_is_refreshed_before_use_and_kept_for_an_outage() {
    let mut registry = Registry::new(practice(), SHORT).await;
    let directory = registry.directory("");
    registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    registry.wait_until_idle(&directory).await;
    assert_eq!(directory.flush(Some(&ods("B00001"))), 0);
    assert_eq!(directory.flush(Some(&ods("A20047"))), 1);
    registry.sds.replace(moved());
    let found = registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    assert_eq!(found.root.as_str(), NEW_ROOT);
    registry.wait_until_idle(&directory).await;
    registry.stop().await;
    assert_eq!(directory.flush(None), 1);
    let found = registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    assert_eq!(found.root.as_str(), NEW_ROOT);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absence_that_a_flush_overtakes_is_looked_up_again() {
    let registry = Registry::new(Records::default(), "").await;
    let directory = registry.directory("");
    let is_found =
        during_look_up(&registry, &directory, || assert_eq!(directory.flush(None), 0)).await;
    assert!(!is_found);
    assert_eq!(registry.query_count(), 4, "two queries before the flush, and two after it");
}

/// Calls `action` while the first look-up of a practice is in progress. Returns whether that look-up succeeded.
async fn during_look_up(registry: &Registry, directory: &Directory, action: impl FnOnce()) -> bool {
    registry.sds.set(None, SdsFault::HeldBack);
    let asked = registry.query_count();
    let waits = tokio::spawn({
        let (directory, asker) = (directory.clone(), PAYER);
        async move {
            let code = ods("A20047");
            let receiver = &by_practice(&code, None);
            directory.provider(receiver, interaction(SLOTS), asker).await.is_ok()
        }
    });
    registry.wait_for_queries(asked + 1).await;
    action();
    registry.sds.clear();
    let served = waits.await.unwrap();
    registry.wait_until_idle(directory).await;
    served
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_applies_to_a_look_up_in_progress() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    let flushed = || assert_eq!(directory.flush(None), 0, "nothing is held yet");
    assert!(during_look_up(&registry, &directory, flushed).await);
    let states = states(&directory);
    assert!(!states.is_empty() && states.iter().all(|state| state == "flushed"), "{states:?}");
    registry.sds.replace(moved());
    let found = registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    assert_eq!(found.root.as_str(), NEW_ROOT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flushed_entry_that_is_restored_is_not_queried_again_at_once() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    registry.wait_until_idle(&directory).await;
    assert_eq!(directory.flush(None), 1);
    registry.sds.replace(Records::default());
    registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    registry.wait_until_idle(&directory).await;
    let asked = registry.query_count();
    for _ in 0..5 {
        registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    }
    registry.wait_until_idle(&directory).await;
    assert_eq!(
        registry.query_count(),
        asked,
        "nothing is asked before a second denial would count"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_a_source_at_another_url_are_dropped() {
    let registry = Registry::new(practice(), SHORT).await;
    let directory = registry.directory("");
    registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    registry.wait_until_idle(&directory).await;
    let path = registry.folder.path().join("held.json");
    directory.save(&path).unwrap();
    directory.replace(Some(registry.file("")), Some(registry.live_sources("localhost")));
    assert!(!states(&directory).is_empty(), "the same URL is the same directory");
    directory
        .replace(Some(registry.file("")), Some(registry.live_sources("elsewhere.example.nhs.uk")));
    assert!(states(&directory).is_empty());
    directory.load(&path).unwrap();
    assert!(states(&directory).is_empty(), "nor is it out of a snapshot");
    directory.replace(Some(registry.file("")), Some(registry.live_sources("localhost")));
    directory.load(&path).unwrap();
    assert!(!states(&directory).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_arrives_after_a_change_of_url_is_dropped() {
    let registry = Registry::new(practice(), SHORT).await;
    let directory = registry.directory("");
    let replaced = || {
        directory.replace(
            Some(registry.file("")),
            Some(registry.live_sources("elsewhere.example.nhs.uk")),
        );
    };
    assert!(!during_look_up(&registry, &directory, replaced).await);
    assert!(states(&directory).is_empty());
}

fn states(directory: &Directory) -> Vec<String> {
    let held = String::from_iter(directory.cache_json());
    let held: serde_json::Value = serde_json::from_str(&held).unwrap();
    let rows = held["practices"].as_array().unwrap();
    rows.iter().map(|row| row["state"].as_str().unwrap().to_owned()).collect()
}
