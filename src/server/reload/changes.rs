//! Changes that a reload has made, as texts for the log, which name files, numbers and dates and hold no secret.

use std::collections::HashSet;

use jiff::Timestamp;

use super::Marks;
use super::in_force::changed;
use crate::config::Config;
use crate::registry::{DirectoryCounts, DirectoryFile};
use crate::tls::{Expiry, Issued};

/// Limit: changes of one reload that are logged one by one.
pub(super) const CHANGES_MAX: usize = 50;

/// State in force before a reload, to compare with that after it.
pub(super) struct BeforeReload {
    config: Config,
    expiries: Vec<Expiry>,
    directory: (String, DirectoryCounts),
    seen: Marks,
}

impl BeforeReload {
    pub(super) fn new(
        config: &Config,
        expiries: &[Expiry],
        file: &DirectoryFile,
        seen: &Marks,
    ) -> Self {
        Self {
            config: config.clone(),
            expiries: expiries.to_vec(),
            directory: (file.sha256().to_owned(), file.counts()),
            seen: seen.clone(),
        }
    }

    /// Returns the files that have changed since they were last read.
    pub(super) fn files(&self, now: &Marks) -> Vec<String> {
        let changed = now.iter().filter(|(path, mark)| self.seen.get(*path) != Some(*mark));
        let text = |(path, mark): (&std::path::PathBuf, &Option<_>)| match mark {
            Some(_) => format!("file {} has changed", path.display()),
            None => format!("file {} is gone", path.display()),
        };
        let mut texts: Vec<_> = changed.map(text).collect();
        texts.sort_unstable();
        texts
    }

    /// Returns the sections of the configuration that have changed.
    pub(super) fn sections(&self, now: &Config) -> Vec<String> {
        let names = changed(&self.config.sections(), &now.sections());
        names.iter().map(|name| format!("configuration section {name} has changed")).collect()
    }

    /// Returns the numbers of the directory file before and after, if the file has other contents.
    pub(super) fn directory(&self, now: &DirectoryFile) -> Option<String> {
        let (sha256, before) = &self.directory;
        (*sha256 != now.sha256())
            .then(|| format!("directory file: {} (before: {before})", now.counts()))
    }

    /// Returns the certificates and revocation lists that have come into force, each with the one that it
    /// replaces, and those that were withdrawn.
    pub(super) fn issued(&self, now: &[Expiry]) -> Vec<String> {
        let (before, after): (HashSet<_>, HashSet<_>) =
            (self.expiries.iter().collect(), now.iter().collect());
        let mut withdrawn: Vec<_> =
            self.expiries.iter().filter(|expiry| !after.contains(expiry)).collect();
        let mut texts = Vec::new();
        for new in now.iter().filter(|expiry| !before.contains(expiry)) {
            let old = withdrawn.iter().position(|old| replaces(new, old));
            let old = old.map(|at| withdrawn.swap_remove(at));
            let old = old.map(|old| format!(" (before: {})", numbered(old)));
            texts.push(format!("{} is in force{}", named(new), old.unwrap_or_default()));
        }
        texts.extend(withdrawn.iter().map(|old| format!("{} is no longer in force", named(old))));
        texts.dedup();
        texts
    }
}

/// Returns true if a certificate or list takes the place of another.
fn replaces(new: &Expiry, old: &Expiry) -> bool {
    let is_same_name = match (&new.issued, &old.issued) {
        (Issued::List { issuer: new, .. }, Issued::List { issuer: old, .. })
        | (Issued::Certificate { subject: new, .. }, Issued::Certificate { subject: old, .. }) => {
            new == old
        }
        (Issued::List { .. }, Issued::Certificate { .. })
        | (Issued::Certificate { .. }, Issued::List { .. }) => false,
    };
    // A certificate of ours may be replaced by one of another name.
    new.used_as == old.used_as && new.path == old.path && (is_same_name || new.used_as.is_ours())
}

/// Returns the use, file, name, number and end of a certificate or list.
fn named(expiry: &Expiry) -> String {
    let name = match &expiry.issued {
        Issued::Certificate { subject, .. } => subject,
        Issued::List { issuer, .. } => issuer,
    };
    let (label, path) = (expiry.used_as.label(), expiry.path.display());
    format!("{label} {path}: {name}, {}", numbered(expiry))
}

/// Returns the number of a certificate or list, and its end.
fn numbered(expiry: &Expiry) -> String {
    let until = Timestamp::from_second(expiry.at_s)
        .map_or_else(|_| "no end known".to_owned(), |at| at.to_string());
    match &expiry.issued {
        Issued::Certificate { serial, .. } => format!("serial {serial}, valid until {until}"),
        Issued::List { number: Some(number), .. } => {
            format!("number {number}, next update {until}")
        }
        Issued::List { number: None, .. } => format!("without a number, next update {until}"),
    }
}
