//! Rules of freshness: how long a cached answer may be used, and how a new answer changes cached ones.
//!
//! The rules are pure: callers pass the time.

use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::super::settings::Freshness;
use super::super::sources::FoundRegistrations;
use crate::registry::{Origin, ProviderRegistration, Sender};
use spine_types::OdsCode;
use spine_types::interaction::Interaction;

/// Period for which a sender is served without a refresh, unless `sender-max` is shorter.
const SENDER_FRESH: Duration = Duration::from_secs(5 * 60);
/// Period for which an ambiguous answer is served without a refresh.
const AMBIGUOUS_FRESH: Duration = Duration::from_secs(30);
/// Period for which an absence is cached; also the minimum time between two absent answers that remove a
/// cached provider.
pub(super) const ABSENT: Duration = Duration::from_secs(60);
/// Period since its last use in which a practice is refreshed before it grows stale.
const IN_USE: Duration = Duration::from_secs(60 * 60);
/// Minimum time between two refreshes of one practice ahead of expiry.
const AHEAD_AGAIN: Duration = Duration::from_secs(60);
/// Time by which another gateway's clock may be ahead of ours, in seconds.
pub(in crate::directory) const CLOCKS_DIFFER_MAX_S: i64 = 5;
/// Fraction of the fresh period after which a practice in use is refreshed.
const AHEAD_AFTER: f64 = 0.8;

/// Freshness rules at one time.
#[derive(Debug, Clone, Copy)]
pub(in crate::directory) struct FreshnessRules<'a> {
    pub(in crate::directory) freshness: &'a Freshness,
    /// Time at which ages are judged, in seconds since 1970.
    pub(in crate::directory) now_s: i64,
}

/// Cached registration with the time of the directory's answer.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::directory) struct CachedRegistration {
    pub(in crate::directory) provider: Arc<ProviderRegistration>,
    pub(in crate::directory) stamp: AnswerStamp,
    /// Set if the directory has answered without this registration since.
    pub(in crate::directory) doubt: Option<Doubt>,
}

/// Answers without a cached registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::directory) struct Doubt {
    /// Time of the first such answer, in seconds since 1970.
    pub(in crate::directory) first_s: i64,
    /// Time of the last such answer, in seconds since 1970.
    pub(in crate::directory) last_s: i64,
    /// Number of the last such answer; zero if it comes from a snapshot.
    pub(in crate::directory) last: u64,
}

/// Time, source and number of a cached answer, and a mark that makes it count as older.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::directory) struct AnswerStamp {
    /// Time of the answer, in seconds since 1970.
    pub(in crate::directory) answered_s: i64,
    pub(in crate::directory) origin: Origin,
    pub(in crate::directory) mark: AgeMark,
    /// Number of the answer in this process, from 1; zero if it comes from a snapshot.
    pub(in crate::directory) number: u64,
}

/// Reason why a cached entry counts as older than it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::directory) enum AgeMark {
    /// The entry's age counts.
    None,
    /// Loaded from a snapshot: at least stale, so it is served and refreshed.
    Loaded,
    /// Flushed by an operator or because the practice moved: at least old, so it is refreshed first, by an answer
    /// from this time on, in seconds since 1970.
    Flushed { from_s: i64 },
}

/// Cached registrations of one practice.
#[derive(Debug, Default)]
pub(in crate::directory) struct CachedPractice {
    pub(in crate::directory) rows: Vec<CachedRegistration>,
    /// Time of the last use by a request, in seconds since 1970.
    used_s: AtomicI64,
    /// Time of the last refresh ahead of expiry, in seconds since 1970.
    refreshed_ahead_s: AtomicI64,
}

/// Cached sender with the time of the directory's answer.
#[derive(Debug, Clone)]
pub(in crate::directory) struct CachedSender {
    pub(in crate::directory) sender: Arc<Sender>,
    pub(in crate::directory) stamp: AnswerStamp,
}

/// Age class of a cached entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::directory) enum Age {
    /// Served without a refresh.
    Fresh,
    /// Served while it is refreshed in the background.
    Stale,
    /// Refreshed first; served if no answer comes.
    Old,
    /// Must not be served.
    Dead,
}

