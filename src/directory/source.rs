//! What a live source is asked and what it answers: one query, typed rows, strict errors.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;
use uuid::Uuid;

use super::asker::LookupAccount;
use crate::breaker::AttemptResult;
use crate::interaction::Interaction;
use crate::spine::{Asid, CertificateName, CpaId, OdsCode, PartyKey};

/// Where something is known from, as records and people see it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The directory file.
    File,
    /// The SDS FHIR API.
    SdsApi,
    /// SDS over LDAP.
    SdsLdap,
}

impl Origin {
    /// The name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::SdsApi => "sds-api",
            Self::SdsLdap => "sds-ldap",
        }
    }
}

/// A question about message handlers (`nhsMhs`): at least two of its parts are set.
#[derive(Debug, Clone)]
pub(super) struct HandlersOf<'a> {
    pub(super) ods: Option<&'a OdsCode>,
    pub(super) interaction: Option<&'static Interaction>,
    pub(super) party_key: Option<&'a PartyKey>,
}

/// A question about accredited systems (`nhsAs`).
#[derive(Debug, Clone)]
pub(super) enum SystemsOf<'a> {
    /// Those of a practice that may use this interaction under this party key.
    Practice { ods: &'a OdsCode, interaction: &'static Interaction, party_key: &'a PartyKey },
    /// The one with this ASID; the FHIR API cannot be asked so.
    Asid(&'a Asid),
}

/// How a question is put.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueryOptions<'a> {
    /// When its answer is no longer waited for.
    pub(super) deadline: Instant,
    /// Whether caches on the way are to be passed by.
    pub(super) anew: bool,
    /// Who waits for the look-up.
    pub(super) haste: &'a Arc<SharedPriority>,
    /// Which part of the look-up it is.
    pub(super) part: LookupPart,
    /// Tells the questions of one look-up from others, here and in the source's logs.
    pub(super) id: Uuid,
}

/// Which part of a look-up a question is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LookupPart {
    First,
    /// Half of the answer is known.
    Second,
    /// The answer is known; this fills what is likely to be asked next.
    Rest,
}

/// Limit: number of accounts that one look-up is made on; those who come later wait for it all the same.
const ACCOUNTS_MAX: usize = 8;

/// Who waits for a look-up. It can become more urgent while it is under way.
#[derive(Debug)]
pub(super) struct SharedPriority(Mutex<Waiters>);

#[derive(Debug, Default)]
struct Waiters {
    /// Accounts of the requests that wait.
    accounts: Vec<LookupAccount>,
    /// True if the look-up refreshes an entry that is no longer fresh.
    is_behind: bool,
}

/// Who wants a look-up.
#[derive(Debug, Clone)]
pub(super) enum LookupPurpose {
    /// A request on this account waits.
    Now(LookupAccount),
    /// What is held is no longer fresh.
    Behind,
    /// What is held will not be fresh for long.
    Ahead,
}

impl SharedPriority {
    pub(super) fn new(wanted: &LookupPurpose) -> Self {
        let haste = Self(Mutex::default());
        haste.raise(wanted);
        haste
    }

    /// Somebody else wants it too.
    pub(super) fn raise(&self, wanted: &LookupPurpose) {
        let mut waiters = self.lock();
        match wanted {
            LookupPurpose::Now(account) => {
                if waiters.accounts.len() < ACCOUNTS_MAX && !waiters.accounts.contains(account) {
                    waiters.accounts.push(Arc::clone(account));
                }
            }
            LookupPurpose::Behind => waiters.is_behind = true,
            LookupPurpose::Ahead => {}
        }
    }

    /// Whoever wanted it has what they wanted.
    pub(super) fn rest(&self) {
        *self.lock() = Waiters { accounts: Vec::new(), is_behind: true };
    }

    /// Returns the urgency of a question of this look-up, by who waits for it now.
    pub(super) fn urgency(&self, part: LookupPart) -> Urgency {
        let waiters = self.lock();
        match (part, waiters.accounts.is_empty()) {
            (LookupPart::First | LookupPart::Rest, false) => Urgency::Waiting,
            (LookupPart::First, true) if waiters.is_behind => Urgency::Refresh,
            (LookupPart::First, true) => Urgency::Ahead,
            (LookupPart::Second, false) => Urgency::Begun,
            (LookupPart::Second | LookupPart::Rest, true) => Urgency::Finishing,
        }
    }

