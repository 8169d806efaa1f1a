//! Loads certificates, authorities and revocation lists part by part.
//!
//! A part that cannot be loaded keeps its last good state and does not delay others: a new revocation list
//! takes effect whatever else is wrong.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::chain::{Authorities, ChainVerifier, name_text};
use super::files::{self, CertificateUse, Expiry, ListFiles, Notice, TrustError};
use super::revocation::{NewestLists, RevocationLists};
use super::server::CertificatesByName;
use super::{Crl, CrlRollback, ExpiredCrl, KeyPair};

/// Loads certificates, authorities and revocation lists, and remembers the last good state of each
/// part.
#[derive(Debug)]
pub struct Loader {
    files: ListFiles,
    /// Our certificates and keys, by the place where they are used.
    keys: HashMap<String, Loaded<CertifiedKey>>,
    /// Last good certificates towards consumers.
    pub(super) server_keys: Option<Arc<CertificatesByName>>,
    legs: HashMap<&'static str, LegState>,
    /// Names of the issuers in our own chains.
    known: HashSet<Box<[u8]>>,
    now_s: i64,
    /// Expiry times of everything in force, collected since the last [`Loader::begin`].
    pub expiries: Vec<Expiry>,
    /// Notices for operators, collected since the last [`Loader::begin`].
    pub notices: Vec<Notice>,
    /// Errors of files since the last [`Loader::begin`]; the last good state of each stays in force.
    pub faults: Vec<TrustError>,
}

/// Loaded parts of one leg.
#[derive(Debug, Default)]
struct LegState {
    authorities: Option<Loaded<Authorities>>,
    lists: Option<Arc<RevocationLists>>,
    newest: Arc<NewestLists>,
}

/// Last good state of a part, and its expiry times.
#[derive(Debug)]
struct Loaded<T> {
    part: Arc<T>,
    expiries: Vec<Expiry>,
}

/// Settings of one leg that its verifier is built from.
pub(super) struct LegFiles<'a> {
    /// Name of the leg, used in texts and as a key.
    pub(super) leg: &'static str,
    pub(super) authorities: &'a [PathBuf],
    pub(super) crl: &'a Crl,
    pub(super) expired: ExpiredCrl,
    pub(super) rollback: CrlRollback,
    /// Use of its revocation lists, for texts and metrics.
    pub(super) used_as: CertificateUse,
}

impl Loader {
    /// Returns a loader for a first load at `now_s`, in seconds since 1970.
    #[must_use]
    pub fn new(now_s: i64) -> Self {
        Self {
            files: ListFiles::default(),
            keys: HashMap::new(),
            server_keys: None,
            legs: HashMap::new(),
            known: HashSet::new(),
            now_s,
            expiries: Vec::new(),
            notices: Vec::new(),
            faults: Vec::new(),
        }
    }

    /// Begins another load at `now_s`, in seconds since 1970.
    pub fn begin(&mut self, now_s: i64) {
        self.now_s = now_s;
        self.files.begin();
        self.expiries.clear();
        self.notices.clear();
        self.faults.clear();
    }

    /// Ends a load in which every part was asked for: forgets files that are no longer named.
    pub fn end(&mut self) {
        self.files.end();
    }

    /// Returns true if a file of revocation lists has changed since it was read.
    ///
    /// Looks at every `parts`th file from the `part`th, so that `parts` calls cover all of them.
    #[must_use]
    pub fn has_changed(&self, part: usize, parts: usize) -> bool {
        self.files.has_changed(part, parts)
    }

    /// Returns the files of revocation lists, including those in folders, in no order.
    pub fn list_files(&self) -> impl Iterator<Item = &Path> {
        self.files.paths()
    }

