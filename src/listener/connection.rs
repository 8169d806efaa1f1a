//! One consumer connection: handshake, protocol, deadlines, end.

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
use super::addresses::{AddressSlot, Admission, UnnamedSlot};
use super::balancers::{self, Balancers, NoHeader};
use super::frames::Framed;
use super::holders::{Holder, Holders};
use super::http1::{self, Answering, RefusedHead};
use super::proxy_header;
use super::socket::Socket;
use super::write_pace::{PaceBreach, WritePace};
use crate::gateway::{AnswerBody, ConsumerAddress, ConsumerConnection, Gateway};
use crate::metrics::{ConnectionFault, ConnectionLimit, HandshakeResult, Phase};
use crate::refusal::Refusal;
use crate::request;
use crate::tls::{Handshake, Peer, PlainHttp};

/// Server of one connection, with what it needs from its worker.
pub(super) struct ConnectionServer {
    pub(super) gateway: Arc<Gateway>,
    pub(super) limits: ListenerLimits,
    pub(super) unverified: Arc<Semaphore>,
    pub(super) holders: Arc<Holders>,
    pub(super) balancers: Arc<Balancers>,
    pub(super) drain: CancellationToken,
}

/// A consumer's connection after its handshake. Boxed: it is large, and moved from one future into the next.
type Stream = Box<TlsStream<Socket>>;

