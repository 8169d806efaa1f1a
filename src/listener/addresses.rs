//! Limits for each client address: connections, handshakes under way, handshakes per second. A connection
//! above a limit is closed before a byte of it is read, except a load balancer's PROXY protocol header.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::metrics::ConnectionLimit;

/// Limits for one address, and for all of them together.
#[derive(Debug, Clone, Copy)]
pub(super) struct AddressLimits {
    pub(super) connections_max: usize,
    pub(super) handshakes_max: usize,
    pub(super) handshakes_per_second: NonZeroU32,
    /// Handshakes under way from all addresses; each address may have one whatever others have.
    pub(super) all_handshakes_max: usize,
}

/// Connections and handshakes of all addresses, and their limits.
#[derive(Debug)]
pub(super) struct AddressTable {
    shares: AddressLimits,
    rates: DefaultKeyedRateLimiter<IpAddr>,
    held: Mutex<AddressCounts>,
}

#[derive(Debug, Default)]
struct AddressCounts {
    by_address: HashMap<IpAddr, AddressShare>,
    handshakes: usize,
    /// Connections from load balancers whose client is not known yet.
    unnamed: usize,
}

#[derive(Debug, Default)]
struct AddressShare {
    connections: usize,
    handshakes: usize,
}

/// Limit: addresses whose rate is remembered; above it those without recent handshakes are dropped.
const RATES_MAX: usize = 65_536;

impl AddressTable {
    pub(super) fn new(shares: AddressLimits) -> Self {
        let rates = RateLimiter::keyed(Quota::per_second(shares.handshakes_per_second));
        Self { shares, rates, held: Mutex::default() }
    }

    /// Admits a connection that is about to begin its handshake.
    ///
    /// # Errors
    /// Returns the limit that is reached, as a metric's label.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr) -> Result<AddressSlot, ConnectionLimit> {
        let address = origin(address);
        if self.rates.len() > RATES_MAX {
            self.rates.retain_recent();
        }
        let mut held = self.held();
        let share = held.by_address.get(&address);
        let (connections, handshakes) =
            share.map_or((0, 0), |share| (share.connections, share.handshakes));
        // Each address may have one whatever others have, so that a few silent clients keep nobody out.
        if held.handshakes >= self.shares.all_handshakes_max && handshakes > 0 {
            return Err(ConnectionLimit::Handshakes);
        }
        if connections >= self.shares.connections_max {
            return Err(ConnectionLimit::AddressConnections);
        }
        if handshakes >= self.shares.handshakes_max {
            return Err(ConnectionLimit::AddressHandshakes);
        }
        self.rates.check_key(&address).map_err(|_| ConnectionLimit::AddressRate)?;
        held.handshakes += 1;
        let share = held.by_address.entry(address).or_default();
        share.connections += 1;
        share.handshakes += 1;
        Ok(AddressSlot { addresses: Arc::clone(self), address, in_handshake: true })
    }

    /// Admits a connection from a load balancer, whose client a PROXY protocol header will name.
    ///
    /// Such connections have a count of their own: a client that holds all handshakes keeps no other's header
    /// from being read.
    ///
    /// # Errors
    /// Returns the limit that is reached, as a metric's label.
    pub(super) fn admit_unnamed(self: &Arc<Self>) -> Result<UnnamedSlot, ConnectionLimit> {
        let mut held = self.held();
        if held.unnamed >= self.shares.all_handshakes_max {
            return Err(ConnectionLimit::Handshakes);
        }
        held.unnamed += 1;
        Ok(UnnamedSlot(Arc::clone(self)))
    }

    fn held(&self) -> MutexGuard<'_, AddressCounts> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Slot of an accepted connection.
#[derive(Debug)]
pub(super) enum Admission {
    /// Slot among the connections of the address that it comes from.
    Named(AddressSlot),
    /// Slot among the connections of load balancers whose client is not known yet.
    Unnamed(UnnamedSlot),
}

/// A slot among the connections of load balancers whose client is not known yet, given back when dropped.
#[derive(Debug)]
pub(super) struct UnnamedSlot(Arc<AddressTable>);

