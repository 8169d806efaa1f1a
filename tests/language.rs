//! The words of code and documents: private words that must not come back, and doc comments that can be
//! read alone.

use std::path::{Path, PathBuf};

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

fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|other| other == extension) {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty());
    found
}

/// Every source file.
fn sources() -> Vec<PathBuf> {
    [files("src", "rs"), files("crates", "rs")].concat()
}

/// The documents at the top, but for the changelog, which names what was renamed.
fn root_documents() -> [PathBuf; 3] {
    ["README.md", "SECURITY.md", "CONTRIBUTING.md"]
        .map(|name| Path::new(env!("CARGO_MANIFEST_DIR")).join(name))
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
    let is_doc = |line: &str| line.trim_start().starts_with("///");
    let lines: Vec<_> = text.lines().collect();
    let starts = (0..lines.len()).filter(move |at| {
        is_doc(lines[*at]) && !at.checked_sub(1).is_some_and(|before| is_doc(lines[before]))
    });
    let lines: Vec<_> = text.lines().collect();
    starts.map(move |at| (at + 1, lines[at].trim_start().trim_start_matches('/').trim()))
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

/// The stand-in for a client that a build leaves out has its name.
const SAME_NAME: [&str; 1] = ["SharedQuotas"];

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
