//! Environment of the demonstration: authorities, suppliers, practices, the directory and the proxy.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use jiff::Timestamp;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::super::certs::write;
use super::super::server_tls::{self, ClientAuthorities};
use super::slapd::{self, Slapd};
use gpconnect_simulator::pki::{IssuedCertificate, Leaf, Pki};
use gpconnect_simulator::sds::{BASE_PATH, Records, SdsDirectory};
use gpconnect_simulator::{ServeOptions, SimulatedPractice, SimulatedProvider};
use spine_types::interaction::AllowedInteractions;

use crate::failure::Failure;
use crate::server::{Prepared, Server};

/// ASID of the urgent care hub, the main consumer.
pub(super) const HUB: &str = "200000000359";
pub(super) const HUB_ODS: &str = "A00001";
/// ASID of the walk-in clinic, a consumer without an agreement and with one interaction.
pub(super) const CLINIC: &str = "200000000360";
pub(super) const CLINIC_ODS: &str = "A00002";
/// ASID of the out-of-hours service, a consumer registered and agreed with like the hub.
pub(super) const NIGHT: &str = "200000000362";
pub(super) const NIGHT_ODS: &str = "A00003";
const NIGHT_NAME: &str = "night.example.nhs.uk";
const HUB_NAME: &str = "hub.example.nhs.uk";
const CLINIC_NAME: &str = "clinic.example.nhs.uk";
const GATEWAY_NAME: &str = "gateway.ssp.example.nhs.uk";

/// Practice as the directory lists it.
pub(super) struct ListedPractice {
    pub(super) name: &'static str,
    pub(super) ods: &'static str,
    pub(super) asid: &'static str,
    supplier: usize,
    path: &'static str,
}

/// Hosts of the suppliers, one for each of the four principal kinds of GP system.
const SUPPLIERS: [&str; 4] = [
    "gpconnect.first-supplier.example.nhs.uk",
    "api.second-supplier.example.nhs.uk",
    "spine.third-supplier.example.nhs.uk",
    "gp.fourth-supplier.example.nhs.uk",
];

/// Practices of the demonstration; some share a host, and each supplier writes service roots in its own way.
pub(super) const PRACTICES: [ListedPractice; 5] = [
    listed("Harbour Street Surgery", "A20047", "918999198993", 0, "/A20047/STU3/1/gpconnect"),
    listed("Mill Lane Practice", "B82617", "918999198994", 0, "/B82617/STU3/1/gpconnect"),
    listed(
        "Castle Hill Medical Centre",
        "C81004",
        "918999198995",
        1,
        "/gpc/C81004/STU3/1/gpconnect",
    ),
    listed("The Orchard Surgery", "D83012", "918999198996", 2, "/D83012/STU3/1/GPConnect"),
    listed("Riverside Health Centre", "E84066", "918999198997", 3, "/E84066/STU3/1/gpconnect/fhir"),
];

/// Practice that the directory lists but whose system does not answer.
pub(super) const CLOSED: ListedPractice =
    listed("Closed for Good Surgery", "F85001", "918999198998", 4, "/F85001/STU3/1/gpconnect");
const NOBODY: &str = "gp.gone-supplier.example.nhs.uk";

const fn listed(
    name: &'static str,
    ods: &'static str,
    asid: &'static str,
    supplier: usize,
    path: &'static str,
) -> ListedPractice {
    ListedPractice { name, ods, asid, supplier, path }
}

impl ListedPractice {
    pub(super) fn host(&self) -> &'static str {
        SUPPLIERS.get(self.supplier).copied().unwrap_or(NOBODY)
    }

    pub(super) fn root(&self) -> String {
        format!("https://{}{}", self.host(), self.path)
    }
}

/// Kind of directory service that practices are looked up in.
#[derive(Debug, Clone, Copy)]
pub(super) enum Directories {
    /// Simulated SDS FHIR API.
    Api,
    /// `slapd` with the same records.
    Ldap,
}

