//! Whether the process is alive, and whether it should get work.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

/// Alive as long as it answers; ready once every named part has said so and nobody drains it.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    parts: BTreeMap<&'static str, Result<(), String>>,
    started: bool,
    draining: bool,
    probes: Vec<Probe>,
    doubts: Vec<Probe>,
}

/// Says, when asked, what a part does without just now.
struct Probe {
    part: &'static str,
    ask: Box<dyn Fn() -> Option<String> + Send>,
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Probe").field(&self.part).finish()
    }
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

    /// From now on `ask` says what `part` does without, though the process does its work all the same.
    pub fn degraded_while(&self, part: &'static str, ask: impl Fn() -> Option<String> + Send + 'static) {
        self.with(|s| s.probes.push(Probe { part, ask: Box::new(ask) }));
    }

    /// From now on `ask` says why `part` keeps the process from its work, while it does.
    pub fn fails_while(&self, part: &'static str, ask: impl Fn() -> Option<String> + Send + 'static) {
        self.with(|s| s.doubts.push(Probe { part, ask: Box::new(ask) }));
    }

    /// What the process does without just now, one line each; it should get work all the same.
    #[must_use]
    pub fn degradations(&self) -> Vec<String> {
        self.with(|s| s.probes.iter().filter_map(|probe| Some(format!("{}: {}", probe.part, (probe.ask)()?))).collect())
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
            why.extend(s.doubts.iter().filter_map(|doubt| Some(format!("{}: {}", doubt.part, (doubt.ask)()?))));
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

    #[test]
    fn a_part_may_fail_for_a_while_and_says_why() {
        let health = Health::new();
        let failing = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        let asked = std::sync::Arc::clone(&failing);
        health.fails_while("log", move || asked.load(std::sync::atomic::Ordering::Relaxed).then(|| "away".to_owned()));
        health.started();
        assert_eq!(health.readiness().unwrap_err(), ["log: away"]);
        failing.store(false, std::sync::atomic::Ordering::Relaxed);
        assert!(health.readiness().is_ok());
    }

    #[test]
    fn what_is_degraded_is_ready_and_says_so() {
        let health = Health::new();
        let away = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let asked = std::sync::Arc::clone(&away);
        health.degraded_while("log", move || asked.load(std::sync::atomic::Ordering::Relaxed).then(|| "away".to_owned()));
        health.started();
        assert!(health.degradations().is_empty());
        away.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(health.degradations(), ["log: away"]);
        assert!(health.readiness().is_ok());
    }
}
