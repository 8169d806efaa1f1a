//! One connection: handshake, protocol, deadlines, end.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use jiff::Timestamp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::ListenerLimits;
use super::activity::{Activity, BusyGuard, TrackedBody};
use super::addresses::AddressSlot;
use super::frames::Framed;
use super::holders::{Holder, Holders};
use super::http1::{self, Answering, RefusedHead};
use super::socket::Socket;
use super::write_pace::{PaceBreach, WritePace};
use crate::gateway::{AnswerBody, ConsumerConnection, Gateway};
use crate::metrics::Phase;
use crate::refusal::Refusal;
use crate::request;
use crate::tls::{Handshake, Peer, PlainHttp};

/// What a connection needs of its worker.
pub(super) struct ConnectionServer {
    pub(super) gateway: Arc<Gateway>,
    pub(super) limits: ListenerLimits,
    pub(super) unverified: Arc<Semaphore>,
    pub(super) holders: Arc<Holders>,
    pub(super) drain: CancellationToken,
}

/// A consumer's connection once TLS stands. Boxed: it is large, and moved from one future into the next.
type Stream = Box<TlsStream<Socket>>;

/// Limit: an HTTP/2 header list.
const HEADER_LIST_BYTES: u32 = 128 * 1024;
/// HTTP/2 windows: what one stream, and all of a connection, may have under way unread. Half of the second
/// is also what h2 lets small frames cost before it takes them for an attack: with less, fifty bookings
/// in pieces of a hundred bytes were one.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 512 * 1024;
/// Limit: bytes waiting to be written on one stream.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// Limit: streams that a consumer makes us reset before its connection ends.
const LOCAL_RESETS_MAX: usize = 256;

impl ConnectionServer {
    /// Serves a connection to its end.
    pub(super) async fn serve(
        self,
        stream: TcpStream,
        consumer: SocketAddr,
        started: Instant,
        mut admission: AddressSlot,
    ) {
        // A socket option that cannot be set costs latency, not correctness.
        stream.set_nodelay(true).unwrap_or_default();
        let socket = Socket::new(stream);
        // Boxed, so that a connection does not hold the room of its handshake for ever.
        let shaken = Box::pin(self.handshake(&socket, started)).await;
        admission.handshake_done();
        let Some((stream, handshake, peer)) = shaken else { return };
        let metrics = self.gateway.metrics();
        // Connections that can only be refused have few places of their own.
        let registered = peer.as_deref().is_some_and(|peer| self.gateway.may_be_registered(peer));
        let place = || Arc::clone(&self.unverified).try_acquire_owned();
        let Ok(_place) = (!registered).then(place).transpose() else {
            return metrics.connection_error("no_slot");
        };
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let connection = Arc::new(ConsumerConnection::new(handshake, consumer));
        let holder = Holder::of(peer.as_deref(), consumer.ip());
        let Some(_held) = self.holders.enter(holder, &connection) else {
            return metrics.connection_refused("certificate_connections");
        };
        let ended = if is_h2 {
            // Boxed, so that other connections do not hold the room for it.
            Box::pin(self.serve_h2(stream, connection)).await
        } else {
            self.serve_h1(stream, &socket, connection).await
        };
        if let Err(reason) = ended {
            metrics.connection_error(reason);
        }
    }

