//! The consumer: when it asks for which practice, and at which gateway, as behind a TCP balancer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gpconnect_simulator::sds::Records;
use testkit::raw_connection::RawConnection;
use testkit::request::{Answer, read_answer};
use testkit::sds::{BOOK, READ, SLOTS};
use testkit::{TestBed, TestRequest};
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

/// Time between the first requests for two practices: 12 in 10 s, which need 36 of the 40 queries that SDS answers.
const PRACTICE_GAP: Duration = Duration::from_nanos(10_000_000_000 / 12);
/// Times of the requests for a practice, in milliseconds from the first: two at once, then two when it is known.
const VISITS_MS: [u64; 4] = [0, 0, 2_500, 5_000];
/// Number of requests for a practice.
const VISITS: usize = VISITS_MS.len();
/// Limit: time for one request, more than the gateway's deadlines together.
const PATIENCE: Duration = Duration::from_secs(20);

/// A request for a practice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Planned {
    practice: u32,
    visit: usize,
}

/// A request that was sent, and its end.
#[derive(Debug)]
pub(crate) struct Sent {
    /// The beginning of the first attempt.
    pub(crate) began: Instant,
    pub(crate) took: Duration,
    /// True if this was one of the first two requests for its practice, which wait for the directory.
    pub(crate) is_first: bool,
    /// Number of gateways that accepted no connection for it.
    pub(crate) turned_away: usize,
    /// The time at which a connection ended without an answer, after which it was repeated elsewhere.
    pub(crate) cut: Option<Instant>,
    pub(crate) end: End,
}

/// End of a request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    Served,
    /// Refused with this token, or answered with another status than 200.
    Refused(String),
    /// No gateway answered.
    Unanswered,
    TimedOut,
}

impl Planned {
    /// Returns all requests for so many practices, in the order in which they are sent.
    pub(crate) fn all(practices: u32) -> Vec<Self> {
        let every = (0..practices)
            .flat_map(|practice| (0..VISITS).map(move |visit| Self { practice, visit }));
        let mut all: Vec<_> = every.collect();
        all.sort_by_key(|planned| planned.due());
        all
    }

    /// Time from the beginning of the run.
    pub(crate) fn due(self) -> Duration {
        PRACTICE_GAP * self.practice + Duration::from_millis(VISITS_MS[self.visit])
    }

    /// Time of the first request for a practice at this gateway, of so many, half way through the run.
    pub(crate) fn half_way(practices: u32, gateway: usize, gateways: usize) -> Duration {
        let rest = (practices / 2..practices).map(|practice| Self { practice, visit: 0 });
        let mut there = rest.filter(|planned| planned.gateway() % gateways == gateway);
        there.next().map(Self::due).unwrap_or_default()
    }

    /// Number of the gateway that it is sent to first, modulo their number.
    fn gateway(self) -> usize {
        usize::try_from(self.practice).unwrap() + self.visit
    }

    fn request(self) -> TestRequest {
        let Practice { ods, asid, root } = Practice::number(self.practice);
        let search = "Slot?status=free&start=ge2026-11-23&end=le2026-11-30";
        let target = match self.visit % 2 {
            0 => format!("/{root}/{search}"),
            _ => format!("/{ods}/STU3/1/gpconnect/{search}"),
        };
        let request = TestRequest::slots().target(&target).set("Ssp-To", &asid);
        request.claim("aud", root.into())
    }
}

/// An invented practice.
struct Practice {
    ods: String,
    asid: String,
    root: String,
}

impl Practice {
    fn number(number: u32) -> Self {
        let ods = format!("Z{:05}", 10_000 + number);
        let root = format!("https://provider.example.nhs.uk/{ods}/STU3/1/gpconnect");
        Self { asid: format!("9189{number:08}"), ods, root }
    }
}

/// Number of requests for so many practices.
pub(crate) fn requests(practices: u32) -> usize {
    Planned::all(practices).len()
}

/// Returns the directory's records of so many practices.
pub(crate) fn records(practices: u32) -> Records {
    (0..practices).map(Practice::number).fold(Records::default(), |records, practice| {
        let Practice { ods, asid, root } = practice;
        let party_key = format!("{ods}-1000001");
        records.and(Records::practice(&ods, &asid, &party_key, &root, &[SLOTS, BOOK, READ]))
    })
}

/// Sends every request when it is due. Returns them in the order of the plan.
pub(crate) async fn send_all(
    bed: &Arc<TestBed>,
    gateways: &[SocketAddr],
    practices: u32,
    begin: Instant,
) -> Vec<Sent> {
    let mut under_way = JoinSet::new();
    for (number, planned) in Planned::all(practices).into_iter().enumerate() {
        let (bed, mut gateways) = (Arc::clone(bed), gateways.to_vec());
        let first = planned.gateway() % gateways.len();
        gateways.rotate_left(first);
        under_way.spawn(async move {
            sleep_until((begin + planned.due()).into()).await;
            (number, send(&bed, &gateways, planned).await)
        });
    }
    let mut sent = under_way.join_all().await;
    sent.sort_by_key(|(number, _)| *number);
    sent.into_iter().map(|(_, sent)| sent).collect()
}

/// Sends a request to the first of these gateways that accepts a connection; if that connection ends without an
/// answer, once more to another.
async fn send(bed: &TestBed, gateways: &[SocketAddr], planned: Planned) -> Sent {
    let (began, request) = (Instant::now(), planned.request());
    let (mut turned_away, mut cut) = (0, None);
    let attempts = async {
        for gateway in gateways {
            let Ok(stream) = request.connect_to(bed, *gateway).await else {
                turned_away += 1;
                continue;
            };
            let mut connection = RawConnection::new(stream);
            drop(connection.stream.write_all(&request.bytes()).await);
            drop(connection.stream.flush().await);
            match read_answer(&mut connection).await.filter(|answer| answer.complete) {
                Some(answer) => return End::of(&answer),
                None if cut.is_none() => cut = Some(Instant::now()),
                None => break,
            }
        }
        End::Unanswered
    };
    let end = timeout(PATIENCE, attempts).await.unwrap_or(End::TimedOut);
    let (took, is_first) = (began.elapsed(), VISITS_MS[planned.visit] == 0);
    Sent { began, took, is_first, turned_away, cut, end }
}

impl End {
    fn of(answer: &Answer) -> Self {
        match (answer.token(), answer.status) {
            (None, 200) => Self::Served,
            (Some(token), _) => Self::Refused(token.to_owned()),
            (None, status) => Self::Refused(status.to_string()),
        }
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Served => "served",
            Self::Refused(token) => token,
            Self::Unanswered => "unanswered",
            Self::TimedOut => "timed out",
        }
    }
}
