//! Verification of the journal: every line's number and chain value, every segment's beginning, and the tree
//! against signed checkpoints.

use std::collections::HashMap;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::chain::{ChainHead, ChainValue};
use crate::evidence::{CheckpointProof, Evidence, EvidenceFault};
use crate::index::{self, IndexTable};
use crate::note::VerifierKey;
use crate::read::{self, ExchangeEvent, SegmentFile, SegmentPart, TornTail, ValidLine};
use crate::tree::{Frontier, TreeHash};

mod copies;
mod fault;

pub use copies::verify_copies;
pub use fault::VerifyFault;

use fault::VerifyFaultKind;

/// Keys, checkpoints and chain values that a verification compares a journal with.
#[derive(Debug, Clone, Default)]
pub struct VerifyWith {
    /// Public keys with which the journal's checkpoints were signed.
    pub keys: Vec<VerifierKey>,
    /// Public keys of witnesses, each of which must have seen what counts as proven.
    pub witnesses: Vec<VerifierKey>,
    /// Files with checkpoints that were kept elsewhere, besides those in the folder.
    pub checkpoints: Vec<PathBuf>,
    /// Chain values of single lines that were kept elsewhere.
    pub heads: Vec<ChainHead>,
}

/// Result of a verification.
#[derive(Debug, Default)]
pub struct Verified {
    /// Number of segments or files read.
    pub segments: u64,
    /// Number of complete lines read.
    pub lines: u64,
    /// Number of the first line.
    pub first: Option<u64>,
    /// The last line and the chain's value after it.
    pub last: Option<ChainHead>,
    /// Exchanges that a crash left open, as a later start recorded them.
    pub unfinished: Vec<OpenExchange>,
    /// Exchanges that are open at the journal's end: under way, or left by a crash that no start has
    /// followed.
    pub open: Vec<OpenExchange>,
    /// Incomplete lines that a crash left, as a later start recorded them.
    pub torn: Vec<String>,
    /// True if the last segment ends in an incomplete line: it is being written, or a crash interrupted it.
    pub ends_torn: bool,
    /// Number of lines in copies that differ from the journal's line of that number: they were renumbered
    /// before they were on disk, or are forged.
    pub other_lines: u64,
    /// Proof that the checkpoints give.
    pub proof: CheckpointProof,
    /// Faults that were found, in order.
    pub faults: Vec<VerifyFault>,
    /// Number of faults beyond those kept.
    pub more_faults: u64,
}

/// Verdict of a verification, from the best to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every line is covered by a checkpoint with all signatures asked for.
    Proven,
    /// Something is not proven, though nothing contradicts the journal.
    NotProven,
    /// The journal is not as it was written.
    Contradiction,
}

impl Verified {
    /// Returns true if no fault was found.
    #[must_use]
    pub const fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }

    /// Returns the verdict.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let last = self.last.map_or(0, |head| head.seq);
        match (self.is_sound(), self.proof.covers(last)) {
            (false, _) => Verdict::Contradiction,
            (true, true) => Verdict::Proven,
            (true, false) => Verdict::NotProven,
        }
    }
}

/// An exchange without an end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenExchange {
    /// Number of its `opened` line, or of the line that reports it if there is no other.
    pub seq: u64,
    /// Id of the exchange.
    pub id: String,
}

/// Limit: faults that are kept.
const FAULTS_MAX: usize = 100;
/// Limit: gaps in which displaced lines are looked for.
const GAPS_MAX: usize = 10_000;

/// Verifies a whole journal.
///
/// # Errors
/// Returns an error if a segment or a file with checkpoints cannot be read.
pub fn verify(folder: &Path, with: &VerifyWith) -> io::Result<Verified> {
    let (evidence, segments) = Evidence::of_folder(with, folder)?;
    let mut walk = SegmentWalk::new(with, evidence);
    for segment in &segments {
        walk.take_checkpoints(segment)?;
        walk.segment(segment)?;
    }
    walk.found.ends_torn = walk.tail.is_some();
    let mut found = walk.end();
    // The index of changed lines does not fit, which would say nothing more.
    if found.is_sound() {
        found.faults.extend(segments.iter().filter_map(index_fault).take(FAULTS_MAX));
    }
    Ok(found)
}

/// Returns the fault of the index beside a segment, if there is an index and it is not that of the lines.
fn index_fault(segment: &SegmentFile) -> Option<VerifyFault> {
    let is_right = || IndexTable::open(segment)?.is_right(segment).ok();
    let is_wrong = index::exists(segment) && is_right() != Some(true);
    is_wrong.then(|| VerifyFault { segment: segment.name(), line: 0, what: VerifyFaultKind::Index })
}

