//! Conversion of FHIR STU3 between XML and the JSON that the rest of the simulator uses.
//!
//! Elements are written in the order of STU3 and read in any order. A decimal keeps its value but
//! loses trailing zeros.

use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::NsReader;
use serde_json::{Map, Value};

use super::markup::{self, div_fault, is_char};
use super::shape::{
    DEPTH_MAX, ELEMENT, Element, ElementKind, ElementPlace, Flaw, Primitive, Shape,
};

mod writing;

const FHIR: &str = "http://hl7.org/fhir";
/// Limit: elements of a document.
const NODES_MAX: usize = 50_000;

/// Parses a UTF-8 document into a JSON resource; fails with the first flaw.
///
/// The syntax of values is checked by [`super::shape::fault`].
pub(super) fn read(bytes: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "the body is not UTF-8".to_owned())?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if !text.chars().all(is_char) {
        return Err("the body has a character that XML does not allow".to_owned());
    }
    let mut document = Document { text, reader: markup::reader(text), nodes: 0 };
    document.parse().map_err(|(root, flaw)| flaw.message(root))
}

/// Returns the resource as a well-formed document, with its elements in the order of STU3.
///
/// Elements that STU3 does not have are left out; [`super::shape::fault`] finds them. An unknown
/// type of resource becomes an `OperationOutcome` that says so.
pub(super) fn write(resource: &Value) -> String {
    writing::document(resource)
}

/// A document that is being read.
struct Document<'a> {
    text: &'a str,
    reader: NsReader<&'a [u8]>,
    nodes: usize,
}

/// Next significant part of a document; comments and white space are skipped.
enum XmlStep<'a> {
    Start(BytesStart<'a>),
    End,
    EndOfDocument,
}

/// The fields of an element while its children arrive.
type XmlFields = Map<String, Value>;

impl<'a> Document<'a> {
    /// Parses a document of exactly one resource; a flaw comes with the name of the resource.
    fn parse(&mut self) -> Result<Value, (&'static str, Flaw)> {
        let outside = |flaw| ("the body", flaw);
        let XmlStep::Start(start) = self.step().map_err(outside)? else {
            return Err(outside(Flaw::here(markup::MALFORMED)));
        };
        let resource = self.resource(&start, 1).map_err(|flaw| {
            let known = Shape::named(start.local_name().as_ref());
            (known.unwrap_or("the body"), flaw)
        })?;
        match self.step().map_err(outside)? {
            XmlStep::EndOfDocument => Ok(resource),
            XmlStep::Start(_) | XmlStep::End => Err(outside(Flaw::here(markup::MALFORMED))),
        }
    }

