//! Values of a token that may have more than one JSON type, and values that are read for the record alone.
//!
//! No type is an error here. Text must still be valid text (no lone surrogate), and a number must fit a
//! float.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::strict::{JsonText, MemberName, MemberNames};

/// Type that is read from a JSON value of any type.
pub(super) trait Loose<'de>: Sized {
    /// Returns the result for a value that is neither text, an array nor an object.
    fn other() -> Self;

    /// Returns the result for text.
    fn text(text: JsonText<'de>) -> Self;

    /// Reads an array.
    fn list<A: SeqAccess<'de>>(mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Self::other())
    }

    /// Reads an object.
    fn object<A: MapAccess<'de>>(mut members: A) -> Result<Self, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Self::other())
    }
}

/// Value read from any JSON type, as `T` reads it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Any<T>(pub(super) T);

impl<'de, T: Loose<'de>> Deserialize<'de> for Any<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AnyKind(PhantomData)).map(Self)
    }
}

struct AnyKind<T>(PhantomData<T>);

impl<'de, T: Loose<'de>> Visitor<'de> for AnyKind<T> {
    type Value = T;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a value")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<T, E> {
        Ok(T::text(JsonText(Cow::Borrowed(text))))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        Ok(T::text(JsonText(Cow::Owned(text.to_owned()))))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<T, A::Error> {
        T::list(items)
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<T, A::Error> {
        T::object(members)
    }

    fn visit_unit<E: Error>(self) -> Result<T, E> {
        Ok(T::other())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<T, E> {
        Ok(T::other())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<T, E> {
        Ok(T::other())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<T, E> {
        Ok(T::other())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<T, E> {
        Ok(T::other())
    }
}

/// Text, or `None` for a value of any other JSON type.
impl<'de> Loose<'de> for Option<JsonText<'de>> {
    fn other() -> Self {
        None
    }

    fn text(text: JsonText<'de>) -> Self {
        Some(text)
    }
}

/// Text, or an array that holds only text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Texts<'a> {
    One(JsonText<'a>),
    Many(Vec<JsonText<'a>>),
    Other,
}

impl<'de> Loose<'de> for Texts<'de> {
    fn other() -> Self {
        Self::Other
    }

    fn text(text: JsonText<'de>) -> Self {
        Self::One(text)
    }

    fn list<A: SeqAccess<'de>>(mut items: A) -> Result<Self, A::Error> {
        let mut texts = Some(Vec::new());
        while let Some(Any(item)) = items.next_element()? {
            texts = texts.zip(item).map(|(mut texts, item)| {
                texts.push(item);
                texts
            });
        }
        Ok(texts.map_or(Self::Other, Self::Many))
    }
}

/// First entry of a practitioner's names, in the form of FHIR STU3, or of DSTU2, which older consumers send.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PractitionerName(pub(super) Option<String>);

impl<'de> Loose<'de> for PractitionerName {
    fn other() -> Self {
        Self(None)
    }

    fn text(_: JsonText<'de>) -> Self {
        Self(None)
    }

    fn list<A: SeqAccess<'de>>(mut names: A) -> Result<Self, A::Error> {
        let Some(Any(first)) = names.next_element::<Any<Option<NameParts<'_>>>>()? else {
            return Ok(Self(None));
        };
        while names.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Self(first.and_then(NameParts::stu3)))
    }

    fn object<A: MapAccess<'de>>(name: A) -> Result<Self, A::Error> {
        Ok(Self(Option::<NameParts<'_>>::object(name)?.and_then(NameParts::dstu2)))
    }
}

/// Parts of a name that are kept.
#[derive(Debug, Default)]
struct NameParts<'a> {
    prefix: Option<Texts<'a>>,
    given: Option<Texts<'a>>,
    family: Option<Texts<'a>>,
}

const PARTS: &[&str] = &["prefix", "given", "family"];

/// Parts of a name, or `None` if one is repeated or spelt in another case.
impl<'de> Loose<'de> for Option<NameParts<'de>> {
    fn other() -> Self {
        None
    }

    fn text(_: JsonText<'de>) -> Self {
        None
    }

    fn object<A: MapAccess<'de>>(mut members: A) -> Result<Self, A::Error> {
        let mut parts = NameParts::default();
        let mut is_plain = true;
        while let Some(name) = members.next_key_seed(MemberNames(PARTS))? {
            let part = match name {
                MemberName::Known(0) => &mut parts.prefix,
                MemberName::Known(1) => &mut parts.given,
                MemberName::Known(_) => &mut parts.family,
                MemberName::InAnotherCase | MemberName::Unknown => {
                    is_plain &= name == MemberName::Unknown;
                    members.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            let Any(texts) = members.next_value()?;
            is_plain &= part.replace(texts).is_none();
        }
        Ok(is_plain.then_some(parts))
    }
}

impl NameParts<'_> {
    /// Joins a name in the form of STU3, whose family name is one text.
    fn stu3(self) -> Option<String> {
        match self.family {
            Some(Texts::One(JsonText(family))) => joined([self.prefix, self.given], &family),
            None => joined([self.prefix, self.given], ""),
            Some(Texts::Many(_) | Texts::Other) => None,
        }
    }

    /// Joins a name in the form of DSTU2, whose family names are an array.
    fn dstu2(self) -> Option<String> {
        joined([self.prefix, self.given, self.family], "")
    }
}

/// Joins the texts of the arrays and one more text with spaces.
fn joined<const N: usize>(arrays: [Option<Texts<'_>>; N], last: &str) -> Option<String> {
    let mut name = String::new();
    let mut add = |part: &str| {
        if !name.is_empty() && !part.is_empty() {
            name.push(' ');
        }
        name.push_str(part);
    };
    for texts in arrays.into_iter().flatten() {
        let Texts::Many(texts) = texts else { return None };
        texts.iter().for_each(|JsonText(part)| add(part));
    }
    add(last);
    (!name.is_empty()).then_some(name)
}

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
            (r#"{"family":"Jones"}"#, None),
            (r#"[{"family":"Jones","given":[7]}]"#, None),
            (r#"[]"#, None),
            (r#"[{}]"#, None),
            (r#"[[[],["Claire"],"Jones"]]"#, None),
            (r#"[{"family":"Jones","Family":"Other"}]"#, None),
            (r#"[{"family":"Jones","family":"Other"}]"#, None),
            (r#"[{"family":"J\u006fnes","use":{"deep":[1]}},7]"#, Some("Jones")),
            (r#""Jones""#, None),
            ("7", None),
            ("-7", None),
            ("0.7", None),
            ("true", None),
            ("null", None),
        ] {
            let Any(PractitionerName(read)) = serde_json::from_str(raw).unwrap();
            assert_eq!(read.as_deref(), name, "{raw}");
        }
    }
}