/// Durations of the age classes: `stale` follows `fresh`; `max` counts from the directory's answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct AgeLimits {
    fresh: Duration,
    stale: Duration,
    max: Duration,
}

/// Intended use of a cached registration; decides how old it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::directory) enum RegistrationUse {
    /// The consumer has named the service root, or the interaction only reads.
    Confirmed,
    /// A write that goes wherever the directory says: an entry that is not fresh is refreshed first.
    Trusted,
}

/// Usability of a cached practice for one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::directory) enum Usability {
    /// No cached entry may be served.
    Missing,
    /// Served without a refresh.
    Fresh,
    /// Served, and refreshed in the background if `refresh`.
    Stale { refresh: bool },
    /// Refreshed first, if `refresh`; used as `unanswered` says if no answer comes.
    Old { refresh: bool, unanswered: OldEntryUse },
}

/// Use of an old entry when no source answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::directory) enum OldEntryUse {
    /// The entry is served.
    Served,
    /// The entry is too old for this use.
    TooOld,
    /// The directory has answered without the entry: it may have been withdrawn.
    Doubted,
}

impl<'a> FreshnessRules<'a> {
    pub(super) fn provider_limits(self) -> AgeLimits {
        let Freshness { provider: fresh, provider_stale: stale, provider_max: max, .. } =
            *self.freshness;
        AgeLimits { fresh, stale, max }
    }

    /// Returns the age class of a sender.
    pub(in crate::directory) fn sender_age(self, stamp: &AnswerStamp) -> Age {
        let max = self.freshness.sender_max;
        stamp
            .age(AgeLimits { fresh: SENDER_FRESH.min(max), stale: Duration::ZERO, max }, self.now_s)
    }

    /// Returns true if a doubt has lasted long enough that another absent answer removes the entry.
    fn is_confirmed(self, doubt: Doubt) -> bool {
        u64::try_from(self.now_s.saturating_sub(doubt.first_s))
            .is_ok_and(|age_s| age_s >= ABSENT.as_secs())
    }

    /// Returns true if an answer of this time is not yet due to be refreshed ahead of expiry.
    fn is_young(self, answered_s: i64) -> bool {
        self.is_within(answered_s, self.freshness.provider.mul_f64(AHEAD_AFTER))
    }

    /// Returns true if a time lies less than a period ago.
    pub(in crate::directory) fn is_within(self, time_s: i64, period: Duration) -> bool {
        let period_s = i64::try_from(period.as_secs()).unwrap_or(i64::MAX);
        self.now_s.saturating_sub(time_s) < period_s
    }
}

impl AgeMark {
    /// Returns the mark of an entry that an operator flushes at `now_s`.
    pub(super) const fn flushed(now_s: i64) -> Self {
        Self::Flushed { from_s: surely_after(now_s) }
    }
}

impl AnswerStamp {
    pub(super) const fn is_flushed(&self) -> bool {
        matches!(self.mark, AgeMark::Flushed { .. })
    }

    /// Returns true if an answer that another gateway got at `answered_s` is newer than this one.
    const fn is_before(&self, answered_s: i64) -> bool {
        match self.mark {
            AgeMark::None => surely_after(self.answered_s) <= answered_s,
            // It is the same answer, which then is younger than it counts here.
            AgeMark::Loaded => self.answered_s <= answered_s,
            AgeMark::Flushed { from_s } => self.answered_s < answered_s && from_s <= answered_s,
        }
    }

    /// Returns the age class at `now_s`, in seconds since 1970.
    ///
    /// Security: an answer from the future is dead, so that a clock set back does not make an old answer
    /// fresh.
    pub(super) fn age(&self, limits: AgeLimits, now_s: i64) -> Age {
        let Ok(age_s) = u64::try_from(now_s.saturating_sub(self.answered_s)) else {
            return Age::Dead;
        };
        let by_time = if age_s >= limits.max.as_secs() {
            Age::Dead
        } else if age_s < limits.fresh.as_secs() {
            Age::Fresh
        } else if age_s < limits.fresh.saturating_add(limits.stale).as_secs() {
            Age::Stale
        } else {
            Age::Old
        };
        by_time.max(match self.mark {
            AgeMark::None => Age::Fresh,
            AgeMark::Loaded => Age::Stale,
            AgeMark::Flushed { .. } => Age::Old,
        })
    }
}

