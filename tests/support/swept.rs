//! Nothing leaks: what a test leaves is looked through.

use std::path::Path;

use tempfile::TempDir;

/// A stage's folder. Whatever test it was, at its end nothing that could be an NHS number or is a token
/// stands in a journal or a log that was written there.
pub(crate) struct Swept(pub(crate) TempDir);

impl Swept {
    pub(crate) fn path(&self) -> &Path {
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
                        let text = String::from_utf8_lossy(&text);
                        let found = leaked(&text);
                        assert!(found.is_none(), "{found:?} is in {}", path.display());
                    }
                    _ => {}
                }
            }
        }
    }
}

/// A ten-digit number that stands by itself in some text, could be an NHS number and is right by its
/// check digit; or a token's beginning. What is a number to JSON is one of ours.
pub(crate) fn leaked(text: &str) -> Option<&str> {
    let words =
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_' && c != '.');
    let is_number = |word: &&str| {
        word.len() == 10
            && word.bytes().all(|byte| byte.is_ascii_digit())
            && word.starts_with(['4', '6', '7', '9'])
            && has_its_check_digit(word)
    };
    let is_jsons = |word: &&str| {
        let at = word.as_ptr().addr() - text.as_ptr().addr();
        text[..at].ends_with("\":")
    };
    let is_leaked = |word: &&str| word.starts_with("eyJ") || (is_number(word) && !is_jsons(word));
    words.into_iter().find(is_leaked)
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
}
