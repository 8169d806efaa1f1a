//! Samples of the program, and what they say of its promises.

use std::process::ExitCode;

use crate::journal::Journal;
use crate::support::program::Program;

/// One moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) second: u64,
    pub(crate) resident_kib: u64,
    pub(crate) descriptors: usize,
    pub(crate) in_flight: u64,
    pub(crate) connections: u64,
    pub(crate) requests: u64,
    pub(crate) records: u64,
    pub(crate) under_way: usize,
    pub(crate) panics: usize,
}

impl Sample {
    /// Looks at everything.
    pub(crate) async fn of(program: &Program, journal: &mut Journal, second: u64) -> Self {
        let metrics = program.metrics().await;
        journal.follow();
        Self {
            second,
            resident_kib: program.resident_kib(),
            descriptors: program.descriptors(),
            in_flight: metrics.sum("http_requests_in_flight", ""),
            connections: metrics.sum("connections", ""),
            requests: metrics.sum("http_requests_total", ""),
            records: journal.closed,
            under_way: journal.under_way(),
            panics: program.log().panics,
        }
    }

    pub(crate) fn head() {
        println!(
            "| second | resident, MiB | descriptors | in flight | connections | requests counted | closed lines | opened, not closed | panics |"
        );
        println!("|---|---|---|---|---|---|---|---|---|");
    }

    pub(crate) fn print(&self) {
        let Self { second, descriptors, in_flight, connections, .. } = self;
        let Self { requests, records, under_way, panics, .. } = self;
        println!(
            "| {second} | {} | {descriptors} | {in_flight} | {connections} | {requests} | {records} | {under_way} | {panics} |",
            mib(self.resident_kib as f64)
        );
    }

    /// Whether nothing is under way and nothing is left to be written.
    pub(crate) fn is_calm(&self, base: usize) -> bool {
        let idle = self.in_flight + self.connections == 0 && self.under_way == 0;
        idle && self.descriptors <= base && self.records == self.requests
    }
}

/// Descriptors that may be more or fewer at the end: connections to the SDS and to providers come
/// and go.
const DESCRIPTORS_MORE: usize = 5;
/// The last third of the memory may be so many times the second third.
const GROWTH_MAX: f64 = 1.10;

/// Memory over the seconds under load.
#[derive(Debug, Default)]
pub(crate) struct Memory(Vec<u64>);

impl Memory {
    pub(crate) fn push(&mut self, resident_kib: u64) {
        self.0.push(resident_kib);
    }

    /// Flat if the mean of the last third is at most a tenth over that of the second, and the line
    /// that fits both best grows by no more than a tenth from their beginning to their end. The
    /// first third is warm-up.
    fn judged(&self) -> (bool, String) {
        let third = self.0.len() / 3;
        let (second, last) = self.0[third..].split_at(third);
        let growth = mean(last) / mean(second);
        let slope = slope(&self.0[third..]);
        let risen = slope * (self.0.len() - third) as f64 / mean(second);
        let flat = growth <= GROWTH_MAX && risen <= GROWTH_MAX - 1.0;
        let words = format!(
            "mean of the last third {} MiB, of the second {} MiB: {growth:.3} times; slope {:+.2} MiB a minute",
            mib(mean(last)),
            mib(mean(second)),
            slope * 60.0 / 1024.0
        );
        (flat, words)
    }
}

fn mean(values: &[u64]) -> f64 {
    values.iter().sum::<u64>() as f64 / values.len().max(1) as f64
}

/// KiB a second, by least squares.
fn slope(values: &[u64]) -> f64 {
    let (middle, mean) = ((values.len() as f64 - 1.0) / 2.0, mean(values));
    let (mut over, mut under) = (0.0, 0.0);
    for (second, value) in values.iter().enumerate() {
        let away = second as f64 - middle;
        over += away * (*value as f64 - mean);
        under += away * away;
    }
    if under == 0.0 { 0.0 } else { over / under }
}

fn mib(kib: f64) -> String {
    format!("{:.1}", kib / 1024.0)
}

/// Every promise, kept or broken.
pub(crate) fn verdict(
    memory: &Memory,
    journal: &Journal,
    (first, last): (&Sample, &Sample),
) -> ExitCode {
    let (flat, how) = memory.judged();
    let Sample {
        descriptors, in_flight, connections, requests, records, under_way, panics, ..
    } = *last;
    let (base, away) = (first.descriptors, descriptors.abs_diff(first.descriptors));
    let Journal { opened, odd, .. } = *journal;
    let promises = [
        ("memory is flat after warm-up", flat, how),
        (
            "descriptors are back",
            away <= DESCRIPTORS_MORE,
            format!(
                "{base} before the load, {descriptors} after it, give or take {DESCRIPTORS_MORE}"
            ),
        ),
        (
            "gauges are at nought",
            in_flight + connections == 0,
            format!("{in_flight} requests in flight, {connections} connections"),
        ),
        ("nothing panicked", panics == 0, format!("{panics} panics in the log")),
        (
            "records are requests",
            records == requests && under_way == 0 && odd == 0,
            format!(
                "{requests} requests counted, {records} closed lines; {opened} opened, {under_way} of them never closed; {odd} odd lines or gaps"
            ),
        ),
    ];
    println!("\n| promise | verdict | how it is judged |");
    println!("|---|---|---|");
    for (promise, kept, how) in &promises {
        println!("| {promise} | {} | {how} |", if *kept { "kept" } else { "**BROKEN**" });
    }
    match promises.iter().all(|(_, kept, _)| *kept) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
