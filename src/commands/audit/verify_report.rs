//! Result of `audit verify` as data. Its shape is described in docs/operate/running.md.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use audit_journal::{ChainHead, CheckpointProof, OpenExchange, Verdict, Verified, VerifyFault};
use serde::Serialize;

use super::evidence::time;
use crate::failure::Failure;
use crate::server::{FaultEntry, ReportedPath};

/// Result of a verification of several journals.
#[derive(Debug, Default, Serialize)]
pub(super) struct VerifyReport {
    /// True if the command ends with exit code 0.
    ok: bool,
    /// Worst verdict; `None` if something could not be read.
    verdict: Option<Verdict>,
    journals: Vec<JournalEntry>,
    /// Error that ended the command, because of something that could not be read.
    faults: Vec<FaultEntry>,
}

/// Result for one journal.
#[derive(Debug, Serialize)]
struct JournalEntry {
    /// Folder of the journal; `None` for copies.
    journal: Option<ReportedPath>,
    verdict: Verdict,
    segments: u64,
    lines: u64,
    /// Number of the first line; `None` if there are no lines.
    first: Option<u64>,
    last: Option<ChainHead>,
    unfinished: Vec<OpenExchange>,
    open: Vec<OpenExchange>,
    /// Lines that a crash cut off, as a later start recorded them.
    torn: Vec<String>,
    ends_torn: bool,
    other_lines: u64,
    proof: ProofEntry,
    faults: Vec<FaultEntry>,
    more_faults: u64,
}

/// Proof that checkpoints give of one journal.
#[derive(Debug, Serialize)]
struct ProofEntry {
    lines: u64,
    checkpoints: u64,
    keys: Vec<String>,
    /// Times of the first and the last checkpoint; `None` if none agrees.
    from: Option<String>,
    to: Option<String>,
    witnesses: Vec<WitnessEntry>,
    gaps: Vec<GapEntry>,
    clock_set_back: Vec<u64>,
    before_first: u64,
    ignored: BTreeMap<String, u64>,
    unreadable: u64,
}

#[derive(Debug, Serialize)]
struct WitnessEntry {
    key: String,
    lines: u64,
    /// Time of the signature; `None` if the witness has seen nothing.
    at: Option<String>,
}

#[derive(Debug, Serialize)]
struct GapEntry {
    after: u64,
    from: String,
    to: String,
}

impl VerifyReport {
    /// Adds the result for a journal; `None` stands for copies.
    pub(super) fn add(&mut self, journal: Option<&Path>, found: &Verified) {
        self.journals.push(JournalEntry::new(journal, found));
    }

    /// Completes the report with the worst verdict, or the error that ended the verification.
    pub(super) fn end(mut self, worst: Verdict, read: &Result<(), Failure>) -> Self {
        match read {
            Ok(()) => (self.ok, self.verdict) = (worst == Verdict::Proven, Some(worst)),
            Err(failure) => self.faults.push(FaultEntry::new(failure)),
        }
        self
    }
}

impl JournalEntry {
    fn new(journal: Option<&Path>, found: &Verified) -> Self {
        let fault = |fault: &VerifyFault| FaultEntry {
            text: fault.to_string(),
            keys: Vec::new(),
            file: Some(PathBuf::from(fault.file()).into()),
            line: fault.line(),
        };
        Self {
            journal: journal.map(|journal| journal.to_owned().into()),
            verdict: found.verdict(),
            segments: found.segments,
            lines: found.lines,
            first: found.first,
            last: found.last,
            unfinished: found.unfinished.clone(),
            open: found.open.clone(),
            torn: found.torn.clone(),
            ends_torn: found.ends_torn,
            other_lines: found.other_lines,
            proof: ProofEntry::new(&found.proof),
            faults: found.faults.iter().map(fault).collect(),
            more_faults: found.more_faults,
        }
    }
}

impl ProofEntry {
    fn new(proof: &CheckpointProof) -> Self {
        let witnesses = proof.witnessed.iter().map(|(key, seen)| WitnessEntry {
            key: key.clone(),
            lines: seen.lines,
            at: (seen.lines > 0).then(|| time(seen.at_s)),
        });
        let gaps = proof.gaps.iter().map(|gap| GapEntry {
            after: gap.after,
            from: time(gap.times.0),
            to: time(gap.times.1),
        });
        Self {
            lines: proof.lines,
            checkpoints: proof.checkpoints,
            keys: proof.keys.iter().cloned().collect(),
            from: proof.times.map(|(from, _)| time(from)),
            to: proof.times.map(|(_, to)| time(to)),
            witnesses: witnesses.collect(),
            gaps: gaps.collect(),
            clock_set_back: proof.clock_set_back.clone(),
            before_first: proof.before_first,
            ignored: proof.ignored.clone(),
            unreadable: proof.unreadable,
        }
    }
}
