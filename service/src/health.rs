//! Whether the process is alive, and whether it should get work.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Alive as long as it answers; ready once every named part has said so and nobody drains it.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    parts: BTreeMap<&'static str, Result<(), String>>,
    started: bool,
    draining: bool,
}

impl Health {
    /// Nothing is ready yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// A part works.
    pub fn part_ready(&self, part: &'static str) {
        self.with(|s| s.parts.insert(part, Ok(())));
    }

    /// A part does not work, and why.
    pub fn part_failed(&self, part: &'static str, why: impl Into<String>) {
        self.with(|s| s.parts.insert(part, Err(why.into())));
    }

    /// Starting is over.
    pub fn started(&self) {
        self.with(|s| s.started = true);
    }

    /// No more work, please.
    pub fn draining(&self) {
        self.with(|s| s.draining = true);
    }

    /// `Ok` where the process should get work, else the reasons why not.
    ///
    /// # Errors
    /// One line per reason.
    pub fn readiness(&self) -> Result<(), Vec<String>> {
        self.with(|s| {
            let mut why = Vec::new();
            if s.draining {
                why.push("draining".to_owned());
            } else if !s.started {
                why.push("starting".to_owned());
            }
            why.extend(s.parts.iter().filter_map(|(part, state)| state.as_ref().err().map(|e| format!("{part}: {e}"))));
            if why.is_empty() { Ok(()) } else { Err(why) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Health;

    #[test]
    fn ready_means_started_and_whole_and_not_draining() {
        let health = Health::new();
        assert_eq!(health.readiness().unwrap_err(), ["starting"]);
        health.part_failed("log", "away");
        health.started();
        assert_eq!(health.readiness().unwrap_err(), ["log: away"]);
        health.part_ready("log");
        assert!(health.readiness().is_ok());
        health.draining();
        assert_eq!(health.readiness().unwrap_err(), ["draining"]);
    }
}
