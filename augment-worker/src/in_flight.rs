//! Which events are being extracted right now: what the embedded process answers as `extracting`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Events = HashMap<(Arc<str>, Arc<str>), usize>;

/// Shared between the worker and whoever answers for it. As small as the worker's concurrency.
#[derive(Clone, Debug)]
pub struct InFlight(Option<Arc<Mutex<Events>>>);

impl Default for InFlight {
    fn default() -> Self {
        Self::new()
    }
}

impl InFlight {
    /// Nothing is in flight.
    #[must_use]
    pub fn new() -> Self {
        Self(Some(Arc::default()))
    }

    /// For a process in which nobody asks: nothing is remembered.
    #[must_use]
    pub const fn unasked() -> Self {
        Self(None)
    }

    /// Whether the tenant's event is being extracted.
    #[must_use]
    pub fn contains(&self, tenant: &str, event_id: &str) -> bool {
        self.0.as_deref().is_some_and(|events| locked(events).contains_key(&(Arc::from(tenant), Arc::from(event_id))))
    }

    /// Until the answer is dropped the event is in flight.
    pub(crate) fn enter(&self, tenant: &str, event_id: &str) -> Option<Entered> {
        let events = Arc::clone(self.0.as_ref()?);
        let key = (Arc::from(tenant), Arc::from(event_id));
        *locked(&events).entry((Arc::clone(&key.0), Arc::clone(&key.1))).or_default() += 1;
        Some(Entered { events, key })
    }
}

fn locked(events: &Mutex<Events>) -> MutexGuard<'_, Events> {
    events.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One event's stay.
#[derive(Debug)]
pub(crate) struct Entered {
    events: Arc<Mutex<Events>>,
    key: (Arc<str>, Arc<str>),
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut events = locked(&self.events);
        // Two copies of an event (a race, both lanes) may be in flight together.
        if let Some(n) = events.get_mut(&self.key) {
            *n -= 1;
            if *n == 0 {
                events.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::InFlight;

    #[test]
    fn two_copies_are_in_flight_until_both_have_left() {
        let events = InFlight::new();
        let (a, b) = (events.enter("t", "1"), events.enter("t", "1"));
        assert!(events.contains("t", "1") && !events.contains("u", "1"));
        drop(a);
        assert!(events.contains("t", "1"));
        drop(b);
        assert!(!events.contains("t", "1"));
    }
}
