//! The directory: which system sends under an ASID, and where a practice's system is registered.
//!
//! Answers come from the directory file first, then from the cache, then from the live sources. Sources
//! only fetch records: `rules` turns records into registrations, the cache module decides how long an
//! answer may be used, and this module decides which request waits for which look-up.

use std::num::NonZeroU32;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use moka::sync::Cache;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::metrics::{Conflict, ForcedLookupResult, LookupResult, Metrics};
use crate::refusal::Refusal;
use crate::registry::{Agreements, DirectoryFile, Origin, ProviderRegistration, Sender};
use spine_types::interaction::{Effect, Interaction};
use spine_types::target::Receiver;
use spine_types::{Asid, CertificateName, InnerUrl, OdsCode};

mod asker;
mod choice;
mod flight;
mod guarded;
mod live;
mod look_up;
mod pacer;
mod rules;
mod sds_api;
#[cfg(feature = "ldap")]
mod sds_ldap;
mod settings;
mod cache;
mod snapshot;
mod source;
mod steps;
mod view;

pub use asker::{Caller, Payer};
pub use sds_api::ApiSettings;
pub(crate) use sds_api::{handlers, systems};
#[cfg(feature = "ldap")]
pub use sds_ldap::LdapSettings;
pub use settings::{DirectorySettings, First, Freshness, SourceDeadlines};
pub use snapshot::SnapshotError;
pub(crate) use source::{AccreditedSystem, Handler};
pub use steps::{LookupStep, Steps};
pub use view::{Explanation, HeldView, LiveError, LiveSources, RegistrationView, Said};

use asker::LookupAccount;
use cache::RegistrationCache;
use choice::choose;
use flight::{LookupQuestion, LookupsInFlight};
use live::Lack;
use look_up::PracticeQuestion;
use rules::{SourceResolver, SourceUrls};
use source::SourceFault;

/// Directory of consumers and providers; cheap to clone, shared by all workers.
#[derive(Clone)]
pub struct Directory {
    shared: Arc<DirectoryState>,
}

struct DirectoryState {
    view: ArcSwap<FileView>,
    /// Notified when [`Directory::replace`] has put another view in force.
    replaced: Notify,
    cache: RegistrationCache,
    /// Number of flushes so far; look-ups compare it to notice a flush while they ran.
    flushes: AtomicU64,
    flights: LookupsInFlight,
    /// Practice of a receiver's ASID: a hint that chooses which practice to look up.
    owners: Cache<Asid, OdsCode>,
    /// Service roots seen in look-ups; tells another practice's address from an unknown one.
    roots: Cache<String, ()>,
    /// Certificate names of senders seen in look-ups; tells a consumer from an unknown system.
    names: Cache<CertificateName, ()>,
    /// Practices with a forced look-up in the last `directory.freshness.forced`.
    forced: Cache<OdsCode, ()>,
    /// Practices refreshed ahead of expiry in the last [`AHEAD_AGAIN`].
    ahead: Cache<OdsCode, ()>,
    /// Look-ups that failed less than `directory.freshness.retry` ago; not repeated until then.
    failed: Cache<LookupQuestion, SourceFault>,
    misses: DefaultKeyedRateLimiter<LookupAccount>,
    /// Serialises charging a look-up and starting it, so that no look-up is charged twice.
    paying: Mutex<()>,
    freshness: Freshness,
    deadlines: SourceDeadlines,
    metrics: Arc<Metrics>,
}

/// Directory file and live sources in force; a reload replaces all of it at once.
#[derive(Debug, Clone)]
struct FileView {
    file: Arc<DirectoryFile>,
    /// URLs of the live sources.
    places: SourceUrls,
    /// Number of times the URLs have changed.
    number: u64,
    /// `None` if no live source is configured.
    resolver: Option<Arc<SourceResolver>>,
}

/// Receiver and interaction whose registration is wanted.
#[derive(Debug, Clone, Copy)]
struct RegistrationQuery<'a> {
    receiver: &'a Receiver,
    interaction: &'static Interaction,
}

