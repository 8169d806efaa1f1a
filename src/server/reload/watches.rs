//! File system events, so that unchanged files need no regular check.
//!
//! Source: inotify(7).

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

/// Limit: symbolic links that are followed to a file, as many as Linux follows.
///
/// Source: `path_resolution(7)`.
const LINKS_MAX: usize = 40;
/// Size of the buffer into which events are read, in bytes.
const EVENTS_BYTES: usize = 4096;
/// Pause after events of files that do not matter, so that further ones are read together.
const PAUSE: Duration = Duration::from_millis(200);

/// Events after which a name in a folder may lead to another file or folder.
const NAMES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF);
/// Events after which a file may have other contents: it was written and closed, or its attributes changed.
const CONTENTS: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF);
/// Events that count for any name: those of a folder itself, and the loss of events.
const ALWAYS: ReadFlags = ReadFlags::DELETE_SELF
    .union(ReadFlags::MOVE_SELF)
    .union(ReadFlags::IGNORED)
    .union(ReadFlags::UNMOUNT)
    .union(ReadFlags::QUEUE_OVERFLOW);

/// Watches on everything that decides the contents found under some paths.
///
/// These are each folder on the way to a file and to each symbolic link, the file itself, and every file of a
/// folder that is named.
#[derive(Debug)]
pub(super) struct FileWatches {
    events: AsyncFd<OwnedFd>,
    /// Names that count in each folder, by the number of its watch.
    names: HashMap<i32, Names>,
}

/// Names in one folder whose events count.
#[derive(Debug)]
enum Names {
    These(BTreeSet<OsString>),
    All,
}

impl FileWatches {
    /// Watches paths of files and folders, which need not exist yet.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses a watch: there are too many, or a folder may not be read.
    pub(super) fn on<'a>(paths: impl IntoIterator<Item = &'a Path>) -> io::Result<Self> {
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        #[expect(
            deprecated,
            reason = "its replacement is unsafe because a descriptor may be closed meanwhile, which an \
                      owned one is not"
        )]
        let events = AsyncFd::new(events)?;
        let mut watches = Self { events, names: HashMap::new() };
        for path in paths {
            watches.add(path)?;
        }
        Ok(watches)
    }

    /// Waits until one of the paths may lead to another file or other contents.
    pub(super) async fn changed(&self) {
        loop {
            // If events cannot be waited for, the files are checked.
            let Ok(mut ready) = self.events.readable().await else { return };
            match self.read() {
                Ok(false) => tokio::time::sleep(PAUSE).await,
                Err(Errno::AGAIN) => ready.clear_ready(),
                Ok(true) | Err(_) => return,
            }
        }
    }

    /// Reads the available events; returns true if one of them counts.
    fn read(&self) -> Result<bool, Errno> {
        let mut buffer = [MaybeUninit::uninit(); EVENTS_BYTES];
        let mut events = Reader::new(self.events.get_ref(), &mut buffer);
        let mut counts = false;
        loop {
            let event = events.next()?;
            let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
            counts |= event.events().intersects(ALWAYS)
                || match (self.names.get(&event.wd()), name) {
                    (Some(Names::These(names)), Some(name)) => names.contains(name),
                    (Some(Names::These(_)), None) => false,
                    (Some(Names::All), _) | (None, _) => true,
                };
            if events.is_buffer_empty() {
                return Ok(counts);
            }
        }
    }

    /// Watches each step of a path, through all symbolic links, as far as the path exists.
    fn add(&mut self, path: &Path) -> io::Result<()> {
        let path = std::path::absolute(path)?;
        let mut steps: VecDeque<OsString> = steps(&path).collect();
        let (mut at, mut links) = (PathBuf::from("/"), 0);
        while let Some(step) = steps.pop_front() {
            if step == ".." {
                at.pop();
                continue;
            }
            if !self.watch_name(&at, &step)? {
                return Ok(());
            }
            let next = at.join(&step);
            match next.read_link() {
                Ok(_) if links == LINKS_MAX => return Ok(()),
                Ok(target) => {
                    links += 1;
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    let rest = std::mem::take(&mut steps);
                    steps.extend(self::steps(&target).chain(rest));
                }
                Err(_) => at = next,
            }
        }
        self.watch_contents(&at)
    }

    /// Watches a name in a folder; returns false if the folder does not exist or is not a folder.
    fn watch_name(&mut self, folder: &Path, name: &OsStr) -> io::Result<bool> {
        let Some(watch) = self.watch(folder, NAMES | WatchFlags::ONLYDIR)? else {
            return Ok(false);
        };
        let names = self.names.entry(watch).or_insert_with(|| Names::These(BTreeSet::new()));
        if let Names::These(names) = names {
            names.insert(name.to_owned());
        }
        Ok(true)
    }

    /// Watches the contents of a file, or of all files of a folder.
    fn watch_contents(&mut self, path: &Path) -> io::Result<()> {
        let is_folder = path.is_dir();
        let events = if is_folder { NAMES | CONTENTS } else { CONTENTS };
        if let Some(watch) = self.watch(path, events)? {
            self.names.insert(watch, Names::All);
        }
        Ok(())
    }

    /// Adds events to the watch on a path; returns the watch's number, or `None` if nothing exists there.
    fn watch(&self, path: &Path, events: WatchFlags) -> io::Result<Option<i32>> {
        match inotify::add_watch(self.events.get_ref(), path, events | WatchFlags::MASK_ADD) {
            Ok(watch) => Ok(Some(watch)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(error) => Err(io::Error::other(format!("{}: {error}", path.display()))),
        }
    }
}

