//! Proofs of single exchanges: their lines, each with an inclusion proof and a signed checkpoint, which can
//! be checked without the rest of the journal.

use std::cmp::Reverse;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use base64_simd::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use crate::chain::ChainValue;
use crate::checkpoint::{checkpoint_files, read_notes};
use crate::note::{Checkpoint, SignedNote, VerifierKey};
use crate::proof::{self, Leaves};
use crate::query::{LineFilter, MemberFilter, SearchMethod, search};
use crate::read::{self, SegmentReader, TextLine, ValidLine};
use crate::tree::{self, TreeHash};

/// Lines of one exchange with their proofs, as written to a file and handed to others.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExchangeProof {
    /// Lines in their order.
    pub lines: Vec<LineProof>,
}

/// A line and its proof.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineProof {
    /// The line as it is in the journal, without its line feed.
    pub line: String,
    /// The proof (C2SP tlog-proof): the chain value before the line as extra data, the line's index, the
    /// hashes of the inclusion proof, and a signed checkpoint.
    pub proof: String,
}

/// Error returned when an exchange cannot be proven, or a proof is not right.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The journal cannot be read.
    #[error("the journal cannot be read: {0}")]
    Journal(#[from] io::Error),
    /// The journal holds no such exchange.
    #[error("the journal holds no line with this id")]
    NotFound,
    /// No checkpoint covers the line yet.
    #[error("no checkpoint covers line {0} yet: one is signed when the journal is running")]
    NotCovered(u64),
    /// Lines that are needed for the proof are missing or damaged.
    #[error("lines around line {0} are missing or damaged: run `audit verify`")]
    Damaged(u64),
    /// The text is no proof.
    #[error("line {line} of the proof: {what}")]
    Malformed {
        /// Position of the proven line in the file, from 1.
        line: usize,
        /// Text that says what is wrong.
        what: &'static str,
    },
    /// The proof and the line contradict each other.
    #[error("line {line} of the proof is FALSE: {what}")]
    False {
        /// Position of the proven line in the file, from 1.
        line: usize,
        /// Text that says what is wrong.
        what: &'static str,
    },
}

/// First line of a proof (C2SP tlog-proof).
const PROOF: &str = "c2sp.org/tlog-proof@v1";

/// Returns the lines of the exchange with this id, with their proofs.
///
/// Each is proven by the oldest checkpoint in the folder that covers it. Its signature is not checked here:
/// whoever checks the proof does that.
///
/// # Errors
/// Returns an error if the journal cannot be read, or does not hold what a proof needs.
pub fn prove(folder: &Path, id: &str) -> Result<ExchangeProof, ProofError> {
    let mut found = lines_of(folder, id, SearchMethod::Indexed)?;
    if found.is_empty() {
        // An index may be damaged.
        found = lines_of(folder, id, SearchMethod::Everything)?;
    }
    if found.is_empty() {
        return Err(ProofError::NotFound);
    }
    let lines = found.into_iter().map(|line| prove_line(folder, line)).collect::<Result<_, _>>()?;
    Ok(ExchangeProof { lines })
}

