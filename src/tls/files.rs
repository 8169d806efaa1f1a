//! Certificates, keys and revocation lists read from files; every error names its file.

use std::collections::HashMap;
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::chain::{Authorities, Authority, name_text};
use super::revocation::{ListResult, RevocationList};
use super::{Crl, KeyPair};

/// Error returned when a certificate, key, list or secret file cannot be used; names the file.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct TrustError {
    path: PathBuf,
    why: String,
    is_unpaired: bool,
}

impl TrustError {
    pub(crate) fn new(path: &Path, why: impl fmt::Display) -> Self {
        Self { path: path.to_owned(), why: why.to_string(), is_unpaired: false }
    }

    /// Returns the error for a key that does not match its certificate.
    fn unpaired(pair: &KeyPair) -> Self {
        let why = format!("the key does not match the certificate in {}", pair.chain.display());
        Self { is_unpaired: true, ..Self::new(&pair.key, why) }
    }

    /// Returns true if a key does not match its certificate, as while the two are replaced one after the other.
    #[must_use]
    pub const fn is_unpaired(&self) -> bool {
        self.is_unpaired
    }

    /// Returns the path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Use of a certificate or revocation list: its leg, and if it is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CertificateUse {
    /// Our certificate towards consumers.
    Server,
    /// Our certificate towards providers.
    Client,
    /// Certificate of an authority of any leg.
    Authority,
    /// Revocation list for consumers' certificates.
    ClientCrl,
    /// Revocation list for providers' certificates.
    ProviderCrl,
    /// Our certificate towards a live source of the directory.
    Directory,
    /// Revocation list for the certificate of a live source of the directory.
    DirectoryCrl,
    /// Our certificate towards Redis.
    Redis,
    /// Revocation list for the certificate of Redis.
    RedisCrl,
}

impl CertificateUse {
    /// Returns the label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
            Self::Authority => "authority",
            Self::ClientCrl => "client_crl",
            Self::ProviderCrl => "provider_crl",
            Self::Directory => "directory",
            Self::DirectoryCrl => "directory_crl",
            Self::Redis => "redis",
            Self::RedisCrl => "redis_crl",
        }
    }

    /// Returns true for a certificate of our own.
    #[must_use]
    pub const fn is_ours(self) -> bool {
        matches!(self, Self::Server | Self::Client | Self::Directory | Self::Redis)
    }

    /// Returns true for a revocation list.
    #[must_use]
    pub const fn is_crl(self) -> bool {
        matches!(self, Self::ClientCrl | Self::ProviderCrl | Self::DirectoryCrl | Self::RedisCrl)
    }
}

/// Certificate or revocation list, as its issuer named it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Issued {
    /// A certificate of ours, or of an authority.
    Certificate {
        /// Name of its subject, at most 128 bytes.
        subject: Box<str>,
        /// Serial number in lower-case hexadecimal.
        serial: String,
    },
    /// A revocation list.
    List {
        /// Name of its issuer, at most 128 bytes.
        issuer: Box<str>,
        /// Its number (`cRLNumber`), decimal up to 128 bits, else hexadecimal; `None` if it has none.
        number: Option<String>,
    },
}

impl Issued {
    /// Returns the name and serial number of a certificate.
    pub(super) fn certificate(parsed: &X509Certificate<'_>) -> Self {
        let serial = crate::hex::encode(parsed.raw_serial());
        Self::Certificate { subject: name_text(parsed.subject()), serial }
    }
}

impl fmt::Display for Issued {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate { subject, serial } => write!(out, "{subject}, serial {serial}"),
            Self::List { issuer, number: Some(number) } => write!(out, "{issuer}, number {number}"),
            Self::List { issuer, number: None } => write!(out, "{issuer}, without a number"),
        }
    }
}

/// Expiry of a certificate, or the time at which the next revocation list is due.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Expiry {
    /// Use of the certificate or list.
    pub used_as: CertificateUse,
    /// Path of the file.
    pub path: PathBuf,
    /// The certificate or list, to tell several of one file apart.
    pub issued: Issued,
    /// Time in seconds since 1970, UTC.
    pub at_s: i64,
}

impl Expiry {
    /// Returns the alarm text if the time has passed.
    #[must_use]
    pub fn overdue(&self, now_s: i64) -> Option<String> {
        let what = if self.used_as.is_crl() { "revocation list overdue" } else { "expired" };
        let (label, shown, issued) = (self.used_as.label(), self.path.display(), &self.issued);
        (self.at_s <= now_s).then(|| format!("{label} {shown}: {what} ({issued})"))
    }
}

