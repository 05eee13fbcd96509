//! W3C trace context on its way from an HTTP request through the log's headers to the flush.

use opentelemetry::propagation::{Extractor, Injector};
use opentelemetry::trace::TraceContextExt as _;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The header's name, in HTTP and on the log.
pub const TRACEPARENT: &str = "traceparent";

#[derive(Default)]
struct One(Option<String>);

impl Injector for One {
    fn set(&mut self, key: &str, value: String) {
        if key == TRACEPARENT {
            self.0 = Some(value);
        }
    }
}

impl Extractor for One {
    fn get(&self, key: &str) -> Option<&str> {
        if key == TRACEPARENT { self.0.as_deref() } else { None }
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

/// The `traceparent` of a span; `None` where nothing traces.
#[must_use]
pub fn traceparent_of(span: &tracing::Span) -> Option<String> {
    let mut carrier = One::default();
    let context = span.context();
    opentelemetry::global::get_text_map_propagator(|p| p.inject_context(&context, &mut carrier));
    carrier.0
}

fn context_of(traceparent: &[u8]) -> Option<opentelemetry::Context> {
    let carrier = One(Some(std::str::from_utf8(traceparent).ok()?.to_owned()));
    let context = opentelemetry::global::get_text_map_propagator(|p| p.extract(&carrier));
    context.span().span_context().is_valid().then_some(context)
}

/// Makes `span` a child of the caller named by a `traceparent`; ignores one that is not well-formed.
pub fn set_parent(span: &tracing::Span, traceparent: &[u8]) {
    if let Some(context) = context_of(traceparent) {
        let _ = span.set_parent(context);
    }
}

/// Links `span` to the work named by a `traceparent`; ignores one that is not well-formed.
pub fn add_link(span: &tracing::Span, traceparent: &[u8]) {
    if let Some(context) = context_of(traceparent) {
        span.add_link(context.span().span_context().clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_span_carries_its_parents_trace_onwards() {
        use opentelemetry::trace::TracerProvider as _;
        use tracing_subscriber::layer::SubscriberExt as _;
        opentelemetry::global::set_text_map_propagator(opentelemetry_sdk::propagation::TraceContextPropagator::new());
        let provider = opentelemetry_sdk::trace::SdkTracerProvider::builder().build();
        let subscriber = tracing_subscriber::registry().with(tracing_opentelemetry::layer().with_tracer(provider.tracer("test")));
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("request");
            set_parent(&span, PARENT.as_bytes());
            let onward = traceparent_of(&span).unwrap();
            assert!(onward.starts_with("00-0af7651916cd43dd8448eb211c80319c-"), "{onward}");
            assert_ne!(onward, PARENT);
            set_parent(&span, b"nonsense \xff");
        });
    }
}
