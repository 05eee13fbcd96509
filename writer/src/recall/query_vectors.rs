//! The vectors of queries: asked for once, kept, and waited for no longer than a deadline.
//!
//! Promises: a text that is being embedded is not embedded a second time; a batch is one call; what comes after the deadline is kept
//! for the next query all the same; the texts and vectors that are held are bounded. Without a vector recall goes on by words, and
//! says why.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use memori_embedding::{EmbedError, Embedder, Embedding};
use tokio::sync::watch;

use super::items::Model;
use crate::metrics;

/// Why a query has no vector; its name is a metric's label and stands in `ranking`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoVector {
    /// The request does not want one.
    NotWanted,
    /// No model is configured, or it is not there.
    NoModel,
    /// There is nothing to embed.
    EmptyQuery,
    /// It did not come in time.
    Timeout,
    /// The embedder cannot now.
    Unavailable,
    /// The embedder never will.
    Refused,
    /// Too many queries are being embedded.
    Busy,
    /// The entity has no vectors of the model.
    NoVectors,
}

impl NoVector {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotWanted => "not_wanted",
            Self::NoModel => "no_model",
            Self::EmptyQuery => "empty_query",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::Refused => "refused",
            Self::Busy => "busy",
            Self::NoVectors => "no_vectors",
        }
    }
}

/// Texts that are embedded at one time.
const MOST_IN_FLIGHT: usize = 256;
/// Words of a query that are embedded, as of a message.
const WORDS: usize = memori_schemas::MessageVector::WORDS;
/// And its bytes, about.
const BYTES: usize = 2_048;

type Outcome = Result<Arc<Embedding>, NoVector>;

#[derive(Default)]
struct State {
    known: HashMap<Arc<str>, (Arc<Embedding>, u64)>,
    /// By when each was used last.
    order: BTreeMap<u64, Arc<str>>,
    clock: u64,
    in_flight: HashMap<Arc<str>, watch::Receiver<Option<Outcome>>>,
}

impl State {
    fn get(&mut self, text: &str) -> Option<Arc<Embedding>> {
        self.clock += 1;
        let (key, _) = self.known.get_key_value(text)?;
        let key = key.clone();
        let (embedding, used) = self.known.get_mut(text)?;
        self.order.remove(used);
        self.order.insert(self.clock, key);
        *used = self.clock;
        Some(embedding.clone())
    }

    fn keep(&mut self, text: Arc<str>, embedding: Arc<Embedding>, entries: usize) {
        self.clock += 1;
        if let Some((_, used)) = self.known.insert(text.clone(), (embedding, self.clock)) {
            self.order.remove(&used);
        }
        self.order.insert(self.clock, text);
        while self.known.len() > entries {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            self.known.remove(&oldest);
        }
    }
}

/// The vectors of queries.
pub struct QueryVectors {
    embedder: Arc<dyn Embedder>,
    model: Model,
    state: Arc<Mutex<State>>,
    entries: usize,
    deadline: Duration,
}

impl QueryVectors {
    /// By an embedder: at most so many vectors are kept, and a query waits so long.
    #[must_use]
    pub fn new(embedder: Arc<dyn Embedder>, entries: usize, deadline: Duration) -> Self {
        let model = Model { id: embedder.model().into(), dimensions: embedder.dimensions() };
        Self { embedder, model, state: Arc::default(), entries, deadline }
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The vector of each text, in order.
    pub async fn of(&self, texts: &[&str]) -> Vec<Outcome> {
        let deadline = tokio::time::Instant::now() + self.deadline;
        let texts: Vec<Option<String>> = texts.iter().map(|text| first_words(text)).collect();
        let waiting: Vec<Result<Outcome, watch::Receiver<Option<Outcome>>>> = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let mut new: Vec<(Arc<str>, watch::Sender<Option<Outcome>>)> = Vec::new();
            let waiting = texts.into_iter().map(|text| self.look(&mut state, text, &mut new)).collect();
            if !new.is_empty() {
                self.start(new);
            }
            waiting
        };
        let mut outcomes = Vec::with_capacity(waiting.len());
        for one in waiting {
            let outcome = match one {
                Ok(outcome) => outcome,
                Err(mut receiver) => match tokio::time::timeout_at(deadline, receiver.wait_for(Option::is_some)).await {
                    Err(_) => Err(NoVector::Timeout),
                    // The task that embeds has gone without a word, which only the end of the process does.
                    Ok(Err(_)) => Err(NoVector::Unavailable),
                    Ok(Ok(outcome)) => outcome.clone().unwrap_or(Err(NoVector::Unavailable)),
                },
            };
            outcomes.push(outcome);
        }
        outcomes
    }