impl UnnamedSlot {
    /// Exchanges the slot for one of the client's address.
    ///
    /// # Errors
    /// Returns the limit that is reached, as a metric's label.
    pub(super) fn named(self, client: IpAddr) -> Result<AddressSlot, ConnectionLimit> {
        self.0.admit(client)
    }
}

impl Drop for UnnamedSlot {
    fn drop(&mut self) {
        self.0.held().unnamed -= 1;
    }
}

/// A slot among an address's connections, given back when dropped.
#[derive(Debug)]
pub(super) struct AddressSlot {
    addresses: Arc<AddressTable>,
    address: IpAddr,
    in_handshake: bool,
}

impl AddressSlot {
    /// Records that the handshake has ended.
    pub(super) fn handshake_done(&mut self) {
        if std::mem::take(&mut self.in_handshake) {
            let mut held = self.addresses.held();
            held.handshakes -= 1;
            if let Some(share) = held.by_address.get_mut(&self.address) {
                share.handshakes -= 1;
            }
        }
    }
}

impl Drop for AddressSlot {
    fn drop(&mut self) {
        self.handshake_done();
        let mut held = self.addresses.held();
        if let Some(share) = held.by_address.get_mut(&self.address) {
            share.connections -= 1;
            if share.connections == 0 {
                held.by_address.remove(&self.address);
            }
        }
    }
}

/// Returns the address that limits count by: for IPv6 the /64, all of which one client may have.
fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> Arc<AddressTable> {
        Arc::new(AddressTable::new(AddressLimits {
            connections_max: 3,
            handshakes_max: 2,
            handshakes_per_second: NonZeroU32::new(1000).unwrap(),
            all_handshakes_max: 3,
        }))
    }

    #[test]
    fn each_address_has_its_share_and_all_have_one_together() {
        let addresses = addresses();
        let admit = |address: &str| addresses.admit(address.parse().unwrap());
        let mut first = admit("192.0.2.1").unwrap();
        let second = admit("::ffff:192.0.2.1").unwrap();
        assert_eq!(admit("192.0.2.1").unwrap_err(), ConnectionLimit::AddressHandshakes);
        let other = admit("2001:db8::1").unwrap();
        assert_eq!(admit("2001:db8::2").unwrap_err(), ConnectionLimit::Handshakes);
        let one = admit("192.0.2.9").unwrap();
        assert_eq!(admit("192.0.2.9").unwrap_err(), ConnectionLimit::Handshakes, "its second");
        drop((one, other));
        first.handshake_done();
        let third = admit("192.0.2.1").unwrap();
        assert_eq!(admit("192.0.2.1").unwrap_err(), ConnectionLimit::AddressConnections);
        drop((first, second, third));
        assert!(addresses.held().by_address.is_empty());
        assert_eq!(addresses.held().handshakes, 0);
    }

    #[test]
    fn a_connection_of_a_load_balancer_counts_for_the_client_once_that_is_known() {
        let addresses = addresses();
        let unnamed = || addresses.admit_unnamed();
        let waiting = [unnamed().unwrap(), unnamed().unwrap(), unnamed().unwrap()];
        assert_eq!(unnamed().unwrap_err(), ConnectionLimit::Handshakes);
        let direct = addresses.admit("192.0.2.9".parse().unwrap()).unwrap();
        let [first, second, third] = waiting;
        let named = [first, second].map(|slot| slot.named("192.0.2.1".parse().unwrap()).unwrap());
        assert_eq!(
            third.named("192.0.2.1".parse().unwrap()).unwrap_err(),
            ConnectionLimit::Handshakes
        );
        let other = unnamed().unwrap().named("192.0.2.2".parse().unwrap());
        assert!(other.is_ok(), "each address may have one");
        drop((direct, named, other));
        assert!(addresses.held().by_address.is_empty());
        assert_eq!(addresses.held().handshakes, 0);
        assert_eq!(addresses.held().unnamed, 0);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        assert_eq!(
            origin("2001:db8::1:2".parse().unwrap()),
            origin("2001:db8::9".parse().unwrap())
        );
        assert_ne!(
            origin("2001:db8:0:1::1".parse().unwrap()),
            origin("2001:db8::1".parse().unwrap())
        );
    }
}
