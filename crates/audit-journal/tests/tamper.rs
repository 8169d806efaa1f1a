//! Tampering with a journal: the verdict of a verification, and the alarm of the next start.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says by panicking that it fails"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use audit_journal::note::{Checkpoint, CheckpointSigner, NoteSignature, SignedNote, VerifierKey};
use audit_journal::tree::{Frontier, TreeHash, TreeHead};
use audit_journal::{
    ChainHead, ChainValue, CheckpointPlace, CheckpointSettings, ExchangeProof, Journal,
    JournalObserver, JournalSettings, ProofError, Record, RecordEvent, SigningState, Verdict,
    Verdict::{Contradiction, NotProven, Proven},
    Verified, VerifyWith, prove, verify, verify_copies,
};
use redb::{Database, TableDefinition};
use serde_json::{Map, Value, json};
use tokio::sync::OnceCell;
use uuid::Uuid;

const ORIGIN: &str = "gw1.example.nhs.uk/audit/1";
/// End of the name of a file with checkpoints.
const CHECKPOINTS: &str = ".checkpoints.jsonl";
/// Time of the first of the checkpoints that a test signs itself: 2026-01-01.
const EARLY_S: u64 = 1_767_225_600;

#[derive(Debug, Default)]
struct Damages(AtomicU32);

impl JournalObserver for Damages {
    fn synced(&self, _: Duration) {}
    fn write_failed(&self) {}
    fn damaged(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn left_unfinished(&self) {}
    fn signing(&self, _: bool) {}
    fn checkpoint(&self, _: i64) {}
    fn checkpoint_failed(&self, _: CheckpointPlace) {}
}

/// Path of a file in a test's folder, and its content.
type StoredFile = (PathBuf, Vec<u8>);

/// A journal of several segments in `journal`, whose checkpoints have a copy in `copies`.
struct TestJournal {
    folder: tempfile::TempDir,
    pems: Vec<String>,
    damages: Arc<Damages>,
}

impl TestJournal {
    fn new() -> Self {
        Self::with_keys(vec![CheckpointSigner::generate_pem().unwrap()])
    }

    fn with_keys(pems: Vec<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("copies")).unwrap();
        Self { folder, pems, damages: Arc::default() }
    }

    /// Returns a journal of eight segments, which was written in two runs.
    async fn written() -> Self {
        static WRITTEN: OnceCell<(String, Vec<StoredFile>)> = OnceCell::const_new();
        let write = async || {
            let journal = Self::new();
            for exchanges in [12, 14] {
                journal.goes_on_signed_with(exchanges).await;
            }
            let stored = [journal.path(), journal.copies()];
            let stored = stored.iter().flat_map(|folder| files(folder)).map(|path| {
                let place = path.strip_prefix(journal.folder.path()).unwrap();
                (place.to_owned(), fs::read(&path).unwrap())
            });
            (journal.pems[0].clone(), stored.collect())
        };
        let (pem, stored) = WRITTEN.get_or_init(write).await;
        let journal = Self::with_keys(vec![pem.clone()]);
        fs::create_dir(journal.path()).unwrap();
        for (place, bytes) in stored {
            fs::write(journal.folder.path().join(place), bytes).unwrap();
        }
        journal
    }

    /// Returns a journal with the same key, segments and checkpoints.
    fn cloned(&self) -> Self {
        let clone = Self::with_keys(self.pems.clone());
        copy_folder(&self.path(), &clone.path());
        copy_folder(&self.copies(), &clone.copies());
        clone
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("journal")
    }

    fn copies(&self) -> PathBuf {
        self.folder.path().join("copies")
    }

    fn signers(&self) -> Vec<CheckpointSigner> {
        let signer = |pem: &String| CheckpointSigner::from_pkcs8_pem(pem, ORIGIN).unwrap();
        self.pems.iter().map(signer).collect()
    }

    fn signer(&self) -> CheckpointSigner {
        self.signers().remove(0)
    }

    fn key(&self) -> VerifierKey {
        self.signer().verifier().clone()
    }

    fn open(&self) -> Journal {
        let every = Duration::from_secs(3600);
        let copies = vec![self.copies()];
        let settings = JournalSettings {
            folder: self.path(),
            segment_bytes: 4096,
            segment_age: Duration::from_secs(86400),
            records_max: 1000,
            facts: Map::new(),
            checkpoints: CheckpointSettings::new(self.signers(), every, copies),
        };
        Journal::open(settings, Arc::clone(&self.damages) as Arc<dyn JournalObserver>).unwrap()
    }

    /// Opens the journal, writes exchanges of two lines, and stops.
    async fn write(&self, exchanges: usize) -> SigningState {
        let journal = self.open();
        for number in 0..exchanges {
            let id = Uuid::new_v4();
            for event in ["opened", "closed"] {
                let record = json!({
                    "time": "2026-11-28T10:00:00.000000Z", "event": event, "id": id.to_string(),
                    "trace_id": format!("trace-{number}"), "text": "x".repeat(300),
                });
                let record = Record::new(&record).unwrap();
                let kind = match event {
                    "opened" => RecordEvent::Opened(id),
                    _ => RecordEvent::Closed(id),
                };
                let head = journal.reserve().unwrap().append_durably(&record, kind);
                assert!(head.await.unwrap().seq > 0);
            }
        }
        let state = journal.signing();
        journal.stop().await;
        // The index of a segment is made by a thread of its own.
        let finished = self.segments().len() - 1;
        let indexes = self.segments().into_iter().take(finished).map(|segment| index(&segment));
        let indexes: Vec<_> = indexes.collect();
        until(|| indexes.iter().all(|index| index.exists())).await;
        state
    }

    async fn goes_on_signed_with(&self, exchanges: usize) {
        assert_eq!(self.write(exchanges).await, SigningState::On);
    }

    /// Asserts that the next start records and signs.
    async fn goes_on_signed(&self) {
        let notes = self.all_notes();
        self.goes_on_signed_with(1).await;
        assert!(self.all_notes() > notes);
    }

    /// Asserts that the next start records, but signs nothing and says why.
    async fn goes_on_unsigned(&self, why: &str) {
        let notes = self.all_notes();
        let state = self.write(1).await;
        let SigningState::Refused(reason) = state else { panic!("{state:?}, not for: {why}") };
        assert!(reason.contains(why), "{reason}");
        assert_eq!(self.all_notes(), notes, "nothing is signed");
    }

    fn all_notes(&self) -> usize {
        notes(&self.path()).len() + notes(&self.copies()).len()
    }

    fn segments(&self) -> Vec<PathBuf> {
        segments(&self.path())
    }

    /// Returns the lines of all segments.
    fn lines(&self) -> Vec<String> {
        self.segments().iter().flat_map(|segment| lines(segment)).collect()
    }

    fn size(&self) -> u64 {
        seq(self.lines().last().unwrap())
    }

    /// Returns the tree over the first lines, which must not be missing.
    fn head(&self, size: u64) -> TreeHead {
        let mut tree = Frontier::new();
        for line in self.lines().iter().take(usize::try_from(size).unwrap()) {
            tree.push(TreeHash::leaf(link(line).as_bytes()));
        }
        assert_eq!(tree.size(), size);
        TreeHead { size, root: tree.root() }
    }

    /// Returns a right checkpoint of this size, signed by a key at this time.
    fn note(&self, size: u64, at_s: u64) -> SignedNote {
        signed(&self.signer(), self.head(size), at_s)
    }

    /// Puts these checkpoints in the place of all others.
    fn set_notes(&self, notes: &[SignedNote]) {
        for folder in [self.path(), self.copies()] {
            remove_notes(&folder, |_| true);
        }
        store(&self.path().join(format!("{:020}{CHECKPOINTS}", 1)), notes);
    }

