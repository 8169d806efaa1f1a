//! Warnings about a configuration that can be served. `check` prints them; a start and a reload log them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use rustix::fs::StatVfsMountFlags;
use rustix::process::Uid;

use crate::config::Config;
use crate::registry::DirectoryFile;
use crate::sharing::RedisSettings;
use crate::tls::{Loader, Notice};

/// Number of days before its expiry from which a certificate of our own is warned of.
const ENDS_SOON_DAYS: i64 = 14;
const DAY_S: i64 = 24 * 60 * 60;
/// Mode bits by which the group or others may write.
const GROUP_OR_OTHERS_WRITE: u32 = 0o022;
/// Mode bits by which others may write.
const OTHERS_WRITE: u32 = 0o002;
/// Mode bits by which others may read.
const OTHERS_READ: u32 = 0o004;
/// Mode bit of a folder in which users may remove and rename only their own files.
const STICKY: u32 = 0o1000;
/// Mask of all mode bits.
const MODE: u32 = 0o7777;
/// Limit: symbolic links that are followed to a file, as many as Linux follows.
///
/// Source: `path_resolution(7)`.
const LINKS_MAX: usize = 40;

/// Returns all warnings, those in `memory` first: about settings, files, expiry dates and the directory file.
/// `now_s` is in seconds since 1970.
pub(super) fn of(
    config: &Config,
    loader: &Loader,
    file: &DirectoryFile,
    memory: Vec<String>,
    now_s: i64,
) -> Vec<Notice> {
    let mut warnings: Vec<_> = memory.into_iter().map(Notice::warning).collect();
    let admin = config.admin.warnings().into_iter().map(Notice::warning);
    warnings.extend(admin.map(|warning| warning.about_key("admin.address")));
    let outside = dialled(config, file).into_iter().map(Notice::warning);
    warnings.extend(outside.map(|warning| warning.about_file(&config.directory.file)));
    warnings.extend(ports(config).map(|text| Notice::warning(text).about_key("admin.address")));
    warnings.extend(networks(config));
    let balancers = balancers(config).into_iter().map(Notice::warning);
    warnings.extend(balancers.map(|one| one.about_key("listener.proxy-protocol-from")));
    if config.redis.as_ref().is_some_and(RedisSettings::is_readable_on_the_way) {
        let text = "redis.url begins with redis:// and names another machine: the password, ASIDs and directory \
                    answers are sent to it unencrypted; use rediss://";
        warnings.push(Notice::warning(text.to_owned()).about_key("redis.url"));
    }
    warnings.extend(ends(loader, now_s));
    warnings.extend(modes(config, loader));
    warnings
}

/// Warns if the admin port has an address of the consumer port.
fn ports(config: &Config) -> Option<String> {
    let admin = config.admin.address;
    let shared = config.listener.addresses.iter().find(|address| {
        let same = address.ip() == admin.ip()
            || address.ip().is_unspecified()
            || admin.ip().is_unspecified();
        same && address.port() == admin.port() && admin.port() != 0
    })?;
    Some(format!(
        "admin.address {admin} has the port of listener.addresses {shared}: only one of them can be \
         bound; set admin.address to another port"
    ))
}

/// Warns of networks that allow every address or have host bits set, and of fixed addresses outside all
/// networks.
fn networks(config: &Config) -> Vec<Notice> {
    let networks = &config.provider.networks;
    let mut warnings = Vec::new();
    let about = |key, text| Notice::warning(text).about_key(key);
    for network in networks {
        if network.prefix_len() == 0 {
            let text = format!(
                "provider.networks: {network} allows every address; list only the networks \
                 that providers are in"
            );
            warnings.push(about("provider.networks", text));
        } else if network.addr() != network.network() {
            let text = format!(
                "provider.networks: {network} has host bits set and means {}; write that instead",
                network.trunc()
            );
            warnings.push(about("provider.networks", text));
        }
    }
    for whole in IpNet::aggregate(networks).iter().filter(|network| network.prefix_len() == 0) {
        let is_one = networks.iter().any(|network| network.trunc() == *whole);
        let family = if matches!(whole, IpNet::V4(_)) { "IPv4" } else { "IPv6" };
        if !is_one {
            let text = format!(
                "provider.networks: its networks together allow every {family} address; \
                 list only the networks that providers are in"
            );
            warnings.push(about("provider.networks", text));
        }
    }
    for (host, address) in &config.provider.hosts {
        if !networks.iter().any(|network| network.contains(&address.ip().to_canonical())) {
            let text = format!(
                "provider.hosts: {address} for {host} is in none of provider.networks and is never \
                 connected to; add its network"
            );
            warnings.push(about("provider.hosts", text));
        }
    }
    warnings
}

