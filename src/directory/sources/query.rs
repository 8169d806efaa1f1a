//! Queries to live sources, the records they return, and their faults.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;
use uuid::Uuid;

use crate::breaker::AttemptResult;
use crate::metrics::QueryOutcome;
use spine_types::interaction::Interaction;
use spine_types::{Asid, CertificateName, CpaId, OdsCode, PartyKey};

/// Query for message handlers (`nhsMhs`); at least one of its parts is set.
#[derive(Debug, Clone)]
pub(super) struct HandlersOf<'a> {
    pub(super) ods: Option<&'a OdsCode>,
    pub(super) interaction: Option<&'static Interaction>,
    pub(super) party_key: Option<&'a PartyKey>,
}

/// Query for accredited systems (`nhsAs`).
#[derive(Debug, Clone)]
pub(super) enum SystemsOf<'a> {
    /// Systems of a practice with this interaction and party key.
    Practice { ods: &'a OdsCode, interaction: &'static Interaction, party_key: &'a PartyKey },
    /// System with this ASID; the FHIR API does not support this query.
    Asid(&'a Asid),
}

/// Deadline and cache use of a query.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueryOptions {
    /// Time at which the answer is given up.
    pub(super) deadline: Instant,
    /// True to bypass HTTP caches on the way.
    pub(super) past_caches: bool,
    /// Correlation id of the look-up, in our logs and the source's.
    pub(super) id: Uuid,
}

impl QueryOptions {
    /// Returns the time limit of one query, and the fault if it is exceeded.
    ///
    /// The source counts as slow ([`SourceFault::TimedOut`]) only if it was given a whole attempt.
    pub(super) fn limit(&self, attempt: Duration) -> (Instant, SourceFault) {
        let whole = Instant::now() + attempt;
        match whole <= self.deadline {
            true => (whole, SourceFault::TimedOut),
            false => (self.deadline, SourceFault::NoTurn),
        }
    }
}

/// Message handler: the used fields of one `nhsMhs` record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handler {
    pub(crate) ods: Option<OdsCode>,
    pub(crate) party_key: PartyKey,
    /// `None` if the catalogue does not have it.
    pub(crate) interaction: Option<&'static Interaction>,
    /// Address as registered, unchecked; `None` if there is none.
    pub(crate) address: Option<String>,
    pub(crate) cpa_id: Option<CpaId>,
    pub(crate) fqdn: Option<CertificateName>,
}

/// Accredited system: the used fields of one `nhsAs` record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AccreditedSystem {
    pub(crate) asid: Asid,
    /// `None` if the source does not return it.
    pub(crate) ods: Option<OdsCode>,
    pub(crate) party_key: PartyKey,
    /// Registered interactions that the catalogue has.
    pub(crate) interactions: Vec<&'static Interaction>,
}

/// Reason why a source gave no usable answer; none of these means that nothing is registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SourceFault {
    #[error("no answer in time")]
    TimedOut,
    #[error("not available: {0}")]
    Unavailable(String),
    #[error("the source's rate limit was reached")]
    RateLimited(Option<Duration>),
    #[error("the look-up's deadline left too little time for this query")]
    NoTurn,
    #[error("the source does not accept our credentials: {0}")]
    Denied(String),
    #[error("the source rejected the query: {0}")]
    OurFault(String),
    #[error("the answer cannot be read: {0}")]
    Malformed(String),
    #[error("the answer is incomplete or too large")]
    Truncated,
    #[error("the source does not support this query")]
    Unsupported,
    #[error("the source's circuit is open after failures")]
    CircuitOpen,
}

impl SourceFault {
    /// Returns the outcome that is counted.
    pub(super) const fn outcome(&self) -> QueryOutcome {
        match self {
            Self::TimedOut => QueryOutcome::TimedOut,
            Self::Unavailable(_) => QueryOutcome::Unavailable,
            Self::RateLimited(_) => QueryOutcome::RateLimited,
            Self::NoTurn => QueryOutcome::NoTurn,
            Self::Denied(_) => QueryOutcome::Denied,
            Self::OurFault(_) => QueryOutcome::OurFault,
            Self::Malformed(_) => QueryOutcome::Malformed,
            Self::Truncated => QueryOutcome::Truncated,
            Self::Unsupported => QueryOutcome::Unsupported,
            Self::CircuitOpen => QueryOutcome::CircuitOpen,
        }
    }

    /// Returns the result for the source's circuit breaker.
    ///
    /// Our own mistakes and limits, and records that cannot be read, count neither for nor against it.
    pub(super) fn verdict(&self) -> AttemptResult {
        match self {
            Self::TimedOut | Self::Unavailable(_) => AttemptResult::Failed(None),
            Self::Denied(_) => AttemptResult::OpenFor(DENIED),
            Self::RateLimited(after) => {
                AttemptResult::OpenFor(after.unwrap_or(Duration::from_secs(1)))
            }
            Self::OurFault(_)
            | Self::NoTurn
            | Self::Unsupported
            | Self::CircuitOpen
            | Self::Malformed(_)
            | Self::Truncated => AttemptResult::Inconclusive,
        }
    }
}

/// Time for which a source that rejects our credentials is not queried again.
const DENIED: Duration = Duration::from_secs(60);

impl HandlersOf<'_> {
    /// Returns true if a record matches the query.
    ///
    /// Security: a source, or a cache before it, may answer another query; such records are not used.
    pub(super) fn fits(&self, handler: &Handler) -> bool {
        let ods = match (self.ods, &handler.ods) {
            (Some(asked), Some(answered)) => asked == answered,
            _ => true,
        };
        let key = self.party_key.is_none_or(|asked| same_key(asked, &handler.party_key));
        let interaction = self.interaction.is_none_or(|asked| {
            handler.interaction.is_some_and(|answered| answered.id == asked.id)
        });
        ods && key && interaction
    }
}

impl SystemsOf<'_> {
    /// Returns true if a record matches the query, like [`HandlersOf::fits`].
    pub(super) fn fits(&self, system: &AccreditedSystem) -> bool {
        match self {
            Self::Asid(asid) => system.asid == **asid,
            Self::Practice { ods, interaction, party_key } => {
                system.ods.as_ref().is_none_or(|answered| answered == *ods)
                    && same_key(party_key, &system.party_key)
                    && system.interactions.iter().any(|held| held.id == interaction.id)
            }
        }
    }
}

/// Limit: idle time of a kept connection before TCP keepalive probes are sent.
const SILENT: Duration = Duration::from_secs(30);

/// Sets TCP keepalive and user timeout, so that the kernel closes a dead connection.
///
/// Without them a connection that a firewall dropped silently would use up the next query's whole time.
pub(super) fn watch_over(stream: &TcpStream, unacknowledged: Duration) {
    let socket = socket2::SockRef::from(stream);
    let probes = socket2::TcpKeepalive::new().with_time(SILENT).with_interval(SILENT / 6);
    let watched = socket
        .set_tcp_keepalive(&probes)
        .and_then(|()| socket.set_tcp_user_timeout(Some(unacknowledged)));
    if let Err(error) = watched {
        tracing::debug!(
            %error,
            "TCP keepalive could not be set on a connection to a directory source; if it dies, the next \
             query may time out"
        );
    }
}

/// Compares party keys. Spec: the directory ignores their case.
fn same_key(one: &PartyKey, other: &PartyKey) -> bool {
    one.as_str().eq_ignore_ascii_case(other.as_str())
}
