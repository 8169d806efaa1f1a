//! The directory: entries of the file and of the cache, and the live sources.

use maud::{Markup, html};

use super::super::AdminState;
use super::page::{Page, PageQuery, ROWS_MAX, Tone, table, tag};
use crate::directory::{DirectoryEntry, SourcesView};

const PATH: &str = "/console/directory";
/// Kind of entries that is shown instead of practices.
const CONSUMERS: &str = "consumers";

pub(super) fn page(views: &AdminState, query: &PageQuery) -> Page {
    let directory = &views.directory;
    let is_consumers = query.kind == CONSUMERS;
    let part = match is_consumers {
        true => directory.consumer_entries(&query.ods, query.skip(), ROWS_MAX),
        false => directory.practice_entries(&query.ods, query.skip(), ROWS_MAX),
    };
    let (what, known_by) = match is_consumers {
        true => ("Consumers", "Certificate names"),
        false => ("Practices", "Service root"),
    };
    let rows = html! {
        @if part.entries.is_empty() { tr { td colspan="7" { "No entry." } } }
        @for entry in &part.entries { (row(entry)) }
    };
    let heading = ["ODS code", "ASID", known_by, "#Interactions", "Source", "Age", "State"];
    let caption = format!("{what} in the file and in the cache: {}", part.total);
    let content = html! {
        h1 { "Directory" }
        (sources(&directory.sources_view()))
        nav.pages aria-label="Kinds of entries" {
            ul {
                li { a href=(PATH) aria-current=[(!is_consumers).then_some("true")] { "Practices" } }
                li { a href={ (PATH) "?kind=" (CONSUMERS) } aria-current=[is_consumers.then_some("true")] { "Consumers" } }
            }
        }
        (query.search_form(PATH))
        (table("entries", &caption, &heading, &rows))
        (query.pager(PATH, part.total))
    };
    Page::live("Directory", PATH, content)
}

fn sources(view: &SourcesView) -> Markup {
    let rows = html! {
        @for source in &view.sources {
            tr {
                th scope="row" { (source.source) }
                td {
                    @if source.circuit_open { (tag(Tone::Bad, "Circuit open: not queried for now")) }
                    @else { (tag(Tone::Good, "Queried")) }
                }
            }
        }
    };
    html! {
        @if view.sources.is_empty() {
            p { "There is no live source: the directory is the file alone." }
        } @else {
            (table("sources", "Live sources, in the order in which they are asked", &["Source", "State"], &rows))
            p { "Look-ups under way: " (view.looking_up) }
        }
    }
}

fn row(entry: &DirectoryEntry) -> Markup {
    html! {
        tr {
            th scope="row" { (entry.ods) }
            td { (entry.asid) }
            td.words { (entry.known_by) }
            td.number { @match entry.interactions { Some(count) => (count), None => "not known" } }
            td { (entry.source) }
            td.nowrap { @match entry.age_s { Some(age_s) => (age(age_s)), None => "of the last load" } }
            td { (state(entry.state)) }
        }
    }
}

fn age(age_s: i64) -> String {
    match age_s {
        ..120 => format!("{age_s} s"),
        120..7_200 => format!("{} min", age_s / 60),
        _ => format!("{} h", age_s / 3_600),
    }
}

fn state(state: &'static str) -> Markup {
    match state {
        "in force" | "fresh" | "cached" => tag(Tone::Good, state),
        "denied" | "dead" => tag(Tone::Bad, state),
        _ => tag(Tone::Warn, state),
    }
}
