//! Disk faults: a preloaded replacement for `fdatasync`, and a small file system that only the program sees.
//!
//! The first needs a C compiler, the second user namespaces. Without them a test passes and reports what is
//! missing, or fails if `CI` is `true`.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::{GatewayProcess, serve_with};
use super::report_missing;
use super::test_bed::TestBed;

/// A replacement for `fdatasync` whose faults a test controls.
pub struct FaultyDisk {
    folder: PathBuf,
}

impl FaultyDisk {
    /// Starts the program over the test bed's files with the replacement preloaded.
    pub fn serve(bed: &TestBed) -> Option<(Self, GatewayProcess)> {
        let disk = Self::new(bed.path("disk"))?;
        let text = bed.text("spine-proxy.toml").replace("\"audit\"", "\"own\"");
        let served = serve_with(disk.command(), bed, &text);
        Some((disk, served))
    }

    /// Compiles the replacement into a folder, which it creates.
    pub fn new(folder: PathBuf) -> Option<Self> {
        std::fs::create_dir_all(folder.join("synced")).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/disk.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(folder.join("disk.so")).arg(source);
        match compiler.status() {
            Ok(status) if status.success() => Some(Self { folder }),
            _ => {
                report_missing("a C compiler (cc)");
                None
            }
        }
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(crate::program());
        command.env("LD_PRELOAD", self.folder.join("disk.so")).env("DISK_FAULTS", &self.folder);
        command
    }

    pub fn set_fault(&self, fault: &str) {
        std::fs::write(self.folder.join(fault), "").unwrap();
    }

    pub fn clear_fault(&self, fault: &str) {
        std::fs::remove_file(self.folder.join(fault)).unwrap();
    }

    /// Returns once a call of `fdatasync` is being held.
    pub async fn wait_until_blocked(&self) {
        while !self.folder.join("held").exists() {
            tokio::task::yield_now().await;
        }
    }

    /// Folder with a copy of each file as of its last sync.
    pub fn synced_folder(&self) -> PathBuf {
        self.folder.join("synced")
    }
}

/// Starts the program with its journal on a separate file system of `kib` KiB. Returns the process and the path
/// of that file system as the test sees it.
pub fn serve_on_small_disk(bed: &TestBed, kib: usize) -> Option<(GatewayProcess, PathBuf)> {
    let allowed = Command::new("unshare").args(["-rm", "true"]).status();
    if !allowed.is_ok_and(|status| status.success()) {
        report_missing("a user namespace (unshare -rm)");
        return None;
    }
    let folder = bed.path("small");
    std::fs::create_dir(&folder).unwrap();
    let mut command = Command::new("unshare");
    command
        .args(["-rm", "sh", "-c"])
        .arg(format!("mount -t tmpfs -o size={kib}k tmpfs \"$0\" && exec \"$@\""))
        .arg(&folder)
        .arg(crate::program());
    let text = bed.text("spine-proxy.toml").replace("\"audit\"", "\"small/own\"");
    let served = serve_with(command, bed, &text);
    let root = PathBuf::from(format!("/proc/{}/root", served.child.id()));
    let seen = root.join(folder.strip_prefix("/").unwrap());
    Some((served, seen))
}
