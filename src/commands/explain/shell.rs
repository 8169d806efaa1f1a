//! Words of a command line as a POSIX shell splits it: quotes, escapes, `$'…'` and redirections. Nothing is
//! expanded.

use std::iter::Peekable;
use std::str::Chars;

/// Splits the first command of a text into words, without redirections. As in a shell it ends at an operator such
/// as `|`, or at the end of a line; a next line that begins with `-` is taken to belong to it.
///
/// # Errors
/// Returns a text for a quote that is not closed, or for a variable or command to expand.
pub(super) fn words(command: &str) -> Result<Vec<String>, String> {
    let splitter = ShellSplitter {
        rest: command.chars().peekable(),
        word: None,
        words: Vec::new(),
        drops_word: false,
    };
    splitter.split()
}

const OPEN: &str = "a quote in the command is not closed";
const EXPANDS: &str =
    "the command has a variable or another command to expand: paste its value instead";

/// Command as far as it has been split.
struct ShellSplitter<'a> {
    rest: Peekable<Chars<'a>>,
    /// Word that has not ended yet.
    word: Option<String>,
    words: Vec<String>,
    /// True if the next word is the file of a redirection.
    drops_word: bool,
}

impl ShellSplitter<'_> {
    fn split(mut self) -> Result<Vec<String>, String> {
        while let Some(character) = self.rest.next() {
            match character {
                '<' | '>' => self.redirection()?,
                // Redirects both outputs, in bash: the sign that follows is read next.
                '&' if self.rest.peek() == Some(&'>') => self.end_word(),
                '|' | ';' | '&' => break,
                '\n' if self.is_last_line() => break,
                '#' if self.word.is_none() => {
                    while self.rest.next_if(|character| *character != '\n').is_some() {}
                }
                '\\' => self.escape()?,
                '\'' => self.quoted()?,
                '"' => self.double_quoted()?,
                '$' if self.rest.next_if_eq(&'\'').is_some() => self.ansi_quoted()?,
                // A text to translate, in bash: the quote that follows is read next.
                '$' if self.rest.peek() == Some(&'"') => {}
                '$' | '`' => self.literal_sign(character)?,
                space if space.is_whitespace() => self.end_word(),
                other => self.push(other),
            }
        }
        self.end_word();
        Ok(self.words)
    }

    fn push(&mut self, character: char) {
        self.word.get_or_insert_default().push(character);
    }

    fn end_word(&mut self) {
        let Some(word) = self.word.take() else { return };
        if !std::mem::take(&mut self.drops_word) {
            self.words.push(word);
        }
    }

    /// Returns true if the command ends with the line that has just been read.
    fn is_last_line(&self) -> bool {
        let is_blank = |character: &char| matches!(character, ' ' | '\t' | '\r');
        let next = self.rest.clone().find(|character| !is_blank(character));
        let is_begun = self.word.is_some() || !self.words.is_empty();
        is_begun && next != Some('-')
    }

    /// Reads the rest of an operator such as `>`, `2>` or `2>&`; its word is dropped.
    fn redirection(&mut self) -> Result<(), String> {
        self.word.take_if(|word| word.bytes().all(|byte| byte.is_ascii_digit()));
        self.end_word();
        while self.rest.next_if(|sign| matches!(sign, '<' | '>' | '&' | '|')).is_some() {}
        if self.rest.peek() == Some(&'(') {
            return Err(EXPANDS.to_owned());
        }
        self.drops_word = true;
        Ok(())
    }

    /// Reads what follows a backslash. Spaces between it and the line's end come from pasting.
    fn escape(&mut self) -> Result<(), String> {
        let mut ahead = self.rest.clone();
        let is_blank = |character: &char| matches!(character, ' ' | '\t' | '\r');
        while ahead.next_if(is_blank).is_some() {}
        match ahead.next() {
            Some('\n') => {
                self.rest = ahead.clone();
                // The prompt of a terminal for a command that goes on, and no redirection.
                let is_prompt = ahead.next() == Some('>') && ahead.next() == Some(' ');
                while ahead.next_if(is_blank).is_some() {}
                if is_prompt && ahead.peek().is_some_and(|next| "-'\"h".contains(*next)) {
                    self.rest = ahead;
                }
            }
            None => return Err("the command ends with a backslash".to_owned()),
            Some(_) => {
                if let Some(escaped) = self.rest.next() {
                    self.push(escaped);
                }
            }
        }
        Ok(())
    }

    fn quoted(&mut self) -> Result<(), String> {
        let word = self.word.get_or_insert_default();
        for character in &mut self.rest {
            if character == '\'' {
                return Ok(());
            }
            word.push(character);
        }
        Err(OPEN.to_owned())
    }

    fn double_quoted(&mut self) -> Result<(), String> {
        self.word.get_or_insert_default();
        while let Some(character) = self.rest.next() {
            match character {
                '"' => return Ok(()),
                '\\' => match self.rest.next() {
                    Some(escaped @ ('"' | '\\' | '$' | '`')) => self.push(escaped),
                    Some('\n') => {}
                    Some(other) => self.word.get_or_insert_default().extend(['\\', other]),
                    None => break,
                },
                '$' | '`' => self.literal_sign(character)?,
                other => self.push(other),
            }
        }
        Err(OPEN.to_owned())
    }

    /// Refuses what a shell would expand; a `$` that begins no name stands for itself, as in a shell.
    fn literal_sign(&mut self, sign: char) -> Result<(), String> {
        let begins = |next: &char| next.is_alphanumeric() || "_{(@*?$!#-".contains(*next);
        if sign != '$' || self.rest.peek().is_some_and(begins) {
            return Err(EXPANDS.to_owned());
        }
        self.push('$');
        Ok(())
    }

    /// Reads `$'…'` after its first quote. Escapes are bytes, of which several may be one character.
    fn ansi_quoted(&mut self) -> Result<(), String> {
        let mut bytes = Vec::new();
        while let Some(character) = self.rest.next() {
            match character {
                '\'' => {
                    let text = String::from_utf8_lossy(&bytes);
                    self.word.get_or_insert_default().push_str(&text);
                    return Ok(());
                }
                '\\' => self.ansi_escape(&mut bytes).ok_or(OPEN)?,
                other => bytes.extend(other.to_string().into_bytes()),
            }
        }
        Err(OPEN.to_owned())
    }

    /// Reads what follows a backslash in `$'…'`, as bash does; `None` at the end of the text.
    fn ansi_escape(&mut self, bytes: &mut Vec<u8>) -> Option<()> {
        match self.rest.next()? {
            'a' => bytes.push(0x07),
            'b' => bytes.push(0x08),
            'e' | 'E' => bytes.push(0x1b),
            'f' => bytes.push(0x0c),
            'n' => bytes.push(b'\n'),
            'r' => bytes.push(b'\r'),
            't' => bytes.push(b'\t'),
            'v' => bytes.push(0x0b),
            'c' => bytes.push(u8::try_from(self.rest.next()?).ok()? & 0x1f),
            'x' => bytes.extend(u8::try_from(self.number(0, 16, 2))),
            'u' => bytes.extend(utf8(self.number(0, 16, 4))),
            'U' => bytes.extend(utf8(self.number(0, 16, 8))),
            same @ ('\\' | '\'' | '"' | '?') => bytes.extend(u8::try_from(same)),
            other => match other.to_digit(8) {
                Some(digit) => bytes.extend(self.number(digit, 8, 2).to_le_bytes().first()),
                None => bytes.extend(format!("\\{other}").into_bytes()),
            },
        }
        Some(())
    }

    /// Reads at most `digits` more digits of a number.
    fn number(&mut self, start: u32, radix: u32, digits: usize) -> u32 {
        let mut number = start;
        for _ in 0..digits {
            let digit = self.rest.peek().and_then(|digit| digit.to_digit(radix));
            let Some(digit) = digit else { break };
            number = number.wrapping_mul(radix).wrapping_add(digit);
            self.rest.next();
        }
        number
    }
}

