//! `OrganizationSearch` and `OrganizationRead`.

use super::case::{
    Case, Expect, Feature, Formats, Given, any_failure, bad_request, case, ok, one, row, status,
};
use super::lookup::{Search, ids, misnamed};
use super::request::{Request, ask};
use super::resources::{ODS_CODE, profile};
use super::rig::{Scene, resources};

pub(super) const SEARCH: Feature =
    Feature { name: "OrganizationSearch", scenarios: 14, cases: 20, list: search };
pub(super) const READ: Feature =
    Feature { name: "OrganizationRead", scenarios: 8, cases: 18, list: read };

const ODS: &str = "A20047";
const ANOTHER: &str = "rest:read:practitioner-1";

fn of(ods: &str) -> Search {
    Search {
        interaction: "rest:search:organization-1",
        path: "/Organization",
        identifier: format!("{ODS_CODE}|{ods}"),
    }
}

fn found() -> Expect {
    ok().kind("Bundle").no_store()
}

fn search() -> Vec<Case> {
    let usual = of(ODS);
    let whole = found().json().shows("the organisation", |bundle| {
        let all = resources(bundle, "Organization");
        all.len() == 1
            && all[0]["identifier"][0]["value"] == ODS
            && all[0]["meta"]["versionId"].is_string()
            && all[0]["meta"]["profile"][0] == profile("CareConnect-GPC-Organization-1")
    });
    let known =
        |name: &'static str, expect| row(name, Given::Nothing, |_| of(ODS).request(), expect);
    let system_fault = status(&[400]).code("INVALID_IDENTIFIER_SYSTEM");
    let asked = |identifier: &'static str, expect| {
        let request = move |_: &Scene| of(ODS).blank().query("identifier", identifier);
        row(identifier, Given::Nothing, request, expect)
    };
    vec![
        one(
            "Organization search by organization code successfully returns multiple results containing the correct fields",
            known(ODS, whole),
        ),
        one(
            "Organization search failure due to no identifier parameter",
            row("none", Given::Nothing, |_| of(ODS).blank(), any_failure()),
        ),
        case(
            "Organization search add accept header to request and check for correct response format",
            usual.by_accept(),
        ),
        case(
            "Organization search add _format parameter to request and check for correct response format",
            usual.by_format(),
        ),
        case(
            "Organization search add accept header and _format parameter to the request and check for correct response format",
            usual.differing(),
        ),
        case(
            "Organization search add _format parameter to request before the identifer and check for correct response format",
            Search::alike(usual.before()),
        ),
        case(
            "Organization search add _format parameter to request after the identifer and check for correct response format",
            Search::alike(usual.after()),
        ),
        one(
            "Organization search valid response check caching headers exist",
            known(ODS, found().json()),
        ),
        one(
            "Organization search invalid response check caching headers exist",
            misnamed(usual.request(), ANOTHER),
        ),
        one(
            "plain: another organisation is not found",
            row(
                "B99999",
                Given::Nothing,
                |_| of("B99999").request(),
                found().shows("nobody", |bundle| bundle.get("entry").is_none()),
            ),
        ),
        one(
            "plain: the bundle is a searchset",
            known(ODS, found().shows("a searchset", |bundle| bundle["type"] == "searchset")),
        ),
        one(
            "plain: another system is none of organisations",
            asked("https://fhir.nhs.uk/Id/nhs-number|A20047", system_fault),
        ),
        case(
            "plain: an identifier is a system and a value",
            vec![
                asked(
                    "https://fhir.nhs.uk/Id/ods-organization-code|",
                    status(&[422]).code("INVALID_PARAMETER"),
                ),
                asked("A20047", status(&[422]).code("INVALID_PARAMETER")),
            ],
        ),
        one(
            "plain: two identifiers are one too many",
            row(
                "twice",
                Given::Nothing,
                |_| {
                    let twice = of(ODS);
                    twice.request().query("identifier", &twice.identifier)
                },
                bad_request(),
            ),
        ),
    ]
}

fn read_of(id: &str) -> Request {
    ask("rest:read:organization-1", format!("/Organization/{id}"))
}

fn read() -> Vec<Case> {
    let found = || ok().kind("Organization").etag().no_store();
    let formats = Formats {
        given: Given::Nothing,
        request: |_: &Scene| read_of("1"),
        expect: ok().kind("Organization"),
    };
    let known = |expect| row("1", Given::Nothing, |_| read_of("1"), expect);
    let whole = found().shows("all of it", |one| {
        one["id"] == "1"
            && one["identifier"][0]["system"] == ODS_CODE
            && one["name"].is_string()
            && one["meta"]["profile"][0] == profile("CareConnect-GPC-Organization-1")
    });
    let unknown = |id: &'static str| {
        let expect = status(&[404]).code("ORGANISATION_NOT_FOUND");
        row(id, Given::Nothing, move |_| read_of(id), expect)
    };
    vec![
        one("Organization Read successful request validate all of response", known(whole)),
        case(
            "Organization Read with valid identifier which does not exist on providers system",
            ids(unknown),
        ),
        case(
            "Organization Read using the _format parameter to request response format",
            formats.by_format(),
        ),
        case(
            "Organization Read using the Accept header to request response format",
            formats.by_accept(),
        ),
        case(
            "Organization Read sending the Accept header and _format parameter to request response format",
            formats.by_both(),
        ),
        one("Organization read valid response check caching headers exist", known(found())),
        one(
            "Organization read invalid response check caching headers exist",
            misnamed(read_of("1"), ANOTHER),
        ),
        one(
            "plain: an organisation can be reached",
            known(found().shows("a number", |one| one["telecom"][0]["value"].is_string())),
        ),
    ]
}
