//! Accept, one slot and one task per connection, handshake under a deadline, ALPN, drain.
//!
//! A worker is a thread with a runtime and a gateway of its own. With several, one acceptor gives each new
//! connection to the worker with the fewest; a single one accepts for itself.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::gateway::Gateway;
use crate::metrics::Metrics;

mod activity;
mod addresses;
mod connection;
mod fields;
mod frames;
mod holders;
mod http1;
mod socket;
mod validator;
mod write_pace;

pub(crate) use http1::{Answering, RefusedHead, serve};
pub use validator::{HEAD_BYTES_MAX, InputFault, ScanResult, Validator};

use addresses::{AddressLimits, AddressSlot, AddressTable};
use holders::Holders;
use write_pace::PaceLimits;

/// Limits and deadlines of the consumer leg.
#[derive(Debug, Clone, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ListenerLimits {
    /// Connections open at once; the next one waits in the kernel.
    pub connections_max: usize,
    /// Connections, among these, without a verified certificate, or with one whose names are registered
    /// nowhere.
    pub unverified_max: usize,
    /// Connections open at once with verified certificates of one name.
    pub certificate_connections_max: usize,
    /// Connections open at once from one address; of IPv6, from one /64.
    pub address_connections_max: usize,
    /// Handshakes under way at once from one address.
    pub address_handshakes_max: usize,
    /// Handshakes that one address may begin in a second.
    pub address_handshakes_per_second: NonZeroU32,
    /// Handshakes under way at once from all addresses; each may have its first whatever there are.
    pub handshakes_max: usize,
    /// Requests at once over all connections, from their heads to the last bytes of their answers.
    pub in_hand_max: usize,
    /// HTTP/2 streams at once on one connection.
    pub streams_max: u32,
    /// Requests on one connection; after them it ends, as it would when the proxy stops.
    pub requests_max: usize,
    /// From accept to a finished handshake.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub handshake: Duration,
    /// From a head's first byte to its last (HTTP/1), or from a connection's start to its first
    /// request (HTTP/2).
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub head: Duration,
    /// A connection without an exchange.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub idle: Duration,
    /// How long a consumer may keep answers waiting before it must have taken enough of them.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub write_stall: Duration,
    /// Bytes a second that it must have taken over that time.
    pub write_rate_min: u32,
    /// A consumer that still sends after its last answer; and, at a stop, one that asks nothing.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub linger: Duration,
    /// From the signal to stop, by which `/readyz` turns, to the closing of the port. Balancers need two
    /// or three probes to notice.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub drain_delay: Duration,
    /// From the closing of the port to the end, whatever is still under way.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub drain: Duration,
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

/// A connection on its way to a worker.
struct AcceptedConnection {
    stream: std::net::TcpStream,
    consumer: SocketAddr,
    started: Instant,
    admission: AddressSlot,
    slot: ConnectionSlot,
}

/// A place among the open connections, given back when dropped.
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

/// The acceptor's end of a worker.
struct WorkerHandle {
    queue: mpsc::Sender<AcceptedConnection>,
    open: Arc<AtomicUsize>,
}

/// Signals that stop the workers.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Cancelled when connections are to end once what they carry is finished, within the time to drain.
    pub drain: CancellationToken,
    /// Cancelled when they are to be cut.
    pub cut: CancellationToken,
}

/// The workers, running.
pub struct Workers {
    /// Runtime of the only worker, if there is one: it accepts its connections itself.
    only: Option<Handle>,
    benches: Vec<WorkerHandle>,
    threads: Vec<std::thread::JoinHandle<()>>,
    slots: Arc<Semaphore>,
    addresses: Arc<AddressTable>,
    holders: Arc<Holders>,
    metrics: Arc<Metrics>,
}

/// Limit: connections on their way from the acceptor to one worker.
const HANDOFF_MAX: usize = 256;
/// After an accept that failed for want of resources.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Interval at which another connection is closed while no place is free.
const NEXT_CLOSE: Duration = Duration::from_secs(1);
/// Connections that may wait in the kernel.
const BACKLOG: i32 = 1024;

