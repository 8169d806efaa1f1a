//! Consumer of the demonstration, which sends each request on a new connection with mutual TLS.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Simulated consumer, with or without a client certificate.
pub(super) struct DemoConsumer {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
}

/// Complete response to a request.
pub(super) struct DemoResponse {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl DemoResponse {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Returns the token of a refusal, if the proxy itself answered.
    pub(super) fn token(&self) -> Option<&str> {
        self.header("proxy-status").split("details=\"").nth(1)?.strip_suffix('"')
    }
}

/// Limit: time from the start of a call to the end of its response.
const PATIENCE: Duration = Duration::from_secs(40);

impl DemoConsumer {
    /// Creates a consumer of the proxy at `address`; `certificate` names the files of a chain and its key.
    pub(super) fn new(
        address: SocketAddr,
        authority: &Path,
        certificate: Option<(&Path, &Path)>,
    ) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority)?)?;
        let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(crypto)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let tls = match certificate {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = CertificateDer::pem_file_iter(chain)?.collect::<Result<_, _>>()?;
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key)?)?
            }
        };
        Ok(Self { address, tls: Arc::new(tls) })
    }

    /// Sends a request and reads the whole response.
    pub(super) async fn call(
        &self,
        method: Method,
        target: &str,
        headers: &[(&str, String)],
        body: &str,
    ) -> anyhow::Result<DemoResponse> {
        let mut request = Request::builder().method(method).uri(target).header("Host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned())))?;
        let heard = tokio::time::timeout(PATIENCE, self.exchange(request)).await;
        heard.with_context(|| format!("no answer within {} s", PATIENCE.as_secs()))?
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> anyhow::Result<DemoResponse> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost")?;
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        driver.abort();
        Ok(DemoResponse { status: head.status, headers: head.headers, body })
    }
}
