//! Upper bound of the memory that a configuration allows: every limit reached at once and every buffer full.
//! Usual consumption is far below it.

use std::fmt;

use bytesize::ByteSize;

use crate::config::Config;
use crate::directory;
use crate::forward;
use crate::metrics::Metrics;
use crate::throttle::MemoryLimit;

/// Parts of the memory bound, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MemoryBound {
    base: u64,
    connections: u64,
    requests: u64,
    providers: u64,
    sessions: u64,
    directory: u64,
    journal: u64,
}

const KIB: u64 = 1024;
/// Bytes of the program, its threads, memory that the allocator retains, and the tables of addresses,
/// certificates and practices.
const BASE: u64 = 96 * 1024 * KIB;
/// Bytes of the exchanges whose spans wait to be exported, and of a batch of them, if traces are on.
const TRACES: u64 = 8 * 1024 * KIB;
/// Bytes of one worker: its stack, its runtime, its DNS resolver and the names that this caches.
const WORKER: u64 = 16 * 1024 * KIB;
/// Bytes of one consumer's connection: an unfinished head or header block, in a buffer of up to twice its
/// size, and the buffers of TLS.
///
/// Measured: 20 to 35 KiB idle, 170 KiB with the largest head, 210 KiB with the largest header block, 430 KiB
/// with that and 99 refusals that wait to be sent.
const CONNECTION: u64 = (256 + 128) * KIB;
/// Bytes of one refusal that waits for an HTTP/2 window, for each stream of a connection.
const REFUSAL: u64 = 2 * KIB;
/// Bytes of one request in hand besides its head.
///
/// They are the lines of its record, in three places on their way to the disk; the part of its body that was
/// received and not forwarded; the part of its answer that the consumer has not read; and hyper's buffers in
/// both directions.
const REQUEST: u64 = (64 + 64 + 64 + 128 + 128) * KIB;
/// Bytes of one exchange with a provider: hyper's buffers in both directions, those of TLS, a head and its
/// copy.
///
/// Measured with its request, without large heads, while the consumer does not read the answer: 590 KiB over
/// HTTP/1.1, 140 KiB over HTTP/2.
const EXCHANGE: u64 = (128 + 128 + 128 + 2 * 128) * KIB;
/// Bytes of one idle connection to a provider.
const IDLE: u64 = 64 * KIB;
/// Bytes of one TLS session kept for resumption, with the longest accepted certificate chain.
const SESSION: u64 = 20 * KIB;
/// Bytes of one practice in the directory cache, with all its interactions. Measured: 190 MiB for 20,000.
const PRACTICE: u64 = 12 * KIB;
/// Bytes of one cached absence of the directory.
const ABSENCE: u64 = KIB;

/// Divisor of a journal segment's size that gives the memory in which its index is made: two entries of 16 bytes
/// a line, in a buffer that doubles.
const TABLE_PART: u64 = 6;

/// Smallest number of connections that a warning suggests: fewer would not be useful.
const CONNECTIONS_LEAST: usize = 100;
/// Smallest number of requests in hand that a warning suggests: fewer would not be useful.
const IN_HAND_LEAST: usize = 20;

/// Computes the memory bound of a configuration.
pub(super) fn bound(config: &Config) -> MemoryBound {
    let limits = &config.listener.limits;
    bound_with(config, limits.connections_max, limits.in_hand_max)
}

/// Computes the memory bound of a configuration, with other limits for connections and requests in hand.
fn bound_with(config: &Config, connections_max: usize, in_hand_max: usize) -> MemoryBound {
    let limits = &config.listener.limits;
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let times = |of: u64, each: u64| of.saturating_mul(each);
    let heads = config.request.head_max.as_u64() + config.request.target_max.as_u64();
    let (practices, absences) = match config.directory.is_live() {
        true => (directory::PRACTICES_MAX, directory::ABSENCES_MAX),
        false => (0, 0),
    };
    let idle = times(count(config.workers()), times(count(forward::IDLE_MAX), IDLE));
    let traces = config.traces.as_ref().map_or(0, |_| TRACES);
    MemoryBound {
        base: BASE + times(count(config.workers()), WORKER) + traces,
        connections: times(
            count(connections_max),
            CONNECTION + u64::from(limits.streams_max) * REFUSAL,
        ),
        // A head's bytes, its parsed names and values, and a copy for the provider.
        requests: times(count(in_hand_max), REQUEST + 3 * heads),
        providers: times(count(in_hand_max), EXCHANGE).saturating_add(idle),
        sessions: times(count(config.tls.sessions_max), SESSION),
        directory: times(practices, PRACTICE).saturating_add(times(absences, ABSENCE)),
        journal: config.audit.segment_size.as_u64() / TABLE_PART,
    }
}

