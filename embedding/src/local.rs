//! A model in this process, for many callers at once.
//!
//! Texts wait in one bounded queue. Whoever calls waits for its answer and, at the same time, for a free session; who gets one takes
//! *everybody's* waiting texts, batch after batch, on a blocking thread. So a call on an idle model starts at once, calls under load
//! are batched, and there are never more threads at work than sessions. A caller that goes away is skipped; its batch is others' too
//! and goes on. Calls of a text or two (a query) go before those of many (a backfill), for up to half of each batch.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use deadpool::managed::{Manager, Metrics as PoolMetrics, Object, Pool, RecycleResult};
use futures::future::try_join_all;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::metrics::{self, Cause, Kind};
use crate::{EmbedError, Embedder, Embedding};

/// Texts that wait at most; callers wait for room beyond that.
const QUEUED_TEXTS: usize = 1_024;
/// Texts that are handed to the model together.
const BATCH_TEXTS: usize = 32;
/// A call of at most this many texts goes first.
const SMALL_CALL: usize = 2;

/// A model that runs on the caller's thread.
pub(crate) trait LocalModel: Send + Sync + 'static {
    /// Buffers that are kept from call to call.
    type Session: Default + Send + 'static;

    /// Bytes of a text that count; the rest is not even copied.
    fn max_text_bytes(&self) -> usize;

    /// One vector per text, handed to `each` in order.
    fn run(&self, texts: &[&str], session: &mut Self::Session, each: &mut dyn FnMut(&[f32])) -> Result<(), String>;
}

struct Sessions<S>(std::marker::PhantomData<fn() -> S>);

impl<S: Default + Send + 'static> Manager for Sessions<S> {
    type Type = S;
    type Error = Infallible;

    async fn create(&self) -> Result<S, Infallible> {
        Ok(S::default())
    }

    async fn recycle(&self, _session: &mut S, _metrics: &PoolMetrics) -> RecycleResult<Infallible> {
        Ok(())
    }
}

type Answer = Result<Embedding, EmbedError>;

struct Job {
    text: String,
    answer: oneshot::Sender<Answer>,
    /// Of all jobs of one call.
    _room: Arc<OwnedSemaphorePermit>,
}

#[derive(Default)]
struct Queue {
    small: VecDeque<Job>,
    large: VecDeque<Job>,
}

impl Queue {
    /// The next batch, without those that nobody waits for any more.
    fn take(&mut self) -> Vec<Job> {
        let mut batch = Vec::new();
        let mut fill = |from: &mut VecDeque<Job>, up_to: usize| {
            while batch.len() < up_to
                && let Some(job) = from.pop_front()
            {
                if !job.answer.is_closed() {
                    batch.push(job);
                }
            }
        };
        fill(&mut self.small, BATCH_TEXTS / 2);
        fill(&mut self.large, BATCH_TEXTS);
        fill(&mut self.small, BATCH_TEXTS);
        batch
    }
}

/// The embedder over a [`LocalModel`].
pub(crate) struct Local<M: LocalModel> {
    name: String,
    dimensions: usize,
    model: Arc<M>,
    sessions: Pool<Sessions<M::Session>>,
    queue: Arc<Mutex<Queue>>,
    room: Arc<Semaphore>,
}

impl<M: LocalModel> Local<M> {
    /// `threads` sessions: so many threads at work, at most.
    pub(crate) fn new(name: &str, dimensions: usize, model: M, threads: usize) -> Result<Self, EmbedError> {
        let sessions = Pool::builder(Sessions(std::marker::PhantomData))
            .max_size(threads.max(1))
            .build()
            .map_err(|e| EmbedError::Configuration(format!("no pool of sessions: {e}")))?;
        Ok(Self {
            name: name.to_owned(),
            dimensions,
            model: Arc::new(model),
            sessions,
            queue: Arc::default(),
            room: Arc::new(Semaphore::new(QUEUED_TEXTS)),
        })
    }

