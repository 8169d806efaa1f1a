//! `explain`: judges a request by a configuration as a gateway would, without sending it, and prints each step
//! with what was expected and received, and what to do.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::anyhow;
use http::request::Parts;
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use spine_types::masked;

use crate::config::Config;
use crate::directory::{Directory, DirectoryContext};
use crate::failure::Failure;
use crate::gateway::{
    BodyToJudge, ClientCertificate, DecisionRules, DryRun, JudgedRequest, RequestToJudge,
};
use crate::metrics::Metrics;
use crate::server::Prepared;
use crate::tls::{self, Reject, Trust};

mod cmd;
mod curl;
mod har;
mod input;
mod options;
mod raw;
mod record;
mod report;
mod shell;
mod wire;

pub(super) use report::StepReport;

use input::ExplainInput;
use wire::{WireBytes, WireRequest};

/// Request to explain, and the configuration to judge it by.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct ExplainOptions {
    /// Path of the configuration file.
    #[arg(long)]
    config: PathBuf,
    /// Request: a file, - for standard input, or its text: a curl command, a HAR or an entry of one, the head and
    /// body of HTTP/1.1, or the id of an exchange or a trace id in the journal. id:TEXT is a trace id of any form.
    #[arg(value_name = "REQUEST")]
    input: String,
    /// Number of the entry in a HAR, from 1.
    #[arg(long, value_name = "N")]
    entry: Option<usize>,
    /// Client certificate: a PEM file with its chain, `none`, or `assumed` for one that is valid and the
    /// sender's. By default that of the curl command, or none if it has none; `assumed` for other requests.
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// Time at which token and certificate are judged, such as 2026-11-25T09:00:00Z, by default now.
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
    /// Folder of the journal to search for an id, by default that of the configuration.
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    /// Asks the live sources of the directory; otherwise only the directory file and the snapshot are used.
    #[arg(long)]
    ask_directory: bool,
    /// Prints the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Limit: bytes of a fault of a certificate's file, which is named.
const FAULT_BYTES_MAX: usize = 500;

const AFTER_HELP: &str = "\
Nothing is sent, unless --ask-directory is given. Exit codes: 0 if the request would be forwarded, 1 if it would \
be refused, 3 if the directory must be asked to know, 2 if the request cannot be read, 78 for a fault of the \
configuration.

Examples:
  spine-proxy explain --config spine-proxy.toml request.txt
  spine-proxy explain --config spine-proxy.toml session.har --entry 3
  pbpaste | spine-proxy explain --config spine-proxy.toml --certificate consumer.pem -
  spine-proxy explain --config spine-proxy.toml 0197f2a4-6a0c-7c3e-9f0e-3d6d3c1b2a10";

/// Judges a request and prints each step.
///
/// # Errors
/// Returns an error if the request cannot be read, the configuration cannot be used, the request would be
/// refused, or the directory must be asked to know.
pub fn run(wanted: &ExplainOptions) -> Result<(), Failure> {
    let input = ExplainInput::read(&wanted.input, wanted.entry)?;
    wanted.check(&input)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let explainer = Explainer::load(&wanted.config, wanted.ask_directory)?;
        let mut report = match input {
            ExplainInput::Record(id) => record::explain(&explainer, wanted, &id).await?,
            ExplainInput::Bytes(request) => explainer.request(wanted, request).await?,
        };
        report.notes.extend(explainer.directory_note(wanted.ask_directory));
        report.print(wanted.json);
        report.result()
    })
}

impl ExplainOptions {
    /// Checks that no option is given which does nothing for this input.
    fn check(&self, input: &ExplainInput) -> Result<(), Failure> {
        let given = match input {
            ExplainInput::Record(_) => [
                self.entry.map(|_| "--entry"),
                self.at.map(|_| "--at"),
                self.certificate.as_ref().map(|_| "--certificate"),
            ],
            ExplainInput::Bytes(_) => [self.journal.as_ref().map(|_| "--journal"), None, None],
        };
        let kind = match input {
            ExplainInput::Record(_) => "an id",
            ExplainInput::Bytes(_) => "a request",
        };
        match given.into_iter().flatten().next() {
            Some(option) => Err(usage(format_args!("{option} has no effect for {kind}"))),
            None => Ok(()),
        }
    }
}

/// Returns the request in an input as bytes of HTTP/1.1, for a fuzz target; `None` for an id.
///
/// # Errors
/// Returns a text about an input that cannot be read. It repeats nothing of the input.
#[cfg(feature = "lab")]
pub(crate) fn request_bytes(input: &[u8]) -> Result<Option<Vec<u8>>, String> {
    match ExplainInput::recognised(input.to_vec(), None)? {
        ExplainInput::Bytes(request) => Ok(Some(request.bytes)),
        ExplainInput::Record(_) => Ok(None),
    }
}

