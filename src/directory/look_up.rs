//! Look-ups at the live sources: one for all callers that wait, with its results in the cache.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::asker::LookupAccount;
use super::cache::{Absent, Age, Believed, HeldPractice, HeldSender, Since};
use super::flight::{Lookup, LookupProgress, LookupQuestion, Progress};
use super::rules::{DirectoryAnswer, SourceResolver};
use super::source::{LookupPart, LookupPurpose, QueryOptions, SharedPriority, SourceFault};
use super::steps::Steps;
use super::{Directory, DirectoryState, now_s};
use crate::metrics::LookupTrigger;
use spine_types::interaction::Interaction;
use spine_types::{Asid, OdsCode};

/// Practice and interaction to look up, and the resolver to ask.
#[derive(Clone, Copy)]
pub(super) struct PracticeQuestion<'a> {
    pub(super) resolver: &'a Arc<SourceResolver>,
    pub(super) ods: &'a OdsCode,
    pub(super) interaction: &'static Interaction,
}

/// Point up to which a caller waits for a look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitLimit {
    /// The answer for the first interaction is known.
    Known,
    /// The look-up has ended.
    Over,
}

impl Directory {
    /// Starts or joins the look-up of a practice.
    pub(super) fn look_up(
        &self,
        asked: PracticeQuestion<'_>,
        now_s: i64,
        (wanted, trigger): (LookupPurpose, LookupTrigger),
    ) -> Lookup {
        let PracticeQuestion { resolver, ods, interaction } = asked;
        let (shared, resolver, ods) = (Arc::clone(&self.shared), Arc::clone(resolver), ods.clone());
        let question = LookupQuestion::practice(&ods, interaction);
        let budget = match wanted {
            LookupPurpose::Now(_) => shared.deadlines.waiting,
            LookupPurpose::Behind | LookupPurpose::Ahead => shared.deadlines.background,
        };
        let flight = self.begin_or_join(&question, &wanted, |progress| async move {
            let held = shared.cache.practices.get(&ods).unwrap_or_default();
            let age = held.age(interaction, &shared.freshness, now_s);
            if trigger == LookupTrigger::Request && age == Some(Age::Fresh) {
                // Another look-up ended just before this one started.
                return Ok(());
            }
            // HTTP caches on the way could return the old answer that is cached here, as if it were new.
            let anew = trigger == LookupTrigger::Conflict || age.is_some();
            let how = shared.query_options(&progress.priority, budget, anew);
            let asked = PracticeQuestion { resolver: &resolver, ods: &ods, interaction };
            let looked_up = shared.look_up_practice(asked, how, &progress).await;
            if looked_up.is_err() {
                // A failed look-up does not count as the practice's forced look-up.
                shared.forced.invalidate(&ods);
            }
            shared.metrics.directory.refreshed(trigger, looked_up.is_ok());
            looked_up
        });
        if flight.joined {
            self.shared.metrics.directory.joined();
        }
        flight
    }

    /// Starts or joins the look-up of a sender.
    pub(super) fn look_up_sender(
        &self,
        resolver: &Arc<SourceResolver>,
        asid: &Asid,
        account: LookupAccount,
    ) -> Lookup {
        let (shared, resolver, asid) =
            (Arc::clone(&self.shared), Arc::clone(resolver), asid.clone());
        let began = self.shared.begin(&resolver);
        let wanted = LookupPurpose::Now(account);
        self.begin_or_join(&LookupQuestion::sender(&asid.clone()), &wanted, |progress| async move {
            let how = shared.query_options(&progress.priority, shared.deadlines.waiting, false);
            match resolver.sender(&asid, how, &mut Steps::default()).await? {
                DirectoryAnswer::Found((origin, sender)) => {
                    let since = Since::now(now_s(), origin);
                    shared.hold_sender(HeldSender { sender: Arc::new(sender), since });
                    match shared.since(&began) {
                        ConcurrentChange::Nothing => {}
                        ConcurrentChange::Flushed => shared.cache.flush_sender(&asid),
                        ConcurrentChange::Replaced => {
                            shared.cache.senders.invalidate(&asid);
                            return Err(SourceFault::Replaced);
                        }
                    }
                }
                // Security: a sender that is no longer registered is removed at once.
                DirectoryAnswer::Absent { confirmed } => {
                    if confirmed {
                        shared.cache.senders.invalidate(&asid);
                    }
                    shared.note(Absent::Sender(asid), Believed::when(confirmed));
                }
            }
            Ok(())
        })
    }

