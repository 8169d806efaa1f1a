//! Forwards a permitted request to its provider, and streams the response back.
//!
//! Bodies are neither buffered, rewritten nor compressed, and redirects are not followed. This module alone
//! decides on retries, and on what may be said about a request that failed.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::time::Duration;

use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use ipnet::IpNet;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::audit::Transfer;
use crate::metrics::Metrics;
use crate::policy::Permit;
use crate::refusal::{Reached, Refusal};
use crate::throttle::ProviderPlace;
use crate::tls::Trust;
use spine_types::interaction::Effect;

mod body;
mod dial;
mod failure;
mod headers;
mod pool;
mod resolve;

pub use body::{BodyPace, PaceFault, Paced, ProviderBody, Upload};
pub use failure::Unanswered;
pub use headers::{ConsumerHop, EXCHANGE, RECEIPT};
pub use pool::IDLE_MAX;

use body::UploadFate;
use dial::{DialFault, Dialler};
use failure::{SendFailure, failed};
use pool::{Pool, PoolKey, PooledConnection, SendResult};

/// Deadlines, limits and networks of connections to providers.
#[derive(Debug, Clone, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ForwardSettings {
    /// Networks in which providers may be dialled. An address outside is not dialled, whatever the
    /// directory or DNS says.
    #[schemars(with = "Vec<String>")]
    pub networks: Vec<IpNet>,
    /// Addresses (`address:port`) to dial for a host, in any case, whatever DNS says.
    ///
    /// Its certificate must still have the host's name. A host that is listed twice in different cases is an
    /// error.
    #[serde(default)]
    pub hosts: BTreeMap<String, SocketAddr>,
    /// Name servers to ask instead of the system's.
    #[serde(default)]
    pub nameservers: Vec<SocketAddr>,
    /// Deadlines, each with a default.
    #[serde(default)]
    pub deadlines: ProviderDeadlines,
    /// Idle connections that a worker keeps to one host.
    #[serde(default = "idle_max")]
    pub idle_max: usize,
    /// Passes consumers' `Cookie` to providers and providers' `Set-Cookie` to consumers. All practices share
    /// this proxy's origin: a cookie that one sets is sent to every other.
    #[serde(default)]
    pub pass_cookies: bool,
}

impl ForwardSettings {
    /// Checks the networks and hosts.
    ///
    /// # Errors
    /// Returns a text that names the first key with a value that is not allowed.
    pub fn check(&self) -> Result<(), String> {
        if self.networks.is_empty() {
            return Err(
                "provider.networks is empty: no provider could be connected to; name their \
                        networks"
                    .into(),
            );
        }
        let mut hosts = HashSet::new();
        let twice = |host: &&String| !hosts.insert(host.to_ascii_lowercase());
        match self.hosts.keys().find(twice) {
            Some(host) => Err(format!(
                "provider.hosts: {host} is listed twice, in different cases; remove one"
            )),
            None => Ok(()),
        }
    }
}

/// Deadlines of connections to providers.
#[derive(Debug, Clone, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ProviderDeadlines {
    /// Time from the DNS query to a TCP connection.
    #[serde(with = "spine_types::period")]
    #[schemars(with = "String")]
    pub connect: Duration,
    /// Time for the TLS handshake.
    #[serde(with = "spine_types::period")]
    #[schemars(with = "String")]
    pub tls: Duration,
    /// Time from the last byte sent to the response head. Consumers give up at 30 s.
    #[serde(with = "spine_types::period")]
    #[schemars(with = "String")]
    pub response_head: Duration,
    /// Time between two pieces of a body, either way.
    #[serde(with = "spine_types::period")]
    #[schemars(with = "String")]
    pub body_idle: Duration,
    /// Time for a whole body, either way.
    #[serde(with = "spine_types::period")]
    #[schemars(with = "String")]
    pub body_total: Duration,
    /// Bytes per second that a body must keep up over the time it is waited for.
    pub body_rate_min: u32,
    /// Time for which an idle connection is kept.
    #[serde(with = "spine_types::period")]
    #[schemars(with = "String")]
    pub idle: Duration,
    /// Time for which an idle connection may still carry a write.
    #[serde(with = "spine_types::period")]
    #[schemars(with = "String")]
    pub idle_for_writes: Duration,
    /// Age up to which a connection is used.
    #[serde(with = "spine_types::period")]
    #[schemars(with = "String")]
    pub connection_age: Duration,
}

impl Default for ProviderDeadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            tls: Duration::from_secs(5),
            response_head: Duration::from_secs(20),
            body_idle: Duration::from_secs(20),
            body_total: Duration::from_secs(600),
            body_rate_min: 256,
            idle: Duration::from_secs(10),
            idle_for_writes: Duration::from_secs(2),
            connection_age: Duration::from_secs(300),
        }
    }
}

impl ProviderDeadlines {
    /// Returns the pace that a body must keep, either way.
    #[must_use]
    pub const fn pace(&self) -> BodyPace {
        BodyPace { idle: self.body_idle, total: self.body_total, rate_min: self.body_rate_min }
    }
}

