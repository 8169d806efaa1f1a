//! `LocationRead`.

use super::case::{Case, Feature, Formats, Given, case, ok, one, row, status};
use super::lookup::{ids, misnamed};
use super::request::{Request, ask};
use super::resources::profile;
use super::rig::Scene;

pub(super) const FEATURE: Feature = Feature { name: "LocationRead", scenarios: 9, cases: 21, list };

fn of(id: &str) -> Request {
    ask("rest:read:location-1", format!("/Location/{id}"))
}

fn list() -> Vec<Case> {
    let found = || ok().kind("Location").etag().no_store();
    let formats = Formats {
        given: Given::Nothing,
        request: |_: &Scene| of("1"),
        expect: ok().kind("Location"),
    };
    let known = |id: &'static str, expect| row(id, Given::Nothing, move |_| of(id), expect);
    vec![
        case(
            "Location Read with valid identifier which does not exist on providers system",
            ids(|id| row(id, Given::Nothing, move |_| of(id), status(&[404]))),
        ),
        case(
            "Location Read using the _format parameter to request response format",
            formats.by_format(),
        ),
        case(
            "Location Read sending the Accept header and _format parameter to request response format",
            formats.by_both(),
        ),
        case(
            "Location read resource conforms to GP-Connect specification",
            Formats { expect: found(), ..formats }.by_accept(),
        ),
        one("Location read should contain ETag", known("1", found())),
        one("Location read valid response check caching headers exist", known("1", found())),
        one(
            "Location read invalid response check caching headers exist",
            misnamed(of("1"), "rest:read:practitioner-1"),
        ),
        case(
            "plain: the main surgery and its branch are read",
            vec![
                known("1", found().shows("its id", |one| one["id"] == "1")),
                known("2", found().shows("its id", |one| one["id"] == "2")),
            ],
        ),
        case(
            "plain: a location is whole",
            vec![
                known(
                    "1",
                    found().shows("profile and name", |one| {
                        one["name"].is_string()
                            && one["meta"]["profile"][0] == profile("CareConnect-GPC-Location-1")
                    }),
                ),
                known(
                    "1",
                    found().shows("who manages it", |one| {
                        one["managingOrganization"]["reference"] == "Organization/1"
                    }),
                ),
            ],
        ),
    ]
}
