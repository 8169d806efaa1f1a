//! Simulated Spine Directory Service in `slapd` of `OpenLDAP`, which must be installed.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use super::super::certs::write;
use gpconnect_simulator::pki::{Leaf, Pki};
use gpconnect_simulator::sds::{Records, SCHEMA};

/// Running `slapd`, which is stopped when dropped.
pub(super) struct Slapd(Child);

impl Drop for Slapd {
    fn drop(&mut self) {
        // Errors are ignored: it may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

const PROGRAMS: [&str; 3] = ["/usr/sbin/slapd", "/usr/lib/openldap/slapd", "/usr/libexec/slapd"];
const SCHEMAS: [&str; 2] = ["/etc/ldap/schema", "/etc/openldap/schema"];
const MODULES: [&str; 3] = ["/usr/lib/ldap", "/usr/lib/openldap", "/usr/libexec/openldap"];
/// Limit: time until it listens.
const START: Duration = Duration::from_secs(10);

/// Starts `slapd` with these records; returns it with the configuration section that names it.
pub(super) async fn start(
    pki: &Pki,
    folder: &Path,
    records: &Records,
) -> anyhow::Result<(Slapd, String)> {
    let there = |places: &'static [&'static str]| places.iter().find(|at| Path::new(at).exists());
    let program = there(&PROGRAMS).context("slapd is not installed; --ldap needs it")?;
    let schemas = there(&SCHEMAS).context("slapd's schema files are not installed")?;
    let home = folder.join("slapd");
    let is_plain = home.to_str().is_some_and(|path| !path.contains(['"', '\\', '\n']));
    ensure!(is_plain, "slapd cannot read a path as {}", home.display());
    std::fs::create_dir(&home)?;
    std::fs::create_dir(home.join("db"))?;
    let server = pki.issue(&Leaf::named("localhost"))?;
    let at = |name: &str| home.join(name);
    write(&at("server.pem"), &server.chain)?;
    write(&at("server.key"), &server.key)?;
    write(&at("ca.pem"), &pki.authority())?;
    write(&at("nhs-sds.schema"), SCHEMA)?;
    write(&at("records.ldif"), &records.to_ldif())?;
    let modules = there(&MODULES).filter(|at| has_module(Path::new(at)));
    write(&at("slapd.conf"), &config(&home, schemas, modules.copied()))?;
    let loaded = Command::new(program)
        .args(["-Tadd", "-q", "-f"])
        .args([at("slapd.conf"), PathBuf::from("-l"), at("records.ldif")])
        .output()?;
    ensure!(
        loaded.status.success(),
        "slapd cannot load the records: {}",
        String::from_utf8_lossy(&loaded.stderr)
    );
    // Another process could take this free port before slapd does; the demonstration then fails.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let child = Command::new(program)
        .args(["-d", "0", "-h", &format!("ldaps://127.0.0.1:{port}"), "-f"])
        .arg(at("slapd.conf"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let slapd = Slapd(child);
    let began = Instant::now();
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        if began.elapsed() > START {
            bail!("slapd does not listen within {} s", START.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let settings = format!(
        "[directory.sds-ldap]\nurl = \"ldaps://localhost:{port}\"\ndial = \"127.0.0.1:{port}\"\n\
         tls = {{ certificate = {{ chain = \"gateway.pem\", key = \"gateway.key\" }}, authorities = [\"ca.pem\"], crl = \"none\" }}\n"
    );
    Ok((slapd, settings))
}

/// Returns true if the mdb database is a module there; some builds have it built in.
fn has_module(folder: &Path) -> bool {
    ["back_mdb.la", "back_mdb.so"].iter().any(|name| folder.join(name).exists())
}

fn config(home: &Path, schemas: &str, modules: Option<&str>) -> String {
    let home = home.display();
    let modules = modules
        .map(|modules| format!("modulepath {modules}\nmoduleload back_mdb\n"))
        .unwrap_or_default();
    format!(
        "include {schemas}/core.schema\ninclude {schemas}/cosine.schema\ninclude \"{home}/nhs-sds.schema\"\n\
         pidfile \"{home}/pid\"\n{modules}TLSCACertificateFile \"{home}/ca.pem\"\n\
         TLSCertificateFile \"{home}/server.pem\"\nTLSCertificateKeyFile \"{home}/server.key\"\n\
         TLSVerifyClient demand\ndatabase mdb\nsuffix \"o=nhs\"\ndirectory \"{home}/db\"\n\
         access to * by * read\n"
    )
}