const fn idle_max() -> usize {
    64
}

/// Limit: interim responses to one request.
const INTERIMS_MAX: usize = 16;

/// Forwards the requests of one worker to providers.
#[derive(Debug)]
pub struct Forwarder {
    deadlines: ProviderDeadlines,
    dialler: Dialler,
    pool: Arc<Pool>,
    retries: RetryBudget,
    pass_cookies: bool,
    metrics: Arc<Metrics>,
}

/// Parameters of one request to a provider, besides its permit.
#[derive(Debug)]
pub struct RequestTerms<'a> {
    /// Trust generation whose certificates are used.
    pub trust: &'a Trust,
    /// The consumer's hop, for the headers that describe it.
    pub hop: ConsumerHop<'a>,
    /// Cancelled when the consumer disconnects.
    pub gone: &'a CancellationToken,
    /// Progress of the transfer, as the sending side reports it.
    pub transfer: &'a Transfer,
    /// Place with the practice, held to the last byte of the answer.
    pub place: ProviderPlace,
}

impl Forwarder {
    /// Returns a forwarder with no connections yet.
    #[must_use]
    pub fn new(settings: &ForwardSettings, metrics: Arc<Metrics>) -> Self {
        let deadlines = settings.deadlines.clone();
        let pool = Pool::new(&deadlines, settings.idle_max);
        let dialler = Dialler::new(settings);
        let (pool, retries) = (Arc::new(pool), RetryBudget::default());
        Self { deadlines, dialler, pool, retries, pass_cookies: settings.pass_cookies, metrics }
    }

    /// Sends a permitted request, and returns the provider's response head; the body follows.
    ///
    /// # Errors
    /// Returns a refusal that says whether the request was not sent, or its outcome is unknown.
    pub async fn send(
        &self,
        permit: Permit,
        head: &Parts,
        upload: Upload,
        terms: RequestTerms<'_>,
    ) -> Result<Response<ProviderBody>, Unanswered> {
        let permit = &permit;
        let (effect, key) = (permit.interaction().effect(), Self::key(permit, terms.trust));
        let is_bodiless = upload.is_empty();
        let build = |upload| headers::request(permit, head, upload, &terms.hop, self.pass_cookies);
        let mut request = build(upload)?;
        let mut held = self.pool.take(&key, effect);
        self.retries.add_request();
        // Time lost on a dead connection counts towards the one deadline.
        let mut left = self.deadlines.response_head;
        loop {
            let (mut connection, reused) = match held.take() {
                Some(connection) => (connection, true),
                None => (self.open(permit, &key, &terms).await?, false),
            };
            if terms.gone.is_cancelled() {
                self.pool.give_back(connection);
                return Err(Refusal::ConsumerGone.into());
            }
            terms.transfer.sends_to(connection.address());
            if is_bodiless {
                terms.transfer.sent_whole();
            }
            let given_up = UploadGuard(Some(request.body().outcome()));
            let interims = InterimCount::count(&mut request);
            let sent_at = Instant::now();
            let response = pin!(connection.try_send(request));
            let failure = match answered(response, given_up, &interims, terms.transfer, left).await
            {
                Ok(response) => return self.judge(permit, response, connection, terms),
                Err(failure) => failure,
            };
            if reused && failure.is_silence() {
                self.drop_older(&key, sent_at);
            }
            left = left.saturating_sub(sent_at.elapsed());
            let may_be_repeated = reused
                && is_bodiless
                && !left.is_zero()
                && failure.may_be_repeated(effect, sent_at);
            if may_be_repeated && self.retries.take_retry() {
                tracing::debug!(
                    ?failure,
                    "a request is sent to the provider again, on another connection"
                );
                request = build(Upload::empty())?;
            } else if reused && let SendFailure::NotWritten(unsent) = failure {
                request = *unsent;
            } else {
                let is_of_dead_connection = reused && failure.is_of_dead_connection(sent_at);
                let unanswered = failure.unanswered(permit, terms.transfer);
                return Err(Unanswered { is_of_dead_connection, ..unanswered });
            }
            terms.transfer.nothing_sent();
            self.metrics.provider_retry();
        }
    }

    /// Drops the idle connections that are no better than a kept one on which a request has just failed.
    fn drop_older(&self, key: &PoolKey, sent_at: Instant) {
        let dropped = self.pool.drop_older(&key.address, sent_at.into_std());
        if dropped > 0 {
            let (host, address) = (&key.name, &key.address);
            tracing::info!(
                %host,
                %address,
                dropped,
                "a request on a kept connection to a provider got no answer; \
                 idle connections to its address that have not answered since were closed"
            );
        }
    }

    /// Drops connections that have been idle or in use for too long, for as long as it is polled.
    pub async fn remove_unused(&self) {
        self.pool.remove_unused().await;
    }

    fn key(permit: &Permit, trust: &Trust) -> PoolKey {
        let provider = permit.provider();
        let (address, name) = (Arc::clone(&provider.address), Arc::clone(&provider.host));
        PoolKey { address, name, generation: trust.generation }
    }

