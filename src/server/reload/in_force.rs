//! Part of a configuration that is in force: what needs a restart is that of the start.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::config::{Config, Listener, Log};

/// Returns the configuration in force after a reload of `config`.
pub(super) fn in_force(started: &Config, config: &Config) -> Config {
    let (started, mut config) = (started.clone(), config.clone());
    let Listener { names, help_url, .. } = config.listener;
    config.listener = Listener { names, help_url, ..started.listener };
    config.provider = started.provider;
    // The other deadlines belong to the live sources, which a reload replaces.
    let deadlines = &mut config.directory.deadlines;
    deadlines.waiting = started.directory.deadlines.waiting;
    deadlines.background = started.directory.deadlines.background;
    config.directory.freshness = started.directory.freshness;
    config.directory.misses_per_minute = started.directory.misses_per_minute;
    config.directory.snapshot = started.directory.snapshot;
    config.audit = started.audit;
    config.traces = started.traces;
    config.admin = started.admin;
    config.log = Log { level: config.log.level, ..started.log };
    config
}

/// Returns the keys that have changed and take effect only after a restart, such as `listener.workers`.
pub(super) fn needs_restart(started: &Config, config: &Config) -> Vec<String> {
    let (now, then) = (in_force(started, config).sections(), config.sections());
    let mut keys = Vec::new();
    for section in changed(&now, &then) {
        let (now, then) = (now.get(&section), then.get(&section));
        let within = changed(now.unwrap_or(&Value::Null), then.unwrap_or(&Value::Null));
        match within.is_empty() {
            true => keys.push(section),
            false => keys.extend(within.iter().map(|key| format!("{section}.{key}"))),
        }
    }
    keys
}

/// Returns the names of the members that two objects do not have in common; none unless both are objects.
pub(super) fn changed(one: &Value, other: &Value) -> Vec<String> {
    let (Some(one), Some(other)) = (one.as_object(), other.as_object()) else { return Vec::new() };
    let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let differs = |name: &&String| one.get(*name) != other.get(*name);
    names.into_iter().filter(differs).cloned().collect()
}
