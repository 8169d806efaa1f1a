//! `audit`: verifies, proves, searches and exports the audit journal.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufWriter, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use audit_journal::{LineFilter, MemberFilter, SearchMethod, search};
use clap::{Args, Subcommand, ValueEnum};
use jiff::{SignedDuration, Span, Timestamp, civil, tz::TimeZone};
use spine_types::interaction::{self, Interaction};
use spine_types::{Asid, OdsCode};
use uuid::Uuid;

use super::output;
use crate::audit::{self, ExportedLine};
use crate::failure::Failure;
use crate::refusal::{every, former_tokens, token_names};

mod evidence;
mod query;
mod verify_report;

use evidence::{CheckTask, KeyTask, ProveTask, VerifyTask};
use query::QueryTask;

/// Task on the audit journal.
#[derive(Debug, Subcommand)]
pub enum AuditTask {
    /// Verifies journals: exit code 0 if everything is proven, 3 if something is not, 1 if it has been changed
    /// or cut.
    Verify(VerifyTask),
    /// Writes the lines of an exchange with proofs that others can check without the journal.
    Prove(ProveTask),
    /// Checks a proof that `audit prove` wrote: exit code 0, 3 or 1 as for `verify`.
    Check(CheckTask),
    /// Makes or shows the key that signs checkpoints.
    #[command(subcommand)]
    Key(KeyTask),
    /// Searches for exchanges and prints them as a table.
    Query(QueryTask),
    /// Prints exchanges in a format for other tools.
    Export {
        /// Exchanges to print.
        #[command(flatten)]
        of: LineSelection,
        /// Format of the output.
        #[arg(long)]
        format: ExportFormat,
    },
}

/// Selection of journal lines; all given options must match.
#[derive(Debug, Args)]
pub struct LineSelection {
    /// Folder of the journal.
    journal: PathBuf,
    /// Trace id of the request.
    #[arg(long)]
    trace_id: Option<String>,
    /// Id of the exchange, which a refusal quotes.
    #[arg(long)]
    id: Option<Uuid>,
    /// ASID of either side.
    #[arg(long)]
    asid: Option<Asid>,
    /// ASID of the sender.
    #[arg(long)]
    from: Option<Asid>,
    /// ASID of the receiver.
    #[arg(long)]
    to: Option<Asid>,
    /// ODS code of the practice, in either case.
    #[arg(long, value_parser = OdsCode::from_any_case)]
    ods: Option<OdsCode>,
    /// Interaction: an id, the end of one, or a word such as book.
    #[arg(long, value_parser = interaction::named)]
    interaction: Option<&'static Interaction>,
    /// Outcome of the exchange.
    #[arg(long, value_parser = OUTCOMES, ignore_case = true)]
    outcome: Option<String>,
    /// Token of the refusal, such as `audience_mismatch`; former tokens count too.
    #[arg(long, value_parser = refusal_token)]
    refusal: Option<String>,
    /// Earliest time: 2026-11-25T09:00:00Z, 2026-11-25 (UTC), or 2h for two hours ago.
    #[arg(long, value_parser = moment)]
    since: Option<Timestamp>,
    /// Time before which exchanges are printed, written as --since.
    #[arg(long, value_parser = moment)]
    until: Option<Timestamp>,
    /// Reads every line of the journal instead of using the index files beside its segments.
    #[arg(long)]
    scan: bool,
}

/// Export format of the audit journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// Comma-separated values, with the columns of the national service's exports.
    Ssp,
    /// OpenTelemetry logs, as lines of OTLP JSON.
    Otel,
    /// Audit events of FHIR R4 after the Basic Audit Log Patterns of IHE (BALP), one a line.
    Balp,
}

/// Outcomes of an exchange, as the journal writes them.
const OUTCOMES: [&str; 3] = ["answered", "refused", "aborted"];
/// Limit: known tokens that the error about an unknown one names.
const NEAREST_MAX: usize = 3;
/// Similarity, from 0 to 1, from which a known token is named for an unknown one.
const SIMILARITY_MIN: f64 = 0.5;
/// Number of journal lines in one batch of OpenTelemetry logs.
const BATCH: usize = 100;
/// Time after the end of the selection in which the closed line of an exchange is looked for.
const CLOSES_WITHIN: SignedDuration = SignedDuration::from_mins(30);
/// Limit: exchanges kept in memory until their closed line is found, while a table is printed.
const OPEN_MAX: usize = 100_000;

/// Runs a task on the audit journal.
///
/// # Errors
/// Returns an error if the journal cannot be read, or if its verification finds a fault.
pub fn run(wanted: AuditTask) -> Result<(), Failure> {
    if let AuditTask::Query(QueryTask { of, .. }) | AuditTask::Export { of, .. } = &wanted {
        of.name_compressed()?;
    }
    match wanted {
        AuditTask::Verify(wanted) => evidence::verify_journals(wanted),
        AuditTask::Prove(wanted) => evidence::prove_exchange(&wanted),
        AuditTask::Check(wanted) => evidence::check(&wanted),
        AuditTask::Key(wanted) => evidence::key(&wanted),
        AuditTask::Query(wanted) => query::run(&wanted),
        AuditTask::Export { of, format: ExportFormat::Ssp } => {
            let mut out = StandardOutput::new();
            out.line(audit::SSP_COLUMNS);
            out.exchanges(&of, audit::row)?;
            Ok(())
        }
        AuditTask::Export { of, format: ExportFormat::Otel } => otel(&of),
        AuditTask::Export { of, format: ExportFormat::Balp } => balp(of),
    }
}

