//! The hash chain: every line ends in a hash of itself and of all lines before it.
//!
//! Hashed are the chain's value before the line (32 bytes; zeros before the first) and the line's own bytes
//! up to its last member. So a line that is changed, removed or moved breaks the chain at that point. A chain
//! alone cannot show that its end was cut off, or that it was rewritten from some line on: signed checkpoints
//! do, and so does a single value that was kept elsewhere, see [`ChainHead`].

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use serde::{Serialize, Serializer};

/// Value of the chain after a line; by default [`ChainValue::ORIGIN`].
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct ChainValue([u8; SHA256_OUTPUT_LEN]);

impl ChainValue {
    /// Value of the chain before the first line.
    pub const ORIGIN: Self = Self([0; SHA256_OUTPUT_LEN]);

    /// Returns the value after a line with these bytes before its last member.
    #[must_use]
    pub fn next(&self, body: &[u8]) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(&self.0);
        context.update(body);
        let mut link = Self::ORIGIN;
        link.0.copy_from_slice(context.finish().as_ref());
        link
    }

    /// Ends a line: appends its last member, the closing brace and a line feed.
    pub(crate) fn end(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(MARK);
        out.extend_from_slice(&self.hex());
        out.extend_from_slice(b"\"}\n");
    }

    /// Returns the 32 bytes of the value.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; SHA256_OUTPUT_LEN] {
        &self.0
    }

    fn hex(&self) -> [u8; 2 * SHA256_OUTPUT_LEN] {
        let mut hex = [0; 2 * SHA256_OUTPUT_LEN];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.0) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
        }
        hex
    }
}

impl From<[u8; SHA256_OUTPUT_LEN]> for ChainValue {
    fn from(bytes: [u8; SHA256_OUTPUT_LEN]) -> Self {
        Self(bytes)
    }
}

/// Returns the hexadecimal digit of a number below 16.
const fn digit(of: u8) -> u8 {
    if of < 10 { b'0' + of } else { b'a' + of - 10 }
}

impl fmt::Display for ChainValue {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl Serialize for ChainValue {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl fmt::Debug for ChainValue {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl FromStr for ChainValue {
    type Err = InvalidHead;

    fn from_str(text: &str) -> Result<Self, InvalidHead> {
        let mut link = Self::ORIGIN;
        if text.len() != 2 * SHA256_OUTPUT_LEN {
            return Err(InvalidHead);
        }
        for (byte, pair) in link.0.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| InvalidHead)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| InvalidHead)?;
        }
        Ok(link)
    }
}

/// Splits a line into the bytes that are hashed and the value that it states; `None` if it has no such end.
#[must_use]
pub(crate) fn split(line: &[u8]) -> Option<(&[u8], ChainValue)> {
    let (body, end) = line.split_at_checked(line.len().checked_sub(END_BYTES)?)?;
    let hex = end.strip_prefix(MARK)?.strip_suffix(b"\"}")?;
    let link: ChainValue = std::str::from_utf8(hex).ok()?.parse().ok()?;
    // Security: there is one spelling only, so that no byte of it can be changed undetected.
    (link.hex() == hex).then_some((body, link))
}

/// Chain value of one line as kept elsewhere: the line's number and the chain's value after it.
///
/// Written as the number, a colon and 64 hexadecimal digits; in JSON as the line's members `seq` and `chain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ChainHead {
    /// Number of the line.
    pub seq: u64,
    /// Value of the chain after the line.
    #[serde(rename = "chain")]
    pub link: ChainValue,
}

impl fmt::Display for ChainHead {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.seq, self.link)
    }
}

impl FromStr for ChainHead {
    type Err = InvalidHead;

    fn from_str(text: &str) -> Result<Self, InvalidHead> {
        let (seq, hex) = text.split_once(':').ok_or(InvalidHead)?;
        let seq = seq.parse().map_err(|_| InvalidHead)?;
        Ok(Self { seq, link: hex.to_ascii_lowercase().parse()? })
    }
}

/// Error returned for text that is not a chain head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a head is a line's number, a colon and 64 hexadecimal digits")]
pub struct InvalidHead;

const MARK: &[u8] = b",\"chain\":\"";
/// Length in bytes of a line's end, without its line feed.
const END_BYTES: usize = MARK.len() + 2 * SHA256_OUTPUT_LEN + 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart_as_it_was_put_together() {
        let mut line = b"{\"seq\":1".to_vec();
        let link = ChainValue::ORIGIN.next(&line);
        link.end(&mut line);
        let line = line.strip_suffix(b"\n").unwrap();
        assert!(serde_json::from_slice::<serde_json::Value>(line).is_ok());
        assert_eq!(split(line), Some((&b"{\"seq\":1"[..], link)));
        assert_eq!(split(&line[1..]).unwrap().1, link);
        assert_eq!(split(&line[..line.len() - 1]), None);
        assert_eq!(split(b"{}"), None);
    }

    #[test]
    fn the_first_link_is_sha_256_of_noughts_and_the_line() {
        // As Python's hashlib.sha256(bytes(32) + b'{"seq":1') has it.
        let known = "9f186e4202fb2b3f60caaf20c0eab567a648a0bf63b6105e2794fa624c0dd11d";
        let link = ChainValue::ORIGIN.next(b"{\"seq\":1");
        assert_eq!(link.to_string(), known);
        assert_eq!(known.parse(), Ok(link));
    }

    #[test]
    fn a_head_is_a_number_and_all_digits() {
        let link = ChainValue::ORIGIN.next(b"x");
        let head = ChainHead { seq: 7, link };
        assert_eq!(head.to_string().parse(), Ok(head));
        assert_eq!(head.to_string().to_uppercase().parse(), Ok(head));
        let hex = link.to_string();
        for wrong in ["", "7", "7:", &hex, &format!("x:{hex}"), &format!("7:{}", &hex[..63])] {
            assert_eq!(wrong.parse::<ChainHead>(), Err(InvalidHead), "{wrong}");
        }
    }
}
