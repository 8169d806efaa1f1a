//! Look-ups in flight: one task for all requests that need the same answer.
//!
//! A look-up runs in its own task, so that a consumer that disconnects does not cancel it for others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::source::{LookupPurpose, SharedPriority, SourceFault};
use spine_types::interaction::Interaction;
use spine_types::{Asid, OdsCode};

/// Subject of a look-up; at most one look-up of a subject is under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    Practice(OdsCode),
    Sender(Asid),
    /// Practice that owns the system with this ASID.
    Owner(Asid),
}

/// Subject of a look-up and, for a practice, the id of the interaction that is looked up first.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct LookupQuestion {
    pub(super) subject: Subject,
    pub(super) about: &'static str,
}

impl LookupQuestion {
    pub(super) fn practice(ods: &OdsCode, interaction: &Interaction) -> Self {
        Self { subject: Subject::Practice(ods.clone()), about: interaction.id }
    }

    pub(super) fn sender(asid: &Asid) -> Self {
        Self { subject: Subject::Sender(asid.clone()), about: "" }
    }

    pub(super) fn owner(asid: &Asid) -> Self {
        Self { subject: Subject::Owner(asid.clone()), about: "" }
    }
}

/// Progress of a look-up, sent to those who wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Progress {
    /// The look-up has begun.
    Under,
    /// The answer for the first interaction is in the cache; more may follow.
    Known,
    /// The look-up has ended.
    Over(Result<(), SourceFault>),
}

/// Look-ups under way, by subject.
#[derive(Debug)]
pub(super) struct LookupsInFlight {
    tasks: Handle,
    under_way: Arc<Mutex<LookupList>>,
}

/// Handle on which a caller waits for a look-up.
#[derive(Debug)]
pub(super) struct Lookup {
    progress: watch::Receiver<Progress>,
    /// True if the look-up was already under way.
    pub(super) joined: bool,
}

/// Handle of the look-up's task: reports progress, and holds the shared priority.
#[derive(Debug)]
pub(super) struct LookupProgress {
    progress: watch::Sender<Progress>,
    pub(super) priority: Arc<SharedPriority>,
}

impl LookupProgress {
    /// Reports that the first answer is known; callers that join later wait for the rest.
    pub(super) fn known(&self) {
        self.priority.rest();
        self.progress.send_replace(Progress::Known);
    }
}

impl LookupsInFlight {
    /// Returns an empty list; look-ups run on `tasks`.
    pub(super) fn new(tasks: Handle) -> Self {
        Self { tasks, under_way: Arc::default() }
    }

    /// Joins the look-up of this subject that is under way, raising its priority, or starts a new one.
    pub(super) fn begin_or_join<F>(
        &self,
        subject: Subject,
        wanted: &LookupPurpose,
        look_up: impl FnOnce(LookupProgress) -> F,
    ) -> Lookup
    where
        F: Future<Output = Result<(), SourceFault>> + Send + 'static,
    {
        let mut under_way = lock(&self.under_way);
        if let Some((progress, priority)) = under_way.get(&subject) {
            priority.raise(wanted);
            return Lookup { progress: progress.clone(), joined: true };
        }
        let (sender, progress) = watch::channel(Progress::Under);
        let priority = Arc::new(SharedPriority::new(wanted));
        under_way.insert(subject.clone(), (progress.clone(), Arc::clone(&priority)));
        drop(under_way);
        let guard = LookupGuard { under_way: Arc::clone(&self.under_way), subject };
        let look_up = look_up(LookupProgress { progress: sender.clone(), priority });
        self.tasks.spawn(async move {
            let ended = look_up.await;
            // Removed from the list before the end is reported: later callers start a new look-up.
            drop(guard);
            sender.send_replace(Progress::Over(ended));
        });
        Lookup { progress, joined: false }
    }

    /// Returns true if a look-up of this subject is under way.
    pub(super) fn is_under_way(&self, subject: &Subject) -> bool {
        lock(&self.under_way).contains_key(subject)
    }

    /// Returns the number of look-ups under way.
    pub(super) fn under_way(&self) -> usize {
        lock(&self.under_way).len()
    }
}

impl Lookup {
    /// Waits for the next progress. A look-up whose task ended without a result counts as failed.
    pub(super) async fn next(&mut self) -> Progress {
        match self.progress.changed().await {
            Ok(()) => self.progress.borrow_and_update().clone(),
            Err(_) => match self.progress.borrow().clone() {
                over @ Progress::Over(_) => over,
                Progress::Under | Progress::Known => Progress::Over(Err(SourceFault::Unavailable(
                    "the look-up's task ended without a result".to_owned(),
                ))),
            },
        }
    }
}

/// Removes a look-up from the list on drop, also if its task panics.
struct LookupGuard {
    under_way: Arc<Mutex<LookupList>>,
    subject: Subject,
}

impl Drop for LookupGuard {
    fn drop(&mut self) {
        lock(&self.under_way).remove(&self.subject);
    }
}

type LookupList = HashMap<Subject, (watch::Receiver<Progress>, Arc<SharedPriority>)>;

fn lock(list: &Mutex<LookupList>) -> MutexGuard<'_, LookupList> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}
