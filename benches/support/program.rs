//! The program over a test bed's files, for as long as a bench takes: its log is counted, not kept.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use testkit::process::GatewayProcess;
use testkit::test_bed::TestBed;

/// Its journal, beside the test bed's own.
pub(crate) const JOURNAL: &str = "program";

/// The program, ended when dropped.
pub(crate) struct Program {
    served: GatewayProcess,
    log: Arc<Mutex<Log>>,
}

/// What its log said.
#[derive(Debug, Default, Clone)]
pub(crate) struct Log {
    pub(crate) lines: usize,
    pub(crate) panics: usize,
    /// Warnings and errors, by their message.
    pub(crate) trouble: BTreeMap<String, usize>,
}

/// Limit: different messages that are kept.
const TROUBLES_MAX: usize = 40;

impl Program {
    /// Starts it over the test bed's configuration, changed.
    pub(crate) fn start(bed: &TestBed, change: impl FnOnce(String) -> String) -> Self {
        Self::start_as(JOURNAL, Command::new(env!("CARGO_BIN_EXE_spine-proxy")), bed, change)
    }

    /// Starts it by this command, with a configuration and a journal of this name.
    pub(crate) fn start_as(
        name: &str,
        mut command: Command,
        bed: &TestBed,
        change: impl FnOnce(String) -> String,
    ) -> Self {
        let text = bed.text("spine-proxy.toml").replace("\"audit\"", &format!("\"{name}\""));
        let config = format!("{name}.toml");
        bed.replace(&config, &change(text));
        let mut child = command
            .args(["serve", "--config"])
            .arg(bed.path(&config))
            .env("RUST_BACKTRACE", "0")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let addresses = addresses(&mut lines);
        let log = Arc::new(Mutex::new(Log::default()));
        let counting = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                counting.lock().unwrap().count(&line);
            }
        });
        Self {
            served: GatewayProcess {
                child,
                address: addresses[0],
                admin: addresses[1],
                log: Arc::default(),
            },
            log,
        }
    }

    /// Where consumers connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.served.address
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.served.child.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        self.served.signal(name);
    }

    pub(crate) async fn metrics(&self) -> Counted {
        Counted(self.served.metrics().await)
    }

    pub(crate) fn log(&self) -> Log {
        self.log.lock().unwrap().clone()
    }

    /// Memory it has in use.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(self.proc("status")).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let figure = line.and_then(|line| line.split_whitespace().nth(1));
        figure.and_then(|figure| figure.parse().ok()).unwrap_or(0)
    }

    /// Processor time it has taken so far, in steps of 10 ms.
    pub(crate) fn cpu(&self) -> std::time::Duration {
        let stat = std::fs::read_to_string(self.proc("stat")).unwrap_or_default();
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let fields: Vec<_> = after_name.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
        let (user, system) = (ticks(11).unwrap_or(0), ticks(12).unwrap_or(0));
        std::time::Duration::from_millis(10 * (user + system))
    }

    /// Descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(self.proc("fd")).map(Iterator::count).unwrap_or(0)
    }

    fn proc(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.served.child.id())
    }
}

/// Where it listens: for consumers, then for operators.
fn addresses(lines: &mut BufReader<ChildStderr>) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    let mut line = String::new();
    while found.len() < 2 {
        line.clear();
        let read = lines.read_line(&mut line).unwrap();
        assert!(read > 0, "the program ended before it listened");
        let value: Value = serde_json::from_str(&line).unwrap_or_default();
        if value["message"].as_str().is_some_and(|message| message.ends_with("listening")) {
            found.push(value["address"].as_str().unwrap().parse().unwrap());
        }
    }
    found
}

impl Log {
    fn count(&mut self, line: &str) {
        self.lines += 1;
        self.panics += usize::from(line.contains("panicked"));
        let value: Value = serde_json::from_str(line).unwrap_or_default();
        if !matches!(value["level"].as_str(), Some("INFO" | "DEBUG" | "TRACE")) {
            let message = value["message"].as_str().unwrap_or(line).to_owned();
            if self.trouble.len() < TROUBLES_MAX || self.trouble.contains_key(&message) {
                *self.trouble.entry(message).or_default() += 1;
            }
        }
    }
}

/// Its metrics, at one moment.
pub(crate) struct Counted(String);

impl Counted {
    /// The sum of all series of this name, without the program's prefix, that hold `labels`.
    pub(crate) fn sum(&self, name: &str, labels: &str) -> u64 {
        let name = format!("spine_proxy_{name}");
        let values = self.0.lines().filter_map(|line| {
            let rest = line.strip_prefix(&name)?;
            let (found, value) = rest.rsplit_once(' ')?;
            let ours = found.is_empty() || found.starts_with('{');
            (ours && found.contains(labels)).then(|| value.parse::<u64>().ok())?
        });
        values.sum()
    }

    /// Every series of this name that is not nought: its labels, its value.
    pub(crate) fn every(&self, name: &str) -> Vec<(String, u64)> {
        let name = format!("spine_proxy_{name}{{");
        let values = self.0.lines().filter_map(|line| {
            let (labels, value) = line.strip_prefix(&name)?.rsplit_once(' ')?;
            let value = value.parse().ok().filter(|value| *value > 0)?;
            Some((labels.trim_end_matches('}').to_owned(), value))
        });
        values.collect()
    }
}
