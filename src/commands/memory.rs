//! How much memory the configuration allows at the worst: every limit reached at once, every buffer
//! full. What is usual is far below it.

use std::fmt;

use bytesize::ByteSize;

use crate::config::Config;
use crate::forward;
use crate::metrics::Metrics;
use crate::throttle::Memory;

/// The parts of the bound, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bound {
    base: u64,
    connections: u64,
    requests: u64,
    providers: u64,
    sessions: u64,
    directory: u64,
    journal: u64,
}

const KIB: u64 = 1024;
/// The program, its threads, what the allocator keeps, and the tables of addresses, certificates and
/// practices.
const BASE: u64 = 96 * 1024 * KIB;
/// A worker's stack, its runtime, its resolver and the names it holds.
const WORKER: u64 = 16 * 1024 * KIB;
/// A consumer's connection: a head or a header block that has not ended, in room for twice as much, and
/// the buffers of TLS. Measured: 50 KiB idle, 170 with the largest head, 210 with the largest header block;
/// with that and 99 refusals that wait, 430.
const CONNECTION: u64 = (256 + 128) * KIB;
/// A refusal that waits for an HTTP/2 window, on each stream.
const REFUSAL: u64 = 2 * KIB;
/// A request in hand besides its head: its record's lines, on their way to the disk in three places, what came of its body and was not sent on, as
/// much of its answer that was not taken, and hyper's buffers either way.
const REQUEST: u64 = (64 + 64 + 64 + 128 + 128) * KIB;
/// An exchange with a provider: hyper's buffers either way, those of TLS, a head and its copy. Measured with
/// its request, without large heads, while nobody takes its answer: 590 KiB over HTTP/1.1, 140 over HTTP/2.
const EXCHANGE: u64 = (128 + 128 + 128 + 2 * 128) * KIB;
/// A connection to a provider that carries nothing.
const IDLE: u64 = 64 * KIB;
/// A TLS session kept for resumption: the longest chain of certificates, and what goes with it.
const SESSION: u64 = 20 * KIB;
/// A practice that is held, with all its interactions (190 MiB for 20,000 were measured); an absence.
const PRACTICE: u64 = 12 * KIB;
const ABSENCE: u64 = KIB;

/// The part of a segment that its table takes while it grows, and the last one's while it is written.
const TABLE_PART: u64 = 6;

/// Numbers of connections and requests in hand that are suggested at least: with fewer a gateway serves
/// nobody well.
const CONNECTIONS_LEAST: usize = 100;
const IN_HAND_LEAST: usize = 20;

/// The bound of a configuration.
pub(super) fn bound(config: &Config) -> Bound {
    let limits = &config.listener.limits;
    bound_with(config, limits.connections_max, limits.in_hand_max)
}

/// The bound of a configuration with other numbers of connections and of requests in hand.
fn bound_with(config: &Config, connections_max: usize, in_hand_max: usize) -> Bound {
    let limits = &config.listener.limits;
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let times = |of: u64, each: u64| of.saturating_mul(each);
    let heads = config.request.head_max.as_u64() + config.request.target_max.as_u64();
    let freshness = &config.directory.freshness;
    let (practices, absences) = match config.directory.is_live() {
        true => (freshness.practices_max, freshness.absent_max),
        false => (0, 0),
    };
    let idle = times(count(config.workers()), times(count(forward::IDLE_MAX), IDLE));
    Bound {
        base: BASE + times(count(config.workers()), WORKER),
        connections: times(
            count(connections_max),
            CONNECTION + u64::from(limits.streams_max) * REFUSAL,
        ),
        // Names and values are kept apart, and copied once for the provider.
        requests: times(count(in_hand_max), REQUEST + 3 * heads),
        providers: times(count(in_hand_max), EXCHANGE).saturating_add(idle),
        sessions: times(count(config.tls.sessions_max), SESSION),
        directory: times(practices, PRACTICE).saturating_add(times(absences, ABSENCE)),
        journal: config.audit.segment_size.as_u64() / TABLE_PART,
    }
}

/// Logs the bound beside the memory that there is, and sets the metric.
pub(super) fn publish(config: &Config, given: Option<Memory>, metrics: &Metrics) {
    let bound = bound(config);
    let given_bytes = given.map(|given| given.bytes);
    tracing::info!(bytes = bound.total(), parts = %bound, given_bytes, "memory at most");
    metrics.memory_bound.set(i64::try_from(bound.total()).unwrap_or(i64::MAX));
}

/// A warning that the bound is above the memory that the process may use, with values of two keys that would
/// bring it below, or the part of it that stands in the way.
pub(super) fn warning(config: &Config, given: Memory) -> Option<String> {
    let total = bound(config).total();
    if total <= given.bytes {
        return None;
    }
    let remedy = match fitting(config, given.bytes) {
        Some((connections_max, in_hand_max)) => format!(
            "set listener.limits.connections-max = {connections_max} and listener.limits.in-hand-max = \
             {in_hand_max}, or give it more"
        ),
        None => {
            let (part, key, bytes) = bound_with(config, 0, 0).largest();
            format!(
                "no useful listener.limits.connections-max and listener.limits.in-hand-max fit it; the largest \
                 part besides is {part} with {}: lower {key}, or give it more",
                ByteSize::b(bytes)
            )
        }
    };
    Some(format!(
        "the configuration allows {} of memory at the worst, and the process may use {given}: {remedy}",
        ByteSize::b(total)
    ))
}

