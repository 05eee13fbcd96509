//! Logs on stderr as text or JSON, and spans to an OTLP endpoint where one is configured.

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer};

use crate::settings::{Settings, SettingsError};

/// Keeps telemetry alive; [`Telemetry::shutdown`] sends what is left.
#[derive(Debug, Default)]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Sends the remaining spans. Blocks for at most some seconds.
    pub fn shutdown(self) {
        if let Some(provider) = self.provider
            && let Err(error) = provider.shutdown()
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
            let exporter = opentelemetry_otlp::SpanExporter::builder()
                .with_http()
                .with_http_client(RuntimeClient::new())
                .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
                .build()
                .map_err(|e| SettingsError(format!("otlp.endpoint is {endpoint:?}: {e}")))?;
            let resource = opentelemetry_sdk::Resource::builder().with_service_name(process).build();
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build()
        }
    };
    // Spans exist even when none is sent, so that trace context goes from a request through the log to the flush.
    let spans = tracing_opentelemetry::layer().with_tracer(provider.tracer(process));
    // A test or an embedding program may have installed its own subscriber: then it keeps it.
    let _ = tracing_subscriber::registry().with(spans).with(logs.with_filter(filter)).try_init();
    Ok(Telemetry { provider: Some(provider) })
}

/// Sends spans on the process's own runtime: the exporter's batch thread has none.
#[derive(Clone, Debug)]
struct RuntimeClient {
    runtime: tokio::runtime::Handle,
    http: reqwest::Client,
}

impl RuntimeClient {
    fn new() -> Self {
        Self { runtime: tokio::runtime::Handle::current(), http: reqwest::Client::new() }
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
