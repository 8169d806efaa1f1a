//! The consumers of a soak: searches and bookings over HTTP/1.1 and HTTP/2, a tenth of them given up
//! on the way.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Either, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use testkit::TestRequest;
use testkit::raw_connection::RawConnection;
use testkit::request::{Answer, read_answer};

/// Connections of HTTP/1.1, and of HTTP/2, which carry a quarter of the load.
const LANES: [u32; 2] = [15, 5];
/// One in so many is given up.
const GIVEN_UP: u32 = 10;
/// One in so many is a booking.
const BOOKING: u32 = 4;
/// Before what is given up while it waits, is.
const WAITS: Duration = Duration::from_millis(2);
/// The longest a consumer waits for an answer.
const PATIENCE: Duration = Duration::from_secs(35);

/// What the consumers share.
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    /// Certificates in force, for HTTP/1.1 and HTTP/2.
    pub(crate) tls: Mutex<[Arc<ClientConfig>; 2]>,
    /// What was heard, by its kind.
    pub(crate) heard: Mutex<BTreeMap<String, u64>>,
}

/// Where a consumer gives up.
#[derive(Debug, Clone, Copy)]
enum GivesUp {
    InTheRequest,
    Waiting,
    InTheAnswer,
}

type Stream = TlsStream<TcpStream>;
type Sender = http2::SendRequest<Either<Full<Bytes>, Unended>>;

impl Load {
    /// Sends `rate` requests a second until `end`, and closes every connection.
    pub(crate) async fn runs(self: Arc<Self>, rate: u32, end: Instant) {
        let gap = Duration::from_secs(u64::from(LANES[0] + LANES[1])) / rate.max(1);
        let mut lanes = Vec::new();
        for number in 0..LANES[0] + LANES[1] {
            let load = Arc::clone(&self);
            lanes.push(tokio::spawn(async move {
                match number < LANES[0] {
                    true => load.http1(number, gap, end).await,
                    false => load.http2(number, gap, end).await,
                }
            }));
        }
        for lane in lanes {
            lane.await.unwrap();
        }
    }

    async fn http1(&self, lane: u32, gap: Duration, end: Instant) {
        let mut kept: Option<RawConnection<Stream>> = None;
        let mut pace = pace(gap);
        for number in (lane * 7).. {
            pace.tick().await;
            if Instant::now() > end {
                return;
            }
            let (call, gives_up) = request(number);
            let wire = match kept.take() {
                Some(wire) => Some(wire),
                None => self.connect(0).await.map(RawConnection::new),
            };
            let Some(mut wire) = wire else { continue };
            let came = match gives_up {
                None => timeout(PATIENCE, exchange(&mut wire, &call)).await,
                Some(gives_up) => {
                    timeout(PATIENCE, given_up(&mut wire, call, gives_up)).await.map(|()| None)
                }
            };
            match came {
                Ok(Some(answer)) => {
                    self.hears(said(&answer));
                    kept = answer.complete.then_some(wire);
                }
                Ok(None) if gives_up.is_some() => self.hears("given up".to_owned()),
                Ok(None) => self.hears("connection ended".to_owned()),
                Err(_) => self.hears("NOTHING IN 35 s".to_owned()),
            }
        }
    }

    async fn http2(&self, lane: u32, gap: Duration, end: Instant) {
        let mut kept: Option<Sender> = None;
        let mut pace = pace(gap);
        for number in (lane * 7).. {
            pace.tick().await;
            if Instant::now() > end {
                return;
            }
            let (call, gives_up) = request(number);
            let sender = match kept.take().filter(http2::SendRequest::is_ready) {
                Some(sender) => Some(sender),
                None => self.connect_http2().await,
            };
            let Some(mut sender) = sender else { continue };
            let came =
                timeout(PATIENCE, exchange_http2(&mut sender, &call.http2(), gives_up)).await;
            self.hears(came.unwrap_or_else(|_| "NOTHING IN 35 s".to_owned()));
            kept = Some(sender);
        }
    }

