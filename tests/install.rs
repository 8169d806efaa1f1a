//! Installation as a Debian package, as a container and on Kubernetes: each file in `deploy/` for it is loaded or run.

mod container;
mod debian;
mod kubernetes;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use spine_proxy::config::Config;
use testkit::report_missing;
use testkit::repository::root;

const PAGE: &str = include_str!("../docs/operate/install.md");

fn said(output: &Output) -> String {
    String::from_utf8([&output.stdout[..], &output.stderr].concat()).unwrap()
}

/// Runs the program; returns what it printed, if its exit code is 0.
fn run(arguments: &[&str]) -> String {
    let output = Command::new(testkit::program()).args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", said(&output));
    said(&output)
}

/// Returns the interpreter of the Python environment that `.ci/run` makes for manifests, with a YAML parser and the
/// schemas of Kubernetes and of compose files; reports it if it is missing.
fn python() -> Option<PathBuf> {
    let python = root().join("target/manifests/bin/python");
    let has_it = Command::new(&python)
        .args(["-c", "import yaml, check_jsonschema, kubernetes_validate"])
        .output();
    if has_it.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    report_missing("kubernetes-validate and check-jsonschema of Python (.ci/run installs them)");
    None
}

/// Returns the documents of a YAML file.
fn yaml(python: &Path, path: &Path) -> Vec<Value> {
    let program =
        "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let output = Command::new(python).args(["-c", program]).arg(path).output().unwrap();
    assert!(output.status.success(), "{}: {}", path.display(), said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Returns the strings of a JSON list; none of another value.
fn strings(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().map(|value| value.as_str().unwrap()).collect()
}

fn config(path: &Path) -> Config {
    Config::parse(&std::fs::read_to_string(path).unwrap(), path).unwrap()
}

/// Copies a file with texts replaced, each of which it must have somewhere.
fn copy_with(from: &Path, to: &Path, replaced: &[(&str, &str)]) {
    let mut text = std::fs::read_to_string(from).unwrap();
    for (old, new) in replaced {
        assert!(text.contains(old), "{}: no {old}", from.display());
        text = text.replace(old, new);
    }
    std::fs::write(to, text).unwrap();
}

/// Returns ports of loopback that nobody listens on.
fn free_ports<const N: usize>() -> [String; N] {
    let bound = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    bound.map(|listener| listener.local_addr().unwrap().port().to_string())
}

/// Returns the upper bound of memory in bytes that `check` states for a configuration.
fn memory_bound(checked: &str) -> f64 {
    let line = checked.lines().find_map(|line| line.strip_prefix("memory bound ")).unwrap();
    let (size, _) = line.trim().split_once(" GiB").unwrap();
    // It is printed to one digit.
    (size.parse::<f64>().unwrap() + 0.05) * f64::from(1 << 30)
}

/// Returns the time from the signal to stop to the end of the process, in seconds, with a margin for the last records.
fn stops_within_s(config: &Config) -> u64 {
    const MARGIN_S: u64 = 10;
    let limits = &config.listener.limits;
    (limits.drain_delay + limits.drain).as_secs() + MARGIN_S
}
