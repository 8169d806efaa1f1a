//! How much memory the configuration allows at the worst: every limit reached at once, every buffer
//! full. What is usual is far below it.

use std::fmt;

use bytesize::ByteSize;

use crate::config::Config;
use crate::forward;
use crate::metrics::Metrics;

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
/// the buffers of TLS.
const CONNECTION: u64 = (256 + 128) * KIB;
/// A refusal that waits for an HTTP/2 window, on each stream.
const REFUSAL: u64 = 2 * KIB;
/// A request in hand besides its head: its record's lines, on their way to the disk in three places, what came of its body and was not sent on, as
/// much of its answer that was not taken, and hyper's buffers either way.
const REQUEST: u64 = (64 + 64 + 64 + 128 + 128) * KIB;
/// An exchange with a provider: hyper's buffers either way, those of TLS, a head and its copy.
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

/// The bound of a configuration.
pub(super) fn bound(config: &Config) -> Bound {
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
            count(limits.connections_max),
            CONNECTION + u64::from(limits.streams_max) * REFUSAL,
        ),
        // Names and values are kept apart, and copied once for the provider.
        requests: times(count(limits.in_hand_max), REQUEST + 3 * heads),
        providers: times(count(limits.in_hand_max), EXCHANGE).saturating_add(idle),
        sessions: times(count(config.tls.sessions_max), SESSION),
        directory: times(practices, PRACTICE).saturating_add(times(absences, ABSENCE)),
        journal: config.audit.segment_size.as_u64() / TABLE_PART,
    }
}

/// Tells the bound.
pub(super) fn publish(config: &Config, metrics: &Metrics) {
    let bound = bound(config);
    tracing::info!(bytes = bound.total(), parts = %bound, "memory at most");
    metrics.memory_bound.set(i64::try_from(bound.total()).unwrap_or(i64::MAX));
}

impl Bound {
    /// All of it.
    pub(super) fn total(&self) -> u64 {
        let Self { base, connections, requests, providers, sessions, directory, journal } = *self;
        let parts = [base, connections, requests, providers, sessions, directory, journal];
        parts.into_iter().fold(0, u64::saturating_add)
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
