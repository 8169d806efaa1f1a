//! Look-ups under way: one task for all requests that need the same answer.
//!
//! A look-up runs in its own task, so that a consumer that disconnects does not cancel it for others.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use jiff::Timestamp;
use moka::sync::Cache;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::DirectoryClock;
use super::cache::ABSENCES_MAX;
use super::payer::{LookupAccount, Payer};
use super::sources::{LookupWaiters, SourceFault};
use crate::refusal::Refusal;
use spine_types::interaction::Interaction;
use spine_types::{Asid, OdsCode};

/// Minimum time between a failed look-up and the next of the same question.
const RETRY: Duration = Duration::from_secs(1);

/// Limit: number of look-ups under way at which no background look-up is started.
pub(super) const BACKGROUND_MAX: usize = 256;

/// Reason why a look-up gives no usable answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LookupFault {
    /// No source answers, or not in time.
    NoAnswer,
    /// The look-up had no turn at a source before its deadline; a later one may have.
    NoTurn,
    /// The sources have said, or may have said, that the registration does not exist.
    Doubtful,
    /// The payer's budget for uncached look-ups is used up.
    OverBudget,
}

impl From<SourceFault> for LookupFault {
    fn from(fault: SourceFault) -> Self {
        if fault == SourceFault::NoTurn { Self::NoTurn } else { Self::NoAnswer }
    }
}

impl From<LookupFault> for Refusal {
    fn from(fault: LookupFault) -> Self {
        match fault {
            LookupFault::OverBudget => Self::LookupsExceeded,
            LookupFault::NoAnswer | LookupFault::NoTurn | LookupFault::Doubtful => {
                Self::DirectoryUnavailable
            }
        }
    }
}

/// Subject of a look-up; at most one look-up of a subject is under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum LookupSubject {
    Practice(OdsCode),
    Sender(Asid),
    /// Practice that owns the system with this ASID.
    Owner(Asid),
}

/// Subject of a look-up and, for a practice, the id of the interaction that is looked up first.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct LookupQuestion {
    subject: LookupSubject,
    interaction: Option<&'static str>,
}

impl LookupQuestion {
    pub(super) fn practice(ods: &OdsCode, interaction: &Interaction) -> Self {
        let subject = LookupSubject::Practice(ods.clone());
        Self { subject, interaction: Some(interaction.id) }
    }

    pub(super) fn sender(asid: &Asid) -> Self {
        Self { subject: LookupSubject::Sender(asid.clone()), interaction: None }
    }

    pub(super) fn owner(asid: &Asid) -> Self {
        Self { subject: LookupSubject::Owner(asid.clone()), interaction: None }
    }
}

/// Caller of a look-up.
#[derive(Debug, Clone, Copy)]
pub(super) enum LookupCaller<'a> {
    /// A request that waits. If `is_charged`, its payer's budget is charged should a look-up begin.
    Request { payer: Payer<'a>, is_charged: bool },
    /// A background refresh, which no request waits for.
    Background,
}

impl LookupCaller<'_> {
    fn account(self) -> Option<LookupAccount> {
        match self {
            Self::Request { payer, .. } => Some(payer.account()),
            Self::Background => None,
        }
    }
}

/// Progress of a look-up, sent to those who wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// The look-up has begun.
    Begun,
    /// The answer for the first interaction is in the cache; more may follow.
    Answered,
    /// The look-up has ended.
    Ended(Result<(), LookupFault>),
}

/// Point up to which a caller waits for a look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitUntil {
    /// The answer for the first interaction is known.
    Answer,
    /// The look-up has ended. The answer is enough for a look-up that the caller began itself.
    End,
}

/// Look-ups under way and lately failed, and the budgets that new ones are charged to.
#[derive(Debug)]
pub(super) struct Lookups {
    tasks: Handle,
    clock: DirectoryClock,
    /// Longest time for which a request waits.
    patience: Duration,
    under_way: Arc<Mutex<LookupsUnderWay>>,
    /// Look-ups that failed less than [`RETRY`] ago; not repeated until then.
    failed: Cache<LookupQuestion, FailedLookup>,
    budgets: DefaultKeyedRateLimiter<LookupAccount>,
    /// True if no look-up may begin.
    pub(super) is_offline: bool,
}

type LookupsUnderWay = HashMap<LookupSubject, LookupUnderWay>;

#[derive(Debug)]
struct LookupUnderWay {
    progress: watch::Receiver<Progress>,
    waiters: Arc<LookupWaiters>,
}

#[derive(Debug, Clone, Copy)]
struct FailedLookup {
    fault: LookupFault,
    at: Timestamp,
}

/// Handle on which a caller waits for a look-up.
#[derive(Debug)]
pub(super) struct LookupHandle {
    progress: watch::Receiver<Progress>,
    /// True if the look-up was already under way.
    pub(super) is_joined: bool,
}

/// Handle of a look-up's task, to report that the first answer is known.
#[derive(Debug)]
pub(super) struct LookupTask {
    progress: watch::Sender<Progress>,
    pub(super) waiters: Arc<LookupWaiters>,
}

