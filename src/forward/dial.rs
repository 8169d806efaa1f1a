//! Opens connections to providers: resolves the registered address, checks it, connects, and performs the
//! handshakes.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::failure::ErrorChain;
use super::pool::PoolKey;
use super::resolve::DnsResolver;
use super::{ForwardSettings, ProviderDeadlines, Upload};

/// Error returned when no connection to a provider could be opened. Not one byte of a request has been sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialFault {
    /// A deadline passed in this phase.
    #[error("{0} timed out")]
    TimedOut(&'static str),
    /// This phase failed.
    #[error("{0}: {1}")]
    Refused(&'static str, String),
}

/// Opens connections to providers.
pub(super) struct Dialler {
    networks: Vec<IpNet>,
    resolver: DnsResolver,
    connect: Duration,
    tls: Duration,
    unacknowledged: Duration,
}

/// Interval at which an idle connection is probed. No shorter one can be set.
///
/// A connection that its other end has forgotten is so found closed before a request is sent on it.
const PROBE: Duration = Duration::from_secs(1);
/// Limit: addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;
/// Time after which the next address of a name is tried beside one that has not answered.
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// Limit: bytes of a provider's response head.
const HEAD_BYTES_MAX: usize = 128 * 1024;
/// Limit: lines of a provider's response head.
const HEADERS_MAX: usize = 128;

impl Dialler {
    pub(super) fn new(settings: &ForwardSettings) -> Self {
        let ForwardSettings { networks, deadlines, .. } = settings.clone();
        let resolver = DnsResolver::new(settings);
        // Half of the time for an answer is left for a second try on another connection.
        let unacknowledged = deadlines.response_head / 2;
        let ProviderDeadlines { connect, tls, .. } = deadlines;
        Self { networks, resolver, connect, tls, unacknowledged }
    }

    /// Opens a connection for `key` under the given trust; returns it with the provider's address.
    pub(super) async fn open(
        &self,
        key: &PoolKey,
        trust: &Arc<ClientConfig>,
    ) -> Result<(SendRequest<Upload>, Option<SocketAddr>), DialFault> {
        let stream = timeout(self.connect, self.connect(&key.address))
            .await
            .map_err(|_| DialFault::TimedOut("connect"))??;
        let address = stream.peer_addr().ok();
        let refused = |phase| {
            move |error: &(dyn Error + 'static)| {
                DialFault::Refused(phase, ErrorChain(error).to_string())
            }
        };
        let name =
            ServerName::try_from(key.name.to_string()).map_err(|error| refused("name")(&error))?;
        let handshake = TlsConnector::from(Arc::clone(trust)).connect(name, stream);
        let stream = timeout(self.tls, handshake)
            .await
            .map_err(|_| DialFault::TimedOut("TLS"))?
            .map_err(|error| refused("TLS")(&error))?;
        let sender = http1(stream).await.map_err(|error| refused("HTTP")(&error))?;
        Ok((sender, address))
    }

    /// Connects to one of the host's addresses: the first that answers.
    ///
    /// Spec: RFC 8305. An address that does not answer soon is not waited for before the next is tried.
    async fn connect(&self, address: &str) -> Result<TcpStream, DialFault> {
        // Security: checked on the address that is dialled, after resolution, so that no name can lead
        // elsewhere between check and connect.
        let found = self.resolver.addresses(address).await;
        let found = found.map_err(|fault| DialFault::Refused(fault.phase, fault.why))?;
        let mut addresses = found.into_iter().filter(|address| self.allows(address.ip()));
        let mut left = ADDRESSES_MAX;
        let mut last = DialFault::Refused(
            "connect",
            "none of its addresses is in provider.networks".to_owned(),
        );
        let mut attempts = FuturesUnordered::new();
        loop {
            match addresses.next().filter(|_| left > 0) {
                Some(address) => {
                    left -= 1;
                    attempts.push(TcpStream::connect(address));
                }
                None if attempts.is_empty() => return Err(last),
                None => left = 0,
            }
            tokio::select! {
                Some(tried) = attempts.next() => match tried {
                    Ok(stream) => {
                        // A socket option that cannot be set costs time, not correctness.
                        stream.set_nodelay(true).unwrap_or_default();
                        detect_dead_peer(&stream, self.unacknowledged).unwrap_or_default();
                        return Ok(stream);
                    }
                    Err(error) => last = DialFault::Refused("connect", error.to_string()),
                },
                () = tokio::time::sleep(NEXT_ADDRESS), if left > 0 => {}
            }
        }
    }

    fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }
}

/// Makes the kernel detect a dead peer: bytes that are not acknowledged for this long end the connection, and
/// an idle connection is probed.
///
/// TCP retransmits for a quarter of an hour by default. Spec: RFC 5482 for the user timeout; a window that
/// stays closed for so long ends the connection too.
fn detect_dead_peer(stream: &TcpStream, unacknowledged: Duration) -> io::Result<()> {
    let socket = SockRef::from(stream);
    let probes = TcpKeepalive::new().with_time(PROBE).with_interval(PROBE);
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(unacknowledged))?;
    socket.set_tcp_keepalive(&probes)
}

async fn http1(stream: TlsStream<TcpStream>) -> hyper::Result<SendRequest<Upload>> {
    let (sender, connection) = Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .preserve_header_case(true)
        // Spec: RFC 9112, section 5.1: white space before a colon is removed from a response.
        .allow_spaces_after_header_name_in_responses(true)
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(
                error = %ErrorChain(&error),
                "a connection to a provider ended with an error"
            );
        }
    });
    Ok(sender)
}

impl fmt::Debug for Dialler {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Dialler").field("networks", &self.networks).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_provider_that_acknowledges_nothing_is_noticed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let text = "networks = [\"127.0.0.0/8\"]\n[deadlines]\nresponse-head = \"6s\"";
        let dialler = Dialler::new(&toml::from_str(text).unwrap());
        let stream = dialler.connect(&address).await.unwrap();
        let socket = SockRef::from(&stream);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(3)));
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), PROBE);
    }
}
