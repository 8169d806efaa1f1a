//! The directory: which system sends under an ASID, and where a practice's system is registered.
//!
//! Answers come from the directory file first, then from the cache, then from the live sources. The sources
//! only fetch records and join them into registrations, the cache decides how long an answer may be used,
//! and this module decides which request waits for which look-up.

use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use moka::sync::Cache;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::metrics::{LookupResult, Metrics};
use crate::refusal::Refusal;
use crate::registry::{Agreements, DirectoryFile, Origin, ProviderRegistration, Sender};
use crate::sharing::Sharing;
use spine_types::{Asid, OdsCode};

mod cache;
mod known;
mod lookups;
mod payer;
mod practice;
mod provider;
mod report;
mod sender;
mod settings;
mod shared_answers;
mod sources;

pub use cache::SnapshotError;
pub(crate) use cache::{ABSENCES_MAX, PRACTICES_MAX};
pub use payer::Payer;
pub use report::{
    DirectoryEntry, DirectoryPart, Explanation, FoundNow, RegistrationView, SourcesView,
};
pub use settings::{DirectorySettings, First, Freshness, SourceDeadlines};
#[cfg(feature = "ldap")]
pub use sources::LdapSettings;
#[cfg(feature = "lab")]
pub(crate) use sources::{AccreditedSystem, Handler, handlers, systems};
pub use sources::{ApiSettings, LiveError, LiveSources, LookupStep, LookupTrace};

use cache::{FreshnessRules, RegistrationCache};
use lookups::{LookupFault, LookupQuestion, Lookups};
use practice::FORCED_AGAIN;
use sources::{Certainty, SourceUrls};

/// Clock by which answers age: the system's, or one that a test moves.
#[derive(Clone)]
pub struct DirectoryClock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

/// Directory of consumers and providers; cheap to clone, shared by all workers.
#[derive(Clone)]
pub struct Directory {
    shared: Arc<DirectoryState>,
}

/// Parts of the process that a directory uses.
#[derive(Clone)]
pub struct DirectoryContext {
    /// Metrics in which look-ups and queries are counted.
    pub metrics: Arc<Metrics>,
    /// Runtime of the look-ups: a consumer that disconnects does not cancel a look-up that others wait for.
    pub tasks: Handle,
    /// Clock by which answers age.
    pub clock: DirectoryClock,
    /// State shared with other gateways.
    pub sharing: Sharing,
    /// True if live sources are not asked, only their cached answers used. Requests for others are refused as if
    /// no source answered.
    pub is_offline: bool,
}

struct DirectoryState {
    in_force: ArcSwap<SourcesInForce>,
    /// Notified when [`Directory::replace`] has put other sources in force.
    replaced: Notify,
    cache: RegistrationCache,
    lookups: Lookups,
    /// Practices with a forced look-up, and when it began; a failed one is removed.
    forced: Cache<OdsCode, Timestamp>,
    deadlines: SourceDeadlines,
    clock: DirectoryClock,
    sharing: Sharing,
    metrics: Arc<Metrics>,
}

/// Directory file and live sources in force; a reload replaces both at once.
#[derive(Debug, Clone)]
struct SourcesInForce {
    file: Arc<DirectoryFile>,
    /// `None` if no live source is configured.
    sources: Option<Arc<LiveSources>>,
    /// Number of times the URLs of the live sources have changed.
    number: u64,
}

/// State at the start of a look-up, to detect concurrent flushes and reloads.
#[derive(Debug, Clone, Copy)]
struct LookupStart {
    flushes: u64,
    /// Number of the sources that the look-up asks.
    number: u64,
}

/// Change of the directory while a look-up was under way.
enum ConcurrentChange {
    Nothing,
    /// A flush happened after the look-up began.
    Flushed,
    /// The sources' URLs changed after the look-up began.
    Replaced,
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let entries = self.cached_entries();
        out.debug_struct("Directory").field("cached_entries", &entries).finish_non_exhaustive()
    }
}

impl DirectoryClock {
    /// Returns the system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(Arc::new(Timestamp::now))
    }

    /// Returns a clock that reads its time from a function.
    #[must_use]
    pub fn from_fn(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl std::fmt::Debug for DirectoryClock {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_tuple("DirectoryClock").field(&self.now()).finish()
    }
}

impl DirectoryContext {
    /// Returns a context with these metrics, the current runtime and the system's clock, in which nothing is shared.
    ///
    /// # Panics
    /// Panics outside of a Tokio runtime.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let sharing = Sharing::new(Arc::clone(&metrics));
        Self {
            metrics,
            tasks: Handle::current(),
            clock: DirectoryClock::system(),
            sharing,
            is_offline: false,
        }
    }
}

