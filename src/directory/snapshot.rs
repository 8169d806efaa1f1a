//! Snapshot of the cache on disk, so that a restart during an outage of all sources can serve.
//!
//! Each entry keeps the time of the directory's answer: loading does not make it younger. A snapshot
//! holds no patient data and no secret.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::cache::{Age, HeldPractice, HeldRegistration, HeldSender, Mark, Since};
use super::rules::SourceUrls;
use super::{Directory, now_s};
use crate::registry::{Origin, ProviderRegistration, Sender};
use spine_types::interaction;
use spine_types::{Asid, CertificateName, CpaId, InteractionId, OdsCode, PartyKey, ServiceRoot};

/// Error returned when a snapshot cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[error("{}: directory snapshot: {why}", path.display())]
pub struct SnapshotError {
    path: PathBuf,
    why: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SnapshotDocument {
    version: u32,
    /// URL of each source; entries of a source that now has another URL are not loaded.
    sources: SourceUrls,
    practices: Vec<WrittenRow>,
    senders: Vec<WrittenSender>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRow {
    ods: OdsCode,
    asid: Asid,
    party_key: PartyKey,
    cpa_id: CpaId,
    root: String,
    interactions: Vec<InteractionId>,
    source: Origin,
    answered_s: i64,
    doubted_s: Option<i64>,
    flushed: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSender {
    asid: Asid,
    ods: OdsCode,
    names: Vec<CertificateName>,
    interactions: Vec<InteractionId>,
    source: Origin,
    answered_s: i64,
}

const VERSION: u32 = 2;
/// Limit: bytes of a snapshot that is loaded.
const BYTES_MAX: u64 = 512 * 1024 * 1024;

impl Directory {
    /// Writes the cache to a file atomically, readable by its owner only.
    ///
    /// # Errors
    /// Returns an error if the file or its folder cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), SnapshotError> {
        let fault = |why: &dyn std::fmt::Display| SnapshotError {
            path: path.to_owned(),
            why: why.to_string(),
        };
        let text = serde_json::to_vec(&self.written()).map_err(|why| fault(&why))?;
        write(path, &text).map_err(|why| fault(&why))?;
        self.shared.metrics.directory.snapshot(now_s());
        Ok(())
    }

    /// Fills the cache from a snapshot and returns the number of practices cached; zero without a file.
    ///
    /// Loaded entries count as stale, so that they are refreshed. Entries that cannot be parsed, come from
    /// the future, or belong to a source that was removed or now has another URL are skipped.
    ///
    /// # Errors
    /// Returns an error if the file exists but cannot be read, is above 512 MiB, or is not a snapshot of
    /// this version.
    pub fn load(&self, path: &Path) -> Result<usize, SnapshotError> {
        let fault = |why: &dyn std::fmt::Display| SnapshotError {
            path: path.to_owned(),
            why: why.to_string(),
        };
        let bytes = match std::fs::metadata(path) {
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(0),
            known => known.map_err(|why| fault(&why))?.len(),
        };
        if bytes > BYTES_MAX {
            return Err(fault(&"it is larger than 512 MiB"));
        }
        let text = std::fs::read(path).map_err(|why| fault(&why))?;
        let written: SnapshotDocument = serde_json::from_slice(&text).map_err(|why| fault(&why))?;
        if written.version != VERSION {
            return Err(fault(&format!(
                "version {} is not supported, only {VERSION}",
                written.version
            )));
        }
        let now_s = now_s();
        let sources = self.shared.view.load().places.clone();
        let ours = |source: &Origin, answered_s: &i64| {
            let here = sources.get(source);
            here.is_some()
                && here == written.sources.get(source)
                && (0..=now_s).contains(answered_s)
        };
        for row in written.practices.into_iter().filter(|row| ours(&row.source, &row.answered_s)) {
            let ods = row.ods.clone();
            let Some(row) = row.read() else { continue };
            let windows = self.shared.freshness.provider_windows();
            if row.since.age(windows, now_s) == Age::Dead {
                continue;
            }
            let held = self.shared.cache.practices.get(&ods).unwrap_or_default();
            let mut rows = held.rows.clone();
            rows.push(row);
            let practice = HeldPractice { rows, ..HeldPractice::default() };
            practice.used(now_s);
            self.shared.hold(&ods, practice);
        }
        let senders = written.senders.into_iter();
        for sender in senders.filter(|sender| ours(&sender.source, &sender.answered_s)) {
            self.shared.hold_sender(sender.read());
        }
        self.shared.metrics.directory.snapshot(now_s);
        Ok(self.shared.cache.practices.iter().count())
    }

    fn written(&self) -> SnapshotDocument {
        let rows = self.shared.cache.practices.iter().flat_map(|(_, practice)| {
            practice.rows.iter().map(WrittenRow::new).collect::<Vec<_>>()
        });
        let senders = self.shared.cache.senders.iter();
        SnapshotDocument {
            version: VERSION,
            sources: self.shared.view.load().places.clone(),
            practices: rows.collect(),
            senders: senders.map(|(_, held)| WrittenSender::new(&held)).collect(),
        }
    }
}

fn ids(interactions: &[&'static interaction::Interaction]) -> Vec<InteractionId> {
    interactions.iter().filter_map(|interaction| interaction.id.parse().ok()).collect()
}

fn known(ids: &[InteractionId]) -> Vec<&'static interaction::Interaction> {
    ids.iter().filter_map(|id| interaction::by_id(id.as_str())).collect()
}

impl WrittenRow {
    fn new(row: &HeldRegistration) -> Self {
        let provider = &row.provider;
        Self {
            ods: provider.ods.clone(),
            asid: provider.asid.clone(),
            party_key: provider.party_key.clone(),
            cpa_id: provider.cpa_id.clone(),
            root: provider.root.to_string(),
            interactions: ids(&provider.interactions),
            source: row.since.origin,
            answered_s: row.since.answered_s,
            doubted_s: row.doubted_s,
            flushed: row.since.mark == Mark::Flushed,
        }
    }

    fn read(self) -> Option<HeldRegistration> {
        let root = self.root.parse::<ServiceRoot>().ok()?;
        let interactions = known(&self.interactions);
        let provider = ProviderRegistration::new(
            self.ods,
            self.asid,
            self.party_key,
            self.cpa_id,
            root,
            interactions,
        );
        let mark = if self.flushed { Mark::Flushed } else { Mark::Loaded };
        let (answered_s, origin) = (self.answered_s, self.source);
        let since = Since { answered_s, origin, mark, heard: None };
        let doubted_s = self.doubted_s.filter(|doubted_s| (0..=now_s()).contains(doubted_s));
        Some(HeldRegistration { provider: Arc::new(provider), since, doubted_s, doubt_heard: None })
    }
}

impl WrittenSender {
    fn new(held: &HeldSender) -> Self {
        let sender = &held.sender;
        Self {
            asid: sender.asid.clone(),
            ods: sender.ods.clone(),
            names: sender.names.clone(),
            interactions: ids(&sender.interactions),
            source: held.since.origin,
            answered_s: held.since.answered_s,
        }
    }

    fn read(self) -> HeldSender {
        let interactions = known(&self.interactions);
        let since = Since {
            answered_s: self.answered_s,
            origin: self.source,
            mark: Mark::Loaded,
            heard: None,
        };
        let (asid, names, ods, on_behalf_of) = (self.asid, self.names, self.ods, Vec::new());
        let sender = Sender { asid, names, ods, on_behalf_of, interactions };
        HeldSender { sender: Arc::new(sender), since }
    }
}

/// Writes a file atomically: writes a temporary file in the same folder, syncs it, then renames it.
fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    // A file left by a crash is removed, not reused: its owner and mode are unknown.
    match std::fs::remove_file(&beside) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}