/// Returns a character of this code in UTF-8; nothing if there is none.
fn utf8(code: u32) -> Vec<u8> {
    char::from_u32(code).map(String::from).unwrap_or_default().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn words_are_split_as_a_shell_does() {
        for (line, split) in [
            ("curl  a\tb\n", &["curl", "a", "b"][..]),
            ("curl 'a b' \"c 'd'\" e\\ f", &["curl", "a b", "c 'd'", "e f"]),
            ("curl \\\n  -H 'A: b' \\\r\n  x", &["curl", "-H", "A: b", "x"]),
            ("curl $'it\\'s\\n\\x41\\u00e9'", &["curl", "it's\nAé"]),
            ("curl $'\\150\\1501\\0\\a\\e\\E\\cA'", &["curl", "hh1\0\u{7}\u{1b}\u{1b}\u{1}"]),
            ("curl $'\\xc3\\xa9\\U0001f600\\d\\\"\\?'", &["curl", "é😀\\d\"?"]),
            ("curl a''b\"\" ''", &["curl", "ab", ""]),
            ("curl $\"a\"", &["curl", "a"]),
            ("curl \"a\\\"b\\\\c\\d\"", &["curl", "a\"b\\c\\d"]),
            ("curl a | jq . # x", &["curl", "a"]),
            ("curl a$ # a comment", &["curl", "a$"]),
        ] {
            assert_eq!(words(line).unwrap(), split, "{line}");
        }
        for line in [
            "curl 'a",
            "curl \"a",
            "curl $'a",
            "curl $'a\\",
            "curl $TOKEN",
            "curl \"$1\"",
            "curl \"${A}\"",
            "curl `a`",
            "curl <(a)",
            "curl \\",
            "curl \\  ",
        ] {
            assert!(words(line).is_err(), "{line}");
        }
    }

    #[test]
    fn redirections_are_dropped_and_a_line_ends_the_command() {
        for line in [
            "curl -H b a 2>/dev/null",
            "curl -H b a 2>&1 | cat",
            "curl > out.json -H b 2>>'a b' a",
            "curl -H b a>out",
            "curl -H b a &>out",
            "curl -H b <in a >|out",
            "curl -H b a; exit",
            "curl -H b a && exit",
            "curl -H b a\necho hi",
            "curl -H b a\n\n-H b",
            "curl -H b a # why\necho hi",
            "\n\ncurl -H b a\n\necho hi",
            "curl\n  -H b a",
            "curl \\\n>   -H b \\\n> 'a' \\\n> out",
            "curl \\ \n -H b \\\t\r\n a\r\n",
        ] {
            assert_eq!(words(line).unwrap(), ["curl", "-H", "b", "a"], "{line}");
        }
        assert_eq!(words("curl a2>b").unwrap(), ["curl", "a2"]);
    }
}
