//! Lines about the requests that anybody sends to the demonstration's proxy.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::super::call::client::{TestParties, TestPractice};
use super::super::play::{Screen, Tone};
use crate::refusal::remedy;
use crate::traffic::{ExchangeSummary, Traffic};

/// Interval at which new exchanges are looked for.
const EVERY: Duration = Duration::from_millis(200);

/// Watch on the last exchanges, of which [`Traffic`] keeps a limited number.
pub(super) struct LiveLines<'a> {
    traffic: &'a Traffic,
    parties: &'a TestParties,
    screen: Screen,
    /// Ids of the exchanges that have been shown or ended before.
    seen: HashSet<Uuid>,
}

impl<'a> LiveLines<'a> {
    /// Creates a watch that shows the exchanges that end from now on.
    pub(super) fn new(traffic: &'a Traffic, parties: &'a TestParties, screen: Screen) -> Self {
        let seen = last(traffic).iter().map(|exchange| exchange.id).collect();
        Self { traffic, parties, screen, seen }
    }

    /// Shows exchanges for as long as it is polled.
    pub(super) async fn watch(mut self) {
        loop {
            tokio::time::sleep(EVERY).await;
            let exchanges = last(self.traffic);
            for exchange in exchanges.iter().filter(|exchange| !self.seen.contains(&exchange.id)) {
                self.show(exchange);
            }
            self.seen = exchanges.iter().map(|exchange| exchange.id).collect();
        }
    }

    /// Shows time, consumer, interaction, practice, status and token, and then why it was refused.
    fn show(&self, exchange: &ExchangeSummary) {
        let token = exchange.refusal.unwrap_or_default();
        let status = exchange.status.map_or_else(|| "-".to_owned(), |status| status.to_string());
        let practice = self.practice(exchange);
        let interaction = exchange.interaction.map_or("-", |interaction| interaction.short_id());
        let interaction = interaction.strip_prefix("fhir:").unwrap_or(interaction);
        let time = exchange.time.strftime("%H:%M:%SZ");
        let line = format!(
            "{time}  {:<10} {interaction:<34} {practice:<8} {status} {token}",
            self.consumer(exchange)
        );
        let tone = match (exchange.refusal, exchange.has_failed) {
            (None, false) => Tone::Good,
            (None, true) => Tone::Bad,
            (Some(_), _) => Tone::Warn,
        };
        self.screen.line(tone, line.trim_end());
        if let Some(remedy) = remedy(token) {
            let line = format!("           {}. {}", remedy.reason, remedy.action);
            self.screen.line(Tone::Faint, line);
        }
    }

    /// Returns the practice's ODS code, which a refusal has only by its system's ASID.
    fn practice<'b>(&'b self, exchange: &'b ExchangeSummary) -> &'b str {
        let is_it = |practice: &&TestPractice| exchange.to.as_ref() == Some(&practice.asid);
        let named = || self.parties.practices.iter().find(is_it).map(|practice| &practice.ods);
        exchange.ods.as_ref().or_else(named).map_or("-", |ods| ods.as_str())
    }

    /// Returns the consumer's name; with a question mark if only the request says so.
    fn consumer(&self, exchange: &ExchangeSummary) -> String {
        let Some(asid) = &exchange.from else { return "-".to_owned() };
        let consumers = self.parties.consumers.iter();
        let mut named = consumers.filter(|consumer| consumer.asid == *asid);
        let name = named.next().map_or(asid.as_str(), |consumer| &consumer.name);
        let doubt = if exchange.is_identified() { "" } else { "?" };
        format!("{name}{doubt}")
    }
}

/// Returns the last exchanges, in the order of their beginning.
fn last(traffic: &Traffic) -> Vec<Arc<ExchangeSummary>> {
    let (refusals, unidentified) = traffic.refusals();
    let mut all = [traffic.exchanges(), refusals, unidentified].concat();
    all.sort_by_key(|exchange| exchange.time);
    all
}
