//! Model of the fleet: gateways with their caches and look-ups, the shared rate and the shared answers.

use std::collections::{BTreeMap, VecDeque};

use super::gateway::*;
use super::tally::{Outcome, SeededNumbers, Tally};
use super::*;
use crate::directory::lookups::BACKGROUND_MAX;
use crate::directory::practice::{AHEAD_EVERY, AHEAD_MAX, ROUNDS_MAX};
use crate::directory::sources::{ANSWER_EXPECTED, AT_ONCE};

/// Time of one step, in milliseconds.
const TICK_MS: i64 = 200;
/// Time after which the directory answers a question, in milliseconds.
const ANSWER_MS: i64 = 200;
/// Interval at which a look-up that waits for another gateway's reads the shared answers, in milliseconds.
const READ_AGAIN_MS: i64 = 200;
/// Requests of all consumers in one step.
const REQUESTS: usize = 4;
/// One request in so many is a booking by ODS code, whose registration no service root confirms.
const WRITE_ONE_IN: u64 = 10;
/// Beginning of the simulated time, in seconds since 1970.
const BEGIN_S: i64 = 1_800_000_000;

/// Gateways, the rate and the answers that they share, and their consumers.
#[derive(Debug)]
pub(super) struct FleetModel {
    freshness: Freshness,
    deadlines: SourceDeadlines,
    per_second: u32,
    practices: Vec<PracticeModel>,
    gateways: Vec<GatewayModel>,
    /// Times of the shared answers of each practice, by interaction.
    answers: Vec<[Option<i64>; 2]>,
    /// Gateway that asks for a practice, and whether for a request.
    claims: BTreeMap<usize, (usize, bool)>,
    /// Gateways that wait for the shared rate, in their order.
    asking: VecDeque<usize>,
    /// Questions that may be sent, in thousandths.
    allowance: i64,
    now_ms: i64,
    numbers: SeededNumbers,
    pub(super) tally: Tally,
}

impl FleetModel {
    pub(super) fn new(setting: &SimulatedSetting) -> Self {
        let practices: Vec<_> = (0..setting.practices).map(PracticeModel::new).collect();
        let gateways = (0..setting.gateways).map(|_| GatewayModel::new(practices.len())).collect();
        let mut fleet = Self {
            freshness: setting.freshness(),
            deadlines: SourceDeadlines {
                waiting: Duration::from_secs(setting.waiting_s),
                ..SourceDeadlines::default()
            },
            per_second: setting.per_second,
            answers: vec![[None; 2]; practices.len()],
            gateways,
            practices,
            claims: BTreeMap::new(),
            asking: VecDeque::new(),
            allowance: 0,
            now_ms: BEGIN_S * 1000,
            numbers: SeededNumbers(20),
            tally: Tally::default(),
        };
        if setting.course != SimulatedCourse::ColdStart {
            fleet.fill();
        }
        fleet
    }

    /// Fills all caches with answers of the ages that a fleet has which refreshes all of them in time.
    fn fill(&mut self) {
        let soon = self.freshness.provider.mul_f64(AHEAD_AFTER).as_secs();
        for (number, practice) in self.practices.iter().enumerate() {
            let age_s = self.numbers.below(usize::try_from(soon).unwrap());
            let answered_s = BEGIN_S - i64::try_from(age_s).unwrap();
            self.answers[number] = [Some(answered_s); 2];
            let rows = CachedRegistration::all(&practice.providers, Origin::SdsApi, answered_s, 0);
            let rows: Vec<_> = rows.collect();
            for gateway in &mut self.gateways {
                gateway.practices[number] = CachedPractice::new(rows.clone(), BEGIN_S);
                gateway.index(number);
            }
        }
    }

    const fn now_s(&self) -> i64 {
        self.now_ms.div_euclid(1000)
    }

