//! `serve`: binds, serves, reloads, drains.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::reload::{ReloadState, Reloader};
use super::sockets::InheritedSockets;
use super::{CommandFailure, Prepared, memory, prepare};
use crate::admin::{self, AdminState};
use crate::audit::Trail;
use crate::config::{Config, Log, LogFormat};
use crate::directory::{self, Directory, File};
use crate::forward::Forwarder;
use crate::gateway::{self, Gateway, InForce};
use crate::listener::{Stop, Workers};
use crate::metrics::Metrics;
use crate::throttle::Pressure;
use crate::tls::Alarms;

/// For the last records, once nothing more can come.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How often a copy of what is held of the directory is written.
const REMEMBER: Duration = Duration::from_secs(60);

/// Serves until told to stop by SIGTERM or SIGINT.
///
/// # Errors
/// The configuration cannot be used, or an address cannot be bound.
pub fn run(path: &Path) -> Result<(), CommandFailure> {
    let prepared = Prepared::load(path, 1)?;
    log(&prepared.config.log);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(CommandFailure::world)?;
    let ended = runtime.block_on(async {
        let mut stop = signal(SignalKind::terminate()).map_err(CommandFailure::world)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(CommandFailure::world)?;
        let server = Server::start(prepared, Some(path.to_owned()))?;
        let cut = server.stopping.stop.cut.clone();
        tokio::select! {
            _ = stop.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: not ready any more; the port closes after drain-delay, and what is under way is finished");
        let mut stopping = std::pin::pin!(server.stop());
        tokio::select! {
            () = &mut stopping => return Ok(()),
            _ = stop.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::warn!("told to stop twice: cutting short what is under way");
        cut.cancel();
        stopping.await;
        Ok(())
    });
    runtime.shutdown_background();
    ended
}

/// Starts logging to standard error. Libraries are held to warnings: what they print at lower
/// levels can hold what we may not.
pub fn log(settings: &Log) {
    let ours = LevelFilter::from(settings.level);
    let filter =
        Targets::new().with_default(LevelFilter::WARN).with_target(env!("CARGO_CRATE_NAME"), ours);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let started = match settings.format {
        LogFormat::Json => {
            registry().with(lines.json().flatten_event(true)).with(filter).try_init()
        }
        LogFormat::Human => registry().with(lines).with(filter).try_init(),
    };
    if let Err(error) = started {
        tracing::debug!(%error, "logging has been started before");
    }
}

/// A gateway that is being served.
pub struct Server {
    /// Addresses bound, in the configuration's order.
    pub addresses: Vec<SocketAddr>,
    /// Address of the admin port.
    pub admin: SocketAddr,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where records go.
    pub trail: Trail,
    /// What is held of the directory.
    pub directory: Directory,
    reloader: Arc<Reloader>,
    stopping: Shutdown,
}

/// What it takes to end.
struct Shutdown {
    /// Cancelled first: no balancer is to send anybody any more.
    leaving: CancellationToken,
    /// Signals that stop the workers.
    stop: Stop,
    workers: Arc<Workers>,
    accepting: Vec<JoinHandle<()>>,
    background: Vec<JoinHandle<()>>,
    /// Serves the admin port until it is dropped.
    admin_port: DropGuard,
}

impl Server {
    /// Binds and serves, on the runtime it is called in and threads of its own. With a path, its
    /// configuration is watched and reloaded.
    ///
    /// # Errors
    /// The journal cannot be opened, an address cannot be bound, a thread cannot be made.
    pub fn start(prepared: Prepared, path: Option<PathBuf>) -> Result<Self, CommandFailure> {
        let Prepared { config, trust, rulebook, directory, live, loader, memory, seen } = prepared;
        // Before anything else: a SIGHUP that nobody listens for ends the process.
        let hangup = signal(SignalKind::hangup()).map_err(CommandFailure::world)?;
        let metrics = Arc::new(Metrics::new());
        prepare::publish(&loader, config.lab, &metrics);
        metrics.reload(Ok(Timestamp::now().as_second()));
        memory::publish(&config, memory, &metrics);
        let (listeners, (admin_listener, admin)) = listen(&config)?;
        let limits = &config.listener.limits;
        let trail = Trail::start(&config.audit, limits.in_hand_max, Arc::clone(&metrics))
            .map_err(CommandFailure::configuration)?;
        let (leaving, stop) = (CancellationToken::new(), Stop::default());
        let directory = recall(directory, live, &config, &metrics);
        let pressure = Pressure::new(config.workers());
        let throttle = prepare::throttle(&config, None, (&pressure, &metrics))?;
        pressure.limit(throttle.limits().ceiling(memory));
        let (trust, rulebook) = (Arc::new(trust), Arc::new(rulebook));
        let live = InForce {
            trust,
            rulebook,
            throttle,
            alarms: Arc::new(Alarms::new(&loader, &[])),
            memory,
        };
        let live = Arc::new(ArcSwap::from_pointee(live));
        let shared = gateway::GatewayShared {
            live: Arc::clone(&live),
            directory: directory.clone(),
            trail: trail.clone(),
            metrics: Arc::clone(&metrics),
        };
        let gateways = gateways(&config, &shared, &pressure);
        let workers = Workers::start(gateways, limits, &stop, &metrics);
        let workers = Arc::new(workers.map_err(CommandFailure::world)?);
        let views = AdminState {
            metrics: Arc::clone(&metrics),
            live: Arc::clone(&live),
            directory: directory.clone(),
            trail: trail.clone(),
            drain: leaving.clone(),
            lab: config.lab,
            names: config.admin.names.clone(),
            token_file: config.admin.token_file.clone(),
        };
        let kept = keep(directory.clone(), config.directory.snapshot.clone());
        let reloader = Arc::new(Reloader {
            state: Mutex::new(ReloadState::new(config.clone(), loader, seen)),
            path,
            live: Arc::clone(&live),
            pressure,
            directory: directory.clone(),
            metrics: Arc::clone(&metrics),
            started_with: config,
        });
        let addresses = announce(&listeners);
        // Consumers last: they could take the descriptors that the rest needs.
        let admin_port = admin::start(admin_listener, views).map_err(CommandFailure::world)?;
        let accept = |(listener, _)| workers.accept(listener, stop.drain.clone());
        let accepting: io::Result<Vec<_>> = listeners.into_iter().map(accept).collect();
        let background = vec![
            tokio::spawn(Arc::clone(&reloader).watch(hangup)),
            tokio::spawn(kept),
            tokio::spawn(watch(trail.clone())),
        ];
        let accepting = accepting.map_err(CommandFailure::world)?;
        let stopping = Shutdown { leaving, stop, workers, accepting, background, admin_port };
        Ok(Self { addresses, admin, metrics, trail, directory, reloader, stopping })
    }

    /// Loads everything anew and puts it in force, or keeps what is.
    ///
    /// # Errors
    /// What is wrong with the new configuration.
    pub async fn reload(&self) -> Result<(), CommandFailure> {
        Arc::clone(&self.reloader).reload().await
    }

    /// Stops accepting, lets what is under way finish until the drain deadline, writes the last
    /// records.
    pub async fn stop(self) {
        let Shutdown { leaving, stop, workers, accepting, background, admin_port } = self.stopping;
        let settings = &self.reloader.started_with;
        leaving.cancel();
        tokio::select! {
            () = tokio::time::sleep(settings.listener.limits.drain_delay) => {}
            () = stop.cut.cancelled() => {}
        }
        stop.drain.cancel();
        for accepting in accepting {
            if accepting.await.is_err() {
                tracing::error!("an acceptor panicked");
            }
        }
        if let Ok(workers) = Arc::try_unwrap(workers).map_err(|_| ()) {
            let finished = tokio::task::spawn_blocking(|| workers.finish()).await;
            if finished.is_err() {
                tracing::error!("the workers could not be waited for");
            }
        }
        if tokio::time::timeout(LAST_WORDS, self.trail.finish()).await.is_err() {
            tracing::error!("the last records could not be written");
        }
        for task in background {
            task.abort();
        }
        drop(admin_port);
        if let Some(path) = &settings.directory.snapshot {
            remember(&self.directory, path);
        }
        tracing::info!("stopped");
    }
}

/// A listening socket, and the address it really has.
type BoundListener = (TcpListener, SocketAddr);

/// The sockets for consumers, and the one for operators.
fn listen(config: &Config) -> Result<(Vec<BoundListener>, BoundListener), CommandFailure> {
    let mut sockets = InheritedSockets::inherited()?;
    let listeners = sockets.take_all(&config.listener.addresses)?;
    let admin = sockets.take(config.admin.address)?;
    sockets.finish()?;
    Ok((listeners, admin))
}

/// A gateway for each worker, over what all of them share.
fn gateways(config: &Config, shared: &gateway::GatewayShared, pressure: &Pressure) -> Vec<Gateway> {
    let gateway = |worker| {
        let forwarder = Forwarder::new(&config.provider, Arc::clone(&shared.metrics));
        Gateway::new(shared.clone(), forwarder, pressure.pulse(worker))
    };
    (0..config.workers()).map(gateway).collect()
}

/// A directory that holds again what was held when the last process ended. A snapshot that cannot be
/// used is no reason not to serve.
fn recall(
    file: File,
    live: directory::LiveSources,
    config: &Config,
    metrics: &Arc<Metrics>,
) -> Directory {
    let settings = &config.directory;
    let directory = Directory::new(file, live, settings, Arc::clone(metrics), Handle::current());
    if let Some(path) = &settings.snapshot {
        match directory.load(path) {
            Ok(practices) => tracing::info!(practices, "held from the snapshot"),
            Err(error) => tracing::error!(%error, "starting with nothing held"),
        }
    }
    directory
}

fn remember(directory: &Directory, path: &Path) {
    if let Err(error) = directory.save(path) {
        tracing::error!(%error, "not written");
    }
}

/// Looks at how the journal is.
async fn watch(trail: Trail) {
    trail.watch().await;
}

/// Keeps what is held fresh, and a copy of it on disk.
async fn keep(directory: Directory, snapshot: Option<PathBuf>) {
    let remembering = async {
        let Some(path) = snapshot else { return std::future::pending().await };
        loop {
            tokio::time::sleep(REMEMBER).await;
            let (directory, path) = (directory.clone(), path.clone());
            let written = tokio::task::spawn_blocking(move || remember(&directory, &path)).await;
            if written.is_err() {
                tracing::error!("the snapshot could not be written");
            }
        }
    };
    tokio::join!(remembering, directory.keep_fresh());
}

fn announce(listeners: &[BoundListener]) -> Vec<SocketAddr> {
    let addresses: Vec<_> = listeners.iter().map(|(_, address)| *address).collect();
    for address in &addresses {
        tracing::info!(%address, "listening");
    }
    addresses
}
