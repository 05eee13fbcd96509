//! The worker: conversation events of both lanes in, one fact event per window or one dead letter per hopeless event out.
//!
//! At-least-once: an event counts as done once the record that covers it is durable. Order per entity and windows are the driver's. A
//! log that is away is waited for, for as long as it takes; an extractor that fails is tried again within bounds. Then a window of
//! several events comes apart, and an event that fails alone is dead-lettered, unless the extractor works for nobody: that is waited
//! for, too.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use memori_embedding::Embedder;
use memori_event_log::driver::{
    Fairness, Held, KeyedConfig, LaneFloors, Levels, LiveBound, Observer, Reading, RecordHandler, Share, Verdict, WindowBounds,
    Work, run_keyed,
};
use memori_event_log::{AppendError, Fence, Log, LogError, LogIdentity, LogRecord, NewRecord, Producer, Topic, TopicPartition};
use memori_schemas::{ConversationEvent, DeadLetterClass, Micros};
use memori_service::health::Health;
use memori_service::settings::TenantShare;
use memori_service::{Settings, trace_context};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::burst::{Burst, BurstLimits};
use crate::embed;
use crate::extractor::{ExtractError, Extractor, RetryReason, check};
use crate::in_flight::InFlight;
use crate::metrics::{self, Metrics};
use crate::outcome::{self, GivenUp, Source};
use crate::policy::{self, Forgiven, Incoming, RetryPolicy};
use crate::publish::{Publishing, Yield};
use crate::replay::{Carried, Scope, carry};
use crate::window::{self, Turn};

/// How long a record whose lease has passed on waits for the driver to drop it.
const FENCED_WAIT: Duration = Duration::from_secs(1);

/// The longest wait of an event that failed while the extractor asks nobody, or that found no room.
const SHUT_WAIT: Duration = Duration::from_millis(100);

/// How the worker behaves.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// The version of the augmentation pipeline that is written; each has a consumer group of its own.
    pub generation: i32,
    /// Calls to the extractor at a time.
    pub max_concurrency: LiveBound,
    /// Events held at most.
    pub budget_events: usize,
    /// Their bytes at most.
    pub budget_bytes: usize,
    /// How often the frontier is committed.
    pub commit_interval: Duration,
    /// How long work in flight may take to end when partitions go or the process stops.
    pub drain_deadline: Duration,
    /// How events of a topic are gathered; of one that is absent, each is extracted alone.
    pub windows: BTreeMap<Topic, WindowBounds>,
    /// How a window that failed is tried again.
    pub retry: RetryPolicy,
    /// When dead letters are too many.
    pub burst: Burst,
    /// How tenants take turns.
    pub fairness: Fairness,
    /// What each lane is left.
    pub lanes: LaneFloors,
    /// Records of a partition that are read ahead of one that is not done, at most.
    pub read_ahead_records: usize,
    /// How long an event may be worked on before the worker ends with an error.
    pub stall_after: Duration,
    /// Whose events it takes, and how it comes by what they state.
    pub scope: Scope,
    /// Told how full the worker is.
    pub levels: Levels,
    /// Told where work stands still.
    pub health: Option<Health>,
}

impl WorkerConfig {
    /// As the operator configured it.
    #[must_use]
    pub fn from_settings(settings: &Settings) -> Self {
        Self {
            generation: settings.worker.generation,
            max_concurrency: settings.extractor.max_concurrency.into(),
            budget_events: settings.worker.budget_events,
            budget_bytes: settings.worker.budget_bytes,
            commit_interval: Duration::from_millis(settings.worker.commit_interval_ms),
            // The rest of the time belongs to leaving the group and to telemetry.
            drain_deadline: Duration::from_millis(settings.shutdown.deadline_ms.saturating_mul(4) / 5),
            windows: windows(settings),
            retry: RetryPolicy {
                max_attempts: settings.worker.max_attempts,
                max_elapsed: Duration::from_millis(settings.worker.max_retry_ms),
                first: Duration::from_millis(200),
                // Longer waits are for everybody, and the extractor's: a breaker, a limit, what a provider wishes.
                longest: Duration::from_secs(5),
            },
            burst: Burst::new(BurstLimits::from_settings(&settings.worker)),
            fairness: fairness(settings),
            lanes: LaneFloors {
                live_percent: settings.worker.live_floor_percent,
                backfill_percent: settings.worker.backfill_floor_percent,
            },
            read_ahead_records: settings.worker.read_ahead_records,
            stall_after: Duration::from_millis(settings.worker.stall_after_ms),
            scope: Scope::everything(settings.worker.generation, crate::replay::Followers::default()),
            levels: Levels::default(),
            health: None,
        }
    }

