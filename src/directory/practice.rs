//! Registrations of a practice: from the cache while they may be used, else from the live sources.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::cache::{Age, CachedPractice, OldEntryUse, RegistrationUse, Usability};
use super::lookups::{
    LookupCaller, LookupFault, LookupHandle, LookupQuestion, LookupTask, WaitUntil,
};
use super::payer::Payer;
use super::shared_answers::SharedLookup;
use super::sources::{Certainty, DirectoryAnswer, LiveSources};
use super::{ConcurrentChange, Directory, DirectoryState, LookupStart, SourcesInForce};
use crate::metrics::{Conflict, ForcedLookupResult, LookupResult, LookupTrigger};
use crate::refusal::Refusal;
use crate::registry::ProviderRegistration;
use spine_types::OdsCode;
use spine_types::interaction::Interaction;

/// Limit: number of look-ups that one request waits for, one after another.
pub(super) const ROUNDS_MAX: usize = 4;
/// Minimum time between two forced look-ups of one practice.
pub(super) const FORCED_AGAIN: Duration = Duration::from_secs(30);
/// Minimum time between two refreshes ahead of expiry.
pub(super) const AHEAD_EVERY: Duration = Duration::from_secs(1);
/// Limit: number of look-ups under way at which no practice is refreshed ahead of expiry.
pub(super) const AHEAD_MAX: usize = 4;

/// Practice and interaction to look up, and the sources to ask.
#[derive(Clone, Copy)]
pub(super) struct PracticeQuestion<'a> {
    pub(super) in_force: &'a SourcesInForce,
    pub(super) sources: &'a Arc<LiveSources>,
    pub(super) ods: &'a OdsCode,
    pub(super) interaction: &'static Interaction,
}

/// Request that needs a practice's registrations.
#[derive(Clone, Copy)]
pub(super) struct PracticeRequest<'a> {
    pub(super) question: PracticeQuestion<'a>,
    pub(super) intended: RegistrationUse,
    pub(super) payer: Payer<'a>,
}

type Registrations = Vec<Arc<ProviderRegistration>>;

impl Directory {
    /// Returns a practice's registrations from the cache or the live sources, for one interaction.
    pub(super) async fn live_practice(
        &self,
        request: PracticeRequest<'_>,
    ) -> Result<Registrations, LookupFault> {
        let shared = &self.shared;
        let PracticeQuestion { ods, interaction, .. } = request.question;
        let last_answer = shared.cache.last_answer();
        // A look-up of the same practice for another interaction may have to end before ours can begin.
        for round in 0..ROUNDS_MAX {
            let is_first = round == 0;
            let cached = shared.cache.practice(ods);
            let rules = shared.rules();
            if !is_first && cached.is_answered_after(interaction, last_answer) {
                return self.just_answered(&cached, request);
            }
            let until = if is_first { WaitUntil::Answer } else { WaitUntil::End };
            let ask_first = |is_charged| self.ask_first(request, last_answer, until, is_charged);
            let served = match cached.usability(interaction, request.intended, rules) {
                Usability::Missing => {
                    if let Some(certainty) = self.absence(request.question) {
                        return self.absent(certainty, &cached, interaction);
                    }
                    if is_first {
                        self.count(LookupResult::Miss);
                    }
                    ask_first(is_first).await?;
                    continue;
                }
                Usability::Fresh => LookupResult::Hit,
                Usability::Stale { refresh } => {
                    if refresh {
                        self.refresh_stale(request.question);
                    }
                    LookupResult::Stale
                }
                Usability::Old { refresh, unanswered } => {
                    if refresh && ask_first(false).await.is_ok() {
                        continue;
                    }
                    match unanswered {
                        OldEntryUse::Served => LookupResult::StaleError,
                        OldEntryUse::TooOld => return Err(LookupFault::NoAnswer),
                        OldEntryUse::Doubted => return Err(LookupFault::Doubtful),
                    }
                }
            };
            cached.used(rules.now_s);
            self.count(served);
            shared.metrics.directory.served(cached.age_s(interaction, rules.now_s));
            return Ok(cached.providers());
        }
        let cached = shared.cache.practice(ods);
        match cached.is_answered_after(interaction, last_answer) {
            true => self.just_answered(&cached, request),
            false => Err(LookupFault::NoAnswer),
        }
    }

