//! Construction of the live sources, and the directory's content for operators.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::cache::{Age, HeldPractice, HeldRegistration, Mark};
use super::flight::LookupQuestion;
use super::guarded::{LiveSource, RateLimitedSource};
use super::look_up::PracticeQuestion;
use super::pacer::Pacer;
use super::rules::{DirectoryAnswer, SourceResolver, SourceUrls};
use super::sds_api::SdsApi;
#[cfg(feature = "ldap")]
use super::sds_ldap::SdsLdap;
use super::source::{LookupPurpose, SharedPriority};
use super::{Directory, DirectorySettings, FileView, Payer, Steps, now_s};
use crate::breaker::{Breaker, BreakerSettings};
use crate::metrics::{LookupTrigger, Metrics};
use crate::refusal::Refusal;
use crate::registry::{DirectoryFile, Origin, ProviderRegistration};
use crate::tls::{Loader, TrustError, secret};
use spine_types::interaction::Interaction;
use spine_types::{CertificateName, OdsCode};

/// Live sources as configured; no connection is opened until the first query.
#[derive(Debug, Default)]
pub struct LiveSources(Vec<RateLimitedSource>);

/// Limit: number of queries to the FHIR API under way, each on its own connection.
const API_UNDER_WAY_MAX: usize = 8;
/// Limit: number of searches under way on the one connection to an LDAP server.
#[cfg(feature = "ldap")]
const LDAP_UNDER_WAY_MAX: usize = 32;

/// Returns the conditions under which the circuit of a source opens.
const fn patience(open_for: Duration) -> BreakerSettings {
    BreakerSettings { in_a_row: 5, percent: 50, open_for }
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
        let waits = (settings.deadlines.connect, settings.deadlines.attempt);
        let guarded = |source, pacer| {
            let breaker = Breaker::new(patience(settings.deadlines.circuit_open));
            RateLimitedSource { source, breaker, pacer }
        };
        let mut sources = Vec::new();
        if let Some(api) = &settings.sds_api {
            let tls = api.tls.config("directory.sds-api", loader)?;
            let key = api.key_file.as_deref().map(secret).transpose()?;
            let pacer = Pacer::new(Some(api.per_second), API_UNDER_WAY_MAX);
            let api = SdsApi::new(api, key.as_deref(), tls, waits)
                .map_err(|why| LiveError::Setting("sds-api", why))?;
            sources.push(guarded(LiveSource::Api(api), pacer));
        }
        #[cfg(feature = "ldap")]
        if let Some(ldap) = &settings.sds_ldap {
            let tls = ldap.tls.config("directory.sds-ldap", loader)?;
            let ldap = SdsLdap::new(ldap, tls, waits)
                .map_err(|why| LiveError::Setting("sds-ldap", why))?;
            sources.push(guarded(LiveSource::Ldap(ldap), Pacer::new(None, LDAP_UNDER_WAY_MAX)));
        }
        sources.sort_by_key(|guarded| guarded.source.origin() != settings.first.origin());
        Ok(Self(sources))
    }

    /// Returns the sources in the order in which they are asked, as text for operators.
    #[must_use]
    pub fn summary(&self) -> String {
        let names = self.0.iter().map(|guarded| guarded.source.origin().label());
        let mut text = names.collect::<Vec<_>>().join(", then ");
        if !self.0.is_empty() && !self.0.iter().any(|guarded| guarded.source.knows_asids()) {
            text.push_str(" (cannot identify consumers: all consumers come from the file)");
        }
        text
    }

    pub(super) fn resolver(
        self,
        number: u64,
        metrics: &Arc<Metrics>,
    ) -> Option<Arc<SourceResolver>> {
        let Self(sources) = self;
        let resolver =
            |sources| Arc::new(SourceResolver::new(sources, number, Arc::clone(metrics)));
        (!sources.is_empty()).then_some(sources).map(resolver)
    }

    /// Returns the URL of each source.
    pub(super) fn places(&self) -> SourceUrls {
        let place = |guarded: &RateLimitedSource| {
            (guarded.source.origin(), guarded.source.url().to_owned())
        };
        self.0.iter().map(place).collect()
    }
}

