//! Field blocks of HTTP/2, parsed far enough to find a `#` in `:path`.
//!
//! Security: h2 hands over a `:path` from which the fragment was silently removed, and with it filters of a
//! search; later code cannot see what was sent. So the block is followed here, on the bytes. The `#` becomes
//! a `>`, which no path may hold and which differs in one bit, both plain and in Huffman coding: h2 then
//! refuses this stream and no other.
//!
//! Spec: RFC 7541. The dynamic table is not kept: a `:path` whose name is taken from it is not seen.

/// The position in a field block.
#[derive(Debug, Clone, Copy)]
pub(super) struct FieldBlock {
    at: FieldPosition,
}

#[derive(Debug, Clone, Copy)]
enum FieldPosition {
    /// State before the first byte of a field.
    Field,
    /// State in an integer that is longer than its prefix.
    Integer { of: IntegerUse, value: usize, shift: u32 },
    /// State before the length of a name.
    Name,
    /// State in a name that is `:path` so far, with `left` bytes to come.
    Reading { left: usize, expected: &'static [u8] },
    /// State before the length of a value.
    Value { is_path: bool },
    /// State in bytes of no interest.
    Skipping { left: usize, then: AfterSkip },
    /// State in the value of `:path`.
    Plain { left: usize },
    /// State in the value of `:path` in Huffman coding.
    Coded { left: usize, symbol: HuffmanSymbol },
    /// In a malformed block, which h2 refuses too.
    Lost,
}

/// The part of a field after bytes that are skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AfterSkip {
    Field,
    Value,
}

/// The meaning of an integer.
#[derive(Debug, Clone, Copy)]
enum IntegerUse {
    /// The index of a whole field, or a table's size.
    Whole,
    /// The index of a literal's name.
    NameIndex,
    NameLength {
        is_coded: bool,
    },
    ValueLength {
        is_coded: bool,
        is_path: bool,
    },
}

const PATH: &[u8] = b":path";
/// Spec: RFC 7541, appendix B.
const PATH_CODED: &[u8] = &[0xb9, 0x58, 0xd3, 0x3f];
/// Limit: the shift of an integer's last byte. h2 accepts no longer integers.
const SHIFT_MAX: u32 = 28;

impl FieldBlock {
    pub(super) const fn new() -> Self {
        Self { at: FieldPosition::Field }
    }

    /// Returns how many of the next bytes may be passed over with [`FieldBlock::skip`].
    pub(super) const fn idle(&self) -> usize {
        match self.at {
            FieldPosition::Skipping { left, .. } => left,
            FieldPosition::Lost => usize::MAX,
            FieldPosition::Field
            | FieldPosition::Integer { .. }
            | FieldPosition::Name
            | FieldPosition::Reading { .. }
            | FieldPosition::Value { .. }
            | FieldPosition::Plain { .. }
            | FieldPosition::Coded { .. } => 0,
        }
    }

    /// Passes over `count` bytes, at most as many as [`FieldBlock::idle`] returns.
    pub(super) const fn skip(&mut self, count: usize) {
        if let FieldPosition::Skipping { left, then } = self.at {
            self.at = skipping(left.saturating_sub(count), then);
        }
    }

