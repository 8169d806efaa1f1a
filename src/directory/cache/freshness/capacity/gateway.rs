//! Model of one gateway: its cache, its look-ups under way and its queue of questions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use super::*;
use crate::directory::sources::AccreditedSystem;
use spine_types::interaction::by_id;

/// Number of consumers that send requests.
pub(super) const CONSUMERS: usize = 1_000;

/// Practice as the directory has it: one registration for searches and one for bookings.
#[derive(Debug)]
pub(super) struct PracticeModel {
    pub(super) ods: OdsCode,
    pub(super) providers: [Arc<ProviderRegistration>; 2],
}

/// Reason of a look-up, as [`crate::metrics::LookupTrigger`] has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SimulatedTrigger {
    Request,
    Stale,
    Ahead,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct SimulatedRequest {
    pub(super) practice: usize,
    /// Index of the interaction: 0 searches, 1 books.
    pub(super) interaction: usize,
    pub(super) intended: RegistrationUse,
    pub(super) consumer: usize,
}

/// Request that waits for a look-up.
#[derive(Debug, Clone, Copy)]
pub(super) struct WaitingRequest {
    pub(super) request: SimulatedRequest,
    pub(super) last_answer: u64,
    pub(super) began_ms: i64,
    pub(super) until_ms: i64,
    pub(super) rounds: usize,
    /// True if it began the look-up that it waits for.
    pub(super) is_own: bool,
}

/// Question to the directory: handlers, systems, then handlers of the other interactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    Handlers,
    Systems,
    Others,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LookupStage {
    /// Another gateway asks; the shared answers are read again at this time.
    WaitsForOther(i64),
    Queued(Question),
    /// Sent; answered at this time.
    Sent(Question, i64),
}

#[derive(Debug)]
pub(super) struct SimulatedLookup {
    pub(super) interaction: usize,
    pub(super) trigger: SimulatedTrigger,
    pub(super) stage: LookupStage,
    pub(super) deadline_ms: i64,
    /// True if the practice was usable at the beginning.
    pub(super) was_usable: bool,
    pub(super) accounts: Vec<usize>,
    pub(super) has_found: bool,
    /// Number of its query in the gateway's queue.
    pub(super) number: u64,
    /// Time and number of the answer.
    pub(super) answered: (i64, u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LookupEnd {
    Answered,
    Ended,
    NoTurn,
}

/// One gateway: its cache, its look-ups under way, and its queue of questions.
#[derive(Debug, Default)]
pub(super) struct GatewayModel {
    pub(super) practices: Vec<CachedPractice>,
    /// Practices that may be due, by the time of their oldest answer: those loaded from a snapshot, and others.
    pub(super) loaded: BTreeSet<(i64, usize)>,
    pub(super) others: BTreeSet<(i64, usize)>,
    /// Place of each practice in these sets.
    pub(super) indexed: Vec<Option<(bool, i64)>>,
    pub(super) lookups: BTreeMap<usize, SimulatedLookup>,
    pub(super) waiting: BTreeMap<usize, Vec<WaitingRequest>>,
    pub(super) answers: u64,
    pub(super) arrived: u64,
    pub(super) turns: u64,
    /// Number of the last turn of each consumer, and of background refreshes.
    pub(super) last_turn: Vec<u64>,
    pub(super) is_asking: bool,
    /// Number of questions that it may still send in its turn.
    pub(super) granted: u32,
}

/// Interactions of the requests: searches for slots, and bookings.
pub(super) static INTERACTIONS: LazyLock<[&Interaction; 2]> = LazyLock::new(|| {
    ["search:slot-1", "create:appointment-1"]
        .map(|id| by_id(&format!("urn:nhs:names:services:gpconnect:fhir:rest:{id}")).unwrap())
});

pub(super) fn interaction(index: usize) -> &'static Interaction {
    INTERACTIONS[index]
}

pub(super) fn found(providers: &[Arc<ProviderRegistration>]) -> FoundRegistrations {
    let system = |provider: &Arc<ProviderRegistration>| AccreditedSystem {
        asid: provider.asid.clone(),
        ods: None,
        party_key: provider.party_key.clone(),
        interactions: [0, 1].map(interaction).to_vec(),
    };
    let systems = providers.iter().map(system).collect();
    FoundRegistrations { origin: Origin::SdsApi, providers: providers.to_vec(), systems }
}

impl PracticeModel {
    pub(super) fn new(number: u32) -> Self {
        let ods = format!("Z{number:05}");
        let providers = [0, 1].map(|index| {
            Arc::new(ProviderRegistration::new(
                ods.parse().unwrap(),
                format!("9190000{number:05}").parse().unwrap(),
                format!("{ods}-1000001").parse().unwrap(),
                "S1".parse().unwrap(),
                format!("https://{ods}.example.nhs.uk/gpconnect").to_lowercase().parse().unwrap(),
                vec![interaction(index)],
            ))
        });
        Self { ods: ods.parse().unwrap(), providers }
    }
}

impl GatewayModel {
    pub(super) fn new(practices: usize) -> Self {
        Self {
            practices: (0..practices).map(|_| CachedPractice::default()).collect(),
            indexed: vec![None; practices],
            last_turn: vec![0; CONSUMERS + 1],
            ..Self::default()
        }
    }