impl Directory {
    /// Returns a directory with an empty cache.
    #[must_use]
    pub fn new(
        file: DirectoryFile,
        sources: LiveSources,
        settings: &DirectorySettings,
        context: DirectoryContext,
    ) -> Self {
        let DirectorySettings { freshness, deadlines, misses_per_minute, .. } = settings.clone();
        let DirectoryContext { metrics, tasks, clock, sharing, is_offline } = context;
        let in_force = SourcesInForce::new(Arc::new(file), sources, 0);
        let mut lookups = Lookups::new(tasks, clock.clone(), deadlines.waiting, misses_per_minute);
        lookups.is_offline = is_offline;
        Self {
            shared: Arc::new(DirectoryState {
                in_force: ArcSwap::from_pointee(in_force),
                replaced: Notify::new(),
                cache: RegistrationCache::new(freshness),
                lookups,
                forced: Cache::builder()
                    .max_capacity(PRACTICES_MAX)
                    .time_to_live(FORCED_AGAIN)
                    .build(),
                deadlines,
                clock,
                sharing,
                metrics,
            }),
        }
    }

    /// Puts a new directory file or new live sources in force; `None` keeps the current one.
    ///
    /// Cached entries stay, except those of a source that was removed or now has another URL, which
    /// counts as another directory.
    pub fn replace(&self, file: Option<DirectoryFile>, sources: Option<LiveSources>) {
        let shared = &self.shared;
        let before = shared.in_force.load_full();
        let file = file.map_or_else(|| Arc::clone(&before.file), Arc::new);
        let urls_before = before.urls();
        let after = match sources {
            Some(sources) => {
                let has_moved = sources.urls() != urls_before;
                SourcesInForce::new(file, sources, before.number + u64::from(has_moved))
            }
            None => SourcesInForce { file, ..SourcesInForce::clone(&before) },
        };
        let (urls, has_moved) = (after.urls(), after.number != before.number);
        shared.in_force.store(Arc::new(after));
        shared.replaced.notify_one();
        shared.cache.forget_absences();
        if has_moved {
            let is_kept = |origin| {
                urls.contains_key(&origin) && urls.get(&origin) == urls_before.get(&origin)
            };
            shared.cache.retain(is_kept);
        }
    }

    /// Returns the agreements in force.
    #[must_use]
    pub fn agreements(&self) -> Arc<Agreements> {
        Arc::clone(&self.shared.in_force.load().file.agreements)
    }

    /// Returns the sender registered under this ASID.
    ///
    /// # Errors
    /// Returns a refusal if the ASID is unknown or denied, if no source answers, or if the consumer's
    /// look-up budget is used up.
    pub async fn sender(&self, asid: &Asid, payer: Payer<'_>) -> Result<Arc<Sender>, Refusal> {
        let in_force = self.shared.in_force.load_full();
        let unknown = || Refusal::SenderUnknown(asid.clone());
        if in_force.file.denies(asid) {
            return Err(unknown());
        }
        let sender = match (in_force.file.sender(asid), &in_force.sources) {
            (Some(pinned), _) => {
                self.count(LookupResult::Pinned);
                Arc::clone(pinned)
            }
            (None, Some(sources)) if sources.knows_senders() => {
                self.live_sender(&in_force, sources, asid, payer).await?.ok_or_else(unknown)?
            }
            (None, _) => return Err(unknown()),
        };
        if in_force.file.denies_practice(&sender.ods) { Err(unknown()) } else { Ok(sender) }
    }

    /// Returns the directory file in force.
    #[must_use]
    pub fn file(&self) -> Arc<DirectoryFile> {
        Arc::clone(&self.shared.in_force.load().file)
    }

    /// Returns the state shared with other gateways.
    #[must_use]
    pub fn sharing(&self) -> &Sharing {
        &self.shared.sharing
    }

