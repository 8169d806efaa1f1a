//! The directory over LDAP: against a real server with mutual TLS, and against a server that misbehaves.
//!
//! Ages are judged by the time an asker brings, so that hours are played and not waited for.

use std::sync::Arc;

use gpconnect_simulator::pki::{IssuedCertificate, Leaf, Pki};
use gpconnect_simulator::sds::Records;
use spine_proxy::directory::{Directory, DirectorySettings, LiveSources};
use spine_proxy::metrics::Metrics;
use spine_proxy::refusal::Refusal;
use spine_proxy::registry::{DirectoryFile, OtherSources, ProviderRegistration};
use spine_proxy::tls::Loader;
use spine_types::interaction::{self, Interaction};
use spine_types::{Asid, OdsCode};
use tempfile::TempDir;

use testkit::fake_ldap::{Entry, FakeLdap};
use testkit::sds::{MovedClock, PAYER, by_asid, by_practice};
use testkit::slapd::{Setup, Slapd};
use testkit::stage::{counted, now_s, provider_tls};

mod beside_an_api;
mod misbehaving;
mod outages;
mod records;
mod senders;

const SLOT: &str = "urn:nhs:names:services:gpconnect:fhir:rest:search:slot-1";
const BOOK: &str = "urn:nhs:names:services:gpconnect:fhir:rest:create:appointment-1";
const ODS: &str = "Z99001";
const ASID: &str = "200000099001";
const KEY: &str = "Z99001-990001";
const ROOT: &str = "https://gp.example.test/Z99001/STU3/1/gpconnect";
const HUB: &str = "200000099010";

/// What every directory here is configured with.
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

    fn holds(&self, issued: &IssuedCertificate) {
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
        let settings: DirectorySettings = toml::from_str(&change(text)).unwrap();
        settings.check().unwrap();
        let live = LiveSources::load(&settings, &mut Loader::new(now_s())).unwrap();
        let file =
            DirectoryFile::parse(file, "directory.toml".as_ref(), OtherSources::Live).unwrap();
        let metrics = Arc::new(Metrics::new());
        let clock = MovedClock::default();
        let directory = Directory::new(file, live, &settings, clock.context(&metrics));
        Asking { directory, metrics, clock }
    }
}

/// A directory, and what it counted.
struct Asking {
    directory: Directory,
    metrics: Arc<Metrics>,
    clock: MovedClock,
}

impl Asking {
    /// Sets the directory's clock.
    fn is(&self, at_s: i64) -> &Self {
        self.clock.is_ahead_s(at_s - now_s());
        self
    }

    /// Form (b), without `Ssp-To`; a second later, so that no failure is remembered.
    async fn practice(&self, of: &str, for_: &str) -> Result<Arc<ProviderRegistration>, Refusal> {
        self.clock.passes_s(1);
        self.practice_now(of, for_).await
    }

    async fn practice_now(
        &self,
        of: &str,
        for_: &str,
    ) -> Result<Arc<ProviderRegistration>, Refusal> {
        let ods = ods(of);
        self.directory.provider(&by_practice(&ods, None), named(for_), PAYER).await
    }

    /// Form (a): the target suggests this practice, or none.
    async fn system(
        &self,
        asid: &str,
        hint: Option<&str>,
    ) -> Result<Arc<ProviderRegistration>, Refusal> {
        let (asid, hint) = (self::asid(asid), hint.map(ods));
        let receiver = &by_asid(&asid, hint.as_ref());
        self.clock.passes_s(1);
        self.directory.provider(receiver, named(SLOT), PAYER).await
    }

    async fn sender(&self, of: &str) -> Result<Told, Refusal> {
        self.clock.passes_s(1);
        self.sender_now(of).await
    }

    async fn sender_now(&self, of: &str) -> Result<Told, Refusal> {
        let sender = self.directory.sender(&asid(of), PAYER).await?;
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

    fn is_circuit_open(&self) -> bool {
        self.directory.sources_view().sources[0].circuit_open
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
