//! The way between two parties, and what can happen on it: delay, reset, half an end, bytes one by
//! one, silence.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What happens to bytes on their way, from the moment it is said, on connections that are there too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mishap {
    /// Nothing.
    None,
    /// They come this much later.
    Latency(Duration),
    /// They come in pieces of so many.
    Slice(usize),
    /// They are swallowed, and nobody says so.
    BlackHole,
    /// The connection is reset with the next of them.
    Reset,
    /// With the next of them the one who dialled is told that nothing more comes; what it sends is
    /// swallowed.
    HalfClose,
}

/// The way to one address.
pub struct Way {
    pub address: SocketAddr,
    /// The mishap of the connections that are accepted now.
    mishap: Arc<Mutex<watch::Sender<Mishap>>>,
}

impl Way {
    pub fn to(there: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let address = listener.local_addr().unwrap();
        let mishap = Arc::new(Mutex::new(watch::Sender::new(Mishap::None)));
        let now = Arc::clone(&mishap);
        tokio::spawn(async move {
            while let Ok((here, _)) = listener.accept().await {
                if let Ok(there) = TcpStream::connect(there).await {
                    let mishaps = now.lock().unwrap().subscribe();
                    tokio::spawn(carry(here, there, mishaps));
                }
            }
        });
        Self { address, mishap }
    }

    /// From now on, this happens.
    pub fn has(&self, mishap: Mishap) {
        self.mishap.lock().unwrap().send_replace(mishap);
    }

    /// From now on, this happens to the connections that are there, and nothing to new ones: a balancer has
    /// failed over and knows none of the old ones.
    pub fn loses_connections(&self, mishap: Mishap) {
        let before = self.mishap.lock().unwrap().clone();
        *self.mishap.lock().unwrap() = watch::Sender::new(Mishap::None);
        before.send_replace(mishap);
    }
}

async fn carry(here: TcpStream, there: TcpStream, mishaps: watch::Receiver<Mishap>) {
    for stream in [&here, &there] {
        stream.set_nodelay(true).unwrap();
    }
    let (mut here_in, mut here_out) = here.into_split();
    let (mut there_in, mut there_out) = there.into_split();
    let out = one_way(&mut here_in, &mut there_out, &mishaps);
    let back = one_way(&mut there_in, &mut here_out, &mishaps);
    let mishap = tokio::select! {
        mishap = out => mishap,
        mishap = back => mishap,
    };
    match mishap {
        Mishap::Reset => {
            let here = here_in.reunite(here_out).unwrap();
            here.set_zero_linger().unwrap();
        }
        Mishap::HalfClose => {
            drop(here_out.shutdown().await);
            let mut swallowed = [0; 4096];
            while here_in.read(&mut swallowed).await.is_ok_and(|count| count > 0) {}
        }
        Mishap::None | Mishap::Latency(_) | Mishap::Slice(_) | Mishap::BlackHole => {}
    }
}

/// Carries bytes until they end, or something ends the connection.
async fn one_way(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    mishaps: &watch::Receiver<Mishap>,
) -> Mishap {
    let mut bytes = [0; 4096];
    loop {
        let count = from.read(&mut bytes).await.unwrap_or(0);
        let mishap = *mishaps.borrow();
        if count == 0 {
            return Mishap::None;
        }
        let piece = match mishap {
            Mishap::None => count,
            Mishap::Latency(latency) => {
                tokio::time::sleep(latency).await;
                count
            }
            Mishap::Slice(piece) => piece,
            Mishap::BlackHole => continue,
            Mishap::Reset | Mishap::HalfClose => return mishap,
        };
        for piece in bytes[..count].chunks(piece) {
            if to.write_all(piece).await.is_err() {
                return Mishap::None;
            }
        }
    }
}
