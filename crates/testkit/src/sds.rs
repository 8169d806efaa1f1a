//! A simulated SDS FHIR API on loopback over TLS, and the gateway's directory connected to it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use gpconnect_simulator::pki::{Leaf, Pki};
use gpconnect_simulator::sds::{BASE_PATH, Records, SdsDirectory};
use jiff::{SignedDuration, Timestamp};
use spine_proxy::directory::{
    Directory, DirectoryClock, DirectoryContext, DirectorySettings, LiveSources, Payer,
};
use spine_proxy::metrics::Metrics;
use spine_proxy::refusal::Refusal;
use spine_proxy::registry::{DirectoryFile, OtherSources, ProviderRegistration};
use spine_proxy::sharing::Sharing;
use spine_proxy::tls::Loader;
use spine_types::interaction::{Interaction, by_id};
use spine_types::target::Receiver;
use spine_types::{Asid, OdsCode};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::files::Files;
use super::link::FaultyLink;
use super::test_bed::{HUB, TestBed, metric, now_s, server_tls};

pub const KEY: &str = "an-invented-key";
pub const SLOTS: &str = "urn:nhs:names:services:gpconnect:fhir:rest:search:slot-1";
pub const BOOK: &str = "urn:nhs:names:services:gpconnect:fhir:rest:create:appointment-1";
pub const READ: &str = "urn:nhs:names:services:gpconnect:fhir:rest:read:appointment-1";

/// Payer of a look-up in tests that are not about payers.
pub const PAYER: Payer<'static> = Payer::Certificate("a certificate");

/// A clock that runs ahead of the system's by a time that a test sets.
#[derive(Clone, Default)]
pub struct TestClock(Arc<AtomicI64>);

impl TestClock {
    pub fn set_ahead_s(&self, seconds: i64) {
        self.0.store(seconds, Ordering::Release);
    }

    pub fn advance_s(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::AcqRel);
    }

    /// Returns a context for a directory whose clock is set back by two seconds with each reading.
    pub fn context_running_back(metrics: &Arc<Metrics>) -> DirectoryContext {
        let readings = AtomicI64::default();
        let clock = DirectoryClock::from_fn(move || {
            let back_s = 2 * readings.fetch_add(1, Ordering::AcqRel);
            Timestamp::now() - SignedDuration::from_secs(back_s)
        });
        DirectoryContext { clock, ..DirectoryContext::new(Arc::clone(metrics)) }
    }

    /// Returns a context for a directory, with this clock.
    pub fn context(&self, metrics: &Arc<Metrics>) -> DirectoryContext {
        let ahead_s = Arc::clone(&self.0);
        let clock = DirectoryClock::from_fn(move || {
            Timestamp::now() + SignedDuration::from_secs(ahead_s.load(Ordering::Acquire))
        });
        DirectoryContext { clock, ..DirectoryContext::new(Arc::clone(metrics)) }
    }
}

/// A running SDS FHIR API, and what a directory needs to query it.
pub struct Registry {
    pub sds: Arc<SdsDirectory>,
    pub metrics: Arc<Metrics>,
    pub folder: TempDir,
    port: u16,
    /// Port in the directory's settings: that of the API, or of a link to it.
    port_in_settings: u16,
    /// A socket that is bound but never listens, so that the port stays reserved while the API is stopped.
    _reserved: socket2::Socket,
    settings: String,
    /// Maximum number of queries per second, in the directory's settings.
    pub queries_per_second: u32,
    clock: TestClock,
    serving: Option<DropGuard>,
    tls: Arc<rustls::ServerConfig>,
}

pub fn interaction(id: &str) -> &'static Interaction {
    by_id(id).unwrap()
}

pub fn asid(text: &str) -> Asid {
    text.parse().unwrap()
}

pub fn ods(text: &str) -> OdsCode {
    text.parse().unwrap()
}

impl Registry {
    /// Starts an API with these records; `more` is added to the directory's settings.
    pub async fn new(records: Records, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::new(now_s()).unwrap();
        let issued = pki.issue(&Leaf::named("localhost")).unwrap();
        std::fs::write(folder.path().join("ca.pem"), pki.authority()).unwrap();
        std::fs::write(folder.path().join("key"), format!("{KEY}\n")).unwrap();
        let sds = SdsDirectory::new(records, Some(KEY.to_owned()));
        let reserved = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let reserved = reserved.unwrap();
        reserved.set_reuse_address(true).unwrap();
        reserved.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let port = reserved.local_addr().unwrap().as_socket().unwrap().port();
        let mut registry = Self {
            sds,
            metrics: Arc::new(Metrics::new()),
            folder,
            port,
            port_in_settings: port,
            _reserved: reserved,
            settings: more.to_owned(),
            queries_per_second: 1000,
            clock: TestClock::default(),
            serving: None,
            tls: server_tls(&issued),
        };
        registry.start().await;
        registry
    }

