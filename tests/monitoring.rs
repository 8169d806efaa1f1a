//! Alerts with their runbook, and the dashboard: `deploy/prometheus`, `docs/operate/runbook.md` and `deploy/grafana`.
//!
//! If promtool (Debian package `prometheus`) is not installed, tests that need it pass and report that it is missing, or fail if
//! `CI` is `true`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;
use spine_proxy::refusal;
use yaml_rust2::{Yaml, YamlLoader};

use crate::documents::anchor;
use testkit::report_missing;
use testkit::repository::{root, sources};

const METRICS: &str = include_str!("../docs/operate/metrics.md");
const RUNBOOK: &str = include_str!("../docs/operate/runbook.md");
const ALERTS: &str = include_str!("../deploy/prometheus/alerts.yml");
const ALERT_TESTS: &str = include_str!("../deploy/prometheus/alerts.test.yml");
const OUTAGES: &str = include_str!("../docs/operate/outages.md");
const DASHBOARD: &str = include_str!("../deploy/grafana/dashboard.json");

/// Metrics that the library for process metrics and Prometheus itself have.
const NOT_OURS: [&str; 8] = [
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_threads",
    "process_virtual_memory_bytes",
    "up",
];

/// The only document of a YAML file.
fn yaml(text: &str) -> Yaml {
    let mut documents = YamlLoader::load_from_str(text).unwrap();
    assert_eq!(documents.len(), 1);
    documents.remove(0)
}

fn list(of: &Yaml) -> &[Yaml] {
    of.as_vec().expect("a list")
}

fn text(of: &Yaml) -> &str {
    of.as_str().expect("text")
}

/// Every alert, by name.
fn alerts() -> BTreeMap<String, Yaml> {
    let groups = yaml(ALERTS);
    let rules = list(&groups["groups"]).iter().flat_map(|group| list(&group["rules"]));
    let alerts: Vec<_> =
        rules.map(|rule| (text(&rule["alert"]).to_owned(), rule.clone())).collect();
    let count = alerts.len();
    let alerts: BTreeMap<_, _> = alerts.into_iter().collect();
    assert!(count == alerts.len() && count > 12, "two alerts of one name, or too few: {count}");
    alerts
}

/// A query of the dashboard and the title of its panel.
struct PanelQuery {
    title: String,
    expression: String,
}

/// Every query of the dashboard, with values for its variables.
fn queries() -> Vec<PanelQuery> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let panels = panels.chain(dashboard["annotations"]["list"].as_array().unwrap());
    let mut queries = Vec::new();
    for panel in panels {
        let title = panel["title"].as_str().or(panel["name"].as_str()).unwrap();
        let targets = panel["targets"].as_array().into_iter().flatten();
        for expression in targets.chain([panel]).filter_map(|one| one["expr"].as_str()) {
            let expression = expression.replace("$__rate_interval", "5m").replace("$__range", "1h");
            let expression = expression.replace("$instance", ".*").replace("$interaction", ".*");
            assert!(!expression.contains('$'), "{title}: {expression}");
            queries.push(PanelQuery { title: title.to_owned(), expression });
        }
    }
    assert!(queries.len() > 60, "{}", queries.len());
    queries
}

/// The metrics of the table in the page on metrics, each with its type.
fn documented() -> BTreeMap<&'static str, &'static str> {
    let rows = METRICS.lines().filter_map(|line| line.strip_prefix("| `spine_proxy_"));
    let rows = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
    let found: BTreeMap<_, _> = rows.map(|cells| (cells[0].trim_matches('`'), cells[1])).collect();
    assert!(found.len() > 40, "{found:?}");
    found
}

/// The names in an expression that begin with our prefix, or stand before a label matcher.
fn metric_names(expression: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
    let mut names = BTreeSet::new();
    let mut rest = expression;
    while let Some(start) = rest.find(is_name) {
        let (name, after) = rest[start..]
            .split_at(rest[start..].find(|c| !is_name(c)).unwrap_or(rest.len() - start));
        if name.starts_with("spine_proxy_") || after.starts_with('{') {
            names.insert(name.to_owned());
        }
        rest = after;
    }
    names
}