    /// Returns true if a live source is configured.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.shared.in_force.load().sources.is_some()
    }

    /// Returns the source of a registration and, for a live source, the answer's age in seconds.
    ///
    /// Returns `None` if the registration was replaced since it was looked up.
    #[must_use]
    pub fn origin(&self, provider: &Arc<ProviderRegistration>) -> Option<(Origin, Option<u64>)> {
        let in_force = self.shared.in_force.load();
        let file = &in_force.file;
        let mut listed = file.pins(&provider.ods).iter().chain(file.fallbacks(&provider.ods));
        if listed.any(|one| Arc::ptr_eq(one, provider)) {
            return Some((Origin::File, None));
        }
        let practice = self.shared.cache.practices.get(&provider.ods)?;
        let row = practice.rows.iter().find(|row| row.provider == *provider)?;
        let age_s = self.shared.now_s().saturating_sub(row.stamp.answered_s);
        Some((row.stamp.origin, Some(u64::try_from(age_s).unwrap_or_default())))
    }

    /// Returns the number of cached practices, senders and absences.
    #[must_use]
    pub fn cached_entries(&self) -> u64 {
        self.shared.cache.entries()
    }

    /// Marks the cached entries of one practice, or all, to be refreshed before use; returns their number.
    ///
    /// Entries stay usable for when no source answers.
    #[must_use]
    pub fn flush(&self, ods: Option<&OdsCode>) -> usize {
        match ods {
            Some(ods) => self.shared.forced.invalidate(ods),
            None => self.shared.forced.invalidate_all(),
        }
        self.shared.cache.flush(ods, self.shared.now_s())
    }

    /// Removes unused look-up budgets.
    pub fn tidy(&self) {
        self.shared.lookups.tidy();
    }

    fn count(&self, result: LookupResult) {
        self.shared.metrics.directory.looked_up(result);
    }
}

impl SourcesInForce {
    fn new(file: Arc<DirectoryFile>, sources: LiveSources, number: u64) -> Self {
        let sources = (!sources.is_empty()).then(|| Arc::new(sources));
        Self { file, sources, number }
    }

    /// Returns the URL of each live source.
    fn urls(&self) -> SourceUrls {
        self.sources.as_ref().map(|sources| sources.urls()).unwrap_or_default()
    }

    fn knows_senders(&self) -> bool {
        self.sources.as_ref().is_some_and(|sources| sources.knows_senders())
    }

    /// Returns true if the directory can be searched by ASID.
    ///
    /// The file and SDS over LDAP can; the SDS FHIR API as the only live source cannot.
    fn can_be_searched(&self) -> bool {
        self.sources.is_none() || self.knows_senders()
    }

    /// Returns the refusal for a receiver that was not found: `ReceiverUnknown` only if the directory can
    /// be searched by ASID.
    fn lacks_receiver(&self) -> Refusal {
        match self.can_be_searched() {
            true => Refusal::ReceiverUnknown,
            false => Refusal::ReceiverNotFound,
        }
    }
}

impl DirectoryState {
    /// Returns the wall-clock time in seconds since 1970: answers outlive this process in the snapshot.
    fn now_s(&self) -> i64 {
        self.clock.now().as_second()
    }

    fn rules(&self) -> FreshnessRules<'_> {
        self.cache.rules(self.now_s())
    }

    /// Returns true if the practice had a forced look-up less than [`FORCED_AGAIN`] ago.
    fn was_forced_lately(&self, ods: &OdsCode) -> bool {
        let age = |at: Timestamp| self.clock.now().duration_since(at).unsigned_abs();
        self.forced.get(ods).is_some_and(|at| age(at) < FORCED_AGAIN)
    }

    /// Returns the state at the start of a look-up at these sources.
    fn start(&self, in_force: &SourcesInForce) -> LookupStart {
        LookupStart { flushes: self.cache.flushes(), number: in_force.number }
    }

    /// Caches an absence; removes it again if a flush or a change of sources happened meanwhile.
    ///
    /// # Errors
    /// Returns [`LookupFault::NoAnswer`] if the sources' URLs changed: that was another directory.
    fn store_absence(
        &self,
        question: &LookupQuestion,
        certainty: Certainty,
        start: &LookupStart,
    ) -> Result<(), LookupFault> {
        self.cache.insert_absence(question.clone(), certainty, self.now_s());
        match self.change_since(start) {
            ConcurrentChange::Nothing => Ok(()),
            ConcurrentChange::Flushed => {
                self.cache.remove_absence(question);
                Ok(())
            }
            ConcurrentChange::Replaced => {
                self.cache.remove_absence(question);
                Err(LookupFault::NoAnswer)
            }
        }
    }

    /// Detects a flush or change of sources that raced with a look-up. Call it after caching the result:
    /// writers count first and scan the cache then, so that at least one side sees the other.
    fn change_since(&self, start: &LookupStart) -> ConcurrentChange {
        if self.in_force.load().number != start.number {
            return ConcurrentChange::Replaced;
        }
        match self.cache.flushes() == start.flushes {
            true => ConcurrentChange::Nothing,
            false => ConcurrentChange::Flushed,
        }
    }
}
