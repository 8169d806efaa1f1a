//! Report of judged steps, for people and for machines.

use anyhow::anyhow;
use serde_json::{Value, json};

use super::super::output::{print, print_json};
use crate::failure::Failure;
use crate::refusal::{JudgedStep, JudgedSteps, StepOutcome, remedy};

/// Columns of the text.
const COLUMNS: usize = 100;
/// Columns of a step's name.
const NAME_COLUMNS: usize = 34;
/// Column at which the values of a refused step begin.
const VALUE_COLUMN: usize = 16;

/// Judged steps, and facts about how they were judged.
#[derive(Debug, Default)]
pub(in crate::commands) struct StepReport {
    /// Results of the steps.
    pub(in crate::commands) steps: JudgedSteps,
    /// Provider that the request would go to.
    pub(super) target: Option<String>,
    /// Notes on how the input was read and judged.
    pub(super) notes: Vec<String>,
    /// Token of the refusal in a record.
    pub(super) recorded: Option<String>,
}

impl StepReport {
    /// Returns a report of a token alone.
    pub(in crate::commands) fn of_token(steps: JudgedSteps) -> Self {
        Self { steps, ..Self::default() }
    }

    /// Prints the report, as one line of JSON or as text.
    pub(in crate::commands) fn print(&self, json: bool) {
        if json { print_json(self.json()) } else { print(self.text()) }
    }

    /// Returns the report as lines of at most 100 columns.
    fn text(&self) -> String {
        let mut lines = Vec::new();
        for note in &self.notes {
            wrap(&mut lines, "  note          ", note);
        }
        let mut refused_before = false;
        for step in self.steps.each() {
            lines.extend(step_lines(step, refused_before));
            refused_before |= step.refusal().is_some();
        }
        if let Some(token) = &self.recorded {
            let action = remedy(token).map_or("", |remedy| remedy.action.as_str());
            wrap(&mut lines, "  recorded      ", &format!("{token}. {action}"));
        }
        wrap(&mut lines, "", &self.verdict());
        lines.join("\n")
    }

    /// Returns the report as one line of JSON.
    fn json(&self) -> String {
        let mut refused_before = false;
        let steps = self.steps.each().iter().map(|step| {
            let value = step_json(step, refused_before);
            refused_before |= step.refusal().is_some();
            value
        });
        let steps: Vec<_> = steps.collect();
        let answer = self.steps.first_refusal().map(|refusal| {
            let row = refusal.row();
            json!({"status": row.status, "token": row.token})
        });
        let value = json!({
            "refused": answer,
            "certain": !self.steps.is_uncertain(),
            "provider": self.target,
            "recorded": self.recorded,
            "notes": self.notes,
            "steps": steps,
        });
        value.to_string()
    }

    fn verdict(&self) -> String {
        let uncertain = match self.steps.is_uncertain() {
            true => ", if the directory has the registrations that are not known",
            false => "",
        };
        let now = match (self.steps.first_refusal(), &self.target) {
            (Some(refusal), _) => {
                let row = refusal.row();
                format!("would be refused with {} {}{uncertain}", row.status, row.token)
            }
            (None, Some(target)) => format!("would be forwarded to {target}{uncertain}"),
            (None, None) => format!("nothing found that would be refused{uncertain}"),
        };
        match &self.recorded {
            Some(token) => {
                format!("was refused with {token}; by what the record holds, now: {now}")
            }
            None => now,
        }
    }

    /// Returns the command's result.
    ///
    /// # Errors
    /// Returns an error if the request would be refused, or the directory must be asked to know.
    pub(in crate::commands) fn result(&self) -> Result<(), Failure> {
        if self.steps.is_uncertain() {
            return Err(Failure::NotProven(anyhow!("the directory must be asked to know")));
        }
        match (self.steps.first_refusal(), &self.recorded) {
            (None, None) => Ok(()),
            (Some(_), _) | (_, Some(_)) => Err(Failure::Environment(anyhow!("{}", self.verdict()))),
        }
    }
}

