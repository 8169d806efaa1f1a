//! The journal's settings.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;

use super::SEGMENT_BYTES_MAX;
use spine_types::check_range;
use spine_types::interaction::Effect;

/// Settings of the audit journal.
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
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
    /// Waits for requests that may change something at a practice. Other lines are on disk some 100 ms later.
    #[default]
    Writes,
    /// Waits for every request that is forwarded.
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
        check_range("audit.segment-size", &self.segment_size, ByteSize::kib(4)..=SEGMENT_BYTES_MAX)
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
        }
    }
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
