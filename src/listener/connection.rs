//! One connection: handshake, protocol, deadlines, end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use jiff::Timestamp;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, TryAcquireError};
use tokio::time::timeout_at;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::Limits;
use super::watched::{Activity, Busy, Taking, Watched};
use crate::gateway::{Answer, Connection, Gateway};
use crate::metrics::Phase;
use crate::refusal::Refusal;
use crate::tls::Handshake;

/// What a connection needs of its worker.
pub(super) struct Seat {
    pub(super) gateway: Arc<Gateway>,
    pub(super) limits: Limits,
    pub(super) unverified: Arc<Semaphore>,
    pub(super) drain: CancellationToken,
}

/// Limit: hyper's own head buffer. Ours lie below, so that 414 and 431 are answered by the line.
const HEAD_BUFFER_BYTES: usize = 128 * 1024;
/// Limit: hyper's own count of header lines.
const HEADERS_MAX: usize = 128;
/// Limit: an HTTP/2 header list.
const HEADER_LIST_BYTES: u32 = 128 * 1024;
/// HTTP/2 windows: what one stream, and all of a connection, may have under way unread.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 512 * 1024;
/// Limit: bytes waiting to be written on one stream.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

impl Seat {
    /// Serves a connection to its end.
    pub(super) async fn serve(self, stream: TcpStream, consumer: SocketAddr, started: Instant) {
        let metrics = Arc::clone(self.gateway.metrics());
        // A socket option that cannot be set costs latency, not correctness.
        stream.set_nodelay(true).unwrap_or_default();
        let live = self.gateway.live();
        let handshake = TlsAcceptor::from(Arc::clone(&live.trust.server)).accept(stream);
        let deadline = tokio::time::Instant::from_std(started) + self.limits.handshake;
        let stream = match timeout_at(deadline, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%error, "handshake failed");
                return metrics.handshake("failed");
            }
            Err(_) => return metrics.handshake("timed_out"),
        };
        let (_, tls) = stream.get_ref();
        let is_h2 = tls.alpn_protocol() == Some(b"h2");
        let handshake = Handshake::new(tls.peer_certificates());
        let peer = handshake.peer(&live.trust, Timestamp::now().as_second());
        metrics.handshake(match &peer {
            Ok(_) => "ok",
            Err(Refusal::CertificateMissing) => "no_certificate",
            Err(_) => "bad_certificate",
        });
        let verified = peer.is_ok();
        metrics.phase(Phase::Tls, started.elapsed());
        drop(live);
        // Connections that can only be refused have few places of their own.
        let _place = match (verified, Arc::clone(&self.unverified).try_acquire_owned()) {
            (true, _) => None,
            (false, Ok(place)) => Some(place),
            (false, Err(TryAcquireError::NoPermits | TryAcquireError::Closed)) => {
                return metrics.connection_error("no_slot");
            }
        };
        let connection =
            Arc::new(Connection { handshake, consumer, close: CancellationToken::new() });
        let ended = if is_h2 {
            self.serve_h2(stream, connection).await
        } else {
            self.serve_h1(stream, connection).await
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection ended");
            metrics.connection_error(reason(&error));
        }
    }

    async fn serve_h1(
        &self,
        stream: TlsStream<TcpStream>,
        connection: Arc<Connection>,
    ) -> Result<(), hyper::Error> {
        let activity = Arc::new(Activity::new());
        let service = service(&self.gateway, &connection, &activity);
        let io = Watched::new(
            stream,
            Arc::clone(&activity),
            Some(self.limits.head),
            self.limits.write_stall,
        );
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.idle)
            // Some consumers end their side once they have sent a request.
            .half_close(true)
            .max_buf_size(HEAD_BUFFER_BYTES)
            .max_headers(HEADERS_MAX)
            .preserve_header_case(true)
            .serve_connection(TokioIo::new(io), service_fn(service));
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            ended = &mut serving => return ended,
            () = self.drain.cancelled() => {}
            () = connection.close.cancelled() => {}
        }
        serving.as_mut().graceful_shutdown();
        serving.await
    }

    /// hyper has neither a head nor an idle deadline for HTTP/2: both are here.
    async fn serve_h2(
        &self,
        stream: TlsStream<TcpStream>,
        connection: Arc<Connection>,
    ) -> Result<(), hyper::Error> {
        let activity = Arc::new(Activity::new());
        let service = service(&self.gateway, &connection, &activity);
        let io = Watched::new(stream, Arc::clone(&activity), None, self.limits.write_stall);
        let serving = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(self.limits.streams_max)
            .max_header_list_size(HEADER_LIST_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .max_local_error_reset_streams(256)
            .serve_connection(TokioIo::new(io), service_fn(service));
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            ended = &mut serving => return ended,
            () = self.drain.cancelled() => {}
            () = connection.close.cancelled() => {}
            () = activity.quiet(self.limits.head, self.limits.idle) => {}
            () = activity.stalled(self.limits.write_stall) => return Ok(()),
        }
        serving.as_mut().graceful_shutdown();
        // A peer that goes on without an exchange is not waited for.
        tokio::select! {
            ended = serving => ended,
            () = activity.quiet(self.limits.head, self.limits.head) => Ok(()),
            () = activity.stalled(self.limits.write_stall) => Ok(()),
        }
    }
}

/// An answer on its way; boxed, so that a connection at rest does not hold the room of a request.
type Answering = Pin<Box<dyn Future<Output = Result<Response<Guarded>, Infallible>> + Send>>;

/// The service of one connection.
fn service(
    gateway: &Arc<Gateway>,
    connection: &Arc<Connection>,
    activity: &Arc<Activity>,
) -> impl Fn(Request<Incoming>) -> Answering {
    let (gateway, connection, activity) =
        (Arc::clone(gateway), Arc::clone(connection), Arc::clone(activity));
    move |request| {
        let (gateway, connection) = (Arc::clone(&gateway), Arc::clone(&connection));
        let busy = Busy::new(&activity);
        Box::pin(async move {
            let response = gateway.answer(connection, request).await;
            let taking = Taking::new(&busy);
            Ok(response.map(|body| Guarded { body, taking, _busy: busy }))
        })
    }
}

/// An answer's body that keeps its connection busy until it is dropped.
struct Guarded {
    body: Answer,
    taking: Taking,
    _busy: Busy,
}

impl Body for Guarded {
    type Data = Bytes;
    type Error = <Answer as Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        self.taking.note(matches!(polled, Poll::Ready(Some(Ok(_)))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Why a connection ended, for its counter.
fn reason(error: &hyper::Error) -> &'static str {
    if error.is_timeout() {
        "head_timed_out"
    } else if error.is_parse() {
        "head_malformed"
    } else if error.is_incomplete_message() || error.is_body_write_aborted() {
        "cut"
    } else {
        "other"
    }
}
