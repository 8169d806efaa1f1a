//! The live sources there are, each with what spares and paces it.
//!
//! A source joins nothing, remembers nothing and decides nothing.

use super::pacer::Pacer;
use super::sds_api::SdsApi;
#[cfg(feature = "ldap")]
use super::sds_ldap::SdsLdap;
use super::source::{
    AccreditedSystem, Handler, HandlersOf, Origin, QueryOptions, SourceFault, SystemsOf,
};
use crate::breaker::Breaker;

/// A live source, the breaker that spares it, and the pace at which it may be asked.
#[derive(Debug)]
pub(super) struct RateLimitedSource {
    pub(super) source: LiveSource,
    pub(super) breaker: Breaker,
    pub(super) pacer: Pacer,
}

/// The live sources there are.
#[derive(Debug)]
pub(super) enum LiveSource {
    /// The SDS FHIR API.
    Api(SdsApi),
    /// SDS itself.
    #[cfg(feature = "ldap")]
    Ldap(SdsLdap),
}

impl LiveSource {
    pub(super) const fn origin(&self) -> Origin {
        match self {
            Self::Api(_) => Origin::SdsApi,
            #[cfg(feature = "ldap")]
            Self::Ldap(_) => Origin::SdsLdap,
        }
    }

    /// Its URL: another one is another directory.
    pub(super) fn url(&self) -> &str {
        match self {
            Self::Api(api) => api.url(),
            #[cfg(feature = "ldap")]
            Self::Ldap(ldap) => ldap.url(),
        }
    }

    /// Whether an empty answer of this source may be a search that failed.
    pub(super) const fn may_be_falsely_empty(&self) -> bool {
        matches!(self, Self::Api(_))
    }

    /// Whether it can be asked for a system by its ASID.
    pub(super) const fn knows_asids(&self) -> bool {
        !matches!(self, Self::Api(_))
    }

    pub(super) async fn handlers(
        &self,
        asked: &HandlersOf<'_>,
        how: QueryOptions<'_>,
    ) -> Result<Vec<Handler>, SourceFault> {
        match self {
            Self::Api(api) => api.handlers(asked, how).await,
            #[cfg(feature = "ldap")]
            Self::Ldap(ldap) => ldap.handlers(asked, how).await,
        }
    }

    pub(super) async fn systems(
        &self,
        asked: &SystemsOf<'_>,
        how: QueryOptions<'_>,
    ) -> Result<Vec<AccreditedSystem>, SourceFault> {
        match self {
            Self::Api(api) => api.systems(asked, how).await,
            #[cfg(feature = "ldap")]
            Self::Ldap(ldap) => ldap.systems(asked, how).await,
        }
    }
}
