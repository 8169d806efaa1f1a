//! The second port: is it alive, is it ready, what has it counted, what does it hold. Never for
//! the network consumers are on; what changes anything needs the token, on loopback too.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::audit::Trail;
use crate::directory::Directory;
use crate::gateway::Live;
use crate::metrics::Metrics;
use crate::spine::OdsCode;
use crate::tls::secret;

/// What the second port looks at.
#[derive(Debug, Clone)]
pub struct Views {
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is in force.
    pub live: Arc<ArcSwap<Live>>,
    /// What is held of the directory.
    pub directory: Directory,
    /// Whether records can be written.
    pub trail: Trail,
    /// Cancelled once the process is to end.
    pub drain: CancellationToken,
    /// Whether lab switches may be used.
    pub lab: bool,
    /// The file that holds what must be known to change anything, read each time.
    pub token_file: Option<PathBuf>,
}

/// Limit: connections at once.
const CONNECTIONS_MAX: usize = 64;
/// Limit: from a connection's start to its request's head.
const HEAD: Duration = Duration::from_secs(5);

/// Serves the views for as long as it is polled.
pub async fn serve(listener: TcpListener, views: Views) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let views = views.clone();
        tokio::spawn(async move {
            if let Err(error) = connection(stream, views).await {
                tracing::debug!(%error, "admin connection ended");
            }
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, views: Views) -> Result<(), hyper::Error> {
    let answer = move |request: Request<Incoming>| {
        let response = views.answer(&request);
        async { Ok::<_, Infallible>(response) }
    };
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .await
}

impl Views {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (status, text, kind) = match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/livez") => (StatusCode::OK, "ok\n".to_owned(), PLAIN),
            (&Method::GET | &Method::HEAD, "/readyz") => {
                let (status, text) = self.ready();
                (status, text, PLAIN)
            }
            (&Method::GET | &Method::HEAD, "/metrics") => {
                let (text, kind) = self.metrics.text();
                (StatusCode::OK, text, kind)
            }
            (&Method::GET | &Method::HEAD, "/directory") => {
                let held = serde_json::to_string_pretty(&self.directory.held_view());
                (StatusCode::OK, held.unwrap_or_default() + "\n", JSON)
            }
            (&Method::POST, "/directory/flush") => {
                let (status, text) = self.flush(request);
                (status, text, PLAIN)
            }
            (&Method::GET | &Method::HEAD, _) => {
                let text = "there are /livez, /readyz, /metrics and /directory\n";
                (StatusCode::NOT_FOUND, text.to_owned(), PLAIN)
            }
            _ => (StatusCode::METHOD_NOT_ALLOWED, "not here\n".to_owned(), PLAIN),
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    /// Marks what is held of a practice, or of all, to be asked for again.
    fn flush(&self, request: &Request<Incoming>) -> (StatusCode, String) {
        if let Err(why) = self.judge_token(request) {
            return (StatusCode::FORBIDDEN, why.to_owned());
        }
        let ods = match request.uri().query().map(|query| query.strip_prefix("ods=")) {
            None => None,
            Some(code) => match code.map(OdsCode::from_any_case) {
                Some(Ok(ods)) => Some(ods),
                _ => {
                    return (
                        StatusCode::BAD_REQUEST,
                        "the query is ods=CODE, or none\n".to_owned(),
                    );
                }
            },
        };
        let marked = self.directory.flush(ods.as_ref());
        tracing::info!(ods = ods.as_ref().map(OdsCode::as_str), marked, "directory flushed");
        (StatusCode::OK, format!("{marked} marked to be asked for again\n"))
    }

    fn judge_token(&self, request: &Request<Incoming>) -> Result<(), &'static str> {
        let file = self.token_file.as_deref();
        let file = file.ok_or("nothing can be changed: admin.token-file is not set\n")?;
        let token = secret(file).map_err(|error| {
            tracing::error!(%error, "the admin token");
            "nothing can be changed: the admin token cannot be read\n"
        })?;
        let sent = request.headers().get(header::AUTHORIZATION).and_then(|sent| sent.to_str().ok());
        let sent = sent.and_then(|sent| sent.strip_prefix("Bearer ")).unwrap_or_default();
        // Security: the time this takes tells nothing of where the two differ.
        let same = sent.len() == token.len()
            && sent.bytes().zip(token.bytes()).fold(0, |odd, (one, other)| odd | (one ^ other))
                == 0;
        if same { Ok(()) } else { Err("the admin token is missing or wrong\n") }
    }

    /// Ready while new requests are wanted and records can be written.
    fn ready(&self) -> (StatusCode, String) {
        let checks =
            [("accepting", !self.drain.is_cancelled()), ("audit", self.trail.is_healthy())];
        let mut text = String::new();
        for (name, ok) in checks {
            let sign = if ok { '+' } else { '-' };
            // Writing to a `String` cannot fail.
            writeln!(text, "[{sign}]{name}").unwrap_or_default();
        }
        let live = self.live.load();
        let (generation, held) = (live.trust.generation, self.directory.held());
        writeln!(text, "trust generation {generation}, {held} directory entries held")
            .unwrap_or_default();
        let now_s = jiff::Timestamp::now().as_second();
        for alarm in live.alarms.in_force(now_s) {
            writeln!(text, "[!]{alarm}").unwrap_or_default();
        }
        if let (true, Some(age_s)) = (self.directory.is_live(), self.directory.newest_age_s()) {
            writeln!(text, "newest answer of the directory: {age_s} s ago").unwrap_or_default();
        }
        if self.lab {
            text.push_str("lab = true: not for live patient data\n");
        }
        let all = checks.iter().all(|(_, ok)| *ok);
        (if all { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text)
    }
}

const JSON: &str = "application/json";
const PLAIN: &str = "text/plain; charset=utf-8";