/// Running environment of the demonstration.
pub(super) struct World {
    folder: PathBuf,
    server: Server,
    suppliers: CancellationToken,
    with: Directories,
    _slapd: Option<Slapd>,
}

impl World {
    /// Sets everything up inside `folder`, which is created.
    pub(super) async fn set_up(folder: &Path, with: Directories) -> Result<Self, Failure> {
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(folder)
            .with_context(|| format!("cannot create the folder {}", folder.display()))
            .map_err(Failure::Environment)?;
        let suppliers = CancellationToken::new();
        let (config, slapd) =
            prepare(folder, with, &suppliers).await.map_err(Failure::Environment)?;
        let server = Server::start(Prepared::load(&config, 1)?, Some(config))?;
        Ok(Self { folder: folder.to_owned(), server, suppliers, with, _slapd: slapd })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.server.addresses.first().copied().unwrap_or(self.server.admin)
    }

    /// Returns the token that an unregistered certificate is refused with: LDAP cannot be searched for a
    /// name, so there the certificate is not known to be unregistered.
    pub(super) const fn strangers_token(&self) -> &'static str {
        match self.with {
            Directories::Api => "certificate_unknown",
            Directories::Ldap => "certificate_not_senders",
        }
    }

    /// Returns the token that a target under another practice's root than that of `Ssp-To` is refused with.
    ///
    /// The API cannot be searched for an ASID, so there the receiver is sought at that other practice only.
    pub(super) const fn other_roots_token(&self) -> &'static str {
        match self.with {
            Directories::Api => "receiver_not_found",
            Directories::Ldap => "target_not_receivers",
        }
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Stops the proxy, then the suppliers.
    pub(super) async fn take_down(self) {
        self.server.stop().await;
        self.suppliers.cancel();
    }

    /// Returns commands to try next, which work as printed while the demonstration runs.
    pub(super) fn invitation(&self) -> Result<String, Failure> {
        let program = std::env::current_exe()?;
        let (program, folder) = (program.display(), self.folder.display());
        let (address, admin) = (self.address(), self.server.admin);
        let [practice, ..] = &PRACTICES;
        let (root, asid, ods) = (practice.root(), practice.asid, practice.ods);
        let today = Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
        let until = today.saturating_add(jiff::Span::new().days(13));
        let slots = format!("status=free&start=ge{today}&end=le{until}&_include=Slot:schedule");
        let curl = format!(
            "curl --path-as-is --cacert {folder}/ca.pem --cert {folder}/hub.pem --key {folder}/hub.key"
        );
        let headers = |interaction: &str| {
            format!(
                "  -H 'Ssp-TraceID: '$(cat /proc/sys/kernel/random/uuid) -H 'Ssp-From: {HUB}' -H 'Ssp-To: {asid}' \\\n  -H 'Ssp-InteractionID: {interaction}' \\\n  -H \"Authorization: Bearer $({program} token --audience {root} --ods {HUB_ODS} --interaction {interaction})\""
            )
        };
        let interaction = "urn:nhs:names:services:gpconnect:fhir:rest:search:slot-1";
        let metadata = "urn:nhs:names:services:gpconnect:fhir:rest:read:metadata-1";
        Ok(format!(
            "\nThe proxy is still running. Try it yourself; Ctrl-C ends it and removes {folder}.\n\n\
             # Free slots at {}, by its service root\n{curl} \\\n{} \\\n  'https://{address}/{root}/Slot?{slots}'\n\n\
             # The same practice by its ODS code\n{curl} \\\n{} \\\n  'https://{address}/{ods}/STU3/1/gpconnect/metadata'\n\n\
             # No client certificate: 496\ncurl -i --path-as-is --cacert {folder}/ca.pem 'https://{address}/{root}/metadata'\n\n\
             # A look-up of this practice, and the directory cache\n{program} lookup --config {folder}/spine-proxy.toml {ods}\ncurl -H \"Authorization: Bearer $(cat {folder}/admin.token)\" http://{admin}/directory\n\n\
             # Metrics, readiness, audit journal\ncurl http://{admin}/metrics\ncurl http://{admin}/readyz\n{program} audit query {folder}/audit\n{program} audit verify {folder}/audit\n",
            practice.name,
            headers(interaction),
            headers(metadata),
        ))
    }
}

