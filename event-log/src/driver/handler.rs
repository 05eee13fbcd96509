//! What a keyed driver works with: a handler that reads records once and works on windows of them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::seam::{Fence, LogRecord};

/// Reads records and works on windows of them.
#[async_trait]
pub trait RecordHandler: Send + Sync + 'static {
    /// What a record is read as.
    type Item: Send + Sync + 'static;

    /// Reads a record, once, when it comes. Pure and quick: it runs in the driver's own task. What cannot be read is an item, too.
    fn read(&self, record: &LogRecord) -> Reading<Self::Item>;

    /// Works on one window. Runs in a task of its own and is never dropped half way, but the process may end at any time: the
    /// records then come again.
    async fn handle(&self, work: Work<Self::Item>) -> Verdict;
}

/// A record as its handler reads it.
#[derive(Clone, Debug)]
pub struct Reading<T> {
    /// What it is.
    pub item: T,
    /// Who takes turns; empty where unknown.
    pub tenant: Arc<str>,
    /// Estimated tokens, at least 1: what a turn costs.
    pub cost: u64,
    /// What `item` holds in memory beside the record, for the budget of bytes.
    pub bytes: usize,
    /// How it goes with its neighbours.
    pub window: Windowing,
}

/// How a record goes with its neighbours in its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windowing {
    /// A window of its own.
    Alone,
    /// With its key's neighbours of the same `group` (a session), as long as the bounds allow.
    With {
        /// What a window's records have in common.
        group: u64,
        /// What it counts for in the bound of messages.
        messages: u32,
    },
    /// It closes the window before it in its key and goes with it; it has no work of its own.
    Closes,
}

/// When a window closes: at whichever is reached first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowBounds {
    /// Records.
    pub events: usize,
    /// Their messages.
    pub messages: usize,
    /// Their cost.
    pub cost: u64,
    /// Since its last record came.
    pub idle: Duration,
    /// Since its first record came.
    pub age: Duration,
}

impl Default for WindowBounds {
    /// One record each: a window closes at once.
    fn default() -> Self {
        Self { events: 1, messages: usize::MAX, cost: u64::MAX, idle: Duration::ZERO, age: Duration::ZERO }
    }
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
