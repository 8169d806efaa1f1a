//! TLS towards consumers: which certificate answers, and how theirs is taken.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, ResolvesServerCert, ServerSessionMemoryCache, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::files::{self, Expiry, TrustError, Use};
use super::{ConsumerLeg, ExpiredCrl, Reject};

/// The verifier that decides about consumers' certificates, whichever layer asks it.
pub(super) fn client_verifier(
    leg: &ConsumerLeg,
    crypto: &Arc<CryptoProvider>,
    expiries: &mut Vec<Expiry>,
) -> Result<Arc<dyn ClientCertVerifier>, TrustError> {
    let roots = files::authorities(&leg.authorities, expiries)?;
    let lists = files::revocation_lists(&leg.crl, Use::ClientCrl, expiries)?;
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(crypto));
    if !lists.is_empty() {
        // Whole chain, unknown status denied: both are the builder's defaults.
        builder = builder.with_crls(lists);
        if leg.crl_expired == ExpiredCrl::Deny {
            builder = builder.enforce_revocation_expiration();
        }
    }
    let named = leg.authorities.first().cloned().unwrap_or_default();
    builder.build().map_err(|error| TrustError::new(&named, error))
}

/// The whole server side of a generation.
pub(super) fn config(
    leg: &ConsumerLeg,
    crypto: &Arc<CryptoProvider>,
    clients: &Arc<dyn ClientCertVerifier>,
    now_s: i64,
    expiries: &mut Vec<Expiry>,
) -> Result<ServerConfig, TrustError> {
    let mut by_name = ByName::default();
    for pair in &leg.certificates {
        let key = files::certified_key(pair, crypto, Use::Server, now_s, expiries)?;
        by_name.add(key).map_err(|why| TrustError::new(&pair.chain, why))?;
    }
    let verifier: Arc<dyn ClientCertVerifier> = match leg.reject {
        Reject::Handshake => Arc::clone(clients),
        Reject::Http => Arc::new(Possession { crypto: Arc::clone(crypto) }),
    };
    let mut config = ServerConfig::builder_with_provider(Arc::clone(crypto))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| TrustError::new(std::path::Path::new("TLS"), error))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(by_name));
    config.ignore_client_order = true;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = ServerSessionMemoryCache::new(leg.sessions_max);
    Ok(config)
}

/// Certificates by the names in them; several key types stand side by side.
#[derive(Debug, Default)]
struct ByName {
    first: Vec<Arc<CertifiedKey>>,
    named: HashMap<String, Vec<Arc<CertifiedKey>>>,
}

impl ByName {
    fn add(&mut self, key: CertifiedKey) -> Result<(), String> {
        let leaf = key.cert.first().ok_or("holds no certificate")?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| error.to_string())?;
        let names = files::names(&parsed);
        let key = Arc::new(key);
        let twin = names.iter().any(|name| self.is_first(name.as_str()));
        if self.first.is_empty() || twin {
            self.first.push(Arc::clone(&key));
        }
        for name in names {
            self.named.entry(name.to_string()).or_default().push(Arc::clone(&key));
        }
        Ok(())
    }

    /// Whether the default certificate has this name too: then both answer for it.
    fn is_first(&self, name: &str) -> bool {
        let keys = self.named.get(name).map(Vec::as_slice).unwrap_or_default();
        keys.iter().any(|key| self.first.iter().any(|first| Arc::ptr_eq(first, key)))
    }

    fn of(&self, name: &str) -> Option<&[Arc<CertifiedKey>]> {
        let name = name.to_ascii_lowercase();
        let exact = self.named.get(&name);
        let wild = || self.named.get(&format!("*.{}", name.split_once('.')?.1));
        exact.or_else(wild).map(Vec::as_slice)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let keys = hello.server_name().and_then(|name| self.of(name)).unwrap_or(&self.first);
        let schemes = hello.signature_schemes();
        keys.iter().find(|key| key.key.choose_scheme(schemes).is_some()).cloned()
    }
}

/// Takes any client certificate whose key the client proves to hold.
///
/// Security: this decides nothing about trust. The chain is judged at the HTTP level, by
/// [`super::Handshake::peer`], on every request and on resumed sessions too.
#[derive(Debug)]
struct Possession {
    crypto: Arc<CryptoProvider>,
}

impl Possession {
    fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.crypto.signature_verification_algorithms
    }
}

impl ClientCertVerifier for Possession {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, self.algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, self.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms().supported_schemes()
    }
}
