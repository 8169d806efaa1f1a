//! Quotas that several gateways share, through Redis.
//!
//! A gateway does not ask for each request: it draws some of a consumer's quota at once, spends that, and
//! discards what is left after a second. While Redis cannot be used, each gateway keeps to the quota by
//! itself. A connection that failed in any way is not used again: the next may lead to another server, which
//! is how a failover is followed.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ConnectionAddr, ConnectionInfo};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use super::quota::{ConsumerQuota, QuotaTerms};
use super::sharing::{SharingError, SharingSettings};
use crate::metrics::Metrics;
use crate::refusal::{QuotaLeft, Refusal};
use spine_types::Asid;

/// Client for quotas shared through Redis.
#[derive(Debug)]
pub(super) struct SharedQuotas {
    info: ConnectionInfo,
    link: tokio::sync::Mutex<Option<RedisConnection>>,
    script: redis::Script,
    /// Number of the last query, which its answer repeats.
    asked: AtomicU64,
    wait: Duration,
    /// Set while Redis is not asked, after it could not be used.
    away: Mutex<Option<RedisOutage>>,
}

/// A connection, and the task that drives it.
#[derive(Debug)]
struct RedisConnection {
    connection: MultiplexedConnection,
    _driver: AbortOnDropHandle<()>,
}

/// Reason why Redis is not asked, and until when.
#[derive(Debug)]
struct RedisOutage {
    until: Instant,
    why: RedisFault,
}

/// Reason why Redis cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum RedisFault {
    #[error("no answer in time")]
    TimedOut,
    #[error("it cannot be reached: {0}")]
    Unreachable(io::ErrorKind),
    #[error("it answered with the error {0}")]
    Refused(String),
    #[error("its answer does not fit the query")]
    Foreign,
    #[error("the connection failed: {0}")]
    Failed(String),
}

/// Answer of Redis, within the bounds of what was asked for.
#[derive(Debug, PartialEq, Eq)]
struct RedisReply {
    granted: u32,
    left: u32,
    wait: Duration,
}

/// Requests drawn for one consumer from a shared quota.
#[derive(Debug, Default)]
pub(super) struct QuotaLease {
    state: Mutex<Drawn>,
    /// Lock held by the task that asks for more.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Drawn {
    requests: u32,
    /// Number of requests last asked for.
    size: u32,
    /// Number of requests left to all gateways.
    left: u32,
    until: Option<Instant>,
    /// Time until which the quota is known to be exhausted.
    none_until: Option<Instant>,
}

/// Time for which drawn requests may be spent.
const GOOD_FOR: Duration = Duration::from_secs(1);
/// Time for which Redis is not asked after it could not be used.
const AWAY: Duration = Duration::from_secs(1);
/// Part of a quota that may be drawn at once: one in so many.
const PARTS: u32 = 20;
/// Limit: requests that may be drawn at once.
const DRAWN_MAX: u32 = 1000;
/// Limit: bytes that Redis may send between two writes to it. An answer has some fifty, and as many queries
/// may be under way.
const REPLY_BYTES_MAX: usize = 64 * 1024;
/// Limit: letters of an error code of Redis in the log.
const CODE_LETTERS_MAX: usize = 16;

/// Script for a generic cell rate, by the clock of Redis.
///
/// Keys: the consumer. Arguments: microseconds between two requests; requests at once; number wanted; number
/// of the query. Answers: that number; number granted; number left; microseconds until there is another.
const DRAW: &str = r"
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local interval, burst, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local due = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now)
local room = math.max(math.floor((now + burst * interval - due) / interval), 0)
local granted = math.min(room, wanted)
if granted > 0 then
  due = due + granted * interval
  redis.call('SET', KEYS[1], string.format('%.0f', due), 'PX', math.ceil((due - now) / 1000) + 1000)
end
return {ARGV[4], granted, room - granted, math.max(due + interval - burst * interval - now, 0)}
";

/// Checks the URL of a server.
///
/// # Errors
/// Returns an error if it cannot be used.
pub(super) fn check(url: &str) -> Result<(), SharingError> {
    address(url).map(drop)
}

fn address(url: &str) -> Result<ConnectionInfo, SharingError> {
    let info = redis::IntoConnectionInfo::into_connection_info(url)
        .map_err(|error| SharingError::Address(error.to_string()))?;
    if matches!(info.addr(), ConnectionAddr::Tcp(..)) {
        return Ok(info);
    }
    Err(SharingError::Address("the URL must have the form redis://host:port".to_owned()))
}

