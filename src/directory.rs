//! One question, one answer: who is this sender, where is this practice?
//!
//! The file is asked first, then what is held, then the live sources. Sources are dumb: how their
//! records become registrations stands in `rules`, how old an answer may grow in `shelf`, and who
//! waits for whom here.

use std::num::NonZeroU32;
use std::sync::Arc;

use arc_swap::ArcSwap;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use moka::sync::Cache;
use tokio::runtime::Handle;
use tokio::time::Instant;
use uuid::Uuid;

use crate::consumers::Sender;
use crate::interaction::{Effect, Interaction};
use crate::metrics::{Lookup, Metrics, Trigger};
use crate::policy::{Agreements, Provider};
use crate::refusal::Refusal;
use crate::spine::{Asid, CertificateName, InnerUrl, OdsCode};

mod breaker;
mod file;
mod flight;
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

pub use file::{File, FileError, Others};
pub use sds_api::ApiSettings;
#[cfg(feature = "ldap")]
pub use sds_ldap::LdapSettings;
pub use settings::{Deadlines, First, Freshness, Settings};
pub use snapshot::SnapshotError;
pub use source::Origin;
pub use steps::{Step, Steps};
pub use view::{Explanation, HeldPractice, HeldView, Live};

use flight::{Flight, Flights, Herald, Progress, Subject};
use rules::{Answer, Resolver};
use shelf::{Absent, Age, Believed, HeldSender, Practice, Row, Shelf, Since};
use source::{How, SourceFault, Urgency};

/// The directory: cheap to clone, shared by all workers.
#[derive(Clone)]
pub struct Directory {
    shared: Arc<Shared>,
}

struct Shared {
    view: ArcSwap<View>,
    shelf: Shelf,
    flights: Flights,
    /// Whose system an ASID is: a hint, which chooses the practice to ask about.
    owners: Cache<Asid, OdsCode>,
    /// Roots seen: tells somebody else's address from nobody's.
    roots: Cache<String, ()>,
    forced: Cache<OdsCode, ()>,
    /// Look-ups that failed a moment ago.
    failed: Cache<Subject, ()>,
    misses: DefaultKeyedRateLimiter<String>,
    freshness: Freshness,
    deadlines: Deadlines,
    metrics: Arc<Metrics>,
}

/// What reload replaces, whole.
#[derive(Debug)]
struct View {
    file: File,
    /// Nobody, where the file is all there is.
    resolver: Option<Arc<Resolver>>,
}

/// What a request asks the directory about its receiver.
#[derive(Debug, Clone, Copy)]
pub enum Receiver<'a> {
    /// Form (a): the system of this ASID, which the target suggests is this practice's. A hint: it
    /// chooses what is asked, never what is believed.
    System(&'a Asid, Option<&'a OdsCode>),
    /// Form (b): the system of this practice; `Ssp-To` chooses among several.
    Practice(&'a OdsCode, Option<&'a Asid>),
}

/// Who asks, and when.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// What the budget for look-ups is counted by.
    pub certificate: &'a str,
    /// Seconds since 1970, UTC.
    pub now_s: i64,
}

/// How long a look-up is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// What it was begun for is known.
    Known,
    /// It has learnt all it will.
    Over,
}

