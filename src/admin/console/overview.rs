//! First page: whether the gateway is ready, and the traffic of the last hour.

use std::collections::BTreeSet;

use jiff::Timestamp;
use maud::{Markup, html};

use super::super::AdminState;
use super::super::readiness::Readiness;
use super::page::{Page, table};
use super::spark::LastHour;
use crate::refusal::remedy;
use crate::traffic::MinuteCounts;

/// Limit: alarms that the page shows, of which each overdue list is one.
const ALARMS_MAX: usize = 50;

pub(super) fn page(views: &AdminState) -> Page {
    let readiness = views.readiness();
    let minutes = views.trail.traffic().minutes();
    let content = html! {
        h1 { "Overview" }
        (state(&readiness))
        (facts(views))
        h2 { "The last hour" }
        (requests(&minutes))
        (refusals(&minutes))
        h2 { "Facts" }
        ul { @for note in &readiness.notes { li { (note) } } }
    };
    Page::live("Overview", "/console", content)
}

fn state(readiness: &Readiness) -> Markup {
    html! {
        @if readiness.is_ready() {
            div.panel.good {
                h2 { "Ready" }
                p { "Requests are accepted and the journal can be written." }
            }
        } @else {
            div.panel.bad {
                h2 { "Not ready" }
                ul {
                    @for (name, reason) in readiness.checks {
                        @if let Some(reason) = reason { li { (name) ": " (reason) } }
                    }
                }
            }
        }
        @if readiness.alarms.is_empty() {
            p { "There are no alarms." }
        } @else {
            div.panel.bad {
                h2 { "Alarms: " (readiness.alarms.len()) }
                ul { @for alarm in readiness.alarms.iter().take(ALARMS_MAX) { li { (alarm) } } }
                @if readiness.alarms.len() > ALARMS_MAX { p { "The others are in " span.code { "/readyz" } "." } }
            }
        }
    }
}

fn facts(views: &AdminState) -> Markup {
    let live = views.live.load();
    let metrics = &views.metrics;
    let shedding = match live.throttle.shedding().number() {
        0 => "none",
        1 => "reads above a fair share",
        2 => "all reads",
        _ => "all requests",
    };
    html! {
        dl.facts {
            div { dt { "Requests under way" } dd { (metrics.in_flight.get()) } }
            div { dt { "Consumer connections" } dd { (metrics.connections.get()) } }
            div { dt { "Waiting for a practice" } dd { (metrics.provider_waiting.get()) } }
            div { dt { "Requests refused because of load" } dd { (shedding) } }
            div { dt { "Open circuits of practices" } dd { (live.throttle.open_circuits().len()) } }
            div { dt { "Version" } dd { (env!("CARGO_PKG_VERSION")) } }
        }
    }
}

fn requests(minutes: &[MinuteCounts]) -> Markup {
    let now_s = Timestamp::now().as_second();
    let names: BTreeSet<_> = minutes.iter().flat_map(|minute| minute.interactions.keys()).collect();
    let row = |name: &str, hour: &LastHour| {
        html! {
            tr {
                th scope="row" { (name) }
                td.number { (hour.last_five()) }
                td.number { (hour.sum()) }
                td.number { (hour.most()) }
                td { (hour.chart(name)) }
            }
        }
    };
    let of = |name| LastHour::of(minutes, now_s, |minute| count(minute.interactions.get(name)));
    let broken = LastHour::of(minutes, now_s, |minute| minute.aborted);
    let rows = html! {
        @if names.is_empty() { tr { td colspan="5" { "No requests." } } }
        @for name in names { (row(name, &of(*name))) }
        @if broken.sum() > 0 { (row("Broken off", &broken)) }
    };
    let heading =
        ["Interaction", "#Last 5 minutes", "#Last hour", "#Most in a minute", "By minute"];
    table("requests", "Requests by interaction", &heading, &rows)
}

fn refusals(minutes: &[MinuteCounts]) -> Markup {
    let now_s = Timestamp::now().as_second();
    let tokens: BTreeSet<_> = minutes.iter().flat_map(|minute| minute.refusals.keys()).collect();
    let of = |token| LastHour::of(minutes, now_s, |minute| count(minute.refusals.get(token)));
    let mut hours: Vec<_> = tokens.into_iter().map(|token| (*token, of(*token))).collect();
    hours.sort_by_key(|(_, hour)| std::cmp::Reverse(hour.sum()));
    let rows = html! {
        @if hours.is_empty() { tr { td colspan="6" { "No refusals." } } }
        @for (token, hour) in hours {
            tr {
                th.code scope="row" { (token) }
                td.words { @if let Some(remedy) = remedy(token) { (remedy.reason) } }
                td.number { (hour.last_five()) }
                td.number { (hour.sum()) }
                td.number { (hour.most()) }
                td { (hour.chart(token)) }
            }
        }
    };
    let heading =
        ["Reason", "In words", "#Last 5 minutes", "#Last hour", "#Most in a minute", "By minute"];
    table("refusals", "Refusals by reason", &heading, &rows)
}

fn count(held: Option<&u32>) -> u32 {
    held.copied().unwrap_or_default()
}
