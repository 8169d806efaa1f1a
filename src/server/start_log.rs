//! The line that the log begins with: what is started, and from what.

use crate::config::Config;
use crate::directory::LiveSources;
use crate::registry::DirectoryFile;
use crate::tls::{CertificateUse, Issued, Loader};

/// Limit: authorities that the line names.
const AUTHORITIES_MAX: usize = 20;

/// Logs the version, the configuration and what it names.
pub(super) fn log(config: &Config, file: &DirectoryFile, live: &LiveSources, loader: &Loader) {
    let counts = file.counts();
    let addresses: Vec<_> = config.listener.addresses.iter().map(ToString::to_string).collect();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        commit = crate::COMMIT,
        configuration = %super::report::absolute(config.path()).display(),
        configuration_sha256 = config.sha256,
        consumers = counts.consumers,
        practices = counts.practices,
        agreements = counts.agreements,
        live_sources = live.labels().collect::<Vec<_>>().join(", "),
        authorities = authorities(loader).join("; "),
        addresses = addresses.join(", "),
        admin = %config.admin.address,
        "spine-proxy starts"
    );
}

/// Returns the names of the authorities of all legs, each once.
fn authorities(loader: &Loader) -> Vec<String> {
    let of_authorities =
        loader.expiries.iter().filter(|expiry| expiry.used_as == CertificateUse::Authority);
    let mut names: Vec<_> = of_authorities
        .filter_map(|expiry| match &expiry.issued {
            Issued::Certificate { subject, .. } => Some(subject.to_string()),
            Issued::List { .. } => None,
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    if let Some(more) = names.len().checked_sub(AUTHORITIES_MAX).filter(|more| *more > 0) {
        names.truncate(AUTHORITIES_MAX);
        names.push(format!("{more} more"));
    }
    names
}
