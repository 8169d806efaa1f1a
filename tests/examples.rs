//! Examples of `docs/integrate/languages` and `docs/test/junit`, each run as its page says, against a lab; and what the
//! pages say about patients, token and booking.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use gpconnect_simulator::people;
use serde_json::{Value, json};
use spine_proxy::claims;
use testkit::test_bed::now_s;
use testkit::{program, report_missing, report_not_installable, repository};

use crate::call::CallLab;
use crate::documents::holds;

fn languages() -> PathBuf {
    repository::root().join("docs/integrate/languages")
}

/// Runs a program to its end; `None` if it is not installed.
fn run(command: &mut Command) -> Option<Output> {
    match command.output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => panic!("{}: {error}", command.get_program().display()),
    }
}

fn is_installed(program: &str) -> bool {
    run(Command::new(program).arg("--version")).is_some()
}

/// Runs an example against a lab of its own: it books, reads and cancels one appointment.
fn books_reads_and_cancels(command: &mut Command) {
    let lab = CallLab::start();
    let output = run(command.arg(lab.file())).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{error}");
    let expected = "GET /Patient 200\nGET /Slot 200\nPOST /Appointment 201\nGET /Appointment/1 200\n\
         PUT /Appointment/1 200\nappointment 1 cancelled\n";
    assert_eq!(said, expected, "{error}");
    assert_eq!(lab.lab.stop(), Some(0));
}

#[test]
fn the_example_with_curl_books_reads_and_cancels() {
    for needed in ["bash", "curl", "jq"] {
        if !is_installed(needed) {
            return report_missing(needed);
        }
    }
    books_reads_and_cancels(Command::new("bash").arg(languages().join("booking.sh")));
}

#[test]
fn the_example_in_java_books_reads_and_cancels() {
    if !is_installed("javac") {
        return report_missing("java with a compiler");
    }
    books_reads_and_cancels(Command::new("java").arg(languages().join("Booking.java")));
}

#[test]
fn the_example_in_python_books_reads_and_cancels() {
    if !is_installed("python3") {
        return report_missing("python3");
    }
    books_reads_and_cancels(Command::new("python3").arg(languages().join("booking.py")));
}

#[test]
fn the_example_in_node_books_reads_and_cancels() {
    if !is_installed("node") {
        return report_missing("node");
    }
    books_reads_and_cancels(Command::new("node").arg(languages().join("booking.mjs")));
}

/// `.ci/run` cannot install the SDK, which Debian does not have.
#[test]
fn the_example_in_csharp_books_reads_and_cancels() {
    if !is_installed("dotnet") {
        return report_not_installable("dotnet");
    }
    let built = tempfile::tempdir().unwrap();
    for name in ["Booking.cs", "Booking.csproj"] {
        std::fs::copy(languages().join(name), built.path().join(name)).unwrap();
    }
    let mut dotnet = Command::new("dotnet");
    dotnet.args(["run", "--project"]).arg(built.path()).arg("--");
    books_reads_and_cancels(&mut dotnet);
}

/// Console of `JUnit` 5, as Debian's package `junit5` installs it.
const JUNIT: &str = "/usr/share/java/junit-platform-console-standalone.jar";

#[test]
fn the_cases_of_the_junit_example_pass_against_a_lab() {
    if !is_installed("javac") || !Path::new(JUNIT).exists() {
        return report_missing("junit5");
    }
    let classes = tempfile::tempdir().unwrap();
    let mut javac = Command::new("javac");
    javac.args(["-cp", JUNIT, "-d"]).arg(classes.path()).arg(languages().join("Booking.java"));
    let compiled = javac.args(repository::files("docs/test/junit", "java")).output().unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let mut java = Command::new("java");
    java.args(["-jar", JUNIT, "--disable-banner", "--class-path"]).arg(classes.path());
    let run = java.arg("--scan-class-path").env("SPINE_PROXY", program()).output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && said.contains(" 4 tests successful "), "{said}");
}

const PAGE: &str = include_str!("../docs/integrate/languages.md");

#[test]
fn the_table_of_patients_is_that_of_the_simulator() {
    let (before, rest) = PAGE.split_once("<!-- patients -->\n").unwrap();
    let (_, after) = rest.split_once("<!-- /patients -->").unwrap();
    let row = |person: &gpconnect_simulator::InventedPerson| {
        let name = format!("{} {}", person.given, person.family);
        let registration = json!(person.registration);
        let registration = registration.as_str().unwrap();
        format!("| {} | {name} | {registration} |\n", person.nhs_number)
    };
    let rows: String = people().iter().map(row).collect();
    let page = format!("{before}<!-- patients -->\n{rows}<!-- /patients -->{after}");
    holds("docs/integrate/languages.md", &page);
}

/// The first JSON in a document.
fn first_json(document: &str) -> Value {
    let (_, rest) = document.split_once("```json\n").unwrap();
    serde_json::from_str(rest.split_once("```").unwrap().0).unwrap()
}

/// Sends the body and the token of the pages, with what depends on the lab and the day replaced.
#[test]
fn the_booking_and_the_claims_of_the_pages_are_accepted() {
    let lab = CallLab::start();
    let found = lab.answered(&["slots", "A20047"]);
    let resource = |kind: &str| {
        let all = found["entry"].as_array().unwrap().iter().map(|entry| &entry["resource"]);
        all.clone().find(|resource| resource["resourceType"] == kind).unwrap().clone()
    };
    let slot = resource("Slot");
    let schedules = found["entry"].as_array().unwrap().iter().map(|entry| &entry["resource"]);
    let named = |one: &&Value| {
        slot["schedule"]["reference"]
            == format!("Schedule/{}", one["id"].as_str().unwrap_or_default())
    };
    let schedule = schedules.filter(|one| one["resourceType"] == "Schedule").find(named).unwrap();
    let actors = schedule["actor"].as_array().unwrap().iter();
    let mut references = actors.map(|actor| actor["reference"].as_str().unwrap());
    let location = references.find(|reference| reference.starts_with("Location/")).unwrap();
    let patients = lab.answered(&["patients", "A20047", "--patient", &lab.patient()]);
    let patient = patients["entry"][0]["resource"]["id"].as_str().unwrap();

    let mut booking = first_json(PAGE);
    for member in ["start", "end"] {
        booking[member] = slot[member].clone();
    }
    booking["slot"][0]["reference"] = json!(format!("Slot/{}", slot["id"].as_str().unwrap()));
    booking["participant"][0]["actor"]["reference"] = json!(format!("Patient/{patient}"));
    booking["participant"][1]["actor"]["reference"] = json!(location);
    let mut token = first_json(include_str!("../docs/integrate/request.md"));
    let now = now_s();
    for (claim, value) in [
        ("aud", json!(lab.lab.text("/practices/0/root"))),
        ("iat", json!(now)),
        ("exp", json!(now + 300)),
        ("requested_scope", json!("patient/*.write")),
    ] {
        assert!(token[claim].is_string() || token[claim].is_number(), "{claim}");
        token[claim] = value;
    }
    let header = format!("Authorization: Bearer {}", claims::mint(&token));
    let data = booking.to_string();
    let booked = lab.answered(&["book", "A20047", "--data", &data, "--header", &header]);
    assert_eq!(booked["status"], "booked");
}
