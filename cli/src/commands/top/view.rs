//! What two looks at the processes come to. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Instant;

use serde::Serialize;

use crate::exposition::Sample;
use crate::output::table;

/// What a process told, and when; nothing where it did not answer.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    pub(crate) url: String,
    pub(crate) at: Instant,
    pub(crate) samples: Option<Vec<Sample>>,
}

/// One lane of the worker.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct LaneView {
    lane: String,
    waiting_events: f64,
    oldest_seconds: f64,
    extracted_per_second: f64,
    /// How long what waits takes at this rate; none while nothing is done.
    drain_seconds: Option<f64>,
}

/// One endpoint of the model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct EndpointView {
    endpoint: String,
    in_flight: f64,
    limit: f64,
    breaker: &'static str,
    limited_per_second: f64,
}

/// Everything, at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct View {
    /// Who did not answer.
    silent: Vec<String>,
    lanes: Vec<LaneView>,
    accepted_per_second: f64,
    applied_per_second: f64,
    dead_lettered_per_second: f64,
    recalls_per_second: f64,
    in_flight_events: f64,
    spooled_events: f64,
    writer_lag_events: f64,
    halted_partitions: f64,
    /// Of what became recallable in between.
    recallable_p99_seconds: Option<f64>,
    recall_p99_seconds: Option<f64>,
    llm_calls_per_second: f64,
    llm_tokens_per_second: f64,
    endpoints: Vec<EndpointView>,
}

/// Two looks at the same processes.
struct Between<'a>(Vec<(&'a [Sample], &'a [Sample], f64)>);

impl Between<'_> {
    fn now(&self, name: &str, holds: impl Fn(&Sample) -> bool) -> f64 {
        let all = self.0.iter().flat_map(|(_, now, _)| now.iter());
        all.filter(|sample| sample.name == name && holds(sample)).map(|sample| sample.value).fold(0.0, std::ops::Add::add)
    }

    fn largest(&self, name: &str, holds: impl Fn(&Sample) -> bool) -> f64 {
        let all = self.0.iter().flat_map(|(_, now, _)| now.iter());
        all.filter(|sample| sample.name == name && holds(sample)).map(|sample| sample.value).fold(0.0, f64::max)
    }

    /// How much counters grew, each process's by its own time. One that fell has begun anew.
    fn grown(&self, name: &str, holds: impl Fn(&Sample) -> bool, per: impl Fn(f64) -> f64) -> f64 {
        let mut sum = 0.0;
        for (before, now, seconds) in &self.0 {
            for sample in now.iter().filter(|sample| sample.name == name && holds(sample)) {
                let old = before.iter().find(|old| old.name == name && old.labels == sample.labels).map_or(0.0, |old| old.value);
                let grown = if sample.value < old { sample.value } else { sample.value - old };
                sum += grown / per(*seconds);
            }
        }
        sum
    }

    fn rate(&self, name: &str, holds: impl Fn(&Sample) -> bool) -> f64 {
        self.grown(name, holds, |seconds| seconds.max(1e-3))
    }

    /// A quantile of what a histogram took in: the upper bound of the bucket that it falls into.
    fn quantile(&self, name: &str, share: f64) -> Option<f64> {
        let bucket = format!("{name}_bucket");
        let mut grown: Vec<(f64, f64)> = Vec::new();
        let bounds: BTreeSet<&str> =
            self.0.iter().flat_map(|(_, now, _)| now.iter()).filter(|s| s.name == bucket).map(|s| s.label("le")).collect();
        for bound in bounds {
            let most = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
            grown.push((most, self.grown(&bucket, |sample| sample.label("le") == bound, |_| 1.0)));
        }
        grown.sort_by(|a, b| a.0.total_cmp(&b.0));
        let all = grown.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
        grown.iter().find(|(_, count)| *count >= share * all).map(|(bound, _)| *bound)
    }

    fn values_of(&self, name: &str, label: &str) -> BTreeSet<String> {
        let all = self.0.iter().flat_map(|(_, now, _)| now.iter());
        all.filter(|sample| sample.name == name).map(|sample| sample.label(label).to_owned()).collect()
    }
}

fn any(_: &Sample) -> bool {
    true
}

