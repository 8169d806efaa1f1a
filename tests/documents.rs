//! Consistency of the documents with the code: refusals, metrics, configuration keys, hostile input; and valid
//! links.
//!
//! `UPDATE_DOCS=1 cargo test documents` writes what is generated.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::Value;
use spine_proxy::config::Config;
use spine_proxy::metrics::Metrics;
use spine_proxy::refusal::{self, BodyFamily};

use crate::hostile::{SHOWN_BY, http1};
use testkit::repository::{files, root};

const README: &str = include_str!("../README.md");
const METRICS: &str = include_str!("../docs/operate/metrics.md");
const CONFIGURATION: &str = include_str!("../docs/operate/configuration.md");
const REFUSALS: &str = include_str!("../docs/integrate/refusals.md");
const CONSUMERS: &str = include_str!("../docs/integrate/consumers.md");

/// The part of a document between `<!-- name -->` and `<!-- /name -->`.
fn section<'a>(document: &'a str, name: &str) -> &'a str {
    let (_, rest) = document.split_once(&format!("<!-- {name} -->\n")).expect("the opening marker");
    rest.split_once(&format!("<!-- /{name} -->")).expect("the closing marker").0
}

/// Every Markdown file of the repository, from its root.
fn documents() -> Vec<PathBuf> {
    let top = ["README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md"];
    let below = ["docs", "certs"].into_iter().flat_map(|folder| files(folder, "md"));
    top.into_iter().map(|name| root().join(name)).chain(below).collect()
}

/// The anchor that a forge gives a heading.
pub(crate) fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter(kept)
        .collect::<String>()
        .replace(' ', "-")
}

/// Compares a generated document with the file, or writes the file if `UPDATE_DOCS` is set.
pub(crate) fn holds(path: &str, generated: &str) {
    let path = root().join(path);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, generated).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    for (line, (written, generated)) in written.lines().zip(generated.lines()).enumerate() {
        assert_eq!(
            written,
            generated,
            "{}, line {}: UPDATE_DOCS=1 cargo test documents",
            path.display(),
            line + 1
        );
    }
    assert_eq!(written.lines().count(), generated.lines().count());
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

/// The table has a row for each refusal, made of the code but for its last cell: what to do.
#[test]
fn the_table_of_refusals_is_made_of_the_code() {
    let table = section(REFUSALS, "refusals");
    let written = rows(table);
    let remedy = |token: &str| {
        let row = written.iter().find(|row| row[0].ends_with(&format!("`{token}`")))?;
        row.last().filter(|cell| !cell.is_empty()).copied()
    };
    let mut generated: String = table.lines().take(2).map(|line| format!("{line}\n")).collect();
    for refusal in &refusal::every() {
        let row = refusal.row();
        let (token, status, issue, code) = (row.token, row.status, row.issue, row.code);
        let body = body(row.family);
        let remedy =
            remedy(token).unwrap_or_else(|| panic!("nothing says what to do about {token}"));
        // `Link` names the anchor.
        let cells = format!("{status} | {issue} | {code} | {body} | {remedy}");
        generated.push_str(&format!("| <a id=\"{token}\"></a>`{token}` | {cells} |\n"));
    }
    holds("docs/integrate/refusals.md", &REFUSALS.replace(table, &generated));
}

#[test]
fn the_documents_name_every_metric_and_no_other() {
    let (text, _) = Metrics::new().text();
    let types = text.lines().filter(|line| line.starts_with("# TYPE "));
    let mut ours: BTreeSet<String> = types.flat_map(metric_names).collect();
    // A metric whose labels are files has no series before a first load.
    ours.insert("spine_proxy_certificate_not_after_timestamp_seconds".to_owned());
    ours.insert("spine_proxy_crl_next_update_timestamp_seconds".to_owned());
    assert_eq!(metric_names(METRICS), ours);
    for path in documents() {
        let named = metric_names(&std::fs::read_to_string(&path).unwrap());
        let unknown: Vec<_> = named.difference(&ours).collect();
        let is_history = path.ends_with("CHANGELOG.md");
        assert!(is_history || unknown.is_empty(), "{}: {unknown:?}", path.display());
    }
}

