//! `lab`: a complete environment for tests, described by one line of JSON.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use testkit::{program, repository};

use crate::call::{CallLab, stderr};

/// Running lab, and its description.
pub(crate) struct Lab {
    child: Child,
    pub(crate) described: Value,
}

impl Lab {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(program());
        let mut child = command.arg("lab").args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, described: serde_json::from_str(&line).unwrap() }
    }

    pub(crate) fn text(&self, pointer: &str) -> &str {
        self.described.pointer(pointer).and_then(Value::as_str).unwrap()
    }

    /// Ends the lab as a service manager does; returns its exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn files<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) if text.starts_with('/') => found.push(text),
        Value::Array(items) => items.iter().for_each(|item| files(item, found)),
        Value::Object(members) => members.values().for_each(|member| files(member, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lab_describes_itself_and_ends_without_a_trace() {
    let lab = Lab::start(&[]);
    let mut named = Vec::new();
    files(&lab.described, &mut named);
    assert!(named.len() > 15, "{named:?}");
    for file in &named {
        assert!(Path::new(file).exists(), "{file}");
    }
    assert_eq!(lab.described["consumers"].as_array().unwrap().len(), 3);
    assert_eq!(lab.described["practices"].as_array().unwrap().len(), 6);
    assert!(TcpStream::connect(lab.text("/proxy/address")).is_ok());
    let admin = lab.text("/admin/url").strip_prefix("http://").unwrap().parse().unwrap();
    let ready = testkit::process::get(admin, "/readyz").await;
    assert!(ready.contains("[+]accepting"), "{ready}");
    let simulator = lab.text("/simulator/url").strip_prefix("http://").unwrap();
    let (simulator, _) = simulator.split_once('/').unwrap();
    let bookings = testkit::process::get(simulator.parse().unwrap(), "/_simulator/bookings").await;
    assert!(bookings.ends_with("[]"), "{bookings}");
    let authority = lab.text("/authority").to_owned();
    assert_eq!(lab.stop(), Some(0));
    assert!(!Path::new(&authority).exists(), "{authority}");
}

#[test]
fn a_lab_has_the_consumers_practices_and_settings_of_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let wanted = folder.path().join("kept");
    let example = repository::root().join("deploy/lab.toml");
    let lab = Lab::start(&[
        "--config",
        &example.display().to_string(),
        "--folder",
        &wanted.display().to_string(),
    ]);
    let names = |pointer: &str, key: &str| -> Vec<String> {
        let list = lab.described.pointer(pointer).unwrap().as_array().unwrap();
        list.iter().map(|one| one[key].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("/consumers", "name"), ["hub", "clinic"]);
    assert_eq!(names("/practices", "ods"), ["A20047", "F85001"]);
    let configuration = std::fs::read_to_string(lab.text("/proxy/configuration")).unwrap();
    assert!(configuration.contains("response-head = \"2s\""), "{configuration}");
    assert_eq!(lab.stop(), Some(0));
    assert!(wanted.join("audit").exists(), "a folder that was named is kept");
    // It is not empty now.
    let again = Command::new(program())
        .args(["lab", "--folder", &wanted.display().to_string()])
        .output()
        .unwrap();
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("is not empty"));
}

#[test]
fn a_lab_that_cannot_be_told_apart_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lab.toml");
    let consumer = "[[consumer]]\nname = \"hub\"\nasid = \"200000000359\"\nods = \"A00001\"\n";
    let practice = "[[practice]]\nname = \"P\"\nods = \"A20047\"\nasid = \"918999198993\"\n";
    for (text, said) in [
        (format!("{consumer}{consumer}"), "consumer.name: \"hub\" is there twice"),
        (format!("{practice}{practice}"), "practice.ods: \"A20047\" is there twice"),
        (consumer.replace("hub", "server"), "the name of another certificate"),
        (consumer.replace("hub", "../hub"), "characters other than letters"),
        (consumer.replace("200000000359", "918999198993") + practice, "asid: "),
        (format!("{practice}host = \"not a host\"\n"), "practice A20047: "),
        (format!("{practice}hosts = \"x\"\n"), "unknown field `hosts`"),
        (
            format!("{practice}host = \"gp.example.nhs.uk:8443\"\n"),
            "is no DNS name in small letters",
        ),
        (format!("{practice}host = \"GP.example.nhs.uk\"\n"), "is no DNS name in small letters"),
        (format!("{practice}path = \"/x/\"\n"), "does not begin with a slash, or ends with one"),
        (format!("{practice}path = \"/_simulator\"\n"), "is that of the control interface"),
        (
            consumer.to_owned() + &consumer.replace("hub", "HUB"),
            "consumer.name: \"hub\" is there twice",
        ),
        (format!("{consumer}interactions = [\"\\u0000\"]\n"), "consumer hub: interactions: "),
        (
            "[proxy.listener]\naddresses = [\"127.0.0.1:0\"]\n".to_owned(),
            "proxy.listener.addresses: set address instead",
        ),
        (
            "[proxy.admin]\naddress = \"127.0.0.1:0\"\n".to_owned(),
            "proxy.admin.address: set admin instead",
        ),
        (
            format!(
                "{practice}{}answers = false\n",
                practice.replace("A20047", "B82617").replace("993", "994")
            ),
            "practice B82617: its system does not answer, but",
        ),
    ] {
        std::fs::write(&path, text).unwrap();
        let refused = Command::new(program())
            .args(["lab", "--config", &path.display().to_string()])
            .output()
            .unwrap();
        assert_eq!(refused.status.code(), Some(78), "{said}");
        let error = String::from_utf8_lossy(&refused.stderr);
        assert!(error.contains(said), "{said}: {error}");
    }
}

