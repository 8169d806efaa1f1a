//! Booking sessions and wrong requests, which `demo` plays through its own proxy and `conform` through another.

use std::fs::File;
use std::io::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use spine_types::masked;

use super::call::client::{
    CallAnswer, CallRequest, Caller, TargetForm, TestConsumer, TestParties, TestPatient,
    TestPractice, reason,
};
use crate::failure::Failure;

mod booked;
mod screen;
mod sessions;
mod wrong;

pub(super) use screen::{COLUMNS, Screen, Tone};

use booked::Booked;

/// Limit: requests of a run, those that clean up not counted.
const REQUESTS_MAX: u32 = 1000;
/// Limit: text of an answer that is shown, in bytes.
const SHOWN_BYTES_MAX: usize = 600;

/// Reason for which cases are left out that the specification leaves open.
const OWN_RULE: &str =
    "a rule of spine-proxy's own, which the specification leaves open; see --all";

/// Rule by which answers are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// The answers are those of this program: each refusal has the token that the table names.
    Own,
    /// The answers are those that the specification documents; what it leaves open is left out.
    Specification,
    /// The answers are those that the specification documents, or else have the status that this program gives.
    All,
}

/// Settings of a play.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlaySettings {
    pub(super) judgement: Judgement,
    /// True if appointments are booked; without it, only reads are sent.
    pub(super) books: bool,
    pub(super) screen: Screen,
}

/// Play with its parties.
pub(super) struct Play {
    /// Main consumer, as it calls the first practice.
    base: Caller,
    parties: TestParties,
    settings: PlaySettings,
    /// File that every answered resource is written to.
    record: Option<Mutex<File>>,
    /// Requests sent so far.
    sent: AtomicU32,
    booked: Booked,
}

/// Result of a session or of a wrong request.
#[derive(Debug)]
pub(super) struct PlayedCase {
    /// Part that it belongs to: `sessions`, `refusals` or `clean-up`.
    pub(super) part: &'static str,
    /// Sentence that is true if the case has passed.
    pub(super) name: String,
    pub(super) outcome: CaseOutcome,
    pub(super) took: Duration,
}

/// Outcome of a case.
#[derive(Debug)]
pub(super) enum CaseOutcome {
    /// Everything was answered as expected.
    Passed,
    /// An answer was not as expected.
    Failed(UnexpectedAnswer),
    /// It was not played, for this reason.
    Skipped(String),
}

/// Answer that is not the expected one.
#[derive(Debug)]
pub(super) struct UnexpectedAnswer {
    pub(super) expected: String,
    pub(super) received: String,
}

/// Reason that ends a case early.
#[derive(Debug)]
pub(super) enum CaseEnd {
    Unexpected(UnexpectedAnswer),
    NotPlayed(String),
}

impl CaseEnd {
    /// Returns the end by an unexpected answer, which is masked and cut.
    fn unexpected(expected: impl Into<String>, received: impl Into<String>) -> Self {
        let received = masked(&received.into(), SHOWN_BYTES_MAX).into_owned();
        Self::Unexpected(UnexpectedAnswer { expected: expected.into(), received })
    }
}

impl From<Failure> for CaseEnd {
    fn from(failure: Failure) -> Self {
        Self::unexpected("an answer", failure.to_string())
    }
}

impl From<anyhow::Error> for CaseEnd {
    fn from(error: anyhow::Error) -> Self {
        Self::unexpected("a complete resource", format!("{error:#}"))
    }
}

impl Play {
    /// Creates a play; `base` is the main consumer, as it calls the first practice.
    pub(super) fn new(base: Caller, parties: TestParties, settings: PlaySettings) -> Self {
        let (sent, booked) = (AtomicU32::new(0), Booked::default());
        Self { base, parties, settings, record: None, sent, booked }
    }

    /// Writes every answered resource to a file, one JSON document on each line.
    pub(super) fn recording(self, record: Option<File>) -> Self {
        Self { record: record.map(Mutex::new), ..self }
    }

