//! Look-ups of practices together with other gateways: their answers are taken by the same rules of freshness as
//! our own, and one gateway at a time asks the directory for a practice.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};

use super::ConcurrentChange;
use super::cache::{Age, CLOCKS_DIFFER_MAX_S, CachedPractice, FreshnessRules};
use super::lookups::{LookupFault, LookupTask};
use super::practice::PracticeLookup;
use super::sources::{Certainty, FoundRegistrations, LiveSources, SourceUrls};
use crate::metrics::{LookupTrigger, SharedAnswerResult};
use crate::registry::{Origin, ProviderRegistration};
use crate::sharing::{OpenedAnswers, PracticeClaim};
use spine_types::interaction::{self, Interaction};
use spine_types::{Asid, CpaId, InteractionId, OdsCode, PartyKey, ServiceRoot};

/// Interval at which a look-up reads other gateways' answers while one of them asks the directory.
const READ_AGAIN: Duration = Duration::from_millis(100);
/// Limit: time for which a request's look-up waits for another gateway that asks the directory; then it asks too. It
/// never waits for longer than half of its time.
const OTHERS_WAIT_MAX: Duration = Duration::from_secs(2);

/// Answer of the directory for one practice and interaction, as gateways share it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SharedAnswer {
    ods: OdsCode,
    interaction: InteractionId,
    /// Source that answered, and its URL: another URL is another directory.
    source: Origin,
    url: String,
    /// Time at which the directory was asked, in seconds since 1970: what it answers is no older.
    answered_s: i64,
    /// True if the directory was asked for this interaction; false if it was for all those of a system, so that another
    /// system may have it too.
    is_whole: bool,
    registrations: Vec<SharedRegistration>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SharedRegistration {
    asid: Asid,
    party_key: PartyKey,
    cpa_id: CpaId,
    root: String,
}

/// Answer of another gateway that may be used here.
struct TakenAnswer {
    interaction: &'static Interaction,
    answered_s: i64,
    is_whole: bool,
    found: FoundRegistrations,
}

/// Look-up of a practice that first takes what other gateways know.
pub(super) struct SharedLookup<'a> {
    pub(super) practice: &'a PracticeLookup<'a>,
    pub(super) sources: &'a LiveSources,
    pub(super) task: &'a LookupTask,
    pub(super) trigger: LookupTrigger,
    pub(super) past_caches: bool,
}

