//! Journals that tests tamper with, and the ways to do it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use audit_journal::note::{Checkpoint, CheckpointSigner, NoteSignature, SignedNote, VerifierKey};
use audit_journal::tree::{Frontier, TreeHash, TreeHead};
use audit_journal::{
    ChainHead, ChainValue, CheckpointPlace, CheckpointSettings, Journal, JournalObserver,
    JournalSettings, Record, RecordEvent, SigningState, Verdict, Verified, VerifyWith, verify,
    verify_copies,
};
use serde_json::{Map, Value, json};
use tokio::sync::OnceCell;
use uuid::Uuid;

pub(crate) const ORIGIN: &str = "gw1.example.nhs.uk/audit/1";
/// End of the name of a file with checkpoints.
pub(crate) const CHECKPOINTS: &str = ".checkpoints.jsonl";
/// Time of the first of the checkpoints that a test signs itself: 2026-01-01.
pub(crate) const EARLY_S: u64 = 1_767_225_600;

#[derive(Debug, Default)]
pub(crate) struct Damages(pub(crate) AtomicU32);

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
pub(crate) type StoredFile = (PathBuf, Vec<u8>);

/// A journal of several segments in `journal`, whose checkpoints have a copy in `copies`.
pub(crate) struct TestJournal {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) pems: Vec<String>,
    pub(crate) damages: Arc<Damages>,
}

impl TestJournal {
    pub(crate) fn new() -> Self {
        Self::with_keys(vec![CheckpointSigner::generate_pem().unwrap()])
    }

