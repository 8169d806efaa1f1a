//! Audit events of BALP, which `audit export --format balp` writes: required elements of its profiles, and an
//! independent model of FHIR.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use testkit::process::serve;
use testkit::provider::answer;
use testkit::repository::root;
use testkit::{ProviderAction, TestBed, TestRequest, report_missing};

const BALP: &str = "https://profiles.ihe.net/ITI/BALP/CodeSystem/BasicAuditEntityType";
const DICOM: &str = "http://dicom.nema.org/resources/ontology/DCM";
const SOURCE: &str = "110153";
const DESTINATION: &str = "110152";

/// Exports the events of a journal, and holds each against what every event must have.
fn events(folder: &Path, options: &[&str]) -> Vec<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spine-proxy"));
    command.args(["audit", "export", "--format", "balp"]).args(options).arg(folder);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for event in &events {
        is_resource(event);
    }
    let file = folder.with_extension("balp.jsonl");
    std::fs::write(&file, text).unwrap();
    model_accepts(&file);
    events
}

/// Holds events against the model of FHIR that `.ci/run` installs.
fn model_accepts(file: &Path) {
    let python = root().join("target/fhir-model/bin/python");
    let has_model = Command::new(&python).args(["-c", "import fhir.resources"]).output();
    if !has_model.is_ok_and(|output| output.status.success()) {
        return report_missing("fhir.resources of Python (.ci/run installs it)");
    }
    let script = root().join(".ci/check-resources.py");
    let output = Command::new(python).arg(script).arg(file).arg("R4B").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Elements and invariants of FHIR R4 that every event has.
fn is_resource(event: &Value) {
    assert_eq!(event["resourceType"], "AuditEvent");
    assert!(!event.to_string().contains("null") && !event.to_string().contains("\"\""), "{event}");
    assert_eq!(event["id"].as_str().unwrap().len(), 36);
    assert!(event["type"]["code"].is_string() && event["source"]["observer"].is_object());
    let recorded: jiff::Timestamp = event["recorded"].as_str().unwrap().parse().unwrap();
    let start: jiff::Timestamp = event["period"]["start"].as_str().unwrap().parse().unwrap();
    assert!(start <= recorded);
    assert!(["0", "4", "8", "12"].contains(&event["outcome"].as_str().unwrap()));
    assert_eq!(event["outcome"] == "0", event["outcomeDesc"].is_null(), "{event}");
    let agents = event["agent"].as_array().unwrap();
    let requestors = agents.iter().filter(|agent| agent["requestor"].as_bool().unwrap());
    assert_eq!(requestors.count(), 1, "only one agent can be the initiator: {event}");
    let text = event.to_string();
    assert!(!text.contains("\"Person\"") && !text.contains("Patient/"), "{event}");
}

/// The one element of a list whose `type` has this code.
fn typed<'a>(list: &'a Value, system: &str, code: &str) -> &'a Value {
    let wanted = json!({"system": system, "code": code});
    let is_wanted = |item: &&Value| {
        item["type"] == wanted || item["type"]["coding"] == Value::Array(vec![wanted.clone()])
    };
    let found: Vec<_> = list.as_array().unwrap().iter().filter(is_wanted).collect();
    assert_eq!(found.len(), 1, "{code} in {list}");
    found[0]
}

/// Codes that a profile of BALP fixes.
struct BalpProfile {
    subtype: &'static str,
    action: &'static str,
    client: &'static str,
    user: &'static str,
}

const CREATE: BalpProfile =
    BalpProfile { subtype: "create", action: "C", client: SOURCE, user: "AUT" };
const READ: BalpProfile =
    BalpProfile { subtype: "read", action: "R", client: DESTINATION, user: "IRCP" };
const UPDATE: BalpProfile =
    BalpProfile { subtype: "update", action: "U", client: SOURCE, user: "AUT" };
const QUERY: BalpProfile =
    BalpProfile { subtype: "search", action: "E", client: SOURCE, user: "IRCP" };

