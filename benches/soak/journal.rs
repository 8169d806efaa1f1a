//! The journal, followed as it grows: counted, not kept.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::Path;

/// How far it has been read, and what was found.
pub(crate) struct Journal {
    file: BufReader<File>,
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
        let file = BufReader::new(File::open(path).expect("the journal is there"));
        let under_way = HashSet::new();
        Self { file, read_to: 0, opened: 0, closed: 0, under_way, odd: 0, seq: 0 }
    }

    /// Reads what has come since, whole lines only.
    pub(crate) fn follow(&mut self) {
        self.file.seek(SeekFrom::Start(self.read_to)).unwrap();
        let mut line = String::new();
        loop {
            line.clear();
            let read = self.file.read_line(&mut line).unwrap();
            if !line.ends_with('\n') {
                return;
            }
            self.read_to += read as u64;
            self.count(&line);
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
        } else {
            self.odd += 1;
        }
    }
}

fn after<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split_once(key).map(|(_, rest)| rest)
}
