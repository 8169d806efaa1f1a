//! Cache of directory answers: practices, senders and absences.
//!
//! An entry keeps the time of the directory's answer, however often it has been loaded from a snapshot since.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use moka::ops::compute::Op;
use moka::sync::Cache;

use super::lookups::LookupQuestion;
use super::settings::Freshness;
use super::sources::Certainty;
use crate::registry::Origin;
use spine_types::interaction::Interaction;
use spine_types::{Asid, CertificateName, OdsCode};

mod freshness;
mod snapshot;

pub(super) use freshness::{
    Age, AgeMark, AnswerStamp, CLOCKS_DIFFER_MAX_S, CachedPractice, CachedRegistration,
    CachedSender, FreshnessRules, OldEntryUse, RegistrationUse, Usability,
};
pub use snapshot::SnapshotError;

use freshness::{ABSENT, surely_after};

/// Limit: number of cached practices, of cached senders, and of cached hints of each kind.
///
/// England has some 6,500 practices.
pub(crate) const PRACTICES_MAX: u64 = 20_000;
/// Limit: number of cached absences.
pub(crate) const ABSENCES_MAX: u64 = 10_000;
/// Period for which an absence that may be a failed search is cached.
const ABSENT_UNCONFIRMED: Duration = Duration::from_secs(5);

/// Cached absence and the time of its expiry.
#[derive(Debug, Clone, Copy)]
struct Absence {
    until_s: i64,
    certainty: Certainty,
}

/// Cache of practices, senders and absences, and of hints that were learnt from answers.
///
/// Absences have a cache of their own, so that a scan of random codes evicts no registration.
#[derive(Debug)]
pub(super) struct RegistrationCache {
    pub(super) freshness: Freshness,
    pub(super) practices: Cache<OdsCode, Arc<CachedPractice>>,
    pub(super) senders: Cache<Asid, CachedSender>,
    absent: Cache<LookupQuestion, Absence>,
    /// Practice of a receiver's ASID: a hint that chooses which practice to look up.
    pub(super) owners: Cache<Asid, OdsCode>,
    /// Service roots seen in look-ups; tells another practice's address from an unknown one.
    pub(super) roots: Cache<String, ()>,
    /// Certificate names of senders seen in look-ups; tells a consumer from an unknown system.
    pub(super) names: Cache<CertificateName, ()>,
    /// Number of the last answer.
    answers: AtomicU64,
    /// Number of flushes so far; look-ups compare it to notice a flush while they ran.
    flushes: AtomicU64,
    /// Time from which answers of other gateways are taken, in seconds since 1970: after the last flush, also for
    /// practices that were not cached then.
    taken_from_s: AtomicI64,
}

impl RegistrationCache {
    pub(super) fn new(freshness: Freshness) -> Self {
        let hints_max = PRACTICES_MAX * 4;
        Self {
            practices: Cache::builder()
                .max_capacity(PRACTICES_MAX)
                .time_to_live(freshness.provider_max)
                .build(),
            senders: Cache::builder()
                .max_capacity(PRACTICES_MAX)
                .time_to_live(freshness.sender_max)
                .build(),
            absent: Cache::builder().max_capacity(ABSENCES_MAX).time_to_live(ABSENT).build(),
            owners: Cache::builder()
                .max_capacity(hints_max)
                .time_to_live(freshness.provider_max)
                .build(),
            roots: Cache::builder().max_capacity(PRACTICES_MAX).build(),
            names: Cache::builder().max_capacity(PRACTICES_MAX).build(),
            freshness,
            answers: AtomicU64::default(),
            flushes: AtomicU64::default(),
            taken_from_s: AtomicI64::new(i64::MIN),
        }
    }

