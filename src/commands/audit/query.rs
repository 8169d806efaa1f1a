//! `audit query`: searches the journal, prints what is found, and follows what is written meanwhile.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use audit_journal::JournalSearch;
use clap::Args;
use jiff::Span;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use spine_types::printable;

use super::super::output::print_error;
use super::super::signals::StopSignals;
use super::{ExchangeJoiner, LineSelection, StandardOutput, fault};
use crate::audit::ExportedLine;
use crate::failure::Failure;

/// Options of `audit query`.
#[derive(Debug, Args)]
pub struct QueryTask {
    /// Exchanges to print.
    #[command(flatten)]
    pub(super) of: LineSelection,
    /// Prints the journal's own JSON lines instead.
    #[arg(long)]
    json: bool,
    /// Maximum number of rows or lines: by default 1000, and with --follow no maximum.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Ends with exit code 1 if nothing is found.
    #[arg(long)]
    require: bool,
    /// Waits for the first exchange that is found and has ended, such as 2s, and requires one. With --follow: time
    /// after which the command ends.
    #[arg(long, value_parser = wait)]
    wait: Option<Duration>,
    /// Goes on to print what is written, each exchange when it ends, until SIGINT, SIGTERM or the end of --wait.
    #[arg(long, conflicts_with = "until")]
    follow: bool,
}

