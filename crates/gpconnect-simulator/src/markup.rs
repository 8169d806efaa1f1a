//! Checks of well-formed XML that the XML reader leaves to its user, and of narratives.

use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{Namespace, ResolveResult};
use quick_xml::reader::NsReader;

/// Returns true if both XML and FHIR allow the character.
pub(super) fn is_char(char: char) -> bool {
    !matches!(char, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}')
}

pub(super) const XHTML: &str = "http://www.w3.org/1999/xhtml";
pub(super) const MALFORMED: &str = "is not well-formed XML";
/// Limit: attributes of one element.
const ATTRIBUTES_MAX: usize = 16;
/// Limit: namespace prefixes in scope at any one place.
const NAMESPACES_MAX: usize = 16;
/// Limit: levels of elements within a narrative.
const DIV_DEPTH_MAX: usize = 32;

/// Returns an XML reader with its checks turned on; empty elements have an end event of their own.
pub(super) fn reader(text: &str) -> NsReader<&[u8]> {
    let mut reader = NsReader::from_str(text);
    reader.config_mut().check_comments = true;
    reader.config_mut().expand_empty_elements = true;
    reader.resolver_mut().set_max_namespace_bindings(NAMESPACES_MAX);
    reader
}

/// Returns the next event, and true if its element is in this namespace.
pub(super) fn next<'a>(
    reader: &mut NsReader<&'a [u8]>,
    namespace: &str,
) -> Result<(bool, Event<'a>), &'static str> {
    let (found, event) = reader.read_resolved_event().map_err(|_| MALFORMED)?;
    Ok((found == ResolveResult::Bound(Namespace(namespace)), event))
}

/// Returns the attributes of a tag with their values decoded.
pub(super) fn attributes(start: &BytesStart<'_>) -> Result<Vec<(String, String)>, &'static str> {
    if !is_spaced(start.attributes_raw()) {
        return Err(MALFORMED);
    }
    let mut all: Vec<(String, String)> = Vec::new();
    for attribute in start.attributes().with_checks(false) {
        let attribute = attribute.map_err(|_| MALFORMED)?;
        let value = attribute.normalized_value(XmlVersion::Explicit1_0).map_err(|_| MALFORMED)?;
        let name = attribute.key.0;
        let twice = all.iter().any(|(earlier, _)| earlier == name);
        if twice || !is_name(name) || attribute.value.contains('<') || !value.chars().all(is_char) {
            return Err(MALFORMED);
        }
        if all.len() >= ATTRIBUTES_MAX {
            return Err("has more than 16 attributes");
        }
        all.push((name.to_owned(), value.into_owned()));
    }
    Ok(all)
}

/// Returns true if there is white space between all attributes.
fn is_spaced(attributes: &str) -> bool {
    let mut quote = None;
    let mut closed = false;
    attributes.chars().all(|char| {
        let is_allowed = !closed || char.is_ascii_whitespace();
        closed = quote == Some(char);
        match quote {
            Some(_) if closed => quote = None,
            None if matches!(char, '"' | '\'') => quote = Some(char),
            Some(_) | None => {}
        }
        is_allowed
    })
}

/// Returns true if the text is a name in ASCII, as all names of FHIR and XHTML are.
fn is_name(name: &str) -> bool {
    name.starts_with(|char: char| char.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
}

/// Returns the flaw of a narrative's markup, which must be one `div` of XHTML, if any.
pub(super) fn div_fault(text: &str) -> Option<&'static str> {
    if !text.chars().all(is_char) {
        return Some("has a character that is not allowed");
    }
    judge_div(text.trim_ascii()).err()
}

fn judge_div(text: &str) -> Result<(), &'static str> {
    let mut reader = reader(text);
    let mut depth: usize = 0;
    let mut begun = false;
    loop {
        let (is_xhtml, event) = next(&mut reader, XHTML)?;
        match event {
            Event::Start(start) => {
                if depth == 0 && (begun || start.name().0 != "div") || !is_xhtml {
                    return Err("is not exactly one div in the XHTML namespace");
                }
                judge_tag(&start)?;
                begun = true;
                depth += 1;
            }
            Event::End(_) => depth = depth.saturating_sub(1),
            Event::Eof if begun && depth == 0 => return Ok(()),
            _ if depth == 0 => return Err("is not exactly one div in the XHTML namespace"),
            Event::Text(text) if !text.contains("]]>") => {}
            Event::GeneralRef(name) if is_reference(&name) => {}
            Event::CData(_) | Event::Comment(_) => {}
            Event::Text(_) | Event::Eof => return Err(MALFORMED),
            Event::GeneralRef(_)
            | Event::Empty(_)
            | Event::Decl(_)
            | Event::PI(_)
            | Event::DocType(_) => return Err("has markup that is not allowed in a narrative"),
        }
        if depth > DIV_DEPTH_MAX {
            return Err("is more than 32 levels deep");
        }
    }
}

/// Spec: elements that are not allowed in a narrative, because it must not run or load anything.
const ACTIVE: [&str; 12] = [
    "base", "body", "embed", "form", "frame", "frameset", "head", "iframe", "input", "link",
    "object", "script",
];

fn judge_tag(start: &BytesStart<'_>) -> Result<(), &'static str> {
    let plain = |name: &str| name.starts_with("xml:") || !name.contains(':');
    if ACTIVE.contains(&start.name().0)
        || attributes(start)?.iter().any(|(name, _)| name.starts_with("on"))
    {
        return Err("has markup that is not allowed in a narrative");
    }
    let attributes = attributes(start)?;
    if is_name(start.name().0) && attributes.iter().all(|(name, _)| plain(name)) {
        Ok(())
    } else {
        Err(MALFORMED)
    }
}

/// Returns true for one of the five predefined entities and for a valid character reference.
fn is_reference(name: &quick_xml::events::BytesRef<'_>) -> bool {
    match name.resolve_char_ref() {
        Ok(Some(char)) => is_char(char),
        Ok(None) => quick_xml::escape::resolve_predefined_entity(name).is_some(),
        Err(_) => false,
    }
}