/// Intended use of a cached registration; decides how old it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RegistrationUse {
    /// The consumer has named the service root, or the interaction only reads.
    Confirmed,
    /// A write that goes wherever the directory says: an entry that is not fresh is refreshed first.
    Trusted,
}

/// Minimum time between two look-ups of one practice ahead of expiry.
const AHEAD_AGAIN: Duration = Duration::from_secs(60);

/// Limit: bytes of a target's path that are compared with known service roots.
const ROOT_PATH_BYTES_MAX: usize = 512;
/// Limit: path segments of a target that are compared with known service roots.
const ROOT_SEGMENTS_MAX: usize = 16;

impl std::fmt::Debug for Directory {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Directory").field("held", &self.held()).finish_non_exhaustive()
    }
}

impl Directory {
    /// Returns a directory with an empty cache.
    ///
    /// Look-ups run on `tasks`, so that a consumer that disconnects does not cancel a look-up that
    /// others wait for.
    #[must_use]
    pub fn new(
        file: DirectoryFile,
        live: LiveSources,
        settings: &DirectorySettings,
        metrics: Arc<Metrics>,
        tasks: Handle,
    ) -> Self {
        let DirectorySettings { freshness, deadlines, misses_per_minute, .. } = settings.clone();
        let view = FileView::new(Arc::new(file), live, 0, &metrics);
        let hints = || Cache::builder().max_capacity(freshness.practices_max.saturating_mul(4));
        Self {
            shared: Arc::new(DirectoryState {
                view: ArcSwap::from_pointee(view),
                replaced: Notify::new(),
                cache: RegistrationCache::new(&freshness),
                flushes: AtomicU64::new(0),
                flights: LookupsInFlight::new(tasks),
                owners: hints().time_to_live(freshness.provider_max).build(),
                ahead: Cache::builder()
                    .max_capacity(freshness.practices_max)
                    .time_to_live(AHEAD_AGAIN)
                    .build(),
                roots: Cache::builder().max_capacity(freshness.practices_max).build(),
                names: Cache::builder().max_capacity(freshness.practices_max).build(),
                forced: Cache::builder()
                    .max_capacity(freshness.practices_max)
                    .time_to_live(freshness.forced)
                    .build(),
                failed: Cache::builder()
                    .max_capacity(freshness.absent_max)
                    .time_to_live(freshness.retry)
                    .build(),
                misses: misses(misses_per_minute),
                paying: Mutex::new(()),
                freshness,
                deadlines,
                metrics,
            }),
        }
    }

    /// Puts a new directory file or new live sources in force; `None` keeps the current one.
    ///
    /// Cached entries stay, except those of a source that was removed or now has another URL, which
    /// counts as another directory.
    pub fn replace(&self, file: Option<DirectoryFile>, live: Option<LiveSources>) {
        let shared = &self.shared;
        let before = shared.view.load_full();
        let file = file.map_or_else(|| Arc::clone(&before.file), Arc::new);
        let moved = live.as_ref().is_some_and(|live| before.places != live.places());
        let view = match live {
            Some(live) => {
                FileView::new(file, live, before.number + u64::from(moved), &shared.metrics)
            }
            None => FileView { file, ..FileView::clone(&before) },
        };
        let after = view.places.clone();
        shared.view.store(Arc::new(view));
        shared.replaced.notify_one();
        shared.cache.forget_absences();
        if moved {
            let place = |places: &SourceUrls, origin| places.get(&origin).cloned();
            shared.cache.keep(|origin| {
                after.contains_key(&origin)
                    && place(&after, origin) == place(&before.places, origin)
            });
            shared.owners.invalidate_all();
            shared.roots.invalidate_all();
            shared.names.invalidate_all();
        }
    }

    /// Returns the agreements in force.
    #[must_use]
    pub fn agreements(&self) -> Arc<Agreements> {
        Arc::clone(&self.shared.view.load().file.agreements)
    }

