//! From a registered address to an HTTP connection: resolve, check, connect, prove, speak.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::pool::Key;
use super::{Settings, Upload};

/// Why a provider could not be spoken to. Not one byte of a request has been sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialFault {
    /// A deadline passed in this phase.
    #[error("{0} took too long")]
    TimedOut(&'static str),
    /// This phase failed.
    #[error("{0}: {1}")]
    Refused(&'static str, String),
}

/// Opens connections to providers.
pub(super) struct Dialler {
    networks: Vec<IpNet>,
    hosts: BTreeMap<String, SocketAddr>,
    resolver: Option<TokioResolver>,
    connect: Duration,
    tls: Duration,
}

/// Limit: addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;
/// Limit: bytes of a provider's response head.
const HEAD_BYTES_MAX: usize = 128 * 1024;
/// Limit: lines of a provider's response head.
const HEADERS_MAX: usize = 128;

impl Dialler {
    pub(super) fn new(settings: &Settings) -> Self {
        let Settings { networks, hosts, deadlines, .. } = settings.clone();
        let resolver = TokioResolver::builder_tokio().and_then(|builder| builder.build());
        let resolver = resolver
            .inspect_err(|error| tracing::warn!(%error, "no DNS: only addresses can be dialled"))
            .ok();
        Self { networks, hosts, resolver, connect: deadlines.connect, tls: deadlines.tls }
    }

    /// Opens a connection for `key` under the given trust.
    pub(super) async fn open(
        &self,
        key: &Key,
        trust: &Arc<ClientConfig>,
    ) -> Result<SendRequest<Upload>, DialFault> {
        let stream = timeout(self.connect, self.connect(&key.address))
            .await
            .map_err(|_| DialFault::TimedOut("connect"))??;
        let refused =
            |phase| move |error: &dyn fmt::Display| DialFault::Refused(phase, error.to_string());
        let name =
            ServerName::try_from(key.name.to_string()).map_err(|error| refused("name")(&error))?;
        let handshake = TlsConnector::from(Arc::clone(trust)).connect(name, stream);
        let stream = timeout(self.tls, handshake)
            .await
            .map_err(|_| DialFault::TimedOut("TLS"))?
            .map_err(|error| refused("TLS")(&error))?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .preserve_header_case(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| refused("HTTP")(&error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "provider connection ended");
            }
        });
        Ok(sender)
    }

    async fn connect(&self, address: &str) -> Result<TcpStream, DialFault> {
        let mut last = DialFault::Refused("connect", "the name has no address".to_owned());
        for address in self.addresses(address).await? {
            // Security: checked on the address that is dialled, after resolution, so no name can
            // lead elsewhere between check and connect.
            if !self.allows(address.ip()) {
                last = DialFault::Refused("connect", format!("{address} is in no allowed network"));
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    // A socket option that cannot be set costs latency, not correctness.
                    stream.set_nodelay(true).unwrap_or_default();
                    return Ok(stream);
                }
                Err(error) => last = DialFault::Refused("connect", error.to_string()),
            }
        }
        Err(last)
    }

    async fn addresses(&self, address: &str) -> Result<Vec<SocketAddr>, DialFault> {
        if let Ok(address) = address.parse::<SocketAddr>() {
            return Ok(vec![address]);
        }
        let malformed = || DialFault::Refused("address", format!("{address:?} has no port"));
        let (host, port) = address.rsplit_once(':').ok_or_else(malformed)?;
        if let Some(address) = self.hosts.get(host) {
            return Ok(vec![*address]);
        }
        let port: u16 = port.parse().map_err(|_| malformed())?;
        let resolver = self.resolver.as_ref();
        let resolver =
            resolver.ok_or_else(|| DialFault::Refused("DNS", "no resolver".to_owned()))?;
        let found = resolver
            .lookup_ip(host)
            .await
            .map_err(|error| DialFault::Refused("DNS", error.to_string()))?;
        Ok(found.iter().take(ADDRESSES_MAX).map(|ip| SocketAddr::new(ip, port)).collect())
    }

    fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }
}

impl fmt::Debug for Dialler {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Dialler").field("networks", &self.networks).finish_non_exhaustive()
    }
}