    /// Returns the registrations that the directory has just confirmed.
    fn just_answered(
        &self,
        cached: &CachedPractice,
        request: PracticeRequest<'_>,
    ) -> Result<Registrations, LookupFault> {
        // Security: a write must not go to a registration that the directory has just denied.
        if request.intended == RegistrationUse::Trusted
            && cached.is_doubted(request.question.interaction)
        {
            return Err(LookupFault::Doubtful);
        }
        cached.used(self.shared.now_s());
        self.count(LookupResult::Refreshed);
        Ok(cached.providers())
    }

    fn absence(&self, question: PracticeQuestion<'_>) -> Option<Certainty> {
        let question = LookupQuestion::practice(question.ods, question.interaction);
        self.shared.cache.absence(&question, self.shared.now_s())
    }

    /// Returns the registrations for other interactions if an absence is confirmed: from them the caller
    /// chooses the exact refusal.
    fn absent(
        &self,
        certainty: Certainty,
        cached: &CachedPractice,
        interaction: &Interaction,
    ) -> Result<Registrations, LookupFault> {
        match certainty {
            Certainty::Confirmed => {
                self.count(LookupResult::Absent);
                let mut others = cached.providers();
                others.retain(|provider| !provider.serves(interaction));
                Ok(others)
            }
            Certainty::Unconfirmed => Err(LookupFault::Doubtful),
        }
    }

    /// Looks a practice up, or waits for a look-up under way.
    ///
    /// Succeeds if the sources have answered for this interaction, even if the look-up timed out or
    /// failed afterwards.
    async fn ask_first(
        &self,
        request: PracticeRequest<'_>,
        last_answer: u64,
        until: WaitUntil,
        is_charged: bool,
    ) -> Result<(), LookupFault> {
        let PracticeQuestion { ods, interaction, .. } = request.question;
        let question = LookupQuestion::practice(ods, interaction);
        let begin = |is_first: bool| {
            let is_charged = is_charged && is_first;
            let caller = LookupCaller::Request { payer: request.payer, is_charged };
            self.look_up(request.question, caller, LookupTrigger::Request)
        };
        let asked = self.shared.lookups.wait(&question, until, begin).await;
        match self.shared.cache.practice(ods).is_answered_after(interaction, last_answer) {
            true => Ok(()),
            false => asked,
        }
    }

    /// Begins a background refresh of a stale entry, which is served meanwhile.
    fn refresh_stale(&self, question: PracticeQuestion<'_>) {
        let lookups = &self.shared.lookups;
        let failed = LookupQuestion::practice(question.ods, question.interaction);
        if !lookups.is_busy() && lookups.failed(&failed).is_none() {
            self.refresh(question, LookupTrigger::Stale);
        }
    }

    /// Begins or joins a background look-up; returns true if it began.
    fn refresh(&self, question: PracticeQuestion<'_>, trigger: LookupTrigger) -> bool {
        let begun = self.look_up(question, LookupCaller::Background, trigger);
        begun.is_ok_and(|look_up| !look_up.is_joined)
    }

    /// Looks a practice up past the cache, at most once per [`FORCED_AGAIN`]; `None` without live sources.
    ///
    /// # Errors
    /// Returns a refusal if no source answers or the budget is used up: the cached entry may be wrong, so
    /// it must not decide a final refusal.
    pub(super) async fn forced(
        &self,
        in_force: &SourcesInForce,
        ods: &OdsCode,
        interaction: &'static Interaction,
        payer: Payer<'_>,
    ) -> Result<Option<Registrations>, Refusal> {
        let shared = &self.shared;
        let Some(sources) = &in_force.sources else { return Ok(None) };
        let pins = in_force.file.pins(ods);
        if pins.iter().any(|pin| pin.serves(interaction)) {
            return Ok(Some(in_force.file.undenied(pins)));
        }
        let question = PracticeQuestion { in_force, sources, ods, interaction };
        let cached = || in_force.file.undenied(&shared.cache.practice(ods).providers());
        let asked = LookupQuestion::practice(ods, interaction);
        let was_forced = shared.was_forced_lately(ods);
        if was_forced && !shared.lookups.is_under_way(&asked) {
            // The last forced look-up has just filled the cache.
            return Ok(Some(cached()));
        }
        if !was_forced {
            shared.lookups.charge(payer)?;
            shared.forced.insert(ods.clone(), shared.clock.now());
        }
        // A look-up that was joined may have asked before the change, or only another gateway: ask once more.
        for _ in 0..ROUNDS_MAX {
            let mut is_joined = false;
            let begin = |_| {
                let caller = LookupCaller::Request { payer, is_charged: false };
                let look_up = self.look_up(question, caller, LookupTrigger::Conflict)?;
                is_joined = look_up.is_joined;
                Ok(look_up)
            };
            if let Err(fault) = shared.lookups.wait(&asked, WaitUntil::End, begin).await {
                shared.forced.invalidate(ods);
                return Err(fault.into());
            }
            if !is_joined || was_forced {
                break;
            }
        }
        Ok(Some(cached()))
    }