    const fn rules(&self) -> FreshnessRules<'_> {
        FreshnessRules { freshness: &self.freshness, now_s: self.now_s() }
    }

    /// Begins to measure: one gateway's requests, or all.
    pub(super) fn begin_measuring(&mut self, gateway: Option<usize>) {
        self.tally = Tally { is_measuring: true, gateway, ..Tally::default() };
    }

    /// Empties a gateway, or loads its cache as from a snapshot.
    pub(super) fn restart(&mut self, gateway: usize, has_snapshot: bool) {
        self.claims.retain(|_, (holder, _)| *holder != gateway);
        self.asking.retain(|asking| *asking != gateway);
        let before =
            std::mem::replace(&mut self.gateways[gateway], GatewayModel::new(self.practices.len()));
        if has_snapshot {
            for (number, practice) in before.practices.into_iter().enumerate() {
                let mut rows = practice.rows;
                for row in &mut rows {
                    (row.stamp.mark, row.stamp.number) = (AgeMark::Loaded, 0);
                }
                let loaded = CachedPractice::new(rows, self.now_s());
                self.gateways[gateway].practices[number] = loaded;
                self.gateways[gateway].index(number);
            }
        }
    }

    /// Restarts all gateways at once with their snapshots, while Redis has lost its answers.
    pub(super) fn restart_all(&mut self) {
        self.answers.fill([None; 2]);
        for gateway in 0..self.gateways.len() {
            self.restart(gateway, true);
        }
    }

    /// Shows that the refresh that is next in the model is the one that the gateway's cache would take.
    pub(super) fn is_as_the_cache_has_it(&mut self) {
        let rules = FreshnessRules { freshness: &self.freshness, now_s: self.now_ms / 1000 };
        let cache = RegistrationCache::new(self.freshness.clone());
        for (practice, cached) in self.practices.iter().zip(&self.gateways[1].practices) {
            if !cached.rows.is_empty() {
                cache.insert_practice(&practice.ods, cached.with(cached.rows.clone()));
            }
        }
        let oldest_s = |ods: OdsCode| {
            let cached = cache.practice(&ods);
            cached.rows.iter().map(|row| row.stamp.answered_s).min().unwrap()
        };
        let taken = cache.take_due(rules.now_s).map(|(ods, _)| oldest_s(ods));
        assert_eq!(self.gateways[1].due(rules).map(|(answered_s, _)| answered_s), taken);
    }

    pub(super) fn advance(&mut self, seconds: i64) {
        for _ in 0..seconds * 1000 / TICK_MS {
            self.now_ms += TICK_MS;
            self.step();
        }
        self.tally.seconds += u32::try_from(seconds).unwrap();
    }

    fn step(&mut self) {
        let most = i64::from(self.per_second) * 1000;
        self.allowance = (self.allowance + i64::from(self.per_second) * TICK_MS).min(most);
        for gateway in 0..self.gateways.len() {
            self.end_waits(gateway);
        }
        for _ in 0..REQUESTS {
            self.send_request();
        }
        let every = i64::try_from(AHEAD_EVERY.as_millis()).unwrap();
        for gateway in 0..self.gateways.len() {
            let offset = i64::try_from(gateway).unwrap() * TICK_MS;
            if (self.now_ms + offset) % every == 0 {
                self.refresh_ahead(gateway);
            }
        }
        self.send_questions();
    }

    /// Sends as many questions as the shared rate allows, each gateway one in turn, or [`AT_ONCE`] for a look-up that
    /// begins. A second one that is not there yet when it may be sent is lost.
    fn send_questions(&mut self) {
        let late_ms = self.now_ms + millis(ANSWER_EXPECTED) * i64::from(AT_ONCE);
        while self.allowance >= 1000 {
            let Some(gateway) = self.asking.pop_front() else { return };
            let own = &mut self.gateways[gateway];
            let is_first = own.granted == 0;
            own.granted = own.granted.saturating_sub(1);
            match own.next_query(late_ms) {
                Some((practice, question)) => {
                    if is_first && question == Question::Handlers {
                        own.granted = AT_ONCE - 1;
                    }
                    let stage = LookupStage::Sent(question, self.now_ms + ANSWER_MS);
                    own.lookups.get_mut(&practice).unwrap().stage = stage;
                    self.allowance -= 1000;
                    self.tally.questions += 1;
                }
                None if is_first => {}
                None => self.allowance -= 1000,
            }
            if own.granted > 0 {
                self.asking.push_front(gateway);
            } else {
                own.is_asking = false;
                self.ask_for_turn(gateway);
            }
        }
    }

    fn ask_for_turn(&mut self, gateway: usize) {
        let own = &mut self.gateways[gateway];
        let is_queued = |lookup: &SimulatedLookup| matches!(lookup.stage, LookupStage::Queued(_));
        if !own.is_asking && own.lookups.values().any(is_queued) {
            own.is_asking = true;
            self.asking.push_back(gateway);
        }
    }

    fn send_request(&mut self) {
        let is_write = self.numbers.next().is_multiple_of(WRITE_ONE_IN);
        let gateway = self.numbers.below(self.gateways.len());
        let request = SimulatedRequest {
            practice: self.numbers.skewed(self.practices.len()),
            interaction: usize::from(is_write),
            intended: match is_write {
                true => RegistrationUse::Trusted,
                false => RegistrationUse::Confirmed,
            },
            consumer: self.numbers.skewed(CONSUMERS),
        };
        self.decide(
            gateway,
            WaitingRequest {
                request,
                last_answer: self.gateways[gateway].answers,
                began_ms: self.now_ms,
                until_ms: 0,
                rounds: 0,
                is_own: false,
            },
        );
    }

    /// Serves a request, or lets it wait for a look-up; one round of `Directory::live_practice`.
    fn decide(&mut self, gateway: usize, mut waiting: WaitingRequest) {
        let SimulatedRequest { practice, interaction: index, intended, consumer } = waiting.request;
        let cached = &self.gateways[gateway].practices[practice];
        let has_waited = waiting.began_ms < self.now_ms;
        let served = |at_once| if has_waited { Outcome::Waited } else { at_once };
        if waiting.rounds > 0 && cached.is_answered_after(interaction(index), waiting.last_answer) {
            return self.serve(gateway, &waiting.request, served(Outcome::Fresh));
        }
        match cached.usability(interaction(index), intended, self.rules()) {
            Usability::Fresh => self.serve(gateway, &waiting.request, served(Outcome::Fresh)),
            Usability::Stale { refresh } => {
                if refresh && self.gateways[gateway].lookups.len() < BACKGROUND_MAX {
                    self.look_up(gateway, (practice, index), SimulatedTrigger::Stale, None);
                }
                self.serve(gateway, &waiting.request, served(Outcome::Stale));
            }
            Usability::Missing | Usability::Old { refresh: true, .. }
                if waiting.rounds < ROUNDS_MAX =>
            {
                waiting.rounds += 1;
                waiting.until_ms = self.now_ms + millis(self.deadlines.waiting);
                waiting.is_own = !self.gateways[gateway].lookups.contains_key(&practice);
                self.gateways[gateway].waiting.entry(practice).or_default().push(waiting);
                let trigger = SimulatedTrigger::Request;
                self.look_up(gateway, (practice, index), trigger, Some(consumer));
            }
            Usability::Missing | Usability::Old { .. } => self.give_up(gateway, &waiting.request),
        }
    }

    /// Lets a request wait for another look-up, until the same time as for one that had no turn.
    fn join_again(&mut self, gateway: usize, mut waiting: WaitingRequest) {
        let SimulatedRequest { practice, interaction: index, consumer, .. } = waiting.request;
        waiting.is_own = !self.gateways[gateway].lookups.contains_key(&practice);
        self.gateways[gateway].waiting.entry(practice).or_default().push(waiting);
        self.look_up(gateway, (practice, index), SimulatedTrigger::Request, Some(consumer));
    }

    fn serve(&mut self, gateway: usize, request: &SimulatedRequest, outcome: Outcome) {
        let now_s = self.now_s();
        let cached = &self.gateways[gateway].practices[request.practice];
        cached.used(now_s);
        let age_s = cached.age_s(interaction(request.interaction), now_s);
        self.tally.count(gateway, request, outcome, i64::try_from(age_s).unwrap());
        self.gateways[gateway].index(request.practice);
    }

    /// Serves a request that waited in vain with what there is, or refuses it.
    fn give_up(&mut self, gateway: usize, request: &SimulatedRequest) {
        let cached = &self.gateways[gateway].practices[request.practice];
        match cached.usability(interaction(request.interaction), request.intended, self.rules()) {
            Usability::Fresh | Usability::Stale { .. } => {
                self.serve(gateway, request, Outcome::Waited);
            }
            Usability::Old { unanswered: OldEntryUse::Served, .. } => {
                self.serve(gateway, request, Outcome::WaitedInVain);
            }
            Usability::Missing | Usability::Old { .. } => {
                self.tally.count(gateway, request, Outcome::Refused, 0);
            }
        }
    }

    fn refresh_ahead(&mut self, gateway: usize) {
        if self.gateways[gateway].lookups.len() >= AHEAD_MAX {
            return;
        }
        let rules = FreshnessRules { freshness: &self.freshness, now_s: self.now_ms / 1000 };
        let own = &mut self.gateways[gateway];
        let Some((_, practice)) = own.due(rules) else { return };
        let cached = &own.practices[practice];
        let (_, due) = cached.due(rules).unwrap();
        cached.refreshed_ahead(rules.now_s);
        let index = usize::from(due.id != interaction(0).id);
        self.look_up(gateway, (practice, index), SimulatedTrigger::Ahead, None);
    }

    /// Begins or joins a look-up.
    fn look_up(
        &mut self,
        gateway: usize,
        (practice, index): (usize, usize),
        trigger: SimulatedTrigger,
        account: Option<usize>,
    ) {
        if let Some(lookup) = self.gateways[gateway].lookups.get_mut(&practice) {
            lookup.accounts.extend(account);
            return;
        }
        let age = self.gateways[gateway].practices[practice].age(interaction(index), self.rules());
        let lasts = match trigger {
            SimulatedTrigger::Request => self.deadlines.waiting,
            SimulatedTrigger::Stale | SimulatedTrigger::Ahead => self.deadlines.background,
        };
        let lookup = SimulatedLookup {
            interaction: index,
            trigger,
            stage: LookupStage::WaitsForOther(self.now_ms),
            deadline_ms: self.now_ms + millis(lasts),
            was_usable: age.is_some_and(|age| age < Age::Dead),
            accounts: account.into_iter().collect(),
            has_found: false,
            number: 0,
            answered: (0, 0),
        };
        self.gateways[gateway].lookups.insert(practice, lookup);
        if trigger == SimulatedTrigger::Request && age == Some(Age::Fresh) {
            return self.end(gateway, practice, LookupEnd::Ended);
        }
        self.tally.redis_calls += 1;
        self.share(gateway, practice);
    }

    /// Takes shared answers; if they do not do, claims the right to ask, or waits for the gateway that has it.
    fn share(&mut self, gateway: usize, practice: usize) {
        self.take(gateway, practice);
        let lookup = &self.gateways[gateway].lookups[&practice];
        let is_waited_for = lookup.trigger == SimulatedTrigger::Request;
        if self.is_settled(gateway, practice) {
            return self.end(gateway, practice, LookupEnd::Ended);
        }
        self.tally.redis_calls += 1;
        let holder = self.claims.get(&practice);
        if holder.is_none_or(|(_, is_for_request)| is_waited_for && !is_for_request) {
            self.claims.insert(practice, (gateway, is_waited_for));
            self.queue(gateway, practice, Question::Handlers);
        } else if is_waited_for {
            let again = LookupStage::WaitsForOther(self.now_ms + READ_AGAIN_MS);
            self.gateways[gateway].lookups.get_mut(&practice).unwrap().stage = again;
        } else {
            self.end(gateway, practice, LookupEnd::Ended);
        }
    }

    /// Puts those shared answers in the cache that are newer than what is cached.
    fn take(&mut self, gateway: usize, practice: usize) {
        let rules = FreshnessRules { freshness: &self.freshness, now_s: self.now_ms / 1000 };
        let own = &mut self.gateways[gateway];
        for (index, answered_s) in self.answers[practice].iter().enumerate() {
            let Some(answered_s) = *answered_s else { continue };
            let cached = &own.practices[practice];
            let is_newer = cached.rows_for(interaction(index)).all(|row| {
                // Of an entry from a snapshot it is the same answer, which then counts as younger.
                let is_same =
                    row.stamp.mark == AgeMark::Loaded && row.stamp.answered_s == answered_s;
                is_same || row.stamp.answered_s < answered_s
            });
            if !is_newer || !rules.is_within(answered_s, self.freshness.provider_max) {
                continue;
            }
            own.answers += 1;
            let provider = std::slice::from_ref(&self.practices[practice].providers[index]);
            let at_answer = FreshnessRules { now_s: answered_s, ..rules };
            let taken = |number| {
                cached.after_found(interaction(index), &found(provider), at_answer, number)
            };
            let new = taken(own.answers);
            let is_fresh = new.age(interaction(index), rules) == Some(Age::Fresh);
            own.practices[practice] = if is_fresh { new } else { taken(0) };
            own.index(practice);
        }
    }

    /// Returns true if what is cached now does without another answer of the directory.
    fn is_settled(&self, gateway: usize, practice: usize) -> bool {
        let (own, rules) = (&self.gateways[gateway], self.rules());
        let (lookup, cached) = (&own.lookups[&practice], &own.practices[practice]);
        let of = interaction(lookup.interaction);
        let soon = self.freshness.provider.mul_f64(AHEAD_AFTER);
        match (lookup.trigger, cached.age(of, rules)) {
            (SimulatedTrigger::Ahead, Some(Age::Fresh)) => {
                cached.rows_for(of).all(|row| rules.is_within(row.stamp.answered_s, soon))
            }
            (SimulatedTrigger::Request | SimulatedTrigger::Stale, Some(Age::Fresh)) => true,
            (SimulatedTrigger::Request, Some(Age::Stale)) => !lookup.was_usable,
            _ => false,
        }
    }

    fn queue(&mut self, gateway: usize, practice: usize, question: Question) {
        let own = &mut self.gateways[gateway];
        own.arrived += 1;
        let lookup = own.lookups.get_mut(&practice).unwrap();
        (lookup.stage, lookup.number) = (LookupStage::Queued(question), own.arrived);
        self.ask_for_turn(gateway);
    }

    /// Goes on with look-ups whose time has come, and ends waits that have lasted too long.
    fn end_waits(&mut self, gateway: usize) {
        let now_ms = self.now_ms;
        if self.gateways[gateway].lookups.is_empty() {
            // Whoever waits, waits for a look-up.
            return;
        }
        let due = |(practice, lookup): (&usize, &SimulatedLookup)| {
            let at_ms = match lookup.stage {
                LookupStage::WaitsForOther(at_ms) => at_ms.min(lookup.deadline_ms),
                LookupStage::Queued(_) => lookup.deadline_ms,
                LookupStage::Sent(_, at_ms) => at_ms,
            };
            (at_ms <= now_ms).then_some((*practice, lookup.stage, lookup.deadline_ms))
        };
        let due: Vec<_> = self.gateways[gateway].lookups.iter().filter_map(due).collect();
        for (practice, stage, deadline_ms) in due {
            match stage {
                LookupStage::Sent(question, _) => self.answer(gateway, practice, question),
                LookupStage::WaitsForOther(_) if now_ms < deadline_ms => {
                    self.share(gateway, practice);
                }
                LookupStage::Queued(Question::Others) => {
                    self.end(gateway, practice, LookupEnd::Ended);
                }
                LookupStage::WaitsForOther(_) | LookupStage::Queued(_) => {
                    self.tally.lost += u32::from(stage == LookupStage::Queued(Question::Systems));
                    self.end(gateway, practice, LookupEnd::NoTurn);
                }
            }
        }
        let mut over = Vec::new();
        self.gateways[gateway].waiting.retain(|_, waiting| {
            over.extend(waiting.extract_if(.., |one| one.until_ms <= now_ms));
            !waiting.is_empty()
        });
        for waiting in over {
            self.give_up(gateway, &waiting.request);
        }
    }

    fn answer(&mut self, gateway: usize, practice: usize, question: Question) {
        let rules = FreshnessRules { freshness: &self.freshness, now_s: self.now_ms / 1000 };
        let own = &mut self.gateways[gateway];
        let lookup = own.lookups.get_mut(&practice).unwrap();
        let (index, providers) = (lookup.interaction, &self.practices[practice].providers);
        let one = found(std::slice::from_ref(&providers[index]));
        match question {
            Question::Handlers => {
                lookup.has_found = true;
                return self.queue(gateway, practice, Question::Systems);
            }
            Question::Systems => {
                own.answers += 1;
                lookup.answered = (rules.now_s, own.answers);
                lookup.accounts.clear();
                lookup.deadline_ms = self.now_ms + millis(self.deadlines.background);
                let cached = &own.practices[practice];
                own.practices[practice] =
                    cached.after_found(interaction(index), &one, rules, own.answers);
                self.answers[practice][index] = Some(rules.now_s);
            }
            Question::Others => {
                let (answered_s, number) = lookup.answered;
                let at_answer = FreshnessRules { now_s: answered_s, ..rules };
                let cached = &own.practices[practice];
                own.practices[practice] = cached.after_others(&one, providers, at_answer, number);
                self.answers[practice] = [Some(rules.now_s); 2];
            }
        }
        own.index(practice);
        self.tally.redis_calls += 1;
        if question == Question::Systems {
            self.queue(gateway, practice, Question::Others);
            self.notify(gateway, practice, LookupEnd::Answered);
        } else {
            self.end(gateway, practice, LookupEnd::Ended);
        }
    }

    fn end(&mut self, gateway: usize, practice: usize, end: LookupEnd) {
        self.gateways[gateway].lookups.remove(&practice);
        if self.claims.get(&practice).is_some_and(|(holder, _)| *holder == gateway) {
            self.claims.remove(&practice);
            self.tally.redis_calls += 1;
        }
        self.notify(gateway, practice, end);
    }

    /// Lets the requests that wait for a look-up go on.
    fn notify(&mut self, gateway: usize, practice: usize, end: LookupEnd) {
        for mut waiting in self.gateways[gateway].waiting.remove(&practice).unwrap_or_default() {
            let of = interaction(waiting.request.interaction);
            let cached = &self.gateways[gateway].practices[practice];
            let is_answered = cached.is_answered_after(of, waiting.last_answer);
            match end {
                LookupEnd::Answered if !is_answered => {
                    // Waits for the end of a look-up that began with another interaction.
                    waiting.until_ms = self.now_ms + millis(self.deadlines.waiting);
                    self.gateways[gateway].waiting.entry(practice).or_default().push(waiting);
                }
                LookupEnd::NoTurn if waiting.is_own && !is_answered => {
                    self.give_up(gateway, &waiting.request);
                }
                LookupEnd::NoTurn if !is_answered => self.join_again(gateway, waiting),
                LookupEnd::Answered | LookupEnd::Ended | LookupEnd::NoTurn => {
                    self.decide(gateway, waiting);
                }
            }
        }
    }
}

fn millis(period: Duration) -> i64 {
    i64::try_from(period.as_millis()).unwrap()
}
