//! The queue of lines that wait to be written.

use tokio::sync::oneshot;

use super::line::ExchangeEnd;
use super::sheet::{Known, Posted, Sheet, Step};

/// Lines queued for the journal's thread, oldest first.
///
/// The thread takes them by exchanging the queue for its own, empty one, so that no line costs an allocation
/// that another thread would have to free.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Texts of the lines, one after another.
    pub(super) sheets: Vec<u8>,
    pub(super) lines: Vec<Posted>,
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

impl Outbox {
    pub(super) fn push(
        &mut self,
        known: Known,
        sheet: &Sheet,
        step: Step,
        end: Option<ExchangeEnd>,
    ) -> Place {
        let place = Place(self.first + count(self.lines.len()));
        let sheet = sheet.bytes();
        self.sheets.extend_from_slice(sheet);
        self.lines.push(Posted { known, step, bytes: sheet.len(), end });
        place
    }

    /// Returns the line at this position, unless it has been taken.
    pub(super) fn at(&mut self, place: Option<Place>) -> Option<&mut Posted> {
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
        let is_open = |line: &Posted| line.end.is_none();
        let open = taken.lines.iter().skip(taken.left_once).position(is_open);
        let until = open
            .filter(|_| !taken.is_urgent())
            .map_or(taken.lines.len(), |open| open + taken.left_once);
        self.first = taken.first + count(until);
        let bytes: usize = taken.lines.iter().skip(until).map(|line| line.bytes).sum();
        let sheets = taken.sheets.len().saturating_sub(bytes);
        self.sheets.extend_from_slice(taken.sheets.get(sheets..).unwrap_or_default());
        taken.sheets.truncate(sheets);
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
pub(super) struct Place(u64);

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
    use crate::audit::sheet::{self, Field};

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

    fn push(outbox: &mut Outbox, name: &str, has_ended: bool) -> Place {
        let known = Known {
            id: Uuid::nil(),
            opened_at: Timestamp::UNIX_EPOCH,
            method: "GET",
            interaction: None,
            told: None,
        };
        let mut sheet = Sheet::default();
        sheet.note(Field::FROM, name);
        outbox.push(known, &sheet, Step::First, has_ended.then_some(ENDED))
    }

    /// Returns the names of the lines that are taken, each with true if its exchange has ended.
    fn take(outbox: &mut Outbox) -> Vec<(String, bool)> {
        let mut taken = Outbox::default();
        outbox.take(&mut taken);
        let mut rest = taken.sheets.as_slice();
        let mut names = Vec::new();
        for line in &taken.lines {
            let sheet;
            (sheet, rest) = rest.split_at(line.bytes);
            let (_, name) = sheet::texts(sheet).next().unwrap();
            names.push((String::from_utf8(name.to_vec()).unwrap(), line.end.is_some()));
        }
        assert!(rest.is_empty());
        names
    }

    #[test]
    fn an_exchange_that_ends_soon_is_one_line_and_one_that_does_not_is_kept_once() {
        let mut outbox = Outbox::default();
        push(&mut outbox, "refused", true);
        let soon = push(&mut outbox, "soon", false);
        let later = push(&mut outbox, "later", false);
        push(&mut outbox, "behind", true);
        assert_eq!(take(&mut outbox), [("refused".to_owned(), true)]);
        outbox.at(Some(soon)).unwrap().end = Some(ENDED);
        let new = push(&mut outbox, "new", false);
        let left = ["soon", "later", "behind"].map(str::to_owned).into_iter();
        assert_eq!(take(&mut outbox), left.zip([true, false, true]).collect::<Vec<_>>());
        assert!(outbox.at(Some(soon)).is_none() && outbox.at(Some(later)).is_none());
        assert!(outbox.at(Some(new)).is_some() && outbox.at(None).is_none());
        assert_eq!(take(&mut outbox), [("new".to_owned(), false)]);
        assert!(outbox.is_empty() && outbox.at(Some(new)).is_none());
    }

    #[test]
    fn no_line_is_deferred_while_a_caller_waits() {
        let mut outbox = Outbox::default();
        let place = push(&mut outbox, "open", false);
        outbox.waiting.push(oneshot::channel().0);
        assert_eq!(take(&mut outbox), [("open".to_owned(), false)]);
        assert!(outbox.at(Some(place)).is_none());
    }
}
