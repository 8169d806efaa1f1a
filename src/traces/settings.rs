//! Settings of traces.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use rustls::ClientConfig;

use super::otlp::SpanEncoder;
use crate::outbound::ServiceUrl;
use crate::tls::{TrustError, plain_client, secret};
use spine_types::check_range;

/// Traces of exchanges, sent to a receiver of OTLP; off if the section is absent.
#[derive(Debug, Clone, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TracesSettings {
    /// URL that spans are posted to as OTLP over HTTP, in binary Protobuf, such as
    /// `https://collector.example.nhs.uk:4318/v1/traces`: the whole URL, nothing is appended to it.
    pub endpoint: String,
    /// Share of the traces begun by this proxy that are exported, from 0 to 1. A consumer that sends
    /// `traceparent` decides for its own.
    #[serde(default = "ratio")]
    pub ratio: f64,
    /// Name of this service in its spans.
    #[serde(default = "service_name")]
    pub service_name: String,
    /// Authorities that issue the receiver's TLS certificate, as PEM files; needed for `https`.
    #[serde(default)]
    pub authorities: Vec<PathBuf>,
    /// File of headers for the receiver, such as `Authorization: Bearer …`, one a line. It is read before each
    /// export. Needs `https`, or a loopback address.
    pub headers_file: Option<PathBuf>,
    /// Longest time from an exchange's end to the export of its spans, and pause before a failed export is
    /// tried again, from 10 ms to 60 s.
    #[serde(default = "delay", with = "spine_types::period")]
    #[schemars(with = "String")]
    pub delay: Duration,
    /// Time for one export, from the connection to the whole answer, from 10 ms to 60 s.
    #[serde(default = "wait", with = "spine_types::period")]
    #[schemars(with = "String")]
    pub wait: Duration,
}

const fn ratio() -> f64 {
    0.1
}

fn service_name() -> String {
    "spine-proxy".to_owned()
}

const fn delay() -> Duration {
    Duration::from_secs(5)
}

const fn wait() -> Duration {
    Duration::from_secs(10)
}

/// Number of random bits at the end of a trace id by which a trace is sampled or not.
pub const SAMPLE_BITS: u32 = 52;
/// Headers that each export has of its own.
const OWN: [HeaderName; 5] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::HOST,
    header::TRANSFER_ENCODING,
];
/// Limit: headers for the receiver.
const HEADERS_MAX: usize = 16;

/// Error returned when traces cannot be exported with these settings.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// A setting cannot be used.
    #[error("traces: {0}")]
    Setting(String),
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] TrustError),
}

impl TracesError {
    /// Returns the file at fault, if it is a file.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Setting(_) => None,
            Self::File(error) => Some(error.path()),
        }
    }
}

/// Files that an export needs, read.
#[derive(Debug)]
pub(super) struct ExportFiles {
    /// TLS settings, if the URL has the scheme `https`.
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) headers: HeaderMap,
}

impl TracesSettings {
    /// Checks the settings, without reading files.
    ///
    /// # Errors
    /// Returns a text that names the first key with a value that is not allowed.
    pub fn check(&self) -> Result<(), String> {
        SpanEncoder::new(&self.service_name)?;
        let allowed = Duration::from_millis(10)..=Duration::from_secs(60);
        check_range("traces.delay", &self.delay, allowed.clone())?;
        check_range("traces.wait", &self.wait, allowed)?;
        if !(0.0..=1.0).contains(&self.ratio) {
            return Err(format!("traces.ratio is {}; it must be from 0 to 1", self.ratio));
        }
        if self.service_name.is_empty() {
            return Err("traces.service-name is empty; name this service".to_owned());
        }
        self.endpoint().map(drop)
    }

    /// Reads the files that an export needs.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read, or does not hold what it should.
    pub fn check_files(&self) -> Result<(), TracesError> {
        self.files(self.endpoint().map_err(TracesError::Setting)?.is_https).map(drop)
    }

    /// Returns the receiver.
    pub(super) fn endpoint(&self) -> Result<ServiceUrl, String> {
        let fault = |why: &str| format!("traces.endpoint: {:?}: {why}", self.endpoint);
        let url = ServiceUrl::parse(&self.endpoint).map_err(fault)?;
        // Security: the headers are a secret.
        if self.headers_file.is_some() && !url.is_https && !url.is_loopback() {
            return Err(fault(
                "must begin with https:// where headers-file is set, unless its host is a loopback address",
            ));
        }
        if url.is_https && self.authorities.is_empty() {
            return Err(
                "traces.authorities is empty, and traces.endpoint begins with https://; name the \
                        authorities that issue its certificate"
                    .to_owned(),
            );
        }
        Ok(url)
    }

    /// Reads the files that an export needs.
    pub(super) fn files(&self, is_https: bool) -> Result<ExportFiles, TracesError> {
        let tls = is_https.then(|| plain_client(&self.authorities)).transpose()?;
        let headers = self.headers_file.as_deref().map(headers).transpose()?;
        Ok(ExportFiles { tls, headers: headers.unwrap_or_default() })
    }

    /// Returns the number below which the last bits of a trace id must be for the trace to be sampled.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a ratio from 0 to 1 of 2^52"
    )]
    pub(super) fn sampled_below(&self) -> u64 {
        (self.ratio * (1_u64 << SAMPLE_BITS) as f64) as u64
    }

    /// Returns every path in these settings, to be made absolute.
    pub fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        self.authorities.iter_mut().chain(&mut self.headers_file)
    }
}

/// Reads a file of headers. Security: an error names the line, and never what is in it.
fn headers(path: &Path) -> Result<HeaderMap, TrustError> {
    let mut headers = HeaderMap::new();
    for (line, number) in secret(path)?.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty())
    {
        let header = line.split_once(':').and_then(|(name, value)| {
            let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
            let name = (!OWN.contains(&name)).then_some(name)?;
            let mut value = HeaderValue::from_str(value.trim()).ok()?;
            value.set_sensitive(true);
            Some((name, value))
        });
        let Some((name, value)) = header.filter(|_| headers.len() < HEADERS_MAX) else {
            let why = format!(
                "line {number} is no header such as `Authorization: Bearer …`, or one that the export has of \
                 its own, or one too many: at most \
                 {HEADERS_MAX} are allowed"
            );
            return Err(TrustError::new(path, why));
        };
        headers.append(name, value);
    }
    Ok(headers)
}
