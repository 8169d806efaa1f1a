//! Cache of directory answers: their ages, and the effect of new answers on cached ones.
//!
//! Ages are judged by the clock that the caller reads. An entry keeps the time of the directory's answer,
//! however often it has been loaded from a snapshot since.

use std::hash::{BuildHasher as _, Hash};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use moka::ops::compute::Op;
use moka::sync::Cache;

use super::Freshness;
use super::rules::FoundRegistrations;
use crate::registry::{Origin, ProviderRegistration, Sender};
use spine_types::interaction::Interaction;
use spine_types::{Asid, OdsCode};

/// Cached registration with the time of the directory's answer.
#[derive(Debug, Clone)]
pub(super) struct HeldRegistration {
    pub(super) provider: Arc<ProviderRegistration>,
    pub(super) since: Since,
    /// Time of the first answer without this registration, in seconds since 1970.
    pub(super) doubted_s: Option<i64>,
    /// Time of the last such answer to this process.
    pub(super) doubt_heard: Option<Instant>,
}

/// Time and source of a cached answer, and a mark that makes it count as older.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Since {
    pub(super) answered_s: i64,
    pub(super) origin: Origin,
    pub(super) mark: Mark,
    /// Time at which this process received the answer; `None` if it comes from a snapshot.
    pub(super) heard: Option<Instant>,
}

/// Reason why a cached entry counts as older than it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mark {
    /// The entry's age counts.
    None,
    /// Loaded from a snapshot: at least stale, so it is served and refreshed.
    Loaded,
    /// Flushed by an operator or because the practice moved: at least old, so it is refreshed first.
    Flushed,
}

/// Cached registrations of one practice.
#[derive(Debug, Default)]
pub(super) struct HeldPractice {
    pub(super) rows: Vec<HeldRegistration>,
    /// Time of the last use by a request, in seconds since 1970.
    pub(super) used_s: AtomicI64,
}

/// Cached sender with the time of the directory's answer.
#[derive(Debug, Clone)]
pub(super) struct HeldSender {
    pub(super) sender: Arc<Sender>,
    pub(super) since: Since,
}

/// Age class of a cached entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Age {
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
pub(super) struct Windows {
    pub(super) fresh: Duration,
    pub(super) stale: Duration,
    pub(super) max: Duration,
}

impl Since {
    pub(super) fn now(now_s: i64, origin: Origin) -> Self {
        Self { answered_s: now_s, origin, mark: Mark::None, heard: Some(Instant::now()) }
    }

    /// Returns the age class at `now_s`, in seconds since 1970.
    ///
    /// Security: an answer from the future is dead, so that a clock set back does not make an old answer
    /// fresh.
    pub(super) fn age(&self, windows: Windows, now_s: i64) -> Age {
        let Ok(age_s) = u64::try_from(now_s.saturating_sub(self.answered_s)) else {
            return Age::Dead;
        };
        let by_time = if age_s < windows.fresh.as_secs() {
            Age::Fresh
        } else if age_s < windows.fresh.saturating_add(windows.stale).as_secs() {
            Age::Stale
        } else if age_s < windows.max.as_secs() {
            Age::Old
        } else {
            Age::Dead
        };
        by_time.max(match self.mark {
            Mark::None => Age::Fresh,
            Mark::Loaded => Age::Stale,
            Mark::Flushed => Age::Old,
        })
    }
}

impl HeldPractice {
    /// Returns the registrations for one interaction.
    pub(super) fn rows_for(
        &self,
        interaction: &Interaction,
    ) -> impl Iterator<Item = &HeldRegistration> + Clone {
        self.rows.iter().filter(move |row| row.provider.serves(interaction))
    }

    /// Returns the age class for one interaction, that of its oldest row; `None` if it has no row.
    pub(super) fn age(
        &self,
        interaction: &Interaction,
        freshness: &Freshness,
        now_s: i64,
    ) -> Option<Age> {
        let rows = self.rows_for(interaction);
        let ambiguous = rows.clone().count() > 1;
        let ages = rows.map(|row| {
            let mut windows = freshness.provider_windows();
            windows.fresh = windows.fresh.mul_f64(spread(&row.provider.ods, row.since.answered_s));
            if ambiguous {
                windows.fresh = windows.fresh.min(freshness.ambiguous);
            }
            match (row.since.age(windows, now_s), row.doubted_s) {
                // A doubted row is never fresh; `rests` delays the next refresh.
                (Age::Fresh, Some(_)) => Age::Stale,
                (age, _) => age,
            }
        });
        ages.max()
    }

    /// Returns the age in seconds of the oldest answer for one interaction.
    pub(super) fn age_s(&self, interaction: &Interaction, now_s: i64) -> u64 {
        let oldest = self.rows_for(interaction).map(|row| row.since.answered_s).min();
        oldest
            .and_then(|answered_s| u64::try_from(now_s.saturating_sub(answered_s)).ok())
            .unwrap_or_default()
    }

