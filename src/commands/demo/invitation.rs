//! Commands to try while the demonstration is up, which work as printed.

use std::path::Path;

use anyhow::Context as _;

use super::super::call::client::TestParties;
use super::super::lab::Lab;
use super::super::play::{COLUMNS, Screen, Tone};
use crate::failure::Failure;

/// Indentation of a command's lines after the first.
const INDENT: &str = "  ";

/// Commands of one kind, and what they show.
struct Proposal {
    what: String,
    /// Commands, each with its words.
    commands: Vec<Vec<String>>,
}

/// Shows the commands.
pub(super) fn show(
    screen: Screen,
    lab: &Lab,
    parties: &TestParties,
    folder: &Path,
) -> Result<(), Failure> {
    let file = folder.join("lab.json");
    std::fs::write(&file, lab.description().to_string())?;
    let proposals = proposals(lab, parties, folder).map_err(Failure::Environment)?;
    screen.line(
        Tone::Plain,
        format_args!(
            "\nThe proxy is still running. Try it; Ctrl-C ends it and removes {}.",
            folder.display()
        ),
    );
    for Proposal { what, commands } in proposals {
        screen.line(Tone::Heading, format_args!("\n# {what}"));
        for words in commands {
            screen.copyable(&command(&words));
        }
    }
    screen.line(Tone::Heading, "\nRequests from now on are shown here.");
    Ok(())
}

fn proposals(lab: &Lab, parties: &TestParties, folder: &Path) -> anyhow::Result<Vec<Proposal>> {
    let program = word(&std::env::current_exe()?.display().to_string());
    let at = |name: &str| word(&folder.join(name).display().to_string());
    let practice = parties.practices.first().context("no practice")?;
    let patient = parties.patients.first().context("no patient")?;
    let (root, asid, ods) = (&practice.root, practice.asid.as_str(), practice.ods.as_str());
    let (address, admin, number) = (lab.address(), lab.admin(), patient.nhs_number.as_str());
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let ours = |text: &str| [vec![program.clone()], words(text)].concat();
    // An option stays on one line with its value.
    let with = |option: &str, name: &str| vec![format!("{option} {}", at(name))];
    let call = |text: &str| [ours("call"), words(text), with("--lab", "lab.json")].concat();
    let one = |what: &str, command: Vec<String>| Proposal {
        what: what.to_owned(),
        commands: vec![command],
    };
    let book = format!("book {ods} --patient {number} --earliest");
    let piped = |command: Vec<String>| [command, words("--curl | sh")].concat();
    let anonymous = format!("https://{address}/{root}/metadata");
    let anonymous =
        [words("curl -i --path-as-is"), with("--cacert", "ca.pem"), vec![anonymous]].concat();
    let lookup = [ours("lookup"), words(ods), with("--config", "spine-proxy.toml")].concat();
    let token = format!("\"Authorization: Bearer $(cat {})\"", at("admin.token"));
    let cache = [words("curl -H"), vec![token, format!("http://{admin}/directory")]].concat();
    let journal = |task: &str| [ours("audit"), words(task), vec![at("audit")]].concat();
    let fetch = |path: &str| words(&format!("curl http://{admin}/{path}"));
    let judged = [ours("conform --book"), with("--lab", "lab.json")].concat();
    let console = format!("What was refused and why: http://{admin}/console, with this token");
    let by_root = [
        ours(&format!("call metadata {ods}")),
        vec![format!("--root {root}")],
        words(&format!("--to {asid} --verbose")),
        with("--lab", "lab.json"),
    ]
    .concat();
    Ok(vec![
        one(&format!("Free slots at {}", practice.name), call(&format!("slots {ods}"))),
        one("A booking for the earliest of them", call(&book)),
        one("Another one, by curl: the command is made, and sent by the shell", piped(call(&book))),
        one("The appointments of that patient", call(&format!("appointments {ods} --patient {number}"))),
        one("The same practice by its service root, with both sides shown", by_root),
        one("The curl command for a request", call(&format!("metadata {ods} --curl"))),
        one("A consumer without an agreement: 403", call(&format!("slots {ods} --consumer clinic"))),
        one("No client certificate: 496", anonymous),
        Proposal {
            what: "A look-up of this practice, and the directory cache".to_owned(),
            commands: vec![lookup, cache],
        },
        one("Sessions and wrong requests, as another proxy would be judged", judged),
        one(&console, vec!["cat".to_owned(), at("admin.token")]),
        Proposal {
            what: "Metrics, readiness, audit journal (not proven: its checkpoints are not signed here)"
                .to_owned(),
            commands: vec![fetch("metrics"), fetch("readyz"), journal("query"), journal("verify")],
        },
    ])
}

/// Returns a text as one word of a POSIX shell.
fn word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    match text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// Returns the lines of a command, none wider than the screen, which a shell reads as one.
///
/// A line is broken between two words or, in a word that fits on none, within it: the shell joins the parts
/// where the next line begins without a space. A word in single quotes is never broken.
fn command(words: &[String]) -> Vec<String> {
    // The last column is the backslash's.
    let width = COLUMNS - 1;
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in words {
        if line.trim().is_empty() {
            line.push_str(word);
        } else if line.len() + 1 + word.len() < width {
            line = format!("{line} {word}");
        } else {
            lines.push(format!("{line} \\"));
            line = format!("{INDENT}{word}");
        }
        while line.len() > width && !word.starts_with('\'') && line.is_char_boundary(width) {
            // After a slash, if there is one beyond the indentation.
            let at = line.get(..width).and_then(|fitting| fitting.rfind('/'));
            let rest =
                line.split_off(at.filter(|at| *at > INDENT.len()).map_or(width, |at| at + 1));
            lines.push(format!("{line}\\"));
            line = rest;
        }
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_the_lines_of_a_command_as_its_words() {
        let long = format!("https://localhost:1/{}", "segment/".repeat(30));
        let quoted = format!("\"Authorization: Bearer {}\"", "x".repeat(120));
        let words = ["printf", "%s\\\\n", &long, "--lab", "a", &quoted, "'it'\\''s'", "b"];
        let words: Vec<_> = words.map(str::to_owned).to_vec();
        let lines = command(&words);
        assert!(lines.iter().all(|line| line.len() <= COLUMNS), "{lines:#?}");
        let run = std::process::Command::new("/bin/sh").args(["-c", &lines.join("\n")]).output();
        let printed = String::from_utf8(run.unwrap().stdout).unwrap();
        let unquoted = quoted.trim_matches('"');
        assert_eq!(printed, format!("{long}\n--lab\na\n{unquoted}\nit's\nb\n"));
    }
}
