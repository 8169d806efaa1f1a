//! The directory over LDAP: against a real server with mutual TLS, and against a server that misbehaves.
//!
//! Ages are judged by the time an asker brings, so that hours are played and not waited for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use spine_proxy::commands::certs::{Issued, Leaf, Pki};
use spine_proxy::directory::{Asker, Directory, File, Live, Others, Receiver, Settings};
use spine_proxy::interaction::{self, Interaction};
use spine_proxy::metrics::Metrics;
use spine_proxy::policy::Provider;
use spine_proxy::refusal::Refusal;
use spine_proxy::simulator::sds::{Records, Trouble};
use spine_proxy::spine::{Asid, OdsCode, PartyKey};
use tempfile::TempDir;
use tokio::runtime::Handle;

use crate::support::fake_ldap::{Act, Entry, FakeLdap, envelope, tlv};
use crate::support::sds::Registry;
use crate::support::slapd::{FIXTURES, Setup, Slapd};
use crate::support::stage::{self, counted, now_s, provider_tls};
use crate::support::{Call, Stage};

const SLOT: &str = "urn:nhs:names:services:gpconnect:fhir:rest:search:slot-1";
const BOOK: &str = "urn:nhs:names:services:gpconnect:fhir:rest:create:appointment-1";
const ODS: &str = "Z99001";
const ASID: &str = "200000099001";
const KEY: &str = "Z99001-990001";
const ROOT: &str = "https://gp.example.test/Z99001/STU3/1/gpconnect";
const HUB: &str = "200000099010";

/// A whole day and more: nothing that is held is of use then.
const LATER_S: i64 = 100_000;

/// What every directory here is configured with: failures are not remembered unless a test wants it.
const SETTINGS: &str = r#"
file = "directory.toml"
misses-per-minute = 1000000

[sds-ldap]
url = "ldaps://localhost:@port@"
dial = "127.0.0.1:@port@"

[sds-ldap.tls]
certificate = { chain = "@folder@/ours.pem", key = "@folder@/ours.key" }
authorities = ["@folder@/ca.pem"]
crl = "none"

[deadlines]

[freshness]
retry = "0s"
"#;

/// Our side: a certificate, and whom it trusts.
struct Ours {
    folder: TempDir,
    pki: Pki,
}

impl Ours {
    fn new() -> Self {
        let pki = Pki::new(now_s()).unwrap();
        let ours = Self { folder: tempfile::tempdir().unwrap(), pki };
        ours.holds(&ours.pki.issue(&Leaf::named("gateway.example.test")).unwrap());
        ours.put("ca.pem", &ours.pki.authority());
        ours
    }

    fn holds(&self, issued: &Issued) {
        self.put("ours.pem", &issued.chain);
        self.put("ours.key", &issued.key);
    }

    fn put(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    /// A server with these records.
    fn slapd(&self, ldif: impl Into<String>) -> Option<Slapd> {
        Slapd::start(&Setup::new(&self.pki, ldif))
    }

    async fn fake(&self) -> FakeLdap {
        let issued = self.pki.issue(&Leaf::named("localhost")).unwrap();
        FakeLdap::start(provider_tls(&self.pki, &issued)).await
    }

    /// A directory that holds nothing yet and asks at this port.
    fn asks(&self, port: u16) -> Asking {
        self.asks_with(port, "", |text| text)
    }

    /// The same, with a directory file, and settings that are changed.
    fn asks_with(&self, port: u16, file: &str, change: impl FnOnce(String) -> String) -> Asking {
        let text = SETTINGS.replace("@port@", &port.to_string());
        let text = text.replace("@folder@", self.folder.path().to_str().unwrap());
        let settings: Settings = toml::from_str(&change(text)).unwrap();
        settings.check().unwrap();
        let live = Live::load(&settings, now_s(), &mut Vec::new()).unwrap();
        let file = File::parse(file, "directory.toml".as_ref(), Others::Live).unwrap();
        let metrics = Arc::new(Metrics::new());
        let tasks = Handle::current();
        let directory = Directory::new(file, live, &settings, Arc::clone(&metrics), tasks);
        Asking { directory, metrics }
    }
}

/// A directory, and what it counted.
struct Asking {
    directory: Directory,
    metrics: Arc<Metrics>,
}

impl Asking {
    /// Form (b), without `Ssp-To`.
    async fn practice(&self, of: &str, for_: &str) -> Result<Arc<Provider>, Refusal> {
        self.practice_at(of, for_, now_s()).await
    }

    async fn practice_at(
        &self,
        of: &str,
        for_: &str,
        now_s: i64,
    ) -> Result<Arc<Provider>, Refusal> {
        let ods = ods(of);
        self.directory.provider(Receiver::Practice(&ods, None), named(for_), at(now_s)).await
    }

    /// Form (a): the target suggests this practice, or none.
    async fn system(&self, asid: &str, hint: Option<&str>) -> Result<Arc<Provider>, Refusal> {
        let (asid, hint) = (self::asid(asid), hint.map(ods));
        let receiver = Receiver::System(&asid, hint.as_ref());
        self.directory.provider(receiver, named(SLOT), at(now_s())).await
    }