/// Configuration loaded with its files, by which requests are judged without being sent.
#[derive(Debug)]
pub struct Explainer {
    config: Config,
    rules: DecisionRules,
    trust: Trust,
    directory: Directory,
}

impl Explainer {
    /// Loads a configuration and every file that it names; `asks` lets live sources be asked.
    ///
    /// # Errors
    /// Returns the first fault of the configuration or a file.
    ///
    /// # Panics
    /// Panics outside of a Tokio runtime.
    pub fn load(config: &Path, asks: bool) -> Result<Self, Failure> {
        let Prepared { config, rules, trust, directory, live, .. } = Prepared::load(config, 1)?;
        let metrics = Arc::new(Metrics::new());
        let context = DirectoryContext { is_offline: !asks, ..DirectoryContext::new(metrics) };
        let directory = Directory::new(directory, live, &config.directory, context);
        if let Some(path) = &config.directory.snapshot {
            directory.load(path).map_err(Failure::environment)?;
        }
        Ok(Self { config, rules, trust, directory })
    }

    /// Judges a request of HTTP/1.1 by its bytes.
    ///
    /// # Errors
    /// Returns an error if the bytes end before the head does.
    pub async fn judge_bytes(
        &self,
        bytes: &[u8],
        certificate: &ClientCertificate,
        now: Timestamp,
    ) -> Result<JudgedRequest, Failure> {
        let WireBytes { head, fault, body } = WireBytes::parse(bytes)?;
        let fault = fault.as_ref();
        let request = RequestToJudge { head: &head, fault, body, certificate, now };
        Ok(self.dry_run().judge(request).await)
    }

    /// Judges a request by its head, as HTTP/2 has it.
    pub async fn judge_head(
        &self,
        head: &Parts,
        has_body: bool,
        certificate: &ClientCertificate,
        now: Timestamp,
    ) -> JudgedRequest {
        let body = if has_body { BodyToJudge::Content } else { BodyToJudge::Empty };
        let request = RequestToJudge { head, fault: None, body, certificate, now };
        self.dry_run().judge(request).await
    }

    const fn dry_run(&self) -> DryRun<'_> {
        DryRun { rules: &self.rules, trust: &self.trust, directory: &self.directory }
    }

    /// Judges a request that was read from an input.
    async fn request(
        &self,
        wanted: &ExplainOptions,
        request: WireRequest,
    ) -> Result<StepReport, Failure> {
        let WireRequest { bytes, certificate, mut notes } = request;
        let certificate = match &wanted.certificate {
            Some(path) => chosen(path)?,
            None => match certificate {
                Some(Some(path)) => ClientCertificate::Presented(chain(&path)?),
                Some(None) => ClientCertificate::Presented(Vec::new()),
                None => ClientCertificate::Assumed,
            },
        };
        let now = wanted.at.unwrap_or_else(Timestamp::now);
        let judged = self.judge_bytes(&bytes, &certificate, now).await?;
        let status = judged.steps.first_refusal().map(|refusal| refusal.row().status);
        if self.config.tls.reject == Reject::Handshake && matches!(status, Some(495 | 496)) {
            notes.push(
                "tls.reject is \"handshake\": a bad certificate ends the handshake, without an answer"
                    .to_owned(),
            );
        }
        if wanted.at.is_some() {
            notes.push(format!("judged as at {now}, by the files and lists of now"));
        }
        let JudgedRequest { steps, provider } = judged;
        let target = provider.map(|provider| {
            format!("{} (ASID {}) at {}", provider.ods, provider.asid, provider.root)
        });
        Ok(StepReport { steps, target, notes, ..StepReport::default() })
    }

    /// Returns a note on how the directory was used.
    fn directory_note(&self, asks: bool) -> Option<String> {
        match (self.directory.is_live(), asks) {
            (false, _) => None,
            (true, true) => Some("the live sources of the directory were asked".to_owned()),
            (true, false) => Some(
                "the live sources of the directory were not asked; --ask-directory asks them"
                    .to_owned(),
            ),
        }
    }
}

/// Returns the certificate that the option names.
fn chosen(option: &Path) -> Result<ClientCertificate, Failure> {
    match option.to_str() {
        Some("none") => Ok(ClientCertificate::Presented(Vec::new())),
        Some("assumed") => Ok(ClientCertificate::Assumed),
        _ => chain(option).map(ClientCertificate::Presented),
    }
}

/// Reads a certificate chain from a PEM file, which may hold a key too.
fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    tls::certificates(path).map_err(|why| {
        usage(format_args!("the client certificate: {}", masked(&why.to_string(), FAULT_BYTES_MAX)))
    })
}

/// Returns an error about the request to explain.
fn usage(text: impl std::fmt::Display) -> Failure {
    Failure::Usage(anyhow!("{text}"))
}
