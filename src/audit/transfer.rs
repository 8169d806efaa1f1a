//! Progress of a request's transfer to the provider.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Progress of a request's transfer to the provider, for its record and for what a refusal may claim.
#[derive(Debug, Default)]
pub struct Transfer {
    pub(super) bytes_in: AtomicU64,
    whole: AtomicBool,
    waiting: AtomicBool,
    last: Mutex<Option<Instant>>,
    provider: Mutex<Option<SocketAddr>>,
}

impl Transfer {
    /// Counts bytes of the request body sent to the provider.
    pub fn sent(&self, bytes: usize) {
        self.bytes_in.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Records the provider's address on whose connection the request is sent, if it is known.
    pub fn sends_to(&self, provider: Option<SocketAddr>) {
        *self.provider.lock().unwrap_or_else(PoisonError::into_inner) = provider;
    }

    /// Returns the provider's address on whose connection the request was last sent.
    pub(super) fn provider(&self) -> Option<SocketAddr> {
        *self.provider.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the time at which bytes were last sent to the provider.
    #[must_use]
    pub fn last_sent(&self) -> Option<Instant> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets whether the transfer waits for the consumer.
    pub fn waits(&self, waiting: bool) {
        self.waiting.store(waiting, Ordering::Release);
    }

    /// Returns true while the transfer waits for the consumer.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Acquire)
    }

    /// Records that the last byte of the request was sent to the provider.
    pub fn sent_whole(&self) {
        self.whole.store(true, Ordering::Release);
    }

    /// Records that the request was not sent after all: not one byte of it was written.
    pub fn nothing_sent(&self) {
        self.whole.store(false, Ordering::Release);
    }

    /// Returns true if the last byte of the request was sent to the provider.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Acquire)
    }
}
