//! The journal, followed as it grows: counted, not kept.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use testkit::test_bed::segments;

/// How far it has been read, and what was found.
pub(crate) struct Journal {
    folder: PathBuf,
    /// Segments that were read to their ends.
    segments: usize,
    read_to: u64,
    pub(crate) opened: u64,
    pub(crate) closed: u64,
    /// Exchanges that were opened and are not closed.
    under_way: HashSet<String>,
    /// Lines that are neither, and gaps in their numbers.
    pub(crate) odd: u64,
    seq: u64,
}

impl Journal {
    pub(crate) fn new(path: &Path) -> Self {
        let (folder, under_way) = (path.to_owned(), HashSet::new());
        Self { folder, segments: 0, read_to: 0, opened: 0, closed: 0, under_way, odd: 0, seq: 0 }
    }

    /// Reads what has come since, whole lines only.
    pub(crate) fn follow(&mut self) {
        let segments = segments(&self.folder);
        while let Some(path) = segments.get(self.segments) {
            let mut file = BufReader::new(File::open(path).unwrap());
            file.seek(SeekFrom::Start(self.read_to)).unwrap();
            let mut line = String::new();
            while file.read_line(&mut line).unwrap() > 0 && line.ends_with('\n') {
                self.read_to += line.len() as u64;
                self.count(&line);
                line.clear();
            }
            // The last one still grows.
            if self.segments + 1 == segments.len() {
                return;
            }
            (self.segments, self.read_to) = (self.segments + 1, 0);
        }
    }

    /// Exchanges that have an opened line and no closed one.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    fn count(&mut self, line: &str) {
        let seq = after(line, "\"seq\":").and_then(|rest| rest.split(',').next()?.parse().ok());
        if seq != Some(self.seq + 1) {
            self.odd += 1;
        }
        self.seq = seq.unwrap_or(self.seq + 1);
        let id = after(line, "\"id\":\"").and_then(|rest| rest.split('"').next());
        let id = id.unwrap_or_default().to_owned();
        if line.contains("\"event\":\"opened\"") {
            self.opened += 1;
            self.under_way.insert(id);
        } else if line.contains("\"event\":\"closed\"") {
            self.closed += 1;
            self.under_way.remove(&id);
        } else if !["started", "segment", "stopped"]
            .iter()
            .any(|event| line.contains(&format!("\"event\":\"{event}\"")))
        {
            self.odd += 1;
        }
    }
}

fn after<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split_once(key).map(|(_, rest)| rest)
}
