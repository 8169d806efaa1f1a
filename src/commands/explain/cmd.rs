//! Words of a command line for cmd.exe on Windows: carets and redirections as cmd reads them, then quotes as the
//! C runtime of the program does.

use std::iter::Peekable;
use std::str::Chars;

/// Returns true if a command is written for cmd, as browsers copy it: its first quote has a caret, or is a double one
/// and the first line ends with a caret.
pub(super) fn is_for_cmd(command: &str) -> bool {
    let quote = command.find(['\'', '"', '^']).and_then(|at| command.get(at..));
    let line = command.lines().next().unwrap_or_default();
    match quote {
        Some(quote) if quote.starts_with('\'') => false,
        Some(quote) => quote.starts_with("^\"") || line.trim_end().ends_with('^'),
        None => false,
    }
}

/// Splits the first command of a text into words, without redirections.
///
/// # Errors
/// Returns a text for a quote that is not closed.
pub(super) fn words(command: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word) = (Vec::new(), None::<String>);
    let mut is_quoted = false;
    let line = unescaped(command);
    let mut rest = line.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '\\' => {
                let mut count = 1;
                while rest.next_if_eq(&'\\').is_some() {
                    count += 1;
                }
                let is_quote = rest.peek() == Some(&'"');
                let kept = if is_quote { count / 2 } else { count };
                word.get_or_insert_default().extend(std::iter::repeat_n('\\', kept));
                if is_quote && count % 2 == 1 {
                    word.get_or_insert_default().extend(rest.next());
                }
            }
            '"' if is_quoted && rest.next_if_eq(&'"').is_some() => {
                word.get_or_insert_default().push('"');
            }
            '"' => {
                is_quoted = !is_quoted;
                word.get_or_insert_default();
            }
            space if space.is_whitespace() && !is_quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    if is_quoted {
        return Err("a quote in the command is not closed".to_owned());
    }
    words.extend(word);
    Ok(words)
}

/// Returns the first command's line as cmd hands it to a program.
fn unescaped(command: &str) -> String {
    let mut line = String::new();
    let mut is_quoted = false;
    let mut rest = command.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '"' => {
                is_quoted = !is_quoted;
                line.push('"');
            }
            '^' if !is_quoted => line.extend(escaped(&mut rest)),
            '<' | '>' if !is_quoted => {
                let before = line.trim_end_matches(|last: char| last.is_ascii_digit());
                if before.ends_with(char::is_whitespace) {
                    line.truncate(before.len());
                }
                while rest.next_if(|next| matches!(next, '>' | '&' | ' ')).is_some() {}
                while rest.next_if(|next| !next.is_whitespace()).is_some() {}
            }
            '&' | '|' | '\n' if !is_quoted => break,
            other => line.push(other),
        }
    }
    line
}

/// Reads what a caret escapes. After the end of a line it is the next character, which may be another such end.
fn escaped(rest: &mut Peekable<Chars<'_>>) -> Option<char> {
    let mut after_end = || {
        rest.next_if_eq(&'\r');
        rest.next_if_eq(&'\n')
    };
    if after_end().is_some() {
        return after_end();
    }
    rest.next()
}

#[cfg(test)]
mod tests {
    use super::{is_for_cmd, words};

    #[test]
    fn words_are_split_as_windows_does() {
        for (command, split) in [
            (
                "curl --insecure ^\"https://h/x?a=b^&c=%^41^\" ^\r\n  -H ^\"A: b^\"",
                &["curl", "--insecure", "https://h/x?a=b&c=%41", "-H", "A: b"][..],
            ),
            (
                "curl.exe \"https://h/x?a=b&c=^d\" ^\n  -H \"A: b\" ^\n  --compressed\n\necho hi",
                &["curl.exe", "https://h/x?a=b&c=^d", "-H", "A: b", "--compressed"],
            ),
            (
                "curl --data-raw ^\"^{^\\^\"a^\\^\":^\\^\"C:^\\^\\^\\^\\d^\\^\"^}^\n\n^\" ^\n x",
                &["curl", "--data-raw", "{\"a\":\"C:\\\\\\\\d\"}\n", "x"],
            ),
            (
                "curl ^\n -d \"{\"\"a\"\":1}\" > out.json 2>&1 -H \"A: \\\\\" x | more",
                &["curl", "-d", "{\"a\":1}", "-H", "A: \\", "x"],
            ),
        ] {
            assert!(is_for_cmd(command), "{command}");
            assert_eq!(words(command).unwrap(), split, "{command}");
        }
        assert!(words("curl ^\"a").is_err());
        for command in ["curl 'a^\"'", "curl 'a^\n'", "curl \"a\" \\\n -d ^\"", "curl https://h"] {
            assert!(!is_for_cmd(command), "{command}");
        }
    }
}
