//! A real LDAP server, `slapd`, over LDAPS alone, which demands a client certificate.
//!
//! Where it is not installed, a test says so loudly and passes, except where `CI` is `true`.

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

/// Invented practices, with the traps that real ones have.
pub const FIXTURES: &str = include_str!("slapd/fixtures.ldif");
use gpconnect_simulator::sds::SCHEMA;

const PROGRAMS: [&str; 4] =
    ["/usr/sbin", "/usr/lib/openldap", "/usr/libexec", "/usr/libexec/openldap"];
const SCHEMAS: [&str; 2] = ["/etc/ldap/schema", "/etc/openldap/schema"];
const MODULES: [&str; 3] = ["/usr/lib/ldap", "/usr/lib/openldap", "/usr/libexec/openldap"];

/// What a server is started with.
pub struct Setup {
    pub ldif: String,
    pub schema: String,
    /// Its own certificate.
    pub issued: IssuedCertificate,
    /// Whose client certificates it takes.
    pub authority: String,
    /// Entries after which it gives up with result code 4.
    pub entries_max: usize,
}

impl Setup {
    /// The usual server, known as `localhost`.
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

/// The server. Its port stays its own while it is down.
pub struct Slapd {
    program: PathBuf,
    folder: TempDir,
    port: Socket,
    child: Option<Child>,
    asked: Arc<watch::Sender<Vec<String>>>,
}

impl Slapd {
    /// A server that answers; nothing where there is no such program.
    pub fn start(setup: &Setup) -> Option<Self> {
        let Some(program) = program() else {
            super::missing("slapd");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        put("sds.schema", &setup.schema);
        put("ca.pem", &setup.authority);
        put("server.pem", &setup.issued.chain);
        put("server.key", &setup.issued.key);
        put("slapd.conf", &config(folder.path(), setup.entries_max));
        // Bound and never listened at: nobody else is given this port, and the server, which
        // shares addresses as all servers do, is not hindered.
        let port = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        port.set_reuse_address(true).unwrap();
        port.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let asked = Arc::new(watch::Sender::new(Vec::new()));
        let mut slapd = Self { program, folder, port, child: None, asked };
        slapd.load(&setup.ldif);
        slapd.restart();
        Some(slapd)
    }

    pub fn port(&self) -> u16 {
        self.port.local_addr().unwrap().as_socket().unwrap().port()
    }

    /// Stops in its tracks: connections stay, and are taken, and nothing is answered.
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

    /// Goes on from where it was paused.
    pub fn go_on(&self) {
        self.signal("CONT");
    }

    /// Ends; connections are closed, and new ones refused.
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
            // In the foreground, and telling of every operation.
            .args(["-d", "stats"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        self.child = Some(child);
        starts(&mut log);
        // It says so before it listens.
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port()));
        while TcpStream::connect(address).is_err() {
            let child = self.child.as_mut().unwrap();
            assert!(child.try_wait().unwrap().is_none(), "slapd has ended");
            std::thread::yield_now();
        }
        let asked = Arc::clone(&self.asked);
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                if let Some(filter) = filter(&line) {
                    asked.send_modify(|asked| asked.push(filter.to_owned()));
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

    /// Filters asked for so far, once there are `count`.
    pub async fn asked(&self, count: usize) -> Vec<String> {
        let mut asked = self.asked.subscribe();
        let enough = asked.wait_for(|asked| asked.len() >= count);
        let told = tokio::time::timeout(Duration::from_secs(10), enough).await;
        told.unwrap_or_else(|_| panic!("{:?}", self.asked.borrow())).unwrap().clone()
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

impl Drop for Slapd {
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
    // Where its database is built in there is no module.
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

/// Returns once the server says that it starts, as it does when nothing can go wrong any more.
fn starts(log: &mut BufReader<ChildStderr>) {
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

/// The filter of a logged search.
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
