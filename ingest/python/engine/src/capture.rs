//! Into the queue.
//!
//! Promises: an event is queued, or dropped visibly: counted, and a failure of its member; what is captured is in the ledger before
//! anybody can ask for it, also while it is still being written.

use std::sync::Arc;

use bytes::Bytes;
use memori_ingest::new_event::MAX_EVENT_BYTES;

use crate::engine::{Engine, lock};
use crate::notices::Level;
use crate::process::is_exiting;
use crate::queue::{Full, Queue};
use crate::stats::{Dropped, add};

/// Why an event is not taken, and in words.
type Refusal = (Dropped, &'static str);

const EXITING: Refusal = (Dropped::Exiting, "the process is about to end");
const TOO_LARGE: Refusal = (Dropped::TooLarge, "it is larger than an event may be");

impl Engine {
    /// Queues an event. Answers its number in the queue; none where it was dropped.
    pub(crate) fn capture(self: &Arc<Self>, member: u64, event_id: &str, json: Bytes) -> Option<u64> {
        let too_large = json.len() > MAX_EVENT_BYTES;
        let taken = if too_large {
            Err(TOO_LARGE)
        } else {
            self.take_in(member, event_id, |queue| queue.push(member, event_id.to_owned(), json))
        };
        let number = self.taken_or_dropped(member, event_id, taken)?;
        add(&self.stats.captured, 1);
        // Where the end of the process came in between, nobody will take it any more.
        if self.running().is_none() && is_exiting() && lock(&self.queue).withdraw(number) {
            self.lost(member, number, EXITING);
            return None;
        }
        self.grown.notify_one();
        Some(number)
    }

    /// Takes the place of an event that somebody else is to write, of about so many bytes; none where it was dropped.
    pub(crate) fn reserve(self: &Arc<Self>, member: u64, event_id: &str, bytes: usize) -> Option<Reserved> {
        let bytes = bytes.min(MAX_EVENT_BYTES);
        let taken = self.take_in(member, event_id, |queue| queue.reserve(member, event_id.to_owned(), bytes));
        let number = self.taken_or_dropped(member, event_id, taken)?;
        Some(Reserved { engine: Arc::clone(self), member, number, is_open: true })
    }

    fn take_in(&self, member: u64, event_id: &str, into: impl FnOnce(&mut Queue) -> Result<u64, Full>) -> Result<u64, Refusal> {
        if is_exiting() && !self.is_running() {
            return Err(EXITING);
        }
        let mut queue = lock(&self.queue);
        match into(&mut queue) {
            Ok(number) => {
                // In the ledger before the feeder can settle it: it takes the queue's lock first, too.
                lock(&self.ledger).captured(member, number, event_id);
                Ok(number)
            }
            Err(Full::Events) => Err((Dropped::QueueEvents, "the queue is full")),
            Err(Full::Bytes) => Err((Dropped::QueueBytes, "the queue is full")),
        }
    }

    fn taken_or_dropped(&self, member: u64, event_id: &str, taken: Result<u64, Refusal>) -> Option<u64> {
        taken
            .map_err(|(why, words)| {
                lock(&self.ledger).dropped(member, event_id, why.as_str(), words);
                self.dropped(why, words);
            })
            .ok()
    }

    /// One that had been taken in.
    fn lost(&self, member: u64, number: u64, (why, words): Refusal) {
        lock(&self.ledger).failed(member, number, "dropped", why.as_str(), words);
        self.dropped(why, words);
    }

    fn dropped(&self, why: Dropped, words: &str) {
        self.stats.dropped(why);
        self.note("dropped", Level::Error, || format!("memory dropped an event: {words} ({})", why.as_str()));
    }
}

/// The place of an event that is being written. Dropped without an event, it was lost.
pub(crate) struct Reserved {
    engine: Arc<Engine>,
    member: u64,
    number: u64,
    is_open: bool,
}

impl Reserved {
    /// Its number in the queue.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Puts the event into its place.
    pub(crate) fn fill(mut self, json: Bytes) {
        if json.len() > MAX_EVENT_BYTES {
            self.leave(Some(TOO_LARGE));
        } else if lock(&self.engine.queue).fill(self.number, json) {
            self.is_open = false;
            add(&self.engine.stats.captured, 1);
            self.engine.grown.notify_one();
        }
    }

    /// There is nothing to capture after all.
    pub(crate) fn give_up(mut self) {
        self.leave(None);
    }

    fn leave(&mut self, why: Option<Refusal>) {
        if !std::mem::replace(&mut self.is_open, false) {
            return;
        }
        let engine = &self.engine;
        {
            let mut queue = lock(&engine.queue);
            if !queue.withdraw(self.number) {
                return;
            }
            engine.settled.send_replace(queue.first_unsettled());
        }
        match why {
            None => {
                lock(&engine.ledger).ended(self.member, self.number);
            }
            Some(why) => engine.lost(self.member, self.number, why),
        }
        engine.moved.send_modify(|count| *count += 1);
        // What stood behind it may go now.
        engine.grown.notify_one();
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.leave(Some(EXITING));
    }
}
