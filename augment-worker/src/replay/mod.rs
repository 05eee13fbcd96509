//! Generations beside the first: each that runs has a driver of its own here, beside the one for what arrives.
//!
//! Promises: what is written for a generation nobody reads stands behind what somebody waits for; the first generation's work neither
//! waits for this nor ends with it; whoever does not answer which generations there are stops none that runs. A generation is extracted
//! until it is dropped: after history comes whatever arrives.

mod carry;
mod http;
mod scope;
mod turns;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use memori_embedding::Embedder;
use memori_event_log::driver::LiveBound;
use memori_event_log::{Log, LogError};
use memori_schemas::{ContentHash, FactsExtracted};
use memori_service::background::Background;
use memori_service::generations::{Followed, Generation, State};
use memori_service::settings::Settings;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use self::carry::{Carried, carry};
pub use self::http::HttpGenerations;
pub use self::scope::{Followers, Scope};
use crate::burst::{Burst, BurstLimits};
use crate::in_flight::InFlight;
use crate::worker::{self, WorkerConfig};
use crate::{KnownFacts, metrics};

/// How often it is asked which generations there are.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The longest pause where nobody answers, and after a replay that ended.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Events that a replay holds, at most; their bytes.
const BUDGET: (usize, usize) = (2_000, 16 << 20);

/// What came of one event in a generation.
#[derive(Clone, Debug, PartialEq)]
pub enum Made {
    /// Nothing yet.
    Pending,
    /// It was given up.
    Dead,
    /// This.
    Facts(Box<FactsExtracted>),
}

/// Why nothing is known of generations: in words, without content.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct GenerationsError(pub String);

/// Whoever keeps generations.
#[async_trait]
pub trait Generations: Send + Sync + 'static {
    /// Which there are.
    ///
    /// # Errors
    /// Nobody answers, or something else.
    async fn followed(&self) -> Result<Followed, GenerationsError>;

    /// What came of events of one entity in a generation, in their order.
    ///
    /// # Errors
    /// As [`Generations::followed`].
    async fn made(
        &self,
        tenant: &str,
        entity_id: &str,
        generation: i32,
        events: &[(String, ContentHash)],
    ) -> Result<Vec<Made>, GenerationsError>;
}

/// What stands in the way of replays, for health.
#[derive(Clone, Debug, Default)]
pub struct Complaint(Arc<Mutex<Option<String>>>);

impl Complaint {
    /// What it is, if anything.
    #[must_use]
    pub fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, complaint: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = complaint;
    }
}

/// What replays run on.
pub struct Replays {
    /// The log.
    pub log: Arc<dyn Log>,
    /// Whoever keeps generations.
    pub generations: Arc<dyn Generations>,
    /// The worker's.
    pub settings: Settings,
    /// The worker's.
    pub embedder: Option<Arc<dyn Embedder>>,
    /// Whoever knows what is known.
    pub known: Option<Arc<dyn KnownFacts>>,
    /// What the first generation's worker hears of them.
    pub followers: Followers,
    /// Threads that stand behind all others; absent: the caller's.
    pub background: Option<Background>,
    /// Told what stands in the way.
    pub complaint: Complaint,
}

/// A replay that runs.
struct Running {
    generation: Generation,
    stop: CancellationToken,
    task: JoinHandle<Result<(), LogError>>,
    bound: LiveBound,
}