impl LookupTask {
    /// Reports that the first answer is known. Callers that join later wait for the rest.
    pub(super) fn answered(&self) {
        self.waiters.leave();
        self.progress.send_replace(Progress::Answered);
    }
}

impl Lookups {
    /// Returns an empty list; look-ups run on `tasks`, and a request waits for one for at most `patience`.
    pub(super) fn new(
        tasks: Handle,
        clock: DirectoryClock,
        patience: Duration,
        misses_per_minute: NonZeroU32,
    ) -> Self {
        Self {
            tasks,
            clock,
            patience,
            under_way: Arc::default(),
            failed: Cache::builder().max_capacity(ABSENCES_MAX).time_to_live(RETRY).build(),
            budgets: RateLimiter::keyed(Quota::per_minute(misses_per_minute)),
            is_offline: false,
        }
    }

    /// Joins the look-up of this subject that is under way, raising its priority, or begins a new one.
    ///
    /// The budget keeps a scan of random codes from using up the sources' rate. Joining a look-up is not
    /// charged, nor is one that begins although `is_cached`: another has just ended.
    ///
    /// # Errors
    /// Returns [`LookupFault::OverBudget`] if a look-up would begin and the budget is used up, and
    /// [`LookupFault::NoAnswer`] if none may begin.
    pub(super) fn begin_or_join<F>(
        &self,
        question: &LookupQuestion,
        caller: LookupCaller<'_>,
        is_cached: impl FnOnce() -> bool,
        look_up: impl FnOnce(LookupTask) -> F,
    ) -> Result<LookupHandle, LookupFault>
    where
        F: Future<Output = Result<(), LookupFault>> + Send + 'static,
    {
        if self.is_offline {
            return Err(LookupFault::NoAnswer);
        }
        let mut under_way = lock(&self.under_way);
        if let Some(look_up) = under_way.get(&question.subject) {
            caller.account().into_iter().for_each(|account| look_up.waiters.join(account));
            return Ok(LookupHandle { progress: look_up.progress.clone(), is_joined: true });
        }
        if let LookupCaller::Request { payer, is_charged: true } = caller
            && !is_cached()
        {
            self.charge(payer)?;
        }
        let (sender, progress) = watch::channel(Progress::Begun);
        let waiters = Arc::new(LookupWaiters::new(caller.account()));
        let entry = LookupUnderWay { progress: progress.clone(), waiters: Arc::clone(&waiters) };
        under_way.insert(question.subject.clone(), entry);
        drop(under_way);
        let guard = LookupGuard {
            under_way: Arc::clone(&self.under_way),
            subject: question.subject.clone(),
        };
        let look_up = look_up(LookupTask { progress: sender.clone(), waiters });
        let (failed, clock, question) = (self.failed.clone(), self.clock.clone(), question.clone());
        self.tasks.spawn(async move {
            let ended = look_up.await;
            // A turn that did not come in time says nothing about the source or the question: the next
            // caller may get a turn sooner.
            if let Err(fault) = ended
                && fault != LookupFault::NoTurn
            {
                failed.insert(question, FailedLookup { fault, at: clock.now() });
            }
            // Removed from the list before the end is reported: later callers begin a new look-up.
            drop(guard);
            sender.send_replace(Progress::Ended(ended));
        });
        Ok(LookupHandle { progress, is_joined: false })
    }

    /// Waits for a look-up, at most `directory.deadlines.waiting`; `begin` begins or joins it.
    ///
    /// `begin` is given false if it is called again because a joined look-up ended without a turn at a
    /// source. A look-up that failed less than [`RETRY`] ago is not repeated.
    ///
    /// # Errors
    /// Returns the look-up's fault; [`LookupFault::NoAnswer`] if the time is over.
    pub(super) async fn wait(
        &self,
        question: &LookupQuestion,
        until: WaitUntil,
        mut begin: impl FnMut(bool) -> Result<LookupHandle, LookupFault>,
    ) -> Result<(), LookupFault> {
        if let Some(fault) = self.failed(question) {
            return Err(fault);
        }
        let mut look_up = begin(true)?;
        let waited = tokio::time::timeout(self.patience, async {
            loop {
                let answer_is_enough = until == WaitUntil::Answer || !look_up.is_joined;
                match look_up.next().await {
                    Progress::Answered if answer_is_enough => return Ok(()),
                    Progress::Begun | Progress::Answered => {}
                    // The deadline of the joined look-up has passed, ours has not.
                    Progress::Ended(Err(LookupFault::NoTurn)) if look_up.is_joined => {
                        look_up = begin(false)?;
                    }
                    // The joined look-up failed for another interaction: ours has not been tried.
                    Progress::Ended(Err(_))
                        if look_up.is_joined
                            && question.interaction.is_some()
                            && self.failed(question).is_none() =>
                    {
                        return Ok(());
                    }
                    Progress::Ended(ended) => return ended,
                }
            }
        });
        waited.await.map_err(|_| LookupFault::NoAnswer)?
    }

