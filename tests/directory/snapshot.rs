//! What a snapshot and a flush do to what is held.

use gpconnect_simulator::sds::{Records, SdsFault};
use spine_proxy::directory::Directory;

use super::{HOUR, NEW_ROOT, SHORT, moved, practice};
use testkit::sds::{KEY, PAYER, READ, Registry, SLOTS, by_practice, interaction, ods};
use testkit::stage::now_s;

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_survives_a_cold_start_without_growing_younger() {
    let mut registry = Registry::new(practice(), SHORT).await;
    let directory = registry.directory("");
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    registry.rests(&directory).await;
    let path = registry.folder.path().join("held.json");
    directory.save(&path).unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains(KEY));
    registry.closes().await;
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
            let found = registry.practice(&cold, "A20047", id).await;
            assert_eq!(found.is_ok(), served, "{id} after {age_s} s: {found:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_none_is_said_to_be_none() {
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
async fn what_comes_from_a_snapshot_is_asked_for_again() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    registry.rests(&directory).await;
    let path = registry.folder.path().join("held.json");
    directory.save(&path).unwrap();
    let cold = registry.directory("");
    cold.load(&path).unwrap();
    registry.practice(&cold, "A20047", SLOTS).await.unwrap();
    registry.has_been_asked(6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_flushed_is_asked_for_first_and_kept_for_an_outage() {
    let mut registry = Registry::new(practice(), SHORT).await;
    let directory = registry.directory("");
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    registry.rests(&directory).await;
    assert_eq!(directory.flush(Some(&ods("B00001"))), 0);
    assert_eq!(directory.flush(Some(&ods("A20047"))), 1);
    registry.sds.replace(moved());
    let found = registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    assert_eq!(found.root.as_str(), NEW_ROOT);
    registry.rests(&directory).await;
    registry.closes().await;
    assert_eq!(directory.flush(None), 1);
    let found = registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    assert_eq!(found.root.as_str(), NEW_ROOT);
}

/// A flush, or a reload, while the source is asked for a practice for the first time.
async fn meanwhile(registry: &Registry, directory: &Directory, happens: impl FnOnce()) -> bool {
    registry.sds.set(None, SdsFault::HeldBack);
    let asked = registry.asked();
    let waits = tokio::spawn({
        let (directory, asker) = (directory.clone(), PAYER);
        async move {
            let code = ods("A20047");
            let receiver = &by_practice(&code, None);
            directory.provider(receiver, interaction(SLOTS), asker).await.is_ok()
        }
    });
    registry.has_been_asked(asked + 1).await;
    happens();
    registry.sds.clear();
    let served = waits.await.unwrap();
    registry.rests(directory).await;
    served
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_reaches_what_is_being_looked_up() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    let flushed = || assert_eq!(directory.flush(None), 0, "nothing is held yet");
    assert!(meanwhile(&registry, &directory, flushed).await);
    let states = states(&directory);
    assert!(!states.is_empty() && states.iter().all(|state| state == "flushed"), "{states:?}");
    registry.sds.replace(moved());
    let found = registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    assert_eq!(found.root.as_str(), NEW_ROOT);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_flushed_and_is_taken_back_rests_like_any_other() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    registry.rests(&directory).await;
    assert_eq!(directory.flush(None), 1);
    registry.sds.replace(Records::default());
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    registry.rests(&directory).await;
    let asked = registry.asked();
    for _ in 0..5 {
        registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    }
    registry.rests(&directory).await;
    assert_eq!(registry.asked(), asked, "nothing is asked before a second denial would count");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_source_said_at_another_url_is_not_held() {
    let registry = Registry::new(practice(), SHORT).await;
    let directory = registry.directory("");
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    registry.rests(&directory).await;
    let path = registry.folder.path().join("held.json");
    directory.save(&path).unwrap();
    directory.replace(Some(registry.file("")), Some(registry.live("localhost")));
    assert!(!states(&directory).is_empty(), "the same URL is the same directory");
    directory.replace(Some(registry.file("")), Some(registry.live("elsewhere.example.nhs.uk")));
    assert!(states(&directory).is_empty());
    directory.load(&path).unwrap();
    assert!(states(&directory).is_empty(), "nor is it out of a snapshot");
    directory.replace(Some(registry.file("")), Some(registry.live("localhost")));
    directory.load(&path).unwrap();
    assert!(!states(&directory).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_source_is_saying_when_its_url_changes_is_not_held() {
    let registry = Registry::new(practice(), SHORT).await;
    let directory = registry.directory("");
    let replaced = || {
        directory.replace(Some(registry.file("")), Some(registry.live("elsewhere.example.nhs.uk")));
    };
    assert!(!meanwhile(&registry, &directory, replaced).await);
    assert!(states(&directory).is_empty());
}

fn states(directory: &Directory) -> Vec<String> {
    let held = String::from_iter(directory.cache_json());
    let held: serde_json::Value = serde_json::from_str(&held).unwrap();
    let rows = held["practices"].as_array().unwrap();
    rows.iter().map(|row| row["state"].as_str().unwrap().to_owned()).collect()
}
