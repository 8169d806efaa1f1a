//! Allowed imports between modules, and names that deciding modules may not use.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use testkit::repository::{files, root};

/// Every module, and the modules it may import. An arrow that is not here fails the test; so does one
/// that is here and no longer used, so that the table stays the truth.
const TABLE: &[(&str, &[&str])] = &[
    (
        "admin",
        &[
            "audit",
            "directory",
            "gateway",
            "hex",
            "log",
            "metrics",
            "refusal",
            "reloads",
            "tls",
            "traffic",
        ],
    ),
    (
        "audit",
        &[
            "claims",
            "consumers",
            "metrics",
            "outbound",
            "policy",
            "refusal",
            "registry",
            "request",
            "tls",
            "traces",
            "traffic",
        ],
    ),
    ("breaker", &[]),
    ("claims", &["refusal"]),
    (
        "commands",
        &[
            "audit",
            "claims",
            "config",
            "directory",
            "failure",
            "gateway",
            "listener",
            "log",
            "metrics",
            "outbound",
            "policy",
            "refusal",
            "registry",
            "reloads",
            "request",
            "server",
            "tls",
            "traffic",
        ],
    ),
    (
        "config",
        &[
            "audit",
            "claims",
            "directory",
            "forward",
            "hex",
            "listener",
            "policy",
            "refusal",
            "request",
            "sharing",
            "throttle",
            "tls",
            "traces",
        ],
    ),
    ("consumers", &["refusal", "registry", "tls"]),
    ("directory", &["breaker", "metrics", "refusal", "registry", "sharing", "tls"]),
    ("failure", &[]),
    ("forward", &["audit", "metrics", "policy", "refusal", "request", "throttle", "tls", "traces"]),
    ("fuzzing", &["commands", "directory", "listener", "refusal", "tls", "traces"]),
    (
        "gateway",
        &[
            "audit",
            "breaker",
            "claims",
            "consumers",
            "directory",
            "forward",
            "metrics",
            "policy",
            "refusal",
            "registry",
            "request",
            "throttle",
            "tls",
        ],
    ),
    ("hex", &[]),
    ("listener", &["gateway", "metrics", "refusal", "request", "tls"]),
    ("log", &["config"]),
    ("metrics", &["refusal"]),
    ("outbound", &[]),
    ("policy", &["claims", "consumers", "refusal", "registry"]),
    ("refusal", &[]),
    ("registry", &["hex"]),
    ("reloads", &[]),
    ("request", &["refusal"]),
    (
        "server",
        &[
            "admin",
            "audit",
            "config",
            "directory",
            "failure",
            "forward",
            "gateway",
            "listener",
            "log",
            "metrics",
            "registry",
            "reloads",
            "request",
            "sharing",
            "throttle",
            "tls",
            "traces",
        ],
    ),
    ("sharing", &["metrics", "tls"]),
    ("throttle", &["breaker", "metrics", "refusal", "sharing", "tls"]),
    ("tls", &["hex", "refusal"]),
    ("traces", &["metrics", "outbound", "tls"]),
    ("traffic", &["metrics", "refusal", "tls"]),
];

/// Modules that decide, and the words that they may not use: no waiting, no sockets, no files, no clock.
const PURE: [&str; 5] = ["claims", "consumers", "policy", "refusal", "request"];
const IMPURE: [&str; 8] =
    ["async ", ".await", "tokio::", "hyper::", "std::fs", "std::net::Tcp", "::now()", "std::env"];

/// The code of each module of a crate, tests at the foot of its files left out.
fn modules(folder: &str) -> BTreeMap<String, String> {
    let mut modules: BTreeMap<String, String> = BTreeMap::new();
    for path in files(folder, "rs") {
        let inside = path.strip_prefix(root().join(folder)).unwrap();
        let module = inside.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = modules.entry(module.trim_end_matches(".rs").to_owned()).or_default();
        module.push_str(&code_of(&path));
    }
    modules.retain(|module, _| module != "lib" && module != "main");
    modules
}

/// Modules named after `crate::`, alone or in braces.
fn imports(code: &str, modules: &BTreeSet<&str>) -> BTreeSet<String> {
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
            if modules.contains(name) {
                found.insert(name.to_owned());
            }
        }
    }
    found
}

#[test]
fn modules_import_only_what_the_table_allows() {
    let code = modules("src");
    let table: BTreeMap<_, _> = TABLE.iter().copied().collect();
    let names: BTreeSet<&str> = table.keys().copied().collect();
    let there: BTreeSet<&str> = code.keys().map(String::as_str).collect();
    assert_eq!(there, names, "a module is missing from the table or from src");
    for (module, code) in &code {
        let mut found = imports(code, &names);
        found.remove(module);
        let allowed: BTreeSet<String> =
            table[module.as_str()].iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(found, allowed, "imports of {module}");
    }
}

