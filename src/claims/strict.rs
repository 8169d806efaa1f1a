//! Strict JSON for tokens: a struct is read from an object only, and each of its members under one
//! spelling.
//!
//! Security: serde's derived structs also accept an array in field order, and ignore a member whose
//! name differs in case. A provider with another JSON library may read both differently, so that one
//! token would mean two things.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::value::CowStrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

/// Reads a whole JSON text, and every struct in it strictly.
pub(super) fn read<'de, T: Deserialize<'de>>(text: &'de str) -> serde_json::Result<T> {
    let mut json = serde_json::Deserializer::from_str(text);
    let value = T::deserialize(Strict(&mut json))?;
    json.end()?;
    Ok(value)
}

/// Wraps a deserializer, and every deserializer, visitor and seed that is reached through it.
struct Strict<T>(T);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Strict<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_any(Strict(visitor))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_option(Strict(visitor))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_newtype_struct(name, Strict(visitor))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(Object { visitor, fields })
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_ignored_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map enum identifier
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Strict<V> {
    type Value = V::Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(out)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<V::Value, E> {
        self.0.visit_bool(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<V::Value, E> {
        self.0.visit_i64(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<V::Value, E> {
        self.0.visit_u64(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<V::Value, E> {
        self.0.visit_f64(value)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<V::Value, E> {
        self.0.visit_str(value)
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<V::Value, E> {
        self.0.visit_borrowed_str(value)
    }

    fn visit_string<E: Error>(self, value: String) -> Result<V::Value, E> {
        self.0.visit_string(value)
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_unit()
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(Strict(from))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<V::Value, D::Error> {
        self.0.visit_newtype_struct(Strict(from))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<V::Value, A::Error> {
        self.0.visit_seq(Strict(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Members { map, fields: &[] })
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Strict<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Strict(from))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(Strict(seed))
    }
}

/// Visits a struct: takes an object and nothing else.
struct Object<V> {
    visitor: V,
    fields: &'static [&'static str],
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Object<V> {
    type Value = V::Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(Members { map, fields: self.fields })
    }
}

/// The members of an object; `fields` are the names its struct knows, none for a plain map.
struct Members<A> {
    map: A,
    fields: &'static [&'static str],
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Members<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        let Some(Name(name)) = self.map.next_key()? else { return Ok(None) };
        let known = self.fields.iter().find(|field| is_same_but_for_case(field, &name));
        if known.is_some_and(|field| *field != name) {
            return Err(Error::custom("a known member in another case"));
        }
        seed.deserialize(CowStrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.map.next_value_seed(Strict(seed))
    }
}

/// A member's name, copied only if it was written with escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

fn is_same_but_for_case(one: &str, other: &str) -> bool {
    if other.is_ascii() {
        return one.eq_ignore_ascii_case(other);
    }
    one.chars().map(folded).eq(other.chars().map(folded))
}

/// Folds a character's case, and the four characters beyond ASCII that some case-insensitive
/// comparison (Unicode's simple folding, Java's `equalsIgnoreCase`) takes for an ASCII letter.
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

    #[derive(Debug, PartialEq, Deserialize)]
    struct Inner<'a> {
        #[serde(borrow)]
        text: Cow<'a, str>,
        #[serde(default)]
        count: Option<i64>,
    }

    #[derive(Debug, Deserialize)]
    struct Outer<'a> {
        #[serde(borrow, default)]
        one: Option<Inner<'a>>,
        #[serde(borrow, default)]
        many: Vec<Inner<'a>>,
        #[serde(borrow, default)]
        raw: Option<&'a RawValue>,
    }

    fn outer(text: &str) -> serde_json::Result<Outer<'_>> {
        read(text)
    }

    #[test]
    fn objects_are_read_as_serde_json_reads_them() {
        let text = r#"{"raw":[{"A":1,"a":2}],"one":{"text":"a\u0062","count":-1,"x":[[]],"X":0},"many":[{"text":"é"}]}"#;
        let strict = outer(text).unwrap();
        let plain: Outer<'_> = serde_json::from_str(text).unwrap();
        assert_eq!((&strict.one, &strict.many), (&plain.one, &plain.many));
        assert_eq!(strict.raw.map(RawValue::get), plain.raw.map(RawValue::get));
        assert_eq!(strict.one.unwrap().text, "ab");
        assert!(matches!(strict.many[0].text, Cow::Borrowed("é")));
        assert!(outer(r#"{"one":null,"raw":null}"#).unwrap().one.is_none());
        assert!(read::<String>(r#""a""#).is_ok() && read::<[String; 1]>(r#"["a"]"#).is_ok());
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
