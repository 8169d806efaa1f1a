//! Content of the directory for operators: the cache, the state of the sources, and one look-up explained.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::cache::{Age, AgeMark, CachedPractice, CachedRegistration};
use super::payer::Payer;
use super::sources::{Certainty, DirectoryAnswer, LookupTrace, LookupWaiters};
use super::{Directory, FreshnessRules};
use crate::registry::{Origin, ProviderRegistration, Sender};
use spine_types::OdsCode;
use spine_types::interaction::Interaction;

/// State of the directory's live sources, for operators.
#[derive(Debug, serde::Serialize)]
pub struct SourcesView {
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
    /// Returns a practice's registrations.
    fn all(practice: &CachedPractice, rules: FreshnessRules<'_>) -> Vec<Self> {
        let mut views: Vec<Self> = Vec::new();
        for row in &practice.rows {
            let mut view = Self::new(row, practice, rules);
            if !views.iter_mut().any(|other| other.joins(&mut view)) {
                views.push(view);
            }
        }
        views
    }

    fn new(row: &CachedRegistration, practice: &CachedPractice, rules: FreshnessRules<'_>) -> Self {
        let provider = &row.provider;
        let interaction = provider.interactions.first();
        let age = interaction.and_then(|interaction| practice.age(interaction, rules));
        Self {
            ods: provider.ods.to_string(),
            asid: provider.asid.to_string(),
            party_key: provider.party_key.to_string(),
            root: provider.root.to_string(),
            interactions: provider.interactions.iter().map(|interaction| interaction.id).collect(),
            source: row.stamp.origin.label(),
            age_s: rules.now_s - row.stamp.answered_s,
            state: match (row.doubt, row.stamp.mark, age) {
                (Some(_), _, _) => "doubted",
                (None, AgeMark::Flushed { .. }, _) => "flushed",
                (None, AgeMark::None | AgeMark::Loaded, Some(Age::Fresh)) => "fresh",
                (None, AgeMark::None | AgeMark::Loaded, Some(Age::Stale)) => "stale",
                (None, AgeMark::None | AgeMark::Loaded, Some(Age::Old)) => "old",
                (None, AgeMark::None | AgeMark::Loaded, Some(Age::Dead) | None) => "dead",
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

/// Part of the directory's entries, in the order of their codes.
#[derive(Debug)]
pub struct DirectoryPart {
    /// Entries of the part.
    pub entries: Vec<DirectoryEntry>,
    /// Number of all practices or consumers that the search finds.
    pub total: usize,
}

/// Entry of the file or of the cache, for operators.
#[derive(Debug)]
pub struct DirectoryEntry {
    /// ODS code of the practice, or of the consumer's organisation.
    pub ods: String,
    /// ASID of the system.
    pub asid: String,
    /// Service root of a practice's system, or the certificate names of a consumer's.
    pub known_by: String,
    /// Number of interactions; `None` if the source does not say.
    pub interactions: Option<usize>,
    /// Source of the entry: `file`, `sds-api` or `sds-ldap`.
    pub source: &'static str,
    /// Age of the source's answer in seconds; `None` for an entry of the file.
    pub age_s: Option<i64>,
    /// State of the entry: `in force`, `fall-back` or `denied` in the file, or its freshness in the cache.
    pub state: &'static str,
}

impl DirectoryEntry {
    fn pinned(provider: &ProviderRegistration, state: &'static str) -> Self {
        Self {
            ods: provider.ods.to_string(),
            asid: provider.asid.to_string(),
            known_by: provider.root.to_string(),
            interactions: Some(provider.interactions.len()),
            source: Origin::File.label(),
            age_s: None,
            state,
        }
    }

    fn cached(view: RegistrationView) -> Self {
        Self {
            interactions: Some(view.interactions.len()),
            ods: view.ods,
            asid: view.asid,
            known_by: view.root,
            source: view.source,
            age_s: Some(view.age_s),
            state: view.state,
        }
    }

    fn sender(sender: &Sender, source: &'static str, age_s: Option<i64>) -> Self {
        let names: Vec<_> = sender.names.iter().map(ToString::to_string).collect();
        Self {
            ods: sender.ods.to_string(),
            asid: sender.asid.to_string(),
            known_by: names.join(", "),
            interactions: age_s.is_none().then_some(sender.interactions.len()),
            source,
            age_s,
            state: if age_s.is_none() { "in force" } else { "cached" },
        }
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

/// Registrations found by a look-up, and the source that returned them.
#[derive(Debug)]
pub struct FoundNow {
    /// Source that returned the registrations.
    pub origin: Origin,
    /// Registrations of the practice, at least one.
    pub providers: Vec<Arc<ProviderRegistration>>,
}

/// Trace and result of one look-up, for operators.
#[derive(Debug)]
pub struct Explanation {
    /// Cached registrations of the practice before the look-up.
    pub cached: Vec<RegistrationView>,
    /// Queries that the look-up sent.
    pub trace: LookupTrace,
    /// Registrations found now; `None` if there are none, or the reason why there is no answer.
    pub answer: Result<Option<FoundNow>, String>,
}

impl Directory {
    /// Returns the state of the live sources.
    #[must_use]
    pub fn sources_view(&self) -> SourcesView {
        let in_force = self.shared.in_force.load();
        let circuits = in_force.sources.iter().flat_map(|sources| sources.circuits());
        let view = |(origin, circuit_open): (Origin, bool)| SourceView {
            source: origin.label(),
            circuit_open,
        };
        SourcesView {
            looking_up: self.shared.lookups.under_way(),
            sources: circuits.map(view).collect(),
        }
    }

    /// Returns the whole cache as JSON, in pieces that are serialised as they are read.
    ///
    /// Only the sorted ODS codes and ASIDs are copied up front, to bound memory.
    pub fn cache_json(&self) -> impl Iterator<Item = String> + Send + use<> {
        let now_s = self.shared.now_s();
        let SourcesView { looking_up, sources } = self.sources_view();
        let cache = &self.shared.cache;
        let mut codes: Vec<_> = cache.practices.iter().map(|(ods, _)| ods).collect();
        codes.sort();
        let mut asids: Vec<_> = cache.senders.iter().map(|(asid, _)| asid).collect();
        asids.sort();
        let (practices, senders) = (Arc::clone(&self.shared), Arc::clone(&self.shared));
        let practices = codes.into_iter().flat_map(move |ods| {
            RegistrationView::all(&practices.cache.practice(&ods), practices.cache.rules(now_s))
        });
        let senders = asids.into_iter().filter_map(move |asid| {
            let cached = senders.cache.senders.get(&*asid)?;
            Some(SenderView {
                asid: asid.to_string(),
                ods: cached.sender.ods.to_string(),
                certificate_names: cached.sender.names.iter().map(ToString::to_string).collect(),
                source: cached.stamp.origin.label(),
                age_s: now_s - cached.stamp.answered_s,
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

    /// Returns the entries of the practices whose code begins with `search`, from the `skip`th on, of at most
    /// `count` practices.
    #[must_use]
    pub fn practice_entries(&self, search: &str, skip: usize, count: usize) -> DirectoryPart {
        let shared = &self.shared;
        let (file, rules) = (self.file(), shared.rules());
        let mut codes: BTreeSet<OdsCode> =
            shared.cache.practices.iter().map(|(ods, _)| (*ods).clone()).collect();
        codes.extend(file.providers().map(|provider| provider.ods.clone()));
        codes.retain(|ods| ods.as_str().starts_with(search));
        let total = codes.len();
        let entries = codes.iter().skip(skip).take(count).flat_map(|ods| {
            let listed = |provider: &Arc<ProviderRegistration>, state| {
                let is_denied = file.denies_practice(ods) || file.denies(&provider.asid);
                DirectoryEntry::pinned(provider, if is_denied { "denied" } else { state })
            };
            let cached = RegistrationView::all(&shared.cache.practice(ods), rules);
            let pins = file.pins(ods).iter().map(|pin| listed(pin, "in force"));
            let fallbacks = file.fallbacks(ods).iter().map(|other| listed(other, "fall-back"));
            let cached = cached.into_iter().map(DirectoryEntry::cached);
            pins.chain(fallbacks).chain(cached).collect::<Vec<_>>()
        });
        DirectoryPart { entries: entries.collect(), total }
    }

    /// Returns the entries of the consumers whose organisation's code begins with `search`, from the `skip`th
    /// on, at most `count`.
    #[must_use]
    pub fn consumer_entries(&self, search: &str, skip: usize, count: usize) -> DirectoryPart {
        let (now_s, file, cache) = (self.shared.now_s(), self.file(), &self.shared.cache);
        let listed = file.senders().map(|sender| (Arc::clone(sender), Origin::File, None));
        let cached = cache.senders.iter().map(|(_, cached)| {
            let age_s = now_s - cached.stamp.answered_s;
            (cached.sender, cached.stamp.origin, Some(age_s))
        });
        let mut all: Vec<_> = listed
            .chain(cached)
            .filter(|(sender, ..)| sender.ods.as_str().starts_with(search))
            .collect();
        all.sort_by(|(one, ..), (other, ..)| (&one.ods, &one.asid).cmp(&(&other.ods, &other.asid)));
        let total = all.len();
        let part = all.iter().skip(skip).take(count);
        let entries = part
            .map(|(sender, origin, age_s)| DirectoryEntry::sender(sender, origin.label(), *age_s));
        DirectoryPart { entries: entries.collect(), total }
    }

    /// Returns the age of the newest cached answer of a live source, in seconds.
    #[must_use]
    pub fn newest_age_s(&self) -> Option<i64> {
        let practices = self.shared.cache.practices.iter();
        let answered = practices
            .flat_map(|(_, practice)| practice.rows.iter().map(|row| row.stamp.answered_s).max());
        answered.max().map(|answered_s| self.shared.now_s() - answered_s)
    }

    /// Looks a practice up past the cache, as a request would, and returns the trace.
    pub async fn explain(&self, ods: &OdsCode, interaction: &'static Interaction) -> Explanation {
        let shared = &self.shared;
        let in_force = shared.in_force.load_full();
        let file = &in_force.file;
        let cached = RegistrationView::all(&shared.cache.practice(ods), shared.rules());
        let trace = LookupTrace::default();
        if file.denies_practice(ods) {
            let answer = Err("the directory file denies this practice".to_owned());
            return Explanation { cached, trace, answer };
        }
        let pins = file.pins(ods);
        let is_pinned = pins.iter().any(|pin| pin.serves(interaction));
        let Some(sources) = in_force.sources.as_ref().filter(|_| !is_pinned) else {
            let pins = file.undenied(pins);
            let pinned =
                (!pins.is_empty()).then_some(FoundNow { origin: Origin::File, providers: pins });
            return Explanation { cached, trace, answer: Ok(pinned) };
        };
        let waiters = Arc::new(LookupWaiters::new(Some(Payer::Operator.account())));
        let mut look_up =
            sources.begin(&waiters, shared.deadlines.waiting, &shared.metrics, &shared.sharing);
        look_up.past_caches = shared.cache.practice(ods).rows_for(interaction).next().is_some();
        let answer = match look_up.practice(ods, interaction).await {
            Ok(DirectoryAnswer::Found(found)) => {
                let others = look_up.other_interactions(ods, &found).await.unwrap_or_default();
                let others = others.into_iter().filter(|other| !other.serves(interaction));
                let providers: Vec<_> = found.providers.into_iter().chain(others).collect();
                let providers = file.undenied(&providers);
                Ok((!providers.is_empty()).then_some(FoundNow { origin: found.origin, providers }))
            }
            Ok(DirectoryAnswer::Absent(Certainty::Confirmed)) => Ok(None),
            // As for a request: a fall-back replaces a missing answer, never one that may be a failed search.
            Ok(DirectoryAnswer::Absent(Certainty::Unconfirmed)) => {
                Err("nothing was found, but the search may have failed".to_owned())
            }
            Err(fault) => {
                // A request would try an old cached entry first; those are in `cached`.
                let providers = file.undenied(file.fallbacks(ods));
                match providers.iter().any(|fallback| fallback.serves(interaction)) {
                    true => Ok(Some(FoundNow { origin: Origin::File, providers })),
                    false => Err(fault.to_string()),
                }
            }
        };
        Explanation { cached, trace: look_up.trace, answer }
    }
}
