//! Interactions besides appointments: the capability statement, and reads and searches of patients,
//! practitioners, organisations and locations.

use serde_json::{Value, json};

use super::people::is_nhs_number;
use super::reply::{InteractionResult, ReplyFault, ResourceReply, SpineErrorCode};
use super::store::Store;
use super::{Call, fhir};

/// Spec: the capability statement, which is answered even when GP Connect is switched off.
pub(super) fn metadata() -> ResourceReply {
    let resource = |kind: &str, interactions: &[&str]| {
        let interactions: Vec<Value> =
            interactions.iter().map(|code| json!({ "code": code })).collect();
        json!({ "type": kind, "interaction": interactions })
    };
    ResourceReply::plain(json!({
        "resourceType": "CapabilityStatement",
        "version": "1.2.7",
        "name": "GP Connect provider simulator",
        "status": "active",
        "date": "2026-01-01",
        "publisher": "spine-proxy",
        "kind": "instance",
        "software": { "name": "spine-proxy-simulator", "version": env!("CARGO_PKG_VERSION") },
        "fhirVersion": "3.0.1",
        "acceptUnknown": "both",
        "format": ["application/fhir+json", "application/fhir+xml"],
        "rest": [{ "mode": "server", "operation": [{
            "name": "gpc.registerpatient",
            "definition": { "reference": "OperationDefinition/GPConnect-RegisterPatient-Operation-1" },
        }], "resource": [
            resource("Patient", &["read", "search-type"]),
            resource("Organization", &["read", "search-type"]),
            resource("Practitioner", &["read", "search-type"]),
            resource("Location", &["read"]),
            resource("Appointment", &["read", "create", "update", "search-type"]),
            resource("Slot", &["search-type"]),
        ] }],
    }))
}

/// Spec: `GET /[kind]/[id]`.
pub(super) fn read(store: &Store, call: &Call<'_>, kind: &'static str) -> InteractionResult {
    let missing = match kind {
        "Patient" => SpineErrorCode::PatientNotFound,
        "Practitioner" => SpineErrorCode::PractitionerNotFound,
        "Organization" => SpineErrorCode::OrganisationNotFound,
        _ => SpineErrorCode::NoRecordFound,
    };
    let found = store.resource(kind, call.id);
    let found = found.ok_or_else(|| {
        ReplyFault::new(missing, format!("there is no such {kind} at this practice"))
    })?;
    Ok(ResourceReply::resource(found.clone()))
}

/// Spec: `GET /[kind]?identifier=[system]|[value]`; without a match, the bundle is empty.
pub(super) fn search(store: &Store, call: &Call<'_>, kind: &'static str) -> InteractionResult {
    let identifiers = call.parameters.all("identifier");
    let &[identifier] = identifiers.as_slice() else {
        return Err(ReplyFault::bad_request("the identifier parameter must be given exactly once"));
    };
    let (system, value) = identifier
        .split_once('|')
        .filter(|(system, value)| !system.is_empty() && !value.is_empty())
        .ok_or_else(|| ReplyFault::parameter("an identifier must have a system and a value"))?;
    let expected = match kind {
        "Patient" => fhir::NHS_NUMBER,
        "Practitioner" => fhir::SDS_USER,
        _ => fhir::ODS_CODE,
    };
    if system != expected {
        let diagnostics = format!("the identifier system for {kind} is {expected}");
        return Err(ReplyFault::new(SpineErrorCode::InvalidIdentifierSystem, diagnostics));
    }
    if kind == "Patient" && !is_nhs_number(value) {
        return Err(ReplyFault::new(
            SpineErrorCode::InvalidNhsNumber,
            "the check digit of the NHS number is wrong",
        ));
    }
    let found = store.find_by_identifier(kind, system, value);
    Ok(ResourceReply::plain(fhir::bundle(found.into_iter().cloned())))
}

#[cfg(test)]
mod tests {
    use super::super::stage::{Stage, code_of, of_type};

    #[test]
    fn resources_are_read_by_id_and_carry_their_version() {
        let stage = Stage::new();
        for (kind, ids, code) in [
            ("Patient", 4, "PATIENT_NOT_FOUND"),
            ("Practitioner", 3, "PRACTITIONER_NOT_FOUND"),
            ("Organization", 1, "ORGANISATION_NOT_FOUND"),
            ("Location", 2, "NO_RECORD_FOUND"),
        ] {
            let short = format!("read:{}-1", kind.to_lowercase());
            for id in 1..=ids {
                let (status, headers, body) = stage.get(&short, &format!("/{kind}/{id}"));
                assert_eq!((status, &body["resourceType"]), (200, &kind.into()));
                assert_eq!(headers["etag"], "W/\"1\"");
                assert!(body["meta"]["profile"][0].as_str().unwrap().contains(kind));
            }
            for id in ["99", "dd", "01", "5", "6", "7"] {
                let (status, _, body) = stage.get(&short, &format!("/{kind}/{id}"));
                assert_eq!((status, code_of(&body)), (404, code), "{kind}/{id}");
            }
        }
    }

    #[test]
    fn a_search_by_identifier_returns_a_match_or_the_specified_error() {
        let stage = Stage::new();
        let (nhs, ods) =
            ("https://fhir.nhs.uk/Id/nhs-number", "https://fhir.nhs.uk/Id/ods-organization-code");
        for (kind, query, status, code, count) in [
            (
                "Patient",
                format!("identifier={nhs}|{}", super::super::people()[0].nhs_number),
                200,
                "",
                1,
            ),
            ("Patient", format!("identifier={nhs}%7C9434765919"), 200, "", 0),
            ("Patient", format!("identifier={nhs}|9434765918"), 400, "INVALID_NHS_NUMBER", 0),
            ("Patient", format!("identifier={nhs}|"), 422, "INVALID_PARAMETER", 0),
            ("Patient", "identifier=9434765919".to_owned(), 422, "INVALID_PARAMETER", 0),
            ("Patient", "identifier=|9434765919".to_owned(), 422, "INVALID_PARAMETER", 0),
            ("Patient", format!("identifier={ods}|A20047"), 400, "INVALID_IDENTIFIER_SYSTEM", 0),
            ("Patient", String::new(), 400, "BAD_REQUEST", 0),
            ("Patient", format!("Identifier={nhs}|9434765919"), 400, "BAD_REQUEST", 0),
            (
                "Patient",
                format!("identifier={nhs}|9434765919&identifier=x|y"),
                400,
                "BAD_REQUEST",
                0,
            ),
            ("Organization", format!("identifier={ods}|A20047"), 200, "", 1),
            ("Organization", format!("identifier={ods}|B82617"), 200, "", 0),
            (
                "Practitioner",
                "identifier=https://fhir.nhs.uk/Id/sds-user-id|G0000002".to_owned(),
                200,
                "",
                1,
            ),
            ("Practitioner", format!("identifier={nhs}|x"), 400, "INVALID_IDENTIFIER_SYSTEM", 0),
        ] {
            let short = format!("search:{}-1", kind.to_lowercase());
            let (got, _, body) = stage.get(&short, &format!("/{kind}?{query}"));
            assert_eq!((got, code_of(&body)), (status, code), "{query}");
            assert_eq!(of_type(&body, kind).len(), count, "{query}");
        }
    }

    #[test]
    fn the_capability_statement_names_its_versions() {
        let (status, _, body) = Stage::new().get("read:metadata-1", "/metadata");
        assert_eq!(
            (status, &body["fhirVersion"], &body["version"]),
            (200, &"3.0.1".into(), &"1.2.7".into())
        );
    }
}
