//! A provider's answer that is cut at any byte is visibly cut for the consumer, over HTTP/1.1 and HTTP/2:
//! it never looks like a complete short answer.

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

use testkit::files::Files;
use testkit::provider::answer;
use testkit::raw_connection::RawConnection;
use testkit::request::{Version, read_answer};
use testkit::{ProviderAction, TestBed, TestRequest};

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
    async fn new(bed: &TestBed, version: Version) -> Self {
        let protocol: &[u8] = if version == Version::Http2 { b"h2" } else { b"http/1.1" };
        let (tls, address) = (bed.consumer_tls("hub", protocol), bed.address());
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
                let mut wire = RawConnection::new(self.connect().await);
                wire.stream.write_all(&TestRequest::slots().bytes()).await.unwrap();
                let answer = read_answer(&mut wire).await.expect("an answer");
                (answer.status, answer.complete)
            }
            Some(sender) => {
                let request = TestRequest::slots().http2().request();
                let response = sender.clone().send_request(request).await.unwrap();
                let status = response.status().as_u16();
                (status, response.into_body().collect().await.is_ok())
            }
        }
    }
}

/// Position at which the next answer is cut: each position once, and then none.
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
async fn is_never_clean(bed: &TestBed, version: Version, cuts: &Cuts) {
    let consumer = Consumer::new(bed, version).await;
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
    bed.wait_until_idle().await;
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
        let bed = TestBed::with(patient).await;
        let cuts = Cuts::of(whole.len());
        let script = cuts.clone();
        bed.provider
            .set_script(move |_| ProviderAction::WriteAndClose(whole[..script.next()].to_vec()));
        is_never_clean(&bed, version, &cuts).await;
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
async fn all_that_comes(bed: &TestBed, call: &TestRequest, version: &str) -> (String, bool) {
    let mut wire = RawConnection::new(call.connect(bed).await.unwrap());
    let text = String::from_utf8(call.bytes()).unwrap().replacen("HTTP/1.1", version, 1);
    wire.stream.write_all(text.as_bytes()).await.unwrap();
    let is_announced = wire.ends_cleanly().await;
    (String::from_utf8(wire.unread).unwrap(), is_announced)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_answer_is_forwarded_without_an_announced_end() {
    let bed = TestBed::with(|files| {
        patient(files);
        files.add("[provider.deadlines]\nbody-idle = \"200ms\"");
    })
    .await;
    let sized = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";
    // Its head comes, and the fault at once with it.
    let broken = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
    let until_the_end = "HTTP/1.0 200 OK\r\n\r\nhalf";
    let acts: [fn(Vec<u8>) -> ProviderAction; 3] = [
        ProviderAction::WriteAndClose,
        ProviderAction::WriteAndBreakOff,
        ProviderAction::WriteAndStall,
    ];
    for (bytes, version, last) in [
        (sized, "HTTP/1.1", "\r\n\r\nhalf"),
        (sized, "HTTP/1.0", "\r\n\r\nhalf"),
        (chunked, "HTTP/1.1", "\r\n\r\n4\r\nhalf\r\n"),
        (broken, "HTTP/1.1", "\r\n\r\n"),
        // Only the end of the connection marks the end of the body.
        (chunked, "HTTP/1.0", "\r\n\r\nhalf"),
        (broken, "HTTP/1.0", "\r\n\r\n"),
        (until_the_end, "HTTP/1.1", "\r\n\r\n4\r\nhalf\r\n"),
        (until_the_end, "HTTP/1.0", "\r\n\r\nhalf"),
    ] {
        for act in acts {
            let act = act(bytes.as_bytes().to_vec());
            if bytes == until_the_end && matches!(act, ProviderAction::WriteAndClose(_)) {
                continue;
            }
            bed.provider.set_action(act.clone());
            let (text, is_announced) = all_that_comes(&bed, &TestRequest::slots(), version).await;
            assert!(text.starts_with(&format!("{version} 200 OK\r\n")), "{act:?}: {text}");
            assert!(text.ends_with(last), "{act:?}: {text}");
            assert!(!is_announced, "{act:?} over {version}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_connection_is_announced_after_a_whole_answer() {
    let bed = TestBed::new().await;
    let [sized, chunked] = http1_answers();
    let closing = TestRequest::slots().with("Connection", "close");
    for (answer, version) in
        [(&sized, "HTTP/1.1"), (&chunked, "HTTP/1.1"), (&sized, "HTTP/1.0"), (&chunked, "HTTP/1.0")]
    {
        bed.provider.set_action(ProviderAction::Write(answer.clone()));
        let (text, is_announced) = all_that_comes(&bed, &closing, version).await;
        assert!(text.starts_with(&format!("{version} 200 OK\r\n")), "{text}");
        assert!(is_announced, "{version}: {text}");
    }
    let refused = closing.certificate("none");
    let (text, is_announced) = all_that_comes(&bed, &refused, "HTTP/1.1").await;
    assert!(text.starts_with("HTTP/1.1 496 ") && is_announced, "{text}");
}
