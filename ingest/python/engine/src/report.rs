//! What an engine tells of itself: notices for the log, counters and levels.

use std::time::Instant;

use serde_json::{Value, json};

use crate::engine::{Engine, Phase, lock};
use crate::notices::Level;
use crate::stats::add;

impl Engine {
    /// Tells the user something, at most once a minute for each kind.
    pub(crate) fn note(&self, kind: &'static str, level: Level, text: impl FnOnce() -> String) {
        lock(&self.notices).note(Instant::now(), kind, level, text);
    }

    /// What is worth logging since last asked.
    #[must_use]
    pub fn notices(&self) -> Vec<(u8, String)> {
        lock(&self.notices).take().into_iter().map(|(level, text)| (level.number(), text)).collect()
    }

    /// A failure of our own was kept from the caller.
    pub fn internal_error(&self, what: &str) {
        add(&self.stats.internal_errors, 1);
        self.note("internal", Level::Error, || format!("memory failed inside, and stood aside: {what}"));
    }

    /// Counters, levels and knobs.
    #[must_use]
    pub fn stats_json(&self) -> String {
        let mut shown = self.stats.to_json();
        let (events, bytes) = {
            let queue = lock(&self.queue);
            (queue.events(), queue.bytes())
        };
        let (open, members) = {
            let ledger = lock(&self.ledger);
            (ledger.open(), ledger.members())
        };
        let running = lock(&self.running).clone();
        let (phase, system, why) = match running.as_ref().map(|running| running.phase.borrow().clone()) {
            None => ("closed", None, None),
            Some(Phase::Starting) => ("starting", None, None),
            Some(Phase::Failed(why)) => ("failed", None, Some(why)),
            Some(Phase::Up(system)) => ("up", Some(system), None),
        };
        let now = Instant::now();
        let away = lock(&self.reach).away_for(now).map(|(for_, why)| json!({"for_ms": for_.as_millis(), "why": why}));
        let knobs = *lock(&self.knobs);
        let more = json!({
            "place": self.config.place(),
            "phase": phase,
            "last_error": why.or_else(|| system.as_ref().and_then(|system| system.complaint())),
            "away": away,
            "queue": {"events": events, "bytes": bytes, "max_events": self.config.queue_events, "max_bytes": self.config.queue_bytes},
            "open": open,
            "members": members,
            "reading_ahead": lock(&self.reading_ahead).len(),
            "workers": {"asked": knobs.workers},
            "batch_rows": {"asked": knobs.batch_rows},
            "system": system.map(|system| system.shown()),
            "recall_deadline_ms": self.config.recall_deadline.as_millis(),
        });
        if let Value::Object(more) = more {
            shown.extend(more);
        }
        Value::Object(shown).to_string()
    }
}
