//! `demo`: a whole world on loopback, and booking sessions played through it.
//!
//! A throwaway PKI, simulated practices behind four suppliers' hosts, a directory service and the
//! proxy; then the sessions of the specification's illustrations; then one wrong request of each
//! kind; then it stays up to be tried.

use std::path::{Path, PathBuf};

use tokio::signal::unix::{SignalKind, signal};

use super::{CommandFailure, print};
use crate::config::{Log, LogFormat, LogLevel};

mod consumer;
mod play;
mod slapd;
mod world;

use play::Play;
use world::{Directories, World};

/// How the demonstration is played.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoOptions {
    /// End after the play; exit code 0 only if every step answered as it should.
    #[arg(long)]
    once: bool,
    /// Look practices up in slapd, which must be installed, instead of a stand-in for the SDS API.
    #[arg(long)]
    ldap: bool,
    /// Write every resource that is answered to this file, one JSON document a line.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

/// Runs the demonstration.
///
/// # Errors
/// The world cannot be set up, or a step did not answer as it should.
pub fn run(wanted: &DemoOptions) -> Result<(), CommandFailure> {
    super::serve::log(&Log { format: LogFormat::Human, level: LogLevel::Error });
    let folder = std::env::temp_dir().join(format!("spine-proxy-demo-{}", std::process::id()));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(CommandFailure::world)?;
    let played = runtime.block_on(played(&folder, wanted));
    if let Err(error) = std::fs::remove_dir_all(&folder) {
        print(format_args!("{} is left behind: {error}", folder.display()));
    }
    played
}

async fn played(folder: &Path, wanted: &DemoOptions) -> Result<(), CommandFailure> {
    let with = if wanted.ldap { Directories::Ldap } else { Directories::Api };
    let world = World::set_up(folder, with).await?;
    let mut stop = signal(SignalKind::terminate()).map_err(CommandFailure::world)?;
    let record = wanted.record.as_ref().map(std::fs::File::create).transpose();
    let play = Play::new(&world, record.map_err(CommandFailure::world)?);
    let failed = tokio::select! {
        failed = play.all() => failed.map_err(CommandFailure::World)?,
        _ = tokio::signal::ctrl_c() => return Ok(()),
        _ = stop.recv() => return Ok(()),
    };
    if wanted.once {
        world.take_down().await;
        return match failed {
            0 => Ok(()),
            failed => Err(CommandFailure::World(anyhow::anyhow!(
                "{failed} steps did not answer as they should"
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
