//! Accepts connections: one slot and one task for each, a handshake under a deadline, ALPN, drain.
//!
//! A worker is a thread with a runtime and a gateway of its own. With several, one acceptor gives each new
//! connection to the worker with the fewest; a single worker accepts for itself.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::gateway::Gateway;
use crate::metrics::Metrics;

mod activity;
mod addresses;
mod balancers;
mod connection;
mod fields;
mod frames;
mod holders;
mod http1;
mod proxy_header;
mod socket;
mod validator;
mod write_pace;

#[cfg(feature = "lab")]
pub(crate) use http1::{Answering, RefusedHead, serve};
pub use proxy_header::{
    PROXY_HEADER_BYTES_MAX, ProxyHeaderFault, proxy_header_length, proxy_header_source,
};
pub use validator::{HEAD_BYTES_MAX, InputFault, ScanResult, Validator};

use addresses::{AddressLimits, AddressTable, Admission};
use balancers::Balancers;
use holders::Holders;
use spine_types::{COUNT_MAX, check_range};
use write_pace::PaceLimits;

/// Limits and deadlines of consumer connections.
#[derive(Debug, Clone, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ListenerLimits {
    /// Open connections; the next one waits in the kernel.
    pub connections_max: usize,
    /// Open connections without a verified certificate, or with one whose names are registered nowhere.
    ///
    /// If a live source has consumers, any verified certificate may be registered.
    pub unverified_max: usize,
    /// Open connections with verified certificates of one name.
    pub certificate_connections_max: usize,
    /// Open connections from one address; for IPv6, from one /64.
    ///
    /// Behind a TCP load balancer that sends no PROXY protocol header, set it as high as `connections-max`.
    pub address_connections_max: usize,
    /// Handshakes under way from one address.
    pub address_handshakes_max: usize,
    /// Handshakes that one address may begin per second.
    pub address_handshakes_per_second: NonZeroU32,
    /// Handshakes under way from all addresses; each address may have one whatever others have.
    ///
    /// As many connections of load balancers may wait for their PROXY protocol header besides.
    pub handshakes_max: usize,
    /// Requests under way over all connections, from their heads to the last bytes of their answers.
    pub in_hand_max: usize,
    /// HTTP/2 streams open on one connection.
    pub streams_max: u32,
    /// Requests on one connection, which then ends as it would when the proxy stops.
    pub requests_max: usize,
    /// Time from accept to a finished handshake.
    #[serde(with = "spine_types::period")]
    #[schemars(with = "String")]
    pub handshake: Duration,
    /// Time from a head's first byte to its last (HTTP/1), or from a connection's start to its first request
    /// (HTTP/2).
    #[serde(with = "spine_types::period")]
    #[schemars(with = "String")]
    pub head: Duration,
    /// Time for which a connection without an exchange stays open.
    #[serde(with = "spine_types::period")]
    #[schemars(with = "String")]
    pub idle: Duration,
    /// Time for which a consumer may keep answers waiting before it must have taken enough of them.
    #[serde(with = "spine_types::period")]
    #[schemars(with = "String")]
    pub write_stall: Duration,
    /// Bytes per second that a consumer must have taken over the time of `write-stall`.
    pub write_rate_min: u32,
    /// Time for which a consumer that still sends is read from after its last answer, and for which a
    /// connection without a request is kept when the proxy stops.
    #[serde(with = "spine_types::period")]
    #[schemars(with = "String")]
    pub linger: Duration,
    /// Time from the signal to stop, when `/readyz` turns to 503, to the closing of the port: two or three
    /// probes of a load balancer.
    #[serde(with = "spine_types::period")]
    #[schemars(with = "String")]
    pub drain_delay: Duration,
    /// Time from the closing of the port to the end of the process, whatever is still under way.
    ///
    /// An HTTP/2 connection gets GOAWAY when it is idle, at the latest after `linger` and half of the rest; one
    /// that has reached `requests-max`, at the latest after half of this time.
    #[serde(with = "spine_types::period")]
    #[schemars(with = "String")]
    pub drain: Duration,
}