    /// Puts a practice where [`GatewayModel::due`] looks for it.
    pub(super) fn index(&mut self, practice: usize) {
        let oldest = self.practices[practice].rows.iter().min_by_key(|row| row.stamp.answered_s);
        let place = oldest.map(|row| (row.stamp.mark == AgeMark::Loaded, row.stamp.answered_s));
        if place == self.indexed[practice] {
            return;
        }
        self.forget(practice);
        self.indexed[practice] = place;
        match place {
            Some((true, answered_s)) => self.loaded.insert((answered_s, practice)),
            Some((false, answered_s)) => self.others.insert((answered_s, practice)),
            None => false,
        };
    }

    pub(super) fn forget(&mut self, practice: usize) {
        match self.indexed[practice].take() {
            Some((true, answered_s)) => self.loaded.remove(&(answered_s, practice)),
            Some((false, answered_s)) => self.others.remove(&(answered_s, practice)),
            None => false,
        };
    }

    /// Returns the practice that `RegistrationCache::take_due` would take, without a walk over all of them.
    pub(super) fn due(&mut self, rules: FreshnessRules<'_>) -> Option<(i64, usize)> {
        let (mut due, mut unused) = (Vec::new(), Vec::new());
        let soon = rules.freshness.provider.mul_f64(AHEAD_AFTER);
        for set in [&self.loaded, &self.others] {
            for &(answered_s, practice) in set {
                let cached = &self.practices[practice];
                if cached.due(rules).is_some() {
                    due.push((answered_s, practice));
                    break;
                }
                if !rules.is_within(cached.used_s.load(Ordering::Relaxed), IN_USE) {
                    // Indexed again at its next use.
                    unused.push(practice);
                } else if std::ptr::eq(set, &raw const self.others)
                    && rules.is_within(answered_s, soon)
                {
                    break;
                }
            }
        }
        unused.into_iter().for_each(|practice| self.forget(practice));
        due.into_iter().min()
    }

    /// Takes the query that ranks first in the queue, and counts the turn of its account. Of look-ups that have found
    /// nothing, those that end before `late_ms` rank last.
    pub(super) fn next_query(&mut self, late_ms: i64) -> Option<(usize, Question)> {
        let background = CONSUMERS;
        let queued = self.lookups.iter().filter_map(|(practice, lookup)| {
            let LookupStage::Queued(question) = lookup.stage else { return None };
            let account = lookup.accounts.iter().min_by_key(|account| self.last_turn[**account]);
            let account = account.copied().unwrap_or(background);
            let is_late = !lookup.has_found && lookup.deadline_ms < late_ms;
            let turn = self.last_turn[account];
            let rank = (account == background, !lookup.has_found, is_late, turn, lookup.number);
            Some((rank, *practice, question, account))
        });
        let (_, practice, question, account) = queued.min_by_key(|(rank, ..)| *rank)?;
        self.turns += 1;
        self.last_turn[account] = self.turns;
        Some((practice, question))
    }
}
