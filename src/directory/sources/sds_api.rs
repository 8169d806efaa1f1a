//! Client of the SDS FHIR R4 API: one HTTPS exchange per query, typed records.
//!
//! Spec: `GET /Endpoint` is `nhsMhs`, `GET /Device` is `nhsAs`. Parameters always have the same order and
//! encoding, because caches on the way key on the URL's text.

use std::fmt::Write as _;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout_at;
use tokio_rustls::TlsConnector;

mod bundle;

pub(crate) use bundle::{handlers, systems};

use super::super::settings::SourceDeadlines;
use super::query::{
    AccreditedSystem, Handler, HandlersOf, QueryOptions, SourceFault, SystemsOf, watch_over,
};
use crate::tls::ServiceLeg;
use spine_types::InnerUrl;

/// Settings of the SDS FHIR API.
#[derive(Debug, Clone, Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ApiSettings {
    /// Base URL, for example `https://api.service.nhs.uk/spine-directory/FHIR/R4`.
    pub url: String,
    /// File that contains only the API key; the sandbox needs none.
    pub key_file: Option<PathBuf>,
    /// TLS towards the API.
    pub tls: ServiceLeg,
    /// Maximum number of queries per second, and of a burst; at most 8 are under way. The service's own limit
    /// is five per second.
    #[serde(default = "per_second")]
    pub per_second: NonZeroU32,
}

const fn per_second() -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(3)
}

/// Client of the SDS FHIR API, with at most one idle connection.
pub(super) struct SdsApi {
    url: String,
    authority: String,
    host: ServerName<'static>,
    address: String,
    base: String,
    key: Option<HeaderValue>,
    tls: TlsConnector,
    connect: Duration,
    attempt: Duration,
    idle: Mutex<Option<SendRequest<Empty<Bytes>>>>,
}

/// Limit: bytes of a response body. A national system has some five hundred interactions.
const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;

const ODS: &str = "https://fhir.nhs.uk/Id/ods-organization-code";
const INTERACTION: &str = "https://fhir.nhs.uk/Id/nhsServiceInteractionId";
const PARTY_KEY: &str = "https://fhir.nhs.uk/Id/nhsMhsPartyKey";

impl SdsApi {
    /// Returns a client without a connection.
    ///
    /// # Errors
    /// Returns a text if the URL or the key cannot be used.
    pub(super) fn new(
        settings: &ApiSettings,
        key: Option<&str>,
        tls: Arc<ClientConfig>,
        deadlines: &SourceDeadlines,
    ) -> Result<Self, String> {
        let fault = |why: &dyn std::fmt::Display| format!("{:?}: {why}", settings.url);
        let url = InnerUrl::parse(&settings.url).map_err(|why| fault(&why))?;
        if url.query.is_some() {
            return Err(fault(&"the base URL must not have a query"));
        }
        let name = url.authority.split(':').next().unwrap_or_default().to_owned();
        let port = if url.authority.contains(':') { "" } else { ":443" };
        let key = key.map(|key| {
            let mut key = HeaderValue::from_str(key)
                .map_err(|_| "the key has characters that an HTTP header cannot carry")?;
            key.set_sensitive(true);
            Ok::<_, String>(key)
        });
        Ok(Self {
            url: settings.url.clone(),
            authority: url.authority.to_owned(),
            host: ServerName::try_from(name).map_err(|why| fault(&why))?,
            address: format!("{}{port}", url.authority),
            base: url.path.trim_end_matches('/').to_owned(),
            key: key.transpose()?,
            tls: TlsConnector::from(tls),
            connect: deadlines.connect,
            attempt: deadlines.attempt,
            idle: Mutex::new(None),
        })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) async fn handlers(
        &self,
        asked: &HandlersOf<'_>,
        options: QueryOptions,
    ) -> Result<Vec<Handler>, SourceFault> {
        let mut query = SdsQuery::new("/Endpoint");
        if let Some(ods) = asked.ods {
            query.add("organization", ODS, ods.as_str());
        }
        if let Some(interaction) = asked.interaction {
            query.add("identifier", INTERACTION, interaction.id);
        }
        if let Some(party_key) = asked.party_key {
            query.add("identifier", PARTY_KEY, party_key.as_str());
        }
        handlers(&self.exchange(&query.0, options).await?)
    }

    pub(super) async fn systems(
        &self,
        asked: &SystemsOf<'_>,
        options: QueryOptions,
    ) -> Result<Vec<AccreditedSystem>, SourceFault> {
        let SystemsOf::Practice { ods, interaction, party_key } = asked else {
            return Err(SourceFault::Unsupported);
        };
        let mut query = SdsQuery::new("/Device");
        query.add("organization", ODS, ods.as_str());
        query.add("identifier", INTERACTION, interaction.id);
        query.add("identifier", PARTY_KEY, party_key.as_str());
        systems(&self.exchange(&query.0, options).await?)
    }

