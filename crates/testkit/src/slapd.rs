//! A real LDAP server, `slapd`, which accepts only LDAPS and requires a client certificate.
//!
//! A test that needs it passes where it is not installed and reports that, or fails if `CI` is `true`.

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use gpconnect_simulator::pki::{IssuedCertificate, Leaf, Pki};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use tokio::sync::watch;

/// Invented practices, with the irregularities of real records.
pub const FIXTURES: &str = include_str!("slapd/fixtures.ldif");
use gpconnect_simulator::sds::SCHEMA;

const PROGRAMS: [&str; 4] =
    ["/usr/sbin", "/usr/lib/openldap", "/usr/libexec", "/usr/libexec/openldap"];
const SCHEMAS: [&str; 2] = ["/etc/ldap/schema", "/etc/openldap/schema"];
const MODULES: [&str; 3] = ["/usr/lib/ldap", "/usr/lib/openldap", "/usr/libexec/openldap"];

/// Settings of an LDAP server.
pub struct SlapdSettings {
    pub ldif: String,
    pub schema: String,
    /// Certificate of the server.
    pub issued: IssuedCertificate,
    /// Authority whose client certificates the server accepts.
    pub authority: String,
    /// Maximum number of entries in a result; beyond it the result code is 4 (`sizeLimitExceeded`).
    pub entries_max: usize,
}

impl SlapdSettings {
    /// Settings of a server with these records and a certificate for `localhost`.
    pub fn new(pki: &Pki, ldif: impl Into<String>) -> Self {
        Self {
            ldif: ldif.into(),
            schema: SCHEMA.to_owned(),
            issued: pki.issue(&Leaf::named("localhost")).unwrap(),
            authority: pki.authority(),
            entries_max: 100,
        }
    }
}

/// A running LDAP server. Its port stays reserved while it is stopped.
pub struct SlapdProcess {
    program: PathBuf,
    folder: TempDir,
    port: Socket,
    child: Option<Child>,
    filters: Arc<watch::Sender<Vec<String>>>,
}

impl SlapdProcess {
    /// Starts a server and returns once it listens, or returns `None` if `slapd` is not installed.
    pub fn start(setup: &SlapdSettings) -> Option<Self> {
        let Some(program) = program() else {
            super::report_missing("slapd");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        put("sds.schema", &setup.schema);
        put("ca.pem", &setup.authority);
        put("server.pem", &setup.issued.chain);
        put("server.key", &setup.issued.key);
        put("slapd.conf", &config(folder.path(), setup.entries_max));
        // A socket that is bound but never listens keeps other processes off this port. The server sets
        // SO_REUSEADDR and can listen there.
        let port = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        port.set_reuse_address(true).unwrap();
        port.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let filters = Arc::new(watch::Sender::new(Vec::new()));
        let mut slapd = Self { program, folder, port, child: None, filters };
        slapd.load(&setup.ldif);
        slapd.restart();
        Some(slapd)
    }

    pub fn port(&self) -> u16 {
        self.port.local_addr().unwrap().as_socket().unwrap().port()
    }

    /// Pauses the process: the kernel accepts connections, and nothing is answered.
    pub fn pause(&self) {
        self.signal("STOP");
        let tasks = format!("/proc/{}/task", self.id());
        let stopped = || {
            std::fs::read_dir(&tasks).unwrap().all(|task| {
                let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
                // The state follows the name, which is in brackets.
                stat.rsplit_once(") ").unwrap().1.starts_with('T')
            })
        };
        while !stopped() {
            std::thread::yield_now();
        }
    }

    /// Resumes the paused process.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// Kills the process: connections are closed, and new ones are refused.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts again at the same port, and returns once it listens.
    pub fn restart(&mut self) {
        self.stop();
        let mut child = Command::new(&self.program)
            .arg("-f")
            .arg(self.folder.path().join("slapd.conf"))
            .args(["-h", &format!("ldaps://127.0.0.1:{}", self.port())])
            // Runs in the foreground and logs every operation.
            .args(["-d", "stats"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        self.child = Some(child);
        wait_until_started(&mut log);
        // That line is logged before it listens.
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port()));
        while TcpStream::connect(address).is_err() {
            let child = self.child.as_mut().unwrap();
            assert!(child.try_wait().unwrap().is_none(), "slapd has ended");
            std::thread::yield_now();
        }
        let filters = Arc::clone(&self.filters);
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                if let Some(filter) = filter(&line) {
                    filters.send_modify(|filters| filters.push(filter.to_owned()));
                }
            }
        });
    }

    /// Starts again with these records and no others.
    pub fn restart_with(&mut self, ldif: &str) {
        self.stop();
        self.load(ldif);
        self.restart();
    }

    /// Returns the filters of all searches so far, once there are `count`.
    pub async fn wait_for_filters(&self, count: usize) -> Vec<String> {
        let mut filters = self.filters.subscribe();
        let enough = filters.wait_for(|filters| filters.len() >= count);
        let result = tokio::time::timeout(Duration::from_secs(10), enough).await;
        result.unwrap_or_else(|_| panic!("{:?}", self.filters.borrow())).unwrap().clone()
    }

    fn load(&self, ldif: &str) {
        let at = |name: &str| self.folder.path().join(name);
        if at("db").exists() {
            std::fs::remove_dir_all(at("db")).unwrap();
        }
        std::fs::create_dir(at("db")).unwrap();
        std::fs::write(at("records.ldif"), ldif).unwrap();
        let loaded = Command::new(&self.program)
            .args(["-Tadd", "-q", "-f"])
            .args([at("slapd.conf").as_os_str(), "-l".as_ref(), at("records.ldif").as_os_str()])
            .output()
            .unwrap();
        assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
    }

    fn signal(&self, name: &str) {
        let id = self.id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap();
        assert!(sent.success());
    }

    fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }
}

