//! From an extraction to records that the log confirmed.
//!
//! Promises: what came of a window is one record; where that does not fit, each event has a record of its own; where that does not
//! fit, it goes without vectors; and what does not fit even so is dead-lettered, alone. However it is cut, the facts and their evidence
//! are the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use memori_event_log::driver::Verdict;
use memori_schemas::framing::FramingError;
use memori_schemas::{DeadLetterClass, ExtractorInfo, FactKind, MessageVector, Micros};
use tokio::sync::Notify;

use crate::embed;
use crate::extractor::Extraction;
use crate::metrics::{self, LeftOut};
use crate::outcome::{self, GivenUp, Source};
use crate::window::Turn;
use crate::worker::{Appended, Handler, Job};

/// What a window yielded.
pub(crate) struct Yield {
    pub(crate) extraction: Extraction,
    pub(crate) vectors: Vec<MessageVector>,
}

/// Whether a record is on the log.
enum Put {
    Done,
    TooLarge(String),
    Not(Verdict),
}

/// Windows whose extraction has ended and whose outcome the log has not confirmed yet: nobody is asked for them any more, so as many
/// others may be begun meanwhile.
#[derive(Clone, Debug, Default)]
pub(crate) struct Publishing(Arc<Counted>);

#[derive(Debug, Default)]
struct Counted {
    windows: AtomicUsize,
    entered: Notify,
}

impl Publishing {
    /// Counts one more, until it is dropped. Whoever waits for its end is told of that by its verdict.
    fn enter(&self) -> impl Drop + use<> {
        self.0.windows.fetch_add(1, Ordering::AcqRel);
        self.0.entered.notify_one();
        Published(Arc::clone(&self.0))
    }

    /// What may be in flight where `bound` calls may be: beside those, what is being published. At most twice `bound`: what a log that is
    /// away has not confirmed was paid for, and would be again after a crash.
    pub(crate) fn eased(&self, bound: usize) -> usize {
        bound.saturating_add(self.0.windows.load(Ordering::Acquire).min(bound))
    }

    /// Ends once one more is counted than when this last ended.
    pub(crate) async fn entered(&self) {
        self.0.entered.notified().await;
    }
}

struct Published(Arc<Counted>);

impl Drop for Published {
    fn drop(&mut self) {
        self.0.windows.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Handler {
    /// Puts what `turns` yielded on the log.
    pub(crate) async fn publish(&self, source: Source<'_>, job: &Job<'_>, turns: &[Turn<'_>], yielded: Yield) -> Verdict {
        let _publishing = self.publishing.enter();
        let why = match self.put(source, job, turns, &yielded).await {
            Put::Done => return Verdict::Done,
            Put::Not(verdict) => return verdict,
            Put::TooLarge(why) => why,
        };
        Box::pin(self.cut(source, job, turns, yielded, why)).await
    }

    /// What did not fit one record, for the reason `why`.
    async fn cut(&self, source: Source<'_>, job: &Job<'_>, turns: &[Turn<'_>], yielded: Yield, why: String) -> Verdict {
        if let [turn] = turns {
            return self.bury(source, job, turn, why).await;
        }
        metrics::outcome_split();
        let Yield { mut extraction, vectors } = yielded;
        for turn in turns {
            let source = Source { record: turn.record, ..source };
            let (part, vectors) = outcome::part_of(turn.event, &extraction, &vectors);
            // The call was one: its cost stands in one record.
            extraction.extractor = ExtractorInfo { tokens_in: 0, tokens_out: 0, cost_micros: 0, ..extraction.extractor };
            let verdict = match self.put(source, job, &[*turn], &Yield { extraction: part, vectors }).await {
                Put::Done => continue,
                Put::TooLarge(why) => self.bury(source, job, turn, why).await,
                Put::Not(verdict) => verdict,
            };
            if verdict != Verdict::Done {
                return verdict;
            }
        }
        Verdict::Done
    }

    async fn bury(&self, source: Source<'_>, job: &Job<'_>, turn: &Turn<'_>, reason: String) -> Verdict {
        let attempts = job.attempt.saturating_add(1);
        self.give_up(source, job, GivenUp { class: DeadLetterClass::TooLarge, reason, attempts, event: Some(turn.event) }).await
    }

    /// One record for all of `turns`.
    async fn put(&self, source: Source<'_>, job: &Job<'_>, turns: &[Turn<'_>], yielded: &Yield) -> Put {
        let mut record = outcome::facts(source, turns, yielded, Micros::now());
        let Yield { extraction, vectors } = yielded;
        let has_vectors = !vectors.is_empty() || extraction.facts.iter().any(|fact| fact.vector.is_some());
        if has_vectors && turns.len() == 1 && matches!(record, Err(FramingError::TooLarge { .. })) {
            // Facts without vectors are worth more than none.
            let bare = embed::without_vectors(extraction);
            metrics::vectors_left_out(LeftOut::TooLarge, bare.facts.len());
            record = outcome::facts(source, turns, &Yield { extraction: bare, vectors: Vec::new() }, Micros::now());
        }
        let record = match record {
            Ok(record) => record,
            Err(e @ FramingError::TooLarge { .. }) => return Put::TooLarge(e.to_string()),
            Err(e) => return Put::Not(Verdict::Halt(format!("a fact event cannot be written: {e}"))),
        };
        match self.append(record, job.fence).await {
            Appended::Durable => {
                let mut kinds = BTreeMap::<FactKind, u64>::new();
                for fact in &extraction.facts {
                    *kinds.entry(fact.kind).or_default() += 1;
                }
                metrics::extracted(source.lane(), turns.len(), &kinds);
                self.burst.came_through(turns.len());
                Put::Done
            }
            Appended::TooLarge(message) => Put::TooLarge(message),
            Appended::Not(verdict) => Put::Not(verdict),
        }
    }
}