    /// Sends one query and returns the body; reuses the idle connection if it is still open.
    async fn exchange(&self, query: &str, options: QueryOptions) -> Result<Bytes, SourceFault> {
        let (deadline, slow) = options.limit(self.attempt);
        timeout_at(deadline, async {
            let kept = self.idle().take().filter(SendRequest::is_ready);
            let mut answered = None;
            if let Some(mut kept) = kept {
                // An idle connection that has been closed meanwhile is no failure of the source.
                let response = kept.send_request(self.request(query, options)?).await;
                answered = response.ok().map(|response| (kept, response));
            }
            let (sender, response) = match answered {
                Some(answered) => answered,
                None => {
                    let mut sender = self.open().await?;
                    let response = sender.send_request(self.request(query, options)?).await;
                    (sender, response.map_err(|why| unavailable(&why))?)
                }
            };
            let body = Self::read_response(response).await?;
            *self.idle() = Some(sender);
            Ok(body)
        })
        .await
        .map_err(|_| slow)?
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Option<SendRequest<Empty<Bytes>>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn open(&self) -> Result<SendRequest<Empty<Bytes>>, SourceFault> {
        let connect = tokio::time::timeout(self.connect, TcpStream::connect(&self.address));
        let stream = connect.await.map_err(|_| SourceFault::TimedOut)?;
        let stream = stream.map_err(|why| unavailable(&why))?;
        watch_over(&stream, self.attempt);
        let stream = self.tls.connect(self.host.clone(), stream).await;
        let stream = TokioIo::new(stream.map_err(|why| unavailable(&why))?);
        let (sender, connection) =
            http1::handshake(stream).await.map_err(|why| unavailable(&why))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the SDS FHIR API failed");
            }
        });
        Ok(sender)
    }

    /// Builds the request. Spec: `Accept` is compared as text; `X-Correlation-ID` must be a UUID.
    fn request(
        &self,
        query: &str,
        options: QueryOptions,
    ) -> Result<Request<Empty<Bytes>>, SourceFault> {
        let mut request = Request::get(format!("{}{query}", self.base))
            .header(header::HOST, &self.authority)
            .header(header::ACCEPT, "application/fhir+json")
            .header("X-Correlation-ID", options.id.hyphenated().to_string());
        if let Some(key) = &self.key {
            request = request.header("apikey", key.clone());
        }
        if options.past_caches {
            request = request.header(header::CACHE_CONTROL, "no-cache");
        }
        request.body(Empty::new()).map_err(|why| SourceFault::OurFault(why.to_string()))
    }

    async fn read_response(response: Response<Incoming>) -> Result<Bytes, SourceFault> {
        let status = response.status();
        let after = response.headers().get(header::RETRY_AFTER);
        let after = after.and_then(|after| after.to_str().ok()?.parse().ok());
        let after = after.map(|seconds: u64| Duration::from_secs(seconds.min(RETRY_AFTER_MAX_S)));
        match status {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(SourceFault::Denied(status.to_string()));
            }
            StatusCode::REQUEST_TIMEOUT => return Err(SourceFault::TimedOut),
            StatusCode::TOO_MANY_REQUESTS => return Err(SourceFault::RateLimited(after)),
            _ if status.is_client_error() => return Err(SourceFault::OurFault(status.to_string())),
            _ => return Err(SourceFault::Unavailable(status.to_string())),
        }
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await;
        let body = body.map_err(|why| match why.is::<LengthLimitError>() {
            // Not a failure of the source: the body is above our own limit.
            true => SourceFault::Truncated,
            false => SourceFault::Unavailable(why.to_string()),
        });
        Ok(body?.to_bytes())
    }
}

/// Limit: seconds of `Retry-After` that are honoured.
const RETRY_AFTER_MAX_S: u64 = 60;

impl std::fmt::Debug for SdsApi {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("SdsApi").field("authority", &self.authority).finish_non_exhaustive()
    }
}

/// Builder of a path and query. Only the bar between system and value is escaped; identifiers need no
/// escaping.
struct SdsQuery(String);

impl SdsQuery {
    fn new(path: &str) -> Self {
        Self(path.to_owned())
    }

    fn add(&mut self, name: &str, system: &str, value: &str) {
        let separator = if self.0.contains('?') { '&' } else { '?' };
        // Writing to a `String` cannot fail.
        write!(self.0, "{separator}{name}={system}%7C{value}").unwrap_or_default();
    }
}

fn malformed(why: String) -> SourceFault {
    SourceFault::Malformed(why)
}

fn unavailable(why: &dyn std::fmt::Display) -> SourceFault {
    SourceFault::Unavailable(why.to_string())
}
