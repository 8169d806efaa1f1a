//! Requests of `call`: their heads, sending them, and printing them as a curl command.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use http_body_util::Full;
use jiff::Timestamp;
use rustls::ClientConfig;
use serde_json::Value;
use spine_types::interaction::{Effect, Interaction};
use spine_types::{Asid, OdsCode, SspHeader, masked};
use tokio::time::Instant;

use super::answer::{CallAnswer, reason};
use super::{note, usage};
use crate::claims;
use crate::failure::Failure;
use crate::outbound::ServiceUrl;
use crate::tls::KeyPair;

/// Limit: time from the start of a request to the end of its answer. The proxy answers within 45 seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Limit: size of an answer's body, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Limit: line of a head that is printed, in bytes.
const LINE_BYTES_MAX: usize = 8192;
/// Media type of requests with a body, and of the answers asked for.
const FHIR_JSON: &str = "application/fhir+json;charset=utf-8";

/// Consumer that sends requests to one practice through a proxy.
pub(super) struct Caller {
    pub(super) proxy: ServiceUrl,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) authorities: PathBuf,
    pub(super) certificate: Option<KeyPair>,
    pub(super) asid: Asid,
    pub(super) consumer: OdsCode,
    pub(super) practice: OdsCode,
    pub(super) to: Option<Asid>,
    pub(super) root: Option<String>,
    pub(super) is_verbose: bool,
}

/// Header given by the user.
pub(super) struct CallerHeader {
    name: HeaderName,
    /// Value; without one, the header is left out.
    value: Option<HeaderValue>,
}

/// Request to the practice's system.
pub(super) struct CallRequest {
    pub(super) interaction: &'static Interaction,
    /// Path after the service root, with the query.
    pub(super) path: String,
    pub(super) body: Option<String>,
    /// Version of the resource that is changed.
    pub(super) if_match: Option<HeaderValue>,
    /// Headers given by the user.
    pub(super) headers: Vec<CallerHeader>,
}

impl CallerHeader {
    /// Reads `name: value`.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        // The value may be a token: it is not part of the error.
        let fault = || usage("--header: write it as NAME: VALUE, in visible characters");
        let (name, value) = text.split_once(':').ok_or_else(fault)?;
        let name = name.trim().parse().map_err(|_| fault())?;
        let value = value.trim();
        let parsed = HeaderValue::from_str(value).map_err(|_| fault())?;
        Ok(Self { name, value: (!value.is_empty()).then_some(parsed) })
    }
}

impl Caller {
    /// Sends a request and reads the whole answer.
    pub(super) async fn send(&self, request: &CallRequest) -> Result<CallAnswer, Failure> {
        let trace_id = uuid::Uuid::new_v4();
        let headers = self.headers(request, &trace_id.to_string())?;
        let url = ServiceUrl { path: self.target(request), ..self.proxy.clone() };
        if self.is_verbose {
            let line = format!("{} {} HTTP/1.1", request.interaction.method, url.path);
            note_head('>', &line, &headers);
            note_claims(&headers);
        }
        let body = Bytes::from(request.body.clone().unwrap_or_default());
        let mut sent = Request::new(Full::new(body));
        *sent.method_mut() = request.interaction.method.clone();
        *sent.headers_mut() = headers;
        let began = Instant::now();
        let answered = url.send(Some(&self.tls), sent, ANSWER_BYTES_MAX);
        let answered = tokio::time::timeout(ANSWER_WITHIN, answered).await;
        let failed = |why: String| {
            let authority = &self.proxy.authority;
            let unknown = match request.interaction.effect() {
                Effect::Reads => "",
                Effect::Writes => "; it may have been carried out: read before you send it again",
            };
            Failure::Environment(anyhow!("no answer from {authority}: {why}{unknown}"))
        };
        let answered = answered
            .map_err(|_| failed(format!("not within {} s", ANSWER_WITHIN.as_secs())))?
            .map_err(failed)?;
        let took_ms = began.elapsed().as_millis();
        let status = reason(answered.status);
        if self.is_verbose {
            note_head('<', &format!("HTTP/1.1 {status}"), &answered.headers);
        }
        let body = answered.body.map_err(|why| failed(format!("the body broke off: {why}")))?;
        let answer =
            CallAnswer { status: answered.status, headers: answered.headers, body, trace_id };
        note(format_args!(
            "{} {} at {}: {status} from the {} in {took_ms} ms, trace id {trace_id}",
            request.interaction.method,
            request.interaction.template(),
            self.practice,
            if answer.refusal().is_some() { "proxy" } else { "practice" },
        ));
        Ok(answer)
    }

