//! Open connections by holder: a limit for each holder, and the choice of the connection to close when slots
//! run short.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::gateway::ConsumerConnection;
use crate::tls::Peer;
use spine_types::CertificateName;

/// Holder of connections: a certificate's name, a certificate, or an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    /// Verified certificates of one name, however many there are.
    Name(CertificateName),
    /// A verified certificate without a usable name, by fingerprint.
    Certificate(String),
    /// An address from which connections without a verified certificate come.
    Address(IpAddr),
}

impl Holder {
    pub(super) fn of(peer: Option<&Peer>, address: IpAddr) -> Self {
        match peer {
            None => Self::Address(address),
            Some(peer) => match peer.names().first() {
                Some(name) => Self::Name(name.clone()),
                None => Self::Certificate(peer.fingerprint().to_owned()),
            },
        }
    }
}

/// The open connections of every holder.
#[derive(Debug)]
pub(super) struct Holders {
    /// Maximum number of connections of one verified certificate or name.
    certificate_max: usize,
    held: Mutex<HashMap<Holder, Vec<Arc<ConsumerConnection>>>>,
}

impl Holders {
    pub(super) fn new(certificate_max: usize) -> Self {
        Self { certificate_max, held: Mutex::default() }
    }

    /// Registers a connection; returns `None` if its holder has as many as it may.
    pub(super) fn enter(
        self: &Arc<Self>,
        holder: Holder,
        connection: &Arc<ConsumerConnection>,
    ) -> Option<HeldConnection> {
        let mut held = self.held();
        let of_holder = held.entry(holder.clone()).or_default();
        // Addresses have a limit of their own, which applies before the handshake.
        if of_holder.len() >= self.certificate_max && !matches!(holder, Holder::Address(_)) {
            return None;
        }
        of_holder.push(Arc::clone(connection));
        let (holders, connection) = (Arc::clone(self), Arc::clone(connection));
        Some(HeldConnection { holders, holder, connection })
    }

    /// Closes the connection of the largest holder that has been without a request for longest.
    ///
    /// It ends after the exchanges it carries; one that waits for an answer is chosen only if all do.
    pub(super) fn close_idlest(&self) {
        let held = self.held();
        let open = |of_holder: &[Arc<ConsumerConnection>]| {
            of_holder.iter().filter(|one| !one.close.is_cancelled()).count()
        };
        let largest = held.values().max_by_key(|of_holder| open(of_holder));
        let left = largest.into_iter().flatten().filter(|one| !one.close.is_cancelled());
        let idlest =
            left.min_by_key(|connection| (connection.is_busy(), connection.last_used_ms()));
        if let Some(idlest) = idlest {
            idlest.close.cancel();
        }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Holder, Vec<Arc<ConsumerConnection>>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection registered with its holder, until dropped.
#[derive(Debug)]
pub(super) struct HeldConnection {
    holders: Arc<Holders>,
    holder: Holder,
    connection: Arc<ConsumerConnection>,
}

impl Drop for HeldConnection {
    fn drop(&mut self) {
        let mut held = self.holders.held();
        if let Some(of_holder) = held.get_mut(&self.holder) {
            of_holder.retain(|one| !Arc::ptr_eq(one, &self.connection));
            if of_holder.is_empty() {
                held.remove(&self.holder);
            }
        }
    }
}
