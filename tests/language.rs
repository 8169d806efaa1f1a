//! Language of code and documents: private words that must not come back, and doc comments that stand alone.

use std::path::PathBuf;

use testkit::repository::{files, root, sources};

/// Words that stood for something that has a name of its own, each with that name.
const PRIVATE_WORDS: &[(&str, &str)] = &[
    ("bereft", "lost segment"),
    ("crowd", "exchanges in flight"),
    ("haste", "priority"),
    ("herald", "progress of a look-up"),
    ("knock", "certificate rate"),
    ("outbox", "queue of lines"),
    ("scribe", "the journal's thread"),
    ("seat", "connection server"),
    ("sheet", "fields of a record"),
    ("shelf", "cache"),
    ("spared", "circuit open"),
    ("sparing", "circuit breaker"),
    ("bench of", "worker"),
    ("this room", "this module"),
    ("misfit", "mismatch"),
    ("misnamed", "mismatch"),
    ("misdirected", "mismatch"),
    ("besieged", "under load"),
];

/// Openings that leave a doc comment without a subject when it is read alone.
const OPENINGS: &[&str] = &[
    "What", "Who", "Whose", "Whom", "Whether", "Where", "Why", "How", "When", "The same",
    "Nothing", "Nobody",
];

/// The documents at the top, but for the changelog, which names what was renamed.
fn root_documents() -> [PathBuf; 3] {
    ["README.md", "SECURITY.md", "CONTRIBUTING.md"].map(|name| root().join(name))
}

fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_');
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

#[test]
fn private_words_do_not_come_back() {
    let mut found = Vec::new();
    for path in sources().into_iter().chain(files("docs", "md")).chain(root_documents()) {
        let text = std::fs::read_to_string(&path).unwrap().to_lowercase();
        for (number, line) in text.lines().enumerate() {
            for (word, instead) in PRIVATE_WORDS.iter().filter(|(word, _)| has_word(line, word)) {
                let number = number + 1;
                found.push(format!("{}:{number}: {word:?}: say {instead}", path.display()));
            }
        }
    }
    assert!(found.is_empty(), "{} of them:\n{}", found.len(), found.join("\n"));
}

/// The first lines of doc comments, each with its line's number, from 1.
fn doc_comments(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_within = false;
    text.lines().zip(1..).filter_map(move |(line, number)| {
        let line = line.trim_start();
        let comment = line.strip_prefix("///").or_else(|| line.strip_prefix("//!"));
        let is_first = !is_within;
        is_within = comment.is_some();
        comment.filter(|_| is_first).map(|comment| (number, comment.trim()))
    })
}

#[test]
fn doc_comments_can_be_read_alone() {
    let mut found = Vec::new();
    for path in sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        for (line, comment) in doc_comments(&text) {
            let opens = |opening: &&&str| {
                comment
                    .strip_prefix(**opening)
                    .is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric()))
            };
            let opening = OPENINGS.iter().find(opens);
            if opening.is_some() || comment.split_whitespace().count() < 3 {
                found.push(format!("{}:{line}: {comment}", path.display()));
            }
        }
    }
    assert!(found.is_empty(), "{} of them:\n{}", found.len(), found.join("\n"));
}

/// The stand-in for a part that a build leaves out has its name.
const SAME_NAME: [&str; 2] = ["RedisClient", "SpanEncoder"];

#[test]
fn no_two_types_have_one_name() {
    let mut found = std::collections::BTreeMap::<String, Vec<String>>::new();
    for path in sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        for line in text.lines() {
            let words: Vec<_> = line.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            let words =
                words.iter().skip_while(|word| ["pub", "crate", "super", "in", ""].contains(*word));
            let [kind, name] = *words.take(2).collect::<Vec<_>>() else { continue };
            let is_type = ["struct", "enum", "trait", "union"].contains(kind);
            if is_type && !line.starts_with(' ') && !SAME_NAME.contains(name) {
                found.entry((*name).to_owned()).or_default().push(path.display().to_string());
            }
        }
    }
    assert!(found.len() > 400, "{}", found.len());
    found.retain(|_, places| places.len() > 1);
    assert!(found.is_empty(), "{found:#?}");
}
