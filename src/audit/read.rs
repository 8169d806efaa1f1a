//! Reading of the journal's lines, at a start and for queries.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::chain::{self, ChainValue};

/// Limit: bytes of a line; those of the journal are far shorter.
pub(super) const LINE_BYTES_MAX: u64 = 64 * 1024;
/// Limit: bytes of an incomplete line that the next start records.
pub(super) const TORN_BYTES_KEPT: usize = 4 * 1024;
const BUFFER_BYTES: usize = 256 * 1024;

/// Members that link lines to one another. None of them is ever written with an escape.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct LineKeys<'a> {
    pub(super) seq: u64,
    pub(super) event: &'a str,
    #[serde(default)]
    pub(super) id: Option<&'a str>,
    #[serde(default)]
    pub(super) trace_id: Option<&'a str>,
    #[serde(default)]
    pub(super) previous: Option<&'a str>,
    #[serde(default)]
    pub(super) oldest_open: Option<u64>,
    #[serde(default)]
    pub(super) torn: Option<TornTail>,
}

/// Incomplete line that a crash left at the end of a segment, as the next start found it. It stays there as
/// it is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct TornTail {
    /// The segment's name.
    pub(super) segment: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
    /// Beginning of the incomplete line.
    pub(super) text: String,
}

/// An exchange that was opened and not closed.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct UnfinishedExchange {
    /// Number of its `opened` line.
    pub seq: u64,
    id: String,
    trace_id: Option<String>,
    from: Option<String>,
    to: Option<String>,
    ods: Option<String>,
    interaction: Option<String>,
    method: Option<String>,
}

impl UnfinishedExchange {
    /// Returns the exchange's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the ids by which the exchange is found.
    pub(super) fn ids(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&*self.id).chain(self.trace_id.as_deref())
    }

    /// Returns the members that its `unfinished` line repeats.
    pub(super) fn members(&self) -> [(&'static str, Option<&str>); 7] {
        [
            ("id", Some(&self.id)),
            ("trace_id", self.trace_id.as_deref()),
            ("from", self.from.as_deref()),
            ("to", self.to.as_deref()),
            ("ods", self.ods.as_deref()),
            ("interaction", self.interaction.as_deref()),
            ("method", self.method.as_deref()),
        ]
    }
}

/// A segment's file, and the number of its first line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SegmentFile {
    pub(super) first: u64,
    pub(super) path: PathBuf,
}

impl SegmentFile {
    pub(super) fn new(folder: &Path, first: u64) -> Self {
        Self { first, path: folder.join(format!("{first:0SEQ_DIGITS$}.{EXTENSION}")) }
    }

    /// Returns the file's name.
    pub(super) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// Limit: number of a line. No journal comes near it.
const SEQ_MAX: u64 = 1 << 62;
const SEQ_DIGITS: usize = 20;
const EXTENSION: &str = "jsonl";

/// Returns the segments in a folder, in order. Other files are ignored.
pub(super) fn segments(folder: &Path) -> io::Result<Vec<SegmentFile>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let is_ours = stem.len() == SEQ_DIGITS
            && stem.bytes().all(|byte| byte.is_ascii_digit())
            && path.extension().is_some_and(|extension| extension == EXTENSION);
        if let (true, Ok(first)) = (is_ours, stem.parse()) {
            found.push(SegmentFile { first, path });
        }
    }
    found.sort();
    Ok(found)
}

/// Reads a segment line by line.
#[derive(Debug)]
pub(super) struct SegmentReader {
    file: BufReader<File>,
    at: u64,
    text: Vec<u8>,
}

/// Text up to a line feed, or to the end of the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct TextLine<'a> {
    /// Offset in the file at which it begins.
    pub(super) at: u64,
    /// The text without its line feed.
    pub(super) bytes: &'a [u8],
    /// True if it ends in a line feed.
    pub(super) is_whole: bool,
}

impl TextLine<'_> {
    /// Returns true if it reached the end of the file when it was read. The file may have grown since.
    fn is_last(&self) -> bool {
        let bytes = u64::try_from(self.bytes.len()).unwrap_or(u64::MAX);
        !self.is_whole && bytes < LINE_BYTES_MAX
    }
}

impl SegmentReader {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = BufReader::with_capacity(BUFFER_BYTES, File::open(path)?);
        Ok(Self { file, at: 0, text: Vec::new() })
    }

    /// Returns the next line, or what is left; a line that is too long comes in parts.
    pub(super) fn next(&mut self) -> io::Result<Option<TextLine<'_>>> {
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
pub(super) struct ValidLine<'a> {
    pub(super) read: LineKeys<'a>,
    /// Bytes of which its chain value is made.
    pub(super) body: &'a [u8],
    pub(super) link: ChainValue,
}

impl<'a> ValidLine<'a> {
    pub(super) fn from(text: &TextLine<'a>) -> Option<Self> {
        let (body, link) = chain::split(text.bytes)?;
        let read: LineKeys<'_> = serde_json::from_slice(text.bytes).ok()?;
        (text.is_whole && read.seq <= SEQ_MAX).then_some(Self { read, body, link })
    }
}

/// Part of a segment's content.
pub(super) enum SegmentPart<'a> {
    /// A line that has the journal's form.
    Line(TextLine<'a>, ValidLine<'a>),
    /// Number of bytes that are no line and do not reach the end.
    NotALine(u64),
    /// An incomplete line at the end.
    Half(TornTail),
}

/// Passes every part of a segment to `each`, with the number of the line at which it begins, from 1.
pub(super) fn walk(
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
