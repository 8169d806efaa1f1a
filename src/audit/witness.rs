//! Client of witnesses, which countersign the journal's checkpoints if each extends all that they saw before.
//!
//! Source: C2SP tlog-witness, `add-checkpoint`. A witness gets the number of lines and hashes, never a line.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use audit_journal::note::NoteSignature;
use audit_journal::{Journal, SignedCheckpoint, SigningState, consistency};
use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::WitnessConfig;
use crate::metrics::{CheckpointKeeper, Metrics};
use crate::tls;

/// Limit: time for one exchange with a witness.
const EXCHANGE: Duration = Duration::from_secs(10);
/// Limit: bytes of a witness's answer.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// A witness, and what it has seen of the journal.
#[derive(Debug)]
pub(super) struct Witness {
    settings: WitnessConfig,
    host: String,
    port: u16,
    /// TLS settings, if its URL has the scheme `https`.
    tls: Option<Arc<ClientConfig>>,
    path: String,
    journal: PathBuf,
    /// Number of lines in the last checkpoint that it has seen.
    seen: u64,
    has_failed: bool,
}

/// Result of an exchange with a witness.
enum WitnessAnswer {
    /// It has countersigned the checkpoint.
    Signed(Vec<NoteSignature>),
    /// It has seen a checkpoint of this many lines last.
    Seen(u64),
    /// It has seen another history of the journal.
    Contradiction(String),
}

impl Witness {
    /// Prepares a client; the journal is in this folder.
    ///
    /// # Errors
    /// Returns a text if the URL or an authority cannot be used.
    pub(super) fn new(settings: &WitnessConfig, journal: PathBuf) -> Result<Self, String> {
        let fault = |why: &str| format!("audit.checkpoints.witnesses: {:?}: {why}", settings.url);
        let url: Uri = settings.url.parse().map_err(|_| fault("not a URL"))?;
        let (tls, port) = match url.scheme_str() {
            Some("https") => {
                let config = tls::plain_client(&settings.authorities);
                (Some(config.map_err(|error| fault(&error.to_string()))?), 443)
            }
            Some("http") => (None, 80),
            _ => return Err(fault("must begin with https:// or http://")),
        };
        let host = url.host().ok_or_else(|| fault("has no host"))?.to_owned();
        let path = format!("{}/add-checkpoint", url.path().trim_end_matches('/'));
        Ok(Self {
            settings: settings.clone(),
            host,
            port: url.port_u16().unwrap_or(port),
            tls,
            path,
            journal,
            seen: 0,
            has_failed: false,
        })
    }

    /// Has each new checkpoint countersigned, for as long as it is polled and the journal is signed.
    pub(super) async fn follow(mut self, journal: &Journal, metrics: &Metrics) {
        let mut newest = journal.checkpoints();
        // One may have been signed before.
        newest.mark_changed();
        while newest.changed().await.is_ok() && journal.signing() == SigningState::On {
            let Some(checkpoint) = newest.borrow_and_update().clone() else { continue };
            let answered = self.countersign(&checkpoint).await;
            let error = match answered {
                Ok(WitnessAnswer::Signed(signatures)) => {
                    journal.keep_cosigned(&checkpoint, signatures);
                    self.has_failed = false;
                    continue;
                }
                Ok(WitnessAnswer::Contradiction(reason)) => {
                    return journal.refuse_to_sign(reason);
                }
                Ok(WitnessAnswer::Seen(_)) => "it changed its mind on what it has seen".to_owned(),
                Err(error) => error,
            };
            metrics.audit.checkpoint_failed(CheckpointKeeper::Witness);
            if !std::mem::replace(&mut self.has_failed, true) {
                tracing::warn!(
                    witness = self.settings.key.name(),
                    error,
                    "a witness did not countersign a checkpoint of the audit journal: it is asked \
                     again with the next one"
                );
            }
        }
    }

    /// Has a checkpoint countersigned; asks a second time if the witness has seen another one last.
    async fn countersign(
        &mut self,
        checkpoint: &SignedCheckpoint,
    ) -> Result<WitnessAnswer, String> {
        let mut answer = self.exchange(checkpoint).await?;
        if let WitnessAnswer::Seen(lines) = answer {
            if lines > checkpoint.checkpoint.size {
                return Ok(self.contradiction(&format!(
                    "has seen {lines} lines of this journal, which has {}: its end was removed, \
                     or another journal is signed with its key",
                    checkpoint.checkpoint.size
                )));
            }
            self.seen = lines;
            answer = self.exchange(checkpoint).await?;
        }
        if let WitnessAnswer::Signed(_) = answer {
            self.seen = checkpoint.checkpoint.size;
        }
        Ok(answer)
    }

