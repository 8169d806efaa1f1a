//! Figures of the runs, and the bounds that they are held to.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use crate::consumer::{End, Sent};
use crate::queries::{Queries, WINDOWS_S};
use crate::run::{Outcome, Run};
use crate::support::figures::{Latencies, ms};

/// Limit: number of queries of sharing gateways, as a multiple of those of one gateway.
const QUERIES_RATIO_MAX: f64 = 1.15;
/// Limit: least share of the rate that is used while a request waits for the directory in vain. It is not the whole:
/// when Redis comes back, its rate counts as used up for two of the four seconds that a request waits.
const USED_MIN: f64 = 0.5;
/// Time after the return of Redis in which requests may still fail: gateways connect again, and their queues of
/// queries become short.
const RECOVERS: Duration = Duration::from_secs(15);

impl Outcome {
    /// Counts the requests that were not served, by their end.
    fn failures(&self) -> BTreeMap<&str, usize> {
        let mut failures = BTreeMap::new();
        for sent in self.sent.iter().filter(|sent| sent.end != End::Served) {
            *failures.entry(sent.end.name()).or_default() += 1;
        }
        failures
    }

    /// Latencies of the requests that waited for the directory and were served.
    fn first_latencies(&self) -> Latencies {
        let first = self.sent.iter().filter(|sent| sent.is_first && sent.end == End::Served);
        first.map(|sent| sent.took).collect()
    }

    fn cut(&self) -> impl Iterator<Item = &Sent> {
        self.sent.iter().filter(|sent| sent.cut.is_some())
    }

    /// Returns true if a request may fail because of the run's disturbance.
    fn may_fail(&self, sent: &Sent) -> bool {
        let Some((begin, end)) = self.disturbed else { return false };
        self.run == Run::RedisAway
            && sent.began + sent.took >= begin
            && sent.began <= end + RECOVERS
    }

    /// Seconds from the return of Redis to the last request that failed, 0 if that was before; `None` if Redis was not
    /// away.
    fn last_failure_after_redis(&self) -> Option<f64> {
        let (_, back) = self.disturbed.filter(|_| self.run == Run::RedisAway)?;
        let failed = self.sent.iter().filter(|sent| sent.end != End::Served);
        let after = failed.map(|sent| sent.began.saturating_duration_since(back));
        Some(after.max().unwrap_or_default().as_secs_f64())
    }

    /// Least share of the rate that was used while a request waited that failed; `None` if none failed.
    fn used_at_failures(&self) -> Option<f64> {
        let failed = self.sent.iter().filter(|sent| sent.end != End::Served);
        failed.map(|sent| self.queries.share(sent.began, sent.took)).min_by(f64::total_cmp)
    }

    /// Counts the requests that failed here and not in another run, without those that may fail.
    fn failed_unlike(&self, other: &Self) -> usize {
        let pairs = self.sent.iter().zip(&other.sent);
        let failed = pairs.filter(|(here, there)| {
            here.end != End::Served && there.end == End::Served && !self.may_fail(here)
        });
        failed.count()
    }
}

/// Prints the figures of all runs.
pub(crate) fn table(outcomes: &[Outcome]) {
    println!(
        "| run | requests | served | failed | first requests, p50/p99/most, ms | queries | refused with 429 | most in 1 s | in 10 s | sent to the next gateway | cut and repeated |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for outcome in outcomes {
        let failures = outcome.failures();
        let failed: usize = failures.values().sum();
        let Queries { count, refused, most: [most_1_s, most_10_s], .. } = &outcome.queries;
        let first = outcome.first_latencies();
        let first = [50, 99, 100].map(|percent| ms(first.percentile(percent))).join("/");
        println!(
            "| {} | {} | {} | {} | {first} | {count} | {refused} | {most_1_s} | {most_10_s} | {} | {} |",
            outcome.run.name(),
            outcome.sent.len(),
            outcome.sent.len() - failed,
            list(&failures),
            outcome.sent.iter().filter(|sent| sent.turned_away > 0).count(),
            outcome.cut().count(),
        );
    }
    println!("\nWarnings and errors in the gateways' logs:\n");
    for outcome in outcomes {
        println!("- {}: {}.", outcome.run.name(), list(&outcome.trouble));
    }
}

fn list<K: std::fmt::Display>(counts: &BTreeMap<K, usize>) -> String {
    let counts = counts.iter().map(|(name, count)| format!("{count} × {name}"));
    let counts: Vec<_> = counts.collect();
    if counts.is_empty() { "none".to_owned() } else { counts.join(", ") }
}

