//! The real program over a stage's files, for what only a process can show.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::stage::Stage;

/// The program: its process, where consumers connect, where operators look, and what it has logged.
pub struct Served(pub Child, pub SocketAddr, pub SocketAddr, pub Arc<Mutex<String>>);

impl Served {
    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// The most memory it has had so far.
    pub fn peak_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }

    /// The memory it has now.
    pub fn resident_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    fn status_kib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// A series without labels, from the metrics.
    pub async fn counted(&self, series: &str) -> u64 {
        let metrics = self.metrics().await;
        let prefix = format!("spine_proxy_{series} ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(&prefix));
        value.unwrap_or_else(|| panic!("no {series}")).parse().unwrap()
    }

    /// The metrics, as the admin port tells them.
    pub async fn metrics(&self) -> String {
        get(self.2, "/metrics").await
    }
}

/// Asks the admin port; the whole answer.
pub async fn get(admin: SocketAddr, path: &str) -> String {
    let mut admin = TcpStream::connect(admin).await.unwrap();
    let get = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    admin.write_all(get.as_bytes()).await.unwrap();
    let mut answer = String::new();
    admin.read_to_string(&mut answer).await.unwrap();
    answer
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The real program over the stage's files, at log level trace into a file.
pub fn serve(stage: &Stage) -> Served {
    let text = stage.text("spine-proxy.toml").replace("\"audit\"", "\"own\"");
    serve_by(Command::new(crate::program()), stage, &text)
}

/// The same over another configuration, started by a command that ends in being the program.
pub fn serve_by(command: Command, stage: &Stage, text: &str) -> Served {
    serve_at(command, stage, text, "trace")
}

/// Starts the program at another log level.
pub fn serve_at(mut command: Command, stage: &Stage, text: &str, level: &str) -> Served {
    stage.replace("own.toml", &format!("{text}\n[log]\nlevel = \"{level}\"\n"));
    let mut child = command
        .args(["serve", "--config"])
        .arg(stage.path("own.toml"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut addresses = Vec::new();
    let mut log = String::new();
    while addresses.len() < 2 {
        let line = lines.next().unwrap().unwrap();
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        if value["message"].as_str().is_some_and(|message| message.ends_with("listening")) {
            addresses.push(value["address"].as_str().unwrap().parse().unwrap());
        }
        log.push_str(&line);
    }
    let path = stage.path("own.log");
    let log = Arc::new(Mutex::new(log));
    let logged = Arc::clone(&log);
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let mut log = logged.lock().unwrap();
            log.push_str(&line);
            log.push('\n');
        }
        // Whole or not there.
        let aside = path.with_extension("aside");
        std::fs::write(&aside, &*logged.lock().unwrap()).unwrap();
        std::fs::rename(aside, path).unwrap();
    });
    Served(child, addresses[0], addresses[1], log)
}