fn lines_of(folder: &Path, id: &str, how: SearchMethod) -> io::Result<Vec<String>> {
    let members = vec![MemberFilter::equal("id", id)];
    let mut found = Vec::new();
    search(folder, &LineFilter { members, ..LineFilter::default() }, how, |line| {
        found.push(String::from_utf8_lossy(line).into_owned());
        if found.len() < LINES_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(found)
}

/// Limit: lines of one exchange; it has three at most.
const LINES_MAX: usize = 8;

fn prove_line(folder: &Path, line: String) -> Result<LineProof, ProofError> {
    let text = TextLine { at: 0, bytes: line.as_bytes(), is_whole: true };
    let seq = ValidLine::from(&text).ok_or(ProofError::NotFound)?.read.seq;
    let note = covering(folder, seq)?.ok_or(ProofError::NotCovered(seq))?;
    let size = note.text().parse::<Checkpoint>().map_or(0, |checkpoint| checkpoint.size);
    let previous = previous(folder, seq)?.ok_or(ProofError::Damaged(seq))?;
    let hashes = proof::inclusion(folder, seq, size)?.ok_or(ProofError::Damaged(seq))?;
    let extra = BASE64.encode_to_string(previous.as_bytes());
    let mut proof = format!("{PROOF}\nextra {extra}\nindex {}\n", seq.saturating_sub(1));
    for hash in hashes {
        proof.push_str(&format!("{hash}\n"));
    }
    proof.push('\n');
    proof.push_str(&note.to_string());
    Ok(LineProof { line, proof })
}

/// Limit: checkpoints that are compared with the journal to find one for a proof.
const COMPARED_MAX: usize = 16;

/// Returns the oldest checkpoint of at least this many lines that agrees with the journal, with the most
/// signatures of its size.
fn covering(folder: &Path, seq: u64) -> io::Result<Option<SignedNote>> {
    let mut compared = 0;
    for path in checkpoint_files(folder)? {
        let mut found = Vec::new();
        read_notes(&path, |note| {
            if let Ok(checkpoint) = note.text().parse::<Checkpoint>()
                && checkpoint.size >= seq
            {
                found.push((checkpoint.head(), note));
            }
        })?;
        found.sort_by_key(|(head, note)| (head.size, Reverse(note.signatures().len())));
        for (head, note) in found {
            let trees = Leaves::trees(folder, head.size, head.size)?;
            if trees.is_some_and(|(tree, _)| tree.root() == head.root) {
                return Ok(Some(note));
            }
            compared += 1;
            if compared >= COMPARED_MAX {
                return Ok(None);
            }
        }
    }
    Ok(None)
}

/// Returns the chain value before a line.
fn previous(folder: &Path, seq: u64) -> io::Result<Option<ChainValue>> {
    let segments = read::segments(folder)?;
    let at = segments.partition_point(|segment| segment.first <= seq).checked_sub(1);
    let Some(segment) = at.and_then(|at| segments.get(at)) else { return Ok(None) };
    let mut reader = SegmentReader::open(&segment.path)?;
    let mut before = None;
    while let Some(text) = reader.next()? {
        let Some(line) = ValidLine::from(&text) else { continue };
        if line.read.seq == seq {
            let stated = line.read.previous.and_then(|hex| hex.parse().ok());
            return Ok(stated.or(before));
        }
        before = Some(line.link);
    }
    Ok(None)
}

/// Result of the check of one line's proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedLine {
    /// Number of the line.
    pub seq: u64,
    /// Name of the journal.
    pub origin: String,
    /// Number of lines in the checkpoint.
    pub size: u64,
    /// Keys whose signatures are right, each with the time in it in seconds since 1970, if it has one.
    pub signed: Vec<(String, Option<u64>)>,
}

impl ExchangeProof {
    /// Checks every line: that its hash is in the tree of the checkpoint, and which of these keys signed
    /// that.
    ///
    /// # Errors
    /// Returns an error if the text is no proof, or a line and its proof contradict each other.
    pub fn check(&self, keys: &[VerifierKey]) -> Result<Vec<CheckedLine>, ProofError> {
        if self.lines.is_empty() {
            return Err(ProofError::Malformed { line: 0, what: "it has no lines" });
        }
        (1..).zip(&self.lines).map(|(number, line)| line.check(number, keys)).collect()
    }
}

impl LineProof {
    fn check(&self, number: usize, keys: &[VerifierKey]) -> Result<CheckedLine, ProofError> {
        let malformed = |what| ProofError::Malformed { line: number, what };
        let contradiction = |what| ProofError::False { line: number, what };
        let text = TextLine { at: 0, bytes: self.line.as_bytes(), is_whole: true };
        let line = ValidLine::from(&text).ok_or(malformed("it is no line of a journal"))?;
        let LogProof { previous, index, hashes, note } =
            self.parse().ok_or(malformed("it has no proof in the form of C2SP tlog-proof"))?;
        let checkpoint: Checkpoint =
            note.text().parse().map_err(|_| malformed("its note is no checkpoint"))?;
        if index.checked_add(1) != Some(line.read.seq) {
            return Err(contradiction("its index is not that of the line"));
        }
        if previous.next(line.body) != line.link {
            return Err(contradiction("the line was changed"));
        }
        let leaf = TreeHash::leaf(line.link.as_bytes());
        if !tree::verify_inclusion(leaf, index, &checkpoint.head(), &hashes) {
            return Err(contradiction("the line is not in the tree of the checkpoint"));
        }
        let mut signed = Vec::new();
        for key in keys.iter().flat_map(|key| [key.clone(), key.as_cosigner()]) {
            match note.verified_by(&key) {
                Err(_) => return Err(contradiction("a signature of the checkpoint is wrong")),
                Ok(Some(time)) => signed.push((key.to_string(), time.seconds)),
                Ok(None) => {}
            }
        }
        let (origin, size) = (checkpoint.origin().to_owned(), checkpoint.size);
        Ok(CheckedLine { seq: line.read.seq, origin, size, signed })
    }

    fn parse(&self) -> Option<LogProof> {
        let (head, note) = self.proof.split_once("\n\n")?;
        let mut lines = head.lines();
        if lines.next()? != PROOF {
            return None;
        }
        let extra = BASE64.decode_to_vec(lines.next()?.strip_prefix("extra ")?).ok()?;
        let previous = ChainValue::from(<[u8; 32]>::try_from(extra).ok()?);
        let index = lines.next()?.strip_prefix("index ")?.parse().ok()?;
        let hashes = lines.map(|line| line.parse().ok()).collect::<Option<_>>()?;
        Some(LogProof { previous, index, hashes, note: note.parse().ok()? })
    }
}

/// Parts of a proof.
struct LogProof {
    previous: ChainValue,
    index: u64,
    hashes: Vec<TreeHash>,
    note: SignedNote,
}
