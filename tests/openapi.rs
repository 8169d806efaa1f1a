//! `OpenAPI` description of the consumer port, made of the catalogue of interactions and the table of refusals.

use std::collections::BTreeMap;
use std::process::Command;

use http::Method;
use serde_json::{Value, json};
use spine_proxy::refusal::{self, RefusalRow};
use spine_types::interaction::{CATALOGUE, Effect, Interaction, InteractionGroup, PathSegment};
use testkit::{report_missing, repository};

use crate::documents::holds;

pub(crate) mod control;

const PATH: &str = "docs/integrate/openapi.json";
/// Refusals that an operation's answer never carries: nobody is left to read it, or the port is another.
const NOT_ANSWERED: [&str; 2] = ["consumer_gone", "plain_http"];
/// Refusals of requests with a body, and of requests without.
const OF_WRITES: [&str; 4] =
    ["outcome_unknown", "outcome_unknown_in_time", "body_timed_out", "body_cut"];
const OF_READS: [&str; 3] = ["provider_failed", "provider_timed_out", "body_on_get"];

/// Interactions of one operation: several may have the same method and path.
type Operation = Vec<&'static Interaction>;

/// The catalogue by path and method.
fn operations() -> BTreeMap<String, BTreeMap<String, Operation>> {
    let mut all: BTreeMap<String, BTreeMap<String, Operation>> = BTreeMap::new();
    for interaction in &CATALOGUE {
        let path = interaction.template().replace("[id]", "{id}");
        let method = interaction.method.as_str().to_lowercase();
        all.entry(path).or_default().entry(method).or_default().push(interaction);
    }
    all
}

/// Type of the resource in a successful answer.
fn answered(interaction: &Interaction) -> &'static str {
    match interaction.path {
        [.., PathSegment::Word(kind), PathSegment::Id] => kind,
        [PathSegment::Word("metadata")] => "CapabilityStatement",
        [PathSegment::Word(kind)] if interaction.method == Method::POST => kind,
        _ => "Bundle",
    }
}

/// Query parameter, with an example of its value.
struct QueryParameter {
    name: &'static str,
    example: &'static str,
    description: &'static str,
    times: Times,
}

/// Number of times that a parameter is sent.
#[derive(PartialEq)]
enum Times {
    Once,
    /// Once or more often.
    Often,
    /// Never, or any number of times.
    Any,
}

const fn parameter(
    name: &'static str,
    example: &'static str,
    times: Times,
    description: &'static str,
) -> QueryParameter {
    QueryParameter { name, example, description, times }
}

fn identifier(example: &'static str) -> Vec<QueryParameter> {
    let about = "System and value, with `|` between them as `%7C`.";
    vec![parameter("identifier", example, Times::Once, about)]
}

fn query(interaction: &Interaction) -> Vec<QueryParameter> {
    match interaction.short_id() {
        "fhir:rest:search:slot-1" => vec![
            parameter("status", "free", Times::Once, "Always `free`."),
            parameter("start", "ge2026-12-01", Times::Once, "First day or time, after `ge`."),
            parameter(
                "end",
                "le2026-12-14",
                Times::Once,
                "Last day or time, after `le`; at most two weeks after the first.",
            ),
            parameter("_include", "Slot:schedule", Times::Once, "Always `Slot:schedule`."),
            parameter(
                "_include:recurse",
                "Schedule:actor:Location",
                Times::Any,
                "Further resources: `Schedule:actor:Practitioner`, `Schedule:actor:Location`, \
                 `Location:managingOrganization`.",
            ),
            parameter(
                "searchFilter",
                "https://fhir.nhs.uk/Id/ods-organization-code|A00001",
                Times::Any,
                "ODS code or type of the consumer's organisation, with `|` as `%7C`.",
            ),
        ],
        "fhir:rest:search:patient_appointments-1" => vec![parameter(
            "start",
            "ge2026-12-01",
            Times::Often,
            "Sent twice: the first day after `ge`, the last after `le`; neither is in the past.",
        )],
        "fhir:rest:search:patient-1" | "documents:fhir:rest:search:patient-1" => {
            identifier("https://fhir.nhs.uk/Id/nhs-number|9990000018")
        }
        "fhir:rest:search:practitioner-1" => {
            identifier("https://fhir.nhs.uk/Id/sds-user-id|111222333444")
        }
        "fhir:rest:search:organization-1" => {
            identifier("https://fhir.nhs.uk/Id/ods-organization-code|A20047")
        }
        _ => Vec::new(),
    }
}

