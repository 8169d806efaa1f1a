//! Masking of possible NHS numbers, in one pass over a text.

use std::borrow::Cow;
use std::ops::Range;

const MASK: &str = "[masked]";
/// Limit: characters between two groups of a number; an escape such as `%20` counts as one.
const SEPARATORS_MAX: usize = 3;
/// Limit: bytes read beyond those that are kept, to recognise a number that begins among the kept ones.
const AHEAD_BYTES: usize = 256;
/// Number of groups in the longest form: three, three and four digits.
const GROUPS_MAX: usize = 3;

/// Masks everything that could be an NHS number, and truncates the result to `bytes_max` bytes.
///
/// A number is ten digits of any script, plain or percent-encoded (`%39`), optionally after a zero: either in
/// one piece, or in groups of three, three and four, with up to three characters between groups that are
/// neither letters nor digits.
///
/// Security: everything that a record, log line or answer takes from a request passes through here. Longer
/// and shorter digit runs (ASIDs, staff ids), UUIDs, timestamps and addresses are left unchanged.
#[must_use]
pub fn masked(text: &str, bytes_max: usize) -> Cow<'_, str> {
    // Most text has no digits.
    let may_be = |byte: u8| byte.is_ascii_digit() || !byte.is_ascii();
    if text.len() <= bytes_max && !text.bytes().any(may_be) {
        return Cow::Borrowed(text);
    }
    // The work is bounded by the bytes that are kept, not by the length of the text.
    let text = cut(text, bytes_max.saturating_add(AHEAD_BYTES));
    let mut masked = String::new();
    let mut copied = 0;
    let mut groups = DigitGroups::default();
    let mut at = 0;
    while at < text.len() {
        let (token, end) = token(text, at);
        if let Some(number) = groups.next(text, token, at..end) {
            masked.extend([text.get(copied..number.start).unwrap_or_default(), MASK]);
            copied = number.end;
        }
        at = end;
    }
    if let Some(number) = groups.next(text, MaskToken::Letter, at..at) {
        masked.extend([text.get(copied..number.start).unwrap_or_default(), MASK]);
        copied = number.end;
    }
    if masked.is_empty() {
        return Cow::Borrowed(cut(text, bytes_max));
    }
    // Security: a number that begins later may be cut off, and must not be shown in part.
    masked.push_str(cut(text, bytes_max).get(copied..).unwrap_or_default());
    masked.truncate(cut(&masked, bytes_max).len());
    Cow::Owned(masked)
}

/// Returns true for a character that a terminal does not show as one: a control character, or one that is invisible
/// or changes the direction of the text.
///
/// Spec: Unicode 17.0, properties `General_Category=Cc` and `Bidi_Control`, zero-width characters, and line and
/// paragraph separators.
#[must_use]
pub const fn is_unprintable(character: char) -> bool {
    matches!(
        character,
        '\0'..='\x1f'
            | '\x7f'..='\u{9f}'
            | '\u{ad}'
            | '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
    )
}

/// Returns a text as it may be printed: each [unprintable](is_unprintable) character but line feed is replaced by `?`.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    let is_replaced = |character| is_unprintable(character) && character != '\n';
    match text.contains(is_replaced) {
        true => Cow::Owned(text.replace(is_replaced, "?")),
        false => Cow::Borrowed(text),
    }
}

/// Truncates a text to at most `bytes_max` bytes, at a character boundary.
fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = bytes_max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// Class of a character, or of a percent-encoded byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MaskToken {
    /// A digit; true if it is zero.
    Digit(bool),
    Letter,
    Separator,
}

/// Reads the character or escape at a character boundary; returns its class and its end.
fn token(text: &str, at: usize) -> (MaskToken, usize) {
    let bytes = text.as_bytes();
    match bytes.get(at).copied().unwrap_or_default() {
        byte if byte.is_ascii_digit() => (MaskToken::Digit(byte == b'0'), at + 1),
        byte if byte.is_ascii_alphabetic() => (MaskToken::Letter, at + 1),
        b'%' => escape(bytes, at + 1).unwrap_or((MaskToken::Separator, at + 1)),
        byte if byte.is_ascii() => (MaskToken::Separator, at + 1),
        _ => {
            let character = text.get(at..).and_then(|rest| rest.chars().next());
            let character = character.unwrap_or(char::REPLACEMENT_CHARACTER);
            let token = match character {
                '０' => MaskToken::Digit(true),
                _ if character.is_numeric() => MaskToken::Digit(false),
                _ if character.is_alphabetic() => MaskToken::Letter,
                _ => MaskToken::Separator,
            };
            (token, at + character.len_utf8())
        }
    }
}

