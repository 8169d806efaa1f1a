//! Requests in the journal: what was decided, and what the record allows to judge again.

use std::ops::ControlFlow;

use audit_journal::{LineFilter, MemberFilter, SearchMethod, search};
use serde_json::Value;
use spine_types::{Asid, OdsCode, interaction, masked};

use super::report::StepReport;
use super::{ExplainOptions, Explainer, usage};
use crate::failure::Failure;
use crate::gateway::RecordToJudge;

/// Limit: lines of the journal that are read for one id.
const LINES_MAX: usize = 64;

/// Explains the exchange with this id or trace id, the last one if there are several.
///
/// # Errors
/// Returns an error if the journal cannot be read or has no such record.
pub(super) async fn explain(
    explainer: &Explainer,
    wanted: &ExplainOptions,
    id: &str,
) -> Result<StepReport, Failure> {
    let journal = wanted.journal.as_ref().unwrap_or(&explainer.config.audit.journal);
    let mut lines = Vec::new();
    for member in ["id", "trace_id"] {
        let filter =
            LineFilter { members: vec![MemberFilter::equal(member, id)], ..Default::default() };
        let found = search(journal, &filter, SearchMethod::Indexed, |line| {
            lines.extend(serde_json::from_slice::<Value>(line));
            if lines.len() < LINES_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        found.map_err(|why| {
            let journal = journal.display();
            Failure::Environment(anyhow::anyhow!("cannot read the journal {journal}: {why}"))
        })?;
        if !lines.is_empty() {
            break;
        }
    }
    let record = JournalRecord::of(&lines).ok_or_else(|| {
        usage(format_args!("the journal {} has no exchange with this id", journal.display()))
    })?;
    let asid = |member| record.text(member).and_then(|asid| asid.parse::<Asid>().ok());
    let (from, to) = (asid("from"), asid("to"));
    let ods = record.text("ods").and_then(|ods| ods.parse::<OdsCode>().ok());
    let recorded = RecordToJudge {
        from: from.as_ref(),
        to: to.as_ref(),
        ods: ods.as_ref(),
        interaction: record.text("interaction").and_then(interaction::by_id),
    };
    let steps = explainer.dry_run().judge_record(recorded).await;
    let notes = vec![
        record.summary(),
        "the steps are judged by the configuration of now; the journal has no token, target, query or body"
            .to_owned(),
    ];
    let recorded = record.text("refusal").map(str::to_owned);
    Ok(StepReport { steps, notes, recorded, ..StepReport::default() })
}

/// Limit: bytes that are shown of a record.
const SUMMARY_BYTES_MAX: usize = 500;

/// Lines of one exchange.
struct JournalRecord<'a> {
    lines: Vec<&'a Value>,
}

impl<'a> JournalRecord<'a> {
    /// Returns the lines of the last exchange among these.
    fn of(lines: &'a [Value]) -> Option<Self> {
        let id = lines.last()?.get("id")?;
        let lines = lines.iter().filter(|line| line.get("id") == Some(id)).collect();
        Some(Self { lines })
    }

    fn member(&self, name: &str) -> Option<&'a Value> {
        self.lines.iter().rev().find_map(|line| line.get(name))
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        self.member(name)?.as_str()
    }

    /// Returns a sentence on what was decided.
    fn summary(&self) -> String {
        let time = self.text("time").unwrap_or("-");
        let outcome = self.text("outcome").unwrap_or("under way");
        let status = self.member("status").and_then(Value::as_u64);
        let status = status.map(|status| format!(" with status {status}")).unwrap_or_default();
        let refusal = self.text("refusal").map(|token| format!(", {token}")).unwrap_or_default();
        let method = self.text("method").unwrap_or("-");
        let summary = format!("recorded {time}: {method} {outcome}{status}{refusal}");
        // The journal may have been changed by others.
        masked(&summary, SUMMARY_BYTES_MAX).into_owned()
    }
}
