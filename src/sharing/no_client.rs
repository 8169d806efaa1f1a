//! Stand-in for the client of Redis in a build without the feature `redis`: a server cannot be configured.

use std::convert::Infallible;
use std::sync::Arc;

use rustls::ClientConfig;

use super::{RedisFault, RedisValue, SharedScript, SharingError};

/// Client of a Redis server, which cannot be made in this build.
#[derive(Debug)]
pub(super) struct RedisClient(Infallible);

/// Refuses every URL.
///
/// # Errors
/// Returns an error that names the feature which is missing.
pub(super) fn check(_: &str) -> Result<(), SharingError> {
    let why = "this program was built without the feature redis: remove the section, or build it with the feature";
    Err(SharingError::Setting("url", why.to_owned()))
}

impl RedisClient {
    pub(super) fn new(
        url: &str,
        _: Option<String>,
        _: Option<Arc<ClientConfig>>,
    ) -> Result<Self, SharingError> {
        check(url)?;
        Err(SharingError::Setting("url", String::new()))
    }

    #[expect(clippy::unused_async, reason = "the client of Redis waits")]
    pub(super) async fn run(
        &self,
        _: SharedScript,
        _: &[&str],
        _: &[&[u8]],
    ) -> Result<Vec<RedisValue>, RedisFault> {
        match self.0 {}
    }

    pub(super) fn disconnect(&self) {
        match self.0 {}
    }
}
