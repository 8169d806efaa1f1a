//! The demonstration's world: authorities, suppliers, practices, the directory, the proxy.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use jiff::Timestamp;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::super::certs::{Issued, Leaf, Pki, write};
use super::super::serve::Server;
use super::super::{Failure, Prepared};
use crate::simulator::{Practice, Provider};

/// The consumer of the play.
pub(super) const HUB: &str = "200000000359";
pub(super) const HUB_ODS: &str = "A00001";
/// Registered, but without an agreement and for few interactions.
pub(super) const CLINIC: &str = "200000000360";
pub(super) const CLINIC_ODS: &str = "A00002";
const HUB_NAME: &str = "hub.example.nhs.uk";
const CLINIC_NAME: &str = "clinic.example.nhs.uk";
const GATEWAY_NAME: &str = "gateway.ssp.example.nhs.uk";

/// A practice as the directory lists it.
pub(super) struct Listed {
    pub(super) name: &'static str,
    pub(super) ods: &'static str,
    pub(super) asid: &'static str,
    supplier: usize,
    path: &'static str,
}

/// Suppliers' hosts: one for each of the four principal kinds of GP system.
const SUPPLIERS: [&str; 4] = [
    "gpconnect.first-supplier.example.nhs.uk",
    "api.second-supplier.example.nhs.uk",
    "spine.third-supplier.example.nhs.uk",
    "gp.fourth-supplier.example.nhs.uk",
];

/// Practices: some share a host, and no two suppliers write their roots alike.
pub(super) const PRACTICES: [Listed; 5] = [
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

/// Listed in the directory, but nobody answers there.
pub(super) const CLOSED: Listed =
    listed("Closed for Good Surgery", "F85001", "918999198998", 3, "/F85001/STU3/1/gpconnect");

const fn listed(
    name: &'static str,
    ods: &'static str,
    asid: &'static str,
    supplier: usize,
    path: &'static str,
) -> Listed {
    Listed { name, ods, asid, supplier, path }
}

impl Listed {
    pub(super) fn host(&self) -> &'static str {
        SUPPLIERS.get(self.supplier).copied().unwrap_or_default()
    }

    pub(super) fn root(&self) -> String {
        format!("https://{}{}", self.host(), self.path)
    }
}

/// Everything that is up.
pub(super) struct World {
    folder: PathBuf,
    server: Server,
    suppliers: CancellationToken,
}

impl World {
    /// Sets everything up inside `folder`, which is made.
    pub(super) async fn set_up(folder: &Path) -> Result<Self, Failure> {
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(folder)
            .with_context(|| folder.display().to_string())
            .map_err(Failure::World)?;
        let suppliers = CancellationToken::new();
        let config = prepare(folder, &suppliers).await.map_err(Failure::World)?;
        let server = Server::start(Prepared::load(&config, 1)?, Some(config))?;
        Ok(Self { folder: folder.to_owned(), server, suppliers })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.server.addresses.first().copied().unwrap_or(self.server.admin)
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Stops the proxy, then the suppliers.
    pub(super) async fn take_down(self) {
        self.server.stop().await;
        self.suppliers.cancel();
    }

    /// What to try next, as commands that work as printed for as long as the demonstration is up.
    pub(super) fn invitation(&self) -> Result<String, Failure> {
        let program = std::env::current_exe().map_err(Failure::world)?;
        let (program, folder) = (program.display(), self.folder.display());
        let address = self.address();
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
            "\nStill up. Try it yourself; Ctrl-C ends it and removes {folder}.\n\n\
             # Free slots at {}, by its service root\n{curl} \\\n{} \\\n  'https://{address}/{root}/Slot?{slots}'\n\n\
             # The same practice by its ODS code\n{curl} \\\n{} \\\n  'https://{address}/{ods}/STU3/1/gpconnect/metadata'\n\n\
             # No client certificate: 496\ncurl -i --path-as-is --cacert {folder}/ca.pem 'https://{address}/{root}/metadata'\n\n\
             # Metrics, readiness, records\ncurl http://{}/metrics\ncurl http://{}/readyz\ntail -f {folder}/audit.jsonl\n",
            practice.name,
            headers(interaction),
            headers(metadata),
            self.server.admin,
            self.server.admin,
        ))
    }
}