/// How a held registration is about to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// The consumer has named the root, or nothing is changed there.
    Confirmed,
    /// A write to wherever the directory says: what is not fresh is asked for first.
    Trusted,
}

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
        live: Live,
        settings: &Settings,
        metrics: Arc<Metrics>,
        tasks: Handle,
    ) -> Self {
        let Settings { freshness, deadlines, misses_per_minute, .. } = settings.clone();
        let resolver = live.resolver(&metrics);
        let hints = || Cache::builder().max_capacity(freshness.practices_max.saturating_mul(4));
        Self {
            shared: Arc::new(Shared {
                view: ArcSwap::from_pointee(View { file, resolver }),
                shelf: Shelf::new(&freshness),
                flights: Flights::new(tasks),
                owners: hints().build(),
                roots: Cache::builder().max_capacity(freshness.practices_max).build(),
                forced: Cache::builder()
                    .max_capacity(freshness.practices_max)
                    .time_to_live(freshness.forced)
                    .build(),
                failed: Cache::builder()
                    .max_capacity(freshness.absent_max)
                    .time_to_live(freshness.retry)
                    .build(),
                misses: misses(misses_per_minute),
                freshness,
                deadlines,
                metrics,
            }),
        }
    }

    /// Puts a new file, and new ways to the sources, in force. What is held stays.
    pub fn replace(&self, file: File, live: Live) {
        let resolver = live.resolver(&self.shared.metrics);
        self.shared.view.store(Arc::new(View { file, resolver }));
        self.shared.shelf.forget_absences();
    }

    /// The agreements in force.
    #[must_use]
    pub fn agreements(&self) -> Arc<Agreements> {
        Arc::clone(&self.shared.view.load().file.agreements)
    }

    /// Whether any sender may have one of these names: tells a stranger from a consumer in error.
    #[must_use]
    pub fn knows_any(&self, names: &[CertificateName]) -> bool {
        let view = self.shared.view.load();
        // A live source cannot be searched for a name, so nobody is a stranger there.
        view.knows_senders() || names.iter().any(|name| view.file.names.contains_key(name))
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

    /// Whether a URL lies under any service root that is registered, as far as it is held.
    #[must_use]
    pub fn knows_root_of(&self, url: &InnerUrl<'_>) -> bool {
        let view = self.shared.view.load();
        let ends = url.path.match_indices('/').map(|(at, _)| at).chain([url.path.len()]);
        ends.filter_map(|end| url.path.get(..end)).any(|path| {
            let root = format!("https://{}{path}", url.authority);
            view.file.roots.contains(&root) || self.shared.roots.contains_key(&root)
        })
    }

    /// The sender of this ASID.
    pub async fn sender(&self, asid: &Asid, asker: Asker<'_>) -> Result<Arc<Sender>, Refusal> {
        let view = self.shared.view.load_full();
        let unknown = || Refusal::SenderUnknown(asid.clone());
        if view.file.denies(asid) {
            return Err(unknown());
        }
        if let Some(pinned) = view.file.sender(asid) {
            self.count(Lookup::Pinned);
            return Ok(Arc::clone(pinned));
        }
        match &view.resolver {
            Some(resolver) if resolver.knows_senders() => {
                self.live_sender(resolver, asid, asker).await?.ok_or_else(unknown)
            }
            _ => Err(unknown()),
        }
    }

    /// The receiver's registration for this interaction.
    pub async fn provider(
        &self,
        receiver: Receiver<'_>,
        interaction: &'static Interaction,
        asker: Asker<'_>,
    ) -> Result<Arc<Provider>, Refusal> {
        let view = self.shared.view.load_full();
        let ods = self.practice_of(&view, receiver, asker).await?;
        let using = receiver.using(interaction);
        let found = self.registrations(&view, &ods, interaction, using, asker).await?;
        let chosen = choose(&found, receiver, interaction);
        match chosen {
            // The practice may have another system by now.
            Err(Refusal::ReceiverUnknown | Refusal::ReceiverNotPractices) if !found.is_empty() => {
                match self.forced(&view, &ods, interaction, asker).await {
                    Some(found) => choose(&found, receiver, interaction),
                    None => chosen,
                }
            }
            chosen => chosen,
        }
    }

    /// The same, asked of the sources anew, if this practice has not been forced lately: a practice
    /// that moved supplier must not be refused out of our cache.
    pub async fn refreshed(
        &self,
        receiver: Receiver<'_>,
        interaction: &'static Interaction,
        asker: Asker<'_>,
    ) -> Option<Arc<Provider>> {
        let view = self.shared.view.load_full();
        let ods = self.practice_of(&view, receiver, asker).await.ok()?;
        let found = self.forced(&view, &ods, interaction, asker).await?;
        choose(&found, receiver, interaction).ok()
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
        view: &View,
        receiver: Receiver<'_>,
        asker: Asker<'_>,
    ) -> Result<OdsCode, Refusal> {
        let (asid, hint) = match receiver {
            Receiver::Practice(ods, _) => {
                let denied = view.file.denies_practice(ods);
                return if denied { Err(Refusal::PracticeUnknown) } else { Ok(ods.clone()) };
            }
            Receiver::System(asid, hint) => (asid, hint),
        };
        let known = view.file.practice_of.get(asid).cloned();
        let known = known.or_else(|| self.shared.owners.get(asid));
        let ods = match (known, hint, &view.resolver) {
            (Some(known), _, _) => known,
            (None, Some(hint), Some(_)) => hint.clone(),
            (None, None, Some(resolver)) if resolver.knows_senders() => {
                let owner = self.live_owner(resolver, asid, asker).await?;
                owner.ok_or(Refusal::ReceiverUnknown)?
            }
            (None, _, _) => return Err(Refusal::ReceiverUnknown),
        };
        if view.file.denies(asid) || view.file.denies_practice(&ods) {
            return Err(Refusal::ReceiverUnknown);
        }
        Ok(ods)
    }

    /// Everything registered at a practice for one interaction: pins, or what is held, or what the
    /// sources say, or the file's fall-backs.
    async fn registrations(
        &self,
        view: &View,
        ods: &OdsCode,
        interaction: &'static Interaction,
        using: Use,
        asker: Asker<'_>,
    ) -> Result<Vec<Arc<Provider>>, Refusal> {
        let pins = view.file.pins(ods);
        let Some(resolver) = &view.resolver else {
            self.count(if pins.is_empty() { Lookup::Absent } else { Lookup::Pinned });
            return Ok(pins.to_vec());
        };
        if pins.iter().any(|pin| pin.serves(interaction)) {
            self.count(Lookup::Pinned);
            return Ok(pins.to_vec());
        }
        let asked = Asked { resolver, ods, interaction, using, asker };
        let found = self.live_practice(asked).await;
        let found = found.or_else(|refusal| match view.file.fallbacks(ods) {
            [] => Err(refusal),
            fallbacks => Ok(fallbacks.to_vec()),
        })?;
        Ok(found.into_iter().filter(|provider| !view.file.denies(&provider.asid)).collect())
    }

    /// What is held or found of a practice, for one interaction.
    async fn live_practice(&self, asked: Asked<'_>) -> Result<Vec<Arc<Provider>>, Refusal> {
        let Asked { resolver, ods, interaction, using, asker } = asked;
        let shared = &self.shared;
        let subject = Subject::Practice(ods.clone());
        let absent = Absent::Registration(ods.clone(), interaction.id);
        let (mut miss_is_paid, mut until) = (false, Until::Known);
        // A look-up for another interaction may have to be waited for first, and then our own.
        for _ in 0..ROUNDS_MAX {
            let held = shared.shelf.practices.get(ods).unwrap_or_default();
            let now_s = asker.by_now_s();
            let age = held.age(interaction, &shared.freshness, now_s);
            let Some(age) = age.filter(|age| *age < Age::Dead) else {
                match shared.shelf.absence(&absent, now_s) {
                    Some(Believed::Confirmed) => {
                        self.count(Lookup::Absent);
                        // Of other interactions, so that it can be said what is missing.
                        return Ok(providers(&held));
                    }
                    Some(Believed::ForNow) => return Err(Refusal::DirectoryUnavailable),
                    None => {}
                }
                if !miss_is_paid {
                    self.count(Lookup::Miss);
                    self.pay(asker)?;
                    miss_is_paid = true;
                }
                let board = || self.look_up(resolver, ods, interaction, Urgency::Waiting, false);
                let waited = self.wait(&subject, until, board).await;
                waited.map_err(|_| Refusal::DirectoryUnavailable)?;
                until = Until::Over;
                continue;
            };
            held.used(now_s);
            let rests = held.rests(interaction, &shared.freshness, now_s);
            let answered_s = held.rows_for(interaction).map(|row| row.since.answered_s).min();
            let age_s = answered_s.and_then(|at_s| u64::try_from(now_s - at_s).ok());
            shared.metrics.directory.served(age_s.unwrap_or_default());
            match (age, using) {
                (Age::Fresh, _) => {
                    self.count(Lookup::Hit);
                    return Ok(providers(&held));
                }
                (Age::Stale, Use::Confirmed) => {
                    self.count(Lookup::Stale);
                    if !rests && !shared.failed.contains_key(&subject) {
                        self.look_up(resolver, ods, interaction, Urgency::Refresh, false);
                    }
                    return Ok(providers(&held));
                }
                _ => {}
            }
            let asked = match rests {
                true => Err(SourceFault::Spared),
                false => {
                    let board =
                        || self.look_up(resolver, ods, interaction, Urgency::Waiting, false);
                    self.wait(&subject, until, board).await
                }
            };
            let now = shared.shelf.practices.get(ods).unwrap_or_default();
            let answered =
                |row: &Row| row.since.answered_s >= asker.now_s || row.doubted_s.is_some();
            match asked {
                Ok(()) if now.rows_for(interaction).all(answered) => {
                    self.count(Lookup::Refreshed);
                    return Ok(providers(&now));
                }
                // It was another interaction's look-up: our own is next.
                Ok(()) => until = Until::Over,
                Err(_) => {
                    let end_s = shared.freshness.stale_writes_max.as_secs();
                    let too_old = age_s.is_none_or(|age_s| age_s >= end_s);
                    if using == Use::Trusted && too_old {
                        return Err(Refusal::DirectoryUnavailable);
                    }
                    self.count(Lookup::StaleError);
                    return Ok(providers(&held));
                }
            }
        }
        Err(Refusal::DirectoryUnavailable)
    }

    /// Asks past everything held, once in a while for one practice.
    async fn forced(
        &self,
        view: &View,
        ods: &OdsCode,
        interaction: &'static Interaction,
        asker: Asker<'_>,
    ) -> Option<Vec<Arc<Provider>>> {
        let resolver = view.resolver.as_ref()?;
        let pins = view.file.pins(ods);
        if pins.iter().any(|pin| pin.serves(interaction)) {
            return Some(pins.to_vec());
        }
        let first = self.shared.forced.entry_by_ref(ods).or_insert(()).is_fresh();
        if !first || self.pay(asker).is_err() {
            return None;
        }
        let subject = Subject::Practice(ods.clone());
        // One that is under way may have asked before the change: then once more.
        for _ in 0..2 {
            let mut joined = false;
            let board = || {
                let flight = self.look_up(resolver, ods, interaction, Urgency::Waiting, true);
                joined = flight.joined;
                flight
            };
            let asked = self.wait(&subject, Until::Over, board).await;
            self.shared.metrics.directory.conflict(asked.is_ok());
            asked.ok()?;
            if !joined {
                break;
            }
        }
        let held = self.shared.shelf.practices.get(ods)?;
        let denied = |provider: &Arc<Provider>| view.file.denies(&provider.asid);
        Some(providers(&held).into_iter().filter(|provider| !denied(provider)).collect())
    }

    async fn live_sender(
        &self,
        resolver: &Arc<Resolver>,
        asid: &Asid,
        asker: Asker<'_>,
    ) -> Result<Option<Arc<Sender>>, Refusal> {
        let shared = &self.shared;
        let windows = shared.freshness.sender_windows();
        let held = shared.shelf.senders.get(asid);
        let held = held.map(|held| (held.since.age(windows, asker.by_now_s()), held));
        let held = held.filter(|(age, _)| *age < Age::Dead);
        let absent = Absent::Sender(asid.clone());
        match &held {
            Some((Age::Fresh, held)) => {
                self.count(Lookup::Hit);
                return Ok(Some(Arc::clone(&held.sender)));
            }
            Some(_) => {}
            None => match shared.shelf.absence(&absent, asker.now_s) {
                Some(Believed::Confirmed) => {
                    self.count(Lookup::Absent);
                    return Ok(None);
                }
                Some(Believed::ForNow) => return Err(Refusal::DirectoryUnavailable),
                None => {
                    self.count(Lookup::Miss);
                    self.pay(asker)?;
                }
            },
        }
        let board = || self.look_up_sender(resolver, asid);
        let asked = self.wait(&Subject::Sender(asid.clone()), Until::Over, board).await;
        match (asked, held) {
            (Ok(()), _) => {
                let now = shared.shelf.senders.get(asid);
                let now = now.filter(|now| now.since.age(windows, asker.by_now_s()) < Age::Dead);
                let doubtful = shared.shelf.absence(&absent, asker.now_s) == Some(Believed::ForNow);
                match now {
                    Some(now) => Ok(Some(now.sender)),
                    None if doubtful => Err(Refusal::DirectoryUnavailable),
                    None => Ok(None),
                }
            }
            (Err(_), Some((_, held))) => {
                self.count(Lookup::StaleError);
                Ok(Some(held.sender))
            }
            (Err(_), None) => Err(Refusal::DirectoryUnavailable),
        }
    }

    async fn live_owner(
        &self,
        resolver: &Arc<Resolver>,
        asid: &Asid,
        asker: Asker<'_>,
    ) -> Result<Option<OdsCode>, Refusal> {
        let absent = Absent::Owner(asid.clone());
        if self.shared.shelf.absence(&absent, asker.now_s).is_some() {
            self.count(Lookup::Absent);
            return Ok(None);
        }
        self.count(Lookup::Miss);
        self.pay(asker)?;
        let (shared, resolver) = (Arc::clone(&self.shared), Arc::clone(resolver));
        let asked = asid.clone();
        let subject = Subject::Owner(asid.clone());
        let board = || {
            self.board(subject.clone(), |_| async move {
                let how = shared.how(Urgency::Waiting, false);
                match resolver.owner(&asked, how, &mut Steps::default()).await? {
                    Some(ods) => shared.owners.insert(asked, ods),
                    None => shared.absent(Absent::Owner(asked), Believed::Confirmed),
                }
                Ok(())
            })
        };
        let asked = self.wait(&subject, Until::Over, board).await;
        asked.map_err(|_| Refusal::DirectoryUnavailable)?;
        Ok(self.shared.owners.get(asid))
    }

    /// Looks a practice up, with all who wait for the same.
    fn look_up(
        &self,
        resolver: &Arc<Resolver>,
        ods: &OdsCode,
        interaction: &'static Interaction,
        urgency: Urgency,
        anew: bool,
    ) -> Flight {
        let trigger = match (urgency, anew) {
            (_, true) => Trigger::Conflict,
            (Urgency::Waiting, false) => Trigger::Request,
            (Urgency::Refresh, false) => Trigger::Stale,
            (Urgency::Ahead, false) => Trigger::Ahead,
        };
        let (shared, resolver, ods) = (Arc::clone(&self.shared), Arc::clone(resolver), ods.clone());
        let subject = Subject::Practice(ods.clone());
        let flight = self.board(subject, |herald| async move {
            let how = shared.how(urgency, anew);
            let looked_up =
                shared.look_up_practice(&resolver, &ods, interaction, how, &herald).await;
            shared.metrics.directory.refreshed(trigger, looked_up.is_ok());
            looked_up
        });
        if flight.joined {
            self.shared.metrics.directory.joined();
        }
        flight
    }

    fn look_up_sender(&self, resolver: &Arc<Resolver>, asid: &Asid) -> Flight {
        let (shared, resolver, asid) =
            (Arc::clone(&self.shared), Arc::clone(resolver), asid.clone());
        let subject = Subject::Sender(asid.clone());
        self.board(subject, |_| async move {
            let how = shared.how(Urgency::Waiting, false);
            match resolver.sender(&asid, how, &mut Steps::default()).await? {
                Answer::Found((origin, sender)) => {
                    let since = Since::now(now_s(), origin);
                    let held = HeldSender { sender: Arc::new(sender), since };
                    shared.shelf.senders.insert(asid, held);
                }
                // Security: an authorisation that is gone is gone at once.
                Answer::Absent { confirmed } => {
                    if confirmed {
                        shared.shelf.senders.invalidate(&asid);
                    }
                    shared.absent(Absent::Sender(asid), Believed::when(confirmed));
                }
            }
            Ok(())
        })
    }

    /// Begins a look-up, or joins it; one that fails is remembered for a moment.
    fn board<F>(&self, subject: Subject, look_up: impl FnOnce(Herald) -> F) -> Flight
    where
        F: Future<Output = Result<(), SourceFault>> + Send + 'static,
    {
        let (shared, about) = (Arc::clone(&self.shared), subject.clone());
        self.shared.flights.board(subject, |herald| {
            let look_up = look_up(herald);
            async move {
                let ended = look_up.await;
                if ended.is_err() {
                    shared.failed.insert(about, ());
                }
                ended
            }
        })
    }

    /// Waits for a look-up, as long as a request may. One that failed a moment ago is not repeated.
    async fn wait(
        &self,
        subject: &Subject,
        until: Until,
        board: impl FnOnce() -> Flight,
    ) -> Result<(), SourceFault> {
        if self.shared.failed.contains_key(subject) {
            return Err(SourceFault::Spared);
        }
        let mut flight = board();
        let waited = tokio::time::timeout(self.shared.deadlines.waiting, async {
            loop {
                match flight.news().await {
                    Progress::Known if until == Until::Known => return Ok(()),
                    Progress::Under | Progress::Known => {}
                    Progress::Over(ended) => return ended,
                }
            }
        });
        waited.await.map_err(|_| SourceFault::TimedOut)?
    }

    /// Draws on the budget for look-ups of what is not held: a scan of random codes starves nobody
    /// else.
    fn pay(&self, asker: Asker<'_>) -> Result<(), Refusal> {
        let certificate = asker.certificate.to_owned();
        self.shared.misses.check_key(&certificate).map_err(|_| Refusal::LookupsExceeded)
    }

    fn count(&self, lookup: Lookup) {
        self.shared.metrics.directory.looked_up(lookup);
    }
}