    pub(super) const fn rules(&self, now_s: i64) -> FreshnessRules<'_> {
        FreshnessRules { freshness: &self.freshness, now_s }
    }

    /// Returns a practice's entry; one without registrations if nothing is cached.
    pub(super) fn practice(&self, ods: &OdsCode) -> Arc<CachedPractice> {
        self.practices.get(ods).unwrap_or_default()
    }

    /// Returns the number of the last answer.
    pub(super) fn last_answer(&self) -> u64 {
        self.answers.load(Ordering::Acquire)
    }

    /// Counts an answer of the directory and returns its number.
    pub(super) fn next_answer(&self) -> u64 {
        self.answers.fetch_add(1, Ordering::AcqRel) + 1
    }

    pub(super) fn insert_practice(&self, ods: &OdsCode, practice: CachedPractice) {
        for row in &practice.rows {
            self.owners.insert(row.provider.asid.clone(), ods.clone());
            let root = row.provider.root.as_str();
            self.roots.insert(root.strip_suffix('/').unwrap_or(root).to_owned(), ());
        }
        self.practices.insert(ods.clone(), Arc::new(practice));
    }

    pub(super) fn insert_sender(&self, cached: CachedSender) {
        for name in &cached.sender.names {
            self.names.insert(name.clone(), ());
        }
        self.senders.insert(cached.sender.asid.clone(), cached);
    }

    /// Returns the certainty of a cached absence; `None` if it is not cached or has expired.
    pub(super) fn absence(&self, question: &LookupQuestion, now_s: i64) -> Option<Certainty> {
        let absence = self.absent.get(question)?;
        (now_s < absence.until_s).then_some(absence.certainty)
    }

    pub(super) fn insert_absence(
        &self,
        question: LookupQuestion,
        certainty: Certainty,
        now_s: i64,
    ) {
        let lasts = match certainty {
            Certainty::Confirmed => ABSENT,
            Certainty::Unconfirmed => ABSENT_UNCONFIRMED,
        };
        let until_s = now_s.saturating_add(i64::try_from(lasts.as_secs()).unwrap_or(i64::MAX));
        self.absent.insert(question, Absence { until_s, certainty });
    }

    pub(super) fn remove_absence(&self, question: &LookupQuestion) {
        self.absent.invalidate(question);
    }

    /// Returns the practice in use whose refresh is most overdue, with one of its interactions, and records
    /// that it is refreshed now.
    pub(super) fn take_due(&self, now_s: i64) -> Option<(OdsCode, &'static Interaction)> {
        let rules = self.rules(now_s);
        let due = self.practices.iter().filter_map(|(ods, practice)| {
            let (answered_s, interaction) = practice.due(rules)?;
            Some((answered_s, ods, practice, interaction))
        });
        let (_, ods, practice, interaction) = due.min_by_key(|(answered_s, ..)| *answered_s)?;
        practice.refreshed_ahead(now_s);
        Some(((*ods).clone(), interaction))
    }

    /// Returns the number of flushes so far.
    pub(super) fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Acquire)
    }

    /// Returns true if an answer that another gateway got at `answered_s` is from after the last flush.
    pub(super) fn is_after_flushes(&self, answered_s: i64) -> bool {
        self.taken_from_s.load(Ordering::Acquire) <= answered_s
    }

    /// Marks the entries of one practice, or all entries, to be refreshed before use, and forgets absences;
    /// returns the number of entries marked. `now_s` is in seconds since 1970.
    pub(super) fn flush(&self, ods: Option<&OdsCode>, now_s: i64) -> usize {
        // Set before the flush is counted: a look-up that begins afterwards does not notice the flush.
        self.taken_from_s.fetch_max(surely_after(now_s), Ordering::AcqRel);
        // Counted first: a look-up that began earlier and ends later marks its own entry.
        self.flushes.fetch_add(1, Ordering::AcqRel);
        let practices: Vec<_> = match ods {
            Some(ods) => {
                self.practices.contains_key(ods).then(|| ods.clone()).into_iter().collect()
            }
            None => self.practices.iter().map(|(ods, _)| (*ods).clone()).collect(),
        };
        for ods in &practices {
            self.flush_practice(ods, now_s);
        }
        let senders = self.senders.iter().filter(|_| ods.is_none());
        let senders: Vec<_> = senders.map(|(asid, _)| asid).collect();
        for asid in &senders {
            self.flush_sender(asid, now_s);
        }
        self.forget_absences();
        practices.len() + senders.len()
    }

    /// Marks a practice at `now_s` to be refreshed before it is used.
    pub(super) fn flush_practice(&self, ods: &OdsCode, now_s: i64) {
        self.practices.entry_by_ref(ods).and_compute_with(|cached| match cached {
            Some(cached) => Op::Put(Arc::new(cached.value().flushed(now_s))),
            None => Op::Nop,
        });
    }

    /// Marks a sender at `now_s` to be refreshed before it is used.
    pub(super) fn flush_sender(&self, asid: &Asid, now_s: i64) {
        self.senders.entry_by_ref(asid).and_compute_with(|cached| match cached {
            Some(cached) => {
                let mut cached = cached.into_value();
                cached.stamp.mark = AgeMark::flushed(now_s);
                Op::Put(cached)
            }
            None => Op::Nop,
        });
    }

    /// Removes the entries of each source for which `is_kept` returns false, and all hints.
    pub(super) fn retain(&self, is_kept: impl Fn(Origin) -> bool) {
        for (ods, cached) in &self.practices {
            let rows = cached.rows.iter().filter(|row| is_kept(row.stamp.origin)).cloned();
            let rows: Vec<CachedRegistration> = rows.collect();
            match rows.len() {
                0 => self.practices.invalidate(&*ods),
                kept if kept == cached.rows.len() => {}
                _ => self.practices.insert((*ods).clone(), Arc::new(cached.with(rows))),
            }
        }
        for (asid, cached) in &self.senders {
            if !is_kept(cached.stamp.origin) {
                self.senders.invalidate(&*asid);
            }
        }
        self.owners.invalidate_all();
        self.roots.invalidate_all();
        self.names.invalidate_all();
    }

    pub(super) fn forget_absences(&self) {
        self.absent.invalidate_all();
    }

    /// Returns the number of cached practices, senders and absences.
    pub(super) fn entries(&self) -> u64 {
        self.practices.entry_count() + self.senders.entry_count() + self.absent.entry_count()
    }
}
