//! Reload of changed files, part by part. A part that is faulty keeps its last good state and raises an
//! alarm, and does not hold up the other parts.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::signal::unix::Signal;

use self::changes::{BeforeReload, CHANGES_MAX};
use self::checks::FileChecks;
use self::in_force::{in_force, needs_restart};
use self::pair_wait::PairWait;
use super::service_manager::ManagerStatus;
use super::{memory, prepare, warnings};
use crate::audit::Trail;
use crate::config::{Config, LogLevel};
use crate::directory::{self, Directory};
use crate::failure::Failure;
use crate::gateway::{DecisionRules, InForce};
use crate::log::LogControl;
use crate::metrics::Metrics;
use crate::reloads::RequestedReloads;
use crate::sharing::{RedisServer, Sharing};
use crate::throttle::{MemoryLimit, Pressure, Throttle};
use crate::tls::{Alarms, Expiry, FileMark, Loader, Notice, NoticeLevel, Trust, TrustError};

mod changes;
mod checks;
mod in_force;
mod pair_wait;
mod watches;

/// Interval of periodic work: the throttle and the directory forget what is unused, expiry dates are compared
/// with the clock, and all files are checked even without an event.
///
/// No event reports changes that another machine makes on a network file system.
const TIDY: Duration = Duration::from_secs(60);
/// Limit: notices that are logged one by one after a load.
const NOTICES_LOGGED_MAX: usize = 50;

/// Watches the files of the configuration, loads what has changed and puts it in force.
pub(super) struct Reloader {
    pub(super) path: Option<PathBuf>,
    pub(super) live: Arc<ArcSwap<InForce>>,
    pub(super) pressure: Pressure,
    pub(super) directory: Directory,
    pub(super) sharing: Sharing,
    pub(super) trail: Trail,
    pub(super) metrics: Arc<Metrics>,
    pub(super) started_with: Config,
    /// Configuration in force as JSON, for the admin port.
    pub(super) shown: Arc<ArcSwap<String>>,
    /// Handle of the log's level; `None` if the log is another's.
    pub(super) log: Option<LogControl>,
    /// Outcome of requested reloads.
    pub(super) requested: RequestedReloads,
    pub(super) manager: ManagerStatus,
    pub(super) state: Mutex<ReloadState>,
}

/// Last good configuration, its loader, and the state of the files it was loaded from.
pub(super) struct ReloadState {
    config: Config,
    loader: Loader,
    seen: Marks,
    /// Faults of each part at its last load; they remain until the part is loaded without faults.
    faults: BTreeMap<ReloadPart, Vec<String>>,
    /// Number of certificates and revocation lists that had expired at the last reload.
    ended: usize,
    /// State in force before a reload that waits for a second file.
    before: Option<BeforeReload>,
    /// Texts of notices that have been logged.
    logged_notices: HashSet<String>,
    /// Texts of alarms that have been logged.
    logged_alarms: HashSet<String>,
}

/// State of each watched file when it was last read; `None` for a file that did not exist.
pub(super) type Marks = HashMap<PathBuf, Option<FileMark>>;

/// Part of the configuration and its files that is loaded independently of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum ReloadPart {
    /// The configuration file, and rules and limits that are made from it alone.
    Configuration,
    /// Certificates, authorities, revocation lists, the live sources of the directory, and the Redis server.
    Trust,
    /// The directory file alone.
    Directory,
}

/// Reason for a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReloadTrigger {
    /// A watched file has changed: only parts made from changed files are loaded.
    Change,
    /// Trust must be loaded again: a file in a folder of revocation lists has changed, a certificate or list
    /// has expired, or a part was faulty. Faulty parts are loaded again too.
    Trust,
    /// A reload was requested, such as by SIGHUP: everything is loaded.
    Request,
}

/// Result of a reload.
#[derive(Debug)]
enum ReloadOutcome {
    /// Every part was loaded, or its faults are reported; they are listed here.
    Done(Vec<String>),
    /// The only fault is a key without its certificate: the other file may still be on its way.
    Waits,
}

