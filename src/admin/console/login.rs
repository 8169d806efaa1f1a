//! Log-in of operators with the admin token, through a form.

use http::header::{self, HeaderMap};
use maud::html;

use super::page::Page;

/// Returns the token that a form holds, or nothing.
pub(super) fn token(form: &[u8]) -> String {
    let field = form_urlencoded::parse(form).find(|(name, _)| name == "token");
    field.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}

/// Returns true unless a browser says that another site sent the form.
pub(super) fn is_own_form(headers: &HeaderMap) -> bool {
    let value = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    if let Some(site) = value("sec-fetch-site") {
        return matches!(site, "same-origin" | "none");
    }
    let (origin, host) = (value(header::ORIGIN.as_str()), value(header::HOST.as_str()));
    origin.is_none_or(|origin| {
        // A proxy of the operators' own may speak HTTPS to the browser.
        let named = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        named.is_some() && named == host
    })
}

/// Returns true if a page of another site asks for a part of itself, such as a frame, which costs searches and
/// streams although it cannot read the answer. Links from other sites are followed.
pub(super) fn is_part_of_another_site(headers: &HeaderMap) -> bool {
    let is = |name: &str, value: &str| headers.get(name).is_some_and(|sent| sent == value);
    let is_other = is("sec-fetch-site", "cross-site") || is("sec-fetch-site", "same-site");
    let is_framed = headers.contains_key("sec-fetch-dest") && !is("sec-fetch-dest", "document");
    is_other && (is_framed || !is("sec-fetch-mode", "navigate"))
}

/// Returns the page with the form.
pub(super) fn page(error: Option<&'static str>) -> Page {
    let title = if error.is_some() { "Error: log in" } else { "Log in" };
    Page::apart(
        title,
        html! {
            h1 { "Log in" }
            @if let Some(error) = error { p.error #token-error role="alert" { (error) } }
            form method="post" action="/console/login" {
                div {
                    label for="token" {
                        "Admin token"
                        small { "It is in the file that admin.token-file names." }
                    }
                    input #token name="token" type="password" autocomplete="current-password" required
                        aria-describedby=[error.map(|_| "token-error")];
                }
                button type="submit" { "Log in" }
            }
        },
    )
}

/// Returns the page for a console that nobody may see.
pub(super) fn closed(why: &'static str) -> Page {
    Page::apart(
        "The console is closed",
        html! {
            h1 { "The console is closed" }
            p { "The reason: " (why) "." }
            p {
                "Other machines reach this port, so the console needs a token: name its file in "
                span.code { "admin.token-file" } " and restart."
            }
        },
    )
}

/// Returns the page for an operator who needs no log-in.
pub(super) fn already_in() -> Page {
    Page::apart(
        "Logged in",
        html! {
            h1 { "Logged in" }
            p { a href="/console" { "Go to the overview" } }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_of_another_site_is_refused() {
        for (headers, is_own) in [
            (&[][..], true),
            (&[("sec-fetch-site", "same-origin")], true),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("sec-fetch-site", "same-site"), ("origin", "http://a:1"), ("host", "a:1")], false),
            (&[("origin", "http://127.0.0.1:9090"), ("host", "127.0.0.1:9090")], true),
            (&[("origin", "http://127.0.0.1:9091"), ("host", "127.0.0.1:9090")], false),
            (&[("origin", "https://ops.example.nhs.uk"), ("host", "ops.example.nhs.uk")], true),
            (&[("origin", "null"), ("host", "127.0.0.1:9090")], false),
            (&[("origin", "http://other.example.test")], false),
        ] {
            let map = headers.iter().map(|(name, value)| {
                (header::HeaderName::from_static(name), header::HeaderValue::from_static(value))
            });
            assert_eq!(is_own_form(&HeaderMap::from_iter(map)), is_own, "{headers:?}");
        }
    }

    #[test]
    fn a_forms_token_is_decoded() {
        assert_eq!(token(b"other=1&token=a%2Bb+c%26"), "a+b c&");
        assert_eq!(token(b"tok=1"), "");
        assert_eq!(token(b"token=%ff%zz"), "\u{fffd}%zz");
    }
}