    async fn sender(&self, of: &str) -> Result<Told, Refusal> {
        self.sender_at(of, now_s()).await
    }

    async fn sender_at(&self, of: &str, now_s: i64) -> Result<Told, Refusal> {
        let sender = self.directory.sender(&asid(of), at(now_s)).await?;
        Ok(Told {
            asid: sender.asid.to_string(),
            ods: sender.ods.to_string(),
            names: sender.names.iter().map(ToString::to_string).collect(),
            interactions: sender.interactions.iter().map(|held| held.id).collect(),
        })
    }

    /// Every way to ask gives the same.
    async fn knows_nothing_for_now(&self, what: &str) {
        let unavailable = Refusal::DirectoryUnavailable;
        assert_eq!(self.practice(ODS, SLOT).await.unwrap_err(), unavailable, "{what}");
        assert_eq!(self.system(ASID, None).await.unwrap_err(), unavailable, "{what}");
        assert_eq!(self.sender(HUB).await.unwrap_err(), unavailable, "{what}");
    }

    /// Questions answered so.
    fn questions(&self, question: &str, outcome: &str) -> u64 {
        let labels = format!(r#"{{outcome="{outcome}",question="{question}",source="sds-ldap"}}"#);
        counted(&self.metrics, &format!("directory_source_queries_total{labels}"))
    }

    fn is_spared(&self) -> bool {
        self.directory.held_view().sources[0].spared
    }
}

/// A sender in words.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    asid: String,
    ods: String,
    names: Vec<String>,
    interactions: Vec<&'static str>,
}

fn at(now_s: i64) -> Asker<'static> {
    Asker { certificate: "x", now_s }
}

fn asid(text: &str) -> Asid {
    text.parse().unwrap()
}

fn ods(text: &str) -> OdsCode {
    OdsCode::from_any_case(text).unwrap()
}

fn named(id: &str) -> &'static Interaction {
    interaction::by_id(id).unwrap()
}

/// The practice.
fn gp() -> Records {
    Records::practice(ODS, ASID, KEY, ROOT, &[SLOT, BOOK])
}

/// A consumer, at another organisation.
fn hub() -> Records {
    Records::consumer("Z99010", HUB, "Z99010-990010", "hub.example.test", &[SLOT])
}

#[tokio::test]
async fn a_practice_is_found_in_two_steps_and_the_rest_of_it_in_a_third() {
    let ours = Ours::new();
    let Some(slapd) = ours.slapd(FIXTURES) else { return };
    let asking = ours.asks(slapd.port());
    let found = asking.practice(ODS, SLOT).await.unwrap();
    assert_eq!((found.ods.as_str(), found.asid.as_str()), (ODS, ASID));
    assert_eq!((found.party_key.as_str(), found.root.as_str()), (KEY, ROOT));
    assert_eq!(found.cpa_id.as_str(), "f00000000000000slot1");
    assert_eq!((&*found.address, &*found.host), ("gp.example.test:443", "gp.example.test"));
    let expected = [
        format!("(&(objectClass=nhsMhs)(nhsIDCode={ODS})(nhsMhsSvcIA={SLOT}))"),
        format!("(&(objectClass=nhsAs)(nhsIDCode={ODS})(nhsMHSPartyKey={KEY}))"),
        format!("(&(objectClass=nhsMhs)(nhsIDCode={ODS})(nhsMHSPartyKey={KEY}))"),
    ];
    // The log has what is compared without regard to case in lower case.
    let asked = slapd.asked(3).await;
    assert_eq!(
        asked,
        expected.map(|filter| filter.replace(&format!("={KEY})"), "=z99001-990001)"))
    );
    // Whoever asks for another interaction waits for the third question and puts none.
    let book = asking.practice(ODS, BOOK).await.unwrap();
    assert_eq!((book.asid.as_str(), book.cpa_id.as_str()), (ASID, "f00000000000000book1"));
    assert_eq!(asking.questions("handlers", "found"), 2);
    assert_eq!(asking.questions("systems", "found"), 1);
}

#[tokio::test]
async fn a_portal_at_the_practice_is_never_its_provider() {
    let ours = Ours::new();
    let Some(slapd) = ours.slapd(FIXTURES) else { return };
    let portal = "200000099002";
    let asking = ours.asks(slapd.port());
    assert_eq!(asking.practice(ODS, SLOT).await.unwrap().asid.as_str(), ASID);
    for hint in [None, Some(ODS)] {
        let refused = asking.system(portal, hint).await.unwrap_err();
        assert_eq!(refused, Refusal::ReceiverUnknown, "{hint:?}");
        let fresh = ours.asks(slapd.port());
        let refused = fresh.system(portal, hint).await.unwrap_err();
        assert_eq!(refused, Refusal::ReceiverUnknown, "{hint:?}");
    }
    let (practice, to) = (ods(ODS), asid(portal));
    let receiver = Receiver::Practice(&practice, Some(&to));
    // One registration needs no choosing; whether `Ssp-To` agrees is judged elsewhere.
    let found = asking.directory.provider(receiver, named(SLOT), at(now_s())).await.unwrap();
    assert_eq!(found.asid.as_str(), ASID);
}

