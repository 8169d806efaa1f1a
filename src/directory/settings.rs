//! Settings of the directory.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sources::ApiSettings;
#[cfg(feature = "ldap")]
use super::sources::LdapSettings;
use crate::registry::Origin;

/// Settings of the directory: its file, its live sources, and how long their answers are used.
#[derive(Debug, Clone, Deserialize, serde::Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DirectorySettings {
    /// Directory file: consumers, agreements, and providers that live sources do not know or must not
    /// decide.
    pub file: PathBuf,
    /// Live source: the SDS FHIR API.
    pub sds_api: Option<ApiSettings>,
    /// Live source: SDS over LDAP.
    #[cfg(feature = "ldap")]
    pub sds_ldap: Option<LdapSettings>,
    /// Live source that is asked first.
    #[serde(default)]
    pub first: First,
    /// File in which cached live answers are kept for the next start.
    pub snapshot: Option<PathBuf>,
    /// Periods for which answers of live sources are used.
    #[serde(default)]
    pub freshness: Freshness,
    /// Deadlines for live sources.
    #[serde(default)]
    pub deadlines: SourceDeadlines,
    /// Maximum number of uncached look-ups per minute, also the burst size, for one consumer; before the consumer
    /// is identified, for one certificate.
    #[serde(default = "misses_per_minute")]
    pub misses_per_minute: NonZeroU32,
}

const fn misses_per_minute() -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(59)
}

/// Live source that is asked first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum First {
    /// The SDS FHIR API.
    #[default]
    SdsApi,
    /// SDS over LDAP; fresher and more available than the API, but needs HSCN.
    SdsLdap,
}

impl First {
    pub(super) const fn origin(self) -> Origin {
        match self {
            Self::SdsApi => Origin::SdsApi,
            Self::SdsLdap => Origin::SdsLdap,
        }
    }
}

/// Periods for which answers of live sources are used. Other periods and the cache's sizes are fixed.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Freshness {
    /// Period for which a provider is served without a refresh, at most 24 hours.
    #[serde(with = "spine_types::period")]
    #[schemars(with = "String")]
    pub provider: Duration,
    /// Period after `provider` in which a provider is served while it is refreshed, at most 24 hours.
    #[serde(with = "spine_types::period")]
    #[schemars(with = "String")]
    pub provider_stale: Duration,
    /// Maximum age at which a provider is served when no source answers: from `provider` and `provider-stale`
    /// together to 24 hours.
    #[serde(with = "spine_types::period")]
    #[schemars(with = "String")]
    pub provider_max: Duration,
    /// Maximum age at which a provider is used without an answer for a write by ODS code, whose service root
    /// the consumer does not confirm.
    #[serde(with = "spine_types::period")]
    #[schemars(with = "String")]
    pub stale_writes_max: Duration,
    /// Maximum age at which a sender is served when no source answers; short, since a stale authorisation
    /// fails open.
    #[serde(with = "spine_types::period")]
    #[schemars(with = "String")]
    pub sender_max: Duration,
}

impl Default for Freshness {
    /// Spec: no standard sets these periods; the national adaptors use 15 minutes, and a related standard
    /// advises 12 hours at most.
    fn default() -> Self {
        Self {
            provider: Duration::from_secs(15 * 60),
            provider_stale: Duration::from_secs(45 * 60),
            provider_max: Duration::from_secs(12 * 60 * 60),
            stale_writes_max: Duration::from_secs(60 * 60),
            sender_max: Duration::from_secs(60 * 60),
        }
    }
}

impl Freshness {
    /// Limit: longest period that may be configured; one day.
    const MAX: Duration = Duration::from_secs(24 * 60 * 60);

