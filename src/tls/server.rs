//! TLS towards consumers: choice of our certificate, verification of theirs, session store.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, StoresServerSessions};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
};
use webpki::KeyUsage;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::chain::{self, ChainVerifier};
use super::files::{CertificateUse, TrustError};
use super::loader::{LegFiles, Loader};
use super::{ConsumerLeg, Peer, Reject};
use crate::hex;
use crate::refusal::CertificateFault;
use spine_types::masked;

/// Limit: bytes kept of the name of a certificate's issuer.
const ISSUER_BYTES_MAX: usize = 256;

/// Maximum number of verified chains that are cached in one trust generation.
const VERIFIED_MAX: u64 = 4096;

/// Consumer side of one trust generation: our certificates, the verifier and the session store.
pub(super) struct ConsumerServer {
    keys: Arc<CertificatesByName>,
    chains: Arc<ChainVerifier>,
    crypto: Arc<CryptoProvider>,
    reject: Reject,
    hints: Vec<DistinguishedName>,
    /// Sessions of verified consumers, by session id or ticket.
    sessions: Cache<Vec<u8>, Vec<u8>>,
    /// Verified consumers, by the SHA-256 of their chain.
    verified: Cache<[u8; digest::SHA256_OUTPUT_LEN], Arc<Peer>>,
}

impl ConsumerServer {
    /// Loads the certificates, authorities and revocation lists of the leg.
    ///
    /// # Errors
    /// Returns an error for a part that cannot be loaded and has no last good state.
    pub(super) fn load(
        leg: &ConsumerLeg,
        crypto: &Arc<CryptoProvider>,
        loader: &mut Loader,
    ) -> Result<Self, TrustError> {
        let keys = match (CertificatesByName::load(leg, crypto, loader), &loader.server_keys) {
            (Ok(keys), _) => Arc::new(keys),
            (Err(fault), Some(before)) => {
                loader.faults.push(fault);
                Arc::clone(before)
            }
            (Err(fault), None) => return Err(fault),
        };
        loader.server_keys = Some(Arc::clone(&keys));
        let files = LegFiles {
            leg: "tls",
            authorities: &leg.authorities,
            crl: &leg.crl,
            expired: leg.crl_expired,
            rollback: leg.crl_rollback,
            used_as: CertificateUse::ClientCrl,
        };
        let chains = loader.verifier(&files, crypto)?;
        let sessions_max = u64::try_from(leg.sessions_max).unwrap_or(u64::MAX);
        let hints = match leg.reject {
            Reject::Http => Vec::new(),
            Reject::Handshake => chains.authorities.roots.subjects(),
        };
        Ok(Self {
            keys,
            chains,
            crypto: Arc::clone(crypto),
            reject: leg.reject,
            hints,
            // LRU evicts the oldest session, since sessions are removed when they are resumed.
            sessions: Cache::builder()
                .max_capacity(sessions_max)
                .eviction_policy(EvictionPolicy::lru())
                .build(),
            verified: Cache::new(VERIFIED_MAX),
        })
    }

    /// Returns the number of sessions that are kept, and the largest number.
    pub(super) fn sessions(&self) -> (u64, u64) {
        (self.sessions.entry_count(), self.sessions.policy().max_capacity().unwrap_or_default())
    }

    /// Verifies a chain, leaf first, at `now_s` in seconds since 1970; caches a valid one.
    ///
    /// # Errors
    /// Returns the first fault found.
    pub(super) fn verify(
        &self,
        presented: &[CertificateDer<'_>],
        now_s: i64,
    ) -> Result<Arc<Peer>, CertificateFault> {
        let mut hash = digest::Context::new(&digest::SHA256);
        for certificate in presented {
            hash.update(&certificate.len().to_be_bytes());
            hash.update(certificate);
        }
        let key = <[u8; digest::SHA256_OUTPUT_LEN]>::try_from(hash.finish().as_ref());
        let key = key.unwrap_or_default();
        if let Some(peer) = self.verified.get(&key).filter(|peer| now_s < peer.until_s) {
            return Ok(peer);
        }
        let accepted = self.chains.verify(presented, KeyUsage::client_auth(), now_s)?;
        let leaf = presented.first().ok_or(CertificateFault::Malformed)?;
        let (_, parsed) =
            X509Certificate::from_der(leaf).map_err(|_| CertificateFault::Malformed)?;
        let peer = Arc::new(Peer {
            names: chain::names(&parsed, accepted.constrained),
            fingerprint: hex::sha256(leaf),
            serial: hex::encode(parsed.raw_serial()),
            issuer: masked(&parsed.issuer().to_string(), ISSUER_BYTES_MAX).into_owned(),
            not_after_s: parsed.validity().not_after.timestamp(),
            until_s: accepted.until_s,
        });
        self.verified.insert(key, Arc::clone(&peer));
        Ok(peer)
    }

    /// Returns the TLS settings of one connection and the object that will hold its verdict.
    ///
    /// # Errors
    /// Returns an error if the cryptography provider does not support TLS 1.2 and 1.3.
    pub(super) fn connection(
        self: &Arc<Self>,
    ) -> Result<(Arc<ServerConfig>, Arc<PresentedCertificate>), rustls::Error> {
        let presented = Arc::new(PresentedCertificate {
            consumers: Arc::clone(self),
            judged: OnceLock::new(),
            resumes: AtomicBool::new(false),
        });
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.crypto))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_client_cert_verifier(Arc::clone(&presented) as Arc<dyn ClientCertVerifier>)
            .with_cert_resolver(Arc::clone(&self.keys) as Arc<dyn ResolvesServerCert>);
        config.ignore_client_order = true;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.session_storage = Arc::clone(&presented) as Arc<dyn StoresServerSessions>;
        Ok((Arc::new(config), presented))
    }
}