/// Urgency of a [`Notice`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoticeLevel {
    /// Information that needs no action.
    Info,
    /// Peers are or will be refused, or a setting is risky; `check --strict` fails.
    Warning,
    /// Something is in force that should not be, or is not in force that should be.
    Alarm,
}

/// Notice for operators about a loaded file; it does not prevent loading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Urgency of the notice.
    pub level: NoticeLevel,
    /// One line of text that names the file or the key of the configuration.
    pub text: String,
    /// File or key that the notice concerns, where there is one.
    pub concern: Option<Concern>,
}

/// Subject of a notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Concern {
    /// A key of the configuration, such as `provider.networks`.
    Key(&'static str),
    /// A file or folder.
    File(PathBuf),
}

impl Notice {
    /// Returns a notice of this urgency and text.
    #[must_use]
    pub const fn new(level: NoticeLevel, text: String) -> Self {
        Self { level, text, concern: None }
    }

    /// Returns a warning of this text.
    #[must_use]
    pub const fn warning(text: String) -> Self {
        Self::new(NoticeLevel::Warning, text)
    }

    /// Returns the notice with the file or folder that it concerns.
    #[must_use]
    pub fn about_file(self, path: &Path) -> Self {
        Self { concern: Some(Concern::File(path.to_owned())), ..self }
    }

    /// Returns the notice with the key of the configuration that it concerns.
    #[must_use]
    pub fn about_key(self, key: &'static str) -> Self {
        Self { concern: Some(Concern::Key(key)), ..self }
    }
}

/// State of a file by which a change is detected: device, inode, size, mtime and ctime (seconds and
/// nanoseconds).
///
/// A program cannot set the ctime, so content replaced with the same size and mtime is detected too.
/// Symbolic links are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMark([u64; 3], [i64; 4]);

impl FileMark {
    /// Returns the mark of a file, or `None` if it cannot be read.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let data = std::fs::metadata(path).ok()?;
        Some(Self(
            [data.dev(), data.ino(), data.len()],
            [data.mtime(), data.mtime_nsec(), data.ctime(), data.ctime_nsec()],
        ))
    }
}

/// Loads a chain and its key; returns them with the leaf's name and its expiry in seconds since 1970.
///
/// # Errors
/// Returns an error if a file cannot be used, the key does not match, or the leaf is outside its dates.
pub(super) fn certified_key(
    pair: &KeyPair,
    crypto: &Arc<CryptoProvider>,
    now_s: i64,
) -> Result<(CertifiedKey, Issued, i64), TrustError> {
    let chain = certificates(&pair.chain)?;
    let key = read_key(&pair.key)?;
    let key = crypto
        .key_provider
        .load_private_key(key)
        .map_err(|error| TrustError::new(&pair.key, error))?;
    let leaf = chain.first().ok_or_else(|| TrustError::new(&pair.chain, "holds no certificate"))?;
    let (_, parsed) =
        X509Certificate::from_der(leaf).map_err(|error| TrustError::new(&pair.chain, error))?;
    let issued = Issued::certificate(&parsed);
    let validity = parsed.validity().clone();
    let certified = CertifiedKey::new(chain, key);
    // First of all: an expired certificate whose key has been replaced will be replaced too.
    certified.keys_match().map_err(|_| TrustError::unpaired(pair))?;
    let ends_s = validity.not_after.timestamp();
    if now_s >= ends_s {
        let why = format!("the certificate expired on {}", validity.not_after);
        return Err(TrustError::new(&pair.chain, why));
    }
    if now_s < validity.not_before.timestamp() {
        let why = format!("the certificate is not valid before {}", validity.not_before);
        return Err(TrustError::new(&pair.chain, why));
    }
    Ok((certified, issued, ends_s))
}

/// Reads a private key of a PEM file.
pub(super) fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TrustError> {
    let text = read(path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        let is_encrypted = memchr::memmem::find(&text, b"ENCRYPTED").is_some();
        if is_encrypted {
            let why = "the key is encrypted: decrypt it with `openssl pkey` into a file that only \
                       this service can read";
            return TrustError::new(path, why);
        }
        TrustError::new(path, pem(&error, "a private key"))
    })
}

/// Loads the authorities of a leg; adds their expiry times.
pub(super) fn authorities(
    paths: &[PathBuf],
    expiries: &mut Vec<Expiry>,
) -> Result<Authorities, TrustError> {
    let mut each = Vec::new();
    for path in paths {
        for certificate in certificates(path)? {
            let (authority, issued, at_s) = Authority::read(path.clone(), &certificate)
                .map_err(|why| TrustError::new(path, why))?;
            let used_as = CertificateUse::Authority;
            expiries.push(Expiry { used_as, path: path.clone(), issued, at_s });
            each.push(authority);
        }
    }
    if each.is_empty() {
        return Err(TrustError::new(Path::new("authorities"), "names no file"));
    }
    let roots = each.iter().map(|authority| authority.anchor.clone()).collect();
    Ok(Authorities { each, roots: Arc::new(RootCertStore { roots }) })
}