/// Limit: look-ups that one request waits for, one after the other.
const ROUNDS_MAX: usize = 4;

/// A question about a practice, on its way.
#[derive(Clone, Copy)]
struct Asked<'a> {
    resolver: &'a Arc<Resolver>,
    ods: &'a OdsCode,
    interaction: &'static Interaction,
    using: Use,
    asker: Asker<'a>,
}

impl Shared {
    fn how(&self, urgency: Urgency, anew: bool) -> How {
        let budget = match urgency {
            Urgency::Waiting => self.deadlines.waiting,
            Urgency::Refresh | Urgency::Ahead => self.deadlines.background,
        };
        How { deadline: Instant::now() + budget, anew, urgency, id: Uuid::new_v4() }
    }

    /// One look-up: what was asked for first, then the rest of the practice.
    async fn look_up_practice(
        &self,
        resolver: &Resolver,
        ods: &OdsCode,
        interaction: &'static Interaction,
        how: How,
        herald: &Herald,
    ) -> Result<(), SourceFault> {
        let mut steps = Steps::default();
        let answer = resolver.practice(ods, interaction, how, &mut steps).await;
        let now_s = now_s();
        let held = self.shelf.practices.get(ods).unwrap_or_default();
        let found = match answer? {
            Answer::Found(found) => found,
            Answer::Absent { confirmed } => {
                self.note_absent(&held, ods, interaction, confirmed, now_s);
                return Ok(());
            }
        };
        let held = held.after_found(interaction, &found, &self.freshness, now_s);
        self.hold(ods, held);
        herald.known();
        let how = How {
            deadline: Instant::now() + self.deadlines.background,
            urgency: how.urgency.max(Urgency::Refresh),
            ..how
        };
        if let Some(rest) = resolver.rest(ods, &found, how, &mut steps).await {
            let held = self.shelf.practices.get(ods).unwrap_or_default();
            self.hold(ods, held.after_rest(&found, &rest, &self.freshness, now_s));
        }
        Ok(())
    }