impl CachedPractice {
    /// Returns a practice with these registrations, used by a request at `used_s`.
    pub(super) fn new(rows: Vec<CachedRegistration>, used_s: i64) -> Self {
        Self { rows, used_s: AtomicI64::new(used_s), refreshed_ahead_s: AtomicI64::default() }
    }

    /// Returns the registrations for one interaction.
    pub(in crate::directory) fn rows_for(
        &self,
        interaction: &Interaction,
    ) -> impl Iterator<Item = &CachedRegistration> + Clone {
        self.rows.iter().filter(move |row| row.provider.serves(interaction))
    }

    /// Returns all registrations.
    pub(in crate::directory) fn providers(&self) -> Vec<Arc<ProviderRegistration>> {
        self.rows.iter().map(|row| Arc::clone(&row.provider)).collect()
    }

    /// Decides how the practice may be used for a request.
    pub(in crate::directory) fn usability(
        &self,
        interaction: &Interaction,
        intended: RegistrationUse,
        rules: FreshnessRules<'_>,
    ) -> Usability {
        let refresh = || !self.rests(interaction, rules);
        match self.age(interaction, rules) {
            None | Some(Age::Dead) => Usability::Missing,
            Some(Age::Fresh) => Usability::Fresh,
            Some(Age::Stale) if intended == RegistrationUse::Confirmed => {
                Usability::Stale { refresh: refresh() }
            }
            Some(Age::Stale | Age::Old) => {
                let max_s = rules.freshness.stale_writes_max.as_secs();
                let unanswered = match intended {
                    RegistrationUse::Confirmed => OldEntryUse::Served,
                    RegistrationUse::Trusted if self.is_doubted(interaction) => {
                        OldEntryUse::Doubted
                    }
                    RegistrationUse::Trusted if self.age_s(interaction, rules.now_s) >= max_s => {
                        OldEntryUse::TooOld
                    }
                    RegistrationUse::Trusted => OldEntryUse::Served,
                };
                Usability::Old { refresh: refresh(), unanswered }
            }
        }
    }

    /// Returns the age class for one interaction, that of its oldest row; `None` if it has no row.
    pub(in crate::directory) fn age(
        &self,
        interaction: &Interaction,
        rules: FreshnessRules<'_>,
    ) -> Option<Age> {
        let rows = self.rows_for(interaction);
        let is_ambiguous = rows.clone().count() > 1;
        let ages = rows.map(|row| {
            let mut limits = rules.provider_limits();
            limits.fresh = limits.fresh.mul_f64(spread(&row.provider.ods, row.stamp.answered_s));
            if is_ambiguous {
                limits.fresh = limits.fresh.min(AMBIGUOUS_FRESH);
            }
            match (row.stamp.age(limits, rules.now_s), row.doubt) {
                // A doubted row is never fresh; `rests` delays the next refresh.
                (Age::Fresh, Some(_)) => Age::Stale,
                (age, _) => age,
            }
        });
        ages.max()
    }

    /// Returns the age in seconds of the oldest answer for one interaction.
    pub(in crate::directory) fn age_s(&self, interaction: &Interaction, now_s: i64) -> u64 {
        let oldest = self.rows_for(interaction).map(|row| row.stamp.answered_s).min();
        oldest
            .and_then(|answered_s| u64::try_from(now_s.saturating_sub(answered_s)).ok())
            .unwrap_or_default()
    }

    /// Returns true if the directory has answered for this interaction after the answer of this number.
    pub(in crate::directory) fn is_answered_after(
        &self,
        interaction: &Interaction,
        number: u64,
    ) -> bool {
        let mut rows = self.rows_for(interaction).peekable();
        let last = |row: &CachedRegistration| {
            row.stamp.number.max(row.doubt.map_or(0, |doubt| doubt.last))
        };
        rows.peek().is_some() && rows.all(|row| last(row) > number)
    }

    /// Returns true if an answer for this interaction that another gateway got at `answered_s` is newer than all
    /// that is known here.
    pub(in crate::directory) fn is_before(
        &self,
        interaction: &Interaction,
        answered_s: i64,
    ) -> bool {
        self.rows_for(interaction).all(|row| {
            row.stamp.is_before(answered_s)
                && row.doubt.is_none_or(|doubt| surely_after(doubt.last_s) <= answered_s)
        })
    }