/// Reads the two hexadecimal digits of an escape, whose percent sign may itself be escaped.
fn escape(bytes: &[u8], mut at: usize) -> Option<(MaskToken, usize)> {
    let hex = |at: usize| {
        let digit = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
        Some(digit(at)? * 16 + digit(at + 1)?)
    };
    while hex(at) == Some(u32::from(b'%')) && hex(at + 2).is_some() {
        at += 2;
    }
    let byte = u8::try_from(hex(at)?).ok()?;
    let token = match byte {
        b'0'..=b'9' => MaskToken::Digit(byte == b'0'),
        _ if byte.is_ascii_alphabetic() => MaskToken::Letter,
        _ => MaskToken::Separator,
    };
    Some((token, at + 2))
}

/// Run of consecutive digits.
#[derive(Debug, Clone, Copy, Default)]
struct DigitGroup {
    start: usize,
    end: usize,
    /// Number of digits, a leading zero included.
    digits: usize,
    has_nought: bool,
}

impl DigitGroup {
    /// Returns the number of digits, without a leading zero that makes four, seven or eleven of them.
    const fn significant(self) -> usize {
        match (self.digits, self.has_nought) {
            (4 | 7 | 11, true) => self.digits - 1,
            (digits, _) => digits,
        }
    }
}

/// Last groups of digits with only separators between them.
#[derive(Debug, Default)]
struct DigitGroups {
    /// Ended groups, the most recent one at the end.
    last: [Option<DigitGroup>; GROUPS_MAX],
    /// Group that has not ended yet.
    open: Option<DigitGroup>,
    separators: usize,
}

impl DigitGroups {
    /// Adds the next character; returns the byte range of a number that has ended before it.
    fn next(&mut self, text: &str, token: MaskToken, at: Range<usize>) -> Option<Range<usize>> {
        if let MaskToken::Digit(is_nought) = token {
            let start =
                DigitGroup { start: at.start, has_nought: is_nought, ..DigitGroup::default() };
            let open = self.open.get_or_insert(start);
            (open.digits, open.end) = (open.digits + 1, at.end);
            return None;
        }
        let mut number = None;
        if let Some(ended) = self.open.take() {
            self.last.rotate_left(1);
            if let Some(last) = self.last.last_mut() {
                *last = Some(ended);
            }
            self.separators = 0;
            number = self.number(text);
        }
        self.separators += 1;
        if number.is_some() || token == MaskToken::Letter || self.separators > SEPARATORS_MAX {
            self.last = [None; GROUPS_MAX];
        }
        number
    }

    /// Returns the byte range of the number that the last groups form, if they do.
    fn number(&self, text: &str) -> Option<Range<usize>> {
        let [first, second, third] = self.last;
        let third = third?;
        let whole = |first: DigitGroup| {
            let bounds = first.start..third.end;
            (!is_in_uuid(text, &bounds)).then_some(bounds)
        };
        if third.significant() == 10 {
            return whole(third);
        }
        let second = second?;
        match (second.significant(), third.digits) {
            (6, 4) if !is_offset(text, second, third) => return whole(second),
            (3, 7) => return whole(second),
            _ => {}
        }
        let first = first.filter(|first| !is_port(text, *first, second, third))?;
        let is_number = (first.significant(), second.digits, third.digits) == (3, 3, 4);
        is_number.then(|| whole(first)).flatten()
    }
}

/// Returns true for the fraction of a second and the offset of a timestamp, as in `36.123456+0100`.
fn is_offset(text: &str, fraction: DigitGroup, offset: DigitGroup) -> bool {
    follows_dot(text, fraction.start)
        && matches!(text.get(fraction.end..offset.start), Some("+" | "-"))
}

/// Returns true for the end of an address with a port, as in `192.168.100.200:8443`.
fn is_port(text: &str, third: DigitGroup, fourth: DigitGroup, port: DigitGroup) -> bool {
    follows_dot(text, third.start)
        && text.get(third.end..fourth.start) == Some(".")
        && text.get(fourth.end..port.start) == Some(":")
}

