//! Consumers and the provider: both in the bench's own process, so that they need little.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::server::WebPkiClientVerifier;
use rustls::{CipherSuite, ClientConfig, HandshakeKind, NamedGroup, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use testkit::TestBed;
use testkit::test_bed::{chain, crypto, key, roots};

/// Time before a window in which nothing is counted.
const WARM: Duration = Duration::from_millis(300);
/// Longest wait for one answer, with a connection if need be.
const ANSWER: Duration = Duration::from_secs(5);
/// Connections opened at once.
const OPENING: usize = 32;
/// Bytes read at once: a TLS record has no more.
const READ: usize = 16 * 1024;
/// Pause after a request that failed, so that a proxy that is gone is not asked without end.
const PAUSE: Duration = Duration::from_millis(10);

/// One group and one cipher on every connection: no proxy is faster by choosing others.
fn one_cipher() -> Arc<CryptoProvider> {
    let mut provider = CryptoProvider::clone(&crypto());
    provider.kx_groups.retain(|group| group.name() == NamedGroup::X25519);
    provider.cipher_suites.retain(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

/// A connection that carries HTTP/1.1 messages with a Content-Length.
pub(crate) struct Messages<S> {
    stream: S,
    unread: Vec<u8>,
}

/// The head of a message: an answer's status, and whether the connection ends after it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Head {
    status: u16,
    closes: bool,
    length: usize,
}

impl Head {
    fn of(text: &[u8]) -> Option<Self> {
        let status = text.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3));
        let mut head = Self { status: status.map_or(Some(0), number)?, ..Self::default() };
        for line in text.split(|byte| *byte == b'\n') {
            let Some(colon) = memchr::memchr(b':', line) else { continue };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if name.eq_ignore_ascii_case(b"content-length") {
                head.length = number(value)?;
            } else if name.eq_ignore_ascii_case(b"connection") {
                head.closes = value.eq_ignore_ascii_case(b"close");
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                return None;
            }
        }
        Some(head)
    }
}

fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

impl<S: AsyncRead + Unpin> Messages<S> {
    fn new(stream: S) -> Self {
        Self { stream, unread: Vec::new() }
    }

    /// Reads a message to its end.
    async fn next(&mut self) -> Option<Head> {
        let end = loop {
            match memchr::memmem::find(&self.unread, b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => self.more().await?,
            };
        };
        let head = Head::of(&self.unread[..end])?;
        self.unread.drain(..end);
        let mut left = head.length;
        loop {
            let have = left.min(self.unread.len());
            self.unread.drain(..have);
            left -= have;
            if left == 0 {
                break;
            }
            self.more().await?;
        }
        Some(head)
    }

    async fn more(&mut self) -> Option<()> {
        self.unread.reserve(READ);
        let read = self.stream.read_buf(&mut self.unread).await.ok()?;
        (read > 0).then_some(())
    }
}

/// The practices' system: every request has the same answer.
pub(crate) struct Provider {
    pub(crate) address: SocketAddr,
    answer: Arc<ArcSwap<Bytes>>,
}

impl Provider {
    pub(crate) async fn start(bed: &TestBed) -> Self {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots(&bed.pki)), one_cipher());
        let issued = &bed.issued["provider"];
        let tls = ServerConfig::builder_with_provider(one_cipher())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(chain(issued), key(issued))
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Arc::new(ArcSwap::from_pointee(Bytes::new()));
        let answers = Arc::clone(&answer);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                drop(stream.set_nodelay(true));
                tokio::spawn(answer_all(acceptor.clone(), stream, Arc::clone(&answers)));
            }
        });
        Self { address, answer }
    }

    /// Changes the answer to a body of so many bytes, and returns the body.
    pub(crate) fn answers(&self, length: usize) -> Vec<u8> {
        let body = vec![b'x'; length];
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/fhir+json\r\nContent-Length: {length}\r\n\r\n"
        );
        self.answer.store(Arc::new([head.as_bytes(), &body].concat().into()));
        body
    }
}

async fn answer_all(tls: TlsAcceptor, stream: TcpStream, answer: Arc<ArcSwap<Bytes>>) {
    let Ok(stream) = tls.accept(stream).await else { return };
    let mut messages = Messages::new(stream);
    while messages.next().await.is_some() {
        let bytes = Bytes::clone(&answer.load());
        let written = messages.stream.write_all(&bytes).await;
        if written.is_err() || messages.stream.flush().await.is_err() {
            return;
        }
    }
}

/// The manner in which requests are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// The next as soon as the last is answered, over kept connections.
    Kept,
    /// So many a second over kept connections.
    Rate(u32),
    /// Each over a new connection with a full handshake.
    Full,
    /// Each over a new connection with a resumed handshake.
    Resumed,
}

impl Pattern {
    fn is_fresh(self) -> bool {
        matches!(self, Self::Full | Self::Resumed)
    }
}

/// The load of one measurement.
#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) pattern: Pattern,
    /// Requests under way at once.
    pub(crate) lanes: usize,
    /// Kept connections, shared by the lanes and used in turn.
    pub(crate) connections: usize,
    /// The requests, sent in turn.
    pub(crate) requests: Arc<[Vec<u8>]>,
    /// The status that every answer must have.
    pub(crate) status: u16,
}

/// Answers counted in one window.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counted {
    pub(crate) answers: u64,
    /// Answers of another status, and connections that could not be had or ended without an answer.
    pub(crate) failed: u64,
    /// Connections whose handshake was resumed, and all of them.
    pub(crate) resumed: u64,
    pub(crate) opened: u64,
    /// Processor time of the proxy, and of the load.
    pub(crate) cpu: [Duration; 2],
}

