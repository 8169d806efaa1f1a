//! Requests to the admin port, and their answers.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use audit_journal::FlushError;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::console::{self, Console};
use super::{AdminState, FLUSH_MAX, PART_BYTES, token};
use crate::audit::NOT_WRITTEN;
use crate::metrics::OPEN_METRICS_FORMAT;
use spine_types::OdsCode;

pub(super) type AdminResponse = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Handler of one connection's request.
#[derive(Debug, Clone)]
pub(super) struct AdminRequest {
    views: Arc<AdminState>,
    readers: Arc<Semaphore>,
    console: Arc<Console>,
    shown: Arc<AtomicBool>,
}

/// Paths whose answers need no token.
const OPEN: [&str; 4] = ["/livez", "/readyz", "/metrics", "/reload"];
/// Paths that are read with the token.
const READ: [&str; 6] =
    ["/directory", "/providers", "/consumers", "/exchanges", "/certificates", "/config"];
/// Paths that are posted to, with the token.
const POSTED: [&str; 3] = ["/audit/flush", "/directory/flush", "/log"];

impl AdminRequest {
    /// Creates the handler of a connection; `shown` becomes true once its request has shown the token.
    pub(super) const fn new(
        views: Arc<AdminState>,
        readers: Arc<Semaphore>,
        console: Arc<Console>,
        shown: Arc<AtomicBool>,
    ) -> Self {
        Self { views, readers, console, shown }
    }

    /// Answers a request.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> AdminResponse {
        if let Err(why) = self.views.check_host(&request) {
            return text(StatusCode::MISDIRECTED_REQUEST, why);
        }
        match console::is_console(request.uri().path()) {
            true => self.console.answer(&self.views, &self.shown, request).await,
            false => self.answer_machine(&request).await,
        }
    }

    /// Answers a request for anything but the console.
    async fn answer_machine(&self, request: &Request<Incoming>) -> AdminResponse {
        let path = request.uri().path();
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let posts = request.method() == Method::POST;
        if reads && OPEN.contains(&path) {
            return self.open(path, request);
        }
        let is_ours = (reads && READ.contains(&path)) || (posts && POSTED.contains(&path));
        if !is_ours {
            return unserved(path);
        }
        if let Err(why) = self.check_token(request).await {
            return text(StatusCode::FORBIDDEN, why);
        }
        match path {
            "/audit/flush" => self.views.flush_journal().await,
            _ if posts => self.post(path, request),
            _ => self.read(path),
        }
    }

    fn open(&self, path: &str, request: &Request<Incoming>) -> AdminResponse {
        match path {
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/readyz" => {
                let (status, ready) = self.views.readiness().answer();
                text(status, ready)
            }
            "/reload" => json(&self.views.reloads.status()),
            _ => {
                let is_open = accepts_open_metrics(request.headers());
                let (metrics, kind) = self.views.metrics(is_open);
                let mut response = match accepts_gzip(request.headers()) {
                    true => zipped(&metrics, kind),
                    false => whole(StatusCode::OK, metrics, kind),
                };
                let vary = HeaderValue::from_static("accept, accept-encoding");
                response.headers_mut().insert(header::VARY, vary);
                response
            }
        }
    }

    fn read(&self, path: &str) -> AdminResponse {
        let Ok(reader) = Arc::clone(&self.readers).try_acquire_owned() else {
            return text(
                StatusCode::SERVICE_UNAVAILABLE,
                "another client is reading from this port: try again later\n",
            );
        };
        match path {
            "/directory" => self.held(reader),
            "/providers" => json(&self.views.providers()),
            "/consumers" => json(&self.views.consumers()),
            "/exchanges" => json(&self.views.last_exchanges()),
            "/config" => whole(StatusCode::OK, self.views.config.load().to_string(), JSON),
            _ => json(&self.views.expiries()),
        }
    }

    fn post(&self, path: &str, request: &Request<Incoming>) -> AdminResponse {
        let (status, said) = match path {
            "/log" => self.views.set_log_level(request),
            _ => self.views.flush(request),
        };
        text(status, said)
    }

    /// Builds the answer of `/directory`: the whole cache, written chunk by chunk as the client reads it.
    fn held(&self, reader: OwnedSemaphorePermit) -> AdminResponse {
        let mut rows = self.views.directory.cache_json();
        let parts = std::iter::from_fn(move || {
            let _reader = &reader;
            let mut part = String::with_capacity(PART_BYTES * 2);
            while part.len() < PART_BYTES
                && let Some(row) = rows.next()
            {
                part.push_str(&row);
            }
            (!part.is_empty()).then(|| Ok(Frame::data(Bytes::from(part))))
        });
        let body = StreamBody::new(stream::iter(parts)).boxed_unsync();
        response(StatusCode::OK, body, JSON)
    }

    async fn check_token(&self, request: &Request<Incoming>) -> Result<(), &'static str> {
        let token = self.views.admin_token().await?;
        let token = token.ok_or("refused: admin.token-file is not set\n")?;
        if !is_same(bearer(request.headers()), &token) {
            return Err("refused: the admin token is missing or wrong\n");
        }
        self.shown.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// Returns the token that a request shows as `Authorization: Bearer`, or nothing.
