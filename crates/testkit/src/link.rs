//! A TCP relay between two peers with faults: delay, reset, half-close, small pieces, lost bytes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A fault of a link, which affects its existing connections too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkFault {
    /// No fault: bytes are relayed.
    None,
    /// Bytes arrive later by this.
    Latency(Duration),
    /// Bytes arrive in pieces of this many.
    Slice(usize),
    /// Bytes are discarded, and the connection stays open.
    BlackHole,
    /// The connection is reset at the next bytes.
    Reset,
    /// At the next bytes the client gets an end of stream; bytes that it sends are discarded.
    HalfClose,
}

/// A relay to one address.
pub struct FaultyLink {
    pub address: SocketAddr,
    /// Fault of the connections that are accepted now.
    fault: Arc<Mutex<watch::Sender<LinkFault>>>,
}

impl FaultyLink {
    pub fn to(target: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let address = listener.local_addr().unwrap();
        let fault = Arc::new(Mutex::new(watch::Sender::new(LinkFault::None)));
        let now = Arc::clone(&fault);
        tokio::spawn(async move {
            while let Ok((here, _)) = listener.accept().await {
                if let Ok(there) = TcpStream::connect(target).await {
                    let faults = now.lock().unwrap().subscribe();
                    tokio::spawn(relay(here, there, faults));
                }
            }
        });
        Self { address, fault }
    }

    /// Sets the fault of all connections, existing ones too.
    pub fn set_fault(&self, fault: LinkFault) {
        self.fault.lock().unwrap().send_replace(fault);
    }

    /// Sets the fault of existing connections, and none for new ones, as when a load balancer fails over.
    pub fn set_fault_of_existing(&self, fault: LinkFault) {
        let before = self.fault.lock().unwrap().clone();
        *self.fault.lock().unwrap() = watch::Sender::new(LinkFault::None);
        before.send_replace(fault);
    }
}

async fn relay(here: TcpStream, there: TcpStream, faults: watch::Receiver<LinkFault>) {
    for stream in [&here, &there] {
        stream.set_nodelay(true).unwrap();
    }
    let (mut here_in, mut here_out) = here.into_split();
    let (mut there_in, mut there_out) = there.into_split();
    let out = one_way(&mut here_in, &mut there_out, &faults);
    let back = one_way(&mut there_in, &mut here_out, &faults);
    let fault = tokio::select! {
        fault = out => fault,
        fault = back => fault,
    };
    match fault {
        LinkFault::Reset => {
            let here = here_in.reunite(here_out).unwrap();
            here.set_zero_linger().unwrap();
        }
        LinkFault::HalfClose => {
            drop(here_out.shutdown().await);
            let mut discarded = [0; 4096];
            while here_in.read(&mut discarded).await.is_ok_and(|count| count > 0) {}
        }
        LinkFault::None | LinkFault::Latency(_) | LinkFault::Slice(_) | LinkFault::BlackHole => {}
    }
}

/// Relays bytes in one direction until they end or a fault ends the connection.
async fn one_way(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    faults: &watch::Receiver<LinkFault>,
) -> LinkFault {
    let mut bytes = [0; 4096];
    loop {
        let count = from.read(&mut bytes).await.unwrap_or(0);
        let fault = *faults.borrow();
        if count == 0 {
            return LinkFault::None;
        }
        let piece = match fault {
            LinkFault::None => count,
            LinkFault::Latency(latency) => {
                tokio::time::sleep(latency).await;
                count
            }
            LinkFault::Slice(piece) => piece,
            LinkFault::BlackHole => continue,
            LinkFault::Reset | LinkFault::HalfClose => return fault,
        };
        for piece in bytes[..count].chunks(piece) {
            if to.write_all(piece).await.is_err() {
                return LinkFault::None;
            }
        }
    }
}
