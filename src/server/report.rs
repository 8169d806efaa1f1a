//! Results of commands as data, for `--json`. Their shape is described in docs/operate/running.md.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::prepare::Prepared;
use crate::config::{ConfigError, LocatedFault};
use crate::failure::Failure;
use crate::registry::DirectoryCounts;
use crate::tls::{Concern, Expiry, Issued, Notice, NoticeLevel};

/// Path as text, also if it is not UTF-8.
#[derive(Debug, Clone)]
pub struct ReportedPath(PathBuf);

impl From<PathBuf> for ReportedPath {
    fn from(path: PathBuf) -> Self {
        Self(path)
    }
}

impl Serialize for ReportedPath {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0.display())
    }
}

/// Result of a check: what would be served, or the fault that prevents it.
#[derive(Debug, Serialize)]
pub struct CheckReport {
    /// True if the command ends with exit code 0.
    ok: bool,
    /// Version of the program that checked.
    version: &'static str,
    configuration: CheckedFile,
    /// Addresses, directory and interactions that would be served; `None` if there is a fault.
    served: Option<Served>,
    /// Certificates and revocation lists, with the end of their validity.
    expiries: Vec<ExpiryEntry>,
    notes: Vec<NoticeEntry>,
    warnings: Vec<NoticeEntry>,
    faults: Vec<FaultEntry>,
}

#[derive(Debug, Serialize)]
struct CheckedFile {
    path: ReportedPath,
    sha256: Option<String>,
}

#[derive(Debug, Serialize)]
struct Served {
    addresses: Vec<SocketAddr>,
    names: Vec<String>,
    proxy_name: String,
    admin: SocketAddr,
    directory: DirectorySummary,
    live_sources: Vec<&'static str>,
    journal: ReportedPath,
    networks: Vec<IpNet>,
    interactions: Vec<InteractionEntry>,
    memory_bound_bytes: u64,
    /// `None` if it is not known.
    memory_limit_bytes: Option<u64>,
    lab: bool,
}

#[derive(Debug, Serialize)]
struct DirectorySummary {
    path: ReportedPath,
    sha256: String,
    #[serde(flatten)]
    counts: DirectoryCounts,
}

#[derive(Debug, Serialize)]
struct InteractionEntry {
    id: &'static str,
    method: String,
    path: String,
}

#[derive(Debug, Serialize)]
struct ExpiryEntry {
    #[serde(rename = "use")]
    used_as: &'static str,
    file: ReportedPath,
    #[serde(flatten)]
    issued: IssuedEntry,
    /// End of validity, or time at which the next list is due; `None` if it is no time that can be written.
    until: Option<Timestamp>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum IssuedEntry {
    Certificate { subject: Box<str>, serial: String },
    List { issuer: Box<str>, number: Option<String> },
}

#[derive(Debug, Serialize)]
struct NoticeEntry {
    text: String,
    key: Option<&'static str>,
    file: Option<ReportedPath>,
}

/// Fault that a command found.
#[derive(Debug, Serialize)]
pub struct FaultEntry {
    /// Text of the fault, as it is printed without `--json`.
    pub text: String,
    /// Keys of the configuration that name the file.
    pub keys: Vec<String>,
    /// File at fault.
    pub file: Option<ReportedPath>,
    /// Line of the configuration or of a journal's segment, counted from 1, where it is known.
    pub line: Option<u64>,
}

impl CheckReport {
    /// Reports what would be served, with warnings; with `strict`, warnings are not ok.
    #[must_use]
    pub fn served(prepared: &Prepared, strict: bool) -> Self {
        let notes = prepared.loader.notices.iter();
        let notes = notes.filter(|notice| notice.level == NoticeLevel::Info).cloned();
        let warnings: Vec<_> = prepared.warnings().into_iter().map(NoticeEntry::new).collect();
        Self {
            ok: !strict || warnings.is_empty(),
            version: crate::VERSION,
            configuration: CheckedFile {
                path: absolute(prepared.config.path()).into(),
                sha256: Some(prepared.config.sha256.clone()),
            },
            served: Some(Served::new(prepared)),
            expiries: prepared.loader.expiries.iter().map(ExpiryEntry::new).collect(),
            notes: notes.map(NoticeEntry::new).collect(),
            warnings,
            faults: Vec::new(),
        }
    }

    /// Reports why the configuration at `path` cannot be served.
    #[must_use]
    pub fn failed(path: &Path, failure: &Failure) -> Self {
        Self {
            ok: false,
            version: crate::VERSION,
            configuration: CheckedFile { path: absolute(path).into(), sha256: None },
            served: None,
            expiries: Vec::new(),
            notes: Vec::new(),
            warnings: Vec::new(),
            faults: vec![FaultEntry::new(failure)],
        }
    }
}

impl Served {
    fn new(prepared: &Prepared) -> Self {
        let Prepared { config, rules, directory, live, memory, .. } = prepared;
        let interactions = rules.allowed.iter().map(|interaction| InteractionEntry {
            id: interaction.id,
            method: interaction.method.to_string(),
            path: interaction.template(),
        });
        Self {
            addresses: config.listener.addresses.clone(),
            names: config.listener.names.clone(),
            proxy_name: rules.proxy.clone(),
            admin: config.admin.address,
            directory: DirectorySummary {
                path: config.directory.file.clone().into(),
                sha256: directory.sha256().to_owned(),
                counts: directory.counts(),
            },
            live_sources: live.labels().collect(),
            journal: config.audit.journal.clone().into(),
            networks: config.provider.networks.clone(),
            interactions: interactions.collect(),
            memory_bound_bytes: super::memory::bound(config).total(),
            memory_limit_bytes: memory.map(|memory| memory.bytes),
            lab: config.lab,
        }
    }
}

impl ExpiryEntry {
    fn new(expiry: &Expiry) -> Self {
        let issued = match expiry.issued.clone() {
            Issued::Certificate { subject, serial } => IssuedEntry::Certificate { subject, serial },
            Issued::List { issuer, number } => IssuedEntry::List { issuer, number },
        };
        Self {
            used_as: expiry.used_as.label(),
            file: expiry.path.clone().into(),
            issued,
            until: Timestamp::from_second(expiry.at_s).ok(),
        }
    }
}

impl NoticeEntry {
    fn new(notice: Notice) -> Self {
        let (key, file) = match notice.concern {
            Some(Concern::Key(key)) => (Some(key), None),
            Some(Concern::File(file)) => (None, Some(file.into())),
            None => (None, None),
        };
        Self { text: notice.text, key, file }
    }
}

impl FaultEntry {
    /// Describes the error that ends a command.
    #[must_use]
    pub fn new(failure: &Failure) -> Self {
        let text = failure.to_string();
        let error = match failure {
            Failure::Usage(error)
            | Failure::Configuration(error)
            | Failure::NotProven(error)
            | Failure::Environment(error) => error,
        };
        if let Some(fault) = error.downcast_ref::<ConfigError>() {
            let (file, line) = (Some(fault.path().to_owned().into()), number(fault.line()));
            return Self { text, keys: Vec::new(), file, line };
        }
        match error.downcast_ref::<LocatedFault>() {
            Some(LocatedFault { file, keys, line, .. }) => Self {
                text,
                keys: keys.clone(),
                file: file.clone().map(ReportedPath),
                line: number(*line),
            },
            None => Self { text, keys: Vec::new(), file: None, line: None },
        }
    }
}

/// Returns the number of a line in the form in which it is written.
fn number(line: Option<usize>) -> Option<u64> {
    line.and_then(|line| u64::try_from(line).ok())
}

/// Returns the absolute form of a path, where the current folder is known.
pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
