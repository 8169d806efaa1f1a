//! TLS of simulated servers: providers and the directory service.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// Authorities whose client certificates are accepted.
pub(super) struct ClientAuthorities {
    pub(super) roots: RootCertStore,
    pub(super) lists: Vec<CertificateRevocationListDer<'static>>,
    /// True if a client without a certificate fails the handshake.
    pub(super) must: bool,
}

/// Builds a server's TLS configuration; without `clients`, no client certificate is requested.
pub(super) fn config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    clients: Option<ClientAuthorities>,
) -> anyhow::Result<Arc<ServerConfig>> {
    let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&crypto))
        .with_safe_default_protocol_versions()?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(ClientAuthorities { roots, lists, must }) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), crypto);
            let verifier = verifier.with_crls(lists);
            let verifier = if must { verifier } else { verifier.allow_unauthenticated() };
            builder.with_client_cert_verifier(verifier.build()?)
        }
    };
    Ok(Arc::new(builder.with_single_cert(chain, key)?))
}
