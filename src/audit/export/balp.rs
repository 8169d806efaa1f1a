//! Audit events of BALP: exchanges as resources of FHIR R4, which audit repositories receive.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::ExportedLine;

const ASID: &str = "https://fhir.nhs.uk/Id/nhsSpineASID";
const ODS: &str = "https://fhir.nhs.uk/Id/ods-organization-code";
const USER_ID: &str = "https://fhir.nhs.uk/Id/sds-user-id";
const ROLE_PROFILE: &str = "https://fhir.nhs.uk/Id/sds-role-profile-id";
const DICOM: &str = "http://dicom.nema.org/resources/ontology/DCM";
const EVENT_TYPE: &str = "http://terminology.hl7.org/CodeSystem/audit-event-type";
const INTERACTION: &str = "http://hl7.org/fhir/restful-interaction";
const PARTICIPATION: &str = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType";
const ROLE_CLASS: &str = "http://terminology.hl7.org/CodeSystem/v3-RoleClass";
const PROVENANCE: &str = "http://terminology.hl7.org/CodeSystem/provenance-participant-type";
const PURPOSE: &str = "http://terminology.hl7.org/CodeSystem/v3-ActReason";
const ENTITY_TYPE: &str = "http://terminology.hl7.org/CodeSystem/audit-entity-type";
const OBJECT_ROLE: &str = "http://terminology.hl7.org/CodeSystem/object-role";
const BALP_ENTITY_TYPE: &str = "https://profiles.ihe.net/ITI/BALP/CodeSystem/BasicAuditEntityType";
const ABSENT_REASON: &str = "http://hl7.org/fhir/StructureDefinition/data-absent-reason";

impl ExportedLine {
    /// Returns an exchange as an `AuditEvent` of FHIR R4 on one line, from its joined or only line; `None` for
    /// the journal's lines about itself. `origin` is the name of the journal in its checkpoints.
    ///
    /// Source: IHE ITI Basic Audit Log Patterns, profiles Create, Read, Update and Query. Departures:
    /// - No entity is the patient, and no profile is claimed: the journal never knows whether a resource is a
    ///   patient's.
    /// - The query of a search is `masked`, since the journal never holds one. Other required elements that
    ///   the journal does not have are `unknown`, such as the provider's address after a refusal.
    /// - Operations, reads of `metadata`, unknown interactions and failed handshakes have no profile in BALP.
    /// - An appointment's reference is relative to the practice's service root.
    #[must_use]
    pub fn audit_event(&self, origin: Option<&str>) -> Option<String> {
        let (began, ended) = (self.began()?, self.time()?);
        let is_closed = match self.text("event")? {
            "opened" => false,
            "closed" => true,
            _ => return None,
        };
        let (subtype, action) = interaction(self.text("interaction").unwrap_or_default());
        let (kind, subtype_coding) = match self.text("method") {
            // DICOM: a security alert about the authentication of a node.
            Some("_HANDSHAKE") => (coding(DICOM, "110113"), Some(coding(DICOM, "110126"))),
            _ => (coding(EVENT_TYPE, "rest"), subtype.map(|code| coding(INTERACTION, code))),
        };
        let (outcome, why) = outcome(self);
        let mut event = json!({
            "resourceType": "AuditEvent",
            "id": self.text("id"),
            "type": kind,
            "subtype": subtype_coding.map(|coding| [coding]),
            "action": action,
            "period": {
                "start": format!("{began:.6}"),
                "end": is_closed.then(|| format!("{ended:.6}")),
            },
            "recorded": format!("{ended:.6}"),
            "outcome": outcome,
            "outcomeDesc": why,
            "purposeOfEvent": self.claim("reason").map(|reason| [purpose(reason)]),
            "agent": agents(self, action),
            "source": {"site": origin, "observer": {"type": "Device", "display": "spine-proxy"}},
            "entity": entities(self, subtype),
        });
        prune(&mut event);
        Some(event.to_string())
    }

    /// Returns the text of a claim; `None` if it is missing.
    fn claim(&self, name: &str) -> Option<&str> {
        self.0.get("claims")?.get(name)?.as_str()
    }
}

