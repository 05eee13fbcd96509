//! Keeps a library's database open and its rooms running: one task owns both, from the start to the end.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use memori_augment_worker::Extractor;
use memori_embedding::Embedder;
use memori_event_log::backoff::Backoff;
use memori_event_log::sql::SqlLog;
use memori_service::{Health, ProcessError, Settings};
use memori_writer::notify::Commits;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::adopt::adopt;
use crate::config::Database;
use crate::folder::DataFolder;
use crate::late::Late;
use crate::rooms::{Live, Rooms, drain_share};
use crate::slot::Slot;
use crate::storage::{Sharing, Storage};
use crate::system::State;

/// Connections of the log to Postgres.
const LOG_CONNECTIONS: u32 = 4;
/// Between two tries to open the database.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// What has run for so long did not fail at once.
const SETTLED: Duration = Duration::from_secs(30);
/// The part in [`Health`].
const DATABASE: &str = "database";

/// What the owner wants of it. Where the owner is gone, it is to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Wanted {
    #[default]
    Run,
    Suspended,
    Stopped,
}

/// What is wanted, as the owner's so many-th order.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Order {
    pub(crate) number: u64,
    pub(crate) wanted: Wanted,
}

pub(crate) struct Keeper {
    pub(crate) settings: Settings,
    pub(crate) database: Database,
    /// The data folder's name.
    pub(crate) instance: String,
    pub(crate) spools: PathBuf,
    pub(crate) embedder: Option<Arc<dyn Embedder>>,
    pub(crate) live: Live,
    pub(crate) late: Arc<Late>,
    pub(crate) health: Health,
    pub(crate) draining: CancellationToken,
    pub(crate) requests: TaskTracker,
    /// Ends what the front door and the adopter do in the background.
    pub(crate) replay_stop: CancellationToken,
    pub(crate) told: watch::Sender<State>,
    pub(crate) orders: watch::Receiver<Order>,
    /// The number of the latest order to suspend, once all is closed.
    pub(crate) suspended: watch::Sender<u64>,
    /// Ours until everything has ended.
    pub(crate) slot: Slot,
    pub(crate) folders: Vec<DataFolder>,
}

/// What is open now, for those who look in from beside.
type Shown<T> = Arc<Mutex<Option<Arc<T>>>>;

fn show<T: ?Sized>(shown: &Mutex<Option<Arc<T>>>, what: Option<Arc<T>>) {
    *shown.lock().unwrap_or_else(PoisonError::into_inner) = what;
}

