//! The system as a library: started and stopped inside somebody's process, on a runtime of the caller's.
//!
//! Promises: starting waits for no database; from then on the front door takes events, into its spool while the database is away;
//! whatever ends the database or a room, it is opened again for as long as the system is wanted. Nothing of the process is touched: no
//! signal, no subscriber of logs, no environment. Dropped without [`System::stop`] it stops by itself while the runtime lives; killed,
//! what it had acknowledged is in the log or in its spool, which the next process here delivers.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::IntoResponse as _;
use memori_augment_worker::extractor_with;
use memori_event_log::driver::Level;
use memori_ingest::{IngestConfig, IngestParts, IngestState, SpoolConfig, WriterBackend};
use memori_service::auth::KeyRing;
use memori_service::problem::Problem;
use memori_service::{Health, ProcessError, metrics_endpoint};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Database, LibraryConfig};
use crate::folder::{self, DataFolder};
use crate::keeper::{Keeper, Order, Wanted};
use crate::late::Late;
use crate::rooms::Live;
use crate::server::{describe_metrics, door_config};
use crate::slot::Slot;

/// Bytes that the door's memory of recent events may take.
const RECENT_BYTES: usize = 16 << 20;
/// How long a server that has the folder to itself may take to say where it listens.
const ADDRESS_WAIT: Duration = Duration::from_secs(2);
/// How long the start waits for a database that opens at once.
const OPENS_AT_ONCE: Duration = Duration::from_millis(300);
/// How often what a recorder gathers is folded together where nobody may ever ask for it.
const UPKEEP: Duration = Duration::from_secs(5);

/// What starting came to.
#[derive(Debug)]
pub enum Start {
    /// It runs here.
    System(System),
    /// A server has the database to itself, and answers for it at this address.
    Elsewhere {
        /// `http://host:port`.
        address: String,
    },
}

/// How the system stands. Events are taken in every state but the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The database is being opened; where that failed, why.
    Opening(Option<String>),
    /// Everything runs.
    Up,
    /// The database is closed until [`System::resume`].
    Suspended,
    /// Over.
    Stopped,
}

/// The settings that may be moved while it runs, as they are in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knobs {
    /// Events that this process extracts at a time, at most.
    pub max_concurrency: usize,
    /// Records that close a batch of this process's sink.
    pub batch_rows: usize,
}

/// How full it is. Of a database that others share, these are this process's figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SystemLevels {
    /// Conversation events that were read and are not yet extracted.
    pub worker: Level,
    /// Records that were read and are not yet in the store.
    pub sink: Level,
    /// Events that wait in the spool.
    pub spooled: usize,
}

/// The running system. It stops when it is dropped.
pub struct System {
    router: Router,
    live: Live,
    health: Health,
    spooled: Box<dyn Fn() -> usize + Send + Sync>,
    state: watch::Receiver<State>,
    orders: watch::Sender<Order>,
    /// The number of the latest order to suspend that was carried out.
    suspended: watch::Receiver<u64>,
}

impl std::fmt::Debug for System {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("System").field("state", &*self.state.borrow()).finish_non_exhaustive()
    }
}

