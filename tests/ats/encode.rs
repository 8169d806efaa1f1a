//! FHIR resources as XML, from what they are as JSON.

use serde_json::Value;

/// The order of elements where XML needs one; the rest follow in theirs.
#[rustfmt::skip]
const ORDER: [&str; 37] = [
    "id", "meta", "versionId", "profile", "contained", "extension", "use", "identifier", "active",
    "type", "system", "code", "display", "value", "status", "serviceCategory", "serviceType",
    "name", "coding", "text", "line", "city", "postalCode", "actor", "family", "given", "prefix", "telecom", "gender", "birthDate", "description",
    "start", "end", "minutesDuration", "slot", "created", "comment",
];

/// The whole resource, with its name space.
pub(super) fn xml(resource: &Value) -> String {
    let kind = resource["resourceType"].as_str().unwrap_or("Nothing");
    format!("<{kind} xmlns=\"http://hl7.org/fhir\">{}</{kind}>", members(kind, resource))
}

fn members(parent: &str, of: &Value) -> String {
    let fields = of.as_object().unwrap();
    let mut names: Vec<&String> = fields.keys().filter(|name| *name != "resourceType").collect();
    let place = |name: &str| match (parent, name) {
        ("telecom", "use") | ("participant", "status") => ORDER.len(),
        _ => ORDER.iter().position(|known| *known == name).unwrap_or(ORDER.len()),
    };
    names.sort_by_key(|name| place(name));
    names.into_iter().map(|name| element(name, &fields[name])).collect()
}

fn element(name: &str, value: &Value) -> String {
    match value {
        Value::Array(items) => items.iter().map(|item| element(name, item)).collect(),
        Value::Object(fields) if fields.contains_key("resourceType") => {
            let kind = fields["resourceType"].as_str().unwrap();
            format!("<{name}><{kind}>{}</{kind}></{name}>", members(kind, value))
        }
        Value::Object(fields) => match fields.get("url").and_then(Value::as_str) {
            Some(url) if name == "extension" => {
                let mut rest = value.clone();
                rest.as_object_mut().unwrap().remove("url");
                format!("<{name} url=\"{}\">{}</{name}>", escaped(url), members(name, &rest))
            }
            _ => format!("<{name}>{}</{name}>", members(name, value)),
        },
        Value::String(text) => format!("<{name} value=\"{}\"/>", escaped(text)),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_)) => {
            format!("<{name} value=\"{other}\"/>")
        }
    }
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

#[test]
fn a_resource_is_the_same_in_xml() {
    let resource = serde_json::json!({
        "resourceType": "Patient",
        "active": true,
        "contained": [{ "resourceType": "Organization", "id": "1" }],
        "extension": [{ "url": "https://x", "valueString": "a<b" }],
        "telecom": [{ "system": "phone", "use": "home", "value": "1" }],
        "id": "7",
    });
    assert_eq!(
        xml(&resource),
        "<Patient xmlns=\"http://hl7.org/fhir\"><id value=\"7\"/><contained><Organization>\
         <id value=\"1\"/></Organization></contained><extension url=\"https://x\">\
         <valueString value=\"a&lt;b\"/></extension><active value=\"true\"/>\
         <telecom><system value=\"phone\"/><value value=\"1\"/><use value=\"home\"/></telecom>\
         </Patient>"
    );
}