fn look<T: ?Sized>(shown: &Mutex<Option<Arc<T>>>) -> Option<Arc<T>> {
    shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Waits until something else is wanted than what is under way; says what.
async fn other_than(orders: &mut watch::Receiver<Order>, now: Wanted) -> Wanted {
    match orders.wait_for(|order| order.wanted != now).await {
        Ok(order) => order.wanted,
        Err(_) => Wanted::Stopped,
    }
}

impl Keeper {
    pub(crate) async fn run(mut self) {
        let extractor: Arc<Mutex<Option<Arc<dyn Extractor>>>> = Arc::default();
        let asked = extractor.clone();
        self.health.degraded_while("extractor", move || look(&asked)?.complaint());
        self.live.tell_of_bursts(&self.health);
        let log: Shown<SqlLog> = Arc::default();
        self.adopt_orphans(log.clone());
        let commits = Commits::new();
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut wanted = Wanted::Run;
        while wanted != Wanted::Stopped {
            if wanted == Wanted::Suspended {
                self.told.send_replace(State::Suspended);
                wanted = self.stay_suspended().await;
                self.told.send_replace(State::Opening(None));
                continue;
            }
            let why = match self.open(&commits).await {
                Opened::Now(storage, mut rooms) => {
                    let opened = Instant::now();
                    show(&extractor, Some(rooms.extractor.clone()));
                    show(&log, Some(storage.log.clone()));
                    self.late.open(storage.log.clone(), rooms.writer.clone());
                    self.health.part_ready(DATABASE);
                    self.health.started();
                    self.told.send_replace(State::Up);
                    tracing::info!("the database is open");
                    let ended = tokio::select! {
                        ended = rooms.ended() => Some(ended),
                        other = other_than(&mut self.orders, Wanted::Run) => { wanted = other; None }
                    };
                    if wanted == Wanted::Stopped {
                        self.drain_requests().await;
                    }
                    rooms.stop().await;
                    self.late.shut();
                    show(&log, None);
                    show(&extractor, None);
                    storage.close().await;
                    let Some((room, why)) = ended else { continue };
                    if opened.elapsed() > SETTLED {
                        backoff.reset();
                    }
                    tracing::error!(room, why, "a room ended; the database is opened anew");
                    format!("the {room} ended: {why}")
                }
                Opened::Not(why) => why,
                Opened::Unwanted(other) => {
                    wanted = other;
                    continue;
                }
            };
            let pause = backoff.next(rand::random());
            self.health.part_failed(DATABASE, why.clone());
            self.told.send_replace(State::Opening(Some(why)));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                other = other_than(&mut self.orders, Wanted::Run) => wanted = other,
            }
        }
        self.drain_requests().await;
        self.replay_stop.cancel();
        drop((self.slot, self.folders));
        self.told.send_replace(State::Stopped);
    }

    /// Says of every order to suspend that all is closed, until something else is wanted.
    async fn stay_suspended(&mut self) -> Wanted {
        loop {
            let order = *self.orders.borrow_and_update();
            if order.wanted != Wanted::Suspended {
                return order.wanted;
            }
            self.suspended.send_replace(order.number);
            if self.orders.changed().await.is_err() {
                return Wanted::Stopped;
            }
        }
    }

    /// What was begun may end, within its share.
    async fn drain_requests(&self) {
        self.health.draining();
        self.draining.cancel();
        self.requests.close();
        if tokio::time::timeout(drain_share(&self.settings), self.requests.wait()).await.is_err() {
            tracing::warn!("requests were still under way");
        }
    }

    async fn open(&mut self, commits: &Commits) -> Opened {
        let instance = format!("{}-{}", self.instance, self.slot.number);
        let sharing = Sharing::Shared { instance, connections: LOG_CONNECTIONS };
        let mut settings = self.settings.clone();
        // Once, and then again from here.
        settings.start.deadline_ms = 0;
        let (database, told) = (self.database.clone(), commits.clone());
        let mut opening = tokio::spawn(async move { Storage::open(&settings, &database, &sharing, &told).await });
        let opened = tokio::select! {
            opened = &mut opening => opened,
            other = other_than(&mut self.orders, Wanted::Run) => {
                match &self.database {
                    // Its transactions are in the same file that a child must not find open.
                    Database::Sqlite(_) => if let Ok(Ok(storage)) = opening.await {
                        storage.close().await;
                    },
                    // A server that does not answer is not waited for.
                    Database::Postgres(_) => opening.abort(),
                }
                return Opened::Unwanted(other);
            }
        };
        let storage = match opened {
            Ok(Ok(storage)) => storage,
            Ok(Err(error)) => return self.failed(&error),
            Err(panic) => return Opened::Not(panic.to_string()),
        };
        match Rooms::start(&self.settings, &storage, commits, self.embedder.clone(), &self.live) {
            Ok(rooms) => Opened::Now(storage, rooms),
            Err(error) => {
                storage.close().await;
                self.failed(&error)
            }
        }
    }

    fn failed(&self, error: &ProcessError) -> Opened {
        tracing::warn!(%error, "the database cannot be opened; it is tried again");
        Opened::Not(error.to_string())
    }

    /// Beside everything, until the end: what the dead left, and the leases that they held.
    fn adopt_orphans(&self, log: Shown<SqlLog>) {
        let instance = self.instance.clone();
        let gone = async move |number: u32| {
            let Some(log) = look(&log) else { return };
            if let Err(error) = log.forget_instance(&format!("{instance}-{number}")).await {
                tracing::debug!(%error, "the leases of a process that is gone were not freed; they run out");
            }
        };
        let (spools, max_bytes) = (self.spools.clone(), self.settings.ingest.spool_max_bytes);
        tokio::spawn(adopt(spools, max_bytes, self.late.log().producer(), gone, self.replay_stop.clone()));
    }
}

enum Opened {
    Now(Storage, Rooms),
    Not(String),
    Unwanted(Wanted),
}
