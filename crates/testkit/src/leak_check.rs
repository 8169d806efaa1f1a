//! A test's folder that is searched for NHS numbers and tokens at the end of the test.

use std::path::Path;

use tempfile::TempDir;

/// A temporary folder. When it is dropped after a successful test, no journal or log in it may contain a token
/// or what could be an NHS number.
pub struct LeakCheckedFolder(pub TempDir);

impl LeakCheckedFolder {
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for LeakCheckedFolder {
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
                        let found = find_leak(&text);
                        assert!(found.is_none(), "{found:?} is in {}", path.display());
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Replaces the `\u` escapes of JSON in a text by their characters.
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

/// Returns the first possible NHS number in a text, or else the first token.
///
/// A possible NHS number has ten digits and a right check digit. It stands alone, in one piece or in groups of
/// three, three and four with up to three separators between. JSON numbers do not count: they are the gateway's.
pub fn find_leak(text: &str) -> Option<&str> {
    let starts_word = |at: usize| !text[..at].ends_with(|c: char| is_word_character(c) || c == '%');
    let digits = text.char_indices().filter(|(at, c)| digit(*c).is_some() && starts_word(*at));
    let number = digits.map(|(at, _)| at).find_map(|at| number_at(text, at));
    let token = text.match_indices("eyJ").map(|(at, _)| at).find(|at| starts_word(*at));
    let token = token.map(|at| {
        let rest = &text[at..];
        &rest[..rest.find(|c| !is_word_character(c)).unwrap_or(rest.len())]
    });
    number.or(token)
}

fn is_word_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// Returns a digit as ASCII, full-width digits included.
fn digit(c: char) -> Option<char> {
    let code = u32::from(c);
    match code {
        0xff10..=0xff19 => char::from_u32(code - 0xff10 + u32::from('0')),
        _ => c.is_ascii_digit().then_some(c),
    }
}

/// Returns the possible NHS number that begins at `at`.
fn number_at(text: &str, at: usize) -> Option<&str> {
    let starts = if digit(text[at..].chars().next()?) == Some('0') { [3, 4] } else { [3, 3] };
    starts.into_iter().find_map(|first| {
        let (mut digits, mut rest) = (String::new(), &text[at..]);
        for (group, count) in [first, 3, 4].into_iter().enumerate() {
            if group > 0 {
                rest = skip_separators(rest);
            }
            for _ in 0..count {
                let mut characters = rest.chars();
                digits.push(digit(characters.next()?)?);
                rest = characters.as_str();
            }
        }
        let found = &text[at..text.len() - rest.len()];
        let ends = !rest.starts_with(|c: char| is_word_character(c) && c != '.' && c != '-');
        let is_json_number =
            text[..at].ends_with("\":") && !found.contains(|c: char| !c.is_ascii_digit());
        let digits = &digits[digits.len() - 10..];
        let is_in_range = digits.starts_with(['4', '6', '7', '9']) && has_right_check_digit(digits);
        (ends && !is_json_number && is_in_range).then_some(found)
    })
}

/// Skips at most three separators: characters that are neither letters nor digits, or percent escapes.
fn skip_separators(text: &str) -> &str {
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

fn has_right_check_digit(number: &str) -> bool {
    let mut digits = number.bytes().map(|byte| u32::from(byte - b'0'));
    let sum: u32 = digits.clone().take(9).zip((2..=10).rev()).map(|(digit, by)| digit * by).sum();
    digits.next_back() == Some((11 - sum % 11) % 11)
}

#[test]
fn numbers_and_tokens_are_found() {
    assert_eq!(find_leak("a \"9434765919\" b"), Some("9434765919"));
    assert_eq!(find_leak("{\"bytes\":9434765919}"), None);
    assert_eq!(find_leak("/Patient/9434765919?x"), Some("9434765919"));
    assert_eq!(find_leak("Bearer eyJhbGciOiJub25lIn0.e30."), Some("eyJhbGciOiJub25lIn0.e30."));
    assert_eq!(find_leak("200000000359 9434765918 4f94-9434765919 1764048028"), None);
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
        assert_eq!(find_leak(&format!("{{\"name\":\"{number}\"}}")), Some(number));
    }
    let escaped = unescaped("\"\\uff1943\\u00a0476\\u00a05919\\n\"");
    assert_eq!(find_leak(&escaped), Some("９43\u{a0}476\u{a0}5919"));
    assert_eq!(find_leak("ab943476-5919-4fb4 127.0.0.1:9434 943 476 5918"), None);
}
