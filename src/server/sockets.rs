//! Listening sockets, inherited from a service manager or bound here.
//!
//! An inherited socket outlives the process. The kernel keeps connections waiting on it while one process
//! ends and the next begins, so that a restart refuses none.

use std::net::{SocketAddr, TcpListener};

use anyhow::Context as _;
use listenfd::ListenFd;

use crate::failure::Failure;
use crate::listener;

/// Inherited sockets that have not been taken yet, by address.
pub(super) struct InheritedSockets(Vec<(SocketAddr, TcpListener)>);

impl InheritedSockets {
    /// Takes all sockets that the environment names (`LISTEN_FDS`, `LISTEN_PID`), besides those that this program
    /// has bound itself.
    ///
    /// Source: `sd_listen_fds(3)`.
    ///
    /// # Errors
    /// Returns an error if one of them is not a listening TCP socket.
    pub(super) fn inherited(bound: Vec<TcpListener>) -> Result<Self, Failure> {
        let mut handed = ListenFd::from_env();
        let mut sockets = Vec::new();
        for socket in bound {
            socket.set_nonblocking(true)?;
            sockets.push((socket.local_addr()?, socket));
        }
        for number in 0..handed.len() {
            let taken = handed.take_tcp_listener(number);
            let taken = taken.with_context(|| {
                format!("inherited socket {number} is not a listening TCP socket")
            });
            if let Some(socket) = taken.map_err(Failure::Environment)? {
                socket.set_nonblocking(true)?;
                sockets.push((socket.local_addr()?, socket));
            }
        }
        Ok(Self(sockets))
    }

    /// Returns the inherited socket of an address, or a newly bound one, with its actual address.
    ///
    /// # Errors
    /// Returns an error if the address was not inherited and cannot be bound.
    pub(super) fn take(
        &mut self,
        address: SocketAddr,
    ) -> Result<(tokio::net::TcpListener, SocketAddr), Failure> {
        if let Some(at) = self.0.iter().position(|(handed, _)| *handed == address) {
            let (address, socket) = self.0.swap_remove(at);
            tracing::info!(%address, "using a listening socket that was open before");
            let socket = tokio::net::TcpListener::from_std(socket)?;
            return Ok((socket, address));
        }
        let listener = listener::bind(address)
            .with_context(|| format!("cannot listen on {address}"))
            .map_err(Failure::Environment)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    }

    /// Returns the sockets of several addresses, each as [`InheritedSockets::take`] does.
    ///
    /// # Errors
    /// Returns the first error of [`InheritedSockets::take`].
    pub(super) fn take_all(
        &mut self,
        addresses: &[SocketAddr],
    ) -> Result<Vec<(tokio::net::TcpListener, SocketAddr)>, Failure> {
        addresses.iter().map(|address| self.take(*address)).collect()
    }

    /// Checks that every inherited socket has been taken; connections to others would never be accepted.
    ///
    /// # Errors
    /// Returns an error that names a socket left over.
    pub(super) fn finish(self) -> Result<(), Failure> {
        match self.0.first() {
            None => Ok(()),
            Some((address, _)) => {
                let why = anyhow::anyhow!(
                    "the inherited socket {address} is not in the configuration: add it to listener.addresses or admin.address, or remove it from the socket unit"
                );
                Err(Failure::Configuration(why))
            }
        }
    }
}