    async fn connect(&self, version: usize) -> Option<Stream> {
        let tls = Arc::clone(&self.tls.lock().unwrap()[version]);
        let connected = async {
            let stream = TcpStream::connect(self.address).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from("ssp.example.nhs.uk").unwrap();
            TlsConnector::from(tls).connect(name, stream).await
        };
        let connected = timeout(PATIENCE, connected).await.ok().and_then(Result::ok);
        if connected.is_none() {
            self.hears("no connection".to_owned());
        }
        connected
    }

    async fn connect_http2(&self) -> Option<Sender> {
        let io = TokioIo::new(self.connect(1).await?);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.ok()?;
        tokio::spawn(connection);
        Some(sender)
    }

    fn hears(&self, what: String) {
        *self.heard.lock().unwrap().entry(what).or_default() += 1;
    }
}

fn pace(gap: Duration) -> tokio::time::Interval {
    let mut pace = tokio::time::interval(gap);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pace
}

/// The next request, and where it is given up, if it is.
fn request(number: u32) -> (TestRequest, Option<GivesUp>) {
    let gives_up = number.is_multiple_of(GIVEN_UP).then_some(match number / GIVEN_UP % 3 {
        0 => GivesUp::InTheRequest,
        1 => GivesUp::Waiting,
        _ => GivesUp::InTheAnswer,
    });
    let mut call = if number % BOOKING == 1 { TestRequest::book() } else { TestRequest::slots() };
    match gives_up {
        Some(GivesUp::InTheRequest) => call = TestRequest::book().body(&[b' '; 4_000]),
        Some(GivesUp::InTheAnswer) => {
            call = TestRequest::slots();
            call.target.push_str("&pour=1");
        }
        Some(GivesUp::Waiting) | None => {}
    }
    (call, gives_up)
}

async fn exchange(wire: &mut RawConnection<Stream>, call: &TestRequest) -> Option<Answer> {
    wire.stream.write_all(&call.bytes()).await.ok()?;
    read_answer(wire).await
}

/// Sends some or all of it and hears some or nothing; the connection is dropped afterwards.
async fn given_up(wire: &mut RawConnection<Stream>, call: TestRequest, gives_up: GivesUp) {
    let bytes = call.bytes();
    let part = match gives_up {
        GivesUp::InTheRequest => &bytes[..bytes.len() - 2_000],
        GivesUp::Waiting | GivesUp::InTheAnswer => &bytes[..],
    };
    drop(wire.stream.write_all(part).await);
    drop(wire.stream.flush().await);
    match gives_up {
        GivesUp::InTheRequest | GivesUp::Waiting => tokio::time::sleep(WAITS).await,
        GivesUp::InTheAnswer => drop(wire.head().await),
    }
}

async fn exchange_http2(
    sender: &mut Sender,
    call: &TestRequest,
    gives_up: Option<GivesUp>,
) -> String {
    let request = match gives_up {
        Some(GivesUp::InTheRequest) => {
            let begun = Unended(Some(Bytes::from_static(b"{\"resourceType\":")));
            let call = call.clone().body(b"").with("Content-Length", "4000");
            call.request().map(|_| Either::Right(begun))
        }
        Some(GivesUp::Waiting | GivesUp::InTheAnswer) | None => call.request().map(Either::Left),
    };
    let sending = sender.send_request(request);
    let response = match gives_up {
        Some(GivesUp::InTheRequest | GivesUp::Waiting) => {
            drop(timeout(WAITS, sending).await);
            return "given up".to_owned();
        }
        Some(GivesUp::InTheAnswer) | None => sending.await,
    };
    let Ok(response) = response else { return "connection ended".to_owned() };
    let (head, mut body) = response.into_parts();
    if gives_up.is_some() {
        drop(body.frame().await);
        return "given up".to_owned();
    }
    let headers = head.headers.iter().map(|(name, value)| {
        (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    let headers = headers.collect();
    let complete = body.collect().await.is_ok();
    said(&Answer { status: head.status.as_u16(), headers, body: Vec::new(), complete })
}

/// An answer in a word or two.
fn said(answer: &Answer) -> String {
    let what = answer.token().map_or_else(|| answer.status.to_string(), str::to_owned);
    if answer.complete { what } else { format!("{what}, cut") }
}

/// A body whose beginning is there, and whose end never comes.
#[derive(Debug)]
pub(crate) struct Unended(Option<Bytes>);

impl Body for Unended {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.0.take() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None => Poll::Pending,
        }
    }
}