/// Each row's type and meaning are those of `/metrics`; the label names are too, their values are written by hand.
#[test]
fn the_table_of_metrics_says_what_the_metrics_say() {
    let path = "docs/operate/metrics.md";
    let (text, _) = Metrics::new().text();
    let about = |name: &str, kind: &str| {
        let begin = format!("# {kind} {name} ");
        text.lines().find_map(|line| line.strip_prefix(&begin)).map(str::to_owned)
    };
    let mut generated = String::new();
    for line in METRICS.lines() {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let name = cells[0].trim_matches('`');
        match (about(name, "TYPE"), about(name, "HELP"), &cells[..]) {
            (Some(kind), Some(help), [cell, _, labels, _]) => {
                let begin = format!("{name}{{");
                let series = text.lines().find_map(|line| line.strip_prefix(&begin));
                let series = series.map_or("", |series| series.split('}').next().unwrap());
                for label in series.split(',').filter_map(|label| label.split('=').next()) {
                    let is_named = labels.contains(&format!("`{label}`"));
                    assert!(label.is_empty() || is_named, "{name} has a label {label}");
                }
                let labels = if labels.is_empty() { " " } else { &format!(" {labels} ") };
                generated.push_str(&format!("| {cell} | {kind} |{labels}| {help} |\n"));
            }
            _ => generated.push_str(&format!("{line}\n")),
        }
    }
    holds(path, &generated);
}

#[test]
fn the_readme_is_short_and_begins_with_its_two_commands() {
    assert!(README.lines().count() < 200);
    let [demo, test, ..] = *commands() else { panic!("fewer than two commands") };
    assert_eq!(demo, "cargo run --release -- demo --once");
    assert_eq!(test, "cargo test");
}

#[test]
fn the_page_on_consumers_says_of_each_what_it_gets() {
    let written = rows(section(CONSUMERS, "consumers"));
    assert!(!written.is_empty());
    let tokens: BTreeSet<_> = refusal::every().iter().map(|refusal| refusal.row().token).collect();
    for row in &written {
        assert_eq!(row.len(), 5, "{row:?}");
        assert!(row.iter().all(|cell| !cell.is_empty()), "{row:?}");
        // A refusal in the text has a token that exists.
        for (_, code) in row[2].split('`').enumerate().filter(|(at, _)| at % 2 == 1) {
            assert!(tokens.contains(code), "{code} is no refusal: {row:?}");
        }
    }
}

/// A node of the configuration's schema with what it refers to: a definition, or the only other choice beside
/// `null`.
fn resolved(schema: &Value, node: &Value) -> Value {
    let mut node = node.clone();
    while let Some(name) = node["$ref"].as_str().and_then(|name| name.rsplit('/').next()) {
        let mut target = schema["$defs"][name].clone();
        let own = node.as_object().unwrap().iter().filter(|(key, _)| *key != "$ref");
        for (key, value) in own {
            target[key] = value.clone();
        }
        node = target;
    }
    let choices = node["anyOf"].as_array().cloned().unwrap_or_default();
    let choices: Vec<_> = choices.into_iter().filter(|one| one["type"] != "null").collect();
    match &choices[..] {
        [only] => {
            let mut target = resolved(schema, only);
            for (key, value) in node.as_object().unwrap().iter().filter(|(key, _)| *key != "anyOf")
            {
                target[key] = value.clone();
            }
            target
        }
        _ => node,
    }
}

