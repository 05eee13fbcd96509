//! How much the double takes at once and per minute. Whoever asks is not told but by refusals, by waiting, and by headers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::response::Response;
use http::{HeaderName, HeaderValue, header};
use tokio::sync::Notify;

use super::validate::error;

/// What is beyond the double's capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// 429, with this `Retry-After` in seconds, if any.
    Refused {
        /// In seconds.
        retry_after: Option<u64>,
    },
    /// It waits until there is room.
    Queued,
}

/// Requests per minute, counted by a bucket.
#[derive(Clone, Copy, Debug)]
pub struct PerMinute {
    /// So many.
    pub requests: f64,
    /// What may come at once.
    pub burst: f64,
    /// Whether answers tell what is left, in `x-ratelimit-*`.
    pub tells: bool,
}

/// What it takes.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Requests at once; none: any number.
    pub slots: Option<usize>,
    /// What becomes of the rest.
    pub beyond: Beyond,
    /// Requests per minute; what is beyond is refused with `Retry-After`.
    pub per_minute: Option<PerMinute>,
}

impl Default for Capacity {
    fn default() -> Self {
        Self { slots: None, beyond: Beyond::Queued, per_minute: None }
    }
}

struct State {
    capacity: Capacity,
    served: usize,
    bucket: f64,
    filled_at: Instant,
}

/// The capacity in force, and what it is used for.
#[derive(Clone)]
pub(super) struct Gate(Arc<(Mutex<State>, Notify)>);

/// One request's place. Given back when it is dropped.
pub(super) struct Place(Gate);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.state().served -= 1;
        self.0.0.1.notify_waiters();
    }
}

impl Default for Gate {
    fn default() -> Self {
        let state = State { capacity: Capacity::default(), served: 0, bucket: 0.0, filled_at: Instant::now() };
        Self(Arc::new((Mutex::new(state), Notify::new())))
    }
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it takes this much.
    pub(super) fn set(&self, capacity: Capacity) {
        let mut state = self.state();
        state.capacity = capacity;
        state.bucket = capacity.per_minute.map_or(0.0, |per_minute| per_minute.burst);
        state.filled_at = Instant::now();
        drop(state);
        self.0.1.notify_waiters();
    }

    /// A place, at once or later; or the refusal.
    pub(super) async fn enter(&self) -> Result<Place, Response> {
        let limited = || error(429, "rate_limit_exceeded", None, "Rate limit reached for requests");
        let over = self.state().take_of_minute();
        if let Some(wait) = over {
            let mut response = limited();
            set(&mut response, header::RETRY_AFTER, &format!("{}", wait.as_secs_f64().ceil()));
            self.tell(&mut response);
            return Err(response);
        }
        loop {
            let moved = self.0.1.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            {
                let mut state = self.state();
                if state.capacity.slots.is_none_or(|slots| state.served < slots) {
                    state.served += 1;
                    return Ok(Place(self.clone()));
                }
                if let Beyond::Refused { retry_after } = state.capacity.beyond {
                    let mut response = limited();
                    if let Some(seconds) = retry_after {
                        set(&mut response, header::RETRY_AFTER, &seconds.to_string());
                    }
                    return Err(response);
                }
            }
            moved.await;
        }
    }

    /// Adds what is left to an answer.
    pub(super) fn tell(&self, response: &mut Response) {
        let mut state = self.state();
        let Some(per_minute) = state.capacity.per_minute.filter(|per_minute| per_minute.tells) else { return };
        state.fill(per_minute);
        let left = state.bucket.max(0.0);
        let reset = (per_minute.burst - left) / (per_minute.requests / 60.0);
        for (name, value) in [
            ("x-ratelimit-limit-requests", format!("{}", per_minute.burst.floor())),
            ("x-ratelimit-remaining-requests", format!("{}", left.floor())),
            ("x-ratelimit-reset-requests", format!("{}ms", (reset * 1e3).ceil())),
        ] {
            set(response, HeaderName::from_static(name), &value);
        }
    }
}

impl State {
    fn fill(&mut self, per_minute: PerMinute) {
        let passed = self.filled_at.elapsed().as_secs_f64();
        self.filled_at = Instant::now();
        self.bucket = (self.bucket + passed * per_minute.requests / 60.0).min(per_minute.burst);
    }

    /// Takes one of the minute's requests; where there is none, how long until there is.
    fn take_of_minute(&mut self) -> Option<Duration> {
        let per_minute = self.capacity.per_minute?;
        self.fill(per_minute);
        if self.bucket >= 1.0 {
            self.bucket -= 1.0;
            return None;
        }
        Some(Duration::from_secs_f64((1.0 - self.bucket) / (per_minute.requests / 60.0)))
    }
}

fn set(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}
