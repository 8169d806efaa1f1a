//! An LDAP server that hangs, is down or comes back.

use std::time::{Duration, Instant};

use gpconnect_simulator::sds::Records;
use spine_proxy::refusal::Refusal;

use super::{ASID, BOOK, HUB, LdapPki, ODS, ROOT, SLOT, asid, gp, hub, named};
use testkit::sds::{PAYER, by_asid};
use testkit::test_bed::now_s;

/// Seconds after which no cached entry is used any more: more than a day.
const LATER_S: i64 = 100_000;

#[tokio::test]
async fn cached_entries_are_served_within_the_deadline_while_a_server_hangs() {
    let ours = LdapPki::new();
    let unseen = Records::practice("Z99002", "200000099002", "Z99002-1", ROOT, &[SLOT]);
    let Some(slapd) = ours.slapd(gp().and(hub()).and(unseen).to_ldif()) else { return };
    let directory = ours.directory_with(slapd.port(), "", |text| {
        text.replace("[deadlines]", "[deadlines]\nattempt = \"1s\"\nwaiting = \"2s\"")
    });
    let began_s = now_s();
    let seen = directory.look_up(ODS, SLOT).await.unwrap();
    assert!(directory.sender(HUB).await.is_ok());
    slapd.wait_for_filters(5).await;
    slapd.pause();
    let began = Instant::now();
    // Entries half an hour and two hours old: their refresh fails, and they are served.
    let directory = directory.set_clock_s(began_s + 1800);
    let (sender, refused) =
        tokio::join!(directory.sender_now(HUB), directory.look_up_now("Z99002", SLOT));
    assert_eq!(sender.unwrap().asid, HUB);
    let served = directory.set_clock_s(began_s + 7200).look_up_now(ODS, SLOT).await;
    assert_eq!(served.unwrap().root, seen.root);
    assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    slapd.resume();
    assert!(directory.look_up("Z99002", SLOT).await.is_ok());
    assert!(!directory.is_circuit_open());
}

#[tokio::test]
async fn a_restarted_server_is_queried_again() {
    let ours = LdapPki::new();
    let Some(mut slapd) = ours.slapd(gp().and(hub()).to_ldif()) else { return };
    let directory = ours.directory(slapd.port());
    assert!(directory.look_up(ODS, SLOT).await.is_ok());
    slapd.wait_for_filters(3).await;
    slapd.restart();
    assert!(directory.sender(HUB).await.is_ok());
    assert_eq!(directory.query_count("systems", "unavailable"), 0);
}

#[tokio::test]
async fn the_circuit_of_a_server_that_is_down_opens_and_closes_again() {
    let ours = LdapPki::new();
    let Some(mut slapd) = ours.slapd(gp().and(hub()).to_ldif()) else { return };
    let directory = ours.directory_with(slapd.port(), "", |text| {
        text.replace("[deadlines]", "[deadlines]\ncircuit-open = \"200ms\"")
    });
    slapd.stop();
    while !directory.is_circuit_open() {
        let refused = directory.look_up(ODS, SLOT).await.unwrap_err();
        assert_eq!(refused, Refusal::DirectoryUnavailable);
    }
    assert_eq!(directory.query_count("handlers", "unavailable"), 5);
    slapd.restart();
    let again = async {
        while directory.look_up(ODS, SLOT).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), again).await.unwrap();
    assert!(!directory.is_circuit_open() && directory.sender(HUB).await.is_ok());
}

#[tokio::test]
async fn in_an_outage_a_sender_is_served_for_an_hour_and_no_longer() {
    let ours = LdapPki::new();
    let Some(mut slapd) = ours.slapd(hub().to_ldif()) else { return };
    let directory = ours.directory(slapd.port());
    let before_s = now_s();
    assert!(directory.set_clock_s(before_s).sender_now(HUB).await.is_ok());
    let after_s = now_s();
    slapd.stop();
    assert!(directory.set_clock_s(before_s + 301).sender_now(HUB).await.is_ok());
    assert!(directory.set_clock_s(before_s + 3599).sender_now(HUB).await.is_ok());
    let unavailable = Refusal::DirectoryUnavailable;
    assert_eq!(
        directory.set_clock_s(after_s + 3600).sender_now(HUB).await.unwrap_err(),
        unavailable
    );
    assert_eq!(
        directory.set_clock_s(after_s + LATER_S).sender_now(HUB).await.unwrap_err(),
        unavailable
    );
}

#[tokio::test]
async fn in_an_outage_a_practice_is_served_for_twelve_hours_and_an_unconfirmed_write_for_one() {
    let ours = LdapPki::new();
    let Some(mut slapd) = ours.slapd(gp().to_ldif()) else { return };
    let directory = ours.directory(slapd.port());
    let before_s = now_s();
    assert!(directory.set_clock_s(before_s).look_up_now(ODS, SLOT).await.is_ok());
    assert!(directory.look_up_now(ODS, BOOK).await.is_ok());
    let after_s = now_s();
    slapd.stop();
    let unavailable = Refusal::DirectoryUnavailable;
    assert!(directory.set_clock_s(before_s + 43_199).look_up_now(ODS, SLOT).await.is_ok());
    let refused = directory.set_clock_s(after_s + 43_200).look_up_now(ODS, SLOT).await.unwrap_err();
    assert_eq!(refused, unavailable);
    assert!(directory.set_clock_s(before_s + 3599).look_up_now(ODS, BOOK).await.is_ok());
    let refused = directory.set_clock_s(after_s + 3600).look_up_now(ODS, BOOK).await.unwrap_err();
    assert_eq!(refused, unavailable);
    // A request that names the service root confirms it.
    let to = asid(ASID);
    let receiver = &by_asid(&to, None);
    let confirmed = directory
        .set_clock_s(before_s + 43_199)
        .directory
        .provider(receiver, named(BOOK), PAYER)
        .await;
    assert!(confirmed.is_ok());
}