    /// Begins a background look-up of a provider that could not be reached: it may have moved.
    ///
    /// Does nothing for a provider of the file, or if the practice had a forced look-up lately.
    pub fn unreached(&self, provider: &ProviderRegistration, interaction: &'static Interaction) {
        let shared = &self.shared;
        let in_force = shared.in_force.load_full();
        let ods = &provider.ods;
        let Some(sources) = &in_force.sources else { return };
        let is_pinned = in_force.file.pins(ods).iter().any(|pin| pin.serves(interaction));
        if is_pinned || shared.lookups.is_busy() || shared.was_forced_lately(ods) {
            return;
        }
        let question = PracticeQuestion { in_force: &in_force, sources, ods, interaction };
        // Inserted before the look-up begins: a failure removes it again.
        shared.forced.insert(ods.clone(), shared.clock.now());
        if self.refresh(question, LookupTrigger::Conflict) {
            shared.metrics.directory.conflict(Conflict::Unreached, ForcedLookupResult::Begun);
        } else {
            shared.forced.invalidate(ods);
        }
    }

    /// Refreshes practices in use shortly before they grow stale, one per second at most.
    ///
    /// Begins no refresh while [`AHEAD_MAX`] look-ups are under way. Runs until dropped.
    pub async fn refresh_ahead(&self) {
        loop {
            tokio::time::sleep(AHEAD_EVERY).await;
            let in_force = self.shared.in_force.load_full();
            let Some(sources) = &in_force.sources else {
                // Without a live source: wait for a reload that configures one.
                self.shared.replaced.notified().await;
                continue;
            };
            if self.shared.lookups.under_way() >= AHEAD_MAX {
                continue;
            }
            if let Some((ods, interaction)) = self.shared.cache.take_due(self.shared.now_s()) {
                let ods = &ods;
                let question = PracticeQuestion { in_force: &in_force, sources, ods, interaction };
                self.refresh(question, LookupTrigger::Ahead);
            }
        }
    }

    /// Begins or joins the look-up of a practice.
    fn look_up(
        &self,
        question: PracticeQuestion<'_>,
        caller: LookupCaller<'_>,
        trigger: LookupTrigger,
    ) -> Result<LookupHandle, LookupFault> {
        let PracticeQuestion { in_force, sources, ods, interaction } = question;
        let (shared, sources, ods) = (Arc::clone(&self.shared), Arc::clone(sources), ods.clone());
        let start = shared.start(in_force);
        let asked = LookupQuestion::practice(&ods, interaction);
        let patience = match caller {
            LookupCaller::Request { .. } => shared.deadlines.waiting,
            LookupCaller::Background => shared.deadlines.background,
        };
        let is_cached = || {
            let age = self.shared.cache.practice(question.ods).age(interaction, shared.rules());
            age.is_some_and(|age| age < Age::Dead)
        };
        let begun = self.shared.lookups.begin_or_join(&asked, caller, is_cached, {
            let shared = Arc::clone(&shared);
            |task| async move {
                let look_up = PracticeLookup { shared: &shared, ods: &ods, interaction, start };
                let ended = look_up.run(&sources, &task, trigger, patience).await;
                if ended.is_err() {
                    // A failed look-up does not count as the practice's forced look-up.
                    shared.forced.invalidate(&ods);
                }
                ended
            }
        })?;
        if begun.is_joined {
            self.shared.metrics.directory.joined();
        }
        Ok(begun)
    }
}