/// Our certificates by the names in them; one name may have certificates of several key types.
#[derive(Debug, Default)]
pub(super) struct CertificatesByName {
    first: Vec<Arc<CertifiedKey>>,
    named: HashMap<String, Vec<Arc<CertifiedKey>>>,
}

impl CertificatesByName {
    fn load(
        leg: &ConsumerLeg,
        crypto: &Arc<CryptoProvider>,
        loader: &mut Loader,
    ) -> Result<Self, TrustError> {
        let mut keys = Self::default();
        for pair in &leg.certificates {
            let place = format!("tls {}", pair.chain.display());
            let key = loader.key(&place, pair, crypto, CertificateUse::Server)?;
            keys.add(&key).map_err(|why| TrustError::new(&pair.chain, why))?;
        }
        Ok(keys)
    }

    fn add(&mut self, key: &Arc<CertifiedKey>) -> Result<(), String> {
        let leaf = key.cert.first().ok_or("holds no certificate")?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| error.to_string())?;
        let names = chain::names(&parsed, false);
        let twin = names.iter().any(|name| self.is_first(name.as_str()));
        if self.first.is_empty() || twin {
            self.first.push(Arc::clone(key));
        }
        for name in names {
            self.named.entry(name.to_string()).or_default().push(Arc::clone(key));
        }
        Ok(())
    }

    /// Returns true if a default certificate has this name.
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

impl ResolvesServerCert for CertificatesByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let keys = hello.server_name().and_then(|name| self.of(name)).unwrap_or(&self.first);
        let schemes = hello.signature_schemes();
        keys.iter().find(|key| key.key.choose_scheme(schemes).is_some()).cloned()
    }
}

/// Verifier and session store of one connection; keeps a session only if the certificate is valid.
///
/// With `reject = "http"` the handshake succeeds whatever the verdict; [`super::Handshake::peer`] verifies
/// the chain for every request, also of resumed sessions, and refuses it there.
pub(super) struct PresentedCertificate {
    consumers: Arc<ConsumerServer>,
    judged: OnceLock<Result<Arc<Peer>, CertificateFault>>,
    resumes: AtomicBool,
}

impl std::fmt::Debug for PresentedCertificate {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Presented").field("judged", &self.judged.get()).finish_non_exhaustive()
    }
}

impl PresentedCertificate {
    /// Returns the verdict of a full handshake; `None` if no certificate was sent or a session was resumed.
    pub(super) fn verdict(&self) -> Option<Result<Arc<Peer>, CertificateFault>> {
        self.judged.get().cloned()
    }

    /// Returns true if the consumer is verified: in this handshake, or in that of the resumed session.
    fn is_verified(&self) -> bool {
        match self.judged.get() {
            Some(verdict) => verdict.is_ok(),
            None => self.resumes.load(Ordering::Relaxed),
        }
    }

    fn resumed(&self, session: Option<Vec<u8>>) -> Option<Vec<u8>> {
        self.resumes.fetch_or(session.is_some(), Ordering::Relaxed);
        session
    }
}

impl StoresServerSessions for PresentedCertificate {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        let keeps = self.is_verified();
        if keeps {
            self.consumers.sessions.insert(key, value);
        }
        keeps
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.resumed(self.consumers.sessions.get(key))
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.resumed(self.consumers.sessions.remove(key))
    }

    fn can_cache(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for PresentedCertificate {
    fn offer_client_auth(&self) -> bool {
        // Called in full handshakes only: a session that was found was not resumed after all.
        self.resumes.store(false, Ordering::Relaxed);
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.consumers.reject == Reject::Handshake
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.consumers.hints
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let presented: Vec<_> = std::iter::once(leaf).chain(rest).cloned().collect();
        let now_s = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let verdict = self.judged.get_or_init(|| self.consumers.verify(&presented, now_s));
        match (verdict, self.consumers.reject) {
            (Err(fault), Reject::Handshake) => Err(alert(fault).into()),
            _ => Ok(ClientCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.consumers.crypto.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.consumers.crypto.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.consumers.crypto.signature_verification_algorithms.supported_schemes()
    }
}

/// Returns the error that makes the library send the most specific alert for a fault (RFC 8446 §6.2).
fn alert(fault: &CertificateFault) -> CertificateError {
    match fault {
        CertificateFault::Expired => CertificateError::Expired,
        CertificateFault::NotYetValid => CertificateError::NotValidYet,
        CertificateFault::Revoked(_) => CertificateError::Revoked,
        CertificateFault::UnknownIssuer(_) => CertificateError::UnknownIssuer,
        CertificateFault::NoList(_) => CertificateError::UnknownRevocationStatus,
        CertificateFault::ListOverdue(_) => CertificateError::ExpiredRevocationList,
        CertificateFault::Usage => CertificateError::InvalidPurpose,
        CertificateFault::Signature => CertificateError::BadSignature,
        CertificateFault::ChainTooLong
        | CertificateFault::ChainOrder
        | CertificateFault::Malformed
        | CertificateFault::IssuerConstraint
        | CertificateFault::Name(_) => CertificateError::BadEncoding,
    }
}