impl FileView {
    pub(super) fn new(
        file: Arc<DirectoryFile>,
        live: LiveSources,
        number: u64,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let places = live.places();
        Self { file, places, number, resolver: live.resolver(number, metrics) }
    }

    pub(super) fn knows_senders(&self) -> bool {
        self.resolver.as_ref().is_some_and(|resolver| resolver.knows_senders())
    }

    /// Returns true if the directory can be searched by ASID.
    ///
    /// The file and SDS over LDAP can; the SDS FHIR API as the only live source cannot.
    pub(super) fn can_be_searched(&self) -> bool {
        self.resolver.is_none() || self.knows_senders()
    }

    /// Returns the refusal for a receiver that was not found: `ReceiverUnknown` only if the directory can
    /// be searched by ASID.
    pub(super) fn lacks_receiver(&self) -> Refusal {
        match self.can_be_searched() {
            true => Refusal::ReceiverUnknown,
            false => Refusal::ReceiverNotFound,
        }
    }
}

/// State of the directory's live sources, for operators.
#[derive(Debug, serde::Serialize)]
pub struct HeldView {
    /// Number of look-ups under way.
    pub looking_up: usize,
    /// Live sources in the order in which they are asked.
    pub sources: Vec<SourceView>,
}

/// State of one live source.
#[derive(Debug, serde::Serialize)]
pub struct SourceView {
    /// Label of the source: `sds-api` or `sds-ldap`.
    pub source: &'static str,
    /// True while the source's circuit is open, so that it is not queried.
    pub circuit_open: bool,
}

/// Cached sender, as `/directory` shows it.
#[derive(Debug, serde::Serialize)]
struct SenderView {
    asid: String,
    ods: String,
    certificate_names: Vec<String>,
    source: &'static str,
    age_s: i64,
}

/// Cached registrations that differ in their interaction alone, as `/directory` shows them.
#[derive(Debug, serde::Serialize)]
pub struct RegistrationView {
    ods: String,
    asid: String,
    party_key: String,
    root: String,
    interactions: Vec<&'static str>,
    source: &'static str,
    age_s: i64,
    state: &'static str,
}

impl RegistrationView {
    fn new(
        row: &HeldRegistration,
        practice: &HeldPractice,
        directory: &Directory,
        now_s: i64,
    ) -> Self {
        let provider = &row.provider;
        let interaction = provider.interactions.first();
        let freshness = &directory.shared.freshness;
        let age = interaction.and_then(|interaction| practice.age(interaction, freshness, now_s));
        Self {
            ods: provider.ods.to_string(),
            asid: provider.asid.to_string(),
            party_key: provider.party_key.to_string(),
            root: provider.root.to_string(),
            interactions: provider.interactions.iter().map(|interaction| interaction.id).collect(),
            source: row.since.origin.label(),
            age_s: now_s - row.since.answered_s,
            state: match (row.doubted_s, row.since.mark, age) {
                (Some(_), _, _) => "doubted",
                (None, Mark::Flushed, _) => "flushed",
                (None, Mark::None | Mark::Loaded, Some(Age::Fresh)) => "fresh",
                (None, Mark::None | Mark::Loaded, Some(Age::Stale)) => "stale",
                (None, Mark::None | Mark::Loaded, Some(Age::Old)) => "old",
                (None, Mark::None | Mark::Loaded, Some(Age::Dead) | None) => "dead",
            },
        }
    }

    /// Adds the interactions of `other` if nothing else differs; returns true if it did so.
    fn joins(&mut self, other: &mut Self) -> bool {
        let same = self.asid == other.asid
            && self.root == other.root
            && self.state == other.state
            && self.age_s == other.age_s;
        if same {
            self.interactions.append(&mut other.interactions);
        }
        same
    }
}