impl ListenerLimits {
    /// Checks that every limit allows something to be served.
    ///
    /// # Errors
    /// Returns a text that names the first key with a value that is not allowed.
    pub fn check(&self) -> Result<(), String> {
        for (key, count) in [
            ("connections-max", self.connections_max),
            ("unverified-max", self.unverified_max),
            ("certificate-connections-max", self.certificate_connections_max),
            ("in-hand-max", self.in_hand_max),
            ("address-connections-max", self.address_connections_max),
            ("address-handshakes-max", self.address_handshakes_max),
            ("handshakes-max", self.handshakes_max),
        ] {
            check_range(&format!("listener.limits.{key}"), &count, 1..=COUNT_MAX)?;
        }
        check_range("listener.limits.requests-max", &self.requests_max, 1..)?;
        let streams = usize::try_from(self.streams_max).unwrap_or(usize::MAX);
        check_range("listener.limits.streams-max", &streams, 1..=1000)
    }
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self {
            connections_max: 3_000,
            unverified_max: 256,
            certificate_connections_max: 1_000,
            address_connections_max: 1_000,
            address_handshakes_max: 64,
            address_handshakes_per_second: NonZeroU32::MIN.saturating_add(199),
            handshakes_max: 512,
            in_hand_max: 1024,
            streams_max: 100,
            requests_max: 100_000,
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            write_stall: Duration::from_secs(30),
            write_rate_min: 256,
            linger: Duration::from_secs(1),
            drain_delay: Duration::ZERO,
            drain: Duration::from_secs(30),
        }
    }
}

impl ListenerLimits {
    const fn shares(&self) -> AddressLimits {
        AddressLimits {
            connections_max: self.address_connections_max,
            handshakes_max: self.address_handshakes_max,
            handshakes_per_second: self.address_handshakes_per_second,
            all_handshakes_max: self.handshakes_max,
        }
    }

    const fn taking(&self) -> PaceLimits {
        PaceLimits { stall: self.write_stall, rate_min: self.write_rate_min }
    }
}

/// An accepted connection on its way to a worker.
struct AcceptedConnection {
    stream: std::net::TcpStream,
    /// Address of the other end: a consumer's, or a load balancer's.
    remote: SocketAddr,
    started: Instant,
    admission: Admission,
    slot: ConnectionSlot,
}

/// A slot among the open connections, given back when dropped.
struct ConnectionSlot {
    _slot: OwnedSemaphorePermit,
    worker: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.worker.fetch_sub(1, Ordering::Relaxed);
        self.metrics.connections.dec();
    }
}

/// Handle by which the acceptor passes connections to a worker.
struct WorkerHandle {
    queue: mpsc::Sender<AcceptedConnection>,
    open: Arc<AtomicUsize>,
}

/// Signals that stop the workers.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Cancelled when connections are to end once their exchanges have ended, within the drain deadline.
    pub drain: CancellationToken,
    /// Cancelled when connections are to be cut.
    pub cut: CancellationToken,
}

/// Handle of the running workers.
pub struct Workers {
    /// Runtime of the only worker, if there is one: it accepts its connections itself.
    only: Option<Handle>,
    workers: Vec<WorkerHandle>,
    threads: Vec<std::thread::JoinHandle<()>>,
    slots: Arc<Semaphore>,
    /// Rate of log lines that all slots are taken.
    full_lines: DefaultDirectRateLimiter,
    addresses: Arc<AddressTable>,
    balancers: Arc<Balancers>,
    holders: Arc<Holders>,
    metrics: Arc<Metrics>,
}

/// Limit: connections that wait between the acceptor and one worker.
const HANDOFF_MAX: usize = 256;
/// Pause after an accept that failed for lack of resources.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Interval at which another connection is closed while no slot is free.
const NEXT_CLOSE: Duration = Duration::from_secs(1);
/// Number of connections that may wait in the kernel.
const BACKLOG: i32 = 1024;

