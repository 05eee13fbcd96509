//! One function per route: reads the request, asks the parts, words the answer.

pub(crate) mod admin;
#[cfg(feature = "backfill")]
pub(crate) mod backfills;
pub(crate) mod dead_letters;
pub(crate) mod erase;
pub(crate) mod events;
pub(crate) mod lineages;
pub(crate) mod reads;

use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use memori_event_log::LogError;
use memori_service::problem::{Answer, Problem};
use memori_service::trace_context;
use percent_encoding::percent_decode_str;

use crate::app::Caller;
use crate::backend::ACTOR_HEADER;
use crate::publish::RETRY_AFTER_SECONDS;
use crate::state::IngestState;

/// The decoded segment number `index` (from 0) of a path. Any text can stand there, slashes included, as long as it is UTF-8.
pub(crate) fn path_id(uri: &http::Uri, index: usize, name: &str) -> Answer<String> {
    let raw = uri.path().split('/').skip(1).nth(index).unwrap_or_default();
    match percent_decode_str(raw).decode_utf8() {
        Ok(text) if text.contains('\0') => Err(Problem::invalid_field(name, "must not contain U+0000")),
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(Problem::invalid_field(name, "must be percent-encoded UTF-8")),
    }
}

/// The trace that goes on with a record: our span's, else the caller's own.
fn traceparent(headers: &HeaderMap) -> Option<String> {
    trace_context::traceparent_of(&tracing::Span::current()).or_else(|| {
        let given = headers.get(trace_context::TRACEPARENT)?.to_str().ok()?;
        let shaped = given.len() == 55 && given.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit());
        shaped.then(|| given.to_owned())
    })
}

/// What the log answers within `patience`, else that it is away.
async fn within<T>(patience: Duration, asking: impl Future<Output = Result<T, LogError>>) -> Answer<T> {
    match tokio::time::timeout(patience, asking).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(log_away(&error)),
        Err(late) => Err(log_away(&late)),
    }
}

fn log_away(error: &dyn std::fmt::Display) -> Problem {
    tracing::warn!(%error, "the log cannot be asked");
    Problem::unavailable("the log is not reachable now", RETRY_AFTER_SECONDS)
}

/// Says to the writer, which keeps the audit log, by whose key something is asked.
pub(crate) fn name_actor(headers: &mut HeaderMap, state: &IngestState, caller: &Caller) {
    let actor = match caller.key {
        Some(key) => key.to_string(),
        None if state.keys.has_keys() => "keys-file".to_owned(),
        None => "no-key".to_owned(),
    };
    if let Ok(actor) = HeaderValue::from_str(&actor) {
        headers.insert(ACTOR_HEADER, actor);
    }
}
