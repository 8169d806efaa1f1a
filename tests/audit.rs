//! The journal: line numbers across restarts, segments, and the hash chain.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use audit_journal::VerifyWith;
use serde_json::Value;
use tokio::sync::Notify;

use testkit::provider::answer;
use testkit::test_bed::segments;
use testkit::{ProviderAction, TestBed, TestRequest};

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_numbered_without_gaps_over_a_restart() {
    let bed = TestBed::new().await;
    bed.send(TestRequest::book()).await;
    bed.send(TestRequest::slots().without("Ssp-From")).await;
    let bed = bed.restart().await;
    bed.provider.set_action(ProviderAction::ok());
    bed.send(TestRequest::book()).await;
    bed.server.trail.flush().await.unwrap();
    let lines: Vec<Value> =
        bed.journal("audit").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let events: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    let expected =
        ["started", "opened", "closed", "closed", "stopped", "started", "opened", "closed"];
    assert_eq!(events, expected);
    for (at, line) in lines.iter().enumerate() {
        assert_eq!(line["seq"], at + 1);
    }
}

/// A write has two lines, the first of which can be read while the exchange is in progress. It says who called,
/// and the second does not repeat that.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_has_an_opened_and_a_closed_line() {
    let bed = TestBed::new().await;
    let told = Arc::new(Notify::new());
    bed.provider.set_action(ProviderAction::WriteWhenNotified(
        Arc::clone(&told),
        answer("200 OK", "", "{}"),
    ));
    let looked = async {
        bed.provider.wait_for_requests(1).await;
        let text = bed.journal("audit");
        told.notify_one();
        serde_json::from_str::<Value>(text.lines().nth(1).unwrap()).unwrap()
    };
    let (answer, opened) = tokio::join!(bed.send(TestRequest::book()), looked);
    assert_eq!(answer.status, 200);
    let closed = bed.wait_for_closed_line(1).await;
    assert_eq!(bed.exchange_lines().await, [opened.clone(), closed.clone()]);
    assert_eq!((&opened["event"], &opened["id"]), (&"opened".into(), &closed["id"]));
    assert_eq!(opened["claims"]["organisation"], "A00001");
    assert!(opened["outcome"].is_null());
    for name in ["claims", "client", "certificate", "certificate_sha256", "directory"] {
        assert!(closed[name].is_null() && !opened[name].is_null(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_has_one_line_and_two_if_every_request_waits_for_the_disk() {
    for (durability, events) in [
        ("writes", &["closed"][..]),
        ("batched", &["closed"]),
        ("every-request", &["opened", "closed"]),
    ] {
        let set = format!("durability = \"{durability}\"");
        let bed = TestBed::with(|files| files.set("audit", &set)).await;
        assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
        bed.wait_for_closed_line(1).await;
        let lines = bed.exchange_lines().await;
        let found: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
        assert_eq!(found, events, "{durability}");
        assert_eq!(lines[0]["claims"]["organisation"], "A00001", "{durability}");
    }
}

/// Runs the command `audit`. Returns whether it succeeded, and its output.
fn audit(arguments: &[&str]) -> (bool, String) {
    let (code, text) = audit_code(arguments);
    (code == 0, text)
}

/// Runs the command `audit`. Returns its exit code and output.
fn audit_code(arguments: &[&str]) -> (i32, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_spine-proxy")).arg("audit").args(arguments).output();
    let output = output.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

/// Returns a finished journal of `exchanges` exchanges, in segments of a few lines.
async fn journal_of(exchanges: usize) -> (TestBed, PathBuf) {
    let bed = TestBed::with(|files| files.set("audit", "segment-size = \"4 KiB\"")).await;
    for number in 0..exchanges {
        let trace_id = format!("{number:08x}-0000-4000-8000-00000000000A");
        let call = match number % 3 {
            0 => TestRequest::slots(),
            1 => TestRequest::book(),
            _ => TestRequest::slots().claim("aud", serde_json::json!("https://elsewhere")),
        };
        bed.send(call.set("Ssp-TraceID", &trace_id)).await;
    }
    let bed = bed.restart().await;
    let own = bed.path("audit");
    // All segments but the one that is being written get an index, in the background.
    let indexes = || {
        let files = std::fs::read_dir(&own).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|name| name == "index")).count()
    };
    while indexes() + 1 < segments(&own).len() {
        tokio::task::yield_now().await;
    }
    let folder = bed.path("copy");
    copy(&bed.path("audit"), &folder);
    (bed, folder)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

fn lines_of(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

fn put_lines(path: &Path, lines: &[String]) {
    std::fs::write(path, lines.join("\n") + "\n").unwrap();
}

fn seq(line: &str) -> u64 {
    serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_verifies_across_segments_and_its_head_can_be_printed() {
    let (bed, folder) = journal_of(12).await;
    assert!(segments(&folder).len() > 3);
    let metadata = std::fs::metadata(bed.path("audit")).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o700);
    for entry in std::fs::read_dir(bed.path("audit")).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    let folder = folder.to_str().unwrap();
    let (code, text) = audit_code(&["verify", folder]);
    assert!(code == 3 && text.contains("NOT PROVEN: no public key was given"), "{text}");
    let head = text.lines().find_map(|line| line.strip_prefix("last line: ")).unwrap();
    let (seq, hex) = head.split_once(':').unwrap();
    for (head, expected) in [
        (head.to_owned(), 3),
        (format!("{seq}:{}", "0".repeat(64)), 1),
        (format!("{}:{hex}", seq.parse::<u64>().unwrap() + 1), 1),
    ] {
        let (code, text) = audit_code(&["verify", folder, "--head", &head]);
        assert_eq!(code, expected, "{head}: {text}");
    }
}

/// A sound journal, and a copy that a test damages.
struct DamagedJournal {
    bed: TestBed,
    sound: PathBuf,
    folder: PathBuf,
    /// Lines of the second segment.
    lines: Vec<String>,
}

impl DamagedJournal {
    async fn new() -> Self {
        let (bed, sound) = journal_of(12).await;
        let folder = sound.with_file_name("harmed");
        let lines = lines_of(&segments(&sound)[1]);
        assert!(lines.len() >= 5);
        Self { bed, sound, folder, lines }
    }

    /// Returns the file name of a segment.
    fn name(&self, number: usize) -> String {
        segments(&self.sound)[number].file_name().unwrap().to_str().unwrap().to_owned()
    }

    /// Returns the faults that are found after `harm` has changed the second segment of a copy.
    fn found(&self, harm: impl FnOnce(&Path)) -> Vec<String> {
        if self.folder.exists() {
            std::fs::remove_dir_all(&self.folder).unwrap();
        }
        copy(&self.sound, &self.folder);
        harm(&segments(&self.folder)[1]);
        let found = audit_journal::verify(&self.folder, &VerifyWith::default()).unwrap();
        found.faults.iter().map(ToString::to_string).collect()
    }

    /// Returns the faults that are found after `harm` has changed the lines of the second segment of a copy.
    fn found_in(&self, harm: impl FnOnce(&mut Vec<String>)) -> Vec<String> {
        let mut lines = self.lines.clone();
        harm(&mut lines);
        self.found(|path| put_lines(path, &lines))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_changed_byte_is_found_at_every_position() {
    let journal = DamagedJournal::new().await;
    let line = &journal.lines[2];
    for at in 0..line.len() {
        // The changed text may still be a valid line.
        let byte = line.as_bytes()[at];
        let digit = if byte.is_ascii_digit() { (byte - b'0' + 1) % 10 + b'0' } else { byte ^ 1 };
        for other in [digit, byte ^ 0x20, b'+'].map(char::from) {
            if other == '\u{0}' || other == char::from(byte) || !other.is_ascii_graphic() {
                continue;
            }
            let other = other.to_string();
            let found = journal.found_in(|lines| lines[2].replace_range(at..=at, &other));
            let place = format!("{}, line 3: ", journal.name(1));
            assert!(
                found.first().is_some_and(|first| first.starts_with(&place)),
                "{at}: {found:?}"
            );
        }
    }
    let found = journal.found_in(|lines| {
        let number = format!("\"seq\":{}", seq(&lines[2]));
        lines[2] = lines[2].replace(&number, &format!("\"seq\":{}", u64::MAX));
    });
    assert!(found[0].starts_with(&format!("{}, line 3: ", journal.name(1))), "{found:?}");
    let found =
        journal.found_in(|lines| lines[2] = lines[2].replace("\"method\":\"", "\"method\":\"X"));
    let (name, seq) = (journal.name(1), seq(line));
    assert_eq!(found, [format!("{name}, line 3: seq {seq} is not as it was written")]);
}

/// A line inserted after the last one is rejected, regardless of its text and of later lines, and no search
/// shows it.
#[tokio::test(flavor = "multi_thread")]
async fn an_inserted_line_is_found_even_at_the_end() {
    use std::io::Write as _;
    let journal = DamagedJournal::new().await;
    let forged = concat!(
        r#"{"seq":99,"time":"2026-11-25T05:00:28.255169Z","event":"closed","id":"f","#,
        r#""trace_id":"ffffffff-ffff-4fff-8fff-ffffffffffff","status":201,"outcome":"answered"}"#
    );
    drop(journal.found(|_| ()));
    let last = segments(&journal.folder).pop().unwrap();
    let mut file = std::fs::OpenOptions::new().append(true).open(&last).unwrap();
    file.write_all(format!("{forged}\n").as_bytes()).unwrap();
    let found = audit_journal::verify(&journal.folder, &VerifyWith::default()).unwrap();
    let fault = found.faults[0].to_string();
    assert!(fault.contains("bytes that are not a line of a journal"), "{fault}");
    let path = journal.folder.to_str().unwrap();
    for scan in [&[][..], &["--scan"]] {
        let asked = ["query", path, "--trace-id", "ffffffff-ffff-4fff-8fff-ffffffffffff"];
        let (_, text) = audit(&[&asked[..], scan].concat());
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    // A start treats it as damage, not as an incomplete line.
    let text = journal.bed.text("spine-proxy.toml").replace("\"audit\"", "\"harmed\"");
    let program = Command::new(env!("CARGO_BIN_EXE_spine-proxy"));
    let mut served = testkit::process::serve_with(program, &journal.bed, &text);
    assert_eq!(served.metric("audit_damaged_total").await, 1);
    served.signal("TERM");
    assert!(served.child.wait().unwrap().success());
    let found = audit_journal::verify(&journal.folder, &VerifyWith::default()).unwrap();
    assert!(!found.is_sound() && found.torn.is_empty());
}

/// Changes: one line removed, several removed, two swapped, one repeated, one that is not JSON.
#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_change_to_a_journal_is_found_and_named() {
    let journal = DamagedJournal::new().await;
    let name = journal.name(1);
    let numbers: Vec<u64> = journal.lines.iter().map(|line| seq(line)).collect();
    let found = journal.found_in(|lines| drop(lines.remove(2)));
    assert_eq!(found, [format!("{name}, line 3: seq {} is missing before it", numbers[2])]);
    let found = journal.found_in(|lines| drop(lines.drain(1..3)));
    let (first, last) = (numbers[1], numbers[2]);
    assert_eq!(found, [format!("{name}, line 2: seq {first} to {last} are missing before it")]);
    let found = journal.found_in(|lines| lines.swap(1, 2));
    assert_eq!(found, [format!("{name}, line 3: seq {first} was moved behind seq {last}")]);
    let found = journal.found_in(|lines| lines.insert(3, lines[1].clone()));
    assert_eq!(found, [format!("{name}, line 4: seq {first} occurs here a second time")]);
    let found = journal.found_in(|lines| lines.insert(3, "{\"seq\":3}".to_owned()));
    assert_eq!(found, [format!("{name}, line 4: 10 bytes that are not a line of a journal")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_is_cut_or_missing_is_found_and_named() {
    let journal = DamagedJournal::new().await;
    let third = journal.name(2);
    let (first, last) = (seq(&journal.lines[0]), seq(journal.lines.last().unwrap()));
    let found = journal.found_in(|lines| drop(lines.pop()));
    assert_eq!(found, [format!("{third}, line 1: seq {last} is missing before it")]);
    let found = journal.found(|path| std::fs::remove_file(path).unwrap());
    assert_eq!(found, [format!("{third}, line 1: seq {first} to {last} are missing before it")]);
    let found = journal.found(|path| {
        let text = std::fs::read(path).unwrap();
        std::fs::write(path, &text[..text.len() - 100]).unwrap();
    });
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].contains("of an incomplete line that no start recorded: it was cut"),
        "{found:?}"
    );
    assert!(found[1].contains("is missing before it"), "{found:?}");
    let (sound, text) = audit(&["verify", journal.folder.to_str().unwrap()]);
    assert!(!sound && text.contains(&found[0]), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_an_older_journal_is_found_by_its_old_and_its_new_token() {
    let (_bed, folder) = journal_of(12).await;
    for segment in segments(&folder) {
        let text = std::fs::read_to_string(&segment).unwrap();
        let older = text.replace("\"audience_mismatch\"", "\"provider_spared\"");
        std::fs::write(&segment, older).unwrap();
    }
    for (token, found) in
        [("provider_spared", 4), ("provider_circuit_open", 4), ("audience_mismatch", 0)]
    {
        let (_, text) = audit(&["query", folder.to_str().unwrap(), "--scan", "--refusal", token]);
        assert_eq!(text.lines().count() - 1, found, "{token}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_of_a_folder_that_holds_nothing_to_search_fails_and_says_why() {
    let (bed, folder) = journal_of(6).await;
    let path = folder.to_str().unwrap();
    let exports = [&["export", path, "--format", "ssp"][..], &["export", path, "--format", "balp"]];
    let all_exit = |code: i32, words: &str| {
        for arguments in [&["query", path][..], &["query", path, "--json"]].iter().chain(&exports) {
            let (found, text) = audit_code(arguments);
            assert_eq!(found, code, "{text}");
            assert!(text.contains(path) && text.contains(words), "{words} is not in {text}");
        }
    };
    let all = segments(&folder);
    std::fs::rename(&all[0], all[0].with_extension("jsonl.gz")).unwrap();
    all_exit(0, "compressed segments, which are not searched: 1");
    for segment in &all[1..] {
        std::fs::rename(segment, segment.with_extension("jsonl.zst")).unwrap();
    }
    all_exit(1, "holds only compressed segments");
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::create_dir(&folder).unwrap();
    all_exit(1, "holds no segment of a journal");
    drop(bed);
}

#[test]
fn a_search_for_what_no_record_has_is_an_error_that_names_what_is_near() {
    let asked = |name, value| audit_code(&["query", "/nowhere", name, value]);
    for (name, value, words) in [
        ("--refusal", "audience_mismatched", "the nearest known tokens are audience_mismatch"),
        ("--refusal", "provider_timeout", "provider_timed_out"),
        ("--refusal", "knock_limit", "knock_limited"),
        ("--refusal", "zzzz", "docs/integrate/refusals.md lists all"),
        ("--outcome", "refuse", "refused"),
        ("--asid", "x", "invalid value 'x' for '--asid"),
        ("--from", "1234", "invalid value '1234' for '--from"),
        ("--ods", "no code", "invalid value 'no code' for '--ods"),
        ("--id", "x", "invalid value 'x' for '--id"),
        ("--limit", "0", "invalid value '0' for '--limit"),
        ("--since", "9999-12-31", "\"9999-12-31\" is outside of the calendar"),
        ("--since", "175000000h", "before now is outside of the calendar"),
    ] {
        let (code, text) = asked(name, value);
        assert_eq!(code, 2, "{text}");
        assert!(text.contains(words), "{words} is not in {text}");
    }
    for (name, value) in [("--refusal", "AUDIENCE_MISMATCH"), ("--outcome", "Refused")] {
        assert_eq!(asked(name, value).0, 1, "the journal alone is missing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exchanges_are_found_by_their_fields() {
    let (bed, folder) = journal_of(12).await;
    let path = folder.to_str().unwrap();
    let rows = |arguments: &[&str]| {
        let (found, text) = audit(&[&["query", path], arguments].concat());
        assert!(found, "{text}");
        text.lines().count() - 1
    };
    let lines: Vec<Value> = bed.exchange_lines().await;
    let refused = lines.iter().find(|line| line["outcome"] == "refused").unwrap();
    for scan in [&[][..], &["--scan"]] {
        let rows = |arguments: &[&str]| rows(&[arguments, scan].concat());
        assert_eq!(rows(&[]), 12);
        assert_eq!(rows(&["--trace-id", "00000004-0000-4000-8000-00000000000a"]), 1);
        assert_eq!(rows(&["--trace-id", "00000004-0000-4000-8000-00000000000b"]), 0);
        assert_eq!(rows(&["--id", refused["id"].as_str().unwrap()]), 1);
        assert_eq!(rows(&["--outcome", "refused"]), 4);
        assert_eq!(rows(&["--refusal", "audience_mismatch"]), 4);
        assert_eq!(rows(&["--ods", "a20047"]), 8);
        assert_eq!(rows(&["--asid", "200000000359", "--to", "918999198993"]), 12);
        assert_eq!(rows(&["--from", "918999198993"]), 0);
        assert_eq!(rows(&["--interaction", "create:appointment-1"]), 4);
        assert_eq!(rows(&["--since", "1h"]), 12);
        assert_eq!(rows(&["--until", "1h"]), 0);
        assert_eq!(rows(&["--since", "2020-01-01", "--until", "2020-01-02T00:00:00Z"]), 0);
    }
    let (_, text) = audit(&["query", path, "--limit", "3"]);
    assert!(
        text.contains("the first 3 are shown; there may be more, and --limit shows them"),
        "{text}"
    );
    let (_, text) =
        audit(&["query", path, "--json", "--trace-id", "00000004-0000-4000-8000-00000000000A"]);
    let found: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let events: Vec<_> = found.iter().map(|line| &line["event"]).collect();
    assert_eq!(events, ["opened", "closed"]);
    assert!(found[1]["chain"].is_string(), "a line is printed as it was written");
    let (found, text) = audit(&["query", path, "--since", "yesterday"]);
    assert!(!found && text.contains("is not a time"), "{text}");
    let (found, text) = audit(&["query", "/nowhere"]);
    assert!(!found && text.contains("/nowhere"), "{text}");
    // A table that was cut is ignored.
    let table = segments(&folder)[0].with_extension("index");
    let bytes = std::fs::read(&table).unwrap();
    std::fs::write(&table, &bytes[..bytes.len() - 12]).unwrap();
    assert_eq!(rows(&["--trace-id", "00000000-0000-4000-8000-00000000000a"]), 1);
    // Tables exist for all segments, and give the same result as a scan.
    let tables = std::fs::read_dir(bed.path("audit")).unwrap();
    let tables =
        tables.filter(|entry| entry.as_ref().unwrap().path().extension().unwrap() == "index");
    assert_eq!(tables.count() + 1, segments(&bed.path("audit")).len(), "the last still grows");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_has_the_columns_of_the_national_service() {
    let (_bed, folder) = journal_of(3).await;
    let (_, text) = audit(&["export", folder.to_str().unwrap(), "--format", "ssp"]);
    let rows: Vec<_> = text.lines().collect();
    assert_eq!(
        rows[0],
        "\"_time\",sspFrom,sspTo,SspTraceId,interaction,responseCode,duration,responseSize,responseErrorMessage,method"
    );
    assert_eq!(rows.len(), 4);
    let cells = |row: &str| row.split(',').map(str::to_owned).collect::<Vec<_>>();
    let search = cells(rows[1]);
    // "2020-01-01T21:00:13.001+0000"
    assert!(search[0].len() == 30 && search[0].ends_with("+0000\""), "{}", search[0]);
    assert_eq!(
        search[1..4],
        ["200000000359", "918999198993", "\"00000000-0000-4000-8000-00000000000A\""]
    );
    assert_eq!(search[4], "\"urn:nhs:names:services:gpconnect:fhir:rest:search:slot-1\"");
    assert_eq!(search[5], "200");
    assert!(search[6].starts_with("\"0.") && search[6].len() == 7, "{}", search[6]);
    assert_eq!(search[7..], ["11", "None", "GET"]);
    assert_eq!(cells(rows[3])[5], "400");
    assert_eq!(cells(rows[3])[8], "audience_mismatch");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_has_the_shape_of_opentelemetry_logs() {
    let (_bed, folder) = journal_of(120).await;
    let (_, text) = audit(&["export", folder.to_str().unwrap(), "--format", "otel"]);
    let batches: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let records = |batch: &Value| {
        let records = &batch["resourceLogs"][0]["scopeLogs"][0]["logRecords"];
        records.as_array().unwrap().clone()
    };
    let (last, whole) = batches.split_last().unwrap();
    assert!(!whole.is_empty() && whole.iter().all(|batch| records(batch).len() == 100));
    assert!((1..=100).contains(&records(last).len()));
    let records: Vec<Value> = batches.iter().flat_map(records).collect();
    let ended = records.iter().filter(|record| record["eventName"] == "spine_proxy.audit.closed");
    assert_eq!(ended.count(), 120);
    let closed = records.iter().find(|record| record["eventName"] == "spine_proxy.audit.closed");
    let closed = closed.unwrap();
    assert_eq!(closed["traceId"], "0000000000004000800000000000000a");
    assert!(closed["timeUnixNano"].as_str().unwrap().parse::<u64>().unwrap() > 0);
    let attributes = closed["attributes"].as_array().unwrap();
    let of = |key: &str| {
        attributes.iter().find(|attribute| attribute["key"] == key).unwrap()["value"].clone()
    };
    assert_eq!(of("http.response.status_code"), serde_json::json!({"intValue": "200"}));
    assert_eq!(of("http.request.method"), serde_json::json!({"stringValue": "GET"}));
    assert_eq!(of("spine_proxy.sent_whole"), serde_json::json!({"boolValue": true}));
    let refused = records.iter().find(|record| record["severityText"] == "WARN").unwrap();
    assert_eq!(refused["severityNumber"], 13);
}

/// The record has every field of the specification of the national service, and those that show whose fault
/// a failure was.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_has_consumer_provider_request_and_outcome() {
    let bed = TestBed::new().await;
    bed.send(TestRequest::book()).await;
    let closed = bed.wait_for_closed_line(1).await;
    let lines = bed.exchange_lines().await;
    let issued_at = lines[0]["claims"]["issued_at"].as_i64().unwrap();
    let claims = serde_json::json!({
        "issued_at": issued_at, "expires_at": issued_at + 300, "organisation": "A00001", "issuer": "https://consumer.example.nhs.uk/", "subject": "1",
        "reason": "directcare", "scope": "patient/*.write", "user_id": "111222333444",
        "role_profile_id": "444555666777", "user_name": "Dr Iris Invented", "device": "DESK-1",
        "device_model": "Invented consumer", "device_version": "1.0",
    });
    assert_eq!(lines[0]["claims"], claims);
    assert_eq!(lines[0]["directory"], "file");
    let client: std::net::SocketAddr = lines[0]["client"].as_str().unwrap().parse().unwrap();
    assert!(client.ip().is_loopback());
    assert_eq!(lines[0]["certificate_sha256"].as_str().unwrap().len(), 64);
    assert!(lines[0]["certificate_serial"].as_str().unwrap().len() >= 8);
    assert!(lines[0]["certificate_issuer"].as_str().unwrap().contains("CN="));
    let provider: std::net::SocketAddr = closed["provider"].as_str().unwrap().parse().unwrap();
    assert_eq!(provider, bed.provider.address);
    for name in ["policy_us", "directory_us", "audit_us", "provider_us", "duration_us"] {
        assert!(closed[name].is_u64(), "{name}");
    }
    assert!(closed["audit_us"].as_u64().unwrap() > 0, "a write has waited for the disk");
    assert_eq!((&closed["ended_by"], &closed["ended_in"]), (&"gateway".into(), &"body".into()));
    bed.provider.set_action(ProviderAction::CloseAfterHead);
    bed.send(TestRequest::book()).await;
    let closed = bed.wait_for_closed_line(2).await;
    assert_eq!((&closed["ended_by"], &closed["ended_in"]), (&"gateway".into(), &"provider".into()));
    bed.send(TestRequest::slots().set("Ssp-To", "918999198999")).await;
    assert_eq!(bed.wait_for_closed_line(3).await["ended_in"], "directory");
    bed.send(TestRequest::slots().claim("aud", serde_json::json!("https://elsewhere"))).await;
    assert_eq!(bed.wait_for_closed_line(4).await["ended_in"], "policy");
}

/// A client without a certificate cannot fill the disk: refusals beyond a rate share one line with their sum.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_without_a_certificate_have_few_lines_and_are_all_counted() {
    let bed = TestBed::with(|files| files.set("audit", "unverified-per-second = 3")).await;
    for _ in 0..40 {
        assert_eq!(bed.send(TestRequest::slots().certificate("none")).await.status, 496);
    }
    bed.send(TestRequest::slots().without("Ssp-From")).await;
    let counts = loop {
        bed.server.trail.flush().await.unwrap();
        let text = bed.journal("audit");
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let without = |line: &&Value| line["refusal"] == "certificate_missing";
        let own = lines.iter().filter(without).count();
        let sum =
            |line: &Value| line["refusals"]["certificate_missing"].as_u64().unwrap_or_default();
        let summed: u64 = lines.iter().map(sum).sum();
        if own + usize::try_from(summed).unwrap() == 40 {
            break (own, lines.iter().filter(|line| line["refusal"] == "from_missing").count());
        }
        tokio::task::yield_now().await;
    };
    assert!((3..40).contains(&counts.0), "{counts:?}");
    assert_eq!(counts.1, 1, "who has a certificate has a line");
    assert_eq!(bed.metric("refusals_total{token=\"certificate_missing\"}"), 40);
}

/// Returns the lines and sums of one token, and the consumer of the sums, once they add up to `count`.
async fn tally(bed: &TestBed, token: &str, count: u64) -> (u64, u64, Value) {
    loop {
        bed.server.trail.flush().await.unwrap();
        let text = bed.journal("audit");
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let own = lines.iter().filter(|line| line["refusal"] == token).count();
        let sums: Vec<_> = lines.iter().filter(|line| line["refusals"][token].is_u64()).collect();
        let summed: u64 = sums.iter().map(|line| line["refusals"][token].as_u64().unwrap()).sum();
        let own = u64::try_from(own).unwrap();
        if own + summed == count {
            let from = sums.first().map_or(Value::Null, |line| line["from"].clone());
            return (own, summed, from);
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unregistered_certificate_cannot_fill_the_disk() {
    let bed = TestBed::with(|files| {
        files.set("audit", "unverified-per-second = 3");
        files.add("[throttle]\ncertificate-per-second = 5");
    })
    .await;
    let mut asked = std::collections::BTreeMap::<String, u64>::new();
    for _ in 0..40 {
        let answer = bed.send(TestRequest::slots().certificate("stranger")).await;
        *asked.entry(answer.token().unwrap().to_owned()).or_default() += 1;
    }
    let mut lines = 0;
    for (token, count) in &asked {
        let (own, _, from) = tally(&bed, token, *count).await;
        assert_eq!(from, Value::Null);
        lines += own;
    }
    assert!(asked.contains_key("certificate_rate_limited") && lines < 30, "{lines} of {asked:?}");
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
    assert_eq!(bed.exchange_lines().await.last().unwrap()["status"], 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_a_consumer_over_its_quota_are_summed_for_it() {
    let bed = TestBed::with(|files| files.add("[throttle]\nconsumer-per-second = 1")).await;
    let mut refused = 0;
    for _ in 0..40 {
        refused +=
            u64::from(bed.send(TestRequest::slots()).await.token() == Some("quota_exceeded"));
    }
    let (own, summed, from) = tally(&bed, "quota_exceeded", refused).await;
    assert!(own < refused && summed > 0, "{own} of {refused}");
    assert_eq!(from, testkit::test_bed::HUB);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_is_written_by_one_process_alone() {
    let bed = TestBed::new().await;
    let config = bed.path("spine-proxy.toml");
    let output = Command::new(env!("CARGO_BIN_EXE_spine-proxy"))
        .args(["serve", "--config", config.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(78));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("another process writes this journal"), "{text}");
}
