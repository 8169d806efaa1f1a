//! A server that answers what is no answer, or is not the one that was meant.

use std::time::{Duration, Instant};

use gpconnect_simulator::pki::{Leaf, Pki};
use gpconnect_simulator::sds::Records;
use spine_proxy::refusal::Refusal;

use super::{ASID, BOOK, HUB, ODS, Ours, SLOT, gp, handler, hub, records, system};
use testkit::fake_ldap::{Act, Entry, FakeLdap, envelope, tlv};
use testkit::slapd::{Setup, Slapd};
use testkit::stage::{now_s, provider_tls};

#[tokio::test]
async fn a_result_code_is_never_an_absence() {
    let ours = Ours::new();
    let fake = ours.fake().await;
    for code in [1, 3, 4, 10, 11, 32, 34, 48, 49, 50, 51, 52, 53, 80] {
        fake.does(Act::code(code));
        let asking = ours.asks(fake.address.port());
        asking.knows_nothing_for_now(&format!("code {code}")).await;
        let denied = matches!(code, 48..=50);
        assert_eq!(asking.is_circuit_open(), denied, "code {code}");
        // Nothing has been remembered as absent.
        if !denied {
            fake.plays(plain);
            assert!(asking.practice(ODS, SLOT).await.is_ok(), "code {code}");
            assert!(asking.system(ASID, None).await.is_ok(), "code {code}");
            assert!(asking.sender(HUB).await.is_ok(), "code {code}");
        }
    }
}

