//! `call`: sends one request as a consumer does, with everything but the interaction and the practice made for
//! it.

use jiff::civil::Date;
use spine_types::OdsCode;
use spine_types::interaction::{self, Interaction};

use super::output::{print, print_bytes};
use crate::failure::Failure;

mod answer;
mod compose;
mod connection;
mod exchange;
#[cfg_attr(not(feature = "lab"), expect(dead_code, reason = "the client takes a part of it"))]
mod parties;
mod resources;

use connection::{ConnectionOptions, ConnectionSource};
pub(in crate::commands) use exchange::TOKEN_ELSEWHERE;
use exchange::{CallNotes, CallRequest, CallerHeader};

/// Client that `demo` and `conform` send requests with.
#[cfg(feature = "lab")]
pub(in crate::commands) mod client {
    pub(in crate::commands) use super::answer::{CallAnswer, reason};
    pub(in crate::commands) use super::compose::{
        SearchDays, earliest, patient_query, slots_query,
    };
    pub(in crate::commands) use super::connection::{ConnectionOptions, ConnectionSource};
    pub(in crate::commands) use super::exchange::{
        CallNotes, CallRequest, Caller, CallerHeader, NoAnswer, TargetForm,
    };
    pub(in crate::commands) use super::parties::{
        TestConsumer, TestParties, TestPatient, TestPractice, TestProxy,
    };
    pub(in crate::commands) use super::resources::{
        NewBooking, cancelled, first, location, profile, resources, set, text,
    };
}

/// Request to send, and the connection to send it on.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct CallOptions {
    /// Interaction: an id or the end of one, such as metadata or read:patient, or one of slots, book, amend,
    /// cancel, patients, appointments, register.
    #[arg(value_parser = interaction::named)]
    interaction: &'static Interaction,
    /// ODS code of the practice, in either case.
    #[arg(value_parser = OdsCode::from_any_case)]
    ods: OdsCode,
    /// Logical id of the resource, for an interaction whose path has one.
    id: Option<String>,
    #[command(flatten)]
    source: ConnectionSource,
    #[command(flatten)]
    connection: ConnectionOptions,
    #[command(flatten)]
    content: CallContent,
    /// Status that is expected: exit code 0 if the answer has it, else 1. The body is not printed.
    #[arg(long, value_name = "STATUS", help_heading = OUTPUT)]
    expect: Option<u16>,
    /// Prints the answer's body with --expect too.
    #[arg(long, help_heading = OUTPUT)]
    body: bool,
    /// Prints a curl command for the request instead of sending it.
    #[arg(long, help_heading = OUTPUT)]
    curl: bool,
    /// Prints the heads of requests and answers, and the claims of the token, on standard error.
    #[arg(long, short, help_heading = OUTPUT)]
    verbose: bool,
}

/// Parts of a request that the interaction leaves open.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Content")]
pub(crate) struct CallContent {
    /// NHS number of the patient, for patients, appointments and book.
    #[arg(long, value_name = "NHS-NUMBER")]
    pub patient: Option<String>,
    /// Books the earliest free slot.
    #[arg(long, conflicts_with = "slot")]
    pub earliest: bool,
    /// Logical id of the slot to book.
    #[arg(long, value_name = "ID")]
    pub slot: Option<String>,
    /// First day to search, by default today.
    #[arg(long, value_name = "DAY")]
    pub start: Option<Date>,
    /// Last day to search, by default 13 days after the first.
    #[arg(long, value_name = "DAY")]
    pub end: Option<Date>,
    /// Description of the appointment to book or amend.
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// Reason for which an appointment is cancelled.
    #[arg(long, value_name = "TEXT", default_value = "Cancelled with spine-proxy call")]
    pub reason: String,
    /// Query of the request, encoded, instead of the one that is made.
    #[arg(long)]
    pub query: Option<String>,
    /// Body of the request, or @FILE, instead of the one that is made.
    #[arg(long, value_name = "JSON")]
    pub data: Option<String>,
    /// Header of the last request, instead of one that is made or in addition; without a value, the one that is
    /// made is left out.
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
}

const OUTPUT: &str = "Output";
const AFTER_HELP: &str = "\
The body of the answer goes to standard output, everything else to standard error. Exit codes: 0 if the answer \
has a status of 200 to 299 or the expected one, 1 if not, 2 if the arguments are wrong.

Examples:
  spine-proxy call metadata A20047 --config call.toml --expect 200
  spine-proxy call book A20047 --config call.toml --patient 9000000009 --earliest
  spine-proxy call cancel A20047 12 --config call.toml
  spine-proxy call slots A20047 --config call.toml --curl";

/// Sends a request, after the requests that it needs, and prints the answer.
///
/// # Errors
/// Returns an error if an option is missing or cannot be used, there is no answer, or the answer is not as
/// expected.
pub fn run(wanted: &CallOptions) -> Result<(), Failure> {
    let connection = wanted.connection.clone().completed(&wanted.source)?;
    let notes = if wanted.verbose { CallNotes::Heads } else { CallNotes::Lines };
    let caller = connection.caller(&wanted.ods, notes)?;
    let headers = wanted.content.headers.iter().map(|header| CallerHeader::parse(header));
    let headers = headers.collect::<Result<_, _>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let request =
            compose::request(&caller, wanted.interaction, wanted.id.as_deref(), &wanted.content);
        let request = CallRequest { headers, ..request.await? };
        if wanted.curl {
            print(caller.curl(&request)?);
            return Ok(());
        }
        let answer = caller.send(&request).await?;
        let is_expected = answer.is_expected(wanted.expect);
        if wanted.expect.is_none() || wanted.body {
            let is_line = answer.body.is_empty() || answer.body.ends_with(b"\n");
            print_bytes(&answer.body);
            print_bytes(if is_line { b"" } else { b"\n" });
        }
        if is_expected { Ok(()) } else { Err(answer.failure(wanted.expect)) }
    })
}

/// Returns an error about the arguments.
pub(in crate::commands) fn usage(text: impl std::fmt::Display) -> Failure {
    Failure::Usage(anyhow::anyhow!("{text}"))
}
