//! Consumers with traffic.

use jiff::Timestamp;
use maud::{Markup, html};

use super::super::AdminState;
use super::certificates::days;
use super::page::{Page, PageQuery, ROWS_MAX, table, time, time_or};
use crate::traffic::{CertificateView, ConsumerView};

const PATH: &str = "/console/consumers";

pub(super) fn page(views: &AdminState, query: &PageQuery) -> Page {
    let consumers = views.consumers();
    let total = consumers.len();
    let rows = html! {
        @if total == 0 { tr { td colspan="7" { "No consumer with traffic." } } }
        @for consumer in consumers.iter().skip(query.skip()).take(ROWS_MAX) { (row(consumer)) }
    };
    let heading = [
        "Consumer",
        "#Requests",
        "#A minute",
        "Quota left",
        "Refusals",
        "Certificate",
        "Last request",
    ];
    let caption = format!("Consumers with requests since the start: {total}");
    let content = html! {
        h1 { "Consumers" }
        (table("consumers", &caption, &heading, &rows))
        (query.pager(PATH, total))
    };
    Page::live("Consumers", PATH, content)
}

fn row(consumer: &ConsumerView) -> Markup {
    html! {
        tr {
            th scope="row" { (consumer.asid) }
            td.number { (consumer.requests) }
            td.number { (consumer.per_minute) }
            td {
                @match consumer.quota {
                    Some((limit, left)) => { (left) " of " (limit) },
                    None => "none measured",
                }
            }
            td {
                @if consumer.refusals.is_empty() { "none" }
                @for (token, count) in &consumer.refusals {
                    div.nowrap { span.code { (token) } ": " (count) }
                }
            }
            td {
                @match &consumer.certificate {
                    Some(certificate) => (shown(certificate)),
                    None => "none",
                }
            }
            td { (time_or(consumer.last, "none")) }
        }
    }
}

fn shown(certificate: &CertificateView) -> Markup {
    let ends = Timestamp::from_second(certificate.not_after_s).unwrap_or(Timestamp::MAX);
    html! {
        (certificate.name.as_deref().unwrap_or("without a name"))
        small { "ends " (time(ends)) }
        (days(ends, false))
    }
}