    /// Returns true if no answer for this interaction is so old that it is refreshed ahead of expiry.
    pub(in crate::directory) fn is_young(
        &self,
        interaction: &Interaction,
        rules: FreshnessRules<'_>,
    ) -> bool {
        self.rows_for(interaction).all(|row| rules.is_young(row.stamp.answered_s))
    }

    /// Returns true if the directory has answered without a cached registration of this interaction.
    pub(in crate::directory) fn is_doubted(&self, interaction: &Interaction) -> bool {
        self.rows_for(interaction).any(|row| row.doubt.is_some())
    }

    /// Returns true if it is too early to refresh: a second denial would not be believed yet.
    fn rests(&self, interaction: &Interaction, rules: FreshnessRules<'_>) -> bool {
        let mut rows = self.rows_for(interaction).peekable();
        rows.peek().is_some()
            && rows.all(|row| {
                !row.stamp.is_flushed() && row.doubt.is_some_and(|doubt| !rules.is_confirmed(doubt))
            })
    }

    /// Records a refresh ahead of expiry at `now_s`.
    pub(super) fn refreshed_ahead(&self, now_s: i64) {
        self.refreshed_ahead_s.store(now_s, Ordering::Relaxed);
    }

    /// Records a use by a request at `now_s`.
    pub(in crate::directory) fn used(&self, now_s: i64) {
        self.used_s.store(now_s, Ordering::Relaxed);
    }

    /// Returns the interaction to refresh ahead of expiry, with the time of its answer, if one is due.
    pub(super) fn due(&self, rules: FreshnessRules<'_>) -> Option<(i64, &'static Interaction)> {
        let oldest = self.rows.iter().min_by_key(|row| row.stamp.answered_s)?;
        let interaction = *oldest.provider.interactions.first()?;
        let is_due =
            oldest.stamp.mark == AgeMark::Loaded || !rules.is_young(oldest.stamp.answered_s);
        let is_in_use = rules.is_within(self.used_s.load(Ordering::Relaxed), IN_USE);
        let lately = rules.is_within(self.refreshed_ahead_s.load(Ordering::Relaxed), AHEAD_AGAIN);
        (is_due && is_in_use && !lately && !self.rests(interaction, rules))
            .then_some((oldest.stamp.answered_s, interaction))
    }

    /// Returns the entry after the directory has answered for one interaction.
    ///
    /// A new answer with several registrations does not replace a single usable one at once: the
    /// directory may be in the middle of a change.
    pub(in crate::directory) fn after_found(
        &self,
        interaction: &'static Interaction,
        found: &FoundRegistrations,
        rules: FreshnessRules<'_>,
        number: u64,
    ) -> Self {
        let cached = self.rows_for(interaction).count();
        let is_usable = self.age(interaction, rules).is_some_and(|age| age < Age::Dead);
        if cached == 1 && is_usable && found.providers.len() > 1 {
            return self.after_absent(interaction, rules, number);
        }
        let has_moved = |row: &CachedRegistration| {
            let same = |new: &Arc<ProviderRegistration>| new.party_key == row.provider.party_key;
            !found.providers.iter().any(same)
                && self
                    .rows_for(interaction)
                    .any(|old| old.provider.party_key == row.provider.party_key)
        };
        let others = self.rows.iter().filter(|row| !row.provider.serves(interaction));
        let others = others.cloned().map(|mut row| {
            if has_moved(&row) {
                row.stamp.mark = AgeMark::Flushed { from_s: rules.now_s };
            }
            row
        });
        let new = CachedRegistration::all(&found.providers, found.origin, rules.now_s, number);
        self.with(others.chain(new).collect())
    }

