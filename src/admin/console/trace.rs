//! Story of one exchange, from its lines in the journal.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use audit_journal::{LineFilter, MemberFilter, SearchMethod, search};
use jiff::Timestamp;
use maud::{Markup, html};
use serde_json::Value;
use tokio::sync::Semaphore;

use super::super::AdminState;
use super::exchanges::milliseconds;
use super::page::{Page, PageQuery, Tone, table, tag, time};
use crate::refusal::remedy;
use spine_types::TraceId;

const PATH: &str = "/console/trace";

/// Limit: lines that one search shows.
const LINES_MAX: usize = 50;
/// Limit: time for which a page waits for a search. The search itself goes on, and counts until it ends.
const SEARCH_MAX: Duration = Duration::from_secs(10);

/// Phases of an exchange in the journal, in their order, and their names.
const PHASES: [(&str, &str); 6] = [
    ("policy_us", "The gateway's own decisions"),
    ("directory_us", "Directory"),
    ("queue_us", "Waiting for a place with the practice's system"),
    ("audit_us", "Waiting for the journal"),
    ("provider_us", "Waiting for the practice's system"),
    ("body_us", "Body of the answer"),
];

/// Lines of an exchange, in the journal's order.
type Story = Vec<Value>;

/// Result of a search: stories by the ids of their exchanges, and whether there are more lines.
#[derive(Debug, Default)]
struct FoundStories {
    stories: BTreeMap<u64, Story>,
    is_cut: bool,
}

pub(super) async fn page(views: &AdminState, searches: &Arc<Semaphore>, query: &PageQuery) -> Page {
    let found = match query.id.is_empty() {
        true => Ok(None),
        false => find(views, searches, query.id.clone()).await.map(Some),
    };
    let content = html! {
        h1 { "One exchange" }
        form method="get" action=(PATH) role="search" {
            div {
                label for="id" { "Trace id or id of an exchange" small { "Ssp-TraceID, or the id in the answer to a refused request" } }
                input #id name="id" value=(query.id) autocomplete="off" spellcheck="false";
            }
            button type="submit" { "Search the journal" }
        }
        @match found {
            Ok(None) => p { "The journal of this gateway is searched. Other gateways have journals of their own." },
            Ok(Some(found)) => (stories(&found)),
            Err(why) => p.error role="alert" { (why) },
        }
    };
    Page::still("One exchange", PATH, content)
}

async fn find(
    views: &AdminState,
    searches: &Arc<Semaphore>,
    id: String,
) -> Result<FoundStories, String> {
    let Ok(place) = Arc::clone(searches).try_acquire_owned() else {
        return Err("Other searches are under way: try again in a moment.".to_owned());
    };
    let folder = views.trail.folder().to_owned();
    let task = tokio::task::spawn_blocking(move || {
        let found = read(&folder, &id);
        drop(place);
        found
    });
    match tokio::time::timeout(SEARCH_MAX, task).await {
        Ok(Ok(Ok(found))) => Ok(found),
        Ok(Ok(Err(error))) => Err(format!("The journal cannot be read: {error}")),
        Ok(Err(_)) => Err("The search has failed.".to_owned()),
        Err(_) => Err(format!(
            "The search takes longer than {} s: use spine-proxy audit query.",
            SEARCH_MAX.as_secs()
        )),
    }
}