#[tokio::test]
async fn what_a_practice_is_not_registered_for_is_told_from_a_practice_that_is_not_there() {
    let ours = Ours::new();
    let Some(slapd) = ours.slapd(gp().to_ldif()) else { return };
    let asking = ours.asks(slapd.port());
    assert!(asking.practice(ODS, SLOT).await.is_ok());
    let patient = "urn:nhs:names:services:gpconnect:fhir:rest:read:patient-1";
    let refused = asking.practice(ODS, patient).await.unwrap_err();
    assert_eq!(refused, Refusal::PracticeNotRegistered);
    assert_eq!(asking.practice("Z00000", SLOT).await.unwrap_err(), Refusal::PracticeUnknown);
    let asked = asking.questions("handlers", "absent");
    assert_eq!(asking.practice("Z00000", SLOT).await.unwrap_err(), Refusal::PracticeUnknown);
    assert_eq!(asking.questions("handlers", "absent"), asked, "an absence is believed for a while");
}

#[tokio::test]
async fn an_absence_that_is_not_to_be_remembered_is_an_absence_all_the_same() {
    let ours = Ours::new();
    let Some(slapd) = ours.slapd(gp().to_ldif()) else { return };
    for (absent, unconfirmed) in [("0s", "5s"), ("0s", "0s"), ("900ms", "0s")] {
        let asking = ours.asks_with(slapd.port(), "", |text| {
            format!("{text}absent = \"{absent}\"\nabsent-unconfirmed = \"{unconfirmed}\"\n")
        });
        let refused = asking.practice("Z00000", SLOT).await.unwrap_err();
        assert_eq!(refused, Refusal::PracticeUnknown, "{absent}");
        let nobody = Refusal::SenderUnknown(asid(HUB));
        assert_eq!(asking.sender(HUB).await.unwrap_err(), nobody, "{absent}");
        assert_eq!(asking.system(HUB, None).await.unwrap_err(), Refusal::ReceiverUnknown);
    }
}

#[tokio::test]
async fn an_asid_keeps_its_leading_zeros() {
    let ours = Ours::new();
    let zeros = "000000000001";
    let records = Records::practice("Z99003", zeros, "Z99003-990003", ROOT, &[SLOT]);
    let Some(slapd) = ours.slapd(records.to_ldif()) else { return };
    let asking = ours.asks(slapd.port());
    assert_eq!(asking.practice("Z99003", SLOT).await.unwrap().asid.as_str(), zeros);
    assert_eq!(asking.system(zeros, None).await.unwrap().asid.as_str(), zeros);
    assert_eq!(asking.sender(zeros).await.unwrap().asid, zeros);
    let Some(slapd) = ours.slapd(FIXTURES) else { return };
    let sender = ours.asks(slapd.port()).sender("000000099003").await.unwrap();
    assert_eq!((sender.asid.as_str(), sender.ods.as_str()), ("000000099003", "Z9Z9Z"));
}

#[tokio::test]
async fn a_code_is_in_upper_case_whoever_writes_it() {
    let ours = Ours::new();
    let consumer = Records::consumer("z99010", HUB, "Z99010-990010", "hub.example.test", &[SLOT]);
    let Some(slapd) = ours.slapd(gp().and(consumer).to_ldif()) else { return };
    let asking = ours.asks(slapd.port());
    assert_eq!(asking.practice("z99001", SLOT).await.unwrap().ods.as_str(), ODS);
    assert_eq!(asking.sender(HUB).await.unwrap().ods, "Z99010");
    let asked = slapd.asked(2).await;
    assert!(asked[0].contains("(nhsIDCode=Z99001)"), "{asked:?}");
}

#[test]
fn nothing_that_breaks_out_of_a_filter_is_an_identifier() {
    for bad in ["*", "Z9*", ")(", ")(objectClass=*", "\0", "Z99001\0", r"\2a", "(", ")", "a b"] {
        assert!(bad.parse::<OdsCode>().is_err(), "{bad:?}");
        assert!(OdsCode::from_any_case(bad).is_err(), "{bad:?}");
        assert!(bad.parse::<Asid>().is_err(), "{bad:?}");
        assert!(format!("20000009900{bad}").parse::<Asid>().is_err(), "{bad:?}");
        assert!(bad.parse::<PartyKey>().is_err(), "{bad:?}");
        assert!(interaction::by_id(bad).is_none(), "{bad:?}");
        assert!(interaction::by_id(&format!("{SLOT}{bad}")).is_none(), "{bad:?}");
    }
}

#[tokio::test]
async fn a_party_key_that_breaks_out_of_a_filter_is_never_asked_for() {
    let ours = Ours::new();
    let key = "*)(objectClass=*";
    let records = Records::practice(ODS, ASID, key, ROOT, &[SLOT]);
    let Some(slapd) = ours.slapd(records.to_ldif()) else { return };
    let asking = ours.asks(slapd.port());
    let unavailable = Refusal::DirectoryUnavailable;
    assert_eq!(asking.practice(ODS, SLOT).await.unwrap_err(), unavailable);
    assert_eq!(asking.sender(ASID).await.unwrap_err(), unavailable);
    assert_eq!(asking.questions("handlers", "malformed"), 1);
    assert_eq!(asking.questions("systems", "malformed"), 1);
    let asked = slapd.asked(2).await;
    assert!(asked.iter().all(|filter| !filter.contains("PartyKey")), "{asked:?}");
}

