//! `PatientRegister`.

use gpconnect_simulator::{InventedPerson, Registration, people};
use serde_json::{Value, json};

use super::case::{
    Case, Expect, Feature, Formats, Given, Row, any_failure, bad_request, case, invalid_resource,
    ok, one, refused, row, status,
};
use super::request::{Request, ask};
use super::resources::{
    NHS_NUMBER, address, communication, patient, profile, registration, telecom, with, without,
};
use super::rig::{Scene, resources};

pub(super) const FEATURE: Feature =
    Feature { name: "PatientRegister", scenarios: 38, cases: 98, list };

const PATH: &str = "/Patient/$gpc.registerpatient";
const ELSEWHERE: &str = "the interaction names another path, and no target has an escape there: the proxy sees it first";

fn send(parameters: Value) -> Request {
    ask("operation:gpc.registerpatient-1", PATH).resource(parameters)
}

/// A newcomer at a practice that does not know them.
fn usual(scene: &Scene) -> Request {
    let practice = scene.newcomer.as_ref().unwrap().0;
    send(registration(&patient(scene.newcomer()))).practice(practice)
}

/// Spec: 200 and not 201, a searchset of the one patient.
fn registered() -> Expect {
    ok().kind("Bundle").no_store()
}

fn shows(what: &'static str, judge: impl Fn(&Value) -> bool + 'static) -> Expect {
    registered().shows(what, move |bundle| {
        let patients = resources(bundle, "Patient");
        patients.len() == 1 && judge(&patients[0])
    })
}

/// Somebody who could be registered, were it not for this change: nobody is used up.
fn changed(
    name: impl Into<String>,
    change: impl Fn(Value) -> Value + 'static,
    expect: Expect,
) -> Row {
    let request =
        move |_: &Scene| send(registration(&change(patient(&of(Registration::Unregistered)))));
    row(name, Given::Nothing, request, expect)
}

fn having(place: &'static str, value: Value, expect: Expect) -> Row {
    changed(place, move |one| with(one, place, value.clone()), expect)
}

/// A newcomer with this about them.
fn newcomer(
    name: impl Into<String>,
    change: impl Fn(Value) -> Value + 'static,
    expect: Expect,
) -> Row {
    let request = move |scene: &Scene| {
        let practice = scene.newcomer.as_ref().unwrap().0;
        send(registration(&change(patient(scene.newcomer())))).practice(practice)
    };
    row(name, Given::Newcomer, request, expect)
}

fn of(standing: Registration) -> InventedPerson {
    people().into_iter().find(|person| person.registration == standing).unwrap()
}

fn standing(standing: Registration, expect: Expect) -> Row {
    let request = move |_: &Scene| send(registration(&patient(&of(standing))));
    row(format!("{standing:?}"), Given::Nothing, request, expect)
}

fn invalid_number() -> Expect {
    status(&[400]).code("INVALID_NHS_NUMBER")
}

fn invalid_demographics() -> Expect {
    status(&[400]).code("INVALID_PATIENT_DEMOGRAPHICS")
}

fn duplicate() -> Expect {
    status(&[409]).code("DUPLICATE_REJECTED")
}

fn list() -> Vec<Case> {
    let url = |path: &'static str, token| {
        let request = move |_: &Scene| {
            send(registration(&patient(&of(Registration::Unregistered)))).path(path)
        };
        row(path, Given::Nothing, request, any_failure()).proxied(refused(token), ELSEWHERE)
    };
    let number = |value: &'static str| {
        having("/identifier", json!([{ "system": NHS_NUMBER, "value": value }]), invalid_number())
    };
    let formats = Formats { given: Given::Newcomer, request: usual, expect: registered() };
    let same = [formats.by_content_and_accept(), formats.by_content_and_format()];
    let [accepts, parameters] = same.map(|rows| rows.into_iter().take(2).collect());
    let mut cases = vec![
        case(
            "Register patient send request to incorrect URL",
            vec![
                url("/Patient/$gpc.registerpatien", "interaction_path"),
                url("/Patient/$gpc.registerpati%23ent", "target_malformed"),
            ],
        ),
        one(
            "Register patient without sending identifier within patient",
            having("/identifier", Value::Null, invalid_number()),
        ),
        one(
            "Register patient without date of birth element",
            having("/birthDate", Value::Null, bad_request()),
        ),
        case(
            "Register patient with an invalid NHS number",
            ["34555##4", "hello", "999999999", "9000000008", "90000000090"].map(number).into(),
        ),
        case("Register Patient and use the Accept Header to request response format", accepts),
        case(
            "Register Patient and use the _format parameter to request the response format",
            parameters,
        ),
        case(
            "Register Patient and use both the Accept header and _format parameter to request the response format",
            formats.by_all(),
        ),
    ];
    cases.extend(forms());
    cases.extend(elements());
    cases.extend(standings());
    cases.extend(plain());
    cases
}

