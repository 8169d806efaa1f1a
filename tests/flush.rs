//! The flush of the journal through the admin port: what has ended before it is found after it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use testkit::disk::FaultyDisk;
use testkit::{ProviderAction, TestBed, TestRequest, program, report_missing, repository};

use crate::call::{CallLab, stderr};

/// An admin token.
const TOKEN: &str = "an-invented-token-of-thirty-two-bytes-or-more";

async fn bed(audit: &str) -> TestBed {
    TestBed::with(|files| {
        files.put("admin.token", TOKEN);
        files.set("admin", "token-file = \"admin.token\"");
        files.set("audit", audit);
        files.add("[throttle]\ncertificate-per-second = 100000\nconsumer-per-second = 100000");
    })
    .await
}

/// Sends a request for `/audit/flush` with a token; returns the head of the answer and its body.
fn ask(admin: SocketAddr, method: &str, token: &str) -> (String, String) {
    let mut stream = TcpStream::connect(admin).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let request = format!(
        "{method} /audit/flush HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// Flushes the journal; returns the number and the chain value of its last line.
fn flush(admin: SocketAddr) -> (u64, String) {
    let (head, body) = ask(admin, "POST", TOKEN);
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("application/json"), "{head}");
    let last: Value = serde_json::from_str(&body).unwrap();
    (last["seq"].as_u64().unwrap(), last["chain"].as_str().unwrap().to_owned())
}

/// Runs a query for lines of the journal, which fails if there are none.
fn query(journal: &Path, filter: &[&str]) -> Output {
    let mut command = Command::new(program());
    command.args(["audit", "query", "--json", "--require"]).arg(journal);
    command.args(filter).output().unwrap()
}

/// Reads, writes and refusals, over both versions of HTTP; an answer with a body, without one, and in chunks.
#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_has_ended_is_found_after_a_flush_without_waiting() {
    let bed = bed("").await;
    for number in 0..50_u32 {
        let trace_id = format!("{number:08x}-0000-4000-8000-000000000000");
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
        let empty = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        bed.provider.set_action(match number % 3 {
            0 => ProviderAction::ok(),
            1 => ProviderAction::Write(chunked.as_bytes().to_vec()),
            _ => ProviderAction::Write(empty.as_bytes().to_vec()),
        });
        let (request, status) = match number % 4 {
            0 => (TestRequest::book(), 200),
            1 => (TestRequest::slots().without("Authorization"), 400),
            _ => (TestRequest::slots(), 200),
        };
        let request = match number % 2 {
            0 => request,
            _ => request.http2(),
        };
        let answer = bed.send(request.set("Ssp-TraceID", &trace_id)).await;
        assert_eq!(answer.status, status, "{answer:?}");
        let (seq, chain) = flush(bed.server.admin);
        // The file is read at once: a program takes longer to start than an unflushed line to be written.
        let text = bed.journal("audit");
        let last: Value = serde_json::from_str(text.lines().next_back().unwrap()).unwrap();
        assert_eq!((last["seq"].as_u64(), last["chain"].as_str()), (Some(seq), Some(&*chain)));
        assert_eq!(last["trace_id"], trace_id);
        let found = query(&bed.path("audit"), &["--trace-id", &trace_id]);
        assert!(found.status.success(), "{number}: {found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_without_a_line_of_their_own_are_summed_by_a_flush() {
    let bed = bed("unverified-per-second = 1").await;
    for asked in (5..=25_u64).step_by(5) {
        for _ in 0..5 {
            assert_eq!(bed.send(TestRequest::slots().certificate("none")).await.status, 496);
        }
        flush(bed.server.admin);
        let text = bed.journal("audit");
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let count = |line: Value| match line["refusal"].as_str() {
            Some("certificate_missing") => 1,
            _ => line["refusals"]["certificate_missing"].as_u64().unwrap_or_default(),
        };
        assert_eq!(lines.map(count).sum::<u64>(), asked, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_is_refused_while_the_journal_cannot_be_written() {
    let bed = bed("wait = \"200ms\"").await;
    let Some((disk, served)) = FaultyDisk::serve(&bed) else { return };
    let (first, _) = flush(served.admin);
    for fault in ["eio", "erofs", "hold"] {
        disk.set_fault(fault);
        // With nothing to write, everything is written.
        if fault == "eio" {
            assert_eq!(flush(served.admin).0, first);
        }
        TestRequest::slots().send_to(&bed, served.address).await;
        for _ in 0..3 {
            let (head, body) = ask(served.admin, "POST", TOKEN);
            assert!(head.starts_with("HTTP/1.1 503 "), "{fault}: {head}");
            assert!(body.contains("the journal cannot be written"), "{fault}: {body}");
        }
        disk.clear_fault(fault);
        while ask(served.admin, "POST", TOKEN).0.starts_with("HTTP/1.1 503 ") {}
    }
    let own = bed.path("own");
    let found = query(&own, &["--interaction", "search:slot-1"]);
    assert_eq!(String::from_utf8(found.stdout).unwrap().lines().count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_needs_the_token_and_the_method_post() {
    let bed = bed("").await;
    for (method, token, status, part) in [
        ("POST", "", 403, "the admin token is missing or wrong"),
        ("POST", "wrong", 403, "the admin token is missing or wrong"),
        ("GET", TOKEN, 405, "\r\nallow: POST"),
        ("PUT", TOKEN, 405, "\r\nallow: POST"),
        ("POST", TOKEN, 200, "\"seq\":"),
    ] {
        let (head, body) = ask(bed.server.admin, method, token);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {token}: {head}");
        let answer = head + &body;
        assert!(answer.contains(part), "{method} {token}: {answer}");
    }
}

/// The shell block of the section on tests that do not flake.
#[test]
fn the_documented_commands_find_the_exchange_that_has_just_ended() {
    for needed in ["curl", "jq"] {
        if Command::new(needed).arg("--version").output().is_err() {
            return report_missing(needed);
        }
    }
    let page = std::fs::read_to_string(repository::root().join("docs/test/lab.md")).unwrap();
    let (_, section) = page.split_once("## Assert without flaking\n").unwrap();
    let block = section.split("```").nth(1).and_then(|block| block.strip_prefix("sh\n")).unwrap();
    let lab = CallLab::start();
    let program = program();
    let folder = program.parent().unwrap();
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", folder.display());
    let run = |trace_id: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-eu", "-c", block]).env("PATH", &path).env("trace_id", trace_id);
        shell.current_dir(lab.file().parent().unwrap()).output().unwrap()
    };
    for _ in 0..5 {
        let answered = lab.call(&["slots", "A20047"]);
        assert!(answered.status.success(), "{answered:?}");
        let said = stderr(&answered);
        let (_, trace_id) = said.trim_end().rsplit_once("trace id ").unwrap();
        let output = run(trace_id);
        assert!(output.status.success(), "{output:?}");
    }
    let none = run("00000000-0000-4000-8000-000000000000");
    assert_eq!(none.status.code(), Some(1), "{none:?}");
    assert!(stderr(&none).contains("nothing was found"), "{none:?}");
    assert_eq!(lab.lab.stop(), Some(0));
}
