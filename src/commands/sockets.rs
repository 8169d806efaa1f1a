//! Listening sockets: handed over by whoever started the process, or bound here.
//!
//! A socket that outlives the process keeps connections waiting in the kernel while one process ends
//! and the next begins, so that a restart refuses nobody.

use std::net::{SocketAddr, TcpListener};

use anyhow::Context as _;
use listenfd::ListenFd;

use super::Failure;
use crate::listener;

/// What has been handed over and not taken.
pub(super) struct Sockets(Vec<(SocketAddr, TcpListener)>);

impl Sockets {
    /// Takes what the environment says has been handed over (`LISTEN_FDS`, `LISTEN_PID`).
    ///
    /// # Errors
    /// What is handed over is no TCP socket that listens.
    pub(super) fn inherited() -> Result<Self, Failure> {
        let mut handed = ListenFd::from_env();
        let mut sockets = Vec::new();
        for number in 0..handed.len() {
            let taken = handed.take_tcp_listener(number);
            let taken = taken.with_context(|| format!("socket {number} that was handed over"));
            if let Some(socket) = taken.map_err(Failure::World)? {
                socket.set_nonblocking(true).map_err(Failure::world)?;
                sockets.push((socket.local_addr().map_err(Failure::world)?, socket));
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
    ) -> Result<(tokio::net::TcpListener, SocketAddr), Failure> {
        if let Some(at) = self.0.iter().position(|(handed, _)| *handed == address) {
            let (address, socket) = self.0.swap_remove(at);
            tracing::info!(%address, "handed over");
            let socket = tokio::net::TcpListener::from_std(socket).map_err(Failure::world)?;
            return Ok((socket, address));
        }
        let listener = listener::bind(address)
            .with_context(|| format!("cannot listen on {address}"))
            .map_err(Failure::World)?;
        let address = listener.local_addr().map_err(Failure::world)?;
        Ok((listener, address))
    }

    /// The sockets of these addresses, as [`Sockets::take`] finds each.
    ///
    /// # Errors
    /// As [`Sockets::take`].
    pub(super) fn take_all(
        &mut self,
        addresses: &[SocketAddr],
    ) -> Result<Vec<(tokio::net::TcpListener, SocketAddr)>, Failure> {
        addresses.iter().map(|address| self.take(*address)).collect()
    }

    /// Nobody accepts on what is left: connections to it would wait for ever.
    ///
    /// # Errors
    /// Something is left.
    pub(super) fn finish(self) -> Result<(), Failure> {
        match self.0.first() {
            None => Ok(()),
            Some((address, _)) => {
                let why = anyhow::anyhow!("{address} was handed over, and is in no configuration");
                Err(Failure::Configuration(why))
            }
        }
    }
}