    /// Returns true if the file registers a consumer of this organisation with one of these names.
    #[must_use]
    pub fn are_names_of(&self, names: &[CertificateName], ods: &OdsCode) -> bool {
        let view = self.shared.view.load();
        names.iter().any(|name| view.file.names.get(name).is_some_and(|held| held.contains(ods)))
    }

    /// Returns true if a consumer may be registered for this organisation.
    ///
    /// Always true with a live source of consumers, since it cannot be searched by organisation.
    #[must_use]
    pub fn knows_organisation(&self, ods: &OdsCode) -> bool {
        let view = self.shared.view.load();
        view.knows_senders() || view.file.organisations.contains(ods)
    }

    /// Returns true if a URL lies under a service root of the file or of a look-up so far.
    ///
    /// Only the first 512 bytes and 16 segments of the path are compared.
    #[must_use]
    pub fn knows_root_of(&self, url: &InnerUrl<'_>) -> bool {
        let view = self.shared.view.load();
        // The URL grammar allows ASCII only, so that any index is a character boundary.
        let path = url.path.get(..ROOT_PATH_BYTES_MAX).unwrap_or(url.path);
        let longest = format!("https://{}{path}", url.authority);
        let before = longest.len() - path.len();
        let whole = (path.len() == url.path.len()).then_some(path.len());
        let ends = path.match_indices('/').map(|(at, _)| at).chain(whole);
        ends.take(ROOT_SEGMENTS_MAX)
            .filter_map(|end| longest.get(..before + end))
            .any(|root| view.file.roots.contains(root) || self.shared.roots.contains_key(root))
    }

    /// Returns the sender registered under this ASID.
    ///
    /// # Errors
    /// Returns a refusal if the ASID is unknown or denied, if no source answers, or if the consumer's
    /// look-up budget is used up.
    pub async fn sender(&self, asid: &Asid, asker: Caller<'_>) -> Result<Arc<Sender>, Refusal> {
        let view = self.shared.view.load_full();
        let unknown = || Refusal::SenderUnknown(asid.clone());
        if view.file.denies(asid) {
            return Err(unknown());
        }
        let sender = match (view.file.sender(asid), &view.resolver) {
            (Some(pinned), _) => {
                self.count(LookupResult::Pinned);
                Arc::clone(pinned)
            }
            (None, Some(resolver)) if resolver.knows_senders() => {
                self.live_sender(resolver, asid, asker).await?.ok_or_else(unknown)?
            }
            (None, _) => return Err(unknown()),
        };
        if view.file.denies_practice(&sender.ods) { Err(unknown()) } else { Ok(sender) }
    }

    /// Returns the receiver's registration for this interaction.
    ///
    /// # Errors
    /// Returns a refusal if there is no such registration or more than one, if no source answers, or if
    /// the consumer's look-up budget is used up.
    pub async fn provider(
        &self,
        receiver: &Receiver,
        interaction: &'static Interaction,
        asker: Caller<'_>,
    ) -> Result<Arc<ProviderRegistration>, Refusal> {
        let view = self.shared.view.load_full();
        let wanted = RegistrationQuery { receiver, interaction };
        let ods = self.practice_of(&view, receiver, asker).await?;
        let chosen = self.provider_at(&view, &ods, wanted, asker).await;
        if chosen.as_ref().err() != Some(&Refusal::ReceiverUnknown) {
            return chosen;
        }
        let chosen = match self.elsewhere(&view, receiver, &ods, asker).await? {
            Some(other) => self.provider_at(&view, &other, wanted, asker).await,
            None => chosen,
        };
        match chosen {
            Err(Refusal::ReceiverUnknown) => Err(view.lacks_receiver()),
            chosen => chosen,
        }
    }