    /// Returns the number of requests sent so far.
    pub(super) fn requests(&self) -> u32 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Returns true if the practice's own system is called, without a proxy.
    fn is_at_provider(&self) -> bool {
        matches!(self.base.form, TargetForm::Provider(_))
    }

    const fn screen(&self) -> Screen {
        self.settings.screen
    }

    /// Returns one of the practices that answer; the first ones again if there are fewer.
    fn practice(&self, number: usize) -> Result<&TestPractice, CaseEnd> {
        let answering = || self.parties.practices.iter().filter(|practice| practice.answers);
        let none = || CaseEnd::NotPlayed("there is no practice that answers".to_owned());
        answering().cycle().nth(number % answering().count().max(1)).ok_or_else(none)
    }

    /// Returns the first patient with this registration at the practices.
    fn patient(&self, registration: &str) -> Option<&TestPatient> {
        self.parties.patients.iter().find(|patient| patient.registration == registration)
    }

    /// Returns another consumer than the main one, with an agreement or without.
    fn other_consumer(&self, agreed: bool) -> Option<&TestConsumer> {
        let is_other = |one: &&TestConsumer| one.asid != self.base.asid && one.agreed == agreed;
        self.parties.consumers.iter().find(is_other)
    }

    /// Returns the main consumer as it calls a practice.
    fn caller(&self, practice: &TestPractice) -> Caller {
        let root = practice.root.clone();
        let form = if self.is_at_provider() { TargetForm::Provider } else { TargetForm::Root };
        let (ods, to) = (practice.ods.clone(), Some(practice.asid.clone()));
        Caller { practice: ods, to, form: form(root), ..self.base.clone() }
    }

    /// Shows who is judged, and what is sent there.
    pub(super) fn introduce(&self) {
        let server = &self.base.server.authority;
        let what = if self.is_at_provider() { "the provider" } else { "the Spine Secure Proxy" };
        let (asid, practice) = (&self.base.asid, &self.base.practice);
        let line = format!("Judging {what} at {server} as {asid}, with practice {practice}.");
        self.screen().line(Tone::Plain, line);
        let description = &self.booked.description;
        let registers = match self.patient("unregistered") {
            Some(_) => " It also registers an invented person there, for good.",
            None => "",
        };
        self.screen().line(Tone::Warn, match self.settings.books {
            false => "It sends only requests that change nothing. With --book it books appointments too, and cancels them.".to_owned(),
            true => format!(
                "It books appointments there, described as {description:?}, and cancels them at the end.{registers}"
            ),
        });
    }

    /// Plays the sessions, then the wrong requests, and adds each case once it has ended.
    ///
    /// If a right request is not answered as expected, a refusal says nothing: no wrong one is sent then.
    pub(super) async fn all(&self, cases: &mut Vec<PlayedCase>) {
        self.sessions(cases).await;
        let is_right =
            cases.first().is_some_and(|case| matches!(case.outcome, CaseOutcome::Passed));
        self.wrong_requests(is_right, cases).await;
    }

    /// Returns the case of a run that was stopped before its end.
    pub(super) fn interrupted(&self) -> PlayedCase {
        let (expected, received) = ("every case is played", "the run was stopped by a signal");
        let answer =
            UnexpectedAnswer { expected: expected.to_owned(), received: received.to_owned() };
        let name = "The run has come to its end".to_owned();
        let outcome = CaseOutcome::Failed(answer);
        let case = PlayedCase { part: "run", name, outcome, took: Duration::ZERO };
        self.show_end(&case);
        case
    }

