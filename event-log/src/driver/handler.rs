//! What a keyed driver works with: a handler that reads records once and works on windows of them.

use std::sync::Arc;
use std::time::Duration;

use crate::schedule::Windowing;
use crate::seam::{Fence, LogRecord};

/// Reads records and works on windows of them.
pub trait RecordHandler: Send + Sync + 'static {
    /// What a record is read as.
    type Item: Send + Sync + 'static;

    /// Reads a record, once, when it comes. Pure and quick: it runs in the driver's own task. What cannot be read is an item, too.
    fn read(&self, record: &LogRecord) -> Reading<Self::Item>;

    /// Who takes turns, where the key alone tells: a record that is put off is then not read before its turn. Has the last word over
    /// [`Reading::tenant`].
    fn tenant(&self, _key: &[u8]) -> Option<Arc<str>> {
        None
    }

    /// Whether work stands still because the log takes nothing. That is waited for, however long it takes.
    fn is_waiting_for_log(&self) -> bool {
        false
    }

    /// The most windows that may be in flight at this moment, at a bound in force of `bound`. Asked before any begins, so that it may
    /// follow what the handler knows first.
    fn most_in_flight(&self, bound: usize) -> usize {
        bound
    }

    /// Ends once [`Self::most_in_flight`] may be more than when it was last asked. Listened to by the driver alone.
    fn has_room(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Works on one window. Runs in a task of its own and is never dropped half way, but the process may end at any time: the
    /// records then come again.
    fn handle(&self, work: Work<Self::Item>) -> impl Future<Output = Verdict> + Send;
}

/// A record as its handler reads it.
#[derive(Clone, Debug)]
pub struct Reading<T> {
    /// What it is.
    pub item: T,
    /// Who takes turns; empty where unknown. The same for all records of a key.
    pub tenant: Arc<str>,
    /// Estimated tokens, at least 1: what a turn costs.
    pub cost: u64,
    /// What `item` holds in memory beside the record, for the budget of bytes.
    pub bytes: usize,
    /// How it goes with its neighbours.
    pub window: Windowing,
}

/// A record that is held, with what it was read as.
#[derive(Debug)]
pub struct Held<T> {
    /// The record.
    pub record: LogRecord,
    /// What it is.
    pub item: T,
}

/// A window to work on.
#[derive(Debug)]
pub struct Work<T> {
    /// At least one, in log order, of one key and one partition.
    pub window: Vec<Arc<Held<T>>>,
    /// How often it has been tried before, in this assignment.
    pub attempt: u32,
    /// When it was first tried, milliseconds since 1970.
    pub first_tried_at_ms: i64,
    /// To append its results with.
    pub fence: Option<Fence>,
}

/// What became of a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All of it is done for good: the frontier may pass it.
    Done,
    /// All of it is tried again after this, as it is; only its key waits. Zero: at its next turn.
    RetryAfter(Duration),
    /// Each of its records is to be worked on alone, in order, before anything else of the key. Their attempts begin anew.
    Apart,
    /// Its partition stands still from here on, for this reason.
    Halt(String),
}
