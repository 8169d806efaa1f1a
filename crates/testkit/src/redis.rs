//! A real Redis server with a password, and an address that can be moved from one server to another.
//!
//! A test that needs it passes where Redis is not installed and reports that, or fails if `CI` is `true`.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::report_missing;
use super::test_bed::TestBed;

pub const PASSWORD: &str = "invented-password";

pub struct Redis {
    pub address: SocketAddr,
    child: Child,
}

impl Redis {
    pub async fn start(bed: &TestBed) -> Option<Self> {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        Self::start_at(bed, address).await
    }

    /// Starts a server at the address of one that has been stopped.
    pub async fn start_at(bed: &TestBed, address: SocketAddr) -> Option<Self> {
        let started = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--port", &address.port().to_string(), "--requirepass", PASSWORD])
            .arg("--dir")
            .arg(bed.folder.path())
            .stdout(Stdio::null())
            .spawn();
        let child = match started {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                report_missing("redis-server");
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
    /// Makes the server a replica, which answers `READONLY` to every write, as after a failover.
    pub async fn make_replica(&self) {
        let mut stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let commands = format!("AUTH {PASSWORD}\r\nREPLICAOF 127.0.0.1 1\r\nQUIT\r\n");
        stream.write_all(commands.as_bytes()).await.unwrap();
        let mut answers = String::new();
        stream.read_to_string(&mut answers).await.unwrap();
        assert_eq!(answers, "+OK\r\n+OK\r\n+OK\r\n");
    }
}

/// A TCP relay whose target can be changed, as a load balancer changes it at a failover.
pub struct Balancer {
    pub address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
}

impl Balancer {
    pub async fn start(target: SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = Arc::new(Mutex::new(target));
        let current = Arc::clone(&target);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let target = *current.lock().unwrap();
                tokio::spawn(async move {
                    if let Ok(mut server) = tokio::net::TcpStream::connect(target).await {
                        drop(tokio::io::copy_bidirectional(&mut stream, &mut server).await);
                    }
                });
            }
        });
        Self { address, target }
    }

    /// Sets the target of new connections; existing ones stay where they are.
    pub fn set_target(&self, target: SocketAddr) {
        *self.target.lock().unwrap() = target;
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
