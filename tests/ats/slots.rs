//! `SearchForFreeSlots`.

use jiff::ToSpan as _;
use serde_json::Value;

use super::case::{
    Case, Expect, Feature, Formats, Given, Row, bad_request, case, invalid_parameter, ok, one, row,
    status,
};
use super::request::{Request, ask};
use super::resources::{ODS_CODE, ORGANISATION_TYPE, SDS_USER, extension, profile};
use super::rig::{Scene, resources};
use testkit::test_bed::HUB_ODS;

pub(super) const FEATURE: Feature =
    Feature { name: "SearchForFreeSlots", scenarios: 29, cases: 85, list };

/// A search for this range, with everything a search needs.
fn asked(start: &str, end: &str) -> Request {
    ask("rest:search:slot-1", "/Slot")
        .query("start", start)
        .query("end", end)
        .query("status", "free")
        .query("_include", "Slot:schedule")
}

/// From today, so many days.
fn days(scene: &Scene, days: i64) -> Request {
    let end = scene.today + days.days();
    asked(&format!("ge{}", scene.today), &format!("le{end}"))
}

/// Five days from today: there is a weekday among them.
fn usual(scene: &Scene) -> Request {
    days(scene, 5)
}

fn of_days(count: i64, expect: Expect) -> Row {
    row(format!("{count} days"), Given::Nothing, move |scene| days(scene, count), expect)
}

fn prefixed(start: &'static str, end: &'static str) -> Row {
    let request = move |scene: &Scene| {
        let last = scene.today + 3.days();
        asked(&format!("{start}{}", scene.today), &format!("{end}{last}"))
    };
    row(format!("{start} {end}"), Given::Nothing, request, status(&[422]))
}

/// The range of three days, each end in a form of its own.
fn formed(start: &'static str, end: &'static str, expect: Expect) -> Row {
    let request = move |scene: &Scene| {
        let first = scene.today + 1.day();
        let last = first + 3.days();
        asked(&format!("ge{}", dated(first, start)), &format!("le{}", dated(last, end)))
    };
    row(format!("{start} {end}"), Given::Nothing, request, expect)
}

/// A day at noon on a practice's clock, as the pattern has it.
fn dated(day: jiff::civil::Date, pattern: &str) -> String {
    let noon = day.at(12, 0, 0, 0).in_tz("Europe/London").unwrap();
    noon.strftime(pattern).to_string()
}

const DAY: &str = "%Y-%m-%d";
const TIME: &str = "%Y-%m-%dT%H:%M:%S%:z";
const LOCAL: &str = "%Y-%m-%dT%H:%M:%S";
const ZULU: &str = "%Y-%m-%dT%H:%M:%SZ";

fn found() -> Expect {
    ok().kind("Bundle").no_store()
}