    /// Takes the next byte, and changes it if a `#` ends in it.
    pub(super) fn next(&mut self, byte: &mut u8) {
        self.at = match self.at {
            FieldPosition::Field => match *byte {
                0x80.. => integer(IntegerUse::Whole, *byte, 7),
                0x40.. => integer(IntegerUse::NameIndex, *byte, 6),
                0x20.. => integer(IntegerUse::Whole, *byte, 5),
                _ => integer(IntegerUse::NameIndex, *byte, 4),
            },
            FieldPosition::Integer { shift, .. } if shift > SHIFT_MAX => FieldPosition::Lost,
            FieldPosition::Integer { of, value, shift } => {
                let value = value.saturating_add(usize::from(*byte & 0x7f) << shift);
                match *byte & 0x80 {
                    0 => after(of, value),
                    _ => FieldPosition::Integer { of, value, shift: shift + 7 },
                }
            }
            FieldPosition::Name => {
                integer(IntegerUse::NameLength { is_coded: *byte & 0x80 != 0 }, *byte, 7)
            }
            FieldPosition::Value { is_path } => {
                integer(IntegerUse::ValueLength { is_coded: *byte & 0x80 != 0, is_path }, *byte, 7)
            }
            FieldPosition::Reading { left, expected } => match (expected.split_first(), left) {
                (Some((due, [])), 1) if due == byte => FieldPosition::Value { is_path: true },
                (Some((due, expected)), _) if due == byte => {
                    FieldPosition::Reading { left: left - 1, expected }
                }
                _ => skipping(left - 1, AfterSkip::Value),
            },
            FieldPosition::Skipping { left, then } => skipping(left.saturating_sub(1), then),
            FieldPosition::Plain { left } => {
                if *byte == b'#' {
                    *byte = b'>';
                }
                if left > 1 {
                    FieldPosition::Plain { left: left - 1 }
                } else {
                    FieldPosition::Field
                }
            }
            FieldPosition::Coded { left, mut symbol } => {
                for bit in (0..8).rev() {
                    if symbol.ends_as_fragment(*byte >> bit & 1) {
                        *byte |= 1 << bit;
                    }
                }
                if left > 1 {
                    FieldPosition::Coded { left: left - 1, symbol }
                } else {
                    FieldPosition::Field
                }
            }
            FieldPosition::Lost => FieldPosition::Lost,
        };
    }
}

/// Begins an integer with a prefix of this many bits.
fn integer(of: IntegerUse, byte: u8, bits: u32) -> FieldPosition {
    let most = (1_usize << bits) - 1;
    match usize::from(byte) & most {
        value if value == most => FieldPosition::Integer { of, value, shift: 0 },
        value => after(of, value),
    }
}

/// Returns the position after an integer.
const fn after(of: IntegerUse, value: usize) -> FieldPosition {
    match (of, value) {
        (IntegerUse::Whole, _) => FieldPosition::Field,
        (IntegerUse::NameIndex, 0) => FieldPosition::Name,
        // Spec: RFC 7541, appendix A. Both are `:path`.
        (IntegerUse::NameIndex, index) => FieldPosition::Value { is_path: matches!(index, 4 | 5) },
        (IntegerUse::NameLength { is_coded: true }, left) if left == PATH_CODED.len() => {
            FieldPosition::Reading { left, expected: PATH_CODED }
        }
        (IntegerUse::NameLength { is_coded: false }, left) if left == PATH.len() => {
            FieldPosition::Reading { left, expected: PATH }
        }
        (IntegerUse::NameLength { .. }, left) => skipping(left, AfterSkip::Value),
        (IntegerUse::ValueLength { .. }, 0) => FieldPosition::Field,
        (IntegerUse::ValueLength { is_path: false, .. }, left) => skipping(left, AfterSkip::Field),
        (IntegerUse::ValueLength { is_coded: false, .. }, left) => FieldPosition::Plain { left },
        (IntegerUse::ValueLength { is_coded: true, .. }, left) => {
            FieldPosition::Coded { left, symbol: HuffmanSymbol::START }
        }
    }
}

const fn skipping(left: usize, then: AfterSkip) -> FieldPosition {
    match (left, then) {
        (0, AfterSkip::Field) => FieldPosition::Field,
        (0, AfterSkip::Value) => FieldPosition::Value { is_path: false },
        _ => FieldPosition::Skipping { left, then },
    }
}

/// A symbol of the Huffman code, bit by bit. The code is canonical: the number of symbols of each length
/// determines where one ends.
#[derive(Debug, Clone, Copy)]
struct HuffmanSymbol {
    code: u32,
    first: u32,
    bits: usize,
}

