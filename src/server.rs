//! The server: builds every part from a configuration, binds the sockets, reloads, and drains at the end.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

mod memory;
mod prepare;
mod reload;
mod report;
mod service_manager;
mod sockets;
mod start_log;
mod warnings;

pub use prepare::Prepared;
pub use report::{CheckReport, FaultEntry, ReportedPath};

use reload::{ReloadState, Reloader};
use service_manager::ManagerStatus;
use sockets::InheritedSockets;

use crate::admin::{self, AdminState};
use crate::audit::Trail;
use crate::config::Config;
use crate::directory::{self, Directory, DirectoryContext};
use crate::failure::Failure;
use crate::forward::Forwarder;
use crate::gateway::{self, Gateway, InForce};
use crate::listener::{Stop, Workers};
use crate::log::LogControl;
use crate::metrics::Metrics;
use crate::registry::DirectoryFile;
use crate::reloads::RequestedReloads;
use crate::sharing::Sharing;
use crate::throttle::Pressure;
use crate::tls::Alarms;
use crate::traces::{Traces, TracesTask};

/// Limit: time to write the last records of the journal, once the workers have stopped.
const JOURNAL_END: Duration = Duration::from_secs(2);
/// Interval at which a snapshot of the directory cache is written.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(60);

/// Running proxy with all its threads and tasks.
pub struct Server {
    /// Bound addresses of the consumer port, in the configuration's order.
    pub addresses: Vec<SocketAddr>,
    /// Bound address of the admin port.
    pub admin: SocketAddr,
    /// Counters and gauges of the proxy.
    pub metrics: Arc<Metrics>,
    /// Audit journal that records are written to.
    pub trail: Trail,
    /// Directory with its cache.
    pub directory: Directory,
    reloader: Arc<Reloader>,
    stopping: Shutdown,
}

/// Handles needed to stop the server.
struct Shutdown {
    /// Token cancelled first: `/readyz` then answers 503, so that a load balancer sends no more consumers.
    leaving: CancellationToken,
    /// Signals that make the workers drain or cut off their connections.
    stop: Stop,
    workers: Arc<Workers>,
    accepting: Vec<JoinHandle<()>>,
    background: Vec<JoinHandle<()>>,
    /// Export of spans, if it is configured.
    spans: Option<TracesTask>,
    /// Guard that serves the admin port until it is dropped.
    admin_port: DropGuard,
}

impl Server {
    /// Returns a token that cuts off the exchanges in flight while the server stops.
    #[must_use]
    pub fn cut(&self) -> CancellationToken {
        self.stopping.stop.cut.clone()
    }

    /// Binds the sockets and starts serving, on the current runtime and threads of its own.
    ///
    /// If `path` is given, the configuration there and its files are watched and reloaded.
    ///
    /// # Errors
    /// Returns an error if the journal cannot be opened, an address cannot be bound or a thread cannot be
    /// started.
    pub fn start(prepared: Prepared, path: Option<PathBuf>) -> Result<Self, Failure> {
        Self::start_on(Vec::new(), prepared, path)
    }

