//! Reading of the journal's lines: at a start, for searches and for verification.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use crate::chain::{self, ChainValue};
use crate::tree::Frontier;

/// Limit: bytes of a line; those of the journal are far shorter.
pub(crate) const LINE_BYTES_MAX: u64 = 64 * 1024;
/// Limit: bytes of an incomplete line that the next start records.
pub(crate) const TORN_BYTES_KEPT: usize = 4 * 1024;
const BUFFER_BYTES: usize = 256 * 1024;

/// Members that link lines to one another. None of them is ever written with an escape.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct LineKeys<'a> {
    pub(crate) seq: u64,
    pub(crate) event: &'a str,
    #[serde(default)]
    pub(crate) id: Option<&'a str>,
    #[serde(default)]
    pub(crate) previous: Option<&'a str>,
    #[serde(default)]
    pub(crate) tree: Option<Vec<&'a str>>,
    #[serde(default)]
    pub(crate) oldest_open: Option<u64>,
    #[serde(default)]
    pub(crate) torn: Option<TornTail>,
}

impl LineKeys<'_> {
    /// Returns the tree before this line, as a segment's first line states it; `None` if it states none that
    /// fits its number.
    pub(crate) fn frontier(&self) -> Option<Frontier> {
        let nodes = self.tree.as_ref()?.iter().map(|text| text.parse()).collect::<Result<_, _>>();
        Frontier::from_parts(self.seq.checked_sub(1)?, nodes.ok()?)
    }

    /// Returns what the line says about its exchange; `None` if it belongs to none.
    pub(crate) fn exchange(&self) -> Option<(ExchangeEvent, &str)> {
        let event = match self.event {
            "opened" => ExchangeEvent::Opened,
            "closed" => ExchangeEvent::Closed,
            "unfinished" => ExchangeEvent::Unfinished,
            _ => return None,
        };
        Some((event, self.id?))
    }
}

/// Event of an exchange, as a line's member `event` states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExchangeEvent {
    /// The exchange has begun, and another line will follow.
    Opened,
    /// The exchange has ended.
    Closed,
    /// The exchange was open at a crash.
    Unfinished,
}

/// Incomplete line that a crash left at the end of a segment, as the next start found it. It stays there as
/// it is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct TornTail {
    /// The segment's name.
    pub(crate) segment: String,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
    /// Beginning of the incomplete line.
    pub(crate) text: String,
}

/// A segment's file, and the number of its first line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SegmentFile {
    pub(crate) first: u64,
    pub(crate) path: PathBuf,
}

impl SegmentFile {
    pub(crate) fn new(folder: &Path, first: u64) -> Self {
        Self { first, path: folder.join(format!("{first:0SEQ_DIGITS$}.{EXTENSION}")) }
    }

    /// Returns the path of the file beside the segment that holds its checkpoints.
    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.path.with_extension(CHECKPOINTS)
    }

    /// Returns the file's name.
    pub(crate) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// Limit: number of a line. No journal comes near it.
const SEQ_MAX: u64 = 1 << 62;
const SEQ_DIGITS: usize = 20;
const EXTENSION: &str = "jsonl";
/// Ends of the names of segments that usual programs have compressed.
const COMPRESSED: [&str; 4] = [".jsonl.gz", ".jsonl.zst", ".jsonl.xz", ".jsonl.bz2"];
/// End of the name of a file with checkpoints.
pub(crate) const CHECKPOINTS: &str = "checkpoints.jsonl";

/// Returns the segments in a folder, in order. Other files are ignored.
pub(crate) fn segments(folder: &Path) -> io::Result<Vec<SegmentFile>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let is_ours = stem.len() == SEQ_DIGITS
            && stem.bytes().all(|byte| byte.is_ascii_digit())
            && path.extension().is_some_and(|extension| extension == EXTENSION);
        // Security: opening a pipe would wait for its other end.
        if let (true, Ok(first)) = (is_ours && path.is_file(), stem.parse()) {
            found.push(SegmentFile { first, path });
        }
    }
    found.sort();
    Ok(found)
}

/// Number and size of a journal's segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalSize {
    /// Number of segments.
    pub segments: u64,
    /// Size of all segments, in bytes.
    pub bytes: u64,
}

/// Returns the number and size of a journal's segments.
///
/// # Errors
/// Returns an error if the folder or a segment cannot be read.
pub fn size(folder: &Path) -> io::Result<JournalSize> {
    let mut size = JournalSize { segments: 0, bytes: 0 };
    for segment in segments(folder)? {
        size.segments += 1;
        size.bytes += segment.path.metadata()?.len();
    }
    Ok(size)
}

/// Returns the number of compressed segments in a folder, which a search leaves out: files whose name is a
/// segment's and a further extension, such as `.gz`.
///
/// # Errors
/// Returns an error if the folder cannot be read.
pub fn compressed_segments(folder: &Path) -> io::Result<usize> {
    let mut count = 0;
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let name = name.as_encoded_bytes();
        let (digits, rest) = name.split_at(SEQ_DIGITS.min(name.len()));
        let is_compressed = digits.len() == SEQ_DIGITS
            && digits.iter().all(u8::is_ascii_digit)
            && COMPRESSED.iter().any(|extension| rest == extension.as_bytes());
        count += usize::from(is_compressed);
    }
    Ok(count)
}