/// What is wrong with the parameters, or with what a patient must have.
fn forms() -> Vec<Case> {
    let parameters = |name: &'static str, change: fn(Value) -> Value, expect| {
        let request =
            move |_: &Scene| send(change(registration(&patient(&of(Registration::Unregistered)))));
        row(name, Given::Nothing, request, expect)
    };
    let twice = |mut sent: Value| {
        let first = sent["parameter"][0].clone();
        sent["parameter"].as_array_mut().unwrap().push(first);
        sent
    };
    vec![
        one(
            "Register patient with invalid bundle resource type",
            parameters(
                "resourceType",
                |sent| with(sent, "/resourceType", json!("InvalidResource")),
                invalid_resource(),
            ),
        ),
        one(
            "Register patient with invalid patient resource type",
            having("/resourceType", json!("InvalidResource"), invalid_resource()),
        ),
        one(
            "Register patient with invalid patient resource with additional element",
            having("/invalidField", json!("x"), invalid_resource()),
        ),
        one(
            "Register patient with duplicate patient resource parameters",
            parameters("twice", twice, bad_request()),
        ),
        one(
            "Register patient1 which already exists on the system as a normal patient",
            standing(Registration::Registered, duplicate()),
        ),
        one(
            "Register patient which already exists on the system as a temporary patient",
            standing(Registration::Temporary, duplicate()),
        ),
        one(
            "Register patient which is not the Spine",
            having(
                "/identifier",
                json!([{ "system": NHS_NUMBER, "value": "9434765919" }]),
                invalid_demographics(),
            ),
        ),
        one(
            "Register patient with no official name",
            changed("usual", |one| with(one, "/name/0/use", json!("usual")), bad_request()),
        ),
        one(
            "Register patient no family names",
            changed("family", |one| without(one, "/name/0/family"), bad_request()),
        ),
        one(
            "Register patient containing identifier without mandatory system elements",
            having("/identifier/1", json!({ "value": "7" }), bad_request()),
        ),
    ]
}

/// What a patient may not have.
fn elements() -> Vec<Case> {
    let extra = |place, value| having(place, value, invalid_resource());
    let contact = json!([{ "name": { "family": "Nextofkin" } }]);
    let both = |usage: &'static str| {
        changed(
            usage,
            move |one| {
                let one = with(one, "/address", json!([address("temp")]));
                with(one, "/telecom", json!([telecom(usage), telecom(usage)]))
            },
            bad_request(),
        )
    };
    let addresses = |uses: &'static [&'static str]| {
        let change = move |one| {
            let all: Vec<Value> = uses.iter().map(|usage| address(usage)).collect();
            with(one, "/address", json!(all))
        };
        changed(uses.join(" "), change, invalid_resource())
    };
    let scoped = |scope: &'static str| {
        let request = move |_: &Scene| {
            send(registration(&patient(&of(Registration::Unregistered)))).scope(scope)
        };
        row(scope, Given::Nothing, request, bad_request())
            .proxied(refused("scope_mismatch"), "the proxy reads the token first")
    };
    vec![
        case(
            "Register patient with invalid additional valid elements",
            vec![
                extra("/active", json!(true)),
                extra("/multipleBirthBoolean", json!(true)),
                extra("/generalPractitioner", json!([{ "reference": "Practitioner/1" }])),
                extra("/contact", contact),
                extra("/managingOrganization", json!({ "reference": "Organization/1" })),
                extra("/maritalStatus", json!({ "text": "married" })),
            ],
        ),
        one(
            "Register patient with Multiple Address not allowed and Telecom",
            changed(
                "temp temp",
                |one| {
                    let one = with(one, "/address", json!([address("temp"), address("temp")]));
                    with(one, "/telecom", json!([telecom("temp")]))
                },
                invalid_resource(),
            ),
        ),
        case(
            "Register patient with Address and Invalid Telecom elements",
            ["home", "work", "mobile", "temp", "email"].map(both).into(),
        ),
        one(
            "Register patient with Address Telecom and multiple nhsCommunication",
            extra("/extension", json!([communication("en"), communication("cy")])),
        ),
        case(
            "Register patient with additional not allowed elements",
            vec![
                extra("/animal", json!({ "species": { "text": "dog" } })),
                extra("/communication", json!([{ "language": { "text": "en" } }])),
                extra("/photo", json!([{ "title": "portrait" }])),
                extra("/deceasedBoolean", json!(true)),
            ],
        ),
        case(
            "Register patient setting JWT request type to invalid type",
            vec![scoped("patient/*.read"), scoped("organization/*.read")],
        ),
        one(
            "Register patient invalid response check caching headers exist",
            having("/identifier", Value::Null, invalid_number().no_store()),
        ),
        case(
            "Register patient with Invalid Multiple Address Use types",
            vec![
                addresses(&["home", "work"]),
                addresses(&["home", "home"]),
                addresses(&["home", "old"]),
                addresses(&["old", "work"]),
                addresses(&["old", "old"]),
                addresses(&["old", "temp"]),
                addresses(&["temp", "work"]),
                addresses(&["temp", "temp"]),
                addresses(&["temp", "old"]),
            ],
        ),
        case(
            "Register patient with Invalid Address Use type",
            vec![addresses(&["work"]), addresses(&["old"])],
        ),
    ]
}

