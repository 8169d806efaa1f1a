//! Disks that fail: a preloaded stand-in for fdatasync, and a small file system of a process's own.
//!
//! The first needs a C compiler, the second user namespaces. Where either is missing, a test says so
//! loudly and passes, except where `CI` is `true`.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::missing;
use super::process::{Served, serve_by};
use super::stage::Stage;

/// A disk under orders.
pub struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// The program over the stage's files, its fdatasync under orders.
    pub fn serve(stage: &Stage) -> Option<(Self, Served)> {
        let disk = Self::new(stage)?;
        let text = stage.text("spine-proxy.toml").replace("\"audit\"", "\"own\"");
        let served = serve_by(disk.command(), stage, &text);
        Some((disk, served))
    }

    /// The stand-in, compiled into the stage's folder.
    pub fn new(stage: &Stage) -> Option<Self> {
        let folder = stage.path("disk");
        std::fs::create_dir_all(folder.join("synced")).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/disk.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(folder.join("disk.so")).arg(source);
        match compiler.status() {
            Ok(status) if status.success() => Some(Self { folder }),
            _ => {
                missing("a C compiler (cc)");
                None
            }
        }
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(crate::program());
        command.env("LD_PRELOAD", self.folder.join("disk.so")).env("DISK_ORDERS", &self.folder);
        command
    }

    pub fn orders(&self, order: &str) {
        std::fs::write(self.folder.join(order), "").unwrap();
    }

    pub fn takes_back(&self, order: &str) {
        std::fs::remove_file(self.folder.join(order)).unwrap();
    }

    /// Returns once somebody waits for the disk.
    pub async fn is_waited_for(&self) {
        while !self.folder.join("held").exists() {
            tokio::task::yield_now().await;
        }
    }

    /// Where what was synced is kept.
    pub fn synced(&self) -> PathBuf {
        self.folder.join("synced")
    }
}

/// The program with its journal on a file system of its own, of this many KiB; and where we find it.
pub fn serve_on_small_disk(stage: &Stage, kib: usize) -> Option<(Served, PathBuf)> {
    let may = Command::new("unshare").args(["-rm", "true"]).status();
    if !may.is_ok_and(|status| status.success()) {
        missing("a user namespace (unshare -rm)");
        return None;
    }
    let folder = stage.path("small");
    std::fs::create_dir(&folder).unwrap();
    let mut command = Command::new("unshare");
    command
        .args(["-rm", "sh", "-c"])
        .arg(format!("mount -t tmpfs -o size={kib}k tmpfs \"$0\" && exec \"$@\""))
        .arg(&folder)
        .arg(crate::program());
    let text = stage.text("spine-proxy.toml").replace("\"audit\"", "\"small/own\"");
    let served = serve_by(command, stage, &text);
    let root = PathBuf::from(format!("/proc/{}/root", served.0.id()));
    let seen = root.join(folder.strip_prefix("/").unwrap());
    Some((served, seen))
}