    /// The consumer group.
    #[must_use]
    pub fn group(&self) -> String {
        format!("memori-augment-worker-{}", self.generation)
    }
}

/// The windows that the settings ask for; none where the extractor takes events one by one.
fn windows(settings: &Settings) -> BTreeMap<Topic, WindowBounds> {
    let worker = &settings.worker;
    if !crate::gathers_windows(settings) {
        return BTreeMap::new();
    }
    let bounds = |idle_ms| WindowBounds {
        events: worker.window_events,
        messages: worker.window_messages,
        cost: worker.window_tokens,
        idle: Duration::from_millis(idle_ms),
        age: Duration::from_millis(worker.window_age_ms),
    };
    BTreeMap::from([
        (Topic::ConversationsLive, bounds(worker.window_idle_ms)),
        (Topic::ConversationsBackfill, bounds(worker.backfill_window_idle_ms)),
    ])
}

fn fairness(settings: &Settings) -> Fairness {
    let share = |share: &TenantShare| Share { weight: share.weight, max_in_flight: share.max_in_flight };
    Fairness {
        quantum: settings.worker.quantum_tokens,
        tenants: settings.worker.tenants.iter().map(|(tenant, of)| (tenant.clone(), share(of))).collect(),
        default: Share::default(),
    }
}

/// Runs until `shutdown`, or until the log says something that no retry mends.
///
/// # Errors
/// The log's, where it has no topics, is not reachable at the start, or lost records that were never read.
pub async fn run(
    log: Arc<dyn Log>,
    config: WorkerConfig,
    extractor: Arc<dyn Extractor>,
    embedder: Option<Arc<dyn Embedder>>,
    in_flight: InFlight,
    shutdown: CancellationToken,
) -> Result<(), LogError> {
    metrics::describe();
    let paced = extractor.pace(config.max_concurrency.clone());
    // Whoever bounds what is in flight, the least of them counts.
    let bounds = [paced, config.burst.bound()];
    let least = LiveBound::new(bounds.iter().map(LiveBound::get).min().unwrap_or_default());
    let handler = Handler {
        producer: log.producer(),
        identity: log.identity().await?,
        extractor,
        embedder,
        generation: config.generation,
        scope: config.scope.clone(),
        retry: config.retry,
        forgiven: Mutex::new(Forgiven::new(config.budget_events)),
        in_flight,
        burst: config.burst.clone(),
        publishing: Publishing::default(),
        unconfirmed: AtomicUsize::new(0),
        stop: shutdown.clone(),
    };
    let topics = vec![Topic::ConversationsLive, Topic::ConversationsBackfill];
    let keyed = KeyedConfig {
        windows: config.windows.clone(),
        fairness: config.fairness.clone(),
        lanes: config.lanes,
        max_concurrency: least.clone(),
        budget_events: config.budget_events,
        budget_bytes: config.budget_bytes,
        read_ahead_records: config.read_ahead_records,
        commit_interval: config.commit_interval,
        drain_deadline: config.drain_deadline,
        stall_after: config.stall_after,
        ..KeyedConfig::new(config.group(), topics)
    };
    // What is read again is not behind: the first generation alone tells how far the present is.
    let observer: Arc<dyn Observer> = if config.scope.is_replay() {
        Arc::new(metrics::OfReplay::default())
    } else {
        metrics::begins();
        Arc::new(Metrics::telling(config.levels, config.health))
    };
    let working = run_keyed(log, keyed, Arc::new(handler), observer, shutdown);
    tokio::select! {
        ended = working => ended,
        () = least.follow_least(&bounds) => unreachable!("there are bounds to follow"),
        () = config.burst.tend() => unreachable!("it is tended for ever"),
    }
}

pub(crate) struct Handler {
    producer: Arc<dyn Producer>,
    identity: LogIdentity,
    extractor: Arc<dyn Extractor>,
    embedder: Option<Arc<dyn Embedder>>,
    generation: i32,
    scope: Scope,
    retry: RetryPolicy,
    forgiven: Mutex<Forgiven>,
    in_flight: InFlight,
    pub(crate) burst: Burst,
    pub(crate) publishing: Publishing,
    /// Outcomes that the log has failed to confirm, and has not confirmed yet.
    unconfirmed: AtomicUsize,
    stop: CancellationToken,
}