    /// Writes a file with one checkpoint, as somebody else keeps it.
    fn note_file(&self, note: &SignedNote) -> PathBuf {
        let path = self.folder.path().join("kept.note");
        fs::write(&path, note.to_string()).unwrap();
        path
    }

    fn verified(&self, with: &VerifyWith) -> Verified {
        verify(&self.path(), with).unwrap()
    }

    fn with_key(&self, checkpoints: Vec<PathBuf>) -> VerifyWith {
        VerifyWith { keys: vec![self.key()], checkpoints, ..VerifyWith::default() }
    }

    /// Verifies with the key and the checkpoints in the folder alone.
    fn by_key(&self) -> Verified {
        self.verified(&self.with_key(Vec::new()))
    }

    /// Verifies with the key and the copies.
    fn by_copies(&self) -> Verified {
        self.verified(&self.with_key(files(&self.copies())))
    }

    /// Verifies shipped files with the key and the copies of the checkpoints.
    fn by_shipped(&self, shipped: &[PathBuf]) -> Verified {
        verify_copies(shipped, &self.with_key(files(&self.copies()))).unwrap()
    }

    /// Writes a file as a shipper leaves it.
    fn ship(&self, name: &str, lines: &[String]) -> PathBuf {
        let path = self.folder.path().join(name);
        write_lines(&path, lines);
        path
    }

    fn change_lines(&self, segment: usize, change: impl FnOnce(&mut Vec<String>)) {
        change_file(&self.segments()[segment], change);
    }

    /// Removes a segment with its index; and with its checkpoints in the folder, if asked.
    fn remove_segment(&self, segment: usize, with_checkpoints: bool) {
        let path = &self.segments()[segment];
        fs::remove_file(path).unwrap();
        let beside = path.with_extension("checkpoints.jsonl");
        if with_checkpoints && beside.exists() {
            fs::remove_file(beside).unwrap();
        }
        if index(path).exists() {
            fs::remove_file(index(path)).unwrap();
        }
    }

    /// Changes the lines of all segments, then numbers and chains them and states their trees anew: what
    /// somebody without the key can do.
    fn rebuild(&self, change: impl FnOnce(&mut Vec<Vec<String>>)) {
        let mut all: Vec<_> = self.segments().iter().map(|segment| lines(segment)).collect();
        change(&mut all);
        for path in self.segments() {
            fs::remove_file(&path).unwrap();
            fs::remove_file(index(&path)).unwrap_or_default();
        }
        let (mut last, mut tree) =
            (ChainHead { seq: 0, link: ChainValue::ORIGIN }, Frontier::new());
        for lines in all {
            let path = self.path().join(format!("{:020}.jsonl", last.seq + 1));
            let lines: Vec<_> =
                lines.iter().map(|line| chained(line, &mut last, &mut tree)).collect();
            write_lines(&path, &lines);
        }
        assert!(self.verified(&VerifyWith::default()).is_sound());
    }

    /// Returns the id of the exchange that a segment's first `opened` line begins.
    fn id(&self, segment: usize) -> String {
        let opened = lines(&self.segments()[segment]).into_iter().map(|line| value(&line));
        let mut opened = opened.filter(|line| line["event"] == "opened");
        opened.next().unwrap()["id"].as_str().unwrap().to_owned()
    }
}

/// Numbers and chains a line anew, and states the chain's value and the tree before it if the line did so.
fn chained(line: &str, last: &mut ChainHead, tree: &mut Frontier) -> String {
    let (body, _) = line.rsplit_once(",\"chain\":").unwrap();
    let (_, members) = body.split_once(',').unwrap();
    let nodes: Vec<_> = tree.nodes().iter().map(|node| format!("\"{node}\"")).collect();
    let members = replaced(members, "\"previous\":\"", '"', &last.link.to_string());
    let members = replaced(&members, "\"tree\":[", ']', &nodes.join(","));
    last.seq += 1;
    let body = format!("{{\"seq\":{},{members}", last.seq);
    last.link = last.link.next(body.as_bytes());
    tree.push(TreeHash::leaf(last.link.as_bytes()));
    format!("{body},\"chain\":\"{}\"}}", last.link)
}

/// Replaces the text between a mark and the next end; returns text without the mark as it is.
fn replaced(text: &str, mark: &str, end: char, by: &str) -> String {
    let Some((before, rest)) = text.split_once(mark) else { return text.to_owned() };
    let (_, after) = rest.split_once(end).unwrap();
    format!("{before}{mark}{by}{end}{after}")
}

/// Changes the text of a record's line; its length stays as it is.
fn falsify(line: &mut String) {
    assert!(line.contains("xxx"), "{line}");
    *line = line.replacen("xxx", "xyx", 1);
}

fn lines(path: &Path) -> Vec<String> {
    let bytes = fs::read(path).unwrap();
    String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
}

