//! Processor time of this proxy for one request, beside that of others.
//!
//! `cargo bench --bench peers` builds the program and hyper's relay with the profile `dist`, and runs them and
//! `HAProxy` (Debian's `haproxy`; `taskset` is needed too) on one core, consumers and the provider on another,
//! all on loopback. Rounds are interleaved, proxy after proxy, and a ratio is the median of the rounds' ratios.
//! `-- --scenarios get1k,full --peers haproxy --rounds 3 --seconds 1` measures less, and `-- --program PATH`
//! another program. Ends with 1 if a request was not answered as it must be.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench prints what it saw, and says by panicking that it cannot go on"
)]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;

#[path = "peers/load.rs"]
mod load;
#[path = "peers/proxies.rs"]
mod proxies;
#[path = "peers/relay.rs"]
mod relay;
#[expect(dead_code, reason = "shared with the tests and the other benches")]
mod support;

use load::{Consumer, Load, Pattern, Provider};
use proxies::{Cores, Kind, Programs, Proxy, Settings, post, refused};
use support::servers::installed;
use testkit::{TestBed, TestRequest};

// As the program has it: the relay allocates as well as it does.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A comparison of processor time.
#[derive(Debug, Parser)]
struct Options {
    /// Measure these scenarios alone.
    #[arg(long, value_enum, value_delimiter = ',')]
    scenarios: Vec<Scenario>,
    /// Compare with these proxies alone.
    #[arg(long, value_enum, value_delimiter = ',')]
    peers: Vec<Kind>,
    /// Rounds of each scenario.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Length of a round's window.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=30))]
    seconds: u64,
    /// Measure this program instead of building one; hyper's relay is then built as this bench is.
    #[arg(long)]
    program: Option<PathBuf>,
    /// This bench has the profile `dist` too.
    #[arg(long, hide = true)]
    released: bool,
    /// Cargo says so.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(flatten)]
    relay: relay::Arguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    Get1k,
    Post4k,
    Get20k,
    Get500k,
    One,
    Rate,
    Full,
    Resumed,
    Refused,
    Idle,
    Practices,
    Connections,
    Workers,
}

impl Scenario {
    fn name(self) -> String {
        self.to_possible_value().unwrap().get_name().to_owned()
    }

    /// Its load, and the length of its answers.
    fn load(self) -> (Load, usize) {
        let (call, pattern, lanes, length) = match self {
            Self::Get1k | Self::Idle | Self::Practices | Self::Connections | Self::Workers => {
                (TestRequest::slots(), Pattern::Kept, 32, 1_024)
            }
            Self::Post4k => (post(), Pattern::Kept, 32, 1_024),
            Self::Get20k => (TestRequest::slots(), Pattern::Kept, 32, 20_480),
            Self::Get500k => (TestRequest::slots(), Pattern::Kept, 8, 512_000),
            Self::One => (TestRequest::slots(), Pattern::Kept, 1, 1_024),
            Self::Rate => (TestRequest::slots(), Pattern::Rate(1_000), 16, 1_024),
            Self::Full => (TestRequest::slots(), Pattern::Full, 16, 1_024),
            Self::Resumed => (TestRequest::slots(), Pattern::Resumed, 4, 1_024),
            Self::Refused => (refused(), Pattern::Kept, 32, 1_024),
        };
        let requests = Arc::from([call.bytes()]);
        (Load { pattern, lanes, connections: lanes, requests, status: 200 }, length)
    }

    /// Returns true for a scenario in which proxies are compared by processor time.
    fn compares(self) -> bool {
        !matches!(self, Self::Idle | Self::Practices | Self::Connections | Self::Workers)
    }
}

/// Descriptors that 5,000 connections take in one process.
const DESCRIPTORS_MIN: u64 = 7_000;
/// Numbers of idle connections at which memory is read.
const IDLE: [usize; 2] = [1_000, 5_000];
/// Time for a proxy to be done with what it was sent.
const SETTLES: Duration = Duration::from_secs(6);
/// Share of handshakes, in percent, that must be resumed where all can be.
const RESUMED_MIN_PERCENT: u64 = 90;

