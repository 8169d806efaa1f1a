//! State that several gateways share through Redis: consumers' quotas, the rate of queries to SDS, and the
//! directory's answers.
//!
//! Redis is optional, and so is each of its answers: while it cannot be used, every gateway goes on alone. A
//! connection that failed in any way is not used again: the next may lead to another server, which is how a
//! failover is followed.

use std::borrow::Cow;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use aws_lc_rs::hmac;

use crate::metrics::Metrics;
use crate::tls::{LegUse, Loader, ServiceLeg, TrustError, secret};
use spine_types::check_range;

mod answers;
#[cfg(feature = "redis")]
mod client;
#[cfg(not(feature = "redis"))]
#[path = "sharing/no_client.rs"]
mod client;
mod rate;

pub(crate) use answers::{OpenedAnswers, PracticeClaim};
pub(crate) use rate::{MissingRate, RateDraw, RateGrant};

use client::RedisClient;

/// Time for which Redis is not asked after it could not be used.
pub(crate) const AWAY: Duration = Duration::from_secs(1);
/// Limit: shortest and longest time for which an answer of Redis is waited for.
const WAIT_MIN: Duration = Duration::from_millis(1);
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Minimum length of the key of directory answers, in bytes.
const KEY_BYTES_MIN: usize = 32;

/// Redis server through which gateways share quotas, the rate of queries to SDS, and directory answers.
#[derive(Debug, Clone, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RedisSettings {
    /// URL of the server, as in `rediss://host:port/database`, with `user@` before the host if it is not the
    /// default user. With `redis://` everything is sent unencrypted.
    #[serde(serialize_with = "without_password")]
    pub url: String,
    /// File that holds the password, if one is needed, and nothing else.
    pub password_file: Option<PathBuf>,
    /// TLS towards the server; needed for `rediss://`.
    pub tls: Option<ServiceLeg>,
    /// Time for which an answer is waited for, from 1 ms to 10 s. A look-up may wait for some four answers.
    #[serde(default = "wait", with = "spine_types::period")]
    #[schemars(with = "String")]
    pub wait: Duration,
    /// Largest number of gateways that use the server at once. While it cannot be used, each of them sends this
    /// part of `directory.sds-api.per-second`.
    pub gateways: NonZeroU32,
    /// File that holds only the key by which gateways recognise each other's directory answers, of 32 bytes or
    /// more; all of them need the same. Without it, each gateway asks for itself.
    pub key_file: Option<PathBuf>,
}

/// Serializes a URL without user and password.
fn without_password<S: serde::Serializer>(url: &str, to: S) -> Result<S::Ok, S::Error> {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => to.collect_str(&format_args!("{scheme}://{host}")),
        _ => to.serialize_str(url),
    }
}

const fn wait() -> Duration {
    Duration::from_millis(50)
}

/// Error returned when a Redis server cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SharingError {
    /// A setting cannot be used: its key and the reason.
    #[error("redis.{0}: {1}")]
    Setting(&'static str, String),
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] TrustError),
}

impl SharingError {
    /// Returns the file at fault, if it is a file.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Setting(..) => None,
            Self::File(error) => Some(error.path()),
        }
    }
}

impl RedisSettings {
    /// Checks the server's URL, and that it has TLS settings if and only if it needs them.
    ///
    /// # Errors
    /// Returns a text that names the first key with a value that is not allowed.
    pub fn check(&self) -> Result<(), String> {
        let fault = |key, why: &str| SharingError::Setting(key, why.to_owned()).to_string();
        match (self.url.split_once("://"), &self.tls) {
            (Some(("redis", _)), None) => {}
            (Some(("rediss", _)), Some(tls)) => tls.check("redis.tls")?,
            (Some(("redis", _)), Some(_)) => {
                return Err(fault("tls", "the URL must begin with rediss:// for TLS to be used"));
            }
            (Some(("rediss", _)), None) => {
                return Err(fault("tls", "it is missing, and the URL begins with rediss://"));
            }
            _ => return Err(fault("url", "it must begin with redis:// or rediss://")),
        }
        check_range("redis.wait", &self.wait, WAIT_MIN..=WAIT_MAX)?;
        client::check(&self.url).map_err(|error| error.to_string())
    }

    /// Returns every path in these settings, to be made absolute.
    pub fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let tls = self.tls.iter_mut().flat_map(ServiceLeg::paths_mut);
        self.password_file.iter_mut().chain(&mut self.key_file).chain(tls)
    }

    /// Returns true if what is sent to the server can be read by others on the way.
    #[must_use]
    pub fn is_readable_on_the_way(&self) -> bool {
        let host =
            self.url.strip_prefix("redis://").map(|rest| rest.rsplit('@').next().unwrap_or(rest));
        let is_local = |host: &str| {
            ["127.0.0.1", "[::1]", "localhost"].iter().any(|local| host.starts_with(local))
        };
        host.is_some_and(|host| !is_local(host))
    }
}

/// State shared with other gateways; cheap to clone. Nothing is shared without a server.
#[derive(Debug, Clone)]
pub struct Sharing(Arc<SharingState>);

#[derive(Debug)]
struct SharingState {
    server: ArcSwapOption<RedisServer>,
    metrics: Arc<Metrics>,
}

/// Redis server, and its outage if it cannot be used.
#[derive(Debug)]
pub struct RedisServer {
    client: RedisClient,
    wait: Duration,
    gateways: NonZeroU32,
    /// Key of directory answers; `None` if they are not shared.
    key: Option<hmac::Key>,
    outage: Mutex<Option<RedisOutage>>,
}

/// Reason why Redis is not asked, and until when.
#[derive(Debug)]
struct RedisOutage {
    until: Instant,
    why: RedisFault,
}

