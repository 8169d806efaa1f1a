//! The well-behaved consumer: so many requests a second over kept connections, and a new connection
//! now and then. A request's clock starts when it is due, not when there is room for it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::figures::Latencies;
use testkit::raw_connection::RawConnection;
use testkit::request::read_answer;
use testkit::{TestBed, TestRequest};

/// Kept connections, each with its share of the rate.
const LANES: u32 = 10;
/// New connections a second, each with a whole handshake and one request.
const FRESH_PER_SECOND: u32 = 2;
/// Each so manyth request is a booking.
const BOOKING: u32 = 10;
/// How long it waits for an answer, or for a connection.
const PATIENCE: Duration = Duration::from_secs(5);

type Connection = RawConnection<TlsStream<TcpStream>>;

/// The consumer, between two measurements.
pub(crate) struct Consumer {
    bed: Arc<TestBed>,
    address: SocketAddr,
    lanes: Vec<Lane>,
}

/// One kept connection.
struct Lane {
    tls: Arc<ClientConfig>,
    connection: Option<Connection>,
}

/// What became of one request.
enum Came {
    Answered(Duration),
    Refused(String),
    TimedOut,
    Broken,
}

/// What was measured.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) kept: Latencies,
    /// Over new connections, handshake included.
    pub(crate) fresh: Latencies,
    /// Refusals by their token, for either.
    pub(crate) refused: BTreeMap<String, usize>,
    pub(crate) timed_out: usize,
    /// Connections that could not be had, or that ended without an answer.
    pub(crate) broken: usize,
    pub(crate) fresh_failed: usize,
}

impl Consumer {
    pub(crate) fn new(bed: &Arc<TestBed>, address: SocketAddr) -> Self {
        let tls = bed.consumer_tls("hub", b"http/1.1");
        let lanes = (0..LANES).map(|_| Lane { tls: Arc::clone(&tls), connection: None }).collect();
        Self { bed: Arc::clone(bed), address, lanes }
    }

    /// Sends `rate` requests a second for so long, and waits for the last answer.
    pub(crate) async fn measure(&mut self, rate: u32, period: Duration) -> Measured {
        let begin = Instant::now();
        let pace = Pace { begin, period, gap: Duration::from_secs(u64::from(LANES)) / rate.max(1) };
        let mut under_way = Vec::new();
        for (number, mut lane) in (0..).zip(self.lanes.drain(..)) {
            let (address, pace) = (self.address, pace.later(number * pace.gap / LANES));
            under_way.push(tokio::spawn(async move {
                let came = lane.sends(address, pace).await;
                (lane, came)
            }));
        }
        let pace = Pace { gap: Duration::from_secs(1) / FRESH_PER_SECOND, ..pace };
        let fresh = tokio::spawn(sends_afresh(Arc::clone(&self.bed), self.address, pace));
        let mut all = Vec::new();
        for lane in under_way {
            let (lane, came) = lane.await.unwrap();
            self.lanes.push(lane);
            all.extend(came);
        }
        Measured::of(all, fresh.await.unwrap())
    }
}

/// When requests are due.
#[derive(Debug, Clone, Copy)]
struct Pace {
    begin: Instant,
    period: Duration,
    gap: Duration,
}

impl Pace {
    fn later(self, by: Duration) -> Self {
        Self { begin: self.begin + by, ..self }
    }

    /// Every moment at which a request is due, with its number.
    fn dues(self) -> impl Iterator<Item = (u32, Instant)> {
        let count = u32::try_from(self.period.as_nanos() / self.gap.as_nanos().max(1)).unwrap();
        (0..count).map(move |number| (number, self.begin + self.gap * number))
    }

    /// When nothing is waited for any more.
    fn end(self) -> Instant {
        self.begin + self.period + PATIENCE
    }
}

