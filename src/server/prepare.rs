//! Loads and checks a configuration with every file that it names. `check` prints the result, `serve` serves
//! it, and a reload puts parts of it in force.

use std::fmt::{Display, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::reload::{self, Marks};
use super::warnings;
use crate::admin;
use crate::config::{Config, Log};
use crate::directory::LiveSources;
use crate::failure::Failure;
use crate::gateway::{Compatibility, DecisionRules};
use crate::log::LogControl;
use crate::metrics::Metrics;
use crate::registry::{DirectoryFile, OtherSources};
use crate::request::HeadRules;
use crate::sharing::{RedisServer, Sharing};
use crate::throttle::{MemoryLimit, Pressure, Throttle};
use crate::tls::{Loader, Notice, NoticeLevel, Trust};
use spine_types::interaction::AllowedInteractions;

/// Configuration with everything that can be loaded before a socket is opened.
#[derive(Debug)]
pub struct Prepared {
    /// Configuration as read from its file.
    pub config: Config,
    /// Certificates, authorities and revocation lists, as one trust generation.
    pub trust: Trust,
    /// Rules that the decisions about a request follow.
    pub rules: DecisionRules,
    /// Contents of the directory file.
    pub directory: DirectoryFile,
    /// Live sources of the directory, if configured.
    pub live: LiveSources,
    /// Redis server through which state is shared with other gateways, if configured.
    pub redis: Option<RedisServer>,
    /// Loader of certificates, authorities and revocation lists, with its notices about their files.
    pub loader: Loader,
    /// Memory that the process may use; `None` if it cannot be read.
    pub memory: Option<MemoryLimit>,
    /// Handle of the log's level; `None` if the log was not started with this configuration.
    pub(super) log: Option<LogControl>,
    /// State of each file before it was read, to notice later changes.
    pub(super) seen: Marks,
}

impl Prepared {
    /// Loads a configuration and every file that it names.
    ///
    /// # Errors
    /// Returns the first fault, with its file, and its line or key where known.
    pub fn load(path: &Path, generation: u64) -> Result<Self, Failure> {
        Self::load_logging(path, generation, |_| None)
    }

    /// Loads a configuration as [`Prepared::load`] does, and calls `start_log` once the log's settings are known.
    ///
    /// # Errors
    /// Returns the first fault, as [`Prepared::load`] does.
    pub fn load_logging(
        path: &Path,
        generation: u64,
        start_log: impl FnOnce(&Log) -> Option<LogControl>,
    ) -> Result<Self, Failure> {
        let seen = reload::marks(&[path.to_owned()]);
        let config = Config::load(path).map_err(Failure::configuration)?;
        let log = start_log(&config.log);
        let mut prepared = Self::from_config(config, generation)?;
        prepared.seen.extend(seen);
        prepared.log = log;
        Ok(prepared)
    }

    /// Loads every file that a configuration names.
    ///
    /// # Errors
    /// Returns the first fault, as [`Prepared::load`] does.
    pub fn from_config(config: Config, generation: u64) -> Result<Self, Failure> {
        let seen = reload::marks(&config.watched());
        let mut loader = Loader::new(Timestamp::now().as_second());
        let trust = Trust::load(generation, &config.tls, &config.provider_tls, &mut loader)
            .map_err(|fault| located(&config, Some(fault.path()), &fault))?;
        let live = LiveSources::load(&config.directory, &mut loader)
            .map_err(|fault| located(&config, fault.path(), &fault))?;
        let redis = config.redis.as_ref().map(|redis| RedisServer::load(redis, &mut loader));
        let redis = redis.transpose().map_err(|fault| located(&config, fault.path(), &fault))?;
        loader.end();
        let directory = directory_file(&config)?;
        let token = config.admin.token_file.as_deref().map(admin::token).transpose();
        token.map_err(|fault| located(&config, Some(fault.path()), &fault))?;
        if let Some(traces) = &config.traces {
            traces.check_files().map_err(|fault| located(&config, fault.path(), &fault))?;
        }
        let rules = decision_rules(&config)?;
        let memory = MemoryLimit::read(Path::new("/"));
        Ok(Self { config, trust, rules, directory, live, redis, loader, memory, log: None, seen })
    }

    /// Returns warnings for an operator: notices about files and settings, and what would be an alarm.
    #[must_use]
    pub fn warnings(&self) -> Vec<Notice> {
        let Self { config, loader, directory, memory, .. } = self;
        let now_s = Timestamp::now().as_second();
        let minor = loader.notices.iter().filter(|notice| notice.level == NoticeLevel::Warning);
        let memory = super::memory::warnings(config, config, *memory);
        let others = warnings::of(config, loader, directory, memory, now_s);
        let alarms = loader.notices.iter().filter(|notice| notice.level == NoticeLevel::Alarm);
        let overdue = loader.expiries.iter().filter_map(|expiry| {
            let text = expiry.overdue(now_s)?;
            Some(Notice::new(NoticeLevel::Alarm, text).about_file(&expiry.path))
        });
        let mut alarms: Vec<_> = alarms.cloned().chain(overdue).collect();
        alarms.sort_unstable_by(|one, other| one.text.cmp(&other.text));
        alarms.dedup();
        minor.cloned().chain(others).chain(alarms).collect()
    }

    /// Describes for an operator what would be served, in several lines.
    #[must_use]
    pub fn summary(&self) -> String {
        let Self { config, rules, directory, live, loader, memory, .. } = self;
        let mut text = String::new();
        let mut line = |text_line: String| writeln!(text, "{text_line}").unwrap_or_default();
        let addresses: Vec<_> = config.listener.addresses.iter().map(ToString::to_string).collect();
        line(format!("listening on    {}", addresses.join(", ")));
        line(format!("known as        {}", config.listener.names.join(", ")));
        line(format!("named           {} (Via, Forwarded, Proxy-Status)", rules.proxy));
        line(format!("admin on        {}", config.admin.address));
        line(format!("directory       {}", directory.counts()));
        if config.directory.is_live() {
            line(format!("live sources    {}", live.summary()));
        }
        line(format!("journal         {}", config.audit.journal.display()));
        let networks: Vec<_> = config.provider.networks.iter().map(ToString::to_string).collect();
        line(format!("connects within {}", networks.join(", ")));
        line(format!("memory bound    {}", super::memory::bound(config)));
        if let Some(memory) = memory {
            line(format!("memory limit    {memory}"));
        }
        line("forwards".to_owned());
        for interaction in rules.allowed.iter() {
            line(format!(
                "    {} {} {}",
                interaction.id,
                interaction.method,
                interaction.template()
            ));
        }
        line("valid until".to_owned());
        for expiry in &loader.expiries {
            let at = Timestamp::from_second(expiry.at_s).map_or_else(
                |_| "no end known".to_owned(),
                |at| at.strftime("%Y-%m-%d %H:%M UTC").to_string(),
            );
            let (label, path) = (expiry.used_as.label(), expiry.path.display());
            line(format!("    {at}  {label} {path} ({})", expiry.issued));
        }
        for notice in loader.notices.iter().filter(|notice| notice.level == NoticeLevel::Info) {
            line(format!("note            {}", notice.text));
        }
        if config.lab {
            line("LAB: lab = true, never with live patient data".to_owned());
        }
        text
    }
}

/// Returns what the audit journal records about the configuration in force.
pub(super) fn facts_in_force(
    config: &Config,
    directory: &DirectoryFile,
    trust_generation: u64,
) -> Map<String, Value> {
    Map::from_iter([
        ("config_sha256".to_owned(), config.sha256.clone().into()),
        ("directory_sha256".to_owned(), directory.sha256().into()),
        ("trust_generation".to_owned(), trust_generation.into()),
    ])
}

/// Loads the directory file.
pub(super) fn directory_file(config: &Config) -> Result<DirectoryFile, Failure> {
    let others = if config.directory.is_live() { OtherSources::Live } else { OtherSources::None };
    let path = &config.directory.file;
    DirectoryFile::load(path, others).map_err(|fault| located(config, Some(path), &fault))
}

/// Returns a fault as a configuration error; if a file causes it, with the keys and lines that name the file.
fn located(config: &Config, file: Option<&Path>, fault: &dyn Display) -> Failure {
    Failure::configuration(config.located(file, fault))
}

/// Makes the rules for decisions from the configuration.
pub(super) fn decision_rules(config: &Config) -> Result<DecisionRules, Failure> {
    let names = config.allowed.iter().map(String::as_str);
    let allowed = AllowedInteractions::from_names(names)
        .map_err(|why| Failure::Configuration(anyhow::anyhow!("allowed: {why}")))?;
    let proxy = config.proxy_name().as_str().to_owned();
    let bytes = |size: bytesize::ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
    let compatibility = config.compatibility.iter().map(|(asid, written)| {
        let compatibility = Compatibility {
            audiences: written.audience.clone(),
            clock_ahead_max: written.clock_ahead_max,
            signature: written.signature,
            trace_ids: written.trace_id,
            errors: written.errors,
        };
        (asid.clone(), compatibility)
    });
    Ok(DecisionRules {
        head: HeadRules {
            names: config.listener.names.iter().map(|name| name.to_ascii_lowercase()).collect(),
            proxy: proxy.clone(),
            target_bytes_max: bytes(config.request.target_max),
            head_bytes_max: bytes(config.request.head_max),
            headers_max: config.request.headers_max,
        },
        allowed,
        compatibility: compatibility.collect(),
        bases: bases(config),
        #[cfg(feature = "lab")]
        lab: config.lab,
        help: config.listener.help_url.clone(),
        proxy,
        pace: config.provider.deadlines.pace(),
    })
}

/// Returns the base URLs under which consumers may know this proxy: each name, without and with each port.
fn bases(config: &Config) -> Vec<String> {
    let host = |name: &String| if name.contains(':') { format!("[{name}]") } else { name.clone() };
    let ports: Vec<u16> = config.listener.addresses.iter().map(SocketAddr::port).collect();
    let named = config.listener.names.iter().map(host).map(|host| format!("https://{host}"));
    let with_port = |base: String| {
        let ported = ports.iter().map(|port| format!("{base}:{port}")).collect::<Vec<_>>();
        std::iter::once(base).chain(ported)
    };
    named.flat_map(with_port).collect()
}

/// Sets the metrics of lab mode and of expiry dates, at the start and at each reload.
pub(super) fn publish(loader: &Loader, lab: bool, metrics: &Metrics) {
    metrics.lab.set(i64::from(lab));
    if lab {
        tracing::warn!(
            "lab = true: lab switches may be in use; never use this proxy with live patient data"
        );
    }
    metrics.expiries(loader.expiries.iter().map(|expiry| {
        let file = expiry.path.display().to_string();
        (expiry.used_as.label(), expiry.used_as.is_crl(), file, expiry.at_s)
    }));
}

/// Returns the throttle for a configuration: the one from before if its limits are unchanged, so that its
/// counts are kept.
pub(super) fn throttle(
    config: &Config,
    before: Option<&Arc<Throttle>>,
    pressure: &Pressure,
    sharing: &Sharing,
    metrics: &Arc<Metrics>,
) -> Arc<Throttle> {
    match before {
        Some(before) if *before.limits() == config.throttle => Arc::clone(before),
        _ => {
            let (limits, pressure) = (config.throttle.clone(), pressure.clone());
            Arc::new(Throttle::new(limits, pressure, sharing.clone(), Arc::clone(metrics)))
        }
    }
}