/// Limit: bytes of an HTTP/2 header list.
const HEADER_LIST_BYTES: u32 = 128 * 1024;
/// Window of one HTTP/2 stream: bytes that may be under way unread.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// Window of all streams of an HTTP/2 connection: bytes that may be under way unread.
///
/// h2 takes small frames for an attack once they cost more than half of it: with a smaller window, fifty
/// bookings in pieces of a hundred bytes were taken for one.
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
        remote: SocketAddr,
        started: Instant,
        admission: Admission,
    ) {
        // A socket option that cannot be set costs latency, not correctness.
        stream.set_nodelay(true).unwrap_or_default();
        let socket = Socket::new(stream);
        let client = match admission {
            Admission::Named(slot) => Some((ConsumerAddress::direct(remote), slot)),
            // Boxed, so that a connection does not hold the memory of its header to its end.
            Admission::Unnamed(slot) => {
                Box::pin(self.read_proxy_header(&socket, remote, started, slot)).await
            }
        };
        let Some((address, mut admission)) = client else { return };
        // Boxed too.
        let finished = Box::pin(self.handshake(&socket, &address, started)).await;
        admission.handshake_done();
        let Some((stream, handshake, peer)) = finished else { return };
        let metrics = self.gateway.metrics();
        // Connections whose requests can only be refused have a few slots of their own.
        let registered = peer.as_deref().is_some_and(|peer| self.gateway.may_be_registered(peer));
        let place = || Arc::clone(&self.unverified).try_acquire_owned();
        let Ok(_place) = (!registered).then(place).transpose() else {
            return metrics.connection_error(ConnectionFault::NoSlot);
        };
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let connection = Arc::new(ConsumerConnection::new(handshake, &address));
        let holder = Holder::of(peer.as_deref(), address.consumer.ip());
        let Some(_held) = self.holders.enter(holder, &connection) else {
            return metrics.connection_refused(ConnectionLimit::CertificateConnections);
        };
        let ended = if is_h2 {
            // Boxed, so that other connections do not hold the memory for it.
            Box::pin(self.serve_h2(stream, connection)).await
        } else {
            self.serve_h1(stream, &socket, connection).await
        };
        if let Err(reason) = ended {
            metrics.connection_error(reason);
        }
    }

    /// Reads the PROXY protocol header of a load balancer within the deadline for handshakes; returns the
    /// address that the connection then counts for, with its slot.
    ///
    /// Returns `None` if the connection is to be closed.
    async fn read_proxy_header(
        &self,
        socket: &Socket,
        balancer: SocketAddr,
        started: Instant,
        slot: UnnamedSlot,
    ) -> Option<(ConsumerAddress, AddressSlot)> {
        let metrics = self.gateway.metrics();
        let deadline = tokio::time::Instant::from_std(started) + self.limits.handshake;
        let read = timeout_at(deadline, balancers::read_header(socket.clone())).await;
        let result = match read {
            Ok(Ok(source)) => {
                let address = ConsumerAddress::behind(balancer, source);
                let slot = slot.named(address.consumer.ip());
                let slot = slot.map_err(|limit| metrics.connection_refused(limit));
                return Some((address, slot.ok()?));
            }
            Ok(Err(NoHeader::Unusable(fault))) => {
                self.balancers.log_unusable(balancer, fault);
                fault.result()
            }
            Ok(Err(NoHeader::Ended)) => HandshakeResult::Failed,
            Err(_) => HandshakeResult::TimedOut,
        };
        metrics.handshake(result);
        None
    }

    /// Performs the handshake within its deadline; returns the verified certificate, if there is one.
    ///
    /// Returns `None` if the handshake failed.
    async fn handshake(
        &self,
        socket: &Socket,
        address: &ConsumerAddress,
        started: Instant,
    ) -> Option<(Stream, Handshake, Option<Arc<Peer>>)> {
        let metrics = self.gateway.metrics();
        let live = self.gateway.live();
        let deadline = tokio::time::Instant::from_std(started) + self.limits.handshake;
        let pending = match live.trust.handshake() {
            Ok(pending) => pending,
            Err(error) => {
                tracing::error!(
                    %error,
                    "the TLS settings towards consumers cannot be used: the connection is closed; \
                     check the section [tls]"
                );
                return None;
            }
        };
        let handshake = async {
            if let Some(other) = other_than_tls(socket).await? {
                return Ok(Err(other));
            }
            TlsAcceptor::from(Arc::clone(&pending.config)).accept(socket.clone()).await.map(Ok)
        };
        let finished: Result<io::Result<Result<_, _>>, _> = timeout_at(deadline, handshake).await;
        let result = match finished {
            Ok(Ok(Ok(stream))) => {
                let handshake = pending.finish(stream.get_ref().1.peer_certificates());
                let peer = handshake.peer(&live.trust, Timestamp::now().as_second());
                metrics.handshake(match &peer {
                    Ok(_) => HandshakeResult::Ok,
                    Err(Refusal::CertificateMissing) => HandshakeResult::NoCertificate,
                    Err(_) => HandshakeResult::BadCertificate,
                });
                metrics.phase(Phase::Tls, started.elapsed());
                return Some((Box::new(stream), handshake, peer.ok()));
            }
            Ok(Ok(Err(other))) => other,
            Ok(Err(error)) => {
                tracing::debug!(client = %address.consumer, %error, "a TLS handshake with a consumer failed");
                if let Some(refusal) = pending.refusal(&error) {
                    self.gateway.refused_handshake(&refusal, address);
                }
                HandshakeResult::Failed
            }
            Err(_) => HandshakeResult::TimedOut,
        };
        metrics.handshake(result);
        if result == HandshakeResult::ProxyHeaderUninvited {
            self.balancers.log_uninvited(address);
        }
        if result == HandshakeResult::PlainHttp && live.trust.plain_http == PlainHttp::Answer {
            self.answer_plain(socket.clone(), deadline).await;
        }
        None
    }

    /// Answers a client that speaks HTTP without TLS, once and whatever it asked; its requests are not read.
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
        // A client that does not wait for the answer does not get it.
        drop(timeout_at(linger, written).await);
    }

    async fn serve_h1(
        &self,
        stream: Stream,
        socket: &Socket,
        connection: Arc<ConsumerConnection>,
    ) -> Result<(), ConnectionFault> {
        let answer = |request| -> Answering<AnswerBody> {
            let (gateway, connection) = (Arc::clone(&self.gateway), Arc::clone(&connection));
            // Called inside the future: made outside, its large future would be moved into this one.
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
            ended = serving => connection_fault(ended),
            () = socket.reset() => Err(ConnectionFault::Reset),
            never = drained => match never {},
        }
    }

    /// Returns once the proxy stops and this connection is to end.
    ///
    /// A connection without a request is kept for `linger`: its consumer may have sent one already, which
    /// would be lost.
    async fn drained(&self, connection: &ConsumerConnection) {
        self.drain.cancelled().await;
        // The connection ends in either case.
        drop(timeout(self.limits.linger, connection.begun()).await);
    }

    /// Returns once an HTTP/2 connection is to be sent `GOAWAY`.
    ///
    /// If it has carried its last request, or the proxy stops: once it carries no exchange, or after half of
    /// the drain deadline. If it is to be closed because of a request on it: once the exchanges under way
    /// then have ended, another begins, or `linger` is over.
    ///
    /// Some clients (JDK 17's and httpx among them) give up exchanges that are under way when they get
    /// `GOAWAY`, although they would be answered (RFC 9113 §6.8).
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
            // The connection ends in either case.
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

    /// Returns once an HTTP/2 connection that was sent `GOAWAY` is to be cut, because its peer goes on
    /// sending requests.
    ///
    /// Requests that came until `linger` after it are answered first, within the drain deadline. The HTTP
    /// library takes new streams until its `PING` is answered, and waits for that without a limit.
    async fn wait_past_last_answer(&self, activity: &Activity) {
        sleep(self.limits.linger).await;
        let last = activity.carried();
        activity.beyond(last).await;
        drop(timeout(self.limits.drain, activity.over(last)).await);
    }

    /// Serves an HTTP/2 connection, with the deadlines for heads and idle connections that hyper lacks for
    /// it.
    async fn serve_h2(
        &self,
        stream: Stream,
        connection: Arc<ConsumerConnection>,
    ) -> Result<(), ConnectionFault> {
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
        // In this order, so that answers are written before the connection is found idle: the last ones would
        // come after the `GOAWAY`.
        tokio::select! {
            biased;
            ended = &mut serving => {
                return connection_fault(ended).or_else(|fault| activity.excuse(fault));
            }
            () = self.ends(&worn, &connection, &activity) => {}
            () = activity.wait_until_idle(head, idle) => {}
            () = activity.stalled(write_stall) => return Err(ConnectionFault::WriteStalled),
        }
        serving.as_mut().graceful_shutdown();
        // A peer that goes on without an exchange is not waited for.
        tokio::select! {
            ended = serving => connection_fault(ended).or_else(|fault| activity.excuse(fault)),
            () = self.wait_past_last_answer(&activity) => Err(ConnectionFault::Overstayed),
            () = activity.wait_until_idle(head, head) => Ok(()),
            () = activity.stalled(write_stall) => Err(ConnectionFault::WriteStalled),
        }
    }
}

