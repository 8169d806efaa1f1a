//! Settings for quotas that several gateways share, through Redis.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::shared;
use crate::tls::{TrustError, secret};

/// Redis server through which quotas are shared.
#[derive(
    Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SharingSettings {
    /// URL of the server, as in `redis://host:port/database`. ASIDs and counts are sent to it unencrypted.
    #[serde(serialize_with = "without_password")]
    pub url: String,
    /// File that holds the password, if one is needed, and nothing else.
    pub password_file: Option<PathBuf>,
    /// Time for which an answer is waited for.
    #[serde(default = "wait", with = "spine_types::period")]
    #[schemars(with = "String")]
    pub wait: Duration,
}

/// Serializes a URL without user and password.
fn without_password<S: serde::Serializer>(url: &str, to: S) -> Result<S::Ok, S::Error> {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => to.collect_str(&format_args!("{scheme}://{host}")),
        _ => to.serialize_str(url),
    }
}

const fn wait() -> Duration {
    Duration::from_millis(50)
}

/// Error returned when shared quotas cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SharingError {
    /// The URL cannot be used.
    #[error("throttle.shared: {0}")]
    Address(String),
    /// The password cannot be read.
    #[error(transparent)]
    Password(#[from] TrustError),
}

impl SharingError {
    /// Returns the file at fault, if it is a file.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Address(_) => None,
            Self::Password(error) => Some(error.path()),
        }
    }
}

impl SharingSettings {
    /// Checks the server's URL.
    ///
    /// # Errors
    /// Returns an error if it cannot be used.
    pub fn check(&self) -> Result<(), SharingError> {
        if !self.url.starts_with("redis://") {
            return Err(SharingError::Address("the URL must begin with redis://".to_owned()));
        }
        shared::check(&self.url)
    }

    /// Reads the password, if one is needed.
    ///
    /// # Errors
    /// Returns an error if its file cannot be read, or is empty.
    pub fn password(&self) -> Result<Option<String>, SharingError> {
        Ok(self.password_file.as_deref().map(secret).transpose()?)
    }
}