/// Parts of a configuration as loaded: the new ones, and those in force where nothing has changed or loading
/// failed.
struct LoadedParts {
    config: Config,
    seen: Marks,
    trust: Arc<Trust>,
    /// True if `trust` and the live sources are new.
    is_trust_new: bool,
    /// True if the only faults of trust are keys without their certificates.
    is_unpaired: bool,
    rules: Arc<DecisionRules>,
    throttle: Arc<Throttle>,
    /// Faults of each part that was loaded.
    found: BTreeMap<ReloadPart, Vec<String>>,
}

impl ReloadState {
    /// Returns the state after the first load; `seen` was taken before the files were read.
    pub(super) fn new(config: Config, loader: Loader, seen: Marks) -> Self {
        let (logged_notices, logged_alarms) = Default::default();
        let (ended, faults, before) = (ended(&loader), BTreeMap::new(), None);
        Self { config, loader, seen, faults, ended, before, logged_notices, logged_alarms }
    }

    /// Returns the faults of all parts.
    fn lasting(&self) -> Vec<String> {
        self.faults.values().flatten().cloned().collect()
    }

    fn is_faulty(&self, part: ReloadPart) -> bool {
        self.faults.get(&part).is_some_and(|faults| !faults.is_empty())
    }
}

/// Returns every file whose change causes a reload.
pub(super) fn watched(path: Option<&Path>, config: &Config) -> Vec<PathBuf> {
    config.watched().into_iter().chain(path.map(Path::to_owned)).collect()
}

/// Reads the state of files, to compare it later.
pub(super) fn marks(files: &[PathBuf]) -> Marks {
    files.iter().map(|path| (path.clone(), FileMark::of(path))).collect()
}

impl Reloader {
    /// Reloads on SIGHUP, and when files have changed: once they are stable for one check, or at the latest
    /// after some checks.
    pub(super) async fn watch(self: Arc<Self>, mut hangup: Signal) {
        let mut tidy = tokio::time::interval(TIDY);
        let mut checks = FileChecks::default();
        let mut pair = PairWait::default();
        loop {
            let trigger = tokio::select! {
                _ = hangup.recv() => ReloadTrigger::Request,
                () = pair.is_over() => ReloadTrigger::Trust,
                _ = tidy.tick() => {
                    self.live.load().throttle.tidy();
                    self.directory.tidy();
                    self.trail.traffic().tidy(Timestamp::now().as_second());
                    self.log_notices();
                    self.manager.update(self.alarms());
                    checks.are_due();
                    // A faulty file may be good by now. A certificate or list may have expired, and sessions
                    // with servers that were verified before must not outlive it.
                    if !self.is_trust_due() {
                        continue;
                    }
                    ReloadTrigger::Trust
                }
                () = checks.next() => match self.check(&mut checks) {
                    Some(trigger) => trigger,
                    None => continue,
                },
            };
            checks.begin_anew();
            let may_wait = trigger != ReloadTrigger::Request && pair.may_wait();
            match Arc::clone(&self).load(trigger, may_wait).await {
                Ok(ReloadOutcome::Waits) => pair.begin(),
                // Faults have been logged as alarms.
                Ok(ReloadOutcome::Done(_)) => pair.end(),
                Err(error) => {
                    pair.end();
                    tracing::error!(%error, "the task of a reload has panicked; the last good state stays in force");
                }
            }
        }
    }

    /// Checks the files for changes; returns the reason to reload once a change has settled.
    fn check(&self, checks: &mut FileChecks) -> Option<ReloadTrigger> {
        checks.watch(|| self.paths());
        let now = marks(&self.watched());
        let (part, parts) = checks.part();
        let in_folder = self.state().loader.has_changed(part, parts);
        if now == self.state().seen && !in_folder {
            checks.found_nothing();
            return None;
        }
        let is_settled = checks.found(now) || (in_folder && parts > 1);
        is_settled.then_some(if in_folder { ReloadTrigger::Trust } else { ReloadTrigger::Change })
    }

