//! `PatientSearch` and `PatientRead`.

use gpconnect_simulator::people;
use serde_json::Value;

use super::case::{
    Case, Expect, Feature, Formats, Given, Row, XML, bad_request, case, invalid_parameter, ok, one,
    refused, row, status,
};
use super::lookup::{NOBODY, Search, ids};
use super::request::{Request, ask};
use super::resources::{NHS_NUMBER, ODS_CODE, profile};
use super::rig::{Scene, resources};

pub(super) const SEARCH: Feature =
    Feature { name: "PatientSearch", scenarios: 23, cases: 40, list: search };
pub(super) const READ: Feature =
    Feature { name: "PatientRead", scenarios: 14, cases: 25, list: read };

/// The NHS number of the patient of this id.
fn number(id: usize) -> String {
    people()[id - 1].nhs_number.clone()
}

fn by(parameter: &str, value: &str) -> Request {
    ask("rest:search:patient-1", "/Patient").query(parameter, value)
}

fn of(id: usize) -> Request {
    by("identifier", &format!("{NHS_NUMBER}|{}", number(id)))
}

fn found() -> Expect {
    ok().kind("Bundle").no_store()
}

/// The one patient, of whom this is true.
fn patient(id: usize, judge: impl Fn(&Value) -> bool + 'static) -> Expect {
    found().json().shows("the patient", move |bundle| {
        let all = resources(bundle, "Patient");
        all.len() == 1 && all[0]["identifier"][0]["value"] == number(id) && judge(&all[0])
    })
}

fn nobody(id: usize) -> Row {
    let none = found().json().shows("nobody", |bundle| resources(bundle, "Patient").is_empty());
    row(format!("patient {id}"), Given::Nothing, move |_| of(id), none)
}

fn asked(parameter: &'static str, value: &str, expect: Expect) -> Row {
    let value = value.to_owned();
    row(format!("{parameter}={value}"), Given::Nothing, move |_| by(parameter, &value), expect)
}

fn search() -> Vec<Case> {
    let formats = Search {
        interaction: "rest:search:patient-1",
        path: "/Patient",
        identifier: format!("{NHS_NUMBER}|{}", number(1)),
    };
    let whole = |what: &'static str, id: usize, judge: fn(&Value) -> bool| {
        row(format!("{what} of patient {id}"), Given::Nothing, move |_| of(id), patient(id, judge))
    };
    let in_xml = |id: usize| {
        let expect =
            found().format(super::case::Format::Xml).says("the NHS number", move |heard, _| {
                let text = heard.text();
                text.contains(&format!("<system value=\"{NHS_NUMBER}\"/>"))
                    && text.contains(&format!("<value value=\"{}\"/>", number(id)))
            });
        row(format!("patient {id}"), Given::Nothing, move |_| of(id).accept(XML), expect)
    };
    let twice = |name: &'static str, parameter: &'static str, value: String| {
        row(name, Given::Nothing, move |_| of(1).query(parameter, &value), bad_request())
    };
    let (first, second) = (number(1), format!("{NHS_NUMBER}|{}", number(2)));
    let mut cases = vec![
        one(
            "Provider should return an error when no system is supplied in the identifier parameter",
            asked("identifier", &first, invalid_parameter()),
        ),
        one(
            "Provider should return an error when a blank system is supplied in the identifier parameter",
            asked("identifier", &format!("|{first}"), invalid_parameter()),
        ),
        one(
            "Patient search should fail if no identifier parameter is include",
            row(
                "none",
                Given::Nothing,
                |_| ask("rest:search:patient-1", "/Patient"),
                bad_request(),
            ),
        ),
        one(
            "The identifier parameter should be rejected if the case is incorrect",
            asked("Identifier", &format!("{NHS_NUMBER}|{first}"), bad_request()),
        ),
        one(
            "The response should be an error if no value is sent in the identifier parameter",
            asked("identifier", &format!("{NHS_NUMBER}|"), invalid_parameter()),
        ),
        case("The patient search endpoint should accept the accept header", formats.by_accept()),
        case("The patient search endpoint should accept the format parameter", formats.by_format()),
        case(
            "The patient search endpoint should accept the format parameter after the identifier parameter",
            formats.after(),
        ),
        case(
            "The patient search endpoint should accept the format parameter before the identifier parameter",
            formats.before(),
        ),
        case(
            "Patient resource should contain NHS number identifier returned as XML",
            vec![in_xml(1), in_xml(2), in_xml(3)],
        ),
        case(
            "Patient search response conforms with the GPConnect specification",
            vec![
                whole("profile", 1, |one| {
                    one["meta"]["profile"][0] == profile("CareConnect-GPC-Patient-1")
                }),
                whole("version", 2, |one| one["meta"]["versionId"].is_string()),
                whole("name", 3, |one| {
                    one["name"][0]["family"].is_string() && one["name"][0]["use"] == "official"
                }),
                whole("birth date", 4, |one| one["birthDate"].is_string()),
                whole("gender", 1, |one| one["gender"].is_string()),
                whole("number", 2, |one| one["identifier"][0]["system"] == NHS_NUMBER),
            ],
        ),
        one("Patient search response does not return deceased patient", nobody(6)),
        case(
            "System should error if multiple parameters valid or invalid are sent",
            vec![
                twice("the same twice", "identifier", format!("{NHS_NUMBER}|{first}")),
                twice("two of them", "identifier", second),
                twice("one that is none", "identifier", "nothing".to_owned()),
            ],
        ),
        one(
            "Patient search valid response check caching headers exist",
            row("patient 1", Given::Nothing, |_| of(1), found()),
        ),
        one(
            "Patient search invalid response check caching headers exist",
            asked("Identifier", &format!("{NHS_NUMBER}|{first}"), bad_request().no_store()),
        ),
        one(
            "No Consent Patient search gets a valid response",
            row("patient 3", Given::Nothing, |_| of(3), found()),
        ),
    ];
    cases.extend(plain());
    cases
}

