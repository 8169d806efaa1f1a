//! Registration of a patient who is new to the practice.

use jiff::civil::Date;
use serde_json::Value;

use super::people::{InventedPerson, Registration, is_nhs_number};
use super::reply::{InteractionResult, ReplyFault, ResourceReply, SpineErrorCode, require};
use super::state::{Change, Patient};
use super::store::{ORGANISATION, Store};
use super::{Call, codes, fhir};

/// Elements that a patient in a registration may have.
#[rustfmt::skip]
const ELEMENTS: [&str; 13] = [
    "resourceType", "id", "meta", "implicitRules", "language", "text", "extension", "identifier",
    "name", "telecom", "gender", "birthDate", "address",
];
const LANGUAGES: &str = "Extension-CareConnect-GPC-NHSCommunication-1";

/// Spec: `POST /Patient/$gpc.registerpatient` with one `registerPatient` parameter; returns a
/// searchset of one patient.
pub(super) fn register(store: &Store, call: &Call<'_>) -> InteractionResult {
    let parameters = Value::Object(call.resource()?);
    let sent = patient(&parameters)?;
    let nhs_number = judge_identifier(sent)?;
    let (family, given) = judge_name(sent)?;
    let birth_date = fhir::text(sent, "/birthDate").unwrap_or_default();
    if birth_date.parse::<Date>().is_err() {
        return Err(ReplyFault::bad_request("the birth date is missing or not a date"));
    }
    judge_contacts(sent)?;
    if store.is_patient(nhs_number) {
        return Err(ReplyFault::new(
            SpineErrorCode::DuplicateRejected,
            "the patient is already registered at this practice",
        ));
    }
    let gender = fhir::text(sent, "/gender").unwrap_or("unknown");
    require(codes::GENDERS.contains(&gender), "the gender is not a code of FHIR")?;
    let traced = trace(store, nhs_number)?;
    if !traced.family.eq_ignore_ascii_case(family) {
        return Err(ReplyFault::bad_request("the family name does not match the traced person"));
    }
    if traced.birth_date != birth_date {
        return Err(ReplyFault::new(
            SpineErrorCode::InvalidDemographics,
            "the birth date does not match the traced person",
        ));
    }
    let person = InventedPerson {
        nhs_number: nhs_number.to_owned(),
        family: family.to_owned(),
        given: given.to_owned(),
        gender: gender.to_owned(),
        birth_date: birth_date.to_owned(),
        registration: Registration::Temporary,
    };
    let id = store.next_patient();
    let mut resource = fhir::patient(id, &person, ORGANISATION, call.now);
    copy_contacts(&mut resource, sent);
    let stored = Patient {
        nhs_number: person.nhs_number,
        registration: person.registration,
        resource: resource.clone(),
    };
    Ok(ResourceReply::plain(fhir::bundle([resource]))
        .with_changes(vec![Change::Patient(id, stored)]))
}

/// Returns the patient, which must be the only parameter.
fn patient(parameters: &Value) -> Result<&Value, ReplyFault> {
    let kind = fhir::text(parameters, "/resourceType");
    require(kind == Some("Parameters"), "the resource is not Parameters")?;
    let all = fhir::items(parameters, "/parameter");
    let sent = match all {
        [one] => one,
        [] => return Err(ReplyFault::resource("there is no parameter")),
        _ => return Err(ReplyFault::bad_request("there is more than one parameter")),
    };
    if fhir::text(sent, "/name") != Some("registerPatient") {
        return Err(ReplyFault::bad_request("the parameter is not registerPatient"));
    }
    let patient = sent.get("resource").unwrap_or(&Value::Null);
    let kind = fhir::text(patient, "/resourceType");
    require(kind == Some("Patient"), "the parameter is not a patient")?;
    let named = fhir::items(patient, "/meta/profile");
    let wanted = fhir::profile("CareConnect-GPC-Patient-1");
    require(named.iter().any(|profile| *profile == wanted), "the profile of a patient is missing")?;
    let unknown = patient
        .as_object()
        .and_then(|fields| fields.keys().find(|name| !ELEMENTS.contains(&name.as_str())));
    match unknown {
        Some(name) => Err(ReplyFault::resource(format!(
            "the element {name} is not allowed in a registration"
        ))),
        None => Ok(patient),
    }
}

