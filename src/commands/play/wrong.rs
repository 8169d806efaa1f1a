//! Wrong requests, one of each kind, and the judgement of their answers.

use std::time::Duration;

use serde_json::Value;

use super::super::call::client::{CallAnswer, CallRequest, Caller, NoAnswer, text};
use super::{CaseEnd, CaseOutcome, Judgement, Play, PlayedCase, Tone, described};
use crate::failure::Failure;
use crate::refusal;

mod requests;
mod table;

/// Answer that the specification, or its test suite, gives to a wrong request.
#[derive(Debug, Clone, Copy)]
enum DocumentedAnswer {
    /// This status, with an OperationOutcome of which a code or text holds this one. Without a text, only 400 and
    /// 403 need an OperationOutcome: web servers answer the others themselves.
    Status(u16, &'static str),
    /// The connection ends without an answer.
    Closed,
}

use DocumentedAnswer::{Closed, Status};

/// Request with the caller that sends it, or why it cannot be sent.
type Prepared = Result<(Caller, CallRequest), CaseEnd>;

/// Wrong request, and how it is answered.
struct WrongRequest {
    /// Sentence that is true if it is refused.
    name: &'static str,
    /// Answers that the specification documents; without any, it leaves the request open.
    documented: &'static [DocumentedAnswer],
    /// Tokens of which this program answers one; without any, the practice answers.
    tokens: &'static [&'static str],
    sent: Prepared,
}

impl Play {
    /// Sends every wrong request, if right ones are answered as expected.
    pub(super) async fn wrong_requests(&self, is_right: bool, cases: &mut Vec<PlayedCase>) {
        self.screen().line(Tone::Heading, "\nOne wrong request of each kind");
        if !is_right {
            self.screen().line(Tone::Warn, format_args!("   not played: {UNJUDGED}"));
            let skipped = |wrong: WrongRequest| PlayedCase {
                part: "refusals",
                name: wrong.name.to_owned(),
                outcome: CaseOutcome::Skipped(UNJUDGED.to_owned()),
                took: Duration::ZERO,
            };
            cases.extend(self.rows().into_iter().map(skipped));
            return;
        }
        for wrong in self.rows() {
            let name = wrong.name;
            let case = self.case("refusals", name, self.refused(wrong)).await;
            match case.outcome {
                CaseOutcome::Passed => {}
                CaseOutcome::Failed(_) => {
                    self.screen().marked(Tone::Bad, "WRONG ", name);
                }
                CaseOutcome::Skipped(_) => {
                    self.screen().marked(Tone::Warn, "  --  ", name);
                }
            }
            self.show_end(&case);
            cases.push(case);
        }
    }

    /// Sends a wrong request and judges the answer.
    async fn refused(&self, wrong: WrongRequest) -> Result<(), CaseEnd> {
        let (caller, request) = wrong.sent?;
        let is_open = wrong.documented.is_empty();
        if is_open && self.settings.judgement == Judgement::Specification {
            return Err(CaseEnd::NotPlayed(super::OWN_RULE.to_owned()));
        }
        let answer = self.send(&caller, &request).await;
        let expected = || expected(wrong.documented, wrong.tokens, self.settings.judgement);
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) if is_closed(&failure) && wrong.documented.iter().any(is_closing) => {
                let what = format_args!("{}: the connection was closed", wrong.name);
                self.screen().marked(Tone::Good, "  ok  ", what);
                return Ok(());
            }
            Err(failure) => {
                return Err(CaseEnd::unexpected(expected(), failure.to_string()));
            }
        };
        let token = answer.refusal().map(|refusal| refusal.token);
        let is_token = match (&token, wrong.tokens) {
            (None, []) => true,
            (Some(token), tokens) => tokens.contains(&token.as_str()),
            (None, _) => false,
        };
        let is_own_status = || wrong.tokens.iter().any(|token| has_status(token, &answer));
        let is_documented = wrong.documented.iter().any(|one| fits(*one, &answer));
        let is_right = match (self.settings.judgement, is_open) {
            (Judgement::Own, true) => is_token,
            (Judgement::Own, false) => is_token && is_documented,
            (Judgement::Specification | Judgement::All, false) => is_documented,
            (Judgement::Specification | Judgement::All, true) => is_own_status(),
        };
        if !is_right {
            return Err(CaseEnd::unexpected(expected(), described(&answer)));
        }
        let by = token.unwrap_or_default();
        let what = format!("{}: {} {by}", wrong.name, answer.status.as_u16());
        self.screen().marked(Tone::Good, "  ok  ", what.trim_end());
        for said in answer.said() {
            self.screen().line(Tone::Faint, format_args!("      {said}"));
        }
        Ok(())
    }
}

/// Reason for which no wrong request is sent.
const UNJUDGED: &str = "a right request is not answered as expected, see the first session";

const fn is_closing(documented: &DocumentedAnswer) -> bool {
    matches!(documented, Closed)
}

/// Returns true if the connection failed or was closed before a complete answer, in time.
fn is_closed(failure: &Failure) -> bool {
    let Failure::Environment(error) = failure else { return false };
    error.downcast_ref::<NoAnswer>().is_some_and(|answer| !answer.is_late)
}

/// Returns true if an answer is the documented one.
fn fits(documented: DocumentedAnswer, answer: &CallAnswer) -> bool {
    let Status(status, part) = documented else { return false };
    let outcome = answer.json();
    let places = ["details/coding/0/code", "details/coding/0/display", "diagnostics"];
    let says = |place: &&str| {
        let said = outcome.pointer(&format!("/issue/0/{place}")).and_then(Value::as_str);
        said.is_some_and(|said| said.contains(part))
    };
    let is_outcome = text(&outcome, "resourceType") == "OperationOutcome";
    let needs_none = part.is_empty() && !matches!(status, 400 | 403);
    answer.status == status && (needs_none || is_outcome && places.iter().any(says))
}

/// Returns true if this program's refusal with a token has the status of an answer.
fn has_status(token: &str, answer: &CallAnswer) -> bool {
    let rows = refusal::every().into_iter().map(|refusal| refusal.row());
    rows.into_iter().any(|row| row.token == token && answer.status == row.status)
}

/// Returns the answers that are expected, in words.
fn expected(documented: &[DocumentedAnswer], tokens: &[&str], judgement: Judgement) -> String {
    let mut words: Vec<String> = Vec::new();
    for one in documented {
        words.push(match one {
            Status(status, "") => status.to_string(),
            Status(status, part) => format!("{status} with {part}"),
            Closed => "a closed connection".to_owned(),
        });
    }
    let by_status = words.join(", or ");
    match (judgement, tokens) {
        (Judgement::Specification, _) | (_, []) => by_status,
        (Judgement::All, _) if !documented.is_empty() => by_status,
        (Judgement::Own | Judgement::All, tokens) => {
            let tokens = format!("the refusal {}", tokens.join(" or "));
            if by_status.is_empty() { tokens } else { format!("{by_status}; {tokens}") }
        }
    }
}