#[tokio::test]
async fn records_before_a_result_code_are_no_answer() {
    let ours = Ours::new();
    let fake = ours.fake().await;
    for code in [3, 4, 11, 51, 52] {
        fake.plays(move |search| Act::Answer(records(search), code));
        let asking = ours.asks(fake.address.port());
        asking.knows_nothing_for_now(&format!("code {code}")).await;
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_is_no_answer() {
    let ours = Ours::new();
    let fake = ours.fake().await;
    let nameless = envelope(2, &tlv(0x64, &tlv(0x04, b"")));
    for (what, act) in [
        ("not BER at all", Act::Bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())),
        ("no message", Act::Bytes(tlv(0x30, b""))),
        ("an unknown operation", Act::Bytes(envelope(2, &tlv(0x7f, b"")))),
        ("gigabytes", Act::Bytes(vec![0x30, 0x84, 0x40, 0, 0, 0])),
        ("depth without an end", Act::Bytes(nested(50_000))),
        ("an entry without attributes", Act::Bytes([nameless, done()].concat())),
        ("a record without its party key", Act::Answer(vec![keyless()], 0)),
        ("half an answer", Act::Cut(vec![handler(SLOT)])),
        ("half an empty answer", Act::Cut(Vec::new())),
        ("another server's name", Act::Elsewhere),
    ] {
        fake.does(act);
        let asking = ours.asks_with(fake.address.port(), "", |text| {
            text.replace("[deadlines]", "[deadlines]\nattempt = \"1s\"\nwaiting = \"2s\"")
        });
        asking.knows_nothing_for_now(what).await;
        fake.plays(plain);
        assert!(asking.practice(ODS, SLOT).await.is_ok(), "{what}");
    }
}

/// A message of elements in elements.
fn nested(depth: usize) -> Vec<u8> {
    let length = |inside: usize| u32::try_from(inside).unwrap().to_be_bytes();
    let heads = (0..depth).rev().map(|inside| [&[0x30, 0x84], &length(6 * inside)[..]].concat());
    let body = [&tlv(0x02, &[2])[..], &heads.collect::<Vec<_>>().concat()].concat();
    [&[0x30, 0x84], &length(body.len())[..], &body].concat()
}

#[tokio::test]
async fn records_that_were_not_asked_for_are_no_answer() {
    let ours = Ours::new();
    let fake = ours.fake().await;
    let other = |search: &str| {
        let text = |value: String| value.replace(ODS, "Z99002").replace("2000000990", "2000001990");
        let moved = records(search).into_iter().map(|entry| {
            let values = |values: Vec<String>| values.into_iter().map(text).collect();
            entry.into_iter().map(|(name, held)| (name, values(held))).collect()
        });
        Act::Answer(moved.collect(), 0)
    };
    fake.plays(other);
    ours.asks(fake.address.port()).knows_nothing_for_now("another's records").await;
}

#[tokio::test]
async fn a_server_that_says_nothing_is_waited_for_no_longer_than_the_deadline() {
    let ours = Ours::new();
    let fake = ours.fake().await;
    fake.does(Act::Silence);
    let asking = ours.asks_with(fake.address.port(), "", |text| {
        text.replace("[deadlines]", "[deadlines]\nattempt = \"300ms\"\nwaiting = \"600ms\"")
    });
    let began = Instant::now();
    assert_eq!(asking.practice(ODS, SLOT).await.unwrap_err(), Refusal::DirectoryUnavailable);
    let took = began.elapsed();
    assert!((Duration::from_millis(250)..Duration::from_secs(3)).contains(&took), "{took:?}");
    // Its connection is given up with it, and nobody waits there again.
    fake.has_ended(1).await;
    fake.plays(plain);
    assert!(asking.practice(ODS, SLOT).await.is_ok());
    assert_eq!(fake.connections(), 2);
}

#[tokio::test]
async fn a_connection_is_kept_until_the_server_says_goodbye() {
    let ours = Ours::new();
    let fake = ours.fake().await;
    fake.plays(plain);
    let asking = ours.asks(fake.address.port());
    for ods in [ODS, "Z99002", "Z99003", "Z99004"] {
        drop(asking.practice(ods, SLOT).await);
    }
    assert!(asking.sender(HUB).await.is_ok());
    assert_eq!(fake.connections(), 1);
    // From here on each connection serves one search; no question fails for that.
    fake.plays(|search| Act::Farewell(records(search)));
    let searched = fake.searched();
    for later in 1..=6 {
        let told = asking.is(now_s() + 310 * later).sender_now(HUB).await;
        assert!(told.is_ok(), "{told:?}");
    }
    assert_eq!(asking.questions("systems", "unavailable"), 0);
    assert_eq!(asking.questions("handlers", "unavailable"), 0);
    assert!(fake.connections() > 6 && fake.searched() >= searched + 12);
}

#[tokio::test]
async fn a_base_that_is_not_there_is_our_mistake_and_no_absence() {
    let ours = Ours::new();
    let Some(slapd) = ours.slapd(gp().and(hub()).to_ldif()) else { return };
    let wrong =
        |text: String| text.replace("[sds-ldap]\n", "[sds-ldap]\nbase = \"ou=elsewhere,o=nhs\"\n");
    let asking = ours.asks_with(slapd.port(), "", wrong);
    asking.knows_nothing_for_now("a wrong base").await;
    assert_eq!(asking.questions("handlers", "our_fault"), 1);
    assert_eq!(asking.questions("systems", "our_fault"), 2);
}

#[tokio::test]
async fn a_server_that_reached_its_limit_has_not_told_everything() {
    let ours = Ours::new();
    let two = Records::consumer("Z99011", "200000099011", "Z99010-990010", "b.example.test", &[]);
    let mut records = gp().and(hub()).and(two);
    records.accredited.truncate(2);
    let mut setup = Setup::new(&ours.pki, records.to_ldif());
    setup.entries_max = 1;
    let Some(slapd) = Slapd::start(&setup) else { return };
    let asking = ours.asks(slapd.port());
    // Two handlers carry the consumer's names: one of them would be a wrong answer.
    assert_eq!(asking.sender(HUB).await.unwrap_err(), Refusal::DirectoryUnavailable);
    assert_eq!(asking.questions("handlers", "truncated"), 1);
    // The practice is found; what else it serves is not told whole, so it is asked one by one.
    assert!(asking.practice(ODS, SLOT).await.is_ok());
    assert!(asking.practice(ODS, BOOK).await.is_ok());
    assert!(asking.practice(ODS, SLOT).await.is_ok());
    assert_eq!(asking.questions("handlers", "found"), 2);
}

#[tokio::test]
async fn a_server_that_demands_a_certificate_is_shown_ours_or_answers_nothing() {
    let ours = Ours::new();
    let Some(slapd) = ours.slapd(gp().and(hub()).to_ldif()) else { return };
    assert!(ours.asks(slapd.port()).practice(ODS, SLOT).await.is_ok());
    let without = |text: String| {
        let lines = text.lines().filter(|line| !line.starts_with("certificate"));
        lines.collect::<Vec<_>>().join("\n")
    };
    ours.asks_with(slapd.port(), "", without).knows_nothing_for_now("no certificate").await;
    let foreign = Pki::new(now_s()).unwrap();
    ours.holds(&foreign.issue(&Leaf::named("gateway.example.test")).unwrap());
    ours.asks(slapd.port()).knows_nothing_for_now("a foreign certificate").await;
    assert_eq!(slapd.asked(2).await.iter().filter(|filter| filter.contains(HUB)).count(), 0);
}

#[tokio::test]
async fn a_server_of_another_name_or_another_authority_is_told_nothing() {
    let ours = Ours::new();
    let foreign = Pki::new(now_s()).unwrap();
    for issued in [
        ours.pki.issue(&Leaf::named("other.example.test")).unwrap(),
        ours.pki.issue(&Leaf { days: (-9, -1), ..Leaf::named("localhost") }).unwrap(),
        foreign.issue(&Leaf::named("localhost")).unwrap(),
    ] {
        let fake = FakeLdap::start(provider_tls(&ours.pki, &issued)).await;
        fake.plays(plain);
        ours.asks(fake.address.port()).knows_nothing_for_now("a stranger").await;
        assert_eq!((fake.connections(), fake.searched()), (0, 0));
    }
    let mut setup = Setup::new(&ours.pki, gp().and(hub()).to_ldif());
    setup.issued = ours.pki.issue(&Leaf::named("other.example.test")).unwrap();
    let Some(slapd) = Slapd::start(&setup) else { return };
    ours.asks(slapd.port()).knows_nothing_for_now("another name").await;
    let named = |text: String| text.replace("ldaps://localhost", "ldaps://other.example.test");
    assert!(ours.asks_with(slapd.port(), "", named).practice(ODS, SLOT).await.is_ok());
}

/// What a server with the practice and the consumer answers.
fn plain(search: &str) -> Act {
    Act::Answer(records(search), 0)
}

/// A record that is a handler, a system, and no good.
fn keyless() -> Entry {
    let whole = [handler(SLOT), system(ASID)].concat();
    whole.into_iter().filter(|(name, _)| *name != "nhsMHSPartyKey").collect()
}

/// The end of the first search on a connection.
fn done() -> Vec<u8> {
    envelope(2, &tlv(0x65, &[0x0a, 1, 0, 4, 0, 4, 0]))
}