impl SharedLookup<'_> {
    /// Takes a newer answer of another gateway, waits for one that is asking, or asks the directory.
    ///
    /// A look-up after a contradiction asks in any case. One that no request waits for ends if another gateway is
    /// asking; one that a request waits for asks too if no answer comes from there.
    pub(super) async fn run(&self, deadline: Instant) -> Result<(), LookupFault> {
        let PracticeLookup { shared, ods, .. } = *self.practice;
        let sharing = &shared.sharing;
        if self.trigger == LookupTrigger::Conflict || !sharing.shares_answers() {
            return self.ask(deadline).await;
        }
        let was_usable = self.age().is_some_and(|age| age < Age::Dead);
        let begun = Instant::now();
        let patience = deadline.saturating_duration_since(begun);
        let asks_too = begun + OTHERS_WAIT_MAX.min(patience / 2);
        let claim = PracticeClaim::new(ods);
        // Claimed only if the answers that are there do not do.
        let mut wanted = None;
        let mut has_waited = false;
        loop {
            // A request may have joined since.
            let is_waited_for = self.task.waiters.is_waited_for();
            let Some(read) = sharing.answers(ods, wanted, is_waited_for).await else {
                return self.ask(deadline).await;
            };
            let taken = self.take(&read, wanted.is_none());
            let is_settled = taken.is_ok() && self.is_settled(was_usable);
            if is_settled {
                shared.metrics.directory.shared(SharedAnswerResult::Used);
            }
            if read.is_claimed {
                let ended = match taken {
                    Ok(()) if !is_settled => self.ask_for_all(&claim, deadline).await,
                    taken => taken,
                };
                sharing.release(&claim).await;
                return ended;
            }
            let is_left = has_waited && !self.task.waiters.is_waited_for();
            if taken.is_err() || is_settled || is_left {
                return taken;
            }
            if asks_too <= Instant::now() {
                return self.ask(deadline).await;
            }
            if wanted.is_some() {
                sleep_until(asks_too.min(Instant::now() + READ_AGAIN)).await;
                has_waited = true;
            }
            wanted = Some(&claim);
        }
    }

    async fn ask(&self, deadline: Instant) -> Result<(), LookupFault> {
        let patience = deadline.saturating_duration_since(Instant::now());
        let asked = self.practice.ask(self.sources, self.task, patience, self.past_caches);
        // Boxed: with all that may be sent to Redis on the way it is large.
        Box::pin(asked).await
    }

    /// Asks the directory on behalf of all gateways.
    async fn ask_for_all(
        &self,
        claim: &PracticeClaim,
        deadline: Instant,
    ) -> Result<(), LookupFault> {
        let (shared, waiters) = (self.practice.shared, &self.task.waiters);
        shared.metrics.directory.shared(SharedAnswerResult::Asked);
        tokio::select! {
            ended = self.ask(deadline) => ended,
            () = shared.sharing.keep(claim, || waiters.is_waited_for()) => Err(LookupFault::NoAnswer),
        }
    }

    fn age(&self) -> Option<Age> {
        let PracticeLookup { shared, ods, interaction, .. } = *self.practice;
        shared.cache.practice(ods).age(interaction, shared.rules())
    }

    /// Returns true if what is cached now does without another answer of the directory.
    ///
    /// For a request whose practice was not cached, a stale answer does: it is judged like any stale entry next,
    /// which may look the practice up again.
    fn is_settled(&self, was_usable: bool) -> bool {
        let PracticeLookup { shared, ods, interaction, .. } = *self.practice;
        match (self.trigger, self.age()) {
            (LookupTrigger::Ahead, Some(Age::Fresh)) => {
                shared.cache.practice(ods).is_young(interaction, shared.rules())
            }
            (LookupTrigger::Request | LookupTrigger::Stale, Some(Age::Fresh)) => true,
            (LookupTrigger::Request, Some(Age::Stale)) => !was_usable,
            (LookupTrigger::Request | LookupTrigger::Stale | LookupTrigger::Ahead, _)
            | (LookupTrigger::Conflict, _) => false,
        }
    }

    /// Puts those answers in the cache that are newer than what is cached; reports those that are no gateway's at
    /// the first read of a look-up.
    fn take(&self, read: &OpenedAnswers, is_first: bool) -> Result<(), LookupFault> {
        let PracticeLookup { shared, ods, .. } = *self.practice;
        let (urls, rules) = (self.sources.urls(), shared.rules());
        let before = shared.cache.practice(ods);
        let mut changed: Option<CachedPractice> = None;
        let mut rejected = read.forged;
        for text in &read.texts {
            let Some(answer) = TakenAnswer::read(text, ods, &urls, rules.now_s) else {
                rejected += 1;
                continue;
            };
            let TakenAnswer { interaction, answered_s, .. } = answer;
            let cached = changed.as_ref().unwrap_or(&before);
            let is_dead = !rules.is_within(answered_s, rules.freshness.provider_max);
            let is_flushed = !shared.cache.is_after_flushes(answered_s);
            if is_dead || is_flushed || !cached.is_before(interaction, answered_s) {
                continue;
            }
            let at_answer = shared.cache.rules(answered_s);
            let new = answer.added_to(cached, at_answer, shared.cache.next_answer());
            // Only a fresh answer counts as one that the directory has just given.
            changed = match new.age(interaction, rules) {
                Some(Age::Fresh) => Some(new),
                _ => Some(answer.added_to(cached, at_answer, 0)),
            };
        }
        if rejected > 0 && is_first {
            shared.metrics.directory.shared(SharedAnswerResult::Rejected);
            tracing::warn!(
                %ods, rejected,
                "directory answers in Redis are ignored, since no gateway with our key wrote them, or one with \
                 another directory or clock: compare redis.key-file, directory and clock of all gateways, and find \
                 out who else writes to Redis"
            );
        }
        changed.map_or(Ok(()), |changed| self.practice.store(changed))
    }
}

