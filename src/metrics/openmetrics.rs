//! The metrics in the format of `OpenMetrics`, whose histograms can name a request as an example.
//!
//! Spec: <https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md>, version 1.0.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use prometheus::proto::{Histogram, LabelPair, Metric, MetricFamily, MetricType};

/// Content type of the format.
pub const OPEN_METRICS_FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Shortest duration of a request that is named as an example: faster ones are not looked for.
const SHOWN_FROM: Duration = Duration::from_millis(100);

/// Requests that stand as examples of their buckets: the last of each.
#[derive(Debug, Default)]
pub(super) struct Exemplars(Mutex<HashMap<ExemplarPlace, Exemplar>>);

/// Bucket of a histogram: the interaction and the number of the bucket.
type ExemplarPlace = (&'static str, usize);

#[derive(Debug, Clone)]
struct Exemplar {
    trace_id: String,
    seconds: f64,
    at: Timestamp,
}

impl Exemplars {
    fn held(&self) -> MutexGuard<'_, HashMap<ExemplarPlace, Exemplar>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a slow request as the example of its bucket among those with these upper bounds, in seconds.
    pub(super) fn keep(
        &self,
        interaction: &'static str,
        bounds: &[f64],
        took: Duration,
        trace_id: impl FnOnce() -> Option<String>,
    ) {
        if took < SHOWN_FROM {
            return;
        }
        let Some(trace_id) = trace_id() else { return };
        let seconds = took.as_secs_f64();
        let bucket = bounds.iter().position(|bound| seconds <= *bound).unwrap_or(bounds.len());
        let exemplar = Exemplar { trace_id, seconds, at: Timestamp::now() };
        self.held().insert((interaction, bucket), exemplar);
    }

    fn of(&self, labels: &[LabelPair], bucket: usize) -> Option<Exemplar> {
        let held = self.held();
        let interaction = labels.iter().find(|label| label.name() == "interaction")?.value();
        let found = held.iter().find(|((of, at), _)| *of == interaction && *at == bucket);
        found.map(|(_, exemplar)| exemplar.clone())
    }
}

/// Writes all metrics; the histogram with this name has the exemplars.
pub(super) fn text(families: &[MetricFamily], named: &str, exemplars: &Exemplars) -> String {
    let mut out = String::new();
    for family in families {
        let (name, kind) = match family.get_field_type() {
            // A counter's family has its name without the ending of its series.
            MetricType::COUNTER => {
                (family.name().strip_suffix("_total").unwrap_or(family.name()), "counter")
            }
            MetricType::GAUGE => (family.name(), "gauge"),
            MetricType::HISTOGRAM => (family.name(), "histogram"),
            MetricType::SUMMARY | MetricType::UNTYPED => (family.name(), "unknown"),
        };
        // Writing to a `String` cannot fail.
        writeln!(out, "# HELP {name} {}", escaped(family.help())).unwrap_or_default();
        writeln!(out, "# TYPE {name} {kind}").unwrap_or_default();
        let exemplars = (family.name() == named).then_some(exemplars);
        for metric in family.get_metric() {
            let labels = metric.get_label();
            match family.get_field_type() {
                MetricType::COUNTER => {
                    let value = metric.get_counter().get_value();
                    series(&mut out, name, "_total", labels, &value.to_string());
                }
                MetricType::HISTOGRAM => histogram(&mut out, name, metric, exemplars),
                MetricType::GAUGE | MetricType::SUMMARY | MetricType::UNTYPED => {
                    let value = metric.get_gauge().get_value();
                    series(&mut out, name, "", labels, &value.to_string());
                }
            }
        }
    }
    out.push_str("# EOF\n");
    out
}

fn series(out: &mut String, name: &str, ending: &str, labels: &[LabelPair], value: &str) {
    let labels = shown(labels, None);
    writeln!(out, "{name}{ending}{labels} {value}").unwrap_or_default();
}

fn histogram(out: &mut String, name: &str, metric: &Metric, exemplars: Option<&Exemplars>) {
    let (labels, of): (&[LabelPair], &Histogram) = (metric.get_label(), metric.get_histogram());
    let count = of.get_sample_count();
    let bounded = of.get_bucket().iter().map(|one| (one.upper_bound(), one.cumulative_count()));
    let buckets = bounded.filter(|(bound, _)| bound.is_finite()).chain([(f64::INFINITY, count)]);
    for (at, (bound, below)) in buckets.enumerate() {
        let bound = if bound.is_finite() { format!("{bound:?}") } else { "+Inf".to_owned() };
        write!(out, "{name}_bucket{} {below}", shown(labels, Some(&bound))).unwrap_or_default();
        if let Some(Exemplar { trace_id, seconds, at }) =
            exemplars.and_then(|exemplars| exemplars.of(labels, at))
        {
            let (trace_id, at_ms) = (escaped(&trace_id), at.as_millisecond());
            let (at_s, ms) = (at_ms.div_euclid(1000), at_ms.rem_euclid(1000));
            write!(out, " # {{trace_id=\"{trace_id}\"}} {seconds} {at_s}.{ms:03}")
                .unwrap_or_default();
        }
        out.push('\n');
    }
    series(out, name, "_count", labels, &count.to_string());
    series(out, name, "_sum", labels, &of.get_sample_sum().to_string());
}

/// Shows labels in braces, and the upper bound of a bucket after them.
fn shown(labels: &[LabelPair], bound: Option<&str>) -> String {
    let labels = labels.iter().map(|label| (label.name(), label.value()));
    let all = labels.chain(bound.map(|bound| ("le", bound)));
    let all: Vec<_> = all.map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{ExchangeOutcome, Metrics};
    use spine_types::interaction::CATALOGUE;

    #[test]
    fn a_slow_request_stands_as_the_example_of_its_bucket() {
        let metrics = Metrics::new();
        let interaction = &CATALOGUE[0];
        for (ms, trace_id) in [(20, "fast"), (120, "older"), (130, "slow"), (40_000, "slowest")] {
            let took = Duration::from_millis(ms);
            metrics.exchange(Some(interaction), "GET", ExchangeOutcome::Answered, took);
            metrics.example(Some(interaction), took, || Some(trace_id.to_owned()));
        }
        let text = metrics.open_metrics();
        assert!(text.ends_with("\n# EOF\n"), "{text}");
        let prefix = format!(
            "spine_proxy_http_request_duration_seconds_bucket{{interaction=\"{}\",le=",
            interaction.short_id()
        );
        let examples: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix(&prefix)?.split_once(" # "))
            .map(|(bucket, example)| (bucket, example.rsplit_once(' ').unwrap().0))
            .collect();
        assert_eq!(
            examples,
            [
                ("\"0.25\"} 3", "{trace_id=\"slow\"} 0.13"),
                ("\"+Inf\"} 4", "{trace_id=\"slowest\"} 40"),
            ]
        );
        assert_eq!(text.matches(" # {").count(), 2, "of no other histogram");
    }

    #[test]
    fn families_are_typed_once_and_counters_end_in_total() {
        let text = Metrics::new().open_metrics();
        let mut families = std::collections::HashSet::new();
        let mut counters = std::collections::HashSet::new();
        for line in text.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let (name, kind) = family.split_once(' ').unwrap();
                assert!(families.insert(name.to_owned()), "{name} twice");
                if kind == "counter" {
                    assert!(!name.ends_with("_total"), "{name}");
                    counters.insert(name.to_owned());
                }
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                let endings = ["", "_total", "_bucket", "_count", "_sum"];
                let mut stems = endings.iter().filter_map(|ending| name.strip_suffix(ending));
                assert!(stems.any(|stem| families.contains(stem)), "{line}");
                assert!(!counters.contains(name), "{line}");
            }
        }
        assert!(families.len() > 50, "{}", families.len());
    }
}
