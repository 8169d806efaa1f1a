//! Frame of every page, and the parts that pages share.

use jiff::Timestamp;
use maud::{DOCTYPE, Markup, html};

/// Limit: rows of a table; the rest is on further pages.
pub(super) const ROWS_MAX: usize = 200;
/// Limit: characters of a text that is searched for.
const SEARCH_MAX: usize = 200;

/// Pages by their paths, in the order of the navigation.
const PAGES: [(&str, &str); 7] = [
    ("/console", "Overview"),
    ("/console/practices", "Practices"),
    ("/console/consumers", "Consumers"),
    ("/console/directory", "Directory"),
    ("/console/certificates", "Certificates"),
    ("/console/exchanges", "Exchanges"),
    ("/console/trace", "One exchange"),
];

/// Page of the console.
pub(super) struct Page {
    title: &'static str,
    /// Path in the navigation; `None` for a page apart from it.
    path: Option<&'static str>,
    /// True if the page refreshes itself where scripts run.
    is_live: bool,
    content: Markup,
}

impl Page {
    /// Returns a page that shows the present state.
    pub(super) const fn live(title: &'static str, path: &'static str, content: Markup) -> Self {
        Self { title, path: Some(path), is_live: true, content }
    }

    /// Returns a page that does not change.
    pub(super) const fn still(title: &'static str, path: &'static str, content: Markup) -> Self {
        Self { title, path: Some(path), is_live: false, content }
    }

    /// Returns a page without navigation.
    pub(super) const fn apart(title: &'static str, content: Markup) -> Self {
        Self { title, path: None, is_live: false, content }
    }

    /// Returns the page in HTML.
    pub(super) fn render(&self) -> Markup {
        html! {
            (DOCTYPE)
            html lang="en-GB" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { (self.title) " – spine-proxy" }
                    link rel="stylesheet" href="/console/console.css";
                    link rel="icon" href="data:,";
                    @if self.is_live { script src="/console/console.js" defer {} }
                }
                body {
                    a.skip href="#main" { "Skip to main content" }
                    (self.header())
                    @if self.is_live {
                        // Shown by the script, without which nothing updates itself.
                        div.width.updates role="region" aria-label="Updates" hidden {
                            button #updates type="button" { "Pause updates" }
                            span #updates-state {}
                        }
                    }
                    main #main .width tabindex="-1" { (self.content) }
                    footer {
                        div.width {
                            "spine-proxy " (env!("CARGO_PKG_VERSION")) ". Times are in UTC. This page was made at "
                            (time(Timestamp::now())) "."
                        }
                    }
                }
            }
        }
    }

    fn header(&self) -> Markup {
        html! {
            header {
                div.width {
                    p.name { a href="/console" { "spine-proxy " span { "console" } } }
                    @if let Some(current) = self.path {
                        nav.site aria-label="Pages" {
                            ul {
                                @for (path, name) in PAGES {
                                    li { a href=(path) aria-current=[(path == current).then_some("page")] { (name) } }
                                }
                            }
                        }
                    }
                }
                div.notice {
                    div.width { p { "Not an NHS service. This console belongs to the open software spine-proxy." } }
                }
            }
        }
    }
}

/// Returns the page for a path that does not exist.
pub(super) fn not_found() -> Page {
    Page::still(
        "Page not found",
        "",
        html! {
            h1 { "Page not found" }
            p { "There is no such page of the console. Use the links above." }
        },
    )
}

/// Query of a page: what is searched for, and which part of a long table is shown.
#[derive(Debug, Default)]
pub(super) struct PageQuery {
    /// Start of an ODS code, in upper case.
    pub(super) ods: String,
    /// Trace id, or id of an exchange.
    pub(super) id: String,
    /// Kind of entries.
    pub(super) kind: String,
    /// Number of the page, from 1.
    page: usize,
}

