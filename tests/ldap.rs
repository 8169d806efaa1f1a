//! The directory over LDAP: against a real server with mutual TLS, and against a server that misbehaves.
//!
//! Tests set the clock by which ages are computed, so that none waits for hours.

use std::sync::Arc;

use gpconnect_simulator::pki::{IssuedCertificate, Leaf, Pki};
use gpconnect_simulator::sds::Records;
use spine_proxy::directory::{Directory, DirectoryContext, DirectorySettings, LiveSources};
use spine_proxy::metrics::Metrics;
use spine_proxy::refusal::Refusal;
use spine_proxy::registry::{DirectoryFile, OtherSources, ProviderRegistration};
use spine_proxy::tls::Loader;
use spine_types::interaction::{self, Interaction};
use spine_types::{Asid, OdsCode};
use tempfile::TempDir;

use testkit::fake_ldap::{Entry, FakeLdap};
use testkit::sds::{PAYER, TestClock, by_asid, by_practice};
use testkit::slapd::{SlapdProcess, SlapdSettings};
use testkit::test_bed::{metric, now_s, provider_tls};

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

/// Settings of every directory in these tests.
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

/// A PKI, and the folder with the gateway's certificate and the authorities that it trusts.
struct LdapPki {
    folder: TempDir,
    pki: Pki,
}

impl LdapPki {
    fn new() -> Self {
        let pki = Pki::new(now_s()).unwrap();
        let ours = Self { folder: tempfile::tempdir().unwrap(), pki };
        ours.use_certificate(&ours.pki.issue(&Leaf::named("gateway.example.test")).unwrap());
        ours.put("ca.pem", &ours.pki.authority());
        ours
    }

    fn use_certificate(&self, issued: &IssuedCertificate) {
        self.put("ours.pem", &issued.chain);
        self.put("ours.key", &issued.key);
    }

    fn put(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    /// Starts a real LDAP server with these records.
    fn slapd(&self, ldif: impl Into<String>) -> Option<SlapdProcess> {
        SlapdProcess::start(&SlapdSettings::new(&self.pki, ldif))
    }

    async fn fake(&self) -> FakeLdap {
        let issued = self.pki.issue(&Leaf::named("localhost")).unwrap();
        FakeLdap::start(provider_tls(&self.pki, &issued)).await
    }

    /// Returns a directory with an empty cache that queries the server at this port.
    fn directory(&self, port: u16) -> LdapDirectory {
        self.directory_with(port, "", |text| text)
    }

    /// Returns a directory with an empty cache, a directory file and changed settings.
    fn directory_with(
        &self,
        port: u16,
        file: &str,
        change: impl FnOnce(String) -> String,
    ) -> LdapDirectory {
        let metrics = Arc::new(Metrics::new());
        let clock = TestClock::default();
        let directory = self.directory_in(clock.context(&metrics), port, file, change);
        LdapDirectory { directory, metrics, clock }
    }

    fn directory_in(
        &self,
        context: DirectoryContext,
        port: u16,
        file: &str,
        change: impl FnOnce(String) -> String,
    ) -> Directory {
        let text = SETTINGS.replace("@port@", &port.to_string());
        let text = text.replace("@folder@", self.folder.path().to_str().unwrap());
        let settings: DirectorySettings = toml::from_str(&change(text)).unwrap();
        settings.check().unwrap();
        let live = LiveSources::load(&settings, &mut Loader::new(now_s())).unwrap();
        let file =
            DirectoryFile::parse(file, "directory.toml".as_ref(), OtherSources::Live).unwrap();
        Directory::new(file, live, &settings, context)
    }
}

/// A directory, with its metrics and its clock.
struct LdapDirectory {
    directory: Directory,
    metrics: Arc<Metrics>,
    clock: TestClock,
}

impl LdapDirectory {
    /// Sets the directory's clock.
    fn set_clock_s(&self, at_s: i64) -> &Self {
        self.clock.set_ahead_s(at_s - now_s());
        self
    }

    /// Looks up a practice, as form (b) without `Ssp-To`, a second later, when a failure has expired.
    async fn look_up(&self, of: &str, for_: &str) -> Result<Arc<ProviderRegistration>, Refusal> {
        self.clock.advance_s(1);
        self.look_up_now(of, for_).await
    }

    async fn look_up_now(
        &self,
        of: &str,
        for_: &str,
    ) -> Result<Arc<ProviderRegistration>, Refusal> {
        let ods = ods(of);
        self.directory.provider(&by_practice(&ods, None), named(for_), PAYER).await
    }

    /// Looks up a system, as form (a) with a target that suggests this practice or none.
    async fn system(
        &self,
        asid: &str,
        hint: Option<&str>,
    ) -> Result<Arc<ProviderRegistration>, Refusal> {
        let (asid, hint) = (self::asid(asid), hint.map(ods));
        let receiver = &by_asid(&asid, hint.as_ref());
        self.clock.advance_s(1);
        self.directory.provider(receiver, named(SLOT), PAYER).await
    }

    async fn sender(&self, of: &str) -> Result<SenderText, Refusal> {
        self.clock.advance_s(1);
        self.sender_now(of).await
    }

    async fn sender_now(&self, of: &str) -> Result<SenderText, Refusal> {
        let sender = self.directory.sender(&asid(of), PAYER).await?;
        Ok(SenderText {
            asid: sender.asid.to_string(),
            ods: sender.ods.to_string(),
            names: sender.names.iter().map(ToString::to_string).collect(),
            interactions: sender.interactions.iter().map(|held| held.id).collect(),
        })
    }

    /// Asserts that look-ups by practice, system and sender are all refused as unavailable.
    async fn assert_unavailable(&self, what: &str) {
        let unavailable = Refusal::DirectoryUnavailable;
        assert_eq!(self.look_up(ODS, SLOT).await.unwrap_err(), unavailable, "{what}");
        assert_eq!(self.system(ASID, None).await.unwrap_err(), unavailable, "{what}");
        assert_eq!(self.sender(HUB).await.unwrap_err(), unavailable, "{what}");
    }

    /// Number of queries of a kind with an outcome.
    fn query_count(&self, question: &str, outcome: &str) -> u64 {
        let labels = format!(r#"{{outcome="{outcome}",question="{question}",source="sds-ldap"}}"#);
        metric(&self.metrics, &format!("directory_source_queries_total{labels}"))
    }

    fn is_circuit_open(&self) -> bool {
        self.directory.sources_view().sources[0].circuit_open
    }
}

/// A sender as text.
#[derive(Debug, PartialEq, Eq)]
struct SenderText {
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

/// Records of the practice.
fn gp() -> Records {
    Records::practice(ODS, ASID, KEY, ROOT, &[SLOT, BOOK])
}

/// Records of a consumer at another organisation.
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