/// Returns true if a metric is in the table; the series of a histogram have endings of their own.
fn is_documented(name: &str, documented: &BTreeMap<&str, &str>) -> bool {
    let Some(name) = name.strip_prefix("spine_proxy_") else { return NOT_OURS.contains(&name) };
    let of_histogram = ["_bucket", "_sum", "_count"].into_iter().any(|ending| {
        let family = name.strip_suffix(ending);
        family.and_then(|family| documented.get(family)) == Some(&"histogram")
    });
    of_histogram || documented.get(name).is_some_and(|kind| *kind != "histogram")
}

/// Runs promtool in the folder of the alerts; `None` if it is not installed.
fn promtool(arguments: &[&str]) -> Option<Result<String, String>> {
    let folder = root().join("deploy/prometheus");
    let Ok(output) = Command::new("promtool").args(arguments).current_dir(folder).output() else {
        report_missing("promtool");
        return None;
    };
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    Some(if output.status.success() { Ok(said) } else { Err(said) })
}

#[test]
fn promtool_accepts_the_alerts_and_the_example_of_a_scrape_configuration() {
    for arguments in [
        &["check", "rules", "--lint=all", "--lint-fatal", "alerts.yml"][..],
        &["check", "config", "--lint=all", "--lint-fatal", "prometheus.yml"],
    ] {
        let Some(result) = promtool(arguments) else { return };
        let said = result.unwrap_or_else(|fault| panic!("{fault}"));
        assert!(said.contains(&format!("{} rules found", alerts().len())), "{said}");
    }
}

#[test]
fn every_alert_fires_when_it_should_and_not_otherwise() {
    let Some(result) = promtool(&["test", "rules", "alerts.test.yml"]) else { return };
    result.unwrap_or_else(|fault| panic!("{fault}"));
}

#[test]
fn every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() {
    let tests = yaml(ALERT_TESTS);
    let mut cases: BTreeMap<String, BTreeSet<bool>> = BTreeMap::new();
    for test in list(&tests["tests"]).iter().flat_map(|test| list(&test["promql_expr_test"])) {
        let expression = text(&test["expr"]);
        let name = expression.strip_prefix("ALERTS{alertname=\"").expect(expression);
        let (name, rest) = name.split_once('"').unwrap();
        assert_eq!(rest, ", alertstate=\"firing\"}");
        let fires = !list(&test["exp_samples"]).is_empty();
        cases.entry(name.to_owned()).or_default().insert(fires);
    }
    let both: BTreeSet<_> =
        cases.into_iter().filter(|(_, cases)| cases.len() == 2).map(|(name, _)| name).collect();
    assert_eq!(both, alerts().into_keys().collect());
}

#[test]
fn every_alert_says_what_it_means_and_leads_to_its_section_of_the_runbook() {
    let headings: BTreeSet<_> =
        RUNBOOK.lines().filter(|line| line.starts_with("### ")).map(anchor).collect();
    for (name, rule) in alerts() {
        let severity = text(&rule["labels"]["severity"]);
        assert!(["page", "ticket"].contains(&severity), "{name}: {severity}");
        let annotations = &rule["annotations"];
        for annotation in ["summary", "description"] {
            let said = text(&annotations[annotation]);
            assert!(said.len() > 30 && !said.contains('\n'), "{name}: {annotation}: {said}");
        }
        let (page, heading) = text(&annotations["runbook_url"]).split_once('#').expect(&name);
        assert_eq!(page, "https://docs.example.nhs.uk/spine-proxy/operate/runbook.html");
        assert_eq!(heading, name.to_lowercase());
        assert!(headings.contains(heading), "{name} has no section in the runbook");
    }
}

#[test]
fn each_section_of_the_runbook_about_an_alert_says_what_to_do() {
    let alerts = alerts();
    for section in RUNBOOK.split("\n### ").skip(1) {
        let name = section.lines().next().unwrap();
        if !name.starts_with("SpineProxy") {
            continue;
        }
        assert!(alerts.contains_key(name), "there is no alert {name}");
        for part in ["Meaning", "Impact", "First look", "Repair"] {
            assert!(section.contains(&format!("\n- **{part}**: ")), "{name}: {part}");
        }
    }
}

