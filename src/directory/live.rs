//! What a request gets of the live sources: what is held as long as it may be, or what they say now.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::asker::LookupAccount;
use super::flight::{Lookup, LookupQuestion, Subject};
use super::look_up::{PracticeQuestion, WaitLimit};
use super::rules::SourceResolver;
use super::shelf::{Absent, Age, Believed, HeldPractice};
use super::source::{LookupPurpose, SourceFault};
use super::steps::Steps;
use super::{Caller, Directory, FileView, RegistrationUse, now_s};
use crate::consumers::Sender;
use crate::interaction::Interaction;
use crate::metrics::{Conflict, ForcedLookupResult, LookupResult, LookupTrigger};
use crate::policy::ProviderRegistration;
use crate::refusal::Refusal;
use crate::spine::{Asid, OdsCode};

/// Limit: look-ups that one request waits for, one after the other.
const ROUNDS_MAX: usize = 4;

/// Limit: look-ups under way beyond which none is begun that no request waits for.
const BEHIND_MAX: usize = 256;

/// Why there is nothing to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    /// No source has answered.
    NoAnswer,
    /// What the sources have said, or may have said, speaks against what there is.
    Doubt,
    /// The budget for look-ups is used up.
    Unpaid,
}

impl From<SourceFault> for Lack {
    fn from(fault: SourceFault) -> Self {
        match fault {
            SourceFault::Doubtful => Self::Doubt,
            SourceFault::Unpaid => Self::Unpaid,
            SourceFault::TimedOut
            | SourceFault::Unavailable(_)
            | SourceFault::RateLimited(_)
            | SourceFault::Paced
            | SourceFault::Denied(_)
            | SourceFault::OurFault(_)
            | SourceFault::Malformed(_)
            | SourceFault::Truncated
            | SourceFault::Unsupported
            | SourceFault::CircuitOpen
            | SourceFault::Replaced => Self::NoAnswer,
        }
    }
}

impl Directory {
    /// What is held or found of a practice, for one interaction.
    pub(super) async fn live_practice(
        &self,
        asked: PracticeQuestion<'_>,
        using: RegistrationUse,
        asker: Caller<'_>,
    ) -> Result<Vec<Arc<ProviderRegistration>>, Lack> {
        let PracticeQuestion { ods, interaction, .. } = asked;
        let shared = &self.shared;
        let started = Instant::now();
        let mut until = WaitLimit::Known;
        // A look-up for another interaction may have to be waited for first, and then our own.
        for round in 0..ROUNDS_MAX {
            let held = shared.shelf.practices.get(ods).unwrap_or_default();
            let now_s = asker.by_now_s();
            if round > 0 && held.is_heard(interaction, started) {
                return self.heard(&held, interaction, using, now_s);
            }
            let served = match held.age(interaction, &shared.freshness, now_s) {
                None | Some(Age::Dead) => {
                    // What was noted since then was noted by the clock on the wall.
                    let now_s = if round > 0 { self::now_s() } else { now_s };
                    if let Some(believed) = self.absent(asked, now_s) {
                        return believed.map(|()| others(&held, interaction));
                    }
                    let pays = round == 0;
                    if pays {
                        self.count(LookupResult::Miss);
                    }
                    self.asked_first(asked, (now_s, started), until, (asker, pays)).await?;
                    None
                }
                Some(Age::Fresh) => Some(LookupResult::Hit),
                Some(Age::Stale) if using == RegistrationUse::Confirmed => {
                    self.ask_behind(asked, &held, now_s);
                    Some(LookupResult::Stale)
                }
                Some(Age::Stale | Age::Old) => {
                    let rests = held.rests(interaction, &shared.freshness, now_s);
                    let asked_first = async || {
                        self.asked_first(asked, (now_s, started), until, (asker, false)).await
                    };
                    if rests || asked_first().await.is_err() {
                        self.judge_old(&held, interaction, using, now_s)?;
                        Some(LookupResult::StaleError)
                    } else {
                        None
                    }
                }
            };
            if let Some(lookup) = served {
                held.used(now_s);
                self.count(lookup);
                shared.metrics.directory.served(held.age_s(interaction, now_s));
                return Ok(providers(&held));
            }
            until = WaitLimit::Over;
        }
        let held = shared.shelf.practices.get(ods).unwrap_or_default();
        match held.is_heard(interaction, started) {
            true => self.heard(&held, interaction, using, asker.by_now_s()),
            false => Err(Lack::NoAnswer),
        }
    }