    /// The handshake under its deadline, and the verified consumer that came out of it, if one did;
    /// nothing if the handshake failed.
    async fn handshake(
        &self,
        socket: &Socket,
        started: Instant,
    ) -> Option<(Stream, Handshake, Option<Arc<Peer>>)> {
        let metrics = self.gateway.metrics();
        let live = self.gateway.live();
        let deadline = tokio::time::Instant::from_std(started) + self.limits.handshake;
        let pending = match live.trust.handshake() {
            Ok(pending) => pending,
            Err(error) => {
                tracing::error!(%error, "the TLS settings towards consumers cannot be used");
                return None;
            }
        };
        let handshake = async {
            // TLS begins with no letter.
            if socket.first_byte().await?.is_some_and(|first| first.is_ascii_alphabetic()) {
                return Ok(None);
            }
            TlsAcceptor::from(Arc::clone(&pending.config)).accept(socket.clone()).await.map(Some)
        };
        let shaken: Result<io::Result<Option<_>>, _> = timeout_at(deadline, handshake).await;
        let result = match shaken {
            Ok(Ok(Some(stream))) => {
                let handshake = pending.finish(stream.get_ref().1.peer_certificates());
                let peer = handshake.peer(&live.trust, Timestamp::now().as_second());
                metrics.handshake(match &peer {
                    Ok(_) => "ok",
                    Err(Refusal::CertificateMissing) => "no_certificate",
                    Err(_) => "bad_certificate",
                });
                metrics.phase(Phase::Tls, started.elapsed());
                return Some((Box::new(stream), handshake, peer.ok()));
            }
            Ok(Ok(None)) => "plain_http",
            Ok(Err(error)) => {
                tracing::debug!(%error, "handshake failed");
                if let Some(refusal) = pending.refusal(&error) {
                    self.gateway.refused_handshake(&refusal);
                }
                "failed"
            }
            Err(_) => "timed_out",
        };
        metrics.handshake(result);
        if result == "plain_http" && live.trust.plain_http == PlainHttp::Answer {
            self.answer_plain(socket.clone(), deadline).await;
        }
        None
    }

    /// Somebody speaks HTTP without TLS: told so once, whatever was asked, and not listened to.
    async fn answer_plain(&self, mut socket: Socket, deadline: tokio::time::Instant) {
        let answer = self.gateway.plain_http();
        let written = async {
            socket.write_all(&answer).await?;
            socket.shutdown().await?;
            let mut unread = [0; 512];
            while socket.read(&mut unread).await? > 0 {}
            Ok::<_, io::Error>(())
        };
        let linger = (tokio::time::Instant::now() + self.limits.linger).min(deadline);
        // Whoever does not wait for the answer does not get it.
        drop(timeout_at(linger, written).await);
    }