impl TakenAnswer {
    /// Reads an answer for this practice; `None` if it cannot be read, is another practice's or directory's, or
    /// comes from the future.
    fn read(text: &[u8], ods: &OdsCode, urls: &SourceUrls, now_s: i64) -> Option<Self> {
        let answer: SharedAnswer = serde_json::from_slice(text).ok()?;
        let interaction = interaction::by_id(answer.interaction.as_str())?;
        let is_ours = answer.ods == *ods && urls.get(&answer.source) == Some(&answer.url);
        if !is_ours || answer.answered_s > now_s.saturating_add(CLOCKS_DIFFER_MAX_S) {
            return None;
        }
        let registered = answer.registrations.into_iter().map(|registration| {
            let SharedRegistration { asid, party_key, cpa_id, root } = registration;
            let root = root.parse::<ServiceRoot>().ok()?;
            let (ods, interactions) = (ods.clone(), vec![interaction]);
            let provider =
                ProviderRegistration::new(ods, asid, party_key, cpa_id, root, interactions);
            Some(Arc::new(provider))
        });
        let providers = registered.collect::<Option<Vec<_>>>()?;
        let found = FoundRegistrations { origin: answer.source, providers, systems: Vec::new() };
        let (answered_s, is_whole) = (answer.answered_s.min(now_s), answer.is_whole);
        Some(Self { interaction, answered_s, is_whole, found })
    }

    /// Returns the entry after this answer, by the rules for an answer of the directory to ourselves.
    fn added_to(
        &self,
        cached: &CachedPractice,
        rules: FreshnessRules<'_>,
        number: u64,
    ) -> CachedPractice {
        match self.is_whole {
            true => cached.after_found(self.interaction, &self.found, rules, number),
            false => cached.after_others(&self.found, &self.found.providers, rules, number),
        }
    }
}

impl SharedRegistration {
    /// Returns those of these registrations that are for one interaction.
    fn all(providers: &[Arc<ProviderRegistration>], interaction: &Interaction) -> Vec<Self> {
        let serving = providers.iter().filter(|provider| provider.serves(interaction));
        let registrations = serving.map(|provider| Self {
            asid: provider.asid.clone(),
            party_key: provider.party_key.clone(),
            cpa_id: provider.cpa_id.clone(),
            root: provider.root.to_string(),
        });
        registrations.collect()
    }
}

impl PracticeLookup<'_> {
    /// Stores an answer for other gateways, unless the cache was flushed since it was asked for, and removes those
    /// that are doubted here.
    pub(super) async fn publish(
        &self,
        sources: &LiveSources,
        origin: Origin,
        providers: &[Arc<ProviderRegistration>],
        asked_s: i64,
    ) {
        let Self { shared, ods, .. } = *self;
        let is_unchanged = matches!(shared.change_since(&self.start), ConcurrentChange::Nothing);
        if !shared.sharing.shares_answers() || !is_unchanged {
            return;
        }
        let urls = sources.urls();
        let Some(url) = urls.get(&origin) else { return };
        let text = |interaction: &Interaction| {
            let answer = SharedAnswer {
                ods: ods.clone(),
                interaction: interaction.id.parse().ok()?,
                source: origin,
                url: url.clone(),
                answered_s: asked_s,
                is_whole: interaction.id == self.interaction.id,
                registrations: SharedRegistration::all(providers, interaction),
            };
            serde_json::to_vec(&answer).ok()
        };
        let mut answers: Vec<(&'static str, Option<Vec<u8>>)> = Vec::new();
        for interaction in providers.iter().flat_map(|provider| provider.interactions.iter()) {
            if answers.iter().all(|(id, _)| *id != interaction.id) {
                answers.push((interaction.id, text(interaction)));
            }
        }
        let cached = shared.cache.practice(ods);
        let rows = cached.rows.iter().filter(|row| row.doubt.is_some());
        for interaction in rows.flat_map(|row| row.provider.interactions.iter()) {
            if answers.iter().all(|(id, _)| *id != interaction.id) {
                answers.push((interaction.id, None));
            }
        }
        shared.sharing.publish(ods, &answers, shared.cache.freshness.provider_max).await;
    }

    /// Removes the answer for this interaction that gateways share: the directory has nothing registered.
    pub(super) async fn withdraw(&self, certainty: Certainty) {
        let Self { shared, ods, interaction, .. } = *self;
        if certainty == Certainty::Confirmed && shared.sharing.shares_answers() {
            let lasts = shared.cache.freshness.provider_max;
            shared.sharing.publish(ods, &[(interaction.id, None)], lasts).await;
        }
    }
}