    pub(crate) fn with_keys(pems: Vec<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("copies")).unwrap();
        Self { folder, pems, damages: Arc::default() }
    }

    /// Returns a journal of eight segments, which was written in two runs.
    pub(crate) async fn written() -> Self {
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
    pub(crate) fn cloned(&self) -> Self {
        let clone = Self::with_keys(self.pems.clone());
        copy_folder(&self.path(), &clone.path());
        copy_folder(&self.copies(), &clone.copies());
        clone
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("journal")
    }

    pub(crate) fn copies(&self) -> PathBuf {
        self.folder.path().join("copies")
    }

    pub(crate) fn signers(&self) -> Vec<CheckpointSigner> {
        let signer = |pem: &String| CheckpointSigner::from_pkcs8_pem(pem, ORIGIN).unwrap();
        self.pems.iter().map(signer).collect()
    }

    pub(crate) fn signer(&self) -> CheckpointSigner {
        self.signers().remove(0)
    }

    pub(crate) fn key(&self) -> VerifierKey {
        self.signer().verifier().clone()
    }

    pub(crate) fn open(&self) -> Journal {
        let observer = Arc::clone(&self.damages) as Arc<dyn JournalObserver>;
        Journal::open(self.settings(), observer).unwrap()
    }

    pub(crate) fn settings(&self) -> JournalSettings {
        let every = Duration::from_secs(3600);
        let copies = vec![self.copies()];
        JournalSettings {
            folder: self.path(),
            segment_bytes: 4096,
            segment_age: Duration::from_secs(86400),
            records_max: 1000,
            facts: Map::new(),
            checkpoints: CheckpointSettings::new(self.signers(), every, copies, 0),
        }
    }

    /// Opens the journal, writes exchanges of two lines, and stops.
    pub(crate) async fn write(&self, exchanges: usize) -> SigningState {
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

    pub(crate) async fn goes_on_signed_with(&self, exchanges: usize) {
        assert_eq!(self.write(exchanges).await, SigningState::On);
    }

    /// Asserts that the next start records and signs.
    pub(crate) async fn goes_on_signed(&self) {
        let notes = self.all_notes();
        self.goes_on_signed_with(1).await;
        assert!(self.all_notes() > notes);
    }

    /// Asserts that the next start records, but signs nothing and says why.
    pub(crate) async fn goes_on_unsigned(&self, why: &str) {
        let notes = self.all_notes();
        let state = self.write(1).await;
        let SigningState::Refused(reason) = state else { panic!("{state:?}, not for: {why}") };
        assert!(reason.contains(why), "{reason}");
        assert_eq!(self.all_notes(), notes, "nothing is signed");
    }

    pub(crate) fn all_notes(&self) -> usize {
        notes(&self.path()).len() + notes(&self.copies()).len()
    }

    pub(crate) fn segments(&self) -> Vec<PathBuf> {
        segments(&self.path())
    }

    /// Returns the lines of all segments.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.segments().iter().flat_map(|segment| lines(segment)).collect()
    }

    pub(crate) fn size(&self) -> u64 {
        seq(self.lines().last().unwrap())
    }

    /// Returns the tree over the first lines, which must not be missing.
    pub(crate) fn head(&self, size: u64) -> TreeHead {
        let mut tree = Frontier::new();
        for line in self.lines().iter().take(usize::try_from(size).unwrap()) {
            tree.push(TreeHash::leaf(link(line).as_bytes()));
        }
        assert_eq!(tree.size(), size);
        TreeHead { size, root: tree.root() }
    }

    /// Returns a right checkpoint of this size, signed by a key at this time.
    pub(crate) fn note(&self, size: u64, at_s: u64) -> SignedNote {
        signed(&self.signer(), self.head(size), at_s)
    }

    /// Puts these checkpoints in the place of all others.
    pub(crate) fn set_notes(&self, notes: &[SignedNote]) {
        for folder in [self.path(), self.copies()] {
            remove_notes(&folder, |_| true);
        }
        store(&self.path().join(format!("{:020}{CHECKPOINTS}", 1)), notes);
    }

    /// Writes a file with one checkpoint, as somebody else keeps it.
    pub(crate) fn note_file(&self, note: &SignedNote) -> PathBuf {
        let path = self.folder.path().join("kept.note");
        fs::write(&path, note.to_string()).unwrap();
        path
    }

    pub(crate) fn verified(&self, with: &VerifyWith) -> Verified {
        verify(&self.path(), with).unwrap()
    }

    pub(crate) fn with_key(&self, checkpoints: Vec<PathBuf>) -> VerifyWith {
        VerifyWith { keys: vec![self.key()], checkpoints, ..VerifyWith::default() }
    }

    /// Verifies with the key and the checkpoints in the folder alone.
    pub(crate) fn by_key(&self) -> Verified {
        self.verified(&self.with_key(Vec::new()))
    }

    /// Verifies with the key and the copies.
    pub(crate) fn by_copies(&self) -> Verified {
        self.verified(&self.with_key(files(&self.copies())))
    }

    /// Verifies shipped files with the key and the copies of the checkpoints.
    pub(crate) fn by_shipped(&self, shipped: &[PathBuf]) -> Verified {
        verify_copies(shipped, &self.with_key(files(&self.copies()))).unwrap()
    }

    /// Writes a file as a shipper leaves it.
    pub(crate) fn ship(&self, name: &str, lines: &[String]) -> PathBuf {
        let path = self.folder.path().join(name);
        write_lines(&path, lines);
        path
    }

    pub(crate) fn change_lines(&self, segment: usize, change: impl FnOnce(&mut Vec<String>)) {
        change_file(&self.segments()[segment], change);
    }

    /// Removes a segment with its index; and with its checkpoints in the folder, if asked.
    pub(crate) fn remove_segment(&self, segment: usize, with_checkpoints: bool) {
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
    pub(crate) fn rebuild(&self, change: impl FnOnce(&mut Vec<Vec<String>>)) {
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
    pub(crate) fn id(&self, segment: usize) -> String {
        let opened = lines(&self.segments()[segment]).into_iter().map(|line| value(&line));
        let mut opened = opened.filter(|line| line["event"] == "opened");
        opened.next().unwrap()["id"].as_str().unwrap().to_owned()
    }
}

/// Numbers and chains a line anew, and states the chain's value and the tree before it if the line did so.
pub(crate) fn chained(line: &str, last: &mut ChainHead, tree: &mut Frontier) -> String {
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
pub(crate) fn replaced(text: &str, mark: &str, end: char, by: &str) -> String {
    let Some((before, rest)) = text.split_once(mark) else { return text.to_owned() };
    let (_, after) = rest.split_once(end).unwrap();
    format!("{before}{mark}{by}{end}{after}")
}

/// Changes the text of a record's line; its length stays as it is.
pub(crate) fn falsify(line: &mut String) {
    assert!(line.contains("xxx"), "{line}");
    *line = line.replacen("xxx", "xyx", 1);
}

pub(crate) fn lines(path: &Path) -> Vec<String> {
    let bytes = fs::read(path).unwrap();
    String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
}

pub(crate) fn write_lines(path: &Path, lines: &[String]) {
    fs::write(path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
}

pub(crate) fn change_file(path: &Path, change: impl FnOnce(&mut Vec<String>)) {
    let mut lines = lines(path);
    change(&mut lines);
    write_lines(path, &lines);
}

pub(crate) fn value(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

pub(crate) fn seq(line: &str) -> u64 {
    value(line)["seq"].as_u64().unwrap()
}

pub(crate) fn link(line: &str) -> ChainValue {
    value(line)["chain"].as_str().unwrap().parse().unwrap()
}

pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

pub(crate) fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

pub(crate) fn segments(folder: &Path) -> Vec<PathBuf> {
    let is_segment = |path: &PathBuf| name(path).len() == 26 && name(path).ends_with(".jsonl");
    files(folder).into_iter().filter(is_segment).collect()
}

pub(crate) fn note_files(folder: &Path) -> Vec<PathBuf> {
    files(folder).into_iter().filter(|path| name(path).ends_with(CHECKPOINTS)).collect()
}

pub(crate) fn index(segment: &Path) -> PathBuf {
    segment.with_extension("index")
}

pub(crate) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in files(from) {
        fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}

pub(crate) fn replace_folder(old: &Path, by: &Path) {
    fs::remove_dir_all(old).unwrap();
    copy_folder(by, old);
}

pub(crate) fn empty_folder(folder: &Path) {
    fs::remove_dir_all(folder).unwrap();
    fs::create_dir(folder).unwrap();
}

/// Returns the sizes and notes of the checkpoints in a folder, without what is no checkpoint.
pub(crate) fn notes(folder: &Path) -> Vec<(u64, SignedNote)> {
    let stored = note_files(folder).into_iter().flat_map(|path| lines(&path));
    let note = |line: String| {
        let stored: Value = serde_json::from_str(&line).ok()?;
        Some((stored["size"].as_u64()?, stored["note"].as_str()?.parse().ok()?))
    };
    stored.filter_map(note).collect()
}

/// Removes the checkpoints of these sizes from a folder.
pub(crate) fn remove_notes(folder: &Path, remove: impl Fn(u64) -> bool) {
    for path in note_files(folder) {
        change_file(&path, |lines| {
            lines.retain(|line| !remove(value(line)["size"].as_u64().unwrap()));
        });
        if lines(&path).is_empty() {
            fs::remove_file(path).unwrap();
        }
    }
}

pub(crate) fn stored(note: &SignedNote) -> String {
    let checkpoint: Checkpoint = note.text().parse().unwrap();
    let time = "2026-01-01T00:00:00.000000Z";
    json!({"time": time, "size": checkpoint.size, "note": note.to_string()}).to_string()
}

/// Appends checkpoints to a file.
pub(crate) fn store(path: &Path, notes: &[SignedNote]) {
    let mut text = if path.exists() { fs::read_to_string(path).unwrap() } else { String::new() };
    notes.iter().for_each(|note| text += &format!("{}\n", stored(note)));
    fs::write(path, text).unwrap();
}

pub(crate) fn signed(signer: &CheckpointSigner, head: TreeHead, at_s: u64) -> SignedNote {
    let text = Checkpoint::new(signer.verifier().name(), head).unwrap().to_string();
    SignedNote::new(&text, signer.sign(&text, at_s).unwrap()).unwrap()
}

pub(crate) fn other_signer(name: &str) -> CheckpointSigner {
    CheckpointSigner::from_pkcs8_pem(&CheckpointSigner::generate_pem().unwrap(), name).unwrap()
}

/// Returns the head of a tree that no journal has.
pub(crate) fn other_head(size: u64) -> TreeHead {
    TreeHead { size, root: TreeHash::from([7; 32]) }
}

/// Returns the note with one bit of its first signature changed.
pub(crate) fn with_a_wrong_signature(note: &SignedNote) -> SignedNote {
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
pub(crate) fn cosignature(
    witness: &CheckpointSigner,
    note: &SignedNote,
    at_s: u64,
) -> NoteSignature {
    witness.sign(note.text(), at_s).unwrap().pop().unwrap()
}

pub(crate) fn faults(found: &Verified) -> String {
    found.faults.iter().map(|fault| format!("{fault}\n")).collect()
}

/// Asserts a verdict, and what the faults say; nothing if that is empty.
#[track_caller]
pub(crate) fn expect(found: &Verified, verdict: Verdict, says: &str) {
    let faults = faults(found);
    assert_eq!(found.verdict(), verdict, "{faults}{:#?}", found.proof);
    assert!(faults.contains(says) && faults.is_empty() == says.is_empty(), "{says}: {faults}");
}

/// Waits for something that another thread does.
pub(crate) async fn until(is_done: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_done() {
        assert!(started.elapsed() < Duration::from_secs(10));
        tokio::task::yield_now().await;
    }
}

/// Position of the last segment of [`TestJournal::written`].
pub(crate) const LAST: usize = 7;
