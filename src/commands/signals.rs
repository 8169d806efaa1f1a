//! Signals that end a command.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals that end a command, from its creation on; none ends the process by itself any more.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    /// SIGHUP, which a terminal that is closed sends; `None` if it does not end the command.
    hangup: Option<Signal>,
}

impl StopSignals {
    /// Listens for SIGTERM and SIGINT.
    ///
    /// # Errors
    /// Returns an error if the system refuses it.
    pub(super) fn new() -> io::Result<Self> {
        let (terminate, interrupt) = (SignalKind::terminate(), SignalKind::interrupt());
        Ok(Self { terminate: signal(terminate)?, interrupt: signal(interrupt)?, hangup: None })
    }

    /// Listens for SIGTERM, SIGINT and SIGHUP.
    ///
    /// # Errors
    /// Returns an error if the system refuses it.
    #[cfg(feature = "lab")]
    pub(super) fn with_hangup() -> io::Result<Self> {
        Ok(Self { hangup: Some(signal(SignalKind::hangup())?), ..Self::new()? })
    }

    /// Returns when one has come since the creation or the last call.
    pub(super) async fn received(&mut self) {
        let Self { terminate, interrupt, hangup } = self;
        let hangup = async {
            match hangup {
                Some(hangup) => drop(hangup.recv().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = hangup => {}
        }
    }
}
