//! Verification of the journal: every line's number and chain value, and every segment's beginning.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::path::Path;

use super::chain::{ChainHead, ChainValue};
use super::read::{self, SegmentFile, SegmentPart, TornTail, UnfinishedExchange, ValidLine};

/// Result of a verification.
#[derive(Debug, Default)]
pub struct Verified {
    /// Number of segments read.
    pub segments: u64,
    /// Number of complete lines read.
    pub lines: u64,
    /// Number of the first line.
    pub first: Option<u64>,
    /// Number of the last line, and the chain's value after it.
    pub last: Option<(u64, ChainValue)>,
    /// Exchanges that a crash left open, as a later start recorded them.
    pub unfinished: Vec<UnfinishedExchange>,
    /// Exchanges that are open at the journal's end: under way, or left by a crash that no start has
    /// followed.
    pub open: Vec<UnfinishedExchange>,
    /// Incomplete lines that a crash left, as a later start recorded them.
    pub torn: Vec<String>,
    /// True if the last segment ends in an incomplete line: it is being written, or a crash interrupted it.
    pub ends_torn: bool,
    /// Faults that were found, in order.
    pub faults: Vec<VerifyFault>,
    /// Number of faults beyond those kept.
    pub more_faults: u64,
}

impl Verified {
    /// Returns true if no fault was found.
    #[must_use]
    pub const fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }
}

/// A fault, and its place in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyFault {
    segment: String,
    /// Number of the line in its segment, from 1.
    line: u64,
    what: VerifyFaultKind,
}

/// Kind of a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
enum VerifyFaultKind {
    NotALine { bytes: u64 },
    Changed { seq: u64 },
    Missing { seqs: RangeInclusive<u64> },
    Displaced { seq: u64, after: u64 },
    Repeated { seq: u64 },
    Torn { bytes: u64 },
    TornGone { bytes: u64 },
    Detached { seq: u64 },
    Cut { given: u64, ends: u64 },
    NotTheHead { given: u64 },
    BeforeTheFirst { given: u64, first: u64 },
}