    /// Starts or joins a look-up; a failed one is not repeated for `directory.freshness.retry`.
    pub(super) fn begin_or_join<F>(
        &self,
        question: &LookupQuestion,
        wanted: &LookupPurpose,
        look_up: impl FnOnce(LookupProgress) -> F,
    ) -> Lookup
    where
        F: Future<Output = Result<(), SourceFault>> + Send + 'static,
    {
        let (shared, asked) = (Arc::clone(&self.shared), question.clone());
        self.shared.flights.begin_or_join(question.subject.clone(), wanted, |progress| {
            let look_up = look_up(progress);
            async move {
                let ended = look_up.await;
                // A turn that did not come in time says nothing about the source or the query: the next
                // caller may get a turn sooner.
                if let Err(fault) = &ended
                    && *fault != SourceFault::Paced
                {
                    shared.failed.insert(asked, fault.clone());
                }
                ended
            }
        })
    }

    /// Waits for a look-up, at most `directory.deadlines.waiting`; `board` starts or joins it.
    ///
    /// `board` is given true if it is called again because a joined look-up ended without a turn at a
    /// source. A look-up that failed less than `directory.freshness.retry` ago is not repeated.
    ///
    /// # Errors
    /// Returns the look-up's fault, or [`SourceFault::TimedOut`].
    pub(super) async fn wait(
        &self,
        question: &LookupQuestion,
        until: WaitLimit,
        mut board: impl FnMut(bool) -> Result<Lookup, SourceFault>,
    ) -> Result<(), SourceFault> {
        if let Some(fault) = self.shared.failed.get(question) {
            return Err(fault);
        }
        let mut flight = board(false)?;
        let waited = tokio::time::timeout(self.shared.deadlines.waiting, async {
            loop {
                let known_is_enough = until == WaitLimit::Known || !flight.joined;
                match flight.next().await {
                    Progress::Known if known_is_enough => return Ok(()),
                    Progress::Under | Progress::Known => {}
                    // The deadline of the joined look-up has passed, ours has not.
                    Progress::Over(Err(SourceFault::Paced)) if flight.joined => {
                        flight = board(true)?;
                    }
                    // The joined look-up failed for another interaction: ours has not been tried.
                    Progress::Over(Err(_))
                        if flight.joined && !self.shared.failed.contains_key(question) =>
                    {
                        return Ok(());
                    }
                    Progress::Over(ended) => return ended,
                }
            }
        });
        waited.await.map_err(|_| SourceFault::TimedOut)?
    }
}

/// State at the start of a look-up, to detect concurrent flushes and reloads.
struct LookupStart {
    flushes: u64,
    /// Number of the resolver that the look-up uses.
    directory: u64,
}

/// Change of the directory while a look-up was under way.
enum ConcurrentChange {
    Nothing,
    /// A flush happened after the look-up began.
    Flushed,
    /// The sources' URLs changed after the look-up began.
    Replaced,
}

