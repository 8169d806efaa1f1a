//! Tampering with a journal: the verdict of a verification, and the alarm of the next start.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test says by panicking that it fails"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use audit_journal::note::{CheckpointSigner, VerifierKey};
use audit_journal::{
    CheckpointPlace, CheckpointSettings, Journal, JournalObserver, JournalSettings, Record,
    RecordEvent, SigningState, Verdict, Verified, VerifyWith, verify, verify_copies,
};
use serde_json::{Map, json};
use uuid::Uuid;

const ORIGIN: &str = "gw1.example.nhs.uk/audit/1";

#[derive(Debug)]
struct Silent;

impl JournalObserver for Silent {
    fn synced(&self, _: Duration) {}
    fn write_failed(&self) {}
    fn damaged(&self) {}
    fn left_unfinished(&self) {}
    fn signing(&self, _: bool) {}
    fn checkpoint(&self, _: i64) {}
    fn checkpoint_failed(&self, _: CheckpointPlace) {}
}

/// A journal of several segments in `journal`, whose checkpoints have a copy in `copies`.
struct TestJournal {
    folder: tempfile::TempDir,
    pem: String,
    origin: String,
}

impl TestJournal {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("copies")).unwrap();
        let pem = CheckpointSigner::generate_pem().unwrap();
        Self { folder, pem, origin: ORIGIN.to_owned() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("journal")
    }

    fn copies(&self) -> PathBuf {
        self.folder.path().join("copies")
    }

    fn signer(&self) -> CheckpointSigner {
        CheckpointSigner::from_pkcs8_pem(&self.pem, &self.origin).unwrap()
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
            checkpoints: CheckpointSettings::new(vec![self.signer()], every, copies),
        };
        Journal::open(settings, Arc::new(Silent)).unwrap()
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
                let head = journal.reserve().unwrap().append_durably(record, kind);
                assert!(head.await.unwrap().seq > 0);
            }
        }
        let state = journal.signing();
        journal.stop().await;
        state
    }

    fn segments(&self) -> Vec<PathBuf> {
        segments(&self.path())
    }

    fn verified(&self, with: &VerifyWith) -> Verified {
        verify(&self.path(), with).unwrap()
    }

    /// Verifies with the key and the checkpoints in the folder alone.
    fn by_key(&self) -> Verified {
        self.verified(&VerifyWith { keys: vec![self.key()], ..VerifyWith::default() })
    }

    /// Verifies with the key and the copies.
    fn by_copies(&self) -> Verified {
        self.verified(&VerifyWith {
            keys: vec![self.key()],
            checkpoints: files(&self.copies()),
            ..VerifyWith::default()
        })
    }

    fn change_lines(&self, segment: usize, change: impl FnOnce(&mut Vec<String>)) {
        let path = &self.segments()[segment];
        let text = fs::read_to_string(path).unwrap();
        let mut lines = text.lines().map(str::to_owned).collect();
        change(&mut lines);
        fs::write(path, lines.join("\n") + "\n").unwrap();
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let is_segment = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.len() == 26 && name.ends_with(".jsonl")
    };
    files(folder).into_iter().filter(is_segment).collect()
}

fn faults(found: &Verified) -> String {
    found.faults.iter().map(|fault| format!("{fault}\n")).collect()
}

#[tokio::test]
async fn an_untouched_journal_is_proven_by_its_key_over_restarts() {
    let journal = TestJournal::new();
    for _ in 0..3 {
        assert_eq!(journal.write(20).await, SigningState::On);
    }
    let found = journal.by_key();
    assert_eq!((found.verdict(), faults(&found)), (Verdict::Proven, String::new()));
    assert!(found.segments > 6 && found.lines > 120, "{found:?}");
    assert_eq!(found.proof.lines, found.lines);
    assert_eq!(journal.by_copies().verdict(), Verdict::Proven);
    let found = journal.verified(&VerifyWith::default());
    assert_eq!((found.verdict(), found.is_sound()), (Verdict::NotProven, true));
    let _ = found;
}
