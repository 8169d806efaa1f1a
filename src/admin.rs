//! The second port: is it alive, is it ready, what has it counted. Read-only, and never for the
//! network consumers are on.

use std::convert::Infallible;
use std::fmt::Write as _;
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
        let response = views.answer(request.method(), request.uri().path());
        async { Ok::<_, Infallible>(response) }
    };
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .await
}

impl Views {
    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let (status, text, kind) = match (method, path) {
            (&Method::GET | &Method::HEAD, "/livez") => (StatusCode::OK, "ok\n".to_owned(), PLAIN),
            (&Method::GET | &Method::HEAD, "/readyz") => {
                let (status, text) = self.ready();
                (status, text, PLAIN)
            }
            (&Method::GET | &Method::HEAD, "/metrics") => {
                let (text, kind) = self.metrics.text();
                (StatusCode::OK, text, kind)
            }
            (&Method::GET | &Method::HEAD, _) => {
                let text = "there are /livez, /readyz and /metrics\n";
                (StatusCode::NOT_FOUND, text.to_owned(), PLAIN)
            }
            _ => (StatusCode::METHOD_NOT_ALLOWED, "read-only\n".to_owned(), PLAIN),
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
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
        if self.lab {
            text.push_str("lab = true: not for live patient data\n");
        }
        let all = checks.iter().all(|(_, ok)| *ok);
        (if all { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text)
    }
}

const PLAIN: &str = "text/plain; charset=utf-8";
