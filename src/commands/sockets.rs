//! Listening sockets: handed over by whoever started the process, or bound here.
//!
//! A socket that outlives the process keeps connections waiting in the kernel while one process ends
//! and the next begins, so that a restart refuses nobody.

use std::net::{SocketAddr, TcpListener};

use anyhow::Context as _;
use listenfd::ListenFd;

use super::CommandFailure;
use crate::listener;

/// What has been handed over and not taken.
pub(super) struct InheritedSockets(Vec<(SocketAddr, TcpListener)>);

impl InheritedSockets {
    /// Takes what the environment says has been handed over (`LISTEN_FDS`, `LISTEN_PID`).
    ///
    /// # Errors
    /// What is handed over is no TCP socket that listens.
    pub(super) fn inherited() -> Result<Self, CommandFailure> {
        let mut handed = ListenFd::from_env();
        let mut sockets = Vec::new();
        for number in 0..handed.len() {
            let taken = handed.take_tcp_listener(number);
            let taken = taken.with_context(|| format!("socket {number} that was handed over"));
            if let Some(socket) = taken.map_err(CommandFailure::World)? {
                socket.set_nonblocking(true).map_err(CommandFailure::world)?;
                sockets.push((socket.local_addr().map_err(CommandFailure::world)?, socket));
            }
        }
        Ok(Self(sockets))
    }

    /// The socket of this address, and the address it really has.
    ///
    /// # Errors
    /// It was not handed over, and cannot be bound.
    pub(super) fn take(
        &mut self,
        address: SocketAddr,
    ) -> Result<(tokio::net::TcpListener, SocketAddr), CommandFailure> {
        if let Some(at) = self.0.iter().position(|(handed, _)| *handed == address) {
            let (address, socket) = self.0.swap_remove(at);
            tracing::info!(%address, "handed over");
            let socket =
                tokio::net::TcpListener::from_std(socket).map_err(CommandFailure::world)?;
            return Ok((socket, address));
        }
        let listener = listener::bind(address)
            .with_context(|| format!("cannot listen on {address}"))
            .map_err(CommandFailure::World)?;
        let address = listener.local_addr().map_err(CommandFailure::world)?;
        Ok((listener, address))
    }

    /// The sockets of these addresses, as [`InheritedSockets::take`] finds each.
    ///
    /// # Errors
    /// As [`InheritedSockets::take`].
    pub(super) fn take_all(
        &mut self,
        addresses: &[SocketAddr],
    ) -> Result<Vec<(tokio::net::TcpListener, SocketAddr)>, CommandFailure> {
        addresses.iter().map(|address| self.take(*address)).collect()
    }

    /// Nobody accepts on what is left: connections to it would wait for ever.
    ///
    /// # Errors
    /// Something is left.
    pub(super) fn finish(self) -> Result<(), CommandFailure> {
        match self.0.first() {
            None => Ok(()),
            Some((address, _)) => {
                let why = anyhow::anyhow!("{address} was handed over, and is in no configuration");
                Err(CommandFailure::Configuration(why))
            }
        }
    }
}
