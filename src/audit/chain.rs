//! The hash chain: every line ends in a hash of itself and of all lines before it.
//!
//! Hashed are the chain's value before the line (32 bytes; zeros before the first) and the line's own bytes
//! up to its last member. So a line that is changed, removed or moved breaks the chain at that point. A chain
//! alone cannot show that its end was cut off, or that it was rewritten from some line on: for that its head
//! is kept elsewhere, see [`ChainHead`].

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

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
    pub(super) fn end(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(MARK);
        out.extend_from_slice(&self.hex());
        out.extend_from_slice(b"\"}\n");
    }

    /// Returns the first 48 bits as a number, for a metric's value.
    #[must_use]
    pub fn number(&self) -> u64 {
        let [a, b, c, d, e, f, ..] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }

    fn hex(&self) -> [u8; 2 * SHA256_OUTPUT_LEN] {
        let mut hex = [0; 2 * SHA256_OUTPUT_LEN];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.0) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
        }
        hex
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
pub(super) fn split(line: &[u8]) -> Option<(&[u8], ChainValue)> {
    let (body, end) = line.split_at_checked(line.len().checked_sub(END_BYTES)?)?;
    let hex = end.strip_prefix(MARK)?.strip_suffix(b"\"}")?;
    let link: ChainValue = std::str::from_utf8(hex).ok()?.parse().ok()?;
    // Security: there is one spelling only, so that no byte of it can be changed undetected.
    (link.hex() == hex).then_some((body, link))
}

/// Head of a journal as kept elsewhere: a line's number, and the chain's value after it or the first digits
/// of that.
///
/// Written as in `1234:9f86d081884c`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainHead {
    /// Number of the line.
    pub seq: u64,
    hex: String,
}

impl ChainHead {
    /// Returns true if the chain's value has the digits of this head.
    #[must_use]
    pub fn fits(&self, link: &ChainValue) -> bool {
        link.to_string().starts_with(&self.hex)
    }
}

impl FromStr for ChainHead {
    type Err = InvalidHead;

    fn from_str(text: &str) -> Result<Self, InvalidHead> {
        let (seq, hex) = text.split_once(':').ok_or(InvalidHead)?;
        let lengths = HEX_MIN..=2 * SHA256_OUTPUT_LEN;
        if !lengths.contains(&hex.len()) || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(InvalidHead);
        }
        let seq = seq.parse().map_err(|_| InvalidHead)?;
        Ok(Self { seq, hex: hex.to_ascii_lowercase() })
    }
}

/// Error returned for text that is not a chain head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a head is a line's number, a colon and 12 to 64 hexadecimal digits, as in 1234:9f86d081884c"
)]
pub struct InvalidHead;

/// Minimum number of digits of a head; fewer would prove nothing.
const HEX_MIN: usize = 12;
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
        assert_eq!(format!("{:012x}", link.number()), link.to_string()[..12]);
    }

    #[test]
    fn a_head_is_a_number_and_enough_digits() {
        let link = ChainValue::ORIGIN.next(b"x");
        let hex = link.to_string();
        for digits in [12, 13, 64] {
            let head: ChainHead = format!("7:{}", &hex[..digits]).parse().unwrap();
            assert!(head.seq == 7 && head.fits(&link) && !head.fits(&ChainValue::ORIGIN));
        }
        for wrong in ["", "7", "7:", "7:0123456789a", "x:0123456789ab", "7:0123456789ag"] {
            assert_eq!(wrong.parse::<ChainHead>(), Err(InvalidHead), "{wrong}");
        }
    }
}
