//! The importer: records in, events onto the backfill lane, a checkpoint beside.
//!
//! Promises: what a checkpoint says is done is on the log; what is not is read again when the import goes on, and has the ids that it
//! had, so nothing is lost and nothing is there twice. Bounded: records and events in flight, what is set aside, and how long a log
//! that confirms nothing is waited for. One task owns frontier, checkpoint and what is in flight; converting is done beside it, in order.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use memori_event_log::{AppendError, NewRecord, Position, Producer};
use memori_schemas::{LogRecordBody, framing};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::checkpoint::{Checkpoint, CheckpointError, RejectedFile};
use crate::feed::FeedError;
use crate::frontier::{Counts, Frontier};
use crate::input::{Identity, Input};
use crate::options::Options;
use crate::prepare::{Admit, Prepared, Ready, Sent, prepared};
use crate::rate::Rate;
use crate::record::Bad;
use crate::survey::Survey;

/// Events that are on their way at once.
const MAX_IN_FLIGHT: usize = 20_000;
/// Bytes of them.
const MAX_IN_FLIGHT_BYTES: usize = 64 << 20;
/// How often a checkpoint is written.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// The first pause after the log confirmed nothing; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long what is in flight may take when the import is to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// What is to be imported, and how.
pub struct Import {
    /// What is read, in order.
    pub inputs: Vec<Input>,
    /// How it is read.
    pub options: Options,
    /// Who judges events.
    pub admit: Arc<dyn Admit>,
    /// Where they go; `None`: nowhere, everything is only counted.
    pub producer: Option<Arc<dyn Producer>>,
    /// Calls of the producer at once. A log that keeps the order in which it is called takes many; a front door takes one.
    pub calls: usize,
    /// Whose they are, where the importer names it.
    pub tenant: Option<String>,
    /// Where it is kept how far it is; `None`: nowhere.
    pub checkpoint: Option<PathBuf>,
    /// Where bad records go; `None`: they are only counted.
    pub rejected: Option<PathBuf>,
    /// Whether an earlier checkpoint is thrown away.
    pub restart: bool,
    /// Events a second, at most.
    pub rate: Option<u32>,
    /// How long the log may confirm nothing before the import ends.
    pub give_up_after: Duration,
    /// Ends it in order.
    pub stop: CancellationToken,
}

/// How an import stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// What is done, earlier runs included.
    pub counts: Counts,
    /// Bytes that were read, earlier runs included as far as that is known.
    pub bytes: u64,
    /// Of so many, where every input's length is known.
    pub bytes_total: Option<u64>,
    /// Events a second, over the last seconds.
    pub events_per_second: f64,
    /// Seconds that are left, where that can be said.
    pub eta_seconds: Option<f64>,
    /// Why the log confirms nothing, while it does not.
    pub waiting: Option<String>,
    /// The first records that were set aside in this run.
    pub rejected: Vec<String>,
}

/// What an import came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// All counts, earlier runs included.
    pub counts: Counts,
    /// Events that this run put on the log.
    pub events_now: u64,
    /// Everything is read; else it was stopped before.
    pub done: bool,
    /// It had been done before this run.
    pub was_done: bool,
    /// How long this run took.
    pub took: Duration,
    /// What a look at everything found, where nothing was to be sent.
    pub survey: Option<Survey>,
    /// The first records that were set aside in this run, in words.
    pub rejected: Vec<String>,
}

