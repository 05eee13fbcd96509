//! The engine: one per process and target.
//!
//! Promises: opening one is cheap and returns at once; the system behind it starts in the background and is tried again while it
//! does not start; after [`Engine::close`] whatever is asked next starts it anew, until the process ends; nothing that a caller
//! waits for is waited for beyond its deadline, also where the runtime does not get to run.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::breaker::Breaker;
use crate::config::{Config, ConfigError, canonical};
use crate::ledger::Ledger;
use crate::notices::{Level, Notices};
use crate::process::{PerProcess, is_exiting};
use crate::queue::Queue;
use crate::reach::Reach;
use crate::stats::Stats;
use crate::system::{System, problem};
use crate::turn::Call;
use crate::unanswered::{Calls, Lately};
use crate::{feeder, fork, settle, systems};

/// Threads of the runtime.
const RUNTIME_THREADS: usize = 2;
/// Recalls for injection that may be under way, those that nobody waits for any more included.
const RECALLS_AT_ONCE: usize = 256;
/// Questions about events' ends that may be under way.
const WAITS_AT_ONCE: usize = 64;
/// The first pause before a system that did not start is tried again; doubles up to the last.
const FIRST_START_PAUSE: Duration = Duration::from_millis(200);
/// The longest such pause.
const LAST_START_PAUSE: Duration = Duration::from_secs(10);

/// Every engine of this process, by its configuration.
static ENGINES: PerProcess<Mutex<HashMap<String, Arc<Engine>>>> = PerProcess::new();

/// Where the system behind an engine stands.
#[derive(Clone)]
pub(crate) enum Phase {
    /// Not there yet.
    Starting,
    /// There.
    Up(Arc<dyn System>),
    /// It did not start, and is tried again.
    Failed(String),
}

/// A runtime with what runs on it.
pub(crate) struct Running {
    runtime: Mutex<Option<Runtime>>,
    pub(crate) handle: Handle,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) stop: CancellationToken,
}

/// What callers may turn while it runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Knobs {
    pub(crate) workers: usize,
    pub(crate) batch_rows: usize,
}

/// The engine.
pub struct Engine {
    pub(crate) config: Config,
    key: String,
    process: u32,
    pub(crate) stats: Stats,
    pub(crate) queue: Mutex<Queue>,
    pub(crate) ledger: Mutex<Ledger>,
    pub(crate) reach: Mutex<Reach>,
    pub(crate) breaker: Mutex<Breaker>,
    pub(crate) notices: Mutex<Notices>,
    pub(crate) knobs: Mutex<Knobs>,
    pub(crate) running: Mutex<Option<Arc<Running>>>,
    has_run: AtomicBool,
    /// Turns without an answer, by what their retry would be known by.
    pub(crate) unanswered: Mutex<Calls<[u8; 32], Arc<Call>>>,
    /// Blocks of turns that may go on, by scope and turn. None: that turn got none.
    pub(crate) blocks: Mutex<Lately<[u8; 32], Option<Arc<str>>>>,
    /// The queue grew.
    pub(crate) grown: Notify,
    /// The lowest number of the queue that is not settled.
    pub(crate) settled: watch::Sender<u64>,
    /// Ends became known, or an event became durable.
    pub(crate) moved: watch::Sender<u64>,
    pub(crate) recalls: Arc<Semaphore>,
    pub(crate) waits: Semaphore,
    /// The place of what works on a large body.
    large: Arc<Semaphore>,
    /// Entities that are read in ahead of their next turn.
    pub(crate) reading_ahead: Mutex<HashSet<Box<str>>>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    /// The engine of this process for exactly this configuration; started in the background where there is none yet.
    ///
    /// # Errors
    /// [`ConfigError`] where the configuration cannot be right.
    pub fn open(config_json: &str) -> Result<Arc<Self>, ConfigError> {
        let engine = Self::registered(&canonical(config_json)?, || Config::read(config_json))?;
        engine.running();
        Ok(engine)
    }

    fn registered(key: &str, config: impl FnOnce() -> Result<Config, ConfigError>) -> Result<Arc<Self>, ConfigError> {
        let mut engines = lock(ENGINES.get_or_make(Mutex::default));
        if let Some(engine) = engines.get(key) {
            return Ok(Arc::clone(engine));
        }
        let engine = Arc::new(Self::new(key.to_owned(), config()?));
        engines.insert(key.to_owned(), Arc::clone(&engine));
        Ok(engine)
    }

