//! Checkpoints as evidence about a journal: which are signed with a given key, and whether its lines agree.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::Path;
use std::rc::Rc;

use crate::checkpoint::{IDLE_EVERY, checkpoint_files, read_notes};
use crate::note::{Checkpoint, SignatureTime, SignedNote, VerifierKey};
use crate::read::{self, SegmentFile};
use crate::tree::{Frontier, TreeHash, TreeHead};
use crate::verify::VerifyWith;

/// Proof that checkpoints give of a journal. Times are seconds since 1970, UTC.
#[derive(Debug, Default)]
pub struct CheckpointProof {
    /// Number of the last line in an agreeing checkpoint that a given key has signed; 0 if there is none.
    pub lines: u64,
    /// The gateway's own time in the first and the last agreeing checkpoint.
    pub times: Option<(u64, u64)>,
    /// Number of checkpoints that agree.
    pub checkpoints: u64,
    /// Keys that signed an agreeing checkpoint.
    pub keys: BTreeSet<String>,
    /// For each witness asked for, what it has seen.
    pub witnessed: BTreeMap<String, WitnessedLines>,
    /// Times for which no checkpoint was signed although the journal was open.
    pub gaps: Vec<SilentGap>,
    /// Numbers of the lines before which the gateway's clock was set back, from one checkpoint to the next.
    pub clock_set_back: Vec<u64>,
    /// Number of checkpoints that end before the first line, and cannot be compared.
    pub before_first: u64,
    /// Number of checkpoints that are ignored, by the name of their journal: no given key signed them.
    pub ignored: BTreeMap<String, u64>,
    /// Number of lines in the files that are no checkpoints, such as one that a crash cut.
    pub unreadable: u64,
}

/// Lines of a journal that a witness has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WitnessedLines {
    /// Number of the last line in an agreeing checkpoint that it signed; 0 if there is none.
    pub lines: u64,
    /// Its clock's time in that signature.
    pub at_s: u64,
}

/// Time without a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SilentGap {
    /// Number of lines in the checkpoint before the gap.
    pub after: u64,
    /// Time of the checkpoint before the gap, and of the one after it.
    pub times: (u64, u64),
}

impl CheckpointProof {
    /// Returns true if everything up to the last line is proven: signed, seen by each witness asked for, and
    /// without doubt about the time.
    pub(crate) fn covers(&self, last: u64) -> bool {
        last > 0
            && self.lines >= last
            && self.times.is_some()
            && self.witnessed.values().all(|seen| seen.lines >= last)
            && self.gaps.is_empty()
            && self.clock_set_back.is_empty()
    }
}

/// Contradiction between a checkpoint and the journal, or another checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvidenceFault {
    file: Rc<Path>,
    size: u64,
    what: EvidenceFaultKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum EvidenceFaultKind {
    Forged { key: String },
    Cut { lines: u64 },
    Rewritten { agreed: u64 },
    Disagree { notes: [String; 2] },
    NoTree,
}

impl EvidenceFault {
    /// Returns the name of the file that holds the checkpoint.
    pub(crate) fn file(&self) -> String {
        self.file.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

impl fmt::Display for EvidenceFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.size;
        match &self.what {
            EvidenceFaultKind::Forged { key } => {
                write!(
                    out,
                    "a checkpoint of {size} lines has a wrong signature of {key}: it is forged or damaged"
                )
            }
            EvidenceFaultKind::Cut { lines } => {
                write!(
                    out,
                    "a checkpoint of {size} lines is signed, but the journal ends with seq {lines}: it was cut"
                )
            }
            EvidenceFaultKind::Rewritten { agreed: 0 } => {
                write!(
                    out,
                    "the lines up to seq {size} are not those of a signed checkpoint: the journal was rewritten"
                )
            }
            EvidenceFaultKind::Rewritten { agreed } => {
                write!(
                    out,
                    "the lines up to seq {size} are not those of a signed checkpoint: the journal was rewritten after seq {agreed}"
                )
            }
            EvidenceFaultKind::Disagree { notes: [one, other] } => {
                write!(
                    out,
                    "two signed checkpoints of {size} lines disagree: there are two journals, and \
                     one key signed both\n{one}\n{other}"
                )
            }
            EvidenceFaultKind::NoTree => {
                write!(
                    out,
                    "a checkpoint of {size} lines is signed, but no segment states the tree to \
                     compare it with: the journal was rewritten"
                )
            }
        }
    }
}

