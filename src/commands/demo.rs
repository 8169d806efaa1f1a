//! `demo`: sets up a complete environment on loopback, and runs booking sessions through it.
//!
//! It consists of a throwaway PKI, simulated practices on four suppliers' hosts, a directory service and the
//! proxy. The demonstration runs the sessions that the specification illustrates, then one wrong request of
//! each kind; then it stays up to be tried.

use std::path::{Path, PathBuf};

use tokio::signal::unix::{SignalKind, signal};

use super::print;
use crate::config::{Log, LogFormat, LogLevel};
use crate::failure::Failure;

mod consumer;
mod play;
mod slapd;
mod world;

use play::Play;
use world::{Directories, World};

/// Options of the demonstration.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoOptions {
    /// Ends after the sessions; exit code 0 only if every step was answered as expected.
    #[arg(long)]
    once: bool,
    /// Looks practices up in slapd, which must be installed, instead of a simulated SDS API.
    #[arg(long)]
    ldap: bool,
    /// Writes every answered resource to this file, one JSON document per line.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

/// Runs the demonstration.
///
/// # Errors
/// Returns an error if the environment cannot be set up, or with `--once` if a step was not answered as
/// expected.
pub fn run(wanted: &DemoOptions) -> Result<(), Failure> {
    crate::log::start(&Log { format: LogFormat::Human, level: LogLevel::Error });
    let folder = std::env::temp_dir().join(format!("spine-proxy-demo-{}", std::process::id()));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let played = runtime.block_on(played(&folder, wanted));
    if let Err(error) = std::fs::remove_dir_all(&folder) {
        print(format_args!("{} could not be removed: {error}", folder.display()));
    }
    played
}

async fn played(folder: &Path, wanted: &DemoOptions) -> Result<(), Failure> {
    let with = if wanted.ldap { Directories::Ldap } else { Directories::Api };
    let world = World::set_up(folder, with).await?;
    let mut stop = signal(SignalKind::terminate())?;
    let record = wanted.record.as_ref().map(std::fs::File::create).transpose();
    let play = Play::new(&world, record?);
    let failed = tokio::select! {
        failed = play.all() => failed.map_err(Failure::Environment)?,
        _ = tokio::signal::ctrl_c() => return Ok(()),
        _ = stop.recv() => return Ok(()),
    };
    if wanted.once {
        world.take_down().await;
        return match failed {
            0 => Ok(()),
            failed => Err(Failure::Environment(anyhow::anyhow!(
                "{failed} steps were not answered as expected"
            ))),
        };
    }
    print(world.invitation()?);
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = stop.recv() => {}
    }
    world.take_down().await;
    Ok(())
}
