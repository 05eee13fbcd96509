//! What is worth telling the user of the library, for their own log.
//!
//! Promises: pure; a kind is told at most once a minute, with how often it happened since; at most [`MAX_KEPT`] wait to be read.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// How long a kind is quiet after it was told.
const QUIET: Duration = Duration::from_mins(1);
/// The most that wait to be read.
pub const MAX_KEPT: usize = 64;

/// Levels as Python's `logging` numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// 20.
    Info,
    /// 30.
    Warning,
    /// 40.
    Error,
}

impl Level {
    /// Its number.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Info => 20,
            Self::Warning => 30,
            Self::Error => 40,
        }
    }
}

/// Kinds are names in this code, so their number is bounded.
#[derive(Debug, Default)]
pub struct Notices {
    told: HashMap<&'static str, Told>,
    waiting: VecDeque<(Level, String)>,
}

#[derive(Debug)]
struct Told {
    at: Instant,
    since: u64,
}

impl Notices {
    /// Something happened.
    pub fn note(&mut self, now: Instant, kind: &'static str, level: Level, text: impl FnOnce() -> String) {
        let since = match self.told.get_mut(kind) {
            Some(told) if now.duration_since(told.at) < QUIET => {
                told.since += 1;
                return;
            }
            Some(told) => told.since,
            None => 0,
        };
        self.told.insert(kind, Told { at: now, since: 0 });
        if self.waiting.len() >= MAX_KEPT {
            self.waiting.pop_front();
        }
        let mut text = text();
        if since > 0 {
            text.push_str(&format!(" (and {since} times more since this was last said)"));
        }
        self.waiting.push_back((level, text));
    }

    /// What was not read yet, oldest first.
    pub fn take(&mut self) -> Vec<(Level, String)> {
        self.waiting.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_told_once_a_minute_and_says_how_often_it_happened() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut notices = Notices::default();
        for second in [0, 1, 59, 60, 61, 200] {
            notices.note(at(second), "full", Level::Warning, || format!("at {second}"));
        }
        notices.note(at(1), "other", Level::Info, || "other".to_owned());
        let said: Vec<String> = notices.take().into_iter().map(|(_, text)| text).collect();
        assert_eq!(
            said,
            [
                "at 0",
                "at 60 (and 2 times more since this was last said)",
                "at 200 (and 1 times more since this was last said)",
                "other"
            ]
        );
        assert!(notices.take().is_empty());
    }

    #[test]
    fn what_nobody_reads_is_bounded() {
        let start = Instant::now();
        let mut notices = Notices::default();
        for n in 0..1_000_u32 {
            notices.note(start + QUIET * n, "k", Level::Error, || n.to_string());
        }
        assert_eq!(notices.take().len(), MAX_KEPT);
    }
}