pub(super) fn bearer(headers: &HeaderMap) -> &str {
    let sent = headers.get(header::AUTHORIZATION).and_then(|sent| sent.to_str().ok());
    sent.and_then(|sent| sent.strip_prefix("Bearer ")).unwrap_or_default()
}

/// Compares two secrets.
///
/// Security: the comparison takes constant time and does not reveal where the two differ.
pub(super) fn is_same(one: &str, other: &str) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(one.as_bytes(), other.as_bytes()).is_ok()
}

/// Answers a request for a path that there is not, or not with this method.
fn unserved(path: &str) -> AdminResponse {
    let allowed = match path {
        _ if OPEN.contains(&path) || READ.contains(&path) => "GET, HEAD",
        _ if POSTED.contains(&path) => "POST",
        _ => {
            let paths = OPEN.iter().chain(&READ).chain(&POSTED).chain(&["/console"]);
            let paths: Vec<&str> = paths.copied().collect();
            let there = format!("not found: there are {}\n", paths.join(", "));
            return text(StatusCode::NOT_FOUND, there);
        }
    };
    let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
    refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    refused
}

fn json(view: &impl Serialize) -> AdminResponse {
    // These types have no map with keys that are not text: serialising them cannot fail.
    let mut json = serde_json::to_vec(view).unwrap_or_default();
    json.push(b'\n');
    whole(StatusCode::OK, json, JSON)
}

/// Returns true if `Accept` prefers `OpenMetrics` to plain text, as that of Prometheus does.
fn accepts_open_metrics(headers: &HeaderMap) -> bool {
    let weight = |wanted| weight(headers, &header::ACCEPT, wanted);
    let wanted = weight("application/openmetrics-text");
    wanted > 0.0 && wanted >= weight("text/plain")
}

/// Returns true if `Accept-Encoding` lists gzip.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    weight(headers, &header::ACCEPT_ENCODING, "gzip") > 0.0
}

/// Returns the weight with which a header lists a value, by default 1; 0 if it does not.
fn weight(headers: &HeaderMap, header: &HeaderName, wanted: &str) -> f32 {
    let values = headers.get_all(header).iter();
    let listed = values.filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(','));
    let mut weights = listed.filter_map(|one| {
        let mut parts = one.split(';').map(str::trim);
        let is_named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(wanted));
        let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok());
        is_named.then_some(weight.unwrap_or(1.0_f32))
    });
    weights.next().unwrap_or_default()
}

/// Compresses a text.
fn zipped(text: &str, kind: &'static str) -> AdminResponse {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to memory cannot fail.
    encoder.write_all(text.as_bytes()).unwrap_or_default();
    let mut response = whole(StatusCode::OK, encoder.finish().unwrap_or_default(), kind);
    response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response
}

pub(super) fn text(status: StatusCode, text: impl Into<Bytes>) -> AdminResponse {
    whole(status, text, PLAIN)
}

pub(super) fn whole(
    status: StatusCode,
    text: impl Into<Bytes>,
    kind: &'static str,
) -> AdminResponse {
    response(status, Full::new(text.into()).boxed_unsync(), kind)
}

pub(super) fn response(
    status: StatusCode,
    body: UnsyncBoxBody<Bytes, Infallible>,
    kind: &'static str,
) -> AdminResponse {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Returns the authority in the `Host` header, `None` without one; fails if there are several or it is
/// malformed.
fn host(headers: &HeaderMap) -> Result<Option<Authority>, ()> {
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) => Ok(None),
        (Some(host), None) => Authority::try_from(host.as_bytes()).map(Some).map_err(|_| ()),
        (Some(_), Some(_)) => Err(()),
    }
}

