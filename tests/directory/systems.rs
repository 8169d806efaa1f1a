//! Choice among a practice's systems, and practices that move to another system.

use std::sync::Arc;

use gpconnect_simulator::sds::Records;
use spine_proxy::refusal::Refusal;

use super::{HOUR, NEW_ROOT, ROOT, moved, practice};
use testkit::sds::{
    BOOK, PAYER, READ, Registry, SLOTS, asid, by_asid, by_practice, interaction, ods,
};

#[tokio::test(flavor = "multi_thread")]
async fn several_systems_are_ambiguous_without_an_asid() {
    let second = Records::practice("A20047", "918999198777", "A20047-1000001", ROOT, &[SLOTS]);
    let mut records = practice();
    records.accredited.extend(second.accredited);
    let registry = Registry::new(records, "").await;
    let directory = registry.directory("");
    let refused = registry.look_up(&directory, "A20047", SLOTS).await;
    assert_eq!(refused.unwrap_err(), Refusal::ReceiverAmbiguous);
    let (code, to) = (ods("A20047"), asid("918999198777"));
    for receiver in [&by_practice(&code, Some(&to)), &by_asid(&to, Some(&code))] {
        let found = directory.provider(receiver, interaction(SLOTS), PAYER).await;
        assert_eq!(found.unwrap().asid, to);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_addresses_are_ambiguous() {
    let mut records = practice();
    records.handlers[0].addresses.push(NEW_ROOT.to_owned());
    let registry = Registry::new(records, "").await;
    let directory = registry.directory("");
    let refused = registry.look_up(&directory, "A20047", SLOTS).await;
    assert_eq!(refused.unwrap_err(), Refusal::ReceiverAmbiguous);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_portal_at_the_same_practice_is_not_taken_for_its_provider() {
    let portal =
        Records::consumer("A20047", "200000000999", "A20047-9999999", "p.nhs.uk", &[SLOTS]);
    let registry = Registry::new(practice().and(portal), "").await;
    let directory = registry.directory("");
    let found = registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    assert_eq!(found.asid.as_str(), "918999198993");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_is_found_by_its_targets_practice_regardless_of_earlier_look_ups() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    let (to, stranger) = (asid("918999198993"), asid("918999198000"));
    let (code, word) = (ods("A20047"), ods("FHIR"));
    let ask =
        async |to, hint| directory.provider(&by_asid(to, hint), interaction(SLOTS), PAYER).await;
    let not_found = Refusal::ReceiverNotFound;
    assert_eq!(ask(&to, None).await.unwrap_err(), not_found);
    assert_eq!(registry.query_count(), 0, "the API cannot be asked for an ASID");
    for _ in 0..2 {
        assert_eq!(ask(&to, Some(&word)).await.unwrap_err(), not_found, "a word of the path");
        assert_eq!(ask(&to, None).await.unwrap_err(), not_found);
        assert_eq!(ask(&stranger, None).await.unwrap_err(), not_found);
        assert_eq!(ask(&stranger, Some(&code)).await.unwrap_err(), not_found);
        assert_eq!(ask(&to, Some(&code)).await.unwrap().asid, to);
        registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_practice_that_moved_is_found_by_its_new_system_only() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    let (old, new, code) = (asid("918999198993"), asid("918999198777"), ods("A20047"));
    let ask = async |to, id| {
        let receiver = by_asid(to, Some(&code));
        directory.provider(&receiver, interaction(id), PAYER).await
    };
    ask(&old, SLOTS).await.unwrap();
    registry.wait_until_idle(&directory).await;
    registry.sds.replace(moved());
    assert_eq!(ask(&new, SLOTS).await.unwrap().root.as_str(), NEW_ROOT);
    let last = registry.sds.received().pop().unwrap();
    assert_eq!(last.headers["cache-control"], "no-cache");
    for id in [SLOTS, BOOK, READ] {
        assert_eq!(ask(&old, id).await.unwrap_err(), Refusal::ReceiverNotFound, "{id}");
        assert!(ask(&new, id).await.is_ok(), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_to_a_new_system_are_all_served() {
    let registry = Arc::new(Registry::new(practice(), "").await);
    let directory = registry.directory("");
    registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    registry.wait_until_idle(&directory).await;
    registry.sds.replace(moved());
    let asking: Vec<_> = (0..50)
        .map(|_| {
            let directory = directory.clone();
            tokio::spawn(async move {
                let (new, code) = (asid("918999198777"), ods("A20047"));
                let receiver = &by_asid(&new, Some(&code));
                directory.provider(receiver, interaction(SLOTS), PAYER).await
            })
        })
        .collect();
    for one in asking {
        assert_eq!(one.await.unwrap().unwrap().root.as_str(), NEW_ROOT);
    }
    registry.wait_until_idle(&directory).await;
    assert!(registry.query_count() <= 9, "{} questions", registry.query_count());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_ambiguity_is_not_accepted_at_once() {
    let registry = Registry::new(practice(), r#"freshness = { provider-stale = "0s" }"#).await;
    let directory = registry.directory("");
    registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    registry.wait_until_idle(&directory).await;
    registry.sds.replace(practice().and(moved()));
    registry.set_clock_ahead_s(HOUR);
    for _ in 0..3 {
        let found = registry.look_up(&directory, "A20047", SLOTS).await;
        assert_eq!(found.unwrap().asid.as_str(), "918999198993");
        registry.wait_until_idle(&directory).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interaction_that_moved_to_another_system_of_the_practice_is_found_there() {
    let (old, new) = ("918999198993", "918999198777");
    let root = |asid, key, root, ids: &[&str]| Records::practice("A20047", asid, key, root, ids);
    let before = root(old, "K-1", ROOT, &[SLOTS]).and(root(new, "K-2", NEW_ROOT, &[READ]));
    let registry = Registry::new(before, "").await;
    let directory = registry.directory("");
    let (to, code) = (asid(new), ods("A20047"));
    let receiver = &by_asid(&to, Some(&code));
    let ask = |id| directory.provider(receiver, interaction(id), PAYER);
    registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    ask(READ).await.unwrap();
    registry.wait_until_idle(&directory).await;
    registry.sds.replace(root(new, "K-2", NEW_ROOT, &[SLOTS, READ]));
    assert_eq!(ask(SLOTS).await.unwrap().root.as_str(), NEW_ROOT);
}