impl std::fmt::Display for RegistrationView {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { asid, root, source, age_s, state, interactions, .. } = self;
        let count = interactions.len();
        write!(
            out,
            "ASID {asid} at {root} for {count} interactions, {state}, from {source} {age_s} s ago"
        )
    }
}

/// Returns the rows of a JSON array, each on its own line.
fn lines(rows: impl Iterator<Item = impl serde::Serialize>) -> impl Iterator<Item = String> {
    rows.enumerate().map(|(number, row)| {
        let separator = if number == 0 { "\n" } else { ",\n" };
        format!("{separator}{}", json(&row))
    })
}

fn json(value: &impl serde::Serialize) -> String {
    // These types have no map and no fallible field: serialising them cannot fail.
    serde_json::to_string(value).unwrap_or_default()
}

/// Registrations with the source that returned them.
pub type Said = (Origin, Vec<Arc<ProviderRegistration>>);

/// Trace and result of one look-up, for operators.
#[derive(Debug)]
pub struct Explanation {
    /// Cached registrations of the practice before the look-up.
    pub held: Vec<RegistrationView>,
    /// Queries that the look-up sent.
    pub steps: Steps,
    /// Registrations found now; `None` if there are none, or the reason why there is no answer.
    pub answer: Result<Option<Said>, String>,
}

impl Directory {
    /// Returns true if a sender may have one of these certificate names.
    ///
    /// Always true with a live source of consumers, since it cannot be searched by name.
    #[must_use]
    pub fn may_know(&self, names: &[CertificateName]) -> bool {
        self.shared.view.load().knows_senders() || self.knows(names)
    }

    /// Returns true if a sender of the file or of a look-up so far has one of these certificate names.
    #[must_use]
    pub fn knows(&self, names: &[CertificateName]) -> bool {
        let view = self.shared.view.load();
        let known =
            |name| view.file.names.contains_key(name) || self.shared.names.contains_key(name);
        names.iter().any(known)
    }

    /// Returns the directory file in force.
    #[must_use]
    pub fn file(&self) -> Arc<DirectoryFile> {
        Arc::clone(&self.shared.view.load().file)
    }

    /// Returns the state of the live sources.
    #[must_use]
    pub fn held_view(&self) -> HeldView {
        let view = self.shared.view.load();
        let resolver = view.resolver.iter();
        let sources = resolver.flat_map(|resolver| &resolver.sources).map(|guarded| SourceView {
            source: guarded.source.origin().label(),
            circuit_open: guarded.breaker.is_open(),
        });
        HeldView { looking_up: self.shared.flights.under_way(), sources: sources.collect() }
    }

    /// Returns the whole cache as JSON, in pieces that are serialised as they are read.
    ///
    /// Only the sorted ODS codes and ASIDs are copied up front, to bound memory.
    pub fn held_json(&self) -> impl Iterator<Item = String> + Send + use<> {
        let now_s = now_s();
        let HeldView { looking_up, sources } = self.held_view();
        let cache = &self.shared.cache;
        let mut codes: Vec<_> = cache.practices.iter().map(|(ods, _)| ods).collect();
        codes.sort();
        let mut asids: Vec<_> = cache.senders.iter().map(|(asid, _)| asid).collect();
        asids.sort();
        let (practices, senders) = (self.clone(), self.clone());
        let practices = codes.into_iter().flat_map(move |ods| {
            let held = practices.shared.cache.practices.get(&*ods);
            held.map(|held| practices.rows_view(&held, now_s)).unwrap_or_default()
        });
        let senders = asids.into_iter().filter_map(move |asid| {
            let held = senders.shared.cache.senders.get(&*asid)?;
            Some(SenderView {
                asid: asid.to_string(),
                ods: held.sender.ods.to_string(),
                certificate_names: held.sender.names.iter().map(ToString::to_string).collect(),
                source: held.since.origin.label(),
                age_s: now_s - held.since.answered_s,
            })
        });
        let sources = json(&sources);
        let start = format!("{{\"looking_up\":{looking_up},\"sources\":{sources},\"practices\":[");
        std::iter::once(start)
            .chain(lines(practices))
            .chain(std::iter::once("],\"senders\":[".to_owned()))
            .chain(lines(senders))
            .chain(std::iter::once("]}\n".to_owned()))
    }