/// Reads a segment line by line.
#[derive(Debug)]
pub(crate) struct SegmentReader {
    file: BufReader<File>,
    at: u64,
    text: Vec<u8>,
}

/// Text up to a line feed, or to the end of the file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TextLine<'a> {
    /// Offset in the file at which it begins.
    pub(crate) at: u64,
    /// The text without its line feed.
    pub(crate) bytes: &'a [u8],
    /// True if it ends in a line feed.
    pub(crate) is_whole: bool,
}

impl TextLine<'_> {
    /// Returns the offset in the file at which it ends, its line feed included.
    pub(crate) fn end(&self) -> u64 {
        let bytes = u64::try_from(self.bytes.len()).unwrap_or(u64::MAX);
        self.at.saturating_add(bytes).saturating_add(self.is_whole.into())
    }

    /// Returns true if it reached the end of the file when it was read. The file may have grown since.
    pub(crate) fn is_last(&self) -> bool {
        let bytes = u64::try_from(self.bytes.len()).unwrap_or(u64::MAX);
        !self.is_whole && bytes < LINE_BYTES_MAX
    }
}

impl SegmentReader {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Self::open_at(path, 0)
    }

    /// Begins at an offset in the file, where a line must begin.
    pub(crate) fn open_at(path: &Path, offset: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        let file = BufReader::with_capacity(BUFFER_BYTES, file);
        Ok(Self { file, at: offset, text: Vec::new() })
    }

    /// Returns the offset in the file of what is read next, in bytes.
    pub(crate) const fn offset(&self) -> u64 {
        self.at
    }

    /// Returns the next line, or what is left; a line that is too long comes in parts.
    pub(crate) fn next(&mut self) -> io::Result<Option<TextLine<'_>>> {
        self.text.clear();
        let read = self.file.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut self.text)?;
        let at = self.at;
        self.at += u64::try_from(read).unwrap_or(u64::MAX);
        Ok((read > 0).then(|| match self.text.strip_suffix(b"\n") {
            Some(bytes) => TextLine { at, bytes, is_whole: true },
            None => TextLine { at, bytes: &self.text, is_whole: false },
        }))
    }
}

/// A line that has the journal's form; its content is not checked.
#[derive(Debug, Clone)]
pub(crate) struct ValidLine<'a> {
    pub(crate) read: LineKeys<'a>,
    /// Bytes of which its chain value is made.
    pub(crate) body: &'a [u8],
    pub(crate) link: ChainValue,
}

impl<'a> ValidLine<'a> {
    pub(crate) fn from(text: &TextLine<'a>) -> Option<Self> {
        let (body, link) = chain::split(text.bytes)?;
        let read: LineKeys<'_> = serde_json::from_slice(text.bytes).ok()?;
        (text.is_whole && read.seq <= SEQ_MAX).then_some(Self { read, body, link })
    }
}

/// Part of a segment's content.
pub(crate) enum SegmentPart<'a> {
    /// A line that has the journal's form.
    Line(TextLine<'a>, ValidLine<'a>),
    /// Number of bytes that are no line and do not reach the end.
    NotALine(u64),
    /// An incomplete line at the end.
    Half(TornTail),
}

/// Passes every part of a segment to `each`, with the number of the line at which it begins, from 1.
pub(crate) fn walk(
    segment: &SegmentFile,
    mut each: impl FnMut(u64, SegmentPart<'_>),
) -> io::Result<()> {
    let mut reader = SegmentReader::open(&segment.path)?;
    let (mut number, mut odd) = (0, None);
    while let Some(text) = reader.next()? {
        number += 1;
        let formed = ValidLine::from(&text);
        if formed.is_none() {
            let (_, tail) = odd.get_or_insert_with(|| (number, TailText::default()));
            tail.holds(text.bytes, text.is_whole);
            if text.is_last() {
                break;
            }
        }
        // An incomplete line has no line feed, and nothing comes after it.
        if text.is_whole
            && let Some((first, tail)) = odd.take()
        {
            each(first, SegmentPart::NotALine(tail.bytes));
        }
        if let Some(formed) = formed {
            each(number, SegmentPart::Line(text, formed));
        }
    }
    if let Some((first, tail)) = odd {
        each(first, SegmentPart::Half(tail.torn(segment)));
    }
    Ok(())
}

/// Collects text that is no line, as it comes.
struct TailText {
    bytes: u64,
    hash: Context,
    text: Vec<u8>,
}

impl Default for TailText {
    fn default() -> Self {
        Self { bytes: 0, hash: Context::new(&SHA256), text: Vec::new() }
    }
}

impl TailText {
    fn holds(&mut self, bytes: &[u8], is_whole: bool) {
        let feed: &[u8] = if is_whole { b"\n" } else { b"" };
        for part in [bytes, feed] {
            self.hash.update(part);
            self.bytes += u64::try_from(part.len()).unwrap_or(u64::MAX);
            let room = TORN_BYTES_KEPT.saturating_sub(self.text.len()).min(part.len());
            self.text.extend_from_slice(part.get(..room).unwrap_or_default());
        }
    }

    fn torn(self, segment: &SegmentFile) -> TornTail {
        TornTail {
            segment: segment.name(),
            bytes: self.bytes,
            sha256: hex(self.hash.finish().as_ref()),
            text: String::from_utf8_lossy(&self.text).into_owned(),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