impl QueryParameter {
    fn described(&self) -> Value {
        let (schema, example) = match self.times {
            Times::Once => (json!({"type": "string"}), json!(self.example)),
            Times::Often | Times::Any => {
                (json!({"type": "array", "items": {"type": "string"}}), json!([self.example]))
            }
        };
        json!({
            "name": self.name,
            "in": "query",
            "required": self.times != Times::Any,
            "description": self.description,
            "schema": schema,
            "example": example,
        })
    }
}

fn reference(kind: &str, name: &str) -> Value {
    json!({"$ref": format!("#/components/{kind}/{name}")})
}

/// Name such as `searchSlot`, or `updateOrCancelAppointment` for several interactions.
fn operation_id(interactions: &[&Interaction]) -> String {
    let mut words = Vec::new();
    for interaction in interactions {
        let short = interaction.short_id().trim_end_matches("-1");
        let parts: Vec<_> = short.split([':', '.', '_']).filter(|part| *part != "gpc").collect();
        let named: Vec<_> = parts
            .into_iter()
            .filter(|part| !["fhir", "rest", "operation"].contains(part))
            .collect();
        words.push(named.iter().map(|word| capital(word)).collect::<String>());
    }
    let all = words.join("Or");
    let mut letters = all.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn operation(interactions: &[&'static Interaction]) -> Value {
    let first = interactions[0];
    let mut parameters: Vec<_> =
        ["TraceId", "From", "To"].iter().map(|name| reference("parameters", name)).collect();
    let ids: Vec<_> = interactions.iter().map(|one| one.id).collect();
    parameters.push(json!({
        "name": "Ssp-InteractionID",
        "in": "header",
        "required": true,
        "schema": {"type": "string", "enum": ids},
        "example": first.id,
    }));
    parameters.extend(query(first).iter().map(QueryParameter::described));
    let is_change = first.method == Method::PUT;
    if is_change {
        parameters.push(reference("parameters", "IfMatch"));
    }
    let lines = interactions.iter().map(|one| {
        format!("- `{}`: scope `{}`, capability `{}`", one.short_id(), one.scope, one.capability)
    });
    let lines: Vec<_> = lines.collect();
    let mut described = json!({
        "operationId": operation_id(interactions),
        "summary": interactions.iter().map(|one| one.short_id()).collect::<Vec<_>>().join(", "),
        "description": format!("Interactions, with the scope of the token:\n\n{}", lines.join("\n")),
        "tags": tags(interactions),
        "security": [{"mutualTLS": [], "token": []}],
        "parameters": parameters,
        "responses": responses(first),
    });
    if first.effect() == Effect::Writes {
        let kind = if first.path.len() == 2 && !is_change { "Parameters" } else { answered(first) };
        described["requestBody"] = json!({"required": true, "content": content(&reference("schemas", "Resource"), Some(kind))});
    }
    described
}

fn tags(interactions: &[&Interaction]) -> Vec<&'static str> {
    let mut tags: Vec<_> = interactions.iter().map(|one| one.group.name()).collect();
    tags.dedup();
    tags
}

/// Content in both formats of FHIR.
fn content(schema: &Value, kind: Option<&str>) -> Value {
    let schema = match kind {
        None => schema.clone(),
        Some(kind) => json!({
            "allOf": [schema, {"properties": {"resourceType": {"const": kind}}}],
        }),
    };
    json!({"application/fhir+json": {"schema": schema}, "application/fhir+xml": {"schema": {"type": "string"}}})
}

fn responses(interaction: &Interaction) -> Value {
    let status = if answered(interaction) == "Appointment" && interaction.method == Method::POST {
        "201"
    } else {
        "200"
    };
    let mut all = json!({
        status: {
            "description": "The provider's answer.",
            "headers": {
                "Spine-Proxy-Exchange": reference("headers", "Exchange"),
                "ETag": reference("headers", "ETag"),
            },
            "content": content(&reference("schemas", "Resource"), Some(answered(interaction))),
        },
        "default": {
            "description": "Another answer of the provider, which the proxy passes on unchanged.",
            "headers": {"Spine-Proxy-Exchange": reference("headers", "Exchange")},
        },
    });
    for status in rows(interaction.effect()).keys() {
        all[status.to_string()] =
            reference("responses", &response_name(*status, interaction.effect()));
    }
    all
}

/// Refusals that may answer a request with this effect, by status.
fn rows(effect: Effect) -> BTreeMap<u16, Vec<RefusalRow>> {
    let others = match effect {
        Effect::Reads => &OF_WRITES[..],
        Effect::Writes => &OF_READS[..],
    };
    let mut all: BTreeMap<u16, Vec<RefusalRow>> = BTreeMap::new();
    for row in refusal::every().iter().map(refusal::Refusal::row) {
        if !NOT_ANSWERED.contains(&row.token) && !others.contains(&row.token) {
            all.entry(row.status).or_default().push(row);
        }
    }
    all
}

fn response_name(status: u16, effect: Effect) -> String {
    match effect {
        Effect::Reads => format!("RefusedRead{status}"),
        Effect::Writes => format!("RefusedWrite{status}"),
    }
}

/// Answers of the proxy itself with one status.
fn refused(rows: &[RefusalRow]) -> Value {
    let tokens: Vec<_> = rows.iter().map(|row| row.token).collect();
    let meaning = |row: &RefusalRow| {
        let remedy = refusal::remedy(row.token).unwrap();
        format!("- `{}`: {}. {}", row.token, remedy.reason, remedy.action)
    };
    let lines: Vec<_> = rows.iter().map(meaning).collect();
    let mut headers = json!({
        "Spine-Proxy-Exchange": reference("headers", "Exchange"),
        "Proxy-Status": reference("headers", "ProxyStatus"),
        "Link": reference("headers", "Help"),
    });
    let waits = ["transient", "throttled"];
    if rows.iter().any(|row| waits.contains(&row.issue)) {
        headers["Retry-After"] = reference("headers", "RetryAfter");
    }
    json!({
        "description": format!(
            "The proxy's refusal, by the token in `Proxy-Status`; without one, the provider's own answer.\n\n{}",
            lines.join("\n")
        ),
        "headers": headers,
        "content": content(&reference("schemas", "OperationOutcome"), None),
        "x-refusals": tokens,
    })
}

fn components() -> Value {
    let mut responses = json!({});
    for effect in [Effect::Reads, Effect::Writes] {
        for (status, rows) in rows(effect) {
            responses[response_name(status, effect)] = refused(&rows);
        }
    }
    json!({
        "parameters": parameters(),
        "headers": headers(),
        "schemas": schemas(),
        "responses": responses,
        "securitySchemes": {
            "mutualTLS": {
                "type": "mutualTLS",
                "description": "A client certificate whose name is registered for `Ssp-From`.",
            },
            "token": {
                "type": "http",
                "scheme": "bearer",
                "bearerFormat": "JWT",
                "description": "An unsigned JWT for this request, as docs/integrate/request.md has it; `aud` is the service root.",
            },
        },
    })
}

fn parameters() -> Value {
    let asid = json!({"type": "string", "pattern": "^[0-9]{12}$"});
    let header = |name: &str, required: bool, about: &str, schema: &Value, example: &str| {
        json!({
            "name": name, "in": "header", "required": required, "description": about,
            "schema": schema, "example": example,
        })
    };
    json!({
        "TraceId": header(
            "Ssp-TraceID", true, "UUID of the request, in either case.",
            &json!({"type": "string", "format": "uuid"}), "09a01679-2564-4fb4-9129-aecc81ea2706",
        ),
        "From": header("Ssp-From", true, "ASID of the consumer's system.", &asid, "200000000359"),
        "To": header(
            "Ssp-To", false,
            "ASID of the practice's system. Required in form (a); in form (b) it may be omitted.", &asid,
            "918999198993",
        ),
        "IfMatch": header(
            "If-Match", false, "Version of the appointment, from `ETag`.", &json!({"type": "string"}), "W/\"1\"",
        ),
        "Id": {
            "name": "id", "in": "path", "required": true, "description": "Logical id of the resource.",
            "schema": {"type": "string", "pattern": "^[A-Za-z0-9.-]{1,64}$"},
        },
    })
}

fn headers() -> Value {
    let text = |about: &str, example: &str| json!({"description": about, "schema": {"type": "string"}, "example": example});
    json!({
        "Exchange": {
            "description": "Id of the exchange, that of its record in the journal; the OperationOutcome of a refusal has it too.",
            "schema": {"type": "string", "format": "uuid"},
        },
        "ETag": text("Version of a single resource.", "W/\"1\""),
        "ProxyStatus": text(
            "The refusal's token, under the proxy's name (RFC 9209).",
            "ssp-1; error=http_request_error; details=\"interaction_id_repeated\"",
        ),
        "Help": text(
            "The description of the refusal, if the operators have set `listener.help-url`.",
            "<https://ssp.example.nhs.uk/docs/integrate/refusals.html#interaction_id_repeated>; rel=\"help\"",
        ),
        "RetryAfter": {
            "description": "Seconds after which the request may be repeated; some of these refusals have it.",
            "schema": {"type": "integer", "minimum": 1},
        },
    })
}

fn schemas() -> Value {
    json!({
        "Resource": {
            "type": "object",
            "description": "A resource of FHIR STU3, as GP Connect profiles it.",
            "required": ["resourceType"],
            "properties": {"resourceType": {"type": "string"}},
        },
        "OperationOutcome": {
            "type": "object",
            "required": ["resourceType", "issue"],
            "properties": {
                "resourceType": {"const": "OperationOutcome"},
                "id": {"type": "string", "description": "Of a refusal: the id in `Spine-Proxy-Exchange`."},
                "meta": {"type": "object", "properties": {"profile": {"type": "array", "items": {"type": "string"}}}},
                "issue": {"type": "array", "minItems": 1, "items": reference("schemas", "Issue")},
            },
        },
        "Issue": {
            "type": "object",
            "required": ["severity", "code", "details"],
            "properties": {
                "severity": {"enum": ["fatal", "error", "warning", "information"]},
                "code": {"type": "string", "description": "Issue type of FHIR."},
                "details": {
                    "type": "object",
                    "properties": {
                        "coding": {"type": "array", "items": reference("schemas", "Coding")},
                        "text": {"type": "string", "description": "Reason and remedy in plain words."},
                    },
                },
                "diagnostics": {"type": "string", "description": "Reason and remedy in plain words, or the code of the Spine."},
            },
        },
        "Coding": {
            "type": "object",
            "properties": {
                "system": {"type": "string"}, "code": {"type": "string"}, "display": {"type": "string"},
            },
        },
    })
}

/// The two forms of a target: everything before the path of the interaction.
fn servers() -> Value {
    let capabilities: Vec<_> = {
        let mut all: Vec<_> = CATALOGUE.iter().map(|one| one.capability).collect();
        all.sort_unstable();
        all.dedup();
        all
    };
    let proxy = json!({"default": "ssp.example.nhs.uk", "description": "Name of the proxy, with its port if that is not 443."});
    json!([
        {
            "url": "https://{proxy}/{root}",
            "description": "Form (a): the service root, exactly as registered, with its `https://`.",
            "variables": {
                "proxy": proxy,
                "root": {
                    "default": "https://provider.example.nhs.uk/A20047/STU3/1/gpconnect",
                    "description": "Service root of the practice for the interaction; not escaped.",
                },
            },
        },
        {
            "url": "https://{proxy}/{ods}/STU3/1/{capability}",
            "description": "Form (b): the practice's ODS code; the proxy finds the service root.",
            "variables": {
                "proxy": proxy,
                "ods": {"default": "A20047", "description": "ODS code of the practice, in either case."},
                "capability": {"default": "gpconnect", "enum": capabilities},
            },
        },
    ])
}

fn description() -> Value {
    let mut paths = json!({});
    for (path, methods) in operations() {
        let mut item = json!({});
        if path.contains("{id}") {
            item["parameters"] = json!([reference("parameters", "Id")]);
        }
        for (method, interactions) in methods {
            item[method] = operation(&interactions);
        }
        paths[path] = item;
    }
    let tag = |group: InteractionGroup| json!({"name": group.name()});
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "spine-proxy",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Requests of GP Connect consumers, by either form of the target.",
            "license": {"name": "MIT", "identifier": "MIT"},
            "description": "Generated from the catalogue of interactions and the table of refusals. The groups `appointments` and \
                 `foundations` are allowed by default. docs/integrate/request.md describes target, headers and token.",
        },
        "servers": servers(),
        "tags": InteractionGroup::ALL.map(tag),
        "paths": paths,
        "components": components(),
    })
}

