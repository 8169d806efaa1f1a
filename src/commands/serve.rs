//! `serve`: serves consumers until it is told to stop.

use std::path::Path;

use super::signals::StopSignals;
use crate::failure::Failure;
use crate::log;
use crate::server::{Prepared, Server};

/// Serves consumers until SIGTERM or SIGINT.
///
/// # Errors
/// Returns an error if the configuration cannot be used or an address cannot be bound.
pub fn run(path: &Path) -> Result<(), Failure> {
    let prepared = Prepared::load_logging(path, 1, log::start)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let ended = runtime.block_on(async {
        let mut signals = StopSignals::new()?;
        let server = Server::start(prepared, Some(path.to_owned()))?;
        let cut = server.cut();
        signals.received().await;
        tracing::info!("stopping: /readyz answers 503; the consumer port closes after drain-delay, then exchanges in flight are finished");
        let mut stopping = std::pin::pin!(server.stop());
        tokio::select! {
            () = &mut stopping => return Ok(()),
            () = signals.received() => {}
        }
        tracing::warn!("second stop signal received: exchanges in flight are cut off");
        cut.cancel();
        stopping.await;
        Ok(())
    });
    runtime.shutdown_background();
    ended
}

/// Logs the failure that ends the process; returns false if the log has not been started, since the
/// configuration could not be read.
pub fn log_failure(failure: &Failure) -> bool {
    let is_started = tracing::dispatcher::has_been_set();
    if is_started {
        let fault = failure.to_string();
        tracing::error!("spine-proxy cannot serve and ends: {}", fault.trim_end());
    }
    is_started
}