/// A checkpoint whose signature is right, to be compared once its last line is read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SignedClaim {
    root: TreeHash,
    at_s: Option<u64>,
    /// Positions of the keys that signed it, among those given.
    keys: Vec<usize>,
    /// Positions of the witnesses that signed it, among those given, and the times of their signatures.
    seen: Vec<(usize, u64)>,
    file: Rc<Path>,
}

/// Limit: faults that are kept until they are taken.
const FAULTS_MAX: usize = 100;

/// Checkpoints that a verification compares with the journal.
#[derive(Debug)]
pub(crate) struct Evidence<'a> {
    with: &'a VerifyWith,
    due: BTreeMap<u64, Vec<SignedClaim>>,
    /// True if the journal was opened anew after the last checkpoint.
    has_started: bool,
    pub(crate) proof: CheckpointProof,
    faults: Vec<EvidenceFault>,
}

impl<'a> Evidence<'a> {
    /// Reads the files with checkpoints that were kept elsewhere.
    pub(crate) fn of_files(with: &'a VerifyWith) -> io::Result<Self> {
        let witnessed = with.witnesses.iter();
        let witnessed = witnessed.map(|key| (key.name().to_owned(), WitnessedLines::default()));
        let proof =
            CheckpointProof { witnessed: witnessed.collect(), ..CheckpointProof::default() };
        let mut evidence =
            Self { with, due: BTreeMap::new(), has_started: false, proof, faults: Vec::new() };
        for path in &with.checkpoints {
            evidence.take(path)?;
        }
        Ok(evidence)
    }

    /// Reads the files with checkpoints that were kept elsewhere, and those in the journal's folder that
    /// belong to no segment; returns the segments too.
    ///
    /// The segments are listed after the checkpoints: what a checkpoint covers was on disk before it.
    pub(crate) fn of_folder(
        with: &'a VerifyWith,
        folder: &Path,
    ) -> io::Result<(Self, Vec<SegmentFile>)> {
        let mut evidence = Self::of_files(with)?;
        let files = checkpoint_files(folder)?;
        let segments = read::segments(folder)?;
        let theirs: BTreeSet<_> = segments.iter().map(SegmentFile::checkpoints).collect();
        for path in files.iter().filter(|path| !theirs.contains(*path)) {
            evidence.take(path)?;
        }
        Ok((evidence, segments))
    }

    /// Reads one more file; returns the faults found so far.
    pub(crate) fn read(&mut self, path: &Path) -> io::Result<Vec<EvidenceFault>> {
        self.take(path)?;
        Ok(std::mem::take(&mut self.faults))
    }

    fn take(&mut self, path: &Path) -> io::Result<()> {
        let file: Rc<Path> = path.into();
        self.proof.unreadable += read_notes(path, |note| self.note(&note, &file))?;
        Ok(())
    }

    /// Keeps the checkpoint of a note if a given key has signed it.
    pub(crate) fn note(&mut self, note: &SignedNote, file: &Rc<Path>) {
        let Ok(checkpoint) = note.text().parse::<Checkpoint>() else {
            self.proof.unreadable += 1;
            return;
        };
        let TreeHead { size, root } = checkpoint.head();
        let file = Rc::clone(file);
        let mut claim = SignedClaim { root, at_s: None, keys: Vec::new(), seen: Vec::new(), file };
        let with = self.with;
        for (at, key) in with.keys.iter().enumerate() {
            if key.name() == checkpoint.origin() && !claim.check(note, at, key) {
                return self.fault(
                    &claim,
                    size,
                    EvidenceFaultKind::Forged { key: key.to_string() },
                );
            }
        }
        if claim.keys.is_empty() {
            *self.proof.ignored.entry(checkpoint.origin().to_owned()).or_default() += 1;
            return;
        }
        for (at, witness) in with.witnesses.iter().enumerate() {
            if let Ok(Some(SignatureTime { seconds: Some(at_s) })) = note.verified_by(witness) {
                claim.seen.push((at, at_s));
            }
        }
        self.keep(size, claim, note);
    }

    fn keep(&mut self, size: u64, claim: SignedClaim, note: &SignedNote) {
        let claims = self.due.entry(size).or_default();
        let other = claims.iter().find(|other| other.root != claim.root);
        // The same note is usually in several places.
        let is_known = claims
            .iter()
            .any(|other| SignedClaim { file: Rc::clone(&claim.file), ..other.clone() } == claim);
        if let Some(other) = other.cloned() {
            let notes = [note.to_string(), other.note(size).unwrap_or_default()];
            self.fault(&claim, size, EvidenceFaultKind::Disagree { notes });
        }
        if !is_known {
            self.due.entry(size).or_default().push(claim);
        }
    }