/// Reason why Redis cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
struct RedisFault(Cow<'static, str>);

/// Script that Redis runs, as one step.
#[derive(Debug, Clone, Copy)]
enum SharedScript {
    Draw,
    Ask,
    Renew,
    Release,
    Publish,
}

#[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "only Redis runs scripts"))]
impl SharedScript {
    const ALL: [Self; 5] = [Self::Draw, Self::Ask, Self::Renew, Self::Release, Self::Publish];

    const fn text(self) -> &'static str {
        match self {
            Self::Draw => rate::DRAW,
            Self::Ask => answers::ASK,
            Self::Renew => answers::RENEW_CLAIM,
            Self::Release => answers::RELEASE,
            Self::Publish => answers::PUBLISH,
        }
    }
}

/// Value in an answer of Redis.
#[derive(Debug)]
#[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "only Redis answers"))]
enum RedisValue {
    Number(i64),
    Bytes(Vec<u8>),
}

impl RedisFault {
    const FOREIGN: Self = Self(Cow::Borrowed("its answer does not fit the query"));
    const TIMED_OUT: Self = Self(Cow::Borrowed("no answer in time"));
}

impl RedisServer {
    /// Sets up a server and reads the files that its settings name; no connection is opened until the first
    /// query.
    ///
    /// # Errors
    /// Returns an error for the first file or setting that cannot be used.
    pub fn load(settings: &RedisSettings, loader: &mut Loader) -> Result<Self, SharingError> {
        let password = settings.password_file.as_deref().map(secret).transpose()?;
        let tls = settings.tls.as_ref().map(|tls| tls.config("redis", LegUse::REDIS, loader));
        let client = RedisClient::new(&settings.url, password, tls.transpose()?)?;
        let key = settings.key_file.as_deref().map(key).transpose()?;
        let (wait, gateways) = (settings.wait, settings.gateways);
        Ok(Self { client, wait, gateways, key, outage: Mutex::default() })
    }

    fn outage(&self) -> MutexGuard<'_, Option<RedisOutage>> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_asked(&self) -> bool {
        self.outage().as_ref().is_none_or(|outage| outage.until <= Instant::now())
    }
}

/// Reads the key of directory answers.
fn key(path: &Path) -> Result<hmac::Key, TrustError> {
    let text = secret(path)?;
    if text.len() < KEY_BYTES_MIN {
        return Err(TrustError::new(path, "has fewer than 32 bytes, which others could guess"));
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes()))
}

impl Sharing {
    /// Returns a handle without a server.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(SharingState { server: ArcSwapOption::empty(), metrics }))
    }

    /// Puts another server in force, or none. An outage goes on until the new server has answered.
    pub fn replace(&self, server: Option<RedisServer>) {
        let Self(state) = self;
        let outage = state.server.load().as_ref().and_then(|before| before.outage().take());
        let is_up = server.is_some() && outage.is_none();
        if let Some(server) = &server {
            *server.outage() = outage;
        }
        state.metrics.redis_up.set(i64::from(is_up));
        state.server.store(server.map(Arc::new));
    }

    /// Returns true if a server is configured.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.0.server.load().is_some()
    }

    /// Returns true if a server is configured and could not be used when it was last asked.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.0.server.load().as_ref().is_some_and(|server| server.outage().is_some())
    }

    /// Returns the largest number of gateways that share the server; `None` without one.
    pub(crate) fn gateways(&self) -> Option<NonZeroU32> {
        self.0.server.load().as_ref().map(|server| server.gateways)
    }

    /// Returns the time for which an answer is waited for; `None` without a server.
    pub(crate) fn wait(&self) -> Option<Duration> {
        self.0.server.load().as_ref().map(|server| server.wait)
    }

    /// Returns true if there is a server that is asked now: it could be used, or has not been tried for a while.
    pub(crate) fn is_asked(&self) -> bool {
        self.0.server.load().as_ref().is_some_and(|server| server.is_asked())
    }

    /// Runs a script and reads its answer; `None` if there is no server, or if it cannot be used now.
    async fn run<T>(
        &self,
        script: SharedScript,
        keys: &[&str],
        arguments: &[&[u8]],
        read: impl FnOnce(Vec<RedisValue>) -> Option<T>,
    ) -> Option<T> {
        let server = self.0.server.load_full().filter(|server| server.is_asked())?;
        let answer = server.client.run(script, keys, arguments);
        let answer = match tokio::time::timeout(server.wait, answer).await {
            Ok(answer) => answer.and_then(|values| read(values).ok_or(RedisFault::FOREIGN)),
            Err(_) => Err(RedisFault::TIMED_OUT),
        };
        match answer {
            Ok(answer) => {
                if server.outage().take().is_some() {
                    tracing::info!(
                        "Redis can be used again: quotas, the rate of queries to SDS and directory answers are \
                         shared between gateways"
                    );
                    self.0.metrics.redis_up.set(1);
                }
                Some(answer)
            }
            Err(why) => {
                self.leave(&server, why);
                None
            }
        }
    }

    /// Closes the connection, and does not ask Redis for a while. A query that began before the last failure says
    /// nothing new when it fails too.
    fn leave(&self, server: &RedisServer, why: RedisFault) {
        server.client.disconnect();
        let (mut outage, now) = (server.outage(), Instant::now());
        if outage.as_ref().is_some_and(|outage| now < outage.until) {
            return;
        }
        if outage.as_ref().is_none_or(|outage| outage.why != why) {
            tracing::warn!(
                %why,
                "Redis cannot be used: this gateway goes on alone, with quotas of its own, its part of the rate \
                 of queries to SDS, and its own directory answers; a new connection is tried every second"
            );
        }
        self.0.metrics.redis_up.set(0);
        *outage = Some(RedisOutage { until: now + AWAY, why });
    }
}