/// Maximum number of files in a folder of revocation lists.
const FOLDER_FILES_MAX: usize = 16_384;
/// Maximum size of a file of revocation lists, in bytes.
const LIST_FILE_BYTES_MAX: u64 = 256 << 20;

/// Cache of parsed revocation list files; a file is parsed again only when it has changed.
#[derive(Debug, Default)]
pub(super) struct ListFiles(HashMap<PathBuf, ListFile>);

/// State of a revocation list file as of its last read.
#[derive(Debug, Default)]
struct ListFile {
    mark: Option<FileMark>,
    /// Lists of the last read that succeeded.
    lists: Option<Vec<ListResult>>,
    /// Error of the present content, if there is one.
    fault: Option<TrustError>,
    /// True if the file was asked for since the load began.
    is_named: bool,
}

impl ListFiles {
    /// Begins a load: no file counts as asked for.
    pub(super) fn begin(&mut self) {
        self.0.values_mut().for_each(|file| file.is_named = false);
    }

    /// Ends a load: forgets files that were not asked for.
    pub(super) fn end(&mut self) {
        self.0.retain(|_, file| file.is_named);
    }

    /// Returns true if a file has changed since it was read, among every `parts`th from the `part`th.
    pub(super) fn has_changed(&self, part: usize, parts: usize) -> bool {
        let mut files = self.0.iter().skip(part).step_by(parts.max(1));
        files.any(|(path, file)| file.is_named && FileMark::of(path) != file.mark)
    }

    /// Returns the files that were asked for.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().filter(|(_, file)| file.is_named).map(|(path, _)| path.as_path())
    }

    /// Returns the revocation lists of a leg.
    ///
    /// A file that cannot be used keeps its last good lists and is added to `faults`. A file in a folder
    /// that never was good is left out, with an alarm in `notices`.
    ///
    /// # Errors
    /// Returns an error for a path that cannot be used, only if `is_first` is true.
    pub(super) fn lists(
        &mut self,
        crl: &Crl,
        is_first: bool,
        notices: &mut Vec<Notice>,
        faults: &mut Vec<TrustError>,
    ) -> Result<Vec<(PathBuf, ListResult)>, TrustError> {
        let mut lists = Vec::new();
        for path in crl.files() {
            match self.lists_at(path, notices, faults) {
                Ok(found) => lists.extend(found),
                Err(fault) if is_first => return Err(fault),
                Err(fault) => {
                    faults.push(fault);
                    lists.extend(self.known_in(path));
                }
            }
        }
        Ok(lists)
    }

    fn lists_at(
        &mut self,
        path: &Path,
        notices: &mut Vec<Notice>,
        faults: &mut Vec<TrustError>,
    ) -> Result<Vec<(PathBuf, ListResult)>, TrustError> {
        let named = |path: &Path, found: &[ListResult]| -> Vec<_> {
            found.iter().map(|list| (path.to_owned(), list.clone())).collect()
        };
        if !path.is_dir() {
            return Ok(named(path, self.file(path, faults)?));
        }
        let mut lists = Vec::new();
        for file in folder(path)? {
            match self.file(&file, faults) {
                Ok(found) => lists.extend(named(&file, found)),
                Err(fault) => {
                    let text = format!("{fault}; the file is left out");
                    notices.push(Notice::new(NoticeLevel::Alarm, text).about_file(&file));
                }
            }
        }
        Ok(lists)
    }

    /// Returns the last good lists of a folder that cannot be read now.
    fn known_in(&mut self, folder: &Path) -> Vec<(PathBuf, ListResult)> {
        let mut lists = Vec::new();
        for (path, file) in &mut self.0 {
            if path.parent() == Some(folder) {
                file.is_named = true;
                let found = file.lists.iter().flatten();
                lists.extend(found.map(|list| (path.clone(), list.clone())));
            }
        }
        lists
    }

    fn file(
        &mut self,
        path: &Path,
        faults: &mut Vec<TrustError>,
    ) -> Result<&[ListResult], TrustError> {
        // Taken before the file is read, so that a change during the read is detected next time.
        let mark = FileMark::of(path);
        let file = self.0.entry(path.to_owned()).or_default();
        file.is_named = true;
        if mark.is_none() || mark != file.mark {
            // A file that could not be read is read again at the next load; one with invalid content only
            // when it changes.
            let read = list_file(path);
            file.mark = mark.filter(|_| read.is_ok());
            let lists =
                read.and_then(|text| lists_in(text).map_err(|why| TrustError::new(path, why)));
            match lists {
                Ok(lists) => (file.lists, file.fault) = (Some(lists), None),
                Err(fault) => file.fault = Some(fault),
            }
        }
        match (&file.lists, &file.fault) {
            (Some(lists), fault) => {
                faults.extend(fault.clone());
                Ok(lists)
            }
            (None, Some(fault)) => Err(fault.clone()),
            (None, None) => Ok(&[]),
        }
    }
}

