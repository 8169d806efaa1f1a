//! Parser for untrusted JSON: refuses repeated names, deep nesting and too many values.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::shape::DEPTH_MAX;

/// Limit: values in a body, counting objects and lists.
const NODES_MAX: usize = 100_000;

/// Parses a UTF-8 body, with or without a byte order mark, into an object with a `resourceType`.
///
/// The structure of the resource is checked by [`super::shape::fault`].
pub(super) fn read_json(bytes: &[u8]) -> Result<Value, String> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let left = Cell::new(NODES_MAX);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read = Node { depth: 1, left: &left }.deserialize(&mut reader);
    let value =
        read.and_then(|value| reader.end().map(|()| value)).map_err(|error| message(&error))?;
    match value.get("resourceType") {
        Some(Value::String(_)) => Ok(value),
        Some(_) => Err("resourceType is not a string".to_owned()),
        None => Err("the body is not an object with a resourceType".to_owned()),
    }
}

/// Returns the reason and the position of an error.
///
/// Only reasons worded in this module are used, because others may quote the body.
fn message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let own = [REPEATED_NAME, TOO_DEEP, TOO_MANY_VALUES, INVALID_NUMBER]
        .into_iter()
        .find(|own| text.starts_with(own));
    let what = own.unwrap_or("the body is not JSON");
    format!("{what} at line {} column {}", error.line(), error.column())
}

const REPEATED_NAME: &str = "a name is given twice in one object";
const TOO_DEEP: &str = "the body is more than 32 levels deep";
const TOO_MANY_VALUES: &str = "the body has more than 100000 values";
const INVALID_NUMBER: &str = "a number cannot be represented in JSON";

/// Deserialiser of a value at some level.
#[derive(Clone, Copy)]
struct Node<'a> {
    depth: usize,
    left: &'a Cell<usize>,
}

impl Node<'_> {
    /// Returns the deserialiser for the next level down; fails beyond the limit.
    fn nested<E: Error>(self) -> Result<Self, E> {
        if self.depth > DEPTH_MAX {
            return Err(E::custom(TOO_DEEP));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        let left =
            self.left.get().checked_sub(1).ok_or_else(|| D::Error::custom(TOO_MANY_VALUES))?;
        self.left.set(left);
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom(INVALID_NUMBER))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.nested()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let inner = self.nested()?;
        let mut fields = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            if fields.insert(name, entries.next_value_seed(inner)?).is_some() {
                return Err(A::Error::custom(REPEATED_NAME));
            }
        }
        Ok(fields.into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_resource_is_read_unchanged() {
        let text = "\u{feff}{\"resourceType\":\"Slot\",\"x\":[null,true,-1,1.5,\"\\u00e9\",{}]}\n";
        let value = json!({ "resourceType": "Slot", "x": [null, true, -1, 1.5, "é", {}] });
        assert_eq!(read_json(text.as_bytes()), Ok(value));
    }

    #[test]
    fn an_invalid_body_is_refused_without_quoting_it() {
        for (text, why) in [
            (r#"{"resourceType":"Slot","a":"secret","a":1}"#, REPEATED_NAME),
            (r#"{"resourceType":"Slot","a":{"b":1,"\u0062":2}}"#, REPEATED_NAME),
            (r#"{"resourceType":7}"#, "resourceType is not a string"),
            (r#"{"resource":"secret"}"#, "the body is not an object"),
            (r#"["secret"]"#, "the body is not an object"),
            (r#""secret""#, "the body is not an object"),
            (r#"{"resourceType":"Slot"} secret"#, "the body is not JSON"),
            (r#"{"resourceType":"Slot","a":secret}"#, "the body is not JSON"),
            (r#"{"resourceType":"Slot","a":1e999}"#, "the body is not JSON"),
            ("", "the body is not JSON"),
            ("\u{feff}\u{feff}{}", "the body is not JSON"),
        ] {
            let error = read_json(text.as_bytes()).unwrap_err();
            assert!(error.starts_with(why), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(read_json(b"{\"resourceType\":\"\xff\"}").is_err());
    }

    #[test]
    fn depth_and_size_have_a_limit() {
        let nested = |levels: usize| {
            let inner = levels - 1;
            format!(r#"{{"resourceType":"Slot","a":{}{}}}"#, "[".repeat(inner), "]".repeat(inner))
        };
        assert!(read_json(nested(DEPTH_MAX).as_bytes()).is_ok());
        for levels in [DEPTH_MAX + 1, 100_000] {
            assert!(read_json(nested(levels).as_bytes()).unwrap_err().starts_with(TOO_DEEP));
        }
        let endless = "[{\"a\":".repeat(100_000);
        assert!(read_json(endless.as_bytes()).is_err());
        let many = format!(r#"{{"resourceType":"Slot","a":[{}0]}}"#, "0,".repeat(NODES_MAX));
        assert!(read_json(many.as_bytes()).unwrap_err().starts_with(TOO_MANY_VALUES));
        assert!(
            TOO_DEEP.contains(&DEPTH_MAX.to_string())
                && TOO_MANY_VALUES.contains(&NODES_MAX.to_string())
        );
    }
}
