//! TLS towards the sources of the directory: their names, and our certificate where they ask.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;

use super::files::{CertificateUse, TrustError};
use super::loader::{LegFiles, Loader};
use super::provider::ServerVerifier;
use super::{Crl, CrlRollback, ExpiredCrl, KeyPair};

/// TLS towards one source of the directory.
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DirectoryLeg {
    /// Our certificate, where the source asks for one.
    pub certificate: Option<KeyPair>,
    /// Authorities that issue the source's certificate, as PEM files.
    pub authorities: Vec<PathBuf>,
    /// Revocation lists for the source's certificate.
    pub crl: Crl,
    /// Treatment of a revocation list with a lower number than the one in force.
    #[serde(default)]
    pub crl_rollback: CrlRollback,
    /// Accepts a certificate without any DNS name in its SAN by its one CN.
    #[serde(default)]
    pub cn_fallback: bool,
}

impl DirectoryLeg {
    /// The client side towards one source, `leg` in texts. ALPN is left to whoever speaks.
    ///
    /// # Errors
    /// The first file that is missing, unreadable, malformed or does not fit another, and was never
    /// good before.
    pub fn config(
        &self,
        leg: &'static str,
        loader: &mut Loader,
    ) -> Result<Arc<ClientConfig>, TrustError> {
        let crypto = Arc::new(super::crypto());
        let ours = match &self.certificate {
            Some(pair) => Some(loader.key(leg, pair, &crypto, CertificateUse::Directory)?),
            None => None,
        };
        let files = LegFiles {
            leg,
            authorities: &self.authorities,
            crl: &self.crl,
            expired: ExpiredCrl::Deny,
            rollback: self.crl_rollback,
            used_as: CertificateUse::DirectoryCrl,
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

    /// The files named, to be resolved.
    pub fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let pair = self.certificate.iter_mut().flat_map(|pair| [&mut pair.chain, &mut pair.key]);
        pair.chain(&mut self.authorities).chain(self.crl.files_mut())
    }

    /// Whether a list of lists is empty: neither a check nor the word that says there is none.
    #[must_use]
    pub fn is_undecided(&self) -> bool {
        self.crl.is_empty_list()
    }
}

/// Reads a secret that is the whole of a file.
///
/// # Errors
/// The file cannot be read, or is empty.
pub fn secret(path: &Path) -> Result<String, TrustError> {
    let text = std::fs::read_to_string(path).map_err(|error| TrustError::new(path, error))?;
    match text.trim() {
        "" => Err(TrustError::new(path, "holds no secret")),
        secret => Ok(secret.to_owned()),
    }
}