    fn contradiction(&self, what: &str) -> WitnessAnswer {
        WitnessAnswer::Contradiction(format!("the witness {} {what}", self.settings.key.name()))
    }

    /// Sends a checkpoint with the proof that it extends the last one seen.
    async fn exchange(&self, checkpoint: &SignedCheckpoint) -> Result<WitnessAnswer, String> {
        let exchange = async {
            let body = self.body(checkpoint).await?;
            let (status, answer) = self.post(body).await?;
            self.read(checkpoint, status, &answer)
        };
        tokio::time::timeout(EXCHANGE, exchange)
            .await
            .unwrap_or_else(|_| Err("it did not answer in time".to_owned()))
    }

    /// Composes the request body: the size seen last, the consistency proof, and the note.
    async fn body(&self, checkpoint: &SignedCheckpoint) -> Result<String, String> {
        let (folder, old, size) = (self.journal.clone(), self.seen, checkpoint.checkpoint.size);
        let hashes = match old {
            0 => Vec::new(),
            _ => tokio::task::spawn_blocking(move || consistency(&folder, old, size))
                .await
                .map_err(|error| error.to_string())?
                .map_err(|error| error.to_string())?
                .ok_or("lines that are needed for its proof are missing")?,
        };
        let hashes: String = hashes.iter().map(|hash| format!("{hash}\n")).collect();
        Ok(format!("old {old}\n{hashes}\n{}", checkpoint.note))
    }

    async fn post(&self, body: String) -> Result<(StatusCode, Bytes), String> {
        let address = (&*self.host, self.port);
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        match &self.tls {
            None => self.send(stream, body).await,
            Some(tls) => {
                let name = ServerName::try_from(self.host.clone());
                let name = name.map_err(|error| error.to_string())?;
                let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await;
                self.send(stream.map_err(|error| error.to_string())?, body).await
            }
        }
    }

    async fn send(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        body: String,
    ) -> Result<(StatusCode, Bytes), String> {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        // Ends with the exchange, when the sender is dropped.
        tokio::spawn(connection);
        let host = format!("{}:{}", self.host, self.port);
        let request = Request::post(&self.path)
            .header(header::HOST, host)
            .body(Full::<Bytes>::from(body))
            .map_err(|error| error.to_string())?;
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
    }

    /// Reads an answer. A signature counts only if it is right.
    fn read(
        &self,
        checkpoint: &SignedCheckpoint,
        status: StatusCode,
        answer: &[u8],
    ) -> Result<WitnessAnswer, String> {
        let text = std::str::from_utf8(answer).map_err(|_| "its answer is not text".to_owned())?;
        match status {
            StatusCode::OK => {
                let signatures = text.lines().map(str::parse::<NoteSignature>);
                let signatures: Vec<_> = signatures
                    .collect::<Result<_, _>>()
                    .map_err(|error| format!("its signature cannot be read: {error}"))?;
                let mut note = checkpoint.note.clone();
                let added = note.add_signatures(signatures.clone());
                let verified = added.and_then(|()| note.verified_by(&self.settings.key));
                // Security: other signatures in the answer are nobody's word, and could be forged.
                let key = &self.settings.key;
                let own = signatures
                    .into_iter()
                    .filter(|one| one.name() == key.name() && one.id() == key.id())
                    .collect();
                match verified {
                    Ok(Some(_)) => Ok(WitnessAnswer::Signed(own)),
                    Ok(None) => Err("its answer has no signature with its key".to_owned()),
                    Err(error) => Err(format!("its signature is wrong: {error}")),
                }
            }
            StatusCode::CONFLICT if self.seen == checkpoint.checkpoint.size => Ok(self
                .contradiction(
                    "has seen as many lines of this journal, but others: it was rewritten, or \
                     another journal is signed with its key",
                )),
            StatusCode::CONFLICT => match text.trim_end().parse() {
                Ok(seen) => Ok(WitnessAnswer::Seen(seen)),
                Err(_) => Err("its answer names no size".to_owned()),
            },
            StatusCode::UNPROCESSABLE_ENTITY => Ok(self.contradiction(
                "has seen other lines of this journal than those in it: it was rewritten, or \
                 another journal is signed with its key",
            )),
            StatusCode::NOT_FOUND => {
                Err("it does not know this journal: register audit.checkpoints.origin and the \
                     public key there"
                    .to_owned())
            }
            status => Err(format!("it answered {status}")),
        }
    }
}
