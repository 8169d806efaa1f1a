//! Network side of the directory, and response bodies that are slow or cut off.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::service_fn;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;

use super::super::serving::{accept, secured, serve_requests};
use super::SdsDirectory;
use super::trouble::SdsDelivery;

/// Delay between the first half of a body that is cut off and the end of the connection.
const HALF: Duration = Duration::from_millis(50);

impl SdsDirectory {
    /// Accepts connections until `stop` resolves, then closes those that are open.
    ///
    /// `tls` decides which client certificates are accepted; the real directory asks for none.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        tls: Arc<ServerConfig>,
        stop: impl Future<Output = ()>,
    ) {
        let acceptor = TlsAcceptor::from(tls);
        let attend = |stream| Arc::clone(&self).serve_connection(stream, acceptor.clone());
        accept(&listener, stop, attend).await;
    }

    async fn serve_connection(self: Arc<Self>, stream: TcpStream, acceptor: TlsAcceptor) {
        let Some(stream) = secured(stream, &acceptor).await else { return };
        let answer = service_fn(|request| Self::exchange(&self, request));
        let never = std::future::pending::<Infallible>();
        drop(serve_requests(stream, answer, never).await);
    }

    /// Answers one request; its body is ignored.
    async fn exchange(&self, request: Request<Incoming>) -> Result<Response<SdsBody>, Infallible> {
        let asked = request.uri().path_and_query().map_or("/", |asked| asked.as_str());
        let reply = self.answer(request.method(), asked, request.headers());
        match reply.manner {
            SdsDelivery::AtOnce | SdsDelivery::Dripping(_) | SdsDelivery::Cut => {}
            SdsDelivery::After(pause) => tokio::time::sleep(pause).await,
            SdsDelivery::Never => std::future::pending().await,
            SdsDelivery::Held => {
                while self.holds() {
                    tokio::time::sleep(HELD).await;
                }
            }
        }
        Ok(reply.response.map(|bytes| SdsBody::new(bytes, reply.manner)))
    }
}

/// Interval between checks that answers are still held back.
const HELD: Duration = Duration::from_millis(5);

/// Body of an answer, with the pace at which it is sent.
struct SdsBody {
    left: Bytes,
    pace: SdsBodyPace,
}

enum SdsBodyPace {
    Whole,
    Dripping(Duration, Pin<Box<Sleep>>),
    /// Sends this many bytes, then waits to cut the connection.
    Cut(usize),
    Cutting(Pin<Box<Sleep>>),
}

/// Error that ends a body, and with it the connection, early.
#[derive(Debug, thiserror::Error)]
#[error("the body is cut off by a simulated fault")]
struct CutBody;

impl SdsBody {
    fn new(bytes: Bytes, manner: SdsDelivery) -> Self {
        let pace = match manner {
            SdsDelivery::AtOnce
            | SdsDelivery::After(_)
            | SdsDelivery::Held
            | SdsDelivery::Never => SdsBodyPace::Whole,
            SdsDelivery::Dripping(pause) => {
                SdsBodyPace::Dripping(pause, Box::pin(tokio::time::sleep(pause)))
            }
            SdsDelivery::Cut => SdsBodyPace::Cut(bytes.len() / 2),
        };
        Self { left: bytes, pace }
    }

    fn first(&mut self, length: usize) -> Poll<Option<Result<Frame<Bytes>, CutBody>>> {
        Poll::Ready(Some(Ok(Frame::data(self.left.split_to(length)))))
    }
}

impl Body for SdsBody {
    type Data = Bytes;
    type Error = CutBody;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutBody>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        match &mut self.pace {
            SdsBodyPace::Whole => {
                let whole = self.left.len();
                self.first(whole)
            }
            SdsBodyPace::Dripping(pause, sleep) => {
                ready!(sleep.as_mut().poll(context));
                sleep.as_mut().reset(Instant::now() + *pause);
                self.first(1)
            }
            SdsBodyPace::Cut(half) => {
                let half = *half;
                self.pace = SdsBodyPace::Cutting(Box::pin(tokio::time::sleep(HALF)));
                self.first(half)
            }
            SdsBodyPace::Cutting(sleep) => {
                ready!(sleep.as_mut().poll(context));
                Poll::Ready(Some(Err(CutBody)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.left.len()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;

    use super::super::super::stage::tls;
    use super::super::SdsTrouble;
    use super::super::stage::{sandbox, target};
    use super::*;

    const SOON: Duration = Duration::from_secs(1);
    const EVER: Duration = Duration::from_secs(30);

    /// Returns everything received within this time, and true if the connection ended.
    async fn exchange(trouble: Option<SdsTrouble>, limit: Duration) -> (String, bool) {
        let (server, connector) = tls();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let sds = sandbox();
        if let Some(trouble) = trouble {
            sds.set(None, trouble);
        }
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(sds.serve(listener, server, async {
            drop(stopped.await);
        }));
        let stream = TcpStream::connect(address).await.unwrap();
        let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
        let asked = target("/Endpoint?org=Z99001&ia=SLOTS");
        let head = format!("GET {asked} HTTP/1.1\r\nHost: sds.test\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut told = Vec::new();
        let ended = tokio::time::timeout(limit, stream.read_to_end(&mut told)).await.is_ok();
        stop.send(()).unwrap();
        serving.await.unwrap();
        (String::from_utf8(told).unwrap(), ended)
    }

    /// Returns the length that the head announces, and the length of the body received.
    fn lengths(told: &str) -> (usize, usize) {
        let (head, body) = told.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let head = head.to_ascii_lowercase();
        let promised = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
        (promised.parse().unwrap(), body.len())
    }

    #[tokio::test]
    async fn an_answer_comes_whole_without_trouble() {
        let (told, ended) = exchange(None, EVER).await;
        let (promised, came) = lengths(&told);
        assert!(ended && promised == came, "{told}");
        assert!(told.contains("https://sds.test/spine-directory/FHIR/R4/Endpoint/"), "{told}");
    }

    #[tokio::test]
    async fn a_cut_answer_ends_in_the_middle() {
        let (told, ended) = exchange(Some(SdsTrouble::Cut), EVER).await;
        let (promised, came) = lengths(&told);
        assert!(ended && came == promised / 2, "{came} of {promised}");
    }

    #[tokio::test]
    async fn a_slow_answer_drips() {
        let (told, ended) =
            exchange(Some(SdsTrouble::SlowBody(Duration::from_millis(100))), SOON).await;
        let (promised, came) = lengths(&told);
        assert!(!ended && (1..=11).contains(&came), "{came} of {promised}");
    }

    #[tokio::test]
    async fn a_late_answer_comes_late_and_a_silent_one_not_at_all() {
        let pause = Duration::from_millis(300);
        let began = Instant::now();
        let (told, ended) = exchange(Some(SdsTrouble::EmptyAfter(pause)), EVER).await;
        assert!(ended && began.elapsed() >= pause && told.contains("\"total\": 0"), "{told}");
        assert_eq!(exchange(Some(SdsTrouble::Silence), SOON).await, (String::new(), false));
    }
}
