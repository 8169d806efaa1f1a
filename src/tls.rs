//! PEM files become a [`Trust`] generation; a finished handshake becomes a [`Peer`].
//!
//! A generation is immutable: reload builds a whole new one and swaps it in. A [`Peer`] exists only
//! as the result of verification against one generation, so no later step can forget to verify.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ServerConfig};

use crate::refusal::Refusal;
use crate::spine::CertificateName;

mod chain;
mod directory;
mod files;
mod loader;
mod provider;
mod revocation;
mod server;

pub use directory::{DirectoryLeg, secret};
pub use files::{Expiry, FileMark, Notice, NoticeLevel, TrustError};
pub use loader::Loader;

use server::{ConsumerServer, PresentedCertificate};

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
    /// PEM or DER files, or folders of them; every issuer in a chain needs its list.
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

/// Treatment of a revocation list with a lower number than the one in force for its issuer and scope.
///
/// The numbers in force are known to the running process alone: a restart takes what it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CrlRollback {
    /// The list in force stays in force, under an alarm.
    #[default]
    Refuse,
    /// The older list is taken.
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
    /// Treatment of a revocation list with a lower number than the one in force.
    #[serde(default)]
    pub crl_rollback: CrlRollback,
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
    /// Treatment of a revocation list with a lower number than the one in force.
    #[serde(default)]
    pub crl_rollback: CrlRollback,
    /// Whether a provider certificate without any DNS name in its SAN may be known by its one CN.
    #[serde(default)]
    pub cn_fallback: bool,
    /// Error for a key of earlier versions.
    #[serde(default, rename = "http2", deserialize_with = "http2_is_gone")]
    #[schemars(skip)]
    pub _http2: (),
}

fn http2_is_gone<'de, D: serde::Deserializer<'de>>(_: D) -> Result<(), D::Error> {
    Err(serde::de::Error::custom(
        "HTTP/2 to providers has been removed, they are spoken to over HTTP/1.1: delete this key",
    ))
}

const fn sessions_max() -> usize {
    2048
}

/// Certificates, authorities and revocation lists in force, one generation at a time.
pub struct Trust {
    /// Counts from 1; a new one for each load that found a change.
    pub generation: u64,
    /// Answer to somebody who speaks to consumers' side without TLS.
    pub plain_http: PlainHttp,
    /// TLS towards providers.
    pub provider: Arc<ClientConfig>,
    consumers: Arc<ConsumerServer>,
}

impl Trust {
    /// Loads and checks every file both legs name.
    ///
    /// # Errors
    /// The first file that is missing, unreadable, malformed or does not fit another, and was never
    /// good before: later faults are in [`Loader::faults`].
    pub fn load(
        generation: u64,
        consumer: &ConsumerLeg,
        provider: &ProviderLeg,
        loader: &mut Loader,
    ) -> Result<Self, TrustError> {
        let crypto = Arc::new(crypto());
        let consumers = ConsumerServer::load(consumer, &crypto, loader)?;
        let provider = provider::config(provider, &crypto, loader)?;
        Ok(Self {
            generation,
            plain_http: consumer.plain_http,
            provider: Arc::new(provider),
            consumers: Arc::new(consumers),
        })
    }

    /// Begins the handshake of one connection.
    ///
    /// # Errors
    /// The settings do not fit each other, which loading has ruled out.
    pub fn handshake(&self) -> Result<PendingHandshake, rustls::Error> {
        let (config, presented) = self.consumers.connection()?;
        Ok(PendingHandshake { config, presented, generation: self.generation })
    }

    fn verify(&self, chain: &[CertificateDer<'_>], now_s: i64) -> Result<Arc<Peer>, Refusal> {
        if chain.is_empty() {
            return Err(Refusal::CertificateMissing);
        }
        self.consumers.verify(chain, now_s).map_err(Refusal::from)
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Trust").field("generation", &self.generation).finish_non_exhaustive()
    }
}

/// Faults of files that an operator must know while they last.
#[derive(Debug, Default)]
pub struct Alarms {
    texts: Vec<String>,
    expiries: Vec<Expiry>,
}

impl Alarms {
    /// The alarms that a load leaves, and `faults` of other parts.
    #[must_use]
    pub fn new(loader: &Loader, faults: &[String]) -> Self {
        let notices = loader.notices.iter().filter(|notice| notice.level == NoticeLevel::Alarm);
        let notices = notices.map(|notice| notice.text.clone());
        let faults = faults.iter().map(|fault| format!("{fault}; what was good stays in force"));
        let texts = notices.chain(faults).collect();
        Self { texts, expiries: loader.expiries.clone() }
    }

