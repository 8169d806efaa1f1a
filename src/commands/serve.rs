//! `serve`: serves consumers until it is told to stop.

use std::io;
use std::path::Path;

use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Log, LogFormat};
use crate::failure::Failure;
use crate::server::{Prepared, Server};

/// Serves consumers until SIGTERM or SIGINT.
///
/// # Errors
/// Returns an error if the configuration cannot be used or an address cannot be bound.
pub fn run(path: &Path) -> Result<(), Failure> {
    let prepared = Prepared::load(path, 1)?;
    log(&prepared.config.log);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let ended = runtime.block_on(async {
        let mut stop = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let server = Server::start(prepared, Some(path.to_owned()))?;
        let cut = server.cut();
        tokio::select! {
            _ = stop.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: /readyz answers 503; the consumer port closes after drain-delay, then exchanges in flight are finished");
        let mut stopping = std::pin::pin!(server.stop());
        tokio::select! {
            () = &mut stopping => return Ok(()),
            _ = stop.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::warn!("second stop signal received: exchanges in flight are cut off");
        cut.cancel();
        stopping.await;
        Ok(())
    });
    runtime.shutdown_background();
    ended
}

/// Crates of this project, whose messages have the level that the configuration sets.
const OUR_CRATES: [&str; 3] = [env!("CARGO_CRATE_NAME"), "audit_journal", "gpconnect_simulator"];

/// Starts logging to standard error.
///
/// Security: libraries log warnings and errors only, since their messages at lower levels may contain request
/// data.
pub fn log(settings: &Log) {
    let ours = LevelFilter::from(settings.level);
    let filter = Targets::new()
        .with_default(LevelFilter::WARN)
        .with_targets(OUR_CRATES.map(|name| (name, ours)));
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let started = match settings.format {
        LogFormat::Json => registry()
            .with(lines.json().flatten_event(true).with_span_list(false))
            .with(filter)
            .try_init(),
        LogFormat::Human => registry().with(lines).with(filter).try_init(),
    };
    if let Err(error) = started {
        tracing::debug!(%error, "logging has already been started; the first settings stay in force");
    }
}
