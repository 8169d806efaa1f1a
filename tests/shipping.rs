//! Keeping the journal's evidence elsewhere: the scripts and units in `deploy/journal/`.
//!
//! If a program is not installed, its test passes and reports that it is missing, or fails if `CI` is
//! `true`.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use audit_journal::note::CheckpointSigner;
use serde_json::{Value, json};
use tempfile::TempDir;

use testkit::repository::root;
use testkit::{TestBed, TestRequest, report_missing};

const ORIGIN: &str = "gw1.example.nhs.uk/audit/1";

/// Journal with signed checkpoints in several segments, of which all but the newest are finished. The gateway
/// still runs.
struct ShippedJournal {
    bed: TestBed,
    key: String,
    folder: PathBuf,
}

impl ShippedJournal {
    async fn new() -> Self {
        let pem = CheckpointSigner::generate_pem().unwrap();
        let signer = CheckpointSigner::from_pkcs8_pem(&pem, ORIGIN).unwrap();
        let key = signer.verifier().to_string();
        let bed = TestBed::with(|files| {
            files.put("audit.key", &pem);
            files.set("audit", "segment-size = \"4 KiB\"");
            files.add(&format!(
                "[audit.checkpoints]\norigin = \"{ORIGIN}\"\nkeys = [\"audit.key\"]"
            ));
        })
        .await;
        for _ in 0..6 {
            assert_eq!(bed.send(TestRequest::book()).await.status, 200);
        }
        bed.server.trail.flush().await.unwrap();
        let folder = bed.path("audit");
        wait_until(|| are_indexed(&folder)).await;
        let bed = bed.restart().await;
        let newest = checkpoints(segments(&folder).last().unwrap());
        wait_until(|| are_indexed(&folder) && newest.exists()).await;
        wait_until(|| std::fs::read(&newest).is_ok_and(|text| text.ends_with(b"\n"))).await;
        assert!(segments(&folder).len() > 2);
        Self { bed, key, folder }
    }

    /// Returns the proof of the first exchange, as `audit prove` writes it.
    fn proof(&self) -> Value {
        let first = std::fs::read_to_string(&segments(&self.folder)[0]).unwrap();
        let lines = first.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let id = lines.filter_map(|line| line["id"].as_str().map(str::to_owned)).next().unwrap();
        let folder = self.folder.to_str().unwrap();
        let output = audit(&["prove", folder, "--id", &id]);
        assert!(output.status.success(), "{}", said(&output));
        let proof: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(proof["lines"].as_array().unwrap().len(), 2);
        proof
    }
}

/// Waits for what the gateway does on a thread of its own.
async fn wait_until(is_done: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if is_done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the gateway has not finished");
}

/// Returns the paths of a journal's segments, in order.
fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut found = testkit::test_bed::segments(folder);
    found.retain(|path| !path.to_str().unwrap().contains("checkpoints"));
    found
}

/// Returns whether every segment of a journal but the newest has an index.
fn are_indexed(folder: &Path) -> bool {
    let all = segments(folder);
    let finished = all.iter().rev().skip(1);
    finished.into_iter().all(|segment| segment.with_extension("index").exists())
}

/// Returns the path of the file with the checkpoints of a segment.
fn checkpoints(segment: &Path) -> PathBuf {
    segment.with_extension("checkpoints.jsonl")
}

fn audit(arguments: &[&str]) -> Output {
    Command::new(testkit::program()).arg("audit").args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8([&output.stdout[..], &output.stderr].concat()).unwrap()
}

/// Returns the path of a file in `deploy/journal/`.
fn deployed(name: &str) -> PathBuf {
    root().join("deploy/journal").join(name)
}

/// Returns whether a program is installed; reports it if not.
fn is_installed(program: &str, try_it: &str) -> bool {
    let found = Command::new(program).arg(try_it).output().is_ok();
    if !found {
        report_missing(program);
    }
    found
}