/// Number of symbols of each length in bits.
///
/// Spec: RFC 7541, appendix B.
const SYMBOLS: [u32; 31] = [
    0, 0, 0, 0, 0, 10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19,
    29, 0, 4,
];
/// Length in bits of the code of `#`, the first symbol of this length; the other is `>`.
const FRAGMENT_BITS: usize = 12;

impl HuffmanSymbol {
    const START: Self = Self { code: 0, first: 0, bits: 0 };

    /// Takes a bit; returns true if it is the last of a `#`.
    fn ends_as_fragment(&mut self, bit: u8) -> bool {
        let code = self.code << 1 | u32::from(bit);
        let (first, bits) = (self.first << 1, self.bits + 1);
        match SYMBOLS.get(bits) {
            Some(count) if code - first >= *count => {
                *self = Self { code, first: first + count, bits };
                false
            }
            _ => {
                *self = Self::START;
                bits == FRAGMENT_BITS && code == first
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the bytes of a block after they were followed, with skips where they are allowed.
    fn followed(block: &[u8], by_bytes: bool) -> Vec<u8> {
        let (mut fields, mut bytes, mut at) = (FieldBlock::new(), block.to_vec(), 0);
        while at < bytes.len() {
            match fields.idle().min(bytes.len() - at) {
                idle if idle > 0 && !by_bytes => {
                    fields.skip(idle);
                    at += idle;
                }
                _ => {
                    fields.next(&mut bytes[at]);
                    at += 1;
                }
            }
        }
        bytes
    }

    /// A field, its name and value as they are given.
    fn literal(first: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
        [&[first], name, value].concat()
    }

    #[test]
    fn a_fragment_in_a_path_and_nowhere_else_is_changed() {
        // "/#" and "/>" plain and in Huffman coding.
        let (plain, coded) = (&b"\x02/#"[..], &[0x83, 0x63, 0xfe, 0xbf][..]);
        let (refused, refused_coded) = (&b"\x02/>"[..], &[0x83, 0x63, 0xfe, 0xff][..]);
        let named = &b"\x05:path"[..];
        let coded_name = &[0x84, 0xb9, 0x58, 0xd3, 0x3f][..];
        let odd = &b"\x05:patH"[..];
        for (first, name, is_path) in [
            (0x04, &b""[..], true),
            (0x05, b"", true),
            (0x14, b"", true),
            (0x44, b"", true),
            (0x00, named, true),
            (0x40, coded_name, true),
            (0x10, coded_name, true),
            (0x06, b"", false),
            (0x7f, b"\x80\x01", false),
            (0x00, odd, false),
        ] {
            for (value, changed) in [(plain, refused), (coded, refused_coded)] {
                let due = if is_path { changed } else { value };
                // A table's size, whole fields and another literal stand before.
                let before =
                    [&[0x3f, 0xe1, 0x1f, 0x82, 0xff, 0x00][..], b"\x00\x01a\x01#"].concat();
                let block = [&before[..], &literal(first, name, value), b"\x00\x01a\x01#"].concat();
                let due = [&before[..], &literal(first, name, due), b"\x00\x01a\x01#"].concat();
                assert_eq!(followed(&block, true), due, "{first:x} {name:?} {value:?}");
                assert_eq!(followed(&block, false), due, "{first:x} {name:?} {value:?}");
            }
        }
    }

    proptest::proptest! {
        /// Any bytes: no byte is changed but by one bit, and skipping changes nothing.
        #[test]
        fn any_bytes_are_followed(block in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let bytes = followed(&block, true);
            proptest::prop_assert_eq!(&bytes, &followed(&block, false));
            for (before, after) in block.iter().zip(&bytes) {
                let is_plain = (*before, *after) == (b'#', b'>');
                proptest::prop_assert!(is_plain || (before | after) == *after);
            }
        }
    }
}
