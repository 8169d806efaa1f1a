//! Practices with traffic, those with trouble first.

use std::cmp::Reverse;

use maud::{Markup, html};

use super::super::AdminState;
use super::super::views::ProviderView;
use super::page::{Page, PageQuery, ROWS_MAX, Tone, table, tag, time, time_or};
use super::trace_link;
use crate::refusal::remedy;
use crate::traffic::ProviderError;

const PATH: &str = "/console/practices";

/// State of a practice's system, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Health {
    CircuitOpen,
    Failing,
    HasFailed,
    Working,
}

impl Health {
    fn of(view: &ProviderView) -> Self {
        let practice = &view.practice;
        let failed = practice.last_error.as_ref().map(|error| error.time);
        match (view.circuit_open_s, failed) {
            (Some(_), _) => Self::CircuitOpen,
            (None, None) => Self::Working,
            (None, failed) if failed > practice.last_success => Self::Failing,
            (None, Some(_)) => Self::HasFailed,
        }
    }

    fn tag(self) -> Markup {
        match self {
            Self::CircuitOpen => tag(Tone::Bad, "Circuit open"),
            Self::Failing => tag(Tone::Bad, "Failing"),
            Self::HasFailed => tag(Tone::Warn, "Has failed, works again"),
            Self::Working => tag(Tone::Good, "Working"),
        }
    }
}

pub(super) fn page(views: &AdminState, query: &PageQuery) -> Page {
    let mut providers = views.providers();
    providers.retain(|view| view.practice.ods.as_str().starts_with(&query.ods));
    // By code within, since the sort is stable.
    providers.sort_by_key(|view| {
        let failed = view.practice.last_error.as_ref().map(|error| error.time);
        (Health::of(view), Reverse(failed))
    });
    let total = providers.len();
    let part = providers.iter().skip(query.skip()).take(ROWS_MAX);
    let rows = html! {
        @if total == 0 { tr { td colspan="7" { "No practice with traffic." } } }
        @for view in part { (row(view)) }
    };
    let heading = [
        "Practice",
        "State",
        "#Requests",
        "#Failures",
        "#Time taken",
        "Last success",
        "Last failure",
    ];
    let caption =
        format!("Practices with requests since the start, those with trouble first: {total}");
    let content = html! {
        h1 { "Practices" }
        (query.search_form(PATH))
        (table("practices", &caption, &heading, &rows))
        (query.pager(PATH, total))
        p {
            "A circuit opens after failures in a row: requests are then refused for some seconds without asking the \
             practice's system. Times taken are of the last five to ten minutes, rounded up to a power of two: half of \
             the answers (p50), and nine tenths of them (p90), took no longer."
        }
    };
    Page::live("Practices", PATH, content)
}

fn row(view: &ProviderView) -> Markup {
    let practice = &view.practice;
    html! {
        tr {
            th scope="row" {
                (practice.ods)
                @if let Some(asid) = &practice.asid { small { "ASID " (asid) } }
            }
            td {
                (Health::of(view).tag())
                @if let Some(seconds) = view.circuit_open_s { small { "for " (seconds) " s" } }
            }
            td.number { (practice.requests) }
            td.number { (practice.failures) }
            td.number {
                @match (practice.p50_ms, practice.p90_ms) {
                    (Some(p50), Some(p90)) => { "p50 " (p50) " ms" small { "p90 " (p90) " ms" } },
                    _ => "none",
                }
            }
            td { (time_or(practice.last_success, "none")) }
            td.words {
                @match &practice.last_error {
                    Some(error) => (last_error(error)),
                    None => "none",
                }
            }
        }
    }
}

fn last_error(error: &ProviderError) -> Markup {
    html! {
        (time(error.time))
        @if let Some(status) = error.status { ", status " (status) }
        @if let Some(token) = error.refusal { ", " span.code { (token) } }
        @match (&error.cause, error.refusal.and_then(remedy)) {
            (Some(cause), _) => small { (cause) },
            (None, Some(remedy)) => small { (remedy.reason) },
            (None, None) => {},
        }
        small { "Trace id " (trace_link(error.trace_id.as_deref())) }
    }
}