impl View {
    /// What was between two looks at the same processes.
    pub(crate) fn between(before: &[Look], now: &[Look]) -> Self {
        let old: BTreeMap<&str, &Look> = before.iter().map(|look| (look.url.as_str(), look)).collect();
        let pairs = now.iter().filter_map(|look| {
            let (was, is) = (old.get(look.url.as_str())?, look.samples.as_deref()?);
            Some((was.samples.as_deref().unwrap_or(is), is, look.at.duration_since(was.at).as_secs_f64()))
        });
        let between = Between(pairs.collect());
        let lanes = between.values_of("memori_worker_lag_events", "lane").into_iter().map(|lane| {
            let of = |sample: &Sample| sample.label("lane") == lane;
            let (waiting, rate) =
                (between.now("memori_worker_lag_events", of), between.rate("memori_worker_events_extracted_total", of));
            LaneView {
                waiting_events: waiting,
                oldest_seconds: between.largest("memori_worker_lag_seconds", of),
                extracted_per_second: rate,
                drain_seconds: if waiting > 0.0 { (rate > 0.0).then(|| waiting / rate) } else { Some(0.0) },
                lane,
            }
        });
        let endpoints = between.values_of("memori_llm_breaker", "endpoint").into_iter().map(|endpoint| {
            let of = |sample: &Sample| sample.label("endpoint") == endpoint;
            let breaker = match between.largest("memori_llm_breaker", of) {
                2.0 => "open",
                1.0 => "probing",
                _ => "closed",
            };
            EndpointView {
                in_flight: between.now("memori_llm_in_flight", of),
                limit: between.now("memori_llm_limit", of),
                breaker,
                limited_per_second: between.rate("memori_llm_limited_total", of),
                endpoint,
            }
        });
        Self {
            silent: now.iter().filter(|look| look.samples.is_none()).map(|look| look.url.clone()).collect(),
            lanes: lanes.collect(),
            accepted_per_second: between.rate("memori_ingest_events_accepted_total", any),
            applied_per_second: between.rate("memori_writer_applied_total", any),
            dead_lettered_per_second: between.rate("memori_worker_events_dead_lettered_total", any),
            recalls_per_second: between.rate("memori_recalls_total", any),
            in_flight_events: between.now("memori_worker_events_in_flight", any),
            spooled_events: between.now("memori_ingest_spool_events", any),
            writer_lag_events: between.now("memori_writer_lag_events", any),
            halted_partitions: between.now("memori_worker_halted_partitions", any)
                + between.now("memori_writer_halted_partitions", any),
            recallable_p99_seconds: between.quantile("memori_accepted_to_recallable_seconds", 0.99),
            recall_p99_seconds: between.quantile("memori_recall_seconds", 0.99),
            llm_calls_per_second: between.rate("memori_llm_calls_total", any),
            llm_tokens_per_second: between.rate("memori_llm_tokens_total", any),
            endpoints: endpoints.collect(),
        }
    }
}