    /// Loads everything again, and puts every part in force that has no fault.
    ///
    /// # Errors
    /// Returns the faults of all parts, joined by semicolons.
    pub(super) async fn reload(self: Arc<Self>) -> Result<(), Failure> {
        match self.load(ReloadTrigger::Request, false).await.map_err(Failure::environment)? {
            ReloadOutcome::Done(faults) if !faults.is_empty() => {
                Err(Failure::Configuration(anyhow::anyhow!(faults.join("; "))))
            }
            ReloadOutcome::Done(_) | ReloadOutcome::Waits => Ok(()),
        }
    }

    /// Loads the parts that `trigger` calls for; if `may_wait`, a key without its certificate is not reported.
    async fn load(
        self: Arc<Self>,
        trigger: ReloadTrigger,
        may_wait: bool,
    ) -> Result<ReloadOutcome, tokio::task::JoinError> {
        let number = (trigger == ReloadTrigger::Request).then(|| self.requested.begin());
        ManagerStatus::reloading();
        let this = Arc::clone(&self);
        let loaded = tokio::task::spawn_blocking(move || this.swap(trigger, may_wait)).await;
        let now_s = Timestamp::now().as_second();
        let panicked = ["the reload has panicked; see the log".to_owned()];
        let faults = match &loaded {
            Ok(ReloadOutcome::Done(faults)) => Some(faults.as_slice()),
            Ok(ReloadOutcome::Waits) => None,
            Err(_) => Some(panicked.as_slice()),
        };
        if let Some(faults) = faults {
            self.metrics.reload(if faults.is_empty() { Ok(now_s) } else { Err(()) });
        }
        if let (Some(number), Some(faults)) = (number, faults) {
            self.requested.end(number, faults);
        }
        self.manager.reloaded(faults.map(<[String]>::len), self.alarms());
        loaded
    }

