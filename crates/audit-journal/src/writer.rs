//! Turns records into lines, writes them to disk, and keeps the state of the chain and of the tree.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use uuid::Uuid;

use crate::JournalObserver;
use crate::chain::{ChainHead, ChainValue};
use crate::journal::{JournalSettings, RecordEvent};
use crate::line::{self, JournalLine, LastLine, Record, SegmentStart};
use crate::read::SegmentFile;
use crate::recovery::RecoveredState;
use crate::segment::{JournalFolder, Segment, SegmentPresence, SyncCheck};
use crate::tree::{Frontier, TreeHash};

/// The journal as its thread writes it.
pub(crate) struct Writer {
    folder: JournalFolder,
    segment: Segment,
    segment_bytes: u64,
    segment_age: Duration,
    origin: Option<String>,
    last: LastLine,
    /// The last line that is on disk.
    synced: LastLine,
    /// Lines written since that one, and their chain values.
    text: Vec<u8>,
    leaves: Vec<ChainValue>,
    /// The tree over all lines on disk; `None` if it is not known.
    tree: Option<Frontier>,
    /// Numbers of the opened lines of exchanges that are still open.
    open: HashMap<Uuid, u64>,
    /// True if the segment was moved away.
    moved: bool,
    /// Time at which a new segment could not be begun; the old one grows on.
    stuck: Option<Instant>,
    observer: Arc<dyn JournalObserver>,
}

/// Pause after a new segment could not be begun.
const STUCK: Duration = Duration::from_secs(1);

impl Writer {
    /// Continues the journal in a new segment, and records the start and the exchanges that were left
    /// unfinished.
    ///
    /// # Errors
    /// Returns an error if the segment cannot be begun.
    pub(crate) fn begin(
        folder: JournalFolder,
        found: &RecoveredState,
        settings: &JournalSettings,
        observer: Arc<dyn JournalObserver>,
    ) -> io::Result<Self> {
        let RecoveredState { last, tree, torn, unfinished, .. } = found;
        let mut writer = Self {
            segment: Segment::create(&folder, last.seq + 1)?,
            folder,
            segment_bytes: settings.segment_bytes,
            segment_age: settings.segment_age,
            origin: settings.checkpoints.as_ref().map(|wanted| wanted.origin().to_owned()),
            last: *last,
            synced: *last,
            text: Vec::new(),
            leaves: Vec::new(),
            tree: tree.clone(),
            open: HashMap::new(),
            moved: false,
            stuck: None,
            observer,
        };
        let origin = writer.origin.clone();
        let start = SegmentStart {
            last: *last,
            tree: tree.as_ref(),
            oldest_open: unfinished.first().map(|exchange| exchange.seq),
            origin: origin.as_deref(),
        };
        writer.own(&JournalLine::started(&start, torn.as_ref(), &settings.facts));
        for exchange in unfinished {
            tracing::warn!(
                id = exchange.id,
                opened_seq = exchange.seq,
                "an exchange was under way at the last crash: its outcome is unknown"
            );
            writer.observer.left_unfinished();
            writer.own(&JournalLine::unfinished(exchange.seq, &exchange.members));
        }
        writer.put()?;
        Ok(writer)
    }

    /// Returns the number and chain value of the last line, where the chain ends.
    pub(crate) const fn last(&self) -> ChainHead {
        let LastLine { seq, link } = self.last;
        ChainHead { seq, link }
    }

    /// Returns the tree over all lines on disk; `None` if it is not known.
    pub(crate) const fn tree(&self) -> Option<&Frontier> {
        self.tree.as_ref()
    }

    /// Returns the file of the segment that is being written.
    pub(crate) const fn segment(&self) -> &SegmentFile {
        &self.segment.named
    }

    /// Unlocks the folder for the next process.
    pub(crate) fn unlock(&self) {
        self.folder.unlock();
    }

    /// Adds the members of a record as the next line.
    pub(crate) fn line(&mut self, members: &[u8], event: RecordEvent) {
        self.append(members);
        match event {
            RecordEvent::Opened(id) => drop(self.open.insert(id, self.last.seq)),
            RecordEvent::Closed(id) => drop(self.open.remove(&id)),
            RecordEvent::Other => {}
        }
    }

    /// Adds the last line before a clean end.
    pub(crate) fn stopped(&mut self) {
        self.own(&JournalLine::stopped());
    }