/// Writes every file and starts the suppliers and the directory service; returns the configuration's path.
async fn prepare(
    folder: &Path,
    with: Directories,
    stop: &CancellationToken,
) -> anyhow::Result<(PathBuf, Option<Slapd>)> {
    let pki = Pki::new(Timestamp::now().as_second())?;
    let put = |name: &str, text: &str| write(&folder.join(name), text);
    put("ca.pem", &pki.authority())?;
    put("crl.pem", &pki.revocation_lists(&[], 30)?)?;
    let names = ["ssp.example.nhs.uk", "localhost", "127.0.0.1"].map(str::to_owned).to_vec();
    let leaves = [
        ("server", Leaf { names, ..Leaf::named("ssp.example.nhs.uk") }),
        ("gateway", Leaf::named(GATEWAY_NAME)),
        ("hub", Leaf::named(HUB_NAME)),
        ("clinic", Leaf::named(CLINIC_NAME)),
        ("night", Leaf::named(NIGHT_NAME)),
        ("stranger", Leaf::named("stranger.example.nhs.uk")),
    ];
    for (file, leaf) in leaves {
        let issued = pki.issue(&leaf)?;
        put(&format!("{file}.pem"), &issued.chain)?;
        put(&format!("{file}.key"), &issued.key)?;
    }
    let mut addresses = Vec::new();
    for (number, host) in SUPPLIERS.iter().enumerate() {
        let tls = tls(&pki.issue(&Leaf::named(host))?, Some(&pki))?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        addresses.push(listener.local_addr()?);
        let practices = PRACTICES.iter().filter(|listed| listed.supplier == number);
        let practices = practices.map(practice).collect::<anyhow::Result<_>>()?;
        let provider = Arc::new(SimulatedProvider::new(practices, Timestamp::now()));
        let serving = ServeOptions { tls: Some(tls), ..ServeOptions::default() };
        tokio::spawn(provider.serve(listener, serving, stop.clone().cancelled_owned()));
    }
    put("directory.toml", &directory())?;
    put("admin.token", &uuid::Uuid::new_v4().simple().to_string())?;
    let (slapd, source) = match with {
        Directories::Api => (None, api(&pki, folder, stop).await?),
        Directories::Ldap => {
            let (slapd, source) = slapd::start(&pki, folder, &records()?)?;
            (Some(slapd), source)
        }
    };
    let config = folder.join("spine-proxy.toml");
    write(&config, &format!("{CONFIG}{source}\n[provider.hosts]\n{}", hosts(&addresses)))?;
    Ok((config, slapd))
}

/// Starts the simulated SDS FHIR API; returns the configuration section that names it.
async fn api(pki: &Pki, folder: &Path, stop: &CancellationToken) -> anyhow::Result<String> {
    let key = uuid::Uuid::new_v4().to_string();
    write(&folder.join("sds.key"), &key)?;
    let tls = tls(&pki.issue(&Leaf::named("localhost"))?, None)?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    let sds = SdsDirectory::new(records()?, Some(key));
    tokio::spawn(sds.serve(listener, tls, stop.clone().cancelled_owned()));
    Ok(format!(
        "[directory.sds-api]\nurl = \"https://localhost:{port}{BASE_PATH}\"\nkey-file = \"sds.key\"\n\
         tls = {{ authorities = [\"ca.pem\"], crl = \"none\" }}\n"
    ))
}

