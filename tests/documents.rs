//! The README says what the code does: its refusals, its metrics, its two commands.

use std::collections::BTreeSet;

use spine_proxy::metrics::Metrics;
use spine_proxy::refusal::{self, BodyFamily};

const README: &str = include_str!("../README.md");

/// The README between `<!-- name -->` and `<!-- /name -->`.
fn section(name: &str) -> &'static str {
    let (_, rest) = README.split_once(&format!("<!-- {name} -->\n")).expect("the opening marker");
    rest.split_once(&format!("<!-- /{name} -->")).expect("the closing marker").0
}

/// The cells of a table's rows, without its heading.
fn rows(table: &str) -> Vec<Vec<&str>> {
    let lines = table.lines().filter(|line| line.starts_with('|')).skip(2);
    lines.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

const fn body(family: BodyFamily) -> &'static str {
    match family {
        BodyFamily::Spine => "SSP",
        BodyFamily::SpineMethod => "SSP 405",
        BodyFamily::GpConnect => "GP Connect",
    }
}

/// Every name under our prefix.
fn metric_names(text: &str) -> BTreeSet<String> {
    const PREFIX: &str = "spine_proxy_";
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    text.match_indices(PREFIX)
        .filter_map(|(at, _)| text.get(at..)?.split(|c| !is_name(c)).next())
        .map(str::to_owned)
        .collect()
}

/// The commands in the README's shell blocks, without comments and empty lines.
fn commands() -> Vec<&'static str> {
    let blocks = README.split("```sh\n").skip(1).filter_map(|block| block.split("```").next());
    let lines = blocks.flat_map(str::lines).map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

#[test]
fn the_readme_lists_every_refusal() {
    let written = rows(section("refusals"));
    let every = refusal::every();
    for (row, refusal) in written.iter().zip(&every) {
        let meant = refusal.row();
        let (token, status) = (format!("`{}`", meant.token), meant.status.to_string());
        let meant = [&token, &status, meant.issue, meant.code, body(meant.family)];
        assert_eq!(row.len(), 6, "{row:?}");
        assert_eq!(row[..5], meant, "the row of {token}");
        assert!(!row[5].is_empty(), "nothing says what to do about {token}");
    }
    assert_eq!(written.len(), every.len());
}

#[test]
fn the_readme_lists_every_metric_and_no_other() {
    let (text, _) = Metrics::new().text();
    let types = text.lines().filter(|line| line.starts_with("# TYPE "));
    let mut ours: BTreeSet<String> = types.flat_map(metric_names).collect();
    // A metric whose labels are files has no series before a first load.
    ours.insert("spine_proxy_certificate_not_after_timestamp_seconds".to_owned());
    ours.insert("spine_proxy_crl_next_update_timestamp_seconds".to_owned());
    assert_eq!(metric_names(README), ours);
}

#[test]
fn the_readme_begins_with_its_two_commands() {
    let [demo, test, ..] = *commands() else { panic!("fewer than two commands") };
    assert_eq!(demo, "cargo run --release -- demo --once");
    assert_eq!(test, "cargo test");
}

#[test]
fn the_readme_says_of_every_consumer_seen_what_it_gets() {
    let written = rows(section("consumers"));
    assert!(!written.is_empty());
    let tokens: BTreeSet<_> = refusal::every().iter().map(|refusal| refusal.row().token).collect();
    for row in &written {
        assert_eq!(row.len(), 5, "{row:?}");
        assert!(row.iter().all(|cell| !cell.is_empty()), "{row:?}");
        // What is said to be refused is refused by a token that exists.
        for (_, code) in row[2].split('`').enumerate().filter(|(at, _)| at % 2 == 1) {
            assert!(tokens.contains(code), "{code} is no refusal: {row:?}");
        }
    }
}

#[test]
fn the_readme_lists_every_key_that_has_a_default() {
    let mut section = String::new();
    let mut keys = Vec::new();
    for line in include_str!("../deploy/spine-proxy.toml").lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = format!("{name}.");
        } else if let Some((key, _)) =
            line.strip_prefix('#').and_then(|rest| rest.split_once(" = "))
            && !key.starts_with(' ')
        {
            keys.push(format!("| `{section}{key}` | "));
        }
    }
    assert!(keys.len() > 60, "{}", keys.len());
    for key in keys {
        assert!(README.contains(&key), "no row begins with {key}");
    }
}