    fn own(&mut self, line: &impl Serialize) {
        match Record::new(line) {
            Ok(record) => self.append(record.members()),
            Err(error) => {
                tracing::error!(%error, "a line of the audit journal about itself could not be composed, and is left out");
            }
        }
    }

    fn append(&mut self, members: &[u8]) {
        self.last.append(members, &mut self.text);
        self.leaves.push(self.last.link);
    }

    /// Returns once all lines are on disk.
    ///
    /// # Errors
    /// Returns an error if some of them may not be. Then call [`Writer::put_again`].
    pub(crate) fn put(&mut self) -> io::Result<()> {
        if self.text.is_empty() {
            return Ok(());
        }
        self.segment.append(&self.text)?;
        let started = Instant::now();
        let presence = self.segment.sync()?;
        self.observer.synced(started.elapsed());
        if presence == SegmentPresence::Moved && !self.moved {
            let segment = self.segment.named.name();
            tracing::warn!(
                segment,
                "the audit journal's segment was moved away: writing goes on in a new one"
            );
        }
        self.moved = presence == SegmentPresence::Moved;
        self.settled();
        Ok(())
    }

    /// Writes everything that is not known to be on disk once more, after an error.
    ///
    /// # Errors
    /// Returns an error if it still cannot be written.
    pub(crate) fn put_again(&mut self) -> io::Result<()> {
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
        tracing::error!(
            segment = self.segment.named.name(),
            "another program deleted, cut or changed the audit journal's segment: writing goes on \
             in a new one"
        );
        self.observer.damaged();
        (self.segment, self.moved) = (segment, false);
        let text = std::mem::take(&mut self.text);
        self.leaves.clear();
        self.last = self.synced;
        self.begin_segment();
        for members in text.split(|byte| *byte == b'\n').filter_map(line::members) {
            self.append(members);
        }
        self.put()
    }

    /// Adds the first line of a segment, before which all lines are on disk.
    fn begin_segment(&mut self) {
        let (tree, origin) = (self.tree.clone(), self.origin.clone());
        let start = SegmentStart {
            last: self.last,
            tree: tree.as_ref(),
            oldest_open: self.open.values().min().copied(),
            origin: origin.as_deref(),
        };
        self.own(&JournalLine::segment(&start));
    }

    /// Notes that all lines are on disk.
    ///
    /// Security: only now do they belong to the tree. A tree that was signed before could be contradicted by
    /// what a power failure leaves.
    fn settled(&mut self) {
        self.text.clear();
        self.synced = self.last;
        if let Some(tree) = &mut self.tree {
            self.leaves.iter().for_each(|link| tree.push(TreeHash::leaf(link.as_bytes())));
        }
        self.leaves.clear();
    }

    /// Returns true if there are lines that are not on disk.
    pub(crate) fn has_lines(&self) -> bool {
        !self.text.is_empty()
    }

    /// Returns the time until a new segment is due because of this one's age, or is tried again; `None` while it
    /// holds only its first line, and needs no successor.
    pub(crate) fn turn_in(&self) -> Option<Duration> {
        let age = self.segment.began().elapsed();
        let pause =
            self.stuck.map_or(Duration::ZERO, |since| STUCK.saturating_sub(since.elapsed()));
        self.has_grown().then(|| self.segment_age.saturating_sub(age).max(pause))
    }

    fn has_grown(&self) -> bool {
        self.moved || self.last.seq > self.segment.named.first
    }

    /// Returns true if a new segment is to be begun. Then all lines are on disk.
    pub(crate) fn is_turn_due(&self) -> bool {
        let is_due = self.moved
            || self.segment.length() >= self.segment_bytes
            || self.segment.began().elapsed() >= self.segment_age;
        is_due
            && self.text.is_empty()
            && self.has_grown()
            && self.stuck.is_none_or(|since| since.elapsed() >= STUCK)
    }

    /// Begins a new segment, with its first line not yet on disk; returns the file of the finished one. If
    /// that fails the old one grows on, and nothing is lost.
    pub(crate) fn turn(&mut self) -> Option<SegmentFile> {
        match Segment::create(&self.folder, self.last.seq + 1) {
            Ok(segment) => {
                let old = std::mem::replace(&mut self.segment, segment);
                let was_moved = std::mem::take(&mut self.moved);
                self.stuck = None;
                self.begin_segment();
                (!was_moved).then_some(old.named)
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
                self.observer.write_failed();
                None
            }
        }
    }
}