impl AdminState {
    /// Reads the admin token from its file; `None` if none is set.
    pub(super) async fn admin_token(&self) -> Result<Option<String>, &'static str> {
        let Some(file) = self.token_file.clone() else { return Ok(None) };
        // A file on a network may be slow to read; probes must not wait for it.
        let read = tokio::task::spawn_blocking(move || token(&file)).await;
        let unread = "refused: the admin token file cannot be used; see the log\n";
        let token = read.map_err(|_| unread)?.map_err(|error| {
            tracing::error!(%error, "admin token file unusable: the request is refused");
            unread
        })?;
        Ok(Some(token))
    }

    /// Checks that `Host` and the target name this port: by an IP address, `localhost` or one of `names`.
    ///
    /// Security: a web page in an operator's browser can reach this port under a host name of its own (DNS
    /// rebinding), but not under an address.
    fn check_host(&self, request: &Request<Incoming>) -> Result<(), &'static str> {
        let refused = "refused: Host must be an IP address, localhost or one of admin.names\n";
        let sent = host(request.headers()).map_err(|()| refused)?;
        let missing = sent.is_none() && request.version() > Version::HTTP_10;
        let named = request.uri().authority().cloned();
        let ours = sent.iter().chain(&named).all(|authority| self.is_ours(authority));
        if ours && !missing { Ok(()) } else { Err(refused) }
    }

    fn is_ours(&self, authority: &Authority) -> bool {
        let host = authority.host();
        let address =
            host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let named = self.names.iter().map(String::as_str).chain(["localhost"]);
        !authority.as_str().contains('@')
            && (address.parse::<IpAddr>().is_ok()
                || named.into_iter().any(|name| name.eq_ignore_ascii_case(host)))
    }

    /// Writes everything that has ended to the journal, within [`FLUSH_MAX`] and `audit.wait`.
    async fn flush_journal(&self) -> AdminResponse {
        let limit = self.trail.wait().min(FLUSH_MAX);
        match tokio::time::timeout(limit, self.trail.flush()).await {
            Ok(Ok(last)) => json(&last),
            Ok(Err(FlushError)) | Err(_) => {
                text(StatusCode::SERVICE_UNAVAILABLE, format!("{NOT_WRITTEN}\n"))
            }
        }
    }

    /// Marks the cache entries of the practice that the query `ods` names, or all, for a new look-up.
    fn flush(&self, request: &Request<Incoming>) -> (StatusCode, String) {
        let ods = match request.uri().query().map(|query| query.strip_prefix("ods=")) {
            None => None,
            Some(code) => match code.map(OdsCode::from_any_case) {
                Some(Ok(ods)) => Some(ods),
                _ => {
                    return (
                        StatusCode::BAD_REQUEST,
                        "the query must be ods=CODE with a valid ODS code, or empty\n".to_owned(),
                    );
                }
            },
        };
        let marked = self.directory.flush(ods.as_ref());
        tracing::info!(
            ods = ods.as_ref().map(OdsCode::as_str),
            marked,
            "directory cache flushed by an operator: its entries are looked up again"
        );
        (StatusCode::OK, format!("{marked} marked for a new look-up\n"))
    }

    /// Sets the level of the log that the query `level` names, until the next start or reload.
    fn set_log_level(&self, request: &Request<Incoming>) -> (StatusCode, String) {
        let named = request.uri().query().and_then(|query| query.strip_prefix("level="));
        let Some(log) = &self.log else {
            return (StatusCode::CONFLICT, "the log is not this program's\n".to_owned());
        };
        match log.set_level_named(named.unwrap_or_default()) {
            Ok(()) => {
                tracing::warn!(level = named, "the level of the log was changed by an operator");
                (StatusCode::OK, "set until the next start or change of log.level\n".to_owned())
            }
            Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")),
        }
    }

    /// Builds the answer of `/metrics`, in the format of `OpenMetrics` or of Prometheus, with the gauges that are
    /// measured when they are asked for.
    fn metrics(&self, is_open: bool) -> (String, &'static str) {
        let (live, metrics) = (self.live.load(), &self.metrics);
        let gauge = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        metrics.shedding.set(live.throttle.shedding().number().into());
        let open = live.throttle.open_circuits().len();
        metrics.provider_circuits_open.set(i64::try_from(open).unwrap_or(i64::MAX));
        let (sessions, sessions_max) = live.trust.sessions();
        metrics.sessions.set(gauge(sessions));
        metrics.sessions_max.set(gauge(sessions_max));
        let alarms = self.alarms(Timestamp::now().as_second()).len();
        metrics.alarms.set(i64::try_from(alarms).unwrap_or(i64::MAX));
        match is_open {
            true => (metrics.open_metrics(), OPEN_METRICS_FORMAT),
            false => metrics.text(),
        }
    }
}

pub(super) const JSON: &str = "application/json";
const PLAIN: &str = "text/plain; charset=utf-8";