    fn step(&mut self) -> Result<XmlStep<'a>, Flaw> {
        loop {
            let before = self.reader.buffer_position();
            let (is_fhir, event) = markup::next(&mut self.reader, FHIR).map_err(Flaw::here)?;
            match event {
                Event::Start(start) => return self.begin(start, is_fhir),
                Event::End(_) => return Ok(XmlStep::End),
                Event::Eof => return Ok(XmlStep::EndOfDocument),
                Event::Comment(_) | Event::PI(_) => {}
                Event::Text(text) if text.trim_ascii().is_empty() => {}
                Event::Decl(found) if before == 0 => judge_declaration(&found)?,
                Event::DocType(_) => return Err(Flaw::here("has a DOCTYPE, which is not allowed")),
                Event::Text(_) | Event::CData(_) | Event::GeneralRef(_) => {
                    return Err(Flaw::here("has text outside of a value"));
                }
                Event::Decl(_) | Event::Empty(_) => return Err(Flaw::here(markup::MALFORMED)),
            }
        }
    }

    fn begin(&mut self, start: BytesStart<'a>, is_fhir: bool) -> Result<XmlStep<'a>, Flaw> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(Flaw::here(format!("has more than {NODES_MAX} elements")));
        }
        // The markup of a narrative is checked by `markup`.
        if is_fhir || start.name().0 == "div" {
            Ok(XmlStep::Start(start))
        } else {
            let name = start.local_name();
            let flaw = Flaw::here(format!("is not in the namespace {FHIR}"));
            Err(if self.nodes == 1 { flaw } else { flaw.within_input(name.as_ref()) })
        }
    }

    fn resource(&mut self, start: &BytesStart<'a>, depth: usize) -> Result<Value, Flaw> {
        let name = start.local_name();
        let name: &str = name.as_ref();
        let shape = Shape::of(name).ok_or_else(|| Flaw::here("is of an unknown type"))?;
        if !attributes(start)?.is_empty() {
            return Err(Flaw::here("has an unknown attribute"));
        }
        let mut fields = self.fields(Vec::new(), shape, depth)?;
        fields.insert("resourceType".to_owned(), name.into());
        Ok(Value::Object(fields))
    }

    /// Parses the attributes and children of an element, up to and including its end tag.
    fn fields(
        &mut self,
        attributes: Vec<(String, String)>,
        shape: &Shape,
        depth: usize,
    ) -> Result<XmlFields, Flaw> {
        let is_too_deep = depth > DEPTH_MAX;
        let mut fields = XmlFields::new();
        if is_too_deep && !attributes.is_empty() {
            return Err(Flaw::deep());
        }
        for (name, value) in attributes {
            let known =
                shape.find(&name).filter(|element| element.place == ElementPlace::Attribute);
            known.ok_or_else(|| Flaw::unknown(&name))?;
            fields.insert(name, value.into());
        }
        loop {
            let start = match self.step()? {
                XmlStep::Start(_) if is_too_deep => return Err(Flaw::deep()),
                XmlStep::Start(start) => start,
                XmlStep::End => break,
                XmlStep::EndOfDocument => return Err(Flaw::here("is cut off")),
            };
            let name = start.local_name();
            let known = shape.find(name.as_ref());
            let element = known.filter(|element| element.place != ElementPlace::Attribute);
            let element = element.ok_or_else(|| Flaw::unknown(name.as_ref()))?;
            self.child(&start, element, depth, &mut fields)
                .map_err(|flaw| flaw.within(element.name))?;
        }
        fields.retain(|_, value| {
            !value.as_array().is_some_and(|list| list.iter().all(Value::is_null))
        });
        Ok(fields)
    }

    fn child(
        &mut self,
        start: &BytesStart<'a>,
        element: &Element,
        depth: usize,
        fields: &mut XmlFields,
    ) -> Result<(), Flaw> {
        let (beside, index) = (format!("_{}", element.name), count(fields, element));
        if !element.is_list() {
            if fields.contains_key(element.name) || fields.contains_key(&beside) {
                return Err(Flaw::here("is given twice"));
            }
            let (value, extra) = self.content(start, element.kind, depth + 1)?;
            fields.extend(value.map(|value| (element.name.to_owned(), value)));
            fields.extend(extra.map(|extra| (beside, extra)));
            return Ok(());
        }
        if depth >= DEPTH_MAX {
            return Err(Flaw::deep());
        }
        let content = self.content(start, element.kind, depth + 2);
        let (value, extra) = content.map_err(|flaw| flaw.at(index))?;
        push(fields, element.name, value);
        if matches!(element.kind, ElementKind::Plain(_)) {
            push(fields, &beside, extra);
        }
        Ok(())
    }

    /// Parses an element into its value and the id and extensions beside it.
    ///
    /// `depth` is the level of the value if it is an object.
    fn content(
        &mut self,
        start: &BytesStart<'a>,
        kind: ElementKind,
        depth: usize,
    ) -> Result<(Option<Value>, Option<Value>), Flaw> {
        let may_nest = matches!(kind, ElementKind::Complex(_) | ElementKind::Resource);
        if may_nest && depth > DEPTH_MAX {
            return Err(Flaw::deep());
        }
        match kind {
            ElementKind::Plain(primitive) => self.plain(start, primitive, depth),
            ElementKind::Markup => Ok((Some(self.markup(start)?), None)),
            ElementKind::Complex(shape) => {
                let fields = self.fields(attributes(start)?, shape, depth)?;
                if fields.is_empty() {
                    return Err(Flaw::here("is empty"));
                }
                Ok((Some(Value::Object(fields)), None))
            }
            ElementKind::Resource => {
                let has_no_attributes = attributes(start)?.is_empty();
                let inner = self.step()?;
                let XmlStep::Start(inner) = inner else { return Err(Flaw::here("is empty")) };
                let value = self.resource(&inner, depth)?;
                match self.step()? {
                    XmlStep::End if has_no_attributes => Ok((Some(value), None)),
                    XmlStep::End => Err(Flaw::here("has an unknown attribute")),
                    XmlStep::Start(_) | XmlStep::EndOfDocument => {
                        Err(Flaw::here("is not one resource"))
                    }
                }
            }
        }
    }

    fn plain(
        &mut self,
        start: &BytesStart<'a>,
        primitive: Primitive,
        depth: usize,
    ) -> Result<(Option<Value>, Option<Value>), Flaw> {
        let (values, rest): (Vec<_>, Vec<_>) =
            attributes(start)?.into_iter().partition(|(name, _)| name == "value");
        let extra = Some(self.fields(rest, &ELEMENT, depth)?).filter(|fields| !fields.is_empty());
        let value = values.first().map(|(_, text)| primitive.read(text).ok_or(text.is_empty()));
        match value {
            None if extra.is_none() => Err(Flaw::here("is empty")),
            Some(Err(true)) => Err(Flaw::here("is empty")),
            Some(Err(false)) if primitive == Primitive::Boolean => {
                Err(Flaw::here("is not a boolean"))
            }
            Some(Err(false)) => Err(Flaw::here("is not a number")),
            None => Ok((None, extra.map(Value::Object))),
            Some(Ok(value)) => Ok((Some(value), extra.map(Value::Object))),
        }
    }

    /// Returns the markup as it is in the document, from its start tag to its end tag.
    fn markup(&mut self, start: &BytesStart<'a>) -> Result<Value, Flaw> {
        let malformed = || Flaw::here(markup::MALFORMED);
        let inner = usize::try_from(self.reader.buffer_position()).map_err(|_| malformed())?;
        let from = self.text.get(..inner).and_then(|text| text.rfind('<'));
        self.reader.read_to_end(start.name()).map_err(|_| malformed())?;
        let to = usize::try_from(self.reader.buffer_position()).map_err(|_| malformed())?;
        let text = from.and_then(|from| self.text.get(from..to)).ok_or_else(malformed)?;
        div_fault(text).map_or_else(|| Ok(text.into()), |reason| Err(Flaw::here(reason)))
    }
}

