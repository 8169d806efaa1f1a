//! Faults that a verification finds, and their texts.

use std::fmt;
use std::ops::RangeInclusive;

use crate::evidence::EvidenceFault;

/// A fault, and its place in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyFault {
    pub(super) segment: String,
    /// Number of the line in its segment, from 1; 0 for the whole file.
    pub(super) line: u64,
    pub(super) what: VerifyFaultKind,
}

impl VerifyFault {
    /// Returns the name of the segment or file.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.segment
    }

    /// Returns the number of the line in its file, from 1; `None` if the fault is of the whole file.
    #[must_use]
    pub fn line(&self) -> Option<u64> {
        (self.line > 0).then_some(self.line)
    }
}

/// Kind of a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum VerifyFaultKind {
    NotALine { bytes: u64 },
    Changed { seq: u64 },
    Missing { seqs: RangeInclusive<u64> },
    Displaced { seq: u64, after: u64 },
    Repeated { seq: u64 },
    Torn { bytes: u64 },
    TornGone { bytes: u64 },
    Detached { seq: u64 },
    Tree { seq: u64 },
    Index,
    Checkpoint(EvidenceFault),
    Cut { given: u64, ends: u64 },
    NotTheHead { given: u64 },
    BeforeTheFirst { given: u64, first: u64 },
}

impl fmt::Display for VerifyFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment, line, what } = self;
        match line {
            0 => write!(out, "{segment}: ")?,
            _ => write!(out, "{segment}, line {line}: ")?,
        }
        match what {
            VerifyFaultKind::NotALine { bytes } => {
                write!(out, "{bytes} bytes that are not a line of a journal")
            }
            VerifyFaultKind::Changed { seq } => write!(out, "seq {seq} is not as it was written"),
            VerifyFaultKind::Missing { seqs } => {
                let (start, end) = (seqs.start(), seqs.end());
                match start == end {
                    true => write!(out, "seq {start} is missing before it"),
                    false => write!(out, "seq {start} to {end} are missing before it"),
                }
            }
            VerifyFaultKind::Displaced { seq, after } => {
                write!(out, "seq {seq} was moved behind seq {after}")
            }
            VerifyFaultKind::Repeated { seq } => {
                write!(out, "seq {seq} occurs here a second time")
            }
            VerifyFaultKind::Torn { bytes } => write!(
                out,
                "{bytes} bytes of an incomplete line that no start recorded: it was cut"
            ),
            VerifyFaultKind::TornGone { bytes } => write!(
                out,
                "{bytes} bytes of an incomplete line before it, recorded by a start, are gone"
            ),
            VerifyFaultKind::Detached { seq } => {
                write!(out, "seq {seq} does not continue the chain of the segment before it")
            }
            VerifyFaultKind::Tree { seq } => {
                write!(out, "seq {seq} states another tree than that of the lines before it")
            }
            VerifyFaultKind::Index => {
                write!(
                    out,
                    "the index beside it is not that of its lines: delete it, and the next start \
                     makes it anew"
                )
            }
            VerifyFaultKind::Checkpoint(fault) => write!(out, "{fault}"),
            VerifyFaultKind::Cut { given, ends } => {
                write!(
                    out,
                    "the journal ends with seq {ends}, before the given head {given}: it was cut"
                )
            }
            VerifyFaultKind::NotTheHead { given } => {
                write!(out, "seq {given} does not match the given head: the journal was rewritten")
            }
            VerifyFaultKind::BeforeTheFirst { given, first } => {
                write!(out, "the journal begins with seq {first}, after the given head {given}")
            }
        }
    }
}