/// Rows or lines that are printed if --limit is not given.
const LIMIT: u64 = 1000;
/// Interval at which the journal is searched for new lines.
const SEARCH_AGAIN: Duration = Duration::from_millis(50);
/// Limit: time for which an exchange is waited for.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// Searches the journal and prints what is found.
///
/// # Errors
/// Returns an error if the journal cannot be read, or if nothing is found that is required.
pub(super) fn run(wanted: &QueryTask) -> Result<(), Failure> {
    let QueryTask { of, json, limit, require, wait, follow } = wanted;
    let fault = |error| fault(&of.journal, error);
    let limit = limit.unwrap_or(if *follow { u64::MAX } else { LIMIT });
    let mut output = QueryOutput::new(*json, limit);
    if *follow {
        let stop = StopFlags::listen()?;
        let until = wait.map(|wait| Instant::now() + wait);
        output.follow(of, &stop, until).map_err(fault)?;
    } else {
        if let Some(wait) = wait {
            wait_for_end(of, *wait).map_err(fault)?;
        }
        let filter = of.filter(if *json { of.until } else { of.closed_until() });
        let mut search = JournalSearch::new(&of.journal, &filter, of.method());
        search.read_on(|line| output.add(of, line)).map(drop).map_err(fault)?;
    }
    let is_required = *require || (wait.is_some() && !follow);
    match output.finish() {
        0 if is_required => Err(Failure::Environment(anyhow::anyhow!("nothing was found"))),
        count if count >= limit => {
            let ended = format_args!(
                "the first {limit} are shown; there may be more, and --limit shows them"
            );
            print_error(ended);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Waits until an exchange is found that has ended, for at most this time.
fn wait_for_end(of: &LineSelection, wait: Duration) -> io::Result<()> {
    let until = Instant::now() + wait;
    let filter = of.filter(of.until);
    let mut search = JournalSearch::new(&of.journal, &filter, of.method());
    loop {
        let found = search.read_on(|line| {
            let line = ExportedLine::read(line);
            match line.is_some_and(|line| line.text("event") == Some("closed")) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        if found.is_break() || Instant::now() >= until {
            return Ok(());
        }
        std::thread::sleep(SEARCH_AGAIN);
    }
}

/// Output of a query: a table of exchanges, or the journal's lines.
struct QueryOutput {
    out: StandardOutput,
    /// Exchanges for the table; `None` if lines are printed.
    exchanges: Option<ExchangeJoiner>,
    limit: u64,
    count: u64,
}

impl QueryOutput {
    fn new(json: bool, limit: u64) -> Self {
        let mut out = StandardOutput::new();
        if !json {
            let columns =
                ["time", "trace id", "from", "to", "practice", "interaction", "", "status"];
            out.line(spaced(&columns.map(str::to_owned), "outcome"));
        }
        Self { out, exchanges: (!json).then(ExchangeJoiner::default), limit, count: 0 }
    }

    /// Takes a line that was found, and prints it or the exchange that has ended with it.
    fn add(&mut self, of: &LineSelection, line: &[u8]) -> ControlFlow<()> {
        match &mut self.exchanges {
            None => self.print(line),
            Some(exchanges) => {
                if let Some(row) = exchanges.add(of, line).as_ref().and_then(row) {
                    self.print(row);
                }
            }
        }
        self.flow()
    }

    fn print(&mut self, line: impl AsRef<[u8]>) {
        self.out.line(line);
        self.count += 1;
    }

    const fn flow(&self) -> ControlFlow<()> {
        if self.count >= self.limit { ControlFlow::Break(()) } else { self.out.flow }
    }

    /// Prints what is found and what is written later, until a signal, this time, the limit, or a closed output.
    fn follow(
        &mut self,
        of: &LineSelection,
        stop: &StopFlags,
        until: Option<Instant>,
    ) -> io::Result<()> {
        let filter = of.filter(None);
        let search = JournalSearch::new(&of.journal, &filter, of.method());
        let mut search = search.stopped_by(Arc::clone(&stop.second));
        loop {
            // What was written before the end is still printed.
            let is_last = stop.first.load(Ordering::Acquire)
                || until.is_some_and(|until| Instant::now() >= until);
            let found = search.read_on(|line| self.add(of, line))?;
            self.out.flush();
            let has_ended = is_last || found.is_break() || self.flow().is_break();
            if has_ended || is_output_closed_within(SEARCH_AGAIN) {
                return Ok(());
            }
        }
    }

    /// Prints the exchanges that have not ended; returns the number of all rows or lines.
    fn finish(mut self) -> u64 {
        for exchange in self.exchanges.take().unwrap_or_default().left() {
            if self.flow().is_break() {
                break;
            }
            if let Some(row) = row(&exchange) {
                self.print(row);
            }
        }
        self.count
    }
}

/// Waits for this time, or until nobody reads the standard output any more; returns true in that case.
fn is_output_closed_within(time: Duration) -> bool {
    let stdout = io::stdout();
    // An error of the other end is reported without being asked for.
    let mut waited = [PollFd::new(&stdout, PollFlags::empty())];
    let Ok(time) = Timespec::try_from(time) else { return false };
    poll(&mut waited, Some(&time)).is_ok_and(|ready| ready > 0)
}

/// Signals that end a query which follows the journal.
#[derive(Debug)]
struct StopFlags {
    /// True once a signal has come: what is there is still printed.
    first: Arc<AtomicBool>,
    /// True once another signal has come: reading breaks off.
    second: Arc<AtomicBool>,
    _runtime: tokio::runtime::Runtime,
}

impl StopFlags {
    fn listen() -> io::Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (first, second) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let within = runtime.enter();
        let mut signals = StopSignals::new()?;
        drop(within);
        let told = [Arc::clone(&first), Arc::clone(&second)];
        runtime.spawn(async move {
            for flag in told {
                signals.received().await;
                flag.store(true, Ordering::Release);
            }
        });
        Ok(Self { first, second, _runtime: runtime })
    }
}

/// Formats an exchange as a row of the table; `None` for the journal's lines about itself.
fn row(line: &ExportedLine) -> Option<String> {
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
}

/// Formats a row: columns of fixed width, and a last one of any width.
fn spaced(columns: &[String; 8], last: &str) -> String {
    let [time, trace_id, from, to, ods, interaction, method, status] = columns;
    let row = format!(
        "{time:<23}  {trace_id:<36}  {from:<12}  {to:<12}  {ods:<8}  {interaction:<30}  \
         {method:<6}  {status:<6}  {last}"
    );
    // The journal may have been changed by others.
    printable(&row).into_owned()
}

/// Reads a time to wait, such as `2s` or `500ms`.
fn wait(text: &str) -> Result<Duration, String> {
    let wait = text.parse::<Span>().map_err(|error| error.to_string())?;
    let wait = Duration::try_from(wait).map_err(|error| error.to_string())?;
    if wait > WAIT_MAX { Err(format!("at most {} s", WAIT_MAX.as_secs())) } else { Ok(wait) }
}
