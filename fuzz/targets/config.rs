//! The configuration. What is accepted has no limit that nothing could pass and none above what lies
//! below it, names what it listens at and as, holds no lab switch outside a lab, and has paths that
//! stand whatever the working directory.

use spine_proxy::config::{CompatibilitySettings, Config};

pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let config = match Config::parse(text, "/etc/spine-proxy/spine-proxy.toml".as_ref()) {
        Ok(config) => config,
        Err(error) => {
            assert!(error.to_string().starts_with("/etc/spine-proxy/spine-proxy.toml: "));
            return;
        }
    };
    let (listener, throttle) = (&config.listener.limits, &config.throttle);
    for limit in [
        listener.connections_max,
        listener.unverified_max,
        listener.address_connections_max,
        listener.address_handshakes_max,
        listener.handshakes_max,
        throttle.consumer_exchanges_max,
        throttle.practice_waiting_max,
        throttle.practice_exchanges_max,
    ] {
        assert!((1..=1_000_000).contains(&limit));
    }
    assert!(listener.requests_max > 0 && (1..=1000).contains(&listener.streams_max));
    assert!((1..=127).contains(&config.request.headers_max));
    assert!((1..=60 * 1024).contains(&config.request.target_max.as_u64()));
    assert!((1..=120 * 1024).contains(&config.request.head_max.as_u64()));
    assert!(config.listener.workers != Some(0));
    assert!(!config.listener.addresses.is_empty() && !config.listener.names.is_empty());
    assert!(!config.tls.certificates.is_empty() && !config.provider.networks.is_empty());
    assert!(config.lab || config.compatibility.values().all(is_lawful));
    assert!(config.watched().iter().all(|path| path.is_absolute()));
    assert!(config.audit.journal.is_absolute());
}

fn is_lawful(leniences: &CompatibilitySettings) -> bool {
    let none = CompatibilitySettings::default();
    leniences.signature == none.signature
        && leniences.trace_id == none.trace_id
        && leniences.errors == none.errors
}