    fn fault(&mut self, claim: &SignedClaim, size: u64, what: EvidenceFaultKind) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(EvidenceFault { file: Rc::clone(&claim.file), size, what });
        }
    }

    /// Notes that the journal was opened anew.
    pub(crate) const fn started(&mut self) {
        self.has_started = true;
    }

    /// Returns true if there is a checkpoint of this many lines.
    pub(crate) fn is_due(&self, size: u64) -> bool {
        self.due.first_key_value().is_some_and(|(first, _)| *first <= size)
    }

    /// Compares the tree over the lines so far with the checkpoints of its size, and drops those before it.
    pub(crate) fn compare(&mut self, tree: &Frontier) -> Vec<EvidenceFault> {
        while let Some(entry) = self.due.first_entry().filter(|due| *due.key() <= tree.size()) {
            let (size, mut claims) = entry.remove_entry();
            claims.sort_by_key(|claim| claim.at_s);
            for claim in claims {
                self.compare_one(size, &claim, tree);
            }
        }
        std::mem::take(&mut self.faults)
    }

    fn compare_one(&mut self, size: u64, claim: &SignedClaim, tree: &Frontier) {
        let proof = &mut self.proof;
        if size < tree.size() {
            // The lines of its size were not there, or a fault among them was reported.
            proof.before_first += 1;
            return;
        }
        if claim.root != tree.root() {
            let what = EvidenceFaultKind::Rewritten { agreed: proof.lines };
            return self.fault(claim, size, what);
        }
        if let Some(at_s) = claim.at_s {
            let (first, last) = proof.times.unwrap_or((at_s, at_s));
            if at_s < last && size > proof.lines {
                proof.clock_set_back.push(size);
            }
            if at_s > last + GAP_S && !self.has_started && proof.lines > 0 {
                proof.gaps.push(SilentGap { after: proof.lines, times: (last, at_s) });
            }
            // Within one size, an older time is a copy of an older note.
            let is_newer = size > proof.lines || at_s > last;
            proof.times = Some((first.min(at_s), if is_newer { at_s } else { last }));
        }
        self.has_started = false;
        proof.lines = size;
        proof.checkpoints += 1;
        let keys = claim.keys.iter().filter_map(|at| self.with.keys.get(*at));
        proof.keys.extend(keys.map(ToString::to_string));
        for (witness, at_s) in &claim.seen {
            let witness = self.with.witnesses.get(*witness).map(VerifierKey::name);
            if let Some(seen) = witness.and_then(|name| proof.witnessed.get_mut(name)) {
                *seen = WitnessedLines { lines: size, at_s: *at_s };
            }
        }
    }

    /// Returns the faults of the checkpoints that were not compared with the journal, which has these first
    /// and last lines. `is_sound` is true if no fault of its lines was found, which could explain that.
    pub(crate) fn end(&mut self, first: u64, last: u64, is_sound: bool) -> Vec<EvidenceFault> {
        for (size, claims) in std::mem::take(&mut self.due) {
            // One fault is enough for each size.
            let Some(claim) = claims.first() else { continue };
            if size > last {
                self.fault(claim, size, EvidenceFaultKind::Cut { lines: last });
            } else if size >= first && is_sound {
                self.fault(claim, size, EvidenceFaultKind::NoTree);
            } else {
                self.proof.before_first += 1;
            }
        }
        std::mem::take(&mut self.faults)
    }
}

/// Seconds between two checkpoints above which the time between them is reported.
const GAP_S: u64 = IDLE_EVERY.as_secs() + 60;

impl SignedClaim {
    /// Reads the note of the claim once more, as text; `None` if it is not there any more.
    fn note(&self, size: u64) -> Option<String> {
        let head = TreeHead { size, root: self.root };
        let mut found = None;
        let read = read_notes(&self.file, |note| {
            if note.text().parse().is_ok_and(|checkpoint: Checkpoint| checkpoint.head() == head) {
                found.get_or_insert_with(|| note.to_string());
            }
        });
        read.ok().and(found)
    }

    /// Adds the signatures of a key, which is at this position among those given; returns false if one is
    /// wrong.
    fn check(&mut self, note: &SignedNote, at: usize, key: &VerifierKey) -> bool {
        for key in [key.clone(), key.as_cosigner()] {
            match note.verified_by(&key) {
                Err(_) => return false,
                Ok(None) => {}
                Ok(Some(SignatureTime { seconds: None })) => self.keys.push(at),
                Ok(Some(SignatureTime { seconds })) => self.at_s = seconds,
            }
        }
        true
    }
}
