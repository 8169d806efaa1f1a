//! TLS towards consumers, providers and directory sources: PEM files become a [`Trust`] generation, a
//! finished handshake becomes a [`Peer`].
//!
//! A generation is immutable: a reload builds a new one and swaps it in. A [`Peer`] exists only as the
//! result of verification against one generation, so no later step can forget to verify.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ServerConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::refusal::Refusal;
use spine_types::CertificateName;

mod chain;
mod files;
mod loader;
mod provider;
mod revocation;
mod server;
mod service;

pub use files::{
    CertificateUse, Concern, Expiry, FileMark, Issued, Notice, NoticeLevel, TrustError,
};
pub use loader::Loader;
pub use service::{LegUse, ServiceLeg, client, plain_client, secret};

use server::{ConsumerServer, PresentedCertificate};

/// A certificate chain and the key of its first certificate, as PEM files.
#[derive(Debug, Clone, Deserialize, serde::Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct KeyPair {
    /// File of the certificates, leaf first.
    pub chain: PathBuf,
    /// File of the private key: PKCS#8, SEC1 or PKCS#1, not encrypted.
    pub key: PathBuf,
}

/// Revocation lists: files, or the word `none`.
#[derive(Debug, Clone, Deserialize, serde::Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Crl {
    /// The word `none`: revocation is not checked on this leg.
    Word(NoCrl),
    /// PEM or DER files, or folders of them; every issuer in a chain needs a list.
    Files(Vec<PathBuf>),
}

/// The word that turns revocation checks of a leg off.
#[derive(Debug, Clone, Copy, Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NoCrl {
    /// Revocation is not checked.
    None,
}

impl Crl {
    /// Returns the files and folders named; none if revocation is not checked.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        match self {
            Self::Word(NoCrl::None) => &[],
            Self::Files(files) => files,
        }
    }

    /// Returns true for an empty list: neither revocation lists nor the word `none`.
    #[must_use]
    pub fn is_empty_list(&self) -> bool {
        matches!(self, Self::Files(files) if files.is_empty())
    }

    /// Returns the paths named, to be made absolute.
    pub fn files_mut(&mut self) -> &mut [PathBuf] {
        match self {
            Self::Word(NoCrl::None) => &mut [],
            Self::Files(files) => files,
        }
    }
}

/// Treatment of a revocation list whose `nextUpdate` has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExpiredCrl {
    /// Certificates that only this list covers are refused.
    #[default]
    Deny,
    /// The last list is still used; `spine_proxy_crl_next_update_timestamp_seconds` shows its age.
    Accept,
}

/// Treatment of a revocation list with a lower number than the one in force for its issuer and scope.
///
/// The numbers in force are kept in memory only: a restart accepts any list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CrlRollback {
    /// The list in force stays in force, and an alarm is raised.
    #[default]
    Refuse,
    /// The older list replaces the one in force.
    Accept,
}

/// Protocol level at which a missing or invalid client certificate is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Reject {
    /// HTTP, with status 495 or 496 and a reason.
    #[default]
    Http,
    /// TLS handshake, with an alert.
    Handshake,
}

/// Treatment of a client that sends HTTP without TLS to a TLS port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PlainHttp {
    /// Spec: answered with status 497, then closed.
    #[default]
    Answer,
    /// Closed without an answer.
    Close,
}

/// TLS towards consumers.
#[derive(Debug, Clone, Deserialize, serde::Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ConsumerLeg {
    /// Our certificates, as `{ chain = "…", key = "…" }`, chosen by server name; the first is used if no name
    /// is sent or none matches. One name may have an RSA and an ECDSA certificate.
    pub certificates: Vec<KeyPair>,
    /// Authorities that issue consumers' certificates, as PEM files.
    pub authorities: Vec<PathBuf>,
    /// Revocation lists for consumers' certificates: a list of PEM or DER files and of folders of such files, or `"none"`
    /// to check no revocation.
    pub crl: Crl,
    /// Treatment of an expired revocation list.
    #[serde(default)]
    pub crl_expired: ExpiredCrl,
    /// Treatment of a revocation list with a lower number than the one in force.
    #[serde(default)]
    pub crl_rollback: CrlRollback,
    /// Protocol level at which a missing or invalid certificate is refused.
    #[serde(default)]
    pub reject: Reject,
    /// Treatment of a client that sends HTTP without TLS.
    #[serde(default)]
    pub plain_http: PlainHttp,
    /// Maximum number of TLS sessions kept for resumption, over all consumers.
    #[serde(default = "sessions_max")]
    pub sessions_max: usize,
}