impl Replays {
    /// Runs what is to run, until `stop`; then all of it has drained.
    pub async fn run(self, stop: CancellationToken) {
        let mut running: BTreeMap<i32, Running> = BTreeMap::new();
        let mut not_before: BTreeMap<i32, Instant> = BTreeMap::new();
        let mut pause = LOOK_AGAIN;
        while !stop.is_cancelled() {
            match stop.run_until_cancelled(self.generations.followed()).await {
                None => break,
                Some(Ok(followed)) => {
                    pause = LOOK_AGAIN;
                    self.followers.hear(followed);
                    self.settle(&mut running, &mut not_before).await;
                }
                Some(Err(error)) => {
                    if pause == LOOK_AGAIN {
                        tracing::warn!(%error, "which generations there are is not known; what runs goes on");
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
            metrics::replays_running(running.len());
            let _ = stop.run_until_cancelled(tokio::time::sleep(pause)).await;
        }
        running.values().for_each(|one| one.stop.cancel());
        for (_, one) in running {
            ended(one).await;
        }
        if let Some(background) = self.background {
            drop(background);
        }
    }

    /// Begins and ends replays so that just those run that are to.
    async fn settle(&self, running: &mut BTreeMap<i32, Running>, not_before: &mut BTreeMap<i32, Instant>) {
        let followed = self.followers.get();
        let most = self.settings.worker.max_replays;
        // Those that somebody reads first: they are the present of theirs.
        let mut wanted: Vec<&Generation> = followed.generations.iter().filter(|one| one.state == State::Running).collect();
        wanted.sort_by_key(|one| (!followed.is_active(one.generation), one.generation));
        let waiting = wanted.len().saturating_sub(most);
        wanted.truncate(most);
        let over: Vec<i32> = running
            .iter()
            .filter(|(_, one)| one.task.is_finished() || !wanted.contains(&&one.generation))
            .map(|(number, _)| *number)
            .collect();
        for number in over {
            if let Some(one) = running.remove(&number) {
                one.stop.cancel();
                if !ended(one).await {
                    not_before.insert(number, Instant::now() + LONGEST_PAUSE);
                }
            }
        }
        let mut complaints = Vec::new();
        if waiting > 0 {
            complaints.push(format!("{waiting} replays wait for others to end: worker.max_replays is {most}"));
        }
        for generation in wanted {
            let number = generation.generation;
            if not_before.get(&number).is_some_and(|then| Instant::now() < *then) {
                complaints.push(format!("the replay of generation {number} ended, and begins again in a moment"));
                continue;
            }
            if let Entry::Vacant(place) = running.entry(number) {
                match self.begin(generation) {
                    Ok(begun) => {
                        place.insert(begun);
                    }
                    Err(why) => complaints.push(format!("the replay of generation {number} cannot run here: {why}")),
                }
            }
            if let Some(one) = running.get(&number) {
                let most = self.settings.extractor.max_concurrency;
                let shadow = generation.limits.max_concurrency.min(most);
                one.bound.set(if followed.is_active(number) { most } else { shadow });
            }
        }
        self.complaint.set((!complaints.is_empty()).then(|| complaints.join("; ")));
    }

    fn begin(&self, generation: &Generation) -> Result<Running, String> {
        let settings = generation.spec.settings(&self.settings, &generation.tenants, &generation.limits)?;
        let known = self.known.as_ref().map(|known| known.of_generation(generation.generation));
        let extractor = crate::extractor_with(&settings, known).map_err(|error| error.to_string())?;
        let bound = LiveBound::new(generation.limits.max_concurrency.min(settings.extractor.max_concurrency));
        let config = WorkerConfig {
            generation: generation.generation,
            max_concurrency: bound.clone(),
            budget_events: settings.worker.budget_events.min(BUDGET.0),
            budget_bytes: settings.worker.budget_bytes.min(BUDGET.1),
            burst: Burst::new(BurstLimits::from_settings(&settings.worker)),
            scope: Scope::of(
                generation.clone(),
                self.followers.clone(),
                Arc::clone(&self.generations),
                settings.worker.replay_events_per_second_beside_live,
            ),
            health: None,
            ..WorkerConfig::from_settings(&settings)
        };
        tracing::info!(generation = generation.generation, base = generation.base, "a replay begins");
        let stop = CancellationToken::new();
        let run = worker::run(Arc::clone(&self.log), config, extractor, self.embedder.clone(), InFlight::unasked(), stop.clone());
        let task = match &self.background {
            Some(background) => background.spawn(run),
            None => tokio::spawn(run),
        };
        Ok(Running { generation: generation.clone(), stop, task, bound })
    }
}

/// Waits for its end; whether that was a good one.
async fn ended(one: Running) -> bool {
    let number = one.generation.generation;
    match one.task.await {
        Ok(Ok(())) => {
            tracing::info!(generation = number, "a replay stands still");
            true
        }
        Ok(Err(error)) => {
            tracing::warn!(generation = number, %error, "a replay ended; it begins again");
            false
        }
        Err(panic) => {
            tracing::error!(generation = number, %panic, "a replay ended; it begins again");
            false
        }
    }
}
