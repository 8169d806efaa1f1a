//! TLS towards servers that the proxy queries: the directory's live sources, and Redis.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;

use super::chain::Authorities;
use super::files::{self, CertificateUse, TrustError};
use super::loader::{LegFiles, Loader};
use super::provider::ServerVerifier;
use super::{Crl, CrlRollback, ExpiredCrl, KeyPair};

/// TLS towards a server that the proxy queries: a live source of the directory, or Redis.
#[derive(Debug, Clone, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ServiceLeg {
    /// Our client certificate, as `{ chain = "…", key = "…" }`, if the server asks for one.
    pub certificate: Option<KeyPair>,
    /// Authorities that issue the server's certificate, as PEM files.
    pub authorities: Vec<PathBuf>,
    /// Revocation lists for the server's certificate: a list of PEM or DER files and of folders of such files, or `"none"`
    /// to check no revocation.
    pub crl: Crl,
    /// Treatment of a revocation list with a lower number than the one in force.
    #[serde(default)]
    pub crl_rollback: CrlRollback,
    /// Accepts a certificate without any DNS name in its SAN by its only CN.
    #[serde(default)]
    pub cn_fallback: bool,
}

/// Uses of the files of a [`ServiceLeg`], for operators.
#[derive(Debug, Clone, Copy)]
pub struct LegUse {
    certificate: CertificateUse,
    crl: CertificateUse,
}

impl LegUse {
    /// Uses towards a live source of the directory.
    pub const DIRECTORY: Self =
        Self { certificate: CertificateUse::Directory, crl: CertificateUse::DirectoryCrl };
    /// Uses towards Redis.
    pub const REDIS: Self =
        Self { certificate: CertificateUse::Redis, crl: CertificateUse::RedisCrl };
}

impl ServiceLeg {
    /// Returns the TLS client settings towards the server, without ALPN; `leg` names it in errors.
    ///
    /// # Errors
    /// Returns an error for the first file that is missing, unreadable, malformed or does not fit another,
    /// if its part was never loaded before.
    pub fn config(
        &self,
        leg: &'static str,
        used_as: LegUse,
        loader: &mut Loader,
    ) -> Result<Arc<ClientConfig>, TrustError> {
        let crypto = Arc::new(super::crypto());
        let ours = match &self.certificate {
            Some(pair) => Some(loader.key(leg, pair, &crypto, used_as.certificate)?),
            None => None,
        };
        let files = LegFiles {
            leg,
            authorities: &self.authorities,
            crl: &self.crl,
            expired: ExpiredCrl::Deny,
            rollback: self.crl_rollback,
            used_as: used_as.crl,
        };
        let chains = loader.verifier(&files, &crypto)?;
        let verifier = ServerVerifier { chains, cn_fallback: self.cn_fallback };
        let config =
            verifier.builder(&crypto).map_err(|error| TrustError::new(Path::new(leg), error))?;
        let config = match ours {
            None => config.with_no_client_auth(),
            Some(ours) => {
                let ours = rustls::sign::SingleCertAndKey::from((*ours).clone());
                config.with_client_cert_resolver(Arc::new(ours))
            }
        };
        Ok(Arc::new(config))
    }

    /// Returns the paths named, to be made absolute.
    pub fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let pair = self.certificate.iter_mut().flat_map(|pair| [&mut pair.chain, &mut pair.key]);
        pair.chain(&mut self.authorities).chain(self.crl.files_mut())
    }

    /// Checks that no list is empty by which no certificate could be verified; `key` is the leg's section.
    ///
    /// # Errors
    /// Returns a text that names the first empty list.
    pub fn check(&self, key: &str) -> Result<(), String> {
        super::check_leg(key, &self.crl, &self.authorities)
    }
}

/// Returns TLS client settings for a server that only has to prove its name, such as one whose answers are
/// signed; without a client certificate, and without revocation.
///
/// # Errors
/// Returns an error if a file with authorities cannot be used, or there is none.
pub fn plain_client(authorities: &[PathBuf]) -> Result<Arc<ClientConfig>, TrustError> {
    client(authorities, None)
}

/// Returns TLS client settings for a server that only has to prove its name, with a client certificate or
/// without; dates of the client certificate are not checked.
///
/// # Errors
/// Returns an error if a file cannot be used, the key is not the certificate's, or there is no authority.
pub fn client(
    authorities: &[PathBuf],
    certificate: Option<&KeyPair>,
) -> Result<Arc<ClientConfig>, TrustError> {
    let Authorities { roots, .. } = files::authorities(authorities, &mut Vec::new())?;
    let builder = ClientConfig::builder_with_provider(Arc::new(super::crypto()))
        .with_safe_default_protocol_versions()
        .map_err(|error| TrustError::new(Path::new("authorities"), error))?
        .with_root_certificates(roots);
    let config = match certificate {
        None => builder.with_no_client_auth(),
        Some(KeyPair { chain, key }) => builder
            .with_client_auth_cert(files::certificates(chain)?, files::read_key(key)?)
            .map_err(|error| TrustError::new(key, error))?,
    };
    Ok(Arc::new(config))
}

/// Reads a secret that is a file's only content; surrounding white space is removed.
///
/// # Errors
/// Returns an error if the file cannot be read or is empty.
pub fn secret(path: &Path) -> Result<String, TrustError> {
    let text = std::fs::read_to_string(path).map_err(|error| TrustError::new(path, error))?;
    match text.trim() {
        "" => Err(TrustError::new(path, "is empty instead of holding a secret")),
        secret => Ok(secret.to_owned()),
    }
}