/// Compares a description with its file, or writes the file if `UPDATE_DOCS` is set.
fn holds_description(path: &str, description: &Value) {
    let text = serde_json::to_string_pretty(description).unwrap();
    holds(path, &format!("{text}\n"));
}

#[test]
fn the_openapi_description_is_made_of_the_catalogue_and_the_refusals() {
    holds_description(PATH, &description());
}

#[test]
fn the_openapi_description_has_every_interaction_and_every_refusal() {
    let text = description().to_string();
    for interaction in &CATALOGUE {
        assert!(text.contains(&format!("\"{}\"", interaction.id)), "{}", interaction.id);
    }
    for row in refusal::every().iter().map(refusal::Refusal::row) {
        let is_there = text.contains(&format!("\"{}\"", row.token));
        assert_eq!(is_there, !NOT_ANSWERED.contains(&row.token), "{}", row.token);
    }
}

/// Asserts that a description is valid by an independent validator, of the specification's own schema.
fn assert_valid(path: &str) {
    let validator = repository::root().join("target/openapi/bin/openapi-spec-validator");
    if !validator.exists() {
        return report_missing("openapi-spec-validator of Python (.ci/run installs it)");
    }
    let output = Command::new(validator)
        .args(["--schema", "3.1"])
        .arg(repository::root().join(path))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_openapi_description_is_valid() {
    assert_valid(PATH);
}
