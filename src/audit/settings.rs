//! The journal's settings.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;

use audit_journal::note::{CheckpointSigner, VerifierKey};
use audit_journal::{CheckpointSettings, IDLE_EVERY};

use spine_types::check_range;
use spine_types::interaction::Effect;

/// Settings of the audit journal.
#[derive(Debug, Clone, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct AuditSettings {
    /// Folder that holds the journal; created with owner-only access, and written by one process alone.
    pub journal: PathBuf,
    /// Requests that wait until their opened line is on disk.
    #[serde(default)]
    pub durability: Durability,
    /// Behaviour while the journal cannot be written.
    #[serde(default)]
    pub when_failing: WhenFailing,
    /// Time for which a request waits for its line to be on disk; a disk that has not answered for so long is
    /// treated as failed.
    #[serde(default = "wait", with = "spine_types::period")]
    #[schemars(with = "String")]
    pub wait: Duration,
    /// Size at which a segment is followed by a new one, from 4 KiB to 2 GiB.
    #[serde(default = "segment_size", with = "spine_types::size")]
    #[schemars(with = "String")]
    pub segment_size: ByteSize,
    /// Age at which a segment is followed by a new one.
    #[serde(default = "segment_age", with = "spine_types::period")]
    #[schemars(with = "String")]
    pub segment_age: Duration,
    /// Refusals a second that have lines of their own: of all callers without a verified certificate
    /// together, and of each certificate whose caller was not identified; five times as many over all
    /// certificates. The others are summed in one line a second.
    #[serde(default = "unverified_per_second")]
    pub unverified_per_second: NonZeroU32,
    /// Free space on the journal's file system below which new requests are refused with `audit_unavailable`,
    /// so that exchanges under way can still be recorded. The log warns below eight times as much.
    #[serde(default = "disk_reserve", with = "spine_types::size")]
    #[schemars(with = "String")]
    pub disk_reserve: ByteSize,
    /// Signed checkpoints, which prove that the journal was not changed afterwards; none if absent.
    #[serde(default)]
    pub checkpoints: Option<CheckpointConfig>,
}

/// Signed checkpoints of the journal.
#[derive(Debug, Clone, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CheckpointConfig {
    /// Name of this journal in its checkpoints, such as `gw1.example.nhs.uk/audit/1`: without spaces and
    /// plus signs, and never used for another journal.
    pub origin: String,
    /// Files with private keys (Ed25519, PKCS#8 PEM), which `audit key new` makes. All of them sign each
    /// checkpoint: name the new and the old one while a key is replaced.
    pub keys: Vec<PathBuf>,
    /// Longest time from a line to the checkpoint that covers it, from 1 s to 10 minutes. Without lines, one
    /// is signed every 10 minutes.
    #[serde(default = "every", with = "spine_types::period")]
    #[schemars(with = "String")]
    pub every: Duration,
    /// Folders that get a copy of each checkpoint, such as on another machine. They must exist.
    #[serde(default)]
    pub copies: Vec<PathBuf>,
    /// Witnesses, which countersign each checkpoint if it extends all that they saw before.
    #[serde(default)]
    pub witnesses: Vec<WitnessConfig>,
    /// Sends the number and chain value of a write's opened line to the practice and to the consumer, in the
    /// header `Spine-Proxy-Receipt`: whoever logs it holds evidence of that line.
    #[serde(default)]
    pub receipts: bool,
}

/// Witness that countersigns checkpoints.
#[derive(Debug, Clone, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct WitnessConfig {
    /// URL below which it answers `add-checkpoint`: `https`, or `http` on a loopback address.
    pub url: String,
    /// Its public key, as `name+hash+key`.
    #[serde(with = "verifier_key")]
    #[schemars(with = "String")]
    pub key: VerifierKey,
    /// Authorities that issue its TLS certificate, as PEM files; needed for `https`.
    #[serde(default)]
    pub authorities: Vec<PathBuf>,
}

