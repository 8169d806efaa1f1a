//! Small charts of the last hour, in SVG.

use maud::{Markup, html};

use crate::traffic::{MINUTES_MAX, MinuteCounts};

/// Length of a minute in seconds.
const MINUTE_S: i64 = 60;
/// Width of a minute's line in a chart.
const STEP: usize = 3;
/// Height of a chart.
const HEIGHT: u64 = 28;

/// Counts of each of the last sixty minutes, oldest first.
pub(super) struct LastHour([u32; MINUTES_MAX]);

impl LastHour {
    /// Takes one count of each minute.
    pub(super) fn of(
        minutes: &[MinuteCounts],
        now_s: i64,
        count: impl Fn(&MinuteCounts) -> u32,
    ) -> Self {
        let mut counts = [0; MINUTES_MAX];
        for minute in minutes {
            let age =
                (now_s.div_euclid(MINUTE_S) * MINUTE_S).saturating_sub(minute.start_s) / MINUTE_S;
            let at = usize::try_from(age).ok().and_then(|age| (MINUTES_MAX - 1).checked_sub(age));
            if let Some(slot) = at.and_then(|at| counts.get_mut(at)) {
                *slot = count(minute);
            }
        }
        Self(counts)
    }

    /// Returns the sum of the hour.
    pub(super) fn sum(&self) -> u64 {
        self.0.iter().map(|count| u64::from(*count)).sum()
    }

    /// Returns the sum of the present minute and the four before.
    pub(super) fn last_five(&self) -> u64 {
        self.0.iter().rev().take(5).map(|count| u64::from(*count)).sum()
    }

    /// Returns the highest count of a minute.
    pub(super) fn most(&self) -> u32 {
        self.0.iter().copied().max().unwrap_or_default()
    }

    /// Returns the chart; `what` names it for those who cannot see it.
    pub(super) fn chart(&self, what: &str) -> Markup {
        let most = u64::from(self.most().max(1));
        let height = |count: u32| (u64::from(count) * (HEIGHT - 2)).div_ceil(most);
        let lines = self.0.iter().enumerate().filter(|(_, count)| **count > 0);
        let path: Vec<_> = lines
            .map(|(at, count)| format!("M{} {HEIGHT}v-{}", at * STEP + 1, height(*count)))
            .collect();
        let text = format!(
            "{what}, by minute over the last hour: {} in all, at most {} in a minute",
            self.sum(),
            self.most()
        );
        html! {
            svg.spark viewBox={ "0 0 " (MINUTES_MAX * STEP) " " (HEIGHT) } role="img" aria-label=(text)
                preserveAspectRatio="none" {
                path d=(path.join("")) {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn minutes_are_placed_by_their_age() {
        let minute = |start_s, aborted| MinuteCounts {
            start_s,
            interactions: BTreeMap::new(),
            refusals: BTreeMap::new(),
            aborted,
        };
        let minutes =
            [minute(-60, 9), minute(0, 1), minute(3300, 2), minute(3540, 4), minute(3600, 7)];
        let hour = LastHour::of(&minutes, 3599, |minute| minute.aborted);
        assert_eq!((hour.sum(), hour.last_five(), hour.most()), (7, 6, 4));
        let chart = hour.chart("Things").into_string();
        assert!(chart.contains("d=\"M1 28v-7M166 28v-13M178 28v-26\""), "{chart}");
        assert!(chart.contains("Things, by minute over the last hour: 7 in all, at most 4"));
    }
}