/// What the national register says of them.
fn standings() -> Vec<Case> {
    vec![
        one(
            "Register patient with family name not matching PDS",
            changed("family", |one| with(one, "/name/0/family", json!("Otherwise")), bad_request()),
        ),
        one(
            "Register deceased patient",
            standing(Registration::DeceasedElsewhere, invalid_demographics()),
        ),
        one(
            "Register sensitive patient",
            standing(Registration::SensitiveElsewhere, invalid_demographics()),
        ),
        one("Register superseded patient", standing(Registration::Superseded, invalid_number())),
    ]
}

fn plain() -> Vec<Case> {
    const USES: [&str; 5] = ["home", "work", "mobile", "temp", "email"];
    let pair = |first: &'static str, second: &'static str| {
        newcomer(
            format!("{first} {second}"),
            move |one| {
                let one = with(one, "/address", json!([address("temp")]));
                with(one, "/telecom", json!([telecom(first), telecom(second)]))
            },
            shows("both numbers", |one| {
                one["telecom"].as_array().is_some_and(|all| all.len() >= 2)
            }),
        )
    };
    let pairs = USES.iter().flat_map(|first| {
        let others = USES.iter().filter(move |second| *second != first);
        others.map(move |second| pair(first, second))
    });
    let places = |uses: [&'static str; 2]| {
        let change = move |one| with(one, "/address", json!(uses.map(address)));
        newcomer(
            uses.join(" "),
            change,
            shows("both addresses", |one| {
                one["address"].as_array().is_some_and(|all| all.len() == 2)
            }),
        )
    };
    let place = |usage: &'static str| {
        let change = move |one| with(one, "/address", json!([address(usage)]));
        newcomer(usage, change, shows("the address", move |one| one["address"][0]["use"] == usage))
    };
    let asis = |name: &'static str, expect: Expect| row(name, Given::Newcomer, usual, expect);
    let numbered = registered().says("the number", |heard, scene| {
        let patients = heard.resources("Patient");
        patients.len() == 1 && patients[0]["identifier"][0]["value"] == scene.newcomer().nhs_number
    });
    vec![
        case("plain: two ways to be reached are kept", pairs.collect()),
        case(
            "plain: a home and a stay are kept",
            vec![places(["home", "temp"]), places(["temp", "home"])],
        ),
        case("plain: an address is kept", vec![place("home"), place("temp")]),
        one(
            "plain: a language is kept",
            newcomer(
                "cy",
                |one| with(one, "/extension", json!([communication("cy")])),
                registered(),
            ),
        ),
        case(
            "plain: the registration is told",
            vec![
                asis(
                    "extension",
                    shows("its details", |one| {
                        super::resources::extension(
                            one,
                            "Extension-CareConnect-GPC-RegistrationDetails-1",
                        )
                        .is_some()
                    }),
                ),
                asis(
                    "profile",
                    shows("its profile", |one| {
                        one["meta"]["profile"][0] == profile("CareConnect-GPC-Patient-1")
                    }),
                ),
            ],
        ),
        one("plain: whoever is registered has a number", asis("number", numbered)),
        case(
            "plain: whoever is registered is a patient",
            vec![
                asis("id", shows("an id", |one| one["id"].is_string())),
                asis("active", shows("active", |one| one["active"] == true)),
                asis(
                    "searchset",
                    registered().shows("a searchset", |bundle| bundle["type"] == "searchset"),
                ),
            ],
        ),
        one(
            "plain: a patient who has left comes back",
            standing(Registration::Inactive, registered()),
        ),
    ]
}