/// Ways to run the checker: with the Python package `cryptography`, and with OpenSSL instead.
#[derive(Default)]
struct Checkers {
    with_package: Option<PathBuf>,
    with_openssl: Option<PathBuf>,
}

impl Checkers {
    fn found() -> Self {
        let interpreter = |program: &str, what: &str| {
            let what = format!("{what}; print(sys.executable)");
            let output = Command::new(program).args(["-c", &what]).output().ok()?;
            let path = String::from_utf8(output.stdout).unwrap();
            output.status.success().then(|| PathBuf::from(path.trim_end()))
        };
        let mut found = Self::default();
        if is_installed("python3", "--version") {
            let programs = ["python3", "/usr/bin/python3"];
            let what = "import sys, cryptography";
            found.with_package = programs.iter().find_map(|program| interpreter(program, what));
            if found.with_package.is_none() {
                report_missing("python3-cryptography");
            }
            if is_installed("openssl", "version") {
                found.with_openssl = interpreter("python3", "import sys");
            }
        }
        found
    }

    /// Returns the commands that check a proof.
    fn commands(&self) -> impl Iterator<Item = Command> {
        let command = |python: &PathBuf, options: &[&str]| {
            let mut checker = Command::new(python);
            checker.args(options).arg(deployed("check-proof.py"));
            checker
        };
        let with_package = self.with_package.iter().map(move |path| command(path, &[]));
        // Without the folder of packages.
        with_package.chain(self.with_openssl.iter().map(move |path| command(path, &["-S"])))
    }
}

/// Compares the independent checker with `audit check`.
struct Comparison {
    checkers: Checkers,
    file: PathBuf,
    key: String,
}

impl Comparison {
    fn new(journal: &ShippedJournal) -> Self {
        let file = journal.bed.path("proof.json");
        Self { checkers: Checkers::found(), file, key: journal.key.clone() }
    }

    /// Asserts that both end with this exit code.
    fn is(&self, expected: i32, what: &str, proof: &Value, keys: &[&str]) {
        std::fs::write(&self.file, proof.to_string()).unwrap();
        let mut arguments = vec![self.file.to_str().unwrap()];
        arguments.extend(keys.iter().flat_map(|key| ["--key", key]));
        let output = audit(&[&["check"], &arguments[..]].concat());
        assert_eq!(output.status.code(), Some(expected), "{what}: {}", said(&output));
        for mut checker in self.checkers.commands() {
            let output = checker.args(&arguments).output().unwrap();
            let text = said(&output);
            assert_eq!(output.status.code(), Some(expected), "{what}: {checker:?}: {text}");
            assert!(!text.contains("Traceback"), "{what}: {text}");
            assert_eq!(text.contains("\nPROVEN"), expected == 0, "{what}: {text}");
            // Each of the two lines is signed twice, once with a time.
            let signed = text.matches(&format!("  signed by {}", self.key)).count();
            assert!(signed == 4 || expected != 0, "{what}: {text}");
        }
    }
}

/// Returns the proof with a member of its second line changed.
fn changed(proof: &Value, member: &str, change: impl Fn(&str) -> String) -> Value {
    let mut changed = proof.clone();
    let text = &mut changed["lines"][1][member];
    let new = change(text.as_str().unwrap());
    assert_ne!(*text, new);
    *text = Value::String(new);
    changed
}

/// Returns the proof with a digit of base64 changed, in one of the lines of its `proof`.
fn other_digit(proof: &Value, line: usize) -> Value {
    changed(proof, "proof", |text| {
        let mut lines: Vec<_> = text.split('\n').map(str::to_owned).collect();
        let at = lines[line].len() - 20;
        let digit = if &lines[line][at..=at] == "A" { "B" } else { "A" };
        lines[line].replace_range(at..=at, digit);
        lines.join("\n")
    })
}

/// Returns the position of the checkpoint in the lines of a `proof`: three lines, an empty one, and two
/// signatures.
fn checkpoint_at(proof: &Value) -> usize {
    proof["lines"][1]["proof"].as_str().unwrap().lines().count() - 6
}