/// The lines about the keys of a section, and of the sections within it.
fn keys(schema: &Value, section: &str, node: &Value, defaults: &Value) -> BTreeMap<String, String> {
    let mut pages = BTreeMap::new();
    let mut lines = String::new();
    for (key, raw) in node["properties"].as_object().unwrap() {
        let found = resolved(schema, raw);
        let name = if section.is_empty() { key.clone() } else { format!("{section}.{key}") };
        let default = if raw["default"].is_null() { &defaults[key] } else { &raw["default"] };
        let by_asid = [&found["additionalProperties"], &found["patternProperties"]];
        let by_asid = by_asid.into_iter().map(|one| match one.as_object() {
            Some(patterns) if !patterns.contains_key("$ref") => {
                patterns.values().next().cloned().unwrap_or_default()
            }
            _ => one.clone(),
        });
        let by_asid =
            by_asid.map(|one| resolved(schema, &one)).find(|one| one["properties"].is_object());
        let is_pair = found["properties"]["chain"].is_object();
        if let Some(one) = by_asid {
            pages.extend(keys(schema, &format!("{name}.<ASID>"), &one, &Value::Null));
        } else if found["properties"].is_object() && !is_pair {
            pages.extend(keys(schema, &name, &found, default));
        } else {
            let is_required =
                node["required"].as_array().is_some_and(|keys| keys.contains(&key.as_str().into()));
            lines.push_str(&entry(key, &found, default, is_required));
        }
    }
    if !lines.is_empty() {
        pages.insert(section.to_owned(), lines);
    }
    pages
}

/// The lines about one key: its default, its meaning, and the values that it may have.
fn entry(key: &str, found: &Value, default: &Value, is_required: bool) -> String {
    let default = if let Some(list) = default.as_array() {
        let list: Vec<_> = list.iter().map(Value::to_string).collect();
        format!("default `[{}]`", list.join(", "))
    } else if !default.is_null() {
        format!("default `{default}`")
    } else if is_required {
        "required".to_owned()
    } else {
        "no default".to_owned()
    };
    let meaning = found["description"].as_str().unwrap_or_default();
    assert!(!meaning.is_empty(), "{key} has no description");
    let mut lines = String::new();
    let paragraphs =
        meaning.split("\n\n").map(|one| one.replace('\n', " ")).collect::<Vec<_>>().join(" ");
    wrapped(&mut lines, "- ", &format!("`{key}`, {default}: {paragraphs}"));
    for value in found["oneOf"].as_array().into_iter().flatten() {
        if let (Some(value), Some(meaning)) =
            (value["const"].as_str(), value["description"].as_str())
        {
            wrapped(&mut lines, "  - ", &format!("`\"{value}\"`: {}", meaning.replace('\n', " ")));
        }
    }
    let values = found["enum"].as_array().into_iter().flatten().map(|value| format!("`{value}`"));
    let values = values.collect::<Vec<_>>().join(", ");
    if !values.is_empty() {
        wrapped(&mut lines, "  - ", &format!("one of {values}"));
    }
    lines
}

/// Appends a list item, broken before column 110.
fn wrapped(lines: &mut String, bullet: &str, text: &str) {
    let mut line = bullet.to_owned();
    let indent = " ".repeat(bullet.len());
    for word in text.split(' ') {
        if line.chars().count() + word.chars().count() > 110 {
            lines.push_str(&format!("{}\n", line.trim_end()));
            line.clone_from(&indent);
        }
        line.push_str(word);
        line.push(' ');
    }
    lines.push_str(&format!("{}\n", line.trim_end()));
}

/// The heading of a section's keys.
fn heading(section: &str) -> String {
    if section.is_empty() { "### At the top".to_owned() } else { format!("### `[{section}]`") }
}

#[test]
fn the_page_on_configuration_is_made_of_the_schema() {
    let schema = schemars::schema_for!(Config).to_value();
    let pages = keys(&schema, "", &schema, &Value::Null);
    let mut list = String::new();
    for (section, lines) in &pages {
        list.push_str(&format!("{}\n\n{lines}\n", heading(section)));
    }
    assert!(list.matches("\n- `").count() > 90, "{list}");
    let (before, rest) = CONFIGURATION.split_once("<!-- keys -->\n").expect("the opening marker");
    let (_, after) = rest.split_once("<!-- /keys -->").expect("the closing marker");
    let page = format!("{before}<!-- keys -->\n{list}<!-- /keys -->{after}");
    holds("docs/operate/configuration.md", &page);
}