    /// Shows how many cases have passed.
    pub(super) fn summarise(&self, cases: &[PlayedCase], took: Duration) {
        self.screen().line(Tone::Heading, "\nSummary");
        for (part, what) in [("sessions", "sessions"), ("refusals", "wrong requests")] {
            let of_part = || cases.iter().filter(|case| case.part == part);
            let (failed, passed, skipped) = counts(of_part());
            let tone = if failed > 0 { Tone::Bad } else { Tone::Good };
            let skipped = match skipped {
                0 => String::new(),
                skipped => format!(", {skipped} not played"),
            };
            let line = format!("   {passed} of {} {what} as expected{skipped}", failed + passed);
            self.screen().line(tone, line);
        }
        let (requests, seconds) = (self.requests(), took.as_secs_f64());
        self.screen().line(Tone::Plain, format_args!("   {requests} requests in {seconds:.1} s"));
    }

    /// Sends a request, and keeps the resource that is answered.
    async fn send(&self, caller: &Caller, request: &CallRequest) -> Result<CallAnswer, Failure> {
        let sent = self.sent.fetch_add(1, Ordering::Relaxed);
        if sent >= REQUESTS_MAX {
            return Err(Failure::Environment(anyhow::anyhow!(
                "this run has sent its {REQUESTS_MAX} requests"
            )));
        }
        let answer = Box::pin(caller.send(request)).await?;
        if let Some(record) = &self.record {
            let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
            writeln!(record, "{}", answer.json())?;
        }
        Ok(answer)
    }

    /// Plays a case and shows how it ends.
    async fn case(
        &self,
        part: &'static str,
        name: &str,
        played: impl Future<Output = Result<(), CaseEnd>>,
    ) -> PlayedCase {
        let began = Instant::now();
        let ended = Box::pin(played).await;
        let outcome = match ended {
            Ok(()) => CaseOutcome::Passed,
            Err(CaseEnd::NotPlayed(why)) => CaseOutcome::Skipped(why),
            Err(CaseEnd::Unexpected(answer)) => CaseOutcome::Failed(answer),
        };
        let took = began.elapsed();
        PlayedCase { part, name: name.to_owned(), outcome, took }
    }

    /// Shows a case that has not passed.
    fn show_end(&self, case: &PlayedCase) {
        match &case.outcome {
            CaseOutcome::Passed => {}
            CaseOutcome::Skipped(why) => {
                self.screen().line(Tone::Warn, format_args!("      not played: {why}"));
            }
            CaseOutcome::Failed(UnexpectedAnswer { expected, received }) => {
                self.screen().marked(Tone::Bad, "      expected: ", expected);
                self.screen().marked(Tone::Bad, "      received: ", received);
            }
        }
    }
}

/// Returns the number of cases that failed, passed and were skipped.
pub(super) fn counts<'a>(cases: impl IntoIterator<Item = &'a PlayedCase>) -> (usize, usize, usize) {
    let (mut failed, mut passed, mut skipped) = (0, 0, 0);
    for case in cases {
        match case.outcome {
            CaseOutcome::Failed(_) => failed += 1,
            CaseOutcome::Passed => passed += 1,
            CaseOutcome::Skipped(_) => skipped += 1,
        }
    }
    (failed, passed, skipped)
}

/// Returns an answer in words: status, who gave it, and what it says or holds.
fn described(answer: &CallAnswer) -> String {
    let status = reason(answer.status);
    let resource = answer.json();
    let text = |pointer: &str| resource.pointer(pointer).and_then(Value::as_str);
    let text = |pointer: &str| text(pointer).unwrap_or_default().to_owned();
    let code = text("/issue/0/details/coding/0/code");
    let by = answer.refusal().map(|refusal| format!(" from the proxy, {}", refusal.token));
    let shown = match (answer.said().as_slice(), text("/resourceType")) {
        ([], kind) if kind.is_empty() => match answer.header("content-type") {
            "" => "no FHIR resource".to_owned(),
            kind => format!("no FHIR resource but {kind}"),
        },
        ([], kind) => kind,
        (said, _) => format!("{code} {}", said.join(" ")).trim().to_owned(),
    };
    format!("{status}{}: {shown}", by.unwrap_or_default())
}
