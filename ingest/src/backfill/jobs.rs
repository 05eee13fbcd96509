//! Imports that the API starts: run in this process, a few at a time, each in a folder of its own.
//!
//! Promises: what was answered 202 is on disk, and goes on after a restart where its checkpoint stands; only sources that are allowed by
//! the settings are read, since a URL is read with this process's rights; a tenant sees its own imports; how many there are is bounded.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use memori_event_log::Producer;
use memori_history::importer::{self, Import, Progress};
use memori_history::input::{InputError, expand, plain};
use memori_schemas::Micros;
use memori_service::problem::{Answer, Problem};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::Admission;
use super::spec::{Asked, Source, Spec};
use crate::metrics;

/// Imports that are kept, finished ones included.
const MAX_KEPT: usize = 1_000;
/// How long the log may confirm nothing.
const GIVE_UP_AFTER: Duration = Duration::from_secs(600);
/// Calls of the producer at once: a share of what a front door does, not all of it.
const CALLS: usize = 8;
const SPEC: &str = "import.json";
const STATE: &str = "state.json";
const UPLOAD: &str = "upload.jsonl";

/// How imports are kept.
#[derive(Clone, Debug)]
pub struct BackfillsConfig {
    /// Their folder.
    pub folder: PathBuf,
    /// Beginnings of the URLs that they may read.
    pub sources: Vec<String>,
    /// How many run at once.
    pub running: usize,
    /// Ends them in order.
    pub shutdown: CancellationToken,
}

impl BackfillsConfig {
    /// Beginnings of URLs, with commas between.
    #[must_use]
    pub fn sources(text: &str) -> Vec<String> {
        text.split(',').map(str::trim).filter(|source| !source.is_empty()).map(str::to_owned).collect()
    }
}

/// What an import is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// It waits for its turn, or runs.
    Running,
    Paused,
    Done,
    Failed,
    Cancelled,
}

/// What is written beside an import.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Standing {
    state: State,
    error: Option<String>,
}

struct Job {
    spec: Spec,
    folder: PathBuf,
    inner: Mutex<Inner>,
}

struct Inner {
    standing: Standing,
    progress: Progress,
    /// Ends the present run; none where none is under way.
    stop: Option<CancellationToken>,
    /// The folder goes once no run writes into it.
    forgotten: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Job {
    fn shown(&self) -> Value {
        let inner = lock(&self.inner);
        let Progress { counts, bytes, bytes_total, events_per_second, eta_seconds, waiting, rejected } = &inner.progress;
        let runs = inner.standing.state == State::Running;
        json!({
            "backfill_id": self.spec.backfill_id,
            "tenant": self.spec.tenant,
            "source": self.spec.shown_source(),
            "state": inner.standing.state,
            "error": inner.standing.error,
            "created_at": self.spec.created_at.to_rfc3339(),
            "records": counts.records,
            "events": counts.events,
            "messages": counts.messages,
            "rejected": counts.rejected,
            "bytes": bytes,
            "bytes_total": bytes_total,
            "events_per_second": if runs { Some(*events_per_second) } else { None },
            "eta_seconds": eta_seconds.filter(|_| runs),
            "waiting": waiting.as_ref().filter(|_| runs),
            "rejected_sample": rejected,
        })
    }

    /// Whatever is not done may go on later.
    fn may(&self, act: Act, state: State) -> Answer<()> {
        match act {
            Act::Pause | Act::Resume | Act::Cancel if state == State::Done => Err(Problem::conflict("the backfill is done")),
            _ => Ok(()),
        }
    }

    /// Writes how it stands, durably.
    fn write(&self, standing: &Standing) -> std::io::Result<()> {
        write(&self.folder.join(STATE), standing)
    }
}

fn write(path: &Path, value: &impl Serialize) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let fresh = path.with_extension("new");
    // A source's URL may be signed, and is kept to go on with it.
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(&serde_json::to_vec_pretty(value)?)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    std::fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// Every import of this process.
pub struct Backfills {
    config: BackfillsConfig,
    producer: Arc<dyn Producer>,
    jobs: Mutex<BTreeMap<String, Arc<Job>>>,
    slots: Arc<Semaphore>,
    under_way: AtomicUsize,
}

impl Backfills {
    /// Reads what is kept, and goes on with what was under way.
    ///
    /// # Errors
    /// The folder cannot be read or made.
    pub(crate) fn start(config: BackfillsConfig, producer: Arc<dyn Producer>) -> std::io::Result<Arc<Self>> {
        std::fs::create_dir_all(&config.folder)?;
        let mut jobs = BTreeMap::new();
        for entry in std::fs::read_dir(&config.folder)? {
            let folder = entry?.path();
            let Ok(text) = std::fs::read(folder.join(SPEC)) else { continue };
            let spec: Spec = match serde_json::from_slice(&text) {
                Ok(spec) => spec,
                Err(error) => {
                    tracing::error!(folder = %folder.display(), %error, "an import cannot be read and is left alone");
                    continue;
                }
            };
            let kept = std::fs::read(folder.join(STATE)).ok().and_then(|text| serde_json::from_slice::<Standing>(&text).ok());
            let standing = kept.unwrap_or(Standing { state: State::Running, error: None });
            let counts = memori_history::checkpoint::Checkpoint::read(&folder.join("checkpoint.json")).ok().flatten();
            let progress = Progress { counts: counts.map(|kept| kept.counts).unwrap_or_default(), ..Progress::default() };
            let inner = Mutex::new(Inner { standing, progress, stop: None, forgotten: false });
            jobs.insert(spec.backfill_id.clone(), Arc::new(Job { spec, folder, inner }));
        }
        let slots = Arc::new(Semaphore::new(config.running.max(1)));
        let backfills = Arc::new(Self { config, producer, jobs: Mutex::new(jobs), slots, under_way: AtomicUsize::new(0) });
        let going_on: Vec<Arc<Job>> = lock(&backfills.jobs).values().cloned().collect();
        for job in going_on {
            if lock(&job.inner).standing.state == State::Running {
                backfills.run(&job);
            }
        }
        Ok(backfills)
    }

