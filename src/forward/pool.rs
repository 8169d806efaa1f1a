//! Connections to providers, one worker's own.
//!
//! A connection is never shared between hosts, names or trust generations. Caps count exchanges and
//! are kept by the throttle; this only bounds what lies idle.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::client::conn::http1::SendRequest;

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

/// An open connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(super) sender: SendRequest<Upload>,
    key: Key,
    born: Instant,
    idle_since: Instant,
}

/// Idle connections, newest last.
#[derive(Debug)]
pub(crate) struct Pool {
    idle: Mutex<HashMap<Key, Vec<Connection>>>,
    idle_max: usize,
    keep: Duration,
    keep_for_writes: Duration,
    age_max: Duration,
}

impl Pool {
    pub(super) fn new(deadlines: &Deadlines, idle_max: usize) -> Self {
        Self {
            idle: Mutex::default(),
            idle_max,
            keep: deadlines.idle,
            keep_for_writes: deadlines.idle_for_writes,
            age_max: deadlines.connection_age,
        }
    }

    pub(super) fn fresh(&self, key: Key, sender: SendRequest<Upload>) -> Connection {
        let now = Instant::now();
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
        let mut idle = self.idle();
        let kept = idle.get_mut(key)?;
        let usable = |kept: &Connection| kept.sender.is_ready() && kept.idle_since.elapsed() < keep;
        let at = kept.iter().rposition(usable)?;
        Some(kept.swap_remove(at))
    }

    /// Keeps a connection whose exchange is complete.
    pub(super) fn give_back(&self, mut connection: Connection) {
        if connection.sender.is_closed() || connection.born.elapsed() >= self.age_max {
            return;
        }
        connection.idle_since = Instant::now();
        let mut idle = self.idle();
        let kept = idle.entry(connection.key.clone()).or_default();
        if kept.len() < self.idle_max {
            kept.push(connection);
        }
    }

    /// Drops what is closed or has been kept too long.
    pub(super) fn tidy(&self) {
        let current = |kept: &Connection| {
            !kept.sender.is_closed()
                && kept.idle_since.elapsed() < self.keep
                && kept.born.elapsed() < self.age_max
        };
        self.idle().retain(|_, kept| {
            kept.retain(current);
            !kept.is_empty()
        });
    }

    fn idle(&self) -> MutexGuard<'_, HashMap<Key, Vec<Connection>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