impl System {
    /// Starts it, inside a runtime. A database that does not open at once is not waited for.
    ///
    /// # Errors
    /// Settings or folders that cannot work: the text says what to change.
    pub async fn start(config: LibraryConfig) -> Result<Start, ProcessError> {
        let LibraryConfig { database, data_dir, settings, embedder, metrics } = config;
        let mut folders = Vec::new();
        if let Some(folder) = servers_folder(&database) {
            match DataFolder::share(folder).map_err(|e| unusable(folder, &e))? {
                Some(held) => folders.push(held),
                None => return elsewhere(folder).await,
            }
        }
        let data = DataFolder::share(&data_dir).map_err(|e| unusable(&data_dir, &e))?.ok_or_else(|| {
            ProcessError::Usage(format!("the data folder {} is a server's (`memori up`): name another", data_dir.display()))
        })?;
        let slot = Slot::lowest_free(&data.spool()).map_err(|e| unusable(&data.spool(), &e))?;
        let instance = data.instance()?;
        let spools = data.spool();
        folders.push(data);

        // What cannot work is said now, not by a room that does not start.
        extractor_with(&settings, None)?;
        let embedder = match embedder {
            Some(embedder) => Some(embedder),
            None => {
                let reading = settings.clone();
                tokio::task::spawn_blocking(move || memori_embedding::start(&reading))
                    .await
                    .map_err(|e| ProcessError::Failed(format!("opening the embedding model: {e}")))??
            }
        };

        let live = Live::of(&settings);
        let late = Arc::new(Late::new());
        let (draining, replay_stop, requests) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let parts = IngestParts {
            log: late.log(),
            backend: WriterBackend::InProcess(late.writer()),
            keys: KeyRing::open(),
            extracting: Some(live.probe()),
            config: IngestConfig { recent_bytes: RECENT_BYTES, ..door_config(&settings, &draining) },
        };
        let spool = SpoolConfig {
            folder: slot.folder.clone(),
            max_bytes: settings.ingest.spool_max_bytes,
            shutdown: replay_stop.clone(),
            beside: None,
        };
        if metrics {
            count(replay_stop.clone());
        }
        let health = Health::new();
        let (told, state) = watch::channel(State::Opening(None));
        let (order, orders) = watch::channel(Order::default());
        let (suspended, seen_suspended) = watch::channel(0);
        let keeper = Keeper {
            settings,
            database,
            instance,
            spools,
            embedder,
            live: live.clone(),
            late,
            health: health.clone(),
            draining: draining.clone(),
            requests: requests.clone(),
            replay_stop,
            told,
            orders,
            suspended,
            slot,
            folders,
        };
        tokio::spawn(keeper.run());
        // One that opens at once spares the door the spool, and lets it remember the log's tail.
        let mut first = state.clone();
        let _ = tokio::time::timeout(OPENS_AT_ONCE, first.wait_for(|state| *state != State::Opening(None))).await;
        // Where this fails, the keeper ends: nobody wants anything of it any more.
        let door = IngestState::start_with_spool(parts, Some(spool))
            .await
            .map_err(|e| ProcessError::Failed(format!("cannot open the front door: {e}")))?;
        health.degraded_while("log", door.degraded());
        let spooled = Box::new(door.spooled());
        let router = guarded(memori_ingest::app(door), draining, requests);
        Ok(Start::System(Self { router, live, health, spooled, state, orders: order, suspended: seen_suspended }))
    }

    /// The front door of the tenant `default`, without keys, for calls inside the process (`tower::ServiceExt::oneshot`). A request's
    /// `Host` must be `localhost`.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// How it stands, and every change of it.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Waits until everything runs; where that takes longer than `patience`, why.
    ///
    /// # Errors
    /// What stands in the way.
    pub async fn up(&self, patience: Duration) -> Result<(), String> {
        let mut state = self.state.clone();
        let up = tokio::time::timeout(patience, state.wait_for(|state| *state == State::Up)).await;
        if matches!(up, Ok(Ok(_))) {
            return Ok(());
        }
        Err(match &*self.state.borrow() {
            State::Opening(Some(why)) => why.clone(),
            State::Opening(None) => "the database is still being opened".to_owned(),
            State::Up => return Ok(()),
            State::Suspended => "it is suspended".to_owned(),
            State::Stopped => "it was stopped".to_owned(),
        })
    }

    /// What is ready, and what it does without just now.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// How many events are extracted at a time, from the next one on.
    pub fn set_max_concurrency(&self, events: usize) {
        self.live.max_concurrency.set(events.max(1));
    }

