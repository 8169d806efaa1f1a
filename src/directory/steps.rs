//! What a look-up did, for whoever asks how an answer came about.

use std::time::Duration;

/// The questions of one look-up in order, and what was odd about the answers.
#[derive(Debug, Clone, Default)]
pub struct Steps {
    /// One for each question.
    pub steps: Vec<Step>,
    /// What was odd.
    pub oddities: Vec<&'static str>,
}

/// One question.
#[derive(Debug, Clone)]
pub struct Step {
    /// Who was asked.
    pub source: &'static str,
    /// About what.
    pub question: &'static str,
    /// What came of it.
    pub outcome: &'static str,
    /// How long it took.
    pub took: Duration,
}

impl Steps {
    pub(super) fn add(
        &mut self,
        source: &'static str,
        question: &'static str,
        outcome: &'static str,
        took: Duration,
    ) {
        self.steps.push(Step { source, question, outcome, took });
    }

    pub(super) fn odd(&mut self, oddity: &'static str) {
        if !self.oddities.contains(&oddity) {
            self.oddities.push(oddity);
        }
    }
}
