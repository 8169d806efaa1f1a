//! One question, one answer: who is this sender, where is this practice?
//!
//! The file is asked first, then what is held, then the live sources. Sources are dumb: how their
//! records become registrations stands in `rules`, how old an answer may grow in `shelf`, and who
//! waits for whom here.

use std::num::NonZeroU32;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use moka::sync::Cache;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::consumers::Sender;
use crate::interaction::{Effect, Interaction};
use crate::metrics::{Conflict, ForcedLookupResult, LookupResult, Metrics};
use crate::policy::{Agreements, ProviderRegistration};
use crate::refusal::Refusal;
use crate::spine::{Asid, CertificateName, InnerUrl, OdsCode};
use crate::target::Receiver;

mod asker;
mod choice;
mod file;
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
mod shelf;
mod snapshot;
mod source;
mod steps;
mod view;

pub use asker::{Caller, Payer};
pub use file::{File, FileError, Others};
pub use sds_api::ApiSettings;
pub(crate) use sds_api::{handlers, systems};
#[cfg(feature = "ldap")]
pub use sds_ldap::LdapSettings;
pub use settings::{DirectorySettings, First, Freshness, SourceDeadlines};
pub use snapshot::SnapshotError;
pub use source::Origin;
pub(crate) use source::{AccreditedSystem, Handler};
pub use steps::{Step, Steps};
pub use view::{Explanation, HeldView, LiveError, LiveSources, RegistrationView, Said};

use asker::LookupAccount;
use choice::choose;
use flight::{LookupQuestion, LookupsInFlight};
use live::Lack;
use look_up::PracticeQuestion;
use rules::{SourceResolver, SourceUrls};
use shelf::RegistrationCache;
use source::SourceFault;

/// The directory: cheap to clone, shared by all workers.
#[derive(Clone)]
pub struct Directory {
    shared: Arc<DirectoryState>,
}

struct DirectoryState {
    view: ArcSwap<FileView>,
    /// Another view has been put in force.
    replaced: Notify,
    shelf: RegistrationCache,
    /// How often anything was flushed.
    flushes: AtomicU64,
    flights: LookupsInFlight,
    /// Whose system an ASID is: a hint, which chooses the practice to ask about.
    owners: Cache<Asid, OdsCode>,
    /// Roots seen: tells somebody else's address from nobody's.
    roots: Cache<String, ()>,
    /// Names of live senders seen: tells a consumer from a stranger.
    names: Cache<CertificateName, ()>,
    forced: Cache<OdsCode, ()>,
    /// Practices asked for ahead of time lately.
    ahead: Cache<OdsCode, ()>,
    /// Look-ups that failed a moment ago.
    failed: Cache<LookupQuestion, SourceFault>,
    misses: DefaultKeyedRateLimiter<LookupAccount>,
    /// Held from the question whether a look-up has to be paid for until it is begun.
    paying: Mutex<()>,
    freshness: Freshness,
    deadlines: SourceDeadlines,
    metrics: Arc<Metrics>,
}

/// What reload replaces, whole.
#[derive(Debug, Clone)]
struct FileView {
    file: Arc<File>,
    /// Where the live sources are asked, and how often that has changed.
    places: SourceUrls,
    number: u64,
    /// Nobody, where the file is all there is.
    resolver: Option<Arc<SourceResolver>>,
}

/// A registration that is looked for.
#[derive(Debug, Clone, Copy)]
struct RegistrationQuery<'a> {
    receiver: &'a Receiver,
    interaction: &'static Interaction,
}

/// How a held registration is about to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RegistrationUse {
    /// The consumer has named the root, or nothing is changed there.
    Confirmed,
    /// A write to wherever the directory says: what is not fresh is asked for first.
    Trusted,
}

/// Between two look-ups of one practice ahead of time.
const AHEAD_AGAIN: Duration = Duration::from_secs(60);

/// Limit: bytes of a target's path that are compared with the service roots that are known.
const ROOT_PATH_BYTES_MAX: usize = 512;
/// Limit: segments of a target's path that are compared with the service roots that are known.
const ROOT_SEGMENTS_MAX: usize = 16;

impl std::fmt::Debug for Directory {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Directory").field("held", &self.held()).finish_non_exhaustive()
    }
}

