//! The properties of the fuzz targets, checked for every seed: those they start with, and those fuzzing has
//! found.
#![expect(clippy::print_stdout, reason = "a seed that fails is named by the last line printed")]

use std::collections::BTreeSet;
use std::path::Path;

#[path = "../fuzz/targets/claims.rs"]
mod claims;
#[path = "../fuzz/targets/config.rs"]
mod config;
#[path = "../fuzz/targets/connection.rs"]
mod connection;
#[path = "../fuzz/targets/crl.rs"]
mod crl;
#[path = "../fuzz/targets/explain.rs"]
mod explain;
#[path = "../fuzz/targets/head.rs"]
mod head;
#[path = "../fuzz/targets/interaction.rs"]
mod interaction;
#[path = "../fuzz/targets/outcome.rs"]
mod outcome;
#[path = "../fuzz/targets/provider_body.rs"]
mod provider_body;
#[path = "../fuzz/targets/proxy_header.rs"]
mod proxy_header;
#[path = "../fuzz/targets/sds_bundle.rs"]
mod sds_bundle;
#[path = "../fuzz/targets/target.rs"]
mod target;
#[path = "../fuzz/targets/trace_context.rs"]
mod trace_context;

type Property = fn(&[u8]);

/// Each property, and the folder of its seeds.
const TARGETS: [(&str, Property); 13] = [
    ("claims", claims::check),
    ("config", config::check),
    ("connection", connection::check),
    ("crl", crl::check),
    ("explain", explain::check),
    ("head", head::check),
    ("interaction", interaction::check),
    ("outcome", outcome::check),
    ("provider_body", provider_body::check),
    ("proxy_header", proxy_header::check),
    ("sds_bundle", sds_bundle::check),
    ("target", target::check),
    ("trace_context", trace_context::check),
];

/// The names in a folder, those of files without what follows the dot.
fn names(folder: &str) -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = std::fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().into())
        .collect()
}

fn replays(name: &str) {
    let (_, check) = TARGETS.iter().find(|(target, _)| *target == name).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    let entries = std::fs::read_dir(folder).unwrap();
    let mut seeds: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    seeds.sort();
    assert!(seeds.len() >= 5, "{} seeds", seeds.len());
    for seed in seeds {
        println!("{}", seed.display());
        check(&std::fs::read(seed).unwrap());
    }
}

#[test]
fn every_seed_of_claims_holds() {
    replays("claims");
}

#[test]
fn every_seed_of_config_holds() {
    replays("config");
}

#[test]
fn every_seed_of_connection_holds() {
    replays("connection");
}

#[test]
fn every_seed_of_crl_holds() {
    replays("crl");
}

#[test]
fn every_seed_of_explain_holds() {
    replays("explain");
}

#[test]
fn every_seed_of_head_holds() {
    replays("head");
}

#[test]
fn every_seed_of_interaction_holds() {
    replays("interaction");
}

#[test]
fn every_seed_of_outcome_holds() {
    replays("outcome");
}

#[test]
fn every_seed_of_provider_body_holds() {
    replays("provider_body");
}

#[test]
fn every_seed_of_proxy_header_holds() {
    replays("proxy_header");
}

#[test]
fn every_seed_of_sds_bundle_holds() {
    replays("sds_bundle");
}

#[test]
fn every_seed_of_target_holds() {
    replays("target");
}

#[test]
fn every_seed_of_trace_context_holds() {
    replays("trace_context");
}

#[test]
fn every_property_is_fuzzed_and_has_seeds() {
    let due: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    for folder in ["fuzz/targets", "fuzz/fuzz_targets", "fuzz/seeds"] {
        assert_eq!(names(folder), due, "{folder}");
    }
    let manifest = include_str!("../fuzz/Cargo.toml");
    for name in due {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
    }
}