mod verifier_key {
    use audit_journal::note::VerifierKey;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(key: &VerifierKey, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(key)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<VerifierKey, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

impl CheckpointConfig {
    fn check(&self) -> Result<(), String> {
        check_range("audit.checkpoints.every", &self.every, Duration::from_secs(1)..=IDLE_EVERY)?;
        match self.keys.is_empty() {
            true => Err("audit.checkpoints.keys is empty: name the file of a key, which \
                         `audit key new` makes"
                .to_owned()),
            false => Ok(()),
        }
    }

    /// Reads the keys.
    ///
    /// # Errors
    /// Returns a text that names the key that cannot be used, or says what else is wrong.
    pub(super) fn load(&self) -> Result<CheckpointSettings, String> {
        let signer = |path: &PathBuf| {
            let pem = std::fs::read_to_string(path);
            let pem = pem.map_err(|error| format!("{}: {error}", path.display()))?;
            CheckpointSigner::from_pkcs8_pem(&pem, &self.origin)
                .map_err(|error| format!("audit.checkpoints: {}: {error}", path.display()))
        };
        let signers = self.keys.iter().map(signer).collect::<Result<_, _>>()?;
        CheckpointSettings::new(signers, self.every, self.copies.clone(), self.witnesses.len())
            .ok_or_else(|| "audit.checkpoints.keys is empty".to_owned())
    }
}

/// Requests that wait until their opened line is on disk.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    serde::Deserialize,
    serde::Serialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// Waits for requests that may change something at a practice. Lines of reads are on disk some 100 ms after
    /// their end.
    #[default]
    Writes,
    /// Waits for every request that is forwarded; reads have two lines too.
    EveryRequest,
    /// Waits for no request: lines are on disk some 100 ms later.
    Batched,
}

impl Durability {
    /// Returns true if a request with this effect waits for its opened line.
    #[must_use]
    pub const fn waits(self, effect: Effect) -> bool {
        match (self, effect) {
            (Self::EveryRequest, _) | (Self::Writes, Effect::Writes) => true,
            (Self::Writes, Effect::Reads) | (Self::Batched, _) => false,
        }
    }
}

/// Behaviour while the journal cannot be written.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    serde::Deserialize,
    serde::Serialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFailing {
    /// Refuses every request.
    #[default]
    Refuse,
    /// Serves reads while there is space to keep their lines, and refuses writes.
    ServeReads,
}

impl AuditSettings {
    /// Checks periods and sizes.
    ///
    /// # Errors
    /// Returns a text that names the first key with a value that is not allowed.
    pub fn check(&self) -> Result<(), String> {
        check_range("audit.segment-age", &self.segment_age, Duration::from_secs(1)..)?;
        check_range("audit.wait", &self.wait, Duration::from_millis(10)..)?;
        check_range(
            "audit.segment-size",
            &self.segment_size,
            ByteSize::kib(4)..=SEGMENT_BYTES_MAX,
        )?;
        self.checkpoints.as_ref().map_or(Ok(()), CheckpointConfig::check)
    }

    /// Returns the default settings for a journal in this folder.
    #[must_use]
    pub fn new(journal: PathBuf) -> Self {
        Self {
            journal,
            durability: Durability::default(),
            when_failing: WhenFailing::default(),
            wait: wait(),
            segment_size: segment_size(),
            segment_age: segment_age(),
            unverified_per_second: unverified_per_second(),
            disk_reserve: disk_reserve(),
            checkpoints: None,
        }
    }
}

/// Limit: setting for the size of a segment.
pub const SEGMENT_BYTES_MAX: ByteSize = ByteSize::gib(2);

const fn every() -> Duration {
    Duration::from_secs(10)
}

const fn wait() -> Duration {
    Duration::from_secs(2)
}

const fn segment_size() -> ByteSize {
    ByteSize::mib(256)
}

const fn segment_age() -> Duration {
    Duration::from_secs(24 * 60 * 60)
}

const fn disk_reserve() -> ByteSize {
    ByteSize::mib(64)
}

const fn unverified_per_second() -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(9)
}
