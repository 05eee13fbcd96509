//! Logs on stderr as text or JSON, and spans to an OTLP endpoint where one is configured. A line of JSON that was written within a sampled
//! span names it and its trace.

use std::fmt;
use std::time::Duration;

use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry_otlp::{WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
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
        tracing_subscriber::fmt::layer().json().map_event_format(Traced).with_writer(std::io::stderr).boxed()
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

/// Lines of JSON that name trace and span. Whoever is within a span has its context active: nothing is looked for, but when a line is
/// written.
struct Traced<F>(F);

impl<S, N, F> FormatEvent<S, N> for Traced<F>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let within = opentelemetry::Context::map_current(|current| current.span().span_context().clone());
        if !within.is_valid() || !within.is_sampled() {
            return self.0.format_event(context, writer, event);
        }
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        match line.strip_prefix('{') {
            Some(rest) => {
                write!(writer, "{{\"trace_id\":\"{}\",\"span_id\":\"{}\",{rest}", within.trace_id(), within.span_id())
            }
            None => writer.write_str(&line),
        }
    }
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
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::trace_context::{set_parent, traceparent_of};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// The lines of JSON that `said` writes.
    fn lines(said: impl FnOnce()) -> Vec<serde_json::Value> {
        opentelemetry::global::set_text_map_propagator(opentelemetry_sdk::propagation::TraceContextPropagator::new());
        let provider = SdkTracerProvider::builder().build();
        let spans = tracing_opentelemetry::layer().with_tracer(provider.tracer("test")).with_filter(our_spans());
        let kept = Kept::default();
        let writer = kept.clone();
        let logs = tracing_subscriber::fmt::layer().json().map_event_format(Traced).with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(spans).with(logs), said);
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).expect("a line is an object")).collect()
    }

    #[test]
    fn a_line_names_the_trace_that_it_belongs_to() {
        let mut onward = None;
        let lines = lines(|| {
            tracing::info!("before");
            let ours = tracing::info_span!("ours");
            set_parent(&ours, b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
            onward = traceparent_of(&ours);
            ours.in_scope(|| {
                tracing::info!(answer = 42, "within \"ours\"");
                tracing::info_span!(target: "another", "theirs").in_scope(|| tracing::info!("deeper"));
                let unsampled = tracing::info_span!("unsampled");
                set_parent(&unsampled, b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00");
                unsampled.in_scope(|| tracing::info!("not sampled"));
            });
            tracing::info!("after");
        });
        let onward = onward.expect("it is traced");
        let (trace, span) = (&onward[3..35], &onward[36..52]);
        assert_eq!(trace, "0af7651916cd43dd8448eb211c80319c");
        for (line, named) in lines.iter().zip([false, true, true, false, false]) {
            let ids = (line["trace_id"].as_str(), line["span_id"].as_str());
            assert_eq!(ids, if named { (Some(trace), Some(span)) } else { (None, None) }, "{line}");
        }
        assert_eq!((lines.len(), &lines[1]["fields"]["answer"]), (5, &serde_json::json!(42)));
    }

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
