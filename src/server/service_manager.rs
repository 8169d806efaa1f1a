//! Messages to a service manager such as systemd: readiness, reloads, a status text and the watchdog.
//!
//! Source: `sd_notify(3)`. Without `NOTIFY_SOCKET` in the environment nothing is sent. The variable stays there:
//! this process starts no others.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use sd_notify::NotifyState;

use crate::throttle::{HeartbeatHandle, Pressure};

/// Limit: bytes of the status text.
const STATUS_BYTES_MAX: usize = 512;

/// Status of a running process for its service manager: addresses, the last reload and alarms.
pub(super) struct ManagerStatus {
    addresses: String,
    texts: Mutex<StatusTexts>,
}

#[derive(Default)]
struct StatusTexts {
    /// Time and result of the last reload; empty before the first.
    reload: String,
    /// Text that was sent last.
    sent: String,
}

impl ManagerStatus {
    /// Returns the status of a process that accepts consumers on these addresses.
    pub(super) fn new(addresses: &[SocketAddr]) -> Self {
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        Self { addresses: addresses.join(", "), texts: Mutex::default() }
    }

    /// Says that consumers are accepted; `alarms` is the number of alarms.
    pub(super) fn ready(&self, alarms: usize) {
        let status = self.text(alarms);
        send(&[NotifyState::Ready, NotifyState::Status(bounded(&status))]);
    }

    /// Says that a reload begins.
    pub(super) fn reloading() {
        // From version 253 on, systemd needs the time with it.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => send(&[NotifyState::Reloading, now]),
            Err(error) => {
                tracing::warn!(%error, "the clock cannot be read: the service manager does not learn of the reload");
            }
        }
    }

    /// Says that a reload has ended. `faults` is the number of its faults, `None` if nothing was reported.
    pub(super) fn reloaded(&self, faults: Option<usize>, alarms: usize) {
        if let Some(faults) = faults {
            let now = Timestamp::now().strftime("%Y-%m-%d %H:%M:%S UTC");
            self.texts().reload = match faults {
                0 => format!("; last reload {now}: ok"),
                faults => format!("; last reload {now}: {faults} faults"),
            };
        }
        self.ready(alarms);
    }

    /// Sets the text that `systemctl status` shows, if it has changed.
    pub(super) fn update(&self, alarms: usize) {
        let before = self.texts().sent.clone();
        let status = self.text(alarms);
        if status != before {
            send(&[NotifyState::Status(bounded(&status))]);
        }
    }

    /// Returns the status text, and notes it as sent.
    fn text(&self, alarms: usize) -> String {
        let mut texts = self.texts();
        let text = format!("serving on {}{}; {alarms} alarms", self.addresses, texts.reload);
        texts.sent.clone_from(&text);
        text
    }

    fn texts(&self) -> MutexGuard<'_, StatusTexts> {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that the process has begun to stop.
pub(super) fn stopping() {
    send(&[
        NotifyState::Stopping,
        NotifyState::Status("stopping: exchanges in flight are finished"),
    ]);
}

/// Tells the service manager that the process is alive, at half the interval that it asks for, while at least one
/// worker makes progress.
///
/// This runs beside the loop that reloads files, on the same threads, and stops with them. Workers that have
/// ended, as during a stop, count as alive.
pub(super) async fn keep_alive(pressure: Pressure) {
    let Some(interval) = sd_notify::watchdog_enabled() else { return };
    let interval = (interval / 2).max(INTERVAL_MIN);
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if pressure.has_live_worker((interval / 2).max(4 * HeartbeatHandle::BEAT)) {
            send(&[NotifyState::Watchdog]);
        } else {
            tracing::error!(
                "no worker makes progress: the service manager is not told that the process is alive, \
                 and will restart it"
            );
        }
        pressure.ask_workers();
    }
}

/// Limit: minimum interval between two signs of life.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Returns the beginning of a status text, on one line.
fn bounded(status: &str) -> &str {
    let line = status.lines().next().unwrap_or_default();
    let mut ends = (0..=line.len().min(STATUS_BYTES_MAX)).rev();
    ends.find_map(|end| line.get(..end)).unwrap_or_default()
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager cannot be told the state of the process; it may restart it");
    }
}
