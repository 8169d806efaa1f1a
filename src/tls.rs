//! PEM files become a [`Trust`] generation; a finished handshake becomes a [`Peer`].
//!
//! A generation is immutable: reload builds a whole new one and swaps it in. A [`Peer`] exists only
//! as the result of verification against one generation, so no later step can forget to verify.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, ClientConfig, ServerConfig};

use crate::refusal::Refusal;
use crate::spine::CertificateName;

mod directory;
mod files;
mod provider;
mod server;

pub use directory::{DirectoryLeg, secret};
pub(crate) use files::lists_in;
pub use files::{Expiry, TrustError};

/// A certificate chain and the key of its first certificate, as PEM files.
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct KeyPair {
    /// Certificates, leaf first.
    pub chain: PathBuf,
    /// Private key: PKCS#8, SEC1 or PKCS#1.
    pub key: PathBuf,
}

/// Revocation lists: files, or the word `none`.
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
pub enum Crl {
    /// The word `none`: revocation is not checked on this leg, and that is written down.
    Word(NoCrl),
    /// PEM or DER files; every issuer in a chain needs its list.
    Files(Vec<PathBuf>),
}

/// The word that says a leg has no revocation lists.
#[derive(Debug, Clone, Copy, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NoCrl {
    /// No list is checked.
    None,
}

impl Crl {
    /// The files named.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        match self {
            Self::Word(NoCrl::None) => &[],
            Self::Files(files) => files,
        }
    }

    /// A list of none: neither a check nor the word that says there is none.
    #[must_use]
    pub fn is_empty_list(&self) -> bool {
        matches!(self, Self::Files(files) if files.is_empty())
    }

    /// The files named, to be resolved.
    pub fn files_mut(&mut self) -> &mut [PathBuf] {
        match self {
            Self::Word(NoCrl::None) => &mut [],
            Self::Files(files) => files,
        }
    }
}

/// What happens once a revocation list's `nextUpdate` has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExpiredCrl {
    /// Every certificate of its issuer is refused.
    #[default]
    Deny,
    /// The last list goes on being used; the alarm is the metric.
    Accept,
}

/// Where a missing or bad client certificate is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Reject {
    /// At the HTTP level, with 495 or 496 and a reason.
    #[default]
    Http,
    /// In the handshake, with a TLS alert.
    Handshake,
}

/// What is done with somebody who speaks HTTP without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PlainHttp {
    /// Spec: told so, with 497, and the connection ends.
    #[default]
    Answer,
    /// The connection ends without a word.
    Close,
}

/// TLS towards consumers.
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ConsumerLeg {
    /// Our certificates. Each is chosen by the names in it; the first answers when no name is sent
    /// or none fits. RSA and ECDSA certificates of one name stand side by side.
    pub certificates: Vec<KeyPair>,
    /// Authorities that issue consumers' certificates, as PEM files.
    pub authorities: Vec<PathBuf>,
    /// Revocation lists for consumers' certificates.
    pub crl: Crl,
    /// What happens when a list has expired.
    #[serde(default)]
    pub crl_expired: ExpiredCrl,
    /// Where a bad certificate is refused.
    #[serde(default)]
    pub reject: Reject,
    /// What is done with somebody who speaks HTTP without TLS.
    #[serde(default)]
    pub plain_http: PlainHttp,
    /// Sessions kept for resumption, over all consumers.
    #[serde(default = "sessions_max")]
    pub sessions_max: usize,
}

/// Whether providers are offered HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Http2 {
    /// HTTP/1.1 alone.
    #[default]
    Off,
    /// HTTP/2, where a provider chooses it.
    Offer,
}

/// TLS towards providers.
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ProviderLeg {
    /// Our own certificate, by which providers know a Spine Secure Proxy.
    pub certificate: KeyPair,
    /// Authorities that issue providers' certificates, as PEM files.
    pub authorities: Vec<PathBuf>,
    /// Revocation lists for providers' certificates.
    pub crl: Crl,
    /// What happens when a list has expired.
    #[serde(default)]
    pub crl_expired: ExpiredCrl,
    /// Whether a provider certificate without any DNS name in its SAN may be known by its one CN.
    #[serde(default)]
    pub cn_fallback: bool,
    /// Whether providers are offered HTTP/2.
    #[serde(default)]
    pub http2: Http2,
}

const fn sessions_max() -> usize {
    2048
}

/// Certificates, authorities and revocation lists in force, one generation at a time.
pub struct Trust {
    /// Counts from 1; a new one for each successful load.
    pub generation: u64,
    /// How consumers are spoken to.
    pub server: Arc<ServerConfig>,
    /// What is done with somebody who speaks to consumers' side without TLS.
    pub plain_http: PlainHttp,
    /// How providers are spoken to.
    pub provider: Arc<ClientConfig>,
    /// When each certificate and list ends.
    pub expiries: Vec<Expiry>,
    clients: Arc<dyn ClientCertVerifier>,
    next_update_s: i64,
}