fn list() -> Vec<Case> {
    let missing = |name: &'static str| {
        let request = move |scene: &Scene| {
            let query = usual(scene).path;
            let (path, query) = query.split_once('?').unwrap();
            let gone =
                |pair: &&str| !name.split(',').any(|name| pair.starts_with(&format!("{name}=")));
            let kept: Vec<&str> = query.split('&').filter(gone).collect();
            ask("rest:search:slot-1", format!("{path}?{}", kept.join("&")))
        };
        row(name, Given::Nothing, request, bad_request())
    };
    let valued = |start: &'static str, end: &'static str, state: &'static str| {
        let request = move |scene: &Scene| {
            let last = scene.today + 3.days();
            let start = start.replace("today", &scene.today.to_string());
            let end = end.replace("later", &last.to_string());
            ask("rest:search:slot-1", "/Slot")
                .query("start", &start)
                .query("end", &end)
                .query("status", state)
                .query("_include", "Slot:schedule")
        };
        row(format!("{start} {end} {state}"), Given::Nothing, request, invalid_parameter())
    };
    let form = |start, end| formed(start, end, invalid_parameter());
    let formats = Formats { given: Given::Nothing, request: usual, expect: found() };
    let mut cases = vec![
        case(
            "Searching for free slots with invalid date range should return error",
            vec![
                of_days(15, invalid_parameter()),
                of_days(31, invalid_parameter()),
                of_days(-1, invalid_parameter()),
            ],
        ),
        case(
            "Searching for free slots should fail due to missing parameters",
            vec![missing("start,end"), missing("start"), missing("status")],
        ),
        case(
            "Searching for free slots with invalid prefixes",
            vec![
                prefixed("lt", "gt"),
                prefixed("gt", "gt"),
                prefixed("lt", "lt"),
                prefixed("le", "ge"),
                prefixed("eq", "eq"),
                prefixed("gt", "lt"),
            ],
        ),
        case(
            "Searching for free slots with unknown prefixes",
            vec![
                prefixed("ne", "ne"),
                prefixed("gt", "ne"),
                prefixed("ne", "lt"),
                prefixed("ge", "ne"),
                prefixed("ne", "le"),
            ],
        ),
        case(
            "Searching for free slots should fail due to invalid parameter values",
            vec![
                valued("invalidStartDate", "lelater", "free"),
                valued("", "lelater", "free"),
                valued("getoday", "invalidEnddate", "free"),
                valued("getoday", "", "free"),
                valued("getoday", "lelater", "busy"),
            ],
        ),
        case(
            "Searching for free slots with invalid partial dateTime strings",
            vec![
                form(LOCAL, LOCAL),
                form(ZULU, LOCAL),
                form(LOCAL, ZULU),
                form("%Y", "%Y-%m"),
                form("%Y-%m", "%Y"),
            ],
        ),
        case(
            "Successfully search for free slots using various content types XML and JSON in Accept header",
            formats.by_content_and_accept(),
        ),
        case(
            "Successfully search for free slots using various content types XML and JSON in format parameter",
            formats.by_content_and_format(),
        ),
        case(
            "Successfully search for free slots using various content types XML and JSON in the Accept Header and format parameter",
            formats.by_all(),
        ),
        one(
            "SearchForFreeSlots valid response check caching headers exist",
            row("5 days", Given::Nothing, usual, found()),
        ),
        one(
            "SearchForFreeSlots invalid response check caching headers exist",
            of_days(-1, invalid_parameter().no_store()),
        ),
    ];
    cases.extend(plain_ranges());
    cases.extend(plain_contents());
    cases
}

/// A search with these parameters besides.
fn with(more: &'static [(&'static str, &'static str)], expect: Expect) -> Row {
    let name = more.iter().map(|(name, value)| format!("{name}={value} ")).collect::<String>();
    let request = move |scene: &Scene| {
        more.iter().fold(usual(scene), |request, (name, value)| request.query(name, value))
    };
    row(name, Given::Nothing, request, expect)
}

/// A search on behalf of the hub, or of a kind of organisation.
fn filtered(filters: &'static [(&'static str, &'static str)], expect: Expect) -> Row {
    let name = filters.iter().map(|(_, value)| *value).collect::<Vec<_>>().join(" ");
    let request = move |scene: &Scene| {
        filters.iter().fold(days(scene, 14), |request, (system, value)| {
            request.query("searchFilter", &format!("{system}|{value}"))
        })
    };
    row(name, Given::Nothing, request, expect)
}

fn every(kind: &'static str, judge: impl Fn(&Value) -> bool + 'static) -> Expect {
    found().shows("what each has to have", move |bundle| {
        let all = resources(bundle, kind);
        !all.is_empty() && all.iter().all(&judge)
    })
}

fn some(kind: &'static str) -> Expect {
    every(kind, |_| true)
}

fn none(kind: &'static str) -> Expect {
    found().shows("none of those", move |bundle| {
        resources(bundle, kind).is_empty() && !resources(bundle, "Slot").is_empty()
    })
}

