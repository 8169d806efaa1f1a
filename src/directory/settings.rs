//! The directory, as configured.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[cfg(feature = "ldap")]
use super::LdapSettings;
use super::shelf::Windows;
use super::{ApiSettings, Origin};

/// Who is registered, who is asked, and how long an answer is used.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DirectorySettings {
    /// The directory file: consumers, agreements, and what the sources cannot tell or must not
    /// decide.
    pub file: PathBuf,
    /// The SDS FHIR API.
    pub sds_api: Option<ApiSettings>,
    /// SDS over LDAP.
    #[cfg(feature = "ldap")]
    pub sds_ldap: Option<LdapSettings>,
    /// Which of the two is asked first.
    #[serde(default)]
    pub first: First,
    /// Where what is held is kept for the next start.
    pub snapshot: Option<PathBuf>,
    /// How long an answer is used.
    #[serde(default)]
    pub freshness: Freshness,
    /// How long a source is waited for.
    #[serde(default)]
    pub deadlines: SourceDeadlines,
    /// Look-ups a minute that one consumer may cause for what is not held, and as many at once; before a
    /// consumer is identified, one certificate.
    #[serde(default = "misses_per_minute")]
    pub misses_per_minute: NonZeroU32,
}

const fn misses_per_minute() -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(59)
}

/// The source that is asked first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum First {
    /// The SDS FHIR API.
    #[default]
    SdsApi,
    /// SDS over LDAP: fresher, and more often there, where HSCN is.
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

/// How long an answer of a source is used.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Freshness {
    /// A provider is served without asking again.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub provider: Duration,
    /// After that, a provider is served while it is asked for again.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub provider_stale: Duration,
    /// From its answer, a provider is served when no source answers.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub provider_max: Duration,
    /// The same for a write to a practice named by its ODS code, whose root no consumer confirms.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub stale_writes_max: Duration,
    /// A sender is served without asking again.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub sender: Duration,
    /// From its answer, a sender is served when no source answers; short, since a stale
    /// authorisation fails open.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub sender_max: Duration,
    /// An absence is believed; and a provider that has vanished is kept, before it must have
    /// vanished twice.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub absent: Duration,
    /// An absence that may be a failed search is believed.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub absent_unconfirmed: Duration,
    /// An ambiguous answer is served without asking again.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub ambiguous: Duration,
    /// Between two forced refreshes of one practice.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub forced: Duration,
    /// After a look-up that failed, before the next for the same thing.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub retry: Duration,
    /// A practice that was used this lately is asked for again before it grows stale.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub ahead: Duration,
    /// Practices held, and senders.
    pub practices_max: u64,
    /// Absences held.
    pub absent_max: u64,
}

impl Default for Freshness {
    /// Spec: none gives a number; 15 minutes is what the national adaptors use, and 12 hours what a
    /// neighbouring standard advises at most.
    fn default() -> Self {
        Self {
            provider: Duration::from_secs(15 * 60),
            provider_stale: Duration::from_secs(45 * 60),
            provider_max: Duration::from_secs(12 * 60 * 60),
            stale_writes_max: Duration::from_secs(60 * 60),
            sender: Duration::from_secs(5 * 60),
            sender_max: Duration::from_secs(60 * 60),
            absent: Duration::from_secs(60),
            absent_unconfirmed: Duration::from_secs(5),
            ambiguous: Duration::from_secs(30),
            forced: Duration::from_secs(30),
            retry: Duration::from_secs(1),
            ahead: Duration::from_secs(60 * 60),
            practices_max: 20_000,
            absent_max: 10_000,
        }
    }
}

impl Freshness {
    /// Limit: how long anything may be served without an answer; a day.
    const MAX: Duration = Duration::from_secs(24 * 60 * 60);

    pub(super) const fn provider_windows(&self) -> Windows {
        Windows { fresh: self.provider, stale: self.provider_stale, max: self.provider_max }
    }

    pub(super) const fn sender_windows(&self) -> Windows {
        Windows { fresh: self.sender, stale: Duration::ZERO, max: self.sender_max }
    }

    /// Whether an absence first seen then has lasted long enough to be believed of something held.
    pub(super) fn is_confirmed(&self, first_s: i64, now_s: i64) -> bool {
        u64::try_from(now_s - first_s).is_ok_and(|age_s| age_s >= self.absent.as_secs())
    }

    fn check(&self) -> Result<(), String> {
        for (key, lasts) in [
            ("provider", self.provider),
            ("provider-stale", self.provider_stale),
            ("stale-writes-max", self.stale_writes_max),
            ("sender", self.sender),
            ("absent", self.absent),
            ("absent-unconfirmed", self.absent_unconfirmed),
            ("ambiguous", self.ambiguous),
            ("forced", self.forced),
            ("retry", self.retry),
            ("ahead", self.ahead),
        ] {
            if lasts > Self::MAX {
                return Err(format!("directory.freshness.{key} may be 24h at most"));
            }
        }
        for (key, max, fresh) in [
            ("provider-max", self.provider_max, self.provider.saturating_add(self.provider_stale)),
            ("sender-max", self.sender_max, self.sender),
        ] {
            if max < Duration::from_secs(1) || max > Self::MAX {
                return Err(format!("directory.freshness.{key} may be 1s to 24h"));
            }
            if max < fresh {
                return Err(format!("directory.freshness.{key} ends before what comes before it"));
            }
        }
        Ok(())
    }
}

/// How long a source is waited for.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct SourceDeadlines {
    /// A connection to a source.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub connect: Duration,
    /// One question; below the three seconds after which the API answers falsely.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub attempt: Duration,
    /// A look-up that a request waits for.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub waiting: Duration,
    /// A look-up that nobody waits for.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub background: Duration,
    /// The circuit of a source that fails opens.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub spare: Duration,
}

impl Default for SourceDeadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            attempt: Duration::from_millis(2500),
            waiting: Duration::from_secs(4),
            background: Duration::from_secs(10),
            spare: Duration::from_secs(10),
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
            ("spare", self.spare),
        ] {
            if lasts < Duration::from_millis(1) || lasts > Duration::from_secs(60 * 60) {
                return Err(format!("directory.deadlines.{key} may be 1ms to 1h"));
            }
        }
        Ok(())
    }
}

impl DirectorySettings {
    /// Every file named, to be resolved.
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

    /// Whether there is anybody to ask besides the file.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        #[cfg(feature = "ldap")]
        return self.sds_api.is_some() || self.sds_ldap.is_some();
        #[cfg(not(feature = "ldap"))]
        self.sds_api.is_some()
    }

    /// What may not be had.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn check(&self) -> Result<(), String> {
        self.freshness.check()?;
        self.deadlines.check()?;
        let api = self.sds_api.iter().map(|api| ("sds-api", &api.tls));
        #[cfg(feature = "ldap")]
        let api = api.chain(self.sds_ldap.iter().map(|ldap| ("sds-ldap", &ldap.tls)));
        for (key, leg) in api {
            if leg.is_undecided() {
                return Err(format!(
                    "directory.{key}.tls.crl is an empty list; write crl = \"none\" to check no revocation"
                ));
            }
            if leg.authorities.is_empty() {
                return Err(format!(
                    "directory.{key}.tls.authorities is empty: no certificate could be verified"
                ));
            }
        }
        Ok(())
    }
}