/// Returns the number of items that a list has so far.
fn count(fields: &XmlFields, element: &Element) -> usize {
    fields.get(element.name).and_then(Value::as_array).map_or(0, Vec::len)
}

fn push(fields: &mut XmlFields, name: &str, item: Option<Value>) {
    let list = fields.entry(name).or_insert_with(|| Value::Array(Vec::new()));
    if let Some(list) = list.as_array_mut() {
        list.push(item.unwrap_or_default());
    }
}

/// Returns the attributes of a FHIR element, without namespaces and schema locations.
fn attributes(start: &BytesStart<'_>) -> Result<Vec<(String, String)>, Flaw> {
    let is_about_xml =
        |name: &str| name == "xmlns" || name.starts_with("xmlns:") || name == "xsi:schemaLocation";
    let mut all = markup::attributes(start).map_err(Flaw::here)?;
    all.retain(|(name, _)| !is_about_xml(name));
    Ok(all)
}

fn judge_declaration(found: &quick_xml::events::BytesDecl<'_>) -> Result<(), Flaw> {
    let version = found.version().is_ok_and(|version| version == "1.0");
    let encoding = match found.encoding() {
        Some(name) => name.is_ok_and(|name| name.eq_ignore_ascii_case("utf-8")),
        None => true,
    };
    if version && encoding { Ok(()) } else { Err(Flaw::here("is not XML 1.0 in UTF-8")) }
}

#[cfg(test)]
mod tests;