    /// Those of a tenant, or all; the youngest first.
    pub(crate) fn list(&self, tenant: Option<&str>) -> Vec<Value> {
        let jobs = lock(&self.jobs);
        let mut found: Vec<&Arc<Job>> =
            jobs.values().filter(|job| tenant.is_none_or(|tenant| job.spec.tenant == tenant)).collect();
        found.sort_by_key(|job| std::cmp::Reverse((job.spec.created_at, job.spec.backfill_id.clone())));
        found.into_iter().map(|job| job.shown()).collect()
    }

    fn find(&self, tenant: Option<&str>, id: &str) -> Answer<Arc<Job>> {
        let jobs = lock(&self.jobs);
        let job = jobs.get(id).filter(|job| tenant.is_none_or(|tenant| job.spec.tenant == tenant));
        job.cloned().ok_or_else(|| Problem::not_found("there is no such backfill at this front door"))
    }

    pub(crate) fn get(&self, tenant: Option<&str>, id: &str) -> Answer<Value> {
        Ok(self.find(tenant, id)?.shown())
    }

    /// What is asked for as an import that can begin. Does nothing yet.
    pub(crate) fn plan(&self, tenant: &str, asked: Asked, uploaded: bool) -> Answer<Spec> {
        let source = match (asked.source, uploaded) {
            (Some(url), false) => {
                self.allow(&url)?;
                Source::Url(url)
            }
            (None, true) => Source::Upload,
            _ => return Err(Problem::invalid_field("source", "is required, unless events are uploaded as application/x-ndjson")),
        };
        if lock(&self.jobs).len() >= MAX_KEPT {
            return Err(Problem::conflict(format!("{MAX_KEPT} backfills are kept here; delete some")));
        }
        Ok(Spec {
            backfill_id: uuid::Uuid::now_v7().to_string(),
            tenant: tenant.to_owned(),
            source,
            options: asked.options,
            rate: asked.rate,
            created_at: Micros::now(),
        })
    }

