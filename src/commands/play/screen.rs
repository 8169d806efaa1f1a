//! Lines for people, at most [`COLUMNS`] wide, in colour where a terminal shows them.

use std::fmt::Display;
use std::io::{self, Write as _};

use super::super::output::print_styled;
use crate::log::has_colours;
use spine_types::{masked, printable};

/// Width of the lines, in characters.
pub(in crate::commands) const COLUMNS: usize = 100;

/// Place where lines are shown.
#[derive(Debug, Clone, Copy)]
pub(in crate::commands) struct Screen {
    is_error: bool,
    has_colours: bool,
}

/// Tone of a line, which colours stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::commands) enum Tone {
    /// A line like any other.
    Plain,
    /// A heading, above other lines.
    Heading,
    /// A detail of another line.
    Faint,
    /// A result as expected.
    Good,
    /// A refusal, or a case that is left out.
    Warn,
    /// A result that is not as expected.
    Bad,
}

impl Tone {
    /// Returns the parameters of the terminal's sequence (ECMA-48, SGR) for this tone.
    const fn parameters(self) -> &'static str {
        match self {
            Self::Plain => "0",
            Self::Heading => "1",
            Self::Faint => "2",
            Self::Good => "32",
            Self::Warn => "33",
            Self::Bad => "1;31",
        }
    }
}

impl Screen {
    /// Returns standard output.
    pub(in crate::commands) fn stdout() -> Self {
        Self { is_error: false, has_colours: has_colours(&io::stdout()) }
    }

    /// Returns standard error.
    pub(in crate::commands) fn stderr() -> Self {
        Self { is_error: true, has_colours: has_colours(&io::stderr()) }
    }

    /// Shows a text in lines; those after the first are indented like it. A line feed at its start is an empty line
    /// before it.
    pub(in crate::commands) fn line(&self, tone: Tone, text: impl Display) {
        let text = shown(&text.to_string());
        let text = text.strip_prefix('\n').inspect(|_| self.put("")).unwrap_or(&text);
        for line in wrapped(text) {
            self.put(&self.toned(tone, &line));
        }
    }

    /// Shows a line that begins with a word in a tone.
    pub(in crate::commands) fn marked(&self, tone: Tone, mark: &str, text: impl Display) {
        let all = format!("{mark}{}", shown(&text.to_string()));
        for (number, line) in wrapped(&all).into_iter().enumerate() {
            match line.strip_prefix(mark).filter(|_| number == 0) {
                Some(rest) => self.put(&format!("{}{rest}", self.toned(tone, mark))),
                None => self.put(&line),
            }
        }
    }

    /// Shows the lines of a command as they are, so that they can be copied.
    pub(in crate::commands) fn copyable(&self, lines: &[String]) {
        for line in lines {
            self.put(line);
        }
    }

    fn toned(&self, tone: Tone, text: &str) -> String {
        if !self.has_colours || tone == Tone::Plain || text.is_empty() {
            return text.to_owned();
        }
        format!("\x1b[{}m{text}\x1b[0m", tone.parameters())
    }

    fn put(&self, line: &str) {
        match self.is_error {
            true => writeln!(io::stderr(), "{line}").unwrap_or_default(),
            false => print_styled(line),
        }
    }
}

/// Returns a text as a screen shows it: NHS numbers in it are masked, since it may be from an answer.
fn shown(text: &str) -> String {
    printable(&masked(text, usize::MAX)).into_owned()
}

/// Breaks a text into lines of at most [`COLUMNS`] characters, at spaces; a longer word is broken before its last
/// slash that fits.
fn wrapped(text: &str) -> Vec<String> {
    let indent = text.chars().take_while(|c| *c == ' ').count();
    let mut lines: Vec<String> = Vec::new();
    let mut line = " ".repeat(indent);
    for word in text.trim_start_matches(' ').split(' ') {
        let is_empty = line.chars().all(|c| c == ' ');
        let width = line.chars().count() + usize::from(!is_empty) + word.chars().count();
        if width > COLUMNS && !is_empty {
            lines.push(std::mem::replace(&mut line, " ".repeat(indent)));
        } else if !is_empty {
            line.push(' ');
        }
        let mut rest = word;
        while line.chars().count() + rest.chars().count() > COLUMNS {
            let room = COLUMNS.saturating_sub(line.chars().count());
            let fits = rest.char_indices().nth(room).map_or(rest.len(), |(at, _)| at);
            let fitting = rest.get(..fits).unwrap_or_default();
            // The slashes of `https://` stay together.
            let is_single = |at: &usize| {
                let (before, after) = (rest.get(..*at), rest.get(at + 1..));
                !before.is_none_or(|before| before.is_empty() || before.ends_with('/'))
                    && !after.is_some_and(|after| after.starts_with('/'))
            };
            let at = fitting.rmatch_indices('/').map(|(at, _)| at).find(is_single);
            let (now, later) = rest.split_at(at.unwrap_or(fits));
            line.push_str(now);
            lines.push(std::mem::replace(&mut line, " ".repeat(indent)));
            rest = later;
        }
        line.push_str(rest);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_stand_around_a_whole_line_or_its_mark_and_only_where_they_are_shown() {
        let screen = |has_colours| Screen { is_error: false, has_colours };
        assert_eq!(screen(true).toned(Tone::Good, "ok"), "\u{1b}[32mok\u{1b}[0m");
        assert_eq!(screen(true).toned(Tone::Plain, "ok"), "ok");
        assert_eq!(screen(true).toned(Tone::Good, ""), "");
        assert_eq!(screen(false).toned(Tone::Good, "ok"), "ok");
    }

    #[test]
    fn a_long_text_is_broken_at_spaces_and_a_long_word_before_a_slash() {
        let text = format!("   {} {}", "word ".repeat(30).trim(), "/segment".repeat(15));
        let lines = wrapped(&text);
        assert!(lines.len() > 2, "{lines:#?}");
        assert!(lines.iter().all(|line| line.chars().count() <= COLUMNS), "{lines:#?}");
        assert!(lines.iter().all(|line| line.starts_with("   ")), "{lines:#?}");
        let joined: Vec<_> = lines.iter().map(|line| line.trim()).collect();
        assert_eq!(joined.join("").replace(' ', ""), text.replace(' ', ""));
        assert!(lines.last().is_some_and(|line| line.trim().starts_with("/segment")));
        assert_eq!(wrapped("short"), ["short"]);
        assert_eq!(wrapped(""), [""]);
        assert!(wrapped(&"x".repeat(250)).iter().all(|line| line.len() <= COLUMNS));
    }
}
