//! `demo`: a whole world on loopback, and a booking session played through it.
//!
//! A throwaway PKI, simulated practices behind four suppliers' hosts, a directory file and the
//! proxy; then a consumer searches, books, reads, amends and cancels; then one wrong request of
//! each kind; then it stays up to be tried.

use std::path::Path;

use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, say};
use crate::config::{Log, LogFormat, LogLevel};

mod consumer;
mod play;
mod world;

use play::Play;
use world::World;

/// Runs the demonstration; `once` ends it after the play.
///
/// # Errors
/// The world cannot be set up, or a step did not answer as it should.
pub fn run(once: bool) -> Result<(), Failure> {
    super::serve::log(&Log { format: LogFormat::Human, level: LogLevel::Error });
    let folder = std::env::temp_dir().join(format!("spine-proxy-demo-{}", std::process::id()));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Failure::world)?;
    let played = runtime.block_on(played(&folder, once));
    if let Err(error) = std::fs::remove_dir_all(&folder) {
        say(format_args!("{} is left behind: {error}", folder.display()));
    }
    played
}

async fn played(folder: &Path, once: bool) -> Result<(), Failure> {
    let world = World::set_up(folder).await?;
    let mut stop = signal(SignalKind::terminate()).map_err(Failure::world)?;
    let play = Play::new(&world);
    let failed = tokio::select! {
        failed = play.all() => failed.map_err(Failure::World)?,
        _ = tokio::signal::ctrl_c() => return Ok(()),
        _ = stop.recv() => return Ok(()),
    };
    if once {
        world.take_down().await;
        return match failed {
            0 => Ok(()),
            failed => {
                Err(Failure::World(anyhow::anyhow!("{failed} steps did not answer as they should")))
            }
        };
    }
    say(world.invitation()?);
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = stop.recv() => {}
    }
    world.take_down().await;
    Ok(())
}
