//! Requests of `call`: their heads, sending them, and printing them as a curl command.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use http_body_util::Full;
use jiff::Timestamp;
use rustls::ClientConfig;
use serde_json::Value;
use spine_types::interaction::{Effect, Interaction};
use spine_types::{Asid, OdsCode, SspHeader, masked};
use tokio::time::Instant;

use super::super::output::print_error;
use super::answer::{CallAnswer, reason};
use super::usage;
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

/// Consumer that sends requests to one practice.
#[derive(Clone)]
pub(in crate::commands) struct Caller {
    /// Proxy, or provider, that requests are sent to.
    pub(in crate::commands) server: ServiceUrl,
    pub(in crate::commands) tls: Arc<ClientConfig>,
    pub(in crate::commands) authorities: PathBuf,
    pub(in crate::commands) certificate: Option<KeyPair>,
    pub(in crate::commands) asid: Asid,
    pub(in crate::commands) consumer: OdsCode,
    pub(in crate::commands) practice: OdsCode,
    pub(in crate::commands) to: Option<Asid>,
    pub(in crate::commands) form: TargetForm,
    pub(in crate::commands) notes: CallNotes,
}

/// Form of the target, which names the practice.
#[derive(Debug, Clone)]
pub(in crate::commands) enum TargetForm {
    /// The service root: form (a).
    Root(String),
    /// The practice's ODS code: form (b).
    Code,
    #[cfg_attr(not(feature = "lab"), expect(dead_code, reason = "call has no need of it"))]
    /// A path, as the provider itself is asked, whose service root is this one.
    Provider(String),
}

/// Notes on standard error about the requests that are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::commands) enum CallNotes {
    /// No note at all.
    None,
    /// A line for each answer.
    Lines,
    /// The heads too, and the claims of tokens.
    Heads,
}

/// Error returned when a request has no complete answer.
#[derive(Debug, thiserror::Error)]
#[error("no answer from {authority}: {why}{unknown}")]
pub(in crate::commands) struct NoAnswer {
    /// Host and port that were asked.
    authority: String,
    why: String,
    /// Warning about a write, or nothing.
    unknown: &'static str,
    /// True if the time was over, false if the connection failed or was closed.
    pub(in crate::commands) is_late: bool,
}

/// Header in addition to those that are made, or instead of one.
#[derive(Debug, Clone)]
pub(in crate::commands) struct CallerHeader {
    name: HeaderName,
    /// Value; without one, the header is left out.
    value: Option<HeaderValue>,
}

/// Request to the practice's system.
#[derive(Debug, Clone)]
pub(in crate::commands) struct CallRequest {
    pub(in crate::commands) interaction: &'static Interaction,
    /// Path after the service root, with the query.
    pub(in crate::commands) path: String,
    pub(in crate::commands) body: Option<String>,
    /// Version of the resource that is changed.
    pub(in crate::commands) if_match: Option<HeaderValue>,
    /// Headers in addition to those that are made, or instead of them.
    pub(in crate::commands) headers: Vec<CallerHeader>,
    /// Method instead of the interaction's own.
    pub(in crate::commands) method: Option<Method>,
    /// Target instead of the one that is made.
    pub(in crate::commands) target: Option<String>,
}

impl CallRequest {
    /// Returns the method that is sent.
    pub(in crate::commands) fn method(&self) -> &Method {
        self.method.as_ref().unwrap_or(&self.interaction.method)
    }
}

