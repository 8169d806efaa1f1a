//! Pins, fall-backs and denials of the directory file, together with a source.

use gpconnect_simulator::sds::{Records, SdsFault};
use spine_proxy::refusal::Refusal;

use super::{HOUR, PINNED, SHORT, practice};
use testkit::sds::{BOOK, PAYER, Registry, SLOTS, asid, by_asid, interaction, ods};
use testkit::test_bed::now_s;

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_overrides_the_sources() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory(PINNED);
    let found = registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    assert_eq!(found.asid.as_str(), "918999198111");
    assert_eq!(registry.query_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fall_back_is_used_when_no_source_answers() {
    let mut registry = Registry::new(practice(), SHORT).await;
    let directory = registry.directory(&format!("{PINNED}used = \"when-sources-fail\""));
    let found = registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    assert_eq!(found.asid.as_str(), "918999198993");
    let cold = registry.directory(&format!("{PINNED}used = \"when-sources-fail\""));
    registry.stop().await;
    let found = registry.look_up(&cold, "A20047", SLOTS).await.unwrap();
    assert_eq!(found.asid.as_str(), "918999198111");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_in_the_file_applies_to_cached_entries() {
    let registry = Registry::new(practice(), "").await;
    for deny in ["ods = [\"A20047\"]", "asids = [\"918999198993\"]"] {
        let directory = registry.directory("");
        registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
        let held = registry.folder.path().join("held.json");
        directory.save(&held).unwrap();
        let directory = registry.directory(&format!("[[deny]]\n{deny}"));
        directory.load(&held).unwrap();
        let refused = registry.look_up(&directory, "A20047", SLOTS).await;
        assert_eq!(refused.unwrap_err(), Refusal::PracticeUnknown, "{deny}");
        let (to, code) = (asid("918999198993"), ods("A20047"));
        let receiver = &by_asid(&to, Some(&code));
        let refused = directory.provider(receiver, interaction(SLOTS), PAYER).await;
        assert_eq!(refused.unwrap_err(), Refusal::ReceiverUnknown, "{deny}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_come_from_the_file_where_no_source_knows_them() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    let from = asid("200000000359");
    let refused = directory.sender(&from, PAYER).await;
    assert_eq!(refused.unwrap_err(), Refusal::SenderUnknown(from));
    assert_eq!(registry.query_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_or_denied_registration_receives_no_write() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    registry.look_up(&directory, "A20047", BOOK).await.unwrap();
    registry.wait_until_idle(&directory).await;
    registry.sds.replace(Records::default());
    registry.set_clock_ahead_s(5 * HOUR);
    for round in 0..2 {
        let refused = registry.look_up(&directory, "A20047", BOOK).await;
        assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable, "round {round}");
    }
    assert!(
        registry.look_up(&directory, "A20047", SLOTS).await.is_ok(),
        "a read is served once more"
    );
    let path = registry.folder.path().join("held.json");
    directory.save(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let mut written: serde_json::Value = serde_json::from_str(&text).unwrap();
    for row in written["practices"].as_array_mut().unwrap() {
        row["answered_s"] = (now_s() - 72 * HOUR).into();
    }
    std::fs::write(&path, written.to_string()).unwrap();
    registry.set_clock_ahead_s(0);
    let cold = registry.directory("");
    cold.load(&path).unwrap();
    for id in [BOOK, SLOTS] {
        let refused = registry.look_up(&cold, "A20047", id).await;
        assert_eq!(refused.unwrap_err(), Refusal::PracticeUnknown);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_system_is_denied_though_the_file_pins_it() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory(&format!("{PINNED}\n[[deny]]\nasids = [\"918999198111\"]"));
    let refused = registry.look_up(&directory, "A20047", SLOTS).await;
    assert_eq!(refused.unwrap_err(), Refusal::PracticeUnknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fall_back_is_not_used_against_an_answer() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory(&format!("{PINNED}used = \"when-sources-fail\""));
    registry.look_up(&directory, "A20047", BOOK).await.unwrap();
    registry.wait_until_idle(&directory).await;
    registry.sds.replace(Records::default());
    registry.set_clock_ahead_s(2 * HOUR);
    // The source answers that the practice is absent: the fall-back does not override that.
    let refused = registry.look_up(&directory, "A20047", BOOK).await;
    assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
    // After a flush and in an outage, its former system still receives no write.
    assert_eq!(directory.flush(None), 1);
    registry.sds.set(None, SdsFault::Status(503));
    let refused = registry.look_up(&directory, "A20047", BOOK).await;
    assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fall_back_applies_only_to_its_interactions_and_system() {
    let registry = Registry::new(Records::default(), SHORT).await;
    registry.sds.set(None, SdsFault::Status(503));
    let directory = registry.directory(&format!("{PINNED}used = \"when-sources-fail\""));
    registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    let patient = "urn:nhs:names:services:gpconnect:fhir:rest:read:patient-1";
    let refused = registry.look_up(&directory, "A20047", patient).await;
    assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
    let (other, code) = (asid("918999198222"), ods("A20047"));
    let receiver = &by_asid(&other, Some(&code));
    let refused = directory.provider(receiver, interaction(SLOTS), PAYER).await;
    assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_denied_by_organisation_is_refused() {
    let registry = Registry::new(practice(), "").await;
    let consumer = r#"
        [[consumer]]
        name = "Hub"
        asids = ["200000000359"]
        certificate-names = ["hub.example.nhs.uk"]
        ods = "A00001"
        interactions = ["appointments"]
    "#;
    let from = asid("200000000359");
    let directory = registry.directory(consumer);
    assert!(directory.sender(&from, PAYER).await.is_ok());
    let directory = registry.directory(&format!("{consumer}\n[[deny]]\nods = [\"A00001\"]"));
    let refused = directory.sender(&from, PAYER).await.unwrap_err();
    assert_eq!(refused, Refusal::SenderUnknown(from));
}
