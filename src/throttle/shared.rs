//! Quotas that several gateways share, through Redis.
//!
//! A gateway does not ask for each request: it draws some of a consumer's quota at once, spends that, and
//! lets what it has not spent go after a second. While Redis does not answer, each gateway keeps to the
//! quota by itself.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::{ConnectionManager, ConnectionManagerConfig};

use super::quota::{Account, Terms};
use crate::metrics::Metrics;
use crate::refusal::{Allowance, Refusal};
use crate::spine::Asid;
use crate::tls::secret;

/// Where quotas are shared.
#[derive(
    Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Sharing {
    /// `redis://host:port/database`. What is sent is not encrypted: ASIDs and counts.
    pub url: String,
    /// A file that holds the password, if one is needed, and nothing else.
    pub password_file: Option<PathBuf>,
    /// How long an answer is waited for.
    #[serde(default = "wait", with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub wait: Duration,
}

const fn wait() -> Duration {
    Duration::from_millis(50)
}

/// The way to Redis.
#[derive(Debug)]
pub(super) struct Shared {
    connection: ConnectionManager,
    script: redis::Script,
    wait: Duration,
    /// Until when it is not asked, after it did not answer.
    away_until: Mutex<Option<Instant>>,
}

/// What was drawn for one consumer.
#[derive(Debug, Default)]
pub(super) struct Lease {
    state: Mutex<Drawn>,
    /// Held by whoever asks for more.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Drawn {
    requests: u32,
    /// How many were asked for.
    size: u32,
    /// How much was left to all gateways.
    left: u32,
    until: Option<Instant>,
    /// Until when there is nothing to be had.
    none_until: Option<Instant>,
}

/// How long what was drawn is good for.
const GOOD_FOR: Duration = Duration::from_secs(1);
/// How long Redis is left alone after it did not answer.
const AWAY: Duration = Duration::from_secs(1);
/// What is drawn at once at most: this part of the quota, and no more than so many requests.
const PARTS: u32 = 20;
const DRAWN_MAX: u32 = 1000;

/// Generic cell rate, by the clock of Redis. Keys: the consumer. Arguments: microseconds between two
/// requests; requests at once; how many are wanted. Answers: how many are granted; how many more there
/// would be; microseconds until there is another.
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
return {granted, room - granted, math.max(due + interval - burst * interval - now, 0)}
";

/// Sharing that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SharingError {
    /// The address is none, or the password cannot be read.
    #[error("throttle.shared: {0}")]
    Address(String),
}

impl Sharing {
    /// Checks the address.
    ///
    /// # Errors
    /// It is none.
    pub fn check(&self) -> Result<(), SharingError> {
        if !self.url.starts_with("redis://") {
            return Err(SharingError::Address("the URL begins with redis://".to_owned()));
        }
        self.address().map(drop)
    }

    fn address(&self) -> Result<redis::ConnectionInfo, SharingError> {
        redis::IntoConnectionInfo::into_connection_info(self.url.as_str())
            .map_err(|error| SharingError::Address(error.to_string()))
    }

    fn client(&self) -> Result<redis::Client, SharingError> {
        let fault = |error: &dyn std::fmt::Display| SharingError::Address(error.to_string());
        let info = self.address()?;
        let info = match &self.password_file {
            None => info,
            Some(file) => {
                let password = secret(file).map_err(|error| fault(&error))?;
                let settings = info.redis_settings().clone().set_password(password);
                info.set_redis_settings(settings)
            }
        };
        redis::Client::open(info).map_err(|error| fault(&error))
    }
}

impl Shared {
    pub(super) fn new(sharing: &Sharing) -> Result<Self, SharingError> {
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(0)
            .set_response_timeout(Some(sharing.wait))
            .set_connection_timeout(Some(sharing.wait));
        let connection = ConnectionManager::new_lazy_with_config(sharing.client()?, config)
            .map_err(|error| SharingError::Address(error.to_string()))?;
        let (script, away_until) = (redis::Script::new(DRAW), Mutex::default());
        Ok(Self { connection, script, wait: sharing.wait, away_until })
    }

    /// One request of a consumer's quota; nothing while Redis does not answer.
    pub(super) async fn draw(
        &self,
        consumer: &Asid,
        account: &Account,
        metrics: &Metrics,
    ) -> Option<Result<Allowance, Refusal>> {
        let (lease, terms) = (&account.lease, &account.terms);
        if let Some(drawn) = lease.spend(terms) {
            return Some(drawn);
        }
        if self.is_away() {
            return None;
        }
        let _asking = lease.asking.lock().await;
        // Whoever asked before may have drawn enough.
        if let Some(drawn) = lease.spend(terms) {
            return Some(drawn);
        }
        if self.is_away() {
            return None;
        }
        match self.ask(consumer, terms, lease.wants(terms)).await {
            Some((granted, left, wait)) => {
                metrics.quotas_shared.set(1);
                Some(lease.draws(terms, granted, left, wait))
            }
            None => {
                if metrics.quotas_shared.get() == 1 {
                    tracing::warn!("Redis does not answer: quotas are kept by this gateway alone");
                }
                metrics.quotas_shared.set(0);
                *self.away() = Some(Instant::now() + AWAY);
                None
            }
        }
    }

    async fn ask(
        &self,
        consumer: &Asid,
        terms: &Terms,
        wanted: u32,
    ) -> Option<(u32, u32, Duration)> {
        let interval_us = (1_000_000 / terms.per_second.get()).max(1);
        let mut connection = self.connection.clone();
        let mut invocation = self.script.key(format!("spine-proxy:quota:{consumer}"));
        invocation.arg(interval_us).arg(terms.burst.get()).arg(wanted);
        let asked = invocation.invoke_async::<(u32, u32, u64)>(&mut connection);
        match tokio::time::timeout(self.wait, asked).await {
            Ok(Ok((granted, left, wait_us))) => {
                Some((granted, left, Duration::from_micros(wait_us)))
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "Redis");
                None
            }
            Err(_) => None,
        }
    }

    fn is_away(&self) -> bool {
        self.away().is_some_and(|until| Instant::now() < until)
    }

    fn away(&self) -> MutexGuard<'_, Option<Instant>> {
        self.away_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// One request of what was drawn, or that there is none to be had; nothing if that is not known.
    fn spend(&self, terms: &Terms) -> Option<Result<Allowance, Refusal>> {
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

    /// How much to draw: twice as much as last time if all of that was spent, half as much if it was not,
    /// for what is not spent is lost.
    fn wants(&self, terms: &Terms) -> u32 {
        let mut drawn = self.state();
        let most = terms.burst.min(terms.per_second).get() / PARTS;
        let size = if drawn.requests == 0 { drawn.size.saturating_mul(2) } else { drawn.size / 2 };
        drawn.size = size.clamp(1, most.clamp(1, DRAWN_MAX));
        drawn.size
    }

    /// What was granted, of which one is for whoever has asked.
    fn draws(
        &self,
        terms: &Terms,
        granted: u32,
        left: u32,
        wait: Duration,
    ) -> Result<Allowance, Refusal> {
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

/// Whole seconds, and never so few that it would be refused again.
fn seconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1)
}
