//! What is held of the directory, how old it may grow, and what a new answer does to it.
//!
//! Pure but for two caches: ages are judged by the clock the caller reads, and what is held was
//! answered when it says, however often it has been loaded since.

use std::hash::{BuildHasher as _, Hash};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use moka::ops::compute::Op;
use moka::sync::Cache;

use super::Freshness;
use super::rules::FoundRegistrations;
use super::source::Origin;
use crate::consumers::Sender;
use crate::interaction::Interaction;
use crate::policy::ProviderRegistration;
use crate::spine::{Asid, OdsCode};

/// A registration, and when the directory said so.
#[derive(Debug, Clone)]
pub(super) struct HeldRegistration {
    pub(super) provider: Arc<ProviderRegistration>,
    pub(super) since: Since,
    /// When the directory first said that this is no longer so, and when this process last heard it.
    pub(super) doubted_s: Option<i64>,
    pub(super) doubt_heard: Option<Instant>,
}

/// When something was answered, by whom, and whether it has to be asked for again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Since {
    pub(super) answered_s: i64,
    pub(super) origin: Origin,
    pub(super) mark: Mark,
    /// When this process heard it; a snapshot was heard by another.
    pub(super) heard: Option<Instant>,
}

/// Why something held counts as older than it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mark {
    None,
    /// It comes from a snapshot: served, and asked for again.
    Loaded,
    /// An operator or a change of the practice wants it asked for first.
    Flushed,
}

/// What is held of one practice.
#[derive(Debug, Default)]
pub(super) struct HeldPractice {
    pub(super) rows: Vec<HeldRegistration>,
    /// When a request last used it.
    pub(super) used_s: AtomicI64,
}

/// What is held of one sender.
#[derive(Debug, Clone)]
pub(super) struct HeldSender {
    pub(super) sender: Arc<Sender>,
    pub(super) since: Since,
}

/// How old something held is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Age {
    /// Served as it is.
    Fresh,
    /// Served while it is asked for again.
    Stale,
    /// Asked for again first; served if no answer comes.
    Old,
    /// Of no use.
    Dead,
}

/// Ends of the ages, in seconds from the directory's answer.
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

    /// Security: an answer from the future is no answer; a clock set back must not make an old one
    /// young.
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
    /// The registrations for one interaction.
    pub(super) fn rows_for(
        &self,
        interaction: &Interaction,
    ) -> impl Iterator<Item = &HeldRegistration> + Clone {
        self.rows.iter().filter(move |row| row.provider.serves(interaction))
    }

    /// How old what is held for one interaction is: as old as its oldest row. Nothing held is
    /// nothing.
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
                // Doubted: served behind a question that is not put again before its time.
                (Age::Fresh, Some(_)) => Age::Stale,
                (age, _) => age,
            }
        });
        ages.max()
    }

    /// How long ago the directory answered for one interaction, in seconds.
    pub(super) fn age_s(&self, interaction: &Interaction, now_s: i64) -> u64 {
        let oldest = self.rows_for(interaction).map(|row| row.since.answered_s).min();
        oldest
            .and_then(|answered_s| u64::try_from(now_s.saturating_sub(answered_s)).ok())
            .unwrap_or_default()
    }

    /// Whether the directory has been heard about this interaction since then.
    pub(super) fn is_heard(&self, interaction: &Interaction, started: Instant) -> bool {
        let mut rows = self.rows_for(interaction).peekable();
        let heard = |row: &HeldRegistration| row.since.heard.max(row.doubt_heard) >= Some(started);
        rows.peek().is_some() && rows.all(heard)
    }

    /// Whether the directory has said that what is held is no longer so.
    pub(super) fn is_doubted(&self, interaction: &Interaction) -> bool {
        self.rows_for(interaction).any(|row| row.doubted_s.is_some())
    }

    /// Whether asking again now would tell nothing yet.
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

    pub(super) fn used(&self, now_s: i64) {
        self.used_s.store(now_s, Ordering::Relaxed);
    }

    /// What is held once the directory has answered for one interaction.
    ///
    /// An answer that has become ambiguous does not replace one that was not, for the while in
    /// which somebody may be mending it.
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

    /// What is held once the rest of the same systems' registrations is known too.
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
        // Another system's registration is not answered by this one's, unless the practice has moved
        // away from it: two are an ambiguity.
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

    /// What is held once the directory has said that nothing is registered.
    ///
    /// One such answer deletes nothing: the second, a minute later, does.
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

    /// What is held once everything is to be asked for again.
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
    fn doubt(&self, freshness: &Freshness, now_s: i64) -> Option<Self> {
        let twice = self.doubted_s.is_some_and(|since_s| freshness.is_confirmed(since_s, now_s));
        let dead = self.since.age(freshness.provider_windows(), now_s) == Age::Dead;
        let (doubted_s, doubt_heard) =
            (Some(self.doubted_s.unwrap_or(now_s)), Some(Instant::now()));
        // It has been asked for again: a flush is done with.
        let since = Since { mark: Mark::None, ..self.since };
        (!twice && !dead).then(|| Self { doubted_s, doubt_heard, since, ..self.clone() })
    }
}

/// A tenth more or less, the same for the same answer, so that practices asked about together are
/// not asked about together for ever.
fn spread(ods: &OdsCode, answered_s: i64) -> f64 {
    let hash = SPREAD.hash_one((ods, answered_s)) % 2001;
    0.9 + f64::from(u32::try_from(hash).unwrap_or_default()) / 10_000.0
}

/// A hasher without a seed of its own.
const SPREAD: std::hash::BuildHasherDefault<std::hash::DefaultHasher> =
    std::hash::BuildHasherDefault::new();

/// The least time an absence is believed: until those who asked have heard of it.
const HEARD: Duration = Duration::from_secs(1);

/// An absence that is believed until then.
#[derive(Debug, Clone, Copy)]
struct Absence {
    until_s: i64,
    believed: Believed,
}

/// How far an absence is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Believed {
    /// It is one.
    Confirmed,
    /// It may be a search that failed: not asked again at once, and no reason to say no for good.
    ForNow,
}

impl Believed {
    pub(super) const fn when(confirmed: bool) -> Self {
        if confirmed { Self::Confirmed } else { Self::ForNow }
    }
}

/// Everything held: positives with room for every practice, absences in a small cache of their own,
/// so that a scan of random codes pushes out nothing that is needed.
#[derive(Debug)]
pub(super) struct RegistrationCache {
    pub(super) practices: Cache<OdsCode, Arc<HeldPractice>>,
    pub(super) senders: Cache<Asid, HeldSender>,
    absent: Cache<Absent, Absence>,
}

/// What may be absent.
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

    /// Marks a practice to be asked for again before it is used.
    pub(super) fn flush(&self, ods: &OdsCode) {
        self.practices.entry_by_ref(ods).and_compute_with(|held| match held {
            Some(held) => Op::Put(Arc::new(held.value().flushed())),
            None => Op::Nop,
        });
    }

    /// The same of a sender.
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

    /// Forgets what was not said by one of these.
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

    /// Practices, senders and absences held.
    pub(super) fn held(&self) -> u64 {
        self.practices.entry_count() + self.senders.entry_count() + self.absent.entry_count()
    }
}

#[cfg(test)]
mod tests;
