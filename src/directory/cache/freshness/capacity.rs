//! Simulation of ten gateways that share the rate of questions to the directory and its answers, on a simulated
//! clock; `docs/operate/capacity.md` has its results.
//!
//! Ages, refreshes ahead and what a request may use are decided by the rules that the gateway has. What takes
//! time there (turns at the source, answers, waiting requests) is a model in steps of [`TICK_MS`].

use std::fmt::Write as _;

use super::super::super::settings::SourceDeadlines;
use super::super::RegistrationCache;
use super::*;

mod gateway;
mod model;
mod tally;

use model::FleetModel;
use tally::{Outcome, Tally};

const MINUTE_S: i64 = 60;
const HALF_HOUR_S: i64 = 30 * MINUTE_S;
const HOUR_S: i64 = 60 * MINUTE_S;

/// Setting and course of one simulation.
#[derive(Debug, Clone)]
struct SimulatedSetting {
    practices: u32,
    gateways: usize,
    provider: Duration,
    provider_stale: Duration,
    /// Questions a second of all gateways together.
    per_second: u32,
    /// Value of `directory.deadlines.waiting`, in seconds.
    waiting_s: u64,
    course: SimulatedCourse,
}

/// Course of one simulation, and the time of it that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SimulatedCourse {
    /// Gateways that have run for long; the second hour is measured.
    Running,
    /// Gateways that have nothing cached, nor has Redis; the first half hour is measured.
    ColdStart,
    /// Gateways that have run for long, of which one restarts without a snapshot; its next ten minutes are
    /// measured.
    OneRestart,
    /// Gateways that have run for long and all restart at once with their snapshots, while Redis has lost its
    /// answers; the next half hour is measured.
    AllRestart,
}

impl SimulatedSetting {
    const fn new(practices: u32, minutes: [u64; 2], per_second: u32) -> Self {
        let [provider, stale] = minutes;
        Self {
            practices,
            gateways: 10,
            provider: Duration::from_secs(60 * provider),
            provider_stale: Duration::from_secs(60 * stale),
            per_second,
            waiting_s: 4,
            course: SimulatedCourse::Running,
        }
    }

    const fn course(mut self, course: SimulatedCourse) -> Self {
        self.course = course;
        self
    }

    const fn gateways(mut self, gateways: usize) -> Self {
        self.gateways = gateways;
        self
    }

    const fn waiting(mut self, waiting_s: u64) -> Self {
        self.waiting_s = waiting_s;
        self
    }

    fn freshness(&self) -> Freshness {
        Freshness {
            provider: self.provider,
            provider_stale: self.provider_stale,
            stale_writes_max: self.provider.max(Freshness::default().stale_writes_max),
            ..Freshness::default()
        }
    }

    /// Runs the simulation; returns what is measured.
    fn run(&self) -> Tally {
        let mut fleet = FleetModel::new(self);
        match self.course {
            SimulatedCourse::Running => {
                fleet.advance(HOUR_S);
                fleet.is_as_the_cache_has_it();
                fleet.begin_measuring(None);
                fleet.advance(HOUR_S);
            }
            SimulatedCourse::ColdStart => {
                fleet.begin_measuring(None);
                fleet.advance(HALF_HOUR_S);
                fleet.is_as_the_cache_has_it();
            }
            SimulatedCourse::OneRestart => {
                fleet.advance(HALF_HOUR_S);
                fleet.restart(0, false);
                fleet.begin_measuring(Some(0));
                fleet.advance(10 * MINUTE_S);
            }
            SimulatedCourse::AllRestart => {
                fleet.advance(HALF_HOUR_S);
                fleet.restart_all();
                fleet.begin_measuring(None);
                fleet.is_as_the_cache_has_it();
                fleet.advance(HALF_HOUR_S);
            }
        }
        fleet.tally
    }

    /// Returns the row of the document's table.
    fn row(&self, tally: &Tally) -> String {
        let course = match self.course {
            SimulatedCourse::Running => "running",
            SimulatedCourse::ColdStart => "cold start of all",
            SimulatedCourse::OneRestart => "one gateway after a restart",
            SimulatedCourse::AllRestart => "restart of all with snapshots",
        };
        let minutes = |period: Duration| period.as_secs() / 60;
        let mut row = format!(
            "| {} | {} | {}/{} min | {} | {} s | {course} | {:.1} | {:.0}",
            self.practices,
            self.gateways,
            minutes(self.provider),
            minutes(self.provider_stale),
            self.per_second,
            self.waiting_s,
            tally.questions_per_second(),
            tally.percent_of_questions_lost(),
        );
        for outcome in Outcome::ALL {
            write!(row, " | {:.1}", tally.percent(outcome)).unwrap();
        }
        writeln!(
            row,
            " | {:.1} | {} min | {:.0} |",
            tally.percent_of_writes_refused(),
            tally.oldest_s / MINUTE_S,
            tally.redis_calls_per_second(),
        )
        .unwrap();
        row
    }
}

const SETTINGS: [SimulatedSetting; 11] = [
    SimulatedSetting::new(700, [15, 45], 4),
    SimulatedSetting::new(6_500, [15, 45], 4),
    SimulatedSetting::new(6_500, [15, 45], 30),
    SimulatedSetting::new(6_500, [180, 180], 4),
    SimulatedSetting::new(20_000, [360, 360], 4),
    SimulatedSetting::new(6_500, [180, 180], 4).course(SimulatedCourse::OneRestart),
    SimulatedSetting::new(6_500, [180, 180], 4).course(SimulatedCourse::AllRestart),
    SimulatedSetting::new(6_500, [180, 180], 4).course(SimulatedCourse::ColdStart),
    SimulatedSetting::new(6_500, [180, 180], 4).waiting(15).course(SimulatedCourse::ColdStart),
    SimulatedSetting::new(6_500, [180, 180], 4).gateways(2).course(SimulatedCourse::ColdStart),
    SimulatedSetting::new(6_500, [180, 180], 30).course(SimulatedCourse::ColdStart),
];

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operate/capacity.md");
const OPENING: &str = "<!-- simulation -->\n";
const CLOSING: &str = "<!-- /simulation -->";

/// Returns the document's table.
fn table() -> String {
    let mut text = "| practices | gateways | `provider`/`provider-stale` | queries/s allowed | `waiting` | course | queries/s | \
                    of these lost % | fresh % | stale % | waited % | waited in vain, older served % | refused % | \
                    bookings refused % | oldest answer | Redis calls/s |\n\
                    |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    let tallies: Vec<_> = std::thread::scope(|scope| {
        let runs = SETTINGS.each_ref().map(|setting| scope.spawn(|| setting.run()));
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    for (setting, tally) in SETTINGS.iter().zip(&tallies) {
        text += &setting.row(tally);
    }
    text
}

#[test]
fn the_documents_table_of_capacity_is_what_the_simulation_gives() {
    let table = table();
    let document = std::fs::read_to_string(DOCUMENT).unwrap();
    let (before, rest) = document.split_once(OPENING).unwrap();
    let (written, after) = rest.split_once(CLOSING).unwrap();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(DOCUMENT, [before, OPENING, &table, CLOSING, after].concat()).unwrap();
        return;
    }
    assert_eq!(written, table, "UPDATE_DOCS=1 cargo test documents writes the table");
}