impl Workers {
    /// Starts a thread for each gateway.
    ///
    /// # Errors
    /// A thread or its runtime cannot be made.
    pub fn start(
        gateways: Vec<Gateway>,
        limits: &ListenerLimits,
        stop: &Stop,
        metrics: &Arc<Metrics>,
    ) -> io::Result<Self> {
        let unverified = Arc::new(Semaphore::new(limits.unverified_max));
        let holders = Arc::new(Holders::new(limits.certificate_connections_max));
        let (mut benches, mut threads) = (Vec::new(), Vec::new());
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
                stop: stop.clone(),
            };
            let thread = std::thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || runtime.block_on(worker.run(connections)))?;
            benches.push(WorkerHandle { queue, open: Arc::default() });
            threads.push(thread);
        }
        let slots = Arc::new(Semaphore::new(limits.connections_max));
        let addresses = Arc::new(AddressTable::new(limits.shares()));
        let metrics = Arc::clone(metrics);
        Ok(Self { only, benches, threads, slots, addresses, holders, metrics })
    }

    /// Accepts in the background until `drain` is cancelled: a single worker on its own thread, so that no
    /// connection is handed from one thread to another; several on the caller's, so that none of them that
    /// is busy holds up the others' connections.
    ///
    /// # Errors
    /// The listener cannot be served by another runtime.
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
            match accepted.and_then(|(stream, consumer)| Ok((stream.into_std()?, consumer))) {
                Ok((stream, consumer)) => {
                    // In this order: what has been accepted is served if it can be.
                    let slot = tokio::select! {
                        biased;
                        slot = self.slot() => slot,
                        () = drain.cancelled() => return,
                    };
                    let Some(slot) = slot else { return };
                    self.hand_over(stream, consumer, slot).await;
                }
                Err(error) if is_the_connections(&error) => self.metrics.accept_error(),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    self.metrics.accept_error();
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// A place for a connection that has been accepted; made, if none is free, by closing the idlest connection of
    /// whoever holds most.
    async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            return Some(slot);
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

    /// Waits for every worker to finish what it has, or its deadline.
    pub fn finish(self) {
        drop(self.benches);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }

    async fn hand_over(
        &self,
        stream: std::net::TcpStream,
        consumer: SocketAddr,
        slot: OwnedSemaphorePermit,
    ) {
        let admission = match self.addresses.admit(consumer.ip()) {
            Ok(admission) => admission,
            Err(share) => return self.metrics.connection_refused(share),
        };
        let fewest = self.benches.iter().min_by_key(|bench| bench.open.load(Ordering::Relaxed));
        let Some(bench) = fewest else { return };
        bench.open.fetch_add(1, Ordering::Relaxed);
        self.metrics.connections.inc();
        let worker = Arc::clone(&bench.open);
        let slot = ConnectionSlot { _slot: slot, worker, metrics: Arc::clone(&self.metrics) };
        let accepted =
            AcceptedConnection { stream, consumer, started: Instant::now(), admission, slot };
        if bench.queue.send(accepted).await.is_err() {
            tracing::error!("a worker is gone");
        }
    }
}

/// Binds with a backlog, and with the address free again at once after a restart.
///
/// # Errors
/// The address is in use or not ours.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Errors that end one connection before it began and say nothing about the listener.
fn is_the_connections(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// One thread's share of the work.
struct Worker {
    gateway: Arc<Gateway>,
    limits: ListenerLimits,
    unverified: Arc<Semaphore>,
    holders: Arc<Holders>,
    stop: Stop,
}

impl Worker {
    async fn run(self, mut connections: mpsc::Receiver<AcceptedConnection>) {
        let tasks = self.gateway.tasks().clone();
        let mut tidying = pin!(self.gateway.keep_tidy());
        let pulse = self.gateway.pulse();
        loop {
            pulse.beat();
            tokio::select! {
                accepted = connections.recv() => {
                    let Some(accepted) = accepted else { break };
                    self.take(accepted);
                }
                () = &mut tidying => {}
                () = pulse.is_due() => {}
            }
        }
        pulse.ends();
        tasks.close();
        tokio::select! {
            () = tasks.wait() => return,
            () = tokio::time::sleep(self.limits.drain) => {}
            () = self.stop.cut.cancelled() => {}
        }
        tracing::warn!(left = tasks.len(), "ending what is left");
        self.gateway.stops();
    }

    fn take(&self, accepted: AcceptedConnection) {
        let AcceptedConnection { stream, consumer, started, admission, slot } = accepted;
        let seat = connection::ConnectionServer {
            gateway: Arc::clone(&self.gateway),
            limits: self.limits.clone(),
            unverified: Arc::clone(&self.unverified),
            holders: Arc::clone(&self.holders),
            drain: self.stop.drain.clone(),
        };
        let Ok(stream) = TcpStream::from_std(stream) else { return };
        // Boxed: it is large, and would be copied on each step of its way to a task.
        self.gateway.tasks().spawn(Box::pin(async move {
            seat.serve(stream, consumer, started, admission).await;
            drop(slot);
        }));
    }
}
