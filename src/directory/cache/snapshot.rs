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

use super::super::Directory;
use super::super::sources::SourceUrls;
use super::freshness::Doubt;
use super::{Age, AgeMark, AnswerStamp, CachedPractice, CachedRegistration, CachedSender};
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
        self.shared.metrics.directory.snapshot(self.shared.now_s());
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
        let shared = &self.shared;
        let rules = shared.rules();
        let now_s = rules.now_s;
        let urls = shared.in_force.load().urls();
        let is_ours = |source: &Origin, answered_s: &i64| {
            let url = urls.get(source);
            url.is_some() && url == written.sources.get(source) && (0..=now_s).contains(answered_s)
        };
        let rows = written.practices.into_iter();
        for row in rows.filter(|row| is_ours(&row.source, &row.answered_s)) {
            let ods = row.ods.clone();
            let Some(row) = row.read(now_s) else { continue };
            if row.stamp.age(rules.provider_limits(), now_s) == Age::Dead {
                continue;
            }
            let mut rows = shared.cache.practice(&ods).rows.clone();
            rows.push(row);
            shared.cache.insert_practice(&ods, CachedPractice::new(rows, now_s));
        }
        let senders = written.senders.into_iter();
        for sender in senders.filter(|sender| is_ours(&sender.source, &sender.answered_s)) {
            shared.cache.insert_sender(sender.read());
        }
        shared.metrics.directory.snapshot(now_s);
        Ok(shared.cache.practices.iter().count())
    }

    fn written(&self) -> SnapshotDocument {
        let rows = self.shared.cache.practices.iter().flat_map(|(_, practice)| {
            practice.rows.iter().map(WrittenRow::new).collect::<Vec<_>>()
        });
        let senders = self.shared.cache.senders.iter();
        SnapshotDocument {
            version: VERSION,
            sources: self.shared.in_force.load().urls(),
            practices: rows.collect(),
            senders: senders.map(|(_, cached)| WrittenSender::new(&cached)).collect(),
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
    fn new(row: &CachedRegistration) -> Self {
        let provider = &row.provider;
        Self {
            ods: provider.ods.clone(),
            asid: provider.asid.clone(),
            party_key: provider.party_key.clone(),
            cpa_id: provider.cpa_id.clone(),
            root: provider.root.to_string(),
            interactions: ids(&provider.interactions),
            source: row.stamp.origin,
            answered_s: row.stamp.answered_s,
            doubted_s: row.doubt.map(|doubt| doubt.first_s),
            flushed: row.stamp.is_flushed(),
        }
    }

    fn read(self, now_s: i64) -> Option<CachedRegistration> {
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
        let mark = if self.flushed { AgeMark::flushed(now_s) } else { AgeMark::Loaded };
        let (answered_s, origin) = (self.answered_s, self.source);
        let stamp = AnswerStamp { answered_s, origin, mark, number: 0 };
        let doubted_s = self.doubted_s.filter(|doubted_s| (0..=now_s).contains(doubted_s));
        let doubt = doubted_s.map(|first_s| Doubt { first_s, last_s: first_s, last: 0 });
        Some(CachedRegistration { provider: Arc::new(provider), stamp, doubt })
    }
}

impl WrittenSender {
    fn new(cached: &CachedSender) -> Self {
        let sender = &cached.sender;
        Self {
            asid: sender.asid.clone(),
            ods: sender.ods.clone(),
            names: sender.names.clone(),
            interactions: ids(&sender.interactions),
            source: cached.stamp.origin,
            answered_s: cached.stamp.answered_s,
        }
    }

    fn read(self) -> CachedSender {
        let interactions = known(&self.interactions);
        let stamp = AnswerStamp {
            answered_s: self.answered_s,
            origin: self.source,
            mark: AgeMark::Loaded,
            number: 0,
        };
        let (asid, names, ods, on_behalf_of) = (self.asid, self.names, self.ods, Vec::new());
        let sender = Sender { asid, names, ods, on_behalf_of, interactions };
        CachedSender { sender: Arc::new(sender), stamp }
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