    /// Returns the number of alarms now.
    pub(super) fn alarms(&self) -> usize {
        self.live.load().alarms.in_force(Timestamp::now().as_second()).len()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, ReloadState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true if a part was faulty at its last load, or a certificate or list has expired since.
    fn is_trust_due(&self) -> bool {
        let state = self.state();
        !state.lasting().is_empty() || ended(&state.loader) > state.ended
    }

    fn watched(&self) -> Vec<PathBuf> {
        watched(self.path.as_deref(), &self.state().config)
    }

    /// Returns the watched files, and the symbolic links in folders of revocation lists.
    fn paths(&self) -> Vec<PathBuf> {
        let mut paths = self.watched();
        let state = self.state();
        let links = state.loader.list_files().filter(|path| path.is_symlink());
        paths.extend(links.map(Path::to_owned));
        paths
    }

    /// Loads the parts that `trigger` calls for and puts those without faults in force.
    fn swap(&self, trigger: ReloadTrigger, may_wait: bool) -> ReloadOutcome {
        let mut state = self.state();
        let state = &mut *state;
        let live = self.live.load_full();
        let before = state.before.take().unwrap_or_else(|| {
            let expiries = &state.loader.expiries;
            BeforeReload::new(&state.config, expiries, &self.directory.file(), &state.seen)
        });
        let loaded = self.load_parts(state, &live, trigger);
        let faults: Vec<_> = loaded.found.values().flatten().cloned().collect();
        // A fault that has been reported is not waited for again.
        let waits = may_wait
            && loaded.is_unpaired
            && !state.is_faulty(ReloadPart::Trust)
            && loaded.found.iter().all(|(part, of)| *part == ReloadPart::Trust || of.is_empty());
        let LoadedParts { config, seen, trust, is_trust_new, rules, throttle, mut found, .. } =
            loaded;
        if waits {
            found.remove(&ReloadPart::Trust);
        }
        let level = config.log.level;
        let level = (level != state.config.log.level).then_some(level);
        state.ended = ended(&state.loader);
        let memory = self.publish(&config, &state.loader, &throttle);
        (state.config, state.seen) = (config, seen);
        state.faults.extend(found);
        let lasting = state.lasting();
        let alarms = Arc::new(Alarms::new(&state.loader, &lasting));
        let shown = in_force(&self.started_with, &state.config).json(&lasting);
        self.shown.store(Arc::new(shown));
        if waits {
            log_wait(&faults);
            state.before = Some(before);
        } else {
            let new = is_trust_new.then_some(&*state.loader.expiries);
            let changes = self.changes(&before, state, new);
            self.record(&state.config, trust.generation, &changes, &faults);
        }
        self.live.store(Arc::new(InForce { trust, rules, throttle, alarms, memory }));
        self.log_notices_in(state);
        // Last, so that the log has the change by its former level.
        level.into_iter().for_each(|level| self.set_log_level(level));
        if waits { ReloadOutcome::Waits } else { ReloadOutcome::Done(faults) }
    }

    /// Sets the level of the log.
    fn set_log_level(&self, level: LogLevel) {
        if let Some(Err(error)) = self.log.as_ref().map(|log| log.set_level(level)) {
            tracing::warn!(%error, "the log keeps its level until a restart");
        }
    }

    /// Loads the parts that `trigger` calls for.
    fn load_parts(
        &self,
        state: &mut ReloadState,
        before: &InForce,
        trigger: ReloadTrigger,
    ) -> LoadedParts {
        let now = marks(&watched(self.path.as_deref(), &state.config));
        let changed = |path: &Path| {
            trigger == ReloadTrigger::Request
                || now.get(path).copied().flatten() != state.seen.get(path).copied().flatten()
        };
        let again = |part| trigger == ReloadTrigger::Trust && state.is_faulty(part);
        let path = self.path.as_deref();
        let path = path.filter(|path| changed(path) || again(ReloadPart::Configuration));
        let mut found: BTreeMap<ReloadPart, Vec<String>> = BTreeMap::new();
        let new = path.map(|path| self.configuration(path));
        let all = trigger == ReloadTrigger::Request || matches!(new, Some(Ok(_)));
        let mut config = state.config.clone();
        match new {
            Some(Ok(new)) => config = new,
            Some(Err(fault)) => drop(found.insert(ReloadPart::Configuration, vec![fault])),
            None => {}
        }
        // Taken before the files are read, so that a change in between is noticed at the next check.
        let mut seen = marks(&watched(self.path.as_deref(), &config));
        seen.extend(now.clone());
        let trust_changed = all
            || trigger == ReloadTrigger::Trust
            || config.trust_files().iter().any(|path| changed(path));
        let file_changed = all || changed(&config.directory.file) || again(ReloadPart::Directory);
        let mut loaded = LoadedTrust::unchanged(before);
        if trust_changed {
            loaded = LoadedTrust::load(&config, &mut state.loader, before);
            found.insert(ReloadPart::Trust, loaded.faults);
        }
        let LoadedTrust { trust, sources, redis, is_unpaired, .. } = loaded;
        let is_trust_new = sources.is_some() && trust.generation != before.trust.generation;
        let file = file_changed.then(|| prepare::directory_file(&config)).and_then(|file| {
            let fault = file.as_ref().err().map(ToString::to_string);
            found.insert(ReloadPart::Directory, fault.into_iter().collect());
            file.ok()
        });
        redis.into_iter().for_each(|redis| self.sharing.replace(redis));
        if file.is_some() || sources.is_some() {
            self.directory.replace(file, sources);
        }
        let (mut rules, mut throttle) = (Arc::clone(&before.rules), Arc::clone(&before.throttle));
        if all {
            let faults;
            (rules, throttle, faults) = self.rules(&config, before);
            found.entry(ReloadPart::Configuration).or_default().extend(faults);
        }
        LoadedParts { config, seen, trust, is_trust_new, is_unpaired, rules, throttle, found }
    }

    /// Returns what a reload has changed; `expiries` are those of certificates and lists if they were loaded.
    fn changes(
        &self,
        before: &BeforeReload,
        state: &ReloadState,
        expiries: Option<&[Expiry]>,
    ) -> Vec<String> {
        let mut changes = before.files(&state.seen);
        changes.extend(before.sections(&state.config));
        changes.extend(before.directory(&self.directory.file()));
        changes.extend(expiries.map(|expiries| before.issued(expiries)).unwrap_or_default());
        changes
    }

    /// Logs a reload, and records in the audit journal what is in force after it.
    fn record(
        &self,
        config: &Config,
        trust_generation: u64,
        changes: &[String],
        faults: &[String],
    ) {
        log_reload(trust_generation, changes, faults);
        let mut facts = prepare::facts_in_force(config, &self.directory.file(), trust_generation);
        facts.insert("faults".to_owned(), faults.len().into());
        self.trail.note("reloaded", facts);
    }

    fn configuration(&self, path: &Path) -> Result<Config, String> {
        let config = Config::load(path).map_err(|fault| fault.unquoted())?;
        if config.lab != self.started_with.lab {
            return Err("lab cannot be changed by a reload; restart the process".to_owned());
        }
        for key in needs_restart(&self.started_with, &config) {
            tracing::warn!(
                key,
                "a key of the configuration has changed but takes effect only after a restart"
            );
        }
        Ok(config)
    }

    /// Makes the rules and limits of a configuration, or keeps those in force where that fails; returns them
    /// with the faults found.
    fn rules(
        &self,
        config: &Config,
        before: &InForce,
    ) -> (Arc<DecisionRules>, Arc<Throttle>, Vec<String>) {
        let mut faults = Vec::new();
        let rules = match prepare::decision_rules(config) {
            Ok(mut new) => {
                new.pace = self.started_with.provider.deadlines.pace();
                Arc::new(new)
            }
            Err(fault) => {
                faults.push(fault.to_string());
                Arc::clone(&before.rules)
            }
        };
        let Self { pressure, sharing, metrics, .. } = self;
        let throttle =
            prepare::throttle(config, Some(&before.throttle), pressure, sharing, metrics);
        (rules, throttle, faults)
    }

    /// Logs notices and alarms that are new since they were last logged.
    pub(super) fn log_notices(&self) {
        self.log_notices_in(&mut self.state());
    }

    fn log_notices_in(&self, state: &mut ReloadState) {
        let ReloadState { config, loader, logged_notices, logged_alarms, .. } = state;
        let now_s = Timestamp::now().as_second();
        let minor = loader.notices.iter().filter(|notice| notice.level < NoticeLevel::Alarm);
        let mut minor: Vec<_> = minor.cloned().collect();
        let live = self.live.load();
        let memory = memory::warnings(config, &in_force(&self.started_with, config), live.memory);
        minor.extend(warnings::of(config, loader, &self.directory.file(), memory, now_s));
        log_new(&minor, logged_notices);
        let alarms = live.alarms.in_force(now_s);
        let alarms: Vec<_> =
            alarms.into_iter().map(|text| Notice::new(NoticeLevel::Alarm, text)).collect();
        log_new(&alarms, logged_alarms);
    }

    /// Sets the metrics of the loaded files and of memory, and the memory limit near which load is shed; returns
    /// the memory that the process may use, read again.
    fn publish(
        &self,
        config: &Config,
        loader: &Loader,
        throttle: &Throttle,
    ) -> Option<MemoryLimit> {
        prepare::publish(loader, config.lab, &self.metrics);
        let memory = MemoryLimit::read(Path::new("/"));
        memory::publish(&in_force(&self.started_with, config), memory, &self.metrics);
        self.pressure.limit(throttle.limits().ceiling(memory));
        memory
    }
}

/// Trust, the live sources of the directory and the Redis server as loaded.
struct LoadedTrust {
    /// The new one, or that in force where loading failed.
    trust: Arc<Trust>,
    /// `None` if they could not be loaded; those in force stay.
    sources: Option<directory::LiveSources>,
    /// Redis server, if one is configured; the outer `None` if it could not be loaded, and that in force stays.
    redis: Option<Option<RedisServer>>,
    faults: Vec<String>,
    /// True if all faults are keys that do not match their certificates.
    is_unpaired: bool,
}

impl LoadedTrust {
    /// Returns what is in force, without faults.
    fn unchanged(before: &InForce) -> Self {
        let trust = Arc::clone(&before.trust);
        Self { trust, sources: None, redis: None, faults: Vec::new(), is_unpaired: false }
    }

