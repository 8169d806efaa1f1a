//! An HTTP/2 connection to a provider, and the exchanges' shares in it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::client::conn::http2::SendRequest;

use super::Upload;

/// Limit: exchanges at once on one connection, if the provider would take more.
const STREAMS_MAX: usize = 100;

/// A connection that several exchanges share.
#[derive(Debug)]
pub(super) struct Shared {
    sender: SendRequest<Upload>,
    streams: Arc<Streams>,
    born: Instant,
}

/// A share in a connection, given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    sender: SendRequest<Upload>,
    streams: Arc<Streams>,
}

/// What the exchanges of one connection have in common.
#[derive(Debug)]
pub(super) struct Streams {
    active: AtomicUsize,
    max: AtomicUsize,
    used: Mutex<Instant>,
    is_doubted: AtomicBool,
}

impl Streams {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            active: AtomicUsize::new(0),
            max: AtomicUsize::new(STREAMS_MAX),
            used: Mutex::new(Instant::now()),
            is_doubted: AtomicBool::new(false),
        })
    }

    /// The provider takes so many at once, as it last said.
    pub(super) fn allow(&self, max: usize) {
        self.max.store(max.min(STREAMS_MAX), Ordering::Relaxed);
    }

    fn used(&self) -> MutexGuard<'_, Instant> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    pub(super) fn new(sender: SendRequest<Upload>, streams: Arc<Streams>) -> Self {
        Self { sender, streams, born: Instant::now() }
    }

    pub(super) const fn born(&self) -> Instant {
        self.born
    }

    /// A share for one exchange.
    pub(super) fn share(&self) -> Share {
        self.streams.active.fetch_add(1, Ordering::Relaxed);
        *self.streams.used() = Instant::now();
        Share { sender: self.sender.clone(), streams: Arc::clone(&self.streams) }
    }

    /// Whether there is a share for another exchange, `keep` after the last one at most.
    pub(super) fn has_room(&self, keep: Duration, age_max: Duration) -> bool {
        let Streams { active, max, .. } = &*self.streams;
        self.sender.is_ready()
            && active.load(Ordering::Relaxed) < max.load(Ordering::Relaxed)
            && self.streams.used().elapsed() < keep
            && self.born.elapsed() < age_max
            && !self.streams.is_doubted.load(Ordering::Relaxed)
    }

    /// Whether it is worth keeping.
    pub(super) fn is_current(&self, keep: Duration, age_max: Duration) -> bool {
        let is_used =
            self.streams.active.load(Ordering::Relaxed) > 0 || self.streams.used().elapsed() < keep;
        is_used
            && self.born.elapsed() < age_max
            && !self.sender.is_closed()
            && !self.streams.is_doubted.load(Ordering::Relaxed)
    }
}

impl Share {
    pub(super) const fn sender(&mut self) -> &mut SendRequest<Upload> {
        &mut self.sender
    }

    /// Nothing new goes out on this connection.
    pub(super) fn doubt(&self) {
        self.streams.is_doubted.store(true, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        *self.streams.used() = Instant::now();
        self.streams.active.fetch_sub(1, Ordering::Relaxed);
    }
}
