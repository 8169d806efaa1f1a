//! Look-ups: begun once for all who wait, and what they leave on the shelf.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;
use uuid::Uuid;

use super::flight::{Flight, Herald, Progress, Subject};
use super::live::Asked;
use super::rules::{Answer, Resolver};
use super::shelf::{Absent, Age, Believed, HeldSender, Practice, Since};
use super::source::{How, SourceFault, Urgency};
use super::steps::Steps;
use super::{Directory, Shared, now_s};
use crate::metrics::Trigger;
use crate::spine::{Asid, OdsCode};

/// How long a look-up is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// What it was begun for is known.
    Known,
    /// It has learnt all it will.
    Over,
}

impl Directory {
    /// Looks a practice up, with all who wait for the same.
    pub(super) fn look_up(
        &self,
        asked: Asked<'_>,
        now_s: i64,
        (urgency, anew): (Urgency, bool),
    ) -> Flight {
        let trigger = match (urgency, anew) {
            (_, true) => Trigger::Conflict,
            (Urgency::Begun | Urgency::Waiting, false) => Trigger::Request,
            (Urgency::Refresh, false) => Trigger::Stale,
            (Urgency::Ahead, false) => Trigger::Ahead,
        };
        let Asked { resolver, ods, interaction } = asked;
        let (shared, resolver, ods) = (Arc::clone(&self.shared), Arc::clone(resolver), ods.clone());
        let subject = Subject::Practice(ods.clone());
        let flight = self.board(subject, |herald| async move {
            let how = shared.how(urgency, anew);
            let held = shared.shelf.practices.get(&ods).unwrap_or_default();
            let age = held.age(interaction, &shared.freshness, now_s);
            if !anew && urgency == Urgency::Waiting && age == Some(Age::Fresh) {
                // The last look-up ended as this one was about to begin.
                return Ok(());
            }
            let asked = Asked { resolver: &resolver, ods: &ods, interaction };
            let looked_up = shared.look_up_practice(asked, how, &herald).await;
            shared.metrics.directory.refreshed(trigger, looked_up.is_ok());
            looked_up
        });
        if flight.joined {
            self.shared.metrics.directory.joined();
        }
        flight
    }

    pub(super) fn look_up_sender(&self, resolver: &Arc<Resolver>, asid: &Asid) -> Flight {
        let (shared, resolver, asid) =
            (Arc::clone(&self.shared), Arc::clone(resolver), asid.clone());
        let subject = Subject::Sender(asid.clone());
        let began = self.shared.begin(&resolver);
        self.board(subject, |_| async move {
            let how = shared.how(Urgency::Waiting, false);
            match resolver.sender(&asid, how, &mut Steps::default()).await? {
                Answer::Found((origin, sender)) => {
                    let since = Since::now(now_s(), origin);
                    let held = HeldSender { sender: Arc::new(sender), since };
                    shared.shelf.senders.insert(asid.clone(), held);
                    match shared.since(&began) {
                        Meanwhile::Nothing => {}
                        Meanwhile::Flushed => shared.shelf.flush_sender(&asid),
                        Meanwhile::Replaced => {
                            shared.shelf.senders.invalidate(&asid);
                            return Err(SourceFault::Replaced);
                        }
                    }
                }
                // Security: an authorisation that is gone is gone at once.
                Answer::Absent { confirmed } => {
                    if confirmed {
                        shared.shelf.senders.invalidate(&asid);
                    }
                    shared.note(Absent::Sender(asid), Believed::when(confirmed));
                }
            }
            Ok(())
        })
    }

    /// Begins a look-up, or joins it; one that fails is remembered for a moment.
    pub(super) fn board<F>(&self, subject: Subject, look_up: impl FnOnce(Herald) -> F) -> Flight
    where
        F: Future<Output = Result<(), SourceFault>> + Send + 'static,
    {
        let (shared, about) = (Arc::clone(&self.shared), subject.clone());
        self.shared.flights.board(subject, |herald| {
            let look_up = look_up(herald);
            async move {
                let ended = look_up.await;
                if ended.is_err() {
                    shared.failed.insert(about, ());
                }
                ended
            }
        })
    }

    /// Waits for a look-up, as long as a request may. One that failed a moment ago is not repeated.
    pub(super) async fn wait(
        &self,
        subject: &Subject,
        until: Until,
        board: impl FnOnce() -> Result<Flight, SourceFault>,
    ) -> Result<(), SourceFault> {
        if self.shared.failed.contains_key(subject) {
            return Err(SourceFault::Spared);
        }
        let mut flight = board()?;
        let waited = tokio::time::timeout(self.shared.deadlines.waiting, async {
            loop {
                match flight.news().await {
                    Progress::Known if until == Until::Known => return Ok(()),
                    Progress::Under | Progress::Known => {}
                    Progress::Over(ended) => return ended,
                }
            }
        });
        waited.await.map_err(|_| SourceFault::TimedOut)?
    }
}