/// Returns the names in a path, including `..`.
fn steps(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(_) | Component::ParentDir => Some(component.as_os_str().to_owned()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    /// Watches a path, makes a change, and waits until it is reported.
    async fn is_reported(path: &Path, change: impl FnOnce()) {
        let watches = FileWatches::on([path]).unwrap();
        change();
        tokio::time::timeout(Duration::from_secs(60), watches.changed()).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_changed_in_any_way_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let file = at("file");
        is_reported(&file, || fs::write(&file, "made").unwrap()).await;
        is_reported(&file, || fs::write(&file, "over").unwrap()).await;
        fs::write(at("aside"), "new").unwrap();
        is_reported(&file, || fs::rename(at("aside"), &file).unwrap()).await;
        is_reported(&file, || fs::remove_file(&file).unwrap()).await;
        is_reported(&file, || symlink("elsewhere", &file).unwrap()).await;
        is_reported(&file, || fs::write(at("elsewhere"), "behind the link").unwrap()).await;
        let read_only = fs::Permissions::from_mode(0o400);
        is_reported(&file, || fs::set_permissions(&file, read_only).unwrap()).await;
    }

    #[tokio::test]
    async fn a_folder_or_link_on_the_way_that_is_replaced_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for version in ["..one", "..two", "real"] {
            fs::create_dir_all(at(version).join("deep")).unwrap();
            fs::write(at(version).join("deep/file"), version).unwrap();
        }
        // As Kubernetes has it: a link to a file behind a link to a folder.
        symlink("..one", at("..data")).unwrap();
        symlink("..data/deep/file", at("file")).unwrap();
        symlink("..two", at("..data_tmp")).unwrap();
        is_reported(&at("file"), || fs::rename(at("..data_tmp"), at("..data")).unwrap()).await;
        assert_eq!(fs::read_to_string(at("file")).unwrap(), "..two");
        let deep = at("real/deep/file");
        is_reported(&deep, || fs::rename(at("real"), at("away")).unwrap()).await;
        is_reported(&deep, || fs::rename(at("..one"), at("real")).unwrap()).await;
        is_reported(&deep, || fs::remove_dir_all(at("real")).unwrap()).await;
        is_reported(&deep, || fs::create_dir(at("real")).unwrap()).await;
        // A path with `..` behind a symbolic link that leads elsewhere.
        symlink("..two/deep", at("jump")).unwrap();
        let up = at("jump/../deep/../deep/file");
        is_reported(&up, || fs::write(at("..two/deep/file"), "again").unwrap()).await;
    }

    #[tokio::test]
    async fn every_file_of_a_folder_that_is_named_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let lists = folder.path().join("lists");
        is_reported(&lists, || fs::create_dir(&lists).unwrap()).await;
        is_reported(&lists, || fs::write(lists.join("one"), "made").unwrap()).await;
        is_reported(&lists, || fs::write(lists.join("one"), "over").unwrap()).await;
        is_reported(&lists, || fs::rename(lists.join("one"), lists.join("two")).unwrap()).await;
        is_reported(&lists, || fs::remove_file(lists.join("two")).unwrap()).await;
    }

    #[tokio::test]
    async fn other_files_of_a_folder_do_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "").unwrap();
        let watches = FileWatches::on([at("file").as_path()]).unwrap();
        fs::write(at("another"), "").unwrap();
        fs::rename(at("another"), at("one more")).unwrap();
        assert_eq!(watches.read(), Ok(false));
        assert_eq!(watches.read(), Err(Errno::AGAIN));
        fs::write(at("file"), "").unwrap();
        assert_eq!(watches.read(), Ok(true));
    }

    #[tokio::test]
    async fn links_in_a_circle_end() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        symlink("two", at("one")).unwrap();
        symlink("one", at("two")).unwrap();
        is_reported(&at("one"), || fs::remove_file(at("two")).unwrap()).await;
    }
}