impl Drop for SlapdProcess {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn config(folder: &Path, entries_max: usize) -> String {
    let there = |folders: &[&str], file: &str| {
        let found = folders.iter().map(Path::new).find(|folder| folder.join(file).exists());
        found.map(|folder| folder.display().to_string())
    };
    let schemas = there(&SCHEMAS, "core.schema").expect("slapd without its schemas");
    // Some builds contain the database and have no module for it.
    let module = there(&MODULES, "back_mdb.so")
        .map(|modules| format!("modulepath {modules}\nmoduleload back_mdb\n"));
    let (module, folder) = (module.unwrap_or_default(), folder.display());
    format!(
        "include {schemas}/core.schema
include {schemas}/cosine.schema
include {folder}/sds.schema
pidfile {folder}/slapd.pid
{module}sizelimit {entries_max}
TLSCACertificateFile {folder}/ca.pem
TLSCertificateFile {folder}/server.pem
TLSCertificateKeyFile {folder}/server.key
TLSVerifyClient demand
database mdb
suffix \"o=nhs\"
directory {folder}/db
dbnosync
index objectClass,nhsIDCode,nhsMHSPartyKey,nhsAsSvcIA,nhsMhsSvcIA,uniqueIdentifier eq
access to * by * read
"
    )
}

/// Returns once the server has logged that it starts, the last step that can fail.
fn wait_until_started(log: &mut BufReader<ChildStderr>) {
    let mut said = String::new();
    let mut line = String::new();
    while !line.ends_with("slapd starting\n") {
        line.clear();
        if log.read_line(&mut line).unwrap() == 0 {
            panic!("slapd did not start: {said}");
        }
        said.push_str(&line);
    }
}

/// Returns the filter of a search from its log line.
fn filter(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once(" SRCH base=")?;
    let (_, rest) = rest.split_once(" filter=\"")?;
    rest.strip_suffix('"')
}

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(PROGRAMS.map(PathBuf::from));
    folders.map(|folder| folder.join("slapd")).find(|program| program.is_file())
}