    fn check(&self) -> Result<(), String> {
        for (key, lasts) in [
            ("provider", self.provider),
            ("provider-stale", self.provider_stale),
            ("stale-writes-max", self.stale_writes_max),
        ] {
            if lasts > Self::MAX {
                return Err(format!("directory.freshness.{key} must be at most 24h"));
            }
        }
        for (key, max) in [("provider-max", self.provider_max), ("sender-max", self.sender_max)] {
            if max < Duration::from_secs(1) || max > Self::MAX {
                return Err(format!("directory.freshness.{key} must be from 1s to 24h"));
            }
        }
        if self.provider_max < self.provider.saturating_add(self.provider_stale) {
            return Err("directory.freshness.provider-max is shorter than `provider` and \
                        `provider-stale` together"
                .to_owned());
        }
        Ok(())
    }
}

/// Deadlines for live sources.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct SourceDeadlines {
    /// Deadline for connecting to a source.
    #[serde(with = "spine_types::period")]
    #[schemars(with = "String")]
    pub connect: Duration,
    /// Deadline for one query; keep it below 3 s, after which the API may answer a failed search as empty.
    #[serde(with = "spine_types::period")]
    #[schemars(with = "String")]
    pub attempt: Duration,
    /// Deadline for a look-up that a request waits for.
    #[serde(with = "spine_types::period")]
    #[schemars(with = "String")]
    pub waiting: Duration,
    /// Deadline for a look-up that no request waits for.
    #[serde(with = "spine_types::period")]
    #[schemars(with = "String")]
    pub background: Duration,
    /// Time for which a source that fails is not queried: its circuit stays open.
    #[serde(with = "spine_types::period")]
    #[schemars(with = "String")]
    pub circuit_open: Duration,
    /// Error for a key of earlier versions.
    #[serde(rename = "spare", deserialize_with = "spare_is_renamed", skip_serializing)]
    #[schemars(skip)]
    pub _spare: (),
}

fn spare_is_renamed<'de, D: serde::Deserializer<'de>>(_: D) -> Result<(), D::Error> {
    Err(serde::de::Error::custom("this key has been renamed: write `circuit-open`"))
}

impl Default for SourceDeadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            attempt: Duration::from_millis(2500),
            waiting: Duration::from_secs(4),
            background: Duration::from_secs(10),
            circuit_open: Duration::from_secs(10),
            _spare: (),
        }
    }
}

impl SourceDeadlines {
    fn check(&self) -> Result<(), String> {
        for (key, lasts) in [
            ("connect", self.connect),
            ("attempt", self.attempt),
            ("waiting", self.waiting),
            ("background", self.background),
            ("circuit-open", self.circuit_open),
        ] {
            if lasts < Duration::from_millis(1) || lasts > Duration::from_secs(60 * 60) {
                return Err(format!("directory.deadlines.{key} must be from 1ms to 1h"));
            }
        }
        Ok(())
    }
}

impl DirectorySettings {
    /// Returns every path in these settings, to be made absolute.
    pub fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        let mut paths = vec![&mut self.file];
        paths.extend(&mut self.snapshot);
        if let Some(api) = &mut self.sds_api {
            paths.extend(&mut api.key_file);
            paths.extend(api.tls.paths_mut());
        }
        #[cfg(feature = "ldap")]
        if let Some(ldap) = &mut self.sds_ldap {
            paths.extend(ldap.tls.paths_mut());
        }
        paths
    }

    /// Returns true if a live source is configured.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        #[cfg(feature = "ldap")]
        return self.sds_api.is_some() || self.sds_ldap.is_some();
        #[cfg(not(feature = "ldap"))]
        self.sds_api.is_some()
    }

    /// Checks limits and relations between settings.
    ///
    /// # Errors
    /// Returns a text that names the first key with a value that is not allowed.
    pub fn check(&self) -> Result<(), String> {
        self.freshness.check()?;
        self.deadlines.check()?;
        if let Some(api) = &self.sds_api {
            api.tls.check("directory.sds-api.tls")?;
        }
        #[cfg(feature = "ldap")]
        if let Some(ldap) = &self.sds_ldap {
            ldap.tls.check("directory.sds-ldap.tls")?;
        }
        Ok(())
    }
}
