//! A server that hangs, is down or comes back.

use std::time::{Duration, Instant};

use gpconnect_simulator::sds::Records;
use spine_proxy::refusal::Refusal;

use super::{ASID, BOOK, HUB, ODS, Ours, ROOT, SLOT, asid, gp, hub, named};
use testkit::sds::{PAYER, by_asid};
use testkit::stage::now_s;

/// A whole day and more: nothing that is held is of use then.
const LATER_S: i64 = 100_000;

#[tokio::test]
async fn while_a_server_hangs_what_was_seen_is_served_within_the_deadline() {
    let ours = Ours::new();
    let unseen = Records::practice("Z99002", "200000099002", "Z99002-1", ROOT, &[SLOT]);
    let Some(slapd) = ours.slapd(gp().and(hub()).and(unseen).to_ldif()) else { return };
    let asking = ours.asks_with(slapd.port(), "", |text| {
        text.replace("[deadlines]", "[deadlines]\nattempt = \"1s\"\nwaiting = \"2s\"")
    });
    let began_s = now_s();
    let seen = asking.practice(ODS, SLOT).await.unwrap();
    assert!(asking.sender(HUB).await.is_ok());
    slapd.asked(5).await;
    slapd.pause();
    let began = Instant::now();
    // Half an hour and two hours old: asked for again, in vain, and served.
    let asking = asking.is(began_s + 1800);
    let (sender, refused) =
        tokio::join!(asking.sender_now(HUB), asking.practice_now("Z99002", SLOT));
    assert_eq!(sender.unwrap().asid, HUB);
    let served = asking.is(began_s + 7200).practice_now(ODS, SLOT).await;
    assert_eq!(served.unwrap().root, seen.root);
    assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    slapd.go_on();
    assert!(asking.practice("Z99002", SLOT).await.is_ok());
    assert!(!asking.is_circuit_open());
}

#[tokio::test]
async fn a_server_that_starts_again_is_asked_as_if_nothing_had_been() {
    let ours = Ours::new();
    let Some(mut slapd) = ours.slapd(gp().and(hub()).to_ldif()) else { return };
    let asking = ours.asks(slapd.port());
    assert!(asking.practice(ODS, SLOT).await.is_ok());
    slapd.asked(3).await;
    slapd.restart();
    assert!(asking.sender(HUB).await.is_ok());
    assert_eq!(asking.questions("systems", "unavailable"), 0);
}

#[tokio::test]
async fn the_circuit_of_a_server_that_is_down_opens_and_it_is_asked_again_once_it_may_be_up() {
    let ours = Ours::new();
    let Some(mut slapd) = ours.slapd(gp().and(hub()).to_ldif()) else { return };
    let asking = ours.asks_with(slapd.port(), "", |text| {
        text.replace("[deadlines]", "[deadlines]\ncircuit-open = \"200ms\"")
    });
    slapd.stop();
    while !asking.is_circuit_open() {
        let refused = asking.practice(ODS, SLOT).await.unwrap_err();
        assert_eq!(refused, Refusal::DirectoryUnavailable);
    }
    assert_eq!(asking.questions("handlers", "unavailable"), 5);
    slapd.restart();
    let again = async {
        while asking.practice(ODS, SLOT).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), again).await.unwrap();
    assert!(!asking.is_circuit_open() && asking.sender(HUB).await.is_ok());
}

#[tokio::test]
async fn in_an_outage_a_sender_is_served_for_an_hour_and_no_longer() {
    let ours = Ours::new();
    let Some(mut slapd) = ours.slapd(hub().to_ldif()) else { return };
    let asking = ours.asks(slapd.port());
    let before_s = now_s();
    assert!(asking.is(before_s).sender_now(HUB).await.is_ok());
    let after_s = now_s();
    slapd.stop();
    assert!(asking.is(before_s + 301).sender_now(HUB).await.is_ok());
    assert!(asking.is(before_s + 3599).sender_now(HUB).await.is_ok());
    let unavailable = Refusal::DirectoryUnavailable;
    assert_eq!(asking.is(after_s + 3600).sender_now(HUB).await.unwrap_err(), unavailable);
    assert_eq!(asking.is(after_s + LATER_S).sender_now(HUB).await.unwrap_err(), unavailable);
}

#[tokio::test]
async fn in_an_outage_a_practice_is_served_for_twelve_hours_and_an_unconfirmed_write_for_one() {
    let ours = Ours::new();
    let Some(mut slapd) = ours.slapd(gp().to_ldif()) else { return };
    let asking = ours.asks(slapd.port());
    let before_s = now_s();
    assert!(asking.is(before_s).practice_now(ODS, SLOT).await.is_ok());
    assert!(asking.practice_now(ODS, BOOK).await.is_ok());
    let after_s = now_s();
    slapd.stop();
    let unavailable = Refusal::DirectoryUnavailable;
    assert!(asking.is(before_s + 43_199).practice_now(ODS, SLOT).await.is_ok());
    let refused = asking.is(after_s + 43_200).practice_now(ODS, SLOT).await.unwrap_err();
    assert_eq!(refused, unavailable);
    assert!(asking.is(before_s + 3599).practice_now(ODS, BOOK).await.is_ok());
    let refused = asking.is(after_s + 3600).practice_now(ODS, BOOK).await.unwrap_err();
    assert_eq!(refused, unavailable);
    // Who names the root confirms it.
    let to = asid(ASID);
    let receiver = &by_asid(&to, None);
    let confirmed =
        asking.is(before_s + 43_199).directory.provider(receiver, named(BOOK), PAYER).await;
    assert!(confirmed.is_ok());
}