    fn rows_view(&self, practice: &HeldPractice, now_s: i64) -> Vec<RegistrationView> {
        let mut rows: Vec<RegistrationView> = Vec::new();
        for row in &practice.rows {
            let mut row = RegistrationView::new(row, practice, self, now_s);
            if !rows.iter_mut().any(|held| held.joins(&mut row)) {
                rows.push(row);
            }
        }
        rows
    }

    /// Marks the cached entries of one practice, or all, to be refreshed before use; returns their number.
    ///
    /// Entries stay usable for when no source answers.
    #[must_use]
    pub fn flush(&self, ods: Option<&OdsCode>) -> usize {
        let cache = &self.shared.cache;
        // Counted first: a look-up that began earlier and ends later marks its own entry.
        self.shared.flushes.fetch_add(1, Ordering::AcqRel);
        let practices =
            cache.practices.iter().filter(|(held, _)| ods.is_none_or(|ods| *ods == **held));
        let practices: Vec<_> = practices.map(|(held, _)| held).collect();
        for held in &practices {
            cache.flush(held);
            self.shared.forced.invalidate(&**held);
        }
        let senders = cache.senders.iter().filter(|_| ods.is_none());
        let senders: Vec<_> = senders.map(|(asid, _)| asid).collect();
        for asid in &senders {
            cache.flush_sender(asid);
        }
        cache.forget_absences();
        practices.len() + senders.len()
    }

    /// Returns the source of a registration and, for a live source, the answer's age in seconds.
    ///
    /// Returns `None` if the registration was replaced since it was looked up.
    #[must_use]
    pub fn origin(
        &self,
        provider: &Arc<ProviderRegistration>,
        now_s: i64,
    ) -> Option<(Origin, Option<u64>)> {
        let view = self.shared.view.load();
        let file = &view.file;
        let mut listed = file.pins(&provider.ods).iter().chain(file.fallbacks(&provider.ods));
        if listed.any(|one| Arc::ptr_eq(one, provider)) {
            return Some((Origin::File, None));
        }
        let practice = self.shared.cache.practices.get(&provider.ods)?;
        let row = practice.rows.iter().find(|row| row.provider == *provider)?;
        let age_s = now_s.saturating_sub(row.since.answered_s);
        Some((row.since.origin, Some(u64::try_from(age_s).unwrap_or_default())))
    }

    /// Returns the age of the newest cached answer of a live source, in seconds.
    #[must_use]
    pub fn newest_age_s(&self) -> Option<i64> {
        let practices = self.shared.cache.practices.iter();
        let answered = practices
            .flat_map(|(_, practice)| practice.rows.iter().map(|row| row.since.answered_s).max());
        answered.max().map(|answered_s| now_s() - answered_s)
    }

