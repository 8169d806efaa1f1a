//! Client of witnesses, which countersign the journal's checkpoints if each extends all that they saw before.
//!
//! Source: C2SP tlog-witness, `add-checkpoint`. A witness gets the number of lines and hashes, never a line.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use audit_journal::note::{NoteSignature, SignedNote};
use audit_journal::{Journal, SignedCheckpoint, SigningState, TreePlace, consistency};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use rustls::ClientConfig;

use super::WitnessConfig;
use crate::metrics::{CheckpointKeeper, Metrics};
use crate::outbound::ServiceUrl;
use crate::tls;

/// Limit: time for one exchange with a witness.
const EXCHANGE: Duration = Duration::from_secs(10);
/// Limit: bytes of a witness's answer.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// A witness, and what it has seen of the journal.
#[derive(Debug)]
pub(super) struct Witness {
    settings: WitnessConfig,
    /// Its URL with the path for checkpoints.
    url: ServiceUrl,
    /// TLS settings, if its URL has the scheme `https`.
    tls: Option<Arc<ClientConfig>>,
    journal: PathBuf,
    /// Number of lines in the last checkpoint that it has seen.
    seen: u64,
    /// The tree over these lines, once a proof was made of it.
    tree: Option<TreePlace>,
    has_failed: bool,
}

/// Checkpoint that a witness is to countersign.
#[derive(Clone, Copy)]
struct Claim<'a> {
    note: &'a SignedNote,
    /// Number of lines in it.
    size: u64,
}