#[tokio::test(flavor = "multi_thread")]
async fn the_independent_checker_accepts_a_true_proof_if_a_given_key_signed_it() {
    let journal = ShippedJournal::new().await;
    let (proof, compared) = (journal.proof(), Comparison::new(&journal));
    let other = CheckpointSigner::generate_pem().unwrap();
    let other = CheckpointSigner::from_pkcs8_pem(&other, ORIGIN).unwrap().verifier().to_string();
    let (own, other) = (journal.key.as_str(), other.as_str());
    compared.is(0, "its key", &proof, &[own]);
    compared.is(0, "one of two keys", &proof, &[other, own]);
    compared.is(3, "no key", &proof, &[]);
    compared.is(3, "another key of that name", &proof, &[other]);
    let unknown = other_digit(&proof, checkpoint_at(&proof) + 4);
    compared.is(3, "a changed signature of an unknown key", &unknown, &[other]);
    let malformed = own.replace('+', "-");
    compared.is(2, "text that is no key", &proof, &[&malformed]);
}

/// Proofs that are false or malformed.
fn false_proofs(proof: &Value) -> Vec<(&'static str, Value)> {
    let at = checkpoint_at(proof);
    let replaced = |member: &str, from: &str, to: &str| {
        changed(proof, member, |text| text.replacen(from, to, 1))
    };
    let without_a_hash = changed(proof, "proof", |text| {
        let mut lines: Vec<_> = text.split('\n').collect();
        lines.remove(3);
        lines.join("\n")
    });
    vec![
        ("a changed line", replaced("line", "\"status\":200", "\"status\":201")),
        ("a line under another number", replaced("line", "\"seq\":", "\"seq\":1")),
        ("another chain value before it", other_digit(proof, 1)),
        ("another index", replaced("proof", "\nindex ", "\nindex 1")),
        ("another hash in the proof", other_digit(proof, 3)),
        ("a hash less in the proof", without_a_hash),
        ("another origin", replaced("proof", "\ngw1", "\ngw2")),
        ("another size", replaced("proof", "/audit/1\n", "/audit/1\n1")),
        ("another root", other_digit(proof, at + 2)),
        ("a changed signature", other_digit(proof, at + 4)),
        ("a changed signature with a time", other_digit(proof, at + 5)),
        ("text that is no proof", changed(proof, "proof", |_| "x\n\ny\n\nz\n".to_owned())),
        ("an object that is no proof", json!({ "lines": [{}] })),
        ("no lines", json!({ "lines": [] })),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_independent_checker_rejects_each_false_proof_as_the_program_does() {
    let journal = ShippedJournal::new().await;
    let compared = Comparison::new(&journal);
    for (what, proof) in false_proofs(&journal.proof()) {
        compared.is(1, what, &proof, &[&journal.key]);
    }
}

/// Program that stands in for rclone where that is not installed.
const RCLONE: &str = r#"#!/bin/sh
[ "$1 $2 $3" = "copy --immutable --files-from-raw" ] || exit 2
mkdir -p "$6"
while read -r name; do
    if [ ! -e "$6/$name" ]; then
        cp "$5/$name" "$6/$name"
    elif ! cmp -s "$5/$name" "$6/$name"; then
        exit 6
    fi
done <"$4"
"#;

/// The script that archives segments, and the programs that it finds besides the installed ones.
struct Archiver {
    programs: TempDir,
    has_rclone: bool,
}

impl Archiver {
    fn new() -> Self {
        let programs = tempfile::tempdir().unwrap();
        let has_rclone = Command::new("rclone").arg("version").output().is_ok();
        if !has_rclone {
            let path = programs.path().join("rclone");
            std::fs::write(&path, RCLONE).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        }
        Self { programs, has_rclone }
    }

    fn run(&self, journal: &Path, to: &Path) -> Output {
        let mut shell = Command::new("sh");
        shell.args(["-c", "PATH=$0:$PATH exec \"$@\""]).arg(self.programs.path());
        shell.arg(deployed("archive-segments")).arg(journal).arg(to);
        shell.env("RCLONE_CONFIG", "/dev/null").output().unwrap()
    }
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Makes a file look as if it was written an hour ago.
fn age(path: &Path) {
    let file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
    let written = file.metadata().unwrap().modified().unwrap();
    file.set_modified(written - Duration::from_secs(3600)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_archive_gets_the_finished_segments_and_their_checkpoints_byte_for_byte() {
    let journal = ShippedJournal::new().await;
    let (folder, to) = (&journal.folder, journal.bed.path("archive"));
    let archiver = Archiver::new();
    // Nothing is copied that was written just now.
    let output = archiver.run(folder, &to);
    assert!(output.status.success() && !to.exists(), "{}", said(&output));

    let all = segments(folder);
    let (newest, finished) = all.split_last().unwrap();
    let mut expected = BTreeSet::new();
    for segment in finished {
        for path in [segment.clone(), checkpoints(segment)] {
            age(&path);
            expected.insert(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
    age(newest);
    let output = archiver.run(folder, &to);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(names(&to), expected);
    for name in &expected {
        let [kept, own] =
            [to.join(name), folder.join(name)].map(|path| std::fs::read(path).unwrap());
        assert_eq!(kept, own, "{name}");
    }
    let verified = audit(&["verify", to.to_str().unwrap(), "--key", &journal.key]);
    assert_eq!(verified.status.code(), Some(0), "{}", said(&verified));

    // Once more copies nothing anew, and says so if a finished segment was changed. The copy stays.
    assert!(archiver.run(folder, &to).status.success());
    let kept = to.join(finished[0].file_name().unwrap());
    let before = std::fs::read(&kept).unwrap();
    let mut file = std::fs::OpenOptions::new().append(true).open(&finished[0]).unwrap();
    file.write_all(b"{}\n").unwrap();
    age(&finished[0]);
    let output = archiver.run(folder, &to);
    assert!(!output.status.success(), "{}", said(&output));
    assert_eq!(std::fs::read(&kept).unwrap(), before);

    // A segment without an index is not taken for finished.
    std::fs::remove_file(finished[1].with_extension("index")).unwrap();
    std::fs::remove_dir_all(&to).unwrap();
    let output = archiver.run(folder, &to);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("1 segments before the newest have no index"));
    assert!(!to.join(finished[1].file_name().unwrap()).exists());
    if !archiver.has_rclone {
        report_missing("rclone");
    }
}

/// Configuration of OpenSSL for a time-stamping authority whose certificate is its own root.
const AUTHORITY: &str = "
[req]
distinguished_name = name
x509_extensions = extensions
prompt = no
[name]
CN = Invented time-stamping authority
[extensions]
extendedKeyUsage = critical, timeStamping
[authority]
serial = serial
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
ess_cert_id_alg = sha256
";

/// Time-stamping authority on loopback, which answers a number of queries.
struct Authority {
    folder: TempDir,
    url: String,
}

impl Authority {
    fn new(answers: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("authority.cnf"), AUTHORITY).unwrap();
        std::fs::write(folder.path().join("serial"), "01").unwrap();
        let make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
             -config authority.cnf -keyout key.pem -out certificate.pem";
        openssl(folder.path(), make);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let path = folder.path().to_owned();
        std::thread::spawn(move || {
            for connection in listener.incoming().take(answers) {
                let mut stream = BufReader::new(connection.unwrap());
                let (mut line, mut length) = (String::new(), 0);
                while stream.read_line(&mut line).unwrap() > 2 {
                    let header = line.to_ascii_lowercase();
                    if let Some(value) = header.strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    line.clear();
                }
                let mut query = vec![0; length];
                stream.read_exact(&mut query).unwrap();
                std::fs::write(path.join("query"), query).unwrap();
                let reply = "ts -reply -config authority.cnf -section authority -queryfile query \
                     -signer certificate.pem -inkey key.pem -out answer";
                openssl(&path, reply);
                let body = std::fs::read(path.join("answer")).unwrap();
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: application/timestamp-reply\r\n\
                     Content-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                stream.get_mut().write_all(&[head.as_bytes(), &body].concat()).unwrap();
            }
        });
        Self { folder, url }
    }

    fn certificate(&self) -> PathBuf {
        self.folder.path().join("certificate.pem")
    }
}

fn openssl(folder: &Path, arguments: &str) {
    let mut openssl = Command::new("openssl");
    let output = openssl.args(arguments.split_whitespace()).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{arguments}: {}", said(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_checkpoint_is_time_stamped_once_and_kept_if_the_stamp_is_right() {
    if !is_installed("openssl", "version")
        || !is_installed("curl", "--version")
        || !is_installed("python3", "--version")
    {
        return;
    }
    let journal = ShippedJournal::new().await;
    let (authority, other) = (Authority::new(2), Authority::new(0));
    let stamps = journal.bed.path("stamps");
    std::fs::create_dir(&stamps).unwrap();
    let stamp = |url: &str, authorities: &Path| {
        let mut script = Command::new(deployed("stamp-checkpoint"));
        script.arg(&journal.folder).arg(&stamps).arg(url).arg(authorities);
        script.env("no_proxy", "*").output().unwrap()
    };
    // Neither an authority that is not trusted nor one that does not answer leaves anything behind.
    let output = stamp(&authority.url, &other.certificate());
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert!(!stamp(&format!("http://{nobody}/"), &authority.certificate()).status.success());
    assert!(names(&stamps).is_empty());

    // The last line may not be written to its end yet.
    let newest = checkpoints(segments(&journal.folder).last().unwrap());
    let text = std::fs::read_to_string(&newest).unwrap();
    let newest_note: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let mut file = std::fs::OpenOptions::new().append(true).open(&newest).unwrap();
    file.write_all(b"{\"time\":\"2026-11-28T12:00:00.000000Z\",\"si").unwrap();
    let output = stamp(&authority.url, &authority.certificate());
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains(" stamped at "), "{}", said(&output));
    let kept = names(&stamps);
    let [note, answer] = ["note", "tsr"].map(|end| {
        let name = kept.iter().find(|name| name.ends_with(end)).unwrap();
        stamps.join(name).to_str().unwrap().to_owned()
    });
    assert_eq!(kept.len(), 2);
    assert_eq!(std::fs::read_to_string(&note).unwrap(), newest_note["note"].as_str().unwrap());

    let certificate = authority.certificate().to_str().unwrap().to_owned();
    openssl(&stamps, &format!("ts -verify -data {note} -in {answer} -CAfile {certificate}"));
    let folder = journal.folder.to_str().unwrap();
    let verified = audit(&["verify", folder, "--key", &journal.key, "--checkpoints", &note]);
    assert_eq!(verified.status.code(), Some(0), "{}", said(&verified));

    // Once stamped, the authority is not asked again.
    let output = stamp("http://127.0.0.1:1/", &authority.certificate());
    assert!(output.status.success() && said(&output).contains("is stamped already"));
    assert_eq!(names(&stamps), kept);
}

/// Returns the text of a file in `deploy/journal/`.
fn text(name: &str) -> String {
    std::fs::read_to_string(deployed(name)).unwrap()
}

/// Returns the words of a text that begin with a prefix, without what follows their last letter or digit.
fn words<'a>(text: &'a str, prefix: &str) -> Vec<&'a str> {
    let is_end = |c: char| c.is_whitespace() || "`()[],;:'\"".contains(c);
    let words = text.split(is_end).filter(|word| word.starts_with(prefix));
    words.map(|word| word.trim_end_matches(['.', '/'])).collect()
}

#[test]
fn each_file_that_the_page_and_the_units_name_is_in_the_repository() {
    let page = std::fs::read_to_string(root().join("docs/operate/shipping.md")).unwrap();
    for word in words(&page, "deploy/").into_iter().filter(|word| !word.contains('*')) {
        assert!(root().join(word).exists(), "docs/operate/shipping.md: {word}");
    }
    let all = names(&deployed(""));
    for name in &all {
        assert!(page.contains(&format!("deploy/journal/{name}")), "{name} is not on the page");
    }
    for name in &all {
        let text = text(name);
        for word in words(&text, "/usr/lib/spine-proxy/") {
            let own = word.strip_prefix("/usr/lib/spine-proxy/").unwrap();
            assert!(all.contains(own), "{name}: {word}");
        }
        for word in words(&text, "///usr/share/doc/spine-proxy/") {
            let own = word.strip_prefix("///usr/share/doc/spine-proxy/").unwrap();
            assert!(root().join("docs").join(own).exists(), "{name}: {word}");
        }
        for word in words(&text, "spine-proxy-") {
            if word.ends_with(".service") || word.ends_with(".timer") {
                assert!(all.contains(word), "{name}: {word}");
            }
        }
        if let Some(stem) = name.strip_suffix(".timer") {
            assert!(all.contains(&format!("{stem}.service")), "{name}");
        }
    }
}

#[test]
fn each_shipper_runs_as_the_proxys_user_and_sees_the_journal_read_only() {
    let has = |text: &str, line: &str| text.lines().any(|own| own == line);
    let proxy = std::fs::read_to_string(root().join("deploy/spine-proxy.service")).unwrap();
    assert!(has(&proxy, "User=spine-proxy") && has(&proxy, "StateDirectory=spine-proxy"));
    let units: Vec<_> =
        names(&deployed("")).into_iter().filter(|name| name.ends_with(".service")).collect();
    assert_eq!(units.len(), 3);
    for name in units {
        let unit = text(&name);
        let view = "BindReadOnlyPaths=/var/lib/spine-proxy/audit:/run/spine-proxy-journal";
        for line in ["User=spine-proxy", "ProtectSystem=strict", view] {
            assert!(has(&unit, line), "{name}: {line}");
        }
        let starts: Vec<_> = unit.lines().filter(|line| line.starts_with("ExecStart=")).collect();
        let shown = if name.contains("ship") { text("vector.yaml") } else { starts.concat() };
        assert!(shown.contains("/run/spine-proxy-journal"), "{name}");
    }
    for rule in text("audit.rules").lines().filter(|line| line.starts_with('-')) {
        assert!(rule.contains(" dir=/var/lib/spine-proxy/audit "), "{rule}");
    }
}

#[test]
fn systemd_finds_no_fault_in_the_units() {
    if !is_installed("systemd-analyze", "--version") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    let deploy = [root().join("deploy"), deployed("")];
    for entry in deploy.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap()) {
        let path = entry.unwrap().path();
        let ends = ["service", "socket", "timer"];
        if !path.extension().is_some_and(|end| ends.iter().any(|other| end == *other)) {
            continue;
        }
        // The programs are not installed here.
        let mut unit = String::new();
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let line = line
                .strip_prefix("#LoadCredential")
                .map_or_else(|| line.to_owned(), |rest| format!("LoadCredential{rest}"));
            match line.split_once("=/usr/") {
                Some((key, _)) if key.starts_with("Exec") => unit += &format!("{key}=/bin/sh\n"),
                _ => unit += &format!("{line}\n"),
            }
        }
        let copy = folder.path().join(path.file_name().unwrap());
        std::fs::write(&copy, unit).unwrap();
        paths.push(copy);
    }
    assert_eq!(paths.len(), 7);
    let mut analyze = Command::new("systemd-analyze");
    let output = analyze.args(["verify", "--man=no"]).args(paths).output().unwrap();
    assert!(output.status.success() && said(&output).is_empty(), "{}", said(&output));
}
