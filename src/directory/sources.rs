//! Live sources of the directory: the SDS FHIR API and SDS over LDAP.
//!
//! A client only sends queries and parses answers. The queue of its source limits their rate, and the
//! resolver joins records into registrations. Nothing is cached here.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::settings::DirectorySettings;
use crate::breaker::{Breaker, BreakerSettings};
use crate::registry::Origin;
use crate::tls::{LegUse, Loader, TrustError, secret};

mod query;
mod query_rate;
mod queue;
mod resolver;
mod sds_api;
#[cfg(feature = "ldap")]
mod sds_ldap;
mod trace;

pub(super) use query::SourceFault;
pub(crate) use query::{AccreditedSystem, Handler};
pub(super) use queue::LookupWaiters;
pub(super) use resolver::{Certainty, DirectoryAnswer, FoundRegistrations};
pub use sds_api::ApiSettings;
#[cfg(feature = "lab")]
pub(crate) use sds_api::{handlers, systems};
#[cfg(feature = "ldap")]
pub use sds_ldap::LdapSettings;
pub use trace::{LookupStep, LookupTrace};

use query::{HandlersOf, QueryOptions, SystemsOf};
#[cfg(test)]
pub(super) use query_rate::AT_ONCE;
use query_rate::QueryRate;
#[cfg(test)]
pub(super) use queue::ANSWER_EXPECTED;
use queue::SourceQueue;
use sds_api::SdsApi;
#[cfg(feature = "ldap")]
use sds_ldap::SdsLdap;

/// Limit: number of queries to the FHIR API under way, each on its own connection.
const API_UNDER_WAY_MAX: usize = 8;
/// Limit: number of searches under way on the one connection to an LDAP server.
#[cfg(feature = "ldap")]
const LDAP_UNDER_WAY_MAX: usize = 32;

/// Live sources in the order in which they are asked; no connection is opened until the first query.
#[derive(Debug, Default)]
pub struct LiveSources {
    sources: Vec<LiveSource>,
}

/// URL of each live source.
pub(super) type SourceUrls = BTreeMap<Origin, String>;

/// Live source: its client, circuit breaker and queue.
#[derive(Debug)]
struct LiveSource {
    client: SourceClient,
    breaker: Breaker,
    queue: SourceQueue,
}

/// Client of one kind of live source.
#[derive(Debug)]
enum SourceClient {
    /// Client of the SDS FHIR API.
    Api(SdsApi),
    /// Client of SDS over LDAP.
    #[cfg(feature = "ldap")]
    Ldap(SdsLdap),
}

/// Error returned when a live source cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// A certificate, key or secret file cannot be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A setting under `directory` cannot be used: its key and the reason.
    #[error("directory.{0}: {1}")]
    Setting(&'static str, String),
}

impl LiveError {
    /// Returns the file at fault, if there is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Trust(error) => Some(error.path()),
            Self::Setting(..) => None,
        }
    }
}

impl LiveSources {
    /// Sets up the configured sources and loads their certificates and keys.
    ///
    /// # Errors
    /// Returns an error for the first file or setting that cannot be used.
    pub fn load(settings: &DirectorySettings, loader: &mut Loader) -> Result<Self, LiveError> {
        let deadlines = &settings.deadlines;
        let source = |client, queue| LiveSource {
            client,
            breaker: Breaker::new(breaker_settings(deadlines.circuit_open)),
            queue,
        };
        let mut sources = Vec::new();
        if let Some(api) = &settings.sds_api {
            let tls = api.tls.config("directory.sds-api", LegUse::DIRECTORY, loader)?;
            let key = api.key_file.as_deref().map(secret).transpose()?;
            let rate = QueryRate::new(api.per_second, &api.url);
            let queue = SourceQueue::new(Some(rate), API_UNDER_WAY_MAX);
            let api = SdsApi::new(api, key.as_deref(), tls, deadlines)
                .map_err(|why| LiveError::Setting("sds-api", why))?;
            sources.push(source(SourceClient::Api(api), queue));
        }
        #[cfg(feature = "ldap")]
        if let Some(ldap) = &settings.sds_ldap {
            let tls = ldap.tls.config("directory.sds-ldap", LegUse::DIRECTORY, loader)?;
            let ldap = SdsLdap::new(ldap, tls, deadlines)
                .map_err(|why| LiveError::Setting("sds-ldap", why))?;
            let queue = SourceQueue::new(None, LDAP_UNDER_WAY_MAX);
            sources.push(source(SourceClient::Ldap(ldap), queue));
        }
        sources.sort_by_key(|source| source.origin() != settings.first.origin());
        Ok(Self { sources })
    }

    /// Returns the sources in the order in which they are asked, as text for operators.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = self.labels().collect::<Vec<_>>().join(", then ");
        if !self.is_empty() && !self.knows_senders() {
            text.push_str(" (cannot identify consumers: all consumers come from the file)");
        }
        text
    }

    /// Returns the name of each source, in the order in which they are asked.
    pub fn labels(&self) -> impl Iterator<Item = &'static str> {
        self.sources.iter().map(|source| source.origin().label())
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Returns true if a source can look up senders.
    pub(super) fn knows_senders(&self) -> bool {
        self.sources.iter().any(LiveSource::knows_asids)
    }

    /// Returns the URL of each source; another URL counts as another directory.
    pub(super) fn urls(&self) -> SourceUrls {
        let url = |source: &LiveSource| (source.origin(), source.client.url().to_owned());
        self.sources.iter().map(url).collect()
    }

    /// Returns each source, and true if its circuit is open.
    pub(super) fn circuits(&self) -> impl Iterator<Item = (Origin, bool)> {
        self.sources.iter().map(|source| (source.origin(), source.breaker.is_open()))
    }
}

impl LiveSource {
    const fn origin(&self) -> Origin {
        match &self.client {
            SourceClient::Api(_) => Origin::SdsApi,
            #[cfg(feature = "ldap")]
            SourceClient::Ldap(_) => Origin::SdsLdap,
        }
    }

    /// Returns true if an empty answer of this source may be a failed search.
    const fn may_be_falsely_empty(&self) -> bool {
        matches!(self.client, SourceClient::Api(_))
    }

    /// Returns true if the source can be searched for a system by ASID.
    const fn knows_asids(&self) -> bool {
        !matches!(self.client, SourceClient::Api(_))
    }
}

impl SourceClient {
    fn url(&self) -> &str {
        match self {
            Self::Api(api) => api.url(),
            #[cfg(feature = "ldap")]
            Self::Ldap(ldap) => ldap.url(),
        }
    }

    async fn handlers(
        &self,
        asked: &HandlersOf<'_>,
        options: QueryOptions,
    ) -> Result<Vec<Handler>, SourceFault> {
        match self {
            Self::Api(api) => api.handlers(asked, options).await,
            #[cfg(feature = "ldap")]
            Self::Ldap(ldap) => ldap.handlers(asked, options).await,
        }
    }

    async fn systems(
        &self,
        asked: &SystemsOf<'_>,
        options: QueryOptions,
    ) -> Result<Vec<AccreditedSystem>, SourceFault> {
        match self {
            Self::Api(api) => api.systems(asked, options).await,
            #[cfg(feature = "ldap")]
            Self::Ldap(ldap) => ldap.systems(asked, options).await,
        }
    }
}

/// Returns the conditions under which the circuit of a source opens.
const fn breaker_settings(open_for: Duration) -> BreakerSettings {
    BreakerSettings { in_a_row: 5, percent: 50, open_for }
}
