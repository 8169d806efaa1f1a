//! One look-up for all who wait for the same thing, in a task of its own: a consumer who hangs up
//! cancels nothing that others wait for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::source::{LookupPurpose, SharedPriority, SourceFault};
use crate::interaction::Interaction;
use crate::spine::{Asid, OdsCode};

/// What is looked up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    Practice(OdsCode),
    Sender(Asid),
    Owner(Asid),
}

/// A subject, and what about it is asked first: of a practice, one interaction.
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

/// How far a look-up has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Progress {
    /// It has begun.
    Under,
    /// What was asked for is known; more may follow.
    Known,
    /// It is over.
    Over(Result<(), SourceFault>),
}

/// The look-ups under way.
#[derive(Debug)]
pub(super) struct LookupsInFlight {
    tasks: Handle,
    under_way: Arc<Mutex<LookupList>>,
}

/// A look-up that somebody waits for.
#[derive(Debug)]
pub(super) struct Lookup {
    progress: watch::Receiver<Progress>,
    /// Whether it was under way before.
    pub(super) joined: bool,
}

/// Tells those who wait that what was asked for is known, and is told who waits.
#[derive(Debug)]
pub(super) struct LookupProgress {
    progress: watch::Sender<Progress>,
    pub(super) haste: Arc<SharedPriority>,
}

impl LookupProgress {
    /// Who comes from now on wants the rest.
    pub(super) fn known(&self) {
        self.haste.rest();
        self.progress.send_replace(Progress::Known);
    }
}

impl LookupsInFlight {
    /// `tasks` runs the look-ups.
    pub(super) fn new(tasks: Handle) -> Self {
        Self { tasks, under_way: Arc::default() }
    }

    /// The look-up of this subject that is under way, which becomes as urgent as this, or a new one.
    pub(super) fn board<F>(
        &self,
        subject: Subject,
        wanted: &LookupPurpose,
        look_up: impl FnOnce(LookupProgress) -> F,
    ) -> Lookup
    where
        F: Future<Output = Result<(), SourceFault>> + Send + 'static,
    {
        let mut under_way = lock(&self.under_way);
        if let Some((progress, haste)) = under_way.get(&subject) {
            haste.raise(wanted);
            return Lookup { progress: progress.clone(), joined: true };
        }
        let (sender, progress) = watch::channel(Progress::Under);
        let haste = Arc::new(SharedPriority::new(wanted));
        under_way.insert(subject.clone(), (progress.clone(), Arc::clone(&haste)));
        drop(under_way);
        let landing = LookupGuard { under_way: Arc::clone(&self.under_way), subject };
        let look_up = look_up(LookupProgress { progress: sender.clone(), haste });
        self.tasks.spawn(async move {
            let ended = look_up.await;
            // Off the list first: who comes after the end begins anew.
            drop(landing);
            sender.send_replace(Progress::Over(ended));
        });
        Lookup { progress, joined: false }
    }

    /// Whether this is being looked up.
    pub(super) fn is_under_way(&self, subject: &Subject) -> bool {
        lock(&self.under_way).contains_key(subject)
    }

    /// Look-ups under way.
    pub(super) fn under_way(&self) -> usize {
        lock(&self.under_way).len()
    }
}

impl Lookup {
    /// Waits for the next news; a look-up that is lost is over.
    pub(super) async fn news(&mut self) -> Progress {
        match self.progress.changed().await {
            Ok(()) => self.progress.borrow_and_update().clone(),
            Err(_) => match self.progress.borrow().clone() {
                over @ Progress::Over(_) => over,
                Progress::Under | Progress::Known => {
                    Progress::Over(Err(SourceFault::Unavailable("the look-up was lost".to_owned())))
                }
            },
        }
    }
}

/// Takes a look-up off the list, whether it ends or panics.
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