    pub(crate) fn new(key: String, config: Config) -> Self {
        Self {
            key,
            process: std::process::id(),
            stats: Stats::default(),
            queue: Mutex::new(Queue::new(config.queue_events, config.queue_bytes)),
            ledger: Mutex::default(),
            reach: Mutex::default(),
            breaker: Mutex::default(),
            notices: Mutex::default(),
            knobs: Mutex::new(Knobs { workers: config.workers, batch_rows: config.batch_rows }),
            running: Mutex::default(),
            has_run: AtomicBool::new(false),
            unanswered: Mutex::default(),
            blocks: Mutex::default(),
            grown: Notify::new(),
            settled: watch::channel(0).0,
            moved: watch::channel(0).0,
            recalls: Arc::new(Semaphore::new(RECALLS_AT_ONCE)),
            waits: Semaphore::new(WAITS_AT_ONCE),
            large: Arc::new(Semaphore::new(1)),
            reading_ahead: Mutex::default(),
            config,
        }
    }

    /// This engine, or the one that stands for it in this process, where it was opened before a fork.
    #[must_use]
    pub fn here(self: &Arc<Self>) -> Arc<Self> {
        if self.process == std::process::id() {
            return Arc::clone(self);
        }
        // Nothing of the parent's may be locked here: its other threads are not there to let go.
        Self::registered(&self.key, || Ok(self.config.clone())).unwrap_or_else(|_| unreachable!("it was valid before"))
    }

    /// Whether it was opened in this process.
    #[must_use]
    pub fn is_of_this_process(&self) -> bool {
        self.process == std::process::id()
    }

    /// What runs, started where it does not. None where the process is about to end, or has no more threads to give.
    pub(crate) fn running(self: &Arc<Self>) -> Option<Arc<Running>> {
        self.running_although(false)
    }

    fn running_although(self: &Arc<Self>, exiting: bool) -> Option<Arc<Running>> {
        let mut running = lock(&self.running);
        if let Some(running) = &*running {
            return Some(Arc::clone(running));
        }
        if is_exiting() && !exiting {
            return None;
        }
        let built = Builder::new_multi_thread().worker_threads(RUNTIME_THREADS).thread_name("memori").enable_all().build();
        let runtime = match built {
            Ok(runtime) => runtime,
            Err(error) => {
                self.note("start", Level::Error, || format!("memory cannot start its threads: {error}; calls go out untouched"));
                return None;
            }
        };
        let (phase_of, phase) = watch::channel(Phase::Starting);
        let stop = CancellationToken::new();
        let handle = runtime.handle().clone();
        handle.spawn(start(Arc::clone(self), phase_of, stop.clone()));
        handle.spawn(feeder::run(Arc::clone(self), phase.clone(), stop.clone()));
        handle.spawn(settle::now_and_then(Arc::clone(self), phase.clone(), stop.clone()));
        let started = Arc::new(Running { runtime: Mutex::new(Some(runtime)), handle, phase, stop });
        *running = Some(Arc::clone(&started));
        self.has_run.store(true, Ordering::Release);
        Some(started)
    }