/// Warns of networks of load balancers that hold every address or have host bits set.
fn balancers(config: &Config) -> Vec<String> {
    let warning = |network: &IpNet| {
        if network.prefix_len() == 0 {
            Some(format!(
                "listener.proxy-protocol-from: with {network} any client can claim any address by a PROXY \
                 protocol header; list only the load balancers"
            ))
        } else {
            (network.addr() != network.network()).then(|| {
                format!(
                    "listener.proxy-protocol-from: {network} has host bits set and means {}; write that \
                     instead",
                    network.trunc()
                )
            })
        }
    };
    config.listener.proxy_protocol_from.iter().filter_map(warning).collect()
}

/// Warns of addresses in the directory file that are outside all networks of providers. Host names are
/// resolved and checked only when a connection is made.
fn dialled(config: &Config, file: &DirectoryFile) -> Vec<String> {
    let networks = &config.provider.networks;
    let outside = file.dialled().filter_map(|(ods, address)| {
        let ip = address.parse::<SocketAddr>().ok()?.ip().to_canonical();
        let is_inside = networks.iter().any(|network| network.contains(&ip));
        (!is_inside).then(|| {
            format!(
                "{}: dial {address} of {ods} is in none of provider.networks and is never connected to; \
                 add its network",
                config.directory.file.display(),
            )
        })
    });
    outside.collect()
}

/// Warns of certificates of our own that expire soon.
fn ends(loader: &Loader, now_s: i64) -> Vec<Notice> {
    let soon = |at_s: i64| now_s < at_s && at_s <= now_s + ENDS_SOON_DAYS * DAY_S;
    let ours = loader.expiries.iter().filter(|expiry| expiry.used_as.is_ours());
    ours.filter(|expiry| soon(expiry.at_s))
        .map(|expiry| {
            let text = format!(
                "{} {}: the certificate expires within {} days; renew it",
                expiry.used_as.label(),
                expiry.path.display(),
                (expiry.at_s - now_s + DAY_S - 1) / DAY_S,
            );
            Notice::warning(text).about_file(&expiry.path)
        })
        .collect()
}

/// Warns of files and folders with more rights than they should have.
///
/// The group may read secrets, and write public files: with a umask of 002, usual where each user has a
/// group of their own, it may write every file. Files that the process writes, and folders that hold only such files, are
/// checked only if it owns them: it could not change the rights of others, such as those of a Kubernetes
/// volume that it writes to.
fn modes(config: &Config, loader: &Loader) -> Vec<Notice> {
    let secrets: BTreeSet<_> = config.secrets().into_iter().collect();
    let written: BTreeSet<_> =
        config.directory.snapshot.iter().chain([&config.audit.journal]).cloned().collect();
    let mut public: BTreeSet<_> = config.watched().into_iter().collect();
    public.insert(config.path().to_owned());
    public.retain(|path| !secrets.contains(path) && !written.contains(path));
    let is_ours = |path: &Path| FileRights::of(path).is_some_and(|rights| rights.is_ours);
    let own = written.iter().flat_map(|path| folders(path)).filter(|folder| is_ours(folder));
    let read = secrets.iter().chain(&public).flat_map(|path| folders(path));
    let folders: BTreeSet<_> = own.chain(read).collect();
    let secrets = secrets
        .iter()
        .filter_map(|path| mode(path, GROUP_OR_OTHERS_WRITE | OTHERS_READ, "g-w,o-rwx"));
    let written = written.iter().filter(|path| is_ours(path));
    let written = written.filter_map(|path| mode(path, GROUP_OR_OTHERS_WRITE, "go-w"));
    let files = public.iter().filter_map(|path| mode(path, OTHERS_WRITE, "o-w"));
    let warnings = secrets.chain(written).chain(files);
    let warnings = warnings.chain(folders.iter().filter_map(|folder| replaceable(folder)));
    warnings.chain(lists(loader, &public)).collect()
}

