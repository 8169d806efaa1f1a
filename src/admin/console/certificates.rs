//! Certificates and revocation lists that were loaded from files, those that end first first.

use jiff::Timestamp;
use maud::{Markup, html};

use super::super::AdminState;
use super::page::{Page, PageQuery, ROWS_MAX, Tone, table, tag, time};

const PATH: &str = "/console/certificates";
const DAY_S: i64 = 24 * 60 * 60;
/// Days before the end of a certificate from which on it is marked.
const SOON_DAYS: i64 = 14;

pub(super) fn page(views: &AdminState, query: &PageQuery) -> Page {
    let expiries = views.expiries();
    let total = expiries.len();
    let rows = html! {
        @if expiries.is_empty() { tr { td colspan="4" { "No certificate has been loaded." } } }
        @for expiry in expiries.iter().skip(query.skip()).take(ROWS_MAX) {
            @let is_list = expiry.used_as.ends_with("_crl");
            tr {
                th scope="row" { (name(expiry.used_as)) }
                td.words { (expiry.file.display()) }
                td { (days(expiry.ends, is_list)) }
                td { (time(expiry.ends)) }
            }
        }
    };
    let heading = ["Use", "File", "Time left", "Ends, or next list due"];
    let caption = format!("In use, by the time of their end: {total}");
    let content = html! {
        h1 { "Certificates and revocation lists" }
        (table("certificates", &caption, &heading, &rows))
        (query.pager(PATH, total))
        p {
            "A list that is overdue is replaced by a newer one in its file or folder: it is noticed within a second. \
             Certificates of the gateway, authorities and lists are loaded again without a restart."
        }
    };
    Page::live("Certificates and revocation lists", PATH, content)
}

/// Returns the time that is left, with a word for what has passed or passes soon.
pub(super) fn days(ends: Timestamp, is_list: bool) -> Markup {
    let left_s = ends.as_second() - Timestamp::now().as_second();
    let (left, late) = (left_s.div_euclid(DAY_S), (-left_s).div_euclid(DAY_S));
    let many = |days: i64| if days == 1 { "1 day".to_owned() } else { format!("{days} days") };
    match (left_s <= 0, is_list) {
        (true, true) => tag(Tone::Bad, &format!("Overdue by {}", many(late))),
        (true, false) => tag(Tone::Bad, &format!("Expired {} ago", many(late))),
        // Lists are short-lived: theirs is not marked before it has passed.
        (false, false) if left < SOON_DAYS => {
            tag(Tone::Warn, &format!("Ends soon: {} left", many(left)))
        }
        (false, _) => html! { (many(left)) " left" },
    }
}

fn name(used_as: &'static str) -> &'static str {
    match used_as {
        "server" => "Our certificate towards consumers",
        "client" => "Our certificate towards practices",
        "authority" => "Authority",
        "client_crl" => "Revocation list for consumers",
        "provider_crl" => "Revocation list for practices",
        "directory" => "Our certificate towards the directory",
        "directory_crl" => "Revocation list for the directory",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_said_in_words() {
        let shown = |after_s, is_list| {
            let ends = Timestamp::now() + jiff::SignedDuration::from_secs(after_s);
            days(ends, is_list).into_string()
        };
        assert_eq!(shown(20 * DAY_S + 60, false), "20 days left");
        assert!(shown(DAY_S + 60, false).contains("Ends soon: 1 day left"));
        assert_eq!(shown(DAY_S + 60, true), "1 day left");
        assert!(shown(-DAY_S - 60, false).contains("Expired 1 day ago"));
        assert!(shown(-60, true).contains("Overdue by 0 days"));
    }

    #[test]
    fn every_use_has_a_name() {
        use crate::tls::CertificateUse as Use;
        for used_as in [
            Use::Server,
            Use::Client,
            Use::Authority,
            Use::ClientCrl,
            Use::ProviderCrl,
            Use::Directory,
            Use::DirectoryCrl,
        ] {
            assert_ne!(name(used_as.label()), used_as.label());
        }
    }
}