    async fn provider_at(
        &self,
        view: &FileView,
        ods: &OdsCode,
        wanted: RegistrationQuery<'_>,
        asker: Caller<'_>,
    ) -> Result<Arc<ProviderRegistration>, Refusal> {
        let RegistrationQuery { receiver, interaction } = wanted;
        let found = match &view.resolver {
            None => self.listed(view, ods),
            Some(resolver) => {
                let asked = PracticeQuestion { resolver, ods, interaction };
                self.registrations(&view.file, asked, receiver, asker).await?
            }
        };
        let chosen = choose(&found, receiver, interaction);
        // The practice may have moved to another system since the entry was cached.
        let ours_may_be_old = match &chosen {
            Ok(_) => false,
            Err(Refusal::ReceiverNotRegistered(_)) => {
                found.iter().any(|provider| provider.serves(interaction))
            }
            Err(
                Refusal::ReceiverUnknown
                | Refusal::ReceiverNotPractices
                | Refusal::ReceiverAmbiguous,
            ) => !found.is_empty(),
            Err(_) => false,
        };
        if !ours_may_be_old {
            return chosen;
        }
        let again = match self.forced(view, ods, interaction, asker).await? {
            Some(found) => choose(&found, receiver, interaction),
            None => chosen,
        };
        let settled = ForcedLookupResult::when(again.is_ok());
        self.shared.metrics.directory.conflict(Conflict::Receiver, settled);
        again
    }

    /// Looks up the receiver's registration past the cache, at most once per
    /// `directory.freshness.forced` for one practice.
    ///
    /// Keeps a practice that has changed supplier from being refused because of a cached entry. Returns
    /// `None` if there is no live source or no single registration is found.
    ///
    /// # Errors
    /// Returns a refusal if no source answers or the consumer's look-up budget is used up.
    pub async fn refreshed(
        &self,
        receiver: &Receiver,
        interaction: &'static Interaction,
        asker: Caller<'_>,
    ) -> Result<Option<Arc<ProviderRegistration>>, Refusal> {
        let view = self.shared.view.load_full();
        let Ok(ods) = self.practice_of(&view, receiver, asker).await else { return Ok(None) };
        let found = self.forced(&view, &ods, interaction, asker).await?;
        Ok(found.and_then(|found| choose(&found, receiver, interaction).ok()))
    }

    /// Starts a background look-up of a provider that could not be reached: it may have moved.
    ///
    /// Does nothing for a provider of the file, or if the practice had a forced look-up lately.
    pub fn unreached(&self, provider: &ProviderRegistration, interaction: &'static Interaction) {
        let view = self.shared.view.load_full();
        let pinned = view.file.pins(&provider.ods).iter().any(|pin| pin.serves(interaction));
        if let (Some(resolver), false) = (&view.resolver, pinned) {
            self.doubt(resolver, &provider.ods, interaction);
        }
    }

