//! Servers of the distribution beside the program: where they are, and whether they listen.

use std::net::SocketAddr;
use std::process::{Child, Command};
use std::time::Duration;

use tokio::net::TcpStream;

/// A child, ended when dropped.
pub(crate) struct Ended(pub(crate) Child);

impl Drop for Ended {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Pause between two attempts to connect to a server that is being started; a hundred are made.
const PATIENCE: Duration = Duration::from_millis(50);

/// Folders in which distributions keep servers, not all of them in every user's PATH.
const PLACES: [&str; 4] = ["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"];

/// The path of a server that is installed.
pub(crate) fn installed(name: &str) -> Option<String> {
    PLACES
        .iter()
        .map(|place| format!("{place}/{name}"))
        .find(|path| Command::new(path).arg("-v").output().is_ok())
}

/// An address nobody listens at.
pub(crate) async fn free_address() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// Returns true once a server accepts connections at an address, and false after a hundred attempts.
pub(crate) async fn listens(address: SocketAddr) -> bool {
    for _ in 0..100 {
        if TcpStream::connect(address).await.is_ok() {
            return true;
        }
        tokio::time::sleep(PATIENCE).await;
    }
    false
}
