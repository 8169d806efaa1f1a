//! A real Redis, on a port of its own, with a password.
//!
//! Where it is not installed, a test says so loudly and passes, except where `CI` is `true`.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::missing;
use super::stage::Stage;

pub const PASSWORD: &str = "invented-password";

pub struct Redis {
    pub address: SocketAddr,
    child: Child,
}

impl Redis {
    pub async fn start(stage: &Stage) -> Option<Self> {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        Self::start_at(stage, address).await
    }

    /// On the port of one that is gone.
    pub async fn start_at(stage: &Stage, address: SocketAddr) -> Option<Self> {
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

impl Redis {
    /// Has it say READONLY to whatever would change something, as after a failover.
    pub async fn becomes_a_replica(&self) {
        let mut stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let commands = format!("AUTH {PASSWORD}\r\nREPLICAOF 127.0.0.1 1\r\nQUIT\r\n");
        stream.write_all(commands.as_bytes()).await.unwrap();
        let mut answers = String::new();
        stream.read_to_string(&mut answers).await.unwrap();
        assert_eq!(answers, "+OK\r\n+OK\r\n+OK\r\n");
    }
}

/// An address that leads to one server after another, as that of a failover does.
pub struct Balancer {
    pub address: SocketAddr,
    to: Arc<Mutex<SocketAddr>>,
}

impl Balancer {
    pub async fn start(to: SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let to = Arc::new(Mutex::new(to));
        let leads = Arc::clone(&to);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let to = *leads.lock().unwrap();
                tokio::spawn(async move {
                    if let Ok(mut server) = tokio::net::TcpStream::connect(to).await {
                        drop(tokio::io::copy_bidirectional(&mut stream, &mut server).await);
                    }
                });
            }
        });
        Self { address, to }
    }

    /// Leads new connections elsewhere, and leaves those there are.
    pub fn leads_to(&self, to: SocketAddr) {
        *self.to.lock().unwrap() = to;
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
