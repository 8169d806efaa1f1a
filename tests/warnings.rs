//! Warnings of `check`: settings and files that work but need an operator's attention.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use testkit::TestBed;

/// The warnings of `check` about a test bed's files.
fn warnings(bed: &TestBed) -> Vec<String> {
    let mut check = Command::new(env!("CARGO_BIN_EXE_spine-proxy"));
    let checked = check.args(["check", "--config"]).arg(bed.path("spine-proxy.toml")).output();
    let checked = checked.unwrap();
    let said = String::from_utf8(checked.stderr).unwrap();
    assert_eq!(checked.status.code(), Some(0), "{said}");
    let text = String::from_utf8(checked.stdout).unwrap();
    text.lines().filter_map(|line| line.strip_prefix("warning: ")).map(str::to_owned).collect()
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_that_together_allow_every_address_are_warned_of() {
    let bed = TestBed::new().await;
    let text = bed.text("spine-proxy.toml");
    let every = |family: &str| format!("together allow every {family} address");
    let (v4, v6) = (every("IPv4"), every("IPv6"));
    for (networks, v4_words, v6_words) in [
        (&["0.0.0.0/1", "128.0.0.0/1"][..], Some(&*v4), None),
        (&["128.0.0.0/1", "64.0.0.0/2", "0.0.0.0/2", "10.0.0.0/8"], Some(&v4), None),
        (&["127.0.0.0/8", "::/1", "8000::/1"], None, Some(&*v6)),
        (&["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"], Some(&v4), Some(&v6)),
        (&["0.0.0.0/0", "10.0.0.0/8"], Some("0.0.0.0/0 allows every address"), None),
        (&["0.0.0.0/1", "128.0.0.0/2", "8000::/1"], None, None),
        (&["127.0.0.0/8", "10.0.0.0/8", "fd00::/8"], None, None),
    ] {
        let written = format!("networks = {networks:?}");
        bed.replace("spine-proxy.toml", &text.replace("networks = [\"127.0.0.0/8\"]", &written));
        let found = warnings(&bed);
        let found: Vec<_> = found.iter().filter(|text| text.contains(" every ")).collect();
        let words: Vec<_> = v4_words.into_iter().chain(v6_words).collect();
        assert_eq!(found.len(), words.len(), "{networks:?}: {found:?}");
        for (text, words) in found.iter().zip(words) {
            assert!(text.contains(words), "{networks:?}: {text}");
        }
    }
}

/// A test bed whose configuration names a file of every kind, none with rights that it should not have.
async fn bed() -> TestBed {
    // Small limits, which fit any machine's memory.
    let limits = "[listener.limits]\nconnections-max = 100\nin-hand-max = 20";
    let bed = TestBed::with(|files| files.add(limits)).await;
    let sds = "[directory.sds-api]\nurl = \"https://sds.example.nhs.uk/FHIR/R4\"\n\
               key-file = \"sds.key\"\ntls = { authorities = [\"sds-ca.pem\"], crl = [\"sds.crl\"] }";
    let shared = "[redis]\ngateways = 1\nurl = \"redis://127.0.0.1:1\"\n\
                  password-file = \"redis.password\"\nkey-file = \"redis.key\"";
    let mut text = bed.text("spine-proxy.toml");
    for (from, to) in [
        ("[admin]\n", "[admin]\ntoken-file = \"admin.token\"\n"),
        ("[directory]\n", "[directory]\nsnapshot = \"snapshot.json\"\n"),
        ("crl = [\"crl.pem\"]\n\n[provider]", "crl = [\"crl.pem\", \"lists\"]\n\n[provider]"),
        ("[admin]\n", &format!("{sds}\n{shared}\n[admin]\n")),
    ] {
        assert!(text.contains(from), "{from}");
        text = text.replacen(from, to, 1);
    }
    bed.replace("spine-proxy.toml", &text);
    for (name, like) in [("sds-ca.pem", "ca.pem"), ("sds.crl", "crl.pem")] {
        bed.replace(name, &bed.text(like));
    }
    std::fs::create_dir(bed.path("lists")).unwrap();
    for name in ["lists/1.crl", "lists/2.crl"] {
        bed.replace(name, &bed.text("crl.pem"));
        set_mode(&bed.path(name), 0o644);
    }
    for name in ["admin.token", "sds.key", "redis.password", "redis.key", "snapshot.json"] {
        bed.replace(name, "0123456789abcdef0123456789abcdef");
        set_mode(&bed.path(name), 0o600);
    }
    bed
}

const SECRETS: [&str; 6] =
    ["server.key", "gateway.key", "admin.token", "sds.key", "redis.password", "redis.key"];
const PUBLIC_FILES: [&str; 8] = [
    "spine-proxy.toml",
    "directory.toml",
    "server.pem",
    "gateway.pem",
    "ca.pem",
    "crl.pem",
    "sds-ca.pem",
    "sds.crl",
];

/// The modes that a checkout under umask 002, and a key that its group may read, have.
#[tokio::test(flavor = "multi_thread")]
async fn files_that_their_group_may_read_or_public_ones_it_may_write_raise_no_warning() {
    let bed = bed().await;
    assert_eq!(warnings(&bed), [""; 0]);
    for name in SECRETS {
        set_mode(&bed.path(name), 0o640);
    }
    for name in PUBLIC_FILES.into_iter().chain(["lists/1.crl"]) {
        set_mode(&bed.path(name), 0o664);
    }
    set_mode(&bed.path("lists"), 0o775);
    set_mode(&bed.path(""), 0o775);
    assert_eq!(warnings(&bed), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_excessive_permissions_is_named_with_a_remedy() {
    const SECRET: &str = "chmod g-w,o-rwx";
    const WRITTEN: &str = "chmod go-w";
    const PUBLIC: &str = "chmod o-w";
    let bed = bed().await;
    let mut rows = Vec::new();
    for name in SECRETS {
        for (mode, may) in [
            (0o604, "read"),
            (0o644, "read"),
            (0o620, "write"),
            (0o602, "write"),
            (0o666, "read and write"),
        ] {
            rows.push((name, mode, format!("others may {may} it"), SECRET));
        }
    }
    for (name, modes) in [("snapshot.json", [0o620, 0o602]), ("audit", [0o770, 0o702])] {
        for mode in modes {
            rows.push((name, mode, "others may write it".to_owned(), WRITTEN));
        }
    }
    for name in PUBLIC_FILES.into_iter().chain(["lists"]) {
        rows.push((name, 0o777, "others may write it".to_owned(), PUBLIC));
    }
    // Others may add lists, whatever the sticky bit says.
    rows.push(("lists", 0o1777, "others may write it".to_owned(), PUBLIC));
    for (name, mode, may, remedy) in rows {
        let path = bed.path(name);
        let before = std::fs::metadata(&path).unwrap().permissions();
        set_mode(&path, mode);
        let shown = path.display();
        let words = format!("{shown}: {may} (mode {mode:04o}); {remedy} {shown}");
        assert_eq!(warnings(&bed), [words]);
        std::fs::set_permissions(&path, before).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_in_which_others_may_replace_files_is_named() {
    let bed = bed().await;
    let elsewhere = bed.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::rename(bed.path("ca.pem"), elsewhere.join("ca.pem")).unwrap();
    std::os::unix::fs::symlink("elsewhere/ca.pem", bed.path("ca.pem")).unwrap();
    // As in `/tmp`, the sticky bit keeps users from replacing files of others.
    for folder in [bed.path(""), elsewhere].map(|folder| folder.canonicalize().unwrap()) {
        let before = std::fs::metadata(&folder).unwrap().permissions();
        set_mode(&folder, 0o1777);
        assert_eq!(warnings(&bed), [""; 0]);
        set_mode(&folder, 0o777);
        let shown = folder.display();
        let words =
            format!("{shown}: others may replace files in it (mode 0777); chmod o-w {shown}");
        assert_eq!(warnings(&bed), [words]);
        std::fs::set_permissions(&folder, before).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folder_of_each_symbolic_link_on_the_way_to_a_file_is_looked_at() {
    let bed = bed().await;
    for name in ["hop", "open", "authorities"] {
        std::fs::create_dir(bed.path(name)).unwrap();
    }
    std::fs::rename(bed.path("ca.pem"), bed.path("authorities/ca.pem")).unwrap();
    for (link, target) in [
        ("ca.pem", "hop/ca.pem"),
        ("hop/ca.pem", "../open/ca.pem"),
        ("open/ca.pem", "../authorities/ca.pem"),
    ] {
        std::os::unix::fs::symlink(target, bed.path(link)).unwrap();
    }
    // A folder behind a symbolic link, named with a slash at its end.
    std::fs::rename(bed.path("lists"), bed.path("authorities/lists")).unwrap();
    std::os::unix::fs::symlink("../authorities/lists", bed.path("open/lists")).unwrap();
    std::os::unix::fs::symlink("open/lists/", bed.path("lists")).unwrap();
    let text = bed.text("spine-proxy.toml");
    bed.replace("spine-proxy.toml", &text.replace("\"lists\"", "\"lists/\""));
    assert_eq!(warnings(&bed), [""; 0]);
    for folder in ["", "hop", "open", "authorities"] {
        let folder = bed.path(folder).canonicalize().unwrap();
        set_mode(&folder, 0o777);
        let shown = folder.display();
        let words =
            format!("{shown}: others may replace files in it (mode 0777); chmod o-w {shown}");
        assert_eq!(warnings(&bed), [words]);
        set_mode(&folder, 0o755);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_lists_that_others_may_write_has_one_warning() {
    let bed = bed().await;
    let folder = bed.path("lists");
    let folder = folder.display();
    for (name, number) in [("lists/2.crl", 1), ("lists/1.crl", 2)] {
        set_mode(&bed.path(name), 0o666);
        let words = format!(
            "{folder}: others may write {number} of the files in it, such as {}; chmod o-w {folder}/*",
            bed.path(name).display()
        );
        assert_eq!(warnings(&bed), [words]);
    }
}