    /// Returns true if the directory has answered for this interaction since `started`.
    pub(super) fn is_heard(&self, interaction: &Interaction, started: Instant) -> bool {
        let mut rows = self.rows_for(interaction).peekable();
        let heard = |row: &HeldRegistration| row.since.heard.max(row.doubt_heard) >= Some(started);
        rows.peek().is_some() && rows.all(heard)
    }

    /// Returns true if the directory has answered without a cached registration of this interaction.
    pub(super) fn is_doubted(&self, interaction: &Interaction) -> bool {
        self.rows_for(interaction).any(|row| row.doubted_s.is_some())
    }

    /// Returns true if it is too early to refresh: a second denial would not be believed yet.
    pub(super) fn rests(
        &self,
        interaction: &Interaction,
        freshness: &Freshness,
        now_s: i64,
    ) -> bool {
        let mut rows = self.rows_for(interaction).peekable();
        rows.peek().is_some()
            && rows.all(|row| {
                let confirmed = |since_s| freshness.is_confirmed(since_s, now_s);
                row.since.mark != Mark::Flushed
                    && row.doubted_s.is_some_and(|since_s| !confirmed(since_s))
            })
    }

    /// Records a use by a request at `now_s`.
    pub(super) fn used(&self, now_s: i64) {
        self.used_s.store(now_s, Ordering::Relaxed);
    }

    /// Returns the entry after the directory has answered for one interaction.
    ///
    /// A new answer with several registrations does not replace a single usable one at once: the
    /// directory may be in the middle of a change.
    pub(super) fn after_found(
        &self,
        interaction: &'static Interaction,
        found: &FoundRegistrations,
        freshness: &Freshness,
        now_s: i64,
    ) -> Self {
        let since = Since::now(now_s, found.origin);
        let held = self.rows_for(interaction).count();
        let usable = self.age(interaction, freshness, now_s).is_some_and(|age| age < Age::Dead);
        if held == 1 && usable && found.providers.len() > 1 {
            return self.doubting(interaction, freshness, now_s);
        }
        let moved = |row: &HeldRegistration| {
            let same = |new: &Arc<ProviderRegistration>| new.party_key == row.provider.party_key;
            !found.providers.iter().any(same)
                && self
                    .rows_for(interaction)
                    .any(|old| old.provider.party_key == row.provider.party_key)
        };
        let others = self.rows.iter().filter(|row| !row.provider.serves(interaction));
        let others = others.cloned().map(|mut row| {
            if moved(&row) {
                row.since.mark = Mark::Flushed;
            }
            row
        });
        let fresh = found.providers.iter().map(|provider| HeldRegistration {
            provider: Arc::clone(provider),
            since,
            doubted_s: None,
            doubt_heard: None,
        });
        self.with(others.chain(fresh).collect())
    }

    /// Returns the entry after the same systems' other interactions are known too.
    pub(super) fn after_rest(
        &self,
        found: &FoundRegistrations,
        rest: &[Arc<ProviderRegistration>],
        freshness: &Freshness,
        now_s: i64,
    ) -> Self {
        let since = Since::now(now_s, found.origin);
        let theirs = |row: &HeldRegistration| {
            found.systems.iter().any(|system| system.asid == row.provider.asid)
        };
        // A registration of one system does not replace another system's, unless the practice has moved
        // away from that one: both stay, as an ambiguity.
        let answered = |row: &HeldRegistration| {
            let ids = &row.provider.interactions;
            let same = |new: &Arc<ProviderRegistration>| {
                let its = new.asid == row.provider.asid || row.since.mark == Mark::Flushed;
                its && ids.iter().any(|interaction| new.serves(interaction))
            };
            rest.iter().any(same)
        };
        let kept = self.rows.iter().filter(|row| !answered(row)).filter_map(|row| {
            if theirs(row) && row.since.answered_s != now_s {
                return row.doubt(freshness, now_s);
            }
            Some(row.clone())
        });
        let fresh = rest.iter().map(|provider| HeldRegistration {
            provider: Arc::clone(provider),
            since,
            doubted_s: None,
            doubt_heard: None,
        });
        self.with(kept.chain(fresh).collect())
    }

    /// Returns the entry after the directory has answered that nothing is registered.
    ///
    /// The first such answer only marks the rows as doubted; a second one after
    /// `directory.freshness.absent` removes them.
    pub(super) fn doubting(
        &self,
        interaction: &Interaction,
        freshness: &Freshness,
        now_s: i64,
    ) -> Self {
        let rows = self.rows.iter().filter_map(|row| match row.provider.serves(interaction) {
            true => row.doubt(freshness, now_s),
            false => Some(row.clone()),
        });
        self.with(rows.collect())
    }

    /// Returns the entry with all rows marked to be refreshed before use.
    pub(super) fn flushed(&self) -> Self {
        let rows = self.rows.iter().cloned().map(|mut row| {
            row.since.mark = Mark::Flushed;
            row
        });
        self.with(rows.collect())
    }

