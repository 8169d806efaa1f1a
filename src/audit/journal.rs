//! The journal: an append-only JSON Lines file, written by a thread of its own.
//!
//! Lines get their sequence numbers here, in the order in which they are written. A line that
//! cannot be written is kept and tried again; until it is written, no new exchange is opened.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::Trail;
use super::line::Line;
use crate::metrics::Metrics;

/// The journal's settings.
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// The file that records are appended to; created with owner-only access.
    pub journal: PathBuf,
}

/// The journal cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{}: the audit journal cannot be opened: {error}", path.display())]
pub struct JournalError {
    path: PathBuf,
    error: io::Error,
}

/// What the writing thread is told.
#[derive(Debug)]
pub(super) enum Message {
    /// Write this.
    Line(Box<Line>),
    /// Say when everything before this has been written.
    Flush(oneshot::Sender<()>),
}

/// Limit: lines that may wait to be written, for each entry that may be open: its own two, and as many
/// of entries that have closed meanwhile.
const LINES_PER_ENTRY: usize = 4;
/// Limit: lines written by one call.
const BATCH_LINES_MAX: usize = 1024;
/// While lines come in, they are gathered this long before they are written: one wake-up of the
/// thread, not one a line.
const GATHER: Duration = Duration::from_millis(5);
/// Between two tries of a write that failed.
const RETRY: Duration = Duration::from_millis(200);
/// How much of an existing journal is read to find its last sequence number.
const TAIL_BYTES_MAX: u64 = 64 * 1024;

impl Trail {
    /// Opens the journal and starts its thread, which ends when the last trail and the last open
    /// entry are gone; `entries_max` is how many entries may be open at once.
    ///
    /// # Errors
    /// The file cannot be opened for appending, or its last line cannot be read.
    pub fn start(
        settings: &Settings,
        entries_max: usize,
        metrics: Arc<Metrics>,
    ) -> Result<Self, JournalError> {
        let path = &settings.journal;
        let fault = |error| JournalError { path: path.clone(), error };
        let (file, seq) = open(path).map_err(fault)?;
        let (lines, queue) = mpsc::channel(entries_max.saturating_mul(LINES_PER_ENTRY));
        let places = Arc::new(Semaphore::new(entries_max));
        let healthy = Arc::new(AtomicBool::new(true));
        let writer = Writer {
            file,
            seq,
            healthy: Arc::clone(&healthy),
            metrics: Arc::clone(&metrics),
            text: Vec::new(),
        };
        std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(fault)?;
        Ok(Self { lines, places, healthy, stopping: Arc::default(), metrics })
    }
}

struct Writer {
    file: File,
    seq: u64,
    healthy: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
    text: Vec<u8>,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Message>) {
        let mut batch = Vec::with_capacity(BATCH_LINES_MAX);
        while queue.blocking_recv_many(&mut batch, BATCH_LINES_MAX) > 0 {
            let urgent = batch.iter().any(|message| matches!(message, Message::Flush(_)));
            if batch.len() < BATCH_LINES_MAX && !urgent && !queue.is_closed() {
                std::thread::sleep(GATHER);
                while batch.len() < BATCH_LINES_MAX
                    && let Ok(message) = queue.try_recv()
                {
                    batch.push(message);
                }
            }
            self.write(&mut batch);
        }
    }

    fn write(&mut self, batch: &mut Vec<Message>) {
        self.text.clear();
        let mut waiting = Vec::new();
        for message in batch.drain(..) {
            match message {
                Message::Line(line) => {
                    self.seq += 1;
                    line.write(self.seq, &mut self.text);
                }
                Message::Flush(done) => waiting.push(done),
            }
        }
        self.append();
        for done in waiting {
            // Whoever asked may have stopped waiting.
            done.send(()).unwrap_or_default();
        }
    }

    /// Writes the whole text, however often the disk refuses.
    fn append(&mut self) {
        let mut rest = self.text.as_slice();
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(written) => {
                    rest = rest.get(written..).unwrap_or_default();
                    if !self.healthy.swap(true, Ordering::AcqRel) {
                        tracing::warn!("the audit journal is being written again");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if self.healthy.swap(false, Ordering::AcqRel) {
                        tracing::error!(%error, "the audit journal cannot be written: refusing requests");
                    }
                    self.metrics.audit_failures.inc();
                    std::thread::sleep(RETRY);
                }
            }
        }
    }
}

/// Opens for appending; a last line that was torn by a crash is ended, so that the next is whole.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut file =
        OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(path)?;
    let length = file.metadata()?.len();
    let tail_bytes = length.min(TAIL_BYTES_MAX);
    file.seek(SeekFrom::Start(length - tail_bytes))?;
    let mut tail = Vec::new();
    // No more than was there: what is named may be a device.
    Read::by_ref(&mut file).take(tail_bytes).read_to_end(&mut tail)?;
    if tail.last().is_some_and(|byte| *byte != b'\n') {
        tracing::warn!(path = %path.display(), "the journal's last line was torn; it is kept as it is");
        file.write_all(b"\n")?;
    }
    let last = tail.split(|byte| *byte == b'\n').rev().find_map(sequence);
    Ok((file, last.unwrap_or_default()))
}

fn sequence(line: &[u8]) -> Option<u64> {
    #[derive(serde::Deserialize)]
    struct Numbered {
        seq: u64,
    }
    serde_json::from_slice::<Numbered>(line).ok().map(|line| line.seq)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_goes_on_where_it_stopped_and_ends_a_torn_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        std::fs::write(&path, "{\"seq\":41,\"x\":1}\n{\"seq\":42}\n{\"seq\":4").unwrap();
        let (mut file, seq) = open(&path).unwrap();
        assert_eq!(seq, 42);
        file.write_all(b"{\"seq\":43}\n").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.ends_with("{\"seq\":4\n{\"seq\":43}\n"), "{text}");
    }

    #[test]
    fn a_journal_is_readable_by_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