impl Directory {
    /// A directory that holds nothing yet. `tasks` runs the look-ups, so that a consumer who hangs
    /// up cancels none that others wait for.
    #[must_use]
    pub fn new(
        file: File,
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
                shelf: RegistrationCache::new(&freshness),
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

    /// Puts a new file, or new ways to the sources, in force. What is held stays, unless the source
    /// that said it is no longer asked, or elsewhere: that is another directory.
    pub fn replace(&self, file: Option<File>, live: Option<LiveSources>) {
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
        shared.shelf.forget_absences();
        if moved {
            let place = |places: &SourceUrls, origin| places.get(&origin).cloned();
            shared.shelf.keep(|origin| {
                after.contains_key(&origin)
                    && place(&after, origin) == place(&before.places, origin)
            });
            shared.owners.invalidate_all();
            shared.roots.invalidate_all();
            shared.names.invalidate_all();
        }
    }

    /// The agreements in force.
    #[must_use]
    pub fn agreements(&self) -> Arc<Agreements> {
        Arc::clone(&self.shared.view.load().file.agreements)
    }

    /// Whether a sender with one of these names is registered for this organisation.
    #[must_use]
    pub fn are_names_of(&self, names: &[CertificateName], ods: &OdsCode) -> bool {
        let view = self.shared.view.load();
        names.iter().any(|name| view.file.names.get(name).is_some_and(|held| held.contains(ods)))
    }

    /// Whether any sender may be registered for this organisation.
    #[must_use]
    pub fn knows_organisation(&self, ods: &OdsCode) -> bool {
        let view = self.shared.view.load();
        view.knows_senders() || view.file.organisations.contains(ods)
    }

    /// Returns whether a URL lies under any service root that is registered, as far as it is held.
    ///
    /// Of a path longer or deeper than any root in use, the beginning alone is compared.
    #[must_use]
    pub fn knows_root_of(&self, url: &InnerUrl<'_>) -> bool {
        let view = self.shared.view.load();
        // The grammar has passed it: all of it is ASCII.
        let path = url.path.get(..ROOT_PATH_BYTES_MAX).unwrap_or(url.path);
        let longest = format!("https://{}{path}", url.authority);
        let before = longest.len() - path.len();
        let whole = (path.len() == url.path.len()).then_some(path.len());
        let ends = path.match_indices('/').map(|(at, _)| at).chain(whole);
        ends.take(ROOT_SEGMENTS_MAX)
            .filter_map(|end| longest.get(..before + end))
            .any(|root| view.file.roots.contains(root) || self.shared.roots.contains_key(root))
    }

    /// The sender of this ASID.
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

    /// The receiver's registration for this interaction.
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
        // The practice may have another system by now.
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

    /// The same, asked of the sources anew, if this practice has not been forced lately: a practice
    /// that moved supplier must not be refused out of our cache. Nothing if nobody else can be asked,
    /// or nobody else is found.
    ///
    /// # Errors
    /// The sources give no answer, or may not be asked so often.
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

    /// A provider could not be reached where it is registered: it may have moved. It is asked for
    /// anew behind, if it has not been lately.
    pub fn unreached(&self, provider: &ProviderRegistration, interaction: &'static Interaction) {
        let view = self.shared.view.load_full();
        let pinned = view.file.pins(&provider.ods).iter().any(|pin| pin.serves(interaction));
        if let (Some(resolver), false) = (&view.resolver, pinned) {
            self.doubt(resolver, &provider.ods, interaction);
        }
    }

    /// Practices and senders held, absences included.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.shared.shelf.held()
    }

    /// Forgets budgets that have not been drawn on for a while; the limiter never does by itself.
    pub fn tidy(&self) {
        self.shared.misses.retain_recent();
    }

    /// Whose practice is asked about. Where no source can tell, the target's hint is followed.
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
        // Owners learnt from earlier requests choose the question. Where no source can be searched for
        // an ASID they would decide the answer, which must not depend on what others asked before.
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

    /// Another practice whose system a receiver may be, where the first was a guess: the target's
    /// hint, or what was once known.
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

    /// Everything the file holds of a practice, where it is all there is.
    fn listed(&self, view: &FileView, ods: &OdsCode) -> Vec<Arc<ProviderRegistration>> {
        let pins = view.file.pins(ods);
        self.count(if pins.is_empty() { LookupResult::Absent } else { LookupResult::Pinned });
        view.file.undenied(pins)
    }

    /// Everything registered at a practice for one interaction: pins, or what is held, or what the
    /// sources say, or the file's fall-backs.
    async fn registrations(
        &self,
        file: &File,
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
            // Security: a fall-back stands in for an answer that did not come, never against one.
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

/// In form (b) no root from the consumer checks ours, so a write must not go by an old one.
fn using(receiver: &Receiver, interaction: &Interaction) -> RegistrationUse {
    match (receiver, interaction.effect()) {
        (Receiver::Practice { .. }, Effect::Writes) => RegistrationUse::Trusted,
        (Receiver::Practice { .. }, Effect::Reads) | (Receiver::System { .. }, _) => {
            RegistrationUse::Confirmed
        }
    }
}

/// When an answer came, by the clock on the wall: it outlives this process.
fn now_s() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn misses(per_minute: NonZeroU32) -> DefaultKeyedRateLimiter<LookupAccount> {
    RateLimiter::keyed(Quota::per_minute(per_minute))
}