impl Workers {
    /// Starts a thread for each gateway. A PROXY protocol header must come first on connections from the
    /// networks in `balancers`.
    ///
    /// # Errors
    /// Returns an error if a thread or its runtime cannot be created.
    pub fn start(
        gateways: Vec<Gateway>,
        limits: &ListenerLimits,
        balancers: &[IpNet],
        stop: &Stop,
        metrics: &Arc<Metrics>,
    ) -> io::Result<Self> {
        metrics.limits(limits.connections_max, limits.in_hand_max);
        let unverified = Arc::new(Semaphore::new(limits.unverified_max));
        let holders = Arc::new(Holders::new(limits.certificate_connections_max));
        let balancers = Arc::new(Balancers::new(balancers));
        let (mut workers, mut threads) = (Vec::new(), Vec::new());
        let is_only = gateways.len() == 1;
        let mut only = None;
        for (number, gateway) in gateways.into_iter().enumerate() {
            let (queue, connections) = mpsc::channel(HANDOFF_MAX);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            only = is_only.then(|| runtime.handle().clone());
            let worker = Worker {
                gateway: Arc::new(gateway),
                limits: limits.clone(),
                unverified: Arc::clone(&unverified),
                holders: Arc::clone(&holders),
                balancers: Arc::clone(&balancers),
                stop: stop.clone(),
            };
            let thread = std::thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || runtime.block_on(worker.run(connections)))?;
            workers.push(WorkerHandle { queue, open: Arc::default() });
            threads.push(thread);
        }
        let slots = Arc::new(Semaphore::new(limits.connections_max));
        let addresses = Arc::new(AddressTable::new(limits.shares()));
        let metrics = Arc::clone(metrics);
        let full_lines = RateLimiter::direct(Quota::per_minute(NonZeroU32::MIN));
        Ok(Self {
            full_lines,
            only,
            workers,
            threads,
            slots,
            addresses,
            balancers,
            holders,
            metrics,
        })
    }

    /// Accepts connections in the background until `drain` is cancelled.
    ///
    /// A single worker accepts on its own thread, so that no connection is handed from one thread to another.
    /// With several, the caller's thread accepts, so that a busy worker does not hold up the others'
    /// connections.
    ///
    /// # Errors
    /// Returns an error if the listener cannot be moved to the runtime that accepts.
    pub fn accept(
        self: &Arc<Self>,
        listener: TcpListener,
        drain: CancellationToken,
    ) -> io::Result<JoinHandle<()>> {
        let runtime = self.only.clone().unwrap_or_else(Handle::current);
        let listener = listener.into_std()?;
        let _entered = runtime.enter();
        let (workers, listener) = (Arc::clone(self), TcpListener::from_std(listener)?);
        Ok(runtime.spawn(async move { workers.accept_until(&listener, &drain).await }))
    }

    async fn accept_until(&self, listener: &TcpListener, drain: &CancellationToken) {
        loop {
            let accepted = tokio::select! {
                () = drain.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted.and_then(|(stream, remote)| Ok((stream.into_std()?, remote))) {
                Ok((stream, remote)) => {
                    // In this order, so that an accepted connection is served if there is a slot for it.
                    let slot = tokio::select! {
                        biased;
                        slot = self.slot() => slot,
                        () = drain.cancelled() => return,
                    };
                    let Some(slot) = slot else { return };
                    self.hand_over(stream, remote, slot).await;
                }
                Err(error) if is_the_connections(&error) => self.metrics.accept_error(),
                Err(error) => {
                    tracing::warn!(
                        %error,
                        "cannot accept connections: trying again; see whether the limit of open \
                         files is too low"
                    );
                    self.metrics.accept_error();
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Returns a slot for an accepted connection; if none is free, it closes the idlest connection of the
    /// largest holder, and waits.
    async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            return Some(slot);
        }
        if self.full_lines.check().is_ok() {
            tracing::warn!(
                connections = self.metrics.connections.get(),
                "as many consumer connections are open as listener.limits.connections-max allows: the \
                 idlest of the largest holder is closed for each new one; logged once a minute"
            );
        }
        let mut waiting = pin!(Arc::clone(&self.slots).acquire_owned());
        loop {
            self.holders.close_idlest();
            tokio::select! {
                slot = &mut waiting => return slot.ok(),
                () = tokio::time::sleep(NEXT_CLOSE) => {}
            }
        }
    }

    /// Waits until every worker has finished its connections, or its deadline has passed.
    pub fn finish(self) {
        drop(self.workers);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker thread panicked: its connections are lost");
            }
        }
    }

    async fn hand_over(
        &self,
        stream: std::net::TcpStream,
        remote: SocketAddr,
        slot: OwnedSemaphorePermit,
    ) {
        let admission = match self.balancers.contain(remote.ip()) {
            true => self.addresses.admit_unnamed().map(Admission::Unnamed),
            false => self.addresses.admit(remote.ip()).map(Admission::Named),
        };
        let admission = match admission {
            Ok(admission) => admission,
            Err(limit) => return self.metrics.connection_refused(limit),
        };
        let fewest = self.workers.iter().min_by_key(|worker| worker.open.load(Ordering::Relaxed));
        let Some(handle) = fewest else { return };
        handle.open.fetch_add(1, Ordering::Relaxed);
        self.metrics.connections.inc();
        let worker = Arc::clone(&handle.open);
        let slot = ConnectionSlot { _slot: slot, worker, metrics: Arc::clone(&self.metrics) };
        let accepted =
            AcceptedConnection { stream, remote, started: Instant::now(), admission, slot };
        if handle.queue.send(accepted).await.is_err() {
            tracing::error!("a worker thread has ended: a new connection is closed");
        }
    }
}

