//! One key's windows.
//!
//! Promises: items leave in the order in which they came; a window is a run of consecutive items of one group and one tenant
//! within the bounds, or a single item; only the last window grows, and one that was out grows no more.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::holdings::Holding;
use super::timers::Timer;
use super::{Scheduled, WindowBounds, Windowing};

/// Further away than anything waits for: for bounds of time that mean "never".
const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// What may still join a window.
#[derive(Debug)]
struct Growth {
    group: u64,
    messages: usize,
    first_at: Instant,
    last_at: Instant,
    /// Which push began it.
    begun_by: u64,
}

#[derive(Debug)]
pub(super) struct Window<T> {
    pub(super) tenant: Arc<str>,
    pub(super) items: Vec<T>,
    pub(super) cost: u64,
    growth: Option<Growth>,
}

impl<T: Scheduled> Window<T> {
    fn new(item: T, now: Instant, push: u64) -> Self {
        let growth = match item.window() {
            Windowing::With { group, messages } => {
                Some(Growth { group, messages: count(messages), first_at: now, last_at: now, begun_by: push })
            }
            Windowing::Alone | Windowing::Closes => None,
        };
        Self { tenant: Arc::clone(item.tenant()), cost: cost(&item), items: vec![item], growth }
    }

    /// One that was out, as it was.
    fn again(items: Vec<T>) -> Option<Self> {
        let tenant = Arc::clone(items.first()?.tenant());
        let worked = items.iter().filter(|item| item.window() != Windowing::Closes);
        Some(Self { tenant, cost: worked.map(cost).fold(0, u64::saturating_add).max(1), items, growth: None })
    }

    /// Whether it is not to be waited for: nothing can join it, or it was begun by a push before this one.
    pub(super) fn is_closed(&self, before_push: u64) -> bool {
        self.growth.as_ref().is_none_or(|growth| growth.begun_by < before_push)
    }

    /// When its time is over; none where nothing can join it.
    pub(super) fn closes_at(&self, bounds: &WindowBounds) -> Option<Instant> {
        let growth = self.growth.as_ref()?;
        Some((growth.last_at + bounds.idle.min(NEVER)).min(growth.first_at + bounds.age.min(NEVER)))
    }

    /// Takes an item on, or gives it back.
    fn join(&mut self, item: T, bounds: &WindowBounds, now: Instant) -> Option<T> {
        let Some(growth) = self.growth.as_mut().filter(|_| self.tenant == *item.tenant()) else { return Some(item) };
        match item.window() {
            Windowing::Alone => return Some(item),
            Windowing::Closes => self.growth = None,
            Windowing::With { group, messages } => {
                let with_it = (growth.messages.saturating_add(count(messages)), self.cost.saturating_add(cost(&item)));
                if growth.group != group || with_it.0 > bounds.messages || with_it.1 > bounds.cost {
                    return Some(item);
                }
                (growth.messages, self.cost) = with_it;
                growth.last_at = now;
            }
        }
        self.items.push(item);
        None
    }

    /// Closes it where it has come up to its bounds.
    fn bound(&mut self, bounds: &WindowBounds) {
        let (events, cost) = (self.items.len(), self.cost);
        self.growth.take_if(|growth| events >= bounds.events || growth.messages >= bounds.messages || cost >= bounds.cost);
    }
}

fn count(messages: u32) -> usize {
    usize::try_from(messages).unwrap_or(usize::MAX)
}

fn cost<T: Scheduled>(item: &T) -> u64 {
    item.cost().max(1)
}

/// Where a key stands.
#[derive(Debug)]
pub(super) enum State {
    /// Not looked at since it changed.
    Changed,
    /// Its first window may still grow, until then.
    Open(Timer),
    /// In its tenant's round.
    Ready,
    /// A window is out: whose, and what it holds.
    Out(Arc<str>, Holding),
    /// Its first window is tried again then.
    Parked(Timer),
}

#[derive(Debug)]
pub(super) struct Queue<T> {
    windows: VecDeque<Window<T>>,
    pub(super) state: State,
}

impl<T: Scheduled> Queue<T> {
    pub(super) fn new() -> Self {
        Self { windows: VecDeque::new(), state: State::Changed }
    }

    /// Puts an item behind all others: the `push`-th that the schedule was given.
    pub(super) fn push(&mut self, item: T, bounds: &WindowBounds, now: Instant, push: u64) {
        let left = match self.windows.back_mut() {
            Some(last) => last.join(item, bounds, now),
            None => Some(item),
        };
        if let Some(item) = left {
            if let Some(last) = self.windows.back_mut() {
                last.growth = None;
            }
            self.windows.push_back(Window::new(item, now, push));
        }
        if let Some(last) = self.windows.back_mut() {
            last.bound(bounds);
        }
    }

    /// Puts a window that was out before all others.
    pub(super) fn push_front(&mut self, items: Vec<T>) {
        if let Some(window) = Window::again(items) {
            self.windows.push_front(window);
        }
    }

    pub(super) fn first(&self) -> Option<&Window<T>> {
        self.windows.front()
    }

    pub(super) fn pop(&mut self) -> Option<Window<T>> {
        self.windows.pop_front()
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = Window<T>> {
        self.windows.drain(..)
    }
}
