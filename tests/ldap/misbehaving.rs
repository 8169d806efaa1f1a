//! An LDAP server that sends invalid answers, or is not the configured one.

use std::time::{Duration, Instant};

use gpconnect_simulator::pki::{Leaf, Pki};
use gpconnect_simulator::sds::Records;
use spine_proxy::refusal::Refusal;

use super::{ASID, BOOK, HUB, LdapPki, ODS, SLOT, gp, handler, hub, records, system};
use testkit::fake_ldap::{Entry, FakeLdap, LdapAction, envelope, tlv};
use testkit::slapd::{SlapdProcess, SlapdSettings};
use testkit::test_bed::{now_s, provider_tls};

#[tokio::test]
async fn a_result_code_is_never_an_absence() {
    let ours = LdapPki::new();
    let fake = ours.fake().await;
    for code in [1, 3, 4, 10, 11, 32, 34, 48, 49, 50, 51, 52, 53, 80] {
        fake.set_action(LdapAction::code(code));
        let directory = ours.directory(fake.address.port());
        directory.assert_unavailable(&format!("code {code}")).await;
        let denied = matches!(code, 48..=50);
        assert_eq!(directory.is_circuit_open(), denied, "code {code}");
        // No absence has been cached.
        if !denied {
            fake.set_script(plain);
            assert!(directory.look_up(ODS, SLOT).await.is_ok(), "code {code}");
            assert!(directory.system(ASID, None).await.is_ok(), "code {code}");
            assert!(directory.sender(HUB).await.is_ok(), "code {code}");
        }
    }
}

