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

use testkit::call::{Version, hear};
use testkit::files::Files;
use testkit::provider::answer;
use testkit::wire::Wire;
use testkit::{Act, Call, Stage};

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

/// Asks over HTTP/1.1, or 1.0, and returns all that comes until the connection ends, and whether its end was
/// announced.
async fn all_that_comes(stage: &Stage, call: &Call, version: &str) -> (String, bool) {
    let mut wire = Wire::new(call.connect(stage).await.unwrap());
    let text = String::from_utf8(call.bytes()).unwrap().replacen("HTTP/1.1", version, 1);
    wire.stream.write_all(text.as_bytes()).await.unwrap();
    let is_announced = wire.ends_cleanly().await;
    (String::from_utf8(wire.unread).unwrap(), is_announced)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_of_a_cut_answer_is_passed_on_and_no_end_of_it_is_announced() {
    let stage = Stage::with(|files| {
        patient(files);
        files.add("[provider.deadlines]\nbody-idle = \"200ms\"");
    })
    .await;
    let sized = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";
    // Its head comes, and the fault at once with it.
    let broken = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
    let until_the_end = "HTTP/1.0 200 OK\r\n\r\nhalf";
    let acts: [fn(Vec<u8>) -> Act; 3] =
        [Act::WriteAndClose, Act::WriteAndBreakOff, Act::WriteAndStall];
    for (bytes, version, last) in [
        (sized, "HTTP/1.1", "\r\n\r\nhalf"),
        (sized, "HTTP/1.0", "\r\n\r\nhalf"),
        (chunked, "HTTP/1.1", "\r\n\r\n4\r\nhalf\r\n"),
        (broken, "HTTP/1.1", "\r\n\r\n"),
        // Nothing but the end of the connection tells whether this is all.
        (chunked, "HTTP/1.0", "\r\n\r\nhalf"),
        (broken, "HTTP/1.0", "\r\n\r\n"),
        (until_the_end, "HTTP/1.1", "\r\n\r\n4\r\nhalf\r\n"),
        (until_the_end, "HTTP/1.0", "\r\n\r\nhalf"),
    ] {
        for act in acts {
            let act = act(bytes.as_bytes().to_vec());
            if bytes == until_the_end && matches!(act, Act::WriteAndClose(_)) {
                continue;
            }
            stage.provider.does(act.clone());
            let (text, is_announced) = all_that_comes(&stage, &Call::slots(), version).await;
            assert!(text.starts_with(&format!("{version} 200 OK\r\n")), "{act:?}: {text}");
            assert!(text.ends_with(last), "{act:?}: {text}");
            assert!(!is_announced, "{act:?} over {version}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_connection_is_announced_after_a_whole_answer() {
    let stage = Stage::new().await;
    let [sized, chunked] = http1_answers();
    let closing = Call::slots().with("Connection", "close");
    for (answer, version) in
        [(&sized, "HTTP/1.1"), (&chunked, "HTTP/1.1"), (&sized, "HTTP/1.0"), (&chunked, "HTTP/1.0")]
    {
        stage.provider.does(Act::Write(answer.clone()));
        let (text, is_announced) = all_that_comes(&stage, &closing, version).await;
        assert!(text.starts_with(&format!("{version} 200 OK\r\n")), "{text}");
        assert!(is_announced, "{version}: {text}");
    }
    let refused = closing.certificate("none");
    let (text, is_announced) = all_that_comes(&stage, &refused, "HTTP/1.1").await;
    assert!(text.starts_with("HTTP/1.1 496 ") && is_announced, "{text}");
}