/// One window to work on.
pub(crate) struct Job<'a> {
    /// The first of its records.
    record: &'a LogRecord,
    pub(crate) attempt: u32,
    first_tried_at_ms: i64,
    pub(crate) fence: Option<&'a Fence>,
}

impl Job<'_> {
    /// What names the window while it is tried.
    fn place(&self) -> (TopicPartition, i64) {
        (self.record.source, self.record.offset)
    }
}

impl RecordHandler for Handler {
    type Item = Incoming;

    fn read(&self, record: &LogRecord) -> Reading<Incoming> {
        let tenant = policy::tenant(&record.key);
        if !self.scope.takes(&tenant) {
            return policy::elsewhere(tenant);
        }
        policy::reading(record, tenant, |event| self.scope.carries(event))
    }

    fn tenant(&self, key: &[u8]) -> Option<Arc<str>> {
        Some(policy::tenant(key))
    }

    fn most_in_flight(&self, bound: usize) -> usize {
        self.publishing.eased(bound)
    }

    async fn has_room(&self) {
        self.publishing.entered().await;
    }

    fn is_waiting_for_log(&self) -> bool {
        self.unconfirmed.load(Ordering::Relaxed) > 0
    }

    async fn handle(&self, work: Work<Incoming>) -> Verdict {
        let Some(first) = work.window.first() else { return Verdict::Done };
        let record = &first.record;
        let job = Job { record, attempt: work.attempt, first_tried_at_ms: work.first_tried_at_ms, fence: work.fence.as_ref() };
        let span = tracing::info_span!("augment", topic = %record.source.topic, partition = record.source.partition, offset = record.offset, records = work.window.len());
        let parents = || work.window.iter().filter_map(|held| held.record.header(trace_context::TRACEPARENT));
        if let Some(parent) = parents().next() {
            trace_context::set_parent(&span, parent);
        }
        for other in parents().skip(1) {
            trace_context::add_link(&span, other);
        }
        let onward =
            trace_context::traceparent_of(&span).or_else(|| std::str::from_utf8(parents().next()?).ok().map(ToOwned::to_owned));
        let verdict = self.work_on(&job, &work.window, onward.as_deref()).instrument(span).await;
        if !matches!(verdict, Verdict::RetryAfter(_)) {
            self.forgiven(|forgiven| forgiven.forget(job.place()));
        }
        verdict
    }
}

/// What comes after a call that failed.
#[derive(Clone, Copy, Debug)]
enum Next {
    Attempt(Duration),
    /// After it the bound is reached.
    LastAttempt(Duration),
    /// The bound is reached.
    None,
}

impl Handler {
    async fn work_on(&self, job: &Job<'_>, window: &[Arc<Held<Incoming>>], traceparent: Option<&str>) -> Verdict {
        let (tenant, lane) = (policy::tenant_of(&job.record.key), job.record.source.topic.lane());
        if let Some(turns) = self.scope.came(tenant, lane) {
            // Whoever stops waits for no turn.
            let _ = self.stop.run_until_cancelled(turns.take(window.len())).await;
        }
        let facts_lane = lane.map(|lane| self.scope.lane(tenant, lane));
        let source = Source { record: job.record, generation: self.generation, facts_lane, traceparent };
        for held in window {
            let Incoming::Hopeless { class, reason, event } = &held.item else { continue };
            let attempts = job.attempt.saturating_add(1);
            let given_up = GivenUp { class: *class, reason: reason.clone(), attempts, event: event.as_deref() };
            let verdict = Box::pin(self.give_up(Source { record: &held.record, ..source }, job, given_up)).await;
            if verdict != Verdict::Done {
                return verdict;
            }
        }
        let turns = window::turns(window);
        let Some(first) = turns.first() else { return Verdict::Done };
        if !window::belong_together(&turns) {
            return Verdict::Apart;
        }
        self.augment(Source { record: first.record, ..source }, job, &turns).await
    }