impl fmt::Display for VerifyFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment, line, what } = self;
        write!(out, "{segment}, line {line}: ")?;
        match what {
            VerifyFaultKind::NotALine { bytes } => {
                write!(out, "{bytes} bytes that are not a line of a journal")
            }
            VerifyFaultKind::Changed { seq } => write!(out, "seq {seq} is not as it was written"),
            VerifyFaultKind::Missing { seqs } if seqs.start() == seqs.end() => {
                write!(out, "seq {} is missing before it", seqs.start())
            }
            VerifyFaultKind::Missing { seqs } => {
                write!(out, "seq {} to {} are missing before it", seqs.start(), seqs.end())
            }
            VerifyFaultKind::Displaced { seq, after } => {
                write!(out, "seq {seq} was moved behind seq {after}")
            }
            VerifyFaultKind::Repeated { seq } => {
                write!(out, "seq {seq} occurs here a second time")
            }
            VerifyFaultKind::Torn { bytes } => {
                write!(
                    out,
                    "{bytes} bytes of an incomplete line that no start recorded: it was cut"
                )
            }
            VerifyFaultKind::TornGone { bytes } => {
                write!(
                    out,
                    "{bytes} bytes of an incomplete line before it, recorded by a start, are gone"
                )
            }
            VerifyFaultKind::Detached { seq } => {
                write!(out, "seq {seq} does not continue the chain of the segment before it")
            }
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

/// Limit: faults that are kept.
const FAULTS_MAX: usize = 100;
/// Limit: gaps in which displaced lines are looked for.
const GAPS_MAX: usize = 10_000;

/// Verifies a whole journal; `heads` are heads of its chain that were kept elsewhere.
///
/// # Errors
/// Returns an error if a segment cannot be read.
pub fn verify(folder: &Path, heads: &[ChainHead]) -> io::Result<Verified> {
    let mut walk = SegmentWalk::default();
    let segments = read::segments(folder)?;
    for segment in &segments {
        walk.segment(segment, heads)?;
    }
    Ok(walk.end(heads))
}

#[derive(Default)]
struct SegmentWalk {
    found: Verified,
    /// Possible values of the chain before the next line: the one that the last line states and, if that is
    /// wrong, also the one that it should have.
    links: Vec<ChainValue>,
    /// Ranges of numbers that were passed over, and where: their lines may follow further down.
    gaps: Vec<(RangeInclusive<u64>, LinePosition)>,
    /// Gap just before the last line: the number that it should have had, and its place.
    jump: Option<(u64, LinePosition)>,
    open: HashMap<String, UnfinishedExchange>,
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

impl SegmentWalk {
    fn segment(&mut self, segment: &SegmentFile, heads: &[ChainHead]) -> io::Result<()> {
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
                SegmentPart::Line(text, formed) => {
                    if std::mem::take(&mut is_first) {
                        self.begins(&formed);
                    }
                    self.line(&formed, heads);
                    self.exchange(&formed, text.bytes);
                }
            }
        })
    }

    /// Checks the first complete line of a segment, which states the chain's value before it and the
    /// incomplete line that a crash left.
    fn begins(&mut self, formed: &ValidLine<'_>) {
        let known = formed.read.torn.as_ref();
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
        let previous = formed.read.previous.and_then(|hex| hex.parse().ok());
        let seq = formed.read.seq;
        match (previous, self.found.last) {
            (Some(link), None) => self.links = vec![link],
            (Some(link), Some((last, _))) if last + 1 == seq && !self.links.contains(&link) => {
                self.fault(self.place.clone(), VerifyFaultKind::Detached { seq });
            }
            (Some(link), Some((last, _))) if last < seq => self.links = vec![link],
            (Some(_), Some(_)) | (None, _) => {}
        }
    }

    fn line(&mut self, formed: &ValidLine<'_>, heads: &[ChainHead]) {
        let ValidLine { read, body, link } = formed;
        let seq = read.seq;
        self.found.lines += 1;
        self.found.first.get_or_insert(seq);
        for head in heads.iter().filter(|head| head.seq == seq) {
            self.heads_met.push(seq);
            if !head.fits(link) {
                self.fault(self.place.clone(), VerifyFaultKind::NotTheHead { given: seq });
            }
        }
        let should: Vec<ChainValue> = self.links.iter().map(|before| before.next(body)).collect();
        self.settle_jump(seq, &should, *link);
        let expected = self.found.last.map_or(seq, |(last, _)| last + 1);
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
            self.links.extend(should);
        }
        self.found.last = Some((seq, *link));
        self.settle_gaps();
    }

    /// Corrects a gap if this line follows the last one by its chain value, and by its number the one that
    /// the last should have had: nothing is missing before the last, whose number was changed.
    fn settle_jump(&mut self, seq: u64, should: &[ChainValue], link: ChainValue) {
        let Some((expected, place)) = self.jump.take() else { return };
        if seq == expected + 1 && should.contains(&link) {
            self.gaps.pop();
            self.found.last = self.found.last.map(|(_, link)| (expected, link));
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

    fn exchange(&mut self, formed: &ValidLine<'_>, line: &[u8]) {
        let Some(id) = formed.read.id else { return };
        match formed.read.event {
            "opened" => {
                if let Ok(exchange) = serde_json::from_slice(line) {
                    self.open.insert(id.to_owned(), exchange);
                }
            }
            "closed" => {
                self.open.remove(id);
            }
            "unfinished" => {
                // If the opened line is in none of these segments, this line has the same members.
                let exchange = self.open.remove(id);
                let given = || serde_json::from_slice(line).ok();
                self.found.unfinished.extend(exchange.or_else(given));
            }
            _ => {}
        }
    }

    fn end(mut self, heads: &[ChainHead]) -> Verified {
        self.found.ends_torn = self.tail.is_some();
        let mut gaps = std::mem::take(&mut self.gaps);
        gaps.sort_by_key(|(seqs, _)| *seqs.start());
        for (seqs, place) in gaps {
            self.fault(place, VerifyFaultKind::Missing { seqs });
        }
        let met = std::mem::take(&mut self.heads_met);
        for head in heads.iter().filter(|head| !met.contains(&head.seq)) {
            let given = head.seq;
            let ends = self.found.last.map_or(0, |(last, _)| last);
            let what = match self.found.first {
                Some(first) if given < first => VerifyFaultKind::BeforeTheFirst { given, first },
                // It is missing, which has been reported.
                Some(_) if given < ends => continue,
                _ => VerifyFaultKind::Cut { given, ends },
            };
            self.fault(self.place.clone(), what);
        }
        self.found.open = self.open.into_values().collect();
        self.found.open.sort_by_key(|exchange| exchange.seq);
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