fn info(sharing: &SharingSettings) -> Result<ConnectionInfo, SharingError> {
    let info = address(&sharing.url)?;
    let Some(password) = sharing.password()? else { return Ok(info) };
    let settings = info.redis_settings().clone().set_password(password);
    Ok(info.set_redis_settings(settings))
}

impl SharedQuotas {
    pub(super) fn new(sharing: &SharingSettings) -> Result<Self, SharingError> {
        Ok(Self {
            info: info(sharing)?,
            link: tokio::sync::Mutex::default(),
            script: redis::Script::new(DRAW),
            asked: AtomicU64::new(0),
            wait: sharing.wait,
            away: Mutex::default(),
        })
    }

    /// Takes one request from a consumer's quota; `None` while Redis cannot be used.
    pub(super) async fn take(
        &self,
        consumer: &Asid,
        account: &ConsumerQuota,
        metrics: &Metrics,
    ) -> Option<Result<QuotaLeft, Refusal>> {
        let (lease, terms) = (&account.lease, &account.terms);
        if let Some(drawn) = lease.take_from_lease(terms) {
            return Some(drawn);
        }
        if self.is_away() {
            return None;
        }
        let _asking = lease.asking.lock().await;
        // The task that asked before may have drawn enough.
        if let Some(drawn) = lease.take_from_lease(terms) {
            return Some(drawn);
        }
        if self.is_away() {
            return None;
        }
        let wanted = lease.wants(terms);
        let asked = tokio::time::timeout(self.wait, self.ask(consumer, terms, wanted)).await;
        match asked.unwrap_or(Err(RedisFault::TimedOut)) {
            Ok(reply) => {
                if self.outage().take().is_some() {
                    tracing::info!("Redis can be used again: quotas are shared between gateways");
                }
                metrics.quotas_shared.set(1);
                Some(lease.fill_lease(terms, &reply))
            }
            Err(why) => {
                self.leave(why);
                metrics.quotas_shared.set(0);
                None
            }
        }
    }

    async fn ask(
        &self,
        consumer: &Asid,
        terms: &QuotaTerms,
        wanted: u32,
    ) -> Result<RedisReply, RedisFault> {
        let mut connection = self.connection().await?;
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let mut invocation = self.script.key(format!("spine-proxy:quota:{consumer}"));
        invocation.arg(interval_us(terms)).arg(terms.burst.get()).arg(wanted).arg(number);
        let asked = invocation.invoke_async::<(u64, i64, i64, i64)>(&mut connection).await;
        match asked.map_err(|error| RedisFault::from(&error))? {
            (answered, granted, left, wait_us) if answered == number => {
                RedisReply::clamped([granted, left, wait_us], terms, wanted)
            }
            _ => Err(RedisFault::Foreign),
        }
    }

    /// Returns the open connection, or a new one.
    async fn connection(&self) -> Result<MultiplexedConnection, RedisFault> {
        let mut link = self.link.lock().await;
        if let Some(link) = &*link {
            return Ok(link.connection.clone());
        }
        let ConnectionAddr::Tcp(host, port) = self.info.addr() else {
            return Err(RedisFault::Unreachable(io::ErrorKind::Unsupported));
        };
        let stream = TcpStream::connect((host.as_str(), *port)).await;
        let stream = stream
            .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
            .map_err(|error| RedisFault::Unreachable(error.kind()))?;
        let stream = BoundedStream { stream, left: REPLY_BYTES_MAX };
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let settings = self.info.redis_settings();
        let opened = MultiplexedConnection::new_with_config(settings, stream, config).await;
        let (connection, driver) = opened.map_err(|error| RedisFault::from(&error))?;
        let driver = AbortOnDropHandle::new(tokio::spawn(driver));
        *link = Some(RedisConnection { connection: connection.clone(), _driver: driver });
        Ok(connection)
    }

    /// Closes the connection, and does not ask Redis for a while.
    fn leave(&self, why: RedisFault) {
        // If the lock is held, a new connection is being opened.
        if let Ok(mut link) = self.link.try_lock() {
            *link = None;
        }
        let mut away = self.outage();
        if away.as_ref().is_none_or(|away| away.why != why) {
            tracing::warn!(
                %why,
                "Redis cannot be used: quotas are kept by this gateway alone; a new connection is \
                 tried every second"
            );
        }
        *away = Some(RedisOutage { until: Instant::now() + AWAY, why });
    }