    fn look(
        &self,
        state: &mut State,
        text: Option<String>,
        new: &mut Vec<(Arc<str>, watch::Sender<Option<Outcome>>)>,
    ) -> Result<Outcome, watch::Receiver<Option<Outcome>>> {
        let Some(text) = text else { return Ok(Err(NoVector::EmptyQuery)) };
        if let Some(known) = state.get(&text) {
            metrics::query_embedding("cached");
            return Ok(Ok(known));
        }
        if let Some(receiver) = state.in_flight.get(text.as_str()) {
            metrics::query_embedding("joined");
            return Err(receiver.clone());
        }
        if state.in_flight.len() >= MOST_IN_FLIGHT {
            return Ok(Err(NoVector::Busy));
        }
        metrics::query_embedding("asked");
        let (sender, receiver) = watch::channel(None);
        let text: Arc<str> = text.into();
        state.in_flight.insert(text.clone(), receiver.clone());
        new.push((text, sender));
        Err(receiver)
    }

    /// Embeds beside whoever waits, so that what comes late is there for the next.
    fn start(&self, new: Vec<(Arc<str>, watch::Sender<Option<Outcome>>)>) {
        let (embedder, state, entries) = (self.embedder.clone(), self.state.clone(), self.entries);
        let dimensions = self.model.dimensions;
        tokio::spawn(async move {
            // Whatever becomes of the call, nobody waits for it for ever.
            let mut flight = Flight { state, new };
            let texts: Vec<String> = flight.new.iter().map(|(text, _)| text.to_string()).collect();
            let answered = embedder.embed(&texts).await;
            let fits = |embeddings: &[Embedding]| {
                embeddings.len() == texts.len() && embeddings.iter().all(|one| one.values.len() == dimensions)
            };
            let outcomes: Vec<Outcome> = match answered {
                Ok(embeddings) if fits(&embeddings) => embeddings.into_iter().map(|one| Ok(Arc::new(one))).collect(),
                Ok(_) => vec![Err(NoVector::Refused); texts.len()],
                Err(EmbedError::Unavailable(_)) => vec![Err(NoVector::Unavailable); texts.len()],
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "queries are not embedded");
                    vec![Err(NoVector::Refused); texts.len()]
                }
            };
            flight.land(outcomes, entries);
        });
    }
}

/// Texts on their way. Dropped before it landed, it leaves nobody waiting.
struct Flight {
    state: Arc<Mutex<State>>,
    new: Vec<(Arc<str>, watch::Sender<Option<Outcome>>)>,
}