/// Returns the folders in which a path can be replaced: its own, and those of each symbolic link and of the
/// file it leads to.
fn folders(path: &Path) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    let mut next = Some(Path::new(".").join(path));
    for _ in 0..=LINKS_MAX {
        // Without a trailing slash, which would follow a link.
        let Some(path) = next.take().map(|path| path.components().collect::<PathBuf>()) else {
            break;
        };
        let Some(folder) = path.parent().and_then(|folder| folder.canonicalize().ok()) else {
            break;
        };
        next = path.read_link().ok().map(|target| folder.join(target));
        folders.insert(folder);
    }
    let real = path.canonicalize().ok();
    folders.extend(real.as_deref().and_then(Path::parent).map(Path::to_owned));
    folders
}

/// Access rights of a file or folder.
#[derive(Debug, Clone, Copy)]
struct FileRights {
    mode: u32,
    /// True on a read-only mount, such as that of a Kubernetes `ConfigMap`, whose mode is 0777.
    is_read_only: bool,
    /// True if the process may change its mode.
    is_ours: bool,
}

impl FileRights {
    /// Returns the rights of a path; `None` if it does not exist yet.
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        let mount = rustix::fs::statvfs(path);
        Some(Self {
            mode: metadata.mode() & MODE,
            is_read_only: mount.is_ok_and(|mount| mount.f_flag.contains(StatVfsMountFlags::RDONLY)),
            is_ours: may_change(metadata.uid(), rustix::process::geteuid()),
        })
    }

    /// Returns those of `bits` that are set and effective on the mount.
    const fn given(self, bits: u32) -> u32 {
        let without = if self.is_read_only { GROUP_OR_OTHERS_WRITE } else { 0 };
        self.mode & bits & !without
    }

    /// Returns true if others may replace files in a folder with these rights.
    const fn let_others_replace(self) -> bool {
        self.given(OTHERS_WRITE) != 0 && self.mode & STICKY == 0
    }
}

/// Returns true if `user` may change the mode of a file of `owner`.
fn may_change(owner: u32, user: Uid) -> bool {
    user.is_root() || user.as_raw() == owner
}

/// Warns of a folder in which others may replace files.
fn replaceable(folder: &Path) -> Option<Notice> {
    let rights = FileRights::of(folder)?;
    let (mode, shown) = (rights.mode, folder.display());
    rights.let_others_replace().then(|| {
        let text =
            format!("{shown}: others may replace files in it (mode {mode:04o}); chmod o-w {shown}");
        Notice::warning(text).about_file(folder)
    })
}

/// Warns of revocation lists in folders that others may write; one warning for each folder.
fn lists(loader: &Loader, named: &BTreeSet<PathBuf>) -> Vec<Notice> {
    let mut found: BTreeMap<&Path, BTreeSet<&Path>> = BTreeMap::new();
    for path in loader.list_files().filter(|path| !named.contains(*path)) {
        if let (Some(folder), Some(_)) = (path.parent(), mode(path, OTHERS_WRITE, "o-w")) {
            found.entry(folder).or_default().insert(path);
        }
    }
    let warning = |(folder, files): (&Path, BTreeSet<&Path>)| {
        let (first, number) = (files.first()?.display(), files.len());
        let shown = folder.display();
        let text = format!(
            "{shown}: others may write {number} of the files in it, such as {first}; chmod o-w {shown}/*"
        );
        Some(Notice::warning(text).about_file(folder))
    };
    found.into_iter().filter_map(warning).collect()
}