/// Look-up of a practice in its task.
pub(super) struct PracticeLookup<'a> {
    pub(super) shared: &'a DirectoryState,
    pub(super) ods: &'a OdsCode,
    pub(super) interaction: &'static Interaction,
    pub(super) start: LookupStart,
}

impl PracticeLookup<'_> {
    async fn run(
        &self,
        sources: &LiveSources,
        task: &LookupTask,
        trigger: LookupTrigger,
        patience: Duration,
    ) -> Result<(), LookupFault> {
        let shared = self.shared;
        let age = shared.cache.practice(self.ods).age(self.interaction, shared.rules());
        if trigger == LookupTrigger::Request && age == Some(Age::Fresh) {
            // Another look-up ended just before this one began.
            return Ok(());
        }
        // HTTP caches on the way could return the old answer that is cached here, as if it were new.
        let past_caches = trigger == LookupTrigger::Conflict || age.is_some();
        let look_up = SharedLookup { practice: self, sources, task, trigger, past_caches };
        let ended = look_up.run(Instant::now() + patience).await;
        shared.metrics.directory.refreshed(trigger, ended.is_ok());
        ended
    }

    /// Looks up the wanted interaction first, then the practice's other interactions, and stores the answers for
    /// other gateways too.
    pub(super) async fn ask(
        &self,
        sources: &LiveSources,
        task: &LookupTask,
        patience: Duration,
        past_caches: bool,
    ) -> Result<(), LookupFault> {
        let Self { shared, ods, interaction, .. } = *self;
        let asked_s = shared.now_s();
        let mut look_up = sources.begin(&task.waiters, patience, &shared.metrics, &shared.sharing);
        look_up.past_caches = past_caches;
        let found = match look_up.practice(ods, interaction).await? {
            DirectoryAnswer::Found(found) => found,
            DirectoryAnswer::Absent(certainty) => {
                let absent = self.absent(certainty);
                self.withdraw(certainty).await;
                return absent;
            }
        };
        let cached = shared.cache.practice(ods);
        let (rules, number) = (shared.rules(), shared.cache.next_answer());
        let cached = cached.after_found(interaction, &found, rules, number);
        let is_doubted = cached.is_doubted(interaction);
        self.store(cached)?;
        task.answered();
        if is_doubted {
            // The new answer is not believed yet; looking up the rest would cache it after all.
            self.publish(sources, found.origin, &[], asked_s).await;
            return Ok(());
        }
        self.publish(sources, found.origin, &found.providers, asked_s).await;
        look_up.deadline = Instant::now() + shared.deadlines.background;
        if let Some(others) = look_up.other_interactions(ods, &found).await {
            let cached = shared.cache.practice(ods);
            self.store(cached.after_others(&found, &others, rules, number))?;
            self.publish(sources, found.origin, &others, asked_s).await;
        }
        Ok(())
    }

    /// Caches an absence. Security: one that may be a failed search does not change cached entries.
    fn absent(&self, certainty: Certainty) -> Result<(), LookupFault> {
        let Self { shared, ods, interaction, .. } = *self;
        let cached = shared.cache.practice(ods);
        let is_confirmed = certainty == Certainty::Confirmed;
        if is_confirmed && cached.rows_for(interaction).next().is_some() {
            let number = shared.cache.next_answer();
            self.store(cached.after_absent(interaction, shared.rules(), number))?;
        }
        let question = LookupQuestion::practice(ods, interaction);
        shared.store_absence(&question, certainty, &self.start)?;
        if is_confirmed { Ok(()) } else { Err(LookupFault::Doubtful) }
    }

    /// Caches the practice; marks or removes it if a flush or a change of sources happened meanwhile.
    ///
    /// # Errors
    /// Returns [`LookupFault::NoAnswer`] if the sources' URLs changed: that was another directory.
    pub(super) fn store(&self, practice: CachedPractice) -> Result<(), LookupFault> {
        let Self { shared, ods, .. } = *self;
        shared.cache.insert_practice(ods, practice);
        match shared.change_since(&self.start) {
            ConcurrentChange::Nothing => Ok(()),
            ConcurrentChange::Flushed => {
                shared.cache.flush_practice(ods, shared.now_s());
                Ok(())
            }
            ConcurrentChange::Replaced => {
                shared.cache.practices.invalidate(ods);
                Err(LookupFault::NoAnswer)
            }
        }
    }
}
