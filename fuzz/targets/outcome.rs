//! Refusals as `OperationOutcome`s. Whatever text is in one, both encodings are read by other parsers
//! and say the same: the id and the diagnostics as they were, but for what XML cannot hold.
//!
//! The first byte chooses the refusal and the second the family of bodies; the first line of the rest
//! is the id, and what follows is the URL.

use std::collections::BTreeMap;

use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::Reader;
use serde_json::Value;
use spine_proxy::refusal::{BodyFamily, ErrorFamily, OperationOutcome, Refusal, every};

pub(crate) fn check(data: &[u8]) {
    let [which, family, rest @ ..] = data else { return };
    let text = String::from_utf8_lossy(rest);
    let (id, text) = text.split_once('\n').unwrap_or(("", &text));
    let mut all = every();
    let mut refusal = all.swap_remove(usize::from(*which) % all.len());
    if let Refusal::TargetVaries { url, .. } | Refusal::ProviderFailed { url, .. } = &mut refusal {
        text.clone_into(url);
    }
    let errors = if family & 1 == 0 { ErrorFamily::Documented } else { ErrorFamily::Gpconnect };
    let outcome = OperationOutcome { refusal: &refusal, id, errors };

    let json: Value = serde_json::from_str(&outcome.json()).expect("JSON");
    let issue = &json["issue"][0];
    let coding = &issue["details"]["coding"][0];
    let xml = outcome.xml();
    assert!(xml.chars().all(is_xml), "{xml:?}");
    let read = read(&xml);
    for (path, value) in [
        ("OperationOutcome/id", &json["id"]),
        ("OperationOutcome/meta/profile", &json["meta"]["profile"][0]),
        ("OperationOutcome/issue/severity", &issue["severity"]),
        ("OperationOutcome/issue/code", &issue["code"]),
        ("OperationOutcome/issue/details/coding/system", &coding["system"]),
        ("OperationOutcome/issue/details/coding/code", &coding["code"]),
        ("OperationOutcome/issue/details/coding/display", &coding["display"]),
        ("OperationOutcome/issue/details/text", &issue["details"]["text"]),
        ("OperationOutcome/issue/diagnostics", &issue["diagnostics"]),
    ] {
        let due = value.as_str().map(printed);
        assert_eq!(read.get(path).cloned(), due, "{path} of {xml:?}");
    }
    assert_eq!(json["id"], id);
    let (text, explanation) = (refusal.to_string(), refusal.explanation());
    if refusal.row().family == BodyFamily::GpConnect {
        assert_eq!(issue["diagnostics"], explanation);
    } else if errors == ErrorFamily::Gpconnect {
        assert_eq!(issue["diagnostics"], format!("{text}: {explanation}"));
    } else {
        // The refusal of a method has no diagnostics.
        assert_eq!(coding["display"], text);
        assert!(issue["diagnostics"].is_null() || issue["diagnostics"] == text);
        assert_eq!(issue["details"]["text"], explanation);
    }
}

/// Spec: XML 1.0 §2.2.
const fn is_xml(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// Text as an attribute can say it.
fn printed(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || !is_xml(c) { '\u{fffd}' } else { c }).collect()
}

/// The values of a resource by the path of their elements, each of which there is once.
fn read(xml: &str) -> BTreeMap<String, String> {
    let mut reader = Reader::from_str(xml);
    let (mut values, mut path) = (BTreeMap::new(), Vec::<String>::new());
    loop {
        let event = reader.read_event().expect("XML");
        if let Event::Start(start) | Event::Empty(start) = &event {
            path.push(start.name().as_ref().to_owned());
            if let Some(value) = value(start) {
                assert!(values.insert(path.join("/"), value).is_none(), "{xml:?}");
            }
        }
        match event {
            Event::Start(_) => {}
            Event::Empty(_) | Event::End(_) => drop(path.pop()),
            Event::Eof => {
                assert!(path.is_empty(), "{xml:?}");
                return values;
            }
            Event::Text(_)
            | Event::CData(_)
            | Event::Comment(_)
            | Event::Decl(_)
            | Event::PI(_)
            | Event::DocType(_)
            | Event::GeneralRef(_) => panic!("{event:?} in {xml:?}"),
        }
    }
}

fn value(start: &BytesStart<'_>) -> Option<String> {
    let mut attributes = start.attributes().map(|attribute| attribute.expect("an attribute"));
    let value = attributes.find(|attribute| attribute.key.as_ref() == "value")?;
    Some(value.normalized_value(XmlVersion::Implicit1_0).expect("its text").into_owned())
}