/// Spec: a patient has exactly one NHS number, with a valid check digit.
fn judge_identifier(patient: &Value) -> Result<&str, ReplyFault> {
    let invalid = |why: &'static str| ReplyFault::new(SpineErrorCode::InvalidNhsNumber, why);
    let all = fhir::items(patient, "/identifier");
    if all.iter().any(|entry| fhir::text(entry, "/system").is_none()) {
        return Err(ReplyFault::bad_request("an identifier has no system"));
    }
    let mut numbers =
        all.iter().filter(|entry| fhir::text(entry, "/system") == Some(fhir::NHS_NUMBER));
    match (numbers.next(), numbers.next()) {
        (Some(one), None) => {
            let number = fhir::text(one, "/value").unwrap_or_default();
            if is_nhs_number(number) {
                Ok(number)
            } else {
                Err(invalid("the check digit of the NHS number is wrong"))
            }
        }
        _ => Err(invalid("a patient must have exactly one NHS number")),
    }
}

/// Spec: a patient has one official name, with one family name.
fn judge_name(patient: &Value) -> Result<(&str, &str), ReplyFault> {
    let official = |name: &&Value| fhir::text(name, "/use") == Some("official");
    let mut names = fhir::items(patient, "/name").iter().filter(official);
    let (Some(name), None) = (names.next(), names.next()) else {
        return Err(ReplyFault::bad_request("a patient must have exactly one official name"));
    };
    let family = fhir::text(name, "/family").filter(|family| !family.trim().is_empty());
    let family = family.ok_or_else(|| ReplyFault::bad_request("the name has no family name"))?;
    let given = name.pointer("/given/0").and_then(Value::as_str).unwrap_or_default();
    Ok((family, given))
}

/// Spec: at most one home and one temporary address, one contact of each kind, one language block.
fn judge_contacts(patient: &Value) -> Result<(), ReplyFault> {
    let addresses = fhir::items(patient, "/address");
    let of = |wanted: &str| {
        let used = |address: &&Value| fhir::text(address, "/use") == Some(wanted);
        addresses.iter().filter(used).count()
    };
    let (home, temporary) = (of("home"), of("temp"));
    require(
        home <= 1 && temporary <= 1 && home + temporary == addresses.len(),
        "there may be at most one home and one temporary address, and no other",
    )?;
    let mut seen = Vec::new();
    for contact in fhir::items(patient, "/telecom") {
        let (system, used) = (fhir::text(contact, "/system"), fhir::text(contact, "/use"));
        let value = fhir::text(contact, "/value").is_some_and(|value| !value.trim().is_empty());
        let is_allowed = matches!(
            (system, used),
            (Some("phone"), Some("home" | "work" | "mobile" | "temp"))
                | (Some("email"), Some("home" | "work" | "temp") | None)
        );
        if !value || !is_allowed || seen.contains(&(system, used)) {
            return Err(ReplyFault::bad_request(
                "a telecom is not of a kind that a registration may have, or is repeated",
            ));
        }
        seen.push((system, used));
    }
    let url = fhir::profile(LANGUAGES);
    let extensions = fhir::items(patient, "/extension").iter();
    let mut others = extensions.clone().filter(|entry| fhir::text(entry, "/url") != Some(&*url));
    let languages = extensions.filter(|entry| fhir::text(entry, "/url") == Some(&*url)).count();
    require(languages <= 1, "there is more than one block of languages")?;
    require(others.next().is_none(), "an extension is not allowed in a registration")
}

