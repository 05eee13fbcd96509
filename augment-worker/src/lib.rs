//! Extraction: conversation events in, fact events out, those of a session together where that saves calls.
//!
//! [`worker::run`] is the whole process behind a log, an extractor and a shutdown token: the embedded process and
//! `memori-augment-worker` both call it. [`builtin`] is the extractor that needs nothing, [`llm`] the one that asks a model.

pub mod builtin;
pub mod burst;
pub mod corpus;
mod embed;
pub mod extractor;
mod in_flight;
pub mod llm;
pub mod metrics;
mod outcome;
mod pace;
mod policy;
#[cfg(feature = "kafka")]
pub mod process;
mod publish;
pub mod replay;
pub mod slots;
mod window;
pub mod worker;

pub use burst::{Burst, BurstLimits};
pub use extractor::{Builtin, ExtractError, Extraction, Extractor, RetryReason};
pub use in_flight::InFlight;
pub use llm::{HttpKnownFacts, KnownFact, KnownFacts, KnownFactsError, Llm};
pub use policy::RetryPolicy;
pub use replay::{Complaint, Followers, Generations, GenerationsError, HttpGenerations, Replays, Scope};
pub use worker::{WorkerConfig, run};

use std::sync::Arc;

use memori_service::{ProcessError, Settings};

/// Whether the extractor that the settings name takes several events at once, so that an event may wait for the next of its session.
#[must_use]
pub fn gathers_windows(settings: &Settings) -> bool {
    settings.extractor.kind == "llm" && settings.worker.window_events > 1
}

/// The extractor that the settings name, in the shape where the writer is a process of its own.
///
/// # Errors
/// [`ProcessError::Usage`] where the settings for it are missing or wrong.
pub fn extractor_of(settings: &Settings) -> Result<Arc<dyn Extractor>, ProcessError> {
    if settings.extractor.kind == "builtin" || settings.extractor.known_facts_tokens == 0 {
        return extractor_with(settings, None);
    }
    let writer = HttpKnownFacts::new(&settings.ingest.writer_url, settings.auth.internal_token.as_ref());
    let writer = writer.map_err(|e| ProcessError::Usage(format!("ingest.writer_url: {e}")))?;
    extractor_with(settings, Some(Arc::new(writer)))
}

/// The extractor that the settings name, with whoever knows what is known.
///
/// # Errors
/// As [`extractor_of`].
pub fn extractor_with(settings: &Settings, known: Option<Arc<dyn KnownFacts>>) -> Result<Arc<dyn Extractor>, ProcessError> {
    match settings.extractor.kind.as_str() {
        "builtin" => Ok(Arc::new(Builtin)),
        "llm" => Ok(Arc::new(Llm::new(settings, known).map_err(ProcessError::Usage)?)),
        other => Err(ProcessError::Usage(format!("extractor.kind is `{other}`; it must be builtin or llm"))),
    }
}