/// Pause between two attempts to ask a witness at a start what it has seen.
const ASK_AGAIN: Duration = Duration::from_secs(2);

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
        let mut url = ServiceUrl::parse(&settings.url).map_err(fault)?;
        // Security: an answer can end the signing for good, so that nobody on the way may write one.
        if !url.is_https && !url.is_loopback() {
            return Err(fault("must begin with https://, unless its host is a loopback address"));
        }
        let tls = url.is_https.then(|| tls::plain_client(&settings.authorities)).transpose();
        let tls = tls.map_err(|error| fault(&error.to_string()))?;
        url.path = format!("{}/add-checkpoint", url.path.trim_end_matches('/'));
        Ok(Self {
            settings: settings.clone(),
            url,
            tls,
            journal,
            seen: 0,
            tree: None,
            has_failed: false,
        })
    }

    /// Asks what the witness has seen of the journal, and has each new checkpoint countersigned, for as long
    /// as it is polled and the journal is signed.
    pub(super) async fn follow(mut self, journal: &Journal, metrics: &Metrics) {
        if let Err(reason) = self.compare(journal, metrics).await {
            return journal.refuse_to_sign(reason);
        }
        journal.agreed();
        let mut newest = journal.checkpoints();
        // One may have been signed before.
        newest.mark_changed();
        while newest.changed().await.is_ok() && !is_refused(journal) {
            let Some(checkpoint) = newest.borrow_and_update().clone() else { continue };
            let error = match self.countersign(&checkpoint).await {
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
            self.failed(&error, metrics);
        }
    }

    /// Compares the number of lines that the witness has seen with the journal as it was opened.
    ///
    /// # Errors
    /// Returns why the journal must not be signed.
    async fn compare(&mut self, journal: &Journal, metrics: &Metrics) -> Result<(), String> {
        // Every history begins with the empty journal, so that signing a checkpoint of it can do no harm.
        let Some(note) = journal.empty_checkpoint() else { return Ok(()) };
        while !is_refused(journal) {
            match self.exchange(Claim { note, size: 0 }, "").await {
                Ok(WitnessAnswer::Signed(_)) => return Ok(()),
                Ok(WitnessAnswer::Seen(lines)) => {
                    self.seen = lines;
                    return match self.seen_more(lines, journal.lines_at_start()) {
                        Some(reason) => Err(reason),
                        None => Ok(()),
                    };
                }
                Ok(WitnessAnswer::Contradiction(reason)) => return Err(reason),
                Err(error) => self.failed(&error, metrics),
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
        Ok(())
    }

    fn failed(&mut self, error: &str, metrics: &Metrics) {
        metrics.audit.checkpoint_failed(CheckpointKeeper::Witness);
        if !std::mem::replace(&mut self.has_failed, true) {
            tracing::warn!(
                witness = self.settings.key.name(),
                error,
                "a witness did not countersign a checkpoint of the audit journal: it is asked again; \
                 nothing is signed until it has answered once since the start"
            );
        }
    }

    /// Returns why a journal of this many lines must not be signed, if the witness has seen more.
    fn seen_more(&self, seen: u64, lines: u64) -> Option<String> {
        (seen > lines).then(|| {
            self.says(&format!(
                "has seen {seen} lines of this journal, which has {lines}: its end was removed, or \
                 another journal is signed with its key"
            ))
        })
    }

    /// Has a checkpoint countersigned; asks a second time if the witness has seen another one last.
    async fn countersign(
        &mut self,
        checkpoint: &SignedCheckpoint,
    ) -> Result<WitnessAnswer, String> {
        let claim = Claim { note: &checkpoint.note, size: checkpoint.checkpoint.size };
        let (mut hashes, mut tree) = self.proof(claim.size).await?;
        let mut answer = self.exchange(claim, &hashes).await?;
        if let WitnessAnswer::Seen(lines) = answer {
            if let Some(reason) = self.seen_more(lines, claim.size) {
                return Ok(WitnessAnswer::Contradiction(reason));
            }
            self.seen = lines;
            (hashes, tree) = self.proof(claim.size).await?;
            answer = self.exchange(claim, &hashes).await?;
        }
        if let WitnessAnswer::Signed(_) = answer {
            self.seen = claim.size;
            self.tree = tree;
        }
        Ok(answer)
    }

    /// Returns the proof that a checkpoint of this size extends the last one seen, with a line for each hash,
    /// and the tree at its end.
    async fn proof(&self, size: u64) -> Result<(String, Option<TreePlace>), String> {
        let (folder, old, known) = (self.journal.clone(), self.seen, self.tree.clone());
        if old == 0 || old == size {
            return Ok((String::new(), known));
        }
        let made =
            tokio::task::spawn_blocking(move || consistency(&folder, old, size, known.as_ref()));
        let proof = made
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?
            .ok_or("lines that are needed for its proof are missing")?;
        Ok((proof.hashes.iter().map(|hash| format!("{hash}\n")).collect(), Some(proof.end)))
    }

    /// Sends a checkpoint with the proof that it extends the last one seen.
    async fn exchange(&self, claim: Claim<'_>, proof: &str) -> Result<WitnessAnswer, String> {
        let exchange = async {
            let body = format!("old {}\n{proof}\n{}", self.seen, claim.note);
            let (status, answer) = self.post(body).await?;
            self.read(claim, status, &answer)
        };
        tokio::time::timeout(EXCHANGE, exchange)
            .await
            .unwrap_or_else(|_| Err("it did not answer in time".to_owned()))
    }

    /// Names the witness, and what it does.
    fn says(&self, what: &str) -> String {
        format!("the witness {} {what}", self.settings.key.name())
    }

    async fn post(&self, body: String) -> Result<(StatusCode, Bytes), String> {
        let request =
            Request::post("/").body(Full::from(body)).map_err(|error| error.to_string())?;
        let answer = self.url.send(self.tls.as_ref(), request, ANSWER_BYTES_MAX).await;
        let answer = answer.map_err(|fault| fault.to_string())?;
        Ok((answer.status, answer.body?))
    }

    /// Reads an answer. A signature counts only if it is right.
    fn read(
        &self,
        claim: Claim<'_>,
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
                let mut note = claim.note.clone();
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
            StatusCode::CONFLICT => match text.trim_end().parse().ok() {
                // Fewer lines than before, if it has lost its state.
                Some(seen) if seen != self.seen => Ok(WitnessAnswer::Seen(seen)),
                Some(_) | None if claim.size > 0 && self.seen == claim.size => {
                    Ok(WitnessAnswer::Contradiction(self.says(
                        "has seen as many lines of this journal, but others: it was rewritten, or \
                         another journal is signed with its key",
                    )))
                }
                Some(seen) => Ok(WitnessAnswer::Seen(seen)),
                None => Err("its answer names no size".to_owned()),
            },
            StatusCode::UNPROCESSABLE_ENTITY if claim.size > 0 => {
                Ok(WitnessAnswer::Contradiction(self.says(
                    "has seen other lines of this journal than those in it: it was rewritten, or \
                     another journal is signed with its key",
                )))
            }
            StatusCode::NOT_FOUND => {
                Err("it does not know this journal: register audit.checkpoints.origin and the \
                     public key there"
                    .to_owned())
            }
            status => Err(format!("it answered {status}")),
        }
    }
}

fn is_refused(journal: &Journal) -> bool {
    matches!(journal.signing(), SigningState::Refused(_))
}

#[cfg(test)]
mod tests {
    use audit_journal::note::{Checkpoint, CheckpointSigner};
    use audit_journal::tree::TreeHead;

    use super::*;

    /// The checkpoint of a gateway without traffic has as many lines as the last one.
    #[test]
    fn a_conflict_over_as_many_lines_is_a_contradiction_unless_the_witness_has_seen_others() {
        let pem = CheckpointSigner::generate_pem().unwrap();
        let signer = CheckpointSigner::from_pkcs8_pem(&pem, "gw1.example.nhs.uk/audit/1").unwrap();
        let settings = WitnessConfig {
            url: "http://127.0.0.1:1/".to_owned(),
            key: signer.verifier().as_cosigner(),
            authorities: Vec::new(),
        };
        let mut witness = Witness::new(&settings, PathBuf::new()).unwrap();
        witness.seen = 5;
        let head = TreeHead { size: 5, root: [0; 32].into() };
        let text = Checkpoint::new("gw1.example.nhs.uk/audit/1", head).unwrap().to_string();
        let note = SignedNote::new(&text, signer.sign(&text, 0).unwrap()).unwrap();
        let claim = Claim { note: &note, size: 5 };
        let read = |body: &str| witness.read(claim, StatusCode::CONFLICT, body.as_bytes()).unwrap();
        for body in ["0\n", "3\n", "8\n"] {
            assert!(matches!(read(body), WitnessAnswer::Seen(_)), "{body}");
        }
        for body in ["5\n", "", "no size\n"] {
            assert!(matches!(read(body), WitnessAnswer::Contradiction(_)), "{body}");
        }
    }
}
