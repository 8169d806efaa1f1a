//! Consumer of the demonstration, which sends each request on a new connection with mutual TLS.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use rustls::ClientConfig;

use crate::outbound::{ServiceAnswer, ServiceUrl};
use crate::tls::{self, KeyPair};

/// Simulated consumer, with or without a client certificate.
pub(super) struct DemoConsumer {
    proxy: ServiceUrl,
    tls: Arc<ClientConfig>,
}

/// Limit: time from the start of a call to the end of its response.
const PATIENCE: Duration = Duration::from_secs(40);
/// Limit: size of a response's body, in bytes.
const BODY_BYTES_MAX: usize = 16 << 20;

impl DemoConsumer {
    /// Creates a consumer of the proxy at `address`.
    pub(super) fn new(
        address: SocketAddr,
        authority: PathBuf,
        certificate: Option<&KeyPair>,
    ) -> anyhow::Result<Self> {
        let proxy = ServiceUrl::parse(&format!("https://localhost:{}", address.port()));
        let tls = tls::client(&[authority], certificate)?;
        Ok(Self { proxy: proxy.map_err(anyhow::Error::msg)?, tls })
    }

    /// Sends a request and reads the whole response.
    pub(super) async fn call(
        &self,
        method: Method,
        target: String,
        headers: &[(&str, String)],
        body: &str,
    ) -> anyhow::Result<ServiceAnswer> {
        let mut request = Request::builder().method(method);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned())))?;
        let url = ServiceUrl { path: target, ..self.proxy.clone() };
        let heard = url.send(Some(&self.tls), request, BODY_BYTES_MAX);
        let heard = tokio::time::timeout(PATIENCE, heard).await;
        let heard = heard.with_context(|| format!("no answer within {} s", PATIENCE.as_secs()))?;
        heard.map_err(anyhow::Error::msg)
    }
}