    async fn augment(&self, source: Source<'_>, job: &Job<'_>, turns: &[Turn<'_>]) -> Verdict {
        let events: Vec<Arc<ConversationEvent>> = turns.iter().map(|turn| Arc::clone(turn.event)).collect();
        let _in_flight: Vec<_> = events.iter().filter_map(|event| self.in_flight.enter(&event.tenant, &event.event_id)).collect();
        let lane = source.lane();
        let begin = Instant::now();
        let carried = events.iter().filter(|event| self.scope.carries(event)).count();
        if carried > 0 {
            if carried < events.len() {
                return Verdict::Apart;
            }
            if let Some(verdict) = Box::pin(self.carry(source, job, turns, &events, begin)).await {
                return verdict;
            }
        }
        let extracted = self.extractor.extract(lane, &events).await;
        metrics::extraction_took(lane, begin.elapsed());
        let extracted = extracted.and_then(|extraction| match check(&extraction.facts, &events) {
            Ok(()) => Ok(extraction),
            Err(message) => Err(ExtractError::Permanent { class: DeadLetterClass::InvalidOutput, message }),
        });
        match extracted {
            Ok(mut extraction) => {
                let vectors = embed::embed(self.embedder.as_deref(), &events, &mut extraction.facts).await;
                self.publish(source, job, turns, Yield { extraction, vectors }).await
            }
            // In a box of its own, as all that is rare here: what every window carries stays small.
            Err(error) => Box::pin(self.failed(source, job, turns, begin.into_std(), error)).await,
        }
    }

    /// Says again what the base made of these; `None` where they are to be extracted.
    async fn carry(
        &self,
        source: Source<'_>,
        job: &Job<'_>,
        turns: &[Turn<'_>],
        events: &[Arc<ConversationEvent>],
        begin: Instant,
    ) -> Option<Verdict> {
        let model = self.embedder.as_deref().map(Embedder::model);
        match carry(self.scope.base()?, events, model).await {
            Ok(Carried::Over(mut extraction, vectors)) => {
                let vectors = match vectors {
                    Some(vectors) => vectors,
                    None => embed::embed(self.embedder.as_deref(), events, &mut extraction.facts).await,
                };
                metrics::carried_over(events.len());
                Some(self.publish(source, job, turns, Yield { extraction, vectors }).await)
            }
            Ok(Carried::Anew) => None,
            Ok(Carried::Apart) if turns.len() > 1 => Some(Verdict::Apart),
            Ok(Carried::Apart) => None,
            Err(error) => Some(self.failed(source, job, turns, begin.into_std(), error).await),
        }
    }

    async fn failed(
        &self,
        source: Source<'_>,
        job: &Job<'_>,
        turns: &[Turn<'_>],
        begin: std::time::Instant,
        error: ExtractError,
    ) -> Verdict {
        let attempts = job.attempt.saturating_add(1);
        let (class, reason) = match error {
            ExtractError::Permanent { class, message } => (class, message),
            ExtractError::Transient { reason, message, retry_after } => {
                let chance = rand::random();
                if reason == RetryReason::NotAsked {
                    let now_ms = now_ms();
                    self.forgiven(|forgiven| forgiven.not_tried(job.place(), attempts, now_ms));
                    metrics::retried(reason.as_str());
                    return Verdict::RetryAfter(SHUT_WAIT.mul_f64(chance));
                }
                let again = |wait: Duration| {
                    metrics::retried(reason.as_str());
                    tracing::info!(attempts, wait_ms = wait.as_millis(), error = %message, "the extractor failed; trying again");
                    Verdict::RetryAfter(wait)
                };
                let next = self.next(job, attempts, reason, retry_after, chance);
                if let Next::Attempt(wait) = next {
                    return again(wait);
                }
                // Is it this event, or everybody? No event is given up because the extractor is away.
                if let Err(why) = self.extractor.works(begin).await {
                    let now_ms = now_ms();
                    self.forgiven(|forgiven| forgiven.forgive(job.place(), attempts, now_ms));
                    let wait = self.pause(attempts, retry_after, chance);
                    metrics::retried("extractor_down");
                    tracing::warn!(attempts, wait_ms = wait.as_millis(), error = %why, "the extractor works for nobody; waiting");
                    return Verdict::RetryAfter(wait);
                }
                let worked = self.forgiven(|forgiven| forgiven.works(job.place()));
                match next {
                    Next::Attempt(wait) | Next::LastAttempt(wait) => return again(wait),
                    Next::None if !worked => return again(self.pause(1, retry_after, chance)),
                    Next::None => (DeadLetterClass::Expired, format!("given up after {attempts} attempts: {message}")),
                }
            }
        };
        let [turn] = turns else {
            // Which of them is the reason is seen when each is tried alone.
            metrics::window_apart(class);
            tracing::info!(%class, reason, events = turns.len(), "a window failed for good; each of its events is tried alone");
            return Verdict::Apart;
        };
        self.give_up(source, job, GivenUp { class, reason, attempts, event: Some(turn.event) }).await
    }

    /// What comes after this failure, by the bounds of attempts and of time.
    fn next(&self, job: &Job<'_>, attempts: u32, reason: RetryReason, retry_after: Option<Duration>, chance: f64) -> Next {
        if !reason.is_of_the_event() {
            return Next::Attempt(self.pause(attempts, retry_after, chance));
        }
        let event = job.place();
        let (mut charged, since_ms) = self.forgiven(|forgiven| forgiven.charged(event, attempts, job.first_tried_at_ms));
        let last = self.retry.max_attempts.saturating_sub(1);
        if reason == RetryReason::RateLimited {
            // Whom a limit hits is chance, so only time counts.
            charged = charged.min(last);
        }
        let elapsed = Duration::from_millis(u64::try_from(now_ms().saturating_sub(since_ms)).unwrap_or(0));
        let elapsed = self.extractor.open_since().map_or(elapsed, |since| elapsed.min(since.elapsed()));
        if self.retry.wait(charged, elapsed, retry_after, chance).is_none() {
            return Next::None;
        }
        let wait = self.pause(attempts, retry_after, chance);
        let wait = wait.min(self.retry.max_elapsed.saturating_sub(elapsed)).max(Duration::from_millis(1));
        if charged == last && reason != RetryReason::RateLimited { Next::LastAttempt(wait) } else { Next::Attempt(wait) }
    }

    /// While nobody is asked, the bound is 0: whoever waits longer on top of that would only be late once somebody is.
    fn pause(&self, attempts: u32, retry_after: Option<Duration>, chance: f64) -> Duration {
        if self.extractor.is_shut() { SHUT_WAIT.mul_f64(chance) } else { self.retry.pause(attempts, retry_after, chance) }
    }

    fn forgiven<T>(&self, f: impl FnOnce(&mut Forgiven) -> T) -> T {
        f(&mut self.forgiven.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) async fn give_up(&self, source: Source<'_>, job: &Job<'_>, given_up: GivenUp<'_>) -> Verdict {
        let (class, reason) = (given_up.class, given_up.reason.clone());
        let record = match outcome::dead_letter(source, &self.identity, given_up, Micros::now()) {
            Ok(record) => record,
            Err(e) => return Verdict::Halt(format!("a dead letter cannot be written: {e}")),
        };
        if let Err(wait) = self.burst.bury(class) {
            metrics::retried("dead_letter_burst");
            // The pause is no time in which it was tried.
            let until_ms = now_ms().saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX));
            self.forgiven(|forgiven| forgiven.forgive(job.place(), job.attempt.saturating_add(1), until_ms));
            return Verdict::RetryAfter(wait);
        }
        match self.append(record, job.fence).await {
            Appended::Durable => {
                metrics::dead_lettered(class);
                tracing::warn!(%class, reason, "dead-lettered");
                Verdict::Done
            }
            Appended::TooLarge(message) => Verdict::Halt(format!("a dead letter does not fit the log: {message}")),
            Appended::Not(verdict) => verdict,
        }
    }

    /// Appends until the log confirms: an outcome that was paid for is not thrown away because the log is away.
    pub(crate) async fn append(&self, record: NewRecord, fence: Option<&Fence>) -> Appended {
        let mut backoff = policy::append_backoff();
        let mut waiting = None;
        loop {
            match self.producer.append_one(&record, fence).await {
                Ok(_) => return Appended::Durable,
                Err(AppendError::TooLarge(message) | AppendError::Unacceptable(message)) => {
                    return Appended::TooLarge(message);
                }
                Err(AppendError::Refused(message)) => {
                    return Appended::Not(Verdict::Halt(format!("the log refuses what the worker writes: {message}")));
                }
                // Whoever has the partition now does this again; the driver drops it here.
                Err(AppendError::Fenced(_)) => {
                    metrics::retried("fenced");
                    return Appended::Not(Verdict::RetryAfter(FENCED_WAIT));
                }
                Err(e @ AppendError::Unconfirmed(_)) => tracing::warn!(error = %e, "appending again"),
            }
            metrics::retried("append_unconfirmed");
            waiting.get_or_insert_with(|| Waiting::begin(&self.unconfirmed));
            let wait = backoff.next(rand::random());
            tokio::select! {
                // Not finished: it is read again after the restart.
                () = self.stop.cancelled() => return Appended::Not(Verdict::RetryAfter(wait)),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}

fn now_ms() -> i64 {
    Micros::now().0 / 1_000
}

/// Counts for as long as it is there.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(crate) enum Appended {
    Durable,
    TooLarge(String),
    Not(Verdict),
}

#[cfg(test)]
mod tests;
