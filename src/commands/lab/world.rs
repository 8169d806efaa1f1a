//! Environment of a lab: authorities, consumers, practices, the directory and the proxy.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::certs::{EXPIRED, NOT_YET_VALID, revoke, write, write_authority, write_issued};
use super::super::server_tls::{self, ClientAuthorities};
use super::super::signals::StopSignals;
use super::settings::{LabConsumer, LabDirectory, LabPractice, LabSettings};
use super::slapd::{self, Slapd};
use super::tokens::TokenFiles;
use gpconnect_simulator::pki::{IssuedCertificate, Leaf, Pki};
use gpconnect_simulator::sds::{BASE_PATH, Records, SdsDirectory};
use gpconnect_simulator::{Seed, ServeOptions, SimulatedPractice, SimulatedProvider};
use spine_types::interaction::AllowedInteractions;

use crate::failure::Failure;
use crate::server::{Prepared, Server};
use crate::traffic::Traffic;

const GATEWAY_NAME: &str = "gateway.ssp.example.nhs.uk";
/// Name that no consumer is registered with.
const STRANGER_NAME: &str = "stranger.example.nhs.uk";
/// Names of the files of certificates to be refused with.
const REVOKED: &str = "revoked";
const WITHOUT_SUB_AUTHORITY: &str = "without-sub-authority";

/// Function that is called with each step of setting up.
pub(in crate::commands) type Progress<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// Running environment, which stops when it is taken down.
pub(in crate::commands) struct Lab {
    pub(super) folder: PathBuf,
    pub(super) settings: LabSettings,
    pub(super) server: Server,
    /// Address of the simulated practices without TLS.
    pub(super) control: SocketAddr,
    simulated: CancellationToken,
    /// Task that renews the token files.
    renewal: JoinHandle<()>,
    _slapd: Option<Slapd>,
}

impl Lab {
    /// Sets everything up as [`Lab::set_up`] does.
    ///
    /// # Errors
    /// Returns an error also if a signal comes before everything is there.
    pub(in crate::commands) async fn set_up_until(
        signals: &mut StopSignals,
        folder: &Path,
        settings: LabSettings,
        progress: Progress<'_>,
    ) -> Result<Self, Failure> {
        tokio::select! {
            lab = Self::set_up(folder, settings, progress) => lab,
            () = signals.received() => {
                Err(Failure::Environment(anyhow::anyhow!("stopped by a signal before everything was set up")))
            }
        }
    }

    /// Sets everything up inside `folder`, which must not exist or be empty; `progress` is called with each step.
    pub(in crate::commands) async fn set_up(
        folder: &Path,
        mut settings: LabSettings,
        progress: Progress<'_>,
    ) -> Result<Self, Failure> {
        let simulated = CancellationToken::new();
        let LabSockets { consumers, admin, control } =
            LabSockets::bind(&settings).map_err(Failure::Environment)?;
        // The configuration then has the ports, for the commands that read it.
        (settings.address, settings.admin) = (consumers.local_addr()?, admin.local_addr()?);
        create(folder).map_err(Failure::Environment)?;
        let written = prepare(folder, &settings, control, (&simulated, progress)).await;
        let WrittenLab { config, control, slapd } = written.map_err(Failure::Environment)?;
        progress("starting the proxy");
        let server =
            Server::start_on(vec![consumers, admin], Prepared::load(&config, 1)?, Some(config))?;
        let tokens = TokenFiles::create(folder, &settings).map_err(Failure::Environment)?;
        let renewal = tokio::spawn(tokens.renew(simulated.clone()));
        let folder = folder.to_owned();
        Ok(Self { folder, settings, server, control, simulated, renewal, _slapd: slapd })
    }

    pub(in crate::commands) fn address(&self) -> SocketAddr {
        self.server.addresses.first().copied().unwrap_or(self.server.admin)
    }

    pub(in crate::commands) const fn admin(&self) -> SocketAddr {
        self.server.admin
    }

