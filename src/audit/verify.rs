//! Is the journal what was written? Every line's number and link, every segment's beginning.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::path::Path;

use super::chain::{ChainHead, ChainValue};
use super::read::{self, SegmentFile, SegmentPart, TornTail, UnfinishedExchange, ValidLine};

/// What was found.
#[derive(Debug, Default)]
pub struct Verified {
    /// Segments read.
    pub segments: u64,
    /// Whole lines read.
    pub lines: u64,
    /// The first line's number.
    pub first: Option<u64>,
    /// The last line's number, and the chain after it.
    pub last: Option<(u64, ChainValue)>,
    /// Exchanges that a crash has left open, as a later start has recorded them.
    pub unfinished: Vec<UnfinishedExchange>,
    /// Exchanges that are open at the journal's end: under way, or left by a crash that no start has
    /// followed.
    pub open: Vec<UnfinishedExchange>,
    /// Half lines that a crash has left, as a later start has recorded them.
    pub torn: Vec<String>,
    /// Whether the last segment ends in half a line: it is being written, or a crash has torn it.
    pub ends_torn: bool,
    /// What is wrong, in order.
    pub faults: Vec<VerifyFault>,
    /// Faults beyond those kept.
    pub more_faults: u64,
}

impl Verified {
    /// Whether nothing is wrong.
    #[must_use]
    pub const fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }
}

/// Something that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyFault {
    segment: String,
    /// Its number in the segment, from 1.
    line: u64,
    what: VerifyFaultKind,
}

/// What is wrong.
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
    Cut { told: u64, ends: u64 },
    NotTheHead { told: u64 },
    BeforeTheFirst { told: u64, first: u64 },
}

impl fmt::Display for VerifyFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment, line, what } = self;
        write!(out, "{segment}, line {line}: ")?;
        match what {
            VerifyFaultKind::NotALine { bytes } => {
                write!(out, "{bytes} bytes that are no line of a journal")
            }
            VerifyFaultKind::Changed { seq } => write!(out, "number {seq} is not what was written"),
            VerifyFaultKind::Missing { seqs } if seqs.start() == seqs.end() => {
                write!(out, "number {} is missing before it", seqs.start())
            }
            VerifyFaultKind::Missing { seqs } => {
                write!(out, "numbers {} to {} are missing before it", seqs.start(), seqs.end())
            }
            VerifyFaultKind::Displaced { seq, after } => {
                write!(out, "number {seq} stands behind {after}")
            }
            VerifyFaultKind::Repeated { seq } => {
                write!(out, "number {seq} stands here a second time")
            }
            VerifyFaultKind::Torn { bytes } => {
                write!(out, "{bytes} bytes of half a line that no start has found: it was cut")
            }
            VerifyFaultKind::TornGone { bytes } => {
                write!(
                    out,
                    "{bytes} bytes of half a line are gone that a start has found before it"
                )
            }
            VerifyFaultKind::Detached { seq } => {
                write!(out, "number {seq} does not go on from where the segment before it ends")
            }
            VerifyFaultKind::Cut { told, ends } => {
                write!(out, "the journal ends with number {ends}, and {told} was told: it was cut")
            }
            VerifyFaultKind::NotTheHead { told } => {
                write!(out, "number {told} is not the one that was told: it was written anew")
            }
            VerifyFaultKind::BeforeTheFirst { told, first } => {
                write!(out, "the journal begins with number {first}, and {told} was told")
            }
        }
    }
}

/// Limit: faults that are kept.
const FAULTS_MAX: usize = 100;
/// Limit: gaps in which displaced lines are looked for.
const GAPS_MAX: usize = 10_000;

/// Reads a whole journal. `heads` are what was told of it elsewhere.
///
/// # Errors
/// A segment cannot be read.
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
    /// What the chain may be before the next line: the value the last line claims; and if that is not
    /// the one it should have, that one too.
    links: Vec<ChainValue>,
    /// Numbers that have been passed over, and where: they may stand further down.
    gaps: Vec<(RangeInclusive<u64>, LinePosition)>,
    /// The last line's own gap: the number it should have had, and where it stands.
    jump: Option<(u64, LinePosition)>,
    open: HashMap<String, UnfinishedExchange>,
    /// What stood behind the last whole line of the segment before.
    tail: Option<(TornTail, LinePosition)>,
    place: LinePosition,
    /// The segment before.
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
                    self.fault(self.place.clone(), VerifyFaultKind::NotALine { bytes })
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

    /// The first whole line of a segment says where the chain stood, and what a crash has torn.
    fn begins(&mut self, formed: &ValidLine<'_>) {
        let known = formed.read.torn.as_ref();
        let tail = self.tail.take();
        // What has made way for this very segment is told and not there.
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
                self.fault(self.place.clone(), VerifyFaultKind::NotTheHead { told: seq });
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
        // Behind a gap only a segment's beginning says what the chain was.
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

    /// If this line follows on the last one by its link, and by its number on the one the last should
    /// have had, then nothing is missing before the last: its number was changed.
    fn settle_jump(&mut self, seq: u64, should: &[ChainValue], link: ChainValue) {
        let Some((expected, place)) = self.jump.take() else { return };
        if seq == expected + 1 && should.contains(&link) {
            self.gaps.pop();
            self.found.last = self.found.last.map(|(_, link)| (expected, link));
            self.fault(place, VerifyFaultKind::Changed { seq: expected });
        }
    }

    /// Whether a number was passed over; it is no longer missing.
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
                // Where the opened line is in no segment that is here, this one tells as much.
                let exchange = self.open.remove(id);
                let told = || serde_json::from_slice(line).ok();
                self.found.unfinished.extend(exchange.or_else(told));
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
            let told = head.seq;
            let ends = self.found.last.map_or(0, |(last, _)| last);
            let what = match self.found.first {
                Some(first) if told < first => VerifyFaultKind::BeforeTheFirst { told, first },
                // It is missing, and that has been said.
                Some(_) if told < ends => continue,
                _ => VerifyFaultKind::Cut { told, ends },
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