/// The most connections and requests in hand that fit into so much memory, lowered alike from what they are,
/// as round numbers.
fn fitting(config: &Config, given_bytes: u64) -> Option<(usize, usize)> {
    let limits = &config.listener.limits;
    let most = (limits.connections_max, limits.in_hand_max);
    let least = (most.0.min(CONNECTIONS_LEAST), most.1.min(IN_HAND_LEAST));
    let bytes = |(connections, in_hand)| bound_with(config, connections, in_hand).total();
    // The bound grows with both numbers in a straight line.
    let room = u128::from(given_bytes.checked_sub(bytes(least))?);
    let span = u128::from(bytes(most).checked_sub(bytes(least))?).max(1);
    let between = |least: usize, most: usize| {
        let more = u128::try_from(most - least).unwrap_or_default() * room / span;
        round_down(least + usize::try_from(more).unwrap_or_default())
    };
    Some((between(least.0, most.0), between(least.1, most.1)))
}

/// Keeps two digits.
fn round_down(number: usize) -> usize {
    let mut unit = 1;
    while number / unit >= 100 {
        unit *= 10;
    }
    number / unit * unit
}

impl Bound {
    /// All of it.
    pub(super) fn total(&self) -> u64 {
        let Self { base, connections, requests, providers, sessions, directory, journal } = *self;
        let parts = [base, connections, requests, providers, sessions, directory, journal];
        parts.into_iter().fold(0, u64::saturating_add)
    }

    /// The largest part besides connections and requests, and the key that it follows from.
    fn largest(&self) -> (&'static str, &'static str, u64) {
        let parts = [
            ("the program", "listener.workers", self.base),
            ("idle connections to providers", "listener.workers", self.providers),
            ("TLS sessions", "tls.sessions-max", self.sessions),
            ("the directory", "directory.freshness.practices-max", self.directory),
            ("the journal's table", "audit.segment-size", self.journal),
        ];
        parts.into_iter().max_by_key(|(_, _, bytes)| *bytes).unwrap_or_default()
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { base, connections, requests, providers, sessions, directory, journal } = *self;
        let [total, base, connections, requests, providers, sessions, directory, journal] =
            [self.total(), base, connections, requests, providers, sessions, directory, journal]
                .map(ByteSize::b);
        write!(
            out,
            "{total}: program {base}, connections {connections}, requests {requests}, \
             providers {providers}, sessions {sessions}, directory {directory}, journal {journal}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::throttle::Limit;

    const MIB: u64 = 1 << 20;

    /// The example configuration, with four workers and these lines among its limits.
    fn config(limits: &str) -> Config {
        let text = include_str!("../../deploy/spine-proxy.toml");
        let (workers, section) = ("# workers = 4\n", "\n[listener.limits]\n");
        assert!(text.contains(workers) && text.contains(section));
        let text = text.replace(workers, "workers = 4\n");
        let text = text.replace(section, &format!("{section}{limits}\n"));
        Config::parse(&text, "spine-proxy.toml".as_ref()).unwrap()
    }

    fn warned(config: &Config, bytes: u64) -> Option<String> {
        warning(config, Memory { bytes, limit: Limit::Cgroup })
    }

    /// The value that a warning names for a key.
    fn named(text: &str, key: &str) -> usize {
        let (_, rest) = text.split_once(&format!("listener.limits.{key} = ")).unwrap();
        let digits = rest.chars().take_while(char::is_ascii_digit).collect::<String>();
        digits.parse().unwrap()
    }

    #[test]
    fn the_default_configuration_fits_four_gibibytes() {
        assert_eq!(warned(&config(""), 4096 * MIB), None);
        assert!(warned(&config(""), 2048 * MIB).is_some());
    }

    #[test]
    fn a_bound_is_warned_of_from_one_byte_above_the_memory_there_is() {
        let config = config("");
        let total = bound(&config).total();
        assert_eq!(warned(&config, total), None);
        let text = warned(&config, total - 1).unwrap();
        assert!(text.contains("limit of the container or cgroup"), "{text}");
        assert!(text.contains(&ByteSize::b(total).to_string()), "{text}");
    }

    #[test]
    fn values_that_a_warning_suggests_fit_and_use_most_of_the_memory() {
        for limits in [
            "",
            "connections-max = 100000",
            "connections-max = 50",
            "in-hand-max = 7",
            "in-hand-max = 1000000",
            "connections-max = 1000000\nin-hand-max = 1000000\nstreams-max = 1000",
        ] {
            let wanted = config(limits);
            let total = bound(&wanted).total();
            for part in [800 * MIB, 1024 * MIB, 2048 * MIB, total / 100 * 99, total - 1] {
                let given = part.min(total - 1);
                let text = warned(&wanted, given).unwrap();
                let suggested =
                    ["connections-max", "in-hand-max"].map(|key| (key, named(&text, key)));
                let mut fits = wanted.clone();
                fits.listener.limits.connections_max = suggested[0].1;
                fits.listener.limits.in_hand_max = suggested[1].1;
                assert_eq!(warned(&fits, given), None, "{limits}: {text}");
                assert!(suggested.iter().all(|(_, value)| *value > 0), "{limits}: {text}");
                let used = bound(&fits).total();
                assert!(used * 10 >= given * 8, "{limits}: {used} of {given}: {text}");
                let before = &wanted.listener.limits;
                assert!(suggested[0].1 <= before.connections_max, "{limits}: {text}");
                assert!(suggested[1].1 <= before.in_hand_max, "{limits}: {text}");
            }
        }
    }

    #[test]
    fn where_no_values_fit_the_part_that_stands_in_the_way_is_named() {
        for (change, words) in [
            (None, "lower listener.workers"),
            (Some("sessions"), "TLS sessions with 19.1 GiB: lower tls.sessions-max"),
        ] {
            let mut config = config("");
            if change.is_some() {
                config.tls.sessions_max = 1_000_000;
            }
            let text = warned(&config, 256 * MIB).unwrap();
            assert!(text.contains(words), "{text}");
            assert!(!text.contains("connections-max ="), "{text}");
        }
    }
}