/// Reads the lines with this id or trace id.
fn read(folder: &Path, id: &str) -> std::io::Result<FoundStories> {
    let trace_id = id.parse::<TraceId>().ok();
    // As the journal has it: without what could be an NHS number.
    let id = trace_id.as_ref().map_or(Cow::Borrowed(id), TraceId::printable);
    // The journal's text is searched, in which some characters are escaped.
    let escaped = serde_json::to_string(&id).unwrap_or_default();
    let escaped = escaped.trim_matches('"');
    let mut lines: BTreeMap<u64, Value> = BTreeMap::new();
    let mut found = FoundStories::default();
    for name in ["id", "trace_id"] {
        let members = vec![MemberFilter::equal(name, escaped)];
        let filter = LineFilter { members, ..LineFilter::default() };
        search(folder, &filter, SearchMethod::Indexed, |line| {
            if lines.len() >= LINES_MAX {
                found.is_cut = true;
                return ControlFlow::Break(());
            }
            if let Ok(line) = serde_json::from_slice::<Value>(line)
                && let Some(seq) = number(&line, "seq")
            {
                lines.insert(seq, line);
            }
            ControlFlow::Continue(())
        })?;
    }
    let mut first: BTreeMap<String, u64> = BTreeMap::new();
    for (seq, line) in lines {
        let begins =
            *first.entry(member(&line, "id").unwrap_or_default().to_owned()).or_insert(seq);
        found.stories.entry(begins).or_default().push(line);
    }
    Ok(found)
}

fn stories(found: &FoundStories) -> Markup {
    html! {
        @if found.stories.is_empty() {
            p { "The journal has no line with this id." }
        }
        @for (begins, story) in &found.stories { (told(*begins, story)) }
        @if found.is_cut {
            p { "There are more lines than the " (LINES_MAX) " shown: use " span.code { "spine-proxy audit query" } "." }
        }
    }
}

/// Returns a story, step by step; an exchange is named by the number of its first line.
fn told(begins: u64, story: &Story) -> Markup {
    let any = |name: &str| story.iter().find_map(|line| member(line, name));
    let first = story.first();
    let last = story.iter().find(|line| member(line, "event") == Some("closed"));
    html! {
        h2 { "Exchange " (begins) }
        ol.story {
            li {
                strong { "Received" }
                @if let Some(line) = first { p { (began(line)) } }
                p {
                    (any("method").unwrap_or_default()) ", "
                    (any("interaction").unwrap_or("interaction not known"))
                    @if let Some(client) = any("client") { ", from " (client) }
                }
                p { "Trace id " span.code { (any("trace_id").unwrap_or("none")) } }
                p { "Id of the exchange " span.code { (any("id").unwrap_or_default()) } }
            }
            li { strong { "Who sent it" } @if let Some(line) = first { (caller(line)) } }
            (destination(story))
            @if let Some(token) = any("refusal") { (refused(token)) }
            @match last {
                Some(line) => (ending(line)),
                None => li {
                    strong { (tag(Tone::Warn, "No end in the journal")) }
                    p { "The exchange is under way, or a crash has left it open." }
                },
            }
        }
        @if let Some(line) = last { (phases(begins, line)) }
        (lines(begins, story))
    }
}

fn began(line: &Value) -> Markup {
    let at = member(line, "time").and_then(|time| time.parse::<Timestamp>().ok());
    let took =
        number(line, "duration_us").and_then(|us| i64::try_from(us).ok()).unwrap_or_default();
    let at = at.and_then(|at| at.checked_sub(jiff::SignedDuration::from_micros(took)).ok());
    html! { @if let Some(at) = at { (time(at)) } }
}

fn caller(line: &Value) -> Markup {
    let text = |name: &str| member(line, name);
    html! {
        p { "Ssp-From " (text("from").unwrap_or("none")) }
        @match (text("certificate_fault"), text("certificate_sha256")) {
            (Some(fault), _) => p { "The certificate was refused: " (fault) },
            (None, Some(sha256)) => {
                p {
                    "Certificate of " (text("certificate").unwrap_or("no name"))
                    ", serial number " (text("certificate_serial").unwrap_or("none"))
                    ", issued by " (text("certificate_issuer").unwrap_or("an unknown authority"))
                }
                p { "SHA-256 " span.code { (sha256) } }
            },
            (None, None) => p { "The caller was not authenticated." },
        }
        @if let Some(organisation) = line.get("claims").and_then(|claims| member(claims, "organisation")) {
            p { "The token is for the organisation " (organisation) " (the consumer's word)." }
        }
    }
}

