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

use super::super::serving::{accept, accept_tls, serve_requests};
use super::SdsDirectory;
use super::faults::SdsDelivery;

/// Delay between the first half of a body that is cut off and the end of the connection.
const CUT_DELAY: Duration = Duration::from_millis(50);

impl SdsDirectory {
    /// Accepts connections until `stop` resolves, then closes those that are open.
    ///
    /// `tls` decides which client certificates are accepted; the real directory requests none.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        tls: Arc<ServerConfig>,
        stop: impl Future<Output = ()>,
    ) {
        let acceptor = TlsAcceptor::from(tls);
        let serve = |stream| Arc::clone(&self).serve_connection(stream, acceptor.clone());
        accept(&listener, stop, serve).await;
    }

    async fn serve_connection(self: Arc<Self>, stream: TcpStream, acceptor: TlsAcceptor) {
        let Some(stream) = accept_tls(stream, &acceptor).await else { return };
        let service = service_fn(|request| Self::exchange(&self, request));
        let never = std::future::pending::<Infallible>();
        drop(serve_requests(stream, service, never).await);
    }

    /// Answers one request; its body is ignored.
    async fn exchange(&self, request: Request<Incoming>) -> Result<Response<SdsBody>, Infallible> {
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        let reply = self.answer(request.method(), target, request.headers());
        match reply.delivery {
            SdsDelivery::AtOnce | SdsDelivery::Dripping(_) | SdsDelivery::Cut => {}
            SdsDelivery::After(pause) => tokio::time::sleep(pause).await,
            SdsDelivery::Never => std::future::pending().await,
            SdsDelivery::HeldBack => {
                while self.holds_answers_back() {
                    tokio::time::sleep(HELD_BACK_INTERVAL).await;
                }
            }
        }
        Ok(reply.response.map(|bytes| SdsBody::new(bytes, reply.delivery)))
    }
}

/// Interval between checks that answers are still held back.
const HELD_BACK_INTERVAL: Duration = Duration::from_millis(5);

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
    fn new(bytes: Bytes, delivery: SdsDelivery) -> Self {
        let pace = match delivery {
            SdsDelivery::AtOnce
            | SdsDelivery::After(_)
            | SdsDelivery::HeldBack
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
                self.pace = SdsBodyPace::Cutting(Box::pin(tokio::time::sleep(CUT_DELAY)));
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
    use super::super::SdsFault;
    use super::super::stage::{sandbox, target};
    use super::*;

    const SHORT_WAIT: Duration = Duration::from_secs(1);
    const DEADLINE: Duration = Duration::from_secs(30);

    /// Returns everything received within this time, and true if the connection ended.
    async fn exchange(fault: Option<SdsFault>, limit: Duration) -> (String, bool) {
        let (server, connector) = tls();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let sds = sandbox();
        if let Some(fault) = fault {
            sds.set(None, fault);
        }
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(sds.serve(listener, server, async {
            drop(stopped.await);
        }));
        let stream = TcpStream::connect(address).await.unwrap();
        let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
        let target = target("/Endpoint?org=Z99001&ia=SLOTS");
        let head = format!("GET {target} HTTP/1.1\r\nHost: sds.test\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut response = Vec::new();
        let ended = tokio::time::timeout(limit, stream.read_to_end(&mut response)).await.is_ok();
        stop.send(()).unwrap();
        serving.await.unwrap();
        (String::from_utf8(response).unwrap(), ended)
    }

    /// Returns the length that the head announces, and the length of the body received.
    fn lengths(response: &str) -> (usize, usize) {
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let head = head.to_ascii_lowercase();
        let announced = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
        (announced.parse().unwrap(), body.len())
    }

    #[tokio::test]
    async fn an_answer_without_a_fault_is_complete() {
        let (response, ended) = exchange(None, DEADLINE).await;
        let (announced, received) = lengths(&response);
        assert!(ended && announced == received, "{response}");
        assert!(
            response.contains("https://sds.test/spine-directory/FHIR/R4/Endpoint/"),
            "{response}"
        );
    }

    #[tokio::test]
    async fn a_cut_body_ends_in_the_middle() {
        let (response, ended) = exchange(Some(SdsFault::Cut), DEADLINE).await;
        let (announced, received) = lengths(&response);
        assert!(ended && received == announced / 2, "{received} of {announced}");
    }

    #[tokio::test]
    async fn a_slow_body_is_sent_byte_by_byte() {
        let (response, ended) =
            exchange(Some(SdsFault::SlowBody(Duration::from_millis(100))), SHORT_WAIT).await;
        let (announced, received) = lengths(&response);
        assert!(!ended && (1..=11).contains(&received), "{received} of {announced}");
    }

    #[tokio::test]
    async fn an_answer_can_be_delayed_or_withheld() {
        let pause = Duration::from_millis(300);
        let began = Instant::now();
        let (response, ended) = exchange(Some(SdsFault::EmptyAfter(pause)), DEADLINE).await;
        assert!(
            ended && began.elapsed() >= pause && response.contains("\"total\": 0"),
            "{response}"
        );
        assert_eq!(exchange(Some(SdsFault::NoResponse), SHORT_WAIT).await, (String::new(), false));
    }
}
