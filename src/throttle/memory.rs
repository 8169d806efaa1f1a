//! The memory that the process may use.

use std::fmt;
use std::path::{Component, Path};

use bytesize::ByteSize;

/// Memory that the process may use: the smallest limit of its cgroup and those above it, or all of the
/// machine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLimit {
    /// Amount in bytes.
    pub bytes: u64,
    /// Kind of limit that it follows from.
    pub limit: MemoryLimitKind,
}

/// Kind of limit on the memory of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryLimitKind {
    /// Limit of a cgroup: a container's, or a unit's of systemd.
    Cgroup,
    /// Memory of the machine.
    Machine,
}

/// Folders in which cgroups are mounted, for version 2, for version 2 beside version 1, and for version 1,
/// each with the file that holds a limit.
///
/// Source: cgroups(7).
const V2: CgroupMount = CgroupMount { folder: "sys/fs/cgroup", file: "memory.max" };
const V2_BESIDE_V1: CgroupMount =
    CgroupMount { folder: "sys/fs/cgroup/unified", file: "memory.max" };
const V1: CgroupMount =
    CgroupMount { folder: "sys/fs/cgroup/memory", file: "memory.limit_in_bytes" };

/// Folder where cgroups are mounted, and the name of the file with the limit of each.
#[derive(Clone, Copy)]
struct CgroupMount {
    folder: &'static str,
    file: &'static str,
}

impl MemoryLimit {
    /// Reads the limit from the files under a root folder, `/` on a machine; `None` if it cannot be known.
    #[must_use]
    pub fn read(root: &Path) -> Option<Self> {
        let machine = machine_bytes(root);
        // A limit of version 1 that is not set reads as some eight EiB.
        let most = machine.unwrap_or(u64::MAX >> 4);
        let limit = cgroup_bytes(root).filter(|bytes| *bytes < most);
        let of = |limit| move |bytes| Self { bytes, limit };
        limit.map(of(MemoryLimitKind::Cgroup)).or_else(|| machine.map(of(MemoryLimitKind::Machine)))
    }
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = ByteSize::b(self.bytes);
        match self.limit {
            MemoryLimitKind::Cgroup => write!(out, "{bytes} (limit of the container or cgroup)"),
            MemoryLimitKind::Machine => write!(out, "{bytes} (memory of the machine)"),
        }
    }
}

/// Returns the smallest limit of the cgroups that the process is in, in bytes.
fn cgroup_bytes(root: &Path) -> Option<u64> {
    let memberships = std::fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let limits = memberships.lines().flat_map(|line| {
        // Source: cgroups(7): number, controllers, path.
        let mut parts = line.splitn(3, ':');
        let (number, controllers) = (parts.next(), parts.next().unwrap_or_default());
        let path = parts.next().unwrap_or_default();
        let mounts: &[_] = match (number, controllers) {
            (Some("0"), "") => &[V2, V2_BESIDE_V1],
            (_, controllers) if controllers.split(',').any(|name| name == "memory") => &[V1],
            _ => &[],
        };
        mounts.iter().filter_map(|mount| smallest_bytes(root, *mount, path)).collect::<Vec<_>>()
    });
    limits.min()
}

/// Returns the smallest limit of a cgroup and those above it, up to where cgroups are mounted.
///
/// In a container the path may be the host's, which does not exist there: the limit is then at the top.
fn smallest_bytes(root: &Path, cgroups: CgroupMount, path: &str) -> Option<u64> {
    let CgroupMount { folder, file } = cgroups;
    let mount = root.join(folder);
    let mut folder = mount.clone();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => folder.push(name),
            // The cgroup is outside what is mounted.
            Component::ParentDir => return bytes(&mount.join(file)),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    let folders = folder.ancestors().take_while(|folder| folder.starts_with(&mount));
    folders.filter_map(|folder| bytes(&folder.join(file))).min()
}