/// Every key that the example configuration shows is one of the schema.
#[test]
fn the_example_configuration_shows_keys_of_the_page() {
    let mut section = String::new();
    let mut count = 0;
    for line in include_str!("../deploy/spine-proxy.toml").lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut section);
        } else if let Some((key, _)) =
            line.strip_prefix('#').and_then(|rest| rest.split_once(" = "))
            && !key.starts_with(' ')
        {
            count += 1;
            let heading = format!("{}\n", heading(&section));
            let (_, about) = CONFIGURATION.split_once(&heading).expect(&section);
            let about = about.split("\n### ").next().unwrap();
            assert!(about.contains(&format!("\n- `{key}`, ")), "{section}.{key}");
        }
    }
    assert!(count > 60, "{count}");
}

#[test]
fn every_link_in_a_document_leads_somewhere() {
    let mut links = 0;
    for path in documents() {
        let text = std::fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.contains(' ') {
                continue;
            }
            links += 1;
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link}", path.display());
            if !heading.is_empty() {
                let text = std::fs::read_to_string(&target).unwrap();
                let mut headings = text.lines().filter(|line| line.starts_with('#')).map(anchor);
                assert!(
                    headings.any(|known| known == heading)
                        || text.contains(&format!("<a id=\"{heading}\"></a>")),
                    "{}: {link}: no such heading",
                    path.display()
                );
            }
        }
    }
    assert!(links > 40, "{links}");
}

#[test]
fn the_book_has_every_page() {
    let summary = include_str!("../docs/SUMMARY.md");
    let root = root().join("docs");
    for path in documents().iter().filter_map(|path| path.strip_prefix(&root).ok()) {
        let page = path.to_str().unwrap();
        assert!(page == "SUMMARY.md" || summary.contains(&format!("({page})")), "{page}");
    }
}

/// Each input over HTTP/1.1 by the answer that it gets, and every other number by its tests.
#[test]
fn the_catalogue_of_hostile_input_says_how_each_number_is_shown() {
    let path = "docs/evidence/hostile.md";
    let mut shown: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in http1::rows() {
        shown.entry(row.id.to_owned()).or_default().insert(row.then.to_string());
    }
    for (id, test) in SHOWN_BY {
        shown.entry((*id).to_owned()).or_default().insert(format!("`{test}`"));
    }
    let file = root().join(path);
    let mut generated = String::new();
    for line in std::fs::read_to_string(file).unwrap().lines() {
        let number = line.strip_prefix("| ").and_then(|rest| rest.split(' ').next());
        let ways = number.and_then(|number| shown.remove(number));
        match (ways, line.trim_end_matches('|').rsplit_once(" |")) {
            (Some(ways), Some((input, _))) => {
                let ways: Vec<_> = ways.into_iter().collect();
                generated.push_str(&format!("{input} | {} |\n", ways.join("; ")));
            }
            _ => generated.push_str(&format!("{line}\n")),
        }
    }
    assert!(shown.is_empty(), "without a row: {:?}", shown.keys());
    holds(path, &generated);
}

/// The tests that the page for operators names exist.
#[test]
fn each_row_of_the_operators_overview_names_a_test_that_exists() {
    let text = include_str!("../docs/operate/overview.md");
    let rows = text.lines().filter(|line| line.starts_with("| ") && line.ends_with("` |"));
    let mut count = 0;
    for row in rows {
        let (_, named) = row.rsplit_once(" | `").unwrap();
        let path = named.trim_end_matches("` |");
        let (module, name) = path.rsplit_once("::").unwrap();
        let file = root().join("tests").join(module.replace("::", "/")).with_extension("rs");
        let code = std::fs::read_to_string(&file).unwrap_or_else(|_| panic!("{}", file.display()));
        assert!(code.contains(&format!("fn {name}(")), "{path}");
        count += 1;
    }
    assert!(count > 20, "{count}");
}