#[tokio::test]
async fn attributes_are_known_in_whatever_case_the_server_spells_them() {
    let ours = Ours::new();
    let shout: fn(&str) -> String = str::to_ascii_uppercase;
    for spell in [shout, str::to_ascii_lowercase] {
        let mut setup = Setup::new(&ours.pki, FIXTURES);
        let quoted = setup.schema.split('\'').enumerate();
        // Every second piece stands between quotes: names, and descriptions, which are nobody's.
        let spelt = quoted.map(|(at, piece)| if at % 2 == 1 { spell(piece) } else { piece.into() });
        setup.schema = spelt.collect::<Vec<_>>().join("'");
        let Some(slapd) = Slapd::start(&setup) else { return };
        let asking = ours.asks(slapd.port());
        assert_eq!(asking.practice(ODS, SLOT).await.unwrap().root.as_str(), ROOT);
        assert_eq!(asking.sender("200000099002").await.unwrap().names, ["portal.example.test"]);
    }
}

#[tokio::test]
async fn a_result_code_is_never_an_absence() {
    let ours = Ours::new();
    let fake = ours.fake().await;
    for code in [1, 3, 4, 10, 11, 32, 34, 48, 49, 50, 51, 52, 53, 80] {
        fake.does(Act::code(code));
        let asking = ours.asks(fake.address.port());
        asking.knows_nothing_for_now(&format!("code {code}")).await;
        let denied = matches!(code, 48..=50);
        assert_eq!(asking.is_spared(), denied, "code {code}");
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
        let told = asking.sender_at(HUB, now_s() + 300 * later).await;
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
    // Two hours old: asked for again, in vain, and served.
    let (served, sender, refused) = tokio::join!(
        asking.practice_at(ODS, SLOT, began_s + 7200),
        asking.sender_at(HUB, began_s + 1800),
        asking.practice("Z99002", SLOT),
    );
    assert_eq!(served.unwrap().root, seen.root);
    assert_eq!(sender.unwrap().asid, HUB);
    assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    slapd.go_on();
    assert!(asking.practice("Z99002", SLOT).await.is_ok());
    assert!(!asking.is_spared());
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
async fn a_server_that_is_down_is_spared_and_asked_again_once_it_may_be_up() {
    let ours = Ours::new();
    let Some(mut slapd) = ours.slapd(gp().and(hub()).to_ldif()) else { return };
    let asking = ours.asks_with(slapd.port(), "", |text| {
        text.replace("[deadlines]", "[deadlines]\nspare = \"200ms\"")
    });
    slapd.stop();
    while !asking.is_spared() {
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
    assert!(!asking.is_spared() && asking.sender(HUB).await.is_ok());
}

#[tokio::test]
async fn two_addresses_are_an_ambiguity_that_no_asid_settles() {
    let ours = Ours::new();
    let Some(slapd) = ours.slapd(FIXTURES) else { return };
    let asking = ours.asks(slapd.port());
    let (practice, to) = (ods("Z99004"), asid("200000099004"));
    for receiver in [
        Receiver::Practice(&practice, None),
        Receiver::Practice(&practice, Some(&to)),
        Receiver::System(&to, Some(&practice)),
        Receiver::System(&to, None),
    ] {
        let refused = asking.directory.provider(receiver, named(SLOT), at(now_s())).await;
        assert_eq!(refused.unwrap_err(), Refusal::ReceiverAmbiguous, "{receiver:?}");
    }
}

#[tokio::test]
async fn among_two_systems_of_a_practice_the_asid_settles_it() {
    let ours = Ours::new();
    let root = "https://other.example.test/Z99001/STU3/1/gpconnect";
    let other = Records::practice(ODS, "200000099002", "Z99001-990002", root, &[SLOT]);
    let Some(slapd) = ours.slapd(gp().and(other).to_ldif()) else { return };
    let asking = ours.asks(slapd.port());
    assert_eq!(asking.practice(ODS, SLOT).await.unwrap_err(), Refusal::ReceiverAmbiguous);
    assert_eq!(asking.practice(ODS, BOOK).await.unwrap().root.as_str(), ROOT);
    assert_eq!(asking.system("200000099002", None).await.unwrap().root.as_str(), root);
    let (practice, to) = (ods(ODS), asid(ASID));
    let receiver = Receiver::Practice(&practice, Some(&to));
    let found = asking.directory.provider(receiver, named(SLOT), at(now_s())).await.unwrap();
    assert_eq!(found.root.as_str(), ROOT);
}

#[tokio::test]
async fn a_system_of_two_clients_is_found() {
    let ours = Ours::new();
    let mut records = gp();
    records.accredited[0].clients.push("Z99005".to_owned());
    let Some(slapd) = ours.slapd(records.to_ldif()) else { return };
    let asking = ours.asks(slapd.port());
    assert_eq!(asking.practice(ODS, SLOT).await.unwrap().asid.as_str(), ASID);
    assert_eq!(asking.sender(ASID).await.unwrap().ods, ODS);
}

#[tokio::test]
async fn a_system_is_found_by_its_asid_and_a_hint_only_says_where_to_look_first() {
    let ours = Ours::new();
    let other = Records::practice("Z99002", "200000099002", "Z99002-1", ROOT, &[SLOT]);
    let Some(slapd) = ours.slapd(gp().and(other).and(hub()).to_ldif()) else { return };
    let asking = ours.asks(slapd.port());
    let found = asking.system(ASID, None).await.unwrap();
    assert_eq!((found.ods.as_str(), found.root.as_str()), (ODS, ROOT));
    assert_eq!(slapd.asked(1).await[0], format!("(&(objectClass=nhsAs)(uniqueIdentifier={ASID}))"));
    // What is known of an ASID goes before a hint.
    assert_eq!(asking.system(ASID, Some("Z99002")).await.unwrap().ods.as_str(), ODS);
    let fresh = ours.asks(slapd.port());
    let found = fresh.system(ASID, Some("Z99002")).await.unwrap();
    assert_eq!(found.ods.as_str(), ODS, "a hint that is wrong is not the last word");
    let fresh = ours.asks(slapd.port());
    assert_eq!(fresh.system("200000099999", None).await.unwrap_err(), Refusal::ReceiverUnknown);
    // A consumer is somebody, and not a receiver.
    assert_eq!(fresh.system(HUB, None).await.unwrap_err(), Refusal::ReceiverUnknown);
}

#[tokio::test]
async fn a_practice_that_changed_its_system_is_not_refused_for_what_is_held() {
    let ours = Ours::new();
    let Some(mut slapd) = ours.slapd(gp().to_ldif()) else { return };
    let asking = ours.asks(slapd.port());
    assert!(asking.practice(ODS, SLOT).await.is_ok());
    slapd.asked(3).await;
    let (new, root) = ("200000099077", "https://new.example.test/Z99001/STU3/1/gpconnect");
    let moved = Records::practice(ODS, new, "Z99001-770077", root, &[SLOT]);
    slapd.restart_with(&moved.to_ldif());
    assert_eq!(asking.system(new, Some(ODS)).await.unwrap().root.as_str(), root);
    assert_eq!(asking.practice(ODS, SLOT).await.unwrap().asid.as_str(), new);
}

#[tokio::test]
async fn a_sender_is_its_system_and_the_names_of_its_party_keys_handlers() {
    let ours = Ours::new();
    let second =
        Records::consumer("Z99012", "200000099012", "z99010-990010", "B.Example.test", &[]);
    let mut records = hub().and(second);
    records.accredited.truncate(1);
    records.accredited[0].interactions.extend([BOOK.to_owned(), "urn:nhs:names:other".to_owned()]);
    let Some(slapd) = ours.slapd(records.to_ldif()) else { return };
    let told = ours.asks(slapd.port()).sender(HUB).await.unwrap();
    let mut names = told.names.clone();
    names.sort();
    // The handlers are whoever's has the key, whatever the key's case and the name's.
    assert_eq!(names, ["b.example.test", "hub.example.test"]);
    assert_eq!((told.asid.as_str(), told.ods.as_str()), (HUB, "Z99010"));
    assert_eq!(told.interactions, [SLOT, BOOK]);
    let Some(slapd) = ours.slapd(FIXTURES) else { return };
    let told = ours.asks(slapd.port()).sender("200000099002").await.unwrap();
    assert_eq!((told.ods.as_str(), told.interactions), (ODS, vec![SLOT, BOOK]));
    assert_eq!(told.names, ["portal.example.test"]);
}

#[tokio::test]
async fn a_sender_without_handlers_has_no_names() {
    let ours = Ours::new();
    let mut records = hub();
    records.handlers.clear();
    let Some(slapd) = ours.slapd(records.to_ldif()) else { return };
    let told = ours.asks(slapd.port()).sender(HUB).await.unwrap();
    assert_eq!((told.names.len(), told.interactions), (0, vec![SLOT]));
}

#[tokio::test]
async fn a_sender_nobody_has_registered_is_unknown() {
    let ours = Ours::new();
    let Some(slapd) = ours.slapd(hub().to_ldif()) else { return };
    let asking = ours.asks(slapd.port());
    let nobody = "200000099999";
    for _ in 0..2 {
        let refused = asking.sender(nobody).await.unwrap_err();
        assert_eq!(refused, Refusal::SenderUnknown(asid(nobody)));
    }
    assert_eq!(asking.questions("systems", "absent"), 1, "an absence is believed for a while");
}

#[tokio::test]
async fn the_file_goes_before_the_server() {
    let ours = Ours::new();
    let Some(slapd) = ours.slapd(gp().and(hub()).to_ldif()) else { return };
    let pinned = format!(
        r#"
[[consumer]]
name = "Hub"
asids = ["{HUB}"]
certificate-names = ["pinned.example.test"]
ods = "Z99099"
interactions = ["{BOOK}"]
"#
    );
    let asking = ours.asks_with(slapd.port(), &pinned, |text| text);
    let told = asking.sender(HUB).await.unwrap();
    assert_eq!((told.ods.as_str(), told.interactions), ("Z99099", vec![BOOK]));
    assert_eq!(told.names, ["pinned.example.test"]);
    assert_eq!(asking.questions("systems", "found"), 0);
    // Who is not in the file is asked for.
    assert_eq!(asking.sender(ASID).await.unwrap().ods, ODS);
}

#[tokio::test]
async fn whom_the_file_denies_the_server_does_not_help() {
    let ours = Ours::new();
    let Some(slapd) = ours.slapd(gp().and(hub()).to_ldif()) else { return };
    let deny = format!("[[deny]]\nasids = [\"{HUB}\", \"{ASID}\"]\n");
    let asking = ours.asks_with(slapd.port(), &deny, |text| text);
    for denied in [HUB, ASID] {
        let refused = asking.sender(denied).await.unwrap_err();
        assert_eq!(refused, Refusal::SenderUnknown(asid(denied)));
    }
    for hint in [None, Some(ODS)] {
        assert_eq!(asking.system(ASID, hint).await.unwrap_err(), Refusal::ReceiverUnknown);
    }
    assert_eq!(asking.practice(ODS, SLOT).await.unwrap_err(), Refusal::PracticeUnknown);
    let deny = format!("[[deny]]\nods = [\"{ODS}\"]\n");
    let asking = ours.asks_with(slapd.port(), &deny, |text| text);
    assert_eq!(asking.practice(ODS, SLOT).await.unwrap_err(), Refusal::PracticeUnknown);
    assert_eq!(asking.system(ASID, None).await.unwrap_err(), Refusal::ReceiverUnknown);
    assert!(asking.sender(HUB).await.is_ok());
}

#[tokio::test]
async fn a_sender_that_is_gone_is_refused_as_soon_as_it_is_asked_for_again() {
    let ours = Ours::new();
    let Some(mut slapd) = ours.slapd(gp().and(hub()).to_ldif()) else { return };
    let never_fresh = |text: String| format!("{text}sender = \"0s\"\n");
    let strict = ours.asks_with(slapd.port(), "", never_fresh);
    let usual = ours.asks(slapd.port());
    let began_s = now_s();
    for asking in [&strict, &usual] {
        assert!(asking.sender(HUB).await.is_ok());
    }
    slapd.restart_with(&gp().to_ldif());
    let gone = Refusal::SenderUnknown(asid(HUB));
    assert_eq!(strict.sender(HUB).await.unwrap_err(), gone);
    // Five minutes later for who is fresh so long, and not a second sooner.
    assert!(usual.sender_at(HUB, began_s + 299).await.is_ok());
    assert_eq!(usual.sender_at(HUB, now_s() + 300).await.unwrap_err(), gone);
    slapd.stop();
    assert_eq!(strict.sender(HUB).await.unwrap_err(), gone);
}

#[tokio::test]
async fn in_an_outage_a_sender_is_served_for_an_hour_and_no_longer() {
    let ours = Ours::new();
    let Some(mut slapd) = ours.slapd(hub().to_ldif()) else { return };
    let asking = ours.asks(slapd.port());
    let before_s = now_s();
    assert!(asking.sender(HUB).await.is_ok());
    let after_s = now_s();
    slapd.stop();
    assert!(asking.sender_at(HUB, before_s + 301).await.is_ok());
    assert!(asking.sender_at(HUB, before_s + 3599).await.is_ok());
    let unavailable = Refusal::DirectoryUnavailable;
    assert_eq!(asking.sender_at(HUB, after_s + 3600).await.unwrap_err(), unavailable);
    assert_eq!(asking.sender_at(HUB, after_s + LATER_S).await.unwrap_err(), unavailable);
}

#[tokio::test]
async fn in_an_outage_a_practice_is_served_for_twelve_hours_and_an_unconfirmed_write_for_one() {
    let ours = Ours::new();
    let Some(mut slapd) = ours.slapd(gp().to_ldif()) else { return };
    let asking = ours.asks(slapd.port());
    let before_s = now_s();
    assert!(asking.practice(ODS, SLOT).await.is_ok());
    assert!(asking.practice(ODS, BOOK).await.is_ok());
    let after_s = now_s();
    slapd.stop();
    let unavailable = Refusal::DirectoryUnavailable;
    assert!(asking.practice_at(ODS, SLOT, before_s + 43_199).await.is_ok());
    let refused = asking.practice_at(ODS, SLOT, after_s + 43_200).await.unwrap_err();
    assert_eq!(refused, unavailable);
    assert!(asking.practice_at(ODS, BOOK, before_s + 3599).await.is_ok());
    let refused = asking.practice_at(ODS, BOOK, after_s + 3600).await.unwrap_err();
    assert_eq!(refused, unavailable);
    // Who names the root confirms it.
    let to = asid(ASID);
    let receiver = Receiver::System(&to, None);
    let confirmed = asking.directory.provider(receiver, named(BOOK), at(before_s + 43_199)).await;
    assert!(confirmed.is_ok());
}

#[tokio::test]
async fn an_answer_that_comes_in_the_next_second_is_one() {
    let ours = Ours::new();
    let Some(slapd) = ours.slapd(gp().and(hub()).to_ldif()) else { return };
    let asking = ours.asks(slapd.port());
    // Whoever asks read the clock before the question went out.
    let before_s = now_s() - 1;
    assert!(asking.sender_at(HUB, before_s).await.is_ok());
    assert!(asking.sender_at(HUB, before_s).await.is_ok());
    assert!(asking.practice_at(ODS, SLOT, before_s).await.is_ok());
    assert!(asking.practice_at(ODS, BOOK, before_s).await.is_ok());
    assert_eq!(asking.questions("systems", "found"), 2);
}

/// What a server with the practice and the consumer answers.
fn plain(search: &str) -> Act {
    Act::Answer(records(search), 0)
}

fn records(search: &str) -> Vec<Entry> {
    match () {
        () if search.contains("nhsAsSvcIA") && search.contains(HUB) => vec![system(HUB)],
        () if search.contains("nhsAsSvcIA") => vec![system(ASID)],
        () if search.contains("Z99010-990010") => vec![handler("urn:nhs:names:other")],
        () if search.contains(SLOT) => vec![handler(SLOT)],
        () => vec![handler(SLOT), handler(BOOK)],
    }
}

fn handler(interaction: &str) -> Entry {
    let (ods, key) =
        if interaction.contains("gpconnect") { (ODS, KEY) } else { ("Z99010", "Z99010-990010") };
    [
        ("nhsIDCode", ods),
        ("nhsMHSPartyKey", key),
        ("nhsMhsSvcIA", interaction),
        ("nhsMHSEndPoint", ROOT),
        ("nhsMhsFQDN", "gp.example.test"),
    ]
    .map(|(name, value)| (name, vec![value.to_owned()]))
    .to_vec()
}

fn system(asid: &str) -> Entry {
    let (ods, key) = if asid == HUB { ("Z99010", "Z99010-990010") } else { (ODS, KEY) };
    [("nhsIDCode", ods), ("nhsMHSPartyKey", key), ("nhsAsSvcIA", SLOT), ("uniqueIdentifier", asid)]
        .map(|(name, value)| (name, vec![value.to_owned()]))
        .to_vec()
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

/// The FHIR API first, then this server.
async fn beside_an_api(ours: &Ours, slapd: &Slapd, records: Records) -> (Registry, Directory) {
    let (folder, port) = (ours.folder.path().display(), slapd.port());
    let more = format!(
        "deadlines = {{ attempt = \"300ms\", waiting = \"2s\", spare = \"100ms\" }}\n\
         sds-ldap = {{ url = \"ldaps://localhost:{port}\", dial = \"127.0.0.1:{port}\", tls = {{ \
         certificate = {{ chain = \"{folder}/ours.pem\", key = \"{folder}/ours.key\" }}, \
         authorities = [\"{folder}/ca.pem\"], crl = \"none\" }} }}"
    );
    let registry = Registry::new(records, &more).await;
    let directory = registry.directory("");
    (registry, directory)
}

fn one() -> Records {
    Records::practice(ODS, ASID, KEY, ROOT, &[SLOT, BOOK])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_source_answers_where_the_first_does_not() {
    let ours = Ours::new();
    let Some(slapd) = ours.slapd(one().to_ldif()) else { return };
    for trouble in
        [Trouble::Status(503), Trouble::Silence, Trouble::TooMany(None), Trouble::Status(401)]
    {
        let (registry, directory) = beside_an_api(&ours, &slapd, one()).await;
        registry.sds.meets(None, trouble.clone());
        let found = registry.practice(&directory, ODS, SLOT).await;
        assert_eq!(found.unwrap().root.as_str(), ROOT, "{trouble:?}");
        let series = |source, outcome| {
            registry.counted(&format!(
                "directory_source_queries_total{{outcome=\"{outcome}\",question=\"handlers\",source=\"{source}\"}}"
            ))
        };
        registry.rests(&directory).await;
        assert_eq!(series("sds-ldap", "found"), 2, "{trouble:?}");
        assert_eq!(series("sds-api", "found"), 0, "{trouble:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_of_ours_is_not_put_to_the_second_source() {
    let ours = Ours::new();
    let Some(slapd) = ours.slapd(one().to_ldif()) else { return };
    let (registry, directory) = beside_an_api(&ours, &slapd, one()).await;
    registry.sds.meets(None, Trouble::Status(400));
    let refused = registry.practice(&directory, ODS, SLOT).await;
    assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_answer_of_the_api_is_settled_by_the_server_behind_it() {
    let ours = Ours::new();
    let Some(slapd) = ours.slapd(one().to_ldif()) else { return };
    let (registry, directory) = beside_an_api(&ours, &slapd, Records::default()).await;
    let found = registry.practice(&directory, ODS, SLOT).await;
    assert_eq!(found.unwrap().root.as_str(), ROOT, "the API was falsely empty");
    let refused = registry.practice(&directory, "Z99009", SLOT).await;
    assert_eq!(refused.unwrap_err(), Refusal::PracticeUnknown, "both say so");
    assert_eq!(registry.asked(), 2, "and the API is not asked twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_both_are_gone_what_was_seen_is_served() {
    let ours = Ours::new();
    let Some(mut slapd) = ours.slapd(one().to_ldif()) else { return };
    let (mut registry, directory) = beside_an_api(&ours, &slapd, one()).await;
    registry.practice(&directory, ODS, SLOT).await.unwrap();
    registry.rests(&directory).await;
    registry.closes().await;
    slapd.stop();
    registry.later_s(2 * 60 * 60);
    assert!(registry.practice(&directory, ODS, SLOT).await.is_ok());
    let refused = registry.practice(&directory, "Z99009", SLOT).await;
    assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_tells_half_is_no_better_than_one_that_tells_nothing() {
    let ours = Ours::new();
    let mut records = one();
    // The API has a 500 of its own for systems with two clients, and for good.
    records.accredited[0].clients = vec!["Z99001".to_owned(), "Z99005".to_owned()];
    let Some(slapd) = ours.slapd(records.to_ldif()) else { return };
    let (registry, directory) = beside_an_api(&ours, &slapd, records).await;
    let found = registry.practice(&directory, ODS, SLOT).await;
    assert_eq!(found.unwrap().root.as_str(), ROOT);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_an_answer_is_one_though_the_second_source_is_gone() {
    let ours = Ours::new();
    let Some(mut slapd) = ours.slapd(one().to_ldif()) else { return };
    let mut half = one();
    half.accredited.clear();
    let (registry, _) = beside_an_api(&ours, &slapd, half).await;
    slapd.stop();
    // The API knows of handlers and of no system: a fall-back stands in for no answer, and this is one.
    let fall_back = format!(
        "[[provider]]\nods = \"{ODS}\"\nasid = \"918999198111\"\nparty-key = \"Z99001-2\"\n\
         cpa-id = \"S1\"\nroot = \"{ROOT}\"\ninteractions = [\"appointments\"]\n\
         used = \"when-sources-fail\"\n"
    );
    let directory = registry.directory(&fall_back);
    for _ in 0..2 {
        let refused = registry.practice(&directory, ODS, SLOT).await;
        assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
    }
    registry.sds.meets(None, Trouble::Status(503));
    let directory = registry.directory(&fall_back);
    let found = registry.practice(&directory, ODS, SLOT).await;
    assert_eq!(found.unwrap().asid.as_str(), "918999198111", "no source answers at all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_a_day_old_authorises_no_sender() {
    let ours = Ours::new();
    let server = ours.fake().await;
    server.does(Act::Answer(Vec::new(), 51));
    for (age_s, served) in [(0, true), (30 * 60, true), (60 * 60, false), (86_400, false)] {
        let sender = serde_json::json!({
            "asid": HUB, "ods": "Z99010", "names": ["hub.example.test"], "interactions": [SLOT],
            "source": "sds-ldap", "answered_s": now_s() - age_s,
        });
        let here = format!("ldaps://localhost:{}", server.address.port());
        let held = serde_json::json!({
            "version": 2, "sources": {"sds-ldap": here}, "practices": [], "senders": [sender],
        });
        ours.put("held.json", &held.to_string());
        let asking = ours.asks(server.address.port());
        asking.directory.load(&ours.folder.path().join("held.json")).unwrap();
        let told = asking.sender(HUB).await;
        assert_eq!(told.is_ok(), served, "after {age_s} s: {told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_sds_alone_knows_is_served_under_its_registered_name() {
    let ours = Ours::new();
    let root = "https://provider.example.nhs.uk/A20047/STU3/1/gpconnect";
    let records = Records::practice("A20047", "918999198993", "A20047-1", root, &[SLOT, BOOK]);
    let hub = Records::consumer("A00001", stage::HUB, "A00001-1", "hub.example.nhs.uk", &[SLOT]);
    let Some(slapd) = ours.slapd(records.and(hub).to_ldif()) else { return };
    let (folder, port) = (ours.folder.path().display(), slapd.port());
    let stage = Stage::with(|files| {
        files.add(&format!(
            "[directory.sds-ldap]\nurl = \"ldaps://localhost:{port}\"\ndial = \"127.0.0.1:{port}\"\n\
             tls = {{ certificate = {{ chain = \"{folder}/ours.pem\", key = \"{folder}/ours.key\" }}, \
             authorities = [\"{folder}/ca.pem\"], crl = \"none\" }}"
        ));
        let to = "\nto = \"every-practice\"\n";
        files.put("directory.toml", &format!("[[agreement]]\nfrom = [\"{}\"]{to}", stage::HUB));
    })
    .await;
    assert_eq!(stage.hears(Call::slots()).await.status, 200);
    stage.refuses(Call::slots().certificate("clinic"), "certificate_not_senders").await;
    stage.refuses(Call::book(), "sender_not_registered").await;
    stage.refuses(Call::slots().set("Ssp-From", "200000000777"), "sender_unknown").await;
}