/// Logs the memory bound and the memory that the process may use, and sets the metric of the bound.
pub(super) fn publish(config: &Config, given: Option<MemoryLimit>, metrics: &Metrics) {
    let bound = bound(config);
    let given_bytes = given.map(|given| given.bytes);
    tracing::info!(bytes = bound.total(), parts = %bound, given_bytes, "upper bound of the memory that the configuration allows");
    metrics.memory_bound.set(i64::try_from(bound.total()).unwrap_or(i64::MAX));
    let given_bytes = given_bytes.unwrap_or_default();
    metrics.memory_limit.set(i64::try_from(given_bytes).unwrap_or(i64::MAX));
}

/// Warns if the memory bound of a configuration, or of its part in force, is above the memory that the
/// process may use.
///
/// The two differ after a reload with changes that take effect only after a restart.
pub(super) fn warnings(
    config: &Config,
    in_force: &Config,
    given: Option<MemoryLimit>,
) -> Vec<String> {
    let Some(given) = given else { return Vec::new() };
    let is_above = |config| bound(config).total() > given.bytes;
    let mut warnings = Vec::new();
    if bound(in_force) != bound(config) && is_above(in_force) {
        let remedy = match is_above(config) {
            true => remedy(in_force, given.bytes),
            false => "restart to put the new one in force".to_owned(),
        };
        warnings.push(warning(
            "the configuration in force until a restart",
            in_force,
            given,
            &remedy,
        ));
    }
    if is_above(config) {
        let remedy = remedy(config, given.bytes);
        warnings.push(warning("the configuration", config, given, &remedy));
    }
    warnings
}

fn warning(named: &str, config: &Config, given: MemoryLimit, remedy: &str) -> String {
    format!(
        "{named} allows up to {} of memory, and the process may use {given}: {remedy}, or give it more",
        ByteSize::b(bound(config).total())
    )
}

/// Describes values of one or two keys that bring the bound below `given_bytes`, or else the largest other
/// part of the bound.
fn remedy(config: &Config, given_bytes: u64) -> String {
    let limits = &config.listener.limits;
    let Some((connections_max, in_hand_max)) = fitting(config, given_bytes) else {
        let (part, key, bytes) = bound_with(config, 0, 0).largest();
        return format!(
            "even the smallest useful listener.limits.connections-max and listener.limits.in-hand-max do not fit; \
             the largest other part is {part} with {}: lower {key}",
            ByteSize::b(bytes)
        );
    };
    let keys = [
        ("connections-max", limits.connections_max, connections_max),
        ("in-hand-max", limits.in_hand_max, in_hand_max),
    ];
    let keys = keys.into_iter().filter(|(_, before, value)| value != before);
    let keys: Vec<_> =
        keys.map(|(key, _, value)| format!("listener.limits.{key} = {value}")).collect();
    format!("set {}", keys.join(" and "))
}

/// Returns the largest rounded limits for connections and requests in hand that fit into `given_bytes`.
///
/// The limit that takes more memory is lowered first, until both take the same; then both are lowered in
/// proportion.
fn fitting(config: &Config, given_bytes: u64) -> Option<(usize, usize)> {
    let limits = &config.listener.limits;
    let most = (limits.connections_max, limits.in_hand_max);
    let least = (most.0.min(CONNECTIONS_LEAST), most.1.min(IN_HAND_LEAST));
    let bytes = |(connections, in_hand)| bound_with(config, connections, in_hand).total();
    let besides = bytes((0, 0));
    let parts = (bytes((most.0, 0)) - besides, bytes((0, most.1)) - besides);
    let level = match parts.0 > parts.1 {
        true => (scaled(most.0, parts.1.into(), parts.0.into()).max(least.0), most.1),
        false => (most.0, scaled(most.1, parts.0.into(), parts.1.into()).max(least.1)),
    };
    let (from, to) = match bytes(level) <= given_bytes {
        true => (level, most),
        false => (least, level),
    };
    // The bound is linear in both numbers.
    let room = given_bytes.checked_sub(bytes(from))?;
    let span = bytes(to).saturating_sub(bytes(from));
    let between = |from: usize, to: usize| match from == to {
        true => to,
        false => round_down(from + scaled(to - from, room.into(), span.into())),
    };
    Some((between(from.0, to.0), between(from.1, to.1)))
}

/// Returns `number` times the fraction `part / whole`, which is at most one.
fn scaled(number: usize, part: u128, whole: u128) -> usize {
    let scaled = u128::try_from(number).unwrap_or_default() * part / whole.max(1);
    usize::try_from(scaled).unwrap_or(number)
}

/// Rounds down to two significant digits.
fn round_down(number: usize) -> usize {
    let mut unit = 1;
    while number / unit >= 100 {
        unit *= 10;
    }
    number / unit * unit
}

