//! Readiness and its reasons: what `/readyz`, the console and the metric of alarms state.

use std::fmt::Write as _;

use http::StatusCode;
use jiff::Timestamp;

use super::AdminState;
use audit_journal::SigningState;

/// Minutes over which certificates that could not be checked for revocation raise an alarm.
const STATUS_UNKNOWN_S: i64 = 600;

/// State of the gateway, and the reasons for it.
#[derive(Debug)]
pub(super) struct Readiness {
    /// Checks that decide whether consumers are to be sent here; `None` for one that is passed, else the reason.
    pub(super) checks: [(&'static str, Option<&'static str>); 2],
    /// Faults that an operator must correct. They do not turn `/readyz` red: a gateway that serves with them is
    /// better than none, and all gateways may have them at once.
    pub(super) alarms: Vec<String>,
    /// Facts about the state.
    pub(super) notes: Vec<String>,
}

impl Readiness {
    /// Returns true if consumers are to be sent here.
    pub(super) fn is_ready(&self) -> bool {
        self.checks.iter().all(|(_, reason)| reason.is_none())
    }

    /// Returns the status and text of `/readyz`: a line for each check, alarm and fact.
    pub(super) fn answer(&self) -> (StatusCode, String) {
        let mut text = String::new();
        // Writing to a `String` cannot fail.
        for (name, reason) in self.checks {
            match reason {
                None => writeln!(text, "[+]{name}").unwrap_or_default(),
                Some(reason) => writeln!(text, "[-]{name}: {reason}").unwrap_or_default(),
            }
        }
        for (sign, lines) in [("[!]", &self.alarms), ("", &self.notes)] {
            for line in lines {
                // A fault of a configuration file is shown with a caret below its line.
                let line = line.replace('\n', " | ");
                writeln!(text, "{sign}{line}").unwrap_or_default();
            }
        }
        match self.is_ready() {
            true => (StatusCode::OK, text),
            false => (StatusCode::SERVICE_UNAVAILABLE, text),
        }
    }
}

impl AdminState {
    /// Returns whether requests are accepted and the journal can be written, with all reasons and alarms.
    pub(super) fn readiness(&self) -> Readiness {
        let stops = self.drain.is_cancelled().then_some("the process is stopping");
        let now_s = Timestamp::now().as_second();
        Readiness {
            checks: [("accepting", stops), ("audit", self.trail.fault())],
            alarms: self.alarms(now_s),
            notes: self.notes(),
        }
    }

    /// Returns the faults that an operator must correct, at `now_s` in seconds since 1970.
    pub(super) fn alarms(&self, now_s: i64) -> Vec<String> {
        let live = self.live.load();
        let mut alarms = live.alarms.in_force(now_s);
        match self.trail.signing() {
            SigningState::Refused(reason) => {
                alarms.push(format!("audit checkpoints are not signed: {reason}"));
            }
            SigningState::Waiting(places) => alarms.push(format!(
                "audit checkpoints are not signed yet: {places} of their copies and witnesses do \
                 not answer"
            )),
            SigningState::Off | SigningState::On => {}
        }
        let unknown = self
            .trail
            .traffic()
            .refused_since("certificate_status_unknown", now_s.saturating_sub(STATUS_UNKNOWN_S));
        if unknown > 0 {
            alarms.push(format!(
                "{unknown} requests of the last ten minutes were refused because the revocation \
                 status of their certificate is not known: a revocation list is missing or overdue"
            ));
        }
        if self.directory.sharing().is_away() {
            alarms.push(
                "nothing is shared with other gateways: Redis does not answer, or takes no writes; each \
                 gateway grants quotas of its own and asks SDS at its part of the rate"
                    .to_owned(),
            );
        }
        for source in self.directory.sources_view().sources {
            if source.circuit_open {
                alarms.push(format!(
                    "the directory source {} is not queried for now, since it has failed: cached \
                     entries serve, and practices that are not cached are refused",
                    source.source
                ));
            }
        }
        alarms
    }

    fn notes(&self) -> Vec<String> {
        let live = self.live.load();
        let mut notes = vec![
            format!("trust generation {}", live.trust.generation),
            format!("directory file: {}", self.directory.file().counts()),
        ];
        if self.directory.is_live() {
            let held = self.directory.cached_entries();
            let newest = match self.directory.newest_age_s() {
                Some(age_s) => format!("the newest answer of a source is {age_s} s old"),
                None => "no source has answered yet".to_owned(),
            };
            notes.push(format!("directory cache: {held} entries, {newest}"));
        }
        let circuits = live.throttle.open_circuits().len();
        if circuits > 0 {
            notes.push(format!(
                "practices' systems whose circuit is open after failures: {circuits}; see /providers"
            ));
        }
        if self.lab {
            notes.push("lab = true: not for live patient data".to_owned());
        }
        notes
    }
}
