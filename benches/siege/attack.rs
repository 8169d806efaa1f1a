//! The attackers, in a process of their own. They end when their standard input does, or when
//! their time is up.

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use spine_proxy::claims;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use testkit::TestRequest;
use testkit::test_bed::{self, crypto};

#[path = "attack/floods.rs"]
mod floods;
#[path = "attack/frames.rs"]
mod frames;
#[path = "attack/slow.rs"]
mod slow;

/// What they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Attack {
    SlowHead,
    SlowHeadNoCertificate,
    SlowBody,
    SlowBodySamePractice,
    SlowRead,
    SlowReadSamePractice,
    Ranges,
    OverQuota,
    Hanging,
    Silence,
    Handshakes,
    HandshakesNoCertificate,
    Resets,
    ResetsNoCertificate,
    Pings,
    PingsNoCertificate,
    Chains,
    LongChains,
    Slashes,
    UnregisteredConnections,
    UnregisteredRequests,
}

/// Who they say they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// Another consumer, registered and with an agreement.
    Insider,
    /// Nobody with a certificate.
    Stranger,
    /// A certificate below authorities that were made up: as many as are looked at.
    Forger,
    /// A certificate below hundreds of made-up authorities.
    LongForger,
    /// A verified certificate whose name is registered nowhere.
    Unregistered,
}

/// Where, from where, for how long at most.
#[derive(Debug, Clone)]
pub(crate) struct Orders {
    pub(crate) attack: Attack,
    pub(crate) at: SocketAddr,
    pub(crate) folder: PathBuf,
    pub(crate) addresses: u8,
    pub(crate) seconds_max: u64,
}

/// One attacker of many.
struct Attacker {
    orders: Orders,
    tls: Arc<ClientConfig>,
    seen: Arc<Seen>,
    number: usize,
}

/// What they did together.
#[derive(Debug, Default)]
struct Seen {
    opened: AtomicU64,
    shaken: AtomicU64,
    ended: AtomicU64,
    sent: AtomicU64,
}

/// How long one waits for its connection or handshake.
const PATIENCE: Duration = Duration::from_secs(15);
/// Before one whose connection has ended comes again.
const AGAIN: Duration = Duration::from_millis(250);
/// The same for the silent, who are thousands.
const SILENT_AGAIN: Duration = Duration::from_secs(2);

