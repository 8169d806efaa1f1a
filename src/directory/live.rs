//! Look-ups for requests: answers from the cache while they may be used, else from the live sources.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::asker::LookupAccount;
use super::cache::{Absent, Age, Believed, HeldPractice};
use super::flight::{Lookup, LookupQuestion, Subject};
use super::look_up::{PracticeQuestion, WaitLimit};
use super::rules::SourceResolver;
use super::source::{LookupPurpose, SourceFault};
use super::steps::Steps;
use super::{Caller, Directory, FileView, RegistrationUse, now_s};
use crate::metrics::{Conflict, ForcedLookupResult, LookupResult, LookupTrigger};
use crate::refusal::Refusal;
use crate::registry::{ProviderRegistration, Sender};
use spine_types::interaction::Interaction;
use spine_types::{Asid, OdsCode};

/// Limit: number of look-ups that one request waits for, one after another.
const ROUNDS_MAX: usize = 4;

/// Limit: number of look-ups under way at which no background look-up is started.
const BEHIND_MAX: usize = 256;

/// Reason why a look-up yields no registrations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    /// All sources failed to answer.
    NoAnswer,
    /// The sources have said, or may have said, that the registration no longer exists.
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
    /// Returns a practice's registrations from the cache or the live sources, for one interaction.
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
        // A look-up of the same practice for another interaction may have to end before ours can start.
        for round in 0..ROUNDS_MAX {
            let held = shared.cache.practices.get(ods).unwrap_or_default();
            let now_s = asker.by_now_s();
            if round > 0 && held.is_heard(interaction, started) {
                return self.just_answered(&held, interaction, using, now_s);
            }
            let served = match held.age(interaction, &shared.freshness, now_s) {
                None | Some(Age::Dead) => {
                    // Absences noted by the last round carry the wall-clock time, not the request's.
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
        let held = shared.cache.practices.get(ods).unwrap_or_default();
        match held.is_heard(interaction, started) {
            true => self.just_answered(&held, interaction, using, asker.by_now_s()),
            false => Err(Lack::NoAnswer),
        }
    }

    /// Returns the registrations that the directory has just confirmed.
    fn just_answered(
        &self,
        held: &HeldPractice,
        interaction: &Interaction,
        using: RegistrationUse,
        now_s: i64,
    ) -> Result<Vec<Arc<ProviderRegistration>>, Lack> {
        // Security: a write must not go to a registration that the directory has just denied.
        if using == RegistrationUse::Trusted && held.is_doubted(interaction) {
            return Err(Lack::Doubt);
        }
        held.used(now_s);
        self.count(LookupResult::Refreshed);
        Ok(providers(held))
    }

    /// Looks for a cached absence: `Ok` if it is confirmed, `Err` if it may be a failed search.
    fn absent(&self, asked: PracticeQuestion<'_>, now_s: i64) -> Option<Result<(), Lack>> {
        let absent = Absent::Registration(asked.ods.clone(), asked.interaction.id);
        match self.shared.cache.absence(&absent, now_s)? {
            // The caller returns registrations for other interactions, so that the refusal can be exact.
            Believed::Confirmed => {
                self.count(LookupResult::Absent);
                Some(Ok(()))
            }
            Believed::ForNow => Some(Err(Lack::Doubt)),
        }
    }

    /// Looks a practice up, or waits for a look-up under way.
    ///
    /// Succeeds if the sources have answered for this interaction, even if the look-up timed out or
    /// failed afterwards.
    async fn asked_first(
        &self,
        asked: PracticeQuestion<'_>,
        (now_s, started): (i64, Instant),
        until: WaitLimit,
        (asker, pays): (Caller<'_>, bool),
    ) -> Result<(), SourceFault> {
        let question = LookupQuestion::practice(asked.ods, asked.interaction);
        let known = || {
            let held = self.shared.cache.practices.get(asked.ods).unwrap_or_default();
            let age = held.age(asked.interaction, &self.shared.freshness, super::now_s());
            age.is_some_and(|age| age < Age::Dead)
        };
        let board = |account| {
            self.look_up(asked, now_s, (LookupPurpose::Now(account), LookupTrigger::Request))
        };
        let board =
            |again: bool| self.charged(&question.subject, (asker, pays && !again), known, board);
        let asked_now = self.wait(&question, until, board).await;
        let held = self.shared.cache.practices.get(asked.ods).unwrap_or_default();
        if held.is_heard(asked.interaction, started) { Ok(()) } else { asked_now }
    }

    /// Starts a background refresh of a stale entry, which is served meanwhile.
    fn ask_behind(&self, asked: PracticeQuestion<'_>, held: &HeldPractice, now_s: i64) {
        let rests = held.rests(asked.interaction, &self.shared.freshness, now_s);
        let question = LookupQuestion::practice(asked.ods, asked.interaction);
        if !rests && !self.is_busy() && !self.shared.failed.contains_key(&question) {
            self.look_up(asked, now_s, (LookupPurpose::Behind, LookupTrigger::Stale));
        }
    }

    /// Decides if an old entry may be used although no source answers.
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

    /// Looks a practice up past the cache, at most once per `directory.freshness.forced`; `None` without
    /// live sources.
    ///
    /// # Errors
    /// Returns a refusal if no source answers or the budget is used up: the cached entry may be wrong, so
    /// it must not decide a final refusal.
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
            // The last forced look-up has just filled the cache.
            return Ok(Some(view.file.undenied(&self.held_of(ods))));
        }
        if !lately {
            self.charge(asker)?;
            self.shared.forced.insert(ods.clone(), ());
        }
        // A look-up that was joined may have asked before the change: ask once more.
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

    /// Starts a background look-up past the cache, for a cached provider that could not be reached.
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
        // Inserted before the look-up starts: a failure removes it again.
        self.shared.forced.insert(ods.clone(), ());
        if self.look_up(asked, now_s(), (LookupPurpose::Behind, LookupTrigger::Conflict)).joined {
            self.shared.forced.invalidate(ods);
        } else {
            self.shared.metrics.directory.conflict(Conflict::Unreached, ForcedLookupResult::Begun);
        }
    }

    /// Returns true if so many look-ups are under way that only requests may start more.
    fn is_busy(&self) -> bool {
        self.shared.flights.under_way() >= BEHIND_MAX
    }

    fn held_of(&self, ods: &OdsCode) -> Vec<Arc<ProviderRegistration>> {
        self.shared.cache.practices.get(ods).map(|held| providers(&held)).unwrap_or_default()
    }

    pub(super) async fn live_sender(
        &self,
        resolver: &Arc<SourceResolver>,
        asid: &Asid,
        asker: Caller<'_>,
    ) -> Result<Option<Arc<Sender>>, Refusal> {
        let shared = &self.shared;
        let windows = shared.freshness.sender_windows();
        let held = shared.cache.senders.get(asid);
        let held = held.map(|held| (held.since.age(windows, asker.by_now_s()), held));
        let held = held.filter(|(age, _)| *age < Age::Dead);
        let absent = Absent::Sender(asid.clone());
        match &held {
            Some((Age::Fresh, held)) => {
                self.count(LookupResult::Hit);
                return Ok(Some(Arc::clone(&held.sender)));
            }
            Some(_) => {}
            None => match shared.cache.absence(&absent, asker.now_s) {
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
        let known = || shared.cache.senders.contains_key(asid);
        let board = |account| self.look_up_sender(resolver, asid, account);
        let board =
            |again: bool| self.charged(&question.subject, (asker, pays && !again), known, board);
        let asked = self.wait(&question, WaitLimit::Over, board).await;
        match (asked, held) {
            (Ok(()), _) => {
                let now = shared.cache.senders.get(asid);
                let now = now.filter(|now| now.since.age(windows, asker.by_now_s()) < Age::Dead);
                let doubtful = shared.cache.absence(&absent, asker.now_s) == Some(Believed::ForNow);
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
        if self.shared.cache.absence(&absent, asker.now_s).is_some() {
            self.count(LookupResult::Absent);
            return Ok(None);
        }
        self.count(LookupResult::Miss);
        let question = LookupQuestion::owner(asid);
        let board = |account| {
            let (shared, resolver) = (Arc::clone(&self.shared), Arc::clone(resolver));
            let asked = asid.clone();
            self.begin_or_join(&question, &LookupPurpose::Now(account), |progress| async move {
                let how = shared.query_options(&progress.priority, shared.deadlines.waiting, false);
                match resolver.owner(&asked, how, &mut Steps::default()).await? {
                    Some(ods) => shared.owners.insert(asked, ods),
                    None => shared.note(Absent::Owner(asked), Believed::Confirmed),
                }
                Ok(())
            })
        };
        let known = || self.shared.owners.contains_key(asid);
        let board = |again: bool| self.charged(&question.subject, (asker, !again), known, board);
        self.wait(&question, WaitLimit::Over, board).await.map_err(|fault| refusal(&fault))?;
        Ok(self.shared.owners.get(asid))
    }

    /// Charges the caller's budget for uncached look-ups, then starts or joins the look-up.
    ///
    /// The budget keeps a scan of random codes from using up the sources' rate. Joining a look-up, or
    /// arriving just after one ended, is not charged.
    ///
    /// # Errors
    /// Returns [`SourceFault::Unpaid`] if the budget is used up.
    fn charged(
        &self,
        subject: &Subject,
        (asker, pays): (Caller<'_>, bool),
        known: impl Fn() -> bool,
        board: impl Fn(LookupAccount) -> Lookup,
    ) -> Result<Lookup, SourceFault> {
        let _one_at_a_time = self.shared.paying.lock().unwrap_or_else(PoisonError::into_inner);
        if pays && !self.shared.flights.is_under_way(subject) && !known() {
            self.charge(asker).map_err(|_| SourceFault::Unpaid)?;
        }
        Ok(board(asker.payer.account()))
    }

    fn charge(&self, asker: Caller<'_>) -> Result<(), Refusal> {
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

/// Returns the registrations for other interactions, from which an exact refusal is chosen.
fn others(held: &HeldPractice, interaction: &Interaction) -> Vec<Arc<ProviderRegistration>> {
    providers(held).into_iter().filter(|provider| !provider.serves(interaction)).collect()
}

fn providers(held: &HeldPractice) -> Vec<Arc<ProviderRegistration>> {
    held.rows.iter().map(|row| Arc::clone(&row.provider)).collect()
}