    fn is_away(&self) -> bool {
        self.outage().as_ref().is_some_and(|away| Instant::now() < away.until)
    }

    fn outage(&self) -> MutexGuard<'_, Option<RedisOutage>> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<&redis::RedisError> for RedisFault {
    /// Keeps no text of the server's but an error code: the rest may repeat what was sent.
    fn from(error: &redis::RedisError) -> Self {
        match error.code() {
            Some(code) => {
                let letters = code.chars().filter(char::is_ascii_alphanumeric);
                Self::Refused(letters.take(CODE_LETTERS_MAX).collect())
            }
            None if error.is_io_error() => Self::Failed("it was closed".to_owned()),
            None => Self::Foreign,
        }
    }
}

impl RedisReply {
    /// Reduces an answer to what was asked for.
    ///
    /// Security: a wrong answer admits no more requests than were asked for, and refuses a consumer for no
    /// longer than a whole quota takes to fill.
    fn clamped(numbers: [i64; 3], terms: &QuotaTerms, wanted: u32) -> Result<Self, RedisFault> {
        let burst = u64::from(terms.burst.get());
        let clamped = |number: i64, most: u64| u64::try_from(number).map(|number| number.min(most));
        let [granted, left, wait_us] = numbers;
        let granted = clamped(granted, wanted.into());
        let left = clamped(left, burst);
        let wait_us = clamped(wait_us, burst.saturating_mul(interval_us(terms)));
        let (Ok(granted), Ok(left), Ok(wait_us)) = (granted, left, wait_us) else {
            return Err(RedisFault::Foreign);
        };
        Ok(Self {
            granted: u32::try_from(granted).unwrap_or(wanted),
            left: u32::try_from(left.min(burst - granted.min(burst))).unwrap_or_default(),
            wait: Duration::from_micros(wait_us),
        })
    }
}

/// Returns the microseconds between two requests of a quota.
fn interval_us(terms: &QuotaTerms) -> u64 {
    u64::from((1_000_000 / terms.per_second.get()).max(1))
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

impl QuotaLease {
    /// Takes one of the drawn requests, or refuses if the quota is known to be exhausted; `None` if neither
    /// is so.
    fn take_from_lease(&self, terms: &QuotaTerms) -> Option<Result<QuotaLeft, Refusal>> {
        let now = Instant::now();
        let mut drawn = self.state();
        if drawn.requests > 0 && drawn.until.is_some_and(|until| now < until) {
            drawn.requests -= 1;
            return Some(Ok(terms.allowance(drawn.requests.saturating_add(drawn.left))));
        }
        let none_for = drawn.none_until.map(|until| until.saturating_duration_since(now));
        let none_for = none_for.filter(|none_for| !none_for.is_zero())?;
        Some(Err(terms.exceeded(seconds(none_for))))
    }

    /// Returns how many requests to draw: twice as many as last time if all of those were spent, else half as
    /// many, since requests that are not spent are lost.
    fn wants(&self, terms: &QuotaTerms) -> u32 {
        let mut drawn = self.state();
        let most = terms.burst.min(terms.per_second).get() / PARTS;
        let size = if drawn.requests == 0 { drawn.size.saturating_mul(2) } else { drawn.size / 2 };
        drawn.size = size.clamp(1, most.clamp(1, DRAWN_MAX));
        drawn.size
    }

    /// Stores the granted requests, of which the caller takes one.
    fn fill_lease(&self, terms: &QuotaTerms, reply: &RedisReply) -> Result<QuotaLeft, Refusal> {
        let &RedisReply { granted, left, wait } = reply;
        let now = Instant::now();
        let mut drawn = self.state();
        drawn.left = left;
        drawn.requests = granted.saturating_sub(1);
        drawn.until = Some(now + GOOD_FOR);
        drawn.none_until = (granted == 0).then_some(now + wait);
        match granted {
            0 => Err(terms.exceeded(seconds(wait))),
            _ => Ok(terms.allowance(drawn.requests.saturating_add(left))),
        }
    }

    fn state(&self) -> MutexGuard<'_, Drawn> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whole seconds, rounded up so that a retry after them is not refused again.
fn seconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests;
