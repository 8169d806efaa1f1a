//! `call`: requests from the command line against a lab, and interactions by name in every command.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use testkit::program;

use crate::lab::Lab;

/// Practice whose system answers.
const PRACTICE: &str = "A20047";

/// Running lab, with its description in a file.
pub(crate) struct CallLab {
    pub(crate) lab: Lab,
    folder: tempfile::TempDir,
}

impl CallLab {
    pub(crate) fn start() -> Self {
        Self::with("")
    }

    /// Starts a lab with this configuration.
    pub(crate) fn with(configuration: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(at("lab.toml"), configuration).unwrap();
        let lab = Lab::start(&["--folder", &at("lab"), "--config", &at("lab.toml")]);
        std::fs::write(folder.path().join("lab.json"), lab.described.to_string()).unwrap();
        Self { lab, folder }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("lab.json")
    }

    pub(crate) fn call(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program());
        command.arg("call").args(arguments).arg("--lab").arg(self.file()).output().unwrap()
    }

    /// Calls, expects success, and returns the body.
    pub(crate) fn answered(&self, arguments: &[&str]) -> Value {
        let output = self.call(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn patient(&self) -> String {
        let patients = self.lab.described["patients"].as_array().unwrap();
        let registered = patients.iter().find(|one| one["registration"] == "registered").unwrap();
        registered["nhs_number"].as_str().unwrap().to_owned()
    }

    /// Text of the simulator's control interface.
    pub(crate) async fn simulator(&self, path: &str) -> Value {
        let url = self.lab.text("/simulator/url").strip_prefix("http://").unwrap();
        let (address, prefix) = url.split_once('/').unwrap();
        let answer =
            testkit::process::get(address.parse().unwrap(), &format!("/{prefix}/{path}")).await;
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The value of a row such as `token     no_agreement`.
fn row<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(name));
    line.unwrap_or_else(|| panic!("{name}: {text}")).trim()
}

fn run(arguments: &[&str]) -> Output {
    Command::new(program()).args(arguments).output().unwrap()
}

#[test]
fn a_smoke_test_passes_only_with_the_expected_status() {
    let lab = CallLab::start();
    let passed = lab.call(&["metadata", "a20047", "--expect", "200"]);
    assert_eq!(passed.status.code(), Some(0), "{}", stderr(&passed));
    assert!(passed.stdout.is_empty());
    assert!(stderr(&passed).contains("GET /metadata at A20047: 200 OK from the practice"));
    let other = lab.call(&["metadata", PRACTICE, "--expect", "404"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(stderr(&other).contains("answered 200 OK, not 404"), "{}", stderr(&other));
    let refused = lab.call(&["metadata", "F85001", "--expect", "200"]);
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(row(&stderr(&refused), "token"), "provider_not_reached");
    let expected = lab.call(&["metadata", "F85001", "--expect", "502", "--body"]);
    assert_eq!(expected.status.code(), Some(0));
    let body: Value = serde_json::from_slice(&expected.stdout).unwrap();
    assert_eq!(body["resourceType"], "OperationOutcome");
    // Port 1 of the loopback address refuses connections.
    let nobody = lab.call(&["metadata", PRACTICE, "--proxy", "https://127.0.0.1:1"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(stderr(&nobody).contains("no answer from 127.0.0.1:1: "), "{}", stderr(&nobody));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_appointment_is_booked_amended_and_cancelled() {
    let lab = CallLab::start();
    let number = lab.patient();
    let slots = lab.answered(&["slots", PRACTICE]);
    let slots = slots["entry"].as_array().unwrap().iter().map(|entry| &entry["resource"]);
    let slots = slots.filter(|resource| resource["resourceType"] == "Slot");
    let starts: Vec<_> = slots.map(|slot| slot["start"].as_str().unwrap().to_owned()).collect();
    assert!(starts.len() > 3);
    let output = lab.call(&["book", PRACTICE, "--patient", &number, "--earliest", "--verbose"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(!stderr(&output).contains(&number), "{}", stderr(&output));
    let booked: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(booked["status"], "booked");
    assert_eq!(booked["start"].as_str(), starts.iter().min().map(String::as_str));
    let id = booked["id"].as_str().unwrap();
    assert_eq!(lab.answered(&["read:appointment", PRACTICE, id])["id"], booked["id"]);
    let amended = lab.answered(&["amend", PRACTICE, id, "--description", "Uses a wheelchair"]);
    assert_eq!(amended["description"], "Uses a wheelchair");
    let listed = lab.answered(&["appointments", PRACTICE, "--patient", &number]);
    assert_eq!(listed["entry"][0]["resource"]["id"], booked["id"]);
    let cancelled = lab.answered(&["cancel", PRACTICE, id, "--reason", "The patient feels better"]);
    assert_eq!(cancelled["status"], "cancelled");
    assert!(cancelled.to_string().contains("The patient feels better"));
    let again = lab.call(&["cancel", PRACTICE, id]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("cancelled already"), "{}", stderr(&again));
    let arrived = lab.simulator("requests?last=2").await;
    // The last one is the read of the second attempt.
    let headers = arrived[0]["headers"].as_array().unwrap();
    let version = headers.iter().find(|header| header[0] == "if-match").unwrap();
    assert_eq!(version[1], "W/\"2\"", "it is cancelled from the version that was read");
}

#[test]
fn a_refused_call_is_explained_and_its_exchange_is_in_the_journal() {
    let lab = CallLab::start();
    let refused = lab.call(&["slots", PRACTICE, "--consumer", "clinic"]);
    assert_eq!(refused.status.code(), Some(1));
    let text = stderr(&refused);
    assert!(
        text.contains("the proxy spine-proxy-lab refused the request: 403 Forbidden"),
        "{text}"
    );
    assert_eq!(row(&text, "token"), "no_agreement");
    assert!(row(&text, "reason").contains("no agreement between"), "{text}");
    // A call that needs others ends with the first one that is refused.
    let number = lab.patient();
    let book = ["book", PRACTICE, "--patient", &number, "--earliest", "--consumer", "clinic"];
    let refused = stderr(&lab.call(&book));
    assert_eq!(row(&refused, "token"), "sender_not_registered");
    assert!(!refused.contains("POST"), "{refused}");
    let expired = |ending: &str| lab.lab.text("/authority").replace("ca.pem", ending);
    let (chain, key) = (expired("expired.pem"), expired("expired.key"));
    let expired = lab.call(&["metadata", PRACTICE, "--certificate", &chain, "--key", &key]);
    assert_eq!(row(&stderr(&expired), "token"), "certificate_expired");
    let anonymous = lab.call(&["metadata", PRACTICE, "--header", "Authorization:"]);
    assert_eq!(row(&stderr(&anonymous), "token"), "token_missing");
    let journal = lab.lab.text("/proxy/journal").to_owned();
    let CallLab { lab, folder: _folder } = lab;
    assert_eq!(lab.stop(), Some(0), "the journal is complete");
    let rows = |interaction: &str| {
        let exchange = ["--id", row(&text, "exchange"), "--interaction", interaction];
        let found = run(&[&["audit", "query", &journal][..], &exchange].concat());
        String::from_utf8(found.stdout).unwrap()
    };
    let found = rows("slots");
    assert!(found.contains("no_agreement") && found.contains(row(&text, "trace id")), "{found}");
    assert_eq!(rows("book").lines().count(), 1, "the heading alone");
}

#[test]
fn what_the_provider_answers_is_explained_as_the_providers() {
    let lab = CallLab::start();
    let missing = lab.call(&["read:appointment", PRACTICE, "4321"]);
    assert_eq!(missing.status.code(), Some(1));
    let text = stderr(&missing);
    assert!(text.contains("the practice's system answered 404 Not Found"), "{text}");
    assert!(!row(&text, "code").is_empty() && !row(&text, "reason").is_empty(), "{text}");
    let body: Value = serde_json::from_slice(&missing.stdout).unwrap();
    assert_eq!(body["resourceType"], "OperationOutcome");
    let unknown = lab.call(&["book", PRACTICE, "--patient", "9990000999", "--earliest"]);
    assert_eq!(unknown.status.code(), Some(1));
    let said = stderr(&unknown);
    assert!(said.contains("no patient with this NHS number is known at A20047"), "{said}");
    assert!(said.contains("call register A20047 --data @FILE"), "{said}");
    assert!(!stderr(&unknown).contains("9990000999"));
}

#[test]
fn a_curl_command_is_answered_like_the_call() {
    if Command::new("curl").arg("--version").output().is_err() {
        testkit::report_missing("curl");
        return;
    }
    let lab = CallLab::start();
    let number = lab.patient();
    let by_curl = |arguments: &[&str]| -> Value {
        let printed = lab.call(&[arguments, &["--curl"]].concat());
        assert_eq!(printed.status.code(), Some(0), "{}", stderr(&printed));
        let command = String::from_utf8(printed.stdout).unwrap();
        let sent = Command::new("/bin/sh").args(["-c", &command]).output().unwrap();
        assert!(sent.status.success(), "{command}: {}", stderr(&sent));
        serde_json::from_slice(&sent.stdout).unwrap()
    };
    assert_eq!(by_curl(&["metadata", PRACTICE])["resourceType"], "CapabilityStatement");
    assert_eq!(by_curl(&["slots", PRACTICE]), lab.answered(&["slots", PRACTICE]));
    let description = "The patient's \"own\" words; $HOME";
    let booked = by_curl(&[
        "book",
        PRACTICE,
        "--patient",
        &number,
        "--earliest",
        "--description",
        description,
    ]);
    assert_eq!(
        (&booked["status"], &booked["description"]),
        (&json!("booked"), &json!(description))
    );
    let cancelled = by_curl(&["cancel", PRACTICE, booked["id"].as_str().unwrap()]);
    assert_eq!(cancelled["status"], "cancelled");
}

#[test]
fn both_sides_are_shown_on_request() {
    let lab = CallLab::start();
    let shown = lab.call(&["metadata", PRACTICE, "-v", "--header", "X-Simulate: nothing"]);
    let text = stderr(&shown);
    for line in [
        "> GET /A20047/STU3/1/gpconnect/metadata HTTP/1.1",
        "> ssp-from: 200000000359",
        "> x-simulate: nothing",
        "* token: {\"aud\":\"https://localhost/A20047/STU3/1/gpconnect\"",
        "< HTTP/1.1 ",
        "< content-type: application/fhir+json;charset=utf-8",
    ] {
        assert!(text.lines().any(|shown| shown.starts_with(line)), "{line}: {text}");
    }
    assert!(!text.contains("eyJ"), "{text}");
}

#[test]
fn options_come_from_a_file_and_the_command_line_replaces_them() {
    let lab = CallLab::start();
    let text = |pointer: &str| lab.lab.text(pointer);
    let folder = Path::new(text("/authority")).parent().unwrap();
    let page = include_str!("../docs/integrate/call.md");
    let example = page.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let settings = format!(
        "{}root = \"{}\"\nto = \"{}\"\n",
        example.replace("https://ssp.example.nhs.uk", text("/proxy/url")),
        text("/practices/0/root"),
        text("/practices/0/asid"),
    );
    let call = |settings: &str, arguments: &[&str]| {
        let path = folder.join("call.toml");
        std::fs::write(&path, settings).unwrap();
        let call = [&["call", "metadata", PRACTICE, "-v"], arguments].concat();
        let output = Command::new(program()).args(call).arg("--config").arg(path).output().unwrap();
        (output.status.code(), stderr(&output))
    };
    let (code, said) = call(&settings, &[]);
    let line = format!("> GET /{}/metadata HTTP/1.1", text("/practices/0/root"));
    assert!(code == Some(0) && said.contains(&line), "{said}");
    let (code, said) = call(&settings, &["--asid", "200000000360"]);
    assert_eq!((code, row(&said, "token")), (Some(1), "sender_not_certificates"));
    let (code, said) = call(&settings.replace("asid =", "asd ="), &[]);
    assert!(code == Some(78) && said.contains("unknown field `asd`"), "{said}");
    let without = |name: &str| -> String {
        let lines = settings.lines().filter(|line| !line.starts_with(&format!("{name} =")));
        lines.map(|line| format!("{line}\n")).collect()
    };
    for name in ["proxy", "authorities", "asid", "consumer-ods", "key", "certificate"] {
        let (code, said) = call(&without(name), &[]);
        let expected = format!("--{name} is needed");
        assert!(code == Some(2) && said.contains(&expected), "{name}: {said}");
    }
    let (code, said) = call(&without("to"), &[]);
    assert!(code == Some(2) && said.contains("--root needs --to"), "{said}");
    let (code, said) = call(&settings, &["--header", "Bearer-eyJ"]);
    assert!(code == Some(2) && !said.contains("eyJ"), "{said}");
}

#[test]
fn every_command_takes_an_interaction_by_the_same_names() {
    let ods = ["--audience", "x", "--ods", "A00001", "--interaction"];
    for command in [
        &["call"][..],
        &[&["token"][..], &ods].concat(),
        &["lookup", "--config", "/nowhere", PRACTICE],
        &["audit", "query", "/nowhere", "--interaction"],
        &["audit", "export", "/nowhere", "--format", "ssp", "--interaction"],
    ] {
        for (name, said) in [
            ("appointment", "may be any of fhir:rest:read:appointment-1, fhir:rest:create:"),
            ("serach:slot", "the nearest is fhir:rest:search:slot-1"),
            ("urn:x", "is no interaction; write an id without urn:nhs:names:services:gpconnect:"),
        ] {
            let refused = run(&[command, &[name]].concat());
            assert_eq!(refused.status.code(), Some(2), "{command:?} {name}");
            assert!(stderr(&refused).contains(said), "{command:?} {name}: {}", stderr(&refused));
        }
        for name in ["book", "create:appointment", "fhir:rest:create:appointment-1"] {
            let taken = stderr(&run(&[command, &[name]].concat()));
            assert!(!taken.contains("interaction"), "{command:?} {name}: {taken}");
        }
    }
    let token = run(&[&["token"][..], &ods, &["book"]].concat());
    let token = String::from_utf8(token.stdout).unwrap();
    let claims = token.split('.').nth(1).unwrap();
    let claims = base64_simd::URL_SAFE_NO_PAD.decode_to_vec(claims).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims["requested_scope"], "patient/*.write");
}

/// A device without space, and a reader that has ended before anything is written.
#[test]
fn output_that_cannot_be_written_ends_a_command_with_an_error_unless_its_reader_has_closed_it() {
    let lab = CallLab::start();
    let (file, text) = (lab.file(), |pointer: &str| lab.lab.text(pointer).to_owned());
    let file = file.to_str().unwrap();
    lab.answered(&["slots", PRACTICE]);
    let (configuration, journal) = (text("/proxy/configuration"), text("/proxy/journal"));
    let token = ["token", "--audience", &text("/practices/0/root"), "--ods", "A00001"];
    for command in [
        &["call", "slots", PRACTICE, "--lab", file][..],
        &["call", "slots", PRACTICE, "--lab", file, "--curl"],
        &token,
        &["check", "--schema", "lab"],
        &["completions", "bash"],
        &["lookup", "--config", &configuration, "A20047", "slots"],
        &["conform", "--lab", file],
        &["audit", "query", &journal],
        &["audit", "query", &journal, "--json"],
        &["audit", "export", &journal, "--format", "ssp"],
    ] {
        let run = |output: Stdio| {
            let mut started = Command::new(program());
            let started = started.args(command).stdout(output).stderr(Stdio::piped());
            started.spawn().unwrap().wait_with_output().unwrap()
        };
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let ended = run(full.into());
        let said = stderr(&ended);
        assert_eq!(ended.status.code(), Some(1), "{command:?}: {said}");
        assert!(said.contains("cannot write to standard output: No space"), "{command:?}: {said}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended = run(writer.into());
        assert_eq!(ended.status.code(), Some(0), "{command:?}: {}", stderr(&ended));
    }
    // A command that fails anyway says both.
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut verify = Command::new(program());
    let verify = verify.args(["audit", "verify", &journal]).stdout(full).output().unwrap();
    assert_eq!(verify.status.code(), Some(3), "{}", stderr(&verify));
    for said in ["cannot write to standard output: No space", "not everything is proven"] {
        assert!(stderr(&verify).contains(said), "{}", stderr(&verify));
    }
}

/// Answers every connection with these bytes, until the test ends.
pub(crate) fn answering(bytes: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read > 0)
            {
                head.push(byte[0]);
            }
            drop(stream.write_all(&bytes));
        }
    });
    address
}

fn answer(head: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 400 Bad Request\r\n{head}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}")
        .into_bytes()
}

/// A proxy that answers with sequences of a terminal, NHS numbers, and more than is read.
#[test]
fn nothing_that_an_answer_says_reaches_the_terminal_as_it_is() {
    let lab = CallLab::start();
    const ODD: &str = "\u{1b}]0;owned\u{7}\u{1b}[31m 9990000018 \u{202e}\u{9b}999 000 0026";
    let text = format!("{ODD}{}", "x".repeat(5000));
    let outcome = json!({
        "resourceType": "OperationOutcome",
        "id": text,
        "issue": [{"diagnostics": text, "details": {"coding": [{"code": text, "display": text}]}}],
    });
    let status = "Proxy-Status: 9990000018; error=http_request_denied; details=\"9990000026\"\r\n";
    let name = "X-Odd: \u{9b}\u{202e}9990000018\r\n";
    for head in ["", status, name] {
        let address = answering(answer(head, &outcome.to_string()));
        let proxy = format!("http://{address}");
        let call =
            lab.call(&["slots", PRACTICE, "--proxy", &proxy, "--verbose", "--expect", "200"]);
        let conform = Command::new(program())
            .args(["conform", "--junit", "-", "--against", &proxy, "--lab"])
            .arg(lab.file())
            .output()
            .unwrap();
        for output in [call, conform] {
            assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
            let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert!(said.contains("[masked]"), "{said}");
            assert!(!said.contains("9990000018") && !said.contains("000 0026"), "{said}");
            let odd = said.chars().find(|one| spine_types::is_unprintable(*one) && *one != '\n');
            assert_eq!(odd, None, "{said}");
            assert!(said.len() < 40_000, "{}", said.len());
        }
    }
}

#[test]
fn an_answer_larger_than_what_is_read_is_not_taken_apart() {
    let lab = CallLab::start();
    let reason = |padding: usize| {
        let padding = "0,".repeat(padding);
        let body = format!("{{\"issue\":[{{\"diagnostics\":\"too late\"}}],\"x\":[{padding}0]}}");
        let address = answering(answer("", &body));
        let call = lab.call(&["slots", PRACTICE, "--proxy", &format!("http://{address}")]);
        assert_eq!(call.status.code(), Some(1), "{}", stderr(&call));
        assert_eq!(call.stdout.len(), body.len() + 1);
        stderr(&call)
    };
    assert!(reason(1000).contains("too late"));
    assert!(!reason(8 << 20).contains("too late"));
}

#[test]
fn a_request_that_was_not_sent_has_not_been_carried_out() {
    let lab = CallLab::start();
    let unsent = ["--data", "{}", "--proxy", "http://127.0.0.1:1"];
    let refused = lab.call(&[&["book", PRACTICE][..], &unsent].concat());
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("Connection refused"), "{}", stderr(&refused));
    assert!(!stderr(&refused).contains("carried out"), "{}", stderr(&refused));
    let closing = format!("http://{}", answering(Vec::new()));
    let lost = lab.call(&["book", PRACTICE, "--data", "{}", "--proxy", &closing]);
    assert_eq!(lost.status.code(), Some(1));
    assert!(stderr(&lost).contains("it may have been carried out"), "{}", stderr(&lost));
    let long = "x".repeat(65);
    for id in ["a b", "../../x", "..", "", "1?x", &long] {
        let wrong = lab.call(&["read:patient", PRACTICE, id]);
        assert_eq!(wrong.status.code(), Some(2), "{id:?}: {}", stderr(&wrong));
        assert!(stderr(&wrong).contains("an ID has 1 to 64 letters"), "{}", stderr(&wrong));
    }
    let wrong = lab.call(&["slots", PRACTICE, "--query", "status=a b"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", stderr(&wrong));
    assert!(stderr(&wrong).contains("--query has characters"), "{}", stderr(&wrong));
}

/// The lab's practices are in the stand-in for the SDS FHIR API, which cannot be searched for an ASID.
#[test]
fn a_labs_configuration_serves_the_commands_that_read_it() {
    let lab = CallLab::start();
    let (url, configuration) = (lab.lab.text("/proxy/url"), lab.lab.text("/proxy/configuration"));
    let audience = format!("{url}/{PRACTICE}/STU3/1/gpconnect");
    let token = run(&["token", "--audience", &audience, "--ods", "a00001"]);
    let header = format!("Authorization: Bearer {}", String::from_utf8(token.stdout).unwrap());
    lab.answered(&["slots", PRACTICE, "--header", header.trim()]);
    let reload = run(&["reload", "--config", configuration]);
    assert_eq!(reload.status.code(), Some(0), "{}", stderr(&reload));

    let explained = |outcome: &str| {
        let journal = lab.lab.text("/proxy/journal");
        let found =
            run(&["audit", "query", journal, "--json", "--outcome", outcome, "--wait", "60s"]);
        let line = String::from_utf8(found.stdout).unwrap();
        let line: Value = serde_json::from_str(line.lines().last().unwrap()).unwrap();
        let id = line["id"].as_str().unwrap();
        let ran = run(&["explain", "--config", configuration, id, "--ask-directory"]);
        (String::from_utf8(ran.stdout).unwrap(), ran.status.code())
    };
    let (text, code) = explained("answered");
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("answered with status 200") && text.contains("✔ agreement"), "{text}");
    assert_eq!(
        lab.call(&["slots", PRACTICE, "--header", "Ssp-To: 918999199999"]).status.code(),
        Some(1)
    );
    let (text, code) = explained("refused");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("was refused with receiver_not_practices; "), "{text}");
}
