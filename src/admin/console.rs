//! Console for operators: read-only pages in HTML about the state, the traffic and single exchanges.
//!
//! Every text is escaped by the templates. Nothing on a page is a token, a target, a query or a body, and of a
//! token's claims only the organisation is shown.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use maud::Markup;
use tokio::sync::Semaphore;

use super::AdminState;
use super::answers::{AdminResponse, bearer, is_same, text, whole};

mod certificates;
mod consumers;
mod directory;
mod events;
mod exchanges;
mod login;
mod overview;
mod page;
mod practices;
mod session;
mod spark;
mod trace;

use page::{Page, PageQuery};
use session::Sessions;

/// Limit: searches of the journal under way at the same time.
pub(super) const SEARCHES_MAX: usize = 2;
/// Limit: streams of events that are open at the same time, of the 64 connections of the port.
const STREAMS_MAX: usize = 4;
/// Limit: log-ins that are compared at the same time; a wrong one takes [`WRONG_TOKEN_WAIT`].
const LOGINS_MAX: usize = 2;
/// Time after which a wrong token is answered.
const WRONG_TOKEN_WAIT: Duration = Duration::from_secs(1);
/// Limit: bytes of the form with which an operator logs in.
const FORM_BYTES_MAX: usize = 4 * 1024;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &[u8] = include_bytes!("console/assets/console.css");
const SCRIPT: &[u8] = include_bytes!("console/assets/console.js");

