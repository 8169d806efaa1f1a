//! The configuration: one strict TOML file, composed of the settings of each module.
//!
//! Unknown keys are errors; a mistake is reported with its line and a caret; durations and sizes carry units;
//! paths are relative to the file.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::level_filters::LevelFilter;

use crate::claims::{self, Signature};
use crate::policy::OtherAudience;
use crate::refusal::ErrorFamily;
use crate::request::TraceIdRule;
use crate::tls::{ConsumerLeg, KeyPair, ProviderLeg};
use crate::{audit, directory, forward, hex, listener, sharing, throttle, traces};
use spine_types::interaction::AllowedInteractions;
use spine_types::{Asid, InnerUrl, check_range};

mod places;
mod proxy_name;

pub use places::LocatedFault;
pub use proxy_name::ProxyName;

use places::ConfigPaths;

/// Error returned when a configuration cannot be used; names the file, and the line where known.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct ConfigError {
    path: PathBuf,
    line: Option<usize>,
    why: String,
    /// The mistake without the line of the file; `None` if `why` quotes none.
    unquoted: Option<String>,
}

impl ConfigError {
    /// Returns the path of the configuration file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the error on one line, without the text of the file.
    ///
    /// Security: that may hold a secret, by mistake or in a URL; the log and the admin port show this to others
    /// than those who may read the file.
    #[must_use]
    pub fn unquoted(&self) -> String {
        let path = self.path.display();
        match (&self.unquoted, self.line) {
            (Some(mistake), Some(line)) => format!("{path}: line {line}: {mistake}"),
            (Some(mistake), None) => format!("{path}: {mistake}"),
            (None, _) => self.to_string(),
        }
    }

    /// Returns the line of a mistake, counted from 1, where it is known.
    #[must_use]
    pub const fn line(&self) -> Option<usize> {
        self.line
    }
}

/// Contents of the configuration file.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Groups of interactions, or single ids, that are forwarded.
    #[serde(default = "allowed")]
    pub allowed: Vec<String>,
    /// True if the switches marked *lab* may be used; never with live patient data.
    #[serde(default)]
    pub lab: bool,
    /// Consumer port: addresses, names, workers and limits.
    pub listener: Listener,
    /// TLS towards consumers.
    pub tls: ConsumerLeg,
    /// Limits of a request's head.
    #[serde(default)]
    pub request: Sizes,
    /// Connections to providers.
    pub provider: forward::ForwardSettings,
    /// TLS towards providers.
    pub provider_tls: ProviderLeg,
    /// Directory of consumers, practices and agreements.
    pub directory: directory::DirectorySettings,
    /// Audit journal of all exchanges.
    pub audit: audit::AuditSettings,
    /// Rate limits and limits of concurrent exchanges.
    #[serde(default)]
    pub throttle: throttle::ThrottleLimits,
    /// Redis server through which several gateways share state; nothing is shared if absent.
    pub redis: Option<sharing::RedisSettings>,
    /// Traces of exchanges; off if absent.
    pub traces: Option<traces::TracesSettings>,
    /// Admin port for operators.
    pub admin: Admin,
    /// Format and level of the log.
    #[serde(default)]
    pub log: Log,
    /// Deviations from the specification that are allowed, by the consumer's ASID.
    #[serde(default)]
    pub compatibility: BTreeMap<Asid, CompatibilitySettings>,
    /// SHA-256 of the file in hexadecimal.
    #[serde(skip)]
    pub sha256: String,
    #[serde(skip)]
    #[schemars(skip)]
    places: ConfigPaths,
}

/// Settings of the consumer port.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Listener {
    /// Addresses and ports to listen on, as `address:port`.
    pub addresses: Vec<SocketAddr>,
    /// Host names and addresses under which consumers know this proxy, without port; any other `Host` is refused.
    pub names: Vec<String>,
    /// Name of this installation in `Via`, `Forwarded` (`by=_…`) and `Proxy-Status`; derived from the machine's
    /// host name if not set.
    ///
    /// A letter, then letters, digits, `.`, `_` and `-`, at most 64 characters.
    /// Of two gateways in a row each needs its own; gateways behind one load balancer may share one.
    #[schemars(with = "Option<String>")]
    pub proxy_name: Option<ProxyName>,
    /// URL of a page about refusals, such as `https://ssp.example.nhs.uk/docs/refusals.html`.
    ///
    /// Refused answers then have `Link: <URL#token>; rel="help"`. It begins with `https://`, and has no query and
    /// no fragment.
    pub help_url: Option<String>,
    /// Networks of load balancers that send a PROXY protocol header, of version 1 or 2, before TLS, such as
    /// `["10.1.0.0/16", "2001:db8::/32"]`.
    ///
    /// From there a header is required, and the address in it is the consumer's for limits, records and
    /// `Forwarded`. From anywhere else no header is believed.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub proxy_protocol_from: Vec<IpNet>,
    /// Number of worker threads; one for each core if not set.
    pub workers: Option<usize>,
    /// Limits and timeouts of the consumer port.
    #[serde(default)]
    pub limits: listener::ListenerLimits,
}