    /// Charges a payer's budget for uncached look-ups.
    ///
    /// # Errors
    /// Returns [`LookupFault::OverBudget`] if the budget is used up.
    pub(super) fn charge(&self, payer: Payer<'_>) -> Result<(), LookupFault> {
        self.budgets.check_key(&payer.account()).map_err(|_| LookupFault::OverBudget)
    }

    /// Returns the fault of a look-up that failed less than [`RETRY`] ago.
    pub(super) fn failed(&self, question: &LookupQuestion) -> Option<LookupFault> {
        let failed = self.failed.get(question)?;
        let age = self.clock.now().duration_since(failed.at).unsigned_abs();
        (age < RETRY).then_some(failed.fault)
    }

    /// Returns true if a look-up of this question's subject is under way.
    pub(super) fn is_under_way(&self, question: &LookupQuestion) -> bool {
        lock(&self.under_way).contains_key(&question.subject)
    }

    /// Returns the number of look-ups under way.
    pub(super) fn under_way(&self) -> usize {
        lock(&self.under_way).len()
    }

    /// Returns true if so many look-ups are under way that only requests may begin more.
    pub(super) fn is_busy(&self) -> bool {
        self.under_way() >= BACKGROUND_MAX
    }

    /// Removes unused budgets; the rate limiter never does so by itself.
    pub(super) fn tidy(&self) {
        self.budgets.retain_recent();
    }
}

impl LookupHandle {
    /// Waits for the next progress. A look-up whose task ended without a result counts as failed.
    async fn next(&mut self) -> Progress {
        match self.progress.changed().await {
            Ok(()) => *self.progress.borrow_and_update(),
            Err(_) => match *self.progress.borrow() {
                ended @ Progress::Ended(_) => ended,
                Progress::Begun | Progress::Answered => Progress::Ended(Err(LookupFault::NoAnswer)),
            },
        }
    }
}

/// Removes a look-up from the list on drop, also if its task panics.
struct LookupGuard {
    under_way: Arc<Mutex<LookupsUnderWay>>,
    subject: LookupSubject,
}

impl Drop for LookupGuard {
    fn drop(&mut self) {
        lock(&self.under_way).remove(&self.subject);
    }
}

fn lock(list: &Mutex<LookupsUnderWay>) -> MutexGuard<'_, LookupsUnderWay> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;

    fn lookups() -> Lookups {
        let clock = DirectoryClock::system();
        let patience = Duration::from_secs(60);
        Lookups::new(Handle::current(), clock, patience, NonZeroU32::MIN)
    }

    fn request(account: &str) -> LookupCaller<'_> {
        LookupCaller::Request { payer: Payer::Certificate(account), is_charged: true }
    }

    #[tokio::test]
    async fn a_look_up_that_had_no_turn_in_time_fails_no_caller_that_joined_or_comes_later() {
        let lookups = lookups();
        let question = LookupQuestion::sender(&"200000000359".parse().unwrap());
        let (end, ended) = oneshot::channel();
        let first = lookups
            .begin_or_join(
                &question,
                request("a"),
                || false,
                |_| async {
                    ended.await.unwrap();
                    Err(LookupFault::NoTurn)
                },
            )
            .unwrap();
        let mut begun = 0;
        let mut waits = Box::pin(lookups.wait(&question, WaitUntil::End, |is_first| {
            assert_eq!(is_first, begun == 0);
            begun += 1;
            lookups.begin_or_join(&question, request("b"), || false, async |_| Ok(()))
        }));
        assert!(waits.as_mut().now_or_never().is_none());
        end.send(()).unwrap();
        assert_eq!(waits.await, Ok(()));
        assert_eq!(begun, 2);
        assert!(!first.is_joined);
        assert_eq!(lookups.failed(&question), None);
    }

    #[tokio::test]
    async fn only_a_look_up_that_begins_uncached_is_charged() {
        let lookups = lookups();
        let question = |asid: &str| LookupQuestion::sender(&asid.parse().unwrap());
        let begin = |asid, is_cached: bool| {
            lookups.begin_or_join(
                &question(asid),
                request("a"),
                || is_cached,
                |_| std::future::pending(),
            )
        };
        // The budget is one a minute.
        assert!(begin("200000000001", true).is_ok());
        assert!(begin("200000000002", false).is_ok());
        assert!(begin("200000000002", false).unwrap().is_joined);
        assert_eq!(begin("200000000003", false).unwrap_err(), LookupFault::OverBudget);
    }

    #[tokio::test]
    async fn a_task_that_panics_fails_its_callers_and_blocks_nobody() {
        let lookups = lookups();
        let question = LookupQuestion::sender(&"200000000359".parse().unwrap());
        let waited = lookups.wait(&question, WaitUntil::End, |_| {
            lookups.begin_or_join(
                &question,
                request("a"),
                || true,
                |_| async {
                    assert_eq!(1, 2, "a fault in the task");
                    Ok(())
                },
            )
        });
        assert_eq!(waited.await, Err(LookupFault::NoAnswer));
        assert!(!lookups.is_under_way(&question));
    }
}