fn write_lines(path: &Path, lines: &[String]) {
    fs::write(path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
}

fn change_file(path: &Path, change: impl FnOnce(&mut Vec<String>)) {
    let mut lines = lines(path);
    change(&mut lines);
    write_lines(path, &lines);
}

fn value(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

fn seq(line: &str) -> u64 {
    value(line)["seq"].as_u64().unwrap()
}

fn link(line: &str) -> ChainValue {
    value(line)["chain"].as_str().unwrap().parse().unwrap()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let is_segment = |path: &PathBuf| name(path).len() == 26 && name(path).ends_with(".jsonl");
    files(folder).into_iter().filter(is_segment).collect()
}

fn note_files(folder: &Path) -> Vec<PathBuf> {
    files(folder).into_iter().filter(|path| name(path).ends_with(CHECKPOINTS)).collect()
}

fn index(segment: &Path) -> PathBuf {
    segment.with_extension("index")
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in files(from) {
        fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}

fn replace_folder(old: &Path, by: &Path) {
    fs::remove_dir_all(old).unwrap();
    copy_folder(by, old);
}

fn empty_folder(folder: &Path) {
    fs::remove_dir_all(folder).unwrap();
    fs::create_dir(folder).unwrap();
}

/// Returns the sizes and notes of the checkpoints in a folder, without what is no checkpoint.
fn notes(folder: &Path) -> Vec<(u64, SignedNote)> {
    let stored = note_files(folder).into_iter().flat_map(|path| lines(&path));
    let note = |line: String| {
        let stored: Value = serde_json::from_str(&line).ok()?;
        Some((stored["size"].as_u64()?, stored["note"].as_str()?.parse().ok()?))
    };
    stored.filter_map(note).collect()
}

/// Removes the checkpoints of these sizes from a folder.
fn remove_notes(folder: &Path, remove: impl Fn(u64) -> bool) {
    for path in note_files(folder) {
        change_file(&path, |lines| {
            lines.retain(|line| !remove(value(line)["size"].as_u64().unwrap()));
        });
        if lines(&path).is_empty() {
            fs::remove_file(path).unwrap();
        }
    }
}

fn stored(note: &SignedNote) -> String {
    let checkpoint: Checkpoint = note.text().parse().unwrap();
    let time = "2026-01-01T00:00:00.000000Z";
    json!({"time": time, "size": checkpoint.size, "note": note.to_string()}).to_string()
}

/// Appends checkpoints to a file.
fn store(path: &Path, notes: &[SignedNote]) {
    let mut text = if path.exists() { fs::read_to_string(path).unwrap() } else { String::new() };
    notes.iter().for_each(|note| text += &format!("{}\n", stored(note)));
    fs::write(path, text).unwrap();
}

fn signed(signer: &CheckpointSigner, head: TreeHead, at_s: u64) -> SignedNote {
    let text = Checkpoint::new(signer.verifier().name(), head).unwrap().to_string();
    SignedNote::new(&text, signer.sign(&text, at_s).unwrap()).unwrap()
}

fn other_signer(name: &str) -> CheckpointSigner {
    CheckpointSigner::from_pkcs8_pem(&CheckpointSigner::generate_pem().unwrap(), name).unwrap()
}

/// Returns the head of a tree that no journal has.
fn other_head(size: u64) -> TreeHead {
    TreeHead { size, root: TreeHash::from([7; 32]) }
}

/// Returns the note with one bit of its first signature changed.
fn with_a_wrong_signature(note: &SignedNote) -> SignedNote {
    let signature = note.signatures()[0].to_string();
    let changed = match signature.as_bytes()[signature.len() - 10] {
        b'A' => "B",
        _ => "A",
    };
    let mut wrong = signature.clone();
    wrong.replace_range(signature.len() - 10..signature.len() - 9, changed);
    note.to_string().replace(&signature, &wrong).parse().unwrap()
}

/// Returns the cosignature of a witness.
fn cosignature(witness: &CheckpointSigner, note: &SignedNote, at_s: u64) -> NoteSignature {
    witness.sign(note.text(), at_s).unwrap().pop().unwrap()
}

fn faults(found: &Verified) -> String {
    found.faults.iter().map(|fault| format!("{fault}\n")).collect()
}

/// Asserts a verdict, and what the faults say; nothing if that is empty.
#[track_caller]
fn expect(found: &Verified, verdict: Verdict, says: &str) {
    let faults = faults(found);
    assert_eq!(found.verdict(), verdict, "{faults}{:#?}", found.proof);
    assert!(faults.contains(says) && faults.is_empty() == says.is_empty(), "{says}: {faults}");
}

/// Waits for something that another thread does.
async fn until(is_done: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_done() {
        assert!(started.elapsed() < Duration::from_secs(10));
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_untouched_journal_is_proven_by_its_key_over_restarts() {
    let journal = TestJournal::new();
    for _ in 0..3 {
        journal.goes_on_signed_with(12).await;
    }
    let found = journal.by_key();
    expect(&found, Proven, "");
    assert!(found.segments > 8 && found.lines > 72, "{found:?}");
    assert_eq!(found.proof.lines, found.lines);
    expect(&journal.by_copies(), Proven, "");
    expect(&journal.verified(&VerifyWith::default()), NotProven, "");
    assert_eq!(journal.damages.0.load(Ordering::Relaxed), 0);
}

/// Position of the last segment of [`TestJournal::written`].
const LAST: usize = 7;

#[tokio::test]
async fn the_written_journal_has_the_segments_that_the_tests_speak_of() {
    let journal = TestJournal::written().await;
    let counts: Vec<_> = journal.segments().iter().map(|segment| lines(segment).len()).collect();
    assert!(counts.len() == LAST + 1 && counts[LAST] > 4 && counts[LAST - 1] > 6, "{counts:?}");
    expect(&journal.by_key(), Proven, "");
    journal.goes_on_signed().await;
    expect(&journal.by_copies(), Proven, "");
}

// A line.

#[tokio::test]
async fn a_byte_changed_in_a_line_is_found_by_verification() {
    let journal = TestJournal::written().await;
    journal.change_lines(1, |lines| falsify(&mut lines[2]));
    let says = "line 3: seq 12 is not as it was written";
    expect(&journal.by_key(), Contradiction, says);
    expect(&journal.by_copies(), Contradiction, says);
    expect(&journal.verified(&VerifyWith::default()), Contradiction, says);
    // A start reads the last segment only.
    journal.goes_on_signed().await;
    expect(&journal.by_key(), Contradiction, says);
}

#[tokio::test]
async fn a_byte_changed_in_the_last_segment_is_found_by_the_next_start_too() {
    let journal = TestJournal::written().await;
    journal.change_lines(LAST, |lines| falsify(&mut lines[2]));
    expect(&journal.by_key(), Contradiction, "is not as it was written");
    expect(&journal.by_copies(), Contradiction, "is not as it was written");
    // The chain values, and so the tree, are still those that were signed.
    journal.goes_on_signed().await;
    assert_eq!(journal.damages.0.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_chain_value_changed_in_the_last_segment_stops_the_signing() {
    let journal = TestJournal::written().await;
    journal.change_lines(LAST, |lines| {
        let value = link(&lines[2]).to_string();
        lines[2] = lines[2].replace(&value, &"0".repeat(64));
    });
    expect(&journal.by_key(), Contradiction, "is not as it was written");
    expect(&journal.by_copies(), Contradiction, "the journal was rewritten after seq");
    journal.goes_on_unsigned("they were rewritten").await;
    assert!(journal.damages.0.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn a_removed_line_is_missing() {
    let journal = TestJournal::written().await;
    journal.change_lines(1, |lines| drop(lines.remove(2)));
    expect(&journal.by_key(), Contradiction, "seq 12 is missing before it");
    expect(&journal.by_copies(), Contradiction, "seq 12 is missing before it");
    journal.goes_on_signed().await;
    expect(&journal.by_key(), Contradiction, "seq 12 is missing before it");
}

#[tokio::test]
async fn a_line_removed_from_the_last_segment_stops_the_signing() {
    let journal = TestJournal::written().await;
    journal.change_lines(LAST, |lines| drop(lines.remove(2)));
    expect(&journal.by_key(), Contradiction, "is missing before it");
    expect(&journal.by_copies(), Contradiction, "is missing before it");
    journal.goes_on_unsigned("is damaged").await;
}

#[tokio::test]
async fn two_swapped_lines_are_displaced() {
    let journal = TestJournal::written().await;
    journal.change_lines(1, |lines| lines.swap(2, 3));
    expect(&journal.by_key(), Contradiction, "seq 12 was moved behind seq 13");
    expect(&journal.by_copies(), Contradiction, "seq 12 was moved behind seq 13");
    journal.goes_on_signed().await;
}

#[tokio::test]
async fn two_lines_swapped_in_the_last_segment_stop_the_signing() {
    let journal = TestJournal::written().await;
    journal.change_lines(LAST, |lines| lines.swap(2, 3));
    expect(&journal.by_key(), Contradiction, "was moved behind");
    expect(&journal.by_copies(), Contradiction, "was moved behind");
    journal.goes_on_unsigned("is damaged").await;
}

#[tokio::test]
async fn a_segment_whose_end_is_cut_misses_lines() {
    let journal = TestJournal::written().await;
    let path = &journal.segments()[1];
    let text = fs::read(path).unwrap();
    fs::write(path, &text[..text.len() - 700]).unwrap();
    let found = journal.by_key();
    expect(&found, Contradiction, "seq 17 to 18 are missing before it");
    assert!(faults(&found).contains("bytes of an incomplete line that no start recorded"));
    expect(&journal.by_copies(), Contradiction, "seq 17 to 18 are missing before it");
    journal.goes_on_signed().await;
}

#[tokio::test]
async fn a_last_segment_whose_end_is_cut_contradicts_the_checkpoints() {
    let journal = TestJournal::written().await;
    let (path, size) = (&journal.segments()[LAST], journal.size());
    let text = fs::read(path).unwrap();
    fs::write(path, &text[..text.len() - 700]).unwrap();
    let says = format!("a checkpoint of {size} lines is signed, but the journal ends with");
    expect(&journal.by_key(), Contradiction, &says);
    expect(&journal.by_copies(), Contradiction, &says);
    journal.goes_on_unsigned("its end was removed").await;
    // The lines that were added since do not hide it.
    journal.goes_on_unsigned("they were rewritten").await;
    expect(&journal.by_copies(), Contradiction, "the journal was rewritten after seq");
}

// Segments.

#[tokio::test]
async fn a_middle_segment_that_is_gone_is_missing() {
    let journal = TestJournal::written().await;
    journal.remove_segment(2, true);
    expect(&journal.by_key(), Contradiction, "seq 19 to 27 are missing before it");
    expect(&journal.by_copies(), Contradiction, "seq 19 to 27 are missing before it");
    journal.goes_on_signed().await;
    expect(&journal.by_key(), Contradiction, "seq 19 to 27 are missing before it");
}

#[tokio::test]
async fn first_segments_that_are_gone_leave_the_rest_proven() {
    let journal = TestJournal::written().await;
    for _ in 0..3 {
        journal.remove_segment(0, false);
    }
    let found = journal.by_copies();
    expect(&found, Proven, "");
    assert!(found.first == Some(28) && found.proof.before_first > 0, "{found:?}");
    journal.goes_on_signed().await;
}

#[tokio::test]
async fn last_segments_that_are_gone_with_their_checkpoints_are_known_to_the_copies() {
    let journal = TestJournal::written().await;
    let size = journal.size();
    for last in [LAST, LAST - 1] {
        journal.remove_segment(last, true);
    }
    expect(&journal.by_key(), Proven, "");
    let says = format!("a checkpoint of {size} lines is signed, but the journal ends with");
    expect(&journal.by_copies(), Contradiction, &says);
    journal.goes_on_unsigned("its end was removed").await;
    expect(&journal.by_copies(), Contradiction, "is signed");
}

#[tokio::test]
async fn a_tail_that_is_cut_with_its_checkpoints_is_known_to_the_copies() {
    let journal = TestJournal::written().await;
    journal.change_lines(LAST, |lines| lines.truncate(3));
    let size = journal.size();
    remove_notes(&journal.path(), |noted| noted > size);
    let found = journal.by_key();
    expect(&found, NotProven, "");
    assert!(found.proof.lines > 0 && found.proof.lines < size, "{:?}", found.proof);
    expect(&journal.by_copies(), Contradiction, "it was cut");
    journal.goes_on_unsigned("its end was removed").await;
    journal.goes_on_unsigned("they were rewritten").await;
}

#[tokio::test]
async fn a_tail_that_is_cut_with_all_its_checkpoints_goes_unnoticed() {
    let journal = TestJournal::written().await;
    let elsewhere = journal.folder.path().join("elsewhere");
    copy_folder(&journal.copies(), &elsewhere);
    journal.change_lines(LAST, |lines| lines.truncate(3));
    let size = journal.size();
    for folder in [journal.path(), journal.copies()] {
        remove_notes(&folder, |noted| noted > size);
    }
    expect(&journal.by_copies(), NotProven, "");
    journal.goes_on_signed().await;
    expect(&journal.by_copies(), Proven, "");
    // Only somebody else can tell.
    let found = journal.verified(&journal.with_key(files(&elsewhere)));
    expect(&found, Contradiction, "the journal was rewritten after seq");
}

// A chain that was made anew.

/// Changes a line of a segment and rebuilds the journal.
fn rewrite(journal: &TestJournal, segment: usize) {
    journal.rebuild(|segments| falsify(&mut segments[segment][2]));
}

#[tokio::test]
async fn a_rebuilt_chain_contradicts_the_checkpoints_left_beside_it() {
    let journal = TestJournal::written().await;
    rewrite(&journal, 4);
    expect(&journal.by_key(), Contradiction, "the journal was rewritten after seq 3");
    expect(&journal.by_copies(), Contradiction, "the journal was rewritten after seq 3");
    journal.goes_on_unsigned("they were rewritten").await;
    expect(&journal.by_key(), Contradiction, "the journal was rewritten after seq 3");
}

#[tokio::test]
async fn a_rebuilt_chain_without_its_checkpoints_contradicts_the_copies() {
    let journal = TestJournal::written().await;
    rewrite(&journal, 4);
    remove_notes(&journal.path(), |_| true);
    let found = journal.by_key();
    expect(&found, NotProven, "");
    assert_eq!(found.proof.lines, 0);
    expect(&journal.by_copies(), Contradiction, "the journal was rewritten after seq 3");
    journal.goes_on_unsigned("they were rewritten").await;
}

#[tokio::test]
async fn a_rebuilt_chain_that_lacks_a_line_contradicts_the_checkpoints() {
    let journal = TestJournal::written().await;
    journal.rebuild(|segments| drop(segments[4].drain(2..4)));
    expect(&journal.by_key(), Contradiction, "the journal was rewritten after seq");
    remove_notes(&journal.path(), |_| true);
    expect(&journal.by_copies(), Contradiction, "the journal was rewritten after seq");
    journal.goes_on_unsigned("its end was removed").await;
}

#[tokio::test]
async fn a_chain_rebuilt_behind_the_last_checkpoint_goes_unnoticed() {
    let journal = TestJournal::written().await;
    let size = journal.size();
    for folder in [journal.path(), journal.copies()] {
        remove_notes(&folder, |noted| noted == size);
    }
    rewrite(&journal, LAST);
    expect(&journal.by_copies(), NotProven, "");
    journal.goes_on_signed().await;
}

// The folder.

#[tokio::test]
async fn an_emptied_folder_contradicts_the_copies() {
    let journal = TestJournal::written().await;
    let size = journal.size();
    empty_folder(&journal.path());
    expect(&journal.by_key(), NotProven, "");
    let says = format!("a checkpoint of {size} lines is signed, but the journal ends with seq 0");
    expect(&journal.by_copies(), Contradiction, &says);
    journal.goes_on_unsigned("its end was removed").await;
    expect(&journal.by_copies(), Contradiction, "rewritten");
}

#[tokio::test]
async fn an_emptied_folder_without_copies_is_a_new_journal() {
    let journal = TestJournal::written().await;
    let kept = journal.note_file(&journal.note(journal.size(), EARLY_S));
    empty_folder(&journal.path());
    empty_folder(&journal.copies());
    expect(&journal.by_copies(), NotProven, "");
    journal.goes_on_signed().await;
    // Nothing that is left says that there was another journal; what somebody else kept does.
    expect(&journal.by_copies(), Proven, "");
    expect(&journal.verified(&journal.with_key(vec![kept])), Contradiction, "it was cut");
}

#[tokio::test]
async fn a_restored_backup_contradicts_the_copies() {
    let journal = TestJournal::written().await;
    let backup = journal.cloned();
    journal.goes_on_signed().await;
    replace_folder(&journal.path(), &backup.path());
    expect(&journal.by_key(), Proven, "");
    expect(&journal.by_copies(), Contradiction, "it was cut");
    journal.goes_on_unsigned("an older copy took its place").await;
}

#[tokio::test]
async fn a_restored_backup_that_went_on_contradicts_the_copies() {
    let journal = TestJournal::written().await;
    let backup = journal.cloned();
    journal.goes_on_signed().await;
    replace_folder(&journal.path(), &backup.path());
    journal.goes_on_unsigned("an older copy took its place").await;
    let found = journal.by_key();
    expect(&found, NotProven, "");
    assert!(found.proof.lines > 0, "the lines of the backup are proven");
    expect(&journal.by_copies(), Contradiction, "the journal was rewritten after seq");
    journal.goes_on_unsigned("they were rewritten").await;
}

#[tokio::test]
async fn a_restored_backup_that_went_on_without_copies_disagrees_with_what_others_kept() {
    let journal = TestJournal::written().await;
    let backup = journal.cloned();
    journal.goes_on_signed().await;
    let kept = journal.note_file(&journal.note(journal.size(), EARLY_S));
    replace_folder(&journal.path(), &backup.path());
    empty_folder(&journal.copies());
    journal.goes_on_signed().await;
    expect(&journal.by_copies(), Proven, "");
    let found = journal.verified(&journal.with_key(vec![kept]));
    expect(&found, Contradiction, "two signed checkpoints");
}

#[tokio::test]
async fn a_backup_restored_over_newer_segments_leaves_a_gap() {
    let journal = TestJournal::new();
    journal.goes_on_signed_with(6).await;
    let backup = journal.cloned();
    // The segment that was the last one when the backup was made went on growing.
    let last = backup.segments().pop().unwrap();
    change_file(&last, |lines| lines.truncate(2));
    journal.goes_on_signed_with(6).await;
    copy_folder(&backup.path(), &journal.path());
    expect(&journal.by_key(), Contradiction, "missing before it");
    expect(&journal.by_copies(), Contradiction, "missing before it");
    journal.goes_on_signed().await;
}

#[tokio::test]
async fn a_cloned_machine_is_convicted_by_two_notes() {
    let one = TestJournal::written().await;
    let other = one.cloned();
    // Each is a journal without a fault, and neither start can know of the other.
    one.goes_on_signed().await;
    other.goes_on_signed().await;
    for (journal, clone) in [(&one, &other), (&other, &one)] {
        expect(&journal.by_copies(), Proven, "");
        let size = journal.size();
        let given = journal.with_key(files(&clone.copies()));
        let found = journal.verified(&given);
        let says = format!("two signed checkpoints of {size} lines disagree");
        expect(&found, Contradiction, &says);
        for journal in [&one, &other] {
            let (_, last) = notes(&journal.path()).pop().unwrap();
            assert!(faults(&found).contains(last.text()), "both notes are shown");
        }
    }
    // One that shares its copies with a clone that has gone further is told at its next start.
    other.goes_on_signed().await;
    copy_folder(&other.copies(), &one.copies());
    one.goes_on_unsigned("its end was removed, or an older copy took its place").await;
}

// The index.

#[tokio::test]
async fn an_emptied_index_is_a_fault_and_is_made_anew_by_the_next_start() {
    let journal = TestJournal::written().await;
    let emptied = index(&journal.segments()[1]);
    fs::write(&emptied, "").unwrap();
    expect(&journal.by_key(), Contradiction, "the index beside it is not that of its lines");
    expect(&journal.by_copies(), Contradiction, "the index beside it is not that of its lines");
    prove(&journal.path(), &journal.id(1)).unwrap();
    journal.goes_on_signed().await;
    until(|| fs::metadata(&emptied).unwrap().len() > 0).await;
    expect(&journal.by_key(), Proven, "");
}

#[tokio::test]
async fn a_missing_index_is_no_fault_and_is_made_anew_by_the_next_start() {
    let journal = TestJournal::written().await;
    let missing = index(&journal.segments()[1]);
    fs::remove_file(&missing).unwrap();
    expect(&journal.by_key(), Proven, "");
    expect(&journal.by_copies(), Proven, "");
    prove(&journal.path(), &journal.id(1)).unwrap();
    journal.goes_on_signed().await;
    assert!(missing.exists());
    expect(&journal.by_key(), Proven, "");
}

/// Entries of an index.
const INDEX_LINES: TableDefinition<'_, (u64, u64), ()> = TableDefinition::new("lines");

/// Moves the entries of an index by this many bytes, or removes them if that is none.
fn change_index(index: &Path, by: Option<u64>) {
    let change = Database::open(index).unwrap().begin_write().unwrap();
    let mut moved = Vec::new();
    let mut lines = change.open_table(INDEX_LINES).unwrap();
    lines
        .retain(|(key, at), ()| {
            moved.extend(by.map(|by| (key, at + by)));
            false
        })
        .unwrap();
    for entry in moved {
        lines.insert(entry, ()).unwrap();
    }
    drop(lines);
    change.commit().unwrap();
}

#[tokio::test]
async fn an_index_with_wrong_entries_is_a_fault() {
    let journal = TestJournal::written().await;
    for by in [None, Some(1)] {
        let journal = journal.cloned();
        change_index(&index(&journal.segments()[1]), by);
        let says = "the index beside it is not that of its lines";
        expect(&journal.by_key(), Contradiction, says);
        expect(&journal.by_copies(), Contradiction, says);
        journal.goes_on_signed().await;
        expect(&journal.by_key(), Contradiction, says);
        fs::remove_file(index(&journal.segments()[1])).unwrap();
        journal.goes_on_signed().await;
        expect(&journal.by_key(), Proven, "");
    }
}

#[tokio::test]
async fn an_index_with_wrong_entries_hides_no_exchange_from_a_proof() {
    let journal = TestJournal::written().await;
    for by in [None, Some(1)] {
        let journal = journal.cloned();
        change_index(&index(&journal.segments()[1]), by);
        assert_eq!(prove(&journal.path(), &journal.id(1)).unwrap().lines.len(), 2, "{by:?}");
    }
}

// Checkpoints.

/// Puts a note into the folder, and gives it by file; returns what is found each time.
fn with_note(journal: &TestJournal, note: &SignedNote) -> [Verified; 2] {
    let given = journal.verified(&journal.with_key(vec![journal.note_file(note)]));
    let last = note_files(&journal.path()).pop().unwrap();
    store(&last, std::slice::from_ref(note));
    [given, journal.by_key()]
}

#[tokio::test]
async fn a_checkpoint_signed_by_another_key_is_ignored_and_counted() {
    let journal = TestJournal::written().await;
    let note = signed(&other_signer(ORIGIN), other_head(journal.size()), EARLY_S);
    for found in with_note(&journal, &note) {
        expect(&found, Proven, "");
        assert_eq!(found.proof.ignored, BTreeMap::from([(ORIGIN.to_owned(), 1)]));
    }
    journal.goes_on_signed().await;
}

#[tokio::test]
async fn a_checkpoint_with_a_changed_signature_is_forged() {
    let journal = TestJournal::written().await;
    let note = with_a_wrong_signature(&journal.note(journal.size(), EARLY_S));
    let says =
        format!("a checkpoint of {} lines has a wrong signature of {ORIGIN}", journal.size());
    for found in with_note(&journal, &note) {
        expect(&found, Contradiction, &says);
        assert_eq!(found.proof.lines, journal.size(), "the others prove the lines");
    }
    journal.goes_on_signed().await;
}

#[tokio::test]
async fn a_checkpoint_of_another_journal_is_ignored_and_counted() {
    let journal = TestJournal::written().await;
    let origin = "gw2.example.nhs.uk/audit/1";
    let other = CheckpointSigner::from_pkcs8_pem(&journal.pems[0], origin).unwrap();
    let note = signed(&other, other_head(journal.size()), EARLY_S);
    for found in with_note(&journal, &note) {
        expect(&found, Proven, "");
        assert_eq!(found.proof.ignored, BTreeMap::from([(origin.to_owned(), 1)]));
    }
    journal.goes_on_signed().await;
}

#[tokio::test]
async fn a_checkpoint_that_proves_nothing_does_not_stand_in_the_way_of_a_proof() {
    let journal = TestJournal::written().await;
    let (id, first) = (journal.id(1), note_files(&journal.path()).remove(0));
    let size = seq(&lines(&journal.segments()[1])[8]);
    let forged = signed(&other_signer(ORIGIN), other_head(size - 1), EARLY_S);
    let other = signed(&other_signer("gw2.example.nhs.uk/audit/1"), other_head(size - 1), EARLY_S);
    for note in [forged, other] {
        let journal = journal.cloned();
        store(&journal.path().join(first.file_name().unwrap()), &[note]);
        let checked = prove(&journal.path(), &id).unwrap().check(&[journal.key()]).unwrap();
        assert!(checked.iter().all(|line| line.signed.len() == 2), "{checked:?}");
    }
}

#[tokio::test]
async fn two_signed_checkpoints_of_one_size_that_disagree_are_shown() {
    let journal = TestJournal::written().await;
    let size = journal.size();
    let note = signed(&journal.signer(), other_head(size), EARLY_S);
    let says = format!("two signed checkpoints of {size} lines disagree");
    for found in with_note(&journal, &note) {
        expect(&found, Contradiction, &says);
        let (_, right) = notes(&journal.path())[0].clone();
        assert!(faults(&found).contains(note.text()) && !faults(&found).contains(right.text()));
    }
    journal.goes_on_unsigned("or another journal was signed with this key").await;
}

// Time.

#[tokio::test]
async fn a_clock_that_was_set_back_between_checkpoints_is_reported() {
    let journal = TestJournal::written().await;
    let times =
        [(29, EARLY_S), (37, EARLY_S + 60), (45, EARLY_S + 30), (journal.size(), EARLY_S + 90)];
    journal.set_notes(&times.map(|(size, at_s)| journal.note(size, at_s)));
    let found = journal.by_key();
    expect(&found, NotProven, "");
    assert_eq!((found.proof.clock_set_back, found.proof.gaps), (vec![45], Vec::new()));
    assert_eq!(found.proof.lines, journal.size());
    expect(&journal.by_copies(), NotProven, "");
    journal.goes_on_signed().await;
}

#[tokio::test]
async fn a_long_silence_between_checkpoints_is_reported_unless_the_journal_was_closed() {
    let journal = TestJournal::written().await;
    let size = journal.size();
    // The journal was started anew with line 30.
    for (after, before, is_silent) in [(37, 45, true), (29, 37, false)] {
        let late = EARLY_S + 3600;
        let mut times = vec![(9, EARLY_S), (after, EARLY_S), (before, late), (size, late)];
        times.dedup();
        journal.set_notes(
            &times.iter().map(|(size, at_s)| journal.note(*size, *at_s)).collect::<Vec<_>>(),
        );
        let found = journal.by_key();
        expect(&found, if is_silent { NotProven } else { Proven }, "");
        let gaps: Vec<_> = found.proof.gaps.iter().map(|gap| (gap.after, gap.times)).collect();
        let expected = (after, (EARLY_S, late));
        assert_eq!(gaps, is_silent.then_some(expected).into_iter().collect::<Vec<_>>());
    }
    journal.goes_on_signed().await;
}

#[tokio::test]
async fn a_silence_that_checkpoints_of_one_size_fill_is_none_in_whatever_order_they_are_read() {
    let journal = TestJournal::written().await;
    let size = journal.size();
    let idle: Vec<_> = (0..6).map(|at| journal.note(size, EARLY_S + 600 * at)).collect();
    journal.set_notes(&idle);
    store(&note_files(&journal.path())[0], &[journal.note(size - 1, EARLY_S)]);
    expect(&journal.by_key(), Proven, "");
    // The newest was kept elsewhere too, and is read before the others.
    let kept = journal.note_file(&idle[5]);
    let found = journal.verified(&journal.with_key(vec![kept]));
    assert_eq!(found.proof.gaps, Vec::new());
    expect(&found, Proven, "");
}

#[tokio::test]
async fn a_checkpoint_whose_time_was_removed_proves_no_time() {
    let journal = TestJournal::written().await;
    let note = journal.note(journal.size(), EARLY_S);
    let (text, last) = (note.to_string(), note.signatures()[1].to_string());
    journal.set_notes(&[text.replace(&format!("{last}\n"), "").parse().unwrap()]);
    let found = journal.by_key();
    assert_eq!((found.proof.lines, found.proof.times), (journal.size(), None));
    expect(&found, NotProven, "");
    journal.goes_on_signed().await;
}

// Keys.

#[tokio::test]
async fn a_rotated_key_proves_the_lines_with_either_and_with_both() {
    let (old, new) = (0, 1);
    let mut journal = TestJournal::with_keys(Vec::from(
        [0; 2].map(|_| CheckpointSigner::generate_pem().unwrap()),
    ));
    let pems = journal.pems.clone();
    journal.pems = vec![pems[old].clone()];
    journal.goes_on_signed_with(6).await;
    journal.pems = pems.clone();
    journal.goes_on_signed_with(6).await;
    let rotated = journal.size();
    journal.pems = vec![pems[new].clone()];
    journal.goes_on_signed_with(6).await;
    journal.pems = pems;
    let keys: Vec<_> = journal.signers().iter().map(|signer| signer.verifier().clone()).collect();
    for (given, proven, verdict) in [
        (vec![&keys[old]], rotated, NotProven),
        (vec![&keys[new]], journal.size(), Proven),
        (vec![&keys[old], &keys[new]], journal.size(), Proven),
    ] {
        let given: Vec<VerifierKey> = given.into_iter().cloned().collect();
        let keys = given.iter().map(ToString::to_string).collect();
        for checkpoints in [Vec::new(), files(&journal.copies())] {
            let with = VerifyWith { keys: given.clone(), checkpoints, ..VerifyWith::default() };
            let found = journal.verified(&with);
            expect(&found, verdict, "");
            assert_eq!((found.proof.lines, &found.proof.keys), (proven, &keys));
            assert_eq!(found.proof.ignored.contains_key(ORIGIN), given.len() == 1);
        }
    }
    let kept: Vec<_> = journal.pems.drain(..).collect();
    journal.pems = vec![kept[new].clone()];
    journal.goes_on_signed().await;
}

// Shipped copies.

#[tokio::test]
async fn shipped_lines_in_any_order_and_more_than_once_are_proven() {
    let journal = TestJournal::written().await;
    let mut lines = journal.lines();
    let count = lines.len();
    lines.extend_from_within(10..30);
    let mut shuffled: Vec<_> = (0..lines.len()).collect();
    shuffled.sort_by_key(|at| (at * 37) % 101);
    let shuffled: Vec<_> = shuffled.into_iter().map(|at| lines[at].clone()).collect();
    let files: Vec<_> = (0..)
        .zip(shuffled.chunks(20))
        .map(|(at, part)| journal.ship(&format!("part-{at}"), part))
        .collect();
    let found = journal.by_shipped(&files);
    expect(&found, Proven, "");
    assert_eq!((found.lines, found.other_lines), (u64::try_from(count).unwrap(), 0));
    let with = VerifyWith { keys: vec![journal.key()], ..VerifyWith::default() };
    expect(&verify_copies(&files, &with).unwrap(), NotProven, "");
}

#[tokio::test]
async fn a_line_missing_from_shipped_copies_is_reported() {
    let journal = TestJournal::written().await;
    let mut lines = journal.lines();
    lines.remove(20);
    expect(
        &journal.by_shipped(&[journal.ship("part", &lines)]),
        Contradiction,
        "seq 21 is missing",
    );
    let mut lines = journal.lines();
    lines.truncate(40);
    expect(&journal.by_shipped(&[journal.ship("part", &lines)]), Contradiction, "it was cut");
}

/// Returns another line with the number of the line at a position, chained to the one before.
fn another(lines: &[String], at: usize) -> String {
    let mut line = lines[11].clone();
    falsify(&mut line);
    let before = &lines[at - 1];
    let mut last = ChainHead { seq: seq(before), link: link(before) };
    chained(&line, &mut last, &mut Frontier::new())
}

#[tokio::test]
async fn a_shipped_line_that_was_numbered_anew_before_it_was_on_disk_is_no_fault() {
    let journal = TestJournal::written().await;
    // A start, whose number was that of a line that a power cut took from the journal, but not from the copies.
    let (lines, at) = (journal.lines(), 29);
    assert_eq!(value(&lines[at])["event"], "started");
    let early = [&lines[..at], &[another(&lines, at)]].concat();
    let shipped = [journal.ship("early", &early), journal.ship("late", &lines[at..])];
    let found = journal.by_shipped(&shipped);
    expect(&found, Proven, "");
    assert_eq!(found.other_lines, 1);
}

#[tokio::test]
async fn a_forged_duplicate_among_shipped_lines_does_not_displace_the_real_one() {
    let journal = TestJournal::written().await;
    let lines = journal.lines();
    let mut unchained = lines[11].clone();
    falsify(&mut unchained);
    for forged in [unchained, another(&lines, 11)] {
        let shipped = [journal.ship("forged", &[forged]), journal.ship("part", &lines)];
        let found = journal.by_shipped(&shipped);
        expect(&found, Proven, "");
        assert_eq!(found.other_lines, 1);
    }
}

#[tokio::test]
async fn a_forged_line_in_the_place_of_a_shipped_one_is_reported() {
    let journal = TestJournal::written().await;
    let mut lines = journal.lines();
    lines[11] = another(&lines, 11);
    let found = journal.by_shipped(&[journal.ship("part", &lines)]);
    expect(&found, Contradiction, "seq 13 is not as it was written");
}

#[tokio::test]
async fn checkpoints_shipped_among_the_lines_are_no_fault() {
    let journal = TestJournal::written().await;
    let mut lines = journal.lines();
    lines.insert(20, stored(&notes(&journal.path())[0].1));
    let found = journal.by_shipped(&[journal.ship("part", &lines)]);
    expect(&found, Proven, "");
}

// Proofs of single exchanges.

fn proof(journal: &TestJournal, segment: usize) -> ExchangeProof {
    let proof = prove(&journal.path(), &journal.id(segment)).unwrap();
    // As it is handed over.
    serde_json::from_str(&serde_json::to_string(&proof).unwrap()).unwrap()
}

#[tokio::test]
async fn an_exchange_of_any_segment_is_proven_to_others() {
    let journal = TestJournal::written().await;
    for segment in [0, 4, LAST] {
        let proof = proof(&journal, segment);
        assert_eq!(proof.lines.len(), 2);
        let checked = proof.check(&[journal.key()]).unwrap();
        for (line, checked) in proof.lines.iter().zip(checked) {
            assert_eq!((checked.seq, &*checked.origin), (seq(&line.line), ORIGIN));
            let times: Vec<_> = checked.signed.iter().map(|(_, at_s)| at_s.is_some()).collect();
            assert_eq!(times, [false, true], "the gateway and its clock");
            assert!(checked.size >= checked.seq);
        }
        // Somebody else's key has signed nothing, in this name or in another.
        for name in [ORIGIN, "gw2.example.nhs.uk/audit/1"] {
            let checked = proof.check(&[other_signer(name).verifier().clone()]).unwrap();
            assert!(checked.iter().all(|line| line.signed.is_empty()));
        }
    }
}

#[tokio::test]
async fn an_exchange_is_proven_after_older_segments_were_deleted() {
    let journal = TestJournal::written().await;
    let id = journal.id(0);
    for _ in 0..3 {
        journal.remove_segment(0, true);
    }
    journal.goes_on_signed().await;
    for segment in [1, 4, 5] {
        let checked = proof(&journal, segment).check(&[journal.key()]).unwrap();
        assert!(checked.iter().all(|line| line.signed.len() == 2));
    }
    assert!(matches!(prove(&journal.path(), &id), Err(ProofError::NotFound)));
}

#[tokio::test]
async fn an_exchange_is_not_proven_before_a_checkpoint_covers_it() {
    let journal = TestJournal::written().await;
    remove_notes(&journal.path(), |size| size > 45);
    let id = journal.id(LAST);
    assert!(matches!(prove(&journal.path(), &id), Err(ProofError::NotCovered(seq)) if seq > 45));
    proof(&journal, 4);
    journal.goes_on_signed().await;
    proof(&journal, LAST);
    assert!(matches!(prove(&journal.path(), "no such id"), Err(ProofError::NotFound)));
}

/// Asserts that a change makes a proof false or malformed, with this text.
#[track_caller]
fn expect_false(journal: &TestJournal, says: &str, change: impl FnOnce(&mut ExchangeProof)) {
    let mut proof = proof(journal, 4);
    change(&mut proof);
    let error = proof.check(&[journal.key()]).unwrap_err();
    assert!(matches!(error, ProofError::False { .. } | ProofError::Malformed { .. }));
    assert!(error.to_string().contains(says), "{error}");
}

#[tokio::test]
async fn a_proof_that_was_changed_is_false() {
    let journal = TestJournal::written().await;
    let journal = &journal;
    expect_false(journal, "the line was changed", |proof| falsify(&mut proof.lines[0].line));
    let hash = |proof: &str| proof.lines().nth(3).unwrap().to_owned();
    let zero = TreeHash::from([0; 32]).to_string();
    let not_in = "line 1 of the proof is FALSE: the line is not in the tree of the checkpoint";
    expect_false(journal, not_in, |proof| {
        let proof = &mut proof.lines[0].proof;
        *proof = proof.replacen(&hash(proof), &zero, 1);
    });
    expect_false(journal, not_in, |proof| {
        let proof = &mut proof.lines[0].proof;
        *proof = proof.replacen(&format!("{}\n", hash(proof)), "", 1);
    });
    expect_false(journal, not_in, |proof| {
        let proof = &mut proof.lines[0].proof;
        *proof = proof.replacen("\n\n", &format!("\n{zero}\n\n"), 1);
    });
    expect_false(journal, "its index is not that of the line", |proof| {
        let proof = &mut proof.lines[0].proof;
        *proof = proof.replacen("index ", "index 1", 1);
    });
    // The checkpoint of another journal, and a wrong signature of this one.
    let head = other_head(journal.size());
    let note =
        |text: &str, note: &SignedNote| format!("{}\n\n{note}", text.split_once("\n\n").unwrap().0);
    expect_false(journal, "the line is not in the tree", |proof| {
        let proof = &mut proof.lines[1].proof;
        *proof = note(proof, &signed(&journal.signer(), head, EARLY_S));
    });
    expect_false(journal, "line 2 of the proof is FALSE: a signature of the checkpoint", |proof| {
        let proof = &mut proof.lines[1].proof;
        let (_, old) = proof.split_once("\n\n").unwrap();
        *proof = note(proof, &with_a_wrong_signature(&old.parse().unwrap()));
    });
}

#[tokio::test]
async fn a_proof_of_another_line_is_false_and_half_a_proof_is_none() {
    let journal = TestJournal::written().await;
    expect_false(&journal, "its index is not that of the line", |proof| {
        let other = proof.lines[1].proof.clone();
        proof.lines[0].proof = other;
    });
    expect_false(&journal, "it is no line of a journal", |proof| {
        proof.lines[0].line.pop();
    });
    expect_false(&journal, "it has no proof", |proof| {
        let proof = &mut proof.lines[0].proof;
        proof.truncate(proof.len() / 4);
    });
    expect_false(&journal, "it has no proof", |proof| {
        proof.lines[0].proof.pop();
    });
    let text = serde_json::to_string(&proof(&journal, 4)).unwrap();
    for end in [0, 1, text.len() / 2, text.len() - 1] {
        assert!(serde_json::from_str::<ExchangeProof>(&text[..end]).is_err());
    }
}

#[tokio::test]
async fn a_proof_without_lines_proves_nothing() {
    let journal = TestJournal::written().await;
    let none: ExchangeProof = serde_json::from_str("{\"lines\":[]}").unwrap();
    none.check(&[journal.key()]).unwrap_err();
}

// Witnesses.

#[tokio::test]
async fn a_witness_that_was_asked_for_must_have_seen_the_last_line() {
    let journal = TestJournal::written().await;
    let witness = other_signer("trust.example/w1");
    let with = VerifyWith {
        witnesses: vec![witness.verifier().as_cosigner()],
        ..journal.with_key(Vec::new())
    };
    let seen = |found: &Verified| {
        found.proof.witnessed.values().map(|seen| (seen.lines, seen.at_s)).collect::<Vec<_>>()
    };
    let found = journal.verified(&with);
    expect(&found, NotProven, "");
    assert_eq!(seen(&found), [(0, 0)]);
    // Seen up to an earlier line; a signature by another key in its name; seen to the end.
    let kept = notes(&journal.path());
    let (early, late) = (&kept[4], kept.last().unwrap());
    let impostor = other_signer("trust.example/w1");
    for (signer, (size, note), verdict, lines) in [
        (&witness, early, NotProven, early.0),
        (&impostor, late, NotProven, early.0),
        (&witness, late, Proven, journal.size()),
    ] {
        let mut note = note.clone();
        note.add_signatures(vec![cosignature(signer, &note, EARLY_S + size)]).unwrap();
        store(&note_files(&journal.path())[0], &[note]);
        let found = journal.verified(&with);
        expect(&found, verdict, "");
        assert_eq!(seen(&found), [(lines, EARLY_S + lines)]);
    }
    journal.goes_on_signed().await;
    expect(&journal.verified(&with), NotProven, "");
}

#[tokio::test]
async fn a_witness_is_kept_beside_the_checkpoint_that_it_signed() {
    let journal = TestJournal::written().await;
    let witness = other_signer("trust.example/w1");
    let open = journal.open();
    let newest = open.checkpoints().wait_for(Option::is_some).await.unwrap().clone().unwrap();
    open.keep_cosigned(&newest, vec![cosignature(&witness, &newest.note, EARLY_S)]);
    open.stop().await;
    let with = VerifyWith {
        witnesses: vec![witness.verifier().as_cosigner()],
        ..journal.with_key(Vec::new())
    };
    for with in [VerifyWith { checkpoints: files(&journal.copies()), ..with.clone() }, with] {
        let found = journal.verified(&with);
        expect(&found, NotProven, "");
        assert_eq!(found.proof.witnessed["trust.example/w1"].lines, newest.checkpoint.size);
    }
}

// Files with checkpoints.

#[tokio::test]
async fn a_checkpoint_that_a_crash_cut_does_not_hide_later_ones() {
    let journal = TestJournal::written().await;
    let open = journal.open();
    let newest = open.checkpoints().wait_for(Option::is_some).await.unwrap().clone().unwrap();
    let file = journal.path().join(format!("{:020}{CHECKPOINTS}", journal.size()));
    until(|| fs::read(&file).is_ok_and(|text| text.ends_with(b"\n"))).await;
    let text = fs::read(&file).unwrap();
    fs::write(&file, &text[..text.len() / 2]).unwrap();
    // Another checkpoint in this file, besides the one of the end.
    open.keep_cosigned(&newest, vec![cosignature(&other_signer("w1"), &newest.note, EARLY_S)]);
    open.stop().await;
    let found = journal.by_key();
    expect(&found, Proven, "");
    assert_eq!(found.proof.unreadable, 1);
    expect(&journal.by_copies(), Proven, "");
    // The last line of the file may be the one that is cut.
    let text = fs::read(&file).unwrap();
    fs::write(&file, &text[..text.len() - 9]).unwrap();
    let found = journal.by_key();
    expect(&found, NotProven, "");
    assert_eq!((found.proof.unreadable, found.proof.lines), (2, newest.checkpoint.size));
    expect(&journal.by_copies(), Proven, "");
    journal.goes_on_signed().await;
    expect(&journal.by_key(), Proven, "");
}

#[tokio::test]
async fn a_first_line_that_is_no_checkpoint_does_not_hide_later_ones() {
    let journal = TestJournal::written().await;
    for first in [&b"\n"[..], b"\0\0\0\n", b"\xff\xfe\n", b"[]\n"] {
        let journal = journal.cloned();
        let file = note_files(&journal.path()).pop().unwrap();
        let text = [first, &fs::read(&file).unwrap()].concat();
        fs::write(&file, text).unwrap();
        expect(&journal.by_key(), Proven, "");
        expect(&journal.by_copies(), Proven, "");
        journal.goes_on_signed().await;
    }
}

#[tokio::test]
async fn a_file_that_holds_no_checkpoints_does_not_hide_a_restored_backup() {
    let backup = TestJournal::written().await;
    let newer = backup.cloned();
    newer.goes_on_signed().await;
    let junk = format!("{:020}{CHECKPOINTS}", u64::MAX);
    for text in [&b"junk"[..], b"\xff\xfe\n", b"{}\n"] {
        let journal = newer.cloned();
        replace_folder(&journal.path(), &backup.path());
        fs::write(journal.copies().join(&junk), text).unwrap();
        expect(&journal.by_copies(), Contradiction, "it was cut");
        journal.goes_on_unsigned("an older copy took its place").await;
    }
}

#[tokio::test]
async fn an_old_checkpoint_in_a_later_file_does_not_hide_a_restored_backup() {
    let journal = TestJournal::written().await;
    let backup = journal.cloned();
    journal.goes_on_signed().await;
    replace_folder(&journal.path(), &backup.path());
    let old = backup.note(9, EARLY_S);
    store(&journal.copies().join(format!("{:020}{CHECKPOINTS}", u64::MAX)), &[old]);
    expect(&journal.by_copies(), Contradiction, "it was cut");
    journal.goes_on_unsigned("an older copy took its place").await;
}

// Trees that are not those of the lines.

#[tokio::test]
async fn a_forged_last_segment_that_states_another_tree_stops_the_signing() {
    let journal = TestJournal::written().await;
    let lines = journal.lines();
    let before = lines.last().unwrap();
    let mut last = ChainHead { seq: seq(before), link: link(before) };
    let nodes = vec![TreeHash::from([7; 32]); usize::try_from(last.seq.count_ones()).unwrap()];
    let mut tree = Frontier::from_parts(last.seq, nodes).unwrap();
    let begin = lines.iter().find(|line| value(line)["event"] == "segment").unwrap();
    let path = journal.path().join(format!("{:020}.jsonl", last.seq + 1));
    write_lines(&path, &[chained(begin, &mut last, &mut tree)]);
    expect(&journal.by_key(), Contradiction, "states another tree than that of the lines before");
    journal.goes_on_unsigned("").await;
}

#[tokio::test]
async fn a_rebuilt_chain_that_states_no_trees_contradicts_the_checkpoints() {
    let journal = TestJournal::written().await;
    rewrite(&journal, 4);
    // As if its first segments were deleted in due time.
    for _ in 0..3 {
        journal.remove_segment(0, false);
    }
    let mut last = None;
    for segment in journal.segments() {
        change_file(&segment, |lines| {
            for line in lines {
                let seq = seq(line) - 1;
                let link = value(line)["previous"].as_str().map(|hex| hex.parse().unwrap());
                let last = last.get_or_insert(ChainHead { seq, link: link.unwrap_or_default() });
                *line = replaced(line, "\"tree\":[", ']', "");
                *line = chained(&line.replace(",\"tree\":[]", ""), last, &mut Frontier::new());
            }
        });
        fs::remove_file(index(&segment)).unwrap_or_default();
    }
    expect(&journal.verified(&VerifyWith::default()), NotProven, "");
    let found = journal.by_copies();
    assert!(found.proof.before_first < 5, "{:?}", found.proof);
    expect(&found, Contradiction, "checkpoint");
    journal.goes_on_unsigned("").await;
}
