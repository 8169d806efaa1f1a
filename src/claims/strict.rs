//! Strict JSON for tokens: a struct is read from an object only, and each of its members under one spelling
//! only.
//!
//! Security: structs derived with serde also accept an array in field order, and ignore a member whose name
//! differs in case. A provider with another JSON library may read both differently, so that one token would
//! have two meanings.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

/// Struct that is read from the members of a JSON object.
pub(super) trait Members<'de>: Default {
    /// Names of the known members.
    const NAMES: &'static [&'static str];
    /// True if the object may have other members, which are ignored.
    const IS_OPEN: bool;

    /// Reads the value of the member at this index of [`Members::NAMES`].
    fn read<A: MapAccess<'de>>(&mut self, member: usize, map: &mut A) -> Result<(), A::Error>;
}

/// Implements `Deserialize` for a struct with a lifetime whose fields are the members of an object.
macro_rules! members {
    ($name:ident, is_open: $is_open:literal, $($field:ident: $member:literal),+ $(,)?) => {
        impl<'de> $crate::claims::strict::Members<'de> for $name<'de> {
            const NAMES: &'static [&'static str] = &[$($member),+];
            const IS_OPEN: bool = $is_open;

            fn read<A: serde::de::MapAccess<'de>>(
                &mut self,
                member: usize,
                map: &mut A,
            ) -> Result<(), A::Error> {
                let mut fields = 0..;
                $(if fields.next() == Some(member) {
                    self.$field = map.next_value()?;
                    return Ok(());
                })+
                Ok(())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name<'de> {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                $crate::claims::strict::object(from)
            }
        }
    };
}
pub(super) use members;

/// Reads a struct from a JSON object.
///
/// # Errors
/// Returns an error if the value is not an object, or a known member is repeated or spelt in another case.
pub(super) fn object<'de, T: Members<'de>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    from.deserialize_map(ObjectVisitor(PhantomData))
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Members<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let (mut value, mut seen) = (T::default(), 0_u32);
        while let Some(name) = map.next_key_seed(MemberNames(T::NAMES))? {
            match name {
                MemberName::Known(member) => {
                    let bit = 1 << member;
                    if seen & bit != 0 {
                        return Err(Error::custom("a repeated member"));
                    }
                    seen |= bit;
                    value.read(member, &mut map)?;
                }
                MemberName::InAnotherCase => {
                    return Err(Error::custom("a known member in another case"));
                }
                MemberName::Unknown if T::IS_OPEN => drop(map.next_value::<IgnoredAny>()?),
                MemberName::Unknown => return Err(Error::custom("an unknown member")),
            }
        }
        Ok(value)
    }
}

/// Name of an object's member, compared with the known names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MemberName {
    /// The known name at this index.
    Known(usize),
    /// A known name, but spelt in another case.
    InAnotherCase,
    /// Any other name.
    Unknown,
}

/// Reader of a member's name, which compares it with the known names.
pub(super) struct MemberNames(pub(super) &'static [&'static str]);

impl<'de> DeserializeSeed<'de> for MemberNames {
    type Value = MemberName;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<MemberName, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for MemberNames {
    type Value = MemberName;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("the name of a member")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<MemberName, E> {
        let Self(known) = self;
        if let Some(member) = known.iter().position(|known| *known == name) {
            return Ok(MemberName::Known(member));
        }
        let is_like = known.iter().any(|known| is_same_but_for_case(known, name));
        Ok(if is_like { MemberName::InAnotherCase } else { MemberName::Unknown })
    }
}

/// Text that borrows from the input, or is copied if it was written with escapes.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct JsonText<'a>(pub(super) Cow<'a, str>);

impl<'de> Deserialize<'de> for JsonText<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_str(AnyText)
    }
}

struct AnyText;

