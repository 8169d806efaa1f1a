//! Live sources, each with its circuit breaker and rate limit.
//!
//! A source only sends queries and parses answers: it joins no records, caches nothing and decides nothing.

use super::pacer::Pacer;
use super::sds_api::SdsApi;
#[cfg(feature = "ldap")]
use super::sds_ldap::SdsLdap;
use super::source::{AccreditedSystem, Handler, HandlersOf, QueryOptions, SourceFault, SystemsOf};
use crate::breaker::Breaker;

/// Live source with its circuit breaker and rate limit.
#[derive(Debug)]
pub(super) struct RateLimitedSource {
    pub(super) source: LiveSource,
    pub(super) breaker: Breaker,
    pub(super) pacer: Pacer,
}

/// Client of one kind of live source.
#[derive(Debug)]
pub(super) enum LiveSource {
    /// Client of the SDS FHIR API.
    Api(SdsApi),
    /// Client of SDS over LDAP.
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

    /// Returns the source's URL; another URL counts as another directory.
    pub(super) fn url(&self) -> &str {
        match self {
            Self::Api(api) => api.url(),
            #[cfg(feature = "ldap")]
            Self::Ldap(ldap) => ldap.url(),
        }
    }

    /// Returns true if an empty answer of this source may be a failed search.
    pub(super) const fn may_be_falsely_empty(&self) -> bool {
        matches!(self, Self::Api(_))
    }

    /// Returns true if the source can be searched for a system by ASID.
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
use crate::registry::Origin;
