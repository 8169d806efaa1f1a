//! State of a consumer's connection that the gateway needs: its certificate and its requests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::tls::Handshake;

/// Address that a connection counts for, and the load balancer that named it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumerAddress {
    /// Address and port of the consumer; of the load balancer, where that speaks for itself.
    pub consumer: SocketAddr,
    /// Address and port of the load balancer that named the consumer in a PROXY protocol header.
    pub balancer: Option<SocketAddr>,
}

impl ConsumerAddress {
    /// Returns the address of a connection that comes straight from a consumer.
    #[must_use]
    pub const fn direct(consumer: SocketAddr) -> Self {
        Self { consumer, balancer: None }
    }

    /// Returns the address of a connection from a load balancer, whose header named `source` or nobody.
    #[must_use]
    pub fn behind(balancer: SocketAddr, source: Option<SocketAddr>) -> Self {
        match source {
            Some(consumer) => Self { consumer, balancer: Some(balancer) },
            None => Self::direct(balancer),
        }
    }
}

/// State of a consumer's connection that the gateway needs.
#[derive(Debug)]
pub struct ConsumerConnection {
    /// Result of the TLS handshake: the verified certificate, or the refusal of it.
    pub handshake: Handshake,
    /// Address and port of the consumer.
    pub consumer: Arc<str>,
    /// Address and port of the load balancer that named the consumer.
    pub balancer: Option<Arc<str>>,
    /// Token that is cancelled when the connection is to end after its current exchanges.
    pub close: CancellationToken,
    /// Time of the last request, or else of the handshake, in milliseconds since 1970.
    last_used_ms: AtomicI64,
    /// Number of requests whose answer has not begun.
    under_way: AtomicUsize,
    /// Number of requests in a row that were refused before their consumer was identified.
    unidentified: AtomicUsize,
    begun: Notify,
}

/// Limit: requests in a row that are refused before their consumer is identified; the connection then ends.
const UNIDENTIFIED_MAX: usize = 16;

impl ConsumerConnection {
    /// Creates the state of a connection whose handshake has just ended.
    #[must_use]
    pub fn new(handshake: Handshake, address: &ConsumerAddress) -> Self {
        let ConsumerAddress { consumer, balancer } = address;
        Self {
            handshake,
            consumer: consumer.to_string().into(),
            balancer: balancer.map(|balancer| balancer.to_string().into()),
            close: CancellationToken::new(),
            last_used_ms: AtomicI64::new(Timestamp::now().as_millisecond()),
            under_way: AtomicUsize::new(0),
            unidentified: AtomicUsize::new(0),
            begun: Notify::new(),
        }
    }

    /// Returns true if a request waits for its answer.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) > 0
    }

    /// Waits until a request waits for its answer.
    pub async fn begun(&self) {
        loop {
            let begun = self.begun.notified();
            if self.is_busy() {
                return;
            }
            begun.await;
        }
    }

    /// Returns the time of the last request, or else of the handshake, in milliseconds since 1970.
    #[must_use]
    pub fn last_used_ms(&self) -> i64 {
        self.last_used_ms.load(Ordering::Relaxed)
    }

    /// Notes the start of a request, which counts as under way until the guard is dropped.
    pub(super) fn begins(&self, now: Timestamp) -> InFlightGuard<'_> {
        self.last_used_ms.store(now.as_millisecond(), Ordering::Relaxed);
        self.under_way.fetch_add(1, Ordering::Relaxed);
        self.begun.notify_waiters();
        InFlightGuard(&self.under_way)
    }

    /// Notes that the consumer of a request was identified, and resets the count of those refused before
    /// that.
    pub(super) fn identified(&self) {
        self.unidentified.store(0, Ordering::Relaxed);
    }

    /// Counts a request that was refused before its consumer was identified; ends the connection after too
    /// many.
    pub(super) fn refused_unidentified(&self) {
        if self.unidentified.fetch_add(1, Ordering::Relaxed) + 1 >= UNIDENTIFIED_MAX {
            self.close.cancel();
        }
    }
}

/// Guard that counts a request as under way until dropped.
pub(super) struct InFlightGuard<'a>(&'a AtomicUsize);

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