/// Traces a person in the simulated national register; fails if they cannot be registered.
fn trace(store: &Store, nhs_number: &str) -> Result<InventedPerson, ReplyFault> {
    let fault = |kind, why: &'static str| Err(ReplyFault::new(kind, why));
    let Some(person) = store.in_national_register(nhs_number) else {
        return fault(
            SpineErrorCode::InvalidDemographics,
            "the NHS number is not in the national register",
        );
    };
    match person.registration {
        Registration::Superseded => {
            fault(SpineErrorCode::InvalidNhsNumber, "the NHS number has been replaced")
        }
        Registration::Deceased | Registration::DeceasedElsewhere => {
            fault(SpineErrorCode::InvalidDemographics, "the patient has died")
        }
        Registration::Sensitive | Registration::SensitiveElsewhere => {
            fault(SpineErrorCode::InvalidDemographics, "the patient cannot be traced")
        }
        Registration::Registered
        | Registration::Temporary
        | Registration::Inactive
        | Registration::Unregistered => Ok(person),
    }
}

/// Copies telecoms, addresses and extensions from the sent patient to the stored one.
fn copy_contacts(resource: &mut Value, sent: &Value) {
    let Some(fields) = resource.as_object_mut() else { return };
    for name in ["telecom", "address"] {
        if let Some(value) = sent.get(name) {
            fields.insert(name.to_owned(), value.clone());
        }
    }
    let sent = fhir::items(sent, "/extension").iter().cloned();
    if let Some(extensions) = fields.get_mut("extension").and_then(Value::as_array_mut) {
        extensions.extend(sent);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::people;
    use super::super::stage::{Stage, code_of};
    use super::*;

    /// Returns a registration of the first person with this status.
    fn registration_of(status: Registration) -> Value {
        let person = people().into_iter().find(|person| person.registration == status).unwrap();
        json!({
            "resourceType": "Parameters",
            "parameter": [{ "name": "registerPatient", "resource": {
                "resourceType": "Patient",
                "meta": { "profile": [fhir::profile("CareConnect-GPC-Patient-1")] },
                "identifier": [{ "system": fhir::NHS_NUMBER, "value": person.nhs_number }],
                "name": [{ "use": "official", "family": person.family, "given": [person.given] }],
                "gender": person.gender,
                "birthDate": person.birth_date,
            } }],
        })
    }

    fn send(stage: &Stage, body: &Value) -> (u16, String, Value) {
        let register = "operation:gpc.registerpatient-1";
        let path = "/Patient/$gpc.registerpatient";
        let (status, _, response) = stage.call(register, path, &[], body.to_string().as_bytes());
        (status, code_of(&response).to_owned(), response)
    }

    #[test]
    fn a_registered_patient_is_found_afterwards() {
        let stage = Stage::new();
        let body = registration_of(Registration::Unregistered);
        let (status, _, response) = send(&stage, &body);
        assert_eq!((status, &response["type"]), (200, &json!("searchset")), "{response}");
        let patient = &response["entry"][0]["resource"];
        let number = patient["identifier"][0]["value"].as_str().unwrap();
        let (_, _, found) = stage.get("search:patient-1", &Stage::patient_by(number));
        assert_eq!(&found["entry"][0]["resource"], patient);
        let kind = "/extension/0/extension/1/valueCodeableConcept/coding/0/code";
        assert_eq!(patient.pointer(kind).unwrap(), "T");
        assert_eq!(send(&stage, &body).1, "DUPLICATE_REJECTED");
        let returning = registration_of(Registration::Inactive);
        assert_eq!(send(&stage, &returning).0, 200, "a patient who has left may register again");
        assert_eq!(send(&stage, &returning).1, "DUPLICATE_REJECTED");
    }

    #[test]
    fn a_person_who_is_a_patient_or_cannot_be_traced_is_refused() {
        let stage = Stage::new();
        for (registration, status, code) in [
            (Registration::Registered, 409, "DUPLICATE_REJECTED"),
            (Registration::Temporary, 409, "DUPLICATE_REJECTED"),
            (Registration::DeceasedElsewhere, 400, "INVALID_PATIENT_DEMOGRAPHICS"),
            (Registration::SensitiveElsewhere, 400, "INVALID_PATIENT_DEMOGRAPHICS"),
            (Registration::Superseded, 400, "INVALID_NHS_NUMBER"),
        ] {
            let (got, code_got, _) = send(&stage, &registration_of(registration));
            assert_eq!((got, code_got.as_str()), (status, code), "{registration:?}");
        }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table of every invalid registration")]
    fn an_invalid_registration_is_refused() {
        let stage = Stage::new();
        let good = registration_of(Registration::Unregistered);
        let language = json!({ "url": fhir::profile(LANGUAGES), "extension": [{
            "url": "preferred", "valueBoolean": true,
        }] });
        for (place, value, status, code) in [
            ("identifier", Value::Null, 400, "INVALID_NHS_NUMBER"),
            ("identifier", json!([{ "value": "9990000018" }]), 400, "BAD_REQUEST"),
            (
                "identifier",
                json!([{ "system": fhir::NHS_NUMBER, "value": "9434765918" }]),
                400,
                "INVALID_NHS_NUMBER",
            ),
            (
                "identifier",
                json!([{ "system": fhir::NHS_NUMBER, "value": "9434765919" }]),
                400,
                "INVALID_PATIENT_DEMOGRAPHICS",
            ),
            ("name", json!([{ "use": "usual", "family": "Newcombe" }]), 400, "BAD_REQUEST"),
            ("name", json!([{ "use": "official", "given": ["Grace"] }]), 400, "BAD_REQUEST"),
            ("name", json!([{ "use": "official", "family": "Other" }]), 400, "BAD_REQUEST"),
            ("birthDate", Value::Null, 400, "BAD_REQUEST"),
            ("birthDate", json!("1999-12-30"), 400, "INVALID_PATIENT_DEMOGRAPHICS"),
            ("meta", json!({ "versionId": "1" }), 422, "INVALID_RESOURCE"),
            ("gender", json!("banana"), 422, "INVALID_RESOURCE"),
            ("maritalStatus", json!({ "text": "x" }), 422, "INVALID_RESOURCE"),
            ("address", json!([{ "use": "work", "city": "x" }]), 422, "INVALID_RESOURCE"),
            ("address", json!([{ "use": "home" }, { "use": "home" }]), 422, "INVALID_RESOURCE"),
            (
                "telecom",
                json!([{ "system": "fax", "value": "1", "use": "home" }]),
                400,
                "BAD_REQUEST",
            ),
            ("telecom", json!([{ "system": "phone", "use": "home" }]), 400, "BAD_REQUEST"),
            ("extension", json!([language, language]), 422, "INVALID_RESOURCE"),
            (
                "extension",
                json!([{ "url": "https://else.example/", "valueString": "x" }]),
                422,
                "INVALID_RESOURCE",
            ),
        ] {
            let mut body = good.clone();
            let patient = body["parameter"][0]["resource"].as_object_mut().unwrap();
            patient.retain(|name, _| name != place);
            patient.extend((!value.is_null()).then(|| (place.to_owned(), value.clone())));
            let (got, code_got, _) = send(&stage, &body);
            assert_eq!((got, code_got.as_str()), (status, code), "{place}: {value}");
        }
        let mut twice = good.clone();
        twice["parameter"] = json!([good["parameter"][0], good["parameter"][0]]);
        assert_eq!(send(&stage, &twice).1, "BAD_REQUEST");
        let patient = &good["parameter"][0]["resource"];
        assert_eq!(send(&stage, patient).1, "INVALID_RESOURCE");
        let mut complete = good.clone();
        complete["parameter"][0]["resource"]["telecom"] =
            json!([{ "system": "phone", "value": "01632 960199", "use": "mobile" }]);
        complete["parameter"][0]["resource"]["address"] =
            json!([{ "use": "home", "city": "x" }, { "use": "temp", "city": "y" }]);
        complete["parameter"][0]["resource"]["name"] =
            json!([{ "use": "official", "family": "Newcombe" }]);
        let (status, _, response) = send(&stage, &complete);
        assert_eq!(status, 200, "{response}");
        assert_eq!(super::super::shape::fault(&response), None, "a name without a given name");
        assert_eq!(response["entry"][0]["resource"]["address"][1]["city"], "y");
    }
}
