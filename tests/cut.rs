//! A provider's answer that is cut is seen to be cut, wherever it is, whichever version of HTTP its
//! consumer speaks: never a short answer that looks whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::call::{Version, hear};
use crate::support::files::Files;
use crate::support::provider::answer;
use crate::support::wire::Wire;
use crate::support::{Act, Call, Stage};

/// Exchanges at once.
const AT_ONCE: usize = 16;

fn body() -> String {
    "{\"resourceType\":\"Bundle\"} ".repeat(82)
}

/// A provider that fails again and again is asked all the same.
fn patient(files: &mut Files) {
    files.add("[throttle]\npractice-failures-max = 1000000\npractice-failures-percent = 100");
}

/// A consumer that is quick to connect: its handshakes are resumed.
struct Consumer {
    tls: Arc<ClientConfig>,
    address: std::net::SocketAddr,
    http2: Option<http2::SendRequest<Full<Bytes>>>,
}

impl Consumer {
    async fn new(stage: &Stage, version: Version) -> Self {
        let protocol: &[u8] = if version == Version::Http2 { b"h2" } else { b"http/1.1" };
        let (tls, address) = (stage.consumer_tls("hub", protocol), stage.address());
        let mut consumer = Self { tls, address, http2: None };
        if version == Version::Http2 {
            let io = TokioIo::new(consumer.connect().await);
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            consumer.http2 = Some(sender);
        }
        consumer
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("ssp.example.nhs.uk").unwrap();
        TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await.unwrap()
    }

    /// The status, and whether the body seemed whole.
    async fn hears(&self) -> (u16, bool) {
        match &self.http2 {
            None => {
                let mut wire = Wire::new(self.connect().await);
                wire.stream.write_all(&Call::slots().bytes()).await.unwrap();
                let answer = hear(&mut wire).await.expect("an answer");
                (answer.status, answer.complete)
            }
            Some(sender) => {
                let request = Call::slots().http2().request();
                let response = sender.clone().send_request(request).await.unwrap();
                let status = response.status().as_u16();
                (status, response.into_body().collect().await.is_ok())
            }
        }
    }
}

/// Where the next answer is cut: everywhere once, and then nowhere.
#[derive(Clone)]
struct Cuts {
    next: Arc<AtomicUsize>,
    length: usize,
}

impl Cuts {
    fn of(length: usize) -> Self {
        Self { next: Arc::default(), length }
    }

    fn next(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed).min(self.length)
    }

    fn wholes(&self) -> usize {
        self.next.load(Ordering::Relaxed).saturating_sub(self.length)
    }
}

/// Asks until the answer has been cut everywhere: no more answers are clean than were whole.
async fn is_never_clean(stage: &Stage, version: Version, cuts: &Cuts) {
    let consumer = Consumer::new(stage, version).await;
    let mut clean = 0;
    while cuts.wholes() == 0 {
        let heard = stream::iter(0..AT_ONCE).map(|_| consumer.hears()).buffer_unordered(AT_ONCE);
        for (status, is_whole) in heard.collect::<Vec<_>>().await {
            match status {
                200 if is_whole => clean += 1,
                200 => {}
                502 => assert!(is_whole, "a refusal comes whole"),
                other => panic!("{other}"),
            }
        }
    }
    assert!(clean <= cuts.wholes(), "{clean} answers seemed whole, {} were", cuts.wholes());
    assert_eq!(consumer.hears().await, (200, true), "the whole is whole");
    drop(consumer);
    stage.is_calm().await;
}

fn http1_answers() -> [Vec<u8>; 2] {
    let (body, half) = (body(), body().len() / 2);
    let chunked = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{half:x}\r\n{}\r\n{:x};a=b\r\n{}\r\n0\r\n\r\n",
        &body[..half],
        body.len() - half,
        &body[half..],
    );
    [answer("200 OK", "Content-Type: application/fhir+json\r\n", &body), chunked.into_bytes()]
}

async fn cut_over_http1(version: Version) {
    for whole in http1_answers() {
        let stage = Stage::with(patient).await;
        let cuts = Cuts::of(whole.len());
        let script = cuts.clone();
        stage.provider.plays(move |_| Act::WriteAndClose(whole[..script.next()].to_vec()));
        is_never_clean(&stage, version, &cuts).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_cut_anywhere_is_never_clean_to_http1() {
    cut_over_http1(Version::Http1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_cut_anywhere_is_never_clean_to_http2() {
    cut_over_http1(Version::Http2).await;
}