    /// How many records close a batch, from the next one on.
    pub fn set_batch_rows(&self, records: usize) {
        self.live.batch_rows.set(records.max(1));
    }

    /// What is in force.
    #[must_use]
    pub fn knobs(&self) -> Knobs {
        Knobs { max_concurrency: self.live.max_concurrency.get(), batch_rows: self.live.batch_rows.get() }
    }

    /// How full it is.
    #[must_use]
    pub fn levels(&self) -> SystemLevels {
        SystemLevels { worker: self.live.worker.look(), sink: self.live.sink.look(), spooled: (self.spooled)() }
    }

    /// Drains and closes the database, so that this process may be forked: a child that inherits an open SQLite file believes that it
    /// holds its parent's locks. The front door goes on, into the spool. Whether it was closed within `patience`.
    pub async fn suspend(&self, patience: Duration) -> bool {
        let number = self.order(Wanted::Suspended);
        let (mut suspended, mut state) = (self.suspended.clone(), self.state.clone());
        // The state alone may still tell of the time before the last resume.
        let closed = async {
            tokio::select! {
                closed = suspended.wait_for(|last| *last >= number) => closed.is_ok(),
                stopped = state.wait_for(|state| *state == State::Stopped) => stopped.is_ok(),
            }
        };
        matches!(tokio::time::timeout(patience, closed).await, Ok(true))
    }

    /// Opens the database again.
    pub fn resume(&self) {
        self.order(Wanted::Run);
    }

    fn order(&self, wanted: Wanted) -> u64 {
        let mut number = 0;
        self.orders.send_modify(|order| {
            number = order.number + 1;
            *order = Order { number, wanted };
        });
        number
    }

    /// Stops in the data's order: no more requests, then the worker, then the sink, then the files. What is not done by then is in the
    /// log or in the spool, for whoever comes next. Whether it ended within `deadline`; where not, it goes on ending by itself.
    pub async fn stop(self, deadline: Duration) -> bool {
        self.order(Wanted::Stopped);
        let mut state = self.state.clone();
        matches!(tokio::time::timeout(deadline, state.wait_for(|state| *state == State::Stopped)).await, Ok(Ok(_)))
    }
}

/// The folder of a server whose database this is, or may become.
fn servers_folder(database: &Database) -> Option<&std::path::Path> {
    match database {
        Database::Sqlite(file) if file.file_name().is_some_and(|name| name == folder::DATABASE) => file.parent(),
        _ => None,
    }
}

fn unusable(folder: &std::path::Path, error: &std::io::Error) -> ProcessError {
    ProcessError::Usage(format!("{} cannot be used: {error}; make it writable, or name another folder", folder.display()))
}

/// A server that has just taken the folder needs a moment to listen.
async fn elsewhere(folder: &std::path::Path) -> Result<Start, ProcessError> {
    let patience = tokio::time::Instant::now() + ADDRESS_WAIT;
    loop {
        if let Some(address) = folder::address_of(folder) {
            return Ok(Start::Elsewhere { address });
        }
        if tokio::time::Instant::now() >= patience {
            return Err(ProcessError::Failed(format!(
                "{} is held by a process that does not say where it listens; stop it, or wait until it is up",
                folder.display()
            )));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Counts requests, and refuses them once it is over.
fn guarded(door: Router, draining: CancellationToken, requests: TaskTracker) -> Router {
    door.layer(middleware::from_fn(move |request: Request, next: Next| {
        let (draining, here) = (draining.clone(), requests.token());
        async move {
            if draining.is_cancelled() {
                return Problem::unavailable("this process is stopping", 1).into_response();
            }
            let response = next.run(request).await;
            drop(here);
            response
        }
    }))
}

/// Installs the process's recorder, where there is none, and keeps what it gathers small.
fn count(stop: CancellationToken) {
    let recorder = metrics_endpoint::install();
    describe_metrics();
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            recorder.run_upkeep();
        }
    }));
}
