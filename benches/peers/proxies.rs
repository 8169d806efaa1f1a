//! The proxies: each a process on a core of its own, in front of the same provider.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Value, json};
use spine_types::interaction::{CATALOGUE, InteractionGroup};

use crate::load::Provider;
use crate::support::program::Program;
use crate::support::servers::{Ended, free_address, listens};
use testkit::test_bed::{HUB, HUB_ODS, OTHER_ROOT, OTHER_TO, ROOT, TO};
use testkit::{TestBed, TestRequest};

/// Proxies that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// This project's program.
    SpineProxy,
    /// `HAProxy` that relays, with checks of headers and without a log.
    Haproxy,
    /// `HAProxy` told to make the same checks and to write a line for each exchange.
    HaproxyChecks,
    /// hyper alone, without any check.
    Hyper,
}

impl Kind {
    pub(crate) fn name(self) -> String {
        self.to_possible_value().unwrap().get_name().to_owned()
    }

    /// Returns true for a proxy that refuses an interaction that it does not know.
    pub(crate) fn refuses(self) -> bool {
        self != Self::Hyper
    }

    fn checks_tokens(self) -> bool {
        matches!(self, Self::SpineProxy | Self::HaproxyChecks)
    }
}

/// The programs under comparison, and the cores they run on.
pub(crate) struct Programs {
    pub(crate) spine_proxy: PathBuf,
    pub(crate) haproxy: Option<String>,
    pub(crate) cores: Option<Cores>,
}

/// A core for the proxies, and another for consumers and provider.
pub(crate) struct Cores {
    proxy: usize,
    load: usize,
}

impl Cores {
    /// Takes two of the cores that this process may use, and moves this process to one of them.
    pub(crate) fn take() -> Option<Self> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        let mut cores = list.trim().split(',').flat_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            first.parse::<usize>().unwrap()..=last.parse().unwrap()
        });
        let (proxy, load) = (cores.next()?, cores.next()?);
        let own = std::process::id().to_string();
        let moved = Command::new("taskset")
            .args(["-a", "-c", "-p", &load.to_string(), &own])
            .stdout(Stdio::null())
            .status();
        moved.is_ok_and(|status| status.success()).then_some(Self { proxy, load })
    }
}

impl Programs {
    /// A command that runs a program on the proxies' core, or on both.
    fn command(&self, program: impl AsRef<Path>, both: bool) -> Command {
        let Some(Cores { proxy, load }) = self.cores else {
            return Command::new(program.as_ref());
        };
        let cores = if both { format!("{proxy},{load}") } else { proxy.to_string() };
        let mut command = Command::new("taskset");
        command.args(["-c", &cores]).arg(program.as_ref());
        command
    }
}

/// A proxy that runs, and is ended when dropped.
pub(crate) struct Proxy {
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
    pub(crate) id: u32,
    _running: Running,
}

enum Running {
    Ours { _program: Program },
    Theirs { _child: Ended },
}

/// Settings of the gateway that a measurement changes.
pub(crate) struct Settings<'a> {
    /// Also of its journal.
    pub(crate) name: &'a str,
    pub(crate) workers: usize,
    pub(crate) directory: &'a str,
}

impl Proxy {
    /// Starts a proxy; `name` is that of its files.
    pub(crate) async fn start(
        kind: Kind,
        name: &str,
        programs: &Programs,
        (bed, provider): (&TestBed, &Provider),
    ) -> Option<Self> {
        if kind == Kind::SpineProxy {
            let settings = Settings { name, workers: 1, directory: "directory.toml" };
            return Some(Self::gateway(&settings, programs, bed));
        }
        let address = free_address().await;
        let folder = bed.folder.path();
        let mut command = if kind == Kind::Hyper {
            let mut command = programs.command(std::env::current_exe().unwrap(), false);
            command.arg("--relay-folder").arg(folder);
            command.arg("--relay-address").arg(address.to_string());
            command.arg("--relay-provider").arg(provider.address.to_string());
            command
        } else {
            let mut command = programs.command(programs.haproxy.as_ref()?, false);
            let text = haproxy(kind, bed, address, provider.address);
            bed.replace(&format!("{name}.cfg"), &text);
            command.arg("-db").arg("-f").arg(bed.path(&format!("{name}.cfg")));
            command
        };
        let log = std::fs::File::create(bed.path(&format!("{name}.log"))).unwrap();
        let child = Ended(command.stdin(Stdio::null()).stdout(log).spawn().unwrap());
        assert!(listens(address).await, "{name} does not listen");
        let id = child.0.id();
        Some(Self { kind, address, id, _running: Running::Theirs { _child: child } })
    }

