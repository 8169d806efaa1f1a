//! The queue of lines that wait to be written.

use tokio::sync::oneshot;

use super::line::ExchangeEnd;
use super::record_fields::{ExchangeFacts, QueuedLine, RecordFields, Step};

/// Lines queued for the journal's thread, oldest first.
///
/// The thread takes them by exchanging the queue for its own, empty one, so that no line costs an allocation
/// that another thread would have to free.
#[derive(Debug, Default)]
pub(super) struct LineQueue {
    /// Texts of the lines, one after another.
    pub(super) fields: Vec<u8>,
    pub(super) lines: Vec<QueuedLine>,
    /// Number of the first queued line, among all lines ever queued.
    first: u64,
    /// Number of queued lines that the thread has deferred once already.
    left_once: usize,
    /// Callers to notify once all of these lines are on disk.
    pub(super) waiting: Vec<oneshot::Sender<()>>,
    /// Caller to notify once the journal has ended.
    pub(super) end: Option<oneshot::Sender<()>>,
    /// True while the thread sleeps until something is queued.
    pub(super) asleep: bool,
    /// True once no handle is left that could queue anything.
    pub(super) left: bool,
}

impl LineQueue {
    pub(super) fn push(
        &mut self,
        known: ExchangeFacts,
        fields: &RecordFields,
        step: Step,
        end: Option<ExchangeEnd>,
    ) -> QueuePosition {
        let place = QueuePosition(self.first + count(self.lines.len()));
        let fields = fields.bytes();
        self.fields.extend_from_slice(fields);
        self.lines.push(QueuedLine { known, step, bytes: fields.len(), end });
        place
    }

    /// Returns the line at this position, unless it has been taken.
    pub(super) fn at(&mut self, place: Option<QueuePosition>) -> Option<&mut QueuedLine> {
        let at = place?.0.checked_sub(self.first)?;
        self.lines.get_mut(usize::try_from(at).ok()?)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.waiting.is_empty() && self.end.is_none() && !self.left
    }

    /// Takes the queued lines, and leaves `empty` in exchange.
    ///
    /// The first line of an exchange that is still open, and all behind it, are deferred for one batch unless
    /// a caller waits, so that a quick exchange needs one line; order is preserved.
    pub(super) fn take(&mut self, empty: &mut Self) {
        std::mem::swap(self, empty);
        let taken = empty;
        let is_open = |line: &QueuedLine| line.end.is_none();
        let open = taken.lines.iter().skip(taken.left_once).position(is_open);
        let until = open
            .filter(|_| !taken.is_urgent())
            .map_or(taken.lines.len(), |open| open + taken.left_once);
        self.first = taken.first + count(until);
        let bytes: usize = taken.lines.iter().skip(until).map(|line| line.bytes).sum();
        let fields = taken.fields.len().saturating_sub(bytes);
        self.fields.extend_from_slice(taken.fields.get(fields..).unwrap_or_default());
        taken.fields.truncate(fields);
        self.lines.extend(taken.lines.drain(until..));
        self.left_once = self.lines.len();
    }

    /// Returns true if a caller waits for the disk, or the journal is to end.
    pub(super) fn is_urgent(&self) -> bool {
        !self.waiting.is_empty() || self.end.is_some() || self.left
    }
}

/// Position of a line among all lines ever queued.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueuePosition(u64);

fn count(lines: usize) -> u64 {
    u64::try_from(lines).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::audit::EndedBy;
    use crate::audit::record_fields::{self, Field};

    const ENDED: ExchangeEnd = ExchangeEnd {
        status: Some(200),
        outcome: "answered",
        refusal: None,
        ended_by: EndedBy::Gateway,
        ended_in: "body",
        sent_whole: true,
        bytes_in: 0,
        bytes_out: 0,
        duration: Duration::ZERO,
        policy: Duration::ZERO,
        queue: Duration::ZERO,
        directory: Duration::ZERO,
        audit: Duration::ZERO,
        provider: Duration::ZERO,
        body: Duration::ZERO,
    };

    fn push(queue: &mut LineQueue, name: &str, has_ended: bool) -> QueuePosition {
        let known = ExchangeFacts {
            id: Uuid::nil(),
            opened_at: Timestamp::UNIX_EPOCH,
            method: "GET",
            interaction: None,
            origin: None,
        };
        let mut fields = RecordFields::default();
        fields.note(Field::FROM, name);
        queue.push(known, &fields, Step::First, has_ended.then_some(ENDED))
    }

    /// Returns the names of the lines that are taken, each with true if its exchange has ended.
    fn take(queue: &mut LineQueue) -> Vec<(String, bool)> {
        let mut taken = LineQueue::default();
        queue.take(&mut taken);
        let mut rest = taken.fields.as_slice();
        let mut names = Vec::new();
        for line in &taken.lines {
            let fields;
            (fields, rest) = rest.split_at(line.bytes);
            let (_, name) = record_fields::texts(fields).next().unwrap();
            names.push((String::from_utf8(name.to_vec()).unwrap(), line.end.is_some()));
        }
        assert!(rest.is_empty());
        names
    }

    #[test]
    fn an_exchange_that_ends_soon_is_one_line_and_one_that_does_not_is_kept_once() {
        let mut queue = LineQueue::default();
        push(&mut queue, "refused", true);
        let soon = push(&mut queue, "soon", false);
        let later = push(&mut queue, "later", false);
        push(&mut queue, "behind", true);
        assert_eq!(take(&mut queue), [("refused".to_owned(), true)]);
        queue.at(Some(soon)).unwrap().end = Some(ENDED);
        let new = push(&mut queue, "new", false);
        let left = ["soon", "later", "behind"].map(str::to_owned).into_iter();
        assert_eq!(take(&mut queue), left.zip([true, false, true]).collect::<Vec<_>>());
        assert!(queue.at(Some(soon)).is_none() && queue.at(Some(later)).is_none());
        assert!(queue.at(Some(new)).is_some() && queue.at(None).is_none());
        assert_eq!(take(&mut queue), [("new".to_owned(), false)]);
        assert!(queue.is_empty() && queue.at(Some(new)).is_none());
    }

    #[test]
    fn no_line_is_deferred_while_a_caller_waits() {
        let mut queue = LineQueue::default();
        let place = push(&mut queue, "open", false);
        queue.waiting.push(oneshot::channel().0);
        assert_eq!(take(&mut queue), [("open".to_owned(), false)]);
        assert!(queue.at(Some(place)).is_none());
    }
}
