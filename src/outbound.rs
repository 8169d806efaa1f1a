//! One request to a service of the operator's own: a witness, a receiver of traces, the admin port of a process, a
//! proxy that is called from the command line.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

/// Parts of a service's URL.
#[derive(Debug, Clone)]
pub struct ServiceUrl {
    /// True if its scheme is `https`, false for `http`.
    pub is_https: bool,
    /// Host name or address, without brackets.
    pub host: String,
    /// Port; by default that of the scheme.
    pub port: u16,
    /// Host and port as in the URL.
    pub authority: String,
    /// Path and query.
    pub path: String,
}

/// Answer of a service.
#[derive(Debug)]
pub struct ServiceAnswer {
    /// Status code of the answer.
    pub status: StatusCode,
    /// Headers of the answer.
    pub headers: HeaderMap,
    /// The whole body, or why it could not be read.
    pub body: Result<Bytes, String>,
}

impl ServiceUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// Returns what is wrong with it.
    pub fn parse(url: &str) -> Result<Self, &'static str> {
        let url: Uri = url.parse().map_err(|_| "not a URL")?;
        let (is_https, port) = match url.scheme_str() {
            Some("https") => (true, 443),
            Some("http") => (false, 80),
            _ => return Err("must begin with https:// or http://"),
        };
        let authority = url.authority().ok_or("has no host")?;
        if authority.as_str().contains('@') {
            return Err("must not hold a user or password");
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let path = url.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let port = authority.port_u16().unwrap_or(port);
        Ok(Self { is_https, host, port, authority: authority.to_string(), path })
    }

    /// Returns the URL of a path at an address, over plain HTTP.
    #[must_use]
    pub fn at(address: SocketAddr, path: &str) -> Self {
        Self {
            is_https: false,
            host: address.ip().to_string(),
            port: address.port(),
            authority: address.to_string(),
            path: path.to_owned(),
        }
    }

    /// Returns true if the host is a loopback address.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// Sends a request on a connection of its own, with `tls` for `https`, and reads at most `bytes_max` of the
    /// answer's body. The URL's path and host are put into the request.
    ///
    /// # Errors
    /// Returns a text if there is no answer. It does not time out: the caller limits the time.
    pub async fn send(
        &self,
        tls: Option<&Arc<ClientConfig>>,
        mut request: Request<Full<Bytes>>,
        bytes_max: usize,
    ) -> Result<ServiceAnswer, ServiceFault> {
        *request.uri_mut() = self.path.parse().map_err(ServiceFault::unsent)?;
        let host = HeaderValue::from_str(&self.authority).map_err(ServiceFault::unsent)?;
        request.headers_mut().insert(header::HOST, host);
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(ServiceFault::unsent)?;
        match tls {
            None => exchange(stream, request, bytes_max).await,
            Some(tls) => {
                let name = ServerName::try_from(self.host.clone()).map_err(ServiceFault::unsent)?;
                let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await;
                exchange(stream.map_err(ServiceFault::unsent)?, request, bytes_max).await
            }
        }
    }
}

/// Reason why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct ServiceFault {
    why: String,
    /// True if the request may have been sent.
    pub is_sent: bool,
}

impl ServiceFault {
    /// Returns the fault of a request that was not sent.
    fn unsent(error: impl Display) -> Self {
        Self { why: error.to_string(), is_sent: false }
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
    bytes_max: usize,
) -> Result<ServiceAnswer, ServiceFault> {
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(ServiceFault::unsent)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let sent = |error: hyper::Error| ServiceFault { why: error.to_string(), is_sent: true };
    let answer = sender.send_request(request).await.map_err(sent)?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, bytes_max).collect().await;
    let (status, headers) = (head.status, head.headers);
    Ok(ServiceAnswer {
        status,
        headers,
        body: body.map(|body| body.to_bytes()).map_err(|error| error.to_string()),
    })
}