    /// Begins an import. Blocks for the disk.
    pub(crate) fn begin(self: &Arc<Self>, spec: Spec, upload: Option<&[u8]>) -> Answer<Value> {
        let backfill_id = spec.backfill_id.clone();
        let folder = self.config.folder.join(&backfill_id);
        let kept = || -> std::io::Result<()> {
            std::fs::create_dir_all(&folder)?;
            if let Some(upload) = upload {
                std::fs::write(folder.join(UPLOAD), upload)?;
                std::fs::File::open(folder.join(UPLOAD))?.sync_all()?;
            }
            write(&folder.join(STATE), &Standing { state: State::Running, error: None })?;
            // Last: a folder without it is no import.
            write(&folder.join(SPEC), &spec)?;
            std::fs::File::open(&self.config.folder)?.sync_all()
        };
        kept().map_err(|error| {
            tracing::error!(%error, "an import cannot be kept");
            let _ = std::fs::remove_dir_all(&folder);
            Problem::unavailable("the backfill cannot be written down now", 5)
        })?;
        let inner = Inner {
            standing: Standing { state: State::Running, error: None },
            progress: Progress::default(),
            stop: None,
            forgotten: false,
        };
        let job = Arc::new(Job { spec, folder, inner: Mutex::new(inner) });
        lock(&self.jobs).insert(backfill_id, Arc::clone(&job));
        self.run(&job);
        Ok(job.shown())
    }

    /// A URL is read with this process's rights, so that only what the settings name is read.
    fn allow(&self, url: &str) -> Answer<()> {
        let leads_to = |text: &str| plain(text).filter(|_| text.contains("://") && !text.contains('*'));
        let allowed = |url: &String| {
            self.config.sources.iter().any(|source| url.starts_with(&leads_to(source).unwrap_or_else(|| source.clone())))
        };
        if leads_to(url).as_ref().is_some_and(allowed) {
            return Ok(());
        }
        Err(Problem::invalid_field(
            "source",
            "is not among what may be read here (ingest.backfill_sources); an operator can name it there, or upload the events",
        ))
    }

    /// Whose an import is that this may be done to.
    pub(crate) fn may(&self, tenant: Option<&str>, id: &str, act: Act) -> Answer<String> {
        let job = self.find(tenant, id)?;
        job.may(act, lock(&job.inner).standing.state)?;
        Ok(job.spec.tenant.clone())
    }

    /// Pauses, resumes, cancels or forgets. What it imported stays.
    pub(crate) fn act(self: &Arc<Self>, tenant: Option<&str>, id: &str, act: Act) -> Answer<Option<Value>> {
        let job = self.find(tenant, id)?;
        let next = match act {
            Act::Pause => State::Paused,
            Act::Resume => State::Running,
            Act::Cancel => State::Cancelled,
            Act::Delete => return self.delete(&job).map(|()| None),
        };
        {
            let mut inner = lock(&job.inner);
            job.may(act, inner.standing.state)?;
            let standing = Standing { state: next, error: None };
            job.write(&standing).map_err(|error| {
                tracing::error!(%error, "how an import stands cannot be written");
                Problem::unavailable("that cannot be written down now", 5)
            })?;
            inner.standing = standing;
            if act != Act::Resume
                && let Some(stop) = &inner.stop
            {
                stop.cancel();
            }
        }
        if act == Act::Resume {
            self.run(&job);
        }
        Ok(Some(job.shown()))
    }

    fn delete(&self, job: &Job) -> Answer<()> {
        let failed = |error| {
            tracing::error!(%error, "an import's folder cannot be removed");
            Problem::unavailable("the backfill cannot be removed now", 5)
        };
        // Without it the folder is no import any more, whatever becomes of the rest.
        std::fs::remove_file(job.folder.join(SPEC)).map_err(failed)?;
        {
            let mut inner = lock(&job.inner);
            inner.standing = Standing { state: State::Cancelled, error: None };
            inner.forgotten = true;
            match &inner.stop {
                Some(stop) => stop.cancel(),
                None => std::fs::remove_dir_all(&job.folder).map_err(failed)?,
            }
        }
        lock(&self.jobs).remove(&job.spec.backfill_id);
        Ok(())
    }

