//! Text to vectors: one seam, [`Embedder`], over whatever makes them.
//!
//! Promises: a vector is of one model and one version of it, and says so; whoever has no model is told why, and nothing here
//! ever answers with something that only looks like a vector.

mod quantise;

use std::sync::Arc;

use async_trait::async_trait;
use memori_service::Settings;

pub use quantise::Embedding;

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

/// The embedder that the settings ask for; `None` where they ask for none.
///
/// # Errors
/// [`EmbedError::Configuration`] where the settings cannot work, [`EmbedError::Unavailable`] where the model is not there: the caller
/// says so aloud and goes on by words alone.
pub fn embedder_of(settings: &Settings) -> Result<Option<Arc<dyn Embedder>>, EmbedError> {
    match settings.embedding.kind.as_str() {
        "none" => Ok(None),
        other => Err(EmbedError::Unavailable(format!("{other} is not part of this build"))),
    }
}