struct SegmentWalk<'a> {
    found: Verified,
    heads: &'a [ChainHead],
    evidence: Evidence<'a>,
    /// The tree over the lines so far; `None` after a fault, until a segment states it anew.
    tree: Option<Frontier>,
    /// Possible values of the chain before the next line: the one that the last line states and, if that is
    /// wrong, also the one that it should have.
    links: Vec<ChainValue>,
    /// Ranges of numbers that were passed over, and where: their lines may follow further down.
    gaps: Vec<(RangeInclusive<u64>, LinePosition)>,
    /// Gap just before the last line: the number that it should have had, and its place.
    jump: Option<(u64, LinePosition)>,
    open: HashMap<String, u64>,
    /// Incomplete line at the end of the segment before, and its place.
    tail: Option<(TornTail, LinePosition)>,
    place: LinePosition,
    /// Name of the segment before.
    before: String,
    heads_met: Vec<u64>,
}

#[derive(Debug, Clone, Default)]
struct LinePosition {
    segment: String,
    line: u64,
}

impl<'a> SegmentWalk<'a> {
    fn new(with: &'a VerifyWith, evidence: Evidence<'a>) -> Self {
        Self {
            found: Verified::default(),
            heads: &with.heads,
            evidence,
            tree: Some(Frontier::new()),
            links: Vec::new(),
            gaps: Vec::new(),
            jump: None,
            open: HashMap::new(),
            tail: None,
            place: LinePosition::default(),
            before: String::new(),
            heads_met: Vec::new(),
        }
    }

    /// Reads the checkpoints beside a segment.
    fn take_checkpoints(&mut self, segment: &SegmentFile) -> io::Result<()> {
        let path = segment.checkpoints();
        if path.exists() {
            let faults = self.evidence.read(&path)?;
            self.checkpoint_faults(faults);
        }
        Ok(())
    }

    fn segment(&mut self, segment: &SegmentFile) -> io::Result<()> {
        self.found.segments += 1;
        self.before = std::mem::take(&mut self.place.segment);
        self.place = LinePosition { segment: segment.name(), line: 0 };
        let mut is_first = true;
        read::walk(segment, |number, piece| {
            self.place.line = number;
            match piece {
                SegmentPart::NotALine(bytes) => {
                    self.fault(self.place.clone(), VerifyFaultKind::NotALine { bytes });
                }
                SegmentPart::Half(torn) => self.tail = Some((torn, self.place.clone())),
                SegmentPart::Line(_, formed) => {
                    if std::mem::take(&mut is_first) {
                        self.begins_after(formed.read.torn.as_ref());
                        self.begins(&formed);
                    }
                    self.line(&formed);
                }
            }
        })
    }

    /// Compares the incomplete line that a segment's first line states with the one found before it.
    fn begins_after(&mut self, known: Option<&TornTail>) {
        let tail = self.tail.take();
        // An incomplete line that was discarded to create this very segment is recorded, and is not there.
        let is_gone = known.is_some_and(|torn| torn.segment == self.before) && tail.is_none();
        if let Some(torn) = known.filter(|_| is_gone) {
            self.fault(self.place.clone(), VerifyFaultKind::TornGone { bytes: torn.bytes });
        }
        if let Some((torn, place)) = tail
            && known != Some(&torn)
        {
            self.fault(place, VerifyFaultKind::Torn { bytes: torn.bytes });
        }
        if let Some(torn) = known {
            self.found.torn.push(format!("{} bytes at the end of {}", torn.bytes, torn.segment));
        }
    }

    /// Checks the first line of a segment, which states the chain's value and the tree before it.
    fn begins(&mut self, formed: &ValidLine<'_>) {
        let previous = formed.read.previous.and_then(|hex| hex.parse().ok());
        let seq = formed.read.seq;
        let last = self.found.last.map(|head| head.seq);
        match (previous, last) {
            (Some(link), None) => self.links = vec![link],
            (Some(link), Some(last)) if last + 1 == seq && !self.links.contains(&link) => {
                self.fault(self.place.clone(), VerifyFaultKind::Detached { seq });
            }
            (Some(link), Some(last)) if last < seq => self.links = vec![link],
            (Some(_), Some(_)) | (None, _) => {}
        }
        let stated = formed.read.frontier();
        self.tree = self.tree.take().filter(|tree| tree.size() + 1 == seq);
        if stated.is_some() && self.tree.is_some() && stated != self.tree {
            self.fault(self.place.clone(), VerifyFaultKind::Tree { seq });
        }
        self.tree = self.tree.take().or(stated);
        if formed.read.event == "started" {
            self.evidence.started();
        }
    }

    fn line(&mut self, formed: &ValidLine<'_>) {
        let ValidLine { read, body, link } = formed;
        let seq = read.seq;
        self.found.lines += 1;
        self.found.first.get_or_insert(seq);
        self.exchange(formed);
        for head in self.heads.iter().filter(|head| head.seq == seq) {
            self.heads_met.push(seq);
            if head.link != *link {
                self.fault(self.place.clone(), VerifyFaultKind::NotTheHead { given: seq });
            }
        }
        let should: Vec<ChainValue> = self.links.iter().map(|before| before.next(body)).collect();
        self.settle_jump(seq, &should, *link);
        let expected = self.found.last.map_or(seq, |head| head.seq + 1);
        if seq < expected {
            let what = match self.fill(seq) {
                true => VerifyFaultKind::Displaced { seq, after: expected - 1 },
                false => VerifyFaultKind::Repeated { seq },
            };
            self.fault(self.place.clone(), what);
            return;
        }
        let is_next = seq == expected;
        if !is_next {
            self.gaps.push((expected..=seq - 1, self.place.clone()));
            self.jump = Some((expected, self.place.clone()));
        }
        // After a gap, only the first line of a segment states the chain's value.
        let is_known = is_next || (read.previous.is_some() && !self.links.is_empty());
        let fits = should.contains(link);
        if is_known && !fits {
            self.fault(self.place.clone(), VerifyFaultKind::Changed { seq });
        }
        self.links = vec![*link];
        if is_known && !fits {
            self.links.extend(should.first());
        }
        self.found.last = Some(ChainHead { seq, link: *link });
        self.settle_gaps();
        self.grow_tree(seq, *link);
    }