impl MemoryBound {
    /// Returns the sum of all parts, in bytes.
    pub(super) fn total(&self) -> u64 {
        let Self { base, connections, requests, providers, sessions, directory, journal } = *self;
        let parts = [base, connections, requests, providers, sessions, directory, journal];
        parts.into_iter().fold(0, u64::saturating_add)
    }

    /// Returns the largest part besides connections and requests that a key limits, with the key that it depends on and its
    /// bytes.
    fn largest(&self) -> (&'static str, &'static str, u64) {
        let parts = [
            ("the program", "listener.workers", self.base),
            ("idle connections to providers", "listener.workers", self.providers),
            ("TLS sessions", "tls.sessions-max", self.sessions),
            ("the journal's index", "audit.segment-size", self.journal),
        ];
        parts.into_iter().max_by_key(|(_, _, bytes)| *bytes).unwrap_or_default()
    }
}

impl fmt::Display for MemoryBound {
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
    use crate::throttle::MemoryLimitKind;

    const MIB: u64 = 1 << 20;

    /// Returns the example configuration with four workers and these lines among its limits.
    fn config(limits: &str) -> Config {
        let text = include_str!("../../deploy/spine-proxy.toml");
        let (workers, section) = ("# workers = 4\n", "\n[listener.limits]\n");
        assert!(text.contains(workers) && text.contains(section));
        let text = text.replace(workers, "workers = 4\n");
        let text = text.replace(section, &format!("{section}{limits}\n"));
        Config::parse(&text, "spine-proxy.toml".as_ref()).unwrap()
    }

    fn warned(config: &Config, bytes: u64) -> Option<String> {
        let given = MemoryLimit { bytes, limit: MemoryLimitKind::Cgroup };
        let mut found = warnings(config, config, Some(given));
        assert!(found.len() < 2, "{found:?}");
        found.pop()
    }

    /// Returns the value that a warning suggests for a key.
    fn named(text: &str, key: &str) -> Option<usize> {
        let (_, rest) = text.split_once(&format!("listener.limits.{key} = "))?;
        let digits = rest.chars().take_while(char::is_ascii_digit).collect::<String>();
        Some(digits.parse().unwrap())
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
                let mut fits = wanted.clone();
                let limits_of = &mut fits.listener.limits;
                for (key, limit) in [
                    ("connections-max", &mut limits_of.connections_max),
                    ("in-hand-max", &mut limits_of.in_hand_max),
                ] {
                    if let Some(value) = named(&text, key) {
                        assert!((1..*limit).contains(&value), "{limits}: {text}");
                        *limit = value;
                    }
                }
                assert_eq!(warned(&fits, given), None, "{limits}: {text}");
                let used = bound(&fits).total();
                assert!(used * 10 >= given * 8, "{limits}: {used} of {given}: {text}");
            }
        }
    }

    #[test]
    fn a_number_that_takes_little_memory_is_not_lowered_for_one_that_takes_much() {
        for (limits, lowered, kept) in [
            ("connections-max = 1000000", "connections-max", "in-hand-max"),
            ("in-hand-max = 1000000", "in-hand-max", "connections-max"),
        ] {
            let text = warned(&config(limits), 24_000 * MIB).unwrap();
            assert_eq!(named(&text, kept), None, "{text}");
            assert!(named(&text, lowered).unwrap() >= 10_000, "{text}");
        }
        // Neither is lowered to almost nothing while the other is not.
        let text = warned(&config("connections-max = 1000000"), 2048 * MIB).unwrap();
        assert!(named(&text, "connections-max").unwrap() >= 1000, "{text}");
        assert!(named(&text, "in-hand-max").unwrap() >= 500, "{text}");
    }

    #[test]
    fn a_bound_in_force_is_warned_of_until_a_restart() {
        let given = Some(MemoryLimit { bytes: 4096 * MIB, limit: MemoryLimitKind::Cgroup });
        let (fits, large) = (config(""), config("connections-max = 1000000"));
        let larger = config("connections-max = 1000000\nin-hand-max = 1000000");
        let in_force = "the configuration in force until a restart allows";
        assert_eq!(warnings(&fits, &fits, given), [""; 0]);
        let lowered = warnings(&fits, &large, given);
        assert_eq!(lowered.len(), 1, "{lowered:?}");
        assert!(lowered[0].starts_with(in_force), "{lowered:?}");
        assert!(lowered[0].contains("restart to put the new one in force, or"), "{lowered:?}");
        let raised = warnings(&large, &fits, given);
        assert_eq!(raised, warnings(&large, &large, given));
        let both = warnings(&larger, &large, given);
        assert_eq!(both.len(), 2, "{both:?}");
        assert!(both[0].starts_with(in_force) && named(&both[0], "connections-max").is_some());
        assert_eq!(both[1..], warnings(&larger, &larger, given));
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