impl BalpProfile {
    /// Holds an event against the elements that the profile requires.
    fn is_kept(&self, event: &Value, has_user: bool) {
        let rest = "http://terminology.hl7.org/CodeSystem/audit-event-type";
        assert_eq!(event["type"], json!({"system": rest, "code": "rest"}));
        let interaction = "http://hl7.org/fhir/restful-interaction";
        assert_eq!(event["subtype"], json!([{"system": interaction, "code": self.subtype}]));
        assert_eq!(event["action"], self.action);
        let server = if self.client == SOURCE { DESTINATION } else { SOURCE };
        for code in [self.client, server] {
            let agent = typed(&event["agent"], DICOM, code);
            assert!(agent["who"].is_object() && agent["network"].is_object(), "{agent}");
            assert!(agent["media"].is_null());
        }
        let participation = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType";
        if has_user {
            let user = typed(&event["agent"], participation, self.user);
            assert!(user["who"].is_object() && user["requestor"] == true, "{user}");
            assert!(user["network"].is_null() && user["media"].is_null());
        } else {
            assert!(!event["agent"].to_string().contains(participation), "{event}");
        }
        let object = "http://terminology.hl7.org/CodeSystem/audit-entity-type";
        let data = typed(&event["entity"], object, "2");
        let is_query = self.subtype == "search";
        let roles = "http://terminology.hl7.org/CodeSystem/object-role";
        let role = if is_query { "24" } else { "4" };
        assert_eq!(data["role"], json!({"system": roles, "code": role}));
        assert_eq!(data["what"].is_object(), !is_query);
        assert_eq!(data["_query"].is_object(), is_query);
        assert!(["lifecycle", "detail", "name", "query"].iter().all(|name| data[name].is_null()));
        let trace_id = typed(&event["entity"], BALP, "XrequestId");
        assert!(trace_id["what"]["identifier"]["value"].is_string());
    }
}