    async fn some(&self, texts: &[String], small: bool) -> Result<Vec<Embedding>, EmbedError> {
        let ended = |_| failed("the embedder is closed");
        let count = u32::try_from(texts.len()).unwrap_or(u32::MAX);
        let room = Arc::new(Arc::clone(&self.room).acquire_many_owned(count).await.map_err(|e| ended(e.to_string()))?);
        let mut answers = Vec::with_capacity(texts.len());
        {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            let queue = if small { &mut queue.small } else { &mut queue.large };
            for text in texts {
                let (answer, receiver) = oneshot::channel();
                let text = text[..text.floor_char_boundary(self.model.max_text_bytes())].to_owned();
                queue.push_back(Job { text, answer, _room: Arc::clone(&room) });
                answers.push(receiver);
            }
        }
        let mut answers = std::pin::pin!(try_join_all(answers));
        let joined = tokio::select! {
            // An answer that is there needs no session.
            biased;
            joined = &mut answers => joined,
            session = self.sessions.get() => {
                let session = session.map_err(|e| ended(e.to_string()))?;
                let (model, queue) = (Arc::clone(&self.model), Arc::clone(&self.queue));
                // On its own: if this caller goes away, the others' texts in the batch are still wanted.
                tokio::task::spawn_blocking(move || drain(&*model, &queue, session));
                answers.await
            }
        };
        // A sender that went without an answer was in a batch that panicked.
        joined.map_err(|_| failed("the model failed"))?.into_iter().collect()
    }
}

fn failed(why: &str) -> EmbedError {
    EmbedError::Unavailable(why.to_owned())
}

fn drain<M: LocalModel>(model: &M, queue: &Mutex<Queue>, mut session: Object<Sessions<M::Session>>) {
    loop {
        let batch = queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        if batch.is_empty() {
            return;
        }
        metrics::batch(Kind::Local, batch.len());
        let texts: Vec<&str> = batch.iter().map(|job| job.text.as_str()).collect();
        let mut vectors = Vec::with_capacity(batch.len());
        let ended = model.run(&texts, &mut session, &mut |vector| vectors.push(Embedding::quantise(vector)));
        if let Err(why) = ended {
            for job in batch {
                let _ = job.answer.send(Err(failed(&why)));
            }
            continue;
        }
        for (job, vector) in batch.into_iter().zip(vectors) {
            let _ = job.answer.send(Ok(vector));
        }
    }
}

#[async_trait]
impl<M: LocalModel> Embedder for Local<M> {
    fn model(&self) -> &str {
        &self.name
    }

    fn dimensions(&self) -> usize {
        self.dimensions
    }