/// Limits of a request's head.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Sizes {
    /// Maximum size of the request target, at most 60 KiB.
    #[serde(with = "spine_types::size")]
    #[schemars(with = "String")]
    pub target_max: ByteSize,
    /// Maximum size of the head: header names and values together, at most 120 KiB.
    #[serde(with = "spine_types::size")]
    #[schemars(with = "String")]
    pub head_max: ByteSize,
    /// Maximum number of header lines, at most 127.
    pub headers_max: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { target_max: ByteSize::kib(32), head_max: ByteSize::kib(64), headers_max: 100 }
    }
}

/// Settings of the admin port, which speaks plain HTTP: keep it on loopback or a management network.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Admin {
    /// Address of `/livez`, `/readyz`, `/metrics`, `/reload`, the console and the views.
    pub address: SocketAddr,
    /// Names that a request's `Host` may have, besides any IP address and `localhost`.
    #[serde(default)]
    pub names: Vec<String>,
    /// Path of a file that holds only the token for the views, posted requests and the console, of 32 bytes or
    /// more. Without it views and posted requests are refused, and the console is open on a loopback address alone.
    pub token_file: Option<PathBuf>,
}

impl Listener {
    fn check(&self) -> Result<(), String> {
        if self.addresses.is_empty() {
            return Err("listener.addresses is empty; name an address and port to listen on".into());
        }
        if self.names.is_empty() {
            return Err(
                "listener.names is empty: every Host would be refused; name this proxy's host \
                        names"
                    .into(),
            );
        }
        if self.workers == Some(0) {
            return Err("listener.workers is 0; it must be 1 or more".into());
        }
        if let Some(url) = &self.help_url {
            let fault = |why: &str| Err(format!("listener.help-url: {url:?}: {why}"));
            match InnerUrl::parse(url) {
                Ok(InnerUrl { query: None, .. }) => {}
                Ok(_) => return fault("the token is added to it: it must not have a query"),
                Err(why) => return fault(&why.to_string()),
            }
        }
        for network in &self.proxy_protocol_from {
            if network.addr().to_canonical() != network.addr() {
                return Err(format!(
                    "listener.proxy-protocol-from: {network} is an IPv4 network written as IPv6, and no \
                     address would be in it; write it as IPv4"
                ));
            }
        }
        self.limits.check()
    }
}

impl Sizes {
    fn check(&self) -> Result<(), String> {
        let byte = ByteSize::b(1);
        check_range("request.target-max", &self.target_max, byte..=ByteSize::kib(60))?;
        check_range("request.head-max", &self.head_max, byte..=ByteSize::kib(120))?;
        check_range("request.headers-max", &self.headers_max, 1..=127)
    }
}

impl Admin {
    /// Returns warnings for the operator about settings that can be served but are probably mistakes.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.address.ip().to_canonical().is_loopback() {
            warnings.push(format!(
                "admin.address {} is not a loopback address: the admin port is plain HTTP, and anyone who \
                 reaches it can read /metrics and /readyz; use 127.0.0.1, or keep consumers and others \
                 away from it with a firewall",
                self.address
            ));
        }
        warnings
    }
}

/// Settings of the log.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Log {
    /// Format of log lines.
    pub format: LogFormat,
    /// Lowest level that is logged; libraries log warnings and errors only, whatever is set here.
    pub level: LogLevel,
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object per line.
    #[default]
    Json,
    /// Plain text for people.
    Human,
}

/// Lowest level of messages that is logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the variants are named as the levels of the log")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// Deviations from the specification that are allowed for one consumer.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct CompatibilitySettings {
    /// Audiences that are accepted besides the registered service root.
    pub audience: Vec<OtherAudience>,
    /// Time by which the `iat` of a token may be ahead of this proxy's clock, at most 1 hour. A token is then accepted
    /// for as much longer than five minutes.
    #[serde(with = "spine_types::period")]
    #[schemars(with = "String")]
    pub clock_ahead_max: Duration,
    /// Lab: treatment of a token's third part, the signature.
    pub signature: Signature,
    /// Lab: form that a trace id may have.
    pub trace_id: TraceIdRule,
    /// Lab: family of bodies that its refusals have.
    pub errors: ErrorFamily,
}