/// Headers of every answer of the console.
///
/// Security: the pages hold no inline script and no inline style, are never framed, and send nothing elsewhere.
/// The referrer stays within the port: with `no-referrer` a browser would send the form with `Origin: null`.
const HEADERS: [(header::HeaderName, &str); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; \
         form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    (header::REFERRER_POLICY, "same-origin"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// State of the console: who is logged in, and how much of it is in use.
#[derive(Debug)]
pub(super) struct Console {
    /// True if only this machine reaches the port; the pages then need no log-in unless a token is set.
    is_loopback: bool,
    sessions: Sessions,
    logins: Semaphore,
    streams: Arc<Semaphore>,
    searches: Arc<Semaphore>,
}

/// Answer to whether a request may see the console.
enum Access {
    Granted,
    /// The request must show the token first.
    LoginNeeded,
    /// The console is closed to everybody, for this reason.
    Closed(&'static str),
}

/// Returns true for a path of the console.
pub(super) fn is_console(path: &str) -> bool {
    path.strip_prefix("/console").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Console {
    pub(super) fn new(is_loopback: bool) -> Self {
        Self {
            is_loopback,
            sessions: Sessions::default(),
            logins: Semaphore::new(LOGINS_MAX),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            searches: Arc::new(Semaphore::new(SEARCHES_MAX)),
        }
    }

    /// Answers a request; `shown` becomes true if it has shown the token or a session.
    pub(super) async fn answer(
        &self,
        views: &AdminState,
        shown: &AtomicBool,
        request: Request<Incoming>,
    ) -> AdminResponse {
        let (head, body) = request.into_parts();
        let mut answer = match (&head.method, head.uri.path()) {
            (&Method::GET | &Method::HEAD, "/console/console.css") => {
                whole(StatusCode::OK, CSS, "text/css; charset=utf-8")
            }
            (&Method::GET | &Method::HEAD, "/console/console.js") => {
                whole(StatusCode::OK, SCRIPT, "text/javascript; charset=utf-8")
            }
            (&Method::POST, "/console/login") => self.log_in(views, &head, body).await,
            (&Method::GET | &Method::HEAD, _) => self.page(views, shown, &head).await,
            _ => text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n"),
        };
        for (name, value) in HEADERS {
            answer.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        answer
    }

    async fn page(&self, views: &AdminState, shown: &AtomicBool, head: &Parts) -> AdminResponse {
        if login::is_part_of_another_site(&head.headers) {
            return text(StatusCode::FORBIDDEN, "refused: asked for by a page of another site\n");
        }
        match self.access(views, &head.headers).await {
            Access::Granted => shown.store(true, Ordering::Relaxed),
            Access::LoginNeeded => return html(StatusCode::FORBIDDEN, &login::page(None)),
            Access::Closed(why) => return html(StatusCode::FORBIDDEN, &login::closed(why)),
        }
        let query = PageQuery::read(head.uri.query());
        let page = match head.uri.path() {
            "/console" | "/console/" => overview::page(views),
            "/console/practices" => practices::page(views, &query),
            "/console/consumers" => consumers::page(views, &query),
            "/console/directory" => directory::page(views, &query),
            "/console/certificates" => certificates::page(views, &query),
            "/console/exchanges" => exchanges::page(views),
            "/console/trace" => trace::page(views, &self.searches, &query).await,
            "/console/events" => return events::stream(&self.streams),
            "/console/login" => login::already_in(),
            _ => return html(StatusCode::NOT_FOUND, &page::not_found()),
        };
        html(StatusCode::OK, &page)
    }

    /// Decides whether a request may see the pages.
    async fn access(&self, views: &AdminState, headers: &HeaderMap) -> Access {
        let token = match views.admin_token().await {
            Ok(Some(token)) => token,
            Ok(None) if self.is_loopback => return Access::Granted,
            Ok(None) => return Access::Closed("admin.token-file is not set"),
            Err(_) => {
                return Access::Closed("the file of the admin token cannot be used; see the log");
            }
        };
        let is_in = is_same(bearer(headers), &token)
            || self.sessions.is_open(headers, &token, Instant::now());
        if is_in { Access::Granted } else { Access::LoginNeeded }
    }

    /// Compares the token of the form, and begins a session if it is right.
    async fn log_in(&self, views: &AdminState, head: &Parts, body: Incoming) -> AdminResponse {
        if !login::is_own_form(&head.headers) {
            return text(StatusCode::FORBIDDEN, "refused: the form is not one of this port\n");
        }
        let Ok(body) = Limited::new(body, FORM_BYTES_MAX).collect().await else {
            return text(StatusCode::PAYLOAD_TOO_LARGE, "refused: the form is too long\n");
        };
        let sent = login::token(&body.to_bytes());
        let Ok(_login) = self.logins.try_acquire() else {
            let page = login::page(Some("Somebody else is logging in. Try again in a moment."));
            return html(StatusCode::SERVICE_UNAVAILABLE, &page);
        };
        let token = match views.admin_token().await {
            Ok(Some(token)) => token,
            Ok(None) => {
                return html(StatusCode::FORBIDDEN, &login::closed("admin.token-file is not set"));
            }
            Err(_) => {
                let why = "the file of the admin token cannot be used; see the log";
                return html(StatusCode::FORBIDDEN, &login::closed(why));
            }
        };
        if !is_same(&sent, &token) {
            tracing::warn!("somebody has tried to log in to the console with a wrong token");
            tokio::time::sleep(WRONG_TOKEN_WAIT).await;
            return html(StatusCode::FORBIDDEN, &login::page(Some("The token is not right.")));
        }
        let Some(cookie) = self.sessions.begin(&token, Instant::now()) else {
            return text(StatusCode::INTERNAL_SERVER_ERROR, "no random numbers\n");
        };
        tracing::info!("an operator has logged in to the console");
        let mut answer = text(StatusCode::SEE_OTHER, "");
        answer.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/console"));
        answer.headers_mut().insert(header::SET_COOKIE, cookie);
        answer
    }
}

fn html(status: StatusCode, page: &Page) -> AdminResponse {
    whole(status, page.render().into_string(), HTML)
}

/// Returns a link to the story of a trace id, or a dash without one.
fn trace_link(trace_id: Option<&str>) -> Markup {
    maud::html! {
        @match trace_id {
            Some(id) => a.code href={ "/console/trace?id=" (page::encoded(id)) } { (id) },
            None => span { "none" },
        }
    }
}
