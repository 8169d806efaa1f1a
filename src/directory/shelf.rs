//! What is held of the directory, and how fresh it is.
//!
//! A shelf knows keys, ages and limits; what a value means is known above.

use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;

use super::File;
use crate::metrics::Metrics;
use crate::spine::{Asid, OdsCode};

/// What can be asked for by itself.
pub(super) trait Key: Clone + Eq + Hash + Send + Sync + 'static {}
impl Key for Asid {}
impl Key for OdsCode {}

/// Entries of one kind: positives in one cache, absences in a small one of their own, so that a
/// scan of random codes pushes out nothing that is needed.
pub(super) struct Shelf<K, V> {
    found: Cache<(u64, K), Entry<V>>,
    absent: Cache<(u64, K), ()>,
    fresh: Duration,
}

struct Entry<V> {
    value: Arc<V>,
    answered_s: i64,
}

impl<V> Clone for Entry<V> {
    fn clone(&self) -> Self {
        Self { value: Arc::clone(&self.value), answered_s: self.answered_s }
    }
}

/// One question to the source, and when it is put.
pub(super) struct Asked<'a, K, V> {
    pub(super) file: &'a File,
    pub(super) source: fn(&File, &K) -> Option<V>,
    pub(super) now_s: i64,
    pub(super) metrics: &'a Metrics,
}

impl<K, V> Asked<'_, K, V> {
    fn answer(&self, key: &K) -> Option<Entry<V>> {
        self.metrics.directory_source();
        let value = (self.source)(self.file, key)?;
        Some(Entry { value: Arc::new(value), answered_s: self.now_s })
    }
}

pub(super) enum Look<V> {
    Fresh(Arc<V>),
    Stale(Arc<V>),
    Absent,
    Nothing,
}

impl<K: Key, V: Send + Sync + 'static> Shelf<K, V> {
    pub(super) fn new(
        (fresh, stale, found_max): (Duration, Duration, u64),
        (absent, absent_max): (Duration, u64),
    ) -> Self {
        let found = Cache::builder().max_capacity(found_max).time_to_live(fresh + stale).build();
        let absent = Cache::builder().max_capacity(absent_max).time_to_live(absent).build();
        Self { found, absent, fresh }
    }

    pub(super) async fn look(&self, key: &(u64, K), now_s: i64) -> Look<V> {
        if let Some(entry) = self.found.get(key).await {
            // Security: an answer from the future is no answer; a clock set back must not make an
            // old one young.
            let age_s = now_s - entry.answered_s;
            return match u64::try_from(age_s) {
                Ok(age_s) if age_s < self.fresh.as_secs() => Look::Fresh(entry.value),
                Ok(_) => Look::Stale(entry.value),
                Err(_) => {
                    self.found.invalidate(key).await;
                    Look::Nothing
                }
            };
        }
        if self.absent.contains_key(key) { Look::Absent } else { Look::Nothing }
    }

    /// Asks the source once, however many wait.
    pub(super) async fn load(&self, key: (u64, K), asked: Asked<'_, K, V>) -> Option<Arc<V>> {
        let answer = async { asked.answer(&key.1) };
        match self.found.optionally_get_with(key.clone(), answer).await {
            Some(entry) => Some(entry.value),
            None => {
                self.absent.insert(key, ()).await;
                None
            }
        }
    }

    pub(super) async fn refresh(&self, key: &(u64, K), asked: Asked<'_, K, V>) {
        match asked.answer(&key.1) {
            Some(entry) => self.found.insert(key.clone(), entry).await,
            None => self.found.invalidate(key).await,
        }
    }

    pub(super) async fn forget(&self, key: &(u64, K)) {
        self.found.invalidate(key).await;
        self.absent.invalidate(key).await;
    }

    pub(super) fn held(&self) -> u64 {
        self.found.entry_count() + self.absent.entry_count()
    }
}