    fn note_absent(
        &self,
        held: &Practice,
        ods: &OdsCode,
        interaction: &'static Interaction,
        confirmed: bool,
        now_s: i64,
    ) {
        if confirmed && held.rows_for(interaction).next().is_some() {
            self.hold(ods, held.doubting(interaction, &self.freshness, now_s));
        }
        let absent = Absent::Registration(ods.clone(), interaction.id);
        self.absent(absent, Believed::when(confirmed));
    }

    fn absent(&self, what: Absent, believed: Believed) {
        let lasts = match believed {
            Believed::Confirmed => self.freshness.absent,
            Believed::ForNow => self.freshness.absent_unconfirmed,
        };
        self.shelf.note_absent(what, believed, lasts, now_s());
    }

    fn hold(&self, ods: &OdsCode, practice: Practice) {
        for row in &practice.rows {
            self.owners.insert(row.provider.asid.clone(), ods.clone());
            let root = row.provider.root.as_str();
            self.roots.insert(root.strip_suffix('/').unwrap_or(root).to_owned(), ());
        }
        self.shelf.practices.insert(ods.clone(), Arc::new(practice));
    }
}

impl Asker<'_> {
    /// The clock, which has gone on since the asker read it: an answer that came meanwhile is not
    /// one from the future.
    fn by_now_s(&self) -> i64 {
        self.now_s.max(now_s())
    }
}

