//! FHIR: the capability statement, and the format it is told in.

use serde_json::Value;

use super::case::{Case, Feature, Format, Formats, Given, JSON, Row, XML, case, ok, one, row};
use super::request::{Request, ask};
use super::rig::Scene;

pub(super) const FEATURE: Feature = Feature { name: "FHIR", scenarios: 19, cases: 43, list };

fn metadata(_: &Scene) -> Request {
    ask("rest:read:metadata-1", "/metadata")
}

fn told(
    content: &'static str,
    accept: Option<&'static str>,
    format: Option<&'static str>,
    wanted: Format,
) -> Row {
    let request = move |scene: &Scene| {
        let request = metadata(scene).content(content);
        let request = match accept {
            Some(accept) => request.accept(accept),
            None => request.no_accept(),
        };
        format.map_or(request.clone(), |format| request.query("_format", format))
    };
    row("metadata", Given::Nothing, request, ok().format(wanted).kind("CapabilityStatement"))
}

fn shows(name: &str, what: &'static str, judge: impl Fn(&Value) -> bool + 'static) -> Row {
    row(name, Given::Nothing, metadata, ok().kind("CapabilityStatement").shows(what, judge))
}

/// Whether the statement lists this interaction of this resource.
fn interacts(statement: &Value, kind: &str, code: &str) -> bool {
    let resources = statement["rest"][0]["resource"].as_array().cloned().unwrap_or_default();
    let of_kind = resources.iter().filter(|resource| resource["type"] == kind);
    of_kind
        .flat_map(|resource| resource["interaction"].as_array().into_iter().flatten())
        .any(|known| known["code"] == code)
}

const INTERACTIONS: [(&str, &str); 12] = [
    ("Patient", "read"),
    ("Patient", "search-type"),
    ("Organization", "read"),
    ("Organization", "search-type"),
    ("Practitioner", "read"),
    ("Practitioner", "search-type"),
    ("Location", "read"),
    ("Appointment", "read"),
    ("Appointment", "create"),
    ("Appointment", "update"),
    ("Appointment", "search-type"),
    ("Slot", "search-type"),
];

fn list() -> Vec<Case> {
    use Format::{Json, Xml};
    let mut cases = vec![
        one(
            "Fhir content type test where Accept header is JSON and request payload is XML",
            told(XML, Some(JSON), None, Json),
        ),
        one(
            "Fhir content type test where Accept header is XML and request payload is JSON",
            told(JSON, Some(XML), None, Xml),
        ),
        one(
            "Fhir content type test where _format parameter is JSON and request payload is JSON",
            told(JSON, None, Some(JSON), Json),
        ),
        one(
            "Fhir content type test where _format parameter is JSON and request payload is XML",
            told(XML, None, Some(JSON), Json),
        ),
        one(
            "Fhir content type test where _format parameter is XML and request payload is XML",
            told(XML, None, Some(XML), Xml),
        ),
        one(
            "Fhir content type test where _format parameter is XML and request payload is JSON",
            told(JSON, None, Some(XML), Xml),
        ),
        one(
            "Fhir content type test where Accept header is XML and _format parameter is XML",
            told(XML, Some(XML), Some(XML), Xml),
        ),
        one(
            "Fhir content type test where Accept header is XML and _format parameter is JSON",
            told(XML, Some(XML), Some(JSON), Json),
        ),
        one(
            "Fhir content type test where Accept header is JSON and _format parameter is JSON",
            told(JSON, Some(JSON), Some(JSON), Json),
        ),
        one(
            "Fhir content type test where Accept header is JSON and _format parameter is XML",
            told(JSON, Some(JSON), Some(XML), Xml),
        ),
        one(
            "endpoint should support gzip compression for metadata endpoint and contain the correct payload",
            gzipped(),
        ),
    ];
    cases.extend(plain());
    cases
}

fn gzipped() -> Row {
    let request = |scene: &Scene| metadata(scene).set("accept-encoding", "gzip");
    let expect = ok().says("gzip of FHIR JSON", |heard, _| {
        heard.header("content-encoding") == "gzip"
            && heard.header("content-type").starts_with(JSON)
            && heard.body.starts_with(&[0x1f, 0x8b, 8])
            && unpacked_length(&heard.body) > heard.body.len()
    });
    row("gzip", Given::Nothing, request, expect)
}

/// The last four bytes of gzip: how long it is when it is unpacked.
fn unpacked_length(packed: &[u8]) -> usize {
    let last = packed.last_chunk().map_or(0, |last| u32::from_le_bytes(*last));
    usize::try_from(last).unwrap()
}

fn plain() -> Vec<Case> {
    let statement = Formats {
        given: Given::Nothing,
        request: metadata,
        expect: ok().kind("CapabilityStatement").no_store(),
    };
    let interactions = INTERACTIONS.iter().map(|(kind, code)| {
        let name = format!("{kind} {code}");
        shows(&name, "the interaction", |statement| interacts(statement, kind, code))
    });
    let mut two_of_three = statement.by_both();
    two_of_three.extend(statement.by_accept());
    two_of_three.push(told(XML, None, None, Format::Xml));
    vec![
        one(
            "plain: the statement names the release of the specification",
            shows("version", "1.2.7", |statement| statement["version"] == "1.2.7"),
        ),
        one(
            "plain: the statement names the version of FHIR",
            shows("fhirVersion", "3.0.1", |statement| statement["fhirVersion"] == "3.0.1"),
        ),
        one(
            "plain: the statement names the software",
            shows("software", "a name and a version", |statement| {
                let software = &statement["software"];
                software["name"].is_string() && software["version"].is_string()
            }),
        ),
        one(
            "plain: the statement accepts both formats",
            shows("format", "both formats", |statement| {
                let formats = statement["format"].as_array().cloned().unwrap_or_default();
                formats.contains(&JSON.into()) && formats.contains(&XML.into())
            }),
        ),
        one(
            "plain: the statement has the operation that registers",
            shows("operation", "gpc.registerpatient", |statement| {
                let operations = statement["rest"][0]["operation"].as_array();
                let mut operations = operations.into_iter().flatten();
                operations.any(|operation| operation["name"] == "gpc.registerpatient")
            }),
        ),
        case("plain: the statement lists every interaction", interactions.collect()),
        case("plain: the statement comes in the format of all three", statement.by_all()),
        case("plain: the statement comes in the format of two of the three", two_of_three),
    ]
}