impl Counted {
    /// Processor time for each answer.
    pub(crate) fn microseconds(&self) -> [f64; 2] {
        self.cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / self.answers.max(1) as f64)
    }
}

#[derive(Default)]
struct Tally {
    answers: AtomicU64,
    failed: AtomicU64,
    resumed: AtomicU64,
    opened: AtomicU64,
    stopped: AtomicBool,
}

/// A consumer of one proxy.
#[derive(Clone)]
pub(crate) struct Consumer {
    address: SocketAddr,
    tls: TlsConnector,
}

/// A connection of a consumer.
pub(crate) type Connection = Messages<TlsStream<TcpStream>>;

impl Consumer {
    pub(crate) fn new(bed: &TestBed, address: SocketAddr, resumes: bool) -> Self {
        let issued = &bed.issued["hub"];
        let mut tls = ClientConfig::builder_with_provider(one_cipher())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots(&bed.pki))
            .with_client_auth_cert(chain(issued), key(issued))
            .unwrap();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        if !resumes {
            tls.resumption = Resumption::disabled();
        }
        Self { address, tls: TlsConnector::from(Arc::new(tls)) }
    }

    async fn connect(&self, tally: &Tally) -> Option<Connection> {
        let stream = TcpStream::connect(self.address).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let name = ServerName::try_from("ssp.example.nhs.uk").unwrap();
        let stream = self.tls.connect(name, stream).await.ok()?;
        tally.opened.fetch_add(1, Ordering::Relaxed);
        if stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed) {
            tally.resumed.fetch_add(1, Ordering::Relaxed);
        }
        Some(Messages::new(stream))
    }

    /// Sends one request, and connects before it if need be. The connection is left if it may be used again.
    async fn ask(
        &self,
        kept: &mut Option<Connection>,
        request: &[u8],
        status: u16,
        tally: &Tally,
    ) -> bool {
        let asked = async {
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => self.connect(tally).await?,
            };
            connection.stream.write_all(request).await.ok()?;
            connection.stream.flush().await.ok()?;
            let head = connection.next().await?;
            if !head.closes {
                *kept = Some(connection);
            }
            Some(head.status)
        };
        let right = timeout(ANSWER, asked).await == Ok(Some(status));
        let count = if right { &tally.answers } else { &tally.failed };
        count.fetch_add(1, Ordering::Relaxed);
        right
    }

    /// Opens so many connections, each with one request.
    pub(crate) async fn open(&self, count: usize, load: &Load) -> Vec<Connection> {
        let (tally, request) = (Tally::default(), &load.requests[0]);
        let opening = (0..count).map(|_| async {
            let mut kept = None;
            self.ask(&mut kept, request, load.status, &tally).await;
            kept
        });
        let opened = stream::iter(opening).buffer_unordered(OPENING).collect::<Vec<_>>().await;
        opened.into_iter().flatten().collect()
    }

    async fn lane(
        self,
        load: Load,
        number: usize,
        mut kept: Vec<Option<Connection>>,
        tally: Arc<Tally>,
    ) {
        let is_fresh = load.pattern.is_fresh();
        let mut due = Instant::now();
        for turn in 0.. {
            if let Pattern::Rate(rate) = load.pattern {
                due += Duration::from_secs(1) * u32::try_from(load.lanes).unwrap() / rate;
                sleep_until(due).await;
            }
            if tally.stopped.load(Ordering::Relaxed) {
                return;
            }
            let request = &load.requests[(number + turn * load.lanes) % load.requests.len()];
            let held = kept.len();
            let connection = &mut kept[turn % held];
            if !self.ask(connection, request, load.status, &tally).await {
                sleep(PAUSE).await;
            }
            if is_fresh && let Some(mut done) = connection.take() {
                drop(done.stream.shutdown().await);
            }
        }
    }

    /// Puts this load on the proxy, and counts in a window of this length once it is warm.
    pub(crate) async fn measure(
        &self,
        load: Load,
        window: Duration,
        cpu: impl Fn() -> [Duration; 2],
    ) -> Counted {
        let tally = Arc::new(Tally::default());
        let mut shares: Vec<Vec<_>> = (0..load.lanes).map(|_| Vec::new()).collect();
        let kept = if load.pattern.is_fresh() { 0 } else { load.connections };
        let opened = self.open(kept, &load).await;
        let missing = u64::try_from(kept - opened.len()).unwrap();
        tally.failed.store(missing, Ordering::Relaxed);
        let mut opened = opened.into_iter();
        for number in 0..load.connections {
            shares[number % load.lanes].push(opened.next());
        }
        let mut lanes = JoinSet::new();
        for (number, share) in shares.into_iter().enumerate() {
            lanes.spawn(self.clone().lane(load.clone(), number, share, Arc::clone(&tally)));
        }
        sleep(WARM).await;
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let before = (cpu(), count(&tally.answers));
        sleep(window).await;
        let answers = count(&tally.answers) - before.1;
        let [proxy, own] = cpu();
        let cpu = [proxy - before.0[0], own - before.0[1]];
        tally.stopped.store(true, Ordering::Relaxed);
        drop(timeout(ANSWER, async { while lanes.join_next().await.is_some() {} }).await);
        let (resumed, opened) = (count(&tally.resumed), count(&tally.opened));
        Counted { answers, failed: count(&tally.failed), resumed, opened, cpu }
    }
}