const PRACTITIONERS: (&str, &str) = ("_include:recurse", "Schedule:actor:Practitioner");
const LOCATIONS: (&str, &str) = ("_include:recurse", "Schedule:actor:Location");
const MANAGERS: (&str, &str) = ("_include:recurse", "Location:managingOrganization");

fn plain_ranges() -> Vec<Case> {
    let past = |scene: &Scene| {
        let first = scene.today - 7.days();
        asked(&format!("ge{first}"), &format!("le{}", scene.today + 5.days()))
    };
    let taken = |scene: &Scene| days(scene, 14);
    let gone = found().says("no slot that is booked", |heard, scene| {
        let booked = scene.slots[0].slot["id"].clone();
        heard.resources("Slot").iter().all(|slot| slot["id"] != booked)
    });
    vec![
        case(
            "plain: a range of up to two weeks is searched",
            vec![of_days(8, found()), of_days(0, found()), of_days(14, found())],
        ),
        case(
            "plain: each end is a day or a time",
            vec![
                formed(DAY, DAY, found()),
                formed(TIME, TIME, found()),
                formed(TIME, DAY, found()),
                formed(DAY, TIME, found()),
            ],
        ),
        one(
            "plain: a range may begin in the past",
            row("a week ago", Given::Nothing, past, some("Slot")),
        ),
        one("plain: a booked slot is not offered", row("booked", Given::Booked, taken, gone)),
        one(
            "plain: a cancelled slot is offered again",
            row(
                "cancelled",
                Given::Cancelled,
                taken,
                found().says("the slot", |heard, scene| {
                    let freed = scene.slots[0].slot["id"].clone();
                    heard.resources("Slot").iter().any(|slot| slot["id"] == freed)
                }),
            ),
        ),
        one(
            "plain: no search without the schedules",
            row(
                "no _include",
                Given::Nothing,
                |scene: &Scene| {
                    ask("rest:search:slot-1", "/Slot")
                        .query("start", &format!("ge{}", scene.today))
                        .query("end", &format!("le{}", scene.today))
                        .query("status", "free")
                },
                bad_request(),
            ),
        ),
        case(
            "plain: a repeated end is not a range",
            vec![
                with(&[("start", "ge2031-01-01")], status(&[400, 422])),
                with(&[("end", "le2031-01-01")], status(&[400, 422])),
            ],
        ),
        case(
            "plain: an offset is the one the day has",
            vec![
                formed("%Y-%m-%dT%H:%M:%S+05:00", DAY, invalid_parameter()),
                formed(DAY, "%Y-%m-%dT%H:%M:%S-01:00", invalid_parameter()),
            ],
        ),
    ]
}

