//! Conversion of JSON resources to XML.

use serde_json::{Map, Number, Value};

use super::super::markup::{XHTML, div_fault, is_char};
use super::super::shape::{DEPTH_MAX, ELEMENT, Element, ElementKind, ElementPlace, Shape};
use super::FHIR;

const UNKNOWN: &str = "<OperationOutcome xmlns=\"http://hl7.org/fhir\"><issue>\
    <severity value=\"error\"/><code value=\"not-supported\"/>\
    <diagnostics value=\"there is no XML for this type of resource\"/></issue></OperationOutcome>";

/// Returns the resource as an XML document.
pub(super) fn document(resource: &Value) -> String {
    let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>".to_owned();
    match resource.as_object().and_then(|fields| Some((fields, typed(fields)?))) {
        Some((fields, (name, shape))) => {
            text.push_str(&format!("<{name} xmlns=\"{FHIR}\""));
            write_fields(&mut text, name, fields, shape, 1);
        }
        None => text.push_str(UNKNOWN),
    }
    text
}

/// Returns the name of a resource's type, and its shape.
fn typed(fields: &Map<String, Value>) -> Option<(&'static str, &'static Shape)> {
    let name = Shape::named(fields.get("resourceType")?.as_str()?)?;
    Some((name, Shape::of(name)?))
}

/// Writes the rest of an element, from after the name of its start tag to its end tag.
fn write_fields(
    text: &mut String,
    name: &str,
    fields: &Map<String, Value>,
    shape: &Shape,
    depth: usize,
) {
    let attribute = |element: &Element| fields.get(element.name).and_then(Value::as_str);
    for element in shape.elements().filter(|element| element.place == ElementPlace::Attribute) {
        attribute(element).into_iter().for_each(|value| write_attribute(text, element.name, value));
    }
    let opened = text.len();
    text.push('>');
    let depth = depth + 1;
    for element in shape.elements().filter(|_| depth <= DEPTH_MAX + 1) {
        let (value, beside) = match element.place {
            ElementPlace::Attribute => continue,
            ElementPlace::Single | ElementPlace::List => {
                (fields.get(element.name), fields.get(&format!("_{}", element.name)))
            }
        };
        if element.is_list() {
            let (values, besides) = (items(value), items(beside));
            for index in 0..values.len().max(besides.len()) {
                write_element(text, element, values.get(index), besides.get(index), depth + 1);
            }
        } else {
            write_element(text, element, value, beside, depth);
        }
    }
    if text.len() == opened + 1 {
        text.truncate(opened);
        text.push_str("/>");
    } else {
        text.push_str(&format!("</{name}>"));
    }
}

fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Writes an element with its value and the id and extensions beside it, if it has any of them.
fn write_element(
    text: &mut String,
    element: &Element,
    value: Option<&Value>,
    beside: Option<&Value>,
    depth: usize,
) {
    let (name, fields) = (element.name, value.and_then(Value::as_object));
    match element.kind {
        ElementKind::Plain(_) => {
            let (value, empty) = (value.and_then(plain), Map::new());
            let beside = beside.and_then(Value::as_object);
            if value.is_some() || beside.is_some() {
                text.push_str(&format!("<{name}"));
                value.into_iter().for_each(|value| write_attribute(text, "value", &value));
                write_fields(text, name, beside.unwrap_or(&empty), &ELEMENT, depth);
            }
        }
        ElementKind::Complex(shape) => {
            if let Some(fields) = fields {
                text.push_str(&format!("<{name}"));
                write_fields(text, name, fields, shape, depth);
            }
        }
        ElementKind::Resource => {
            if let Some((fields, (kind, shape))) =
                fields.and_then(|fields| Some((fields, typed(fields)?)))
            {
                text.push_str(&format!("<{name}><{kind}"));
                write_fields(text, kind, fields, shape, depth);
                text.push_str(&format!("</{name}>"));
            }
        }
        ElementKind::Markup => {
            if let Some(markup) = value.and_then(Value::as_str) {
                write_markup(text, markup);
            }
        }
    }
}

/// Writes a narrative; invalid markup is written as plain text.
fn write_markup(text: &mut String, markup: &str) {
    if div_fault(markup).is_none() {
        text.push_str(markup.trim_ascii());
    } else {
        text.push_str(&format!("<div xmlns=\"{XHTML}\">"));
        markup.chars().for_each(|char| write_char(text, char));
        text.push_str("</div>");
    }
}

fn write_attribute(text: &mut String, name: &str, value: &str) {
    text.push_str(&format!(" {name}=\""));
    value.chars().for_each(|char| write_char(text, char));
    text.push('"');
}

/// Writes a character, escaped where necessary.
///
/// Line breaks and tabs are written as character references, because a reader of attributes would
/// turn them into spaces.
fn write_char(text: &mut String, char: char) {
    match char {
        '&' => text.push_str("&amp;"),
        '<' => text.push_str("&lt;"),
        '>' => text.push_str("&gt;"),
        '"' => text.push_str("&quot;"),
        '\t' => text.push_str("&#9;"),
        '\n' => text.push_str("&#10;"),
        '\r' => text.push_str("&#13;"),
        _ => text.push(if is_char(char) { char } else { char::REPLACEMENT_CHARACTER }),
    }
}

/// Returns the text of a primitive value; `None` for null, lists and objects.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) => Some(digits(number)),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Returns a number without an exponent, which STU3 does not allow.
fn digits(number: &Number) -> String {
    let text = number.to_string();
    match number.as_f64().filter(|_| text.contains(['e', 'E'])) {
        Some(float) => {
            let plain = float.to_string();
            if plain.contains('.') { plain } else { plain + ".0" }
        }
        None => text,
    }
}