impl<'de> Visitor<'de> for AnyText {
    type Value = JsonText<'de>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("text")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<JsonText<'de>, E> {
        Ok(JsonText(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<JsonText<'de>, E> {
        Ok(JsonText(Cow::Owned(text.to_owned())))
    }
}

fn is_same_but_for_case(one: &str, other: &str) -> bool {
    if other.is_ascii() {
        return one.eq_ignore_ascii_case(other);
    }
    one.chars().map(folded).eq(other.chars().map(folded))
}

/// Folds the case of a character, and maps the four non-ASCII characters that some case-insensitive
/// comparisons (Unicode's simple folding, Java's `equalsIgnoreCase`) equate with an ASCII letter.
const fn folded(character: char) -> char {
    match character {
        'ı' | 'İ' => 'i',
        'ſ' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    #[derive(Debug, Default, PartialEq)]
    struct Inner<'a> {
        text: JsonText<'a>,
        count: Option<i64>,
    }

    members!(Inner, is_open: true, text: "text", count: "count");

    #[derive(Debug, Default)]
    struct Outer<'a> {
        one: Option<Inner<'a>>,
        many: Vec<Inner<'a>>,
        raw: Option<&'a RawValue>,
    }

    members!(Outer, is_open: true, one: "one", many: "many", raw: "raw");

    #[derive(Debug, Default)]
    struct Closed<'a> {
        text: JsonText<'a>,
    }

    members!(Closed, is_open: false, text: "text");

    fn outer(text: &str) -> serde_json::Result<Outer<'_>> {
        serde_json::from_str(text)
    }

    #[test]
    fn objects_are_read_by_their_members() {
        let text = r#"{"raw":[{"A":1,"a":2}],"one":{"text":"a\u0062","count":-1,"x":[[]],"X":0},"many":[{"text":"é"}]}"#;
        let Outer { one, many, raw } = outer(text).unwrap();
        let one = one.unwrap();
        assert_eq!((&*one.text.0, one.count), ("ab", Some(-1)));
        assert_eq!((&*many[0].text.0, many[0].count), ("é", None));
        assert!(matches!(many[0].text.0, Cow::Borrowed(_)));
        assert_eq!(raw.map(RawValue::get), Some(r#"[{"A":1,"a":2}]"#));
        assert!(outer(r#"{"one":null,"raw":null}"#).unwrap().one.is_none());
        let closed = |text| serde_json::from_str::<Closed<'_>>(text).map(|closed| closed.text);
        assert_eq!(closed(r#"{"text":"a"}"#).unwrap(), JsonText("a".into()));
        assert!(closed(r#"{"text":"a","x":1}"#).is_err());
    }

    #[test]
    fn an_array_is_no_struct_at_any_depth() {
        for text in [
            "[]",
            "[null,[],null]",
            r#"{"one":["a",1]}"#,
            r#"{"many":[["a",1]]}"#,
            r#"{"many":{"text":"a"}}"#,
            r#"{"one":"a"}"#,
        ] {
            assert!(outer(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_known_member_has_one_spelling_and_stands_once() {
        for text in [
            r#"{"One":{"text":"a"}}"#,
            r#"{"one":{"text":"a"},"ONE":{"text":"b"}}"#,
            r#"{"one":{"text":"a","Text":"b"}}"#,
            r#"{"one":{"text":"a","te\u0058t":"b"}}"#,
            r#"{"many":[{"text":"a"},{"text":"a","COUNT":1}]}"#,
            r#"{"one":{"text":"a","text":"b"}}"#,
            r#"{"one":{"text":"a"}} {}"#,
        ] {
            assert!(outer(text).is_err(), "{text}");
        }
        for (known, variant) in [("is", "iſ"), ("is", "ıs"), ("is", "İs"), ("make", "ma\u{212a}e")]
        {
            assert!(is_same_but_for_case(known, variant), "{variant}");
        }
        assert!(!is_same_but_for_case("iss", "ßs") && !is_same_but_for_case("iss", "is"));
    }
}