impl LineSelection {
    /// Says on standard error how many segments are left out because they are compressed.
    fn name_compressed(&self) -> Result<(), Failure> {
        let count = audit_journal::compressed_segments(&self.journal);
        match count.map_err(|error| fault(&self.journal, error))? {
            0 => {}
            count => writeln!(
                io::stderr(),
                "{}: compressed segments, which are not searched: {count}",
                self.journal.display()
            )
            .unwrap_or_default(),
        }
        Ok(())
    }

    /// Returns true if the exchange of a line was opened within `since` and `until`.
    fn began_in_time(&self, line: &ExportedLine) -> bool {
        line.began().is_some_and(|began| {
            self.since.is_none_or(|since| began >= since)
                && self.until.is_none_or(|until| began < until)
        })
    }

    /// Returns the conditions on members of a line.
    fn members(&self) -> Vec<MemberFilter> {
        fn one(name: &'static str, value: Option<&impl ToString>) -> Option<MemberFilter> {
            Some(MemberFilter::equal(name, &value?.to_string()))
        }
        let any = |names: &[&'static str], values: Vec<String>| {
            let names = names.to_vec();
            (!values.is_empty()).then_some(MemberFilter { names, values })
        };
        let refusals = self.refusal.iter().flat_map(|token| token_names(token)).collect();
        [
            one("id", self.id.as_ref()),
            one("trace_id", self.trace_id.as_ref()),
            one("from", self.from.as_ref()),
            one("to", self.to.as_ref()),
            one("ods", self.ods.as_ref()),
            one("outcome", self.outcome.as_ref()),
            any(&["from", "to"], self.asid.iter().map(Asid::to_string).collect()),
            self.interaction.map(|wanted| MemberFilter::equal("interaction", wanted.id)),
            any(&["refusal"], refusals),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Returns the conditions on a line, with another end of the time.
    fn filter(&self, until: Option<Timestamp>) -> LineFilter {
        LineFilter { members: self.members(), since: self.since, until }
    }

    const fn method(&self) -> SearchMethod {
        if self.scan { SearchMethod::Everything } else { SearchMethod::Indexed }
    }

    /// Returns the end of the time in which lines of selected exchanges are looked for.
    fn closed_until(&self) -> Option<Timestamp> {
        self.until.map(|until| until.saturating_add(CLOSES_WITHIN).unwrap_or(until))
    }

    fn search(
        &self,
        until: Option<Timestamp>,
        each: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), Failure> {
        search(&self.journal, &self.filter(until), self.method(), each)
            .map_err(|error| fault(&self.journal, error))
    }
}

/// Exchanges that are joined from their lines.
#[derive(Debug, Default)]
struct ExchangeJoiner {
    open: BTreeMap<String, ExportedLine>,
}

impl ExchangeJoiner {
    /// Takes the next line of the journal; returns the exchange that has ended with it, from its closed line
    /// joined with its opened line or from the one that it has, or a line that belongs to none.
    fn add(&mut self, of: &LineSelection, line: &[u8]) -> Option<ExportedLine> {
        let mut line = ExportedLine::read(line)?;
        let id = line.text("id").unwrap_or_default().to_owned();
        if line.text("event") == Some("unfinished") {
            let mut opened = self.open.remove(&id)?;
            opened.join(line);
            return Some(opened);
        }
        if !of.began_in_time(&line) {
            return None;
        }
        match line.text("event") {
            Some("opened") if self.open.len() < OPEN_MAX => {
                self.open.insert(id, line);
                return None;
            }
            Some("closed") => {
                if let Some(opened) = self.open.remove(&id) {
                    line.join(opened);
                }
            }
            _ => {}
        }
        Some(line)
    }

    /// Returns the exchanges that have not ended, in the journal's order.
    fn left(self) -> Vec<ExportedLine> {
        let mut open: Vec<_> = self.open.into_values().collect();
        open.sort_by_key(|line| line.number("seq"));
        open
    }
}

/// Buffered standard output, which notes when its reader has closed the pipe.
struct StandardOutput {
    to: BufWriter<io::StdoutLock<'static>>,
    flow: ControlFlow<()>,
}

impl StandardOutput {
    fn new() -> Self {
        Self { to: BufWriter::new(io::stdout().lock()), flow: ControlFlow::Continue(()) }
    }

    /// Ends the search if an output could not be written.
    fn note(&mut self, written: io::Result<()>) {
        if !output::note(written) {
            self.flow = ControlFlow::Break(());
        }
    }

    fn line(&mut self, line: impl AsRef<[u8]>) {
        let written = self.to.write_all(line.as_ref()).and_then(|()| self.to.write_all(b"\n"));
        self.note(written);
    }

    /// Prints one row for each exchange that was opened in the selected time.
    fn exchanges(
        &mut self,
        of: &LineSelection,
        print: impl Fn(&ExportedLine) -> Option<String>,
    ) -> Result<(), Failure> {
        let mut exchanges = ExchangeJoiner::default();
        of.search(of.closed_until(), |line| {
            if let Some(row) = exchanges.add(of, line).and_then(|exchange| print(&exchange)) {
                self.line(row);
            }
            self.flow
        })?;
        exchanges.left().iter().filter_map(print).for_each(|row| self.line(row));
        Ok(())
    }

    /// Hands over what has been printed so far.
    fn flush(&mut self) {
        let flushed = self.to.flush();
        self.note(flushed);
    }
}

impl Drop for StandardOutput {
    fn drop(&mut self) {
        self.flush();
    }
}

fn otel(of: &LineSelection) -> Result<(), Failure> {
    let mut out = StandardOutput::new();
    let mut batch = Vec::with_capacity(BATCH);
    of.search(of.until, |line| {
        batch.extend(ExportedLine::read(line));
        if batch.len() == BATCH {
            out.line(audit::otlp(&batch));
            batch.clear();
        }
        out.flow
    })?;
    if !batch.is_empty() {
        out.line(audit::otlp(&batch));
    }
    Ok(())
}

fn balp(mut of: LineSelection) -> Result<(), Failure> {
    let mut origin = None;
    let events = ["started", "segment"].map(str::to_owned).to_vec();
    let heads = MemberFilter { names: vec!["event"], values: events };
    let heads = LineFilter { members: vec![heads], ..LineFilter::default() };
    search(&of.journal, &heads, SearchMethod::Everything, |line| {
        origin = ExportedLine::read(line).and_then(|line| Some(line.text("origin")?.to_owned()));
        if origin.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .map_err(|error| fault(&of.journal, error))?;
    // The last line of an exchange has these, and the first one says who called: both are needed.
    let (outcome, refusal) = (of.outcome.take(), of.refusal.take());
    let refusals = refusal.map(|token| token_names(&token));
    let is_wanted = |line: &ExportedLine| {
        let text = |name| line.text(name).unwrap_or_default();
        outcome.as_ref().is_none_or(|outcome| outcome.eq_ignore_ascii_case(text("outcome")))
            && refusals.as_ref().is_none_or(|tokens| {
                tokens.iter().any(|token| token.eq_ignore_ascii_case(text("refusal")))
            })
    };
    let print = |line: &ExportedLine| {
        if is_wanted(line) { line.audit_event(origin.as_deref()) } else { None }
    };
    StandardOutput::new().exchanges(&of, print)?;
    Ok(())
}

/// Returns a refusal's token if one of its name is or was written by a gateway.
fn refusal_token(text: &str) -> Result<String, String> {
    let current = every().into_iter().map(|refusal| refusal.row().token);
    let known: BTreeSet<&str> = current.chain(former_tokens()).collect();
    if known.iter().any(|token| token.eq_ignore_ascii_case(text)) {
        return Ok(text.to_ascii_lowercase());
    }
    let similarity = |token: &str| strsim::normalized_damerau_levenshtein(text, token);
    let mut near: Vec<_> = known.into_iter().map(|token| (similarity(token), token)).collect();
    near.retain(|(similarity, _)| *similarity >= SIMILARITY_MIN);
    near.sort_by(|one, other| other.0.total_cmp(&one.0));
    let near: Vec<_> = near.iter().take(NEAREST_MAX).map(|(_, token)| *token).collect();
    let hint = match near.is_empty() {
        true => "docs/integrate/refusals.md lists all".to_owned(),
        false => format!("the nearest known tokens are {}", near.join(", ")),
    };
    Err(format!("no refusal has this token; {hint}"))
}

fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(moment) = text.parse() {
        return Ok(moment);
    }
    if let Ok(day) = text.parse::<civil::Date>() {
        return day
            .to_zoned(TimeZone::UTC)
            .map(|day| day.timestamp())
            .map_err(|_| format!("{text:?} is outside of the calendar"));
    }
    // A period before now; days have 24 hours.
    let ago: Span = text.parse().map_err(|_| {
        format!("{text:?} is not a time: write 2026-11-25T09:00:00Z, 2026-11-25 or 2h")
    })?;
    let ago = ago.to_duration(jiff::SpanRelativeTo::days_are_24_hours());
    let ago = ago.map_err(|why| why.to_string())?;
    let far = || format!("{text:?} before now is outside of the calendar");
    Timestamp::now().checked_sub(ago).map_err(|_| far())
}

fn fault(journal: &Path, error: io::Error) -> Failure {
    Failure::environment(
        anyhow::Error::new(error).context(format!("cannot read the journal {}", journal.display())),
    )
}