    /// Loads one of our certificates and its key; returns the place's last good pair if they cannot be used.
    ///
    /// # Errors
    /// Returns an error if the files cannot be used and the place has no last good pair.
    pub(super) fn key(
        &mut self,
        place: &str,
        pair: &KeyPair,
        crypto: &Arc<CryptoProvider>,
        used_as: CertificateUse,
    ) -> Result<Arc<CertifiedKey>, TrustError> {
        match files::certified_key(pair, crypto, self.now_s) {
            Ok((key, issued, at_s)) => {
                self.known.extend(issuers(&key));
                self.notices.extend(leaf_alone(&key, pair));
                let expiries = vec![Expiry { used_as, path: pair.chain.clone(), issued, at_s }];
                let loaded = Loaded { part: Arc::new(key), expiries };
                self.keys.insert(place.to_owned(), loaded);
            }
            Err(fault) if self.keys.contains_key(place) => self.faults.push(fault),
            Err(fault) => return Err(fault),
        }
        let fault = || TrustError::new(&pair.chain, "holds no certificate");
        let loaded = self.keys.get(place).ok_or_else(fault)?;
        self.expiries.extend(loaded.expiries.iter().cloned());
        Ok(Arc::clone(&loaded.part))
    }

    /// Builds the verifier of a leg from its authorities and revocation lists.
    ///
    /// # Errors
    /// Returns an error if a part cannot be loaded and has no last good state.
    pub(super) fn verifier(
        &mut self,
        files: &LegFiles<'_>,
        crypto: &CryptoProvider,
    ) -> Result<Arc<ChainVerifier>, TrustError> {
        let LegFiles { leg: name, authorities, crl, expired, rollback, used_as } = *files;
        let Self { files, legs, known, expiries, notices, faults, .. } = self;
        let leg = legs.entry(name).or_default();
        let mut ends = Vec::new();
        match (files::authorities(authorities, &mut ends), &mut leg.authorities) {
            (Ok(part), loaded) => *loaded = Some(Loaded { part: Arc::new(part), expiries: ends }),
            (Err(fault), Some(_)) => faults.push(fault),
            (Err(fault), None) => return Err(fault),
        }
        let Some(Loaded { part: authorities, expiries: ends }) = &leg.authorities else {
            return Err(TrustError::new(Path::new(name), "has no authority"));
        };
        expiries.extend(ends.iter().cloned());
        let algorithms = crypto.signature_verification_algorithms;
        leg.lists = if crl.files().is_empty() {
            None
        } else {
            let read = files.lists(crl, leg.lists.is_none(), notices, faults)?;
            let (mut lists, unusable) =
                RevocationLists::new(read, used_as, expired, algorithms, Arc::clone(&leg.newest));
            notices.extend(unusable);
            match rollback {
                CrlRollback::Refuse => notices.extend(lists.keep_newer()),
                CrlRollback::Accept => lists.accept_older(),
            }
            notices.extend(lists.compare(&authorities.each, known, used_as));
            expiries.extend(lists.expiries(used_as));
            Some(Arc::new(lists))
        };
        let (authorities, lists) = (Arc::clone(authorities), leg.lists.clone());
        Ok(Arc::new(ChainVerifier { authorities, lists, algorithms }))
    }
}

/// Returns a warning if a chain holds only the leaf: a peer without the issuer's certificate cannot
/// verify it.
fn leaf_alone(key: &CertifiedKey, pair: &KeyPair) -> Option<Notice> {
    let [leaf] = key.cert.as_slice() else { return None };
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let text = format!(
        "{}: holds the certificate alone, without that of its issuer ({}), so that peers may be unable \
         to verify it; append the issuer's",
        pair.chain.display(),
        name_text(parsed.issuer()),
    );
    (parsed.issuer() != parsed.subject()).then(|| Notice::warning(text).about_file(&pair.chain))
}

/// Returns the subjects of the issuers in one of our chains.
fn issuers(key: &CertifiedKey) -> impl Iterator<Item = Box<[u8]>> {
    key.cert.iter().skip(1).filter_map(|certificate| {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        Some(parsed.subject().as_raw().into())
    })
}
