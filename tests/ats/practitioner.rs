//! `PractitionerSearch` and `PractitionerRead`.

use serde_json::Value;

use super::case::{
    Case, Expect, Feature, Formats, Given, Row, any_failure, bad_request, case, invalid_parameter,
    ok, one, row, status,
};
use super::lookup::{Search, ids, misnamed};
use super::request::{Request, ask};
use super::resources::{NHS_NUMBER, SDS_USER, profile};
use super::rig::{Scene, resources};

pub(super) const SEARCH: Feature =
    Feature { name: "PractitionerSearch", scenarios: 16, cases: 25, list: search };
pub(super) const READ: Feature =
    Feature { name: "PractitionerRead", scenarios: 10, cases: 22, list: read };

fn of(user: &str) -> Search {
    Search {
        interaction: "rest:search:practitioner-1",
        path: "/Practitioner",
        identifier: format!("{SDS_USER}|{user}"),
    }
}

fn found() -> Expect {
    ok().kind("Bundle").no_store()
}

/// The one practitioner, of whom this is true.
fn shows(user: &'static str, judge: impl Fn(&Value) -> bool + 'static) -> Row {
    let expect = found().shows("the practitioner", move |bundle| {
        let all = resources(bundle, "Practitioner");
        all.len() == 1 && all[0]["identifier"][0]["value"] == user && judge(&all[0])
    });
    row(user, Given::Nothing, move |_| of(user).request(), expect)
}

fn search() -> Vec<Case> {
    let usual = of("G0000001");
    let asked = |parameter: &'static str, identifier: String, expect| {
        let name = identifier.clone();
        let request = move |_: &Scene| of("G0000001").blank().query(parameter, &identifier);
        row(name, Given::Nothing, request, expect)
    };
    let twice = |name: &'static str, second: &'static str| {
        let request =
            move |_: &Scene| of("G0000001").request().query("identifier", &of(second).identifier);
        row(name, Given::Nothing, request, bad_request())
    };
    let nobody = found().shows("nobody", |bundle| bundle.get("entry").is_none());
    vec![
        case(
            "Practitioner search with failure due to invalid identifier",
            vec![
                asked("identifier", format!("{SDS_USER}|"), invalid_parameter()),
                asked("identifier", "G0000001".to_owned(), invalid_parameter()),
            ],
        ),
        one(
            "Practitioner search without the identifier parameter",
            row("none", Given::Nothing, |_| of("").blank(), any_failure().json()),
        ),
        one(
            "Practitioner search where identifier contains the incorrect case or spelling",
            asked("iDentifier", format!("{SDS_USER}|G0000001"), bad_request()),
        ),
        case(
            "Practitioner search testing paramater validity before adding identifier",
            Search::alike(usual.before()),
        ),
        case(
            "Practitioner search testing paramater validity after adding identifier",
            Search::alike(usual.after()),
        ),
        case(
            "Practitioner search add accept header to request and check for correct response format",
            usual.by_accept(),
        ),
        case(
            "Practitioner search add accept header and _format parameter to the request and check for correct response format",
            usual.after(),
        ),
        one(
            "Practitioner search multiple identifier parameter failure",
            twice("the same", "G0000001"),
        ),
        one(
            "Practitioner search multiple multiple identifiers for different practitioner parameter failure",
            twice("another", "G0000002"),
        ),
        one(
            "Practitioner search valid response check caching headers exist",
            row("G0000001", Given::Nothing, |_| of("G0000001").request(), found()),
        ),
        one(
            "Practitioner search invalid response check caching headers exist",
            misnamed(usual.request(), "rest:read:practitioner-1"),
        ),
        case(
            "plain: each practitioner is found",
            vec![
                shows("G0000001", |_| true),
                shows("G0000002", |_| true),
                shows("G0000003", |_| true),
            ],
        ),
        one(
            "plain: the practitioner is whole",
            shows("G0000001", |one| {
                one["name"][0]["family"].is_string()
                    && one["meta"]["versionId"].is_string()
                    && one["meta"]["profile"][0] == profile("CareConnect-GPC-Practitioner-1")
            }),
        ),
        one(
            "plain: a practitioner has no more than one name",
            shows("G0000001", |one| one["name"].as_array().is_some_and(|names| names.len() == 1)),
        ),
        one(
            "plain: another practitioner is not found",
            row("G9999999", Given::Nothing, |_| of("G9999999").request(), nobody),
        ),
        one(
            "plain: another system is none of practitioners",
            asked(
                "identifier",
                format!("{NHS_NUMBER}|G0000001"),
                status(&[400]).code("INVALID_IDENTIFIER_SYSTEM"),
            ),
        ),
    ]
}

fn read_of(id: &str) -> Request {
    ask("rest:read:practitioner-1", format!("/Practitioner/{id}"))
}

fn read() -> Vec<Case> {
    let found = || ok().kind("Practitioner").etag().no_store();
    let formats = Formats {
        given: Given::Nothing,
        request: |_: &Scene| read_of("1"),
        expect: ok().kind("Practitioner"),
    };
    let known = |id: &'static str, expect| row(id, Given::Nothing, move |_| read_of(id), expect);
    vec![
        case(
            "Practitioner Read with valid identifier which does not exist on providers system",
            ids(|id| row(id, Given::Nothing, move |_| read_of(id), status(&[404]))),
        ),
        case(
            "Practitioner Read using the _format parameter to request response format",
            formats.by_format(),
        ),
        case(
            "Practitioner Read using the Accept header to request response format",
            formats.by_accept(),
        ),
        case(
            "Practitioner Read sending the Accept header and _format parameter to request response format",
            formats.by_both(),
        ),
        one("Practitioner read response should contain an ETag header", known("1", found())),
        one("Practitioner read valid response check caching headers exist", known("1", found())),
        one(
            "Practitioner read invalid response check caching headers exist",
            misnamed(read_of("1"), "rest:read:location-1"),
        ),
        case(
            "plain: each practitioner is read",
            vec![known("1", found()), known("2", found()), known("3", found())],
        ),
        one(
            "plain: the practitioner has an SDS user id",
            known(
                "1",
                found().shows("the user id", |one| {
                    one["identifier"][0]["system"] == SDS_USER
                        && one["identifier"][0]["value"] == "G0000001"
                }),
            ),
        ),
        one(
            "plain: the practitioner has a name",
            known("2", found().shows("a name", |one| one["name"][0]["family"].is_string())),
        ),
    ]
}