const LIMITS: &str = r#"
[listener.limits]
connections-max = 9000
certificate-connections-max = 9000
address-connections-max = 9000
address-handshakes-max = 4000
address-handshakes-per-second = 100000
handshakes-max = 4000
in-hand-max = 8192
idle = "10m"
[throttle]
certificate-per-second = 1000000
consumer-per-second = 1000000
consumer-exchanges-max = 8192
practice-exchanges-max = 4096
practice-consumer-max = 4096
practice-waiting-max = 4096
delay-max = "10m"
"#;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = Options::parse();
    let relay::Arguments { relay_folder, relay_address, relay_provider } = &options.relay;
    if let (Some(folder), Some(address), Some(provider)) =
        (relay_folder, relay_address, relay_provider)
    {
        relay::serve(folder, *address, *provider).await;
        return ExitCode::SUCCESS;
    }
    let Some(program) = options.program.clone() else { return released() };
    if !options.released {
        println!("**hyper's relay is built as this bench is, perhaps not as the program.**\n");
    }
    let bench = Bench::prepare(options, program).await;
    bench.compare().await;
    if bench.is_wanted(Scenario::Idle) {
        bench.idle().await;
    }
    bench.numbers().await;
    match bench.failed.get() {
        0 => ExitCode::SUCCESS,
        failed => {
            println!("\n**{failed} MEASUREMENTS WERE NOT AS THEY MUST BE: see above.**");
            ExitCode::FAILURE
        }
    }
}

struct Bench {
    options: Options,
    programs: Programs,
    bed: TestBed,
    provider: Provider,
    failed: Cell<usize>,
}

/// One proxy under one load, by a name.
type Subject<'a> = (String, &'a Proxy, Load);

impl Bench {
    async fn prepare(options: Options, spine_proxy: PathBuf) -> Self {
        let haproxy = installed("haproxy");
        if haproxy.is_none() {
            println!("**haproxy IS NOT INSTALLED: it is left out of the comparison.**\n");
        }
        let cores = Cores::take();
        if cores.is_none() {
            println!(
                "**NOT PINNED: two cores and taskset are needed. Figures disturb each other.**\n"
            );
        }
        raise_descriptors();
        let bed = TestBed::with(|files| {
            files.add(LIMITS);
            files.set("tls", "sessions-max = 20000");
            files.set("provider", "idle-max = 256");
            files.set("audit", "durability = \"batched\"");
        })
        .await;
        let provider = Provider::start(&bed).await;
        bed.set_provider_address(provider.address).await;
        let programs = Programs { spine_proxy, haproxy, cores };
        Self { options, programs, bed, provider, failed: Cell::new(0) }
    }

    fn is_wanted(&self, scenario: Scenario) -> bool {
        self.options.scenarios.is_empty() || self.options.scenarios.contains(&scenario)
    }

    /// Starts all proxies that are to be compared, ours first.
    async fn proxies(&self, prefix: &str) -> Vec<Proxy> {
        let mut proxies = Vec::new();
        for kind in Kind::value_variants() {
            let wanted = self.options.peers.is_empty() || self.options.peers.contains(kind);
            if *kind == Kind::SpineProxy || wanted {
                let name = format!("{prefix}-{}", kind.name());
                let world = (&self.bed, &self.provider);
                proxies.extend(Proxy::start(*kind, &name, &self.programs, world).await);
            }
        }
        proxies
    }