    /// Returns the traffic of the proxy.
    pub(in crate::commands) fn traffic(&self) -> &Traffic {
        self.server.trail.traffic()
    }

    /// Returns the folder of the journal, once everything that has ended is written.
    ///
    /// # Errors
    /// Returns an error if the journal cannot be written.
    pub(in crate::commands) async fn flushed_journal(&self) -> Result<PathBuf, Failure> {
        self.server.trail.flush().await.map_err(Failure::environment)?;
        Ok(self.server.trail.folder().to_owned())
    }

    pub(in crate::commands) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Stops the proxy, then the simulated systems; nothing is written afterwards. A further signal cuts the exchanges
    /// in flight off.
    pub(in crate::commands) async fn take_down(self, signals: &mut StopSignals) {
        let cut = self.server.cut();
        let mut stopping = std::pin::pin!(self.server.stop());
        tokio::select! {
            () = &mut stopping => {}
            () = signals.received() => {
                cut.cancel();
                stopping.await;
            }
        }
        self.simulated.cancel();
        if let Err(error) = self.renewal.await {
            tracing::error!(%error, "the renewal of the tokens has failed");
        }
    }
}

/// Files of a lab, and what has been started for it.
struct WrittenLab {
    /// Path of the proxy's configuration.
    config: PathBuf,
    control: SocketAddr,
    slapd: Option<Slapd>,
}

/// Sockets of a lab whose addresses the settings name.
struct LabSockets {
    consumers: std::net::TcpListener,
    admin: std::net::TcpListener,
    control: TcpListener,
}

impl LabSockets {
    /// Binds the sockets.
    fn bind(settings: &LabSettings) -> anyhow::Result<Self> {
        let bind = |address| {
            std::net::TcpListener::bind(address)
                .with_context(|| format!("cannot listen on {address}"))
        };
        let control = bind(settings.control)?;
        control.set_nonblocking(true)?;
        Ok(Self {
            consumers: bind(settings.address)?,
            admin: bind(settings.admin)?,
            control: TcpListener::from_std(control)?,
        })
    }
}

/// Creates a folder, or takes an empty one of this user, and lets only the owner read it.
fn create(folder: &Path) -> anyhow::Result<()> {
    let cannot = || format!("cannot create the folder {}", folder.display());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(cannot)?;
    let is_empty = folder.read_dir().with_context(cannot)?.next().is_none();
    ensure!(is_empty, "{} is not empty: name a folder that does not exist yet", folder.display());
    let cannot = || format!("cannot protect the folder {}", folder.display());
    std::fs::set_permissions(folder, Permissions::from_mode(0o700)).with_context(cannot)
}