impl Flight {
    fn land(&mut self, outcomes: Vec<Outcome>, entries: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for ((text, sender), outcome) in self.new.drain(..).zip(outcomes) {
            state.in_flight.remove(&text);
            if let Ok(embedding) = &outcome {
                state.keep(text, embedding.clone(), entries);
            }
            sender.send_replace(Some(outcome));
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for (text, _) in self.new.drain(..) {
            state.in_flight.remove(&text);
        }
    }
}

/// The words of a query that are embedded; none where it has none.
fn first_words(text: &str) -> Option<String> {
    let mut words = String::new();
    for word in text.split_whitespace().take(WORDS) {
        if !words.is_empty() {
            words.push(' ');
        }
        words.push_str(word);
        if words.len() >= BYTES {
            let end = (0..=BYTES).rev().find(|end| words.is_char_boundary(*end)).unwrap_or(0);
            words.truncate(end);
            break;
        }
    }
    (!words.is_empty()).then_some(words)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use tokio::sync::Semaphore;

    use super::*;

    struct Counted {
        calls: AtomicUsize,
        texts: AtomicUsize,
        /// A permit for each call that may answer.
        gate: Semaphore,
        fails: bool,
    }

    impl Counted {
        fn new(gate: usize, fails: bool) -> Arc<Self> {
            Arc::new(Self { calls: AtomicUsize::new(0), texts: AtomicUsize::new(0), gate: Semaphore::new(gate), fails })
        }
    }

    #[async_trait]
    impl Embedder for Counted {
        fn model(&self) -> &str {
            "counted@1"
        }

        fn dimensions(&self) -> usize {
            2
        }

        async fn embed(&self, texts: &[String]) -> Result<Vec<Embedding>, EmbedError> {
            self.calls.fetch_add(1, Ordering::SeqCst);
            self.texts.fetch_add(texts.len(), Ordering::SeqCst);
            self.gate.acquire().await.unwrap().forget();
            if self.fails {
                return Err(EmbedError::Unavailable("gone".into()));
            }
            Ok(texts.iter().map(|text| Embedding::quantise(&[1.0, f32::from(u8::try_from(text.len()).unwrap())])).collect())
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_text_is_embedded_once() {
        let embedder = Counted::new(100, false);
        let vectors = QueryVectors::new(embedder.clone(), 10, LONG);
        let first = vectors.of(&["where", "when", " where  ", "", "  "]).await;
        assert_eq!((first[0].is_ok(), &first[0]), (true, &first[2]));
        assert_eq!((&first[3], &first[4]), (&Err(NoVector::EmptyQuery), &Err(NoVector::EmptyQuery)));
        assert_eq!(vectors.of(&["when", "where"]).await, [first[1].clone(), first[0].clone()]);
        assert_eq!((embedder.calls.load(Ordering::SeqCst), embedder.texts.load(Ordering::SeqCst)), (1, 2));
    }

    #[tokio::test]
    async fn who_comes_meanwhile_waits_for_the_same_call() {
        let embedder = Counted::new(0, false);
        let vectors = Arc::new(QueryVectors::new(embedder.clone(), 10, LONG));
        let asked: Vec<_> = (0..5)
            .map(|_| {
                let vectors = vectors.clone();
                tokio::spawn(async move { vectors.of(&["where"]).await })
            })
            .collect();
        while embedder.calls.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        embedder.gate.add_permits(10);
        for one in asked {
            assert!(one.await.unwrap()[0].is_ok());
        }
        assert_eq!(embedder.calls.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn what_comes_too_late_is_there_for_the_next() {
        let embedder = Counted::new(0, false);
        let vectors = QueryVectors::new(embedder.clone(), 10, Duration::ZERO);
        assert_eq!(vectors.of(&["where"]).await, [Err(NoVector::Timeout)]);
        embedder.gate.add_permits(1);
        while vectors.of(&["where"]).await[0].is_err() {
            tokio::task::yield_now().await;
        }
        assert_eq!(embedder.calls.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn failures_are_not_kept_and_entries_are_bounded() {
        let embedder = Counted::new(100, true);
        let vectors = QueryVectors::new(embedder.clone(), 10, LONG);
        assert_eq!(vectors.of(&["where"]).await, [Err(NoVector::Unavailable)]);
        assert_eq!(vectors.of(&["where"]).await, [Err(NoVector::Unavailable)]);
        assert_eq!(embedder.calls.load(Ordering::SeqCst), 2);
        let embedder = Counted::new(100, false);
        let vectors = QueryVectors::new(embedder.clone(), 2, LONG);
        for text in ["a", "bb", "a", "ccc", "a", "bb"] {
            assert!(vectors.of(&[text]).await[0].is_ok());
        }
        let state = vectors.state.lock().unwrap();
        assert_eq!((state.known.len(), state.order.len(), state.in_flight.len()), (2, 2, 0));
        assert_eq!(embedder.calls.load(Ordering::SeqCst), 4, "`bb` was the one that had not been used for longest");
    }

    #[test]
    fn long_queries_are_cut() {
        assert_eq!(first_words(&"violin ".repeat(9_000)).unwrap().split(' ').count(), WORDS);
        assert!(first_words(&"ö".repeat(9_000)).unwrap().len() <= BYTES);
    }
}