    /// Starts as [`Server::start`] does, with sockets that are bound to addresses of the configuration already.
    ///
    /// # Errors
    /// Returns an error also if a socket's address is not in the configuration.
    pub fn start_on(
        sockets: Vec<std::net::TcpListener>,
        prepared: Prepared,
        path: Option<PathBuf>,
    ) -> Result<Self, Failure> {
        // First of all: a SIGHUP without a handler ends the process.
        let hangup = signal(SignalKind::hangup())?;
        let metrics = Arc::new(Metrics::new());
        announce(&prepared, &metrics);
        let Prepared { config, trust, rules, directory, live, redis, loader, memory, log, seen } =
            prepared;
        let sharing = Sharing::new(Arc::clone(&metrics));
        sharing.replace(redis);
        let (listeners, (admin_listener, admin)) = listen(&config, sockets)?;
        let (trail, spans) = start_trail(&config, &directory, trust.generation, &metrics)?;
        let (leaving, stop) = (CancellationToken::new(), Stop::default());
        let directory = directory_with_snapshot(directory, live, &config, &sharing, &metrics);
        let pressure = Pressure::new(config.workers());
        let throttle = prepare::throttle(&config, None, &pressure, &sharing, &metrics);
        pressure.limit(throttle.limits().ceiling(memory));
        let (trust, alarms) = (Arc::new(trust), Arc::new(Alarms::new(&loader, &[])));
        let live = InForce { trust, rules: Arc::new(rules), throttle, alarms, memory };
        let live = Arc::new(ArcSwap::from_pointee(live));
        let shared = gateway::GatewayShared {
            live: Arc::clone(&live),
            directory: directory.clone(),
            trail: trail.clone(),
            metrics: Arc::clone(&metrics),
        };
        let workers = start_workers(&config, &shared, &pressure, &stop)?;
        let requested = RequestedReloads::default();
        let views = admin_state(&config, &shared, &leaving, &requested, log.as_ref());
        let snapshot = config.directory.snapshot.clone();
        let addresses = log_addresses(&listeners);
        let reloader = Arc::new(Reloader {
            state: Mutex::new(ReloadState::new(config.clone(), loader, seen)),
            path,
            live: Arc::clone(&live),
            pressure: pressure.clone(),
            directory: directory.clone(),
            sharing,
            trail: trail.clone(),
            metrics: Arc::clone(&metrics),
            started_with: config,
            shown: Arc::clone(&views.config),
            log,
            requested,
            manager: ManagerStatus::new(&addresses),
        });
        // Consumers are accepted last: they could use up the file descriptors that the rest needs.
        let admin_port = admin::start(admin_listener, views)?;
        let accept = |(listener, _)| workers.accept(listener, stop.drain.clone());
        let accepting = listeners.into_iter().map(accept).collect::<io::Result<_>>()?;
        // Before the loop that updates the status.
        reloader.manager.ready(reloader.alarms());
        let background = vec![
            tokio::spawn(Arc::clone(&reloader).watch(hangup)),
            tokio::spawn(maintain_directory(directory.clone(), snapshot)),
            tokio::spawn(watch(trail.clone())),
            tokio::spawn(service_manager::keep_alive(pressure)),
        ];
        let stopping =
            Shutdown { leaving, stop, workers, accepting, background, spans, admin_port };
        Ok(Self { addresses, admin, metrics, trail, directory, reloader, stopping })
    }

    /// Loads the configuration and its files again; a part with faults keeps its last good state.
    ///
    /// # Errors
    /// Returns the faults of all parts.
    pub async fn reload(&self) -> Result<(), Failure> {
        Arc::clone(&self.reloader).reload().await
    }

    /// Stops accepting connections, lets exchanges in flight finish until the drain deadline, and writes the
    /// last records and the directory snapshot.
    pub async fn stop(self) {
        let Shutdown { leaving, stop, workers, accepting, background, spans, admin_port } =
            self.stopping;
        let settings = &self.reloader.started_with;
        service_manager::stopping();
        leaving.cancel();
        tokio::select! {
            () = tokio::time::sleep(settings.listener.limits.drain_delay) => {}
            () = stop.cut.cancelled() => {}
        }
        stop.drain.cancel();
        for accepting in accepting {
            if accepting.await.is_err() {
                tracing::error!(
                    "the task that accepts consumers' connections has panicked; shutdown continues"
                );
            }
        }
        if let Ok(workers) = Arc::try_unwrap(workers).map_err(|_| ()) {
            let finished = tokio::task::spawn_blocking(|| workers.finish()).await;
            if finished.is_err() {
                tracing::error!(
                    "waiting for the workers to finish has failed; exchanges in flight may be lost"
                );
            }
        }
        if tokio::time::timeout(JOURNAL_END, self.trail.finish()).await.is_err() {
            tracing::error!("the journal did not finish in time: the last records may be missing");
        }
        if let Some(spans) = spans {
            spans.finish().await;
        }
        for task in background {
            task.abort();
        }
        drop(admin_port);
        if let Some(path) = &settings.directory.snapshot {
            write_snapshot(&self.directory, path);
        }
        tracing::info!("the proxy has stopped");
    }
}

/// Logs and publishes what is started.
fn announce(prepared: &Prepared, metrics: &Metrics) {
    let Prepared { config, directory, live, loader, memory, .. } = prepared;
    start_log::log(config, directory, live, loader);
    prepare::publish(loader, config.lab, metrics);
    metrics.reload(Ok(Timestamp::now().as_second()));
    memory::publish(config, *memory, metrics);
}

/// Listening socket with its actual address.
type BoundListener = (TcpListener, SocketAddr);

/// Takes or binds the sockets of the consumer port, and that of the admin port.
fn listen(
    config: &Config,
    bound: Vec<std::net::TcpListener>,
) -> Result<(Vec<BoundListener>, BoundListener), Failure> {
    let mut sockets = InheritedSockets::inherited(bound)?;
    let listeners = sockets.take_all(&config.listener.addresses)?;
    let admin = sockets.take(config.admin.address)?;
    sockets.finish()?;
    Ok((listeners, admin))
}

