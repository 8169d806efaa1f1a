//! Connections to providers, one worker's own.
//!
//! A connection is never shared between hosts, names or trust generations. Over HTTP/1.1 it carries
//! one exchange and is put away in between; over HTTP/2 several have a share in it. Caps count
//! exchanges and are kept by the throttle; this only bounds what is kept.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};

use super::shared::{Share, Shared};
use super::{Deadlines, Upload};
use crate::interaction::Effect;

/// What makes two connections interchangeable.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// `host:port` that is dialled.
    pub(super) address: Arc<str>,
    /// Name the provider's certificate must have.
    pub(super) name: Arc<str>,
    /// Generation of the trust it was verified under.
    pub(super) generation: u64,
}

/// What a dialled connection is spoken to by.
#[derive(Debug)]
pub(super) enum Opened {
    /// For one exchange at a time.
    Http1(http1::SendRequest<Upload>),
    /// For as many as the provider takes.
    Http2(Shared),
}

/// An open connection, or a share in one, held for one exchange.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: Sender,
    key: Key,
    born: Instant,
    idle_since: Instant,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Upload>),
    Http2(Share),
}

impl Connection {
    /// The version of HTTP it speaks.
    pub(super) const fn version(&self) -> Version {
        match self.sender {
            Sender::Http1(_) => Version::HTTP_11,
            Sender::Http2(_) => Version::HTTP_2,
        }
    }

    /// Sends a request, which is given back if not a byte of it was written.
    pub(super) async fn try_send(
        &mut self,
        request: Request<Upload>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Upload>>> {
        match &mut self.sender {
            Sender::Http1(sender) => sender.try_send_request(request).await,
            Sender::Http2(share) => share.sender().try_send_request(request).await,
        }
    }

    /// An exchange failed on it without a word from the provider: nothing new goes out on it, for it
    /// may have died without a sign.
    pub(super) fn doubt(&self) {
        if let Sender::Http2(share) = &self.sender {
            share.doubt();
        }
    }
}

/// What is kept for one key, newest last.
#[derive(Debug, Default)]
struct Kept {
    idle: Vec<Connection>,
    shared: Vec<Shared>,
}

/// Limit: connections that one worker keeps idle, to all providers.
pub const IDLE_MAX: usize = 1024;

/// Connections that are kept.
#[derive(Debug)]
pub(crate) struct Pool {
    kept: Mutex<HashMap<Key, Kept>>,
    /// How many of them are put away, as last counted and since then at most.
    idle: AtomicUsize,
    idle_max: usize,
    keep: Duration,
    keep_for_writes: Duration,
    age_max: Duration,
}

impl Pool {
    pub(super) fn new(deadlines: &Deadlines, idle_max: usize) -> Self {
        Self {
            kept: Mutex::default(),
            idle: AtomicUsize::new(0),
            idle_max,
            keep: deadlines.idle,
            keep_for_writes: deadlines.idle_for_writes,
            age_max: deadlines.connection_age,
        }
    }

    /// A connection that has just been opened; one that can be shared is kept from now on.
    pub(super) fn fresh(&self, key: Key, opened: Opened) -> Connection {
        let now = Instant::now();
        let sender = match opened {
            Opened::Http1(sender) => Sender::Http1(sender),
            Opened::Http2(shared) => {
                let share = shared.share();
                let mut kept = self.kept();
                let shared_before = &mut kept.entry(key.clone()).or_default().shared;
                if shared_before.len() < self.idle_max {
                    shared_before.push(shared);
                }
                Sender::Http2(share)
            }
        };
        Connection { sender, key, born: now, idle_since: now }
    }

    /// The connection used last, if it may carry a request with this effect: a provider that closes
    /// an idle connection under a write leaves its outcome unknown, so a write takes only a young
    /// one.
    pub(super) fn take(&self, key: &Key, effect: Effect) -> Option<Connection> {
        let keep = match effect {
            Effect::Reads => self.keep,
            Effect::Writes => self.keep_for_writes,
        };
        let mut all = self.kept();
        let kept = all.get_mut(key)?;
        let is_usable = |idle: &Connection| match &idle.sender {
            Sender::Http1(sender) => sender.is_ready() && idle.idle_since.elapsed() < keep,
            Sender::Http2(_) => false,
        };
        if let Some(at) = kept.idle.iter().rposition(is_usable) {
            self.idle.fetch_sub(1, Ordering::Relaxed);
            return Some(kept.idle.swap_remove(at));
        }
        let shared = kept.shared.iter().rfind(|shared| shared.has_room(keep, self.age_max))?;
        let (born, now) = (shared.born(), Instant::now());
        let sender = Sender::Http2(shared.share());
        Some(Connection { sender, key: key.clone(), born, idle_since: now })
    }

    /// Keeps a connection whose exchange is complete. A share is given back by dropping it.
    pub(super) fn give_back(&self, mut connection: Connection) {
        let Sender::Http1(sender) = &connection.sender else { return };
        if sender.is_closed() || connection.born.elapsed() >= self.age_max {
            return;
        }
        connection.idle_since = Instant::now();
        let mut kept = self.kept();
        let idle = &mut kept.entry(connection.key.clone()).or_default().idle;
        if idle.len() < self.idle_max && self.idle.load(Ordering::Relaxed) < IDLE_MAX {
            idle.push(connection);
            self.idle.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Drops the idle connections to an address, whatever their name and generation, that have carried no
    /// answer since this moment: one of their age turned out to be dead, and what killed it (a balancer that
    /// fails over, a firewall that forgets) is likely to have killed them. Returns how many they were.
    pub(super) fn drop_older(&self, address: &str, than: Instant) -> usize {
        let mut dropped = 0;
        let mut all = self.kept();
        for (_, kept) in all.iter_mut().filter(|(key, _)| *key.address == *address) {
            let before = kept.idle.len();
            kept.idle.retain(|idle| idle.idle_since > than);
            dropped += before - kept.idle.len();
        }
        self.idle.fetch_sub(dropped, Ordering::Relaxed);
        dropped
    }

    /// Drops what is closed or has been kept too long.
    pub(super) fn tidy(&self) {
        let is_current = |idle: &Connection| {
            matches!(&idle.sender, Sender::Http1(sender) if !sender.is_closed())
                && idle.idle_since.elapsed() < self.keep
                && idle.born.elapsed() < self.age_max
        };
        let mut left = 0;
        self.kept().retain(|_, kept| {
            kept.idle.retain(is_current);
            left += kept.idle.len();
            kept.shared.retain(|shared| shared.is_current(self.keep, self.age_max));
            !(kept.idle.is_empty() && kept.shared.is_empty())
        });
        // One worker's pool: nothing is put away or taken meanwhile.
        self.idle.store(left, Ordering::Relaxed);
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<Key, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
