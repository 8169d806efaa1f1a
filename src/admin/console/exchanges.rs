//! Last exchanges, and last refusals with their reasons and what to do about them.

use std::sync::Arc;

use maud::{Markup, html};

use super::super::AdminState;
use super::page::{Page, Tone, table, tag, time};
use super::trace_link;
use crate::metrics::ExchangeOutcome;
use crate::refusal::remedy;
use crate::traffic::ExchangeSummary;

const PATH: &str = "/console/exchanges";

pub(super) fn page(views: &AdminState) -> Page {
    let last = views.last_exchanges();
    let content = html! {
        h1 { "Last exchanges and refusals" }
        p { "The last 100 of each kind since the start, the newest first. The journal has them all." }
        (refusals("refusals", "Refusals of consumers", &last.refusals))
        (refusals("others", "Refusals of callers that were not identified", &last.unidentified))
        (exchanges(&last.exchanges))
    };
    Page::live("Last exchanges and refusals", PATH, content)
}

fn refusals(id: &str, caption: &str, of: &[Arc<ExchangeSummary>]) -> Markup {
    let rows = html! {
        @if of.is_empty() { tr { td colspan="5" { "None." } } }
        @for exchange in of {
            @let remedy = exchange.refusal.and_then(remedy);
            tr {
                th scope="row" { (time(exchange.time)) small { (trace_link(exchange.trace_id.as_deref())) } }
                td.nowrap { (parties(exchange)) }
                td { (request(exchange)) }
                td.words {
                    @if let Some(remedy) = remedy { (remedy.reason) }
                    small { span.code { (exchange.refusal.unwrap_or_default()) } @if let Some(status) = exchange.status { ", status " (status) } }
                    @if let Some(cause) = &exchange.cause { small { (cause) } }
                }
                td.words { @if let Some(remedy) = remedy { (remedy.action) } }
            }
        }
    };
    table(
        id,
        caption,
        &["Time and trace id", "From and to", "Request", "Reason", "What to do"],
        &rows,
    )
}

fn exchanges(of: &[Arc<ExchangeSummary>]) -> Markup {
    let rows = html! {
        @if of.is_empty() { tr { td colspan="5" { "None." } } }
        @for exchange in of {
            tr {
                th scope="row" { (time(exchange.time)) small { (trace_link(exchange.trace_id.as_deref())) } }
                td.nowrap { (parties(exchange)) }
                td { (request(exchange)) }
                td.words {
                    @match (exchange.has_failed, exchange.outcome) {
                        (true, _) => (tag(Tone::Bad, "Practice's system failed")),
                        (false, ExchangeOutcome::Aborted) => (tag(Tone::Warn, "Broken off")),
                        (false, ExchangeOutcome::Answered | ExchangeOutcome::Refused) => (tag(Tone::Good, "Answered")),
                    }
                    @if let Some(status) = exchange.status { small { "status " (status) } }
                    @if let Some(cause) = &exchange.cause { small { (cause) } }
                }
                td.number { (milliseconds(exchange.duration_us)) }
            }
        }
    };
    let heading = ["Time and trace id", "From and to", "Request", "Outcome", "#Took"];
    table("exchanges", "Exchanges that were forwarded", &heading, &rows)
}

fn parties(exchange: &ExchangeSummary) -> Markup {
    html! {
        @match &exchange.from {
            Some(from) => {
                "from " (from)
                @if !exchange.is_identified() { small { "as the caller says" } }
            },
            None => "from an unknown caller",
        }
        @if exchange.ods.is_some() || exchange.to.is_some() {
            small { "to " @if let Some(ods) = &exchange.ods { (ods) " " } @if let Some(to) = &exchange.to { (to) } }
        }
    }
}

fn request(exchange: &ExchangeSummary) -> Markup {
    html! {
        (exchange.method)
        small { @match exchange.interaction { Some(interaction) => (interaction.short_id()), None => "interaction not known" } }
    }
}

/// Returns microseconds as milliseconds with one decimal.
pub(super) fn milliseconds(us: u64) -> String {
    format!("{}.{} ms", us / 1000, us % 1000 / 100)
}
