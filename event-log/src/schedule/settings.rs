//! What a schedule is told: how records gather in windows, whose turn counts how much, what each lane is left.

use std::collections::BTreeMap;
use std::time::Duration;

/// How a record goes into windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windowing {
    /// A window of its own.
    Alone,
    /// Goes with its key's neighbours of the same group, as long as the bounds allow.
    With {
        /// What must be the same in a window: a session.
        group: u64,
        /// Messages it counts for.
        messages: u32,
    },
    /// Closes the window before it in its key and goes with it; has no work of its own (a flush record).
    Closes,
}

/// When a window closes. A record that alone is beyond them is a window of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowBounds {
    /// Records; 1 closes each at once.
    pub events: usize,
    /// Messages.
    pub messages: usize,
    /// Estimated tokens.
    pub cost: u64,
    /// Since its last record came.
    pub idle: Duration,
    /// Since its first record came.
    pub age: Duration,
}

impl WindowBounds {
    /// Every record a window of its own.
    pub const SINGLE: Self = Self { events: 1, messages: usize::MAX, cost: u64::MAX, idle: Duration::ZERO, age: Duration::ZERO };
}

impl Default for WindowBounds {
    fn default() -> Self {
        Self::SINGLE
    }
}

/// How tenants take turns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fairness {
    /// Cost that one turn at weight 1 is good for. From the cost of a usual window on, finding whose turn it is costs the same
    /// however many wait; smaller is fairer over short times.
    pub quantum: u64,
    /// Tenants with a share of their own.
    pub tenants: BTreeMap<String, Share>,
    /// The share of all others.
    pub default: Share,
}

impl Default for Fairness {
    fn default() -> Self {
        Self { quantum: 2_000, tenants: BTreeMap::new(), default: Share::default() }
    }
}

/// What one tenant gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Turns at this many quanta; at least 1.
    pub weight: u32,
    /// Windows in flight at most, over both lanes; at least 1.
    pub max_in_flight: Option<usize>,
}

impl Default for Share {
    fn default() -> Self {
        Self { weight: 1, max_in_flight: None }
    }
}

/// What each lane is left of the bound in force. Each is at least 1, and both together at most 100: live is cut first to 99, then
/// backfill to what is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneFloors {
    /// Kept free of backfill, so that a live event finds a place at once.
    pub live_percent: u32,
    /// What backfill gets while it has something ready, however much waits in the live lane.
    pub backfill_percent: u32,
}

impl Default for LaneFloors {
    fn default() -> Self {
        Self { live_percent: 10, backfill_percent: 10 }
    }
}
