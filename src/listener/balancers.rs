//! Load balancers: the networks whose PROXY protocol headers are believed, and the reading of a header.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use ipnet::IpNet;
use tokio::io::AsyncReadExt as _;

use super::proxy_header::{ProxyHeaderFault, proxy_header_length, proxy_header_source};
use super::socket::Socket;
use crate::gateway::ConsumerAddress;

/// Limit: log lines per minute of one kind about PROXY protocol headers, since anybody can cause them.
const LOG_LINES_PER_MINUTE: NonZeroU32 = NonZeroU32::MIN.saturating_add(5);
/// Number of bytes that are looked at in one step, more than most headers have.
const STEP_BYTES: usize = 256;

/// Networks of the load balancers, and the rates of log lines about PROXY protocol headers.
#[derive(Debug)]
pub(super) struct Balancers {
    networks: Vec<IpNet>,
    unusable_lines: DefaultDirectRateLimiter,
    uninvited_lines: DefaultDirectRateLimiter,
}

impl Balancers {
    pub(super) fn new(networks: &[IpNet]) -> Self {
        let lines = || RateLimiter::direct(Quota::per_minute(LOG_LINES_PER_MINUTE));
        Self { networks: networks.to_vec(), unusable_lines: lines(), uninvited_lines: lines() }
    }

    /// Returns true if a PROXY protocol header must come first on connections from this address.
    pub(super) fn contain(&self, address: IpAddr) -> bool {
        // Most installations list none.
        if self.networks.is_empty() {
            return false;
        }
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// Logs that a connection from a load balancer is closed because of its header, unless too many such
    /// lines were logged.
    pub(super) fn log_unusable(&self, balancer: SocketAddr, fault: ProxyHeaderFault) {
        if self.unusable_lines.check().is_err() {
            return;
        }
        tracing::warn!(
            %balancer,
            %fault,
            "no usable PROXY protocol header from an address in listener.proxy-protocol-from: the connection \
             is closed; let the load balancer send a header of version 1 or 2 (HAProxy: send-proxy-v2), or take \
             its network off that list; at most 6 such lines are logged in a minute, and \
             spine_proxy_tls_handshakes_total counts all"
        );
    }

    /// Logs that a connection is closed because a header came that is not believed, unless too many such
    /// lines were logged.
    pub(super) fn log_uninvited(&self, address: &ConsumerAddress) {
        if self.uninvited_lines.check().is_err() {
            return;
        }
        let client = address.consumer;
        match address.balancer {
            None => tracing::warn!(
                %client,
                "a PROXY protocol header from an address that is not in listener.proxy-protocol-from: it is \
                 not believed, and the connection is closed; if a load balancer has this address, add its \
                 network to that list; at most 6 such lines are logged in a minute, and \
                 spine_proxy_tls_handshakes_total counts all"
            ),
            Some(balancer) => tracing::warn!(
                %client,
                %balancer,
                "a second PROXY protocol header on one connection: the connection is closed; the load balancer \
                 must send one and drop what the client sent; at most 6 such lines are logged in a minute, \
                 and spine_proxy_tls_handshakes_total counts all"
            ),
        }
    }
}

/// Reason why no PROXY protocol header was read.
#[derive(Debug, Clone, Copy)]
pub(super) enum NoHeader {
    /// The connection ended before its first byte, as that of a health check, or was reset.
    Ended,
    /// The first bytes are no header that can be used.
    Unusable(ProxyHeaderFault),
}

/// Reads a PROXY protocol header, and no byte after it; returns the client's address and port, if it names one.
///
/// # Errors
/// Returns the reason for which the connection is to be closed.
pub(super) async fn read_header(mut socket: Socket) -> Result<Option<SocketAddr>, NoHeader> {
    let mut header = Vec::new();
    loop {
        let (read, mut step) = (header.len(), [0; STEP_BYTES]);
        let arrived = socket.peek(&mut step).await.map_err(|_| NoHeader::Ended)?;
        if arrived.is_empty() {
            let is_cut = !header.is_empty();
            return Err(match is_cut {
                true => NoHeader::Unusable(ProxyHeaderFault::Cut),
                false => NoHeader::Ended,
            });
        }
        header.extend_from_slice(arrived);
        let length = proxy_header_length(&header).map_err(NoHeader::Unusable)?;
        // Without an end, all that has arrived belongs to the header.
        header.truncate(length.unwrap_or(usize::MAX));
        let taken = header.get_mut(read..).unwrap_or_default();
        socket.read_exact(taken).await.map_err(|_| NoHeader::Ended)?;
        if length.is_some() {
            return proxy_header_source(&header).map_err(NoHeader::Unusable);
        }
    }
}