    /// Returns the entry after the directory has answered for the same systems' other interactions.
    pub(in crate::directory) fn after_others(
        &self,
        found: &FoundRegistrations,
        others: &[Arc<ProviderRegistration>],
        rules: FreshnessRules<'_>,
        number: u64,
    ) -> Self {
        let theirs = |row: &CachedRegistration| {
            found.systems.iter().any(|system| system.asid == row.provider.asid)
        };
        // A registration of one system does not replace another system's, unless the practice has moved
        // away from that one: both stay, as an ambiguity.
        let is_replaced = |row: &CachedRegistration| {
            let ids = &row.provider.interactions;
            let same = |new: &Arc<ProviderRegistration>| {
                let its = new.asid == row.provider.asid || row.stamp.is_flushed();
                its && ids.iter().any(|interaction| new.serves(interaction))
            };
            others.iter().any(same)
        };
        let kept = self.rows.iter().filter(|row| !is_replaced(row)).filter_map(|row| {
            if theirs(row) && row.stamp.answered_s != rules.now_s {
                return row.doubted(rules, number);
            }
            Some(row.clone())
        });
        let new = CachedRegistration::all(others, found.origin, rules.now_s, number);
        self.with(kept.chain(new).collect())
    }

    /// Returns the entry after the directory has answered that nothing is registered.
    ///
    /// The first such answer only marks the rows as doubted; one that comes a minute or more after the
    /// first removes them.
    pub(in crate::directory) fn after_absent(
        &self,
        interaction: &Interaction,
        rules: FreshnessRules<'_>,
        number: u64,
    ) -> Self {
        let rows = self.rows.iter().filter_map(|row| match row.provider.serves(interaction) {
            true => row.doubted(rules, number),
            false => Some(row.clone()),
        });
        self.with(rows.collect())
    }

    /// Returns the entry with all rows marked at `now_s` to be refreshed before use.
    pub(super) fn flushed(&self, now_s: i64) -> Self {
        let rows = self.rows.iter().cloned().map(|mut row| {
            row.stamp.mark = AgeMark::flushed(now_s);
            row
        });
        self.with(rows.collect())
    }

    pub(super) fn with(&self, rows: Vec<CachedRegistration>) -> Self {
        let ahead_s = self.refreshed_ahead_s.load(Ordering::Relaxed);
        let refreshed_ahead_s = AtomicI64::new(ahead_s);
        Self { refreshed_ahead_s, ..Self::new(rows, self.used_s.load(Ordering::Relaxed)) }
    }
}

impl CachedRegistration {
    /// Returns a row for each registration of an answer.
    fn all(
        providers: &[Arc<ProviderRegistration>],
        origin: Origin,
        answered_s: i64,
        number: u64,
    ) -> impl Iterator<Item = Self> {
        let stamp = AnswerStamp { answered_s, origin, mark: AgeMark::None, number };
        providers.iter().map(move |provider| Self {
            provider: Arc::clone(provider),
            stamp,
            doubt: None,
        })
    }

    /// Returns the row as doubted; `None` if it was doubted long enough before, or is dead.
    fn doubted(&self, rules: FreshnessRules<'_>, number: u64) -> Option<Self> {
        let is_confirmed = self.doubt.is_some_and(|doubt| rules.is_confirmed(doubt));
        if is_confirmed || self.stamp.age(rules.provider_limits(), rules.now_s) == Age::Dead {
            return None;
        }
        let first_s = self.doubt.map_or(rules.now_s, |doubt| doubt.first_s);
        // The refresh that a flush asked for has been done.
        let stamp = AnswerStamp { mark: AgeMark::None, ..self.stamp };
        let doubt = Some(Doubt { first_s, last_s: rules.now_s, last: number });
        Some(Self { doubt, stamp, ..self.clone() })
    }
}

/// Returns the first time of another gateway's clock that is after `time_s` of ours, in seconds since 1970: an
/// answer of the same second may be from before, and its clock may be ahead.
pub(super) const fn surely_after(time_s: i64) -> i64 {
    time_s.saturating_add(1 + CLOCKS_DIFFER_MAX_S)
}

/// Returns a factor from 0.9 to 1.1, constant for one answer, that spreads the refreshes of practices
/// looked up at the same time.
fn spread(ods: &OdsCode, answered_s: i64) -> f64 {
    let hash = SPREAD.hash_one((ods, answered_s)) % 2001;
    0.9 + f64::from(u32::try_from(hash).unwrap_or_default()) / 10_000.0
}

/// Hasher without a random seed, so that every process spreads alike.
const SPREAD: std::hash::BuildHasherDefault<std::hash::DefaultHasher> =
    std::hash::BuildHasherDefault::new();

#[cfg(test)]
mod capacity;
#[cfg(test)]
mod tests;
