//! The log of the process, on standard error.

use std::io::{self, IsTerminal};
use std::sync::Arc;

use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;
use serde::de::value::StrDeserializer;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, fmt, registry, reload};

use crate::config::{Log, LogFormat, LogLevel};

/// Crates of this project, whose messages have the level that the configuration sets.
const OUR_CRATES: [&str; 3] = [env!("CARGO_CRATE_NAME"), "audit_journal", "gpconnect_simulator"];

/// Handle by which the level of the log is changed while the process runs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LogControl(Arc<reload::Handle<Targets, Registry>>);

/// Error returned when the level of the log cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum LogControlError {
    /// The level is not one of those of the configuration.
    #[error("the level must be one of error, warn, info, debug and trace")]
    Unknown,
    /// The log of the handle is not in use.
    #[error("the level of the log cannot be changed: {0}")]
    NotInUse(#[from] reload::Error),
}

impl LogControl {
    /// Sets the lowest level that is logged, until the process ends or it is set again.
    ///
    /// # Errors
    /// Returns an error if the log of this handle is not in use.
    pub fn set_level(&self, level: LogLevel) -> Result<(), LogControlError> {
        Ok(self.0.reload(filter(level))?)
    }

    /// Sets the level by its name in the configuration, such as `debug`.
    ///
    /// # Errors
    /// Returns an error if there is no such level, or the log of this handle is not in use.
    pub fn set_level_named(&self, name: &str) -> Result<(), LogControlError> {
        let name: StrDeserializer<'_, serde::de::value::Error> = name.into_deserializer();
        self.set_level(LogLevel::deserialize(name).map_err(|_| LogControlError::Unknown)?)
    }
}

/// Returns the filter by level.
///
/// Security: libraries log warnings and errors only, since their messages at lower levels may contain request
/// data.
fn filter(level: LogLevel) -> Targets {
    let ours = LevelFilter::from(level);
    Targets::new().with_default(LevelFilter::WARN).with_targets(OUR_CRATES.map(|name| (name, ours)))
}

/// Returns true if a stream shows colours: it is a terminal, and `NO_COLOR` is not set.
///
/// Spec: <https://no-color.org>.
#[must_use]
pub fn has_colours(stream: &impl IsTerminal) -> bool {
    let is_unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !is_unwanted
}

/// Starts logging to standard error; returns the handle of its level, or `None` if logging had already been
/// started, whose settings stay in force.
///
/// Colours are used only for people at a terminal, unless `NO_COLOR` is set.
pub fn start(settings: &Log) -> Option<LogControl> {
    let (filter, handle) = reload::Layer::new(filter(settings.level));
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(has_colours(&io::stderr()));
    let log = registry().with(filter);
    let started = match settings.format {
        LogFormat::Json => {
            log.with(lines.json().flatten_event(true).with_span_list(false)).try_init()
        }
        LogFormat::Human => log.with(lines).try_init(),
    };
    match started {
        Ok(()) => Some(LogControl(Arc::new(handle))),
        Err(error) => {
            tracing::debug!(%error, "logging has already been started; the first settings stay in force");
            None
        }
    }
}