#[test]
fn every_refusal_is_in_one_row_of_the_runbook() {
    let (_, refusals) = RUNBOOK.split_once("\n## Refusals\n").unwrap();
    let rows = refusals.lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.filter_map(|row| row.split(" | ").next());
    let mut found: Vec<_> = cells.flat_map(|cell| cell.trim_matches('`').split("`, `")).collect();
    found.sort_unstable();
    let mut tokens: Vec<_> = refusal::every().iter().map(|refusal| refusal.row().token).collect();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(found, tokens);
}

#[test]
fn alerts_and_dashboard_use_metrics_that_exist() {
    let documented = documented();
    let alerts = alerts().into_iter().map(|(title, rule)| {
        let expression = text(&rule["expr"]).to_owned();
        PanelQuery { title, expression }
    });
    let mut unknown = BTreeMap::new();
    for PanelQuery { title, expression } in alerts.chain(queries()) {
        let names = metric_names(&expression);
        assert!(!names.is_empty(), "{title}: {expression}");
        for name in names.into_iter().filter(|name| !is_documented(name, &documented)) {
            unknown.insert(name, title.clone());
        }
    }
    assert!(unknown.is_empty(), "not in docs/operate/metrics.md: {unknown:#?}");
}

/// promtool reads the queries as recording rules.
#[test]
fn promtool_accepts_every_query_of_the_dashboard() {
    let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    for (number, PanelQuery { expression, .. }) in queries().iter().enumerate() {
        let expression = Value::from(expression.as_str());
        rules.push_str(&format!("  - {{ record: query:{number}, expr: {expression} }}\n"));
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), rules).unwrap();
    let Some(result) = promtool(&["check", "rules", file.path().to_str().unwrap()]) else {
        return;
    };
    result.unwrap_or_else(|fault| panic!("{fault}"));
}

#[test]
fn every_panel_of_the_dashboard_has_a_unit_and_says_what_it_shows() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    assert_eq!(dashboard["uid"], "spine-proxy");
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: a second panel of its id");
        if panel["type"] == "row" {
            continue;
        }
        assert!(panel["description"].as_str().is_some_and(|said| said.len() > 20), "{title}");
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
    }
}

#[test]
fn the_provisioning_files_of_grafana_are_yaml_and_name_the_data_source() {
    let folder = root().join("deploy/grafana/provisioning");
    let read = |name: &str| yaml(&std::fs::read_to_string(folder.join(name)).unwrap());
    let sources = read("datasources/prometheus.yaml");
    assert_eq!(text(&list(&sources["datasources"])[0]["type"]), "prometheus");
    let providers = read("dashboards/spine-proxy.yaml");
    assert_eq!(text(&list(&providers["providers"])[0]["type"]), "file");
}

/// The cells of a row of the page on outages.
fn outages() -> Vec<Vec<&'static str>> {
    let (_, table) = OUTAGES.split_once("<!-- outages -->\n").unwrap();
    let rows = table.lines().skip(2).filter_map(|line| line.strip_prefix("| "));
    let rows: Vec<Vec<_>> =
        rows.map(|row| row.trim_end_matches(" |").split(" | ").collect()).collect();
    assert!(rows.len() > 12 && rows.iter().all(|cells| cells.len() == 5), "{rows:#?}");
    rows
}

/// The texts in backquotes.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn the_page_on_outages_names_alerts_metrics_and_log_lines_that_exist() {
    let (alerts, documented) = (alerts(), documented());
    let mut code = String::new();
    for path in sources() {
        code.push_str(&std::fs::read_to_string(path).unwrap());
    }
    // A text that goes on in the next line is one text.
    let code: Vec<_> = code.split("\\\n").map(str::trim_start).collect();
    let code = code.concat();
    for cells in outages() {
        let [outage, fires, metrics, log, _] = cells[..] else { panic!("{cells:?}") };
        let words = fires.split(|c: char| !c.is_alphanumeric());
        for name in words.filter(|word| word.starts_with("SpineProxy")) {
            assert!(alerts.contains_key(name), "{outage}: there is no alert {name}");
        }
        for metric in quoted(metrics) {
            let name = metric.split('{').next().unwrap();
            assert!(documented.contains_key(name), "{outage}: there is no metric {name}");
        }
        for text in quoted(log) {
            assert!(code.contains(text), "{outage}: nothing logs {text:?}");
        }
    }
}
