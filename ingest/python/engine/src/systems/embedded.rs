//! Log, worker, writer and recall in this process.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use memori_embedded::{Database, LibraryConfig, Start, State};
use memori_embedding::{Embedder, Late, LateState};
use memori_service::Settings;
use serde_json::{Value, json};

use crate::config::Config;
use crate::engine::lock;
use crate::notices::Level;
use crate::system::{StartFailure, System};

/// What starting came to.
pub(super) enum Started {
    Here(Arc<dyn System>),
    Elsewhere(String),
}

/// What outlives the system itself, and the system until it is stopped.
struct Embedded {
    router: Router,
    health: memori_service::Health,
    state: tokio::sync::watch::Receiver<State>,
    system: Mutex<Option<Arc<memori_embedded::System>>>,
    suspends: bool,
    /// The built-in model, where that is asked for.
    model: Option<Late>,
    /// Why there is none.
    missing: Option<String>,
}

pub(super) async fn start(config: &Config, database: Database) -> Result<Started, StartFailure> {
    let suspends = matches!(database, Database::Sqlite(_));
    let mut library = LibraryConfig::new(database, config.target_dir());
    config.apply(&mut library.settings);
    let (model, missing) = model(config, &library.settings);
    library.embedder = model.clone().map(|model| Arc::new(model) as Arc<dyn Embedder>);
    if missing.is_some() {
        library.settings.embedding.kind = "none".to_owned();
    }
    match memori_embedded::System::start(library).await.map_err(|error| StartFailure(error.to_string()))? {
        Start::Elsewhere { address } => Ok(Started::Elsewhere(address)),
        Start::System(system) => Ok(Started::Here(Arc::new(Embedded {
            router: system.router(),
            health: system.health(),
            state: system.state(),
            system: Mutex::new(Some(Arc::new(system))),
            suspends,
            model,
            missing,
        }))),
    }
}

/// The built-in model, or why it is not there, where it is asked for.
fn model(config: &Config, settings: &Settings) -> (Option<Late>, Option<String>) {
    if settings.embedding.kind != "builtin" {
        return (None, None);
    }
    match memori_embedding::builtin_soon(settings, config.embedding.weights_dir.as_deref()) {
        Ok(model) => (Some(model), None),
        Err(why) => (None, Some(why.to_string())),
    }
}

#[async_trait]
impl System for Embedded {
    fn router(&self) -> Router {
        self.router.clone()
    }

    async fn up(&self, patience: Duration) -> Result<(), String> {
        if *self.state.borrow() == State::Up {
            return Ok(());
        }
        let mut state = self.state.clone();
        let up = tokio::time::timeout(patience, state.wait_for(|state| *state == State::Up)).await;
        if matches!(up, Ok(Ok(_))) { Ok(()) } else { Err(self.complaint().unwrap_or_else(|| "it is not up yet".to_owned())) }
    }

    async fn open(&self, patience: Duration) -> Result<(), String> {
        self.up(patience).await
    }

    fn complaint(&self) -> Option<String> {
        match &*self.state.borrow() {
            State::Opening(Some(why)) => return Some(why.clone()),
            State::Opening(None) => return Some("the database is being opened".to_owned()),
            State::Suspended => return Some("it is closed while this process is forked".to_owned()),
            State::Stopped => return Some("it was stopped".to_owned()),
            State::Up => {}
        }
        let degraded = self.health.degradations();
        (!degraded.is_empty()).then(|| degraded.join("; "))
    }

    fn remarks(&self) -> Vec<(&'static str, Level, String)> {
        let by_words = |why: &str| vec![("model", Level::Warning, format!("recall goes by words alone: {why}"))];
        match (self.model.as_ref().map(Late::state), &self.missing) {
            (Some(LateState::Failed(why)), _) => by_words(&why.to_string()),
            (Some(LateState::Converting), _) => {
                let text = "the embedding model is being made ready, once for this user; until then recall goes by words alone";
                vec![("model_soon", Level::Info, text.to_owned())]
            }
            (_, Some(why)) => by_words(why),
            (Some(LateState::Ready(_)) | None, None) => Vec::new(),
        }
    }

    fn set_workers(&self, count: usize) {
        if let Some(system) = &*lock(&self.system) {
            system.set_max_concurrency(count);
        }
    }

    fn set_batch_rows(&self, count: usize) {
        if let Some(system) = &*lock(&self.system) {
            system.set_batch_rows(count);
        }
    }

    fn shown(&self) -> Value {
        let system = lock(&self.system);
        let Some(system) = &*system else { return json!({"kind": "embedded", "state": "stopped"}) };
        let (knobs, levels) = (system.knobs(), system.levels());
        json!({
            "kind": "embedded",
            "state": format!("{:?}", *self.state.borrow()),
            "workers": {"effective": knobs.max_concurrency, "acts_on": "extractions that this process makes at a time"},
            "batch_rows": {"effective": knobs.batch_rows, "acts_on": "records that close a batch of this process's writer"},
            "extracting": levels.worker.in_flight,
            "unwritten": levels.sink.held_records,
            "spooled": levels.spooled,
            "embedding": match self.model.as_ref().map(Late::state) {
                Some(LateState::Ready(_)) => "ready",
                Some(LateState::Converting) => "converting",
                Some(LateState::Failed(_)) => "failed",
                None if self.missing.is_some() => "missing",
                None => "as configured",
            },
        })
    }

    async fn suspend(&self, patience: Duration) -> bool {
        if !self.suspends {
            return true;
        }
        let system = lock(&self.system).clone();
        match system {
            None => true,
            Some(system) => system.suspend(patience).await,
        }
    }

    fn resume(&self) {
        if let (true, Some(system)) = (self.suspends, &*lock(&self.system)) {
            system.resume();
        }
    }

    async fn stop(&self, deadline: Duration) {
        let Some(system) = lock(&self.system).take() else { return };
        match Arc::try_unwrap(system) {
            Ok(system) => {
                system.stop(deadline).await;
            }
            // Somebody is about to suspend it; it stops once they let go of it.
            Err(shared) => {
                drop(shared);
                let mut state = self.state.clone();
                let _ = tokio::time::timeout(deadline, state.wait_for(|state| *state == State::Stopped)).await;
            }
        }
    }
}
