//! A real Redis, on a port of its own, with a password.
//!
//! Where it is not installed, a test says so loudly and passes, except where `CI` is `true`.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use super::missing;
use super::stage::Stage;

pub(crate) const PASSWORD: &str = "invented-password";

pub(crate) struct Redis {
    pub(crate) address: SocketAddr,
    child: Child,
}

impl Redis {
    pub(crate) async fn start(stage: &Stage) -> Option<Self> {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        Self::start_at(stage, address).await
    }

    /// On the port of one that is gone.
    pub(crate) async fn start_at(stage: &Stage, address: SocketAddr) -> Option<Self> {
        let started = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--port", &address.port().to_string(), "--requirepass", PASSWORD])
            .arg("--dir")
            .arg(stage.folder.path())
            .stdout(Stdio::null())
            .spawn();
        let child = match started {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                missing("redis-server");
                return None;
            }
            child => child.unwrap(),
        };
        while tokio::net::TcpStream::connect(address).await.is_err() {
            tokio::task::yield_now().await;
        }
        Some(Self { address, child })
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
