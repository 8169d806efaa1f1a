//! What a token calls its user and its device: for the record alone, so nothing here is an error.

use serde_json::value::RawValue;

use super::strict::{Text, members};

/// A practitioner's first name in the shape of STU3, or of DSTU2, which older consumers send.
pub(super) fn person(raw: &RawValue) -> Option<String> {
    if let Ok(names) = serde_json::from_str::<Vec<Name<'_>>>(raw.get()) {
        let Name { prefix, given, family } = names.into_iter().next()?;
        return joined(prefix.iter().chain(&given).chain([&family]));
    }
    let OldName { prefix, given, family } = serde_json::from_str(raw.get()).ok()?;
    joined(prefix.iter().chain(&given).chain(&family))
}

/// A member that should be text.
pub(super) fn text(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

fn joined<'a>(parts: impl Iterator<Item = &'a Text<'a>>) -> Option<String> {
    let mut name = String::new();
    for Text(part) in parts {
        if !name.is_empty() && !part.is_empty() {
            name.push(' ');
        }
        name.push_str(part);
    }
    (!name.is_empty()).then_some(name)
}

#[derive(Default)]
struct Name<'a> {
    prefix: Vec<Text<'a>>,
    given: Vec<Text<'a>>,
    family: Text<'a>,
}

members!(Name, is_open: true, prefix: "prefix", given: "given", family: "family");

#[derive(Default)]
struct OldName<'a> {
    prefix: Vec<Text<'a>>,
    given: Vec<Text<'a>>,
    family: Vec<Text<'a>>,
}

members!(OldName, is_open: true, prefix: "prefix", given: "given", family: "family");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_in_either_shape_and_is_never_an_error() {
        for (raw, name) in [
            (
                r#"[{"family":"Jones","given":["Claire","E."],"prefix":["Dr"]}]"#,
                Some("Dr Claire E. Jones"),
            ),
            (r#"[{"family":"Jones"},{"family":"Other"}]"#, Some("Jones")),
            (r#"{"family":["Jones"],"given":["Claire"]}"#, Some("Claire Jones")),
            (r#"[{"family":["Jones"]}]"#, None),
            (r#"[]"#, None),
            (r#"[{}]"#, None),
            (r#"[[[],["Claire"],"Jones"]]"#, None),
            (r#"[{"family":"Jones","Family":"Other"}]"#, None),
            (r#""Jones""#, None),
            ("7", None),
        ] {
            let raw = RawValue::from_string(raw.to_owned()).unwrap();
            assert_eq!(person(&raw).as_deref(), name, "{raw}");
        }
    }
}