/// Warns of a file or folder that has one of the rights in `bits`; one that does not exist yet has none.
///
/// The remedy only takes rights away: the service may read a key through its group.
fn mode(path: &Path, bits: u32, remedy: &str) -> Option<Notice> {
    let rights = FileRights::of(path)?;
    let (mode, found) = (rights.mode, rights.given(bits));
    if found == 0 {
        return None;
    }
    let what = match (found & GROUP_OR_OTHERS_WRITE, found & OTHERS_READ) {
        (0, _) => "read",
        (_, 0) => "write",
        _ => "read and write",
    };
    let shown = path.display();
    let text = format!("{shown}: others may {what} it (mode {mode:04o}); chmod {remedy} {shown}");
    Some(Notice::warning(text).about_file(path))
}

impl Config {
    /// Returns the files that hold keys, tokens and passwords.
    fn secrets(&self) -> Vec<PathBuf> {
        let directory = &self.directory;
        let pairs = self.tls.certificates.iter().chain([&self.provider_tls.certificate]);
        let api = directory.sds_api.as_ref();
        let pairs = pairs.chain(api.and_then(|api| api.tls.certificate.as_ref()));
        #[cfg(feature = "ldap")]
        let pairs =
            pairs.chain(directory.sds_ldap.as_ref().and_then(|ldap| ldap.tls.certificate.as_ref()));
        let redis = self.redis.as_ref();
        let pairs = pairs.chain(redis.and_then(|redis| redis.tls.as_ref()?.certificate.as_ref()));
        let tokens = [
            self.admin.token_file.as_ref(),
            redis.and_then(|redis| redis.password_file.as_ref()),
            redis.and_then(|redis| redis.key_file.as_ref()),
            api.and_then(|api| api.key_file.as_ref()),
            self.traces.as_ref().and_then(|traces| traces.headers_file.as_ref()),
        ];
        let checkpoints = self.audit.checkpoints.iter().flat_map(|settings| &settings.keys);
        let keys = pairs.map(|pair| &pair.key).chain(checkpoints);
        keys.chain(tokens.into_iter().flatten()).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns rights with a mode, on a read-only or a writable mount.
    fn rights(mode: u32, is_read_only: bool) -> FileRights {
        FileRights { mode, is_read_only, is_ours: true }
    }

    #[test]
    fn nobody_may_write_or_replace_on_a_read_only_mount() {
        // The modes of a ConfigMap, a Secret and a volume with `fsGroup`, each as Kubernetes mounts it.
        for (mode, is_replaceable) in [(0o777, true), (0o1777, false), (0o2777, true)] {
            let (writable, read_only) = (rights(mode, false), rights(mode, true));
            assert_eq!(writable.given(OTHERS_WRITE), OTHERS_WRITE, "{mode:o}");
            assert_eq!(writable.given(GROUP_OR_OTHERS_WRITE), GROUP_OR_OTHERS_WRITE, "{mode:o}");
            assert_eq!(writable.let_others_replace(), is_replaceable, "{mode:o}");
            assert_eq!(read_only.given(GROUP_OR_OTHERS_WRITE), 0, "{mode:o}");
            assert!(!read_only.let_others_replace(), "{mode:o}");
        }
    }

    #[test]
    fn others_may_read_a_secret_on_a_read_only_mount() {
        let secret = rights(0o666, true);
        assert_eq!(secret.given(GROUP_OR_OTHERS_WRITE | OTHERS_READ), OTHERS_READ);
        assert_eq!(rights(0o640, true).given(GROUP_OR_OTHERS_WRITE | OTHERS_READ), 0);
    }

    #[test]
    fn a_mode_can_be_changed_by_the_owner_and_by_root_alone() {
        let (root, user) = (Uid::ROOT, Uid::from_raw(1000));
        for (owner, user, may) in [
            (0, root, true),
            (1000, root, true),
            (1000, user, true),
            (0, user, false),
            (1001, user, false),
        ] {
            assert_eq!(may_change(owner, user), may, "{owner} {user:?}");
        }
    }
}