fn whom(agent: &Value) -> (&str, &str) {
    let identifier = &agent["who"]["identifier"];
    let system = identifier["system"].as_str().unwrap().rsplit('/').next().unwrap();
    (system, identifier["value"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn bookings_reads_changes_and_searches_have_what_their_profiles_require() {
    let bed = TestBed::with(|files| files.set("audit", "durability = \"every-request\"")).await;
    let location = "Location: https://p.example.nhs.uk/x/Appointment/148/_history/1\r\n";
    bed.provider.set_action(ProviderAction::answer("201 Created", location, "{}"));
    bed.send(TestRequest::book()).await;
    bed.provider.set_action(ProviderAction::ok());
    bed.send(TestRequest::to("read:appointment-1", "GET", "/Appointment/148")).await;
    let body = br#"{"resourceType":"Appointment"}"#;
    let change = TestRequest::to("cancel:appointment-1", "PUT", "/Appointment/148").body(body);
    bed.send(change.with("Content-Type", "application/fhir+json")).await;
    bed.send(TestRequest::slots()).await;
    bed.wait_for_closed_line(4).await;
    let events = events(&bed.path("audit"), &[]);
    let [booking, read, change, search] = &*events else { panic!("{events:?}") };
    CREATE.is_kept(booking, true);
    READ.is_kept(read, true);
    UPDATE.is_kept(change, true);
    QUERY.is_kept(search, true);
    for event in &events {
        assert_eq!(event["outcome"], "0");
        assert_eq!(event["purposeOfEvent"][0]["coding"][0]["code"], "TREAT");
        assert!(event["period"]["end"] == event["recorded"]);
    }
    let agents = &booking["agent"];
    let client = typed(agents, DICOM, SOURCE);
    assert_eq!(whom(client), ("nhsSpineASID", "200000000359"));
    assert_eq!(
        (&client["name"], &client["requestor"]),
        (&"hub.example.nhs.uk".into(), &false.into())
    );
    assert_eq!(client["altId"].as_str().unwrap().len(), 64);
    let server = typed(agents, DICOM, DESTINATION);
    assert_eq!(whom(server), ("nhsSpineASID", "918999198993"));
    for agent in [client, server] {
        assert_eq!(agent["network"], json!({"address": "127.0.0.1", "type": "2"}));
    }
    let [_, _, practice, user, organisation] = agents.as_array().unwrap().as_slice() else {
        panic!("{agents}")
    };
    assert_eq!(whom(practice), ("ods-organization-code", "A20047"));
    assert_eq!(whom(user), ("sds-user-id", "111222333444"));
    assert_eq!(user["name"], "Dr Iris Invented");
    assert_eq!(user["role"][0]["coding"][0]["code"], "444555666777");
    assert_eq!(whom(organisation), ("ods-organization-code", "A00001"));
    let what = |event: &Value| event["entity"][0]["what"]["reference"].clone();
    assert_eq!(what(booking), "Appointment/148/_history/1");
    assert_eq!(what(read), "Appointment/148");
    assert_eq!(search["entity"][0]["_query"]["extension"][0]["valueCode"], "masked");
    assert!(!search.to_string().contains("status=free"));
    assert_eq!(
        booking["source"],
        json!({"observer": {"type": "Device", "display": "spine-proxy"}})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_have_an_outcome_of_their_severity_and_still_every_required_element() {
    let bed = TestBed::new().await;
    bed.provider.set_action(ProviderAction::answer("404 Not Found", "", "{}"));
    bed.send(TestRequest::to("read:appointment-1", "GET", "/Appointment/148")).await;
    bed.send(TestRequest::to("read:appointment-1", "GET", "/Appointment/148").certificate("none"))
        .await;
    bed.send(TestRequest::book().token("Bearer x")).await;
    bed.provider.set_action(ProviderAction::CloseAfterHead);
    bed.send(TestRequest::book()).await;
    let partial = answer("200 OK", "", "{\"resourceType\":\"Bundle\"}");
    bed.provider.set_action(ProviderAction::WriteAndReset(partial[..partial.len() - 5].to_vec()));
    TestRequest::slots().try_send_to(&bed, bed.address()).await;
    bed.send(TestRequest::slots().without("Ssp-InteractionID").without("Ssp-From")).await;
    bed.wait_for_closed_line(6).await;
    let found = events(&bed.path("audit"), &[]);
    let outcomes: Vec<_> = found
        .iter()
        .map(|event| (event["outcome"].as_str().unwrap(), event["outcomeDesc"].as_str().unwrap()))
        .collect();
    let expected = [
        ("4", "answered with status 404"),
        ("4", "certificate_missing"),
        ("4", "token_malformed"),
        ("8", "outcome_unknown"),
        ("8", "aborted by provider in body"),
        ("4", "from_missing"),
    ];
    assert_eq!(outcomes, expected);
    READ.is_kept(&found[0], true);
    READ.is_kept(&found[1], false);
    CREATE.is_kept(&found[2], false);
    CREATE.is_kept(&found[3], true);
    QUERY.is_kept(&found[4], true);
    assert!(found[5]["subtype"].is_null() && found[5]["action"] == "E");
    let client = typed(&found[1]["agent"], DICOM, DESTINATION);
    assert_eq!(client["who"], json!({"display": "unverified: 200000000359"}));
    assert_eq!(client["requestor"], true);
    let server = typed(&found[2]["agent"], DICOM, DESTINATION);
    assert_eq!(server["network"]["extension"][0]["valueCode"], "unknown");
    // The opened line of a booking has its claims, the closed one its outcome.
    let one = events(&bed.path("audit"), &["--refusal", "outcome_unknown"]);
    assert_eq!(one, [found[3].clone()]);
    assert_eq!(events(&bed.path("audit"), &["--outcome", "Aborted"]), [found[4].clone()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_without_an_end_is_a_failure_and_one_that_a_crash_left_open_a_major_one() {
    let bed = TestBed::new().await;
    bed.provider.set_action(ProviderAction::Silence);
    let mut served = serve(&bed);
    let booking = TestRequest::book();
    let folder = bed.path("own");
    tokio::join!(booking.try_send_to(&bed, served.address), async {
        bed.provider.wait_for_requests(1).await;
        let [event] = &*events(&folder, &[]) else { panic!("one exchange") };
        CREATE.is_kept(event, true);
        assert_eq!((&event["outcome"], &event["outcomeDesc"]), (&"8".into(), &"not closed".into()));
        assert!(event["period"]["end"].is_null());
        served.child.kill().unwrap();
        served.child.wait().unwrap();
    });
    let mut served = serve(&bed);
    served.signal("TERM");
    assert!(served.child.wait().unwrap().success());
    let [event] = &*events(&folder, &[]) else { panic!("one exchange") };
    CREATE.is_kept(event, true);
    assert_eq!(event["outcome"], "12");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_site_is_the_origin_of_the_journals_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("audit");
    std::fs::create_dir(&journal).unwrap();
    let bed = TestBed::new().await;
    bed.send(TestRequest::slots()).await;
    bed.wait_for_closed_line(1).await;
    let text = bed.journal("audit");
    let text = text.replacen(
        "\"event\":\"started\"",
        "\"event\":\"started\",\"origin\":\"gw1.example.nhs.uk/audit/1\"",
        1,
    );
    std::fs::write(journal.join(format!("{:020}.jsonl", 1)), text).unwrap();
    let [event] = &*events(&journal, &[]) else { panic!("one exchange") };
    assert_eq!(event["source"]["site"], "gw1.example.nhs.uk/audit/1");
}
