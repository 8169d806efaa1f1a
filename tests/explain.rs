//! `explain` and `token --check`: what the gateway would answer, known without sending anything.
//!
//! The test kit compares every request that [`TestRequest`] sends to a bed's gateway with `explain`
//! (`testkit::agreement`); requests of raw sockets and of foreign clients are not compared.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use spine_proxy::claims;

use crate::documents::holds;
use testkit::agreement::NOT_JUDGED_OFFLINE;
use testkit::test_bed::{HUB_ODS, ROOT, now_s};
use testkit::{TestBed, TestRequest};

const PAGE: &str = include_str!("../docs/integrate/explain.md");
/// Invented NHS numbers with valid check digits.
const NUMBERS: [&str; 3] = ["9990000018", "9990000026", "9990000042"];

/// Runs the program with these arguments and this text on standard input.
fn run(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_spine-proxy"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The program may end without reading its input.
    drop(child.stdin.take().unwrap().write_all(input));
    child.wait_with_output().unwrap()
}

/// Runs `explain` by the configuration of a bed.
fn explain(bed: &TestBed, arguments: &[&str], input: &[u8]) -> (String, Option<i32>) {
    let config = bed.path("spine-proxy.toml");
    let ran = run(&[&["explain", "--config", config.to_str().unwrap()], arguments].concat(), input);
    (
        String::from_utf8(ran.stdout).unwrap() + &String::from_utf8_lossy(&ran.stderr),
        ran.status.code(),
    )
}

fn bytes(call: &TestRequest) -> String {
    String::from_utf8(call.bytes()).unwrap()
}

/// Returns a curl command, as one copies it from a terminal.
fn curl(call: &TestRequest, certificate: &str) -> String {
    let text = bytes(call);
    let headers = text.lines().skip(1).take_while(|line| !line.is_empty());
    let headers: String = headers
        .filter(|line| !line.starts_with("Content-Length"))
        .map(|line| format!(" -H '{line}' \\\n "))
        .collect();
    format!(
        "curl --path-as-is -X {} \\\n {headers} --cert {certificate} --key x.key 'https://ssp.example.nhs.uk{}'",
        call.method, call.target
    )
}

