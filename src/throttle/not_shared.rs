//! Stand-in for shared quotas in a build without the feature `redis`: they cannot be configured.

use std::convert::Infallible;

use super::quota::ConsumerQuota;
use super::sharing::{SharingError, SharingSettings};
use crate::metrics::Metrics;
use crate::refusal::{QuotaLeft, Refusal};
use spine_types::Asid;

/// Client for shared quotas, which cannot be made in this build.
#[derive(Debug)]
pub(super) struct SharedQuotas(Infallible);

/// Refuses every URL.
///
/// # Errors
/// Returns an error that names the feature which is missing.
pub(super) fn check(_: &str) -> Result<(), SharingError> {
    Err(built_without())
}

fn built_without() -> SharingError {
    let why = "this program was built without the feature redis: remove the section, or build it with the feature";
    SharingError::Address(why.to_owned())
}

impl SharedQuotas {
    pub(super) fn new(_: &SharingSettings) -> Result<Self, SharingError> {
        Err(built_without())
    }

    #[expect(clippy::unused_async, reason = "the client for Redis waits")]
    pub(super) async fn take(
        &self,
        _: &Asid,
        _: &ConsumerQuota,
        _: &Metrics,
    ) -> Option<Result<QuotaLeft, Refusal>> {
        match self.0 {}
    }
}
