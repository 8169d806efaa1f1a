//! Who may know whom: the import table, and what the pure rooms may not name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Every room, and the rooms it may import. An arrow that is not here fails the test; so does one
/// that is here and no longer used, so that the table stays the truth.
const TABLE: &[(&str, &[&str])] = &[
    ("admin", &["audit", "directory", "gateway", "metrics", "spine", "tls"]),
    (
        "audit",
        &[
            "claims",
            "consumers",
            "interaction",
            "metrics",
            "policy",
            "refusal",
            "request",
            "spine",
            "tls",
        ],
    ),
    ("breaker", &[]),
    ("claims", &["interaction", "refusal", "spine"]),
    (
        "commands",
        &[
            "admin",
            "audit",
            "claims",
            "config",
            "directory",
            "forward",
            "gateway",
            "interaction",
            "listener",
            "metrics",
            "refusal",
            "request",
            "simulator",
            "spine",
            "throttle",
            "tls",
        ],
    ),
    (
        "config",
        &[
            "audit",
            "claims",
            "directory",
            "forward",
            "interaction",
            "listener",
            "policy",
            "refusal",
            "request",
            "spine",
            "throttle",
            "tls",
        ],
    ),
    ("consumers", &["interaction", "refusal", "spine", "tls"]),
    (
        "directory",
        &[
            "breaker",
            "consumers",
            "interaction",
            "metrics",
            "policy",
            "refusal",
            "spine",
            "target",
            "tls",
        ],
    ),
    (
        "forward",
        &[
            "audit",
            "interaction",
            "metrics",
            "policy",
            "refusal",
            "request",
            "spine",
            "throttle",
            "tls",
        ],
    ),
    ("fuzzing", &["directory", "interaction", "listener", "refusal", "spine", "tls"]),
    (
        "gateway",
        &[
            "audit",
            "breaker",
            "claims",
            "consumers",
            "directory",
            "forward",
            "interaction",
            "metrics",
            "policy",
            "refusal",
            "request",
            "spine",
            "target",
            "throttle",
            "tls",
        ],
    ),
    ("interaction", &["refusal"]),
    ("listener", &["gateway", "metrics", "refusal", "request", "spine", "tls"]),
    ("metrics", &["interaction", "refusal"]),
    ("policy", &["claims", "consumers", "interaction", "refusal", "spine", "target"]),
    ("refusal", &["spine"]),
    ("request", &["interaction", "refusal", "spine", "target"]),
    ("simulator", &["interaction", "spine"]),
    ("spine", &[]),
    ("target", &["refusal", "spine"]),
    ("throttle", &["breaker", "interaction", "metrics", "refusal", "spine", "tls"]),
    ("tls", &["refusal", "spine"]),
];

/// Rooms that decide, and words: no waiting, no sockets, no files, no clock.
const PURE: [&str; 8] =
    ["claims", "consumers", "interaction", "policy", "refusal", "request", "spine", "target"];
const IMPURE: [&str; 8] =
    ["async ", ".await", "tokio::", "hyper::", "std::fs", "std::net::Tcp", "::now()", "std::env"];

/// Each room's code, tests at its foot left out.
fn rooms() -> BTreeMap<String, String> {
    let mut rooms: BTreeMap<String, String> = BTreeMap::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), None, &mut rooms);
    rooms.retain(|room, _| room != "lib" && room != "main");
    rooms
}

fn walk(folder: &Path, room: Option<&str>, rooms: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let room = room.unwrap_or(&stem);
        if path.is_dir() {
            walk(&path, Some(room), rooms);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            let code: Vec<_> = lines.collect();
            rooms.entry(room.to_owned()).or_default().push_str(&code.join("\n"));
        }
    }
}

/// Rooms named after `crate::`, alone or in braces.
fn imports(code: &str, rooms: &BTreeSet<&str>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let named = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap().to_owned(),
            None => {
                rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap().to_owned()
            }
        };
        for name in named.split(',') {
            let name = name.split("::").next().unwrap().trim();
            if rooms.contains(name) {
                found.insert(name.to_owned());
            }
        }
    }
    found
}

#[test]
fn rooms_import_what_the_table_says_and_nothing_else() {
    let code = rooms();
    let table: BTreeMap<_, _> = TABLE.iter().copied().collect();
    let names: BTreeSet<&str> = table.keys().copied().collect();
    let there: BTreeSet<&str> = code.keys().map(String::as_str).collect();
    assert_eq!(there, names, "a room is missing from the table, or from the house");
    for (room, code) in &code {
        let mut found = imports(code, &names);
        found.remove(room);
        let allowed: BTreeSet<String> =
            table[room.as_str()].iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(found, allowed, "imports of {room}");
    }
}

#[test]
fn rooms_that_decide_do_not_wait_and_do_not_look_at_the_clock() {
    for (room, code) in rooms() {
        if PURE.contains(&room.as_str()) {
            for word in IMPURE {
                assert!(!code.contains(word), "{room} says {word:?}");
            }
        }
    }
}

#[test]
fn no_room_is_a_cupboard() {
    for name in rooms().keys() {
        for cupboard in ["utils", "common", "helpers", "types", "handlers", "manager"] {
            assert!(!name.contains(cupboard), "{name}");
        }
    }
}

/// The doctest of `Permit` fails to compile for its private fields alone: it names them all.
#[test]
fn a_permits_fields_are_private_and_its_doctest_names_each() {
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/policy.rs");
    let policy = std::fs::read_to_string(policy).unwrap();
    let (before, after) = policy.split_once("pub struct Permit {\n").unwrap();
    let (fields, _) = after.split_once("\n}").unwrap();
    let names: Vec<_> =
        fields.lines().map(|field| field.trim().split_once(':').unwrap().0).collect();
    assert!(names.iter().all(|name| !name.contains(' ')), "public: {names:?}");
    assert!(before.contains(&format!("Permit {{ {} }}", names.join(", "))), "{names:?}");
}

/// What `docs/architecture.md` names is there: functions as `Type::function` or `module::function`, and files.
#[test]
fn the_functions_and_files_that_the_architecture_document_names_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = std::fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let code: String = rooms().into_values().collect();
    let is_part = |character: char| !(character.is_alphanumeric() || "_:./".contains(character));
    let mut named = 0;
    for word in document.split(is_part).map(|word| word.trim_matches(['.', ':', '/'])) {
        if let Some((owner, function)) = word.split_once("::") {
            assert!(code.contains(&format!("fn {function}")), "{word}");
            let is_module = rooms().contains_key(owner) || owner == "headers";
            let is_type =
                ["struct ", "enum "].iter().any(|kind| code.contains(&format!("{kind}{owner}")));
            assert!(is_module || is_type, "{word}");
            named += 1;
        } else if word.ends_with(".rs") {
            let is_there =
                [root.join(word), root.join("src").join(word)].iter().any(|file| file.exists());
            assert!(is_there, "{word}");
            named += 1;
        }
    }
    assert!(named > 30, "{named}");
}