/// Returns true if a digit and a full stop precede `start`.
fn follows_dot(text: &str, start: usize) -> bool {
    let before = text.get(..start).and_then(|before| before.strip_suffix('.'));
    before.is_some_and(|before| before.ends_with(|c: char| c.is_ascii_digit()))
}

/// Returns true if a byte range is part of a UUID.
fn is_in_uuid(text: &str, bounds: &Range<usize>) -> bool {
    let bytes = text.as_bytes();
    let belongs = |byte: &&u8| byte.is_ascii_hexdigit() || **byte == b'-';
    let (before, behind) = (bytes.get(..bounds.start), bytes.get(bounds.end..));
    let before = before.unwrap_or_default().iter().rev().take(37).take_while(belongs).count();
    let behind = behind.unwrap_or_default().iter().take(37).take_while(belongs).count();
    text.get(bounds.start - before..bounds.end + behind).is_some_and(super::is_uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_digits_are_masked_and_twelve_are_not() {
        assert_eq!(masked("/Patient/9434765919/x", 99), "/Patient/[masked]/x");
        assert_eq!(masked("943 476 5919", 99), "[masked]");
        assert_eq!(masked("943-476-5919!", 99), "[masked]!");
        assert_eq!(masked("9434765919 1", 99), "[masked] 1");
        assert_eq!(masked("1-9434765919-1", 99), "1-[masked]-1");
        assert_eq!(masked("2026 943.476.5919 2026", 99), "2026 [masked] 2026");
        assert_eq!(masked("9434765919,943 476 5919", 99), "[masked],[masked]");
        assert_eq!(masked("200000000359 and 12", 99), "200000000359 and 12");
        assert_eq!(masked("ab\u{e9}cd", 3), "ab");
        assert_eq!(masked("9434765919", 5), "[mask");
    }

    #[test]
    fn a_number_is_masked_however_it_is_written() {
        for number in [
            "943/476/5919",
            "943 4765919",
            "943476 5919",
            "943%20476%205919",
            "943%C2%A0476%c2%a05919",
            "943%2520476%25205919",
            "%39%34%33%34%37%36%35%39%31%39",
            "943+476+5919",
            "943  476  5919",
            "943, 476, 5919",
            "943 - 476 - 5919",
            "943\u{a0}476\u{a0}5919",
            "943\u{202f}476\u{2009}5919",
            "943\u{2013}476\u{2013}5919",
            "９４３ ４７６ ５９１９",
            "９４３４７６５９１９",
            "٩٤٣٤٧٦٥٩١٩",
            "09434765919",
            "0943 476 5919",
            "0943476 5919",
            "0943 4765919",
            "０943 476 5919",
            "(943)476-5919",
        ] {
            let digits = number.trim_start_matches('(');
            let before = number.len() - digits.len();
            let due = format!("a {}[masked], b", &number[..before]);
            assert_eq!(masked(&format!("a {number}, b"), 99), due, "{number}");
        }
    }

    #[test]
    fn what_is_no_number_stays_readable() {
        for text in [
            "918999198993",
            "111222333444",
            "200 000 000 359",
            "2026-11-28T01:12:36",
            "2026-11-28T01:12:36.123456+0100",
            "2026-11-28 01:12:36.123456789Z",
            "20261128T011236Z",
            "192.168.100.200:8443",
            "https://10.100.200.100:4443/",
            "09a01679-2564-4fb4-9129-aecc81ea2706",
            "urn:uuid:ab943476-5919-4fb4-9129-a9434765919f",
            "https://provider.example.nhs.uk/A20047/STU3/1/gpconnect",
            "943a476b5919",
            "943 47 65919",
            "94347659199",
            "0009434765919",
            "943 ---- 476 5919",
        ] {
            assert!(matches!(masked(text, 99), Cow::Borrowed(same) if same == text), "{text}");
        }
    }

    #[test]
    fn a_number_is_masked_wherever_it_stands() {
        for before in (0..9).map(|length| "x".repeat(length)) {
            for number in ["9434765919", "943 476 5919", "943-476.5919", "９４３４７６５９１９"]
            {
                for behind in ["", "y", " 12 xx"] {
                    let text = format!("{before}{number}{behind}");
                    assert_eq!(masked(&text, 99), format!("{before}[masked]{behind}"), "{text}");
                }
            }
        }
    }
}