    /// Returns true if a live source is configured.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.shared.view.load().resolver.is_some()
    }

    /// Looks a practice up past the cache, as a request would, and returns the trace.
    pub async fn explain(&self, ods: &OdsCode, interaction: &'static Interaction) -> Explanation {
        let view = self.shared.view.load_full();
        let held = self.shared.cache.practices.get(ods).unwrap_or_default();
        let held = self.rows_view(&held, now_s());
        let mut steps = Steps::default();
        let pins = view.file.pins(ods);
        if view.file.denies_practice(ods) {
            return Explanation {
                held,
                steps,
                answer: Err("the directory file denies this practice".to_owned()),
            };
        }
        let pinned = pins.iter().any(|pin| pin.serves(interaction));
        let Some(resolver) = view.resolver.as_ref().filter(|_| !pinned) else {
            let pins = view.file.undenied(pins);
            let pinned = (!pins.is_empty()).then_some((Origin::File, pins));
            return Explanation { held, steps, answer: Ok(pinned) };
        };
        let priority =
            Arc::new(SharedPriority::new(&LookupPurpose::Now(Payer::Operator.account())));
        let how = self.shared.query_options(&priority, self.shared.deadlines.waiting, false);
        let answer = resolver.practice(ods, interaction, how, &mut steps).await;
        let answer = match answer {
            Ok(DirectoryAnswer::Found(found)) => {
                let rest = resolver.rest(ods, &found, how, &mut steps).await;
                let found_now = rest.unwrap_or(found.providers);
                Ok(Some((found.origin, view.file.undenied(&found_now))))
            }
            Ok(DirectoryAnswer::Absent { confirmed: true }) => Ok(None),
            Ok(DirectoryAnswer::Absent { confirmed: false }) => {
                Err("nothing was found, but the search may have failed".to_owned())
            }
            Err(fault) => Err(fault.to_string()),
        };
        // A request would try an old cached entry first; those are in `held`.
        let fallbacks = view.file.undenied(view.file.fallbacks(ods));
        let answer = match answer {
            Err(_) if !fallbacks.is_empty() => Ok(Some((Origin::File, fallbacks))),
            answer => answer,
        };
        Explanation { held, steps, answer }
    }

    /// Refreshes recently used practices shortly before they grow stale, one per second at most.
    ///
    /// Runs until dropped.
    pub async fn keep_fresh(&self) {
        loop {
            tokio::time::sleep(AHEAD).await;
            let resolver = self.shared.view.load().resolver.clone();
            let Some(resolver) = resolver else {
                // Without a live source: wait for a reload that configures one.
                self.shared.replaced.notified().await;
                continue;
            };
            let Some((ods, interaction)) = self.due() else { continue };
            self.shared.ahead.insert(ods.clone(), ());
            let asked = PracticeQuestion { resolver: &resolver, ods: &ods, interaction };
            self.look_up(asked, now_s(), (LookupPurpose::Ahead, LookupTrigger::Ahead));
        }
    }

    /// Returns the practice whose refresh is most overdue, with one of its interactions.
    fn due(&self) -> Option<(OdsCode, &'static Interaction)> {
        let (now_s, freshness) = (now_s(), &self.shared.freshness);
        let lately = i64::try_from(freshness.ahead.as_secs()).unwrap_or(i64::MAX);
        let soon = i64::try_from(freshness.provider.mul_f64(SOON).as_secs()).unwrap_or(i64::MAX);
        let due = self.shared.cache.practices.iter().filter_map(|(ods, practice)| {
            let oldest = practice.rows.iter().min_by_key(|row| row.since.answered_s)?;
            let interaction = *oldest.provider.interactions.first()?;
            let used = now_s - practice.used_s.load(Ordering::Relaxed) < lately;
            let aged = now_s - oldest.since.answered_s >= soon;
            let loaded = oldest.since.mark == Mark::Loaded;
            let rests = practice.rests(interaction, freshness, now_s);
            let failed =
                self.shared.failed.contains_key(&LookupQuestion::practice(&ods, interaction));
            let lately = self.shared.ahead.contains_key(&*ods);
            (used && (aged || loaded) && !rests && !failed && !lately)
                .then(|| (oldest.since.answered_s, (*ods).clone(), interaction))
        });
        due.min_by_key(|(answered_s, ..)| *answered_s).map(|(_, ods, found)| (ods, found))
    }
}

/// Minimum time between two refreshes ahead of expiry.
const AHEAD: Duration = Duration::from_secs(1);
/// Fraction of the fresh period after which a practice is refreshed.
const SOON: f64 = 0.8;
