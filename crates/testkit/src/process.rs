//! The program as a process of its own, over a test bed's files.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::test_bed::TestBed;

/// A running gateway process, killed when this is dropped.
pub struct GatewayProcess {
    pub child: Child,
    /// Address for consumers.
    pub address: SocketAddr,
    /// Address of the admin port.
    pub admin: SocketAddr,
    /// Log lines so far.
    pub log: Arc<Mutex<String>>,
}

impl GatewayProcess {
    /// Sends a signal by name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// Peak resident memory so far, in KiB.
    pub fn peak_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }

    /// Resident memory now, in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    fn status_kib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Returns the value of a metric by its name without `spine_proxy_`, and with its labels.
    pub async fn metric(&self, series: &str) -> u64 {
        let metrics = self.metrics().await;
        let prefix = format!("spine_proxy_{series} ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(&prefix));
        value.unwrap_or_else(|| panic!("no {series}")).parse().unwrap()
    }

    /// Returns the metrics as the admin port serves them.
    pub async fn metrics(&self) -> String {
        get(self.admin, "/metrics").await
    }
}

/// Sends a GET request to the admin port and returns the whole answer, its head included.
pub async fn get(admin: SocketAddr, path: &str) -> String {
    let mut admin = TcpStream::connect(admin).await.unwrap();
    let get = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    admin.write_all(get.as_bytes()).await.unwrap();
    let mut answer = String::new();
    admin.read_to_string(&mut answer).await.unwrap();
    answer
}

impl Drop for GatewayProcess {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Starts the program over the test bed's files at log level `trace`; the log is written to `own.log` at its end.
pub fn serve(bed: &TestBed) -> GatewayProcess {
    let text = bed.text("spine-proxy.toml").replace("\"audit\"", "\"own\"");
    serve_with(Command::new(crate::program()), bed, &text)
}

/// Starts the program by a command that becomes it, with `text` as its configuration.
pub fn serve_with(command: Command, bed: &TestBed, text: &str) -> GatewayProcess {
    serve_with_log_level(command, bed, text, "trace")
}

/// Starts the program by a command that becomes it, with a configuration and a log level.
pub fn serve_with_log_level(
    mut command: Command,
    bed: &TestBed,
    text: &str,
    level: &str,
) -> GatewayProcess {
    bed.replace("own.toml", &format!("{text}\n[log]\nlevel = \"{level}\"\n"));
    let mut child = command
        .args(["serve", "--config"])
        .arg(bed.path("own.toml"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut addresses = Vec::new();
    let mut log = String::new();
    while addresses.len() < 2 {
        let line = lines.next().unwrap().unwrap();
        let value: serde_json::Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        if value["message"].as_str().is_some_and(|message| message.ends_with("listening")) {
            addresses.push(value["address"].as_str().unwrap().parse().unwrap());
        }
        log.push_str(&line);
    }
    let path = bed.path("own.log");
    let log = Arc::new(Mutex::new(log));
    let logged = Arc::clone(&log);
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let mut log = logged.lock().unwrap();
            log.push_str(&line);
            log.push('\n');
        }
        // Renamed into place, so that a reader never sees half a log.
        let aside = path.with_extension("aside");
        std::fs::write(&aside, &*logged.lock().unwrap()).unwrap();
        std::fs::rename(aside, path).unwrap();
    });
    GatewayProcess { child, address: addresses[0], admin: addresses[1], log }
}