/// How things stood when a look-up began.
struct Began {
    flushes: u64,
    /// The number of the resolver it asks.
    directory: u64,
}

/// What has happened while a look-up was under way.
enum Meanwhile {
    Nothing,
    /// What it brings was asked for before a flush.
    Flushed,
    /// What it brings was said by sources that are no longer asked.
    Replaced,
}

impl Shared {
    pub(super) fn how(&self, urgency: Urgency, anew: bool) -> How {
        let budget = match urgency {
            Urgency::Begun | Urgency::Waiting => self.deadlines.waiting,
            Urgency::Refresh | Urgency::Ahead => self.deadlines.background,
        };
        How { deadline: Instant::now() + budget, anew, urgency, id: Uuid::new_v4() }
    }

    /// One look-up: what was asked for first, then the rest of the practice.
    async fn look_up_practice(
        &self,
        asked: Asked<'_>,
        how: How,
        herald: &Herald,
    ) -> Result<(), SourceFault> {
        let Asked { resolver, ods, interaction } = asked;
        let began = self.begin(resolver);
        let mut steps = Steps::default();
        let answer = resolver.practice(ods, interaction, how, &mut steps).await;
        let now_s = now_s();
        let held = self.shelf.practices.get(ods).unwrap_or_default();
        let found = match answer? {
            Answer::Found(found) => found,
            Answer::Absent { .. } if matches!(self.since(&began), Meanwhile::Replaced) => {
                return Err(SourceFault::Replaced);
            }
            Answer::Absent { confirmed } => {
                return self.note_absent(&held, asked, confirmed, now_s);
            }
        };
        let held = held.after_found(interaction, &found, &self.freshness, now_s);
        self.land(ods, held, &began)?;
        herald.known();
        let how = How {
            deadline: Instant::now() + self.deadlines.background,
            urgency: how.urgency.max(Urgency::Refresh),
            ..how
        };
        if let Some(rest) = resolver.rest(ods, &found, how, &mut steps).await {
            let held = self.shelf.practices.get(ods).unwrap_or_default();
            self.land(ods, held.after_rest(&found, &rest, &self.freshness, now_s), &began)?;
        }
        Ok(())
    }

    /// Security: an absence that may be a failed search takes nothing away from what is held.
    fn note_absent(
        &self,
        held: &Practice,
        asked: Asked<'_>,
        confirmed: bool,
        now_s: i64,
    ) -> Result<(), SourceFault> {
        let Asked { ods, interaction, .. } = asked;
        if confirmed && held.rows_for(interaction).next().is_some() {
            self.hold(ods, held.doubting(interaction, &self.freshness, now_s));
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
        self.shelf.note_absent(what, believed, lasts, now_s());
    }

    fn begin(&self, resolver: &Resolver) -> Began {
        Began { flushes: self.flushes.load(Ordering::Acquire), directory: resolver.number }
    }

    /// What has happened to what a look-up brings. Asked once it is on the shelf: who flushes or
    /// replaces counts first and looks at the shelf then, so that one of the two sees the other.
    fn since(&self, began: &Began) -> Meanwhile {
        let view = self.view.load();
        if view.resolver.as_ref().map(|resolver| resolver.number) != Some(began.directory) {
            return Meanwhile::Replaced;
        }
        match self.flushes.load(Ordering::Acquire) == began.flushes {
            true => Meanwhile::Nothing,
            false => Meanwhile::Flushed,
        }
    }

    /// Holds what a look-up brings, as far as nothing has happened to it since it began.
    fn land(&self, ods: &OdsCode, practice: Practice, began: &Began) -> Result<(), SourceFault> {
        self.hold(ods, practice);
        match self.since(began) {
            Meanwhile::Nothing => {}
            Meanwhile::Flushed => self.shelf.flush(ods),
            Meanwhile::Replaced => {
                self.shelf.practices.invalidate(ods);
                return Err(SourceFault::Replaced);
            }
        }
        Ok(())
    }

    pub(super) fn hold(&self, ods: &OdsCode, practice: Practice) {
        for row in &practice.rows {
            self.owners.insert(row.provider.asid.clone(), ods.clone());
            let root = row.provider.root.as_str();
            self.roots.insert(root.strip_suffix('/').unwrap_or(root).to_owned(), ());
        }
        self.shelf.practices.insert(ods.clone(), Arc::new(practice));
    }
}
