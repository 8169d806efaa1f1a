//! Resolves a registered host to the addresses that may be dialled for it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use moka::sync::Cache;
use tokio::time::timeout;

use super::ForwardSettings;

/// Error returned when there is no address to dial.
#[derive(Debug, thiserror::Error)]
#[error("{phase}: {why}")]
pub(super) struct ResolveError {
    /// Part that failed: the address as registered, or DNS.
    pub(super) phase: &'static str,
    pub(super) why: String,
}

/// Limit: addresses of one name that are considered.
const ADDRESSES_MAX: usize = 64;
/// Limit: names whose last addresses are kept for when DNS fails.
const NAMES_MAX: u64 = 10_000;
/// Time for which those addresses are kept.
const KEPT: Duration = Duration::from_secs(60 * 60);
/// Deadline of one query to one name server.
const QUESTION: Duration = Duration::from_millis(700);
/// Number of times that a query is repeated.
const ATTEMPTS: usize = 1;
/// Minimum time for which an answer is used, however short its TTL.
const TTL_MIN: Duration = Duration::from_secs(5);
/// Maximum time for which an answer is used, however long its TTL.
const TTL_MAX: Duration = Duration::from_secs(10 * 60);
/// Maximum time for which a name that does not exist is not asked about again.
const ABSENT_MAX: Duration = Duration::from_secs(10);

/// Resolves the hosts of providers.
pub(super) struct DnsResolver {
    /// Addresses dialled for hosts, by host name in lower case, whatever DNS says.
    hosts: BTreeMap<String, SocketAddr>,
    dns: Option<TokioResolver>,
    /// Addresses that each name last had.
    last: Cache<String, Arc<[IpAddr]>>,
    /// Time for which a name is looked up: half of what a connection may take.
    patience: Duration,
}

impl DnsResolver {
    pub(super) fn new(settings: &ForwardSettings) -> Self {
        let dns = if settings.nameservers.is_empty() {
            TokioResolver::builder_tokio()
        } else {
            let servers = settings.nameservers.iter().copied().map(nameserver).collect();
            let servers = ResolverConfig::from_parts(None, Vec::new(), servers);
            Ok(TokioResolver::builder_with_config(servers, TokioRuntimeProvider::default()))
        };
        let dns = dns.and_then(|mut builder| {
            tune(builder.options_mut());
            builder.build()
        });
        let dns = dns
            .inspect_err(|error| {
                tracing::warn!(
                    %error,
                    "DNS cannot be set up: only IP addresses and provider.hosts can be dialled"
                );
            })
            .ok();
        let last = Cache::builder().max_capacity(NAMES_MAX).time_to_live(KEPT).build();
        let patience = settings.deadlines.connect / 2;
        let hosts = settings.hosts.iter();
        let hosts = hosts.map(|(host, address)| (host.to_ascii_lowercase(), *address)).collect();
        Self { hosts, dns, last, patience }
    }

    /// Returns the addresses to dial for `host:port`, the two families in turn if it has both.
    pub(super) async fn addresses(&self, address: &str) -> Result<Vec<SocketAddr>, ResolveError> {
        if let Ok(address) = address.parse::<SocketAddr>() {
            return Ok(vec![address]);
        }
        let why = || format!("{address:?} has no valid port");
        let malformed = || ResolveError { phase: "address", why: why() };
        let (host, port) = address.rsplit_once(':').ok_or_else(malformed)?;
        // Spec: host names have no case (RFC 9110 §4.2.3).
        if let Some(address) = self.hosts.get(&host.to_ascii_lowercase()) {
            return Ok(vec![*address]);
        }
        let port: u16 = port.parse().map_err(|_| malformed())?;
        let found = self.look_up(host).await?;
        Ok(found.iter().map(|ip| SocketAddr::new(*ip, port)).collect())
    }

    async fn look_up(&self, host: &str) -> Result<Arc<[IpAddr]>, ResolveError> {
        let refused = |why: String| ResolveError { phase: "DNS", why };
        let dns = self
            .dns
            .as_ref()
            .ok_or_else(|| refused("no resolver could be set up at the start".to_owned()))?;
        // With a final dot, no search list is tried.
        let why = match timeout(self.patience, dns.lookup_ip(format!("{host}."))).await {
            Ok(Ok(found)) => {
                let found = in_turn(found.iter());
                self.last.insert(host.to_owned(), Arc::clone(&found));
                return Ok(found);
            }
            // A name that has no address any more must not use its last ones.
            Ok(Err(error)) if error.is_nx_domain() || error.is_no_records_found() => {
                self.last.invalidate(host);
                return Err(refused(error.to_string()));
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        // If DNS failed, the name's last addresses are used; the certificate is verified all the same.
        let last = self.last.get(host).ok_or_else(|| refused(why.clone()))?;
        tracing::warn!(host, %why, "DNS failed: the host's last known address is dialled");
        Ok(last)
    }
}

impl fmt::Debug for DnsResolver {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Resolver").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

fn nameserver(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.to_vec())
}

fn tune(options: &mut ResolverOpts) {
    options.timeout = QUESTION;
    options.attempts = ATTEMPTS;
    // If IPv4 has addresses, a name server that does not answer for IPv6 is not waited for.
    options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
    options.positive_min_ttl = Some(TTL_MIN);
    options.positive_max_ttl = Some(TTL_MAX);
    options.negative_max_ttl = Some(ABSENT_MAX);
}

/// Returns at most [`ADDRESSES_MAX`] addresses, the families in turn, IPv6 first.
///
/// Spec: RFC 8305 §4.
fn in_turn(found: impl Iterator<Item = IpAddr>) -> Arc<[IpAddr]> {
    let (v6, v4): (Vec<_>, Vec<_>) = found.partition(IpAddr::is_ipv6);
    let longest = v6.len().max(v4.len());
    let pairs = (0..longest).flat_map(|at| [v6.get(at), v4.get(at)]);
    pairs.flatten().copied().take(ADDRESSES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_and_a_thousand_addresses_are_a_few() {
        let v4 = (0..1000).map(|n: u32| IpAddr::from((0x7f00_0001 + n).to_be_bytes()));
        let v6 = ["::1", "::2"].map(|text| text.parse::<IpAddr>().unwrap());
        let found = in_turn(v4.chain(v6));
        assert_eq!(found.len(), ADDRESSES_MAX);
        let shown: Vec<_> = found.iter().take(4).map(ToString::to_string).collect();
        assert_eq!(shown, ["::1", "127.0.0.1", "::2", "127.0.0.2"]);
    }
}