fn plain() -> Vec<Case> {
    let number_fault = status(&[400]).code("INVALID_NHS_NUMBER");
    let system_fault = status(&[400]).code("INVALID_IDENTIFIER_SYSTEM");
    vec![
        one(
            "plain: a temporary patient is found",
            row("patient 4", Given::Nothing, |_| of(4), patient(4, |one| one["active"] == true)),
        ),
        one("plain: a patient who has left is not found", nobody(5)),
        one("plain: a sensitive patient is not found", nobody(7)),
        one("plain: somebody from elsewhere is not found", nobody(8)),
        one(
            "plain: a number without its check digit is none",
            asked("identifier", &format!("{NHS_NUMBER}|9434765918"), number_fault),
        ),
        one(
            "plain: another system is none of patients",
            asked("identifier", &format!("{ODS_CODE}|A20047"), system_fault),
        ),
        one(
            "plain: the bundle is a searchset",
            row(
                "patient 1",
                Given::Nothing,
                |_| of(1),
                found().shows("a searchset", |bundle| bundle["type"] == "searchset"),
            ),
        ),
    ]
}

fn read_of(id: &str) -> Request {
    ask("rest:read:patient-1", format!("/Patient/{id}"))
}

fn read() -> Vec<Case> {
    let found = || ok().kind("Patient").etag().no_store();
    let formats =
        Formats { given: Given::Nothing, request: |_: &Scene| read_of("1"), expect: found() };
    let unknown = |id: &'static str| {
        let expect = status(&[404]).code("PATIENT_NOT_FOUND").no_store();
        row(id, Given::Nothing, move |_| read_of(id), expect)
    };
    let known =
        |id: &'static str, expect: Expect| row(id, Given::Nothing, move |_| read_of(id), expect);
    vec![
        case(
            "Read patient 404 if patient not found",
            vec![unknown("thisIsAnId"), unknown("99999999999")],
        ),
        case(
            "Patient Read with valid identifier which does not exist on providers system",
            ids(|id| row(id, Given::Nothing, move |_| read_of(id), status(&[404]))),
        ),
        one(
            "Read patient 400 or 404 if patient id not sent",
            row("no id", Given::Nothing, |_| read_of(""), status(&[400, 404]))
                .proxied(refused("interaction_path"), NOBODY),
        ),
        case(
            "Read patient using the Accept header to request response format",
            formats.by_accept(),
        ),
        case(
            "Read patient using the _format parameter to request response format",
            formats.by_format(),
        ),
        case(
            "Read patient sending the Accept header and _format parameter to request response format",
            formats.by_both(),
        ),
        one(
            "Read patient should contain correct logical identifier",
            known("1", found().json().shows("its id", |one| one["id"] == "1")),
        ),
        one("Read patient response should contain an ETag header", known("1", found())),
        one("Patient read valid response check caching headers exist", known("1", found())),
        one("Patient read invalid response check caching headers exist", unknown("AABa")),
        one(
            "plain: another patient is read",
            known(
                "2",
                found().shows("the number", |one| one["identifier"][0]["value"] == number(2)),
            ),
        ),
        one(
            "plain: the profile is told",
            known(
                "3",
                found().shows("the profile", |one| {
                    one["meta"]["profile"][0] == profile("CareConnect-GPC-Patient-1")
                }),
            ),
        ),
        one("plain: a temporary patient is read", known("4", found())),
        one("plain: a sensitive patient is not there", unknown("7")),
    ]
}