/// TLS towards providers.
#[derive(Debug, Clone, Deserialize, serde::Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ProviderLeg {
    /// Our client certificate, as `{ chain = "…", key = "…" }`, by which providers recognise a Spine Secure
    /// Proxy.
    pub certificate: KeyPair,
    /// Authorities that issue providers' certificates, as PEM files.
    pub authorities: Vec<PathBuf>,
    /// Revocation lists for providers' certificates: a list of PEM or DER files and of folders of such files, or `"none"`
    /// to check no revocation.
    pub crl: Crl,
    /// Treatment of an expired revocation list.
    #[serde(default)]
    pub crl_expired: ExpiredCrl,
    /// Treatment of a revocation list with a lower number than the one in force.
    #[serde(default)]
    pub crl_rollback: CrlRollback,
    /// Accepts a provider certificate without any DNS name in its SAN by its only CN.
    #[serde(default)]
    pub cn_fallback: bool,
    /// Removed key `http2`; setting it is an error.
    #[serde(default, rename = "http2", deserialize_with = "http2_is_gone")]
    #[schemars(skip)]
    pub _http2: (),
}

impl ConsumerLeg {
    /// Checks that no list is empty by which nothing could be served.
    ///
    /// # Errors
    /// Returns a text that names the first empty list.
    pub fn check(&self) -> Result<(), String> {
        if self.certificates.is_empty() {
            return Err("tls.certificates is empty; name a certificate chain and its key".into());
        }
        check_leg("tls", &self.crl, &self.authorities)
    }
}

impl ProviderLeg {
    /// Checks that no list is empty by which no certificate could be verified.
    ///
    /// # Errors
    /// Returns a text that names the first empty list.
    pub fn check(&self) -> Result<(), String> {
        check_leg("provider-tls", &self.crl, &self.authorities)
    }
}

/// Checks the lists by which the certificates of a leg are verified; `key` is the leg's section.
fn check_leg(key: &str, crl: &Crl, authorities: &[PathBuf]) -> Result<(), String> {
    if crl.is_empty_list() {
        return Err(format!(
            "{key}.crl is an empty list; name the revocation lists, or write crl = \"none\" to check \
             no revocation"
        ));
    }
    if authorities.is_empty() {
        return Err(format!(
            "{key}.authorities is empty: no certificate could be verified; name the files of the \
             authorities"
        ));
    }
    Ok(())
}

fn http2_is_gone<'de, D: serde::Deserializer<'de>>(_: D) -> Result<(), D::Error> {
    Err(serde::de::Error::custom(
        "HTTP/2 to providers has been removed (HTTP/1.1 is used): delete this key",
    ))
}

const fn sessions_max() -> usize {
    2048
}

/// One generation of certificates, authorities and revocation lists; a reload of trust makes the next.
pub struct Trust {
    /// Number of the generation, from 1.
    pub generation: u64,
    /// Treatment of a client that sends HTTP without TLS.
    pub plain_http: PlainHttp,
    /// TLS client settings towards providers.
    pub provider: Arc<ClientConfig>,
    consumers: Arc<ConsumerServer>,
}

impl Trust {
    /// Loads and checks every file that the two legs name.
    ///
    /// # Errors
    /// Returns an error for the first file that is missing, unreadable, malformed or does not fit another,
    /// if its part was never loaded before; other faults are in [`Loader::faults`].
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

