//! What the sending side of an exchange says of itself.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// What the sending side of an exchange has done, for the record and for the truth of a refusal.
#[derive(Debug, Default)]
pub struct Transfer {
    pub(super) bytes_in: AtomicU64,
    whole: AtomicBool,
    waiting: AtomicBool,
    last: Mutex<Option<Instant>>,
}

impl Transfer {
    /// Bytes of a request body went towards the provider.
    pub fn sent(&self, bytes: usize) {
        self.bytes_in.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// When bytes last went towards the provider.
    #[must_use]
    pub fn last_sent(&self) -> Option<Instant> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The consumer is waited for, or no longer.
    pub fn waits(&self, waiting: bool) {
        self.waiting.store(waiting, Ordering::Release);
    }

    /// Whether it is the consumer that is waited for.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Acquire)
    }

    /// The last byte of a request went towards the provider.
    pub fn sent_whole(&self) {
        self.whole.store(true, Ordering::Release);
    }

    /// Not one byte was written after all.
    pub fn nothing_sent(&self) {
        self.whole.store(false, Ordering::Release);
    }

    /// Whether the last byte of a request went towards the provider.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Acquire)
    }
}
