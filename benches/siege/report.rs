//! What the consumer noticed, as a table.

use std::process::ExitCode;

use crate::Options;
use crate::attack::Attack;
use crate::consumer::Measured;
use crate::support::figures::{Latencies, ms, ratio};
use crate::support::program::Counted;

/// One attack and what the consumer noticed.
pub(crate) struct Siege {
    pub(crate) attack: Attack,
    /// What the attackers say they sent.
    pub(crate) said: String,
    /// Connections open once the attack had unfolded.
    pub(crate) held: u64,
    /// What the proxy counted of it.
    pub(crate) counted: String,
    pub(crate) quiet: Measured,
    pub(crate) under: Measured,
}

/// More than this is said in words.
const RATIO_MAX: f64 = 2.0;

/// What the proxy turned away meanwhile, by its metrics.
pub(crate) fn counted(before: &Counted, after: &Counted) -> String {
    let mut seen = Vec::new();
    for name in ["connections_refused_total", "connection_errors_total", "refusals_total"] {
        let earlier = before.every(name);
        for (label, count) in after.every(name) {
            let was = earlier.iter().find(|(other, _)| *other == label).map_or(0, |(_, was)| *was);
            if count > was {
                let label = label.split('"').nth(1).unwrap_or_default();
                seen.push(format!("{} {label}", count - was));
            }
        }
    }
    if seen.is_empty() { "–".to_owned() } else { seen.join(", ") }
}

pub(crate) fn head(options: &Options) {
    let Options { seconds, rate, addresses, .. } = options;
    println!(
        "A consumer at 127.0.0.1 sends {rate} requests a second over ten kept connections, and twice a second \
         one over a\nnew connection, for {seconds} s in peace and {seconds} s under each attack. The attackers are \
         one process of its own at\nnice 19, from {addresses} loopback addresses (a handshake flood: from one). An \
         insider has another consumer's valid\ncertificate. The proxy runs with its default limits, a worker a \
         core. Milliseconds, counted from when a\nrequest is due. Timed out \
         is what had no answer after 5 s, or could not even be sent because those before it had none.\n"
    );
    println!(
        "| attack | p50 / p90 / p99 / worst in peace | under attack | p50, p90 × | new connections p50 / p90 in peace | under attack | refused | timed out |"
    );
    println!("|---|---|---|---|---|---|---|---|");
}

impl Siege {
    pub(crate) fn print(&self) {
        let kept = |measured: &Measured| said(&measured.kept, &[50, 90, 99, 100]);
        let fresh = |measured: &Measured| said(&measured.fresh, &[50, 90]);
        let ratios = match self.under.kept.count() {
            0 => "–".to_owned(),
            _ => self.ratios().map(|ratio| format!("{ratio:.1}")).join(", "),
        };
        println!(
            "| {} | {} | {} | {ratios} | {} | {} | {} | {} |",
            self.attack.name(),
            kept(&self.quiet),
            kept(&self.under),
            fresh(&self.quiet),
            fresh(&self.under),
            self.under.refusals(),
            self.under.timed_out,
        );
    }

    fn ratios(&self) -> [f64; 2] {
        [50, 90].map(|p| ratio(self.under.kept.percentile(p), self.quiet.kept.percentile(p)))
    }
}

/// These percentiles, if anything was answered at all.
fn said(latencies: &Latencies, percents: &[usize]) -> String {
    let said = percents.iter().map(|percent| match latencies.count() {
        0 => "–".to_owned(),
        _ => ms(latencies.percentile(*percent)),
    });
    said.collect::<Vec<_>>().join(" / ")
}

/// What was sent, then what is not as it should be.
pub(crate) fn verdict(sieges: &[Siege], options: &Options) -> ExitCode {
    println!(
        "\n| attack | what was sent | connections open meanwhile | turned away by the proxy |"
    );
    println!("|---|---|---|---|");
    for siege in sieges {
        let Siege { attack, said, held, counted, .. } = siege;
        println!("| {} | {said} | {held} | {counted} |", attack.name());
    }
    println!();
    let (mut failed, mut slow) = (0, 0);
    for siege in sieges {
        let name = siege.attack.name();
        if !siege.quiet.is_whole() {
            failed += 1;
            println!(
                "NOT EVEN IN PEACE: before {name}, refused {}, timed out {}",
                siege.quiet.refusals(),
                siege.quiet.timed_out
            );
        }
        if !siege.under.is_whole() {
            failed += 1;
            println!(
                "NOTICED: {name}: refused {}, timed out {}, of them on new connections {}",
                siege.under.refusals(),
                siege.under.timed_out,
                siege.under.fresh_failed
            );
        }
        let [p50, p90] = siege.ratios();
        if p50.max(p90) > RATIO_MAX {
            slow += 1;
            println!(
                "Slower: {name}: {p50:.1} times at the median, {p90:.1} at the ninetieth percentile"
            );
        }
    }
    match failed + if options.strict { slow } else { 0 } {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