#[test]
fn modules_that_decide_do_not_wait_and_do_not_look_at_the_clock() {
    for (module, code) in modules("src") {
        if PURE.contains(&module.as_str()) {
            for word in IMPURE {
                assert!(!code.contains(word), "{module} says {word:?}");
            }
        }
    }
}

/// The code of a file, its comments left out.
fn code_of(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let code = text.split("\nmod tests {").next().unwrap();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_rules_of_freshness_are_pure_and_sources_know_neither_cache_nor_look_ups() {
    let rules = code_of(&root().join("src/directory/cache/freshness.rs"));
    for word in IMPURE.into_iter().chain(["moka::", "metrics"]) {
        assert!(!rules.contains(word), "{word:?}");
    }
    for path in files("src/directory/sources", "rs") {
        let code = code_of(&path);
        for word in ["cache::", "lookups::", "practice::", "sender::", "moka::"] {
            assert!(!code.contains(word), "{} says {word:?}", path.display());
        }
    }
}

#[test]
fn no_module_has_a_vague_name() {
    for name in modules("src").keys() {
        for vague in ["utils", "common", "helpers", "types", "handlers", "manager"] {
            assert!(!name.contains(vague), "{name}");
        }
    }
}

/// The doctest of `Permit` fails to compile for its private fields alone: it names them all.
#[test]
fn a_permits_fields_are_private_and_its_doctest_names_each() {
    let policy = root().join("src/policy.rs");
    let policy = std::fs::read_to_string(policy).unwrap();
    let (before, after) = policy.split_once("pub struct Permit {\n").unwrap();
    let (fields, _) = after.split_once("\n}").unwrap();
    let names: Vec<_> =
        fields.lines().map(|field| field.trim().split_once(':').unwrap().0).collect();
    assert!(names.iter().all(|name| !name.contains(' ')), "public: {names:?}");
    assert!(before.contains(&format!("Permit {{ {} }}", names.join(", "))), "{names:?}");
}

/// Every function (`Type::function` or `module::function`) and file that `docs/architecture.md` names is there.
#[test]
fn the_functions_and_files_that_the_architecture_document_names_exist() {
    let root = root();
    let document = std::fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let mut modules = modules("src");
    modules.append(&mut self::modules("crates/spine-types/src"));
    modules.append(&mut self::modules("crates/gpconnect-simulator/src"));
    modules.append(&mut self::modules("crates/audit-journal/src"));
    let code: String = modules.values().map(String::as_str).collect();
    let is_part = |character: char| !(character.is_alphanumeric() || "_:./".contains(character));
    let mut named = 0;
    for word in document.split(is_part).map(|word| word.trim_matches(['.', ':', '/'])) {
        if let Some((owner, function)) = word.split_once("::") {
            assert!(code.contains(&format!("fn {function}")), "{word}");
            let is_module = modules.contains_key(owner) || owner == "headers";
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

/// The names of the packages that a build holds.
fn packages(arguments: &[&str]) -> BTreeSet<String> {
    let tree = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--edges", "normal", "--prefix", "none"])
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).unwrap();
    tree.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// Tools that list the parts of a production build see the features of dev-dependencies too.
#[test]
fn the_test_kit_asks_for_no_feature_of_the_gateway() {
    let manifest = std::fs::read_to_string(root().join("crates/testkit/Cargo.toml")).unwrap();
    let gateway = manifest.lines().find(|line| line.starts_with("spine-proxy = ")).unwrap();
    assert_eq!(gateway, "spine-proxy = { workspace = true }");
    let workspace = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(workspace.contains("spine-proxy = { path = \".\", default-features = false }\n"));
}

#[test]
fn a_production_build_holds_no_stand_in() {
    const STAND_INS: [&str; 3] = ["gpconnect-simulator", "quick-xml", "rcgen"];
    let root = ["--package", "spine-proxy"];
    let whole = packages(&root);
    assert!(STAND_INS.iter().all(|name| whole.contains(*name)), "they are in a default build");
    let production = packages(
        &[&root[..], &["--no-default-features", "--features", "ldap,otel,redis"]].concat(),
    );
    assert!(production.len() > 100);
    for name in STAND_INS {
        assert!(!production.contains(name), "{name}");
    }
    let optional = ["ldap3", "opentelemetry-proto", "redis"];
    assert!(optional.iter().all(|name| production.contains(*name)));
    let least = packages(&[&root[..], &["--no-default-features"]].concat());
    assert!(!optional.iter().any(|name| least.contains(*name)));
}

#[test]
fn identifiers_need_no_runtime() {
    let types = packages(&["--package", "spine-types"]);
    assert!(types.contains("thiserror") && !types.contains("tokio") && !types.contains("hyper"));
}
