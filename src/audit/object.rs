//! Formatting of a JSON object by hand.

use std::io::Write as _;

use jiff::Timestamp;

/// A JSON object under construction. Names are constants that need no escape.
pub(super) struct Object<'a> {
    out: &'a mut Vec<u8>,
    separator: u8,
}

impl<'a> Object<'a> {
    pub(super) const fn open(out: &'a mut Vec<u8>) -> Self {
        Self { out, separator: b'{' }
    }

    /// Appends members that were formatted before, their first comma included.
    pub(super) fn raw(&mut self, members: &[u8]) {
        self.out.extend_from_slice(members);
    }

    /// Appends a time in UTC to the microsecond, of constant length so that text order is time order.
    pub(super) fn time(&mut self, at: Timestamp) {
        self.name("time");
        // Writing to a vector cannot fail.
        write!(self.out, "\"{at:.6}\"").unwrap_or_default();
    }

    fn name(&mut self, name: &'static str) {
        self.out.reserve(name.len() + 4);
        self.out.extend_from_slice(&[self.separator, b'"']);
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.separator = b',';
    }

    pub(super) fn text(&mut self, name: &'static str, text: impl AsRef<[u8]>) {
        self.name(name);
        self.value(text.as_ref());
    }

    /// Appends a constant that needs no escape.
    pub(super) fn label(&mut self, name: &'static str, label: &'static str) {
        debug_assert!(are_plain(label.as_bytes()), "{label}");
        self.name(name);
        self.out.reserve(label.len() + 2);
        self.out.push(b'"');
        self.out.extend_from_slice(label.as_bytes());
        self.out.push(b'"');
    }

    fn value(&mut self, text: &[u8]) {
        self.out.reserve(text.len() + 2);
        self.out.push(b'"');
        if are_plain(text) {
            self.out.extend_from_slice(text);
        } else {
            // Security: a line is plain ASCII, so that control characters or the direction of writing cannot
            // mislead a reader.
            for unit in String::from_utf8_lossy(text).encode_utf16() {
                match u8::try_from(unit) {
                    Ok(byte) if is_plain(&byte) => self.out.push(byte),
                    // Writing to a vector cannot fail.
                    _ => write!(self.out, "\\u{unit:04x}").unwrap_or_default(),
                }
            }
        }
        self.out.push(b'"');
    }

    pub(super) fn optional(&mut self, name: &'static str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    pub(super) fn number(&mut self, name: &'static str, number: u64) {
        self.name(name);
        self.out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }

    pub(super) fn truth(&mut self, name: &'static str, truth: bool) {
        self.name(name);
        self.out.extend_from_slice(if truth { b"true" } else { b"false" });
    }

    pub(super) fn object(&mut self, name: &'static str, members: impl FnOnce(&mut Object<'_>)) {
        self.name(name);
        let mut object = Object::open(self.out);
        members(&mut object);
        object.close();
    }

    fn close(self) {
        if self.separator == b'{' {
            self.out.push(b'{');
        }
        self.out.push(b'}');
    }
}

/// Returns true if every byte can stand in a line without an escape.
fn are_plain(text: &[u8]) -> bool {
    text.iter().all(is_plain)
}

const fn is_plain(byte: &u8) -> bool {
    matches!(byte, b' '..=b'~') && *byte != b'"' && *byte != b'\\'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_is_written_is_read_back(texts in prop::collection::vec(any::<String>(), 3)) {
            let mut out = Vec::new();
            let mut line = Object::open(&mut out);
            line.text("a", &texts[0]);
            line.object("b", |object| object.text("c", &texts[1]));
            line.object("d", |_| ());
            line.number("e", 7);
            line.truth("f", true);
            line.optional("g", None);
            line.text("h", &texts[2]);
            line.close();
            prop_assert!(out.iter().all(|byte| matches!(byte, b' '..=b'~')));
            let read: serde_json::Value = serde_json::from_slice(&out).unwrap();
            let meant = serde_json::json!({
                "a": texts[0], "b": {"c": texts[1]}, "d": {}, "e": 7, "f": true, "h": texts[2],
            });
            prop_assert_eq!(read, meant);
        }
    }
}