impl CallerHeader {
    /// Reads `name: value`.
    pub(in crate::commands) fn parse(text: &str) -> Result<Self, Failure> {
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
    pub(in crate::commands) async fn send(
        &self,
        request: &CallRequest,
    ) -> Result<CallAnswer, Failure> {
        let trace_id = uuid::Uuid::new_v4();
        let headers = self.headers(request, &trace_id.to_string())?;
        let url = ServiceUrl { path: self.target(request), ..self.server.clone() };
        if self.notes == CallNotes::Heads {
            let line = format!("{} {} HTTP/1.1", request.method(), url.path);
            note_head('>', &line, &headers);
            note_claims(&headers);
        }
        let body = Bytes::from(request.body.clone().unwrap_or_default());
        let mut sent = Request::new(Full::new(body));
        *sent.method_mut() = request.method().clone();
        *sent.headers_mut() = headers;
        let began = Instant::now();
        let tls = url.is_https.then_some(&self.tls);
        let answered = tokio::time::timeout(ANSWER_WITHIN, url.send(tls, sent, ANSWER_BYTES_MAX));
        let late = || format!("not within {} s", ANSWER_WITHIN.as_secs());
        let answered = answered.await.map_err(|_| self.failed(request, late(), true))?;
        let answered = answered.map_err(|fault| match fault.is_sent {
            true => self.failed(request, fault.to_string(), false),
            false => Failure::environment(self.no_answer(fault.to_string())),
        })?;
        if self.notes == CallNotes::Heads {
            note_head('<', &format!("HTTP/1.1 {}", reason(answered.status)), &answered.headers);
        }
        let broken = |why| self.failed(request, format!("the body broke off: {why}"), false);
        let body = answered.body.map_err(broken)?;
        let (status, headers) = (answered.status, answered.headers);
        let answer = CallAnswer { status, headers, body, trace_id };
        if self.notes != CallNotes::None {
            print_error(format_args!(
                "{} {} at {}: {} from the {} in {} ms, trace id {trace_id}",
                request.method(),
                request.interaction.template(),
                self.practice,
                reason(status),
                if answer.refusal().is_some() { "proxy" } else { "practice" },
                began.elapsed().as_millis(),
            ));
        }
        Ok(answer)
    }

    /// Returns the error of a request that was not sent.
    fn no_answer(&self, why: String) -> NoAnswer {
        NoAnswer { authority: self.server.authority.clone(), why, unknown: "", is_late: false }
    }

    /// Returns the error of a request that may have been carried out.
    fn failed(&self, request: &CallRequest, why: String, is_late: bool) -> Failure {
        let unknown = match Effect::of(request.method()) {
            Effect::Reads => "",
            Effect::Writes => "; it may have been carried out: read before you send it again",
        };
        Failure::environment(NoAnswer { unknown, is_late, ..self.no_answer(why) })
    }

    #[cfg(feature = "lab")]
    /// Returns the caller with another certificate, or without one.
    pub(in crate::commands) fn presenting(
        self,
        certificate: Option<KeyPair>,
    ) -> Result<Self, Failure> {
        let tls = crate::tls::client(std::slice::from_ref(&self.authorities), certificate.as_ref());
        Ok(Self { tls: tls.map_err(Failure::configuration)?, certificate, ..self })
    }

    /// Returns the target of a request.
    pub(in crate::commands) fn target(&self, request: &CallRequest) -> String {
        let made = || format!("{}{}", self.prefix(request.interaction), request.path);
        request.target.clone().unwrap_or_else(made)
    }

    /// Returns the part of the target that names the practice.
    pub(in crate::commands) fn prefix(&self, interaction: &Interaction) -> String {
        match &self.form {
            TargetForm::Root(root) => format!("/{root}"),
            TargetForm::Code => format!("/{}", self.by_code(interaction)),
            // The path of the service root: what follows `https://` and the host.
            TargetForm::Provider(root) => {
                root.splitn(4, '/').nth(3).map(|path| format!("/{path}")).unwrap_or_default()
            }
        }
    }

    fn by_code(&self, interaction: &Interaction) -> String {
        format!("{}/STU3/1/{}", self.practice, interaction.capability)
    }

    /// Returns the token's audience: the service root, or the proxy's name with the ODS code.
    fn audience(&self, interaction: &Interaction) -> String {
        let host = &self.server.host;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        match &self.form {
            TargetForm::Root(root) | TargetForm::Provider(root) => root.clone(),
            TargetForm::Code => format!("https://{host}/{}", self.by_code(interaction)),
        }
    }

    /// Returns the claims of a token for an interaction, issued now.
    pub(in crate::commands) fn claims(&self, interaction: &Interaction) -> Value {
        let audience = self.audience(interaction);
        let now_s = Timestamp::now().as_second();
        claims::example_claims(&audience, &self.consumer, interaction.scope, now_s)
    }

    fn headers(&self, request: &CallRequest, trace_id: &str) -> Result<HeaderMap, Failure> {
        let interaction = request.interaction;
        let bearer = format!("Bearer {}", claims::mint(&self.claims(interaction)));
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
        write_part(&mut line, format_args!("-X {}", request.method()));
        let trace_id = uuid::Uuid::new_v4().to_string();
        for (name, value) in &self.headers(request, &trace_id)? {
            let value = value.to_str().context("a header is not text").map_err(usage)?;
            write_part(&mut line, format_args!("-H {}", quoted(&format!("{name}: {value}"))));
        }
        if let Some(body) = &request.body {
            write_part(&mut line, format_args!("--data-binary {}", quoted(body)));
        }
        let url = format!("https://{}{}", self.server.authority, self.target(request));
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

/// Value of `Authorization` in a printed head: the token is printed decoded.
pub(in crate::commands) const TOKEN_ELSEWHERE: &str = "Bearer (see below)";

/// Prints a head; NHS numbers in it are masked, since standard error may be kept.
fn note_head(direction: char, line: &str, headers: &HeaderMap) {
    print_error(format_args!("{direction} {}", masked(line, LINE_BYTES_MAX)));
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        let value = if *name == header::AUTHORIZATION { TOKEN_ELSEWHERE } else { &value };
        print_error(format_args!("{direction} {name}: {}", masked(value, LINE_BYTES_MAX)));
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
        print_error(format_args!("* token: {claims}"));
    }
}