    /// Returns the account whose turn comes first, by the turns that each has had last; none if no
    /// request waits.
    pub(super) fn first_account(
        &self,
        last_turn: impl Fn(&LookupAccount) -> u64,
    ) -> Option<LookupAccount> {
        self.lock().accounts.iter().min_by_key(|account| last_turn(account)).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Waiters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueryOptions<'_> {
    /// Until when one question may take, and what it means if it takes longer: the source is slow
    /// only if it was given the whole of an attempt.
    pub(super) fn limit(&self, attempt: Duration) -> (Instant, SourceFault) {
        let whole = Instant::now() + attempt;
        match whole <= self.deadline {
            true => (whole, SourceFault::TimedOut),
            false => (self.deadline, SourceFault::Paced),
        }
    }
}

/// Who goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// A request waits, and half of its answer is known: what is begun is finished first, or under
    /// load nobody would be answered.
    Begun,
    /// A request waits.
    Waiting,
    /// What nobody waits for, and is begun.
    Finishing,
    /// What is held is no longer fresh.
    Refresh,
    /// What is held will not be fresh for long.
    Ahead,
}

/// One `nhsMhs` record as far as it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handler {
    pub(crate) ods: Option<OdsCode>,
    pub(crate) party_key: PartyKey,
    /// Nothing if the catalogue does not have it.
    pub(crate) interaction: Option<&'static Interaction>,
    /// As registered; nothing if there is none.
    pub(crate) address: Option<String>,
    pub(crate) cpa_id: Option<CpaId>,
    pub(crate) fqdn: Option<CertificateName>,
}

/// One `nhsAs` record as far as it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AccreditedSystem {
    pub(crate) asid: Asid,
    /// Nothing if the source does not say.
    pub(crate) ods: Option<OdsCode>,
    pub(crate) party_key: PartyKey,
    /// Those the catalogue has.
    pub(crate) interactions: Vec<&'static Interaction>,
}

/// Why a source gave no answer. None of these is an absence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SourceFault {
    #[error("no answer in time")]
    TimedOut,
    #[error("not available: {0}")]
    Unavailable(String),
    #[error("it has been asked too much")]
    RateLimited(Option<Duration>),
    #[error("our own pace left no turn in time")]
    Paced,
    #[error("it does not accept our credentials: {0}")]
    Denied(String),
    #[error("it does not accept the question: {0}")]
    OurFault(String),
    #[error("the answer cannot be read: {0}")]
    Malformed(String),
    #[error("the answer is not complete")]
    Truncated,
    #[error("it cannot be asked that")]
    Unsupported,
    #[error("its circuit is open after failures")]
    CircuitOpen,
    #[error("nothing was found, and that may be a search that failed")]
    Doubtful,
    #[error("the budget for look-ups is used up")]
    Unpaid,
    #[error("its URL has been changed")]
    Replaced,
}

impl SourceFault {
    /// The label in metrics.
    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::TimedOut => "timeout",
            Self::Unavailable(_) => "unavailable",
            Self::RateLimited(_) => "rate_limited",
            Self::Paced => "paced",
            Self::Denied(_) => "denied",
            Self::OurFault(_) => "our_fault",
            Self::Malformed(_) => "malformed",
            Self::Truncated => "truncated",
            Self::Unsupported => "unsupported",
            Self::CircuitOpen => "circuit_open",
            Self::Doubtful => "doubtful",
            Self::Unpaid => "unpaid",
            Self::Replaced => "replaced",
        }
    }

    /// What it says of the source. Our own mistakes and limits, and a record that cannot be read, say
    /// nothing.
    pub(super) fn verdict(&self) -> AttemptResult {
        match self {
            Self::TimedOut | Self::Unavailable(_) => AttemptResult::Failed(None),
            Self::Denied(_) => AttemptResult::Spare(DENIED),
            Self::RateLimited(after) => {
                AttemptResult::Spare(after.unwrap_or(Duration::from_secs(1)))
            }
            Self::OurFault(_)
            | Self::Paced
            | Self::Unsupported
            | Self::CircuitOpen
            | Self::Doubtful
            | Self::Unpaid
            | Self::Replaced
            | Self::Malformed(_)
            | Self::Truncated => AttemptResult::Moot,
        }
    }
}

/// A source that does not accept our credentials is not asked again so soon.
const DENIED: Duration = Duration::from_secs(60);

impl HandlersOf<'_> {
    /// Security: a source, or a cache before it, may answer another question than was put. A record
    /// that does not fit is no answer.
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

/// Limit: how long a kept connection may be silent before its other end is asked whether it is there.
const SILENT: Duration = Duration::from_secs(30);

/// Has the kernel end a connection whose other end has gone without a word: a firewall that forgets
/// it would cost the next question its whole time.
pub(super) fn watch_over(stream: &TcpStream, unacknowledged: Duration) {
    let socket = socket2::SockRef::from(stream);
    let probes = socket2::TcpKeepalive::new().with_time(SILENT).with_interval(SILENT / 6);
    let watched = socket
        .set_tcp_keepalive(&probes)
        .and_then(|()| socket.set_tcp_user_timeout(Some(unacknowledged)));
    if let Err(error) = watched {
        tracing::debug!(%error, "a connection to a directory source is not watched over");
    }
}

/// Spec: the directory compares party keys without regard to case.
fn same_key(one: &PartyKey, other: &PartyKey) -> bool {
    one.as_str().eq_ignore_ascii_case(other.as_str())
}