fn har(call: &TestRequest) -> String {
    let text = bytes(call);
    let headers = text.lines().skip(1).take_while(|line| !line.is_empty());
    let headers: Vec<_> = headers
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| json!({"name": name, "value": value}))
        .collect();
    let url = format!("https://ssp.example.nhs.uk{}", call.target);
    let request = json!({"method": call.method, "url": url, "headers": headers});
    json!({"log": {"entries": [{"request": {}}, {"request": request}]}}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_a_request_is_judged_as_the_gateway_does() {
    let bed = TestBed::new().await;
    let hub = bed.path("hub.pem");
    let hub = hub.to_str().unwrap();
    let file = bed.path("request.txt");
    let file = file.to_str().unwrap();
    let wrong = TestRequest::slots().claim("aud", json!("https://authorize.fhir.nhs.net/token"));
    let calls = [
        (TestRequest::slots(), "would be forwarded to A20047 (ASID 918999198993)", 0),
        (wrong, "would be refused with 400 audience_mismatch", 1),
        (TestRequest::slots().without("Ssp-To"), "would be refused with 400 to_missing", 1),
        (TestRequest::slots().with("X Odd", "1"), "would be refused with 400 head_malformed", 1),
    ];
    for (call, verdict, code) in calls {
        let judged = |arguments: &[&str], input: &str| {
            let (text, ended) = explain(&bed, arguments, input.as_bytes());
            assert!(text.contains(verdict), "{arguments:?} {text}");
            assert_eq!(ended, Some(code), "{text}");
            assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        };
        let raw = bytes(&call);
        std::fs::write(file, &raw).unwrap();
        judged(&[file, "--certificate", hub], "");
        judged(&["-"], &raw);
        judged(&["-"], &raw.replace('\r', ""));
        judged(&["-", "--entry", "2"], &har(&call));
        judged(&["-"], &curl(&call, hub));
        judged(&[&curl(&call, hub)], "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_curl_command_presents_the_certificate_that_it_names_and_no_other() {
    let bed = TestBed::new().await;
    let command = curl(&TestRequest::slots(), "hub.pem");
    let (text, code) = explain(&bed, &[&command.replace("--cert hub.pem", "")], b"");
    assert!(text.contains("496 certificate_missing") && code == Some(1), "{text}");
    for (name, verdict) in [
        ("hub.pem", "would be forwarded"),
        ("clinic.pem", "403 certificate_not_senders"),
        ("stranger.pem", "495 certificate_unknown"),
        ("expired.pem", "495 certificate_expired"),
        ("revoked.pem", "495 certificate_revoked"),
    ] {
        let path = bed.path(name);
        let named = curl(&TestRequest::slots(), path.to_str().unwrap());
        let (text, _) = explain(&bed, &[&named], b"");
        assert!(text.contains(verdict), "{name}: {text}");
        let (text, _) = explain(&bed, &[&command, "--certificate", path.to_str().unwrap()], b"");
        assert!(text.contains(verdict), "{name}: {text}");
    }
    let (text, code) = explain(&bed, &[&command], b"");
    assert!(text.contains("hub.pem") && code == Some(2), "no such file here: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_call_prints_as_a_curl_command_would_be_forwarded() {
    let bed = TestBed::new().await;
    let path = |name: &str| bed.path(name).to_str().unwrap().to_owned();
    let (certificate, key, authorities) = (path("hub.pem"), path("hub.key"), path("ca.pem"));
    let call = ["call", "slots", "A20047", "--curl", "--proxy", "https://ssp.example.nhs.uk"];
    let consumer = ["--asid", "200000000359", "--consumer-ods", HUB_ODS];
    let files = ["--certificate", &certificate, "--key", &key, "--authorities", &authorities];
    let printed = run(&[&call[..], &consumer, &files].concat(), b"");
    let (text, code) = explain(&bed, &["-"], &printed.stdout);
    assert_eq!(code, Some(0), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_faults_of_a_request_are_shown_and_the_first_is_the_answer() {
    let bed = TestBed::new().await;
    let call = TestRequest::slots()
        .method("DELETE")
        .set("Ssp-TraceID", "x")
        .claim("requested_scope", json!("x"))
        .claim("iss", Value::Null);
    let (text, code) = explain(&bed, &["-", "--json"], bytes(&call).as_bytes());
    assert_eq!(code, Some(1));
    let report: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(report["refused"], json!({"status": 405, "token": "method_not_allowed"}));
    let steps = report["steps"].as_array().unwrap();
    let refused: Vec<_> = steps.iter().filter(|step| step["result"] == "refused").collect();
    let tokens: Vec<_> = refused.iter().map(|step| step["token"].as_str().unwrap()).collect();
    let due = [
        "method_not_allowed",
        "trace_id_invalid",
        "interaction_method",
        "claim_missing",
        "scope_mismatch",
    ];
    assert_eq!(tokens, due);
    assert!(refused.iter().all(|step| step["fix"].as_str().is_some_and(|fix| fix.len() > 5)));
    assert_eq!(refused.iter().filter(|step| step["first"] == true).count(), 1);
    for name in ["quota and load", "journal", "provider's answer"] {
        let step = steps.iter().find(|step| step["name"] == name).unwrap();
        assert_eq!(step["result"], "not_judged");
    }
}

/// The id of a refusal is in its answer; the journal has neither token nor target.
#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_in_the_journal_is_explained_by_its_id_or_trace_id() {
    let bed = TestBed::new().await;
    let call = TestRequest::slots().claim("requested_scope", json!("x"));
    let answer = bed.expect_refusal(call, "scope_mismatch").await;
    let id = answer.header("spine-proxy-exchange").unwrap();
    let journal = bed.path("audit");
    let trace_id = "09a01679-2564-4fb4-9129-aecc81ea2706";
    let braced = format!("{{{trace_id}}}");
    let (urn, simple) = (format!("urn:uuid:{trace_id}"), trace_id.replace('-', ""));
    for id in [id, trace_id, &braced, &urn, &simple, &format!("id:{id}")] {
        let (text, code) = explain(&bed, &["-"], format!("{id}\n").as_bytes());
        assert!(text.contains("refused with status 400, scope_mismatch"), "{text}");
        assert_eq!(code, Some(1), "{text}");
        for journal in [&[][..], &["--journal", journal.to_str().unwrap()]] {
            let (text, code) = explain(&bed, &[&[id], journal].concat(), b"");
            assert!(text.contains("GET refused with status 400, scope_mismatch"), "{text}");
            assert!(text.contains("Request the scope of the interaction and no other."), "{text}");
            assert!(text.contains("✔ agreement"), "{text}");
            assert_eq!(code, Some(1), "{text}");
        }
    }
    let call = TestRequest::slots().set("Ssp-TraceID", "not-a-uuid");
    bed.expect_refusal(call, "trace_id_invalid").await;
    let (text, code) = explain(&bed, &["id:not-a-uuid"], b"");
    assert!(text.contains("status 400, trace_id_invalid") && code == Some(1), "{text}");
    let (text, code) = explain(&bed, &["0197f2a4-6a0c-7c3e-9f0e-3d6d3c1b2a10"], b"");
    assert!(text.contains("has no exchange with this id") && code == Some(2), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_token_nor_nhs_number_nor_body_is_printed() {
    let bed = TestBed::new().await;
    let [path, query, claim] = NUMBERS;
    let call = TestRequest::slots()
        .target(&format!("/{ROOT}/{path}/Slot?identifier={query}"))
        .claim("sub", json!(claim))
        .claim("patient", json!(claim))
        .with("X-Spine", claim)
        .set("Ssp-TraceID", claim)
        .body(b"{\"secret\": 1}");
    let token = claims::mint(&call.claims);
    let payload = token.split('.').nth(1).unwrap().get(..24).unwrap();
    for json in [&[][..], &["--json"]] {
        let (text, _) = explain(&bed, &[&["-"], json].concat(), bytes(&call).as_bytes());
        assert!(text.contains("body_on_get"), "{text}");
        for unsaid in NUMBERS.into_iter().chain([payload, "secret", "identifier="]) {
            assert!(!text.contains(unsaid), "{unsaid}: {text}");
        }
        let checked = run(&[&["token", "--check", &token], json].concat(), b"");
        let text = String::from_utf8(checked.stdout).unwrap();
        assert!(text.contains("[masked]") && !text.contains(claim), "{text}");
        assert!(!text.contains(payload), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_cannot_be_read_is_an_error_of_usage() {
    let bed = TestBed::new().await;
    let unknown = "neither a curl command, a HAR, an HTTP request nor an id";
    let number = NUMBERS[0];
    for (input, fault) in [
        ("", "it is empty"),
        ("curl https://h --frobnicate", "--frobnicate of curl is not known"),
        ("curl https://h -H \"Authorization: Bearer $TOKEN\"", "paste its value"),
        ("curl https://h `\n -d x", "written for PowerShell"),
        ("curl http://h", "the URL is not https"),
        (&*format!("curl https://h --user=me:{number}"), "value of --user from the next word"),
        ("{\"log\": {\"entries\": []}}", "choose one with --entry"),
        ("{\"method\": \"GET\", \"url\": \"http://h/\", \"headers\": []}", "the URL is not https"),
        (&*format!("{{\"log\": \"{number}\"}}"), "not a HAR, at line 1"),
        (&*format!("fetch(\"https://h/{number}\")"), unknown),
        ("Invoke-WebRequest https://h", unknown),
        ("wget https://h", unknown),
        ("https://h/", unknown),
        (":authority: h\n:method: GET\n", unknown),
        ("> GET / HTTP/1.1\n> authorization: Bearer (see below)\n> \n", "call --curl"),
    ] {
        let (text, code) = explain(&bed, &["-"], input.as_bytes());
        assert!(text.contains(fault) && !text.contains(number), "{input}: {text}");
        assert_eq!(code, Some(2), "{text}");
    }
    let get = bytes(&TestRequest::slots());
    let id = "0197f2a4-6a0c-7c3e-9f0e-3d6d3c1b2a10";
    for (arguments, fault) in [
        (&[&*format!("/nowhere/{number}")][..], "no file has this name"),
        (&["/dev/zero"], "cannot read the file: it is larger than 64 MiB"),
        (&["-", "--entry", "1"], "--entry"),
        (&["-", "--journal", "/nowhere"], "--journal has no effect for a request"),
        (&[id, "--entry", "1"], "--entry has no effect for an id"),
        (&[id, "--at", "2026-11-25T09:00:10Z"], "--at has no effect for an id"),
        (&[id, "--certificate", "none"], "--certificate has no effect for an id"),
    ] {
        let (text, code) = explain(&bed, arguments, get.as_bytes());
        assert!(text.contains(fault) && !text.contains(number), "{arguments:?}: {text}");
        assert_eq!(code, Some(2), "{text}");
    }
    let ran = run(&["explain", "--config", "/nowhere/spine-proxy.toml", "curl https://h"], b"");
    assert_eq!(ran.status.code(), Some(78));
}

/// Runs a script, in which a file named `head` gets the answer's head; returns the refusal's token.
fn answered(folder: &Path, script: &str) -> Option<String> {
    let head = folder.join("head");
    drop(std::fs::remove_file(&head));
    let ran = Command::new("bash").args(["-c", script]).current_dir(folder).output().unwrap();
    let head = std::fs::read_to_string(head).unwrap_or_else(|_| panic!("{script}: {ran:?}"));
    let token = head.split("details=\"").nth(1).and_then(|rest| rest.split('"').next());
    token.map(str::to_owned)
}

/// Text after a valid curl command. NEWLINES stands for a file with line ends alone.
const ENDINGS: &[&str] = &[
    "",
    " 2>&1 | cat",
    "\necho hi",
    "; echo hi",
    " # -H 'Ssp-TraceID: x'",
    "\n\n  -H 'Ssp-TraceID: x' 2>/dev/null",
    " --http1.0",
    " \\\n  -H 'Ssp-TraceID: x'",
    " -X GET -d x",
    " -X GET -d x -H 'Transfer-Encoding: chunked'",
    " -X GET -d '' -H 'Transfer-Encoding: chunked'",
    " -X GET -d x -H 'Transfer-Encoding: gzip'",
    " -X GET -d x -H 'Content-Length:'",
    " -X GET -d x -H 'Content-Length: 0'",
    " -X GET -d @NEWLINES",
    " -X GET --data-binary @NEWLINES",
    " -H 'Host: ssp.example.nhs.uk' -H 'Host: localhost'",
    " -H 'Host: localhost' -H 'Host: ssp.example.nhs.uk'",
    " -H 'Host:'",
    " -H 'Host;'",
    " -H ': x' -H 'a;b;' -H foo -H ''",
    " -H 'A b: x'",
    " -H 'a;'",
    " -H $'Host: ssp.example.nhs.\\165\\x6b'",
    " -H $'X-A: \\a'",
    " -H $'X-A: \\e'",
    " -u me:pw",
    " --json '{}'",
    " -G -d a=b --data-urlencode 'c=d e/f'",
    " --request-target /nowhere",
    " -r 0-4 --tr-encoding --compressed -A '' -e x -b y",
    " -kLsSfJ --location-trusted --raw --basic --create-dirs --tlsv1.2 --no-compressed",
    " -I",
    " -X DELETE",
];

/// Scripts that a shell runs with curl and that `explain` judges: the gateway's answer must be the judged refusal.
#[tokio::test(flavor = "multi_thread")]
async fn a_curl_command_is_judged_as_what_curl_sends_is_answered() {
    for program in ["bash", "curl"] {
        if Command::new(program).arg("--version").output().is_err() {
            return testkit::report_missing(program);
        }
    }
    let bed = TestBed::new().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("newlines"), "\r\n\n").unwrap();
    let newlines = folder.path().join("newlines").display().to_string();
    let [certificate, key, authority] =
        ["hub.pem", "hub.key", "ca.pem"].map(|name| bed.path(name).display().to_string());
    let port = bed.address().port();
    let call = TestRequest::slots();
    let host = "ssp.example.nhs.uk";
    let target = format!("'https://{host}:{port}{}'", call.target);
    let start = format!(
        "curl -sS --http1.1 --path-as-is --noproxy '*' --max-time 60 --dump-header head -o body \\\n \
         --cacert {authority} --cert {certificate} --key {key} \\\n --resolve {host}:{port}:127.0.0.1"
    );
    let headers = |but: &str| -> String {
        let text = bytes(&call);
        let lines = text.lines().skip(1).take_while(|line| !line.is_empty());
        let kept = lines.filter(|line| !line.starts_with("Host") && !line.starts_with(but));
        kept.map(|line| format!(" \\\n -H '{line}'")).collect()
    };
    let good = format!("{start}{} \\\n {target}", headers("Host"));
    let without_token = format!("{start}{} {target}", headers("Authorization"));
    let mut scripts = vec![
        format!("{without_token} -u me:pw"),
        format!("{without_token} --oauth2-bearer x"),
        format!("{without_token} -H 'Authorization;'"),
        format!("{start} > out{} {target}", headers("Host")),
        format!("{start} 2>/dev/null{} {target} >&2", headers("Ssp-To")),
        format!("# a note\n\nA=b {good}"),
        format!("time {good}"),
    ];
    scripts.extend(
        ENDINGS.iter().map(|more| format!("{good}{}", more.replace("NEWLINES", &newlines))),
    );
    let mut tokens = BTreeMap::new();
    for script in scripts {
        let token = answered(folder.path(), &script);
        let (text, code) = explain(&bed, &["-"], script.replace("\\\n", "\\ \r\n").as_bytes());
        let verdict = match &token {
            Some(token) => format!(" {token}\n"),
            None => "would be forwarded".to_owned(),
        };
        assert!(text.contains(&verdict), "{script}\n{token:?}: {text}");
        assert_eq!(code, Some(i32::from(token.is_some())), "{script}: {text}");
        *tokens.entry(token).or_insert(0) += 1;
    }
    assert!(tokens[&None] >= 15 && tokens.len() >= 10, "{tokens:?}");
}

/// Whatever surrounds the request when it is copied.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_judged_however_it_was_copied() {
    let bed = TestBed::new().await;
    let call = TestRequest::slots();
    let hub = bed.path("hub.pem").display().to_string();
    let (command, raw, har) = (curl(&call, &hub), bytes(&call), har(&call));
    let entry: Value = serde_json::from_str(&har).unwrap();
    let list = json!([entry["log"]["entries"][1]]).to_string();
    let windows = command.replace(" \\\n", " ^\r\n").replace('\'', "^\"");
    let windows = windows.replace('&', "^&").replace("-X GET", "");
    let verbose: String = raw.lines().map(|line| format!("> {line}\n")).collect();
    let utf16 = |text: &str| -> Vec<u8> {
        std::iter::once(0xfeff).chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
    };
    let copied = [
        format!("$ {command}").into_bytes(),
        format!("$ {}", command.replace("\\\n", "\\\n> ")).into_bytes(),
        format!("```sh\n{command}\n```").into_bytes(),
        format!("#!/bin/sh\n# a note\n{command}\n\n").into_bytes(),
        command.replacen("curl", "curl.exe", 1).into_bytes(),
        format!("C:\\Users\\me>{}", windows.replacen("curl", " curl", 1)).into_bytes(),
        windows.replace("^\"", "\"").replace("^&", "&").into_bytes(),
        utf16(&command),
        format!("\u{feff}{raw}").into_bytes(),
        utf16(&raw),
        raw.replace("HTTP/1.1", "HTTP/2").into_bytes(),
        raw.trim_end().as_bytes().to_vec(),
        format!("*   Trying\n{verbose}< HTTP/1.1 200 OK\n< A: b\n").into_bytes(),
        list.into_bytes(),
    ];
    for input in copied {
        let (text, code) = explain(&bed, &["-"], &input);
        let shown = String::from_utf8_lossy(&input);
        assert!(text.contains("would be forwarded to A20047"), "{shown}\n{text}");
        assert_eq!(code, Some(0), "{text}");
    }
    let (text, code) = explain(&bed, &[&raw], b"");
    assert!(code == Some(0), "as an argument: {text}");
    let secret = har.replace("https://ssp", "https://user:secretpw@ssp");
    let (text, code) = explain(&bed, &["-", "--entry", "2"], secret.as_bytes());
    assert!(code == Some(0) && !text.contains("secretpw"), "{text}");
}

#[test]
fn a_har_of_many_entries_takes_little_more_memory_than_its_text() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let entries = "0,".repeat(30 * 1024 * 1024);
    std::fs::write(file.path(), format!("{{\"log\":{{\"entries\":[{entries}0]}}}}")).unwrap();
    // In KiB: the 60 MiB of text, the program and its stacks.
    let limited = "ulimit -v 600000; exec \"$0\" explain --config /nowhere \"$1\"";
    let arguments = ["-c", limited, env!("CARGO_BIN_EXE_spine-proxy")];
    let ran = Command::new("sh").args(arguments).arg(file.path()).output().unwrap();
    let text = String::from_utf8_lossy(&ran.stderr);
    assert!(text.contains("the HAR has 31457281 entries: choose one"), "{ran:?}");
    assert_eq!(ran.status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chunked_body_of_a_read_is_judged() {
    let bed = TestBed::new().await;
    for (body, token) in [
        (&b"zz\r\n"[..], Some("body_cut")),
        (b"5\r\nhello\r\n0\r\n\r\n", Some("body_on_get")),
        (b"0\r\n\r\n", None),
    ] {
        let call = TestRequest::slots().with("Transfer-Encoding", "chunked").body(body);
        let call = call.without_content_length();
        let answer = bed.send(call.clone()).await;
        assert_eq!(answer.token(), token);
        let (text, code) = explain(&bed, &["-"], bytes(&call).as_bytes());
        let verdict = token.map_or("would be forwarded".into(), |token| format!("400 {token}"));
        assert!(text.contains(&verdict), "{text}");
        assert_eq!(code, Some(i32::from(token.is_some())), "{text}");
        let head = bytes(&call.body(b""));
        let (text, code) = explain(&bed, &["-"], head.as_bytes());
        assert!(text.contains("· body  ") && code == Some(0), "{text}");
    }
}

/// A live source that nothing listens at: it is not asked, unless it is wanted.
#[tokio::test(flavor = "multi_thread")]
async fn a_live_source_is_asked_only_if_it_is_wanted() {
    let bed = TestBed::with(|files| {
        files.edit("directory.toml", |text| text.split("[[provider]]").next().unwrap().to_owned());
        files.add(
            "[directory.sds-api]\nurl = \"https://localhost:9/FHIR/R4\"\n\
             tls = { authorities = [\"ca.pem\"], crl = \"none\" }",
        );
        files.set("directory", "deadlines = { waiting = \"100ms\" }");
    })
    .await;
    let call = TestRequest::slots();
    let (text, code) = explain(&bed, &["-"], bytes(&call).as_bytes());
    assert!(text.contains("were not asked; --ask-directory asks them"), "{text}");
    assert!(text.contains("· provider"), "{text}");
    assert_eq!(code, Some(3), "{text}");
    let (text, code) = explain(&bed, &["-", "--ask-directory"], bytes(&call).as_bytes());
    assert!(text.contains("live sources of the directory were asked"), "{text}");
    assert_eq!(code, Some(3), "{text}");
    let wrong = call.without("Ssp-To");
    let (text, code) = explain(&bed, &["-"], bytes(&wrong).as_bytes());
    assert!(text.contains("would be refused with 400 to_missing") && code == Some(1), "{text}");
}

/// Certificates of each kind, over both versions of HTTP.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_certificates_are_compared_too() {
    let bed = TestBed::new().await;
    for (certificate, token) in [
        ("none", "certificate_missing"),
        ("foreign", "certificate_invalid"),
        ("expired", "certificate_expired"),
        ("revoked", "certificate_revoked"),
        ("stranger", "certificate_unknown"),
    ] {
        bed.expect_refusal(TestRequest::slots().certificate(certificate), token).await;
        bed.expect_refusal(TestRequest::slots().certificate(certificate).http2(), token).await;
        assert_eq!(bed.agreement.count(token), 2, "{token}");
    }
    assert_eq!(bed.send(TestRequest::book()).await.status, 200);
    assert_eq!(bed.agreement.count("forwarded"), 1);
}

#[test]
fn refusals_that_are_not_judged_are_known_ones() {
    let known = spine_proxy::refusal::every();
    let known: Vec<_> = known.iter().map(|refusal| refusal.row().token).collect();
    assert!(NOT_JUDGED_OFFLINE.iter().all(|token| known.contains(token)));
}

#[test]
fn a_token_is_judged_claim_by_claim() {
    let mut claims = claims::example_claims(ROOT, &HUB_ODS.parse().unwrap(), "x", now_s());
    claims["iss"] = json!("");
    let token = claims::mint(&claims);
    let checked = |arguments: &[&str], input: &str| {
        let ran = run(&[&["token", "--check"], arguments].concat(), input.as_bytes());
        (String::from_utf8(ran.stdout).unwrap(), ran.status.code())
    };
    let (text, code) = checked(&["-", "--interaction", "book"], &format!("Bearer {token}\n"));
    assert_eq!(code, Some(1));
    for line in ["✘ iss", "400 claim_missing", "✘ requested_scope", "patient/*.write", "✔ aud"]
    {
        assert!(text.contains(line), "{text}");
    }
    let (text, code) = checked(&[&token, "--at", "2026-01-01T00:00:00Z", "--json"], "");
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &report["refused"]["token"]), (Some(1), &json!("claim_missing")));
    assert!(text.contains("token_from_future"), "{text}");
    for form in ["Authorization: Bearer ", "bearer ", "\u{feff}", "  authorization:  BEARER  "] {
        let (text, code) = checked(&["-"], &format!("{form}{token}\r\n"));
        assert!(code == Some(1) && text.contains("✔ claims"), "{form:?}: {text}");
    }
    for empty in ["", "Bearer ", " "] {
        assert_eq!(checked(&[empty], "").1, Some(2), "{empty:?}");
    }
    assert_eq!(checked(&[&token, "--ods", "no code"], "").1, Some(2));
    let minted = ["token", "--audience", ROOT, "--ods", HUB_ODS, "--json"];
    let minted = run(&minted, b"");
    let minted: Value = serde_json::from_slice(&minted.stdout).unwrap();
    assert_eq!((&minted["expires_in_s"], &minted["claims"]["aud"]), (&json!(300), &json!(ROOT)));
    let token = minted["token"].as_str().unwrap();
    let (text, code) = checked(&[token, "--audience", ROOT, "--ods", HUB_ODS], "");
    assert_eq!(code, Some(0), "{text}");
    let (text, code) = checked(&[token, "--audience", &format!("{ROOT}/"), "--ods", "A00002"], "");
    assert!(text.contains("audience_mismatch") && text.contains("organisation_mismatch"), "{text}");
    assert_eq!(code, Some(1));
}

/// The example of the page is played, and its output written into the page.
#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_the_page_is_what_is_printed() {
    const AT: &str = "2026-11-25T09:00:10Z";
    const BEGIN: &str = "<!-- explain -->\n```text\n";
    let bed = TestBed::new().await;
    let issued_s = "2026-11-25T09:00:00Z".parse::<jiff::Timestamp>().unwrap().as_second();
    let claims = claims::example_claims(
        &format!("{ROOT}/"),
        &HUB_ODS.parse().unwrap(),
        "patient/*.read",
        issued_s,
    );
    let mut call = TestRequest::slots();
    call.claims = claims;
    let (text, code) = explain(&bed, &["-", "--at", AT], bytes(&call).as_bytes());
    assert_eq!(code, Some(1), "{text}");
    let printed = text.split("spine-proxy: ").next().unwrap();
    let (before, rest) = PAGE.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once("```\n").unwrap();
    holds("docs/integrate/explain.md", &format!("{before}{BEGIN}{printed}```\n{after}"));
}