/// A practice named by ODS code, and one that is not listed, without a directory service.
#[test]
fn a_lab_without_a_directory_service_finds_practices_in_its_file() {
    let lab = CallLab::with("directory = \"file\"\n");
    let configuration = std::fs::read_to_string(lab.lab.text("/proxy/configuration")).unwrap();
    assert!(!configuration.contains("sds"), "{configuration}");
    lab.answered(&["slots", "E84066"]);
    let refused = lab.call(&["slots", "Z99999", "--to", "918999198993"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("practice_unknown"), "{}", stderr(&refused));
}

/// Each token is sent to the practice for which it is.
#[test]
fn a_lab_has_a_token_for_each_consumer_practice_and_scope() {
    let lab = CallLab::start();
    let practices = lab.lab.described["practices"].as_array().unwrap();
    let mut sent = 0;
    for (practice, consumer) in practices
        .iter()
        .flat_map(|one| [(one, "hub"), (one, "night")])
        .filter(|(one, _)| one["answers"] == true)
    {
        let path = practice["tokens"][consumer]["organization/*.read"].as_str().unwrap();
        let token = std::fs::read_to_string(path).unwrap();
        let header = format!("Authorization: Bearer {token}");
        let ods = practice["ods"].as_str().unwrap();
        lab.answered(&["slots", ods, "--consumer", consumer, "--header", &header]);
        sent += 1;
    }
    assert_eq!(sent, 10);
    let tokens = &practices[0]["tokens"];
    assert_eq!(tokens.as_object().unwrap().len(), 3);
    let scopes: Vec<_> = tokens["clinic"].as_object().unwrap().keys().collect();
    assert_eq!(scopes, ["organization/*.read", "patient/*.read", "patient/*.write"]);
    let booking = std::fs::read_to_string(tokens["hub"]["patient/*.write"].as_str().unwrap());
    let header = format!("Authorization: Bearer {}", booking.unwrap());
    let patient = ["--patient", &lab.patient(), "--earliest"];
    lab.answered(&[&["book", "A20047", "--header", &header][..], &patient].concat());
}

/// Starts a lab, and returns it as soon as its folder is made.
fn begun_in(temporary: &Path) -> Child {
    let mut command = Command::new(program());
    command.arg("lab").env("TMPDIR", temporary);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while temporary.read_dir().unwrap().count() == 0 {
        assert!(child.try_wait().unwrap().is_none(), "the lab has ended by itself");
        std::thread::yield_now();
    }
    child
}

#[test]
fn a_lab_that_is_stopped_while_it_is_set_up_leaves_nothing() {
    for wanted in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let temporary = tempfile::tempdir().unwrap();
        let mut child = begun_in(temporary.path());
        let entries = || temporary.path().read_dir().unwrap().count();
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), wanted).unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        // On a machine that stops this test for a while, the signal comes when everything is there.
        match line.is_empty() {
            true => {
                assert_eq!(ended.status.code(), Some(1), "{said}");
                assert!(said.contains("before everything was set up"), "{said}");
            }
            false => assert_eq!(ended.status.code(), Some(0), "{said}"),
        }
        assert_eq!(entries(), 0, "{wanted:?}");
    }
}

/// A terminal that is closed sends SIGHUP; the proxy reloads on it.
#[test]
fn a_lab_goes_on_after_a_hangup_while_it_is_set_up() {
    let temporary = tempfile::tempdir().unwrap();
    let mut child = begun_in(temporary.path());
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with('{'), "{line}");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(temporary.path().read_dir().unwrap().count(), 0);
}

