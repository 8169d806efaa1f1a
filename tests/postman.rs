//! Postman collection of Appointment Management, made of the catalogue of interactions, and run by newman against a lab.

use std::process::Command;

use serde_json::{Map, Value, json};
use spine_types::interaction::{self, CATALOGUE, Interaction, InteractionGroup};
use testkit::{report_missing, repository};

use crate::call::CallLab;
use crate::documents::holds;

const PATH: &str = "docs/integrate/spine-proxy.postman_collection.json";

/// Request of the collection, in the order of a session: each sets variables that later ones use.
struct CollectionRequest {
    name: &'static str,
    /// Name of the interaction, as `spine-proxy call` takes it.
    interaction: &'static str,
    query: &'static str,
    /// Variable with the id in the path.
    id: &'static str,
    /// Variable with the body.
    body: &'static str,
    /// Script that reads the answer.
    script: &'static str,
}

const fn request(name: &'static str, interaction: &'static str) -> CollectionRequest {
    CollectionRequest { name, interaction, query: "", id: "", body: "", script: "" }
}

fn requests() -> [CollectionRequest; 8] {
    let appointment = include_str!("postman/appointment.js");
    [
        request("Capability statement", "metadata"),
        CollectionRequest {
            query: "?identifier=https://fhir.nhs.uk/Id/nhs-number%7C{{nhs_number}}",
            script: include_str!("postman/patient.js"),
            ..request("Find a patient", "patients")
        },
        CollectionRequest {
            query: "?status=free&start=ge{{first_day}}&end=le{{last_day}}&_include=Slot:schedule\
                    &searchFilter=https://fhir.nhs.uk/Id/ods-organization-code%7C{{ods}}",
            script: include_str!("postman/slots.js"),
            ..request("Search for free slots", "slots")
        },
        CollectionRequest {
            body: "booking",
            script: appointment,
            ..request("Book the earliest slot", "book")
        },
        CollectionRequest {
            id: "appointment",
            script: appointment,
            ..request("Read the appointment", "read:appointment")
        },
        CollectionRequest {
            query: "?start=ge{{today}}&start=le{{last_day}}",
            id: "patient",
            ..request("Retrieve the patient's appointments", "appointments")
        },
        CollectionRequest {
            id: "appointment",
            body: "amended",
            script: appointment,
            ..request("Amend the appointment", "amend")
        },
        CollectionRequest {
            id: "appointment",
            body: "cancelled",
            ..request("Cancel the appointment", "cancel")
        },
    ]
}

impl CollectionRequest {
    fn interaction(&self) -> &'static Interaction {
        interaction::named(self.interaction).unwrap()
    }

    fn item(&self) -> Value {
        let interaction = self.interaction();
        let path = interaction.template().replace("[id]", &format!("{{{{{}}}}}", self.id));
        let header = |key: &str, value: &str| json!({"key": key, "value": value});
        let mut headers = vec![
            header("Ssp-TraceID", "{{$guid}}"),
            header("Ssp-From", "{{asid}}"),
            header("Ssp-To", "{{practice_asid}}"),
            header("Ssp-InteractionID", interaction.id),
            header("Accept", "application/fhir+json"),
        ];
        if interaction.method == http::Method::PUT {
            headers.push(header("If-Match", "{{version}}"));
        }
        let mut request = json!({
            "method": interaction.method.as_str(),
            "url": format!("{{{{proxy}}}}/{{{{root}}}}{path}{}", self.query),
        });
        if !self.body.is_empty() {
            headers.push(header("Content-Type", "application/fhir+json"));
            request["body"] = json!({"mode": "raw", "raw": format!("{{{{{}}}}}", self.body)});
        }
        request["header"] = Value::Array(headers);
        let status = if interaction.method == http::Method::POST { 201 } else { 200 };
        let check = format!("pm.test(\"{status}\", () => pm.response.to.have.status({status}));\n");
        let script = format!("{check}{}", self.script);
        json!({
            "name": self.name,
            "request": request,
            "event": [{"listen": "test", "script": {"type": "text/javascript", "exec": lines(&script)}}],
        })
    }
}

/// Lines of a script, as Postman keeps it.
fn lines(script: &str) -> Vec<&str> {
    script.lines().collect()
}

fn collection() -> Value {
    let requests = requests();
    let scopes = requests.iter().map(CollectionRequest::interaction);
    let scopes: Map<_, _> = scopes.map(|one| (one.id.to_owned(), one.scope.into())).collect();
    let token = format!(
        "const scopes = {};\n{}",
        serde_json::to_string_pretty(&scopes).unwrap(),
        include_str!("postman/token.js")
    );
    let variables = [
        ("proxy", "https://localhost"),
        ("root", "https://gp.example.nhs.uk/A20047/STU3/1/gpconnect"),
        ("practice_asid", "918999198993"),
        ("asid", "200000000359"),
        ("ods", "A00001"),
        ("nhs_number", "9990000018"),
    ];
    json!({
        "info": {
            "name": "GP Connect Appointment Management by spine-proxy",
            "description": "Generated from the catalogue of interactions. Set the variables, and the client certificate in Postman's \
                 settings; docs/integrate/languages.md says how.",
            "schema": "https://schema.getpostman.com/json/collection/v2.1.0/collection.json",
        },
        "auth": {"type": "bearer", "bearer": [{"key": "token", "value": "{{token}}", "type": "string"}]},
        "event": [{"listen": "prerequest", "script": {"type": "text/javascript", "exec": lines(&token)}}],
        "variable": variables.map(|(key, value)| json!({"key": key, "value": value})),
        "item": requests.iter().map(CollectionRequest::item).collect::<Vec<_>>(),
    })
}

#[test]
fn the_postman_collection_is_made_of_the_catalogue() {
    let text = serde_json::to_string_pretty(&collection()).unwrap();
    holds(PATH, &format!("{text}\n"));
    let ids: Vec<_> = requests().iter().map(|one| one.interaction().id).collect();
    for interaction in &CATALOGUE {
        let is_appointments = interaction.group == InteractionGroup::Appointments;
        assert!(!is_appointments || ids.contains(&interaction.id), "{}", interaction.id);
    }
}

/// Runs the whole collection, as its page says.
#[test]
fn the_requests_of_the_postman_collection_are_answered_by_a_lab() {
    let newman = repository::root().join("target/newman/node_modules/.bin/newman");
    if !newman.exists() {
        return report_missing("newman (.ci/run installs it)");
    }
    let lab = CallLab::start();
    let text = |pointer: &str| lab.lab.text(pointer).to_owned();
    let mut command = Command::new(newman);
    command.arg("run").arg(repository::root().join(PATH)).args(["--color", "off"]);
    for (option, pointer) in [
        ("--ssl-client-cert", "/consumers/0/certificate"),
        ("--ssl-client-key", "/consumers/0/key"),
        ("--ssl-extra-ca-certs", "/authority"),
    ] {
        command.arg(option).arg(text(pointer));
    }
    for (variable, pointer) in [
        ("proxy", "/proxy/url"),
        ("root", "/practices/0/root"),
        ("practice_asid", "/practices/0/asid"),
        ("asid", "/consumers/0/asid"),
        ("ods", "/consumers/0/ods"),
        ("nhs_number", "/patients/0/nhs_number"),
    ] {
        command.arg("--env-var").arg(format!("{variable}={}", text(pointer)));
    }
    let run = command.output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(said.matches("\u{2713}").count(), 8, "{said}");
}
