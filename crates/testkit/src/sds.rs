//! A directory over a stand-in for the SDS FHIR API, on loopback over TLS.

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
use spine_proxy::tls::Loader;
use spine_types::interaction::{Interaction, by_id};
use spine_types::target::Receiver;
use spine_types::{Asid, OdsCode};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::files::Files;
use super::stage::{HUB, Stage, counted, now_s, server_tls};
use super::way::Way;

pub const KEY: &str = "an-invented-key";
pub const SLOTS: &str = "urn:nhs:names:services:gpconnect:fhir:rest:search:slot-1";
pub const BOOK: &str = "urn:nhs:names:services:gpconnect:fhir:rest:create:appointment-1";
pub const READ: &str = "urn:nhs:names:services:gpconnect:fhir:rest:read:appointment-1";

/// Who pays for a look-up, where a test does not say.
pub const PAYER: Payer<'static> = Payer::Certificate("a certificate");

/// A clock that a test sets ahead of the present.
#[derive(Clone, Default)]
pub struct MovedClock(Arc<AtomicI64>);

impl MovedClock {
    pub fn is_ahead_s(&self, seconds: i64) {
        self.0.store(seconds, Ordering::Release);
    }

    pub fn passes_s(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::AcqRel);
    }

    /// What a directory needs: this clock, and the current runtime.
    pub fn context(&self, metrics: &Arc<Metrics>) -> DirectoryContext {
        let ahead_s = Arc::clone(&self.0);
        let clock = DirectoryClock::from_fn(move || {
            Timestamp::now() + SignedDuration::from_secs(ahead_s.load(Ordering::Acquire))
        });
        DirectoryContext { clock, ..DirectoryContext::new(Arc::clone(metrics)) }
    }
}

/// The API, its certificate, and a directory's settings that lead to it.
pub struct Registry {
    pub sds: Arc<SdsDirectory>,
    pub metrics: Arc<Metrics>,
    pub folder: TempDir,
    port: u16,
    /// Where the way to it begins, if it is not there.
    leads_to: u16,
    /// Bound and never listened at: nobody else is given the port while the API is gone.
    _reserved: socket2::Socket,
    settings: String,
    /// Questions a second.
    pub pace: u32,
    clock: MovedClock,
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
    /// An API with these records; `more` is added to the directory's settings.
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
            leads_to: port,
            _reserved: reserved,
            settings: more.to_owned(),
            pace: 1000,
            clock: MovedClock::default(),
            serving: None,
            tls: server_tls(&issued),
        };
        registry.opens().await;
        registry
    }

    /// A way to the API, which all who ask it from now on take.
    pub fn by_way(&mut self) -> Way {
        let way = Way::to(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)));
        self.leads_to = way.address.port();
        way
    }

    /// The API listens, always at the same port.
    pub async fn opens(&mut self) {
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

    /// The API is gone, and everybody's connections with it.
    pub async fn closes(&mut self) {
        self.serving = None;
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }

    pub fn settings(&self) -> String {
        let folder = self.folder.path().display();
        let (port, more, pace) = (self.leads_to, &self.settings, self.pace);
        format!(
            r#"
            file = "directory.toml"
            {more}
            [sds-api]
            url = "https://localhost:{port}{BASE_PATH}"
            key-file = "{folder}/key"
            per-second = {pace}
            tls = {{ authorities = ["{folder}/ca.pem"], crl = "none" }}
            "#
        )
    }

    /// A gateway whose practices are known to this API alone; consumers and agreements come from
    /// the file.
    pub async fn stage(&self) -> Stage {
        self.stage_with(|_| {}).await
    }

    /// The same, with its files changed before it starts.
    pub async fn stage_with(&self, change: impl FnOnce(&mut Files)) -> Stage {
        let settings = self.settings().replace("[sds-api]", "[directory.sds-api]");
        Stage::with(|files| {
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

    /// A directory that holds nothing, over this API and a file's text.
    pub fn directory(&self, file: &str) -> Directory {
        let settings: DirectorySettings = toml::from_str(&self.settings()).unwrap();
        settings.check().unwrap();
        let (file, live) = (self.file(file), self.live("localhost"));
        Directory::new(file, live, &settings, self.clock.context(&self.metrics))
    }

    pub fn file(&self, text: &str) -> DirectoryFile {
        DirectoryFile::parse(text, "directory.toml".as_ref(), OtherSources::Live).unwrap()
    }

    /// The way to this API, under one of its names.
    pub fn live(&self, host: &str) -> LiveSources {
        let settings = self.settings().replace("localhost", host);
        let settings: DirectorySettings = toml::from_str(&settings).unwrap();
        LiveSources::load(&settings, &mut Loader::new(now_s())).unwrap()
    }

    /// Sets the directory's clock to so many seconds after the present.
    pub fn later_s(&self, seconds: i64) {
        self.clock.is_ahead_s(seconds);
    }

    /// Asks about a practice, form (b).
    pub async fn practice(
        &self,
        directory: &Directory,
        code: &str,
        id: &str,
    ) -> Result<Arc<ProviderRegistration>, Refusal> {
        let ods = ods(code);
        let receiver = &by_practice(&ods, None);
        directory.provider(receiver, interaction(id), PAYER).await
    }

    /// How many questions the API has been asked.
    pub fn asked(&self) -> usize {
        self.sds.received().len()
    }

    /// Returns once the API has been asked so many.
    pub async fn has_been_asked(&self, count: usize) {
        while self.asked() < count {
            tokio::task::yield_now().await;
        }
    }

    pub fn counted(&self, series: &str) -> u64 {
        counted(&self.metrics, series)
    }

    /// Returns once no look-up is under way.
    pub async fn rests(&self, directory: &Directory) {
        while directory.sources_view().looking_up > 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// The system of this ASID, at the practice that a target suggests.
pub fn by_asid(asid: &Asid, hint: Option<&OdsCode>) -> Receiver {
    Receiver::System { asid: asid.clone(), hint: hint.cloned() }
}

/// The system of a practice, of this ASID if there are several.
pub fn by_practice(ods: &OdsCode, asid: Option<&Asid>) -> Receiver {
    Receiver::Practice { ods: ods.clone(), asid: asid.cloned() }
}