    /// Returns the target of a request: by the service root if there is one, else by the ODS code.
    fn target(&self, request: &CallRequest) -> String {
        match &self.root {
            Some(root) => format!("/{root}{}", request.path),
            None => format!("/{}{}", self.by_code(request.interaction), request.path),
        }
    }

    fn by_code(&self, interaction: &Interaction) -> String {
        format!("{}/STU3/1/{}", self.practice, interaction.capability)
    }

    /// Returns the token's audience: the service root, or the proxy's name with the ODS code.
    fn audience(&self, interaction: &Interaction) -> String {
        let host = &self.proxy.host;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let by_code = || format!("https://{host}/{}", self.by_code(interaction));
        self.root.clone().unwrap_or_else(by_code)
    }

    fn headers(&self, request: &CallRequest, trace_id: &str) -> Result<HeaderMap, Failure> {
        let interaction = request.interaction;
        let now_s = Timestamp::now().as_second();
        let audience = self.audience(interaction);
        let claims = claims::example_claims(&audience, &self.consumer, interaction.scope, now_s);
        let bearer = format!("Bearer {}", claims::mint(&claims));
        let to = self.to.as_ref().map(Asid::as_str);
        let body_type = request.body.as_ref().map(|_| FHIR_JSON);
        let made = [
            (SspHeader::TraceId.name(), Some(trace_id)),
            (SspHeader::From.name(), Some(self.asid.as_str())),
            (SspHeader::To.name(), to),
            (SspHeader::InteractionId.name(), Some(interaction.id)),
            ("Authorization", Some(&bearer)),
            ("Accept", Some(FHIR_JSON)),
            ("Content-Type", body_type),
        ];
        let mut headers = HeaderMap::new();
        for (name, value) in made {
            let Some(value) = value else { continue };
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(Failure::environment)?;
            headers.insert(name, HeaderValue::from_str(value).map_err(Failure::environment)?);
        }
        if let Some(version) = &request.if_match {
            headers.insert(header::IF_MATCH, version.clone());
        }
        for CallerHeader { name, value } in &request.headers {
            match value {
                Some(value) => drop(headers.insert(name.clone(), value.clone())),
                None => drop(headers.remove(name)),
            }
        }
        Ok(headers)
    }

    /// Returns a curl command that sends a request; its token is valid for five minutes.
    pub(super) fn curl(&self, request: &CallRequest) -> Result<String, Failure> {
        let file = |path: &Path| {
            let path = std::path::absolute(path).map_err(Failure::environment)?;
            Ok::<_, Failure>(quoted(&path.display().to_string()))
        };
        let mut line =
            format!("curl --path-as-is --globoff --http1.1 --cacert {}", file(&self.authorities)?);
        if let Some(KeyPair { chain, key }) = &self.certificate {
            write_part(&mut line, format_args!("--cert {} --key {}", file(chain)?, file(key)?));
        }
        write_part(&mut line, format_args!("-X {}", request.interaction.method));
        let trace_id = uuid::Uuid::new_v4().to_string();
        for (name, value) in &self.headers(request, &trace_id)? {
            let value = value.to_str().context("a header is not text").map_err(usage)?;
            write_part(&mut line, format_args!("-H {}", quoted(&format!("{name}: {value}"))));
        }
        if let Some(body) = &request.body {
            write_part(&mut line, format_args!("--data-binary {}", quoted(body)));
        }
        let url = format!("https://{}{}", self.proxy.authority, self.target(request));
        write_part(&mut line, format_args!("{}", quoted(&url)));
        Ok(line)
    }
}

/// Adds a part of a command on a line of its own.
fn write_part(command: &mut String, part: std::fmt::Arguments<'_>) {
    write!(command, " \\\n  {part}").unwrap_or_default();
}

/// Returns a text as one word of a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Prints a head; NHS numbers in it are masked, since standard error may be kept.
fn note_head(direction: char, line: &str, headers: &HeaderMap) {
    note(format_args!("{direction} {}", masked(line, LINE_BYTES_MAX)));
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        let value = if *name == header::AUTHORIZATION { "Bearer (see below)" } else { &value };
        note(format_args!("{direction} {name}: {}", masked(value, LINE_BYTES_MAX)));
    }
}

/// Prints the claims of the token that a request carries.
fn note_claims(headers: &HeaderMap) {
    let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let payload = token.and_then(|token| token.split('.').nth(1));
    let payload =
        payload.and_then(|part| base64_simd::URL_SAFE_NO_PAD.decode_to_vec(part.as_bytes()).ok());
    let claims = payload.and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    if let Some(claims) = claims {
        note(format_args!("* token: {claims}"));
    }
}