/// Returns the records of all practices, as SDS would hold them.
fn records() -> anyhow::Result<Records> {
    let groups = AllowedInteractions::from_names(AllowedInteractions::DEFAULT)
        .map_err(anyhow::Error::msg)?;
    let interactions: Vec<&str> = groups.iter().map(|interaction| interaction.id).collect();
    let listed = PRACTICES.iter().chain([&CLOSED]);
    Ok(listed.fold(Records::default(), |records, listed| {
        let party_key = format!("{}-1000001", listed.ods);
        let root = listed.root();
        records.and(Records::practice(listed.ods, listed.asid, &party_key, &root, &interactions))
    }))
}

/// Returns lines for `[provider.hosts]` with the suppliers' addresses, which are not in DNS.
fn hosts(addresses: &[SocketAddr]) -> String {
    let closed = SocketAddr::from(([127, 0, 0, 1], 1));
    let hosts = SUPPLIERS.into_iter().zip(addresses).chain([(NOBODY, &closed)]);
    hosts.map(|(host, address)| format!("\"{host}\" = \"{address}\"\n")).collect()
}

fn practice(listed: &ListedPractice) -> anyhow::Result<SimulatedPractice> {
    Ok(SimulatedPractice::new(listed.ods.parse()?, listed.asid.parse()?, listed.name, listed.path))
}

/// Builds the TLS configuration of a simulated server; with `clients`, it demands a certificate of that
/// authority.
fn tls(issued: &IssuedCertificate, clients: Option<&Pki>) -> anyhow::Result<Arc<ServerConfig>> {
    let chain =
        CertificateDer::pem_slice_iter(issued.chain.as_bytes()).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes())?;
    let clients = clients.map(|pki| {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(pki.authority().as_bytes())?)?;
        anyhow::Ok(ClientAuthorities { roots, lists: Vec::new(), must: true })
    });
    server_tls::config(chain, key, clients.transpose()?)
}

/// Returns the directory file, with what no directory service holds: consumers, their certificates and the
/// agreement.
fn directory() -> String {
    format!(
        "[[consumer]]\nname = \"Urgent care hub\"\nasids = [\"{HUB}\"]\ncertificate-names = [\"{HUB_NAME}\"]\n\
         ods = \"{HUB_ODS}\"\ninteractions = [\"appointments\", \"foundations\"]\n\n\
         [[consumer]]\nname = \"Walk-in clinic\"\nasids = [\"{CLINIC}\"]\ncertificate-names = [\"{CLINIC_NAME}\"]\n\
         ods = \"{CLINIC_ODS}\"\ninteractions = [\"urn:nhs:names:services:gpconnect:fhir:rest:search:slot-1\"]\n\n\
         [[consumer]]\nname = \"Out-of-hours service\"\nasids = [\"{NIGHT}\"]\ncertificate-names = [\"{NIGHT_NAME}\"]\n\
         ods = \"{NIGHT_ODS}\"\ninteractions = [\"appointments\", \"foundations\"]\n\n\
         [[agreement]]\nfrom = [\"{HUB}\", \"{NIGHT}\"]\nto = \"every-practice\"\n"
    )
}

const CONFIG: &str = r#"# The demonstration's proxy.
[listener]
addresses = ["127.0.0.1:0"]
names = ["ssp.example.nhs.uk", "localhost", "127.0.0.1"]
proxy-name = "spine-proxy-demo"

[tls]
certificates = [{ chain = "server.pem", key = "server.key" }]
authorities = ["ca.pem"]
crl = ["crl.pem"]

[provider]
networks = ["127.0.0.0/8"]

[provider-tls]
certificate = { chain = "gateway.pem", key = "gateway.key" }
authorities = ["ca.pem"]
crl = ["crl.pem"]

[directory]
file = "directory.toml"
snapshot = "directory-snapshot.json"

[audit]
journal = "audit"

[admin]
address = "127.0.0.1:0"
token-file = "admin.token"

"#;