impl Attack {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SlowHead => "slow head, insider",
            Self::SlowHeadNoCertificate => "slow head, no certificate",
            Self::SlowBody => "slow body, insider",
            Self::SlowBodySamePractice => "slow body, insider, the same practice",
            Self::SlowRead => "slow read, insider",
            Self::SlowReadSamePractice => "slow read, insider, the same practice",
            Self::Ranges => "Range headers, insider",
            Self::OverQuota => "ten times its quota, insider, the same practice",
            Self::Hanging => "a practice that hangs, insider",
            Self::Silence => "silent TCP connections",
            Self::Handshakes => "handshake flood, insider",
            Self::HandshakesNoCertificate => "handshake flood, no certificate",
            Self::Resets => "HTTP/2 rapid reset, insider",
            Self::ResetsNoCertificate => "HTTP/2 rapid reset, no certificate",
            Self::Pings => "HTTP/2 PING and SETTINGS, insider",
            Self::PingsNoCertificate => "HTTP/2 PING and SETTINGS, no certificate",
            Self::Chains => "handshakes with 7 made-up authorities",
            Self::LongChains => "handshakes with 120 made-up authorities",
            Self::Slashes => "targets of 32,000 slashes, insider",
            Self::UnregisteredConnections => "connections of a certificate registered nowhere",
            Self::UnregisteredRequests => "requests of a certificate registered nowhere",
        }
    }

    /// How many attack at once, and what they send.
    fn shape(self) -> (usize, &'static str) {
        match self {
            Self::SlowHead | Self::SlowHeadNoCertificate => {
                (500, "bytes of heads, 1 a second each")
            }
            Self::SlowBody | Self::SlowBodySamePractice => {
                (500, "bytes of bodies, 1 a second each")
            }
            Self::SlowRead | Self::SlowReadSamePractice => (500, "requests for 4 MB, never read"),
            Self::Ranges => (50, "requests of 60 Range lines"),
            Self::OverQuota => (20, "requests, 1,000 a second of 100"),
            Self::Hanging => (200, "requests that are never answered"),
            Self::Silence => (5000, "bytes"),
            Self::Handshakes | Self::HandshakesNoCertificate => (32, "bytes after the handshake"),
            Self::Resets | Self::ResetsNoCertificate => (20, "streams begun and reset"),
            Self::Pings | Self::PingsNoCertificate => (20, "frames"),
            Self::Chains | Self::LongChains => (8, "bytes after the handshake"),
            Self::Slashes => (4, "requests"),
            Self::UnregisteredConnections => (3000, "bytes"),
            Self::UnregisteredRequests => (20, "requests"),
        }
    }

    fn who(self) -> Who {
        match self {
            Self::SlowHeadNoCertificate
            | Self::HandshakesNoCertificate
            | Self::ResetsNoCertificate
            | Self::PingsNoCertificate
            | Self::Silence => Who::Stranger,
            Self::Chains => Who::Forger,
            Self::LongChains => Who::LongForger,
            Self::UnregisteredConnections | Self::UnregisteredRequests => Who::Unregistered,
            Self::Slashes
            | Self::SlowHead
            | Self::SlowBody
            | Self::SlowBodySamePractice
            | Self::SlowRead
            | Self::SlowReadSamePractice
            | Self::Ranges
            | Self::OverQuota
            | Self::Hanging
            | Self::Handshakes
            | Self::Resets
            | Self::Pings => Who::Insider,
        }
    }

    const fn is_http2(self) -> bool {
        matches!(
            self,
            Self::Resets | Self::ResetsNoCertificate | Self::Pings | Self::PingsNoCertificate
        )
    }

    const fn asks_the_same_practice(self) -> bool {
        matches!(self, Self::SlowBodySamePractice | Self::SlowReadSamePractice | Self::OverQuota)
    }

    /// Before one whose connection has ended comes again.
    fn pause(self) -> Option<Duration> {
        let is_patient = matches!(self, Self::Silence | Self::UnregisteredConnections);
        let pause = if is_patient { SILENT_AGAIN } else { AGAIN };
        let is_flood = matches!(self, Self::Chains | Self::LongChains);
        (!self.is_from_one_address() && !is_flood).then_some(pause)
    }

    /// A flood of handshakes comes from one address; the rest from all.
    const fn is_from_one_address(self) -> bool {
        matches!(self, Self::Handshakes | Self::HandshakesNoCertificate)
    }
}

/// Attacks; says at the end what was done.
pub(crate) async fn run(orders: Orders) {
    let (count, unit) = orders.attack.shape();
    let seen = Arc::new(Seen::default());
    let tls = tls(&orders);
    for number in 0..count {
        let (tls, seen, orders) = (Arc::clone(&tls), Arc::clone(&seen), orders.clone());
        tokio::spawn(Attacker { orders, tls, seen, number }.attacks());
    }
    drop(timeout(Duration::from_secs(orders.seconds_max), told_to_stop()).await);
    let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
    println!(
        "{count} at a time: {} connections, {} handshakes, {} ended by the proxy; {} {unit}",
        read(&seen.opened),
        read(&seen.shaken),
        read(&seen.ended),
        read(&seen.sent),
    );
}

/// Returns when standard input ends. On a thread of its own: nobody waits for one that stays open.
async fn told_to_stop() {
    let (say, said) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        drop(std::io::stdin().read(&mut [0; 1]));
        // Nobody listens any more: that is as well.
        say.send(()).unwrap_or_default();
    });
    drop(said.await);
}

impl Attacker {
    /// Again and again, until the process ends.
    async fn attacks(self) {
        loop {
            Box::pin(self.attacks_once()).await;
            self.seen.ended.fetch_add(1, Ordering::Relaxed);
            match self.orders.attack.pause() {
                Some(pause) => sleep(pause).await,
                None => tokio::task::yield_now().await,
            }
        }
    }

