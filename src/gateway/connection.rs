//! A consumer's connection as the gateway knows it: its certificate, and how it is used.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::tls::Handshake;

/// A consumer's connection, as far as the line needs to know it.
#[derive(Debug)]
pub struct ConsumerConnection {
    /// Result of the TLS handshake: the verified certificate, or why it was refused.
    pub handshake: Handshake,
    /// Address and port of the other end.
    pub consumer: Box<str>,
    /// Cancelled when the connection is to end after the exchanges it carries.
    pub close: CancellationToken,
    /// Milliseconds since 1970 at which the last request came, or the connection was made.
    last_used_ms: AtomicI64,
    /// Requests whose answer has not begun.
    under_way: AtomicUsize,
    /// Requests in a row that were refused before their consumer was identified.
    unidentified: AtomicUsize,
    begun: Notify,
}

/// Maximum number of requests in a row that one connection may have refused before their consumer is
/// identified; then it ends.
const UNIDENTIFIED_MAX: usize = 16;

impl ConsumerConnection {
    /// A connection whose handshake has just ended.
    #[must_use]
    pub fn new(handshake: Handshake, consumer: SocketAddr) -> Self {
        Self {
            handshake,
            consumer: consumer.to_string().into(),
            close: CancellationToken::new(),
            last_used_ms: AtomicI64::new(Timestamp::now().as_millisecond()),
            under_way: AtomicUsize::new(0),
            unidentified: AtomicUsize::new(0),
            begun: Notify::new(),
        }
    }

    /// A request waits for its answer.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) > 0
    }

    /// Returns once a request waits for its answer.
    pub async fn begun(&self) {
        loop {
            let begun = self.begun.notified();
            if self.is_busy() {
                return;
            }
            begun.await;
        }
    }

    /// Milliseconds since 1970 at which the last request came, or the connection was made.
    #[must_use]
    pub fn last_used_ms(&self) -> i64 {
        self.last_used_ms.load(Ordering::Relaxed)
    }

    /// Notes that a request has come; it is under way until the answer is dropped.
    pub(super) fn begins(&self, now: Timestamp) -> InFlightGuard<'_> {
        self.last_used_ms.store(now.as_millisecond(), Ordering::Relaxed);
        self.under_way.fetch_add(1, Ordering::Relaxed);
        self.begun.notify_waiters();
        InFlightGuard(&self.under_way)
    }

    /// Notes that the consumer of a request has been identified.
    pub(super) fn identified(&self) {
        self.unidentified.store(0, Ordering::Relaxed);
    }

    /// Counts a request that was refused before its consumer was identified.
    pub(super) fn refused_unidentified(&self) {
        if self.unidentified.fetch_add(1, Ordering::Relaxed) + 1 >= UNIDENTIFIED_MAX {
            self.close.cancel();
        }
    }
}

/// A request counted among those under way, until dropped.
pub(super) struct InFlightGuard<'a>(&'a AtomicUsize);

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
