//! Extraction: conversation events in, fact events out.
//!
//! [`worker::run`] is the whole process behind a log, an extractor and a shutdown token: the embedded process and
//! `memori-augment-worker` both call it. [`builtin`] is the extractor that needs nothing.

pub mod builtin;
pub mod extractor;
mod in_flight;
pub mod metrics;
mod outcome;
mod policy;
pub mod process;
pub mod slots;
pub mod worker;

pub use extractor::{Builtin, ExtractError, Extraction, Extractor, RetryReason};
pub use in_flight::InFlight;
pub use policy::RetryPolicy;
pub use worker::{WorkerConfig, run};

use std::sync::Arc;

use memori_service::{ProcessError, Settings};

/// The extractor that the settings name.
///
/// # Errors
/// [`ProcessError::Usage`] where this build has none of that kind.
pub fn extractor_of(settings: &Settings) -> Result<Arc<dyn Extractor>, ProcessError> {
    match settings.extractor.kind.as_str() {
        "builtin" => Ok(Arc::new(Builtin)),
        other => Err(ProcessError::Usage(format!(
            "extractor.kind is `{other}`; this build has `builtin`: set MEMORI__EXTRACTOR__KIND=builtin"
        ))),
    }
}
