//! Client of a Redis server: one connection for all queries, and bounds on what the server may send.

use std::borrow::Cow;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ConnectionAddr, ConnectionInfo, Script, Value};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::{RedisFault, RedisValue, SharedScript, SharingError};

/// Limit: time in which a connection is opened: TCP, TLS, authentication and scripts.
const OPENING_MAX: Duration = Duration::from_secs(2);
/// Limit: queries under way on the connection.
const UNDER_WAY_MAX: usize = 64;
/// Limit: bytes that Redis may send between two writes to it. An answer has up to 16 KiB, and as many queries
/// may be under way.
const REPLY_BYTES_MAX: usize = UNDER_WAY_MAX * 17 * 1024;
/// Limit: letters of an error code of Redis in the log.
const CODE_LETTERS_MAX: usize = 16;

/// Client of one Redis server.
#[derive(Debug)]
pub(super) struct RedisClient {
    info: ConnectionInfo,
    /// Name that the server's certificate must have, and the settings of TLS; `None` for plain TCP.
    tls: Option<(ServerName<'static>, Arc<ClientConfig>)>,
    link: Arc<Mutex<Option<RedisConnection>>>,
    scripts: [Script; SharedScript::ALL.len()],
    places: Semaphore,
    /// Number of the last query, which its answer repeats.
    asked: AtomicU64,
}

/// A connection, and the task that drives it.
#[derive(Debug)]
struct RedisConnection {
    connection: MultiplexedConnection,
    _driver: AbortOnDropHandle<()>,
}

/// Checks the URL of a server.
///
/// # Errors
/// Returns an error if it cannot be used.
pub(super) fn check(url: &str) -> Result<(), SharingError> {
    address(url).map(drop)
}

fn address(url: &str) -> Result<ConnectionInfo, SharingError> {
    let fault = |why: String| SharingError::Setting("url", why);
    // TLS is ours, since the proxy has one way to verify servers.
    let url = match url.strip_prefix("rediss://") {
        Some(rest) => Cow::Owned(format!("redis://{rest}")),
        None => Cow::Borrowed(url),
    };
    let info = redis::IntoConnectionInfo::into_connection_info(&*url)
        .map_err(|error| fault(error.to_string()))?;
    if matches!(info.addr(), ConnectionAddr::Tcp(..)) {
        return Ok(info);
    }
    Err(fault("it must have the form rediss://host:port".to_owned()))
}

impl RedisClient {
    /// Returns a client without a connection.
    ///
    /// # Errors
    /// Returns an error if the URL cannot be used.
    pub(super) fn new(
        url: &str,
        password: Option<String>,
        tls: Option<Arc<ClientConfig>>,
    ) -> Result<Self, SharingError> {
        let mut info = address(url)?;
        if let Some(password) = password {
            let settings = info.redis_settings().clone().set_password(password);
            info = info.set_redis_settings(settings);
        }
        let tls = match (tls, info.addr()) {
            (Some(tls), ConnectionAddr::Tcp(host, _)) => {
                let name = ServerName::try_from(host.clone())
                    .map_err(|error| SharingError::Setting("url", error.to_string()))?;
                Some((name, tls))
            }
            _ => None,
        };
        Ok(Self {
            info,
            tls,
            link: Arc::default(),
            scripts: SharedScript::ALL.map(|script| Script::new(script.text())),
            places: Semaphore::new(UNDER_WAY_MAX),
            asked: AtomicU64::new(0),
        })
    }

    /// Runs a script, whose first argument is the number of the query, and returns the values of its answer
    /// after that number.
    pub(super) async fn run(
        &self,
        script: SharedScript,
        keys: &[&str],
        arguments: &[&[u8]],
    ) -> Result<Vec<RedisValue>, RedisFault> {
        // The semaphore is never closed.
        let Ok(_place) = self.places.acquire().await else { return Err(RedisFault::FOREIGN) };
        let mut connection = self.connection().await?;
        let number = self.asked.fetch_add(1, Ordering::Relaxed).to_string();
        let script = self.scripts.get(script as usize).ok_or(RedisFault::FOREIGN)?;
        let mut invocation = script.prepare_invoke();
        for key in keys {
            invocation.key(key);
        }
        invocation.arg(&number);
        for argument in arguments {
            invocation.arg(argument);
        }
        let answer = invocation.invoke_async::<Vec<Value>>(&mut connection).await;
        let mut values = answer.map_err(|error| RedisFault::from(&error))?.into_iter();
        match values.next() {
            Some(Value::BulkString(answered)) if answered == number.as_bytes() => {}
            _ => return Err(RedisFault::FOREIGN),
        }
        values.map(RedisValue::try_from).collect()
    }