impl PageQuery {
    pub(super) fn read(query: Option<&str>) -> Self {
        let mut read = Self { page: 1, ..Self::default() };
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let value: String = value.trim().chars().take(SEARCH_MAX).collect();
            match &*name {
                "ods" => read.ods = value.to_ascii_uppercase(),
                "id" => read.id = value,
                "kind" => read.kind = value,
                "page" => read.page = value.parse().unwrap_or(1).max(1),
                _ => {}
            }
        }
        read
    }

    /// Returns the number of rows before the page.
    pub(super) const fn skip(&self) -> usize {
        self.page.saturating_sub(1).saturating_mul(ROWS_MAX)
    }

    /// Returns the form that searches by the start of an ODS code.
    pub(super) fn search_form(&self, path: &str) -> Markup {
        html! {
            form method="get" action=(path) role="search" {
                @if !self.kind.is_empty() { input type="hidden" name="kind" value=(self.kind); }
                div {
                    label for="ods" { "ODS code" small { "The whole code, or how it begins" } }
                    input #ods name="ods" value=(self.ods) autocomplete="off" spellcheck="false";
                }
                button type="submit" { "Search" }
            }
        }
    }

    /// Returns the links to the pages before and after this one, of a table with so many rows.
    pub(super) fn pager(&self, path: &str, total: usize) -> Markup {
        let last = total.div_ceil(ROWS_MAX).max(1);
        let link = |page: usize| {
            let mut query = form_urlencoded::Serializer::new(String::new());
            for (name, value) in [("ods", &self.ods), ("kind", &self.kind)] {
                if !value.is_empty() {
                    query.append_pair(name, value);
                }
            }
            format!("{path}?{}", query.append_pair("page", &page.to_string()).finish())
        };
        html! {
            @if last > 1 {
                nav.pages aria-label="Parts of the table" {
                    ul {
                        @if self.page > 1 { li { a rel="prev" href=(link((self.page - 1).min(last))) { "Previous part" } } }
                        li { "Part " (self.page) " of " (last) }
                        @if self.page < last { li { a rel="next" href=(link(self.page + 1)) { "Next part" } } }
                    }
                }
            }
        }
    }
}

/// Returns text for a query.
pub(super) fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// Returns a time in UTC.
pub(super) fn time(at: Timestamp) -> Markup {
    let shown = at.strftime("%-d %b %Y %H:%M:%S");
    html! { time datetime=(at.strftime("%Y-%m-%dT%H:%M:%SZ")) { (shown) " UTC" } }
}

/// Returns a time that may be missing.
pub(super) fn time_or(at: Option<Timestamp>, otherwise: &str) -> Markup {
    html! { @match at { Some(at) => (time(at)), None => (otherwise) } }
}

/// Meaning of a [`tag`], by which it is coloured.
#[derive(Debug, Clone, Copy)]
pub(super) enum Tone {
    Good,
    Warn,
    Bad,
}

/// Returns a short text about a state, coloured by its meaning.
pub(super) fn tag(tone: Tone, text: &str) -> Markup {
    html! {
        @match tone {
            Tone::Good => span.tag.good { (text) },
            Tone::Warn => span.tag.warn { (text) },
            Tone::Bad => span.tag.bad { (text) },
        }
    }
}

/// Returns a table that scrolls sideways where it does not fit; `id` is that of its caption.
pub(super) fn table(id: &str, caption: &str, heading: &[&str], rows: &Markup) -> Markup {
    html! {
        div.scroll role="region" aria-labelledby=(id) tabindex="0" {
            table {
                caption #(id) { (caption) }
                thead { tr { @for name in heading { (column(name)) } } }
                tbody { (rows) }
            }
        }
    }
}

/// Returns the heading of a column; one that begins with `#` is of numbers.
fn column(name: &str) -> Markup {
    html! {
        @match name.strip_prefix('#') {
            Some(name) => th.number scope="col" { (name) },
            None => th scope="col" { (name) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_within_its_limits() {
        let query = PageQuery::read(Some("ods=a2%3C&page=3&id=x%22+y&ods"));
        assert_eq!((&*query.ods, &*query.id, query.skip()), ("", "x\" y", 2 * ROWS_MAX));
        assert_eq!(PageQuery::read(Some("ods=a2<")).ods, "A2<");
        for (page, skip) in [("0", 0), ("-1", 0), ("x", 0), ("99999999999999999999", 0)] {
            assert_eq!(PageQuery::read(Some(&format!("page={page}"))).skip(), skip);
        }
        let long = PageQuery::read(Some(&format!("id={}", "é".repeat(10_000))));
        assert_eq!(long.id.chars().count(), SEARCH_MAX);
        assert_eq!(PageQuery::read(Some(&format!("page={}", usize::MAX))).skip(), usize::MAX);
        assert_eq!(PageQuery::read(None).skip(), 0);
    }

    #[test]
    fn a_long_table_has_links_to_its_other_parts() {
        let pager =
            |query: &str, total| PageQuery::read(Some(query)).pager("/p", total).into_string();
        assert_eq!(pager("", ROWS_MAX), "");
        let second = pager("page=2&ods=A%26", 3 * ROWS_MAX);
        assert!(second.contains("href=\"/p?ods=A%26&amp;page=1\""), "{second}");
        assert!(second.contains("href=\"/p?ods=A%26&amp;page=3\""), "{second}");
        assert!(second.contains("Part 2 of 3"));
        let beyond = pager("page=9", 3 * ROWS_MAX);
        assert!(beyond.contains("page=3") && !beyond.contains("Next"), "{beyond}");
    }
}
