//! Composes the journal's lines, writes them to disk, and keeps the state of the chain.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::index::Index;
use super::line::{self, JournalNote, LastLine};
use super::record_fields::{QueuedLine, Step};
use super::recovery::RecoveredState;
use super::segment::{JournalFolder, Segment, SegmentPresence, SyncCheck};
use crate::metrics::Metrics;

/// The journal as its thread writes it.
#[derive(Debug)]
pub(super) struct Writer {
    folder: JournalFolder,
    segment: Segment,
    limits: SegmentLimits,
    last: LastLine,
    /// The last line that is on disk.
    synced: LastLine,
    /// Lines composed since that one.
    text: Vec<u8>,
    /// Numbers of the opened lines of exchanges that are still open.
    open: HashMap<Uuid, u64>,
    /// Index of the segment; `None` if it cannot be complete.
    index: Option<Index>,
    /// True if the segment was moved away.
    moved: bool,
    /// Time at which a new segment could not be begun; the old one grows on.
    stuck: Option<Instant>,
    metrics: Arc<Metrics>,
}

/// Size and age at which a segment is followed by a new one.
#[derive(Debug, Clone, Copy)]
pub(super) struct SegmentLimits {
    pub(super) bytes: u64,
    pub(super) age: Duration,
}

/// Pause after a new segment could not be begun.
const STUCK: Duration = Duration::from_secs(1);

impl Writer {
    /// Continues the journal in a new segment, and records the start and the exchanges that were left
    /// unfinished.
    ///
    /// # Errors
    /// Returns an error if the segment cannot be begun.
    pub(super) fn begin(
        folder: JournalFolder,
        found: RecoveredState,
        limits: SegmentLimits,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let RecoveredState { last, torn, unfinished, damaged, index } = found;
        if let Some((named, index)) = index {
            index.write(&named)?;
        }
        if let Some(place) = damaged {
            tracing::error!(
                place,
                "the audit journal is not as it was written: keep it, and run `spine-proxy audit \
                 verify`"
            );
            metrics.audit.damaged.inc();
        }
        if let Some(torn) = &torn {
            let (segment, bytes) = (&torn.segment, torn.bytes);
            tracing::warn!(
                segment,
                bytes,
                "a crash left an incomplete line at the end of the audit journal: it is kept and \
                 recorded"
            );
        }
        let segment = Segment::create(&folder, last.seq + 1)?;
        let mut writer = Self {
            folder,
            segment,
            limits,
            last,
            synced: last,
            text: Vec::new(),
            open: HashMap::new(),
            index: Some(Index::default()),
            moved: false,
            stuck: None,
            metrics,
        };
        let oldest_open = unfinished.first().map(|exchange| exchange.seq);
        writer.note(&JournalNote::Started { oldest_open, torn: torn.as_ref() });
        for exchange in &unfinished {
            let (id, opened_seq) = (exchange.id(), exchange.seq);
            tracing::warn!(
                id,
                opened_seq,
                "an exchange was under way at the last crash: its outcome is unknown"
            );
            writer.metrics.audit.unfinished.inc();
            writer.note(&JournalNote::Unfinished(exchange));
        }
        writer.put()?;
        Ok(writer)
    }

    /// Returns the last line composed, which is where the chain ends.
    pub(super) const fn last(&self) -> LastLine {
        self.last
    }

    /// Composes a line about an exchange.
    pub(super) fn line(&mut self, line: &QueuedLine, fields: &[u8]) {
        let at = self.next_at();
        if at > u64::from(u32::MAX) {
            // The index has no space for this offset, and an incomplete index would hide the line.
            self.index = None;
        }
        let keys = self.last.exchange(line, fields, &mut self.text);
        match (line.step, &line.end) {
            (Step::First, None) => drop(self.open.insert(line.known.id, self.last.seq)),
            (Step::Second, _) => drop(self.open.remove(&line.known.id)),
            (Step::First, Some(_)) => {}
        }
        if let Some(index) = &mut self.index {
            keys.into_iter().flatten().for_each(|key| index.add_key(key, at));
        }
    }

    /// Composes a line about the journal itself.
    pub(super) fn note(&mut self, note: &JournalNote<'_>) {
        let at = self.next_at();
        note.write(&mut self.last, &mut self.text);
        if let (JournalNote::Unfinished(exchange), Some(index)) = (note, &mut self.index) {
            exchange.ids().for_each(|id| index.add_id(id, at));
        }
    }

    /// Returns the offset in the segment at which the next line begins.
    fn next_at(&self) -> u64 {
        let waiting = self.text.len();
        self.segment.length().saturating_add(u64::try_from(waiting).unwrap_or(u64::MAX))
    }