    async fn open(
        &self,
        permit: &Permit,
        key: &PoolKey,
        terms: &RequestTerms<'_>,
    ) -> Result<PooledConnection, Unanswered> {
        // Boxed: few requests dial, and each would hold the memory for it.
        let dialling = Box::pin(self.dialler.open(key, &terms.trust.provider));
        let dialled = tokio::select! {
            dialled = dialling => dialled,
            () = terms.gone.cancelled() => return Err(Refusal::ConsumerGone.into()),
        };
        let (sender, address) = dialled.map_err(|fault| {
            let cause = Some(format!("it could not be reached: {fault}"));
            let refusal = match fault {
                DialFault::TimedOut(_) => Refusal::ProviderTimedOut { reached: Reached::NotSent },
                DialFault::Refused(..) => failed(permit, Reached::NotSent),
            };
            Unanswered { refusal, cause, is_of_dead_connection: false }
        })?;
        self.metrics.provider_connection();
        Ok(PooledConnection::new(key.clone(), sender, address))
    }

    fn judge(
        &self,
        permit: &Permit,
        response: Response<Incoming>,
        connection: PooledConnection,
        terms: RequestTerms<'_>,
    ) -> Result<Response<ProviderBody>, Unanswered> {
        let status = response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS || status.as_u16() >= 600 {
            let reached = match permit.interaction().effect() {
                Effect::Reads => Reached::Read,
                Effect::Writes => Reached::Unknown,
            };
            let cause = format!(
                "it answered with the status {}, which cannot be passed on",
                status.as_u16()
            );
            let refusal = failed(permit, reached);
            return Err(Unanswered { refusal, cause: Some(cause), is_of_dead_connection: false });
        }
        let (mut head, body) = response.into_parts();
        headers::filter_response(&mut head.headers, terms.hop.proxy, self.pass_cookies);
        head.version = Version::HTTP_11;
        let body = Paced::new(body, Version::HTTP_11, self.deadlines.pace());
        let body = ProviderBody::new(body, connection, Arc::clone(&self.pool), terms.place);
        Ok(Response::from_parts(head, body))
    }
}

/// Returns the response head, which must come within its deadline after the last byte sent.
async fn answered(
    mut response: Pin<&mut impl Future<Output = SendResult>>,
    mut upload: UploadGuard,
    interims: &InterimCount,
    transfer: &Transfer,
    head_within: Duration,
) -> Result<Response<Incoming>, SendFailure> {
    let mut since = Instant::now();
    loop {
        let deadline = since + head_within;
        tokio::select! {
            response = &mut response => {
                let fault = upload.0.as_deref().and_then(UploadFate::fault);
                let tried = response.map_err(|error| SendFailure::of(error, fault));
                if matches!(tried, Ok(_) | Err(SendFailure::NotWritten(_))) {
                    upload.0 = None;
                }
                return tried;
            }
            () = interims.too_many() => return Err(SendFailure::Interims),
            () = tokio::time::sleep_until(deadline) => {}
        }
        match transfer.last_sent().map(Instant::from_std) {
            // The consumer is slow, and its own pace is judged elsewhere.
            _ if transfer.is_waiting() => since = Instant::now(),
            Some(last) if last > since => since = last,
            _ => return Err(SendFailure::TimedOut),
        }
    }
}

/// Counts interim responses, of which a provider could send any number.
struct InterimCount {
    count: AtomicUsize,
    too_many: Notify,
}

impl InterimCount {
    fn count(request: &mut Request<Upload>) -> Arc<Self> {
        let interims = Arc::new(Self { count: AtomicUsize::new(0), too_many: Notify::new() });
        let counting = Arc::clone(&interims);
        hyper::ext::on_informational(request, move |_| {
            if counting.count.fetch_add(1, Ordering::Relaxed) == INTERIMS_MAX {
                counting.too_many.notify_one();
            }
        });
        interims
    }

    async fn too_many(&self) {
        self.too_many.notified().await;
    }
}

/// Gives an upload up when dropped.
///
/// hyper may still be sending it when its answer is no longer awaited, and must not send its end after the
/// proxy has said that it was not sent.
struct UploadGuard(Option<Arc<UploadFate>>);

impl Drop for UploadGuard {
    fn drop(&mut self) {
        if let Some(fate) = &self.0 {
            fate.give_up();
        }
    }
}

/// Budget of one retry for every ten requests, so that retries cannot double a provider's load.
///
/// It holds as many as connections are kept to one host by default, which may all be lost at once.
#[derive(Debug)]
struct RetryBudget(AtomicI32);

impl Default for RetryBudget {
    fn default() -> Self {
        Self(AtomicI32::new(Self::MAX))
    }
}

impl RetryBudget {
    const RETRY: i32 = 10;
    const MAX: i32 = 64 * Self::RETRY;

    fn add_request(&self) {
        let earned = |tokens: i32| (tokens < Self::MAX).then_some(tokens + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, earned).unwrap_or_default();
    }

    fn take_retry(&self) -> bool {
        let spent = |tokens: i32| (tokens >= Self::RETRY).then_some(tokens - Self::RETRY);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spent).is_ok()
    }
}