impl DirectoryState {
    pub(super) fn query_options<'a>(
        &self,
        priority: &'a Arc<SharedPriority>,
        budget: Duration,
        anew: bool,
    ) -> QueryOptions<'a> {
        let deadline = Instant::now() + budget;
        QueryOptions { deadline, anew, priority, part: LookupPart::First, id: Uuid::new_v4() }
    }

    /// Looks up the wanted interaction first, then the practice's other interactions.
    async fn look_up_practice(
        &self,
        asked: PracticeQuestion<'_>,
        how: QueryOptions<'_>,
        progress: &LookupProgress,
    ) -> Result<(), SourceFault> {
        let PracticeQuestion { resolver, ods, interaction } = asked;
        let began = self.begin(resolver);
        let mut steps = Steps::default();
        let answer = resolver.practice(ods, interaction, how, &mut steps).await;
        let now_s = now_s();
        let held = self.cache.practices.get(ods).unwrap_or_default();
        let found = match answer? {
            DirectoryAnswer::Found(found) => found,
            DirectoryAnswer::Absent { .. }
                if matches!(self.since(&began), ConcurrentChange::Replaced) =>
            {
                return Err(SourceFault::Replaced);
            }
            DirectoryAnswer::Absent { confirmed } => {
                return self.note_absent(&held, asked, (confirmed, now_s), &began);
            }
        };
        let held = held.after_found(interaction, &found, &self.freshness, now_s);
        let doubted = held.is_doubted(interaction);
        self.store(ods, held, &began)?;
        progress.known();
        if doubted {
            // The new answer is not believed yet; looking up the rest would cache it after all.
            return Ok(());
        }
        let how = QueryOptions { deadline: Instant::now() + self.deadlines.background, ..how };
        if let Some(rest) = resolver.rest(ods, &found, how, &mut steps).await {
            let held = self.cache.practices.get(ods).unwrap_or_default();
            self.store(ods, held.after_rest(&found, &rest, &self.freshness, now_s), &began)?;
        }
        Ok(())
    }

    /// Records an absence. Security: one that may be a failed search does not change cached entries.
    fn note_absent(
        &self,
        held: &HeldPractice,
        asked: PracticeQuestion<'_>,
        (confirmed, now_s): (bool, i64),
        began: &LookupStart,
    ) -> Result<(), SourceFault> {
        let PracticeQuestion { ods, interaction, .. } = asked;
        if confirmed && held.rows_for(interaction).next().is_some() {
            self.store(ods, held.doubting(interaction, &self.freshness, now_s), began)?;
        }
        let absent = Absent::Registration(ods.clone(), interaction.id);
        self.note(absent, Believed::when(confirmed));
        if confirmed { Ok(()) } else { Err(SourceFault::Doubtful) }
    }

    pub(super) fn note(&self, what: Absent, believed: Believed) {
        let lasts = match believed {
            Believed::Confirmed => self.freshness.absent,
            Believed::ForNow => self.freshness.absent_unconfirmed,
        };
        self.cache.note_absent(what, believed, lasts, now_s());
    }

    fn begin(&self, resolver: &SourceResolver) -> LookupStart {
        LookupStart { flushes: self.flushes.load(Ordering::Acquire), directory: resolver.number }
    }

    /// Detects a flush or change of sources that raced with a look-up. Call it after caching the result:
    /// writers count first and scan the cache then, so that at least one side sees the other.
    fn since(&self, began: &LookupStart) -> ConcurrentChange {
        let view = self.view.load();
        if view.resolver.as_ref().map(|resolver| resolver.number) != Some(began.directory) {
            return ConcurrentChange::Replaced;
        }
        match self.flushes.load(Ordering::Acquire) == began.flushes {
            true => ConcurrentChange::Nothing,
            false => ConcurrentChange::Flushed,
        }
    }

    /// Caches a look-up's result; marks or removes it if a flush or change of sources happened meanwhile.
    ///
    /// # Errors
    /// Returns [`SourceFault::Replaced`] if the sources' URLs changed.
    fn store(
        &self,
        ods: &OdsCode,
        practice: HeldPractice,
        began: &LookupStart,
    ) -> Result<(), SourceFault> {
        self.hold(ods, practice);
        match self.since(began) {
            ConcurrentChange::Nothing => {}
            ConcurrentChange::Flushed => self.cache.flush(ods),
            ConcurrentChange::Replaced => {
                self.cache.practices.invalidate(ods);
                return Err(SourceFault::Replaced);
            }
        }
        Ok(())
    }

    pub(super) fn hold_sender(&self, held: HeldSender) {
        for name in &held.sender.names {
            self.names.insert(name.clone(), ());
        }
        self.cache.senders.insert(held.sender.asid.clone(), held);
    }

    pub(super) fn hold(&self, ods: &OdsCode, practice: HeldPractice) {
        for row in &practice.rows {
            self.owners.insert(row.provider.asid.clone(), ods.clone());
            let root = row.provider.root.as_str();
            self.roots.insert(root.strip_suffix('/').unwrap_or(root).to_owned(), ());
        }
        self.cache.practices.insert(ods.clone(), Arc::new(practice));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;

    use super::super::{DirectorySettings, LiveSources};
    use super::*;
    use crate::metrics::Metrics;
    use crate::registry::{DirectoryFile, OtherSources};

    fn directory() -> Directory {
        let file = DirectoryFile::parse("", "directory.toml".as_ref(), OtherSources::Live).unwrap();
        let settings: DirectorySettings = toml::from_str("file = \"directory.toml\"").unwrap();
        let tasks = tokio::runtime::Handle::current();
        Directory::new(file, LiveSources::default(), &settings, Arc::new(Metrics::new()), tasks)
    }

    #[tokio::test]
    async fn a_look_up_that_had_no_turn_in_time_fails_nobody_who_joined_it_or_comes_later() {
        let directory = directory();
        let question = LookupQuestion::sender(&"200000000359".parse().unwrap());
        let (end, ended) = oneshot::channel();
        let first = async || {
            ended.await.unwrap();
            Err(SourceFault::Paced)
        };
        let first =
            directory.begin_or_join(&question, &LookupPurpose::Now("a".into()), |_| first());
        let mut boarded = 0;
        let mut waits = Box::pin(directory.wait(&question, WaitLimit::Over, |again| {
            assert_eq!(again, boarded > 0);
            boarded += 1;
            Ok(directory.begin_or_join(
                &question,
                &LookupPurpose::Now("b".into()),
                async |_| Ok(()),
            ))
        }));
        assert!(waits.as_mut().now_or_never().is_none());
        end.send(()).unwrap();
        assert_eq!(waits.await, Ok(()));
        assert_eq!(boarded, 2);
        assert!(!first.joined);
        assert!(!directory.shared.failed.contains_key(&question));
    }
}