    /// The alarms at `now_s`, in seconds since 1970: what has ended since counts too.
    #[must_use]
    pub fn in_force(&self, now_s: i64) -> Vec<String> {
        let ended = self.expiries.iter().filter_map(|expiry| expiry.overdue(now_s));
        let mut alarms: Vec<_> = self.texts.iter().cloned().chain(ended).collect();
        alarms.sort_unstable();
        alarms.dedup();
        alarms
    }
}

/// A consumer's certificate, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    names: Vec<CertificateName>,
    fingerprint: String,
    until_s: i64,
}

impl Peer {
    /// DNS names of the SAN, each once, in lower case; or the CN, where it counts. May be none.
    #[must_use]
    pub fn names(&self) -> &[CertificateName] {
        &self.names
    }

    /// SHA-256 of the certificate, in lower-case hexadecimal.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

/// A handshake that has begun.
#[derive(Debug)]
pub struct PendingHandshake {
    /// TLS settings of this connection alone.
    pub config: Arc<ServerConfig>,
    presented: Arc<PresentedCertificate>,
    generation: u64,
}

impl PendingHandshake {
    /// The refusal of a handshake that failed for its client certificate.
    #[must_use]
    pub fn refusal(&self, error: &std::io::Error) -> Option<Refusal> {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
        match (self.presented.verdict(), cause) {
            (Some(verdict), _) => verdict.err().map(Refusal::from),
            (None, Some(rustls::Error::NoCertificatesPresented)) => {
                Some(Refusal::CertificateMissing)
            }
            (None, _) => None,
        }
    }

    /// Ends the handshake: keeps the chain that was presented, full or resumed, and its verdict.
    #[must_use]
    pub fn finish(&self, chain: Option<&[CertificateDer<'_>]>) -> Handshake {
        let owned = |certificate: &CertificateDer<'_>| certificate.clone().into_owned();
        let chain: Vec<_> = chain.unwrap_or_default().iter().map(owned).collect();
        let verdict = self.presented.verdict().map(|peer| ChainVerdict {
            generation: self.generation,
            peer: peer.map_err(Refusal::from),
        });
        Handshake { chain, verdict: Mutex::new(verdict) }
    }
}

/// A finished handshake: the chain a consumer proved to own, and the verdict on it.
#[derive(Debug)]
pub struct Handshake {
    chain: Vec<CertificateDer<'static>>,
    verdict: Mutex<Option<ChainVerdict>>,
}

#[derive(Debug, Clone)]
struct ChainVerdict {
    generation: u64,
    peer: Result<Arc<Peer>, Refusal>,
}

impl Handshake {
    /// The consumer's certificate as the generation now in force judges it.
    ///
    /// The verdict is kept until the generation changes or the first date in it passes, so a live
    /// or resumed connection feels a revocation on its next request.
    pub fn peer(&self, trust: &Trust, now_s: i64) -> Result<Arc<Peer>, Refusal> {
        let mut kept = self.verdict.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ChainVerdict { generation, peer }) = &*kept
            && *generation == trust.generation
            && peer.as_ref().map_or_else(Refusal::is_lasting, |peer| now_s < peer.until_s)
        {
            return peer.clone();
        }
        let peer = trust.verify(&self.chain, now_s);
        *kept = Some(ChainVerdict { generation: trust.generation, peer: peer.clone() });
        peer
    }
}

/// The revocation lists of a file, each in DER and with the second at which its next is due. For
/// fuzzing.
pub(crate) fn lists_in(file: Vec<u8>) -> Result<Vec<(Vec<u8>, i64)>, String> {
    let lists = files::lists_in(file)?.into_iter().flatten();
    let lists: Vec<_> = lists.map(|list| (list.der().to_vec(), list.next_update_s())).collect();
    if lists.is_empty() {
        Err("holds no list of a kind that is supported".to_owned())
    } else {
        Ok(lists)
    }
}

/// Spec: the AES-GCM suites of the NHS list that use ECDHE, and no others. Those with SHA-256 come first:
/// processors have instructions for it, and seldom for SHA-384, which cost an eighth of a resumed
/// handshake. Consumers' order does not count.
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
    provider.cipher_suites.sort_by_key(|suite| {
        !matches!(
            suite.suite(),
            Suite::TLS13_AES_128_GCM_SHA256
                | Suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | Suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        )
    });
    provider
}
