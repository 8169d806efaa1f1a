//! Verification of copies of a journal's lines, as a log shipper leaves them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::fault::VerifyFaultKind;
use super::{LinePosition, SegmentWalk, Verified, VerifyWith};
use crate::chain;
use crate::checkpoint::stored_note;
use crate::evidence::Evidence;
use crate::read::{SegmentReader, TextLine, ValidLine};

/// Limit: lines of shipped copies; each takes 32 bytes of memory.
const COPIED_LINES_MAX: usize = 100_000_000;

/// Place of a line in a shipped copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct CopiedLine {
    seq: u64,
    /// Position of its file in the list of files.
    file: u32,
    bytes: u32,
    at: u64,
    /// Number of the line in its file, from 1.
    number: u64,
}

/// Verifies copies of a journal's lines as a log shipper leaves them: in any order, in any files, some of
/// them more than once, and without the incomplete lines that crashes leave.
///
/// # Errors
/// Returns an error if a file cannot be read, or there are too many lines.
pub fn verify_copies(files: &[PathBuf], with: &VerifyWith) -> io::Result<Verified> {
    let mut walk = SegmentWalk::new(with, Evidence::of_files(with)?);
    let mut copies = Vec::new();
    let mut lines = Vec::new();
    for (file, path) in (0..).zip(files) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let shared: Rc<Path> = path.as_path().into();
        walk.found.segments += 1;
        let (mut reader, mut number) = (SegmentReader::open(path)?, 0);
        while let Some(text) = reader.next()? {
            number += 1;
            if let Some(formed) = ValidLine::from(&text) {
                let bytes = u32::try_from(text.bytes.len()).unwrap_or(u32::MAX);
                lines.push(CopiedLine { seq: formed.read.seq, file, bytes, at: text.at, number });
            } else if let Some(note) = stored_note(text.bytes) {
                walk.evidence.note(&note, &shared);
            } else if text.is_whole {
                let place = LinePosition { segment: name.clone(), line: number };
                let bytes = text.end() - text.at;
                walk.fault(place, VerifyFaultKind::NotALine { bytes });
            }
        }
        if lines.len() > COPIED_LINES_MAX {
            return Err(io::Error::other("too many lines: verify copies of a shorter time"));
        }
        copies.push((File::open(path)?, name));
    }
    lines.sort_unstable();
    prefer_continued(&mut lines, &copies)?;
    for same in lines.chunk_by(|one, other| one.seq == other.seq) {
        walk.copied(same, &copies)?;
    }
    Ok(walk.end())
}

/// Puts the line first, of several with one number, that the line with the next number continues.
///
/// Lines that were readable before they were on disk may have been numbered anew after a failure: a copy then
/// has two lines that continue the same one.
fn prefer_continued(lines: &mut [CopiedLine], copies: &[(File, String)]) -> io::Result<()> {
    let mut after: Option<CopiedLine> = None;
    for same in lines.chunk_by_mut(|one, other| one.seq == other.seq).rev() {
        if let (true, Some(after)) = (same.len() > 1, after) {
            let after = after.read(copies)?;
            for at in 0..same.len() {
                let one = same.get(at).map(|line| line.read(copies)).transpose()?;
                let one = one.as_deref().and_then(chain::split);
                let next = chain::split(&after);
                if let (Some((_, link)), Some((body, stated))) = (one, next)
                    && link.next(body) == stated
                {
                    same.swap(0, at);
                    break;
                }
            }
        }
        after = same.first().copied();
    }
    Ok(())
}

impl CopiedLine {
    /// Returns the file that holds the line, and its name.
    fn copy<'a>(&self, copies: &'a [(File, String)]) -> Option<&'a (File, String)> {
        copies.get(usize::try_from(self.file).ok()?)
    }

    fn read(&self, copies: &[(File, String)]) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.bytes).unwrap_or_default()];
        if let Some((file, _)) = self.copy(copies) {
            file.read_exact_at(&mut bytes, self.at)?;
        }
        Ok(bytes)
    }

    fn place(&self, copies: &[(File, String)]) -> LinePosition {
        let segment = self.copy(copies).map(|(_, name)| name.clone()).unwrap_or_default();
        LinePosition { segment, line: self.number }
    }
}

impl SegmentWalk<'_> {
    /// Checks the lines with one number in shipped copies. Of several, the one that continues the chain is
    /// the journal's.
    fn copied(&mut self, same: &[CopiedLine], copies: &[(File, String)]) -> io::Result<()> {
        let texts = same.iter().map(|line| line.read(copies)).collect::<io::Result<Vec<_>>>()?;
        let lines: Vec<_> = texts
            .iter()
            .zip(same)
            .filter_map(|(bytes, line)| {
                Some((ValidLine::from(&TextLine { at: 0, bytes, is_whole: true })?, line))
            })
            .collect();
        let continues = |(line, _): &&(ValidLine<'_>, &CopiedLine)| {
            self.links.iter().any(|link| link.next(line.body) == line.link)
        };
        let Some((line, place)) = lines.iter().find(continues).or(lines.first()) else {
            return Ok(());
        };
        let is_other = |(other, _): &&(ValidLine<'_>, &CopiedLine)| {
            (other.link, other.body) != (line.link, line.body)
        };
        let others = lines.iter().filter(is_other).count();
        self.found.other_lines += u64::try_from(others).unwrap_or(u64::MAX);
        self.place = place.place(copies);
        if line.read.previous.is_some() {
            self.begins(line);
        }
        self.line(line);
        Ok(())
    }
}
