//! Words of a command line as a POSIX shell splits it: quotes, escapes, and `$'…'`. Nothing is expanded.

use std::iter::Peekable;
use std::str::Chars;

/// Splits a command line into words, up to an operator such as `|`.
///
/// # Errors
/// Returns a text for a quote that is not closed, or for a variable or command to expand.
pub(super) fn words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = line.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '|' | ';' | '&' | '<' | '>' => break,
            '#' if word.is_none() => {
                rest.by_ref().find(|character| *character == '\n');
            }
            '\\' => match rest.next() {
                Some('\n') => {}
                Some('\r') if rest.peek() == Some(&'\n') => drop(rest.next()),
                Some(escaped) => word.get_or_insert_default().push(escaped),
                None => return Err("the command ends with a backslash".to_owned()),
            },
            '\'' => quoted(&mut rest, word.get_or_insert_default())?,
            '"' => double_quoted(&mut rest, word.get_or_insert_default())?,
            '$' if rest.peek() == Some(&'\'') => {
                rest.next();
                ansi_quoted(&mut rest, word.get_or_insert_default())?;
            }
            '$' | '`' => expansion(character, &mut rest, word.get_or_insert_default())?,
            space if space.is_whitespace() => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}

const OPEN: &str = "a quote in the command is not closed";

fn quoted(rest: &mut Peekable<Chars<'_>>, word: &mut String) -> Result<(), String> {
    for character in rest {
        if character == '\'' {
            return Ok(());
        }
        word.push(character);
    }
    Err(OPEN.to_owned())
}

fn double_quoted(rest: &mut Peekable<Chars<'_>>, word: &mut String) -> Result<(), String> {
    while let Some(character) = rest.next() {
        match character {
            '"' => return Ok(()),
            '\\' => match rest.next() {
                Some(escaped @ ('"' | '\\' | '$' | '`')) => word.push(escaped),
                Some('\n') => {}
                Some(other) => word.extend(['\\', other]),
                None => break,
            },
            '$' | '`' => expansion(character, rest, word)?,
            other => word.push(other),
        }
    }
    Err(OPEN.to_owned())
}

/// Reads `$'…'` after its first quote.
fn ansi_quoted(rest: &mut Peekable<Chars<'_>>, word: &mut String) -> Result<(), String> {
    while let Some(character) = rest.next() {
        match character {
            '\'' => return Ok(()),
            '\\' => match rest.next() {
                Some('n') => word.push('\n'),
                Some('r') => word.push('\r'),
                Some('t') => word.push('\t'),
                Some('x') => word.extend(code(rest, 2)),
                Some('u') => word.extend(code(rest, 4)),
                Some('U') => word.extend(code(rest, 8)),
                Some(other) => word.push(other),
                None => break,
            },
            other => word.push(other),
        }
    }
    Err(OPEN.to_owned())
}

/// Reads a character's code of at most `digits` hexadecimal digits.
fn code(rest: &mut Peekable<Chars<'_>>, digits: usize) -> Option<char> {
    let mut code = 0;
    for _ in 0..digits {
        let Some(digit) = rest.peek().and_then(|digit| digit.to_digit(16)) else { break };
        code = code * 16 + digit;
        rest.next();
    }
    char::from_u32(code)
}

/// Refuses what a shell would expand; a `$` that begins no name stands for itself, as in a shell.
fn expansion(sign: char, rest: &mut Peekable<Chars<'_>>, word: &mut String) -> Result<(), String> {
    let begins = |next: &char| next.is_alphabetic() || matches!(next, '_' | '{' | '(');
    if sign == '$' && !rest.peek().is_some_and(begins) {
        word.push('$');
        return Ok(());
    }
    Err("the command has a variable or another command to expand: paste its value instead"
        .to_owned())
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
            ("curl a''b\"\" ''", &["curl", "ab", ""]),
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
            "curl $TOKEN",
            "curl \"${A}\"",
            "curl `a`",
            "curl \\",
        ] {
            assert!(words(line).is_err(), "{line}");
        }
    }
}
