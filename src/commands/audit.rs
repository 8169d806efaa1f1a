//! `audit`: verifies, proves, searches and exports the audit journal.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufWriter, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use audit_journal::{LineFilter, MemberFilter, SearchMethod, search};
use clap::{Args, Subcommand, ValueEnum};
use jiff::{SignedDuration, Span, Timestamp, civil, tz::TimeZone};
use spine_types::interaction::{self, Interaction};

use crate::audit::{self, ExportedLine};
use crate::failure::Failure;
use crate::refusal::{every, former_tokens, token_names};

mod evidence;

use evidence::{CheckTask, KeyTask, ProveTask, VerifyTask};

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
    Query {
        /// Exchanges to print.
        #[command(flatten)]
        of: LineSelection,
        /// Prints the journal's own JSON lines instead.
        #[arg(long)]
        json: bool,
        /// Maximum number of rows or lines.
        #[arg(long, default_value_t = 1000)]
        limit: u64,
        /// Ends with exit code 1 if nothing is found.
        #[arg(long)]
        require: bool,
        /// Waits for the first exchange that is found and has ended, such as 2s, and requires one.
        #[arg(long, value_parser = wait)]
        wait: Option<Duration>,
    },
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
    id: Option<String>,
    /// ASID of either side.
    #[arg(long)]
    asid: Option<String>,
    /// ASID of the sender.
    #[arg(long)]
    from: Option<String>,
    /// ASID of the receiver.
    #[arg(long)]
    to: Option<String>,
    /// ODS code of the practice.
    #[arg(long)]
    ods: Option<String>,
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
/// Interval at which the journal is searched again for an exchange that is waited for.
const SEARCH_AGAIN: Duration = Duration::from_millis(50);
/// Limit: time for which an exchange is waited for.
const WAIT_MAX: Duration = Duration::from_secs(600);
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
    if let AuditTask::Query { of, .. } | AuditTask::Export { of, .. } = &wanted {
        of.name_compressed()?;
    }
    match wanted {
        AuditTask::Verify(wanted) => evidence::verify_journals(wanted),
        AuditTask::Prove(wanted) => evidence::prove_exchange(&wanted),
        AuditTask::Check(wanted) => evidence::check(&wanted),
        AuditTask::Key(wanted) => evidence::key(&wanted),
        AuditTask::Query { of, json, limit, require, wait } => {
            if let Some(wait) = wait {
                of.wait_for_end(wait)?;
            }
            let count = if json { lines(&of, limit)? } else { table(&of, limit)? };
            if count == 0 && (require || wait.is_some()) {
                return Err(Failure::Environment(anyhow::anyhow!("nothing was found")));
            }
            Ok(())
        }
        AuditTask::Export { of, format: ExportFormat::Ssp } => {
            let mut out = StandardOutput::new();
            out.line(audit::SSP_COLUMNS);
            out.exchanges(&of, u64::MAX, audit::row)?;
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
        let one = |name, value: &Option<String>| Some(MemberFilter::equal(name, value.as_ref()?));
        let any = |names: &[&'static str], values: Vec<String>| {
            let names = names.to_vec();
            (!values.is_empty()).then_some(MemberFilter { names, values })
        };
        let refusals = self.refusal.iter().flat_map(|token| token_names(token)).collect();
        [
            one("id", &self.id),
            one("trace_id", &self.trace_id),
            one("from", &self.from),
            one("to", &self.to),
            one("ods", &self.ods),
            one("outcome", &self.outcome),
            any(&["from", "to"], self.asid.iter().cloned().collect()),
            self.interaction.map(|wanted| MemberFilter::equal("interaction", wanted.id)),
            any(&["refusal"], refusals),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Waits until an exchange is found that has ended, for at most this time.
    fn wait_for_end(&self, wait: Duration) -> Result<(), Failure> {
        let until = Instant::now() + wait;
        loop {
            let mut is_found = false;
            self.search(self.until, |line| {
                let line = ExportedLine::read(line);
                is_found = line.is_some_and(|line| line.text("event") == Some("closed"));
                if is_found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            if is_found || Instant::now() >= until {
                return Ok(());
            }
            std::thread::sleep(SEARCH_AGAIN);
        }
    }

    fn search(
        &self,
        until: Option<Timestamp>,
        each: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), Failure> {
        let how = if self.scan { SearchMethod::Everything } else { SearchMethod::Indexed };
        let filter = LineFilter { members: self.members(), since: self.since, until };
        search(&self.journal, &filter, how, each).map_err(|error| fault(&self.journal, error))
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

    fn line(&mut self, line: impl AsRef<[u8]>) {
        let written = self.to.write_all(line.as_ref()).and_then(|()| self.to.write_all(b"\n"));
        if written.is_err() {
            self.flow = ControlFlow::Break(());
        }
    }

    /// Prints one row for each exchange that was opened in the selected time, from its closed line joined with
    /// its opened line, or from the one that it has; returns the number of rows.
    fn exchanges(
        &mut self,
        of: &LineSelection,
        limit: u64,
        mut print: impl FnMut(&ExportedLine) -> Option<String>,
    ) -> Result<u64, Failure> {
        let mut open: BTreeMap<String, ExportedLine> = BTreeMap::new();
        let mut count = 0;
        let until = of.until.map(|until| until.saturating_add(CLOSES_WITHIN).unwrap_or(until));
        of.search(until, |line| {
            let Some(mut line) = ExportedLine::read(line) else { return self.flow };
            let id = line.text("id").unwrap_or_default().to_owned();
            if line.text("event") == Some("unfinished") {
                if let Some(opened) = open.get_mut(&id) {
                    opened.join(line);
                }
                return self.flow;
            }
            if !of.began_in_time(&line) {
                return self.flow;
            }
            match line.text("event") {
                Some("opened") if open.len() < OPEN_MAX => {
                    open.insert(id, line);
                    return self.flow;
                }
                Some("closed") => {
                    if let Some(opened) = open.remove(&id) {
                        line.join(opened);
                    }
                }
                _ => {}
            }
            if let Some(row) = print(&line) {
                count += 1;
                self.line(row);
            }
            if count >= limit { ControlFlow::Break(()) } else { self.flow }
        })?;
        let mut open: Vec<_> = open.into_values().collect();
        open.sort_by_key(|line| line.number("seq"));
        for line in open {
            if count >= limit || self.flow.is_break() {
                break;
            }
            if let Some(row) = print(&line) {
                count += 1;
                self.line(row);
            }
        }
        Ok(count)
    }
}

impl Drop for StandardOutput {
    fn drop(&mut self) {
        // A closed pipe is not an error.
        self.to.flush().unwrap_or_default();
    }
}

fn lines(of: &LineSelection, limit: u64) -> Result<u64, Failure> {
    let mut out = StandardOutput::new();
    let mut count = 0;
    of.search(of.until, |line| {
        out.line(line);
        count += 1;
        if count >= limit { ControlFlow::Break(()) } else { out.flow }
    })?;
    is_all(count, limit);
    Ok(count)
}

fn table(of: &LineSelection, limit: u64) -> Result<u64, Failure> {
    let mut out = StandardOutput::new();
    let columns = ["time", "trace id", "from", "to", "practice", "interaction", "", "status"];
    out.line(spaced(&columns.map(str::to_owned), "outcome"));
    let count = out.exchanges(of, limit, |line| {
        let text = |name: &str| line.text(name).unwrap_or("-").to_owned();
        let outcome = match (text("event").as_str(), text("outcome").as_str()) {
            ("opened", _) => "not closed".to_owned(),
            ("closed", "refused") => text("refusal"),
            ("closed", "aborted") => {
                format!("aborted by {} in {}", text("ended_by"), text("ended_in"))
            }
            ("closed", outcome) => outcome.to_owned(),
            _ => return None,
        };
        let time = text("time");
        let time = time.get(..23).unwrap_or(&time).replace('T', " ");
        let interaction = text("interaction");
        let interaction = interaction.rsplit("rest:").next().unwrap_or_default();
        let interaction = interaction.rsplit("operation:").next().unwrap_or_default().to_owned();
        let took = line.number("duration_us").map(|us| format!(", {} ms", us / 1000));
        let columns = [
            time,
            text("trace_id"),
            text("from"),
            text("to"),
            text("ods"),
            interaction,
            text("method"),
            line.number("status").map_or("-".to_owned(), |status| status.to_string()),
        ];
        Some(spaced(&columns, &(outcome + &took.unwrap_or_default())))
    })?;
    drop(out);
    is_all(count, limit);
    Ok(count)
}

/// Formats a row: columns of fixed width, and a last one of any width.
fn spaced(columns: &[String; 8], last: &str) -> String {
    let [time, trace_id, from, to, ods, interaction, method, status] = columns;
    format!(
        "{time:<23}  {trace_id:<36}  {from:<12}  {to:<12}  {ods:<8}  {interaction:<30}  \
         {method:<6}  {status:<6}  {last}"
    )
}

fn is_all(count: u64, limit: u64) {
    if count >= limit {
        writeln!(io::stderr(), "only the first {limit} are shown; --limit shows more")
            .unwrap_or_default();
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
    StandardOutput::new().exchanges(&of, u64::MAX, print)?;
    Ok(())
}

/// Reads a time to wait, such as `2s` or `500ms`.
fn wait(text: &str) -> Result<Duration, String> {
    let wait = text.parse::<Span>().map_err(|error| error.to_string())?;
    let wait = Duration::try_from(wait).map_err(|error| error.to_string())?;
    if wait > WAIT_MAX { Err(format!("at most {} s", WAIT_MAX.as_secs())) } else { Ok(wait) }
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
            .map_err(|why| why.to_string());
    }
    // A period before now; days have 24 hours.
    let ago: Span = text.parse().map_err(|_| {
        format!("{text:?} is not a time: write 2026-11-25T09:00:00Z, 2026-11-25 or 2h")
    })?;
    let ago = ago.to_duration(jiff::SpanRelativeTo::days_are_24_hours());
    let ago = ago.map_err(|why| why.to_string())?;
    Timestamp::now().checked_sub(ago).map_err(|why| why.to_string())
}

fn fault(journal: &Path, error: io::Error) -> Failure {
    Failure::environment(
        anyhow::Error::new(error).context(format!("cannot read the journal {}", journal.display())),
    )
}
