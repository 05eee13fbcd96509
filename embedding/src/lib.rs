//! Text to vectors: one seam, [`Embedder`], over whatever makes them.
//!
//! Promises: a vector is of one model and one version of it, and says so; whoever has no model is told why, and nothing here
//! ever answers with something that only looks like a vector.

pub mod builtin;
mod catalogue;
mod fetch;
pub mod file;
mod late;
mod local;
pub mod metrics;
#[cfg(feature = "minilm")]
pub mod minilm;
mod openai;
mod quantise;

use std::sync::Arc;

use async_trait::async_trait;
use memori_service::{ProcessError, Settings};

pub use catalogue::{BUILTIN, Files, Package, model_dir, open_builtin, package};
#[cfg(feature = "minilm")]
pub use catalogue::{MINILM, open_minilm};
pub use fetch::{FetchError, fetch};
pub use late::{Late, LateState, builtin_soon};
pub use quantise::{Embedding, dot, dot_rows};

use local::Local;

/// Why there are no vectors. Messages hold no text that was to be embedded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmbedError {
    /// The configuration cannot work: says what to change.
    #[error("embedding: {0}")]
    Configuration(String),
    /// It may work later.
    #[error("embedding is not possible now: {0}")]
    Unavailable(String),
    /// It will never work for these texts.
    #[error("embedding was refused: {0}")]
    Refused(String),
}

/// Makes vectors of one model.
#[async_trait]
pub trait Embedder: Send + Sync + 'static {
    /// The model's id and version, such as `use-multilingual@3`, as every vector carries it. Vectors of unlike models are never
    /// compared.
    fn model(&self) -> &str;

    /// Components of a vector.
    fn dimensions(&self) -> usize;

    /// One vector for each text, in order.
    ///
    /// # Errors
    /// All or nothing, as [`EmbedError`] says.
    async fn embed(&self, texts: &[String]) -> Result<Vec<Embedding>, EmbedError>;
}

/// The embedder that the settings ask for; `None` where they ask for none. A process calls this once and hands it down: the weights
/// are mapped once.
///
/// # Errors
/// [`EmbedError::Configuration`] where the settings cannot work, [`EmbedError::Unavailable`] where the model is not there: the caller
/// says so aloud and goes on by words alone.
pub fn embedder_of(settings: &Settings) -> Result<Option<Arc<dyn Embedder>>, EmbedError> {
    match settings.embedding.kind.as_str() {
        "none" => Ok(None),
        "builtin" => {
            let model = open_builtin(&model_dir(settings)?)?;
            let local = Local::new(builtin::MODEL, builtin::DIMENSIONS, model, threads(settings))?;
            Ok(Some(Arc::new(local)))
        }
        #[cfg(feature = "minilm")]
        "minilm" => {
            let model = open_minilm(&model_dir(settings)?)?;
            let local = Local::new(minilm::MODEL, minilm::DIMENSIONS, model, threads(settings))?;
            Ok(Some(Arc::new(local)))
        }
        #[cfg(not(feature = "minilm"))]
        "minilm" => package("minilm").map(|_| None),
        "openai" => Ok(Some(Arc::new(openai::Endpoint::of(settings)?))),
        other => {
            Err(EmbedError::Configuration(format!("embedding.kind is {other:?}; it must be builtin, minilm, openai or none")))
        }
    }
}

/// [`embedder_of`] for a process that starts: describes the metrics, says aloud what there is, and goes on without an embedder where
/// the model is not there.
///
/// # Errors
/// [`ProcessError::Usage`] where the settings cannot work.
pub fn start(settings: &Settings) -> Result<Option<Arc<dyn Embedder>>, ProcessError> {
    metrics::describe();
    let embedder = match embedder_of(settings) {
        Ok(embedder) => embedder,
        Err(EmbedError::Configuration(why)) => return Err(ProcessError::Usage(why)),
        Err(error) => {
            tracing::warn!(%error, "no embedding: recall goes by words alone");
            None
        }
    };
    match &embedder {
        Some(embedder) => tracing::info!(model = embedder.model(), dimensions = embedder.dimensions(), "embedding"),
        None if settings.embedding.kind == "none" => tracing::info!("no embedding, as configured: recall goes by words alone"),
        None => {}
    }
    metrics::available(embedder.is_some());
    Ok(embedder)
}

/// Makes one vector, to see whether it works.
///
/// # Errors
/// As [`Embedder::embed`].
pub async fn probe(settings: &Settings) -> Result<Option<String>, EmbedError> {
    let Some(embedder) = embedder_of(settings)? else { return Ok(None) };
    embedder.embed(&["hello".to_owned()]).await?;
    Ok(Some(embedder.model().to_owned()))
}

/// How many threads a model of this process may keep busy: as configured, else half of the machine.
fn threads(settings: &Settings) -> usize {
    settings.embedding.threads.unwrap_or_else(|| {
        let all = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        (all / 2).max(1)
    })
}
