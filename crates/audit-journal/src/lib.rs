//! Append-only journal of JSON lines whose content and order can be proven to others.
//!
//! The journal is a folder of segments: files of JSON lines, named by the number of their first line. The
//! program hands over records, which are JSON objects that the journal does not interpret, except for the
//! members `event`, `id`, `trace_id` and `time`. The journal's thread adds a number and a chain value,
//! writes and syncs ([`Journal`]).
//!
//! Each line ends in a hash over itself and the line before ([`ChainValue`]). The chain values are the leaves
//! of a Merkle tree ([`tree`], RFC 6962), whose root is signed at intervals ([`note`], C2SP tlog-checkpoint).
//! So somebody who holds a checkpoint and the public key can verify the whole journal ([`verify()`]), or single
//! lines without the others ([`ExchangeProof`]).

mod chain;
mod checkpoint;
mod evidence;
mod index;
mod journal;
mod line;
pub mod note;
mod proof;
mod prove;
mod query;
mod read;
mod recovery;
mod segment;
pub mod tree;
mod verify;
mod writer;

pub use chain::{ChainHead, ChainValue, InvalidHead};
pub use checkpoint::{
    CheckpointPlace, CheckpointSettings, IDLE_EVERY, SignedCheckpoint, SigningState,
};
pub use evidence::{CheckpointProof, EvidenceFault, SilentGap, WitnessedLines};
pub use journal::{
    FlushError, Journal, JournalError, JournalObserver, JournalSettings, RecordEvent,
    ReservedRecord,
};
pub use line::{Record, RecordError, time_text};
pub use proof::{Proof, TreePlace, consistency};
pub use prove::{CheckedLine, ExchangeProof, LineProof, ProofError, prove};
pub use query::{JournalSearch, LineFilter, MemberFilter, SearchMethod, search};
pub use read::{JournalSize, compressed_segments, size};
pub use verify::{OpenExchange, Verdict, Verified, VerifyFault, VerifyWith, verify, verify_copies};
