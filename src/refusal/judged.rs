//! Results of single steps of a decision, for people who look for every fault of a request and not for the
//! first only.

use std::borrow::Cow;

use super::Refusal;
use spine_types::{is_unprintable, masked};

/// Returns a received value as a step shows it: masked, cut to `bytes_max` bytes, and without
/// [unprintable](is_unprintable) characters.
#[must_use]
pub fn shown(value: &str, bytes_max: usize) -> String {
    masked(value, bytes_max).replace(is_unprintable, "?")
}

/// Result of one step of a decision.
#[derive(Debug, Clone)]
pub struct JudgedStep {
    /// Name of the step.
    pub name: &'static str,
    /// Value or form that the step expects.
    pub expected: Cow<'static, str>,
    /// Value received, masked and cut; `None` if there was none or it may not be shown.
    pub received: Option<String>,
    /// Outcome of the step.
    pub outcome: StepOutcome,
}

/// Outcome of one step of a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepOutcome {
    /// The step let the request pass.
    Passed,
    /// The step refused the request.
    Refused(Refusal),
    /// The step could not be judged, for this reason.
    NotJudged(&'static str),
    /// The step depends on an answer of the directory that is not there, for this reason.
    Unknown(&'static str),
}

/// Results of the steps of a decision, in the order in which they are taken.
#[derive(Debug, Clone, Default)]
pub struct JudgedSteps {
    each: Vec<JudgedStep>,
}

impl JudgedSteps {
    /// Adds the result of a step; returns its value if it passed.
    pub fn judge<T>(
        &mut self,
        name: &'static str,
        expected: impl Into<Cow<'static, str>>,
        received: Option<String>,
        result: Result<T, Refusal>,
    ) -> Option<T> {
        let (outcome, value) = match result {
            Ok(value) => (StepOutcome::Passed, Some(value)),
            Err(refusal) => (StepOutcome::Refused(refusal), None),
        };
        self.each.push(JudgedStep { name, expected: expected.into(), received, outcome });
        value
    }

    /// Adds a step that cannot be judged.
    pub fn skip(&mut self, name: &'static str, why: &'static str) {
        self.add(name, StepOutcome::NotJudged(why));
    }

    /// Adds a step that the directory gives no answer for.
    pub fn unknown(&mut self, name: &'static str, why: &'static str) {
        self.add(name, StepOutcome::Unknown(why));
    }

    fn add(&mut self, name: &'static str, outcome: StepOutcome) {
        let expected = Cow::Borrowed("");
        self.each.push(JudgedStep { name, expected, received: None, outcome });
    }

    /// Adds the results of further steps.
    pub fn append(&mut self, mut further: Self) {
        self.each.append(&mut further.each);
    }

    /// Returns the results in order.
    #[must_use]
    pub fn each(&self) -> &[JudgedStep] {
        &self.each
    }

    /// Returns the first refusal, which is the one that the request is answered with.
    #[must_use]
    pub fn first_refusal(&self) -> Option<&Refusal> {
        self.each.iter().find_map(JudgedStep::refusal)
    }

    /// Returns true if a step before the first refusal is unknown, so that another refusal may come first.
    #[must_use]
    pub fn is_uncertain(&self) -> bool {
        let before = self.each.iter().take_while(|step| step.refusal().is_none());
        before.into_iter().any(|step| matches!(step.outcome, StepOutcome::Unknown(_)))
    }
}

impl JudgedStep {
    /// Returns the refusal, if the step refused the request.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        match &self.outcome {
            StepOutcome::Refused(refusal) => Some(refusal),
            StepOutcome::Passed | StepOutcome::NotJudged(_) | StepOutcome::Unknown(_) => None,
        }
    }
}