    /// Starts the gateway with these settings.
    pub(crate) fn gateway(settings: &Settings<'_>, programs: &Programs, bed: &TestBed) -> Self {
        let Settings { name, workers, directory } = settings;
        let command = programs.command(&programs.spine_proxy, *workers > 1);
        let program = Program::start_as(name, command, bed, |text| {
            text.replace("workers = 1\n", &format!("workers = {workers}\n"))
                .replace("\"directory.toml\"", &format!("\"{directory}\""))
        });
        let (address, id) = (program.address(), program.id());
        Self { kind: Kind::SpineProxy, address, id, _running: Running::Ours { _program: program } }
    }

    /// Memory it has in use.
    pub(crate) fn resident_kib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Shows that it does its work: it passes on what is right whole, and refuses what it checks.
    pub(crate) async fn is_tried(&self, bed: &TestBed, provider: &Provider) {
        let name = self.kind.name();
        let body = provider.answers(20_480);
        for call in [TestRequest::slots(), post()] {
            let answer = call.send_to(bed, self.address).await;
            assert_eq!(answer.status, 200, "{name}: {}", answer.text());
            assert!(answer.body == body, "{name} does not pass on the answer as it is");
        }
        let mut wrong = Vec::new();
        if self.kind.refuses() {
            wrong.push(refused());
        }
        if self.kind.checks_tokens() {
            wrong.push(TestRequest::slots().certificate("clinic"));
            wrong.push(TestRequest::slots().set("Ssp-To", OTHER_TO));
            let claims = TestRequest::slots().claims.as_object().unwrap().clone();
            wrong.extend(claims.keys().map(|name| TestRequest::slots().claim(name, Value::Null)));
            let other = [("aud", json!(OTHER_ROOT)), ("reason_for_request", json!("audit"))];
            wrong.extend(other.map(|(name, value)| TestRequest::slots().claim(name, value)));
        }
        for call in wrong {
            let answer = call.send_to(bed, self.address).await;
            assert!((400..500).contains(&answer.status), "{name} does not refuse {call:?}");
        }
    }
}

/// Processor time that the threads of a process have taken, as the scheduler counts it.
pub(crate) fn processor_time(process: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let nanoseconds = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// A booking of 4 KiB.
pub(crate) fn post() -> TestRequest {
    TestRequest::book().body(&[b'x'; 4096])
}

/// A search that is refused once its sender is known: for an interaction that is not allowed here.
pub(crate) fn refused() -> TestRequest {
    let interaction = "urn:nhs:names:services:gpconnect:fhir:operation:gpc.getstructuredrecord-1";
    TestRequest::slots().set("Ssp-InteractionID", interaction)
}

/// The configuration of `HAProxy`, and the files that it names.
fn haproxy(kind: Kind, bed: &TestBed, address: SocketAddr, provider: SocketAddr) -> String {
    for name in ["server", "gateway"] {
        let both = bed.text(&format!("{name}.pem")) + &bed.text(&format!("{name}.key"));
        bed.replace(&format!("{name}-both.pem"), &both);
    }
    let allowed = CATALOGUE.iter().filter(|one| {
        matches!(one.group, InteractionGroup::Appointments | InteractionGroup::Foundations)
    });
    let interactions: String = allowed
        .map(|one| {
            let template = one.template();
            let word = template.split('/').find(|word| !word.is_empty()).unwrap();
            format!("{} {}|{word}|{}\n", one.id, one.method, one.scope)
        })
        .collect();
    bed.replace("interactions.map", &interactions);
    bed.replace("names.map", &format!("{HUB} hub.example.nhs.uk\n"));
    bed.replace("organisations.map", &format!("{HUB} {HUB_ODS}\n"));
    bed.replace("roots.map", &format!("{TO} {ROOT}\n{OTHER_TO} {OTHER_ROOT}\n"));
    let rules = match kind {
        Kind::HaproxyChecks => include_str!("haproxy-checks.cfg"),
        Kind::SpineProxy | Kind::Haproxy | Kind::Hyper => include_str!("haproxy-plain.cfg"),
    };
    include_str!("haproxy.cfg")
        .replace("@rules@", rules)
        .replace("@folder@", &bed.folder.path().display().to_string())
        .replace("@address@", &address.to_string())
        .replace("@provider@", &provider.to_string())
}