impl Trust {
    /// Loads and checks every file both legs name.
    ///
    /// # Errors
    /// The first file that is missing, unreadable, malformed, expired or does not fit another.
    pub fn load(
        generation: u64,
        consumer: &ConsumerLeg,
        provider: &ProviderLeg,
        now_s: i64,
    ) -> Result<Self, TrustError> {
        let crypto = Arc::new(crypto());
        let mut expiries = Vec::new();
        let clients = server::client_verifier(consumer, &crypto, &mut expiries)?;
        let next_update_s = match consumer.crl_expired {
            ExpiredCrl::Deny => files::first_end(&expiries, files::Use::ClientCrl),
            ExpiredCrl::Accept => i64::MAX,
        };
        let server = server::config(consumer, &crypto, &clients, now_s, &mut expiries)?;
        let provider = provider::config(provider, &crypto, now_s, &mut expiries)?;
        Ok(Self {
            generation,
            server: Arc::new(server),
            plain_http: consumer.plain_http,
            provider: Arc::new(provider),
            expiries,
            clients,
            next_update_s,
        })
    }

    /// Verifies a chain, leaf first: authority, dates, revocation, usage.
    fn verify(&self, chain: &[CertificateDer<'static>], now_s: i64) -> Result<Peer, Refusal> {
        let (leaf, rest) = chain.split_first().ok_or(Refusal::CertificateMissing)?;
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(
            u64::try_from(now_s).unwrap_or_default(),
        ));
        self.clients.verify_client_cert(leaf, rest, now).map_err(|error| reason(&error))?;
        files::peer(chain).ok_or(Refusal::CertificateInvalid)
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Trust").field("generation", &self.generation).finish_non_exhaustive()
    }
}

/// A consumer's certificate, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    names: Vec<CertificateName>,
    fingerprint: String,
    not_after_s: i64,
}

impl Peer {
    /// DNS names of the SAN, then the subject's CN, each once, in lower case.
    #[must_use]
    pub fn names(&self) -> &[CertificateName] {
        &self.names
    }

    /// SHA-256 of the certificate, in hex: what a rate is counted by.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

/// What a handshake leaves behind: the chain a consumer proved to own, and the verdict on it.
#[derive(Debug)]
pub struct Handshake {
    chain: Vec<CertificateDer<'static>>,
    verdict: Mutex<Option<Verdict>>,
}

#[derive(Debug, Clone)]
struct Verdict {
    generation: u64,
    until_s: i64,
    peer: Result<Arc<Peer>, Refusal>,
}

impl Handshake {
    /// Keeps the chain of a finished handshake, full or resumed.
    #[must_use]
    pub fn new(chain: Option<&[CertificateDer<'_>]>) -> Self {
        let owned = |certificate: &CertificateDer<'_>| certificate.clone().into_owned();
        let chain = chain.unwrap_or_default().iter().map(owned).collect();
        Self { chain, verdict: Mutex::new(None) }
    }

    /// The consumer's certificate as the generation now in force judges it.
    ///
    /// The verdict is kept until the generation changes or the first date in it passes, so a live
    /// or resumed connection feels a revocation on its next request.
    pub fn peer(&self, trust: &Trust, now_s: i64) -> Result<Arc<Peer>, Refusal> {
        let mut kept = self.verdict.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some(verdict) if verdict.generation == trust.generation && now_s < verdict.until_s => {
                verdict.peer.clone()
            }
            _ => {
                let peer = trust.verify(&self.chain, now_s).map(Arc::new);
                let not_after_s = peer.as_ref().map_or(i64::MAX, |peer| peer.not_after_s);
                let until_s = not_after_s.min(trust.next_update_s);
                let verdict = Verdict { generation: trust.generation, until_s, peer: peer.clone() };
                *kept = Some(verdict);
                peer
            }
        }
    }
}

/// Which refusal a verification error is.
fn reason(error: &rustls::Error) -> Refusal {
    let rustls::Error::InvalidCertificate(error) = error else {
        return Refusal::CertificateInvalid;
    };
    #[expect(clippy::wildcard_enum_match_arm, reason = "rustls adds reasons; all others are one")]
    match error {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => Refusal::CertificateExpired,
        CertificateError::Revoked
        | CertificateError::UnknownRevocationStatus
        | CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. } => Refusal::CertificateRevoked,
        _ => Refusal::CertificateInvalid,
    }
}

/// Spec: the AES-GCM suites of the NHS list that use ECDHE, and no others.
fn crypto() -> CryptoProvider {
    use rustls::CipherSuite as Suite;
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| {
        !matches!(
            suite.suite(),
            Suite::TLS13_CHACHA20_POLY1305_SHA256
                | Suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
                | Suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        )
    });
    provider
}