    /// What the directory has just said.
    fn heard(
        &self,
        held: &HeldPractice,
        interaction: &Interaction,
        using: RegistrationUse,
        now_s: i64,
    ) -> Result<Vec<Arc<ProviderRegistration>>, Lack> {
        // Security: a write must not go where the directory has just said that nobody is.
        if using == RegistrationUse::Trusted && held.is_doubted(interaction) {
            return Err(Lack::Doubt);
        }
        held.used(now_s);
        self.count(LookupResult::Refreshed);
        Ok(providers(held))
    }

    /// Whether nothing is registered, or nothing is known for the time being.
    fn absent(&self, asked: PracticeQuestion<'_>, now_s: i64) -> Option<Result<(), Lack>> {
        let absent = Absent::Registration(asked.ods.clone(), asked.interaction.id);
        match self.shared.shelf.absence(&absent, now_s)? {
            // Registrations for other interactions tell what is missing.
            Believed::Confirmed => {
                self.count(LookupResult::Absent);
                Some(Ok(()))
            }
            Believed::ForNow => Some(Err(Lack::Doubt)),
        }
    }

    /// Asks the sources, or waits for who has asked them. What they have said counts, even if the
    /// look-up has not ended in time, or not well.
    async fn asked_first(
        &self,
        asked: PracticeQuestion<'_>,
        (now_s, started): (i64, Instant),
        until: WaitLimit,
        (asker, pays): (Caller<'_>, bool),
    ) -> Result<(), SourceFault> {
        let question = LookupQuestion::practice(asked.ods, asked.interaction);
        let known = || {
            let held = self.shared.shelf.practices.get(asked.ods).unwrap_or_default();
            let age = held.age(asked.interaction, &self.shared.freshness, super::now_s());
            age.is_some_and(|age| age < Age::Dead)
        };
        let board = |account| {
            self.look_up(asked, now_s, (LookupPurpose::Now(account), LookupTrigger::Request))
        };
        let board =
            |again: bool| self.paid(&question.subject, (asker, pays && !again), known, board);
        let asked_now = self.wait(&question, until, board).await;
        let held = self.shared.shelf.practices.get(asked.ods).unwrap_or_default();
        if held.is_heard(asked.interaction, started) { Ok(()) } else { asked_now }
    }

    /// Asks the sources while what is held is served.
    fn ask_behind(&self, asked: PracticeQuestion<'_>, held: &HeldPractice, now_s: i64) {
        let rests = held.rests(asked.interaction, &self.shared.freshness, now_s);
        let question = LookupQuestion::practice(asked.ods, asked.interaction);
        if !rests && !self.is_busy() && !self.shared.failed.contains_key(&question) {
            self.look_up(asked, now_s, (LookupPurpose::Behind, LookupTrigger::Stale));
        }
    }

    /// Whether what is held may be used though no source answers.
    fn judge_old(
        &self,
        held: &HeldPractice,
        interaction: &Interaction,
        using: RegistrationUse,
        now_s: i64,
    ) -> Result<(), Lack> {
        let end_s = self.shared.freshness.stale_writes_max.as_secs();
        match using {
            RegistrationUse::Confirmed => Ok(()),
            RegistrationUse::Trusted if held.is_doubted(interaction) => Err(Lack::Doubt),
            RegistrationUse::Trusted if held.age_s(interaction, now_s) >= end_s => {
                Err(Lack::NoAnswer)
            }
            RegistrationUse::Trusted => Ok(()),
        }
    }

    /// Asks past everything held, once in a while for one practice. Nothing where the file is all
    /// there is.
    ///
    /// # Errors
    /// No source answers, or the budget is used up: what is held may be wrong, and is no reason to
    /// say no for good.
    pub(super) async fn forced(
        &self,
        view: &FileView,
        ods: &OdsCode,
        interaction: &'static Interaction,
        asker: Caller<'_>,
    ) -> Result<Option<Vec<Arc<ProviderRegistration>>>, Refusal> {
        let Some(resolver) = &view.resolver else { return Ok(None) };
        let pins = view.file.pins(ods);
        if pins.iter().any(|pin| pin.serves(interaction)) {
            return Ok(Some(view.file.undenied(pins)));
        }
        let question = LookupQuestion::practice(ods, interaction);
        let lately = self.shared.forced.contains_key(ods);
        if lately && !self.shared.flights.is_under_way(&question.subject) {
            // What was learnt then is what there is to know.
            return Ok(Some(view.file.undenied(&self.held_of(ods))));
        }
        if !lately {
            self.pay(asker)?;
            self.shared.forced.insert(ods.clone(), ());
        }
        // One that is under way may have asked before the change: then once more.
        for _ in 0..2 {
            let mut joined = false;
            let mut board = || {
                let asked = PracticeQuestion { resolver, ods, interaction };
                let wanted = LookupPurpose::Now(asker.payer.account());
                let flight = self.look_up(asked, asker.now_s, (wanted, LookupTrigger::Conflict));
                joined = flight.joined;
                flight
            };
            let waited = self.wait(&question, WaitLimit::Over, |_| Ok(board())).await;
            if let Err(fault) = waited {
                self.shared.forced.invalidate(ods);
                return Err(refusal(&fault));
            }
            if !joined || lately {
                break;
            }
        }
        Ok(Some(view.file.undenied(&self.held_of(ods))))
    }

    /// Asks past everything held, without waiting: what is held leads to nobody who answers.
    pub(super) fn doubt(
        &self,
        resolver: &Arc<SourceResolver>,
        ods: &OdsCode,
        interaction: &'static Interaction,
    ) {
        if self.is_busy() || self.shared.forced.contains_key(ods) {
            return;
        }
        let asked = PracticeQuestion { resolver, ods, interaction };
        // Before it can fail, which takes it back.
        self.shared.forced.insert(ods.clone(), ());
        if self.look_up(asked, now_s(), (LookupPurpose::Behind, LookupTrigger::Conflict)).joined {
            self.shared.forced.invalidate(ods);
        } else {
            self.shared.metrics.directory.conflict(Conflict::Unreached, ForcedLookupResult::Begun);
        }
    }

    /// Returns true if so many look-ups are under way that only requests may begin more.
    fn is_busy(&self) -> bool {
        self.shared.flights.under_way() >= BEHIND_MAX
    }

    fn held_of(&self, ods: &OdsCode) -> Vec<Arc<ProviderRegistration>> {
        self.shared.shelf.practices.get(ods).map(|held| providers(&held)).unwrap_or_default()
    }

    pub(super) async fn live_sender(
        &self,
        resolver: &Arc<SourceResolver>,
        asid: &Asid,
        asker: Caller<'_>,
    ) -> Result<Option<Arc<Sender>>, Refusal> {
        let shared = &self.shared;
        let windows = shared.freshness.sender_windows();
        let held = shared.shelf.senders.get(asid);
        let held = held.map(|held| (held.since.age(windows, asker.by_now_s()), held));
        let held = held.filter(|(age, _)| *age < Age::Dead);
        let absent = Absent::Sender(asid.clone());
        match &held {
            Some((Age::Fresh, held)) => {
                self.count(LookupResult::Hit);
                return Ok(Some(Arc::clone(&held.sender)));
            }
            Some(_) => {}
            None => match shared.shelf.absence(&absent, asker.now_s) {
                Some(Believed::Confirmed) => {
                    self.count(LookupResult::Absent);
                    return Ok(None);
                }
                Some(Believed::ForNow) => return Err(Refusal::DirectoryUnavailable),
                None => self.count(LookupResult::Miss),
            },
        }
        let question = LookupQuestion::sender(asid);
        let pays = held.is_none();
        let known = || shared.shelf.senders.contains_key(asid);
        let board = |account| self.look_up_sender(resolver, asid, account);
        let board =
            |again: bool| self.paid(&question.subject, (asker, pays && !again), known, board);
        let asked = self.wait(&question, WaitLimit::Over, board).await;
        match (asked, held) {
            (Ok(()), _) => {
                let now = shared.shelf.senders.get(asid);
                let now = now.filter(|now| now.since.age(windows, asker.by_now_s()) < Age::Dead);
                let doubtful = shared.shelf.absence(&absent, asker.now_s) == Some(Believed::ForNow);
                match now {
                    Some(now) => Ok(Some(now.sender)),
                    None if doubtful => Err(Refusal::DirectoryUnavailable),
                    None => Ok(None),
                }
            }
            (Err(_), Some((_, held))) => {
                self.count(LookupResult::StaleError);
                Ok(Some(held.sender))
            }
            (Err(fault), None) => Err(refusal(&fault)),
        }
    }

    pub(super) async fn live_owner(
        &self,
        resolver: &Arc<SourceResolver>,
        asid: &Asid,
        asker: Caller<'_>,
    ) -> Result<Option<OdsCode>, Refusal> {
        let absent = Absent::Owner(asid.clone());
        if self.shared.shelf.absence(&absent, asker.now_s).is_some() {
            self.count(LookupResult::Absent);
            return Ok(None);
        }
        self.count(LookupResult::Miss);
        let question = LookupQuestion::owner(asid);
        let board = |account| {
            let (shared, resolver) = (Arc::clone(&self.shared), Arc::clone(resolver));
            let asked = asid.clone();
            self.board(&question, &LookupPurpose::Now(account), |herald| async move {
                let how = shared.how(&herald.haste, shared.deadlines.waiting, false);
                match resolver.owner(&asked, how, &mut Steps::default()).await? {
                    Some(ods) => shared.owners.insert(asked, ods),
                    None => shared.note(Absent::Owner(asked), Believed::Confirmed),
                }
                Ok(())
            })
        };
        let known = || self.shared.owners.contains_key(asid);
        let board = |again: bool| self.paid(&question.subject, (asker, !again), known, board);
        self.wait(&question, WaitLimit::Over, board).await.map_err(|fault| refusal(&fault))?;
        Ok(self.shared.owners.get(asid))
    }

    /// Draws on the budget for look-ups of what is not held: a scan of random codes starves nobody
    /// else.
    ///
    /// Who joins a look-up causes none, nor who comes as one ends.
    fn paid(
        &self,
        subject: &Subject,
        (asker, pays): (Caller<'_>, bool),
        known: impl Fn() -> bool,
        board: impl Fn(LookupAccount) -> Lookup,
    ) -> Result<Lookup, SourceFault> {
        let _one_at_a_time = self.shared.paying.lock().unwrap_or_else(PoisonError::into_inner);
        if pays && !self.shared.flights.is_under_way(subject) && !known() {
            self.pay(asker).map_err(|_| SourceFault::Unpaid)?;
        }
        Ok(board(asker.payer.account()))
    }

    fn pay(&self, asker: Caller<'_>) -> Result<(), Refusal> {
        let account = asker.payer.account();
        self.shared.misses.check_key(&account).map_err(|_| Refusal::LookupsExceeded)
    }

    pub(super) fn count(&self, lookup: LookupResult) {
        self.shared.metrics.directory.looked_up(lookup);
    }
}

fn refusal(fault: &SourceFault) -> Refusal {
    match *fault == SourceFault::Unpaid {
        true => Refusal::LookupsExceeded,
        false => Refusal::DirectoryUnavailable,
    }
}

/// Registrations for other interactions: they tell what is missing.
fn others(held: &HeldPractice, interaction: &Interaction) -> Vec<Arc<ProviderRegistration>> {
    providers(held).into_iter().filter(|provider| !provider.serves(interaction)).collect()
}

fn providers(held: &HeldPractice) -> Vec<Arc<ProviderRegistration>> {
    held.rows.iter().map(|row| Arc::clone(&row.provider)).collect()
}
