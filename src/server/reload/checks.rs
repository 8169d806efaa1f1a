//! Decides when the watched files are checked, and when a change has settled.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use super::Marks;
use super::watches::FileWatches;

/// Minimum interval between two checks of the files; also the interval of checks without file system events.
const WATCH: Duration = Duration::from_millis(200);
/// Number of checks in a row with further changes after which a reload waits no longer.
const UNSETTLED_CHECKS_MAX: u32 = 3;
/// Number of checks over which the files of a folder are spread, without file system events.
///
/// A file that is renamed into the folder changes the folder, and is found by the next check.
const FOLDER_CHECKS: usize = 50;

/// Schedule of file checks: when the next one is due, and the result of the last ones.
#[derive(Debug, Default)]
pub(super) struct FileChecks {
    /// File system events; `None` where the kernel refuses a watch.
    watches: Option<FileWatches>,
    /// True once the lack of events has been logged.
    is_logged: bool,
    last: Option<Instant>,
    /// True if the last check found no change: the next one waits for an event.
    is_quiet: bool,
    before: Option<Marks>,
    /// Number of checks in a row that found changes.
    unsettled: u32,
    part: usize,
}

impl FileChecks {
    /// Waits until the next check is due.
    pub(super) async fn next(&self) {
        if let (Some(watches), true) = (&self.watches, self.is_quiet) {
            watches.changed().await;
        }
        if let Some(last) = self.last {
            tokio::time::sleep_until(last + WATCH).await;
        }
    }

    /// Makes the next check due without an event.
    pub(super) const fn are_due(&mut self) {
        self.is_quiet = false;
    }

    /// Begins a check: watches these paths first, so that a later change causes an event.
    pub(super) fn watch(&mut self, paths: impl FnOnce() -> Vec<PathBuf>) {
        self.last = Some(Instant::now());
        // Without events, checks are frequent: only the periodic ones try to watch again.
        if self.watches.is_none() && self.is_quiet {
            return;
        }
        // Released first: the number of watches may be limited.
        self.watches = None;
        match FileWatches::on(paths().iter().map(PathBuf::as_path)) {
            Ok(watches) => {
                if std::mem::take(&mut self.is_logged) {
                    tracing::info!("the kernel reports changes of files again");
                }
                self.watches = Some(watches);
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_logged, true) {
                    tracing::warn!(
                        %error,
                        "the kernel refuses a watch for changes of files: they are checked {} times a second \
                         instead; if the limit of watches is reached, raise \
                         fs.inotify.max_user_watches or fs.inotify.max_user_instances",
                        1000 / WATCH.as_millis(),
                    );
                }
            }
        }
    }

    /// Returns the part of the files in folders to check, and the number of parts; all files at once if there
    /// are events.
    pub(super) const fn part(&mut self) -> (usize, usize) {
        if self.watches.is_some() {
            return (0, 1);
        }
        self.part = (self.part + 1) % FOLDER_CHECKS;
        (self.part, FOLDER_CHECKS)
    }

    /// Notes that a check found no change.
    pub(super) fn found_nothing(&mut self) {
        (self.is_quiet, self.before, self.unsettled) = (true, None, 0);
    }

    /// Notes the state of changed files; returns true if it is the same as at the last check, or the wait is
    /// over.
    pub(super) fn found(&mut self, now: Marks) -> bool {
        self.is_quiet = false;
        self.unsettled += 1;
        let is_still = self.before.as_ref() == Some(&now);
        self.before = Some(now);
        is_still || self.unsettled >= UNSETTLED_CHECKS_MAX
    }

    /// Forgets the changes found, since they are loaded. Another check follows at once, since the load may
    /// have brought other files to watch.
    pub(super) fn begin_anew(&mut self) {
        (self.is_quiet, self.before, self.unsettled) = (false, None, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the number of checks within an hour in which no file changes.
    async fn looks_in_an_hour(mut checks: FileChecks, path: &std::path::Path) -> usize {
        let end = Instant::now() + Duration::from_secs(3600);
        let mut number = 0;
        while tokio::time::timeout_at(end, checks.next()).await.is_ok() {
            checks.watch(|| vec![path.to_owned()]);
            checks.found_nothing();
            number += 1;
        }
        number
    }

    #[tokio::test(start_paused = true)]
    async fn files_that_do_not_change_are_looked_at_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(looks_in_an_hour(FileChecks::default(), file.path()).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn files_are_looked_at_all_the_time_where_no_events_can_be_had() {
        let without = FileChecks { is_quiet: true, ..FileChecks::default() };
        let checks = looks_in_an_hour(without, "unused".as_ref()).await;
        assert!(checks > 4 * 3600, "{checks}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_loaded_once_it_stands_still_or_has_been_waited_for() {
        let marks = |number: usize| Marks::from([(PathBuf::from(number.to_string()), None)]);
        let mut checks = FileChecks::default();
        assert!(!checks.found(marks(1)));
        assert!(checks.found(marks(1)), "it stands still");
        checks.begin_anew();
        assert!(!checks.found(marks(1)));
        assert!(!checks.found(marks(2)));
        assert!(checks.found(marks(3)), "it never stands still");
    }

    #[tokio::test(start_paused = true)]
    async fn two_looks_are_never_closer_than_their_interval() {
        let mut checks = FileChecks::default();
        let mut last = None;
        for _ in 0..3 {
            checks.next().await;
            let now = Instant::now();
            assert!(last.is_none_or(|last| now >= last + WATCH));
            last = Some(now);
            checks.watch(Vec::new);
            checks.found(Marks::new());
        }
    }
}