    async fn embed(&self, texts: &[String]) -> Result<Vec<Embedding>, EmbedError> {
        let since = Instant::now();
        let mut vectors = Vec::with_capacity(texts.len());
        for texts in texts.chunks(QUEUED_TEXTS / 4) {
            match self.some(texts, texts.len() <= SMALL_CALL).await {
                Ok(some) => vectors.extend(some),
                Err(error) => {
                    metrics::failed(Kind::Local, Cause::Model);
                    return Err(error);
                }
            }
        }
        metrics::done(Kind::Local, texts.len(), since.elapsed());
        Ok(vectors)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    /// Answers with the text's length, after a gate has opened; counts what it does.
    #[derive(Default)]
    struct Counting {
        gate: std::sync::Condvar,
        open: Mutex<bool>,
        at_work: AtomicUsize,
        most_at_work: AtomicUsize,
        batches: Mutex<Vec<Vec<String>>>,
    }

    impl Counting {
        fn open(&self) {
            *self.open.lock().unwrap() = true;
            self.gate.notify_all();
        }
    }

    impl LocalModel for Arc<Counting> {
        type Session = Vec<u8>;

        fn max_text_bytes(&self) -> usize {
            8
        }

        fn run(&self, texts: &[&str], _session: &mut Vec<u8>, each: &mut dyn FnMut(&[f32])) -> Result<(), String> {
            let now = self.at_work.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_at_work.fetch_max(now, Ordering::SeqCst);
            self.batches.lock().unwrap().push(texts.iter().map(|text| (*text).to_owned()).collect());
            drop(self.gate.wait_while(self.open.lock().unwrap(), |open| !*open).unwrap());
            self.at_work.fetch_sub(1, Ordering::SeqCst);
            assert!(!texts.contains(&"panic"), "as asked");
            if texts.contains(&"fail") {
                return Err("as asked".to_owned());
            }
            texts.iter().for_each(|text| each(&[text.len() as f32, 1.0]));
            Ok(())
        }
    }

    fn embedder(threads: usize) -> (Arc<Counting>, Arc<Local<Arc<Counting>>>) {
        let model = Arc::new(Counting::default());
        let local = Local::new("counting@1", 2, Arc::clone(&model), threads).unwrap();
        (model, Arc::new(local))
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    async fn until(condition: impl Fn() -> bool) {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn call(local: &Arc<Local<Arc<Counting>>>, what: &[&str]) -> tokio::task::JoinHandle<Result<Vec<Embedding>, EmbedError>> {
        let (local, what) = (Arc::clone(local), texts(what));
        tokio::spawn(async move { local.embed(&what).await })
    }

    fn waiting(local: &Local<Arc<Counting>>) -> usize {
        let queue = local.queue.lock().unwrap();
        queue.small.len() + queue.large.len()
    }

    #[tokio::test]
    async fn answers_are_in_order_and_texts_are_bounded() {
        let (model, local) = embedder(1);
        model.open();
        assert!(local.embed(&[]).await.unwrap().is_empty());
        let given: Vec<String> = (0..2_000).map(|n| "x".repeat(n % 11)).collect();
        let vectors = local.embed(&given).await.unwrap();
        for (text, vector) in given.iter().zip(&vectors) {
            assert_eq!(*vector, Embedding::quantise(&[text.len().min(8) as f32, 1.0]));
        }
        assert!(model.batches.lock().unwrap().iter().all(|batch| batch.len() <= BATCH_TEXTS));
        // The last batch's places are given back behind its answers.
        until(|| local.room.available_permits() == QUEUED_TEXTS).await;
    }

    #[tokio::test]
    async fn calls_under_load_share_batches_small_ones_first_and_threads_are_bounded() {
        let (model, local) = embedder(1);
        let first = call(&local, &["first"]);
        until(|| model.batches.lock().unwrap().len() == 1).await;
        let many: Vec<String> = (0..40).map(|n| format!("m{n}")).collect();
        let many = call(&local, &many.iter().map(String::as_str).collect::<Vec<_>>());
        until(|| waiting(&local) == 40).await;
        let late = call(&local, &["late"]);
        until(|| waiting(&local) == 41).await;
        model.open();
        assert_eq!(first.await.unwrap().unwrap().len(), 1);
        assert_eq!(late.await.unwrap().unwrap().len(), 1);
        assert_eq!(many.await.unwrap().unwrap().len(), 40);
        let batches = model.batches.lock().unwrap();
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [1, 32, 9]);
        assert_eq!(batches[1][0], "late");
        assert_eq!(model.most_at_work.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_takes_nobody_with_it() {
        let (model, local) = embedder(1);
        let leader = call(&local, &["leader"]);
        until(|| model.batches.lock().unwrap().len() == 1).await;
        let (gone, stays) = (call(&local, &["gone"]), call(&local, &["stays"]));
        until(|| waiting(&local) == 2).await;
        leader.abort();
        gone.abort();
        assert!(leader.await.is_err() && gone.await.is_err());
        model.open();
        assert_eq!(stays.await.unwrap().unwrap().len(), 1);
        assert!(model.batches.lock().unwrap().iter().flatten().all(|text| text != "gone"));
        until(|| local.room.available_permits() == QUEUED_TEXTS).await;
    }

    #[tokio::test]
    async fn failures_and_panics_are_answers_and_the_next_call_works() {
        let (model, local) = embedder(1);
        model.open();
        for bad in ["fail", "panic"] {
            assert!(matches!(local.embed(&texts(&[bad])).await, Err(EmbedError::Unavailable(_))));
            assert_eq!(local.embed(&texts(&["good"])).await.unwrap().len(), 1);
        }
    }
}