/// Returns FHIR's code and DICOM's action for an interaction. One that is not in the catalogue was never
/// forwarded, and has no code.
fn interaction(id: &str) -> (Option<&'static str>, &'static str) {
    let mut words = id.rsplit(':');
    match (words.next(), words.next()) {
        (Some("metadata-1"), Some("read")) => (Some("capabilities"), "R"),
        (_, Some("read" | "migrate")) => (Some("read"), "R"),
        (_, Some("create")) => (Some("create"), "C"),
        (_, Some("update" | "cancel")) => (Some("update"), "U"),
        (_, Some("search")) => (Some("search"), "E"),
        (_, Some("operation")) => (Some("operation"), "E"),
        _ => (None, "E"),
    }
}

/// Returns the code of the outcome, and its description unless it is a success.
///
/// Source: FHIR R4, value set `audit-event-outcome`: 4 is a failure "often equivalent to an HTTP 400 response", 8
/// an unexpected error "often equivalent to an HTTP 500 response", and 12 means that "the system died". An
/// exchange that was aborted, or has no end in the journal, is 8 even if the practice may have done what was
/// asked; one that a crash left open is 12.
fn outcome(line: &ExportedLine) -> (&'static str, Option<String>) {
    let text = |name| line.text(name).unwrap_or_default();
    let status = line.number("status").unwrap_or_default();
    let failure = if status >= 500 { "8" } else { "4" };
    match (text("event"), text("outcome")) {
        ("closed", "answered") if status < 400 => ("0", None),
        ("closed", "answered") => (failure, Some(format!("answered with status {status}"))),
        ("closed", "refused") => (failure, Some(text("refusal").to_owned())),
        ("closed", _) => {
            ("8", Some(format!("aborted by {} in {}", text("ended_by"), text("ended_in"))))
        }
        _ if line.number("opened_seq").is_some() => ("12", Some("left open by a crash".to_owned())),
        _ => ("8", Some("not closed".to_owned())),
    }
}

/// Returns the participants: client, server, the server's practice, user and the user's organisation.
///
/// DICOM's destination is the client of a read and otherwise the server. The certificate is the client's
/// `name`, its SHA-256 the `altId`.
fn agents(line: &ExportedLine, action: &str) -> Vec<Value> {
    const SOURCE: &str = "110153";
    const DESTINATION: &str = "110152";
    let (client, server) = match action {
        "R" => (DESTINATION, SOURCE),
        _ => (SOURCE, DESTINATION),
    };
    let has_user = line.claim("subject").is_some();
    let mut agents = vec![
        json!({
            "type": concept(DICOM, client),
            "who": match (line.text("from"), line.text("certificate")) {
                (Some(asid), Some(_)) => identified(ASID, asid),
                // Without a certificate, anybody may have sent the header.
                (Some(asid), None) => json!({"display": format!("unverified: {asid}")}),
                (None, _) => absent("unknown"),
            },
            "altId": line.text("certificate_sha256"),
            "name": line.text("certificate"),
            "requestor": !has_user,
            "network": network(line.text("client")),
        }),
        json!({
            "type": concept(DICOM, server),
            "who": line.text("to").map_or_else(|| absent("unknown"), |to| identified(ASID, to)),
            "requestor": false,
            "network": network(line.text("provider")),
        }),
    ];
    // A custodian of v3-ParticipationType would be taken for BALP's user.
    let practice = |ods| organisation(PROVENANCE, "custodian", ods);
    agents.extend(line.text("ods").map(practice));
    agents.extend(has_user.then(|| user(line, action)));
    let employer = |ods| organisation(ROLE_CLASS, "PROV", ods);
    agents.extend(line.claim("organisation").map(employer));
    agents
}