    /// Puts a link with faults in front of the API. Directories made from now on connect through it.
    pub fn add_link(&mut self) -> FaultyLink {
        let link = FaultyLink::to(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)));
        self.port_in_settings = link.address.port();
        link
    }

    /// Starts the API, always at the same port.
    pub async fn start(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        let stop = CancellationToken::new();
        let serving = Arc::clone(&self.sds).serve(
            listener,
            Arc::clone(&self.tls),
            stop.clone().cancelled_owned(),
        );
        tokio::spawn(serving);
        self.serving = Some(stop.drop_guard());
    }

    /// Stops the API and closes its connections.
    pub async fn stop(&mut self) {
        self.serving = None;
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }

    pub fn settings(&self) -> String {
        let folder = self.folder.path().display();
        let (port, more, rate) = (self.port_in_settings, &self.settings, self.queries_per_second);
        format!(
            r#"
            file = "directory.toml"
            {more}
            [sds-api]
            url = "https://localhost:{port}{BASE_PATH}"
            key-file = "{folder}/key"
            per-second = {rate}
            tls = {{ authorities = ["{folder}/ca.pem"], crl = "none" }}
            "#
        )
    }

    /// Starts a gateway that knows practices only from this API; consumers and agreements come from the
    /// directory file.
    pub async fn test_bed(&self) -> TestBed {
        self.test_bed_with(|_| {}).await
    }

    /// Starts a gateway as [`Registry::test_bed`] does, with its files changed before.
    pub async fn test_bed_with(&self, change: impl FnOnce(&mut Files)) -> TestBed {
        let settings = self.settings().replace("[sds-api]", "[directory.sds-api]");
        TestBed::with(|files| {
            files.edit("spine-proxy.toml", |text| {
                let old = "[directory]\nfile = \"directory.toml\"\n";
                assert!(text.contains(old));
                text.replace(old, &format!("[directory]\n{settings}"))
            });
            files.edit("directory.toml", |text| {
                let (consumers, _) = text.split_once("[[provider]]").unwrap();
                format!("{consumers}\n[[agreement]]\nfrom = [\"{HUB}\"]\nto = \"every-practice\"\n")
            });
            change(files);
        })
        .await
    }

    /// Returns a directory with an empty cache, whose sources are this API and a file with this text.
    pub fn directory(&self, file: &str) -> Directory {
        let settings: DirectorySettings = toml::from_str(&self.settings()).unwrap();
        settings.check().unwrap();
        let (file, live) = (self.file(file), self.live_sources("localhost"));
        Directory::new(file, live, &settings, self.clock.context(&self.metrics))
    }

    /// Returns a directory as [`Registry::directory`] does, of a gateway that shares state.
    pub fn directory_that_shares(&self, sharing: &Sharing) -> Directory {
        let settings: DirectorySettings = toml::from_str(&self.settings()).unwrap();
        let (file, live) = (self.file(""), self.live_sources("localhost"));
        let context = self.clock.context(&self.metrics);
        let context = DirectoryContext { sharing: sharing.clone(), ..context };
        Directory::new(file, live, &settings, context)
    }

    pub fn file(&self, text: &str) -> DirectoryFile {
        DirectoryFile::parse(text, "directory.toml".as_ref(), OtherSources::Live).unwrap()
    }

    /// Returns live sources that query this API under a host name.
    pub fn live_sources(&self, host: &str) -> LiveSources {
        let settings = self.settings().replace("localhost", host);
        let settings: DirectorySettings = toml::from_str(&settings).unwrap();
        LiveSources::load(&settings, &mut Loader::new(now_s())).unwrap()
    }

    /// Sets the directory's clock to this many seconds ahead of the system's.
    pub fn set_clock_ahead_s(&self, seconds: i64) {
        self.clock.set_ahead_s(seconds);
    }

    /// Looks up a practice's provider for an interaction, as for a target of form (b).
    pub async fn look_up(
        &self,
        directory: &Directory,
        code: &str,
        id: &str,
    ) -> Result<Arc<ProviderRegistration>, Refusal> {
        let ods = ods(code);
        let receiver = &by_practice(&ods, None);
        directory.provider(receiver, interaction(id), PAYER).await
    }

    /// Number of queries that the API has received.
    pub fn query_count(&self) -> usize {
        self.sds.received().len()
    }

    /// Returns once the API has received `count` queries.
    pub async fn wait_for_queries(&self, count: usize) {
        while self.query_count() < count {
            tokio::task::yield_now().await;
        }
    }

    pub fn metric(&self, series: &str) -> u64 {
        metric(&self.metrics, series)
    }

    /// Returns once no look-up is in progress.
    pub async fn wait_until_idle(&self, directory: &Directory) {
        while directory.sources_view().looking_up > 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// Returns a receiver by its ASID, with the practice that a target suggests.
pub fn by_asid(asid: &Asid, hint: Option<&OdsCode>) -> Receiver {
    Receiver::System { asid: asid.clone(), hint: hint.cloned() }
}

/// Returns a receiver by its practice, with an ASID that chooses among several systems.
pub fn by_practice(ods: &OdsCode, asid: Option<&Asid>) -> Receiver {
    Receiver::Practice { ods: ods.clone(), asid: asid.cloned() }
}