fn plain_contents() -> Vec<Case> {
    let text = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    let bare = found().shows("a searchset and no more", |bundle| {
        let mut names: Vec<&str> =
            bundle.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        names.retain(|name| *name != "id");
        bundle["type"] == "searchset" && names == ["entry", "meta", "resourceType", "type"]
    });
    let at_a_location = |schedule: &Value| {
        let mut actors = schedule["actor"].as_array().into_iter().flatten();
        actors.any(|one| one["reference"].as_str().is_some_and(|to| to.starts_with("Location/")))
            && schedule["planningHorizon"]["start"].is_string()
    };
    vec![
        one("plain: the bundle is a searchset", row("5 days", Given::Nothing, usual, bare)),
        case(
            "plain: each slot is whole",
            vec![
                row("free", Given::Nothing, usual, every("Slot", |slot| slot["status"] == "free")),
                row(
                    "service type",
                    Given::Nothing,
                    usual,
                    every("Slot", move |slot| text(&slot["serviceType"][0]["text"])),
                ),
                row(
                    "channel",
                    Given::Nothing,
                    usual,
                    every("Slot", |slot| {
                        extension(slot, "Extension-GPConnect-DeliveryChannel-2").is_some()
                    }),
                ),
                row(
                    "schedule",
                    Given::Nothing,
                    usual,
                    every("Slot", |slot| slot["schedule"]["reference"].is_string()),
                ),
                row(
                    "version",
                    Given::Nothing,
                    usual,
                    every("Slot", |slot| slot["meta"]["versionId"].is_string()),
                ),
                row(
                    "profile",
                    Given::Nothing,
                    usual,
                    every("Slot", |slot| slot["meta"]["profile"][0] == profile("GPConnect-Slot-1")),
                ),
                row(
                    "local time",
                    Given::Nothing,
                    usual,
                    every("Slot", |slot| local(&slot["start"]) && local(&slot["end"])),
                ),
            ],
        ),
        case(
            "plain: each schedule is whole",
            vec![
                row("actor", Given::Nothing, usual, every("Schedule", at_a_location)),
                row(
                    "profile",
                    Given::Nothing,
                    usual,
                    every("Schedule", |one| {
                        one["meta"]["profile"][0] == profile("GPConnect-Schedule-1")
                    }),
                ),
            ],
        ),
        one(
            "plain: each slot's schedule is there",
            row(
                "5 days",
                Given::Nothing,
                usual,
                found().shows("every schedule", |bundle| {
                    let schedules = resources(bundle, "Schedule");
                    resources(bundle, "Slot").iter().all(|slot| {
                        schedules.iter().any(|schedule| {
                            slot["schedule"]["reference"]
                                == format!(
                                    "Schedule/{}",
                                    schedule["id"].as_str().unwrap_or_default()
                                )
                        })
                    })
                }),
            ),
        ),
        case(
            "plain: only the actors that are asked for are there",
            vec![
                with(&[PRACTITIONERS], none("Location")),
                with(&[LOCATIONS], none("Practitioner")),
                with(&[], none("Practitioner")),
            ],
        ),
        one(
            "plain: the practitioners are whole",
            with(
                &[PRACTITIONERS],
                every("Practitioner", |one| {
                    one["identifier"][0]["system"] == SDS_USER
                        && one["name"][0]["family"].is_string()
                }),
            ),
        ),
        one(
            "plain: the locations are whole",
            with(
                &[LOCATIONS, MANAGERS],
                every("Location", |one| {
                    one["name"].is_string() && one["managingOrganization"]["reference"].is_string()
                }),
            ),
        ),
        case(
            "plain: the organisation comes with any slot",
            vec![
                with(&[], some("Organization")),
                with(
                    &[LOCATIONS, MANAGERS],
                    every("Organization", |one| one["identifier"][0]["system"] == ODS_CODE),
                ),
            ],
        ),
        case(
            "plain: filters of other systems are passed over",
            vec![
                filtered(&[("https://example.nhs.uk/a", "b")], some("Slot")),
                filtered(&[("https://example.nhs.uk/a", "b"), (ODS_CODE, HUB_ODS)], some("Slot")),
            ],
        ),
        case(
            "plain: restricted slots show themselves to whom they are for",
            vec![
                offered(&[(ODS_CODE, HUB_ODS)], true),
                offered(&[(ORGANISATION_TYPE, "urgent-care")], true),
                offered(&[(ODS_CODE, HUB_ODS), (ORGANISATION_TYPE, "urgent-care")], true),
                offered(&[(ORGANISATION_TYPE, "gp-practice")], false),
                offered(&[(ODS_CODE, "Z99999")], false),
            ],
        ),
    ]
}

/// With these filters there is, or is not, a slot that nobody is offered without any.
fn offered(filters: &'static [(&'static str, &'static str)], more: bool) -> Row {
    let expect = some("Slot").says("what only they are offered", move |heard, scene| {
        let known = |slot: &Value| scene.offered.iter().any(|id| slot["id"] == **id);
        heard.resources("Slot").iter().any(|slot| !known(slot)) == more
    });
    Row { given: Given::Offer, ..filtered(filters, expect) }
}

/// Spec: the offset of the day, no `Z`, no fraction.
fn local(time: &Value) -> bool {
    let time = time.as_str().unwrap_or_default();
    time.len() == 25 && (time.ends_with("+00:00") || time.ends_with("+01:00"))
}