impl View {
    fn knows_senders(&self) -> bool {
        self.resolver.as_ref().is_some_and(|resolver| resolver.knows_senders())
    }
}

impl Receiver<'_> {
    /// In form (b) no root from the consumer checks ours, so a write must not go by an old one.
    fn using(&self, interaction: &Interaction) -> Use {
        match (self, interaction.effect()) {
            (Self::Practice(..), Effect::Writes) => Use::Trusted,
            (Self::Practice(..), Effect::Reads) | (Self::System(..), _) => Use::Confirmed,
        }
    }
}

/// When an answer came, by the clock on the wall: it outlives this process.
fn now_s() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn misses(per_minute: NonZeroU32) -> DefaultKeyedRateLimiter<String> {
    RateLimiter::keyed(Quota::per_minute(per_minute))
}

fn providers(held: &Practice) -> Vec<Arc<Provider>> {
    held.rows.iter().map(|row| Arc::clone(&row.provider)).collect()
}

/// Among a practice's registrations, the one that is asked for; several are an error.
fn choose(
    providers: &[Arc<Provider>],
    receiver: Receiver<'_>,
    interaction: &Interaction,
) -> Result<Arc<Provider>, Refusal> {
    let registered = |provider: &&Arc<Provider>| provider.serves(interaction);
    let (mut fitting, none): (Vec<_>, _) = match receiver {
        Receiver::System(asid, _) => {
            let system = providers.iter().filter(|provider| provider.asid == *asid);
            let none = match system.clone().next() {
                Some(_) => Refusal::ReceiverNotRegistered(asid.clone()),
                None => Refusal::ReceiverUnknown,
            };
            (system.filter(registered).collect(), none)
        }
        Receiver::Practice(..) if providers.is_empty() => return Err(Refusal::PracticeUnknown),
        Receiver::Practice(_, to) => {
            let mut all: Vec<_> = providers.iter().filter(registered).collect();
            let several = all.len() > 1;
            if let (true, Some(to)) = (several, to) {
                all.retain(|provider| provider.asid == *to);
            }
            let none = match several {
                true => Refusal::ReceiverNotPractices,
                false => Refusal::PracticeNotRegistered,
            };
            (all, none)
        }
    };
    match (fitting.pop(), fitting.pop()) {
        (Some(one), None) => Ok(Arc::clone(one)),
        (None, _) => Err(none),
        (Some(_), Some(_)) => Err(Refusal::ReceiverAmbiguous),
    }
}
