//! A real Redis server with a password, and an address that can be moved from one server to another.
//!
//! A test that needs it passes where Redis is not installed and reports that, or fails if `CI` is `true`.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::report_missing;

pub const PASSWORD: &str = "invented-password";

pub struct Redis {
    pub address: SocketAddr,
    child: Child,
}

impl Redis {
    /// Starts a server whose files are in this folder.
    pub async fn start(folder: &Path) -> Option<Self> {
        Self::start_at(folder, free_address()).await
    }

    /// Starts a server at the address of one that has been stopped.
    pub async fn start_at(folder: &Path, address: SocketAddr) -> Option<Self> {
        Self::start_with(folder, address, &["--port", &address.port().to_string()]).await
    }

    /// Starts a server that speaks TLS alone, with the certificate and key `redis.pem` and `redis.key` in this
    /// folder, and takes only clients whose certificates are issued by `ca.pem`.
    pub async fn start_tls(folder: &Path) -> Option<Self> {
        let address = free_address();
        let file = |name: &str| folder.join(name).display().to_string();
        let (certificate, key, authority) = (file("redis.pem"), file("redis.key"), file("ca.pem"));
        let port = address.port().to_string();
        let tls = ["--port", "0", "--tls-port", &port, "--tls-cert-file", &certificate];
        let clients = ["--tls-key-file", &key, "--tls-ca-cert-file", &authority];
        let arguments = [&tls[..], &clients, &["--tls-auth-clients", "yes"]].concat();
        Self::start_with(folder, address, &arguments).await
    }

    async fn start_with(folder: &Path, address: SocketAddr, arguments: &[&str]) -> Option<Self> {
        let password = format!(">{PASSWORD}");
        let started = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--requirepass", PASSWORD])
            .args(["--user", "gateway", "on", &password, "~spine-proxy:*", "+@all"])
            .args(arguments)
            .arg("--dir")
            .arg(folder)
            .stdout(Stdio::null())
            .spawn();
        let mut child = match started {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                report_missing("redis-server");
                return None;
            }
            child => child.unwrap(),
        };
        while tokio::net::TcpStream::connect(address).await.is_err() {
            assert_eq!(child.try_wait().unwrap(), None, "the server has ended");
            tokio::task::yield_now().await;
        }
        Some(Self { address, child })
    }

    /// Stops the server at once.
    pub fn stop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Sends commands, one on each line, and returns the answers to them.
    pub async fn commands(&self, commands: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let commands = format!("AUTH {PASSWORD}\r\n{commands}\r\nQUIT\r\n");
        stream.write_all(commands.as_bytes()).await.unwrap();
        let mut answers = Vec::new();
        stream.read_to_end(&mut answers).await.unwrap();
        let answers = String::from_utf8_lossy(&answers);
        let answers = answers.strip_prefix("+OK\r\n").and_then(|rest| rest.strip_suffix("+OK\r\n"));
        answers.unwrap().to_owned()
    }

    /// Makes the server a replica, which answers `READONLY` to every write, as after a failover.
    pub async fn make_replica(&self) {
        assert_eq!(self.commands("REPLICAOF 127.0.0.1 1").await, "+OK\r\n");
    }
}

fn free_address() -> SocketAddr {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap()
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
        self.stop();
    }
}
