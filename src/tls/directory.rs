//! TLS towards the sources of the directory: their names, and our certificate where they ask.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::WebPkiServerVerifier;

use super::files::{self, Expiry, TrustError, Use};
use super::{Crl, KeyPair};

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
}

impl DirectoryLeg {
    /// The client side. ALPN is left to whoever speaks.
    ///
    /// # Errors
    /// The first file that is missing, unreadable, malformed, expired or does not fit another.
    pub fn config(
        &self,
        now_s: i64,
        expiries: &mut Vec<Expiry>,
    ) -> Result<Arc<ClientConfig>, TrustError> {
        let crypto = Arc::new(super::crypto());
        let named = self.authorities.first().cloned().unwrap_or_default();
        let fault = |error: &dyn std::fmt::Display| TrustError::new(&named, error);
        let roots = files::authorities(&self.authorities, expiries)?;
        let lists = files::revocation_lists(&self.crl, Use::DirectoryCrl, expiries)?;
        let mut verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&crypto));
        if !lists.is_empty() {
            verifier = verifier.with_crls(lists).enforce_revocation_expiration();
        }
        let verifier = verifier.build().map_err(|error| fault(&error))?;
        let config = ClientConfig::builder_with_provider(Arc::clone(&crypto))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| fault(&error))?
            .with_webpki_verifier(verifier);
        let config = match &self.certificate {
            None => config.with_no_client_auth(),
            Some(pair) => {
                let ours = files::certified_key(pair, &crypto, Use::Directory, now_s, expiries)?;
                let ours = rustls::sign::SingleCertAndKey::from(ours);
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