    fn with(&self, rows: Vec<HeldRegistration>) -> Self {
        Self { rows, used_s: AtomicI64::new(self.used_s.load(Ordering::Relaxed)) }
    }
}

impl HeldRegistration {
    /// Returns the row as doubted; `None` if it was doubted long enough before, or is dead.
    fn doubt(&self, freshness: &Freshness, now_s: i64) -> Option<Self> {
        let twice = self.doubted_s.is_some_and(|since_s| freshness.is_confirmed(since_s, now_s));
        let dead = self.since.age(freshness.provider_windows(), now_s) == Age::Dead;
        let (doubted_s, doubt_heard) =
            (Some(self.doubted_s.unwrap_or(now_s)), Some(Instant::now()));
        // The refresh that a flush asked for has been done.
        let since = Since { mark: Mark::None, ..self.since };
        (!twice && !dead).then(|| Self { doubted_s, doubt_heard, since, ..self.clone() })
    }
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

/// Minimum time for which an absence is cached, so that the waiting requests see it.
const HEARD: Duration = Duration::from_secs(1);

/// Cached absence and the time of its expiry.
#[derive(Debug, Clone, Copy)]
struct Absence {
    until_s: i64,
    believed: Believed,
}

/// Certainty of an absence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Believed {
    /// The directory has nothing registered.
    Confirmed,
    /// The search may have failed: not repeated at once, and no ground for a final refusal.
    ForNow,
}

impl Believed {
    pub(super) const fn when(confirmed: bool) -> Self {
        if confirmed { Self::Confirmed } else { Self::ForNow }
    }
}

/// Cache of practices, senders and absences.
///
/// Absences have a cache of their own, so that a scan of random codes evicts no registration.
#[derive(Debug)]
pub(super) struct RegistrationCache {
    pub(super) practices: Cache<OdsCode, Arc<HeldPractice>>,
    pub(super) senders: Cache<Asid, HeldSender>,
    absent: Cache<Absent, Absence>,
}

/// Subject of an absence.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Absent {
    Registration(OdsCode, &'static str),
    Sender(Asid),
    Owner(Asid),
}

impl RegistrationCache {
    pub(super) fn new(freshness: &Freshness) -> Self {
        Self {
            practices: Cache::builder()
                .max_capacity(freshness.practices_max)
                .time_to_live(freshness.provider_max)
                .build(),
            senders: Cache::builder()
                .max_capacity(freshness.practices_max)
                .time_to_live(freshness.sender_max)
                .build(),
            absent: Cache::builder()
                .max_capacity(freshness.absent_max)
                .time_to_live(freshness.absent.max(freshness.absent_unconfirmed).max(HEARD * 2))
                .build(),
        }
    }

    pub(super) fn absence(&self, what: &Absent, now_s: i64) -> Option<Believed> {
        let absence = self.absent.get(what)?;
        (now_s < absence.until_s).then_some(absence.believed)
    }

    pub(super) fn note_absent(
        &self,
        what: Absent,
        believed: Believed,
        lasts: Duration,
        now_s: i64,
    ) {
        let lasts = lasts.max(HEARD);
        let until_s = now_s.saturating_add(i64::try_from(lasts.as_secs()).unwrap_or(i64::MAX));
        self.absent.insert(what, Absence { until_s, believed });
    }

    /// Marks a practice to be refreshed before it is used.
    pub(super) fn flush(&self, ods: &OdsCode) {
        self.practices.entry_by_ref(ods).and_compute_with(|held| match held {
            Some(held) => Op::Put(Arc::new(held.value().flushed())),
            None => Op::Nop,
        });
    }

    /// Marks a sender to be refreshed before it is used.
    pub(super) fn flush_sender(&self, asid: &Asid) {
        self.senders.entry_by_ref(asid).and_compute_with(|held| match held {
            Some(held) => {
                let mut held = held.into_value();
                held.since.mark = Mark::Flushed;
                Op::Put(held)
            }
            None => Op::Nop,
        });
    }

    /// Removes entries of each source for which `said` returns false.
    pub(super) fn keep(&self, said: impl Fn(Origin) -> bool) {
        for (ods, held) in &self.practices {
            let rows = held.rows.iter().filter(|row| said(row.since.origin)).cloned();
            let rows: Vec<HeldRegistration> = rows.collect();
            match rows.len() {
                0 => self.practices.invalidate(&*ods),
                kept if kept == held.rows.len() => {}
                _ => self.practices.insert((*ods).clone(), Arc::new(held.with(rows))),
            }
        }
        for (asid, held) in &self.senders {
            if !said(held.since.origin) {
                self.senders.invalidate(&*asid);
            }
        }
    }

    pub(super) fn forget_absences(&self) {
        self.absent.invalidate_all();
    }

    /// Returns the number of cached practices, senders and absences.
    pub(super) fn held(&self) -> u64 {
        self.practices.entry_count() + self.senders.entry_count() + self.absent.entry_count()
    }
}

#[cfg(test)]
mod tests;