    /// Runs `work` and hands what came of it to `done`, exactly once: none where it took longer than `deadline`, or could not run.
    pub fn run<T: Send + 'static>(
        self: &Arc<Self>,
        deadline: Option<Duration>,
        work: impl Future<Output = T> + Send + 'static,
        done: impl FnOnce(Option<T>) + Send + 'static,
    ) {
        let once = Once(Some(Box::new(done)));
        let Some(running) = self.running() else { return drop(once) };
        running.handle.spawn(async move {
            // Moved in as a whole, so that it is told even where the work panics or is dropped.
            let once = once;
            let result = match deadline {
                None => Some(work.await),
                Some(deadline) => tokio::time::timeout(deadline, work).await.ok(),
            };
            once.call(result);
        });
    }

    /// Does what takes a while beside the callers' threads and those of the runtime: one at a time, so that a burst of large bodies does
    /// not take all processors from the event loop that sent them. None where it panicked.
    pub(crate) async fn beside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let place = Arc::clone(&self.large).acquire_owned().await;
        let working = move || {
            // Held for as long as it works, also where nobody waits for it any more.
            let _place = place;
            work()
        };
        tokio::task::spawn_blocking(working).await.ok()
    }

    /// As [`Engine::run`], on the caller's thread, which is not kept beyond the deadline.
    pub fn block_on<T: Send + 'static>(
        self: &Arc<Self>,
        deadline: Duration,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        self.run(Some(deadline), work, move |result| {
            let _ = sender.send(result);
        });
        // The runtime ends it in time; where it does not get to, this does.
        receiver.recv_timeout(deadline + Duration::from_millis(50)).ok().flatten()
    }

    /// Waits until the system is up, and says where memory lives.
    ///
    /// # Errors
    /// Why it is not up, and what to do.
    pub async fn build(self: Arc<Self>, timeout: Duration) -> Result<String, String> {
        let place = self.config.place();
        let Some(running) = self.running() else { return Err("the process is about to end".to_owned()) };
        let end = tokio::time::Instant::now() + timeout;
        let up = match tokio::time::timeout_at(end, self.system()).await {
            Ok(Some(system)) => system.up(end.saturating_duration_since(tokio::time::Instant::now())).await,
            Ok(None) => Err("it was closed meanwhile".to_owned()),
            Err(_) => Err(match &*running.phase.borrow() {
                Phase::Failed(why) => why.clone(),
                _ => format!("it did not start within {} ms", timeout.as_millis()),
            }),
        };
        up.map(|()| format!("memory lives in {place}")).map_err(|why| format!("memory cannot use {place}: {why}"))
    }

    /// The system, once it is up.
    pub(crate) async fn system(self: &Arc<Self>) -> Option<Arc<dyn System>> {
        let mut phase = self.running()?.phase.clone();
        let up = phase.wait_for(|phase| matches!(phase, Phase::Up(_))).await.ok()?;
        match &*up {
            Phase::Up(system) => Some(Arc::clone(system)),
            _ => None,
        }
    }

    /// Whether a runtime is there.
    pub(crate) fn is_running(&self) -> bool {
        lock(&self.running).is_some()
    }

    /// The system, where it is up now.
    pub(crate) fn system_now(&self) -> Option<Arc<dyn System>> {
        let running = lock(&self.running).clone()?;
        let phase = running.phase.borrow();
        match &*phase {
            Phase::Up(system) => Some(Arc::clone(system)),
            _ => None,
        }
    }

    /// What the system complains of, where it is up and does.
    pub(crate) fn complaint(&self) -> Option<String> {
        self.system_now()?.complaint()
    }

    /// While events are refused for quota: what was said, and how long it holds at least.
    #[must_use]
    pub fn quota(&self) -> Option<(String, Duration)> {
        self.system_now()?.quota()
    }

    /// What a caller is told whose request had no answer in time.
    #[must_use]
    pub fn too_late(&self) -> (u16, Bytes) {
        let running = lock(&self.running).clone();
        let why = match running.as_ref().map(|running| running.phase.borrow().clone()) {
            Some(Phase::Failed(why)) => format!("memory cannot use {}: {why}", self.config.place()),
            Some(Phase::Starting) => "memory has not started yet".to_owned(),
            Some(Phase::Up(_)) => "no answer within the deadline".to_owned(),
            None => return (503, problem(503, "memory is closed")),
        };
        (504, problem(504, &why))
    }

    /// Waits until every number below `number` is settled.
    pub(crate) async fn durable_up_to(&self, number: u64) {
        let mut settled = self.settled.subscribe();
        let _ = settled.wait_for(|first| *first >= number).await;
    }

    /// As [`Engine::flushed`], on the caller's thread.
    pub fn flush(self: &Arc<Self>, timeout: Duration) -> bool {
        lock(&self.queue).events() == 0 || self.block_on(timeout, Arc::clone(self).flushed()).unwrap_or(false)
    }

    /// Waits until all that is queued now is durable (or refused for good).
    pub async fn flushed(self: Arc<Self>) -> bool {
        let captured = lock(&self.queue).next_number();
        self.durable_up_to(captured).await;
        true
    }

    /// Makes durable what is queued and stops, within `timeout`; whether it was made durable. What is asked for afterwards starts it
    /// again, unless the process is about to end.
    pub fn close(self: &Arc<Self>, timeout: Duration) -> bool {
        let end = Instant::now() + timeout;
        let left = || end.saturating_duration_since(Instant::now());
        let Some(running) = lock(&self.running).clone() else { return lock(&self.queue).events() == 0 };
        let flushed = loop {
            let flushed = self.flush(left());
            let mut current = lock(&self.running);
            if !current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &running)) {
                return flushed;
            }
            // Whoever captures puts it into the queue first and looks whether this runs then: nothing falls in between. At the end of
            // the process nobody starts it again.
            if flushed && is_exiting() && !left().is_zero() && lock(&self.queue).events() > 0 {
                continue;
            }
            *current = None;
            break flushed;
        };
        running.stop.cancel();
        let phase = running.phase.borrow().clone();
        if let Phase::Up(system) = phase {
            let (sender, receiver) = std::sync::mpsc::sync_channel(1);
            let left = left();
            running.handle.spawn(async move {
                system.stop(left).await;
                let _ = sender.send(());
            });
            let _ = receiver.recv_timeout(left);
        }
        let runtime = lock(&running.runtime).take();
        if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
        // Captured through another handle since: that one goes on.
        if flushed && lock(&self.queue).events() > 0 {
            self.running();
        }
        flushed
    }

    /// Every engine of this process.
    pub(crate) fn all() -> Vec<Arc<Self>> {
        lock(ENGINES.get_or_make(Mutex::default)).values().cloned().collect()
    }

    /// Does something with every engine that runs or did, at the same time.
    pub(crate) fn each_that_ran<T: Send>(work: impl Fn(&Arc<Self>) -> T + Sync) -> Vec<T> {
        Self::each(|engine| engine.has_run.load(Ordering::Acquire), work)
    }

    /// Does something with every engine that runs, at the same time.
    fn each_that_runs<T: Send>(work: impl Fn(&Arc<Self>) -> T + Sync) -> Vec<T> {
        Self::each(|engine| lock(&engine.running).is_some(), work)
    }

    fn each<T: Send>(which: impl Fn(&Self) -> bool, work: impl Fn(&Arc<Self>) -> T + Sync) -> Vec<T> {
        let engines: Vec<Arc<Self>> = Self::all().into_iter().filter(|engine| which(engine)).collect();
        match engines.as_slice() {
            [] => Vec::new(),
            [one] => vec![work(one)],
            many => std::thread::scope(|scope| {
                let threads: Vec<_> = many.iter().map(|engine| scope.spawn(|| work(engine))).collect();
                threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
            }),
        }
    }

    /// [`Engine::close`] for all, each within its own `exit_deadline`; those that were closed and hold what is not durable are
    /// started for that.
    pub fn close_all() {
        let has_work = |engine: &Self| lock(&engine.running).is_some() || lock(&engine.queue).events() > 0;
        Self::each(has_work, |engine| {
            engine.running_although(true);
            engine.close(engine.config.exit_deadline)
        });
    }

    /// [`Engine::flush`] for all, each within its own `exit_deadline`.
    #[must_use]
    pub fn flush_all() -> bool {
        Self::each_that_runs(|engine| engine.flush(engine.config.exit_deadline)).into_iter().all(|flushed| flushed)
    }

    /// Before a fork: closes what a child must not inherit open.
    pub fn before_fork() {
        fork::before();
    }

    /// After it: opens them again.
    pub fn after_fork_in_parent() {
        fork::after_in_parent();
    }

    /// Notes what could not be closed: this process never opens it.
    pub fn after_fork_in_child() {
        fork::after_in_child();
    }

    /// How many extractions may run at once, from now on.
    pub fn set_workers(&self, count: usize) {
        lock(&self.knobs).workers = count.max(1);
        if let Some(system) = self.system_now() {
            system.set_workers(count.max(1));
        }
    }

    /// How many rows a flush of the writer gathers at most, from now on.
    pub fn set_batch_rows(&self, count: usize) {
        lock(&self.knobs).batch_rows = count.max(1);
        if let Some(system) = self.system_now() {
            system.set_batch_rows(count.max(1));
        }
    }
}