/// Why an import ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The source.
    #[error(transparent)]
    Source(#[from] FeedError),
    /// The file of what was set aside.
    #[error("{path} cannot be written: {source}")]
    Rejected {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The log.
    #[error("the log takes nothing: {0}; the checkpoint says how far it is, run the same command again to go on")]
    Log(String),
    /// Something of ours ended.
    #[error("the import ended by itself: {0}")]
    Broken(String),
}

/// Sentences about bad records that are kept to be shown.
const SHOWN_REJECTED: usize = 20;

/// What became of one call of the producer.
struct Appended {
    batch: Outbatch,
    results: Vec<Result<Position, AppendError>>,
}

/// What goes in one call: the records beside what is remembered of them, since a producer is lent the records alone.
#[derive(Default)]
struct Outbatch {
    records: Vec<NewRecord>,
    notes: Vec<(u64, Sent)>,
    bytes: usize,
}

impl Outbatch {
    fn of(outgoing: impl Iterator<Item = Outgoing>) -> Self {
        let mut batch = Self::default();
        outgoing.for_each(|outgoing| batch.push(outgoing));
        batch
    }

    fn push(&mut self, Outgoing { number, record, sent }: Outgoing) {
        self.bytes += record.payload.len() + record.key.len();
        self.records.push(record);
        self.notes.push((number, sent));
    }
}

/// An event on its way: which record it is of, and what is remembered of it.
struct Outgoing {
    number: u64,
    record: NewRecord,
    sent: Sent,
}

/// Runs an import to its end, or until it is told to stop. `told` hears of progress now and then.
///
/// # Errors
/// What ended it before; the checkpoint says how far it was.
pub async fn run(import: Import, mut told: impl FnMut(&Progress) + Send) -> Result<Summary, ImportError> {
    let began = Instant::now();
    let identities: Vec<Identity> = import.inputs.iter().map(|input| input.identity.clone()).collect();
    let mut checkpoint = start(&import, &identities)?;
    if checkpoint.done && checkpoint.inputs.len() == identities.len() {
        return Ok(Summary { counts: checkpoint.counts, done: true, was_done: true, ..Summary::default() });
    }
    checkpoint.inputs.clone_from(&identities);
    checkpoint.done = false;
    let rejected = match &import.rejected {
        None => None,
        Some(path) => {
            let failed = |source| ImportError::Rejected { path: path.clone(), source };
            Some(RejectedFile::open(path.clone(), checkpoint.rejected_bytes).map_err(failed)?)
        }
    };
    let totals: Option<u64> = identities.iter().map(|input| input.bytes).sum();
    let mut running = Running {
        frontier: Frontier::resume(checkpoint.place, checkpoint.counts),
        before: checkpoint.counts,
        checkpoint,
        identities,
        path: import.checkpoint.clone(),
        rejected,
        shown: Vec::new(),
        bytes: 0,
        bytes_total: totals,
        rate: Rate::new(began),
        waiting: None,
        ended: false,
    };
    let ended = running.drive(&import, &mut told).await;
    // Whatever ended it: what is done is written down.
    running.save().await?;
    let (survey, done) = ended?;
    told(&running.progress(Instant::now()));
    Ok(Summary {
        counts: running.frontier.counts(),
        events_now: running.frontier.counts().events - running.before.events,
        done,
        was_done: false,
        took: began.elapsed(),
        survey: import.producer.is_none().then_some(survey),
        rejected: running.shown,
    })
}

/// The checkpoint to go on from.
fn start(import: &Import, identities: &[Identity]) -> Result<Checkpoint, ImportError> {
    let tenant = import.tenant.as_deref();
    let fresh = || Checkpoint::new(identities.to_vec(), import.options.clone(), import.tenant.clone());
    let Some(path) = import.checkpoint.as_ref().filter(|_| !import.restart) else { return Ok(fresh()) };
    match Checkpoint::read(path)? {
        None => Ok(fresh()),
        Some(found) => match found.fits(identities, &import.options, tenant) {
            Ok(()) => Ok(found),
            // Nothing was imported then, so that nothing can be there twice.
            Err(_) if found.counts.events == 0 => Ok(fresh()),
            Err(what) => Err(CheckpointError::Other { path: path.clone(), what }.into()),
        },
    }
}

/// The state that one task owns.
struct Running {
    frontier: Frontier,
    before: Counts,
    checkpoint: Checkpoint,
    identities: Vec<Identity>,
    path: Option<PathBuf>,
    rejected: Option<RejectedFile>,
    shown: Vec<String>,
    bytes: u64,
    bytes_total: Option<u64>,
    rate: Rate,
    waiting: Option<String>,
    ended: bool,
}

impl Running {
    async fn drive(&mut self, import: &Import, told: &mut (impl FnMut(&Progress) + Send)) -> Result<(Survey, bool), ImportError> {
        let mut chunks = prepared(import, self.checkpoint.place);
        let mut appending: FuturesUnordered<BoxFuture<'static, Appended>> = FuturesUnordered::new();
        let mut outbox: VecDeque<Outgoing> = VecDeque::new();
        let mut again = Outbatch::default();
        let (mut in_flight, mut in_flight_bytes) = (0_usize, 0_usize);
        let (mut reading, mut stopping) = (true, false);
        let mut survey = Survey::default();
        let mut next_send = Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut resend_at = Instant::now();
        let mut confirmed_at = Instant::now();
        let mut stop_by = None;
        let mut save_at = Instant::now() + CHECKPOINT_EVERY;
        let mut tick = tokio::time::interval(PROGRESS_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let most = import.rate.map_or(1_000, |rate| (rate as usize / 4).clamp(1, 1_000));
        loop {
            if again.records.is_empty() && appending.is_empty() && ((outbox.is_empty() && !reading) || stopping) {
                self.ended = !stopping;
                return Ok((survey, self.ended));
            }
            let room =
                appending.len() < import.calls.max(1) && in_flight < MAX_IN_FLIGHT && in_flight_bytes < MAX_IN_FLIGHT_BYTES;
            tokio::select! {
                biased;
                // First, so that a stop is not outrun by a log that is quick.
                () = import.stop.cancelled(), if !stopping => {
                    stopping = true;
                    stop_by = Some(Instant::now() + STOP_PATIENCE);
                    // What was not sent is read again when the import goes on.
                    outbox.clear();
                    again = Outbatch::default();
                }
                Some(Appended { batch, results }) = appending.next() => {
                    in_flight -= batch.records.len();
                    in_flight_bytes -= batch.bytes;
                    let mut unconfirmed = None;
                    for ((record, (number, sent)), result) in batch.records.into_iter().zip(batch.notes).zip(results) {
                        match result {
                            Ok(_) => {
                                self.frontier.delivered(number, sent.messages, sent.timeless);
                                confirmed_at = Instant::now();
                            }
                            Err(AppendError::TooLarge(why) | AppendError::Unacceptable(why)) => {
                                let named = name_of(&record);
                                self.frontier.refused(number, Bad::new(why, named.as_bytes()));
                                confirmed_at = Instant::now();
                            }
                            Err(AppendError::Unconfirmed(why)) => {
                                unconfirmed = Some(why);
                                if !stopping { again.push(Outgoing { number, record, sent }) }
                            }
                            Err(error @ (AppendError::Refused(_) | AppendError::Fenced(_))) => return Err(ImportError::Log(error.to_string())),
                        }
                    }
                    self.pass()?;
                    match unconfirmed {
                        Some(why) => {
                            if confirmed_at.elapsed() > import.give_up_after {
                                return Err(ImportError::Log(why));
                            }
                            self.waiting = Some(why);
                            resend_at = Instant::now() + pause;
                            pause = (pause * 2).min(LONGEST_PAUSE);
                        }
                        None => {
                            self.waiting = None;
                            pause = FIRST_PAUSE;
                        }
                    }
                }
                () = tokio::time::sleep_until(save_at) => {
                    self.save().await?;
                    save_at = Instant::now() + CHECKPOINT_EVERY;
                }
                _ = tick.tick() => {
                    let now = Instant::now();
                    self.rate.note(now, self.frontier.counts().events, self.bytes);
                    told(&self.progress(now));
                }
                () = sleep_until_some(stop_by), if stopping => return Ok((survey, false)),
                // What was not confirmed goes first, alone: what comes behind would overtake it.
                () = tokio::time::sleep_until(resend_at), if !again.records.is_empty() && appending.is_empty() => {
                    let batch = std::mem::take(&mut again);
                    (in_flight, in_flight_bytes) = (batch.records.len(), batch.bytes);
                    appending.push(append(import, batch));
                }
                () = tokio::time::sleep_until(next_send), if !outbox.is_empty() && room && again.records.is_empty() && !stopping => {
                    let batch = Outbatch::of(outbox.drain(..outbox.len().min(most)));
                    if let Some(rate) = import.rate {
                        let share = Duration::from_secs(1) * u32::try_from(batch.records.len()).unwrap_or(u32::MAX) / rate.max(1);
                        next_send = next_send.max(Instant::now()) + share;
                    }
                    in_flight += batch.records.len();
                    in_flight_bytes += batch.bytes;
                    appending.push(append(import, batch));
                }
                chunk = chunks.next(), if reading && outbox.is_empty() && room && again.records.is_empty() && !stopping => match chunk {
                    None => reading = false,
                    Some(chunk) => {
                        let Prepared { records, bytes, survey: seen } = chunk?;
                        self.bytes = bytes;
                        survey.join(&seen);
                        for Ready { place, events, bad, counts } in records {
                            let number = self.frontier.begin(place, events.len(), counts, bad);
                            for (record, sent) in events {
                                if import.producer.is_some() {
                                    outbox.push_back(Outgoing { number, record, sent });
                                } else {
                                    self.frontier.delivered(number, sent.messages, sent.timeless);
                                }
                            }
                        }
                        self.pass()?;
                    }
                },
            }
        }
    }

    /// Moves the frontier on, and writes what is set aside behind it.
    fn pass(&mut self) -> Result<(), ImportError> {
        let rejected = self.frontier.advance();
        for one in &rejected {
            if self.shown.len() < SHOWN_REJECTED {
                let input = self.identities.get(one.place.input).map_or("", |input| &input.name);
                self.shown.push(format!("{input}, record {}: {}", one.place.record, one.bad.reason));
            }
        }
        if let Some(file) = &mut self.rejected {
            let path = file.path().to_owned();
            file.append(&rejected, &self.identities).map_err(|source| ImportError::Rejected { path, source })?;
        }
        Ok(())
    }

    /// Writes the checkpoint, where there is one and it has moved.
    async fn save(&mut self) -> Result<(), ImportError> {
        let Some(path) = self.path.clone() else { return Ok(()) };
        let (place, counts) = (self.frontier.place(), self.frontier.counts());
        let mut next = self.checkpoint.clone();
        (next.place, next.counts) = (place, counts);
        next.rejected_bytes = self.rejected.as_ref().map_or(0, RejectedFile::bytes);
        next.done = self.ended && self.frontier.open() == 0;
        if next == self.checkpoint && path.exists() {
            return Ok(());
        }
        self.checkpoint = next.clone();
        let rejected = self.rejected.take();
        let writing = tokio::task::spawn_blocking(move || {
            let synced = rejected.as_ref().map_or(Ok(()), RejectedFile::sync);
            let written =
                synced.map_err(|source| CheckpointError::File { path: path.clone(), source }).and_then(|()| next.write(&path));
            (rejected, written)
        });
        let (rejected, written) = writing.await.map_err(|error| ImportError::Broken(error.to_string()))?;
        self.rejected = rejected;
        Ok(written?)
    }

    fn progress(&self, now: Instant) -> Progress {
        let (events_per_second, bytes_per_second) = self.rate.per_second(now);
        let left = self.bytes_total.map(|total| total.saturating_sub(self.bytes));
        #[allow(clippy::cast_precision_loss, reason = "an estimate")]
        let eta_seconds = left.filter(|_| bytes_per_second > 0.0).map(|left| left as f64 / bytes_per_second);
        Progress {
            counts: self.frontier.counts(),
            bytes: self.bytes,
            bytes_total: self.bytes_total,
            events_per_second,
            eta_seconds,
            waiting: self.waiting.clone(),
            rejected: self.shown.clone(),
        }
    }
}

fn append(import: &Import, batch: Outbatch) -> BoxFuture<'static, Appended> {
    let producer = import.producer.clone();
    Box::pin(async move {
        let results = match producer {
            Some(producer) => producer.append(&batch.records, None).await,
            None => Vec::new(),
        };
        Appended { batch, results }
    })
}

/// What names an event that the log refused.
fn name_of(record: &NewRecord) -> String {
    match framing::decode(&record.payload) {
        Ok(LogRecordBody::Conversation(event)) => {
            serde_json::json!({"event_id": event.event_id, "entity_id": event.entity_id}).to_string()
        }
        _ => String::new(),
    }
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