    /// Closes the connection; the next query opens another.
    pub(super) fn disconnect(&self) {
        // If the lock is held, a new connection is being opened.
        if let Ok(mut link) = self.link.try_lock() {
            *link = None;
        }
    }

    /// Returns the open connection, or a new one.
    ///
    /// It is opened in a task of its own: a query that is given up meanwhile does not end it, and the next finds it
    /// open.
    async fn connection(&self) -> Result<MultiplexedConnection, RedisFault> {
        let mut link = Arc::clone(&self.link).lock_owned().await;
        if let Some(link) = &*link {
            return Ok(link.connection.clone());
        }
        let (info, tls) = (self.info.clone(), self.tls.clone());
        let opening = tokio::spawn(async move {
            let opened = timeout(OPENING_MAX, open(&info, tls)).await;
            let opened = opened.unwrap_or(Err(RedisFault::TIMED_OUT))?;
            let connection = opened.connection.clone();
            *link = Some(opened);
            Ok(connection)
        });
        opening.await.unwrap_or(Err(RedisFault::FOREIGN))
    }
}

/// Opens a connection, and loads the scripts, so that running one takes one round trip.
async fn open(
    info: &ConnectionInfo,
    tls: Option<(ServerName<'static>, Arc<ClientConfig>)>,
) -> Result<RedisConnection, RedisFault> {
    let ConnectionAddr::Tcp(host, port) = info.addr() else {
        return Err(unreachable_by(io::ErrorKind::Unsupported));
    };
    let stream = TcpStream::connect((host.as_str(), *port)).await;
    let stream = stream
        .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
        .map_err(|error| unreachable_by(error.kind()))?;
    let mut opened = match tls {
        None => greet(info, stream).await?,
        Some((name, tls)) => {
            let stream = TlsConnector::from(tls).connect(name, stream).await;
            let stream = stream
                .map_err(|error| RedisFault(format!("the TLS handshake failed: {error}").into()))?;
            greet(info, stream).await?
        }
    };
    for script in SharedScript::ALL {
        // Not by the crate's own function, which in a debug build panics at a wrong answer.
        let mut load = redis::cmd("SCRIPT");
        load.arg("LOAD").arg(script.text());
        let loaded = load.query_async::<Value>(&mut opened.connection).await;
        loaded.map_err(|error| RedisFault::from(&error))?;
    }
    Ok(opened)
}

/// Authenticates on a new connection, and starts the task that drives it.
async fn greet(
    info: &ConnectionInfo,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<RedisConnection, RedisFault> {
    let stream = BoundedStream { stream, left: REPLY_BYTES_MAX };
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let settings = info.redis_settings();
    let opened = MultiplexedConnection::new_with_config(settings, stream, config).await;
    let (connection, driver) = opened.map_err(|error| RedisFault::from(&error))?;
    Ok(RedisConnection { connection, _driver: AbortOnDropHandle::new(tokio::spawn(driver)) })
}

fn unreachable_by(kind: io::ErrorKind) -> RedisFault {
    RedisFault(format!("it cannot be reached: {kind}").into())
}

impl TryFrom<Value> for RedisValue {
    type Error = RedisFault;

    fn try_from(value: Value) -> Result<Self, RedisFault> {
        if let Value::Int(number) = value {
            return Ok(Self::Number(number));
        }
        if let Value::BulkString(bytes) = value {
            return Ok(Self::Bytes(bytes));
        }
        Err(RedisFault::FOREIGN)
    }
}

impl From<&redis::RedisError> for RedisFault {
    /// Keeps no text of the server's but an error code: the rest may repeat what was sent.
    fn from(error: &redis::RedisError) -> Self {
        match error.code() {
            Some(code) => {
                let letters = code.chars().filter(char::is_ascii_alphanumeric);
                let code: String = letters.take(CODE_LETTERS_MAX).collect();
                Self(format!("it answered with the error {code}").into())
            }
            None if error.is_io_error() => Self(Cow::Borrowed("the connection was closed")),
            None => Self::FOREIGN,
        }
    }
}

/// Stream whose other end may send a limited number of bytes until something is written to it.
///
/// Security: the client behind it keeps whatever comes until an answer is complete.
#[derive(Debug)]
struct BoundedStream<S> {
    stream: S,
    left: usize,
}

impl<S: AsyncRead + Unpin> AsyncRead for BoundedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        match self.left.checked_sub(buffer.filled().len().saturating_sub(before)) {
            Some(left) => {
                self.left = left;
                polled
            }
            None => Poll::Ready(Err(io::Error::other("Redis sent more bytes than any answer has"))),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for BoundedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.left = REPLY_BYTES_MAX;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