fn number(value: f64) -> String {
    if value >= 100.0 || value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

fn seconds(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value.is_infinite() => "beyond the last bucket".to_owned(),
        Some(value) if value < 1.0 => format!("{} ms", number(value * 1e3)),
        Some(value) if value < 7_200.0 => format!("{} s", number(value)),
        Some(value) => format!("{} h", number(value / 3_600.0)),
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lanes: Vec<Vec<String>> = self
            .lanes
            .iter()
            .map(|lane| {
                vec![
                    lane.lane.clone(),
                    number(lane.waiting_events),
                    seconds(Some(lane.oldest_seconds)),
                    number(lane.extracted_per_second),
                    seconds(lane.drain_seconds),
                ]
            })
            .collect();
        writeln!(f, "{}\n", table(&["lane", "waiting", "oldest", "extracted/s", "drains in"], &lanes))?;
        let flow = [
            ("accepted/s", number(self.accepted_per_second)),
            ("applied/s", number(self.applied_per_second)),
            ("given up/s", number(self.dead_lettered_per_second)),
            ("recalls/s", number(self.recalls_per_second)),
            ("in flight", number(self.in_flight_events)),
            ("spooled", number(self.spooled_events)),
            ("writer waits", number(self.writer_lag_events)),
            ("halted partitions", number(self.halted_partitions)),
            ("recallable, p99", seconds(self.recallable_p99_seconds)),
            ("recall, p99", seconds(self.recall_p99_seconds)),
        ];
        let flow: Vec<Vec<String>> = flow.into_iter().map(|(what, value)| vec![what.to_owned(), value]).collect();
        write!(f, "{}", table(&["flow", ""], &flow))?;
        if !self.endpoints.is_empty() {
            let endpoints: Vec<Vec<String>> = self
                .endpoints
                .iter()
                .map(|of| {
                    let limited = number(of.limited_per_second);
                    vec![of.endpoint.clone(), number(of.in_flight), number(of.limit), of.breaker.to_owned(), limited]
                })
                .collect();
            let heading = ["model's endpoint", "in flight", "limit", "breaker", "too many/s"];
            write!(f, "\n\n{}", table(&heading, &endpoints))?;
            let (calls, tokens) = (number(self.llm_calls_per_second), number(self.llm_tokens_per_second));
            write!(f, "\n\n   {calls} calls and {tokens} tokens a second")?;
        }
        if !self.silent.is_empty() {
            write!(f, "\n\n   does not answer: {}", self.silent.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::exposition::samples;

    const BEFORE: &str = "memori_ingest_events_accepted_total{durable_in=\"log\"} 100\nmemori_worker_lag_events{lane=\"live\"} 0\n\
        memori_worker_events_extracted_total{lane=\"live\"} 40\nmemori_recall_seconds_bucket{le=\"0.1\"} 5\n\
        memori_recall_seconds_bucket{le=\"+Inf\"} 5\n";
    const NOW: &str = "memori_ingest_events_accepted_total{durable_in=\"log\"} 300\nmemori_worker_lag_events{lane=\"live\"} 60\n\
        memori_worker_lag_seconds{lane=\"live\"} 3\nmemori_worker_events_extracted_total{lane=\"live\"} 80\n\
        memori_worker_events_in_flight 7\nmemori_recall_seconds_bucket{le=\"0.1\"} 15\nmemori_recall_seconds_bucket{le=\"+Inf\"} 15\n\
        memori_llm_breaker{endpoint=\"a\"} 2\nmemori_llm_limit{endpoint=\"a\"} 8\n";

    fn look(url: &str, at: Instant, text: Option<&str>) -> Look {
        Look { url: url.to_owned(), at, samples: text.map(samples) }
    }

    #[test]
    fn rates_are_of_what_was_in_between() {
        let begun = Instant::now();
        let later = begun + Duration::from_secs(2);
        let before = [look("one", begun, Some(BEFORE)), look("two", begun, Some(BEFORE)), look("gone", begun, Some(BEFORE))];
        let now = [look("one", later, Some(NOW)), look("two", later, Some(NOW)), look("gone", later, None)];
        let view = View::between(&before, &now);
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(near(view.accepted_per_second, 200.0), "{view:?}");
        assert!(near(view.in_flight_events, 14.0));
        let live = &view.lanes[0];
        assert!(near(live.waiting_events, 120.0) && near(live.extracted_per_second, 40.0) && near(live.oldest_seconds, 3.0));
        assert_eq!(live.drain_seconds, Some(3.0));
        assert_eq!(view.recall_p99_seconds, Some(0.1));
        assert_eq!(view.recallable_p99_seconds, None);
        assert_eq!((view.endpoints[0].breaker, view.silent.as_slice()), ("open", &["gone".to_owned()][..]));
        let shown = view.to_string();
        assert!(["live", "open", "does not answer: gone", "100 ms"].iter().all(|text| shown.contains(text)), "{shown}");
    }

    #[test]
    fn a_process_that_began_anew_counts_from_nothing() {
        let begun = Instant::now();
        let before = [look("one", begun, Some("memori_recalls_total 1000\n"))];
        let now = [look("one", begun + Duration::from_secs(1), Some("memori_recalls_total 10\n"))];
        assert!((View::between(&before, &now).recalls_per_second - 10.0).abs() < 1e-9);
        // One that was not there before tells no rate yet.
        let before = [look("one", begun, None)];
        assert!(View::between(&before, &now).recalls_per_second.abs() < 1e-9);
    }
}
