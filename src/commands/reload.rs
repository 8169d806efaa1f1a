//! `reload`: asks a running process to reload its configuration and files, and waits for the result.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use http::{Request, StatusCode};
use http_body_util::Full;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep, timeout};

use super::print;
use crate::config::Config;
use crate::failure::Failure;
use crate::outbound::{ServiceAnswer, ServiceUrl};
use crate::reloads::ReloadStatus;

/// Options of `reload`.
#[derive(Debug, clap::Args)]
pub struct ReloadOptions {
    /// Path of the configuration file, which names the admin port of the process.
    #[arg(long)]
    config: PathBuf,
    /// Id of the process, such as systemd's `$MAINPID`; by default the one that the admin port names.
    #[arg(long)]
    pid: Option<u32>,
}

/// Limit: time for one answer of the admin port.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Limit: time for the reload.
const RELOAD_MAX: Duration = Duration::from_secs(120);
/// Interval at which the admin port is asked whether the reload has ended.
const POLL: Duration = Duration::from_millis(100);
/// Limit: bytes of an answer of the admin port.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Makes the process reload, as SIGHUP does, and waits for the result.
///
/// # Errors
/// Returns an error with exit code 1 if the configuration cannot be read, no process answers, or the reload has
/// faults.
pub fn run(options: &ReloadOptions) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(reload(options)).map_err(Failure::Environment)
}

async fn reload(ReloadOptions { config, pid }: &ReloadOptions) -> anyhow::Result<()> {
    let admin = admin(config)?;
    let before = status(admin).await.with_context(|| {
        format!(
            "no spine-proxy answers on the admin port {admin} (admin.address): nothing was reloaded; if \
             that address has changed since the start, restart the process"
        )
    })?;
    // A reload that begins from now on reads what the files hold now.
    let wanted = before.started.saturating_add(1);
    match pid {
        Some(pid) => signal(*pid)?,
        None => {
            check_program(before.pid)?;
            signal(before.pid)?;
        }
    }
    let end = Instant::now() + RELOAD_MAX;
    loop {
        let now = status(admin).await.context("the process no longer answers")?;
        ensure!(
            now.pid == before.pid,
            "the process has been replaced by another during the reload"
        );
        if now.finished >= wanted {
            return judge(&now);
        }
        if Instant::now() >= end {
            bail!("the process {} has not reloaded within {} s", now.pid, RELOAD_MAX.as_secs());
        }
        sleep(POLL).await;
    }
}

/// Prints the result, or returns the faults as an error.
fn judge(status: &ReloadStatus) -> anyhow::Result<()> {
    if status.faults.is_empty() {
        print(format_args!("process {} has reloaded its configuration and files", status.pid));
        return Ok(());
    }
    let faults = status.faults.join("\n");
    bail!("parts with faults keep their last good state, the others were reloaded:\n{faults}")
}

/// Returns the address at which a process of this machine with this configuration has its admin port.
fn admin(config: &Path) -> anyhow::Result<SocketAddr> {
    let config = Config::load(config)
        .context("nothing was reloaded, the process keeps what it has in force")?;
    let mut admin = config.admin.address;
    ensure!(
        admin.port() != 0,
        "admin.address has port 0, which is a free one at each start: set a port, or send SIGHUP to the process"
    );
    if admin.ip().is_unspecified() {
        admin.set_ip(match admin.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    Ok(admin)
}

/// Checks that a process is this program: whoever has the admin port may name any.
fn check_program(pid: u32) -> anyhow::Result<()> {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
    let name =
        name.with_context(|| format!("process {pid}, which the admin port names, is not here"))?;
    ensure!(
        name.trim_end() == env!("CARGO_PKG_NAME"),
        "process {pid}, which the admin port names, is {:?}; if it is the right one, give --pid {pid}",
        name.trim_end()
    );
    Ok(())
}

/// Sends SIGHUP to the process.
fn signal(pid: u32) -> anyhow::Result<()> {
    let named = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let named = named.ok_or_else(|| anyhow!("{pid} is no id of a process"))?;
    kill_process(named, Signal::HUP).with_context(|| format!("cannot send SIGHUP to process {pid}"))
}

/// Reads the status of requested reloads from the admin port.
async fn status(admin: SocketAddr) -> anyhow::Result<ReloadStatus> {
    timeout(ANSWER_MAX, ask(admin)).await.map_err(|_| anyhow!("it does not answer in time"))?
}

async fn ask(admin: SocketAddr) -> anyhow::Result<ReloadStatus> {
    let request = Request::get("/").body(Full::default())?;
    let answer = ServiceUrl::at(admin, "/reload").send(None, request, ANSWER_BYTES_MAX).await;
    let ServiceAnswer { status, body, .. } = answer?;
    ensure!(status == StatusCode::OK, "GET /reload is answered with {status}");
    serde_json::from_slice(&body.map_err(anyhow::Error::msg)?)
        .context("GET /reload has no status of reloads")
}
