//! Three gateways with one key for SDS: queries to the directory, and their consumer's failures.
//!
//! `cargo bench --bench fleet` takes about three minutes; `-- --quick` asks for 40 practices instead of 200 and takes
//! about one; `-- --only alone --only together` makes these runs alone. All on loopback, in processes of their own but
//! for SDS and the provider. A simulated SDS answers four queries a second and refuses others with 429; gateways may
//! send as many. A consumer asks for practices that no gateway has looked up before, 12 in 10 s, each of them four
//! times, the first two at once, by service root and by ODS code, in turn at each gateway. The runs:
//!
//! - `alone`: one gateway without Redis, with which the others are compared;
//! - `together`: three gateways that share one Redis;
//! - `redis-away`: the same, and Redis is killed after a third of the time and started again after two thirds;
//! - `gateway-killed`: the same as `together`, and one gateway is killed half way;
//! - `not-sharing`: three gateways without Redis, each with the whole rate.
//!
//! For each run it counts the requests that were served and refused, the queries that reached SDS, those it refused,
//! and the most in any second and in any ten. It ends with 1 if a gateway failed a request that `alone` served (in
//! `redis-away`: a request that was not sent while Redis was away, or soon after), or refused one although the
//! rate was not used up; if sharing gateways sent more than
//! 1.15 times as many queries as one gateway, more than the rate and its burst allow in a window, or one that was
//! refused; or if `not-sharing` had none refused, because then the other figures would say nothing.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a bench prints what it saw, and says by panicking that it cannot go on"
)]

use std::process::ExitCode;

use clap::{Parser, ValueEnum as _};
use futures_util::future::join_all;

#[path = "fleet/consumer.rs"]
mod consumer;
#[path = "fleet/queries.rs"]
mod queries;
#[path = "fleet/report.rs"]
mod report;
#[path = "fleet/run.rs"]
mod run;
#[expect(dead_code, reason = "shared with the tests and the other benches")]
mod support;

use run::{Fleet, Run};

/// Options of the bench.
#[derive(Debug, Parser)]
struct Options {
    /// Practices that are asked for.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(20..=400))]
    practices: u32,
    /// Ask for 40 practices, for a first look.
    #[arg(long, conflicts_with = "practices")]
    quick: bool,
    /// Make this run; may be repeated. A run that is compared with `alone` is not judged by that without it.
    #[arg(long, value_enum)]
    only: Vec<Run>,
    /// Cargo says so.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let practices = if options.quick { 40 } else { options.practices };
    let every = || Run::value_variants().to_vec();
    let runs = if options.only.is_empty() { every() } else { options.only };
    println!("{practices} practices, {} requests in each run.\n", consumer::requests(practices));
    let mut fleets = Vec::new();
    for run in runs {
        match Fleet::start(run, practices).await {
            Some(fleet) => fleets.push(fleet),
            None => println!("**NOT TESTED: {}: redis-server is missing.**\n", run.name()),
        }
    }
    // Each has servers of its own, and waits most of its time: none disturbs the others.
    let outcomes = join_all(fleets.into_iter().map(|fleet| fleet.run(practices))).await;
    report::table(&outcomes);
    report::verdict(&outcomes)
}