impl Default for CompatibilitySettings {
    fn default() -> Self {
        Self {
            audience: Vec::new(),
            clock_ahead_max: claims::CLOCK_AHEAD_MAX,
            signature: Signature::default(),
            trace_id: TraceIdRule::default(),
            errors: ErrorFamily::default(),
        }
    }
}

impl CompatibilitySettings {
    /// Limit: longest `clock-ahead-max` that may be configured.
    const CLOCK_AHEAD_MAX: Duration = Duration::from_secs(60 * 60);

    fn check(&self, is_lab: bool) -> Result<(), String> {
        if self.clock_ahead_max > Self::CLOCK_AHEAD_MAX {
            return Err("clock-ahead-max must be at most 1h".to_owned());
        }
        for audience in &self.audience {
            if let OtherAudience::Named(name) = audience
                && !name.contains("://")
            {
                return Err(format!("audience: {name:?} is neither a known name nor a URL"));
            }
        }
        match self.first_lab_key() {
            Some(key) if !is_lab => Err(format!("{key} needs lab = true")),
            _ => Ok(()),
        }
    }

    /// Returns the first key that is set and needs `lab = true`.
    fn first_lab_key(&self) -> Option<&'static str> {
        if self.signature != Signature::default() {
            Some("signature")
        } else if self.trace_id != TraceIdRule::default() {
            Some("trace-id")
        } else if self.errors != ErrorFamily::default() {
            Some("errors")
        } else {
            None
        }
    }
}

fn allowed() -> Vec<String> {
    AllowedInteractions::DEFAULT.map(str::to_owned).to_vec()
}

impl Config {
    /// Returns the configuration as JSON with all defaults, for operators, with the faults of the last load,
    /// whose parts are in force as they were before. It names the files of keys and passwords, and holds none of
    /// their content.
    #[must_use]
    pub fn json(&self, faults: &[String]) -> String {
        let (sha256, configuration) = (&self.sha256, self.sections());
        let json = serde_json::json!({
            "sha256": sha256, "faults": faults, "configuration": configuration,
        });
        format!("{json:#}\n")
    }