/// Prints every bound, kept or broken. Returns a failure if one is broken.
pub(crate) fn verdict(outcomes: &[Outcome]) -> ExitCode {
    let alone = outcomes.iter().find(|outcome| outcome.run == Run::Alone);
    println!("\n| run | bound | verdict | measured |");
    println!("|---|---|---|---|");
    let mut is_kept = true;
    for outcome in outcomes {
        for Bound { name, kept, measured } in bounds(outcome, alone) {
            let verdict = if kept { "kept" } else { "**BROKEN**" };
            println!("| {} | {name} | {verdict} | {measured} |", outcome.run.name());
            is_kept &= kept;
        }
    }
    if is_kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A bound, and the figure that is held to it.
struct Bound {
    name: &'static str,
    kept: bool,
    measured: String,
}

fn bounds(outcome: &Outcome, alone: Option<&Outcome>) -> Vec<Bound> {
    match outcome.run {
        Run::Alone => {
            let failed: usize = outcome.failures().values().sum();
            let mut bounds = rate_bounds(outcome);
            bounds.push(Bound {
                name: "every request is served",
                kept: failed == 0,
                measured: format!("{failed} failed"),
            });
            bounds
        }
        Run::NotSharing => vec![Bound {
            name: "the simulated SDS refuses queries",
            kept: outcome.queries.refused > 0,
            measured: format!("{} refused", outcome.queries.refused),
        }],
        Run::Together | Run::RedisAway | Run::GatewayKilled => {
            let mut bounds = rate_bounds(outcome);
            bounds.push(cut_bound(outcome));
            bounds.extend(alone.map(|alone| failure_bound(outcome, alone)));
            bounds.extend(outcome.used_at_failures().map(used_bound));
            let alone = alone.filter(|_| outcome.run != Run::RedisAway);
            bounds.extend(alone.map(|alone| count_bound(outcome, alone)));
            bounds
        }
    }
}

fn rate_bounds(outcome: &Outcome) -> Vec<Bound> {
    let Queries { refused, most, .. } = &outcome.queries;
    let within =
        WINDOWS_S.iter().zip(most).all(|(window, most)| *most <= Queries::allowed(*window));
    let [allowed_1_s, allowed_10_s] = WINDOWS_S.map(Queries::allowed);
    vec![
        Bound {
            name: "no query is refused with 429",
            kept: *refused == 0,
            measured: format!("{refused} refused"),
        },
        Bound {
            name: "queries keep to the rate and its burst",
            kept: within,
            measured: format!(
                "{} of {allowed_1_s} in a second, {} of {allowed_10_s} in ten",
                most[0], most[1]
            ),
        },
    ]
}

/// Only a request that was under way when its gateway was killed may be cut.
fn cut_bound(outcome: &Outcome) -> Bound {
    let by_kill = |sent: &&Sent| match (outcome.run, outcome.disturbed, sent.cut) {
        (Run::GatewayKilled, Some((begin, end)), Some(cut)) => cut >= begin && sent.began <= end,
        _ => false,
    };
    let odd = outcome.cut().count() - outcome.cut().filter(by_kill).count();
    Bound {
        name: "no connection ends without an answer, except of the gateway that is killed",
        kept: odd == 0,
        measured: format!("{odd} did"),
    }
}

fn failure_bound(outcome: &Outcome, alone: &Outcome) -> Bound {
    let failed = outcome.failed_unlike(alone);
    let (name, measured) = match outcome.last_failure_after_redis() {
        None => ("no request fails that `alone` served", format!("{failed} failed")),
        Some(after) => (
            "no request fails that `alone` served, except while Redis is away and for 15 s after",
            format!("{failed} failed; the last of all was sent {after:.1} s after Redis was back"),
        ),
    };
    Bound { name, kept: failed == 0, measured }
}

/// A request may only be refused because its gateway's part of the rate is used up.
fn used_bound(used: f64) -> Bound {
    Bound {
        name: "while a request waits in vain, at least half of the rate is used",
        kept: used >= USED_MIN,
        measured: format!("{:.0} % or more", used * 100.0),
    }
}

fn count_bound(outcome: &Outcome, alone: &Outcome) -> Bound {
    let ratio = outcome.queries.count as f64 / alone.queries.count.max(1) as f64;
    Bound {
        name: "queries are at most 1.15 times those of `alone`",
        kept: ratio <= QUERIES_RATIO_MAX,
        measured: format!("{ratio:.2} times"),
    }
}
