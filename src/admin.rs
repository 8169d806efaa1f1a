//! The admin port: liveness, readiness, metrics, views for machines, and the console for operators.
//!
//! It speaks plain HTTP and must never be reachable from the network of consumers.
//!
//! It runs on a thread of its own, so that probes are answered while the workers are busy. Each connection
//! carries one request and is bounded in time, so that a slow client cannot hold a place for long.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::audit::Trail;
use crate::directory::Directory;
use crate::gateway::InForce;
use crate::log::LogControl;
use crate::metrics::Metrics;
use crate::reloads::RequestedReloads;
use crate::tls::{TrustError, secret};

mod answers;
mod console;
mod readiness;
mod views;

use answers::AdminRequest;
use console::Console;

/// State that the admin port reads to answer requests.
#[derive(Debug, Clone)]
pub struct AdminState {
    /// Counters and gauges that `/metrics` shows.
    pub metrics: Arc<Metrics>,
    /// The configuration in force as JSON, which a reload replaces.
    pub config: Arc<ArcSwap<String>>,
    /// Trust, rules and limits in force, which a reload replaces.
    pub live: Arc<ArcSwap<InForce>>,
    /// The directory with its cache, which `/directory` shows and `/directory/flush` marks as stale.
    pub directory: Directory,
    /// The audit journal, whose health decides `/readyz`.
    pub trail: Trail,
    /// Token that is cancelled once the process is to stop; `/readyz` then answers 503.
    pub drain: CancellationToken,
    /// Handle of the log's level; `None` if the log is another's.
    pub log: Option<LogControl>,
    /// Outcome of requested reloads, which `/reload` shows.
    pub reloads: RequestedReloads,
    /// Value of `lab` in the configuration at the start.
    pub lab: bool,
    /// Names that a request's `Host` may have, besides any IP address and `localhost`.
    pub names: Vec<String>,
    /// File that holds the token for the views and posted requests, read for each request that needs it.
    pub token_file: Option<PathBuf>,
}

/// Limit: open connections. When all places are taken, the oldest connection that has not shown the token is
/// closed for a new one; if all have, the oldest.
const CONNECTIONS_MAX: usize = 64;
/// Limit: answers of `/directory` that are written at the same time.
const DIRECTORY_READERS_MAX: usize = 1;
/// Limit: time from the start of a connection to the end of its request's head.
const HEAD_MAX: Duration = Duration::from_secs(5);
/// Time after which a connection is accepted again when that has failed.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Limit: time for which a client may accept no byte of an answer.
const WRITE_MAX: Duration = Duration::from_secs(5);
/// Limit: total lifetime of a connection.
const TOTAL_MAX: Duration = Duration::from_secs(60);
/// Limit: time for which a flush of the journal is waited for; `audit.wait` if that is shorter.
const FLUSH_MAX: Duration = Duration::from_secs(30);
/// Limit: bytes of a request's head, and bytes of an answer buffered before the socket.
const BUFFER_BYTES_MAX: usize = 16 * 1024;
/// Size of a chunk of `/directory`, in bytes; the last row may exceed it.
const PART_BYTES: usize = 8 * 1024;
/// Limit: threads that may read the token file at the same time.
const READERS_MAX: usize = 2;
/// Limit: minimum length of the admin token, in bytes.
pub const TOKEN_BYTES_MIN: usize = 32;

/// Error returned when the admin token cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The token's file cannot be read.
    #[error(transparent)]
    File(#[from] TrustError),
    /// The token is shorter than [`TOKEN_BYTES_MIN`] and could be guessed.
    #[error("{}: the token has {bytes} bytes; it must have {TOKEN_BYTES_MIN} or more, such as from `openssl rand -hex 32`", path.display())]
    Short {
        /// Path of the token's file.
        path: PathBuf,
        /// Length of the token, in bytes.
        bytes: usize,
    },
}

impl TokenError {
    /// Returns the path of the token's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::File(error) => error.path(),
            Self::Short { path, .. } => path,
        }
    }
}

/// Reads the admin token from its file.
///
/// # Errors
/// Returns an error if the file cannot be read or the token is shorter than [`TOKEN_BYTES_MIN`].
pub fn token(path: &Path) -> Result<String, TokenError> {
    let token = secret(path)?;
    match token.len() {
        bytes if bytes < TOKEN_BYTES_MIN => Err(TokenError::Short { path: path.to_owned(), bytes }),
        _ => Ok(token),
    }
}

/// Serves the admin port on a thread of its own until the returned guard is dropped.
///
/// # Errors
/// Returns an error if the thread or its runtime cannot be started.
pub fn start(listener: TcpListener, views: AdminState) -> std::io::Result<DropGuard> {
    let listener = listener.into_std()?;
    let address = listener.local_addr()?;
    tracing::info!(%address, "admin port listening");
    let console = Arc::new(Console::new(address.ip().to_canonical().is_loopback()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(READERS_MAX + console::SEARCHES_MAX)
        .build()?;
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
        runtime.block_on(async {
            match TcpListener::from_std(listener) {
                Ok(listener) => {
                    tokio::select! {
                        () = stopped => {}
                        () = serve(&listener, Arc::new(views), console) => {}
                    }
                }
                Err(error) => tracing::error!(%error, "the admin port cannot be served; probes and metrics are not answered, restart the process"),
            }
        });
        runtime.shutdown_background();
    })?;
    Ok(stop.drop_guard())
}