    /// Loads trust, the live sources and the Redis server; keeps the trust in force where that fails.
    fn load(config: &Config, loader: &mut Loader, before: &InForce) -> Self {
        let mut loaded = Self::unchanged(before);
        let mut is_unpaired = true;
        let mut note = |faults: &mut Vec<String>, fault: &TrustError| {
            is_unpaired &= fault.is_unpaired();
            let text = config.locate(Some(fault.path()), fault);
            // Both legs may name the file.
            if !faults.contains(&text) {
                faults.push(text);
            }
        };
        loader.begin(Timestamp::now().as_second());
        let generation = before.trust.generation + 1;
        match Trust::load(generation, &config.tls, &config.provider_tls, loader) {
            Ok(trust) => loaded.trust = Arc::new(trust),
            Err(fault) => note(&mut loaded.faults, &fault),
        }
        let mut others = Vec::new();
        let sources = directory::LiveSources::load(&config.directory, loader);
        let sources = sources.map_err(|fault| others.push(config.locate(fault.path(), &fault)));
        loaded.sources = sources.ok();
        let redis = config.redis.as_ref().map(|redis| RedisServer::load(redis, loader)).transpose();
        let redis = redis.map_err(|fault| others.push(config.locate(fault.path(), &fault)));
        loaded.redis = redis.ok();
        if loaded.faults.is_empty() && others.is_empty() {
            loader.end();
        }
        loader.faults.iter().for_each(|fault| note(&mut loaded.faults, fault));
        loaded.is_unpaired = is_unpaired && others.is_empty() && !loaded.faults.is_empty();
        loaded.faults.extend(others);
        loaded
    }
}

/// Logs that a key or certificate was replaced alone.
fn log_wait(faults: &[String]) {
    tracing::info!(
        faults = faults.join("; "),
        wait_s = PairWait::MAX.as_secs(),
        "a key does not match its certificate: waiting for the other file; the last good pair stays in force"
    );
}

/// Logs what a reload has changed, up to [`CHANGES_MAX`] of it, and its faults.
fn log_reload(generation: u64, changes: &[String], faults: &[String]) {
    for change in changes.iter().take(CHANGES_MAX) {
        tracing::info!(generation, "reload: {change}");
    }
    if let Some(more) = changes.len().checked_sub(CHANGES_MAX).filter(|more| *more > 0) {
        tracing::info!(generation, more, "reload: more changes than are logged");
    }
    for fault in faults.iter().take(NOTICES_LOGGED_MAX) {
        tracing::warn!(generation, "reload: fault: {fault}");
    }
    tracing::info!(
        generation,
        changes = changes.len(),
        faults = faults.len(),
        "configuration and files reloaded; parts with faults keep their last good state"
    );
}

/// Returns the number of certificates and revocation lists that have expired.
fn ended(loader: &Loader) -> usize {
    let now_s = Timestamp::now().as_second();
    loader.expiries.iter().filter(|expiry| expiry.at_s <= now_s).count()
}

/// Logs the notices that are not in `logged`, the texts logged last time.
fn log_new(notices: &[Notice], logged: &mut HashSet<String>) {
    let new: Vec<_> = notices.iter().filter(|notice| !logged.contains(&notice.text)).collect();
    for Notice { level, text, .. } in new.iter().take(NOTICES_LOGGED_MAX) {
        match level {
            NoticeLevel::Info => tracing::info!("{text}"),
            NoticeLevel::Warning => tracing::warn!("{text}"),
            NoticeLevel::Alarm => tracing::error!("{text}"),
        }
    }
    if let Some(more) = new.len().checked_sub(NOTICES_LOGGED_MAX).filter(|more| *more > 0) {
        tracing::warn!(
            more,
            "more notices about certificates and revocation lists than are logged: `spine-proxy check` prints all"
        );
    }
    *logged = notices.iter().map(|notice| notice.text.clone()).collect();
}