    /// Returns the number of cached practices, senders and absences.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.shared.cache.held()
    }

    /// Removes unused look-up budgets; the rate limiter never does so by itself.
    pub fn tidy(&self) {
        self.shared.misses.retain_recent();
    }

    /// Returns the practice to look up for a receiver; follows the target's hint if no source knows it.
    async fn practice_of(
        &self,
        view: &FileView,
        receiver: &Receiver,
        asker: Caller<'_>,
    ) -> Result<OdsCode, Refusal> {
        let (asid, hint) = match receiver {
            Receiver::Practice { ods, .. } => {
                let denied = view.file.denies_practice(ods);
                return if denied { Err(Refusal::PracticeUnknown) } else { Ok(ods.clone()) };
            }
            Receiver::System { asid, hint } => (asid, hint.as_ref()),
        };
        let known = view.file.practice_of.get(asid).cloned();
        // Owners learnt from earlier requests only choose which practice to look up. If no source can be
        // searched by ASID they would decide the answer, which must not depend on earlier requests.
        let held = || view.can_be_searched().then(|| self.shared.owners.get(asid)).flatten();
        let ods = match (known.or_else(held), hint, &view.resolver) {
            (Some(known), _, _) => known,
            (None, Some(hint), Some(_)) => hint.clone(),
            (None, None, Some(resolver)) if resolver.knows_senders() => {
                let owner = self.live_owner(resolver, asid, asker).await?;
                owner.ok_or(Refusal::ReceiverUnknown)?
            }
            (None, _, _) => return Err(view.lacks_receiver()),
        };
        if view.file.denies(asid) || view.file.denies_practice(&ods) {
            return Err(Refusal::ReceiverUnknown);
        }
        Ok(ods)
    }

    /// Returns another practice that may own the receiver's system, if `tried` was only a guess (from the
    /// target's hint or an earlier look-up).
    async fn elsewhere(
        &self,
        view: &FileView,
        receiver: &Receiver,
        tried: &OdsCode,
        asker: Caller<'_>,
    ) -> Result<Option<OdsCode>, Refusal> {
        let (Receiver::System { asid, hint }, Some(resolver)) = (receiver, &view.resolver) else {
            return Ok(None);
        };
        let other = match hint.as_ref().filter(|hint| *hint != tried) {
            Some(hint) => Some(hint.clone()),
            None if resolver.knows_senders() => self.live_owner(resolver, asid, asker).await?,
            None => None,
        };
        Ok(other.filter(|other| other != tried && !view.file.denies_practice(other)))
    }

    /// Returns the file's registrations of a practice, for a directory without live sources.
    fn listed(&self, view: &FileView, ods: &OdsCode) -> Vec<Arc<ProviderRegistration>> {
        let pins = view.file.pins(ods);
        self.count(if pins.is_empty() { LookupResult::Absent } else { LookupResult::Pinned });
        view.file.undenied(pins)
    }

    /// Returns a practice's registrations for one interaction: pins of the file, else cached or live
    /// ones, else the file's fall-backs.
    async fn registrations(
        &self,
        file: &DirectoryFile,
        asked: PracticeQuestion<'_>,
        receiver: &Receiver,
        asker: Caller<'_>,
    ) -> Result<Vec<Arc<ProviderRegistration>>, Refusal> {
        let pins = file.pins(asked.ods);
        if pins.iter().any(|pin| pin.serves(asked.interaction)) {
            self.count(LookupResult::Pinned);
            return Ok(file.undenied(pins));
        }
        let using = using(receiver, asked.interaction);
        let found = self.live_practice(asked, using, asker).await;
        let fallbacks = file.undenied(file.fallbacks(asked.ods));
        let fits = |fallback: &Arc<ProviderRegistration>| {
            fallback.serves(asked.interaction) && may_be(receiver, &fallback.asid)
        };
        match found {
            Ok(found) => Ok(file.undenied(&found)),
            // Security: a fall-back replaces a missing answer, never overrules one.
            Err(Lack::NoAnswer) if fallbacks.iter().any(fits) => Ok(fallbacks),
            Err(Lack::NoAnswer | Lack::Doubt) => Err(Refusal::DirectoryUnavailable),
            Err(Lack::Unpaid) => Err(Refusal::LookupsExceeded),
        }
    }
}

/// Returns true if a receiver may be the system of this ASID.
fn may_be(receiver: &Receiver, other: &Asid) -> bool {
    match receiver {
        Receiver::System { asid, .. } => asid == other,
        Receiver::Practice { .. } => true,
    }
}

/// Returns the intended use of a registration for a request.
///
/// A write to a practice by ODS code (form (b)) names no service root that could confirm ours, so it must
/// not rely on an old one.
fn using(receiver: &Receiver, interaction: &Interaction) -> RegistrationUse {
    match (receiver, interaction.effect()) {
        (Receiver::Practice { .. }, Effect::Writes) => RegistrationUse::Trusted,
        (Receiver::Practice { .. }, Effect::Reads) | (Receiver::System { .. }, _) => {
            RegistrationUse::Confirmed
        }
    }
}

/// Returns the wall-clock time in seconds since 1970: answers outlive this process in the snapshot.
fn now_s() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn misses(per_minute: NonZeroU32) -> DefaultKeyedRateLimiter<LookupAccount> {
    RateLimiter::keyed(Quota::per_minute(per_minute))
}