impl Lane {
    async fn sends(&mut self, address: SocketAddr, pace: Pace) -> Vec<Came> {
        let mut came = Vec::new();
        for (number, due) in pace.dues() {
            sleep_until(due).await;
            let call =
                if number % BOOKING == 0 { TestRequest::book() } else { TestRequest::slots() };
            let deadline = (Instant::now() + PATIENCE).min(pace.end());
            let one = timeout_at(deadline, self.sends_one(address, &call, due)).await;
            // What was abandoned may still be answered: not on this connection.
            let one = one.unwrap_or(Came::TimedOut);
            if !matches!(one, Came::Answered(_)) {
                self.connection = None;
            }
            came.push(one);
        }
        came
    }

    async fn sends_one(&mut self, address: SocketAddr, call: &TestRequest, due: Instant) -> Came {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => match connect(address, &self.tls).await {
                Some(connection) => connection,
                None => return Came::Broken,
            },
        };
        let came = exchange(&mut connection, call, due).await;
        self.connection = Some(connection);
        came
    }
}

async fn sends_afresh(bed: Arc<TestBed>, address: SocketAddr, pace: Pace) -> Vec<Came> {
    let mut came = Vec::new();
    for (_, due) in pace.dues() {
        sleep_until(due).await;
        let tls = bed.consumer_tls("hub", b"http/1.1");
        let one = async {
            match connect(address, &tls).await {
                Some(mut connection) => exchange(&mut connection, &TestRequest::slots(), due).await,
                None => Came::Broken,
            }
        };
        came.push(timeout(PATIENCE, one).await.unwrap_or(Came::TimedOut));
    }
    came
}

async fn connect(address: SocketAddr, tls: &Arc<ClientConfig>) -> Option<Connection> {
    let stream = TcpStream::connect(address).await.ok()?;
    stream.set_nodelay(true).ok()?;
    let name = ServerName::try_from("ssp.example.nhs.uk").unwrap();
    Some(RawConnection::new(TlsConnector::from(Arc::clone(tls)).connect(name, stream).await.ok()?))
}

async fn exchange(connection: &mut Connection, call: &TestRequest, due: Instant) -> Came {
    if connection.stream.write_all(&call.bytes()).await.is_err() {
        return Came::Broken;
    }
    match read_answer(connection).await {
        None => Came::Broken,
        Some(answer) if answer.status == 200 && answer.complete => Came::Answered(due.elapsed()),
        Some(answer) => {
            let token = answer.token().map(str::to_owned);
            Came::Refused(token.unwrap_or_else(|| answer.status.to_string()))
        }
    }
}

impl Measured {
    fn of(kept: Vec<Came>, fresh: Vec<Came>) -> Self {
        let latencies = |came: &[Came]| {
            let answered = came.iter().filter_map(|one| match one {
                Came::Answered(latency) => Some(*latency),
                Came::Refused(_) | Came::TimedOut | Came::Broken => None,
            });
            answered.collect::<Latencies>()
        };
        let (kept_latencies, fresh_latencies) = (latencies(&kept), latencies(&fresh));
        let mut measured = Self {
            fresh_failed: fresh.len() - fresh_latencies.count(),
            kept: kept_latencies,
            fresh: fresh_latencies,
            ..Self::default()
        };
        for one in kept.into_iter().chain(fresh) {
            match one {
                Came::Answered(_) => {}
                Came::Refused(token) => *measured.refused.entry(token).or_default() += 1,
                Came::TimedOut => measured.timed_out += 1,
                Came::Broken => measured.broken += 1,
            }
        }
        measured
    }

    /// Whether everything was answered.
    pub(crate) fn is_whole(&self) -> bool {
        self.refused.is_empty() && self.timed_out + self.broken == 0
    }

    /// Refusals in words.
    pub(crate) fn refusals(&self) -> String {
        let refused = self.refused.iter().map(|(token, count)| format!("{count} {token}"));
        let broken = (self.broken > 0).then(|| format!("{} broken off", self.broken));
        let all: Vec<_> = refused.chain(broken).collect();
        if all.is_empty() { "0".to_owned() } else { all.join(", ") }
    }
}