/// Starts the workers, each with a gateway over the parts that all of them share.
fn start_workers(
    config: &Config,
    shared: &gateway::GatewayShared,
    pressure: &Pressure,
    stop: &Stop,
) -> Result<Arc<Workers>, Failure> {
    let gateway = |worker| {
        let forwarder = Forwarder::new(&config.provider, Arc::clone(&shared.metrics));
        Gateway::new(shared.clone(), forwarder, pressure.heartbeat(worker))
    };
    let gateways = (0..config.workers()).map(gateway).collect();
    let (limits, balancers) = (&config.listener.limits, &config.listener.proxy_protocol_from);
    let workers = Workers::start(gateways, limits, balancers, stop, &shared.metrics)?;
    Ok(Arc::new(workers))
}

/// Creates the directory, with its cache filled from the snapshot of the last process.
///
/// A snapshot that cannot be read does not prevent the start.
fn directory_with_snapshot(
    file: DirectoryFile,
    live: directory::LiveSources,
    config: &Config,
    sharing: &Sharing,
    metrics: &Arc<Metrics>,
) -> Directory {
    let settings = &config.directory;
    let context =
        DirectoryContext { sharing: sharing.clone(), ..DirectoryContext::new(Arc::clone(metrics)) };
    let directory = Directory::new(file, live, settings, context);
    if let Some(path) = &settings.snapshot {
        match directory.load(path) {
            Ok(practices) => tracing::info!(practices, "directory cache loaded from the snapshot"),
            Err(error) => {
                tracing::error!(%error, "directory snapshot unreadable: starting with an empty directory cache");
            }
        }
    }
    directory
}

/// Writes the snapshot of the directory cache; an error is logged.
fn write_snapshot(directory: &Directory, path: &Path) {
    if let Err(error) = directory.save(path) {
        tracing::error!(%error, "directory snapshot could not be written: after a restart, the directory cache may be older or empty");
    }
}

/// Returns what the admin port shows.
fn admin_state(
    config: &Config,
    shared: &gateway::GatewayShared,
    leaving: &CancellationToken,
    requested: &RequestedReloads,
    log: Option<&LogControl>,
) -> AdminState {
    AdminState {
        config: Arc::new(ArcSwap::from_pointee(config.json(&[]))),
        metrics: Arc::clone(&shared.metrics),
        live: Arc::clone(&shared.live),
        directory: shared.directory.clone(),
        trail: shared.trail.clone(),
        drain: leaving.clone(),
        log: log.cloned(),
        reloads: requested.clone(),
        lab: config.lab,
        names: config.admin.names.clone(),
        token_file: config.admin.token_file.clone(),
    }
}

/// Opens the audit journal, whose first line says what is in force, and starts the export of traces if they
/// are configured.
fn start_trail(
    config: &Config,
    directory: &DirectoryFile,
    trust_generation: u64,
    metrics: &Arc<Metrics>,
) -> Result<(Trail, Option<TracesTask>), Failure> {
    let facts = prepare::facts_in_force(config, directory, trust_generation);
    let traces = config.traces.as_ref().map(|settings| Traces::start(settings, metrics));
    let (traces, task) = traces.transpose().map_err(Failure::configuration)?.unzip();
    let entries_max = config.listener.limits.in_hand_max;
    let trail = Trail::start(&config.audit, entries_max, facts, Arc::clone(metrics), traces);
    Ok((trail.map_err(Failure::configuration)?, task))
}

/// Watches the health of the journal.
async fn watch(trail: Trail) {
    trail.watch().await;
}

/// Refreshes the directory cache before it expires, and writes its snapshot regularly.
async fn maintain_directory(directory: Directory, snapshot: Option<PathBuf>) {
    let writing = async {
        let Some(path) = snapshot else { return std::future::pending().await };
        loop {
            tokio::time::sleep(SNAPSHOT_EVERY).await;
            let (directory, path) = (directory.clone(), path.clone());
            let written =
                tokio::task::spawn_blocking(move || write_snapshot(&directory, &path)).await;
            if written.is_err() {
                tracing::error!(
                    "the task that writes the directory snapshot has panicked; it is tried again in a minute"
                );
            }
        }
    };
    tokio::join!(writing, directory.refresh_ahead());
}

/// Logs the addresses of the consumer port and returns them.
fn log_addresses(listeners: &[BoundListener]) -> Vec<SocketAddr> {
    let addresses: Vec<_> = listeners.iter().map(|(_, address)| *address).collect();
    for address in &addresses {
        tracing::info!(%address, "consumer port listening");
    }
    addresses
}