/// Returns the lines of one step.
fn step_lines(step: &JudgedStep, refused_before: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let name = step.name;
    match &step.outcome {
        StepOutcome::Passed => {
            let shown = match step.received.as_deref().unwrap_or_default() {
                "" => String::new(),
                received if received == step.expected => {
                    format!("received {received}, as expected")
                }
                received => format!("received {received}; expected {}", step.expected),
            };
            wrap(&mut lines, &format!("✔ {name:<NAME_COLUMNS$}"), &shown);
        }
        StepOutcome::NotJudged(why) | StepOutcome::Unknown(why) => {
            wrap(&mut lines, &format!("· {name:<NAME_COLUMNS$}"), &format!("not judged: {why}"));
        }
        StepOutcome::Refused(refusal) => {
            let row = refusal.row();
            let also = if refused_before { ", after the refusal above" } else { "" };
            let head = format!("{} {}{also}", row.status, row.token);
            wrap(&mut lines, &format!("✘ {name:<NAME_COLUMNS$}"), &head);
            for (label, text) in [
                ("expected", Some(step.expected.as_ref())),
                ("received", step.received.as_deref()),
                ("reason", Some(refusal.reason().as_str())),
                ("fix", Some(refusal.action())),
            ] {
                let Some(text) = text.filter(|text| !text.is_empty()) else { continue };
                wrap(&mut lines, &format!("    {label:<12}"), text);
            }
        }
    }
    lines
}

fn step_json(step: &JudgedStep, refused_before: bool) -> Value {
    let mut value =
        json!({"name": step.name, "expected": step.expected, "received": step.received});
    let result = match &step.outcome {
        StepOutcome::Passed => json!({"result": "passed"}),
        StepOutcome::NotJudged(why) => json!({"result": "not_judged", "why": why}),
        StepOutcome::Unknown(why) => json!({"result": "unknown", "why": why}),
        StepOutcome::Refused(refusal) => {
            let row = refusal.row();
            json!({
                "result": "refused",
                "status": row.status,
                "token": row.token,
                "reason": refusal.reason(),
                "fix": refusal.action(),
                "first": !refused_before,
            })
        }
    };
    if let (Some(value), Some(result)) = (value.as_object_mut(), result.as_object()) {
        value.extend(result.clone());
    }
    value
}

/// Adds a text after a label, in lines of at most [`COLUMNS`] characters; longer words are cut.
fn wrap(lines: &mut Vec<String>, label: &str, text: &str) {
    let indent = label.chars().count().min(VALUE_COLUMN + NAME_COLUMNS);
    let mut line = label.to_owned();
    let mut is_empty = true;
    for word in text.split_whitespace() {
        let mut rest: Vec<char> = word.chars().collect();
        loop {
            let used = line.chars().count() + usize::from(!is_empty);
            let left = COLUMNS.saturating_sub(used);
            if rest.len() <= left {
                if !is_empty {
                    line.push(' ');
                }
                line.extend(rest);
                is_empty = false;
                break;
            }
            if is_empty {
                let tail = rest.split_off(left.max(1).min(rest.len()));
                line.extend(rest);
                rest = tail;
            }
            let begun = " ".repeat(indent);
            lines.push(std::mem::replace(&mut line, begun).trim_end().to_owned());
            is_empty = true;
        }
    }
    lines.push(line.trim_end().to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_longer_than_a_hundred_columns_and_nothing_is_lost() {
        for text in
            ["", "a", &"word ".repeat(60), &"x".repeat(350), &format!("a {}", "y".repeat(200))]
        {
            let mut lines = Vec::new();
            wrap(&mut lines, "✘ label       ", text);
            assert!(lines.iter().all(|line| line.chars().count() <= COLUMNS), "{lines:?}");
            let kept = |text: &str| text.split_whitespace().collect::<String>();
            assert_eq!(kept(&lines.concat()), format!("✘label{}", kept(text)));
        }
    }
}
