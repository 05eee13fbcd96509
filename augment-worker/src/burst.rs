//! A burst of dead letters pauses the worker: a wrong deploy, a model that has changed or a producer that writes nonsense would
//! otherwise empty the topic into dead letters.
//!
//! Promises: of one cause at most so many letters are written in a minute before the worker pauses, unless most events come through
//! meanwhile; what would be one letter more is tried again and lost to nobody. After a pause a few events are tried and a few letters
//! allowed; while those still fail the pauses double, so that even a long night costs few of them. A restart begins anew.

mod machine;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use memori_event_log::driver::LiveBound;
use memori_schemas::DeadLetterClass;
use memori_service::settings;
use tokio::sync::Notify;
use tokio::time::Instant;

pub use machine::BurstLimits;
use machine::{Machine, Phase};

use crate::metrics;

impl BurstLimits {
    /// As the operator configured it.
    #[must_use]
    pub fn from_settings(worker: &settings::Worker) -> Self {
        Self {
            letters: worker.dead_letter_burst,
            share_percent: worker.dead_letter_burst_percent,
            pause: Duration::from_millis(worker.dead_letter_pause_ms),
        }
    }
}

/// The machine with a clock and what it moves. Clones are the same.
#[derive(Clone, Debug)]
pub struct Burst(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    machine: Mutex<Machine>,
    began: Instant,
    /// Told when the phase may have changed.
    moved: Notify,
    /// How much may be in flight on its account.
    bound: LiveBound,
}

impl Burst {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(limits: BurstLimits) -> Self {
        let bound = LiveBound::new(usize::MAX);
        Self(Arc::new(Shared { machine: Mutex::new(Machine::new(limits)), began: Instant::now(), moved: Notify::new(), bound }))
    }

    /// How much may be in flight on its account.
    #[must_use]
    pub fn bound(&self) -> LiveBound {
        self.0.bound.clone()
    }

    /// While it is paused: what happened and what to do.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        self.machine(|machine, _| match machine.phase() {
            Phase::Paused { .. } => machine.what_happened(),
            Phase::Watching | Phase::Trying { .. } => None,
        })
    }

    /// While it goes on with care: what happened.
    #[must_use]
    pub fn caution(&self) -> Option<String> {
        self.machine(|machine, _| match machine.phase() {
            Phase::Trying { .. } => machine.what_happened(),
            Phase::Watching | Phase::Paused { .. } => None,
        })
    }

    /// Events came through.
    pub(crate) fn came_through(&self, events: usize) {
        let events = u32::try_from(events).unwrap_or(u32::MAX);
        let moved = self.machine(|machine, now| {
            let before = machine.phase();
            machine.came_through(events, now);
            machine.phase() != before
        });
        if moved {
            self.0.moved.notify_one();
        }
    }

    /// Whether one more letter may be written, which it is then.
    ///
    /// # Errors
    /// How long its event waits instead.
    pub(crate) fn bury(&self, class: DeadLetterClass) -> Result<(), Duration> {
        let verdict = self.machine(|machine, now| machine.bury(class, now));
        if verdict.is_err() {
            // At once: what is in flight by the time that the other task is told would be work for nothing.
            self.0.bound.set(self.machine(|machine, _| machine.bound()));
            self.0.moved.notify_one();
        }
        verdict
    }

    /// Moves the bound as the phases go, and tells of them, for as long as it is polled.
    pub(crate) async fn tend(&self) {
        let mut shown = Phase::Watching;
        loop {
            let (phase, bound, wakes_in, why) = self.machine(|machine, now| {
                machine.tick(now);
                (machine.phase(), machine.bound(), machine.wakes_in(now), machine.what_happened())
            });
            self.0.bound.set(bound);
            metrics::dead_letter_burst(phase != Phase::Watching);
            if phase != shown {
                let why = why.unwrap_or_default();
                match phase {
                    Phase::Paused { .. } => tracing::error!(why, "too many dead letters: the worker takes nothing new"),
                    Phase::Trying { .. } => tracing::warn!(why, "trying a few events after a burst of dead letters"),
                    Phase::Watching => tracing::info!("events come through again after a burst of dead letters"),
                }
                shown = phase;
            }
            tokio::select! {
                () = self.0.moved.notified() => {}
                () = tokio::time::sleep(wakes_in.unwrap_or(Duration::from_secs(3_600))) => {}
            }
        }
    }

    fn machine<T>(&self, f: impl FnOnce(&mut Machine, Duration) -> T) -> T {
        let now = self.0.began.elapsed();
        f(&mut self.0.machine.lock().unwrap_or_else(PoisonError::into_inner), now)
    }
}
