//! How an endpoint stands: what is wrong with it where an operator must act, or where it does not pass. Given the time.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What is wrong is said again this often.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// Trouble that should pass, and has not for so long, is worth a complaint.
const PASSES_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
struct State {
    complaint: Option<String>,
    said_at: Option<Instant>,
    unanswered: Option<Unanswered>,
}

/// Calls that passing trouble left without an answer, with none answered in between.
#[derive(Debug)]
struct Unanswered {
    first: Instant,
    last: Instant,
    why: String,
}

/// Shared by all calls to one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Standing(Mutex<State>);

impl Standing {
    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A call was answered. Whether something had been wrong until then.
    pub(crate) fn answered(&self) -> bool {
        self.with(|state| {
            state.said_at = None;
            state.unanswered = None;
            state.complaint.take().is_some()
        })
    }

    /// Something is wrong that only an operator can mend. Whether it is time to say so.
    pub(crate) fn complain(&self, now: Instant, what: &str) -> bool {
        self.with(|state| {
            let is_due = state.said_at.is_none_or(|at| now.duration_since(at) >= SAY_AGAIN);
            if is_due {
                state.said_at = Some(now);
            }
            state.complaint = Some(what.to_owned());
            is_due
        })
    }

    /// A call was not answered, for a reason that should pass.
    pub(crate) fn unanswered(&self, now: Instant, why: &str) {
        self.with(|state| {
            let first = state.unanswered.as_ref().map_or(now, |unanswered| unanswered.first);
            state.unanswered = Some(Unanswered { first, last: now, why: why.to_owned() });
        });
    }

    /// What is wrong now: what an operator must mend, or what does not pass.
    pub(crate) fn complaint(&self) -> Option<String> {
        self.with(|state| {
            let lasting = || state.unanswered.as_ref().filter(|u| u.last.duration_since(u.first) >= PASSES_WITHIN);
            state.complaint.clone().or_else(|| lasting().map(|unanswered| unanswered.why.clone()))
        })
    }

    /// Whether nothing is wrong that only an operator can mend.
    pub(crate) fn is_usable(&self) -> bool {
        self.with(|state| state.complaint.is_none())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Standing;

    #[test]
    fn what_is_wrong_is_said_once_a_minute_until_it_works() {
        let (standing, start) = (Standing::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(standing.complain(at(0), "key"));
        assert!(!standing.complain(at(59), "key"));
        assert!(standing.complain(at(61), "quota"));
        assert_eq!(standing.complaint().as_deref(), Some("quota"));
        assert!(standing.answered());
        assert!(!standing.answered());
        assert_eq!(standing.complaint(), None);
        assert!(standing.is_usable());
        assert!(standing.complain(at(75), "key"), "a new trouble is said at once");
    }

    #[test]
    fn what_should_pass_is_complained_of_where_it_does_not() {
        let (standing, start) = (Standing::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        standing.unanswered(at(0), "away");
        standing.unanswered(at(1), "away");
        assert_eq!(standing.complaint(), None);
        standing.answered();
        standing.unanswered(at(3), "away");
        assert_eq!(standing.complaint(), None, "there was an answer in between");
        standing.unanswered(at(5), "still away");
        assert_eq!(standing.complaint().as_deref(), Some("still away"));
        standing.answered();
        assert_eq!(standing.complaint(), None);
    }
}