/// Returns the user whom the claims name: the author of what is written, else the recipient.
fn user(line: &ExportedLine, action: &str) -> Value {
    let known = |name| line.claim(name).filter(|id| *id != "UNK");
    let kind = if matches!(action, "C" | "U") { "AUT" } else { "IRCP" };
    let mut who = match known("user_id") {
        Some(id) => identified(USER_ID, id),
        None => json!({"identifier": {"value": line.claim("subject")}}),
    };
    if let Some(who) = who.as_object_mut() {
        who.insert("display".to_owned(), line.claim("user_name").into());
    }
    // A code has single spaces only.
    let words = |id: &str| id.split_whitespace().collect::<Vec<_>>().join(" ");
    json!({
        "type": concept(PARTICIPATION, kind),
        "role": known("role_profile_id").map(|id| [concept(ROLE_PROFILE, &words(id))]),
        "who": who,
        "name": line.claim("user_name"),
        "requestor": true,
        "purposeOfUse": line.claim("reason").map(|reason| [purpose(reason)]),
    })
}

fn organisation(system: &str, code: &str, ods: &str) -> Value {
    let identifier = json!({"system": ODS, "value": ods});
    json!({
        "type": concept(system, code),
        "who": {"identifier": identifier, "display": ods},
        "requestor": false,
    })
}

/// Returns the objects of an exchange: its query or data, and its trace id, which is BALP's `X-Request-Id`.
fn entities(line: &ExportedLine, subtype: Option<&str>) -> Vec<Value> {
    let interaction = line.text("interaction");
    let description: Vec<_> = line.text("method").into_iter().chain(interaction).collect();
    let is_query = subtype == Some("search");
    let what = match (line.text("resource"), interaction) {
        (Some(resource), _) => json!({"reference": resource}),
        (None, Some(interaction)) => json!({"display": interaction}),
        (None, None) => absent("unknown"),
    };
    let mut entities = vec![json!({
        "what": (!is_query).then_some(what),
        "type": coding(ENTITY_TYPE, "2"),
        "role": coding(OBJECT_ROLE, if is_query { "24" } else { "4" }),
        "description": description.join(" "),
        "_query": is_query.then(|| absent("masked")),
    })];
    let transaction = |id| {
        json!({
            "what": {"identifier": {"value": id}},
            "type": coding(BALP_ENTITY_TYPE, "XrequestId"),
        })
    };
    entities.extend(line.text("trace_id").map(transaction));
    entities
}

fn network(address: Option<&str>) -> Value {
    match address.and_then(|address| address.parse::<SocketAddr>().ok()) {
        Some(address) => json!({"address": address.ip().to_string(), "type": "2"}),
        None => absent("unknown"),
    }
}

fn purpose(reason: &str) -> Value {
    match reason {
        "directcare" => concept(PURPOSE, "TREAT"),
        _ => json!({"text": reason}),
    }
}

fn coding(system: &str, code: &str) -> Value {
    json!({"system": system, "code": code})
}

fn concept(system: &str, code: &str) -> Value {
    json!({"coding": [coding(system, code)]})
}

fn identified(system: &str, value: &str) -> Value {
    json!({"identifier": {"system": system, "value": value}})
}

/// Returns an element that has no value, with the code of the reason.
fn absent(reason: &str) -> Value {
    json!({"extension": [{"url": ABSENT_REASON, "valueCode": reason}]})
}

/// Removes members without a value, since FHIR allows neither `null` nor empty text.
fn prune(value: &mut Value) {
    let is_empty = |value: &Value| {
        value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty())
    };
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !is_empty(member));
            members.values_mut().for_each(prune);
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use spine_types::interaction::CATALOGUE;

    use super::*;

    #[test]
    fn every_interaction_of_the_catalogue_has_a_code_that_fits_its_method() {
        for known in &CATALOGUE {
            let expected: &[_] = match known.method {
                Method::GET => &["read", "search", "capabilities"],
                Method::POST => &["create", "operation"],
                _ => &["update"],
            };
            let (code, action) = interaction(known.id);
            assert!(expected.contains(&code.unwrap()), "{}: {code:?}", known.id);
            let read_or_executed = matches!(action, "R" | "E");
            assert_eq!(read_or_executed, !matches!(code, Some("create" | "update")));
        }
        assert_eq!(interaction(""), (None, "E"));
    }
}
