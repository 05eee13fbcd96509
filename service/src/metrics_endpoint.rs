//! The recorder behind `metrics`, and its text for Prometheus.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Buckets of every `_seconds` histogram: from a hot recall to a slow provider.
const SECONDS_BUCKETS: [f64; 18] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0];
/// Buckets of every `_rows` histogram.
const ROWS_BUCKETS: [f64; 10] = [1.0, 10.0, 50.0, 100.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0, 50_000.0];
/// Buckets of every `_bytes` histogram.
const BYTES_BUCKETS: [f64; 8] = [256.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 8_388_608.0];
/// Buckets of every `_texts` histogram.
const TEXTS_BUCKETS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

/// The bucket of a `_seconds` histogram that a value is counted in first, as `le` names it.
#[must_use]
pub fn bucket_of_seconds(seconds: f64) -> String {
    SECONDS_BUCKETS.iter().find(|bound| seconds <= **bound).map_or_else(|| "+Inf".to_owned(), ToString::to_string)
}

static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();

/// Installs the process-wide recorder once, and gives its handle. A second call gives the first one's handle.
#[must_use]
pub fn install() -> PrometheusHandle {
    HANDLE
        .get_or_init(|| {
            let builder = PrometheusBuilder::new()
                .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)
                .and_then(|b| b.set_buckets_for_metric(Matcher::Suffix("_rows".to_owned()), &ROWS_BUCKETS))
                .and_then(|b| b.set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &BYTES_BUCKETS))
                .and_then(|b| b.set_buckets_for_metric(Matcher::Suffix("_texts".to_owned()), &TEXTS_BUCKETS))
                .expect("the bucket lists are not empty");
            let recorder = builder.build_recorder();
            let handle = recorder.handle();
            // Another recorder (a test's) may be installed already; then this handle shows nothing of it, which is harmless.
            let _ = metrics::set_global_recorder(recorder);
            handle
        })
        .clone()
}