/// Returns the files of a folder in the order of their names, without those that begin with a dot.
fn folder(path: &Path) -> Result<Vec<PathBuf>, TrustError> {
    let fault = |error: std::io::Error| TrustError::new(path, error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(fault)? {
        let entry = entry.map_err(fault)?;
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !is_hidden && !entry.path().is_dir() {
            files.push(entry.path());
        }
        if files.len() > FOLDER_FILES_MAX {
            let why = format!("holds more than {FOLDER_FILES_MAX} files");
            return Err(TrustError::new(path, why));
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn list_file(path: &Path) -> Result<Vec<u8>, TrustError> {
    let data = std::fs::metadata(path).map_err(|error| TrustError::new(path, error))?;
    if data.len() > LIST_FILE_BYTES_MAX {
        let why = format!("is larger than {} MiB", LIST_FILE_BYTES_MAX >> 20);
        return Err(TrustError::new(path, why));
    }
    read(path)
}

/// Parses the revocation lists in a file's content: any number in PEM, or one in DER.
pub(super) fn lists_in(bytes: Vec<u8>) -> Result<Vec<ListResult>, String> {
    let found: Vec<_> = if bytes.starts_with(b"-----") || bytes.starts_with(b"#") {
        CertificateRevocationListDer::pem_slice_iter(&bytes)
            .collect::<Result<_, _>>()
            .map_err(|error| pem(&error, "a revocation list"))?
    } else {
        vec![CertificateRevocationListDer::from(bytes)]
    };
    if found.is_empty() {
        return Err("holds no revocation list".to_owned());
    }
    found.iter().map(RevocationList::read).collect()
}

/// Reads the certificates of a PEM file in their order; fails if there is none.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|error| TrustError::new(path, pem(&error, "a certificate")))?;
    if found.is_empty() {
        return Err(TrustError::new(path, "holds no certificate"));
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>, TrustError> {
    std::fs::read(path).map_err(|error| TrustError::new(path, error))
}

fn pem(error: &rustls::pki_types::pem::Error, what: &str) -> String {
    format!("is not {what} in PEM: {error}")
}

#[cfg(all(test, feature = "lab"))]
mod tests {
    use super::*;
    use gpconnect_simulator::pki::Pki;

    #[test]
    fn a_file_in_a_folder_that_is_written_in_place_is_found_to_have_changed() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::new(jiff::Timestamp::now().as_second()).unwrap();
        let path = |number: usize| folder.path().join(format!("{number}.pem"));
        for number in 0..10 {
            std::fs::write(path(number), pki.revocation_lists(&[], 30).unwrap()).unwrap();
        }
        std::fs::write(path(10), "half a li").unwrap();
        let crl = Crl::Files(vec![folder.path().to_owned()]);
        let mut files = ListFiles::default();
        let load = |files: &mut ListFiles| {
            let (mut notices, mut faults) = (Vec::new(), Vec::new());
            files.begin();
            let lists = files.lists(&crl, false, &mut notices, &mut faults).unwrap().len();
            files.end();
            (lists, notices.len(), faults.len())
        };
        let changed = |files: &ListFiles| (0..4).filter(|part| files.has_changed(*part, 4)).count();
        assert_eq!(load(&mut files), (20, 1, 0));
        assert_eq!(changed(&files), 0);
        // Truncated: the last good lists stay, and the fault is reported for as long as it lasts.
        std::fs::write(path(3), "half a li").unwrap();
        assert_eq!(changed(&files), 1);
        for _ in 0..2 {
            assert_eq!(load(&mut files), (20, 1, 1));
            assert_eq!(changed(&files), 0);
        }
        std::fs::write(path(10), pki.revocation_lists(&[], 30).unwrap()).unwrap();
        std::fs::remove_file(path(3)).unwrap();
        assert_eq!(changed(&files).min(1), 1);
        assert_eq!(load(&mut files), (20, 0, 0));
        assert_eq!(changed(&files), 0);
    }
}