#[tokio::test]
async fn records_before_a_result_code_are_no_answer() {
    let ours = LdapPki::new();
    let fake = ours.fake().await;
    for code in [3, 4, 11, 51, 52] {
        fake.set_script(move |search| LdapAction::Answer(records(search), code));
        let directory = ours.directory(fake.address.port());
        directory.assert_unavailable(&format!("code {code}")).await;
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_is_no_answer() {
    let ours = LdapPki::new();
    let fake = ours.fake().await;
    let nameless = envelope(2, &tlv(0x64, &tlv(0x04, b"")));
    for (what, act) in [
        ("not BER at all", LdapAction::Bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())),
        ("no message", LdapAction::Bytes(tlv(0x30, b""))),
        ("an unknown operation", LdapAction::Bytes(envelope(2, &tlv(0x7f, b"")))),
        ("gigabytes", LdapAction::Bytes(vec![0x30, 0x84, 0x40, 0, 0, 0])),
        ("depth without an end", LdapAction::Bytes(nested(50_000))),
        ("an entry without attributes", LdapAction::Bytes([nameless, done()].concat())),
        ("a record without its party key", LdapAction::Answer(vec![keyless()], 0)),
        ("half an answer", LdapAction::Cut(vec![handler(SLOT)])),
        ("half an empty answer", LdapAction::Cut(Vec::new())),
        ("another server's name", LdapAction::Reference),
    ] {
        fake.set_action(act);
        let directory = ours.directory_with(fake.address.port(), "", |text| {
            text.replace("[deadlines]", "[deadlines]\nattempt = \"1s\"\nwaiting = \"2s\"")
        });
        directory.assert_unavailable(what).await;
        fake.set_script(plain);
        assert!(directory.look_up(ODS, SLOT).await.is_ok(), "{what}");
    }
}

/// Returns a message of nested elements.
fn nested(depth: usize) -> Vec<u8> {
    let length = |inside: usize| u32::try_from(inside).unwrap().to_be_bytes();
    let heads = (0..depth).rev().map(|inside| [&[0x30, 0x84], &length(6 * inside)[..]].concat());
    let body = [&tlv(0x02, &[2])[..], &heads.collect::<Vec<_>>().concat()].concat();
    [&[0x30, 0x84], &length(body.len())[..], &body].concat()
}

#[tokio::test]
async fn records_that_do_not_match_the_query_are_rejected() {
    let ours = LdapPki::new();
    let fake = ours.fake().await;
    let other = |search: &str| {
        let text = |value: String| value.replace(ODS, "Z99002").replace("2000000990", "2000001990");
        let moved = records(search).into_iter().map(|entry| {
            let values = |values: Vec<String>| values.into_iter().map(text).collect();
            entry.into_iter().map(|(name, held)| (name, values(held))).collect()
        });
        LdapAction::Answer(moved.collect(), 0)
    };
    fake.set_script(other);
    ours.directory(fake.address.port()).assert_unavailable("another's records").await;
}

#[tokio::test]
async fn a_silent_server_costs_no_more_than_the_deadline() {
    let ours = LdapPki::new();
    let fake = ours.fake().await;
    fake.set_action(LdapAction::Silence);
    let directory = ours.directory_with(fake.address.port(), "", |text| {
        text.replace("[deadlines]", "[deadlines]\nattempt = \"300ms\"\nwaiting = \"600ms\"")
    });
    let began = Instant::now();
    assert_eq!(directory.look_up(ODS, SLOT).await.unwrap_err(), Refusal::DirectoryUnavailable);
    let took = began.elapsed();
    assert!((Duration::from_millis(250)..Duration::from_secs(3)).contains(&took), "{took:?}");
    // Its connection is closed at the deadline, and not used again.
    fake.wait_for_closed_connections(1).await;
    fake.set_script(plain);
    assert!(directory.look_up(ODS, SLOT).await.is_ok());
    assert_eq!(fake.connections(), 2);
}

#[tokio::test]
async fn a_connection_is_kept_until_the_server_disconnects_it() {
    let ours = LdapPki::new();
    let fake = ours.fake().await;
    fake.set_script(plain);
    let directory = ours.directory(fake.address.port());
    for ods in [ODS, "Z99002", "Z99003", "Z99004"] {
        drop(directory.look_up(ods, SLOT).await);
    }
    assert!(directory.sender(HUB).await.is_ok());
    assert_eq!(fake.connections(), 1);
    // From here on each connection serves one search, and still no query fails.
    fake.set_script(|search| LdapAction::AnswerAndDisconnect(records(search)));
    let searched = fake.search_count();
    for later in 1..=6 {
        let told = directory.set_clock_s(now_s() + 310 * later).sender_now(HUB).await;
        assert!(told.is_ok(), "{told:?}");
    }
    assert_eq!(directory.query_count("systems", "unavailable"), 0);
    assert_eq!(directory.query_count("handlers", "unavailable"), 0);
    assert!(fake.connections() > 6 && fake.search_count() >= searched + 12);
}

#[tokio::test]
async fn a_missing_search_base_is_not_an_absence() {
    let ours = LdapPki::new();
    let Some(slapd) = ours.slapd(gp().and(hub()).to_ldif()) else { return };
    let wrong =
        |text: String| text.replace("[sds-ldap]\n", "[sds-ldap]\nbase = \"ou=elsewhere,o=nhs\"\n");
    let directory = ours.directory_with(slapd.port(), "", wrong);
    directory.assert_unavailable("a wrong base").await;
    assert_eq!(directory.query_count("handlers", "our_fault"), 1);
    assert_eq!(directory.query_count("systems", "our_fault"), 2);
}

#[tokio::test]
async fn an_answer_cut_by_the_size_limit_is_incomplete() {
    let ours = LdapPki::new();
    let two = Records::consumer("Z99011", "200000099011", "Z99010-990010", "b.example.test", &[]);
    let mut records = gp().and(hub()).and(two);
    records.accredited.truncate(2);
    let mut setup = SlapdSettings::new(&ours.pki, records.to_ldif());
    setup.entries_max = 1;
    let Some(slapd) = SlapdProcess::start(&setup) else { return };
    let directory = ours.directory(slapd.port());
    // Two handlers have the consumer's names: only one of them would be a wrong answer.
    assert_eq!(directory.sender(HUB).await.unwrap_err(), Refusal::DirectoryUnavailable);
    assert_eq!(directory.query_count("handlers", "truncated"), 1);
    // The practice is found. The list of its interactions is cut, so they are looked up one by one.
    assert!(directory.look_up(ODS, SLOT).await.is_ok());
    assert!(directory.look_up(ODS, BOOK).await.is_ok());
    assert!(directory.look_up(ODS, SLOT).await.is_ok());
    assert_eq!(directory.query_count("handlers", "found"), 2);
}

#[tokio::test]
async fn a_server_that_requires_a_certificate_gets_the_gateways() {
    let ours = LdapPki::new();
    let Some(slapd) = ours.slapd(gp().and(hub()).to_ldif()) else { return };
    assert!(ours.directory(slapd.port()).look_up(ODS, SLOT).await.is_ok());
    let without = |text: String| {
        let lines = text.lines().filter(|line| !line.starts_with("certificate"));
        lines.collect::<Vec<_>>().join("\n")
    };
    ours.directory_with(slapd.port(), "", without).assert_unavailable("no certificate").await;
    let foreign = Pki::new(now_s()).unwrap();
    ours.use_certificate(&foreign.issue(&Leaf::named("gateway.example.test")).unwrap());
    ours.directory(slapd.port()).assert_unavailable("a foreign certificate").await;
    assert_eq!(
        slapd.wait_for_filters(2).await.iter().filter(|filter| filter.contains(HUB)).count(),
        0
    );
}

#[tokio::test]
async fn a_server_with_another_name_or_authority_gets_no_query() {
    let ours = LdapPki::new();
    let foreign = Pki::new(now_s()).unwrap();
    for issued in [
        ours.pki.issue(&Leaf::named("other.example.test")).unwrap(),
        ours.pki.issue(&Leaf { days: (-9, -1), ..Leaf::named("localhost") }).unwrap(),
        foreign.issue(&Leaf::named("localhost")).unwrap(),
    ] {
        let fake = FakeLdap::start(provider_tls(&ours.pki, &issued)).await;
        fake.set_script(plain);
        ours.directory(fake.address.port()).assert_unavailable("a stranger").await;
        assert_eq!((fake.connections(), fake.search_count()), (0, 0));
    }
    let mut setup = SlapdSettings::new(&ours.pki, gp().and(hub()).to_ldif());
    setup.issued = ours.pki.issue(&Leaf::named("other.example.test")).unwrap();
    let Some(slapd) = SlapdProcess::start(&setup) else { return };
    ours.directory(slapd.port()).assert_unavailable("another name").await;
    let named = |text: String| text.replace("ldaps://localhost", "ldaps://other.example.test");
    assert!(ours.directory_with(slapd.port(), "", named).look_up(ODS, SLOT).await.is_ok());
}

/// Returns the answer of a server with the practice and the consumer.
fn plain(search: &str) -> LdapAction {
    LdapAction::Answer(records(search), 0)
}

/// Returns an invalid record: a handler and a system, without a party key.
fn keyless() -> Entry {
    let whole = [handler(SLOT), system(ASID)].concat();
    whole.into_iter().filter(|(name, _)| *name != "nhsMHSPartyKey").collect()
}

/// Returns the end of the first search on a connection.
fn done() -> Vec<u8> {
    envelope(2, &tlv(0x65, &[0x0a, 1, 0, 4, 0, 4, 0]))
}