    /// Returns once all that was composed is on disk; then begins a new segment if that is due.
    ///
    /// # Errors
    /// Returns an error if some of it may not be on disk. Then call [`Writer::put_again`].
    pub(super) fn put(&mut self) -> io::Result<()> {
        self.write()?;
        if self.is_turn_due() { self.turn() } else { Ok(()) }
    }

    /// Writes everything that is not known to be on disk once more, after an error.
    ///
    /// # Errors
    /// Returns an error if it still cannot be written.
    pub(super) fn put_again(&mut self) -> io::Result<()> {
        if self.segment.settle(&self.text)? == SyncCheck::SegmentLost {
            return self.go_on_elsewhere();
        }
        self.settled();
        Ok(())
    }

    /// Continues in a new segment after another program has deleted, cut or changed this one, which is left
    /// as it is.
    ///
    /// Lines that are not known to be on disk are numbered and chained anew, behind the new segment's first
    /// line.
    fn go_on_elsewhere(&mut self) -> io::Result<()> {
        let segment = Segment::create(&self.folder, self.synced.seq + 1)?;
        let name = self.segment.named.name();
        tracing::error!(
            name,
            "another program deleted, cut or changed the audit journal's segment: writing goes on \
             in a new one"
        );
        self.metrics.audit.damaged.inc();
        self.segment = segment;
        (self.index, self.moved) = (None, false);
        let text = std::mem::take(&mut self.text);
        self.last = self.synced;
        let oldest_open = self.open.values().min().copied();
        self.note(&JournalNote::Segment { oldest_open });
        for members in text.split(|byte| *byte == b'\n').filter_map(line::members) {
            self.last.line(members, &mut self.text);
        }
        self.write()
    }

    fn write(&mut self) -> io::Result<()> {
        if self.text.is_empty() {
            return Ok(());
        }
        self.segment.append(&self.text)?;
        let started = Instant::now();
        let standing = self.segment.sync()?;
        self.metrics.audit.synced(started.elapsed());
        if standing == SegmentPresence::Moved && !self.moved {
            let segment = self.segment.named.name();
            tracing::warn!(
                segment,
                "the audit journal's segment was moved away: writing goes on in a new one"
            );
        }
        self.moved = standing == SegmentPresence::Moved;
        self.settled();
        Ok(())
    }

    fn settled(&mut self) {
        self.text.clear();
        self.synced = self.last;
    }

    /// Returns true if [`Writer::put`] has something to do.
    pub(super) fn has_work(&self) -> bool {
        !self.text.is_empty() || self.is_turn_due()
    }

    /// Returns the time until a new segment is due because of this one's age; `None` while it holds only its
    /// first line, and needs no successor.
    pub(super) fn turn_in(&self) -> Option<Duration> {
        let age = self.segment.began().elapsed();
        self.has_grown().then(|| self.limits.age.saturating_sub(age))
    }

    fn has_grown(&self) -> bool {
        self.moved || self.last.seq > self.segment.named.first
    }

    fn is_turn_due(&self) -> bool {
        let is_due = self.moved
            || self.segment.length() >= self.limits.bytes
            || self.segment.began().elapsed() >= self.limits.age;
        is_due && self.has_grown() && self.stuck.is_none_or(|since| since.elapsed() >= STUCK)
    }

    /// Begins a new segment. If that fails the old one grows on, and nothing is lost.
    fn turn(&mut self) -> io::Result<()> {
        match Segment::create(&self.folder, self.last.seq + 1) {
            Ok(segment) => {
                let old = std::mem::replace(&mut self.segment, segment);
                let index = self.index.replace(Index::default());
                if let (Some(index), false) = (index, self.moved) {
                    let write = move || {
                        if let Err(error) = index.write(&old.named) {
                            tracing::warn!(
                                %error,
                                "the index of an audit segment could not be written: `audit query` \
                                 scans the segment instead"
                            );
                        }
                    };
                    if let Err(error) = std::thread::Builder::new().spawn(write) {
                        tracing::warn!(
                            %error,
                            "the index of an audit segment could not be written: `audit query` \
                             scans the segment instead"
                        );
                    }
                }
                (self.moved, self.stuck) = (false, None);
                let oldest_open = self.open.values().min().copied();
                self.note(&JournalNote::Segment { oldest_open });
                self.write()
            }
            Err(error) => {
                if self.stuck.is_none() {
                    tracing::error!(
                        %error,
                        "no new segment of the audit journal can be created: the current one grows \
                         on; creating one is tried again every second"
                    );
                }
                self.stuck = Some(Instant::now());
                self.metrics.audit.write_failures.inc();
                Ok(())
            }
        }
    }

    /// Writes the index of the last segment.
    pub(super) fn finish(self) {
        if let (Some(index), true) = (self.index, self.text.is_empty() && !self.moved)
            && let Err(error) = index.write(&self.segment.named)
        {
            tracing::warn!(
                %error,
                "the index of an audit segment could not be written: `audit query` scans the \
                 segment instead"
            );
        }
    }
}