    async fn serve_h1(
        &self,
        stream: Stream,
        socket: &Socket,
        connection: Arc<ConsumerConnection>,
    ) -> Result<(), &'static str> {
        let answer = |request| -> Answering<AnswerBody> {
            let (gateway, connection) = (Arc::clone(&self.gateway), Arc::clone(&connection));
            // Called inside: what is made outside is moved, and it is large.
            Box::pin(async move { Ok(gateway.answer(connection, request).await) })
        };
        let refuse = |head: &RefusedHead| {
            let readable = request::readable(&head.bytes);
            self.gateway.refuse_head(&connection, &readable, head.refusal.clone())
        };
        let close = connection.close.clone();
        let serving = pin!(http1::serve(stream, &self.limits, close, answer, refuse));
        let drained = async {
            self.drained(&connection).await;
            connection.close.cancel();
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            ended = serving => judge(ended),
            () = socket.reset() => Err("reset"),
            never = drained => match never {},
        }
    }

    /// Returns once the proxy stops and this connection is to end. One that carries nothing is given a
    /// moment: its consumer may have asked already, and would not be heard.
    async fn drained(&self, connection: &ConsumerConnection) {
        self.drain.cancelled().await;
        // Whether it asks or not, there is no more to wait for.
        drop(timeout(self.limits.linger, connection.begun()).await);
    }

    /// Returns once an HTTP/2 connection is to be told that it ends. If it has carried enough or the proxy
    /// stops: when it carries nothing, or after half of the time to drain. If it is to be closed for what
    /// was asked on it: when what was under way then is over, more is asked, or `linger` is over.
    ///
    /// Some clients (JDK 17's and httpx among them) give up what is under way when they are told
    /// `GOAWAY`, although it would be answered (RFC 9113 §6.8).
    async fn ends(
        &self,
        worn: &CancellationToken,
        connection: &ConsumerConnection,
        activity: &Activity,
    ) {
        let usual = async {
            tokio::select! {
                () = worn.cancelled() => {}
                () = self.drained(connection) => {}
            }
            // Whether it is idle by then or not.
            drop(timeout(self.limits.drain / 2, activity.idle()).await);
        };
        let closed = async {
            connection.close.cancelled().await;
            let last = activity.carried();
            tokio::select! {
                () = activity.over(last) => {}
                () = activity.beyond(last) => {}
                () = sleep(self.limits.linger) => {}
            }
        };
        tokio::select! {
            () = usual => {}
            () = closed => {}
        }
    }

    /// Returns once an HTTP/2 connection that was told `GOAWAY` is to be cut, since its peer asks for more
    /// all the same: what it had asked for by `linger` after that is answered, within the time to drain.
    ///
    /// The HTTP library takes new streams until its `PING` is answered, and waits for that without an end.
    async fn wait_past_last_answer(&self, activity: &Activity) {
        sleep(self.limits.linger).await;
        let last = activity.carried();
        activity.beyond(last).await;
        drop(timeout(self.limits.drain, activity.over(last)).await);
    }

    /// hyper has neither a head nor an idle deadline for HTTP/2: both are here.
    async fn serve_h2(
        &self,
        stream: Stream,
        connection: Arc<ConsumerConnection>,
    ) -> Result<(), &'static str> {
        let ListenerLimits { head, idle, write_stall, requests_max, .. } = self.limits;
        let activity = Arc::new(Activity::default());
        let pace = WritePace::new(self.limits.taking());
        // Cancelled at the last request that the connection may carry.
        let worn = CancellationToken::new();
        let wears = worn.clone();
        let (gateway, serves) = (Arc::clone(&self.gateway), Arc::clone(&connection));
        let carries = Arc::clone(&activity);
        let service = service_fn(move |request| -> Answering<TrackedBody<AnswerBody>> {
            let busy = BusyGuard::new(&carries);
            if carries.carried() >= requests_max {
                wears.cancel();
            }
            let (gateway, serves) = (Arc::clone(&gateway), Arc::clone(&serves));
            Box::pin(async move {
                let answer = gateway.answer(serves, request).await;
                Ok(answer.map(|body| busy.carry(body)))
            })
        });
        let serving = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(self.limits.streams_max)
            .max_header_list_size(HEADER_LIST_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .max_local_error_reset_streams(LOCAL_RESETS_MAX)
            .serve_connection(TokioIo::new(Framed::new(stream, pace)), service);
        let mut serving = pin!(serving);
        // In this order: what has been handed over is written before the connection is found idle, or the
        // last answers would come after the `GOAWAY`.
        tokio::select! {
            biased;
            ended = &mut serving => return judge(ended),
            () = self.ends(&worn, &connection, &activity) => {}
            () = activity.wait_until_idle(head, idle) => {}
            () = activity.stalled(write_stall) => return Err("write_stalled"),
        }
        serving.as_mut().graceful_shutdown();
        // A peer that goes on without an exchange is not waited for.
        tokio::select! {
            ended = serving => judge(ended),
            () = self.wait_past_last_answer(&activity) => Err("overstayed"),
            () = activity.wait_until_idle(head, head) => Ok(()),
            () = activity.stalled(write_stall) => Err("write_stalled"),
        }
    }
}

/// Why a connection ended, for its counter, if it was not as it should.
fn judge(ended: Result<(), impl Into<http1::ServeError>>) -> Result<(), &'static str> {
    let Err(error) = ended.map_err(Into::into) else { return Ok(()) };
    tracing::debug!(%error, "connection ended");
    let (cause, is_cut) = match &error {
        // Without a request for too long.
        http1::ServeError::Served(error) if error.is_timeout() => return Ok(()),
        http1::ServeError::Served(error) => (
            std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>()),
            error.is_incomplete_message() || error.is_body_write_aborted(),
        ),
        http1::ServeError::Closed(error) => (Some(error), false),
    };
    let breach = cause.and_then(io::Error::get_ref).and_then(|cause| cause.downcast_ref());
    // Of an error under HTTP/2 no more than its kind is left.
    Err(match (breach, cause.map(io::Error::kind)) {
        (Some(PaceBreach::Head), _) => "head_timed_out",
        (_, Some(io::ErrorKind::TimedOut)) => "write_stalled",
        (_, Some(io::ErrorKind::QuotaExceeded)) => "flooded",
        (_, Some(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)) => "reset",
        (_, Some(io::ErrorKind::UnexpectedEof)) => "cut",
        _ if is_cut => "cut",
        _ => "other",
    })
}
