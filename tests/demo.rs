//! `demo`: what it plays and prints, the commands that it proposes, and the requests that it shows.

use std::io::{BufRead as _, BufReader, Lines};
use std::net::TcpListener;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use serde_json::Value;
use testkit::program;

use crate::call::stderr;

fn demo(arguments: &[&str]) -> Output {
    Command::new(program()).arg("demo").args(arguments).output().unwrap()
}

#[test]
fn the_demonstration_ends_0_when_every_step_answers_as_it_should() {
    let played = demo(&["--once"]);
    assert_eq!(played.status.code(), Some(0), "{}", stderr(&played));
    let text = String::from_utf8(played.stdout.clone()).unwrap();
    for said in [
        "the slot is free again",
        // A refusal's diagnostics, and what they mean.
        "      FOT_CHECK_FAILED_MESSAGESENDER_200000000360_MESSAGERECEIVER_918999198993\n",
        "      there is no agreement between the consumer and the practice.",
        "7 of 7 sessions as expected",
        "33 of 33 wrong requests as expected",
        " requests in ",
        "journal verified: its chain of ",
    ] {
        assert!(text.contains(said), "{said:?} is not in {text}");
    }
    assert!(!text.contains("WRONG"), "{text}");
    let progress = stderr(&played);
    for step in ["making certificates", "starting 5 practices", "starting the proxy", "ready"] {
        assert!(progress.contains(&format!(" s  {step}\n")), "{progress}");
    }
    assert_plain(&text);
    assert_plain(&progress);
}

#[test]
fn a_demonstration_that_is_stopped_before_its_end_has_not_passed() {
    let mut command = Command::new(program());
    command.args(["demo", "--once"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    lines.for_each(|line| drop(line.unwrap()));
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(stderr(&ended).contains("stopped by a signal before the end"), "{}", stderr(&ended));
}

/// Asserts that no line is too wide, and that there is no colour without a terminal.
fn assert_plain(text: &str) {
    for line in text.lines() {
        assert!(line.chars().count() <= 100, "{line}");
        assert!(!line.contains('\u{1b}'), "{line:?}");
    }
}

/// Demonstration that stays up, ended when this is dropped.
struct StayingDemo {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl StayingDemo {
    fn start() -> Self {
        let mut child = Command::new(program()).arg("demo").stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Reads lines up to one that contains a text.
    fn up_to(&mut self, text: &str) -> Vec<String> {
        let mut read = Vec::new();
        for line in self.lines.by_ref().map(Result::unwrap) {
            let is_last = line.contains(text);
            read.push(line);
            if is_last {
                return read;
            }
        }
        panic!("{text:?} is not in {read:#?}");
    }
}

impl Drop for StayingDemo {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        drop(self.child.wait());
    }
}

/// Commands among printed lines, those over several lines joined as printed.
fn commands(lines: &[String]) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let mut is_continued = false;
    for line in lines.iter().skip_while(|line| !line.starts_with("# ")) {
        if line.is_empty() || line.starts_with("# ") || line.starts_with("Requests from") {
            continue;
        }
        match commands.last_mut().filter(|_| is_continued) {
            Some(command) => *command = format!("{command}\n{line}"),
            None => commands.push(line.clone()),
        }
        is_continued = line.ends_with('\\');
    }
    commands
}

#[test]
fn every_command_that_the_demonstration_prints_works_as_printed_and_its_requests_are_shown() {
    if Command::new("curl").arg("--version").output().is_err() {
        testkit::report_missing("curl");
        return;
    }
    let mut demo = StayingDemo::start();
    let printed = demo.up_to("Requests from now on are shown here.");
    assert_plain(&printed.join("\n"));
    let commands = commands(&printed);
    assert_eq!(commands.len(), 16, "{commands:#?}");
    let mut booked = 0;
    for command in &commands {
        let output = Command::new("/bin/sh").args(["-c", command]).output().unwrap();
        let expected = match command {
            command if command.contains("--consumer clinic") => 1,
            // Nothing is contradicted, and nothing signed.
            command if command.contains("audit verify") => 3,
            _ => 0,
        };
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        let said = format!("{command}: {text}{}", stderr(&output));
        assert_eq!(output.status.code(), Some(expected), "{said}");
        if command.contains(" book ") {
            let appointment: Value = serde_json::from_str(&text).expect(&said);
            assert_eq!(appointment["status"], "booked", "{said}");
            booked += 1;
        }
        let is_anonymous = command.contains("--path-as-is") && !command.contains("call");
        assert!(!is_anonymous || text.contains("certificate_missing"), "{said}");
    }
    assert_eq!(booked, 2, "{commands:#?}");
    // The request without a certificate came after those of `call`.
    let shown = demo.up_to("certificate_missing");
    let is_booking =
        |line: &&String| line.contains(" hub ") && line.contains("create:appointment-1");
    let bookings: Vec<_> = shown.iter().filter(is_booking).collect();
    assert_eq!(bookings.len(), 2, "{shown:#?}");
    assert!(bookings.iter().all(|line| line.ends_with("A20047   201")), "{bookings:#?}");
    let refused = "clinic     rest:search:slot-1                 A20047   403 no_agreement";
    let at = shown.iter().position(|line| line.ends_with(refused));
    let at = at.unwrap_or_else(|| panic!("{shown:#?}"));
    assert!(shown[at + 1].contains("there is no agreement between the consumer"), "{shown:#?}");
    assert!(shown.last().is_some_and(|line| line.contains("Z  -          ")), "{shown:#?}");
    assert_plain(&shown.join("\n"));
}

#[test]
fn a_port_in_use_ends_the_demonstration_with_its_address() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let played = demo(&["--once", "--port", &address.port().to_string()]);
    assert_eq!(played.status.code(), Some(1));
    assert!(
        stderr(&played).contains(&format!("cannot listen on {address}")),
        "{}",
        stderr(&played)
    );
    assert!(played.stdout.is_empty());
}