    /// Prepares the handshake of one connection.
    ///
    /// # Errors
    /// Returns an error if the TLS settings contradict each other; loading rules this out.
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

impl Trust {
    /// Returns the number of TLS sessions that are kept, and the largest number.
    #[must_use]
    pub fn sessions(&self) -> (u64, u64) {
        self.consumers.sessions()
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Trust").field("generation", &self.generation).finish_non_exhaustive()
    }
}

/// Faults of files that an operator must know about for as long as they last.
#[derive(Debug, Default)]
pub struct Alarms {
    texts: Vec<String>,
    expiries: Vec<Expiry>,
}

impl Alarms {
    /// Returns the alarms of a load, and `faults` of other parts of the configuration.
    #[must_use]
    pub fn new(loader: &Loader, faults: &[String]) -> Self {
        let notices = loader.notices.iter().filter(|notice| notice.level == NoticeLevel::Alarm);
        let notices = notices.map(|notice| notice.text.clone());
        let faults =
            faults.iter().map(|fault| format!("{fault}; the last good state stays in force"));
        let texts = notices.chain(faults).collect();
        Self { texts, expiries: loader.expiries.clone() }
    }

    /// Returns the expiry dates of all certificates and lists.
    #[must_use]
    pub fn expiries(&self) -> &[Expiry] {
        &self.expiries
    }

    /// Returns the alarms at `now_s`, in seconds since 1970, including certificates and lists that have
    /// expired since the load.
    #[must_use]
    pub fn in_force(&self, now_s: i64) -> Vec<String> {
        let ended = self.expiries.iter().filter_map(|expiry| expiry.overdue(now_s));
        let mut alarms: Vec<_> = self.texts.iter().cloned().chain(ended).collect();
        alarms.sort_unstable();
        alarms.dedup();
        alarms
    }
}

/// Verified certificate of a consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    names: Vec<CertificateName>,
    fingerprint: String,
    serial: String,
    issuer: String,
    not_after_s: i64,
    /// Time until which the verdict on the chain holds.
    until_s: i64,
}

impl Peer {
    /// Returns the certificate's names in lower case: DNS names of the SAN, else the CN. May be empty.
    #[must_use]
    pub fn names(&self) -> &[CertificateName] {
        &self.names
    }

    /// Returns the SHA-256 of the certificate in lower-case hexadecimal.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Returns the certificate's serial number in lower-case hexadecimal.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Returns the name of the certificate's issuer, at most 256 bytes of it.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Returns the certificate's expiry, in seconds since 1970.
    #[must_use]
    pub const fn not_after_s(&self) -> i64 {
        self.not_after_s
    }
}

/// Handshake that has not finished yet.
#[derive(Debug)]
pub struct PendingHandshake {
    /// TLS settings for this connection only.
    pub config: Arc<ServerConfig>,
    presented: Arc<PresentedCertificate>,
    generation: u64,
}

impl PendingHandshake {
    /// Returns the refusal if the handshake failed because of the client certificate.
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

    /// Ends the handshake; keeps the presented chain (of a full or resumed session) and its verdict.
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

/// Finished handshake: the chain whose key the consumer proved to hold, and the verdict on it.
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
    /// Verifies the consumer's certificate against the trust generation in force.
    ///
    /// The verdict is kept until the generation changes or a certificate or list in it expires, so a
    /// revocation takes effect on the next request of an open or resumed connection.
    ///
    /// # Errors
    /// Returns a refusal if no certificate was presented or it is not valid.
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

/// Reads the certificates of a PEM file in their order.
///
/// # Errors
/// Returns an error if the file cannot be read, is malformed or holds no certificate.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    files::certificates(path)
}

/// Parses the revocation lists of a file into DER and `nextUpdate` in seconds since 1970. For fuzzing.
#[cfg(feature = "lab")]
pub(crate) fn lists_in(file: Vec<u8>) -> Result<Vec<(Vec<u8>, i64)>, String> {
    let lists = files::lists_in(file)?.into_iter().flatten();
    let lists: Vec<_> = lists.map(|list| (list.der().to_vec(), list.next_update_s())).collect();
    if lists.is_empty() {
        Err("holds no revocation list of a supported kind".to_owned())
    } else {
        Ok(lists)
    }
}

/// Returns the cryptography provider. Spec: only the suites of the NHS list with ECDHE and AES-GCM.
///
/// Suites with SHA-256 come first: processors have instructions for it, but seldom for SHA-384, which
/// took an eighth of a resumed handshake. Consumers' order of preference is ignored.
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