    /// Adds a line to the tree, and compares the tree with the checkpoints of its size.
    fn grow_tree(&mut self, seq: u64, link: ChainValue) {
        self.tree = self.tree.take().filter(|tree| tree.size() + 1 == seq);
        let Some(tree) = &mut self.tree else { return };
        tree.push(TreeHash::leaf(link.as_bytes()));
        if self.evidence.is_due(seq) {
            let faults = self.evidence.compare(tree);
            self.checkpoint_faults(faults);
        }
    }

    fn checkpoint_faults(&mut self, faults: Vec<EvidenceFault>) {
        for fault in faults {
            let place = LinePosition { segment: fault.file(), line: 0 };
            self.fault(place, VerifyFaultKind::Checkpoint(fault));
        }
    }

    /// Corrects a gap if this line follows the last one by its chain value, and by its number the one that
    /// the last should have had: nothing is missing before the last, whose number was changed.
    fn settle_jump(&mut self, seq: u64, should: &[ChainValue], link: ChainValue) {
        let Some((expected, place)) = self.jump.take() else { return };
        if seq == expected + 1 && should.contains(&link) {
            self.gaps.pop();
            self.found.last = self.found.last.map(|head| ChainHead { seq: expected, ..head });
            self.fault(place, VerifyFaultKind::Changed { seq: expected });
        }
    }

    /// Returns true if a number was passed over; it no longer counts as missing.
    fn fill(&mut self, seq: u64) -> bool {
        let Some(at) = self.gaps.iter().position(|(seqs, _)| seqs.contains(&seq)) else {
            return false;
        };
        let (seqs, place) = self.gaps.swap_remove(at);
        let (start, end) = seqs.into_inner();
        for rest in [start..=seq.saturating_sub(1), seq + 1..=end] {
            if !rest.is_empty() && rest.start() <= &end && rest.end() >= &start {
                self.gaps.push((rest, place.clone()));
            }
        }
        true
    }

    fn settle_gaps(&mut self) {
        if self.gaps.len() > GAPS_MAX {
            let (seqs, place) = self.gaps.remove(0);
            self.fault(place, VerifyFaultKind::Missing { seqs });
        }
    }

    fn exchange(&mut self, formed: &ValidLine<'_>) {
        let seq = formed.read.seq;
        match formed.read.exchange() {
            Some((ExchangeEvent::Opened, id)) => drop(self.open.insert(id.to_owned(), seq)),
            Some((ExchangeEvent::Closed, id)) => drop(self.open.remove(id)),
            Some((ExchangeEvent::Unfinished, id)) => {
                // The opened line may be in none of these segments.
                let seq = self.open.remove(id).unwrap_or(seq);
                self.found.unfinished.push(OpenExchange { seq, id: id.to_owned() });
            }
            None => {}
        }
    }

    fn end(mut self) -> Verified {
        let mut gaps = std::mem::take(&mut self.gaps);
        gaps.sort_by_key(|(seqs, _)| *seqs.start());
        for (seqs, place) in gaps {
            self.fault(place, VerifyFaultKind::Missing { seqs });
        }
        let (first, ends) = (self.found.first, self.found.last.map_or(0, |head| head.seq));
        let met = std::mem::take(&mut self.heads_met);
        for head in self.heads.iter().filter(|head| !met.contains(&head.seq)) {
            let given = head.seq;
            let what = match first {
                Some(first) if given < first => VerifyFaultKind::BeforeTheFirst { given, first },
                // It is missing, which has been reported.
                Some(_) if given < ends => continue,
                _ => VerifyFaultKind::Cut { given, ends },
            };
            self.fault(self.place.clone(), what);
        }
        let is_sound = self.found.is_sound();
        let faults = self.evidence.end(first.unwrap_or_default(), ends, is_sound);
        self.checkpoint_faults(faults);
        let open = self.open.into_iter();
        self.found.open = open.map(|(id, seq)| OpenExchange { seq, id }).collect();
        self.found.open.sort_by_key(|exchange| exchange.seq);
        self.found.proof = self.evidence.proof;
        self.found
    }

    fn fault(&mut self, place: LinePosition, what: VerifyFaultKind) {
        if self.found.faults.len() < FAULTS_MAX {
            let LinePosition { segment, line } = place;
            self.found.faults.push(VerifyFault { segment, line, what });
        } else {
            self.found.more_faults += 1;
        }
    }
}