/// Names with a character that is not printed, and with a byte that is not UTF-8.
#[test]
fn a_lab_may_be_in_any_folder_and_protects_it() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("a\u{200b} b");
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
    let lab = Lab::start(&["--folder", folder.to_str().unwrap()]);
    let mut named = Vec::new();
    files(&lab.described, &mut named);
    assert!(named.iter().all(|file| Path::new(file).exists()), "{named:?}");
    assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(lab.stop(), Some(0));
    let odd = parent.path().join(OsStr::from_bytes(b"\xff"));
    let mut command = Command::new(program());
    let mut child =
        command.arg("lab").arg("--folder").arg(&odd).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let described: Value = serde_json::from_str(&line).unwrap();
    assert!(described["folder"].as_str().unwrap().ends_with('\u{fffd}'), "{described}");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    for (command, file) in [
        (["check", "--json", "--config"], "spine-proxy.toml"),
        (["audit", "verify", "--json"], "audit"),
    ] {
        let ran = Command::new(program()).args(command).arg(odd.join(file)).output().unwrap();
        let report: Value = serde_json::from_slice(&ran.stdout).unwrap();
        assert!(report["ok"].is_boolean(), "{report}");
    }
}

/// Runs the example of the documentation, as it stands.
#[test]
fn the_cases_of_the_pytest_example_pass_against_a_lab() {
    let pytest = repository::root().join("target/pytest/bin/pytest");
    if !pytest.exists() {
        testkit::report_missing("target/pytest");
        return;
    }
    let run = Command::new(pytest)
        .args(["-q", "-p", "no:cacheprovider", "docs/test/pytest"])
        .current_dir(repository::root())
        .env("SPINE_PROXY", program())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && said.contains("7 passed"), "{said}");
}

/// Two ways to look for what has not been written yet.
#[test]
fn a_query_that_follows_the_journal_prints_exchanges_as_they_end_until_a_signal() {
    let lab = Lab::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lab.json");
    std::fs::write(&file, lab.described.to_string()).unwrap();
    let mut following = Command::new(program())
        .args(["audit", "query", lab.text("/proxy/journal"), "--follow", "--json"])
        .args(["--outcome", "answered"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    for interaction in ["metadata", "slots"] {
        let call = Command::new(program())
            .args(["call", interaction, "A20047", "--lab", file.to_str().unwrap()])
            .output()
            .unwrap();
        assert!(call.status.success(), "{}", String::from_utf8_lossy(&call.stderr));
        let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        let interaction_of = line["interaction"].as_str().unwrap();
        assert!(interaction_of.contains(interaction.trim_end_matches('s')), "{line}");
        assert_eq!((&line["event"], &line["status"]), (&json!("closed"), &json!(200)));
    }
    let pid = rustix::process::Pid::from_child(&following);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert!(lines.next().is_none());
    assert_eq!(following.wait().unwrap().code(), Some(0));

    let ended = Command::new(program())
        .args(["audit", "query", lab.text("/proxy/journal"), "--follow", "--wait", "1ms"])
        .output()
        .unwrap();
    let table = String::from_utf8(ended.stdout).unwrap();
    assert_eq!(ended.status.code(), Some(0));
    assert_eq!(table.matches("answered").count(), 2, "{table}");
}

#[test]
fn a_query_of_the_journal_waits_for_an_exchange_and_may_require_one() {
    let lab = Lab::start(&[]);
    let journal = lab.text("/proxy/journal").to_owned();
    let query = |more: &[&str]| {
        let mut command = Command::new(program());
        command.args(["audit", "query", &journal, "--json", "--outcome", "refused"]).args(more);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    assert_eq!(query(&[]).wait().unwrap().code(), Some(0), "nothing is no fault by itself");
    let required = query(&["--require"]).wait_with_output().unwrap();
    assert_eq!(required.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&required.stderr).contains("nothing was found"));
    assert_eq!(query(&["--wait", "1ms"]).wait().unwrap().code(), Some(1));
    let mut waiting = query(&["--wait", "60s"]);
    let address = lab.text("/proxy/address").to_owned();
    let port = address.rsplit(':').next().unwrap();
    let curl = Command::new("curl")
        .args(["--silent", "--cacert", lab.text("/authority"), "--output", "/dev/null"])
        .arg(format!("https://localhost:{port}/metadata"))
        .status();
    if curl.is_err() {
        waiting.kill().unwrap();
        waiting.wait().unwrap();
        testkit::report_missing("curl");
        return;
    }
    let found = waiting.wait_with_output().unwrap();
    assert_eq!(found.status.code(), Some(0));
    let line: Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(line["refusal"], "certificate_missing");
}