/// Writes every file, and starts the simulated practices and the directory service.
async fn prepare(
    folder: &Path,
    settings: &LabSettings,
    listener: TcpListener,
    (stop, progress): (&CancellationToken, Progress<'_>),
) -> anyhow::Result<WrittenLab> {
    progress("making certificates");
    let pki = write_pki(folder, settings).await?;
    let practices = settings.practices.iter().filter(|practice| practice.answers);
    let practices = practices.map(simulated).collect::<anyhow::Result<Vec<_>>>()?;
    progress(&format!("starting {} practices", practices.len()));
    let provider = Arc::new(SimulatedProvider::new(practices, Timestamp::now()));
    let hosts = listen(settings, &pki, &provider, stop).await?;
    let control = listener.local_addr()?;
    let stopped = stop.clone().cancelled_owned();
    tokio::spawn(provider.serve(listener, ServeOptions::default(), stopped));
    let put = |name: &str, text: &str| write(&folder.join(name), text);
    put("directory.toml", &directory_file(settings))?;
    put("admin.token", &uuid::Uuid::new_v4().simple().to_string())?;
    progress("starting the directory service");
    let (slapd, source) = match settings.directory {
        LabDirectory::SdsApi => (None, api(&pki, folder, settings, stop).await?),
        LabDirectory::SdsLdap => {
            let (slapd, source) = slapd::start(&pki, folder, &records(settings)?).await?;
            (Some(slapd), source)
        }
        LabDirectory::File => (None, String::new()),
    };
    let text = format!("{CONFIG}{source}\n[provider.hosts]\n{hosts}");
    let mut table: toml::Table = text.parse()?;
    let mut listener = toml::Table::new();
    listener.insert("addresses".to_owned(), vec![settings.address.to_string()].into());
    let mut admin = toml::Table::new();
    admin.insert("address".to_owned(), settings.admin.to_string().into());
    let addresses = [("listener".to_owned(), listener.into()), ("admin".to_owned(), admin.into())];
    merge(&mut table, addresses.into_iter().collect());
    merge(&mut table, settings.proxy.clone());
    let config = folder.join("spine-proxy.toml");
    write(&config, &toml::to_string(&table)?)?;
    Ok(WrittenLab { config, control, slapd })
}

/// Puts the values of `new` in a table; tables in it are put in the tables that are there.
fn merge(table: &mut toml::Table, new: toml::Table) {
    for (key, value) in new {
        match (table.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => drop(table.insert(key, value)),
        }
    }
}

/// Writes the authorities, certificates of the proxy and of each consumer, and certificates to be refused with.
async fn write_pki(folder: &Path, settings: &LabSettings) -> anyhow::Result<Pki> {
    let names = ["ssp.example.nhs.uk", "localhost", "127.0.0.1"].map(str::to_owned).to_vec();
    let hub = settings.consumers.first().map(LabConsumer::certificate_name).unwrap_or_default();
    let strangers = vec![STRANGER_NAME.to_owned()];
    let mut leaves = vec![
        ("server", Leaf { names, ..Leaf::named("ssp.example.nhs.uk") }),
        ("gateway", Leaf::named(GATEWAY_NAME)),
        ("stranger", Leaf::named(STRANGER_NAME)),
        ("expired", Leaf { days: EXPIRED, ..Leaf::named(&hub) }),
        ("not-yet-valid", Leaf { days: NOT_YET_VALID, ..Leaf::named(&hub) }),
        (REVOKED, Leaf::named(&hub)),
        ("wrong-name", Leaf { names: strangers, ..Leaf::named(&hub) }),
        (WITHOUT_SUB_AUTHORITY, Leaf::named(&hub)),
    ];
    for consumer in &settings.consumers {
        leaves.push((&consumer.name, Leaf::named(&consumer.certificate_name())));
    }
    let pki = write_authority(folder)?;
    for (file, leaf) in leaves {
        let issued = pki.issue(&leaf)?;
        let issued =
            if file == WITHOUT_SUB_AUTHORITY { issued.without_sub_authority() } else { issued };
        write_issued(folder, file, &issued)?;
        // A signal may end the set-up here.
        tokio::task::yield_now().await;
    }
    revoke(folder, REVOKED)?;
    Ok(pki)
}

/// Starts the practices' systems, one listener for each host; returns the lines for `[provider.hosts]`, since the
/// hosts are not in DNS.
async fn listen(
    settings: &LabSettings,
    pki: &Pki,
    provider: &Arc<SimulatedProvider>,
    stop: &CancellationToken,
) -> anyhow::Result<String> {
    let mut addresses: BTreeMap<&str, SocketAddr> = BTreeMap::new();
    for practice in settings.practices.iter().filter(|practice| practice.answers) {
        if addresses.contains_key(practice.host.as_str()) {
            continue;
        }
        tokio::task::yield_now().await;
        let tls = tls(&pki.issue(&Leaf::named(&practice.host))?, Some(pki))?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        addresses.insert(&practice.host, listener.local_addr()?);
        let serving = ServeOptions { tls: Some(tls), ..ServeOptions::default() };
        tokio::spawn(Arc::clone(provider).serve(listener, serving, stop.clone().cancelled_owned()));
    }
    // Port 1 of the loopback address refuses connections.
    let closed = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    for practice in &settings.practices {
        addresses.entry(&practice.host).or_insert(closed);
    }
    Ok(addresses.iter().map(|(host, address)| format!("\"{host}\" = \"{address}\"\n")).collect())
}

/// Starts the simulated SDS FHIR API; returns the configuration section that names it.
async fn api(
    pki: &Pki,
    folder: &Path,
    settings: &LabSettings,
    stop: &CancellationToken,
) -> anyhow::Result<String> {
    let key = uuid::Uuid::new_v4().to_string();
    write(&folder.join("sds.key"), &key)?;
    let tls = tls(&pki.issue(&Leaf::named("localhost"))?, None)?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    let sds = SdsDirectory::new(records(settings)?, Some(key));
    tokio::spawn(sds.serve(listener, tls, stop.clone().cancelled_owned()));
    Ok(format!(
        "[directory.sds-api]\nurl = \"https://localhost:{port}{BASE_PATH}\"\nkey-file = \"sds.key\"\n\
         tls = {{ authorities = [\"ca.pem\"], crl = \"none\" }}\n"
    ))
}

/// Returns the records of all practices, as SDS would hold them.
fn records(settings: &LabSettings) -> anyhow::Result<Records> {
    let groups = AllowedInteractions::from_names(AllowedInteractions::DEFAULT)
        .map_err(anyhow::Error::msg)?;
    let interactions: Vec<&str> = groups.iter().map(|interaction| interaction.id).collect();
    Ok(settings.practices.iter().fold(Records::default(), |records, practice| {
        let (ods, asid) = (practice.ods.as_str(), practice.asid.as_str());
        records.and(Records::practice(
            ods,
            asid,
            &party_key(practice),
            &practice.root(),
            &interactions,
        ))
    }))
}

fn simulated(practice: &LabPractice) -> anyhow::Result<SimulatedPractice> {
    let LabPractice { name, ods, asid, .. } = practice;
    let simulated = SimulatedPractice::new(ods.clone(), asid.clone(), name, &practice.path());
    let Some(path) = &practice.seed else { return Ok(simulated) };
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let seed = Seed::parse(&text).with_context(|| path.display().to_string())?;
    Ok(SimulatedPractice { seed: Arc::new(seed), ..simulated })
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

/// Returns the directory file: consumers with their certificates and the agreement, which no directory service
/// holds, and without a directory service the practices too.
fn directory_file(settings: &LabSettings) -> String {
    let consumers = settings.consumers.iter().map(|consumer| {
        let LabConsumer { name, asid, ods, interactions, .. } = consumer;
        let certificate = consumer.certificate_name();
        format!(
            "[[consumer]]\nname = \"{name}\"\nasids = [\"{asid}\"]\ncertificate-names = [\"{certificate}\"]\n\
             ods = \"{ods}\"\ninteractions = {}\n\n",
            toml::Value::from(interactions.clone())
        )
    });
    let is_listed = settings.directory == LabDirectory::File;
    let listed = settings.practices.iter().filter(|_| is_listed).map(|practice| {
        let (LabPractice { ods, asid, .. }, root) = (practice, practice.root());
        format!(
            "[[provider]]\nods = \"{ods}\"\nasid = \"{asid}\"\nparty-key = \"{}\"\ncpa-id = \"S{asid}\"\n\
             root = \"{root}\"\ninteractions = {:?}\n\n",
            party_key(practice),
            AllowedInteractions::DEFAULT
        )
    });
    let agreed = settings.consumers.iter().filter(|consumer| consumer.agreed);
    let agreed: Vec<_> = agreed.map(|consumer| consumer.asid.as_str()).collect();
    let agreement = match agreed.is_empty() {
        true => String::new(),
        false => format!("[[agreement]]\nfrom = {agreed:?}\nto = \"every-practice\"\n"),
    };
    consumers.chain(listed).chain([agreement]).collect()
}

fn party_key(practice: &LabPractice) -> String {
    format!("{}-1000001", practice.ods)
}

const CONFIG: &str = r#"[listener]
addresses = ["127.0.0.1:0"]
names = ["ssp.example.nhs.uk", "localhost", "127.0.0.1"]
proxy-name = "spine-proxy-lab"

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
