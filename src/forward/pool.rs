//! Pool of connections to providers, one for each worker.
//!
//! A connection is never shared between hosts, names or trust generations. It carries one exchange at a time,
//! and is idle in between. The throttle limits exchanges; the pool only limits how many idle connections are
//! kept.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::SendRequest;
use tokio::sync::Notify;

use super::{ProviderDeadlines, Upload};
use spine_types::interaction::Effect;

/// Properties that make two connections interchangeable.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct PoolKey {
    /// Address that is dialled, as `host:port`.
    pub(super) address: Arc<str>,
    /// Name the provider's certificate must have.
    pub(super) name: Arc<str>,
    /// Trust generation that the connection was verified under.
    pub(super) generation: u64,
}

/// An open connection, held for one exchange.
#[derive(Debug)]
pub(crate) struct PooledConnection {
    sender: SendRequest<Upload>,
    key: PoolKey,
    /// Address and port of the provider.
    address: Option<SocketAddr>,
    born: Instant,
    idle_since: Instant,
}

/// Response to a request, which is given back if not a byte of it was written.
pub(super) type SendResult = Result<Response<Incoming>, TrySendError<Request<Upload>>>;

impl PooledConnection {
    /// Wraps a connection that has just been opened.
    pub(super) fn new(
        key: PoolKey,
        sender: SendRequest<Upload>,
        address: Option<SocketAddr>,
    ) -> Self {
        let now = Instant::now();
        Self { sender, key, address, born: now, idle_since: now }
    }

    /// Returns the address and port of the provider.
    pub(super) const fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Sends a request on the connection.
    pub(super) fn try_send(
        &mut self,
        request: Request<Upload>,
    ) -> impl Future<Output = SendResult> + use<> {
        self.sender.try_send_request(request)
    }
}

/// Limit: connections that one worker keeps idle, to all providers.
pub const IDLE_MAX: usize = 1024;

/// Interval at which connections that have been kept too long are dropped.
const TIDY: Duration = Duration::from_secs(1);

/// Pool of idle connections.
#[derive(Debug)]
pub(crate) struct Pool {
    /// Idle connections by key, newest last.
    kept: Mutex<HashMap<PoolKey, Vec<PooledConnection>>>,
    /// Number of idle connections as last counted, and an upper bound since.
    idle: AtomicUsize,
    /// Notified when the first connection becomes idle.
    filled: Notify,
    idle_max: usize,
    keep: Duration,
    keep_for_writes: Duration,
    age_max: Duration,
}

impl Pool {
    pub(super) fn new(deadlines: &ProviderDeadlines, idle_max: usize) -> Self {
        Self {
            kept: Mutex::default(),
            idle: AtomicUsize::new(0),
            filled: Notify::new(),
            idle_max,
            keep: deadlines.idle,
            keep_for_writes: deadlines.idle_for_writes,
            age_max: deadlines.connection_age,
        }
    }

    /// Returns the connection used last, if it may carry a request with this effect.
    ///
    /// A provider that closes an idle connection during a write leaves its outcome unknown, so a write takes
    /// only a young one.
    pub(super) fn take(&self, key: &PoolKey, effect: Effect) -> Option<PooledConnection> {
        let keep = match effect {
            Effect::Reads => self.keep,
            Effect::Writes => self.keep_for_writes,
        };
        let mut all = self.kept();
        let kept = all.get_mut(key)?;
        let is_usable =
            |idle: &PooledConnection| idle.sender.is_ready() && idle.idle_since.elapsed() < keep;
        let at = kept.iter().rposition(is_usable)?;
        self.idle.fetch_sub(1, Ordering::Relaxed);
        Some(kept.swap_remove(at))
    }

    /// Keeps a connection whose exchange is complete, unless it is closed or too old, or enough are kept.
    pub(super) fn give_back(&self, mut connection: PooledConnection) {
        if connection.sender.is_closed() || connection.born.elapsed() >= self.age_max {
            return;
        }
        connection.idle_since = Instant::now();
        let mut kept = self.kept();
        let idle = kept.entry(connection.key.clone()).or_default();
        if idle.len() < self.idle_max && self.idle.load(Ordering::Relaxed) < IDLE_MAX {
            idle.push(connection);
            if self.idle.fetch_add(1, Ordering::Relaxed) == 0 {
                self.filled.notify_one();
            }
        }
    }

    /// Drops the idle connections to an address that have carried no answer since `than`; returns how many
    /// they were.
    ///
    /// One of their age turned out to be dead, and the cause (a load balancer that failed over, a firewall
    /// that forgot its state) is likely to have hit them too, whatever their name and generation.
    pub(super) fn drop_older(&self, address: &str, than: Instant) -> usize {
        let mut dropped = 0;
        let mut all = self.kept();
        for (_, kept) in all.iter_mut().filter(|(key, _)| *key.address == *address) {
            let before = kept.len();
            kept.retain(|idle| idle.idle_since > than);
            dropped += before - kept.len();
        }
        self.idle.fetch_sub(dropped, Ordering::Relaxed);
        dropped
    }

    /// Drops connections that are closed or have been kept too long, for as long as it is polled; sleeps
    /// while none is kept.
    pub(super) async fn remove_unused(&self) {
        loop {
            if self.idle.load(Ordering::Relaxed) == 0 {
                self.filled.notified().await;
            }
            tokio::time::sleep(TIDY).await;
            self.tidy();
        }
    }

    fn tidy(&self) {
        let is_current = |idle: &PooledConnection| {
            !idle.sender.is_closed()
                && idle.idle_since.elapsed() < self.keep
                && idle.born.elapsed() < self.age_max
        };
        let mut left = 0;
        self.kept().retain(|_, kept| {
            kept.retain(is_current);
            left += kept.len();
            !kept.is_empty()
        });
        // The pool is one worker's: no connection is kept or taken meanwhile.
        self.idle.store(left, Ordering::Relaxed);
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<PoolKey, Vec<PooledConnection>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
