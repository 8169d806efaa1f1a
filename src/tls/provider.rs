//! TLS towards providers: our certificate, their names.

use std::sync::Arc;

use rustls::CertificateError::{NotValidForName, NotValidForNameContext};
use rustls::ClientConfig;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::files::{self, Expiry, TrustError, Use};
use super::{ExpiredCrl, Http2, ProviderLeg};

/// The whole client side of a generation. Its resumption store is its own: no session outlives the
/// trust it was verified under.
pub(super) fn config(
    leg: &ProviderLeg,
    crypto: &Arc<CryptoProvider>,
    now_s: i64,
    expiries: &mut Vec<Expiry>,
) -> Result<ClientConfig, TrustError> {
    let named = leg.authorities.first().cloned().unwrap_or_default();
    let roots = files::authorities(&leg.authorities, expiries)?;
    let lists = files::revocation_lists(&leg.crl, Use::ProviderCrl, expiries)?;
    let mut builder = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(crypto));
    if !lists.is_empty() {
        builder = builder.with_crls(lists);
        if leg.crl_expired == ExpiredCrl::Deny {
            builder = builder.enforce_revocation_expiration();
        }
    }
    let chain = builder.build().map_err(|error| TrustError::new(&named, error))?;
    let ours = files::certified_key(&leg.certificate, crypto, Use::Client, now_s, expiries)?;
    let mut config = ClientConfig::builder_with_provider(Arc::clone(crypto))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| TrustError::new(&named, error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Registered {
            chain,
            cn_fallback: leg.cn_fallback,
        }))
        .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(ours)));
    config.alpn_protocols = match leg.http2 {
        Http2::Off => vec![b"http/1.1".to_vec()],
        Http2::Offer => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
    };
    Ok(config)
}

/// rustls' own verification, and one exception to its last step.
///
/// Spec: NHS endpoint certificates are known by their CN. rustls reads names from the SAN alone, so
/// a certificate without any DNS name there is compared by its one CN, whole, where configured.
#[derive(Debug)]
struct Registered {
    chain: Arc<WebPkiServerVerifier>,
    cn_fallback: bool,
}

impl ServerCertVerifier for Registered {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // Security: rustls checks chain, dates and revocation first and the name last, so a name
        // error means that all else held.
        match self.chain.verify_server_cert(leaf, rest, name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(
                NotValidForName | NotValidForNameContext { .. },
            )) if self.cn_fallback && has_only_this_cn(leaf, name) => {
                tracing::warn!(provider = %name.to_str(), "provider certificate known by its CN alone");
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

fn has_only_this_cn(leaf: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(leaf) else { return false };
    let mut common = parsed.subject().iter_common_name().map(|cn| cn.as_str().ok());
    files::dns_names(&parsed).is_empty()
        && matches!((common.next(), common.next()), (Some(Some(cn)), None) if cn.eq_ignore_ascii_case(&name.to_str()))
}