fn destination(story: &Story) -> Markup {
    let any = |name: &str| story.iter().find_map(|line| member(line, name));
    let age = story.iter().find_map(|line| number(line, "directory_age_s"));
    html! {
        @if any("to").is_some() || any("ods").is_some() {
            li {
                strong { "To whom" }
                p { "Practice " (any("ods").unwrap_or("not known")) ", Ssp-To " (any("to").unwrap_or("none")) }
                @if let Some(source) = any("directory") {
                    p { "Registered in " (source) @if let Some(age) = age { ", answered " (age) " s before" } }
                }
            }
        }
        @if let Some(provider) = any("provider") {
            @let sent = story.iter().find_map(|line| line.get("sent_whole")?.as_bool());
            @let bytes = story.iter().find_map(|line| number(line, "bytes_in"));
            li {
                strong { "Forwarded" }
                p {
                    "To the practice's system at " (provider) ", "
                    @if sent == Some(true) { "the whole request" } @else { "not the whole request" }
                    @if let Some(bytes) = bytes { ", with a body of " (bytes) " bytes" }
                }
            }
        }
    }
}

fn refused(token: &str) -> Markup {
    html! {
        li {
            strong { (tag(Tone::Bad, "Refused")) " " span.code { (token) } }
            @match remedy(token) {
                Some(remedy) => { p { "Reason: " (remedy.reason) "." } p { "What to do: " (remedy.action) } },
                None => p { "This version does not know the reason." },
            }
        }
    }
}

fn ending(line: &Value) -> Markup {
    let text = |name: &str| member(line, name);
    let is_answered = text("outcome") == Some("answered");
    html! {
        li {
            strong {
                @match text("outcome") {
                    Some("answered") => (tag(Tone::Good, "Answered")),
                    Some("refused") => "The answer was sent",
                    _ => (tag(Tone::Warn, "Broken off")),
                }
            }
            p {
                @if let Some(status) = number(line, "status") { "Status " (status) }
                @if let Some(bytes) = number(line, "bytes_out").filter(|_| is_answered) { ", body of " (bytes) " bytes" }
                @if !is_answered || text("ended_by") != Some("gateway") {
                    ", ended by " (text("ended_by").unwrap_or("nobody")) " in the phase " (text("ended_in").unwrap_or("unknown"))
                }
            }
            @if let Some(resource) = text("resource") { p { "Resource " (resource) } }
            p { "It took " (milliseconds(number(line, "duration_us").unwrap_or_default())) " in all." }
        }
    }
}

fn phases(begins: u64, line: &Value) -> Markup {
    let rows = html! {
        @for (member, name) in PHASES {
            @if let Some(us) = number(line, member) {
                tr { th scope="row" { (name) } td.number { (us) } }
            }
        }
        tr { th scope="row" { "In all" } td.number { (number(line, "duration_us").unwrap_or_default()) } }
    };
    table(
        &format!("phases-{begins}"),
        &format!("Time spent on exchange {begins}"),
        &["Phase", "#Microseconds"],
        &rows,
    )
}

fn lines(begins: u64, story: &Story) -> Markup {
    let rows = html! {
        @for line in story {
            tr {
                th.number scope="row" { (number(line, "seq").unwrap_or_default()) }
                td { (member(line, "event").unwrap_or_default()) }
                td.code { (member(line, "time").unwrap_or_default()) }
                td.code { (member(line, "chain").unwrap_or_default()) }
            }
        }
    };
    let heading = ["#Number", "Event", "Time", "Chain value"];
    let caption = format!("Lines of exchange {begins} in the journal, as evidence");
    table(&format!("lines-{begins}"), &caption, &heading, &rows)
}

fn member<'a>(line: &'a Value, name: &str) -> Option<&'a str> {
    line.get(name)?.as_str()
}

fn number(line: &Value, name: &str) -> Option<u64> {
    line.get(name)?.as_u64()
}