/// Writes every file of the world and starts its suppliers; answers with the configuration's path.
async fn prepare(folder: &Path, stop: &CancellationToken) -> anyhow::Result<PathBuf> {
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
        ("stranger", Leaf::named("stranger.example.nhs.uk")),
    ];
    for (file, leaf) in leaves {
        let issued = pki.issue(&leaf)?;
        put(&format!("{file}.pem"), &issued.chain)?;
        put(&format!("{file}.key"), &issued.key)?;
    }
    let mut addresses = Vec::new();
    for (number, host) in SUPPLIERS.iter().enumerate() {
        let tls = supplier_tls(&pki, &pki.issue(&Leaf::named(host))?)?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        addresses.push(listener.local_addr()?);
        let practices = PRACTICES.iter().filter(|listed| listed.supplier == number);
        let practices = practices.map(practice).collect::<anyhow::Result<_>>()?;
        let provider = Arc::new(Provider::new(practices, Timestamp::now()));
        tokio::spawn(provider.serve(listener, tls, stop.clone().cancelled_owned()));
    }
    put("directory.toml", &directory(&addresses))?;
    let config = folder.join("spine-proxy.toml");
    write(&config, CONFIG)?;
    Ok(config)
}

fn practice(listed: &Listed) -> anyhow::Result<Practice> {
    Ok(Practice {
        ods: listed.ods.parse()?,
        asid: listed.asid.parse()?,
        name: listed.name.to_owned(),
        base_path: listed.path.to_owned(),
    })
}

/// A supplier demands a certificate of the proxy's authority.
fn supplier_tls(pki: &Pki, issued: &Issued) -> anyhow::Result<Arc<ServerConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pki.authority().as_bytes())?)?;
    let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let proxies = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&crypto))
        .build()?;
    let chain =
        CertificateDer::pem_slice_iter(issued.chain.as_bytes()).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes())?;
    let config = ServerConfig::builder_with_provider(crypto)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(proxies)
        .with_single_cert(chain, key)?;
    Ok(Arc::new(config))
}

fn directory(addresses: &[SocketAddr]) -> String {
    let mut text = format!(
        "[[consumer]]\nname = \"Urgent care hub\"\nasids = [\"{HUB}\"]\ncertificate-names = [\"{HUB_NAME}\"]\n\
         ods = \"{HUB_ODS}\"\ninteractions = [\"appointments\", \"foundations\"]\n\n\
         [[consumer]]\nname = \"Walk-in clinic\"\nasids = [\"{CLINIC}\"]\ncertificate-names = [\"{CLINIC_NAME}\"]\n\
         ods = \"{CLINIC_ODS}\"\ninteractions = [\"urn:nhs:names:services:gpconnect:fhir:rest:search:slot-1\"]\n\n"
    );
    let closed = SocketAddr::from(([127, 0, 0, 1], 1));
    for (number, listed) in PRACTICES.iter().chain([&CLOSED]).enumerate() {
        let dial = match listed.ods == CLOSED.ods {
            true => Some(&closed),
            false => addresses.get(listed.supplier),
        };
        let dial = dial.map(ToString::to_string).unwrap_or_default();
        writeln!(
            text,
            "[[provider]] # {}\nods = \"{}\"\nasid = \"{}\"\nparty-key = \"{}-100000{number}\"\n\
             cpa-id = \"S00000000000{number}\"\nroot = \"{}\"\n\
             interactions = [\"appointments\", \"foundations\"]\ndial = \"{dial}\"\n",
            listed.name,
            listed.ods,
            listed.asid,
            listed.ods,
            listed.root(),
        )
        .unwrap_or_default();
    }
    writeln!(text, "[[agreement]]\nfrom = [\"{HUB}\"]\nto = \"every-practice\"")
        .unwrap_or_default();
    text
}

const CONFIG: &str = r#"# The demonstration's proxy.
[listener]
addresses = ["127.0.0.1:0"]
names = ["ssp.example.nhs.uk", "localhost", "127.0.0.1"]

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

[audit]
journal = "audit.jsonl"

[admin]
address = "127.0.0.1:0"
"#;
