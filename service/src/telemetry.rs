//! Logs on stderr as text or JSON, and spans to an OTLP endpoint where one is configured.

use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, filter};

use crate::settings::{Settings, SettingsError};

/// How long one batch of spans may take on its way.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// Keeps telemetry alive; [`Telemetry::shutdown`] sends what is left.
#[derive(Debug, Default)]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Sends the remaining spans. Blocks for at most `patience`.
    pub fn shutdown(self, patience: Duration) {
        if let Some(provider) = self.provider
            && let Err(error) = provider.shutdown_with_timeout(patience)
        {
            tracing::debug!(%error, "spans were not all sent");
        }
    }
}

/// Starts logging and tracing for `process`. Call it inside the runtime; a second call in one process changes nothing.
///
/// # Errors
/// A log level or OTLP endpoint that cannot be used.
pub fn init(process: &'static str, settings: &Settings) -> Result<Telemetry, SettingsError> {
    opentelemetry::global::set_text_map_propagator(opentelemetry_sdk::propagation::TraceContextPropagator::new());
    let filter = EnvFilter::try_new(&settings.log.level)
        .map_err(|e| SettingsError(format!("log.level is {:?}: {e}", settings.log.level)))?;
    let logs = if settings.log.format == "json" {
        tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr).boxed()
    } else {
        use std::io::IsTerminal as _;
        tracing_subscriber::fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr).boxed()
    };
    let provider = match &settings.otlp.endpoint {
        None => SdkTracerProvider::builder().build(),
        Some(endpoint) => {
            let unusable = |e: &dyn std::fmt::Display| SettingsError(format!("otlp.endpoint is {endpoint:?}: {e}"));
            let client = RuntimeClient::new().map_err(|e| unusable(&e))?;
            let exporter = opentelemetry_otlp::SpanExporter::builder()
                .with_http()
                .with_http_client(client)
                .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
                .build()
                .map_err(|e| unusable(&e))?;
            let resource = opentelemetry_sdk::Resource::builder().with_service_name(process).build();
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build()
        }
    };
    // Spans exist even when none is sent, so that trace context goes from a request through the log to the flush. Where and on which
    // thread one was made, and how often it rested, is told to nobody then: each entry would read the clock.
    let told = settings.otlp.endpoint.is_some();
    let spans = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(process))
        .with_location(told)
        .with_threads(told)
        .with_tracked_inactivity(told)
        .with_filter(our_spans());
    // A test or an embedding program may have installed its own subscriber: then it keeps it.
    let _ = tracing_subscriber::registry().with(spans).with(logs.with_filter(filter)).try_init();
    Ok(Telemetry { provider: Some(provider) })
}

/// Only our own spans: what libraries tell of themselves, the sending of spans among it, would drown them.
///
/// It is asked about every span, and its answer is never cached. With cached answers `tracing_subscriber` goes by what the thread
/// last asked about, which may be something else: the Kafka client asks whether its log is wanted, and then a span would be lost.
fn our_spans<S>() -> impl tracing_subscriber::layer::Filter<S> {
    filter::dynamic_filter_fn(|metadata, _| {
        metadata.is_span() && *metadata.level() <= Level::INFO && metadata.target().starts_with("memori")
    })
    .with_max_level_hint(LevelFilter::INFO)
}

/// Sends spans on the process's own runtime: the exporter's batch thread has none.
#[derive(Clone, Debug)]
struct RuntimeClient {
    runtime: tokio::runtime::Handle,
    http: reqwest::Client,
}

impl RuntimeClient {
    fn new() -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder().timeout(SEND_TIMEOUT).build()?;
        Ok(Self { runtime: tokio::runtime::Handle::current(), http })
    }
}

#[async_trait::async_trait]
impl opentelemetry_http::HttpClient for RuntimeClient {
    async fn send_bytes(
        &self,
        request: opentelemetry_http::Request<opentelemetry_http::Bytes>,
    ) -> Result<opentelemetry_http::Response<opentelemetry_http::Bytes>, opentelemetry_http::HttpError> {
        let http = self.http.clone();
        let sent = self.runtime.spawn(async move {
            let answer = http.execute(request.try_into()?).await?;
            let mut response = http::Response::builder().status(answer.status());
            if let Some(headers) = response.headers_mut() {
                headers.clone_from(answer.headers());
            }
            Ok::<_, opentelemetry_http::HttpError>(response.body(answer.bytes().await?)?)
        });
        sent.await?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace_context::traceparent_of;

    #[test]
    fn a_question_about_something_else_loses_no_span() {
        opentelemetry::global::set_text_map_propagator(opentelemetry_sdk::propagation::TraceContextPropagator::new());
        let provider = SdkTracerProvider::builder().build();
        let spans = tracing_opentelemetry::layer().with_tracer(provider.tracer("test")).with_filter(our_spans());
        let logs = tracing_subscriber::fmt::layer().with_writer(std::io::sink).with_filter(EnvFilter::new("info"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(spans).with(logs), || {
            let others = tracing::info_span!(target: "another", "theirs");
            assert_eq!(traceparent_of(&others), None);
            for _ in 0..3 {
                let asked = others.metadata().is_some_and(|m| tracing::dispatcher::get_default(|to| to.enabled(m)));
                assert!(asked, "logs take it");
                assert!(traceparent_of(&tracing::info_span!("ours")).is_some());
            }
            assert_eq!(traceparent_of(&tracing::debug_span!("ours")), None);
        });
    }
}
