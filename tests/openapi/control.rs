//! `OpenAPI` description of the simulator's control interface, made of the table of its operations.

use gpconnect_simulator::{ControlFault, ControlParameters, ControlRoute, control_routes};
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::{assert_valid, holds_description, reference};

const PATH: &str = "docs/test/simulator-openapi.json";
/// Statuses of refusals, with their reasons.
const REFUSALS: [(u16, &str); 5] = [
    (400, "The query or the body is invalid."),
    (404, "There is no practice with this ODS code."),
    (408, "The body did not arrive within 30 s."),
    (413, "The body is longer than 1 MiB."),
    (500, "The simulator's store could not be written."),
];
/// Examples of the values of parameters.
const EXAMPLES: [(&str, &str); 3] =
    [("last", "5"), ("ods", "\"A20047\""), ("keep", "[\"scripts\", \"clock\"]")];

/// Generators of the schemas of what is sent, and of what is answered.
struct ControlSchemas {
    sent: SchemaGenerator,
    answered: SchemaGenerator,
}

impl ControlSchemas {
    fn new() -> Self {
        let settings = SchemaSettings::draft2020_12()
            .with(|settings| settings.definitions_path = "/components/schemas".into());
        let sent = settings.clone().for_deserialize().into_generator();
        Self { sent, answered: settings.for_serialize().into_generator() }
    }

    fn operation(&mut self, route: &ControlRoute) -> Value {
        let (summary, _) = route.description.split_once('.').unwrap();
        let answer = (route.answer)(&mut self.answered);
        let mut described = json!({
            "operationId": route.id,
            "summary": summary,
            "description": route.description,
            "parameters": self.parameters(route),
            "responses": { "200": content("The operation was carried out.", &answer.to_value()) },
        });
        for status in refusals(route) {
            described["responses"][status.to_string()] = reference("responses", &refused(status));
        }
        if let Some(body) = route.body {
            let body = body(&mut self.sent).to_value();
            described["requestBody"] = json!({ "required": true, "content": json_of(&body) });
        }
        described
    }

    fn parameters(&mut self, route: &ControlRoute) -> Vec<Value> {
        let all = self.sent.root_schema_for::<ControlParameters>().to_value();
        let in_path = takes_practice(route).then_some(("ods", "path"));
        let in_query = route.query.iter().map(|name| (*name, "query"));
        let described = in_path.into_iter().chain(in_query).map(|(name, place)| {
            let mut schema = all["properties"][name].clone();
            let members = schema.as_object_mut().unwrap();
            members.remove("default");
            let description = members.remove("description").unwrap();
            let (_, example) = EXAMPLES.iter().find(|(known, _)| *known == name).unwrap();
            let example: Value = serde_json::from_str(example).unwrap();
            let mut parameter = json!({
                "name": name,
                "in": place,
                "required": place == "path",
                "description": description,
                "schema": schema,
                "example": example,
            });
            if schema["type"] == "array" {
                parameter["explode"] = json!(false);
            }
            parameter
        });
        described.collect()
    }

    /// Returns the named schemas; `sent` is renamed in `paths` where the two sides differ.
    fn named(mut self, paths: &mut Value) -> Map<String, Value> {
        let mut named = self.answered.take_definitions(true);
        let mut sent = json!(self.sent.take_definitions(true));
        let differing: Vec<_> = (sent.as_object().unwrap().iter())
            .filter(|(name, schema)| named.get(*name).is_some_and(|other| other != *schema))
            .map(|(name, _)| name.clone())
            .collect();
        for name in differing {
            let renamed = format!("Sent{name}");
            rename(&mut sent, "", &name, &renamed);
            let operations = paths.as_object_mut().unwrap().values_mut();
            for operation in operations.flat_map(|path| path.as_object_mut().unwrap().values_mut())
            {
                rename(operation, "/requestBody", &name, &renamed);
            }
            let schema = sent.as_object_mut().unwrap().remove(&name).unwrap();
            named.insert(renamed, schema);
        }
        for (name, schema) in sent.as_object().unwrap() {
            named.insert(name.clone(), schema.clone());
        }
        // The parameters are described one by one.
        named.remove("ControlParameters");
        named
    }
}

/// Changes every reference to a schema below a place in a value, if the value has that place.
fn rename(value: &mut Value, place: &str, from: &str, to: &str) {
    if let Some(value) = value.pointer_mut(place) {
        let path = |name: &str| format!("\"#/components/schemas/{name}\"");
        *value = serde_json::from_str(&value.to_string().replace(&path(from), &path(to))).unwrap();
    }
}

fn takes_practice(route: &ControlRoute) -> bool {
    route.path.contains("{ods}")
}

/// Statuses by which an operation may be refused.
fn refusals(route: &ControlRoute) -> impl Iterator<Item = u16> {
    let names_practice = takes_practice(route) || route.query.contains(&"ods");
    let writes = route.id == "reset";
    REFUSALS.iter().map(|(status, _)| *status).filter(move |status| match status {
        404 => names_practice,
        500 => writes,
        _ => true,
    })
}

fn refused(status: u16) -> String {
    format!("Refused{status}")
}

fn json_of(schema: &Value) -> Value {
    json!({ "application/json": { "schema": schema } })
}

fn content(description: &str, schema: &Value) -> Value {
    json!({ "description": description, "content": json_of(schema) })
}

pub(crate) fn description() -> Value {
    let mut schemas = ControlSchemas::new();
    let mut paths = json!({});
    for route in control_routes() {
        let method = route.method.as_str().to_lowercase();
        paths[format!("/{}", route.path)][method] = schemas.operation(&route);
    }
    let fault = schemas.answered.subschema_for::<ControlFault>().to_value();
    let responses: Map<_, _> = REFUSALS
        .iter()
        .map(|(status, reason)| (refused(*status), content(reason, &fault)))
        .collect();
    let named = schemas.named(&mut paths);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Control interface of the provider simulator",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "MIT", "identifier": "MIT"},
            "description": "Generated from the types of the simulator. Every refusal is a `ControlFault`, also those of other \
                 paths (404) and other methods (405, with `Allow`). A client without an expected certificate is answered 495 or \
                 496 with an OperationOutcome, as on every path of the simulator.",
        },
        "servers": [{
            "url": "{scheme}://{address}/_simulator",
            "variables": {
                "scheme": {"default": "https", "enum": ["https", "http"]},
                "address": {"default": "provider.example.nhs.uk:9443", "description": "Name or address of the simulator, with its port."},
            },
        }],
        "security": [{}, {"mutualTLS": []}],
        "paths": paths,
        "components": {
            "schemas": named,
            "responses": responses,
            "securitySchemes": {
                "mutualTLS": {
                    "type": "mutualTLS",
                    "description": "A client certificate that the simulator's `[tls]` section admits.",
                },
            },
        },
    })
}

#[test]
fn the_description_of_the_control_interface_is_made_of_its_operations() {
    holds_description(PATH, &description());
}

#[test]
fn the_description_of_the_control_interface_is_valid() {
    assert_valid(PATH);
}
