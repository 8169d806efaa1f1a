//! One run: SDS, a provider, a Redis, gateways, and what happens to them.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use testkit::TestBed;
use testkit::redis::{PASSWORD, Redis};
use testkit::sds::Registry;
use tokio::time::{sleep, sleep_until};

use crate::consumer::{self, Planned, Sent};
use crate::queries::{PER_SECOND, Queries};
use crate::support::program::Program;

/// Number of gateways that share.
const GATEWAYS: usize = 3;
/// Time after the last answer in which look-ups in the background come to their end.
const SETTLES: Duration = Duration::from_secs(12);

/// Time after the beginning of a request at which its gateway is killed: it waits for the directory then.
const UNDER_WAY: Duration = Duration::from_millis(40);

/// A run of the bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Run {
    Alone,
    Together,
    RedisAway,
    GatewayKilled,
    NotSharing,
}

/// Servers of one run.
pub(crate) struct Fleet {
    run: Run,
    // Ended before their files are gone.
    gateways: Vec<Program>,
    redis: Option<Redis>,
    registry: Registry,
    bed: Arc<TestBed>,
}

/// Figures of one run.
pub(crate) struct Outcome {
    pub(crate) run: Run,
    pub(crate) sent: Vec<Sent>,
    pub(crate) queries: Queries,
    /// Begin and end of the disturbance.
    pub(crate) disturbed: Option<(Instant, Instant)>,
    /// Warnings and errors in the gateways' logs, by their message.
    pub(crate) trouble: BTreeMap<String, usize>,
}

impl Run {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Together => "together",
            Self::RedisAway => "redis-away",
            Self::GatewayKilled => "gateway-killed",
            Self::NotSharing => "not-sharing",
        }
    }

    /// Returns true if its gateways share one Redis.
    pub(crate) fn shares(self) -> bool {
        !matches!(self, Self::Alone | Self::NotSharing)
    }
}

impl Fleet {
    /// Starts all servers; `None` if Redis is needed and missing.
    pub(crate) async fn start(run: Run, practices: u32) -> Option<Self> {
        // One consumer stands for all that there are, and is not limited by its own budget of look-ups.
        let budget = "misses-per-minute = 10000";
        let mut registry = Registry::new(consumer::records(practices), budget).await;
        registry.queries_per_second = PER_SECOND;
        set_private(&registry.folder.path().join("key"));
        registry.sds.set_rate(Some(Queries::rate()));
        let bed = Arc::new(registry.test_bed().await);
        let redis = match run.shares() {
            true => Some(Redis::start(bed.folder.path()).await?),
            false => None,
        };
        let sharing = redis.as_ref().map(|redis| sharing(&bed, redis)).unwrap_or_default();
        let count = if run == Run::Alone { 1 } else { GATEWAYS };
        let gateways = (1..=count).map(|number| {
            let command = Command::new(env!("CARGO_BIN_EXE_spine-proxy"));
            let name = format!("gateway-{number}");
            Program::start_as(&name, command, &bed, |text| format!("{text}\n{sharing}"))
        });
        let gateways = gateways.collect();
        Some(Self { run, registry, bed, redis, gateways })
    }

    /// Sends all requests, disturbs meanwhile, and counts.
    pub(crate) async fn run(mut self, practices: u32) -> Outcome {
        let addresses: Vec<_> = self.gateways.iter().map(Program::address).collect();
        let (begin, bed) = (Instant::now(), Arc::clone(&self.bed));
        let (sent, disturbed) = tokio::join!(
            consumer::send_all(&bed, &addresses, practices, begin),
            self.disturb(begin, practices)
        );
        sleep(SETTLES).await;
        let queries = Queries::of(&self.registry.sds);
        let mut trouble = BTreeMap::new();
        for (message, count) in self.gateways.iter().flat_map(|gateway| gateway.log().trouble) {
            *trouble.entry(message).or_default() += count;
        }
        Outcome { run: self.run, sent, queries, disturbed, trouble }
    }

    /// Does to the servers what the run is about.
    async fn disturb(&mut self, begin: Instant, practices: u32) -> Option<(Instant, Instant)> {
        match self.run {
            Run::Alone | Run::Together | Run::NotSharing => None,
            Run::RedisAway => {
                let address = self.redis.as_ref()?.address;
                let period = Planned::all(practices).last()?.due();
                sleep_until((begin + period / 3).into()).await;
                let gone = Instant::now();
                drop(self.redis.take());
                sleep_until((begin + period * 2 / 3).into()).await;
                self.redis = Redis::start_at(self.bed.folder.path(), address).await;
                Some((gone, Instant::now()))
            }
            Run::GatewayKilled => {
                let last = GATEWAYS - 1;
                let under_way = Planned::half_way(practices, last, GATEWAYS) + UNDER_WAY;
                sleep_until((begin + under_way).into()).await;
                let before = Instant::now();
                self.gateways[last].signal("KILL");
                Some((before, Instant::now()))
            }
        }
    }
}

/// Returns the section of the configuration with which gateways share this Redis.
fn sharing(bed: &TestBed, redis: &Redis) -> String {
    for (name, text) in [("redis.password", PASSWORD), ("redis.key", KEY)] {
        bed.replace(name, text);
        set_private(&bed.path(name));
    }
    let address = redis.address;
    format!(
        "[redis]\nurl = \"redis://{address}/0\"\npassword-file = \"redis.password\"\n\
         key-file = \"redis.key\"\ngateways = {GATEWAYS}\n"
    )
}

fn set_private(path: &Path) {
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

/// An invented key that authenticates shared answers.
const KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