/// Starts the system, and tries again while it does not start.
async fn start(engine: Arc<Engine>, phase: watch::Sender<Phase>, stop: CancellationToken) {
    let mut pause = FIRST_START_PAUSE;
    loop {
        // Until it is there to be suspended.
        let opening = fork::opening().await;
        let started = tokio::select! {
            () = stop.cancelled() => return,
            started = systems::start(&engine.config) => started,
        };
        match started {
            Ok(system) => {
                let knobs = *lock(&engine.knobs);
                system.set_workers(knobs.workers);
                system.set_batch_rows(knobs.batch_rows);
                for (kind, level, text) in system.remarks() {
                    engine.note(kind, level, || text);
                }
                lock(&engine.reach).answered();
                phase.send_replace(Phase::Up(system));
                return;
            }
            Err(failure) => {
                lock(&engine.reach).failed(Instant::now(), failure.0.clone());
                engine.note("start", Level::Warning, || {
                    format!("memory cannot use {}: {failure}; calls go out untouched meanwhile", engine.config.place())
                });
                phase.send_replace(Phase::Failed(failure.0));
            }
        }
        drop(opening);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LAST_START_PAUSE);
    }
}

/// Told exactly once, dropped or not.
struct Once<T>(Option<Box<dyn FnOnce(Option<T>) + Send>>);

impl<T> Once<T> {
    fn call(mut self, result: Option<T>) {
        if let Some(done) = self.0.take() {
            done(result);
        }
    }
}

impl<T> Drop for Once<T> {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(None);
        }
    }
}

/// Reads a counter, for tests.
#[must_use]
pub fn read(counter: &std::sync::atomic::AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