    async fn attacks_once(&self) -> Option<()> {
        match self.orders.attack {
            Attack::Silence => floods::silence(self.dial(None).await?).await,
            Attack::UnregisteredConnections => floods::waiting(self.shake(None).await?).await,
            Attack::UnregisteredRequests => floods::requests(self, self.shake(None).await?).await,
            Attack::Slashes => floods::slashes(self, self.shake(None).await?).await,
            Attack::Handshakes
            | Attack::HandshakesNoCertificate
            | Attack::Chains
            | Attack::LongChains => {
                floods::handshake(&self.shake(None).await?);
            }
            Attack::Ranges => floods::ranges(self, self.shake(None).await?).await,
            Attack::OverQuota => floods::over_quota(self, self.shake(None).await?).await,
            Attack::Hanging => floods::hanging(self, self.shake(None).await?).await,
            Attack::SlowHead | Attack::SlowHeadNoCertificate => {
                slow::head(self, self.shake(None).await?).await;
            }
            Attack::SlowBody | Attack::SlowBodySamePractice => {
                slow::body(self, self.shake(None).await?).await;
            }
            Attack::SlowRead | Attack::SlowReadSamePractice => {
                slow::read(self, self.shake(Some(slow::WINDOW)).await?).await;
            }
            Attack::Resets | Attack::ResetsNoCertificate => {
                frames::resets(self, self.shake(None).await?).await;
            }
            Attack::Pings | Attack::PingsNoCertificate => {
                frames::pings(self, self.shake(None).await?).await;
            }
        }
        Some(())
    }

    /// A connection from one of the attackers' addresses, 127.0.0.2 and on.
    async fn dial(&self, window: Option<u32>) -> Option<TcpStream> {
        let addresses = match self.orders.attack.is_from_one_address() {
            true => 1,
            false => usize::from(self.orders.addresses.max(1)),
        };
        let last = u8::try_from(2 + self.number % addresses).ok()?;
        let socket = TcpSocket::new_v4().ok()?;
        if let Some(window) = window {
            socket.set_recv_buffer_size(window).ok()?;
        }
        socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into()).ok()?;
        let stream = timeout(PATIENCE, socket.connect(self.orders.at)).await.ok()?.ok()?;
        self.seen.opened.fetch_add(1, Ordering::Relaxed);
        Some(stream)
    }

    async fn shake(&self, window: Option<u32>) -> Option<TlsStream<TcpStream>> {
        let stream = self.dial(window).await?;
        let name = ServerName::try_from("ssp.example.nhs.uk").unwrap();
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = timeout(PATIENCE, connector.connect(name, stream)).await.ok()?.ok()?;
        self.seen.shaken.fetch_add(1, Ordering::Relaxed);
        Some(stream)
    }

    fn sent(&self, count: usize) {
        self.seen.sent.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// A call as the insider may make it, of the practice that is attacked.
    fn call(&self, call: TestRequest) -> TestRequest {
        let (root, asid) = match self.orders.attack.asks_the_same_practice() {
            true => (test_bed::ROOT, test_bed::TO),
            false => (test_bed::OTHER_ROOT, test_bed::OTHER_TO),
        };
        let scope = call.claims["requested_scope"].as_str().unwrap().to_owned();
        let organisation = test_bed::CLINIC_ODS.parse().unwrap();
        let target = call.target.replace(test_bed::ROOT, root);
        let mut call = call.target(&target).set("Ssp-From", test_bed::CLINIC).set("Ssp-To", asid);
        call.claims = claims::example_claims(root, &organisation, &scope, test_bed::now_s());
        call
    }
}

/// No session is resumed: every handshake is a whole one.
fn tls(orders: &Orders) -> Arc<ClientConfig> {
    let chain = |name: &str| certificates(&orders.folder.join(name));
    let mut roots = RootCertStore::empty();
    for authority in chain("ca.pem") {
        roots.add(authority).unwrap();
    }
    let builder = ClientConfig::builder_with_provider(crypto())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match orders.attack.who() {
        Who::Stranger => builder.with_no_client_auth(),
        who @ (Who::Insider | Who::Forger | Who::LongForger | Who::Unregistered) => {
            let name = match who {
                Who::Stranger | Who::Insider => "clinic",
                Who::Forger => "forged",
                Who::LongForger => "forged-long",
                Who::Unregistered => "stranger",
            };
            let key = orders.folder.join(format!("{name}.key"));
            let key = PrivateKeyDer::from_pem_file(key).unwrap();
            builder.with_client_auth_cert(chain(&format!("{name}.pem")), key).unwrap()
        }
    };
    let protocol: &[u8] = if orders.attack.is_http2() { b"h2" } else { b"http/1.1" };
    config.alpn_protocols = vec![protocol.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path).unwrap().map(Result::unwrap).collect()
}