/// Binds a listener with a backlog, so that its address can be bound again at once after a restart.
///
/// # Errors
/// Returns an error if the address is in use, or is not one of this machine.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Returns true for errors that end one connection before it began, and say nothing about the listener.
fn is_the_connections(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// State of one worker thread.
struct Worker {
    gateway: Arc<Gateway>,
    limits: ListenerLimits,
    unverified: Arc<Semaphore>,
    holders: Arc<Holders>,
    balancers: Arc<Balancers>,
    stop: Stop,
}

impl Worker {
    async fn run(self, mut connections: mpsc::Receiver<AcceptedConnection>) {
        let tasks = self.gateway.tasks().clone();
        let mut tidying = pin!(self.gateway.remove_unused());
        let heartbeat = self.gateway.heartbeat();
        loop {
            heartbeat.beat();
            tokio::select! {
                accepted = connections.recv() => {
                    let Some(accepted) = accepted else { break };
                    self.take(accepted);
                }
                () = &mut tidying => {}
                () = heartbeat.is_due() => {}
            }
        }
        heartbeat.ends();
        tasks.close();
        tokio::select! {
            () = tasks.wait() => return,
            () = tokio::time::sleep(self.limits.drain) => {}
            () = self.stop.cut.cancelled() => {}
        }
        tracing::warn!(
            left = tasks.len(),
            "connections are still open after the drain deadline or a second signal: cutting them"
        );
        self.gateway.stops();
    }

    fn take(&self, accepted: AcceptedConnection) {
        let AcceptedConnection { stream, remote, started, admission, slot } = accepted;
        let server = connection::ConnectionServer {
            gateway: Arc::clone(&self.gateway),
            limits: self.limits.clone(),
            unverified: Arc::clone(&self.unverified),
            holders: Arc::clone(&self.holders),
            balancers: Arc::clone(&self.balancers),
            drain: self.stop.drain.clone(),
        };
        let Ok(stream) = TcpStream::from_std(stream) else { return };
        // Boxed: it is large, and would be copied on each step of its way to a task.
        self.gateway.tasks().spawn(Box::pin(async move {
            server.serve(stream, remote, started, admission).await;
            drop(slot);
        }));
    }
}