async fn serve(listener: &TcpListener, views: Arc<AdminState>, console: Arc<Console>) {
    let readers = Arc::new(Semaphore::new(DIRECTORY_READERS_MAX));
    let mut open = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(
                    %error,
                    "the admin port cannot accept a connection: trying again; see whether the \
                     limit of open files is too low"
                );
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        make_room(&mut open);
        let shown = Arc::new(AtomicBool::new(false));
        let (views, readers) = (Arc::clone(&views), Arc::clone(&readers));
        let exchange = AdminRequest::new(views, readers, Arc::clone(&console), Arc::clone(&shown));
        let task = tokio::spawn(connection(stream, exchange)).abort_handle();
        open.push_back(OpenConnection { task, shown });
    }
}

/// An open connection of the admin port.
struct OpenConnection {
    task: AbortHandle,
    /// True once its request has shown the right token.
    shown: Arc<AtomicBool>,
}

/// Closes the oldest connection that has not shown the token, if all places are taken.
///
/// A probe is safe from this: it is answered as soon as its head has arrived, long before [`CONNECTIONS_MAX`]
/// more connections can follow it.
fn make_room(open: &mut VecDeque<OpenConnection>) {
    open.retain(|open| !open.task.is_finished());
    if open.len() < CONNECTIONS_MAX {
        return;
    }
    let anybody = |open: &OpenConnection| !open.shown.load(Ordering::Relaxed);
    let at = open.iter().position(anybody).unwrap_or_default();
    if let Some(oldest) = open.remove(at) {
        tracing::debug!("the oldest connection to the admin port is closed: all places are taken");
        oldest.task.abort();
    }
}

async fn connection(stream: TcpStream, exchange: AdminRequest) {
    let ended = carry(stream, |request| {
        let exchange = exchange.clone();
        async move { exchange.answer(request).await }
    });
    if let Err(error) = ended.await {
        tracing::debug!(%error, "connection to the admin port ended early");
    }
}

/// Serves one request on a connection, within the time and size limits of the admin port.
async fn carry<S, A, F, B>(
    stream: S,
    answer: A,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    S: AsyncRead + AsyncWrite,
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes, Error = Infallible> + 'static,
{
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_MAX));
    let stream = std::pin::pin!(stream);
    let answered = async |request| Ok::<_, Infallible>(answer(request).await);
    let exchange = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .keep_alive(false)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service_fn(answered));
    Ok(tokio::time::timeout(TOTAL_MAX, exchange).await??)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::Instant;

    use futures_util::stream;
    use http_body_util::{BodyExt as _, StreamBody};
    use hyper::body::Frame;

    use super::answers::{AdminResponse, JSON, response};
    use super::*;

    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

    /// An answer without an end, and how many parts of it have been made.
    fn endless(made: &Arc<AtomicUsize>) -> AdminResponse {
        let made = Arc::clone(made);
        let parts = std::iter::from_fn(move || {
            made.fetch_add(1, Ordering::Relaxed);
            Some(Ok(Frame::data(Bytes::from(vec![b'.'; PART_BYTES]))))
        });
        response(http::StatusCode::OK, StreamBody::new(stream::iter(parts)).boxed_unsync(), JSON)
    }

    /// Runs a client against a connection; returns how long the connection lives, and the parts made for it.
    async fn connection_lifetime<F: Future<Output = ()>>(
        client: impl FnOnce(tokio::io::DuplexStream) -> F,
    ) -> (Duration, usize) {
        let (ours, theirs) = tokio::io::duplex(1024);
        let made = Arc::default();
        let started = Instant::now();
        let served = carry(ours, async |_| endless(&made));
        tokio::select! {
            _ended = served => {}
            () = async { client(theirs).await; std::future::pending().await } => {}
        }
        (started.elapsed(), made.load(Ordering::Relaxed))
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_no_head_is_cut() {
        let silent = |theirs: tokio::io::DuplexStream| async move {
            let _open = theirs;
            std::future::pending::<()>().await;
        };
        let (lived, _) = connection_lifetime(silent).await;
        assert_eq!(lived.as_secs(), HEAD_MAX.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_cut_and_costs_few_parts() {
        let stalled = |mut theirs: tokio::io::DuplexStream| async move {
            theirs.write_all(GET).await.unwrap();
            let _open = theirs;
            std::future::pending::<()>().await;
        };
        let (lived, made) = connection_lifetime(stalled).await;
        assert_eq!(lived.as_secs(), WRITE_MAX.as_secs());
        assert!(made <= BUFFER_BYTES_MAX / PART_BYTES + 2, "{made}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_a_byte_a_second_is_cut() {
        let slow = |mut theirs: tokio::io::DuplexStream| async move {
            theirs.write_all(GET).await.unwrap();
            while theirs.read_u8().await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let (lived, _) = connection_lifetime(slow).await;
        assert_eq!(lived.as_secs(), TOTAL_MAX.as_secs());
    }
}
