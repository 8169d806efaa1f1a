//! Nothing leaks: what a test leaves is looked through.

use std::path::Path;

use tempfile::TempDir;

/// A stage's folder. Whatever test it was, at its end nothing that could be an NHS number or is a token
/// stands in a journal or a log that was written there.
pub struct Swept(pub TempDir);

impl Swept {
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Swept {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let mut folders = vec![self.path().to_owned()];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = std::fs::read_dir(folder) else { continue };
            for path in entries.map(|entry| entry.unwrap().path()) {
                let extension = path.extension().and_then(|extension| extension.to_str());
                match extension {
                    None if path.is_dir() => folders.push(path),
                    Some("jsonl" | "log") => {
                        let text = std::fs::read(&path).unwrap_or_default();
                        let text = unescaped(&String::from_utf8_lossy(&text));
                        let found = leaked(&text);
                        assert!(found.is_none(), "{found:?} is in {}", path.display());
                    }
                    _ => {}
                }
            }
        }
    }
}

/// A text with JSON's escapes of characters beyond ASCII resolved.
fn unescaped(text: &str) -> String {
    let mut parts = text.split("\\u");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..4).and_then(|code| u32::from_str_radix(code, 16).ok());
        match code.and_then(char::from_u32) {
            Some(character) => out.extend([&*character.to_string(), &part[4..]]),
            None => out.extend(["\\u", part]),
        }
    }
    out
}

/// A number that stands by itself in some text, in one piece or in groups of three, three and four with
/// up to three characters or escapes between, could be an NHS number and is right by its check digit; or
/// a token's beginning. What is a number to JSON is one of ours.
pub fn leaked(text: &str) -> Option<&str> {
    let starts_word = |at: usize| !text[..at].ends_with(|c: char| is_of_a_word(c) || c == '%');
    let digits = text.char_indices().filter(|(at, c)| digit(*c).is_some() && starts_word(*at));
    let number = digits.map(|(at, _)| at).find_map(|at| number_at(text, at));
    let token = text.match_indices("eyJ").map(|(at, _)| at).find(|at| starts_word(*at));
    let token = token.map(|at| {
        let rest = &text[at..];
        &rest[..rest.find(|c| !is_of_a_word(c)).unwrap_or(rest.len())]
    });
    number.or(token)
}

fn is_of_a_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// The value of a digit, full-width ones included.
fn digit(c: char) -> Option<char> {
    let code = u32::from(c);
    match code {
        0xff10..=0xff19 => char::from_u32(code - 0xff10 + u32::from('0')),
        _ => c.is_ascii_digit().then_some(c),
    }
}

/// The number that begins here.
fn number_at(text: &str, at: usize) -> Option<&str> {
    let starts = if digit(text[at..].chars().next()?) == Some('0') { [3, 4] } else { [3, 3] };
    starts.into_iter().find_map(|first| {
        let (mut digits, mut rest) = (String::new(), &text[at..]);
        for (group, count) in [first, 3, 4].into_iter().enumerate() {
            if group > 0 {
                rest = behind_separators(rest);
            }
            for _ in 0..count {
                let mut characters = rest.chars();
                digits.push(digit(characters.next()?)?);
                rest = characters.as_str();
            }
        }
        let found = &text[at..text.len() - rest.len()];
        let ends = !rest.starts_with(|c: char| is_of_a_word(c) && c != '.' && c != '-');
        let is_jsons =
            text[..at].ends_with("\":") && !found.contains(|c: char| !c.is_ascii_digit());
        let digits = &digits[digits.len() - 10..];
        let may_be = digits.starts_with(['4', '6', '7', '9']) && has_its_check_digit(digits);
        (ends && !is_jsons && may_be).then_some(found)
    })
}

/// What follows at most three characters that are neither letters nor digits, or their escapes.
fn behind_separators(text: &str) -> &str {
    let mut rest = text;
    for _ in 0..3 {
        let bytes = rest.as_bytes();
        let is_escape = bytes.len() > 2 && bytes[1..3].iter().all(u8::is_ascii_hexdigit);
        rest = match rest.chars().next() {
            Some('%') if is_escape => &rest[3..],
            Some(c) if !c.is_alphanumeric() => &rest[c.len_utf8()..],
            _ => return rest,
        };
    }
    rest
}

fn has_its_check_digit(number: &str) -> bool {
    let mut digits = number.bytes().map(|byte| u32::from(byte - b'0'));
    let sum: u32 = digits.clone().take(9).zip((2..=10).rev()).map(|(digit, by)| digit * by).sum();
    digits.next_back() == Some((11 - sum % 11) % 11)
}

#[test]
fn what_leaks_is_seen() {
    assert_eq!(leaked("a \"9434765919\" b"), Some("9434765919"));
    assert_eq!(leaked("{\"bytes\":9434765919}"), None);
    assert_eq!(leaked("/Patient/9434765919?x"), Some("9434765919"));
    assert_eq!(leaked("Bearer eyJhbGciOiJub25lIn0.e30."), Some("eyJhbGciOiJub25lIn0.e30."));
    assert_eq!(leaked("200000000359 9434765918 4f94-9434765919 1764048028"), None);
    for number in [
        "943 476 5919",
        "943/476/5919",
        "943 4765919",
        "943%20476%205919",
        "943, 476, 5919",
        "943\u{a0}476\u{a0}5919",
        "９４３ ４７６ ５９１９",
        "0943 476 5919",
        "09434765919",
    ] {
        assert_eq!(leaked(&format!("{{\"name\":\"{number}\"}}")), Some(number));
    }
    let escaped = unescaped("\"\\uff1943\\u00a0476\\u00a05919\\n\"");
    assert_eq!(leaked(&escaped), Some("９43\u{a0}476\u{a0}5919"));
    assert_eq!(leaked("ab943476-5919-4fb4 127.0.0.1:9434 943 476 5918"), None);
}