/// Reads a limit in bytes; `None` if there is none, which version 2 writes as `max`.
fn bytes(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn machine_bytes(root: &Path) -> Option<u64> {
    // Source: proc_meminfo(5).
    let lines = std::fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = lines.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const UNSET_V1: &str = "9223372036854771712\n";

    /// Reads a folder tree with these files, on a machine with 16 GiB.
    fn read(files: &[(&str, &str)]) -> Option<MemoryLimit> {
        let root = tempfile::tempdir().unwrap();
        let meminfo = ("proc/meminfo", "MemTotal:       16777216 kB\nMemFree:  1 kB\n");
        for (path, text) in [&[meminfo], files].concat() {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        MemoryLimit::read(root.path())
    }

    const fn cgroup(gib: u64) -> MemoryLimit {
        MemoryLimit { bytes: gib * GIB, limit: MemoryLimitKind::Cgroup }
    }

    const MACHINE: MemoryLimit = MemoryLimit { bytes: 16 * GIB, limit: MemoryLimitKind::Machine };
    const ONE: &str = "1073741824\n";
    const TWO: &str = "2147483648\n";

    #[test]
    fn the_smallest_limit_of_a_cgroup_and_those_above_it_counts() {
        let unit = "sys/fs/cgroup/system.slice/proxy.service/memory.max";
        let (slice, other) =
            ("sys/fs/cgroup/system.slice/memory.max", "sys/fs/cgroup/other.slice/memory.max");
        for (case, files, memory) in [
            ("none", &[][..], MACHINE),
            ("own", &[(unit, TWO)], cgroup(2)),
            ("smaller one of the parent", &[(unit, TWO), (slice, ONE)], cgroup(1)),
            ("larger one of the parent", &[(unit, ONE), (slice, TWO)], cgroup(1)),
            ("the parent's alone", &[(unit, "max\n"), (slice, ONE)], cgroup(1)),
            ("somebody else's", &[(other, ONE)], MACHINE),
            ("above the machine's memory", &[(unit, "99999999999999\n")], MACHINE),
        ] {
            let own = ("proc/self/cgroup", "0::/system.slice/proxy.service\n");
            assert_eq!(read(&[files, &[own]].concat()), Some(memory), "{case}");
        }
        assert_eq!(read(&[]), Some(MACHINE), "no cgroups");
    }

    #[test]
    fn a_containers_limit_counts_whatever_path_it_is_told() {
        let (top, other) = ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/other/memory.max");
        for (case, path) in [
            ("namespace of its own", "0::/\n"),
            ("path outside the container", "0::/kubepods/pod1/abc\n"),
            ("process outside what is mounted", "0::/../other\n"),
        ] {
            let files = [("proc/self/cgroup", path), (top, TWO), (other, ONE)];
            assert_eq!(read(&files), Some(cgroup(2)), "{case}");
        }
    }

    #[test]
    fn limits_of_version_1_count_and_those_of_version_2_beside_it() {
        let own = "sys/fs/cgroup/memory/docker/ab:c/memory.limit_in_bytes";
        let (parent, top) = (
            "sys/fs/cgroup/memory/docker/memory.limit_in_bytes",
            "sys/fs/cgroup/memory/memory.limit_in_bytes",
        );
        let beside = "sys/fs/cgroup/unified/memory.max";
        for (case, files, memory) in [
            ("own", &[(own, TWO)][..], cgroup(2)),
            ("the parent's alone", &[(own, UNSET_V1), (parent, ONE)], cgroup(1)),
            ("not set", &[(own, UNSET_V1), (top, UNSET_V1)], MACHINE),
            ("path outside the container", &[(top, ONE)], cgroup(1)),
            ("smaller one of version 2", &[(own, TWO), (beside, ONE)], cgroup(1)),
            ("smaller one of version 1", &[(own, ONE), (beside, TWO)], cgroup(1)),
        ] {
            let path = ("proc/self/cgroup", "9:cpu:/x\n4:hugetlb,memory:/docker/ab:c\n0::/\n");
            assert_eq!(read(&[files, &[path]].concat()), Some(memory), "{case}");
        }
    }

    #[test]
    fn a_limit_that_is_not_set_is_none_where_the_machines_memory_is_not_known() {
        let files = [
            ("proc/meminfo", "nothing\n"),
            ("proc/self/cgroup", "4:memory:/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", UNSET_V1),
        ];
        assert_eq!(read(&files), None);
    }
}