/// Waits for the first bytes of a connection; returns what they are if they are not TLS.
async fn other_than_tls(socket: &Socket) -> io::Result<Option<HandshakeResult>> {
    let mut start = [0; proxy_header::START_BYTES];
    let start = socket.peek(&mut start).await?;
    if proxy_header::begins(start) {
        return Ok(Some(HandshakeResult::ProxyHeaderUninvited));
    }
    // A TLS record never begins with a letter; an HTTP request does.
    let is_letter = start.first().is_some_and(u8::is_ascii_alphabetic);
    Ok(is_letter.then_some(HandshakeResult::PlainHttp))
}

/// Returns the reason for which a connection ended, as its metric's label, unless it ended as it should.
fn connection_fault(
    ended: Result<(), impl Into<http1::ServeError>>,
) -> Result<(), ConnectionFault> {
    let Err(error) = ended.map_err(Into::into) else { return Ok(()) };
    tracing::debug!(%error, "a consumer's connection ended with an error");
    let (cause, is_cut) = match &error {
        // The connection had no request for too long.
        http1::ServeError::Served(error) if error.is_timeout() => return Ok(()),
        http1::ServeError::Served(error) => (
            std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>()),
            error.is_incomplete_message() || error.is_body_write_aborted(),
        ),
        http1::ServeError::Closed(error) => (Some(error), false),
    };
    let breach = cause.and_then(io::Error::get_ref).and_then(|cause| cause.downcast_ref());
    // Over HTTP/2, only the kind of an error is left.
    Err(match (breach, cause.map(io::Error::kind)) {
        (Some(PaceBreach::Head), _) => ConnectionFault::HeadTimedOut,
        (_, Some(io::ErrorKind::TimedOut)) => ConnectionFault::WriteStalled,
        (_, Some(io::ErrorKind::QuotaExceeded)) => ConnectionFault::Flooded,
        (_, Some(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)) => {
            ConnectionFault::Reset
        }
        (_, Some(io::ErrorKind::UnexpectedEof)) => ConnectionFault::Cut,
        _ if is_cut => ConnectionFault::Cut,
        _ => ConnectionFault::Other,
    })
}
