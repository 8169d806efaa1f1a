//! `conform`: another proxy or a provider is judged, what is wrong fails, and nothing that was booked is left.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Output, Stdio};

use gpconnect_simulator::pki::{Leaf, Pki};
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use serde_json::Value;
use testkit::provider::{Provider, Received};
use testkit::test_bed::{now_s, server_tls};
use testkit::{ProviderAction, program};

use crate::call::{CallLab, stderr};

fn command(lab: &CallLab, arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.arg("conform").args(arguments).arg("--lab").arg(lab.file());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn conform(lab: &CallLab, arguments: &[&str]) -> Output {
    command(lab, arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Address of the lab's practices without TLS.
fn simulator(lab: &CallLab) -> SocketAddr {
    let url = lab.lab.text("/simulator/url").strip_prefix("http://").unwrap();
    url.split('/').next().unwrap().parse().unwrap()
}

/// Sends a request to the lab's practices, and returns the whole answer.
fn ask(simulator: SocketAddr, head: &str, body: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(simulator).unwrap();
    let length = body.len();
    let request = format!("{head}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

/// Makes the bookings of a practice fail.
fn set_fault(lab: &CallLab, fault: &str) {
    set_script(lab, &format!("[{{\"methods\": [\"POST\"], \"faults\": \"{fault}\"}}]"));
}

fn set_script(lab: &CallLab, script: &str) {
    let head = "PUT /_simulator/scripts/A20047 HTTP/1.1\r\nHost: localhost";
    let answer = String::from_utf8(ask(simulator(lab), head, script)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 2"), "{answer}");
}

/// Statuses of all appointments at the lab's practices.
async fn bookings(lab: &CallLab) -> Vec<String> {
    let bookings = lab.simulator("bookings").await;
    let status = |one: &Value| one["appointment"]["status"].as_str().unwrap().to_owned();
    bookings.as_array().unwrap().iter().map(status).collect()
}

/// Attributes of an XML element.
fn attributes(element: &BytesStart<'_>) -> BTreeMap<String, String> {
    let attributes = element.attributes().map(Result::unwrap);
    let row = |one: quick_xml::events::attributes::Attribute<'_>| {
        let value = quick_xml::escape::unescape(&one.value).unwrap().into_owned();
        (one.key.as_ref().to_owned(), value)
    };
    attributes.map(row).collect()
}

/// Results of a JUnit file: the outcome of each case by its name.
struct Junit {
    /// `passed`, `failure` or `skipped`, by the name of the case.
    outcomes: BTreeMap<String, String>,
    /// Names in the order of the document.
    order: Vec<String>,
}

impl Junit {
    /// Reads a document; asserts that each suite's counts are those of its cases, and the whole's are the sums.
    fn read(xml: &str) -> Self {
        let mut reader = Reader::from_str(xml);
        let (mut outcomes, mut order) = (BTreeMap::new(), Vec::new());
        let (mut announced, mut counted) = (Vec::new(), Vec::new());
        let mut case = String::new();
        loop {
            let event = reader.read_event().unwrap();
            if event == Event::Eof {
                break;
            }
            let (Event::Start(element) | Event::Empty(element)) = &event else { continue };
            let of = attributes(element);
            let count = |name: &str| of[name].parse::<usize>().unwrap();
            match element.name().as_ref() {
                "testsuites" | "testsuite" => {
                    announced.push(["tests", "failures", "skipped", "errors"].map(count));
                    counted.push([0; 4]);
                    assert!(of["time"].parse::<f64>().is_ok(), "{of:?}");
                }
                "testcase" => {
                    case.clone_from(&of["name"]);
                    assert!(outcomes.insert(case.clone(), "passed".to_owned()).is_none(), "{case}");
                    assert!(of["time"].parse::<f64>().is_ok() && !of["classname"].is_empty());
                    counted.last_mut().unwrap()[0] += 1;
                    order.push(case.clone());
                }
                name @ ("failure" | "skipped") => {
                    let at = if name == "failure" { 1 } else { 2 };
                    counted.last_mut().unwrap()[at] += 1;
                    assert!(!of["message"].is_empty(), "{case}");
                    outcomes.insert(case.clone(), name.to_owned());
                }
                "properties" | "property" => {}
                other => panic!("{other}"),
            }
        }
        for of in counted.clone() {
            (0..4).for_each(|at| counted[0][at] += of[at]);
        }
        assert_eq!(announced, counted, "{xml}");
        Self { outcomes, order }
    }

    fn named(&self, outcome: &str) -> Vec<&str> {
        let named = self.outcomes.iter().filter(|(_, of)| *of == outcome);
        named.map(|(name, _)| name.as_str()).collect()
    }
}

/// Runs `conform` with a JUnit file; returns the output, and the results.
fn judged(lab: &CallLab, arguments: &[&str]) -> (Output, Junit) {
    let file = lab.file().with_file_name("results.xml");
    let output = conform(lab, &[arguments, &["--junit", file.to_str().unwrap()]].concat());
    let xml = std::fs::read_to_string(&file).unwrap_or_else(|_| panic!("{}", stderr(&output)));
    (output, Junit::read(&xml))
}

#[tokio::test(flavor = "multi_thread")]
async fn this_proxy_passes_every_case_and_no_booking_is_left() {
    let lab = CallLab::start();
    let (output, results) = judged(&lab, &["--book", "--all"]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert_eq!(results.named("passed").len(), results.outcomes.len(), "{}", stdout(&output));
    assert!(results.outcomes.len() > 40, "{:?}", results.outcomes);
    let booked = bookings(&lab).await;
    assert!(booked.len() > 4 && booked.iter().all(|status| status == "cancelled"), "{booked:?}");
    let said = format!("{}{}", stdout(&output), stderr(&output));
    assert!(said.contains("It books appointments there"), "{said}");
    for patient in lab.lab.described["patients"].as_array().unwrap() {
        let number = patient["nhs_number"].as_str().unwrap();
        assert!(!said.contains(number), "{number} is in {said}");
    }
    assert!(said.lines().all(|line| line.chars().count() <= 100), "{said}");
    assert!(!said.contains('\u{1b}'), "no colours where there is no terminal");
}

#[test]
fn a_run_may_be_repeated_at_once() {
    let lab = CallLab::start();
    // A circuit opens at the fifth failure in a row.
    for _ in 0..7 {
        let output = conform(&lab, &[]);
        assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    }
}

#[test]
fn a_description_may_be_written_by_hand_beside_its_files() {
    const PAGE: &str = include_str!("../docs/test/conform.md");
    let example = PAGE.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    let lab = CallLab::start();
    let text = |pointer: &str| lab.lab.text(pointer);
    let folder = std::path::Path::new(text("/authority")).parent().unwrap();
    let file = folder.join("written.json");
    let root = "https://gp.test.example/A20047/STU3/1/gpconnect";
    let written = example
        .replace("https://ssp.test.example", text("/proxy/url"))
        .replace(root, text("/practices/0/root"))
        .replace("9000000009", &lab.patient());
    std::fs::write(&file, written).unwrap();
    let mut command = Command::new(program());
    // The closed practice of the example has another host than that of the lab.
    let output = command.arg("conform").arg("--lab").arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let said = stdout(&output);
    assert!(said.contains("1 of 1 sessions as expected"), "{said}");
    let wrong: Vec<_> = said.lines().filter(|line| line.starts_with("WRONG")).collect();
    assert_eq!(wrong, ["WRONG A practice whose system does not answer is reported"], "{said}");
    assert!(said.contains("not played: there is no such certificate"), "{said}");
}

/// The page has a row for each case: with what it is played, from runs of all kinds.
#[test]
fn the_page_names_every_case() {
    const PAGE: &str = include_str!("../docs/test/conform.md");
    let lab = CallLab::start();
    let against = format!("http://{}", simulator(&lab));
    let (_, all) = judged(&lab, &["--book", "--all"]);
    let (_, documented) = judged(&lab, &["--book"]);
    let (_, reads) = judged(&lab, &[]);
    let (_, provider) =
        judged(&lab, &["--as", "provider", "--against", &against, "--book", "--all"]);
    let mut table = "| case | a proxy | a provider |\n|---|---|---|\n".to_owned();
    for name in &all.order {
        let is_played =
            |of: &Junit| of.outcomes.get(name).is_some_and(|outcome| outcome == "passed");
        // The first run has registered the person.
        let is_registered = name.contains("is registered and booked for");
        let by_proxy = match (is_played(&reads), is_played(&documented) || is_registered) {
            (true, _) => "always",
            (false, true) => "with `--book`",
            (false, false) if name.starts_with("A practice is named") => "with `--all --book`",
            (false, false) => "with `--all`",
        };
        let by_provider = match is_played(&provider) || is_registered {
            true if by_proxy == "with `--book`" => "with `--book`",
            true => "always",
            false => "no",
        };
        table.push_str(&format!("| {name} | {by_proxy} | {by_provider} |\n"));
    }
    let (before, rest) = PAGE.split_once("<!-- cases -->\n").unwrap();
    let (_, after) = rest.split_once("<!-- /cases -->").unwrap();
    let page = format!("{before}<!-- cases -->\n{table}<!-- /cases -->{after}");
    crate::documents::holds("docs/test/conform.md", &page);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_being_told_to_it_books_nothing_and_leaves_open_what_the_specification_does() {
    let lab = CallLab::start();
    let output = conform(&lab, &["--junit", "-"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let results = Junit::read(&stdout(&output));
    assert_eq!(results.named("failure"), [""; 0]);
    assert_eq!(results.named("skipped").len(), 6 + 3, "{:?}", results.outcomes);
    assert!(stderr(&output).contains("It sends only requests that change nothing."));
    assert!(bookings(&lab).await.is_empty());
    let arrived = lab.simulator("requests").await;
    let methods = arrived.as_array().unwrap().iter().map(|one| one["method"].as_str().unwrap());
    assert!(methods.clone().count() > 3 && methods.clone().all(|method| method == "GET"));
}

/// Forwards everything to the practice without looking at it.
fn relay(simulator: SocketAddr) -> impl FnMut(&Received) -> ProviderAction + Send {
    move |request| {
        let (method, target) = request.start.split_once(' ').unwrap();
        let path = target.strip_prefix("/https://").and_then(|rest| rest.split_once('/'));
        let head = match path {
            Some((_, path)) => format!("{method} /{path}"),
            None => request.start.clone(),
        };
        let kept = request.headers.iter().filter(|(name, _)| name != "connection");
        let headers: String = kept.map(|(name, value)| format!("\r\n{name}: {value}")).collect();
        ProviderAction::WriteAndClose(ask(simulator, &format!("{head}{headers}"), ""))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_forwards_everything_fails_where_a_proxy_must_refuse() {
    let lab = CallLab::start();
    let pki = Pki::new(now_s()).unwrap();
    let names = vec!["localhost".to_owned()];
    let issued = pki.issue(&Leaf { names, ..Leaf::named("localhost") }).unwrap();
    let server = Provider::start(server_tls(&issued)).await;
    server.set_script(relay(simulator(&lab)));
    let authority = lab.file().with_file_name("relay.pem");
    std::fs::write(&authority, pki.authority()).unwrap();
    let against = format!("https://localhost:{}", server.address.port());
    let other = ["--against", &against, "--authorities", authority.to_str().unwrap()];
    let (output, results) = tokio::task::block_in_place(|| judged(&lab, &other));
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cases were not answered as expected"), "{}", stderr(&output));
    assert_eq!(
        results.named("failure"),
        [
            "A certificate that has been revoked is refused",
            "A certificate that has expired is refused",
            "A certificate that is not valid yet is refused",
            "A certificate that no consumer is registered with is refused",
            "A consumer without an agreement with the practice is refused",
            "A method that the Spine Secure Proxy does not forward is refused",
            "A practice whose system does not answer is reported",
            "A request without a client certificate is refused",
            "A sender with an ASID that nobody has is refused",
            "A sender with the ASID of another consumer is refused",
            "A service root that is not registered is refused",
            "A service root with the port written out is refused",
            "An interaction that the sender is not registered for is refused",
        ],
        "{}",
        stdout(&output)
    );
    let row = stdout(&output);
    assert!(row.contains("expected: 403 with FOT_CHECK_FAILED"), "{row}");
    assert!(row.contains("received: 200 OK: Bundle"), "{row}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_is_judged_without_a_proxy_and_its_lost_bookings_are_found_and_cancelled() {
    let lab = CallLab::start();
    let against = format!("http://{}", simulator(&lab));
    let provider = ["--as", "provider", "--against", &against, "--book"];
    let (output, results) = judged(&lab, &provider);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert_eq!(results.named("passed").len(), 6 + 15 + 1, "{:?}", results.outcomes);
    // It books, but reports a failure.
    set_fault(&lab, "status-after=503");
    let (output, results) = judged(&lab, &provider);
    assert_eq!(output.status.code(), Some(1));
    let failed = results.named("failure");
    assert!(failed.contains(&"A slot is booked for a patient of the practice"), "{failed:?}");
    assert_eq!(results.outcomes["Every appointment that was booked is cancelled"], "passed");
    let booked = bookings(&lab).await;
    assert!(booked.iter().all(|status| status == "cancelled"), "{booked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_booked_is_cancelled_when_the_run_is_stopped() {
    let lab = CallLab::start();
    set_fault(&lab, "stall-after");
    let results = lab.file().with_file_name("results.xml");
    let junit = ["--book", "--junit", results.to_str().unwrap()];
    let run = Stopped(command(&lab, &junit).spawn().unwrap());
    while bookings(&lab).await.is_empty() {
        tokio::task::yield_now().await;
    }
    let output = run.stop();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("stopped by a signal"), "{}", stderr(&output));
    assert_eq!(bookings(&lab).await, ["cancelled"], "{}", stdout(&output));
    let results = Junit::read(&std::fs::read_to_string(results).unwrap());
    assert_eq!(results.named("failure"), ["The run has come to its end"]);
    assert_eq!(results.outcomes["Every appointment that was booked is cancelled"], "passed");
}

#[test]
fn an_appointment_that_cannot_be_read_again_is_reported_by_that_answer() {
    let lab = CallLab::start();
    let read = "urn:nhs:names:services:gpconnect:fhir:rest:read:appointment-1";
    let script = format!("[{{\"interactions\": [\"{read}\"], \"faults\": \"status=500\"}}]");
    set_script(&lab, &script);
    let (output, results) = judged(&lab, &["--book"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(results.outcomes["Every appointment that was booked is cancelled"], "failure");
    let said = stdout(&output);
    let (_, end) = said.split_once("Cancelling what was booked").unwrap();
    assert!(end.contains("500 Internal Server Error") && !end.contains("422"), "{end}");
}

/// Running command, killed if the test fails.
struct Stopped(Child);

impl Stopped {
    /// Ends it as a service manager does.
    fn stop(mut self) -> Output {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let read = |from: &mut dyn std::io::Read| {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes).unwrap();
            bytes
        };
        let stdout = read(self.0.stdout.as_mut().unwrap());
        let stderr = read(self.0.stderr.as_mut().unwrap());
        Output { status: self.0.wait().unwrap(), stdout, stderr }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A closed connection is a refusal only of somebody who answers others.
#[test]
fn where_nobody_answers_no_refusal_passes() {
    let lab = CallLab::start();
    // Port 1 of the loopback address refuses connections.
    let (output, results) = judged(&lab, &["--against", "https://127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(results.named("passed"), [""; 0]);
    assert_eq!(results.named("failure"), ["Capabilities, free slots and a patient are read"]);
    let said = stdout(&output);
    assert_eq!(said.matches("a right request is not answered as expected").count(), 1, "{said}");
}

#[test]
fn options_without_a_lab_are_those_of_call_and_name_the_practice() {
    let lab = CallLab::start();
    let text = |pointer: &str| lab.lab.text(pointer).to_owned();
    let options = [
        ("--against", text("/proxy/url")),
        ("--certificate", text("/consumers/0/certificate")),
        ("--key", text("/consumers/0/key")),
        ("--authorities", text("/authority")),
        ("--asid", text("/consumers/0/asid")),
        ("--consumer-ods", text("/consumers/0/ods")),
        ("--practice", text("/practices/0/ods").to_lowercase()),
        ("--to", text("/practices/0/asid")),
        ("--root", text("/practices/0/root")),
    ];
    let run = |without: &str, more: &[&str]| {
        let kept = options.iter().filter(|(name, _)| *name != without);
        let arguments = kept.flat_map(|(name, value)| [*name, value.as_str()]);
        let mut command = Command::new(program());
        command.arg("conform").args(arguments).args(more).output().unwrap()
    };
    let number = lab.patient();
    let output = run("", &["--patient", &number]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    let said = stdout(&output);
    assert!(said.contains("not played: it needs a consumer without an agreement"), "{said}");
    assert!(said.contains("1 of 1 sessions as expected"), "{said}");
    let anonymous = run("", &["--book"]);
    assert_eq!(anonymous.status.code(), Some(0), "{}", stdout(&anonymous));
    let said = stdout(&anonymous);
    assert!(said.contains("no patient is sought: none is given"), "{said}");
    assert!(said.contains("not played: it needs a registered patient"), "{said}");
    assert!(said.contains("  ok  A request without TLS is refused: 497 plain_http"), "{said}");
    for name in ["against", "authorities", "asid", "consumer-ods", "practice", "to", "root", "key"]
    {
        let refused = run(&format!("--{name}"), &[]);
        assert_eq!(refused.status.code(), Some(2), "{name}: {}", stderr(&refused));
        assert!(stderr(&refused).contains(&format!("--{name} is needed")), "{}", stderr(&refused));
    }
    for (url, why) in [
        (
            "http://ssp.example.nhs.uk",
            "must begin with https://, or with http:// for a loopback address",
        ),
        ("https://ssp.example.nhs.uk/path", "must have no path"),
        ("ssp.example.nhs.uk", "must begin with https://, or with http:// for a loopback address"),
    ] {
        let refused = run("--against", &["--against", url]);
        assert_eq!(refused.status.code(), Some(2), "{url}");
        assert!(stderr(&refused).contains(why), "{}", stderr(&refused));
    }
    let unwritable = run("", &["--patient", &number, "--junit", "/nowhere/results.xml"]);
    assert_eq!(unwritable.status.code(), Some(78));
    assert!(stderr(&unwritable).contains("cannot write /nowhere/results.xml"));
    assert_eq!(stdout(&unwritable), "", "nothing was sent");
}