    /// Returns the sections with all their keys, as a JSON object. A password in a URL is left out.
    #[must_use]
    pub fn sections(&self) -> serde_json::Value {
        // Keys are text, so this cannot fail.
        serde_json::to_value(self).unwrap_or_default()
    }

    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, is not valid TOML for this configuration, or has a
    /// setting that is not allowed.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let fault =
            |why: String| ConfigError { path: path.to_owned(), line: None, why, unquoted: None };
        let text = std::fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
        Self::parse(&text, path)
    }

    /// Checks the text of a configuration file; paths in it are relative to the folder of `path`.
    ///
    /// # Errors
    /// Returns an error as [`Config::load`] does.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let fault =
            |why: String| ConfigError { path: path.to_owned(), line: None, why, unquoted: None };
        let mut config: Self = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.map(|before| before.matches('\n').count() + 1);
            let unquoted = Some(error.message().to_owned());
            ConfigError { line, unquoted, ..fault(error.to_string()) }
        })?;
        config.check().map_err(fault)?;
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        for file in config.paths_mut() {
            *file = folder.join(&file);
        }
        let mut files = config.watched();
        files.extend(config.written_mut().map(|file| file.clone()));
        config.places = ConfigPaths::new(text, path, &files);
        config.sha256 = hex::sha256(text.as_bytes());
        Ok(config)
    }

    /// Returns the number of worker threads.
    #[must_use]
    pub fn workers(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        self.listener.workers.unwrap_or_else(cores)
    }

    /// Returns the name of this installation: the configured one, or one derived from the host name.
    #[must_use]
    pub fn proxy_name(&self) -> ProxyName {
        self.listener.proxy_name.clone().unwrap_or_else(ProxyName::of_this_machine)
    }

    /// Returns every file whose change causes a reload, except the configuration file itself.
    #[must_use]
    pub fn watched(&self) -> Vec<PathBuf> {
        let mut copy = self.clone();
        let written: Vec<PathBuf> = copy.written_mut().map(|path| path.clone()).collect();
        copy.paths_mut()
            .into_iter()
            .map(|path| path.clone())
            .filter(|path| !written.contains(path))
            .collect()
    }

    /// Returns the files with certificates, authorities, revocation lists and secrets.
    #[must_use]
    pub fn trust_files(&self) -> Vec<PathBuf> {
        let mut files = self.watched();
        files.retain(|path| *path != self.directory.file);
        files
    }

    /// Checks each section, and what concerns several of them.
    fn check(&self) -> Result<(), String> {
        AllowedInteractions::from_names(self.allowed.iter().map(String::as_str))
            .map_err(|why| format!("allowed: {why}"))?;
        for (asid, settings) in &self.compatibility {
            settings.check(self.lab).map_err(|why| format!("compatibility.{asid}.{why}"))?;
        }
        self.listener.check()?;
        self.tls.check()?;
        self.request.check()?;
        self.provider.check()?;
        self.provider_tls.check()?;
        self.directory.check()?;
        self.audit.check()?;
        if let Some(redis) = &self.redis {
            redis.check()?;
        }
        if let Some(traces) = &self.traces {
            traces.check()?;
        }
        self.throttle.check()
    }

    /// Returns the files that the process writes, whose change does not cause a reload.
    fn written_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let copies = self.audit.checkpoints.iter_mut().flat_map(|settings| &mut settings.copies);
        [&mut self.audit.journal].into_iter().chain(&mut self.directory.snapshot).chain(copies)
    }

    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        let mut paths: Vec<&mut PathBuf> =
            self.tls.certificates.iter_mut().flat_map(pair).collect();
        paths.extend(&mut self.tls.authorities);
        paths.extend(self.tls.crl.files_mut());
        paths.extend(pair(&mut self.provider_tls.certificate));
        paths.extend(&mut self.provider_tls.authorities);
        paths.extend(self.provider_tls.crl.files_mut());
        paths.extend(self.directory.paths_mut());
        paths.extend(&mut self.admin.token_file);
        paths.extend(self.traces.iter_mut().flat_map(traces::TracesSettings::paths_mut));
        paths.extend(self.redis.iter_mut().flat_map(sharing::RedisSettings::paths_mut));
        paths.push(&mut self.audit.journal);
        if let Some(checkpoints) = &mut self.audit.checkpoints {
            paths.extend(&mut checkpoints.keys);
            paths.extend(&mut checkpoints.copies);
            let witnesses = checkpoints.witnesses.iter_mut();
            paths.extend(witnesses.flat_map(|witness| &mut witness.authorities));
        }
        paths
    }
}

fn pair(pair: &mut KeyPair) -> [&mut PathBuf; 2] {
    [&mut pair.chain, &mut pair.key]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_or_size_too_small_to_serve_by_is_refused() {
        let example = include_str!("../deploy/spine-proxy.toml");
        for (line, less) in [
            ("#segment-age = \"24h\"", "segment-age = \"0s\""),
            ("#segment-size = \"256 MiB\"", "segment-size = \"100 B\""),
            ("#delay-max = \"500ms\"", "delay-max = \"1ms\""),
            ("# memory-max = \"1 GiB\"", "memory-max = \"1 KiB\""),
        ] {
            assert!(example.contains(line), "{line}");
            let text = example.replace(line, less);
            let refused = Config::parse(&text, "spine-proxy.toml".as_ref()).unwrap_err();
            assert!(refused.to_string().contains("; it must be "), "{refused}");
        }
    }

    #[test]
    fn a_limit_by_which_nothing_would_be_served_is_refused() {
        let example = include_str!("../deploy/spine-proxy.toml");
        for line in [
            "connections-max = 3000",
            "certificate-connections-max = 1000",
            "in-hand-max = 1024",
            "unverified-max = 256",
            "address-connections-max = 1000",
            "address-handshakes-max = 64",
            "handshakes-max = 512",
            "streams-max = 100",
            "requests-max = 100000",
            "consumer-exchanges-max = 512",
            "practice-waiting-max = 64",
            "practice-exchanges-max = 64",
            "headers-max = 100",
            "target-max = \"32 KiB\"",
            "head-max = \"64 KiB\"",
        ] {
            let (key, _) = line.split_once(" = ").unwrap();
            assert!(example.contains(&format!("\n#{line}")), "{line}");
            let nought = if line.ends_with('"') { "\"0 B\"" } else { "0" };
            let text = example.replace(&format!("\n#{line}"), &format!("\n{key} = {nought}"));
            let refused = Config::parse(&text, "spine-proxy.toml".as_ref()).unwrap_err();
            assert!(refused.to_string().contains(&format!("{key} is 0")), "{refused}");
        }
    }
}