    /// Begins a run, unless one is under way; one that is being stopped begins the next itself.
    fn run(self: &Arc<Self>, job: &Arc<Job>) {
        let stop = self.config.shutdown.child_token();
        {
            let mut inner = lock(&job.inner);
            if inner.stop.is_some() {
                return;
            }
            inner.stop = Some(stop.clone());
        }
        metrics::level(metrics::BACKFILLS, self.under_way.fetch_add(1, Ordering::Relaxed) + 1);
        let (backfills, job) = (Arc::clone(self), Arc::clone(job));
        tokio::spawn(async move {
            let slot = tokio::select! {
                slot = Arc::clone(&backfills.slots).acquire_owned() => Some(slot),
                () = stop.cancelled() => None,
            };
            let ended = match slot {
                Some(_) => backfills.import(&job, stop.clone()).await,
                None => Ok(()),
            };
            drop(slot);
            backfills.ended(&job, &stop, ended);
        });
    }

    /// A run is over. Whoever stopped it has said how it stands; a process that ends goes on with it later.
    fn ended(self: &Arc<Self>, job: &Arc<Job>, stop: &CancellationToken, ended: Result<(), String>) {
        metrics::level(metrics::BACKFILLS, self.under_way.fetch_sub(1, Ordering::Relaxed).saturating_sub(1));
        let again = {
            let mut inner = lock(&job.inner);
            inner.stop = None;
            if inner.forgotten {
                if let Err(error) = std::fs::remove_dir_all(&job.folder) {
                    tracing::warn!(%error, "an import's folder is left behind");
                }
                false
            } else if stop.is_cancelled() {
                inner.standing.state == State::Running && !self.config.shutdown.is_cancelled()
            } else {
                let standing = match ended {
                    Ok(()) => Standing { state: State::Done, error: None },
                    Err(error) => {
                        tracing::warn!(backfill = job.spec.backfill_id, %error, "an import failed");
                        Standing { state: State::Failed, error: Some(error) }
                    }
                };
                if let Err(error) = job.write(&standing) {
                    tracing::error!(%error, "how an import stands cannot be written");
                }
                inner.standing = standing;
                false
            }
        };
        if again {
            self.run(job);
        }
    }

    async fn import(&self, job: &Arc<Job>, stop: CancellationToken) -> Result<(), String> {
        let source = match &job.spec.source {
            Source::Url(url) => url.clone(),
            Source::Upload => job.folder.join(UPLOAD).display().to_string(),
        };
        let expanding = tokio::task::spawn_blocking(move || expand(&[source]));
        let inputs = expanding.await.map_err(|error| error.to_string())?.map_err(|error: InputError| error.to_string())?;
        let import = Import {
            inputs,
            options: job.spec.options.clone(),
            admit: Arc::new(Admission::new(&job.spec.tenant)),
            producer: Some(Arc::clone(&self.producer)),
            calls: CALLS,
            tenant: Some(job.spec.tenant.clone()),
            checkpoint: Some(job.folder.join("checkpoint.json")),
            rejected: Some(job.folder.join("rejected.jsonl")),
            restart: false,
            rate: job.spec.rate,
            give_up_after: GIVE_UP_AFTER,
            stop,
        };
        let shared = Arc::clone(job);
        // What earlier runs did was counted then.
        let mut counted = lock(&job.inner).progress.counts;
        let summary = importer::run(import, move |progress| {
            let more = |now: u64, before: u64| usize::try_from(now.saturating_sub(before)).unwrap_or(usize::MAX);
            metrics::count(metrics::BACKFILL_EVENTS, more(progress.counts.events, counted.events));
            metrics::count(metrics::BACKFILL_REJECTED, more(progress.counts.rejected, counted.rejected));
            counted = progress.counts;
            lock(&shared.inner).progress = progress.clone();
        })
        .await;
        match summary {
            Ok(summary) if summary.done && summary.counts.events == 0 && summary.counts.rejected > 0 => {
                Err(format!("nothing could be imported: all {} records were rejected", summary.counts.rejected))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// What is done to an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Pause,
    Resume,
    Cancel,
    Delete,
}

impl Act {
    /// As the audit log names it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "backfill.pause",
            Self::Resume => "backfill.resume",
            Self::Cancel => "backfill.cancel",
            Self::Delete => "backfill.delete",
        }
    }
}