    /// Measures all subjects in turn, round by round: microseconds for each request.
    async fn interleave(&self, subjects: &[Subject<'_>]) -> Vec<Vec<f64>> {
        let mut rounds = Vec::new();
        for round in 1..=self.options.rounds {
            let mut figures = Vec::new();
            for (name, proxy, load) in subjects {
                let resumes = load.pattern == Pattern::Resumed;
                let consumer = Consumer::new(&self.bed, proxy.address, resumes);
                let window = Duration::from_secs(self.options.seconds);
                let own = std::process::id();
                let cpu = || [proxy.id, own].map(proxies::processor_time);
                let counted = consumer.measure(load.clone(), window, cpu).await;
                let [figure, own] = counted.microseconds();
                let answers = counted.answers;
                eprintln!(
                    "{name}, round {round}: {answers} answers, {figure:.1} µs, load {own:.1} µs"
                );
                let few = resumes && counted.resumed * 100 < counted.opened * RESUMED_MIN_PERCENT;
                if counted.answers == 0 || counted.failed > 0 || few {
                    println!("**WRONG: {name}, round {round}: {counted:?}**");
                    self.failed.set(self.failed.get() + 1);
                }
                figures.push(figure);
            }
            rounds.push(figures);
        }
        rounds
    }

    async fn compare(&self) {
        let scenarios = Scenario::value_variants().iter().copied();
        let scenarios: Vec<_> =
            scenarios.filter(|one| one.compares() && self.is_wanted(*one)).collect();
        if scenarios.is_empty() {
            return;
        }
        let proxies = self.proxies("compared").await;
        for proxy in &proxies {
            proxy.is_tried(&self.bed, &self.provider).await;
        }
        println!("| scenario | spine-proxy, µs | × haproxy | × haproxy-checks | × hyper |");
        println!("|---|---|---|---|---|");
        for scenario in scenarios {
            let mut subjects = Vec::new();
            for proxy in &proxies {
                let (mut load, length) = scenario.load();
                self.provider.answers(length);
                if scenario == Scenario::Refused {
                    if !proxy.kind.refuses() {
                        continue;
                    }
                    load.status = refused().send_to(&self.bed, proxy.address).await.status;
                }
                let name = format!("{}, {}", scenario.name(), proxy.kind.name());
                subjects.push((name, proxy, load));
            }
            let rounds = self.interleave(&subjects).await;
            let ours = median(rounds.iter().map(|figures| figures[0]));
            let cells = Kind::value_variants().iter().skip(1).map(|kind| {
                let at = subjects.iter().position(|(_, proxy, _)| proxy.kind == *kind);
                let ratio = |at: usize| median(rounds.iter().map(|all| all[0] / all[at]));
                at.map_or("–".to_owned(), |at| format!("{:.2}", ratio(at)))
            });
            let cells = cells.collect::<Vec<_>>().join(" | ");
            println!("| {} | {ours:.1} | {cells} |", scenario.name());
        }
    }

    /// Memory of idle connections, of proxies that have done nothing else.
    async fn idle(&self) {
        println!("\n| idle connections | KiB at the start | KiB each of 1,000 | of 5,000 |");
        println!("|---|---|---|---|");
        self.provider.answers(1_024);
        for proxy in self.proxies("idle").await {
            let consumer = Consumer::new(&self.bed, proxy.address, false);
            let (load, _) = Scenario::Idle.load();
            let (mut held, mut cells) = (Vec::new(), Vec::new());
            let start = proxy.resident_kib();
            for count in IDLE {
                held.extend(consumer.open(count - held.len(), &load).await);
                tokio::time::sleep(SETTLES).await;
                let each = (proxy.resident_kib() - start) / held.len().max(1) as f64;
                cells.push(format!("{each:.1}"));
                if held.len() < count {
                    println!("**WRONG: {} has {} connections**", proxy.kind.name(), held.len());
                    self.failed.set(self.failed.get() + 1);
                }
            }
            println!("| {} | {start:.0} | {} |", proxy.kind.name(), cells.join(" | "));
        }
    }

    /// Numbers of practices, connections and workers, each proxy against itself.
    async fn numbers(&self) {
        self.provider.answers(1_024);
        let mut heading = "\n| proxy with | µs | × the first |\n|---|---|---|";
        if self.is_wanted(Scenario::Practices) {
            let mut proxies = Vec::new();
            for count in [10, 1_000, 10_000] {
                let (name, directory) = (format!("practices-{count}"), self.directory(count));
                let settings = Settings { name: &name, workers: 1, directory: &directory };
                let proxy = Proxy::gateway(&settings, &self.programs, &self.bed);
                proxies.push((count, proxy));
            }
            let subjects = proxies.iter().map(|(count, proxy)| {
                let (load, _) = Scenario::Practices.load();
                let calls = (0..100).map(|at| practice_call(at * count / 100).bytes());
                let load = Load { requests: calls.collect(), ..load };
                (format!("spine-proxy, {count} practices"), proxy, load)
            });
            self.against_the_first(&mut heading, &subjects.collect::<Vec<_>>()).await;
        }
        if self.is_wanted(Scenario::Connections) {
            for proxy in self.proxies("connections").await {
                let subjects = [32, 1_000, 5_000].map(|connections| {
                    let (load, _) = Scenario::Connections.load();
                    let name = format!("{}, {connections} connections", proxy.kind.name());
                    (name, &proxy, Load { connections, ..load })
                });
                self.against_the_first(&mut heading, &subjects).await;
            }
        }
        if self.is_wanted(Scenario::Workers) {
            let proxies = [1, 2].map(|workers| {
                let name = format!("workers-{workers}");
                let settings = Settings { name: &name, workers, directory: "directory.toml" };
                (workers, Proxy::gateway(&settings, &self.programs, &self.bed))
            });
            let subjects = proxies.each_ref().map(|(workers, proxy)| {
                (format!("spine-proxy, {workers} workers"), proxy, Scenario::Workers.load().0)
            });
            self.against_the_first(&mut heading, &subjects).await;
        }
    }

    async fn against_the_first(&self, heading: &mut &str, subjects: &[Subject<'_>]) {
        let rounds = self.interleave(subjects).await;
        if !heading.is_empty() {
            println!("{}", std::mem::take(heading));
        }
        for (at, (name, ..)) in subjects.iter().enumerate() {
            let figure = median(rounds.iter().map(|figures| figures[at]));
            let ratio = median(rounds.iter().map(|figures| figures[at] / figures[0]));
            println!("| {name} | {figure:.1} | {ratio:.2} |");
        }
    }

    /// Writes a directory of so many practices, and returns its file's name.
    fn directory(&self, count: usize) -> String {
        let dial = self.provider.address;
        let practices = (0..count).map(|number| {
            format!(
                "[[provider]]\nods = \"{0}\"\nasid = \"{1}\"\nparty-key = \"{0}-1000001\"\n\
                 cpa-id = \"S1{number:011}\"\nroot = \"{2}\"\ninteractions = [\"appointments\"]\n\
                 dial = \"{dial}\"\n",
                practice_ods(number),
                practice_asid(number),
                practice_root(number),
            )
        });
        let consumers = self.bed.text("directory.toml");
        let (consumers, _) = consumers.split_once("[[provider]]").unwrap();
        let agreement = format!(
            "[[agreement]]\nfrom = [\"{}\"]\nto = \"every-practice\"\n",
            testkit::test_bed::HUB
        );
        let text = format!("{consumers}{}{agreement}", practices.collect::<String>());
        let name = format!("directory-{count}.toml");
        self.bed.replace(&name, &text);
        name
    }
}

fn practice_ods(number: usize) -> String {
    format!("Z{number:05}")
}

fn practice_asid(number: usize) -> String {
    format!("9190000{number:05}")
}

fn practice_root(number: usize) -> String {
    format!("https://provider.example.nhs.uk/{}/STU3/1/gpconnect", practice_ods(number))
}

fn practice_call(number: usize) -> TestRequest {
    let (call, root) = (TestRequest::slots(), practice_root(number));
    let target = call.target.replace(testkit::test_bed::ROOT, &root);
    call.target(&target).set("Ssp-To", &practice_asid(number)).claim("aud", root.into())
}

/// Builds the program and this bench with the profile `dist`, and becomes that bench.
fn released() -> ExitCode {
    eprintln!("The program and this bench are built with the profile dist.");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--profile", "dist", "--bin", "spine-proxy", "--bench", "peers"])
        .arg("--message-format=json")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo starts");
    let artifacts = String::from_utf8(built.stdout).unwrap();
    let executables = artifacts.lines().filter_map(|line| {
        let artifact: Value = serde_json::from_str(line).ok()?;
        let executable = artifact["executable"].as_str()?.to_owned();
        Some((artifact["target"]["name"].as_str()?.to_owned(), executable))
    });
    let executables: BTreeMap<_, _> = executables.collect();
    let of = |name| executables.get(name).expect("the profile builds");
    let mut bench = Command::new(of("peers"));
    bench.args(std::env::args_os().skip(1)).args(["--released", "--program", of("spine-proxy")]);
    panic!("{}", bench.exec());
}

/// Lets this process, and those it starts, have as many descriptors as they may.
fn raise_descriptors() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        println!("**The limit of descriptors cannot be raised: {error}.**\n");
    }
    if maximum.is_some_and(|maximum| maximum < DESCRIPTORS_MIN) {
        println!("**5,000 connections need {DESCRIPTORS_MIN} descriptors: raise `ulimit -Hn`.**\n");
    }
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<_> = figures.collect();
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    if figures.len() % 2 == 1 {
        figures[middle]
    } else {
        f64::midpoint(figures[middle - 1], figures[middle])
    }
}
